//! What a packet is looked up by.

use crate::{
    id::PortId,
    rewrite::{Tuple, ports_from, ports_word},
    vector::{KeyV4, KeyV6},
    wire::{Address, AnyAddress, Packet, Proto},
};
use std::marker::PhantomData;

/// Where a packet came in: a port of its own, or any uplink. Part of every key, so that a packet forged on
/// another port never finds somebody else's session. Fits 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Scope(u32);

impl Scope {
    /// All uplinks share one scope: a reply may come back by another than the request left by.
    pub const UPLINKS: Self = Self(0);

    /// The scope of a workload's port.
    pub fn port(port: PortId) -> Self {
        Self(port.0 + 1)
    }

    /// The workload's port; `None` for uplinks.
    pub fn to_port(self) -> Option<PortId> {
        self.0.checked_sub(1).map(PortId)
    }

    /// As the origin of a [`Scan`](crate::vector::Scan).
    pub fn origin(self) -> u32 {
        self.0 << 8
    }
}

/// Scope and 5-tuple of one address family: the words that [`vector`](crate::vector) reads from a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey<A> {
    words: [u64; 5],
    family: PhantomData<A>,
}

/// Stands for the protocol of echo replies, so that a request and a reply with exchanged addresses differ.
/// The number is reserved (IANA) and carried by no packet that gets a key.
const ECHO_REPLY: u8 = 255;

impl<A: Address> FlowKey<A> {
    /// The key of a packet that came in at `scope`. `None` if it is of the other family.
    pub fn of(packet: &Packet, scope: Scope) -> Option<Self> {
        let proto = if packet.is_echo_reply() { ECHO_REPLY } else { packet.proto.0 };
        Self::new(&Tuple::of(packet), proto, scope)
    }

    /// The key of packets that open a connection or go on in the direction of the first.
    pub fn forward<B: AnyAddress>(tuple: &Tuple<B>, scope: Scope) -> Option<Self> {
        Self::new(tuple, tuple.proto.0, scope)
    }

    /// The key of answers that have this tuple.
    pub fn reverse<B: AnyAddress>(tuple: &Tuple<B>, scope: Scope) -> Option<Self> {
        let proto = if tuple.proto.is_icmp() { ECHO_REPLY } else { tuple.proto.0 };
        Self::new(tuple, proto, scope)
    }

    #[inline]
    fn new<B: AnyAddress>(tuple: &Tuple<B>, proto: u8, scope: Scope) -> Option<Self> {
        let tuple = tuple.to::<A>()?;
        let (src, dst) = (tuple.src, tuple.dst);
        let origin = u64::from(scope.origin() | u32::from(proto));
        let ports = ports_word(tuple.sport, tuple.dport);
        let words = if A::LEN == 4 {
            [origin | src.wire()[0] << 32, dst.wire()[0] | ports << 32, 0, 0, 0]
        } else {
            let (src, dst) = (src.wire(), dst.wire());
            [src[0], src[1], dst[0], dst[1], origin | ports << 32]
        };
        Some(Self::from_words(words))
    }

    /// The key that these words are.
    pub(super) fn from_words(words: [u64; 5]) -> Self {
        Self { words, family: PhantomData }
    }

    /// Words a key takes in an entry.
    pub(super) const WORDS: usize = if A::LEN == 4 { 2 } else { 5 };

    /// The key as words; those past [`Self::WORDS`] are zero.
    pub(super) fn words(&self) -> &[u64; 5] {
        &self.words
    }

    pub(super) fn v4(&self) -> KeyV4 {
        [self.words[0], self.words[1]]
    }

    pub(super) fn v6(&self) -> &KeyV6 {
        &self.words
    }

    /// The tuple of packets with this key; echo replies of their family's ICMP.
    pub fn tuple(&self) -> Tuple {
        let w = &self.words;
        let (src, dst, ports) = if A::LEN == 4 {
            (A::from_wire([w[0] >> 32, 0]), A::from_wire([w[1] & 0xffff_ffff, 0]), w[1] >> 32)
        } else {
            (A::from_wire([w[0], w[1]]), A::from_wire([w[2], w[3]]), w[4] >> 32)
        };
        let (sport, dport) = ports_from(ports);
        Tuple { src: src.ip(), dst: dst.ip(), proto: self.proto(), sport, dport }
    }

    /// The protocol of packets with this key; echo replies are of their family's ICMP.
    pub fn proto(&self) -> Proto {
        let icmp = if A::LEN == 4 { Proto::ICMP } else { Proto::ICMPV6 };
        match if A::LEN == 4 { self.words[0] } else { self.words[4] } as u8 {
            ECHO_REPLY => icmp,
            proto => Proto(proto),
        }
    }

    /// Where packets with this key come in.
    pub fn scope(&self) -> Scope {
        let word = if A::LEN == 4 { self.words[0] } else { self.words[4] };
        Scope(word as u32 >> 8)
    }
}

impl FlowKey<u32> {
    /// The key that was read from a packet.
    pub fn of_v4(key: &KeyV4) -> Self {
        Self::from_words([key[0], key[1], 0, 0, 0])
    }
}

impl FlowKey<u128> {
    /// The key that was read from a packet.
    pub fn of_v6(key: &KeyV6) -> Self {
        Self::from_words(*key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_what_it_was_made_of() {
        for (src, dst) in [("10.1.2.3", "192.0.2.200"), ("fd00::1:2", "2001:db8:ff::9")] {
            let tuple = Tuple {
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                proto: Proto::TCP,
                sport: 0x1234,
                dport: 443,
            };
            for scope in [Scope::UPLINKS, Scope::port(PortId(77)), Scope::port(PortId(PortId::MAX - 1))] {
                let (made, of) = match src.contains(':') {
                    true => (FlowKey::<u128>::forward(&tuple, scope).map(|k| (k.tuple(), k.scope())), 6),
                    false => (FlowKey::<u32>::forward(&tuple, scope).map(|k| (k.tuple(), k.scope())), 4),
                };
                assert_eq!(made, Some((tuple, scope)), "IPv{of}");
            }
        }
    }

    #[test]
    fn echo_replies_have_a_key_of_their_own() {
        let address = |n| std::net::IpAddr::from([10, 0, 0, n]);
        let tuple = Tuple { src: address(1), dst: address(2), proto: Proto::ICMP, sport: 0, dport: 9 };
        let forward = FlowKey::<u32>::forward(&tuple, Scope::UPLINKS).unwrap();
        let reverse = FlowKey::<u32>::reverse(&tuple, Scope::UPLINKS).unwrap();
        assert_ne!(forward, reverse);
        assert_eq!((forward.tuple(), reverse.tuple()), (tuple, tuple));
    }
}
