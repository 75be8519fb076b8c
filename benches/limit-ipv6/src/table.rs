//! The session table: a line of 31 tags and an overflow count for each bucket, and the entries in the order of
//! their tags, two lines each.
//!
//! A look-up compares one line and knows the entry's place; only when the bucket has overflowed are others asked. Filled
//! to 80 %.

use crate::{
    frame::{self, KEY_LEN, Tuple},
    machine,
};
use core::arch::x86_64::*;

/// One direction of a connection.
#[repr(C, align(128))]
pub struct Entry {
    pub key: [u8; KEY_LEN],
    /// What the rewrite does to the checksum.
    pub sum_delta: u16,
    pub next_hop: u16,
    pub out: u16,
    pub rule: u16,
    pub last_seen: u32,
    pub packets: u32,
    pub bytes: u64,
    /// The key's place in the frame afterwards; its first four bytes are not used.
    pub edit: [u8; KEY_LEN],
    /// What a product keeps here too: peer, version, state.
    _rest: [u8; 24],
}

const _: () = assert!(size_of::<Entry>() == 128 && std::mem::offset_of!(Entry, edit) == 64);

const TAGS: usize = 31;
const LANES: usize = 32;

#[repr(C, align(64))]
struct Bucket {
    /// 0 is free. The last counts entries that found this bucket full.
    tags: [u16; LANES],
}

pub struct Table {
    buckets: *mut Bucket,
    entries: *mut Entry,
    count: u32,
}

fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

fn share(hash: u32, count: u32) -> u32 {
    ((u64::from(hash) * u64::from(count)) >> 32) as u32
}

impl Table {
    /// With both directions of `connections`.
    pub fn of(connections: u32) -> Self {
        let count = (f64::from(connections) * 2.0 / 0.8 / TAGS as f64).ceil().max(2.0) as u32;
        let mut table = Self {
            buckets: machine::memory(count as usize * size_of::<Bucket>()).cast(),
            entries: machine::memory(count as usize * LANES * size_of::<Entry>()).cast(),
            count,
        };
        for n in 0..connections {
            for back in [false, true] {
                let (from, to) = frame::connection(n, back);
                table.insert(&from, &to, n);
            }
        }
        table
    }

    /// Bytes that a connection takes.
    pub fn bytes_each(&self, connections: u32) -> f64 {
        f64::from(self.count) * (size_of::<Bucket>() + LANES * size_of::<Entry>()) as f64
            / f64::from(connections)
    }

    fn first(&self, hash: u64) -> u32 {
        share(hash as u32, self.count)
    }

    fn second(&self, hash: u64) -> u32 {
        share((hash >> 16) as u32 ^ (hash as u32).rotate_left(13).wrapping_mul(0x9e37_79b1), self.count)
    }

    fn tags(&self, at: u32) -> &[u16; LANES] {
        debug_assert!(at < self.count);
        // SAFETY: `at` is below `count`, and nobody writes meanwhile.
        unsafe { &(*self.buckets.add(at as usize)).tags }
    }

    fn tags_mut(&mut self, at: u32) -> &mut [u16; LANES] {
        debug_assert!(at < self.count);
        // SAFETY: `at` is below `count`, and nobody else has the table.
        unsafe { &mut (*self.buckets.add(at as usize)).tags }
    }

    /// An entry by bucket and lane.
    #[inline(always)]
    pub fn entry(&self, at: u32) -> *mut Entry {
        // Every index that this table gives out is below `count * LANES`.
        self.entries.wrapping_add(at as usize)
    }

    fn insert(&mut self, from: &Tuple, to: &Tuple, n: u32) {
        let key = frame::key(from);
        let hash = frame::hash(&key);
        let mut at = self.first(hash);
        let mut lanes = self.matching(at, 0);
        if lanes == 0 {
            self.tags_mut(at)[TAGS] += 1;
            at = self.second(hash);
            lanes = self.matching(at, 0);
            while lanes == 0 {
                self.tags_mut(at)[TAGS] += 1;
                at = (at + 1) % self.count;
                lanes = self.matching(at, 0);
            }
        }
        let lane = lanes.trailing_zeros();
        self.tags_mut(at)[lane as usize] = tag(hash);
        let entry = Entry {
            key,
            sum_delta: frame::sum_delta(from, to),
            next_hop: (n % 251) as u16,
            out: (n % 64) as u16,
            rule: (n.wrapping_mul(0x85eb_ca6b) >> 16) as u16 % 1000,
            last_seen: 0,
            packets: 0,
            bytes: 0,
            edit: frame::key(to),
            _rest: [0; 24],
        };
        // SAFETY: the lane is one of the bucket's, so the entry lies in the mapping.
        unsafe { self.entry(at * LANES as u32 + lane).write(entry) };
    }

    /// Lanes of a bucket with this tag, a bit each.
    #[inline(always)]
    fn matching(&self, bucket: u32, tag: u16) -> u32 {
        // SAFETY: buckets given out are below `count`, and lines are aligned.
        unsafe {
            let line = _mm512_load_si512(self.buckets.add(bucket as usize).cast());
            _mm512_cmpeq_epi16_mask(line, _mm512_set1_epi16(tag as i16)) & 0x7fff_ffff
        }
    }

    /// Fetches the line of tags.
    #[inline(always)]
    pub fn fetch_tags(&self, hash: u64) {
        let line = self.buckets.wrapping_add(self.first(hash) as usize);
        // SAFETY: a prefetch touches nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    /// Where the entry is if no other has its tag, fetched for writing: both lines.
    #[inline(always)]
    pub fn guess(&self, hash: u64) -> u32 {
        let bucket = self.first(hash);
        // Without a match it is the lane of the overflow count, whose entry is never used.
        let lane = (self.matching(bucket, tag(hash)) | 1 << TAGS).trailing_zeros();
        let at = bucket * LANES as u32 + lane;
        let line: *mut i8 = self.entry(at).cast();
        // SAFETY: a prefetch touches nothing.
        unsafe {
            _mm_prefetch::<_MM_HINT_ET0>(line);
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64));
        }
        at
    }

    /// The entry of a key, wherever it is.
    #[inline(never)]
    pub fn find(&self, hash: u64, is: impl Fn(*mut Entry) -> bool) -> Option<*mut Entry> {
        let in_bucket = |at: u32| {
            let mut lanes = self.matching(at, tag(hash));
            std::iter::from_fn(|| {
                let lane = lanes.trailing_zeros();
                (lanes != 0).then(|| lanes &= lanes - 1)?;
                Some(self.entry(at * LANES as u32 + lane))
            })
            .find(|entry| is(*entry))
        };
        let mut at = self.first(hash);
        let mut found = in_bucket(at);
        let mut next = self.second(hash);
        while found.is_none() && self.tags(at)[TAGS] != 0 {
            at = next;
            found = in_bucket(at);
            next = (at + 1) % self.count;
        }
        found
    }
}
