//! Networks under load: built by control, driven without ports or threads of their own.
//!
//! ```text
//!   Scenario ─▶ model (Services, slices, policies) ─▶ Supernet ─▶ snapshot, shared State
//!                                                                     │
//!   connections, opened through the pipeline ─▶ frames to repeat ─▶ Lane (one a worker): refill, process
//! ```
//!
//! What always holds: every address comes from the compiled network, every connection was let in by the
//! firewall and delivered once before it is measured, and a lane's frames belong to connections that no other
//! lane sends for, as receive-side scaling spreads them. Frames do not come from a port and do not go to one:
//! what is measured is the pipeline.

mod frames;
mod lane;
mod network;
mod ring;

pub use frames::{FRAME_V4, FRAME_V6};
pub use lane::{Counted, GROUP, Lane, RING};
pub use network::{Family, Scenario, UNANSWERED};
pub use ring::PortRing;

use frames::{Frames, Template};
use network::Plan;
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use supernet::{
    ApplyError, BuildError, DropReason, Handle, Instant, Worker,
    dataplane::{
        flow::Sessions,
        state::State,
        wire::{Proto, tcp_flags},
        worker::BATCH,
    },
    model::{Change, Labels, Name, ObjectKind, Pod},
};

/// Why a load could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The network could not be built.
    #[error("cannot build the network under load: {0}")]
    Build(#[from] BuildError),
    /// Something that the model names is not in the compiled network.
    #[error("the compiled network has no {0}")]
    Missing(String),
    /// Nothing to send.
    #[error("a load needs at least one worker, and a connection for each")]
    Nothing,
    /// Fewer policies than it takes to let these connections through.
    #[error(
        "so many connections take namespaces that have {least} policies of their own: give at least as many (--policies)"
    )]
    TooFewPolicies {
        /// The fewest there can be.
        least: usize,
    },
    /// A memory port could not be attached.
    #[error("cannot attach a port: {0}")]
    Attach(#[source] io::Error),
    /// The network could not be changed under load.
    #[error("cannot change the network under load: {0}")]
    Apply(#[from] ApplyError),
    /// More connections than the addresses and ports of the network under load can tell apart.
    #[error("at most {max} connections are possible here")]
    TooMany {
        /// The most there can be.
        max: usize,
    },
    /// Not every connection could be opened.
    #[error("only {delivered} of {asked} {what} came through; dropped: {drops:?}")]
    NotDelivered {
        /// First packets or first answers.
        what: &'static str,
        /// Frames that came out.
        delivered: usize,
        /// Frames that went in.
        asked: usize,
        /// Drops by reason.
        drops: BTreeMap<DropReason, u64>,
    },
}

/// What a load is to be.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The way connections take.
    pub scenario: Scenario,
    /// Their family.
    pub family: Family,
    /// Connections that [`Load::established`] opens, or whose first packets [`Load::unopened`] sends.
    pub flows: usize,
    /// Other connections, opened and ended again while those are sent for.
    pub fresh: usize,
    /// Workers.
    pub workers: usize,
    /// NetworkPolicies in the whole network; `None` for the five a namespace that the connections need.
    pub policies: Option<usize>,
    /// Services that no connection takes, on top of those that some do.
    pub idle_services: usize,
    /// Rules of a SecurityPolicy for all pods, each about an address and ports that nobody uses: half of them for what
    /// pods send, half for what they receive.
    pub rules: usize,
    /// Frame buffers for ports; lanes have their own.
    pub frames: usize,
}

impl Spec {
    /// A load of one worker, without ports.
    pub fn new(scenario: Scenario, family: Family, flows: usize) -> Self {
        Self {
            scenario,
            family,
            flows,
            fresh: 0,
            workers: 1,
            policies: None,
            idle_services: 0,
            rules: 0,
            frames: 1,
        }
    }
}

/// Which worker gets which packets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All of a connection's packets reach one worker, as receive-side scaling brings about without NAT.
    Disjoint,
    /// The two directions of a connection reach different workers, as they do with NAT.
    Directions,
    /// Every packet may reach any worker.
    Same,
}

/// A network under load, and who sends what.
pub struct Load {
    net: Handle,
    plan: Plan,
    spec: Spec,
    rest: Mutex<Vec<Worker>>,
}

impl Load {
    /// Builds the network of a scenario with room for `flows` connections of one family.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn new(scenario: Scenario, family: Family, flows: usize, workers: usize) -> Result<Self, LoadError> {
        Self::build(Spec { workers, ..Spec::new(scenario, family, flows) })
    }

    /// Builds the network of a load.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn build(spec: Spec) -> Result<Self, LoadError> {
        if spec.workers == 0 || spec.flows < spec.workers {
            return Err(LoadError::Nothing);
        }
        if spec.flows.saturating_add(spec.fresh) > network::MAX_FLOWS {
            return Err(LoadError::TooMany { max: network::MAX_FLOWS });
        }
        let (net, workers, plan) = network::build(&spec)?;
        Ok(Self { net, plan, spec, rest: Mutex::new(workers) })
    }

    /// Opens every connection, one packet in each direction and for TCP a third, and returns a lane a worker that repeats a packet
    /// of both directions. `progress` is told of connections as they are opened.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn established(&self, progress: impl FnMut(usize)) -> Result<Vec<Lane>, LoadError> {
        self.shared(Sharing::Disjoint, progress)
    }

    /// The same, with packets spread over the workers in another way.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn shared(&self, sharing: Sharing, mut progress: impl FnMut(usize)) -> Result<Vec<Lane>, LoadError> {
        let workers = self.spec.workers;
        let mut lanes: Vec<Lane> = (0..workers).map(|worker| self.lane(worker)).collect();
        let copies = if sharing == Sharing::Same { workers } else { 1 };
        lanes.iter_mut().for_each(|lane| lane.frames_mut().reserve(2 * self.share() * copies));
        for worker in 0..workers {
            let flows: Vec<usize> = self.flows_of(worker).collect();
            for chunk in flows.chunks(GROUP * BATCH) {
                let first: Vec<Template> = chunk.iter().map(|flow| self.plan.template(*flow)).collect();
                let back = lanes[worker].pass("first packets", &first)?;
                lanes[worker].pass("first answers", &back)?;
                let acknowledged = first.iter().filter(|template| template.proto == Proto::TCP);
                let acknowledged: Vec<Template> =
                    acknowledged.map(|template| Template { flags: tcp_flags::ACK, ..*template }).collect();
                lanes[worker].pass("acknowledgements", &acknowledged)?;
                for (sent, towards) in [(first, worker), (back, (worker + 1) % workers)] {
                    let to = match sharing {
                        Sharing::Disjoint => worker..worker + 1,
                        Sharing::Directions => towards..towards + 1,
                        Sharing::Same => 0..workers,
                    };
                    for template in sent {
                        // From here on plain segments: a SYN would take the slow path every time.
                        let template = Template { flags: tcp_flags::ACK, ..template };
                        for lane in &mut lanes[to.clone()] {
                            add(lane.frames_mut(), &template)?;
                        }
                    }
                }
                progress(chunk.len());
            }
            lanes[worker].rest();
        }
        for lane in &mut lanes {
            lane.settle();
            lane.rest();
        }
        Ok(lanes)
    }

    /// A lane a worker that sends the first packet of every connection, none of which is open.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn unopened(&self) -> Result<Vec<Lane>, LoadError> {
        let lane = |worker| {
            let mut lane = self.lane(worker);
            lane.frames_mut().reserve(self.share());
            for flow in self.flows_of(worker) {
                add(lane.frames_mut(), &self.plan.template(flow))?;
            }
            lane.shuffle();
            Ok(lane)
        };
        (0..self.spec.workers).map(lane).collect()
    }

    /// Gives a lane the first packets of the [`Spec::fresh`] connections, for [`Lane::mix_in`].
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn add_fresh(&self, lane: &mut Lane) -> Result<(), LoadError> {
        lane.fresh_mut().reserve(self.spec.fresh);
        for flow in self.spec.flows..self.spec.flows + self.spec.fresh {
            add(lane.fresh_mut(), &self.plan.template(flow))?;
        }
        Ok(())
    }

    /// Has a lane follow the snapshots that [`Load::publish`] makes. It is for one lane only.
    pub fn follow(&self, lane: &mut Lane) -> Arc<AtomicBool> {
        let news = Arc::<AtomicBool>::default();
        lane.follow(news.clone(), self.net.dataplane().clone());
        news
    }

    /// Publishes a snapshot with, or without, a pod that no connection has to do with.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn publish(&self, with: bool, news: &AtomicBool) -> Result<(), LoadError> {
        let name = Name::new("elsewhere", "stranger");
        self.net.apply(if with {
            let mut pod = Pod::new(name);
            pod.labels = Labels::from([("role".to_owned(), "stranger".to_owned())]);
            Change::upsert(pod)
        } else {
            Change::delete(ObjectKind::Pod, name)
        })?;
        news.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens every connection, and has its packets sent through memory ports from then on.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn ring(&self, progress: impl FnMut(usize)) -> Result<PortRing, LoadError> {
        let lane = self.established(progress)?.into_iter().next().ok_or(LoadError::Nothing)?;
        let frames = lane.into_frames();
        let worker = self.rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let worker = worker.ok_or(LoadError::Nothing)?;
        let snapshot = self.net.snapshot();
        PortRing::new(worker, self.net.dataplane(), snapshot.names.ports.keys().copied(), frames)
    }

    /// Ends all connections that were opened before `now` and have seen one packet only, by the sweep of `lane`.
    /// No lane may be in the middle of a batch.
    pub fn end_unanswered(&self, lane: &mut Lane, now: Instant) {
        lane.sweep(self.buckets(), now + UNANSWERED + UNANSWERED);
    }

    /// Buckets that a lap of the sweep passes.
    pub fn buckets(&self) -> usize {
        self.state().v4.buckets() + self.state().v6.buckets()
    }

    /// Connections that are open.
    pub fn open_sessions(&self) -> usize {
        (self.state().v4.live() + self.state().v6.live()) / 2
    }

    /// Bytes of memory that a connection of the load's family takes: its share of the flow table (two entries,
    /// their tags, the table's free room), its cold record and the place of that.
    pub fn bytes_per_connection(&self) -> usize {
        let state = self.state();
        let table = match self.spec.family {
            Family::Ipv4 => state.v4.bytes(),
            Family::Ipv6 => state.v6.bytes(),
        };
        table.div_ceil(state.sessions.capacity()) + Sessions::RECORD_BYTES
    }

    /// Rules of all firewalls together.
    pub fn rules(&self) -> usize {
        self.net.snapshot().names.rules.len()
    }

    /// NetworkPolicies of the network.
    pub fn policies(&self) -> usize {
        self.net.model().policies.len()
    }

    fn lane(&self, worker: usize) -> Lane {
        Lane::new(self.state().clone(), self.net.snapshot(), self.spec.family, worker)
    }

    fn flows_of(&self, worker: usize) -> impl Iterator<Item = usize> + use<> {
        (worker..self.spec.flows).step_by(self.spec.workers)
    }

    /// Connections of a worker, rounded up.
    fn share(&self) -> usize {
        self.spec.flows.div_ceil(self.spec.workers)
    }

    fn state(&self) -> &Arc<State> {
        self.net.dataplane().state()
    }
}

/// Adds a frame to those that are sent.
fn add(frames: &mut Frames, template: &Template) -> Result<(), LoadError> {
    frames.push(template).ok_or(LoadError::TooMany { max: network::MAX_FLOWS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernet::dataplane::time::Duration;

    const SCENARIOS: [Scenario; 5] =
        [Scenario::EastWest, Scenario::ClusterIp, Scenario::Snat, Scenario::Vip, Scenario::FullChain];

    /// Processes all that was filled in.
    fn process(lane: &mut Lane, now: Instant) {
        while lane.process(now) > 0 {
            lane.collect();
        }
        lane.collect();
    }

    #[test]
    fn every_packet_of_an_established_connection_is_a_hit() {
        for scenario in SCENARIOS {
            for family in [Family::Ipv4, Family::Ipv6] {
                let load = Load::new(scenario, family, 130, 2).unwrap();
                let mut opened = 0;
                let mut lanes = load.established(|n| opened += n).unwrap();
                assert_eq!((opened, load.open_sessions()), (130, 130), "{scenario:?} {family:?}");
                for lane in &mut lanes {
                    assert_eq!(lane.templates(), 130, "both directions of half of the connections");
                    let before = lane.counted();
                    assert_eq!((lane.refill(), before.dropped), (RING as u64, 0));
                    process(lane, Instant::from_secs(2));
                    let after = lane.counted();
                    assert_eq!(after.hits - before.hits, RING as u64, "{scenario:?} {family:?}");
                    assert_eq!(after.dropped, 0);
                }
            }
        }
    }

    #[test]
    fn packets_are_shared_among_workers_as_asked_for() {
        for (sharing, each) in [(Sharing::Disjoint, 130), (Sharing::Directions, 130), (Sharing::Same, 260)] {
            let load = Load::new(Scenario::FullChain, Family::Ipv4, 130, 2).unwrap();
            let mut lanes = load.shared(sharing, |_| {}).unwrap();
            for lane in &mut lanes {
                assert_eq!(lane.templates(), each, "{sharing:?}");
                let before = lane.counted();
                lane.refill();
                process(lane, Instant::from_secs(2));
                assert_eq!(lane.counted().hits - before.hits, RING as u64, "{sharing:?}");
            }
        }
    }

    #[test]
    fn parsing_and_looking_up_leave_every_frame_as_it_was() {
        let load = Load::new(Scenario::Vip, Family::Ipv6, 100, 1).unwrap();
        let mut lane = load.established(|_| {}).unwrap().remove(0);
        for look_up in [false, true] {
            lane.refill();
            let mut packets = 0;
            loop {
                match if look_up { lane.look_up() } else { lane.parse() } {
                    0 => break,
                    n => packets += n,
                }
            }
            assert_eq!(packets, RING as u64);
            lane.collect();
        }
        let before = lane.counted();
        lane.refill();
        process(&mut lane, Instant::from_secs(2));
        assert_eq!(lane.counted().hits - before.hits, RING as u64);
    }

    #[test]
    fn every_first_packet_opens_a_connection_lap_after_lap() {
        let load = Load::new(Scenario::FullChain, Family::Ipv4, 5000, 1).unwrap();
        let mut lane = load.unopened().unwrap().remove(0);
        let mut now = Instant::from_secs(2);
        for lap in 1..=3 {
            lane.rewind();
            let mut sent = 0;
            loop {
                match lane.refill_once() {
                    0 => break,
                    n => sent += n,
                }
                process(&mut lane, now);
            }
            lane.rest();
            let counted = lane.counted();
            assert_eq!(sent, 5000);
            assert_eq!((counted.connections, counted.hits, counted.dropped), (5000 * lap, 0, 0));
            assert_eq!(load.open_sessions(), 5000);
            load.end_unanswered(&mut lane, now);
            assert_eq!(load.open_sessions(), 0);
            now = now + Duration::from_secs(200);
        }
    }

    #[test]
    fn new_connections_come_and_go_among_the_others() {
        let spec = Spec { fresh: 1000, ..Spec::new(Scenario::FullChain, Family::Ipv4, 200) };
        let load = Load::build(spec).unwrap();
        let mut lane = load.established(|_| {}).unwrap().remove(0);
        load.add_fresh(&mut lane).unwrap();
        lane.mix_in(10);
        let mut now = Instant::from_secs(2);
        let before = lane.counted();
        for round in 1..=3_u64 {
            assert_eq!(lane.refill(), RING as u64);
            process(&mut lane, now);
            let counted = lane.counted();
            assert_eq!(counted.connections - before.connections, RING as u64 * round / 10);
            assert_eq!(counted.dropped, 0);
            lane.rest();
            load.end_unanswered(&mut lane, now);
            assert_eq!(load.open_sessions(), 200, "those that were answered stay");
            now = now + Duration::from_secs(200);
        }
    }

    #[test]
    fn a_network_has_as_many_policies_as_asked_for() {
        let rules = |policies| {
            let spec = Spec { policies, ..Spec::new(Scenario::FullChain, Family::Ipv6, 64) };
            let load = Load::build(spec).unwrap();
            let mut lane = load.unopened().unwrap().remove(0);
            lane.refill_once();
            process(&mut lane, Instant::from_secs(2));
            assert_eq!(load.open_sessions(), 64);
            (load.policies(), load.rules())
        };
        let (none, few, some, many) = (rules(None), rules(Some(10)), rules(Some(40)), rules(Some(400)));
        assert_eq!((none.0, few.0, some.0, many.0), (40, 10, 40, 400));
        assert!(few.1 < none.1 && none.1 == some.1 && many.1 >= some.1 + 360, "{few:?} {some:?} {many:?}");
        let spec = Spec { policies: Some(9), ..Spec::new(Scenario::FullChain, Family::Ipv6, 64) };
        assert!(matches!(Load::build(spec), Err(LoadError::TooFewPolicies { least: 10 })));
    }

    #[test]
    fn what_goes_in_by_memory_ports_comes_out_by_memory_ports() {
        let spec = Spec { frames: 1024, ..Spec::new(Scenario::FullChain, Family::Ipv4, 100) };
        let load = Load::build(spec).unwrap();
        let mut ring = load.ring(|_| {}).unwrap();
        let sent = ring.refill();
        let (mut polled, now) = (0, Instant::from_secs(2));
        for _ in 0..1000 {
            polled += ring.poll(now) as u64;
        }
        assert_eq!((polled, ring.collect()), (sent, sent));
        assert_eq!(ring.counted(), (sent, sent, 0));
    }

    #[test]
    fn a_stranger_may_come_and_go_while_packets_run() {
        let load = Load::new(Scenario::FullChain, Family::Ipv4, 100, 1).unwrap();
        let mut lane = load.established(|_| {}).unwrap().remove(0);
        let news = load.follow(&mut lane);
        for with in [true, false, true] {
            load.publish(with, &news).unwrap();
            for _ in 0..2 {
                let before = lane.counted();
                lane.refill();
                while lane.process_one(Instant::from_secs(2)) > 0 {
                    lane.collect();
                }
                lane.collect();
                let after = lane.counted();
                let hits = after.hits - before.hits;
                assert_eq!(hits, RING as u64, "a comparison each, and no judgement");
                assert_eq!(after.dropped, 0);
            }
        }
    }

    #[test]
    fn a_load_that_cannot_be_is_refused() {
        let refused = |flows, workers| Load::new(Scenario::Vip, Family::Ipv4, flows, workers).err().unwrap();
        assert!(matches!(refused(0, 1), LoadError::Nothing));
        assert!(matches!(refused(1, 0), LoadError::Nothing));
        assert!(matches!(refused(1, 2), LoadError::Nothing));
        assert!(matches!(refused(usize::MAX, 1), LoadError::TooMany { .. }));
    }
}
