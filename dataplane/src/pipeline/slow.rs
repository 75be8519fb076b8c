//! The slow path: everything that is not a plain hit.
//!
//! A packet of a known session is handled with the session's record locked: judged again if a newer snapshot
//! asks for it, its flags noted, forwarded by the same rewrite as a hit. A packet of no session walks the
//! stages; if they let it pass, its session is committed and it goes on as a packet of that session.

use super::{
    Arrival, Family, Output, Pipeline, admit,
    ahead::{Asked, Opening, Prepared},
    answers::{bottleneck, expired_at},
    changes_state,
    fast::World,
    has_session,
};
use crate::{
    buf::Frame,
    flow::{Direction, FlowKey, Found, Opened, Tick},
    id::{Generation, PortId},
    rewrite::Tuple,
    snapshot::{Hop, PortRole, Snapshot},
    stage::{
        self, First, Stop,
        commit::{self, Committed},
        judge::{self, Judged},
        log::Why,
        plan::{self, Plan},
        quota, segment, spoof_guard,
    },
    state::State,
    time::Instant,
    verdict::DropReason,
    wire::{
        L3, Packet, Part, Proto, checksum,
        tcp::{self, Segment},
        tcp_flags,
    },
};
use std::cmp::Ordering;

/// How often a packet looks for its session when others make and end it at the same time.
const TRIES: usize = 4;

/// What came of a packet that found an entry.
enum Known {
    /// It is finished.
    Done,
    /// The session ended meanwhile: the packet belongs to none.
    Ended(Arrival),
    /// It goes no further.
    Stopped(Arrival, Stop),
}

impl Pipeline {
    /// Finishes a frame that the fast path did not. It may have been looked at ahead.
    #[inline(never)]
    pub(super) fn slow(
        &mut self,
        world: &World,
        frame: Frame,
        port: PortId,
        prepared: Option<&Prepared<'_>>,
        now: Instant,
        out: &mut Output,
    ) {
        self.logs.set_now(now);
        let admitted = prepared.map(|p| p.packet).unwrap_or_else(|| admit(&self.snapshot, port, &frame));
        let packet = match admitted {
            Ok(packet) => packet,
            Err(reason) => return self.drop_frame(port, reason, frame),
        };
        let asked = prepared.map_or(&Asked::Nothing, |p| &p.asked);
        let arrival = Arrival { frame, packet, port };
        if packet.is_fragment() {
            self.fragment(world, arrival, now, out);
        } else {
            self.whole(world, arrival, asked, now, out);
        }
    }

    /// Finishes a frame whose ports are known.
    pub(super) fn whole(
        &mut self,
        world: &World,
        arrival: Arrival,
        asked: &Asked<'_>,
        now: Instant,
        out: &mut Output,
    ) {
        if segment::is_local(&arrival.packet) {
            return self.local(arrival, now, out);
        }
        let is_error = arrival.packet.is_icmp_error();
        match arrival.packet.l3 {
            L3::V4 if is_error => self.related::<u32>(world, arrival, out),
            L3::V6 if is_error => self.related::<u128>(world, arrival, out),
            L3::V4 => self.routed(world, arrival, u32::opening(asked), now, out),
            L3::V6 => self.routed(world, arrival, u128::opening(asked), now, out),
            L3::Arp | L3::Other => {
                self.drop_frame(arrival.port, DropReason::UnsupportedProtocol, arrival.frame);
            }
        }
    }

    fn routed<A: Family>(
        &mut self,
        world: &World,
        mut arrival: Arrival,
        mut opening: Option<&Opening<'_, A>>,
        now: Instant,
        out: &mut Output,
    ) {
        let state = &*world.state;
        let Some(tuple) = Tuple::of(&arrival.packet).to::<A>() else {
            return self.drop_frame(arrival.port, DropReason::Malformed, arrival.frame);
        };
        let scope = plan::scope(&self.snapshot, arrival.port);
        let key = |packet: &Packet| FlowKey::<A>::of(packet, scope).filter(|_| has_session(packet));
        for _ in 0..TRIES {
            // What was asked ahead may open the connection, which finds out whether another packet has done so
            // since; but it may not refuse a packet that has a session by now.
            if opening.is_none_or(Result::is_err)
                && let Some(found) = key(&arrival.packet).and_then(|key| A::table(state).find(&key))
            {
                match self.hit(world, arrival, &found, now, out) {
                    Some(back) => arrival = back,
                    None => return,
                }
                match self.known(world, arrival, &found, now, out) {
                    Known::Done => return,
                    Known::Ended(back) => arrival = back,
                    Known::Stopped(back, stop) => return self.stop(back, stop, now, out),
                }
                opening = None;
                continue;
            }
            let asked;
            let ahead = opening.is_some();
            let opening = match opening.take() {
                Some(opening) => opening,
                None => {
                    let hash = key(&arrival.packet).map_or(0, |key| A::table(state).hash(&key));
                    asked = self.ask_stages(state, (&arrival.packet, tuple), arrival.port, hash);
                    &asked
                }
            };
            let committed = match opening {
                Ok(plan) => self.commit(plan, now),
                Err(stop) => Err(*stop),
            };
            match committed {
                Ok(Committed::New(found)) => {
                    if self.snapshot.has_staged {
                        self.ask_staged(&arrival, tuple, now);
                    }
                    return self.opened(world, arrival, &found, now, out);
                }
                Ok(Committed::Lost) => {}
                // What ran out, a packet needs no more that another has opened the connection for since.
                Err(_) if ahead && opening.is_ok() => {}
                Err(stop) => {
                    if let (Ok(plan), Stop::Drop(reason, _)) = (opening, &stop) {
                        quota::refuse(state, &self.snapshot, plan, *reason);
                    }
                    // Later fragments are of a packet that was counted.
                    let is_first = arrival.packet.part != Part::Later;
                    if self.snapshot.has_staged && stop.rule().is_some() && is_first {
                        self.ask_staged(&arrival, tuple, now);
                    }
                    if !self.logs.is_off() {
                        self.log_denied(&arrival, tuple, &stop);
                    }
                    return self.stop(arrival, stop, now, out);
                }
            }
        }
        self.drop_frame(arrival.port, DropReason::SessionTableFull, arrival.frame);
    }

    /// Forwards a frame by its entry, or gives it back: a hit by a packet that is not plain, as an echo is.
    fn hit<A: Family>(
        &self,
        world: &World,
        mut arrival: Arrival,
        found: &Found<A>,
        now: Instant,
        out: &mut Output,
    ) -> Option<Arrival> {
        let (packet, meta) = (&arrival.packet, &found.meta);
        let usable = self.state.config.cache
            && meta.generation == self.snapshot.generation
            && meta.generation != Generation::default()
            && !meta.denied
            && !meta.opening
            && !(packet.proto == Proto::TCP && self.state.windows.is_some())
            && !packet.options
            && !packet.is_fragment()
            && packet.ttl > meta.hops
            && !changes_state(packet);
        let hop = if usable { self.resolve(&world.hops, meta.adjacency).ok() } else { None };
        let fits = |hop: &Hop| packet.largest <= hop.mtu && self.addressed(&arrival, hop);
        let Some(hop) = hop.filter(fits) else { return Some(arrival) };
        found.rewrite.apply(arrival.frame.bytes_mut(), packet, meta.hops);
        A::table(&self.state).touch(found.entry, Tick::of(now), arrival.frame.len());
        self.counters.hits.add(1);
        self.forward(arrival, meta, &hop, out);
        None
    }

    /// A packet of a session.
    #[inline(never)]
    fn known<A: Family>(
        &self,
        world: &World,
        arrival: Arrival,
        found: &Found<A>,
        now: Instant,
        out: &mut Output,
    ) -> Known {
        // Its receiver takes no notice of a damaged segment, so the connection goes on whatever the segment says.
        let noted = changes_state(&arrival.packet)
            || (arrival.packet.proto == Proto::TCP && self.state.windows.is_some());
        if noted && is_damaged(&arrival) {
            self.drop_frame(arrival.port, DropReason::BadChecksum, arrival.frame);
            return Known::Done;
        }
        let state = &*self.state;
        let mut place = state.sessions.lock(found.meta.session);
        let Some(mut record) = place.get().filter(|r| r.is_v4 == (A::LEN == 4)) else {
            return Known::Ended(arrival);
        };
        let direction = match record.entries {
            (forward, _) if forward == found.entry => Direction::Forward,
            (_, reverse) if reverse == found.entry => Direction::Reverse,
            _ => return Known::Ended(arrival),
        };
        let packet = arrival.packet;

        let syn = packet.proto == Proto::TCP && opens(&packet);
        if syn && record.track.is_over() {
            // The ports of a connection that is over may be used again at once, by either side, and as a connection
            // of its own: what let this one in need not let in one the other way.
            commit::end(state, &mut place, &self.logs, Why::Over);
            return Known::Ended(arrival);
        }
        let anew = syn && direction == Direction::Forward;
        let stale = match record.generation.cmp(&self.snapshot.generation) {
            Ordering::Less => true,
            Ordering::Equal => !state.config.cache,
            // A worker that has not picked up the newest snapshot yet does not overrule one that has.
            Ordering::Greater => false,
        };
        if stale
            && judge::judge_again(state, &self.snapshot, &mut place, &mut record, &self.logs) == Judged::Gone
        {
            if packet.proto == Proto::TCP && packet.is_fragment() {
                // Its numbers are not all there: the next whole packet tells both sides.
                self.drop_frame(arrival.port, DropReason::BindingGone, arrival.frame);
                return Known::Done;
            }
            let rewrite = found.rewrite;
            let way = self.resolve(&world.hops, found.meta.adjacency).ok();
            commit::end(state, &mut place, &self.logs, Why::Gone);
            // A SYN that is sent again may as well reach a new member.
            if packet.proto != Proto::TCP || anew {
                return Known::Ended(arrival);
            }
            drop(place);
            self.reset_both(&arrival, &rewrite, way, out);
            self.drop_frame(arrival.port, DropReason::BindingGone, arrival.frame);
            return Known::Done;
        }
        // Judging may have changed the entry.
        let table = A::table(state);
        let scope = plan::scope(&self.snapshot, arrival.port);
        let found = FlowKey::of(&packet, scope).and_then(|key| table.find(&key)).unwrap_or(*found);
        if let Some(denial) = record.denied {
            self.count_denied_again(found.meta.tally);
            self.drop_frame(arrival.port, denial.reason(), arrival.frame);
            return Known::Done;
        }
        let way = match self.way_of(world, &arrival, &found) {
            Ok(way) => way,
            Err(stop) => return Known::Stopped(arrival, stop),
        };
        if packet.proto == Proto::TCP && packet.part != Part::Later {
            let before = record.track;
            if let Some(windows) = &state.windows {
                let segment = Segment::read(arrival.frame.bytes(), &packet);
                if !windows.pass(place.id(), direction, &segment, before.is_answered()) {
                    self.drop_frame(arrival.port, DropReason::OutOfWindow, arrival.frame);
                    return Known::Done;
                }
            }
            record.track.see(direction, packet.tcp_flags);
            if record.track != before {
                place.put(&record);
            }
            if before.is_half_open() && !record.track.is_half_open() {
                table.opened(record.entries.0);
                let adjacency = table.meta(record.entries.0).adjacency;
                state.half_open.close(commit::half_open_ends(record.ingress, adjacency));
                if let Some(port) = quota::paying_port(&record, adjacency) {
                    state.quotas.establish(port);
                }
            }
        }
        let mut arrival = arrival;
        found.rewrite.apply(arrival.frame.bytes_mut(), &packet, found.meta.hops);
        self.clamp_mss(&mut arrival, &way);
        table.touch(found.entry, Tick::of(now), arrival.frame.len());
        self.forward(arrival, &found.meta, &way, out);
        Known::Done
    }

    /// The way of a packet of a session, if it can go there.
    fn way_of<A: Family>(&self, world: &World, arrival: &Arrival, found: &Found<A>) -> Result<Hop, Stop> {
        let packet = &arrival.packet;
        let way = self.resolve(&world.hops, found.meta.adjacency)?;
        if packet.ttl <= found.meta.hops {
            return Err(Stop::TimeExceeded(expired_at(&self.snapshot, arrival.port, way.port, packet)));
        }
        if packet.largest > way.mtu && !packet.may_cut {
            return Err(Stop::TooBig(bottleneck(&self.snapshot, arrival.port, way.port, packet), way.mtu));
        }
        if !self.addressed(arrival, &way) {
            return Err(DropReason::UnknownMac.into());
        }
        if found.rewrite.can_apply(packet) { Ok(way) } else { Err(DropReason::Fragment.into()) }
    }

    /// Has a SYN offer no larger segments than fit both its ports, if that is wanted.
    fn clamp_mss(&self, arrival: &mut Arrival, way: &Hop) {
        let Arrival { frame, packet, port } = arrival;
        if packet.tcp_flags & tcp_flags::SYN == 0 || !self.snapshot.clamp_mss {
            return;
        }
        let mtu = self.snapshot.port(*port).map_or(way.mtu, |p| p.mtu.min(way.mtu));
        let headers = if packet.l3 == L3::V4 { 40 } else { 60 };
        tcp::clamp_mss(frame.bytes_mut(), packet, mtu.saturating_sub(headers));
    }

    /// Takes a packet of no session through the stages. Changes nothing that packets can tell.
    pub(super) fn ask_stages<'s, A: Family>(
        &self,
        state: &'s State,
        (packet, tuple): (&Packet, Tuple<A>),
        port: PortId,
        hash: u64,
    ) -> Opening<'s, A> {
        let snap = &*self.snapshot;
        let first = self.first(state, (packet, tuple), port);
        if let Some(reason) = refusal(snap, packet) {
            return Err(forged(snap, port, packet).unwrap_or(reason).into());
        }
        let path = stage::walk(snap, &first, None, &mut ())?;
        // Later fragments open nothing.
        if packet.part == Part::Later {
            return Err(DropReason::Fragment.into());
        }
        let to = path.out.port();
        let mtu = snap.port(to).map_or(0, |p| p.mtu);
        if packet.largest > mtu && !packet.may_cut {
            return Err(Stop::TooBig(bottleneck(snap, port, to, packet), mtu));
        }
        let plan = Plan::new(A::table(state), state, snap, &first, &path, hash);
        Ok(plan.ok_or(DropReason::NeighborUnresolved)?)
    }

    /// What the stages are to know of a packet.
    pub(super) fn first<A: Family>(
        &self,
        state: &State,
        (packet, tuple): (&Packet, Tuple<A>),
        port: PortId,
    ) -> First<A> {
        First {
            ingress: port,
            tuple,
            ttl: packet.ttl,
            dst_mac: packet.dst_mac,
            hash: tuple.flow_hash(state.config.seed),
            echo: packet.is_echo_request(),
        }
    }

    /// Makes the session that the stages agreed to.
    fn commit<A: Family>(&mut self, plan: &Plan<'_, A>, now: Instant) -> Result<Committed<A>, Stop> {
        let mut has_made_room = false;
        let (committed, hint) = loop {
            let (table, at) = (A::table(&self.state), (self.hint, &self.logs));
            match commit::commit(table, &self.state, &self.snapshot, plan, at, now) {
                Err(DropReason::SessionTableFull)
                    if !has_made_room && self.end_oldest_half_open(None, None) =>
                {
                    has_made_room = true;
                }
                committed => break committed?,
            }
        };
        self.hint = hint;
        if let Committed::New(found) = &committed {
            self.counters.tallies.at(plan.course.tally as usize).connections.add(1);
            if let Some(watch) = &self.watch {
                watch.opened();
            }
            if found.meta.opening {
                let new = Opened { id: found.meta.session, entry: found.entry };
                self.limit_half_open(new, commit::half_open_ends(plan.ingress, found.meta.adjacency));
            }
        }
        Ok(committed)
    }

    /// Sends the packet on that opened a session.
    fn opened<A: Family>(
        &self,
        world: &World,
        arrival: Arrival,
        found: &Found<A>,
        now: Instant,
        out: &mut Output,
    ) {
        let mut arrival = arrival;
        let Arrival { frame, packet, .. } = &mut arrival;
        if let Some(windows) = self.state.windows.as_ref().filter(|_| packet.proto == Proto::TCP) {
            let place = self.state.sessions.lock(found.meta.session);
            if place.get().is_some_and(|record| record.entries.0 == found.entry) {
                let segment = Segment::read(frame.bytes(), packet);
                // Nothing is known of it yet, so this passes.
                windows.pass(place.id(), Direction::Forward, &segment, false);
            }
        }
        match self.resolve(&world.hops, found.meta.adjacency) {
            Ok(_) if !found.rewrite.can_apply(packet) => {
                self.drop_frame(arrival.port, DropReason::Fragment, arrival.frame);
            }
            Ok(hop) => {
                A::table(&self.state).touch(found.entry, Tick::of(now), frame.len());
                if matches!(packet.proto, Proto::TCP | Proto::UDP) && !packet.options {
                    A::edit(frame.header_mut(), &found.rewrite, found.meta.hops);
                } else {
                    found.rewrite.apply(frame.bytes_mut(), packet, found.meta.hops);
                }
                self.clamp_mss(&mut arrival, &hop);
                self.forward(arrival, &found.meta, &hop, out);
            }
            Err(reason) => self.drop_frame(arrival.port, reason, arrival.frame),
        }
    }

    /// Passes over the next `count` buckets of both tables, of either in turn, and ends sessions whose time is up
    /// or whose binding is gone. All workers move on together.
    pub fn sweep(&mut self, count: usize, now: Instant) {
        self.logs.set_now(now);
        let (state, snap) = (&*self.state, &*self.snapshot);
        let against = (snap, judge::outside_since(snap));
        // They are of one size, as each has room for all sessions.
        debug_assert_eq!(state.v4.buckets(), state.v6.buckets());
        for at in state.sweep.next(count, 2 * state.v4.buckets()) {
            let bucket = at / 2;
            if at.is_multiple_of(2) {
                state.v4.prefetch_bucket(bucket + 1);
                judge::sweep(&state.v4, state, against, bucket, &self.logs, now);
            } else {
                state.v6.prefetch_bucket(bucket + 1);
                judge::sweep(&state.v6, state, against, bucket, &self.logs, now);
            }
        }
    }
}

/// Whether a packet may open a connection.
pub(super) fn opens(p: &Packet) -> bool {
    let flags = tcp_flags::SYN | tcp_flags::ACK | tcp_flags::FIN | tcp_flags::RST;
    p.proto != Proto::TCP || p.tcp_flags & flags == tcp_flags::SYN
}

/// Whether the checksum of a TCP segment is wrong. Options may change what it is of (a source route does), and a
/// fragment has not all of it; one that is not computed yet cannot be wrong.
fn is_damaged(arrival: &Arrival) -> bool {
    let Arrival { frame, packet, .. } = arrival;
    let segment = &frame.bytes()[packet.l4()..usize::from(packet.end)];
    !packet.options
        && !packet.is_fragment()
        && frame.offload().is_none()
        && checksum::transport(packet.src, packet.dst, packet.proto, segment) != 0
}

/// Whether a packet that would be refused anyway has not even an address of its port.
fn forged(snap: &Snapshot, port: PortId, packet: &Packet) -> Option<DropReason> {
    match snap.port(port).map(|p| &p.role) {
        Some(PortRole::Endpoint(from)) => spoof_guard::address(from, packet.src).err(),
        _ => None,
    }
}

/// Why a packet that belongs to no session can open none.
pub(super) fn refusal(snap: &Snapshot, p: &Packet) -> Option<DropReason> {
    // Later fragments follow their first: the stages tell why that was stopped, or how it was answered.
    if p.part == Part::Later && has_session(p) {
        return None;
    }
    let no_session = || {
        let to_egress = snap.egress.contains_key(&p.dst);
        if to_egress { DropReason::NoNatSession } else { DropReason::NoSession }
    };
    match p.proto {
        Proto::TCP if opens(p) => None,
        Proto::UDP | Proto::SCTP => None,
        Proto::TCP => Some(no_session()),
        Proto::ICMP | Proto::ICMPV6 if p.is_echo_request() => None,
        Proto::ICMP | Proto::ICMPV6 if p.is_echo_reply() => Some(no_session()),
        Proto::ICMP | Proto::ICMPV6 if p.is_icmp_error() => Some(DropReason::IcmpUnrelated),
        Proto::ICMP | Proto::ICMPV6 => Some(DropReason::IcmpUnhandled),
        _ => Some(DropReason::UnsupportedProtocol),
    }
}
