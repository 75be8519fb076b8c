//! Who has which address: the answer of IPAM, and what everything after it reads.

use crate::model::Name;
use std::{collections::BTreeMap, net::IpAddr};

/// All addresses of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addressing {
    /// Segments, in order of namespace and number.
    pub segments: Vec<SegmentBlock>,
    /// Addresses of every pod that does not use its node's network.
    pub pods: BTreeMap<Name, PodAddresses>,
    /// Every node's addresses; nodes that were not declared are here too.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Egress addresses of every namespace that is translated, at most one a family.
    pub egress: BTreeMap<String, Vec<IpAddr>>,
    /// ClusterIPs of every Service that has them, primary first.
    pub cluster_ips: BTreeMap<Name, Vec<IpAddr>>,
    /// Ingress addresses of every LoadBalancer Service, primary first.
    pub ingress: BTreeMap<Name, Vec<IpAddr>>,
    /// Addresses of the KubeAPI virtual server.
    pub kube_api: Vec<IpAddr>,
    /// Addresses of the CLI tools' virtual server.
    pub cli_tools: Vec<IpAddr>,
}

/// A segment and the blocks it was given. The first address of a block is the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentBlock {
    /// Its name: the namespace, `-`, and a number counted from 0.
    pub name: String,
    /// The namespace whose pods it holds.
    pub namespace: String,
    /// Its IPv4 block.
    pub v4: Option<ipnet::Ipv4Net>,
    /// Its IPv6 prefix, a /64.
    pub v6: Option<ipnet::Ipv6Net>,
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAddresses {
    /// The name of its segment.
    pub segment: String,
    /// Its addresses, primary first, at most one a family.
    pub addresses: Vec<IpAddr>,
}
