//! Why a model cannot be compiled.

use crate::{
    model::{Mac, Name, Position},
    place::PlaceError,
};
use std::net::{IpAddr, SocketAddr};

/// What makes a model and its addresses no network. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A pod has no place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A pod was put into a segment that is not there.
    #[error("{at}: pod {pod} lies in segment {segment}, which does not exist; assign addresses again")]
    NoSegment {
        /// The pod.
        pod: Name,
        /// The segment.
        segment: String,
        /// Where the pod was written.
        at: Position,
    },
    /// Two endpoints have one address.
    #[error("{at}: {second} has the address {address}, which {first} has already; give it another one")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The port that has it.
        first: String,
        /// The port that would have it too.
        second: String,
        /// Where the second one was written.
        at: Position,
    },
    /// Two ports would be called the same.
    #[error("{at}: there is another port called {name}; rename this one")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the second one was written.
        at: Position,
    },
    /// The port of a pod in namespace `node` or `uplink` would be called as that of a node or uplink is.
    #[error(
        "{at}: the port of pod {pod} would have the name of {kind} {}: ports of {kind}s are called {kind}/NAME, as those of \
         pods are called NAMESPACE/NAME; rename the pod or move it out of namespace `{kind}`",
        pod.name
    )]
    PodNameTaken {
        /// The pod.
        pod: Name,
        /// "node" or "uplink".
        kind: &'static str,
        /// Where the pod was written.
        at: Position,
    },
    /// More ports than ids.
    #[error("this network has had more than {max} ports; start it anew")]
    TooManyPorts {
        /// How many there may be.
        max: u32,
    },
    /// An uplink asks for a MAC that it cannot have.
    #[error("{at}: uplink {uplink} asks for the MAC {mac}, {why}; choose another one or leave it out")]
    UplinkMac {
        /// The uplink.
        uplink: String,
        /// The MAC.
        mac: Mac,
        /// Why not.
        why: &'static str,
        /// Where the uplink was written.
        at: Position,
    },
    /// A next hop that no uplink reaches.
    #[error("{at}: next hop {address} lies in the prefix of no uplink; use a neighbour of an uplink")]
    NextHop {
        /// The next hop.
        address: IpAddr,
        /// Where it was written.
        at: Position,
    },
    /// A next hop of the other address family.
    #[error("{at}: next hop {address} is of another address family than the route to {prefix}")]
    NextHopFamily {
        /// The next hop.
        address: IpAddr,
        /// The destination.
        prefix: ipnet::IpNet,
        /// Where it was written.
        at: Position,
    },
    /// A default virtual server names a pod that is not there.
    #[error(
        "{at}: {server} is to be served by pod {pod}, which does not exist; declare it or correct the name"
    )]
    NoBackend {
        /// The virtual server.
        server: String,
        /// The pod.
        pod: Name,
        /// Where it is named.
        at: Position,
    },
    /// Two virtual servers listen on the same address, protocol and port.
    #[error(
        "{at}: {second} would listen on {address}, as {first} does; give one of them another port or address"
    )]
    ServerTaken {
        /// Address and port.
        address: SocketAddr,
        /// The virtual server that has it.
        first: String,
        /// The one that would have it too.
        second: String,
        /// Where the second one was written.
        at: Position,
    },
    /// More members than a virtual server can spread flows over.
    #[error("{at}: {server} has {count} members; at most 65535 can share its connections")]
    TooManyMembers {
        /// The virtual server.
        server: String,
        /// How many take new connections.
        count: usize,
        /// Where it was written.
        at: Position,
    },
}
