//! What is larger than its way can take: who sent it hears how much would fit.

use crate::topology;
use supernet_dataplane::{
    verdict::DropReason,
    wire::{self, Mac, Proto, checksum},
};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC},
    packet::Probe,
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
        // To a pod that takes less, by the last router; to the outside, by the Tier-0.
        ("10.0.0.2:4000", "10.0.0.18:80", 28, 2, "10.0.0.17"),
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
