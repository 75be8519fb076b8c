//! L4 virtual servers on the Tier-1: a connection from outside to a VIP goes to a member, with the client's
//! address kept, so that policy and server see who calls.

use super::{First, Stop, dlb};
use crate::{
    flow::{Binding, Bound},
    snapshot::{ServerKind, Snapshot},
    verdict::DropReason,
};

/// Picks the member for a connection from outside; `None` when its destination is no virtual server.
///
/// # Errors
/// Nobody serves the port or no member could, and the connection is refused; a ClusterIP, which has no meaning
/// outside; an echo request to the VIP, which is answered; or the member of a living session is gone.
pub fn balance(snap: &Snapshot, first: &First, binding: Option<&Binding>) -> Result<Option<Bound>, Stop> {
    let tuple = &first.tuple;
    let server = snap
        .servers
        .listening
        .get(&(tuple.dst, tuple.proto, tuple.dport))
        .filter(|s| s.kind == ServerKind::Server);
    if let Some(binding) = binding {
        return dlb::keep(server.map(|s| &**s), binding);
    }
    match (server, snap.servers.addresses.get(&tuple.dst)) {
        (Some(server), _) => dlb::pick(server, first.hash).map(Some),
        (None, Some(ServerKind::Server)) if first.echo => Err(Stop::EchoReply),
        (None, Some(ServerKind::Server)) => Err(Stop::Refuse(DropReason::NoServer)),
        (None, Some(ServerKind::Distributed)) => Err(DropReason::NoEndpoint.into()),
        (None, None) => Ok(None),
    }
}
