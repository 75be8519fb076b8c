//! Everything the packet path reads, compiled and immutable.
//!
//! Control builds a [`Snapshot`] and publishes it whole; no table is ever edited in place. Parts carry the
//! [`Generation`] in which they last changed ([`Snapshot::succeed`] fills that in by comparing with the
//! snapshot before), so a session can tell whether anything it was built from is newer than itself.
//!
//! Addresses: a port is found by its exact address (/32 and /128), wherever its segment's block lies.

mod index;
mod limits;
mod rows;
mod text;

pub use index::Index;
pub(crate) use index::{Facts, FirewallAt, Listener, PortRow, Role};
pub use limits::Limits;
pub use rows::{Hop, MAC_BITS, Row, mac_of, mac_word};

use crate::{
    id::{Generation, IdentityId, NamespaceId, PortId, RuleId, SegmentId, ServerId, Tier1Id},
    table::{firewall::Firewall, lpm::Lpm, maglev::Maglev},
    wire::{Mac, Proto},
};
use foldhash::HashMap;
use ipnet::IpNet;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The MAC of every segment's gateway, the same everywhere (the one NSX's distributed router has).
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x50, 0x56, 0x56, 0x44, 0x52]);

/// The IPv6 address of every segment's gateway.
pub const GATEWAY_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// One state of the network. Its debug form prints names, sorted: equal networks print alike.
#[derive(Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Its number; set when it is published.
    pub generation: Generation,
    /// Ports, indexed by [`PortId`].
    pub ports: Vec<Option<Arc<PortEntry>>>,
    /// Segments, indexed by [`SegmentId`].
    pub segments: Vec<Option<Arc<Segment>>>,
    /// Namespaces, indexed by [`NamespaceId`].
    pub namespaces: Vec<Option<Arc<Namespace>>>,
    /// Who has an address: pods, nodes. Not uplinks.
    pub endpoints: HashMap<IpAddr, PortId>,
    /// Firewall identity of addresses: of every endpoint, and of ranges outside.
    pub identities: Identities,
    /// Virtual servers.
    pub servers: Servers,
    /// The Tier-0.
    pub tier0: Tier0,
    /// Ranges that belong to this network; an address in them that nobody has is dropped, never sent out.
    pub owned: Lpm<()>,
    /// The maximum segment size that TCP connections agree on is lowered to what fits the MTUs of both their ports.
    pub clamp_mss: bool,
    /// Some port has firewalls that are not enforced; filled in by [`Snapshot::succeed`].
    pub has_staged: bool,
    /// What pods and namespaces may have of connections. No session depends on it.
    pub limits: Limits,
    /// What the ids are called.
    pub names: Arc<Names>,
    /// Whose egress address an address is; filled in by [`Snapshot::succeed`].
    pub egress: HashMap<IpAddr, NamespaceId>,
    /// What the fast path needs of each port; filled in by [`Snapshot::succeed`].
    pub rows: Vec<Row>,
    /// When each virtual server last changed; filled in by [`Snapshot::succeed`].
    pub servers_since: Vec<Generation>,
    /// All of the above as packets ask for it; filled in by [`Snapshot::succeed`].
    pub index: Arc<Index>,
}

impl Snapshot {
    /// The port of an id, if this snapshot has it.
    pub fn port(&self, id: PortId) -> Option<&Arc<PortEntry>> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The segment of an id, if this snapshot has it.
    pub fn segment(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.segments.get(id.index())?.as_ref()
    }

    /// The namespace of an id, if this snapshot has it.
    pub fn namespace(&self, id: NamespaceId) -> Option<&Arc<Namespace>> {
        self.namespaces.get(id.index())?.as_ref()
    }

    /// The workload's port that has an address.
    pub fn endpoint(&self, addr: IpAddr) -> Option<&Arc<PortEntry>> {
        self.endpoints.get(&addr).and_then(|id| self.port(*id))
    }

    /// Makes this the successor of `before`: gives it the next generation, and every part the generation in
    /// which it last changed. Parts that are equal are shared with `before`.
    #[must_use]
    pub fn succeed(mut self, before: &Self) -> Self {
        let generation = Generation(before.generation.0 + 1);
        self.generation = generation;
        // A segment's change is a change of its ports.
        for (at, segment) in self.segments.iter_mut().enumerate() {
            let old = before.segments.get(at).and_then(Option::as_ref);
            if let (Some(new), Some(old)) = (segment.as_mut(), old)
                && new == old
            {
                *new = old.clone();
            }
        }
        let segments = &self.segments;
        for port in self.ports.iter_mut().flatten() {
            let same_segment = match &port.role {
                PortRole::Endpoint(e) => {
                    let new = segments.get(e.segment.index()).and_then(Option::as_ref);
                    new.zip(before.segment(e.segment)).is_some_and(|(new, old)| new.alike(old))
                }
                PortRole::Uplink(_) => true,
            };
            let old = before.port(port.id);
            stamp(port, old, generation, same_segment, |p, since| p.since = since, |p| p.since);
        }
        for namespace in self.namespaces.iter_mut().flatten() {
            let old = before.namespace(namespace.id);
            stamp(namespace, old, generation, true, |n, since| n.since = since, |n| n.since);
        }
        for (key, server) in &mut self.servers.listening {
            let old = before.servers.listening.get(key);
            stamp(server, old, generation, true, |s, since| s.since = since, |s| s.since);
        }
        self.tier0.since = before.tier0.since;
        if self.tier0 != before.tier0 {
            self.tier0.since = generation;
        }
        let egress = |n: &Arc<Namespace>| {
            let (v4, v6) = (n.egress_v4.map(IpAddr::V4), n.egress_v6.map(IpAddr::V6));
            v4.into_iter().chain(v6).map(|a| (a, n.id)).collect::<Vec<_>>()
        };
        self.egress = self.namespaces.iter().flatten().flat_map(egress).collect();
        self.has_staged = self
            .ports
            .iter()
            .flatten()
            .any(|port| matches!(&port.role, PortRole::Endpoint(e) if e.staged.is_some()));
        self.fill_rows(before);
        self.index = Arc::new(Index::build(&self));
        self
    }
}

/// Shares `old` if it is the same but for its generation, else marks `new` as changed now.
fn stamp<T: Clone + PartialEq>(
    new: &mut Arc<T>,
    old: Option<&Arc<T>>,
    now: Generation,
    context_same: bool,
    set: impl Fn(&mut T, Generation),
    get: impl Fn(&T) -> Generation,
) {
    if let Some(old) = old
        && context_same
    {
        set(Arc::make_mut(new), get(old));
        if new == old {
            *new = old.clone();
            return;
        }
    }
    set(Arc::make_mut(new), now);
}

/// A port as the packet path sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PortEntry {
    /// Its id.
    pub id: PortId,
    /// Its MAC. Frames from the port must carry it as their source (an uplink's frames, as destination).
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Pod or node, or an uplink.
    pub role: PortRole,
    /// When the firewall of this port, or the port itself, last changed.
    pub since: Generation,
}

/// What a port is for.
#[derive(Debug, Clone, PartialEq)]
pub enum PortRole {
    /// A workload: a pod, or a node.
    Endpoint(EndpointPort),
    /// A Tier-0 interface.
    Uplink(UplinkPort),
}

/// A workload's port.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointPort {
    /// Its segment.
    pub segment: SegmentId,
    /// Its namespace; nodes have none.
    pub namespace: Option<NamespaceId>,
    /// The addresses it may use.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the node it runs on, which may always reach it (kubelet probes).
    pub node: Vec<IpAddr>,
    /// The firewall for what it sends; `None`: it stands outside policy.
    pub egress: Option<Arc<Firewall>>,
    /// The firewall for what it receives; `None`: it stands outside policy.
    pub ingress: Option<Arc<Firewall>>,
    /// Firewalls that are asked and not obeyed, if there are any.
    pub staged: Option<Arc<StagedFirewalls>>,
}

/// Firewalls of a workload's port that are not enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFirewalls {
    /// For what it sends.
    pub egress: Arc<Firewall>,
    /// For what it receives.
    pub ingress: Arc<Firewall>,
}

/// An uplink's port.
#[derive(Debug, Clone, PartialEq)]
pub struct UplinkPort {
    /// Its addresses and their connected prefixes.
    pub addresses: Vec<IpNet>,
}

/// An L2 segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// The Tier-1 it is attached to.
    pub tier1: Tier1Id,
    /// IPv4 gateway and prefix.
    pub gateway_v4: Option<ipnet::Ipv4Net>,
    /// IPv6 prefix; the gateway is [`GATEWAY_V6`].
    pub prefix_v6: Option<ipnet::Ipv6Net>,
    /// MTU announced to its ports.
    pub mtu: u16,
    /// Its ports, in order.
    pub ports: Vec<PortId>,
}

impl Segment {
    /// Whether sessions see no difference: all but the list of ports is the same.
    fn alike(&self, other: &Self) -> bool {
        (self.tier1, self.gateway_v4, self.prefix_v6, self.mtu)
            == (other.tier1, other.gateway_v4, other.prefix_v6, other.mtu)
    }
}

/// A namespace: the unit of source translation.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// The address its IPv4 traffic to the outside gets; `None`: it keeps its own.
    pub egress_v4: Option<std::net::Ipv4Addr>,
    /// The same for IPv6.
    pub egress_v6: Option<std::net::Ipv6Addr>,
    /// When this last changed.
    pub since: Generation,
}

impl Namespace {
    /// The egress address of the family of `like`.
    pub fn egress(&self, like: IpAddr) -> Option<IpAddr> {
        if like.is_ipv4() { self.egress_v4.map(Into::into) } else { self.egress_v6.map(Into::into) }
    }
}

/// Firewall identities of addresses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identities {
    /// Of addresses that pods have.
    pub exact: HashMap<IpAddr, IdentityId>,
    /// Of all other addresses, by the longest range that policies or the posture name.
    pub ranges: Lpm<IdentityId>,
}

impl Identities {
    /// The identity of an address; [`IdentityId::UNKNOWN`] when nothing names it.
    pub fn of(&self, addr: IpAddr) -> IdentityId {
        self.exact.get(&addr).or_else(|| self.ranges.get(addr)).copied().unwrap_or(IdentityId::UNKNOWN)
    }
}

/// The virtual servers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Servers {
    /// By address, protocol and port.
    pub listening: HashMap<(IpAddr, Proto, u16), Arc<VirtualServer>>,
    /// Every address that virtual servers have. They answer echo, and refuse ports nobody serves.
    pub addresses: HashMap<IpAddr, ServerKind>,
}

/// Where a virtual server is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerKind {
    /// Distributed, at the client's port: a ClusterIP. Not reachable from outside.
    Distributed,
    /// On the Tier-1: a VIP, reachable from outside, and from inside as a ClusterIP is.
    Server,
}

/// A virtual server: one address, protocol and port.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualServer {
    /// Its id.
    pub id: ServerId,
    /// Where it is served.
    pub kind: ServerKind,
    /// The Tier-1 it lives on.
    pub tier1: Tier1Id,
    /// Its address.
    pub address: IpAddr,
    /// Its protocol.
    pub proto: Proto,
    /// Its port.
    pub port: u16,
    /// Members that take new connections.
    pub active: Vec<SocketAddr>,
    /// Members that only keep the connections they have.
    pub draining: Vec<SocketAddr>,
    /// All flows of a client go to one member (`sessionAffinity: ClientIP`), for as long as the members stay.
    pub by_client: bool,
    /// How flows are spread over `active`; `None` when there are none.
    pub maglev: Option<Maglev>,
    /// When its members last changed.
    pub since: Generation,
}

impl VirtualServer {
    /// The member that takes a new flow.
    pub fn pick(&self, flow_hash: u64) -> Option<SocketAddr> {
        self.active.get(self.maglev.as_ref()?.pick(flow_hash)).copied()
    }

    /// Whether a connection bound to this member may go on.
    pub fn keeps(&self, member: SocketAddr) -> bool {
        self.active.contains(&member) || self.draining.contains(&member)
    }
}

/// The Tier-0 gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tier0 {
    /// Static routes: the next hops share the flows (ECMP).
    pub routes: Lpm<Vec<Neighbor>>,
    /// Connected prefixes of the uplinks: destinations in them are their own next hop.
    pub connected: Lpm<PortId>,
    /// Uplink ports, in order.
    pub uplinks: Vec<PortId>,
    /// When routes or next hops last changed.
    pub since: Generation,
}

/// A next hop beyond an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neighbor {
    /// The uplink it is reached by.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC; `None`: learned by ARP or ND.
    pub mac: Option<Mac>,
}

/// What the ids are called, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// "shop/web-0", "node/node-1", "uplink/leaf-a".
    pub ports: HashMap<PortId, String>,
    /// "shop-0".
    pub segments: HashMap<SegmentId, String>,
    /// "shop".
    pub namespaces: HashMap<NamespaceId, String>,
    /// "shop/web:80/TCP".
    pub servers: HashMap<ServerId, String>,
    /// "tier1", or "tier1-shop".
    pub tier1s: HashMap<Tier1Id, String>,
    /// Rules.
    pub rules: HashMap<RuleId, RuleName>,
    /// What their log records are marked with, where that was asked for.
    pub log_labels: HashMap<RuleId, String>,
}

/// A rule in words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleName {
    /// Where it stands in the order of evaluation: "Emergency", "Admin", "NetworkPolicy", "posture".
    pub tier: &'static str,
    /// The policy it comes from: "shop/allow-web", "no-smtp", or "posture" for the Supervisor's.
    pub policy: String,
    /// Which rule of it: `ingress[0]`, `isolation`, `deny`, or its own name.
    pub rule: String,
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.policy, self.rule)
    }
}
