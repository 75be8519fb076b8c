//! Segments: which namespace has which blocks, and which pod is in which of them.

use super::{
    demand::Demand,
    error::IpamError,
    pool::{Block, Place, PoolKind, Pools, address, bits, ends, prefix},
    table::Table,
};
use crate::{
    ipam::SegmentBlock,
    model::{IpFamily, Model, Name, Supervisor},
    store::Owner,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

/// The length of every IPv6 block.
const V6_BLOCK: u8 = 64;

/// All segments of a plan.
pub(super) struct Segments {
    layouts: Vec<Layout>,
    namespaces: BTreeMap<String, Home>,
    /// Every block, and whose it is: namespace and number.
    by_block: HashMap<IpNet, (String, u32)>,
    /// Where a namespace's pods have, or its blocks had, addresses outside its present blocks.
    footholds: HashMap<String, BTreeSet<IpNet>>,
}

/// How the pod CIDRs of one family are cut into blocks.
struct Layout {
    family: IpFamily,
    length: u8,
    cidrs: Vec<IpNet>,
    /// The first slot that was not looked at yet: index of the CIDR, first address.
    next: (usize, Option<u128>),
}

/// The segments of one namespace.
#[derive(Default)]
struct Home {
    /// By number.
    segments: Vec<Segment>,
    /// Those before this index have no free IPv4 address.
    open: usize,
}

struct Segment {
    number: u32,
    v4: Option<Block>,
    v6: Option<Block>,
}

impl Segments {
    pub(super) fn new(supervisor: &Supervisor, pools: &Pools, errors: &mut Vec<IpamError>) -> Self {
        let mut layouts = Vec::new();
        for family in pools.families(PoolKind::Pods) {
            let length = block_length(family, supervisor);
            if family == IpFamily::V4 && length > 30 {
                errors.push(IpamError::BlockTooSmall { at: supervisor.at.clone(), prefix: length });
                continue;
            }
            let cidrs = pools.get(PoolKind::Pods, family).map_or(Vec::new(), |p| p.cidrs.clone());
            layouts.push(Layout { family, length, cidrs, next: (0, None) });
        }
        Self { layouts, namespaces: BTreeMap::new(), by_block: HashMap::new(), footholds: HashMap::new() }
    }

    /// Gives blocks and pods what they had before, where that still fits:
    ///
    /// - a block is kept if it is one that would be cut today; the first segment of a namespace always, others
    ///   as long as a pod has, or asks for, an address there;
    /// - a pod keeps an address that it asks for, or one in a block that is kept.
    pub(super) fn restore(&mut self, model: &Model, table: &mut Table<'_>, pods: &mut [Demand<'_>]) {
        let candidates = self.candidates(model, table);
        let mut wanted: HashSet<(&str, u32)> = HashSet::new();
        for demand in pods {
            let Owner::Pod(pod) = &demand.owner else { continue };
            let home = |address: IpAddr| self.home(&candidates, pod, address);
            let fits = |address: IpAddr| match demand.asked {
                Some(asked) => asked.value == address,
                None => home(address).is_some(),
            };
            let former = table.former(&demand.owner).iter().map(IpNet::addr);
            let kept = former
                .filter(|a| IpFamily::of(*a) == demand.family && fits(*a))
                .find(|a| table.is_free(&demand.owner, *a));
            let asked = demand.asked.map(|a| a.value);
            if let Some(number) = kept.or(asked).and_then(home)
                && let Some((namespace, _)) = model.namespaces.get_key_value(&pod.namespace)
            {
                wanted.insert((namespace, number));
            }
            if let Some(address) = kept {
                table.take(address.into(), demand.owner.clone());
                demand.given = Some(address);
            }
        }
        let mut keep: Vec<_> = candidates.into_iter().collect();
        keep.sort();
        for (net, (namespace, number)) in keep {
            if number == 0 || wanted.contains(&(namespace.as_str(), number)) {
                self.add(table, net, namespace, number);
            }
        }
        for namespace in model.namespaces.keys() {
            self.namespaces.entry(namespace.clone()).or_default();
        }
    }

    /// Notes where namespaces have addresses outside their blocks: new blocks are cut there first. To be
    /// called when all addresses that were asked for are given.
    pub(super) fn note_footholds(&mut self, table: &Table<'_>) {
        for (net, lease) in table.leases() {
            let namespace = match &lease.owner {
                Owner::Pod(pod) => &pod.namespace,
                Owner::Segment { namespace, .. } if !lease.is_held() => namespace,
                _ => continue,
            };
            let Some(slot) = self.slot(net.addr()) else { continue };
            if net.prefix_len() >= slot.prefix_len() && !self.by_block.contains_key(&slot) {
                self.footholds.entry(namespace.clone()).or_default().insert(slot);
            }
        }
    }

    /// Gives every segment the blocks that it lacks, and every namespace a segment.
    ///
    /// # Errors
    /// The namespace and family for which nothing is left.
    pub(super) fn complete(&mut self, table: &mut Table<'_>) -> Vec<(String, IpFamily)> {
        let mut short = Vec::new();
        let namespaces: Vec<String> = self.namespaces.keys().cloned().collect();
        for namespace in namespaces {
            let mut numbers: Vec<u32> = self.segments(&namespace).iter().map(|s| s.number).collect();
            if numbers.is_empty() {
                numbers.push(0);
            }
            for number in numbers {
                for family in self.missing(&namespace, number) {
                    if self.carve(table, &namespace, number, family).is_none() {
                        short.push((namespace.clone(), family));
                    }
                }
            }
        }
        short
    }

    /// Gives a pod the addresses that it lacks.
    ///
    /// # Errors
    /// The family of which nothing is left.
    pub(super) fn assign(&mut self, table: &mut Table<'_>, pod: &mut [Demand<'_>]) -> Result<(), IpFamily> {
        let Some(Demand { owner: Owner::Pod(name), .. }) = pod.first() else { return Ok(()) };
        let namespace = name.namespace.clone();
        // IPv4 chooses the segment, since only IPv4 blocks are ever full.
        for family in [IpFamily::V4, IpFamily::V6] {
            let Some(open) = pod.iter().position(|d| d.family == family && d.is_open()) else { continue };
            let beside = self.segment_of(&namespace, pod.iter().filter_map(|d| d.given));
            let home = beside.or((family == IpFamily::V6).then_some(0));
            let demand = &mut pod[open];
            let address = self.next_host(table, &namespace, &demand.owner, family, home)?;
            table.take(address.into(), demand.owner.clone());
            demand.given = Some(address);
        }
        Ok(())
    }

    /// The name of the segment that a pod with these addresses belongs to: the first that one of them lies in,
    /// else the namespace's first.
    pub(super) fn name_of(&self, namespace: &str, addresses: &[IpAddr]) -> String {
        let number = self.segment_of(namespace, addresses.iter().copied()).unwrap_or(0);
        segment_name(namespace, number)
    }

    /// All segments, by namespace and number.
    pub(super) fn into_blocks(self) -> Vec<SegmentBlock> {
        let block = |(namespace, segment): (&String, Segment)| SegmentBlock {
            name: segment_name(namespace, segment.number),
            namespace: namespace.clone(),
            v4: segment.v4.and_then(|b| match b.net {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            }),
            v6: segment.v6.and_then(|b| match b.net {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            }),
        };
        self.namespaces
            .into_iter()
            .flat_map(|(namespace, Home { segments, .. })| {
                segments.into_iter().map(move |s| block((&namespace, s))).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Blocks that namespaces had and may have again: one a segment and family, what was held first.
    fn candidates(&self, model: &Model, table: &Table<'_>) -> HashMap<IpNet, (String, u32)> {
        let mut candidates = HashMap::new();
        for (owner, nets) in table.former_owners() {
            let Owner::Segment { namespace, number } = owner else { continue };
            if !model.namespaces.contains_key(namespace) {
                continue;
            }
            for layout in &self.layouts {
                let fits = |net: &&IpNet| layout.has_slot(net) && table.may_carve(**net, namespace);
                if let Some(net) = nets.iter().find(fits) {
                    candidates.insert(*net, (namespace.clone(), *number));
                }
            }
        }
        candidates
    }

    /// The number of the candidate block of its own namespace in which a pod may have this address.
    fn home(&self, candidates: &HashMap<IpNet, (String, u32)>, pod: &Name, address: IpAddr) -> Option<u32> {
        let slot = self.slot(address)?;
        let (namespace, number) = candidates.get(&slot)?;
        (*namespace == pod.namespace && Block::place(&slot, address) == Place::Usable).then_some(*number)
    }

    /// The next free address of a family: in segment `home` if there is one, else in the first segment with
    /// room, which may be a new one.
    fn next_host(
        &mut self,
        table: &mut Table<'_>,
        namespace: &str,
        owner: &Owner,
        family: IpFamily,
        home: Option<u32>,
    ) -> Result<IpAddr, IpFamily> {
        let next = |segment: &mut Segment| {
            segment.block_mut(family).as_mut()?.next(|address| table.is_free(owner, address))
        };
        let all = self.namespaces.entry(namespace.to_owned()).or_default();
        let home = home.and_then(|number| all.segments.binary_search_by_key(&number, |s| s.number).ok());
        if let Some(home) = home
            && let Some(address) = next(&mut all.segments[home])
        {
            return Ok(address);
        }
        while let Some(segment) = all.segments.get_mut(all.open) {
            if let Some(address) = next(segment) {
                return Ok(address);
            }
            all.open += 1;
        }
        let number = self.free_number(namespace);
        for family in self.missing(namespace, number) {
            self.carve(table, namespace, number, family).ok_or(family)?;
        }
        let new = self.namespaces.get_mut(namespace).and_then(|all| all.segments.get_mut(all.open));
        let block = new.and_then(|segment| segment.block_mut(family).as_mut());
        block.and_then(|b| b.next(|address| table.is_free(owner, address))).ok_or(family)
    }

    /// Cuts a block for a segment: where the namespace has a foothold, else the first that is empty.
    fn carve(
        &mut self,
        table: &mut Table<'_>,
        namespace: &str,
        number: u32,
        family: IpFamily,
    ) -> Option<IpNet> {
        let layout = self.layouts.iter_mut().find(|l| l.family == family)?;
        let footholds = self.footholds.get_mut(namespace);
        let foothold = footholds.and_then(|slots| {
            let slot = slots.iter().find(|s| layout.has_slot(s) && table.may_carve(**s, namespace)).copied();
            slot.inspect(|s| {
                slots.remove(s);
            })
        });
        let net = foothold.or_else(|| layout.next_empty(table))?;
        self.add(table, net, namespace.to_owned(), number);
        Some(net)
    }

    fn add(&mut self, table: &mut Table<'_>, net: IpNet, namespace: String, number: u32) {
        table.take(net, Owner::segment(namespace.clone(), number));
        let Home { segments, open } = self.namespaces.entry(namespace.clone()).or_default();
        let at = segments.binary_search_by_key(&number, |s| s.number).unwrap_or_else(|at| {
            segments.insert(at, Segment { number, v4: None, v6: None });
            at
        });
        *open = at.min(*open);
        *segments[at].block_mut(IpFamily::of(net.addr())) = Some(Block::new(net));
        self.by_block.insert(net, (namespace, number));
    }

    /// The families that a segment has no block of.
    fn missing(&self, namespace: &str, number: u32) -> Vec<IpFamily> {
        let segment = self.segments(namespace).iter().find(|s| s.number == number);
        let has = |family| match (segment, family) {
            (None, _) => false,
            (Some(s), IpFamily::V4) => s.v4.is_some(),
            (Some(s), IpFamily::V6) => s.v6.is_some(),
        };
        self.layouts.iter().map(|l| l.family).filter(|f| !has(*f)).collect()
    }

    fn free_number(&self, namespace: &str) -> u32 {
        (0..)
            .zip(self.segments(namespace))
            .find(|(n, s)| *n != s.number)
            .map_or_else(|| u32::try_from(self.segments(namespace).len()).unwrap_or(u32::MAX), |(n, _)| n)
    }

    fn segments(&self, namespace: &str) -> &[Segment] {
        self.namespaces.get(namespace).map_or(&[], |all| &all.segments)
    }

    /// The number of the namespace's segment that the first of these addresses to lie in one lies in.
    fn segment_of(&self, namespace: &str, mut addresses: impl Iterator<Item = IpAddr>) -> Option<u32> {
        addresses.find_map(|address| {
            let (of, number) = self.by_block.get(&self.slot(address)?)?;
            (of == namespace).then_some(*number)
        })
    }

    /// The slot of the pod CIDRs that an address lies in.
    fn slot(&self, address: IpAddr) -> Option<IpNet> {
        let layout = self.layouts.iter().find(|l| l.family == IpFamily::of(address))?;
        let slot = prefix(address, layout.length);
        layout.has_slot(&slot).then_some(slot)
    }
}

impl Segment {
    fn block_mut(&mut self, family: IpFamily) -> &mut Option<Block> {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }
}

impl Layout {
    /// Whether the pod CIDRs would be cut to give this block.
    fn has_slot(&self, net: &IpNet) -> bool {
        net.prefix_len() == self.length
            && IpFamily::of(net.addr()) == self.family
            && self.cidrs.iter().any(|c| c.contains(net))
    }

    /// The first slot with nothing in it. What is passed over is not looked at again.
    fn next_empty(&mut self, table: &Table<'_>) -> Option<IpNet> {
        while let Some(cidr) = self.cidrs.get(self.next.0) {
            let (first, last) = ends(cidr);
            let at = self.next.1.unwrap_or(first);
            if cidr.prefix_len() > self.length || at > last {
                self.next = (self.next.0 + 1, None);
                continue;
            }
            let slot = prefix(address(self.family, at), self.length);
            let passed = table.wider_block(slot).unwrap_or(slot);
            self.next = match bits(passed.broadcast()).checked_add(1) {
                Some(next) => (self.next.0, Some(next)),
                None => (self.next.0 + 1, None),
            };
            if table.is_empty(slot) {
                return Some(slot);
            }
        }
        None
    }
}

/// The length of a block of this family.
pub(super) fn block_length(family: IpFamily, supervisor: &Supervisor) -> u8 {
    match family {
        IpFamily::V4 => supervisor.namespace_prefix,
        IpFamily::V6 => V6_BLOCK,
    }
}

fn segment_name(namespace: &str, number: u32) -> String {
    format!("{namespace}-{number}")
}
