//! Small random networks, and what becomes of every packet in them: the oracle of analyses.
//!
//! The oracle knows nothing of rules or classes. It sends a packet from every address to every address, to every port
//! that a model names and its neighbours, through the stages that packets walk.

use crate::{
    ipam::Leases,
    model::{
        At, ContainerPort, Directions, Ends, IngressPosture, IpFamily, Model, Name, Namespace, NetworkPolicy,
        ObjectId, ObjectKind, Operator, Peer, Pod, PolicyPort, PolicyService, PortMatch, Position, Protocol,
        Requirement, Rule, Selector, Service, ServiceKind, ServicePort, StaticRoute, TargetPort, Tier,
        TieredPolicy, TieredRule, Verdict,
    },
    network::Network,
    store::UnixSeconds,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use supernet_dataplane::{
    id::PortId,
    rewrite::Tuple,
    snapshot::{GATEWAY_MAC, Snapshot},
    stage::{self, First},
    wire::Proto,
};

/// The seeds that tests play; `SUPERNET_ANALYSIS_SEEDS=7..8` plays others.
pub(super) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SUPERNET_ANALYSIS_SEEDS") else { return 0..usual };
    let (from, to) = text.split_once("..").expect("SUPERNET_ANALYSIS_SEEDS=FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Numbers that depend on a seed alone (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

const APPS: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 2] = ["http", "dns"];
const NUMBERS: [u16; 6] = [53, 68, 80, 81, 443, 65535];
/// Ports that containers serve: not those of DHCP clients, which are closed to all but Services.
const SERVED: [u16; 4] = [53, 80, 81, 443];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const RANGES: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.244.0.0/28",
    "198.51.100.0/24",
    "198.51.100.128/25",
    "198.51.100.77/32",
    "192.168.0.0/16",
    "172.26.0.2/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "fd00:244::/48",
];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A random model.
pub(super) fn model(r: &mut Random) -> Model {
    let mut model = Model::default();
    let supervisor = &mut model.supervisor;
    supervisor.node_count = 2;
    supervisor.ingress_posture = posture(r);
    if r.one_in(2) {
        supervisor.pod_cidrs.push(net("fd00:244::/48").into());
        supervisor.service_cidrs.push(net("fd00:96::/112").into());
        if r.one_in(2) {
            supervisor.node_cidrs.push(net("fd00:26::/64").into());
        }
        supervisor.uplinks[0].addresses.push(net("fd00:100::1/64").into());
        let mut route = supervisor.static_routes[0].clone();
        route.next_hops[0].address = At::from("fd00:100::2".parse::<IpAddr>().unwrap());
        route.prefix = net(if r.one_in(2) { "::/0" } else { "2001:db8::/32" }).into();
        supervisor.static_routes.push(route);
    }
    for namespace in ["x", "y", "z"].into_iter().take(2 + r.below(2)) {
        let mut namespace = Namespace::named(namespace, Position::default());
        namespace.labels.insert("team".into(), r.pick(&APPS).into());
        model.insert(namespace.into());
    }
    for _ in 0..3 + r.below(4) {
        add_pod(&mut model, r);
    }
    for at in 0..r.below(5) {
        let new = policy(&model, at, r);
        model.insert(new.into());
    }
    for at in 0..r.below(6).saturating_sub(3) {
        model.insert(tiered(at, r).into());
    }
    for at in 0..r.below(3) {
        let new = service(&model, at, r);
        model.insert(new.into());
    }
    model
}

fn posture(r: &mut Random) -> IngressPosture {
    use IngressPosture::{Allow, AllowCluster, AllowNamespace, Deny};
    r.pick(&[Deny, Allow, Allow, AllowNamespace, AllowCluster])
}

fn namespace(model: &Model, r: &mut Random) -> String {
    let names: Vec<&String> = model.namespaces.keys().collect();
    r.pick(&names).clone()
}

fn add_pod(model: &mut Model, r: &mut Random) {
    let workload = r.pick(&["web", "db", "job"]);
    let mut pod = Pod::new(Name::new(namespace(model, r), format!("{workload}-{}", r.below(3))));
    pod.owner = Some(format!("statefulset/{workload}"));
    pod.host_network = r.one_in(8);
    // Mostly a workload's pods are alike.
    let app = if r.one_in(5) { r.pick(&APPS) } else { &workload[..1] };
    pod.labels.insert("app".into(), if app == "w" || app == "d" || app == "j" { "a" } else { app }.into());
    if r.one_in(3) {
        pod.labels.insert("role".into(), r.pick(&APPS).into());
    }
    for name in NAMES {
        if r.one_in(2) {
            let (protocol, port) = (r.pick(&PROTOCOLS), r.pick(&SERVED));
            pod.ports.push(ContainerPort { name: name.into(), protocol, port });
        }
    }
    model.insert(pod.into());
}

fn selector(key: &str, r: &mut Random) -> Selector {
    if r.one_in(3) {
        return Selector::ALL;
    }
    let values = vec![r.pick(&APPS).to_owned()];
    let operator = match r.below(5) {
        0 => Operator::NotIn(values),
        1 => Operator::Exists,
        _ => Operator::In(values),
    };
    Selector { requirements: vec![Requirement { key: key.to_owned(), operator }] }
}

fn pods(r: &mut Random) -> Selector {
    let key = r.pick(&["app", "app", "role"]);
    selector(key, r)
}

fn peer(r: &mut Random) -> Peer {
    if r.one_in(3) {
        let cidr = net(r.pick(&RANGES));
        let inside = RANGES.map(net).into_iter().filter(|n| cidr.contains(n) && *n != cidr);
        return Peer::Block { cidr, except: inside.filter(|_| r.one_in(2)).collect() };
    }
    let namespaces = if r.one_in(2) { Some(selector("team", r)) } else { None };
    Peer::Pods { namespaces, pods: Some(pods(r)) }
}

fn rule(r: &mut Random) -> Rule {
    let port = |r: &mut Random| {
        let port = match r.below(6) {
            0 => PortMatch::All,
            1 => PortMatch::Named(r.pick(&NAMES).to_owned()),
            2 => {
                let (a, b) = (r.pick(&NUMBERS), r.pick(&NUMBERS));
                PortMatch::Numbers { from: a.min(b), to: a.max(b) }
            }
            _ => PortMatch::number(r.pick(&NUMBERS)),
        };
        PolicyPort { protocol: r.pick(&PROTOCOLS), port }
    };
    let peers = (0..r.below(3)).map(|_| peer(r)).collect();
    Rule { peers, ports: (0..r.below(3)).map(|_| port(r)).collect() }
}

fn policy(model: &Model, at: usize, r: &mut Random) -> NetworkPolicy {
    let rules = |r: &mut Random| (0..r.below(3)).map(|_| rule(r)).collect();
    let ingress = if r.one_in(4) { None } else { Some(rules(r)) };
    let egress = if r.one_in(3) { Some(rules(r)) } else { None };
    let name = Name::new(namespace(model, r), format!("policy-{at}"));
    NetworkPolicy { name, pods: pods(r), ingress, egress, staged: false, at: Position::default() }
}

/// A policy of an administrator.
fn tiered(at: usize, r: &mut Random) -> TieredPolicy {
    let pods = |r: &mut Random| Peer::Pods { namespaces: Some(selector("team", r)), pods: Some(pods(r)) };
    let ends = |r: &mut Random| {
        let peers: Vec<Peer> = (0..r.below(3))
            .map(|_| match peer(r) {
                Peer::Pods { namespaces: None, .. } => pods(r),
                other => other,
            })
            .collect();
        let excluded = !peers.is_empty() && r.one_in(4);
        Ends { peers, excluded }
    };
    let rule = |n: usize, r: &mut Random| {
        let ports = rule(r).ports.into_iter().map(PolicyService::Ports);
        let v6 = r.one_in(2);
        let icmp = PolicyService::Icmp { v6, kind: Some(if v6 { 128 } else { 8 }), code: None };
        let icmp = r.one_in(4).then_some(icmp);
        TieredRule {
            name: format!("rules[{n}]"),
            verdict: r.pick(&[Verdict::Allow, Verdict::Drop, Verdict::Reject, Verdict::Pass]),
            directions: r.pick(&[Directions::In, Directions::Out, Directions::InOut]),
            sources: ends(r),
            destinations: ends(r),
            services: ports.chain(icmp).collect(),
            applied_to: None,
            log_label: None,
        }
    };
    let tiers = [Tier::Emergency, Tier::Environment, Tier::Admin, Tier::Application, Tier::Baseline];
    TieredPolicy {
        id: ObjectId { kind: ObjectKind::SecurityPolicy, name: Name::new("", format!("tiered-{at}")) },
        tier: r.pick(&tiers),
        priority: r.below(3) as u32,
        applied_to: (0..r.below(2)).map(|_| pods(r)).collect(),
        rules: (0..1 + r.below(3)).map(|n| rule(n, r)).collect(),
        staged: r.one_in(6),
        at: Position::default(),
    }
}

fn service(model: &Model, at: usize, r: &mut Random) -> Service {
    let kind = r.pick(&[ServiceKind::ClusterIp, ServiceKind::LoadBalancer]);
    let target = if r.one_in(2) {
        TargetPort::Number(r.pick(&SERVED))
    } else {
        TargetPort::Name(r.pick(&NAMES).to_owned())
    };
    let port = ServicePort { name: String::new(), protocol: r.pick(&PROTOCOLS), port: 80, target };
    Service {
        name: Name::new(namespace(model, r), format!("svc-{at}")),
        kind,
        selector: Some([("app".to_owned(), r.pick(&APPS).to_owned())].into()),
        ports: vec![port],
        cluster_ips: Vec::new(),
        load_balancer_ip: None,
        families: Vec::new(),
        prefer_dual_stack: r.one_in(2),
        publish_not_ready: false,
        external_name: None,
        client_affinity: false,
        at: Position::default(),
    }
}

/// A model that is another one with some things changed.
pub(super) fn changed(model: &Model, r: &mut Random) -> Model {
    let mut next = model.clone();
    for _ in 0..1 + r.below(4) {
        match r.below(10) {
            0 => next.supervisor.ingress_posture = posture(r),
            1 => {
                let cidr = net(r.pick(&["198.51.100.0/24", "0.0.0.0/0"]));
                let mut route: StaticRoute = next.supervisor.static_routes[0].clone();
                route.prefix = cidr.into();
                next.supervisor.static_routes[0] = route;
            }
            2 | 3 => add_pod(&mut next, r),
            4 => {
                let names: Vec<Name> = next.pods.keys().cloned().collect();
                if names.len() > 1 {
                    next.pods.remove(&r.pick(&names));
                }
            }
            5 => {
                let names: Vec<Name> = next.pods.keys().cloned().collect();
                let (name, app) = (r.pick(&names), r.pick(&APPS));
                next.pods.get_mut(&name).unwrap().labels.insert("app".into(), app.into());
            }
            6 => {
                let names: Vec<Name> = next.policies.keys().cloned().collect();
                if !names.is_empty() {
                    next.policies.remove(&r.pick(&names));
                }
            }
            7 => {
                // An address that was another's.
                let first = next.pods.keys().next().cloned();
                next.pods.remove(&first.unwrap());
                add_pod(&mut next, r);
            }
            _ => {
                let new = policy(&next, r.below(5), r);
                next.insert(new.into());
            }
        }
    }
    next
}

pub(super) fn network(model: Model) -> Network {
    Network::new(model, Leases::memory(), UnixSeconds(0)).unwrap()
}

/// One who sends and receives packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Pod(Name),
    Node(String),
    Outside(IpAddr),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Outside(address) => address.fmt(f),
        }
    }
}

/// What can be asked of a packet: its protocol, and its port. ICMP stands for protocols without ports.
pub(super) type Kind = (Proto, u16);

/// Every kind of packet between which rules could tell.
pub(super) fn kinds() -> Vec<Kind> {
    let mut ports: BTreeSet<u16> = [1, 1000].into();
    for number in NUMBERS {
        ports.extend([number.saturating_sub(1), number, number.saturating_add(1)]);
    }
    let protos = PROTOCOLS.map(Proto::from);
    let mut kinds: Vec<Kind> =
        protos.into_iter().flat_map(|p| ports.iter().map(move |port| (p, *port))).collect();
    kinds.push((Proto::ICMP, 0));
    kinds
}

/// Everyone in a network, with their addresses in each family.
pub(super) fn hosts(network: &Network, outside: &[IpAddr]) -> BTreeMap<Host, BTreeMap<IpFamily, IpAddr>> {
    let by_family = |all: &[IpAddr]| all.iter().map(|a| (IpFamily::of(*a), *a)).collect();
    let addressing = network.addressing();
    let pods = addressing.pods.iter().map(|(name, p)| (Host::Pod(name.clone()), by_family(&p.addresses)));
    let nodes = addressing.nodes.iter().map(|(name, all)| (Host::Node(name.clone()), by_family(all)));
    let is_outside = |a: &&IpAddr| super::outside::is_outside(network.snapshot(), **a);
    let outside = outside.iter().filter(is_outside).map(|a| (Host::Outside(*a), by_family(&[*a])));
    pods.chain(nodes).chain(outside).collect()
}

/// Addresses at the ends of every range, and beside them.
pub(super) fn addresses() -> Vec<IpAddr> {
    let beside = |a: IpAddr| {
        let step = |by: i8| -> Option<IpAddr> {
            Some(match a {
                IpAddr::V4(a) => IpAddr::V4(a.to_bits().checked_add_signed(by.into())?.into()),
                IpAddr::V6(a) => IpAddr::V6(a.to_bits().checked_add_signed(by.into())?.into()),
            })
        };
        [-1, 0, 1].into_iter().filter_map(step).collect::<Vec<_>>()
    };
    let ends = RANGES.map(net).into_iter().flat_map(|n| [n.network(), n.broadcast()]);
    let more =
        ["203.0.113.10", "192.168.100.254", "100.64.0.1", "2001:db8:ffff::10"].map(|a| a.parse().unwrap());
    ends.flat_map(beside).chain(more).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether a packet gets there. `None`: no rule decides about it (a pod and itself, a node and its own pods, two
/// addresses outside).
pub(super) fn delivered(snapshot: &Snapshot, src: IpAddr, dst: IpAddr, (proto, port): Kind) -> Option<bool> {
    let (from, to) = (snapshot.endpoint(src), snapshot.endpoint(dst));
    let ingress = match (from, to) {
        (None, None) => return None,
        (Some(from), Some(to)) if from.id == to.id => return None,
        (Some(from), _) => from.id,
        (None, _) => snapshot.tier0.uplinks.first().copied().unwrap_or(PortId(0)),
    };
    if super::ends::endpoint(snapshot, &[dst]).is_some_and(|e| e.node.contains(&src)) {
        return None;
    }
    let proto = if proto == Proto::ICMP && src.is_ipv6() { Proto::ICMPV6 } else { proto };
    let tuple = Tuple { src, dst, proto, sport: 49_152, dport: port };
    let first = First { ingress, tuple, ttl: 64, dst_mac: GATEWAY_MAC, hash: 0, echo: false };
    Some(stage::walk(snapshot, &first, None, &mut ()).is_ok())
}
