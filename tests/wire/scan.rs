//! Headers read by the batch, by every engine that this processor has: against the parser, for frames of every
//! kind, for every single bit turned over, and for every batch size.

use crate::frames::{Parts, parts};
use proptest::prelude::*;
use std::net::IpAddr;
use supernet_dataplane::{
    vector::{Engine, Header, Isa, MOST},
    wire::{Proto, checksum},
};
use supernet_testkit::oracle;

/// Has the engines that ran stand in the test's output.
fn name_engines() {
    let names: Vec<_> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Isa::name).collect();
    println!("engines: {}; the best: {}", names.join(", "), Engine::detect(1).isa().name());
}

/// A frame's header; what lies beyond its end is not zero.
fn header(frame: &[u8]) -> (Header, u16) {
    let mut header = [0xa5; size_of::<Header>()];
    let n = frame.len().min(header.len());
    header[..n].copy_from_slice(&frame[..n]);
    (header, frame.len() as u16)
}

/// The same with a correct IPv4 header checksum, so that the checks behind it are reached.
fn mended((mut header, len): (Header, u16)) -> (Header, u16) {
    header[24..26].fill(0);
    let sum = checksum::of(&header[14..34]).to_be_bytes();
    header[24..26].copy_from_slice(&sum);
    (header, len)
}

/// A plain packet: 26 bytes of payload behind UDP, 14 behind TCP, and 4 of padding.
fn plain(proto: Proto, src: &str, dst: &str) -> (Header, u16) {
    let parts = Parts {
        tagged: false,
        addresses: (src.parse::<IpAddr>().unwrap(), dst.parse().unwrap()),
        ttl: 64,
        options: Vec::new(),
        extensions: Vec::new(),
        proto,
        ports: (40_001, 8_443),
        tcp_options: Vec::new(),
        flags: 0x10,
        payload: vec![0x5a; if proto == Proto::TCP { 14 } else { 26 }],
        padding: 4,
    };
    header(&parts.frame())
}

fn plain_v4(proto: Proto) -> (Header, u16) {
    plain(proto, "10.1.2.3", "198.51.100.77")
}

fn plain_v6(proto: Proto) -> (Header, u16) {
    plain(proto, "fd00:1:2:3:4:5:6:7", "2001:db8::9:a0")
}

fn plain_ones() -> [(Header, u16); 4] {
    [plain_v4(Proto::TCP), plain_v4(Proto::UDP), plain_v6(Proto::TCP), plain_v6(Proto::UDP)]
}

proptest! {
    #[test]
    fn reads_what_a_frame_was_made_of(all in prop::collection::vec(parts(), 0..=MOST)) {
        let headers: Vec<_> = all.iter().map(|parts| header(&parts.frame())).collect();
        let is_plain = |parts: &&Parts| {
            let is_bare = match parts.addresses.0 {
                IpAddr::V4(_) => parts.options.is_empty(),
                IpAddr::V6(_) => parts.extensions.is_empty(),
            };
            let is_transport = parts.proto == Proto::UDP || parts.proto == Proto::TCP && parts.flags & 7 == 0;
            !parts.tagged && is_bare && is_transport
        };
        prop_assert_eq!(oracle::check_scan(&headers), all.iter().filter(is_plain).count());
    }

    #[test]
    fn agrees_whatever_is_changed(
        all in prop::collection::vec((0..4usize, any::<u8>(), any::<bool>()), 0..=MOST),
        changes in prop::collection::vec((any::<u8>(), 12..76usize, any::<u8>()), 0..200),
        lens in prop::collection::vec((any::<u8>(), any::<u16>()), 0..8),
    ) {
        let mut headers: Vec<_> = all.iter().map(|(kind, salt, _)| {
            let mut it = plain_ones()[*kind];
            it.0[37] = *salt;
            it
        }).collect();
        if !headers.is_empty() {
            let n = headers.len();
            for (which, at, byte) in changes {
                headers[usize::from(which) % n].0[at] = byte;
            }
            for (which, len) in lens {
                headers[usize::from(which) % n].1 = len;
            }
            for ((_, _, mend), it) in all.iter().zip(&mut headers) {
                if *mend && it.0[12] == 8 {
                    *it = mended(*it);
                }
            }
        }
        oracle::check_scan(&headers);
    }

    #[test]
    fn agrees_about_nonsense(
        all in prop::collection::vec((any::<[[u8; 32]; 4]>(), any::<u16>(), 0..4u8), 0..=MOST)
    ) {
        let headers: Vec<_> = all.into_iter().map(|(bytes, len, kind)| {
            let mut header: Header = [0; size_of::<Header>()];
            header.copy_from_slice(bytes.as_flattened());
            match kind {
                0 => header[12..15].copy_from_slice(&[8, 0, 0x45]),
                1 => {
                    header[12..15].copy_from_slice(&[8, 0, 0x45]);
                    (header, _) = mended((header, len));
                }
                2 => header[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
                _ => {}
            }
            (header, len)
        }).collect();
        oracle::check_scan(&headers);
    }
}

#[test]
fn every_batch_size() {
    name_engines();
    for n in 0..=MOST {
        let headers: Vec<_> = (0..n)
            .map(|n| {
                let mut it = plain_ones()[n % 4];
                it.0[0] = n as u8;
                it
            })
            .collect();
        assert_eq!(oracle::check_scan(&headers), n);
    }
}

#[test]
fn every_bit_turned_over() {
    name_engines();
    for it in plain_ones() {
        assert_eq!(oracle::check_scan(&[it; 3]), 3);
        let (mut turned, mut mended_too) = (Vec::new(), Vec::new());
        for bit in 12 * 8..76 * 8 {
            let mut it = it;
            it.0[bit / 8] ^= 1 << (bit % 8);
            turned.push(it);
            mended_too.push(mended(it));
        }
        let plain = oracle::check_scan(&turned);
        assert!(plain > 0 && plain < turned.len(), "{plain} are plain still");
        if it.0[12] == 8 {
            // Among them TTL, type of service, identifier, reserved bit and addresses.
            assert!(oracle::check_scan(&mended_too) > plain + 50);
        }
    }
}

/// All small numbers, and some of the large ones.
fn lengths() -> impl Iterator<Item = u16> {
    (0..1024).chain((1024..=u16::MAX).step_by(61)).chain([u16::MAX - 1, u16::MAX])
}

#[test]
fn every_length_of_frame_and_field() {
    for it in plain_ones() {
        let all: Vec<_> = lengths().map(|len| (it.0, len)).collect();
        // The frame's last four bytes are padding.
        let long_enough = all.iter().filter(|(_, len)| *len >= it.1 - 4).count();
        assert_eq!(oracle::check_scan(&all), long_enough);
        // Total or payload length, and that of UDP.
        let fields: &[usize] = if it.0[12] == 8 { &[16, 38] } else { &[18, 58] };
        for at in fields {
            let with = |value: u16| {
                let mut it = it;
                it.0[*at..*at + 2].copy_from_slice(&value.to_be_bytes());
                if it.0[12] == 8 { mended(it) } else { it }
            };
            let all: Vec<_> = lengths().map(with).collect();
            let plain = oracle::check_scan(&all);
            assert!(plain > 0, "none is plain with other values at {at}");
        }
    }
}

#[test]
fn every_tcp_offset_and_flag() {
    for (it, at) in [(plain_v4(Proto::TCP), 46), (plain_v6(Proto::TCP), 66)] {
        let with = |value: u16| {
            let mut it = it;
            it.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
            it
        };
        let all: Vec<_> = (0..=u16::MAX).filter(|value| value & 0x0f00 == 0).map(with).collect();
        // Headers of 20 to 32 bytes, as there are 14 of payload; without the three lowest flags.
        assert_eq!(oracle::check_scan(&all), 4 * 32);
    }
}

#[test]
fn every_fragment_field_and_checksum() {
    let it = plain_v4(Proto::UDP);
    let with = |at: usize, value: u16| {
        let mut it = it;
        it.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
        it
    };
    let fragments: Vec<_> = (0..=u16::MAX).map(|value| mended(with(20, value))).collect();
    // "Don't fragment" and the reserved bit, set or not.
    assert_eq!(oracle::check_scan(&fragments), 4);
    let sums: Vec<_> = (0..=u16::MAX).map(|value| with(24, value)).collect();
    assert_eq!(oracle::check_scan(&sums), 1);
    // Every sum there is, by way of the identifier. Zero is also written as all ones.
    let all: Vec<_> = (0..=u16::MAX).map(|value| mended(with(18, value))).collect();
    let all_ones = |(header, len): &(Header, u16)| {
        let mut header = *header;
        header[24..26].fill(0xff);
        (header, *len)
    };
    let zero: Vec<_> = all.iter().filter(|(header, _)| header[24..26] == [0; 2]).map(all_ones).collect();
    assert!(!zero.is_empty());
    assert_eq!(oracle::check_scan(&zero), zero.len());
    assert_eq!(oracle::check_scan(&all), all.len());
}

#[test]
fn every_protocol() {
    for it in plain_ones() {
        let at = if it.0[12] == 8 { 23 } else { 20 };
        let with = |proto| {
            let mut it = it;
            it.0[at] = proto;
            if it.0[12] == 8 { mended(it) } else { it }
        };
        let all: Vec<_> = (0..=u8::MAX).map(with).collect();
        assert!(oracle::check_scan(&all) >= 1);
    }
}
