//! One plan: from a model and the leases that are, to the leases that will be.
//!
//! 1. Whoever is still there keeps what it had, where that still fits.
//! 2. Addresses that were asked for are given or refused, all of them before step 3, so that no automatic
//!    assignment takes one of them.
//! 3. The rest is given from the pools, lowest first.

use super::{
    addressing::{Addressing, PodAddresses},
    demand::{self, Demand, Source},
    error::{IpamError, IpamErrors, Refusal, Shortage},
    pool::{Place, PoolKind, Pools},
    segment::{self, Segments},
    table::Table,
};
use crate::{
    model::{IpFamily, Model, Position},
    store::{LeaseTable, Owner, UnixSeconds},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Computes the next leases and what they mean. Changes nothing.
pub(super) fn plan(
    model: &Model,
    old: &LeaseTable,
    now: UnixSeconds,
    busy: &BTreeSet<IpAddr>,
) -> Result<(LeaseTable, Addressing), IpamErrors> {
    let mut errors = Vec::new();
    let mut pools = Pools::new(&model.supervisor);
    let mut table = Table::new(old, fixed(model), now, busy);
    let mut segments = Segments::new(&model.supervisor, &pools, &mut errors);
    let mut demands = demand::of_pools(model, &pools, &mut errors);
    let mut pods = Vec::new();
    for pod in model.pods.values().filter(|p| !p.host_network) {
        pods.extend(demand::of_pod(pod, &pools, &mut errors));
    }

    keep(&mut demands, &pools, &mut table);
    segments.restore(model, &mut table, &mut pods);

    ask(&mut demands, &pools, &mut table, &mut errors);
    ask(&mut pods, &pools, &mut table, &mut errors);
    segments.note_footholds(&table);

    let mut short = Short::default();
    assign(&mut demands, &mut pools, &mut table, &mut short);
    for (namespace, family) in segments.complete(&mut table) {
        let at = model.namespaces.get(&namespace).map_or(&model.supervisor.at, |n| &n.at);
        short.add(PoolKind::Pods, family, &Owner::segment(namespace, 0), at);
    }
    // Blocks that are too small are an error of their own.
    if !errors.iter().any(|e| matches!(e, IpamError::BlockTooSmall { .. })) {
        for pod in pods.chunk_by_mut(|a, b| a.owner == b.owner) {
            if let Err(family) = segments.assign(&mut table, pod)
                && let Some(first) = pod.first()
            {
                short.add(PoolKind::Pods, family, &first.owner, first.at);
            }
        }
    }
    short.into_errors(model, &pools, &table, &mut errors);

    if errors.is_empty() {
        let addressing = addressing(&demands, &pods, segments);
        Ok((table.into_leases(), addressing))
    } else {
        Err(IpamErrors(errors))
    }
}

/// Addresses that belong to the uplinks and beyond: nobody is given one of them.
fn fixed(model: &Model) -> BTreeMap<IpAddr, String> {
    let mut fixed = BTreeMap::new();
    for route in &model.supervisor.static_routes {
        for hop in &route.next_hops {
            fixed.insert(hop.address.value, format!("the next hop of {}", route.prefix.value));
        }
    }
    for uplink in &model.supervisor.uplinks {
        for address in &uplink.addresses {
            fixed.insert(address.value.addr(), format!("uplink {}", uplink.name));
        }
    }
    fixed
}

fn keep(demands: &mut [Demand<'_>], pools: &Pools, table: &mut Table<'_>) {
    for demand in demands {
        let fits = |address: IpAddr| {
            demand.asked.is_none_or(|asked| asked.value == address)
                && place(demand, address, pools).is_ok()
                && table.is_free(&demand.owner, address)
        };
        let former = table.former(&demand.owner).iter().map(IpNet::addr);
        if let Some(address) = former.filter(|a| IpFamily::of(*a) == demand.family).find(|a| fits(*a)) {
            table.take(address.into(), demand.owner.clone());
            demand.given = Some(address);
        }
    }
}

fn ask(demands: &mut [Demand<'_>], pools: &Pools, table: &mut Table<'_>, errors: &mut Vec<IpamError>) {
    for demand in demands.iter_mut().filter(|d| d.is_open()) {
        let Some(asked) = demand.asked.map(|a| a.value) else { continue };
        // A family without a pool is reported by `assign`, once for all who ask.
        if let Source::Pool(kind) = demand.source
            && pools.get(kind, demand.family).is_none()
        {
            continue;
        }
        let refusal = place(demand, asked, pools).err().or_else(|| table.refusal(&demand.owner, asked));
        match refusal {
            None => {
                table.take(asked.into(), demand.owner.clone());
                demand.given = Some(asked);
            }
            Some(refusal) => errors.extend(demand.refused(refusal)),
        }
    }
}

fn assign(demands: &mut [Demand<'_>], pools: &mut Pools, table: &mut Table<'_>, short: &mut Short) {
    for demand in demands.iter_mut().filter(|d| d.is_open()) {
        let Source::Pool(kind) = demand.source else { continue };
        let pool = pools.get_mut(kind, demand.family);
        match pool.and_then(|p| p.next(|a| table.is_free(&demand.owner, a))) {
            Some(address) => {
                table.take(address.into(), demand.owner.clone());
                demand.given = Some(address);
            }
            None => short.add(kind, demand.family, &demand.owner, demand.wanted_at()),
        }
    }
}

/// Whether a demand may be met with an address, as far as pools are concerned.
fn place(demand: &Demand<'_>, address: IpAddr, pools: &Pools) -> Result<(), Refusal> {
    match demand.source {
        Source::Pool(kind) => {
            let Some(pool) = pools.get(kind, demand.family) else {
                return Err(Refusal::NotInPool { pool: kind.to_string(), kind });
            };
            match pool.place(address) {
                Place::Usable => Ok(()),
                Place::Reserved(role, net) => Err(Refusal::Reserved { role, net }),
                Place::Outside => Err(Refusal::NotInPool { pool: pool.to_string(), kind }),
            }
        }
        Source::Written | Source::Segment if !is_unicast(address) => Err(Refusal::NotUnicast),
        Source::Written | Source::Segment => {
            match pools.find(&[PoolKind::Services, PoolKind::Ingress, PoolKind::Egress], address) {
                Some(pool) => Err(Refusal::OtherPool { pool: pool.to_string() }),
                None => Ok(()),
            }
        }
    }
}

fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            (1..224).contains(&first) && !a.is_loopback() && !a.is_link_local()
        }
        IpAddr::V6(a) => {
            let special =
                a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_unicast_link_local();
            !special && a.to_ipv4_mapped().is_none()
        }
    }
}

fn addressing(demands: &[Demand<'_>], pods: &[Demand<'_>], segments: Segments) -> Addressing {
    let mut all = Addressing::default();
    for demand in demands {
        let list = match &demand.owner {
            Owner::KubeApi => &mut all.kube_api,
            Owner::CliTools => &mut all.cli_tools,
            Owner::Node(name) => all.nodes.entry(name.clone()).or_default(),
            Owner::ClusterIp(name) => all.cluster_ips.entry(name.clone()).or_default(),
            Owner::Ingress(name) => all.ingress.entry(name.clone()).or_default(),
            Owner::Egress(namespace) => all.egress.entry(namespace.clone()).or_default(),
            Owner::Segment { .. } | Owner::Pod(_) => continue,
        };
        list.extend(demand.given);
    }
    for pod in pods.chunk_by(|a, b| a.owner == b.owner) {
        if let Some(Demand { owner: Owner::Pod(name), .. }) = pod.first() {
            let addresses: Vec<IpAddr> = pod.iter().filter_map(|d| d.given).collect();
            let segment = segments.name_of(&name.namespace, &addresses);
            all.pods.insert(name.clone(), PodAddresses { segment, addresses });
        }
    }
    all.segments = segments.into_blocks();
    all
}

/// Who went away empty-handed: of each pool the first, and how many more.
#[derive(Default)]
struct Short(BTreeMap<(PoolKind, IpFamily), (Owner, Position, usize)>);

impl Short {
    fn add(&mut self, kind: PoolKind, family: IpFamily, owner: &Owner, at: &Position) {
        let first = self.0.entry((kind, family)).or_insert_with(|| (owner.clone(), at.clone(), 0));
        if first.0 != *owner {
            first.2 += 1;
        }
    }

    fn into_errors(self, model: &Model, pools: &Pools, table: &Table<'_>, errors: &mut Vec<IpamError>) {
        for ((kind, family), (owner, at, others)) in self.0 {
            errors.push(match pools.get(kind, family) {
                None => IpamError::NoPool { at, owner, others, pool: kind, family },
                Some(pool) => {
                    let block =
                        (kind == PoolKind::Pods).then(|| segment::block_length(family, &model.supervisor));
                    let mut shortage = Shortage {
                        pool: pool.to_string(),
                        kind,
                        block,
                        size: block.map_or_else(|| pool.size(), |length| pool.blocks(length)),
                        held: 0,
                        holders: Vec::new(),
                        resting: 0,
                        until: None,
                    };
                    count(&mut shortage, &pool.cidrs, table);
                    IpamError::Exhausted { at, owner, others, shortage }
                }
            });
        }
    }
}

/// Who holds the addresses or blocks of a pool, and what rests.
fn count(shortage: &mut Shortage, cidrs: &[IpNet], table: &Table<'_>) {
    let mut holders: BTreeMap<String, usize> = BTreeMap::new();
    for (net, lease) in cidrs.iter().flat_map(|cidr| table.within(*cidr)) {
        if net.prefix_len() != shortage.block.unwrap_or(net.max_prefix_len()) {
            continue;
        }
        if lease.is_held() {
            shortage.held += 1;
            let holder = match &lease.owner {
                Owner::Segment { namespace, .. } => namespace.clone(),
                owner => owner.short(),
            };
            *holders.entry(holder).or_default() += 1;
        } else {
            shortage.resting += 1;
            if !table.is_overdue(lease) {
                let until = shortage.until.into_iter().chain(lease.resting_until).min();
                shortage.until = until;
            }
        }
    }
    let name = |(holder, held): (String, usize)| if held > 1 { format!("{holder} ({held})") } else { holder };
    shortage.holders = holders.into_iter().map(name).collect();
}
