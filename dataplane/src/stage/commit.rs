//! Commit: the one stage that changes what packets can tell, and the last of all.
//!
//! It claims what a plan needs (a connection of its pod's and namespace's quota, a port of the egress address, a
//! session's place), compiles the two entries and inserts both or neither. Whoever loses the race for a key undoes
//! its claims by dropping them and goes on as a hit on the winner's session. Nothing is committed for a connection
//! that a stage stopped, so a retransmitted packet never finds a session that policy refused.

use super::{
    log::{self, Why},
    plan::{self, Adjacency, Plan},
    quota,
};
use crate::{
    flow::{
        Binding, Bound, Denial, FlowTable, Found, HalfOpenEnd, HalfOpenEnds, Judgement, Place, Record,
        Session, State as ConnectionState, Taken, Tick, Track, Usage,
    },
    flowlog::Desks,
    id::PortId,
    snapshot::Snapshot,
    state::State,
    table::ports::PortClaim,
    time::Instant,
    verdict::DropReason,
    wire::{Address, Proto},
};
use std::net::SocketAddr;

/// Source ports tried when a connection's answers would clash with another's.
const TRIES: u32 = 64;

/// What came of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed<A> {
    /// A new session, and the entry of the packet that opened it.
    New(Found<A>),
    /// Another packet was faster: the connection has a session already.
    Lost,
}

/// Makes a planned session, of the table's family, whose first packet is the caller's. Looks for a place from
/// `hint` on, and returns where the next may look. `logs` are told.
///
/// # Errors
/// Something finite ran out; nothing was changed.
pub fn commit<A: Address>(
    table: &FlowTable<A>,
    state: &State,
    snap: &Snapshot,
    plan: &Plan<'_, A>,
    (hint, logs): (u32, &Desks),
    now: Instant,
) -> Result<(Committed<A>, u32), DropReason> {
    let Plan { original, course, .. } = plan;
    let generation = snap.generation;
    // First of all, so that nobody at a limit takes from others.
    let was_counting = state.quotas.is_counting();
    let mut quota = if was_counting { quota::claim(state, snap, plan, now)? } else { None };
    let claim = match plan.pool {
        Some(pool) => Some(pool.claim(original.sport).ok_or(DropReason::NatPortsExhausted)?),
        None => None,
    };
    let mut place = state.sessions.claim(hint).ok_or(DropReason::SessionTableFull)?;
    let hint = place.hint(&state.sessions);
    // Whoever has begun to count meanwhile looks at this place when it is unlocked, or has done so before.
    if !was_counting && state.quotas.is_counting() {
        quota = match quota::claim(state, snap, plan, now) {
            Ok(quota) => quota,
            Err(reason) => {
                place.free();
                return Err(reason);
            }
        };
    }
    let is_opening = original.proto == Proto::TCP;
    let metas = course.metas(generation, place.id(), is_opening);
    let mut source = (plan.source.0, claim.as_ref().map_or(plan.source.1, PortClaim::port));
    let mut outcome = Err(DropReason::TupleClash);
    for attempt in 0..TRIES {
        if attempt > 0 {
            // Another source port makes the answers' key unique; the address is kept.
            let port = plan.hash.rotate_left(attempt) as u32 % 64_512 + 1024;
            source.1 = port as u16;
        }
        let reply = plan::reply(source, plan.dst, original);
        let Some((forward, reverse)) = course.edits::<A, A>(original, &reply) else { break };
        let (opening, answers) = plan.spots;
        let answers = if source.1 == plan.source.1 { answers } else { table.hash(&reverse.0).into() };
        let inserted = table.insert_pair(
            (&forward.0, &forward.1, &metas.0),
            (&reverse.0, &reverse.1, &metas.1),
            (opening, answers),
            Tick::of(now),
        );
        match inserted {
            Ok(entries) => {
                let record = Record {
                    entries,
                    is_v4: A::LEN == 4,
                    ingress: plan.ingress,
                    server: plan.server,
                    translated: claim.is_some(),
                    generation,
                    identities: plan.identities,
                    denied: None,
                    track: Track::default(),
                    payer: quota.as_ref().map(|(payer, _)| *payer),
                    began: now,
                };
                place.put(&record);
                log::started(logs, state, &record, place.id());
                claim.map(PortClaim::keep);
                if let Some((_, quota)) = quota {
                    quota.keep();
                }
                let found = Found { entry: entries.0, rewrite: forward.1, meta: metas.0 };
                return Ok((Committed::New(found), hint));
            }
            Err(Taken::Forward(_)) => {
                outcome = Ok((Committed::Lost, hint));
                break;
            }
            Err(Taken::Full) => {
                outcome = Err(DropReason::SessionTableFull);
                break;
            }
            // A claimed port of an egress address is nobody else's: trying others would not help.
            Err(Taken::Reverse) if claim.is_some() => break,
            Err(Taken::Reverse) => {}
        }
    }
    place.free();
    outcome
}

/// The ends of a half-open connection that was opened at a port and goes by an adjacency.
pub fn half_open_ends(ingress: PortId, adjacency: u32) -> HalfOpenEnds {
    let out = match Adjacency::of(adjacency) {
        Adjacency::Port(port) => Some(HalfOpenEnd { port, is_called: true }),
        Adjacency::NextHop(_) => None,
    };
    [Some(HalfOpenEnd { port: ingress, is_called: false }), out]
}

/// The connection that a record and its entries are of. The caller holds the record's place.
pub fn session(state: &State, record: &Record) -> Option<Session> {
    if record.is_v4 { session_in(&state.v4, state, record) } else { session_in(&state.v6, state, record) }
}

fn session_in<A: Address>(table: &FlowTable<A>, state: &State, record: &Record) -> Option<Session> {
    let (original, reply) = (table.key(record.entries.0).tuple(), table.key(record.entries.1).tuple());
    let meta = table.meta(record.entries.0);
    let out = match Adjacency::of(meta.adjacency) {
        Adjacency::Port(port) => port,
        Adjacency::NextHop(id) => state.neighbors.port(id)?,
    };
    let rule = || state.tallies.key(meta.tally).and_then(|key| key.egress_rule.or(key.ingress_rule));
    let denied = record.denied.map(|denial| match denial {
        Denial::NoRoute => (denial.reason(), None),
        Denial::Egress | Denial::Ingress => (denial.reason(), rule()),
    });
    let member = SocketAddr::new(reply.src, reply.sport);
    Some(Session {
        ingress: record.ingress,
        original,
        switched: meta.switched,
        reply,
        binding: Binding {
            bound: record.server.map(|server| Bound { server, member }),
            source: (reply.dst, reply.dport),
            translated: record.translated,
        },
        judgement: Judgement { generation: record.generation, identities: record.identities, out, denied },
        track: record.track,
        began: record.began,
        tally: meta.tally,
        entries: record.entries,
    })
}

/// Whether a session has been silent for longer than its state allows.
pub fn is_expired(state: &State, record: &Record, proto: Proto, now: Instant) -> bool {
    let usage = usage(state, record);
    let idle = usage.0.last.until(Tick::of(now)).min(usage.1.last.until(Tick::of(now)));
    let timeout = condition(record.track, proto, &usage).timeout(proto, &state.config.timeouts);
    idle > timeout.min(Tick::LONGEST)
}

/// The state of a session's connection.
pub fn condition(track: Track, proto: Proto, usage: &(Usage, Usage)) -> ConnectionState {
    track.state(proto, (usage.0.packets, usage.1.packets))
}

/// What a session's entries have carried, forward and reverse.
pub fn usage(state: &State, record: &Record) -> (Usage, Usage) {
    let (forward, reverse) = record.entries;
    if record.is_v4 {
        (state.v4.usage(forward), state.v4.usage(reverse))
    } else {
        (state.v6.usage(forward), state.v6.usage(reverse))
    }
}

/// Ends the session of a place, if there is one: takes out its entries, gives back what it claimed and the
/// place. `logs` are told why.
pub fn end(state: &State, place: &mut Place<'_>, logs: &Desks, why: Why) {
    let Some(record) = place.get() else { return };
    log::ended(logs, state, &record, place.id(), why);
    if record.is_v4 {
        end_in(&state.v4, state, &record)
    } else {
        end_in(&state.v6, state, &record)
    }
    if let Some(windows) = &state.windows {
        windows.clear(place.id());
    }
    place.free();
}

fn end_in<A: Address>(table: &FlowTable<A>, state: &State, record: &Record) {
    let reply = table.key(record.entries.1).tuple();
    let adjacency = || table.meta(record.entries.0).adjacency;
    let is_half_open = reply.proto == Proto::TCP && record.track.is_half_open();
    if is_half_open {
        state.half_open.close(half_open_ends(record.ingress, adjacency()));
    }
    if record.payer.is_some()
        && let Some(port) = quota::paying_port(record, adjacency())
    {
        state.quotas.end(port, is_half_open);
    }
    table.remove_pair(record.entries);
    // Last, so that whoever claims the port finds the answers' key free.
    if record.translated {
        state.nat.pool(reply.dst, reply.proto).give_back(reply.dport);
    }
}
