//! The slow path: everything that is not a plain hit.
//!
//! A packet of a known session is handled with the session's record locked: judged again if a newer snapshot
//! asks for it, its flags noted, forwarded by the same rewrite as a hit. A packet of no session walks the
//! stages; if they let it pass, its session is committed and it goes on as a packet of that session.

use super::{Arrival, Hop, Output, Pipeline, Tables, has_session};
use crate::{
    counters::TallyKey,
    flow::{Direction, FlowKey, Found, Tick},
    id::{PortId, RuleId},
    rewrite::{Rewrite, Tuple},
    snapshot::{GATEWAY_MAC, PortRole, Snapshot},
    stage::{
        self, First, Stop,
        commit::{self, Committed, Judged},
        router, segment, spoof_guard, tier0,
    },
    state::State,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{Address, L3, Mac, Packet, Proto, icmp, tcp, tcp_flags},
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
}

impl Pipeline {
    /// Finishes a frame that was no hit.
    pub(super) fn slow(&mut self, arrival: Arrival, now: Instant, out: &mut Output) {
        if segment::is_local(&arrival.packet) {
            return self.local(arrival, now, out);
        }
        match arrival.packet.l3 {
            L3::V4 => self.routed::<u32>(arrival, now, out),
            L3::V6 => self.routed::<u128>(arrival, now, out),
            L3::Arp | L3::Other => {
                self.drop_frame(arrival.port, DropReason::UnsupportedProtocol, arrival.frame);
            }
        }
    }

    fn routed<A: Address>(&mut self, mut arrival: Arrival, now: Instant, out: &mut Output)
    where
        State: Tables<A>,
    {
        let scope = commit::scope(&self.snapshot, arrival.port);
        let key = FlowKey::<A>::of(&arrival.packet, scope).filter(|_| has_session(&arrival.packet));
        for _ in 0..TRIES {
            let found = key.as_ref().and_then(|key| self.state.table().find(key));
            if let Some(found) = found {
                match self.known(arrival, &found, now, out) {
                    Known::Done => return,
                    Known::Ended(back) => arrival = back,
                }
                continue;
            }
            match self.open(&arrival, now) {
                Ok(()) => {}
                Err(stop) => return self.stop(arrival, stop, now, out),
            }
        }
        self.drop_frame(arrival.port, DropReason::SessionTableFull, arrival.frame);
    }

    /// A packet of a session.
    fn known<A: Address>(
        &mut self,
        arrival: Arrival,
        found: &Found<A>,
        now: Instant,
        out: &mut Output,
    ) -> Known
    where
        State: Tables<A>,
    {
        let state = self.state.clone();
        let id = found.meta.session;
        let mut place = state.sessions.lock(id);
        let direction = match place.as_ref().and_then(|s| s.entries) {
            Some((forward, _)) if forward == found.entry => Direction::Forward,
            Some((_, reverse)) if reverse == found.entry => Direction::Reverse,
            _ => return Known::Ended(arrival),
        };
        let Some(session) = place.as_deref_mut() else { return Known::Ended(arrival) };
        let packet = arrival.packet;

        let anew = packet.proto == Proto::TCP && opens(&packet) && direction == Direction::Forward;
        if anew && session.track.is_over() {
            // The ports of a connection that is over may be used again at once.
            commit::end(&state, &mut place, id);
            self.ended = true;
            return Known::Ended(arrival);
        }
        let stale = match session.judgement.generation.cmp(&self.snapshot.generation) {
            Ordering::Less => true,
            Ordering::Equal => !state.config.cache,
            // A worker that has not picked up the newest snapshot yet does not overrule one that has.
            Ordering::Greater => false,
        };
        if stale && commit::judge_again(&state, &self.snapshot, session, id) == Judged::Gone {
            let rewrite = found.rewrite;
            let hop = self.resolve(found.meta.adjacency).ok();
            commit::end(&state, &mut place, id);
            self.ended = true;
            // A SYN that is sent again may as well reach a new member.
            if packet.proto != Proto::TCP || anew {
                return Known::Ended(arrival);
            }
            self.reset_both(&arrival, &rewrite, hop, out);
            self.drop_frame(arrival.port, DropReason::BindingGone, arrival.frame);
            return Known::Done;
        }
        if let Some((reason, rule)) = session.judgement.denied {
            self.count_denied(reason, rule);
            self.drop_frame(arrival.port, reason, arrival.frame);
            return Known::Done;
        }
        // Judging may have changed the entry.
        let table = state.table();
        let scope = commit::scope(&self.snapshot, arrival.port);
        let found = FlowKey::of(&packet, scope).and_then(|key| table.find(&key)).unwrap_or(*found);
        let hop = match self.resolve(found.meta.adjacency) {
            Ok(hop) => hop,
            Err(reason) => {
                self.drop_frame(arrival.port, reason, arrival.frame);
                return Known::Done;
            }
        };
        if packet.ttl <= found.meta.hops {
            let router = expired_at(&self.snapshot, arrival.port, hop.port, &packet);
            drop(place);
            self.stop(arrival, Stop::TimeExceeded(router), now, out);
            return Known::Done;
        }
        let refused = if packet.ip_len() > usize::from(hop.mtu) {
            Some(DropReason::TooBig)
        } else if !self.addressed(&arrival, &hop) {
            Some(DropReason::UnknownMac)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.drop_frame(arrival.port, reason, arrival.frame);
            return Known::Done;
        }
        if packet.proto == Proto::TCP {
            session.track.see(direction, packet.tcp_flags);
        }
        let mut frame = arrival.frame;
        found.rewrite.apply(frame.bytes_mut(), &packet, found.meta.hops);
        table.touch(found.entry, Tick::of(now), !super::changes_state(&packet), frame.len());
        self.forward(frame, &found.meta, &hop, out);
        Known::Done
    }

    /// Takes a packet of no session through the stages and commits what they decide.
    fn open(&mut self, arrival: &Arrival, now: Instant) -> Result<(), Stop> {
        let (packet, snap) = (&arrival.packet, &self.snapshot);
        if let Some(PortRole::Endpoint(from)) = snap.port(arrival.port).map(|p| &p.role) {
            spoof_guard::address(from, packet.src)?;
        }
        if let Some(reason) = refusal(snap, packet) {
            return Err(reason.into());
        }
        let tuple = Tuple::of(packet);
        let first = First {
            ingress: arrival.port,
            tuple,
            ttl: packet.ttl,
            dst_mac: packet.dst_mac,
            hash: tuple.flow_hash(self.state.config.seed),
            echo: packet.is_echo_request(),
        };
        let path = stage::walk(snap, &first, None, &mut ())?;
        let mtu = snap.port(path.out.port()).map_or(0, |p| p.mtu);
        if packet.ip_len() > usize::from(mtu) {
            return Err(DropReason::TooBig.into());
        }
        if commit::commit(&self.state, snap, &first, &path, now)? == Committed::New {
            let tally = commit::tally(&self.state, &path);
            self.counters.tallies.at(tally as usize).connections.add(1);
        }
        Ok(())
    }

    /// A packet went no further than this.
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
            let egress = (reason == DropReason::EgressDenied).then_some(rule);
            let ingress = (reason == DropReason::IngressDenied).then_some(rule);
            let key = TallyKey { egress_rule: egress, ingress_rule: ingress, server: None };
            let tally = self.state.tallies.intern(key);
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
    fn reset_both<A: Address>(
        &mut self,
        about: &Arrival,
        rewrite: &Rewrite<A>,
        hop: Option<Hop>,
        out: &mut Output,
    ) {
        let (ends, frame, packet) = (self.answering(about), about.frame.bytes(), &about.packet);
        self.emit(about.port, out, |out| tcp::reset_answer(frame, packet, &ends, out));
        if let Some(hop) = hop {
            let ends = tcp::Ends {
                from: (rewrite.src.ip(), rewrite.sport),
                to: (rewrite.dst.ip(), rewrite.dport),
                macs: (hop.src_mac, hop.dst_mac),
            };
            self.emit(hop.port, out, |out| tcp::reset_onward(frame, packet, &ends, out));
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

    /// Looks at `count` sessions from the shared cursor on and ends those whose time is up, or whose binding is
    /// gone and that no reset would tell. TCP connections without a binding wait for their next packet.
    pub fn sweep(&mut self, count: usize, now: Instant) {
        let state = self.state.clone();
        for id in state.sweep.next(count, state.sessions.high_water()) {
            let id = state.sessions.nth(id);
            let mut place = state.sessions.lock(id);
            let Some(session) = place.as_deref_mut() else { continue };
            let over = commit::is_expired(&state, session, now) || {
                session.judgement.generation < self.snapshot.generation
                    && session.original.proto != Proto::TCP
                    && commit::judge_again(&state, &self.snapshot, session, id) == Judged::Gone
            };
            if over {
                commit::end(&state, &mut place, id);
            }
        }
    }
}

/// Whether a packet may open a connection.
fn opens(p: &Packet) -> bool {
    let flags = tcp_flags::SYN | tcp_flags::ACK | tcp_flags::FIN | tcp_flags::RST;
    p.proto != Proto::TCP || p.tcp_flags & flags == tcp_flags::SYN
}

/// Why a packet that belongs to no session can open none.
fn refusal(snap: &Snapshot, p: &Packet) -> Option<DropReason> {
    if p.fragment {
        return Some(DropReason::Fragment);
    }
    let to_egress = snap.egress.contains_key(&p.dst);
    let no_session = if to_egress { DropReason::NoNatSession } else { DropReason::NoSession };
    match p.proto {
        Proto::TCP if opens(p) => None,
        Proto::UDP | Proto::SCTP => None,
        Proto::TCP => Some(no_session),
        Proto::ICMP | Proto::ICMPV6 if p.is_echo_request() => None,
        Proto::ICMP | Proto::ICMPV6 if p.is_echo_reply() => Some(no_session),
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
