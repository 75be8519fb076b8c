//! Tier-1 source translation: towards the outside, a namespace's workloads appear under its egress address.
//! Traffic inside is never translated.

use crate::{snapshot::PortRow, wire::AnyAddress};

/// The egress address for a packet to `dst`; `None` when its namespace keeps its own addresses.
#[inline]
pub(super) fn egress_address<A: AnyAddress>(from: &PortRow, dst: A) -> Option<A> {
    from.egress_address(dst)
}
