//! Addresses sorted into classes that every rule treats alike.
//!
//! ```text
//!   pod address  ─▶ namespace, labels peers ask for, named ports egress rules ask for ─┐
//!   node address ─▶ labels peers ask for, named ports of host-networked pods there ────┼─▶ identity
//!   any address  ─▶ longest range of some ipBlock or address set ──────────────────────┘
//! ```
//!
//! The ranges of all ipBlocks and exceptions form a tree, so an address is inside one of them exactly when the
//! longest range it lies in is. A block therefore is a set of ranges of that tree, and no address is ever
//! compared with a rule again.

use super::select::LabelIndex;
use crate::{
    intern::{Interner, NamedPort, Signature},
    model::{
        AddressSet, ContainerPort, IpFamily, Labels, Model, Peer, PolicyPort, PolicyService, PortMatch,
        Protocol, Rule, Selector,
    },
    place::Places,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
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
    nodes: Members,
    sets: &'a BTreeMap<String, AddressSet>,
    /// Every range of the tree with the classes of addresses in it and in no longer one.
    ranges: BTreeMap<IpNet, BTreeSet<IdentityId>>,
    /// Which endpoints have a named port, by its number.
    named: HashMap<(String, Protocol), BTreeMap<u16, BTreeSet<IdentityId>>>,
}

/// The classes of one namespace's pods, or of nodes.
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
            nodes: Members::default(),
            sets: &model.address_sets,
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
            let labels = among(&pod.labels, &asked.keys);
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
            let labels =
                model.nodes.get(node).map(|n| among(&n.labels, &asked.node_keys)).unwrap_or_default();
            for &addr in addresses {
                let signature =
                    Signature::Node { labels: labels.clone(), ports: ports.clone(), range: range_of(addr) };
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
            Signature::Node { labels, ports, range } => {
                self.nodes.ids.push(id);
                self.nodes.labels.push(labels.clone());
                (ports, range)
            }
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

    /// The classes of a family's addresses. Only of use where the families were told apart: see [`Vocabulary`].
    pub(super) fn of_family(&self, family: IpFamily) -> BTreeSet<IdentityId> {
        let of_family = self.ranges.iter().filter(|(range, _)| IpFamily::of(range.addr()) == family);
        of_family.flat_map(|(_, ids)| ids).copied().collect()
    }

    /// Answers what peers mean.
    pub(super) fn peers(&self) -> PeerIndex<'_> {
        let pods = self.pods.iter().map(|(ns, m)| (ns.as_str(), m.labels.iter().collect())).collect();
        PeerIndex { classes: self, pods, nodes: self.nodes.labels.iter().collect(), known: HashMap::new() }
    }
}

/// Those of the labels whose keys are asked for.
fn among(labels: &Labels, keys: &BTreeSet<&str>) -> Labels {
    let asked = labels.iter().filter(|(key, _)| keys.contains(key.as_str()));
    asked.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Finds the classes that peers speak of, and remembers them.
pub(super) struct PeerIndex<'a> {
    classes: &'a Classes<'a>,
    pods: HashMap<&'a str, LabelIndex<'a>>,
    nodes: LabelIndex<'a>,
    known: HashMap<(String, Vec<Peer>), Arc<BTreeSet<IdentityId>>>,
}

impl PeerIndex<'_> {
    /// The classes that any of these peers of a policy in `namespace` matches.
    pub(super) fn resolve(&mut self, namespace: &str, peers: &[Peer]) -> Arc<BTreeSet<IdentityId>> {
        let is_local = |peer: &Peer| matches!(peer, Peer::Pods { namespaces: None, .. });
        let namespace = if peers.iter().any(is_local) { namespace } else { "" };
        let key = (namespace.to_owned(), peers.to_vec());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
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
                Peer::Nodes(selector) => {
                    let nodes = &self.classes.nodes.ids;
                    ids.extend(self.nodes.select(selector).into_iter().map(|at| nodes[at]));
                }
                Peer::Domains(_) => {}
                Peer::Set(name) => {
                    let ranges = self.classes.sets.get(name).map(|set| &set.ranges[..]).unwrap_or_default();
                    ranges.iter().for_each(|range| self.add_block(range, &[], &mut ids));
                }
            }
        }
        self.known.entry(key).or_insert(Arc::new(ids)).clone()
    }

    fn add_pods(&self, namespace: &str, pods: Option<&Selector>, ids: &mut BTreeSet<IdentityId>) {
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
#[derive(Default)]
struct Vocabulary<'a> {
    /// Label keys in pod selectors of peers.
    keys: BTreeSet<&'a str>,
    /// Label keys in node selectors.
    node_keys: BTreeSet<&'a str>,
    /// Named ports in egress rules; those of ingress rules belong to the selected pod.
    ports: BTreeSet<(&'a str, Protocol)>,
    /// Ranges and exceptions of ipBlocks, ranges of address sets; and all of either family, if some rule may hold
    /// for a pod in one family and not in the other.
    ranges: BTreeSet<IpNet>,
}

impl<'a> Vocabulary<'a> {
    fn of(model: &'a Model) -> Self {
        let mut asked = Self::default();
        let rules = |rules: &'a Option<Vec<Rule>>| rules.as_deref().unwrap_or_default();
        for policy in model.policies.values() {
            let (ingress, egress) = (rules(&policy.ingress), rules(&policy.egress));
            asked.add_peers(ingress.iter().chain(egress).flat_map(|r| &r.peers), model);
            asked.add_ports(egress.iter().flat_map(|r| &r.ports));
        }
        for rule in model.tiered_policies.values().flat_map(|policy| &policy.rules) {
            let (to, from) = (rule.directions.has_egress(), rule.directions.has_ingress());
            let (sources, destinations) = (&rule.sources.peers, &rule.destinations.peers);
            if to {
                asked.add_peers(destinations, model);
                asked.add_ports(rule.services.iter().filter_map(|service| match service {
                    PolicyService::Ports(port) => Some(port),
                    PolicyService::Icmp { .. } => None,
                }));
            }
            if from {
                asked.add_peers(sources, model);
            }
            let own = destinations.iter().filter(|_| from).chain(sources.iter().filter(|_| to));
            if own.into_iter().any(|peer| matches!(peer, Peer::Block { .. } | Peer::Set(_))) {
                asked.ranges.extend(EVERYTHING);
            }
        }
        asked
    }

    fn add_peers(&mut self, peers: impl IntoIterator<Item = &'a Peer>, model: &'a Model) {
        let keys = |selector: &'a Selector| selector.requirements.iter().map(|r| r.key.as_str());
        for peer in peers {
            match peer {
                Peer::Block { cidr, except } => {
                    self.ranges.insert(cidr.trunc());
                    self.ranges.extend(except.iter().map(IpNet::trunc));
                }
                Peer::Pods { pods, .. } => self.keys.extend(pods.iter().flat_map(keys)),
                Peer::Nodes(selector) => self.node_keys.extend(keys(selector)),
                Peer::Domains(_) => {}
                Peer::Set(name) => {
                    let ranges = model.address_sets.get(name).into_iter().flat_map(|set| &set.ranges);
                    self.ranges.extend(ranges.map(IpNet::trunc));
                }
            }
        }
    }

    fn add_ports(&mut self, ports: impl Iterator<Item = &'a PolicyPort>) {
        self.ports.extend(ports.filter_map(|port| match &port.port {
            PortMatch::Named(name) => Some((name.as_str(), port.protocol)),
            PortMatch::All | PortMatch::Numbers { .. } => None,
        }));
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

/// Every address, by family.
const EVERYTHING: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];
