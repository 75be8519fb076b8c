//! What a pipeline tells flow logs itself; of sessions, the stages do ([`crate::stage::log`]).

use super::{Arrival, Family, Pipeline, has_session, slow::refusal};
use crate::{
    flowlog::Desk,
    rewrite::Tuple,
    stage::{Stop, log},
    time::Instant,
    wire::Part,
};

impl Pipeline {
    /// Has a log of connections written from now on.
    pub fn log_flows(&mut self, desk: Desk, now: Instant) {
        self.logs.add(desk, now);
    }

    /// To be called now and then: lets go of logs that nobody reads any more.
    pub fn tend_logs(&mut self, now: Instant) {
        self.logs.tend(now);
    }

    /// Tells logs of a connection that was not let in.
    #[cold]
    #[inline(never)]
    pub(super) fn log_denied<A: Family>(&self, arrival: &Arrival, tuple: Tuple<A>, stop: &Stop) {
        let packet = &arrival.packet;
        // What opens no connection anyway is none that is denied.
        if refusal(&self.snapshot, packet).is_none() && packet.part != Part::Later && has_session(packet) {
            let first = self.first(&self.state, (packet, tuple), arrival.port);
            log::not_let_in(&self.logs, &self.snapshot, &first, stop);
        }
    }
}
