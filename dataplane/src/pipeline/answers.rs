//! What the network says itself: echo replies, ICMP errors, resets.

use super::{Arrival, Family, Output, Pipeline};
use crate::{
    capture::Stage,
    id::{PortId, RuleId},
    rewrite::Rewrite,
    snapshot::{EndpointPort, GATEWAY_MAC, Hop, PortRole, Snapshot, mac_of},
    stage::{Stop, judge, router, tier0},
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{Mac, Packet, Part, Proto, icmp, offload, tcp},
};
use std::net::IpAddr;

impl Pipeline {
    /// A packet went no further than this.
    #[inline(never)]
    pub(super) fn stop(&mut self, arrival: Arrival, stop: Stop, now: Instant, out: &mut Output) {
        let mut arrival = arrival;
        // Its sender may look at what is quoted.
        let is_quoted = !matches!(stop, Stop::Drop(..) | Stop::EchoReply);
        if let Some(left) = arrival.frame.offload().filter(|_| is_quoted) {
            offload::complete(arrival.frame.bytes_mut(), left);
        }
        // Only the first fragment of a packet is answered with an error.
        let is_later = arrival.packet.part == Part::Later;
        match stop {
            Stop::EchoReply => {
                let Arrival { mut frame, packet, port } = arrival;
                // The answer is as large as the question, and goes where that came from.
                if packet.largest > self.snapshot.port(port).map_or(0, |p| p.mtu) {
                    return self.drop_frame(port, DropReason::TooBig, frame);
                }
                if let Some(watch) = &self.watch {
                    watch.answered(Stage::Gateway);
                }
                icmp::echo_reply_in_place(frame.bytes_mut(), &packet);
                return out.push(port, frame);
            }
            Stop::Drop(reason, rule) => self.count_denied(reason, rule),
            Stop::Reject(reason, rule) if is_later => self.count_denied(reason, Some(rule)),
            _ if is_later => {}
            Stop::Reject(reason, rule) => {
                self.count_denied(reason, Some(rule));
                if arrival.packet.proto == Proto::TCP {
                    self.reset_sender(&arrival, now, out);
                } else {
                    let from = arrival.packet.dst;
                    self.icmp_error(icmp::Error::Prohibited, from, &arrival, now, out);
                }
            }
            Stop::Refuse(_) if arrival.packet.proto == Proto::TCP => self.reset_sender(&arrival, now, out),
            Stop::Refuse(_) => {
                let from = arrival.packet.dst;
                self.icmp_error(icmp::Error::PortUnreachable, from, &arrival, now, out);
            }
            Stop::NoRoute(from) => self.icmp_error(icmp::Error::NoRoute, from, &arrival, now, out),
            Stop::TimeExceeded(from) => self.icmp_error(icmp::Error::TimeExceeded, from, &arrival, now, out),
            Stop::TooBig(from, mtu) => self.icmp_error(icmp::Error::TooBig(mtu), from, &arrival, now, out),
        }
        if let Some(reason) = stop.reason() {
            self.drop_frame(arrival.port, reason, arrival.frame);
        }
    }

    pub(super) fn count_denied(&self, reason: DropReason, rule: Option<RuleId>) {
        if let Some(rule) = rule {
            if let Some(watch) = &self.watch {
                watch.denied(Some(rule));
            }
            let tally = self.state.tallies.intern(judge::denied_key(reason, rule));
            self.counters.tallies.at(tally as usize).denied.add(1);
        }
    }

    /// Counts a packet of a connection that is denied, whose packets count under this tally.
    pub(super) fn count_denied_again(&self, tally: u32) {
        self.counters.tallies.at(tally as usize).denied.add(1);
        if let Some(watch) = &self.watch {
            let key = self.state.tallies.key(tally);
            watch.denied(key.and_then(|key| key.egress_rule.or(key.ingress_rule)));
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
        // Errors are never answered (RFC 1122, 3.2.2), and what many hear does not come here.
        let answerable = !packet.is_icmp_error() && !from.is_unspecified();
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
    pub(super) fn reset_both<A: Family>(
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
        if self.errors.take(port, now) {
            self.emit(port, out, write);
        }
    }

    fn emit(&self, port: PortId, out: &mut Output, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let Some(mut frame) = self.pool.take() else { return };
        frame.set_len(frame.capacity());
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
}

/// The router at which the TTL of a session's packet ends.
pub(super) fn expired_at(snap: &Snapshot, from: PortId, to: PortId, packet: &Packet) -> IpAddr {
    let gateway = |port| match snap.port(port).map(|p| &p.role) {
        Some(PortRole::Endpoint(e)) => router::gateway(snap, e, packet.dst),
        _ => tier0::address(snap, packet.dst),
    };
    let is_endpoint = |port| matches!(snap.port(port).map(|p| &p.role), Some(PortRole::Endpoint(_)));
    match packet.ttl {
        0 | 1 => gateway(from),
        2 if is_endpoint(from) => tier0::address(snap, packet.dst),
        _ if is_endpoint(from) => gateway(to),
        _ => router::told_outside(snap, gateway(to)),
    }
}

/// The router before the port that a packet is too large for.
pub(super) fn bottleneck(snap: &Snapshot, from: PortId, to: PortId, packet: &Packet) -> IpAddr {
    let endpoint = |port| match snap.port(port).map(|p| &p.role) {
        Some(PortRole::Endpoint(e)) => Some(e),
        _ => None,
    };
    let tier1 = |e: &EndpointPort| snap.segment(e.segment).map(|s| s.tier1);
    match (endpoint(from), endpoint(to)) {
        // It is the sender's own, and speaks with its address there (RFC 1812, 4.3.2.4).
        (Some(from), Some(to)) if tier1(from) == tier1(to) => router::gateway(snap, from, packet.dst),
        (Some(_), Some(to)) => router::gateway(snap, to, packet.dst),
        // What goes out, and what comes in, whose sender may know no other router of ours.
        _ => tier0::address(snap, packet.dst),
    }
}

/// How many ICMP errors and resets a worker may still send: in all, and to one port. So who asks for many takes no
/// more than a quarter from the others.
pub(super) struct ErrorBudget {
    all: Bucket,
    /// By the last bits of the port's number.
    ports: Box<[Bucket; BUCKETS]>,
}

const BUCKETS: usize = 64;

/// A token bucket, full at the start.
#[derive(Clone, Copy)]
struct Bucket {
    per_second: u64,
    /// Millionths of a frame.
    tokens: u64,
    filled: Instant,
}

/// A frame, in tokens.
const FRAME: u64 = 1_000_000;

impl ErrorBudget {
    pub(super) fn new(per_second: u32) -> Self {
        let (all, each) = (u64::from(per_second), u64::from(per_second.div_ceil(4)));
        Self { all: Bucket::new(all), ports: Box::new([Bucket::new(each); BUCKETS]) }
    }

    /// Whether a frame may be sent to a port.
    fn take(&mut self, port: PortId, now: Instant) -> bool {
        let port = &mut self.ports[port.index() % BUCKETS];
        port.fill(now) && self.all.fill(now) && {
            port.tokens -= FRAME;
            self.all.tokens -= FRAME;
            true
        }
    }
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self { per_second, tokens: per_second * FRAME, filled: Instant::ZERO }
    }

    /// Fills it up to now. Whether there is enough for a frame.
    fn fill(&mut self, now: Instant) -> bool {
        let passed = now.since(self.filled).min(Duration::from_secs(1)).as_micros() as u64;
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second * FRAME);
        self.tokens >= FRAME
    }
}
