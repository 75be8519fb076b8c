//! Rules of policies, resolved once and then put together to rule sets.

use super::classes::{Classes, PeerIndex};
use crate::{
    intern::{Interner, NamedPort},
    model::{self, ContainerPort, Model, NetworkPolicy, PortMatch, Protocol},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use supernet_dataplane::{
    id::{IdentityId, RuleId},
    snapshot::RuleName,
    table::classifier::{Action, Clause, Decision, Peers, Rule, RuleSet, Service, Shapes},
};

/// Which way a rule looks, seen from the pod it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// What reaches the pod; peers are sources.
    Ingress,
    /// What the pod sends; peers are destinations.
    Egress,
}

impl Direction {
    /// The name that Kubernetes gives to its rules.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// A policy's rules of this direction; `None`: it does not isolate it.
    pub(crate) fn rules_of(self, policy: &NetworkPolicy) -> Option<&[model::Rule]> {
        match self {
            Self::Ingress => policy.ingress.as_deref(),
            Self::Egress => policy.egress.as_deref(),
        }
    }
}

/// Makes rules, and knows those that were made.
pub(super) struct Rules<'a> {
    policies: Vec<&'a NetworkPolicy>,
    classes: &'a Classes<'a>,
    peers: PeerIndex<'a>,
    /// By direction and position of the policy: its rules, resolved.
    resolved: HashMap<(Direction, usize), Vec<Resolved<'a>>>,
    interner: &'a mut Interner,
    names: BTreeMap<RuleId, RuleName>,
    shapes: Shapes,
}

/// A rule whose peers are known. Its services may still depend on the pod it applies to.
struct Resolved<'a> {
    id: RuleId,
    peers: Peers,
    /// No port is named, so everything is meant, also what has no ports.
    everything: bool,
    services: Vec<Service>,
    named: Vec<(&'a str, Protocol)>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(model: &'a Model, classes: &'a Classes<'a>, interner: &'a mut Interner) -> Self {
        Self {
            policies: model.policies.values().collect(),
            classes,
            peers: classes.peers(),
            resolved: HashMap::new(),
            interner,
            names: BTreeMap::new(),
            shapes: Shapes::default(),
        }
    }

    /// The id of a rule.
    pub(super) fn name(&mut self, policy: &str, rule: &str) -> RuleId {
        let name = RuleName { policy: policy.to_owned(), rule: rule.to_owned() };
        let id = self.interner.rule(&name);
        self.names.insert(id, name);
        id
    }

    /// What all rules made so far are called.
    pub(super) fn into_names(self) -> BTreeMap<RuleId, RuleName> {
        self.names
    }

    /// Those of a pod's container ports that ingress rules of these policies ask for by name.
    pub(super) fn own_ports(&mut self, policies: &[usize], ports: &[ContainerPort]) -> Vec<NamedPort> {
        if ports.iter().all(|p| p.name.is_empty()) {
            return Vec::new();
        }
        let mut asked = BTreeSet::new();
        for &policy in policies {
            asked.extend(self.resolve(Direction::Ingress, policy).iter().flat_map(|r| &r.named).copied());
        }
        let mut own: Vec<NamedPort> = ports
            .iter()
            .filter(|p| asked.contains(&(p.name.as_str(), p.protocol)))
            .map(|p| (p.name.clone(), p.protocol, p.port))
            .collect();
        own.sort_unstable();
        own.dedup();
        own
    }

    /// The rule set of pods that these policies isolate, and whose named ports have these numbers.
    pub(super) fn isolated(
        &mut self,
        direction: Direction,
        policies: &[usize],
        own_ports: &[NamedPort],
    ) -> RuleSet {
        let mut rules = Vec::new();
        for &policy in policies {
            let classes = self.classes;
            let resolved = self.resolve(direction, policy);
            rules.extend(resolved.iter().map(|rule| Rule {
                id: rule.id,
                action: Action::Allow,
                clauses: match direction {
                    Direction::Ingress => rule.clauses_at(own_ports),
                    Direction::Egress => rule.clauses_towards(classes),
                },
            }));
        }
        let isolating: Vec<String> = policies.iter().map(|&p| self.policies[p].name.to_string()).collect();
        let rule = self.name(&isolating.join(", "), "isolation");
        self.set(rules, Decision { rule, action: Action::Drop })
    }

    /// A rule set, which shares what it can with those made before.
    pub(super) fn set(&mut self, rules: Vec<Rule>, default: Decision) -> RuleSet {
        RuleSet::sharing(rules, default, &mut self.shapes)
    }

    fn resolve(&mut self, direction: Direction, at: usize) -> &[Resolved<'a>] {
        if !self.resolved.contains_key(&(direction, at)) {
            let policy = self.policies[at];
            let rules = direction.rules_of(policy).unwrap_or_default();
            let policy_name = policy.name.to_string();
            let resolved = rules
                .iter()
                .enumerate()
                .map(|(n, rule)| Resolved {
                    id: self.name(&policy_name, &format!("{}[{n}]", direction.as_str())),
                    peers: if rule.peers.is_empty() {
                        Peers::Any
                    } else {
                        Peers::Identities(self.peers.resolve(&policy.name.namespace, &rule.peers))
                    },
                    everything: rule.ports.is_empty(),
                    services: rule
                        .ports
                        .iter()
                        .filter_map(|p| Some(Service { proto: p.protocol.into(), ports: p.port.range()? }))
                        .collect(),
                    named: rule
                        .ports
                        .iter()
                        .filter_map(|p| match &p.port {
                            PortMatch::Named(name) => Some((name.as_str(), p.protocol)),
                            PortMatch::All | PortMatch::Numbers { .. } => None,
                        })
                        .collect(),
                })
                .collect();
            self.resolved.insert((direction, at), resolved);
        }
        &self.resolved[&(direction, at)]
    }
}

impl Resolved<'_> {
    /// As an ingress rule: names mean the selected pod's own ports.
    fn clauses_at(&self, own_ports: &[NamedPort]) -> Vec<Clause> {
        let own = own_ports
            .iter()
            .filter(|(name, protocol, _)| self.named.contains(&(name.as_str(), *protocol)))
            .map(|(_, protocol, number)| one_port(*protocol, *number));
        let services = self.services.iter().cloned().chain(own).collect();
        self.clause(services).into_iter().collect()
    }

    /// As an egress rule: names mean the peer's ports, so peers are grouped by the number they give the name.
    fn clauses_towards(&self, classes: &Classes<'_>) -> Vec<Clause> {
        let mut by_number: BTreeMap<(Protocol, u16), BTreeSet<IdentityId>> = BTreeMap::new();
        for &(name, protocol) in &self.named {
            for (number, having) in classes.named(name, protocol) {
                let both: BTreeSet<IdentityId> = match &self.peers {
                    Peers::Any => having.clone(),
                    Peers::Identities(peers) => having & peers,
                };
                by_number.entry((protocol, number)).or_default().extend(both);
            }
        }
        let named =
            by_number.into_iter().filter(|(_, ids)| !ids.is_empty()).map(|((protocol, number), ids)| {
                Clause { peers: Peers::Identities(ids), services: vec![one_port(protocol, number)] }
            });
        self.clause(self.services.clone()).into_iter().chain(named).collect()
    }

    /// `None` where nothing could match: a clause without services would mean all of them.
    fn clause(&self, services: Vec<Service>) -> Option<Clause> {
        let nobody = matches!(&self.peers, Peers::Identities(ids) if ids.is_empty());
        if nobody || (services.is_empty() && !self.everything) {
            return None;
        }
        Some(Clause { peers: self.peers.clone(), services })
    }
}

fn one_port(protocol: Protocol, number: u16) -> Service {
    Service { proto: protocol.into(), ports: number..=number }
}
