//! One worker's load: its pipeline, the frames it sends, and the ring of buffers they travel in.
//!
//! ```text
//!   frames ── refill ─▶ batches (the whole ring) ── process ─▶ Output ── collect ─▶ ring
//!             copies     64 of 64 frames           a group       by port   untimed
//!             untimed                              timed
//! ```
//!
//! Who measures calls [`Lane::refill`], then [`Lane::process`] and [`Lane::collect`] in turn until nothing is
//! left, and decides which of them counts. A refill puts frames together in every buffer of the ring, as a
//! network card writes them, so that frames come from the second-level cache and not from the first;
//! processing is what a worker does between receiving and sending. [`Lane::parse`] and [`Lane::look_up`] do its
//! first steps only.

use super::{
    Family, LoadError,
    frames::{FRAME_V4, FRAME_V6, Frames, Template},
};
use std::{
    collections::{BTreeSet, VecDeque},
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use supernet::{
    DropReason,
    dataplane::{
        buf::{Frame, Pool},
        counters::WorkerCounters,
        flow::FlowKey,
        id::PortId,
        pipeline::{Output, Pipeline},
        snapshot::Snapshot,
        state::State,
        time::Instant,
        vector::{KeyV4, KeyV6, MOST, Scan},
        wire,
        worker::{BATCH, Dataplane},
    },
};

/// Buffers a lane sends in, first in, first out, as the ring of a network card.
pub const RING: usize = 4096;

/// Batches that [`Lane::process`] runs at one go: one, as a worker does before it sends. What a look at the clock
/// costs is measured and taken off.
pub const GROUP: usize = 1;

/// One worker's share of a load.
pub struct Lane {
    pipeline: Pipeline,
    counters: Arc<WorkerCounters>,
    state: Arc<State>,
    worker: usize,
    /// Where newer snapshots come from, if anybody publishes some.
    news: Option<(Arc<AtomicBool>, Dataplane)>,
    frames: Frames,
    /// First packets among the others: which, and which of them is next.
    fresh: (Frames, usize),
    /// How far apart they come; 0 for none.
    apart: usize,
    /// How many came so far.
    fresh_sent: u64,
    ring: VecDeque<Frame>,
    batches: Vec<Batch>,
    /// Batches that are filled, and how many of them were processed.
    filled: usize,
    done: usize,
    out: Output,
    family: Family,
    keyed: Box<Keyed>,
    random: u64,
    sent: usize,
    /// The order in which each is sent once, and how far that is.
    order: Vec<u32>,
    next: usize,
}

#[derive(Default)]
struct Batch {
    frames: Vec<Frame>,
    ports: Vec<PortId>,
}

/// What the first steps work on.
struct Keyed {
    lens: [u16; MOST],
    origins: [u32; MOST],
    v4: [KeyV4; MOST],
    v6: [KeyV6; MOST],
    hashes: [u64; MOST],
    guesses: [u32; MOST],
}

/// What a lane has counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames that entered the pipeline.
    pub received: u64,
    /// Frames that took the cached way.
    pub hits: u64,
    /// Frames that were dropped.
    pub dropped: u64,
    /// New connections.
    pub connections: u64,
}

impl Lane {
    pub(super) fn new(state: Arc<State>, snapshot: Arc<Snapshot>, family: Family, worker: usize) -> Self {
        let (pool, counters) = (Pool::new(RING), Arc::<WorkerCounters>::default());
        let mut pipeline = Pipeline::new(state.clone(), counters.clone(), pool.clone());
        pipeline.set_snapshot(snapshot);
        let batch = || Batch { frames: Vec::with_capacity(BATCH), ports: Vec::with_capacity(BATCH) };
        Self {
            pipeline,
            counters,
            state,
            worker,
            news: None,
            frames: Frames::new(family.frame_len()),
            fresh: (Frames::new(family.frame_len()), 0),
            apart: 0,
            fresh_sent: 0,
            ring: std::iter::from_fn(|| pool.take()).collect(),
            batches: std::iter::repeat_with(batch).take(RING.div_ceil(BATCH)).collect(),
            filled: 0,
            done: 0,
            out: Output::default(),
            family,
            keyed: Box::new(Keyed {
                lens: [0; MOST],
                origins: [0; MOST],
                v4: [[0; 2]; MOST],
                v6: [[0; 5]; MOST],
                hashes: [0; MOST],
                guesses: [0; MOST],
            }),
            random: 0x9e37_79b9_7f4a_7c15 ^ worker as u64,
            sent: 0,
            order: Vec::new(),
            next: 0,
        }
    }

    /// The packets that are sent.
    pub(super) fn frames_mut(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// Gives the packets away.
    pub(super) fn into_frames(self) -> Frames {
        self.frames
    }

    /// The packets that are mixed in.
    pub(super) fn fresh_mut(&mut self) -> &mut Frames {
        &mut self.fresh.0
    }

    /// Has every `apart`th packet open one of the load's other connections, in turn; 0 for none.
    pub fn mix_in(&mut self, apart: usize) {
        self.apart = apart;
    }

    /// First packets that were mixed in so far.
    pub fn fresh_sent(&self) -> u64 {
        self.fresh_sent
    }

    /// Uses a newer snapshot of `from` from the next batch on whenever `news` is set, as a worker would.
    pub(super) fn follow(&mut self, news: Arc<AtomicBool>, from: Dataplane) {
        self.news = Some((news, from));
    }

    /// Has [`Lane::refill_once`] take the packets in a random order.
    pub(super) fn shuffle(&mut self) {
        self.order = (0..self.templates() as u32).collect();
        for last in (1..self.order.len()).rev() {
            let other = draw(&mut self.random, last + 1);
            self.order.swap(last, other);
        }
    }

    /// Sends packets once, at most a ring of them, all of which must come out, and returns the answers to them.
    pub(super) fn pass(&mut self, what: &'static str, sent: &[Template]) -> Result<Vec<Template>, LoadError> {
        let mut bytes = Vec::with_capacity(FRAME_V6);
        for (template, at) in sent.iter().zip(0..) {
            bytes.clear();
            template.write(&mut bytes);
            self.put(at / BATCH, &bytes, template.port);
        }
        self.filled = sent.len().div_ceil(BATCH);
        let mut answers = Vec::with_capacity(sent.len());
        while self.process(Instant::from_secs(1)) > 0 {
            let ring = &mut self.ring;
            self.out.drain(|port, frames| {
                let packets = frames.iter().filter_map(|frame| wire::parse(frame.bytes()).ok());
                answers.extend(packets.map(|packet| Template::answer(port, &packet)));
                ring.extend(frames.drain(..));
            });
        }
        self.collect();
        if answers.len() == sent.len() {
            return Ok(answers);
        }
        let drops = DropReason::ALL.iter().zip(&self.counters.drops).map(|(reason, n)| (*reason, n.get()));
        let drops = drops.filter(|(_, n)| *n > 0).collect();
        Err(LoadError::NotDelivered { what, delivered: answers.len(), asked: sent.len(), drops })
    }

    /// Sends full batches to every output port, so that no queue has to grow later. Packets are of open
    /// connections and of both directions: every port that sends also receives.
    pub(super) fn settle(&mut self) {
        let ports: BTreeSet<PortId> = (0..self.templates()).map(|at| self.frames.port(at)).collect();
        let mut settled = BTreeSet::new();
        for at in 0..self.templates() {
            for copies in [1, GROUP * BATCH] {
                (0..copies).for_each(|n| self.put_template(n / BATCH, at));
                self.filled = copies.div_ceil(BATCH);
                self.process(Instant::from_secs(1));
                let (ring, mut is_new) = (&mut self.ring, false);
                self.out.drain(|port, frames| {
                    is_new |= settled.insert(port);
                    ring.extend(frames.drain(..));
                });
                self.collect();
                if !is_new {
                    break;
                }
            }
            if settled.len() >= ports.len() {
                break;
            }
        }
    }

    /// Frames to choose from.
    pub fn templates(&self) -> usize {
        self.frames.len()
    }

    /// The first of the frames, at most `most`, put together.
    pub fn some_frames(&self, most: usize) -> Vec<Vec<u8>> {
        let mut bytes = [0; FRAME_V6];
        (0..self.templates().min(most))
            .map(|at| {
                self.frames.write(at, &mut bytes);
                bytes[..self.frames.frame_len()].to_vec()
            })
            .collect()
    }

    /// Fills the ring with frames drawn at random, and says how many.
    pub fn refill(&mut self) -> u64 {
        for n in 0..RING {
            self.sent += 1;
            if self.apart > 0 && self.sent.is_multiple_of(self.apart) && self.fresh.0.len() > 0 {
                let mut bytes = [0; FRAME_V6];
                let (fresh, next) = &mut self.fresh;
                let port = fresh.write(*next, &mut bytes);
                *next = (*next + 1) % fresh.len();
                self.fresh_sent += 1;
                self.put(n / BATCH, &bytes[..self.frames.frame_len()], port);
            } else {
                let at = draw(&mut self.random, self.frames.len());
                self.put_template(n / BATCH, at);
            }
        }
        self.ready(RING)
    }

    /// Fills the ring with the frames that come next, each once a lap, and says how many: none when the lap is
    /// over.
    pub fn refill_once(&mut self) -> u64 {
        let end = self.order.len().min(self.next + RING);
        for n in self.next..end {
            self.put_template((n - self.next) / BATCH, self.order[n] as usize);
        }
        let count = end - self.next;
        self.next = end;
        self.ready(count)
    }

    /// Begins another lap.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// Runs the next [`GROUP`] batches; frames in them, none when all are done.
    pub fn process(&mut self, now: Instant) -> u64 {
        let end = self.filled.min(self.done + GROUP);
        let mut packets = 0;
        for batch in &mut self.batches[self.done..end] {
            packets += batch.frames.len() as u64;
            self.state.epochs.begin(self.worker);
            self.pipeline.process(&mut batch.frames, &batch.ports, now, &mut self.out);
        }
        self.done = end;
        packets
    }

    /// Runs the next batch alone, with the newest snapshot; frames in it, none when all are done.
    pub fn process_one(&mut self, now: Instant) -> u64 {
        if self.done >= self.filled {
            return 0;
        }
        if let Some((news, dataplane)) = &self.news
            && news.load(Ordering::Acquire)
        {
            news.store(false, Ordering::Release);
            self.pipeline.set_snapshot(dataplane.snapshot());
        }
        let batch = &mut self.batches[self.done];
        let packets = batch.frames.len() as u64;
        self.state.epochs.begin(self.worker);
        self.pipeline.process(&mut batch.frames, &batch.ports, now, &mut self.out);
        self.done += 1;
        packets
    }

    /// Takes the frames back from where the pipeline left them, by output port.
    pub fn collect(&mut self) {
        let ring = &mut self.ring;
        self.out.drain(|_, frames| ring.extend(frames.drain(..)));
        if self.done >= self.filled {
            for batch in &mut self.batches[..self.filled] {
                ring.extend(batch.frames.drain(..));
                batch.ports.clear();
            }
            (self.filled, self.done) = (0, 0);
        }
    }

    /// Ends what timed out in the next `count` buckets.
    pub fn sweep(&mut self, count: usize, now: Instant) {
        self.pipeline.sweep(count, now);
    }

    /// Only reads and hashes the headers of the next [`GROUP`] batches; frames that were plain, none when all are
    /// done.
    pub fn parse(&mut self) -> u64 {
        self.first_steps(false)
    }

    /// Only parses the next [`GROUP`] batches and looks their connections up; frames that had one, none when
    /// all are done.
    pub fn look_up(&mut self) -> u64 {
        self.first_steps(true)
    }

    fn first_steps(&mut self, look_up: bool) -> u64 {
        let (end, mut done) = (self.filled.min(self.done + GROUP), 0);
        let (state, keyed) = (&*self.state, &mut self.keyed);
        let snapshot = self.pipeline.snapshot();
        for batch in &self.batches[self.done..end] {
            state.epochs.begin(self.worker);
            let Some(first) = batch.frames.first() else { continue };
            let n = batch.frames.len().min(MOST);
            let mut headers = [first.header(); MOST];
            for (at, (frame, port)) in batch.frames.iter().zip(&batch.ports).take(n).enumerate() {
                headers[at] = frame.header();
                keyed.lens[at] = frame.len() as u16;
                keyed.origins[at] = snapshot.row(*port).origin;
            }
            let scan = Scan { headers: &headers[..n], lens: &keyed.lens[..n], origins: &keyed.origins[..n] };
            let plain = match self.family {
                Family::Ipv4 => state.engine.scan_v4(&scan, &mut keyed.v4[..n], &mut keyed.hashes[..n]),
                Family::Ipv6 => state.engine.scan_v6(&scan, &mut keyed.v6[..n], &mut keyed.hashes[..n]),
            };
            black_box((&keyed.v4, &keyed.v6, &keyed.hashes));
            if !look_up {
                done += u64::from(plain.count_ones());
                continue;
            }
            done += match self.family {
                Family::Ipv4 => {
                    state.v4.guess(&keyed.hashes[..n], &mut keyed.guesses[..n]);
                    let is_there = |at: &usize| {
                        let (key, hash) = (&keyed.v4[*at], keyed.hashes[*at]);
                        state.v4.open(keyed.guesses[*at], key).is_some()
                            || state.v4.place_of(&FlowKey::of_v4(key), hash).is_some()
                    };
                    (0..n).filter(is_there).count()
                }
                Family::Ipv6 => {
                    state.v6.guess(&keyed.hashes[..n], &mut keyed.guesses[..n]);
                    let is_there = |at: &usize| {
                        let (key, hash) = (&keyed.v6[*at], keyed.hashes[*at]);
                        state.v6.open(keyed.guesses[*at], key).is_some()
                            || state.v6.place_of(&FlowKey::of_v6(key), hash).is_some()
                    };
                    (0..n).filter(is_there).count()
                }
            } as u64;
        }
        self.done = end;
        done
    }

    /// Gives everything back unsent, to measure what refilling alone costs.
    pub fn skip(&mut self) {
        self.done = self.filled;
        self.collect();
    }

    /// Says that this worker holds nothing, so that slots of ended sessions can be used again.
    pub fn rest(&self) {
        self.state.epochs.rest(self.worker);
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        let c = &self.counters;
        Counted {
            received: c.received.get(),
            hits: c.hits.get(),
            dropped: c.drops.iter().map(|d| d.get()).sum(),
            connections: c.tallies.iter().map(|(_, row)| row.connections.get()).sum(),
        }
    }

    /// Buffers were filled, the first `count`: batches of these can be processed. A buffer that was dropped is
    /// lost to the ring: batches are then short, and the counters tell.
    fn ready(&mut self, count: usize) -> u64 {
        (self.filled, self.done) = (count.div_ceil(BATCH), 0);
        self.batches[..self.filled].iter().map(|b| b.frames.len() as u64).sum()
    }

    fn put_template(&mut self, batch: usize, at: usize) {
        let mut bytes = [0; FRAME_V6];
        let port = self.frames.write(at, &mut bytes);
        self.put(batch, &bytes[..self.frames.frame_len()], port);
    }

    fn put(&mut self, batch: usize, bytes: &[u8], port: PortId) {
        let Some(mut frame) = self.ring.pop_front() else { return };
        frame.fill(bytes);
        self.batches[batch].frames.push(frame);
        self.batches[batch].ports.push(port);
    }
}

impl Family {
    /// Bytes of a frame.
    pub fn frame_len(self) -> usize {
        match self {
            Self::Ipv4 => FRAME_V4,
            Self::Ipv6 => FRAME_V6,
        }
    }
}

/// A number below `end`, by xorshift: cheap, and random enough to defeat caches and prefetchers.
pub(super) fn draw(random: &mut u64, end: usize) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    ((u128::from(*random) * end as u128) >> 64) as usize
}
