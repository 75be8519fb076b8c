//! Claims, returns and the beginning of counting in orders of steps that shuttle chooses.

use super::*;
use crate::{
    flow::Sessions,
    sync::{Arc, explore},
};
use shuttle::thread;
use std::sync::Mutex;

const ITERATIONS: usize = 400;

/// Workers open and close connections of pods of one namespace. At no step are there more than allowed, and in the end
/// none is counted.
fn open_and_close(pods: u32, workers: u32, limit: u32) {
    let quotas = Arc::new(Quotas::default());
    let living = Arc::new(Mutex::new(0));
    let work = |worker: u32| {
        let (quotas, living) = (quotas.clone(), living.clone());
        let limits = ConnectionLimits {
            connections: NonZeroU32::new(limit),
            half_open: NonZeroU32::new(limit),
            new_per_second: None,
        };
        let port = PortId(worker % pods);
        thread::spawn(move || {
            for round in 0..2 {
                let any = &ConnectionLimits::NONE;
                let claim = quotas.claim((port, NamespaceId(0)), any, |_| limits, true, Instant::ZERO);
                let Ok(claim) = claim else {
                    assert!(workers > limit, "there is room for all");
                    continue;
                };
                {
                    let mut living = living.lock().unwrap();
                    *living += 1;
                    assert!(*living <= limit, "more than the limit");
                }
                thread::yield_now();
                // Less first: who claims next may be faster than this one.
                *living.lock().unwrap() -= 1;
                if round == 0 {
                    drop(claim);
                    continue;
                }
                claim.keep();
                if worker.is_multiple_of(2) {
                    quotas.establish(port);
                }
                quotas.end(port, !worker.is_multiple_of(2));
            }
        })
    };
    let threads: Vec<_> = (0..workers).map(work).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for n in 0..pods {
        assert_eq!(quotas.pod(PortId(n)), QuotaUsage::default());
    }
    assert_eq!(quotas.namespace(NamespaceId(0)), QuotaUsage::default());
}

#[test]
fn two_workers_and_one_connection() {
    explore(ITERATIONS, || open_and_close(1, 2, 1));
}

#[test]
fn three_workers_with_two_pods_and_two_connections() {
    explore(ITERATIONS, || open_and_close(2, 3, 2));
}

/// A bucket with one token gives it to one worker.
#[test]
fn one_token_is_for_one() {
    explore(ITERATIONS, || {
        let row = Arc::new(Row::default());
        let work = |_| {
            let row = row.clone();
            thread::spawn(move || row.pay(NonZeroU32::new(1), Instant::from_secs(1)).is_some())
        };
        let threads: Vec<_> = (0..3).map(work).collect();
        let passed = threads.into_iter().filter(|_| true).map(|t| t.join().unwrap()).filter(|p| *p).count();
        assert_eq!(passed, 1);
    });
}

/// Sessions that are made while counting begins are counted once: by who makes them, or by who begins to count.
#[test]
fn counting_begins_while_sessions_come_and_go() {
    use crate::flow::session::tests::record;
    explore(ITERATIONS, || {
        let quotas = Arc::new(Quotas::default());
        let sessions = Arc::new(Sessions::new(4));
        let pod = (PortId(0), NamespaceId(0));
        let make = |worker: u32| {
            let (quotas, sessions) = (quotas.clone(), sessions.clone());
            thread::spawn(move || {
                let claim = || {
                    let any = ConnectionLimits::NONE;
                    quotas.claim(pod, &any, |_| any, false, Instant::ZERO).unwrap()
                };
                // As in a commit.
                let was_counting = quotas.is_counting();
                let mut quota = was_counting.then(claim);
                let mut place = sessions.claim(worker).unwrap();
                if !was_counting && quotas.is_counting() {
                    quota = Some(claim());
                }
                let payer = quota.as_ref().map(|_| Payer::Caller);
                place.put(&crate::flow::Record { payer, ..record(worker) });
                if let Some(quota) = quota {
                    quota.keep();
                }
                let id = place.id();
                drop(place);
                if worker == 1 {
                    let mut place = sessions.lock(id);
                    if place.get().unwrap().payer.is_some() {
                        quotas.end(pod.0, false);
                    }
                    place.free();
                }
            })
        };
        let makers = [0, 1].map(make);
        let begin = {
            let (quotas, sessions) = (quotas.clone(), sessions.clone());
            thread::spawn(move || {
                assert!(quotas.set_counting(true));
                for id in sessions.ids() {
                    let mut place = sessions.lock(id);
                    if let Some(record) = place.get().filter(|record| record.payer.is_none()) {
                        quotas.adopt(pod, false);
                        place.put(&crate::flow::Record { payer: Some(Payer::Caller), ..record });
                    }
                }
            })
        };
        makers.into_iter().chain([begin]).for_each(|thread| thread.join().unwrap());
        assert_eq!(quotas.pod(pod.0).connections, 1);
        assert_eq!(quotas.namespace(pod.1).connections, 1);
    });
}
