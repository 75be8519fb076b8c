//! The Supervisor: its fields, its defaults, and what cannot be.

use super::{bad, good, warnings};
use crate::model::{IngressPosture, Name, ServerBackend, Supervisor, Tier1Layout};

const HEAD: &str = "apiVersion: supernet.dev/v1alpha1\nkind: Supervisor\nmetadata: {name: main}\nspec:\n";

fn supervisor(spec: &str) -> Supervisor {
    good(&format!("{HEAD}{spec}")).model.supervisor
}

fn nets<T: ToString>(pool: &[crate::model::At<T>]) -> Vec<String> {
    pool.iter().map(|n| n.value.to_string()).collect()
}

#[test]
fn all_fields() {
    let m = good(&format!(
        "{HEAD}{}",
        r#"
  podCIDRs: [10.1.0.0/16, "fd00:1::/48"]
  namespacePrefixLength: 26
  serviceCIDRs: [10.2.0.0/16]
  ingressCIDRs: [10.3.0.0/24]
  egressCIDRs: [10.4.0.0/24]
  nodeCIDRs: [10.5.0.0/24]
  nodes: 7
  uplinks:
  - {name: leaf-a, addresses: [10.6.0.1/31, "fd00:6::1/64"], mac: "02:00:00:00:00:0a", interface: eth1}
  - {name: leaf-b, addresses: [10.7.0.1/24], mtu: 9000, interface: enp1s0f1np1, driver: xdp}
  staticRoutes:
  - prefix: 0.0.0.0/0
    nextHops: [10.6.0.0, {address: 10.7.0.254, mac: "02:00:00:00:00:0b"}]
  tier1: perNamespace
  mtu: 1400
  mssClamping: true
  strictTCP: true
  ingressPosture: allowCluster
  kubeAPI: {port: 443, address: 10.3.0.9, backends: ["10.5.0.1:6443", "[fd00::1]:6443", {pod: kube-system/api, port: 6443}]}
  cliTools: {backends: []}
---
{apiVersion: v1, kind: Pod, metadata: {name: api, namespace: kube-system}, spec: {}}
"#
    ));
    assert!(m.supervisor_given);
    let s = m.model.supervisor;
    assert_eq!((s.name.as_str(), s.namespace_prefix, s.node_count, s.mtu), ("main", 26, 7, 1400));
    assert_eq!(nets(&s.pod_cidrs), ["10.1.0.0/16", "fd00:1::/48"]);
    assert_eq!(s.pod_cidrs[1].at.to_string(), "net.yaml:6:27");
    for (pool, net) in
        [(s.service_cidrs, "10.2.0.0/16"), (s.ingress_cidrs, "10.3.0.0/24"), (s.egress_cidrs, "10.4.0.0/24")]
    {
        assert_eq!(nets(&pool), [net]);
    }
    assert_eq!(nets(&s.uplinks[0].addresses), ["10.6.0.1/31", "fd00:6::1/64"]);
    assert_eq!(s.uplinks[0].mac.map(|m| m.0), Some([2, 0, 0, 0, 0, 10]));
    assert!(s.mss_clamping && s.strict_tcp);
    assert_eq!((s.uplinks[0].mtu, s.uplinks[1].mtu), (None, Some(9000)));
    let on = |n: usize| s.uplinks[n].interface.as_ref().map(|on| (on.name.value.as_str(), on.driver.name()));
    assert_eq!((on(0), on(1)), (Some(("eth1", "packet")), Some(("enp1s0f1np1", "xdp"))));
    let hops = &s.static_routes[0].next_hops;
    assert_eq!((hops[0].mac, hops[1].mac.map(|m| m.0[5])), (None, Some(11)));
    assert_eq!((s.tier1, s.ingress_posture), (Tier1Layout::PerNamespace, IngressPosture::AllowCluster));
    assert_eq!(s.kube_api.port, 443);
    assert_eq!(s.cli_tools, Supervisor::default().cli_tools);
    assert_eq!(s.kube_api.backends[2].value, ServerBackend::Pod(Name::new("kube-system", "api"), 6443));
}

#[test]
fn what_is_left_out_has_its_default() {
    let mut expected = Supervisor { name: "main".into(), mtu: 1400, ..Supervisor::default() };
    let read = supervisor("  mtu: 1400\n");
    expected.at = read.at.clone();
    assert_eq!(read, expected);
    let none = good("");
    assert_eq!((none.model.supervisor, none.supervisor_given), (Supervisor::default(), false));
}

#[test]
fn defaults_follow_the_families_of_the_pods() {
    let v6 = supervisor("  podCIDRs: [\"fd00:1::/48\"]\n");
    for pool in [&v6.service_cidrs, &v6.ingress_cidrs, &v6.node_cidrs] {
        assert!(pool.len() == 1 && pool[0].value.addr().is_ipv6(), "{pool:?}");
    }
    assert!(v6.egress_cidrs.is_empty(), "IPv6 is routed unless a pool is given");
    assert_eq!(nets(&v6.uplinks[0].addresses), ["fd00:cafe:4::1/64"]);
    assert_eq!(nets(&[v6.static_routes[0].prefix.clone()]), ["::/0"]);
    let dual = supervisor("  podCIDRs: [10.9.0.0/16, \"fd00:1::/48\"]\n");
    assert_eq!(
        (dual.service_cidrs.len(), dual.uplinks[0].addresses.len(), dual.static_routes.len()),
        (2, 2, 2)
    );
    assert_eq!(dual.egress_cidrs.len(), 1);
    let m = good(&format!("{HEAD}  uplinks: [{{name: a, addresses: [10.6.0.1/24]}}]\n"));
    assert!(
        m.model.supervisor.static_routes.is_empty(),
        "the default next hop is no neighbour of this uplink"
    );
    assert_eq!(
        warnings(&m),
        [
            "net.yaml:5:12: uplinks without staticRoutes: only their own prefixes can be reached; add a default route"
        ]
    );
    let none = good(&format!("{HEAD}  uplinks: []\n"));
    assert_eq!(
        warnings(&none),
        ["net.yaml:5:12: no uplinks: nothing leaves the network, and nothing enters it"]
    );
}

#[test]
fn pools_hold_addresses_that_hosts_can_have() {
    let check = |range: &str, why: &str| {
        let expected =
            format!("net.yaml:5:18: {range} cannot be a pool: {why}; use a range of unicast addresses");
        assert_eq!(bad(&format!("{HEAD}  ingressCIDRs: [\"{range}\"]\n")), expected);
    };
    check("127.0.0.0/16", "127.0.0.0/8 is for loopback");
    check("0.1.0.0/16", "0.0.0.0/8 is for no host");
    check("169.254.7.0/24", "169.254.0.0/16 is for single links");
    check("169.0.0.0/8", "it holds 169.254.0.0/16, which is for single links");
    check("224.1.0.0/16", "224.0.0.0/4 is for multicast");
    check("::1/128", "::1/128 is for loopback");
    check("::/64", "it holds ::/128, which is for no host");
    check("::ffff:10.0.0.0/112", "::ffff:0.0.0.0/96 is for IPv4 in the form of IPv6");
    check("fe80:1::/64", "fe80::/10 is for single links");
    check("ff05::/64", "ff00::/8 is for multicast");
    check("0.0.0.0/0", "it holds 0.0.0.0/8, which is for no host");
    supervisor("  ingressCIDRs: [126.0.0.0/8, \"fc00:7::/64\"]\n");
}

#[test]
fn what_cannot_be() {
    let check = |spec: &str, error: &str| {
        assert_eq!(bad(&format!("{HEAD}{spec}")), format!("net.yaml:{error}"), "for:\n{spec}");
    };
    let overlap = "give them ranges that share no address";
    check(
        "  podCIDRs: [10.0.0.0/9]\n  ingressCIDRs: [10.1.0.0/16]\n  egressCIDRs: []\n  serviceCIDRs: [10.200.0.0/16]\n",
        &format!("6:18: ingressCIDRs 10.1.0.0/16 overlaps podCIDRs 10.0.0.0/9 (net.yaml:5:14); {overlap}"),
    );
    check(
        "  podCIDRs: [10.0.0.0/8]\n",
        &format!("5:14: podCIDRs 10.0.0.0/8 overlaps serviceCIDRs 10.96.0.0/16 (the default); {overlap}"),
    );
    check(
        "  egressCIDRs: [192.168.100.128/25]\n",
        &format!(
            "5:17: egressCIDRs 192.168.100.128/25 overlaps the prefix 192.168.100.0/24 of uplink uplink-1 (the \
             default); {overlap}"
        ),
    );
    check(
        "  podCIDRs: [10.1.2.0/16]\n",
        "5:14: 10.1.2.0/16 has bits beyond its prefix length; write 10.1.0.0/16",
    );
    check("  podCIDRs: []\n", "5:13: no pod CIDR; give at least one, or leave podCIDRs out");
    check(
        "  podCIDRs: [10.1.0.0/29]\n",
        "5:14: pod CIDR 10.1.0.0/29 is smaller than a namespace's block, /28; use a larger range",
    );
    check("  namespacePrefixLength: 31\n", "5:26: 31 is out of range; use 1 to 30");
    let leaves = |second: &str| {
        format!(
            "  uplinks:\n  - {{name: a, addresses: [10.6.0.1/24]}}\n  - {{name: b, addresses: [{second}]}}\n  staticRoutes: []\n"
        )
    };
    supervisor(&leaves("10.6.0.2/24"));
    check(&leaves("10.6.0.1/24"), "7:27: uplink a already has the address 10.6.0.1; give each its own");
    check(
        &leaves("10.6.0.2/25"),
        &format!(
            "7:27: the prefix 10.6.0.0/25 of uplink b overlaps the prefix 10.6.0.0/24 of uplink a (net.yaml:6:27); \
             {overlap}"
        ),
    );
    check(
        "  namespacePrefix: 26\n",
        "5:3: unknown field `namespacePrefix` in a Supervisor's spec; did you mean `namespacePrefixLength`?",
    );
    check(
        "  posture: deny\n",
        "5:3: unknown field `posture` in a Supervisor's spec; use cliTools, egressCIDRs, ingressCIDRs, ingressPosture, \
         kubeAPI, limits, mssClamping, mtu, namespacePrefixLength, nodeCIDRs, nodes, podCIDRs, serviceCIDRs, staticRoutes, strictTCP, tier1 or uplinks, \
         or remove it",
    );
    check("  mtu: 9001\n", "5:8: 9001 is out of range; use 1280 to 9000");
    check("  mtu: 1000\n", "5:8: 1000 is out of range; use 1280 to 9000");
    check(
        "  podCidrs: []\n",
        "5:3: unknown field `podCidrs` in a Supervisor's spec; did you mean `podCIDRs`?",
    );
    check("  tier1: each\n", "5:10: `each` is not known here; use shared or perNamespace");
    check(
        "  uplinks: [{name: a, addresses: [10.6.0.255/24]}]\n",
        "5:35: 10.6.0.255 is the broadcast address of 10.6.0.0/24; write its address, 10.6.0.1/24 say",
    );
    check(
        "  uplinks: [{name: a, addresses: [10.6.0.1/24]}]\n  staticRoutes: [{prefix: 0.0.0.0/0, nextHops: [10.6.0.255]}]\n",
        "6:49: next hop 10.6.0.255 is a network or broadcast address; use that of a neighbour",
    );
    check(
        "  staticRoutes: [{prefix: 0.0.0.0/0, nextHops: [10.1.1.1]}]\n",
        "5:49: next hop 10.1.1.1 lies in no uplink's prefix; use a neighbour of an uplink, or give that uplink an \
         address in its prefix",
    );
    check(
        "  staticRoutes: [{prefix: 0.0.0.0/0, nextHops: [192.168.100.1]}]\n",
        "5:49: next hop 192.168.100.1 is an uplink's own address; use that of the neighbour",
    );
    check(
        "  uplinks: [{name: a, addresses: [10.6.0.0/24]}]\n",
        "5:35: 10.6.0.0/24 is a range, not the address of the uplink; write its address, 10.6.0.1/24 say",
    );
    check(
        "  uplinks: [{name: a, addresses: [10.6.0.1/24], mac: \"01:00:00:00:00:01\"}]\n",
        "5:54: `01:00:00:00:00:01` is not the MAC address of one interface; write one like 02:00:00:00:00:01",
    );
    check(
        "  uplinks: [{name: a, addresses: [10.6.0.1/24], interface: eth 1}]\n",
        "5:60: `eth 1` cannot be an interface's name; use 1 to 15 bytes without `/`, `:`, `%` or white space",
    );
    check(
        "  uplinks: [{name: a, addresses: [10.6.0.1/24], interface: eth1, driver: dpdk}]\n",
        "5:74: `dpdk` is not known here; use packet or xdp",
    );
    check(
        "  uplinks: [{name: a, addresses: [10.6.0.1/24], driver: xdp}]\n",
        "5:57: the driver of an interface, but no interface; name the interface: `interface: eth1`",
    );
    check(
        "  uplinks:\n  - {name: a, addresses: [10.6.0.1/24], interface: eth1}\n  - {name: b, addresses: [10.7.0.1/24], \
         interface: eth1}\n",
        "7:52: uplink a is on interface eth1 already; give each its own; one uplink has an address of each family",
    );
    check(
        "  kubeAPI: {backends: [10.0.0.1]}\n",
        "5:24: `10.0.0.1` is not an address with a port; write 10.0.0.1:6443, [fd00::1]:6443 or {pod: NAMESPACE/NAME, \
         port: 6443}",
    );
    check(
        "  kubeAPI: {backends: [{pod: a/api-0, port: 1}]}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: api-1, \
         namespace: a}, spec: {}}\n",
        "5:24: a backend of kubeAPI refers to pod a/api-0, which does not exist; did you mean a/api-1?",
    );
    check(
        &format!("  nodes: 2\n---\n{HEAD}"),
        "7:1: Supervisor main (there can only be one) is already declared at net.yaml:1:1; remove or rename one of them",
    );
}
