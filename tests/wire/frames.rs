//! Arbitrary frames, sound ones.

use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_dataplane::wire::{Proto, checksum};

/// A frame by its parts.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) tagged: bool,
    pub(crate) addresses: (IpAddr, IpAddr),
    pub(crate) ttl: u8,
    /// IPv4 options, a multiple of four bytes; unused for IPv6.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers, as number and further units of eight bytes; unused for IPv4.
    pub(crate) extensions: Vec<(u8, u8)>,
    pub(crate) proto: Proto,
    pub(crate) ports: (u16, u16),
    /// TCP options, a multiple of four bytes.
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
    /// Bytes after the IP packet.
    pub(crate) padding: usize,
}

impl Parts {
    /// Offset of the network header.
    pub(crate) fn l3(&self) -> usize {
        if self.tagged { 18 } else { 14 }
    }

    /// Offset of the transport header.
    pub(crate) fn l4(&self) -> usize {
        let network = match self.addresses.0 {
            IpAddr::V4(_) => 20 + self.options.len(),
            IpAddr::V6(_) => {
                40 + self.extensions.iter().map(|(_, units)| 8 + 8 * usize::from(*units)).sum::<usize>()
            }
        };
        self.l3() + network
    }

    /// The frame, with correct checksums.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if self.tagged {
            out.extend([0x81, 0x00, 0x00, 0x07]);
        }
        match self.addresses {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend([0x08, 0x00]);
                let at = out.len();
                let header = 20 + self.options.len();
                out.extend([0x40 | (header / 4) as u8, 0x03]);
                out.extend(((header + transport.len()) as u16).to_be_bytes());
                out.extend([0x12, 0x34, 0x40, 0, self.ttl, self.proto.0, 0, 0]);
                out.extend(src.octets());
                out.extend(dst.octets());
                out.extend(&self.options);
                let sum = checksum::of(&out[at..]).to_be_bytes();
                out[at + 10..at + 12].copy_from_slice(&sum);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend([0x86, 0xdd, 0x60, 0x12, 0x34, 0x56]);
                let len = self.l4() - self.l3() - 40 + transport.len();
                out.extend((len as u16).to_be_bytes());
                let mut chain: Vec<u8> = self.extensions.iter().map(|(number, _)| *number).collect();
                chain.push(self.proto.0);
                out.extend([chain[0], self.ttl]);
                out.extend(src.octets());
                out.extend(dst.octets());
                for ((_, units), next) in self.extensions.iter().zip(&chain[1..]) {
                    out.extend([*next, *units]);
                    // PadN (RFC 8200, 4.2) would be proper; nobody looks.
                    out.resize(out.len() + 6 + 8 * usize::from(*units), 0);
                }
            }
            (src, dst) => panic!("{src} and {dst}"),
        }
        out.extend(transport);
        out.resize(out.len() + self.padding, 0xee);
        out
    }

    fn transport(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (sport, dport) = self.ports;
        out.extend(sport.to_be_bytes());
        out.extend(dport.to_be_bytes());
        let checksum_at = match self.proto {
            Proto::TCP => {
                let header = 20 + self.tcp_options.len();
                out.extend([
                    0,
                    0,
                    0x10,
                    0,
                    0,
                    0,
                    0x20,
                    0,
                    ((header / 4) << 4) as u8,
                    self.flags,
                    1,
                    0,
                    0,
                    0,
                    0,
                    0,
                ]);
                out.extend(&self.tcp_options);
                Some(16)
            }
            Proto::UDP => {
                out.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                out.extend([0, 0]);
                Some(6)
            }
            Proto::ICMP | Proto::ICMPV6 => {
                // An echo request or reply, by the flags; the source port is its identifier.
                let request = self.flags & 1 == 0;
                let kind = match (self.proto, request) {
                    (Proto::ICMP, true) => 8,
                    (Proto::ICMP, false) => 0,
                    (_, true) => 128,
                    (_, false) => 129,
                };
                out = vec![kind, 0, 0, 0];
                out.extend(sport.to_be_bytes());
                out.extend([0, 9]);
                Some(2)
            }
            Proto::SCTP => {
                out.extend([1, 2, 3, 4, 0, 0, 0, 0]);
                None
            }
            _ => None,
        };
        out.extend(&self.payload);
        if let Some(at) = checksum_at {
            let sum = checksum::transport(self.addresses.0, self.addresses.1, self.proto, &out);
            let sum = if sum == 0 && self.proto == Proto::UDP { 0xffff } else { sum };
            out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if self.proto == Proto::SCTP {
            let crc = checksum::sctp(&out).to_le_bytes();
            out[8..12].copy_from_slice(&crc);
        }
        out
    }
}

/// Sound frames of every kind that is read.
pub(crate) fn parts() -> impl Strategy<Value = Parts> {
    let addresses = prop_oneof![
        any::<(u32, u32)>()
            .prop_map(|(a, b)| { (IpAddr::V4(Ipv4Addr::from_bits(a)), IpAddr::V4(Ipv4Addr::from_bits(b))) }),
        any::<(u128, u128)>()
            .prop_map(|(a, b)| { (IpAddr::V6(Ipv6Addr::from_bits(a)), IpAddr::V6(Ipv6Addr::from_bits(b))) }),
    ];
    let options =
        |most: usize| (0..=most).prop_flat_map(|words: usize| prop::collection::vec(any::<u8>(), words * 4));
    let extension = prop_oneof![Just(43), Just(60), Just(135), Just(139), Just(140)];
    let extensions = (any::<bool>(), prop::collection::vec((extension, 0u8..3), 0..4)).prop_map(
        |(hop_by_hop, mut rest)| {
            // Hop-by-hop options come first, or not at all.
            if hop_by_hop {
                rest.insert(0, (0, 1));
            }
            rest
        },
    );
    let proto = prop_oneof![
        3 => Just(Proto::TCP), 3 => Just(Proto::UDP), 1 => Just(Proto::SCTP), 2 => Just(Proto::ICMP),
        1 => Just(Proto(47)),
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    let frame = (any::<bool>(), addresses, any::<u8>(), options(10), extensions);
    let transport = (proto, any::<(u16, u16)>(), options(10), any::<u8>(), payload, 0..24usize);
    (frame, transport).prop_map(|((tagged, addresses, ttl, options, extensions), transport)| {
        let (proto, ports, tcp_options, flags, payload, padding) = transport;
        let proto = if proto == Proto::ICMP && addresses.0.is_ipv6() { Proto::ICMPV6 } else { proto };
        Parts {
            tagged,
            addresses,
            ttl,
            options,
            extensions,
            proto,
            ports,
            tcp_options,
            flags,
            payload,
            padding,
        }
    })
}
