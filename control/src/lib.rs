//! What should happen: Kubernetes objects become addresses, rules and a snapshot for the dataplane.
//!
//! ```text
//!   manifests ──▶ model ──▶ ipam ──▶ policy ──▶ compile ──▶ dataplane::snapshot::Snapshot
//!                              │
//!                            store (leases)          analysis: plan, trace and reach as values
//! ```
//!
//! [`intern`] keeps the numbers that the packet path knows things by, [`place`] says where every pod is.
//!
//! Data flows one way. Everything here is a value: reading, planning and compiling change nothing until the
//! caller commits leases and publishes the snapshot.

pub mod analysis;
mod closest;
pub mod compile;
pub mod intern;
pub mod ipam;
#[cfg(feature = "manifests")]
pub mod manifests;
pub mod model;
pub mod network;
pub mod place;
pub mod policy;
pub mod store;

#[cfg(test)]
mod fixture;
