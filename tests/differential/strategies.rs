//! Worlds, packets and events made up at random.

use proptest::{collection::vec, prelude::*, sample::select};
use supernet_dataplane::{
    time::Duration,
    wire::{Proto, tcp_flags::*},
};
use supernet_testkit::sequence::{network::*, packets::*, sides::Event};

pub(crate) fn rules() -> impl Strategy<Value = Option<Rules>> {
    let peers = vec(0u32..6, 0..3);
    let rule = (any::<bool>(), peers, prop::option::of(select(vec![6u8, 17, 1])));
    prop::option::of(
        (vec(rule, 0..3), prop::bool::weighted(0.7)).prop_map(|(rules, allow)| Rules(rules, allow)),
    )
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let mostly_open = || prop_oneof![2 => Just(None), 1 => rules()];
    let rules = prop::array::uniform3([mostly_open(), mostly_open()]);
    let hops = prop::array::uniform4(0..3usize);
    (any::<bool>(), any::<[bool; 2]>(), rules, 1..8u8, hops, any::<[bool; PORTS]>()).prop_map(
        |(one_tier1, snat, rules, members, hops, small)| World {
            one_tier1,
            snat,
            present: [true; 3],
            relabelled: [false; 3],
            rules,
            members,
            hops: [hops[0].max(1), hops[1].max(1), hops[2], hops[3]],
            small,
            limits: Default::default(),
        },
    )
}

/// The shape of a packet with mostly these flags.
fn shape(usual: u8) -> impl Strategy<Value = Shape> {
    let others = select(vec![SYN, ACK, SYN | ACK, FIN | ACK, RST]);
    let flags = prop_oneof![5 => Just(usual), 1 => others];
    let ttl = prop_oneof![12 => Just(64u8), 2 => 0..5u8, 1 => Just(255)];
    let whole = prop_oneof![select(vec![usize::from(SMALL_MTU), 1500]), 1300..1600usize];
    let size = prop_oneof![
        16 => (0..60usize).prop_map(Size::Payload),
        2 => (whole, 0..3usize).prop_map(|(bytes, more)| Size::Whole(bytes + more - 1)),
    ];
    let spoil = prop_oneof![
        30 => Just(Spoil::Nothing),
        1 => Just(Spoil::SourceAddress),
        1 => Just(Spoil::SourceMac),
        3 => (0..3u32).prop_map(Spoil::StraightTo),
        1 => Just(Spoil::Broadcast),
        1 => Just(Spoil::CutShort),
        1 => (1..30usize).prop_map(Spoil::Padded),
        3 => Just(Spoil::NoUdpChecksum),
        1 => (0..80usize, 0..8u8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        2 => (12..80usize, 0..8u8).prop_map(|(at, bit)| Spoil::FlipAndMend(at, bit)),
    ];
    let pieces = (vec(1..30usize, 1..4), any::<u64>(), 0..8u8, 0..8u8, 0..4u32);
    let pieces = pieces.prop_map(|(cuts, order, lost, twice, id)| {
        // Mostly all of them come.
        Pieces { cuts, order, lost: lost & (lost >> 1), twice: twice & (twice >> 1), id }
    });
    let pieces = prop_oneof![8 => Just(None), 1 => pieces.prop_map(Some)];
    (flags, ttl, size, spoil, pieces).prop_map(|(flags, ttl, size, spoil, pieces)| Shape {
        flags,
        ttl,
        size,
        spoil,
        pieces,
    })
}

/// An ICMP error of any kind.
fn error() -> impl Strategy<Value = Packet> {
    let kinds =
        vec![(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 1), (1, 4), (2, 0), (4, 0), (7, 7)];
    let quote = prop_oneof![2 => Just(600usize), 1 => Just(28usize), 1 => 0..100usize];
    let spoil = prop_oneof![4 => Just(None), 1 => (34..110usize, 0..8u8).prop_map(Some)];
    (any::<usize>(), select(kinds), any::<bool>(), quote, spoil).prop_map(
        |(about, kind, by_router, quote, spoil)| Packet::Error { about, kind, by_router, quote, spoil },
    )
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let proto = || select(vec![Proto::TCP, Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP]);
    let new = |from: std::ops::Range<usize>, to: std::ops::Range<usize>| {
        (from, to, any::<bool>(), proto(), 4000..4003u16, shape(SYN)).prop_map(
            |(from, to, v6, proto, sport, shape)| Packet::New {
                from,
                to,
                v6,
                proto,
                sport,
                dport: 80,
                shape,
            },
        )
    };
    let (pods, uplinks) = (0..PODS.len(), PODS.len()..PODS.len() + UPLINKS.len());
    prop_oneof![
        4 => new(pods.clone(), 0..8),
        1 => new(pods, 0..TARGETS.len()),
        2 => new(uplinks.clone(), 0..6),
        1 => new(uplinks, 0..TARGETS.len()),
        12 => (any::<usize>(), shape(ACK)).prop_map(|(to, shape)| Packet::Answer { to, shape }),
        8 => (any::<usize>(), shape(ACK)).prop_map(|(of, shape)| Packet::Again { of, shape }),
        3 => error(),
    ]
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => (0..3usize, 0..2usize, rules()).prop_map(|(pod, direction, r)| Change::Rules(pod, direction, r)),
        1 => (0..3usize).prop_map(Change::Pod),
        1 => (0..3usize).prop_map(Change::Relabel),
        1 => (0..64u8).prop_map(Change::Members),
        1 => prop::array::uniform4(0..3usize).prop_map(Change::Hops),
        1 => (0..2usize).prop_map(Change::Snat),
        1 => (0..PORTS).prop_map(Change::Mtu),
        1 => Just(Change::Republish),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        28 => vec(packet(), 1..7).prop_map(Event::Burst),
        1 => (vec(packet(), 1..150), any::<bool>()).prop_map(|(packets, newest)| Event::Batch(packets, newest)),
        3 => (vec(packet(), 1..7), any::<bool>()).prop_map(|(packets, newest)| Event::Batch(packets, newest)),
        9 => change().prop_map(Event::Change),
        // Two seconds are a lap of the sweep: less, and sides that hash differently sweep different sessions.
        2 => select(vec![0, 2, 25, 40, 70, 130, 50_000]).prop_map(|seconds| Event::Advance(Duration::from_secs(seconds))),
        1 => (0..2usize).prop_map(Event::NeighborAnswers),
    ]
}
