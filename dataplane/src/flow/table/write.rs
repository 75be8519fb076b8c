//! Who changes the table: connections that come, change and go.

use super::{
    EntryId, FlowTable, STRIPES, Spot, Taken,
    entry::{Meta, OPENING, Tick, VERSION, VERSION_ONE, hidden, link_word, meta_from, output_word},
    slot,
    tags::{DEAD, FREE, set_lane, tag_of},
};
use crate::{
    flow::{FlowKey, epochs::NEVER},
    id::Generation,
    rewrite::Rewrite,
    sync::{BriefGuard, Ordering, fence},
    vector::{self, LANES},
    wire::Address,
};

impl<A: Address> FlowTable<A> {
    /// Adds the two entries of a connection, or neither. The spots are those of their keys.
    ///
    /// # Errors
    /// One of the keys is taken, or there is no room near one of them.
    pub fn insert_pair(
        &self,
        forward: (&FlowKey<A>, &Rewrite<A>, &Meta),
        reverse: (&FlowKey<A>, &Rewrite<A>, &Meta),
        spots: (Spot, Spot),
        now: Tick,
    ) -> Result<(EntryId, EntryId), Taken<A>> {
        let hashes = (spots.0.hash, spots.1.hash);
        debug_assert_eq!(hashes, (self.hash(forward.0), self.hash(reverse.0)));
        let _locks = self.lock_pair(hashes);
        if let Some(found) = self.find_hashed(forward.0, hashes.0) {
            return Err(Taken::Forward(found));
        }
        if forward.0 == reverse.0 || self.find_hashed(reverse.0, hashes.1).is_some() {
            return Err(Taken::Reverse);
        }
        let first = self.claim(spots.0).ok_or(Taken::Full)?;
        let Some(second) = self.claim(spots.1) else {
            self.set_lane(first, FREE);
            return Err(Taken::Full);
        };
        for (slot, hash, (key, rewrite, meta)) in [(second, hashes.1, reverse), (first, hashes.0, forward)] {
            self.count_passed(hash, slot, 1);
            let entry = self.entry(slot.0);
            let link = hidden(entry(Self::LINK).load(Ordering::Relaxed));
            entry(Self::LINK).store(link, Ordering::Relaxed);
            fence(Ordering::Release);
            for (at, word) in key.words()[..FlowKey::<A>::WORDS].iter().enumerate() {
                entry(at).store(*word, Ordering::Relaxed);
            }
            for (at, word) in rewrite.words()[..Self::REWRITE_WORDS].iter().enumerate() {
                entry(Self::REWRITE + at).store(*word, Ordering::Relaxed);
            }
            entry(Self::OUTPUT).store(output_word(meta), Ordering::Relaxed);
            entry(Self::USED).store(u64::from(now.0) << 40, Ordering::Relaxed);
            entry(Self::BYTES).store(0, Ordering::Relaxed);
            entry(Self::LINK).store(next_version(link) | link_word(meta), Ordering::Release);
        }
        // Under the stripe's lock, so that nobody else writes.
        let inserted = &self.stripe(hashes.0).inserted;
        inserted.store(inserted.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        Ok((first, second))
    }

    /// Replaces what a live entry says. Its counters stay. The caller holds the session's lock.
    pub fn update(&self, at: EntryId, rewrite: &Rewrite<A>, meta: &Meta) {
        self.write(at.0, rewrite, meta);
    }

    /// Marks a live entry as judged in `generation`; its rewrite stays. The caller holds the session's lock.
    pub fn stamp(&self, at: EntryId, generation: Generation) {
        let output = self.entry(at.0)(Self::OUTPUT);
        let word = output.load(Ordering::Relaxed);
        output.store(word & 0xffff_ffff | u64::from(generation.0) << 32, Ordering::Release);
    }

    /// A live entry's connection is open: its packets may be hits. The caller holds the session's lock.
    pub fn opened(&self, at: EntryId) {
        // In one step, as hits stamp the entry meanwhile.
        self.entry(at.0)(Self::OUTPUT).fetch_and(!OPENING, Ordering::Release);
    }

    /// Denies a live entry's packets, judged in `generation` and counted under `tally`; its rewrite stays. The
    /// caller holds the session's lock.
    pub fn deny(&self, at: EntryId, generation: Generation, tally: u32) {
        let entry = self.entry(at.0);
        let (output, link) = (entry(Self::OUTPUT), entry(Self::LINK));
        let meta = meta_from(output.load(Ordering::Relaxed), link.load(Ordering::Relaxed));
        self.change(at.0, &Meta { generation, tally, denied: true, ..meta }, || {});
    }

    /// Removes the two entries of a connection. The caller holds the session's lock.
    pub fn remove_pair(&self, (forward, reverse): (EntryId, EntryId)) {
        let hashes = (self.hash(&self.key(forward)), self.hash(&self.key(reverse)));
        // Both in one epoch, which begins when both are unlinked.
        self.unlink(forward, hashes.0);
        self.unlink(reverse, hashes.1);
        let epoch = self.epochs.retire();
        for at in [forward, reverse] {
            self.entry(at.0)(0).store(epoch, Ordering::Release);
        }
        self.stripe(hashes.0).removed.fetch_add(1, Ordering::Relaxed);
    }

    fn unlink(&self, at: EntryId, hash: u64) {
        let entry = self.entry(at.0);
        let link = entry(Self::LINK).load(Ordering::Relaxed);
        entry(Self::LINK).store(hidden(link), Ordering::Relaxed);
        fence(Ordering::Release);
        // In no epoch at all until the entry is unlinked.
        entry(0).store(NEVER, Ordering::Release);
        self.set_lane(at, DEAD);
        self.count_passed(hash, at, -1);
    }

    /// Writes rewrite and meta between two versions.
    fn write(&self, at: u32, rewrite: &Rewrite<A>, meta: &Meta) {
        self.change(at, meta, || {
            let entry = self.entry(at);
            for (n, word) in rewrite.words()[..Self::REWRITE_WORDS].iter().enumerate() {
                entry(Self::REWRITE + n).store(*word, Ordering::Relaxed);
            }
        });
    }

    /// Writes meta, and what `write` writes, between two versions.
    fn change(&self, at: u32, meta: &Meta, write: impl FnOnce()) {
        let entry = self.entry(at);
        let link = entry(Self::LINK).load(Ordering::Relaxed);
        entry(Self::LINK).store(link | VERSION_ONE, Ordering::Relaxed);
        fence(Ordering::Release);
        write();
        entry(Self::OUTPUT).store(output_word(meta), Ordering::Relaxed);
        entry(Self::LINK).store(next_version(link) | link_word(meta), Ordering::Release);
    }

    /// Sets a key's tag at a slot that is nobody's, to be written.
    fn claim(&self, spot: Spot) -> Option<EntryId> {
        let tag = tag_of(spot.hash);
        let takes = |slot: &EntryId| self.swap_lane(*slot, FREE, tag) || self.claim_dead(*slot, tag);
        spot.slot.filter(takes).or_else(|| self.way(spot.hash).find_map(|bucket| self.claim_in(bucket, tag)))
    }

    #[cold]
    #[inline(never)]
    fn claim_in(&self, bucket: usize, tag: u16) -> Option<EntryId> {
        let line = &self.tags[bucket];
        let mut free = vector::lanes(line, FREE);
        while free != 0 {
            if self.swap_lane(slot(bucket, free), FREE, tag) {
                return Some(slot(bucket, free));
            }
            free &= free - 1;
        }
        let mut dead = vector::lanes(line, DEAD);
        while dead != 0 {
            if self.claim_dead(slot(bucket, dead), tag) {
                return Some(slot(bucket, dead));
            }
            dead &= dead - 1;
        }
        None
    }

    /// Sets a tag at the slot of a removed entry, if nobody can hold that any more.
    pub(super) fn claim_dead(&self, at: EntryId, tag: u16) -> bool {
        let passed = || self.epochs.passed(self.entry(at.0)(0).load(Ordering::Acquire));
        if !passed() || !self.swap_lane(at, DEAD, tag) {
            return false;
        }
        // Another insert may have used the slot, and a removal freed it again, since the look.
        let passed = passed();
        if !passed {
            self.set_lane(at, DEAD);
        }
        passed
    }

    pub(super) fn set_lane(&self, at: EntryId, tag: u16) {
        let (bucket, lane) = (at.0 as usize / LANES, at.0 as usize % LANES);
        set_lane(&self.tags[bucket], lane, |_| Some(tag));
    }

    fn swap_lane(&self, at: EntryId, old: u16, new: u16) -> bool {
        let (bucket, lane) = (at.0 as usize / LANES, at.0 as usize % LANES);
        set_lane(&self.tags[bucket], lane, |have| (have == old).then_some(new))
    }

    /// Takes note of an entry in the buckets that its key's way passes before it.
    fn count_passed(&self, hash: u64, at: EntryId, by: i16) {
        let bucket = at.0 as usize / LANES;
        if bucket == self.first_bucket(hash) {
            return;
        }
        for passed in self.way(hash).take_while(|passed| *passed != bucket) {
            set_lane(&self.tags[passed], LANES, |count| Some(count.wrapping_add_signed(by)));
        }
    }

    fn lock_pair(&self, hashes: (u64, u64)) -> (BriefGuard<'_>, Option<BriefGuard<'_>>) {
        let stripe = |hash| self.first_bucket(hash) % STRIPES;
        let (a, b) = (stripe(hashes.0), stripe(hashes.1));
        // Always the lower first, so that two inserts never wait for each other.
        let lock = |n: usize| self.stripes[n].lock.lock();
        let first = lock(a.min(b));
        (first, (a != b).then(|| lock(a.max(b))))
    }
}

/// The even version after that of `link`.
fn next_version(link: u64) -> u64 {
    (link | VERSION_ONE).wrapping_add(VERSION_ONE) & VERSION
}
