//! The parser: against the parts a frame was made of, etherparse and smoltcp, cut short everywhere, and fed
//! with nonsense.

use crate::frames::{Parts, parts};
use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use std::net::IpAddr;
use supernet_dataplane::wire::{self, L3, ParseError, Part, Proto};
use supernet_testkit::oracle;

proptest! {
    #[test]
    fn says_what_a_frame_was_made_of(parts in parts()) {
        let frame = parts.frame();
        let p = wire::parse(&frame).unwrap();
        oracle::check(&frame);
        prop_assert_eq!((p.l3(), p.l4()), (parts.l3(), parts.l4()));
        prop_assert_eq!((p.src, p.dst, p.ttl, p.proto), (parts.addresses.0, parts.addresses.1, parts.ttl, parts.proto));
        prop_assert_eq!(usize::from(p.end), frame.len() - parts.padding);
        prop_assert_eq!((p.tagged, p.is_fragment()), (parts.tagged, false));
        let is_v4 = p.src.is_ipv4();
        prop_assert_eq!(p.options, if is_v4 { !parts.options.is_empty() } else { !parts.extensions.is_empty() });
        let ports = match p.proto {
            Proto::TCP | Proto::UDP | Proto::SCTP => parts.ports,
            Proto(47) => (0, 0),
            _ if p.is_echo_request() => (parts.ports.0, 0),
            _ => (0, parts.ports.0),
        };
        prop_assert_eq!((p.sport, p.dport), ports);
        if p.proto == Proto::TCP {
            prop_assert_eq!(p.tcp_flags, parts.flags);
        }
    }

    #[test]
    fn smoltcp_reads_the_same(parts in parts()) {
        let frame = parts.frame();
        let p = wire::parse(&frame).unwrap();
        let (l3, end) = (p.l3(), usize::from(p.end));
        match p.l3 {
            L3::V4 => {
                let ip = Ipv4Packet::new_checked(&frame[l3..]).unwrap();
                prop_assert!(ip.verify_checksum());
                prop_assert_eq!((p.src, p.dst), (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr())));
                prop_assert_eq!(ip.payload(), &frame[p.l4()..end]);
            }
            _ => {
                let ip = Ipv6Packet::new_checked(&frame[l3..]).unwrap();
                prop_assert_eq!((p.src, p.dst), (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr())));
                prop_assert_eq!(ip.total_len(), p.ip_len());
            }
        }
        let l4 = &frame[p.l4()..end];
        let (src, dst) = (p.src.into(), p.dst.into());
        match p.proto {
            // smoltcp refuses port zero and some combinations of flags, so only fields are looked at.
            Proto::TCP => {
                let tcp = TcpPacket::new_checked(l4).unwrap();
                prop_assert!(tcp.verify_checksum(&src, &dst));
                prop_assert_eq!((p.sport, p.dport), (tcp.src_port(), tcp.dst_port()));
            }
            Proto::UDP => {
                let udp = UdpPacket::new_checked(l4).unwrap();
                prop_assert!(udp.verify_checksum(&src, &dst));
                prop_assert_eq!((p.sport, p.dport), (udp.src_port(), udp.dst_port()));
            }
            _ => {}
        }
    }

    #[test]
    fn a_frame_cut_short_anywhere_is_refused(parts in parts()) {
        let frame = parts.frame();
        for len in 0..frame.len() - parts.padding {
            prop_assert_eq!(wire::parse(&frame[..len]), Err(ParseError::Truncated), "{} bytes", len);
        }
    }

    #[test]
    fn holds_whatever_is_changed(parts in parts(), changes in prop::collection::vec(any::<(u16, u8)>(), 1..6), mend: bool) {
        let mut frame = parts.frame();
        for (at, byte) in changes {
            let at = usize::from(at) % frame.len();
            frame[at] = byte;
        }
        if mend && parts.addresses.0.is_ipv4() {
            // Past the checksum, to the checks behind it.
            let l3 = parts.l3();
            let header = usize::from(frame[l3] & 15) * 4;
            frame[l3 + 10..l3 + 12].fill(0);
            if let Some(bytes) = frame.get(l3..l3 + header) {
                let sum = wire::checksum::of(bytes).to_be_bytes();
                frame[l3 + 10..l3 + 12].copy_from_slice(&sum);
            }
        }
        oracle::check(&frame);
    }

    #[test]
    fn holds_for_nonsense(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..5usize) {
        let mut bytes = bytes;
        let kinds = [[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06], [0x81, 0x00]];
        if let (Some(kind), true) = (kinds.get(kind), bytes.len() > 14) {
            bytes[12..14].copy_from_slice(kind);
        }
        oracle::check(&bytes);
        oracle::check(&oracle::mended(&bytes));
    }
}

fn tcp(extensions: Vec<(u8, u8)>) -> Parts {
    Parts {
        tagged: false,
        addresses: ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
        ttl: 64,
        options: Vec::new(),
        extensions,
        proto: Proto::TCP,
        ports: (1000, 80),
        tcp_options: Vec::new(),
        flags: 2,
        payload: Vec::new(),
        padding: 0,
    }
}

#[test]
fn eight_extension_headers_are_followed_and_a_ninth_is_refused() {
    let frame = tcp(vec![(60, 0); 8]).frame();
    assert_eq!(wire::parse(&frame).unwrap().dport, 80);
    let frame = tcp(vec![(60, 0); 9]).frame();
    assert_eq!(wire::parse(&frame), Err(ParseError::TooManyExtensions));
}

#[test]
fn a_fragment_header_around_a_whole_packet_makes_it_no_fragment() {
    // "Atomic fragments" (RFC 6946).
    let p = wire::parse(&tcp(vec![(44, 0)]).frame()).unwrap();
    assert_eq!((p.part, p.options, p.proto, p.dport), (Part::Whole, true, Proto::TCP, 80));
    // One header says which part it is; with a second, nobody could.
    assert_eq!(wire::parse(&tcp(vec![(44, 0), (44, 0)]).frame()), Err(ParseError::BadLength));
}

#[test]
fn the_middle_of_a_packet_is_not_read_as_headers() {
    let mut frame = tcp(vec![(44, 0), (43, 0)]).frame();
    frame[56..58].copy_from_slice(&[0x0e, 0x00]);
    let p = wire::parse(&frame).unwrap();
    assert_eq!((p.part, p.proto, p.l4()), (Part::Later, Proto(43), 62));
    oracle::check(&frame);
}

#[test]
fn an_unknown_tag_or_type_is_no_error() {
    let mut frame = Parts { tagged: true, ..tcp(Vec::new()) }.frame();
    assert_eq!(wire::parse(&frame).map(|p| (p.tagged, p.l3)), Ok((true, L3::V6)));
    // A second tag is not read, nor is a provider's.
    frame[16..18].copy_from_slice(&[0x81, 0x00]);
    assert_eq!(wire::parse(&frame).map(|p| (p.tagged, p.l3)), Ok((true, L3::Other)));
    frame[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(wire::parse(&frame).map(|p| (p.tagged, p.l3)), Ok((false, L3::Other)));
}

#[test]
fn a_frame_longer_than_offsets_reach_is_refused() {
    let mut frame = tcp(Vec::new()).frame();
    frame.resize(65_535, 0);
    assert!(wire::parse(&frame).is_ok());
    frame.resize(70_000, 0);
    // A payload length that reaches beyond 65,535 bytes of frame.
    frame[18..20].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(wire::parse(&frame), Err(ParseError::BadLength));
}

#[test]
fn lengths_that_contradict_the_bytes_are_refused() {
    let v4 =
        Parts { addresses: ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()), ..tcp(Vec::new()) };
    let broken = |parts: &Parts, at: usize, byte: u8| {
        let mut frame = parts.frame();
        frame[at] = byte;
        wire::parse(&frame)
    };
    assert_eq!(broken(&v4, 14, 0x55), Err(ParseError::BadLength), "version");
    assert_eq!(broken(&v4, 14, 0x44), Err(ParseError::BadLength), "header length");
    assert_eq!(broken(&v4, 17, 19), Err(ParseError::BadLength), "total length below the header's");
    assert_eq!(broken(&v4, 22, 65), Err(ParseError::BadChecksum));
    assert_eq!(broken(&v4, 46, 0x40), Err(ParseError::BadLength), "TCP data offset below five");
    assert_eq!(broken(&v4, 46, 0xf0), Err(ParseError::BadLength), "TCP options beyond the packet");
    assert_eq!(broken(&tcp(Vec::new()), 14, 0x40), Err(ParseError::BadLength), "version");
    let udp = Parts { proto: Proto::UDP, ..v4.clone() };
    assert_eq!(broken(&udp, 39, 7), Err(ParseError::BadLength), "UDP length below its header");
    assert_eq!(broken(&udp, 39, 9), Err(ParseError::BadLength), "UDP length beyond the packet");
    // ICMPv6 within IPv4 and ICMP within IPv6 are neither.
    let strange = Parts { proto: Proto::ICMPV6, ..v4 };
    assert_eq!(wire::parse(&strange.frame()), Err(ParseError::BadLength));
    let strange = Parts { proto: Proto::ICMP, ..tcp(Vec::new()) };
    assert_eq!(wire::parse(&strange.frame()), Err(ParseError::BadLength));
}
