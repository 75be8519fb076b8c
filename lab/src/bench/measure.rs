//! How a row is measured: one thread a worker, a warm-up, several samples, the median of each worker.
//!
//! The clock runs from a filled batch to the batch taken back, so what a traffic generator does (choosing
//! frames, copying them in) is not counted; it is measured by itself and said. Reading the clock twice a batch
//! of 64 is counted: about one nanosecond a packet.

use super::{NotMeasured, alloc};
use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant as Clock},
};
use supernet::Instant;
use supernet_lab::load::{Counted, Lane, Load};

/// Samples of a row of established connections.
const SAMPLES: u32 = 11;

/// Laps of a row of new connections, at the least.
const LAPS: usize = 3;

/// What a row came to, over all workers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// What a worker needs for a packet.
    pub(super) ns_per_packet: f64,
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
}

/// What one worker measured.
#[derive(Debug, Default)]
struct Part {
    samples: Vec<f64>,
    refill: Vec<f64>,
    allocations: u64,
    counted: Counted,
    packets: u64,
}

/// Measures packets of connections that are open. Every one of them must be a hit.
pub(super) fn established(lanes: &mut [Lane], time: Duration) -> Result<Measured, NotMeasured> {
    let start = Barrier::new(lanes.len());
    let parts = on_threads(lanes, |_, lane| {
        let began = Clock::now();
        let mut part = Part { samples: Vec::with_capacity(SAMPLES as usize), ..Part::default() };
        let mut refills = || {
            let (begin, mut packets) = (Clock::now(), 0);
            while begin.elapsed() < time / SAMPLES / 4 {
                packets += lane.refill();
                lane.skip();
            }
            nanoseconds(begin.elapsed(), packets)
        };
        part.refill.extend((0..SAMPLES).map(|_| refills()));
        start.wait();
        // A lap at least, so that every entry and counter has been touched.
        let mut warm = lane.templates() as u64;
        let (mut before, mut allocations) = (Counted::default(), 0);
        while part.samples.len() < SAMPLES as usize {
            if warm == 0 && part.packets == 0 {
                (before, allocations) = (lane.counted(), alloc::count());
            }
            let (begin, mut busy, mut packets) = (Clock::now(), Duration::ZERO, 0);
            while begin.elapsed() < time / SAMPLES {
                packets += lane.refill();
                let from = Clock::now();
                lane.process(at(from.duration_since(began)));
                busy += from.elapsed();
            }
            if warm > 0 {
                warm = warm.saturating_sub(packets);
                continue;
            }
            part.packets += packets;
            part.samples.push(nanoseconds(busy, packets));
        }
        part.allocations = alloc::count() - allocations;
        part.counted = difference(lane.counted(), before);
        lane.rest();
        part
    });
    let measured = sum_up(parts);
    let counted = measured.1;
    if counted.hits != measured.0.packets || counted.dropped > 0 {
        return Err(NotMeasured::NotHits {
            packets: measured.0.packets,
            hits: counted.hits,
            dropped: counted.dropped,
        });
    }
    Ok(measured.0)
}

/// Measures first packets: every lap opens all connections, and ends them while no clock runs.
pub(super) fn new_connections(
    load: &Load,
    lanes: &mut [Lane],
    flows: usize,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let (step, over) = (Barrier::new(lanes.len()), AtomicBool::new(false));
    let opened_all = AtomicBool::new(true);
    let parts = on_threads(lanes, |worker, lane| {
        let began = Clock::now();
        let mut part = Part { samples: Vec::with_capacity(1024), ..Part::default() };
        let begin = Clock::now();
        lane.rewind();
        while lane.refill_once() > 0 {
            lane.skip();
        }
        part.refill.push(nanoseconds(begin.elapsed(), lane.templates() as u64));
        // The first lap warms up and is not kept.
        for lap in 0.. {
            lane.rewind();
            let (before, allocations) = (lane.counted(), alloc::count());
            let (mut busy, mut packets) = (Duration::ZERO, 0);
            step.wait();
            loop {
                let filled = lane.refill_once();
                if filled == 0 {
                    break;
                }
                packets += filled;
                let from = Clock::now();
                lane.process(at(from.duration_since(began)));
                busy += from.elapsed();
            }
            let (allocations, counted) = (alloc::count() - allocations, difference(lane.counted(), before));
            lane.rest();
            step.wait();
            if worker == 0 {
                let enough = lap >= LAPS && began.elapsed() > time;
                over.store(enough, Ordering::Relaxed);
                if load.open_sessions() != flows {
                    opened_all.store(false, Ordering::Relaxed);
                }
            }
            step.wait();
            load.end_sessions(worker);
            if lap > 0 {
                part.samples.push(nanoseconds(busy, packets));
                part.packets += packets;
                part.allocations += allocations;
                part.counted = sum(part.counted, counted);
            }
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        part
    });
    let (measured, counted) = sum_up(parts);
    let all = opened_all.load(Ordering::Relaxed) && counted.connections == measured.packets;
    if !all || counted.hits > 0 || counted.dropped > 0 {
        return Err(NotMeasured::NotMisses {
            packets: measured.packets,
            connections: counted.connections,
            hits: counted.hits,
            dropped: counted.dropped,
        });
    }
    Ok(measured)
}

/// Runs every lane on a thread of its own.
fn on_threads(lanes: &mut [Lane], run: impl Fn(usize, &mut Lane) -> Part + Sync) -> Vec<Part> {
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> =
            lanes.iter_mut().enumerate().map(|(n, lane)| scope.spawn(move || run(n, lane))).collect();
        // A thread that panicked has said so, and its part is missed by the checks of the counters.
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

fn sum_up(parts: Vec<Part>) -> (Measured, Counted) {
    let workers = parts.len() as f64;
    let (mut mpps, mut ns, mut refill_ns) = (0.0, 0.0, 0.0);
    let (mut packets, mut allocations, mut counted) = (0, 0, Counted::default());
    for mut part in parts {
        let median = median(&mut part.samples);
        mpps += 1000.0 / median;
        ns += median / workers;
        refill_ns += self::median(&mut part.refill) / workers;
        packets += part.packets;
        allocations += part.allocations;
        counted = sum(counted, part.counted);
    }
    let measured = Measured {
        ns_per_packet: ns,
        mpps,
        allocations: allocations as f64 / packets as f64,
        hits: counted.hits as f64 / packets as f64,
        refill_ns,
        packets,
    };
    (measured, counted)
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

fn nanoseconds(time: Duration, packets: u64) -> f64 {
    time.as_nanos() as f64 / packets as f64
}

fn at(since: Duration) -> Instant {
    // Lanes opened their connections in the first second.
    Instant::from_micros(1_000_000 + since.as_micros() as u64)
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
    fn the_median_is_the_middle_one() {
        assert!((median(&mut [9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
        assert!(median(&mut []).is_nan());
    }
}
