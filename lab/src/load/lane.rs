//! One worker's load: its pipeline, the frames it sends, and the ring of buffers they travel in.
//!
//! Who measures calls [`Lane::refill`] and [`Lane::process`] in turn and decides which of them counts. A
//! refill copies frames from the templates, as a network card writes them; processing is what a worker does
//! between receiving and sending.

use super::{
    Family, LoadError,
    frames::{FRAME_V4, FRAME_V6, Template},
};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};
use supernet::{
    DropReason,
    dataplane::{
        buf::{Frame, Pool},
        counters::WorkerCounters,
        id::PortId,
        pipeline::{Output, Pipeline},
        snapshot::Snapshot,
        state::State,
        time::Instant,
        wire,
        worker::BATCH,
    },
};

/// Buffers a lane sends in, first in, first out, as the ring of a network card.
pub const RING: usize = 512;

/// One worker's share of a load.
pub struct Lane {
    pipeline: Pipeline,
    counters: Arc<WorkerCounters>,
    state: Arc<State>,
    worker: usize,
    /// Frames of one length, one after the other.
    templates: Vec<u8>,
    /// Bytes of each of them.
    stride: usize,
    /// Where each comes in.
    sources: Vec<PortId>,
    ring: VecDeque<Frame>,
    batch: Vec<Frame>,
    ports: Vec<PortId>,
    out: Output,
    random: u64,
    /// The order in which each is sent once, and how far that is.
    order: Vec<u32>,
    next: usize,
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
    pub(super) fn new(
        state: Arc<State>,
        snapshot: Arc<Snapshot>,
        family: Family,
        worker: usize,
        templates: usize,
    ) -> Self {
        let (pool, counters) = (Pool::new(RING), Arc::<WorkerCounters>::default());
        let mut pipeline = Pipeline::new(state.clone(), counters.clone(), pool.clone());
        pipeline.set_snapshot(snapshot);
        let stride = match family {
            Family::Ipv4 => FRAME_V4,
            Family::Ipv6 => FRAME_V6,
        };
        Self {
            pipeline,
            counters,
            state,
            worker,
            templates: Vec::with_capacity(templates * stride),
            stride,
            sources: Vec::with_capacity(templates),
            order: Vec::new(),
            ring: std::iter::from_fn(|| pool.take()).collect(),
            batch: Vec::with_capacity(BATCH),
            ports: Vec::with_capacity(BATCH),
            out: Output::default(),
            random: 0x9e37_79b9_7f4a_7c15 ^ worker as u64,
            next: 0,
        }
    }

    /// Adds a packet to those that are sent.
    pub(super) fn add(&mut self, template: &Template) {
        template.write(&mut self.templates);
        self.sources.push(template.port);
    }

    /// Has [`Lane::refill_once`] take the packets in a random order.
    pub(super) fn shuffle(&mut self) {
        self.order = (0..self.templates() as u32).collect();
        for last in (1..self.order.len()).rev() {
            let other = self.draw(last + 1);
            self.order.swap(last, other);
        }
    }

    /// Sends at most a batch of packets once, all of which must come out, and returns the answers to them.
    pub(super) fn pass(&mut self, what: &'static str, sent: &[Template]) -> Result<Vec<Template>, LoadError> {
        let mut bytes = Vec::with_capacity(self.stride);
        for template in sent {
            bytes.clear();
            template.write(&mut bytes);
            self.put(&bytes, template.port);
        }
        self.state.epochs.begin(self.worker);
        self.pipeline.process(&mut self.batch, &self.ports, Instant::from_secs(1), &mut self.out);
        self.ports.clear();
        let (ring, mut answers) = (&mut self.ring, Vec::with_capacity(sent.len()));
        self.out.drain(|port, frames| {
            let packets = frames.iter().filter_map(|frame| wire::parse(frame.bytes()).ok());
            answers.extend(packets.map(|packet| Template::answer(port, &packet)));
            ring.extend(frames.drain(..));
        });
        if answers.len() == sent.len() {
            return Ok(answers);
        }
        let drops = DropReason::ALL.iter().zip(&self.counters.drops).map(|(reason, n)| (*reason, n.get()));
        let drops = drops.filter(|(_, n)| *n > 0).collect();
        Err(LoadError::NotDelivered { what, delivered: answers.len(), asked: sent.len(), drops })
    }

    /// Sends a full batch to every output port, so that no queue has to grow later. Packets are of open
    /// connections and of both directions: every port that sends also receives.
    pub(super) fn settle(&mut self) {
        let ports: BTreeSet<PortId> = self.sources.iter().copied().collect();
        let mut settled = BTreeSet::new();
        for at in 0..self.templates() {
            for copies in [1, BATCH] {
                (0..copies).for_each(|_| self.put_template(at));
                self.pipeline.process(&mut self.batch, &self.ports, Instant::from_secs(1), &mut self.out);
                self.ports.clear();
                let (ring, mut is_new) = (&mut self.ring, false);
                self.out.drain(|port, frames| {
                    is_new |= settled.insert(port);
                    ring.extend(frames.drain(..));
                });
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
        self.sources.len()
    }

    /// The frames themselves.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.templates.chunks_exact(self.stride)
    }

    /// Fills a batch with frames drawn at random, and says how many.
    pub fn refill(&mut self) -> u64 {
        for _ in 0..BATCH {
            let at = self.draw(self.templates());
            self.put_template(at);
        }
        self.batch.len() as u64
    }

    /// Fills a batch with the frames that come next, each once a lap, and says how many: none when the lap is
    /// over.
    pub fn refill_once(&mut self) -> u64 {
        let end = self.order.len().min(self.next + BATCH);
        for n in self.next..end {
            self.put_template(self.order[n] as usize);
        }
        self.next = end;
        self.batch.len() as u64
    }

    /// Begins another lap.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// Runs the batch and takes the frames back from where the pipeline left them, by output port.
    pub fn process(&mut self, now: Instant) {
        self.state.epochs.begin(self.worker);
        self.pipeline.process(&mut self.batch, &self.ports, now, &mut self.out);
        let ring = &mut self.ring;
        self.out.drain(|_, frames| ring.extend(frames.drain(..)));
        self.ports.clear();
    }

    /// Gives the batch back unsent, to measure what refilling alone costs.
    pub fn skip(&mut self) {
        self.ring.extend(self.batch.drain(..));
        self.ports.clear();
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

    fn put_template(&mut self, at: usize) {
        // A dropped frame's buffer is lost to the ring: the batch is then short, and the counters tell.
        let Some(mut frame) = self.ring.pop_front() else { return };
        frame.fill(&self.templates[at * self.stride..][..self.stride]);
        self.batch.push(frame);
        self.ports.push(self.sources[at]);
    }

    fn put(&mut self, bytes: &[u8], port: PortId) {
        let Some(mut frame) = self.ring.pop_front() else { return };
        frame.fill(bytes);
        self.batch.push(frame);
        self.ports.push(port);
    }

    /// A number below `end`, by xorshift: cheap, and random enough to defeat caches and prefetchers.
    fn draw(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((u128::from(self.random) * end as u128) >> 64) as usize
    }
}
