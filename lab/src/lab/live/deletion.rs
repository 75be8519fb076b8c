//! What is to be deleted of a network, and what of it is not there.

use super::wire;
use std::{collections::BTreeSet, fmt};
use supernet::control::{
    manifests::WorkloadId,
    model::{Model, Name, ObjectId, ObjectKind},
};

/// What is not there to be deleted.
pub(super) enum Missing {
    Workload(WorkloadId),
    Object(ObjectId),
}

impl Missing {
    pub(super) fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Workload(_) => None,
            Self::Object(id) => Some(id),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(workload) => write!(f, "{} in namespace {}", workload.owner, workload.namespace),
            Self::Object(id) => write!(f, "{id}"),
        }
    }
}

/// What is to be deleted, and what is not there.
pub(super) struct Deletion<'a> {
    base: &'a Model,
    all: BTreeSet<ObjectId>,
    pub(super) missing: Vec<Missing>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Deletion<'a> {
    pub(super) fn of(base: &'a Model) -> Self {
        Self { base, all: BTreeSet::new(), missing: Vec::new(), warnings: Vec::new() }
    }

    /// A workload goes with its pods.
    pub(super) fn workload(&mut self, workload: &WorkloadId) {
        let pods = self.base.pods.values().filter(|pod| workload.owns(pod));
        let ids: Vec<ObjectId> =
            pods.map(|p| ObjectId { kind: ObjectKind::Pod, name: p.name.clone() }).collect();
        if ids.is_empty() {
            self.missing.push(Missing::Workload(workload.clone()));
        }
        self.all.extend(ids);
    }

    pub(super) fn keep_supervisor(&mut self) {
        self.warnings.push("the Supervisor stays: a lab can't be without one".to_owned());
    }

    /// An object; a namespace goes with all that lies in it.
    pub(super) fn object(&mut self, id: ObjectId) {
        let (base, name) = (self.base, &id.name);
        let there = match id.kind {
            ObjectKind::Supervisor => return self.keep_supervisor(),
            ObjectKind::Namespace => {
                self.all.extend(inside(base, &name.name));
                base.namespaces.contains_key(&name.name)
            }
            ObjectKind::Node => base.nodes.contains_key(&name.name),
            ObjectKind::Pod => base.pods.contains_key(name),
            ObjectKind::Service => base.services.contains_key(name),
            ObjectKind::EndpointSlice => base.endpoint_slices.contains_key(name),
            ObjectKind::NetworkPolicy => base.policies.contains_key(name),
            ObjectKind::SecurityPolicy
            | ObjectKind::ClusterNetworkPolicy
            | ObjectKind::AdminNetworkPolicy
            | ObjectKind::BaselineAdminNetworkPolicy => base.tiered_policies.contains_key(&id),
            ObjectKind::AddressSet => base.address_sets.contains_key(&name.name),
        };
        if there {
            self.all.insert(id);
        } else {
            self.missing.push(Missing::Object(id));
        }
    }

    pub(super) fn target(&mut self, target: &wire::Target) {
        let name = Name::new(&target.namespace, &target.name);
        let kind = match &*target.kind {
            "Namespace" => ObjectKind::Namespace,
            "Node" => ObjectKind::Node,
            "Pod" => ObjectKind::Pod,
            "Service" => ObjectKind::Service,
            "EndpointSlice" => ObjectKind::EndpointSlice,
            "NetworkPolicy" => ObjectKind::NetworkPolicy,
            "SecurityPolicy" => ObjectKind::SecurityPolicy,
            "ClusterNetworkPolicy" => ObjectKind::ClusterNetworkPolicy,
            "AdminNetworkPolicy" => ObjectKind::AdminNetworkPolicy,
            "BaselineAdminNetworkPolicy" => ObjectKind::BaselineAdminNetworkPolicy,
            "AddressSet" => ObjectKind::AddressSet,
            workload => {
                let owner = format!("{}/{}", workload.to_lowercase(), name.name);
                return self.workload(&WorkloadId { namespace: name.namespace, owner });
            }
        };
        self.object(ObjectId { kind, name });
    }

    /// All of them, namespaces after what lies in them.
    pub(super) fn ids(self) -> Vec<ObjectId> {
        let (namespaces, mut others): (Vec<ObjectId>, Vec<ObjectId>) =
            self.all.into_iter().partition(|id| id.kind == ObjectKind::Namespace);
        others.extend(namespaces);
        others
    }
}

/// Everything in a namespace.
fn inside<'a>(model: &'a Model, namespace: &'a str) -> impl Iterator<Item = ObjectId> + 'a {
    let pods = model.pods.keys().map(|n| (ObjectKind::Pod, n));
    let services = model.services.keys().map(|n| (ObjectKind::Service, n));
    let slices = model.endpoint_slices.keys().map(|n| (ObjectKind::EndpointSlice, n));
    let policies = model.policies.keys().map(|n| (ObjectKind::NetworkPolicy, n));
    let all = pods.chain(services).chain(slices).chain(policies);
    all.filter(move |(_, n)| n.namespace == namespace).map(|(kind, n)| ObjectId { kind, name: n.clone() })
}
