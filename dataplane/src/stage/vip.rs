//! L4 virtual servers on the Tier-1: a connection from outside to a VIP goes to a member, with the client's
//! address kept, so that policy and server see who calls.

use super::{Balanced, First, Stop, dlb};
use crate::{
    flow::Binding,
    snapshot::{Facts, ServerKind, Snapshot},
    verdict::DropReason,
    wire::AnyAddress,
};

/// Picks the member for a connection from outside; `None` when its destination, of which `dst` is known, is no
/// virtual server.
///
/// # Errors
/// Nobody serves the port or no member could, and the connection is refused; a ClusterIP, which has no meaning
/// outside; an echo request to the VIP, which is answered; or the member of a living session is gone.
#[inline]
pub(super) fn balance<A: AnyAddress>(
    snap: &Snapshot,
    first: &First<A>,
    dst: &Facts,
    binding: Option<&Binding>,
) -> Result<Option<Balanced<A>>, Stop> {
    if let Some(binding) = binding {
        return dlb::keep(snap, first, binding, |kind| kind == ServerKind::Server);
    }
    match (snap.index.listener(dst, first.tuple.proto, first.tuple.dport, true), dst.server()) {
        (Some(server), _) => dlb::pick(snap, server, first).map(Some),
        (None, Some(ServerKind::Server)) if first.echo => Err(Stop::EchoReply),
        (None, Some(ServerKind::Server)) => Err(Stop::Refuse(DropReason::NoServer)),
        (None, Some(ServerKind::Distributed)) => Err(DropReason::NoEndpoint.into()),
        (None, None) => Ok(None),
    }
}
