//! Which of many ports have something to receive, so that a worker need not visit those that have nothing.
//!
//! ```text
//!   guest: queue a frame, then ring ──▶ one bit a port ──▶ worker: take the bits, then visit those ports
//! ```
//!
//! A bit that is set may mean nothing; one that is not set means that nobody has rung since the worker last took
//! it. The fences see to that what was queued before is found: of a guest that queues and looks at the bit, and a
//! worker that takes the bit and looks into the queue, one at least sees what the other did. Who also wakes the
//! worker rings first: one that is about to sleep looks for bits once more.

use crate::sync::{Arc, AtomicU64, Ordering, fence};
use crossbeam::utils::CachePadded;

/// Bits of a word.
pub(crate) const PORTS: usize = u64::BITS as usize;

/// A port's bit.
#[derive(Clone, Debug)]
pub struct Bell {
    word: Arc<CachePadded<AtomicU64>>,
    bit: u64,
}

impl Bell {
    /// Says that something is queued, after it was.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        // Mostly it has been rung and not been heard yet.
        if self.word.load(Ordering::Relaxed) & self.bit == 0 {
            self.word.fetch_or(self.bit, Ordering::SeqCst);
        }
    }
}

/// The bits of 64 ports.
#[derive(Debug, Default)]
pub(crate) struct Bells(Arc<CachePadded<AtomicU64>>);

impl Bells {
    /// The bell of port `n` of these.
    pub(crate) fn bell(&self, n: usize) -> Bell {
        Bell { word: self.0.clone(), bit: 1 << (n % PORTS) }
    }

    /// Takes the bits of ports that have rung. Whoever calls looks into their queues afterwards.
    #[inline]
    pub(crate) fn take(&self) -> u64 {
        if self.0.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let rung = self.0.swap(0, Ordering::Acquire);
        fence(Ordering::SeqCst);
        rung
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod interleavings {
    use super::*;
    use crate::sync::{AtomicUsize, explore};
    use shuttle::thread;

    /// Two guests queue at ports of their own; the worker visits who rang, until it has everything.
    fn nothing_queued_is_overlooked() {
        const EACH: usize = 2;
        let bells = Bells::default();
        let queues: [Arc<AtomicUsize>; 2] = Default::default();
        let guest = |n: usize| {
            let (bell, queue) = (bells.bell(n), queues[n].clone());
            thread::spawn(move || {
                for _ in 0..EACH {
                    queue.fetch_add(1, Ordering::SeqCst);
                    bell.ring();
                }
            })
        };
        let guests = [guest(0), guest(1)];
        let mut received = 0;
        let mut visit = |bells: &Bells| {
            let rung = bells.take();
            for (n, queue) in queues.iter().enumerate() {
                if rung >> n & 1 == 1 {
                    received += queue.swap(0, Ordering::SeqCst);
                }
            }
        };
        for _ in 0..3 {
            visit(&bells);
        }
        guests.into_iter().for_each(|guest| guest.join().unwrap());
        // Whatever was not received by now has rung.
        visit(&bells);
        assert_eq!(received, 2 * EACH);
        assert_eq!(bells.take(), 0, "and nothing rings without a cause");
    }

    #[test]
    fn every_bell_is_heard() {
        explore(4000, nothing_queued_is_overlooked);
    }
}
