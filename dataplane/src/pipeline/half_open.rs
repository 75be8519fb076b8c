//! Half-open TCP connections give way to newer ones, and to any connection when there is no room left.

use super::Pipeline;
use crate::{
    flow::{Opened, Record},
    id::PortId,
    stage::{commit, plan::Adjacency},
    wire::Proto,
};

/// How many of the oldest are looked at for one that is still half open.
const LOOKED_AT: usize = 64;

impl Pipeline {
    /// Takes note of a new TCP connection, which comes in at `ingress` and leaves by `adjacency`, and ends those that
    /// are too many with it.
    pub(super) fn limit_half_open(&self, new: Opened, ingress: PortId, adjacency: u32) {
        let half_open = &self.state.half_open;
        let out = match Adjacency::of(adjacency) {
            Adjacency::Port(port) => Some(port),
            Adjacency::NextHop(_) => None,
        };
        let workload = |port: &PortId| !self.snapshot.row(*port).is_uplink;
        // A pod that calls itself has one place.
        let ports = [Some(ingress).filter(workload), out.filter(|out| *out != ingress)];
        for port in ports.into_iter().flatten() {
            if let Some(oldest) = half_open.port(port).and_then(|ring| ring.put(new)) {
                self.end_half_open(oldest, Some(port));
            }
        }
        if let Some(oldest) = half_open.all().and_then(|ring| ring.put(new)) {
            self.end_half_open(oldest, None);
        }
    }

    /// Ends the half-open connection that was opened longest ago, as far as one can tell. Whether there was one.
    #[cold]
    pub(super) fn end_oldest_half_open(&self) -> bool {
        let ring = self.state.half_open.all();
        let oldest = ring.into_iter().flat_map(|ring| (0..LOOKED_AT).map(|_| ring.take_oldest()));
        oldest.flatten().any(|oldest| self.end_half_open(oldest, None))
    }

    /// Ends a connection, if it is still half open, and one of this port.
    fn end_half_open(&self, opened: Opened, port: Option<PortId>) -> bool {
        let state = &*self.state;
        let mut place = state.sessions.lock(opened.id);
        let is_it = |record: &Record| record.entries.0 == opened.entry && record.track.is_half_open();
        let Some(record) = place.get().filter(is_it) else { return false };
        let Some(session) = commit::session(state, &record) else { return false };
        let concerns = port.is_none_or(|port| session.ingress == port || session.judgement.out == port);
        if session.original.proto != Proto::TCP || !concerns {
            return false;
        }
        commit::end(state, &mut place);
        self.counters.half_open_ended.add(1);
        true
    }
}
