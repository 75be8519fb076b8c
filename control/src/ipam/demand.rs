//! What a model asks for: one demand for each address that somebody is to have.
//!
//! Demands are in the order in which pools are handed out: the default virtual servers, nodes, Services,
//! namespaces, pods; within each by name. An owner's addresses stand together, its primary first.

use super::{
    error::{IpamError, Refusal},
    pool::{PoolKind, Pools},
};
use crate::{
    model::{At, DefaultServer, IpFamily, Model, Pod, Position, Service, ServiceKind, Snat},
    store::Owner,
};
use std::{collections::BTreeMap, net::IpAddr};

/// One address for somebody.
#[derive(Debug)]
pub(super) struct Demand<'a> {
    pub(super) owner: Owner,
    pub(super) family: IpFamily,
    pub(super) source: Source,
    /// The address asked for; without it, any will do.
    pub(super) asked: Option<&'a At<IpAddr>>,
    /// Where the owner was written.
    pub(super) at: &'a Position,
    /// The answer, as soon as there is one.
    pub(super) given: Option<IpAddr>,
    /// Whether there was an error about it, so that no other address is tried.
    pub(super) failed: bool,
}

/// Where the address may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A pool.
    Pool(PoolKind),
    /// Anywhere: a node's address is as it is written.
    Written,
    /// A block of the pod's namespace or, if asked for, anywhere.
    Segment,
}

impl<'a> Demand<'a> {
    fn new(owner: Owner, family: IpFamily, source: Source, at: &'a Position) -> Self {
        Self { owner, family, source, asked: None, at, given: None, failed: false }
    }

    pub(super) fn is_open(&self) -> bool {
        self.given.is_none() && !self.failed
    }

    /// Where to point when it cannot be met.
    pub(super) fn wanted_at(&self) -> &'a Position {
        self.asked.map_or(self.at, |asked| &asked.at)
    }

    /// Gives up, and says why; nothing if no particular address was asked for.
    pub(super) fn refused(&mut self, reason: Refusal) -> Option<IpamError> {
        self.failed = true;
        let asked = self.asked?;
        Some(refused(&self.owner, asked, reason))
    }
}

/// Demands for everything but pods.
pub(super) fn of_pools<'a>(model: &'a Model, pools: &Pools, errors: &mut Vec<IpamError>) -> Vec<Demand<'a>> {
    let mut all = Vec::new();
    let supervisor = &model.supervisor;
    for (owner, server) in [(Owner::KubeApi, &supervisor.kube_api), (Owner::CliTools, &supervisor.cli_tools)]
    {
        let at = server_at(server, &supervisor.at);
        all.extend(per_family(owner, PoolKind::Ingress, pools, server.address.as_slice(), at, errors));
    }
    nodes(model, pools, errors, &mut all);
    for service in model.services.values() {
        of_service(service, pools, errors, &mut all);
    }
    for namespace in model.namespaces.values() {
        let asked: &[At<IpAddr>] = match &namespace.snat {
            Snat::None => continue,
            Snat::Pool => &[],
            Snat::Static(addresses) => addresses,
        };
        let owner = Owner::Egress(namespace.name.clone());
        all.extend(per_family(owner, PoolKind::Egress, pools, asked, &namespace.at, errors));
    }
    all
}

/// A pod's demands: an address of each family that pods have, those asked for first.
pub(super) fn of_pod<'a>(pod: &'a Pod, pools: &Pools, errors: &mut Vec<IpamError>) -> Vec<Demand<'a>> {
    let owner = Owner::Pod(pod.name.clone());
    let mut families: Vec<IpFamily> = pod.addresses.iter().map(|a| IpFamily::of(a.value)).collect();
    families.extend(pools.families(PoolKind::Pods));
    demands(owner, &families, Source::Segment, &pod.addresses, &pod.at, errors)
}

fn nodes<'a>(model: &'a Model, pools: &Pools, errors: &mut Vec<IpamError>, all: &mut Vec<Demand<'a>>) {
    if model.nodes.is_empty() {
        for i in 1..=model.supervisor.node_count {
            let owner = Owner::Node(format!("node-{i}"));
            all.extend(per_family(owner, PoolKind::Nodes, pools, &[], &model.supervisor.at, errors));
        }
    }
    for node in model.nodes.values() {
        let owner = Owner::Node(node.name.clone());
        if node.addresses.is_empty() {
            all.extend(per_family(owner.clone(), PoolKind::Nodes, pools, &[], &node.at, errors));
        }
        for (i, address) in node.addresses.iter().enumerate() {
            if !node.addresses[..i].contains(address) {
                let family = IpFamily::of(address.value);
                let demand = Demand::new(owner.clone(), family, Source::Written, &node.at);
                all.push(Demand { asked: Some(address), ..demand });
            }
        }
    }
}

fn of_service<'a>(
    service: &'a Service,
    pools: &Pools,
    errors: &mut Vec<IpamError>,
    all: &mut Vec<Demand<'a>>,
) {
    let external = match service.kind {
        ServiceKind::ClusterIp | ServiceKind::NodePort => false,
        ServiceKind::LoadBalancer => true,
        ServiceKind::Headless | ServiceKind::ExternalName => return,
    };
    let families = families_of(service, pools);
    let mut give = |owner, kind, asked: &'a [At<IpAddr>]| {
        // PreferDualStack takes what there is; if that is nothing, the error names what it would have liked.
        let there: Vec<IpFamily> =
            families.iter().copied().filter(|f| pools.get(kind, *f).is_some()).collect();
        let families = if service.prefer_dual_stack && !there.is_empty() { &there } else { &families };
        all.extend(demands(owner, families, Source::Pool(kind), asked, &service.at, errors));
    };
    give(Owner::ClusterIp(service.name.clone()), PoolKind::Services, &service.cluster_ips);
    if external {
        give(Owner::Ingress(service.name.clone()), PoolKind::Ingress, service.load_balancer_ip.as_slice());
    }
}

/// The families of a Service: those it names, else those of the addresses it names, else the cluster's first.
fn families_of(service: &Service, pools: &Pools) -> Vec<IpFamily> {
    if !service.families.is_empty() {
        service.families.clone()
    } else if !service.cluster_ips.is_empty() {
        service.cluster_ips.iter().map(|a| IpFamily::of(a.value)).collect()
    } else {
        let first = pools.families(PoolKind::Services).chain(pools.families(PoolKind::Pods)).next();
        vec![first.unwrap_or(IpFamily::V4)]
    }
}

/// Demands for an address of each family that the pool has. One that it lacks is an error only if asked for.
fn per_family<'a>(
    owner: Owner,
    kind: PoolKind,
    pools: &Pools,
    asked: &'a [At<IpAddr>],
    at: &'a Position,
    errors: &mut Vec<IpamError>,
) -> Vec<Demand<'a>> {
    let mut families: Vec<IpFamily> = pools.families(kind).collect();
    families.extend(asked.iter().map(|a| IpFamily::of(a.value)));
    if families.is_empty() && kind == PoolKind::Nodes {
        // A node cannot do without: this makes the error.
        families.extend(pools.families(PoolKind::Pods).take(1));
    }
    demands(owner, &families, Source::Pool(kind), asked, at, errors)
}

/// A demand of each family, in this order and without repetition.
fn demands<'a>(
    owner: Owner,
    families: &[IpFamily],
    source: Source,
    asked: &'a [At<IpAddr>],
    at: &'a Position,
    errors: &mut Vec<IpamError>,
) -> Vec<Demand<'a>> {
    let mut by_family = BTreeMap::new();
    for address in asked {
        let family = IpFamily::of(address.value);
        if !families.contains(&family) {
            errors.push(refused(&owner, address, Refusal::WrongFamily { family }));
        } else if by_family.insert(family, address).is_some_and(|other| other != address) {
            errors.push(refused(&owner, address, Refusal::SecondOfFamily { family }));
        }
    }
    let mut all: Vec<Demand<'a>> = Vec::new();
    for family in families {
        if !all.iter().any(|d| d.family == *family) {
            let demand = Demand::new(owner.clone(), *family, source, at);
            all.push(Demand { asked: by_family.get(family).copied(), ..demand });
        }
    }
    all
}

fn refused(owner: &Owner, asked: &At<IpAddr>, reason: Refusal) -> IpamError {
    IpamError::Refused { at: asked.at.clone(), owner: owner.clone(), address: asked.value, reason }
}

fn server_at<'a>(server: &'a DefaultServer, supervisor: &'a Position) -> &'a Position {
    server.address.as_ref().map_or(supervisor, |a| &a.at)
}
