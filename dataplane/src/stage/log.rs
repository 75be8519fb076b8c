//! What is told to flow logs, put together from a session's record and entries, or from a packet that opened none.
//!
//! All of it is asked for only while somebody logs; else each of these is a look whether somebody does.

use super::{
    Event, First, Judged, Observer, Stop,
    commit::{session, usage},
};
use crate::{
    flow::{Denial, Record, Session, SessionId, Tick, Usage},
    flowlog::{self, Carried, Desks, End, EndReason, What},
    id::{PortId, RuleId, ServerId},
    rewrite::Tuple,
    snapshot::Snapshot,
    state::State,
    time::Instant,
    verdict::DropReason,
    wire::AnyAddress,
};

/// Why a session is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its time is up, or a new connection takes its ports.
    Over,
    /// What it was bound to is gone.
    Gone,
    /// It gives way to a newer one.
    GaveWay,
}

/// A session was made. The caller holds its place.
#[inline]
pub(super) fn started(logs: &Desks, state: &State, record: &Record, id: SessionId) {
    if !logs.is_off() {
        logs.tell(|now| of_session(state, record, id, What::Started, now));
    }
}

/// A session is about to be ended. The caller holds its place.
#[inline]
pub(super) fn ended(logs: &Desks, state: &State, record: &Record, id: SessionId, why: Why) {
    if !logs.is_off() {
        logs.tell(|now| of_session(state, record, id, What::Ended(end(state, record, why, now)), now));
    }
}

/// A session is denied from now on. The caller holds its place.
#[inline]
pub(super) fn denied(logs: &Desks, state: &State, record: &Record, id: SessionId) {
    if !logs.is_off() {
        let reason = record.denied.map_or(DropReason::BindingGone, Denial::reason);
        logs.tell(|now| of_session(state, record, id, What::Denied { reason, lives: true }, now));
    }
}

fn of_session(
    state: &State,
    record: &Record,
    id: SessionId,
    what: What,
    now: Instant,
) -> Option<flowlog::Record> {
    let session = session(state, record)?;
    let Session { original, reply, .. } = session;
    // As it is kept in the session's record, which has less of it than the first packet's time.
    let salt = u64::from(id.0) << 32 | began(record) & 0xffff_ffff;
    let hash = original.flow_hash(state.config.seed);
    let key = state.tallies.key(session.tally).unwrap_or_default();
    Some(flowlog::Record {
        out: Some(session.judgement.out),
        translated: reply.reversed(),
        rules: (key.egress_rule, key.ingress_rule),
        server: record.server,
        ..flowlog::Record::new(now, (hash, salt), what, record.ingress, original)
    })
}

/// Steps of a [`Tick`] since the origin.
fn began(record: &Record) -> u64 {
    record.began.micros() >> Tick::SHIFT
}

fn end(state: &State, record: &Record, why: Why, now: Instant) -> End {
    let (forward, reverse) = usage(state, record);
    let reason = match why {
        Why::Over if record.track.is_reset() => EndReason::Reset,
        Why::Over if record.track.is_over() => EndReason::Closed,
        Why::Over => EndReason::Expired,
        Why::Gone => EndReason::Gone,
        Why::GaveWay => EndReason::GaveWay,
    };
    let silent = [forward, reverse].map(|usage| usage.last.until(Tick::of(now)));
    let lived = (now.micros() >> Tick::SHIFT).saturating_sub(began(record)) << Tick::SHIFT;
    let lived = crate::time::Duration::from_micros(lived);
    let carried = |usage: Usage| Carried { packets: usage.packets, bytes: usage.bytes };
    End {
        reason,
        lasted: lived.saturating_sub(silent[0].min(silent[1])),
        forward: carried(forward),
        reverse: carried(reverse),
    }
}

/// A packet that would have opened a connection was stopped.
pub fn not_let_in<A: AnyAddress>(logs: &Desks, snap: &Snapshot, first: &First<A>, stop: &Stop) {
    // Answered in place: nobody was kept from anything.
    let Some(reason) = stop.reason() else { return };
    let rule = stop.rule();
    logs.tell_denied(first.hash, (reason, rule), |now| {
        let original = first.tuple.ip();
        let mut way = Way { out: None, server: None, tuple: original };
        // Stages change nothing, so they say again how far it came.
        let _ = super::walk(snap, first, None, &mut way);
        let is_egress = reason == DropReason::EgressDenied;
        let what = What::Denied { reason, lives: false };
        let rules: (Option<RuleId>, Option<RuleId>) = if is_egress { (rule, None) } else { (None, rule) };
        flowlog::Record {
            out: way.out,
            translated: way.tuple,
            rules,
            server: way.server,
            ..flowlog::Record::new(now, (first.hash, now.micros()), what, first.ingress, original)
        }
    });
}

/// How far a packet came.
struct Way {
    out: Option<PortId>,
    server: Option<ServerId>,
    tuple: Tuple,
}

impl Observer for Way {
    fn see(&mut self, event: Event, tuple: &Tuple) {
        self.tuple = *tuple;
        match event {
            Event::Balanced { server, .. } => self.server = Some(server),
            Event::Judged { egress: false, port, judged: Judged::Rule(_) } | Event::Delivered(port) => {
                self.out = Some(port);
            }
            Event::Tier0 { neighbor: Some(neighbor) } => self.out = Some(neighbor.port),
            _ => {}
        }
    }
}
