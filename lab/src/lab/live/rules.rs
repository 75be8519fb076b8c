//! What a lab's firewall has decided, by rule.

use crate::output::{Listing, Style};
use serde::{Deserialize, Serialize};
use supernet::Handle;

/// The rules of a lab, by policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rules {
    /// The lab.
    pub(crate) lab: String,
    /// Its rules.
    pub(crate) rules: Vec<RuleStatus>,
}

/// A rule and what it has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RuleStatus {
    /// "NAMESPACE/POLICY", or "posture".
    pub(crate) policy: String,
    /// `ingress[0]`, `isolation`.
    pub(crate) rule: String,
    /// Connections let pass, and packets denied.
    pub(crate) hits: u64,
    /// Connections let pass.
    pub(crate) connections: u64,
    /// Packets of those, both ways.
    pub(crate) packets: u64,
    /// Bytes of their frames.
    pub(crate) bytes: u64,
    /// Packets denied.
    pub(crate) denied: u64,
    /// Connections that live, and that it decided on.
    pub(crate) sessions: u64,
}

impl Rules {
    /// Those of `net`.
    pub(super) fn of(lab: &str, net: &Handle) -> Self {
        let rule = |stats: supernet::RuleStats| RuleStatus {
            hits: stats.hits(),
            connections: stats.traffic.connections,
            packets: stats.traffic.packets,
            bytes: stats.traffic.bytes,
            denied: stats.traffic.denied,
            sessions: stats.sessions,
            policy: stats.name.policy,
            rule: stats.name.rule,
        };
        Self { lab: lab.to_owned(), rules: net.rules().into_iter().map(rule).collect() }
    }

    /// Keeps those of a policy, or of a namespace's policies. Whether there are any.
    pub(super) fn keep(&mut self, target: &str) -> bool {
        let namespace = format!("{}/", target.trim_end_matches('/'));
        self.rules.retain(|rule| rule.policy == target || rule.policy.starts_with(&namespace));
        !self.rules.is_empty()
    }

    /// For people.
    pub(super) fn tables(&self, style: Style) -> String {
        let columns = ["POLICY", "RULE", ">HITS", ">PACKETS", ">BYTES", ">DENIED", ">SESSIONS"];
        let mut table = Listing::new(&format!("Rules of lab {}", self.lab), &columns, style);
        for rule in &self.rules {
            let numbers = [rule.hits, rule.packets, rule.bytes, rule.denied, rule.sessions];
            let words = [rule.policy.clone(), rule.rule.clone()];
            table.row(words.into_iter().chain(numbers.map(|n| n.to_string())));
        }
        table.render()
    }
}
