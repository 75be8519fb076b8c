//! ICMP and ICMPv6 messages that the network itself sends (RFC 792, RFC 1812, RFC 4443).

use super::{L3, Mac, Packet, Part, be16, checksum, put16};
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpDscp, IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, icmpv4, icmpv6,
};
use std::net::IpAddr;

/// The precedence of ICMP errors (RFC 1812, 4.3.2.5): a busy network does without them last.
const INTERNETWORK_CONTROL: IpDscp = IpDscp::CS6;

/// An error message about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The TTL ended here.
    TimeExceeded,
    /// No route leads to the destination.
    NoRoute,
    /// Nobody listens on the port.
    PortUnreachable,
    /// A firewall forbids it.
    Prohibited,
    /// It is larger than this, which is all that its way can take, and may not be cut (RFC 1191; RFC 8201).
    TooBig(u16),
}

/// Writes an ICMP error about the packet in `frame` into `out` and returns its length in bytes.
///
/// `from` is the address of the router that speaks, of the packet's family; `macs` are source and destination
/// of the new frame. `None` when families differ or `out` is too small. It is the caller's part not to answer
/// errors, multicast or later fragments (RFC 1122, 3.2.2).
pub fn error(
    error: Error,
    frame: &[u8],
    packet: &Packet,
    from: IpAddr,
    macs: (Mac, Mac),
    mut out: &mut [u8],
) -> Option<usize> {
    let room = out.len();
    let original = &frame[packet.l3()..usize::from(packet.end)];
    let ethernet = PacketBuilder::ethernet2(macs.0.0, macs.1.0);
    let written = match (from, packet.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let kind = match error {
                Error::TimeExceeded => {
                    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
                }
                Error::NoRoute => Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Network),
                Error::PortUnreachable => {
                    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
                }
                Error::Prohibited => {
                    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FilterProhibited)
                }
                Error::TooBig(next_hop_mtu) => {
                    let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
                    Icmpv4Type::DestinationUnreachable(header)
                }
            };
            // As much as fits into 576 bytes (RFC 1812, 4.3.2.3).
            let quote = &original[..original.len().min(576 - 28)];
            let mut ip = Ipv4Header { time_to_live: 64, ..Ipv4Header::default() };
            (ip.source, ip.destination) = (from.octets(), to.octets());
            ip.dscp = INTERNETWORK_CONTROL;
            ethernet.ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default())).icmpv4(kind).write(&mut out, quote)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = match error {
                Error::TimeExceeded => Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
                Error::NoRoute => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute),
                Error::PortUnreachable => {
                    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
                }
                Error::Prohibited => {
                    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Prohibited)
                }
                Error::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
            };
            // As much as fits into the minimum MTU (RFC 4443, 2.4 c).
            let quote = &original[..original.len().min(1280 - 48)];
            ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6(kind).write(&mut out, quote)
        }
        _ => return None,
    };
    written.ok().map(|()| room - out.len())
}

/// Turns the echo request in `frame`, or a fragment of one, into its reply, addresses and MACs exchanged, TTL
/// renewed.
pub fn echo_reply_in_place(frame: &mut [u8], packet: &Packet) {
    let (l3, l4) = (packet.l3(), packet.l4());
    let (dst, src) = (packet.dst_mac.0, packet.src_mac.0);
    frame[..6].copy_from_slice(&src);
    frame[6..12].copy_from_slice(&dst);
    let (kind, at, len) = if packet.l3 == L3::V4 { (0, l3 + 12, 4) } else { (129, l3 + 8, 16) };
    let (a, b) = frame[at..at + 2 * len].split_at_mut(len);
    a.swap_with_slice(b);
    if packet.l3 == L3::V4 {
        let delta = checksum::Delta::default().and16(
            u16::from_be_bytes([packet.ttl, packet.proto.0]),
            u16::from_be_bytes([64, packet.proto.0]),
        );
        let sum = delta.apply(be16(frame, l3 + 10));
        frame[l3 + 8] = 64;
        put16(frame, l3 + 10, sum);
    } else {
        frame[l3 + 7] = 64;
    }
    if packet.part == Part::Later {
        return;
    }
    let delta = checksum::Delta::default()
        .and16(u16::from_be_bytes([packet.icmp.kind, 0]), u16::from_be_bytes([kind, 0]));
    let sum = delta.apply(be16(frame, l4 + 2));
    frame[l4] = kind;
    put16(frame, l4 + 2, sum);
}
