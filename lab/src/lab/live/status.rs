//! How a lab is: its hosts, what goes through their ports, sessions, drops and buffers.
//!
//! In and out are the network's: what came in by a pod's port is what the pod sent. Rates are those between the two
//! newest samples, which the supervisor takes once a second.

use crate::{
    lab::spec::LabSpec,
    output::{Listing, Style, or_dash},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    num::NonZeroU32,
    time::Instant,
};
use supernet::{Counters, Handle, Quota, dataplane::counters::PortCounters};

/// How a lab is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Status {
    /// The lab.
    pub(crate) lab: String,
    /// Its supervisor's process.
    pub(crate) pid: u32,
    /// Since it was started.
    pub(crate) uptime_seconds: u64,
    /// Threads that move packets.
    pub(crate) workers: usize,
    /// Pods and nodes.
    pub(crate) hosts: Vec<HostStatus>,
    /// What goes through the ports of hosts and uplinks.
    pub(crate) ports: Vec<PortStatus>,
    /// Connections.
    pub(crate) sessions: SessionStatus,
    /// Pods and namespaces that have limits of connections.
    pub(crate) limits: Vec<LimitStatus>,
    /// What was dropped, by reason, the most first.
    pub(crate) drops: Vec<DropStatus>,
    /// Buffers for frames.
    pub(crate) frames: FrameStatus,
}

/// A pod or node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HostStatus {
    /// "NAMESPACE/POD" or "node/NODE".
    pub(crate) name: String,
    /// The workload of a pod, "NAMESPACE/NAME".
    pub(crate) workload: Option<String>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The node whose network the pod uses.
    pub(crate) node: Option<String>,
    /// Whether its port is attached to the network; that of its node, if it uses the node's.
    pub(crate) attached: bool,
}

/// A port of a host or uplink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PortStatus {
    /// "NAMESPACE/POD", "node/NODE" or "uplink/UPLINK".
    pub(crate) name: String,
    /// Whether it is attached to the network.
    pub(crate) attached: bool,
    /// What came from there into the network.
    #[serde(rename = "in")]
    pub(crate) input: Flow,
    /// What the network sent there.
    #[serde(rename = "out")]
    pub(crate) output: Flow,
    /// Packets that came in and were dropped.
    pub(crate) dropped: u64,
}

/// Packets in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Flow {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) packets_per_second: f64,
    pub(crate) bytes_per_second: f64,
}

/// Connections that are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SessionStatus {
    /// All of them.
    pub(crate) count: u64,
    /// As many as there may be.
    pub(crate) most: usize,
    /// By protocol and state.
    pub(crate) kinds: Vec<SessionKind>,
}

/// Connections of one protocol in one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SessionKind {
    /// "TCP".
    pub(crate) protocol: String,
    /// "established".
    pub(crate) state: String,
    /// How many.
    pub(crate) count: u64,
}

/// What a pod or namespace has of connections, and may have; `None`: any number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LimitStatus {
    /// "NAMESPACE/POD" or "namespace NAMESPACE".
    pub(crate) name: String,
    pub(crate) connections: u32,
    pub(crate) max_connections: Option<u32>,
    pub(crate) half_open: u32,
    pub(crate) max_half_open: Option<u32>,
    pub(crate) max_new_per_second: Option<u32>,
    /// Packets that would have opened one more, and were dropped for a limit of its own.
    pub(crate) refused: u64,
}

/// Packets dropped for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DropStatus {
    /// The reason's name: "IngressDenied".
    pub(crate) reason: String,
    /// In words.
    pub(crate) meaning: String,
    pub(crate) packets: u64,
    pub(crate) packets_per_second: f64,
}

/// Buffers for frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FrameStatus {
    pub(crate) free: usize,
    pub(crate) all: usize,
}

/// The two newest samples of what was counted.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(Instant, Counters)>);

impl Samples {
    /// Takes another one.
    pub(super) fn take(&mut self, counters: Counters) {
        self.0.push_back((Instant::now(), counters));
        while self.0.len() > 2 {
            self.0.pop_front();
        }
    }

    /// How much something grows a second.
    fn rate(&self, of: impl Fn(&Counters) -> u64) -> f64 {
        let (Some((then, before)), Some((now, after))) = (self.0.front(), self.0.back()) else { return 0.0 };
        let seconds = now.duration_since(*then).as_secs_f64();
        if seconds > 0.0 { of(after).saturating_sub(of(before)) as f64 / seconds } else { 0.0 }
    }
}

impl Status {
    /// How `net` is, whose hosts are those of `spec`.
    pub(super) fn of(lab: &str, began: Instant, net: &Handle, spec: &LabSpec, samples: &Samples) -> Self {
        let config = &net.dataplane().state().config;
        let pool = net.dataplane().pool();
        Self {
            lab: lab.to_owned(),
            pid: std::process::id(),
            uptime_seconds: began.elapsed().as_secs(),
            workers: config.workers,
            hosts: hosts(net, spec),
            ports: ports(net, samples),
            sessions: sessions(net, config.sessions),
            limits: limits(net),
            drops: drops(net, samples),
            frames: FrameStatus { free: pool.available(), all: pool.capacity() },
        }
    }
}

fn hosts(net: &Handle, spec: &LabSpec) -> Vec<HostStatus> {
    let attached: BTreeMap<String, bool> = attached(net);
    let mut all = Vec::new();
    for e in &spec.endpoints {
        let attached = attached.get(&e.name).copied().unwrap_or(false);
        let addresses: Vec<IpAddr> = e.addresses.iter().map(|a| a.addr()).collect();
        let hosted = e.hosted.iter().map(|h| HostStatus {
            name: h.name.clone(),
            workload: h.workload.clone(),
            addresses: addresses.clone(),
            node: Some(e.name.strip_prefix("node/").unwrap_or(&e.name).to_owned()),
            attached,
        });
        all.extend(hosted);
        all.push(HostStatus {
            name: e.name.clone(),
            workload: e.workload.clone(),
            addresses,
            node: None,
            attached,
        });
    }
    all.sort_by(|a, b| (a.name.starts_with("node/"), &a.name).cmp(&(b.name.starts_with("node/"), &b.name)));
    all
}

/// Every port by name, and whether it is attached.
fn attached(net: &Handle) -> BTreeMap<String, bool> {
    let snapshot = net.snapshot();
    let ports = snapshot.names.ports.iter();
    ports.map(|(id, name)| (name.clone(), net.dataplane().is_attached(*id))).collect()
}

fn ports(net: &Handle, samples: &Samples) -> Vec<PortStatus> {
    let (snapshot, counters) = (net.snapshot(), net.counters());
    let ports = snapshot.names.ports.iter().map(|(id, name)| {
        let count = counters.ports.get(id).copied().unwrap_or_default();
        let rate = |of: fn(&PortCounters) -> u64| samples.rate(|c| c.ports.get(id).map_or(0, of));
        PortStatus {
            name: name.clone(),
            attached: net.dataplane().is_attached(*id),
            input: Flow {
                packets: count.received,
                bytes: count.received_bytes,
                packets_per_second: rate(|p| p.received),
                bytes_per_second: rate(|p| p.received_bytes),
            },
            output: Flow {
                packets: count.sent,
                bytes: count.sent_bytes,
                packets_per_second: rate(|p| p.sent),
                bytes_per_second: rate(|p| p.sent_bytes),
            },
            dropped: count.dropped,
        }
    });
    let mut all: Vec<PortStatus> = ports.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn sessions(net: &Handle, most: usize) -> SessionStatus {
    let mut kinds: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for session in net.sessions() {
        *kinds.entry((session.original.proto.to_string(), session.state)).or_default() += 1;
    }
    let kinds: Vec<SessionKind> = kinds
        .into_iter()
        .map(|((protocol, state), count)| SessionKind { protocol, state: state.to_owned(), count })
        .collect();
    SessionStatus { count: kinds.iter().map(|k| k.count).sum(), most, kinds }
}

fn limits(net: &Handle) -> Vec<LimitStatus> {
    let number = |limit: Option<NonZeroU32>| limit.map(NonZeroU32::get);
    let of = |(name, Quota { usage, limits })| LimitStatus {
        name,
        connections: usage.connections,
        max_connections: number(limits.connections),
        half_open: usage.half_open,
        max_half_open: number(limits.half_open),
        max_new_per_second: number(limits.new_per_second),
        refused: usage.refused,
    };
    net.quotas().into_iter().map(of).collect()
}

fn drops(net: &Handle, samples: &Samples) -> Vec<DropStatus> {
    let counters = net.counters();
    let drops = counters.drops.iter().map(|(reason, packets)| DropStatus {
        reason: reason.name().to_owned(),
        meaning: reason.text().to_owned(),
        packets: *packets,
        packets_per_second: samples.rate(|c| c.drops.get(reason).copied().unwrap_or(0)),
    });
    let mut all: Vec<DropStatus> = drops.collect();
    all.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.reason.cmp(&b.reason)));
    all
}

impl Status {
    /// For people.
    pub(super) fn tables(&self, style: Style) -> String {
        let title = format!(
            "{}  process {}, up for {}, {} {}\n\n",
            style.bold(&format!("Lab {}", self.lab)),
            self.pid,
            duration(self.uptime_seconds),
            self.workers,
            if self.workers == 1 { "worker" } else { "workers" },
        );
        let sections = [self.hosts(style), self.ports(style), self.sessions(style), self.limits(style)];
        [title, sections.concat(), self.drops(style), self.frames()].concat()
    }

    fn hosts(&self, style: Style) -> String {
        let columns = ["NAME", "WORKLOAD", "ADDRESSES", "ATTACHED"];
        let mut table = Listing::new("Hosts", &columns, style);
        for host in &self.hosts {
            let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
            let attached = match (host.attached, &host.node) {
                (true, Some(node)) => format!("yes, as node {node}"),
                (true, None) => "yes".to_owned(),
                (false, _) => "no".to_owned(),
            };
            table.row([host.name.clone(), or_dash(host.workload.as_ref()), addresses.join(" "), attached]);
        }
        table.render()
    }

    fn ports(&self, style: Style) -> String {
        let columns = [
            "PORT",
            ">IN",
            ">BYTES",
            ">PACKETS/S",
            ">BIT/S",
            ">OUT",
            ">BYTES",
            ">PACKETS/S",
            ">BIT/S",
            ">DROPPED",
        ];
        let mut table = Listing::new("Traffic: in is what the host sent", &columns, style);
        for p in &self.ports {
            let mut row = vec![p.name.clone()];
            for flow in [&p.input, &p.output] {
                row.push(flow.packets.to_string());
                row.push(scaled(flow.bytes as f64));
                row.push(scaled(flow.packets_per_second));
                row.push(scaled(flow.bytes_per_second * 8.0));
            }
            row.push(p.dropped.to_string());
            table.row(row);
        }
        table.render()
    }

    fn sessions(&self, style: Style) -> String {
        let title = format!("Sessions: {} of {} at most", self.sessions.count, self.sessions.most);
        if self.sessions.kinds.is_empty() {
            return style.bold(&title) + "\n\n";
        }
        let mut table = Listing::new(&title, &["PROTOCOL", "STATE", ">SESSIONS"], style);
        for k in &self.sessions.kinds {
            table.row([k.protocol.clone(), k.state.clone(), k.count.to_string()]);
        }
        table.render()
    }

    fn limits(&self, style: Style) -> String {
        let columns = ["OF", ">CONNECTIONS", ">HALF OPEN", ">NEW A SECOND", ">REFUSED"];
        let mut table = Listing::new("Limits of connections", &columns, style);
        for l in &self.limits {
            let of = |n: u32, limit: Option<u32>| match limit {
                Some(limit) => format!("{n} of {limit}"),
                None => n.to_string(),
            };
            table.row([
                l.name.clone(),
                of(l.connections, l.max_connections),
                of(l.half_open, l.max_half_open),
                l.max_new_per_second.map_or_else(|| "-".to_owned(), |most| format!("at most {most}")),
                l.refused.to_string(),
            ]);
        }
        table.render()
    }

    fn drops(&self, style: Style) -> String {
        let mut table = Listing::new("Dropped", &["REASON", ">PACKETS", ">PACKETS/S", "MEANING"], style);
        for d in &self.drops {
            let rate = scaled(d.packets_per_second);
            table.row([d.reason.clone(), d.packets.to_string(), rate, d.meaning.clone()]);
        }
        table.render()
    }

    fn frames(&self) -> String {
        format!("Frame buffers: {} of {} free\n", self.frames.free, self.frames.all)
    }
}

/// "2 d 3 h", "5 min", "12 s".
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, name) in units {
        if left >= unit {
            parts.push(format!("{} {name}", left / unit));
            left %= unit;
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// A number with three digits or more, in thousands: "812", "1.24k", "38.1M".
fn scaled(number: f64) -> String {
    let mut number = number;
    for unit in ["", "k", "M", "G", "T"] {
        if number < 999.5 || unit == "T" {
            let digits = match number {
                _ if unit.is_empty() => 0,
                n if n < 9.995 => 2,
                n if n < 99.95 => 1,
                _ => 0,
            };
            return format!("{number:.digits$}{unit}");
        }
        number /= 1000.0;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        let said = [0.0, 812.4, 999.4, 999.6, 1240.0, 38_120_000.0, 2e15].map(scaled);
        assert_eq!(said, ["0", "812", "999", "1.00k", "1.24k", "38.1M", "2000T"]);
        assert_eq!([0, 59, 61, 3_600, 90_061].map(duration), ["0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]);
    }
}
