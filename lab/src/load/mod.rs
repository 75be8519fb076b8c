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

pub use frames::{FRAME_V4, FRAME_V6};
pub use lane::{Counted, Lane, RING};
pub use network::{Family, Scenario};

use frames::Template;
use network::Plan;
use std::{collections::BTreeMap, sync::Arc};
use supernet::{
    BuildError, DropReason, Handle,
    dataplane::{flow::Sessions, stage::commit, state::State, wire::tcp_flags, worker::BATCH},
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

/// A network under load, and who sends what.
pub struct Load {
    net: Handle,
    plan: Plan,
    flows: usize,
    workers: usize,
}

impl Load {
    /// Builds the network of a scenario with room for `flows` connections of one family.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn new(scenario: Scenario, family: Family, flows: usize, workers: usize) -> Result<Self, LoadError> {
        if workers == 0 || flows < workers {
            return Err(LoadError::Nothing);
        }
        if flows > network::MAX_FLOWS {
            return Err(LoadError::TooMany { max: network::MAX_FLOWS });
        }
        let (net, plan) = network::build(scenario, family, flows, workers)?;
        Ok(Self { net, plan, flows, workers })
    }

    /// Opens every connection, one packet in each direction, and returns a lane a worker that repeats a packet
    /// of both directions. `progress` is told of connections as they are opened.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn established(&self, mut progress: impl FnMut(usize)) -> Result<Vec<Lane>, LoadError> {
        let lane = |worker| {
            let mut lane = self.lane(worker, 2 * self.share());
            let flows: Vec<usize> = self.flows_of(worker).collect();
            for chunk in flows.chunks(BATCH) {
                let first: Vec<Template> = chunk.iter().map(|flow| self.plan.template(*flow)).collect();
                let back = lane.pass("first packets", &first)?;
                lane.pass("first answers", &back)?;
                for template in first.into_iter().chain(back) {
                    // From here on plain segments: a SYN would take the slow path every time.
                    lane.add(&Template { flags: tcp_flags::ACK, ..template });
                }
                progress(chunk.len());
            }
            lane.settle();
            lane.rest();
            Ok(lane)
        };
        (0..self.workers).map(lane).collect()
    }

    /// A lane a worker that sends the first packet of every connection, none of which is open.
    pub fn unopened(&self) -> Vec<Lane> {
        let lane = |worker| {
            let mut lane = self.lane(worker, self.share());
            for flow in self.flows_of(worker) {
                lane.add(&self.plan.template(flow));
            }
            lane.shuffle();
            lane
        };
        (0..self.workers).map(lane).collect()
    }

    /// Ends the sessions of one worker's share of the table. No lane may be in the middle of a batch.
    pub fn end_sessions(&self, worker: usize) {
        let state = self.state();
        for id in state.sessions.ids().skip(worker).step_by(self.workers) {
            commit::end(state, &mut state.sessions.lock(id));
        }
    }

    /// Connections that are open.
    pub fn open_sessions(&self) -> usize {
        (self.state().v4.live() + self.state().v6.live()) / 2
    }

    /// Bytes of memory that a connection of the load's family takes: its share of the flow table (two entries,
    /// their tags, the table's free room), its cold record and the place of that.
    pub fn bytes_per_connection(&self) -> usize {
        let state = self.state();
        let table = match self.plan.family {
            Family::Ipv4 => state.v4.bytes(),
            Family::Ipv6 => state.v6.bytes(),
        };
        table.div_ceil(state.sessions.capacity()) + Sessions::RECORD_BYTES
    }

    /// Rules of all firewalls together.
    pub fn rules(&self) -> usize {
        self.net.snapshot().names.rules.len()
    }

    fn lane(&self, worker: usize, templates: usize) -> Lane {
        Lane::new(self.state().clone(), self.net.snapshot(), self.plan.family, worker, templates)
    }

    fn flows_of(&self, worker: usize) -> impl Iterator<Item = usize> + use<> {
        (worker..self.flows).step_by(self.workers)
    }

    /// Connections of a worker, rounded up.
    fn share(&self) -> usize {
        self.flows.div_ceil(self.workers)
    }

    fn state(&self) -> &Arc<State> {
        self.net.dataplane().state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernet::Instant;

    const SCENARIOS: [Scenario; 4] =
        [Scenario::EastWest, Scenario::ClusterIp, Scenario::Vip, Scenario::FullChain];

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
                    assert_eq!((lane.refill(), before.dropped), (BATCH as u64, 0));
                    lane.process(Instant::from_secs(2));
                    let after = lane.counted();
                    assert_eq!(after.hits - before.hits, BATCH as u64, "{scenario:?} {family:?}");
                    assert_eq!(after.dropped, 0);
                }
            }
        }
    }

    #[test]
    fn every_first_packet_opens_a_connection_lap_after_lap() {
        let load = Load::new(Scenario::FullChain, Family::Ipv4, 100, 1).unwrap();
        let mut lane = load.unopened().remove(0);
        for lap in 1..=3 {
            lane.rewind();
            while lane.refill_once() > 0 {
                lane.process(Instant::from_secs(2));
            }
            lane.rest();
            let counted = lane.counted();
            assert_eq!((counted.connections, counted.hits, counted.dropped), (100 * lap, 0, 0));
            assert_eq!(load.open_sessions(), 100);
            load.end_sessions(0);
            assert_eq!(load.open_sessions(), 0);
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
