//! Workers on threads of their own, captures that come and go meanwhile.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant as Clock},
};
use supernet::Threads;
use supernet_dataplane::{
    capture::{Capture, Direction, Filter, Limits, Verdict},
    counters::Counters,
    id::PortId,
    port::memory::memory,
    state::Config,
    wire::Proto,
    worker::Dataplane,
};
use supernet_testkit::{net::two_namespaces, packet::Probe};

const WORKERS: usize = 2;

/// Pods 0 and 2 send each other datagrams, each handled by a worker of its own, while `meanwhile` runs; when all have
/// arrived or are dropped, the counters.
fn under_traffic(dataplane: &Dataplane, frames: u16, meanwhile: impl FnOnce()) -> Counters {
    let snapshot = two_namespaces().build();
    let guests: Vec<_> =
        (0..snapshot.ports.len()).map(|p| dataplane.attach(PortId(p as u32), memory(256)).unwrap()).collect();
    dataplane.publish(snapshot);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (port, src, dst) in [(0, "10.0.0.2", "10.0.0.18"), (2, "10.0.0.18", "10.0.0.2")] {
            let (guest, done) = (&guests[port], &done);
            scope.spawn(move || {
                for n in 0..frames {
                    let probe = Probe::new(
                        port as u32,
                        Proto::UDP,
                        &format!("{src}:{}", 4000 + n % 50),
                        &format!("{dst}:80"),
                    );
                    while guest.send(&probe.frame()).is_err() {
                        while guest.recv().is_some() {}
                        thread::yield_now();
                    }
                    while guest.recv().is_some() {}
                }
                while !done.load(Ordering::Relaxed) {
                    while guest.recv().is_some() {}
                    thread::sleep(Duration::from_micros(100));
                }
            });
        }
        meanwhile();
        let deadline = Clock::now() + Duration::from_secs(30);
        while dataplane.counters().received < 2 * u64::from(frames) && Clock::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        done.store(true, Ordering::Relaxed);
    });
    dataplane.counters()
}

fn begun(capture: &Capture) {
    let deadline = Clock::now() + Duration::from_secs(30);
    while capture.begun() < WORKERS {
        assert!(Clock::now() < deadline, "a worker did not begin");
        thread::sleep(Duration::from_millis(1));
    }
}

fn dataplane() -> (Dataplane, Threads) {
    let config = Config { workers: WORKERS, sessions: 256, frames: 4096, ..Config::default() };
    let (dataplane, workers) = Dataplane::new(config);
    let threads = Threads::spawn(&dataplane, workers).unwrap();
    (dataplane, threads)
}

#[test]
fn two_workers_tell_what_they_count() {
    let (dataplane, threads) = dataplane();
    let limits = Limits { records: 1 << 17, bytes: 1 << 30 };
    let everything = dataplane.capture(Filter::default(), limits);
    // One that nobody reads, with hardly any room.
    let stalled = dataplane.capture(Filter::default(), Limits { records: 10, ..Limits::default() });
    begun(&everything);
    begun(&stalled);
    let origin = threads.origin();
    under_traffic(&dataplane, 20_000, || {
        // Others come and go.
        for _ in 0..50 {
            let brief = dataplane.capture(Filter { drops: true, ..Filter::default() }, Limits::default());
            thread::sleep(Duration::from_millis(1));
            drop(brief);
        }
    });
    drop(threads);
    let counters = dataplane.counters();
    assert!(counters.conserved(), "{counters:?}");
    let (mut sums, mut drops) = (BTreeMap::<PortId, [u64; 2]>::new(), BTreeMap::new());
    while let Some(record) = everything.next() {
        if let Some(reason) = record.dropped() {
            *drops.entry(reason).or_insert(0) += 1;
        }
        match (record.direction, &record.verdict) {
            (Direction::In, _) => sums.entry(record.port).or_default()[0] += 1,
            (Direction::Out, Verdict::Sent { .. }) => sums.entry(record.port).or_default()[1] += 1,
            _ => {}
        }
        let at = origin + record.at.since(supernet::Instant::ZERO);
        assert!(at.elapsed().is_ok_and(|ago| ago < Duration::from_secs(600)), "{at:?} is not now");
    }
    assert!(everything.counts().values().all(|count| count.missed == 0));
    assert_eq!(drops, counters.drops);
    for (port, [received, sent]) in sums {
        let counted = counters.ports[&port];
        assert_eq!((received, sent), (counted.received, counted.sent), "{port:?}");
    }
    let all = stalled.counts();
    let told: u64 = all.values().map(|count| count.recorded).sum();
    let missed: u64 = all.values().map(|count| count.missed).sum();
    let port_full: u64 = counters.drops.values().sum();
    assert_eq!(told, 10, "and none but those");
    assert_eq!(told + missed, counters.received + counters.sent + port_full);
}
