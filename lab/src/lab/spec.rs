//! What a lab is made of, as plain values: who has which interface, and what lies beyond the uplinks.
//!
//! Whoever has planned a network writes this down; [`super::bring_up`] reads it. Nothing here knows of
//! manifests or of the dataplane.

use ipnet::IpNet;
use std::net::IpAddr;
use supernet_control::model::{Mac, Protocol};

/// The name by which the world beyond the uplinks is entered.
pub(crate) const OUTSIDE: &str = "outside";

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabSpec {
    /// Pods, and nodes that are to be seen as hosts.
    pub(crate) endpoints: Vec<EndpointSpec>,
    /// The world beyond the uplinks.
    pub(crate) outside: OutsideSpec,
}

/// A host with one interface, `eth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointSpec {
    /// `NAMESPACE/POD`.
    pub(crate) name: String,
    /// The interface's MAC.
    pub(crate) mac: Mac,
    /// Its addresses with the length of the prefix that is on the link; /32 and /128 for an address outside
    /// the segment's block.
    pub(crate) addresses: Vec<IpNet>,
    /// Next hops of the default routes, at most one a family; on the link even when no prefix covers them.
    pub(crate) gateways: Vec<IpAddr>,
    /// MTU, bytes of IP packet.
    pub(crate) mtu: u16,
    /// Ports that the built-in responder serves.
    pub(crate) serve: Vec<(Protocol, u16)>,
}

/// The world beyond the uplinks: one namespace with an interface to each uplink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OutsideSpec {
    /// The far side of every uplink.
    pub(crate) uplinks: Vec<OutsideUplink>,
    /// Addresses of its own, on the loopback: servers that pods reach by way of the uplinks.
    pub(crate) addresses: Vec<IpAddr>,
    /// What it reaches through the uplinks: pods, ingress and egress addresses.
    pub(crate) routes: Vec<OutsideRoute>,
    /// Ports that the built-in responder serves.
    pub(crate) serve: Vec<(Protocol, u16)>,
}

/// The physical router's interface towards one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutsideUplink {
    /// The uplink's name.
    pub(crate) name: String,
    /// The interface's MAC; the kernel chooses when absent.
    pub(crate) mac: Option<Mac>,
    /// Its addresses: those that the Tier-0's static routes name as next hops.
    pub(crate) addresses: Vec<IpNet>,
    /// MTU, bytes of IP packet.
    pub(crate) mtu: u16,
}

/// A route into the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutsideRoute {
    /// The destination.
    pub(crate) prefix: IpNet,
    /// Addresses of uplinks; several share the flows.
    pub(crate) via: Vec<IpAddr>,
}

/// Where a TAP is to be attached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// The port of this endpoint.
    Endpoint(String),
    /// The uplink of this name.
    Uplink(String),
}
