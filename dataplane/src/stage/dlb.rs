//! Distributed load balancer: at the client's port, a ClusterIP (or a VIP, reached from inside) becomes a
//! member. It comes before the firewall, so policy sees the client and the member, never the server.

use super::{First, Stop};
use crate::{
    flow::{Binding, Bound},
    snapshot::{Snapshot, VirtualServer},
    verdict::DropReason,
};
use std::net::SocketAddr;

/// Picks the member for a connection of a workload; `None` when its destination is no virtual server.
///
/// # Errors
/// Nobody serves the port or no member could, and the connection is refused; or the member of a living
/// session is gone.
pub fn balance(snap: &Snapshot, first: &First, binding: Option<&Binding>) -> Result<Option<Bound>, Stop> {
    let tuple = &first.tuple;
    let server = snap.servers.listening.get(&(tuple.dst, tuple.proto, tuple.dport));
    if let Some(binding) = binding {
        return keep(server.map(|s| &**s), binding);
    }
    match server {
        Some(server) => pick(server, first.hash).map(Some),
        None if snap.servers.addresses.contains_key(&tuple.dst) && !first.echo => {
            Err(Stop::Refuse(DropReason::NoServer))
        }
        None => Ok(None),
    }
}

/// Picks a member for a new connection.
pub(super) fn pick(server: &VirtualServer, hash: u64) -> Result<Bound, Stop> {
    let member = server.pick(hash).ok_or(Stop::Refuse(DropReason::NoBackend))?;
    Ok(Bound { server: server.id, member })
}

/// Keeps the member of a living session, if the server still has it.
pub(super) fn keep(server: Option<&VirtualServer>, binding: &Binding) -> Result<Option<Bound>, Stop> {
    let Some(bound) = binding.bound else { return Ok(None) };
    let keeps = |member: SocketAddr| server.is_some_and(|s| s.id == bound.server && s.keeps(member));
    if keeps(bound.member) { Ok(Some(bound)) } else { Err(DropReason::BindingGone.into()) }
}
