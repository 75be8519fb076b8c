//! Frames in, frames out: one batch through the fast path, misses through the stages.
//!
//! ```text
//!   frames ─▶ admit: parse, spoof guard ─▶ look up (whole batch) ─┬─ hit ─▶ rewrite ─▶ Output
//!                                                                 └─ else ─▶ slow path ─▶ stages, commit
//! ```
//!
//! Frames are finished in the order they came in, so the misses of a batch run before later frames of their
//! flow; once a session ended, the rest of the batch looks again. A hit allocates nothing, takes no lock, reads
//! no clock and draws no random number. What counts as a hit: no fragment, no IP options, no SYN, FIN or RST, an
//! entry of the current generation that is not denied, TTL above what the way takes, size within the MTU of the
//! way out. All else takes the slow path, which does the same with the session's record in hand.

mod local;
mod output;
mod slow;

pub use output::Output;

use crate::{
    buf::{Frame, Pool},
    counters::WorkerCounters,
    flow::{FlowKey, FlowTable, Found, Meta, Scope, Tick},
    id::{Generation, NeighborId, PortId},
    snapshot::{GATEWAY_MAC, PortRole, Snapshot},
    stage::{
        commit::{self, NEIGHBOR},
        spoof_guard,
    },
    state::State,
    time::Instant,
    verdict::DropReason,
    wire::{self, Address, L3, Mac, Packet, ParseError, Proto, tcp_flags},
};
use std::sync::Arc;

/// One worker's pipeline.
pub struct Pipeline {
    state: Arc<State>,
    snapshot: Arc<Snapshot>,
    counters: Arc<WorkerCounters>,
    pool: Pool,
    errors: slow::ErrorBudget,
    admitted: Vec<Result<Packet, DropReason>>,
    keys_v4: Vec<Option<FlowKey<u32>>>,
    keys_v6: Vec<Option<FlowKey<u128>>>,
    found_v4: Vec<Option<Found<u32>>>,
    found_v6: Vec<Option<Found<u128>>>,
    /// A session ended in this batch: what was found before may be of that one.
    ended: bool,
}

/// Where a frame goes next: a port and the MACs it gets.
struct Hop {
    port: PortId,
    mtu: u16,
    dst_mac: Mac,
    src_mac: Mac,
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
        let errors = slow::ErrorBudget::new(state.config.errors_per_second);
        Self {
            state,
            snapshot: Arc::default(),
            counters,
            pool,
            errors,
            admitted: Vec::new(),
            keys_v4: Vec::new(),
            keys_v6: Vec::new(),
            found_v4: Vec::new(),
            found_v6: Vec::new(),
            ended: false,
        }
    }

    /// Uses another snapshot from the next batch on.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// The snapshot in use.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What this pipeline has counted.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Runs a batch: `ports[i]` is where `frames[i]` came in. Takes all of `frames`.
    pub fn process(&mut self, frames: &mut Vec<Frame>, ports: &[PortId], now: Instant, out: &mut Output) {
        self.look_up(frames, ports);
        self.ended = false;
        let tick = Tick::of(now);
        for (at, (frame, &port)) in frames.drain(..).zip(ports).enumerate() {
            let packet = match self.admitted[at] {
                Ok(packet) => packet,
                Err(reason) => {
                    self.drop_frame(port, reason, frame);
                    continue;
                }
            };
            let arrival = Arrival { frame, packet, port };
            let missed = match (self.found_v4[at], self.found_v6[at]) {
                _ if self.ended => Some(arrival),
                (Some(found), _) => self.hit(arrival, &found, tick, out),
                (_, Some(found)) => self.hit(arrival, &found, tick, out),
                (None, None) => Some(arrival),
            };
            if let Some(arrival) = missed {
                self.slow(arrival, now, out);
            }
        }
    }

    /// Parses the batch and looks every frame up.
    fn look_up(&mut self, frames: &[Frame], ports: &[PortId]) {
        self.admitted.clear();
        self.keys_v4.clear();
        self.keys_v6.clear();
        for (frame, &port) in frames.iter().zip(ports) {
            self.counters.received.add(1);
            let row = self.counters.ports.at(port.index());
            row.received.add(1);
            row.received_bytes.add(frame.len() as u64);
            let admitted = admit(&self.snapshot, port, frame.bytes());
            let keyed = admitted.as_ref().ok().filter(|p| has_session(p));
            let scope = commit::scope(&self.snapshot, port);
            self.keys_v4.push(keyed.and_then(|p| FlowKey::of(p, scope)));
            self.keys_v6.push(keyed.and_then(|p| FlowKey::of(p, scope)));
            self.admitted.push(admitted);
        }
        self.state.v4.find_batch(&self.keys_v4, &mut self.found_v4);
        self.state.v6.find_batch(&self.keys_v6, &mut self.found_v6);
    }

    /// Forwards a frame by its entry, or gives it back for the slow path.
    fn hit<A: Address>(
        &mut self,
        mut arrival: Arrival,
        found: &Found<A>,
        now: Tick,
        out: &mut Output,
    ) -> Option<Arrival>
    where
        State: Tables<A>,
    {
        let (packet, meta) = (&arrival.packet, &found.meta);
        let usable = self.state.config.cache
            && meta.generation == self.snapshot.generation
            && meta.generation != Generation::default()
            && !meta.denied
            && !packet.options
            && packet.ttl > meta.hops
            && !changes_state(packet);
        let hop = if usable { self.resolve(meta.adjacency).ok() } else { None };
        let Some(hop) =
            hop.filter(|hop| packet.ip_len() <= usize::from(hop.mtu) && self.addressed(&arrival, hop))
        else {
            return Some(arrival);
        };
        found.rewrite.apply(arrival.frame.bytes_mut(), packet, meta.hops);
        self.state.table().touch(found.entry, now, true, arrival.frame.len());
        self.counters.hits.add(1);
        self.forward(arrival.frame, meta, &hop, out);
        None
    }

    /// Sends a rewritten frame of a session on.
    fn forward(&self, mut frame: Frame, meta: &Meta, hop: &Hop, out: &mut Output) {
        let bytes = frame.bytes_mut();
        bytes[..6].copy_from_slice(&hop.dst_mac.0);
        if !meta.switched {
            bytes[6..12].copy_from_slice(&hop.src_mac.0);
        }
        let row = self.counters.tallies.at(meta.tally as usize);
        row.packets.add(1);
        row.bytes.add(frame.len() as u64);
        out.push(hop.port, frame);
    }

    /// Where an adjacency leads in this snapshot.
    fn resolve(&self, adjacency: u32) -> Result<Hop, DropReason> {
        if adjacency & NEIGHBOR == 0 {
            let port = self.snapshot.port(PortId(adjacency)).ok_or(DropReason::NoEndpoint)?;
            return Ok(Hop { port: port.id, mtu: port.mtu, dst_mac: port.mac, src_mac: GATEWAY_MAC });
        }
        let (port, mac) =
            self.state.neighbors.get(NeighborId(adjacency & !NEIGHBOR)).ok_or(DropReason::NoRoute)?;
        let dst_mac = mac.ok_or(DropReason::NeighborUnresolved)?;
        let port = self.snapshot.port(port).ok_or(DropReason::NoRoute)?;
        Ok(Hop { port: port.id, mtu: port.mtu, dst_mac, src_mac: port.mac })
    }

    /// Whether the frame was sent to the gateway, or straight to where it goes. What an uplink brings was
    /// admitted by its MAC.
    fn addressed(&self, arrival: &Arrival, hop: &Hop) -> bool {
        let dst = arrival.packet.dst_mac;
        dst == GATEWAY_MAC
            || dst == hop.dst_mac
            || commit::scope(&self.snapshot, arrival.port) == Scope::UPLINKS
    }

    fn drop_frame(&self, port: PortId, reason: DropReason, frame: Frame) {
        self.counters.drops[reason as usize].add(1);
        self.counters.ports.at(port.index()).dropped.add(1);
        drop(frame);
    }
}

/// The table of a family.
trait Tables<A> {
    fn table(&self) -> &FlowTable<A>;
}

impl Tables<u32> for State {
    fn table(&self) -> &FlowTable<u32> {
        &self.v4
    }
}

impl Tables<u128> for State {
    fn table(&self) -> &FlowTable<u128> {
        &self.v6
    }
}

/// Parses a frame and checks what is checked of every frame: it is sound, and its MACs belong where it is.
fn admit(snap: &Snapshot, port: PortId, frame: &[u8]) -> Result<Packet, DropReason> {
    let port = snap.port(port).ok_or(DropReason::NotReady)?;
    let packet = wire::parse(frame).map_err(|e| match e {
        ParseError::BadChecksum => DropReason::BadChecksum,
        ParseError::Truncated | ParseError::BadLength | ParseError::TooManyExtensions => {
            DropReason::Malformed
        }
    })?;
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
    Ok(packet)
}

/// Whether packets like this one are looked up.
fn has_session(p: &Packet) -> bool {
    let transport = matches!(p.proto, Proto::TCP | Proto::UDP | Proto::SCTP);
    !p.fragment && !p.dst_mac.is_multicast() && (transport || p.is_echo_request() || p.is_echo_reply())
}

/// Whether the slow path must see the packet because it changes its connection's state.
fn changes_state(p: &Packet) -> bool {
    p.proto == Proto::TCP && p.tcp_flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) != 0
}
