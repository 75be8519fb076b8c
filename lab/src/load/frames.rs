//! Frames of a connection: as small as Ethernet has them, with correct checksums.
//!
//! A [`Template`] says what a frame is; [`Frames`] keeps millions of them in ten bytes each, so that what a
//! load has to remember of its connections does not push the dataplane's tables out of the caches.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
};
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

/// Frames of one family to be sent over and over.
///
/// A frame is what its *kind* has in common (port, MACs, protocol, flags), with two addresses and two ports put
/// in. Kinds and addresses are numbered, so a frame takes five numbers; its checksums are sums of what the
/// parts bring.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    /// Bytes of each frame.
    len: usize,
    kinds: Numbered<KindKey, Kind>,
    addresses: Numbered<IpAddr, Address>,
    /// Kind, source, destination, source port, destination port.
    records: Vec<[u16; 5]>,
}

type KindKey = (PortId, Mac, Mac, Proto, u8);

#[derive(Debug, Clone)]
struct Kind {
    port: PortId,
    proto: Proto,
    /// The frame with zero for addresses, ports and checksums.
    bytes: [u8; FRAME_V6],
    /// Sums of the header and of the transport packet with its pseudo header, as they are then.
    l3_sum: u32,
    l4_sum: u32,
}

#[derive(Debug, Clone)]
struct Address {
    octets: [u8; 16],
    sum: u32,
}

impl Frames {
    /// None yet, of `len` bytes each: [`FRAME_V4`] or [`FRAME_V6`].
    pub(super) fn new(len: usize) -> Self {
        Self { len, kinds: Numbered::new(), addresses: Numbered::new(), records: Vec::new() }
    }

    /// Makes room for this many more.
    pub(super) fn reserve(&mut self, frames: usize) {
        self.records.reserve_exact(frames);
    }

    /// Adds one; `None`, and nothing added, when there are more than 65,536 kinds or addresses.
    #[must_use]
    pub(super) fn push(&mut self, t: &Template) -> Option<()> {
        let kind = (t.port, t.macs.0, t.macs.1, t.proto, t.flags);
        let kind = self.kinds.number(kind, || Kind::of(t))?;
        let src = self.addresses.number(t.src.ip(), || Address::of(t.src.ip()))?;
        let dst = self.addresses.number(t.dst.ip(), || Address::of(t.dst.ip()))?;
        self.records.push([kind, src, dst, t.src.port(), t.dst.port()]);
        Some(())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of each.
    pub(super) fn frame_len(&self) -> usize {
        self.len
    }

    /// Where number `at` comes in.
    pub(super) fn port(&self, at: usize) -> PortId {
        self.kinds.values[usize::from(self.records[at][0])].port
    }

    /// Puts number `at` together in the first bytes of `out`, and says where it comes in.
    pub(super) fn write(&self, at: usize, out: &mut [u8; FRAME_V6]) -> PortId {
        let [kind, src, dst, sport, dport] = self.records[at];
        let kind = &self.kinds.values[usize::from(kind)];
        let (src, dst) = (&self.addresses.values[usize::from(src)], &self.addresses.values[usize::from(dst)]);
        *out = kind.bytes;
        let addresses = src.sum + dst.sum;
        let l4 = if self.len == FRAME_V4 {
            out[24..26].copy_from_slice(&complement(kind.l3_sum + addresses).to_be_bytes());
            out[26..30].copy_from_slice(&src.octets[..4]);
            out[30..34].copy_from_slice(&dst.octets[..4]);
            34
        } else {
            out[22..38].copy_from_slice(&src.octets);
            out[38..54].copy_from_slice(&dst.octets);
            54
        };
        out[l4..l4 + 2].copy_from_slice(&sport.to_be_bytes());
        out[l4 + 2..l4 + 4].copy_from_slice(&dport.to_be_bytes());
        let sum = complement(kind.l4_sum + addresses + u32::from(sport) + u32::from(dport));
        let (at, sum) = match kind.proto {
            Proto::TCP => (16, sum),
            _ if sum == 0 => (6, 0xffff),
            _ => (6, sum),
        };
        out[l4 + at..l4 + at + 2].copy_from_slice(&sum.to_be_bytes());
        kind.port
    }
}

impl Kind {
    fn of(t: &Template) -> Self {
        let any: SocketAddr = if t.src.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let mut frame = Vec::with_capacity(FRAME_V6);
        Template { src: any, dst: any, ..*t }.write(&mut frame);
        let l4 = if t.src.is_ipv4() { 34 } else { 54 };
        let at = l4 + if t.proto == Proto::TCP { 16 } else { 6 };
        let mut sum_at = |at: usize| {
            let sum = !u16::from_be_bytes([frame[at], frame[at + 1]]);
            frame[at..at + 2].fill(0);
            u32::from(sum)
        };
        let l4_sum = sum_at(at);
        let l3_sum = if t.src.is_ipv4() { sum_at(24) } else { 0 };
        let mut bytes = [0; FRAME_V6];
        bytes[..frame.len()].copy_from_slice(&frame);
        Self { port: t.port, proto: t.proto, bytes, l3_sum, l4_sum }
    }
}

impl Address {
    fn of(address: IpAddr) -> Self {
        let mut octets = [0; 16];
        match address {
            IpAddr::V4(a) => octets[..4].copy_from_slice(&a.octets()),
            IpAddr::V6(a) => octets = a.octets(),
        }
        let sum = octets.chunks_exact(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        Self { octets, sum }
    }
}

/// The Internet checksum that makes this sum of 16-bit words whole.
fn complement(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Values that are kept once, and numbered.
#[derive(Debug, Clone)]
struct Numbered<K, V> {
    numbers: HashMap<K, u16>,
    values: Vec<V>,
}

impl<K: Hash + Eq, V> Numbered<K, V> {
    fn new() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }

    fn number(&mut self, key: K, make: impl FnOnce() -> V) -> Option<u16> {
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        let number = u16::try_from(self.values.len()).ok()?;
        self.values.push(make());
        self.numbers.insert(key, number);
        Some(number)
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

    #[test]
    fn frames_in_ten_bytes_are_the_frames_themselves() {
        let mut random = 7_u64;
        let mut draw = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % end
        };
        for len in [FRAME_V4, FRAME_V6] {
            let (mut frames, mut sent) = (Frames::new(len), Vec::new());
            for _ in 0..2000 {
                let mut address = || -> IpAddr {
                    let (high, low) = (draw(3) as u16, draw(40) as u16);
                    match len {
                        FRAME_V4 => [10, high as u8, 0xff, low as u8].into(),
                        _ => [0xfd00, high, 0, 0, 0xffff, 0, 0, low].into(),
                    }
                };
                let (src, dst) = (address(), address());
                let (sport, dport) = (draw(1 << 16) as u16, draw(1 << 16) as u16);
                let template = Template {
                    port: PortId(draw(5) as u32),
                    macs: (Mac::from_u64(2), Mac::from_u64(4)),
                    src: (src, sport).into(),
                    dst: (dst, dport).into(),
                    proto: if draw(2) == 0 { Proto::TCP } else { Proto::UDP },
                    flags: if draw(2) == 0 { tcp_flags::ACK } else { tcp_flags::SYN },
                };
                frames.push(&template).unwrap();
                sent.push(template);
            }
            for (at, template) in sent.iter().enumerate() {
                let (mut expected, mut frame) = (Vec::new(), [0xaa; FRAME_V6]);
                template.write(&mut expected);
                assert_eq!(frames.write(at, &mut frame), template.port);
                assert_eq!(frame[..len], expected, "{template:?}");
            }
            assert_eq!(frames.len(), 2000);
        }
    }
}
