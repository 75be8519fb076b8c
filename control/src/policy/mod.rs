//! NetworkPolicies and the ingress posture, compiled to the firewall rule sets of the dataplane.
//!
//! ```text
//!   policies ──▶ ranges, label keys, port names they ask for ──▶ classes of addresses (identities)
//!       │                                                              │
//!       └──▶ rules, once each: peers as identities ◀───────────────────┘
//!                 │
//!   pods ──▶ policies that select them ──▶ rule sets, one for all pods that see the same rules
//! ```
//!
//! What always holds: a rule's peers are resolved once, whoever shares the rule; the peer of an egress rule is
//! the destination behind any load balancer, the peer of an ingress rule the real source; a rule set never names
//! an address. Pods on their node's network have no rule sets and stand outside policy. Traffic of a pod with
//! itself and from its own node is the dataplane's to allow.
//!
//! Semantics: the field documentation of `networking.k8s.io/v1` NetworkPolicy. Rules of all policies that select
//! a pod for a direction are a union; what none of them matches is dropped in the name of these policies.

mod classes;
mod rules;
pub(crate) mod select;
#[cfg(test)]
mod tests;

use crate::{
    intern::{Interner, NamedPort},
    ipam::Addressing,
    model::{IngressPosture, Model, Name, NetworkPolicy, ServerBackend},
    place::Places,
};
use classes::Classes;
pub(crate) use rules::Direction;
use rules::Rules;
use select::LabelIndex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use supernet_dataplane::{
    id::RuleId,
    snapshot::{Identities, RuleName},
    table::classifier::{Action, Clause, Decision, Peers, Rule, RuleSet},
};

/// The policy name of rules that the Supervisor's posture gives.
pub const POSTURE: &str = "posture";

/// The firewall of a whole network.
#[derive(Debug, Clone)]
pub struct Firewall<'a> {
    /// Who has which identity.
    pub identities: Identities,
    /// The rule sets of every pod that policy applies to.
    pub pods: BTreeMap<&'a Name, PodFirewall>,
    /// What the rules are called.
    pub rules: BTreeMap<RuleId, RuleName>,
}

/// The rule sets of one pod; pods that see the same rules share them.
#[derive(Debug, Clone)]
pub struct PodFirewall {
    /// For what reaches it.
    pub ingress: Arc<RuleSet>,
    /// For what it sends.
    pub egress: Arc<RuleSet>,
}

/// Compiles all policies of a model.
pub fn compile<'a>(
    model: &'a Model,
    addressing: &Addressing,
    places: &Places<'a>,
    interner: &mut Interner,
) -> Firewall<'a> {
    let classes = Classes::of(model, &addressing.nodes, places, interner);
    let selection = Selection::of(model);
    let exempt = exempt_pods(model);
    let mut rules = Rules::new(model, &classes, interner);
    let mut sets: HashMap<SetKey<'_>, Arc<RuleSet>> = HashMap::new();
    let mut pods = BTreeMap::new();
    for (&name, place) in places.pods.iter().filter(|(_, p)| p.segment.is_some()) {
        let mut set = |direction| {
            let selecting = selection.policies(name, direction);
            let key = if selecting.is_empty() {
                SetKey::Open(open(model, name, direction, &exempt))
            } else {
                let ports = match direction {
                    Direction::Ingress => rules.own_ports(&selecting, &place.pod.ports),
                    Direction::Egress => Vec::new(),
                };
                SetKey::Isolated(direction, selecting, ports)
            };
            if let Some(set) = sets.get(&key) {
                return set.clone();
            }
            let set = Arc::new(match &key {
                SetKey::Open(open) => open_set(*open, &classes, &mut rules),
                SetKey::Isolated(direction, policies, ports) => rules.isolated(*direction, policies, ports),
            });
            sets.insert(key, set.clone());
            set
        };
        let ingress = set(Direction::Ingress);
        let egress = set(Direction::Egress);
        pods.insert(name, PodFirewall { ingress, egress });
    }
    let rules = rules.into_names();
    Firewall { identities: classes.identities, pods, rules }
}

/// What pods must agree on to share a rule set.
#[derive(PartialEq, Eq, Hash)]
enum SetKey<'a> {
    /// No policy isolates them.
    Open(Open<'a>),
    /// These policies do, by position, and named ports of their ingress rules have these numbers.
    Isolated(Direction, Vec<usize>, Vec<NamedPort>),
}

/// What a pod that no policy isolates is open to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Open<'a> {
    ToNobody,
    ToNamespace(&'a str),
    ToCluster,
    ToAll,
    ToAllAsBackend,
    Egress,
}

fn open<'a>(model: &Model, pod: &'a Name, direction: Direction, exempt: &BTreeSet<&Name>) -> Open<'a> {
    if direction == Direction::Egress {
        return Open::Egress;
    }
    if exempt.contains(pod) {
        return Open::ToAllAsBackend;
    }
    match model.supervisor.ingress_posture {
        IngressPosture::Deny => Open::ToNobody,
        IngressPosture::AllowNamespace => Open::ToNamespace(&pod.namespace),
        IngressPosture::AllowCluster => Open::ToCluster,
        IngressPosture::Allow => Open::ToAll,
    }
}

fn open_set(open: Open<'_>, classes: &Classes<'_>, rules: &mut Rules<'_>) -> RuleSet {
    let mut decide = |name: &str, action| Decision { rule: rules.name(POSTURE, name), action };
    let only_default = |default| RuleSet::new(Vec::new(), default);
    let (name, peers) = match open {
        Open::ToNobody => return only_default(decide("deny", Action::Drop)),
        Open::ToAll => return only_default(decide("allow", Action::Allow)),
        Open::ToAllAsBackend => return only_default(decide("default servers", Action::Allow)),
        Open::Egress => return only_default(decide("egress", Action::Allow)),
        Open::ToNamespace(namespace) => ("allowNamespace", classes.of_namespace(namespace)),
        Open::ToCluster => ("allowCluster", classes.endpoints.clone()),
    };
    let allow = Rule {
        id: decide(name, Action::Allow).rule,
        action: Action::Allow,
        clauses: vec![Clause { peers: Peers::Identities(peers), services: Vec::new() }],
    };
    let deny = decide("deny", Action::Drop);
    rules.set(vec![allow], deny)
}

/// Pods behind the default virtual servers: they must be reachable whatever the posture is.
pub(crate) fn exempt_pods(model: &Model) -> BTreeSet<&Name> {
    let backends = model.supervisor.kube_api.backends.iter().chain(&model.supervisor.cli_tools.backends);
    backends
        .filter_map(|backend| match &backend.value {
            ServerBackend::Pod(name, _) => Some(name),
            ServerBackend::Address(_) => None,
        })
        .collect()
}

/// Which policies select which pods.
pub(crate) struct Selection<'a> {
    /// In the order of the model's policies: the pods each selects, ascending.
    pub(crate) pods: Vec<(&'a NetworkPolicy, Vec<&'a Name>)>,
    /// The other way round: positions of policies, ascending.
    policies: HashMap<&'a Name, Vec<usize>>,
}

impl<'a> Selection<'a> {
    /// Asks every policy for its pods. Pods on their node's network are not selected.
    pub(crate) fn of(model: &'a Model) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&crate::model::Pod>> = HashMap::new();
        for pod in model.pods.values().filter(|p| !p.host_network) {
            by_namespace.entry(&pod.name.namespace).or_default().push(pod);
        }
        let indexed: HashMap<&str, (LabelIndex<'_>, Vec<&Name>)> = by_namespace
            .into_iter()
            .map(|(namespace, pods)| {
                let index = pods.iter().map(|p| &p.labels).collect();
                (namespace, (index, pods.iter().map(|p| &p.name).collect()))
            })
            .collect();
        let mut selection = Self { pods: Vec::new(), policies: HashMap::new() };
        for (at, policy) in model.policies.values().enumerate() {
            let pods = match indexed.get(policy.name.namespace.as_str()) {
                Some((index, names)) => index.select(&policy.pods).into_iter().map(|i| names[i]).collect(),
                None => Vec::new(),
            };
            for pod in &pods {
                selection.policies.entry(pod).or_default().push(at);
            }
            selection.pods.push((policy, pods));
        }
        selection
    }

    /// Positions of the policies that isolate a pod in a direction.
    fn policies(&self, pod: &Name, direction: Direction) -> Vec<usize> {
        let selecting = self.policies.get(pod).map(Vec::as_slice).unwrap_or_default();
        selecting.iter().copied().filter(|&at| direction.rules_of(self.pods[at].0).is_some()).collect()
    }
}
