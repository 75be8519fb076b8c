//! Selectors that select nobody.

use super::{
    Finding, Found, Severity,
    facts::{Facts, finding},
};
use crate::{
    analysis::text,
    model::{Ends, Peer, Selector, TieredPolicy, TieredRule, Verdict},
    policy::Direction,
};

pub(super) fn find(facts: &Facts<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (policy, pods) in &facts.policies {
        let name = policy.name.to_string();
        if pods.is_empty() {
            let namespace = &policy.name.namespace;
            let what = format!("selects no pod: {} in {namespace}", selected(&policy.pods));
            found.push(nobody(
                facts,
                &policy.at,
                (&name, None),
                "selectsNoPod",
                what,
                has_pods(facts, namespace),
            ));
        }
        for direction in Direction::ALL {
            for (n, rule) in direction.rules_of(policy).unwrap_or_default().iter().enumerate() {
                let rule_name = format!("{}[{n}]", direction.as_str());
                for peer in &rule.peers {
                    found.extend(of_peer(
                        facts,
                        &policy.at,
                        (&name, Some(&rule_name)),
                        &policy.name.namespace,
                        peer,
                    ));
                }
            }
        }
    }
    for policy in &facts.tiered {
        let name = policy.id.to_string();
        let whole = (&policy.applied_to, None);
        let own = policy
            .rules
            .iter()
            .filter_map(|rule| Some((rule.applied_to.as_ref()?, Some(rule.name.as_str()))));
        for (to, rule) in std::iter::once(whole).chain(own) {
            if !to.is_empty() && facts.applied.pods(to).is_empty() {
                let what = format!("selects no pod: {}", text::peers("", to));
                let known = to.iter().any(|peer| namespace_is_there(facts, peer));
                found.push(nobody(facts, &policy.at, (&name, rule), "selectsNoPod", what, known));
            }
        }
        for rule in &policy.rules {
            for (field, ends) in
                [("sourcesExcluded", &rule.sources), ("destinationsExcluded", &rule.destinations)]
            {
                found.extend(of_ends(facts, policy, rule, field, ends));
            }
        }
    }
    found
}

/// One side of a rule of an administrator's policy.
fn of_ends(
    facts: &Facts<'_>,
    policy: &TieredPolicy,
    rule: &TieredRule,
    excluding: &str,
    ends: &Ends,
) -> Vec<Found> {
    let name = policy.id.to_string();
    let of = (name.as_str(), Some(rule.name.as_str()));
    let told: Vec<Found> =
        ends.peers.iter().filter_map(|peer| of_peer(facts, &policy.at, of, "", peer)).collect();
    // All but nobody are everybody, which is more than was meant whatever the rule does with them.
    if ends.excluded
        && told.len() == ends.peers.len()
        && let Some((_, first)) = told.first()
    {
        let words = text::peers("", &ends.peers);
        let what = format!("{excluding} excludes nobody, so everyone is meant: {words}");
        let advice = first.advice.clone();
        return vec![finding(Severity::Warning, &policy.at, of, "excludesNobody", what, advice)];
    }
    // A quarantine stands ready for nobody.
    let is_denial = matches!(rule.verdict, Verdict::Drop | Verdict::Reject);
    let severity = |severity| if is_denial { Severity::Note } else { severity };
    told.into_iter()
        .map(|(place, found)| (place, Finding { severity: severity(found.severity), ..found }))
        .collect()
}

fn of_peer(
    facts: &Facts<'_>,
    at: &crate::model::Position,
    rule: (&str, Option<&str>),
    namespace: &str,
    peer: &Peer,
) -> Option<Found> {
    let words = text::peer(namespace, peer);
    match peer {
        Peer::Pods { namespaces: None, pods } => {
            let all = Selector::ALL;
            let none = facts.applied.pods_in(namespace, pods.as_ref().unwrap_or(&all)).is_empty();
            let what = format!("nobody is meant: {words}");
            none.then(|| nobody(facts, at, rule, "peerMatchesNobody", what, has_pods(facts, namespace)))
        }
        Peer::Pods { .. } => {
            let none = facts.applied.pods(std::slice::from_ref(peer)).is_empty();
            let what = format!("nobody is meant: {words}");
            none.then(|| nobody(facts, at, rule, "peerMatchesNobody", what, namespace_is_there(facts, peer)))
        }
        Peer::Set(name) if facts.model.address_sets.get(name).is_some_and(|set| set.ranges.is_empty()) => {
            let what = format!("nobody is meant: address set {name} is empty");
            let advice = "add addresses to the set, or remove what refers to it";
            Some(finding(Severity::Warning, at, rule, "peerMatchesNobody", what, advice))
        }
        Peer::Nodes(selector) => {
            let mut nodes = facts.model.nodes.values().peekable();
            // Nodes that were not declared have no labels that anybody knows.
            let known = nodes.peek().is_some();
            let none = known && !nodes.any(|node| selector.matches(&node.labels));
            let what = format!("nobody is meant: {words}");
            none.then(|| nobody(facts, at, rule, "peerMatchesNobody", what, true))
        }
        Peer::Block { .. } | Peer::Domains(_) | Peer::Set(_) => None,
    }
}

/// It matters less where the pods may be declared elsewhere.
fn nobody(
    facts: &Facts<'_>,
    at: &crate::model::Position,
    rule: (&str, Option<&str>),
    kind: &'static str,
    what: String,
    namespace_is_there: bool,
) -> Found {
    let on_nodes = facts.model.pods.values().any(|pod| pod.host_network);
    let advice = match (namespace_is_there, on_nodes) {
        (false, _) => {
            "these manifests have no pods in such a namespace: add them, or correct its name or labels"
        }
        (true, false) => "compare the labels with those of the pods",
        (true, true) => "compare the labels with those of the pods; pods with hostNetwork are never selected",
    };
    let severity = if namespace_is_there { Severity::Warning } else { Severity::Note };
    finding(severity, at, rule, kind, what, advice)
}

fn selected(selector: &Selector) -> String {
    if selector.requirements.is_empty() {
        "all pods".to_owned()
    } else {
        format!("pods {}", text::selector(selector))
    }
}

fn has_pods(facts: &Facts<'_>, namespace: &str) -> bool {
    facts.model.pods.values().any(|pod| pod.name.namespace == namespace && !pod.host_network)
}

/// Whether pods of a namespace are there that the peer speaks of, whatever their labels.
fn namespace_is_there(facts: &Facts<'_>, peer: &Peer) -> bool {
    let Peer::Pods { namespaces, .. } = peer else { return true };
    !facts.applied.pods(&[Peer::Pods { namespaces: namespaces.clone(), pods: None }]).is_empty()
}
