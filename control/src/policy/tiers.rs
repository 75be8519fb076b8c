//! Ordered rules of administrators: which pods have which, and the layers they become.
//!
//! A rule speaks of both ends of a connection. At a pod's firewall one of them is the pod itself, so it is settled
//! before anything is compiled whether the rule is in that pod's list at all; only the other end is left to be
//! looked up. Pods with the same list share it.

use super::{
    Among,
    cluster::ClusterIndex,
    rules::{Direction, PortsOrIcmp, Resolved, Workshop, own_ports},
};
use crate::{
    intern::NamedPort,
    model::{
        AddressSet, ContainerPort, Ends, IpFamily, Model, Name, Peer, Protocol, TieredPolicy, TieredRule,
        Verdict,
    },
    place::{Place, Places},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};
use supernet_dataplane::{
    id::IdentityId,
    table::classifier::{Action, Effect, Peers, Rule, RuleSet},
};

/// Which tiers a layer is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Those that come before NetworkPolicies.
    Before,
    /// Those that come after them.
    After,
}

/// What pods must agree on to share a layer: the rules they have, and the numbers of named ports in them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LayerKey {
    direction: Direction,
    /// By position of the policy, which of its rules, ascending.
    policies: Vec<(usize, usize)>,
    own_ports: Vec<NamedPort>,
}

/// Which families of a pod's own addresses a rule holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holds {
    Never,
    Always,
    For(IpFamily),
}

/// All policies, in the order of evaluation.
pub(super) struct Tiers<'a> {
    policies: Vec<&'a TieredPolicy>,
    /// Of a policy and a direction: the different selections of its rules that pods have.
    variants: HashMap<(Direction, usize), Variants>,
    /// The policies and variants that pods have.
    pods: HashMap<(&'a Name, Direction), Vec<(usize, usize)>>,
    resolved: HashMap<(Direction, usize), Vec<Resolved<'a>>>,
    /// Ports of a policy's pods that its ingress rules ask for by name.
    named: HashMap<usize, BTreeSet<(&'a str, Protocol)>>,
    families: HashMap<IpFamily, Arc<BTreeSet<IdentityId>>>,
    layers: HashMap<LayerKey, Arc<RuleSet>>,
}

#[derive(Default)]
struct Variants {
    numbers: HashMap<Vec<Holds>, usize>,
    all: Vec<Vec<Holds>>,
}

/// All policies of administrators, in the order of evaluation.
pub(crate) fn in_order(model: &Model) -> Vec<&TieredPolicy> {
    let mut policies: Vec<&TieredPolicy> = model.tiered_policies.values().collect();
    policies.sort_by_key(|policy| (policy.tier, policy.priority, &policy.id));
    policies
}

impl<'a> Tiers<'a> {
    pub(super) fn of(
        model: &'a Model,
        places: &Places<'a>,
        cluster: &ClusterIndex<'a>,
        among: Among,
    ) -> Self {
        let mut tiers = Self {
            policies: in_order(model).into_iter().filter(|policy| among.has(policy.staged)).collect(),
            variants: HashMap::new(),
            pods: HashMap::new(),
            resolved: HashMap::new(),
            named: HashMap::new(),
            families: HashMap::new(),
            layers: HashMap::new(),
        };
        let mut own = OwnSide { cluster, sets: &model.address_sets, selected: HashMap::new() };
        for at in 0..tiers.policies.len() {
            let policy = tiers.policies[at];
            let pods = own.candidates(policy);
            for direction in Direction::ALL {
                let mut number = |variant: Vec<Holds>| {
                    let some = variant.iter().any(|holds| *holds != Holds::Never);
                    some.then(|| tiers.variants.entry((direction, at)).or_default().number(variant))
                };
                // Mostly all pods of a policy have the same of its rules.
                let alike = same_for_all(policy, direction).map(&mut number);
                for name in &pods {
                    let Some(place) = places.pods.get(name) else { continue };
                    let number = alike.unwrap_or_else(|| {
                        let has = own.applies(&policy.applied_to, name);
                        let rules = policy.rules.iter();
                        number(rules.map(|rule| own.holds(rule, has, direction, name, place)).collect())
                    });
                    if let Some(number) = number {
                        tiers.pods.entry((*name, direction)).or_default().push((at, number));
                    }
                }
            }
        }
        tiers
    }

    /// What decides which layer of this stage a pod has; `None`: no rule is in it.
    pub(super) fn key(
        &mut self,
        pod: &'a Name,
        ports: &[ContainerPort],
        direction: Direction,
        stage: Stage,
        workshop: &mut Workshop<'_>,
    ) -> Option<LayerKey> {
        let all = self.pods.get(&(pod, direction))?;
        let is_before = stage == Stage::Before;
        let of_stage =
            |(at, _): &&(usize, usize)| self.policies[*at].tier.is_before_network_policies() == is_before;
        let policies: Vec<(usize, usize)> = all.iter().filter(of_stage).copied().collect();
        if policies.is_empty() {
            return None;
        }
        let own_ports = match direction {
            Direction::Egress => Vec::new(),
            Direction::Ingress => {
                policies.iter().for_each(|(at, _)| self.resolve(direction, *at, workshop));
                own_ports(policies.iter().flat_map(|(at, _)| &self.named[at]).copied(), ports)
            }
        };
        Some(LayerKey { direction, policies, own_ports })
    }

    /// The layer of a key.
    pub(super) fn layer(&mut self, key: &LayerKey, workshop: &mut Workshop<'_>) -> Arc<RuleSet> {
        if let Some(layer) = self.layers.get(key) {
            return layer.clone();
        }
        let LayerKey { direction, policies, own_ports } = key;
        let mut rules: Vec<Rule> = Vec::new();
        for &(at, variant) in policies {
            self.resolve(*direction, at, workshop);
            let holds = &self.variants[&(*direction, at)].all[variant];
            for (rule, holds) in self.resolved[&(*direction, at)].iter().zip(holds) {
                rules.extend(match holds {
                    Holds::Never => None,
                    Holds::Always => Some(rule.at(*direction, own_ports, workshop.classes)),
                    Holds::For(family) => {
                        let all = self
                            .families
                            .entry(*family)
                            .or_insert_with(|| Arc::new(workshop.classes.of_family(*family)));
                        let peers = match &rule.peers {
                            Peers::Any => Peers::Identities(all.clone()),
                            Peers::Identities(ids) => Peers::of(ids.intersection(all).copied()),
                            Peers::Except(ids) => Peers::of(all.difference(ids).copied()),
                        };
                        Some(rule.among(peers, *direction, own_ports, workshop.classes))
                    }
                });
            }
        }
        let layer = Arc::new(workshop.set(rules));
        self.layers.insert(key.clone(), layer.clone());
        layer
    }

    fn resolve(&mut self, direction: Direction, at: usize, workshop: &mut Workshop<'_>) {
        if self.resolved.contains_key(&(direction, at)) {
            return;
        }
        let policy = self.policies[at];
        let policy_name = policy.id.to_string();
        let resolve = |rule: &'a TieredRule| {
            let id = workshop.name(policy.tier.as_str(), &policy_name, &rule.name);
            if let Some(label) = &rule.log_label {
                workshop.label(id, label);
            }
            let effect = match rule.verdict {
                Verdict::Allow => Effect::Decide(Action::Allow),
                Verdict::Drop => Effect::Decide(Action::Drop),
                Verdict::Reject => Effect::Decide(Action::Reject),
                Verdict::Pass => Effect::Pass,
            };
            let ends = match direction {
                Direction::Ingress => &rule.sources,
                Direction::Egress => &rule.destinations,
            };
            let peers = match ends {
                ends if ends.is_everyone() => Peers::Any,
                Ends { peers, excluded: false } => Peers::Identities(workshop.peers.resolve("", peers)),
                Ends { peers, excluded: true } => Peers::Except(workshop.peers.resolve("", peers)),
            };
            Resolved::new(id, effect, peers, rule.services.iter().map(PortsOrIcmp::from))
        };
        let resolved: Vec<Resolved<'a>> = policy.rules.iter().map(resolve).collect();
        if direction == Direction::Ingress {
            self.named.insert(at, resolved.iter().flat_map(|rule| &rule.named).copied().collect());
        }
        self.resolved.insert((direction, at), resolved);
    }
}

/// Which rules hold for every pod that a policy is applied to, if none asks more of it.
fn same_for_all(policy: &TieredPolicy, direction: Direction) -> Option<Vec<Holds>> {
    let holds = |rule: &TieredRule| {
        let (is_there, own) = own_side(rule, direction);
        match rule.applied_to {
            // It brings pods along that others are not applied to.
            Some(_) => None,
            None if !is_there => Some(Holds::Never),
            None => own.is_everyone().then_some(Holds::Always),
        }
    };
    policy.rules.iter().map(holds).collect()
}

/// Whether a rule is in firewalls of a direction at all, and what it says of the pods that have them.
fn own_side(rule: &TieredRule, direction: Direction) -> (bool, &Ends) {
    match direction {
        Direction::Ingress => (rule.directions.has_ingress(), &rule.destinations),
        Direction::Egress => (rule.directions.has_egress(), &rule.sources),
    }
}

impl Variants {
    fn number(&mut self, variant: Vec<Holds>) -> usize {
        *self.numbers.entry(variant).or_insert_with_key(|variant| {
            self.all.push(variant.clone());
            self.all.len() - 1
        })
    }
}

/// What rules say of the pod whose firewall they are in.
struct OwnSide<'a, 'c> {
    cluster: &'c ClusterIndex<'a>,
    sets: &'a BTreeMap<String, AddressSet>,
    /// The pods that peers select.
    selected: HashMap<&'a Peer, HashSet<&'a Name>>,
}

impl<'a> OwnSide<'a, '_> {
    /// Every pod that may have a rule of the policy.
    fn candidates(&mut self, policy: &'a TieredPolicy) -> BTreeSet<&'a Name> {
        let lists =
            || std::iter::once(&policy.applied_to).chain(policy.rules.iter().flat_map(|r| &r.applied_to));
        if lists().any(Vec::is_empty) {
            return self.cluster.pods().collect();
        }
        lists().flatten().flat_map(|peer| self.pods_of(peer).clone()).collect()
    }

    fn pods_of(&mut self, peer: &'a Peer) -> &HashSet<&'a Name> {
        let cluster = self.cluster;
        self.selected.entry(peer).or_insert_with(|| cluster.select(peer).into_iter().collect())
    }

    fn applies(&mut self, to: &'a [Peer], pod: &Name) -> bool {
        to.is_empty() || to.iter().any(|peer| self.pods_of(peer).contains(pod))
    }

    /// Whether a rule is in a pod's list. `has`: whether the policy's are.
    fn holds(
        &mut self,
        rule: &'a TieredRule,
        has: bool,
        direction: Direction,
        pod: &Name,
        place: &Place<'_>,
    ) -> Holds {
        let (is_there, own) = own_side(rule, direction);
        let applies = match &rule.applied_to {
            None => has,
            Some(to) => self.applies(to, pod),
        };
        if !is_there || !applies {
            return Holds::Never;
        }
        if own.is_everyone() {
            return Holds::Always;
        }
        let mut families: BTreeMap<IpFamily, bool> = BTreeMap::new();
        for &address in place.addresses {
            let is_among = own.peers.iter().any(|peer| self.is_of(peer, pod, address));
            // The primary address of a family speaks for it.
            families.entry(IpFamily::of(address)).or_insert(is_among != own.excluded);
        }
        let mut holding = families.iter().filter(|(_, holds)| **holds);
        match (holding.next(), holding.next(), families.len()) {
            (None, ..) => Holds::Never,
            (Some(_), Some(_), _) | (Some(_), None, 1) => Holds::Always,
            (Some((family, _)), None, _) => Holds::For(*family),
        }
    }

    fn is_of(&mut self, peer: &'a Peer, pod: &Name, address: IpAddr) -> bool {
        match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
            }
            Peer::Set(name) => {
                self.sets.get(name).is_some_and(|set| set.ranges.iter().any(|range| range.contains(&address)))
            }
            Peer::Pods { .. } => self.pods_of(peer).contains(pod),
            Peer::Nodes(_) | Peer::Domains(_) => false,
        }
    }
}
