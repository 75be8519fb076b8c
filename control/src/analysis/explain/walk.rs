//! The rules of one firewall in order, asked about connections that are not there.
//!
//! Which rules a pod has, and their order, is read off the compiled firewall. What each of them means for an end
//! with other labels is asked of the model, since the tables know only ends that are there.

use super::{Question, RuleRef, owner, transport};
use crate::{
    ipam::Addressing,
    model::{
        Ends, IpFamily, Labels, Model, NetworkPolicy, ObjectId, Peer, Pod, PolicyPort, PolicyService,
        PortMatch, Protocol, Rule, TieredRule, Verdict,
    },
    policy::{NETWORK_POLICY, in_order},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};
use supernet_dataplane::{
    id::RuleId,
    snapshot::{PortRole, Snapshot},
    table::{
        classifier::{Action, Decision, Effect, RuleSet},
        firewall::Firewall,
    },
    wire::Proto,
};

/// The other end of a connection, as rules see it.
#[derive(Debug, Clone)]
pub(super) struct End<'a> {
    pub(super) address: IpAddr,
    /// The pod that selectors see, with the labels it has here.
    pub(super) pod: Option<SeenPod<'a>>,
    /// The labels of its node, if the address is a node's.
    pub(super) node: Option<&'a Labels>,
}

/// A pod of the other end.
#[derive(Debug, Clone)]
pub(super) struct SeenPod<'a> {
    pub(super) pod: &'a Pod,
    pub(super) namespace: String,
    pub(super) labels: Labels,
    pub(super) namespace_labels: Labels,
}

/// A connection that is asked about.
#[derive(Debug, Clone)]
pub(super) struct Connection<'a> {
    pub(super) peer: End<'a>,
    pub(super) proto: Proto,
    pub(super) port: u16,
}

/// What a rule of the firewall was made from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Network(&'a NetworkPolicy, &'a Rule),
    Tiered(&'a TieredRule),
}

/// A firewall, and the connection it was asked about.
pub(super) struct Walk<'a> {
    pub(super) model: &'a Model,
    pub(super) snapshot: &'a Snapshot,
    pub(super) pod: &'a Pod,
    pub(super) egress: bool,
    pub(super) asked: Connection<'a>,
    firewall: &'a Firewall,
    own: End<'a>,
    /// The ports of pods that use the network of the peer's node.
    guests: Vec<&'a Pod>,
    sources: HashMap<(&'a str, &'a str), Source<'a>>,
}

impl<'a> Walk<'a> {
    pub(super) fn of(
        model: &'a Model,
        addressing: &'a Addressing,
        snapshot: &'a Snapshot,
        question: &Question,
    ) -> Option<Self> {
        let id = snapshot.endpoints.get(&question.own)?;
        let PortRole::Endpoint(endpoint) = &snapshot.ports.get(id.index())?.as_ref()?.role else {
            return None;
        };
        if !question.egress && endpoint.node.contains(&question.peer) {
            return None;
        }
        let firewall = if question.egress { &endpoint.egress } else { &endpoint.ingress };
        let pod = model.pods.get(owner(addressing, question.own)?)?;
        let node =
            addressing.nodes.iter().find(|(_, all)| all.contains(&question.peer)).map(|(name, _)| name);
        let nothing: &'static Labels = const { &Labels::new() };
        let peer = End {
            address: question.peer,
            pod: owner(addressing, question.peer).and_then(|name| seen(model, model.pods.get(name)?)),
            node: node.map(|node| model.nodes.get(node).map_or(nothing, |n| &n.labels)),
        };
        // The primary address of a family speaks for it.
        let family = IpFamily::of(question.own);
        let primary = addressing.pods.get(&pod.name)?.addresses.iter();
        let address = primary.copied().find(|a| IpFamily::of(*a) == family).unwrap_or(question.own);
        let guests = model.pods.values().filter(|p| {
            p.host_network && node.is_some_and(|node| p.node.as_ref().is_some_and(|n| n.value == *node))
        });
        Some(
            Self {
                model,
                snapshot,
                pod,
                egress: question.egress,
                asked: Connection { peer, proto: question.proto, port: question.port },
                firewall: firewall.as_deref()?,
                own: End { address, pod: seen(model, pod), node: None },
                guests: guests.collect(),
                sources: HashMap::new(),
            }
            .with_sources(),
        )
    }

    /// Finds the model's rule of every rule of the firewall.
    fn with_sources(mut self) -> Self {
        let names = &self.snapshot.names.rules;
        let tiered: BTreeMap<String, &ObjectId> =
            in_order(self.model).iter().map(|p| (p.id.to_string(), &p.id)).collect();
        for rule in self.firewall.layers().iter().flat_map(|layer| layer.rules()) {
            let Some(name) = names.get(&rule.id) else { continue };
            let source = if name.tier == NETWORK_POLICY {
                self.network_rule(&name.policy, &name.rule)
            } else {
                let policy = tiered.get(&name.policy).and_then(|id| self.model.tiered_policies.get(id));
                policy.and_then(|p| p.rules.iter().find(|r| r.name == name.rule)).map(Source::Tiered)
            };
            if let Some(source) = source {
                self.sources.insert((&name.policy, &name.rule), source);
            }
        }
        self
    }

    /// `ingress[2]` of "shop/web".
    fn network_rule(&self, policy: &str, rule: &str) -> Option<Source<'a>> {
        let (namespace, name) = policy.split_once('/')?;
        let policy = self.model.policies.get(&crate::model::Name::new(namespace, name))?;
        let (list, at) = rule.strip_suffix(']')?.split_once('[')?;
        let rules = if list == "egress" { &policy.egress } else { &policy.ingress };
        Some(Source::Network(policy, rules.as_ref()?.get(at.parse::<usize>().ok()?)?))
    }

    pub(super) fn rule(&self, id: RuleId) -> RuleRef {
        let unnamed = || RuleRef { tier: String::new(), policy: format!("{id:?}"), rule: String::new() };
        self.snapshot.names.rules.get(&id).map_or_else(unnamed, RuleRef::from)
    }

    /// The rules that allow, in order, with what they were made from.
    pub(super) fn allowing(&self) -> impl Iterator<Item = (RuleId, Source<'a>)> {
        let rules = self.firewall.layers().iter().flat_map(|layer| layer.rules());
        let allowing = rules.filter(|rule| rule.effect == Effect::Decide(Action::Allow));
        allowing.filter_map(|rule| Some((rule.id, self.source(rule.id)?)))
    }

    fn source(&self, id: RuleId) -> Option<Source<'a>> {
        let name = self.snapshot.names.rules.get(&id)?;
        self.sources.get(&(name.policy.as_str(), name.rule.as_str())).copied()
    }

    /// What the compiled firewall says of the connection that was asked about.
    pub(super) fn compiled(&self) -> Decision {
        let Connection { peer, proto, port } = &self.asked;
        self.firewall.decide(self.snapshot.identities.of(peer.address), *proto, *port)
    }

    /// The rules that matched and passed the connection on.
    pub(super) fn passed(&self) -> Vec<RuleRef> {
        let Connection { peer, proto, port } = &self.asked;
        let identity = self.snapshot.identities.of(peer.address);
        let mut passed = Vec::new();
        for layer in self.firewall.layers() {
            match layer.first_match(identity, *proto, *port) {
                Some(rule) if rule.effect == Effect::Pass => passed.push(self.rule(rule.id)),
                Some(_) => break,
                None => {}
            }
        }
        passed
    }

    /// The rule that would allow the connection if this one were not there.
    pub(super) fn without(&self, id: RuleId) -> Option<RuleRef> {
        let decision = self.decide(&self.asked, Some(id));
        (decision.action == Action::Allow).then(|| self.rule(decision.rule))
    }

    /// The rule that would decide if this one were not there.
    pub(super) fn next(&self, id: RuleId) -> RuleRef {
        self.rule(self.decide(&self.asked, Some(id)).rule)
    }

    /// What the rules say of a connection, all but one of them.
    pub(super) fn decide(&self, connection: &Connection<'_>, but: Option<RuleId>) -> Decision {
        let decided = self.firewall.layers().iter().find_map(|layer| self.ask(layer, connection, but));
        decided.unwrap_or(self.firewall.default_decision())
    }

    fn ask(&self, layer: &RuleSet, connection: &Connection<'_>, but: Option<RuleId>) -> Option<Decision> {
        for rule in layer.rules().iter().filter(|rule| Some(rule.id) != but) {
            let Some(source) = self.source(rule.id) else {
                // The posture knows pods by their namespace and nodes; labels play no part.
                return layer.decide(
                    self.snapshot.identities.of(connection.peer.address),
                    connection.proto,
                    connection.port,
                );
            };
            if self.matches(source, connection) {
                return match rule.effect {
                    Effect::Decide(action) => Some(Decision { rule: rule.id, action }),
                    Effect::Pass => None,
                };
            }
        }
        None
    }

    fn matches(&self, source: Source<'_>, connection: &Connection<'_>) -> bool {
        let peer = &connection.peer;
        match source {
            Source::Network(policy, rule) => {
                let own = &policy.name.namespace;
                (rule.peers.is_empty() || rule.peers.iter().any(|p| self.peer_matches(own, p, peer)))
                    && (rule.ports.is_empty() || rule.ports.iter().any(|p| self.port_matches(p, connection)))
            }
            Source::Tiered(rule) => {
                let (own, other) = self.sides(rule);
                self.end_matches(own, &self.own)
                    && self.end_matches(other, peer)
                    && (rule.services.is_empty()
                        || rule.services.iter().any(|s| self.service_matches(s, connection)))
            }
        }
    }

    /// A rule's words about the pod, and about the other end.
    pub(super) fn sides<'r>(&self, rule: &'r TieredRule) -> (&'r Ends, &'r Ends) {
        if self.egress { (&rule.sources, &rule.destinations) } else { (&rule.destinations, &rule.sources) }
    }

    /// Whether the rule speaks of the pod, in the family that is asked about.
    pub(super) fn speaks_of_pod(&self, rule: &TieredRule) -> bool {
        rule.verdict == Verdict::Allow && self.end_matches(self.sides(rule).0, &self.own)
    }

    fn end_matches(&self, ends: &Ends, end: &End<'_>) -> bool {
        ends.is_everyone() || ends.peers.iter().any(|p| self.peer_matches("", p, end)) != ends.excluded
    }

    fn peer_matches(&self, own: &str, peer: &Peer, end: &End<'_>) -> bool {
        match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&end.address) && !except.iter().any(|hole| hole.contains(&end.address))
            }
            Peer::Pods { namespaces, pods } => end.pod.as_ref().is_some_and(|pod| {
                let there = match namespaces {
                    None => pod.namespace == own,
                    Some(selector) => selector.matches(&pod.namespace_labels),
                };
                there && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
            }),
            Peer::Nodes(selector) => end.node.is_some_and(|labels| selector.matches(labels)),
            Peer::Domains(_) => false,
            Peer::Set(name) => {
                let set = self.model.address_sets.get(name);
                set.is_some_and(|set| set.ranges.iter().any(|range| range.contains(&end.address)))
            }
        }
    }

    pub(super) fn port_matches(&self, port: &PolicyPort, connection: &Connection<'_>) -> bool {
        if transport(connection.proto) != Some(port.protocol) {
            return false;
        }
        self.numbers(port, connection).iter().any(|(from, to)| (*from..=*to).contains(&connection.port))
    }

    /// The numbers that a port of a rule means for a connection, first and last of each range.
    pub(super) fn numbers(&self, port: &PolicyPort, connection: &Connection<'_>) -> Vec<(u16, u16)> {
        match &port.port {
            PortMatch::All => vec![(0, u16::MAX)],
            PortMatch::Numbers { from, to } => vec![(*from, *to)],
            PortMatch::Named(name) => {
                let seen = connection.peer.pod.as_ref().map(|pod| pod.pod);
                let pods: Vec<&Pod> = if self.egress {
                    seen.into_iter().chain(self.guests.iter().copied()).collect()
                } else {
                    vec![self.pod]
                };
                let ports = pods.into_iter().flat_map(|pod| &pod.ports);
                let named = ports.filter(|p| p.name == *name && p.protocol == port.protocol);
                named.map(|p| (p.port, p.port)).collect()
            }
        }
    }

    pub(super) fn service_matches(&self, service: &PolicyService, connection: &Connection<'_>) -> bool {
        match service {
            PolicyService::Ports(port) => self.port_matches(port, connection),
            PolicyService::Icmp { .. } => icmp(service).is_some_and(|(proto, (from, to))| {
                proto == connection.proto && (from..=to).contains(&connection.port)
            }),
        }
    }
}

/// The protocol and the numbers of an ICMP service.
pub(super) fn icmp(service: &PolicyService) -> Option<(Proto, (u16, u16))> {
    use supernet_dataplane::table::classifier::icmp_port;
    let PolicyService::Icmp { v6, kind, code } = service else { return None };
    let proto = if *v6 { Proto::ICMPV6 } else { Proto::ICMP };
    let ports = match (*kind, *code) {
        (None, _) => (0, u16::MAX),
        (Some(kind), None) => (icmp_port(kind, 0), icmp_port(kind, u8::MAX)),
        (Some(kind), Some(code)) => (icmp_port(kind, code), icmp_port(kind, code)),
    };
    Some((proto, ports))
}

/// The protocols that policies name ports of.
pub(super) fn proto_of(protocol: Protocol) -> Proto {
    protocol.into()
}

fn seen<'a>(model: &'a Model, pod: &'a Pod) -> Option<SeenPod<'a>> {
    let namespace = model.namespaces.get(&pod.name.namespace)?;
    (!pod.host_network).then(|| SeenPod {
        pod,
        namespace: namespace.name.clone(),
        labels: pod.labels.clone(),
        namespace_labels: namespace.labels.clone(),
    })
}
