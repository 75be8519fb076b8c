//! The compiled header edit of one direction of a session.
//!
//! What a connection needs done to each of its packets is worked out once, when the session is made: new
//! addresses and ports, and what that does to the checksums, the TTL included. Applying it is a few stores
//! and two additions. Headers are edited in place; everything not named here (ECN, options, payload) stays.

use crate::wire::{
    Address, AnyAddress, L3, Packet, Proto, be16,
    checksum::{self, Delta},
    put16,
};
use std::{
    hash::{BuildHasher, Hasher},
    net::IpAddr,
};

/// One side of a connection's packets: where from, where to, by which protocol. An ICMP echo's identifier
/// stands as the source port of requests and as the destination port of replies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple<A = IpAddr> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Protocol.
    pub proto: Proto,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl Tuple {
    /// The tuple of a parsed packet.
    #[inline(always)]
    pub fn of(p: &Packet) -> Self {
        Self { src: p.src, dst: p.dst, proto: p.proto, sport: p.sport, dport: p.dport }
    }
}

impl<A: AnyAddress> Tuple<A> {
    /// The same with other addresses; `None` unless they can be such.
    #[inline(always)]
    pub fn to<B: AnyAddress>(self) -> Option<Tuple<B>> {
        let Self { src, dst, proto, sport, dport } = self;
        Some(Tuple { src: B::of(src.ip())?, dst: B::of(dst.ip())?, proto, sport, dport })
    }

    /// The same with addresses that name their family.
    #[inline(always)]
    pub fn ip(self) -> Tuple {
        let Self { src, dst, proto, sport, dport } = self;
        Tuple { src: src.ip(), dst: dst.ip(), proto, sport, dport }
    }

    /// A hash that is the same for every packet of a connection, given the tuple of its first: it picks members
    /// and routes.
    pub fn flow_hash(&self, seed: u64) -> u64 {
        let (src, dst) = (self.src.bits(), self.dst.bits());
        let ports = u64::from(self.sport) << 24 | u64::from(self.dport) << 8 | u64::from(self.proto.0);
        let mut hasher = foldhash::fast::FixedState::with_seed(seed).build_hasher();
        hasher.write_u128(src);
        hasher.write_u128(dst);
        hasher.write_u64(ports);
        hasher.finish()
    }

    /// The tuple of an answer.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..self }
    }
}

impl std::fmt::Display for Tuple<IpAddr> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.proto.is_icmp() {
            return write!(f, "{} > {} {}", self.src, self.dst, self.proto);
        }
        let end = |a: IpAddr, port| std::net::SocketAddr::new(a, port);
        write!(f, "{} > {} {}", end(self.src, self.sport), end(self.dst, self.dport), self.proto)
    }
}

/// A compiled header edit for packets of one tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite<A> {
    /// Source address afterwards.
    pub src: A,
    /// Destination address afterwards.
    pub dst: A,
    /// Source port afterwards.
    pub sport: u16,
    /// Destination port afterwards.
    pub dport: u16,
    /// What happens to the IPv4 header checksum, the TTL included.
    pub l3: Delta,
    /// What happens to the transport checksum.
    pub l4: Delta,
}

impl<A: Address> Rewrite<A> {
    /// Compiles the edit that turns `from` into `to` and takes `hops` off the TTL. `None` unless both are of
    /// this family.
    #[inline]
    pub fn new<B: AnyAddress>(from: &Tuple<B>, to: &Tuple<B>, hops: u8) -> Option<Self> {
        let (from, to) = (from.to::<A>()?, to.to::<A>()?);
        let (src, dst) = ((from.src, to.src), (from.dst, to.dst));
        let (before, after) = (halves(src.0) + halves(dst.0), halves(src.1) + halves(dst.1));
        let addresses = A::LEN as u64;
        let ports = |tuple: &Tuple<A>| u64::from(tuple.sport) + u64::from(tuple.dport);
        // ICMP's checksum does not cover addresses; ICMPv6's does.
        let covered = if from.proto == Proto::ICMP { 0 } else { 1 };
        Some(Self {
            src: src.1,
            dst: dst.1,
            sport: to.sport,
            dport: to.dport,
            l3: Delta::of_sums(before + (u64::from(hops) << 8), addresses + 1, after),
            l4: Delta::of_sums(
                covered * before + ports(&from),
                covered * addresses + 2,
                covered * after + ports(&to),
            ),
        })
    }

    /// Edits a packet of the tuple this was compiled for, and takes `hops` off its TTL.
    pub fn apply(&self, frame: &mut [u8], packet: &Packet, hops: u8) {
        let (l3, l4) = (packet.l3(), packet.l4());
        self.src.put(&mut frame[l3 + A::AT..][..A::LEN]);
        self.dst.put(&mut frame[l3 + A::AT + A::LEN..][..A::LEN]);
        if packet.l3 == L3::V4 {
            frame[l3 + 8] = frame[l3 + 8].wrapping_sub(hops);
            let sum = self.l3.apply(be16(frame, l3 + 10));
            put16(frame, l3 + 10, sum);
        } else {
            frame[l3 + 7] = frame[l3 + 7].wrapping_sub(hops);
        }
        match packet.proto {
            Proto::TCP => {
                self.put_ports(frame, l4);
                let sum = self.l4.apply(be16(frame, l4 + 16));
                put16(frame, l4 + 16, sum);
            }
            Proto::UDP => {
                self.put_ports(frame, l4);
                let sum = self.l4.apply_udp(be16(frame, l4 + 6));
                put16(frame, l4 + 6, sum);
            }
            Proto::SCTP if (self.sport, self.dport) != (packet.sport, packet.dport) => {
                let ports = |f: &[u8]| [f[l4], f[l4 + 1], f[l4 + 2], f[l4 + 3]];
                let old = ports(frame);
                self.put_ports(frame, l4);
                let len = usize::from(packet.end) - l4;
                let crc = u32::from_le_bytes([frame[l4 + 8], frame[l4 + 9], frame[l4 + 10], frame[l4 + 11]]);
                let crc = checksum::sctp_mend(crc, len, old, ports(frame));
                frame[l4 + 8..l4 + 12].copy_from_slice(&crc.to_le_bytes());
            }
            Proto::ICMP | Proto::ICMPV6 => {
                let id = if packet.is_echo_request() { self.sport } else { self.dport };
                put16(frame, l4 + 4, id);
                let sum = self.l4.apply(be16(frame, l4 + 2));
                put16(frame, l4 + 2, sum);
            }
            _ => {}
        }
    }

    fn put_ports(&self, frame: &mut [u8], l4: usize) {
        put16(frame, l4, self.sport);
        put16(frame, l4 + 2, self.dport);
    }
}

/// The sum of an address's 16-bit halves.
fn halves<A: Address>(address: A) -> u64 {
    let bits = address.bits();
    (0..A::LEN as u32 / 2).map(|n| (bits >> (16 * n)) as u64 & 0xffff).sum()
}
