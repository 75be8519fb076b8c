//! What the other side of a port has left to be done to a frame before it goes on a wire.

/// Work on a TCP or UDP packet that was left undone: its checksum, and often its segmentation. A host that sends leaves
/// it to its interface, and one that receives likes it just as well undone, so it is carried along and done only
/// where a frame leaves towards a port that cannot take it ([`wire::offload`](crate::wire::offload)).
///
/// Until then the checksum field holds no checksum, and nobody may read or mend it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Offload {
    /// Offset of the transport header.
    pub l4: u16,
    /// Bytes of transport payload in each segment but the last; 0: the packet is one.
    pub segment: u16,
    /// Of which protocol.
    pub kind: Segmented,
    /// The sender has signalled "congestion window reduced" in this packet, which only the first segment may.
    pub cwr: bool,
}

/// A protocol whose packets can be left undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Segmented {
    /// TCP.
    Tcp,
    /// UDP; each segment is a datagram.
    Udp,
}

impl Segmented {
    /// Where in the transport header the checksum is.
    pub fn checksum_at(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// What a port can take undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Checksums.
    pub checksum: bool,
    /// TCP segmentation, for which checksums are needed too.
    pub tcp: bool,
    /// UDP segmentation, likewise.
    pub udp: bool,
}

impl Offloads {
    /// Nothing: every frame is as on a wire.
    pub const NONE: Self = Self { checksum: false, tcp: false, udp: false };

    /// Whether a frame with this work left can be taken as it is.
    pub fn take(self, offload: Offload) -> bool {
        let segments = match offload.kind {
            Segmented::Tcp => self.tcp,
            Segmented::Udp => self.udp,
        };
        self.checksum && (offload.segment == 0 || segments)
    }

    /// Whether every frame can be taken as it is.
    pub fn take_all(self) -> bool {
        self.checksum && self.tcp && self.udp
    }
}
