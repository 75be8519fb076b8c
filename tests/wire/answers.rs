//! What the network writes itself, read by smoltcp: ARP, neighbor discovery, ICMP errors, echo replies, resets.

use crate::frames::{Parts, parts};
use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, Icmpv4DstUnreachable, Icmpv4Packet,
        Icmpv4Repr, Icmpv4TimeExceeded, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, Icmpv6TimeExceeded,
        Ipv4Packet, Ipv6Packet, NdiscNeighborFlags, NdiscRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    },
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_dataplane::wire::{self, Mac, Packet, Proto, arp, icmp, nd, tcp, tcp_flags::*};

const OURS: Mac = Mac([2, 0x50, 0x56, 0x56, 0x44, 0x52]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn ethernet(mac: Mac) -> EthernetAddress {
    EthernetAddress(mac.0)
}

fn v6(s: &str) -> Ipv6Addr {
    s.parse().unwrap()
}

#[test]
fn arp_asked_and_answered() {
    let (asker, target) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
    let mut frame = vec![0xaa; arp::FRAME];
    arp::request(&mut frame, (THEIRS, asker), target);
    let read = |frame: &[u8]| {
        let frame = EthernetFrame::new_checked(frame).unwrap();
        let repr = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
        (frame.src_addr(), frame.dst_addr(), repr)
    };
    let expected = |operation, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)| ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: ethernet(from.0),
        source_protocol_addr: from.1,
        target_hardware_addr: ethernet(to.0),
        target_protocol_addr: to.1,
    };
    let asked = expected(ArpOperation::Request, (THEIRS, asker), (Mac([0; 6]), target));
    assert_eq!(read(&frame), (ethernet(THEIRS), EthernetAddress::BROADCAST, asked));

    assert_eq!(wire::parse(&frame).unwrap().l3, wire::L3::Arp);
    let request = arp::Arp::read(&frame, 14);
    assert!(request.request);
    arp::reply_in_place(&mut frame, &request, OURS);
    let answered = expected(ArpOperation::Reply, (OURS, target), (THEIRS, asker));
    assert_eq!(read(&frame), (ethernet(OURS), ethernet(THEIRS), answered));
}

/// A frame of neighbor discovery as smoltcp reads it, and as we do.
fn discovery(frame: &[u8]) -> (Ipv6Packet<&[u8]>, Icmpv6Repr<'_>, nd::Message) {
    let ip = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    assert_eq!(ip.hop_limit(), 255);
    let message = Icmpv6Packet::new_checked(&frame[54..]).unwrap();
    let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &message, &ChecksumCapabilities::default())
        .unwrap();
    let ours = nd::read(frame, &wire::parse(frame).unwrap()).unwrap();
    (ip, repr, ours)
}

#[test]
fn neighbors_asked_for_and_advertised() {
    let (asker, target) = (v6("fd00::2"), v6("fd00::1:2345"));
    let mut frame = vec![0xaa; nd::FRAME];
    assert_eq!(nd::solicitation(&mut frame, (THEIRS, asker), target), nd::FRAME);
    let (ip, repr, ours) = discovery(&frame);
    assert_eq!((ip.src_addr(), ip.dst_addr()), (asker, v6("ff02::1:ff01:2345")));
    let asked = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(ethernet(THEIRS).into()) };
    assert_eq!(repr, Icmpv6Repr::Ndisc(asked));
    assert_eq!(ours, nd::Message::NeighborSolicitation { target });
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x01, 0x23, 0x45], "the group's MAC (RFC 2464, 7)");

    for (to, dst, solicited) in [(asker, asker, true), (v6("::"), v6("ff02::1"), false)] {
        for router in [false, true] {
            let mut frame = vec![0xaa; nd::FRAME];
            assert_eq!(nd::advertisement(&mut frame, (OURS, target), (THEIRS, to), router), nd::FRAME);
            let (ip, repr, ours) = discovery(&frame);
            assert_eq!((ip.src_addr(), ip.dst_addr()), (target, dst));
            let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) = repr else {
                panic!("{repr:?}")
            };
            assert_eq!((target_addr, lladdr), (target, Some(ethernet(OURS).into())));
            assert_eq!(flags.contains(NdiscNeighborFlags::SOLICITED), solicited);
            assert_eq!(flags.contains(NdiscNeighborFlags::ROUTER), router);
            assert!(flags.contains(NdiscNeighborFlags::OVERRIDE));
            assert_eq!(ours, nd::Message::NeighborAdvertisement { target, mac: Some(OURS) });
        }
    }
}

#[test]
fn a_router_is_advertised_with_mtu_and_prefix() {
    let (router, host) = (v6("fe80::1"), v6("fe80::7"));
    for prefix in [None, Some("fd00:0:0:1::/64".parse().unwrap())] {
        let mut frame = vec![0xaa; nd::FRAME + 64];
        let len = nd::router_advertisement(&mut frame, (OURS, router), (THEIRS, host), prefix, 1400);
        let (ip, repr, ours) = discovery(&frame[..len]);
        assert_eq!((ip.src_addr(), ip.dst_addr(), ours), (router, host, nd::Message::RouterAdvertisement));
        let Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { mtu, prefix_info, lladdr, router_lifetime, .. }) =
            repr
        else {
            panic!("{repr:?}")
        };
        assert_eq!((mtu, lladdr), (Some(1400), Some(ethernet(OURS).into())));
        assert!(router_lifetime.secs() > 0);
        let seen = prefix_info.map(|i| (i.prefix, i.prefix_len));
        assert_eq!(seen, prefix.map(|p: ipnet::Ipv6Net| (p.network(), p.prefix_len())));
        let autonomous = |i: &smoltcp::wire::NdiscPrefixInformation| {
            i.flags.contains(smoltcp::wire::NdiscPrefixInfoFlags::ADDRCONF)
        };
        assert!(!prefix_info.as_ref().is_some_and(autonomous), "addresses are static");
    }
}

#[test]
fn discovery_that_came_from_afar_or_was_forged_is_not_read() {
    let mut frame = vec![0; nd::FRAME];
    nd::solicitation(&mut frame, (THEIRS, v6("fd00::2")), v6("fd00::1"));
    let read = |frame: &[u8]| nd::read(frame, &wire::parse(frame).unwrap());
    assert!(read(&frame).is_some());
    let changed = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[at] = byte;
        read(&frame)
    };
    assert_eq!(changed(21, 254), None, "hop limit");
    assert_eq!(changed(60, 1), None, "checksum");
}

/// The message of an ICMP error about `about`, and what it quotes.
fn quote_of(out: &[u8], about: &Packet) -> (Packet, usize) {
    let p = wire::parse(out).unwrap();
    assert_eq!((p.dst, p.src_mac, p.dst_mac), (about.src, OURS, THEIRS));
    (p, p.l4() + 8)
}

proptest! {
    #[test]
    fn icmp_errors_quote_what_they_are_about(parts in parts(), more in 0..1400usize) {
        let mut parts = parts;
        parts.payload.resize(parts.payload.len() + more, 7);
        let frame = parts.frame();
        let p = wire::parse(&frame).unwrap();
        let original = &frame[p.l3()..usize::from(p.end)];
        let mut out = vec![0; 2048];
        let from: IpAddr = if p.src.is_ipv4() { [10, 0, 0, 1].into() } else { v6("fd00::1").into() };
        for error in [icmp::Error::TimeExceeded, icmp::Error::NoRoute, icmp::Error::PortUnreachable] {
            let len = icmp::error(error, &frame, &p, from, (OURS, THEIRS), &mut out).unwrap();
            let out = &out[..len];
            let (e, quote) = quote_of(out, &p);
            prop_assert_eq!(e.src, from);
            let most = if p.src.is_ipv4() { 576 } else { 1280 };
            prop_assert!(e.ip_len() <= most);
            prop_assert!(e.ip_len() == most || quote + original.len() == len, "as much as fits");
            prop_assert_eq!(&out[quote..], &original[..len - quote]);
            // smoltcp checks the checksum and the header that is quoted.
            let checks = ChecksumCapabilities::default();
            match (p.src, p.dst) {
                (IpAddr::V4(_), _) => {
                    let ip = Ipv4Packet::new_checked(&out[14..]).unwrap();
                    prop_assert!(ip.verify_checksum());
                    prop_assert_eq!(ip.dscp() << 2, 6 << 5, "precedence 6 (RFC 1812, 4.3.2.5)");
                    let message = Icmpv4Packet::new_checked(ip.payload()).unwrap();
                    prop_assert!(message.verify_checksum());
                    if parts.options.is_empty() && p.ip_len() <= 548 {
                        let reason = match Icmpv4Repr::parse(&message, &checks) {
                            Ok(Icmpv4Repr::TimeExceeded { reason, .. }) => {
                                prop_assert_eq!(reason, Icmpv4TimeExceeded::TtlExpired);
                                icmp::Error::TimeExceeded
                            }
                            Ok(Icmpv4Repr::DstUnreachable { reason: Icmpv4DstUnreachable::NetUnreachable, .. }) => {
                                icmp::Error::NoRoute
                            }
                            Ok(Icmpv4Repr::DstUnreachable { reason: Icmpv4DstUnreachable::PortUnreachable, .. }) => {
                                icmp::Error::PortUnreachable
                            }
                            other => panic!("{other:?}"),
                        };
                        prop_assert_eq!(reason, error);
                    }
                }
                (IpAddr::V6(_), _) => {
                    let ip = Ipv6Packet::new_checked(&out[14..]).unwrap();
                    let message = Icmpv6Packet::new_checked(ip.payload()).unwrap();
                    prop_assert!(message.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
                    let reason = match Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &message, &checks) {
                        Ok(Icmpv6Repr::TimeExceeded { reason, .. }) => {
                            prop_assert_eq!(reason, Icmpv6TimeExceeded::HopLimitExceeded);
                            icmp::Error::TimeExceeded
                        }
                        Ok(Icmpv6Repr::DstUnreachable { reason: Icmpv6DstUnreachable::NoRoute, .. }) => {
                            icmp::Error::NoRoute
                        }
                        Ok(Icmpv6Repr::DstUnreachable { reason: Icmpv6DstUnreachable::PortUnreachable, .. }) => {
                            icmp::Error::PortUnreachable
                        }
                        // smoltcp wants the quoted packet whole.
                        _ if p.ip_len() > 1232 => error,
                        other => panic!("{other:?}"),
                    };
                    prop_assert_eq!(reason, error);
                }
            }
        }
        let other: IpAddr = if p.src.is_ipv4() { v6("fd00::1").into() } else { [10, 0, 0, 1].into() };
        prop_assert_eq!(icmp::error(icmp::Error::NoRoute, &frame, &p, other, (OURS, THEIRS), &mut out), None);
        prop_assert_eq!(icmp::error(icmp::Error::NoRoute, &frame, &p, from, (OURS, THEIRS), &mut out[..40]), None);
    }

    #[test]
    fn an_echo_reply_is_the_request_turned_round(parts in parts()) {
        let proto = if parts.addresses.0.is_ipv4() { Proto::ICMP } else { Proto::ICMPV6 };
        let request = Parts { proto, flags: 0, ..parts };
        let (a, b) = request.addresses;
        let reply = Parts { addresses: (b, a), flags: 1, ttl: 64, ..request.clone() };
        let mut frame = request.frame();
        let p = wire::parse(&frame).unwrap();
        icmp::echo_reply_in_place(&mut frame, &p);
        let mut expected = reply.frame();
        let (dst, src) = expected[..12].split_at_mut(6);
        dst.swap_with_slice(src);
        prop_assert_eq!(frame, expected);
    }

    /// RFC 9293, 3.10.7.1: how a segment to a connection that does not exist is answered.
    #[test]
    fn resets_follow_the_rules(parts in parts(), onward: bool) {
        let parts = Parts { proto: Proto::TCP, ..parts };
        let frame = parts.frame();
        let p = wire::parse(&frame).unwrap();
        let ends = tcp::Ends { from: (p.dst, p.dport), to: (p.src, p.sport), macs: (OURS, THEIRS) };
        let (seq, ack) = (0x1000, 0x2000);
        let mut out = vec![0; 2048];
        let written = if onward {
            tcp::reset_onward(&frame, &p, &ends, &mut out)
        } else {
            tcp::reset_answer(&frame, &p, &ends, &mut out)
        };
        if !onward && parts.flags & RST != 0 {
            prop_assert_eq!(written, None, "a reset is never answered");
            return Ok(());
        }
        let out = &out[..written.unwrap()];
        let reset = wire::parse(out).unwrap();
        prop_assert_eq!((reset.src, reset.sport, reset.dst, reset.dport), (p.dst, p.dport, p.src, p.sport));
        let segment = TcpPacket::new_checked(&out[reset.l4()..]).unwrap();
        let (src, dst) = (reset.src.into(), reset.dst.into());
        prop_assert!(segment.verify_checksum(&src, &dst));
        let has_ack = parts.flags & ACK != 0;
        let len = parts.payload.len() as i32 + i32::from(parts.flags & SYN != 0) + i32::from(parts.flags & FIN != 0);
        let expected = match (onward, has_ack) {
            (true, true) => (seq, Some(ack)),
            (true, false) => (seq, None),
            (false, true) => (ack, None),
            (false, false) => (0, Some(seq + len)),
        };
        prop_assert_eq!(segment.seq_number(), TcpSeqNumber(expected.0));
        prop_assert_eq!((segment.rst(), segment.ack(), segment.syn(), segment.fin()), (true, expected.1.is_some(), false, false));
        if let Some(number) = expected.1 {
            prop_assert_eq!(segment.ack_number(), TcpSeqNumber(number));
        }
        // Real stacks take it, if the ports are real.
        if p.sport != 0 && p.dport != 0 {
            let repr = TcpRepr::parse(&segment, &src, &dst, &ChecksumCapabilities::default()).unwrap();
            prop_assert_eq!(repr.control, TcpControl::Rst);
        }
    }
}
