//! The header that stands before every frame (`struct virtio_net_hdr`; virtio 1.2, 5.1.6), in the byte order of this
//! machine, as the kernel has it at TAP devices and packet sockets unless it is told otherwise.

use supernet_dataplane::{
    buf::{Frame, Offload, Segmented},
    wire::{ethertype, offload},
};

/// Bytes of the header.
pub(crate) const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Header {
    pub(crate) fn from_bytes(b: [u8; LEN]) -> Self {
        let half = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        Self {
            flags: b[0],
            gso_type: b[1],
            hdr_len: half(2),
            gso_size: half(4),
            csum_start: half(6),
            csum_offset: half(8),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; LEN] {
        let halves = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        let mut b = [0; LEN];
        (b[0], b[1]) = (self.flags, self.gso_type);
        for (place, half) in b[2..].as_chunks_mut().0.iter_mut().zip(halves) {
            *place = half.to_ne_bytes();
        }
        b
    }

    /// What is left to be done to a frame, in words of this header.
    pub(crate) fn of(frame: &[u8], left: Option<Offload>) -> Self {
        let Some(left) = left else { return Self::default() };
        let checksum = Self {
            flags: NEEDS_CSUM,
            csum_start: left.l4,
            csum_offset: left.kind.checksum_at(),
            ..Self::default()
        };
        let Some(segments) = offload::Segments::of(frame, left) else { return checksum };
        let is_v6 = frame[12..14] == ethertype::IPV6.to_be_bytes();
        let gso_type = match left.kind {
            Segmented::Tcp if is_v6 => GSO_TCPV6,
            Segmented::Tcp => GSO_TCPV4,
            Segmented::Udp => GSO_UDP_L4,
        };
        let ecn = if left.cwr { GSO_ECN } else { 0 };
        let hdr_len = segments.headers() as u16;
        Self { gso_type: gso_type | ecn, hdr_len, gso_size: left.segment, ..checksum }
    }

    /// Notes in the frame what was left to be done to it. `None` if that is nothing we can do.
    pub(crate) fn note(self, mut frame: Frame) -> Option<Frame> {
        let kind = self.gso_type & !GSO_ECN;
        if self.flags & NEEDS_CSUM == 0 {
            return (kind == GSO_NONE).then_some(frame);
        }
        let Some(plain) = Offload::of_plain(frame.bytes(), self.csum_start, self.csum_offset) else {
            // Whatever it is the checksum of, it can be computed while nothing has been changed.
            let done = kind == GSO_NONE
                && offload::complete_any(frame.bytes_mut(), self.csum_start, self.csum_offset);
            return done.then_some(frame);
        };
        let is_known = match kind {
            GSO_NONE => true,
            GSO_TCPV4 | GSO_TCPV6 => plain.kind == Segmented::Tcp && self.gso_size > 0,
            GSO_UDP_L4 => plain.kind == Segmented::Udp && self.gso_size > 0,
            _ => false,
        };
        let segment = if kind == GSO_NONE { 0 } else { self.gso_size };
        frame.set_offload(Some(Offload { segment, cwr: self.gso_type & GSO_ECN != 0, ..plain }));
        is_known.then_some(frame)
    }
}
