//! Numbers for names, for as long as a network lives.
//!
//! The packet path knows ports, rules, servers and so on by dense numbers. An [`Interner`] hands them out: the
//! same name always gets the same number, and no number is ever given to a second name, so counters and
//! sessions may outlive the object they speak of. One interner belongs to one network; every compile of that
//! network uses it. Only the compiler writes it.

use crate::model::{Labels, Name, Protocol};
use ipnet::IpNet;
use std::{borrow::Borrow, collections::HashMap, hash::Hash};
use supernet_dataplane::{
    id::{IdentityId, NamespaceId, PortId, RuleId, SegmentId, ServerId, Tier1Id},
    snapshot::RuleName,
};

/// All numbers that one network has given out.
#[derive(Debug, Clone, Default)]
pub struct Interner {
    ports: Table<String>,
    segments: Table<String>,
    namespaces: Table<String>,
    servers: Table<String>,
    tier1s: Table<String>,
    rules: Table<RuleName>,
    identities: Table<Signature>,
    placements: Table<Name>,
    /// The last label of each rule that ever had one.
    log_labels: HashMap<RuleId, String>,
}

/// What makes one class of addresses differ from another, as far as some rule can tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signature {
    /// Addresses of pods that selectors can see.
    Pod {
        /// The pods' namespace.
        namespace: String,
        /// Their labels, of the keys that some peer selector asks for.
        labels: Labels,
        /// Their container ports of the names that some egress rule asks for.
        ports: Vec<NamedPort>,
        /// The longest range of some ipBlock that the address lies in.
        range: Option<IpNet>,
    },
    /// Addresses of nodes, and so of the host-networked pods on them.
    Node {
        /// The labels of the node, of the keys that some node selector asks for.
        labels: Labels,
        /// Named ports of the host-networked pods at the address.
        ports: Vec<NamedPort>,
        /// The longest range of some ipBlock that the address lies in.
        range: Option<IpNet>,
    },
    /// Addresses that nobody here has, in this range of some ipBlock and in no longer one.
    Range(IpNet),
}

/// A container port's name, protocol and number.
pub type NamedPort = (String, Protocol, u16);

impl Interner {
    /// The port of this name: "shop/web-0", "node/node-1", "uplink/leaf-a".
    pub fn port(&mut self, name: &str) -> PortId {
        PortId(self.ports.id(name))
    }

    /// The port of this name, if it was ever compiled.
    pub fn known_port(&self, name: &str) -> Option<PortId> {
        self.ports.ids.get(name).copied().map(PortId)
    }

    /// Every port there ever was.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &str)> {
        self.ports.ids.iter().map(|(name, id)| (PortId(*id), &**name))
    }

    /// Every rule there ever was.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleName)> {
        self.rules.ids.iter().map(|(name, id)| (RuleId(*id), name))
    }

    /// The labels that rules' log records have, or had last.
    pub fn log_labels(&self) -> impl Iterator<Item = (RuleId, &str)> {
        self.log_labels.iter().map(|(rule, label)| (*rule, &**label))
    }

    /// Log records of a rule have this label.
    pub(crate) fn label(&mut self, rule: RuleId, label: &str) {
        self.log_labels.insert(rule, label.to_owned());
    }

    /// Every virtual server there ever was.
    pub fn servers(&self) -> impl Iterator<Item = (ServerId, &str)> {
        self.servers.ids.iter().map(|(name, id)| (ServerId(*id), &**name))
    }

    /// The segment of this name: "shop-0".
    pub fn segment(&mut self, name: &str) -> SegmentId {
        SegmentId(self.segments.id(name))
    }

    /// The namespace of this name.
    pub fn namespace(&mut self, name: &str) -> NamespaceId {
        NamespaceId(self.namespaces.id(name))
    }

    /// The virtual server of this name: "shop/web:80/TCP".
    pub fn server(&mut self, name: &str) -> ServerId {
        ServerId(self.servers.id(name))
    }

    /// The Tier-1 gateway of this name: "tier1", "tier1-shop".
    pub fn tier1(&mut self, name: &str) -> Tier1Id {
        Tier1Id(self.tier1s.id(name))
    }

    /// The rule of this name.
    pub fn rule(&mut self, name: &RuleName) -> RuleId {
        RuleId(self.rules.id(name))
    }

    /// The class of addresses with this signature; never [`IdentityId::UNKNOWN`].
    pub fn identity(&mut self, signature: &Signature) -> IdentityId {
        IdentityId(self.identities.id(signature) + 1)
    }

    /// A number for a pod that may run on any node: its turn when pods are dealt out to nodes. It stays the same
    /// when other pods come and go, so a pod never moves because of them.
    pub fn turn(&mut self, pod: &Name) -> u32 {
        self.placements.id(pod)
    }
}

/// Names in the order in which they were first seen.
#[derive(Debug, Clone)]
struct Table<K> {
    ids: HashMap<K, u32>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { ids: HashMap::new() }
    }
}

impl<K: Hash + Eq> Table<K> {
    fn id<Q>(&mut self, key: &Q) -> u32
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(&id) = self.ids.get(key) {
            return id;
        }
        // Nothing is ever removed, so the count is the next number.
        let id = self.ids.len() as u32;
        self.ids.insert(key.to_owned(), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_kinds_count_apart() {
        let mut interner = Interner::default();
        let web = interner.port("shop/web-0");
        assert_eq!(interner.port("shop/db-0"), PortId(1));
        assert_eq!(interner.port("shop/web-0"), web);
        assert_eq!(interner.segment("shop-0"), SegmentId(0));
        assert_eq!(interner.known_port("shop/db-0"), Some(PortId(1)));
        assert_eq!(interner.known_port("shop/cache-0"), None);
    }

    #[test]
    fn no_identity_is_the_unknown_one() {
        let mut interner = Interner::default();
        let range = Signature::Range("10.0.0.0/8".parse().unwrap());
        assert_ne!(interner.identity(&range), IdentityId::UNKNOWN);
        assert_eq!(interner.identity(&range), interner.identity(&range.clone()));
    }
}
