//! What a lab adds to networks, and what it leaves as it is.

use super::super::objects::Dns;
use crate::lab::spec::LabSpec;
use std::net::IpAddr;
use supernet::{
    Supernet, manifests,
    model::{Model, Name, ObjectId, ObjectKind, Protocol, Snat},
};

const SHOP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: last, namespace: zoo}
spec: {hostNetwork: true, containers: [{name: c, image: c}]}
";

/// The Service as clusters have it, and a Deployment behind it.
const OWN: &str = "
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.53
  selector: {app: names}
  ports: [{name: dns, port: 53, protocol: UDP, targetPort: dns}, {name: metrics, port: 9153}]
";
const NAMES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: names-0, namespace: kube-system, labels: {app: names}}
spec: {containers: [{name: c, image: c, ports: [{name: dns, containerPort: 5353, protocol: UDP}, {containerPort: 9153}]}]}
";

fn net(yaml: &str) -> Supernet {
    let model = manifests::read_str("x.yaml", yaml).unwrap().model;
    Supernet::builder().sessions(1024).frames(512).build(model).unwrap()
}

/// Kinds and names of what is in a network and not in `before`.
fn added(before: &Model, net: &Supernet) -> Vec<String> {
    before.difference(&net.model()).iter().map(|(step, id)| format!("{step:?} {id}")).collect()
}

fn spec(net: &Supernet, dns: &Dns) -> LabSpec {
    let plan = net.plan().unwrap();
    let mut spec = LabSpec::of(&net.model(), &net.snapshot(), &plan.pods);
    dns.furnish(&mut spec, &net.model(), &net.addressing(), &plan.pods);
    spec
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const DNS: [&str; 4] = [
    "Added Namespace kube-system",
    "Added Pod kube-system/coredns",
    "Added Service kube-system/kube-dns",
    "Added NetworkPolicy kube-system/kube-dns",
];

#[test]
fn everybody_else_stays_where_they_are() {
    let net = net(SHOP);
    let (model, before) = (net.model(), net.addressing());
    let placed = |net: &Supernet| -> Vec<(String, Option<String>)> {
        net.plan().unwrap().pods.into_iter().map(|p| (p.name, p.node)).collect()
    };
    let nodes = placed(&net);
    let dns = Dns::join(&net).unwrap();
    assert_eq!(added(&model, &net), DNS);
    assert_eq!(dns.without(net.model()), model);
    let mut after = net.addressing();
    assert_eq!(after.cluster_ips.remove(&Name::new("kube-system", "kube-dns")), Some(vec![ip("10.96.0.10")]));
    assert!(after.pods.remove(&Name::new("kube-system", "coredns")).is_some());
    after.segments.retain(|segment| segment.namespace != "kube-system");
    assert_eq!(after, before);
    let with = placed(&net);
    assert!(nodes.iter().all(|pod| with.contains(pod)), "{nodes:?} {with:?}");
    assert_eq!(net.model().namespaces["kube-system"].snat, Snat::None, "no address of the egress pool");

    let again = dns.complete(dns.without(net.model()));
    assert_eq!(again.0, net.model());
    let id = |kind, namespace, name| ObjectId { kind, name: Name::new(namespace, name) };
    assert!(dns.owns(&id(ObjectKind::Pod, "kube-system", "coredns")));
    assert!(!dns.owns(&id(ObjectKind::Pod, "shop", "web")));
}

#[test]
fn hosts_are_told_whom_to_ask() {
    let net = net(SHOP);
    let spec = spec(&net, &Dns::join(&net).unwrap());
    let resolv = &spec.names.as_ref().unwrap().resolv;
    let search = "search shop.svc.cluster.local svc.cluster.local cluster.local\n";
    assert_eq!(resolv["shop/web"], format!("{search}nameserver 10.96.0.10\noptions ndots:5\n"));
    for nobody in ["outside", "node/node-1", "zoo/last"] {
        assert!(resolv[nobody].starts_with('#') && !resolv[nobody].contains("nameserver "), "{nobody}");
    }
    let both = vec![(Protocol::Udp, 53), (Protocol::Tcp, 53)];
    let coredns = spec.endpoints.iter().find(|e| e.name == "kube-system/coredns").unwrap();
    assert_eq!((&coredns.serve, &coredns.dns), (&both, &both));
    let web = spec.endpoints.iter().find(|e| e.name == "shop/web").unwrap();
    assert_eq!((&web.serve, &web.dns), (&vec![(Protocol::Tcp, 80)], &Vec::new()));
}

#[test]
fn both_families_and_a_tenth_address_that_is_taken() {
    let net = net(&format!(
        "{SHOP}---
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {{name: test}}
spec:
  podCIDRs: [10.244.0.0/20, 'fd00:244::/48']
  serviceCIDRs: ['fd00:96::/108', 10.96.0.0/16]
  ingressPosture: allowCluster
---
apiVersion: v1
kind: Service
metadata: {{name: ten, namespace: shop}}
spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}
"
    ));
    let model = net.model();
    let dns = Dns::join(&net).unwrap();
    assert_eq!(added(&model, &net), DNS[..3], "every pod reaches the others as it is");
    let ips = &net.addressing().cluster_ips[&Name::new("kube-system", "kube-dns")];
    assert_eq!(ips[..], [ip("fd00:96::a"), ip("10.96.0.1")]);
    let spec = spec(&net, &dns);
    let text = &spec.names.unwrap().resolv["shop/web"];
    assert!(text.contains("nameserver fd00:96::a\nnameserver 10.96.0.1\n"), "{text}");
}

#[test]
fn what_manifests_declare_is_theirs() {
    let net = net(&format!("{SHOP}---{OWN}---{NAMES}"));
    let model = net.model();
    let dns = Dns::join(&net).unwrap();
    assert_eq!(added(&model, &net), DNS[3..], "nothing reached it");
    let spec = spec(&net, &dns);
    assert!(spec.names.as_ref().unwrap().resolv["shop/web"].contains("nameserver 10.96.0.53\n"));
    let names = spec.endpoints.iter().find(|e| e.name == "kube-system/names-0").unwrap();
    assert_eq!(names.serve, [(Protocol::Udp, 5353), (Protocol::Tcp, 9153)]);
    assert_eq!(names.dns, [(Protocol::Udp, 5353)], "the port of names alone");
}

#[test]
fn a_policy_about_the_dns_is_the_last_word() {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: kube-system}
spec: {podSelector: {}}
";
    let net = net(&format!("{SHOP}---{policy}"));
    let model = net.model();
    Dns::join(&net).unwrap();
    assert_eq!(added(&model, &net), DNS[1..3]);
}

#[test]
fn a_service_without_pods_is_given_one() {
    let taken = NAMES.replace("names-0", "coredns").replace("app: names", "app: other");
    let net = net(&format!("{SHOP}---{OWN}---{taken}"));
    let model = net.model();
    let dns = Dns::join(&net).unwrap();
    assert_eq!(added(&model, &net), ["Added Pod kube-system/coredns-1", DNS[3]]);
    let spec = spec(&net, &dns);
    let pod = spec.endpoints.iter().find(|e| e.name == "kube-system/coredns-1").unwrap();
    assert_eq!((&pod.serve[..], &pod.dns[..]), (&[(Protocol::Udp, 53)][..], &[(Protocol::Udp, 53)][..]));
}

#[test]
fn without_room_a_network_is_left_as_it_is() {
    let full = format!(
        "{SHOP}---
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {{name: test}}
spec: {{serviceCIDRs: [10.96.0.0/31]}}
---
apiVersion: v1
kind: Service
metadata: {{name: other, namespace: shop}}
spec: {{ports: [{{port: 80}}]}}
"
    );
    let full = net(&full);
    let (model, addressing) = (full.model(), full.addressing());
    let said = Dns::join(&full).unwrap_err().to_string();
    assert!(
        said.starts_with("there is no room for the lab's DNS") && said.contains("10.96.0.0/31"),
        "{said}"
    );
    assert_eq!((full.model(), full.addressing()), (model, addressing));
}
