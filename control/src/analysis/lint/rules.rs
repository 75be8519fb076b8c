//! Rules that never decide, rules that others make needless, and rules that allow everything.
//!
//! Every firewall is asked at every point where its rules may differ: each class of addresses, each port where a
//! service begins or has just ended.

use super::{
    Found, Severity,
    facts::{Facts, Guarded, finding},
};
use crate::{
    analysis::text,
    policy::{Direction, NETWORK_POLICY, POSTURE},
};
use std::collections::{BTreeMap, BTreeSet};
use supernet_dataplane::{
    id::{IdentityId, RuleId},
    table::classifier::{Action, Clause, Effect, Peers, Rule},
    wire::Proto,
};

/// A protocol that no rule names.
const OTHER: Proto = Proto(253);

/// What rules do in all firewalls that have them.
#[derive(Default)]
struct Seen {
    /// Somewhere it matches.
    matches: bool,
    /// Somewhere it is the first to match, or of NetworkPolicies one that is asked.
    is_reached: bool,
    /// Those that come first.
    before: BTreeSet<RuleId>,
    /// Of NetworkPolicies: wherever it is asked, the others that allow the same there.
    beside: BTreeSet<Vec<RuleId>>,
}

pub(super) fn find(facts: &Facts<'_>) -> Vec<Found> {
    let mut seen: BTreeMap<RuleId, Seen> = BTreeMap::new();
    let mut disagree: BTreeSet<(RuleId, RuleId)> = BTreeSet::new();
    let mut found = Vec::new();
    for guarded in &facts.firewalls {
        let points = points(facts, guarded);
        for &(peer, proto, port) in &points {
            look(facts, guarded, (peer, proto, port), &mut seen, &mut disagree);
        }
        for rule in guarded.firewall.layers().iter().flat_map(|layer| layer.rules()) {
            found.extend(allows_everything(facts, guarded, rule));
        }
    }
    let words = |ids: &[RuleId]| {
        let names: Vec<String> =
            ids.iter().filter_map(|id| facts.name(*id)).map(ToString::to_string).collect();
        match names.len().checked_sub(3) {
            Some(more @ 1..) => format!("{} and {more} more", names[..3].join(", ")),
            _ => text::join(names.iter(), ", "),
        }
    };
    // Of two that are the same one is told: the later. Whoever removes it keeps the other.
    let mut needless: BTreeSet<RuleId> = BTreeSet::new();
    for (id, seen) in seen.iter().rev().filter(|(_, seen)| seen.matches) {
        let Some(name) = facts.name(*id).filter(|name| name.tier != POSTURE) else { continue };
        let Some(at) = facts.position(&name.policy) else { continue };
        let rule = (name.policy.as_str(), Some(name.rule.as_str()));
        if !seen.is_reached {
            let before: Vec<RuleId> = seen.before.iter().copied().collect();
            let what = format!("never decides anything, because of {} before it", words(&before));
            let advice = "put it before them, narrow them, or remove it";
            found.push(finding(Severity::Warning, at, rule, "shadowed", what, advice));
        } else if let Some(others) = instead(seen, &needless).filter(|_| name.tier == NETWORK_POLICY) {
            needless.insert(*id);
            let what = format!("allows nothing beyond {}", words(&others));
            found.push(finding(
                Severity::Note,
                at,
                rule,
                "redundant",
                what,
                "remove it, or narrow the others",
            ));
        }
    }
    for (one, other) in disagree {
        let (Some(one), Some(other)) = (facts.name(one), facts.name(other)) else { continue };
        let Some(at) = facts.position(&other.policy) else { continue };
        let what = format!("has the same priority as {one}, and they disagree about somebody");
        // The order by kind and name is ours: the API of Kubernetes leaves it to who implements it.
        let elsewhere = match other.policy.starts_with("SecurityPolicy ") {
            true => "",
            false => "; elsewhere it may be the other",
        };
        let first = &one.policy;
        let advice =
            format!("give the two policies different priorities: here {first} comes first{elsewhere}");
        found.push(finding(
            Severity::Warning,
            at,
            (&other.policy, Some(&other.rule)),
            "samePriority",
            what,
            advice,
        ));
    }
    found
}

/// The rules that allow all that a rule allows: one if one does, else several. `None`: it is needed.
fn instead(seen: &Seen, needless: &BTreeSet<RuleId>) -> Option<Vec<RuleId>> {
    let others = |ids: &Vec<RuleId>| -> BTreeSet<RuleId> {
        ids.iter().copied().filter(|id| !needless.contains(id)).collect()
    };
    let sets: Vec<BTreeSet<RuleId>> = seen.beside.iter().map(others).collect();
    if sets.is_empty() || sets.iter().any(BTreeSet::is_empty) {
        return None;
    }
    let one = sets[0].iter().find(|id| sets.iter().all(|set| set.contains(id)));
    Some(match one {
        Some(one) => vec![*one],
        None => sets.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect(),
    })
}

type Point = (IdentityId, Proto, u16);

/// One point of every kind that the rules of a firewall tell apart.
fn points(facts: &Facts<'_>, guarded: &Guarded<'_>) -> Vec<Point> {
    let rules = || guarded.firewall.layers().iter().flat_map(|layer| layer.rules());
    let mut services: BTreeSet<(u8, u16)> = BTreeSet::from([(OTHER.0, 0)]);
    for service in rules().flat_map(|r| &r.clauses).flat_map(|c| &c.services) {
        let (from, after) = (*service.ports.start(), service.ports.end().checked_add(1));
        services
            .extend([Some(0), Some(from), after].into_iter().flatten().map(|port| (service.proto.0, port)));
    }
    let named: BTreeSet<IdentityId> = rules()
        .flat_map(|r| &r.clauses)
        .flat_map(|c| match &c.peers {
            Peers::Any => Vec::new(),
            Peers::Identities(ids) | Peers::Except(ids) => ids.iter().copied().collect(),
        })
        .collect();
    // Of those that no rule names one speaks for all.
    let all = facts
        .snapshot
        .identities
        .exact
        .values()
        .chain(facts.snapshot.identities.ranges.iter().map(|(_, id)| id));
    let unnamed = all.copied().chain([IdentityId::UNKNOWN]).find(|id| !named.contains(id));
    let peers = named.into_iter().chain(unnamed);
    peers.flat_map(|peer| services.iter().map(move |(proto, port)| (peer, Proto(*proto), *port))).collect()
}

fn look(
    facts: &Facts<'_>,
    guarded: &Guarded<'_>,
    (peer, proto, port): Point,
    seen: &mut BTreeMap<RuleId, Seen>,
    disagree: &mut BTreeSet<(RuleId, RuleId)>,
) {
    // Whoever has the word by now.
    let mut decided: Option<RuleId> = None;
    for layer in guarded.firewall.layers() {
        let matching: Vec<&Rule> = layer
            .rules()
            .iter()
            .filter(|rule| rule.clauses.iter().any(|c| c.matches(peer, proto, port)))
            .collect();
        let is_union =
            matching.first().and_then(|r| facts.name(r.id)).is_some_and(|n| n.tier == NETWORK_POLICY);
        for (at, rule) in matching.iter().enumerate() {
            let entry = seen.entry(rule.id).or_default();
            entry.matches = true;
            if let Some(first) = decided.or_else(|| (at > 0 && !is_union).then(|| matching[0].id)) {
                entry.before.insert(first);
                continue;
            }
            entry.is_reached = true;
            let others: Vec<RuleId> = matching.iter().map(|r| r.id).filter(|id| *id != rule.id).collect();
            entry.beside.insert(others);
        }
        if !is_union
            && decided.is_none()
            && let Some(first) = matching.first()
        {
            disagree.extend(
                matching[1..].iter().filter(|r| contradicts(facts, first, r)).map(|r| (first.id, r.id)),
            );
        }
        if let Some(first) = matching.first().filter(|r| r.effect != Effect::Pass) {
            decided = decided.or(Some(first.id));
        }
    }
}

/// Of two policies with the same place in the order, and one allows what the other does not.
fn contradicts(facts: &Facts<'_>, one: &Rule, other: &Rule) -> bool {
    let place = |rule: &Rule| {
        let name = facts.name(rule.id)?;
        let policy = facts.tiered.iter().find(|p| p.id.to_string() == name.policy)?;
        Some((policy.tier, policy.priority, &policy.id))
    };
    let allows = |rule: &Rule| rule.effect == Effect::Decide(Action::Allow);
    let differ = if one.effect == Effect::Pass || other.effect == Effect::Pass {
        one.effect != other.effect
    } else {
        allows(one) != allows(other)
    };
    match (place(one), place(other)) {
        (Some((tier, priority, id)), Some((t, p, i))) => differ && (tier, priority) == (t, p) && id != i,
        _ => false,
    }
}

fn allows_everything(facts: &Facts<'_>, guarded: &Guarded<'_>, rule: &Rule) -> Option<Found> {
    let name = facts.name(rule.id)?;
    let at = facts.position(&name.policy)?;
    if rule.effect != Effect::Decide(Action::Allow) || !rule.clauses.contains(&Clause::ANY) {
        return None;
    }
    let of = (name.policy.as_str(), Some(name.rule.as_str()));
    let verb =
        if guarded.direction == Direction::Ingress { "receive from everyone" } else { "send to everyone" };
    let what = format!("allows everything: its pods {verb}, on every port");
    if name.tier == NETWORK_POLICY {
        let advice = "name who, and on which ports, unless everything is meant";
        return Some(finding(Severity::Note, at, of, "allowsEverything", what, advice));
    }
    let before =
        facts.tiered.iter().any(|p| p.id.to_string() == name.policy && p.tier.is_before_network_policies());
    let advice = if before {
        "pass it on (JUMP_TO_APPLICATION, Pass) instead: as it is, no NetworkPolicy has a word"
    } else {
        "name who, and on which ports, unless everything is meant"
    };
    let severity = if before { Severity::Warning } else { Severity::Note };
    Some(finding(severity, at, of, "allowsEverything", what, advice))
}
