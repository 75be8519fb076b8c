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

use super::{
    NotMeasured, alloc, clock,
    histogram::Histogram,
    machine::{Machine, Meeting},
};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant as Clock},
};
use supernet::Instant;
use supernet_lab::load::{Counted, Lane, Load, PortRing, RING, UNANSWERED};

/// Samples of a row at the least.
const SAMPLES: usize = 11;

/// Samples that the time of a row is divided into.
const SHARES: u32 = 64;

/// How often a snapshot is published under load.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

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

/// What is done with the packets of open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Parse,
    LookUp,
    Forward,
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

/// Measures packets of connections that are open. Every one of them must be a hit.
pub(super) fn established(
    machine: &Machine,
    lanes: &mut [Lane],
    work: Work,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let (over, rings) = (AtomicBool::new(false), AtomicUsize::new(1));
    // A lap at least, so that every entry and counter has been touched.
    let warm_up = lanes.iter().map(|lane| lane.templates() / RING + 1).max().unwrap_or(1);
    let parts = on_threads(machine, lanes, |worker, lane, meeting| {
        let (began, mut part) = (Clock::now(), Part::default());
        part.samples.reserve(1024);
        part.refill = refills(machine, lane, time);
        let begin = Clock::now();
        for _ in 0..warm_up {
            ring(machine, lane, work, at(began), meeting);
        }
        if worker == 0 {
            let fit = (time / SHARES).as_nanos() * warm_up as u128 / begin.elapsed().as_nanos().max(1);
            rings.store(fit.clamp(1, 1024) as usize, Ordering::Relaxed);
        }
        meeting.wait();
        let rings = rings.load(Ordering::Relaxed);
        let (before, allocations, begin) = (lane.counted(), alloc::count(), Clock::now());
        loop {
            meeting.wait();
            if over.load(Ordering::Relaxed) {
                break;
            }
            let (mut ticks, mut packets) = (0, 0);
            let probe = machine.probe();
            for _ in 0..rings {
                let done = ring(machine, lane, work, at(began), meeting);
                (ticks, packets, part.sound) = (ticks + done.0, packets + done.1, part.sound + done.2);
            }
            let probe = probe.min(machine.probe());
            part.packets += packets;
            part.samples.push(Sample { ticks: ticks as f64 / packets as f64, probe });
            if worker == 0 && part.samples.len() >= SAMPLES && begin.elapsed() >= time {
                over.store(true, Ordering::Relaxed);
            }
            // Nobody looks whether it is over before it has been decided.
            meeting.wait();
        }
        part.allocations = alloc::count() - allocations;
        part.counted = difference(lane.counted(), before);
        if work != Work::Forward {
            part.counted.hits = part.sound;
        }
        lane.rest();
        part
    });
    let (measured, counted) = sum_up(machine, parts);
    if counted.hits != measured.packets || counted.dropped > 0 {
        return Err(NotMeasured::NotHits {
            packets: measured.packets,
            hits: counted.hits,
            dropped: counted.dropped,
        });
    }
    Ok(measured)
}

/// Sends a ring of packets through: ticks, packets, and how many of them ended as they should.
fn ring(machine: &Machine, lane: &mut Lane, work: Work, now: Instant, meeting: &Meeting) -> (u64, u64, u64) {
    let packets = lane.refill();
    meeting.wait();
    let (mut ticks, mut sound) = (0, 0);
    loop {
        let from = clock::now();
        let done = match work {
            Work::Parse => lane.parse(),
            Work::LookUp => lane.look_up(),
            Work::Forward => lane.process(now),
        };
        let to = clock::now();
        if done == 0 {
            break;
        }
        sound += done;
        ticks += machine.clock.between(from, to);
        if work == Work::Forward {
            lane.collect();
        }
    }
    lane.collect();
    (ticks, packets, sound)
}

/// Measures first packets: every lap opens all connections, and ends them while no clock runs.
pub(super) fn new_connections(
    machine: &Machine,
    load: &Load,
    lanes: &mut [Lane],
    flows: usize,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let (over, opened_all) = (AtomicBool::new(false), AtomicBool::new(true));
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
            meeting.wait();
            while lane.refill_once() > 0 {
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
pub(super) struct Mix {
    /// One packet of this many opens a connection.
    pub(super) apart: usize,
    /// Connections that are opened in turn.
    pub(super) fresh: usize,
    /// All connections together.
    pub(super) flows: usize,
    /// Whether sessions that time out are ended while the clock runs.
    pub(super) sweep_timed: bool,
}

impl Mix {
    /// New connections of a ring.
    fn new(&self) -> f64 {
        RING as f64 / self.apart as f64
    }

    /// Time passes so fast that a connection is forgotten when a third of the others were opened after it.
    fn passes(&self, new: f64) -> Duration {
        UNANSWERED.mul_f64(new * 3.0 / self.fresh as f64)
    }

    /// Sessions to look at after so many new connections: all of them twice before one times out.
    fn share(&self, new: f64) -> f64 {
        new * 6.0 * (self.flows + self.fresh) as f64 / self.fresh as f64
    }
}

/// Measures packets of open connections with new ones among them, in turn with rings without. Connections end
/// by timing out: every one that is opened must be new, and there must be room for it.
pub(super) fn mixed(
    machine: &Machine,
    lane: &mut Lane,
    mix: Mix,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let parts = on_threads(machine, std::slice::from_mut(lane), |_, lane, meeting| {
        let mut part = Part::default();
        part.refill = refills(machine, lane, time);
        let (mut now, mut to_sweep, mut batches) = (Instant::from_secs(2), 0.0, Histogram::new());
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
            loop {
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
    if counted.connections != new || counted.hits != packets - new || counted.dropped > 0 {
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
    *now = *now + mix.passes(mix.new());
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

/// Measures batches of hits while nothing happens, and then while a snapshot is published now and then.
pub(super) fn publication(
    machine: &Machine,
    load: &Load,
    lane: &mut Lane,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let news = load.follow(lane);
    let time = (time / 2).max(5 * PUBLISH_EVERY);
    let over = AtomicBool::new(false);
    let publish = || {
        machine.pin(1);
        let mut published = 0;
        while !over.load(Ordering::Relaxed) {
            load.publish(published % 2 == 0, &news)?;
            published += 1;
            std::thread::sleep(PUBLISH_EVERY);
        }
        Ok::<u64, NotMeasured>(published)
    };
    let (quiet, busy, published) = std::thread::scope(|scope| {
        let quiet = batches(machine, lane, time);
        let publisher = scope.spawn(publish);
        let busy = batches(machine, lane, time);
        over.store(true, Ordering::Relaxed);
        (quiet, busy, publisher.join())
    });
    // A thread that panicked has said so.
    let published = published.unwrap_or(Ok(0))?;
    let Some((part, in_batches)) = busy else {
        return Err(NotMeasured::NotHits { packets: 0, hits: 0, dropped: 0 });
    };
    let (measured, counted) = sum_up(machine, vec![part]);
    if counted.dropped > 0 || counted.received != measured.packets || published == 0 {
        return Err(NotMeasured::NotHits {
            packets: measured.packets,
            hits: counted.hits,
            dropped: counted.dropped,
        });
    }
    Ok(Measured {
        batch_ns: Some(quantiles(machine, &in_batches)),
        quiet_batch_ns: quiet.map(|(_, h)| quantiles(machine, &h)),
        publications: Some(published),
        ..measured
    })
}

/// Runs hits batch by batch for some time.
fn batches(machine: &Machine, lane: &mut Lane, time: Duration) -> Option<(Part, Histogram)> {
    let parts = on_threads(machine, std::slice::from_mut(lane), |_, lane, meeting| {
        let (began, mut part) = (Clock::now(), Part::default());
        part.refill = refills(machine, lane, time);
        for _ in 0..=lane.templates() / RING {
            ring(machine, lane, Work::Forward, at(began), meeting);
        }
        let (allocations, before, begin) = (alloc::count(), lane.counted(), Clock::now());
        let (mut kept, mut all) = (Histogram::new(), Histogram::new());
        while begin.elapsed() < time {
            let (sampled, probe) = (Clock::now(), machine.probe());
            let (mut ticks, mut packets, mut sample) = (0, 0, Histogram::new());
            while sampled.elapsed() < time / SHARES {
                lane.refill();
                loop {
                    let now = at(began);
                    let from = clock::now();
                    let done = lane.process_one(now);
                    let to = clock::now();
                    if done == 0 {
                        break;
                    }
                    let took = machine.clock.between(from, to);
                    sample.add(took);
                    (ticks, packets) = (ticks + took, packets + done);
                    lane.collect();
                }
                lane.collect();
            }
            let probe = probe.min(machine.probe());
            all.merge(&sample);
            if !machine.is_slow(probe) {
                kept.merge(&sample);
            }
            part.packets += packets;
            part.samples.push(Sample { ticks: ticks as f64 / packets as f64, probe });
        }
        part.allocations = alloc::count() - allocations;
        part.counted = difference(lane.counted(), before);
        lane.rest();
        (part, if kept.quantile(0.5).is_nan() { all } else { kept })
    });
    parts.into_iter().next()
}

/// Measures a worker with memory ports at both ends. Every packet must be a hit and come out.
pub(super) fn ring_to_ring(
    machine: &Machine,
    ports: &mut PortRing,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let run = |ports: &mut PortRing| {
        machine.pin(0);
        let (began, mut part) = (Clock::now(), Part::default());
        let flight = |ports: &mut PortRing| {
            let begin = Clock::now();
            let sent = ports.refill();
            let refill = begin.elapsed();
            let (mut ticks, mut polled, mut polls) = (0, 0, 0);
            let now = at(began);
            // What was sent may have been dropped: the counters tell.
            while polled < sent && polls < 2 * sent {
                let from = clock::now();
                polled += ports.poll(now) as u64;
                ticks += machine.clock.between(from, clock::now());
                polls += 1;
            }
            (ticks, sent, ports.collect(), refill)
        };
        let mut warm = 0;
        while warm < ports.templates() as u64 {
            warm += flight(ports).1.max(1);
        }
        let (allocations, before, begin) = (alloc::count(), ports.counted(), Clock::now());
        while part.samples.len() < SAMPLES || begin.elapsed() < time {
            let (sampled, probe) = (Clock::now(), machine.probe());
            let (mut ticks, mut packets, mut refills) = (0, 0, Duration::ZERO);
            while sampled.elapsed() < time / SHARES || packets == 0 {
                let (took, sent, delivered, refill) = flight(ports);
                (ticks, packets, refills) = (ticks + took, packets + sent, refills + refill);
                part.sound += delivered;
            }
            let probe = probe.min(machine.probe());
            part.packets += packets;
            part.refill.push(refills.as_nanos() as f64 / packets as f64);
            part.samples.push(Sample { ticks: ticks as f64 / packets as f64, probe });
        }
        part.allocations = alloc::count() - allocations;
        let after = ports.counted();
        part.counted.hits = after.1 - before.1;
        part.counted.dropped = after.2 - before.2;
        part
    };
    let part = std::thread::scope(|scope| scope.spawn(|| run(ports)).join()).unwrap_or_default();
    let (delivered, packets) = (part.sound, part.packets);
    let (measured, counted) = sum_up(machine, vec![part]);
    if delivered != packets || counted.hits != packets || counted.dropped > 0 || packets == 0 {
        return Err(NotMeasured::NotHits { packets, hits: counted.hits, dropped: counted.dropped });
    }
    Ok(measured)
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

fn at(began: Clock) -> Instant {
    // Lanes opened their connections in the first second.
    Instant::from_micros(2_000_000 + began.elapsed().as_micros() as u64)
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
        let best = std::iter::repeat_with(|| machine.probe()).take(100).fold(0.0, f64::max);
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

    #[test]
    fn time_passes_as_new_connections_need_it() {
        let mix = Mix { apart: 64, fresh: 3000, flows: 500, sweep_timed: true };
        assert_eq!(mix.passes(1000.0), UNANSWERED);
        assert!((mix.share(500.0) - 3500.0).abs() < 1e-9, "all sessions, for a sixth of the connections");
    }
}
