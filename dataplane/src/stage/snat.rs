//! Tier-1 source translation: towards the outside, a namespace's workloads appear under its egress address.
//! Traffic inside is never translated.

use crate::snapshot::PortRow;
use std::net::IpAddr;

/// The egress address for a packet to `dst`; `None` when its namespace keeps its own addresses.
pub(super) fn egress_address(from: &PortRow, dst: IpAddr) -> Option<IpAddr> {
    from.egress_address(dst)
}
