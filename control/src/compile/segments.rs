//! Segments and the Tier-1 gateways they are attached to.

use crate::{
    intern::Interner,
    ipam::Addressing,
    model::{Model, Tier1Layout},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;
use supernet_dataplane::snapshot::{Names, Segment};

/// The segment that nodes are attached to.
pub const NODES_SEGMENT: &str = "nodes";

/// The Tier-1 of nodes and of the default virtual servers; of everything where the layout is shared.
pub const SHARED_TIER1: &str = "tier1";

/// The name of a namespace's Tier-1.
pub fn tier1_name(layout: Tier1Layout, namespace: &str) -> String {
    match layout {
        Tier1Layout::Shared => SHARED_TIER1.to_owned(),
        Tier1Layout::PerNamespace => format!("{SHARED_TIER1}-{namespace}"),
    }
}

/// Every segment, still without ports.
pub(super) fn segments(
    model: &Model,
    addressing: &Addressing,
    interner: &mut Interner,
    names: &mut Names,
) -> Vec<Segment> {
    let mut add = |name: &str, tier1: String, gateway_v4, prefix_v6, mtu: Option<u16>| {
        let id = interner.segment(name);
        names.segments.insert(id, name.to_owned());
        let tier1_id = interner.tier1(&tier1);
        names.tier1s.insert(tier1_id, tier1);
        let mtu = mtu.unwrap_or(model.supervisor.mtu);
        Segment { id, tier1: tier1_id, gateway_v4, prefix_v6, mtu, ports: Vec::new() }
    };
    let mut segments: Vec<Segment> = addressing
        .segments
        .iter()
        .map(|block| {
            let tier1 = tier1_name(model.supervisor.tier1, &block.namespace);
            let mtu = model.namespaces.get(&block.namespace).and_then(|namespace| namespace.mtu);
            add(&block.name, tier1, block.v4.and_then(first_address), block.v6.map(|net| net.trunc()), mtu)
        })
        .collect();
    if !addressing.nodes.is_empty() {
        let (v4, v6) = node_prefixes(model, addressing);
        segments.push(add(NODES_SEGMENT, SHARED_TIER1.to_owned(), v4, v6, None));
    }
    segments
}

/// The gateway of a block and the block's length.
fn first_address(block: Ipv4Net) -> Option<Ipv4Net> {
    Ipv4Net::new(block.hosts().next()?, block.prefix_len()).ok()
}

/// The node segment's IPv4 gateway, which is the first address of the CIDR that no node has, and IPv6 prefix.
fn node_prefixes(model: &Model, addressing: &Addressing) -> (Option<Ipv4Net>, Option<Ipv6Net>) {
    let cidrs = || model.supervisor.node_cidrs.iter().map(|c| c.value.trunc());
    let taken =
        |addr: &std::net::Ipv4Addr| addressing.nodes.values().flatten().any(|a| *a == IpAddr::V4(*addr));
    let v4 = cidrs().find_map(|cidr| match cidr {
        IpNet::V4(net) => Ipv4Net::new(net.hosts().find(|a| !taken(a))?, net.prefix_len()).ok(),
        IpNet::V6(_) => None,
    });
    let v6 = cidrs().find_map(|cidr| match cidr {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(net),
    });
    (v4, v6)
}
