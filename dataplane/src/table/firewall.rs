//! The firewall of one direction of a port: rule sets, asked one after the other.
//!
//! ```text
//!   layer 1 ──nothing──▶ layer 2 ──nothing──▶ ... ──nothing──▶ default
//!      └─ decides           └─ decides
//! ```
//!
//! Rules for everybody and rules for a few are layers of their own, so ports share each of them and none is
//! compiled once for every combination that occurs.

use super::classifier::{Action, Decision, Rule, RuleSet};
use crate::{
    id::{IdentityId, RuleId},
    wire::Proto,
};
use std::{collections::BTreeSet, sync::Arc};

/// Layers of rules and what happens where none of them decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    layers: Vec<Arc<RuleSet>>,
    default: Decision,
}

impl Firewall {
    /// A firewall of these layers, first to last.
    pub fn new(layers: impl IntoIterator<Item = Arc<RuleSet>>, default: Decision) -> Self {
        let layers = layers.into_iter().filter(|layer| !layer.rules().is_empty()).collect();
        Self { layers, default }
    }

    /// A firewall of one list of rules.
    pub fn of(rules: Vec<Rule>, default: Decision) -> Self {
        Self::new([Arc::new(RuleSet::new(rules))], default)
    }

    /// Does this to everything, in this rule's name.
    pub fn every(action: Action, rule: RuleId) -> Self {
        Self::new([], Decision { rule, action })
    }

    /// Its layers; none is empty.
    pub fn layers(&self) -> &[Arc<RuleSet>] {
        &self.layers
    }

    /// What happens where no layer decides.
    pub fn default_decision(&self) -> Decision {
        self.default
    }

    /// The rule that decides for a connection with `peer` to `port`.
    pub fn decide(&self, peer: IdentityId, proto: Proto, port: u16) -> Decision {
        self.layers.iter().find_map(|layer| layer.decide(peer, proto, port)).unwrap_or(self.default)
    }

    /// The same by walking the rules in order: the oracle of [`Firewall::decide`].
    pub fn decide_linear(&self, peer: IdentityId, proto: Proto, port: u16) -> Decision {
        self.layers.iter().find_map(|layer| layer.decide_linear(peer, proto, port)).unwrap_or(self.default)
    }

    /// Ports of a protocol from which on a decision may differ from the one before; always begins with 0.
    pub fn boundaries(&self, proto: Proto) -> impl Iterator<Item = u16> {
        let all: BTreeSet<u16> =
            self.layers.iter().flat_map(|layer| layer.boundaries(proto)).chain([0]).collect();
        all.into_iter()
    }
}
