//! Rules whose peers are known, and the clauses they become at a pod.

use super::classes::{Classes, PeerIndex};
use crate::{
    intern::{Interner, NamedPort},
    model::{self, ContainerPort, NetworkPolicy, PolicyPort, PolicyService, PortMatch, Protocol},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use supernet_dataplane::{
    id::{IdentityId, RuleId},
    snapshot::RuleName,
    table::classifier::{Action, Clause, Effect, Peers, Rule, RuleSet, Service, Shapes, icmp_port},
    wire::Proto,
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
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

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

/// The tier of NetworkPolicies' rules.
pub(crate) const NETWORK_POLICY: &str = "NetworkPolicy";

/// What rules are made with.
pub(super) struct Workshop<'a> {
    pub(super) classes: &'a Classes<'a>,
    pub(super) peers: PeerIndex<'a>,
    interner: &'a mut Interner,
    names: BTreeMap<RuleId, RuleName>,
    labels: BTreeMap<RuleId, String>,
    shapes: Shapes,
}

impl<'a> Workshop<'a> {
    pub(super) fn new(classes: &'a Classes<'a>, interner: &'a mut Interner) -> Self {
        let peers = classes.peers();
        Self {
            classes,
            peers,
            interner,
            names: BTreeMap::new(),
            labels: BTreeMap::new(),
            shapes: Shapes::default(),
        }
    }

    /// The id of a rule.
    pub(super) fn name(&mut self, tier: &'static str, policy: &str, rule: &str) -> RuleId {
        let name = RuleName { tier, policy: policy.to_owned(), rule: rule.to_owned() };
        let id = self.interner.rule(&name);
        self.names.insert(id, name);
        id
    }

    /// A rule set, which shares its shape with others that have the same.
    pub(super) fn set(&mut self, rules: Vec<Rule>) -> RuleSet {
        RuleSet::sharing(rules, &mut self.shapes)
    }

    /// Log records of a rule have this label.
    pub(super) fn label(&mut self, rule: RuleId, label: &str) {
        self.interner.label(rule, label);
        self.labels.insert(rule, label.to_owned());
    }

    /// What all rules made so far are called, and their labels.
    pub(super) fn into_names(self) -> (BTreeMap<RuleId, RuleName>, BTreeMap<RuleId, String>) {
        (self.names, self.labels)
    }
}

/// A rule whose peers are known. Its services may still depend on the pod it applies to.
pub(super) struct Resolved<'a> {
    pub(super) id: RuleId,
    pub(super) effect: Effect,
    pub(super) peers: Peers,
    /// No service is named, so everything is meant, also what has no ports.
    pub(super) everything: bool,
    pub(super) services: Vec<Service>,
    pub(super) named: Vec<(&'a str, Protocol)>,
}

impl<'a> Resolved<'a> {
    /// A rule for these services, none of which mean everything.
    pub(super) fn new(
        id: RuleId,
        effect: Effect,
        peers: Peers,
        services: impl Iterator<Item = PortsOrIcmp<'a>>,
    ) -> Self {
        let mut rule = Self { id, effect, peers, everything: true, services: Vec::new(), named: Vec::new() };
        for service in services {
            rule.everything = false;
            match service {
                PortsOrIcmp::Ports(PolicyPort { protocol, port }) => match port {
                    PortMatch::Named(name) => rule.named.push((name, *protocol)),
                    PortMatch::All => rule.services.push(Service::all((*protocol).into())),
                    PortMatch::Numbers { from, to } => {
                        rule.services.push(Service { proto: (*protocol).into(), ports: *from..=*to });
                    }
                },
                PortsOrIcmp::Icmp { v6, kind, code } => {
                    let proto = if v6 { Proto::ICMPV6 } else { Proto::ICMP };
                    let ports = match (kind, code) {
                        (None, _) => 0..=u16::MAX,
                        (Some(kind), None) => icmp_port(kind, 0)..=icmp_port(kind, u8::MAX),
                        (Some(kind), Some(code)) => icmp_port(kind, code)..=icmp_port(kind, code),
                    };
                    rule.services.push(Service { proto, ports });
                }
            }
        }
        rule
    }

    /// The rule in the firewall of a pod: for ingress, of one with these named ports.
    pub(super) fn at(&self, direction: Direction, own_ports: &[NamedPort], classes: &Classes<'_>) -> Rule {
        self.among(self.peers.clone(), direction, own_ports, classes)
    }

    /// The same for other peers.
    pub(super) fn among(
        &self,
        peers: Peers,
        direction: Direction,
        own_ports: &[NamedPort],
        classes: &Classes<'_>,
    ) -> Rule {
        let clauses = match direction {
            Direction::Ingress => self.clauses_at(peers, own_ports),
            Direction::Egress => self.clauses_towards(peers, classes),
        };
        Rule { id: self.id, effect: self.effect, clauses }
    }

    /// As an ingress rule: names mean the selected pod's own ports.
    fn clauses_at(&self, peers: Peers, own_ports: &[NamedPort]) -> Vec<Clause> {
        let own = own_ports
            .iter()
            .filter(|(name, protocol, _)| self.named.contains(&(name.as_str(), *protocol)))
            .map(|(_, protocol, number)| one_port(*protocol, *number));
        let services = self.services.iter().cloned().chain(own).collect();
        self.clause(peers, services).into_iter().collect()
    }

    /// As an egress rule: names mean the peer's ports, so peers are grouped by the number they give the name.
    fn clauses_towards(&self, peers: Peers, classes: &Classes<'_>) -> Vec<Clause> {
        let mut by_number: BTreeMap<(Protocol, u16), BTreeSet<IdentityId>> = BTreeMap::new();
        for &(name, protocol) in &self.named {
            for (number, having) in classes.named(name, protocol) {
                let both: BTreeSet<IdentityId> = match &peers {
                    Peers::Any => having.clone(),
                    Peers::Identities(peers) => having & &**peers,
                    Peers::Except(peers) => having - &**peers,
                };
                by_number.entry((protocol, number)).or_default().extend(both);
            }
        }
        let named =
            by_number.into_iter().filter(|(_, ids)| !ids.is_empty()).map(|((protocol, number), ids)| {
                Clause { peers: Peers::of(ids), services: vec![one_port(protocol, number)] }
            });
        self.clause(peers, self.services.clone()).into_iter().chain(named).collect()
    }

    /// `None` where nothing could match: a clause without services would mean all of them.
    fn clause(&self, peers: Peers, services: Vec<Service>) -> Option<Clause> {
        let nobody = matches!(&peers, Peers::Identities(ids) if ids.is_empty());
        if nobody || (services.is_empty() && !self.everything) {
            return None;
        }
        Some(Clause { peers, services })
    }
}

/// A service, whichever kind of policy it is of.
pub(super) enum PortsOrIcmp<'a> {
    Ports(&'a PolicyPort),
    Icmp { v6: bool, kind: Option<u8>, code: Option<u8> },
}

impl<'a> From<&'a PolicyService> for PortsOrIcmp<'a> {
    fn from(service: &'a PolicyService) -> Self {
        match service {
            PolicyService::Ports(port) => Self::Ports(port),
            PolicyService::Icmp { v6, kind, code } => Self::Icmp { v6: *v6, kind: *kind, code: *code },
        }
    }
}

fn one_port(protocol: Protocol, number: u16) -> Service {
    Service { proto: protocol.into(), ports: number..=number }
}

/// Those of a pod's container ports that rules ask for by name.
pub(super) fn own_ports<'a>(
    asked: impl Iterator<Item = (&'a str, Protocol)>,
    ports: &[ContainerPort],
) -> Vec<NamedPort> {
    if ports.iter().all(|p| p.name.is_empty()) {
        return Vec::new();
    }
    let asked: BTreeSet<(&str, Protocol)> = asked.collect();
    let mut own: Vec<NamedPort> = ports
        .iter()
        .filter(|p| asked.contains(&(p.name.as_str(), p.protocol)))
        .map(|p| (p.name.clone(), p.protocol, p.port))
        .collect();
    own.sort_unstable();
    own.dedup();
    own
}

/// Rules of NetworkPolicies, resolved once whoever shares them.
pub(super) struct NetworkPolicies<'a> {
    policies: Vec<&'a NetworkPolicy>,
    /// By direction and position of the policy.
    resolved: HashMap<(Direction, usize), Vec<Resolved<'a>>>,
}

impl<'a> NetworkPolicies<'a> {
    pub(super) fn new(policies: Vec<&'a NetworkPolicy>) -> Self {
        Self { policies, resolved: HashMap::new() }
    }

    /// Those of a pod's container ports that ingress rules of these policies ask for by name.
    pub(super) fn own_ports(
        &mut self,
        policies: &[usize],
        ports: &[ContainerPort],
        workshop: &mut Workshop<'_>,
    ) -> Vec<NamedPort> {
        policies.iter().for_each(|&policy| self.resolve(Direction::Ingress, policy, workshop));
        let rules = policies.iter().flat_map(|&policy| &self.resolved[&(Direction::Ingress, policy)]);
        own_ports(rules.flat_map(|r| &r.named).copied(), ports)
    }

    /// The rules of pods that these policies isolate and whose named ports have these numbers, and the rule that
    /// drops everything else.
    pub(super) fn isolated(
        &mut self,
        direction: Direction,
        policies: &[usize],
        own_ports: &[NamedPort],
        workshop: &mut Workshop<'_>,
    ) -> (RuleSet, RuleId) {
        policies.iter().for_each(|&policy| self.resolve(direction, policy, workshop));
        let resolved = policies.iter().flat_map(|&policy| &self.resolved[&(direction, policy)]);
        let rules = resolved.map(|rule| rule.at(direction, own_ports, workshop.classes)).collect();
        let isolating: Vec<String> = policies.iter().map(|&p| self.policies[p].name.to_string()).collect();
        let isolation = workshop.name(NETWORK_POLICY, &isolating.join(", "), "isolation");
        (workshop.set(rules), isolation)
    }

    fn resolve(&mut self, direction: Direction, at: usize, workshop: &mut Workshop<'_>) {
        if self.resolved.contains_key(&(direction, at)) {
            return;
        }
        let policy = self.policies[at];
        let rules = direction.rules_of(policy).unwrap_or_default();
        let policy_name = policy.name.to_string();
        let resolve = |(n, rule): (usize, &'a model::Rule)| {
            let id = workshop.name(NETWORK_POLICY, &policy_name, &format!("{}[{n}]", direction.as_str()));
            let peers = match &rule.peers[..] {
                [] => Peers::Any,
                peers => Peers::Identities(workshop.peers.resolve(&policy.name.namespace, peers)),
            };
            Resolved::new(id, Effect::Decide(Action::Allow), peers, rule.ports.iter().map(PortsOrIcmp::Ports))
        };
        let resolved = rules.iter().enumerate().map(resolve).collect();
        self.resolved.insert((direction, at), resolved);
    }
}
