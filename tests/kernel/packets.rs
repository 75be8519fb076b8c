//! Packets written field by field, also such as no sender makes.

use std::net::{IpAddr, SocketAddr};
use supernet_dataplane::{
    snapshot::GATEWAY_MAC,
    wire::{checksum, ethertype},
};
use supernet_testkit::{net::OUTSIDE_MAC, topology::mac};

use crate::network::{OUTSIDE, OUTSIDE_V6};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const URG: u8 = 32;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Source and destination of a packet.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// Source and destination, written down. Of ICMP the ports are not used.
pub(crate) fn ends(src: &str, sport: u16, dst: &str, dport: u16) -> Ends {
    let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
    (at(src, sport), at(dst, dport))
}

/// The ends of what answers the packet in a frame.
pub(crate) fn back(frame: &[u8]) -> Ends {
    let p = supernet_dataplane::wire::parse(frame).unwrap();
    (SocketAddr::new(p.dst, p.dport), SocketAddr::new(p.src, p.sport))
}

/// `len` bytes that count up.
pub(crate) fn counting(len: usize) -> Vec<u8> {
    (0..len).map(|n| n as u8).collect()
}

/// An IP packet in the making.
#[derive(Debug, Clone)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) id: u16,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    proto: u8,
    pub(crate) body: Vec<u8>,
}

impl Ip {
    /// A packet of any protocol.
    pub(crate) fn of((src, dst): Ends, proto: u8, body: Vec<u8>) -> Self {
        let (src, dst) = (src.ip(), dst.ip());
        let options = Vec::new();
        Self { src, dst, ttl: 64, tos: 0, dont_fragment: false, id: 0x4321, options, proto, body }
    }

    /// A UDP datagram.
    pub(crate) fn udp(ends: Ends, payload: &[u8]) -> Self {
        let len = (8 + payload.len()) as u16;
        let words = [ends.0.port(), ends.1.port(), len, 0].map(u16::to_be_bytes);
        Self::of(ends, UDP, [words.as_flattened(), payload].concat()).summed(6)
    }

    /// A TCP segment of 20 bytes of header.
    pub(crate) fn tcp(ends: Ends, flags: u8, (seq, ack): (u32, u32), payload: &[u8]) -> Self {
        let ports = [ends.0.port(), ends.1.port()].map(u16::to_be_bytes);
        let numbers = [seq, ack].map(u32::to_be_bytes);
        let rest = [0x50, flags, 0x20, 0, 0, 0, 0, 0];
        let body = [ports.as_flattened(), numbers.as_flattened(), &rest, payload].concat();
        Self::of(ends, TCP, body).summed(16)
    }

    /// An echo request or reply, as `kind` says.
    pub(crate) fn echo(ends: Ends, kind: u8, id: u16, payload: &[u8]) -> Self {
        let id = id.to_be_bytes();
        let proto = if ends.0.is_ipv4() { ICMP } else { ICMPV6 };
        Self::of(ends, proto, [&[kind, 0, 0, 0, id[0], id[1], 0, 1], payload].concat()).summed(2)
    }

    /// Writes the transport checksum, which is at `at`.
    fn summed(mut self, at: usize) -> Self {
        self.body[at..at + 2].fill(0);
        let proto = supernet_dataplane::wire::Proto(self.proto);
        let sum = checksum::transport(self.src, self.dst, proto, &self.body);
        self.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Takes the UDP checksum away.
    pub(crate) fn without_checksum(mut self) -> Self {
        self.body[6..8].fill(0);
        self
    }

    pub(crate) fn with_ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub(crate) fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    pub(crate) fn with_options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// The packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.options.len();
                let len = ((header + self.body.len()) as u16).to_be_bytes();
                let id = self.id.to_be_bytes();
                let flags = if self.dont_fragment { 0x40 } else { 0 };
                let first = 0x40 | (header / 4) as u8;
                let fixed =
                    [first, self.tos, len[0], len[1], id[0], id[1], flags, 0, self.ttl, self.proto, 0, 0];
                let mut out = [&fixed[..], &src.octets(), &dst.octets(), &self.options].concat();
                let sum = checksum::of(&out).to_be_bytes();
                out[10..12].copy_from_slice(&sum);
                out.extend(&self.body);
                out
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let len = (self.body.len() as u16).to_be_bytes();
                let fixed = [0x60 | self.tos >> 4, self.tos << 4, 0, 0, len[0], len[1], self.proto, self.ttl];
                [&fixed[..], &src.octets(), &dst.octets(), &self.body].concat()
            }
            ends => panic!("{ends:?} are of different families"),
        }
    }

    /// The frame in which a host sends it into port `port`.
    pub(crate) fn into(self, port: u32) -> Vec<u8> {
        let kind = if self.src.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 };
        let (src, dst) = macs(port);
        [&dst[..], &src, &kind.to_be_bytes(), &self.bytes()].concat()
    }
}

/// Source and destination MAC of frames that a host sends into port `port`.
fn macs(port: u32) -> ([u8; 6], [u8; 6]) {
    if port == OUTSIDE || port == OUTSIDE_V6 {
        let outside: supernet_dataplane::wire::Mac = OUTSIDE_MAC.parse().unwrap();
        (outside.0, mac(port).0)
    } else {
        (mac(port).0, GATEWAY_MAC.0)
    }
}
