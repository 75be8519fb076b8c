//! Policies of administrators that have no effect, and policies that are only judged.

use super::{
    Found, Severity,
    facts::{Facts, finding, some},
};
use crate::{model::Name, policy::Direction};

pub(super) fn find(facts: &Facts<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let isolated = Direction::ALL.map(|direction| (direction, facts.isolated(direction)));
    for policy in &facts.tiered {
        let name = policy.id.to_string();
        if policy.staged {
            found.push(finding(
                Severity::Note,
                &policy.at,
                (&name, None),
                "staged",
                STAGED.to_owned(),
                UNSTAGE,
            ));
        }
        for rule in policy.rules.iter().filter(|_| !policy.tier.is_before_network_policies()) {
            let pods = facts.applied.pods(rule.applied_to.as_ref().unwrap_or(&policy.applied_to));
            let has = |direction| match direction {
                Direction::Ingress => rule.directions.has_ingress(),
                Direction::Egress => rule.directions.has_egress(),
            };
            let mut asked = isolated.iter().filter(|(direction, _)| has(*direction));
            let never = asked.all(|(_, isolated)| pods.iter().all(|pod| isolated.contains(pod)));
            if never && !pods.is_empty() {
                let pods: Vec<&Name> = pods;
                let what = format!("never asked: NetworkPolicies isolate all its pods, {}", some(&pods));
                let advice = format!(
                    "rules of the tier {} are for pods without NetworkPolicies; use an earlier one",
                    policy.tier
                );
                let of = (name.as_str(), Some(rule.name.as_str()));
                found.push(finding(Severity::Warning, &policy.at, of, "neverAsked", what, advice));
            }
        }
    }
    for (policy, _) in facts.policies.iter().filter(|(policy, _)| policy.staged) {
        let name = policy.name.to_string();
        found.push(finding(Severity::Note, &policy.at, (&name, None), "staged", STAGED.to_owned(), UNSTAGE));
    }
    found
}

const STAGED: &str = "is staged: it is judged and not enforced";
const UNSTAGE: &str = "remove supernet.dev/staged to enforce it";
