//! Free ports of one egress address and protocol.
//!
//! ```text
//!   pool ─▶ 16 blocks of 4,096 ports ─▶ one bit a word that has a free port ─▶ 64 words, one bit a port
//! ```
//!
//! A claim of the port a connection asks for is one atomic step on its word. When that port is taken, a look at
//! the blocks' summaries leads to a word with a free one: 17 words at most, with one port free as with all of
//! them; only the answer "none" costs a look at everything. Nothing is locked, workers meet only in a word or a
//! summary, and every free port can be claimed by every worker. A [`PortClaim`] is owned and
//! gives its port back when dropped; running out is an ordinary answer.

use crate::sync::{AtomicU64, Ordering};
use crossbeam::utils::CachePadded;
use std::{fmt, ops::RangeInclusive};

/// The first port that is handed out; those below are for well-known services (RFC 6056, 3.2).
pub const FIRST: u16 = 1024;

/// The ports that are handed out.
pub const ALL: RangeInclusive<u16> = FIRST..=u16::MAX;

const WORDS: usize = 64;
const BLOCK: usize = WORDS * 64;
const BLOCKS: usize = (u16::MAX as usize + 1) / BLOCK;

/// The ports of one address and protocol, shared by all workers.
pub struct PortPool {
    blocks: [CachePadded<Block>; BLOCKS],
    /// Ports there are, free or not.
    all: u32,
}

/// A sixteenth of the ports.
struct Block {
    /// One bit a word of `free`: it may have a free port. Clear for no longer than a claim or a return takes
    /// while it has one.
    some: AtomicU64,
    /// One bit a port; set = free.
    free: [AtomicU64; WORDS],
}

impl PortPool {
    /// These ports are free, and no others are handed out; [`ALL`] of them unless there is a reason.
    pub fn new(ports: RangeInclusive<u16>) -> Self {
        let (first, last) = (usize::from(*ports.start()), usize::from(*ports.end()));
        // Bits of a word from `from` on.
        let above =
            |from: usize, at: usize| u64::MAX.checked_shl(from.saturating_sub(at) as u32).unwrap_or(0);
        let block = |b: usize| {
            let at = |w: usize| b * BLOCK + w * 64;
            let bits = |w: usize| above(first, at(w)) & !above(last + 1, at(w));
            let some = (0..WORDS).filter(|w| bits(*w) != 0).fold(0, |some, w| some | 1 << w);
            let free = std::array::from_fn(|w| AtomicU64::new(bits(w)));
            CachePadded::new(Block { some: AtomicU64::new(some), free })
        };
        Self { blocks: std::array::from_fn(block), all: ports.count() as u32 }
    }

    /// Claims `wanted` if it is free, else any free port; `None` when all are in use.
    pub fn claim(&self, wanted: u16) -> Option<PortClaim<'_>> {
        self.claim_counting(wanted, &mut 0)
    }

    /// Counts the words it looks at.
    fn claim_counting(&self, wanted: u16, words: &mut usize) -> Option<PortClaim<'_>> {
        *words += 1;
        let (block, word, bit) = place(wanted);
        if self.blocks[block].take(word, 1 << bit) {
            return Some(self.claimed(block, wanted));
        }
        let start = start(wanted);
        for block in blocks_from(start.0) {
            loop {
                *words += 1;
                let Some(word) = self.blocks[block].word_from(start.1) else { break };
                *words += 1;
                if let Some(bit) = self.blocks[block].take_any(word) {
                    return Some(self.claimed(block, port(block, word, bit)));
                }
            }
        }
        // A word whose last port was claimed and given back at once may lack its summary bit for a moment.
        for (block, word) in (0..BLOCKS).flat_map(|b| (0..WORDS).map(move |w| (b, w))) {
            *words += 1;
            if let Some(bit) = self.blocks[block].take_any(word) {
                return Some(self.claimed(block, port(block, word, bit)));
            }
        }
        None
    }

    /// The port that a claim would get now, as far as one can tell from a look; `wanted` if it would get none.
    pub fn likely(&self, wanted: u16) -> u16 {
        let (block, word, bit) = place(wanted);
        let free = |block: usize, word: usize| self.blocks[block].free[word].load(Ordering::Relaxed);
        if free(block, word) >> bit & 1 == 1 {
            return wanted;
        }
        let start = start(wanted);
        let found =
            blocks_from(start.0).find_map(|block| Some((block, self.blocks[block].word_from(start.1)?)));
        match found.map(|(block, word)| (block, word, free(block, word))) {
            Some((block, word, free)) if free != 0 => port(block, word, free.trailing_zeros()),
            _ => wanted,
        }
    }

    fn claimed(&self, block: usize, port: u16) -> PortClaim<'_> {
        PortClaim { block: Some(&self.blocks[block]), port }
    }

    /// Frees a port that was kept ([`PortClaim::keep`]).
    pub fn give_back(&self, port: u16) {
        let (block, word, bit) = place(port);
        self.blocks[block].give_back(word, bit);
    }

    /// Ports that are free.
    pub fn free(&self) -> u32 {
        let words = self.blocks.iter().flat_map(|b| &b.free);
        words.map(|w| w.load(Ordering::Relaxed).count_ones()).sum()
    }

    /// Ports that are in use.
    pub fn used(&self) -> u32 {
        self.all - self.free()
    }
}

impl fmt::Debug for PortPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortPool({} used)", self.used())
    }
}

/// Block, word and bit of a port.
fn place(port: u16) -> (usize, usize, u32) {
    let at = usize::from(port);
    (at / BLOCK, at / 64 % WORDS, u32::from(port % 64))
}

/// The port of a place.
fn port(block: usize, word: usize, bit: u32) -> u16 {
    (block * BLOCK + word * 64) as u16 + bit as u16
}

/// Where the search for another port than `wanted` begins: block and word. It differs from port to port, so
/// that workers rarely meet.
fn start(wanted: u16) -> (usize, usize) {
    let (block, word, _) = place(wanted.wrapping_mul(24_571).wrapping_add(FIRST));
    (block, word)
}

fn blocks_from(start: usize) -> impl Iterator<Item = usize> {
    (0..BLOCKS).map(move |n| (start + n) % BLOCKS)
}

impl Block {
    /// A word that may have a free port, the first from `start` on.
    fn word_from(&self, start: usize) -> Option<usize> {
        let some = self.some.load(Ordering::Acquire).rotate_right(start as u32);
        (some != 0).then(|| (start + some.trailing_zeros() as usize) % WORDS)
    }

    /// Takes the port of this bit, if it is free.
    fn take(&self, word: usize, bit: u64) -> bool {
        // Whoever claims a port sees all that its last owner did.
        let before = self.free[word].fetch_and(!bit, Ordering::AcqRel);
        if before == bit {
            self.emptied(word);
        }
        before & bit != 0
    }

    /// Takes any free port of a word.
    fn take_any(&self, word: usize) -> Option<u32> {
        loop {
            let free = self.free[word].load(Ordering::Acquire);
            if free == 0 {
                self.emptied(word);
                return None;
            }
            let bit = free.trailing_zeros();
            if self.take(word, 1 << bit) {
                return Some(bit);
            }
        }
    }

    /// A word has nothing left: its summary bit goes, unless a port comes back meanwhile. Whoever gives one back
    /// changes the word first and sets the bit then; here the bit goes first and the word is read then.
    fn emptied(&self, word: usize) {
        self.some.fetch_and(!(1 << word), Ordering::AcqRel);
        if self.free[word].load(Ordering::Acquire) != 0 {
            self.some.fetch_or(1 << word, Ordering::AcqRel);
        }
    }

    fn give_back(&self, word: usize, bit: u32) {
        if self.free[word].fetch_or(1 << bit, Ordering::AcqRel) == 0 {
            self.some.fetch_or(1 << word, Ordering::AcqRel);
        }
    }
}

/// A port in use by one session. Dropping it frees the port.
pub struct PortClaim<'a> {
    /// `None` once the port is somebody else's to give back.
    block: Option<&'a Block>,
    port: u16,
}

impl PortClaim<'_> {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leaves the port in use, to be given back with [`PortPool::give_back`].
    pub fn keep(self) -> u16 {
        let mut this = self;
        this.block = None;
        this.port
    }
}

impl Drop for PortClaim<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block {
            let (_, word, bit) = place(self.port);
            block.give_back(word, bit);
        }
    }
}

impl fmt::Debug for PortClaim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortClaim({})", self.port)
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const PORTS: usize = 64_512;

    #[test]
    fn every_port_once_then_none_then_again() {
        let pool = PortPool::new(ALL);
        let mut claims: Vec<PortClaim<'_>> = (0..PORTS).map(|n| pool.claim(n as u16).unwrap()).collect();
        let mut ports: Vec<u16> = claims.iter().map(PortClaim::port).collect();
        ports.sort_unstable();
        assert_eq!(ports, (FIRST..=u16::MAX).collect::<Vec<_>>());
        assert!(pool.claim(5000).is_none());
        let freed = claims.swap_remove(123).port();
        assert_eq!(pool.claim(80).unwrap().port(), freed);
    }

    /// Whichever ports are wanted and whichever are left, a claim looks at as many words with the last port as
    /// with the first: 17 summaries and words of a search, and the wanted one.
    #[test]
    fn a_claim_costs_the_same_however_full_the_pool() {
        let orders: [fn(usize) -> u16; 4] = [
            |_| 0,                                             // every claim is a search
            |n| (n / 2) as u16,                                // each port is wanted twice
            |n| u16::MAX - n as u16,                           // what is left lies at one end
            |n| (n as u32).wrapping_mul(2_654_435_761) as u16, // scattered
        ];
        for (order, wanted) in orders.into_iter().enumerate() {
            let pool = PortPool::new(ALL);
            let mut claims = Vec::new();
            let mut all = Vec::new();
            for n in 0..PORTS {
                let mut words = 0;
                claims.push(pool.claim_counting(wanted(n), &mut words).unwrap());
                all.push(words);
            }
            let longest = all.iter().max();
            assert!(longest <= Some(&(1 + BLOCKS + 1)), "order {order}: {longest:?} words");
            let nearly_full = PORTS / 100 * 98..PORTS / 100 * 99;
            let mean = all[nearly_full.clone()].iter().sum::<usize>() as f64 / nearly_full.len() as f64;
            assert!(mean <= (1 + BLOCKS + 1) as f64, "order {order}: {mean} words at 99 %");
        }
    }

    #[test]
    fn workers_share_every_port() {
        let pool = PortPool::new(ALL);
        let held: Vec<PortClaim<'_>> = std::thread::scope(|s| {
            let worker = |w: u16| {
                let pool = &pool;
                move || {
                    let mut held = Vec::new();
                    let mut wanted = w;
                    // Some are given back meanwhile, so that words empty and fill up under other workers.
                    while let Some(claim) = pool.claim(wanted) {
                        held.push(claim);
                        wanted = wanted.wrapping_mul(31).wrapping_add(7919);
                        if wanted.is_multiple_of(4) {
                            held.swap_remove(usize::from(wanted) % held.len());
                        }
                    }
                    held
                }
            };
            let workers: Vec<_> = (0..4).map(|w| s.spawn(worker(w * 17))).collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        let ports: BTreeSet<u16> = held.iter().map(PortClaim::port).collect();
        assert_eq!(ports.len(), held.len(), "handed out twice");
        // A worker that gave some back after others had ended leaves them; they can be had.
        let rest: Vec<PortClaim<'_>> = std::iter::from_fn(|| pool.claim(1)).collect();
        assert_eq!(held.len() + rest.len(), PORTS);
        drop((held, rest));
        assert_eq!(pool.used(), 0);
        assert_eq!(std::iter::from_fn(|| pool.claim(9)).collect::<Vec<_>>().len(), PORTS);
    }

    proptest! {
        #[test]
        fn a_pool_of_some_ports_hands_out_those_and_no_others(start: u16, count in 0..200u16, wanted: u16) {
            let ports = start..=start.saturating_add(count);
            let pool = PortPool::new(ports.clone());
            let held: Vec<PortClaim<'_>> = std::iter::from_fn(|| pool.claim(wanted)).collect();
            prop_assert!(!ports.contains(&wanted) || held[0].port() == wanted);
            let got: BTreeSet<u16> = held.iter().map(PortClaim::port).collect();
            prop_assert_eq!(got, ports.collect::<BTreeSet<_>>());
            prop_assert_eq!((pool.used() as usize, pool.free()), (held.len(), 0));
            drop(held);
            prop_assert_eq!(pool.used(), 0);
        }

        #[test]
        fn agrees_with_a_set(ops in prop::collection::vec((any::<bool>(), any::<u16>()), 1..400)) {
            let pool = PortPool::new(ALL);
            let mut held: BTreeMap<u16, PortClaim<'_>> = BTreeMap::new();
            for (claim, port) in ops {
                if claim {
                    let likely = pool.likely(port);
                    let got = pool.claim(port).unwrap();
                    prop_assert_eq!(got.port(), likely, "nobody else claims");
                    prop_assert!(!held.contains_key(&got.port()), "handed out twice");
                    prop_assert!(got.port() >= FIRST);
                    if port >= FIRST && !held.contains_key(&port) {
                        prop_assert_eq!(got.port(), port, "a wanted port that is free is given");
                    }
                    held.insert(got.port(), got);
                } else {
                    let next = held.range(port..).next().map(|(p, _)| *p);
                    next.and_then(|p| held.remove(&p));
                }
                prop_assert_eq!(pool.used() as usize, held.len());
            }
        }
    }
}
