//! Packets, sound and not, and how they are made up.

use crate::{Frames, Pair, network::*};
use proptest::{collection::vec, prelude::*, sample::select};
use std::net::{IpAddr, SocketAddr};
use supernet_dataplane::{
    snapshot::GATEWAY_MAC,
    wire::{self, Mac, Proto, arp, checksum, tcp_flags::*},
};
use supernet_testkit::{
    fragments::cut,
    packet::{Probe, icmp_error},
    topology::mac,
};

#[derive(Debug, Clone)]
pub(crate) enum Packet {
    /// From a port to a target.
    New { from: usize, to: usize, v6: bool, proto: Proto, sport: u16, shape: Shape },
    /// The answer to a frame that was delivered.
    Answer { to: usize, shape: Shape },
    /// A frame that was sent before, with other flags.
    Again { of: usize, shape: Shape },
    /// An ICMP error about a frame that was delivered.
    Error { about: usize, kind: (u8, u8), by_router: bool, quote: usize, spoil: Option<(usize, u8)> },
}

impl Packet {
    /// The same in one piece.
    pub(crate) fn whole(mut self) -> Self {
        if let Self::New { shape, .. } | Self::Answer { shape, .. } | Self::Again { shape, .. } = &mut self {
            shape.pieces = None;
        }
        self
    }
}

/// How a packet looks, apart from whom it is to.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) size: Size,
    pub(crate) spoil: Spoil,
    pub(crate) pieces: Option<Pieces>,
}

/// How a packet is cut into fragments.
#[derive(Debug, Clone)]
pub(crate) struct Pieces {
    /// In eights of bytes.
    cuts: Vec<usize>,
    /// How they are mixed.
    order: u64,
    /// Bits of those that are lost, and of those that come twice.
    lost: u8,
    twice: u8,
    id: u32,
}

/// Whether a frame, spoiled as it may be, is of a packet that a sender could cut.
fn can_be_cut(frame: &[u8]) -> bool {
    wire::parse(frame).is_ok_and(|p| match p.l3 {
        wire::L3::V4 => p.l3() == wire::ETHERNET,
        wire::L3::V6 => p.l3() == wire::ETHERNET && !p.options,
        wire::L3::Arp | wire::L3::Other => false,
    })
}

impl Pieces {
    fn of(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut cuts: Vec<usize> = self.cuts.iter().map(|n| n * 8).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut all = Vec::new();
        for (n, fragment) in cut(frame, &cuts, self.id).into_iter().enumerate() {
            let times = usize::from(self.lost >> n & 1 == 0) + usize::from(self.twice >> n & 1 == 1);
            all.extend(std::iter::repeat_n(fragment, times));
        }
        for n in (1..all.len()).rev() {
            all.swap(n, (self.order.rotate_left(n as u32 * 7) % (n as u64 + 1)) as usize);
        }
        all
    }
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
    NoUdpChecksum,
    /// A bit is wrong, anywhere in the headers.
    Flip(usize, u8),
    /// The same, and the checksum of an IPv4 header is right.
    FlipAndMend(usize, u8),
}

impl Pair {
    /// The frames of a packet, and the port they come in by; none if there is nothing that it could be about.
    pub(crate) fn build(&mut self, packet: &Packet) -> Frames {
        self.build_some(packet).unwrap_or_default()
    }

    fn build_some(&mut self, packet: &Packet) -> Option<Frames> {
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
            Packet::Error { about, kind, by_router, quote, spoil } => {
                let (port, frame) = recent(&self.delivered, *about)?;
                return error_about(*port, frame, *kind, *by_router, *quote, *spoil).map(|frame| vec![frame]);
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
        let frames = match &shape.pieces {
            Some(pieces) if can_be_cut(&frame) => pieces.of(&frame),
            _ => vec![frame],
        };
        Some(frames.into_iter().map(|frame| (port, frame)).collect())
    }
}

/// An ICMP error about a frame that was delivered at a port, as it comes back there.
fn error_about(
    port: u32,
    frame: &[u8],
    (kind, code): (u8, u8),
    by_router: bool,
    quote: usize,
    spoil: Option<(usize, u8)>,
) -> Option<(u32, Vec<u8>)> {
    let p = wire::parse(frame).ok().filter(|p| matches!(p.l3, wire::L3::V4 | wire::L3::V6))?;
    let router = CLIENTS[0][usize::from(p.dst.is_ipv6())];
    let from = if by_router { address(router) } else { p.dst };
    let mut error = icmp_error(frame, (kind, code), [0, 0, 5, 0], from, quote);
    if let Some((at, bit)) = spoil.filter(|(at, _)| *at < error.len()) {
        error[at] ^= 1 << bit;
        // The wrong bit is in the quote, and the error around it is sound.
        let e = wire::parse(&error).ok()?;
        let (l4, end) = (e.l4(), usize::from(e.end));
        error[l4 + 2..l4 + 4].fill(0);
        let sum = checksum::transport(e.src, e.dst, e.proto, &error[l4..end]);
        error[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
    }
    Some((port, error))
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
        3 => Just(Spoil::NoUdpChecksum),
        1 => (0..80usize, 0..8u8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        2 => (12..80usize, 0..8u8).prop_map(|(at, bit)| Spoil::FlipAndMend(at, bit)),
    ];
    let pieces = (vec(1..30usize, 1..4), any::<u64>(), 0..8u8, 0..8u8, 0..4u32);
    let pieces = pieces.prop_map(|(cuts, order, lost, twice, id)| {
        // Mostly all of them come.
        Pieces { cuts, order, lost: lost & (lost >> 1), twice: twice & (twice >> 1), id }
    });
    let pieces = prop_oneof![8 => Just(None), 1 => pieces.prop_map(Some)];
    (flags, ttl, size, spoil, pieces).prop_map(|(flags, ttl, size, spoil, pieces)| Shape {
        flags,
        ttl,
        size,
        spoil,
        pieces,
    })
}

/// An ICMP error of any kind.
fn error() -> impl Strategy<Value = Packet> {
    let kinds =
        vec![(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 1), (1, 4), (2, 0), (4, 0), (7, 7)];
    let quote = prop_oneof![2 => Just(600usize), 1 => Just(28usize), 1 => 0..100usize];
    let spoil = prop_oneof![4 => Just(None), 1 => (34..110usize, 0..8u8).prop_map(Some)];
    (any::<usize>(), select(kinds), any::<bool>(), quote, spoil).prop_map(
        |(about, kind, by_router, quote, spoil)| Packet::Error { about, kind, by_router, quote, spoil },
    )
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
        3 => error(),
    ]
}
