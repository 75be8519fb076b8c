//! One tenant floods; another's new connections all get through.

use crate::{count, from_outside, from_pod, limit, limited, namespace};
use supernet_dataplane::{
    flow::HalfOpenLimits,
    state::Config,
    time::Duration,
    verdict::DropReason,
    wire::{Proto, tcp_flags::*},
};
use supernet_testkit::{
    net::{Net, two_namespaces},
    packet::Probe,
    topology::Topology,
};

const SESSIONS: usize = 2000;

fn net(topology: Topology) -> Net {
    Net::with(topology, Config { sessions: SESSIONS, frames: 256, ..Config::default() })
}

/// Pod 0 of namespace 0, and who from outside calls it, open all that they can; the other tenant, pod 2, opens a
/// connection now and then, from the inside and to the outside. How many of those were refused.
fn refused_others(net: &mut Net) -> usize {
    let mut refused = 0;
    for n in 0..3 * SESSIONS as u32 {
        let (sport, dport) = (1024 + n % 60_000, 1 + n / 8 % 60_000);
        net.send(0, &from_pod(0, Proto::UDP, sport, &format!("203.0.113.7:{dport}")).frame());
        net.send(0, &from_pod(0, Proto::TCP, sport, &format!("10.0.0.3:{dport}")).frame());
        net.send(3, &from_outside(Proto::TCP, sport, "10.0.0.2:80").frame());
        net.send(3, &from_outside(Proto::UDP, sport, "10.0.0.2:80").frame());
        net.now = net.now + Duration::from_micros(100);
        if n % 20 == 0 {
            let call = from_pod(2, Proto::TCP, 1024 + n / 20, "203.0.113.7:443");
            let out = net.send(2, &call.frame());
            let [(to, frame)] = &out[..] else {
                refused += 1;
                continue;
            };
            let answer = Probe::answer(frame, SYN | ACK);
            let done = net.send(*to, &answer.frame()).len() == 1
                && net.send(2, &Probe { flags: ACK, ..call }.frame()).len() == 1;
            let udp = from_pod(2, Proto::UDP, 1024 + n / 20, "10.0.0.3:53");
            let inside = net.send(2, &udp.frame()).len() == 1;
            refused += usize::from(!done || !inside);
        }
    }
    refused
}

#[test]
fn without_limits_one_tenant_takes_the_table_from_all() {
    let mut net = net(two_namespaces());
    assert!(refused_others(&mut net) > 50);
    assert!(count(&net, DropReason::SessionTableFull) > 0);
}

#[test]
fn a_limit_of_the_namespace_keeps_its_flood_to_itself() {
    let mut net = net(limited(&[], &[(0, limit(SESSIONS as u32 / 2, SESSIONS as u32 / 8, 0))]));
    assert_eq!(refused_others(&mut net), 0);
    assert_eq!(count(&net, DropReason::SessionTableFull), 0);
    assert!(count(&net, DropReason::NamespaceConnections) > 1000);
    assert!(count(&net, DropReason::NamespaceHalfOpen) > 100);
    assert_eq!(namespace(&net, 0), (SESSIONS as u32 / 2, SESSIONS as u32 / 8));
    // The limit for all, a quarter of the table, was not reached, so nobody's were ended.
    assert_eq!(net.counters().half_open_ended, 0);
}

#[test]
fn a_limit_of_each_pod_does_as_well() {
    let of_pod = limit(400, 100, 0);
    let mut net = net(limited(&[(0, of_pod), (1, of_pod), (2, limit(700, 100, 0))], &[]));
    assert_eq!(refused_others(&mut net), 0);
    assert_eq!(count(&net, DropReason::SessionTableFull), 0);
    assert!(count(&net, DropReason::PodConnections) > 1000);
    assert!(count(&net, DropReason::PodHalfOpen) > 100);
}

/// A flood against a tenant from another is paid for by who makes it: the one that is called has its quota whole.
#[test]
fn a_flood_from_another_tenant_uses_none_of_who_is_called() {
    let mut net = net(limited(&[], &[(0, limit(300, 0, 0)), (1, limit(300, 0, 0))]));
    for n in 0..2000 {
        net.send(0, &from_pod(0, Proto::UDP, 1024 + n, "10.0.0.18:53").frame());
    }
    assert_eq!((namespace(&net, 0).0, namespace(&net, 1).0), (300, 0));
    for n in 0..300 {
        net.one(2, &from_pod(2, Proto::UDP, 1024 + n, "203.0.113.7:53"));
        assert_eq!(count(&net, DropReason::NamespaceConnections), 1700);
    }
    net.dropped(3, &from_outside(Proto::UDP, 1, "10.0.0.18:53").frame(), DropReason::NamespaceConnections);
}

/// New connections a second, over ten seconds of a flood: a second's worth at once, then the rate.
#[test]
fn a_rate_holds_over_time() {
    let half_open = HalfOpenLimits { per_port: 0, total: Some(0) };
    let config = Config { sessions: 5000, frames: 64, half_open, ..Config::default() };
    let mut net = Net::with(limited(&[(0, limit(0, 0, 100))], &[]), config);
    for n in 0..10_000 {
        net.send(0, &from_pod(0, Proto::TCP, 1024 + n, "10.0.0.18:80").frame());
        net.now = net.now + Duration::from_millis(1);
    }
    let passed = 10_000 - count(&net, DropReason::PodConnectionRate);
    assert_eq!((passed, net.sessions()), (100 + 999, 100 + 999));
}
