//! Tier-0 gateway: static routes, connected prefixes, several uplinks and ECMP by flow.

use super::router;
use crate::{
    id::PortId,
    snapshot::{GATEWAY_V6, Neighbor, PortRole, Snapshot},
    verdict::DropReason,
};
use std::net::{IpAddr, Ipv4Addr};

/// The next hop towards `dst`: the longest of routes and connected prefixes. Several next hops share the flows
/// by `hash`, but one on `prefer`, where the connection came in, is taken first.
pub fn next_hop(snap: &Snapshot, dst: IpAddr, hash: u64, prefer: Option<PortId>) -> Option<Neighbor> {
    let route = snap.tier0.routes.get_prefix(dst);
    let connected = snap.tier0.connected.get_prefix(dst);
    if let Some((prefix, port)) = connected
        && route.is_none_or(|(route, _)| route.prefix_len() <= prefix.prefix_len())
    {
        return Some(Neighbor { port: *port, address: dst, mac: static_mac(snap, *port, dst) });
    }
    let (_, hops) = route?;
    let preferred = hops.iter().find(|n| Some(n.port) == prefer);
    let index = ((u128::from(hash) * hops.len() as u128) >> 64) as usize;
    preferred.or_else(|| hops.get(index)).copied()
}

/// A connected address may be a next hop whose MAC was configured.
fn static_mac(snap: &Snapshot, port: PortId, address: IpAddr) -> Option<crate::wire::Mac> {
    let is = |n: &&Neighbor| n.port == port && n.address == address;
    snap.tier0.routes.iter().flat_map(|(_, hops)| hops).find(is)?.mac
}

/// uRPF, loose: a source from outside must not be one of ours and must be routable.
///
/// # Errors
/// [`DropReason::Martian`], [`DropReason::SpoofedAddress`] or [`DropReason::NoRoute`].
pub fn reverse_path(snap: &Snapshot, src: IpAddr) -> Result<(), DropReason> {
    if router::is_martian(src) {
        return Err(DropReason::Martian);
    }
    let ours = snap.endpoints.contains_key(&src) || snap.owned.get(src).is_some() || is_own(snap, src);
    match (ours, next_hop(snap, src, 0, None)) {
        (true, _) => Err(DropReason::SpoofedAddress),
        (false, None) => Err(DropReason::NoRoute),
        (false, Some(_)) => Ok(()),
    }
}

/// Whether an address is one of the Tier-0's own.
pub fn is_own(snap: &Snapshot, addr: IpAddr) -> bool {
    own_addresses(snap).any(|a| a == addr)
}

/// The address the Tier-0 speaks from, in the family of `like`.
pub fn address(snap: &Snapshot, like: IpAddr) -> IpAddr {
    own_addresses(snap).find(|a| a.is_ipv4() == like.is_ipv4()).unwrap_or(if like.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        GATEWAY_V6.into()
    })
}

fn own_addresses(snap: &Snapshot) -> impl Iterator<Item = IpAddr> {
    snap.tier0.uplinks.iter().filter_map(|id| snap.port(*id)).flat_map(|port| match &port.role {
        PortRole::Uplink(uplink) => uplink.addresses.iter().map(ipnet::IpNet::addr).collect::<Vec<_>>(),
        PortRole::Endpoint(_) => Vec::new(),
    })
}
