//! Keys and values for tests of the table.

use super::*;
use crate::{
    flow::{Scope, SessionId},
    id::{Generation, PortId},
    rewrite::Tuple,
    wire::{Proto, checksum::Delta},
};
use std::{
    hash::{BuildHasher, Hasher},
    net::IpAddr,
};

/// Key number `n` of connections' first packets, or of their answers, in the family of `A`.
pub(super) fn key<A: Address>(n: u16, answers: bool) -> FlowKey<A> {
    let address = |last: u16| -> IpAddr {
        match A::LEN {
            4 => [10, 0, (last >> 8) as u8, last as u8].into(),
            _ => [0xfd00, 0, 0, 0, 0, 0, 0, last].into(),
        }
    };
    let tuple = Tuple { src: address(n), dst: address(!n), proto: Proto::UDP, sport: n, dport: 53 };
    FlowKey::forward(&tuple, Scope::port(PortId(answers.into()))).unwrap()
}

/// What is stored under a key in a generation: every field follows from the two.
pub(super) fn value<A: Address>(key: &FlowKey<A>, generation: u32) -> (Rewrite<A>, Meta) {
    let mut h = foldhash::fast::FixedState::with_seed(generation.into()).build_hasher();
    key.words().iter().for_each(|word| h.write_u64(*word));
    let h = h.finish();
    let bits = u128::from(h) << 64 | u128::from(!h);
    let rewrite = Rewrite {
        src: A::from_bits(bits),
        dst: A::from_bits(!bits),
        sport: h as u16,
        dport: !h as u16,
        l3: Delta((h >> 16) as u16),
        l4: Delta((h >> 32) as u16),
    };
    let meta = Meta {
        adjacency: h as u32 & 0xff_ffff,
        hops: h as u8 & 3,
        switched: h >> 2 & 1 == 1,
        opening: false,
        denied: false,
        forward: h >> 3 & 1 == 1,
        generation: Generation(generation),
        session: SessionId(h as u32 & 0x7ff_ffff),
        tally: h as u32 & 0xf_ffff,
    };
    (rewrite, meta)
}

pub(super) fn engine(seed: u64) -> Engine {
    Engine::detect(seed)
}

/// Asserts that what was found was stored under this key, all of it at once.
pub(super) fn assert_whole<A: Address>(key: &FlowKey<A>, found: &Found<A>) {
    let (rewrite, meta) = value(key, found.meta.generation.0);
    assert_eq!((found.rewrite, Meta { denied: false, ..found.meta }), (rewrite, meta), "torn");
}

pub(super) fn insert<A: Address>(
    table: &FlowTable<A>,
    forward: &FlowKey<A>,
    reverse: &FlowKey<A>,
    generation: u32,
) -> Result<(EntryId, EntryId), Taken<A>> {
    let (f, r) = (value(forward, generation), value(reverse, generation));
    // Sometimes it was looked for what may have changed since.
    let spot = |key| match table.hash(key) {
        hash if generation.is_multiple_of(2) => table.look_for_slot(hash),
        hash => Spot::from(hash),
    };
    let spots = (spot(forward), spot(reverse));
    table.insert_pair((forward, &f.0, &f.1), (reverse, &r.0, &r.1), spots, Tick(7))
}

pub(super) fn overflows<A: Address>(table: &FlowTable<A>) -> u32 {
    table.tags.iter().map(|line| u32::from(overflow(line))).sum()
}
