//! When is nobody looking any more?
//!
//! A worker says when it begins a batch which epoch it has seen, and rests when it is through. Whatever was
//! unlinked in epoch *e* is unreachable once every worker has seen *e* or rests: what it read before the
//! unlinking it has let go of.

use crate::sync::{AtomicU64, Ordering, fence};
use crossbeam::utils::CachePadded;

/// The epoch, and how far each worker has seen it.
#[derive(Debug)]
pub struct Epochs {
    now: CachePadded<AtomicU64>,
    seen: Box<[CachePadded<AtomicU64>]>,
}

/// No worker ever sees this epoch.
pub(super) const NEVER: u64 = u64::MAX;

/// Past every epoch there is.
const RESTING: u64 = NEVER - 1;

impl Epochs {
    /// For this many workers, all resting.
    pub fn new(workers: usize) -> Self {
        Self {
            now: CachePadded::new(AtomicU64::new(1)),
            seen: (0..workers).map(|_| CachePadded::new(AtomicU64::new(RESTING))).collect(),
        }
    }

    /// A batch begins: the worker holds nothing from before.
    pub fn begin(&self, worker: usize) {
        self.seen[worker].store(self.now.load(Ordering::SeqCst), Ordering::SeqCst);
        // Nothing may be read before others can see that this worker reads.
        fence(Ordering::SeqCst);
    }

    /// The worker rests and holds nothing.
    pub fn rest(&self, worker: usize) {
        self.seen[worker].store(RESTING, Ordering::SeqCst);
    }

    /// Something was unlinked just now; the epoch in which it becomes unreachable.
    pub fn retire(&self) -> u64 {
        // Whoever sees the new epoch sees the unlinking.
        fence(Ordering::SeqCst);
        self.now.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether every worker has seen `epoch`.
    pub fn passed(&self, epoch: u64) -> bool {
        self.seen.iter().all(|seen| seen.load(Ordering::SeqCst) >= epoch)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_passes_when_the_slowest_worker_has_seen_it() {
        let epochs = Epochs::new(2);
        epochs.begin(0);
        epochs.begin(1);
        let e = epochs.retire();
        assert!(!epochs.passed(e));
        epochs.begin(0);
        assert!(!epochs.passed(e));
        epochs.rest(1);
        assert!(epochs.passed(e));
    }
}
