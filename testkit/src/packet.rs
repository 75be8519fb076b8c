//! Frames for tests, and what to look at in frames that came out.

use etherparse::{PacketBuilder, TransportSlice};
use std::net::{IpAddr, SocketAddr};
use supernet_dataplane::wire::{self, Mac, Packet, Proto, checksum};

/// This many bytes, down to eights, that are not alike anywhere, the same for the same seed (xorshift64).
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..count / 8).flat_map(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    words.collect()
}

/// A frame to be written.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Source MAC.
    pub src_mac: Mac,
    /// Destination MAC.
    pub dst_mac: Mac,
    /// Source address and port; the port of an echo request is its identifier.
    pub src: SocketAddr,
    /// Destination address and port; the port of an echo reply is its identifier.
    pub dst: SocketAddr,
    /// Protocol.
    pub proto: Proto,
    /// TCP flags. Of ICMP, ACK makes an echo reply, everything else an echo request.
    pub flags: u8,
    /// TTL.
    pub ttl: u8,
    /// Bytes of payload.
    pub payload: usize,
}

impl Probe {
    /// A packet of `proto` from `src` to `dst`, sent by port `port` to the gateway; TCP is a SYN.
    pub fn new(port: u32, proto: Proto, src: &str, dst: &str) -> Self {
        #[expect(clippy::unwrap_used, reason = "test input is written by hand")]
        let parse = |s: &str| s.parse::<SocketAddr>().unwrap();
        Self {
            src_mac: crate::topology::mac(port),
            dst_mac: supernet_dataplane::snapshot::GATEWAY_MAC,
            src: parse(src),
            dst: parse(dst),
            proto,
            flags: wire::tcp_flags::SYN,
            ttl: 64,
            payload: 10,
        }
    }

    /// The frame, with correct checksums. Its payload counts up from zero.
    pub fn frame(&self) -> Vec<u8> {
        self.frame_with(&(0..self.payload).map(|n| n as u8).collect::<Vec<_>>())
    }

    /// The frame with this payload, whatever [`Self::payload`] says, with correct checksums.
    pub fn frame_with(&self, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.src_mac.0, self.dst_mac.0);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => ethernet.ipv4(s.octets(), d.octets(), self.ttl),
            (IpAddr::V6(s), IpAddr::V6(d)) => ethernet.ipv6(s.octets(), d.octets(), self.ttl),
            (s, d) => unreachable_families(s, d),
        };
        let mut out = Vec::new();
        let (sport, dport) = (self.src.port(), self.dst.port());
        let is_reply = self.flags & wire::tcp_flags::ACK != 0;
        let written = match self.proto {
            Proto::TCP => {
                let mut header = etherparse::TcpHeader::new(sport, dport, 1000, 8192);
                header.syn = self.flags & wire::tcp_flags::SYN != 0;
                header.ack = self.flags & wire::tcp_flags::ACK != 0;
                header.fin = self.flags & wire::tcp_flags::FIN != 0;
                header.rst = self.flags & wire::tcp_flags::RST != 0;
                if header.ack {
                    header.acknowledgment_number = 7000;
                }
                ip.tcp_header(header).write(&mut out, payload)
            }
            Proto::UDP => ip.udp(sport, dport).write(&mut out, payload),
            Proto::ICMP if is_reply => ip.icmpv4_echo_reply(dport, 1).write(&mut out, payload),
            Proto::ICMPV6 if is_reply => ip.icmpv6_echo_reply(dport, 1).write(&mut out, payload),
            Proto::ICMP => ip.icmpv4_echo_request(sport, 1).write(&mut out, payload),
            Proto::ICMPV6 => ip.icmpv6_echo_request(sport, 1).write(&mut out, payload),
            proto => {
                let mut packet = vec![0; 12];
                packet[..2].copy_from_slice(&sport.to_be_bytes());
                packet[2..4].copy_from_slice(&dport.to_be_bytes());
                packet.extend(payload);
                if proto == Proto::SCTP {
                    let crc = checksum::sctp(&packet).to_le_bytes();
                    packet[8..12].copy_from_slice(&crc);
                }
                ip.write(&mut out, etherparse::IpNumber(proto.0), &packet)
            }
        };
        #[expect(clippy::unwrap_used, reason = "writing into a Vec cannot fail")]
        written.unwrap();
        out
    }

    /// The answer that the receiver of `delivered` would send, straight back.
    #[must_use]
    pub fn answer(delivered: &[u8], flags: u8) -> Self {
        #[expect(clippy::unwrap_used, reason = "the test delivered this frame")]
        let p = wire::parse(delivered).unwrap();
        Self {
            src_mac: p.dst_mac,
            dst_mac: p.src_mac,
            src: SocketAddr::new(p.dst, p.dport),
            dst: SocketAddr::new(p.src, p.sport),
            proto: p.proto,
            flags,
            ttl: 64,
            payload: 10,
        }
    }
}

/// An ICMP error about a frame that was delivered, sent back by `from`, which may be its receiver or a router. It quotes
/// at most `quote` bytes; `word` are those between checksum and quote.
///
/// # Panics
/// The frame is no IP packet, or `from` is of the other family.
#[expect(clippy::unwrap_used, reason = "the test delivered this frame")]
pub fn icmp_error(
    delivered: &[u8],
    (kind, code): (u8, u8),
    word: [u8; 4],
    from: IpAddr,
    quote: usize,
) -> Vec<u8> {
    let p = wire::parse(delivered).unwrap();
    let original = &delivered[p.l3()..usize::from(p.end)];
    let quote = &original[..original.len().min(quote)];
    let ethernet = PacketBuilder::ethernet2(p.dst_mac.0, p.src_mac.0);
    let mut out = Vec::new();
    let written = match (from, p.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4_raw(kind, code, word).write(&mut out, quote)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6_raw(kind, code, word).write(&mut out, quote)
        }
        (s, d) => unreachable_families(s, d),
    };
    written.unwrap();
    out
}

#[expect(clippy::panic, reason = "a test that mixes families is wrong")]
fn unreachable_families(s: IpAddr, d: IpAddr) -> ! {
    panic!("{s} and {d} are of different families")
}

/// Parses a frame that must be sound, and checks every checksum in it with another implementation.
///
/// # Panics
/// The frame is not sound.
#[expect(clippy::unwrap_used, clippy::panic, reason = "it asserts")]
pub fn sound(frame: &[u8]) -> Packet {
    let packet = wire::parse(frame).unwrap();
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let (l4, proto) = (&frame[packet.l4()..usize::from(packet.end)], packet.proto);
    match sliced.transport {
        Some(TransportSlice::Udp(udp)) if udp.checksum() == 0 && packet.src.is_ipv4() => {}
        Some(
            TransportSlice::Tcp(_)
            | TransportSlice::Udp(_)
            | TransportSlice::Icmpv4(_)
            | TransportSlice::Icmpv6(_),
        ) => {
            assert_eq!(checksum::transport(packet.src, packet.dst, proto, l4), 0, "transport checksum");
        }
        _ if proto == Proto::SCTP => {
            let crc = u32::from_le_bytes(l4[8..12].try_into().unwrap());
            assert_eq!(crc, checksum::sctp(l4), "SCTP checksum");
        }
        _ => panic!("no transport header in {packet:?}"),
    }
    packet
}
