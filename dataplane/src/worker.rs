//! The loop of one core: receive, process, send; and the handle that all workers hang on.
//!
//! ```text
//!   Dataplane (any thread) ── publish, attach, detach ──▶ Worker 0..n ── poll(now) ──▶ frames move
//! ```
//!
//! A worker owns the receivers of its ports and a sender of every port. It never waits: [`Worker::poll`] does
//! what there is to do and says when it wants to be called again. Snapshots are picked up between batches and never
//! freed in the packet path (`handover`).

mod flows;
mod owners;
mod receivers;
#[cfg(test)]
mod tests;

use crate::{
    buf::{Frame, Large, Offloads, Pool},
    capture::{self, Capture, Filter, Limits, Tap},
    counters::{Counters, WorkerCounters},
    flow::{Scope, Session, SessionId, Usage},
    flowlog::{Desk, Desks},
    handover::{Handover, Numbered},
    id::{Generation, PortId},
    pipeline::{Output, Pipeline},
    port::{Opened, Port, Receive, Transmit, Waker},
    snapshot::Snapshot,
    stage::{commit, log::Why, quota},
    state::{Config, State},
    time::{Duration, Instant},
    verdict::DropReason,
    wire::offload,
};
use crossbeam::channel::{Receiver, Sender, unbounded};
use owners::{Attachment, Owners};
use receivers::Receivers;
use std::{
    fmt, io,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Frames a worker takes in one go.
pub const BATCH: usize = 64;

/// Every session is looked at by the sweep about this often.
const SWEEP_LAP: Duration = Duration::from_secs(2);

/// How often it is worked out how much there is to sweep.
const SWEEP_STEP: Duration = Duration::from_millis(1);

/// Buckets swept in one poll: few when frames wait, more when none do.
const SWEEP_BUSY: usize = 2;
const SWEEP_IDLE: usize = 256;

/// The longest a worker with sessions or next hops waits between two polls.
const IDLE: Duration = Duration::from_millis(100);

/// How often next hops are looked through for one to be asked for.
const ASK_EVERY: Duration = Duration::from_millis(10);

struct Shared {
    state: Arc<State>,
    pool: Pool,
    counters: Vec<Arc<WorkerCounters>>,
    snapshots: Handover<Snapshot>,
    workers: Vec<WorkerHandle>,
    owners: Mutex<Owners>,
    /// What is told of sessions that end without a worker.
    logs: Mutex<Desks>,
}

impl Shared {
    /// Has every worker let go of an attachment, unless they have been told before.
    fn let_go(&self, attachment: Attachment) {
        self.release(lock(&self.owners), attachment);
    }

    /// The same. Locked until every worker is told, so that what is attached under this id next is attached after.
    fn release(&self, mut owners: MutexGuard<'_, Owners>, attachment: Attachment) {
        if !owners.remove(attachment) {
            return;
        }
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Detach(attachment));
        }
        drop(owners);
        self.wake_all();
    }

    fn wake_all(&self) {
        for worker in &self.workers {
            if let Some(waker) = &*lock(&worker.waker) {
                waker.wake();
            }
        }
    }
}

impl Numbered for Snapshot {
    fn number(&self) -> u32 {
        self.generation.0
    }
}

struct WorkerHandle {
    commands: Sender<Command>,
    waker: Mutex<Option<Waker>>,
    /// Nobody polls it any more.
    gone: AtomicBool,
}

enum Command {
    Attach { attachment: Attachment, receivers: Vec<Box<dyn Receive>>, sender: Box<dyn Transmit> },
    Detach(Attachment),
    Waker(Waker),
    Capture(Arc<Tap>),
    Log(Desk),
}

/// The handle on a dataplane. Clones share it; it may be used from any thread while packets run.
#[derive(Clone)]
pub struct Dataplane {
    shared: Arc<Shared>,
}

impl Dataplane {
    /// Makes a dataplane and its workers. Before the first snapshot everything is dropped.
    pub fn new(config: Config) -> (Self, Vec<Worker>) {
        let workers = config.workers.max(1);
        let config = Config { workers, ..config };
        let size = if config.super_frames > 0 { Large::Super } else { Large::Jumbo };
        let pool = Pool::with_large(config.frames, config.jumbo_frames + config.super_frames, size);
        let state = Arc::new(State::new(config));
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded()).unzip();
        let handle =
            |commands| WorkerHandle { commands, waker: Mutex::new(None), gone: AtomicBool::new(false) };
        let shared = Arc::new(Shared {
            pool,
            counters: (0..workers).map(|_| Arc::default()).collect(),
            snapshots: Handover::default(),
            workers: senders.into_iter().map(handle).collect(),
            owners: Mutex::default(),
            logs: Mutex::default(),
            state,
        });
        let workers = receivers
            .into_iter()
            .enumerate()
            .map(|(index, commands)| Worker::new(index, shared.clone(), commands))
            .collect();
        (Self { shared }, workers)
    }

    /// Publishes a snapshot: workers use it from their next batch on. Returns its generation.
    pub fn publish(&self, snapshot: Snapshot) -> Generation {
        let (state, mut begun) = (&self.shared.state, false);
        let published = self.shared.snapshots.publish(|before| {
            let snapshot = snapshot.succeed(before);
            for hops in snapshot.tier0.routes.iter().map(|(_, hops)| hops) {
                for hop in hops {
                    // Known before the first packet needs it, so that it has been asked for by then.
                    let _ = state.neighbors.intern_routed(hop);
                }
            }
            // Before it is in use: no connection is made by it that is not counted.
            begun = state.quotas.set_counting(!snapshot.limits.is_empty());
            snapshot
        });
        self.shared.wake_all();
        if begun {
            self.count_sessions(&published);
        }
        published.generation
    }

    /// Has the connections that there are count for their pods and namespaces, where nobody pays for them yet.
    fn count_sessions(&self, snapshot: &Snapshot) {
        let state = &self.shared.state;
        for id in state.sessions.ids() {
            let mut place = state.sessions.lock(id);
            let Some(mut record) = place.get() else { continue };
            if let Some(session) = commit::session(state, &record) {
                quota::adopt(state, snapshot, &mut place, &mut record, &session);
            }
        }
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshots.newest()
    }

    /// Attaches a port and returns its other side. The worker with the fewest ports receives from it; if it has several
    /// receivers, as many workers as there are. With a receiver for each worker, or two, and so on, they have them in the
    /// order of their numbers, as they have the senders.
    ///
    /// # Errors
    /// The port could not be opened, or no worker is left; nothing was attached. A port id that is attached already, or not below
    /// [`PortId::MAX`], is refused.
    pub fn attach<P: Port>(&self, id: PortId, port: P) -> io::Result<P::Peer> {
        if id.0 >= PortId::MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such port"));
        }
        let mut owners = lock(&self.shared.owners);
        if owners.of(id).is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the port is attached already"));
        }
        let workers = &self.shared.workers;
        let Opened { receivers, senders, peer } = port.open(workers.len(), &self.shared.pool)?;
        if senders.len() != workers.len() {
            return Err(io::Error::other("the port did not open a sender for every worker"));
        }
        if receivers.is_empty() {
            return Err(io::Error::other("the port did not open a receiver"));
        }
        let is_living = |w: &usize| !workers[*w].gone.load(Ordering::SeqCst);
        let living: Vec<usize> = (0..workers.len()).filter(is_living).collect();
        if living.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "every worker was dropped"));
        }
        let (attachment, dealt) = owners.add(id, receivers.len(), &living);
        let mut shares: Vec<Vec<Box<dyn Receive>>> = workers.iter().map(|_| Vec::new()).collect();
        for (receiver, owner) in receivers.into_iter().zip(dealt) {
            shares[owner].push(receiver);
        }
        for ((worker, sender), receivers) in workers.iter().zip(senders).zip(shares) {
            // A worker that is gone needs no ports.
            let _ = worker.commands.send(Command::Attach { attachment, receivers, sender });
        }
        drop(owners);
        self.shared.wake_all();
        Ok(peer)
    }

    /// Detaches a port and ends its sessions. Workers let go of it at their next poll; frames on their way to
    /// it are dropped and counted.
    pub fn detach(&self, id: PortId) {
        self.release(id);
        let state = &self.shared.state;
        let logs = lock(&self.shared.logs);
        logs.take_time();
        for place in state.sessions.ids() {
            let mut place = state.sessions.lock(place);
            let session = place.get().and_then(|record| commit::session(state, &record));
            if session.is_some_and(|s| s.ingress == id || s.judgement.out == id) {
                commit::end(state, &mut place, &logs, Why::Gone);
            }
        }
    }

    /// Lets go of a port that the snapshot no longer has. Its sessions stay until their next packet tells the
    /// other side, or their time is up.
    pub fn release(&self, id: PortId) {
        let owners = lock(&self.shared.owners);
        if let Some(attachment) = owners.of(id) {
            self.shared.release(owners, attachment);
        }
    }

    /// Whether a port is attached. One that failed is not any more: its driver said that it is gone for good.
    pub fn is_attached(&self, id: PortId) -> bool {
        lock(&self.shared.owners).of(id).is_some()
    }

    /// The frame pool that ports and guests share with the workers.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// The state that packets leave behind.
    pub fn state(&self) -> &Arc<State> {
        &self.shared.state
    }

    /// What all workers counted.
    pub fn counters(&self) -> Counters {
        let Shared { counters, state, .. } = &*self.shared;
        Counters::collect(counters, &state.tallies, state.fragments.held())
    }

    /// Calls `see` for every live session, with what its two directions have carried.
    pub fn for_each_session(&self, mut see: impl FnMut(SessionId, &Session, &(Usage, Usage))) {
        let state = &self.shared.state;
        for id in state.sessions.ids() {
            let place = state.sessions.lock(id);
            let seen = place.get().and_then(|record| {
                commit::session(state, &record).map(|session| (session, commit::usage(state, &record)))
            });
            // `see` may do what it likes: nothing is locked meanwhile.
            drop(place);
            if let Some((session, usage)) = seen {
                see(id, &session, &usage);
            }
        }
    }

    /// Copies frames as they come in and leave, with what became of each, from every worker's next poll on, until what
    /// is returned is dropped. Nothing waits for who reads: what does not fit is missed, and counted.
    pub fn capture(&self, filter: Filter, limits: Limits) -> Capture {
        let (tap, capture) = capture::begin(filter, limits);
        for worker in &self.shared.workers {
            let _ = worker.commands.send(Command::Capture(tap.clone()));
        }
        self.shared.wake_all();
        capture
    }

    /// Has `waker` called when worker `index` has something to do: frames wait at a port without descriptor,
    /// a port was attached or detached, a snapshot published. To be set once, at any time.
    pub fn set_waker(&self, index: usize, waker: Waker) {
        if let Some(worker) = self.shared.workers.get(index) {
            *lock(&worker.waker) = Some(waker.clone());
            let _ = worker.commands.send(Command::Waker(waker.clone()));
            waker.wake();
        }
    }
}

impl fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = Generation(self.shared.snapshots.number());
        write!(f, "Dataplane({} workers, {generation:?})", self.shared.workers.len())
    }
}

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Polled {
    /// Frames received.
    pub frames: usize,
    /// When the worker wants to be polled again, if nothing arrives before. The time of the poll means: at once.
    pub next: Instant,
}

/// One worker. It belongs to whoever polls it. Dropping it detaches the ports it receives from; others take over
/// what is attached from then on.
pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    pipeline: Pipeline,
    counters: Arc<WorkerCounters>,
    receivers: Receivers,
    /// Indexed by port.
    senders: Vec<Option<(Attachment, Box<dyn Transmit>)>>,
    frames: Vec<Frame>,
    ports: Vec<PortId>,
    output: Output,
    swept: Instant,
    /// Buckets whose turn to be swept has come.
    to_sweep: usize,
    ask_at: Instant,
    waker: Option<Waker>,
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>, commands: Receiver<Command>) -> Self {
        let counters = shared.counters[index].clone();
        let pipeline = Pipeline::new(shared.state.clone(), counters.clone(), shared.pool.clone());
        Self {
            index,
            shared,
            commands,
            pipeline,
            counters,
            receivers: Receivers::default(),
            senders: Vec::new(),
            frames: Vec::with_capacity(BATCH),
            ports: Vec::with_capacity(BATCH),
            output: Output::default(),
            swept: Instant::ZERO,
            to_sweep: 0,
            ask_at: Instant::ZERO,
            waker: None,
        }
    }

    /// The worker's number, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Descriptors that become readable when frames arrive, for ports that have one, each with the token for
    /// [`Worker::ready`]. They change when ports come and go, which [`Worker::changes`] tells.
    pub fn descriptors(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.receivers.descriptors()
    }

    /// Says that somebody watches the descriptors: from now on, their ports are asked for frames only after
    /// [`Worker::ready`], and idle ones cost nothing. Without this, every port that has a descriptor is asked in each
    /// poll.
    pub fn watch(&mut self) {
        self.receivers.watch();
    }

    /// The descriptor with this token is readable. It is asked until it has no more; if a driver gives fewer frames than
    /// it has, its descriptor has to be found readable again.
    pub fn ready(&mut self, token: usize) {
        self.receivers.ready(token);
    }

    /// A number that is another one whenever [`Worker::descriptors`] are others. Ports come and go in
    /// [`Worker::poll`].
    pub fn changes(&self) -> u64 {
        self.receivers.changes()
    }

    /// Does what there is to do at `now`: takes commands, moves at most [`BATCH`] frames, ends what timed out.
    pub fn poll(&mut self, now: Instant) -> Polled {
        self.pipeline.look_at_captures(now);
        self.take_commands(now);
        self.shared.state.epochs.begin(self.index);
        self.receive();
        // Last: an answer to what another worker sent on is judged by no older snapshot than that worker's.
        self.take_snapshot();
        let frames = self.frames.len();
        if frames > 0 {
            self.pipeline.process(&mut self.frames, &self.ports, now, &mut self.output);
        }
        self.keep_house(now, frames > 0);
        self.send();
        // Nothing is held between polls, so a worker that is never polled again holds nothing up.
        self.shared.state.epochs.rest(self.index);
        let busy = frames > 0 || self.to_sweep > 0;
        Polled { frames, next: if busy { now } else { now + IDLE } }
    }

    fn take_commands(&mut self, now: Instant) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { attachment, receivers, sender } => {
                    self.attach(attachment, receivers, sender);
                }
                Command::Detach(attachment) => {
                    self.receivers.remove(attachment);
                    self.pipeline.sweep_fragments(now, Some(Scope::port(attachment.port)));
                    if let Some(place) = self.senders.get_mut(attachment.port.index()) {
                        place.take_if(|(of, _)| *of == attachment);
                    }
                }
                Command::Waker(waker) => {
                    for (_, (_, receiver)) in self.receivers.iter_mut() {
                        receiver.set_waker(waker.clone());
                    }
                    self.waker = Some(waker);
                }
                Command::Capture(tap) => self.pipeline.capture(tap, now),
                Command::Log(desk) => self.pipeline.log_flows(desk, now),
            }
        }
    }

    fn attach(
        &mut self,
        attachment: Attachment,
        receivers: Vec<Box<dyn Receive>>,
        sender: Box<dyn Transmit>,
    ) {
        let at = attachment.port.index();
        if self.senders.len() <= at {
            self.senders.resize_with(at + 1, || None);
        }
        self.senders[at] = Some((attachment, sender));
        for mut receiver in receivers {
            if let Some(waker) = &self.waker {
                receiver.set_waker(waker.clone());
            }
            self.receivers.add(attachment, receiver);
        }
    }

    fn take_snapshot(&mut self) {
        if let Some(snapshot) = self.shared.snapshots.other_than(self.pipeline.snapshot().number()) {
            self.pipeline.set_snapshot(snapshot);
        }
    }

    fn receive(&mut self) {
        self.frames.clear();
        self.ports.clear();
        let gone = self.receivers.receive(&mut self.frames, &mut self.ports, &self.shared.pool);
        let missed = self.receivers.take_missed();
        if missed > 0 {
            self.counters.missed.add(missed);
        }
        if let Some(attachment) = gone {
            self.shared.let_go(attachment);
        }
    }

    fn send(&mut self) {
        let (senders, counters, shared) = (&mut self.senders, &self.counters, &self.shared);
        let watch = self.pipeline.watch();
        let (mut sent, mut refused) = (0, 0);
        let bytes = |frames: &[Frame]| frames.iter().map(|f| f.len() as u64).sum::<u64>();
        let lower = |port, frames: &mut Vec<Frame>, offloads: Offloads| {
            let lowered = match watch {
                None => offload::lower(frames, offloads, &shared.pool),
                Some(watch) => watch.lower(port, frames, offloads, &shared.pool),
            };
            counters.generated.add(lowered.made);
            counters.drops[DropReason::NoBuffer as usize].add(lowered.lost);
            (frames.len() as u64, bytes(frames))
        };
        self.output.drain(|port, frames| {
            let mut before = (frames.len() as u64, bytes(frames));
            if let Some(Some((attachment, sender))) = senders.get_mut(port.index()) {
                let attachment = *attachment;
                let offloads = sender.offloads();
                if !offloads.take_all() && frames.iter().any(|frame| frame.offload().is_some()) {
                    before = lower(port, frames, offloads);
                }
                if let Some(watch) = watch {
                    watch.leaves(port, frames);
                }
                if sender.transmit(frames).is_err() {
                    senders[port.index()] = None;
                    shared.let_go(attachment);
                }
            }
            // What is left could not be sent.
            let left = (frames.len() as u64, bytes(frames));
            if let Some(watch) = watch {
                watch.left(port, frames);
            }
            sent += before.0 - left.0;
            refused += left.0;
            let row = counters.ports.at(port.index());
            row.sent.add(before.0 - left.0);
            row.sent_bytes.add(before.1 - left.1);
        });
        counters.sent.add(sent);
        counters.drops[DropReason::PortFull as usize].add(refused);
    }

    fn keep_house(&mut self, now: Instant, busy: bool) {
        if now >= self.ask_at {
            let senders = &self.senders;
            let attached = |port: PortId| matches!(senders.get(port.index()), Some(Some(_)));
            self.pipeline.ask_neighbors(now, attached, &mut self.output);
            self.ask_at = now + ASK_EVERY;
        }
        let passed = now.since(self.swept).min(SWEEP_LAP);
        if passed >= SWEEP_STEP {
            let state = &self.shared.state;
            // Nothing to sweep, nothing to walk over.
            let buckets = if state.sessions.live() > 0 { state.v4.buckets() + state.v6.buckets() } else { 0 };
            // As if it were alone: another worker may not be polled for long.
            let share = buckets * passed.as_micros() as usize / SWEEP_LAP.as_micros() as usize;
            self.to_sweep = (self.to_sweep + share + 1).min(buckets);
            self.swept = now;
            self.pipeline.sweep_fragments(now, None);
            self.pipeline.tend_logs(now);
        }
        let most = if busy { SWEEP_BUSY } else { SWEEP_IDLE };
        let count = self.to_sweep.min(most);
        if count > 0 {
            self.pipeline.sweep(count, now);
            self.to_sweep -= count;
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Worker({}, {} ports)", self.index, self.receivers.len())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.state.epochs.rest(self.index);
        shared.workers[self.index].gone.store(true, Ordering::SeqCst);
        let mine = lock(&shared.owners).by(self.index);
        for attachment in mine {
            shared.let_go(attachment);
        }
    }
}

/// A panic elsewhere leaves these locks' contents whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
