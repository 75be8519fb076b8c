//! Frames in, frames out: one batch through the fast path, misses through the stages.
//!
//! ```text
//!   frames ─▶ scan: headers, keys, hashes ─▶ guess by tags ─▶ open entry ─┬─ hit ─▶ rewrite ─▶ Output
//!                                                                        └─ else ─▶ slow path ─▶ stages, commit
//! ```
//!
//! Frames are finished in the order they came in, so the misses of a batch run before later frames of their
//! flow. A hit allocates nothing, takes no lock, reads no clock and draws no random number. What counts as a
//! hit: no fragment, no IP options, no SYN, FIN or RST, an entry that agrees with the snapshot and is neither
//! denied nor of a TCP connection whose opener has not completed the handshake (nor, if TCP is strict, of any), TTL above what the way takes, size within the MTU of the way out. All else takes the slow path,
//! which does the same with the session's record in hand.

mod ahead;
mod answers;
mod fast;
mod fragments;
mod half_open;
mod local;
mod logs;
mod output;
mod related;
mod slow;
mod staged;
mod watch;

pub use output::Output;
pub(crate) use watch::Watch;

use ahead::{Asked, Opening};

use crate::{
    buf::{Frame, Pool},
    capture::Tap,
    counters::WorkerCounters,
    flow::{FlowTable, Meta, Opener, Scope},
    flowlog::Desks,
    id::PortId,
    rewrite::{self, Rewrite},
    snapshot::{GATEWAY_MAC, Hop, PortRole, Snapshot, mac_word},
    stage::{
        plan::{self, Adjacency},
        spoof_guard,
    },
    state::State,
    time::Instant,
    vector::Header,
    verdict::DropReason,
    wire::{self, Address, L3, Packet, ParseError, Proto, tcp_flags},
};
use std::sync::{Arc, atomic::Ordering};

/// One worker's pipeline.
pub struct Pipeline {
    state: Arc<State>,
    snapshot: Arc<Snapshot>,
    counters: Arc<WorkerCounters>,
    pool: Pool,
    errors: answers::ErrorBudget,
    fast: fast::FastPath,
    /// Where the next session looks for a place.
    hint: u32,
    /// TCP connections that this worker opened.
    opener: Opener,
    /// Only while somebody captures.
    watch: Option<Box<Watch>>,
    /// What is told of connections, if somebody logs them.
    logs: Desks,
}

/// A frame in the pipeline, and what is known of it.
struct Arrival {
    frame: Frame,
    packet: Packet,
    port: PortId,
}

impl Pipeline {
    /// A pipeline over shared state, without a snapshot: it drops everything until it has one.
    pub fn new(state: Arc<State>, counters: Arc<WorkerCounters>, pool: Pool) -> Self {
        let errors = answers::ErrorBudget::new(state.config.errors_per_second);
        let fast = fast::FastPath::new();
        let hint = state.hints.fetch_add(1, Ordering::Relaxed);
        let opener = Opener::new(&state.config.half_open, state.config.sessions);
        let (watch, logs) = (None, Desks::default());
        Self { state, snapshot: Arc::default(), counters, pool, errors, fast, hint, opener, watch, logs }
    }

    /// Uses another snapshot from the next batch on.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        // Rows that hits count in are there before the first of them.
        for (at, _) in snapshot.ports.iter().enumerate().filter(|(_, port)| port.is_some()) {
            self.counters.ports.at(at);
        }
        if let Some(watch) = &mut self.watch {
            watch.set_snapshot(snapshot.clone());
        }
        self.snapshot = snapshot;
        fast::renew(self);
    }

    /// The snapshot in use.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What this pipeline has counted.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Runs a batch: `ports[i]` is where `frames[i]` came in, so there must be one for each. Takes all of
    /// `frames`.
    pub fn process(&mut self, frames: &mut Vec<Frame>, ports: &[PortId], now: Instant, out: &mut Output) {
        if self.watch.is_some() {
            return watch::process(self, frames, ports, now, out);
        }
        fast::process(self, frames, ports, now, out);
    }

    /// Has a capture see what goes through from now on.
    pub(crate) fn capture(&mut self, tap: Arc<Tap>, now: Instant) {
        let snapshot = &self.snapshot;
        self.watch.get_or_insert_with(|| Box::new(Watch::new(snapshot.clone(), now))).add(tap);
    }

    /// A poll begins: lets go of captures that nobody reads any more.
    #[inline]
    pub(crate) fn look_at_captures(&mut self, now: Instant) {
        if self.watch.as_mut().is_some_and(|watch| !watch.look(now)) {
            self.watch = None;
        }
    }

    /// The captures that go on.
    #[inline]
    pub(crate) fn watch(&self) -> Option<&Watch> {
        self.watch.as_deref()
    }

    /// Sends a rewritten frame of a session on, in pieces if it is larger than the MTU of its way and may be cut.
    #[inline]
    fn forward(&self, arrival: Arrival, meta: &Meta, hop: &Hop, out: &mut Output) {
        let Arrival { mut frame, packet, port } = arrival;
        hop.write_macs(frame.header_mut(), meta.switched);
        let row = self.counters.tallies.at(meta.tally as usize);
        row.packets.add(1);
        row.bytes.add(frame.len() as u64);
        if packet.largest <= hop.mtu {
            out.push(hop.port, frame);
        } else {
            self.cut(Arrival { frame, packet, port }, hop, out);
        }
    }

    /// Where an adjacency leads in this snapshot; `hops` are those that hits go by.
    fn resolve(&self, hops: &[Hop], adjacency: u32) -> Result<Hop, DropReason> {
        match hops.get(adjacency as usize) {
            Some(hop) if hop.mtu > 0 => Ok(*hop),
            _ => self.resolve_now(adjacency),
        }
    }

    /// The same for what may just have become known, or is not.
    #[cold]
    fn resolve_now(&self, adjacency: u32) -> Result<Hop, DropReason> {
        let since = |port| self.snapshot.row(port).hop.since;
        match Adjacency::of(adjacency) {
            Adjacency::Port(port) => {
                let port = self.snapshot.port(port).ok_or(DropReason::NoEndpoint)?;
                Ok(Hop::new(port.id, GATEWAY_MAC, port.mac, port.mtu, since(port.id)))
            }
            Adjacency::NextHop(id) => {
                let (port, mac) = self.state.neighbors.get(id).ok_or(DropReason::NoRoute)?;
                let mac = mac.ok_or(DropReason::NeighborUnresolved)?;
                let port = self.snapshot.port(port).ok_or(DropReason::NoRoute)?;
                Ok(Hop::new(port.id, port.mac, mac, port.mtu, since(port.id)))
            }
        }
    }

    /// Whether the frame was sent to the gateway, or straight to where it goes. What an uplink brings was
    /// admitted by its MAC.
    fn addressed(&self, arrival: &Arrival, hop: &Hop) -> bool {
        let dst = arrival.packet.dst_mac;
        dst == GATEWAY_MAC
            || mac_word(dst) == hop.dst_mac()
            || plan::scope(&self.snapshot, arrival.port) == Scope::UPLINKS
    }

    fn drop_frame(&self, port: PortId, reason: DropReason, frame: Frame) {
        if let Some(watch) = &self.watch {
            watch.dropped(port, reason, &frame);
        }
        self.counters.drops[reason as usize].add(1);
        self.counters.ports.at(port.index()).dropped.add(1);
        drop(frame);
    }
}

/// What there is of each address family.
trait Family: Address {
    fn table(state: &State) -> &FlowTable<Self>;

    fn asked(opening: Opening<'_, Self>) -> Asked<'_>;

    fn opening<'p, 's>(asked: &'p Asked<'s>) -> Option<&'p Opening<'s, Self>>;

    /// Edits a plain packet.
    fn edit(h: &mut Header, edit: &Rewrite<Self>, hops: u8);
}

impl Family for u32 {
    fn table(state: &State) -> &FlowTable<Self> {
        &state.v4
    }

    fn asked(opening: Opening<'_, Self>) -> Asked<'_> {
        Asked::V4(opening)
    }

    fn opening<'p, 's>(asked: &'p Asked<'s>) -> Option<&'p Opening<'s, Self>> {
        if let Asked::V4(opening) = asked { Some(opening) } else { None }
    }

    #[inline]
    fn edit(h: &mut Header, edit: &Rewrite<Self>, hops: u8) {
        let [low, high, ..] = edit.words();
        rewrite::edit_v4(h, [low, high], hops);
    }
}

impl Family for u128 {
    fn table(state: &State) -> &FlowTable<Self> {
        &state.v6
    }

    fn asked(opening: Opening<'_, Self>) -> Asked<'_> {
        Asked::V6(opening)
    }

    fn opening<'p, 's>(asked: &'p Asked<'s>) -> Option<&'p Opening<'s, Self>> {
        if let Asked::V6(opening) = asked { Some(opening) } else { None }
    }

    #[inline]
    fn edit(h: &mut Header, edit: &Rewrite<Self>, hops: u8) {
        rewrite::edit_v6(h, edit.words(), hops);
    }
}

/// Parses a frame and checks what is checked of every frame: it is sound, and its MACs belong where it is.
#[inline(always)]
fn admit(snap: &Snapshot, port: PortId, frame: &Frame) -> Result<Packet, DropReason> {
    let port = snap.port(port).ok_or(DropReason::NotReady)?;
    let mut packet = match wire::parse(frame.bytes()) {
        Ok(packet) => packet,
        Err(ParseError::BadChecksum) => return Err(DropReason::BadChecksum),
        Err(ParseError::Truncated | ParseError::BadLength | ParseError::TooManyExtensions) => {
            return Err(DropReason::Malformed);
        }
        Err(ParseError::TinyFragment) => return Err(DropReason::TinyFragment),
    };
    match &port.role {
        PortRole::Endpoint(_) => spoof_guard::mac(port, packet.src_mac)?,
        PortRole::Uplink(_) if packet.dst_mac != port.mac && !packet.dst_mac.is_multicast() => {
            return Err(DropReason::UnknownMac);
        }
        PortRole::Uplink(_) => {}
    }
    if packet.tagged || packet.l3 == L3::Other {
        return Err(DropReason::UnsupportedProtocol);
    }
    if let Some(left) = frame.offload() {
        // What would be done to it is done by these words later on.
        if !left.is_of(&packet) {
            return Err(DropReason::Malformed);
        }
        packet.largest = left.largest(frame.bytes()).unwrap_or(packet.largest);
    }
    Ok(packet)
}

/// Whether packets like this one are looked up; fragments, once their ports are known.
fn has_session(p: &Packet) -> bool {
    let transport = matches!(p.proto, Proto::TCP | Proto::UDP | Proto::SCTP);
    !p.dst_mac.is_multicast() && (transport || p.is_echo_request() || p.is_echo_reply())
}

/// Whether the slow path must see the packet because it changes its connection's state.
fn changes_state(p: &Packet) -> bool {
    p.proto == Proto::TCP && p.tcp_flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) != 0
}
