//! Packets, sound and not, and how they are made up.

use crate::{Pair, network::*};
use proptest::{prelude::*, sample::select};
use std::net::{IpAddr, SocketAddr};
use supernet_dataplane::{
    snapshot::GATEWAY_MAC,
    wire::{self, Mac, Proto, arp, checksum, tcp_flags::*},
};
use supernet_testkit::{packet::Probe, topology::mac};

#[derive(Debug, Clone)]
pub(crate) enum Packet {
    /// From a port to a target.
    New { from: usize, to: usize, v6: bool, proto: Proto, sport: u16, shape: Shape },
    /// The answer to a frame that was delivered.
    Answer { to: usize, shape: Shape },
    /// A frame that was sent before, with other flags.
    Again { of: usize, shape: Shape },
}

/// How a packet looks, apart from whom it is to.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) size: Size,
    pub(crate) spoil: Spoil,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Size {
    /// This many bytes of payload.
    Payload(usize),
    /// An IP packet of this many bytes.
    Whole(usize),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Spoil {
    Nothing,
    SourceAddress,
    SourceMac,
    /// Straight to the pod with this number instead of the gateway.
    StraightTo(u32),
    /// To everybody in the segment.
    Broadcast,
    CutShort,
    /// With bytes after the packet.
    Padded(usize),
    Fragment,
    NoUdpChecksum,
    /// A bit is wrong, anywhere in the headers.
    Flip(usize, u8),
    /// The same, and the checksum of an IPv4 header is right.
    FlipAndMend(usize, u8),
}

impl Pair {
    /// The frame of a packet, and the port it comes in by; `None` if there is nothing that it could be about.
    pub(crate) fn build(&mut self, packet: &Packet) -> Option<(u32, Vec<u8>)> {
        let (port, mut probe, shape) = match packet {
            Packet::New { from, to, v6, proto, sport, shape } => {
                let (port, src, src_mac, dst_mac) = sender(*from, *v6);
                let proto = if *v6 && *proto == Proto::ICMP { Proto::ICMPV6 } else { *proto };
                let dst = address(TARGETS[*to][usize::from(*v6)]);
                let (src, dst) = (SocketAddr::new(src, *sport), SocketAddr::new(dst, 80));
                (port, Probe { src_mac, dst_mac, src, dst, proto, flags: 0, ttl: 0, payload: 0 }, shape)
            }
            Packet::Answer { to, shape } => {
                let (port, frame) = recent(&self.delivered, *to)?;
                // The network's own answers, and ARP, are not answered.
                let p = wire::parse(frame).ok()?;
                let carried = matches!(p.proto, Proto::TCP | Proto::UDP | Proto::SCTP);
                if !carried && !p.is_echo_request() && !p.is_echo_reply() {
                    return None;
                }
                (*port, Probe::answer(frame, 0), shape)
            }
            Packet::Again { of, shape } => {
                let (port, probe) = recent(&self.sent, *of)?;
                (*port, *probe, shape)
            }
        };
        let payload = match shape.size {
            Size::Payload(bytes) => bytes,
            Size::Whole(bytes) => bytes.saturating_sub(headers(&probe)),
        };
        probe = Probe { flags: shape.flags, ttl: shape.ttl, payload, ..probe };
        self.sent.push((port, probe));
        match shape.spoil {
            Spoil::SourceAddress => probe.src.set_ip(address(PODS[1][usize::from(probe.src.is_ipv6())])),
            Spoil::SourceMac => probe.src_mac = Mac([2, 0, 0, 0, 0xbb, 1]),
            Spoil::StraightTo(pod) => probe.dst_mac = mac(pod),
            Spoil::Broadcast => probe.dst_mac = Mac::BROADCAST,
            _ => {}
        }
        let mut frame = probe.frame();
        match shape.spoil {
            Spoil::CutShort => frame.truncate(40),
            Spoil::Padded(bytes) => frame.resize(frame.len() + bytes, 0xaa),
            Spoil::Fragment if probe.src.is_ipv4() => {
                // "Don't fragment" becomes "more fragments".
                let new = checksum::Delta::default().and16(0x4000, 0x2000);
                let sum = new.apply(u16::from_be_bytes([frame[24], frame[25]]));
                frame[20] = 0x20;
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            Spoil::NoUdpChecksum if probe.proto == Proto::UDP => {
                let at = if probe.src.is_ipv4() { 14 + 20 } else { 14 + 40 };
                frame[at + 6..at + 8].fill(0);
            }
            Spoil::Flip(at, bit) if at < frame.len() => frame[at] ^= 1 << bit,
            Spoil::FlipAndMend(at, bit) if at < frame.len() => {
                frame[at] ^= 1 << bit;
                if probe.src.is_ipv4() {
                    frame[24..26].fill(0);
                    let sum = checksum::of(&frame[14..34]);
                    frame[24..26].copy_from_slice(&sum.to_be_bytes());
                }
            }
            _ => {}
        }
        Some((port, frame))
    }
}

/// Bytes of headers behind Ethernet.
pub(crate) fn headers(probe: &Probe) -> usize {
    let ip = if probe.src.is_ipv4() { 20 } else { 40 };
    ip + match probe.proto {
        Proto::TCP => 20,
        Proto::SCTP => 12,
        _ => 8,
    }
}

/// One of the last few.
pub(crate) fn recent<T>(all: &[T], n: usize) -> Option<&T> {
    let last = &all[all.len().saturating_sub(16)..];
    last.get(n % last.len().max(1))
}

/// Port, address and MACs of who sends: a pod, or a client beyond an uplink.
pub(crate) fn sender(from: usize, v6: bool) -> (u32, IpAddr, Mac, Mac) {
    match PODS.get(from) {
        Some(pod) => (from as u32, address(pod[usize::from(v6)]), mac(from as u32), GATEWAY_MAC),
        None => {
            let port = UPLINKS[from - PODS.len()];
            let client = CLIENTS[from % CLIENTS.len()][usize::from(v6)];
            (port, address(client), Mac([2, 0, 0, 0, 0xee, 1]), mac(port))
        }
    }
}

/// The ARP reply of a next hop whose MAC is not configured.
pub(crate) fn neighbor_answer(hop: usize) -> (u32, Vec<u8>) {
    let (port, hop, own) = [
        (UPLINKS[0], [192, 168, 100, 253], [192, 168, 100, 1]),
        (UPLINKS[2], [192, 168, 101, 253], [192, 168, 101, 1]),
    ][hop];
    let mut frame = vec![0; arp::FRAME];
    arp::request(&mut frame, (mac(port), own.into()), hop.into());
    let request = arp::Arp::read(&frame, wire::ETHERNET);
    arp::reply_in_place(&mut frame, &request, Mac([2, 0, 0, 0, 0xee, 9]));
    (port, frame)
}

/// The shape of a packet with mostly these flags.
pub(crate) fn shape(usual: u8) -> impl Strategy<Value = Shape> {
    let others = select(vec![SYN, ACK, SYN | ACK, FIN | ACK, RST]);
    let flags = prop_oneof![5 => Just(usual), 1 => others];
    let ttl = prop_oneof![12 => Just(64u8), 2 => 0..5u8, 1 => Just(255)];
    let whole = prop_oneof![select(vec![usize::from(SMALL_MTU), 1500]), 1300..1600usize];
    let size = prop_oneof![
        16 => (0..60usize).prop_map(Size::Payload),
        2 => (whole, 0..3usize).prop_map(|(bytes, more)| Size::Whole(bytes + more - 1)),
    ];
    let spoil = prop_oneof![
        30 => Just(Spoil::Nothing),
        1 => Just(Spoil::SourceAddress),
        1 => Just(Spoil::SourceMac),
        3 => (0..3u32).prop_map(Spoil::StraightTo),
        1 => Just(Spoil::Broadcast),
        1 => Just(Spoil::CutShort),
        1 => (1..30usize).prop_map(Spoil::Padded),
        1 => Just(Spoil::Fragment),
        3 => Just(Spoil::NoUdpChecksum),
        1 => (0..80usize, 0..8u8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        2 => (12..80usize, 0..8u8).prop_map(|(at, bit)| Spoil::FlipAndMend(at, bit)),
    ];
    (flags, ttl, size, spoil).prop_map(|(flags, ttl, size, spoil)| Shape { flags, ttl, size, spoil })
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let proto = || select(vec![Proto::TCP, Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP]);
    let new = |from: std::ops::Range<usize>, to: std::ops::Range<usize>| {
        (from, to, any::<bool>(), proto(), 4000..4003u16, shape(SYN))
            .prop_map(|(from, to, v6, proto, sport, shape)| Packet::New { from, to, v6, proto, sport, shape })
    };
    let (pods, uplinks) = (0..PODS.len(), PODS.len()..PODS.len() + UPLINKS.len());
    prop_oneof![
        4 => new(pods.clone(), 0..8),
        1 => new(pods, 0..TARGETS.len()),
        2 => new(uplinks.clone(), 0..6),
        1 => new(uplinks, 0..TARGETS.len()),
        12 => (any::<usize>(), shape(ACK)).prop_map(|(to, shape)| Packet::Answer { to, shape }),
        8 => (any::<usize>(), shape(ACK)).prop_map(|(of, shape)| Packet::Again { of, shape }),
    ]
}
