//! Policies of administrators as sections of the plan's firewall, and the address sets they refer to.

use super::{
    plan::{AddressSetPlan, FirewallRule, Section},
    text,
};
use crate::{
    model::{Directions, Model, Name, ObjectKind, Peer, TieredPolicy, TieredRule, Verdict},
    policy::{Applied, in_order},
};

/// The sections evaluated before NetworkPolicies, or those after them, in order.
pub(super) fn tiered(model: &Model, before_network_policies: bool) -> Vec<Section> {
    let applied = Applied::of(model);
    let enforced = in_order(model).into_iter().filter(|p| !p.staged);
    let policies = enforced.filter(|p| p.tier.is_before_network_policies() == before_network_policies);
    policies.map(|policy| section(policy, &applied)).collect()
}

fn section(policy: &TieredPolicy, applied: &Applied<'_>) -> Section {
    let names = |to: &[Peer]| -> Vec<String> {
        let mut pods: Vec<&Name> = applied.pods(to);
        pods.sort_unstable();
        pods.into_iter().map(Name::to_string).collect()
    };
    let of_policy = names(&policy.applied_to);
    let rules = policy.rules.iter().map(|rule| FirewallRule {
        name: rule.name.clone(),
        direction: direction(rule.directions),
        action: action(policy.id.kind, rule.verdict),
        applied_to: rule.applied_to.as_ref().map_or_else(|| of_policy.clone(), |to| names(to)),
        peers: peers(rule),
        sources: Some(text::ends(&rule.sources)),
        destinations: Some(text::ends(&rule.destinations)),
        services: text::services(&rule.services),
    });
    Section {
        policy: policy.id.to_string(),
        category: policy.tier.as_str(),
        priority: policy.priority,
        rules: rules.collect(),
    }
}

fn direction(directions: Directions) -> &'static str {
    match directions {
        Directions::In => "ingress",
        Directions::Out => "egress",
        Directions::InOut => "both",
    }
}

/// What becomes of a connection, in the words of the policy's kind.
pub(super) fn action(kind: ObjectKind, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "ALLOW",
        Verdict::Drop => "DROP",
        Verdict::Reject => "REJECT",
        Verdict::Pass if kind == ObjectKind::SecurityPolicy => "JUMP_TO_APPLICATION",
        Verdict::Pass => "PASS",
    }
}

/// The other ends; of a rule for both directions there is no other end, so both are told.
fn peers(rule: &TieredRule) -> String {
    match rule.directions {
        Directions::In => text::ends(&rule.sources),
        Directions::Out => text::ends(&rule.destinations),
        Directions::InOut => {
            format!("from {} to {}", text::ends(&rule.sources), text::ends(&rule.destinations))
        }
    }
}

/// The address sets, by name.
pub(super) fn address_sets(model: &Model) -> Vec<AddressSetPlan> {
    let sets = model.address_sets.values();
    sets.map(|set| AddressSetPlan { name: set.name.clone(), ranges: set.ranges.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::tiered;
    use crate::{
        analysis::{
            plan::Plan,
            topology::{Topology, View},
        },
        compile::compile,
        fixture::Cluster,
        intern::Interner,
        manifests::read_str,
    };

    const POLICIES: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop}, spec: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{}]}
---
apiVersion: supernet.dev/v1alpha1
kind: AddressSet
metadata: {name: scanners}
spec: {addresses: [203.0.113.0/24, 198.51.100.7]}
---
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: zones}
spec:
  category: Environment
  priority: 20
  rules:
  - name: scans
    action: REJECT
    direction: IN
    sources: [{addressSet: scanners}]
    sourcesExcluded: true
    services: [{protocol: TCP, ports: [80]}, {protocol: ICMP, icmpType: 8}]
  - {name: rest, action: JUMP_TO_APPLICATION, appliedTo: [{podSelector: {matchLabels: {app: web}}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]
";

    fn plan() -> Plan {
        let c = Cluster { model: read_str("net.yaml", POLICIES).unwrap().model };
        let (addressing, mut interner) = (c.addressing(), Interner::default());
        let snapshot = compile(&c.model, &addressing, &mut interner).unwrap();
        Plan::of(&c.model, &addressing, &snapshot, &mut interner).unwrap()
    }

    #[test]
    fn sections_stand_in_the_order_of_evaluation() {
        let plan = plan();
        let sections: Vec<String> =
            plan.firewall.iter().map(|s| format!("{} {} {}", s.category, s.priority, s.policy)).collect();
        assert_eq!(
            sections,
            [
                "Environment 20 SecurityPolicy zones",
                "allow 2010 shop/web",
                "isolation 2090 shop/web",
                "Baseline 0 BaselineAdminNetworkPolicy default",
                "posture 2100 posture",
            ]
        );
        let words = |section: usize, rule: usize| {
            let r = &plan.firewall[section].rules[rule];
            let applied = r.applied_to.join(",");
            format!("{} {} {} [{applied}] {} | {}", r.name, r.direction, r.action, r.peers, r.services)
        };
        assert_eq!(
            words(0, 0),
            "scans ingress REJECT [shop/db,shop/web] any but address set scanners | TCP 80; ICMP type 8"
        );
        assert_eq!(words(0, 1), "rest both JUMP_TO_APPLICATION [shop/web] from any to any | any");
        assert_eq!(words(3, 0), "egress[0] egress DROP [shop/db,shop/web] 10.0.0.0/8 | any");
        let ends = &plan.firewall[0].rules[0];
        let (from, to) = (ends.sources.as_deref(), ends.destinations.as_deref());
        assert_eq!((from, to), (Some("any but address set scanners"), Some("any")));
        assert_eq!(plan.address_sets[0].name, "scanners");
        assert_eq!(plan.address_sets[0].ranges.len(), 2);
    }

    #[test]
    fn what_is_staged_stands_in_no_section() {
        let staged =
            POLICIES.replace("{name: zones}", "{name: zones, annotations: {supernet.dev/staged: \"true\"}}");
        let model = read_str("net.yaml", &staged).unwrap().model;
        assert_eq!((tiered(&model, true).len(), tiered(&model, false).len()), (0, 1));
        let enforced = read_str("net.yaml", POLICIES).unwrap().model;
        assert_eq!(tiered(&enforced, true).len(), 1);
    }

    #[test]
    fn no_namespace_is_drawn_for_what_lies_in_none() {
        let topology = Topology::of(&plan(), &View::default()).unwrap();
        let drawn = format!("{topology:?}");
        assert!(drawn.contains("shop/web") && !drawn.contains("SecurityPolicy"), "{drawn}");
    }
}
