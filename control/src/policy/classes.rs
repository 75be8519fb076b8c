//! Addresses sorted into classes that every rule treats alike.
//!
//! ```text
//!   pod address  ─▶ namespace, labels peers ask for, named ports egress rules ask for ─┐
//!   node address ─▶ named ports of the host-networked pods there ──────────────────────┼─▶ identity
//!   any address  ─▶ longest range of some ipBlock ─────────────────────────────────────┘
//! ```
//!
//! The ranges of all ipBlocks and exceptions form a tree, so an address is inside one of them exactly when the
//! longest range it lies in is. A block therefore is a set of ranges of that tree, and no address is ever
//! compared with a rule again.

use super::select::LabelIndex;
use crate::{
    intern::{Interner, NamedPort, Signature},
    model::{ContainerPort, Labels, Model, NetworkPolicy, Peer, PortMatch, Protocol, Rule},
    place::Places,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};
use supernet_dataplane::{id::IdentityId, snapshot::Identities, table::lpm::Lpm};

/// The classes of one state of the network.
pub(super) struct Classes<'a> {
    /// Who has which identity.
    pub(super) identities: Identities,
    /// Every endpoint's class: pods and nodes.
    pub(super) endpoints: BTreeSet<IdentityId>,
    namespaces: Vec<&'a str>,
    namespace_labels: LabelIndex<'a>,
    pods: HashMap<String, Members>,
    /// Every range of the tree with the classes of addresses in it and in no longer one.
    ranges: BTreeMap<IpNet, BTreeSet<IdentityId>>,
    /// Which endpoints have a named port, by its number.
    named: HashMap<(String, Protocol), BTreeMap<u16, BTreeSet<IdentityId>>>,
}

/// The pod classes of one namespace.
#[derive(Default)]
struct Members {
    ids: Vec<IdentityId>,
    labels: Vec<Labels>,
}

impl<'a> Classes<'a> {
    /// Sorts every endpoint's addresses and the ranges that policies name.
    pub(super) fn of(
        model: &'a Model,
        nodes: &BTreeMap<String, Vec<IpAddr>>,
        places: &Places<'_>,
        interner: &mut Interner,
    ) -> Self {
        let asked = Vocabulary::of(model);
        let mut classes = Self {
            identities: Identities::default(),
            endpoints: BTreeSet::new(),
            namespaces: model.namespaces.keys().map(String::as_str).collect(),
            namespace_labels: model.namespaces.values().map(|n| &n.labels).collect(),
            pods: HashMap::new(),
            ranges: BTreeMap::new(),
            named: HashMap::new(),
        };
        for &range in &asked.ranges {
            let id = interner.identity(&Signature::Range(range));
            classes.identities.ranges.insert(range, id);
            classes.ranges.insert(range, BTreeSet::from([id]));
        }
        // Range of the tree -> its position there, to find an address's longest.
        let tree: Lpm<()> = asked.ranges.iter().map(|r| (*r, ())).collect();
        let range_of = |addr| tree.get_prefix(addr).map(|(range, ())| range);

        for place in places.pods.values().filter(|p| p.segment.is_some()) {
            let pod = place.pod;
            let labels: Labels = pod
                .labels
                .iter()
                .filter(|(key, _)| asked.keys.contains(key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            let ports = asked.named_ports(&pod.ports);
            for &addr in place.addresses {
                let signature = Signature::Pod {
                    namespace: pod.name.namespace.clone(),
                    labels: labels.clone(),
                    ports: ports.clone(),
                    range: range_of(addr),
                };
                classes.add_endpoint(addr, &signature, interner);
            }
        }
        let mut at_node: HashMap<&str, Vec<NamedPort>> = HashMap::new();
        for place in places.pods.values().filter(|p| p.segment.is_none()) {
            if let Some(node) = place.node {
                at_node.entry(node).or_default().extend(asked.named_ports(&place.pod.ports));
            }
        }
        for (node, addresses) in nodes {
            let mut ports = at_node.remove(node.as_str()).unwrap_or_default();
            ports.sort_unstable();
            ports.dedup();
            for &addr in addresses {
                let signature = Signature::Node { ports: ports.clone(), range: range_of(addr) };
                classes.add_endpoint(addr, &signature, interner);
            }
        }
        classes
    }

    fn add_endpoint(&mut self, addr: IpAddr, signature: &Signature, interner: &mut Interner) {
        let id = interner.identity(signature);
        self.identities.exact.insert(addr, id);
        if !self.endpoints.insert(id) {
            return;
        }
        let (ports, range) = match signature {
            Signature::Pod { namespace, labels, ports, range } => {
                let members = self.pods.entry(namespace.clone()).or_default();
                members.ids.push(id);
                members.labels.push(labels.clone());
                (ports, range)
            }
            Signature::Node { ports, range } => (ports, range),
            Signature::Range(_) => return,
        };
        for (name, protocol, number) in ports {
            let by_number = self.named.entry((name.clone(), *protocol)).or_default();
            by_number.entry(*number).or_default().insert(id);
        }
        if let Some(range) = range {
            self.ranges.entry(*range).or_default().insert(id);
        }
    }

    /// The classes of a namespace's pods.
    pub(super) fn of_namespace(&self, namespace: &str) -> BTreeSet<IdentityId> {
        self.pods.get(namespace).map(|m| m.ids.iter().copied().collect()).unwrap_or_default()
    }

    /// The endpoints that have this named port, by its number.
    pub(super) fn named(
        &self,
        name: &str,
        protocol: Protocol,
    ) -> impl Iterator<Item = (u16, &BTreeSet<IdentityId>)> {
        let key = (name.to_owned(), protocol);
        self.named.get(&key).into_iter().flatten().map(|(number, ids)| (*number, ids))
    }

    /// Answers what peers mean.
    pub(super) fn peers(&self) -> PeerIndex<'_> {
        let pods = self.pods.iter().map(|(ns, m)| (ns.as_str(), m.labels.iter().collect())).collect();
        PeerIndex { classes: self, pods }
    }
}

/// Finds the classes that peers speak of.
pub(super) struct PeerIndex<'a> {
    classes: &'a Classes<'a>,
    pods: HashMap<&'a str, LabelIndex<'a>>,
}

impl PeerIndex<'_> {
    /// The classes that any of these peers of a policy in `namespace` matches.
    pub(super) fn resolve(&self, namespace: &str, peers: &[Peer]) -> BTreeSet<IdentityId> {
        let mut ids = BTreeSet::new();
        for peer in peers {
            match peer {
                Peer::Block { cidr, except } => self.add_block(cidr, except, &mut ids),
                Peer::Pods { namespaces: None, pods } => self.add_pods(namespace, pods.as_ref(), &mut ids),
                Peer::Pods { namespaces: Some(selector), pods } => {
                    for at in self.classes.namespace_labels.select(selector) {
                        self.add_pods(self.classes.namespaces[at], pods.as_ref(), &mut ids);
                    }
                }
            }
        }
        ids
    }

    fn add_pods(
        &self,
        namespace: &str,
        pods: Option<&crate::model::Selector>,
        ids: &mut BTreeSet<IdentityId>,
    ) {
        let (Some(members), Some(index)) = (self.classes.pods.get(namespace), self.pods.get(namespace))
        else {
            return;
        };
        match pods {
            None => ids.extend(&members.ids),
            Some(selector) => ids.extend(index.select(selector).into_iter().map(|at| members.ids[at])),
        }
    }

    fn add_block(&self, cidr: &IpNet, except: &[IpNet], ids: &mut BTreeSet<IdentityId>) {
        // In the order of ranges (address, then length) all that lie inside one follow it without a gap.
        let inside = self.classes.ranges.range(cidr.trunc()..).take_while(|(range, _)| cidr.contains(*range));
        for (range, classes) in inside {
            if !except.iter().any(|e| e.contains(range)) {
                ids.extend(classes);
            }
        }
    }
}

/// What rules can tell addresses apart by.
struct Vocabulary<'a> {
    /// Label keys in pod selectors of peers.
    keys: BTreeSet<&'a str>,
    /// Named ports in egress rules; those of ingress rules belong to the selected pod.
    ports: BTreeSet<(&'a str, Protocol)>,
    /// Ranges and exceptions of ipBlocks.
    ranges: BTreeSet<IpNet>,
}

impl<'a> Vocabulary<'a> {
    fn of(model: &'a Model) -> Self {
        let mut asked = Self { keys: BTreeSet::new(), ports: BTreeSet::new(), ranges: BTreeSet::new() };
        let rules = |rules: &'a Option<Vec<Rule>>| rules.as_deref().unwrap_or_default();
        for NetworkPolicy { ingress, egress, .. } in model.policies.values() {
            for peer in rules(ingress).iter().chain(rules(egress)).flat_map(|r| &r.peers) {
                match peer {
                    Peer::Block { cidr, except } => {
                        asked.ranges.insert(cidr.trunc());
                        asked.ranges.extend(except.iter().map(IpNet::trunc));
                    }
                    Peer::Pods { pods, .. } => {
                        let requirements = pods.iter().flat_map(|s| &s.requirements);
                        asked.keys.extend(requirements.map(|r| r.key.as_str()));
                    }
                }
            }
            for port in rules(egress).iter().flat_map(|r| &r.ports) {
                if let PortMatch::Named(name) = &port.port {
                    asked.ports.insert((name, port.protocol));
                }
            }
        }
        asked
    }

    /// Those of a pod's ports that some egress rule asks for by name.
    fn named_ports(&self, ports: &[ContainerPort]) -> Vec<NamedPort> {
        let mut named: Vec<NamedPort> = ports
            .iter()
            .filter(|p| self.ports.contains(&(p.name.as_str(), p.protocol)))
            .map(|p| (p.name.clone(), p.protocol, p.port))
            .collect();
        named.sort_unstable();
        named.dedup();
        named
    }
}
