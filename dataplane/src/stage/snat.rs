//! Tier-1 source translation: towards the outside, a namespace's workloads appear under its egress address.
//! Traffic inside is never translated.

use crate::snapshot::{EndpointPort, Snapshot};
use std::net::IpAddr;

/// The egress address for a packet to `dst`; `None` when its namespace keeps its own addresses.
pub fn egress_address(snap: &Snapshot, from: &EndpointPort, dst: IpAddr) -> Option<IpAddr> {
    snap.namespace(from.namespace?)?.egress(dst)
}
