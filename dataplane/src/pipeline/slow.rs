//! The slow path: everything that is not a plain hit.
//!
//! A packet of a known session is handled with the session's record locked: judged again if a newer snapshot
//! asks for it, its flags noted, forwarded by the same rewrite as a hit. A packet of no session walks the
//! stages; if they let it pass, its session is committed and it goes on as a packet of that session.

use super::{
    Arrival, Family, Output, Pipeline, admit,
    ahead::{Asked, Opening, Prepared},
    changes_state,
    fast::World,
    has_session,
};
use crate::{
    buf::Frame,
    flow::{Direction, FlowKey, Found, Tick},
    id::{Generation, PortId, RuleId},
    rewrite::{Rewrite, Tuple},
    snapshot::{GATEWAY_MAC, Hop, PortRole, Snapshot, mac_of},
    stage::{
        self, First, Stop,
        commit::{self, Committed},
        judge::{self, Judged},
        plan::{self, Plan},
        router, segment, spoof_guard, tier0,
    },
    state::State,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{L3, Mac, Packet, Proto, icmp, tcp, tcp_flags},
};
use std::{cmp::Ordering, net::IpAddr};

/// How often a packet looks for its session when others make and end it at the same time.
const TRIES: usize = 4;

/// What came of a packet that found an entry.
enum Known {
    /// It is finished.
    Done,
    /// The session ended meanwhile: the packet belongs to none.
    Ended(Arrival),
    /// Its TTL ends at this router.
    Expired(Arrival, IpAddr),
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
        let admitted =
            prepared.map(|p| p.packet).unwrap_or_else(|| admit(&self.snapshot, port, frame.bytes()));
        let packet = match admitted {
            Ok(packet) => packet,
            Err(reason) => return self.drop_frame(port, reason, frame),
        };
        let asked = prepared.map_or(&Asked::Nothing, |p| &p.asked);
        let arrival = Arrival { frame, packet, port };
        if segment::is_local(&arrival.packet) {
            return self.local(arrival, now, out);
        }
        match arrival.packet.l3 {
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
                    Known::Expired(back, router) => {
                        return self.stop(back, Stop::TimeExceeded(router), now, out);
                    }
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
                Ok(Committed::New(found)) => return self.opened(world, arrival, &found, now, out),
                Ok(Committed::Lost) => {}
                // What ran out, a packet needs no more that another has opened the connection for since.
                Err(_) if ahead && opening.is_ok() => {}
                Err(stop) => return self.stop(arrival, stop, now, out),
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
            && !packet.options
            && packet.ttl > meta.hops
            && !changes_state(packet);
        let hop = if usable { self.resolve(&world.hops, meta.adjacency).ok() } else { None };
        let fits = |hop: &Hop| packet.ip_len() <= usize::from(hop.mtu) && self.addressed(&arrival, hop);
        let Some(hop) = hop.filter(fits) else { return Some(arrival) };
        found.rewrite.apply(arrival.frame.bytes_mut(), packet, meta.hops);
        A::table(&self.state).touch(found.entry, Tick::of(now), true, arrival.frame.len());
        self.counters.hits.add(1);
        self.forward(arrival.frame, meta, &hop, out);
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

        let anew = packet.proto == Proto::TCP && opens(&packet) && direction == Direction::Forward;
        if anew && record.track.is_over() {
            // The ports of a connection that is over may be used again at once.
            commit::end(state, &mut place);
            return Known::Ended(arrival);
        }
        let stale = match record.generation.cmp(&self.snapshot.generation) {
            Ordering::Less => true,
            Ordering::Equal => !state.config.cache,
            // A worker that has not picked up the newest snapshot yet does not overrule one that has.
            Ordering::Greater => false,
        };
        if stale && judge::judge_again(state, &self.snapshot, &mut place, &mut record) == Judged::Gone {
            let rewrite = found.rewrite;
            let way = self.resolve(&world.hops, found.meta.adjacency).ok();
            commit::end(state, &mut place);
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
            self.counters.tallies.at(found.meta.tally as usize).denied.add(1);
            self.drop_frame(arrival.port, denial.reason(), arrival.frame);
            return Known::Done;
        }
        let way = match self.resolve(&world.hops, found.meta.adjacency) {
            Ok(way) => way,
            Err(reason) => {
                self.drop_frame(arrival.port, reason, arrival.frame);
                return Known::Done;
            }
        };
        if packet.ttl <= found.meta.hops {
            let router = expired_at(&self.snapshot, arrival.port, way.port, &packet);
            drop(place);
            return Known::Expired(arrival, router);
        }
        let refused = if packet.ip_len() > usize::from(way.mtu) {
            Some(DropReason::TooBig)
        } else if !self.addressed(&arrival, &way) {
            Some(DropReason::UnknownMac)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.drop_frame(arrival.port, reason, arrival.frame);
            return Known::Done;
        }
        if packet.proto == Proto::TCP {
            let before = record.track;
            record.track.see(direction, packet.tcp_flags);
            if record.track != before {
                place.put(&record);
            }
        }
        let mut frame = arrival.frame;
        found.rewrite.apply(frame.bytes_mut(), &packet, found.meta.hops);
        table.touch(found.entry, Tick::of(now), !changes_state(&packet), frame.len());
        self.forward(frame, &found.meta, &way, out);
        Known::Done
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
        let first = First {
            ingress: port,
            tuple,
            ttl: packet.ttl,
            dst_mac: packet.dst_mac,
            hash: tuple.flow_hash(state.config.seed),
            echo: packet.is_echo_request(),
        };
        if let Some(reason) = refusal(snap, packet) {
            return Err(forged(snap, port, packet).unwrap_or(reason).into());
        }
        let path = stage::walk(snap, &first, None, &mut ())?;
        let mtu = snap.port(path.out.port()).map_or(0, |p| p.mtu);
        if packet.ip_len() > usize::from(mtu) {
            return Err(DropReason::TooBig.into());
        }
        let plan = Plan::new(A::table(state), state, snap, &first, &path, hash);
        Ok(plan.ok_or(DropReason::NeighborUnresolved)?)
    }

    /// Makes the session that the stages agreed to.
    fn commit<A: Family>(&mut self, plan: &Plan<'_, A>, now: Instant) -> Result<Committed<A>, Stop> {
        let generation = self.snapshot.generation;
        let (committed, hint) =
            commit::commit(A::table(&self.state), &self.state, generation, plan, self.hint, now)?;
        self.hint = hint;
        if let Committed::New(_) = committed {
            self.counters.tallies.at(plan.course.tally as usize).connections.add(1);
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
        let Arrival { mut frame, packet, port } = arrival;
        A::table(&self.state).touch(found.entry, Tick::of(now), !changes_state(&packet), frame.len());
        match self.resolve(&world.hops, found.meta.adjacency) {
            Ok(hop) => {
                if matches!(packet.proto, Proto::TCP | Proto::UDP) && !packet.options {
                    A::edit(frame.header_mut(), &found.rewrite, found.meta.hops);
                } else {
                    found.rewrite.apply(frame.bytes_mut(), &packet, found.meta.hops);
                }
                self.forward(frame, &found.meta, &hop, out);
            }
            Err(reason) => self.drop_frame(port, reason, frame),
        }
    }

    /// A packet went no further than this.
    #[inline(never)]
    pub(super) fn stop(&mut self, arrival: Arrival, stop: Stop, now: Instant, out: &mut Output) {
        match stop {
            Stop::EchoReply => {
                let Arrival { mut frame, packet, port } = arrival;
                icmp::echo_reply_in_place(frame.bytes_mut(), &packet);
                return out.push(port, frame);
            }
            Stop::Drop(reason, rule) => self.count_denied(reason, rule),
            Stop::Refuse(_) if arrival.packet.proto == Proto::TCP => self.reset_sender(&arrival, now, out),
            Stop::Refuse(_) => {
                let from = arrival.packet.dst;
                self.icmp_error(icmp::Error::PortUnreachable, from, &arrival, now, out);
            }
            Stop::NoRoute(from) => self.icmp_error(icmp::Error::NoRoute, from, &arrival, now, out),
            Stop::TimeExceeded(from) => self.icmp_error(icmp::Error::TimeExceeded, from, &arrival, now, out),
        }
        if let Some(reason) = stop.reason() {
            self.drop_frame(arrival.port, reason, arrival.frame);
        }
    }

    pub(super) fn count_denied(&self, reason: DropReason, rule: Option<RuleId>) {
        if let Some(rule) = rule {
            let tally = self.state.tallies.intern(judge::denied_key(reason, rule));
            self.counters.tallies.at(tally as usize).denied.add(1);
        }
    }

    /// Sends an ICMP error about a packet back to where it came from.
    fn icmp_error(
        &mut self,
        error: icmp::Error,
        from: IpAddr,
        about: &Arrival,
        now: Instant,
        out: &mut Output,
    ) {
        let packet = &about.packet;
        // Errors and replies are never answered (RFC 1122, 3.2.2); others reach the stages only unfragmented.
        let answerable = !packet.is_icmp_error() && !packet.fragment && !from.is_unspecified();
        let macs = (self.own_mac(about.port), packet.src_mac);
        let write = |out: &mut [u8]| icmp::error(error, about.frame.bytes(), packet, from, macs, out);
        if answerable {
            self.generate(about.port, now, out, write);
        }
    }

    /// The ends of a reset that answers a segment.
    fn answering(&self, about: &Arrival) -> tcp::Ends {
        let p = &about.packet;
        tcp::Ends {
            from: (p.dst, p.dport),
            to: (p.src, p.sport),
            macs: (self.own_mac(about.port), p.src_mac),
        }
    }

    fn reset_sender(&mut self, about: &Arrival, now: Instant, out: &mut Output) {
        let (ends, frame, packet) = (self.answering(about), about.frame.bytes(), &about.packet);
        self.generate(about.port, now, out, |out| tcp::reset_answer(frame, packet, &ends, out));
    }

    /// Ends a connection for both sides, from one packet of it. There is one such packet a session and no other
    /// chance to tell them, so no budget limits it.
    fn reset_both<A: Family>(
        &self,
        about: &Arrival,
        rewrite: &Rewrite<A>,
        way: Option<Hop>,
        out: &mut Output,
    ) {
        let (ends, frame, packet) = (self.answering(about), about.frame.bytes(), &about.packet);
        self.emit(about.port, out, |out| tcp::reset_answer(frame, packet, &ends, out));
        if let Some(way) = way {
            let ends = tcp::Ends {
                from: (rewrite.src.ip(), rewrite.sport),
                to: (rewrite.dst.ip(), rewrite.dport),
                macs: (mac_of(way.src_mac()), mac_of(way.dst_mac())),
            };
            self.emit(way.port, out, |out| tcp::reset_onward(frame, packet, &ends, out));
        }
    }

    /// Sends a frame of the network's own, if the budget and the pool allow it.
    fn generate(
        &mut self,
        port: PortId,
        now: Instant,
        out: &mut Output,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        if self.errors.take(now) {
            self.emit(port, out, write);
        }
    }

    fn emit(&self, port: PortId, out: &mut Output, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let Some(mut frame) = self.pool.take() else { return };
        frame.set_len(crate::buf::FRAME_CAPACITY);
        let Some(len) = write(frame.bytes_mut()) else { return };
        frame.set_len(len);
        self.counters.generated.add(1);
        out.push(port, frame);
    }

    /// The MAC the network has on a port.
    fn own_mac(&self, port: PortId) -> Mac {
        match self.snapshot.port(port) {
            Some(entry) if matches!(entry.role, PortRole::Uplink(_)) => entry.mac,
            _ => GATEWAY_MAC,
        }
    }

    /// Passes over the next `count` buckets of both tables, of either in turn, and ends sessions whose time is up
    /// or whose binding is gone. All workers move on together.
    pub fn sweep(&mut self, count: usize, now: Instant) {
        let (state, snap) = (&*self.state, &*self.snapshot);
        let outside = judge::outside_since(snap);
        // They are of one size, as each has room for all sessions.
        debug_assert_eq!(state.v4.buckets(), state.v6.buckets());
        for at in state.sweep.next(count, 2 * state.v4.buckets()) {
            let bucket = at / 2;
            if at.is_multiple_of(2) {
                state.v4.prefetch_bucket(bucket + 1);
                judge::sweep(&state.v4, state, snap, outside, bucket, now);
            } else {
                state.v6.prefetch_bucket(bucket + 1);
                judge::sweep(&state.v6, state, snap, outside, bucket, now);
            }
        }
    }
}

/// Whether a packet may open a connection.
pub(super) fn opens(p: &Packet) -> bool {
    let flags = tcp_flags::SYN | tcp_flags::ACK | tcp_flags::FIN | tcp_flags::RST;
    p.proto != Proto::TCP || p.tcp_flags & flags == tcp_flags::SYN
}

/// Whether a packet that would be refused anyway has not even an address of its port.
fn forged(snap: &Snapshot, port: PortId, packet: &Packet) -> Option<DropReason> {
    match snap.port(port).map(|p| &p.role) {
        Some(PortRole::Endpoint(from)) => spoof_guard::address(from, packet.src).err(),
        _ => None,
    }
}

/// Why a packet that belongs to no session can open none.
fn refusal(snap: &Snapshot, p: &Packet) -> Option<DropReason> {
    if p.fragment {
        return Some(DropReason::Fragment);
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
        Proto::ICMP | Proto::ICMPV6 if p.is_icmp_error() => Some(DropReason::IcmpError),
        Proto::ICMP | Proto::ICMPV6 => Some(DropReason::IcmpUnhandled),
        _ => Some(DropReason::UnsupportedProtocol),
    }
}

/// The router at which the TTL of a session's packet ends.
fn expired_at(snap: &Snapshot, from: PortId, to: PortId, packet: &Packet) -> IpAddr {
    let gateway = |port| match snap.port(port).map(|p| &p.role) {
        Some(PortRole::Endpoint(e)) => router::gateway(snap, e, packet.dst),
        _ => tier0::address(snap, packet.dst),
    };
    let is_endpoint = |port| matches!(snap.port(port).map(|p| &p.role), Some(PortRole::Endpoint(_)));
    match packet.ttl {
        0 | 1 => gateway(from),
        2 if is_endpoint(from) => tier0::address(snap, packet.dst),
        _ => gateway(to),
    }
}

/// A token bucket for ICMP errors and resets, full at the start.
pub(super) struct ErrorBudget {
    per_second: u64,
    /// Millionths of a frame.
    tokens: u64,
    filled: Instant,
}

impl ErrorBudget {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, tokens: per_second * 1_000_000, filled: Instant::ZERO }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.since(self.filled).min(Duration::from_secs(1)).as_micros() as u64;
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second * 1_000_000);
        if self.tokens < 1_000_000 {
            return false;
        }
        self.tokens -= 1_000_000;
        true
    }
}
