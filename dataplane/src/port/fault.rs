//! Faults for any port: frames that are lost, doubled, damaged, overtaken or late, as on a bad line.
//!
//! ```text
//!   port ── Receive ───▶ line ──▶ its worker
//!            │  each visit moves all lines on
//!   port ◀── Transmit ◀─ line ◀── every worker, a line each
//! ```
//!
//! [`wrap`] puts a line in front of each half of a port, which draws the fate of every frame: is it lost, is there a
//! copy of it, is a bit of it flipped, do others go first, does it come late? The random numbers begin with the seed
//! of [`Faults`], so the same frames in the same order have the same fates on every run. A rate that is changed
//! moves no other fault, and each line has numbers of its own, whatever the other workers send.
//!
//! There is no clock here: a frame is held back for a number of *visits*. A visit is the receiving worker asking the
//! port for frames, which it does in every poll that has room for some, whether or not there are any. Whoever polls
//! says how long that is. A worker on a thread of its own is kept awake while a line holds something, and comes by
//! every few microseconds; delays of a known time are for a port of one's own.
//!
//! Each frame passes, is lost, is refused by the port behind the line, or is in the line: [`FaultCounters`] has the
//! numbers. When the port is detached, what is in the line goes back to the pool. Cost: a few locks a batch, a
//! dozen random numbers a frame, and a visit in each poll, since what is held back rings no bell.

mod line;
#[cfg(test)]
mod tests;

use super::Bell;
use super::{Opened, Port, Receive, Transmit, Waker};
use crate::buf::{Frame, Pool};
use line::{Line, Random};
use std::{
    io,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// `port`, with faults. Its peer stays what it is.
///
/// ```
/// use supernet_dataplane::{buf::Pool, port::{Port, fault::{self, Faults, Rates}, memory}};
///
/// let bad = Rates { loss: 0.05, reordering: 0.1, ..Rates::default() };
/// let port = fault::wrap(memory(512), Faults { seed: 7, receive: bad, transmit: Rates::default() });
/// let counters = port.counters();
/// let pool = Pool::new(1024);
/// let mut opened = port.open(1, &pool)?;                   // as attaching it does
///
/// for n in 0..100 {
///     opened.peer.send(&[n; 60])?;
/// }
/// let mut frames = Vec::new();
/// while counters.receive().held() > 0 || frames.is_empty() {
///     opened.receivers[0].receive(&mut frames, 512, &pool)?;
/// }
/// assert_eq!(counters.receive().lost, 100 - frames.len() as u64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn wrap<P: Port>(port: P, faults: Faults) -> FaultPort<P> {
    FaultPort { port, faults, counters: FaultCounters::default() }
}

/// What goes wrong at a port.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// Where the random numbers begin. Ports with one seed have the same faults.
    pub seed: u64,
    /// Frames that the port receives, on their way into the network.
    pub receive: Rates,
    /// Frames that are sent to the port.
    pub transmit: Rates,
}

/// How many of a direction's frames have which fault: 0.05 is five in a hundred. No fault by default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Frames that vanish.
    pub loss: f64,
    /// Frames that come twice. What else happens to the two is drawn for each by itself. While the pool has no
    /// buffer for the copy there is none.
    pub duplication: f64,
    /// Frames with one bit flipped, anywhere. (Two flips in a frame can cancel out in the sums of IP and TCP, and
    /// nobody could tell.) Not those whose checksum a host has left undone: it would be computed over the damage, so a
    /// device under test is attached without offloads.
    pub corruption: f64,
    /// Frames that let others go first: from one to [`overtakers`](Self::overtakers) of those after them.
    pub reordering: f64,
    /// Frames that come late: after one to [`visits`](Self::visits) visits, whatever else passes meanwhile. They are
    /// not reordered besides.
    pub delay: f64,
    /// The most frames that go before one that is reordered; 3 by default.
    pub overtakers: u32,
    /// The most visits that a frame is held back: one that is late, and one that is to be overtaken and nobody
    /// comes; 16 by default.
    pub visits: u32,
}

impl Default for Rates {
    fn default() -> Self {
        let (loss, duplication, corruption, reordering, delay) = (0.0, 0.0, 0.0, 0.0, 0.0);
        Self { loss, duplication, corruption, reordering, delay, overtakers: 3, visits: 16 }
    }
}

impl Rates {
    fn check(&self) -> io::Result<()> {
        let Self { loss, duplication, corruption, reordering, delay, overtakers, visits } = *self;
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        for (name, rate) in [
            ("loss", loss),
            ("duplication", duplication),
            ("corruption", corruption),
            ("reordering", reordering),
            ("delay", delay),
        ] {
            if !(0.0..=1.0).contains(&rate) {
                return refused(format!("{name} is {rate}: a rate is a number from 0 to 1"));
            }
        }
        for (name, most) in [("overtakers", overtakers), ("visits", visits)] {
            if most == 0 {
                return refused(format!("{name} is 0: who is held back waits for 1 at least"));
            }
        }
        Ok(())
    }
}

/// A port with faults that is not attached yet.
#[derive(Debug)]
pub struct FaultPort<P> {
    port: P,
    faults: Faults,
    counters: FaultCounters,
}

impl<P> FaultPort<P> {
    /// The counters of this port, to be kept when it is attached.
    pub fn counters(&self) -> FaultCounters {
        self.counters.clone()
    }
}

/// What happened at a port with faults. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FaultCounters {
    receive: Arc<Mutex<FaultCounts>>,
    transmit: Arc<Mutex<FaultCounts>>,
}

impl FaultCounters {
    /// Of frames that the port received.
    pub fn receive(&self) -> FaultCounts {
        *lock(&self.receive)
    }

    /// Of frames that were sent to the port, by all workers.
    pub fn transmit(&self) -> FaultCounts {
        *lock(&self.transmit)
    }
}

/// What happened in one direction, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    /// That came. Those that a full port left to the worker, which counts them as dropped, did not.
    pub taken: u64,
    /// That went on, copies included.
    pub passed: u64,
    /// That vanished.
    pub lost: u64,
    /// Copies that were made.
    pub duplicated: u64,
    /// With a bit flipped.
    pub corrupted: u64,
    /// Held back to be overtaken.
    pub reordered: u64,
    /// Held back to be late.
    pub delayed: u64,
    /// Copies, and frames that had been held back, that the port did not take: it was full, or detached by then.
    pub refused: u64,
}

impl FaultCounts {
    /// Frames in the line at this moment.
    pub fn held(&self) -> u64 {
        (self.taken + self.duplicated).saturating_sub(self.passed + self.lost + self.refused)
    }

    fn add(&mut self, o: Self) {
        self.taken += o.taken;
        self.passed += o.passed;
        self.lost += o.lost;
        self.duplicated += o.duplicated;
        self.corrupted += o.corrupted;
        self.reordered += o.reordered;
        self.delayed += o.delayed;
        self.refused += o.refused;
    }
}

impl<P: Port> Port for FaultPort<P> {
    type Peer = P::Peer;

    /// # Errors
    /// Those of the port, and a rate that is none.
    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<P::Peer>> {
        let Self { port, faults: Faults { seed, receive, transmit }, counters } = self;
        receive.check()?;
        transmit.check()?;
        let Opened { receivers, senders, peer } = port.open(senders, pool)?;
        let mut seeds = Random(seed);
        let mut line = |rates, counts: &Arc<Mutex<FaultCounts>>| {
            Line::new(rates, seeds.next(), counts.clone(), pool.clone())
        };
        let inner: Vec<_> =
            receivers.into_iter().map(|half| (half, line(receive, &counters.receive))).collect();
        let lanes: Vec<_> = senders
            .into_iter()
            .map(|inner| Arc::new(Mutex::new(Lane { inner, line: line(transmit, &counters.transmit) })))
            .collect();
        // The first receiver sees to what the senders hold.
        let first = Arc::new(Wake::default());
        let sender = |lane: &Arc<Mutex<Lane>>| {
            Box::new(FaultSender { lane: lane.clone(), waker: first.clone() }) as Box<dyn Transmit>
        };
        let senders = lanes.iter().map(sender).collect();
        let mut firsts = Some((lanes, first));
        let receiver = |(inner, line)| {
            // Each has a worker of its own to wake.
            let (lanes, waker) = firsts.take().unwrap_or_default();
            Box::new(FaultReceiver { inner, line, lanes, arrived: Vec::new(), waker }) as Box<dyn Receive>
        };
        Ok(Opened { senders, receivers: inner.into_iter().map(receiver).collect(), peer })
    }
}

/// Takes no bell for its own: the port behind rings none, and is to be asked every time. It rings for what it holds, as its
/// descriptor tells of others.
struct FaultReceiver {
    inner: Box<dyn Receive>,
    line: Line,
    /// Those of all workers: only this half is visited when nothing is sent.
    lanes: Vec<Arc<Mutex<Lane>>>,
    /// Empty between visits.
    arrived: Vec<Frame>,
    waker: Arc<Wake>,
}

impl Receive for FaultReceiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let mut again = false;
        let mut sent = Ok(());
        for lane in &self.lanes {
            let mut lane = lock(lane);
            sent = sent.and(lane.visit());
            again |= lane.line.holds_some();
        }
        self.line.visit();
        let room = max.saturating_sub(self.line.due.len());
        let received = match room {
            0 => Ok(0),
            _ => self.inner.receive(&mut self.arrived, room, pool),
        };
        // If what filled the room is lost, more may be waiting where that came from.
        again |= self.arrived.len() == room;
        self.arrived.drain(..).for_each(|frame| self.line.pass(frame));
        let count = self.line.due.len().min(max);
        into.extend(self.line.due.drain(..count).map(|due| due.frame));
        self.line.counts.passed += count as u64;
        self.line.publish();
        if again || self.line.holds_some() {
            self.waker.wake();
        }
        received.and(sent).map(|()| count)
    }

    fn take_missed(&mut self) -> u64 {
        self.inner.take_missed()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn set_bell(&mut self, bell: Bell) -> bool {
        let _ = self.waker.bell.set(bell);
        false
    }

    fn set_waker(&mut self, waker: Waker) {
        self.inner.set_waker(waker.clone());
        let _ = self.waker.waker.set(waker.clone());
        // What was held back before could wake nobody.
        waker.wake();
    }
}

struct FaultSender {
    lane: Arc<Mutex<Lane>>,
    waker: Arc<Wake>,
}

impl Transmit for FaultSender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let mut lane = lock(&self.lane);
        frames.drain(..).for_each(|frame| lane.line.pass(frame));
        let sent = lane.send(frames);
        let holds_some = lane.line.holds_some();
        drop(lane);
        if holds_some {
            // It is the receiving half that is visited.
            self.waker.wake();
        }
        sent
    }
}

/// Has a receiving half visited again, by the worker that owns it.
#[derive(Debug, Default)]
struct Wake {
    waker: OnceLock<Waker>,
    /// For a worker that visits only who rang, or whose descriptor is ready.
    bell: OnceLock<Bell>,
}

impl Wake {
    fn wake(&self) {
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// A worker's sending half: used by that worker, and by the one that receives when something has become due.
struct Lane {
    inner: Box<dyn Transmit>,
    line: Line,
}

impl Lane {
    fn visit(&mut self) -> io::Result<()> {
        self.line.visit();
        self.send(&mut Vec::new())
    }

    /// Sends what is due. Of what the port leaves, `left` gets what its worker has not counted as sent.
    fn send(&mut self, left: &mut Vec<Frame>) -> io::Result<()> {
        let Line { due, counts, .. } = &mut self.line;
        let count = due.len();
        // A port may lose frames before one that it sends.
        let copies: Vec<usize> = due.iter().filter(|d| !d.owed).map(|d| d.frame.place()).collect();
        let mut frames: Vec<Frame> = due.drain(..).map(|d| d.frame).collect();
        let sent = if count > 0 { self.inner.transmit(&mut frames) } else { Ok(()) };
        counts.passed += count.saturating_sub(frames.len()) as u64;
        for frame in frames {
            if !copies.contains(&frame.place()) {
                counts.taken -= 1;
                left.push(frame);
            } else {
                counts.refused += 1;
            }
        }
        self.line.publish();
        sent
    }
}

/// A panic elsewhere leaves these locks' contents whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
