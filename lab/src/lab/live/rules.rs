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
    /// Where it stands in the order of evaluation: "NetworkPolicy", "Emergency", "posture".
    pub(crate) tier: String,
    /// "NAMESPACE/POLICY", "SecurityPolicy NAME", or "posture".
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
    /// First packets of connections that passed, and that it would have denied, were staged policies enforced.
    pub(crate) would_deny: u64,
    /// First packets of connections that were denied, and that it would have let pass.
    pub(crate) would_allow: u64,
    /// The latest of both, as packets: "10.244.0.2:41000 > 10.244.0.18:80 TCP".
    pub(crate) samples: Vec<String>,
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
            would_deny: stats.staged.would_deny,
            would_allow: stats.staged.would_allow,
            samples: stats.staged.samples.iter().map(|sample| sample.tuple.to_string()).collect(),
            tier: stats.name.tier.to_owned(),
            policy: stats.name.policy,
            rule: stats.name.rule,
        };
        Self { lab: lab.to_owned(), rules: net.rules().into_iter().map(rule).collect() }
    }

    /// Keeps those of a policy, with its kind or without, or of a namespace's policies. Whether there are any.
    pub(super) fn keep(&mut self, target: &str) -> bool {
        let namespace = format!("{}/", target.trim_end_matches('/'));
        let is_meant = |policy: &str| {
            let name = policy.rsplit(' ').next().unwrap_or_default();
            policy == target || name == target || policy.starts_with(&namespace)
        };
        // What isolates is said in the name of several.
        self.rules.retain(|rule| rule.policy.split(", ").any(is_meant));
        !self.rules.is_empty()
    }

    /// For people.
    pub(super) fn tables(&self, style: Style) -> String {
        let columns = ["TIER", "POLICY", "RULE", ">HITS", ">PACKETS", ">BYTES", ">DENIED", ">SESSIONS"];
        let mut table = Listing::new(&format!("Rules of lab {}", self.lab), &columns, style);
        for rule in &self.rules {
            let numbers = [rule.hits, rule.packets, rule.bytes, rule.denied, rule.sessions];
            let words = [rule.tier.clone(), rule.policy.clone(), rule.rule.clone()];
            table.row(words.into_iter().chain(numbers.map(|n| n.to_string())));
        }
        let mut text = table.render();
        let differing = || self.rules.iter().filter(|rule| rule.would_deny + rule.would_allow > 0);
        if differing().next().is_some() {
            let columns = ["TIER", "POLICY", "RULE", ">WOULD DENY", ">WOULD ALLOW", "LATEST"];
            let mut table = Listing::new("If staged policies were enforced", &columns, style);
            for rule in differing() {
                let numbers = [rule.would_deny, rule.would_allow].map(|n| n.to_string());
                let latest = rule.samples.last().cloned().unwrap_or_default();
                let words = [rule.tier.clone(), rule.policy.clone(), rule.rule.clone()];
                table.row(words.into_iter().chain(numbers).chain([latest]));
            }
            text += &table.render();
        }
        text
    }
}
