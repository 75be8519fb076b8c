//! What is larger than its way can take: who sent it hears how much would fit.

use crate::topology;
use supernet_dataplane::{
    port::memory::SendError,
    state::Config,
    verdict::DropReason,
    wire::{self, Mac, Proto, checksum, tcp_flags::*},
};
use supernet_testkit::{
    fragments::{cut, join},
    net::{Net, OUTSIDE_MAC},
    packet::{Probe, sound},
    topology::mac,
};

/// The network, with one port that takes less.
fn narrow(port: u32, mtu: u16) -> Net {
    Net::new(topology().with(|s| {
        for entry in s.ports.iter_mut().flatten().filter(|entry| entry.id.0 == port) {
            std::sync::Arc::make_mut(entry).mtu = mtu;
        }
    }))
}

/// Who says that how much fits.
fn told(frame: &[u8]) -> (String, u32) {
    let p = wire::parse(frame).unwrap();
    let message = &frame[p.l4()..usize::from(p.end)];
    assert_eq!(checksum::transport(p.src, p.dst, p.proto, message), 0);
    let mtu = if p.proto == Proto::ICMP {
        assert_eq!((p.icmp.kind, p.icmp.code), (3, 4));
        u32::from(u16::from_be_bytes([message[6], message[7]]))
    } else {
        assert_eq!((p.icmp.kind, p.icmp.code), (2, 0));
        u32::from_be_bytes([message[4], message[5], message[6], message[7]])
    };
    (p.src.to_string(), mtu)
}

#[test]
fn a_sender_hears_what_fits_before_and_after_its_connection_is_open() {
    for (src, dst, headers, small, teller) in [
        // To a pod that takes less, by the router between, under the name that it has on the sender's side; to the
        // outside, by the Tier-0.
        ("10.0.0.2:4000", "10.0.0.18:80", 28, 2, "10.0.0.1"),
        ("[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80", 48, 2, "fe80::1"),
        ("10.0.0.2:4000", "203.0.113.7:80", 28, 3, "192.168.100.1"),
    ] {
        for open in [false, true] {
            let mut net = narrow(small, 1400);
            let probe = Probe::new(0, Proto::UDP, src, dst);
            if open {
                net.one(0, &probe);
            }
            // What just fits goes, and one byte more does not.
            assert_eq!(net.one(0, &Probe { payload: 1400 - headers, ..probe }).0, small);
            let big = Probe { payload: 1401 - headers, ..probe };
            let out = net.dropped(0, &big.frame(), DropReason::TooBig);
            assert_eq!(out.len(), 1);
            assert_eq!((out[0].0, told(&out[0].1)), (0, (teller.to_owned(), 1400)), "open: {open}");
        }
    }
}

#[test]
fn a_client_outside_hears_it_from_the_tier_0_about_the_vip_it_called() {
    let mut net = narrow(1, 1400);
    let call = Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        payload: 1400,
        ..Probe::new(3, Proto::UDP, "203.0.113.7:5000", "192.168.80.11:53")
    };
    let sent = call.frame();
    let out = net.dropped(3, &sent, DropReason::TooBig);
    assert_eq!((out[0].0, told(&out[0].1)), (3, ("192.168.100.1".to_owned(), 1400)));
    let p = wire::parse(&out[0].1).unwrap();
    // As it was sent: to the VIP.
    assert_eq!(out[0].1[p.l4() + 8..], sent[14..][..548]);
}

/// The member behind a VIP sends more than the client's way takes: the error comes from far outside, and to the member.
#[test]
fn what_a_router_outside_says_reaches_the_member_of_a_vip() {
    let mut net = Net::new(topology());
    let call = Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        ..Probe::new(3, Proto::UDP, "203.0.113.7:5000", "192.168.80.11:53")
    };
    let delivered = net.send(3, &call.frame());
    let answer = Probe { payload: 1400, ..Probe::answer(&delivered[0].1, 0) }.frame();
    let out = net.send(1, &answer);
    let from = "198.51.100.1".parse().unwrap();
    let error = supernet_testkit::packet::icmp_error(&out[0].1, (3, 4), [0, 0, 4, 176], from, 28);
    let back = net.send(3, &error);
    assert_eq!((back[0].0, told(&back[0].1)), (1, ("198.51.100.1".to_owned(), 1200)));
}

/// Jumbo frames, from pod to pod and out of a pool that has buffers for them.
#[test]
fn jumbo_frames_go_where_there_is_room() {
    let wide = |ports: &'static [u32]| {
        topology().with(move |s| {
            for entry in s.ports.iter_mut().flatten().filter(|entry| ports.contains(&entry.id.0)) {
                std::sync::Arc::make_mut(entry).mtu = 9000;
            }
        })
    };
    let config = Config { sessions: 64, frames: 64, jumbo_frames: 16, ..Config::default() };
    let probe = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80");
    let mut net = Net::with(wide(&[0, 2]), config.clone());
    let (port, frame, p) = net.one(0, &Probe { payload: 9000 - 28, ..probe });
    assert_eq!((port, p.ip_len(), frame.len()), (2, 9000, 9014));
    net.dropped(0, &Probe { payload: 9001 - 28, ..probe }.frame(), DropReason::TooBig);
    // The other end takes less: cut to its size, or told so.
    let mut net = Net::with(wide(&[0]), config);
    let big = Probe { payload: 8000, ..probe }.frame();
    let out = net.dropped(0, &big, DropReason::TooBig);
    assert_eq!(told(&out[0].1), ("10.0.0.1".to_owned(), 1500));
    let whole = &cut(&big, &[], 7)[0];
    let pieces: Vec<Vec<u8>> = net.send(0, whole).into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(pieces.len(), 6);
    let joined = join(&pieces).unwrap();
    sound(&joined);
    assert_eq!(joined[joined.len() - 8000..], big[big.len() - 8000..]);
    let pool = net.dataplane.pool();
    assert_eq!(pool.available(), pool.capacity());
    // Without such buffers the guest hears it at once.
    let net = Net::new(wide(&[0, 2]));
    assert_eq!(net.guests[0].send(&big), Err(SendError::TooLong));
}

/// A SYN with these options, its checksum right.
fn syn(probe: &Probe, options: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4));
    let mut frame = Probe { payload: 0, ..*probe }.frame();
    let l4 = wire::parse(&frame).unwrap().l4();
    frame.extend(options);
    frame[l4 + 12] += (options.len() / 4 * 16) as u8;
    let len = (frame.len() - 14) as u16;
    if probe.src.is_ipv4() {
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[18..20].copy_from_slice(&(len - 40).to_be_bytes());
    }
    frame[l4 + 16..l4 + 18].fill(0);
    let sum = checksum::transport(probe.src.ip(), probe.dst.ip(), Proto::TCP, &frame[l4..]);
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The maximum segment size in a frame, read by etherparse.
fn mss(frame: &[u8]) -> Option<u16> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    tcp.options_iterator().find_map(|option| match option {
        Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    })
}

#[test]
fn segment_sizes_are_clamped_if_wanted_and_checksums_mended() {
    let with = |clamp_mss| {
        topology().with(move |s| {
            s.clamp_mss = clamp_mss;
            std::sync::Arc::make_mut(s.ports[2].as_mut().unwrap()).mtu = 1400;
        })
    };
    let v4 = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80");
    let v6 = Probe::new(0, Proto::TCP, "[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80");
    for (probe, most) in [(v4, 1360), (v6, 1340)] {
        for (options, offered) in [
            (&[2, 4, 0x05, 0xb4][..], Some(1460)),
            // At an odd offset, behind others, and twice as long as need be.
            (&[1, 2, 4, 0x05, 0xb4, 1, 1, 1], Some(1460)),
            (&[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 3, 3, 7, 2, 4, 0x23, 0x28, 4, 2, 1], Some(9000)),
            (&[2, 4, 0x02, 0x18], Some(536)),
            (&[1, 1, 1, 0], None),
            // Cut off, or of no length: not read, not changed.
            (&[1, 2, 4, 0x05], None),
            (&[9, 0, 2, 4], None),
        ] {
            let frame = syn(&probe, options);
            for clamp in [false, true] {
                let mut net = Net::new(with(clamp));
                let out = net.send(0, &frame);
                sound(&out[0].1);
                let expected = offered.map(|mss: u16| if clamp { mss.min(most) } else { mss });
                if offered.is_some() {
                    assert_eq!(mss(&out[0].1), expected, "{options:?}");
                } else {
                    assert!(out[0].1.ends_with(options), "{options:?}");
                }
                // The answer's, on its way back.
                let answer = Probe::answer(&out[0].1, SYN | ACK);
                let back = net.send(2, &syn(&answer, &[2, 4, 0x05, 0xb4]));
                sound(&back[0].1);
                assert_eq!(mss(&back[0].1), Some(if clamp { most } else { 1460 }));
            }
        }
    }
}

/// The port that asked takes no answer that is larger than what it may send.
#[test]
fn an_echo_reply_is_no_larger_than_its_port_takes() {
    for (src, dst, headers) in [
        ("10.0.0.2:7", "10.0.0.1:0", 28),
        ("10.0.0.2:7", "10.96.0.10:0", 28),
        ("[fd00:0:0:1::2]:7", "[fe80::1]:0", 48),
    ] {
        let mut net = narrow(0, 1400);
        let proto = if headers == 28 { Proto::ICMP } else { Proto::ICMPV6 };
        let probe = Probe::new(0, proto, src, dst);
        assert_eq!(net.one(0, &Probe { payload: 1400 - headers, ..probe }).0, 0);
        let big = Probe { payload: 1401 - headers, ..probe }.frame();
        assert_eq!(net.dropped(0, &big, DropReason::TooBig).len(), 0);
    }
}

/// Ports of one segment may differ in what they take.
#[test]
fn what_many_hear_fits_each_of_them() {
    let mut net = narrow(1, 1400);
    let group = Probe {
        dst_mac: Mac([1, 0, 0x5e, 0, 0, 251]),
        ..Probe::new(0, Proto::UDP, "10.0.0.2:1", "224.0.0.251:53")
    };
    assert_eq!(net.one(0, &Probe { payload: 1400 - 28, ..group }).0, 1);
    let big = Probe { payload: 1401 - 28, ..group }.frame();
    assert_eq!(net.dropped(0, &big, DropReason::TooBig).len(), 0);
}
