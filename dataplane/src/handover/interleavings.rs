//! Publishing and picking up in orders of steps that shuttle chooses.

use super::*;
use crate::sync::explore;
use shuttle::{current, thread};
use std::collections::BTreeSet;

const ITERATIONS: usize = 4000;

/// A version that notes when it is freed, and by whom.
struct Version {
    number: u32,
    freed: Freed,
}

/// Numbers of versions that are gone, and tasks that may free one.
type Freed = Arc<std::sync::Mutex<(Vec<u32>, BTreeSet<usize>)>>;

impl Numbered for Version {
    fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        let mut freed = self.freed.lock().unwrap();
        let task = usize::from(current::me());
        assert!(freed.1.contains(&task) || thread::panicking(), "a worker freed version {}", self.number);
        freed.0.push(self.number);
    }
}

const WORKERS: usize = 2;
const BATCHES: usize = 3;

/// Some publish, two workers run batches and pass packets on to each other.
fn publish_and_pick_up(publishers: u32, versions: u32) {
    let freed = Freed::default();
    let allow = |freed: &Freed| freed.lock().unwrap().1.insert(current::me().into());
    allow(&freed);
    let first = Version { number: 0, freed: freed.clone() };
    let (newest, retired) = (Mutex::new(Arc::new(first)), Mutex::default());
    let handover = Arc::new(Handover { number: AtomicU32::new(0), newest, retired });
    // The newest version that a packet was sent on with.
    let sent = Arc::new(AtomicU32::new(0));
    let publisher = |_| {
        let (handover, freed) = (handover.clone(), freed.clone());
        thread::spawn(move || {
            allow(&freed);
            for _ in 0..versions {
                let mut before = 0;
                let new = handover.publish(|old| {
                    before = old.number;
                    Version { number: before + 1, freed: freed.clone() }
                });
                assert_eq!(new.number, before + 1);
                assert!(handover.newest().number >= new.number);
            }
        })
    };
    let worker = |_| {
        let (handover, sent) = (handover.clone(), sent.clone());
        // All workers begin with what there is.
        let mut mine = handover.newest();
        let freed = freed.clone();
        thread::spawn(move || {
            for _ in 0..BATCHES {
                let received = sent.load(Ordering::SeqCst);
                if let Some(other) = handover.other_than(mine.number) {
                    assert!(other.number > mine.number, "went back");
                    mine = other;
                }
                assert!(mine.number >= received, "older than what the packet was judged by");
                sent.fetch_max(mine.number, Ordering::SeqCst);
                assert!(!freed.lock().unwrap().0.contains(&mine.number), "in use");
            }
        })
    };
    let publishers: Vec<_> = (0..publishers).map(publisher).collect();
    let workers: Vec<_> = (0..WORKERS).map(worker).collect();
    let published = publishers.len() as u32 * versions;
    publishers.into_iter().chain(workers).for_each(|thread| thread.join().unwrap());
    assert_eq!((handover.number(), handover.newest().number), (published, published));
    // Nobody uses anything any more: the next to publish frees all but the newest, each once.
    handover.publish(|_| Version { number: published + 1, freed: freed.clone() });
    assert_eq!(lock(&handover.retired).len(), 0);
    let mut gone = freed.lock().unwrap().0.clone();
    gone.sort_unstable();
    assert_eq!(gone, (0..=published).collect::<Vec<_>>());
}

#[test]
fn workers_never_go_back_and_free_nothing() {
    explore(ITERATIONS, || publish_and_pick_up(1, 3));
}

#[test]
fn publishers_follow_one_another() {
    explore(ITERATIONS, || publish_and_pick_up(2, 2));
}
