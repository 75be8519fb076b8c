//! Ports that nobody listens on, as far as pods declare theirs.

use super::{
    Found, Severity,
    facts::{Facts, finding, some},
};
use crate::{
    analysis::text,
    model::{Name, Peer, PolicyPort, PolicyService, PortMatch, Selector, Verdict},
    policy::Direction,
};

pub(super) fn find(facts: &Facts<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (policy, pods) in &facts.policies {
        for direction in Direction::ALL {
            for (n, rule) in direction.rules_of(policy).unwrap_or_default().iter().enumerate() {
                let destinations = match direction {
                    Direction::Ingress => Some(pods.clone()),
                    Direction::Egress => pods_of(facts, &policy.name.namespace, &rule.peers),
                };
                let (policy_name, rule_name) =
                    (policy.name.to_string(), format!("{}[{n}]", direction.as_str()));
                let ports: Vec<&PolicyPort> = rule.ports.iter().collect();
                let kinds = of_ports(facts, &ports, destinations.as_deref());
                found.extend(kinds.into_iter().map(|(kind, what, advice)| {
                    finding(
                        Severity::Warning,
                        &policy.at,
                        (&policy_name, Some(&rule_name)),
                        kind,
                        what,
                        advice,
                    )
                }));
            }
        }
    }
    for policy in &facts.tiered {
        // What is denied need not be there.
        for rule in policy.rules.iter().filter(|rule| rule.verdict == Verdict::Allow) {
            let to = rule.applied_to.as_ref().unwrap_or(&policy.applied_to);
            let destinations = if !rule.destinations.is_everyone() && !rule.destinations.excluded {
                pods_of(facts, "", &rule.destinations.peers)
            } else if rule.directions.has_egress() {
                None
            } else {
                Some(facts.applied.pods(to))
            };
            let ports: Vec<&PolicyPort> = rule
                .services
                .iter()
                .filter_map(|service| match service {
                    PolicyService::Ports(port) => Some(port),
                    PolicyService::Icmp { .. } => None,
                })
                .collect();
            let name = policy.id.to_string();
            // A rule for everybody is about those that have the port.
            let few = destinations.as_deref().filter(|_| !to.is_empty() || !rule.destinations.is_everyone());
            found.extend(of_ports(facts, &ports, few).into_iter().map(|(kind, what, advice)| {
                finding(Severity::Warning, &policy.at, (&name, Some(&rule.name)), kind, what, advice)
            }));
        }
    }
    found
}

/// The pods that peers mean, if they mean only pods.
fn pods_of<'a>(facts: &Facts<'a>, namespace: &str, peers: &[Peer]) -> Option<Vec<&'a Name>> {
    let mut pods = Vec::new();
    for peer in peers {
        match peer {
            Peer::Pods { namespaces: None, pods: selector } => {
                let all = Selector::ALL;
                pods.extend(facts.applied.pods_in(namespace, selector.as_ref().unwrap_or(&all)));
            }
            Peer::Pods { .. } => pods.extend(facts.applied.pods(std::slice::from_ref(peer))),
            _ => return None,
        }
    }
    (!pods.is_empty()).then_some(pods)
}

type Problem = (&'static str, String, &'static str);

/// `destinations`: the only pods that can be meant, if that is known.
fn of_ports(facts: &Facts<'_>, ports: &[&PolicyPort], destinations: Option<&[&Name]>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for port in ports {
        match &port.port {
            PortMatch::All => {}
            PortMatch::Named(name) => {
                let Some(pods) = destinations.filter(|pods| !pods.is_empty()) else { continue };
                // Some kinds of policies name a port without its protocol.
                let any = ports.iter().filter(|p| p.port == port.port).count() > 1;
                let pods_there = facts.pods(pods);
                let mut declared = pods_there.iter().flat_map(|pod| &pod.ports);
                let has = declared.any(|p| p.name == *name && (any || p.protocol == port.protocol));
                if has || names.contains(&name.as_str()) {
                    continue;
                }
                names.push(name);
                let protocol = if any { String::new() } else { format!("{} ", port.protocol) };
                let what = format!("no port {protocol}named {name} at {}", some(pods));
                problems.push(("noSuchPort", what, "correct the name, or name a container's port so"));
            }
            PortMatch::Numbers { from, to } => {
                let Some(pods) = destinations.filter(|pods| !pods.is_empty()) else { continue };
                let pods_there = facts.pods(pods);
                // A pod that declares nothing may listen anywhere.
                let all_declare = pods_there.iter().all(|pod| !pod.ports.is_empty());
                let declared = pods_there.iter().flat_map(|pod| &pod.ports);
                let mut of_protocol = declared.filter(|p| p.protocol == port.protocol);
                if all_declare && !of_protocol.any(|p| (*from..=*to).contains(&p.port)) {
                    let range = text::range(*from, *to);
                    let what = format!("no pod declares {} {range}: {}", port.protocol, some(pods));
                    let advice = "name the port that containers listen on, not the Service's; or declare it";
                    problems.push(("undeclaredPort", what, advice));
                }
            }
        }
    }
    problems
}
