//! Spoof guard: a workload sends from its own MAC and addresses, or not at all.

use crate::{
    snapshot::{EndpointPort, PortEntry},
    verdict::DropReason,
    wire::Mac,
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
