//! Distributed load balancer: at the client's port, a ClusterIP (or a VIP, reached from inside) becomes a
//! member. It comes before the firewall, so policy sees the client and the member, never the server.

use super::{Balanced, First, Stop};
use crate::{
    flow::{Binding, Bound},
    id::ServerId,
    snapshot::{Facts, Listener, ServerKind, Snapshot},
    verdict::DropReason,
};

/// Picks the member for a connection of a workload; `None` when its destination, of which `dst` is known, is no
/// virtual server.
///
/// # Errors
/// Nobody serves the port or no member could, and the connection is refused; or the member of a living
/// session is gone.
#[inline]
pub(super) fn balance(
    snap: &Snapshot,
    first: &First,
    dst: &Facts,
    binding: Option<&Binding>,
) -> Result<Option<Balanced>, Stop> {
    if let Some(binding) = binding {
        return keep(snap, first, binding, |_| true);
    }
    match snap.index.listener(dst, first.tuple.proto, first.tuple.dport, false) {
        Some(server) => pick(snap, server, first.hash).map(Some),
        None if dst.server().is_some() && !first.echo => Err(Stop::Refuse(DropReason::NoServer)),
        None => Ok(None),
    }
}

/// Picks a member for a new connection.
#[inline]
pub(super) fn pick(
    snap: &Snapshot,
    (server, listener): (ServerId, Listener),
    hash: u64,
) -> Result<Balanced, Stop> {
    let member = snap.index.pick(&listener, hash).ok_or(Stop::Refuse(DropReason::NoBackend))?;
    Ok(Balanced { bound: Bound { server, member: member.address() }, facts: member.facts })
}

/// Keeps the member of a living session, if the server, of a kind that the sender may reach, still has it.
pub(super) fn keep(
    snap: &Snapshot,
    first: &First,
    binding: &Binding,
    reaches: impl FnOnce(ServerKind) -> bool,
) -> Result<Option<Balanced>, Stop> {
    let Some(bound) = binding.bound else { return Ok(None) };
    let tuple = &first.tuple;
    let server = snap.servers.listening.get(&(tuple.dst, tuple.proto, tuple.dport));
    let keeps = server.is_some_and(|s| s.id == bound.server && reaches(s.kind) && s.keeps(bound.member));
    if !keeps {
        return Err(DropReason::BindingGone.into());
    }
    Ok(Some(Balanced { bound, facts: snap.index.of(bound.member.ip()) }))
}
