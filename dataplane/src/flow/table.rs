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
//! - A reader takes an entry's words between two looks at its version; an odd or changed version means it is
//!   being written, and the reader looks again. No reader ever blocks a writer.
//! - A tag says where an entry may be. Whether it is there the entry itself says: until it is written, and once
//!   it is removed, it is marked as nobody's, and readers pass it over.
//! - Of two racing inserts of one key, one wins: both lock the stripe of the key's first bucket.
//! - No live entry is overwritten. A removed entry's slot is reused when every worker has passed a batch
//!   boundary, so a worker may count into an entry it found earlier in its batch.
//! - A bucket's overflow count says how many entries were put further along a way that passes it. A look-up
//!   that meets a count of zero is at its end.
//! - The counters are stored without a lock: two workers that handle one direction at once may lose an update
//!   there, and nowhere else.
//!
//! An IPv4 entry is one cache line, an IPv6 entry two. Memory is taken from the system as it is touched. Here is
//! who reads; `write` has who changes.

mod entry;
mod tags;
mod write;

pub use entry::{Meta, Open, OpenV4, OpenV6, Tick, Usage};

use super::{Epochs, FlowKey};
use crate::{
    pages::{Line, Lines, lines},
    rewrite::Rewrite,
    sync::{Arc, AtomicU64, AtomicUsize, BriefLock, Ordering, Patience, fence},
    vector::{self, Engine, KeyV4, KeyV6, LANES},
    wire::Address,
};
use crossbeam::utils::CachePadded;
use entry::{FORWARD, PACKETS, VERSION_ONE};
use entry::{is_hidden, last_used, meta_from};
use std::marker::PhantomData;
use tags::{DEAD, FREE, live_lanes, overflow, tag_of};

/// Buckets there are at least.
const BUCKETS: usize = if cfg!(shuttle) { 3 } else { 8 };

/// Buckets on the way of a key at most: its first, its second, and those after the second.
const PROBES: usize = 64;

const STRIPES: usize = if cfg!(shuttle) { 4 } else { 256 };

/// Entries for a hundred lanes.
pub(super) const LOAD: usize = 85;

/// An entry's place in its table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryId(pub(super) u32);

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

/// Where an entry of a key that is not in the table will go, as far as one can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    /// The key's hash.
    hash: u64,
    /// The slot that was free when it was looked for.
    slot: Option<EntryId>,
}

impl Spot {
    /// The key's hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl From<u64> for Spot {
    /// Anywhere for a key with this hash.
    fn from(hash: u64) -> Self {
        Self { hash, slot: None }
    }
}

/// No entry has this place: a key may be further along its way.
pub const NOWHERE: u32 = u32::MAX;

/// No entry has this place: a key was not in the table when it was looked for.
pub const ABSENT: u32 = u32::MAX - 1;

/// A table of flow entries for one address family, shared by all workers.
pub struct FlowTable<A> {
    engine: Engine,
    buckets: usize,
    tags: Lines,
    entries: Lines,
    stripes: Box<[CachePadded<Stripe>]>,
    epochs: Arc<Epochs>,
    family: PhantomData<A>,
}

#[derive(Default)]
struct Stripe {
    lock: BriefLock,
    /// Connections that came and that went whose forward key's first bucket is of this stripe.
    inserted: AtomicUsize,
    removed: AtomicUsize,
}

/// A live entry of those who opened a connection, as the sweep passes it. Nothing of it is certain until its
/// session is locked.
#[derive(Clone, Copy, Debug)]
pub struct Passed<A> {
    /// Its key.
    pub key: FlowKey<A>,
    /// What it says.
    pub meta: Meta,
    /// When it was last used.
    pub last: Tick,
    entry: EntryId,
}

impl<A> Passed<A> {
    /// Its place.
    pub fn entry(&self) -> EntryId {
        self.entry
    }
}

impl FlowTable<u32> {
    /// The entry at `at`, if that has this key.
    #[inline(always)]
    pub fn open(&self, at: u32, key: &KeyV4) -> Option<OpenV4<'_>> {
        let line = self.entries.get(at as usize)?;
        let word = |n: usize| line.0[n].load(Ordering::Relaxed);
        let link = line.0[Self::LINK].load(Ordering::Acquire);
        let other = (word(0) ^ key[0]) | (word(1) ^ key[1]) | (link & VERSION_ONE);
        (other == 0).then(|| Open { lines: std::array::from_ref(line), output: word(Self::OUTPUT), link })
    }
}

impl FlowTable<u128> {
    /// The entry at `at`, if that has this key.
    #[inline(always)]
    pub fn open(&self, at: u32, key: &KeyV6) -> Option<OpenV6<'_>> {
        let at = at as usize * 2;
        let lines: &[Line; 2] = self.entries.get(at..at + 2)?.first_chunk()?;
        let word = |n: usize| lines[0].0[n].load(Ordering::Relaxed);
        let link = lines[0].0[Self::LINK].load(Ordering::Acquire);
        let other = (0..5).fold(link & VERSION_ONE, |other, n| other | (word(n) ^ key[n]));
        (other == 0).then(|| Open { lines, output: word(Self::OUTPUT), link })
    }
}

impl<A: Address> FlowTable<A> {
    const REWRITE: usize = if A::LEN == 4 { 2 } else { 8 };
    const REWRITE_WORDS: usize = if A::LEN == 4 { 2 } else { 5 };
    const OUTPUT: usize = if A::LEN == 4 { 4 } else { 5 };
    const LINK: usize = Self::OUTPUT + 1;
    const USED: usize = Self::OUTPUT + 2;
    const BYTES: usize = if A::LEN == 4 { 7 } else { 13 };
    const ENTRY_LINES: usize = if A::LEN == 4 { 1 } else { 2 };

    /// A table with room for `connections`, two entries each, at 85 % load.
    pub fn new(connections: usize, engine: Engine, epochs: Arc<Epochs>) -> Self {
        let buckets = (connections * 2 * 100).div_ceil(LOAD * LANES).max(BUCKETS);
        Self {
            engine,
            buckets,
            tags: lines(buckets),
            entries: lines(buckets * LANES * Self::ENTRY_LINES),
            stripes: (0..STRIPES).map(|_| CachePadded::default()).collect(),
            epochs,
            family: PhantomData,
        }
    }

    /// Entries in use.
    pub fn live(&self) -> usize {
        // What went is read first, so that nothing is counted as gone that is not counted as come.
        let sum = |of: fn(&Stripe) -> &AtomicUsize| {
            self.stripes.iter().map(|s| of(s).load(Ordering::Relaxed)).fold(0, usize::wrapping_add)
        };
        let removed = sum(|s| &s.removed);
        2 * sum(|s| &s.inserted).wrapping_sub(removed)
    }

    /// Bytes of memory the table may come to use.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.tags) + size_of_val(&*self.entries)
    }

    /// Buckets, for the sweep.
    pub fn buckets(&self) -> usize {
        self.buckets
    }

    /// Where the keys with these hashes may be, by their tags: at most 64. The entries are asked for, to be
    /// written. A guess may be wrong, [`NOWHERE`] included: what is not [`ABSENT`] only a look-up can tell.
    #[inline]
    pub fn guess(&self, hashes: &[u64], guesses: &mut [u32]) {
        let (mut at, mut tags, mut masks) = ([0; vector::MOST], [0; vector::MOST], [0; vector::MOST]);
        let count = hashes.len().min(vector::MOST);
        let tag_lines = &*self.tags;
        for ((hash, at), tag) in hashes.iter().zip(&mut at).zip(&mut tags) {
            let bucket = self.first_bucket(*hash);
            vector::prefetch_read_at(tag_lines, bucket);
            (*at, *tag) = (bucket as u32, tag_of(*hash));
        }
        self.engine.match_tags(tag_lines, &at[..count], &tags[..count], &mut masks[..count]);
        let ask = |entry: u32| {
            for line in 0..Self::ENTRY_LINES {
                vector::prefetch_write_at(&self.entries, entry as usize * Self::ENTRY_LINES + line);
            }
        };
        // One in fifty of a full table has left its first bucket.
        let (mut elsewhere, mut others) = ([0_u8; vector::MOST], 0);
        for (n, ((guess, at), mask)) in guesses.iter_mut().zip(&at[..count]).zip(&masks).enumerate() {
            let entry = at * LANES as u32 + mask.trailing_zeros();
            ask(entry);
            *guess = entry;
            if *mask == 0 {
                let ends = tag_lines.get(*at as usize).is_none_or(|line| overflow(line) == 0);
                *guess = if ends { ABSENT } else { NOWHERE };
                if !ends {
                    vector::prefetch_read_at(tag_lines, self.second_bucket(hashes[n]));
                    elsewhere[others % vector::MOST] = n as u8;
                    others += 1;
                }
            }
        }
        for n in elsewhere[..others.min(vector::MOST)].iter().map(|n| usize::from(*n)) {
            let bucket = self.second_bucket(hashes[n]);
            let mask = tag_lines.get(bucket).map_or(0, |line| vector::lanes(line, tags[n]));
            if mask != 0 {
                guesses[n] = bucket as u32 * LANES as u32 + mask.trailing_zeros();
                ask(guesses[n]);
            }
        }
    }

    /// Asks for the tags that a look-up of this key begins with, and returns the key's hash.
    pub fn prefetch(&self, key: &FlowKey<A>) -> u64 {
        let hash = self.hash(key);
        vector::prefetch_read_at(&self.tags, self.first_bucket(hash));
        hash
    }

    /// Finds the slot that an insert of a key with this hash will probably take, and asks for it and for the
    /// lock.
    pub fn look_for_slot(&self, hash: u64) -> Spot {
        let bucket = self.first_bucket(hash);
        vector::prefetch_write_at(&self.stripes, bucket % STRIPES);
        let free = vector::lanes(&self.tags[bucket], FREE);
        let lanes = if free != 0 { free } else { vector::lanes(&self.tags[bucket], DEAD) };
        let slot = slot(bucket, lanes);
        for line in 0..Self::ENTRY_LINES {
            vector::prefetch_write_at(&self.entries, slot.0 as usize * Self::ENTRY_LINES + line);
        }
        Spot { hash, slot: (lanes != 0).then_some(slot) }
    }

    /// Looks up one key.
    pub fn find(&self, key: &FlowKey<A>) -> Option<Found<A>> {
        self.find_hashed(key, self.hash(key))
    }

    /// Where a key is, if it is in the table; `hash` is the key's.
    pub fn place_of(&self, key: &FlowKey<A>, hash: u64) -> Option<u32> {
        self.find_hashed(key, hash).map(|found| found.entry.0)
    }

    /// Looks up a key with this hash.
    pub fn find_hashed(&self, key: &FlowKey<A>, hash: u64) -> Option<Found<A>> {
        let first = self.first_bucket(hash);
        let found = self.look_into(first, key, hash);
        if found.is_some() || overflow(&self.tags[first]) == 0 {
            return found;
        }
        self.look_further(key, hash)
    }

    /// Looks into the buckets behind the first.
    #[cold]
    #[inline(never)]
    fn look_further(&self, key: &FlowKey<A>, hash: u64) -> Option<Found<A>> {
        for bucket in self.way(hash).skip(1) {
            let found = self.look_into(bucket, key, hash);
            if found.is_some() || overflow(&self.tags[bucket]) == 0 {
                return found;
            }
        }
        None
    }

    #[inline(always)]
    fn look_into(&self, bucket: usize, key: &FlowKey<A>, hash: u64) -> Option<Found<A>> {
        let mut lanes = vector::lanes(&self.tags[bucket], tag_of(hash));
        fence(Ordering::Acquire);
        while lanes != 0 {
            let found = self.read(bucket * LANES + lanes.trailing_zeros() as usize, key);
            if found.is_some() {
                return found;
            }
            lanes &= lanes - 1;
        }
        None
    }

    /// Counts a packet into an entry.
    pub fn touch(&self, at: EntryId, now: Tick, bytes: usize) {
        let entry = self.entry(at.0);
        let used = entry(Self::USED).load(Ordering::Relaxed);
        let packets = ((used & PACKETS) + 1) & PACKETS;
        entry(Self::USED).store(u64::from(now.0) << 40 | packets, Ordering::Relaxed);
        let sum = entry(Self::BYTES).load(Ordering::Relaxed).wrapping_add(bytes as u64);
        entry(Self::BYTES).store(sum, Ordering::Relaxed);
    }

    /// What an entry has carried.
    pub fn usage(&self, at: EntryId) -> Usage {
        let entry = self.entry(at.0);
        let used = entry(Self::USED).load(Ordering::Relaxed);
        Usage {
            last: last_used(used),
            packets: used & PACKETS,
            bytes: entry(Self::BYTES).load(Ordering::Relaxed),
        }
    }

    /// The key of a live entry. The caller holds the session's lock.
    pub fn key(&self, at: EntryId) -> FlowKey<A> {
        let entry = self.entry(at.0);
        let word = |n| if n < FlowKey::<A>::WORDS { entry(n).load(Ordering::Relaxed) } else { 0 };
        FlowKey::from_words(std::array::from_fn(word))
    }

    /// What a live entry says. The caller holds the session's lock.
    pub fn meta(&self, at: EntryId) -> Meta {
        let entry = self.entry(at.0);
        meta_from(entry(Self::OUTPUT).load(Ordering::Relaxed), entry(Self::LINK).load(Ordering::Relaxed))
    }

    /// Passes over a bucket and shows every live entry of those who opened a connection. Asks for the tags of
    /// the bucket after the next, whose entries [`prefetch_bucket`](Self::prefetch_bucket) is for.
    pub fn pass(&self, bucket: usize, mut see: impl FnMut(&Passed<A>)) {
        vector::prefetch_read_at(&self.tags, bucket + 2);
        let Some(line) = self.tags.get(bucket) else { return };
        let mut lanes = live_lanes(line);
        while lanes != 0 {
            let at = (bucket * LANES) as u32 + lanes.trailing_zeros();
            lanes &= lanes - 1;
            let entry = self.entry(at);
            let output = entry(Self::OUTPUT).load(Ordering::Relaxed);
            if output & FORWARD == 0 {
                continue;
            }
            let link = entry(Self::LINK).load(Ordering::Relaxed);
            if is_hidden(link) {
                continue;
            }
            let meta = meta_from(output, link);
            let last = last_used(entry(Self::USED).load(Ordering::Relaxed));
            let entry = EntryId(at);
            see(&Passed { key: self.key(entry), meta, last, entry });
        }
    }

    /// Asks for the entries of a bucket, which the sweep will pass next.
    pub fn prefetch_bucket(&self, bucket: usize) {
        let Some(line) = self.tags.get(bucket) else { return };
        let mut lanes = live_lanes(line);
        while lanes != 0 {
            let at = bucket * LANES + lanes.trailing_zeros() as usize;
            lanes &= lanes - 1;
            if let Some(line) = self.entries.get(at * Self::ENTRY_LINES) {
                vector::prefetch_read(line);
            }
        }
    }

    /// Asks for a live entry, to be read soon.
    pub fn prefetch_entry(&self, at: EntryId) {
        vector::prefetch_read_at(&self.entries, at.0 as usize * Self::ENTRY_LINES);
    }

    /// Asks for a live entry and its tag, to be removed soon.
    pub fn prefetch_removal(&self, at: EntryId) {
        vector::prefetch_write_at(&self.entries, at.0 as usize * Self::ENTRY_LINES);
        vector::prefetch_write_at(&self.tags, at.0 as usize / LANES);
    }

    /// The hash of a key.
    pub fn hash(&self, key: &FlowKey<A>) -> u64 {
        if A::LEN == 4 { self.engine.hash_v4(&key.v4()) } else { self.engine.hash_v6(key.v6()) }
    }

    #[inline(always)]
    fn first_bucket(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buckets as u128) >> 64) as usize
    }

    /// From other bits than those of the first bucket and of the tag.
    #[inline(always)]
    fn second_bucket(&self, hash: u64) -> usize {
        self.first_bucket(hash.rotate_left(24))
    }

    fn stripe(&self, hash: u64) -> &Stripe {
        &self.stripes[self.first_bucket(hash) % STRIPES]
    }

    /// The buckets where a key with this hash may be, in the order in which they are tried.
    fn way(&self, hash: u64) -> impl Iterator<Item = usize> + use<A> {
        let (first, buckets) = (self.first_bucket(hash), self.buckets);
        let second = self.second_bucket(hash);
        let wrap = move |n: usize| if n < buckets { n } else { n - buckets };
        std::iter::once(first).chain((0..buckets.min(PROBES) - 1).map(move |n| wrap(second + n)))
    }

    fn entry<'a>(&'a self, at: u32) -> impl Fn(usize) -> &'a AtomicU64 {
        let first = at as usize * Self::ENTRY_LINES;
        let lines = &self.entries[first..first + Self::ENTRY_LINES];
        move |word| &lines[word / 8].0[word % 8]
    }

    /// Copies an entry if it is alive and has this key.
    fn read(&self, at: usize, key: &FlowKey<A>) -> Option<Found<A>> {
        let entry = self.entry(at as u32);
        let mut patience = Patience::default();
        loop {
            let link = entry(Self::LINK).load(Ordering::Acquire);
            if is_hidden(link) {
                return None;
            }
            if link & VERSION_ONE != 0 {
                patience.wait();
                continue;
            }
            let same = (0..FlowKey::<A>::WORDS).all(|n| entry(n).load(Ordering::Relaxed) == key.words()[n]);
            let mut rewrite = [0; 5];
            for (n, word) in rewrite[..Self::REWRITE_WORDS].iter_mut().enumerate() {
                *word = entry(Self::REWRITE + n).load(Ordering::Relaxed);
            }
            let output = entry(Self::OUTPUT).load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if entry(Self::LINK).load(Ordering::Relaxed) != link {
                continue;
            }
            if !same {
                return None;
            }
            let rewrite = Rewrite::from_words(&rewrite[..Self::REWRITE_WORDS]);
            return Some(Found { entry: EntryId(at as u32), rewrite, meta: meta_from(output, link) });
        }
    }
}

/// The slot of the first of some lanes.
fn slot(bucket: usize, lanes: u32) -> EntryId {
    EntryId((bucket * LANES) as u32 + lanes.trailing_zeros())
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
