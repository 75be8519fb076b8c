//! Who can open connections and be reached, as the firewall sees them: pods one by one, and nodes.

use super::judge::{Guard, place_of};
use crate::{
    compile::{CLI_TOOLS, KUBE_API, ServerRole, ServerSpec},
    model::{IpFamily, Name},
    place::Places,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};
use supernet_dataplane::{
    id::IdentityId,
    snapshot::{EndpointPort, PortRole, Snapshot},
};

/// How the firewall sees an end.
#[derive(Debug, Clone)]
pub(super) struct Standing<'a> {
    /// What it is called in each family that it has; the primary address of a family speaks for it.
    pub(super) identities: BTreeMap<IpFamily, IdentityId>,
    /// What guards what it sends.
    pub(super) egress: Guard<'a>,
    /// What guards what reaches it.
    pub(super) ingress: Guard<'a>,
}

/// What makes one end differ from another to the firewall.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Class {
    pub(super) identities: BTreeMap<IpFamily, IdentityId>,
    pub(super) egress: usize,
    pub(super) ingress: usize,
}

impl<'a> Standing<'a> {
    /// Of the workload that has these addresses.
    pub(super) fn of(snapshot: &'a Snapshot, addresses: &[IpAddr]) -> Self {
        let port = endpoint(snapshot, addresses);
        Self {
            identities: addresses
                .iter()
                .rev()
                .map(|a| (IpFamily::of(*a), snapshot.identities.of(*a)))
                .collect(),
            egress: port.and_then(|p| p.egress.as_deref()),
            ingress: port.and_then(|p| p.ingress.as_deref()),
        }
    }

    /// Of an address outside.
    pub(super) fn outside(identities: BTreeMap<IpFamily, IdentityId>) -> Self {
        Self { identities, egress: None, ingress: None }
    }

    pub(super) fn class(&self) -> Class {
        Class {
            identities: self.identities.clone(),
            egress: place_of(self.egress),
            ingress: place_of(self.ingress),
        }
    }
}

/// The workload's port that has one of these addresses.
pub(super) fn endpoint<'a>(snapshot: &'a Snapshot, addresses: &[IpAddr]) -> Option<&'a EndpointPort> {
    let id = addresses.iter().find_map(|a| snapshot.endpoints.get(a))?;
    match &snapshot.ports.get(id.index())?.as_ref()?.role {
        PortRole::Endpoint(endpoint) => Some(endpoint),
        PortRole::Uplink(_) => None,
    }
}

/// A workload: a namespace, and what pods of it were made from ("deployment/web", or a single pod's name).
pub(super) type Workload<'a> = (&'a str, &'a str);

/// Pods with a network of their own, by workload, in the order of their names.
pub(super) fn workloads<'a>(places: &Places<'a>) -> BTreeMap<Workload<'a>, Vec<&'a Name>> {
    let mut workloads: BTreeMap<Workload<'_>, Vec<&Name>> = BTreeMap::new();
    for (&name, place) in places.pods.iter().filter(|(_, p)| p.segment.is_some()) {
        let owner = place.pod.owner.as_deref().unwrap_or(&name.name);
        workloads.entry((&name.namespace, owner)).or_default().push(name);
    }
    workloads
}

/// What workloads are called: "deployment/web" is "web" unless another workload, or pod, is called so too.
pub(super) struct Callings<'a> {
    called: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Callings<'a> {
    /// For these workloads, each given once.
    pub(super) fn of(workloads: impl Iterator<Item = Workload<'a>>) -> Self {
        let mut called = HashMap::new();
        for (namespace, owner) in workloads {
            *called.entry((namespace, short(owner))).or_default() += 1;
        }
        Self { called }
    }

    /// What one of them is called within its namespace.
    pub(super) fn call(&self, (namespace, owner): Workload<'a>) -> &'a str {
        if self.called.get(&(namespace, short(owner))) == Some(&1) { short(owner) } else { owner }
    }
}

fn short(owner: &str) -> &str {
    owner.rsplit('/').next().unwrap_or_default()
}

/// What those of a workload's pods that are alike are called together: the workload if they are all there are.
pub(super) fn call_some(namespace: &str, workload: &str, first: &str, some: usize, all: usize) -> String {
    match some {
        _ if some == all => format!("{namespace}/{workload}"),
        1 => first.to_owned(),
        _ => format!("{first} and {} more of {workload}", some - 1),
    }
}

/// What statements and tables call the Service of a virtual server: "shop/svc/web", "kube-api".
pub(super) fn server_name(server: &ServerSpec) -> String {
    match (&server.service, server.role) {
        (Some(service), _) => format!("{}/svc/{}", service.namespace, service.name),
        (None, ServerRole::KubeApi) => KUBE_API.to_owned(),
        (None, _) => CLI_TOOLS.to_owned(),
    }
}
