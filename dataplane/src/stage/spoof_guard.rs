//! Spoof guard: a workload sends from its own MAC and addresses, and in no role that is the network's, or not at all.

use crate::{
    rewrite::Tuple,
    snapshot::{EndpointPort, PortEntry, Snapshot},
    verdict::DropReason,
    wire::{AnyAddress, Mac, Proto},
};
use std::net::IpAddr;

/// Checks the source MAC of every frame of a workload's port.
///
/// # Errors
/// [`DropReason::SpoofedMac`].
pub fn mac(port: &PortEntry, src: Mac) -> Result<(), DropReason> {
    if src == port.mac { Ok(()) } else { Err(DropReason::SpoofedMac) }
}

/// Checks the source address of a packet that opens a connection. Later packets are covered by their key,
/// which holds the port and the address.
///
/// # Errors
/// [`DropReason::SpoofedAddress`].
pub fn address(port: &EndpointPort, src: IpAddr) -> Result<(), DropReason> {
    if port.addresses.contains(&src) { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Refuses what a DHCP server says to its clients, from whatever port it says it, as clients look at their own only:
/// addresses are assigned by control, and by nobody else.
///
/// # Errors
/// [`DropReason::Dhcp`].
#[inline]
pub(super) fn server<A: AnyAddress>(snap: &Snapshot, tuple: &Tuple<A>) -> Result<(), DropReason> {
    if tuple.proto != Proto::UDP || !matches!(tuple.dport, 68 | 546) {
        return Ok(());
    }
    // Whose address is no workload's is nobody's client here.
    let is_server = matches!(tuple.sport, 67 | 547);
    if is_server || snap.index.of(tuple.dst).port().is_some() { Err(DropReason::Dhcp) } else { Ok(()) }
}
