//! The flow table: from a packet's key to what is done with it.
//!
//! ```text
//!   hash ─▶ bucket ─▶ [31 tags of 16 bits | overflow count]      one cache line
//!                        │ tag matches in lane n
//!                        ▼
//!           entry bucket*31+n: [key | rewrite | output, generation | version, session | used | bytes]
//! ```
//!
//! What always holds:
//! - A reader copies an entry's words between two looks at its version; an odd or changed version means it is
//!   being written or dead, and the reader looks again. No reader ever blocks a writer.
//! - Of two racing inserts of one key, one wins: both lock the stripe of the key's first bucket.
//! - No live entry is overwritten. A removed entry's slot is reused when every worker has passed a batch
//!   boundary, so a worker may count into an entry it found earlier in its batch.
//! - The counters are stored without a lock: two workers that handle one direction at once may lose an update
//!   there, and nowhere else.
//!
//! An IPv4 entry is one cache line, an IPv6 entry two. Memory is taken from the system as it is touched.

use super::{Epochs, FlowKey, SessionId};
use crate::{
    id::Generation,
    rewrite::Rewrite,
    time::{Duration, Instant},
    wire::{Address, checksum::Delta},
};
use std::{
    hash::{BuildHasher, Hasher},
    marker::PhantomData,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    },
};

const LANES: usize = 31;
const FREE: u16 = 0;
const DEAD: u16 = 0xffff;
const CLAIMED: u16 = 0xfffe;
/// Buckets tried for a key: its first, its second, and those after the second.
const PROBES: usize = 8;
const STRIPES: usize = 256;

/// An entry's place in its table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryId(u32);

/// What an entry says beside its rewrite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Where packets go: an adjacency, 24 bits.
    pub adjacency: u32,
    /// What is taken off the TTL, at most 3.
    pub hops: u8,
    /// Packets stay in their segment: the source MAC is kept.
    pub switched: bool,
    /// The firewall denies the connection now; its packets take the slow path and are dropped.
    pub denied: bool,
    /// The snapshot this was computed from.
    pub generation: Generation,
    /// The session, 28 bits.
    pub session: SessionId,
    /// Where hits are counted, 20 bits.
    pub tally: u32,
}

/// An entry as a look-up found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<A> {
    /// Its place.
    pub entry: EntryId,
    /// The header edit.
    pub rewrite: Rewrite<A>,
    /// The rest.
    pub meta: Meta,
}

/// Coarse time in entries: 65.536 ms a tick, 24 bits, comparable over six days.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tick(u32);

impl Tick {
    const SHIFT: u32 = 16;
    const MASK: u64 = 0xff_ffff;

    /// The longest silence that is waited for: six days can be told apart, less one for the sweep to come by.
    pub const LONGEST: Duration = Duration::from_secs(5 * 86_400);

    /// The tick an instant lies in.
    pub fn of(now: Instant) -> Self {
        Self((now.micros() >> Self::SHIFT & Self::MASK) as u32)
    }

    /// Time from this tick to a later one.
    pub fn until(self, later: Self) -> Duration {
        let ticks = u64::from(later.0.wrapping_sub(self.0)) & Self::MASK;
        // A tick stored by another worker may be a little ahead.
        let ticks = if ticks > Self::MASK / 2 { 0 } else { ticks };
        Duration::from_micros(ticks << Self::SHIFT)
    }
}

/// What an entry has carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// When it was last used.
    pub last: Tick,
    /// Whether a packet was neither SYN, FIN nor RST.
    pub plain: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// Why a pair of entries was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken<A> {
    /// The forward key is there already: another worker was faster.
    Forward(Found<A>),
    /// The reverse key belongs to another connection.
    Reverse,
    /// No slot is free near one of the keys.
    Full,
}

/// A table of flow entries for one address family, shared by all workers.
pub struct FlowTable<A> {
    hasher: foldhash::fast::FixedState,
    buckets: usize,
    tags: Lines,
    entries: Lines,
    stripes: Box<[Mutex<()>]>,
    epochs: Arc<Epochs>,
    live: AtomicUsize,
    family: PhantomData<A>,
}

impl<A: Address> FlowTable<A> {
    const REWRITE: usize = FlowKey::<A>::WORDS;
    const REWRITE_WORDS: usize = if A::LEN == 4 { 2 } else { 5 };
    const OUTPUT: usize = Self::REWRITE + Self::REWRITE_WORDS;
    const LINK: usize = Self::OUTPUT + 1;
    const USED: usize = Self::OUTPUT + 2;
    const BYTES: usize = Self::OUTPUT + 3;
    const ENTRY_LINES: usize = if A::LEN == 4 { 1 } else { 2 };

    /// A table with room for `connections`, two entries each, at 80 % load.
    pub fn new(connections: usize, seed: u64, epochs: Arc<Epochs>) -> Self {
        let buckets = (connections * 2 * 5).div_ceil(4 * LANES).max(PROBES);
        Self {
            hasher: foldhash::fast::FixedState::with_seed(seed),
            buckets,
            tags: Lines::new(buckets),
            entries: Lines::new(buckets * LANES * Self::ENTRY_LINES),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            epochs,
            live: AtomicUsize::new(0),
            family: PhantomData,
        }
    }

    /// Entries in use.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Bytes of memory the table may come to use.
    pub fn bytes(&self) -> usize {
        (self.tags.words.len() + self.entries.words.len()) * 8
    }

    /// Looks up a batch: `found[i]` answers `keys[i]`. Keys that are `None` are not looked up.
    pub fn find_batch(&self, keys: &[Option<FlowKey<A>>], found: &mut Vec<Option<Found<A>>>) {
        found.clear();
        found.extend(keys.iter().map(|key| key.as_ref().and_then(|key| self.find(key))));
    }

    /// Looks up one key.
    pub fn find(&self, key: &FlowKey<A>) -> Option<Found<A>> {
        let words = key.words();
        let hash = self.hash(&words);
        for (n, bucket) in self.probe(hash).enumerate() {
            let tags = self.tags.line(bucket);
            for (at, word) in tags.iter().enumerate() {
                let mut lanes = lanes_equal(word.load(Ordering::Relaxed), tag_of(hash));
                while lanes != 0 {
                    let lane = at * 4 + lanes.trailing_zeros() as usize / 16;
                    lanes &= lanes - 1;
                    if lane < LANES {
                        let found = self.read(bucket * LANES + lane, &words);
                        if found.is_some() {
                            return found;
                        }
                    }
                }
            }
            if n == 0 && overflow(tags) == 0 {
                return None;
            }
        }
        None
    }

    /// Adds the two entries of a connection, or neither.
    ///
    /// # Errors
    /// One of the keys is taken, or there is no room near one of them.
    pub fn insert_pair(
        &self,
        forward: (&FlowKey<A>, &Rewrite<A>, &Meta),
        reverse: (&FlowKey<A>, &Rewrite<A>, &Meta),
        now: Tick,
    ) -> Result<(EntryId, EntryId), Taken<A>> {
        let keys = (forward.0.words(), reverse.0.words());
        let hashes = (self.hash(&keys.0), self.hash(&keys.1));
        let _locks = self.lock_pair(hashes);
        if let Some(found) = self.find(forward.0) {
            return Err(Taken::Forward(found));
        }
        if keys.0 == keys.1 || self.find(reverse.0).is_some() {
            return Err(Taken::Reverse);
        }
        let first = self.claim(hashes.0).ok_or(Taken::Full)?;
        let Some(second) = self.claim(hashes.1) else {
            self.set_lane(first, FREE);
            return Err(Taken::Full);
        };
        for (slot, hash, words, (_, rewrite, meta)) in
            [(second, hashes.1, keys.1, reverse), (first, hashes.0, keys.0, forward)]
        {
            let entry = self.entry(slot.0);
            for (at, word) in words[..FlowKey::<A>::WORDS].iter().enumerate() {
                entry(at).store(*word, Ordering::Relaxed);
            }
            entry(Self::USED).store(u64::from(now.0) << 40, Ordering::Relaxed);
            entry(Self::BYTES).store(0, Ordering::Relaxed);
            self.write(slot.0, rewrite, meta);
            if slot.0 as usize / LANES != self.first_bucket(hash) {
                self.count_overflow(hash, 1);
            }
            self.set_lane(slot, tag_of(hash));
        }
        self.live.fetch_add(2, Ordering::Relaxed);
        Ok((first, second))
    }

    /// Replaces what a live entry says. Its counters stay. The caller holds the session's lock.
    pub fn update(&self, at: EntryId, rewrite: &Rewrite<A>, meta: &Meta) {
        self.write(at.0, rewrite, meta);
    }

    /// Marks a live entry as judged in `generation`; its rewrite stays. The caller holds the session's lock.
    pub fn stamp(&self, at: EntryId, generation: Generation, denied: bool) {
        let entry = self.entry(at.0);
        let meta = meta_from(entry(Self::OUTPUT).load(Ordering::Relaxed), 0);
        entry(Self::OUTPUT).store(output_word(&Meta { generation, denied, ..meta }), Ordering::Release);
    }

    /// Removes a live entry. The caller holds the session's lock.
    pub fn remove(&self, at: EntryId) {
        let entry = self.entry(at.0);
        let mut words = [0; 5];
        for (n, word) in words[..FlowKey::<A>::WORDS].iter_mut().enumerate() {
            *word = entry(n).load(Ordering::Relaxed);
        }
        let link = entry(Self::LINK).load(Ordering::Relaxed);
        entry(Self::LINK).store(link | VERSION_ONE, Ordering::Relaxed);
        fence(Ordering::Release);
        // In no epoch at all until the entry is unlinked.
        entry(0).store(u64::MAX, Ordering::Release);
        self.set_lane(at, DEAD);
        let hash = self.hash(&words);
        if at.0 as usize / LANES != self.first_bucket(hash) {
            self.count_overflow(hash, -1);
        }
        entry(0).store(self.epochs.retire(), Ordering::Release);
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a packet into an entry.
    pub fn touch(&self, at: EntryId, now: Tick, plain: bool, bytes: usize) {
        let entry = self.entry(at.0);
        let used = entry(Self::USED).load(Ordering::Relaxed);
        let packets = ((used & PACKETS) + 1) & PACKETS;
        let plain = used & PLAIN | if plain { PLAIN } else { 0 };
        entry(Self::USED).store(u64::from(now.0) << 40 | plain | packets, Ordering::Relaxed);
        let sum = entry(Self::BYTES).load(Ordering::Relaxed).wrapping_add(bytes as u64);
        entry(Self::BYTES).store(sum, Ordering::Relaxed);
    }

    /// What an entry has carried.
    pub fn usage(&self, at: EntryId) -> Usage {
        let entry = self.entry(at.0);
        let used = entry(Self::USED).load(Ordering::Relaxed);
        Usage {
            last: Tick((used >> 40) as u32),
            plain: used & PLAIN != 0,
            packets: used & PACKETS,
            bytes: entry(Self::BYTES).load(Ordering::Relaxed),
        }
    }

    fn hash(&self, words: &[u64; 5]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for word in &words[..FlowKey::<A>::WORDS] {
            hasher.write_u64(*word);
        }
        hasher.finish()
    }

    fn first_bucket(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buckets as u128) >> 64) as usize
    }

    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + use<A> {
        let (first, buckets) = (self.first_bucket(hash), self.buckets);
        let second = self.first_bucket(hash.rotate_left(32));
        std::iter::once(first).chain((0..PROBES - 1).map(move |n| (second + n) % buckets))
    }

    fn entry<'a>(&'a self, at: u32) -> impl Fn(usize) -> &'a AtomicU64 {
        let first = at as usize * Self::ENTRY_LINES;
        move |word| &self.entries.line(first + word / 8)[word % 8]
    }

    /// Copies an entry if it is alive and has this key.
    fn read(&self, at: usize, key: &[u64; 5]) -> Option<Found<A>> {
        let entry = self.entry(at as u32);
        loop {
            let link = entry(Self::LINK).load(Ordering::Acquire);
            if link & VERSION_ONE != 0 {
                // Being written, or dead. Only a dead one may be passed over.
                let tag = self.tags.line(at / LANES)[at % LANES / 4].load(Ordering::Acquire);
                if matches!((tag >> (at % LANES % 4 * 16)) as u16, DEAD | CLAIMED | FREE) {
                    return None;
                }
                std::hint::spin_loop();
                continue;
            }
            let mut words = [0; 16];
            for (n, word) in words[..Self::BYTES].iter_mut().enumerate() {
                *word = entry(n).load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if entry(Self::LINK).load(Ordering::Relaxed) != link {
                continue;
            }
            if words[..FlowKey::<A>::WORDS] != key[..FlowKey::<A>::WORDS] {
                return None;
            }
            let rewrite = rewrite_from(&words[Self::REWRITE..Self::OUTPUT]);
            let meta = meta_from(words[Self::OUTPUT], link);
            return Some(Found { entry: EntryId(at as u32), rewrite, meta });
        }
    }

    /// Writes rewrite and meta between two versions. A slot not yet published has an odd version or none.
    fn write(&self, at: u32, rewrite: &Rewrite<A>, meta: &Meta) {
        let entry = self.entry(at);
        let link = entry(Self::LINK).load(Ordering::Relaxed);
        entry(Self::LINK).store(link | VERSION_ONE, Ordering::Relaxed);
        fence(Ordering::Release);
        for (n, word) in rewrite_words(rewrite)[..Self::REWRITE_WORDS].iter().enumerate() {
            entry(Self::REWRITE + n).store(*word, Ordering::Relaxed);
        }
        entry(Self::OUTPUT).store(output_word(meta), Ordering::Relaxed);
        let version = ((link | VERSION_ONE).wrapping_add(VERSION_ONE)) & VERSION;
        entry(Self::LINK).store(version | link_word(meta), Ordering::Release);
    }

    /// Reserves a slot for a key that hashes to `hash`.
    fn claim(&self, hash: u64) -> Option<EntryId> {
        self.probe(hash).find_map(|bucket| {
            (0..LANES).find_map(|lane| {
                let at = EntryId((bucket * LANES + lane) as u32);
                let old = self.tags.line(bucket)[lane / 4].load(Ordering::Acquire);
                let passed = || self.epochs.passed(self.entry(at.0)(0).load(Ordering::Acquire));
                match (old >> (lane % 4 * 16)) as u16 {
                    FREE => self.swap_lane(at, FREE, CLAIMED).then_some(at),
                    DEAD if passed() && self.swap_lane(at, DEAD, CLAIMED) => {
                        // Another insert may have used the slot, and a removal freed it again, since the look.
                        if passed() {
                            return Some(at);
                        }
                        self.set_lane(at, DEAD);
                        None
                    }
                    _ => None,
                }
            })
        })
    }

    fn set_lane(&self, at: EntryId, tag: u16) {
        let (bucket, lane) = (at.0 as usize / LANES, at.0 as usize % LANES);
        set_lane(self.tags.line(bucket), lane, |_| Some(tag));
    }

    fn swap_lane(&self, at: EntryId, old: u16, new: u16) -> bool {
        let (bucket, lane) = (at.0 as usize / LANES, at.0 as usize % LANES);
        set_lane(self.tags.line(bucket), lane, |have| (have == old).then_some(new))
    }

    fn count_overflow(&self, hash: u64, by: i16) {
        let first = self.tags.line(self.first_bucket(hash));
        set_lane(first, LANES, |count| Some(count.wrapping_add_signed(by)));
    }

    fn lock_pair(&self, hashes: (u64, u64)) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let stripe = |hash| self.first_bucket(hash) % STRIPES;
        let (a, b) = (stripe(hashes.0), stripe(hashes.1));
        // Always the lower first, so that two inserts never wait for each other.
        let lock = |n: usize| self.stripes[n].lock().unwrap_or_else(PoisonError::into_inner);
        let first = lock(a.min(b));
        (first, (a != b).then(|| lock(a.max(b))))
    }
}

// USED: last seen 24 | plain 1 | packets 39.
const PLAIN: u64 = 1 << 39;
const PACKETS: u64 = PLAIN - 1;

// LINK: tally 20 | session 28 | version 16.
const VERSION: u64 = 0xffff;
const VERSION_ONE: u64 = 1;

fn link_word(meta: &Meta) -> u64 {
    u64::from(meta.tally & 0xf_ffff) << 44 | u64::from(meta.session.0 & 0xfff_ffff) << 16
}

// OUTPUT: generation 32 | adjacency 24 | denied 1 | switched 1 | hops 2.
fn output_word(meta: &Meta) -> u64 {
    let flags = u64::from(meta.denied) << 3 | u64::from(meta.switched) << 2 | u64::from(meta.hops & 3);
    u64::from(meta.generation.0) << 32 | u64::from(meta.adjacency & 0xff_ffff) << 8 | flags
}

fn meta_from(output: u64, link: u64) -> Meta {
    Meta {
        adjacency: (output >> 8) as u32 & 0xff_ffff,
        hops: (output & 3) as u8,
        switched: output & 4 != 0,
        denied: output & 8 != 0,
        generation: Generation((output >> 32) as u32),
        session: SessionId((link >> 16) as u32 & 0xfff_ffff),
        tally: (link >> 44) as u32,
    }
}

fn rewrite_words<A: Address>(r: &Rewrite<A>) -> [u64; 5] {
    let (src, dst) = (r.src.bits(), r.dst.bits());
    let deltas = u64::from(r.l3.0) << 16 | u64::from(r.l4.0);
    let rest = u64::from(r.sport) << 48 | u64::from(r.dport) << 32 | deltas;
    if A::LEN == 4 {
        [(src as u64) << 32 | dst as u64, rest, 0, 0, 0]
    } else {
        [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, rest]
    }
}

fn rewrite_from<A: Address>(words: &[u64]) -> Rewrite<A> {
    let (src, dst, rest) = match *words {
        [a, rest] => (u128::from(a >> 32), u128::from(a as u32), rest),
        [a, b, c, d, rest] => {
            (u128::from(a) << 64 | u128::from(b), u128::from(c) << 64 | u128::from(d), rest)
        }
        _ => (0, 0, 0),
    };
    Rewrite {
        src: A::from_bits(src),
        dst: A::from_bits(dst),
        sport: (rest >> 48) as u16,
        dport: (rest >> 32) as u16,
        l3: Delta((rest >> 16) as u16),
        l4: Delta(rest as u16),
    }
}

/// Tags are never one of the marks.
fn tag_of(hash: u64) -> u16 {
    match hash as u16 {
        FREE => 1,
        DEAD | CLAIMED => 0xfffd,
        tag => tag,
    }
}

fn overflow(tags: &[AtomicU64; 8]) -> u16 {
    (tags[7].load(Ordering::Relaxed) >> 48) as u16
}

/// The top bit of every 16-bit lane of `word` that equals `tag` (exact: no carry crosses a lane).
fn lanes_equal(word: u64, tag: u16) -> u64 {
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;
    let x = word ^ u64::from(tag).wrapping_mul(0x0001_0001_0001_0001);
    !(((x & LOW) + LOW) | x | LOW)
}

/// Changes one lane of a tag line; `false` if `change` declines.
fn set_lane(tags: &[AtomicU64; 8], lane: usize, change: impl Fn(u16) -> Option<u16>) -> bool {
    let shift = lane % 4 * 16;
    tags[lane / 4]
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let new = change((word >> shift) as u16)?;
            Some(word & !(0xffff << shift) | u64::from(new) << shift)
        })
        .is_ok()
}

/// Cache lines of atomic words, zeroed by the system when first touched.
struct Lines {
    words: Box<[AtomicU64]>,
    /// Words before the first whole cache line.
    skip: usize,
}

impl Lines {
    fn new(lines: usize) -> Self {
        let words: Box<[AtomicU64]> = bytemuck::zeroed_slice_box(lines * 8 + 7);
        let skip = words.as_ptr().addr().wrapping_neg() % 64 / 8;
        Self { words, skip }
    }

    fn line(&self, n: usize) -> &[AtomicU64; 8] {
        let (lines, _) = self.words[self.skip..].as_chunks::<8>();
        &lines[n]
    }
}

#[cfg(test)]
mod tests;
