//! Pods that may send something and cannot ask for its name.

use super::{
    Found, Severity,
    facts::{Facts, finding, some},
};
use crate::{
    model::{Name, PolicyPort, Protocol, Rule},
    policy::{Direction, NETWORK_POLICY},
};
use std::collections::{BTreeMap, BTreeSet};
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
    let mut without: BTreeMap<&str, BTreeSet<&Name>> = BTreeMap::new();
    for guarded in facts.firewalls.iter().filter(|g| g.direction == Direction::Egress) {
        let firewall = guarded.firewall;
        let Some(name) = facts.name(firewall.default_decision().rule).filter(|n| n.tier == NETWORK_POLICY)
        else {
            continue;
        };
        let open = identities.iter().any(|id| firewall.decide(*id, Proto::UDP, DNS).action.allows());
        let isolating: Vec<&str> = name.policy.split(", ").collect();
        // Who may send nothing asks for no name; and the pods that answer may be declared elsewhere.
        if !may_send(firewall) || open || isolating.iter().any(|policy| names_dns(facts, policy)) {
            continue;
        }
        for policy in isolating.into_iter().filter(|policy| !egress(facts, policy).is_empty()) {
            without.entry(policy).or_default().extend(&guarded.pods);
        }
    }
    for (policy, pods) in without {
        let Some(at) = facts.position(policy) else { continue };
        let pods: Vec<&Name> = pods.into_iter().collect();
        let what = format!("pods that may send but not ask DNS (UDP 53): {}", some(&pods));
        let advice = "allow UDP and TCP 53 to the cluster's DNS, unless they only use addresses";
        found.push(finding(Severity::Warning, at, (policy, None), "noDns", what, advice));
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

/// The egress rules of a NetworkPolicy.
fn egress<'a>(facts: &Facts<'a>, policy: &str) -> &'a [Rule] {
    let (namespace, name) = policy.split_once('/').unwrap_or_default();
    let policy = facts.model.policies.get(&Name::new(namespace, name));
    policy.and_then(|p| p.egress.as_deref()).unwrap_or_default()
}

/// Whether some egress rule allows UDP 53, to whomever.
fn names_dns(facts: &Facts<'_>, policy: &str) -> bool {
    let is_dns = |port: &PolicyPort| {
        port.protocol == Protocol::Udp && port.port.range().is_none_or(|numbers| numbers.contains(&DNS))
    };
    egress(facts, policy).iter().any(|rule| rule.ports.iter().any(is_dns))
}

fn may_send(firewall: &Firewall) -> bool {
    let rules = firewall.layers().iter().flat_map(|layer| layer.rules());
    let mut allowing = rules.filter(|rule| matches!(rule.effect, Effect::Decide(action) if action.allows()));
    allowing.any(|rule| !rule.clauses.is_empty())
}
