//! Asks firewalls that are not enforced.

use super::{Arrival, Family, Pipeline};
use crate::{
    rewrite::Tuple,
    snapshot::{PortRole, Snapshot},
    stage::{self, Event, Judged, Observer, dfw},
    staged::Sample,
    table::classifier::Decision,
    time::Instant,
};

impl Pipeline {
    /// Has firewalls that are not enforced judge a packet that opened a connection, or was refused one by those that
    /// are. Walks the stages once more: only where there are such firewalls.
    #[cold]
    #[inline(never)]
    pub(super) fn ask_staged<A: Family>(&self, arrival: &Arrival, tuple: Tuple<A>, now: Instant) {
        let snap = &*self.snapshot;
        let first = self.first(&self.state, (&arrival.packet, tuple), arrival.port);
        let mut seen = Disagreement { snap, found: None };
        // Where it ends was decided before.
        let _ = stage::walk(snap, &first, None, &mut seen);
        if let Some((decision, tuple)) = seen.found {
            let would_deny = !decision.action.allows();
            self.state.staged.count(decision.rule, Sample { at: now, tuple, would_deny });
        }
    }
}

/// Finds the first firewall that would have decided otherwise: behind it nothing would be as it is.
struct Disagreement<'a> {
    snap: &'a Snapshot,
    found: Option<(Decision, Tuple)>,
}

impl Observer for Disagreement<'_> {
    fn see(&mut self, event: Event, tuple: &Tuple) {
        let Event::Judged { egress, port, judged: Judged::Rule(enforced) } = event else { return };
        let Some(PortRole::Endpoint(endpoint)) = self.snap.port(port).map(|p| &p.role) else { return };
        let Some(staged) = endpoint.staged.as_deref().filter(|_| self.found.is_none()) else { return };
        let (firewall, peer) =
            if egress { (&staged.egress, tuple.dst) } else { (&staged.ingress, tuple.src) };
        let (proto, service) = dfw::service(tuple);
        let decision = firewall.decide(self.snap.index.of(peer).identity, proto, service);
        if decision.action.allows() != enforced.action.allows() {
            self.found = Some((decision, *tuple));
        }
    }
}
