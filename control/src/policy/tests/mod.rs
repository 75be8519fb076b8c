//! Compiled decisions against the words of the API.

pub(crate) mod oracle;

use crate::{
    compile::compile,
    fixture::{Cluster, block, endpoint, http, name, pods_in_own_namespace, tcp},
    intern::Interner,
    model::{IngressPosture, IpFamily, PolicyPort, PortMatch, Protocol, Rule, ServerBackend},
};
use std::{net::IpAddr, sync::Arc};
use supernet_dataplane::{
    snapshot::Snapshot,
    table::{classifier::Action, firewall::Firewall},
    wire::Proto,
};

const WEB: &[(&str, &str)] = &[("app", "web")];
const DB: &[(&str, &str)] = &[("app", "db")];

/// What the rule set of one side says, and in whose name.
fn decide(
    snapshot: &Snapshot,
    set: Option<&Arc<Firewall>>,
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
    assert_eq!(set(&c, "shop/web-0").layers()[0].rules().len(), 1);
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
