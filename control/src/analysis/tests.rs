//! Plans and reach of small clusters.

use super::{
    judge::Judge,
    plan::Plan,
    reach::{self, EndKind, Reach, Row},
};
use crate::{
    compile::compile,
    fixture::{Cluster, block, endpoint, http, name, pods_in_own_namespace, tcp},
    intern::Interner,
    model::{IngressPosture, IpFamily, Rule, ServerBackend, ServiceKind, Snat, TargetPort, Tier1Layout},
};
use serde_json::{Value, json};

const WEB: &[(&str, &str)] = &[("app", "web")];

fn shop() -> Cluster {
    let mut c = Cluster::default();
    for n in 0..3 {
        let web = c.pod(&format!("shop/web-{n}"), WEB);
        web.ports = vec![http(8080)];
        web.owner = Some("deployment/web".into());
    }
    c.pod("shop/db-0", &[("app", "db")]);
    c
}

fn plan(c: &Cluster) -> Value {
    let (addressing, mut interner) = (c.addressing(), Interner::default());
    let snapshot = compile(&c.model, &addressing, &mut interner).unwrap();
    serde_json::to_value(Plan::of(&c.model, &addressing, &snapshot, &mut interner).unwrap()).unwrap()
}

fn reach(c: &Cluster) -> Reach {
    let (addressing, mut interner) = (c.addressing(), Interner::default());
    let snapshot = compile(&c.model, &addressing, &mut interner).unwrap();
    Reach::of(&c.model, &addressing, &snapshot, &mut interner).unwrap()
}

/// "source > destination: ports" of every row whose destination is this.
fn rows_to(reach: &Reach, destination: &str) -> Vec<String> {
    let rows = reach.rows.iter().filter(|r| r.destinations.iter().any(|d| d == destination));
    let pairs = rows.flat_map(|r| r.sources.iter().map(move |source| (source, r)));
    pairs
        .map(|(source, r)| {
            format!("{source}{}: {}", r.family.map(|f| format!(" {f}")).unwrap_or_default(), r.ports)
        })
        .collect()
}

/// The row of one pair.
fn row<'a>(reach: &'a Reach, source: &str, destination: &str) -> &'a Row {
    let has = |names: &[String], name| names.iter().any(|n| n == name);
    reach.rows.iter().find(|r| has(&r.sources, source) && has(&r.destinations, destination)).unwrap()
}

#[test]
fn the_plan_has_the_documented_fields() {
    let mut c = shop();
    c.service("shop/web", ServiceKind::LoadBalancer, WEB, TargetPort::Name("http".into()));
    let plan = plan(&c);
    assert_eq!(
        plan["pods"][1],
        json!({
            "name": "shop/web-0", "ip": "10.244.0.3", "ips": ["10.244.0.3", "fd00::3"], "node": "node-2",
            "segment": "shop-0", "mac": "02:50:56:80:00:01", "hostNetwork": false, "workload": "deployment/web",
        })
    );
    assert_eq!(plan["snat"], json!([{"namespace": "shop", "address": "192.168.90.1", "tier1": "tier1"}]));
    let kinds: Vec<&str> =
        plan["virtualServers"].as_array().unwrap().iter().filter_map(|s| s["kind"].as_str()).collect();
    assert_eq!(kinds, ["ClusterIP", "LoadBalancer", "KubeAPI", "CLITools"]);
    assert_eq!(
        plan["virtualServers"][1]["members"][0],
        json!({"address": "10.244.0.3", "port": 8080, "pod": "shop/web-0", "state": "active"})
    );
    assert_eq!(
        plan["segments"][0],
        json!({
            "name": "shop-0", "namespace": "shop", "tier1": "tier1", "cidrs": ["10.244.0.0/24", "fd00::/64"],
            "gateways": ["10.244.0.1", "fe80::1"], "mtu": 1500, "pods": 4, "free": 249,
        })
    );
}

#[test]
fn every_policy_has_an_allow_and_an_isolation_section_and_the_posture_the_rest() {
    let mut c = shop();
    let rule = Rule { peers: vec![pods_in_own_namespace(WEB)], ports: vec![tcp(5432)] };
    c.policy("shop/db", &[("app", "db")], Some(vec![rule]), None);
    let backend = ServerBackend::Pod(name("shop/web-0"), 443);
    c.model.supervisor.cli_tools.backends = vec![backend.into()];
    c.model.supervisor.ingress_posture = IngressPosture::AllowNamespace;
    let plan = plan(&c);
    let rules: Vec<String> = plan["firewall"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|s| s["rules"].as_array().unwrap().iter().map(move |r| (s, r)))
        .map(|(s, r)| {
            let text = |v: &Value| v.as_str().unwrap().to_owned();
            let pods = r["appliedTo"].as_array().unwrap().len();
            format!(
                "{} {} {} {} {pods}: {}",
                text(&s["policy"]),
                text(&r["name"]),
                r["direction"],
                r["action"],
                text(&r["peers"])
            )
        })
        .map(|text| text.replace('"', ""))
        .collect();
    assert_eq!(
        rules,
        [
            "shop/db ingress[0] ingress ALLOW 1: pods app=web in shop",
            "shop/db isolation ingress DROP 1: any",
            "posture default servers ingress ALLOW 1: any",
            "posture allowNamespace ingress ALLOW 2: all pods of the same namespace",
            "posture deny ingress DROP 2: any",
            "posture egress egress ALLOW 4: any",
        ]
    );
}

#[test]
fn pods_are_announced_only_where_they_keep_their_addresses() {
    let mut c = shop();
    c.model.supervisor.tier1 = Tier1Layout::PerNamespace;
    let prefixes = |c: &Cluster| -> Vec<String> {
        let plan = plan(c);
        let routes = plan["advertisedRoutes"].as_array().unwrap().clone();
        routes
            .iter()
            .map(|r| format!("{} {} {}", r["prefix"], r["kind"], r["tier1"]).replace('"', ""))
            .collect()
    };
    let vips = ["192.168.80.1/32 LB_VIP tier1", "192.168.80.2/32 LB_VIP tier1"];
    let connected = ["10.244.0.0/24 CONNECTED tier1-shop", "fd00::/64 CONNECTED tier1-shop"];
    assert_eq!(
        prefixes(&c),
        [vips[0], vips[1], "192.168.90.1/32 NAT tier1-shop", connected[1]],
        "the egress pool is IPv4 only"
    );
    c.model.namespaces.get_mut("shop").unwrap().snat = Snat::None;
    assert_eq!(prefixes(&c), [connected[0], vips[0], vips[1], connected[1]]);
}

#[test]
fn pods_of_a_workload_are_one_end_while_they_are_alike() {
    let mut c = shop();
    c.model.supervisor.ingress_posture = IngressPosture::Allow;
    let ends = |c: &Cluster| -> Vec<(String, usize)> {
        reach(c).ends.iter().map(|e| (e.name.clone(), e.pods.len())).take(3).collect()
    };
    let end = |name: &str, pods| (name.to_owned(), pods);
    assert_eq!(ends(&c), [end("shop/db-0", 1), end("shop/web", 3), end("nodes", 0)]);
    c.model.pods.get_mut(&name("shop/web-1")).unwrap().labels.insert("canary".into(), "yes".into());
    c.policy("shop/canary", &[("canary", "yes")], Some(Vec::new()), None);
    assert_eq!(ends(&c), [end("shop/db-0", 1), end("shop/web-0 and 1 more of web", 2), end("shop/web-1", 1)]);
}

#[test]
fn reach_needs_both_sides_and_tells_what_is_not_declared() {
    let mut c = shop();
    let any_tcp = Rule { peers: vec![], ports: vec![tcp(8080), tcp(9000)] };
    c.policy("shop/web", WEB, Some(vec![any_tcp]), None);
    c.policy("shop/db", &[("app", "db")], None, Some(vec![Rule { peers: vec![], ports: vec![tcp(9000)] }]));
    let reach = reach(&c);
    let row = |source: &str| row(&reach, source, "shop/web");
    assert_eq!(
        (&*row("outside").ports, row("outside").undeclared.as_deref()),
        ("TCP 8080", Some("TCP 9000"))
    );
    assert_eq!((&*row("shop/db-0").ports, row("shop/db-0").undeclared.as_deref()), ("TCP 9000", None));
    assert_eq!(rows_to(&reach, "shop/db-0"), Vec::<String>::new(), "the posture denies");
}

#[test]
fn ranges_outside_appear_where_they_are_treated_otherwise() {
    let mut c = shop();
    let rule = Rule {
        peers: vec![block("0.0.0.0/0", &["198.51.100.0/24", "10.244.0.0/16"])],
        ports: vec![tcp(8080)],
    };
    c.policy("shop/web", WEB, Some(vec![rule]), None);
    let reach = reach(&c);
    assert_eq!(
        rows_to(&reach, "shop/web"),
        ["nodes IPv4: TCP 8080", "outside: TCP 8080", "outside 198.51.100.0/24: none"],
        "IPv6 is in no block, and no route leads to it; our own pods' range is not outside"
    );
}

#[test]
fn there_is_no_outside_where_no_route_leads() {
    let mut c = shop();
    c.model.supervisor.ingress_posture = IngressPosture::Allow;
    c.service("shop/web", ServiceKind::LoadBalancer, WEB, TargetPort::Number(80));
    let rule = Rule { peers: vec![block("203.0.113.0/24", &[])], ports: vec![tcp(8080)] };
    c.policy("shop/web", WEB, Some(vec![rule]), None);
    let outside = |c: &Cluster| -> Vec<String> {
        let ends = reach(c).ends;
        ends.iter().filter(|e| e.kind == EndKind::Outside).map(|e| e.name.clone()).collect()
    };
    assert_eq!(outside(&c), ["outside", "outside 203.0.113.0/24"]);
    c.model.supervisor.static_routes.clear();
    assert_eq!(outside(&c), ["outside"], "the uplink's own prefix");
    c.model.supervisor.uplinks.clear();
    assert_eq!(outside(&c), Vec::<String>::new());
}

#[test]
fn pairs_with_one_answer_share_a_row_however_many_they_are() {
    let mut c = Cluster::default();
    for n in 0..40 {
        c.pod(&format!("shop/pod-{n:02}"), &[("app", "web")]).ports = vec![http(80)];
    }
    let policy = |n: u16| Rule { peers: vec![pods_in_own_namespace(WEB)], ports: vec![tcp(n)] };
    c.policy("shop/all", &[], Some((1..20).map(|n| policy(2 * n)).collect()), None);
    let reach = reach(&c);
    let between: Vec<&Row> = reach.rows.iter().filter(|r| r.destinations[0] == "shop/pod-00").collect();
    assert_eq!(between.len(), 1);
    assert_eq!(
        (between[0].sources.len(), between[0].destinations.len(), between[0].allowed.len()),
        (40, 40, 19)
    );
    let order: Vec<&str> = reach.rows.iter().map(|r| &*r.destinations[0]).collect();
    assert_eq!(
        order,
        ["shop/pod-00", "nodes", "outside", "kube-api", "cli-tools"],
        "in the order of the ends"
    );
}

#[test]
fn shared_rows_say_what_every_pair_of_pods_would_be_told() {
    let mut c = shop();
    c.model.supervisor.ingress_posture = IngressPosture::AllowNamespace;
    for (n, labels) in [WEB, &[("app", "db")], &[("app", "db"), ("tier", "1")], &[]].into_iter().enumerate() {
        c.pod(&format!("shop/alone-{n}"), labels).ports = vec![http(8080)];
        c.pod(&format!("blog/alone-{n}"), labels);
    }
    let from_web = || Rule { peers: vec![pods_in_own_namespace(WEB)], ports: vec![tcp(5432), tcp(80)] };
    c.policy("shop/db", &[("app", "db")], Some(vec![from_web()]), None);
    c.policy("shop/tier", &[("tier", "1")], Some(vec![Rule { peers: vec![], ports: vec![tcp(9)] }]), None);
    c.policy("shop/web", WEB, None, Some(vec![from_web(), Rule { peers: vec![], ports: vec![tcp(5432)] }]));
    let reach = reach(&c);
    let snapshot = c.compile().unwrap();
    let end = |pod: &str| &reach.ends.iter().find(|e| e.pods.iter().any(|p| p == pod)).unwrap().name;
    let has = |names: &[String], end: &String| names.contains(end);
    let (mut told, mut judge) = (0, Judge::default());
    for source in c.model.pods.keys() {
        for destination in c.model.pods.keys().filter(|d| *d != source) {
            let [from, to] = [source, destination].map(|pod| c.address(pod, IpFamily::V4));
            let [sends, receives] = [from, to].map(|ip| endpoint(&snapshot, ip).unwrap());
            let [from, to] = [from, to].map(|ip| snapshot.identities.of(ip));
            let expected =
                judge.ask(IpFamily::V4, sends.egress.as_deref(), receives.ingress.as_deref(), from, to);
            let (source, destination) = (source.to_string(), destination.to_string());
            let mut rows = reach
                .rows
                .iter()
                .filter(|r| has(&r.sources, end(&source)) && has(&r.destinations, end(&destination)));
            let allowed: Vec<_> = rows.next().into_iter().flat_map(|r| &r.allowed).cloned().collect();
            assert_eq!(allowed, reach::ranges(&expected), "{source} > {destination}");
            assert!(rows.next().is_none(), "{source} > {destination} is told twice");
            told += usize::from(!allowed.is_empty());
        }
    }
    assert!(told > 20 && reach.rows.len() < told, "{told} pairs, {} rows", reach.rows.len());
}

#[test]
fn a_service_is_reached_through_its_members_and_a_cluster_address_never_from_outside() {
    let mut c = shop();
    c.model.supervisor.ingress_posture = IngressPosture::Allow;
    c.service("shop/web", ServiceKind::ClusterIp, WEB, TargetPort::Name("http".into()));
    assert_eq!(
        rows_to(&reach(&c), "shop/svc/web"),
        ["shop/db-0: TCP 80", "shop/web: TCP 80", "nodes: TCP 80"]
    );
    c.model.services.get_mut(&name("shop/web")).unwrap().kind = ServiceKind::LoadBalancer;
    c.model.pods.get_mut(&name("shop/web-1")).unwrap().labels.insert("canary".into(), "yes".into());
    c.policy("shop/canary", &[("canary", "yes")], Some(Vec::new()), None);
    let reach = reach(&c);
    assert_eq!(row(&reach, "outside", "shop/svc/web").unreached_members, Some(1));
}

#[test]
fn a_service_is_open_in_the_families_in_which_its_members_are() {
    let mut c = shop();
    c.service("shop/web", ServiceKind::ClusterIp, WEB, TargetPort::Number(8080)).families =
        vec![IpFamily::V4, IpFamily::V6];
    let rule = Rule { peers: vec![block("0.0.0.0/0", &[])], ports: vec![tcp(8080)] };
    c.policy("shop/web", WEB, Some(vec![rule]), None);
    let mut addressing = c.addressing();
    let six = "fd00:96::1".parse().unwrap();
    addressing.cluster_ips.get_mut(&name("shop/web")).unwrap().push(six);
    let mut interner = Interner::default();
    let snapshot = compile(&c.model, &addressing, &mut interner).unwrap();
    let reach = Reach::of(&c.model, &addressing, &snapshot, &mut interner).unwrap();
    let to_pods = rows_to(&reach, "shop/web");
    assert!(to_pods.contains(&"nodes IPv4: TCP 8080".to_owned()), "{to_pods:?}");
    let to_service = rows_to(&reach, "shop/svc/web");
    assert!(to_service.contains(&"nodes IPv4: TCP 80".to_owned()), "{to_service:?}");
    assert!(to_service.iter().all(|row| row.contains(" IPv4: ")), "{to_service:?}");
}

#[test]
fn members_out_of_reach_are_told_with_the_ports_that_they_serve() {
    let mut c = shop();
    c.model.supervisor.ingress_posture = IngressPosture::Allow;
    let service = c.service("shop/web", ServiceKind::ClusterIp, WEB, TargetPort::Number(8080));
    service.ports[0].name = "http".into();
    let mut alt = service.ports[0].clone();
    (alt.name, alt.port, alt.target) = ("alt".into(), 81, TargetPort::Number(9000));
    service.ports.push(alt);
    c.model.pods.get_mut(&name("shop/web-1")).unwrap().labels.insert("canary".into(), "yes".into());
    let only_alt = Rule { peers: vec![], ports: vec![tcp(9000)] };
    c.policy("shop/canary", &[("canary", "yes")], Some(vec![only_alt]), None);
    let reach = reach(&c);
    let has = |names: &[String], name| names.iter().any(|n| n == name);
    let rows: Vec<(&str, Option<usize>)> = reach
        .rows
        .iter()
        .filter(|r| has(&r.sources, "nodes") && has(&r.destinations, "shop/svc/web"))
        .map(|r| (&*r.ports, r.unreached_members))
        .collect();
    assert_eq!(rows, [("TCP 81", None), ("TCP 80", Some(1))]);
}

#[test]
fn host_networked_pods_are_in_the_plan_but_in_no_rule() {
    let mut c = shop();
    let agent = c.pod("shop/agent", WEB);
    agent.host_network = true;
    agent.node = Some("node-3".to_owned().into());
    c.policy("shop/all", &[], Some(Vec::new()), Some(Vec::new()));
    let plan = plan(&c);
    let pod = &plan["pods"][0];
    assert_eq!(
        (&pod["ip"], &pod["segment"], &pod["mac"]),
        (&json!("172.26.0.4"), &json!("nodes"), &plan["nodes"][2]["mac"])
    );
    let rules = plan["firewall"].as_array().unwrap().iter().flat_map(|s| s["rules"].as_array().unwrap());
    assert!(rules.flat_map(|r| r["appliedTo"].as_array().unwrap()).all(|pod| pod != "shop/agent"));
}

#[test]
fn limits_are_told_once_for_all_that_have_the_same() {
    use crate::model::{Limit, LimitSettings};
    let at_most = |n| std::num::NonZeroU32::new(n).map(Limit::AtMost);
    let mut c = shop();
    assert_eq!(plan(&c)["limits"], json!([]));
    c.model.supervisor.limits.pod = LimitSettings { connections: at_most(9), ..Default::default() };
    c.model.supervisor.limits.namespace.new_per_second = at_most(50);
    c.pod("shop/db-0", &[]).limits =
        LimitSettings { connections: Some(Limit::Unlimited), half_open: at_most(3), new_per_second: None };
    assert_eq!(
        plan(&c)["limits"],
        json!([
            {"kind": "namespace", "appliedTo": ["shop"], "connections": null, "halfOpen": null, "newPerSecond": 50},
            {"kind": "pod", "appliedTo": ["shop/db-0"], "connections": null, "halfOpen": 3, "newPerSecond": null},
            {"kind": "pod", "appliedTo": ["shop/web-0", "shop/web-1", "shop/web-2"],
             "connections": 9, "halfOpen": null, "newPerSecond": null},
        ])
    );
}
