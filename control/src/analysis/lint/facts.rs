//! What the families of findings need to know: policies with their pods, and every pod's firewalls.

use super::{Finding, Found, Severity};
use crate::{
    ipam::Addressing,
    model::{Model, Name, NetworkPolicy, Pod, Position, TieredPolicy},
    policy::{Applied, Direction, in_order},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ptr,
};
use supernet_dataplane::{
    id::RuleId,
    snapshot::{PortRole, RuleName, Snapshot},
    table::firewall::Firewall,
};

pub(super) struct Facts<'a> {
    pub(super) model: &'a Model,
    pub(super) snapshot: &'a Snapshot,
    /// NetworkPolicies with the pods that they select, staged ones among them.
    pub(super) policies: Vec<(&'a NetworkPolicy, Vec<&'a Name>)>,
    /// Policies of administrators, in the order of evaluation.
    pub(super) tiered: Vec<&'a TieredPolicy>,
    pub(super) applied: Applied<'a>,
    /// Each firewall once.
    pub(super) firewalls: Vec<Guarded<'a>>,
}

/// A firewall and the pods that share it.
pub(super) struct Guarded<'a> {
    pub(super) direction: Direction,
    pub(super) firewall: &'a Firewall,
    pub(super) pods: Vec<&'a Name>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(model: &'a Model, addressing: &'a Addressing, snapshot: &'a Snapshot) -> Self {
        let mut firewalls: BTreeMap<(Direction, usize), Guarded<'a>> = BTreeMap::new();
        for (name, place) in &addressing.pods {
            let port = place.addresses.iter().find_map(|a| snapshot.endpoints.get(a));
            let entry = port.and_then(|id| snapshot.ports.get(id.index())?.as_ref());
            let Some(PortRole::Endpoint(endpoint)) = entry.map(|entry| &entry.role) else { continue };
            for (direction, firewall) in
                [(Direction::Ingress, &endpoint.ingress), (Direction::Egress, &endpoint.egress)]
            {
                let Some(firewall) = firewall.as_deref() else { continue };
                let key = (direction, ptr::from_ref(firewall).addr());
                let guarded =
                    firewalls.entry(key).or_insert(Guarded { direction, firewall, pods: Vec::new() });
                guarded.pods.push(name);
            }
        }
        let applied = Applied::of(model);
        let pods = |policy: &NetworkPolicy| applied.pods_in(&policy.name.namespace, &policy.pods);
        Self {
            model,
            snapshot,
            policies: model.policies.values().map(|policy| (policy, pods(policy))).collect(),
            tiered: in_order(model),
            applied,
            firewalls: firewalls.into_values().collect(),
        }
    }

    pub(super) fn name(&self, id: RuleId) -> Option<&'a RuleName> {
        self.snapshot.names.rules.get(&id)
    }

    /// Where a policy was written, by the name that its rules have.
    pub(super) fn position(&self, policy: &str) -> Option<&'a Position> {
        let network =
            policy.split_once('/').and_then(|(ns, name)| self.model.policies.get(&Name::new(ns, name)));
        let tiered = || self.tiered.iter().find(|p| p.id.to_string() == policy).map(|p| &p.at);
        network.map(|p| &p.at).or_else(tiered)
    }

    /// Pods by name, those on their node's network left out.
    pub(super) fn pods(&self, names: &[&Name]) -> Vec<&'a Pod> {
        names.iter().filter_map(|name| self.model.pods.get(name)).collect()
    }

    /// Which pods some NetworkPolicy isolates in a direction, as long as it is enforced.
    pub(super) fn isolated(&self, direction: Direction) -> BTreeSet<&'a Name> {
        let isolating =
            self.policies.iter().filter(|(policy, _)| !policy.staged && direction.rules_of(policy).is_some());
        isolating.flat_map(|(_, pods)| pods).copied().collect()
    }
}

/// A finding about a policy, or a rule of it.
pub(super) fn finding(
    severity: Severity,
    at: &Position,
    (policy, rule): (&str, Option<&str>),
    kind: &'static str,
    what: String,
    advice: impl Into<String>,
) -> Found {
    let place = (at.file().map(str::to_owned), at.line());
    let (policy, rule) = (policy.to_owned(), rule.map(str::to_owned));
    (place, Finding { severity, at: at.to_string(), policy, rule, kind, what, advice: advice.into() })
}

/// "shop/web, shop/db and 3 more".
pub(super) fn some(names: &[&Name]) -> String {
    const MOST: usize = 3;
    let shown: Vec<String> = names.iter().take(MOST).map(ToString::to_string).collect();
    match names.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
