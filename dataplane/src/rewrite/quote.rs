//! The packet that an ICMP error quotes: read, and translated as the error travels back the way its packet came.
//!
//! ```text
//!   | Ethernet | IP | ICMP error, 8 bytes | IP | transport, 8 bytes or more ... | extensions (RFC 4884) |
//!                                           ^ quoted, cut anywhere behind that
//! ```
//!
//! Nothing in a quote can be relied on: it is what somebody says to have received, cut short, its TTL and maybe its
//! checksums changed on the way.

use super::Tuple;
use crate::{
    buf::JUMBO_CAPACITY,
    verdict::DropReason,
    wire::{
        Address, AnyAddress, L3, Packet, Proto, be16,
        checksum::{self, Delta},
        put16,
    },
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an ICMP error before the quote.
const HEADER: usize = 8;

/// How many IPv6 extension headers are followed in a quote.
const MAX_EXTENSIONS: usize = 8;

/// A packet quoted in an ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// Its addresses and ports, as whoever sends the error received it.
    pub tuple: Tuple,
    /// It is an echo reply; what is ICMP and none is an echo request.
    pub is_echo_reply: bool,
    /// Offset of its network header in the frame.
    l3: usize,
    /// Offset of its transport header.
    l4: usize,
    /// Bytes of transport header and payload that it had when it was whole.
    l4_len: usize,
}

/// Whether an ICMP message is an error that goes back to who sent the packet it quotes: unreachable, too big, time
/// exceeded, parameter problem. Redirects concern one link only, and source quench is of the past (RFC 6633).
pub fn is_relayed(packet: &Packet) -> bool {
    match packet.proto {
        Proto::ICMP => matches!(packet.icmp.kind, 3 | 11 | 12),
        Proto::ICMPV6 => matches!(packet.icmp.kind, 1..=4),
        _ => false,
    }
}

/// Reads the quote of the ICMP error in `frame`.
///
/// # Errors
/// [`DropReason::BadChecksum`]: the error's; [`DropReason::IcmpUnrelated`]: the quote is none of a packet that can
/// belong to a connection, or is cut off before the ports.
pub fn read(frame: &[u8], packet: &Packet) -> Result<Quote, DropReason> {
    let end = usize::from(packet.end);
    let message = frame.get(packet.l4()..end).ok_or(DropReason::IcmpUnrelated)?;
    if checksum::transport(packet.src, packet.dst, packet.proto, message) != 0 {
        return Err(DropReason::BadChecksum);
    }
    let l3 = packet.l4() + HEADER;
    let ip = frame.get(l3..end);
    let quote = ip.and_then(|ip| if packet.l3 == L3::V4 { ipv4(ip, l3) } else { ipv6(ip, l3) });
    quote.ok_or(DropReason::IcmpUnrelated)
}

fn ipv4(ip: &[u8], l3: usize) -> Option<Quote> {
    let fixed: &[u8; 20] = ip.first_chunk()?;
    let header = usize::from(fixed[0] & 15) * 4;
    // Of later fragments nobody can tell the ports.
    if fixed[0] >> 4 != 4 || header < 20 || be16(fixed, 6) & 0x1fff != 0 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*fixed.get(at..)?.first_chunk::<4>()?));
    let ends = (address(12)?.into(), address(16)?.into());
    let l4_len = usize::from(be16(fixed, 2)).checked_sub(header)?;
    transport(ip.get(header..)?, ends, Proto(fixed[9]), (l3, header, l4_len))
}

fn ipv6(ip: &[u8], l3: usize) -> Option<Quote> {
    let fixed: &[u8; 40] = ip.first_chunk()?;
    if fixed[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| Some(Ipv6Addr::from(*fixed.get(at..)?.first_chunk::<16>()?));
    let ends = (address(8)?.into(), address(24)?.into());
    let (mut next, mut at) = (fixed[6], 40);
    for _ in 0..=MAX_EXTENSIONS {
        let len = match next {
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*ip.get(at + 1)?) + 1) * 8,
            44 if be16(ip.get(at..at + 4)?, 2) & 0xfff8 != 0 => return None,
            44 => 8,
            proto => {
                let l4_len = (usize::from(be16(fixed, 4)) + 40).checked_sub(at)?;
                return transport(ip.get(at..)?, ends, Proto(proto), (l3, at, l4_len));
            }
        };
        next = *ip.get(at)?;
        at += len;
    }
    None
}

fn transport(
    l4: &[u8],
    (src, dst): (IpAddr, IpAddr),
    proto: Proto,
    (l3, header, l4_len): (usize, usize, usize),
) -> Option<Quote> {
    let word = |at: usize| Some(be16(l4.get(at..at + 2)?, 0));
    let (sport, dport, is_echo_reply) = match proto {
        Proto::TCP | Proto::UDP | Proto::SCTP => (word(0)?, word(2)?, false),
        Proto::ICMP | Proto::ICMPV6 => match *l4.first()? {
            8 | 128 => (word(4)?, 0, false),
            0 | 129 => (0, word(4)?, true),
            _ => return None,
        },
        _ => return None,
    };
    let tuple = Tuple { src, dst, proto, sport, dport };
    Some(Quote { tuple, is_echo_reply, l3, l4: l3 + header, l4_len })
}

impl Quote {
    /// Makes the quote one of a packet with this tuple, and the ICMP error around it, parsed as `packet`, one from
    /// `src` to `dst` with `hops` taken off its TTL. All checksums are mended that the quote has whole.
    pub fn translate(
        &self,
        frame: &mut [u8],
        packet: &Packet,
        to: &Tuple,
        (src, dst): (IpAddr, IpAddr),
        hops: u8,
    ) {
        let end = usize::from(packet.end);
        let from = &self.tuple;
        let is_v4 = packet.l3 == L3::V4;
        // What changes of the addresses changes the checksums that cover them.
        let addresses = delta_of(from, to);
        put_addresses(&mut frame[self.l3..end], (to.src, to.dst));
        if is_v4 {
            mend(&mut frame[self.l3..end], 10, addresses);
        }
        let l4 = &mut frame[self.l4..end];
        let ports = Delta::default().and16(from.sport, to.sport).and16(from.dport, to.dport);
        match from.proto {
            Proto::TCP | Proto::UDP => {
                let at = if from.proto == Proto::TCP { 16 } else { 6 };
                put16(l4, 0, to.sport);
                put16(l4, 2, to.dport);
                if from.proto == Proto::TCP {
                    mend(l4, at, addresses.and(ports));
                } else if l4.len() >= at + 2 {
                    let sum = addresses.and(ports).apply_udp(be16(l4, at));
                    put16(l4, at, sum);
                }
            }
            Proto::SCTP => {
                let old = [l4[0], l4[1], l4[2], l4[3]];
                put16(l4, 0, to.sport);
                put16(l4, 2, to.dport);
                let new = [l4[0], l4[1], l4[2], l4[3]];
                if let Some(field) = l4.get_mut(8..12).and_then(|field| field.first_chunk_mut::<4>()) {
                    let crc = u32::from_le_bytes(*field);
                    // Mending takes as long as the packet was, and anybody can say that it was 64 KB. What was
                    // translated came in one frame.
                    let len = self.l4_len.min(JUMBO_CAPACITY);
                    *field = checksum::sctp_mend(crc, len, old, new).to_le_bytes();
                }
            }
            _ => {
                put16(l4, 4, if self.is_echo_reply { to.dport } else { to.sport });
                let covered = if from.proto == Proto::ICMPV6 { addresses } else { Delta::default() };
                mend(l4, 2, covered.and(ports));
            }
        }
        // The error itself. Its checksum was right when the quote was read.
        put_addresses(&mut frame[packet.l3()..end], (src, dst));
        let l3 = packet.l3();
        if is_v4 {
            frame[l3 + 8] -= hops;
            put16(frame, l3 + 10, 0);
            let sum = checksum::of(&frame[l3..packet.l4()]);
            put16(frame, l3 + 10, sum);
        } else {
            frame[l3 + 7] -= hops;
        }
        let message = &mut frame[packet.l4()..end];
        put16(message, 2, 0);
        let sum = checksum::transport(src, dst, packet.proto, message);
        put16(message, 2, sum);
    }
}

/// What becomes of a checksum that covers the addresses.
fn delta_of(from: &Tuple, to: &Tuple) -> Delta {
    let halves = |a: IpAddr| {
        let bits = a.bits();
        (0..8).rev().map(move |n| (bits >> (16 * n)) as u16)
    };
    let old = halves(from.src).chain(halves(from.dst));
    let new = halves(to.src).chain(halves(to.dst));
    old.zip(new).fold(Delta::default(), |delta, (old, new)| delta.and16(old, new))
}

fn put_addresses(ip: &mut [u8], (src, dst): (IpAddr, IpAddr)) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            u32::from(src).put(&mut ip[12..16]);
            u32::from(dst).put(&mut ip[16..20]);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            u128::from(src).put(&mut ip[8..24]);
            u128::from(dst).put(&mut ip[24..40]);
        }
        _ => {}
    }
}

/// Mends a checksum, if the quote has it.
fn mend(bytes: &mut [u8], at: usize, delta: Delta) {
    if bytes.len() >= at + 2 {
        let sum = delta.apply(be16(bytes, at));
        put16(bytes, at, sum);
    }
}
