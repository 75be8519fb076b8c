//! What a running lab says of itself to be tested: its hosts, its virtual servers, and what `reach` predicts of them.
//!
//! It is asked once, so all of it is of one moment. Ends and rows are those of [`Reach`], by number.

use super::probes::Probe;
use crate::lab::{
    from_network::NODE,
    spec::{EndpointSpec, LabSpec},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
};
use supernet::{
    Handle, Plan, Reach,
    control::{
        analysis::{
            plan::{VirtualServerKind, VirtualServerPlan},
            trace,
        },
        compile::CompileError,
        model::Protocol,
    },
};

/// What is known of a lab, and predicted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Facts {
    /// Pods with a port of their own, and nodes.
    pub(super) hosts: Vec<Host>,
    /// Addresses of the outside.
    pub(super) world: Vec<IpAddr>,
    /// Virtual servers that speak TCP or UDP.
    pub(super) servers: Vec<Server>,
    /// What the outside sees of namespaces that are translated.
    pub(super) egress: BTreeMap<String, Vec<IpAddr>>,
    /// Sources and destinations of `rows`.
    pub(super) ends: Vec<End>,
    /// Who reaches whom.
    pub(super) rows: Vec<Row>,
    /// What there is and can't be tested.
    pub(super) left_out: LeftOut,
}

/// A pod, or a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Host {
    /// "NAMESPACE/POD" or "node/NODE".
    pub(super) name: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// What the responder is to serve there, and as whom.
    pub(super) ports: Vec<Served>,
}

/// A port that is to be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Served {
    pub(super) protocol: Transport,
    pub(super) port: u16,
    /// Who answers: the host, or a pod that uses its network.
    pub(super) name: String,
    /// Whether names are asked for there.
    pub(super) dns: bool,
}

/// A virtual server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Server {
    /// Its Service's name in `ends`.
    pub(super) name: String,
    /// Whether it is for the inside only.
    pub(super) cluster_ip: bool,
    /// Where it listens.
    pub(super) address: SocketAddr,
    pub(super) protocol: Transport,
    /// Those that take new connections.
    pub(super) members: Vec<Member>,
}

/// A member of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Member {
    /// Its host, if it has one.
    pub(super) host: Option<String>,
    /// Its port there.
    pub(super) port: u16,
    /// Who answers there; `None`: nobody whom we know.
    pub(super) answers: Option<String>,
    /// Whether names are asked for there.
    pub(super) dns: bool,
}

/// A source or destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct End {
    pub(super) name: String,
    pub(super) pods: Vec<String>,
}

/// Pairs of ends that have the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Row {
    pub(super) sources: Vec<usize>,
    pub(super) destinations: Vec<usize>,
    /// The family it is about; `None`: both.
    pub(super) ipv6: Option<bool>,
    /// Open ports, inclusive.
    pub(super) open: Vec<(Transport, u16, u16)>,
    /// Members of the Service that are out of reach.
    pub(super) unreached: usize,
}

/// What can't be tested, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LeftOut {
    /// Ports of pods and Services that speak SCTP, which the responder does not.
    pub(super) sctp_ports: usize,
    /// Pods in the network of their node.
    pub(super) node_pods: usize,
    /// Virtual servers none of whose members is served by the responder.
    pub(super) unserved_servers: usize,
}

/// A protocol that can be tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn of(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Tcp => Some(Self::Tcp),
            Protocol::Udp => Some(Self::Udp),
            Protocol::Sctp => None,
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|t| t.to_string() == name)
    }
}

impl From<Transport> for Protocol {
    fn from(t: Transport) -> Self {
        match t {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Protocol::from(*self).fmt(f)
    }
}

impl Facts {
    /// Of a network that runs with the hosts of `spec`.
    pub(crate) fn of(net: &Handle, spec: &LabSpec) -> Result<Self, CompileError> {
        Ok(Self::new(net.plan()?, &net.reach()?, spec))
    }

    /// Of a network as it was analysed.
    pub(crate) fn new(plan: Plan, reach: &Reach, spec: &LabSpec) -> Self {
        let mut left_out = LeftOut::default();
        let hosts: Vec<Host> = spec.endpoints.iter().map(|e| host(e, &mut left_out)).collect();
        let servers = servers(&plan, &hosts, &mut left_out);
        let (ends, rows) = table(reach);
        let mut egress: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for snat in plan.snat {
            egress.entry(snat.namespace).or_default().push(snat.address);
        }
        Self { hosts, world: spec.outside.addresses.clone(), servers, egress, ends, rows, left_out }
    }
}

impl Host {
    /// Whether it is a node.
    pub(super) fn is_node(&self) -> bool {
        self.name.starts_with(NODE)
    }
}

fn host(spec: &EndpointSpec, left_out: &mut LeftOut) -> Host {
    left_out.node_pods += spec.hosted.len();
    let own = [(&spec.name, &spec.serve, &spec.dns)].into_iter();
    let all = own.chain(spec.hosted.iter().map(|h| (&h.name, &h.serve, &h.dns)));
    let mut ports: Vec<Served> = Vec::new();
    for (name, serve, names) in all {
        for &(protocol, port) in serve {
            let dns = names.contains(&(protocol, port));
            match Transport::of(protocol) {
                None => left_out.sctp_ports += 1,
                // Two pods of a node may want the same port; the first gets it.
                Some(protocol) if ports.iter().any(|p| (p.protocol, p.port) == (protocol, port)) => {}
                Some(protocol) => ports.push(Served { protocol, port, name: name.clone(), dns }),
            }
        }
    }
    Host { name: spec.name.clone(), addresses: spec.addresses.iter().map(|a| a.addr()).collect(), ports }
}

fn servers(plan: &Plan, hosts: &[Host], left_out: &mut LeftOut) -> Vec<Server> {
    let at: HashMap<IpAddr, &Host> =
        hosts.iter().flat_map(|h| h.addresses.iter().map(move |a| (*a, h))).collect();
    let mut servers = Vec::new();
    for plan in &plan.virtual_servers {
        let Some(protocol) = Transport::named(&plan.protocol) else {
            left_out.sctp_ports += 1;
            continue;
        };
        let active = plan.members.iter().filter(|m| m.state == "active");
        let members: Vec<Member> = active
            .map(|m| {
                let host = at.get(&m.address);
                let served =
                    host.and_then(|h| h.ports.iter().find(|p| (p.protocol, p.port) == (protocol, m.port)));
                let answers = served.map(|s| s.name.clone());
                let dns = served.is_some_and(|s| s.dns);
                Member { host: host.map(|h| h.name.clone()), port: m.port, answers, dns }
            })
            .collect();
        if !members.is_empty() && members.iter().all(|m| m.answers.is_none()) {
            left_out.unserved_servers += 1;
            continue;
        }
        servers.push(Server {
            name: service_name(plan),
            cluster_ip: plan.kind == VirtualServerKind::ClusterIP,
            address: SocketAddr::new(plan.vip, plan.port),
            protocol,
            members,
        });
    }
    servers
}

/// What `reach` calls it.
fn service_name(plan: &VirtualServerPlan) -> String {
    match &plan.namespace {
        Some(namespace) => format!("{namespace}/svc/{}", plan.name),
        None => plan.name.clone(),
    }
}

fn table(reach: &Reach) -> (Vec<End>, Vec<Row>) {
    let numbers: HashMap<&str, usize> = reach.ends.iter().enumerate().map(|(n, e)| (&*e.name, n)).collect();
    let number = |names: &[String]| names.iter().filter_map(|n| numbers.get(&**n).copied()).collect();
    let ends = reach.ends.iter().map(|e| End { name: e.name.clone(), pods: e.pods.clone() }).collect();
    let rows = reach.rows.iter().map(|row| Row {
        sources: number(&row.sources),
        destinations: number(&row.destinations),
        ipv6: row.family.map(|family| family == "IPv6"),
        open: row
            .allowed
            .iter()
            .filter_map(|r| Some((Transport::named(&r.protocol)?, r.from, r.to)))
            .collect(),
        unreached: row.unreached_members.unwrap_or(0),
    });
    (ends, rows.collect())
}

/// A connection, to be told what denies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Question {
    /// A pod's name, or `outside`.
    from: String,
    to: SocketAddr,
    transport: Transport,
}

/// Who denies a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Denier {
    /// The policy.
    pub(crate) policy: String,
    /// It tells the sender so.
    pub(crate) rejects: bool,
}

impl Question {
    pub(super) fn of(probe: &Probe) -> Self {
        Self { from: probe.from.clone(), to: probe.address, transport: probe.transport }
    }

    /// Who denies it; `None` if nobody does, or the network knows no such thing.
    pub(crate) fn denied_by(&self, net: &Handle) -> Option<Denier> {
        let (to, port) = (trace::End::Address(self.to.ip()), self.to.port());
        let from = self.from.parse().ok()?;
        let probe = match self.transport {
            Transport::Tcp => trace::Probe::tcp(from, to, port),
            Transport::Udp => trace::Probe::udp(from, to, port),
        };
        let report = net.trace(&probe).ok()?;
        let rejects = report.explanations.iter().any(|explanation| explanation.action == "reject");
        Some(Denier { policy: report.denied_by?.policy, rejects })
    }
}
