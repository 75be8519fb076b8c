//! Distributed firewall: each workload's port has an ordered rule list for what it sends and one for what it
//! receives. A connection must pass both; answers belong to it and are not judged.

use super::{Judged, Stop};
use crate::{
    id::RuleId,
    rewrite::Tuple,
    snapshot::{EndpointPort, Snapshot},
    table::classifier::Action,
    verdict::DropReason,
};

/// Judges what leaves a workload; `tuple` has the member as its destination.
pub fn egress(snap: &Snapshot, from: &EndpointPort, tuple: &Tuple) -> Judged {
    match &from.egress {
        Some(rules) => Judged::Rule(rules.decide(snap.identities.of(tuple.dst), tuple.proto, tuple.dport)),
        None => Judged::NoFirewall,
    }
}

/// Judges what reaches a workload; `tuple` has the real client as its source.
pub fn ingress(snap: &Snapshot, to: &EndpointPort, tuple: &Tuple) -> Judged {
    match &to.ingress {
        _ if to.node.contains(&tuple.src) => Judged::OwnNode,
        Some(rules) => Judged::Rule(rules.decide(snap.identities.of(tuple.src), tuple.proto, tuple.dport)),
        None => Judged::NoFirewall,
    }
}

impl Judged {
    /// The rule that allows it, if a rule decided.
    ///
    /// # Errors
    /// A rule drops it, for `reason`.
    pub fn allowed(self, reason: DropReason) -> Result<Option<RuleId>, Stop> {
        match self {
            Self::Rule(d) if d.action == Action::Drop => Err(Stop::Drop(reason, Some(d.rule))),
            Self::Rule(d) => Ok(Some(d.rule)),
            Self::NoFirewall | Self::SamePod | Self::OwnNode => Ok(None),
        }
    }
}
