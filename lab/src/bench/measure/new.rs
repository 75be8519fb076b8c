//! Packets that open connections: all of them, or some among the packets of others.

use super::{
    Clock, Duration, Histogram, Instant, Lane, Machine, Measured, NotMeasured, Part, RING, RINGS, SAMPLES,
    SHARES, Sample, alloc, clock, difference,
    hits::{Work, ring},
    median, on_threads, quantiles, refills, sum, sum_up,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use supernet_lab::load::{Load, UNANSWERED};

/// Measures first packets: every lap opens all connections, and ends them while no clock runs.
pub(in crate::bench) fn new_connections(
    machine: &Machine,
    load: &Load,
    lanes: &mut [Lane],
    flows: usize,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let (over, opened_all) = (AtomicBool::new(false), AtomicBool::new(true));
    let rings = lanes.iter().map(|lane| lane.templates().div_ceil(RING)).max().unwrap_or(0);
    let parts = on_threads(machine, lanes, |worker, lane, meeting| {
        let (began, mut part) = (Clock::now(), Part::default());
        part.samples.reserve(1024);
        part.refill = refills(machine, lane, time);
        // The first lap warms up and is not kept.
        for lap in 0.. {
            // By then those of the lap before have timed out.
            let now = Instant::from_secs(2) + 4 * UNANSWERED * lap;
            lane.rewind();
            let (before, allocations) = (lane.counted(), alloc::count());
            let (mut ticks, mut packets, probe) = (0, 0, machine.probe());
            for _ in 0..rings {
                lane.refill_once();
                meeting.wait();
                loop {
                    let from = clock::now();
                    let done = lane.process(now);
                    let to = clock::now();
                    if done == 0 {
                        break;
                    }
                    (ticks, packets) = (ticks + machine.clock.between(from, to), packets + done);
                    lane.collect();
                }
                lane.collect();
            }
            let probe = probe.min(machine.probe());
            let (allocations, counted) = (alloc::count() - allocations, difference(lane.counted(), before));
            lane.rest();
            meeting.wait();
            if worker == 0 {
                let all = load.open_sessions() == flows;
                load.end_unanswered(lane, now);
                if !all || load.open_sessions() > 0 {
                    opened_all.store(false, Ordering::Relaxed);
                }
                let enough = lap as usize >= SAMPLES.min(4) && began.elapsed() > time;
                over.store(enough || !opened_all.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            meeting.wait();
            if lap > 0 {
                part.samples.push(Sample { ticks: ticks as f64 / packets as f64, probe });
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
    let (measured, counted) = sum_up(machine, parts);
    let all = opened_all.load(Ordering::Relaxed) && counted.connections == measured.packets;
    if !all || counted.hits > 0 || counted.dropped > 0 {
        return Err(NotMeasured::NotMisses {
            packets: measured.packets,
            connections: counted.connections,
            hits: counted.hits,
            dropped: counted.dropped,
        });
    }
    Ok(Measured { connections_per_second: Some(measured.mpps * 1e6), ..measured })
}

/// New connections among the packets of open ones.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Mix {
    /// One packet of this many opens a connection.
    pub(in crate::bench) apart: usize,
    /// Connections that are opened in turn.
    pub(in crate::bench) fresh: usize,
    /// Buckets of a lap of the sweep.
    pub(in crate::bench) buckets: usize,
    /// Whether sessions that time out are ended while the clock runs.
    pub(in crate::bench) sweep_timed: bool,
}

impl Mix {
    /// New connections of a ring.
    fn opened(&self) -> f64 {
        RING as f64 / self.apart as f64
    }

    /// Time passes so fast that a connection is forgotten when a third of the others were opened after it.
    fn passes(&self, new: f64) -> Duration {
        UNANSWERED.mul_f64(new * 3.0 / self.fresh as f64)
    }

    /// Buckets to sweep after so many new connections: all of them in the time that one takes to time out. So it
    /// is gone when two thirds of the others were opened after it.
    fn share(&self, new: f64) -> f64 {
        new * 3.0 * self.buckets as f64 / self.fresh as f64
    }
}

/// When a load's connections are open, and time begins to pass.
pub(in crate::bench) fn beginning() -> AtomicU64 {
    AtomicU64::new(2_000_000)
}

/// Measures packets of open connections with new ones among them, in turn with rings without. Connections end
/// by timing out: every one that is opened must be new, and there must be room for it. `time_of_load` is when
/// it begins, in microseconds, and then when it ended. At most `may_miss` packets of open connections may take the slow path.
pub(in crate::bench) fn mixed(
    machine: &Machine,
    lane: &mut Lane,
    mix: Mix,
    time_of_load: &AtomicU64,
    may_miss: u64,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let parts = on_threads(machine, std::slice::from_mut(lane), |_, lane, meeting| {
        let mut part = Part { refill: refills(machine, lane, time), ..Part::default() };
        let (mut to_sweep, mut batches) = (0.0, Histogram::new());
        let mut now = Instant::from_micros(time_of_load.load(Ordering::Relaxed));
        // All of them twice, quickly, until as many are open as end; and every entry touched.
        lane.mix_in(4);
        let warm_up = 2 * mix.fresh * 4 / RING + lane.templates() / RING + 1;
        let quick = Mix { apart: 4, ..mix };
        for _ in 0..warm_up {
            mixed_ring(machine, lane, &quick, &mut now, &mut to_sweep, &mut batches);
        }
        let (allocations, before, begin) = (alloc::count(), lane.counted(), Clock::now());
        let fresh = lane.fresh_sent();
        let (mut plain, mut kept, mut all) = (Vec::with_capacity(1024), Histogram::new(), Histogram::new());
        let mut mixed_packets = 0;
        while part.samples.len() < SAMPLES || begin.elapsed() < time {
            let began = Clock::now();
            let (mut ticks, mut packets, probe) = ([0; 2], [0; 2], machine.probe());
            batches = Histogram::new();
            for _ in 0..RINGS / 2 {
                lane.mix_in(0);
                let done = ring(machine, lane, Work::Forward, now, meeting);
                (ticks[0], packets[0]) = (ticks[0] + done.0, packets[0] + done.1);
                lane.mix_in(mix.apart);
                let done = mixed_ring(machine, lane, &mix, &mut now, &mut to_sweep, &mut batches);
                (ticks[1], packets[1]) = (ticks[1] + done.0, packets[1] + done.1);
                if began.elapsed() >= time / SHARES {
                    break;
                }
            }
            let probe = probe.min(machine.probe());
            plain.push(Sample { ticks: ticks[0] as f64 / packets[0] as f64, probe });
            part.samples.push(Sample { ticks: ticks[1] as f64 / packets[1] as f64, probe });
            part.packets += packets[0] + packets[1];
            mixed_packets += packets[1];
            all.merge(&batches);
            if !machine.is_slow(probe) {
                kept.merge(&batches);
            }
        }
        time_of_load.store(now.micros(), Ordering::Relaxed);
        part.allocations = alloc::count() - allocations;
        part.counted = difference(lane.counted(), before);
        part.sound = lane.fresh_sent() - fresh;
        lane.rest();
        (part, plain, mixed_packets, if kept.quantile(0.5).is_nan() { all } else { kept })
    });
    let Some((part, mut plain, mixed_packets, batches)) = parts.into_iter().next() else {
        return Err(NotMeasured::NotMisses { packets: 0, connections: 0, hits: 0, dropped: 0 });
    };
    let (counted, packets, new) = (part.counted, part.packets, part.sound);
    let (measured, _) = sum_up(machine, vec![part]);
    let missed = (packets - new).saturating_sub(counted.hits);
    if counted.connections != new || missed > may_miss || counted.dropped > 0 {
        return Err(NotMeasured::NotMixed {
            new,
            connections: counted.connections,
            others: packets - new,
            hits: counted.hits,
            dropped: counted.dropped,
        });
    }
    let share = new as f64 / mixed_packets as f64;
    let (plain, _) = median(machine, &mut plain);
    let more = (measured.ticks_per_packet - plain * (1.0 - share)) / share;
    Ok(Measured {
        hits: 1.0 - share,
        // None of the rings without new ones, as rows of hits prove.
        allocations: measured.allocations * packets as f64 / mixed_packets as f64,
        packets: mixed_packets,
        connections_per_second: Some(measured.mpps * 1e6 * share),
        ns_per_new_connection: Some(machine.clock.nanoseconds(more)),
        batch_ns: Some(quantiles(machine, &batches)),
        ..measured
    })
}

/// Sends a ring of packets with new connections among them through, batch by batch: ticks and packets.
fn mixed_ring(
    machine: &Machine,
    lane: &mut Lane,
    mix: &Mix,
    now: &mut Instant,
    to_sweep: &mut f64,
    batches: &mut Histogram,
) -> (u64, u64) {
    lane.refill();
    *now = *now + mix.passes(mix.opened());
    let (mut all, mut packets) = (0, 0);
    loop {
        let sweep = *to_sweep as usize;
        let from = clock::now();
        let done = lane.process_one(*now);
        if mix.sweep_timed && sweep > 0 {
            lane.sweep(sweep, *now);
        }
        let to = clock::now();
        if done == 0 {
            break;
        }
        *to_sweep += mix.share(done as f64 / mix.apart as f64);
        if mix.sweep_timed {
            *to_sweep -= sweep as f64;
        }
        let ticks = machine.clock.between(from, to);
        batches.add(ticks);
        (all, packets) = (all + ticks, packets + done);
        lane.collect();
    }
    lane.collect();
    if !mix.sweep_timed {
        lane.sweep(*to_sweep as usize, *now);
        *to_sweep -= to_sweep.floor();
    }
    (all, packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_as_new_connections_need_it() {
        let mix = Mix { apart: 64, fresh: 3000, buckets: 3500, sweep_timed: true };
        assert_eq!(mix.passes(1000.0), UNANSWERED);
        assert!((mix.share(1000.0) - 3500.0).abs() < 1e-9, "all buckets, for a third of the connections");
    }
}
