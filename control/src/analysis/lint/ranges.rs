//! Ranges of addresses where labels are meant.

use super::{
    Found, Severity,
    facts::{Facts, finding},
};
use crate::{model::Peer, policy::Direction};
use ipnet::IpNet;

pub(super) fn find(facts: &Facts<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (policy, _) in &facts.policies {
        for direction in Direction::ALL {
            for (n, rule) in direction.rules_of(policy).unwrap_or_default().iter().enumerate() {
                let (name, rule_name) = (policy.name.to_string(), format!("{}[{n}]", direction.as_str()));
                let ranges = rule.peers.iter().flat_map(|peer| ranges(facts, peer));
                for (kind, what, advice) in ranges.filter_map(|range| problem(facts, range)) {
                    let of = (name.as_str(), Some(rule_name.as_str()));
                    found.push(finding(Severity::Warning, &policy.at, of, kind, what, advice));
                }
            }
        }
    }
    for policy in &facts.tiered {
        for rule in &policy.rules {
            let peers = rule.sources.peers.iter().chain(&rule.destinations.peers);
            for (kind, what, advice) in
                peers.flat_map(|peer| ranges(facts, peer)).filter_map(|range| problem(facts, range))
            {
                let name = policy.id.to_string();
                let of = (name.as_str(), Some(rule.name.as_str()));
                found.push(finding(Severity::Warning, &policy.at, of, kind, what, advice));
            }
        }
    }
    found
}

fn ranges<'a>(facts: &Facts<'a>, peer: &'a Peer) -> Vec<IpNet> {
    match peer {
        Peer::Block { cidr, .. } => vec![*cidr],
        Peer::Set(name) => facts.model.address_sets.get(name).map(|s| s.ranges.clone()).unwrap_or_default(),
        Peer::Pods { .. } | Peer::Nodes(_) | Peer::Domains(_) => Vec::new(),
    }
}

/// Wider ranges, such as 10.0.0.0/8, mean more than the cluster.
fn problem(facts: &Facts<'_>, range: IpNet) -> Option<(&'static str, String, &'static str)> {
    let supervisor = &facts.model.supervisor;
    let within =
        |cidrs: &[crate::model::At<IpNet>]| cidrs.iter().find(|c| c.value.contains(&range)).map(|c| c.value);
    if let Some(services) = within(&supervisor.service_cidrs) {
        let what =
            format!("{range} lies among the addresses of Services, {services}, which no policy ever sees");
        return Some(("serviceAddresses", what, "select the pods behind the Service by their labels"));
    }
    let pods = within(&supervisor.pod_cidrs)?;
    let what = format!("{range} lies among the addresses of pods, {pods}, and pods change addresses");
    Some(("podAddresses", what, "select the pods by their labels"))
}
