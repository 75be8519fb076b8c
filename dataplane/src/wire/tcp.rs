//! TCP: what a segment says, resets (RFC 9293, 3.10.7.1), and the maximum segment size.

use super::{Mac, Packet, be16, be32, checksum::Delta, put16, tcp_flags::*};
use etherparse::PacketBuilder;
use std::net::IpAddr;

/// The addresses and ports of a segment to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Source address and port.
    pub from: (IpAddr, u16),
    /// Destination address and port.
    pub to: (IpAddr, u16),
    /// Source and destination MAC.
    pub macs: (Mac, Mac),
}

/// What a segment says of its place in its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its flags.
    pub flags: u8,
    /// Its sequence number.
    pub seq: u32,
    /// The number behind its last byte, SYN and FIN counted; of a first fragment, as far as its packet can reach.
    pub end: u32,
    /// What it acknowledges.
    pub ack: Option<u32>,
    /// The window as it stands there, not scaled.
    pub window: u16,
    /// The scale of windows that a SYN offers (RFC 7323, 2).
    pub scale: Option<u8>,
}

impl Segment {
    /// Reads the segment in `frame`, which is whole or its packet's first fragment.
    pub fn read(frame: &[u8], packet: &Packet) -> Self {
        let l4 = &frame[packet.l4()..usize::from(packet.end)];
        let header = usize::from(l4[12] >> 4) * 4;
        let (flags, seq) = (packet.tcp_flags, be32(l4, 4));
        let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        // How much follows the first fragment is not known yet.
        let len = if packet.is_fragment() { usize::from(u16::MAX) } else { l4.len() - header };
        let scale = option_at(&l4[..header], 3, 3).filter(|_| flags & SYN != 0).map(|at| l4[at]);
        Self {
            flags,
            seq,
            end: seq.wrapping_add(len as u32).wrapping_add(counted),
            ack: (flags & ACK != 0).then(|| be32(l4, 8)),
            window: be16(l4, 14),
            scale,
        }
    }

    /// The number behind the window that it offers, scaled by so many bits.
    pub fn end_of_window(&self, scale: u32) -> u32 {
        self.ack.unwrap_or(0).wrapping_add((u32::from(self.window) << scale).max(1))
    }
}

/// Writes a reset that answers the segment in `frame` into `out`, and returns its length in bytes.
///
/// `None` when the segment is a reset itself or not whole, or the families differ.
pub fn reset_answer(frame: &[u8], packet: &Packet, ends: &Ends, out: &mut [u8]) -> Option<usize> {
    if packet.tcp_flags & RST != 0 || packet.is_fragment() {
        return None;
    }
    let l4 = packet.l4();
    let (seq, ack) = (be32(frame, l4 + 4), be32(frame, l4 + 8));
    if packet.tcp_flags & ACK != 0 {
        return reset(ends, ack, None, out);
    }
    let header = usize::from(frame[l4 + 12] >> 4) * 4;
    let data = usize::from(packet.end) - l4 - header;
    let len = data as u32 + u32::from(packet.tcp_flags & SYN != 0) + u32::from(packet.tcp_flags & FIN != 0);
    reset(ends, 0, Some(seq.wrapping_add(len)), out)
}

/// Writes a reset that goes on where the segment in `frame` was going, as if its sender had sent it. `None` when
/// the segment is not whole, or the families differ.
pub fn reset_onward(frame: &[u8], packet: &Packet, ends: &Ends, out: &mut [u8]) -> Option<usize> {
    if packet.is_fragment() {
        return None;
    }
    let l4 = packet.l4();
    let ack = (packet.tcp_flags & ACK != 0).then(|| be32(frame, l4 + 8));
    reset(ends, be32(frame, l4 + 4), ack, out)
}

/// Lowers the maximum segment size that a SYN offers (RFC 9293, 3.7.1) to `most`; one that offers less, or says
/// nothing, stays as it is.
pub fn clamp_mss(frame: &mut [u8], packet: &Packet, most: u16) {
    let l4 = packet.l4();
    let header = usize::from(frame[l4 + 12] >> 4) * 4;
    let Some(at) = option_at(&frame[l4..l4 + header], 2, 4) else { return };
    let old = be16(frame, l4 + at);
    if old <= most {
        return;
    }
    put16(frame, l4 + at, most);
    // At an odd offset, its bytes are in two of the words that are summed up, the other way round.
    let delta = match at % 2 {
        0 => Delta::default().and16(old, most),
        _ => Delta::default().and16(old.swap_bytes(), most.swap_bytes()),
    };
    let sum = delta.apply(be16(frame, l4 + 16));
    put16(frame, l4 + 16, sum);
}

/// Offset of the value of an option in a TCP header: of this kind and length (RFC 9293, 3.1).
fn option_at(header: &[u8], kind: u8, len: u8) -> Option<usize> {
    let mut at = 20;
    loop {
        at += match *header.get(at)? {
            0 => return None,
            1 => 1,
            k if k == kind && header.get(at + 1) == Some(&len) && at + usize::from(len) <= header.len() => {
                return Some(at + 2);
            }
            _ => usize::from(*header.get(at + 1)?).max(2),
        };
    }
}

fn reset(ends: &Ends, seq: u32, ack: Option<u32>, mut out: &mut [u8]) -> Option<usize> {
    let room = out.len();
    let ethernet = PacketBuilder::ethernet2(ends.macs.0.0, ends.macs.1.0);
    let ip = match (ends.from.0, ends.to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => return None,
    };
    let mut tcp = ip.tcp(ends.from.1, ends.to.1, seq, 0).rst();
    if let Some(ack) = ack {
        tcp = tcp.ack(ack);
    }
    tcp.write(&mut out, &[]).ok().map(|()| room - out.len())
}
