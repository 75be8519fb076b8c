//! Fragments: where one belongs, and packets cut into them (RFC 791; RFC 8200, 4.5).

use super::{L3, Packet, Part, be16, be32, checksum, put16};

/// Where a fragment belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// The packet it is of, among those of one sender to one destination.
    pub id: u32,
    /// Which bytes of the packet it holds, counted behind the headers that every fragment has.
    pub bytes: Span,
    /// Nothing follows it.
    pub is_last: bool,
}

/// A range of bytes within an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span {
    /// The first.
    pub from: u16,
    /// The one behind the last.
    pub to: u16,
}

/// More fragments follow (IPv4).
const MORE: u16 = 0x2000;

/// Reads where the fragment in `frame` belongs. `None`: it is none, or one that no sender makes: empty, not of eights
/// of bytes though others follow, or beyond the longest packet.
pub fn read(frame: &[u8], packet: &Packet) -> Option<Fragment> {
    if packet.part == Part::Whole {
        return None;
    }
    let (id, field, at) = if packet.l3 == L3::V4 {
        let field = be16(frame, packet.l3() + 6);
        let more = u16::from(field & MORE != 0);
        (u32::from(be16(frame, packet.l3() + 4)), field << 3 | more, packet.l4())
    } else {
        let header = fragment_header(frame, packet)?;
        (be32(frame, header + 4), be16(frame, header + 2), header + 8)
    };
    let (from, is_last) = (field & 0xfff8, field & 1 == 0);
    let len = u16::try_from(usize::from(packet.end).checked_sub(at)?).ok()?;
    let to = from.checked_add(len)?;
    // With the header that all fragments have; that of IPv6 does not count.
    let header = if packet.l3 == L3::V4 { (at - packet.l3()) as u16 } else { 0 };
    to.checked_add(header)?;
    let sound = len > 0 && (is_last || len.is_multiple_of(8));
    sound.then_some(Fragment { id, bytes: Span { from, to }, is_last })
}

/// Offset of the fragment header, which the parser has seen.
fn fragment_header(frame: &[u8], packet: &Packet) -> Option<usize> {
    let (mut next, mut at) = (frame[packet.l3() + 6], packet.l3() + 40);
    while next != 44 && at < packet.l4() {
        let header = frame.get(at..at + 2)?;
        next = header[0];
        at += (usize::from(header[1]) + 1) * 8;
    }
    (next == 44 && at + 8 <= packet.l4()).then_some(at)
}

/// How an IPv4 packet is cut into pieces that fit an MTU.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    l3: usize,
    header: usize,
    end: usize,
    /// Bytes behind the header in each piece but the last.
    step: usize,
}

impl Cut {
    /// `None` if the MTU has no room for eight bytes behind the header.
    pub fn new(packet: &Packet, mtu: u16) -> Option<Self> {
        let (l3, header) = (packet.l3(), packet.l4() - packet.l3());
        let step = usize::from(mtu).checked_sub(header)? & !7;
        (step > 0).then_some(Self { l3, header, end: usize::from(packet.end), step })
    }

    /// How many pieces there are.
    pub fn count(&self) -> usize {
        (self.end - self.l3 - self.header).div_ceil(self.step).max(1)
    }

    /// Writes a piece of the packet in `frame`, Ethernet header included, into `out` and returns its length.
    /// `None` if there is no such piece or no room.
    pub fn write(&self, frame: &[u8], piece: usize, out: &mut [u8]) -> Option<usize> {
        let Self { l3, header, end, step } = *self;
        let from = l3 + header + piece * step;
        let body = frame.get(from..end.min(from + step)).filter(|body| !body.is_empty())?;
        out.get_mut(..l3 + header)?.copy_from_slice(frame.get(..l3 + header)?);
        let header = if piece == 0 { header } else { keep_copied(&mut out[l3..l3 + header]) };
        let len = l3 + header + body.len();
        out.get_mut(l3 + header..len)?.copy_from_slice(body);
        let ip = &mut out[l3..l3 + header];
        put16(ip, 2, (header + body.len()) as u16);
        let field = be16(ip, 6) + (piece * step / 8) as u16;
        let more = if from + step < end { MORE } else { 0 };
        put16(ip, 6, field | more);
        put16(ip, 10, 0);
        let sum = checksum::of(ip);
        put16(ip, 10, sum);
        Some(len)
    }
}

/// Leaves out the options that only the first fragment has (RFC 791, 3.1), and returns the header's new length.
fn keep_copied(ip: &mut [u8]) -> usize {
    let (mut from, mut to) = (20, 20);
    while let Some(kind) = ip.get(from).copied() {
        let len = match kind {
            // The end, and what stands for nothing.
            0 => break,
            1 => 1,
            _ => usize::from(ip.get(from + 1).copied().unwrap_or(0)),
        };
        if kind != 1 && len < 2 || from + len > ip.len() {
            break;
        }
        if kind & 0x80 != 0 {
            ip.copy_within(from..from + len, to);
            to += len;
        }
        from += len;
    }
    let header = to.next_multiple_of(4);
    ip[to..].fill(0);
    ip[0] = 0x40 | (header / 4) as u8;
    header
}
