//! What is told of a frame.

use super::{capture, closed, from_outside, ports, records, stages};
use std::io;
use supernet_dataplane::{
    buf::{Frame, Pool},
    capture::{Direction::*, Verdict},
    id::{PortId, RuleId, ServerId},
    port::{
        Opened, Port, Transmit,
        memory::{MemoryGuest, MemoryPort, memory},
    },
    snapshot::ServerKind,
    state::Config,
    table::classifier::Action,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{Proto, tcp_flags::*},
};
use supernet_testkit::{
    fragments::cut,
    net::{Net, two_namespaces},
    packet::Probe,
    topology::every,
};

#[test]
fn a_connection_is_seen_as_it_comes_and_as_it_leaves() {
    let topology = two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Allow, 9)));
    let mut net = Net::new(topology);
    let capture = capture(&net);
    let call = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.10:80");
    let (_, opened, _) = net.one(0, &call);
    let seen = records(&capture);
    assert_eq!(seen.len(), 2, "{seen:?}");
    let (came, left) = (&seen[0], &seen[1]);
    assert_eq!((came.port, came.direction, &came.data), (PortId(0), In, &call.frame()));
    assert_eq!(came.verdict, Verdict::Forwarded(ports(&[2])));
    assert_eq!(stages(came), ["spoof-guard", "dlb", "dfw-ingress", "router", "commit", "deliver"]);
    assert_eq!((came.rules, came.server), ((None, Some(RuleId(9))), Some(ServerId(0))));
    assert_eq!((left.port, left.direction, &left.data), (PortId(2), Out, &opened));
    assert_eq!(left.verdict, Verdict::Sent { from: Some(PortId(0)) });
    assert_eq!((left.stages, left.rules, left.server), (came.stages, came.rules, came.server));
    assert_eq!((came.at, came.len, came.late), (net.now, call.frame().len(), false));

    // The answer, and then hits, belong to the session.
    net.one(2, &Probe::answer(&opened, SYN | ACK));
    net.one(0, &Probe { flags: ACK, ..call });
    records(&capture);
    let (hit, answer) = (Probe { flags: ACK, ..call }, Probe::answer(&opened, ACK));
    let hits = net.counters().hits;
    let (_, answered, _) = (net.one(0, &hit), net.one(2, &answer)).1;
    assert_eq!(net.counters().hits, hits + 2, "captured, and hits as ever");
    let seen = records(&capture);
    assert_eq!(seen.len(), 4);
    for record in &seen {
        assert_eq!(stages(record), ["session", "dlb", "router", "deliver"]);
        assert_eq!((record.rules, record.server), ((None, Some(RuleId(9))), Some(ServerId(0))));
    }
    assert_eq!(seen[2].data, answer.frame());
    assert_eq!((&seen[3].data, seen[3].port), (&answered, PortId(0)));
}

#[test]
fn stages_are_those_that_rewrote_a_packet() {
    // The outside of a ClusterIP's member, of source translation and of a VIP.
    let mut net = Net::new(two_namespaces().server(
        ServerKind::Distributed,
        "10.96.0.11:53",
        Proto::UDP,
        &["203.0.113.9:5353"],
    ));
    let capture = capture(&net);
    let out = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:53");
    let by_dlb = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.96.0.11:53");
    let cases = [
        (
            (0, out),
            &["spoof-guard", "router", "snat", "tier-0", "commit", "deliver"][..],
            &["session", "router", "snat", "tier-0", "deliver"][..],
        ),
        (
            (0, by_dlb),
            &["spoof-guard", "dlb", "router", "snat", "tier-0", "commit", "deliver"],
            &["session", "dlb", "router", "snat", "tier-0", "deliver"],
        ),
        (
            (3, from_outside(5000)),
            &["urpf", "vip", "router", "tier-0", "commit", "deliver"],
            &["session", "vip", "router", "tier-0", "deliver"],
        ),
    ];
    for ((port, probe), first, later) in cases {
        let (to, frame, _) = net.one(port, &probe);
        let flags = if probe.proto == Proto::TCP { SYN | ACK } else { ACK };
        net.one(to, &Probe::answer(&frame, flags));
        net.one(port, &Probe { flags: ACK, ..probe });
        let seen: Vec<_> = records(&capture).iter().map(stages).collect();
        assert_eq!(seen, [first, first, later, later, later, later], "{probe:?}");
    }
}

#[test]
fn what_is_denied_names_rule_and_port_on_a_living_connection_too() {
    let mut net = closed();
    let capture = capture(&net);
    let call = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80");
    net.dropped(0, &call.frame(), DropReason::IngressDenied);
    let denied = |records: &[supernet_dataplane::capture::Record], at: u32, rule| {
        let record = &records[0];
        assert_eq!(records.len(), 1, "{records:?}");
        let reason = DropReason::IngressDenied;
        assert_eq!(record.verdict, Verdict::Dropped { reason, at: Some(PortId(at)) });
        assert_eq!((record.rules, stages(record)), ((None, Some(RuleId(rule))), vec!["dfw-ingress"]));
    };
    denied(&records(&capture), 2, 7);
    // Open, and closed again under a connection.
    net.publish(two_namespaces().build());
    let (_, frame, _) = net.one(0, &call);
    net.one(2, &Probe::answer(&frame, SYN | ACK));
    net.one(0, &Probe { flags: ACK, ..call });
    records(&capture);
    net.publish(two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Drop, 9))).build());
    for _ in 0..2 {
        net.dropped(0, &Probe { flags: ACK, ..call }.frame(), DropReason::IngressDenied);
        denied(&records(&capture), 2, 9);
        // Seen at the pod whose firewall it is, what answers is denied there.
        net.dropped(2, &Probe::answer(&frame, ACK).frame(), DropReason::IngressDenied);
        denied(&records(&capture), 2, 9);
    }
    net.publish(two_namespaces().edit(0, |e| e.egress = Some(every(Action::Drop, 8))).build());
    net.dropped(0, &Probe { flags: ACK, ..call }.frame(), DropReason::EgressDenied);
    let record = records(&capture).remove(0);
    let reason = DropReason::EgressDenied;
    assert_eq!(record.verdict, Verdict::Dropped { reason, at: Some(PortId(0)) });
    assert_eq!(record.rules, (Some(RuleId(8)), None));
}

#[test]
fn the_networks_own_words_come_from_nobody() {
    let mut net = Net::new(two_namespaces());
    let capture = capture(&net);
    // An echo to the gateway is answered in place.
    net.one(0, &Probe::new(0, Proto::ICMP, "10.0.0.2:77", "10.0.0.1:0"));
    let seen = records(&capture);
    assert_eq!((&seen[0].verdict, stages(&seen[0])), (&Verdict::Answered, vec!["gateway"]));
    assert_eq!(seen[1].verdict, Verdict::Sent { from: None });
    // Nobody listens there: refused, with a reset.
    let refused = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.10:81");
    let out = net.dropped(0, &refused.frame(), DropReason::NoServer);
    let seen = records(&capture);
    assert_eq!((seen[0].dropped(), stages(&seen[0])), (Some(DropReason::NoServer), vec!["dlb"]));
    assert_eq!((&seen[1].verdict, &seen[1].data), (&Verdict::Sent { from: None }, &out[0].1));
    // Forged, and no frame at all.
    let forged = Probe::new(0, Proto::TCP, "10.0.0.9:4000", "10.0.0.18:80");
    net.dropped(0, &forged.frame(), DropReason::SpoofedAddress);
    net.dropped(0, &[1; 20], DropReason::SpoofedMac);
    net.dropped(0, &[1; 10], DropReason::Malformed);
    let seen: Vec<_> = records(&capture).iter().map(|r| (r.dropped().unwrap(), stages(r)[0])).collect();
    assert_eq!(seen[0], (DropReason::SpoofedAddress, "spoof-guard"));
    assert_eq!(seen.last().unwrap(), &(DropReason::Malformed, "parse"));
}

#[test]
fn a_fragment_that_waits_is_held_and_told_again() {
    let mut net = Net::new(two_namespaces());
    let capture = capture(&net);
    let whole = Probe { payload: 900, ..Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80") }.frame();
    let pieces = cut(&whole, &[400], 7);
    assert_eq!(net.send(0, &pieces[1]), []);
    assert_eq!(records(&capture)[0].verdict, Verdict::Held);
    // With its first it goes on: two leave for one that came.
    assert_eq!(net.send(0, &pieces[0]).len(), 2);
    let seen = records(&capture);
    let told: Vec<_> = seen.iter().map(|r| (r.direction, r.late)).collect();
    assert_eq!(told, [(In, false), (Out, false), (Out, false)]);
    assert_eq!(seen[0].verdict, Verdict::Forwarded(ports(&[2])));
    // Without, it is dropped in the end.
    net.send(0, &cut(&whole, &[400], 8)[1]);
    records(&capture);
    net.now = net.now + Duration::from_secs(31);
    net.poll();
    let seen = records(&capture);
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].dropped(), seen[0].late), (Some(DropReason::FragmentTimeout), true));
    assert_eq!((seen[0].port, seen[0].direction, seen[0].at), (PortId(0), In, net.now));
}

#[test]
fn what_a_port_does_not_take_has_come_and_not_left() {
    let mut net = Net::new(two_namespaces());
    net.dataplane.detach(PortId(2));
    net.guests[2] = net.dataplane.attach(PortId(2), memory(1)).unwrap();
    let capture = capture(&net);
    for sport in 0..3 {
        let probe = Probe::new(0, Proto::UDP, &format!("10.0.0.2:{}", 4000 + sport), "10.0.0.18:80");
        net.guests[0].send(&probe.frame()).unwrap();
    }
    net.poll();
    let seen = records(&capture);
    let out: Vec<_> = seen.iter().filter(|r| r.direction == Out).map(|r| &r.verdict).collect();
    let full = Verdict::Dropped { reason: DropReason::PortFull, at: Some(PortId(0)) };
    assert_eq!(out, [&Verdict::Sent { from: Some(PortId(0)) }, &full, &full]);
    // And what nobody takes at all.
    net.dataplane.release(PortId(2));
    net.send(0, &Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80").frame());
    assert_eq!(records(&capture).last().unwrap().verdict, full);
}

/// A port that loses the first of what it is given.
struct LosesFirst(MemoryPort);

struct Sender(Box<dyn Transmit>);

impl Port for LosesFirst {
    type Peer = MemoryGuest;

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<MemoryGuest>> {
        let Opened { receivers, senders, peer } = self.0.open(senders, pool)?;
        let sender = |inner| Box::new(Sender(inner)) as Box<dyn Transmit>;
        Ok(Opened { receivers, senders: senders.into_iter().map(sender).collect(), peer })
    }
}

impl Transmit for Sender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let mut others = frames.split_off(1);
        self.0.transmit(&mut others)
    }
}

#[test]
fn what_a_port_loses_is_told_of_the_frame_that_was_lost() {
    let mut net = Net::new(two_namespaces());
    net.dataplane.detach(PortId(2));
    net.guests[2] = net.dataplane.attach(PortId(2), LosesFirst(memory(8))).unwrap();
    let capture = capture(&net);
    for sport in 0..3 {
        let probe = Probe::new(0, Proto::UDP, &format!("10.0.0.2:{}", 4000 + sport), "10.0.0.18:80");
        net.guests[0].send(&probe.frame()).unwrap();
    }
    net.poll();
    let seen = records(&capture);
    let out: Vec<_> = seen.iter().filter(|r| r.direction == Out).map(|r| (&r.verdict, r.data[35])).collect();
    let (lost, sent) = (
        Verdict::Dropped { reason: DropReason::PortFull, at: Some(PortId(0)) },
        Verdict::Sent { from: Some(PortId(0)) },
    );
    // By the last byte of the source port.
    let port = |n: u16| (4000 + n).to_be_bytes()[1];
    assert_eq!(out, [(&lost, port(0)), (&sent, port(1)), (&sent, port(2))]);
}

#[test]
fn copies_of_a_multicast_leave_for_one_that_came() {
    let mut net = Net::with(two_namespaces(), Config { sessions: 64, frames: 256, ..Config::default() });
    let capture = capture(&net);
    let mut all = Probe::new(0, Proto::UDP, "10.0.0.2:5353", "224.0.0.251:5353");
    all.dst_mac = "01:00:5e:00:00:fb".parse().unwrap();
    assert_eq!(net.send(0, &all.frame()).len(), 1);
    let seen = records(&capture);
    assert_eq!(seen[0].verdict, Verdict::Forwarded(ports(&[1])));
    assert_eq!(stages(&seen[0]), ["segment", "deliver"]);
    assert_eq!(seen[1].verdict, Verdict::Sent { from: Some(PortId(0)) });
}

#[test]
fn before_the_first_snapshot_everything_is_dropped_and_told() {
    let (dataplane, mut workers) =
        supernet_dataplane::worker::Dataplane::new(Config { frames: 64, sessions: 16, ..Config::default() });
    let guest = dataplane.attach(PortId(0), memory(4)).unwrap();
    let capture = dataplane.capture(Default::default(), Default::default());
    guest.send(&[0; 60]).unwrap();
    workers[0].poll(Instant::from_secs(1));
    assert_eq!(records(&capture)[0].dropped(), Some(DropReason::NotReady));
}
