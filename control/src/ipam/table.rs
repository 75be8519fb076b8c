//! The leases as they will be: the state that one plan works on.
//!
//! A plan begins by letting go of everything: each lease becomes a resting one. Then owners that are still
//! there take theirs back, which nobody but them may do, and so keep it. What nobody took back is what was
//! freed. In this way "sticky", "freed" and "resting" are one rule.

use super::{
    error::Refusal,
    pool::{Block, Place, address, ends, prefix},
};
use crate::{
    model::IpFamily,
    store::{Lease, LeaseTable, Owner, UnixSeconds},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

/// How long a freed address rests before another owner may have it, as in NSX.
pub const REST_SECONDS: u64 = 60;

pub(super) struct Table<'a> {
    /// The leases of the next state.
    leases: LeaseTable,
    /// Addresses that are not ours to give, and whose they are.
    fixed: BTreeMap<IpAddr, String>,
    /// What each owner had: what it held first, then what rested.
    former: HashMap<Owner, Vec<IpNet>>,
    /// Lengths of blocks that occur among the leases.
    block_lengths: BTreeSet<(IpFamily, u8)>,
    now: UnixSeconds,
    busy: &'a BTreeSet<IpAddr>,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        old: &LeaseTable,
        fixed: BTreeMap<IpAddr, String>,
        now: UnixSeconds,
        busy: &'a BTreeSet<IpAddr>,
    ) -> Self {
        let mut leases = LeaseTable::new();
        let mut former: HashMap<Owner, Vec<IpNet>> = HashMap::new();
        let mut block_lengths = BTreeSet::new();
        let rests = |net: &IpNet, lease: &Lease| match lease.resting_until {
            None => false,
            Some(until) => now < until || (is_address(net) && busy.contains(&net.addr())),
        };
        for (net, lease) in old.iter().filter(|(_, l)| l.is_held()) {
            former.entry(lease.owner.clone()).or_default().push(*net);
            let freed = Lease { owner: lease.owner.clone(), resting_until: Some(now.plus(REST_SECONDS)) };
            leases.insert(*net, freed);
        }
        for (net, lease) in old.iter().filter(|(net, lease)| rests(net, lease)) {
            former.entry(lease.owner.clone()).or_default().push(*net);
            leases.insert(*net, lease.clone());
        }
        for net in leases.keys().filter(|net| !is_address(net)) {
            block_lengths.insert((IpFamily::of(net.addr()), net.prefix_len()));
        }
        Self { leases, fixed, former, block_lengths, now, busy }
    }

    pub(super) fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    pub(super) fn into_leases(self) -> LeaseTable {
        self.leases
    }

    /// What an owner had when the plan began: what it held first, then what rests for it.
    pub(super) fn former(&self, owner: &Owner) -> &[IpNet] {
        self.former.get(owner).map_or(&[], Vec::as_slice)
    }

    /// All that was held or rests, by owner, in no order.
    pub(super) fn former_owners(&self) -> impl Iterator<Item = (&Owner, &[IpNet])> {
        self.former.iter().map(|(owner, nets)| (owner, nets.as_slice()))
    }

    /// Why an owner cannot have an address, whatever pool it is from.
    pub(super) fn refusal(&self, owner: &Owner, address: IpAddr) -> Option<Refusal> {
        if let Some(by) = self.fixed.get(&address) {
            return Some(Refusal::Held { by: by.clone() });
        }
        match self.leases.get(&IpNet::from(address)) {
            Some(lease) => {
                if let Some(refusal) = self.lease_refusal(owner, lease) {
                    return Some(refusal);
                }
            }
            None if self.busy.contains(&address) => return Some(Refusal::InUse),
            None => {}
        }
        self.blocks_around(address)
            .find_map(|(block, lease)| self.block_refusal(owner, address, block, lease))
    }

    pub(super) fn is_free(&self, owner: &Owner, address: IpAddr) -> bool {
        let held = self.leases.get(&IpNet::from(address)).is_some_and(Lease::is_held);
        !held && self.refusal(owner, address).is_none()
    }

    /// Leases `net` to `owner`. The caller has made sure that it may.
    pub(super) fn take(&mut self, net: IpNet, owner: Owner) {
        if !is_address(&net) {
            self.block_lengths.insert((IpFamily::of(net.addr()), net.prefix_len()));
        }
        self.leases.insert(net, Lease::held(owner));
    }

    /// Whether `net` may become a block of a namespace: nothing lies in it or around it but addresses of the
    /// namespace's own pods, none of them in the gateway's place, and its own resting blocks.
    pub(super) fn may_carve(&self, net: IpNet, namespace: &str) -> bool {
        let own = |(inner, lease): (&IpNet, &Lease)| match &lease.owner {
            Owner::Pod(pod) => {
                pod.namespace == namespace && Block::place(&net, inner.addr()) == Place::Usable
            }
            Owner::Segment { namespace: of, .. } => of == namespace && !lease.is_held(),
            _ => false,
        };
        self.passes_fixed(net) && self.wider_block(net).is_none() && self.within(net).all(own)
    }

    /// Whether nothing at all lies in `net` or around it.
    pub(super) fn is_empty(&self, net: IpNet) -> bool {
        self.passes_fixed(net) && self.wider_block(net).is_none() && self.within(net).next().is_none()
    }

    /// A block, held or resting, that is wider than `net` and holds it.
    pub(super) fn wider_block(&self, net: IpNet) -> Option<IpNet> {
        self.blocks_around(net.addr()).map(|(block, _)| block).find(|b| b.prefix_len() < net.prefix_len())
    }

    /// Every lease that lies in `net`, itself included.
    pub(super) fn within(&self, net: IpNet) -> impl Iterator<Item = (&IpNet, &Lease)> {
        let family = IpFamily::of(net.addr());
        let (first, last) = ends(&net);
        let from = prefix(address(family, first), net.prefix_len());
        let to = IpNet::from(address(family, last));
        self.leases.range(from..=to)
    }

    /// Whether a lease is over but for living sessions.
    pub(super) fn is_overdue(&self, lease: &Lease) -> bool {
        lease.resting_until.is_some_and(|until| until <= self.now)
    }

    fn passes_fixed(&self, net: IpNet) -> bool {
        self.fixed.range(net.network()..=net.broadcast()).next().is_none()
    }

    fn blocks_around(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &Lease)> {
        let family = IpFamily::of(address);
        self.block_lengths.iter().filter(move |(f, _)| *f == family).filter_map(move |(_, length)| {
            let net = prefix(address, *length);
            self.leases.get(&net).map(|lease| (net, lease))
        })
    }

    fn lease_refusal(&self, owner: &Owner, lease: &Lease) -> Option<Refusal> {
        if lease.owner == *owner {
            return None;
        }
        Some(match lease.resting_until {
            None => Refusal::Held { by: lease.owner.to_string() },
            Some(until) if until <= self.now => Refusal::InUse,
            Some(until) => Refusal::Resting { last: lease.owner.clone(), until, left: until.0 - self.now.0 },
        })
    }

    fn block_refusal(&self, owner: &Owner, address: IpAddr, block: IpNet, lease: &Lease) -> Option<Refusal> {
        let Owner::Segment { namespace, .. } = &lease.owner else { return None };
        let own = matches!(owner, Owner::Pod(pod) if pod.namespace == *namespace);
        match (own, Block::place(&block, address)) {
            (true, Place::Reserved(role, net)) if lease.is_held() => Some(Refusal::Reserved { role, net }),
            (true, _) => None,
            (false, _) if lease.is_held() => {
                Some(Refusal::OtherBlock { block, namespace: namespace.clone() })
            }
            (false, _) => self.lease_refusal(owner, lease),
        }
    }
}

fn is_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
