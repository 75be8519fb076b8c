//! Every table of the snapshot, and every way a model cannot be compiled.

use super::*;
use crate::{
    fixture::{Cluster, endpoint, http, name},
    model::{
        At, Endpoint, EndpointPort, EndpointSlice, IpFamily, Mac, NextHop, Object, Position, Protocol,
        ServerBackend, ServiceKind, StaticRoute, TargetPort, Tier1Layout,
    },
    place::PlaceError,
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::SocketAddr};
use supernet_dataplane::{
    snapshot::{GATEWAY_MAC, PortRole, ServerKind, VirtualServer},
    wire::Proto,
};

const WEB: &[(&str, &str)] = &[("app", "web")];

fn shop() -> Cluster {
    let mut c = Cluster::default();
    for n in 0..3 {
        c.pod(&format!("shop/web-{n}"), WEB).ports = vec![http(8080 + n)];
    }
    c.pod("blog/db-0", &[]);
    c
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn server<'a>(s: &'a Snapshot, addr: &str, port: u16) -> &'a VirtualServer {
    &s.servers.listening[&(ip(addr), Proto::TCP, port)]
}

fn sockets(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|s| s.parse().unwrap()).collect()
}

#[test]
fn pods_nodes_and_uplinks_have_ports_and_macs_of_their_own() {
    let s = shop().compile().unwrap();
    let mut names: Vec<&str> = s.names.ports.values().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "blog/db-0",
            "node/node-1",
            "node/node-2",
            "node/node-3",
            "shop/web-0",
            "shop/web-1",
            "shop/web-2",
            "uplink/uplink-1"
        ]
    );
    let macs: BTreeSet<Mac> = s.ports.iter().flatten().map(|p| p.mac).collect();
    assert_eq!(macs.len(), names.len());
    assert!(macs.iter().all(|m| m.0[..3] == [0x02, 0x50, 0x56] && *m != GATEWAY_MAC));
    let web = endpoint(&s, ip("10.244.1.2")).unwrap();
    assert_eq!(web.addresses, [ip("10.244.1.2"), ip("fd00:0:0:1::2")]);
    assert_eq!(web.node, [ip("172.26.0.3"), ip("fd00:0:0:ff::2")], "dealt out in turn: db-0, then web-0");
    assert!(endpoint(&s, ip("172.26.0.2")).unwrap().ingress.is_none());
}

#[test]
fn a_pod_stays_on_its_node_when_others_come_and_go() {
    let mut c = shop();
    let mut interner = Interner::default();
    let node = |c: &Cluster, interner: &mut Interner| {
        let addressing = c.addressing();
        let places = Places::of(&c.model, &addressing, interner).unwrap();
        places.pods[&name("shop/web-1")].node.unwrap().to_owned()
    };
    let before = node(&c, &mut interner);
    c.pod("aaa/first", &[]);
    c.model.pods.remove(&name("shop/web-0"));
    assert_eq!(node(&c, &mut interner), before);
}

#[test]
fn segments_have_gateways_and_hang_on_the_tier1_of_the_layout() {
    let mut c = shop();
    let names = |s: &Snapshot| -> Vec<(String, String, String, usize)> {
        let row = |seg: &std::sync::Arc<supernet_dataplane::snapshot::Segment>| {
            (
                s.names.segments[&seg.id].clone(),
                s.names.tier1s[&seg.tier1].clone(),
                seg.gateway_v4.unwrap().to_string(),
                seg.ports.len(),
            )
        };
        s.segments.iter().flatten().map(row).collect()
    };
    let row = |a: &str, b: &str, c: &str, n| (a.to_owned(), b.to_owned(), c.to_owned(), n);
    assert_eq!(
        names(&c.compile().unwrap()),
        [
            row("blog-0", "tier1", "10.244.0.1/24", 1),
            row("shop-0", "tier1", "10.244.1.1/24", 3),
            row("nodes", "tier1", "172.26.0.1/24", 3),
        ]
    );
    c.model.supervisor.tier1 = Tier1Layout::PerNamespace;
    let tier1s: Vec<String> = names(&c.compile().unwrap()).into_iter().map(|r| r.1).collect();
    assert_eq!(tier1s, ["tier1-blog", "tier1-shop", "tier1"]);
}

#[test]
fn namespaces_are_translated_unless_they_refuse() {
    let mut c = shop();
    c.model.namespaces.get_mut("blog").unwrap().snat = Snat::None;
    let s = c.compile().unwrap();
    let egress: Vec<Option<IpAddr>> =
        s.namespaces.iter().flatten().map(|n| n.egress(ip("10.0.0.1"))).collect();
    assert_eq!(egress, [None, Some(ip("192.168.90.2"))]);
    assert!(s.owned.get(ip("192.168.90.200")).is_some());
    assert!(s.owned.get(ip("8.8.8.8")).is_none());
}

#[test]
fn mtus_are_those_of_the_namespace_the_uplink_and_else_the_supervisor() {
    let mut c = shop();
    c.model.supervisor.mtu = 1450;
    c.model.supervisor.uplinks[0].mtu = Some(9000);
    c.model.namespaces.get_mut("blog").unwrap().mtu = Some(1400);
    let s = c.compile().unwrap();
    let port = |name: &str| {
        let id = s.names.ports.iter().find(|(_, n)| *n == name).unwrap().0;
        s.port(*id).unwrap().mtu
    };
    let mtus = ["blog/db-0", "shop/web-0", "node/node-1", "uplink/uplink-1"].map(port);
    assert_eq!(mtus, [1400, 1450, 1450, 9000]);
    let mut segments: Vec<u16> = s.segments.iter().flatten().map(|s| s.mtu).collect();
    segments.sort_unstable();
    assert_eq!(segments, [1400, 1450, 1450]);
    assert!(!s.clamp_mss);
    c.model.supervisor.mss_clamping = true;
    assert!(c.compile().unwrap().clamp_mss);
}

#[test]
fn a_load_balancer_listens_on_its_cluster_address_and_its_vip() {
    let mut c = shop();
    c.service("shop/web", ServiceKind::LoadBalancer, WEB, TargetPort::Name("http".into()));
    let s = c.compile().unwrap();
    let members = sockets(&["10.244.1.2:8080", "10.244.1.3:8081", "10.244.1.4:8082"]);
    let (inside, vip) = (server(&s, "10.96.0.1", 80), server(&s, "192.168.80.3", 80));
    assert_eq!((inside.kind, &inside.active), (ServerKind::Distributed, &members), "the name is per pod");
    assert_eq!((vip.kind, &vip.active), (ServerKind::Server, &members));
    assert_eq!(s.names.servers[&inside.id], "shop/web:80/TCP");
    assert_eq!(s.names.servers[&vip.id], "shop/web:80/TCP VIP");
    assert_eq!(s.servers.addresses[&ip("192.168.80.3")], ServerKind::Server);
    assert!(inside.maglev.is_some());
}

#[test]
fn headless_and_external_names_have_no_virtual_server() {
    let mut c = shop();
    c.service("shop/a", ServiceKind::Headless, WEB, TargetPort::Number(80));
    c.service("shop/b", ServiceKind::ExternalName, WEB, TargetPort::Number(80));
    let s = c.compile().unwrap();
    assert_eq!(s.servers.listening.len(), 2, "only the two default ones");
}

#[test]
fn only_ready_pods_take_connections_and_terminating_ones_keep_theirs() {
    let mut c = shop();
    c.service("shop/web", ServiceKind::ClusterIp, WEB, TargetPort::Number(80));
    let pod = |c: &mut Cluster, n: usize, ready, terminating| {
        let pod = c.model.pods.get_mut(&name(&format!("shop/web-{n}"))).unwrap();
        (pod.ready, pod.terminating) = (ready, terminating);
    };
    pod(&mut c, 1, true, true);
    pod(&mut c, 2, false, false);
    let s = c.compile().unwrap();
    let web = server(&s, "10.96.0.1", 80);
    assert_eq!(web.active, sockets(&["10.244.1.2:80"]));
    assert_eq!(web.draining, sockets(&["10.244.1.3:80", "10.244.1.4:80"]));

    // Nobody is ready: those that still serve while they terminate take over.
    pod(&mut c, 0, false, true);
    let s = c.compile().unwrap();
    let web = server(&s, "10.96.0.1", 80);
    assert_eq!(web.active, sockets(&["10.244.1.3:80"]));

    c.model.services.get_mut(&name("shop/web")).unwrap().publish_not_ready = true;
    let s = c.compile().unwrap();
    assert_eq!(server(&s, "10.96.0.1", 80).active.len(), 3);
}

#[test]
fn host_networked_pods_serve_with_their_nodes_address() {
    let mut c = Cluster::default();
    let agent = c.pod("shop/agent", WEB);
    agent.host_network = true;
    agent.node = Some("node-3".to_owned().into());
    c.service("shop/web", ServiceKind::ClusterIp, WEB, TargetPort::Number(9100));
    let s = c.compile().unwrap();
    assert_eq!(server(&s, "10.96.0.1", 80).active, sockets(&["172.26.0.4:9100"]));
    assert!(!s.names.ports.values().any(|n| n == "shop/agent"), "its port is the node's");
}

fn slice(endpoints: &[(&str, bool, bool, bool)], ports: &[(&str, Option<u16>)]) -> EndpointSlice {
    EndpointSlice {
        name: name("shop/ext-1"),
        service: "ext".into(),
        family: IpFamily::V4,
        endpoints: endpoints
            .iter()
            .map(|(addr, ready, serving, terminating)| Endpoint {
                addresses: vec![ip(addr).into()],
                hostname: None,
                ready: *ready,
                serving: *serving,
                terminating: *terminating,
            })
            .collect(),
        ports: ports
            .iter()
            .map(|(name, port)| EndpointPort { name: (*name).into(), protocol: Protocol::Tcp, port: *port })
            .collect(),
        at: Position::default(),
    }
}

#[test]
fn slices_take_the_place_of_the_selector() {
    let mut c = shop();
    c.service("shop/ext", ServiceKind::ClusterIp, WEB, TargetPort::Number(80));
    let endpoints = [
        ("203.0.113.1", true, true, false),
        ("203.0.113.2", false, true, true),
        ("203.0.113.3", false, false, false),
        ("203.0.113.1", false, true, false),
    ];
    c.model.insert(Object::EndpointSlice(slice(&endpoints, &[("", Some(8443)), ("metrics", Some(1))])));
    let s = c.compile().unwrap();
    let ext = server(&s, "10.96.0.1", 80);
    assert_eq!(ext.active, sockets(&["203.0.113.1:8443"]), "listed twice: its better state counts");
    assert_eq!(ext.draining, sockets(&["203.0.113.2:8443", "203.0.113.3:8443"]));

    c.model.insert(Object::EndpointSlice(slice(&endpoints[..1], &[("", None)])));
    let s = c.compile().unwrap();
    assert_eq!(
        server(&s, "10.96.0.1", 80).active,
        sockets(&["203.0.113.1:80"]),
        "no number: the Service's own"
    );
}

#[test]
fn without_selector_and_slices_a_server_has_no_members() {
    let mut c = shop();
    c.service("shop/ext", ServiceKind::ClusterIp, &[], TargetPort::Number(80));
    let s = c.compile().unwrap();
    let ext = server(&s, "10.96.0.1", 80);
    assert!(ext.active.is_empty() && ext.draining.is_empty() && ext.maglev.is_none());
}

#[test]
fn the_default_servers_are_served_by_nodes_or_by_their_backends() {
    let mut c = shop();
    let s = c.compile().unwrap();
    let nodes = sockets(&["172.26.0.2:6443", "172.26.0.3:6443", "172.26.0.4:6443"]);
    assert_eq!(server(&s, "192.168.80.1", 6443).active, nodes);
    assert_eq!(server(&s, "192.168.80.2", 443).kind, ServerKind::Server);
    let pod = ServerBackend::Pod(name("shop/web-0"), 8443);
    let outside = ServerBackend::Address("203.0.113.5:443".parse().unwrap());
    let v6 = ServerBackend::Address("[2001:db8::5]:443".parse().unwrap());
    c.model.supervisor.cli_tools.backends = vec![pod.into(), outside.into(), v6.into()];
    let s = c.compile().unwrap();
    assert_eq!(server(&s, "192.168.80.2", 443).active, sockets(&["10.244.1.2:8443", "203.0.113.5:443"]));
}

#[test]
fn routes_leave_by_the_uplink_of_their_next_hop() {
    let c = shop();
    let s = c.compile().unwrap();
    let (prefix, hops) = s.tier0.routes.get_prefix(ip("8.8.8.8")).unwrap();
    assert_eq!(prefix.prefix_len(), 0);
    assert_eq!((hops[0].port, hops[0].address), (s.tier0.uplinks[0], ip("192.168.100.254")));
    assert_eq!(s.tier0.connected.get(ip("192.168.100.7")), Some(&s.tier0.uplinks[0]));
    let uplink = s.ports[s.tier0.uplinks[0].index()].as_ref().unwrap();
    assert!(matches!(&uplink.role, PortRole::Uplink(u) if u.addresses.len() == 1));
}

#[test]
fn uplinks_in_one_prefix_share_the_flows_to_a_next_hop() {
    let mut c = shop();
    let mut second = c.model.supervisor.uplinks[0].clone();
    second.name = "uplink-2".into();
    second.addresses = vec!["192.168.100.2/24".parse::<ipnet::IpNet>().unwrap().into()];
    c.model.supervisor.uplinks.push(second);
    let s = c.compile().unwrap();
    let (_, hops) = s.tier0.routes.get_prefix(ip("8.8.8.8")).unwrap();
    let hops: Vec<_> = hops.iter().map(|h| (h.port, h.address)).collect();
    assert_eq!(hops, s.tier0.uplinks.iter().map(|port| (*port, ip("192.168.100.254"))).collect::<Vec<_>>());
    assert_eq!(hops.len(), 2);
    assert_eq!(s.tier0.connected.get(ip("192.168.100.7")), Some(&s.tier0.uplinks[0]));
}

fn refused(change: impl FnOnce(&mut Cluster)) -> CompileError {
    let mut c = shop();
    change(&mut c);
    c.compile().unwrap_err()
}

fn at(line: u32) -> Position {
    Position::new("net.yaml", line, 5)
}

#[test]
fn dangling_references_are_errors_with_their_place() {
    let error = refused(|c| {
        let backend = ServerBackend::Pod(name("shop/gone"), 443);
        c.model.supervisor.cli_tools.backends = vec![At::new(backend, at(9))];
    });
    assert_eq!(
        error.to_string(),
        "net.yaml:9:5: cli-tools is to be served by pod shop/gone, which does not exist; declare it or correct the name"
    );
    let error = refused(|c| c.pod("shop/x", &[]).node = Some(At::new("node-9".into(), at(3))));
    assert!(
        matches!(&error, CompileError::Place(PlaceError::UnknownNode { node, .. }) if node == "node-9"),
        "{error}"
    );
    assert!(error.to_string().starts_with("net.yaml:3:5: pod shop/x runs on node node-9"));
}

#[test]
fn routes_that_lead_nowhere_are_errors() {
    let route = |prefix: &str, hop: &str| StaticRoute {
        prefix: prefix.parse::<IpNet>().unwrap().into(),
        next_hops: vec![NextHop { address: At::new(ip(hop), at(20)), mac: None }],
    };
    let error = refused(|c| c.model.supervisor.static_routes.push(route("10.0.0.0/8", "192.168.101.1")));
    assert_eq!(error, CompileError::NextHop { address: ip("192.168.101.1"), at: at(20) });
    let error = refused(|c| c.model.supervisor.static_routes.push(route("::/0", "192.168.100.9")));
    assert!(matches!(error, CompileError::NextHopFamily { .. }), "{error}");
}

#[test]
fn macs_and_names_that_clash_are_errors() {
    for mac in [GATEWAY_MAC, Mac::BROADCAST, Mac::default()] {
        let error = refused(|c| c.model.supervisor.uplinks[0].mac = Some(mac));
        assert!(matches!(error, CompileError::UplinkMac { .. }), "{mac}: {error}");
    }
    let error = refused(|c| {
        let twin = c.model.supervisor.uplinks[0].clone();
        c.model.supervisor.uplinks.push(twin);
    });
    assert!(matches!(error, CompileError::NameTaken { .. }), "{error}");
    let error = refused(|c| c.pod("node/node-1", &[]).at = at(4));
    assert_eq!(
        error.to_string(),
        "net.yaml:4:5: the port of pod node/node-1 would have the name of node node-1: ports of nodes are called \
         node/NAME, as those of pods are called NAMESPACE/NAME; rename the pod or move it out of namespace `node`"
    );
    let error = refused(|c| c.pod("uplink/uplink-1", &[]).at = at(5));
    let pod = name("uplink/uplink-1");
    assert_eq!(error, CompileError::PodNameTaken { pod, kind: "uplink", at: at(5) });
    let mut c = shop();
    c.pod("node/node-1", &[]).host_network = true;
    c.compile().unwrap();
}

#[test]
fn addresses_that_clash_are_errors() {
    let c = shop();
    let mut addressing = c.addressing();
    let taken = addressing.pods[&name("shop/web-0")].addresses.clone();
    addressing.pods.get_mut(&name("shop/web-1")).unwrap().addresses = taken;
    let error = compile(&c.model, &addressing, &mut Interner::default()).unwrap_err();
    assert!(
        matches!(&error, CompileError::AddressTaken { first, second, .. } if first == "shop/web-0" && second == "shop/web-1")
    );
    addressing.pods.remove(&name("shop/web-1"));
    let error = compile(&c.model, &addressing, &mut Interner::default()).unwrap_err();
    assert!(matches!(error, CompileError::Place(PlaceError::NoAddress { .. })), "{error}");
    let mut addressing = c.addressing();
    addressing.segments.pop();
    let error = compile(&c.model, &addressing, &mut Interner::default()).unwrap_err();
    assert!(matches!(error, CompileError::NoSegment { .. }), "{error}");
}

#[test]
fn two_servers_cannot_listen_on_one_address_and_port() {
    let mut c = shop();
    c.service("shop/a", ServiceKind::ClusterIp, WEB, TargetPort::Number(80));
    c.service("shop/b", ServiceKind::ClusterIp, WEB, TargetPort::Number(80));
    let mut addressing = c.addressing();
    let same = addressing.cluster_ips[&name("shop/a")].clone();
    addressing.cluster_ips.insert(name("shop/b"), same);
    let error = compile(&c.model, &addressing, &mut Interner::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "svc.yaml:7:1: shop/b:80/TCP would listen on 10.96.0.1:80, as shop/a:80/TCP does; give one of them another \
         port or address"
    );
}

#[test]
fn the_debug_form_names_things_and_is_the_same_for_the_same_input() {
    let (one, two) = (shop().compile().unwrap(), shop().compile().unwrap());
    let text = format!("{one:?}");
    assert_eq!(text, format!("{two:?}"));
    assert!(text.contains("port shop/web-0 ingress [else drop posture deny]"), "{text}");
    assert!(text.contains("route 0.0.0.0/0 to 192.168.100.254 by uplink/uplink-1"), "{text}");
}
