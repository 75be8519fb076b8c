//! What happened, in numbers.
//!
//! Every worker counts for itself, into words that only it writes, so counting is a load and a store; readers
//! add the workers up. Sessions that share rules and virtual server share a *tally*: a hit counts in one row,
//! and the row's rules and server get their share when somebody asks.

use crate::{
    id::{PortId, RuleId, ServerId},
    table::registry::{Registry, RegistryKey},
    verdict::DropReason,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A power of two.
const CHUNK: usize = 1024;

/// An array that grows by chunks and never moves what it holds.
#[derive(Debug)]
pub struct Grow<T> {
    chunks: Box<[OnceLock<Box<[T; CHUNK]>>]>,
    /// Chunks up to the last that was touched.
    used: AtomicUsize,
}

impl<T: Default> Grow<T> {
    /// Room for `max` items, none allocated yet.
    pub fn new(max: usize) -> Self {
        let chunks = (0..max.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Self { chunks, used: AtomicUsize::new(0) }
    }

    /// The item, made if need be. An index past the end gets the last item.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &T {
        match self.get(index) {
            Some(item) => item,
            None => self.make(index),
        }
    }

    /// The item, if its chunk was made.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Option<&T> {
        let items = self.chunks.get(index / CHUNK)?.get()?;
        Some(&items[index % CHUNK])
    }

    /// The items of the first chunk, if it was made: most indices are small.
    #[inline(always)]
    pub fn first(&self) -> &[T] {
        self.chunks.first().and_then(OnceLock::get).map_or(&[], |items| &items[..])
    }

    #[cold]
    fn make(&self, index: usize) -> &T {
        let index = index.min(self.chunks.len() * CHUNK - 1);
        let items = self.chunks[index / CHUNK].get_or_init(|| {
            self.used.fetch_max(index / CHUNK + 1, Ordering::Relaxed);
            Box::new(std::array::from_fn(|_| T::default()))
        });
        &items[index % CHUNK]
    }

    /// The items of chunks that were touched, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let chunks = self.chunks.iter().take(self.used.load(Ordering::Relaxed)).enumerate();
        chunks
            .filter_map(|(n, chunk)| chunk.get().map(|items| (n * CHUNK, items)))
            .flat_map(|(base, items)| items.iter().enumerate().map(move |(i, item)| (base + i, item)))
    }
}

/// Frames and bytes through a port.
#[derive(Debug, Default)]
pub struct PortRow {
    /// Frames received.
    pub received: Count,
    /// Bytes received.
    pub received_bytes: Count,
    /// Frames sent.
    pub sent: Count,
    /// Bytes sent.
    pub sent_bytes: Count,
    /// Frames received that were dropped.
    pub dropped: Count,
}

/// Traffic of one tally.
#[derive(Debug, Default)]
pub struct TallyRow {
    /// New connections.
    pub connections: Count,
    /// Packets in either direction.
    pub packets: Count,
    /// Bytes of frames in either direction.
    pub bytes: Count,
    /// Packets that were denied.
    pub denied: Count,
}

impl TallyRow {
    fn traffic(&self) -> Traffic {
        Traffic {
            connections: self.connections.get(),
            packets: self.packets.get(),
            bytes: self.bytes.get(),
            denied: self.denied.get(),
        }
    }
}

/// What sessions of one tally have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TallyKey {
    /// The egress rule that decided.
    pub egress_rule: Option<RuleId>,
    /// The ingress rule that decided.
    pub ingress_rule: Option<RuleId>,
    /// The virtual server.
    pub server: Option<ServerId>,
}

/// Most tallies there can be; connections beyond share the last.
pub const MAX_TALLIES: usize = 1 << 20;

/// All tallies, by number.
#[derive(Debug)]
pub struct Tallies {
    ids: Registry<(TallyKey, u32)>,
    keys: Grow<OnceLock<TallyKey>>,
    next: AtomicU32,
}

impl Default for Tallies {
    fn default() -> Self {
        Self { ids: Registry::default(), keys: Grow::new(MAX_TALLIES), next: AtomicU32::new(0) }
    }
}

impl TallyKey {
    /// The rules that decided, each once: one may stand at both ends.
    pub fn rules(&self) -> impl Iterator<Item = RuleId> + use<> {
        let at_both = self.egress_rule == self.ingress_rule;
        self.egress_rule.into_iter().chain(self.ingress_rule.filter(|_| !at_both))
    }

    fn registry_key(&self) -> RegistryKey {
        let part = |id: Option<u32>| id.map_or(0, |id| 1 << 32 | u128::from(id));
        let rules = part(self.egress_rule.map(|r| r.0)) << 33 | part(self.ingress_rule.map(|r| r.0));
        (rules << 33 | part(self.server.map(|s| s.0)), 0)
    }
}

impl Tallies {
    /// What a number stands for; `None` for the last, which those without a number of their own share.
    pub fn key(&self, id: u32) -> Option<TallyKey> {
        let shared = id as usize >= MAX_TALLIES - 1;
        if shared { None } else { self.keys.get(id as usize)?.get().copied() }
    }

    /// The number of a tally; the same every time.
    pub fn intern(&self, key: TallyKey) -> u32 {
        let last = MAX_TALLIES as u32 - 1;
        let make = || {
            let more = |n| (n < last).then_some(n + 1);
            let id = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
            let _ = self.keys.at(id as usize).set(key);
            Some((key, id))
        };
        self.ids.get_or_try(key.registry_key(), make).map_or(last, |(_, id)| *id)
    }

    fn keys(&self) -> Vec<(TallyKey, u32)> {
        self.ids.all().into_iter().map(|(_, tally)| *tally).collect()
    }
}

/// What one worker counts.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Frames that entered the pipeline.
    pub received: Count,
    /// Frames the network made itself: ICMP errors, resets, copies of multicast, ARP and ND requests; of a packet that
    /// was cut, one less than pieces.
    pub generated: Count,
    /// Frames that left.
    pub sent: Count,
    /// Frames ports had and could not deliver; they never entered.
    pub missed: Count,
    /// Frames that took the cached way.
    pub hits: Count,
    /// Half-open connections that were ended for newer ones.
    pub half_open_ended: Count,
    /// ICMP errors about packets of connections that were passed on; they are counted with the connection's packets.
    pub related: Count,
    /// Drops by reason.
    pub drops: [Count; DropReason::COUNT],
    /// By port.
    pub ports: Grow<PortRow>,
    /// By tally.
    pub tallies: Grow<TallyRow>,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self {
            received: Count::default(),
            generated: Count::default(),
            sent: Count::default(),
            missed: Count::default(),
            hits: Count::default(),
            half_open_ended: Count::default(),
            related: Count::default(),
            drops: std::array::from_fn(|_| Count::default()),
            ports: Grow::new(PortId::MAX as usize),
            tallies: Grow::new(MAX_TALLIES),
        }
    }
}

/// Everything counted so far, all workers added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that entered the pipeline.
    pub received: u64,
    /// Frames the network made itself.
    pub generated: u64,
    /// Frames that left.
    pub sent: u64,
    /// Frames ports could not deliver; they never entered.
    pub missed: u64,
    /// Frames that took the cached way.
    pub hits: u64,
    /// Half-open connections that were ended for newer ones.
    pub half_open_ended: u64,
    /// ICMP errors about packets of connections that were passed on.
    pub related: u64,
    /// What all connections together have come to.
    pub connections: Traffic,
    /// Fragments that wait now for the first of their packet.
    pub held: u64,
    /// Drops by reason, those that happened.
    pub drops: BTreeMap<DropReason, u64>,
    /// By port.
    pub ports: BTreeMap<PortId, PortCounters>,
    /// By firewall rule.
    pub rules: BTreeMap<RuleId, Traffic>,
    /// By virtual server.
    pub servers: BTreeMap<ServerId, Traffic>,
}

/// A port's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames received.
    pub received: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Frames sent.
    pub sent: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Frames received that were dropped.
    pub dropped: u64,
}

impl std::ops::AddAssign for PortCounters {
    fn add_assign(&mut self, o: Self) {
        self.received += o.received;
        self.received_bytes += o.received_bytes;
        self.sent += o.sent;
        self.sent_bytes += o.sent_bytes;
        self.dropped += o.dropped;
    }
}

/// Connections and packets that a rule or virtual server had to do with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// New connections.
    pub connections: u64,
    /// Packets in either direction.
    pub packets: u64,
    /// Bytes of frames in either direction.
    pub bytes: u64,
    /// Packets denied.
    pub denied: u64,
}

impl Counters {
    /// Adds up what the workers counted; `held` fragments wait.
    pub fn collect(workers: &[Arc<WorkerCounters>], tallies: &Tallies, held: usize) -> Self {
        let mut sum = Self { held: held as u64, ..Self::default() };
        for w in workers {
            sum.received += w.received.get();
            sum.generated += w.generated.get();
            sum.sent += w.sent.get();
            sum.missed += w.missed.get();
            sum.hits += w.hits.get();
            sum.half_open_ended += w.half_open_ended.get();
            sum.related += w.related.get();
            w.tallies.iter().for_each(|(_, row)| sum.connections.add(row.traffic()));
            for (reason, count) in DropReason::ALL.iter().zip(&w.drops) {
                if count.get() > 0 {
                    *sum.drops.entry(*reason).or_default() += count.get();
                }
            }
            for (id, row) in w.ports.iter() {
                let row = PortCounters {
                    received: row.received.get(),
                    received_bytes: row.received_bytes.get(),
                    sent: row.sent.get(),
                    sent_bytes: row.sent_bytes.get(),
                    dropped: row.dropped.get(),
                };
                // Most rows are of no port. Bytes are counted with frames.
                if row.received | row.sent | row.dropped != 0 {
                    *sum.ports.entry(PortId(id as u32)).or_default() += row;
                }
            }
            for (key, id) in tallies.keys() {
                let traffic = w.tallies.at(id as usize).traffic();
                if traffic == Traffic::default() {
                    continue;
                }
                for rule in key.rules() {
                    sum.rules.entry(rule).or_default().add(traffic);
                }
                if let Some(server) = key.server {
                    sum.servers.entry(server).or_default().add(traffic);
                }
            }
        }
        sum
    }

    /// Drops for all reasons together.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    /// Whether every frame is accounted for: what came in and what was made left, was dropped or is held.
    ///
    /// Holds whenever no worker is in the middle of a batch.
    pub fn conserved(&self) -> bool {
        self.received + self.generated == self.sent + self.dropped() + self.held
    }
}

impl Traffic {
    fn add(&mut self, o: Self) {
        self.connections += o.connections;
        self.packets += o.packets;
        self.bytes += o.bytes;
        self.denied += o.denied;
    }
}
