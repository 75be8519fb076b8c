//! Every way to be refused, and what is said then.

use super::*;

/// The errors of a model on empty leases, as text.
fn errors(supervisor: Supervisor, objects: Vec<Object>) -> Vec<String> {
    texts(&fresh().plan(&model(supervisor, objects), NOW, &IDLE).unwrap_err().0)
}

fn tiny(field: &str, cidr: &str) -> Supervisor {
    let mut supervisor = Supervisor::default();
    let cidrs = nets(&[cidr]);
    match field {
        "pods" => supervisor.pod_cidrs = cidrs,
        "egress" => supervisor.egress_cidrs = cidrs,
        "nodes" => supervisor.node_cidrs = cidrs,
        _ => supervisor.ingress_cidrs = cidrs,
    }
    supervisor
}

#[test]
fn an_exhausted_pool_names_its_size_and_its_holders() {
    let namespaces =
        |names: &[&str]| names.iter().map(|n| namespace(n, Snat::Pool).into()).collect::<Vec<_>>();
    let small = || tiny("egress", "192.168.90.0/30");
    let got = errors(small(), namespaces(&["shop", "web", "xtra", "yard", "zoo"]));
    assert_eq!(
        got,
        [
            "net.yaml:2:1: SNAT of namespace xtra and 2 others get no address: pool egress 192.168.90.0/30 has 2 \
          addresses, all held: shop, web; add a range to egressCIDRs, or remove a holder"
        ]
    );

    let mut ipam = fresh();
    ipam.now(&model(small(), namespaces(&["shop", "web"])), NOW).unwrap();
    let before = ipam.leases().clone();
    let got = ipam.now(&model(small(), namespaces(&["shop", "zoo"])), NOW.plus(20)).unwrap_err();
    assert_eq!(
        got.to_string(),
        "net.yaml:2:1: SNAT of namespace zoo gets no address: pool egress 192.168.90.0/30 has 2 addresses, \
         1 held: shop; 1 rests until 2023-11-14T22:14:40Z; add a range to egressCIDRs, or remove a holder"
    );
    assert_eq!(*ipam.leases(), before);
    ipam.now(&model(small(), namespaces(&["shop"])), NOW.plus(20)).unwrap();
    let model = model(small(), namespaces(&["shop", "zoo"]));
    let got = ipam.plan(&model, NOW.plus(80), &BTreeSet::from([ip("192.168.90.2")])).unwrap_err();
    assert!(got.to_string().contains("1 rests because living sessions use them"), "{got}");
    assert!(ipam.plan(&model, NOW.plus(80), &IDLE).is_ok());
}

#[test]
fn exhausted_blocks_name_namespaces() {
    let names: Vec<String> = (0..20).map(|i| format!("a/p{i}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["b/p", "c/p", "d/p", "d/q"]).collect();
    let got = errors(tiny("pods", "10.244.0.0/26"), pods(&all));
    assert_eq!(
        got,
        [
            "(built in code): pod a/p3 and 6 others get no address: pool pods 10.244.0.0/26 has 4 blocks of /28, \
          all held: a, b, c, d; add a range to podCIDRs, or remove a holder"
        ]
    );
    let got = errors(tiny("pods", "10.244.0.0/30"), pods(&["a/p"]));
    assert!(got[0].contains("has 0 blocks of /28; add a range to podCIDRs"), "{got:?}");
    let got = errors(tiny("pods", "10.244.0.0/28"), vec![pod("a/p", &["10.244.0.1"]).into()]);
    assert!(got[0].contains("has 1 block of /28; 1 cannot be used"), "{got:?}");
    let got = errors(tiny("nodes", "172.26.0.0/31"), vec![]);
    assert!(got[0].contains("node node-3 gets no address: pool nodes 172.26.0.0/31"), "{got:?}");
    let wide = Supervisor { namespace_prefix: 31, ..Supervisor::default() };
    let got = errors(wide, pods(&["a/p"]));
    assert!(got.len() == 1 && got[0].contains("set namespacePrefixLength to 30 or less"), "{got:?}");
}

#[test]
fn addresses_that_services_and_namespaces_cannot_have() {
    let with = |cluster: &[&str], external: Option<&str>| {
        let mut s = service("a/s", ServiceKind::LoadBalancer);
        s.cluster_ips = cluster.iter().map(|a| asks(a)).collect();
        s.load_balancer_ip = external.map(asks);
        s
    };
    for (service, expected) in [
        (with(&["10.97.0.1"], None), "10.97.0.1, which is not in pool services 10.96.0.0/16"),
        (with(&["10.96.0.0"], None), "which is the network address of 10.96.0.0/16"),
        (with(&["10.96.255.255"], None), "which is the broadcast address of 10.96.0.0/16"),
        (with(&[], Some("10.96.0.9")), "which is not in pool ingress 192.168.80.0/24"),
        (with(&[], Some("fd00::1")), "fd00::1, an IPv6 address, but has no address of that family"),
        (with(&["10.96.0.1", "10.96.0.2"], None), "and for another IPv4 address"),
        (with(&["fd00::1"], None), "needs an IPv6 address, but the Supervisor has no such serviceCIDRs"),
    ] {
        let got = errors(Supervisor::default(), vec![service.into()]);
        assert!(got.iter().any(|e| e.starts_with("net.yaml:7:3: ") && e.contains(expected)), "{got:#?}");
    }
    let mut six = service("a/s", ServiceKind::LoadBalancer);
    six.families = vec![IpFamily::V4, IpFamily::V6];
    let got = errors(Supervisor::default(), vec![six.clone().into()]);
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(got[0].contains("no such serviceCIDRs") && got[1].contains("no such ingressCIDRs"), "{got:?}");
    six.prefer_dual_stack = true;
    let got = fresh().now(&model(Supervisor::default(), [six.into()]), NOW).unwrap();
    assert_eq!(texts(&got.cluster_ips[&name("a/s")]), ["10.96.0.1"]);

    let snat = namespace("a", Snat::Static(vec![asks("192.168.91.1")]));
    let got = errors(Supervisor::default(), vec![snat.into()]);
    assert!(
        got[0].contains("SNAT of namespace a asks for 192.168.91.1, which is not in pool egress"),
        "{got:?}"
    );
}

#[test]
fn addresses_that_pods_cannot_have() {
    let mut ipam = fresh();
    let base = || -> Vec<Object> {
        let mut web = service("a/s", ServiceKind::LoadBalancer);
        web.cluster_ips = vec![asks("10.96.0.10")];
        let mut all = pods(&["a/p", "b/p"]);
        all.push(web.into());
        all
    };
    ipam.now(&model(dual(), base()), NOW).unwrap();
    for (address, expected) in [
        ("10.244.0.0", "which is the network address of 10.244.0.0/28"),
        ("10.244.0.1", "which is the gateway address of 10.244.0.0/28"),
        ("10.244.0.15", "which is the broadcast address of 10.244.0.0/28"),
        ("fd00:10::", "which is the subnet-router anycast address of fd00:10::/64"),
        ("fd00:10::1", "which is the gateway address of fd00:10::/64"),
        ("10.244.0.2", "which is held by pod a/p"),
        ("10.244.0.20", "which lies in block 10.244.0.16/28 of namespace b"),
        ("10.96.0.10", "which lies in pool services 10.96.0.0/24"),
        ("192.168.80.14", "which lies in pool ingress"),
        ("192.168.90.1", "which lies in pool egress"),
        ("172.26.0.2", "which is held by node node-1"),
        ("192.168.100.1", "which is held by uplink uplink-1"),
        ("192.168.100.254", "which is held by the next hop of 0.0.0.0/0"),
        ("224.0.0.1", "choose a unicast address"),
        ("127.0.0.1", "choose a unicast address"),
        ("fe80::5", "choose a unicast address"),
        ("::ffff:10.0.0.1", "choose a unicast address"),
    ] {
        let mut objects = base();
        objects.push(pod("a/new", &[address]).into());
        let got = ipam.plan(&model(dual(), objects), NOW.plus(1), &IDLE).unwrap_err();
        let start = format!("net.yaml:7:3: pod a/new asks for {}, {expected}", ip(address));
        assert!(got.to_string().starts_with(&start) || got.to_string().contains(expected), "{got}");
        assert_eq!(got.0.len(), 1, "{got}");
        assert_eq!(got.0[0].at().line(), Some(7));
    }
}

#[test]
fn resting_addresses_say_until_when() {
    let mut ipam = fresh();
    ipam.now(&model(dual(), vec![pod("a/old", &["203.0.113.5"]).into(), pod("b/p", &[]).into()]), NOW)
        .unwrap();
    ipam.now(&model(dual(), []), NOW.plus(10)).unwrap();
    let ask = |address| model(dual(), vec![pod("c/new", &[address]).into()]);
    let got = ipam.plan(&ask("203.0.113.5"), NOW.plus(30), &IDLE).unwrap_err();
    assert_eq!(
        got.to_string(),
        "net.yaml:7:3: pod c/new asks for 203.0.113.5, which pod a/old gave back and which rests until \
         2023-11-14T22:14:30Z; wait for another 40 s, or choose another one"
    );
    let got = ipam.plan(&ask("203.0.113.5"), NOW.plus(90), &BTreeSet::from([ip("203.0.113.5")])).unwrap_err();
    assert!(got.to_string().contains("which living sessions still use"), "{got}");
    let got = ipam.plan(&ask("10.244.0.25"), NOW.plus(30), &IDLE).unwrap_err();
    assert!(got.to_string().contains("which segment b-0 gave back"), "its whole block rests: {got}");
    for address in ["203.0.113.5", "10.244.0.25"] {
        assert!(ipam.plan(&ask(address), NOW.plus(70), &IDLE).is_ok());
    }
}

#[test]
fn all_errors_of_a_plan_are_told_at_once() {
    let objects: Vec<Object> = vec![
        pod("a/one", &["10.244.3.3"]).into(),
        pod("b/two", &["10.244.3.3"]).into(),
        pod("b/three", &["10.96.0.1"]).into(),
        namespace("c", Snat::Static(vec![asks("1.2.3.4")])).into(),
    ];
    let got = errors(Supervisor::default(), objects);
    assert_eq!(got.len(), 3, "{got:#?}");
    assert!(got.iter().any(|e| e.contains("pod b/two asks for 10.244.3.3, which is held by pod a/one")));
}
