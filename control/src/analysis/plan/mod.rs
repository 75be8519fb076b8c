//! The network that a model gives: what would be created in NSX for it.
//!
//! Lists are sorted by their objects' names; the same input gives the same plan. Field names are camelCase when
//! serialised.

mod limits;
mod make;

pub use limits::LimitPlan;

use crate::{compile::CompileError, intern::Interner, ipam::Addressing, model::Model};
use ipnet::IpNet;
use serde::Serialize;
use std::net::IpAddr;
use supernet_dataplane::snapshot::Snapshot;

/// A whole network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// L2 segments, that of the nodes last.
    pub segments: Vec<SegmentPlan>,
    /// Source translation on the Tier-1: one row an address. Namespaces that keep their addresses have none.
    pub snat: Vec<SnatPlan>,
    /// Virtual servers, the two default ones last.
    pub virtual_servers: Vec<VirtualServerPlan>,
    /// Firewall sections in the order in which they are evaluated, as far as they concern one pod.
    pub firewall: Vec<Section>,
    /// The address sets that rules refer to.
    pub address_sets: Vec<AddressSetPlan>,
    /// Limits of connections: one row for all namespaces, or pods, that have the same.
    pub limits: Vec<LimitPlan>,
    /// Pods.
    pub pods: Vec<PodPlan>,
    /// Nodes.
    pub nodes: Vec<NodePlan>,
    /// Tier-0 interfaces.
    pub uplinks: Vec<UplinkPlan>,
    /// Routes of the Tier-0.
    pub routes: Vec<RoutePlan>,
    /// What the Tier-1 gateways announce to the Tier-0, and it to the outside.
    pub advertised_routes: Vec<AdvertisedRoute>,
    /// What the reader of the manifests should know; filled in by whoever read them.
    pub warnings: Vec<String>,
}

impl Plan {
    /// The plan of a model and the snapshot that was compiled from it.
    ///
    /// # Errors
    /// As [`crate::compile::compile`]; none if the snapshot is of this model.
    pub fn of(
        model: &Model,
        addressing: &Addressing,
        snapshot: &Snapshot,
        interner: &mut Interner,
    ) -> Result<Self, CompileError> {
        make::plan(model, addressing, snapshot, interner)
    }
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentPlan {
    /// "shop-0".
    pub name: String,
    /// Whose pods it holds; `null`: nodes.
    pub namespace: Option<String>,
    /// Its Tier-1 gateway.
    pub tier1: String,
    /// Its blocks.
    pub cidrs: Vec<IpNet>,
    /// Its gateways, one a block.
    pub gateways: Vec<IpAddr>,
    /// The largest IP packet of its ports, bytes.
    pub mtu: u16,
    /// How many ports it has: pods, or nodes.
    pub pods: usize,
    /// Addresses of its IPv4 block that nobody has; `null` without one.
    pub free: Option<usize>,
}

/// Source translation of one namespace in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnatPlan {
    /// The namespace.
    pub namespace: String,
    /// What its traffic to the outside comes from.
    pub address: IpAddr,
    /// The Tier-1 that translates.
    pub tier1: String,
}

/// A virtual server: one address, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServerPlan {
    /// The Service's namespace; `null`: a default server.
    pub namespace: Option<String>,
    /// The Service's name; "kube-api" and "cli-tools".
    pub name: String,
    /// What it is for.
    pub kind: VirtualServerKind,
    /// Its address.
    pub vip: IpAddr,
    /// Its port.
    pub port: u16,
    /// "TCP", "UDP" or "SCTP".
    pub protocol: String,
    /// Who serves it, by address.
    pub members: Vec<MemberPlan>,
}

/// What a virtual server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum VirtualServerKind {
    /// A Service's cluster address, on the distributed load balancer.
    ClusterIP,
    /// A Service's VIP, on the Tier-1.
    LoadBalancer,
    /// The Kubernetes API.
    KubeAPI,
    /// The command-line tools.
    CLITools,
}

/// A member of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberPlan {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The pod that has the address; absent for nodes and addresses outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// "active": takes new connections; "draining" and "notReady": only keeps those it has.
    pub state: &'static str,
}

/// A section of the distributed firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Section {
    /// "shop/allow-web", "SecurityPolicy quarantine", or "posture": what the Supervisor decides for pods that no
    /// policy isolates.
    pub policy: String,
    /// "Emergency", "Infrastructure", "Environment", "Admin"; "allow" and "isolation" of NetworkPolicies;
    /// "Application", "Baseline"; "posture". They are evaluated in this order.
    pub category: &'static str,
    /// Its place among sections of its category; smaller ones are evaluated first.
    pub priority: u32,
    /// Its rules.
    pub rules: Vec<FirewallRule>,
}

/// A rule of the distributed firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FirewallRule {
    /// `ingress[0]`, `isolation`.
    pub name: String,
    /// "ingress", "egress" or "both".
    pub direction: &'static str,
    /// "ALLOW", "DROP", "REJECT"; "PASS" or "JUMP_TO_APPLICATION": goes on behind the tiers before NetworkPolicies,
    /// or behind those after them.
    pub action: &'static str,
    /// The pods at whose ports it is enforced.
    pub applied_to: Vec<String>,
    /// The other ends in words: sources of ingress, destinations of egress.
    pub peers: String,
    /// Where connections come from, in words. Only rules of policies in tiers speak of both ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<String>,
    /// Where they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destinations: Option<String>,
    /// Protocols and destination ports in words.
    pub services: String,
}

/// Addresses under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressSetPlan {
    /// Its name.
    pub name: String,
    /// The addresses.
    pub ranges: Vec<IpNet>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlan {
    /// "NS/POD".
    pub name: String,
    /// Its primary address.
    pub ip: Option<IpAddr>,
    /// All its addresses.
    pub ips: Vec<IpAddr>,
    /// The node it runs on.
    pub node: Option<String>,
    /// Its segment.
    pub segment: String,
    /// Its MAC.
    pub mac: String,
    /// Whether it uses its node's network.
    pub host_network: bool,
    /// The workload it was made from: "deployment/web".
    pub workload: Option<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Its primary address.
    pub ip: Option<IpAddr>,
    /// All its addresses.
    pub ips: Vec<IpAddr>,
    /// Its MAC.
    pub mac: String,
    /// How many pods run on it.
    pub pods: usize,
}

/// A Tier-0 interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkPlan {
    /// Its name.
    pub name: String,
    /// Its addresses and connected prefixes.
    pub addresses: Vec<IpNet>,
    /// Its MAC.
    pub mac: String,
    /// The largest IP packet that it carries, bytes.
    pub mtu: u16,
    /// The interface of the machine that it is on, if it is on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfacePlan>,
}

/// The interface of the machine that an uplink is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfacePlan {
    /// Its name, as "eth1".
    pub name: String,
    /// "packet" or "xdp".
    pub driver: &'static str,
}

/// A route of the Tier-0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutePlan {
    /// The destination.
    pub prefix: IpNet,
    /// "connected" or "static".
    pub kind: &'static str,
    /// Next hops that share the flows; none: the destination itself.
    pub next_hops: Vec<IpAddr>,
    /// The uplinks it leaves by.
    pub uplinks: Vec<String>,
}

/// A route that is announced to the outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdvertisedRoute {
    /// What is announced.
    pub prefix: IpNet,
    /// NSX's name of its kind: "LB_VIP", "NAT", or "CONNECTED" for pods that keep their addresses.
    pub kind: &'static str,
    /// The Tier-1 that announces it.
    pub tier1: String,
    /// Whose it is: a Service, a namespace, a default server.
    pub owner: String,
}
