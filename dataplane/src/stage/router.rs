//! Distributed router: a Tier-1's part that is everywhere. It delivers to workloads by exact address and
//! takes one off the TTL for every router the packet meets: one within a Tier-1, three between two of them
//! (Tier-1, Tier-0, Tier-1), two on the way out or in.

use super::{Event, Observer, Stop, tier0};
use crate::{
    id::{SegmentId, Tier1Id},
    rewrite::Tuple,
    snapshot::{EndpointPort, Facts, GATEWAY_V6, PortRow, Snapshot},
    verdict::DropReason,
    wire::AnyAddress,
};
use std::net::IpAddr;

/// Counts routers and watches the TTL.
#[derive(Debug)]
pub struct Hops {
    ttl: u8,
    passed: u8,
}

impl Hops {
    /// For a packet with this TTL.
    pub fn new(ttl: u8) -> Self {
        Self { ttl, passed: 0 }
    }

    /// The packet meets a router; its address is asked for only if the packet goes no further.
    ///
    /// # Errors
    /// Its TTL ends there.
    pub fn pass(&mut self, router: impl FnOnce() -> IpAddr) -> Result<(), Stop> {
        self.passed += 1;
        if self.ttl > self.passed { Ok(()) } else { Err(Stop::TimeExceeded(router())) }
    }

    /// Routers met.
    pub fn count(&self) -> u8 {
        self.passed
    }
}

/// Refuses destinations that are never routed. The gateway's link-local address is not routed but reached.
///
/// # Errors
/// [`DropReason::Martian`].
#[inline]
pub fn check_destination(dst: IpAddr) -> Result<(), DropReason> {
    if is_martian(dst) && dst != GATEWAY_V6 { Err(DropReason::Martian) } else { Ok(()) }
}

/// Whether an address is of no host that packets could be routed to or come from (RFC 1812, 5.3.7; RFC 6890).
#[inline]
pub fn is_martian(addr: IpAddr) -> bool {
    match addr {
        // "This network", and class E with the limited broadcast.
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => true,
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_multicast(),
        IpAddr::V6(a) => {
            a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || a.is_unicast_link_local()
                || a.to_ipv4_mapped().is_some()
        }
    }
}

/// Whether `addr` is the gateway of a segment.
pub fn is_gateway(snap: &Snapshot, segment: SegmentId, addr: IpAddr) -> bool {
    snap.segment(segment).is_some_and(|s| match addr {
        IpAddr::V4(a) => s.gateway_v4.is_some_and(|g| g.addr() == a),
        IpAddr::V6(a) => a == GATEWAY_V6,
    })
}

/// Drops what is addressed to one of our ranges and has no taker.
///
/// # Errors
/// [`DropReason::NoEndpoint`].
pub fn not_ours(snap: &Snapshot, dst: IpAddr) -> Result<(), DropReason> {
    not_ours_of(dst, &snap.index.of(dst))
}

/// The same when `facts` are known of the destination.
#[inline]
pub(super) fn not_ours_of(dst: IpAddr, facts: &Facts) -> Result<(), DropReason> {
    let link_local = matches!(dst, IpAddr::V6(a) if a.is_unicast_link_local());
    if link_local || facts.is_reserved() { Err(DropReason::NoEndpoint) } else { Ok(()) }
}

/// Routes from one workload to another.
///
/// # Errors
/// The TTL ends on the way.
pub(super) fn east_west<A: AnyAddress>(
    snap: &Snapshot,
    from: &PortRow,
    to: &PortRow,
    hops: &mut Hops,
    tuple: &Tuple<A>,
    seen: &mut impl Observer,
) -> Result<(), Stop> {
    let dst = tuple.dst.ip();
    let first = leave(snap, from, dst, hops)?;
    seen.see(Event::Routed { tier1: first }, &tuple.ip());
    if to.tier1.ok_or(DropReason::NotReady)? != first {
        hops.pass(|| tier0::address(snap, dst))?;
        seen.see(Event::Tier0 { neighbor: None }, &tuple.ip());
        let second = leave(snap, to, dst, hops)?;
        seen.see(Event::Routed { tier1: second }, &tuple.ip());
    }
    Ok(())
}

/// A packet for `dst` passes the Tier-1 of the workload at `from`.
///
/// # Errors
/// The TTL ends there.
#[inline]
pub(super) fn leave(snap: &Snapshot, from: &PortRow, dst: IpAddr, hops: &mut Hops) -> Result<Tier1Id, Stop> {
    hops.pass(|| gateway_of(snap, from.segment, dst))?;
    Ok(from.tier1.ok_or(DropReason::NotReady)?)
}

/// A packet for `dst` from outside passes the destination's Tier-1 on the way in.
///
/// # Errors
/// The TTL ends there.
#[inline]
pub(super) fn enter(snap: &Snapshot, to: &PortRow, dst: IpAddr, hops: &mut Hops) -> Result<Tier1Id, Stop> {
    hops.pass(|| told_outside(snap, gateway_of(snap, to.segment, dst)))?;
    Ok(to.tier1.ok_or(DropReason::NotReady)?)
}

/// The address that a router speaks from to the outside. A link-local one leads nowhere there, and no router passes it
/// on (RFC 4291, 2.5.6): the Tier-0 lends its own.
pub(crate) fn told_outside(snap: &Snapshot, router: IpAddr) -> IpAddr {
    if router == GATEWAY_V6 { tier0::address(snap, router) } else { router }
}

/// The address the router speaks from on this port's segment, in the family of `like`; unspecified when it has
/// none.
pub fn gateway(snap: &Snapshot, port: &EndpointPort, like: IpAddr) -> IpAddr {
    gateway_of(snap, Some(port.segment), like)
}

fn gateway_of(snap: &Snapshot, segment: Option<SegmentId>, like: IpAddr) -> IpAddr {
    if like.is_ipv6() {
        return GATEWAY_V6.into();
    }
    let gateway = segment.and_then(|s| snap.segment(s)).and_then(|s| s.gateway_v4);
    gateway.map_or(std::net::Ipv4Addr::UNSPECIFIED, |g| g.addr()).into()
}
