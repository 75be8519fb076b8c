//! Validated objects.
//!
//! Whatever their source (manifests, a builder, later an API), objects of this module keep the rules that
//! Kubernetes admits by: names are DNS labels, selectors are well formed, port ranges are not empty. A value
//! that may be wrong in relation to another (an address outside its pool, say) carries where it was written,
//! as [`At`], so that the error can say so.

mod change;
mod difference;
mod labels;
mod limits;
mod policy;
mod service;
mod supervisor;
mod tiers;
mod workload;

pub use change::{Change, Model, ModelError, Object, ObjectId, ObjectKind};
pub use difference::Step;
pub use labels::{Labels, Operator, Requirement, Selector};
pub use limits::{DefaultLimits, Limit, LimitSettings};
pub use policy::{NetworkPolicy, Peer, PolicyPort, PortMatch, Rule};
pub use service::{
    Endpoint, EndpointPort, EndpointSlice, IpFamily, Service, ServiceKind, ServicePort, TargetPort,
};
pub use supervisor::{
    DefaultServer, IngressPosture, InterfaceDriver, NextHop, OnInterface, ServerBackend, StaticRoute,
    Supervisor, Tier1Layout, Uplink,
};
pub use tiers::{
    AddressSet, Directions, Ends, Service as PolicyService, Tier, TieredPolicy, TieredRule, Verdict,
};
pub use workload::{ContainerPort, DnsPolicy, Namespace, Node, Pod, PodDns, Snat};

pub use supernet_dataplane::wire::Mac;

use std::{fmt, sync::Arc};

/// The transport protocols that Kubernetes names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// TCP, the default where a field is left out.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl From<Protocol> for supernet_dataplane::wire::Proto {
    fn from(p: Protocol) -> Self {
        match p {
            Protocol::Tcp => Self::TCP,
            Protocol::Udp => Self::UDP,
            Protocol::Sctp => Self::SCTP,
        }
    }
}

/// The name of an object inside a namespace, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl Name {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where something was written: file, line and column, both counted from 1.
///
/// Objects that were built in code have no position and print as `(built in code)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    place: Option<(Arc<str>, u32, u32)>,
}

impl Position {
    /// A place in a file; `-` is standard input.
    pub fn new(file: impl Into<Arc<str>>, line: u32, column: u32) -> Self {
        Self { place: Some((file.into(), line, column)) }
    }

    /// The file's name as the user gave it.
    pub fn file(&self) -> Option<&str> {
        self.place.as_ref().map(|(f, _, _)| &**f)
    }

    /// The line, counted from 1.
    pub fn line(&self) -> Option<u32> {
        self.place.as_ref().map(|(_, l, _)| *l)
    }

    /// The column, counted from 1.
    pub fn column(&self) -> Option<u32> {
        self.place.as_ref().map(|(_, _, c)| *c)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((file, line, column)) => write!(f, "{file}:{line}:{column}"),
            None => f.write_str("(built in code)"),
        }
    }
}

/// A value and where it was written. Equality looks at the value alone.
#[derive(Debug, Clone, Default)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: Position,
}

impl<T> At<T> {
    /// A value with its place.
    pub fn new(value: T, at: Position) -> Self {
        Self { value, at }
    }
}

impl<T> From<T> for At<T> {
    fn from(value: T) -> Self {
        Self { value, at: Position::default() }
    }
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for At<T> {}
