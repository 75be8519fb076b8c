//! The compiled header edit of one direction of a session.
//!
//! What a connection needs done to each of its packets is worked out once, when the session is made: new
//! addresses and ports, and what that does to the checksums, the TTL included. Applying it is a few stores
//! and two additions. Headers are edited in place; everything not named here (ECN, options, payload) stays.

pub mod quote;

use crate::{
    buf::HEADER,
    vector::Header,
    wire::{
        Address, AnyAddress, L3, Packet, Part, Proto, be16,
        checksum::{self, Delta},
        put16,
    },
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

    /// The edit as words, as [`edit_v4`] and [`edit_v6`] take them: addresses and ports as they stand in a packet,
    /// sums in the same order. For IPv4, two: `sums 16 + 16 | source 32`, `destination 32 | ports 16 + 16`. For
    /// IPv6, five: source 128, destination 128, `sums 16 + 16 | ports 16 + 16`.
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        let (src, dst, ports) = (self.src.wire(), self.dst.wire(), ports_word(self.sport, self.dport));
        let sums = u64::from(self.l3.0.swap_bytes()) | u64::from(self.l4.0.swap_bytes()) << 16;
        if A::LEN == 4 {
            [sums | src[0] << 32, dst[0] | ports << 32, 0, 0, 0]
        } else {
            [src[0], src[1], dst[0], dst[1], sums | ports << 32]
        }
    }

    /// The edit that these words are, two or five of them.
    pub fn from_words(words: &[u64]) -> Self {
        let (src, dst, sums, ports) = match *words {
            [a, b] => ([a >> 32, 0], [b & 0xffff_ffff, 0], a, b >> 32),
            [a, b, c, d, rest] => ([a, b], [c, d], rest, rest >> 32),
            _ => ([0; 2], [0; 2], 0, 0),
        };
        let (sport, dport) = ports_from(ports);
        Self {
            src: A::from_wire(src),
            dst: A::from_wire(dst),
            sport,
            dport,
            l3: Delta((sums as u16).swap_bytes()),
            l4: Delta(((sums >> 16) as u16).swap_bytes()),
        }
    }

    /// Whether a packet can be edited: all but fragments of SCTP whose ports change, as the CRC of the whole packet
    /// cannot be mended without its length.
    pub fn can_apply(&self, packet: &Packet) -> bool {
        packet.proto != Proto::SCTP
            || !packet.is_fragment()
            || (self.sport, self.dport) == (packet.sport, packet.dport)
    }

    /// Edits a packet of the tuple this was compiled for, and takes `hops` off its TTL. Of later fragments, only the
    /// network header.
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
        if packet.part == Part::Later {
            return;
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

/// Edits a plain IPv4 packet (untagged, no options, TCP or UDP) as [`Rewrite::apply`] would, by words. Its TTL must be
/// `hops` at least.
#[inline(always)]
pub fn edit_v4(h: &mut Header, [low, high]: [u64; 2], hops: u8) {
    // TTL, protocol and header checksum, then the addresses and ports.
    let old = u32::from_le_bytes([h[22], h[23], h[24], h[25]]);
    let sum = !add(!((old >> 16) as u16), low as u16);
    let new = ((old & 0xffff) - u32::from(hops)) | u32::from(sum) << 16;
    put64(h, 22, low & !0xffff_ffff | u64::from(new));
    put64(h, 30, high);
    mend_transport(h, 34, (old >> 8) as u8, (low >> 16) as u16);
}

/// The same for a plain IPv6 packet (untagged, no extension headers, TCP or UDP).
#[inline(always)]
pub fn edit_v6(h: &mut Header, [a, b, c, d, rest]: [u64; 5], hops: u8) {
    let proto = h[20];
    h[21] -= hops;
    put64(h, 22, a);
    put64(h, 30, b);
    put64(h, 38, c);
    put64(h, 46, d);
    h[54..58].copy_from_slice(&((rest >> 32) as u32).to_le_bytes());
    mend_transport(h, 54, proto, (rest >> 16) as u16);
}

/// Mends the checksum of the TCP or UDP header at `at` (RFC 1624). A UDP checksum of zero means none and stays;
/// one that comes out as zero is sent as all ones (RFC 768).
#[inline(always)]
fn mend_transport(h: &mut Header, at: usize, proto: u8, delta: u16) {
    // TCP is 6 and UDP 17. They come in any order, so this is worked out, not branched on.
    let at = (at + 6 + usize::from(proto & 2) * 5) % HEADER;
    let old = u16::from_le_bytes([h[at], h[(at + 1) % HEADER]]);
    let new = !add(!old, delta);
    let new = if (new == 0) | (old == 0) { zero(proto, old, new) } else { new };
    [h[at], h[(at + 1) % HEADER]] = new.to_le_bytes();
}

/// The checksum to be sent when that before or after is zero.
#[cold]
#[inline(never)]
fn zero(proto: u8, old: u16, new: u16) -> u16 {
    match (proto, old) {
        (17, 0) => 0,
        (17, _) => 0xffff,
        _ => new,
    }
}

/// One's complement addition.
#[inline(always)]
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[inline(always)]
fn put64(h: &mut Header, at: usize, word: u64) {
    if let Some(place) = h.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = word.to_le_bytes();
    }
}

/// Two ports as they stand in a packet, the first byte lowest.
pub(crate) fn ports_word(sport: u16, dport: u16) -> u64 {
    u64::from(sport.swap_bytes()) | u64::from(dport.swap_bytes()) << 16
}

pub(crate) fn ports_from(word: u64) -> (u16, u16) {
    ((word as u16).swap_bytes(), ((word >> 16) as u16).swap_bytes())
}

/// The sum of an address's 16-bit halves.
fn halves<A: Address>(address: A) -> u64 {
    let bits = address.bits();
    (0..A::LEN as u32 / 2).map(|n| (bits >> (16 * n)) as u64 & 0xffff).sum()
}
