//! Behaviour that was wrong once, or nearly was: each test is named after what must hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    io,
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use supernet_dataplane::{
    buf::{Frame, Pool},
    flow::Timeouts,
    id::{PortId, RuleId},
    pipeline::{Output, Pipeline},
    port::{
        self, Waker,
        memory::{SendError, memory},
    },
    snapshot::{GATEWAY_V6, ServerKind, Snapshot},
    state::Config,
    table::classifier::Action,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{self, Mac, Proto, arp, nd, tcp_flags::*},
    worker::{Dataplane, Worker},
};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC, at, ends, two_namespaces},
    packet::{Probe, sound},
    topology::{Topology, every, mac},
};

fn outside_mac() -> Mac {
    OUTSIDE_MAC.parse().unwrap()
}

/// [`two_namespaces`] and, at port 4, an uplink to the IPv6 world.
fn dual() -> Topology {
    two_namespaces().uplink("fd00:100::1/64", &[&format!("fd00:100::254 {OUTSIDE_MAC}")])
}

/// A packet of somebody beyond the uplink at `port`.
fn from_outside(port: u32, proto: Proto, src: &str, dst: &str) -> Probe {
    Probe { src_mac: outside_mac(), dst_mac: mac(port), ..Probe::new(port, proto, src, dst) }
}

/// A worker's pipeline on its own, so that two can be on different snapshots.
fn pipeline(dataplane: &Dataplane, snapshot: &Arc<Snapshot>) -> Pipeline {
    let mut p = Pipeline::new(dataplane.state().clone(), Arc::default(), dataplane.pool().clone());
    p.set_snapshot(snapshot.clone());
    p
}

fn run(p: &mut Pipeline, dataplane: &Dataplane, port: u32, frame: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut frames: Vec<Frame> = vec![dataplane.pool().copy(frame).unwrap()];
    let mut output = Output::default();
    p.process(&mut frames, &[PortId(port)], Instant::from_secs(1), &mut output);
    let mut out = Vec::new();
    output.drain(|port, frames| out.extend(frames.drain(..).map(|f| (port.0, f.bytes().to_vec()))));
    out
}

/// A port whose device goes away.
struct Broken;

impl port::Port for Broken {
    type Peer = ();

    fn open(self, senders: usize, _pool: &Pool) -> io::Result<port::Opened<()>> {
        let sender = || Box::new(Self) as Box<dyn port::Transmit>;
        Ok(port::Opened {
            receivers: vec![Box::new(Self)],
            senders: (0..senders).map(|_| sender()).collect(),
            peer: (),
        })
    }
}

impl port::Receive for Broken {
    fn receive(&mut self, _into: &mut Vec<Frame>, _max: usize, _pool: &Pool) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

impl port::Transmit for Broken {
    fn transmit(&mut self, _frames: &mut Vec<Frame>) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn a_worker_still_on_the_older_snapshot_does_not_undo_what_a_newer_one_decided() {
    let (dataplane, _workers) = Dataplane::new(Config { sessions: 64, frames: 64, ..Config::default() });
    dataplane.publish(two_namespaces().build());
    let before = dataplane.snapshot();
    let members = ["10.0.0.18:8080"];
    let with = || two_namespaces().server(ServerKind::Distributed, "10.96.0.20:80", Proto::TCP, &members);
    dataplane.publish(with().build());
    let (mut new, mut old) = (pipeline(&dataplane, &dataplane.snapshot()), pipeline(&dataplane, &before));

    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.20:80");
    let out = run(&mut new, &dataplane, 0, &open.frame());
    assert_eq!(out[0].0, 2);
    // The older snapshot has no such server, yet the connection is not reset.
    let back = run(&mut old, &dataplane, 2, &Probe::answer(&out[0].1, SYN | ACK).frame());
    assert_eq!(back.len(), 1);
    let p = sound(&back[0].1);
    assert_eq!((back[0].0, ends(&p).0, p.tcp_flags & RST), (0, at("10.96.0.20:80"), 0));

    // And what the newer one cuts stays cut.
    dataplane.publish(with().edit(2, |e| e.ingress = Some(every(Action::Drop, 9))).build());
    let (mut newest, mut old) = (pipeline(&dataplane, &dataplane.snapshot()), new);
    let data = Probe { flags: ACK, ..open }.frame();
    assert!(run(&mut newest, &dataplane, 0, &data).is_empty());
    assert!(run(&mut old, &dataplane, 0, &data).is_empty());
}

#[test]
fn the_tier0_answers_echo_of_pods_and_is_no_next_hop() {
    let mut net = Net::new(dual());
    let (port, _, p) = net.one(0, &Probe::new(0, Proto::ICMP, "10.0.0.2:7", "192.168.100.1:0"));
    assert_eq!((port, p.is_echo_reply(), p.src), (0, true, at("192.168.100.1:0").ip()));
    let echo = Probe::new(0, Proto::ICMPV6, "[fd00:0:0:1::2]:7", "[fd00:100::1]:0");
    let (port, _, p) = net.one(0, &echo);
    assert_eq!((port, p.is_echo_reply(), p.src), (0, true, at("[fd00:100::1]:0").ip()));
    let udp = Probe::new(0, Proto::UDP, "10.0.0.2:7", "192.168.100.1:53");
    net.dropped(0, &udp.frame(), DropReason::NoEndpoint);
    assert_eq!(net.sessions(), 0);
}

#[test]
fn the_outside_in_ipv6() {
    let mut net = Net::new(dual());
    // No IPv6 egress address: the pod's own is kept.
    let call = Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:4000", "[2001:db8::7]:53");
    let (port, frame, p) = net.one(0, &call);
    assert_eq!((port, ends(&p).0, p.ttl, p.dst_mac), (4, call.src, 62, outside_mac()));
    let (port, _, p) = net.one(4, &Probe::answer(&frame, 0));
    assert_eq!((port, ends(&p)), (0, (call.dst, call.src)));
    let (port, _, _) = net.one(4, &from_outside(4, Proto::TCP, "[2001:db8::8]:1", "[fd00:0:0:2::2]:80"));
    assert_eq!(port, 2);
    for (ttl, router) in [(1, "fe80::1"), (2, "fd00:100::1")] {
        let out = net.dropped(0, &Probe { ttl, ..call }.frame(), DropReason::TtlExceeded);
        let p = sound(&out[0].1);
        assert_eq!((p.src.to_string(), p.icmp.kind, p.icmp.code), (router.into(), 3, 0));
    }
    for src in ["[fd00:0:0:1::2]:1", "[fe80::9]:1", "[ff02::1]:1", "[::1]:1"] {
        let forged = from_outside(4, Proto::UDP, src, "[fd00:0:0:2::2]:53").frame();
        assert!(net.send(4, &forged).is_empty(), "{src}");
    }
    // A neighbor asks for the uplink's address.
    let mut ask = vec![0; nd::FRAME];
    nd::solicitation(
        &mut ask,
        (outside_mac(), "fd00:100::254".parse().unwrap()),
        "fd00:100::1".parse().unwrap(),
    );
    let out = net.send(4, &ask);
    assert_eq!((out.len(), out[0].0, out[0].1[..6].to_vec()), (1, 4, outside_mac().0.to_vec()));
    assert_eq!(sound(&out[0].1).icmp.kind, 136);
}

#[test]
fn what_is_addressed_to_one_host_is_not_flooded() {
    let mut net = Net::new(two_namespaces());
    let probe = Probe { dst_mac: Mac::BROADCAST, ..Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.3:53") };
    assert!(net.dropped(0, &probe.frame(), DropReason::UnknownMac).is_empty());
    for dst in ["255.255.255.255:9", "10.0.0.15:9", "224.0.0.251:9"] {
        let (port, _, p) = net.one(0, &Probe { dst: at(dst), ..probe });
        assert_eq!((port, p.ttl, p.src_mac), (1, 64, mac(0)), "{dst}");
    }
    let v6 = Probe {
        dst_mac: Mac([0x33, 0x33, 0, 0, 0, 0xfb]),
        ..Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:1", "[ff02::fb]:9")
    };
    assert_eq!(net.one(0, &v6).0, 1);
}

#[test]
fn multicast_is_held_to_the_mtu_and_rules_count_what_they_deny_of_it() {
    let mut net = Net::new(two_namespaces());
    let group = Probe {
        dst_mac: Mac([1, 0, 0x5e, 0, 0, 251]),
        ..Probe::new(0, Proto::UDP, "10.0.0.2:1", "224.0.0.251:53")
    };
    net.dropped(0, &Probe { payload: 1480, ..group }.frame(), DropReason::TooBig);

    let mut net = Net::new(two_namespaces().edit(0, |e| e.egress = Some(every(Action::Drop, 5))));
    net.dropped(0, &group.frame(), DropReason::EgressDenied);
    assert_eq!(net.counters().rules[&RuleId(5)].denied, 1);
    let mut net = Net::new(two_namespaces().edit(1, |e| e.ingress = Some(every(Action::Drop, 6))));
    net.dropped(0, &group.frame(), DropReason::IngressDenied);
    assert_eq!(net.counters().rules[&RuleId(6)].denied, 1);
}

#[test]
fn addresses_that_are_never_routed_stay_inside() {
    let mut net = Net::new(dual());
    for dst in ["0.1.2.3:9", "240.0.0.1:9", "255.255.255.254:9", "169.254.1.1:9", "127.0.0.1:9"] {
        net.dropped(0, &Probe::new(0, Proto::UDP, "10.0.0.2:1", dst).frame(), DropReason::Martian);
        let from = from_outside(3, Proto::UDP, dst, "10.0.0.2:9");
        net.dropped(3, &from.frame(), DropReason::Martian);
    }
    for dst in ["[::ffff:10.0.0.18]:9", "[::1]:9", "[fe80::2]:9", "[::]:9"] {
        net.dropped(0, &Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:1", dst).frame(), DropReason::Martian);
        let from = from_outside(4, Proto::UDP, dst, "[fd00:0:0:1::2]:9");
        net.dropped(4, &from.frame(), DropReason::Martian);
    }
}

#[test]
fn a_port_number_that_no_key_can_hold_is_refused() {
    let (dataplane, _workers) = Dataplane::new(Config { frames: 8, sessions: 8, ..Config::default() });
    for id in [1 << 23, u32::MAX] {
        let error = dataplane.attach(PortId(id), memory(1)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_waker_may_come_after_the_ports() {
    let mut net = Net::new(two_namespaces());
    net.poll();
    let woken = Arc::new(AtomicU32::new(0));
    let count = woken.clone();
    net.dataplane.set_waker(
        0,
        Waker::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }),
    );
    net.poll();
    let before = woken.load(Ordering::SeqCst);
    net.guests[0].send(&Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.3:2").frame()).unwrap();
    assert_eq!(woken.load(Ordering::SeqCst), before + 1);
}

#[test]
fn a_detached_guest_is_told_and_its_frames_come_home() {
    let mut net = Net::new(two_namespaces());
    let frame = Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.3:2").frame();
    let free = net.dataplane.pool().available();
    net.guests[0].send(&frame).unwrap();
    net.dataplane.detach(PortId(0));
    net.poll();
    assert_eq!(net.dataplane.pool().available(), free);
    assert_eq!(net.guests[0].send(&frame), Err(SendError::Detached));
    assert_eq!(net.dataplane.pool().available(), free);
}

#[test]
fn the_sweep_keeps_its_pace_however_many_sessions_there_are() {
    let mut net = Net::with(two_namespaces(), Config { sessions: 30_000, frames: 64, ..Config::default() });
    for n in 0..30_000 {
        let probe = Probe::new(0, Proto::UDP, &format!("10.0.0.2:{}", 1 + n), "10.0.0.18:53");
        net.guests[0].send(&probe.frame()).unwrap();
        net.worker.poll(net.now);
        assert!(net.guests[2].recv().is_some());
    }
    // Polled only when it wants to be, for as long as a lap may take.
    let end = Instant::from_secs(1000) + Duration::from_millis(2100);
    net.now = Instant::from_secs(1000);
    let mut polls = 0;
    while net.now < end && net.sessions() > 0 {
        net.now = net.worker.poll(net.now).next;
        polls += 1;
    }
    assert_eq!(net.sessions(), 0, "after {polls} polls");
}

#[test]
fn a_worker_that_is_not_polled_any_more_holds_nothing_up() {
    let (dataplane, mut workers) =
        Dataplane::new(Config { workers: 2, sessions: 64, frames: 64, ..Config::default() });
    let guests: Vec<_> = (0..4).map(|p| dataplane.attach(PortId(p), memory(64)).unwrap()).collect();
    dataplane.publish(two_namespaces().build());
    let (mut idle, mut busy): (Worker, Worker) = (workers.remove(1), workers.remove(0));
    guests[1].send(&Probe::new(1, Proto::UDP, "10.0.0.3:1", "10.0.0.18:1").frame()).unwrap();
    assert_eq!(idle.poll(Instant::from_secs(1)).frames, 1);
    // Far more connections, one after the other, than the table has slots.
    for n in 0..2000u32 {
        let now = Instant::from_secs(1000 * u64::from(n + 1));
        let probe = Probe::new(0, Proto::UDP, &format!("10.0.0.2:{}", 1 + n), "10.0.0.18:53");
        guests[0].send(&probe.frame()).unwrap();
        busy.poll(now);
        busy.poll(now + Duration::from_secs(500));
        assert!(guests[2].recv().is_some() || n == 0, "{n}: {:?}", dataplane.counters().drops);
        while guests[2].recv().is_some() {}
    }
}

#[test]
fn timeouts_of_weeks_end_too() {
    let day = Duration::from_secs(86_400);
    let timeouts = Timeouts { udp_first: 14 * day, ..Timeouts::default() };
    let config = Config { sessions: 64, frames: 64, timeouts, ..Config::default() };
    let mut net = Net::with(two_namespaces(), config);
    net.one(0, &Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.18:53"));
    for hour in 0..24 * 20 {
        net.now = Instant::from_secs(3600 * (hour + 1));
        net.worker.poll(net.now);
        net.worker.poll(net.now + Duration::from_secs(2));
    }
    assert_eq!(net.sessions(), 0);
}

#[test]
fn a_next_hop_is_asked_for_from_an_address_of_its_own_subnet() {
    let topology = Topology::new()
        .segment(&["10.0.0.1/28"], 0)
        .pod(&["10.0.0.2"])
        .uplink("192.168.100.1/24", &["172.16.0.254"])
        .with(|s| {
            let entry = Arc::make_mut(s.ports[1].as_mut().unwrap());
            if let supernet_dataplane::snapshot::PortRole::Uplink(u) = &mut entry.role {
                u.addresses.push("172.16.0.1/24".parse().unwrap());
            }
        });
    let mut net = Net::new(topology);
    let asked = net.send(0, &Probe::new(0, Proto::UDP, "10.0.0.2:1", "203.0.113.7:1").frame());
    let request = arp::Arp::read(&asked[0].1, 14);
    assert_eq!(
        (request.target.to_string(), request.sender.to_string()),
        ("172.16.0.254".into(), "172.16.0.1".into())
    );
}

#[test]
fn a_router_advertisement_outlasts_the_guest() {
    let mut net = Net::new(two_namespaces());
    let mut ask = vec![0; nd::FRAME];
    let len = nd::solicitation(&mut ask, (mac(0), "fe80::2".parse().unwrap()), Ipv6Addr::UNSPECIFIED);
    // A router solicitation: the same message with another type, to all routers, and no target.
    ask.truncate(len);
    ask[38..54].copy_from_slice(&"ff02::2".parse::<Ipv6Addr>().unwrap().octets());
    ask[54..].fill(0);
    ask[54] = 133;
    ask[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 2]);
    let (src, dst) = ("fe80::2".parse().unwrap(), "ff02::2".parse().unwrap());
    let sum = supernet_dataplane::wire::checksum::transport(src, dst, Proto::ICMPV6, &ask[54..]);
    ask[56..58].copy_from_slice(&sum.to_be_bytes());
    let out = net.send(0, &ask);
    assert_eq!(out.len(), 1, "{:?}", net.counters().drops);
    let p = sound(&out[0].1);
    assert_eq!((p.icmp.kind, p.src), (134, GATEWAY_V6.into()));
    let message = &out[0].1[p.l4()..];
    // Nothing repeats the advertisement, so nothing in it may run out while the guest lives.
    assert_eq!(message[6..8], [0xff; 2], "the longest lifetime of a router (RFC 8319)");
    assert_eq!(
        (&message[36..40], &message[40..44]),
        (&[0xff; 4][..], &[0xff; 4][..]),
        "the prefix: for ever"
    );
}

#[test]
fn ttl_takes_three_between_tier1s() {
    let topology = two_namespaces().with(|s| {
        Arc::make_mut(s.segments[1].as_mut().unwrap()).tier1 = supernet_dataplane::id::Tier1Id(1);
    });
    let mut net = Net::new(topology);
    let probe = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80");
    let (_, _, p) = net.one(0, &probe);
    assert_eq!(p.ttl, 61);
    for (ttl, router) in [(1, "10.0.0.1"), (2, "192.168.100.1"), (3, "10.0.0.17")] {
        let out = net.dropped(0, &Probe { ttl, ..probe }.frame(), DropReason::TtlExceeded);
        assert_eq!(sound(&out[0].1).src.to_string(), router, "a packet of the session");
        let fresh = Probe { ttl, src: at(&format!("10.0.0.2:{}", 5000 + u16::from(ttl))), ..probe };
        let out = net.dropped(0, &fresh.frame(), DropReason::TtlExceeded);
        assert_eq!(sound(&out[0].1).src.to_string(), router, "a first packet");
    }
}

#[test]
fn a_workload_that_scans_a_connected_prefix_uses_up_no_next_hop_of_a_route() {
    let config = Config { sessions: 16_384, frames: 64, ..Config::default() };
    let mut net = Net::with(dual(), config);
    let asked = |net: &Net| std::iter::from_fn(|| net.guests[4].recv()).count();
    for n in 0..6_000 {
        let dst = format!("[fd00:100::1:{n:x}]:9");
        net.guests[0].send(&Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:1", &dst).frame()).unwrap();
        net.now = net.now + Duration::from_millis(1);
        net.worker.poll(net.now);
        asked(&net);
    }
    for _ in 0..300 {
        net.now = net.now + Duration::from_millis(100);
        net.worker.poll(net.now);
    }
    let before = asked(&net);
    for _ in 0..300 {
        net.now = net.now + Duration::from_millis(100);
        net.worker.poll(net.now);
    }
    assert_eq!(asked(&net), 0, "nobody wants them any more; {before} right after the scan");
    let hop = "fd00:100::253 02:00:00:00:ee:02";
    net.publish(two_namespaces().uplink("fd00:100::1/64", &[hop]).build());
    let (port, _, p) = net.one(0, &Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:1", "[2001:db8::7]:9"));
    assert_eq!((port, p.dst_mac), (4, "02:00:00:00:ee:02".parse().unwrap()));
}

#[test]
fn a_frame_longer_than_offsets_reach_is_an_error() {
    for (kind, header) in [(0x0800u16, [0x45, 0, 0xff, 0xff]), (0x86dd, [0x60, 0, 0, 0])] {
        let mut frame = vec![0; 70_000];
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame[14..18].copy_from_slice(&header);
        frame[18..20].fill(0xff);
        assert_eq!(wire::parse(&frame), Err(wire::ParseError::BadLength));
    }
}

#[test]
fn reports_of_group_membership_bother_nobody() {
    let mut net = Net::new(two_namespaces());
    let report = Probe::new(0, Proto::IGMP, "10.0.0.2:0", "224.0.0.22:0");
    let report = Probe { dst_mac: Mac([1, 0, 0x5e, 0, 0, 22]), ..report };
    assert!(net.dropped(0, &report.frame(), DropReason::Absorbed).is_empty());
}

#[test]
fn a_port_that_fails_is_detached_and_may_be_attached_again() {
    let mut net = Net::new(two_namespaces());
    net.dataplane.detach(PortId(2));
    net.dataplane.attach(PortId(2), Broken).unwrap();
    assert!(net.dataplane.is_attached(PortId(2)));
    net.poll();
    assert!(!net.dataplane.is_attached(PortId(2)));
    let probe = Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.18:1");
    net.dropped(0, &probe.frame(), DropReason::PortFull);
    net.guests[2] = net.dataplane.attach(PortId(2), memory(8)).unwrap();
    assert_eq!(net.one(0, &probe).0, 2);
}

#[test]
fn ports_of_a_dropped_worker_are_detached_and_the_others_take_new_ones() {
    let (dataplane, mut workers) =
        Dataplane::new(Config { workers: 2, sessions: 64, frames: 64, ..Config::default() });
    dataplane.publish(two_namespaces().build());
    let guests: Vec<_> = (0..2).map(|p| dataplane.attach(PortId(p), memory(8)).unwrap()).collect();
    drop(workers.remove(1));
    let attached: Vec<bool> = (0..2).map(|p| dataplane.is_attached(PortId(p))).collect();
    assert_eq!(attached, [true, false]);
    assert_eq!(guests[1].send(&[0; 60]), Err(SendError::Detached));
    let again = [1, 2].map(|p| dataplane.attach(PortId(p), memory(8)).unwrap());
    again[0].send(&Probe::new(1, Proto::UDP, "10.0.0.3:1", "10.0.0.18:1").frame()).unwrap();
    workers[0].poll(Instant::from_secs(1));
    assert!(again[1].recv().is_some());
    drop(workers);
    assert!(dataplane.attach(PortId(3), memory(8)).is_err());
}

#[test]
fn every_connection_of_a_member_that_goes_is_reset_however_many_there_are() {
    let served = |by| two_namespaces().server(ServerKind::Distributed, "10.96.0.20:80", Proto::TCP, &[by]);
    let config = Config { errors_per_second: 0, sessions: 64, frames: 64, ..Config::default() };
    let mut net = Net::with(served("10.0.0.18:8080"), config);
    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.20:80");
    net.one(0, &open);
    net.publish(served("10.0.0.3:8080").build());
    let out = net.dropped(0, &Probe { flags: ACK, ..open }.frame(), DropReason::BindingGone);
    assert_eq!(out.len(), 2, "both sides learn");
}

#[test]
fn a_syn_that_is_sent_again_reaches_a_new_member() {
    let served = |by| two_namespaces().server(ServerKind::Distributed, "10.96.0.20:80", Proto::TCP, &[by]);
    let mut net = Net::new(served("10.0.0.18:8080"));
    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.20:80");
    assert_eq!(net.one(0, &open).0, 2);
    net.publish(served("10.0.0.3:8080").build());
    assert_eq!(net.one(0, &open).0, 1);
}

#[test]
fn a_withdrawn_route_keeps_connections_from_outside_for_its_return() {
    let mut net = Net::new(two_namespaces());
    let call = Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        ..Probe::new(3, Proto::TCP, "203.0.113.7:5000", "10.0.0.18:80")
    };
    net.one(3, &call);
    net.publish(two_namespaces().with(|s| s.tier0.routes = Default::default()).build());
    assert!(net.dropped(3, &Probe { flags: ACK, ..call }.frame(), DropReason::NoRoute).is_empty());
    net.publish(two_namespaces().build());
    assert_eq!(net.one(3, &Probe { flags: ACK, ..call }).0, 2);
}

#[test]
fn what_follows_a_later_fragment_of_ipv6_is_not_read_as_headers() {
    let mut net = Net::new(two_namespaces());
    let mut frame = Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:1", "[fd00:0:0:2::2]:1").frame();
    // Hop-by-hop options as what follows, at offset 8: bytes that would make a wrong header.
    frame[20] = 44;
    frame[54..62].copy_from_slice(&[0, 0, 0, 8, 0, 0, 0, 1]);
    frame[62..].fill(0xff);
    assert!(net.send(0, &frame).is_empty());
    assert_eq!(net.counters().held, 1);
}

#[test]
fn the_sweep_frees_datagrams_of_a_member_that_is_gone_and_leaves_tcp_for_its_reset() {
    let served = |by| {
        two_namespaces()
            .server(ServerKind::Distributed, "10.96.0.20:80", Proto::TCP, &[by])
            .server(ServerKind::Distributed, "10.96.0.20:80", Proto::UDP, &[by])
            .server(ServerKind::Distributed, "10.96.0.20:80", Proto::SCTP, &[by])
    };
    let mut net = Net::new(served("203.0.113.7:8080"));
    for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
        net.one(0, &Probe::new(0, proto, "10.0.0.2:4000", "10.96.0.20:80"));
    }
    net.publish(served("203.0.113.8:8080").build());
    // No packet comes, and no timeout has passed.
    for ms in [2_000, 4_000, 6_000] {
        net.now = Instant::from_millis(ms);
        net.worker.poll(net.now);
    }
    assert_eq!(net.sessions(), 1, "TCP waits for its next packet");
    let nat = &net.dataplane.state().nat;
    let used = nat.used("192.168.90.1".parse().unwrap());
    assert!(
        used.iter().all(|(proto, n)| (*proto == Proto::TCP) == (*n == 1)),
        "ports are given back: {used:?}"
    );
}

#[test]
fn a_damaged_segment_ends_no_connection() {
    for (client, server) in [("10.0.0.2:4000", "10.0.0.3:80"), ("[fd00:0:0:1::2]:4000", "[fd00:0:0:1::3]:80")]
    {
        let mut net = Net::new(two_namespaces());
        let open = Probe { dst_mac: mac(1), ..Probe::new(0, Proto::TCP, client, server) };
        let (_, frame, _) = net.one(0, &open);
        net.one(1, &Probe::answer(&frame, SYN | ACK));
        net.one(0, &Probe { flags: ACK, ..open });
        for (port, probe) in [(0, open), (1, Probe::answer(&frame, 0))] {
            for flags in [RST, FIN | ACK, SYN] {
                let mut damaged = Probe { flags, ..probe }.frame();
                *damaged.last_mut().unwrap() ^= 1;
                assert!(net.dropped(port, &damaged, DropReason::BadChecksum).is_empty());
            }
        }
        // Its receiver took no notice of any, and so it goes on after a while without packets.
        for _ in 0..10 {
            net.now = net.now + Duration::from_secs(60);
            net.poll();
        }
        net.one(0, &Probe { flags: ACK, ..open });
        net.one(1, &Probe::answer(&frame, ACK));
    }
}
