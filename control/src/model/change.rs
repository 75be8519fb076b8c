//! The whole desired state, and steps from one state to the next.

use super::{
    AddressSet, EndpointSlice, Labels, LimitSettings, Name, Namespace, NetworkPolicy, Node, Peer, Pod,
    Position, Service, Snat, Supervisor, TieredPolicy,
};
use std::{collections::BTreeMap, fmt};

/// Everything that was declared. Keys and the objects' names agree; every namespace that an object lies in is
/// there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// The Supervisor; [`Supervisor::default`] when none was declared.
    pub supervisor: Supervisor,
    /// Namespaces.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Nodes; empty: the Supervisor's count of them is made.
    pub nodes: BTreeMap<String, Node>,
    /// Pods.
    pub pods: BTreeMap<Name, Pod>,
    /// Services.
    pub services: BTreeMap<Name, Service>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<Name, EndpointSlice>,
    /// NetworkPolicies.
    pub policies: BTreeMap<Name, NetworkPolicy>,
    /// Policies of administrators.
    pub tiered_policies: BTreeMap<ObjectId, TieredPolicy>,
    /// Sets of addresses that rules refer to.
    pub address_sets: BTreeMap<String, AddressSet>,
}

/// An object of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The Supervisor.
    Supervisor(Supervisor),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// A policy of an administrator: SecurityPolicy, ClusterNetworkPolicy, AdminNetworkPolicy,
    /// BaselineAdminNetworkPolicy.
    TieredPolicy(TieredPolicy),
    /// An AddressSet.
    AddressSet(AddressSet),
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum ObjectKind {
    Supervisor,
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    SecurityPolicy,
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    AddressSet,
}

impl ObjectKind {
    /// The kinds that are a [`TieredPolicy`].
    pub const TIERED: [Self; 4] = [
        Self::SecurityPolicy,
        Self::ClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
    ];
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Names one object. The namespace is empty for kinds that have none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: Name,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name.name)
        } else {
            write!(f, "{} {}", self.kind, self.name)
        }
    }
}

macro_rules! object_from {
    ($($kind:ident),+) => {
        $(impl From<$kind> for Object {
            fn from(o: $kind) -> Self {
                Self::$kind(o)
            }
        })+
    };
}
object_from!(
    Supervisor,
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    TieredPolicy,
    AddressSet
);

impl Object {
    /// Its kind and name.
    pub fn id(&self) -> ObjectId {
        let (kind, name) = match self {
            Self::Supervisor(o) => (ObjectKind::Supervisor, Name::new("", &o.name)),
            Self::Namespace(o) => (ObjectKind::Namespace, Name::new("", &o.name)),
            Self::Node(o) => (ObjectKind::Node, Name::new("", &o.name)),
            Self::Pod(o) => (ObjectKind::Pod, o.name.clone()),
            Self::Service(o) => (ObjectKind::Service, o.name.clone()),
            Self::EndpointSlice(o) => (ObjectKind::EndpointSlice, o.name.clone()),
            Self::NetworkPolicy(o) => (ObjectKind::NetworkPolicy, o.name.clone()),
            Self::TieredPolicy(o) => return o.id.clone(),
            Self::AddressSet(o) => (ObjectKind::AddressSet, Name::new("", &o.name)),
        };
        ObjectId { kind, name }
    }

    /// Where it was written.
    pub fn at(&self) -> &Position {
        match self {
            Self::Supervisor(o) => &o.at,
            Self::Namespace(o) => &o.at,
            Self::Node(o) => &o.at,
            Self::Pod(o) => &o.at,
            Self::Service(o) => &o.at,
            Self::EndpointSlice(o) => &o.at,
            Self::NetworkPolicy(o) => &o.at,
            Self::TieredPolicy(o) => &o.at,
            Self::AddressSet(o) => &o.at,
        }
    }
}

/// Steps that are taken all together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Objects that are created, or replaced if they exist.
    pub upsert: Vec<Object>,
    /// Objects that are removed.
    pub delete: Vec<ObjectId>,
}

impl Change {
    /// Creates or replaces one object.
    pub fn upsert(object: impl Into<Object>) -> Self {
        Self { upsert: vec![object.into()], delete: Vec::new() }
    }

    /// Removes one object.
    pub fn delete(kind: ObjectKind, name: Name) -> Self {
        Self { upsert: Vec::new(), delete: vec![ObjectId { kind, name }] }
    }

    /// Also takes the steps of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.upsert.extend(other.upsert);
        self.delete.extend(other.delete);
        self
    }
}

/// A change that contradicts the model it is made to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Removes what is not there.
    #[error("{0} does not exist, so it cannot be removed")]
    Missing(ObjectId),
    /// Removes a namespace that something still lies in.
    #[error("namespace {0} still holds {1}; remove that first")]
    NamespaceInUse(String, ObjectId),
    /// A rule refers to an AddressSet that would not be there.
    #[error("{0} refers to AddressSet {1}, which would not be there; remove or change that policy first")]
    NoAddressSet(ObjectId, String),
    /// Removes the Supervisor.
    #[error("the Supervisor cannot be removed, only replaced")]
    NoSupervisor,
}

impl Model {
    /// The model after `change`; `self` is left as it is. Namespaces that objects mention are made.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn with(&self, change: Change) -> Result<Self, ModelError> {
        let mut next = self.clone();
        for object in change.upsert {
            next.insert(object);
        }
        for id in change.delete {
            next.remove(&id)?;
        }
        next.check_address_sets()?;
        Ok(next)
    }

    /// Every AddressSet that a rule refers to is there: without it the rule would be about nobody, or everybody.
    fn check_address_sets(&self) -> Result<(), ModelError> {
        for (id, policy) in &self.tiered_policies {
            let ends = policy
                .rules
                .iter()
                .flat_map(|rule| rule.sources.peers.iter().chain(&rule.destinations.peers));
            for peer in ends {
                if let Peer::Set(name) = peer
                    && !self.address_sets.contains_key(name)
                {
                    return Err(ModelError::NoAddressSet(id.clone(), name.clone()));
                }
            }
        }
        Ok(())
    }

    /// Creates or replaces one object, and makes its namespace if need be.
    pub fn insert(&mut self, object: Object) {
        let id = object.id();
        if !id.name.namespace.is_empty() && !self.namespaces.contains_key(&id.name.namespace) {
            let namespace = Namespace::named(&id.name.namespace, object.at().clone());
            self.namespaces.insert(namespace.name.clone(), namespace);
        }
        let name = id.name;
        match object {
            Object::Supervisor(o) => self.supervisor = o,
            Object::Namespace(mut o) => {
                o.labels.insert(Namespace::NAME_LABEL.to_owned(), o.name.clone());
                self.namespaces.insert(name.name, o);
            }
            Object::Node(o) => drop(self.nodes.insert(name.name, o)),
            Object::Pod(o) => drop(self.pods.insert(name, o)),
            Object::Service(o) => drop(self.services.insert(name, o)),
            Object::EndpointSlice(o) => drop(self.endpoint_slices.insert(name, o)),
            Object::NetworkPolicy(o) => drop(self.policies.insert(name, o)),
            Object::TieredPolicy(o) => drop(self.tiered_policies.insert(o.id.clone(), o)),
            Object::AddressSet(o) => drop(self.address_sets.insert(name.name, o)),
        }
    }

    fn remove(&mut self, id: &ObjectId) -> Result<(), ModelError> {
        let name = &id.name;
        let there = match id.kind {
            ObjectKind::Supervisor => return Err(ModelError::NoSupervisor),
            ObjectKind::Namespace => {
                if let Some(user) = self.first_in(&name.name) {
                    return Err(ModelError::NamespaceInUse(name.name.clone(), user));
                }
                self.namespaces.remove(&name.name).is_some()
            }
            ObjectKind::Node => self.nodes.remove(&name.name).is_some(),
            ObjectKind::Pod => self.pods.remove(name).is_some(),
            ObjectKind::Service => self.services.remove(name).is_some(),
            ObjectKind::EndpointSlice => self.endpoint_slices.remove(name).is_some(),
            ObjectKind::NetworkPolicy => self.policies.remove(name).is_some(),
            ObjectKind::SecurityPolicy
            | ObjectKind::ClusterNetworkPolicy
            | ObjectKind::AdminNetworkPolicy
            | ObjectKind::BaselineAdminNetworkPolicy => self.tiered_policies.remove(id).is_some(),
            ObjectKind::AddressSet => self.address_sets.remove(&name.name).is_some(),
        };
        if there { Ok(()) } else { Err(ModelError::Missing(id.clone())) }
    }

    fn first_in(&self, namespace: &str) -> Option<ObjectId> {
        let find = |kind, name: Option<&Name>| name.map(|n| ObjectId { kind, name: n.clone() });
        let in_ns = |n: &&Name| n.namespace == namespace;
        find(ObjectKind::Pod, self.pods.keys().find(in_ns))
            .or_else(|| find(ObjectKind::Service, self.services.keys().find(in_ns)))
            .or_else(|| find(ObjectKind::EndpointSlice, self.endpoint_slices.keys().find(in_ns)))
            .or_else(|| find(ObjectKind::NetworkPolicy, self.policies.keys().find(in_ns)))
    }
}

impl Namespace {
    /// The label that every namespace carries, with its name as the value.
    pub const NAME_LABEL: &'static str = "kubernetes.io/metadata.name";

    /// A namespace with nothing but its name.
    pub fn named(name: &str, at: Position) -> Self {
        let labels = Labels::from([(Self::NAME_LABEL.to_owned(), name.to_owned())]);
        Self {
            name: name.to_owned(),
            labels,
            snat: Snat::Pool,
            mtu: None,
            limits: LimitSettings::default(),
            at,
        }
    }
}
