//! What the texts declare, before workloads become pods and references are looked up.

use super::{
    cluster::{IP_ANNOTATION, MTU_ANNOTATION, SNAT_ANNOTATION, SNAT_IP_ANNOTATION},
    error::Problem,
    limits::{CONNECTIONS_ANNOTATION, HALF_OPEN_ANNOTATION, RATE_ANNOTATION},
    policy::STAGED_ANNOTATION,
    reading::{Fields, Reading, either},
    schema::{self, Kind, Schema},
    syntax,
    workload::Workload,
    yaml::{Key, Node},
};
use crate::model::{
    AddressSet, At, EndpointSlice, IpFamily, Labels, Name, Namespace, NetworkPolicy, Node as ClusterNode,
    Pod, Position, Service, Supervisor, TieredPolicy,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Everything that was declared, each object once.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) supervisor: Option<Supervisor>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) nodes: Vec<ClusterNode>,
    pub(super) pods: Vec<DeclaredPod>,
    pub(super) workloads: Vec<Workload>,
    pub(super) services: Vec<DeclaredService>,
    pub(super) slices: Vec<EndpointSlice>,
    /// Objects of kind Endpoints. They are not read, but a Service may count on them.
    pub(super) endpoints: Vec<(Name, Position)>,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) tiered_policies: Vec<TieredPolicy>,
    pub(super) address_sets: Vec<AddressSet>,
    /// Who refers to which AddressSet, and where.
    pub(super) set_references: Vec<(String, String, Position)>,
    /// Workloads that have made something of what was declared. They are not expanded.
    pub(super) owners: BTreeSet<(Kind, Name)>,
    places: BTreeMap<(Kind, Name), Position>,
}

/// A pod, and what is known of its node.
#[derive(Debug)]
pub(super) struct DeclaredPod {
    pub(super) pod: Pod,
    /// Addresses that its status says its node has.
    pub(super) host_addresses: Vec<At<IpAddr>>,
}

/// A Service; its families depend on the Supervisor.
#[derive(Debug)]
pub(super) struct DeclaredService {
    pub(super) service: Service,
    pub(super) policy: FamilyPolicy,
    /// Addresses that its status says its load balancer has.
    pub(super) status_addresses: Vec<At<IpAddr>>,
}

/// `spec.ipFamilyPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FamilyPolicy {
    Single,
    Prefer,
    Require,
}

impl DeclaredService {
    /// The Service with its families filled in, in a cluster whose first family is `first`.
    pub(super) fn resolve(self, first: IpFamily) -> Service {
        let mut service = self.service;
        if self.policy != FamilyPolicy::Single {
            if service.families.is_empty() {
                service.families.push(first);
            }
            if let [one] = service.families[..] {
                service.families.push(if one == IpFamily::V4 { IpFamily::V6 } else { IpFamily::V4 });
            }
        }
        service
    }
}

impl Declared {
    /// Takes note that an object is declared at `at`. `false`, with an error noted, if it already was.
    pub(super) fn claim(&mut self, r: &mut Reading, kind: Kind, name: &Name, at: &Position) -> bool {
        if let Some(first) = self.places.get(&(kind, name.clone())) {
            let object = format!("{} {}", kind.name(), display(name));
            r.error(at.clone(), Problem::DuplicateObject { object, first: first.clone() });
            return false;
        }
        self.places.insert((kind, name.clone()), at.clone());
        true
    }

    /// Whether no object was declared.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether such an object was declared, be it usable or not.
    pub(super) fn has(&self, kind: Kind, name: &Name) -> bool {
        self.places.contains_key(&(kind, name.clone()))
    }
}

/// A name without the namespace that it does not have.
pub(super) fn display(name: &Name) -> String {
    if name.namespace.is_empty() { name.name.clone() } else { name.to_string() }
}

/// `metadata`.
#[derive(Debug)]
pub(super) struct Meta<'n> {
    /// The namespace is empty where the kind has none.
    pub(super) name: Name,
    pub(super) labels: Labels,
    pub(super) annotations: &'n [(Key, Node)],
    /// The workload that made this object.
    pub(super) owner: Option<(String, String)>,
    pub(super) uid: Option<String>,
    pub(super) terminating: bool,
}

/// Supernet's own annotations, and what each can stand on.
static OWN_ANNOTATIONS: [(&str, &[&Schema]); 8] = [
    (IP_ANNOTATION, &[&schema::POD, &schema::POD_TEMPLATE, &schema::NODE]),
    (CONNECTIONS_ANNOTATION, &[&schema::POD, &schema::POD_TEMPLATE, &schema::NAMESPACE]),
    (HALF_OPEN_ANNOTATION, &[&schema::POD, &schema::POD_TEMPLATE, &schema::NAMESPACE]),
    (RATE_ANNOTATION, &[&schema::POD, &schema::POD_TEMPLATE, &schema::NAMESPACE]),
    (MTU_ANNOTATION, &[&schema::NAMESPACE]),
    (SNAT_ANNOTATION, &[&schema::NAMESPACE]),
    (SNAT_IP_ANNOTATION, &[&schema::NAMESPACE]),
    (
        STAGED_ANNOTATION,
        &[
            &schema::NETWORK_POLICY,
            &schema::SECURITY_POLICY,
            &schema::CLUSTER_POLICY,
            &schema::ADMIN_POLICY,
            &schema::BASELINE_POLICY,
        ],
    ),
];

/// Whether objects of a kind lie in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Cluster,
    Namespace,
    /// Pod templates have no name of their own.
    Template,
}

impl<'n> Meta<'n> {
    /// Reads the metadata below an object's fields. `None` if it has no usable name.
    pub(super) fn read(
        r: &mut Reading,
        object: &Fields<'n>,
        scope: Scope,
        check: fn(&str) -> Result<(), &'static str>,
    ) -> Option<Self> {
        let meta = match scope {
            Scope::Template => r.sub(object, "metadata", &schema::METADATA),
            _ => match r.required(object, "metadata") {
                Some(node) => r.fields(node, &schema::METADATA),
                None => return None,
            },
        };
        let labels = r.labels_of(&meta, "labels");
        let annotations = meta.get("annotations").map_or(&[][..], |n| r.map(n));
        check_annotations(r, object.owner, annotations);
        let uid = r.text_of(&meta, "uid").map(str::to_owned);
        let terminating = meta.get("deletionTimestamp").is_some();
        let owner = owner(r, &meta);
        let name = match scope {
            Scope::Template => Some(""),
            _ => match (meta.get("name"), meta.get("generateName")) {
                (None, Some(node)) => {
                    let advice = "write metadata.name, so that the same text gives the same network";
                    r.invalid(node.place, "generateName gives a new name every time", advice);
                    None
                }
                _ => r.required(&meta, "name").and_then(|n| r.checked_text(n, "a name", check)),
            },
        };
        let namespace = match (scope, meta.filled("namespace")) {
            (Scope::Namespace, Some(n)) => r.checked_text(n, "the name of a namespace", syntax::dns_label),
            (Scope::Namespace, None) => Some("default"),
            _ => Some(""),
        };
        let name = Name::new(namespace?, name?);
        Some(Self { name, labels, annotations, owner, uid, terminating })
    }

    /// An annotation that is "true" or "false".
    pub(super) fn flag(&self, r: &mut Reading, key: &str) -> Option<bool> {
        let node = self.annotation(key)?;
        r.word(node, &[("true", true), ("false", false), ("True", true), ("False", false)])
    }

    /// An annotation's value.
    pub(super) fn annotation(&self, key: &str) -> Option<&'n Node> {
        self.annotations.iter().find(|(k, _)| k.text == key).map(|(_, v)| v)
    }
}

/// Annotations are free for all, but for those of Supernet's own prefix: one that nobody reads is a slip.
fn check_annotations(r: &mut Reading, owner: &str, annotations: &[(Key, Node)]) {
    let stands_on = |owners: &[&Schema]| owners.iter().any(|s| s.owner == owner);
    for (key, _) in annotations.iter().filter(|(k, _)| k.text.starts_with("supernet.dev/")) {
        let here: Vec<&str> =
            OWN_ANNOTATIONS.iter().filter(|(_, owners)| stands_on(owners)).map(|(name, _)| *name).collect();
        let advice = match OWN_ANNOTATIONS.iter().find(|(name, _)| *name == key.text) {
            Some((_, owners)) if stands_on(owners) => continue,
            Some((_, owners)) => {
                let owners: Vec<&str> = owners.iter().map(|s| s.owner).collect();
                format!("it belongs on {}", either(&owners))
            }
            None => match syntax::closest(&key.text, here.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if here.is_empty() => "remove it".to_owned(),
                None => format!("use {}, or remove it", either(&here)),
            },
        };
        r.invalid(key.place, format!("unknown annotation `{}` on {owner}", key.text), advice);
    }
}

fn owner(r: &mut Reading, meta: &Fields<'_>) -> Option<(String, String)> {
    let mut found = None;
    for node in r.list(meta, "ownerReferences") {
        let reference = r.fields(node, &schema::OWNER_REFERENCE);
        let controls = r.bool_of(&reference, "controller");
        let (kind, name) = (r.text_of(&reference, "kind"), r.text_of(&reference, "name"));
        if let (Some(kind), Some(name)) = (kind, name)
            && (controls == Some(true) || found.is_none())
        {
            found = Some((kind.to_owned(), name.to_owned()));
        }
    }
    found
}
