//! Claims and returns in orders of steps that shuttle chooses.

use super::*;
use crate::sync::{Arc, explore};
use shuttle::thread;
use std::{collections::BTreeSet, sync::Mutex};

const ITERATIONS: usize = 300;

/// Workers claim ports and give them back, one each at a time.
fn claim_and_give_back(ports: RangeInclusive<u16>, workers: u16) {
    let (pool, held) = (Arc::new(PortPool::new(ports.clone())), Arc::new(Mutex::new(BTreeSet::new())));
    let one_word = ports.start() / 64 == ports.end() / 64;
    let enough = one_word && usize::from(workers) <= ports.len();
    let work = |worker: u16| {
        let (pool, held) = (pool.clone(), held.clone());
        let wanted = *ports.start() + worker % 2;
        thread::spawn(move || {
            for _ in 0..2 {
                let Some(claim) = pool.claim(wanted) else {
                    assert!(!enough, "there is a port for everyone");
                    continue;
                };
                assert!(held.lock().unwrap().insert(claim.port()), "handed out twice");
                thread::yield_now();
                held.lock().unwrap().remove(&claim.port());
                if worker == 0 {
                    pool.give_back(claim.keep());
                }
            }
        })
    };
    let threads: Vec<_> = (0..workers).map(work).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(pool.used(), 0);
    // The summaries are right again: nobody has to look at everything.
    let mut words = 0;
    let all: BTreeSet<u16> =
        ports.clone().map(|_| pool.claim_counting(0, &mut words).unwrap().keep()).collect();
    assert_eq!(all, ports.clone().collect());
    assert!(words <= ports.len() * (BLOCKS + 2), "{words} words");
}

#[test]
fn two_workers_and_the_last_port() {
    explore(ITERATIONS, || claim_and_give_back(4000..=4000, 2));
}

#[test]
fn two_workers_in_one_word() {
    explore(ITERATIONS, || claim_and_give_back(4000..=4001, 2));
}

#[test]
fn three_workers_in_two_words() {
    explore(ITERATIONS, || claim_and_give_back(4031..=4032, 3));
}
