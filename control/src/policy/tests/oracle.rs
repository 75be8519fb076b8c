//! The slow oracle: the API's words, asked of every policy for every probe.

use crate::{
    fixture::{Cluster, endpoint},
    model::{
        AddressSet, ContainerPort, Directions, Ends, IngressPosture, IpFamily, Labels, Model, Name, ObjectId,
        ObjectKind, Operator, Peer, Pod, PolicyPort, PolicyService, PortMatch, Protocol, Requirement, Rule,
        Selector, Tier, TieredPolicy, TieredRule, Verdict,
    },
};
use proptest::prelude::*;
use std::net::IpAddr;
use supernet_dataplane::{table::classifier::Action, wire::Proto};

/// One end of a connection.
struct End<'a> {
    /// The pods that have the address: one, or those that use a node's network.
    pods: Vec<&'a Pod>,
    node: Option<String>,
    address: IpAddr,
}

impl End<'_> {
    /// What selectors can see.
    fn selectable(&self) -> Option<&Pod> {
        self.pods.iter().find(|pod| !pod.host_network).copied()
    }
}

fn peer_matches(model: &Model, own: &str, peer: &Peer, other: &End<'_>) -> bool {
    let addr = other.address;
    match peer {
        Peer::Block { cidr, except } => cidr.contains(&addr) && !except.iter().any(|e| e.contains(&addr)),
        Peer::Pods { namespaces, pods } => other.selectable().is_some_and(|pod| {
            let namespace = &model.namespaces[&pod.name.namespace];
            let there = match namespaces {
                None => namespace.name == own,
                Some(selector) => selector.matches(&namespace.labels),
            };
            there && pods.as_ref().is_none_or(|s| s.matches(&pod.labels))
        }),
        Peer::Nodes(selector) => {
            other.node.as_ref().is_some_and(|node| selector.matches(&model.nodes[node].labels))
        }
        Peer::Domains(_) => false,
        Peer::Set(name) => {
            model.address_sets.get(name).is_some_and(|set| set.ranges.iter().any(|r| r.contains(&addr)))
        }
    }
}

fn port_matches(port: &PolicyPort, destination: &End<'_>, probe: Probe) -> bool {
    let Probe::Ports(protocol, number) = probe else { return false };
    port.protocol == protocol
        && match &port.port {
            PortMatch::All => true,
            PortMatch::Numbers { from, to } => (*from..=*to).contains(&number),
            PortMatch::Named(name) => destination.pods.iter().any(|pod| {
                pod.ports.iter().any(|p| p.name == *name && p.protocol == protocol && p.port == number)
            }),
        }
}

fn service_matches(service: &PolicyService, destination: &End<'_>, probe: Probe) -> bool {
    match (service, probe) {
        (PolicyService::Ports(port), _) => port_matches(port, destination, probe),
        (PolicyService::Icmp { v6, kind, code }, Probe::Icmp { v6: is_v6, kind: k, code: c }) => {
            *v6 == is_v6 && kind.is_none_or(|kind| kind == k) && code.is_none_or(|code| code == c)
        }
        (PolicyService::Icmp { .. }, Probe::Ports(..)) => false,
    }
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    Ports(Protocol, u16),
    Icmp { v6: bool, kind: u8, code: u8 },
}

impl Probe {
    fn service(self) -> (Proto, u16) {
        match self {
            Self::Ports(protocol, port) => (protocol.into(), port),
            Self::Icmp { v6, kind, code } => {
                (if v6 { Proto::ICMPV6 } else { Proto::ICMP }, u16::from(kind) << 8 | u16::from(code))
            }
        }
    }
}

/// What the API's words say becomes of a connection at one side, and the tiers' rule that says it.
fn oracle(
    model: &Model,
    me: &End<'_>,
    other: &End<'_>,
    ingress: bool,
    probe: Probe,
) -> (Action, Option<String>) {
    let Some(pod) = me.selectable() else { return (Action::Allow, None) };
    if let Some(decided) = tiers(model, me, other, ingress, probe, true) {
        return decided;
    }
    let destination = if ingress { me } else { other };
    let mut isolated = false;
    for policy in model.policies.values() {
        let rules = if ingress { &policy.ingress } else { &policy.egress };
        let Some(rules) = rules else { continue };
        if policy.name.namespace != pod.name.namespace || !policy.pods.matches(&pod.labels) {
            continue;
        }
        isolated = true;
        let allowed = rules.iter().any(|rule| {
            let own = &policy.name.namespace;
            (rule.peers.is_empty() || rule.peers.iter().any(|p| peer_matches(model, own, p, other)))
                && (rule.ports.is_empty() || rule.ports.iter().any(|p| port_matches(p, destination, probe)))
        });
        if allowed {
            return (Action::Allow, None);
        }
    }
    if isolated {
        return (Action::Drop, None);
    }
    tiers(model, me, other, ingress, probe, false).unwrap_or((Action::Allow, None))
}

/// What the rules of administrators say, those before or those after NetworkPolicies.
fn tiers(
    model: &Model,
    me: &End<'_>,
    other: &End<'_>,
    ingress: bool,
    probe: Probe,
    before: bool,
) -> Option<(Action, Option<String>)> {
    let mut policies: Vec<&TieredPolicy> = model.tiered_policies.values().collect();
    policies.sort_by_key(|p| (p.tier, p.priority, p.id.clone()));
    let (source, destination) = if ingress { (other, me) } else { (me, other) };
    let any = |peers: &[Peer], end: &End<'_>| peers.iter().any(|p| peer_matches(model, "", p, end));
    for policy in policies.into_iter().filter(|p| p.tier.is_before_network_policies() == before) {
        for rule in &policy.rules {
            let ends =
                |ends: &Ends, end: &End<'_>| ends.peers.is_empty() || any(&ends.peers, end) != ends.excluded;
            let to = rule.applied_to.as_ref().unwrap_or(&policy.applied_to);
            let has = if ingress { rule.directions.has_ingress() } else { rule.directions.has_egress() };
            let matches = has
                && (to.is_empty() || any(to, me))
                && ends(&rule.sources, source)
                && ends(&rule.destinations, destination)
                && (rule.services.is_empty()
                    || rule.services.iter().any(|s| service_matches(s, destination, probe)));
            if !matches {
                continue;
            }
            let name = Some(format!("{} {} {}", policy.tier, policy.id, rule.name));
            return match rule.verdict {
                Verdict::Allow => Some((Action::Allow, name)),
                Verdict::Drop => Some((Action::Drop, name)),
                Verdict::Reject => Some((Action::Reject, name)),
                Verdict::Pass => None,
            };
        }
    }
    None
}

fn some_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[ab]", "[xy]?", 0..3)
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || prop::collection::vec("[xy]?", 1..3);
    let operator = prop_oneof![
        values().prop_map(Operator::In),
        values().prop_map(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
    ];
    let requirement = ("[ab]", operator).prop_map(|(key, operator)| Requirement { key, operator });
    prop::collection::vec(requirement, 0..3).prop_map(|requirements| Selector { requirements })
}

/// Ranges around the addresses that pods, nodes and the probes' outside have.
fn range() -> impl Strategy<Value = ipnet::IpNet> {
    let v4 = (
        prop::sample::select(vec![[10u8, 244, 0, 2], [10, 244, 1, 3], [172, 26, 0, 2], [203, 0, 113, 9]]),
        0u8..=32,
    )
        .prop_map(|(a, len)| ipnet::IpNet::new(IpAddr::from(a), len).unwrap());
    let v6 = (prop::sample::select(vec!["fd00::2", "fd00:0:0:1::3", "2001:db8::9"]), 0u8..=128)
        .prop_map(|(a, len)| ipnet::IpNet::new(a.parse().unwrap(), len).unwrap());
    prop_oneof![3 => v4, 2 => v6]
}

fn block() -> impl Strategy<Value = Peer> {
    (range(), prop::collection::vec(range(), 0..3)).prop_map(|(cidr, except)| Peer::Block { cidr, except })
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        block(),
        (prop::option::of(selector()), prop::option::of(selector()))
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
    ]
}

/// Pods of any namespaces.
fn pods() -> impl Strategy<Value = Peer> {
    (selector(), prop::option::of(selector()))
        .prop_map(|(namespaces, pods)| Peer::Pods { namespaces: Some(namespaces), pods })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![2 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn policy_port() -> impl Strategy<Value = PolicyPort> {
    let port = prop_oneof![
        Just(PortMatch::All),
        (78u16..84, 0u16..4).prop_map(|(from, more)| PortMatch::Numbers { from, to: from + more }),
        "[pq]".prop_map(PortMatch::Named),
    ];
    (protocol(), port).prop_map(|(protocol, port)| PolicyPort { protocol, port })
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(policy_port(), 0..3))
        .prop_map(|(peers, ports)| Rule { peers, ports });
    prop::option::weighted(0.7, prop::collection::vec(rule, 0..3))
}

fn ends() -> impl Strategy<Value = Ends> {
    let peer = prop_oneof![
        2 => block(),
        2 => pods(),
        1 => selector().prop_map(Peer::Nodes),
        1 => "[st]".prop_map(Peer::Set),
    ];
    (prop::collection::vec(peer, 0..3), prop::bool::weighted(0.3)).prop_map(|(peers, excluded)| {
        let excluded = excluded && !peers.is_empty();
        Ends { peers, excluded }
    })
}

fn policy_service() -> impl Strategy<Value = PolicyService> {
    let icmp =
        (any::<bool>(), prop::option::of(7u8..9), prop::option::of(0u8..2)).prop_map(|(v6, kind, code)| {
            PolicyService::Icmp {
                v6,
                kind: kind.map(|k| if v6 { k + 120 } else { k }),
                code: code.filter(|_| kind.is_some()),
            }
        });
    prop_oneof![4 => policy_port().prop_map(PolicyService::Ports), 1 => icmp]
}

fn tiered_policy() -> impl Strategy<Value = TieredPolicy> {
    let verdict = prop::sample::select(vec![Verdict::Allow, Verdict::Drop, Verdict::Reject, Verdict::Pass]);
    let directions = prop::sample::select(vec![Directions::In, Directions::Out, Directions::InOut]);
    let services = prop::collection::vec(policy_service(), 0..3);
    let own = prop::option::weighted(0.2, prop::collection::vec(pods(), 1..3));
    let rule = (verdict, directions, ends(), ends(), services, own).prop_map(
        |(verdict, directions, sources, destinations, services, applied_to)| TieredRule {
            name: String::new(),
            verdict,
            directions,
            sources,
            destinations,
            services,
            applied_to,
            log_label: None,
        },
    );
    let tier = prop::sample::select(vec![
        Tier::Emergency,
        Tier::Infrastructure,
        Tier::Environment,
        Tier::Admin,
        Tier::Application,
        Tier::Baseline,
    ]);
    let kind = prop::sample::select(ObjectKind::TIERED.to_vec());
    let applied_to = prop::collection::vec(pods(), 0..3);
    let rules = prop::collection::vec(rule, 0..5);
    let staged = prop::bool::weighted(0.2);
    (kind, "[mn]", tier, 0u32..3, applied_to, rules, staged).prop_map(
        |(kind, name, tier, priority, applied_to, mut rules, staged)| {
            for (n, rule) in rules.iter_mut().enumerate() {
                rule.name = format!("rules[{n}]");
            }
            let id = ObjectId { kind, name: Name::new("", name) };
            TieredPolicy { id, tier, priority, applied_to, rules, staged, at: Default::default() }
        },
    )
}

/// A random cluster with policies of every kind.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let port = ("[pq]?", protocol(), 79u16..83).prop_map(|(name, protocol, port)| ContainerPort {
        name,
        protocol,
        port,
    });
    let pod = (0..3usize, some_labels(), prop::collection::vec(port, 0..3), prop::bool::weighted(0.15));
    let policy = (0..3usize, selector(), rules(), rules(), prop::bool::weighted(0.2));
    (
        prop::collection::vec(some_labels(), 3),
        prop::collection::vec(pod, 1..6),
        prop::collection::vec(policy, 0..4),
        prop::collection::vec(tiered_policy(), 0..4),
        prop::collection::vec(prop::collection::vec(range(), 0..3), 2),
        prop::collection::vec(some_labels(), 3),
    )
        .prop_map(|(namespaces, pods, policies, tiered, sets, nodes)| {
            let mut c = Cluster::default();
            c.model.supervisor.ingress_posture = IngressPosture::Allow;
            const NAMES: [&str; 3] = ["x", "y", "z"];
            for (n, labels) in namespaces.into_iter().enumerate() {
                let mut namespace = crate::model::Namespace::named(NAMES[n], Default::default());
                namespace.labels.extend(labels);
                c.model.insert(namespace.into());
            }
            for (n, labels) in (1..).zip(nodes) {
                let (name, addresses, at) = (format!("node-{n}"), Vec::new(), Default::default());
                c.model.insert(crate::model::Node { name, labels, addresses, at }.into());
            }
            let mut nodes = 1..=3;
            for (n, (ns, labels, ports, host)) in pods.into_iter().enumerate() {
                let mut pod = Pod::new(Name::new(NAMES[ns], format!("p{n}")));
                pod.labels = labels;
                pod.ports = ports;
                if let Some(node) = nodes.next().filter(|_| host) {
                    pod.host_network = true;
                    pod.node = Some(format!("node-{node}").into());
                }
                c.model.insert(pod.into());
            }
            for (name, ranges) in ["s", "t"].into_iter().zip(sets) {
                let set = AddressSet { name: name.to_owned(), ranges, at: Default::default() };
                c.model.insert(set.into());
            }
            tiered.into_iter().for_each(|policy| c.model.insert(policy.into()));
            for (n, (ns, pods, ingress, egress, staged)) in policies.into_iter().enumerate() {
                let name = Name::new(NAMES[ns], format!("np{n}"));
                let at = Default::default();
                c.model
                    .insert(crate::model::NetworkPolicy { name, pods, ingress, egress, staged, at }.into());
            }
            c
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_asking_every_policy(c in cluster()) {
        let snapshot = c.compile().unwrap();
        let mut enforced = c.model.clone();
        enforced.policies.retain(|_, policy| !policy.staged);
        enforced.tiered_policies.retain(|_, policy| !policy.staged);
        let addressing = c.addressing();
        for family in [IpFamily::V4, IpFamily::V6] {
            let of_family = |addresses: &[IpAddr]| *addresses.iter().find(|a| IpFamily::of(**a) == family).unwrap();
            let pods = c.model.pods.values().filter(|pod| !pod.host_network).map(|pod| End {
                pods: vec![pod],
                node: None,
                address: of_family(&addressing.pods[&pod.name].addresses),
            });
            let nodes = addressing.nodes.iter().map(|(node, addresses)| End {
                pods: c.model.pods.values().filter(|p| p.node.as_ref().is_some_and(|n| n.value == *node)).collect(),
                node: Some(node.clone()),
                address: of_family(addresses),
            });
            let elsewhere: [&str; 3] = match family {
                IpFamily::V4 => ["203.0.113.9", "203.0.113.200", "10.244.0.99"],
                IpFamily::V6 => ["2001:db8::9", "2001:db8::ff00", "fd00::99"],
            };
            let elsewhere =
                elsewhere.iter().map(|a| End { pods: Vec::new(), node: None, address: a.parse().unwrap() });
            let ends: Vec<End<'_>> = pods.chain(nodes).chain(elsewhere).collect();
            let ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                .into_iter()
                .flat_map(|protocol| (77..88).map(move |port| Probe::Ports(protocol, port)));
            let v6 = family == IpFamily::V6;
            let first = if v6 { 126 } else { 6 };
            let icmp = (first..first + 4).flat_map(|kind| (0..3).map(move |code| Probe::Icmp { v6, kind, code }));
            let probes: Vec<Probe> = ports.chain(icmp).collect();
            for from in &ends {
                for to in &ends {
                    for &probe in &probes {
                        let (proto, port) = probe.service();
                        for (me, other, is_ingress) in [(from, to, false), (to, from, true)] {
                            let side = endpoint(&snapshot, me.address);
                            let firewall = side.and_then(|e| if is_ingress { e.ingress.as_ref() } else { e.egress.as_ref() });
                            let staged = side.and_then(|e| e.staged.as_ref());
                            let staged = staged.map(|s| if is_ingress { &s.ingress } else { &s.egress }).or(firewall);
                            for (firewall, model) in [(firewall, &enforced), (staged, &c.model)] {
                                let got = firewall.map(|f| f.decide(snapshot.identities.of(other.address), proto, port));
                                let (action, rule) = oracle(model, me, other, is_ingress, probe);
                                let place = format!("ingress {is_ingress}, {} -> {} {probe:?}", from.address, to.address);
                                prop_assert_eq!(got.map_or(Action::Allow, |d| d.action), action, "{}", place);
                                if let (Some(got), Some(rule)) = (got, rule) {
                                    let name = &snapshot.names.rules[&got.rule];
                                    prop_assert_eq!(format!("{} {name}", name.tier), rule, "{}", place);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
