//! Policies that do not do what whoever wrote them seems to want.
//!
//! What rules do is read off the compiled firewalls of all pods; what they were meant to do is read off the model.
//! A finding is a warning where the policy surely does not do what it says, or does much more; a note where it may
//! well be meant so.

mod egress;
mod facts;
mod peers;
mod ports;
mod ranges;
mod rules;
mod tiers;

#[cfg(test)]
mod tests;

use crate::{ipam::Addressing, model::Model};
use facts::Facts;
use serde::Serialize;
use std::collections::BTreeSet;
use supernet_dataplane::snapshot::Snapshot;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Surely not meant.
    Warning,
    /// It may be meant.
    Note,
}

/// Something about a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Where the policy was written: "shop.yaml:12:1".
    pub at: String,
    /// "shop/allow-web", "SecurityPolicy zones".
    pub policy: String,
    /// `ingress[0]`, or a name; `null`: the whole policy.
    pub rule: Option<String>,
    /// What it is, one word a kind: "selectsNoPod".
    pub kind: &'static str,
    /// What is found, in words.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

/// What was found, warnings first, then by place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lint {
    /// How many policies were looked at.
    pub policies: usize,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Lint {
    /// Looks at all policies of a model; the snapshot has to be compiled from it and the addressing.
    pub fn of(model: &Model, addressing: &Addressing, snapshot: &Snapshot) -> Self {
        let facts = Facts::of(model, addressing, snapshot);
        let families = [peers::find, ports::find, ranges::find, rules::find, egress::find, tiers::find];
        // One kind of finding is told once of a rule, however often it was found.
        let findings: BTreeSet<(Severity, Place, Finding)> = families
            .iter()
            .flat_map(|find| find(&facts))
            .map(|(place, finding)| (finding.severity, place, finding))
            .collect();
        let findings = findings.into_iter().map(|(_, _, finding)| finding).collect();
        Self { policies: model.policies.len() + model.tiered_policies.len(), findings }
    }

    /// How many findings are warnings.
    pub fn warnings(&self) -> usize {
        self.findings.iter().filter(|f| f.severity == Severity::Warning).count()
    }
}

/// Sorts lines of a file by their number.
type Place = (Option<String>, Option<u32>);

/// A finding where it belongs.
type Found = (Place, Finding);
