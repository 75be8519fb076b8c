//! Every answer of the index against the declared tables.

use super::*;
use crate::{
    id::{Generation, NamespaceId, RuleId},
    snapshot::{EndpointPort, Namespace, PortEntry, Segment, UplinkPort, VirtualServer},
    table::{
        classifier::{Action, Clause, Effect, Peers, Rule, RuleSet, Service},
        maglev::Maglev,
    },
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Few addresses of both families, so that everything meets.
fn address(n: u8) -> IpAddr {
    let bits = u32::from(n / 2 % 24);
    if n.is_multiple_of(2) {
        Ipv4Addr::from_bits(0x0a00_0000 + bits).into()
    } else {
        Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(bits)).into()
    }
}

fn prefix((n, short): (u8, u8)) -> IpNet {
    let addr = address(n);
    let most = if addr.is_ipv4() { 32 } else { 128 };
    // Long ones, short ones and the default route.
    let len = if short == 7 { 0 } else { most - short };
    IpNet::new(addr, len).unwrap().trunc()
}

fn neighbor(n: u8) -> Neighbor {
    let mac = n.is_multiple_of(3).then_some(Mac([2, 0, 0, 0, 0, n]));
    Neighbor { port: PortId(u32::from(n % 2)), address: address(n), mac }
}

#[derive(Debug, Clone)]
struct Declared {
    endpoints: Vec<(u8, u8)>,
    /// For each workload's port: its addresses, its node's, its peers' identities.
    ports: Vec<(Vec<u8>, Vec<u8>, BTreeSet<u32>)>,
    identities: Vec<(u8, u32)>,
    ranges: Vec<((u8, u8), u32)>,
    owned: Vec<(u8, u8)>,
    routes: Vec<((u8, u8), Vec<u8>)>,
    connected: Vec<((u8, u8), u8)>,
    uplinks: Vec<u8>,
    /// Address, whether a VIP, protocol and port, members.
    servers: Vec<(u8, bool, u8, Vec<u8>)>,
    egress: Vec<u8>,
}

fn declared() -> impl Strategy<Value = Declared> {
    let n = || 0u8..48;
    let few = || prop::collection::vec(n(), 0..4);
    let prefix = || (n(), 0u8..8);
    let workload = (few(), few(), prop::collection::btree_set(0u32..4, 0..3));
    let tables = (
        prop::collection::vec((n(), 0u8..8), 0..12),
        prop::collection::vec(workload, 0..5),
        prop::collection::vec((n(), 0u32..4), 0..12),
        prop::collection::vec((prefix(), 0u32..4), 0..8),
        prop::collection::vec(prefix(), 0..4),
    );
    let world = (
        prop::collection::vec((prefix(), few()), 0..5),
        prop::collection::vec((prefix(), 0u8..2), 0..4),
        few(),
        prop::collection::vec((n(), any::<bool>(), 0u8..4, few()), 0..8),
        few(),
    );
    (tables, world).prop_map(|(t, w)| Declared {
        endpoints: t.0,
        ports: t.1,
        identities: t.2,
        ranges: t.3,
        owned: t.4,
        routes: w.0,
        connected: w.1,
        uplinks: w.2,
        servers: w.3,
        egress: w.4,
    })
}

const SERVICES: [(Proto, u16); 4] =
    [(Proto::TCP, 80), (Proto::UDP, 80), (Proto::TCP, 443), (Proto::SCTP, 80)];

/// A firewall of as many layers as its number has bits, and mostly one of them shared with others.
fn rules(peers: &BTreeSet<u32>, n: u32) -> Arc<Firewall> {
    let rule = |id, effect, first| {
        let services = vec![Service { proto: Proto::TCP, ports: first..=443 }];
        let peers = Peers::of(peers.iter().map(|id| IdentityId(*id)));
        Rule { id: RuleId(id), effect, clauses: vec![Clause { peers, services }] }
    };
    let allow = Arc::new(RuleSet::new(vec![rule(n, Effect::Decide(Action::Allow), 80)]));
    let pass = [rule(50, Effect::Pass, 100), rule(51, Effect::Decide(Action::Reject), 90)];
    let mut layers = vec![allow];
    if n & 1 == 1 {
        layers.insert(0, Arc::new(RuleSet::new(pass.to_vec())));
    }
    if n & 2 == 2 {
        layers.push(Arc::new(RuleSet::new(vec![Rule::every(RuleId(52), Action::Drop)])));
    }
    if n & 4 == 4 {
        layers.clear();
    }
    Arc::new(Firewall::new(layers, super::Decision { rule: RuleId(n + 100), action: Action::Drop }))
}

fn snapshot(d: &Declared) -> Snapshot {
    let mut s = Snapshot::default();
    let entry = |id: usize, role| {
        let id = PortId(id as u32);
        Some(Arc::new(PortEntry { id, mac: Mac([2; 6]), mtu: 1500, role, since: Generation(0) }))
    };
    let addresses = |all: &[u8]| all.iter().map(|n| address(*n)).collect::<Vec<_>>();
    let nets = addresses(&d.uplinks).into_iter().map(IpNet::from).collect();
    s.ports.push(entry(0, PortRole::Uplink(UplinkPort { addresses: nets })));
    s.ports.push(None);
    for (n, (own, node, peers)) in d.ports.iter().enumerate() {
        let endpoint = EndpointPort {
            segment: SegmentId(0),
            namespace: Some(NamespaceId(0)),
            addresses: addresses(own),
            node: addresses(node),
            egress: (n != 1).then(|| rules(peers, n as u32)),
            ingress: (n != 2).then(|| rules(peers, n as u32 + 50)),
            staged: None,
        };
        s.ports.push(entry(n + 2, PortRole::Endpoint(endpoint)));
    }
    s.segments.push(Some(Arc::new(Segment {
        id: SegmentId(0),
        tier1: Tier1Id(3),
        gateway_v4: None,
        prefix_v6: None,
        mtu: 1500,
        ports: Vec::new(),
    })));
    let v4 =
        addresses(&d.egress).into_iter().find_map(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
    let v6 =
        addresses(&d.egress).into_iter().find_map(|a| if let IpAddr::V6(a) = a { Some(a) } else { None });
    let namespace = Namespace { id: NamespaceId(0), egress_v4: v4, egress_v6: v6, since: Generation(0) };
    s.namespaces.push(Some(Arc::new(namespace)));
    s.endpoints = d.endpoints.iter().map(|(a, port)| (address(*a), PortId(u32::from(*port)))).collect();
    s.identities.exact = d.identities.iter().map(|(a, id)| (address(*a), IdentityId(*id))).collect();
    s.identities.ranges = d.ranges.iter().map(|(p, id)| (prefix(*p), IdentityId(*id))).collect();
    s.owned = d.owned.iter().map(|p| (prefix(*p), ())).collect();
    let hops = |all: &[u8]| all.iter().map(|n| neighbor(*n)).collect();
    s.tier0.routes = d.routes.iter().map(|(p, all)| (prefix(*p), hops(all))).collect();
    s.tier0.connected = d.connected.iter().map(|(p, port)| (prefix(*p), PortId(u32::from(*port)))).collect();
    s.tier0.uplinks = vec![PortId(0)];
    for (n, (a, vip, service, members)) in d.servers.iter().enumerate() {
        let kind = if *vip { ServerKind::Server } else { ServerKind::Distributed };
        let (proto, port) = SERVICES[usize::from(*service)];
        let active: Vec<SocketAddr> = members.iter().map(|m| SocketAddr::new(address(*m), 8080)).collect();
        let server = VirtualServer {
            id: ServerId(n as u32),
            kind,
            tier1: Tier1Id(0),
            address: address(*a),
            proto,
            port,
            maglev: Maglev::new(&active),
            active,
            draining: Vec::new(),
            by_client: false,
            since: Generation(0),
        };
        // Some addresses have servers and do not answer for themselves.
        if n != 3 {
            s.servers.addresses.insert(address(*a), kind);
        }
        s.servers.listening.insert((address(*a), proto, port), Arc::new(server));
    }
    s.succeed(&Snapshot::default())
}

/// The next hop, by the tables.
fn next_hop(snap: &Snapshot, dst: IpAddr, hash: u64, prefer: Option<PortId>) -> Option<Neighbor> {
    let route = snap.tier0.routes.get_prefix(dst);
    let connected = snap.tier0.connected.get_prefix(dst);
    if let Some((prefix, port)) = connected
        && route.is_none_or(|(route, _)| route.prefix_len() <= prefix.prefix_len())
    {
        let is = |n: &&Neighbor| n.port == *port && n.address == dst;
        let mac = snap.tier0.routes.iter().flat_map(|(_, hops)| hops).find(is).and_then(|n| n.mac);
        return Some(Neighbor { port: *port, address: dst, mac });
    }
    let (_, hops) = route?;
    let preferred = hops.iter().find(|n| Some(n.port) == prefer);
    let index = ((u128::from(hash) * hops.len() as u128) >> 64) as usize;
    preferred.or_else(|| hops.get(index)).copied()
}

fn check(snap: &Snapshot, addr: IpAddr) -> Result<(), TestCaseError> {
    let index = &snap.index;
    let facts = index.of(addr);
    let own = own_addresses(snap).any(|a| a == addr);
    let (endpoint, owned) = (snap.endpoints.get(&addr).copied(), snap.owned.get(addr).is_some());
    prop_assert_eq!(facts.port(), endpoint);
    prop_assert_eq!(facts.identity, snap.identities.of(addr));
    prop_assert_eq!(facts.is_tier0(), own);
    prop_assert_eq!(facts.is_inside(), endpoint.is_some() || owned || own);
    prop_assert_eq!(facts.is_egress(), snap.egress.contains_key(&addr));
    prop_assert_eq!(facts.is_reserved(), owned || snap.egress.contains_key(&addr));
    prop_assert_eq!(facts.server(), snap.servers.addresses.get(&addr).copied());
    for hash in [0, 1 << 62, u64::MAX] {
        for prefer in [None, Some(PortId(0)), Some(PortId(1))] {
            let expected = next_hop(snap, addr, hash, prefer);
            prop_assert_eq!(index.next_hop(addr, &facts, hash, prefer), expected);
            prop_assert_eq!(facts.is_routed(), expected.is_some());
        }
        for (proto, port) in SERVICES.into_iter().chain([(Proto::TCP, 81), (Proto::ICMP, 0)]) {
            let declared = snap.servers.listening.get(&(addr, proto, port));
            let found = index.listener(&facts, proto, port, false);
            prop_assert_eq!(found.map(|(id, _)| id), declared.map(|s| s.id));
            let member = found
                .and_then(|(_, l)| index.pick(&l, hash))
                .map(|member| SocketAddr::new(member.ip, member.port));
            prop_assert_eq!(member, declared.and_then(|s| s.pick(hash)));
            let vip = declared.filter(|s| s.kind == ServerKind::Server).map(|s| s.id);
            prop_assert_eq!(index.listener(&facts, proto, port, true).map(|(id, _)| id), vip);
        }
    }
    for id in (0..8).map(PortId) {
        let endpoint = snap.port(id).and_then(|p| match &p.role {
            PortRole::Endpoint(e) => Some(e),
            PortRole::Uplink(_) => None,
        });
        let holds = endpoint.is_some_and(|e| e.addresses.contains(&addr));
        prop_assert_eq!(index.holds(snap, id, addr, &facts), holds, "{:?}", id);
        let node = endpoint.is_some_and(|e| e.node.contains(&addr));
        prop_assert_eq!(index.is_node_of(snap, id, addr, &facts), node);
        let Some((row, endpoint)) = index.port(id).zip(endpoint) else { continue };
        for (proto, port) in SERVICES {
            let compiled = row.egress.map(|f| index.decide(f, facts.identity, proto, port));
            let declared = endpoint.egress.as_ref().map(|r| r.decide_linear(facts.identity, proto, port));
            prop_assert_eq!(compiled, declared);
            let compiled = row.ingress.map(|f| index.decide(f, facts.identity, proto, port));
            let declared = endpoint.ingress.as_ref().map(|r| r.decide_linear(facts.identity, proto, port));
            prop_assert_eq!(compiled, declared);
        }
        let namespace = snap.namespaces[0].as_ref().unwrap();
        prop_assert_eq!(row.egress_address(addr), namespace.egress(addr));
        prop_assert_eq!(row.tier1, Some(Tier1Id(3)));
    }
    Ok(())
}

proptest! {
    #[test]
    fn agrees_with_the_declared_tables(declared in declared()) {
        let snap = snapshot(&declared);
        for n in 0..48 {
            check(&snap, address(n))?;
        }
        for far in ["0.0.0.0", "255.255.255.255", "192.0.2.1", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            check(&snap, far.parse().unwrap())?;
        }
    }
}

#[test]
fn servers_with_the_same_members_share_them() {
    let members = vec![2, 4, 6];
    let servers = (0..4).map(|service| (20, true, service, members.clone())).collect();
    let nothing = Declared {
        endpoints: Vec::new(),
        ports: Vec::new(),
        identities: Vec::new(),
        ranges: Vec::new(),
        owned: Vec::new(),
        routes: Vec::new(),
        connected: Vec::new(),
        uplinks: Vec::new(),
        servers,
        egress: Vec::new(),
    };
    assert_eq!(snapshot(&nothing).index.members.len(), members.len());
}

#[test]
fn servers_with_very_many_members_reach_all_of_them() {
    let members = |n: u16| (0..n).map(|n| SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 80)));
    for count in [255, 256, 257, 700] {
        let active: Vec<SocketAddr> = members(count).collect();
        let server = VirtualServer {
            id: ServerId(1),
            kind: ServerKind::Server,
            tier1: Tier1Id(0),
            address: address(0),
            proto: Proto::TCP,
            port: 80,
            maglev: Maglev::new(&active),
            active,
            draining: Vec::new(),
            by_client: false,
            since: Generation(0),
        };
        let mut snap = Snapshot::default();
        snap.servers.listening.insert((address(0), Proto::TCP, 80), Arc::new(server.clone()));
        let snap = snap.succeed(&Snapshot::default());
        let (_, listener) = snap.index.listener(&snap.index.of(address(0)), Proto::TCP, 80, true).unwrap();
        let mut reached = BTreeSet::new();
        for hash in (0..200_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let member =
                snap.index.pick(&listener, hash).map(|member| SocketAddr::new(member.ip, member.port));
            assert_eq!(member, server.pick(hash));
            reached.extend(member);
        }
        assert_eq!(reached.len(), usize::from(count));
    }
}
