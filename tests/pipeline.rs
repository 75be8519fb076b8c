//! The pipeline from end to end over memory ports: what goes in, what comes out, what is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};
use supernet_dataplane::{
    id::{RuleId, ServerId},
    snapshot::{GATEWAY_MAC, ServerKind},
    state::Config,
    table::classifier::Action,
    time::Instant,
    verdict::DropReason,
    wire::{Mac, Proto, tcp_flags::*},
};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC, at, ends, two_namespaces},
    packet::{Probe, sound},
    topology::{Topology, every, mac},
};

#[test]
fn east_west_routed_both_families_and_no_translation() {
    for (src, dst) in [("10.0.0.2:4000", "10.0.0.18:80"), ("[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80")] {
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            let mut net = Net::new(two_namespaces());
            let (port, frame, p) = net.one(0, &Probe::new(0, proto, src, dst));
            assert_eq!((port, ends(&p), p.ttl), (2, (at(src), at(dst)), 63));
            assert_eq!((p.src_mac, p.dst_mac), (GATEWAY_MAC, mac(2)));
            let (port, _, p) = net.one(2, &Probe::answer(&frame, SYN | ACK));
            assert_eq!((port, ends(&p), p.ttl), (0, (at(dst), at(src)), 63));
            assert_eq!(net.sessions(), 1);
        }
    }
}

#[test]
fn a_client_stays_with_its_member_where_the_service_says_so() {
    for by_client in [false, true] {
        let mut net = Net::new(two_namespaces().with(|s| {
            for server in s.servers.listening.values_mut() {
                Arc::make_mut(server).by_client = by_client;
            }
        }));
        let call = |n| Probe {
            src_mac: OUTSIDE_MAC.parse().unwrap(),
            dst_mac: mac(3),
            ..Probe::new(3, Proto::TCP, &format!("203.0.113.7:{n}"), "192.168.80.10:80")
        };
        let members: BTreeSet<u32> = (4000..4020).map(|n| net.one(3, &call(n)).0).collect();
        assert_eq!(members.len(), if by_client { 1 } else { 2 });
    }
    // Clients are spread as well as flows are.
    let mut net = Net::new(two_namespaces().with(|s| {
        s.servers.listening.values_mut().for_each(|server| Arc::make_mut(server).by_client = true);
    }));
    let member = |net: &mut Net, client: u32| {
        let src = format!("203.0.113.{client}:4000");
        let src_mac = OUTSIDE_MAC.parse().unwrap();
        let call = Probe::new(3, Proto::TCP, &src, "192.168.80.10:80");
        net.one(3, &Probe { src_mac, dst_mac: mac(3), ..call }).0
    };
    let first = (1..=60).filter(|client| member(&mut net, *client) == 1).count();
    assert!((15..=45).contains(&first), "{first} of 60 clients");
}

#[test]
fn a_plain_packet_of_a_session_is_a_hit_in_both_directions() {
    let mut net = Net::new(two_namespaces());
    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.10:80");
    let (_, frame, _) = net.one(0, &open);
    net.one(2, &Probe::answer(&frame, SYN | ACK));
    // What completes the handshake changes the connection's state; what comes after it does not.
    net.one(0, &Probe { flags: ACK, ..open });
    assert_eq!(net.counters().hits, 0);
    let (_, frame, p) = net.one(0, &Probe { flags: ACK, ..open });
    assert_eq!(ends(&p), (at("10.0.0.2:4000"), at("10.0.0.18:8080")));
    let (_, _, p) = net.one(2, &Probe::answer(&frame, ACK));
    assert_eq!(ends(&p), (at("10.96.0.10:80"), at("10.0.0.2:4000")));
    assert_eq!(net.counters().hits, 2);
    let server = net.counters().servers[&ServerId(0)];
    assert_eq!((server.connections, server.packets), (1, 5));
}

#[test]
fn packets_from_an_uplink_are_hits_too() {
    let mut net = Net::new(two_namespaces());
    let call = Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        ..Probe::new(3, Proto::UDP, "203.0.113.7:5000", "10.0.0.18:53")
    };
    net.one(3, &call);
    assert_eq!(net.counters().hits, 0);
    net.one(3, &call);
    assert_eq!(net.counters().hits, 1);
    let (_, frame, _) = net.one(0, &Probe::new(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:53"));
    net.one(3, &Probe::answer(&frame, 0));
    assert_eq!(net.counters().hits, 2, "an answer to a translated source");
}

#[test]
fn switched_within_a_segment_keeps_macs_and_ttl() {
    let mut net = Net::new(two_namespaces());
    let probe = Probe { dst_mac: mac(1), ..Probe::new(0, Proto::UDP, "10.0.0.2:53", "10.0.0.3:53") };
    let (port, _, p) = net.one(0, &probe);
    assert_eq!((port, p.ttl, p.src_mac, p.dst_mac), (1, 64, mac(0), mac(1)));
    let stranger = Probe { dst_mac: mac(2), ..Probe::new(0, Proto::UDP, "10.0.0.2:54", "10.0.0.18:53") };
    net.dropped(0, &stranger.frame(), DropReason::UnknownMac);
}

#[test]
fn north_south_is_translated_to_the_namespace_address_and_back() {
    for proto in [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP] {
        let mut net = Net::new(two_namespaces());
        let (port, frame, p) = net.one(0, &Probe::new(0, proto, "10.0.0.2:4000", "203.0.113.7:443"));
        assert_eq!((port, p.src.to_string(), p.ttl), (3, "192.168.90.1".into(), 62));
        assert_eq!((p.src_mac, p.dst_mac), (mac(3), OUTSIDE_MAC.parse::<Mac>().unwrap()));
        assert_eq!(p.sport, 4000, "a source port that is free is kept");
        let answer = Probe::answer(&frame, SYN | ACK).frame();
        let out = net.send(3, &answer);
        assert_eq!(out.len(), 1, "{proto} {:?}", net.counters().drops);
        let p = sound(&out[0].1);
        assert_eq!((out[0].0, p.dst.to_string(), p.dport), (0, "10.0.0.2".into(), 4000));
        let other = net.one(2, &Probe::new(2, proto, "10.0.0.18:4000", "203.0.113.7:443"));
        assert_eq!(other.2.src.to_string(), "192.168.90.2", "each namespace its own address");
    }
}

#[test]
fn a_vip_from_outside_keeps_the_client() {
    let mut net = Net::new(two_namespaces());
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..20 {
        let client = format!("203.0.113.7:{}", 5000 + n);
        let probe = Probe {
            src_mac: OUTSIDE_MAC.parse().unwrap(),
            dst_mac: mac(3),
            ..Probe::new(3, Proto::TCP, &client, "192.168.80.10:80")
        };
        let (port, frame, p) = net.one(3, &probe);
        assert_eq!((ends(&p).0, p.dport, p.ttl), (at(&client), 8080, 62));
        seen.insert(port);
        let (port, _, p) = net.one(port, &Probe::answer(&frame, SYN | ACK));
        assert_eq!((port, ends(&p)), (3, (at("192.168.80.10:80"), at(&client))));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2], "both members serve");
}

#[test]
fn a_pod_reaches_itself_through_a_service() {
    let mut net = Net::new(two_namespaces().edit(2, |e| {
        e.ingress = Some(every(Action::Drop, 1));
        e.egress = Some(every(Action::Drop, 2));
    }));
    let (port, frame, p) = net.one(2, &Probe::new(2, Proto::TCP, "10.0.0.18:4000", "10.96.0.10:80"));
    assert_eq!((port, ends(&p)), (2, (at("10.96.0.10:4000"), at("10.0.0.18:8080"))));
    let (port, _, p) = net.one(2, &Probe::answer(&frame, SYN | ACK));
    assert_eq!((port, ends(&p)), (2, (at("10.96.0.10:80"), at("10.0.0.18:4000"))));
}

#[test]
fn both_firewalls_count_what_they_deny() {
    let mut net = Net::new(two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Drop, 7))));
    let probe = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80");
    net.dropped(0, &probe.frame(), DropReason::IngressDenied);
    net.dropped(0, &probe.frame(), DropReason::IngressDenied);
    assert_eq!(net.counters().rules[&RuleId(7)].denied, 2);
    assert_eq!(net.sessions(), 0, "a refused connection leaves nothing");
    let mut net = Net::new(two_namespaces().edit(0, |e| e.egress = Some(every(Action::Drop, 8))));
    net.dropped(0, &probe.frame(), DropReason::EgressDenied);
    assert_eq!(net.counters().rules[&RuleId(8)].denied, 1);
}

#[test]
fn forged_frames_are_dropped() {
    let mut net = Net::new(two_namespaces());
    let probe = Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.18:1");
    net.dropped(0, &Probe { src_mac: mac(1), ..probe }.frame(), DropReason::SpoofedMac);
    net.dropped(0, &Probe { src: at("10.0.0.3:1"), ..probe }.frame(), DropReason::SpoofedAddress);
    let (_, frame, _) = net.one(0, &probe);
    // Somebody else's session, from another port.
    let forged = Probe { src_mac: mac(1), ..Probe::answer(&frame, 0) };
    net.dropped(1, &forged.frame(), DropReason::SpoofedAddress);
    let outside =
        Probe { src_mac: OUTSIDE_MAC.parse().unwrap(), dst_mac: mac(3), src: at("10.0.0.2:1"), ..probe };
    net.dropped(3, &outside.frame(), DropReason::SpoofedAddress);
}

#[test]
fn what_nobody_has_is_never_sent_out() {
    let mut net = Net::new(two_namespaces());
    for (dst, reason) in [
        ("10.0.0.9:80", DropReason::NoEndpoint),
        ("10.96.7.7:80", DropReason::NoEndpoint),
        ("192.168.90.1:80", DropReason::NoEndpoint),
        ("169.254.1.1:80", DropReason::Martian),
        ("127.0.0.1:80", DropReason::Martian),
    ] {
        net.dropped(0, &Probe::new(0, Proto::UDP, "10.0.0.2:1", dst).frame(), reason);
    }
    let outside = |dst: &str, flags| Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        flags,
        ..Probe::new(3, Proto::TCP, "203.0.113.7:5000", dst)
    };
    net.dropped(3, &outside("192.168.90.1:5000", SYN).frame(), DropReason::NoNatSession);
    net.dropped(3, &outside("192.168.90.1:5000", ACK).frame(), DropReason::NoNatSession);
    net.dropped(3, &outside("10.96.0.10:80", SYN).frame(), DropReason::NoEndpoint);
    net.dropped(3, &outside("198.51.100.1:80", SYN).frame(), DropReason::Transit);
    net.dropped(3, &outside("10.0.0.2:80", ACK).frame(), DropReason::NoSession);
}

#[test]
fn a_port_nobody_serves_is_refused() {
    let mut net = Net::new(two_namespaces());
    let probe = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.10:81");
    let out = net.dropped(0, &probe.frame(), DropReason::NoServer);
    let p = sound(&out[0].1);
    assert_eq!((out[0].0, p.tcp_flags & RST, ends(&p)), (0, RST, (at("10.96.0.10:81"), at("10.0.0.2:4000"))));
    let out = net.dropped(0, &Probe { proto: Proto::UDP, ..probe }.frame(), DropReason::NoServer);
    let p = sound(&out[0].1);
    assert_eq!((p.proto, p.icmp.kind, p.icmp.code), (Proto::ICMP, 3, 3));
}

#[test]
fn gateways_and_vips_answer_echo_and_arp() {
    let mut net = Net::new(two_namespaces());
    for dst in ["10.0.0.1:0", "10.96.0.10:0", "192.168.80.10:0"] {
        let (port, _, p) = net.one(0, &Probe::new(0, Proto::ICMP, "10.0.0.2:77", dst));
        assert_eq!((port, p.is_echo_reply(), p.src, p.dport), (0, true, at(dst).ip(), 77));
    }
    let mut arp = vec![0; 60];
    let ask = |arp: &mut [u8], target: [u8; 4]| {
        supernet_dataplane::wire::arp::request(arp, (mac(0), [10, 0, 0, 2].into()), target.into());
    };
    ask(&mut arp, [10, 0, 0, 1]);
    assert_eq!(net.send(0, &arp)[0].1[22..28], GATEWAY_MAC.0);
    ask(&mut arp, [10, 0, 0, 3]);
    assert_eq!(net.send(0, &arp)[0].1[22..28], mac(1).0);
    ask(&mut arp, [10, 0, 0, 18]);
    assert!(net.dropped(0, &arp, DropReason::UnansweredQuery).is_empty(), "not in this segment");
}

#[test]
fn the_ttl_ends_at_a_router_that_says_so() {
    let mut net = Net::new(two_namespaces());
    let probe = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:443");
    for (ttl, router) in [(1, "10.0.0.1"), (2, "192.168.100.1")] {
        let out = net.dropped(0, &Probe { ttl, ..probe }.frame(), DropReason::TtlExceeded);
        let p = sound(&out[0].1);
        assert_eq!((p.src.to_string(), p.icmp.kind, p.icmp.code), (router.into(), 11, 0));
    }
    let (_, _, p) = net.one(0, &Probe { ttl: 3, ..probe });
    assert_eq!(p.ttl, 1);
    let out = net.dropped(0, &Probe { ttl: 2, ..probe }.frame(), DropReason::TtlExceeded);
    assert_eq!(sound(&out[0].1).src.to_string(), "192.168.100.1", "also for a packet of a session");
}

#[test]
fn a_policy_cuts_a_living_connection_and_lets_it_go_on_later() {
    let mut net = Net::new(two_namespaces());
    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.10:80");
    let (_, frame, _) = net.one(0, &open);
    net.one(2, &Probe::answer(&frame, SYN | ACK));
    let data = Probe { flags: ACK, ..open };
    net.one(0, &data);
    net.publish(two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Drop, 9))).build());
    net.dropped(0, &data.frame(), DropReason::IngressDenied);
    net.dropped(2, &Probe::answer(&frame, ACK).frame(), DropReason::IngressDenied);
    net.publish(two_namespaces().build());
    let (_, _, p) = net.one(0, &data);
    assert_eq!(ends(&p).1, at("10.0.0.18:8080"), "the same member");
    assert_eq!(net.sessions(), 1);
}

#[test]
fn an_unrelated_change_leaves_a_session_alone() {
    let mut net = Net::new(two_namespaces());
    let open = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80");
    net.one(0, &open);
    net.one(0, &open);
    assert_eq!(net.counters().hits, 1);
    net.publish(two_namespaces().edit(1, |e| e.ingress = Some(every(Action::Drop, 9))).build());
    net.one(0, &open);
    assert_eq!(net.counters().hits, 2, "a comparison, and no judgement");
    net.publish(two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Allow, 9))).build());
    net.one(0, &open);
    assert_eq!(net.counters().hits, 2, "the destination's firewall is another");
    net.one(0, &open);
    assert_eq!(net.counters().hits, 3, "the next is a hit again");
}

#[test]
fn an_address_outside_that_becomes_ours_ends_what_went_there() {
    let mut net = Net::new(two_namespaces());
    let out = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:53");
    assert_eq!(net.one(0, &out).0, 3);
    let inward = Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        ..Probe::new(3, Proto::UDP, "203.0.113.8:53", "10.0.0.2:4000")
    };
    assert_eq!(net.one(3, &inward).0, 0);
    net.publish(two_namespaces().owned("203.0.113.0/24").build());
    net.dropped(0, &out.frame(), DropReason::NoEndpoint);
    net.dropped(3, &inward.frame(), DropReason::SpoofedAddress);
    assert_eq!(net.sessions(), 0);
}

#[test]
fn a_removed_member_resets_tcp_and_frees_udp() {
    let one = |members: &[&str]| {
        two_namespaces().server(ServerKind::Distributed, "10.96.0.11:80", Proto::TCP, members).server(
            ServerKind::Distributed,
            "10.96.0.11:80",
            Proto::UDP,
            members,
        )
    };
    let mut net = Net::new(one(&["10.0.0.18:8080"]));
    let tcp = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.11:80");
    let udp = Probe { proto: Proto::UDP, ..tcp };
    net.one(0, &tcp);
    net.one(0, &udp);
    net.publish(one(&["10.0.0.3:8080"]).build());
    let out = net.dropped(0, &Probe { flags: ACK, ..tcp }.frame(), DropReason::BindingGone);
    let resets: Vec<_> = out.iter().map(|(port, f)| (*port, sound(f).tcp_flags & RST)).collect();
    assert_eq!(resets, [(0, RST), (2, RST)], "both sides learn");
    assert_eq!(sound(&out[0].1).src.to_string(), "10.96.0.11");
    let (port, _, p) = net.one(0, &udp);
    assert_eq!((port, ends(&p).1), (1, at("10.0.0.3:8080")), "UDP goes to the new member");
}

#[test]
fn ports_used_again_belong_to_the_new_connection_within_one_batch() {
    let server = |active: &[&str], draining: &[&str]| {
        let draining = draining.iter().map(|m| at(m)).collect::<Vec<_>>();
        let key = (at("10.96.0.11:80").ip(), Proto::TCP, 80);
        two_namespaces().server(ServerKind::Distributed, "10.96.0.11:80", Proto::TCP, active).with(|s| {
            Arc::make_mut(s.servers.listening.get_mut(&key).unwrap()).draining = draining;
        })
    };
    let mut net = Net::new(server(&["10.0.0.18:8080"], &[]));
    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.11:80");
    let (_, frame, _) = net.one(0, &open);
    net.one(2, &Probe::answer(&frame, FIN | ACK));
    net.one(0, &Probe { flags: FIN | ACK, ..open });
    net.publish(server(&["10.0.0.3:8080"], &["10.0.0.18:8080"]).build());
    let data = Probe { flags: ACK, ..open };
    assert_eq!(net.one(0, &data).0, 2, "what began before goes on at the draining member");
    // Now the SYN and what follows it arrive together.
    net.guests[0].send(&open.frame()).unwrap();
    let out: Vec<u32> = net.send(0, &data.frame()).iter().map(|(port, _)| *port).collect();
    assert_eq!(out, [1, 1], "the new connection is the new member's");
}

#[test]
fn running_out_is_counted_and_established_sessions_survive() {
    let mut net = Net::with(two_namespaces(), Config { sessions: 2, frames: 64, ..Config::default() });
    let open = |n| Probe::new(0, Proto::UDP, &format!("10.0.0.2:{n}"), "10.0.0.18:80");
    net.one(0, &open(1));
    net.one(0, &open(2));
    net.dropped(0, &open(3).frame(), DropReason::SessionTableFull);
    net.one(0, &open(1));
    // Silence ends them, and there is room again.
    net.now = Instant::from_secs(1000);
    net.worker.poll(net.now);
    assert_eq!(net.sessions(), 0);
    net.one(0, &open(3));
}

#[test]
fn every_nat_port_can_be_used_and_comes_back() {
    let mut net = Net::with(two_namespaces(), Config { sessions: 70_000, frames: 64, ..Config::default() });
    let probe = |n: u32| {
        let dst = SocketAddr::from(([203, 0, 113, (n >> 16) as u8], 1 + (n & 0x7fff) as u16));
        Probe {
            dst,
            ..Probe::new(
                0,
                Proto::UDP,
                &format!("10.0.0.2:{}", 1 + (n & 0xffff).min(65_534)),
                "203.0.113.0:1",
            )
        }
    };
    for n in 0..64_512 {
        let (_, _, p) = net.one(0, &probe(n));
        assert!(p.sport >= 1024);
    }
    let late = Probe::new(0, Proto::UDP, "10.0.0.2:9999", "198.51.100.1:53");
    net.dropped(0, &late.frame(), DropReason::NatPortsExhausted);
    net.one(0, &probe(5));
    assert_eq!(net.dataplane.state().nat.busy(), ["192.168.90.1".parse::<std::net::IpAddr>().unwrap()]);
    for second in 0..200 {
        net.now = Instant::from_secs(10_000 + second);
        net.worker.poll(net.now);
    }
    assert_eq!(net.sessions(), 0);
    assert!(net.dataplane.state().nat.busy().is_empty());
    net.one(0, &late);
}

#[test]
fn a_clash_of_answers_moves_the_source_port() {
    let mut net = Net::new(two_namespaces());
    let direct = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:8080");
    net.one(0, &direct);
    let through = Probe { dst: at("10.96.0.10:80"), ..direct };
    let (_, frame, p) = net.one(0, &through);
    assert_eq!(p.dst, at("10.0.0.18:8080").ip());
    assert_ne!(p.sport, 4000, "the address is kept, the port is not");
    let (_, _, p) = net.one(2, &Probe::answer(&frame, SYN | ACK));
    assert_eq!(ends(&p), (at("10.96.0.10:80"), at("10.0.0.2:4000")));
}

#[test]
fn a_next_hop_is_asked_for_and_learned() {
    let mut net = Net::new(
        Topology::new()
            .namespace(&["192.168.90.1"])
            .segment(&["10.0.0.1/28"], 0)
            .pod(&["10.0.0.2"])
            .uplink("192.168.100.1/24", &["192.168.100.254"]),
    );
    let asked = net.send(0, &Probe::new(0, Proto::UDP, "10.0.0.2:1", "203.0.113.7:1").frame());
    assert_eq!(asked.len(), 1, "{:?}", net.counters());
    assert_eq!(net.counters().drops[&DropReason::NeighborUnresolved], 1);
    let request = supernet_dataplane::wire::arp::Arp::read(&asked[0].1, 14);
    assert_eq!((asked[0].0, request.request, request.target), (1, true, [192, 168, 100, 254].into()));
    let mut reply = asked[0].1.clone();
    supernet_dataplane::wire::arp::reply_in_place(&mut reply, &request, OUTSIDE_MAC.parse().unwrap());
    net.dropped(1, &reply, DropReason::Absorbed);
    let (port, _, p) = net.one(0, &Probe::new(0, Proto::UDP, "10.0.0.2:1", "203.0.113.7:1"));
    assert_eq!((port, p.dst_mac), (1, OUTSIDE_MAC.parse().unwrap()));
}
