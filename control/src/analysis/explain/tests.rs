//! Explanations against what the compiled firewall says once the difference is there.

use super::{Difference, Explanation, Nearest, Question, walk::Walk};
use crate::{
    compile::compile,
    fixture::{Cluster, name},
    intern::Interner,
    ipam::Addressing,
    manifests::read_str,
    model::{IpFamily, Model},
    policy::tests::oracle,
};
use proptest::prelude::*;
use std::net::IpAddr;
use supernet_dataplane::{
    snapshot::Snapshot,
    table::classifier::{Action, icmp_port},
    wire::Proto,
};

/// Makes a difference true.
fn apply(difference: &Difference, model: &mut Model, addressing: &mut Addressing, question: &mut Question) {
    let label = |labels: &mut crate::model::Labels, key: &String, value: &Option<String>| match value {
        Some(value) => drop(labels.insert(key.clone(), value.clone())),
        None => drop(labels.remove(key)),
    };
    match difference {
        Difference::PodLabel { pod, key, value, .. } => {
            label(&mut model.pods.get_mut(&name(pod)).unwrap().labels, key, value);
        }
        Difference::NamespaceLabel { namespace, key, value, .. } => {
            label(&mut model.namespaces.get_mut(namespace).unwrap().labels, key, value);
        }
        Difference::Namespace { pod, namespace } => {
            let mut moved = model.pods.remove(&name(pod)).unwrap();
            moved.name.namespace = namespace.clone();
            let place = addressing.pods.remove(&name(pod)).unwrap();
            addressing.pods.insert(moved.name.clone(), place);
            model.pods.insert(moved.name.clone(), moved);
        }
        Difference::Service { protocol, ports } => {
            let all = [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP, Proto::ICMPV6];
            question.proto = all.into_iter().find(|p| p.to_string() == *protocol).unwrap();
            question.port = ports.0;
        }
        Difference::Address { address, within, except } => {
            assert!(within.contains(address) && !except.iter().any(|hole| hole.contains(address)));
            question.peer = *address;
        }
    }
}

/// A move changes the name under which labels of the pod are told.
fn in_order(nearest: &Nearest) -> Vec<&Difference> {
    let is_move = |d: &&Difference| matches!(d, Difference::Namespace { .. });
    let (moves, others): (Vec<_>, Vec<_>) = nearest.differences.iter().partition(is_move);
    others.into_iter().chain(moves).collect()
}

fn decision(snapshot: &Snapshot, question: &Question) -> (Action, String) {
    let endpoint = crate::fixture::endpoint(snapshot, question.own).unwrap();
    let firewall = if question.egress { &endpoint.egress } else { &endpoint.ingress };
    let peer = snapshot.identities.of(question.peer);
    let decision = firewall.as_ref().unwrap().decide(peer, question.proto, question.port);
    let name = &snapshot.names.rules[&decision.rule];
    (decision.action, format!("{} {name}", name.tier))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn what_would_have_to_differ_would_do(c in oracle::cluster()) {
        let (snapshot, addressing) = (c.compile().unwrap(), c.addressing());
        let outside = ["203.0.113.200", "2001:db8::ff00"].map(|a| a.parse::<IpAddr>().unwrap());
        let pods: Vec<IpAddr> = addressing.pods.values().flat_map(|p| p.addresses.clone()).collect();
        let nodes = addressing.nodes.values().flatten().copied();
        let peers: Vec<IpAddr> = pods.iter().copied().chain(nodes).chain(outside).collect();
        for &own in &pods {
            let others = peers.iter().filter(|p| IpFamily::of(**p) == IpFamily::of(own) && **p != own);
            for &peer in others {
                let echo = if own.is_ipv4() { (Proto::ICMP, icmp_port(8, 0)) } else { (Proto::ICMPV6, icmp_port(128, 0)) };
                for (proto, port) in [(Proto::TCP, 80), (Proto::UDP, 77), echo] {
                    for egress in [false, true] {
                        let question = Question { egress, own, peer, proto, port };
                        let Some(told) = Explanation::of(&c.model, &addressing, &snapshot, &question) else {
                            continue;
                        };
                        let walk = Walk::of(&c.model, &addressing, &snapshot, &question).unwrap();
                        prop_assert_eq!(walk.decide(&walk.asked, None), walk.compiled(), "{:?}", question);
                        prop_assert_eq!(told.advice.is_some() && told.action == "allow", false);
                        let Some(nearest) = &told.nearest else { continue };
                        prop_assert!(!nearest.differences.is_empty());
                        let (mut model, mut addressing, mut asked) = (c.model.clone(), addressing.clone(), question);
                        for difference in in_order(nearest) {
                            apply(difference, &mut model, &mut addressing, &mut asked);
                        }
                        let snapshot = compile(&model, &addressing, &mut Interner::default()).unwrap();
                        let (action, by) = decision(&snapshot, &asked);
                        let rule = format!("{} {} {}", nearest.rule.tier, nearest.rule.policy, nearest.rule.rule);
                        prop_assert_eq!((action, by), (Action::Allow, rule), "{:?}: {:?}", question, told);
                    }
                }
            }
        }
    }
}

const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: other}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}},
 spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: curl, namespace: shop, labels: {app: curl}}, spec: {}}
---
{apiVersion: v1, kind: Pod, metadata: {name: curl, namespace: other, labels: {app: frontend}}, spec: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{port: http}]
  - from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.0/28]}}]
  - from: [{namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]
    ports: [{port: 9090, protocol: UDP}, {port: 9000, endPort: 9099}]
";

fn told(manifests: &str, from: &str, to: &str, proto: Proto, port: u16) -> Explanation {
    let c = Cluster { model: read_str("net.yaml", manifests).unwrap().model };
    let addressing = c.addressing();
    let address = |end: &str| end.parse().unwrap_or_else(|_| c.address(&name(end), IpFamily::V4));
    let question = Question { egress: false, own: address(to), peer: address(from), proto, port };
    Explanation::of(&c.model, &addressing, &c.compile().unwrap(), &question).unwrap()
}

fn advice(more: &str, from: &str, proto: Proto, port: u16) -> String {
    told(&format!("{SHOP}{more}"), from, "shop/web", proto, port).advice.unwrap_or_default()
}

#[test]
fn the_nearest_rule_is_told_in_a_sentence() {
    let tcp = |from: &str, port| advice("", from, Proto::TCP, port);
    assert_eq!(
        tcp("shop/curl", 8080),
        "shop/web ingress[0] would allow TCP 8080 if pod shop/curl had label app=frontend"
    );
    assert_eq!(
        tcp("other/curl", 9090),
        "shop/web ingress[2] would allow TCP 9090 if namespace other had label team=a"
    );
    assert_eq!(
        tcp("other/curl", 8080),
        "shop/web ingress[0] would allow TCP 8080 if pod other/curl were in namespace shop"
    );
    assert_eq!(
        tcp("203.0.113.9", 80),
        "shop/web ingress[1] would allow TCP 80 if it came from an address in 198.51.100.0/24 except 198.51.100.0/28"
    );
    assert_eq!(
        tcp("other/curl", 80),
        "shop/web ingress[2] would allow TCP 9000-9099, not TCP 80, if namespace other had label team=a"
    );
    let allowed = told(SHOP, "198.51.100.77", "shop/web", Proto::TCP, 80);
    assert_eq!((allowed.action, allowed.advice, allowed.nearest), ("allow", None, None));
    assert_eq!(allowed.rule.to_string(), "shop/web ingress[1]");
}

const TIERS: &str = "
---
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: isolate}
spec:
  category: Emergency
  rules:
  - {name: quarantine, action: REJECT, sources: [{podSelector: {matchLabels: {app: frontend}}}]}
  - {name: scanner, action: ALLOW, direction: IN, sources: [{cidr: 198.51.100.7}], services: [{protocol: ICMP, icmpType: 8}]}
---
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: zones}
spec:
  category: Environment
  rules:
  - {name: within, action: JUMP_TO_APPLICATION, sources: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}
  - {name: rest, action: DROP, sources: [{cidr: 203.0.113.0/24}], services: [{protocol: TCP}]}
";

#[test]
fn tiers_are_told_with_what_they_stand_before_and_what_they_pass_on() {
    let shop = format!("{SHOP}{TIERS}");
    let quarantined = told(&shop, "other/curl", "shop/web", Proto::TCP, 9090);
    assert_eq!(quarantined.action, "reject");
    assert_eq!(quarantined.rule.to_string(), "Emergency rule quarantine (SecurityPolicy isolate)");
    // Its label would let it past the rule, and then its namespace is the only thing that is amiss.
    assert!(quarantined.overridden.is_none() && quarantined.passed.is_empty());
    let passed = told(&shop, "shop/curl", "shop/web", Proto::TCP, 8080);
    let through: Vec<String> = passed.passed.iter().map(ToString::to_string).collect();
    assert_eq!(through, ["Environment rule within (SecurityPolicy zones)"]);
    assert_eq!((passed.action, passed.rule.to_string().as_str()), ("drop", "shop/web isolation"));
    // As a frontend it would be in quarantine, so that is not told.
    assert_eq!(passed.advice.as_deref(), Some("no rule of pod shop/web allows anything near"));
    let behind = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: shop}
spec: {podSelector: {}, ingress: [{}]}
";
    assert_eq!(
        advice(&format!("{TIERS}{behind}"), "203.0.113.9", Proto::TCP, 80),
        "that rule would have to be changed: behind it shop/open ingress[0] would allow this"
    );
}

#[test]
fn a_rule_that_allows_behind_two_that_deny_is_not_denied_to_be_there() {
    let policy = |name: &str, category: &str, action: &str| {
        format!(
            "\n---\napiVersion: supernet.dev/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{category: {category}, rules: [{{action: {action}, direction: IN}}]}}\n"
        )
    };
    let tiers = [
        policy("a", "Emergency", "DROP"),
        policy("b", "Infrastructure", "DROP"),
        policy("c", "Environment", "ALLOW"),
    ];
    let said = advice(&tiers.concat(), "203.0.113.9", Proto::TCP, 80);
    assert_eq!(
        said,
        "that rule would have to be changed, and behind it Infrastructure rule rules[0] (SecurityPolicy b), which denies \
         this too"
    );
    let said = advice(&tiers[0], "203.0.113.9", Proto::TCP, 80);
    assert_eq!(
        said,
        "that rule would have to be changed, and behind it shop/web isolation, which denies this too"
    );
    let said = told(&format!("{SHOP}{}", tiers[0]), "203.0.113.9", "shop/curl", Proto::TCP, 80).advice;
    assert_eq!(
        said.as_deref(),
        Some("that rule would have to be changed, and no rule behind it allows this")
    );
}
