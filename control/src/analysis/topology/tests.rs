//! Topologies of small clusters.

use super::*;
use crate::{
    analysis::plan::Plan,
    compile::compile,
    fixture::Cluster,
    intern::Interner,
    model::{ServiceKind, TargetPort, Tier1Layout},
};

const WEB: &[(&str, &str)] = &[("app", "web")];

/// Two web pods and a database in shop, one pod in blog.
fn shop() -> Cluster {
    let mut c = Cluster::default();
    c.pod("shop/web-0", WEB);
    c.pod("shop/web-1", WEB);
    c.pod("shop/db-0", &[]);
    c.pod("blog/api", &[]);
    c.service("shop/web", ServiceKind::LoadBalancer, WEB, TargetPort::Number(8080));
    c
}

fn plan(c: &Cluster) -> Plan {
    let (addressing, mut interner) = (c.addressing(), Interner::default());
    let snapshot = compile(&c.model, &addressing, &mut interner).unwrap();
    Plan::of(&c.model, &addressing, &snapshot, &mut interner).unwrap()
}

fn view(fold: Fold, namespaces: &[&str]) -> View {
    View { fold, namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect() }
}

fn topology(c: &Cluster, view: &View) -> Topology {
    Topology::of(&plan(c), view).unwrap()
}

/// "tier1: blog, (shop), nodes": what is behind every Tier-1; in parentheses what is folded.
fn outline(t: &Topology) -> Vec<String> {
    let area = |area: &Area| match area {
        Area::Open(open) => open.namespace.clone().unwrap_or_else(|| "nodes".to_owned()),
        Area::Folded(folded) if folded.namespaces.is_empty() => "(nodes)".to_owned(),
        Area::Folded(folded) => format!("({})", folded.namespaces.join(" ")),
    };
    let tier1 = |t: &Tier1| {
        format!("{}: {}", t.names.join(" "), t.areas.iter().map(area).collect::<Vec<_>>().join(", "))
    };
    t.tier1s.iter().map(tier1).collect()
}

fn open<'a>(t: &'a Topology, namespace: Option<&str>) -> &'a Open {
    let areas = t.tier1s.iter().flat_map(|t| &t.areas);
    let mut open = areas.filter_map(|a| match a {
        Area::Open(open) => Some(open),
        Area::Folded(_) => None,
    });
    open.find(|o| o.namespace.as_deref() == namespace).unwrap()
}

fn groups(open: &Open) -> Vec<(Vec<usize>, Vec<&str>)> {
    let groups = open.segments.iter().flat_map(|s| &s.groups);
    groups.map(|g| (g.servers.clone(), g.ends.iter().map(|e| e.name.as_str()).collect())).collect()
}

#[test]
fn pods_of_the_same_servers_are_a_group_and_have_one_link() {
    let mut c = shop();
    c.service("shop/everyone", ServiceKind::ClusterIp, &[], TargetPort::Number(80)).selector =
        Some(Default::default());
    c.service("shop/first", ServiceKind::ClusterIp, WEB, TargetPort::Number(80));
    let t = topology(&c, &View::default());
    let shop = open(&t, Some("shop"));
    let names: Vec<&str> = shop.servers.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["everyone", "first", "web"]);
    let web = names.iter().position(|n| *n == "web").unwrap();
    assert_eq!(shop.servers[web].listens.len(), 2, "ClusterIP and VIP are one box");
    let groups = groups(shop);
    let (servers, pods) = groups.iter().find(|(_, pods)| pods.contains(&"web-0")).unwrap();
    assert!(servers.contains(&web) && pods == &["web-0", "web-1"]);
    let id = shop.segments[0].groups.iter().find(|g| g.ends.len() == 2).unwrap().id;
    let links: Vec<&Link> = t.links.iter().filter(|l| l.from == shop.servers[web].id).collect();
    assert_eq!(links, [&Link { from: shop.servers[web].id, to: id }]);
}

#[test]
fn servers_lead_to_nodes_and_to_the_outside() {
    let mut c = shop();
    let outside: std::net::IpAddr = "203.0.113.7".parse().unwrap();
    c.model.supervisor.cli_tools.backends =
        vec![crate::model::ServerBackend::Address(std::net::SocketAddr::new(outside, 443)).into()];
    let t = topology(&c, &View::default());
    let nodes = open(&t, None);
    let lead = |name: &str| {
        let server = nodes.servers.iter().find(|s| s.name == name).unwrap();
        let to: Vec<Id> = t.links.iter().filter(|l| l.from == server.id).map(|l| l.to).collect();
        (server.leads[0].to, server.leads[0].names.len(), to)
    };
    assert_eq!(lead("kube-api"), (LeadTo::Nodes, 3, vec![nodes.segments[0].groups[0].id]));
    assert_eq!(lead("cli-tools"), (LeadTo::Outside, 1, vec![t.outside.id]));
}

#[test]
fn more_pods_than_can_be_read_are_folded() {
    let mut c = Cluster::default();
    for n in 0..READABLE {
        c.pod(&format!("{}/pod-{n}", if n % 2 == 0 { "a" } else { "b" }), &[]);
    }
    assert_eq!(outline(&topology(&c, &View::default())), ["tier1: a, b, nodes"]);
    c.pod("b/one-more", &[]);
    let t = topology(&c, &View::default());
    assert_eq!(outline(&t), ["tier1: (a), (b), nodes"]);
    assert_eq!(t.namespaces, (2, 2));
    assert_eq!(t.totals.pods, READABLE + 1);
    assert_eq!(outline(&topology(&c, &view(Fold::Never, &[]))), ["tier1: a, b, nodes"]);
    assert_eq!(outline(&topology(&c, &view(Fold::Auto, &["b"]))), ["tier1: b, nodes, (a)"]);
}

#[test]
fn a_folded_namespace_counts() {
    let mut c = shop();
    c.policy("shop/db", &[], Some(Vec::new()), None);
    c.pod("shop/agent", &[]).host_network = true;
    let t = topology(&c, &view(Fold::Always, &[]));
    let Area::Folded(shop) = &t.tier1s[0].areas[1] else { panic!("{:?}", outline(&t)) };
    assert_eq!(shop.counts, Counts { pods: 4, services: 1, policies: 1, nodes: 0 });
    assert_eq!((shop.blocks.len(), shop.snat.len(), shop.vips.len()), (2, 1, 1));
    assert_eq!(open(&t, None).segments[0].groups[0].ends.iter().map(|e| e.guests.len()).sum::<usize>(), 1);
}

#[test]
fn namespaces_that_were_not_asked_for_are_one_box() {
    let mut c = shop();
    c.pod("data/db", &[]);
    let shop_only = view(Fold::Auto, &["shop"]);
    assert_eq!(outline(&topology(&c, &shop_only)), ["tier1: shop, nodes, (blog data)"]);
    c.model.supervisor.tier1 = Tier1Layout::PerNamespace;
    let t = topology(&c, &shop_only);
    assert_eq!(outline(&t), ["tier1: nodes", "tier1-shop: shop", "tier1-blog tier1-data: (blog data)"]);
    assert_eq!(t.namespaces, (3, 2));
}

#[test]
fn an_unknown_namespace_is_an_error_that_names_the_others() {
    let error = Topology::of(&plan(&shop()), &view(Fold::Auto, &["shp"])).unwrap_err();
    assert_eq!(error.to_string(), "there is no namespace `shp`; there are blog, shop");
}

#[test]
fn ids_are_unique() {
    let t = topology(&shop(), &View::default());
    let mut ids = vec![t.outside.id, t.tier0.id];
    ids.extend(t.uplinks.iter().map(|u| u.id).chain(t.tier1s.iter().map(|t| t.id)));
    for area in t.tier1s.iter().flat_map(|t| &t.areas) {
        ids.push(area.id());
        let Area::Open(open) = area else { continue };
        ids.extend(open.servers.iter().map(|s| s.id).chain(open.segments.iter().map(|s| s.id)));
        let groups = open.segments.iter().flat_map(|s| &s.groups);
        ids.extend(groups.flat_map(|g| g.ends.iter().map(|e| e.id).chain([g.id])));
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    assert_eq!(t, topology(&shop(), &View::default()));
}
