//! Compiled rewrites against checksums computed anew, for every protocol and both families.

use crate::frames::{Parts, parts};
use proptest::prelude::*;
use std::net::IpAddr;
use supernet_dataplane::{
    rewrite::{Rewrite, Tuple},
    wire::{self, Proto},
};
use supernet_testkit::oracle;

/// Of a protocol that has sessions.
fn keyed(parts: Parts) -> Parts {
    let proto = if parts.proto == Proto(47) { Proto::TCP } else { parts.proto };
    Parts { proto, ..parts }
}

proptest! {
    #[test]
    fn a_rewritten_frame_is_the_frame_one_would_have_written(
        parts in parts(), v4 in any::<(u32, u32)>(), v6 in any::<(u128, u128)>(), ports in any::<(u16, u16)>(),
    ) {
        let parts = Parts { ttl: parts.ttl.max(4), ..keyed(parts) };
        let frame = parts.frame();
        let p = wire::parse(&frame).unwrap();
        let addresses: (IpAddr, IpAddr) = if p.src.is_ipv4() {
            (IpAddr::V4(v4.0.into()), IpAddr::V4(v4.1.into()))
        } else {
            (IpAddr::V6(v6.0.into()), IpAddr::V6(v6.1.into()))
        };
        let mut to = Tuple { src: addresses.0, dst: addresses.1, proto: p.proto, sport: ports.0, dport: ports.1 };
        if p.proto.is_icmp() {
            let id = ports.0;
            (to.sport, to.dport) = if p.is_echo_request() { (id, 0) } else { (0, id) };
        }
        let expected = Parts { addresses, ports, ttl: parts.ttl - 3, ..parts }.frame();
        let mut out = frame.clone();
        if p.src.is_ipv4() {
            Rewrite::<u32>::new(&Tuple::of(&p), &to, 3).unwrap().apply(&mut out, &p, 3);
            oracle::rewrite_holds::<u32>(&frame, &p, &to);
        } else {
            Rewrite::<u128>::new(&Tuple::of(&p), &to, 3).unwrap().apply(&mut out, &p, 3);
            oracle::rewrite_holds::<u128>(&frame, &p, &to);
        }
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn a_datagram_without_checksum_stays_without(parts in parts(), ports in any::<(u16, u16)>()) {
        let addresses = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let parts = Parts { proto: Proto::UDP, addresses, ..parts };
        let mut frame = parts.frame();
        let at = parts.l4() + 6;
        frame[at..at + 2].fill(0);
        let p = wire::parse(&frame).unwrap();
        let to = Tuple { sport: ports.0, dport: ports.1, ..Tuple::of(&p) };
        Rewrite::<u32>::new(&Tuple::of(&p), &to, 0).unwrap().apply(&mut frame, &p, 0);
        prop_assert_eq!(&frame[at..at + 2], &[0, 0]);
        prop_assert_eq!(Tuple::of(&wire::parse(&frame).unwrap()), to);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(parts in parts(), wrong in 1u8..255) {
        let parts = keyed(parts);
        let mut frame = parts.frame();
        let at = parts.l4() + match parts.proto {
            Proto::TCP => 16,
            Proto::UDP => 6,
            Proto::SCTP => 8,
            _ => 2,
        };
        frame[at] ^= wrong;
        // What is zero means "none", and is not wrong.
        prop_assume!(frame[at..at + 2] != [0, 0]);
        oracle::check(&frame);
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let parts = Parts {
        tagged: false,
        addresses: ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()),
        ttl: 64,
        options: Vec::new(),
        extensions: Vec::new(),
        proto: Proto::UDP,
        ports: (5000, 53),
        tcp_options: Vec::new(),
        flags: 0,
        payload: b"payload".to_vec(),
        padding: 0,
    };
    let mut seen = 0;
    for sport in 0..=u16::MAX {
        let mut frame = parts.frame();
        let p = wire::parse(&frame).unwrap();
        let to = Tuple { sport, ..Tuple::of(&p) };
        Rewrite::<u32>::new(&Tuple::of(&p), &to, 0).unwrap().apply(&mut frame, &p, 0);
        assert_ne!(frame[40..42], [0, 0], "source port {sport}");
        seen += u32::from(frame[40..42] == [0xff, 0xff]);
    }
    assert!(seen >= 1, "some source port makes the sum zero");
}

#[test]
fn a_rewrite_is_of_one_family() {
    let tuple = |src: &str, dst: &str| Tuple {
        src: src.parse::<IpAddr>().unwrap(),
        dst: dst.parse().unwrap(),
        proto: Proto::TCP,
        sport: 1,
        dport: 2,
    };
    let (v4, v6) = (tuple("10.0.0.1", "10.0.0.2"), tuple("fd00::1", "fd00::2"));
    assert!(Rewrite::<u32>::new(&v4, &v6, 1).is_none());
    assert!(Rewrite::<u128>::new(&v6, &v4, 1).is_none());
}
