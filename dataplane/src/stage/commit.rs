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
        Binding, Bound, Denial, FlowKey, FlowTable, Found, Judgement, Meta, Passed, Place, Record, Scope,
        Session, SessionId, State as ConnectionState, Taken, Tick, Track, Usage,
    },
    id::{Generation, NeighborId, PortId, RuleId},
    rewrite::{Rewrite, Tuple},
    snapshot::{GATEWAY_MAC, PortRole, Snapshot},
    state::{Neighbors, State},
    table::ports::{PortClaim, PortPool},
    time::Instant,
    verdict::DropReason,
    wire::{Address, AnyAddress, Proto},
};
use std::net::{IpAddr, SocketAddr};

/// Where packets go, as a number that an entry has room for: next hops beyond uplinks come first, then ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adjacency {
    /// To a workload's port.
    Port(PortId),
    /// To a next hop beyond an uplink.
    NextHop(NeighborId),
}

impl Adjacency {
    /// As a number of 24 bits.
    pub fn number(self) -> u32 {
        match self {
            Self::Port(port) => port.0 + Neighbors::MAX as u32,
            Self::NextHop(id) => id.0,
        }
    }

    /// What a number stands for.
    pub fn of(number: u32) -> Self {
        match number.checked_sub(Neighbors::MAX as u32) {
            Some(port) => Self::Port(PortId(port)),
            None => Self::NextHop(NeighborId(number)),
        }
    }
}

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

/// What answers to a connection are expected to look like, before it is committed.
#[derive(Clone, Copy, Default, Debug)]
pub struct Answers<'s> {
    /// The port they are sent to.
    pub port: u16,
    /// Where that will be claimed, if their address is an egress address.
    pub pool: Option<&'s PortPool>,
    /// The hash of their key.
    pub hash: u64,
}

/// What a commit goes by beside the path.
#[derive(Clone, Copy, Debug)]
pub struct Order<'s> {
    /// The hash of the opening packet's key.
    pub hash: u64,
    /// What answers are expected to look like.
    pub answers: Answers<'s>,
    /// What the session's packets are counted under.
    pub tally: u32,
    /// Where to look for a place for the session first.
    pub hint: u32,
    /// When it begins.
    pub now: Instant,
}

/// Makes the session of a path, of the table's family. Returns where the next may look for a place, too.
///
/// # Errors
/// Something finite ran out; nothing was changed.
pub fn commit<A: Address>(
    table: &FlowTable<A>,
    state: &State,
    snap: &Snapshot,
    first: &First<A>,
    path: &Path<A>,
    order: Order<'_>,
) -> Result<(Committed<A>, u32), DropReason> {
    let tuple = first.tuple;
    let (mut source, claim) = match path.source {
        Source::Keep => ((tuple.src, tuple.sport), None),
        Source::Hairpin(address) => ((address, tuple.sport), None),
        Source::Egress(address) => {
            let pool = order.answers.pool.unwrap_or_else(|| state.nat.pool(address, tuple.proto));
            let claim = pool.claim(tuple.sport).ok_or(DropReason::NatPortsExhausted)?;
            ((address, claim.port()), Some(claim))
        }
    };
    let mut place = state.sessions.claim(order.hint).ok_or(DropReason::SessionTableFull)?;
    let hint = place.hint(&state.sessions);
    let Some(metas) = metas(state, snap, path, order.tally, place.id()) else {
        place.free();
        return Err(DropReason::NeighborUnresolved);
    };
    let mut outcome = Err(DropReason::TupleClash);
    for attempt in 0..TRIES {
        if attempt > 0 {
            // Another source port makes the answers' key unique; the address is kept.
            let port = first.hash.rotate_left(attempt) as u32 % 64_512 + 1024;
            source.1 = port as u16;
        }
        let reply = reply(source, path, tuple.proto);
        let Some((forward, reverse)) = entries::<A, A>(snap, first.ingress, &tuple, &reply, path) else {
            break;
        };
        let expected = attempt == 0 && source.1 == order.answers.port;
        let answers = if expected { order.answers.hash } else { table.hash(&reverse.0) };
        let inserted = table.insert_pair(
            (&forward.0, &forward.1, &metas.0),
            (&reverse.0, &reverse.1, &metas.1),
            (order.hash, answers),
            Tick::of(order.now),
        );
        match inserted {
            Ok(entries) => {
                place.put(&Record {
                    entries,
                    is_v4: A::LEN == 4,
                    ingress: first.ingress,
                    server: path.server,
                    translated: claim.is_some(),
                    generation: snap.generation,
                    identities: path.identities,
                    denied: None,
                    track: Track::default(),
                    began: order.now,
                });
                claim.map(PortClaim::keep);
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

/// What answers to a connection by this path will probably look like; asks for the tags of their key.
pub fn expect<'s, A: Address>(
    table: &FlowTable<A>,
    state: &'s State,
    snap: &Snapshot,
    first: &First<A>,
    path: &Path<A>,
) -> Answers<'s> {
    let Tuple { src, sport: port, proto, .. } = first.tuple;
    let (address, port, pool) = match path.source {
        Source::Keep => (src, port, None),
        Source::Hairpin(address) => (address, port, None),
        Source::Egress(address) => {
            let pool = state.nat.pool(address, proto);
            (address, pool.likely(port), Some(pool))
        }
    };
    let key = FlowKey::reverse(&reply((address, port), path, proto), scope(snap, path.out.port()));
    Answers { port, pool, hash: key.map_or(0, |key| table.prefetch(&key)) }
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
    track.state(proto, (usage.0.packets, usage.1.packets), usage.0.plain)
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

/// What a session's entries are found by and how they rewrite packets, forward and reverse.
type Entries<A> = ((FlowKey<A>, Rewrite<A>), (FlowKey<A>, Rewrite<A>));

/// Compiles the entries of a session.
fn entries<A: Address, B: AnyAddress>(
    snap: &Snapshot,
    ingress: PortId,
    original: &Tuple<B>,
    reply: &Tuple<B>,
    path: &Path<B>,
) -> Option<Entries<A>> {
    let forward = (
        FlowKey::forward(original, scope(snap, ingress))?,
        Rewrite::new(original, &reply.reversed(), path.hops)?,
    );
    let reverse = (
        FlowKey::reverse(reply, scope(snap, path.out.port()))?,
        Rewrite::new(reply, &original.reversed(), path.hops)?,
    );
    Some((forward, reverse))
}

/// Where the packets of both directions go; `None` when there are too many next hops.
fn metas<A>(
    state: &State,
    snap: &Snapshot,
    path: &Path<A>,
    tally: u32,
    id: SessionId,
) -> Option<(Meta, Meta)> {
    let meta = |next: &Next, forward| {
        Some(Meta {
            adjacency: adjacency(state, next)?,
            hops: path.hops,
            switched: path.switched,
            denied: false,
            forward,
            generation: snap.generation,
            session: id,
            tally,
        })
    };
    Some((meta(&path.out, true)?, meta(&path.back, false)?))
}

/// What connections of this path are counted under.
pub fn tally_key<A>(path: &Path<A>) -> TallyKey {
    TallyKey { egress_rule: path.egress_rule, ingress_rule: path.ingress_rule, server: path.server }
}

/// What packets are counted under that a firewall rule denies.
pub fn denied_key(reason: DropReason, rule: RuleId) -> TallyKey {
    let egress = (reason == DropReason::EgressDenied).then_some(rule);
    let ingress = (reason == DropReason::IngressDenied).then_some(rule);
    TallyKey { egress_rule: egress, ingress_rule: ingress, server: None }
}

/// The scope of packets that come in by a port.
pub fn scope(snap: &Snapshot, port: PortId) -> Scope {
    if snap.row(port).is_uplink { Scope::UPLINKS } else { Scope::port(port) }
}

fn adjacency(state: &State, next: &Next) -> Option<u32> {
    let adjacency = match next {
        Next::Port(port) => Adjacency::Port(*port),
        Next::Neighbor(neighbor) => Adjacency::NextHop(state.neighbors.intern(neighbor)?),
    };
    Some(adjacency.number())
}

/// The tuple that answers will have.
fn reply<A: AnyAddress>((src, sport): (A, u16), path: &Path<A>, proto: Proto) -> Tuple<A> {
    let (dst, dport) = path.dst;
    Tuple { src, dst, sport, dport, proto }.reversed()
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
/// initiator's original packet and with the binding kept, and brings record and entries up to date.
pub fn judge_again(state: &State, snap: &Snapshot, place: &mut Place<'_>, record: &mut Record) -> Judged {
    let Some(session) = session(state, record) else { return Judged::Gone };
    let judged = judge(state, snap, &session, place.id(), record);
    if judged == Judged::Stands {
        record.generation = snap.generation;
        place.put(record);
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
            let moved = scope(snap, path.out.port()) != scope(snap, session.judgement.out);
            let reply = reply(session.binding.source, &path, session.original.proto);
            if moved || reply != session.reply {
                return Judged::Gone;
            }
            record.identities = path.identities;
            record.denied = None;
            let tally = state.tallies.intern(tally_key(&path));
            if record.is_v4 {
                rewrite(&state.v4, state, snap, (session, record), &path, tally, id)
            } else {
                rewrite(&state.v6, state, snap, (session, record), &path, tally, id)
            }
        }
        Err(Stop::Drop(DropReason::EgressDenied, rule)) => deny(state, snap, record, Denial::Egress, rule),
        Err(Stop::Drop(DropReason::IngressDenied, rule)) => deny(state, snap, record, Denial::Ingress, rule),
        Err(Stop::NoRoute(_) | Stop::Drop(DropReason::NoRoute, _)) => {
            deny(state, snap, record, Denial::NoRoute, None)
        }
        Err(_) => Judged::Gone,
    }
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

/// Looks at a session whose forward entry the sweep passes, and ends it if its time is up, or if its binding
/// is gone and no reset would tell. TCP connections without a binding wait for their next packet. `outside` is
/// [`outside_since`].
pub fn sweep<A: Address>(
    state: &State,
    snap: &Snapshot,
    outside: Generation,
    passed: &Passed<A>,
    now: Instant,
) {
    let proto = passed.key.proto();
    let silent = passed.last.until(Tick::of(now)) > state.config.timeouts.least().min(Tick::LONGEST);
    let mut stale = passed.meta.generation < snap.generation && proto != Proto::TCP;
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
    if !silent && !stale {
        return;
    }
    let mut place = state.sessions.lock(passed.meta.session);
    let Some(mut record) = place.get() else { return };
    if (record.entries.0, record.is_v4) != (passed.entry(), A::LEN == 4) {
        return;
    }
    let gone = stale
        && record.generation < snap.generation
        && judge_again(state, snap, &mut place, &mut record) == Judged::Gone;
    if gone || (silent && is_expired(state, &record, proto, now)) {
        end(state, &mut place);
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
    state: &State,
    snap: &Snapshot,
    (session, record): (&Session, &Record),
    path: &Path,
    tally: u32,
    id: SessionId,
) -> Judged {
    let compiled = entries(snap, session.ingress, &session.original, &session.reply, path);
    let metas = metas(state, snap, path, tally, id);
    let (Some((forward, reverse)), Some(metas)) = (compiled, metas) else { return Judged::Gone };
    table.update(record.entries.0, &forward.1, &metas.0);
    table.update(record.entries.1, &reverse.1, &metas.1);
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

/// Ends the session of a place, if there is one: takes out its entries, gives back what it claimed and the
/// place.
pub fn end(state: &State, place: &mut Place<'_>) {
    let Some(record) = place.get() else { return };
    if record.is_v4 {
        end_in(&state.v4, state, &record)
    } else {
        end_in(&state.v6, state, &record)
    }
    place.free();
}

fn end_in<A: Address>(table: &FlowTable<A>, state: &State, record: &Record) {
    let reply = table.key(record.entries.1).tuple();
    table.remove_pair(record.entries);
    // Last, so that whoever claims the port finds the answers' key free.
    if record.translated {
        state.nat.pool(reply.dst, reply.proto).give_back(reply.dport);
    }
}
