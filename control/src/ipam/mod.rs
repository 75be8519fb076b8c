//! Addresses.

mod addressing;

pub use addressing::{Addressing, PodAddresses, SegmentBlock};
