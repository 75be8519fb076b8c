//! Packets, sound and not, and how they are made up.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "what it reads it has written")]

use super::{messages::Message, network::*};
use crate::{
    fragments::{body_len, cut, piece},
    packet::{Probe, icmp_error},
    topology::mac,
};
use std::net::{IpAddr, SocketAddr};
use supernet_dataplane::{
    snapshot::GATEWAY_MAC,
    wire::{self, ETHERNET, L3, Mac, Proto, checksum, ethertype},
};

/// Frames, and the ports that they come in by or go out by.
pub type Frames = Vec<(u32, Vec<u8>)>;

/// What comes in by a port.
#[derive(Debug, Clone)]
pub enum Packet {
    /// From a port to a target.
    New {
        /// Who sends it, see [`sender`].
        from: usize,
        /// Whom it is for, of [`TARGETS`].
        to: usize,
        /// Its family.
        v6: bool,
        /// Its protocol; ICMP is that of the family.
        proto: Proto,
        /// Its source port.
        sport: u16,
        /// Its destination port.
        dport: u16,
        /// The rest.
        shape: Shape,
    },
    /// The answer to a frame that was delivered.
    Answer {
        /// Which of the last.
        to: usize,
        /// The rest.
        shape: Shape,
    },
    /// A packet that was sent before, in another shape.
    Again {
        /// Which of the last.
        of: usize,
        /// The rest.
        shape: Shape,
    },
    /// A fragment of a packet that was sent before, wherever that was cut.
    Piece {
        /// Which of the last.
        of: usize,
        /// Its first byte, and how many there are.
        bytes: (usize, usize),
        /// Whether it claims that more follow.
        more: bool,
        /// Its identification.
        id: u32,
    },
    /// An ICMP error about a frame that was delivered.
    Error {
        /// Which of the last.
        about: usize,
        /// Its type and code.
        kind: (u8, u8),
        /// A router sends it, and not whom the frame was for.
        by_router: bool,
        /// How many bytes it quotes.
        quote: usize,
        /// A bit that is wrong in it.
        spoil: Option<(usize, u8)>,
    },
    /// A message between neighbors, or to many.
    Message(Message),
    /// A frame that was sent before, with some bits turned.
    Twisted {
        /// Which of the last.
        of: usize,
        /// Where, and which bits.
        turned: [(usize, u8); 2],
    },
    /// Whatever this is.
    Raw(u32, Vec<u8>),
}

impl Packet {
    /// The same in one piece.
    #[must_use]
    pub fn whole(mut self) -> Self {
        if let Self::New { shape, .. } | Self::Answer { shape, .. } | Self::Again { shape, .. } = &mut self {
            shape.pieces = None;
        }
        self
    }

    /// Whether its checksums are right.
    pub fn is_sound(&self) -> bool {
        match self {
            Self::New { shape, .. } | Self::Answer { shape, .. } | Self::Again { shape, .. } => {
                matches!(shape.spoil, Spoil::Nothing | Spoil::MayCut | Spoil::StraightTo(_))
            }
            Self::Error { spoil, .. } => spoil.is_none(),
            _ => false,
        }
    }
}

/// How a packet looks, apart from whom it is to.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Of TCP. Of ICMP, ACK makes an echo reply.
    pub flags: u8,
    /// TTL.
    pub ttl: u8,
    /// How large it is.
    pub size: Size,
    /// What is wrong with it.
    pub spoil: Spoil,
    /// It comes in fragments.
    pub pieces: Option<Pieces>,
}

/// How a packet is cut into fragments.
#[derive(Debug, Clone)]
pub struct Pieces {
    /// Where, in eights of bytes.
    pub cuts: Vec<usize>,
    /// How they are mixed.
    pub order: u64,
    /// Bits of those that are lost.
    pub lost: u8,
    /// Bits of those that come twice.
    pub twice: u8,
    /// Their identification.
    pub id: u32,
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

/// How large a packet is.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// This many bytes of payload.
    Payload(usize),
    /// An IP packet of this many bytes.
    Whole(usize),
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy)]
pub enum Spoil {
    /// All is well.
    Nothing,
    /// It has another pod's address.
    SourceAddress,
    /// It has nobody's MAC.
    SourceMac,
    /// Straight to the pod with this number instead of the gateway.
    StraightTo(u32),
    /// To everybody in the segment.
    Broadcast,
    /// Its end is missing.
    CutShort,
    /// With bytes after the packet.
    Padded(usize),
    /// It has no checksum, if it is UDP.
    NoUdpChecksum,
    /// A bit is wrong, anywhere in the headers.
    Flip(usize, u8),
    /// The same, and the checksum of an IPv4 header is right.
    FlipAndMend(usize, u8),
    /// Of IPv4: routers may cut it.
    MayCut,
    /// With IP options, or an extension header.
    Options,
    /// With a VLAN tag.
    Tagged,
}

/// What went in and came out so far.
#[derive(Debug, Default)]
pub struct History {
    /// Packets as they were meant to be, and where they came in.
    pub probes: Vec<(u32, Probe)>,
    /// Everything that was sent.
    pub sent: Frames,
    /// Everything that was delivered.
    pub delivered: Frames,
}

impl History {
    /// The frames of a packet, and the port they come in by; none if there is nothing that it could be about.
    pub fn build(&mut self, packet: &Packet) -> Frames {
        let frames = self.build_some(packet).unwrap_or_default();
        self.sent.extend(frames.iter().cloned());
        frames
    }

    fn build_some(&mut self, packet: &Packet) -> Option<Frames> {
        let (port, probe, shape) = match packet {
            Packet::New { from, to, v6, proto, sport, dport, shape } => {
                let (port, src, src_mac, dst_mac) = sender(*from, *v6);
                let proto = if *v6 && *proto == Proto::ICMP { Proto::ICMPV6 } else { *proto };
                let dst = address(TARGETS[*to][usize::from(*v6)]);
                let (src, dst) = (SocketAddr::new(src, *sport), SocketAddr::new(dst, *dport));
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
                let (port, probe) = recent(&self.probes, *of)?;
                (*port, *probe, shape)
            }
            Packet::Piece { of, bytes: (from, count), more, id } => {
                let (port, probe) = recent(&self.probes, *of)?;
                let frame = probe.frame();
                let end = body_len(&frame);
                let from = (*from).min(end);
                return Some(vec![(*port, piece(&frame, from..(from + count).min(end), *more, *id))]);
            }
            Packet::Error { about, kind, by_router, quote, spoil } => {
                let (port, frame) = recent(&self.delivered, *about)?;
                return error_about(*port, frame, *kind, *by_router, *quote, *spoil).map(|frame| vec![frame]);
            }
            Packet::Message(message) => return Some(vec![message.frame()]),
            Packet::Twisted { of, turned } => {
                let (port, mut frame) = recent(&self.sent, *of).cloned()?;
                for (at, bits) in turned {
                    let len = frame.len().max(1);
                    *frame.get_mut(at % len)? ^= bits;
                }
                return Some(vec![(port, frame)]);
            }
            Packet::Raw(port, frame) => return Some(vec![(*port, frame.clone())]),
        };
        let payload = match shape.size {
            Size::Payload(bytes) => bytes,
            Size::Whole(bytes) => bytes.saturating_sub(headers(&probe)),
        };
        let probe = Probe { flags: shape.flags, ttl: shape.ttl, payload, ..probe };
        self.probes.push((port, probe));
        let frame = shape.spoil.apply(probe);
        let can_cut = |p: wire::Packet| matches!(p.l3, L3::V4 | L3::V6) && !p.options && !p.tagged;
        let frames = match &shape.pieces {
            Some(pieces) if wire::parse(&frame).is_ok_and(can_cut) => pieces.of(&frame),
            _ => vec![frame],
        };
        Some(frames.into_iter().map(|frame| (port, frame)).collect())
    }
}

impl Spoil {
    /// The frame of a packet of which this is wrong.
    fn apply(self, mut probe: Probe) -> Vec<u8> {
        match self {
            Self::SourceAddress => probe.src.set_ip(address(PODS[1][usize::from(probe.src.is_ipv6())])),
            Self::SourceMac => probe.src_mac = Mac([2, 0, 0, 0, 0xbb, 1]),
            Self::StraightTo(pod) => probe.dst_mac = mac(pod),
            Self::Broadcast => probe.dst_mac = Mac::BROADCAST,
            _ => {}
        }
        let mut frame = probe.frame();
        let is_v4 = probe.src.is_ipv4();
        match self {
            Self::CutShort => frame.truncate(40),
            Self::Padded(bytes) => frame.resize(frame.len() + bytes, 0xaa),
            Self::NoUdpChecksum if probe.proto == Proto::UDP => {
                let at = ETHERNET + if is_v4 { 20 } else { 40 };
                frame[at + 6..at + 8].fill(0);
            }
            Self::Flip(at, bit) if at < frame.len() => frame[at] ^= 1 << bit,
            Self::FlipAndMend(at, bit) if at < frame.len() => {
                frame[at] ^= 1 << bit;
                mend(&mut frame, is_v4);
            }
            Self::MayCut if is_v4 => {
                frame[20] &= !0x40;
                mend(&mut frame, true);
            }
            Self::Options if is_v4 => {
                frame.splice(34..34, [1; 4]);
                frame[14] += 1;
                let len = (frame.len() - ETHERNET) as u16;
                frame[16..18].copy_from_slice(&len.to_be_bytes());
                mend(&mut frame, true);
            }
            Self::Options => {
                let next = std::mem::replace(&mut frame[20], 0);
                frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
                let len = (frame.len() - ETHERNET - 40) as u16;
                frame[18..20].copy_from_slice(&len.to_be_bytes());
            }
            Self::Tagged => {
                let [high, low] = ethertype::VLAN.to_be_bytes();
                frame.splice(12..12, [high, low, 0, 7]);
            }
            _ => {}
        }
        frame
    }
}

/// Makes the checksum of an IPv4 header right.
fn mend(frame: &mut [u8], is_v4: bool) {
    if is_v4 {
        let end = (ETHERNET + usize::from(frame[14] & 0xf) * 4).clamp(34, frame.len());
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
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
    let p = wire::parse(frame).ok().filter(|p| matches!(p.l3, L3::V4 | L3::V6))?;
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
pub fn headers(probe: &Probe) -> usize {
    let ip = if probe.src.is_ipv4() { 20 } else { 40 };
    ip + match probe.proto {
        Proto::TCP => 20,
        Proto::SCTP => 12,
        _ => 8,
    }
}

/// One of the last few, counted from the last.
pub fn recent<T>(all: &[T], n: usize) -> Option<&T> {
    let last = &all[all.len().saturating_sub(16)..];
    last.iter().rev().nth(n % last.len().max(1))
}

/// Port, address and MACs of who sends: a pod, or a client beyond an uplink.
pub fn sender(from: usize, v6: bool) -> (u32, IpAddr, Mac, Mac) {
    match PODS.get(from) {
        Some(pod) => (from as u32, address(pod[usize::from(v6)]), mac(from as u32), GATEWAY_MAC),
        None => {
            let port = UPLINKS[from - PODS.len()];
            let client = CLIENTS[from % CLIENTS.len()][usize::from(v6)];
            (port, address(client), Mac([2, 0, 0, 0, 0xee, 1]), mac(port))
        }
    }
}
