//! Dataplanes with one seed that see the same frames, snapshots and time, and what is compared of them.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "it asserts")]

use super::{
    logged::Logged,
    messages::Message,
    network::{Change, PORTS, World},
    packets::{Frames, History, Packet},
    watched::Watched,
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Barrier},
};
use supernet_dataplane::{
    buf::{Frame, Pool},
    counters::{Counters, WorkerCounters},
    flowlog::{self, EndReason},
    id::PortId,
    pipeline::{Output, Pipeline},
    port::memory::{MemoryGuest, memory},
    rewrite::Tuple,
    snapshot::{PortRole, Snapshot},
    stage::commit,
    state::{Config, State},
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{self, L3, Proto, checksum},
    worker::{Dataplane, Worker},
};

/// Fewer than the frames of a burst, so that ports are full at times.
const DEPTH: usize = 3;

/// Something that happens to all sides alike.
#[derive(Debug, Clone)]
pub enum Event {
    /// Packets arrive at the ports.
    Burst(Vec<Packet>),
    /// Another worker gets them all at once, more than it looks at together; with the newest snapshot, or the
    /// one it has.
    Batch(Vec<Packet>, bool),
    /// The world changes, and another snapshot is published.
    Change(Change),
    /// Time passes.
    Advance(Duration),
    /// A next hop says where it is, see [`Message::of_next_hop`].
    NeighborAnswers(usize),
    /// Packets arrive, and then a port is detached; with or without its sessions.
    Detach(Vec<Packet>, u32, bool),
    /// A port is attached, if it is not.
    Attach(u32),
}

/// A dataplane whose ports all belong to one worker, and the other ends of the ports.
#[derive(Debug)]
pub struct Side {
    /// Its handle.
    pub dataplane: Dataplane,
    worker: Worker,
    guests: Vec<Option<MemoryGuest>>,
    others: [Lone; 2],
    /// Frames that ports took since they were last looked at.
    came: Frames,
    /// What the worker with ports sent then, if it ran.
    ran: Option<Frames>,
    watched: Option<Watched>,
    logged: Option<Logged>,
}

/// A worker without ports: what it is given has come in somewhere, what it sends is collected.
struct Lone {
    index: usize,
    state: Arc<State>,
    pool: Pool,
    pipeline: Pipeline,
    counters: Arc<WorkerCounters>,
}

impl std::fmt::Debug for Lone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lone({})", self.index)
    }
}

/// What can be seen of a session, and what its two directions have carried.
type Seen = (Tuple, Tuple, Option<String>, &'static str);
type Carried = [(u64, u64); 2];

impl Lone {
    fn new(index: usize, dataplane: &Dataplane) -> Self {
        let (state, pool) = (dataplane.state().clone(), dataplane.pool().clone());
        let counters = Arc::<WorkerCounters>::default();
        let pipeline = Pipeline::new(state.clone(), counters.clone(), pool.clone());
        Self { index, state, pool, pipeline, counters }
    }

    fn run(&mut self, frames: &Frames, now: Instant) -> Frames {
        let taken: Vec<(PortId, Frame)> = frames
            .iter()
            .filter_map(|(port, frame)| self.pool.copy(frame).map(|frame| (PortId(*port), frame)))
            .collect();
        let (ports, mut frames): (Vec<PortId>, Vec<Frame>) = taken.into_iter().unzip();
        let (mut output, mut out) = (Output::default(), Vec::new());
        self.state.epochs.begin(self.index);
        self.pipeline.process(&mut frames, &ports, now, &mut output);
        output.drain(|port, frames| {
            self.counters.sent.add(frames.len() as u64);
            out.extend(frames.drain(..).map(|frame| (port.0, frame.bytes().to_vec())));
        });
        self.state.epochs.rest(self.index);
        // Between ports there is no order.
        out.sort_by_key(|(port, _)| *port);
        out
    }
}

impl Side {
    fn new(snapshot: Snapshot, config: Config) -> Self {
        let (dataplane, mut workers) = Dataplane::new(Config { workers: 3, ..config });
        workers.truncate(1);
        let attach = |port| dataplane.attach(PortId(port as u32), memory(DEPTH)).ok();
        let guests = (0..PORTS).map(attach).collect();
        dataplane.publish(snapshot);
        let others = [1, 2].map(|index| Lone::new(index, &dataplane));
        Self {
            worker: workers.remove(0),
            guests,
            others,
            dataplane,
            came: Frames::new(),
            ran: None,
            watched: None,
            logged: None,
        }
    }

    /// Logs connections from now on.
    fn log(&mut self, now: Instant) {
        let [all, sampled] = Logged::options().map(|options| {
            let (desks, reader) = flowlog::begin(&options, self.others.len());
            for (other, desk) in self.others.iter_mut().zip(desks) {
                other.pipeline.log_flows(desk, now);
            }
            vec![self.dataplane.log_flows(&options), reader]
        });
        self.logged = Some(Logged::new(all, sampled));
    }

    fn send(&mut self, frames: &Frames) {
        for (port, frame) in frames {
            // A port takes no more than it has room for; the same on all sides.
            if let Some(Some(guest)) = self.guests.get(*port as usize)
                && guest.send(frame).is_ok()
            {
                self.came.push((*port, frame.clone()));
            }
        }
    }

    /// Sends frames, runs the worker, and returns what came out, by port.
    pub fn run(&mut self, frames: &Frames, now: Instant) -> Frames {
        self.send(frames);
        while self.worker.poll(now).frames > 0 {}
        let mut out = Vec::new();
        for (port, guest) in self.guests.iter().enumerate() {
            let received = guest.iter().flat_map(|guest| std::iter::from_fn(|| guest.recv()));
            out.extend(received.map(|frame| (port as u32, frame.to_vec())));
        }
        self.ran = Some(out.clone());
        out
    }

    /// Has another worker take up the newest snapshot, or keep the one it has, and run frames.
    pub fn run_batch(&mut self, frames: &Frames, newest: bool, now: Instant) -> Frames {
        let [other, _] = &mut self.others;
        if newest {
            other.pipeline.set_snapshot(self.dataplane.snapshot());
        }
        other.run(frames, now)
    }

    /// Gives one frame to two workers at the same time, and returns what came out of both, sorted.
    pub fn race(&mut self, frames: &Frames, now: Instant) -> Frames {
        let (newest, start) = (self.dataplane.snapshot(), Barrier::new(2));
        let mut out = std::thread::scope(|scope| {
            let racers = self.others.each_mut().map(|other| {
                let start = &start;
                other.pipeline.set_snapshot(newest.clone());
                scope.spawn(move || {
                    start.wait();
                    other.run(frames, now)
                })
            });
            racers.map(|racer| racer.join().unwrap()).concat()
        });
        out.sort();
        out
    }

    fn detach(&mut self, port: u32, with_sessions: bool) {
        if with_sessions {
            self.dataplane.detach(PortId(port));
        } else {
            self.dataplane.release(PortId(port));
        }
    }

    fn attach(&mut self, port: u32) {
        if let Ok(guest) = self.dataplane.attach(PortId(port), memory(DEPTH)) {
            self.guests[port as usize] = Some(guest);
        }
    }

    /// Everything that was counted, but for which way frames went inside.
    pub fn counters(&self) -> [Counters; 2] {
        let others = self.others.each_ref().map(|other| other.counters.clone());
        let others = Counters::collect(&others, &self.dataplane.state().tallies, 0);
        [Counters { hits: 0, ..self.dataplane.counters() }, Counters { hits: 0, ..others }]
    }

    /// Frames that the fast path sent on.
    pub fn hits(&self) -> u64 {
        let others = self.others.iter().map(|other| other.counters.hits.get()).sum::<u64>();
        self.dataplane.counters().hits + others
    }

    fn sessions(&self) -> Vec<(Seen, Carried)> {
        let mut all = Vec::new();
        self.dataplane.for_each_session(|_, s, usage| {
            let carried = [(usage.0.packets, usage.0.bytes), (usage.1.packets, usage.1.bytes)];
            let denied = s.judgement.denied.map(|d| format!("{d:?}"));
            let condition = commit::condition(s.track, s.original.proto, usage).name();
            all.push(((s.original, s.reply, denied, condition), carried));
        });
        // Where they are kept is up to each side.
        all.sort_by_cached_key(|((original, reply, ..), _)| format!("{original:?} {reply:?}"));
        all
    }
}

/// All of what was counted by a worker and by others, in few figures.
fn sum([one, other]: &[Counters; 2]) -> Counters {
    Counters {
        received: one.received + other.received,
        generated: one.generated + other.generated,
        sent: one.sent + other.sent,
        held: one.held + other.held,
        drops: [(DropReason::Absorbed, one.dropped() + other.dropped())].into(),
        ..Counters::default()
    }
}

/// The beginning of a frame.
fn hex(frame: &[u8]) -> String {
    frame.iter().take(80).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns an error unless a condition holds.
macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

/// All sides, and what was sent and delivered so far. The last side computes everything anew for every packet.
#[derive(Debug)]
pub struct Sides {
    /// The sides.
    pub all: Vec<Side>,
    /// What the newest snapshot was made from.
    pub world: World,
    /// What time it is.
    pub now: Instant,
    /// What went in and came out.
    pub history: History,
    /// What the last side had counted when it was last compared.
    pub counters: [Counters; 2],
}

impl Sides {
    /// One side for every configuration.
    pub fn new(world: World, configs: impl IntoIterator<Item = Config>) -> Self {
        let snapshot = world.snapshot();
        let all = configs.into_iter().map(|config| Side::new(snapshot.clone(), config)).collect();
        Self {
            all,
            world,
            now: Instant::from_secs(10),
            history: History::default(),
            counters: Default::default(),
        }
    }

    /// Has a side captured now and then. What it does is compared as ever.
    pub fn watch(&mut self, side: usize) {
        self.all[side].watched = Some(Watched::default());
    }

    /// Has connections of a side logged. What it does is compared as ever.
    pub fn log(&mut self, side: usize) {
        self.all[side].log(self.now);
    }

    /// How often logged connections ended for which reason, how many were not let in, and how many were denied later on.
    pub fn logged(&self) -> (BTreeMap<EndReason, u64>, [u64; 2]) {
        let mut sum = (BTreeMap::new(), [0; 2]);
        for logged in self.all.iter().filter_map(|side| side.logged.as_ref()) {
            logged.ends.iter().for_each(|(reason, count)| *sum.0.entry(*reason).or_default() += count);
            sum.1[0] += logged.denied;
            sum.1[1] += logged.cut_off;
        }
        sum
    }

    /// Has something happen on all sides.
    ///
    /// # Errors
    /// What is not as it must be, in words.
    pub fn happen(&mut self, event: &Event) -> Result<(), String> {
        let mut frames = Frames::new();
        match event {
            Event::Burst(packets) | Event::Batch(packets, _) | Event::Detach(packets, ..) => {
                frames = self.build(packets);
            }
            Event::NeighborAnswers(hop) => {
                frames = self.build(&[Packet::Message(Message::of_next_hop(*hop))]);
            }
            Event::Change(change) => {
                self.world.apply(change);
                self.publish();
            }
            Event::Advance(time) => self.now = self.now + *time,
            Event::Attach(_) => {}
        }
        self.compare(|side, now| match event {
            Event::Batch(_, newest) => side.run_batch(&frames, *newest, now),
            Event::Detach(_, port, with_sessions) => {
                side.send(&frames);
                side.detach(*port, *with_sessions);
                side.run(&Frames::new(), now)
            }
            Event::Attach(port) => {
                side.attach(*port);
                side.run(&frames, now)
            }
            _ => side.run(&frames, now),
        })
    }

    /// The frames of packets.
    pub fn build(&mut self, packets: &[Packet]) -> Frames {
        packets.iter().flat_map(|packet| self.history.build(packet)).collect()
    }

    /// Publishes what the world is now.
    pub fn publish(&self) {
        let snapshot = self.world.snapshot();
        for side in &self.all {
            side.dataplane.publish(snapshot.clone());
        }
    }

    /// Sends a frame on all sides, and returns what it became.
    ///
    /// # Panics
    /// Something is not as it must be.
    pub fn send(&mut self, port: u32, frame: Vec<u8>) -> Frames {
        let (before, frames) = (self.history.delivered.len(), vec![(port, frame)]);
        self.compare(|side, now| side.run(&frames, now)).unwrap();
        self.history.delivered[before..].to_vec()
    }

    /// Has all sides do the same, and compares what came out and what is left.
    ///
    /// # Errors
    /// What is not as it must be, in words.
    pub fn compare(&mut self, act: impl FnMut(&mut Side, Instant) -> Frames) -> Result<(), String> {
        self.compare_but(true, act)
    }

    /// The same, with or without what sessions have carried.
    ///
    /// # Errors
    /// What is not as it must be, in words.
    pub fn compare_but(
        &mut self,
        carried: bool,
        mut act: impl FnMut(&mut Side, Instant) -> Frames,
    ) -> Result<(), String> {
        let now = self.now;
        let mut outs: Vec<Frames> = Vec::new();
        for side in &mut self.all {
            if let Some(watched) = &mut side.watched {
                watched.turn(&side.dataplane);
            }
            side.came.clear();
            side.ran = None;
            outs.push(act(side, now));
            if let (Some(watched), Some(left)) = (&mut side.watched, side.ran.take()) {
                watched.check(&side.dataplane, &side.came, &left)?;
            }
        }
        for side in &mut self.all {
            let counters = side.counters();
            if let Some(logged) = &mut side.logged {
                logged.check(&side.dataplane, &counters)?;
            }
        }
        let (Some((plain, cached)), Some(expected)) = (self.all.split_last(), outs.pop()) else {
            return Err("there is no side".to_owned());
        };
        let (counters, sessions) = (plain.counters(), plain.sessions());
        ensure!(sum(&counters).conserved(), "{counters:?}");
        for (side, out) in cached.iter().zip(&outs) {
            let isa = side.dataplane.state().engine.isa();
            if let Some(n) = (0..out.len().max(expected.len())).find(|n| out.get(*n) != expected.get(*n)) {
                let show = |frames: &Frames| frames.get(n).map(|(port, f)| (*port, f.len(), hex(f)));
                return Err(format!("frame {n}, {isa:?}:\n {:?}, not\n {:?}", show(out), show(&expected)));
            }
            let found = side.counters();
            ensure!(found == counters, "counters, {isa:?}:\n {found:?}, not\n {counters:?}");
            let seen = side.sessions();
            let alike = if carried {
                seen == sessions
            } else {
                seen.iter().map(|s| &s.0).eq(sessions.iter().map(|s| &s.0))
            };
            ensure!(alike, "sessions, {isa:?}:\n {seen:?}, not\n {sessions:?}");
        }
        for side in &self.all {
            let (pool, held) = (side.dataplane.pool(), side.dataplane.state().fragments.held());
            let (available, capacity) = (pool.available(), pool.capacity());
            ensure!(available + held == capacity, "{available} buffers and {held} held, of {capacity}");
        }
        self.history.delivered.extend(expected);
        self.counters = counters;
        Ok(())
    }

    /// Whether frames that came out of the newest snapshot's ports may do so: each is sound inside, for whoever has
    /// the port, and not too large for it. With `sums`, checksums are right as well.
    ///
    /// # Errors
    /// What is wrong with which.
    pub fn check_delivered(&self, from: usize, sums: bool) -> Result<(), String> {
        let Some(side) = self.all.last() else { return Ok(()) };
        let snapshot = side.dataplane.snapshot();
        for (port, frame) in &self.history.delivered[from..] {
            let packet = wire::parse(frame).map_err(|e| format!("sent what is {e:?}: {}", hex(frame)))?;
            let Some(entry) = snapshot.port(PortId(*port)) else {
                return Err(format!("sent to port {port}, which is not there: {}", hex(frame)));
            };
            let well_addressed = match entry.role {
                PortRole::Endpoint(_) => packet.dst_mac == entry.mac || packet.dst_mac.is_multicast(),
                PortRole::Uplink(_) => packet.src_mac == entry.mac,
            };
            ensure!(well_addressed, "MACs of another port than {port}: {}", hex(frame));
            let is_ip = matches!(packet.l3, L3::V4 | L3::V6);
            let fits = !is_ip || packet.ip_len() <= usize::from(entry.mtu);
            ensure!(fits, "{} bytes sent to port {port}: {}", packet.ip_len(), hex(frame));
            let is_summed =
                matches!(packet.proto, Proto::TCP | Proto::UDP | Proto::ICMP | Proto::ICMPV6) && is_ip;
            if sums && is_summed && !packet.is_fragment() {
                let l4 = &frame[packet.l4()..usize::from(packet.end)];
                let sum = checksum::transport(packet.src, packet.dst, packet.proto, l4);
                ensure!(sum == 0, "wrong checksum sent to port {port}: {}", hex(frame));
            }
        }
        Ok(())
    }

    /// Silence ends every session, and gives back what they held.
    ///
    /// # Errors
    /// What is left.
    pub fn fall_silent(&mut self) -> Result<(), String> {
        for _ in 0..4 {
            self.happen(&Event::Advance(Duration::from_secs(50_000)))?;
        }
        for side in &self.all {
            let (sessions, busy) = (side.sessions(), side.dataplane.state().nat.busy());
            ensure!(sessions.is_empty(), "sessions are left: {sessions:?}");
            ensure!(busy == Vec::<IpAddr>::new(), "ports are left of {busy:?}");
            let fragments = &side.dataplane.state().fragments;
            ensure!(fragments.is_idle() && fragments.held() == 0, "fragments are left: {fragments:?}");
        }
        Ok(())
    }
}
