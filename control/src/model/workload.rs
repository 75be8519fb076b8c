//! Namespaces, nodes and pods. Deployments and the like are expanded to pods before they get here.

use super::{At, Labels, LimitSettings, Name, Position, Protocol};
use std::net::IpAddr;

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels, `kubernetes.io/metadata.name` always among them.
    pub labels: Labels,
    /// How its pods appear beyond the uplinks.
    pub snat: Snat,
    /// The MTU of its segments and pods (annotation `supernet.dev/mtu`); the Supervisor's when absent.
    pub mtu: Option<u16>,
    /// How many connections its pods may have together (annotations `supernet.dev/max-connections`, ...).
    pub limits: LimitSettings,
    /// Where it was written; a namespace that is only mentioned has the place of the first mention.
    pub at: Position,
}

/// Source translation of a namespace's traffic to the outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Snat {
    /// An address of the egress pools, one of each family they have.
    #[default]
    Pool,
    /// These addresses of the egress pools (annotation `supernet.dev/snat-ip`, `ncp/static_snat_ip`).
    Static(Vec<At<IpAddr>>),
    /// None: pods keep their addresses (annotation `supernet.dev/snat: "false"`, `ncp/no_snat: "true"`).
    None,
}

/// A node. Host-networked pods have its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses as written; empty: one is assigned from the Supervisor's node CIDRs.
    pub addresses: Vec<At<IpAddr>>,
    /// Where it was written.
    pub at: Position,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// The node it runs on; `None`: control spreads such pods over the nodes.
    pub node: Option<At<String>>,
    /// Whether it uses its node's network: it then has the node's addresses and stands outside policy.
    pub host_network: bool,
    /// Addresses asked for (`supernet.dev/ip`, `status.podIP`), at most one a family. May lie outside the
    /// namespace's blocks. Empty: IPAM assigns.
    pub addresses: Vec<At<IpAddr>>,
    /// Container ports, of init and ephemeral containers not.
    pub ports: Vec<ContainerPort>,
    /// Whether it may serve Services. Pods count as ready unless their status says otherwise.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// How many connections it may have (annotations `supernet.dev/max-connections`, ...).
    pub limits: LimitSettings,
    /// What it is called among names, and how it looks names up.
    pub dns: PodDns,
    /// The workload it was expanded from (`deployment/web`), for people.
    pub owner: Option<String>,
    /// Where it, or its workload, was written.
    pub at: Position,
}

impl Pod {
    /// A running, ready pod without labels and ports.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            labels: Labels::new(),
            node: None,
            host_network: false,
            addresses: Vec::new(),
            ports: Vec::new(),
            ready: true,
            terminating: false,
            limits: LimitSettings::default(),
            dns: PodDns::default(),
            owner: None,
            at: Position::default(),
        }
    }
}

/// A pod and the DNS. No packet depends on it; who serves names reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodDns {
    /// `spec.hostname`; a StatefulSet's pods have their names.
    pub hostname: Option<String>,
    /// `spec.subdomain`, the headless Service below which the hostname is a name; of a StatefulSet's pods its
    /// `serviceName`.
    pub subdomain: Option<String>,
    /// `spec.dnsPolicy`.
    pub policy: DnsPolicy,
    /// `spec.dnsConfig.nameservers`.
    pub nameservers: Vec<IpAddr>,
    /// `spec.dnsConfig.searches`.
    pub searches: Vec<String>,
    /// `spec.dnsConfig.options`: names, and values where they have one.
    pub options: Vec<(String, Option<String>)>,
}

/// Whom a pod asks for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DnsPolicy {
    /// The cluster's DNS; a pod in its node's network asks whom the node asks.
    #[default]
    ClusterFirst,
    /// The cluster's DNS, also in a node's network.
    ClusterFirstWithHostNet,
    /// Whom the node asks.
    Default,
    /// Whom `dnsConfig` names.
    None,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name, empty if it has none.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}
