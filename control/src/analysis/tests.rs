//! Plans and reach of small clusters.

use super::{plan::Plan, reach::Reach};
use crate::{
    compile::compile,
    fixture::{Cluster, block, http, name, pods_in_own_namespace, tcp},
    intern::Interner,
    model::{IngressPosture, Rule, ServerBackend, ServiceKind, Snat, TargetPort, Tier1Layout},
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
    let rows = reach.rows.iter().filter(|r| r.destination == destination);
    rows.map(|r| {
        format!("{}{}: {}", r.source, r.family.map(|f| format!(" {f}")).unwrap_or_default(), r.ports)
    })
    .collect()
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
            "gateways": ["10.244.0.1", "fe80::1"], "pods": 4, "free": 249,
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
    let row =
        |source: &str| reach.rows.iter().find(|r| r.source == source && r.destination == "shop/web").unwrap();
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
        ["nodes IPv4: TCP 8080", "outside IPv4: TCP 8080", "outside 198.51.100.0/24: none"],
        "IPv6 is in no block; our own pods' range is not outside"
    );
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
    let from_outside =
        reach.rows.iter().find(|r| r.source == "outside" && r.destination == "shop/svc/web").unwrap();
    assert_eq!(from_outside.unreached_members, Some(1));
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
