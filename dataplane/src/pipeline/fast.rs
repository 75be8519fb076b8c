//! The fast path: a batch of plain packets of known connections, in phases, so that no packet waits for memory
//! alone.
//!
//! ```text
//!   A  scan    every frame: does it belong to its port?  headers ─▶ key, hash; tags are asked for
//!   B  guess   every key:   tags ─▶ entry, which is asked for
//!   C  finish  every frame, in order: open the entry ─▶ rewrite, count, queue
//! ```
//!
//! What is not finished here goes through the slow path in its turn, between its neighbours.

use super::{Output, Pipeline, ahead::Ahead};
use crate::{
    buf::{Frame, HEADER},
    counters::WorkerCounters,
    flow::{ABSENT, FlowKey, NOWHERE, Open, OpenV4, OpenV6, Tick},
    id::PortId,
    rewrite,
    snapshot::{Hop, MAC_BITS, Row, Snapshot},
    stage::judge,
    state::{Neighbors, State},
    time::Instant,
    vector::{self, Header, KeyV4, KeyV6, MOST, Scan},
    wire::{Proto, ethertype},
};
use std::{sync::Arc, vec::Drain};

/// A worker's fast path: what it reads, and room for a batch.
pub(super) struct FastPath {
    /// `None` while it is in use, and before there is a snapshot.
    world: Option<Box<World>>,
    /// `None` only while it is in use.
    batch: Option<Box<Batch>>,
}

/// What hits read. It changes between batches only.
pub(super) struct World {
    pub(super) state: Arc<State>,
    snapshot: Arc<Snapshot>,
    counters: Arc<WorkerCounters>,
    /// The next hops are those of this version.
    neighbors: u64,
    /// By the numbers of [`Adjacency`](crate::stage::plan::Adjacency).
    pub(super) hops: Vec<Hop>,
}

/// What a frame turned out to be: its place in the lane of IPv4, or, with this bit, of IPv6.
const V6: u8 = 0x40;
const V4: u8 = 0;
/// Neither.
const OTHER: u8 = 0x80;
const FAMILY: u8 = !(MOST as u8 - 1);

struct Batch {
    classes: [u8; MOST],
    /// The family of all of them; [`OTHER`] if they differ.
    only: u8,
    /// Bit `n`: frame `n` was sent neither to the gateway nor to an uplink.
    switched: u64,
    v4: Lane<KeyV4>,
    v6: Lane<KeyV6>,
}

/// The frames of one family, in order.
struct Lane<K> {
    count: usize,
    /// Which frames of the batch they are.
    frames: [u8; MOST],
    lens: [u16; MOST],
    origins: [u32; MOST],
    keys: [K; MOST],
    hashes: [u64; MOST],
    guesses: [u32; MOST],
}

impl<K: Copy> Lane<K> {
    fn new(key: K) -> Self {
        Self {
            count: 0,
            frames: [0; MOST],
            lens: [0; MOST],
            origins: [0; MOST],
            keys: [key; MOST],
            hashes: [0; MOST],
            guesses: [NOWHERE; MOST],
        }
    }

    #[inline(always)]
    fn put(&mut self, at: usize, frame: usize, len: u16, row: &Row) {
        self.frames[at] = frame as u8;
        self.lens[at] = len;
        self.origins[at] = row.origin;
    }
}

/// A batch on its way through phase C.
struct Run<'a> {
    batch: &'a Batch,
    ports: &'a [PortId],
    /// Frames finished so far.
    done: usize,
    now: Tick,
}

impl<'a> Run<'a> {
    /// The classes of the frames that are not finished.
    #[inline(always)]
    fn classes(&self) -> &'a [u8] {
        let end = self.ports.len().min(MOST);
        &self.batch.classes[self.done.min(end)..end]
    }

    /// Ends a phase C at a frame that is no hit.
    #[inline(always)]
    fn miss(&mut self, n: usize, frame: Frame) -> Option<Frame> {
        self.done = n;
        Some(frame)
    }

    /// The frames that are not finished, in order, with their guess as to those that have no entry.
    fn missing(&self) -> impl Iterator<Item = (usize, PortId, Option<u32>)> + 'a {
        let (batch, ports) = (self.batch, self.ports);
        (self.done..ports.len()).map(move |n| (n, ports[n], batch.guess(n)))
    }

    /// Why a frame has no entry, as far as one can guess.
    fn guess(&self, n: usize) -> Option<u32> {
        self.batch.guess(n)
    }

    /// Where a frame came in.
    #[inline(always)]
    fn port(&self, n: usize) -> PortId {
        self.ports.get(n).copied().unwrap_or(Hop::NONE.port)
    }

    /// The classes of the frames that come next and are of one family.
    #[inline(always)]
    fn alike(&self, family: u8) -> &'a [u8] {
        let classes = self.classes();
        if self.batch.only == family {
            return classes;
        }
        let end = classes.iter().position(|class| class & FAMILY != family);
        &classes[..end.unwrap_or(classes.len())]
    }
}

impl Batch {
    /// Why a frame has no entry, as far as one can guess; `None` if it seems to have one.
    fn guess(&self, n: usize) -> Option<u32> {
        let class = self.classes[n % MOST];
        let at = usize::from(class) % MOST;
        let guess = match class & FAMILY {
            V4 => self.v4.guesses[at],
            V6 => self.v6.guesses[at],
            _ => NOWHERE,
        };
        (guess >= ABSENT).then_some(guess)
    }

    /// Not inlined, as it would need room on the stack for every batch.
    #[cold]
    #[inline(never)]
    fn new() -> Box<Self> {
        let (v4, v6) = (Lane::new([0; 2]), Lane::new([0; 5]));
        Box::new(Self { classes: [OTHER; MOST], only: OTHER, switched: 0, v4, v6 })
    }
}

impl FastPath {
    pub(super) fn new() -> Self {
        Self { world: None, batch: Some(Batch::new()) }
    }
}

/// Takes up the pipeline's snapshot.
pub(super) fn renew(pipeline: &mut Pipeline) {
    pipeline.fast.world = Some(World::of(pipeline));
}

impl World {
    #[cold]
    #[inline(never)]
    fn of(pipeline: &Pipeline) -> Box<Self> {
        let (state, snapshot) = (pipeline.state.clone(), pipeline.snapshot.clone());
        let mut hops = vec![Hop::NONE; Neighbors::MAX];
        hops.extend(snapshot.rows.iter().map(|row| row.hop));
        let counters = pipeline.counters.clone();
        let mut world = Box::new(Self { state, snapshot, counters, neighbors: 0, hops });
        world.meet_neighbors();
        world
    }

    /// Takes up what is known of next hops. Anybody on an uplink can bring this about, so it stays small.
    #[cold]
    #[inline(never)]
    fn meet_neighbors(&mut self) {
        let Self { state, snapshot, .. } = self;
        self.neighbors = state.neighbors.version();
        for (hop, known) in self.hops.iter_mut().zip(state.neighbors.iter()) {
            let way = |(port, mac)| {
                let uplink = snapshot.port(port)?;
                Some(Hop::new(port, uplink.mac, mac, uplink.mtu, snapshot.row(port).hop.since))
            };
            *hop = known.and_then(way).unwrap_or(Hop::NONE);
        }
    }
}

/// Runs a batch of any size.
pub(super) fn process(
    pipeline: &mut Pipeline,
    frames: &mut Vec<Frame>,
    ports: &[PortId],
    now: Instant,
    out: &mut Output,
) {
    // Away from the pipeline, which the slow path needs as a whole.
    let world = std::mem::take(&mut pipeline.fast.world);
    let mut world = world.unwrap_or_else(|| World::of(pipeline));
    if world.neighbors != world.state.neighbors.version() {
        world.meet_neighbors();
    }
    let mut batch = std::mem::take(&mut pipeline.fast.batch).unwrap_or_else(Batch::new);
    // Frames without a port are nobody's.
    frames.truncate(ports.len());
    let (mut frames, mut ports) = (frames.drain(..), ports);
    while !frames.as_slice().is_empty() {
        let (these, later) = ports.split_at(frames.as_slice().len().min(MOST));
        ports = later;
        world.scan(&mut batch, frames.as_slice(), these);
        let mut ahead = Ahead::default();
        let mut run = Run { batch: &batch, ports: these, done: 0, now: Tick::of(now) };
        let mut slow = 0;
        while let Some(class) = run.classes().first() {
            let missed = match class & FAMILY {
                V4 => world.finish_v4(&mut run, &mut frames, out),
                V6 => world.finish_v6(&mut run, &mut frames, out),
                _ => frames.next(),
            };
            let Some(frame) = missed else { continue };
            let (n, port) = (run.done, these[run.done]);
            run.done += 1;
            slow += 1;
            if ahead.is_behind(n) {
                let later = run.missing().zip(frames.as_slice());
                let later = later.filter_map(|((n, port, guess), frame)| {
                    guess.map(|guess| (n, frame, port, guess == ABSENT))
                });
                let first = (n, &frame, port, run.guess(n) == Some(ABSENT));
                pipeline.look_ahead(&world.state, &mut ahead, std::iter::once(first).chain(later));
            }
            pipeline.slow(&world, frame, port, ahead.at(n), now, out);
        }
        world.counters.hits.add((run.done - slow) as u64);
    }
    drop(frames);
    (pipeline.fast.world, pipeline.fast.batch) = (Some(world), Some(batch));
}

impl World {
    /// Phases A and B.
    #[inline(never)]
    fn scan(&self, batch: &mut Batch, frames: &[Frame], ports: &[PortId]) {
        let frames = &frames[..ports.len().min(frames.len()).min(MOST)];
        let zero: &Header = &[0; HEADER];
        let mut headers = [zero; MOST];
        for (header, frame) in headers.iter_mut().zip(frames) {
            *header = frame.header();
            vector::prefetch_write(*header);
        }
        let (mut count_v4, mut count_v6, mut switched) = (0, 0, 0);
        // Without a cache, every frame is as if of no port.
        let rows = if self.state.config.cache { &*self.snapshot.rows } else { &[] };
        let counted = self.counters.ports.first();
        for (n, (frame, port)) in frames.iter().zip(ports).enumerate() {
            let row = rows.get(port.index()).unwrap_or(&Row::NONE);
            let (header, len) = (frame.header(), frame.len() as u16);
            let (wrong, elsewhere) = row.differences(le64(header, 0), le64(header, 6));
            switched |= u64::from(elsewhere != 0) << n;
            let counted = counted.get(port.index()).unwrap_or_else(|| self.counters.ports.at(port.index()));
            counted.received.add(1);
            counted.received_bytes.add(u64::from(len));
            let kind = u16::from_le_bytes([header[12], header[13]]);
            batch.classes[n % MOST] = if wrong != 0 {
                OTHER
            } else if kind == const { ethertype::IPV4.swap_bytes() } {
                let at = count_v4 % MOST;
                count_v4 += 1;
                batch.v4.put(at, n, len, row);
                at as u8
            } else if kind == const { ethertype::IPV6.swap_bytes() } {
                let at = count_v6 % MOST;
                count_v6 += 1;
                // TCP's flags and checksum lie in the second line of a frame.
                vector::prefetch_write_at(header, 64);
                batch.v6.put(at, n, len, row);
                at as u8 | V6
            } else {
                OTHER
            };
        }
        (batch.v4.count, batch.v6.count, batch.switched) = (count_v4, count_v6, switched);
        batch.only = match frames.len() {
            n if n == count_v4 => V4,
            n if n == count_v6 => V6,
            _ => OTHER,
        };
        self.counters.received.add(frames.len() as u64);
        let engine = &self.state.engine;
        let (uniform, strict) = (batch.only != OTHER, self.state.windows.is_some());
        let lane = &mut batch.v4;
        if lane.count > 0 {
            let n = lane.count.min(MOST);
            let picked = if uniform { None } else { Some(pick(&headers, &lane.frames)) };
            let headers = picked.as_ref().unwrap_or(&headers);
            let scan = Scan { headers: &headers[..n], lens: &lane.lens[..n], origins: &lane.origins[..n] };
            let plain = engine.scan_v4(&scan, &mut lane.keys[..n], &mut lane.hashes[..n]);
            let plain = if strict { plain & others(&lane.keys[..n], |key| key[0]) } else { plain };
            if set_aside(&mut batch.classes, &lane.frames[..n], plain) {
                batch.only = OTHER;
            }
            self.state.v4.guess(&lane.hashes[..n], &mut lane.guesses[..n]);
        }
        let lane = &mut batch.v6;
        if lane.count > 0 {
            let n = lane.count.min(MOST);
            let picked = if uniform { None } else { Some(pick(&headers, &lane.frames)) };
            let headers = picked.as_ref().unwrap_or(&headers);
            let scan = Scan { headers: &headers[..n], lens: &lane.lens[..n], origins: &lane.origins[..n] };
            let plain = engine.scan_v6(&scan, &mut lane.keys[..n], &mut lane.hashes[..n]);
            let plain = if strict { plain & others(&lane.keys[..n], |key| key[4]) } else { plain };
            if set_aside(&mut batch.classes, &lane.frames[..n], plain) {
                batch.only = OTHER;
            }
            self.state.v6.guess(&lane.hashes[..n], &mut lane.guesses[..n]);
        }
    }

    /// Phase C for IPv4, up to a frame that is none or no hit, which is given back.
    #[inline(never)]
    fn finish_v4(&self, run: &mut Run<'_>, frames: &mut Drain<'_, Frame>, out: &mut Output) -> Option<Frame> {
        let (batch, lane, table) = (run.batch, &run.batch.v4, &self.state.v4);
        let (generation, hops, tallies) =
            (self.snapshot.generation, &*self.hops, self.counters.tallies.first());
        let (start, now, switched) = (run.done, run.now, batch.switched);
        let end = start + run.alike(V4).len();
        for n in start..end {
            let Some(mut frame) = frames.next() else { break };
            let at = usize::from(batch.classes[n % MOST]) % MOST;
            let mut open = table.open(lane.guesses[at], &lane.keys[at]);
            if open.is_none() {
                (frame, open) = self.search_v4(lane, at, frame);
            }
            let Some(open) = open else { return run.miss(n, frame) };
            let hop = hops.get(open.adjacency() as usize).unwrap_or(&Hop::NONE);
            let len = frame.len();
            let h = frame.header();
            // The frame's length is at hand. Only if that is too long need the packet be asked.
            if len > usize::from(hop.mtu) + 14 && u16::from_be_bytes([h[16], h[17]]) > hop.mtu {
                let fits;
                (frame, fits) = fits_segmented(frame, hop.mtu);
                if !fits {
                    return run.miss(n, frame);
                }
            }
            let h = frame.header();
            let to_peer = switched >> n & 1 == 1 && le64(h, 0) & MAC_BITS != hop.dst_mac();
            if to_peer || h[22] <= open.hops() {
                return run.miss(n, frame);
            }
            if !open.stands(generation) {
                let stands;
                (frame, stands) = self.stands(run.port(n), hop, open, frame);
                if !stands {
                    return run.miss(n, frame);
                }
            }
            let tally = open.tally() as usize;
            let Some(tally) = tallies.get(tally).or_else(|| self.counters.tallies.get(tally)) else {
                return run.miss(n, frame);
            };
            let Some(words) = open.rewrite() else { return run.miss(n, frame) };
            let h = frame.header_mut();
            hop.write_macs(h, open.is_switched());
            rewrite::edit_v4(h, words, open.hops());
            open.touch(now, len as u64);
            tally.packets.add(1);
            tally.bytes.add(len as u64);
            out.push(hop.port, frame);
        }
        run.done = end;
        None
    }

    /// The same for IPv6.
    #[inline(never)]
    fn finish_v6(&self, run: &mut Run<'_>, frames: &mut Drain<'_, Frame>, out: &mut Output) -> Option<Frame> {
        let (batch, lane, table) = (run.batch, &run.batch.v6, &self.state.v6);
        let (generation, hops, tallies) =
            (self.snapshot.generation, &*self.hops, self.counters.tallies.first());
        let (start, now, switched) = (run.done, run.now, batch.switched);
        let end = start + run.alike(V6).len();
        for n in start..end {
            let Some(mut frame) = frames.next() else { break };
            let at = usize::from(batch.classes[n % MOST]) % MOST;
            let mut open = table.open(lane.guesses[at], &lane.keys[at]);
            if open.is_none() {
                (frame, open) = self.search_v6(lane, at, frame);
            }
            let Some(open) = open else { return run.miss(n, frame) };
            let hop = hops.get(open.adjacency() as usize).unwrap_or(&Hop::NONE);
            let len = frame.len();
            let h = frame.header();
            let total = || u32::from(u16::from_be_bytes([h[18], h[19]])) + 40;
            if len > usize::from(hop.mtu) + 14 && total() > u32::from(hop.mtu) {
                let fits;
                (frame, fits) = fits_segmented(frame, hop.mtu);
                if !fits {
                    return run.miss(n, frame);
                }
            }
            let h = frame.header();
            let to_peer = switched >> n & 1 == 1 && le64(h, 0) & MAC_BITS != hop.dst_mac();
            if to_peer || h[21] <= open.hops() {
                return run.miss(n, frame);
            }
            if !open.stands(generation) {
                let stands;
                (frame, stands) = self.stands(run.port(n), hop, open, frame);
                if !stands {
                    return run.miss(n, frame);
                }
            }
            let tally = open.tally() as usize;
            let Some(tally) = tallies.get(tally).or_else(|| self.counters.tallies.get(tally)) else {
                return run.miss(n, frame);
            };
            let Some(words) = open.rewrite() else { return run.miss(n, frame) };
            let h = frame.header_mut();
            hop.write_macs(h, open.is_switched());
            rewrite::edit_v6(h, words, open.hops());
            open.touch(now, len as u64);
            tally.packets.add(1);
            tally.bytes.add(len as u64);
            out.push(hop.port, frame);
        }
        run.done = end;
        None
    }

    /// Whether a session of an older generation, a packet of which came in by `port` and goes out by `hop`, is
    /// certain to be judged alike now. Then it is stamped so.
    ///
    /// This and the searches take the frame and give it back: what a loop owns while it calls what may panic, it
    /// has to keep in memory.
    #[cold]
    #[inline(never)]
    fn stands<const LINES: usize, const REWRITE: usize>(
        &self,
        port: PortId,
        hop: &Hop,
        open: Open<'_, LINES, REWRITE>,
        frame: Frame,
    ) -> (Frame, bool) {
        let since = (self.snapshot.row(port).hop.since, hop.since);
        // An entry of a newer snapshot than this worker's is not this worker's to judge.
        let stands = !open.is_slow()
            && open.generation() < self.snapshot.generation
            && open.is_unchanged()
            && judge::stands(&self.state, &self.snapshot, since, open.tally(), open.generation());
        if stands {
            open.stamp(self.snapshot.generation);
        }
        (frame, stands)
    }

    /// The guess was wrong: looks the key up.
    #[cold]
    #[inline(never)]
    fn search_v4(&self, lane: &Lane<KeyV4>, at: usize, frame: Frame) -> (Frame, Option<OpenV4<'_>>) {
        if lane.guesses[at] == ABSENT {
            return (frame, None);
        }
        let place = self.state.v4.place_of(&FlowKey::of_v4(&lane.keys[at]), lane.hashes[at]);
        (frame, place.and_then(|place| self.state.v4.open(place, &lane.keys[at])))
    }

    #[cold]
    #[inline(never)]
    fn search_v6(&self, lane: &Lane<KeyV6>, at: usize, frame: Frame) -> (Frame, Option<OpenV6<'_>>) {
        if lane.guesses[at] == ABSENT {
            return (frame, None);
        }
        let place = self.state.v6.place_of(&FlowKey::of_v6(&lane.keys[at]), lane.hashes[at]);
        (frame, place.and_then(|place| self.state.v6.open(place, &lane.keys[at])))
    }
}

/// Whether a packet is still to be segmented, and its segments fit.
#[cold]
#[inline(never)]
fn fits_segmented(frame: Frame, mtu: u16) -> (Frame, bool) {
    let largest = frame.offload().and_then(|left| left.largest(frame.bytes()));
    let fits = largest.is_some_and(|largest| largest <= mtu);
    (frame, fits)
}

/// Which keys are not of TCP, a bit each; the protocol is the last byte of the word that `word` names.
#[cold]
#[inline(never)]
fn others<K>(keys: &[K], word: impl Fn(&K) -> u64) -> u64 {
    let is_other = |key: &K| u64::from(word(key) as u8 != Proto::TCP.0);
    (0..).zip(keys).fold(0, |mask, (n, key)| mask | is_other(key) << n)
}

/// The headers of a lane whose batch has others too.
#[inline(never)]
fn pick<'a>(headers: &[&'a Header; MOST], frames: &[u8; MOST]) -> [&'a Header; MOST] {
    frames.map(|frame| headers[usize::from(frame) % MOST])
}

/// Leaves frames that are not plain to the slow path. Whether there are any.
fn set_aside(classes: &mut [u8; MOST], frames: &[u8], plain: u64) -> bool {
    let mut others = !plain & (u64::MAX >> (MOST - frames.len().clamp(1, MOST)));
    let any = others != 0;
    while others != 0 {
        let at = others.trailing_zeros() as usize;
        others &= others - 1;
        classes[usize::from(frames[at]) % MOST] = OTHER;
    }
    any
}

#[inline(always)]
fn le64(h: &Header, at: usize) -> u64 {
    h.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}
