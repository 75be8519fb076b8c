//! What packets ask of a snapshot, laid out so that each question costs a cache line or two.
//!
//! ```text
//!   address ─▶ Facts: port, identity, virtual server, next hop, whose it is
//!      exact, one probe for every address that has a name; else the piece of the address space it lies in
//!
//!   (server address, protocol, port) ─▶ Listener ─▶ slot ─▶ Member, with its Facts
//!   port ─▶ PortRow: firewall, Tier-1, egress addresses, in one line
//! ```
//!
//! [`Snapshot::succeed`] computes it from the declared tables, which stay the truth: equal snapshots have equal
//! indices, and a test compares each answer with theirs. Building costs a pass over all addresses and no more than
//! the comparisons that publishing makes anyway.

mod firewalls;

use super::{Neighbor, PortRole, ServerKind, Snapshot};
use crate::{
    id::{IdentityId, PortId, SegmentId, ServerId, Tier1Id},
    table::{
        classifier::Decision,
        exact::{Exact, Key},
        firewall::Firewall,
        maglev,
        ranges::Ranges,
    },
    wire::{Address, AnyAddress, Mac, Proto},
};
pub(crate) use firewalls::FirewallAt;
use firewalls::Firewalls;
use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// The compiled answers. Control leaves it empty.
#[derive(Clone, Default)]
pub struct Index {
    v4: Family<u32>,
    v6: Family<u128>,
    ports: Vec<PortRow>,
    firewalls: Firewalls,
    listeners: Exact<u64, Listener>,
    /// Maglev's tables, one after the other: positions in `members`, from the listener's own on. One byte a slot,
    /// or two, low one first, where there are more than 256 members.
    slots: Vec<u8>,
    members: Vec<Member>,
    hops: Vec<Hops>,
    /// The address the Tier-0 speaks from, by family.
    tier0: (Option<Ipv4Addr>, Option<Ipv6Addr>),
}

impl PartialEq for Index {
    /// Computed from the rest of the snapshot, which is compared.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({} ports, {} members)", self.ports.len(), self.members.len())
    }
}

#[derive(Clone, Default)]
struct Family<A: Key + Ord> {
    exact: Exact<A, Facts>,
    ranges: Ranges<A, Facts, 8>,
}

/// What is known of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// Its port, in the lower 24 bits, and what it is.
    port_and_flags: u32,
    /// Its firewall identity.
    pub(crate) identity: IdentityId,
    /// Its number among the addresses that virtual servers listen on.
    server: u32,
    /// How the Tier-0 routes it: a position in `hops`, from 1 on.
    hops: u32,
}

/// Where the port stands.
const PORT: u32 = (1 << 24) - 1;
/// In its place when an address has none, but a name: no port has this number ([`PortId::MAX`] is lower).
const NO_PORT: u32 = PORT - 1;
/// In its place when an address has not even a name.
const NO_NAME: u32 = PORT;

/// In a range that belongs to this network.
const OWNED: u32 = 1 << 24;
/// A namespace's egress address.
const EGRESS: u32 = 1 << 25;
/// The Tier-0's own.
const TIER0: u32 = 1 << 26;
/// A VIP.
const VIP: u32 = 1 << 27;
/// A ClusterIP.
const CLUSTER_IP: u32 = 1 << 28;
/// Some port's node has it.
const NODE: u32 = 1 << 29;
/// Some port may use it.
const HELD: u32 = 1 << 30;
/// The port found by it may use it, and no other.
const SOLE: u32 = 1 << 31;

impl Default for Facts {
    fn default() -> Self {
        Self { port_and_flags: NO_NAME, identity: IdentityId::UNKNOWN, server: 0, hops: 0 }
    }
}

impl Facts {
    fn is(&self, flag: u32) -> bool {
        self.port_and_flags & flag != 0
    }

    /// The workload's port that has the address.
    pub(crate) fn port(&self) -> Option<PortId> {
        let port = self.port_and_flags & PORT;
        (port < PortId::MAX).then_some(PortId(port))
    }

    /// Whether an endpoint, an owned range or the Tier-0 has it, so that nobody outside can.
    pub(crate) fn is_inside(&self) -> bool {
        self.port().is_some() || self.is(OWNED | TIER0)
    }

    /// Whether it is the network's, and to be dropped when nobody takes it.
    pub(crate) fn is_reserved(&self) -> bool {
        self.is(OWNED | EGRESS)
    }

    /// Whether the Tier-0 has a way to it.
    pub(crate) fn is_routed(&self) -> bool {
        self.hops != 0
    }

    /// Whether it is some namespace's egress address.
    pub(crate) fn is_egress(&self) -> bool {
        self.is(EGRESS)
    }

    /// Whether it is one of the Tier-0's own.
    pub(crate) fn is_tier0(&self) -> bool {
        self.is(TIER0)
    }

    /// What kind of virtual server has it.
    pub(crate) fn server(&self) -> Option<ServerKind> {
        match (self.is(VIP), self.is(CLUSTER_IP)) {
            (true, _) => Some(ServerKind::Server),
            (false, true) => Some(ServerKind::Distributed),
            (false, false) => None,
        }
    }
}

/// A virtual server, as new connections see it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Listener {
    /// `None`: nobody listens.
    server: Option<ServerId>,
    is_vip: bool,
    /// Flows of one client stay together.
    pub(crate) by_client: bool,
    /// Where its slots begin, and how many there are; none without active members.
    slots: u32,
    slot_count: u32,
    /// Where its members begin, and how many there are.
    members: u32,
    member_count: u16,
}

/// A member that takes new connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// Its address.
    pub(crate) ip: IpAddr,
    /// Its port.
    pub(crate) port: u16,
    /// What is known of its address.
    pub(crate) facts: Facts,
}

/// How the Tier-0 reaches an address.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Hops {
    /// It is its own next hop.
    Connected(PortId),
    /// These share the flows.
    Via(Box<[Neighbor]>),
}

/// A port, as new connections see it: one cache line.
#[derive(Clone, Default)]
#[repr(align(64))]
pub(crate) struct PortRow {
    /// The firewall for what it sends.
    pub(crate) egress: Option<FirewallAt>,
    /// The firewall for what it receives.
    pub(crate) ingress: Option<FirewallAt>,
    /// The Tier-1 of its segment.
    pub(crate) tier1: Option<Tier1Id>,
    /// Its segment, if it is a workload's.
    pub(crate) segment: Option<SegmentId>,
    egress_v6: Option<Ipv6Addr>,
    egress_v4: Option<Ipv4Addr>,
    /// Its MAC.
    pub(crate) mac: Mac,
    pub(crate) role: Role,
}

/// What a port is for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Role {
    /// There is none.
    #[default]
    Absent,
    /// A workload.
    Endpoint,
    /// A Tier-0 interface.
    Uplink,
}

const _: () = assert!(size_of::<PortRow>() == 64);

impl PortRow {
    /// The egress address of its namespace in the family of `like`.
    #[inline]
    pub(crate) fn egress_address<A: AnyAddress>(&self, like: A) -> Option<A> {
        match like.ip() {
            IpAddr::V4(_) => A::of(self.egress_v4?.into()),
            IpAddr::V6(_) => A::of(self.egress_v6?.into()),
        }
    }
}

impl Index {
    /// What is known of an address.
    #[inline]
    pub(crate) fn of(&self, addr: impl AnyAddress) -> Facts {
        match addr.ip() {
            IpAddr::V4(a) => self.v4.of(a.to_bits()),
            IpAddr::V6(a) => self.v6.of(a.to_bits()),
        }
    }

    /// The row of a port, if there is one.
    #[inline]
    pub(crate) fn port(&self, id: PortId) -> Option<&PortRow> {
        self.ports.get(id.index()).filter(|row| row.role != Role::Absent)
    }

    /// What a firewall decides for a connection with a peer of this identity.
    #[inline]
    pub(crate) fn decide(&self, firewall: FirewallAt, peer: IdentityId, proto: Proto, port: u16) -> Decision {
        self.firewalls.decide(firewall, peer, proto, port)
    }

    /// Who listens at an address of which `facts` are known; `from_outside`, only VIPs do.
    #[inline]
    pub(crate) fn listener(
        &self,
        facts: &Facts,
        proto: Proto,
        port: u16,
        from_outside: bool,
    ) -> Option<(ServerId, Listener)> {
        if facts.server == 0 {
            return None;
        }
        let listener = self.listeners.get(listener_key(facts.server, proto, port));
        listener.server.filter(|_| listener.is_vip || !from_outside).map(|id| (id, listener))
    }

    /// The member that takes a new flow; `None` when nobody does.
    #[inline]
    pub(crate) fn pick(&self, listener: &Listener, hash: u64) -> Option<&Member> {
        let (slots, slot) = (listener.slots as usize, maglev::share(hash, listener.slot_count as usize));
        let position = if listener.member_count > 256 {
            u16::from_le_bytes([*self.slots.get(slots + 2 * slot)?, *self.slots.get(slots + 2 * slot + 1)?])
        } else {
            (*self.slots.get(slots + slot)?).into()
        };
        let at = listener.members as usize + usize::from(position);
        self.members.get(at).filter(|_| position < listener.member_count)
    }

    /// The next hop towards `dst`, of which `facts` are known. Several share the flows by `hash`, but one on
    /// `prefer` is taken first.
    #[inline]
    pub(crate) fn next_hop(
        &self,
        dst: IpAddr,
        facts: &Facts,
        hash: u64,
        prefer: Option<PortId>,
    ) -> Option<Neighbor> {
        match self.hops.get((facts.hops as usize).wrapping_sub(1))? {
            Hops::Connected(port) => Some(Neighbor { port: *port, address: dst, mac: None }),
            Hops::Via(hops) => {
                let preferred = prefer.and_then(|port| hops.iter().find(|n| n.port == port));
                preferred.or_else(|| hops.get(maglev::share(hash, hops.len()))).copied()
            }
        }
    }

    /// The address the Tier-0 speaks from, in the family of `like`.
    pub(crate) fn tier0_address(&self, like: IpAddr) -> Option<IpAddr> {
        if like.is_ipv4() { self.tier0.0.map(Into::into) } else { self.tier0.1.map(Into::into) }
    }

    /// Whether the port may use an address of which `facts` are known.
    #[inline]
    pub(crate) fn holds(&self, snap: &Snapshot, port: PortId, addr: IpAddr, facts: &Facts) -> bool {
        if facts.is(SOLE) {
            return facts.port() == Some(port);
        }
        // Rare: an address of several ports, or of one that is not found by it.
        facts.is(HELD)
            && match snap.port(port).map(|p| &p.role) {
                Some(PortRole::Endpoint(e)) => e.addresses.contains(&addr),
                _ => false,
            }
    }

    /// Whether an address, of which `facts` are known, is of the node that the port's workload runs on.
    #[inline]
    pub(crate) fn is_node_of(&self, snap: &Snapshot, port: PortId, addr: IpAddr, facts: &Facts) -> bool {
        facts.is(NODE)
            && match snap.port(port).map(|p| &p.role) {
                Some(PortRole::Endpoint(e)) => e.node.contains(&addr),
                _ => false,
            }
    }

    /// Computes the index of a snapshot.
    pub(super) fn build(snap: &Snapshot) -> Self {
        let mut builder = Builder::default();
        let numbers = builder.number_servers(snap);
        let v4 = builder.family(snap, &numbers);
        let v6 = builder.family(snap, &numbers);
        let own = || own_addresses(snap);
        let tier0 = (
            own().find_map(|a| if let IpAddr::V4(a) = a { Some(a) } else { None }),
            own().find_map(|a| if let IpAddr::V6(a) = a { Some(a) } else { None }),
        );
        let mut index = Self { v4, v6, hops: builder.hops, tier0, ..Self::default() };
        index.add_ports(snap);
        index.add_servers(snap, &numbers);
        index
    }

    fn add_ports(&mut self, snap: &Snapshot) {
        let mut firewalls = firewalls::Builder::default();
        let mut firewall = |firewall: &Arc<Firewall>| firewalls.add(firewall);
        let mut row = |port: &super::PortEntry| match &port.role {
            PortRole::Uplink(_) => PortRow { role: Role::Uplink, mac: port.mac, ..PortRow::default() },
            PortRole::Endpoint(e) => {
                let namespace = e.namespace.and_then(|n| snap.namespace(n));
                PortRow {
                    egress: e.egress.as_ref().map(&mut firewall),
                    ingress: e.ingress.as_ref().map(&mut firewall),
                    tier1: snap.segment(e.segment).map(|s| s.tier1),
                    segment: Some(e.segment),
                    egress_v6: namespace.and_then(|n| n.egress_v6),
                    egress_v4: namespace.and_then(|n| n.egress_v4),
                    mac: port.mac,
                    role: Role::Endpoint,
                }
            }
        };
        let ports = snap.ports.iter().map(|port| port.as_deref());
        self.ports = ports.map(|port| port.map_or_else(PortRow::default, &mut row)).collect();
        self.firewalls = firewalls.finish();
    }

    fn add_servers(&mut self, snap: &Snapshot, numbers: &HashMap<IpAddr, u32>) {
        // Servers with the same members share them, and the table.
        let mut members: HashMap<&[SocketAddr], u32> = HashMap::new();
        let mut tables: HashMap<(*const u16, bool), u32> = HashMap::new();
        let mut listeners = Vec::with_capacity(snap.servers.listening.len());
        for ((address, proto, port), server) in &snap.servers.listening {
            let Some(number) = numbers.get(address) else { continue };
            let mut listener = Listener {
                server: Some(server.id),
                is_vip: server.kind == ServerKind::Server,
                by_client: server.by_client,
                ..Listener::default()
            };
            if let Some(maglev) = &server.maglev {
                let slots = maglev.slots();
                // Maglev has no more.
                listener.member_count = server.active.len().try_into().unwrap_or(u16::MAX);
                listener.slot_count = slots.len() as u32;
                let wide = listener.member_count > 256;
                listener.slots = *tables.entry((slots.as_ptr(), wide)).or_insert_with(|| {
                    let at = self.slots.len() as u32;
                    let bytes = slots
                        .iter()
                        .flat_map(|slot| slot.to_le_bytes().into_iter().take(1 + usize::from(wide)));
                    self.slots.extend(bytes);
                    at
                });
                listener.members = match members.get(&*server.active) {
                    Some(at) => *at,
                    None => {
                        let at = self.members.len() as u32;
                        for member in &server.active {
                            let facts = self.of(member.ip());
                            self.members.push(Member { ip: member.ip(), port: member.port(), facts });
                        }
                        members.insert(&server.active, at);
                        at
                    }
                };
            }
            listeners.push((listener_key(*number, *proto, *port), listener));
        }
        self.listeners = listeners.into_iter().collect();
    }
}

impl<A: Key + Ord> Family<A> {
    #[inline]
    fn of(&self, addr: A) -> Facts {
        let facts = self.exact.get(addr);
        if facts.port_and_flags == NO_NAME { self.ranges.get(addr) } else { facts }
    }
}

fn listener_key(server: u32, proto: Proto, port: u16) -> u64 {
    u64::from(server) << 24 | u64::from(proto.0) << 16 | u64::from(port)
}

fn own_addresses(snap: &Snapshot) -> impl Iterator<Item = IpAddr> {
    let ports = snap.tier0.uplinks.iter().filter_map(|id| snap.port(*id));
    let addresses = ports.map(|port| match &port.role {
        PortRole::Uplink(uplink) => &uplink.addresses[..],
        PortRole::Endpoint(_) => &[],
    });
    addresses.flatten().map(IpNet::addr)
}

#[derive(Default)]
struct Builder {
    hops: Vec<Hops>,
    numbers: HashMap<Hops, u32>,
}

impl Builder {
    /// Numbers the addresses that virtual servers listen on, from 1 on.
    fn number_servers(&self, snap: &Snapshot) -> HashMap<IpAddr, u32> {
        let mut numbers = HashMap::new();
        for (address, _, _) in snap.servers.listening.keys() {
            let next = numbers.len() as u32 + 1;
            numbers.entry(*address).or_insert(next);
        }
        numbers
    }

    fn family<A: Address + Key + Ord>(
        &mut self,
        snap: &Snapshot,
        servers: &HashMap<IpAddr, u32>,
    ) -> Family<A> {
        let mut named: HashMap<A, Facts> = HashMap::with_capacity(snap.endpoints.len());
        let mut note = |addr: IpAddr, change: &dyn Fn(&mut Facts)| {
            let named_only = || Facts { port_and_flags: NO_PORT, ..Facts::default() };
            if let Some(addr) = A::of(addr) {
                change(named.entry(addr).or_insert_with(named_only));
            }
        };
        let flag = |flag| move |f: &mut Facts| f.port_and_flags |= flag;
        for (addr, port) in snap.endpoints.iter().filter(|(_, port)| port.0 < PortId::MAX) {
            note(*addr, &|f| f.port_and_flags = port.0);
        }
        let endpoints = snap.ports.iter().flatten().filter_map(|port| match &port.role {
            PortRole::Endpoint(e) => Some((port.id, e)),
            PortRole::Uplink(_) => None,
        });
        for (id, e) in endpoints {
            for addr in &e.addresses {
                note(*addr, &|f| {
                    // A second holder takes the mark away, and it stays away.
                    let sole = if f.port() == Some(id) && !f.is(HELD) { SOLE } else { 0 };
                    f.port_and_flags = f.port_and_flags & !SOLE | HELD | sole;
                });
            }
            e.node.iter().for_each(|addr| note(*addr, &flag(NODE)));
        }
        snap.egress.keys().for_each(|addr| note(*addr, &flag(EGRESS)));
        own_addresses(snap).for_each(|addr| note(addr, &flag(TIER0)));
        for (addr, kind) in &snap.servers.addresses {
            note(*addr, &flag(if *kind == ServerKind::Server { VIP } else { CLUSTER_IP }));
        }
        servers.iter().for_each(|(addr, number)| note(*addr, &|f| f.server = *number));
        snap.identities.exact.keys().for_each(|addr| note(*addr, &|_| ()));
        let fixed = fixed_macs(snap);
        fixed.keys().for_each(|(_, addr)| note(*addr, &|_| ()));

        let ranges = Ranges::new(cuts(snap), |addr: A| self.of_range(snap, addr.ip()));
        for (key, facts) in &mut named {
            let (addr, here) = (key.ip(), ranges.get(*key));
            facts.port_and_flags |= here.port_and_flags & !PORT;
            facts.identity = snap.identities.exact.get(&addr).copied().unwrap_or(here.identity);
            facts.hops = self.hops_to(addr, here.hops, &fixed);
        }
        Family { exact: named.into_iter().collect(), ranges }
    }

    /// What prefixes say about an address.
    fn of_range(&mut self, snap: &Snapshot, addr: IpAddr) -> Facts {
        let owned = if snap.owned.get(addr).is_some() { OWNED } else { 0 };
        let route = snap.tier0.routes.get_prefix(addr);
        let connected =
            snap.tier0.connected.get_prefix(addr).filter(|(prefix, _)| {
                route.is_none_or(|(route, _)| route.prefix_len() <= prefix.prefix_len())
            });
        let hops = match (connected, route) {
            (Some((_, port)), _) => self.intern(Hops::Connected(*port)),
            (None, Some((_, hops))) if !hops.is_empty() => self.intern(Hops::Via(hops.clone().into())),
            (None, _) => 0,
        };
        let identity = snap.identities.ranges.get(addr).copied().unwrap_or(IdentityId::UNKNOWN);
        Facts { port_and_flags: NO_NAME | owned, identity, server: 0, hops }
    }

    /// How an address with a name is reached: one in a connected prefix may be a next hop with a configured MAC.
    fn hops_to(&mut self, address: IpAddr, hops: u32, fixed: &HashMap<(PortId, IpAddr), Mac>) -> u32 {
        let Some(Hops::Connected(port)) = self.hops.get((hops as usize).wrapping_sub(1)) else { return hops };
        let port = *port;
        match fixed.get(&(port, address)) {
            Some(mac) => self.intern(Hops::Via([Neighbor { port, address, mac: Some(*mac) }].into())),
            None => hops,
        }
    }

    fn intern(&mut self, hops: Hops) -> u32 {
        *self.numbers.entry(hops).or_insert_with_key(|hops| {
            self.hops.push(hops.clone());
            self.hops.len() as u32
        })
    }
}

/// Configured MACs of next hops.
fn fixed_macs(snap: &Snapshot) -> HashMap<(PortId, IpAddr), Mac> {
    let hops = snap.tier0.routes.iter().flat_map(|(_, hops)| hops);
    hops.filter_map(|n| Some(((n.port, n.address), n.mac?))).collect()
}

/// Where any prefix begins, and where it has ended.
fn cuts<A: Address>(snap: &Snapshot) -> Vec<A> {
    let prefixes = snap.identities.ranges.iter().map(|(prefix, _)| prefix);
    let prefixes = prefixes.chain(snap.owned.iter().map(|(prefix, ())| prefix));
    let prefixes = prefixes.chain(snap.tier0.routes.iter().map(|(prefix, _)| prefix));
    let prefixes = prefixes.chain(snap.tier0.connected.iter().map(|(prefix, _)| prefix));
    let ends = |prefix: IpNet| {
        let last = A::of(prefix.broadcast())?;
        // What follows the last address of all is the first, where a piece begins anyway.
        Some([A::of(prefix.network())?, A::from_bits(last.bits().wrapping_add(1))])
    };
    prefixes.filter_map(ends).flatten().collect()
}

#[cfg(test)]
mod tests;
