//! What counts for whom, and each way that it ends.

use crate::{count, from_outside, from_pod, limit, limited, namespace, pod};
use supernet_dataplane::{
    id::PortId,
    snapshot::Limits,
    state::Config,
    table::classifier::Action,
    time::Duration,
    verdict::DropReason::{self, *},
    wire::{Proto, tcp_flags::*},
};
use supernet_testkit::{
    net::{Net, two_namespaces},
    packet::Probe,
    topology::{Topology, every},
};

/// Time passes until idle sessions are gone.
fn rest(net: &mut Net, time: Duration) {
    net.now = net.now + time;
    for _ in 0..3 {
        net.poll();
        net.now = net.now + Duration::from_secs(2);
    }
    net.poll();
}

#[test]
fn whoever_opens_a_connection_pays_and_from_outside_who_is_called() {
    // Limits that nobody meets: what is counted is the question.
    let mut net = Net::new(limited(&[(0, limit(50, 50, 0))], &[]));
    net.one(0, &from_pod(0, Proto::UDP, 1, "10.0.0.18:80"));
    assert_eq!([pod(&net, 0), pod(&net, 2)], [(1, 0), (0, 0)], "the caller pays");
    net.one(0, &from_pod(0, Proto::TCP, 2, "203.0.113.7:80"));
    net.one(1, &from_pod(1, Proto::TCP, 3, "10.96.0.10:80"));
    assert_eq!([pod(&net, 0), pod(&net, 1), pod(&net, 2)], [(2, 1), (1, 1), (0, 0)]);
    assert_eq!([namespace(&net, 0), namespace(&net, 1)], [(3, 2), (0, 0)]);
    net.one(3, &from_outside(Proto::TCP, 4, "10.0.0.18:80"));
    net.one(0, &from_pod(0, Proto::ICMP, 5, "10.0.0.18:0"));
    assert_eq!([pod(&net, 0), pod(&net, 2)], [(3, 1), (1, 1)], "from outside the called one pays");
    // By a VIP it is the member that pays.
    let (to, ..) = net.one(3, &from_outside(Proto::TCP, 6, "192.168.80.10:80"));
    assert!([(1, (2, 2)), (2, (2, 2))].into_iter().any(|(n, has)| n == to && pod(&net, n) == has));
    assert_eq!(namespace(&net, 0).0 + namespace(&net, 1).0, 6);
}

#[test]
fn what_nodes_open_to_their_own_pods_is_free() {
    // Port 4 is a node: a workload of no namespace.
    let topology = |limits: Limits| {
        let mut node = Topology::new().segment(&["10.0.1.1/28"], 0).pod(&["10.0.1.2"]).pod(&["10.0.1.3"]);
        node = node.namespace(&[]).segment(&["10.0.2.1/28"], 0).pod(&["10.0.2.2"]);
        node.edit(2, |e| e.node.push("10.0.1.2".parse().unwrap())).with(|s| s.limits = limits)
    };
    let mut limits = Limits::default();
    limits.set_port(PortId(2), limit(1, 0, 0));
    let mut net = Net::new(topology(limits));
    for n in 1..9 {
        net.one(0, &Probe::new(0, Proto::TCP, &format!("10.0.1.2:{n}"), "10.0.2.2:80"));
    }
    assert_eq!((net.sessions(), pod(&net, 2)), (8, (0, 0)), "probes of its own node");
    net.one(0, &Probe::new(0, Proto::TCP, "10.0.1.2:9", "10.0.1.3:80"));
    assert_eq!((pod(&net, 0), pod(&net, 1)), ((0, 0), (0, 0)), "nodes among themselves");
    net.one(1, &Probe::new(1, Proto::TCP, "10.0.1.3:1", "10.0.2.2:80"));
    assert_eq!(pod(&net, 2), (1, 1), "another node");
    let again = Probe::new(1, Proto::TCP, "10.0.1.3:2", "10.0.2.2:80");
    net.dropped(1, &again.frame(), PodConnections);
}

#[test]
fn every_limit_has_its_reason_and_the_pods_goes_first() {
    let cases: [(_, _, _, DropReason); 6] = [
        (limit(2, 0, 0), limit(0, 0, 0), Proto::UDP, PodConnections),
        (limit(0, 2, 0), limit(0, 0, 0), Proto::TCP, PodHalfOpen),
        (limit(0, 0, 2), limit(0, 0, 0), Proto::UDP, PodConnectionRate),
        (limit(0, 0, 0), limit(2, 0, 0), Proto::TCP, NamespaceConnections),
        (limit(3, 3, 3), limit(0, 2, 0), Proto::TCP, NamespaceHalfOpen),
        (limit(0, 0, 0), limit(0, 0, 2), Proto::UDP, NamespaceConnectionRate),
    ];
    for (of_pod, of_namespace, proto, reason) in cases {
        let mut net = Net::new(limited(&[(0, of_pod)], &[(0, of_namespace)]));
        let call = |n| from_pod(0, proto, n, "10.0.0.18:80");
        net.one(0, &call(1));
        net.one(0, &call(2));
        for n in 3..6 {
            net.dropped(0, &call(n).frame(), reason);
        }
        assert_eq!((net.sessions(), pod(&net, 0).0, namespace(&net, 0).0), (2, 2, 2), "{reason:?}");
        // Those that live go on, and others have limits of their own.
        net.one(0, &call(1));
        net.one(2, &from_pod(2, proto, 1, "10.0.0.2:80"));
        let (quotas, is_pods) = (&net.dataplane.state().quotas, reason.name().starts_with("Pod"));
        let refused = [quotas.pod(PortId(0)), quotas.namespace(supernet_dataplane::id::NamespaceId(0))];
        assert_eq!(refused.map(|u| u.refused), if is_pods { [3, 0] } else { [0, 3] }, "{reason:?}");
        if let PodConnectionRate | NamespaceConnectionRate = reason {
            net.now = net.now + Duration::from_millis(500);
            net.one(0, &call(7));
            net.dropped(0, &call(8).frame(), reason);
        }
    }
}

#[test]
fn a_handshake_gives_back_what_was_half_open_and_an_end_the_rest() {
    let mut net = Net::new(limited(&[(0, limit(2, 1, 0))], &[(0, limit(2, 1, 0))]));
    let call = |n| from_pod(0, Proto::TCP, n, "10.0.0.18:80");
    let (to, frame, _) = net.one(0, &call(1));
    net.dropped(0, &call(2).frame(), PodHalfOpen);
    // The same SYN again is of the connection there is.
    net.one(0, &call(1));
    net.one(to, &Probe::answer(&frame, SYN | ACK));
    net.one(0, &Probe { flags: ACK, ..call(1) });
    assert_eq!((pod(&net, 0), namespace(&net, 0)), ((1, 0), (1, 0)));
    net.one(0, &call(2));
    net.dropped(0, &call(3).frame(), PodConnections);
    // Over, and used again at once: counted once.
    net.one(to, &Probe::answer(&frame, RST | ACK));
    net.one(0, &Probe { flags: RST | ACK, ..call(1) });
    net.dropped(0, &call(1).frame(), PodHalfOpen);
    assert_eq!((pod(&net, 0), net.sessions()), ((1, 1), 1));
    rest(&mut net, Duration::from_secs(13 * 3600));
    assert_eq!((pod(&net, 0), namespace(&net, 0), net.sessions()), ((0, 0), (0, 0), 0));
}

#[test]
fn a_detached_port_gives_back_what_others_paid_for() {
    let mut net = Net::new(limited(&[(0, limit(10, 10, 0))], &[]));
    for n in 1..5 {
        net.one(0, &from_pod(0, Proto::TCP, n, "10.0.0.18:80"));
        net.one(3, &from_outside(Proto::UDP, n, "10.0.0.18:80"));
    }
    assert_eq!([pod(&net, 0), pod(&net, 2)], [(4, 4), (4, 0)]);
    net.dataplane.detach(PortId(2));
    assert_eq!([pod(&net, 0), pod(&net, 2)], [(0, 0); 2]);
    assert_eq!([namespace(&net, 0), namespace(&net, 1)], [(0, 0); 2]);
}

/// What a connection that is not made has claimed is there for the next: of its pod, of its namespace, of the second.
#[test]
fn what_comes_to_nothing_costs_nothing() {
    // The third has no port of the egress address any more; there are two.
    let config = Config { sessions: 8, frames: 64, nat_ports: 2000..=2001, ..Config::default() };
    let mut net = Net::with(limited(&[(0, limit(9, 9, 4))], &[(0, limit(9, 9, 4))]), config);
    net.one(0, &from_pod(0, Proto::TCP, 1, "203.0.113.7:80"));
    net.one(0, &from_pod(0, Proto::TCP, 2, "203.0.113.7:80"));
    for _ in 0..5 {
        net.dropped(0, &from_pod(0, Proto::TCP, 3, "203.0.113.7:80").frame(), NatPortsExhausted);
    }
    assert_eq!((pod(&net, 0), namespace(&net, 0)), ((2, 2), (2, 2)));
    // Of four a second, two are left; then it is for the rate.
    net.one(0, &from_pod(0, Proto::UDP, 1, "10.0.0.18:80"));
    net.one(0, &from_pod(0, Proto::UDP, 2, "10.0.0.18:80"));
    net.dropped(0, &from_pod(0, Proto::UDP, 3, "10.0.0.18:80").frame(), PodConnectionRate);
    // The table is full.
    let config = Config { sessions: 4, frames: 64, ..Config::default() };
    let mut net = Net::with(limited(&[(0, limit(9, 9, 9))], &[]), config);
    (1..5).for_each(|n| drop(net.one(2, &from_pod(2, Proto::UDP, n, "10.0.0.2:80"))));
    for _ in 0..20 {
        net.dropped(0, &from_pod(0, Proto::UDP, 1, "10.0.0.18:80").frame(), SessionTableFull);
    }
    assert_eq!((pod(&net, 0), namespace(&net, 0), namespace(&net, 1)), ((0, 0), (0, 0), (4, 0)));
    assert_eq!(count(&net, PodConnectionRate), 0);
}

/// One whose binding is gone gives back, as a SYN sent again, by the sweep, and by a reset.
#[test]
fn what_a_snapshot_ends_is_given_back() {
    let without_server = || limited(&[(0, limit(9, 9, 0))], &[]).with(|s| s.servers = Default::default());
    let mut net = Net::new(limited(&[(0, limit(9, 9, 0))], &[]));
    let calls = [(Proto::TCP, 1), (Proto::TCP, 2), (Proto::UDP, 3)];
    net.publish(
        limited(&[(0, limit(9, 9, 0))], &[])
            .server(
                supernet_dataplane::snapshot::ServerKind::Distributed,
                "10.96.0.10:80",
                Proto::UDP,
                &["10.0.0.18:53"],
            )
            .build(),
    );
    for (proto, n) in calls {
        net.one(0, &from_pod(0, proto, n, "10.96.0.10:80"));
    }
    assert_eq!(pod(&net, 0), (3, 2));
    net.publish(without_server().build());
    rest(&mut net, Duration::from_millis(1));
    assert_eq!(pod(&net, 0), (2, 2), "swept");
    net.send(0, &from_pod(0, Proto::TCP, 1, "10.96.0.10:80").frame());
    assert_eq!(pod(&net, 0), (1, 1), "opened again, and refused");
    net.dropped(0, &Probe { flags: ACK, ..from_pod(0, Proto::TCP, 2, "10.96.0.10:80") }.frame(), BindingGone);
    assert_eq!((pod(&net, 0), namespace(&net, 0)), ((0, 0), (0, 0)), "reset");
}

/// A denied session lives, and counts, until its time is up; a pod that is gone leaves nothing for one of its name.
#[test]
fn denied_and_gone_pods_are_counted_until_their_sessions_end() {
    let mut net = Net::new(limited(&[(0, limit(3, 0, 0))], &[]));
    let call = |n| from_pod(0, Proto::UDP, n, "10.0.0.18:80");
    (1..4).for_each(|n| drop(net.one(0, &call(n))));
    let denied = limited(&[(0, limit(3, 0, 0))], &[]).edit(0, |e| e.egress = Some(every(Action::Drop, 1)));
    net.publish(denied.build());
    net.dropped(0, &call(1).frame(), EgressDenied);
    assert_eq!(pod(&net, 0), (3, 0));
    let gone = limited(&[], &[(1, limit(9, 0, 0))]).with(|s| {
        s.ports[0] = None;
        s.endpoints.retain(|_, port| port.0 != 0);
    });
    net.publish(gone.build());
    rest(&mut net, Duration::from_millis(1));
    assert_eq!((pod(&net, 0), namespace(&net, 0), net.sessions()), ((0, 0), (0, 0), 0));
    net.publish(limited(&[(0, limit(1, 0, 0))], &[]).build());
    net.one(0, &call(9));
    net.dropped(0, &call(8).frame(), PodConnections);
}

/// Limits that come while connections live count those; one below what there is keeps them and lets in no more.
#[test]
fn limits_come_change_and_go_while_connections_live() {
    let config = Config { sessions: 256, frames: 64, ..Config::default() };
    let mut net = Net::with(two_namespaces(), config);
    let call = |n| from_pod(0, Proto::TCP, n, "10.0.0.18:80");
    (1..6).for_each(|n| drop(net.one(0, &call(n))));
    net.one(3, &from_outside(Proto::UDP, 1, "10.0.0.18:7"));
    assert_eq!((pod(&net, 0), pod(&net, 2)), ((0, 0), (0, 0)), "nothing is limited");
    let hits = net.counters().hits;
    net.publish(limited(&[(0, limit(3, 0, 0))], &[]).build());
    assert_eq!((pod(&net, 0), namespace(&net, 0), pod(&net, 2)), ((5, 5), (5, 5), (1, 0)), "counted at once");
    net.dropped(0, &call(6).frame(), PodConnections);
    // Those that live are not touched, nor judged again for a limit.
    net.one(3, &from_outside(Proto::UDP, 1, "10.0.0.18:7"));
    assert_eq!((net.sessions(), net.counters().hits), (6, hits + 1));
    net.publish(limited(&[(0, limit(6, 0, 0))], &[]).build());
    net.one(0, &call(6));
    net.dropped(0, &call(7).frame(), PodConnections);
    net.publish(two_namespaces().build());
    (7..20).for_each(|n| drop(net.one(0, &call(n))));
    assert_eq!(net.sessions(), 20);
    net.publish(limited(&[(0, limit(19, 19, 0))], &[]).build());
    assert_eq!(pod(&net, 0), (19, 19), "each once");
    net.dropped(0, &call(20).frame(), PodConnections);
    rest(&mut net, Duration::from_secs(130));
    assert_eq!((pod(&net, 0), namespace(&net, 0), pod(&net, 2)), ((0, 0), (0, 0), (0, 0)));
}

/// What a pod left behind that was gone when limits began counts for nobody, and takes nothing from its namespace.
#[test]
fn what_is_left_of_a_pod_gone_before_limits_counts_for_nobody() {
    let mut net = Net::new(two_namespaces());
    net.one(2, &from_pod(2, Proto::TCP, 1, "10.0.0.2:80"));
    let gone = |topology: Topology| {
        topology.with(|s| {
            s.ports[2] = None;
            s.endpoints.retain(|_, port| port.0 != 2);
        })
    };
    net.publish(gone(two_namespaces()).build());
    net.publish(gone(limited(&[], &[(1, limit(1, 0, 0))])).build());
    assert_eq!((namespace(&net, 1), net.sessions()), ((0, 0), 1));
    net.publish(limited(&[], &[(1, limit(1, 0, 0))]).build());
    net.one(2, &from_pod(2, Proto::TCP, 2, "10.0.0.2:80"));
    rest(&mut net, Duration::from_secs(130));
    assert_eq!((namespace(&net, 1), pod(&net, 2), net.sessions()), ((0, 0), (0, 0), 0));
}
