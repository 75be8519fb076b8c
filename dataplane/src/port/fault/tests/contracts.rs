//! What ports promise to workers, and keep with faults.

use super::*;
use crate::port::Bells;
use std::{
    fs::File,
    os::fd::AsFd,
    sync::atomic::{AtomicUsize, Ordering},
};

/// A waker, and how often it was called since this was last asked.
fn counting() -> (Waker, impl Fn() -> usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let waker = Waker::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    (waker, move || count.swap(0, Ordering::SeqCst))
}

#[test]
fn a_visit_gives_no_more_than_it_is_asked_for() {
    let faults = Rates { duplication: 1.0, ..Rates::default() };
    let mut rig = Rig::new(1, faults);
    let (waker, woken) = counting();
    rig.opened.receivers[0].set_waker(waker);
    woken();
    numbered(4).iter().for_each(|frame| rig.opened.peer.send(frame).unwrap());
    assert_eq!(woken(), 4);
    let mut taken = Vec::new();
    for (count, left, again) in [(3, 3, 1), (3, 0, 1), (2, 0, 0)] {
        let frames = rig.visit(3);
        taken.extend(frames.iter().map(|f| number(f.bytes())));
        assert_eq!((frames.len(), rig.counters.receive().held()), (count, left));
        assert_eq!(woken(), again, "one still waits where that came from");
    }
    assert_eq!(taken, [0, 0, 1, 1, 2, 2, 3, 3]);
    assert!(rig.visit(3).is_empty());

    // Nothing waits there any more, but here.
    numbered(2).iter().for_each(|frame| rig.opened.peer.send(frame).unwrap());
    woken();
    assert_eq!((rig.visit(3).len(), woken(), rig.visit(3).len(), woken()), (3, 1, 1, 0));
}

#[test]
fn who_holds_something_back_is_visited_again() {
    let late = Rates { delay: 1.0, visits: 1, ..Rates::default() };
    for way in WAYS {
        let mut rig = Rig::new(1, late);
        let (waker, woken) = counting();
        assert!(!rig.opened.receivers[0].set_bell(Bells::default().bell(0)), "it is asked every time");
        rig.opened.receivers[0].set_waker(waker);
        assert_eq!(woken(), 1, "whatever was held back before");
        rig.visit(8);
        assert_eq!(woken(), 0, "nothing is held");
        match way {
            Way::Receive => rig.opened.peer.send(&[1; 60]).unwrap(),
            Way::Transmit => assert!(rig.send(1, &[&[1; 60]]).is_empty()),
        }
        assert_eq!(woken(), 1);
        if way == Way::Receive {
            rig.visit(8);
            assert_eq!(woken(), 1, "held since this visit");
        }
        assert_eq!(rig.visit(8).len(), usize::from(way == Way::Receive));
        assert_eq!((rig.counts(way).held(), woken()), (0, 0));
    }
    // Held for more than a visit, it wakes each time.
    let mut rig = Rig::new(1, Rates { reordering: 1.0, visits: 3, ..Rates::default() });
    let (waker, woken) = counting();
    rig.opened.receivers[0].set_waker(waker);
    rig.send(0, &[&[1; 60]]);
    woken();
    assert_eq!([0; 4].map(|_| (rig.visit(8).len(), woken()).1), [1, 1, 0, 0]);

    // What is not held back wakes nobody.
    let mut rig = Rig::new(1, Rates::default());
    let (waker, woken) = counting();
    rig.opened.receivers[0].set_waker(waker);
    woken();
    rig.send(0, &[&[1; 60]]);
    rig.visit(8);
    assert_eq!(woken(), 0);

    // All that filled the batch was lost: there may be more.
    let mut rig = Rig::new(1, Rates { loss: 1.0, ..Rates::default() });
    let (waker, woken) = counting();
    rig.opened.receivers[0].set_waker(waker);
    (0..9).for_each(|n| rig.opened.peer.send(&[n]).unwrap());
    woken();
    assert_eq!([0; 3].map(|_| (rig.visit(4).len(), woken())), [(0, 1), (0, 1), (0, 0)]);
}

/// A device of two queues.
struct Two;

impl Port for Two {
    type Peer = [MemoryGuest; 2];

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<Self::Peer>> {
        let [mut one, mut other] = [memory(8).open(senders, pool)?, memory(8).open(senders, pool)?];
        one.receivers.append(&mut other.receivers);
        Ok(Opened { receivers: one.receivers, senders: one.senders, peer: [one.peer, other.peer] })
    }
}

/// Several workers have the queues: each is woken, and rung for, when its own holds something back.
#[test]
fn every_queue_has_its_own_worker_come_by_again() {
    let late = Rates { delay: 1.0, visits: 1, ..Rates::default() };
    for (queue, way) in [(0, Way::Receive), (1, Way::Receive), (0, Way::Transmit)] {
        let pool = Pool::new(16);
        let mut opened = wrap(Two, Faults { seed: 1, receive: late, transmit: late }).open(2, &pool).unwrap();
        let bells: [Bells; 2] = Default::default();
        let woken: [_; 2] = std::array::from_fn(|n| {
            let (waker, woken) = counting();
            opened.receivers[n].set_bell(bells[n].bell(0));
            opened.receivers[n].set_waker(waker);
            woken
        });
        let asked = || [0, 1].map(|n| (woken[n]() > 0, bells[n].take() > 0));
        asked();
        match way {
            Way::Receive => {
                opened.peer[queue].send(&[1; 60]).unwrap();
                asked();
                assert_eq!(opened.receivers[queue].receive(&mut Vec::new(), 8, &pool).unwrap(), 0);
            }
            // The first queue's worker sees to what is sent, whoever sends it.
            Way::Transmit => opened.senders[1].transmit(&mut vec![pool.copy(&[1; 60]).unwrap()]).unwrap(),
        }
        let expected = [0, 1].map(|n| (n == queue, n == queue));
        assert_eq!(asked(), expected, "queue {queue}, {way:?}");
    }
}

#[test]
fn what_a_full_port_leaves_goes_back_but_no_copy() {
    let rates = |duplication| Rates { duplication, ..Rates::default() };
    let fill = |rig: &mut Rig| {
        let frames = numbered(3);
        let left = rig.send(0, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
        left.iter().map(|f| number(f.bytes())).collect::<Vec<_>>()
    };
    let faults = |duplication| Faults { transmit: rates(duplication), ..Faults::default() };
    let mut rig = Rig::with(16, 2, faults(0.0));
    assert_eq!(fill(&mut rig), [2]);
    assert_eq!(rig.counters.transmit(), FaultCounts { taken: 2, passed: 2, ..FaultCounts::default() });
    let mut rig = Rig::with(16, 3, faults(1.0));
    assert_eq!(fill(&mut rig), [2], "not the copy of the second");
    let counts = FaultCounts { taken: 2, duplicated: 3, passed: 3, refused: 2, ..FaultCounts::default() };
    assert_eq!(rig.counters.transmit(), counts);
    assert_eq!(rig.pool.available(), 13);

    // Who comes late to a full port was sent long ago, as far as its worker knows.
    let late = Rates { delay: 1.0, visits: 1, ..Rates::default() };
    let mut rig = Rig::with(16, 2, Faults { transmit: late, ..Faults::default() });
    assert!(fill(&mut rig).is_empty());
    rig.visit(8);
    let counts = FaultCounts { taken: 3, delayed: 3, passed: 2, refused: 1, ..FaultCounts::default() };
    assert_eq!(rig.counters.transmit(), counts);
    assert_eq!(rig.pool.available(), 14);
}

#[test]
fn without_a_buffer_there_is_no_copy() {
    let rates = Rates { duplication: 1.0, ..Rates::default() };
    let mut rig = Rig::with(3, 8, Faults { seed: 1, receive: rates, transmit: rates });
    (0..3).for_each(|n| rig.opened.peer.send(&[n]).unwrap());
    let mut frames = rig.visit(8);
    assert_eq!(frames.len(), 3);
    rig.opened.senders[0].transmit(&mut frames).unwrap();
    assert_eq!(std::iter::from_fn(|| rig.opened.peer.recv()).count(), 3);
    assert_eq!((rig.counters.receive().duplicated, rig.counters.transmit().duplicated), (0, 0));
}

#[test]
fn what_is_held_when_the_port_goes_comes_home() {
    let late = Rates { delay: 1.0, duplication: 1.0, ..Rates::default() };
    let mut rig = Rig::new(1, late);
    rig.opened.peer.send(&[1; 60]).unwrap();
    rig.visit(1);
    rig.send(0, &[&[1; 60], &[2; 60]]);
    assert_eq!(rig.pool.available(), rig.pool.capacity() - 6);
    let Rig { pool, opened: Opened { receivers, senders, .. }, counters } = rig;
    drop(receivers);
    assert_eq!((counters.receive().held(), counters.receive().refused), (0, 2));
    drop(senders);
    assert_eq!((counters.transmit().held(), counters.transmit().refused), (0, 4));
    assert_eq!(pool.available(), pool.capacity());

    let mut rig = Rig::new(1, Rates { duplication: 1.0, ..Rates::default() });
    rig.opened.peer.send(&[1; 60]).unwrap();
    assert_eq!(rig.visit(1).len(), 1);
    let Rig { pool, opened, counters } = rig;
    drop(opened);
    assert_eq!((counters.receive().refused, pool.available()), (1, pool.capacity()), "what had no room");
}

/// A device that gives a frame, missed one, and is gone; its sending half takes a frame first.
struct Dying(File, io::ErrorKind);

const GONE: io::ErrorKind = io::ErrorKind::NotConnected;

impl Port for Dying {
    type Peer = &'static str;

    fn open(self, senders: usize, _pool: &Pool) -> io::Result<Opened<&'static str>> {
        let half = || Box::new(Dying(self.0.try_clone().unwrap(), self.1));
        Ok(Opened {
            senders: (0..senders).map(|_| half() as Box<dyn Transmit>).collect(),
            receivers: vec![half()],
            peer: "the peer",
        })
    }
}

impl Receive for Dying {
    fn receive(&mut self, into: &mut Vec<Frame>, _max: usize, pool: &Pool) -> io::Result<usize> {
        into.push(pool.copy(&[1]).unwrap());
        if self.1 == GONE { Err(GONE.into()) } else { Ok(1) }
    }

    fn take_missed(&mut self) -> u64 {
        1
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

impl Transmit for Dying {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        frames.remove(0);
        Err(GONE.into())
    }
}

#[test]
fn a_port_that_is_gone_says_so_through_the_line() {
    let pool = Pool::new(16);
    let open = |receives, transmit| {
        let port = Dying(File::open("/dev/null").unwrap(), receives);
        let port = wrap(port, Faults { transmit, ..Faults::default() });
        (port.counters(), port.open(1, &pool).unwrap())
    };
    let (counters, mut opened) = open(GONE, Rates::default());
    assert_eq!(opened.peer, "the peer");
    assert!(opened.receivers[0].as_fd().is_some());
    assert_eq!(opened.receivers[0].take_missed(), 1);
    let mut frames = Vec::new();
    assert!(opened.receivers[0].receive(&mut frames, 8, &pool).is_err());
    assert_eq!((frames.len(), counters.receive().passed), (1, 1), "what it gave before");
    frames.push(pool.copy(&[2]).unwrap());
    assert!(opened.senders[0].transmit(&mut frames).is_err());
    assert_eq!((frames.len(), frames[0].bytes()), (1, &[2][..]), "what it did not take");

    // It shows when what was held back is sent.
    let late = Rates { reordering: 1.0, visits: 1, ..Rates::default() };
    let (counters, mut opened) = open(io::ErrorKind::Other, late);
    frames.push(pool.copy(&[3]).unwrap());
    assert!(opened.senders[0].transmit(&mut frames).is_ok() && frames.is_empty());
    assert!(opened.receivers[0].receive(&mut frames, 8, &pool).is_err());
    assert_eq!((frames.len(), counters.transmit().passed, counters.transmit().refused), (1, 1, 1));
    frames.clear();
    assert_eq!(pool.available(), pool.capacity());
}
