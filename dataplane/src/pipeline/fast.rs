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

use super::{Output, Pipeline};
use crate::{
    buf::{Frame, HEADER},
    counters::WorkerCounters,
    flow::{FlowKey, FlowTable, NOWHERE, OpenV4, OpenV6, Tick},
    id::{Generation, PortId},
    snapshot::{GATEWAY_MAC, Hop, MAC_BITS, Row, Snapshot, mac_word},
    stage::commit::{self, NEIGHBOR},
    state::State,
    time::Instant,
    vector::{self, Header, KeyV4, KeyV6, MOST, Scan},
};
use std::sync::Arc;

/// A worker's fast path: what it reads, and room for a batch.
pub(super) struct FastPath {
    world: Arc<World>,
    /// The next hops in `world` are those of this version.
    neighbors: u64,
    batch: Box<Batch>,
}

/// What hits read. It changes between batches only.
struct World {
    state: Arc<State>,
    snapshot: Arc<Snapshot>,
    counters: Arc<WorkerCounters>,
    /// Next hops by number.
    next_hops: Vec<Hop>,
}

/// What a frame turned out to be, and its place in the lane of its family.
#[derive(Clone, Copy)]
enum Class {
    V4(u8),
    V6(u8),
    Other,
}

struct Batch {
    classes: [Class; MOST],
    /// Bit `n`: frame `n` was sent to the gateway, or came from an uplink.
    addressed: u64,
    v4: Lane<KeyV4>,
    v6: Lane<KeyV6>,
}

/// The frames of one family, in order.
struct Lane<K> {
    count: usize,
    /// Bit `n`: the `n`th is plain.
    plain: u64,
    lens: [u16; MOST],
    origins: [u32; MOST],
    /// When sessions by the port it came in by can be relied on from.
    since: [Generation; MOST],
    keys: [K; MOST],
    hashes: [u64; MOST],
    guesses: [u32; MOST],
}

impl<K: Copy> Lane<K> {
    fn new(key: K) -> Self {
        Self {
            count: 0,
            plain: 0,
            lens: [0; MOST],
            origins: [0; MOST],
            since: [Generation(0); MOST],
            keys: [key; MOST],
            hashes: [0; MOST],
            guesses: [NOWHERE; MOST],
        }
    }

    /// Takes a frame up and returns its place.
    #[inline(always)]
    fn push(&mut self, len: u16, row: &Row) -> usize {
        let at = self.count % MOST;
        self.lens[at] = len;
        self.origins[at] = row.origin;
        self.since[at] = row.hop.since;
        self.count += 1;
        at
    }

    #[inline(always)]
    fn is_plain(&self, at: usize) -> bool {
        self.plain >> at & 1 == 1
    }
}

impl FastPath {
    pub(super) fn new(state: Arc<State>, counters: Arc<WorkerCounters>) -> Self {
        let world = World { state, snapshot: Arc::default(), counters, next_hops: Vec::new() };
        let batch = Batch {
            classes: [Class::Other; MOST],
            addressed: 0,
            v4: Lane::new([0; 2]),
            v6: Lane::new([0; 5]),
        };
        Self { world: Arc::new(world), neighbors: u64::MAX, batch: Box::new(batch) }
    }

    pub(super) fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.renew(snapshot);
    }

    /// Looks whether a next hop's MAC has changed.
    fn refresh(&mut self) {
        if self.world.state.neighbors.version() != self.neighbors {
            self.renew(self.world.snapshot.clone());
        }
    }

    fn renew(&mut self, snapshot: Arc<Snapshot>) {
        let state = self.world.state.clone();
        self.neighbors = state.neighbors.version();
        let hop = |known| {
            let (port, mac) = known?;
            let uplink = snapshot.port(port)?;
            Some(Hop::new(port, uplink.mac, mac, uplink.mtu, snapshot.row(port).hop.since))
        };
        let next_hops = state.neighbors.iter().map(|known| hop(known).unwrap_or(Hop::NONE)).collect();
        let counters = self.world.counters.clone();
        self.world = Arc::new(World { state, snapshot, counters, next_hops });
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
    pipeline.fast.refresh();
    let world = pipeline.fast.world.clone();
    let tick = Tick::of(now);
    let mut frames = frames.drain(..);
    let mut ports = ports;
    while !frames.as_slice().is_empty() {
        let count = frames.as_slice().len().min(ports.len()).min(MOST);
        let (these, later) = ports.split_at(count);
        let batch = &mut *pipeline.fast.batch;
        world.scan(batch, frames.as_slice(), these);
        let mut hits = 0;
        for (n, port) in these.iter().enumerate() {
            let Some(frame) = frames.next() else { break };
            let batch = &*pipeline.fast.batch;
            let missed = match batch.classes[n] {
                Class::V4(at) => world.finish_v4(batch, n, usize::from(at) % MOST, frame, tick, out),
                Class::V6(at) => world.finish_v6(batch, n, usize::from(at) % MOST, frame, tick, out),
                Class::Other => Some(frame),
            };
            match missed {
                None => hits += 1,
                Some(frame) => pipeline.slow(frame, *port, now, out),
            }
        }
        world.counters.hits.add(hits);
        ports = later;
        if count == 0 {
            // Frames without a port are nobody's.
            break;
        }
    }
}

impl World {
    /// Phases A and B.
    #[inline(never)]
    fn scan(&self, batch: &mut Batch, frames: &[Frame], ports: &[PortId]) {
        let zero: &Header = &[0; HEADER];
        let (mut v4, mut v6) = ([zero; MOST], [zero; MOST]);
        (batch.v4.count, batch.v6.count, batch.addressed) = (0, 0, 0);
        let frames = &frames[..ports.len().min(frames.len()).min(MOST)];
        for frame in frames {
            vector::prefetch_write(frame.header());
        }
        let cached = self.state.config.cache;
        for (n, (frame, port)) in frames.iter().zip(ports).enumerate() {
            let row = self.snapshot.row(*port);
            let header = frame.header();
            let (dst, src) = (le64(header, 0) & MAC_BITS, le64(header, 4) >> 16);
            let guard = if row.is_uplink { dst } else { src };
            let addressed = row.is_uplink | (dst == const { mac_word(GATEWAY_MAC) });
            batch.addressed |= u64::from(addressed) << n;
            let counted = self.counters.ports.at(port.index());
            counted.received.add(1);
            counted.received_bytes.add(frame.len() as u64);
            let len = frame.len() as u16;
            let kind = u16::from_be_bytes([header[12], header[13]]);
            batch.classes[n] = match kind {
                _ if guard != row.guard || !cached => Class::Other,
                0x0800 => {
                    let at = batch.v4.push(len, row);
                    v4[at] = header;
                    Class::V4(at as u8)
                }
                0x86dd => {
                    let at = batch.v6.push(len, row);
                    v6[at] = header;
                    Class::V6(at as u8)
                }
                _ => Class::Other,
            };
        }
        self.counters.received.add(frames.len() as u64);
        let engine = &self.state.engine;
        let lane = &mut batch.v4;
        if lane.count > 0 {
            let n = lane.count.min(MOST);
            let scan = Scan { headers: &v4[..n], lens: &lane.lens[..n], origins: &lane.origins[..n] };
            lane.plain = engine.scan_v4(&scan, &mut lane.keys[..n], &mut lane.hashes[..n]);
            look_up(&self.state.v4, &lane.hashes[..n], &mut lane.guesses[..n]);
        }
        let lane = &mut batch.v6;
        if lane.count > 0 {
            let n = lane.count.min(MOST);
            let scan = Scan { headers: &v6[..n], lens: &lane.lens[..n], origins: &lane.origins[..n] };
            lane.plain = engine.scan_v6(&scan, &mut lane.keys[..n], &mut lane.hashes[..n]);
            look_up(&self.state.v6, &lane.hashes[..n], &mut lane.guesses[..n]);
        }
    }

    /// Phase C for an IPv4 frame; gives it back if it is no hit.
    #[inline(always)]
    fn finish_v4(
        &self,
        batch: &Batch,
        n: usize,
        at: usize,
        mut frame: Frame,
        now: Tick,
        out: &mut Output,
    ) -> Option<Frame> {
        let lane = &batch.v4;
        let open = match self.state.v4.open(lane.guesses[at], &lane.keys[at]) {
            Some(open) => open,
            None => match self.search_v4(lane, at) {
                Some(open) => open,
                None => return Some(frame),
            },
        };
        let hop = self.hop(open.adjacency());
        let len = frame.len();
        let h = frame.header_mut();
        let (dst, total) = (le64(h, 0) & MAC_BITS, u16::from_be_bytes([h[16], h[17]]));
        let ok = lane.is_plain(at)
            & !open.is_denied()
            & (h[22] > open.hops())
            & (total <= hop.mtu)
            & ((batch.addressed >> n & 1 == 1) | (dst == hop.dst_mac()));
        if !ok {
            return Some(frame);
        }
        if open.generation() != self.snapshot.generation {
            if !self.stands((lane.since[at], hop.since), open.tally(), open.generation()) {
                return Some(frame);
            }
            open.stamp(self.snapshot.generation);
        }
        let Some(tally) = self.counters.tallies.get(open.tally() as usize) else { return Some(frame) };
        set_macs(h, hop, open.is_switched());
        // TTL, protocol and header checksum, then the addresses and ports.
        let [low, high] = open.rewrite;
        let old = u32::from_le_bytes([h[22], h[23], h[24], h[25]]);
        let sum = add(!(old >> 16) & 0xffff, low as u32 & 0xffff);
        let new = ((old & 0xffff) - u32::from(open.hops())) | !sum << 16;
        put64(h, 22, low & !0xffff_ffff | u64::from(new));
        put64(h, 30, high);
        mend_transport(
            h,
            if h[23] == UDP { 34 + 6 } else { 34 + 16 },
            h[23] == UDP,
            (low >> 16) as u32 & 0xffff,
        );
        open.touch(now, len as u64);
        tally.packets.add(1);
        tally.bytes.add(len as u64);
        out.push(hop.port, frame);
        None
    }

    /// The same for IPv6.
    #[inline(always)]
    fn finish_v6(
        &self,
        batch: &Batch,
        n: usize,
        at: usize,
        mut frame: Frame,
        now: Tick,
        out: &mut Output,
    ) -> Option<Frame> {
        let lane = &batch.v6;
        let open = match self.state.v6.open(lane.guesses[at], &lane.keys[at]) {
            Some(open) => open,
            None => match self.search_v6(lane, at) {
                Some(open) => open,
                None => return Some(frame),
            },
        };
        let hop = self.hop(open.adjacency());
        let len = frame.len();
        let h = frame.header_mut();
        let (dst, payload) = (le64(h, 0) & MAC_BITS, u16::from_be_bytes([h[18], h[19]]));
        let ok = lane.is_plain(at)
            & !open.is_denied()
            & (h[21] > open.hops())
            & (u32::from(payload) + 40 <= u32::from(hop.mtu))
            & ((batch.addressed >> n & 1 == 1) | (dst == hop.dst_mac()));
        if !ok {
            return Some(frame);
        }
        if open.generation() != self.snapshot.generation {
            if !self.stands((lane.since[at], hop.since), open.tally(), open.generation()) {
                return Some(frame);
            }
            open.stamp(self.snapshot.generation);
        }
        let Some(tally) = self.counters.tallies.get(open.tally() as usize) else { return Some(frame) };
        set_macs(h, hop, open.is_switched());
        h[21] -= open.hops();
        let [a, b, c, d, rest] = open.rewrite;
        put64(h, 22, a);
        put64(h, 30, b);
        put64(h, 38, c);
        put64(h, 46, d);
        h[54..58].copy_from_slice(&((rest >> 32) as u32).to_le_bytes());
        mend_transport(
            h,
            if h[20] == UDP { 54 + 6 } else { 54 + 16 },
            h[20] == UDP,
            (rest >> 16) as u32 & 0xffff,
        );
        open.touch(now, len as u64);
        tally.packets.add(1);
        tally.bytes.add(len as u64);
        out.push(hop.port, frame);
        None
    }

    /// Where an adjacency leads.
    #[inline(always)]
    fn hop(&self, adjacency: u32) -> &Hop {
        if adjacency & NEIGHBOR == 0 {
            &self.snapshot.row(PortId(adjacency)).hop
        } else {
            self.next_hops.get((adjacency & !NEIGHBOR) as usize).unwrap_or(&Hop::NONE)
        }
    }

    /// Whether a session of an older generation is certain to be judged alike now.
    #[cold]
    #[inline(never)]
    fn stands(&self, since: (Generation, Generation), tally: u32, generation: Generation) -> bool {
        // An entry of a newer snapshot than this worker's is not this worker's to judge.
        generation < self.snapshot.generation
            && commit::stands(&self.state, &self.snapshot, since, tally, generation)
    }

    /// The guess was wrong: looks the key up.
    #[cold]
    #[inline(never)]
    fn search_v4(&self, lane: &Lane<KeyV4>, at: usize) -> Option<OpenV4<'_>> {
        let key = &lane.keys[at];
        let found = self.state.v4.place_of(&FlowKey::of_v4(key), lane.hashes[at]);
        found.filter(|_| lane.is_plain(at)).and_then(|place| self.state.v4.open(place, key))
    }

    #[cold]
    #[inline(never)]
    fn search_v6(&self, lane: &Lane<KeyV6>, at: usize) -> Option<OpenV6<'_>> {
        let key = &lane.keys[at];
        let found = self.state.v6.place_of(&FlowKey::of_v6(key), lane.hashes[at]);
        found.filter(|_| lane.is_plain(at)).and_then(|place| self.state.v6.open(place, key))
    }
}

/// Phase B.
#[inline(always)]
fn look_up<A: crate::wire::Address>(table: &FlowTable<A>, hashes: &[u64], guesses: &mut [u32]) {
    hashes.iter().for_each(|hash| table.prefetch(*hash));
    table.guess(hashes, guesses);
}

const UDP: u8 = 17;

#[inline(always)]
fn set_macs(h: &mut Header, hop: &Hop, keep_source: bool) {
    if keep_source {
        h[..6].copy_from_slice(&hop.macs.to_le_bytes()[..6]);
    } else {
        put64(h, 0, hop.macs);
        h[8..12].copy_from_slice(&hop.src_mac_tail.to_le_bytes());
    }
}

/// Mends the checksum at `at` (RFC 1624). A UDP checksum of zero means none and stays; one that comes out as
/// zero is sent as all ones (RFC 768).
#[inline(always)]
fn mend_transport(h: &mut Header, at: usize, is_udp: bool, delta: u32) {
    let Some(field) = h.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else { return };
    let old = u32::from(u16::from_le_bytes(*field));
    let new = !add(!old & 0xffff, delta) as u16;
    let new = if is_udp & (new == 0) { 0xffff } else { new };
    let new = if is_udp & (old == 0) { 0 } else { new };
    *field = new.to_le_bytes();
}

/// One's complement addition of two 16-bit numbers.
#[inline(always)]
fn add(a: u32, b: u32) -> u32 {
    let sum = a + b;
    (sum & 0xffff) + (sum >> 16)
}

#[inline(always)]
fn le64(h: &Header, at: usize) -> u64 {
    h.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

#[inline(always)]
fn put64(h: &mut Header, at: usize, word: u64) {
    if let Some(place) = h.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = word.to_le_bytes();
    }
}
