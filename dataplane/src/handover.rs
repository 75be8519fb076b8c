//! How workers come by a new snapshot, and how an old one goes.
//!
//! ```text
//!   publish ──▶ newest, its number ──▶ a worker, between two batches: is it another than mine? I take it
//!      └──────▶ retired: used by a worker maybe; freed by a later publish when it is not
//! ```
//!
//! What always holds:
//! - Numbers grow. Whoever has seen a number, or what another worker did with it, takes that one or a newer one.
//! - A worker waits for no longer than it takes to exchange two pointers, and locks only when there is news.
//! - No worker frees anything: what it lets go of is the newest, or retired.

use crate::sync::{Arc, AtomicU32, Mutex, Ordering, lock};

/// Something that is published in numbered versions.
pub(crate) trait Numbered {
    /// Its number: one more than that of its predecessor.
    fn number(&self) -> u32;
}

/// The newest version of something, and those before it that are in use.
#[derive(Debug, Default)]
pub(crate) struct Handover<T> {
    /// The newest one's number, looked at once a batch.
    number: AtomicU32,
    newest: Mutex<Arc<T>>,
    /// What a worker may still use. Locked as long as somebody publishes, so that one does after the other.
    retired: Mutex<Vec<Arc<T>>>,
}

impl<T: Numbered> Handover<T> {
    /// Makes the next version from the newest and hands it over. Frees earlier ones that nobody uses.
    pub(crate) fn publish(&self, succeed: impl FnOnce(&T) -> T) -> Arc<T> {
        let mut retired = lock(&self.retired);
        let before = self.newest();
        let next = Arc::new(succeed(&before));
        retired.push(before);
        let mut newest = lock(&self.newest);
        *newest = next.clone();
        // Whoever sees the number waits for the lock, and so for the version that has it.
        self.number.store(next.number(), Ordering::Release);
        drop(newest);
        // Retired versions are given to nobody, so the last one is the last one.
        retired.retain(|version| Arc::strong_count(version) > 1);
        next
    }

    /// The newest version.
    pub(crate) fn newest(&self) -> Arc<T> {
        lock(&self.newest).clone()
    }

    /// The newest version, if it is not the one with this number.
    pub(crate) fn other_than(&self, number: u32) -> Option<Arc<T>> {
        (self.number.load(Ordering::Acquire) != number).then(|| self.newest())
    }

    /// The newest version's number.
    pub(crate) fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;
