//! Whatever the text, the answer is a value: never a panic, never an endless loop, and every error has its place.

use crate::manifests::read_str;
use proptest::prelude::*;

const SEED: &str = r#"
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
spec: {podCIDRs: [10.1.0.0/16, "fd00:1::/48"], nodes: 2, mtu: 1400, kubeAPI: {backends: [{pod: a/b, port: 1}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, labels: &l {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: *l}
  template:
    metadata: {labels: {<<: *l, tier: "1"}, annotations: {supernet.dev/ip: 10.1.0.9}}
    spec: {containers: [{name: c, ports: [{containerPort: 80, name: http}]}], nodeName: node-1}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: w, labels: {kubernetes.io/service-name: web}},
   addressType: IPv4, endpoints: [{addresses: [10.1.2.3]}]}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: p}
  spec:
    ingress:
    - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {podSelector: {matchExpressions: [{key: a, operator: Exists}]}}]
      ports: [{port: 80, endPort: 90}]
"#;

/// The same for policies of administrators.
const TIERS: &str = r#"
apiVersion: supernet.dev/v1alpha1
kind: AddressSet
metadata: {name: s}
spec: {addresses: [10.0.0.0/8, 10.1.2.3, "fd00::/8"]}
---
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: p, annotations: {supernet.dev/staged: "true"}}
spec:
  category: Environment
  priority: 9
  appliedTo: [{podSelector: {}, namespaceSelector: {matchLabels: {a: b}}}]
  rules:
  - {name: a, action: JUMP_TO_APPLICATION, direction: IN_OUT, sources: [{addressSet: s}], sourcesExcluded: true}
  - action: REJECT
    destinations: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {nodeSelector: {}}]
    services: [{protocol: TCP, ports: [80, 8000-8999, http]}, {protocol: ICMP, icmpType: 8, icmpCode: 0}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 5
  subject: {pods: {namespaceSelector: {}, podSelector: {}}}
  ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]}]
  egress: [{action: Pass, to: [{networks: [10.0.0.0/8]}, {domainNames: [a.b]}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 80}}, {namedPort: a}]}]
"#;

/// Pieces that mean something in YAML or in a manifest.
const PIECES: [&str; 24] = [
    "---\n",
    "...\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "&l ",
    "*l",
    "<<: ",
    "|\n",
    "\n  ",
    "\t",
    "null",
    "-1",
    "99999999999999999999",
    "é\u{feff}",
    "kind: Pod\n",
    "!!str ",
    "10.0.0.0/33",
    "true",
];

fn check(text: &str) {
    if let Err(errors) = read_str("f", text) {
        assert!(!errors.0.is_empty());
        for e in &errors.0 {
            assert!(e.at.line().is_some_and(|l| l >= 1) && e.at.column().is_some_and(|c| c >= 1), "{e}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn mutated_manifests(seed in prop::sample::select(vec![SEED, TIERS]), edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, 0..PIECES.len(), 1..40_usize), 1..6)) {
        let mut chars: Vec<char> = seed.chars().collect();
        for (at, action, piece, length) in edits {
            let at = at.index(chars.len().max(1));
            let end = (at + length).min(chars.len());
            match action {
                0 => drop(chars.drain(at.min(end)..end)),
                1 => drop(chars.splice(at..at, PIECES[piece].chars())),
                _ => drop(chars.splice(at.min(end)..end, PIECES[piece].chars())),
            }
        }
        check(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn arbitrary_text(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn arbitrary_structure(pieces in prop::collection::vec(0..PIECES.len(), 0..60)) {
        check(&pieces.into_iter().map(|p| PIECES[p]).collect::<String>());
    }
}

#[test]
fn what_is_mutated_is_right_at_first() {
    read_str("f", TIERS).unwrap();
}

#[test]
fn hostile_sizes() {
    check(&"a: ".repeat(10_000));
    check(&"- ".repeat(10_000));
    check(&"{a: ".repeat(10_000));
    let keys: String = (0..20_000).map(|i| format!("k{}: 1\n", i % 10_000)).collect();
    check(&keys);
    let errors = read_str("f", &"kind: Pod\n---\n".repeat(5_000)).unwrap_err();
    assert_eq!(errors.0.len(), 1000, "the first errors are kept, not all");
    let ports: String = (1..3_000).map(|i| format!("{{containerPort: {i}}},")).collect();
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{ports: [{ports}]}}]}}}}"
    );
    let errors = read_str("f", &pod).unwrap_err().to_string();
    assert!(errors.ends_with("`ports` has more than 1000 items; leave some out"), "{errors}");
}
