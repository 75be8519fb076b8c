//! What must come of packets that are cut, and of those that quote others.

use super::is_ip;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_dataplane::{
    rewrite::{
        Tuple,
        quote::{self, Quote},
    },
    wire::{self, L3, Packet, ParseError, Part, checksum, fragment},
};

/// The frame with the checksums made right that decide how far it is read: that of an IPv4 header, and that of an ICMP
/// message. A fuzzer guesses neither.
pub fn mended(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(&[0x08, 0x00, first]) = frame.get(12..15).and_then(|head| head.first_chunk())
        && let Some(header) = frame.get_mut(14..14 + usize::from(first & 15) * 4)
        && header.len() >= 20
    {
        header[10..12].fill(0);
        let sum = checksum::of(header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
    if let Ok(p) = wire::parse(&frame)
        && is_ip(&p)
        && p.proto.is_icmp()
        && !p.is_fragment()
    {
        let message = &mut frame[p.l4()..usize::from(p.end)];
        message[2..4].fill(0);
        let sum = checksum::transport(p.src, p.dst, p.proto, message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    frame
}

/// Cuts a packet to small MTUs, and asserts that each piece fits and says where it belongs, and that all of them
/// together hold what the packet held.
pub(super) fn pieces_hold(frame: &[u8], p: &Packet) {
    let whole = match fragment::read(frame, p) {
        Some(whole) => whole.bytes,
        None if p.part == Part::Whole => fragment::Span { from: 0, to: (usize::from(p.end) - p.l4()) as u16 },
        None => return,
    };
    assert!(whole.from <= whole.to && usize::from(whole.to - whole.from) <= frame.len(), "{whole:?}");
    if p.l3 != L3::V4 || !p.may_cut || whole.from == whole.to {
        return;
    }
    for mtu in [68, 100, 576] {
        let Some(cut) = fragment::Cut::new(p, mtu) else { continue };
        let (mut body, mut out) = (Vec::<u8>::new(), vec![0; frame.len()]);
        for n in 0..cut.count() {
            #[expect(clippy::unwrap_used, reason = "it asserts")]
            let len = cut.write(frame, n, &mut out).unwrap();
            let piece = match wire::parse(&out[..len]) {
                Ok(piece) => piece,
                // Eight bytes are the most that some MTUs have room for.
                Err(ParseError::TinyFragment) => return,
                #[expect(clippy::panic, reason = "it asserts")]
                Err(e) => panic!("piece {n} of {p:?} is {e:?}"),
            };
            assert!(piece.ip_len() <= usize::from(mtu), "{} bytes for {mtu}", piece.ip_len());
            assert_eq!((piece.src, piece.dst, piece.proto, piece.ttl), (p.src, p.dst, p.proto, p.ttl));
            if let Some(at) = fragment::read(&out[..len], &piece) {
                assert_eq!(usize::from(at.bytes.from - whole.from), body.len(), "piece {n}");
            }
            body.extend(&out[piece.l4()..usize::from(piece.end)]);
        }
        assert_eq!(body, frame[p.l4()..usize::from(p.end)], "cut to {mtu}");
    }
}

/// Translates the quote of an ICMP error, and asserts that the error is sound and quotes what it then should.
pub(super) fn quotes_hold(frame: &[u8], p: &Packet) {
    if p.is_fragment() || !quote::is_relayed(p) {
        return;
    }
    let Ok(quote) = quote::read(frame, p) else { return };
    let (src, dst): (IpAddr, IpAddr) = match p.l3 {
        L3::V4 => (Ipv4Addr::new(203, 0, 113, 7).into(), Ipv4Addr::new(10, 0, 0, 18).into()),
        _ => (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
            Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7).into(),
        ),
    };
    // What is asked has no destination port, and the answer no source port.
    let (sport, dport) = match (quote.tuple.proto.is_icmp(), quote.is_echo_reply) {
        (false, _) => (40_000, 8080),
        (true, false) => (40_000, 0),
        (true, true) => (0, 8080),
    };
    let to = Tuple { src, dst, proto: quote.tuple.proto, sport, dport };
    let mut out = frame.to_vec();
    let hops = p.ttl.min(2);
    quote.translate(&mut out, p, &to, (dst, src), hops);
    assert_eq!(out.len(), frame.len());
    #[expect(clippy::unwrap_used, reason = "it asserts")]
    let after = wire::parse(&out).unwrap();
    assert_eq!((after.src, after.dst, after.ttl), (dst, src, p.ttl - hops));
    assert_eq!((after.proto, after.icmp, after.end), (p.proto, p.icmp, p.end));
    // Reading it checks the checksum as well.
    let told: Option<Quote> = quote::read(&out, &after).ok();
    assert_eq!(told.map(|quote| (quote.tuple, quote.is_echo_reply)), Some((to, quote.is_echo_reply)));
}
