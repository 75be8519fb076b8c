//! Sizes that a real Supervisor reaches.

use super::*;
use std::time::Instant;

/// Debug builds take about a second; what this would notice is a quadratic scan, which takes minutes.
#[test]
fn ten_thousand_pods_in_a_thousand_namespaces() {
    let mut supervisor = dual();
    supervisor.pod_cidrs = nets(&["10.0.0.0/8", "fd00:10::/32"]);
    supervisor.egress_cidrs = nets(&["192.168.0.0/16"]);
    supervisor.service_cidrs = nets(&["172.16.0.0/16"]);
    let mut objects = Vec::new();
    for i in 0..10_000 {
        // A tenth of all pods in one namespace, which needs many segments.
        let ns = if i % 10 == 0 { 0 } else { i % 1000 };
        objects.push(pod(&format!("ns{ns}/p{i}"), &[]).into());
        if i < 3000 {
            objects.push(service(&format!("ns{}/s{i}", i % 1000), ServiceKind::ClusterIp).into());
        }
    }
    let model = model(supervisor, objects);
    let start = Instant::now();
    let mut ipam = fresh();
    let first = ipam.now(&model, NOW).unwrap();
    let cold = start.elapsed();
    let again = ipam.now(&model, NOW.plus(1)).unwrap();
    let all = start.elapsed();
    assert_eq!(first, again);
    assert_eq!(first.pods.len(), 10_000);
    println!("plan and commit: {cold:?} on empty leases, {:?} again", all - cold);
    assert!(all.as_secs() < 20, "{all:?}");
}

#[test]
fn huge_ipv6_pools_are_not_enumerated() {
    let all = nets(&["2001:db8::/32"]);
    let supervisor = Supervisor {
        pod_cidrs: nets(&["fd00::/8"]),
        service_cidrs: nets(&["fc00:1::/32"]),
        ingress_cidrs: nets(&["fc00:2::/32"]),
        egress_cidrs: all,
        node_cidrs: nets(&["fc00:3::/32"]),
        ..Supervisor::default()
    };
    let got = fresh().now(&model(supervisor, pods(&["a/p"])), NOW).unwrap();
    assert_eq!(texts(&got.pods[&name("a/p")].addresses), ["fd00::2"]);
    assert_eq!(texts(&got.egress["a"]), ["2001:db8::1"]);
}
