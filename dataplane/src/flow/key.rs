//! What a packet is looked up by.

use crate::{
    id::PortId,
    rewrite::Tuple,
    wire::{Address, Packet},
};

/// Where a packet came in: a port of its own, or any uplink. Part of every key, so that a packet forged on
/// another port never finds somebody else's session. Fits 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Scope(u32);

impl Scope {
    /// All uplinks share one scope: a reply may come back by another than the request left by.
    pub const UPLINKS: Self = Self(0);

    /// The scope of a workload's port.
    pub fn port(port: PortId) -> Self {
        Self(port.0 + 1)
    }
}

/// Scope and 5-tuple, in two words for IPv4 and five for IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey<A> {
    src: A,
    dst: A,
    /// sport 16 | dport 16 | protocol 8 | scope 24.
    rest: u64,
}

/// Stands for the protocol of echo replies, so that a request and a reply with exchanged addresses differ.
/// The number is reserved (IANA) and carried by no packet that gets a key.
const ECHO_REPLY: u8 = 255;

impl<A: Address> FlowKey<A> {
    /// The key of a packet that came in at `scope`. `None` if it is of the other family.
    pub fn of(packet: &Packet, scope: Scope) -> Option<Self> {
        let proto = if packet.is_echo_reply() { ECHO_REPLY } else { packet.proto.0 };
        Self::new(packet.src, packet.dst, (packet.sport, packet.dport), proto, scope)
    }

    /// The key of packets that open a connection or go on in the direction of the first.
    pub fn forward(tuple: &Tuple, scope: Scope) -> Option<Self> {
        Self::new(tuple.src, tuple.dst, (tuple.sport, tuple.dport), tuple.proto.0, scope)
    }

    /// The key of answers that have this tuple.
    pub fn reverse(tuple: &Tuple, scope: Scope) -> Option<Self> {
        let proto = if tuple.proto.is_icmp() { ECHO_REPLY } else { tuple.proto.0 };
        Self::new(tuple.src, tuple.dst, (tuple.sport, tuple.dport), proto, scope)
    }

    fn new(
        src: std::net::IpAddr,
        dst: std::net::IpAddr,
        (sport, dport): (u16, u16),
        proto: u8,
        scope: Scope,
    ) -> Option<Self> {
        let ports = u64::from(sport) << 48 | u64::from(dport) << 32;
        let rest = ports | u64::from(proto) << 24 | u64::from(scope.0 & 0xff_ffff);
        Some(Self { src: A::of(src)?, dst: A::of(dst)?, rest })
    }

    /// Words a key takes in an entry.
    pub(super) const WORDS: usize = if A::LEN == 4 { 2 } else { 5 };

    /// The key as words; those past [`Self::WORDS`] are zero.
    pub(super) fn words(&self) -> [u64; 5] {
        let (src, dst) = (self.src.bits(), self.dst.bits());
        if A::LEN == 4 {
            [(src as u64) << 32 | dst as u64, self.rest, 0, 0, 0]
        } else {
            [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, self.rest]
        }
    }
}
