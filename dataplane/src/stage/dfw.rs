//! Distributed firewall: each workload's port has an ordered rule list for what it sends and one for what it
//! receives. A connection must pass both; answers belong to it and are not judged.

use super::{Judged, Stop};
use crate::{
    id::{IdentityId, RuleId},
    rewrite::Tuple,
    snapshot::{EndpointPort, Firewall, Snapshot},
    table::classifier::{Action, RuleSet},
    verdict::DropReason,
    wire::Proto,
};

/// Judges what leaves a workload; `tuple` has the member as its destination.
pub fn egress(snap: &Snapshot, from: &EndpointPort, tuple: &Tuple) -> Judged {
    by_rules(from.egress.as_deref(), snap.index.of(tuple.dst).identity, tuple)
}

/// Judges what reaches a workload; `tuple` has the real client as its source.
pub fn ingress(snap: &Snapshot, to: &EndpointPort, tuple: &Tuple) -> Judged {
    if to.node.contains(&tuple.src) {
        return Judged::OwnNode;
    }
    by_rules(to.ingress.as_deref(), snap.index.of(tuple.src).identity, tuple)
}

fn by_rules(rules: Option<&RuleSet>, peer: IdentityId, tuple: &Tuple) -> Judged {
    match rules {
        Some(rules) => Judged::Rule(rules.decide(peer, tuple.proto, tuple.dport)),
        None => Judged::NoFirewall,
    }
}

/// Asks one firewall about a new connection, with a peer of this identity, by this protocol to this port.
#[inline]
pub(super) fn judge(
    snap: &Snapshot,
    firewall: Option<Firewall>,
    peer: IdentityId,
    (proto, port): (Proto, u16),
) -> Judged {
    match firewall {
        Some(firewall) => Judged::Rule(snap.index.decide(firewall, peer, proto, port)),
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
