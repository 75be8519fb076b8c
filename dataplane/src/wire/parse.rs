//! One pass over a frame.

use super::{ETHERNET, Mac, Proto, be16, be32, checksum, ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many IPv6 extension headers are followed before a packet is refused.
const MAX_EXTENSIONS: usize = 8;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L3 {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// Anything else; only the MACs are known.
    Other,
}

/// Type, code and identifier of an ICMP or ICMPv6 message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
}

/// How much of an IP packet a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it; also what has a fragment header and is whole (RFC 6946).
    Whole,
    /// Its beginning, transport header included.
    First,
    /// A later part, which has no transport header.
    Later,
}

/// A frame, parsed: every offset lies inside the bytes it was parsed from.
///
/// For ARP and other frames only the Ethernet fields are set. For later fragments, and protocols other than
/// TCP, UDP, SCTP, ICMP and ICMPv6, the fields of layer 4 are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What it carries.
    pub l3: L3,
    /// Whether it has an 802.1Q tag.
    pub tagged: bool,
    /// Destination MAC.
    pub dst_mac: Mac,
    /// Source MAC.
    pub src_mac: Mac,
    /// Offset of the network header.
    pub l3_at: u16,
    /// Offset of the transport header.
    pub l4_at: u16,
    /// Where the IP packet ends; bytes after it are padding.
    pub end: u16,
    /// The largest IP packet that it will be on a wire: itself, unless it is still to be segmented.
    pub largest: u16,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Transport protocol: the last header of the chain.
    pub proto: Proto,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether it is a fragment.
    pub part: Part,
    /// Routers may cut it: IPv4 without "don't fragment".
    pub may_cut: bool,
    /// IPv4 options, or IPv6 extension headers.
    pub options: bool,
    /// Source port; identifier of an echo request.
    pub sport: u16,
    /// Destination port; identifier of an echo reply.
    pub dport: u16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type and code.
    pub icmp: Icmp,
}

/// Why a frame is not a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// The frame ends inside a header.
    #[error("the frame ends inside a header")]
    Truncated,
    /// A version, header length or total length contradicts the bytes, or there are more than 65,535 of them.
    #[error("a length or version field contradicts the bytes")]
    BadLength,
    /// The IPv4 header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    BadChecksum,
    /// More IPv6 extension headers than are followed.
    #[error("more than {MAX_EXTENSIONS} IPv6 extension headers")]
    TooManyExtensions,
    /// A first fragment that ends inside the headers (RFC 1858; RFC 7112).
    #[error("the first fragment does not hold all headers")]
    TinyFragment,
}

impl Packet {
    /// Bytes of the IP packet, from its header on.
    pub fn ip_len(&self) -> usize {
        usize::from(self.end) - usize::from(self.l3_at)
    }

    /// Whether this is not all of an IP packet.
    pub fn is_fragment(&self) -> bool {
        self.part != Part::Whole
    }

    /// Offset of the network header, as an index.
    pub fn l3(&self) -> usize {
        usize::from(self.l3_at)
    }

    /// Offset of the transport header, as an index.
    pub fn l4(&self) -> usize {
        usize::from(self.l4_at)
    }

    /// Whether this is an echo request of either family.
    pub fn is_echo_request(&self) -> bool {
        matches!((self.proto, self.icmp.kind), (Proto::ICMP, 8) | (Proto::ICMPV6, 128))
    }

    /// Whether this is an echo reply of either family.
    pub fn is_echo_reply(&self) -> bool {
        matches!((self.proto, self.icmp.kind), (Proto::ICMP, 0) | (Proto::ICMPV6, 129))
    }

    /// Whether this is an ICMP or ICMPv6 error message (RFC 792; RFC 4443, 2.1).
    pub fn is_icmp_error(&self) -> bool {
        match self.proto {
            Proto::ICMP => matches!(self.icmp.kind, 3 | 4 | 5 | 11 | 12),
            Proto::ICMPV6 => self.icmp.kind < 128,
            _ => false,
        }
    }
}

/// Parses one Ethernet frame.
///
/// # Errors
/// The frame is cut short or contradicts itself. Frames that are merely of no interest parse as
/// [`L3::Other`].
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Packet, ParseError> {
    if frame.len() < ETHERNET {
        return Err(ParseError::Truncated);
    }
    // Offsets are 16 bits wide.
    let Ok(end) = u16::try_from(frame.len()) else { return Err(ParseError::BadLength) };
    let mut packet = Packet {
        l3: L3::Other,
        tagged: false,
        dst_mac: mac(frame, 0),
        src_mac: mac(frame, 6),
        l3_at: ETHERNET as u16,
        l4_at: ETHERNET as u16,
        end,
        largest: end - ETHERNET as u16,
        src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        proto: Proto(0),
        ttl: 0,
        part: Part::Whole,
        may_cut: false,
        options: false,
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        icmp: Icmp::default(),
    };
    let mut kind = be16(frame, 12);
    if kind == ethertype::VLAN {
        if frame.len() < ETHERNET + 4 {
            return Err(ParseError::Truncated);
        }
        packet.tagged = true;
        packet.l3_at += 4;
        packet.l4_at += 4;
        kind = be16(frame, 16);
    }
    match kind {
        ethertype::IPV4 => ipv4(frame, &mut packet)?,
        ethertype::IPV6 => ipv6(frame, &mut packet)?,
        ethertype::ARP => arp(frame, &mut packet)?,
        _ => {}
    }
    Ok(packet)
}

fn arp(frame: &[u8], packet: &mut Packet) -> Result<(), ParseError> {
    let b = &frame[packet.l3()..];
    if b.len() < super::arp::LEN {
        return Err(ParseError::Truncated);
    }
    // Ethernet, IPv4, and the lengths that go with them (RFC 826).
    if b[..6] == [0, 1, 8, 0, 6, 4] {
        packet.l3 = L3::Arp;
    }
    Ok(())
}

#[inline(always)]
fn ipv4(frame: &[u8], packet: &mut Packet) -> Result<(), ParseError> {
    let b = &frame[packet.l3()..];
    if b.len() < 20 {
        return Err(ParseError::Truncated);
    }
    let header = usize::from(b[0] & 15) * 4;
    let total = usize::from(be16(b, 2));
    if b[0] >> 4 != 4 || header < 20 || total < header {
        return Err(ParseError::BadLength);
    }
    if b.len() < total {
        return Err(ParseError::Truncated);
    }
    if checksum::of(&b[..header]) != 0 {
        return Err(ParseError::BadChecksum);
    }
    // Reserved and "don't fragment" aside: more fragments, and the offset.
    packet.may_cut = b[6] & 0x40 == 0;
    packet.part = match be16(b, 6) & 0x3fff {
        0 => Part::Whole,
        0x2000 => Part::First,
        _ => Part::Later,
    };
    packet.l3 = L3::V4;
    packet.l4_at = packet.l3_at + header as u16;
    packet.end = packet.l3_at + total as u16;
    packet.largest = total as u16;
    packet.src = IpAddr::V4(Ipv4Addr::from_bits(be32(b, 12)));
    packet.dst = IpAddr::V4(Ipv4Addr::from_bits(be32(b, 16)));
    packet.proto = Proto(b[9]);
    packet.ttl = b[8];
    packet.options = header > 20;
    transport(&frame[..usize::from(packet.end)], packet)
}

fn ipv6(frame: &[u8], packet: &mut Packet) -> Result<(), ParseError> {
    let b = &frame[packet.l3()..];
    if b.len() < 40 {
        return Err(ParseError::Truncated);
    }
    if b[0] >> 4 != 6 {
        return Err(ParseError::BadLength);
    }
    let total = 40 + usize::from(be16(b, 4));
    if b.len() < total {
        return Err(ParseError::Truncated);
    }
    let addr = |at: usize| {
        let mut a = [0; 16];
        a.copy_from_slice(&b[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(a))
    };
    packet.l3 = L3::V6;
    packet.end = packet.l3_at + total as u16;
    packet.largest = total as u16;
    packet.src = addr(8);
    packet.dst = addr(24);
    packet.ttl = b[7];
    let b = &b[..total];
    let (mut next, mut at, mut fragmented) = (b[6], 40, false);
    // Where a first fragment ends, its packet does not.
    let cut = |part| if part == Part::First { ParseError::TinyFragment } else { ParseError::Truncated };
    for _ in 0..=MAX_EXTENSIONS {
        let is_extension = matches!(next, 0 | 43 | 44 | 60 | 135 | 139 | 140);
        packet.l4_at = packet.l3_at + at as u16;
        packet.options = at > 40;
        if !is_extension || packet.part == Part::Later {
            packet.proto = Proto(next);
            return transport(&frame[..usize::from(packet.end)], packet);
        }
        let header = b.get(at..at + 8).ok_or_else(|| cut(packet.part))?;
        // Hop-by-hop, routing, destination options (RFC 8200), and the mobility, HIP and Shim6 headers say how
        // long they are.
        let len = if next == 44 { 8 } else { (usize::from(header[1]) + 1) * 8 };
        if next == 44 {
            // One is all that senders write (RFC 8200, 4.1).
            if fragmented {
                return Err(ParseError::BadLength);
            }
            fragmented = true;
            packet.part = match be16(header, 2) & 0xfff9 {
                0 => Part::Whole,
                1 => Part::First,
                _ => Part::Later,
            };
        }
        next = header[0];
        at += len;
        if b.len() < at {
            return Err(cut(packet.part));
        }
    }
    Err(ParseError::TooManyExtensions)
}

/// Reads the transport header; `frame` ends where the IP packet does.
#[inline(always)]
fn transport(frame: &[u8], packet: &mut Packet) -> Result<(), ParseError> {
    let b = &frame[packet.l4()..];
    let (whole, cut) = match packet.part {
        Part::Whole => (true, ParseError::Truncated),
        Part::First => (false, ParseError::TinyFragment),
        Part::Later => return Ok(()),
    };
    let need = |n: usize| if b.len() < n { Err(cut) } else { Ok(()) };
    match packet.proto {
        Proto::TCP => {
            need(20)?;
            let header = usize::from(b[12] >> 4) * 4;
            if header < 20 || (whole && header > b.len()) {
                return Err(ParseError::BadLength);
            }
            need(header)?;
            packet.tcp_flags = b[13];
        }
        Proto::UDP => {
            need(8)?;
            let len = usize::from(be16(b, 4));
            if len < 8 || (whole && len > b.len()) {
                return Err(ParseError::BadLength);
            }
        }
        Proto::SCTP => need(12)?,
        Proto::ICMP | Proto::ICMPV6 => {
            need(8)?;
            // A message of the other family's protocol is not ICMP at all.
            if (packet.proto == Proto::ICMP) != (packet.l3 == L3::V4) {
                return Err(ParseError::BadLength);
            }
            packet.icmp = Icmp { kind: b[0], code: b[1] };
            if packet.is_echo_request() {
                packet.sport = be16(b, 4);
            } else if packet.is_echo_reply() {
                packet.dport = be16(b, 4);
            }
            return Ok(());
        }
        _ => return Ok(()),
    }
    packet.sport = be16(b, 0);
    packet.dport = be16(b, 2);
    Ok(())
}

fn mac(b: &[u8], at: usize) -> Mac {
    Mac([b[at], b[at + 1], b[at + 2], b[at + 3], b[at + 4], b[at + 5]])
}
