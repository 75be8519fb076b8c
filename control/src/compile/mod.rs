//! Model and addresses become a [`Snapshot`].
//!
//! One file a table. Everything is a function of (model, addressing, interner): the same input gives an equal
//! snapshot, whatever was compiled before, as long as the interner knew the same names. Generations are left at
//! their default; the dataplane fills them in when the snapshot is published.

mod error;
mod limits;
mod ports;
mod segments;
mod servers;
#[cfg(test)]
mod tests;
mod tier0;

pub use error::CompileError;
pub use segments::{NODES_SEGMENT, SHARED_TIER1, tier1_name};
pub(crate) use servers::{CLI_TOOLS, KUBE_API};
pub use servers::{Member, MemberState, ServerRole, ServerSpec, server_specs};

use crate::{
    intern::Interner,
    ipam::Addressing,
    model::{Model, Snat},
    place::Places,
    policy,
};
use std::{net::IpAddr, sync::Arc};
use supernet_dataplane::{
    id::Generation,
    snapshot::{Names, Namespace, Snapshot},
    table::lpm::Lpm,
};

/// Compiles one state of the network.
///
/// # Errors
/// See [`CompileError`]: references to what is not there, and names, addresses or MACs that clash.
pub fn compile(
    model: &Model,
    addressing: &Addressing,
    interner: &mut Interner,
) -> Result<Snapshot, CompileError> {
    let places = Places::of(model, addressing, interner)?;
    let mut names = Names::default();
    let namespaces = namespaces(model, addressing, interner, &mut names);
    let mut segments = segments::segments(model, addressing, interner, &mut names);
    let specs = server_specs(model, addressing, &places)?;
    let firewalls = policy::compile(model, addressing, &places, interner);
    let ports = ports::ports(model, addressing, &places, &firewalls, &mut segments, interner, &mut names)?;
    let tier0 = tier0::tier0(model, interner)?;
    let servers = servers::servers(model, addressing, &specs, interner, &mut names)?;
    let limits = limits::limits(model, &places, interner);
    names.rules = firewalls.rules.into_iter().collect();
    names.log_labels = firewalls.log_labels.into_iter().collect();
    Ok(Snapshot {
        generation: Generation::default(),
        ports: dense(ports.entries.into_iter().map(|p| (p.id.index(), p))),
        segments: dense(segments.into_iter().map(|s| (s.id.index(), s))),
        namespaces: dense(namespaces.into_iter().map(|n| (n.id.index(), n))),
        endpoints: ports.endpoints.into_iter().collect(),
        identities: firewalls.identities,
        servers,
        tier0,
        owned: owned(model, addressing),
        clamp_mss: model.supervisor.mss_clamping,
        has_staged: false,
        limits,
        names: Arc::new(names),
        egress: Default::default(),
        rows: Vec::new(),
        servers_since: Vec::new(),
        index: Default::default(),
    })
}

fn namespaces(
    model: &Model,
    addressing: &Addressing,
    interner: &mut Interner,
    names: &mut Names,
) -> Vec<Namespace> {
    let mut namespaces = Vec::new();
    for (name, namespace) in &model.namespaces {
        let id = interner.namespace(name);
        names.namespaces.insert(id, name.clone());
        let egress = addressing.egress.get(name).filter(|_| namespace.snat != Snat::None);
        let mut egress_v4 = None;
        let mut egress_v6 = None;
        for address in egress.into_iter().flatten() {
            match address {
                IpAddr::V4(v4) => egress_v4 = egress_v4.or(Some(*v4)),
                IpAddr::V6(v6) => egress_v6 = egress_v6.or(Some(*v6)),
            }
        }
        namespaces.push(Namespace { id, egress_v4, egress_v6, since: Generation::default() });
    }
    namespaces
}

/// Everything that belongs to this network, in use or not.
fn owned(model: &Model, addressing: &Addressing) -> Lpm<()> {
    let s = &model.supervisor;
    let pools = [&s.pod_cidrs, &s.service_cidrs, &s.ingress_cidrs, &s.egress_cidrs, &s.node_cidrs];
    let blocks =
        addressing.segments.iter().flat_map(|b| b.v4.map(Into::into).into_iter().chain(b.v6.map(Into::into)));
    pools.into_iter().flatten().map(|cidr| cidr.value).chain(blocks).map(|range| (range, ())).collect()
}

/// A table indexed by id.
fn dense<T>(parts: impl Iterator<Item = (usize, T)>) -> Vec<Option<Arc<T>>> {
    let mut table = Vec::new();
    for (at, part) in parts {
        if table.len() <= at {
            table.resize_with(at + 1, || None);
        }
        table[at] = Some(Arc::new(part));
    }
    table
}
