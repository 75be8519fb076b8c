//! The fast path against the stages: dataplanes with one seed see the same frames, snapshots and time. Some keep
//! verdict and rewrite of a session between packets, one for every kind of instructions this processor has; the
//! last computes them again for every packet. Nobody outside may be able to tell which is which.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of a test")]

mod edges;
mod network;
mod packets;

use network::*;
use packets::*;
use proptest::{collection::vec, prelude::*, sample::select};
use std::{
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, Barrier},
};
use supernet_dataplane::{
    buf::{Frame, Pool},
    counters::{Counters, WorkerCounters},
    flow::HalfOpenLimits,
    id::PortId,
    pipeline::{Output, Pipeline},
    port::memory::{MemoryGuest, memory},
    rewrite::Tuple,
    snapshot::Snapshot,
    stage::commit,
    state::{Config, State},
    time::{Duration, Instant},
    vector::Isa,
    verdict::DropReason,
    worker::{Dataplane, Worker},
};
use supernet_testkit::packet::Probe;

/// Fewer than the flows that are tried, so that the table is full at times.
const SESSIONS: usize = 12;
/// Fewer than the connections that are translated, so that they run out, and not all that are wanted.
const NAT_PORTS: RangeInclusive<u16> = 4001..=4003;
const FRAMES: usize = 400;
/// Fewer than the frames of a burst, so that ports are full at times.
const DEPTH: usize = 3;

#[derive(Debug, Clone)]
enum Event {
    /// Packets arrive at the ports.
    Burst(Vec<Packet>),
    /// Another worker gets them all at once, more than it looks at together; with the newest snapshot, or the
    /// one it has.
    Batch(Vec<Packet>, bool),
    Rules(usize, usize, Option<Rules>),
    Pod(usize),
    Relabel(usize),
    Members(u8),
    Hops([usize; 4]),
    Snat(usize),
    Mtu(usize),
    Republish,
    Advance(u64),
    NeighborAnswers(usize),
}

impl World {
    /// Changes what the next snapshot is made from.
    fn apply(&mut self, change: &Event) {
        match change {
            Event::Rules(pod, direction, rules) => self.rules[*pod][*direction] = rules.clone(),
            Event::Pod(pod) => self.present[*pod] ^= true,
            Event::Relabel(pod) => self.relabelled[*pod] ^= true,
            Event::Members(members) => self.members = *members,
            Event::Hops(hops) => self.hops = *hops,
            Event::Snat(namespace) => self.snat[*namespace] ^= true,
            Event::Mtu(port) => self.small[*port] ^= true,
            _ => {}
        }
    }
}

type Frames = Vec<(u32, Vec<u8>)>;

/// A dataplane whose ports all belong to one worker, and the other ends of the ports.
struct Side {
    dataplane: Dataplane,
    worker: Worker,
    guests: Vec<MemoryGuest>,
    others: [Lone; 2],
}

/// A worker without ports: what it is given has come in somewhere, what it sends is collected.
struct Lone {
    index: usize,
    state: Arc<State>,
    pool: Pool,
    pipeline: Pipeline,
    counters: Arc<WorkerCounters>,
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
        let ports: Vec<PortId> = frames.iter().map(|(port, _)| PortId(*port)).collect();
        let mut frames: Vec<Frame> =
            frames.iter().map(|(_, frame)| self.pool.copy(frame).expect("pool is large enough")).collect();
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
        let ports = snapshot.ports.len() as u32;
        let (dataplane, mut workers) = Dataplane::new(Config { workers: 3, ..config });
        workers.truncate(1);
        let guests = (0..ports).map(|p| dataplane.attach(PortId(p), memory(DEPTH)).unwrap()).collect();
        dataplane.publish(snapshot);
        let others = [1, 2].map(|index| Lone::new(index, &dataplane));
        Self { worker: workers.remove(0), guests, others, dataplane }
    }

    /// Sends frames, runs the worker, and returns what came out, by port.
    fn run(&mut self, frames: &Frames, now: Instant) -> Frames {
        for (port, frame) in frames {
            // A port takes no more than it has room for; the same on all sides.
            let _ = self.guests[*port as usize].send(frame);
        }
        while self.worker.poll(now).frames > 0 {}
        let mut out = Vec::new();
        for (port, guest) in self.guests.iter().enumerate() {
            out.extend(std::iter::from_fn(|| guest.recv()).map(|frame| (port as u32, frame.to_vec())));
        }
        out
    }

    /// Has another worker take up the newest snapshot, or keep the one it has, and run frames.
    fn run_batch(&mut self, frames: &Frames, newest: bool, now: Instant) -> Frames {
        let [other, _] = &mut self.others;
        if newest {
            other.pipeline.set_snapshot(self.dataplane.snapshot());
        }
        other.run(frames, now)
    }

    /// Gives one frame to two workers at the same time, and returns what came out of both, sorted.
    fn race(&mut self, frames: &Frames, now: Instant) -> Frames {
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

    /// Everything that was counted, but for which way frames went inside.
    fn counters(&self) -> [Counters; 2] {
        let others = self.others.each_ref().map(|other| other.counters.clone());
        let others = Counters::collect(&others, &self.dataplane.state().tallies, 0);
        [Counters { hits: 0, ..self.dataplane.counters() }, Counters { hits: 0, ..others }]
    }

    fn sessions(&self) -> Vec<(Seen, Carried)> {
        let mut all = Vec::new();
        self.dataplane.for_each_session(|_, s, usage| {
            let carried = [(usage.0.packets, usage.0.bytes), (usage.1.packets, usage.1.bytes)];
            let denied = s.judgement.denied.map(|d| format!("{d:?}"));
            let condition = commit::condition(s.track, s.original.proto, usage).name();
            all.push(((s.original, s.reply, denied, condition), carried));
        });
        all.sort_by_key(|s| format!("{s:?}"));
        all
    }
}

/// Whether every frame is accounted for, whichever worker it came to.
fn conserved([one, other]: &[Counters; 2]) -> bool {
    let all = Counters {
        received: one.received + other.received,
        generated: one.generated + other.generated,
        sent: one.sent + other.sent,
        held: one.held + other.held,
        drops: [(DropReason::Absorbed, one.dropped() + other.dropped())].into(),
        ..Counters::default()
    };
    all.conserved()
}

/// The beginning of a frame.
fn hex(frame: &[u8]) -> String {
    frame.iter().take(80).map(|byte| format!("{byte:02x}")).collect()
}

/// All sides, and what was sent and delivered so far.
struct Pair {
    sides: Vec<Side>,
    world: World,
    now: Instant,
    sent: Vec<(u32, Probe)>,
    delivered: Frames,
}

impl Pair {
    fn new(world: World, config: &Config) -> Self {
        let cached = Isa::ALL.into_iter().filter(|isa| isa.is_available());
        let configs = cached.map(|isa| Config { isa: Some(isa), cache: true, ..config.clone() });
        let plain = Config { isa: Some(Isa::Portable), cache: false, ..config.clone() };
        let sides = configs.chain([plain]).map(|config| Side::new(world.snapshot(), config)).collect();
        let now = Instant::from_secs(10);
        Self { sides, world, now, sent: Vec::new(), delivered: Vec::new() }
    }

    fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Burst(packets) => return self.burst(packets),
            Event::Batch(packets, newest) => {
                let frames = packets.iter().flat_map(|p| self.build(p)).collect();
                return self.compare(|side, now| side.run_batch(&frames, *newest, now));
            }
            Event::NeighborAnswers(hop) => {
                let frames = vec![neighbor_answer(*hop)];
                return self.compare(|side, now| side.run(&frames, now));
            }
            Event::Advance(seconds) => {
                self.now = self.now + Duration::from_secs(*seconds);
                return self.compare(|side, now| side.run(&Vec::new(), now));
            }
            change => self.world.apply(change),
        }
        self.publish();
        self.compare(|side, now| side.run(&Vec::new(), now))
    }

    fn publish(&self) {
        for side in &self.sides {
            side.dataplane.publish(self.world.snapshot());
        }
    }

    fn burst(&mut self, packets: &[Packet]) -> Result<(), TestCaseError> {
        let frames = packets.iter().flat_map(|p| self.build(p)).collect();
        self.compare(|side, now| side.run(&frames, now))
    }

    /// Has all sides do the same, and compares what came out and what is left.
    fn compare(&mut self, act: impl FnMut(&mut Side, Instant) -> Frames) -> Result<(), TestCaseError> {
        self.compare_but(true, act)
    }

    /// The same, with or without what sessions have carried.
    fn compare_but(
        &mut self,
        carried: bool,
        mut act: impl FnMut(&mut Side, Instant) -> Frames,
    ) -> Result<(), TestCaseError> {
        let now = self.now;
        let outs: Vec<Frames> = self.sides.iter_mut().map(|side| act(side, now)).collect();
        let (Some((plain, cached)), Some(expected)) = (self.sides.split_last(), outs.last()) else {
            unreachable!("there is always a plain side");
        };
        let (counters, sessions) = (plain.counters(), plain.sessions());
        prop_assert!(conserved(&counters), "{:?}", counters);
        for (side, out) in cached.iter().zip(&outs) {
            let isa = side.dataplane.state().engine.isa();
            if let Some(n) = (0..out.len().max(expected.len())).find(|n| out.get(*n) != expected.get(*n)) {
                let show = |frames: &Frames| frames.get(n).map(|(port, f)| (*port, f.len(), hex(f)));
                prop_assert!(false, "frame {}, {:?}:\n {:?}, not\n {:?}", n, isa, show(out), show(expected));
            }
            prop_assert_eq!(&side.counters(), &counters, "counters, {:?}", isa);
            let seen = side.sessions();
            if carried {
                prop_assert_eq!(&seen, &sessions, "sessions, {:?}", isa);
            } else {
                prop_assert!(
                    seen.iter().map(|s| &s.0).eq(sessions.iter().map(|s| &s.0)),
                    "sessions, {:?}",
                    isa
                );
            }
        }
        for side in &self.sides {
            let pool = side.dataplane.pool();
            let held = side.dataplane.state().fragments.held();
            prop_assert_eq!(pool.available() + held, pool.capacity(), "every buffer is back");
        }
        self.delivered.extend(outs.into_iter().last().unwrap_or_default());
        Ok(())
    }

    /// Silence ends every session, and gives back what they held.
    fn fall_silent(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..4 {
            self.happen(&Event::Advance(50_000))?;
        }
        for side in &self.sides {
            prop_assert_eq!(side.sessions(), []);
            prop_assert_eq!(side.dataplane.state().nat.busy(), Vec::<IpAddr>::new());
        }
        Ok(())
    }
}

fn config() -> Config {
    // Which connection is the oldest to a fraction of a second is not the same on all sides.
    let half_open = HalfOpenLimits { per_port: 0, total: Some(0) };
    Config {
        sessions: SESSIONS,
        frames: FRAMES,
        seed: 7,
        nat_ports: NAT_PORTS,
        half_open,
        ..Config::default()
    }
}

fn change() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..3usize, 0..2usize, rules()).prop_map(|(pod, direction, r)| Event::Rules(pod, direction, r)),
        1 => (0..3usize).prop_map(Event::Pod),
        1 => (0..3usize).prop_map(Event::Relabel),
        1 => (0..8u8).prop_map(Event::Members),
        1 => prop::array::uniform4(0..3usize).prop_map(Event::Hops),
        1 => (0..2usize).prop_map(Event::Snat),
        1 => (0..PORTS).prop_map(Event::Mtu),
        1 => Just(Event::Republish),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        28 => vec(packet(), 1..7).prop_map(Event::Burst),
        1 => (vec(packet(), 1..150), any::<bool>()).prop_map(|(packets, newest)| Event::Batch(packets, newest)),
        3 => (vec(packet(), 1..7), any::<bool>()).prop_map(|(packets, newest)| Event::Batch(packets, newest)),
        9 => change(),
        // Two seconds are a lap of the sweep: less, and sides that hash differently sweep different sessions.
        2 => select(vec![0, 2, 25, 40, 70, 130, 50_000]).prop_map(Event::Advance),
        1 => (0..2usize).prop_map(Event::NeighborAnswers),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, max_shrink_iters: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_path_equals_the_stages(world in world(), events in vec(event(), 1..80)) {
        let mut pair = Pair::new(world, &config());
        for event in &events {
            pair.happen(event)?;
        }
        pair.fall_silent()?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 1000, ..ProptestConfig::default() })]

    /// Two workers get every packet at once, as by two uplinks, and race for the connections it opens, judges and
    /// ends. Packets come whole: of fragments, the second copy overlaps, and which is that is up to them. Nothing is scarce, and nothing is translated: which of two gets the last place, or the port that
    /// was wanted, is up to them. So is what they count of one direction at once.
    #[test]
    fn racing_workers_equal_the_stages(
        world in world(),
        events in vec(prop_oneof![8 => packet().prop_map(|packet| Ok(packet.whole())), 1 => change().prop_map(Err)], 1..60),
    ) {
        let world = World { snat: [false; 2], ..world };
        let mut pair = Pair::new(world, &Config { sessions: 1000, ..config() });
        for event in &events {
            match event {
                Ok(packet) => {
                    let frames = pair.build(packet);
                    pair.compare_but(false, |side, now| side.race(&frames, now))?;
                }
                Err(Event::Snat(_)) => {}
                Err(change) => {
                    pair.world.apply(change);
                    pair.publish();
                }
            }
        }
        pair.fall_silent()?;
    }
}
