//! Atomics, fences and locks of what threads share without one lock around it all: the flow tables, the sessions,
//! the ports of egress addresses, bells and the hand-over of snapshots.
//!
//! They are the standard library's. Under `--cfg shuttle` they are those of [shuttle](https://docs.rs/shuttle),
//! which runs threads one step at a time in an order of its choice, so that tests can go through orders which no
//! machine would ever show. Shuttle takes every access as sequentially consistent: what a weaker ordering allows
//! beyond that, it does not find.

#[cfg(not(shuttle))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence},
    },
    thread::yield_now,
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence},
    },
    thread::yield_now,
};

pub(crate) use std::sync::{Arc, PoisonError, atomic::Ordering};

/// Runs threads in many orders: half of the iterations in random ones, half with few changes of thread at
/// places that are chosen at random (probabilistic concurrency testing). What fails is printed with its schedule
/// and seed.
#[cfg(test)]
#[cfg(shuttle)]
pub(crate) fn explore(iterations: usize, threads: impl Fn() + Send + Sync + Copy + 'static) {
    use shuttle::{Config, FailurePersistence, Runner, scheduler::*};
    let mut config = Config::new();
    config.stack_size = 2 << 20;
    config.failure_persistence = FailurePersistence::Print;
    config.silence_warnings = true;
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    eprintln!("seed {seed}; another is taken from SHUTTLE_RANDOM_SEED");
    Runner::new(RandomScheduler::new_from_seed(seed, iterations / 2), config.clone()).run(threads);
    Runner::new(PctScheduler::new_from_seed(seed, 4, iterations / 2), config).run(threads);
}

/// Locks what no panic leaves half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lock around a few stores. Unlike a [`Mutex`] it is given back by a store, without an atomic step; who finds
/// it taken lets others run until it is not. (Threads of fixed priorities that share a processor must have one.)
#[derive(Debug, Default)]
pub(crate) struct BriefLock(AtomicBool);

/// Holds a [`BriefLock`].
#[derive(Debug)]
#[must_use]
pub(crate) struct BriefGuard<'a>(&'a AtomicBool);

/// Waiting for another thread's few stores.
#[derive(Debug, Default)]
pub(crate) struct Patience(u32);

impl Patience {
    /// How often to look again before others are let run.
    const LOOKS: u32 = if cfg!(shuttle) { 0 } else { 100 };

    /// Waits a moment: the other may be about to be done, or have been put to sleep in the middle.
    #[inline]
    pub(crate) fn wait(&mut self) {
        if self.0 < Self::LOOKS {
            spin_loop();
            self.0 += 1;
        } else {
            yield_now();
        }
    }
}

impl BriefLock {
    #[inline(always)]
    pub(crate) fn lock(&self) -> BriefGuard<'_> {
        if self.0.swap(true, Ordering::Acquire) {
            self.wait();
        }
        BriefGuard(&self.0)
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) {
        let mut patience = Patience::default();
        while self.0.load(Ordering::Relaxed) || self.0.swap(true, Ordering::Acquire) {
            patience.wait();
        }
    }
}

impl Drop for BriefGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
