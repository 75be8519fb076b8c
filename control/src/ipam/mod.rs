//! IPAM: who gets which address, and leases that are never given twice.
//!
//! ```text
//!                      podCIDRs 10.244.0.0/16                       serviceCIDRs   ingressCIDRs   egressCIDRs
//!   ┌───────────────┬───────────────┬───────────────┬─ ─ ─             │               │              │
//!   │ 10.244.0.0/28 │ 10.244.0.16/28│ 10.244.0.32/28│              a ClusterIP    an address     an address
//!   │ segment       │ segment       │ segment       │              a Service      a LoadBalancer a namespace
//!   │ db-0          │ shop-0 (full) │ shop-1        │                             Service
//!   └───────────────┴──────┬────────┴───────────────┴─ ─ ─
//!      .16 network  .17 gateway  .18 … .30 thirteen pods  .31 broadcast
//!
//!   model ─▶ plan ─▶ Proposal { addressing } ─▶ commit ─▶ leases on disk ─▶ Addressing may be used
//! ```
//!
//! What always holds:
//! - An address has one owner. One table of leases covers all pools, so this is so across pools as well.
//! - [`Ipam::plan`] changes nothing; [`Ipam::commit`] makes the leases durable before anyone sees the addresses.
//!   A plan with an error gives all of its errors and no proposal.
//! - The same model on empty leases gives the same addresses: everything goes by name, the lowest first.
//! - Who is still in the model keeps its address, unless it asks for another one or the address no longer lies
//!   in its pool (or, of a pod, in a block of its namespace): then it gets a new one.
//! - A freed address or block rests [`REST_SECONDS`] before another owner may have it, and longer while
//!   sessions use it; its last owner may have it back at once, and does if it comes back.
//! - Addresses asked for are given before any other.
//!
//! Blocks: a namespace has a segment from the start, and another one when all are full. A segment has an IPv4
//! block of `namespacePrefixLength` and an IPv6 /64, as far as there are pod CIDRs of that family. A pod may
//! ask for any address that is nobody's; it then belongs to the first segment of its namespace unless it lies in
//! another one. Blocks are cut where nothing lies yet, or where only pods of that same namespace have addresses (and
//! there first); so an address that was asked for never ends up in another namespace's block. A segment other
//! than the first is given back when it holds no pod.
//!
//! A plan costs one look-up an address given or passed over, plus a pass over the leases; pools are never
//! enumerated. Written by [`Ipam`] alone; `policy` and `compile` read the [`Addressing`].

mod addressing;
mod demand;
mod error;
mod plan;
mod pool;
mod segment;
mod table;
#[cfg(test)]
mod tests;

pub use addressing::{Addressing, PodAddresses, SegmentBlock};
pub use error::{IpamError, IpamErrors, Refusal, Shortage};
pub use pool::PoolKind;
pub use table::REST_SECONDS;

use crate::{
    model::Model,
    store::{LeaseBatch, LeaseStore, LeaseTable, MemoryStore, StoreError, UnixSeconds},
};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// All leases, and the store that keeps them.
#[derive(Debug)]
pub struct Leases {
    table: Arc<LeaseTable>,
    store: Box<dyn LeaseStore>,
    /// Set when a write failed: nobody knows then whether the store has it.
    broken: bool,
}

impl Leases {
    /// Leases that end with the process.
    pub fn memory() -> Self {
        Self { table: Arc::default(), store: Box::new(MemoryStore), broken: false }
    }

    /// Leases in a file, which is made if it is not there and locked as long as this lives.
    ///
    /// # Errors
    /// See [`crate::store::RedbStore::open`].
    #[cfg(feature = "redb")]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self, StoreError> {
        Self::load(crate::store::RedbStore::open(path)?)
    }

    /// Leases in a store of any kind.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn load(mut store: impl LeaseStore + 'static) -> Result<Self, StoreError> {
        let table = Arc::new(store.load()?);
        Ok(Self { table, store: Box::new(store), broken: false })
    }

    /// What is held, and what rests.
    pub fn table(&self) -> &LeaseTable {
        &self.table
    }
}

/// Gives addresses.
///
/// ```
/// use std::collections::BTreeSet;
/// use supernet_control::{ipam::{Ipam, Leases}, model::{Model, Name, Pod}, store::UnixSeconds};
///
/// let mut model = Model::default();
/// model.insert(Pod::new(Name::new("shop", "web-0")).into());
///
/// let mut ipam = Ipam::new(Leases::memory());
/// let proposal = ipam.plan(&model, UnixSeconds(1_700_000_000), &BTreeSet::new())?;
/// let addressing = ipam.commit(proposal)?;
/// let web = &addressing.pods[&Name::new("shop", "web-0")];
/// assert_eq!((web.segment.as_str(), web.addresses[0].to_string().as_str()), ("shop-0", "10.244.0.2"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ipam {
    leases: Leases,
}

impl Ipam {
    /// IPAM that goes on from these leases.
    pub fn new(leases: Leases) -> Self {
        Self { leases }
    }

    /// What is held, and what rests.
    pub fn leases(&self) -> &LeaseTable {
        self.leases.table()
    }

    /// The addresses of `model`, without leasing them.
    ///
    /// `busy` are the addresses that living sessions still use (egress addresses with translated connections,
    /// say): those of them that nobody holds go on resting.
    ///
    /// # Errors
    /// Everything that cannot be given, all at once.
    pub fn plan(
        &self,
        model: &Model,
        now: UnixSeconds,
        busy: &BTreeSet<IpAddr>,
    ) -> Result<Proposal, IpamErrors> {
        let base = Arc::clone(&self.leases.table);
        let (next, addressing) = plan::plan(model, &base, now, busy)?;
        Ok(Proposal { base, next, addressing })
    }

    /// Leases what was proposed. When this returns, the leases are durable and the addresses may be used.
    ///
    /// # Errors
    /// The leases changed since the proposal was made, or could not be stored. No address of the proposal may
    /// be used then. After a failed write the leases have to be opened again.
    pub fn commit(&mut self, proposal: Proposal) -> Result<Addressing, StoreError> {
        let Proposal { base, next, addressing } = proposal;
        if self.leases.broken {
            return Err(StoreError::Broken);
        }
        if !Arc::ptr_eq(&base, &self.leases.table) {
            return Err(StoreError::Stale);
        }
        let batch = difference(&base, &next);
        if !batch.is_empty() {
            self.leases.store.apply(&batch).inspect_err(|_| self.leases.broken = true)?;
            self.leases.table = Arc::new(next);
        }
        Ok(addressing)
    }
}

/// Addresses that are not leased yet.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The leases it was made from. Holding on to them makes their identity a safe stamp.
    base: Arc<LeaseTable>,
    next: LeaseTable,
    addressing: Addressing,
}

impl Proposal {
    /// The addresses, good for looking at.
    pub fn addressing(&self) -> &Addressing {
        &self.addressing
    }
}

fn difference(old: &LeaseTable, new: &LeaseTable) -> LeaseBatch {
    let gone = old.keys().filter(|net| !new.contains_key(net)).map(|net| (*net, None));
    let changed = new.iter().filter(|(net, lease)| old.get(net) != Some(lease));
    gone.chain(changed.map(|(net, lease)| (*net, Some(lease.clone())))).collect()
}
