//! The ports a worker receives from, each in its turn.

use super::{BATCH, owners::Attachment};
use crate::{
    buf::{Frame, Pool},
    id::PortId,
    port::{Bells, PORTS, Receive},
    sync::{Ordering, fence},
};
use std::os::fd::BorrowedFd;

/// Receivers in the order of their turns. Those that ring are visited only once they have.
#[derive(Default)]
pub(super) struct Receivers {
    /// A place that is free again goes to the next receiver.
    places: Vec<Option<(Attachment, Box<dyn Receive>)>>,
    /// By 64 places.
    groups: Vec<Group>,
    /// The place to begin with, so that every port has its turn.
    turn: usize,
    /// How many frames it has had of its share.
    had: usize,
    /// Frames that ports had and could not deliver.
    missed: u64,
    /// Somebody watches descriptors and says which are ready; else their ports are silent.
    watched: bool,
    /// How often receivers were added or removed.
    changes: u64,
}

/// Who of 64 has something to receive, a bit each.
#[derive(Default)]
struct Group {
    bells: Bells,
    /// It does not ring, and may have something at any time.
    silent: u64,
    /// It rang, and has not been found empty since.
    rung: u64,
}

impl Receivers {
    /// Adds a receiver.
    pub(super) fn add(&mut self, attachment: Attachment, mut receiver: Box<dyn Receive>) {
        let free = self.places.iter().position(Option::is_none);
        let at = free.unwrap_or(self.places.len());
        self.places.resize_with(self.places.len().max(at + 1), || None);
        self.groups.resize_with(self.places.len().div_ceil(PORTS), Group::default);
        let (group, bit) = (&mut self.groups[at / PORTS], 1 << (at % PORTS));
        if receiver.set_bell(group.bells.bell(at)) {
            // What it has by now did not ring, and what comes from now on will.
            fence(Ordering::SeqCst);
            group.rung |= bit;
        } else if self.watched && receiver.as_fd().is_some() {
            // What it has by now, nobody was told of.
            group.rung |= bit;
        } else {
            group.silent |= bit;
        }
        self.places[at] = Some((attachment, receiver));
        self.changes += 1;
    }

    /// From now on, receivers that have a descriptor are visited only when they were said to be [ready](Self::ready).
    pub(super) fn watch(&mut self) {
        self.watched = true;
        for (at, place) in self.places.iter().enumerate() {
            let bit = 1 << (at % PORTS);
            let group = &mut self.groups[at / PORTS];
            let has_descriptor = place.as_ref().is_some_and(|(_, receiver)| receiver.as_fd().is_some());
            if has_descriptor && group.silent & bit != 0 {
                (group.silent, group.rung) = (group.silent & !bit, group.rung | bit);
            }
        }
    }

    /// The receiver in a place has frames, or may have.
    pub(super) fn ready(&mut self, place: usize) {
        if let Some(Some(_)) = self.places.get(place) {
            self.groups[place / PORTS].rung |= 1 << (place % PORTS);
        }
    }

    /// How often receivers were added or removed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Removes the receivers of an attachment.
    pub(super) fn remove(&mut self, attachment: Attachment) {
        for at in 0..self.places.len() {
            if self.places[at].as_ref().is_some_and(|(of, _)| *of == attachment) {
                self.clear(at);
            }
        }
    }

    fn clear(&mut self, at: usize) -> Option<Attachment> {
        let group = &mut self.groups[at / PORTS];
        let others = !(1 << (at % PORTS));
        (group.silent, group.rung) = (group.silent & others, group.rung & others);
        let (attachment, mut receiver) = self.places[at].take()?;
        self.changes += 1;
        self.missed += receiver.take_missed();
        Some(attachment)
    }

    /// Receivers, with their places.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut (Attachment, Box<dyn Receive>))> {
        self.places.iter_mut().enumerate().filter_map(|(at, place)| Some((at, place.as_mut()?)))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Descriptors of those that have one, with their places.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(at, place)| Some((at, place.as_ref()?.1.as_fd()?)))
    }

    /// Frames that ports had and could not deliver, since this was last asked.
    pub(super) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Fills the batch from the ports in turn, with up to [`BATCH`] frames of each, and names the port of every
    /// frame. The answer is an attachment whose port is gone for good, if one is.
    pub(super) fn receive(
        &mut self,
        frames: &mut Vec<Frame>,
        ports: &mut Vec<PortId>,
        pool: &Pool,
    ) -> Option<Attachment> {
        let mut some = false;
        for group in &mut self.groups {
            group.rung |= group.bells.take();
            some |= group.rung | group.silent != 0;
        }
        if !some {
            return None;
        }
        let count = self.places.len();
        let (mut at, mut visited, mut gone) = (self.turn, 0, None);
        while frames.len() < BATCH
            && let Some(next) = self.next(at)
        {
            visited += (next + count - at) % count + 1;
            if visited > count {
                break;
            }
            let Some((attachment, receiver)) = &mut self.places[next] else {
                // It rang, and was removed.
                self.groups[next / PORTS].rung &= !(1 << (next % PORTS));
                (at, self.had) = ((next + 1) % count, 0);
                continue;
            };
            if next != at {
                (at, self.had) = (next, 0);
            }
            let taken = frames.len();
            let most = (BATCH - self.had).min(BATCH - taken);
            let received = receiver.receive(frames, most, pool);
            self.missed += receiver.take_missed();
            ports.resize(frames.len(), attachment.port);
            match received {
                Err(_) => gone = Some(at),
                Ok(_) if frames.len() - taken < most => self.groups[at / PORTS].rung &= !(1 << (at % PORTS)),
                Ok(_) => {}
            }
            self.had += frames.len() - taken;
            if self.had < BATCH && frames.len() == BATCH {
                // It got what was left of the batch, and begins the next with the rest of its share.
                break;
            }
            (at, self.had) = ((at + 1) % count, 0);
        }
        self.turn = at;
        gone.and_then(|at| self.clear(at))
    }

    /// The first place from `at` on, round and round, that has something or may have.
    #[inline]
    fn next(&self, at: usize) -> Option<usize> {
        let ready = |n: usize| self.groups[n].rung | self.groups[n].silent;
        let (first, count) = (at / PORTS, self.groups.len());
        let here = ready(first) & (u64::MAX << (at % PORTS));
        if here != 0 {
            return Some(first * PORTS + here.trailing_zeros() as usize);
        }
        // The first group once more, from its beginning.
        let groups = (1..=count).map(|n| (first + n) % count);
        let (n, ready) = groups.map(|n| (n, ready(n))).find(|(_, ready)| *ready != 0)?;
        Some(n * PORTS + ready.trailing_zeros() as usize)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use crate::port::Bell;
    use proptest::prelude::*;
    use std::{
        collections::VecDeque,
        io,
        sync::{Arc, Mutex, atomic::AtomicUsize},
    };

    /// Frames that wait at a port: their numbers.
    #[derive(Clone, Default)]
    struct Queue(Arc<Mutex<(VecDeque<u8>, Option<Bell>)>>);

    struct End {
        queue: Queue,
        rings: bool,
        asked: Arc<AtomicUsize>,
    }

    impl Receive for End {
        fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let waiting = &mut self.queue.0.lock().unwrap().0;
            let count = waiting.len().min(max);
            into.extend(waiting.drain(..count).map(|n| pool.copy(&[n]).unwrap()));
            Ok(count)
        }

        fn set_bell(&mut self, bell: Bell) -> bool {
            self.queue.0.lock().unwrap().1 = Some(bell);
            self.rings
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Queue(usize, usize),
        Receive,
        Remove(usize),
        Add(usize, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..150usize, 1..90usize).prop_map(|(port, count)| Step::Queue(port, count)),
            6 => Just(Step::Receive),
            1 => (0..150usize).prop_map(Step::Remove),
            1 => (0..150usize, any::<bool>()).prop_map(|(port, rings)| Step::Add(port, rings)),
        ]
    }

    #[test]
    fn only_who_rang_or_cannot_is_asked() {
        let (pool, mut receivers) = (Pool::new(8), Receivers::default());
        let asked: [Arc<AtomicUsize>; 3] = Default::default();
        let queues: [Queue; 3] = Default::default();
        for (n, (asked, queue)) in asked.iter().zip(&queues).enumerate() {
            let end = End { queue: queue.clone(), rings: n != 2, asked: asked.clone() };
            receivers.add(Attachment::first(PortId(n as u32)), Box::new(end));
        }
        let mut visits = || {
            receivers.receive(&mut Vec::new(), &mut Vec::new(), &pool);
            asked.each_ref().map(|asked| asked.swap(0, Ordering::Relaxed))
        };
        assert_eq!(visits(), [1, 1, 1], "whatever was queued before");
        assert_eq!(visits(), [0, 0, 1]);
        queues[1].0.lock().unwrap().0.push_back(1);
        assert_eq!(visits(), [0, 0, 1], "it has not rung");
        queues[1].0.lock().unwrap().1.as_ref().unwrap().ring();
        assert_eq!(visits(), [0, 1, 1]);
        assert_eq!(visits(), [0, 0, 1], "it gave fewer than it was asked for");
    }

    /// A port with a descriptor, of anything.
    struct Described(End, std::fs::File);

    impl Receive for Described {
        fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
            self.0.receive(into, max, pool)
        }

        fn as_fd(&self) -> Option<BorrowedFd<'_>> {
            Some(std::os::fd::AsFd::as_fd(&self.1))
        }
    }

    impl crate::port::Port for Described {
        type Peer = ();

        fn open(self, _: usize, _: &Pool) -> io::Result<crate::port::Opened<()>> {
            Ok(crate::port::Opened { receivers: vec![Box::new(self)], senders: Vec::new(), peer: () })
        }
    }

    /// What a bad line holds back comes when it is due, though the descriptor behind it shows nothing any more.
    #[test]
    fn a_bad_line_goes_on_by_itself() {
        use crate::port::{Port, fault};
        let (pool, mut receivers, queue) = (Pool::new(8), Receivers::default(), Queue::default());
        let end = End { queue: queue.clone(), rings: false, asked: Arc::default() };
        let late = fault::Rates { delay: 1.0, visits: 16, ..fault::Rates::default() };
        let faults = fault::Faults { seed: 1, receive: late, transmit: fault::Rates::default() };
        let port = fault::wrap(Described(end, std::fs::File::open("/dev/null").unwrap()), faults);
        receivers.watch();
        receivers.add(Attachment::first(PortId(0)), port.open(0, &pool).unwrap().receivers.remove(0));
        queue.0.lock().unwrap().0.push_back(7);
        let token = receivers.descriptors().map(|(token, _)| token).next().unwrap();
        receivers.ready(token);
        let mut frames = Vec::new();
        for _ in 0..20 {
            receivers.receive(&mut frames, &mut Vec::new(), &pool);
        }
        assert_eq!(frames.len(), 1);
    }

    #[test]
    fn descriptors_that_are_watched_are_asked_when_they_are_ready() {
        let (pool, mut receivers) = (Pool::new(256), Receivers::default());
        let asked: [Arc<AtomicUsize>; 2] = Default::default();
        let queues: [Queue; 2] = Default::default();
        let add = |receivers: &mut Receivers, n: usize| {
            let end = End { queue: queues[n].clone(), rings: false, asked: asked[n].clone() };
            let file = std::fs::File::open("/dev/null").unwrap();
            receivers.add(Attachment::first(PortId(n as u32)), Box::new(Described(end, file)));
        };
        let visit = |receivers: &mut Receivers| {
            receivers.receive(&mut Vec::new(), &mut Vec::new(), &pool);
            asked.each_ref().map(|asked| asked.swap(0, Ordering::Relaxed))
        };
        add(&mut receivers, 0);
        assert_eq!([visit(&mut receivers), visit(&mut receivers)], [[1, 0]; 2], "nobody watches");
        receivers.watch();
        let changes = receivers.changes();
        add(&mut receivers, 1);
        assert_ne!(receivers.changes(), changes);
        assert_eq!(visit(&mut receivers), [1, 1], "whatever was there before");
        assert_eq!(visit(&mut receivers), [0, 0]);
        let tokens: Vec<usize> = receivers.descriptors().map(|(token, _)| token).collect();
        queues[1].0.lock().unwrap().0.extend(0..(BATCH + 3) as u8);
        receivers.ready(tokens[1]);
        assert_eq!(visit(&mut receivers), [0, 1]);
        assert_eq!(visit(&mut receivers), [0, 1], "it gave all it was asked for");
        assert_eq!(visit(&mut receivers), [0, 0], "and then fewer");
        receivers.remove(Attachment::first(PortId(1)));
        receivers.ready(tokens[1]);
        receivers.ready(1000);
        assert_eq!(visit(&mut receivers), [0, 0], "nobody is there");
    }

    proptest! {
        /// Against plain queues: what waits is received in its port's order, in full batches as long as there is
        /// enough, and no port waits for ever.
        #[test]
        fn everybody_has_a_turn(
            rings in proptest::collection::vec(any::<bool>(), 1..140),
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let pool = Pool::new(4 * BATCH);
            let mut receivers = Receivers::default();
            let mut queues: Vec<Option<Queue>> = Vec::new();
            let add = |receivers: &mut Receivers, port: usize, rings| {
                let queue = Queue::default();
                receivers.add(Attachment::first(PortId(port as u32)), Box::new(End { queue: queue.clone(), rings, asked: Arc::default() }));
                queue
            };
            for (port, rings) in rings.into_iter().enumerate() {
                queues.push(Some(add(&mut receivers, port, rings)));
            }
            // Frames of others since a port had something waiting, and nothing received.
            let mut patience = vec![0; queues.len()];
            for step in steps.into_iter().chain(std::iter::repeat_n(Step::Receive, 200)) {
                match step {
                    Step::Queue(port, count) => {
                        let port = port % queues.len();
                        let Some(queue) = &queues[port] else { continue };
                        let (waiting, bell) = &mut *queue.0.lock().unwrap();
                        let last = waiting.back().copied().unwrap_or(u8::MAX);
                        waiting.extend((1..=count).map(|n| last.wrapping_add(n as u8)));
                        bell.as_ref().unwrap().ring();
                    }
                    Step::Remove(port) => {
                        let port = port % queues.len();
                        receivers.remove(Attachment::first(PortId(port as u32)));
                        queues[port] = None;
                    }
                    Step::Add(port, rings) => {
                        let port = port % queues.len();
                        if queues[port].is_none() {
                            queues[port] = Some(add(&mut receivers, port, rings));
                            patience[port] = 0;
                        }
                    }
                    Step::Receive => {
                        let waiting = |q: &Option<Queue>| {
                            q.as_ref().map_or_else(VecDeque::new, |q| q.0.lock().unwrap().0.clone())
                        };
                        let mut before: Vec<VecDeque<u8>> = queues.iter().map(waiting).collect();
                        let all: usize = before.iter().map(VecDeque::len).sum();
                        let (mut frames, mut ports) = (Vec::new(), Vec::new());
                        prop_assert_eq!(receivers.receive(&mut frames, &mut ports, &pool), None);
                        prop_assert_eq!(frames.len(), ports.len());
                        prop_assert!(frames.len() <= BATCH);
                        for (frame, port) in frames.iter().zip(&ports) {
                            let expected = before[port.index()].pop_front();
                            prop_assert_eq!(Some(frame.bytes()[0]), expected, "in the order of {:?}", port);
                        }
                        // One at the most keeps some: the one whose share ended with the last batch.
                        let keep = before.iter().filter(|left| !left.is_empty()).count();
                        prop_assert!(frames.len() == all.min(BATCH) || keep <= 1, "{} of {all}", frames.len());
                        for (port, left) in before.iter().enumerate() {
                            let had = ports.iter().filter(|p| p.index() == port).count();
                            let waits = !left.is_empty() && had == 0;
                            patience[port] = if waits { patience[port] + 1 } else { 0 };
                            prop_assert!(patience[port] <= queues.len() + 1, "port {port} waits forever");
                        }
                    }
                }
            }
            prop_assert_eq!(receivers.len(), queues.iter().flatten().count());
        }
    }
}
