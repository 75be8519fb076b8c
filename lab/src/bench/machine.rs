//! The machine that is measured on: its clock, its processors, and its slow mode.

use super::clock::{self, Clock};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// What a probe may fall short of the best of the run, in a sample that is kept.
const SLACK: f64 = 0.08;

/// Probes at the beginning, some milliseconds of them.
const PROBES: usize = 200;

pub(super) struct Machine {
    pub(super) clock: Clock,
    /// Processors we may run on.
    cpus: Vec<usize>,
    /// The best probe of this run.
    best: Mutex<f64>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let machine = Self {
            clock: Clock::calibrate(),
            cpus: (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect(),
            best: Mutex::new(0.0),
        };
        for _ in 0..PROBES {
            machine.probe();
        }
        machine
    }

    /// Processors we may run on, as far as that is known.
    pub(super) fn processors(&self) -> usize {
        self.cpus.len().max(1)
    }

    /// Keeps this thread on a processor of its own, if there are enough and the system lets us. The first
    /// processor comes last: it has most interrupts to serve.
    pub(super) fn pin(&self, thread: usize) {
        if self.cpus.is_empty() {
            return;
        }
        let mut set = CpuSet::new();
        set.set(self.cpus[(thread + 1) % self.cpus.len()]);
        // Without it, figures only scatter more.
        let _ = sched_setaffinity(None, &set);
    }

    /// How fast the processor is now, compared by [`Machine::is_slow`].
    pub(super) fn probe(&self) -> f64 {
        let speed = clock::probe();
        let mut best = self.best.lock().unwrap_or_else(PoisonError::into_inner);
        *best = best.max(speed);
        speed
    }

    /// The best probe of this run.
    pub(super) fn best(&self) -> f64 {
        *self.best.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a probe shows the machine's slow mode, as far as is known by now.
    pub(super) fn is_slow(&self, probe: f64) -> bool {
        probe < self.best() * (1.0 - SLACK)
    }
}

/// Bytes of this process that are in huge pages; 0 where nobody says.
pub(super) fn huge_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Where threads wait for each other without sleeping, so that all go on within nanoseconds.
#[derive(Debug)]
pub(super) struct Meeting {
    threads: usize,
    /// Arrivals since the beginning; every `threads` of them are one meeting.
    arrived: AtomicUsize,
    /// A thread will never come again.
    broken: AtomicBool,
}

impl Meeting {
    pub(super) fn of(threads: usize) -> Self {
        Self { threads, arrived: AtomicUsize::new(0), broken: AtomicBool::new(false) }
    }

    pub(super) fn wait(&self) {
        let before = self.arrived.fetch_add(1, Ordering::AcqRel);
        let all = (before / self.threads + 1) * self.threads;
        let mut spins = 0_u32;
        while self.arrived.load(Ordering::Acquire) < all && !self.broken.load(Ordering::Relaxed) {
            spins += 1;
            // There may be fewer processors than threads.
            if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    /// Has nobody wait for a thread that panics while it holds this.
    pub(super) fn member(&self) -> Member<'_> {
        Member(self)
    }
}

/// See [`Meeting::member`].
pub(super) struct Member<'a>(&'a Meeting);

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_far_below_the_best_is_slow() {
        let machine = Machine::new();
        let best = machine.best();
        assert!(machine.is_slow(best * 0.9) && !machine.is_slow(best * 0.95));
    }

    #[test]
    fn nobody_goes_on_before_all_have_come() {
        let (meeting, count) = (Meeting::of(3), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 1..=100 {
                        count.fetch_add(1, Ordering::SeqCst);
                        meeting.wait();
                        assert!(count.load(Ordering::SeqCst) >= 3 * round);
                        meeting.wait();
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 300);
    }
}
