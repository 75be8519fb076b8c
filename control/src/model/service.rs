//! `v1` Service and `discovery.k8s.io/v1` EndpointSlice.

use super::{At, Labels, Name, Position, Protocol};
use std::net::IpAddr;

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// How it is exposed.
    pub kind: ServiceKind,
    /// Pods of its namespace that serve it; `None` or empty: only EndpointSlices say.
    pub selector: Option<Labels>,
    /// What it listens on.
    pub ports: Vec<ServicePort>,
    /// `spec.clusterIP` and `spec.clusterIPs` where they are addresses.
    pub cluster_ips: Vec<At<IpAddr>>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<At<IpAddr>>,
    /// `spec.ipFamilies` and `spec.ipFamilyPolicy`: the families it has addresses of, the first one primary.
    /// Empty: the cluster's first family.
    pub families: Vec<IpFamily>,
    /// `PreferDualStack`: families the cluster lacks are left out instead of refused.
    pub prefer_dual_stack: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.externalName` of an ExternalName Service: the name that it stands for.
    pub external_name: Option<String>,
    /// `spec.sessionAffinity: ClientIP`: all connections of a client go to one pod, as long as the pods stay the same.
    pub client_affinity: bool,
    /// Where it was written.
    pub at: Position,
}

/// How a Service is exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    /// A cluster address.
    ClusterIp,
    /// `clusterIP: None`: names only, no virtual server.
    Headless,
    /// Like `ClusterIp`; node ports are not served.
    NodePort,
    /// A cluster address and a virtual server on the Tier-1 with an address of the ingress pool.
    LoadBalancer,
    /// A DNS alias, no virtual server.
    ExternalName,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A port a Service listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty if it has none.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number clients use.
    pub port: u16,
    /// The number or name at the pod.
    pub target: TargetPort,
}

/// `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// A containerPort's name; it may be another number on every pod.
    Name(String),
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its own name.
    pub name: Name,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: String,
    /// Family of its addresses.
    pub family: IpFamily,
    /// Who serves.
    pub endpoints: Vec<Endpoint>,
    /// On which ports.
    pub ports: Vec<EndpointPort>,
    /// Where it was written.
    pub at: Position,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses; interchangeable, only the first is used, as kube-proxy does.
    pub addresses: Vec<At<IpAddr>>,
    /// What it is called below its Service's name.
    pub hostname: Option<String>,
    /// Takes new connections. Absent in YAML means `true`.
    pub ready: bool,
    /// Could answer, ready or terminating. Absent in YAML means as `ready`.
    pub serving: bool,
    /// Is shutting down.
    pub terminating: bool,
}

/// A port of a slice. Its name links it to the Service's port of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// Its name, empty if it has none.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number; `None` means every port of the Service keeps its own number.
    pub port: Option<u16>,
}
