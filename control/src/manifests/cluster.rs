//! Namespaces and nodes.

use super::{
    declared::{Declared, Meta, Scope},
    limits,
    reading::Reading,
    schema::{self, Kind},
    supervisor::MTUS,
    syntax, yaml,
};
use crate::model::{At, Labels, Namespace, Node, Snat};
use std::net::IpAddr;

/// Addresses of a pod or node, separated by commas.
pub(super) const IP_ANNOTATION: &str = "supernet.dev/ip";
/// "false": no source NAT.
pub(super) const SNAT_ANNOTATION: &str = "supernet.dev/snat";
/// The egress addresses of a namespace, separated by commas.
pub(super) const SNAT_IP_ANNOTATION: &str = "supernet.dev/snat-ip";
/// The MTU of a namespace.
pub(super) const MTU_ANNOTATION: &str = "supernet.dev/mtu";
const SNAT_IP: [&str; 2] = [SNAT_IP_ANNOTATION, "ncp/static_snat_ip"];

pub(super) fn read_namespace(r: &mut Reading, node: &yaml::Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::NAMESPACE);
    r.sub(&fields, "spec", &schema::NAMESPACE_SPEC);
    r.sub(&fields, "status", &schema::NAMESPACE_STATUS);
    let Some(meta) = Meta::read(r, &fields, Scope::Cluster, syntax::dns_label) else { return };
    let at = r.at(node.place);
    if !declared.claim(r, Kind::Namespace, &meta.name, &at) {
        return;
    }
    let mut labels = meta.labels.clone();
    let name = meta.name.name.clone();
    if labels.insert(Namespace::NAME_LABEL.to_owned(), name.clone()).is_some_and(|old| old != name) {
        let what = format!("label {} must be the namespace's name, {name}", Namespace::NAME_LABEL);
        r.invalid(node.place, what, "remove it: Kubernetes sets it");
    }
    let snat = snat(r, &meta);
    let mtu = meta.annotation(MTU_ANNOTATION).and_then(|n| mtu(r, n));
    let limits = limits::read_annotations(r, &meta);
    declared.namespaces.push(Namespace { name, labels, snat, mtu, limits, at });
}

fn snat(r: &mut Reading, meta: &Meta<'_>) -> Snat {
    let mut addresses: Option<(Vec<At<IpAddr>>, &yaml::Node)> = None;
    for key in SNAT_IP {
        let Some(node) = meta.annotation(key) else { continue };
        let read = r.addresses(node);
        if addresses.as_ref().is_some_and(|(other, _)| *other != read) {
            let what = format!("{} and {} ask for different addresses", SNAT_IP[0], SNAT_IP[1]);
            r.invalid(node.place, what, "keep one of them");
        }
        addresses.get_or_insert((read, node));
    }
    let on = meta.flag(r, SNAT_ANNOTATION);
    let off = meta.flag(r, "ncp/no_snat");
    let none = on == Some(false) || off == Some(true);
    match addresses {
        Some((_, node)) if none => {
            r.invalid(
                node.place,
                "a SNAT address for a namespace without SNAT",
                "keep one of the annotations",
            );
            Snat::None
        }
        Some((addresses, _)) => Snat::Static(addresses),
        None if none => Snat::None,
        None => Snat::Pool,
    }
}

/// An annotation's value is a text.
fn mtu(r: &mut Reading, node: &yaml::Node) -> Option<u16> {
    let text = r.text(node)?;
    let is_number = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    let mtu = text.parse().ok().filter(|mtu| is_number && MTUS.contains(mtu));
    if mtu.is_none() {
        let advice = format!("write a number from {} to {}, in quotes", MTUS.start(), MTUS.end());
        r.invalid(node.place, format!("`{text}` is no MTU"), advice);
    }
    mtu
}

pub(super) fn read_node(r: &mut Reading, node: &yaml::Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::NODE);
    r.sub(&fields, "spec", &schema::NODE_SPEC);
    let status = r.sub(&fields, "status", &schema::NODE_STATUS);
    let meta = Meta::read(r, &fields, Scope::Cluster, syntax::dns_subdomain);
    let listed = r.list(&status, "addresses");
    let internal = internal_addresses(r, listed);
    let Some(meta) = meta else { return };
    let at = r.at(node.place);
    if !declared.claim(r, Kind::Node, &meta.name, &at) {
        return;
    }
    let addresses = match meta.annotation(IP_ANNOTATION) {
        Some(n) => r.addresses(n),
        None => internal,
    };
    declared.nodes.push(Node { name: meta.name.name.clone(), labels: with_defaults(&meta), addresses, at });
}

/// What a kubelet sets if nobody else does.
fn with_defaults(meta: &Meta<'_>) -> Labels {
    let mut labels = default_node_labels(&meta.name.name);
    labels.extend(meta.labels.clone());
    labels
}

/// The labels of a node that nobody labelled.
pub(super) fn default_node_labels(name: &str) -> Labels {
    [("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", "amd64")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

fn internal_addresses(r: &mut Reading, nodes: &[yaml::Node]) -> Vec<At<IpAddr>> {
    let mut addresses = Vec::new();
    for node in nodes {
        let fields = r.fields(node, &schema::NODE_ADDRESS);
        if r.text_of(&fields, "type") == Some("InternalIP")
            && let Some(address) = r.required(&fields, "address").and_then(|n| r.address(n))
        {
            addresses.push(address);
        }
    }
    addresses
}
