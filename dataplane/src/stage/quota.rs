//! Whose quota a connection counts for, and the claim of it.
//!
//! The pod that opens a connection pays for it, and its namespace: no one else can make it do so. What is opened from
//! the outside nobody here can be blamed for, so the pod that is called pays: a flood from there fills the quota of
//! whom it is meant for, and leaves the table to others. So does what nodes open, but to pods of their own: kubelet's
//! probes are never refused, as no firewall denies them either. What is left, of nodes and uplinks alone, counts for
//! nobody.

use super::plan::{Adjacency, Plan};
use crate::{
    flow::{Payer, Place, QuotaClaim, Record, Session},
    id::{NamespaceId, PortId},
    snapshot::{PortRole, Snapshot},
    state::State,
    time::Instant,
    verdict::DropReason,
    wire::{Address, AnyAddress, Proto},
};
use std::net::IpAddr;

/// Who pays for a connection from an address at a port to a workload's port, or to the outside.
pub fn payer(
    snap: &Snapshot,
    (ingress, source): (PortId, impl AnyAddress),
    out: Option<PortId>,
) -> Option<(Payer, PortId, NamespaceId)> {
    let role = |port: PortId| snap.port(port).map(|p| &p.role);
    let is_node = match role(ingress)? {
        PortRole::Endpoint(caller) => match caller.namespace {
            Some(namespace) => return Some((Payer::Caller, ingress, namespace)),
            None => true,
        },
        PortRole::Uplink(_) => false,
    };
    let out = out?;
    let Some(PortRole::Endpoint(called)) = role(out) else { return None };
    let source: IpAddr = source.ip();
    if is_node && called.node.contains(&source) {
        return None;
    }
    Some((Payer::Called, out, called.namespace?))
}

/// Counts a planned connection, if limits allow it. Who pays for it; `None`: nobody.
///
/// # Errors
/// The limit that is reached. Nothing was counted.
#[inline(never)]
pub fn claim<'s, A: Address>(
    state: &'s State,
    snap: &Snapshot,
    plan: &Plan<'_, A>,
    now: Instant,
) -> Result<Option<(Payer, QuotaClaim<'s>)>, DropReason> {
    let Some((payer, port, namespace)) = payer_of(snap, plan) else { return Ok(None) };
    let limits = &snap.limits;
    let is_opening = plan.original.proto == Proto::TCP;
    let of_namespace = |namespace| limits.of_namespace(namespace);
    let claim =
        state.quotas.claim((port, namespace), &limits.of_port(port), of_namespace, is_opening, now)?;
    Ok(Some((payer, claim)))
}

/// Takes note that a planned connection was refused, if it was for a limit.
#[cold]
pub fn refuse<A: Address>(state: &State, snap: &Snapshot, plan: &Plan<'_, A>, reason: DropReason) {
    if reason.is_limit()
        && let Some((_, port, _)) = payer_of(snap, plan)
    {
        state.quotas.refuse(port, reason);
    }
}

fn payer_of<A: Address>(snap: &Snapshot, plan: &Plan<'_, A>) -> Option<(Payer, PortId, NamespaceId)> {
    let out = match Adjacency::of(plan.course.adjacencies.0) {
        Adjacency::Port(port) => Some(port),
        Adjacency::NextHop(_) => None,
    };
    payer(snap, (plan.ingress, plan.original.src), out)
}

/// Counts a session that nobody pays for yet, of those made before connections were counted. Its place is locked.
pub fn adopt(state: &State, snap: &Snapshot, place: &mut Place<'_>, record: &mut Record, session: &Session) {
    if record.payer.is_some() {
        return;
    }
    // An uplink is nobody who pays.
    let out = Some(session.judgement.out);
    let Some((payer, port, namespace)) = payer(snap, (session.ingress, session.original.src), out) else {
        return;
    };
    let half_open = session.original.proto == Proto::TCP && record.track.is_half_open();
    state.quotas.adopt((port, namespace), half_open);
    record.payer = Some(payer);
    place.put(record);
}

/// The port whose pod pays for a session, if one does; `adjacency` is where its first packet's entry leads.
pub fn paying_port(record: &Record, adjacency: u32) -> Option<PortId> {
    match (record.payer?, Adjacency::of(adjacency)) {
        (Payer::Caller, _) => Some(record.ingress),
        (Payer::Called, Adjacency::Port(port)) => Some(port),
        (Payer::Called, Adjacency::NextHop(_)) => None,
    }
}
