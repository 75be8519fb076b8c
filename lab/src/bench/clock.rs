//! The finest clock there is, and a probe that tells when the machine runs slow.
//!
//! On x86-64 a tick is a cycle of the time stamp counter, read between two fences so that nothing of what is
//! measured runs outside; elsewhere a nanosecond of the system's clock. What two reads cost is measured once and
//! taken off.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// How ticks and time go together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    ns_per_tick: f64,
    /// Ticks between two reads with nothing in between.
    overhead: u64,
}

impl Clock {
    /// Whether a tick is a cycle of the time stamp counter.
    pub(super) const IS_TSC: bool = cfg!(target_arch = "x86_64");

    /// Compares with the system's clock for some milliseconds.
    pub(super) fn calibrate() -> Self {
        let overhead = (0..1000).map(|_| now()).map(|from| now() - from).min().unwrap_or(0);
        let (from, begin) = (now(), Instant::now());
        while begin.elapsed() < Duration::from_millis(40) {
            std::hint::spin_loop();
        }
        let (ticks, time) = (now() - from, begin.elapsed());
        Self { ns_per_tick: time.as_nanos() as f64 / ticks as f64, overhead }
    }

    /// Ticks of what ran between two reads.
    pub(super) fn between(&self, from: u64, to: u64) -> u64 {
        to.saturating_sub(from).saturating_sub(self.overhead)
    }

    /// Ticks as nanoseconds.
    pub(super) fn nanoseconds(&self, ticks: f64) -> f64 {
        ticks * self.ns_per_tick
    }
}

/// Ticks since some time long past.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "the time stamp counter has no safe interface")]
pub(super) fn now() -> u64 {
    use core::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: both instructions are part of every x86-64, touch no memory, and are not forbidden to programs by
    // any system that Rust's standard library runs on.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Ticks since the first call.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn now() -> u64 {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// How fast the processor computes now: rounds of register arithmetic a tick. It falls when the core's clock is
/// lowered, or something else runs on the same core.
pub(super) fn probe() -> f64 {
    const ROUNDS: u64 = 20_000;
    let mut a: [u64; 6] = black_box([1, 2, 3, 4, 5, 6]);
    let from = now();
    for n in 0..ROUNDS {
        for x in &mut a {
            *x = (*x ^ n).wrapping_add(0x9e37_79b9);
        }
    }
    black_box(a);
    ROUNDS as f64 / (now() - from).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_time() {
        let clock = Clock::calibrate();
        let (begin, from) = (Instant::now(), now());
        std::thread::sleep(Duration::from_millis(20));
        let to = now();
        let (ticks, time) = (clock.between(from, to), begin.elapsed());
        // The system's clock runs around ours, however busy the machine is.
        let ns = clock.nanoseconds(ticks as f64);
        assert!(ns > 10e6 && ns < time.as_nanos() as f64 * 2.0, "{ns} ns, {time:?}");
        assert_eq!(clock.between(5, 3), 0);
        assert!(probe() > 0.0);
    }
}
