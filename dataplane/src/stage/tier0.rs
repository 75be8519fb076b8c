//! Tier-0 gateway: static routes, connected prefixes, several uplinks and ECMP by flow.

use super::router;
use crate::{
    id::PortId,
    snapshot::{Facts, GATEWAY_V6, Neighbor, Snapshot},
    verdict::DropReason,
};
use std::net::{IpAddr, Ipv4Addr};

/// The next hop towards `dst`: the longest of routes and connected prefixes. Several next hops share the flows
/// by `hash`, but one on `prefer`, where the connection came in, is taken first.
pub fn next_hop(snap: &Snapshot, dst: IpAddr, hash: u64, prefer: Option<PortId>) -> Option<Neighbor> {
    snap.index.next_hop(dst, &snap.index.of(dst), hash, prefer)
}

/// uRPF, loose: a source from outside must not be one of ours and must be routable.
///
/// # Errors
/// [`DropReason::Martian`], [`DropReason::SpoofedAddress`] or [`DropReason::NoRoute`].
pub fn reverse_path(snap: &Snapshot, src: IpAddr) -> Result<(), DropReason> {
    reverse_path_of(src, &snap.index.of(src))
}

/// The same when `facts` are known of the source.
#[inline]
pub(super) fn reverse_path_of(src: IpAddr, facts: &Facts) -> Result<(), DropReason> {
    if router::is_martian(src) {
        return Err(DropReason::Martian);
    }
    match (facts.is_inside(), facts.is_routed()) {
        (true, _) => Err(DropReason::SpoofedAddress),
        (false, false) => Err(DropReason::NoRoute),
        (false, true) => Ok(()),
    }
}

/// Whether an address is one of the Tier-0's own.
pub fn is_own(snap: &Snapshot, addr: IpAddr) -> bool {
    snap.index.of(addr).is_tier0()
}

/// The address the Tier-0 speaks from, in the family of `like`.
pub fn address(snap: &Snapshot, like: IpAddr) -> IpAddr {
    snap.index.tier0_address(like).unwrap_or(if like.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        GATEWAY_V6.into()
    })
}
