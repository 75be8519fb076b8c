//! Judge: what a new snapshot means for sessions that live, and which of them the sweep ends.

use super::{
    First,
    commit::{self, is_expired, session},
    log::{self, Why},
    plan::{self, Adjacency, Course},
    router, tier0,
};
use crate::{
    counters::TallyKey,
    flow::{Denial, FlowTable, Meta, Passed, Payer, Place, Record, Session, SessionId, Tick},
    flowlog::Desks,
    id::{Generation, PortId, RuleId},
    snapshot::{GATEWAY_MAC, PortRole, Snapshot},
    state::State,
    time::Instant,
    vector::LANES,
    verdict::DropReason,
    wire::{Address, Proto},
};
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// What a new snapshot means for a living session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// It goes on, or stays denied, as its judgement now says.
    Stands,
    /// What it was bound to is gone.
    Gone,
}

/// Judges a session again if anything it was built from is newer than its judgement, always on the
/// initiator's original packet and with the binding kept, and brings record and entries up to date. `logs` are told
/// if it is denied from now on.
pub fn judge_again(
    state: &State,
    snap: &Snapshot,
    place: &mut Place<'_>,
    record: &mut Record,
    logs: &Desks,
) -> Judged {
    let Some(session) = session(state, record) else { return Judged::Gone };
    let judged = judge(state, snap, &session, place.id(), record);
    if judged == Judged::Stands {
        record.generation = snap.generation;
        place.put(record);
        if record.denied.is_some() && session.judgement.denied.is_none() {
            log::denied(logs, state, record, place.id());
        }
    }
    judged
}

fn judge(state: &State, snap: &Snapshot, session: &Session, id: SessionId, record: &mut Record) -> Judged {
    if state.config.cache && record.denied.is_none() && unchanged(snap, session) {
        stamp(state, record, snap.generation);
        return Judged::Stands;
    }
    match super::walk(snap, &original(state, snap, session), Some(&session.binding), &mut ()) {
        Ok(path) => {
            let moved = plan::scope(snap, path.out.port()) != plan::scope(snap, session.judgement.out);
            let reply = plan::reply(session.binding.source, path.dst, &session.original);
            if moved || reply != session.reply {
                return Judged::Gone;
            }
            record.identities = path.identities;
            record.denied = None;
            let Some(course) = Course::of(state, snap, session.ingress, &path) else { return Judged::Gone };
            // What it counts for must be found when it ends.
            let called = Adjacency::Port(session.judgement.out).number();
            if record.payer == Some(Payer::Called) && course.adjacencies.0 != called {
                return Judged::Gone;
            }
            let metas = course.metas(snap.generation, id, is_opening(session, record));
            if record.is_v4 {
                rewrite(&state.v4, session, &course, metas)
            } else {
                rewrite(&state.v6, session, &course, metas)
            }
        }
        Err(stop) => match stop.reason() {
            Some(DropReason::EgressDenied) => deny(state, snap, record, Denial::Egress, stop.rule()),
            Some(DropReason::IngressDenied) => deny(state, snap, record, Denial::Ingress, stop.rule()),
            Some(DropReason::NoRoute) => deny(state, snap, record, Denial::NoRoute, None),
            _ => Judged::Gone,
        },
    }
}

/// Whether packets of who opened it take the slow path.
fn is_opening(session: &Session, record: &Record) -> bool {
    session.original.proto == Proto::TCP && record.track.is_half_open()
}

/// The binding is kept until its timer ends: what is denied now may be allowed again by then.
fn deny(state: &State, snap: &Snapshot, record: &mut Record, denial: Denial, rule: Option<RuleId>) -> Judged {
    record.denied = Some(denial);
    let key = rule.map_or(TallyKey::default(), |rule| denied_key(denial.reason(), rule));
    let tally = state.tallies.intern(key);
    let (forward, reverse) = record.entries;
    for entry in [forward, reverse] {
        if record.is_v4 {
            state.v4.deny(entry, snap.generation, tally);
        } else {
            state.v6.deny(entry, snap.generation, tally);
        }
    }
    Judged::Stands
}

/// The packet that opened a session, as the stages saw it.
fn original(state: &State, snap: &Snapshot, session: &Session) -> First {
    let peer = snap.port(session.judgement.out).filter(|_| session.switched);
    First {
        ingress: session.ingress,
        tuple: session.original,
        ttl: u8::MAX,
        dst_mac: peer.map_or(GATEWAY_MAC, |port| port.mac),
        hash: session.original.flow_hash(state.config.seed),
        echo: false,
    }
}

/// When anything last changed that sessions through uplinks depend on.
pub fn outside_since(snap: &Snapshot) -> Generation {
    let uplinks = snap.tier0.uplinks.iter().map(|port| snap.row(*port).hop.since);
    uplinks.max().unwrap_or(Generation(u32::MAX))
}

/// Whether a session that was judged in `generation`, and goes from one of these ports to the other, is
/// certain to be judged alike now: nothing that it was built from is newer. `false` may mean nothing.
pub fn stands(
    state: &State,
    snap: &Snapshot,
    (one, other): (Generation, Generation),
    tally: u32,
    generation: Generation,
) -> bool {
    let server = || match state.tallies.key(tally) {
        Some(key) => key.server.is_none_or(|server| snap.server_since(server) <= generation),
        None => false,
    };
    generation != Generation::default() && one <= generation && other <= generation && server()
}

/// Passes over a bucket, and ends sessions of those who opened a connection here: whose time is up, or whose
/// binding is gone and no reset would tell. TCP connections without a binding wait for their next packet.
/// `outside` is [`outside_since`]; `logs` are told.
pub fn sweep<A: Address>(
    table: &FlowTable<A>,
    state: &State,
    (snap, outside): (&Snapshot, Generation),
    bucket: usize,
    logs: &Desks,
    now: Instant,
) {
    let mut due = ArrayVec::<Due<A>, LANES>::new();
    table.pass(bucket, |passed| due.extend(Due::of(state, snap, outside, passed, now)));
    // Nothing of a session that was silent for long is near. What all of them need is asked for step by step, so
    // that they wait for it together; and for writing only what is about to end, as others may be using it.
    let record = |due: &Due<A>| {
        let place = state.sessions.lock(due.passed.meta.session);
        place.get().filter(|record| due.is_of(record))
    };
    for due in &due {
        state.sessions.lock(due.passed.meta.session).prefetch();
    }
    for answers in due.iter().filter_map(record).map(|record| record.entries.1) {
        table.prefetch_entry(answers);
    }
    due.retain(|due| {
        let record = record(due).filter(|r| due.stale || is_expired(state, r, due.passed.key.proto(), now));
        record.is_some_and(|record| {
            table.prefetch_removal(record.entries.0);
            table.prefetch_removal(record.entries.1);
            true
        })
    });
    for due in &due {
        due.end(state, snap, logs, now);
    }
}

/// A session that the sweep may have to end.
struct Due<A> {
    passed: Passed<A>,
    silent: bool,
    stale: bool,
}

impl<A: Address> Due<A> {
    fn of(
        state: &State,
        snap: &Snapshot,
        outside: Generation,
        passed: &Passed<A>,
        now: Instant,
    ) -> Option<Self> {
        let silent = passed.last.until(Tick::of(now)) > state.config.timeouts.least().min(Tick::LONGEST);
        let mut stale = passed.meta.generation < snap.generation && passed.key.proto() != Proto::TCP;
        if stale && state.config.cache && !passed.meta.denied {
            let since = |port: PortId| snap.row(port).hop.since;
            let from = passed.key.scope().to_port().map_or(outside, since);
            let to = match Adjacency::of(passed.meta.adjacency) {
                Adjacency::Port(port) => since(port),
                Adjacency::NextHop(_) => outside,
            };
            // It is not marked as looked at: to look again costs less than to write.
            stale = !stands(state, snap, (from, to), passed.meta.tally, passed.meta.generation);
        }
        (silent || stale).then_some(Self { passed: *passed, silent, stale })
    }

    /// Whether a record is that of the session.
    fn is_of(&self, record: &Record) -> bool {
        (record.entries.0, record.is_v4) == (self.passed.entry(), A::LEN == 4)
    }

    /// Ends it, if it is what it seemed to be.
    fn end(&self, state: &State, snap: &Snapshot, logs: &Desks, now: Instant) {
        let Self { passed, silent, stale } = self;
        let mut place = state.sessions.lock(passed.meta.session);
        let Some(mut record) = place.get().filter(|record| self.is_of(record)) else { return };
        let gone = *stale
            && record.generation < snap.generation
            && judge_again(state, snap, &mut place, &mut record, logs) == Judged::Gone;
        if gone || (*silent && is_expired(state, &record, passed.key.proto(), now)) {
            commit::end(state, &mut place, logs, if gone { Why::Gone } else { Why::Over });
        }
    }
}

/// Whether nothing the session was built from has changed since it was judged.
fn unchanged(snap: &Snapshot, session: &Session) -> bool {
    let j = &session.judgement;
    let since = |id| snap.port(id).map(|p| p.since);
    let ports = [session.ingress, j.out].iter().all(|id| since(*id).is_some_and(|s| s <= j.generation));
    let is_uplink = |id| snap.tier0.uplinks.contains(&id);
    let routes = !(is_uplink(session.ingress) || is_uplink(j.out)) || snap.tier0.since <= j.generation;
    let t = &session.original;
    let server = session.binding.bound.is_none_or(|bound| {
        let server = snap.servers.listening.get(&(t.dst, t.proto, t.dport));
        server.is_some_and(|s| s.id == bound.server && s.since <= j.generation)
    });
    let namespace = match snap.port(session.ingress).map(|p| &p.role) {
        Some(PortRole::Endpoint(e)) => e.namespace.and_then(|n| snap.namespace(n)),
        _ => None,
    };
    let namespace = !session.binding.translated || namespace.is_some_and(|n| n.since <= j.generation);
    let dst: IpAddr = session.reply.src;
    let destination = if is_uplink(j.out) {
        !snap.endpoints.contains_key(&dst) && router::not_ours(snap, dst).is_ok()
    } else {
        snap.endpoints.get(&dst) == Some(&j.out)
    };
    let source = !is_uplink(session.ingress) || tier0::reverse_path(snap, t.src).is_ok();
    let identities = (snap.identities.of(dst), snap.identities.of(t.src)) == j.identities;
    ports && routes && server && namespace && destination && source && identities
}

fn rewrite<A: Address>(
    table: &FlowTable<A>,
    session: &Session,
    course: &Course,
    (forward, reverse): (Meta, Meta),
) -> Judged {
    let Some(edits) = course.edits(&session.original, &session.reply) else { return Judged::Gone };
    table.update(session.entries.0, &edits.0.1, &forward);
    table.update(session.entries.1, &edits.1.1, &reverse);
    Judged::Stands
}

/// Marks a session's entries with its judgement, rewrites unchanged.
fn stamp(state: &State, record: &Record, generation: Generation) {
    for entry in [record.entries.0, record.entries.1] {
        if record.is_v4 {
            state.v4.stamp(entry, generation);
        } else {
            state.v6.stamp(entry, generation);
        }
    }
}

/// What packets are counted under that a firewall rule denies.
pub fn denied_key(reason: DropReason, rule: RuleId) -> TallyKey {
    let egress = (reason == DropReason::EgressDenied).then_some(rule);
    let ingress = (reason == DropReason::IngressDenied).then_some(rule);
    TallyKey { egress_rule: egress, ingress_rule: ingress, server: None }
}
