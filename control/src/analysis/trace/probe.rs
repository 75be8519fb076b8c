//! What is to be traced: two ends in a person's words, and the packet they stand for.

use super::Members;
use crate::{
    ipam::Addressing,
    model::{Model, Name, ServiceKind},
    place::{Place, Places},
};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};
use supernet_dataplane::{
    flow::{Binding, Bound},
    id::PortId,
    rewrite::Tuple,
    snapshot::{EndpointPort, GATEWAY_MAC, PortRole, Snapshot},
    stage::{self, Event, First, tier0},
    trace::Trace,
    wire::{Mac, Proto},
};

/// The source port of a traced packet (the first ephemeral one, RFC 6335).
const SOURCE_PORT: u16 = 49_152;

/// Addresses that stand for "outside" (documentation ranges, RFC 5737 and RFC 3849).
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10)),
];

/// One end of a traced packet: `outside`, an address, `NS/POD` or `NS/svc/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Somewhere beyond the uplinks.
    Outside,
    /// An address, inside or outside.
    Address(IpAddr),
    /// A pod by its name, its workload's, or a unique prefix.
    Pod(Name),
    /// A Service.
    Service(Name),
}

impl FromStr for End {
    type Err = TraceError;

    /// Reads an end; a name without namespace is in `default`.
    fn from_str(text: &str) -> Result<Self, TraceError> {
        if text.eq_ignore_ascii_case("outside") {
            return Ok(Self::Outside);
        }
        if text.parse::<ipnet::IpNet>().is_ok() {
            return Err(TraceError::Syntax(text.to_owned()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let parts: Vec<&str> = text.split('/').collect();
        match *parts {
            _ if parts.iter().any(|p| p.is_empty()) => Err(TraceError::Syntax(text.to_owned())),
            [name] => Ok(Self::Pod(Name::new("default", name))),
            ["svc", name] => Ok(Self::Service(Name::new("default", name))),
            [namespace, name] => Ok(Self::Pod(Name::new(namespace, name))),
            [namespace, "svc", name] => Ok(Self::Service(Name::new(namespace, name))),
            [namespace, "pod", name] => Ok(Self::Pod(Name::new(namespace, name))),
            _ => Err(TraceError::Syntax(text.to_owned())),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("outside"),
            Self::Address(a) => a.fmt(f),
            Self::Pod(name) => name.fmt(f),
            Self::Service(name) => write!(f, "{}/svc/{}", name.namespace, name.name),
        }
    }
}

/// A packet to be traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Where it starts.
    pub from: End,
    /// Where it is sent.
    pub to: End,
    /// Its protocol; [`Proto::ICMP`] stands for echo of either family.
    pub proto: Proto,
    /// Its destination port; `None` for ICMP, or for a Service that has a single one.
    pub port: Option<u16>,
}

impl Probe {
    /// A TCP connection to a port.
    pub fn tcp(from: End, to: End, port: u16) -> Self {
        Self { from, to, proto: Proto::TCP, port: Some(port) }
    }

    /// A UDP datagram to a port.
    pub fn udp(from: End, to: End, port: u16) -> Self {
        Self { from, to, proto: Proto::UDP, port: Some(port) }
    }

    /// An echo request.
    pub fn icmp(from: End, to: End) -> Self {
        Self { from, to, proto: Proto::ICMP, port: None }
    }
}

impl FromStr for Probe {
    type Err = TraceError;

    /// Reads "FROM -> TO PROTOCOL PORT", the port left out for ICMP: "shop/web -> shop/svc/db TCP 5432".
    fn from_str(text: &str) -> Result<Self, TraceError> {
        let wrong = || TraceError::Syntax(text.to_owned());
        let (from, rest) = text.split_once("->").ok_or_else(wrong)?;
        let mut words = rest.split_whitespace();
        let to = words.next().ok_or_else(wrong)?;
        let proto = match words.next().ok_or_else(wrong)?.to_ascii_lowercase().as_str() {
            "tcp" => Proto::TCP,
            "udp" => Proto::UDP,
            "sctp" => Proto::SCTP,
            "icmp" => Proto::ICMP,
            _ => return Err(wrong()),
        };
        let port = words.next().map(str::parse).transpose().map_err(|_| wrong())?;
        if words.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { from: from.trim().parse()?, to: to.parse()?, proto, port })
    }
}

/// A probe that stands for no packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Not an end.
    #[error("'{0}' is no end of a packet; write NS/POD, NS/svc/NAME, outside, or an IP address")]
    Syntax(String),
    /// No such pod.
    #[error("there is no pod {name}{}", candidates(.near))]
    NoPod {
        /// What was asked for.
        name: Name,
        /// What is there.
        near: Vec<String>,
    },
    /// Several pods begin like this.
    #[error("{name} stands for several pods: {}; name one of them", .pods.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: Name,
        /// The pods.
        pods: Vec<String>,
    },
    /// No such Service.
    #[error("there is no Service {name}{}", candidates(.near))]
    NoService {
        /// What was asked for.
        name: Name,
        /// What is there.
        near: Vec<String>,
    },
    /// A Service without virtual server.
    #[error(
        "Service {0} has no virtual server (it is headless or an ExternalName); trace to one of its pods"
    )]
    NoVirtualServer(Name),
    /// A Service cannot send.
    #[error("a packet cannot start at a Service; name one of the pods of {0}")]
    FromService(Name),
    /// No port was given.
    #[error("{0} needs a port; give one with --port")]
    NoPort(Proto),
    /// The ends share no address family.
    #[error("{from} and {to} have no address family in common")]
    Families {
        /// Where it starts.
        from: End,
        /// Where it is sent.
        to: End,
    },
    /// Outside cannot be reached at all.
    #[error("{0} is outside and no uplink leads there; give the Supervisor an uplink and a route")]
    NoUplink(IpAddr),
    /// The model could not be resolved.
    #[error(transparent)]
    Place(#[from] crate::place::PlaceError),
}

fn candidates(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there are {}", names.join(", ")) }
}

/// How all members of the virtual server that a trace met would fare.
pub(super) fn members(snap: &Snapshot, trace: &Trace) -> Option<Members> {
    let balanced = trace.events.iter().find_map(|(event, _)| match event {
        Event::Balanced { server, .. } => Some(*server),
        _ => None,
    })?;
    let server = snap.servers.listening.values().find(|s| s.id == balanced)?;
    let first = &trace.first;
    let reached = |member: &&SocketAddr| {
        let bound = Some(Bound { server: server.id, member: **member });
        let binding = Binding { bound, source: (first.tuple.src, first.tuple.sport), translated: false };
        stage::walk(snap, first, Some(&binding), &mut ()).is_ok()
    };
    Some(Members { active: server.active.len(), reached: server.active.iter().filter(reached).count() })
}

/// What a probe is resolved in.
pub(super) struct Context<'a> {
    pub(super) model: &'a Model,
    pub(super) addressing: &'a Addressing,
    pub(super) snapshot: &'a Snapshot,
    pub(super) places: &'a Places<'a>,
}

/// A probe as a packet.
pub(super) struct Resolved {
    pub(super) first: First,
    pub(super) from: String,
    pub(super) to: String,
}

impl Context<'_> {
    pub(super) fn resolve(&self, probe: &Probe, seed: u64) -> Result<Resolved, TraceError> {
        let (from, sources) = self.source(&probe.from)?;
        let from_outside = match probe.from {
            End::Outside => true,
            End::Address(address) => self.snapshot.endpoint(address).is_none(),
            End::Pod(_) | End::Service(_) => false,
        };
        let (to, targets) = self.target(&probe.to, from_outside)?;
        let pair = targets.iter().find_map(|dst| {
            sources.iter().find(|src| src.is_ipv4() == dst.is_ipv4()).map(|src| (*src, *dst))
        });
        let (src, dst) =
            pair.ok_or_else(|| TraceError::Families { from: probe.from.clone(), to: probe.to.clone() })?;
        let echo = probe.proto.is_icmp();
        let proto = match (echo, dst) {
            (false, _) => probe.proto,
            (true, IpAddr::V4(_)) => Proto::ICMP,
            (true, IpAddr::V6(_)) => Proto::ICMPV6,
        };
        let dport = if echo { 0 } else { self.port(probe)? };
        let tuple = Tuple { src, dst, proto, sport: SOURCE_PORT, dport };
        let (ingress, dst_mac) = self.ingress(&tuple)?;
        let hash = tuple.flow_hash(seed);
        Ok(Resolved { first: First { ingress, tuple, ttl: 64, dst_mac, hash, echo }, from, to })
    }

    fn source(&self, end: &End) -> Result<(String, Vec<IpAddr>), TraceError> {
        match end {
            End::Outside => match self.outside() {
                addresses if addresses.is_empty() => Err(TraceError::NoUplink(OUTSIDE[0])),
                addresses => Ok((end.to_string(), addresses)),
            },
            End::Pod(name) if name.namespace == "node" && self.addressing.nodes.contains_key(&name.name) => {
                Ok((name.to_string(), self.addressing.nodes[&name.name].clone()))
            }
            End::Address(address) => Ok((self.called(*address), vec![*address])),
            End::Pod(name) => self.pod(name),
            End::Service(name) => Err(TraceError::FromService(name.clone())),
        }
    }

    fn target(&self, end: &End, from_outside: bool) -> Result<(String, Vec<IpAddr>), TraceError> {
        let End::Service(name) = end else { return self.source(end) };
        let service = self.model.services.get(name).ok_or_else(|| {
            let near = self.model.services.keys().filter(|n| n.namespace == name.namespace);
            TraceError::NoService { name: name.clone(), near: near.map(ToString::to_string).collect() }
        })?;
        if matches!(service.kind, ServiceKind::Headless | ServiceKind::ExternalName) {
            return Err(TraceError::NoVirtualServer(name.clone()));
        }
        // From outside a Service is its VIP, if it has one.
        let vips = self.addressing.ingress.get(name).filter(|_| from_outside);
        let addresses = vips.or_else(|| self.addressing.cluster_ips.get(name)).cloned().unwrap_or_default();
        Ok((end.to_string(), addresses))
    }

    fn port(&self, probe: &Probe) -> Result<u16, TraceError> {
        let single = || {
            let End::Service(name) = &probe.to else { return None };
            let ports = &self.model.services.get(name)?.ports;
            let mut ports = ports.iter().filter(|p| Proto::from(p.protocol) == probe.proto);
            ports.next().filter(|_| ports.next().is_none()).map(|p| p.port)
        };
        probe.port.or_else(single).ok_or(TraceError::NoPort(probe.proto))
    }

    /// A pod by its exact name, its workload's name, or a unique prefix.
    fn pod(&self, name: &Name) -> Result<(String, Vec<IpAddr>), TraceError> {
        let found = |name: &Name| {
            let place = self.places.pods.get(name);
            place.map(|p| (name.to_string(), p.addresses.to_vec()))
        };
        if let Some(pod) = found(name) {
            return Ok(pod);
        }
        let here = || self.places.pods.iter().filter(|(n, _)| n.namespace == name.namespace);
        let is_owner = |owner: &str| owner.rsplit('/').next() == Some(&name.name);
        if let Some((pod, _)) = here().find(|(_, p)| p.pod.owner.as_deref().is_some_and(is_owner)) {
            // The pods of a workload are alike.
            return found(pod).ok_or_else(|| TraceError::NoPod { name: name.clone(), near: Vec::new() });
        }
        let mut begin = here().filter(|(n, _)| n.name.starts_with(&name.name)).map(|(n, _)| *n);
        match (begin.next(), begin.next()) {
            (Some(pod), None) => {
                found(pod).ok_or_else(|| TraceError::NoPod { name: name.clone(), near: Vec::new() })
            }
            (None, _) => {
                let called = |(n, p): (&&Name, &Place<'_>)| workload(n, p.pod.owner.as_deref());
                let mut near: BTreeSet<String> = here().map(called).collect();
                let elsewhere = format!("/{}", name.name);
                if near.is_empty() {
                    near = self.places.pods.iter().map(called).filter(|w| w.ends_with(&elsewhere)).collect();
                }
                Err(TraceError::NoPod { name: name.clone(), near: near.into_iter().take(12).collect() })
            }
            (Some(first), Some(second)) => {
                let pods = [first, second].into_iter().chain(begin).map(ToString::to_string).collect();
                Err(TraceError::Ambiguous { name: name.clone(), pods })
            }
        }
    }

    /// Addresses that stand for the world: documentation ranges, else the uplinks' own neighbors.
    fn outside(&self) -> Vec<IpAddr> {
        let reachable = |a: &IpAddr| tier0::reverse_path(self.snapshot, *a).is_ok();
        let mut hops: Vec<IpAddr> =
            self.snapshot.tier0.routes.iter().flat_map(|(_, hops)| hops).map(|n| n.address).collect();
        hops.sort_unstable();
        OUTSIDE.into_iter().chain(hops).filter(reachable).collect()
    }

    /// What an address is called.
    fn called(&self, address: IpAddr) -> String {
        self.snapshot
            .endpoints
            .get(&address)
            .and_then(|port| self.snapshot.names.ports.get(port))
            .map_or_else(|| address.to_string(), |name| format!("{name} ({address})"))
    }

    /// The port a packet comes in by, and the MAC it is sent to.
    fn ingress(&self, tuple: &Tuple) -> Result<(PortId, Mac), TraceError> {
        if let Some(port) = self.snapshot.endpoint(tuple.src) {
            let PortRole::Endpoint(from) = &port.role else { return Ok((port.id, GATEWAY_MAC)) };
            return Ok((port.id, self.next_mac(from, tuple.dst)));
        }
        let neighbor = tier0::next_hop(self.snapshot, tuple.src, 0, None);
        let port = neighbor.map(|n| n.port).or_else(|| self.snapshot.tier0.uplinks.first().copied());
        let port = port.and_then(|id| self.snapshot.port(id)).ok_or(TraceError::NoUplink(tuple.src))?;
        Ok((port.id, port.mac))
    }

    /// A host asks for peers on its link and sends everything else to the gateway.
    fn next_mac(&self, from: &EndpointPort, dst: IpAddr) -> Mac {
        let on_link = self.snapshot.segment(from.segment).is_some_and(|s| match dst {
            IpAddr::V4(a) => s.gateway_v4.is_some_and(|net| net.contains(&a)),
            IpAddr::V6(a) => s.prefix_v6.is_some_and(|net| net.contains(&a)),
        });
        let peer = self.snapshot.endpoint(dst).filter(|_| on_link);
        peer.filter(|p| matches!(&p.role, PortRole::Endpoint(e) if e.segment == from.segment))
            .map_or(GATEWAY_MAC, |p| p.mac)
    }
}

fn workload(name: &Name, owner: Option<&str>) -> String {
    let short = owner.and_then(|o| o.rsplit('/').next()).unwrap_or(&name.name);
    format!("{}/{short}", name.namespace)
}
