//! What IPAM promises, promise by promise.

mod invariants;
mod refusals;
mod speed;

use super::*;
use crate::{
    model::{
        At, IpFamily, Model, Name, Namespace, Node, Object, Pod, Position, Service, ServiceKind, Snat,
        Supervisor,
    },
    store::{Lease, Owner},
};
use ipnet::IpNet;
use std::net::IpAddr;

const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

fn nets(cidrs: &[&str]) -> Vec<At<IpNet>> {
    cidrs.iter().map(|c| At::from(c.parse::<IpNet>().unwrap())).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn asks(address: &str) -> At<IpAddr> {
    At::new(ip(address), Position::new("net.yaml", 7, 3))
}

fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name::new(namespace, name)
}

fn pod(text: &str, addresses: &[&str]) -> Pod {
    Pod { addresses: addresses.iter().map(|a| asks(a)).collect(), ..Pod::new(name(text)) }
}

fn namespace(text: &str, snat: Snat) -> Namespace {
    Namespace { snat, ..Namespace::named(text, Position::new("net.yaml", 2, 1)) }
}

fn service(text: &str, kind: ServiceKind) -> Service {
    Service {
        name: name(text),
        kind,
        selector: None,
        ports: Vec::new(),
        cluster_ips: Vec::new(),
        load_balancer_ip: None,
        families: Vec::new(),
        prefer_dual_stack: false,
        publish_not_ready: false,
        external_name: None,
        client_affinity: false,
        at: Position::new("net.yaml", 4, 1),
    }
}

/// A Supervisor with both families everywhere.
fn dual() -> Supervisor {
    Supervisor {
        pod_cidrs: nets(&["10.244.0.0/24", "fd00:10::/56"]),
        service_cidrs: nets(&["10.96.0.0/24", "fd00:96::/112"]),
        ingress_cidrs: nets(&["192.168.80.0/28", "fd00:80::/120"]),
        egress_cidrs: nets(&["192.168.90.0/28", "fd00:90::/120"]),
        node_cidrs: nets(&["172.26.0.0/24", "fd00:26::/64"]),
        ..Supervisor::default()
    }
}

fn model(supervisor: Supervisor, objects: impl IntoIterator<Item = Object>) -> Model {
    let mut model = Model { supervisor, ..Model::default() };
    objects.into_iter().for_each(|o| model.insert(o));
    model
}

fn pods(names: &[&str]) -> Vec<Object> {
    names.iter().map(|n| pod(n, &[]).into()).collect()
}

static IDLE: BTreeSet<IpAddr> = BTreeSet::new();

impl Ipam {
    fn now(&mut self, model: &Model, now: UnixSeconds) -> Result<Addressing, IpamErrors> {
        let proposal = self.plan(model, now, &IDLE)?;
        let seen = proposal.addressing().clone();
        let done = self.commit(proposal).unwrap();
        assert_eq!(seen, done);
        Ok(done)
    }
}

fn fresh() -> Ipam {
    Ipam::new(Leases::memory())
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(T::to_string).collect()
}

#[test]
fn both_families_are_given_in_order() {
    let mut supervisor = dual();
    supervisor.node_count = 2;
    let mut both = service("shop/web", ServiceKind::LoadBalancer);
    both.families = vec![IpFamily::V6, IpFamily::V4];
    let objects = [
        pod("shop/b", &[]).into(),
        pod("shop/a", &[]).into(),
        Pod { host_network: true, ..pod("shop/host", &[]) }.into(),
        both.into(),
        service("db/sql", ServiceKind::ClusterIp).into(),
        service("db/np", ServiceKind::NodePort).into(),
        service("db/none", ServiceKind::Headless).into(),
        service("db/alias", ServiceKind::ExternalName).into(),
        namespace("quiet", Snat::None).into(),
    ];
    let got = fresh().now(&model(supervisor, objects), NOW).unwrap();
    let segments: Vec<_> =
        got.segments.iter().map(|s| format!("{} {} {}", s.name, s.v4.unwrap(), s.v6.unwrap())).collect();
    assert_eq!(
        segments,
        [
            "db-0 10.244.0.0/28 fd00:10::/64",
            "quiet-0 10.244.0.16/28 fd00:10:0:1::/64",
            "shop-0 10.244.0.32/28 fd00:10:0:2::/64"
        ]
    );
    assert_eq!(texts(&got.pods[&name("shop/a")].addresses), ["10.244.0.34", "fd00:10:0:2::2"]);
    assert_eq!(texts(&got.pods[&name("shop/b")].addresses), ["10.244.0.35", "fd00:10:0:2::3"]);
    assert_eq!(got.pods.len(), 2, "a host-networked pod has its node's address");
    assert_eq!(texts(&got.kube_api), ["192.168.80.1", "fd00:80::1"]);
    assert_eq!(texts(&got.cli_tools), ["192.168.80.2", "fd00:80::2"]);
    assert_eq!(texts(&got.ingress[&name("shop/web")]), ["fd00:80::3", "192.168.80.3"]);
    assert_eq!(texts(&got.cluster_ips[&name("shop/web")]), ["fd00:96::1", "10.96.0.3"]);
    assert_eq!(texts(&got.cluster_ips[&name("db/np")]), ["10.96.0.1"]);
    assert_eq!(texts(&got.cluster_ips[&name("db/sql")]), ["10.96.0.2"]);
    assert_eq!((got.cluster_ips.len(), got.ingress.len()), (3, 1));
    assert_eq!(texts(&got.egress["db"]), ["192.168.90.1", "fd00:90::1"]);
    assert_eq!(texts(&got.egress["shop"]), ["192.168.90.2", "fd00:90::2"]);
    assert!(!got.egress.contains_key("quiet"));
    assert_eq!(texts(&got.nodes["node-2"]), ["172.26.0.3", "fd00:26::2"]);
    assert_eq!(got.nodes.len(), 2);
}

#[test]
fn a_full_block_is_followed_by_another_and_an_empty_one_is_given_back() {
    let names: Vec<String> = (0..14).map(|i| format!("shop/p{i:02}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut ipam = fresh();
    let got = ipam.now(&model(dual(), pods(&all).into_iter().chain(pods(&["zoo/z"]))), NOW).unwrap();
    let last = &got.pods[&name("shop/p13")];
    assert_eq!(last.segment, "shop-1");
    assert_eq!(texts(&last.addresses), ["10.244.0.34", "fd00:10:0:2::2"], "zoo's first segment comes before");
    assert_eq!(texts(&got.pods[&name("shop/p12")].addresses), ["10.244.0.14", "fd00:10::e"]);

    let fewer = model(dual(), pods(&all[..13]).into_iter().chain(pods(&["zoo/z"])));
    let got = ipam.now(&fewer, NOW.plus(1)).unwrap();
    assert_eq!(got.segments.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["shop-0", "zoo-0"]);
    let block = &ipam.leases()[&"10.244.0.32/28".parse().unwrap()];
    assert_eq!(block.resting_until, Some(NOW.plus(61)));

    // While it rests, others pass over it, and shop has it back.
    let more = pods(&all).into_iter().chain(pods(&["zoo/z", "abc/a"]));
    let got = ipam.now(&model(dual(), more), NOW.plus(2)).unwrap();
    assert_eq!(got.pods[&name("shop/p13")].addresses[0], ip("10.244.0.34"));
    assert_eq!(got.segments[0].v4.unwrap().to_string(), "10.244.0.48/28");
}

#[test]
fn what_is_there_stays_and_what_is_freed_rests() {
    let mut ipam = fresh();
    let a = model(dual(), pods(&["shop/b", "shop/c"]));
    let before = ipam.now(&a, NOW).unwrap();
    // `a` comes before the others by name, and yet takes nothing from them.
    let got = ipam.now(&model(dual(), pods(&["shop/a", "shop/c"])), NOW.plus(10)).unwrap();
    assert_eq!(got.pods[&name("shop/c")], before.pods[&name("shop/c")]);
    assert_eq!(got.pods[&name("shop/a")].addresses[0], ip("10.244.0.4"), "b's address rests");
    // The last owner has it back at once.
    let mut again = ipam.now(&model(dual(), pods(&["shop/b", "shop/c"])), NOW.plus(11)).unwrap();
    assert_eq!(again.pods, before.pods);
    // Others have it when it has rested, to the second.
    ipam.now(&model(dual(), pods(&["shop/c"])), NOW.plus(100)).unwrap();
    again = ipam.now(&model(dual(), pods(&["shop/c", "shop/x"])), NOW.plus(159)).unwrap();
    assert_eq!(again.pods[&name("shop/x")].addresses[0], ip("10.244.0.4"), "a's rested from 11 to 71");
    again = ipam.now(&model(dual(), pods(&["shop/c", "shop/x", "shop/y"])), NOW.plus(160)).unwrap();
    assert_eq!(again.pods[&name("shop/y")].addresses[0], ip("10.244.0.2"));
    // And nothing of what rested long ago is kept on record.
    assert!(ipam.leases().values().all(Lease::is_held));
}

#[test]
fn an_address_in_use_by_sessions_rests_on() {
    let mut ipam = fresh();
    ipam.now(&model(dual(), [namespace("a", Snat::Pool).into()]), NOW).unwrap();
    let b = model(dual(), [namespace("b", Snat::Pool).into()]);
    let busy = BTreeSet::from([ip("192.168.90.1")]);
    let second = |ipam: &Ipam, now, busy| ipam.plan(&b, now, busy).unwrap().addressing().egress["b"][0];
    ipam.now(&model(dual(), []), NOW).unwrap();
    assert_eq!(second(&ipam, NOW.plus(59), &IDLE), ip("192.168.90.2"));
    assert_eq!(second(&ipam, NOW.plus(60), &IDLE), ip("192.168.90.1"));
    assert_eq!(second(&ipam, NOW.plus(9999), &busy), ip("192.168.90.2"));
    let proposal = ipam.plan(&model(dual(), []), NOW.plus(9999), &busy).unwrap();
    ipam.commit(proposal).unwrap();
    let a = Owner::Egress("a".into());
    assert_eq!(ipam.leases()[&"192.168.90.1/32".parse().unwrap()].owner, a, "still on record");
    assert_eq!(second(&fresh(), NOW, &busy), ip("192.168.90.2"), "also if its lease was lost");
}

#[test]
fn what_is_asked_for_comes_first_and_a_changed_wish_changes_the_address() {
    let mut wish = service("z/last", ServiceKind::LoadBalancer);
    wish.cluster_ips = vec![asks("10.96.0.1")];
    wish.load_balancer_ip = Some(asks("192.168.80.1"));
    let mut supervisor = dual();
    supervisor.cli_tools.address = Some(asks("192.168.80.2"));
    let objects = |wish: Service, z: &str| -> Vec<Object> {
        vec![
            wish.into(),
            service("a/first", ServiceKind::LoadBalancer).into(),
            pod("shop/a", &[]).into(),
            pod("shop/z", &[z]).into(),
            namespace("a", Snat::Pool).into(),
            namespace("z", Snat::Static(vec![asks("192.168.90.1")])).into(),
            Node {
                name: "n1".into(),
                labels: Default::default(),
                addresses: vec![asks("172.26.0.1"), asks("203.0.113.5")],
                at: Position::default(),
            }
            .into(),
            Node {
                name: "n0".into(),
                labels: Default::default(),
                addresses: vec![],
                at: Position::default(),
            }
            .into(),
        ]
    };
    let mut ipam = fresh();
    let got = ipam.now(&model(supervisor.clone(), objects(wish.clone(), "10.244.0.18")), NOW).unwrap();
    assert_eq!(texts(&got.cluster_ips[&name("z/last")]), ["10.96.0.1"]);
    assert_eq!(texts(&got.cluster_ips[&name("a/first")]), ["10.96.0.2"]);
    assert_eq!(texts(&got.ingress[&name("z/last")]), ["192.168.80.1"]);
    assert_eq!(texts(&got.cli_tools), ["192.168.80.2", "fd00:80::2"]);
    assert_eq!(texts(&got.kube_api), ["192.168.80.3", "fd00:80::1"]);
    assert_eq!(texts(&got.egress["z"]), ["192.168.90.1", "fd00:90::3"], "the other family is from the pool");
    assert_eq!(texts(&got.egress["a"]), ["192.168.90.2", "fd00:90::1"]);
    assert_eq!(texts(&got.nodes["n1"]), ["172.26.0.1", "203.0.113.5"]);
    assert_eq!(texts(&got.nodes["n0"]), ["172.26.0.2", "fd00:26::1"]);
    // A foothold: the block around the address goes to the namespace that asked.
    assert_eq!(got.segments[1].v4.unwrap().to_string(), "10.244.0.16/28");
    assert_eq!(got.pods[&name("shop/a")].addresses[0], ip("10.244.0.19"));

    wish.cluster_ips = vec![asks("10.96.0.77")];
    let got = ipam.now(&model(supervisor, objects(wish, "10.244.0.25")), NOW.plus(5)).unwrap();
    assert_eq!(texts(&got.cluster_ips[&name("z/last")]), ["10.96.0.77"]);
    assert_eq!(texts(&got.cluster_ips[&name("a/first")]), ["10.96.0.2"]);
    assert_eq!(got.pods[&name("shop/z")].addresses[0], ip("10.244.0.25"));
    assert_eq!(got.pods[&name("shop/a")].addresses[0], ip("10.244.0.19"));
}

#[test]
fn pods_may_ask_for_any_address_that_is_nobodys() {
    let objects: Vec<Object> = vec![
        pod("a/x", &["10.244.0.2"]).into(),
        pod("b/x", &["10.244.0.3"]).into(),
        pod("c/gate", &["10.244.0.33"]).into(),
        pod("d/far", &["203.0.113.9", "2001:db8::9"]).into(),
        pod("e/six", &["fd00:10:0:5::7", "10.244.0.200"]).into(),
    ];
    let mut ipam = fresh();
    let all = model(dual(), objects);
    let got = ipam.now(&all, NOW).unwrap();
    let blocks: Vec<_> = got.segments.iter().map(|s| s.v4.unwrap().to_string()).collect();
    // The first slot is shared by a and b, the third has a pod where the gateway would be: neither is cut.
    // e has a foothold in the last but four.
    let expected =
        ["10.244.0.16/28", "10.244.0.48/28", "10.244.0.64/28", "10.244.0.80/28", "10.244.0.192/28"];
    assert_eq!(blocks, expected);
    assert_eq!(got.pods[&name("a/x")].segment, "a-0");
    assert_eq!(texts(&got.pods[&name("a/x")].addresses), ["10.244.0.2", "fd00:10::2"]);
    assert_eq!(texts(&got.pods[&name("d/far")].addresses), ["203.0.113.9", "2001:db8::9"]);
    assert_eq!(texts(&got.pods[&name("e/six")].addresses), ["fd00:10:0:5::7", "10.244.0.200"], "as written");
    assert_eq!(got.segments[4].v6.unwrap().to_string(), "fd00:10:0:5::/64");
    assert_eq!(ipam.now(&all, NOW.plus(500)).unwrap(), got, "and so it stays");
}

#[test]
fn a_changed_pool_moves_only_who_is_outside() {
    let mut ipam = fresh();
    let mut objects = pods(&["a/p", "b/p"]);
    objects.push(service("a/s", ServiceKind::LoadBalancer).into());
    let before = ipam.now(&model(dual(), objects.clone()), NOW).unwrap();
    let mut changed = dual();
    changed.pod_cidrs = nets(&["10.244.0.16/28", "10.9.0.0/24", "fd00:10::/56"]);
    changed.egress_cidrs = nets(&["192.168.90.2/32", "192.168.91.0/24"]);
    let got = ipam.now(&model(changed.clone(), objects.clone()), NOW.plus(1)).unwrap();
    assert_eq!(got.pods[&name("b/p")], before.pods[&name("b/p")]);
    assert_eq!(texts(&got.pods[&name("a/p")].addresses), ["10.9.0.2", "fd00:10::2"]);
    assert_eq!(texts(&got.egress["a"]), ["192.168.91.1"]);
    assert_eq!(texts(&got.egress["b"]), ["192.168.90.2"]);
    assert_eq!(got.ingress, before.ingress);

    // Blocks of another size: all are cut anew, also around those that rest.
    changed.namespace_prefix = 26;
    let got = ipam.now(&model(changed, objects), NOW.plus(2)).unwrap();
    assert!(got.segments.iter().all(|s| s.v4.unwrap().prefix_len() == 26), "{:?}", got.segments);
}

#[test]
fn proposals_change_nothing_and_old_ones_are_refused() {
    let mut ipam = fresh();
    let first = ipam.plan(&model(dual(), pods(&["a/p"])), NOW, &IDLE).unwrap();
    let second = ipam.plan(&model(dual(), pods(&["b/p"])), NOW, &IDLE).unwrap();
    assert!(ipam.leases().is_empty());
    ipam.commit(second).unwrap();
    let before = ipam.leases().clone();
    assert!(matches!(ipam.commit(first), Err(StoreError::Stale)));
    assert_eq!(*ipam.leases(), before);
    let foreign = fresh().plan(&model(dual(), []), NOW, &IDLE).unwrap();
    assert!(matches!(ipam.commit(foreign), Err(StoreError::Stale)), "of another IPAM");
}

#[test]
fn after_a_failed_write_nothing_is_leased() {
    #[derive(Debug)]
    struct Full;
    impl LeaseStore for Full {
        fn load(&mut self) -> Result<LeaseTable, StoreError> {
            Ok(LeaseTable::new())
        }
        fn apply(&mut self, _: &LeaseBatch) -> Result<(), StoreError> {
            Err(StoreError::Write { why: "disk full".into() })
        }
    }
    let mut ipam = Ipam::new(Leases::load(Full).unwrap());
    let model = model(dual(), pods(&["a/p"]));
    let proposal = ipam.plan(&model, NOW, &IDLE).unwrap();
    let error = ipam.commit(proposal.clone()).unwrap_err();
    assert!(error.to_string().contains("disk full"), "{error}");
    assert!(ipam.leases().is_empty());
    assert!(matches!(ipam.commit(proposal), Err(StoreError::Broken)));
}
