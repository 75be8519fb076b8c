//! Pods that may send something and cannot ask for its name.

use super::{
    Found, Severity,
    facts::{Facts, finding, some},
};
use crate::policy::{Direction, NETWORK_POLICY};
use std::collections::BTreeSet;
use supernet_dataplane::{
    id::IdentityId,
    table::{classifier::Effect, firewall::Firewall},
    wire::Proto,
};

const DNS: u16 = 53;

pub(super) fn find(facts: &Facts<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let identities: BTreeSet<IdentityId> = facts
        .snapshot
        .identities
        .exact
        .values()
        .copied()
        .chain(facts.snapshot.identities.ranges.iter().map(|(_, id)| *id))
        .chain([IdentityId::UNKNOWN])
        .collect();
    for guarded in facts.firewalls.iter().filter(|g| g.direction == Direction::Egress) {
        let firewall = guarded.firewall;
        let Some(name) = facts.name(firewall.default_decision().rule).filter(|n| n.tier == NETWORK_POLICY)
        else {
            continue;
        };
        let open = |proto| identities.iter().any(|id| firewall.decide(*id, proto, DNS).action.allows());
        // Who may send nothing asks for no name.
        if !may_send(firewall) || open(Proto::UDP) {
            continue;
        }
        for policy in name.policy.split(", ") {
            let Some(at) = facts.position(policy) else { continue };
            let what = format!("pods that may send but not ask DNS (UDP 53): {}", some(&guarded.pods));
            let advice = "allow UDP and TCP 53 to the cluster's DNS, or leave it if they only use addresses";
            found.push(finding(Severity::Warning, at, (policy, None), "noDns", what, advice));
        }
    }
    for (policy, _) in &facts.policies {
        let receives = policy.ingress.as_ref().is_some_and(|rules| !rules.is_empty());
        if receives && policy.egress.as_ref().is_some_and(Vec::is_empty) {
            let what = "its policyTypes list Egress, and it has no egress rule: its pods may send nothing"
                .to_owned();
            let advice = "remove Egress from policyTypes unless that is meant";
            let name = policy.name.to_string();
            found.push(finding(Severity::Note, &policy.at, (&name, None), "sendsNothing", what, advice));
        }
    }
    found
}

fn may_send(firewall: &Firewall) -> bool {
    let rules = firewall.layers().iter().flat_map(|layer| layer.rules());
    let mut allowing = rules.filter(|rule| matches!(rule.effect, Effect::Decide(action) if action.allows()));
    allowing.any(|rule| !rule.clauses.is_empty())
}
