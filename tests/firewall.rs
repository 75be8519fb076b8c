//! What firewalls do beyond letting pass and dropping: rejections, layers, ICMP types, firewalls that are not
//! enforced.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::sync::Arc;
use supernet_dataplane::{
    id::RuleId,
    snapshot::StagedFirewalls,
    staged::SAMPLES,
    table::{
        classifier::{Action, Clause, Decision, Effect, Peers, Rule, RuleSet, Service, icmp_port},
        firewall::Firewall,
    },
    verdict::DropReason,
    wire::{Icmp, Proto, tcp_flags::*},
};
use supernet_testkit::{
    net::{Net, at, ends, two_namespaces},
    packet::{Probe, sound},
    topology::every,
};

/// A rule for one service, whoever the peer is.
fn rule(id: u32, effect: Effect, service: Service) -> Rule {
    Rule { id: RuleId(id), effect, clauses: vec![Clause { peers: Peers::Any, services: vec![service] }] }
}

fn tcp(port: u16) -> Service {
    Service { proto: Proto::TCP, ports: port..=port }
}

#[test]
fn who_is_rejected_is_told_so_in_the_name_of_whom_it_asked() {
    let rejecting = two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Reject, 7)));
    let mut net = Net::new(rejecting);
    let probe = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80");
    let answers = net.dropped(0, &probe.frame(), DropReason::IngressDenied);
    let [(0, frame)] = &answers[..] else { panic!("{answers:?}") };
    let reset = sound(frame);
    assert_eq!((ends(&reset), reset.tcp_flags), ((at("10.0.0.18:80"), at("10.0.0.2:4000")), RST | ACK));
    let probe = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80");
    let answers = net.dropped(0, &probe.frame(), DropReason::IngressDenied);
    let [(0, frame)] = &answers[..] else { panic!("{answers:?}") };
    let error = sound(frame);
    // Communication administratively prohibited: RFC 1812, 5.2.7.1.
    assert_eq!((error.proto, error.icmp), (Proto::ICMP, Icmp { kind: 3, code: 13 }));
    assert_eq!(error.src, at("10.0.0.18:0").ip());
    assert_eq!(net.counters().rules[&RuleId(7)].denied, 2);
    assert_eq!(net.sessions(), 0);

    let rejecting = two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Reject, 7)));
    let mut net = Net::new(rejecting);
    let probe = Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80");
    let answers = net.dropped(0, &probe.frame(), DropReason::IngressDenied);
    let [(0, frame)] = &answers[..] else { panic!("{answers:?}") };
    // Communication with destination administratively prohibited: RFC 4443, 3.1.
    assert_eq!((sound(frame).proto, sound(frame).icmp), (Proto::ICMPV6, Icmp { kind: 1, code: 1 }));

    let mut net = Net::new(two_namespaces().edit(0, |e| e.egress = Some(every(Action::Reject, 8))));
    let probe = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.10:80");
    let answers = net.dropped(0, &probe.frame(), DropReason::EgressDenied);
    let [(0, frame)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(ends(&sound(frame)).0, at("10.96.0.10:80"), "not the member, of which it knows nothing");
}

#[test]
fn layers_are_asked_in_order_and_a_pass_leads_to_the_next() {
    let layer = |rules: Vec<Rule>| Arc::new(RuleSet::new(rules));
    let (allow, drop) = (Effect::Decide(Action::Allow), Effect::Decide(Action::Drop));
    let first = layer(vec![rule(1, Effect::Pass, tcp(80)), rule(2, drop, tcp(80)), rule(3, drop, tcp(81))]);
    let second = layer(vec![rule(4, allow, tcp(80)), rule(5, allow, tcp(81)), rule(6, allow, tcp(82))]);
    let default = Decision { rule: RuleId(9), action: Action::Drop };
    let firewall = Arc::new(Firewall::new([first, second], default));
    let mut net = Net::new(two_namespaces().edit(2, |e| e.ingress = Some(firewall.clone())));
    for (port, rule, passes) in [(80, 4, true), (81, 3, false), (82, 6, true), (83, 9, false)] {
        let probe = Probe::new(0, Proto::TCP, "10.0.0.2:4000", &format!("10.0.0.18:{port}"));
        if passes {
            net.one(0, &probe);
        } else {
            net.dropped(0, &probe.frame(), DropReason::IngressDenied);
            assert_eq!(net.counters().rules[&RuleId(rule)].denied, 1, "{port}");
        }
    }
    let traffic = net.counters().rules;
    assert_eq!((traffic[&RuleId(4)].packets, traffic[&RuleId(6)].packets), (1, 1));
}

#[test]
fn icmp_is_told_apart_by_type() {
    let drop = Effect::Decide(Action::Drop);
    let allow = Decision { rule: RuleId(9), action: Action::Allow };
    let with = |proto, from, to| {
        let service = Service { proto, ports: icmp_port(from, 0)..=icmp_port(to, 255) };
        let firewall = Arc::new(Firewall::of(vec![rule(1, drop, service)], allow));
        Net::new(two_namespaces().edit(2, |e| e.ingress = Some(firewall)))
    };
    for (proto, request, from, to) in [
        (Proto::ICMP, 8, "10.0.0.2:7", "10.0.0.18:0"),
        (Proto::ICMPV6, 128, "[fd00:0:0:1::2]:7", "[fd00:0:0:2::2]:0"),
    ] {
        let echo = Probe::new(0, proto, from, to);
        let mut closed = with(proto, request, request);
        closed.dropped(0, &echo.frame(), DropReason::IngressDenied);
        // Neither the types beside it, nor the other family's request.
        let other = if proto == Proto::ICMP { 128 } else { 8 };
        for mut open in [with(proto, request + 1, request + 7), with(proto, other, other)] {
            let (port, frame, _) = open.one(0, &echo);
            assert_eq!(port, 2);
            open.one(2, &Probe::answer(&frame, 0));
        }
    }
}

#[test]
fn what_is_staged_is_counted_and_changes_nothing() {
    let staged = |egress, ingress| Some(Arc::new(StagedFirewalls { egress, ingress }));
    let open = every(Action::Allow, 1);
    let topology = two_namespaces()
        .edit(0, |e| {
            e.egress = Some(open.clone());
            e.ingress = Some(open.clone());
        })
        .edit(2, |e| {
            let allow = Decision { rule: RuleId(1), action: Action::Allow };
            let closed = rule(2, Effect::Decide(Action::Drop), tcp(81));
            e.ingress = Some(Arc::new(Firewall::of(vec![closed], allow)));
            e.egress = Some(open.clone());
            // It would have closed port 80 and opened port 81.
            let other = rule(3, Effect::Decide(Action::Reject), tcp(80));
            let allow = Decision { rule: RuleId(4), action: Action::Allow };
            e.staged = staged(open.clone(), Arc::new(Firewall::of(vec![other], allow)));
        });
    let mut net = Net::new(topology);
    let probe = |sport: u16, port: u16| {
        Probe::new(0, Proto::TCP, &format!("10.0.0.2:{sport}"), &format!("10.0.0.18:{port}"))
    };
    for sport in 0..SAMPLES as u16 + 3 {
        net.one(0, &probe(4000 + sport, 80));
    }
    // Of a connection that lives, nothing is asked again.
    net.one(0, &probe(4000, 80));
    net.dropped(0, &probe(5000, 81).frame(), DropReason::IngressDenied);
    net.one(0, &probe(6000, 82));
    let counts = net.dataplane.state().staged.counts();
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [RuleId(3), RuleId(4)]);
    let (deny, allow) = (&counts[&RuleId(3)], &counts[&RuleId(4)]);
    assert_eq!((deny.would_deny, deny.would_allow), (SAMPLES as u64 + 3, 0));
    let kept: Vec<u16> = deny.samples.iter().map(|s| s.tuple.sport).collect();
    assert_eq!(kept, (4003..4003 + SAMPLES as u16).collect::<Vec<_>>(), "the latest");
    assert_eq!((allow.would_deny, allow.would_allow), (0, 1));
    assert!(!allow.samples[0].would_deny && allow.samples[0].tuple.dport == 81);
    assert_eq!(net.sessions(), SAMPLES + 4);
}

#[test]
fn a_connection_that_a_rule_decides_at_both_ends_is_one() {
    // As a rule of both directions (IN_OUT) is: one name, in the firewall of either pod.
    let rule = every(Action::Allow, 5);
    let topology = two_namespaces()
        .edit(0, |e| e.egress = Some(rule.clone()))
        .edit(2, |e| e.ingress = Some(rule.clone()));
    let mut net = Net::new(topology);
    net.one(0, &Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80"));
    let traffic = net.counters().rules[&RuleId(5)];
    let sessions = net.dataplane.sessions_by_rule()[&RuleId(5)];
    assert_eq!((traffic.connections, traffic.packets, sessions), (1, 1, 1));
}

#[test]
fn a_datagram_in_fragments_is_one_connection_that_staged_policies_would_allow() {
    let open = every(Action::Allow, 1);
    let topology = two_namespaces().edit(2, |e| {
        e.ingress = Some(every(Action::Drop, 2));
        e.egress = Some(open.clone());
        e.staged = Some(Arc::new(StagedFirewalls { egress: open.clone(), ingress: every(Action::Allow, 3) }));
    });
    let mut net = Net::new(topology);
    let probe = Probe { payload: 400, ..Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80") };
    for fragment in supernet_testkit::fragments::cut(&probe.frame(), &[48, 96, 144], 7) {
        net.send(0, &fragment);
    }
    let counts = net.dataplane.state().staged.counts();
    assert_eq!(counts[&RuleId(3)].would_allow, 1);
}

/// The stages are walked again for what is staged, and must come to the same member.
#[test]
fn staged_firewalls_are_asked_about_the_member_that_was_picked() {
    let open = every(Action::Allow, 1);
    let staged = StagedFirewalls { egress: open.clone(), ingress: every(Action::Drop, 3) };
    let mut net = Net::new(two_namespaces().edit(2, |e| {
        (e.egress, e.ingress) = (Some(open.clone()), Some(open.clone()));
        e.staged = Some(Arc::new(staged));
    }));
    let mut reached = [0; 2];
    for sport in 4000..4064 {
        let (port, ..) =
            net.one(0, &Probe::new(0, Proto::TCP, &format!("10.0.0.2:{sport}"), "192.168.80.10:80"));
        reached[port as usize - 1] += 1;
    }
    assert!(reached.iter().all(|count| *count > 10), "{reached:?}");
    let counts = net.dataplane.state().staged.counts();
    assert_eq!(counts[&RuleId(3)].would_deny, reached[1]);
}
