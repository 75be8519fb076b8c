//! Which frames are told of, how much of them, and what there is no room for.

use super::{capture, closed, from_outside, records};
use supernet_dataplane::{
    capture::{Capture, Direction, Filter, Limits, Stage, Stages},
    id::PortId,
    verdict::DropReason,
    wire::Proto,
};
use supernet_testkit::{
    net::{Net, two_namespaces},
    packet::Probe,
};

fn filtered(net: &Net, filter: Filter) -> Capture {
    net.dataplane.capture(filter, Limits::default())
}

fn of_port(port: u32) -> Filter {
    Filter { ports: Some(vec![PortId(port)]), ..Filter::default() }
}

/// From pod 0 to pod 2.
fn call(sport: u16) -> Probe {
    Probe::new(0, Proto::UDP, &format!("10.0.0.2:{sport}"), "10.0.0.18:80")
}

#[test]
fn a_port_is_seen_from_both_sides_and_with_what_is_denied_in_front_of_it() {
    let mut net = closed();
    let captures = [0, 1, 2].map(|port| filtered(&net, of_port(port)));
    net.dropped(0, &call(4000).frame(), DropReason::IngressDenied);
    let [at_source, elsewhere, in_front] = captures.each_ref().map(records);
    assert_eq!((at_source.len(), elsewhere.len(), in_front.len()), (1, 0, 1));
    assert_eq!(in_front[0].port, PortId(0), "where it came in");
    net.publish(two_namespaces().build());
    net.one(0, &call(4001));
    let [at_source, elsewhere, at_receiver] = captures.each_ref().map(records);
    assert_eq!(elsewhere.len(), 0);
    let told = |records: &[_]| -> Vec<_> {
        records.iter().map(|r: &supernet_dataplane::capture::Record| (r.port.0, r.direction)).collect()
    };
    assert_eq!(told(&at_source), [(0, Direction::In)]);
    assert_eq!(told(&at_receiver), [(2, Direction::Out)]);
}

#[test]
fn drops_alone_and_stages_alone_and_both() {
    let mut net = closed();
    let drops = filtered(&net, Filter { drops: true, ..Filter::default() });
    let stage = |stage: Stage| Filter { stages: Stages::NONE.with(stage), ..Filter::default() };
    let snat = filtered(&net, stage(Stage::Snat));
    let ingress = filtered(&net, stage(Stage::DfwIngress));
    let snat_drops = filtered(&net, Filter { drops: true, ..stage(Stage::Snat) });
    let at_pod_1 = filtered(&net, Filter { drops: true, ..of_port(1) });
    net.dropped(0, &call(4000).frame(), DropReason::IngressDenied);
    net.one(0, &Probe::new(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:53"));
    let stray = Probe { dst: "192.168.90.1:99".parse().unwrap(), ..from_outside(5000) };
    net.dropped(3, &stray.frame(), DropReason::NoNatSession);
    let count = |capture: &Capture| records(capture).len();
    assert_eq!(count(&drops), 2);
    assert_eq!(count(&snat), 3, "a packet as it came and as it left, and a drop");
    assert_eq!(count(&ingress), 1);
    assert_eq!(count(&snat_drops), 1);
    assert_eq!(count(&at_pod_1), 0);
}

#[test]
fn no_more_is_kept_than_is_wanted_of_each() {
    let mut net = Net::new(two_namespaces());
    let short = filtered(&net, Filter { snaplen: 40, ..Filter::default() });
    let whole = capture(&net);
    let probe = Probe { payload: 1000, ..call(4000) };
    let (_, out, _) = net.one(0, &probe);
    for (short, whole) in records(&short).iter().zip(records(&whole)) {
        assert_eq!((short.len, &short.data[..]), (whole.len, &whole.data[..40]));
    }
    assert_eq!(out.len(), probe.frame().len());
}

#[test]
fn what_there_is_no_room_for_is_missed_and_counted_and_nobody_waits() {
    let mut net = Net::new(two_namespaces());
    let three = net.dataplane.capture(Filter::default(), Limits { records: 3, ..Limits::default() });
    let bytes = net.dataplane.capture(Filter::default(), Limits { records: 100, bytes: 130 });
    let len = call(0).frame().len();
    assert!((44..65).contains(&len), "{len} bytes, of which two fit");
    for sport in 4000..4005 {
        net.one(0, &call(sport));
    }
    for (capture, room) in [(&three, 3), (&bytes, 130 / len)] {
        let counts = capture.counts();
        let sum = |count: fn(&supernet_dataplane::capture::Captured) -> u64| counts.values().map(count).sum();
        let (recorded, missed): (u64, u64) = (sum(|c| c.recorded), sum(|c| c.missed));
        assert_eq!((recorded, missed), (room as u64, 10 - room as u64));
        assert_eq!(records(capture).len(), room);
    }
    net.one(0, &call(4000));
    assert_eq!((records(&three).len(), records(&bytes).len()), (2, 2), "there is room again");
}

#[test]
fn one_that_has_ended_costs_nothing_and_the_others_go_on() {
    let mut net = Net::new(two_namespaces());
    let (one, other) = (capture(&net), capture(&net));
    net.one(0, &call(4000));
    assert_eq!(one.begun(), 1);
    one.stop();
    net.one(0, &call(4000));
    assert_eq!((records(&one).len(), records(&other).len()), (2, 4));
    drop((one, other));
    net.one(0, &call(4000));
    let third = capture(&net);
    assert_eq!(records(&third).len(), 0);
    net.one(0, &call(4000));
    assert_eq!(records(&third).len(), 2);
}

#[test]
fn names_are_those_of_the_frames_time() {
    let mut net = Net::new(two_namespaces());
    let capture = capture(&net);
    let named = |name: &str| {
        let name = name.to_owned();
        two_namespaces().with(move |s| {
            std::sync::Arc::make_mut(&mut s.names).ports.insert(PortId(0), name);
        })
    };
    for name in ["shop/old", "shop/new"] {
        net.publish(named(name).build());
        net.one(0, &call(4000));
    }
    net.publish(two_namespaces().build());
    let names: Vec<_> = records(&capture).iter().map(|r| r.names.ports[&PortId(0)].clone()).collect();
    assert_eq!(names, ["shop/old", "shop/old", "shop/new", "shop/new"]);
}
