//! Policies of every kind and the ingress posture, compiled to the firewalls of the dataplane.
//!
//! ```text
//!   policies ──▶ ranges, label keys, port names they ask for ──▶ classes of addresses (identities)
//!       │                                                              │
//!       └──▶ rules, once each: peers as identities ◀───────────────────┘
//!                 │
//!   pods ──▶ policies that select them ──▶ layers, one for all pods that see the same rules
//! ```
//!
//! The order of evaluation, the same for what a pod receives and for what it sends; the first that decides does:
//!
//! | | layer | decides |
//! | --- | --- | --- |
//! | 1 | Emergency, Infrastructure, Environment (SecurityPolicy), Admin (ClusterNetworkPolicy, AdminNetworkPolicy) | first match; Pass and JUMP_TO_APPLICATION go on at 2 |
//! | 2 | NetworkPolicies that select the pod for this direction | always: what none of them allows is dropped in their name |
//! | 3 | Application (SecurityPolicy), Baseline (ClusterNetworkPolicy, BaselineAdminNetworkPolicy) | first match |
//! | 4 | the Supervisor's posture | always |
//!
//! What always holds: a rule's peers are resolved once, whoever shares the rule; the peer of an egress rule is
//! the destination behind any load balancer, the peer of an ingress rule the real source; a rule set never names
//! an address. Pods on their node's network have no firewall and stand outside policy. Traffic of a pod with
//! itself and from its own node is the dataplane's to allow.
//!
//! Semantics: the field documentation of `networking.k8s.io/v1` NetworkPolicy and of `policy.networking.k8s.io`.
//! Rules of all NetworkPolicies that select a pod for a direction are a union.

mod classes;
mod cluster;
mod rules;
pub(crate) mod select;
#[cfg(test)]
pub(crate) mod tests;
mod tiers;

pub(crate) use cluster::Applied;
pub(crate) use tiers::in_order;

use crate::{
    intern::{Interner, NamedPort},
    ipam::Addressing,
    model::{IngressPosture, Model, Name, NetworkPolicy, ServerBackend},
    place::{Place, Places},
};
use classes::Classes;
use cluster::ClusterIndex;
pub(crate) use rules::{Direction, NETWORK_POLICY};
use rules::{NetworkPolicies, Workshop};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use supernet_dataplane::{
    id::RuleId,
    snapshot::{Identities, RuleName, StagedFirewalls},
    table::{
        classifier::{Action, Clause, Decision, Effect, Peers, Rule, RuleSet},
        firewall::Firewall,
    },
};
use tiers::{LayerKey, Stage, Tiers};

/// The policy name and the tier of rules that the Supervisor's posture gives.
pub const POSTURE: &str = "posture";

/// The firewalls of a whole network.
#[derive(Debug, Clone)]
pub struct Firewalls<'a> {
    /// Who has which identity.
    pub identities: Identities,
    /// The firewalls of every pod that policy applies to.
    pub pods: BTreeMap<&'a Name, PodFirewall>,
    /// What the rules are called.
    pub rules: BTreeMap<RuleId, RuleName>,
    /// The labels of their log records, of those that have one.
    pub log_labels: BTreeMap<RuleId, String>,
}

/// The firewalls of one pod; pods that see the same rules share them.
#[derive(Debug, Clone)]
pub struct PodFirewall {
    /// For what reaches it.
    pub ingress: Arc<Firewall>,
    /// For what it sends.
    pub egress: Arc<Firewall>,
    /// What they would be if staged policies were enforced; `None`: the same.
    pub staged: Option<Arc<StagedFirewalls>>,
}

/// Which policies a firewall is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Among {
    /// Those that are enforced.
    Enforced,
    /// Staged ones too.
    All,
}

impl Among {
    pub(crate) fn has(self, is_staged: bool) -> bool {
        self == Self::All || !is_staged
    }
}

/// Compiles all policies of a model.
pub fn compile<'a>(
    model: &'a Model,
    addressing: &Addressing,
    places: &Places<'a>,
    interner: &mut Interner,
) -> Firewalls<'a> {
    let classes = Classes::of(model, &addressing.nodes, places, interner);
    let cluster = ClusterIndex::of(model);
    let mut compiler =
        Compiler::new(model, places, &cluster, Among::Enforced, Workshop::new(&classes, interner));
    let mut pods = BTreeMap::new();
    for (&name, place) in places.pods.iter().filter(|(_, p)| p.segment.is_some()) {
        let [ingress, egress] = Direction::ALL.map(|direction| compiler.firewall(name, place, direction));
        pods.insert(name, PodFirewall { ingress, egress, staged: None });
    }
    let mut workshop = compiler.workshop;
    if model.policies.values().any(|p| p.staged) || model.tiered_policies.values().any(|p| p.staged) {
        let mut compiler = Compiler::new(model, places, &cluster, Among::All, workshop);
        let mut shared: HashMap<[*const Firewall; 2], Arc<StagedFirewalls>> = HashMap::new();
        for (&name, pod) in &mut pods {
            let Some(place) = places.pods.get(name) else { continue };
            let [ingress, egress] = Direction::ALL.map(|direction| compiler.firewall(name, place, direction));
            if ingress != pod.ingress || egress != pod.egress {
                let key = [Arc::as_ptr(&ingress), Arc::as_ptr(&egress)];
                let staged =
                    shared.entry(key).or_insert_with(|| Arc::new(StagedFirewalls { egress, ingress }));
                pod.staged = Some(staged.clone());
            }
        }
        workshop = compiler.workshop;
    }
    let (rules, log_labels) = workshop.into_names();
    Firewalls { identities: classes.identities, pods, rules, log_labels }
}

struct Compiler<'a, 'w> {
    model: &'a Model,
    exempt: BTreeSet<&'a Name>,
    selection: Selection<'a>,
    tiers: Tiers<'a>,
    policies: NetworkPolicies<'a>,
    workshop: Workshop<'w>,
    bodies: HashMap<BodyKey<'a>, (Option<Arc<RuleSet>>, Decision)>,
    firewalls: HashMap<FirewallKey<'a>, Arc<Firewall>>,
}

/// What pods must agree on to share a firewall.
#[derive(PartialEq, Eq, Hash)]
struct FirewallKey<'a> {
    before: Option<LayerKey>,
    after: Option<LayerKey>,
    body: BodyKey<'a>,
}

/// What they must agree on to share what no tier decides.
#[derive(Clone, PartialEq, Eq, Hash)]
enum BodyKey<'a> {
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

impl<'a, 'w> Compiler<'a, 'w> {
    fn new(
        model: &'a Model,
        places: &Places<'a>,
        cluster: &ClusterIndex<'a>,
        among: Among,
        workshop: Workshop<'w>,
    ) -> Self {
        let selection = Selection::among(model, cluster, among);
        Self {
            model,
            exempt: exempt_pods(model),
            tiers: Tiers::of(model, places, cluster, among),
            policies: NetworkPolicies::new(selection.pods.iter().map(|(policy, _)| *policy).collect()),
            selection,
            workshop,
            bodies: HashMap::new(),
            firewalls: HashMap::new(),
        }
    }

    fn firewall(&mut self, name: &'a Name, place: &Place<'a>, direction: Direction) -> Arc<Firewall> {
        let ports = &place.pod.ports;
        let selecting = self.selection.policies(name, direction);
        let before = self.tiers.key(name, ports, direction, Stage::Before, &mut self.workshop);
        let (body, after) = if selecting.is_empty() {
            let after = self.tiers.key(name, ports, direction, Stage::After, &mut self.workshop);
            (BodyKey::Open(self.open(name, direction)), after)
        } else {
            let own_ports = match direction {
                Direction::Ingress => self.policies.own_ports(&selecting, ports, &mut self.workshop),
                Direction::Egress => Vec::new(),
            };
            (BodyKey::Isolated(direction, selecting, own_ports), None)
        };
        let key = FirewallKey { before, after, body };
        if let Some(firewall) = self.firewalls.get(&key) {
            return firewall.clone();
        }
        let mut tier = |key: &Option<LayerKey>| key.as_ref().map(|k| self.tiers.layer(k, &mut self.workshop));
        let (before, after) = (tier(&key.before), tier(&key.after));
        let (body, default) = self.body(&key.body);
        let firewall = Arc::new(Firewall::new([before, after, body].into_iter().flatten(), default));
        self.firewalls.insert(key, firewall.clone());
        firewall
    }

    /// What no tier decides: the rules, and what becomes of the rest.
    fn body(&mut self, key: &BodyKey<'a>) -> (Option<Arc<RuleSet>>, Decision) {
        if let Some(body) = self.bodies.get(key) {
            return body.clone();
        }
        let body = match key {
            BodyKey::Open(open) => self.posture(*open),
            BodyKey::Isolated(direction, policies, ports) => {
                let (set, rule) = self.policies.isolated(*direction, policies, ports, &mut self.workshop);
                (Some(Arc::new(set)), Decision { rule, action: Action::Drop })
            }
        };
        self.bodies.insert(key.clone(), body.clone());
        body
    }

    fn open(&self, pod: &'a Name, direction: Direction) -> Open<'a> {
        if direction == Direction::Egress {
            return Open::Egress;
        }
        if self.exempt.contains(pod) {
            return Open::ToAllAsBackend;
        }
        match self.model.supervisor.ingress_posture {
            IngressPosture::Deny => Open::ToNobody,
            IngressPosture::AllowNamespace => Open::ToNamespace(&pod.namespace),
            IngressPosture::AllowCluster => Open::ToCluster,
            IngressPosture::Allow => Open::ToAll,
        }
    }

    fn posture(&mut self, open: Open<'_>) -> (Option<Arc<RuleSet>>, Decision) {
        let classes = self.workshop.classes;
        let mut decide = |name, action| Decision { rule: self.workshop.name(POSTURE, POSTURE, name), action };
        let (name, peers) = match open {
            Open::ToNobody => return (None, decide("deny", Action::Drop)),
            Open::ToAll => return (None, decide("allow", Action::Allow)),
            Open::ToAllAsBackend => return (None, decide("default servers", Action::Allow)),
            Open::Egress => return (None, decide("egress", Action::Allow)),
            Open::ToNamespace(namespace) => ("allowNamespace", classes.of_namespace(namespace)),
            Open::ToCluster => ("allowCluster", classes.endpoints.clone()),
        };
        let Decision { rule: id, action } = decide(name, Action::Allow);
        let clauses = vec![Clause { peers: Peers::of(peers), services: Vec::new() }];
        let allow = Rule { id, effect: Effect::Decide(action), clauses };
        let deny = decide("deny", Action::Drop);
        (Some(Arc::new(self.workshop.set(vec![allow]))), deny)
    }
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
    /// In the order of the model's policies that are enforced: the pods each selects, ascending.
    pub(crate) pods: Vec<(&'a NetworkPolicy, Vec<&'a Name>)>,
    /// The other way round: positions of policies, ascending.
    policies: HashMap<&'a Name, Vec<usize>>,
}

impl<'a> Selection<'a> {
    /// Asks every policy for its pods. Pods on their node's network are not selected.
    pub(crate) fn of(model: &'a Model) -> Self {
        Self::among(model, &ClusterIndex::of(model), Among::Enforced)
    }

    fn among(model: &'a Model, cluster: &ClusterIndex<'a>, among: Among) -> Self {
        let mut selection = Self { pods: Vec::new(), policies: HashMap::new() };
        for (at, policy) in model.policies.values().filter(|p| among.has(p.staged)).enumerate() {
            let pods = cluster.select_in(&policy.name.namespace, &policy.pods);
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
