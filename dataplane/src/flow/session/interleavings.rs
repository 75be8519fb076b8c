//! Places in orders of steps that shuttle chooses.

use super::{tests::record, *};
use crate::sync::{Arc, explore};
use shuttle::thread;

const ITERATIONS: usize = 4000;

/// Workers take places, keep a record there, and give them back; one looks through all of them.
fn claim_and_free(capacity: usize, workers: u32) {
    let sessions = Arc::new(Sessions::new(capacity));
    let work = |index: u32| {
        let sessions = sessions.clone();
        thread::spawn(move || {
            for round in 0..3 {
                let mine = record(index * 100 + round);
                let Some(mut place) = sessions.claim(round + index) else {
                    assert!((workers as usize) > capacity, "there is a place for everyone");
                    continue;
                };
                assert_eq!(place.get(), None, "given twice");
                place.put(&mine);
                let id = place.id();
                drop(place);
                let mut place = sessions.lock(id);
                assert_eq!(place.get(), Some(mine), "given twice");
                place.free();
                assert_eq!(place.get(), None);
            }
        })
    };
    let lister = {
        let sessions = sessions.clone();
        thread::spawn(move || {
            for id in sessions.ids() {
                if let Some(found) = sessions.lock(id).get() {
                    assert_eq!(found, record(found.entries.0.0), "torn");
                }
            }
            assert!(sessions.live() <= capacity);
        })
    };
    let threads: Vec<_> = (0..workers).map(work).chain([lister]).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(sessions.live(), 0);
    for n in 0..capacity as u32 {
        sessions.claim(n).expect("every place can be taken again").put(&record(n));
    }
    assert_eq!(sessions.live(), capacity);
}

#[test]
fn every_worker_has_a_place_of_its_own() {
    explore(ITERATIONS, || claim_and_free(2, 2));
}

#[test]
fn places_run_out_and_come_back() {
    explore(ITERATIONS, || claim_and_free(2, 3));
}

#[test]
fn places_are_taken_in_every_stripe() {
    explore(ITERATIONS / 10, || claim_and_free(128, 3));
}
