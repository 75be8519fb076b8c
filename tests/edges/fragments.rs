//! Packets in fragments: each goes where the whole packet would have gone, translated as it would have been; what is
//! no honest fragment is dropped and counted; nothing waits for ever or costs anybody else a place.

use crate::{count, send_all, topology, ways};
use proptest::{collection::vec, prelude::*, sample::select};
use supernet_dataplane::{
    flow::FragmentLimits,
    id::PortId,
    state::Config,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{self, Part, Proto, tcp_flags::*},
};
use supernet_testkit::{
    fragments::{body_len, cut, join, piece},
    net::{Net, OUTSIDE_MAC, two_namespaces},
    packet::{Probe, sound},
    topology::mac,
};

/// A packet without what fragments are allowed to differ in: identification, "don't fragment", and the sum over them.
fn without_id(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [8, 0] {
        frame[18..22].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However a packet is cut and in whatever order the pieces come, what comes out is the packet that would have
    /// come out whole; and nothing is left.
    #[test]
    fn fragments_go_as_their_packet_would(
        (port, probe) in select(ways()),
        payload in 30..1400usize,
        cuts in vec(3..160usize, 1..6),
        order in Just(()).prop_perturb(|(), mut rng| rng.next_u64()),
    ) {
        let frame = Probe { payload, ..probe }.frame();
        let (mut whole, mut cut_up) = (Net::new(topology()), Net::new(topology()));
        let expected = whole.send(port, &frame);

        let mut cuts: Vec<usize> = cuts.iter().map(|n| n * 8).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut fragments = cut(&frame, &cuts, 0x1234_5678);
        // In an order that the number says.
        for n in (1..fragments.len()).rev() {
            fragments.swap(n, (order.rotate_left(n as u32 * 7) % (n as u64 + 1)) as usize);
        }
        let out = send_all(&mut cut_up, port, &fragments);
        prop_assert_eq!(out.len(), if expected.is_empty() { 0 } else { fragments.len() });
        let counters = cut_up.counters();
        prop_assert_eq!(counters.held, 0);
        if let [(to, expected)] = &expected[..] {
            prop_assert!(out.iter().all(|(port, _)| port == to));
            // The first one leads: no later one leaves before it.
            let parts: Vec<Part> = out.iter().map(|(_, f)| wire::parse(f).unwrap().part).collect();
            prop_assert!(parts[0] != Part::Later);
            let frames: Vec<Vec<u8>> = out.into_iter().map(|(_, frame)| frame).collect();
            let joined = join(&frames).expect("all of it, once");
            prop_assert_eq!(without_id(&joined), without_id(expected));
            sound(&joined);
        }
        prop_assert_eq!(cut_up.sessions(), whole.sessions());
        let pool = cut_up.dataplane.pool();
        prop_assert_eq!(pool.available(), pool.capacity());
    }

    /// What is larger than the MTU of its way is cut if it may be, with every byte right.
    #[test]
    fn packets_are_cut_to_the_mtu_of_their_way(
        (port, probe) in select(ways()),
        payload in 500..1400usize,
        mtu in 100..700u16,
        again in any::<bool>(),
    ) {
        let frame = Probe { payload, ..probe }.frame();
        let mut wide = Net::new(topology());
        let expected = wide.send(port, &frame);
        let mut narrow = Net::new(topology().with(|s| {
            for entry in s.ports.iter_mut().flatten() {
                std::sync::Arc::make_mut(entry).mtu = mtu;
            }
        }));
        // In one piece, or in three that are too large themselves.
        let may_be_cut = cut(&frame, if again { &[640, 1280] } else { &[] }, 9);
        let is_v4 = probe.src.is_ipv4();
        let out = send_all(&mut narrow, port, &may_be_cut);
        let frames: Vec<Vec<u8>> = out.iter().map(|(_, frame)| frame.clone()).collect();
        // An IPv6 packet is answered instead, by no more than 1280 bytes.
        let most = if is_v4 { mtu.into() } else { 1280 };
        prop_assert!(frames.iter().all(|f| f.len() - 14 <= most));
        if is_v4 && expected.len() == 1 {
            let joined = join(&frames).expect("all of it, once");
            prop_assert_eq!(without_id(&joined), without_id(&expected[0].1));
        }
        prop_assert!(narrow.counters().conserved());
        let pool = narrow.dataplane.pool();
        prop_assert_eq!(pool.available(), pool.capacity());
    }
}

fn udp(payload: usize) -> Vec<u8> {
    Probe { payload, ..Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80") }.frame()
}

#[test]
fn an_early_fragment_waits_and_is_given_up_in_time() {
    let mut net = Net::new(topology());
    let [first, second] = &cut(&udp(100), &[48], 7)[..] else { panic!("two") };
    assert!(net.send(0, second).is_empty());
    assert_eq!((net.counters().held, net.counters().dropped()), (1, 0));
    let out = net.send(0, first);
    assert_eq!(out.len(), 2, "the first, and what waited for it");

    net.send(0, &cut(&udp(100), &[48], 8)[1]);
    net.now = net.now + Duration::from_secs(29);
    net.poll();
    assert_eq!(net.counters().held, 1);
    net.now = net.now + Duration::from_secs(1);
    net.poll();
    assert_eq!((net.counters().held, count(&net, DropReason::FragmentTimeout)), (0, 1));
    // Its first comes too late: what follows it does not, as nobody has the middle.
    assert_eq!(net.send(0, &cut(&udp(100), &[48], 8)[0]).len(), 1);
}

#[test]
fn a_port_that_goes_takes_its_waiting_fragments_along() {
    let mut net = Net::new(topology());
    net.send(0, &cut(&udp(100), &[48], 7)[1]);
    net.dataplane.detach(PortId(0));
    net.poll();
    assert_eq!((net.counters().held, count(&net, DropReason::FragmentTimeout)), (0, 1));
    let pool = net.dataplane.pool();
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn overlapping_fragments_spoil_their_packet_and_repeated_ones_do_not() {
    let frame = udp(200);
    let end = body_len(&frame);
    let piece = |bytes: std::ops::Range<usize>, id| piece(&frame, bytes.clone(), bytes.end < end, id);
    let mut net = Net::new(topology());
    // The same once more is dropped, and the rest goes on.
    assert_eq!(net.send(0, &piece(0..64, 1)).len(), 1);
    net.dropped(0, &piece(0..64, 1), DropReason::FragmentOverlap);
    assert_eq!(net.send(0, &piece(64..128, 1)).len(), 1);
    net.dropped(0, &piece(64..120, 1), DropReason::FragmentOverlap);
    assert_eq!(net.send(0, &piece(128..end, 1)).len(), 1);

    // Part of what came before, and part of what did not.
    for (id, bytes) in [(2, 8..72), (3, 56..128)] {
        assert_eq!(net.send(0, &piece(0..64, id)).len(), 1);
        net.dropped(0, &piece(bytes, id), DropReason::FragmentOverlap);
        net.dropped(0, &piece(128..end, id), DropReason::FragmentOverlap);
    }
    // The same with fragments that wait: none of them comes out.
    assert!(net.send(0, &piece(64..128, 4)).is_empty());
    let before = net.counters().dropped();
    assert!(net.send(0, &piece(72..136, 4)).is_empty());
    assert_eq!((net.counters().held, net.counters().dropped() - before), (0, 2));
    net.dropped(0, &piece(0..64, 4), DropReason::FragmentOverlap);
    // An end within what came, and bytes behind the end.
    assert_eq!(net.send(0, &piece(0..64, 5)).len(), 1);
    assert_eq!(net.send(0, &supernet_testkit::fragments::piece(&frame, 64..128, false, 5)).len(), 1);
    assert_eq!(net.send(0, &piece(0..64, 6)).len(), 1);
    assert_eq!(net.send(0, &piece(64..128, 6)).len(), 1);
    let ends_early = supernet_testkit::fragments::piece(&frame, 128..136, false, 6);
    assert_eq!(net.send(0, &piece(136..144, 6)).len(), 1);
    net.dropped(0, &ends_early, DropReason::FragmentOverlap);
}

#[test]
fn a_first_fragment_holds_all_headers() {
    let mut net = Net::new(topology());
    let tcp = Probe { payload: 100, ..Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80") }.frame();
    net.dropped(0, &piece(&tcp, 0..8, true, 1), DropReason::TinyFragment);
    net.dropped(0, &piece(&tcp, 0..16, true, 1), DropReason::TinyFragment);
    // The flags of a header that came whole cannot be written over (RFC 3128).
    assert_eq!(net.send(0, &piece(&tcp, 0..24, true, 2)).len(), 1);
    net.dropped(0, &piece(&tcp, 8..120, false, 2), DropReason::FragmentOverlap);
    // Nor can they come first.
    assert!(net.send(0, &piece(&tcp, 8..120, false, 3)).is_empty());
    let before = net.counters().dropped();
    assert!(net.send(0, &piece(&tcp, 0..24, true, 3)).is_empty());
    assert_eq!((net.counters().dropped() - before, net.counters().held), (2, 0));

    let v6 = Probe { payload: 100, ..Probe::new(0, Proto::TCP, "[fd00:0:0:1::2]:1", "[fd00:0:0:2::2]:1") };
    net.dropped(0, &piece(&v6.frame(), 0..16, true, 1), DropReason::TinyFragment);
}

#[test]
fn what_no_sender_makes_is_malformed() {
    let mut net = Net::new(topology());
    let frame = udp(100);
    net.dropped(0, &piece(&frame, 0..44, true, 1), DropReason::Malformed);
    net.dropped(0, &piece(&frame, 48..48, false, 1), DropReason::Malformed);
    let mut far = piece(&frame, 48..108, false, 1);
    far[20..22].copy_from_slice(&0x1fff_u16.to_be_bytes());
    far[24..26].fill(0);
    let sum = wire::checksum::of(&far[14..34]);
    far[24..26].copy_from_slice(&sum.to_be_bytes());
    net.dropped(0, &far, DropReason::Malformed);
}

#[test]
fn fragments_of_a_packet_that_was_stopped_are_stopped() {
    let topology = || topology().edit(2, |e| e.ingress = Some(deny()));
    let mut net = Net::new(topology());
    let fragments = cut(&udp(100), &[48], 7);
    net.dropped(0, &fragments[0], DropReason::IngressDenied);
    net.dropped(0, &fragments[1], DropReason::IngressDenied);
    // Nobody serves the port: one error for the packet, not one for each fragment.
    let refused = Probe { payload: 100, ..Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.96.0.10:81") };
    let fragments = cut(&refused.frame(), &[48], 7);
    assert_eq!(net.dropped(0, &fragments[0], DropReason::NoServer).len(), 1);
    assert_eq!(net.dropped(0, &fragments[1], DropReason::NoServer).len(), 0);
    assert_eq!(net.sessions(), 0);
}

fn deny() -> std::sync::Arc<supernet_dataplane::table::firewall::Firewall> {
    supernet_testkit::topology::every(supernet_dataplane::table::classifier::Action::Drop, 1)
}

#[test]
fn a_gateway_answers_an_echo_request_in_fragments() {
    for (probe, kind) in [
        (Probe::new(0, Proto::ICMP, "10.0.0.2:9", "10.0.0.1:0"), 0),
        (Probe::new(0, Proto::ICMPV6, "[fd00:0:0:1::2]:9", "[fe80::1]:0"), 129),
    ] {
        let mut net = Net::new(topology());
        let frame = Probe { payload: 1300, ..probe }.frame();
        let out = send_all(&mut net, 0, &cut(&frame, &[800], 7));
        let frames: Vec<Vec<u8>> = out.into_iter().map(|(_, frame)| frame).collect();
        let answer = join(&frames).unwrap();
        let p = sound(&answer);
        assert_eq!((p.src, p.dst, p.icmp.kind), (probe.dst.ip(), probe.src.ip(), kind));
        assert_eq!(answer[answer.len() - 1300..], frame[frame.len() - 1300..]);
    }
}

#[test]
fn sctp_that_must_be_translated_cannot_be_in_fragments() {
    let mut net = Net::new(topology());
    let probe = Probe { payload: 100, ..Probe::new(0, Proto::SCTP, "10.0.0.2:4000", "203.0.113.7:80") };
    // The first holder of a port keeps it, and so the CRC; the second does not.
    assert_eq!(send_all(&mut net, 0, &cut(&probe.frame(), &[48], 7)).len(), 2);
    let other = Probe {
        payload: 100,
        src_mac: mac(1),
        ..Probe::new(1, Proto::SCTP, "10.0.0.3:4000", "203.0.113.7:80")
    };
    let fragments = cut(&other.frame(), &[48], 7);
    net.dropped(1, &fragments[0], DropReason::Fragment);
    net.dropped(1, &fragments[1], DropReason::Fragment);
    assert_eq!(net.one(1, &other).0, 3, "whole it goes");
}

/// A pod that sends nothing but lonely fragments neither fills the memory nor costs others theirs.
#[test]
fn hoarded_fragments_cost_nobody_else() {
    let limits = FragmentLimits { packets: 64, held: 32, timeout: Duration::from_secs(30) };
    let config = Config { sessions: 64, frames: 256, fragments: limits, ..Config::default() };
    let mut net = Net::with(topology(), config);
    for id in 0..500 {
        net.send(0, &cut(&udp(100), &[48], id)[1]);
    }
    let held = net.counters().held;
    assert_eq!(held, 8, "a quarter of what may be held");
    assert_eq!(count(&net, DropReason::FragmentsFull) + count(&net, DropReason::FragmentTimeout), 500 - held);
    // Another pod's packet arrives, last fragment first.
    let other = Probe { payload: 100, ..Probe::new(1, Proto::UDP, "10.0.0.3:1", "10.0.0.18:80") }.frame();
    let mut fragments = cut(&other, &[48, 64], 1);
    fragments.reverse();
    assert_eq!(send_all(&mut net, 1, &fragments).len(), 3);
    // So does its own, in order.
    assert_eq!(send_all(&mut net, 0, &cut(&udp(100), &[48], 9999)).len(), 2);
}

/// What found no place was not seen: it may come again once its first has.
#[test]
fn a_fragment_without_a_place_may_come_again() {
    let limits = FragmentLimits { packets: 64, held: 4, timeout: Duration::from_secs(30) };
    let config = Config { sessions: 64, frames: 256, fragments: limits, ..Config::default() };
    let mut net = Net::with(topology(), config);
    assert_eq!(net.send(0, &cut(&udp(100), &[48], 1)[1]), []);
    let own = cut(&udp(100), &[48], 2);
    net.dropped(0, &own[1], DropReason::FragmentsFull);
    assert_eq!([&own[0], &own[1]].map(|frame| net.send(0, frame).len()), [1, 1]);
    assert_eq!(net.counters().held, 1);
}

/// Of several ports that have as much, the one that has had it longest gives way.
#[test]
fn who_gives_way_is_not_chance() {
    let limits = [(3, 256), (1024, 3)];
    for (packets, held) in limits.into_iter().cycle().take(20) {
        let limits = FragmentLimits { packets, held, timeout: Duration::from_secs(30) };
        let config = Config { sessions: 64, frames: 256, fragments: limits, ..Config::default() };
        let mut net = Net::with(topology(), config);
        let to = "10.0.0.34:80";
        let pods = [(1, "10.0.0.3:1"), (0, "10.0.0.2:1"), (2, "10.0.0.18:1")];
        let packets = pods.map(|(port, src)| {
            let probe = Probe { payload: 100, ..Probe::new(port, Proto::UDP, src, to) };
            (port, cut(&probe.frame(), &[48], 7))
        });
        for (port, fragments) in &packets {
            net.now = net.now + Duration::from_millis(1);
            assert_eq!(net.send(*port, &fragments[1]), []);
        }
        let fourth = Probe { payload: 100, ..Probe::new(4, Proto::UDP, to, "10.0.0.18:80") }.frame();
        assert_eq!(net.send(4, &cut(&fourth, &[48], 7)[1]), []);
        let came = [2, 1, 0].map(|n| net.send(packets[n].0, &packets[n].1[0]).len());
        assert_eq!(came[..2], [2, 2]);
        assert!(came[2] < 2);
    }
}

#[test]
fn one_packet_in_a_hundred_pieces_is_not_followed() {
    let config = Config { sessions: 64, frames: 1024, ..Config::default() };
    let mut net = Net::with(topology(), config);
    let frame = udp(1200);
    // Every other piece: all apart.
    for n in 0..60 {
        net.send(0, &piece(&frame, (16 * n + 8)..(16 * n + 16), true, 5));
    }
    let counters = net.counters();
    assert_eq!((counters.held, count(&net, DropReason::FragmentsFull)), (32, 28));
}

#[test]
fn multicast_in_fragments_reaches_the_segment() {
    let mut net = Net::new(topology());
    let group = Probe {
        dst_mac: wire::Mac([1, 0, 0x5e, 0, 0, 251]),
        payload: 1000,
        ..Probe::new(0, Proto::UDP, "10.0.0.2:1", "224.0.0.251:53")
    };
    let out = send_all(&mut net, 0, &cut(&group.frame(), &[504], 5));
    let ports: Vec<u32> = out.iter().map(|(port, _)| *port).collect();
    assert_eq!(ports, [1, 1]);
    // DHCP is not told by its later fragments otherwise, which have no ports of their own.
    let dhcp = Probe {
        dst_mac: wire::Mac::BROADCAST,
        payload: 1000,
        ..Probe::new(0, Proto::UDP, "10.0.0.2:68", "255.255.255.255:67")
    };
    for fragment in cut(&dhcp.frame(), &[504], 6) {
        net.dropped(0, &fragment, DropReason::Dhcp);
    }
}

#[test]
fn fragments_of_two_workers_meet() {
    use supernet_dataplane::{port::memory::memory, worker::Dataplane};
    let config = Config { workers: 2, sessions: 64, frames: 256, ..Config::default() };
    let (dataplane, mut workers) = Dataplane::new(config);
    // Two uplinks, each another worker's.
    let topology = two_namespaces().uplink("192.168.101.1/24", &[&format!("192.168.101.254 {OUTSIDE_MAC}")]);
    let snapshot = topology.build();
    let guests: Vec<_> =
        (0..snapshot.ports.len() as u32).map(|p| dataplane.attach(PortId(p), memory(16)).unwrap()).collect();
    dataplane.publish(snapshot);
    let now = Instant::from_secs(1);
    workers.iter_mut().for_each(|worker| {
        worker.poll(now);
    });
    let call = Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        payload: 100,
        ..Probe::new(3, Proto::UDP, "203.0.113.7:5000", "10.0.0.18:7")
    };
    let [first, second] = &cut(&call.frame(), &[48], 7)[..] else { panic!("two") };
    let mut second = second.clone();
    second[..6].copy_from_slice(&mac(4).0);
    guests[4].send(&second).unwrap();
    workers.iter_mut().for_each(|worker| while worker.poll(now).frames > 0 {});
    assert_eq!(dataplane.counters().held, 1);
    guests[3].send(first).unwrap();
    workers.iter_mut().for_each(|worker| while worker.poll(now).frames > 0 {});
    let out: Vec<Vec<u8>> = std::iter::from_fn(|| guests[2].recv()).map(|f| f.to_vec()).collect();
    assert_eq!(sound(&join(&out).unwrap()).dport, 7);
    assert!(dataplane.counters().conserved());
}

#[test]
fn a_syn_in_fragments_opens_and_an_ack_in_fragments_does_not() {
    let mut net = Net::new(topology());
    let syn = Probe { payload: 100, ..Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80") };
    let ack = Probe { flags: ACK, ..syn };
    let fragments = cut(&ack.frame(), &[48], 7);
    net.dropped(0, &fragments[0], DropReason::NoSession);
    net.dropped(0, &fragments[1], DropReason::Fragment);
    assert_eq!(send_all(&mut net, 0, &cut(&syn.frame(), &[48], 8)).len(), 2);
    assert_eq!(send_all(&mut net, 0, &cut(&ack.frame(), &[48], 9)).len(), 2);
}

mod headers_and_buffers {
    use super::*;
    use supernet_dataplane::wire::checksum;

    /// IPv6 | fragment header (next: destination options) | options | UDP.
    fn v6_fragments() -> Vec<Vec<u8>> {
        let frame =
            Probe { payload: 100, ..Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80") }
                .frame();
        let mut body = vec![17, 0, 1, 4, 0, 0, 0, 0];
        body.extend_from_slice(&frame[54..]);
        let piece = |from: usize, to: usize, more: bool| {
            let mut f = frame[..54].to_vec();
            let part = &body[from..to];
            f[20] = 44;
            f[18..20].copy_from_slice(&((part.len() + 8) as u16).to_be_bytes());
            f.extend_from_slice(&[60, 0]);
            f.extend_from_slice(&((from as u16) | u16::from(more)).to_be_bytes());
            f.extend_from_slice(&[0, 0, 0, 9]);
            f.extend_from_slice(part);
            f
        };
        vec![piece(0, 48, true), piece(48, body.len(), false)]
    }

    #[test]
    fn options_behind_the_fragment_header_are_passed_over() {
        let mut net = Net::new(topology());
        let f = v6_fragments();
        assert_eq!(net.send(0, &f[0]).len(), 1, "{:?}", net.counters().drops);
        assert_eq!(net.send(0, &f[1]).len(), 1, "{:?}", net.counters().drops);
    }

    #[test]
    fn held_fragments_leave_buffers_to_others() {
        let mut net = Net::with(topology(), Config { sessions: 64, frames: 64, ..Config::default() });
        for id in 0..64 {
            let f = &cut(&udp(100), &[48], 1000 + id)[1];
            net.send(0, f);
        }
        assert!(net.dataplane.pool().available() > 0);
    }

    #[test]
    fn no_fragment_reaches_beyond_the_longest_packet() {
        let mut net = Net::new(topology());
        let f = cut(&udp(100), &[48], 7);
        assert_eq!(net.send(0, &f[0]).len(), 1);
        let mut last = f[1].clone();
        // 65,528 + 7 + 20 bytes.
        last[16..18].copy_from_slice(&27u16.to_be_bytes());
        last[20..22].copy_from_slice(&8191u16.to_be_bytes());
        last[24..26].fill(0);
        let sum = checksum::of(&last[14..34]);
        last[24..26].copy_from_slice(&sum.to_be_bytes());
        assert!(net.send(0, &last).is_empty(), "{:?}", net.counters().drops);
    }
}
