//! Limits with several workers on threads of their own.

use crate::{PODS, from_outside, from_pod, limit, limited};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};
use supernet_dataplane::{
    flow::HalfOpenLimits,
    id::{NamespaceId, PortId},
    port::memory::{MemoryGuest, memory},
    state::Config,
    time::{Duration, Instant},
    wire::Proto,
    worker::{Dataplane, Worker},
};
use supernet_testkit::net::two_namespaces;

const WORKERS: usize = 3;
const LIMIT: u32 = 500;
/// Packets that each pod opens a connection with, or tries to.
const FLOOD: u32 = 4000;

/// Sends what fits the queue, and takes what comes.
fn flood(pod: u32, guest: &MemoryGuest, stop: &AtomicBool) {
    for n in 0..FLOOD {
        let proto = if n % 2 == 0 { Proto::UDP } else { Proto::TCP };
        // Each several times, so that packets race for one connection.
        let (sport, dport) = (1024 + n / 2 % 60_000, 7 + n / 2 % 3);
        let to = PODS[(pod as usize + 1) % PODS.len()];
        let frame = if pod == 3 {
            from_outside(proto, sport, &format!("{}:{dport}", PODS[n as usize % 2])).frame()
        } else {
            from_pod(pod, proto, sport, &format!("{to}:{dport}")).frame()
        };
        for _ in 0..2 {
            while guest.send(&frame).is_err() && !stop.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        }
        while guest.recv().is_some() {}
    }
}

/// Has all end when one ends, be it by a panic: nobody waits for it then.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run(worker: &mut Worker, clock: &AtomicU64, stop: &AtomicBool) {
    let _stop = Stop(stop);
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::from_micros(clock.fetch_add(20, Ordering::Relaxed));
        if worker.poll(now).frames == 0 {
            thread::yield_now();
        }
    }
}

/// Connections of each pod and of each namespace, as counted and as they live.
fn counts(dataplane: &Dataplane) -> [[u32; 5]; 2] {
    let mut living = [0; 5];
    dataplane.for_each_session(|_, session, _| {
        let payer = if session.ingress.0 == 3 { session.judgement.out } else { session.ingress };
        living[payer.index()] += 1;
        living[3 + usize::from(payer.0 == 2)] += 1;
    });
    let quotas = &dataplane.state().quotas;
    let pod = |n| quotas.pod(PortId(n)).connections;
    let namespace = |n| quotas.namespace(NamespaceId(n)).connections;
    [[pod(0), pod(1), pod(2), namespace(0), namespace(1)], living]
}

#[test]
fn no_race_exceeds_a_limit_or_loses_a_count() {
    let half_open = HalfOpenLimits { per_port: 100, total: None };
    let config = Config { workers: WORKERS, sessions: 4096, frames: 2048, half_open, ..Config::default() };
    let (dataplane, mut workers) = Dataplane::new(config);
    let snapshots = || {
        let both = [(0, limit(LIMIT, 0, 0)), (1, limit(LIMIT / 2, 0, 0))];
        [limited(&[(0, limit(LIMIT / 4, 0, 0))], &both), limited(&[], &both)]
    };
    // Before there is any limit, connections are there that were not counted.
    dataplane.publish(two_namespaces().build());
    let guests: Vec<MemoryGuest> =
        (0..4).map(|port| dataplane.attach(PortId(port), memory(64)).unwrap()).collect();
    let (clock, stop) = (AtomicU64::new(1_000_000), &AtomicBool::new(false));
    let excess = AtomicU64::new(0);
    thread::scope(|scope| {
        for worker in &mut workers {
            scope.spawn(|| run(worker, &clock, stop));
        }
        let floods: Vec<_> =
            guests.iter().zip(0..).map(|(guest, pod)| scope.spawn(move || flood(pod, guest, stop))).collect();
        // Limits come, change, and now and then go: connections beyond are not counted then, but are when they come
        // again, so only what was within a limit at its beginning may be held against it.
        let mut round = 0;
        while floods.iter().any(|flood| !flood.is_finished()) {
            round += 1;
            let [first, second] = snapshots();
            dataplane.publish(if round % 2 == 0 { first.build() } else { second.build() });
            // A batch that began under the limits before goes by them.
            let epochs = &dataplane.state().epochs;
            let epoch = epochs.retire();
            while !epochs.passed(epoch) && !stop.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            let before = dataplane.state().quotas.namespace(NamespaceId(0)).connections;
            for _ in 0..50 {
                let has = dataplane.state().quotas.namespace(NamespaceId(0)).connections;
                if has > before.max(LIMIT) {
                    excess.fetch_add(1, Ordering::Relaxed);
                }
                thread::yield_now();
            }
            if round % 16 == 0 {
                dataplane.publish(two_namespaces().build());
                thread::yield_now();
            }
        }
        floods.into_iter().for_each(|flood| flood.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(excess.into_inner(), 0);
    let mut now = Instant::from_micros(clock.into_inner());
    let mut settle = |now| while workers.iter_mut().map(|w| w.poll(now).frames).sum::<usize>() > 0 {};
    settle(now);
    dataplane.publish(snapshots()[0].clone().build());
    let [counted, living] = counts(&dataplane);
    assert_eq!(counted, living);
    assert!(living[3] > 0 && living[4] > 0, "{living:?}");
    assert!(dataplane.counters().conserved(), "{:?}", dataplane.counters());
    for _ in 0..4 {
        now = now + Duration::from_secs(14 * 3600);
        settle(now);
    }
    assert_eq!(counts(&dataplane), [[0; 5]; 2]);
}
