//! Policies of administrators: what is read of them, and what is said of those that are wrong.

mod errors;

use self::errors::say;
use super::{good, warnings};
use crate::model::{
    Directions, Ends, Name, ObjectId, ObjectKind, Operator, Peer, PolicyPort, PolicyService, PortMatch,
    Protocol, Selector, Tier, TieredPolicy, TieredRule, Verdict,
};

const ADMIN: &str =
    "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: p}\nspec:\n";
const BASELINE: &str = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\nspec:\n";
const CLUSTER: &str =
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec:\n";
const SECURITY: &str =
    "apiVersion: supernet.dev/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n";
const SET: &str = "apiVersion: supernet.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: s}\nspec:\n";

/// The only policy of a text.
fn only(text: &str) -> TieredPolicy {
    let read = good(text);
    let mut policies = read.model.tiered_policies.into_values();
    let policy = policies.next().expect("a policy");
    assert!(policies.next().is_none());
    policy
}

fn id(kind: ObjectKind, name: &str) -> ObjectId {
    ObjectId { kind, name: Name::new("", name) }
}

fn all_in(pairs: &[(&str, &str)]) -> Peer {
    Peer::Pods { namespaces: Some(Selector::labels(pairs.iter().copied())), pods: None }
}

fn pods(namespaces: &[(&str, &str)], pods: &[(&str, &str)]) -> Peer {
    Peer::Pods {
        namespaces: Some(Selector::labels(namespaces.iter().copied())),
        pods: Some(Selector::labels(pods.iter().copied())),
    }
}

fn block(cidr: &str) -> Peer {
    Peer::Block { cidr: cidr.parse().unwrap(), except: Vec::new() }
}

fn ports(protocol: Protocol, port: PortMatch) -> PolicyService {
    PolicyService::Ports(PolicyPort { protocol, port })
}

fn named(name: &str) -> Vec<PolicyService> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|p| ports(p, PortMatch::Named(name.to_owned()))).into()
}

/// A rule of the kinds of Kubernetes.
fn rule(name: &str, verdict: Verdict, directions: Directions, peers: Vec<Peer>) -> TieredRule {
    let ends = Ends::any_of(peers);
    let (sources, destinations) =
        if directions == Directions::In { (ends, Ends::ALL) } else { (Ends::ALL, ends) };
    let (services, applied_to, log_label) = (Vec::new(), None, None);
    TieredRule {
        name: name.into(),
        verdict,
        directions,
        sources,
        destinations,
        services,
        applied_to,
        log_label,
    }
}

#[test]
fn a_cluster_network_policy_with_every_field() {
    let policy = only(&format!(
        "{CLUSTER}
  tier: Admin
  priority: 1000
  subject: {{namespaces: {{matchLabels: {{team: a}}}}}}
  ingress:
  - {{name: monitoring, action: Accept, from: [{{namespaces: {{}}}}]}}
  - action: Deny
    from: [{{pods: {{namespaceSelector: {{matchLabels: {{a: b}}}}, podSelector: {{matchLabels: {{c: d}}}}}}}}]
    protocols:
    - tcp: {{destinationPort: {{number: 80}}}}
    - udp: {{destinationPort: {{range: {{start: 1, end: 65535}}}}}}
    - sctp: {{}}
    - destinationNamedPort: http
  egress:
  - action: Pass
    to: [{{networks: [10.1.2.3/8, \"fd00::/8\"]}}, {{nodes: {{matchExpressions: [{{key: k, operator: Exists}}]}}}}]
"
    ));
    assert_eq!(policy.id, id(ObjectKind::ClusterNetworkPolicy, "p"));
    assert_eq!((policy.tier, policy.priority, policy.staged), (Tier::Admin, 1000, false));
    assert_eq!(policy.applied_to, [all_in(&[("team", "a")])]);
    assert_eq!(policy.at.to_string(), "net.yaml:1:1");
    let mut second =
        rule("ingress[1]", Verdict::Drop, Directions::In, vec![pods(&[("a", "b")], &[("c", "d")])]);
    second.services = vec![
        ports(Protocol::Tcp, PortMatch::number(80)),
        ports(Protocol::Udp, PortMatch::Numbers { from: 1, to: 65535 }),
        ports(Protocol::Sctp, PortMatch::All),
    ];
    second.services.extend(named("http"));
    let nodes = Selector {
        requirements: vec![crate::model::Requirement { key: "k".into(), operator: Operator::Exists }],
    };
    let to = vec![block("10.0.0.0/8"), block("fd00::/8"), Peer::Nodes(nodes)];
    assert_eq!(
        policy.rules,
        [
            rule("ingress[0] monitoring", Verdict::Allow, Directions::In, vec![all_in(&[])]),
            second,
            rule("egress[0]", Verdict::Pass, Directions::Out, to),
        ]
    );
    let baseline =
        only(&format!("{CLUSTER}  {{tier: Baseline, priority: 0, subject: {{namespaces: {{}}}}}}\n"));
    assert_eq!((baseline.tier, baseline.priority, &baseline.rules[..]), (Tier::Baseline, 0, &[][..]));
}

#[test]
fn admin_and_baseline_admin_network_policies() {
    let policy = only(&format!(
        "{ADMIN}
  priority: 7
  subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: web}}}}}}}}
  egress:
  - name: \"\"
    action: Allow
    to: [{{namespaces: {{}}}}]
    ports:
    - portNumber: {{protocol: UDP, port: 53}}
    - portNumber: {{port: 54}}
    - portRange: {{protocol: SCTP, start: 5, end: 5}}
    - namedPort: dns
  - {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}
  - {{action: Pass, to: [{{domainNames: [\"*.example.com\"]}}]}}
"
    ));
    assert_eq!(policy.id, id(ObjectKind::AdminNetworkPolicy, "p"));
    assert_eq!((policy.tier, policy.priority), (Tier::Admin, 7));
    assert_eq!(policy.applied_to, [pods(&[], &[("app", "web")])]);
    let mut first = rule("egress[0]", Verdict::Allow, Directions::Out, vec![all_in(&[])]);
    first.services = vec![
        ports(Protocol::Udp, PortMatch::number(53)),
        ports(Protocol::Tcp, PortMatch::number(54)),
        ports(Protocol::Sctp, PortMatch::Numbers { from: 5, to: 5 }),
    ];
    first.services.extend(named("dns"));
    let domains = Peer::Domains(vec!["*.example.com".into()]);
    assert_eq!(
        policy.rules,
        [
            first,
            rule("egress[1]", Verdict::Drop, Directions::Out, vec![block("0.0.0.0/0")]),
            rule("egress[2]", Verdict::Pass, Directions::Out, vec![domains]),
        ]
    );
    let baseline = only(&format!(
        "{BASELINE}  subject: {{namespaces: {{}}}}\n  ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]\n"
    ));
    assert_eq!(baseline.id, id(ObjectKind::BaselineAdminNetworkPolicy, "default"));
    assert_eq!((baseline.tier, baseline.priority), (Tier::Baseline, 0));
    assert_eq!(baseline.rules, [rule("ingress[0]", Verdict::Drop, Directions::In, vec![all_in(&[])])]);
}

#[test]
fn domains_are_read_and_not_enforced() {
    let text = format!(
        "{CLUSTER}  tier: Admin\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  egress:\n  \
         - {{action: Accept, to: [{{domainNames: [example.com]}}]}}\n"
    );
    assert_eq!(warnings(&good(&text)), ["not enforced yet: domainNames of a peer (net.yaml:9:27)"],);
}

#[test]
fn a_security_policy_with_every_field() {
    let policy = only(&format!(
        "{SET}  addresses: [10.0.0.1]
---
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {{name: p, annotations: {{supernet.dev/staged: \"true\"}}}}
spec:
  category: Environment
  priority: 999999
  rules:
  - name: jump
    action: JUMP_TO_APPLICATION
    direction: IN
    sources:
    - {{podSelector: {{matchLabels: {{app: web}}}}}}
    - {{namespaceSelector: {{matchLabels: {{team: a}}}}}}
    - {{namespaceSelector: {{matchLabels: {{team: a}}}}, podSelector: {{}}}}
    - {{nodeSelector: {{}}}}
    - {{addressSet: s}}
    - {{cidr: 10.1.2.3/8, except: [10.1.0.0/16, 10.2.0.1]}}
    - {{cidr: \"fd00::1\"}}
    sourcesExcluded: true
    appliedTo: [{{podSelector: {{matchLabels: {{app: db}}}}}}]
    logLabel: into production
  - {{name: quiet, action: DROP, disabled: true}}
  - action: REJECT
    direction: OUT
    destinations: [{{cidr: 0.0.0.0/0}}]
    stateful: true
    services:
    - {{protocol: TCP, ports: [80, 8000-8999, http]}}
    - {{protocol: UDP}}
    - {{protocol: ICMP}}
    - {{protocol: ICMP, icmpType: 8}}
    - {{protocol: ICMPv6, icmpType: 1, icmpCode: 255}}
  - {{action: ALLOW, direction: IN_OUT}}
  - {{action: DROP}}
"
    ));
    assert_eq!(policy.id, id(ObjectKind::SecurityPolicy, "p"));
    assert_eq!((policy.tier, policy.priority, policy.staged), (Tier::Environment, 999_999, true));
    assert_eq!(policy.applied_to, []);
    let [jump, reject, allow, drop] = &policy.rules[..] else { panic!("{:?}", policy.rules) };
    let holes = ["10.1.0.0/16", "10.2.0.1/32"].map(|hole| hole.parse().unwrap());
    let sources = vec![
        pods(&[], &[("app", "web")]),
        all_in(&[("team", "a")]),
        pods(&[("team", "a")], &[]),
        Peer::Nodes(Selector::ALL),
        Peer::Set("s".into()),
        Peer::Block { cidr: "10.0.0.0/8".parse().unwrap(), except: holes.into() },
        block("fd00::1/128"),
    ];
    assert_eq!((jump.name.as_str(), jump.verdict, jump.directions), ("jump", Verdict::Pass, Directions::In));
    assert_eq!(jump.sources, Ends { peers: sources, excluded: true });
    assert_eq!((&jump.destinations, &jump.services[..]), (&Ends::ALL, &[][..]));
    assert_eq!(jump.applied_to, Some(vec![pods(&[], &[("app", "db")])]));
    assert_eq!(jump.log_label.as_deref(), Some("into production"));
    assert_eq!((reject.name.as_str(), reject.verdict), ("rules[2]", Verdict::Reject));
    assert_eq!((reject.directions, &reject.sources), (Directions::Out, &Ends::ALL));
    assert_eq!(reject.destinations, Ends::any_of(vec![block("0.0.0.0/0")]));
    let icmp = |v6, kind, code| PolicyService::Icmp { v6, kind, code };
    assert_eq!(
        reject.services,
        [
            ports(Protocol::Tcp, PortMatch::number(80)),
            ports(Protocol::Tcp, PortMatch::Numbers { from: 8000, to: 8999 }),
            ports(Protocol::Tcp, PortMatch::Named("http".into())),
            ports(Protocol::Udp, PortMatch::All),
            icmp(false, None, None),
            icmp(false, Some(8), None),
            icmp(true, Some(1), Some(255)),
        ]
    );
    assert_eq!((allow.verdict, allow.directions), (Verdict::Allow, Directions::InOut));
    assert_eq!(drop.directions, Directions::InOut, "both is the default");
    assert_eq!((drop.verdict, &drop.applied_to, &drop.log_label), (Verdict::Drop, &None, &None));
}

#[test]
fn categories_of_security_policies_and_what_their_defaults_are() {
    for (word, tier) in [
        ("Emergency", Tier::Emergency),
        ("Infrastructure", Tier::Infrastructure),
        ("Environment", Tier::Environment),
        ("Application", Tier::Application),
    ] {
        let policy =
            only(&format!("{SECURITY}  category: {word}\n  appliedTo: [{{namespaceSelector: {{}}}}]\n"));
        assert_eq!((policy.tier, policy.priority, policy.staged), (tier, 0, false));
        assert_eq!((&policy.applied_to[..], &policy.rules[..]), (&[all_in(&[])][..], &[][..]));
    }
    let stateless =
        good(&format!("{SECURITY}  category: Emergency\n  rules: [{{action: DROP, stateful: false}}]\n"));
    assert_eq!(warnings(&stateless), ["not enforced yet: stateful: false of rules[0] (net.yaml:6:11)"]);
}

#[test]
fn an_address_set_is_sorted_and_without_twins() {
    let read = good(&format!("{SET}  addresses: [10.1.2.3/8, \"fd00::1\", 1.2.3.4, 1.2.3.4/32]\n"));
    let set = &read.model.address_sets["s"];
    let ranges: Vec<String> = set.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["1.2.3.4/32", "10.0.0.0/8", "fd00::1/128"]);
    assert_eq!((set.name.as_str(), set.at.to_string().as_str()), ("s", "net.yaml:1:1"));
    assert!(good(&format!("{SET}  addresses: []\n")).model.address_sets["s"].ranges.is_empty());
}

#[test]
fn a_policy_of_each_kind_may_have_the_same_name() {
    let spec = "  {priority: 1, subject: {namespaces: {}}}\n";
    let text = format!(
        "{ADMIN}{spec}---\n{CLUSTER}  {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}}}\n---\n{SECURITY}  category: Emergency\n"
    );
    assert_eq!(good(&text).model.tiered_policies.len(), 3);
    say([(
        format!("{ADMIN}{spec}---\n{ADMIN}{spec}"),
        "7:1: AdminNetworkPolicy p is already declared at net.yaml:1:1; remove or rename one of them",
    )]);
}
