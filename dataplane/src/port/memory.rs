//! A port in memory: rings between the pipeline and guests in the same process.
//!
//! ```text
//!   guests ── one lock ──▶ ring ──▶ Receive, one worker
//!   guests ◀── one lock ── rings ◀── Transmit, one ring a worker
//! ```
//!
//! Each ring has one producer and one consumer, and the pipeline moves a batch through it with one
//! synchronization: about 2 ns a frame instead of a compare-and-swap a frame. What guests share they lock among
//! themselves; while packets run, no worker takes a lock.
//!
//! The guest speaks [`Bytes`]; inside, frames stay in pool buffers. Every ring has room for `depth` frames. One
//! that is full refuses frames: the guest gets them back, the pipeline counts them as dropped; so does a port
//! that is detached, and what waited in its ring goes back to the pool. What one worker delivers stays in order,
//! and guests take from the workers in turn. Cost at the guest's end: a lock and one copy a frame and direction, and a fence
//! towards the network;
//! [`MemoryGuest::send_frame`] and [`MemoryGuest::recv_frame`] spare the copy.

use super::{Bell, Opened, Port, Receive, Transmit, Waker};
use crate::buf::{Frame, Pool};
use bytes::Bytes;
use crossbeam::utils::CachePadded;
use rtrb::{Consumer, Producer, PushError, RingBuffer, chunks::ChunkError};
use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{Ordering, fence},
    },
};

/// A port in memory with room for `depth` frames towards the network, and as many from each worker.
pub fn memory(depth: usize) -> MemoryPort {
    MemoryPort { depth: depth.max(1) }
}

/// A memory port that is not attached yet; attaching it gives a [`MemoryGuest`].
#[derive(Debug, Clone)]
pub struct MemoryPort {
    depth: usize,
}

/// What guests hold in common, and how either side wakes the other.
struct Link {
    /// `None` once the port is detached.
    to_net: CachePadded<Mutex<Option<Producer<Frame>>>>,
    inbox: CachePadded<Mutex<Inbox>>,
    bell: OnceLock<Bell>,
    net_waker: OnceLock<Waker>,
    guest_waker: OnceLock<Waker>,
}

impl Link {
    /// The bell, if a worker has the port: looked for after a frame was queued.
    fn bell(&self) -> Option<&Bell> {
        // A worker hangs it up and looks into the queue, and a guest queues and looks for it.
        self.bell.get().or_else(|| {
            fence(Ordering::SeqCst);
            self.bell.get()
        })
    }
}

/// What workers delivered.
struct Inbox {
    /// By worker.
    rings: Vec<Consumer<Frame>>,
    /// Whose turn it is.
    turn: usize,
}

impl Inbox {
    fn next(&mut self) -> Option<Frame> {
        let count = self.rings.len();
        for n in 0..count {
            let at = (self.turn + n) % count;
            if let Ok(frame) = self.rings[at].pop() {
                self.turn = at + 1;
                return Some(frame);
            }
        }
        None
    }
}

/// Why a guest's frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue towards the network is full; try again once it was polled.
    #[error("the port's queue is full")]
    Full,
    /// The pool has no free buffer.
    #[error("no free frame buffer")]
    NoBuffer,
    /// The port was detached, or the network is gone.
    #[error("the port is detached")]
    Detached,
    /// The pool has no buffers for so long a frame.
    #[error("the frame is longer than any buffer of the pool")]
    TooLong,
}

/// The guest's end of a memory port. Clones share the queues.
#[derive(Clone)]
pub struct MemoryGuest {
    link: Arc<Link>,
    pool: Pool,
}

impl MemoryGuest {
    /// Sends a copy of one Ethernet frame into the network.
    ///
    /// # Errors
    /// See [`SendError`]; the frame was not sent.
    pub fn send(&self, frame: &[u8]) -> Result<(), SendError> {
        if frame.len() > self.pool.longest() {
            return Err(SendError::TooLong);
        }
        let frame = self.pool.copy(frame).ok_or(SendError::NoBuffer)?;
        self.push(frame).map_err(|(_, why)| why)
    }

    /// Sends a frame without copying it.
    ///
    /// # Errors
    /// The queue is full or the port detached, and the frame is handed back.
    pub fn send_frame(&self, frame: Frame) -> Result<(), Frame> {
        self.push(frame).map_err(|(frame, _)| frame)
    }

    fn push(&self, frame: Frame) -> Result<(), (Frame, SendError)> {
        match &mut *lock(&self.link.to_net) {
            Some(ring) => ring.push(frame).map_err(|PushError::Full(frame)| (frame, SendError::Full))?,
            None => return Err((frame, SendError::Detached)),
        }
        if let Some(bell) = self.link.bell() {
            bell.ring();
        }
        if let Some(waker) = self.link.net_waker.get() {
            waker.wake();
        }
        Ok(())
    }

    /// The next frame the network delivered to this guest.
    pub fn recv(&self) -> Option<Bytes> {
        self.recv_frame().map(|f| Bytes::copy_from_slice(f.bytes()))
    }

    /// The next delivered frame, in its pool buffer.
    pub fn recv_frame(&self) -> Option<Frame> {
        lock(&self.link.inbox).next()
    }

    /// Has `waker` called whenever a frame is delivered. Only the first call has an effect.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.link.guest_waker.set(waker);
    }
}

impl std::fmt::Debug for MemoryGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to_net = lock(&self.link.to_net).as_ref().map_or(0, |r| r.buffer().capacity() - r.slots());
        let to_guest: usize = lock(&self.link.inbox).rings.iter().map(Consumer::slots).sum();
        write!(f, "MemoryGuest(to net {to_net}, to guest {to_guest})")
    }
}

struct MemoryReceiver {
    ring: Consumer<Frame>,
    link: Arc<Link>,
}

impl Receive for MemoryReceiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, _pool: &Pool) -> io::Result<usize> {
        let count = self.ring.slots().min(max);
        if count > 0
            && let Ok(chunk) = self.ring.read_chunk(count)
        {
            into.reserve(count);
            // Not `extend`, which asks for each frame where the ring's end is.
            chunk.into_iter().for_each(|frame| into.push(frame));
        }
        Ok(count)
    }

    fn set_bell(&mut self, bell: Bell) -> bool {
        self.link.bell.set(bell).is_ok()
    }

    fn set_waker(&mut self, waker: Waker) {
        let _ = self.link.net_waker.set(waker);
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        // The consumer goes next and the ring with it, and what waits there goes home.
        *lock(&self.link.to_net) = None;
    }
}

struct MemorySender {
    ring: Producer<Frame>,
    link: Arc<Link>,
}

impl Transmit for MemorySender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        if frames.len() == 1 {
            // A batch that spreads over many ports has one frame for most.
            if let Some(frame) = frames.pop() {
                match self.ring.push(frame) {
                    Ok(()) => self.wake(),
                    Err(PushError::Full(frame)) => frames.push(frame),
                }
            }
            return Ok(());
        }
        let count = match self.ring.write_chunk_uninit(frames.len()) {
            Ok(all) => all.fill_from_iter(frames.drain(..)),
            Err(ChunkError::TooFewSlots(n)) => match self.ring.write_chunk_uninit(n) {
                Ok(room) => room.fill_from_iter(frames.drain(..n)),
                Err(_) => 0,
            },
        };
        if count > 0 {
            self.wake();
        }
        Ok(())
    }
}

impl MemorySender {
    fn wake(&self) {
        if let Some(waker) = self.link.guest_waker.get() {
            waker.wake();
        }
    }
}

impl Port for MemoryPort {
    type Peer = MemoryGuest;

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<MemoryGuest>> {
        let (to_net, from_guest) = RingBuffer::new(self.depth);
        let (to_guest, rings): (Vec<_>, Vec<_>) = (0..senders).map(|_| RingBuffer::new(self.depth)).unzip();
        let link = Arc::new(Link {
            to_net: CachePadded::new(Mutex::new(Some(to_net))),
            inbox: CachePadded::new(Mutex::new(Inbox { rings, turn: 0 })),
            bell: OnceLock::new(),
            net_waker: OnceLock::new(),
            guest_waker: OnceLock::new(),
        });
        let sender = |ring| Box::new(MemorySender { ring, link: link.clone() }) as Box<dyn Transmit>;
        Ok(Opened {
            senders: to_guest.into_iter().map(sender).collect(),
            receivers: vec![Box::new(MemoryReceiver { ring: from_guest, link: link.clone() })],
            peer: MemoryGuest { link, pool: pool.clone() },
        })
    }
}

/// A panic elsewhere leaves these locks' contents whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Bells;
    use proptest::prelude::*;
    use std::{
        collections::VecDeque,
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    const WORKERS: usize = 3;

    #[test]
    fn frames_pass_in_order_and_a_full_queue_refuses() {
        let pool = Pool::new(8);
        let mut opened = memory(2).open(1, &pool).unwrap();
        let guest = opened.peer;
        guest.send(&[1]).unwrap();
        guest.send(&[2]).unwrap();
        assert_eq!(guest.send(&[3]), Err(SendError::Full));
        let mut batch = Vec::new();
        assert_eq!(opened.receivers[0].receive(&mut batch, 8, &pool).unwrap(), 2);
        assert_eq!((batch[0].bytes(), batch[1].bytes()), (&[1][..], &[2][..]));

        batch.push(pool.copy(&[3]).unwrap());
        opened.senders[0].transmit(&mut batch).unwrap();
        assert_eq!(batch.len(), 1, "the third did not fit and is left");
        assert_eq!(guest.recv().unwrap(), [1][..]);
        assert_eq!(guest.recv().unwrap(), [2][..]);
        assert!(guest.recv().is_none());
    }

    #[test]
    fn wakers_are_called_when_there_is_something_to_do() {
        let pool = Pool::new(8);
        let mut opened = memory(1).open(1, &pool).unwrap();
        let counting = || {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = count.clone();
            let waker = Waker::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            });
            (count, waker)
        };
        let ((net, net_waker), (guest, guest_waker)) = (counting(), counting());
        opened.receivers[0].set_waker(net_waker);
        opened.peer.set_waker(guest_waker);
        opened.peer.send(&[1]).unwrap();
        opened.peer.send(&[2]).unwrap_err();
        assert_eq!(net.load(Ordering::SeqCst), 1);
        let mut frames: Vec<_> = (0..2).map(|n| pool.copy(&[n]).unwrap()).collect();
        opened.senders[0].transmit(&mut frames).unwrap();
        opened.senders[0].transmit(&mut frames).unwrap();
        assert_eq!((frames.len(), guest.load(Ordering::SeqCst)), (1, 1));
    }

    #[test]
    fn a_guest_rings_when_it_has_queued_something() {
        let (pool, bells) = (Pool::new(8), Bells::default());
        let mut opened = memory(1).open(1, &pool).unwrap();
        opened.peer.send(&[1]).unwrap();
        assert!(opened.receivers[0].set_bell(bells.bell(5)));
        assert_eq!(bells.take(), 0, "there was no bell yet");
        opened.peer.send(&[2]).unwrap_err();
        assert_eq!(bells.take(), 0, "nothing was queued");
        assert_eq!(opened.receivers[0].receive(&mut Vec::new(), 8, &pool).unwrap(), 1);
        opened.peer.send(&[3]).unwrap();
        assert_eq!(bells.take(), 1 << 5);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send,
        Receive(usize),
        Transmit(usize, usize),
        Take,
        Detach,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => Just(Step::Send),
            4 => (0..9usize).prop_map(Step::Receive),
            4 => (0..WORKERS, 0..9usize).prop_map(|(worker, count)| Step::Transmit(worker, count)),
            12 => Just(Step::Take),
            1 => Just(Step::Detach),
        ];
        proptest::collection::vec(step, 0..200)
    }

    fn number(frame: &Frame) -> u64 {
        u64::from_le_bytes(frame.bytes()[..8].try_into().unwrap())
    }

    proptest! {
        #[test]
        fn a_port_behaves_as_plain_queues_do(depth in 1..9usize, steps in steps()) {
            let pool = Pool::new(64);
            let Opened { receivers, mut senders, peer: guest } = memory(depth).open(WORKERS, &pool).unwrap();
            let mut receiver = receivers.into_iter().next();
            let mut to_net = VecDeque::new();
            let mut to_guest = vec![VecDeque::new(); WORKERS];
            let mut next = 0u64;
            for step in steps {
                match step {
                    Step::Send => {
                        next += 1;
                        let expected = match () {
                            () if receiver.is_none() => Err(SendError::Detached),
                            () if to_net.len() == depth => Err(SendError::Full),
                            () => Ok(()),
                        };
                        to_net.extend(expected.is_ok().then_some(next));
                        prop_assert_eq!(guest.clone().send(&next.to_le_bytes()), expected);
                    }
                    Step::Receive(max) => {
                        let Some(receiver) = &mut receiver else { continue };
                        let mut frames = Vec::new();
                        let count = receiver.receive(&mut frames, max, &pool).unwrap();
                        let expected: Vec<_> = to_net.drain(..max.min(to_net.len())).collect();
                        prop_assert_eq!(count, frames.len());
                        prop_assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), expected);
                    }
                    Step::Transmit(worker, count) => {
                        let numbers: Vec<_> = (0..count as u64).map(|n| (next + 1 + n) << 2 | worker as u64).collect();
                        next += count as u64;
                        let frame = |n: &u64| pool.copy(&n.to_le_bytes()).unwrap();
                        let mut frames: Vec<_> = numbers.iter().map(frame).collect();
                        senders[worker].transmit(&mut frames).unwrap();
                        let taken = count.min(depth - to_guest[worker].len());
                        to_guest[worker].extend(&numbers[..taken]);
                        prop_assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), &numbers[taken..]);
                    }
                    Step::Take => match guest.recv_frame().as_ref().map(number) {
                        Some(n) => prop_assert_eq!(to_guest[(n & 3) as usize].pop_front(), Some(n)),
                        None => prop_assert!(to_guest.iter().all(VecDeque::is_empty)),
                    },
                    Step::Detach => {
                        receiver = None;
                        to_net.clear();
                    }
                }
                let waiting = to_net.len() + to_guest.iter().map(VecDeque::len).sum::<usize>();
                prop_assert_eq!(pool.capacity() - pool.available(), waiting);
            }
            drop((receiver, senders, guest));
            prop_assert_eq!(pool.available(), pool.capacity());
        }
    }

    #[test]
    fn no_worker_is_passed_over() {
        let pool = Pool::new(16);
        let mut opened = memory(4).open(WORKERS, &pool).unwrap();
        for (worker, sender) in opened.senders.iter_mut().enumerate() {
            sender.transmit(&mut (0..4).map(|_| pool.copy(&[worker as u8]).unwrap()).collect()).unwrap();
        }
        let taken: Vec<_> = std::iter::from_fn(|| opened.peer.recv()).map(|f| f[0]).collect();
        assert_eq!(taken, [0, 1, 2].repeat(4));
    }

    /// Two guests send, the receiving worker sends every frame back, the other worker sends frames of its own,
    /// two guests take what comes.
    #[test]
    fn nothing_is_lost_or_comes_twice_between_threads() {
        const EACH: u64 = 20_000;
        let pool = Pool::new(128);
        let Opened { mut receivers, mut senders, peer: guest } = memory(32).open(2, &pool).unwrap();
        let left = AtomicUsize::new(3 * EACH as usize);
        let mark = |source: u64, n: u64| (n << 2 | source).to_le_bytes();
        let (own, back) = (senders.pop().unwrap(), senders.pop().unwrap());
        let deliver = |sender: &mut dyn Transmit, frames: &mut Vec<Frame>| {
            while !frames.is_empty() {
                sender.transmit(frames).unwrap();
                thread::yield_now();
            }
        };
        let taken: Vec<Vec<u64>> = thread::scope(|scope| {
            for source in 0..2 {
                let guest = guest.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        while let Err(why) = guest.send(&mark(source, n)) {
                            assert!(matches!(why, SendError::Full | SendError::NoBuffer), "{why}");
                            thread::yield_now();
                        }
                    }
                });
            }
            let (pool, left, deliver) = (&pool, &left, &deliver);
            scope.spawn(move || {
                let (mut sender, mut frames, mut done) = (back, Vec::new(), 0);
                while done < 2 * EACH {
                    done += receivers[0].receive(&mut frames, 24, pool).unwrap() as u64;
                    deliver(&mut *sender, &mut frames);
                    thread::yield_now();
                }
            });
            scope.spawn(move || {
                let (mut sender, mut frames, mut n) = (own, Vec::new(), 0);
                while n < EACH {
                    let bytes = (n..EACH.min(n + 5)).map(|n| mark(2, n));
                    frames.extend(bytes.map_while(|bytes| pool.copy(&bytes)));
                    n += frames.len() as u64;
                    deliver(&mut *sender, &mut frames);
                    thread::yield_now();
                }
            });
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    let guest = guest.clone();
                    scope.spawn(move || {
                        let mut taken = Vec::new();
                        while left.load(Ordering::SeqCst) > 0 {
                            match guest.recv_frame() {
                                Some(frame) => {
                                    left.fetch_sub(1, Ordering::SeqCst);
                                    taken.push(number(&frame));
                                }
                                None => thread::yield_now(),
                            }
                        }
                        taken
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        for source in 0..3 {
            let of_source = |taken: &Vec<u64>| taken.iter().copied().filter(|n| n & 3 == source).collect();
            let by_taker: Vec<Vec<u64>> = taken.iter().map(of_source).collect();
            assert!(by_taker.iter().all(|taken| taken.is_sorted()), "out of order");
            let mut all = by_taker.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq((0..EACH).map(|n| n << 2 | source)));
        }
        assert!(guest.recv_frame().is_none());
        assert_eq!(pool.available(), pool.capacity());
    }

    /// Guests send while the port is detached: nothing is left behind.
    #[test]
    fn what_is_sent_while_the_port_goes_comes_home() {
        for _ in 0..200 {
            let pool = Pool::new(16);
            let Opened { receivers, peer: guest, .. } = memory(8).open(1, &pool).unwrap();
            thread::scope(|scope| {
                for _ in 0..2 {
                    let guest = guest.clone();
                    scope.spawn(move || while guest.send(&[1]) != Err(SendError::Detached) {});
                }
                scope.spawn(|| drop(receivers));
            });
            assert_eq!(pool.available(), pool.capacity());
        }
    }
}
