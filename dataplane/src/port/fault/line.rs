//! What becomes of each frame, and when those that are held back go.

use super::{FaultCounts, Rates, lock};
use crate::buf::{Frame, Pool};
use std::sync::{Arc, Mutex};

/// One direction of one worker.
pub(super) struct Line {
    rates: Rates,
    random: Random,
    pool: Pool,
    /// In the order in which they came.
    held: Vec<Held>,
    /// In the order in which they go.
    pub(super) due: Vec<Due>,
    /// Since they were last added to those that others see.
    pub(super) counts: FaultCounts,
    total: Arc<Mutex<FaultCounts>>,
}

/// A frame that goes when either count is down to zero.
struct Held {
    frame: Frame,
    /// How many more go first.
    overtakers: u32,
    visits: u32,
}

pub(super) struct Due {
    pub(super) frame: Frame,
    /// Whether it goes back to the worker that is sending it, if the port does not take it.
    pub(super) owed: bool,
}

impl Line {
    pub(super) fn new(rates: Rates, seed: u64, total: Arc<Mutex<FaultCounts>>, pool: Pool) -> Self {
        let (held, due, counts) = (Vec::new(), Vec::new(), FaultCounts::default());
        Self { rates, random: Random(seed), pool, held, due, counts, total }
    }

    /// Whether it has to be visited again.
    pub(super) fn holds_some(&self) -> bool {
        !self.held.is_empty() || !self.due.is_empty()
    }

    /// Moves time on by a visit.
    pub(super) fn visit(&mut self) {
        for held in &mut self.held {
            held.visits = held.visits.saturating_sub(1);
        }
        self.release();
    }

    /// Lets a frame meet its fate.
    pub(super) fn pass(&mut self, frame: Frame) {
        // Random numbers of its own, so that its faults move nobody else's.
        let mut random = Random(self.random.next());
        self.counts.taken += 1;
        if random.happens(self.rates.loss) {
            self.counts.lost += 1;
            return;
        }
        let copy = if random.happens(self.rates.duplication) { self.pool.copy_of(&frame) } else { None };
        self.forward(frame, true, &mut random);
        if let Some(copy) = copy {
            self.counts.duplicated += 1;
            self.forward(copy, false, &mut random);
        }
    }

    /// What becomes of a frame that is not lost.
    fn forward(&mut self, mut frame: Frame, owed: bool, random: &mut Random) {
        let Rates { corruption, reordering, delay, overtakers, visits, .. } = self.rates;
        // All are drawn, whatever happens, so that one fault moves no other.
        let (corrupted, bit) = (random.happens(corruption), random.next());
        let (reordered, overtakers) = (random.happens(reordering), random.one_to(overtakers));
        let (delayed, late) = (random.happens(delay), random.one_to(visits));
        // Without a checksum nobody could notice.
        if corrupted && !frame.is_empty() && frame.offload().is_none() {
            flip(frame.bytes_mut(), bit);
            self.counts.corrupted += 1;
        }
        if delayed {
            self.counts.delayed += 1;
            self.held.push(Held { frame, overtakers: u32::MAX, visits: late });
        } else if reordered {
            self.counts.reordered += 1;
            self.held.push(Held { frame, overtakers, visits });
        } else {
            self.overtake(self.held.len());
            self.due.push(Due { frame, owed });
            self.release();
        }
    }

    /// A frame goes before the first `count` that are held.
    fn overtake(&mut self, count: usize) {
        for held in &mut self.held[..count] {
            held.overtakers = held.overtakers.saturating_sub(1);
        }
    }

    /// Lets go who has waited long enough, the first to come first. It may be the last that another waited for.
    fn release(&mut self) {
        while let Some(at) = self.held.iter().position(|h| h.overtakers == 0 || h.visits == 0) {
            self.overtake(at);
            let frame = self.held.remove(at).frame;
            self.due.push(Due { frame, owed: false });
        }
    }

    pub(super) fn publish(&mut self) {
        lock(&self.total).add(std::mem::take(&mut self.counts));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.counts.refused += (self.held.len() + self.due.len()) as u64;
        self.publish();
    }
}

fn flip(bytes: &mut [u8], random: u64) {
    let bit = below(bytes.len() as u32 * 8, random);
    bytes[bit as usize / 8] ^= 1 << (bit % 8);
}

/// A number below `n`, which is not 0.
fn below(n: u32, random: u64) -> u32 {
    (((random >> 32) * u64::from(n)) >> 32) as u32
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Whether what happens at this rate happens now: never at 0, always at 1.
    fn happens(&mut self, rate: f64) -> bool {
        // 53 bits are what an f64 has, so this is below 1.
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        part < rate
    }

    fn one_to(&mut self, most: u32) -> u32 {
        1 + below(most, self.next())
    }
}
