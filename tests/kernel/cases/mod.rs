//! What is sent.

mod errors;
mod fragments;
mod odd;
mod plain;
mod size;
mod tcp;
mod v6;

use crate::Case;

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    [plain::CASES, odd::CASES, size::CASES, fragments::CASES, errors::CASES, tcp::CASES, v6::CASES]
        .into_iter()
        .flatten()
        .map(|&(name, play)| Case { name, play })
        .collect()
}

/// A name, and how it is played.
type Entry = (&'static str, fn(&mut crate::Wire<'_>) -> Option<()>);

/// The outside's server, and its client.
const WORLD: &str = "203.0.113.7";
const POD_V4: &str = "10.0.0.2";
const MEMBER_V4: &str = "10.0.0.18";
const VIP: &str = "192.168.80.10";
const CLUSTER_IP: &str = "10.96.0.10";
