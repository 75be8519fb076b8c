//! What a new snapshot costs those who forward packets.

use super::{
    Clock, Duration, Histogram, Lane, Machine, Measured, NotMeasured, Part, RING, RINGS, Sample, alloc, at,
    clock, difference,
    hits::{Work, ring},
    new::{Mix, beginning, mixed},
    on_threads, quantiles, refills, sum_up,
};
use std::sync::atomic::{AtomicBool, Ordering};
use supernet::Instant;
use supernet_lab::load::{Load, UNANSWERED};

/// How often a snapshot is published under load.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// Measures batches of hits while nothing happens, and then while a snapshot is published now and then.
pub(in crate::bench) fn publication(
    machine: &Machine,
    load: &Load,
    lane: &mut Lane,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let news = load.follow(lane);
    let time = (time / 2).max(5 * PUBLISH_EVERY);
    let quiet = batches(machine, lane, time);
    let (busy, published) = while_publishing(machine, load, &news, || batches(machine, lane, time))?;
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

/// Measures packets of open connections with new ones among them while others time out, and the same while a
/// snapshot is published now and then.
pub(in crate::bench) fn churn(
    machine: &Machine,
    load: &Load,
    lane: &mut Lane,
    mix: Mix,
    time: Duration,
) -> Result<Measured, NotMeasured> {
    let news = load.follow(lane);
    let time = (time / 2).max(5 * PUBLISH_EVERY);
    let now = beginning();
    let quiet = mixed(machine, lane, mix, &now, 0, time)?;
    // The first snapshot brings a namespace with it, and has every connection compared once.
    let entries = lane.templates() as u64;
    // All that was opened is forgotten before it is opened again.
    let ended = Instant::from_micros(now.load(Ordering::Relaxed));
    load.end_unanswered(lane, ended);
    now.store((ended + UNANSWERED + UNANSWERED).micros(), Ordering::Relaxed);
    let (busy, published) =
        while_publishing(machine, load, &news, || mixed(machine, lane, mix, &now, entries, time))?;
    Ok(Measured { quiet_batch_ns: quiet.batch_ns, publications: Some(published), ..busy? })
}

/// Does some work while another thread publishes. Returns how often that was.
fn while_publishing<T>(
    machine: &Machine,
    load: &Load,
    news: &AtomicBool,
    work: impl FnOnce() -> T,
) -> Result<(T, u64), NotMeasured> {
    let over = AtomicBool::new(false);
    let publish = || {
        machine.pin(1);
        let mut published = 0;
        while !over.load(Ordering::Relaxed) {
            load.publish(published % 2 == 0, news)?;
            published += 1;
            std::thread::sleep(PUBLISH_EVERY);
        }
        Ok::<u64, NotMeasured>(published)
    };
    let (done, published) = std::thread::scope(|scope| {
        let publisher = scope.spawn(publish);
        let done = work();
        over.store(true, Ordering::Relaxed);
        (done, publisher.join())
    });
    // A thread that panicked has said so.
    Ok((done, published.unwrap_or(Ok(0))?))
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
            let probe = machine.probe();
            let (mut ticks, mut packets, mut sample) = (0, 0, Histogram::new());
            for _ in 0..RINGS {
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
