//! Commit: the one stage that changes state, and the last of all.
//!
//! It claims what a path needs (a session's place, a port of the egress address), compiles the two entries and
//! inserts both or neither. Whoever loses the race for a key undoes its claims by dropping them and goes on as
//! a hit on the winner's session. Nothing is committed for a connection that a stage stopped, so a
//! retransmitted packet never finds a session that policy refused.

use super::{First, Next, Path, Source, Stop, router, tier0};
use crate::{
    counters::TallyKey,
    flow::{
        Binding, FlowKey, FlowTable, Judgement, Meta, Scope, Session, SessionId, State as ConnectionState,
        Taken, Tick, Track, Usage,
    },
    id::{PortId, RuleId},
    rewrite::{Rewrite, Tuple},
    snapshot::{PortRole, Snapshot},
    state::State,
    time::Instant,
    verdict::DropReason,
    wire::Address,
};
use std::net::IpAddr;

/// An adjacency with this bit is a next hop beyond an uplink, else a port.
pub const NEIGHBOR: u32 = PortId::MAX;

/// Source ports tried when a connection's answers would clash with another's.
const TRIES: u32 = 64;

/// What came of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    /// A new session.
    New,
    /// Another worker was faster: the connection has a session already.
    Lost,
}

/// Makes the session of a path.
///
/// # Errors
/// Something finite ran out; nothing was changed.
pub fn commit(
    state: &State,
    snap: &Snapshot,
    first: &First,
    path: &Path,
    now: Instant,
) -> Result<Committed, DropReason> {
    if first.tuple.src.is_ipv4() {
        commit_in(&state.v4, state, snap, first, path, now)
    } else {
        commit_in(&state.v6, state, snap, first, path, now)
    }
}

fn commit_in<A: Address>(
    table: &FlowTable<A>,
    state: &State,
    snap: &Snapshot,
    first: &First,
    path: &Path,
    now: Instant,
) -> Result<Committed, DropReason> {
    let tuple = first.tuple;
    let (mut source, claim) = match path.source {
        Source::Keep => ((tuple.src, tuple.sport), None),
        Source::Hairpin(address) => ((address, tuple.sport), None),
        Source::Egress(address) => {
            let pool = state.nat.pool(address, tuple.proto);
            let claim = pool.claim(tuple.sport).ok_or(DropReason::NatPortsExhausted)?;
            ((address, claim.port()), Some(claim))
        }
    };
    let translated = claim.is_some();
    let id = state.sessions.claim().ok_or(DropReason::SessionTableFull)?;
    let mut place = state.sessions.lock(id);
    let mut session = Box::new(Session {
        ingress: first.ingress,
        original: tuple,
        dst_mac: first.dst_mac,
        reply: tuple,
        binding: Binding { bound: path.bound, source, claim },
        judgement: judgement(snap, path),
        track: Track::default(),
        began: now,
        entries: None,
    });
    let give_up = |reason| {
        state.sessions.release(id);
        Err(reason)
    };
    for attempt in 0..TRIES {
        if attempt > 0 {
            // Another source port makes the answers' key unique; the address is kept.
            let port = first.hash.rotate_left(attempt) as u32 % 64_512 + 1024;
            source.1 = port as u16;
        }
        session.binding.source = source;
        session.reply = reply(&session, path);
        let Some((forward, reverse)) = entries(state, snap, &session, path, id) else {
            return give_up(DropReason::NeighborUnresolved);
        };
        let (f, r) = ((&forward.0, &forward.1, &forward.2), (&reverse.0, &reverse.1, &reverse.2));
        match table.insert_pair(f, r, Tick::of(now)) {
            Ok(entries) => {
                session.entries = Some(entries);
                *place = Some(session);
                return Ok(Committed::New);
            }
            Err(Taken::Forward(_)) => {
                drop((place, session));
                state.sessions.release(id);
                return Ok(Committed::Lost);
            }
            Err(Taken::Full) => return give_up(DropReason::SessionTableFull),
            // A claimed port of an egress address is nobody else's: trying others would not help.
            Err(Taken::Reverse) if translated => return give_up(DropReason::TupleClash),
            Err(Taken::Reverse) => {}
        }
    }
    give_up(DropReason::TupleClash)
}

/// Whether a session has been silent for longer than its state allows.
pub fn is_expired(state: &State, session: &Session, now: Instant) -> bool {
    let Some(usage) = usage(state, session) else { return false };
    let idle = usage.0.last.until(Tick::of(now)).min(usage.1.last.until(Tick::of(now)));
    let timeout = condition(session, &usage).timeout(session.original.proto, &state.config.timeouts);
    idle > timeout.min(Tick::LONGEST)
}

/// The state of a session's connection.
pub fn condition(session: &Session, usage: &(Usage, Usage)) -> ConnectionState {
    let packets = (usage.0.packets, usage.1.packets);
    session.track.state(session.original.proto, packets, usage.0.plain)
}

/// What a session's entries have carried, forward and reverse.
pub fn usage(state: &State, session: &Session) -> Option<(Usage, Usage)> {
    let (forward, reverse) = session.entries?;
    Some(if session.original.src.is_ipv4() {
        (state.v4.usage(forward), state.v4.usage(reverse))
    } else {
        (state.v6.usage(forward), state.v6.usage(reverse))
    })
}

/// Where and how the packets of both directions go, as a session's two entries.
pub type Entry<A> = (FlowKey<A>, Rewrite<A>, Meta);

/// Compiles the entries of a session; `None` when there are too many next hops.
pub fn entries<A: Address>(
    state: &State,
    snap: &Snapshot,
    session: &Session,
    path: &Path,
    id: SessionId,
) -> Option<(Entry<A>, Entry<A>)> {
    let (original, reply) = (session.original, session.reply);
    let tally = tally(state, path);
    let meta = |next: &Next| {
        Some(Meta {
            adjacency: adjacency(state, next)?,
            hops: path.hops,
            switched: path.switched,
            denied: session.judgement.denied.is_some(),
            generation: snap.generation,
            session: id,
            tally,
        })
    };
    let forward = (
        FlowKey::forward(&original, scope(snap, session.ingress))?,
        Rewrite::new(&original, &reply.reversed(), path.hops)?,
        meta(&path.out)?,
    );
    let reverse = (
        FlowKey::reverse(&reply, scope(snap, path.out.port()))?,
        Rewrite::new(&reply, &original.reversed(), path.hops)?,
        meta(&path.back)?,
    );
    Some((forward, reverse))
}

/// What connections of this path are counted under.
pub fn tally(state: &State, path: &Path) -> u32 {
    state.tallies.intern(TallyKey {
        egress_rule: path.egress_rule,
        ingress_rule: path.ingress_rule,
        server: path.bound.map(|b| b.server),
    })
}

/// The scope of packets that come in by a port.
pub fn scope(snap: &Snapshot, port: PortId) -> Scope {
    match snap.port(port).map(|p| &p.role) {
        Some(PortRole::Uplink(_)) => Scope::UPLINKS,
        _ => Scope::port(port),
    }
}

fn adjacency(state: &State, next: &Next) -> Option<u32> {
    match next {
        Next::Port(port) => Some(port.0),
        Next::Neighbor(neighbor) => state.neighbors.intern(neighbor).map(|id| NEIGHBOR | id.0),
    }
}

/// The tuple that answers will have.
fn reply(session: &Session, path: &Path) -> Tuple {
    let (src, sport) = session.binding.source;
    let (dst, dport) = path.dst;
    Tuple { src, dst, sport, dport, proto: session.original.proto }.reversed()
}

fn judgement(snap: &Snapshot, path: &Path) -> Judgement {
    Judgement { generation: snap.generation, identities: path.identities, out: path.out.port(), denied: None }
}

/// What a new snapshot means for a living session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// It goes on, or stays denied, as its judgement now says.
    Stands,
    /// What it was bound to is gone.
    Gone,
}

/// Judges a session again if anything it was built from is newer than its judgement, always on the
/// initiator's original packet and with the binding kept, and brings its entries up to date.
pub fn judge_again(state: &State, snap: &Snapshot, session: &mut Session, id: SessionId) -> Judged {
    let first = original(state, session);
    if state.config.cache && session.judgement.denied.is_none() && unchanged(snap, session) {
        session.judgement.generation = snap.generation;
        stamp(state, session, snap);
        return Judged::Stands;
    }
    match super::walk(snap, &first, Some(&session.binding), &mut ()) {
        Ok(path) => {
            let moved = scope(snap, path.out.port()) != scope(snap, session.judgement.out);
            if moved || reply(session, &path) != session.reply {
                return Judged::Gone;
            }
            session.judgement = judgement(snap, &path);
            if session.original.src.is_ipv4() {
                rewrite(&state.v4, state, snap, session, &path, id)
            } else {
                rewrite(&state.v6, state, snap, session, &path, id)
            }
        }
        Err(Stop::Drop(reason @ (DropReason::EgressDenied | DropReason::IngressDenied), rule)) => {
            deny(state, snap, session, reason, rule)
        }
        Err(Stop::NoRoute(_) | Stop::Drop(DropReason::NoRoute, _)) => {
            deny(state, snap, session, DropReason::NoRoute, None)
        }
        Err(_) => Judged::Gone,
    }
}

/// The binding is kept until its timer ends: what is denied now may be allowed again by then.
fn deny(
    state: &State,
    snap: &Snapshot,
    session: &mut Session,
    reason: DropReason,
    rule: Option<RuleId>,
) -> Judged {
    session.judgement.generation = snap.generation;
    session.judgement.denied = Some((reason, rule));
    stamp(state, session, snap);
    Judged::Stands
}

/// The packet that opened a session, as the stages saw it.
fn original(state: &State, session: &Session) -> First {
    First {
        ingress: session.ingress,
        tuple: session.original,
        ttl: u8::MAX,
        dst_mac: session.dst_mac,
        hash: session.original.flow_hash(state.config.seed),
        echo: false,
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
    let namespace = session.binding.claim.is_none() || namespace.is_some_and(|n| n.since <= j.generation);
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
    state: &State,
    snap: &Snapshot,
    session: &Session,
    path: &Path,
    id: SessionId,
) -> Judged {
    let compiled = entries(state, snap, session, path, id);
    let (Some((forward, reverse)), Some((f, r))) = (compiled, session.entries) else { return Judged::Gone };
    table.update(f, &forward.1, &forward.2);
    table.update(r, &reverse.1, &reverse.2);
    Judged::Stands
}

/// Marks a session's entries with its judgement, rewrites unchanged.
fn stamp(state: &State, session: &Session, snap: &Snapshot) {
    let denied = session.judgement.denied.is_some();
    let Some((forward, reverse)) = session.entries else { return };
    if session.original.src.is_ipv4() {
        state.v4.stamp(forward, snap.generation, denied);
        state.v4.stamp(reverse, snap.generation, denied);
    } else {
        state.v6.stamp(forward, snap.generation, denied);
        state.v6.stamp(reverse, snap.generation, denied);
    }
}

/// Takes a session out: its entries, its claims, its place. The caller holds the lock of the place.
pub fn end(state: &State, place: &mut Option<Box<Session>>, id: SessionId) {
    let Some(session) = place.take() else { return };
    if let Some((forward, reverse)) = session.entries {
        if session.original.src.is_ipv4() {
            state.v4.remove(forward);
            state.v4.remove(reverse);
        } else {
            state.v6.remove(forward);
            state.v6.remove(reverse);
        }
    }
    drop(session);
    state.sessions.release(id);
}
