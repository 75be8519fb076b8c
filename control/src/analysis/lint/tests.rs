//! Every kind of finding, and policies that have none.

use super::{Lint, Severity};
use crate::{
    fixture::{Cluster, endpoint},
    manifests::read_str,
    policy::tests::oracle,
};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::IpAddr};
use supernet_dataplane::{table::classifier::Action, wire::Proto};

/// Pods that the policies are about.
const PODS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}},
 spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}},
 spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: probe, namespace: shop, labels: {app: probe}}, spec: {}}
---
";

/// A set of no addresses.
const EMPTY_SET: &str = "{apiVersion: supernet.dev/v1alpha1, kind: AddressSet, metadata: {name: s}, spec: {addresses: []}}\n---\n";

fn lint(policies: &str) -> Lint {
    let c = Cluster { model: read_str("net.yaml", &format!("{PODS}{policies}")).unwrap().model };
    Lint::of(&c.model, &c.addressing(), &c.compile().unwrap())
}

/// "kind rule: what" of every finding, `!` before warnings.
fn found(policies: &str) -> Vec<String> {
    let findings = lint(policies).findings.into_iter();
    let words = findings.map(|f| {
        let mark = if f.severity == Severity::Warning { "!" } else { "" };
        format!("{mark}{} {}: {}", f.kind, f.rule.unwrap_or_else(|| "-".to_owned()), f.what)
    });
    words.collect()
}

/// A NetworkPolicy of the web pods.
fn network(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: web}}}}\n{spec}"
    )
}

fn security(category: &str, rules: &str) -> String {
    format!(
        "apiVersion: supernet.dev/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: {}}}\nspec:\n  \
         category: {category}\n  rules:\n{rules}",
        category.to_lowercase()
    )
}

#[track_caller]
fn says(policies: &str, expected: &[&str]) {
    assert_eq!(found(policies), expected, "{policies}");
}

#[test]
fn policies_that_are_as_they_should_be() {
    says(
        &network(
            "  ingress:\n  - from: [{podSelector: {matchLabels: {app: probe}}}]\n    ports: [{port: http}]\n  \
             egress:\n  - to: [{podSelector: {matchLabels: {app: db}}}]\n    ports: [{port: 5432}]\n  \
             - to: [{ipBlock: {cidr: 10.0.0.0/8}}]\n    ports: [{port: 53, protocol: UDP}, {port: 53}]\n",
        ),
        &[],
    );
    let rules = "  - {name: q, action: DROP, sources: [{cidr: 203.0.113.0/24}], direction: IN}\n  \
                 - {name: r, action: JUMP_TO_APPLICATION}\n";
    says(&security("Environment", rules), &[]);
    says(&network("  policyTypes: [Ingress, Egress]\n"), &[]);
}

#[test]
fn findings_have_their_place() {
    let lint = lint(&network("  ingress: [{}]\n").replace("app: web", "app: wbe"));
    assert_eq!((lint.policies, lint.warnings()), (1, 1));
    let finding = &lint.findings[0];
    assert_eq!((finding.at.as_str(), finding.policy.as_str()), ("net.yaml:12:1", "shop/p"));
    assert_eq!(finding.what, "selects no pod: pods app=wbe in shop");
    assert_eq!(finding.advice, "compare the labels with those of the pods");
}

#[test]
fn selectors_that_select_nobody() {
    let from = |peer: &str| network(&format!("  ingress: [{{from: [{peer}]}}]\n"));
    says(
        &from("{podSelector: {matchLabels: {app: x}}}"),
        &["!peerMatchesNobody ingress[0]: nobody is meant: pods app=x in shop"],
    );
    says(
        &from("{namespaceSelector: {matchLabels: {team: b}}}"),
        &["peerMatchesNobody ingress[0]: nobody is meant: all pods in namespaces team=b"],
    );
    says(
        &from("{namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: x}}}"),
        &["!peerMatchesNobody ingress[0]: nobody is meant: pods app=x in namespaces team=a"],
    );
    let rule = "  - {name: a, action: ALLOW, direction: IN, sources: [{addressSet: s}]}\n";
    says(
        &format!("{EMPTY_SET}{}", security("Emergency", rule)),
        &["!peerMatchesNobody a: nobody is meant: address set s is empty"],
    );
    let quarantine = "  - {name: q, action: DROP, sources: [{podSelector: {matchLabels: {bad: \"yes\"}}}]}\n";
    says(
        &security("Emergency", quarantine),
        &["peerMatchesNobody q: nobody is meant: pods bad=yes in all namespaces"],
    );
    let applied = "  - {name: q, action: DROP, appliedTo: [{podSelector: {matchLabels: {app: x}}}]}\n";
    says(&security("Emergency", applied), &["!selectsNoPod q: selects no pod: pods app=x in all namespaces"]);
}

#[test]
fn sides_that_exclude_nobody() {
    let rule = |action: &str, sources: &str| {
        let rule = format!(
            "  - {{name: a, action: {action}, direction: IN, services: [{{protocol: TCP, ports: [80]}}], \
             sourcesExcluded: true, sources: [{sources}]}}\n"
        );
        format!("{EMPTY_SET}{}", security("Emergency", &rule))
    };
    let nobody = "{podSelector: {matchLabels: {app: x}}}";
    let everyone = "!excludesNobody a: sourcesExcluded excludes nobody, so everyone is meant: ";
    for action in ["ALLOW", "DROP", "REJECT"] {
        says(&rule(action, nobody), &[&format!("{everyone}pods app=x in all namespaces")]);
        says(&rule(action, "{addressSet: s}"), &[&format!("{everyone}address set s")]);
    }
    says(
        &rule("DROP", &format!("{nobody}, {{addressSet: s}}")),
        &[&format!("{everyone}pods app=x in all namespaces; address set s")],
    );
    // Where somebody is excluded, the others who are nobody matter as little as elsewhere.
    says(
        &rule("DROP", &format!("{nobody}, {{cidr: 203.0.113.9}}")),
        &["peerMatchesNobody a: nobody is meant: pods app=x in all namespaces"],
    );
    let findings = lint(&rule("DROP", "{addressSet: s}")).findings;
    assert_eq!(findings[0].advice, "add addresses to the set, or remove what refers to it");
}

#[test]
fn ports_that_nobody_has() {
    let ports =
        |ports: &str| network(&format!("  ingress: [{{from: [{{podSelector: {{}}}}], ports: [{ports}]}}]\n"));
    says(&ports("{port: htpt}"), &["!noSuchPort ingress[0]: no port TCP named htpt at shop/web"]);
    says(
        &ports("{port: http, protocol: UDP}"),
        &["!noSuchPort ingress[0]: no port UDP named http at shop/web"],
    );
    says(&ports("{port: 80}"), &["!undeclaredPort ingress[0]: no pod declares TCP 80: shop/web"]);
    says(&ports("{port: 8000, endPort: 8999}"), &[]);
    // The probe declares nothing, so it may listen anywhere.
    let all = ports("{port: 80}").replace("matchLabels: {app: web}", "");
    says(&all, &[]);
    let egress = "  policyTypes: [Egress]\n  egress:\n  - to: [{podSelector: {matchLabels: {app: db}}}]\n    \
                  ports: [{port: 5433}, {port: 53, protocol: UDP}]\n";
    says(
        &network(egress),
        &[
            "!undeclaredPort egress[0]: no pod declares TCP 5433: shop/db",
            "!undeclaredPort egress[0]: no pod declares UDP 53: shop/db",
        ],
    );
    let admin = "
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: a}
spec:
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  ingress:
  - {action: Allow, from: [{namespaces: {}}], ports: [{namedPort: http}]}
  - {action: Allow, from: [{namespaces: {}}], ports: [{namedPort: metrics}]}
";
    says(admin, &["!noSuchPort ingress[1]: no port named metrics at shop/web"]);
}

#[test]
fn ranges_where_labels_are_meant() {
    let from = |cidr: &str| network(&format!("  ingress: [{{from: [{{ipBlock: {{cidr: {cidr}}}}}]}}]\n"));
    says(
        &from("10.244.1.0/24"),
        &[
            "!podAddresses ingress[0]: 10.244.1.0/24 lies among the addresses of pods, 10.244.0.0/16, and pods change \
             addresses",
        ],
    );
    says(
        &from("10.96.0.10/32"),
        &[
            "!serviceAddresses ingress[0]: 10.96.0.10/32 lies among the addresses of Services, 10.96.0.0/16, which no \
             policy ever sees",
        ],
    );
    says(&from("10.0.0.0/8"), &[]);
    let rule = "  - {name: a, action: DROP, destinations: [{cidr: 10.96.0.1}]}\n";
    assert!(found(&security("Emergency", rule))[0].starts_with("!serviceAddresses a: 10.96.0.1/32"));
}

#[test]
fn rules_that_never_decide() {
    let rules = "  - {name: first, action: ALLOW, direction: IN, services: [{protocol: TCP, ports: [1-100]}]}\n  \
                 - {name: second, action: DROP, direction: IN, services: [{protocol: TCP, ports: [80]}]}\n  \
                 - {name: third, action: DROP, direction: IN, services: [{protocol: TCP, ports: [100-101]}]}\n";
    says(
        &security("Emergency", rules),
        &["!shadowed second: never decides anything, because of SecurityPolicy emergency first before it"],
    );
    let deny = security("Infrastructure", "  - {name: shut, action: DROP, direction: IN}\n");
    let allowed = network("  ingress: [{from: [{podSelector: {}}]}]\n");
    says(
        &format!("{deny}---\n{allowed}"),
        &[
            "!shadowed ingress[0]: never decides anything, because of SecurityPolicy infrastructure shut before it",
        ],
    );
    // Some pods are left to it.
    let some =
        "  - {name: shut, action: DROP, direction: IN, sources: [{podSelector: {matchLabels: {app: db}}}]}\n";
    says(&format!("{}---\n{allowed}", security("Infrastructure", some)), &[]);
}

#[test]
fn rules_that_others_make_needless() {
    let probe = "{from: [{podSelector: {matchLabels: {app: probe}}}]}";
    let all = "{from: [{podSelector: {}}]}";
    says(
        &network(&format!("  ingress: [{probe}, {all}]\n")),
        &["redundant ingress[0]: allows nothing beyond shop/p ingress[1]"],
    );
    let twice = network(&format!("  ingress: [{probe}, {probe}]\n"));
    assert_eq!(found(&twice).len(), 1, "one of two is enough: {:?}", found(&twice));
    let split = "{from: [{podSelector: {}}], ports: [{port: 8080}]}";
    says(&network(&format!("  ingress: [{split}, {probe}]\n")), &[]);
}

#[test]
fn rules_that_allow_everything() {
    says(
        &network("  ingress: [{}]\n"),
        &["allowsEverything ingress[0]: allows everything: its pods receive from everyone, on every port"],
    );
    let rule = "  - {name: a, action: ALLOW, direction: OUT}\n";
    says(
        &security("Emergency", rule),
        &["!allowsEverything a: allows everything: its pods send to everyone, on every port"],
    );
}

#[test]
fn pods_that_cannot_ask_for_names() {
    let egress = |ports: &str| {
        network(&format!(
            "  policyTypes: [Egress]\n  egress: [{{to: [{{ipBlock: {{cidr: 203.0.113.0/24}}}}], ports: [{ports}]}}]\n"
        ))
    };
    says(&egress("{port: 443}"), &["!noDns -: pods that may send but not ask DNS (UDP 53): shop/web"]);
    says(&egress("{port: 443}, {port: 53, protocol: UDP}"), &[]);
    // Who answers may be declared elsewhere.
    let dns = network(
        "  policyTypes: [Egress]\n  egress:\n  - {to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 443}]}\n  \
         - {to: [{namespaceSelector: {matchLabels: {a: b}}}], ports: [{port: 53, protocol: UDP}]}\n",
    );
    says(&dns, &["peerMatchesNobody egress[1]: nobody is meant: all pods in namespaces a=b"]);
    // Of all that may be sent nothing is left.
    says(&network("  policyTypes: [Egress]\n"), &[]);
    let quiet = network("  policyTypes: [Ingress, Egress]\n  ingress: [{from: [{podSelector: {}}]}]\n");
    says(
        &quiet,
        &[
            "sendsNothing -: its policyTypes list Egress, and it has no egress rule: its pods may send nothing",
        ],
    );
}

#[test]
fn policies_of_the_same_priority_that_disagree() {
    let admin = |name: &str, priority: u32, action: &str, port: u16| {
        format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec:\n  priority: {priority}\n  subject: {{namespaces: {{}}}}\n  ingress:\n  \
             - {{action: {action}, from: [{{namespaces: {{}}}}], ports: [{{portRange: {{start: {port}, end: 9000}}}}]}}\n"
        )
    };
    let two = |a, b| found(&format!("{}{}", a, b));
    assert_eq!(
        two(admin("a", 5, "Allow", 8000), admin("b", 5, "Deny", 5000)),
        [
            "!samePriority ingress[0]: has the same priority as AdminNetworkPolicy a ingress[0], and they disagree about \
             somebody"
        ]
    );
    let advice = |policies: &str| lint(policies).findings[0].advice.clone();
    assert_eq!(
        advice(&format!("{}{}", admin("a", 5, "Allow", 8000), admin("b", 5, "Deny", 5000))),
        "give the two policies different priorities: here AdminNetworkPolicy a comes first; elsewhere it may be the other"
    );
    let zone = |name: &str, action: &str| {
        let rule =
            format!("  - {{action: {action}, direction: IN, services: [{{protocol: TCP, ports: [80]}}]}}\n");
        security("Environment", &rule).replace("name: environment", &format!("name: {name}"))
    };
    assert_eq!(
        advice(&format!("{}---\n{}", zone("a", "ALLOW"), zone("b", "DROP"))),
        "give the two policies different priorities: here SecurityPolicy a comes first"
    );
    assert_eq!(two(admin("a", 5, "Allow", 8000), admin("b", 6, "Deny", 5000)), [""; 0]);
    assert_eq!(two(admin("a", 5, "Deny", 8000), admin("b", 5, "Deny", 5000)), [""; 0]);
}

#[test]
fn rules_of_tiers_that_are_never_asked() {
    let isolated = network("  policyTypes: [Ingress]\n");
    let rule = |app: &str| {
        let rule = "  - {name: a, action: DROP, direction: IN, sources: [{cidr: 203.0.113.9}], appliedTo: \
                    [{podSelector: {matchLabels: {app: APP}}}]}\n";
        format!("{}---\n{isolated}", security("Application", &rule.replace("APP", app)))
    };
    says(&rule("web"), &["!neverAsked a: never asked: NetworkPolicies isolate all its pods, shop/web"]);
    says(&rule("db"), &[]);
}

#[test]
fn staged_policies_are_told() {
    let staged = "metadata: {annotations: {supernet.dev/staged: \"true\"}, name";
    let policy = security("Emergency", "  - {name: a, action: DROP, sources: [{cidr: 203.0.113.9}]}\n");
    says(&policy.replace("metadata: {name", staged), &["staged -: is staged: it is judged and not enforced"]);
    let policy = network("  policyTypes: [Ingress]\n").replace("metadata: {name", staged);
    says(&policy, &["staged -: is staged: it is judged and not enforced"]);
}

/// The action for every pair of ends, some services, and both sides.
fn decisions(c: &Cluster) -> Vec<Option<Action>> {
    let (snapshot, addressing) = (c.compile().unwrap(), c.addressing());
    let pods: Vec<IpAddr> = addressing.pods.values().flat_map(|p| p.addresses.clone()).collect();
    let outside = ["203.0.113.9", "203.0.113.200", "2001:db8::9", "10.244.0.99"];
    let outside = outside.iter().map(|a| a.parse::<IpAddr>().unwrap());
    let nodes = addressing.nodes.values().flatten().copied();
    let peers: Vec<IpAddr> = pods.iter().copied().chain(nodes).chain(outside).collect();
    let ports = [Proto::TCP, Proto::UDP, Proto::SCTP].into_iter().flat_map(|p| (77..88).map(move |n| (p, n)));
    let icmp = [Proto::ICMP, Proto::ICMPV6]
        .into_iter()
        .flat_map(|p| [0x0700, 0x0801, 0x7f00, 0x8001].map(|n| (p, n)));
    let services: Vec<(Proto, u16)> = ports.chain(icmp).collect();
    let mut all = Vec::new();
    for own in &pods {
        let endpoint = endpoint(&snapshot, *own).unwrap();
        for firewall in [&endpoint.egress, &endpoint.ingress] {
            for peer in peers.iter().filter(|p| p.is_ipv4() == own.is_ipv4()) {
                let peer = snapshot.identities.of(*peer);
                let action = |(proto, port)| firewall.as_ref().map(|f| f.decide(peer, proto, port).action);
                all.extend(services.iter().copied().map(action));
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_shadowed_or_redundant_may_be_removed(c in oracle::cluster()) {
        let lint = Lint::of(&c.model, &c.addressing(), &c.compile().unwrap());
        let gone = |kinds: &[&str]| -> BTreeSet<(String, String)> {
            let found = lint.findings.iter().filter(|f| kinds.contains(&f.kind));
            found.map(|f| (f.policy.clone(), f.rule.clone().unwrap())).collect()
        };
        let gone = gone(&["shadowed", "redundant"]);
        let mut without = c.clone();
        for policy in without.model.policies.values_mut() {
            let name = policy.name.to_string();
            for (direction, rules) in [("ingress", &mut policy.ingress), ("egress", &mut policy.egress)] {
                let mut at = 0..;
                let stays = |n: usize| !gone.contains(&(name.clone(), format!("{direction}[{n}]")));
                rules.iter_mut().for_each(|rules| rules.retain(|_| stays(at.next().unwrap())));
            }
        }
        for policy in without.model.tiered_policies.values_mut() {
            let name = policy.id.to_string();
            policy.rules.retain(|rule| !gone.contains(&(name.clone(), rule.name.clone())));
        }
        prop_assert_eq!(decisions(&without), decisions(&c), "without {:?}", gone);
    }
}
