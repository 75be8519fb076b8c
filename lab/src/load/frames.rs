//! Frames of a connection: as small as Ethernet has them, with correct checksums.

use std::net::{IpAddr, SocketAddr};
use supernet::dataplane::{
    id::PortId,
    wire::{ETHERNET, Mac, Packet, Proto, checksum, ethertype, tcp_flags},
};

/// Bytes of an IPv4 frame, TCP or UDP, without the frame check sequence.
pub const FRAME_V4: usize = 64;

/// Bytes of an IPv6 frame: its header is 20 bytes longer.
pub const FRAME_V6: usize = FRAME_V4 + 20;

/// A packet to be sent, over and over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template {
    /// The port it comes in by.
    pub(super) port: PortId,
    /// Source and destination MAC.
    pub(super) macs: (Mac, Mac),
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) proto: Proto,
    pub(super) flags: u8,
}

impl Template {
    /// What the receiver of a delivered packet sends straight back from its port.
    pub(super) fn answer(port: PortId, delivered: &Packet) -> Self {
        let p = delivered;
        Self {
            port,
            macs: (p.dst_mac, p.src_mac),
            src: SocketAddr::new(p.dst, p.dport),
            dst: SocketAddr::new(p.src, p.sport),
            proto: p.proto,
            flags: tcp_flags::SYN | tcp_flags::ACK,
        }
    }

    /// Appends the frame to `out`: [`FRAME_V4`] or [`FRAME_V6`] bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.macs.1.0);
        out.extend(self.macs.0.0);
        // Both families carry the same transport packet.
        let transport_len = FRAME_V4 - ETHERNET - 20;
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend(ethertype::IPV4.to_be_bytes());
                let at = out.len();
                let total = (20 + transport_len) as u16;
                out.extend([0x45, 0]);
                out.extend(total.to_be_bytes());
                // No identification, don't fragment, TTL 64.
                out.extend([0, 0, 0x40, 0, 64, self.proto.0, 0, 0]);
                out.extend(src.octets());
                out.extend(dst.octets());
                let sum = checksum::of(&out[at..]);
                out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            }
            (src, dst) => {
                out.extend(ethertype::IPV6.to_be_bytes());
                out.extend([0x60, 0, 0, 0]);
                out.extend((transport_len as u16).to_be_bytes());
                out.extend([self.proto.0, 64]);
                for address in [src, dst] {
                    out.extend(match address {
                        IpAddr::V6(a) => a.octets(),
                        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    });
                }
            }
        }
        self.write_transport(transport_len, out);
    }

    fn write_transport(&self, len: usize, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend(self.src.port().to_be_bytes());
        out.extend(self.dst.port().to_be_bytes());
        let checksum_at = if self.proto == Proto::TCP {
            out.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags, 0x20, 0]);
            at + 16
        } else {
            out.extend((len as u16).to_be_bytes());
            at + 6
        };
        // Checksum, urgent pointer, payload.
        out.resize(at + len, 0);
        let sum = checksum::transport(self.src.ip(), self.dst.ip(), self.proto, &out[at..]);
        let sum = if sum == 0 && self.proto == Proto::UDP { 0xffff } else { sum };
        out[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernet::dataplane::wire;

    #[test]
    fn frames_are_sound_and_as_long_as_said() {
        for (src, dst, len) in
            [("10.0.0.1:7", "10.0.0.2:80", FRAME_V4), ("[fd00::1]:7", "[fd00::2]:80", FRAME_V6)]
        {
            for proto in [Proto::TCP, Proto::UDP] {
                let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
                let macs = (Mac::from_u64(2), Mac::from_u64(4));
                let sent = Template { port: PortId(3), macs, src, dst, proto, flags: tcp_flags::SYN };
                let mut frame = Vec::new();
                sent.write(&mut frame);
                assert_eq!(frame.len(), len);
                let p = wire::parse(&frame).unwrap();
                assert_eq!((p.src, p.dst, p.sport, p.dport), (src.ip(), dst.ip(), 7, 80));
                assert_eq!(checksum::transport(p.src, p.dst, proto, &frame[p.l4()..]), 0);
                let back = Template::answer(PortId(5), &p);
                assert_eq!((back.src, back.dst, back.macs), (dst, src, (macs.1, macs.0)));
            }
        }
    }
}
