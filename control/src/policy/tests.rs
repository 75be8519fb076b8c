//! Compiled decisions against the words of the API, and against a slow oracle that asks every policy.

use crate::{
    compile::compile,
    fixture::{Cluster, block, endpoint, http, name, pods_in_own_namespace, tcp},
    intern::Interner,
    model::{
        ContainerPort, IngressPosture, IpFamily, Labels, Model, Name, Operator, Peer, Pod, PolicyPort,
        PortMatch, Protocol, Requirement, Rule, Selector, ServerBackend,
    },
};
use proptest::prelude::*;
use std::{net::IpAddr, sync::Arc};
use supernet_dataplane::{
    snapshot::Snapshot,
    table::classifier::{Action, RuleSet},
    wire::Proto,
};

const WEB: &[(&str, &str)] = &[("app", "web")];
const DB: &[(&str, &str)] = &[("app", "db")];

/// What the rule set of one side says, and in whose name.
fn decide(
    snapshot: &Snapshot,
    set: Option<&Arc<RuleSet>>,
    peer: IpAddr,
    proto: Proto,
    port: u16,
) -> (bool, String) {
    let Some(set) = set else { return (true, "no policy".to_owned()) };
    let decision = set.decide(snapshot.identities.of(peer), proto, port);
    (decision.action == Action::Allow, snapshot.names.rules[&decision.rule].to_string())
}

fn ingress(snapshot: &Snapshot, from: IpAddr, to: IpAddr, proto: Proto, port: u16) -> (bool, String) {
    decide(snapshot, endpoint(snapshot, to).and_then(|e| e.ingress.as_ref()), from, proto, port)
}

fn egress(snapshot: &Snapshot, from: IpAddr, to: IpAddr, proto: Proto, port: u16) -> (bool, String) {
    decide(snapshot, endpoint(snapshot, from).and_then(|e| e.egress.as_ref()), to, proto, port)
}

fn said(allowed: bool, by: &str) -> (bool, String) {
    (allowed, by.to_owned())
}

const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

fn shop() -> Cluster {
    let mut c = Cluster::default();
    c.pod("shop/web-0", WEB).ports = vec![http(8080)];
    c.pod("shop/web-1", WEB).ports = vec![http(8081)];
    c.pod("shop/db-0", DB);
    c.pod("blog/web-0", WEB);
    c
}

fn v4(c: &Cluster, pod: &str) -> IpAddr {
    c.address(&name(pod), IpFamily::V4)
}

#[test]
fn the_posture_decides_for_pods_that_no_policy_isolates() {
    let mut c = shop();
    let (web, db, blog) = (v4(&c, "shop/web-0"), v4(&c, "shop/db-0"), v4(&c, "blog/web-0"));
    let node = IpAddr::from([172, 26, 0, 2]);
    let reach = |c: &Cluster| {
        let s = c.compile().unwrap();
        [db, blog, node, OUTSIDE].map(|from| ingress(&s, from, web, Proto::TCP, 80).0)
    };
    assert_eq!(reach(&c), [false; 4], "deny is the default");
    c.model.supervisor.ingress_posture = IngressPosture::AllowNamespace;
    assert_eq!(reach(&c), [true, false, false, false]);
    c.model.supervisor.ingress_posture = IngressPosture::AllowCluster;
    assert_eq!(reach(&c), [true, true, true, false]);
    c.model.supervisor.ingress_posture = IngressPosture::Allow;
    assert_eq!(reach(&c), [true; 4]);
    let s = c.compile().unwrap();
    assert_eq!(egress(&s, web, OUTSIDE, Proto::ICMP, 0), said(true, "posture egress"));
}

#[test]
fn backends_of_the_default_servers_are_exempt_until_a_policy_isolates_them() {
    let mut c = shop();
    let backend = ServerBackend::Pod(name("shop/web-0"), 8080);
    c.model.supervisor.kube_api.backends = vec![backend.into()];
    let (web, other) = (v4(&c, "shop/web-0"), v4(&c, "shop/web-1"));
    let s = c.compile().unwrap();
    assert_eq!(ingress(&s, OUTSIDE, web, Proto::TCP, 8080), said(true, "posture default servers"));
    assert_eq!(ingress(&s, OUTSIDE, other, Proto::TCP, 8080), said(false, "posture deny"));
    c.policy("shop/deny", &[], Some(Vec::new()), None);
    let s = c.compile().unwrap();
    assert_eq!(ingress(&s, OUTSIDE, web, Proto::TCP, 8080), said(false, "shop/deny isolation"));
}

#[test]
fn decisions_carry_the_names_of_their_policies() {
    let mut c = shop();
    let rule = Rule { peers: vec![pods_in_own_namespace(WEB)], ports: vec![tcp(5432)] };
    c.policy("shop/db", DB, Some(vec![Rule { peers: vec![], ports: vec![tcp(1)] }, rule]), None);
    c.policy("shop/all", &[], Some(Vec::new()), Some(Vec::new()));
    let s = c.compile().unwrap();
    let (web, db) = (v4(&c, "shop/web-0"), v4(&c, "shop/db-0"));
    assert_eq!(ingress(&s, web, db, Proto::TCP, 5432), said(true, "shop/db ingress[1]"));
    assert_eq!(ingress(&s, web, db, Proto::TCP, 5433), said(false, "shop/all, shop/db isolation"));
    assert!(!ingress(&s, v4(&c, "blog/web-0"), db, Proto::TCP, 5432).0, "other namespace");
    assert_eq!(egress(&s, web, db, Proto::TCP, 5432), said(false, "shop/all isolation"));
}

#[test]
fn pods_share_rule_sets_unless_their_named_ports_differ() {
    let mut c = shop();
    c.pod("shop/web-2", WEB).ports = vec![http(8080)];
    let set = |c: &Cluster, pod: &str| {
        let s = c.compile().unwrap();
        endpoint(&s, v4(c, pod)).unwrap().ingress.clone().unwrap()
    };
    let one_compile = |c: &Cluster, a: &str, b: &str| {
        let s = c.compile().unwrap();
        let set = |pod| endpoint(&s, v4(c, pod)).unwrap().ingress.as_ref().unwrap();
        Arc::ptr_eq(set(a), set(b))
    };
    let number = vec![Rule { peers: vec![], ports: vec![tcp(80)] }];
    c.policy("shop/web", WEB, Some(number), None);
    assert!(one_compile(&c, "shop/web-0", "shop/web-1"), "ports play no part");
    let named = PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Named("http".into()) };
    c.policy("shop/web", WEB, Some(vec![Rule { peers: vec![], ports: vec![named] }]), None);
    assert!(!one_compile(&c, "shop/web-0", "shop/web-1"));
    assert!(one_compile(&c, "shop/web-0", "shop/web-2"));
    let s = c.compile().unwrap();
    for (pod, port) in [("shop/web-0", 8080), ("shop/web-1", 8081)] {
        for probe in [8080, 8081] {
            assert_eq!(
                ingress(&s, OUTSIDE, v4(&c, pod), Proto::TCP, probe).0,
                probe == port,
                "{pod} {probe}"
            );
        }
    }
    assert_eq!(set(&c, "shop/web-0").rules().len(), 1);
}

#[test]
fn a_named_port_that_nobody_has_matches_nothing() {
    let mut c = shop();
    let named = PolicyPort { protocol: Protocol::Udp, port: PortMatch::Named("http".into()) };
    let rules = || Some(vec![Rule { peers: vec![], ports: vec![named.clone()] }]);
    c.policy("shop/all", &[], rules(), rules());
    let s = c.compile().unwrap();
    let (web, db) = (v4(&c, "shop/web-0"), v4(&c, "shop/db-0"));
    for proto in [Proto::TCP, Proto::UDP, Proto::ICMP] {
        assert!(!ingress(&s, db, web, proto, 8080).0);
        assert!(!egress(&s, db, web, proto, 8080).0);
        assert!(!egress(&s, db, OUTSIDE, proto, 8080).0);
    }
}

#[test]
fn egress_names_are_resolved_on_each_destination() {
    let mut c = shop();
    let named = PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Named("http".into()) };
    let rule = Rule { peers: vec![pods_in_own_namespace(WEB)], ports: vec![named] };
    c.policy("shop/db", DB, None, Some(vec![rule]));
    let s = c.compile().unwrap();
    let db = v4(&c, "shop/db-0");
    let open = |to: &str| [8080, 8081].map(|port| egress(&s, db, v4(&c, to), Proto::TCP, port).0);
    assert_eq!(open("shop/web-0"), [true, false]);
    assert_eq!(open("shop/web-1"), [false, true]);
    assert_eq!(open("blog/web-0"), [false, false]);
}

#[test]
fn blocks_match_addresses_of_their_family_in_cidr_and_in_no_exception() {
    let mut c = shop();
    let rule = Rule { peers: vec![block("10.0.0.0/8", &["10.244.1.0/24"])], ports: vec![] };
    c.policy("shop/web", WEB, Some(vec![rule]), None);
    let s = c.compile().unwrap();
    let web = v4(&c, "shop/web-0");
    let from = |ip: &str| ingress(&s, ip.parse().unwrap(), web, Proto::TCP, 80).0;
    assert!(from("10.244.0.2"), "a pod in the range: blog/web-0");
    assert!(!from("10.244.1.2"), "a pod in the exception: shop/db-0");
    assert!(from("10.1.2.3"), "an address nobody here has");
    assert!(!from("10.244.1.77"));
    assert!(!from("11.0.0.1"));
    assert!(!from("fd00::1:0:0:0:2"));
}

#[test]
fn host_networked_pods_stand_outside_policy() {
    let mut c = shop();
    let host = c.pod("shop/agent", WEB);
    host.host_network = true;
    host.node = Some("node-2".to_owned().into());
    c.policy(
        "shop/all",
        &[],
        Some(vec![Rule { peers: vec![pods_in_own_namespace(&[])], ports: vec![] }]),
        None,
    );
    let node = IpAddr::from([172, 26, 0, 3]);
    let s = c.compile().unwrap();
    assert!(endpoint(&s, node).unwrap().ingress.is_none());
    assert!(!ingress(&s, node, v4(&c, "shop/web-0"), Proto::TCP, 80).0, "no selector sees it");
    c.policy(
        "shop/all",
        &[],
        Some(vec![Rule { peers: vec![block("172.26.0.3/32", &[])], ports: vec![] }]),
        None,
    );
    let s = c.compile().unwrap();
    assert!(ingress(&s, node, v4(&c, "shop/web-0"), Proto::TCP, 80).0, "its address is an address");
}

#[test]
fn identities_are_as_few_as_rules_can_tell_apart() {
    let mut c = Cluster::default();
    for n in 0..50 {
        let index = n.to_string();
        let app = if n % 2 == 0 { "a" } else { "b" };
        c.pod(&format!("shop/p-{n}"), &[("app", app), ("pod-index", &index)]);
    }
    c.policy(
        "shop/a",
        &[("pod-index", "3")],
        Some(vec![Rule { peers: vec![pods_in_own_namespace(&[("app", "a")])], ports: vec![] }]),
        None,
    );
    let s = c.compile().unwrap();
    let distinct: std::collections::BTreeSet<_> =
        c.model.pods.keys().map(|p| s.identities.of(c.address(p, IpFamily::V4))).collect();
    assert_eq!(distinct.len(), 2, "app=a and app=b; no peer asks for the index");
}

#[test]
fn ids_are_the_same_in_every_compile_of_a_network() {
    let mut c = shop();
    c.policy("shop/db", DB, Some(vec![Rule { peers: vec![block("10.0.0.0/8", &[])], ports: vec![] }]), None);
    let mut interner = Interner::default();
    let first = compile(&c.model, &c.addressing(), &mut interner).unwrap();
    let mut other = c.clone();
    other.model.policies.clear();
    compile(&other.model, &other.addressing(), &mut interner).unwrap();
    let again = compile(&c.model, &c.addressing(), &mut interner).unwrap();
    assert_eq!(first, again);
    assert_eq!(first, c.compile().unwrap(), "and what was compiled before plays no part in a fresh one");
}

// ---- the oracle: the API's words, asked of every policy for every probe

enum Place<'a> {
    Pod(&'a Pod),
    Elsewhere,
}

impl Place<'_> {
    /// What selectors can see.
    fn selectable(&self) -> Option<&Pod> {
        match self {
            Place::Pod(pod) if !pod.host_network => Some(pod),
            _ => None,
        }
    }
}

fn peer_matches(model: &Model, own: &str, peer: &Peer, other: &Place<'_>, addr: IpAddr) -> bool {
    match peer {
        Peer::Block { cidr, except } => cidr.contains(&addr) && !except.iter().any(|e| e.contains(&addr)),
        Peer::Pods { namespaces, pods } => other.selectable().is_some_and(|pod| {
            let namespace = &model.namespaces[&pod.name.namespace];
            let there = match namespaces {
                None => namespace.name == own,
                Some(selector) => selector.matches(&namespace.labels),
            };
            there && pods.as_ref().is_none_or(|s| s.matches(&pod.labels))
        }),
    }
}

fn port_matches(port: &PolicyPort, destination: &Place<'_>, protocol: Protocol, number: u16) -> bool {
    port.protocol == protocol
        && match &port.port {
            PortMatch::All => true,
            PortMatch::Numbers { from, to } => (*from..=*to).contains(&number),
            PortMatch::Named(name) => match destination {
                Place::Pod(pod) => {
                    pod.ports.iter().any(|p| p.name == *name && p.protocol == protocol && p.port == number)
                }
                Place::Elsewhere => false,
            },
        }
}

#[derive(Clone, Copy)]
struct Probe {
    protocol: Protocol,
    port: u16,
}

fn oracle(
    model: &Model,
    me: &Place<'_>,
    other: &Place<'_>,
    other_addr: IpAddr,
    ingress: bool,
    probe: Probe,
) -> bool {
    let Some(pod) = me.selectable() else { return true };
    let destination = if ingress { me } else { other };
    let mut isolated = false;
    for policy in model.policies.values() {
        let rules = if ingress { &policy.ingress } else { &policy.egress };
        let Some(rules) = rules else { continue };
        if policy.name.namespace != pod.name.namespace || !policy.pods.matches(&pod.labels) {
            continue;
        }
        isolated = true;
        let allowed = rules.iter().any(|rule| {
            let own = &policy.name.namespace;
            (rule.peers.is_empty()
                || rule.peers.iter().any(|p| peer_matches(model, own, p, other, other_addr)))
                && (rule.ports.is_empty()
                    || rule.ports.iter().any(|p| port_matches(p, destination, probe.protocol, probe.port)))
        });
        if allowed {
            return true;
        }
    }
    !isolated
}

fn some_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[ab]", "[xy]?", 0..3)
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || prop::collection::vec("[xy]?", 1..3);
    let operator = prop_oneof![
        values().prop_map(Operator::In),
        values().prop_map(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
    ];
    let requirement = ("[ab]", operator).prop_map(|(key, operator)| Requirement { key, operator });
    prop::collection::vec(requirement, 0..3).prop_map(|requirements| Selector { requirements })
}

/// Ranges around the addresses that pods, nodes and the probes' outside have.
fn range() -> impl Strategy<Value = ipnet::IpNet> {
    let v4 = (
        prop::sample::select(vec![[10u8, 244, 0, 2], [10, 244, 1, 3], [172, 26, 0, 2], [203, 0, 113, 9]]),
        0u8..=32,
    )
        .prop_map(|(a, len)| ipnet::IpNet::new(IpAddr::from(a), len).unwrap());
    let v6 = (prop::sample::select(vec!["fd00::2", "fd00:0:0:1::3", "2001:db8::9"]), 0u8..=128)
        .prop_map(|(a, len)| ipnet::IpNet::new(a.parse().unwrap(), len).unwrap());
    prop_oneof![3 => v4, 2 => v6]
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        (range(), prop::collection::vec(range(), 0..3))
            .prop_map(|(cidr, except)| Peer::Block { cidr, except }),
        (prop::option::of(selector()), prop::option::of(selector()))
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![2 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn policy_port() -> impl Strategy<Value = PolicyPort> {
    let port = prop_oneof![
        Just(PortMatch::All),
        (78u16..84, 0u16..4).prop_map(|(from, more)| PortMatch::Numbers { from, to: from + more }),
        "[pq]".prop_map(PortMatch::Named),
    ];
    (protocol(), port).prop_map(|(protocol, port)| PolicyPort { protocol, port })
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(policy_port(), 0..3))
        .prop_map(|(peers, ports)| Rule { peers, ports });
    prop::option::weighted(0.7, prop::collection::vec(rule, 0..3))
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let port = ("[pq]?", protocol(), 79u16..83).prop_map(|(name, protocol, port)| ContainerPort {
        name,
        protocol,
        port,
    });
    let pod = (0..3usize, some_labels(), prop::collection::vec(port, 0..3), prop::bool::weighted(0.15));
    let policy = (0..3usize, selector(), rules(), rules());
    (
        prop::collection::vec(some_labels(), 3),
        prop::collection::vec(pod, 1..6),
        prop::collection::vec(policy, 0..5),
    )
        .prop_map(|(namespaces, pods, policies)| {
            let mut c = Cluster::default();
            c.model.supervisor.ingress_posture = IngressPosture::Allow;
            const NAMES: [&str; 3] = ["x", "y", "z"];
            for (n, labels) in namespaces.into_iter().enumerate() {
                let mut namespace = crate::model::Namespace::named(NAMES[n], Default::default());
                namespace.labels.extend(labels);
                c.model.insert(namespace.into());
            }
            // At most one host-networked pod a node: at one address they could not be told apart.
            let mut nodes = 1..=3;
            for (n, (ns, labels, ports, host)) in pods.into_iter().enumerate() {
                let mut pod = Pod::new(Name::new(NAMES[ns], format!("p{n}")));
                pod.labels = labels;
                pod.ports = ports;
                if let Some(node) = nodes.next().filter(|_| host) {
                    pod.host_network = true;
                    pod.node = Some(format!("node-{node}").into());
                }
                c.model.insert(pod.into());
            }
            for (n, (ns, pods, ingress, egress)) in policies.into_iter().enumerate() {
                let name = Name::new(NAMES[ns], format!("np{n}"));
                let at = Default::default();
                c.model.insert(crate::model::NetworkPolicy { name, pods, ingress, egress, at }.into());
            }
            c
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_asking_every_policy(c in cluster()) {
        let snapshot = c.compile().unwrap();
        let addressing = c.addressing();
        for family in [IpFamily::V4, IpFamily::V6] {
            let mut ends: Vec<(Place<'_>, IpAddr)> = c.model.pods.values().map(|pod| {
                let addresses = match &pod.node {
                    Some(node) => &addressing.nodes[&node.value],
                    None => &addressing.pods[&pod.name].addresses,
                };
                (Place::Pod(pod), *addresses.iter().find(|a| IpFamily::of(**a) == family).unwrap())
            }).collect();
            let elsewhere: [&str; 3] = match family {
                IpFamily::V4 => ["203.0.113.9", "203.0.113.200", "10.244.0.99"],
                IpFamily::V6 => ["2001:db8::9", "2001:db8::ff00", "fd00::99"],
            };
            ends.extend(elsewhere.iter().map(|a| (Place::Elsewhere, a.parse().unwrap())));
            for (from, from_addr) in &ends {
                for (to, to_addr) in &ends {
                    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                        for port in 77..88 {
                            let probe = Probe { protocol, port };
                            let got = (
                                egress(&snapshot, *from_addr, *to_addr, protocol.into(), port).0,
                                ingress(&snapshot, *from_addr, *to_addr, protocol.into(), port).0,
                            );
                            let want = (
                                oracle(&c.model, from, to, *to_addr, false, probe),
                                oracle(&c.model, to, from, *from_addr, true, probe),
                            );
                            prop_assert_eq!(got, want, "(egress, ingress) {} -> {} {} {}", from_addr, to_addr, protocol, port);
                        }
                    }
                }
            }
        }
    }
}
