//! A worker's whole loop, from memory port to memory port.

use super::{
    Clock, Duration, Machine, Measured, NotMeasured, OPENED, Part, RING, RINGS, SAMPLES, SHARES, Sample,
    alloc, clock, sum_up,
};
use supernet_lab::load::PortRing;

/// Measures a worker with memory ports at both ends. Every packet must be a hit and come out.
pub(in crate::bench) fn ring_to_ring(
    machine: &Machine,
    ports: &mut PortRing,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let run = |ports: &mut PortRing| {
        machine.pin(0);
        let mut part = Part::default();
        // A worker's time is what it works, not what guests need to put frames together: that would be more to
        // sweep in fewer polls.
        let mut worked = 0;
        let mut flight = |ports: &mut PortRing| {
            let begin = Clock::now();
            let sent = ports.refill();
            let refill = begin.elapsed();
            let (mut ticks, mut polled, mut polls) = (0, 0, 0);
            // What was sent may have been dropped: the counters tell.
            while polled < sent && polls < 2 * sent {
                let now =
                    OPENED + Duration::from_nanos(machine.clock.nanoseconds((worked + ticks) as f64) as u64);
                let from = clock::now();
                polled += ports.poll(now) as u64;
                ticks += machine.clock.between(from, clock::now());
                polls += 1;
            }
            worked += ticks;
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
            while packets < (RINGS * RING) as u64 && sampled.elapsed() < time / SHARES || packets == 0 {
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
