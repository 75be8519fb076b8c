//! How a row is measured: one pinned thread a worker, a warm-up, many samples, the median of each worker.
//!
//! ```text
//!   sample:  probe │ refill  process ▒ collect process ▒ collect ... │ refill ... │ probe
//!                            └timed┘           └timed┘
//! ```
//!
//! Only calls into the dataplane are timed: from filled batches to rewritten frames by output port. What a
//! traffic generator does is measured by itself and said. Workers begin every ring together, so that each runs
//! beside the others and not beside their generators. A sample whose probes show the machine's slow mode is
//! told apart; the median is that of the others, if there are any.

mod hits;
mod new;
mod ports;
mod publication;

pub(super) use hits::{Work, established};
pub(super) use new::{Mix, beginning, mixed, new_connections};
pub(super) use ports::ring_to_ring;
pub(super) use publication::{churn, publication};

use super::{
    NotMeasured, alloc, clock,
    histogram::Histogram,
    machine::{Machine, Meeting},
};
use std::time::{Duration, Instant as Clock};
use supernet::Instant;
use supernet_lab::load::{Counted, Lane, RING};

/// Samples of a row at the least.
const SAMPLES: usize = 11;

/// Samples that the time of a row is divided into, at the least.
const SHARES: u32 = 64;

/// Rings of a sample at the most: samples are short, so that most of them are not interrupted.
const RINGS: usize = 8;

/// What a row came to, over all workers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    /// What a worker needs for a packet.
    pub(super) ns_per_packet: f64,
    pub(super) ticks_per_packet: f64,
    /// Millions of packets a second, all workers together.
    pub(super) mpps: f64,
    /// Heap allocations a packet.
    pub(super) allocations: f64,
    /// Share of packets that took the cached way.
    pub(super) hits: f64,
    /// What the generator needs for a packet, not part of the above.
    pub(super) refill_ns: f64,
    /// Packets that were measured.
    pub(super) packets: u64,
    /// Samples that were taken, and those of them in the machine's slow mode.
    pub(super) samples: usize,
    pub(super) slow_samples: usize,
    /// New connections a second, all workers together.
    pub(super) connections_per_second: Option<f64>,
    /// What a new connection costs beyond the other packets.
    pub(super) ns_per_new_connection: Option<f64>,
    /// What half of the batches took no more than, and 99 of 100.
    pub(super) batch_ns: Option<(f64, f64)>,
    /// The same while nothing happened.
    pub(super) quiet_batch_ns: Option<(f64, f64)>,
    /// Snapshots that were published meanwhile.
    pub(super) publications: Option<u64>,
}

/// Ticks a packet, and how fast the processor was meanwhile.
#[derive(Debug, Clone, Copy)]
struct Sample {
    ticks: f64,
    probe: f64,
}

/// What one worker measured.
#[derive(Debug, Default)]
struct Part {
    samples: Vec<Sample>,
    refill: Vec<f64>,
    allocations: u64,
    counted: Counted,
    packets: u64,
    /// Packets that ended as they should, if only a part of the way was measured.
    sound: u64,
}

/// Runs every lane on a thread of its own.
fn on_threads<T: Send>(
    machine: &Machine,
    lanes: &mut [Lane],
    run: impl Fn(usize, &mut Lane, &Meeting) -> T + Sync,
) -> Vec<T> {
    let meeting = Meeting::of(lanes.len());
    std::thread::scope(|scope| {
        let (run, meeting) = (&run, &meeting);
        let thread = |(n, lane)| {
            scope.spawn(move || {
                let _member = meeting.member();
                machine.pin(n);
                run(n, lane, meeting)
            })
        };
        let threads: Vec<_> = lanes.iter_mut().enumerate().map(thread).collect();
        // A thread that panicked has said so, and its part is missed by the checks of the counters.
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// What refilling alone costs, in nanoseconds a packet.
fn refills(machine: &Machine, lane: &mut Lane, time: Duration) -> Vec<f64> {
    let (begin, mut costs) = (Clock::now(), Vec::new());
    while costs.is_empty() || begin.elapsed() < time / SHARES {
        let from = clock::now();
        let packets = lane.refill();
        lane.skip();
        let ticks = machine.clock.between(from, clock::now());
        costs.push(machine.clock.nanoseconds(ticks as f64) / packets as f64);
    }
    costs
}

fn sum_up(machine: &Machine, parts: Vec<Part>) -> (Measured, Counted) {
    let workers = parts.len() as f64;
    let (mut m, mut counted, mut allocations) = (Measured::default(), Counted::default(), 0);
    for mut part in parts {
        let (ticks, slow) = median(machine, &mut part.samples);
        let ns = machine.clock.nanoseconds(ticks);
        m.mpps += 1000.0 / ns;
        m.ns_per_packet += ns / workers;
        m.ticks_per_packet += ticks / workers;
        m.refill_ns += middle(&mut part.refill) / workers;
        m.packets += part.packets;
        m.samples += part.samples.len();
        m.slow_samples += slow;
        allocations += part.allocations;
        counted = sum(counted, part.counted);
    }
    m.allocations = allocations as f64 / m.packets as f64;
    m.hits = counted.hits as f64 / m.packets as f64;
    (m, counted)
}

/// The median of the samples that were not taken in the machine's slow mode, or of all if there are no others;
/// and how many were.
fn median(machine: &Machine, samples: &mut [Sample]) -> (f64, usize) {
    let mut kept: Vec<f64> = samples.iter().filter(|s| !machine.is_slow(s.probe)).map(|s| s.ticks).collect();
    let slow = samples.len() - kept.len();
    if kept.is_empty() {
        kept = samples.iter().map(|s| s.ticks).collect();
    }
    (middle(&mut kept), slow)
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn quantiles(machine: &Machine, batches: &Histogram) -> (f64, f64) {
    let ns = |share| machine.clock.nanoseconds(batches.quantile(share));
    (ns(0.5), ns(0.99))
}

/// When the connections were opened, and a measurement begins: lanes do that in the first second.
const OPENED: Instant = Instant::from_secs(2);

fn at(began: Clock) -> Instant {
    OPENED + began.elapsed()
}

fn difference(a: Counted, b: Counted) -> Counted {
    Counted {
        received: a.received - b.received,
        hits: a.hits - b.hits,
        dropped: a.dropped - b.dropped,
        connections: a.connections - b.connections,
    }
}

fn sum(a: Counted, b: Counted) -> Counted {
    Counted {
        received: a.received + b.received,
        hits: a.hits + b.hits,
        dropped: a.dropped + b.dropped,
        connections: a.connections + b.connections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_samples_do_not_count_unless_there_are_no_others() {
        let machine = Machine::new();
        let best = machine.best();
        let sample = |ticks, share| Sample { ticks, probe: best * share };
        let is = |samples: &mut [Sample], ticks: f64, slow| {
            let (median, count) = median(&machine, samples);
            assert_eq!((median.to_bits(), count), (ticks.to_bits(), slow));
        };
        is(&mut [sample(9.0, 1.0), sample(1.0, 1.0), sample(5.0, 1.0)], 5.0, 0);
        is(&mut [sample(9.0, 0.5), sample(1.0, 1.0), sample(8.0, 0.5)], 1.0, 2);
        is(&mut [sample(9.0, 0.5), sample(7.0, 0.5), sample(8.0, 0.5)], 8.0, 3);
        assert!(median(&machine, &mut []).0.is_nan());
    }
}
