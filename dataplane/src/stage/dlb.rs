//! Distributed load balancer: at the client's port, a ClusterIP (or a VIP, reached from inside) becomes a
//! member. It comes before the firewall, so policy sees the client and the member, never the server.

use super::{Balanced, First, Stop};
use crate::{
    flow::Binding,
    id::ServerId,
    snapshot::{Facts, Listener, ServerKind, Snapshot},
    verdict::DropReason,
    wire::AnyAddress,
};
use std::hash::BuildHasher;

/// Picks the member for a connection of a workload; `None` when its destination, of which `dst` is known, is no
/// virtual server.
///
/// # Errors
/// Nobody serves the port or no member could, and the connection is refused; or the member of a living
/// session is gone.
#[inline]
pub(super) fn balance<A: AnyAddress>(
    snap: &Snapshot,
    first: &First<A>,
    dst: &Facts,
    binding: Option<&Binding>,
) -> Result<Option<Balanced<A>>, Stop> {
    if let Some(binding) = binding {
        return keep(snap, first, binding, |_| true);
    }
    match snap.index.listener(dst, first.tuple.proto, first.tuple.dport, false) {
        Some(server) => pick(snap, server, first).map(Some),
        None if dst.server().is_some() && !first.echo => Err(Stop::Refuse(DropReason::NoServer)),
        None => Ok(None),
    }
}

/// Picks a member for a new connection.
#[inline]
pub(super) fn pick<A: AnyAddress>(
    snap: &Snapshot,
    (server, listener): (ServerId, Listener),
    first: &First<A>,
) -> Result<Balanced<A>, Stop> {
    let hash = if listener.by_client { client_hash(first.tuple.src) } else { first.hash };
    let member = snap.index.pick(&listener, hash);
    let member = member.and_then(|member| Some(((A::of(member.ip)?, member.port), member.facts)));
    let (member, facts) = member.ok_or(Stop::Refuse(DropReason::NoBackend))?;
    Ok(Balanced { server, member, facts })
}

/// A hash that is the same for all flows of a client.
#[cold]
fn client_hash<A: AnyAddress>(client: A) -> u64 {
    foldhash::fast::FixedState::with_seed(0).hash_one(client.bits())
}

/// Keeps the member of a living session, if the server, of a kind that the sender may reach, still has it.
pub(super) fn keep<A: AnyAddress>(
    snap: &Snapshot,
    first: &First<A>,
    binding: &Binding,
    reaches: impl FnOnce(ServerKind) -> bool,
) -> Result<Option<Balanced<A>>, Stop> {
    let Some(bound) = binding.bound else { return Ok(None) };
    let tuple = &first.tuple;
    let server = snap.servers.listening.get(&(tuple.dst.ip(), tuple.proto, tuple.dport));
    let keeps = server.is_some_and(|s| s.id == bound.server && reaches(s.kind) && s.keeps(bound.member));
    let member = A::of(bound.member.ip()).filter(|_| keeps).ok_or(DropReason::BindingGone)?;
    let facts = snap.index.of(member);
    Ok(Some(Balanced { server: bound.server, member: (member, bound.member.port()), facts }))
}
