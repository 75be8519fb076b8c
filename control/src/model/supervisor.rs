//! The Supervisor: what an administrator decides once (`supernet.dev/v1alpha1`, kind `Supervisor`).

use super::{At, DefaultLimits, Mac, Name, Position};
use ipnet::IpNet;
use std::net::IpAddr;

/// The cluster's network as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    /// Its name.
    pub name: String,
    /// Where pod blocks are cut from; at least one.
    pub pod_cidrs: Vec<At<IpNet>>,
    /// Prefix length of an IPv4 block, /28 by default. IPv6 segments are /64.
    pub namespace_prefix: u8,
    /// Where ClusterIPs come from.
    pub service_cidrs: Vec<At<IpNet>>,
    /// Where addresses of LoadBalancer Services and the default servers come from.
    pub ingress_cidrs: Vec<At<IpNet>>,
    /// Where SNAT addresses come from.
    pub egress_cidrs: Vec<At<IpNet>>,
    /// Where nodes without an address of their own get one.
    pub node_cidrs: Vec<At<IpNet>>,
    /// How many nodes there are when none is declared.
    pub node_count: u32,
    /// Tier-0 uplinks.
    pub uplinks: Vec<Uplink>,
    /// Tier-0 static routes.
    pub static_routes: Vec<StaticRoute>,
    /// One Tier-1 for all namespaces, or one each.
    pub tier1: Tier1Layout,
    /// MTU of segments and uplinks that name no other, bytes of IP packet.
    pub mtu: u16,
    /// TCP's maximum segment size is lowered to what fits the MTUs at both ends.
    pub mss_clamping: bool,
    /// TCP segments are dropped whose numbers cannot be of their connection. Taken when the network is built.
    pub strict_tcp: bool,
    /// What may reach a pod that no policy isolates.
    pub ingress_posture: IngressPosture,
    /// How many connections pods and namespaces may have that say nothing of their own.
    pub limits: DefaultLimits,
    /// The Kubernetes API's virtual server, TCP 6443.
    pub kube_api: DefaultServer,
    /// The virtual server that offers the command-line tools, TCP 443.
    pub cli_tools: DefaultServer,
    /// Where it was written.
    pub at: Position,
}

/// A Tier-0 interface towards the physical network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its addresses with the length of the connected prefix, at most one a family.
    pub addresses: Vec<At<IpNet>>,
    /// Its MAC; made from the name when absent.
    pub mac: Option<Mac>,
    /// Its MTU; the Supervisor's when absent.
    pub mtu: Option<u16>,
    /// The interface of the machine that it is on; absent: whoever runs the network gives it a port.
    pub interface: Option<OnInterface>,
}

/// An interface of the machine that an uplink is on, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnInterface {
    /// "eth1".
    pub name: At<String>,
    /// How its frames come and go.
    pub driver: InterfaceDriver,
}

/// How the frames of an interface come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InterfaceDriver {
    /// A packet socket (`AF_PACKET`), beside the kernel's stack.
    #[default]
    Packet,
    /// `AF_XDP` sockets, past the kernel's stack.
    Xdp,
}

impl InterfaceDriver {
    /// "packet", "xdp".
    pub fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Xdp => "xdp",
        }
    }
}

/// A static route of the Tier-0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRoute {
    /// The destination.
    pub prefix: At<IpNet>,
    /// Next hops, each in the connected prefix of an uplink; several share the flows (ECMP).
    pub next_hops: Vec<NextHop>,
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Its address.
    pub address: At<IpAddr>,
    /// Its MAC; asked for by ARP or ND when absent.
    pub mac: Option<Mac>,
}

/// How many Tier-1 gateways there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier1Layout {
    /// One for the Supervisor.
    #[default]
    Shared,
    /// One a namespace, as vSphere does from 7.0 U1c on.
    PerNamespace,
}

/// What may reach a pod that no policy isolates for ingress. Egress is always open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IngressPosture {
    /// Nothing but its own node, as in a Supervisor Cluster.
    #[default]
    Deny,
    /// Pods of its namespace.
    AllowNamespace,
    /// Every pod and node of the cluster.
    AllowCluster,
    /// Everything, as in plain Kubernetes.
    Allow,
}

/// One of the two virtual servers every Supervisor has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultServer {
    /// The port it listens on.
    pub port: u16,
    /// An address of the ingress pools that it asks for.
    pub address: Option<At<IpAddr>>,
    /// Who serves it. Empty: every node, on the same port.
    pub backends: Vec<At<ServerBackend>>,
}

/// Who serves a default virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerBackend {
    /// An address and port.
    Address(std::net::SocketAddr),
    /// A pod and its port; the ingress posture does not apply to it.
    Pod(Name, u16),
}

impl Default for Supervisor {
    /// What is used when no Supervisor is declared: IPv4, pods 10.244.0.0/16 in blocks of /28, Services
    /// 10.96.0.0/16, ingress 192.168.80.0/24, egress 192.168.90.0/24, three nodes in 172.26.0.0/24, one uplink
    /// 192.168.100.1/24 with a default route to 192.168.100.254.
    fn default() -> Self {
        fn net(a: [u8; 4], len: u8) -> At<IpNet> {
            At::from(IpNet::from(ipnet::Ipv4Net::new_assert(a.into(), len)))
        }
        let server = |port| DefaultServer { port, address: None, backends: Vec::new() };
        Self {
            name: "default".to_owned(),
            pod_cidrs: vec![net([10, 244, 0, 0], 16)],
            namespace_prefix: 28,
            service_cidrs: vec![net([10, 96, 0, 0], 16)],
            ingress_cidrs: vec![net([192, 168, 80, 0], 24)],
            egress_cidrs: vec![net([192, 168, 90, 0], 24)],
            node_cidrs: vec![net([172, 26, 0, 0], 24)],
            node_count: 3,
            uplinks: vec![Uplink {
                name: "uplink-1".to_owned(),
                addresses: vec![net([192, 168, 100, 1], 24)],
                mac: None,
                mtu: None,
                interface: None,
            }],
            static_routes: vec![StaticRoute {
                prefix: net([0, 0, 0, 0], 0),
                next_hops: vec![NextHop { address: At::from(IpAddr::from([192, 168, 100, 254])), mac: None }],
            }],
            tier1: Tier1Layout::Shared,
            mtu: 1500,
            mss_clamping: false,
            strict_tcp: false,
            ingress_posture: IngressPosture::Deny,
            limits: DefaultLimits::default(),
            kube_api: server(6443),
            cli_tools: server(443),
            at: Position::default(),
        }
    }
}
