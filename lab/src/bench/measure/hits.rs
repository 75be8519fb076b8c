//! Packets of established connections, through the whole pipeline or its first steps only.

use super::{
    Clock, Duration, Instant, Lane, Machine, Measured, Meeting, NotMeasured, Part, RING, RINGS, SAMPLES,
    SHARES, Sample, alloc, at, clock, difference, on_threads, refills, sum_up,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What is done with the packets of open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Work {
    Parse,
    LookUp,
    Forward,
}

/// Measures packets of connections that are open. Every one of them must be a hit.
pub(in crate::bench) fn established(
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
            rings.store(fit.clamp(1, RINGS as u128) as usize, Ordering::Relaxed);
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
pub(super) fn ring(
    machine: &Machine,
    lane: &mut Lane,
    work: Work,
    now: Instant,
    meeting: &Meeting,
) -> (u64, u64, u64) {
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
