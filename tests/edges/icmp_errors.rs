//! ICMP errors find their way back: who sent a packet gets errors about the packet that it sent, and nobody gets
//! errors about anything else.

use crate::{DUAL_POD, count, topology, ways};
use proptest::{prelude::*, sample::select};
use std::net::IpAddr;
use supernet_dataplane::{
    state::Config,
    table::classifier::Action,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{self, L3, Packet, Proto, checksum, tcp_flags::*},
};
use supernet_testkit::{
    fragments::cut,
    net::{Net, OUTSIDE_MAC, at},
    packet::{Probe, icmp_error},
    topology::{every, mac},
};

/// A router between the network and the world.
fn router(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [198, 51, 100, 9].into() } else { "2001:db8:77::9".parse().unwrap() }
}

/// The quote of an ICMP error whose checksum must be right.
fn quote(frame: &[u8]) -> (Packet, Vec<u8>) {
    let p = wire::parse(frame).unwrap();
    let message = &frame[p.l4()..usize::from(p.end)];
    assert!(p.is_icmp_error());
    assert_eq!(checksum::transport(p.src, p.dst, p.proto, message), 0, "the error's checksum");
    (p, message[8..].to_vec())
}

/// The IP packet in a frame with this TTL, and a header checksum that goes with it.
fn with_ttl(frame: &[u8], ttl: u8) -> Vec<u8> {
    let p = wire::parse(frame).unwrap();
    let mut ip = frame[p.l3()..usize::from(p.end)].to_vec();
    if p.l3 == L3::V4 {
        ip[8] = ttl;
        ip[10..12].fill(0);
        let sum = checksum::of(&ip[..20]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        ip[7] = ttl;
    }
    ip
}

/// Has an error about `delivered`, which was sent as `sent` by port `from` and came out at port `to`, go back, and
/// checks that it is about what was sent.
fn goes_back(
    net: &mut Net,
    (from, sent): (u32, &[u8]),
    (to, delivered): (u32, &[u8]),
    len: usize,
    by_router: bool,
) {
    let (was, is) = (wire::parse(sent).unwrap(), wire::parse(delivered).unwrap());
    let speaker = if by_router { router(is.dst) } else { is.dst };
    let (kind, mtu) = if is.dst.is_ipv4() { ((3, 4), [0, 0, 5, 20]) } else { ((2, 0), [0, 0, 5, 20]) };
    let error = icmp_error(delivered, kind, mtu, speaker, len);
    let out = net.send(to, &error);
    assert_eq!(out.len(), 1, "{:?}", net.counters().drops);
    assert_eq!(out[0].0, from, "the port that the packet came in by");
    let (p, quoted) = quote(&out[0].1);
    assert_eq!(p.dst, was.src);
    // A receiver has the name that the sender knows; a router has its own.
    assert_eq!(p.src, if by_router { speaker } else { was.dst });
    assert_eq!((p.icmp.kind, p.icmp.code), kind);
    assert_eq!(out[0].1[p.l4() + 4..][..4], mtu);
    let expected = with_ttl(sent, is.ttl);
    assert_eq!(quoted, expected[..len.min(expected.len())]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever was translated, an error about it quotes the packet as its sender sent it, byte by byte.
    #[test]
    fn errors_quote_what_was_sent(
        (port, probe) in select(ways()),
        payload in 0..300usize,
        // In fours: of a checksum that is cut through, half cannot be mended.
        more in prop_oneof![1 => Just(0usize), 2 => (0..100usize).prop_map(|n| n * 4)],
        by_router in any::<bool>(),
        answered in any::<bool>(),
    ) {
        let mut net = Net::new(topology());
        let sent = Probe { payload, ..probe }.frame();
        let out = net.send(port, &sent);
        prop_assert_eq!(out.len(), 1);
        let (to, delivered) = &out[0];
        // The least that errors quote: the header and eight bytes.
        let least = if probe.src.is_ipv4() { 28 } else { 48 };
        // Only beyond an uplink are there routers.
        let beyond = |port: u32| port == 3 || port == 5;
        goes_back(&mut net, (port, &sent), (*to, delivered), least + more, by_router && beyond(*to));
        if answered {
            let reply = Probe { payload, ..Probe::answer(delivered, 0x12) }.frame();
            let back = net.send(*to, &reply);
            prop_assert_eq!(back.len(), 1);
            prop_assert_eq!(back[0].0, port);
            goes_back(&mut net, (*to, &reply), (port, &back[0].1), least + more, by_router && beyond(port));
        }
        prop_assert_eq!(net.sessions(), 1, "errors open nothing");
    }
}

/// A pod's packet to the outside, and as it came out there.
fn outgoing(net: &mut Net) -> (Vec<u8>, Vec<u8>) {
    let sent = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:53").frame();
    let out = net.send(0, &sent);
    (sent, out[0].1.clone())
}

#[test]
fn errors_about_nothing_known_are_dropped() {
    let mut net = Net::new(topology());
    let (_, delivered) = outgoing(&mut net);
    let error = icmp_error(&delivered, (3, 1), [0; 4], router([0; 4].into()), 100);
    // A byte of the quote is another, and the error around it is sound.
    let changed = |at: usize, to: u8| {
        let mut error = error.clone();
        error[42 + at] = to;
        error[36..38].fill(0);
        let sum = checksum::of(&error[34..]);
        error[36..38].copy_from_slice(&sum.to_be_bytes());
        error
    };
    let mut dropped = |frame: &[u8], reason| assert!(net.dropped(3, frame, reason).is_empty());
    // Another port, another protocol, another destination.
    dropped(&changed(21, 0xee), DropReason::IcmpUnrelated);
    dropped(&changed(9, 6), DropReason::IcmpUnrelated);
    dropped(&changed(19, 0xee), DropReason::IcmpUnrelated);
    // A later fragment has no ports.
    dropped(&changed(7, 1), DropReason::IcmpUnrelated);
    // Cut off before the ports, or within the header.
    for quote in [0, 19, 20, 23] {
        let error = icmp_error(&delivered, (3, 1), [0; 4], router([0; 4].into()), quote);
        dropped(&error, DropReason::IcmpUnrelated);
    }
    // To somebody else than who sent it.
    let mut stray = error.clone();
    stray[33] ^= 1;
    let sum =
        checksum::Delta::default().and16(0x5a01, 0x5a00).apply(u16::from_be_bytes([stray[24], stray[25]]));
    stray[24..26].copy_from_slice(&sum.to_be_bytes());
    dropped(&stray, DropReason::IcmpUnrelated);
    // Not what it was when it was sent.
    let mut broken = error.clone();
    broken[60] ^= 1;
    dropped(&broken, DropReason::BadChecksum);
    // Redirects and source quench concern nobody here.
    for kind in [(5, 1), (4, 0)] {
        let error = icmp_error(&delivered, kind, [0; 4], router([0; 4].into()), 100);
        dropped(&error, DropReason::IcmpUnhandled);
    }
    // In pieces.
    dropped(&cut(&error, &[16], 1)[0], DropReason::Fragment);
    assert_eq!(net.send(3, &error).len(), 1, "and the one that is right goes back");
}

#[test]
fn a_pod_sends_errors_in_its_own_name_and_about_its_own_connections() {
    let mut net = Net::new(topology());
    let sent = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80").frame();
    let delivered = net.send(0, &sent)[0].1.clone();
    // The receiver's neighbour knows what was sent, or guesses.
    let forged = |src: &str, port: u32| {
        let mut about = delivered.clone();
        about[..6].copy_from_slice(&mac(port).0);
        icmp_error(&about, (3, 3), [0; 4], src.parse().unwrap(), 100)
    };
    net.dropped(1, &forged("10.0.0.3", 1), DropReason::IcmpUnrelated);
    net.dropped(1, &forged("10.0.0.18", 1), DropReason::SpoofedAddress);
    net.dropped(2, &forged("10.0.0.3", 2), DropReason::SpoofedAddress);
    net.dropped(2, &forged("203.0.113.1", 2), DropReason::SpoofedAddress);
    // From outside, in the name of one inside.
    let mut outside = forged("10.0.0.18", 3);
    outside[..6].copy_from_slice(&mac(3).0);
    net.dropped(3, &outside, DropReason::SpoofedAddress);
    assert_eq!(net.send(2, &forged("10.0.0.18", 2)).len(), 1);
}

#[test]
fn errors_share_the_fate_of_their_connection() {
    let mut net = Net::new(topology());
    let (sent, delivered) = outgoing(&mut net);
    let error = icmp_error(&delivered, (11, 0), [0; 4], router([0; 4].into()), 100);
    assert_eq!(net.send(3, &error).len(), 1);
    // Denied now.
    net.publish(topology().edit(0, |e| e.egress = Some(every(Action::Drop, 5))).build());
    net.dropped(3, &error, DropReason::EgressDenied);
    assert_eq!(net.counters().rules[&supernet_dataplane::id::RuleId(5)].denied, 1);
    net.publish(topology().build());
    assert_eq!(net.send(3, &error).len(), 1);
    // Errors keep no connection alive.
    for second in 1..=100 {
        net.now = net.now + Duration::from_secs(1);
        net.send(3, &error);
        if second == 5 {
            assert_eq!(net.sessions(), 1);
        }
    }
    assert_eq!(net.sessions(), 0);
    net.dropped(3, &error, DropReason::IcmpUnrelated);
    // What its connection was bound to is gone.
    let delivered = net.send(0, &sent)[0].1.clone();
    let error = icmp_error(&delivered, (11, 0), [0; 4], router([0; 4].into()), 100);
    net.publish(
        topology()
            .with(|s| {
                for namespace in s.namespaces.iter_mut().flatten() {
                    std::sync::Arc::make_mut(namespace).egress_v4 = Some([192, 168, 90, 77].into());
                }
            })
            .build(),
    );
    net.dropped(3, &error, DropReason::BindingGone);
    assert_eq!(net.sessions(), 0);
}

#[test]
fn an_error_whose_ttl_ends_here_ends_in_silence() {
    let mut net = Net::new(topology());
    let (_, delivered) = outgoing(&mut net);
    let mut error = icmp_error(&delivered, (11, 0), [0; 4], router([0; 4].into()), 100);
    error[22] = 2;
    error[24..26].fill(0);
    let sum = checksum::of(&error[14..34]);
    error[24..26].copy_from_slice(&sum.to_be_bytes());
    assert!(net.dropped(3, &error, DropReason::TtlExceeded).is_empty());
}

/// Every router on the way, ours and others', as `traceroute` sees them.
#[test]
fn traceroute_sees_every_router_on_the_way() {
    let mut net = Net::new(topology());
    let mut path = Vec::new();
    for ttl in 1..=5 {
        let probe = Probe { ttl, ..Probe::new(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:33434") };
        let out = net.send(0, &probe.frame());
        let (port, frame) = &out[0];
        let p = wire::parse(frame).unwrap();
        if *port == 3 {
            // Beyond the uplink: a router, and then the host.
            let (kind, from) = if p.ttl == 1 { ((11, 0), router(p.dst)) } else { ((3, 3), p.dst) };
            let back = net.send(3, &icmp_error(frame, kind, [0; 4], from, 28));
            path.push(quote(&back[0].1).0.src);
        } else {
            path.push(quote(frame).0.src);
        }
    }
    let expected = ["10.0.0.1", "192.168.100.1", "198.51.100.9", "203.0.113.7", "203.0.113.7"];
    assert_eq!(path, expected.map(|a| a.parse::<IpAddr>().unwrap()));

    // From outside to a VIP: the Tier-0, the Tier-1, and the VIP, whose member nobody sees.
    let mut net = Net::new(topology());
    let mut path = Vec::new();
    for ttl in 1..=3 {
        let probe = Probe {
            src_mac: OUTSIDE_MAC.parse().unwrap(),
            dst_mac: mac(3),
            ttl,
            ..Probe::new(3, Proto::UDP, "203.0.113.7:5000", "192.168.80.11:53")
        };
        let out = net.send(3, &probe.frame());
        let (port, frame) = &out[0];
        let back = if *port == 3 {
            out.clone()
        } else {
            net.send(*port, &icmp_error(frame, (3, 3), [0; 4], at("10.0.0.3:0").ip(), 28))
        };
        path.push(quote(&back[0].1).0.src);
    }
    let expected = ["192.168.100.1", "10.0.0.1", "192.168.80.11"];
    assert_eq!(path, expected.map(|a| a.parse::<IpAddr>().unwrap()));
}

/// An error about an answer: a client's host tells a server behind a ClusterIP or VIP that it is gone.
#[test]
fn errors_about_an_echo_and_its_reply_go_back() {
    for (port, probe) in [
        (0, Probe::new(0, Proto::ICMP, "10.0.0.2:77", "203.0.113.7:0")),
        (DUAL_POD, Probe::new(DUAL_POD, Proto::ICMPV6, "[fd00:0:0:3::2]:77", "[2001:db8:7::7]:0")),
    ] {
        let mut net = Net::new(topology());
        let sent = probe.frame();
        let out = net.send(port, &sent);
        let (to, delivered) = (out[0].0, out[0].1.clone());
        goes_back(&mut net, (port, &sent), (to, &delivered), 100, true);
        let reply = Probe::answer(&delivered, 0x10).frame();
        let back = net.send(to, &reply);
        goes_back(&mut net, (to, &reply), (port, &back[0].1), 100, false);
    }
}

/// A link-local address leads nowhere outside, where no router passes it on.
#[test]
fn to_the_outside_no_router_speaks_from_a_link_local_address() {
    for open in [false, true] {
        let mut net = Net::new(topology());
        let call = Probe {
            src_mac: OUTSIDE_MAC.parse().unwrap(),
            dst_mac: mac(5),
            ..Probe::new(5, Proto::UDP, "[2001:db8:7::7]:5000", "[fd00:0:0:3::2]:53")
        };
        if open {
            net.one(5, &call);
        }
        for ttl in [1, 2] {
            let out = net.dropped(5, &Probe { ttl, ..call }.frame(), DropReason::TtlExceeded);
            assert_eq!((out.len(), out[0].0), (1, 5));
            let speaker = wire::parse(&out[0].1).unwrap().src.to_string();
            assert_eq!(speaker, "2001:db8:100::1", "TTL {ttl}, open: {open}");
        }
    }
}

/// Nothing of the network's own is sent about errors, nor about what many hear.
#[test]
fn errors_and_multicast_are_never_answered() {
    let mut net = Net::new(topology());
    let (_, delivered) = outgoing(&mut net);
    let before = net.counters().generated;
    let mut unrelated = icmp_error(&delivered, (3, 1), [0; 4], router([0; 4].into()), 100);
    unrelated[70] ^= 1;
    net.send(3, &unrelated);
    for dst in ["224.0.0.9:9", "255.255.255.255:9"] {
        let probe = Probe {
            dst_mac: wire::Mac::BROADCAST,
            ttl: 1,
            payload: 1490,
            ..Probe::new(0, Proto::UDP, "10.0.0.2:1", dst)
        };
        net.send(0, &probe.frame());
    }
    assert_eq!(net.counters().generated, before);
    assert_eq!(count(&net, DropReason::TooBig), 2);
}

/// A pod that provokes errors all the time takes none from others.
#[test]
fn errors_are_rationed_by_port() {
    let config = Config { errors_per_second: 40, sessions: 64, frames: 256, ..Config::default() };
    let mut net = Net::with(topology(), config);
    let closed = |port: u32, src: &str, n: u16| Probe {
        src: at(&format!("{src}:{}", 1000 + n)),
        ..Probe::new(port, Proto::UDP, "10.0.0.2:1", "10.96.0.10:9")
    };
    let mut told = |port, src, now| {
        net.now = Instant::from_millis(now);
        (0..100).filter(|n| !net.send(port, &closed(port, src, *n).frame()).is_empty()).count()
    };
    assert_eq!(told(0, "10.0.0.2", 1000), 10);
    assert_eq!(told(1, "10.0.0.3", 1000), 10);
    assert_eq!(told(0, "10.0.0.2", 1500), 5, "half a second's");
    assert_eq!(told(2, "10.0.0.18", 1500), 10);
}

/// An error that comes when the binding of a TCP connection is gone leaves it to a segment to tell both ends.
#[test]
fn an_error_does_not_end_what_a_reset_must_tell() {
    let mut net = Net::new(topology());
    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "203.0.113.9:80");
    let delivered = net.send(0, &open.frame())[0].1.clone();
    net.one(3, &Probe::answer(&delivered, SYN | ACK));
    let gone = topology().with(|s| {
        for namespace in s.namespaces.iter_mut().flatten() {
            std::sync::Arc::make_mut(namespace).egress_v4 = Some([192, 168, 90, 77].into());
        }
    });
    net.publish(gone.build());
    let error = icmp_error(&delivered, (3, 4), [0, 0, 4, 0], router([0; 4].into()), 28);
    net.dropped(3, &error, DropReason::BindingGone);
    let resets = net.dropped(0, &Probe { flags: ACK, ..open }.frame(), DropReason::BindingGone);
    assert_eq!(resets.len(), 2);
    assert_eq!(net.sessions(), 0);
}
