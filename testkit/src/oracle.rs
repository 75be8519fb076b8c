//! What any frame at all must come to: the parser against etherparse, rewrites against checksums computed anew,
//! and what reads headers by the batch against the parser. Property tests and the fuzz targets `parse` and
//! `vector` share it.

mod edges;

pub use edges::mended;

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_dataplane::{
    buf::HEADER,
    rewrite::{self, Rewrite, Tuple},
    vector::{self, Engine, Header, Isa, KeyV4, KeyV6, Scan},
    wire::{self, Address, L3, Packet, Part, Proto, checksum, tcp_flags},
};

/// Parses a frame and asserts all that must hold of it, whatever is in it.
///
/// # Panics
/// Something does not hold.
pub fn check(frame: &[u8]) {
    let Ok(packet) = wire::parse(frame) else { return };
    offsets_lie_inside(frame, &packet);
    if let Ok(theirs) = SlicedPacket::from_ethernet(frame) {
        agree(frame, &packet, &theirs);
    }
    if is_keyed(&packet) {
        rewrites_hold(frame, &packet);
    }
    if is_ip(&packet) {
        edges::pieces_hold(frame, &packet);
        edges::quotes_hold(frame, &packet);
    }
}

fn offsets_lie_inside(frame: &[u8], p: &Packet) {
    let (l3, l4, end) = (p.l3(), p.l4(), usize::from(p.end));
    assert!(l3 >= wire::ETHERNET && l3 <= l4 && l4 <= end && end <= frame.len(), "{p:?}");
    if is_ip(p) {
        assert_eq!(p.ip_len(), end - l3);
        assert_eq!(p.src.is_ipv4(), p.l3 == L3::V4);
        assert_eq!(p.dst.is_ipv4(), p.l3 == L3::V4);
    }
    let least = match p.proto {
        _ if p.is_fragment() || !is_ip(p) => 0,
        Proto::TCP => 20,
        Proto::UDP | Proto::ICMP | Proto::ICMPV6 => 8,
        Proto::SCTP => 12,
        _ => 0,
    };
    assert!(end - l4 >= least, "the transport header lies inside: {p:?}");
}

/// Compares with etherparse where both say that they understand the frame.
fn agree(frame: &[u8], p: &Packet, theirs: &SlicedPacket<'_>) {
    let offset = |part: &[u8]| part.as_ptr().addr() - frame.as_ptr().addr();
    let tags = theirs.link_exts.iter().filter(|e| matches!(e, LinkExtSlice::Vlan(_))).count();
    if tags < theirs.link_exts.len() || tags > 1 || frame[12..14] == [0x88, 0xa8] || frame[12] == 0x91 {
        // Tags that this network does not read.
        return;
    }
    assert_eq!(p.tagged, tags == 1);
    match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            assert_eq!((p.l3, p.l3()), (L3::V4, offset(header.slice())));
            assert_eq!(p.src, IpAddr::V4(header.source_addr()));
            assert_eq!(p.dst, IpAddr::V4(header.destination_addr()));
            assert_eq!((p.ttl, p.proto.0), (header.ttl(), header.protocol().0));
            assert_eq!(p.is_fragment(), ip.is_payload_fragmented());
            assert_eq!(p.options, !header.options().is_empty());
            assert_eq!(p.l4(), p.l3() + header.slice().len());
            assert_eq!(p.ip_len(), usize::from(header.total_len()));
            // etherparse forgets the reserved bit, and 0xffff is another way to write zero.
            let (sum, computed) = (header.header_checksum(), header.to_header().calc_header_checksum());
            let is_reserved_set = frame[p.l3() + 6] & 0x80 != 0;
            assert!(is_reserved_set || sum == computed || (sum, computed) == (0xffff, 0), "{p:?}");
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            assert_eq!((p.l3, p.l3()), (L3::V6, offset(header.slice())));
            assert_eq!(p.src, IpAddr::V6(header.source_addr()));
            assert_eq!(p.dst, IpAddr::V6(header.destination_addr()));
            assert_eq!(p.ttl, header.hop_limit());
            if header.payload_length() == 0 {
                // etherparse hopes for a jumbogram and reads on.
                return;
            }
            if p.part == Part::Later {
                // Bytes from the middle of a packet, which etherparse takes for headers.
                return;
            }
            // Headers that only one of the two passes over: authentication; mobility, HIP, Shim6.
            let payload = ip.payload();
            if p.proto.0 == 51 || [135, 139, 140].contains(&payload.ip_number.0) {
                return;
            }
            assert_eq!(p.proto.0, payload.ip_number.0);
            assert_eq!(p.l4(), offset(payload.payload));
            assert!(p.is_fragment() || !ip.is_payload_fragmented());
        }
        Some(NetSlice::Arp(_)) | None => {
            assert!(!is_ip(p), "etherparse sees no IP in {p:?}");
            return;
        }
    }
    if p.is_fragment() || p.proto.0 == 51 {
        return;
    }
    match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(p.proto, Proto::TCP);
            assert_eq!((p.sport, p.dport), (tcp.source_port(), tcp.destination_port()));
            assert_eq!(p.l4(), offset(tcp.slice()));
            let header = tcp.to_header();
            let flags = [header.fin, header.syn, header.rst, header.psh, header.ack, header.urg];
            for (bit, is_set) in flags.into_iter().enumerate() {
                assert_eq!(p.tcp_flags >> bit & 1 == 1, is_set, "flag {bit}");
            }
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(p.proto, Proto::UDP);
            assert_eq!((p.sport, p.dport), (udp.source_port(), udp.destination_port()));
            assert_eq!(p.l4(), offset(udp.slice()));
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            assert_eq!(p.proto, Proto::ICMP);
            assert_eq!((p.icmp.kind, p.icmp.code), (icmp.type_u8(), icmp.code_u8()));
            assert_eq!(p.l4(), offset(icmp.slice()));
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!(p.proto, Proto::ICMPV6);
            assert_eq!((p.icmp.kind, p.icmp.code), (icmp.type_u8(), icmp.code_u8()));
            assert_eq!(p.l4(), offset(icmp.slice()));
        }
        Some(TransportSlice::Igmp(_)) | None => {
            assert!(![Proto::TCP, Proto::UDP].contains(&p.proto), "{p:?}")
        }
    }
}

/// Rewrites a packet to other addresses and ports, and compares with checksums computed anew.
fn rewrites_hold(frame: &[u8], p: &Packet) {
    let to = |src, dst| Tuple { src, dst, proto: p.proto, sport: 40_000, dport: 8080 };
    if p.l3 == L3::V4 {
        let (src, dst) = (Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(10, 0, 0, 18));
        rewrite_holds::<u32>(frame, p, &to(src.into(), dst.into()));
    } else {
        let (src, dst) =
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7));
        rewrite_holds::<u128>(frame, p, &to(src.into(), dst.into()));
    }
}

/// Applies the rewrite of a packet's tuple to `to` and asserts that the frame then says just that, that nothing
/// else changed, and that checksums are as right or wrong as they were.
///
/// # Panics
/// Something does not hold.
pub fn rewrite_holds<A: Address>(frame: &[u8], p: &Packet, to: &Tuple) {
    let hops = p.ttl.saturating_sub(1).min(3);
    // An echo request has its identifier as the source port and no destination port; a reply the reverse.
    let to = &match p.proto.is_icmp() {
        true if p.is_echo_request() => Tuple { dport: 0, ..*to },
        true => Tuple { sport: 0, ..*to },
        false => *to,
    };
    #[expect(clippy::unwrap_used, reason = "it asserts")]
    let rewrite = Rewrite::<A>::new(&Tuple::of(p), to, hops).unwrap();
    let mut out = frame.to_vec();
    rewrite.apply(&mut out, p, hops);
    edit_agrees(frame, p, &rewrite, hops, &out);
    #[expect(clippy::unwrap_used, reason = "it asserts")]
    let after = wire::parse(&out).unwrap();
    assert_eq!(Tuple::of(&after), *to);
    assert_eq!(after.ttl, p.ttl - hops);

    assert_eq!(out.len(), frame.len());
    assert_eq!(out[..p.l3()], frame[..p.l3()], "the rewrite leaves Ethernet alone");
    let payload = p.l4()
        + if p.proto == Proto::TCP {
            20
        } else if p.proto == Proto::SCTP {
            12
        } else {
            8
        };
    assert_eq!(out[payload..], frame[payload..], "and the payload");
    let none = |frame: &[u8]| p.proto == Proto::UDP && frame[p.l4() + 6..p.l4() + 8] == [0, 0];
    assert_eq!(none(frame), none(&out), "no checksum stays none, and a checksum never looks like none");
    if !none(frame) {
        assert_eq!(
            transport_holds(frame, p),
            transport_holds(&out, &after),
            "right stays right, wrong wrong"
        );
    }
}

/// Asserts that a plain packet comes out of the edit by words as it comes out of the rewrite.
fn edit_agrees<A: Address>(frame: &[u8], p: &Packet, edit: &Rewrite<A>, hops: u8, out: &[u8]) {
    let transport = matches!(p.proto, Proto::TCP | Proto::UDP);
    if !transport || p.options || p.tagged || p.is_fragment() {
        return;
    }
    let mut header = [0xa5; HEADER];
    let len = frame.len().min(HEADER);
    header[..len].copy_from_slice(&frame[..len]);
    match edit.words() {
        [low, high, ..] if A::LEN == 4 => rewrite::edit_v4(&mut header, [low, high], hops),
        words => rewrite::edit_v6(&mut header, words, hops),
    }
    assert_eq!(header[..len], out[..len]);
    assert!(header[len..].iter().all(|byte| *byte == 0xa5), "nothing behind the frame");
}

/// Whether the transport checksum is right, computed anew.
fn transport_holds(frame: &[u8], p: &Packet) -> bool {
    let l4 = &frame[p.l4()..usize::from(p.end)];
    let covered = match p.proto {
        Proto::SCTP => return l4[8..12] == checksum::sctp(l4).to_le_bytes(),
        Proto::UDP => &l4[..usize::from(u16::from_be_bytes([l4[4], l4[5]]))],
        _ => l4,
    };
    // All ones: nothing but zeros was summed up, which is as good.
    matches!(checksum::transport(p.src, p.dst, p.proto, covered), 0 | 0xffff)
}

fn is_ip(p: &Packet) -> bool {
    matches!(p.l3, L3::V4 | L3::V6)
}

/// Whether packets like this one have sessions, and so rewrites.
fn is_keyed(p: &Packet) -> bool {
    let transport = matches!(p.proto, Proto::TCP | Proto::UDP | Proto::SCTP);
    is_ip(p) && !p.is_fragment() && (transport || p.is_echo_request() || p.is_echo_reply())
}

/// Has every engine that this processor has read the headers of frames, given with the frames' lengths, and
/// asserts that it takes exactly those for plain which the parser does, with the same keys, and hashes them as
/// it hashes a single key. Says how many are plain.
///
/// # Panics
/// Something does not hold.
pub fn check_scan(packets: &[(Header, u16)]) -> usize {
    let engines = || Isa::ALL.into_iter().filter_map(|isa| Engine::new(isa, packets.len() as u64));
    let mut plain = 0;
    for packets in packets.chunks(vector::MOST) {
        // Where a packet came in differs from one to the next.
        let origins: Vec<u32> =
            (0..packets.len() as u32).map(|n| n.wrapping_mul(0x9e37_79b1) & !0xff).collect();
        let plain_v4: Vec<_> =
            packets.iter().zip(&origins).map(|(packet, origin)| plain_key_v4(packet, *origin)).collect();
        let plain_v6: Vec<_> =
            packets.iter().zip(&origins).map(|(packet, origin)| plain_key_v6(packet, *origin)).collect();
        plain += plain_v4.iter().flatten().count() + plain_v6.iter().flatten().count();

        let headers: Vec<&Header> = packets.iter().map(|(header, _)| header).collect();
        let lens: Vec<u16> = packets.iter().map(|(_, len)| *len).collect();
        let scan = Scan { headers: &headers, lens: &lens, origins: &origins };
        for engine in engines() {
            let mut hashes = [0; vector::MOST];
            let mut keys = [[0; 2]; vector::MOST];
            let answer = engine.scan_v4(&scan, &mut keys, &mut hashes);
            same(&engine, answer, &plain_v4, &keys, &hashes, |key| engine.hash_v4(key));
            let mut keys = [[0; 5]; vector::MOST];
            let answer = engine.scan_v6(&scan, &mut keys, &mut hashes);
            same(&engine, answer, &plain_v6, &keys, &hashes, |key| engine.hash_v6(key));
        }
    }
    plain
}

fn same<const WORDS: usize>(
    engine: &Engine,
    answer: u64,
    expected: &[Option<[u64; WORDS]>],
    keys: &[[u64; WORDS]],
    hashes: &[u64],
    hash: impl Fn(&[u64; WORDS]) -> u64,
) {
    let name = engine.isa().name();
    for n in 0..vector::MOST {
        let expected = expected.get(n).and_then(Option::as_ref);
        assert_eq!(answer >> n & 1 == 1, expected.is_some(), "{name}: packet {n} is plain");
        if let Some(key) = expected {
            assert_eq!(&keys[n], key, "{name}: the key of packet {n}");
            assert_eq!(hashes[n], hash(key), "{name}: the hash of packet {n}");
        }
    }
}

fn plain_key_v4(packet: &(Header, u16), origin: u32) -> Option<KeyV4> {
    let p = plain(packet)?;
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (p.src, p.dst) else { return None };
    let mut bytes = Vec::new();
    bytes.extend((origin | u32::from(p.proto.0)).to_le_bytes());
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(p.sport.to_be_bytes());
    bytes.extend(p.dport.to_be_bytes());
    Some(words(&bytes))
}

fn plain_key_v6(packet: &(Header, u16), origin: u32) -> Option<KeyV6> {
    let p = plain(packet)?;
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (p.src, p.dst) else { return None };
    let mut bytes = Vec::new();
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend((origin | u32::from(p.proto.0)).to_le_bytes());
    bytes.extend(p.sport.to_be_bytes());
    bytes.extend(p.dport.to_be_bytes());
    Some(words(&bytes))
}

/// What the parser says of a frame if that makes it plain.
fn plain((header, len): &(Header, u16)) -> Option<Packet> {
    let mut frame = vec![0; usize::from(*len)];
    let there = header.len().min(frame.len());
    frame[..there].copy_from_slice(&header[..there]);
    let p = wire::parse(&frame).ok()?;
    let opens_or_closes = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
    let is_transport = match p.proto {
        Proto::TCP => p.tcp_flags & opens_or_closes == 0,
        Proto::UDP => true,
        _ => false,
    };
    (is_ip(&p) && is_transport && !p.tagged && !p.is_fragment() && !p.options).then_some(p)
}

fn words<const WORDS: usize>(bytes: &[u8]) -> [u64; WORDS] {
    let (words, rest) = bytes.as_chunks::<8>();
    assert_eq!((words.len(), rest.len()), (WORDS, 0));
    std::array::from_fn(|n| u64::from_le_bytes(words[n]))
}
