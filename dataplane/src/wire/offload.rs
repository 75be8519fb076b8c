//! Doing what was left undone of a packet: checksums and segmentation (see [`Offload`]).
//!
//! ```text
//!   a port's other side ── super-packet ──▶ pipeline ──▶ a port that takes it: as it is
//!                                               └──────▶ a port that does not: [`lower`], segment by segment
//! ```
//!
//! What rewrites have made of the checksum field meanwhile is of no account: both ways out of here work it out anew from
//! the headers as they are.

use super::{ETHERNET, Packet, Proto, be16, be32, checksum, ethertype, put16};
use crate::buf::{Frame, Offload, Offloads, Pool, Segmented};

/// Flags of TCP that one segment alone has: the last FIN and PSH, the first CWR.
const LAST_ONLY: u8 = 0x01 | 0x08;
const FIRST_ONLY: u8 = 0x80;

impl Segmented {
    fn proto(self) -> Proto {
        match self {
            Self::Tcp => Proto::TCP,
            Self::Udp => Proto::UDP,
        }
    }
}

impl Offload {
    /// The work that a host left, which says where the checksum's bytes begin and where in them it is. `None` unless that
    /// is the checksum of a plain TCP or UDP packet (untagged, no extension headers, no fragment), whose headers are
    /// all there.
    pub fn of_plain(frame: &[u8], checksum_from: u16, checksum_at: u16) -> Option<Self> {
        let all = Self::of_any_plain(frame)?;
        (all.l4 == checksum_from && all.kind.checksum_at() == checksum_at).then_some(all)
    }

    /// The checksum of a plain TCP or UDP packet, as [`Offload::of_plain`], of whose checksum it is not known whether it was
    /// left undone.
    pub fn of_any_plain(frame: &[u8]) -> Option<Self> {
        let (l4, proto) = match be16(frame.get(..ETHERNET + 20)?, 12) {
            ethertype::IPV4 if be16(frame, ETHERNET + 6) & 0x3fff == 0 => {
                (ETHERNET + usize::from(frame[ETHERNET] & 15) * 4, frame[ETHERNET + 9])
            }
            ethertype::IPV6 => (ETHERNET + 40, frame[ETHERNET + 6]),
            _ => return None,
        };
        let kind = [Segmented::Tcp, Segmented::Udp].into_iter().find(|kind| kind.proto().0 == proto)?;
        let offload = Self { l4: l4 as u16, segment: 0, kind, cwr: false };
        ends(frame, offload).map(|_| offload)
    }

    /// Whether it can be of this packet.
    pub fn is_of(self, packet: &Packet) -> bool {
        packet.l4_at == self.l4 && packet.proto == self.kind.proto() && !packet.is_fragment()
    }

    /// Bytes of all headers, from the frame's start on.
    fn headers(self, frame: &[u8]) -> Option<usize> {
        let l4 = usize::from(self.l4);
        let header = match self.kind {
            Segmented::Tcp => usize::from(frame.get(l4 + 12)? >> 4) * 4,
            Segmented::Udp => 8,
        };
        let least = if self.kind == Segmented::Tcp { 20 } else { 8 };
        (header >= least).then_some(l4 + header)
    }

    /// The largest IP packet that it comes to, if it is segmented.
    pub fn largest(self, frame: &[u8]) -> Option<u16> {
        let (headers, end) = ends(frame, self).filter(|_| self.segment > 0)?;
        let largest = end.min(headers + usize::from(self.segment));
        u16::try_from(largest.checked_sub(ETHERNET)?).ok()
    }
}

/// Where the IP packet ends, within the frame.
fn ip_end(frame: &[u8]) -> Option<usize> {
    let ip = frame.get(ETHERNET..).filter(|ip| ip.len() >= 20)?;
    let len = match be16(frame, 12) {
        ethertype::IPV4 => usize::from(be16(ip, 2)),
        _ => 40 + usize::from(be16(ip, 4)),
    };
    Some(ETHERNET + len).filter(|end| *end <= frame.len())
}

/// Where its headers end and where it ends, if all that lies in the frame.
fn ends(frame: &[u8], offload: Offload) -> Option<(usize, usize)> {
    let end = ip_end(frame)?;
    let l4 = match be16(frame, 12) {
        ethertype::IPV4 => ETHERNET + usize::from(frame[ETHERNET] & 15) * 4,
        ethertype::IPV6 => ETHERNET + 40,
        _ => return None,
    };
    let headers = offload.headers(frame).filter(|_| l4 >= ETHERNET + 20 && usize::from(offload.l4) == l4)?;
    (headers <= end).then_some((headers, end))
}

/// The sum of the pseudo-header of the packet that ends at `end`, not folded.
fn pseudo(frame: &[u8], offload: Offload, end: usize) -> u64 {
    let addresses = match be16(frame, 12) {
        ethertype::IPV4 => ETHERNET + 12..ETHERNET + 20,
        _ => ETHERNET + 8..ETHERNET + 40,
    };
    let len = end - usize::from(offload.l4);
    checksum::sum(frame.get(addresses).unwrap_or_default()) + u64::from(offload.kind.proto().0) + len as u64
}

/// Leaves in the checksum field what a device needs that finishes it: the sum of the pseudo-header (as `CHECKSUM_PARTIAL`
/// of Linux has it, and virtio 1.2, 5.1.6.2).
pub fn prepare(frame: &mut [u8], offload: Offload) {
    let Some((_, end)) = ends(frame, offload) else { return };
    let sum = checksum::fold(pseudo(frame, offload, end));
    put16(frame, usize::from(offload.l4 + offload.kind.checksum_at()), sum);
}

/// Computes a checksum that was left undone, of a packet that is not segmented any more.
pub fn complete(frame: &mut [u8], offload: Offload) {
    let Some((_, end)) = ends(frame, offload) else { return };
    let (l4, at) = (usize::from(offload.l4), usize::from(offload.l4 + offload.kind.checksum_at()));
    put16(frame, at, 0);
    let sum = !checksum::fold(pseudo(frame, offload, end) + checksum::sum(&frame[l4..end]));
    // Zero means "none" in UDP (RFC 768), and in TCP all ones are as good.
    put16(frame, at, if sum == 0 { 0xffff } else { sum });
}

/// Computes any other checksum that a host left undone: that of all bytes from `from` on, to be stored `at` bytes
/// further, where their pseudo-header's sum is now. Whether there is such a place.
pub fn complete_any(frame: &mut [u8], from: u16, at: u16) -> bool {
    let (from, place) = (usize::from(from), usize::from(from) + usize::from(at));
    if place + 2 > frame.len() {
        return false;
    }
    let sum = checksum::of(&frame[from..]);
    put16(frame, place, if sum == 0 { 0xffff } else { sum });
    true
}

/// The segments of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    offload: Offload,
    headers: usize,
    end: usize,
}

impl Segments {
    /// `None` if it is not to be segmented.
    pub fn of(frame: &[u8], offload: Offload) -> Option<Self> {
        let (headers, end) = ends(frame, offload).filter(|_| offload.segment > 0)?;
        Some(Self { offload, headers, end })
    }

    /// How many there are; one at least.
    pub fn count(&self) -> usize {
        (self.end - self.headers).div_ceil(usize::from(self.offload.segment)).max(1)
    }

    /// Bytes of the headers that each has.
    pub fn headers(&self) -> usize {
        self.headers
    }

    /// Bytes of each but the last.
    pub fn longest(&self) -> usize {
        (self.headers + usize::from(self.offload.segment)).min(self.end)
    }

    /// Writes segment `n` of `frame` to `out`, and returns its length. `None` if there is no such segment or no room.
    pub fn write(&self, frame: &[u8], n: usize, out: &mut [u8]) -> Option<usize> {
        let Self { offload, headers, end } = *self;
        let step = usize::from(offload.segment);
        let from = headers + n * step;
        let body = frame.get(from..end.min(from + step)).filter(|body| n == 0 || !body.is_empty())?;
        let (len, l4) = (headers + body.len(), usize::from(offload.l4));
        out.get_mut(..headers)?.copy_from_slice(frame.get(..headers)?);
        out.get_mut(headers..len)?.copy_from_slice(body);
        let out = &mut out[..len];
        if be16(out, 12) == ethertype::IPV4 {
            put16(out, ETHERNET + 2, (len - ETHERNET) as u16);
            let id = be16(out, ETHERNET + 4).wrapping_add(n as u16);
            put16(out, ETHERNET + 4, id);
            put16(out, ETHERNET + 10, 0);
            let sum = checksum::of(&out[ETHERNET..l4]);
            put16(out, ETHERNET + 10, sum);
        } else {
            put16(out, ETHERNET + 4, (len - ETHERNET - 40) as u16);
        }
        match offload.kind {
            Segmented::Tcp => {
                let seq = be32(out, l4 + 4).wrapping_add((n * step) as u32);
                out[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
                let is_last = from + step >= end;
                out[l4 + 13] &= !(if is_last { 0 } else { LAST_ONLY } | if n == 0 { 0 } else { FIRST_ONLY });
            }
            Segmented::Udp => put16(out, l4 + 4, (len - l4) as u16),
        }
        complete(out, offload);
        Some(len)
    }
}

/// What [`lower`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lowered {
    /// Frames that there are more now, those that were lost included.
    pub made: u64,
    /// Segments for which there was no buffer.
    pub lost: u64,
}

/// Does all work that a port which takes `offloads` cannot be left with, in place and in order.
pub fn lower(frames: &mut Vec<Frame>, offloads: Offloads, pool: &Pool) -> Lowered {
    let mut lowered = Lowered::default();
    let is_left = |frame: &Frame| frame.offload().is_some_and(|offload| !offloads.take(offload));
    let Some(first) = frames.iter().position(is_left) else { return lowered };
    let rest = frames.split_off(first);
    for mut frame in rest {
        let Some(offload) = frame.offload().filter(|offload| !offloads.take(*offload)) else {
            frames.push(frame);
            continue;
        };
        let Some(segments) = Segments::of(frame.bytes(), offload) else {
            complete(frame.bytes_mut(), offload);
            frame.set_offload(None);
            frames.push(frame);
            continue;
        };
        let before = frames.len();
        for n in 0..segments.count() {
            let write = || {
                let mut segment = pool.take_for(segments.longest())?;
                segment.set_len(segments.longest());
                let len = segments.write(frame.bytes(), n, segment.bytes_mut())?;
                segment.set_len(len);
                Some(segment)
            };
            frames.extend(write());
        }
        lowered.made += segments.count() as u64 - 1;
        lowered.lost += (segments.count() - (frames.len() - before)) as u64;
    }
    lowered
}
