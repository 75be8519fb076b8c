//! Counters under the names people know.

use crate::{
    control::intern::Interner,
    dataplane::{
        counters::{Counters, PortCounters, Traffic},
        flow::{ConnectionLimits, QuotaUsage, Quotas},
        id::{NamespaceId, PortId, RuleId},
        snapshot::{Names, PortRole, RuleName, Snapshot},
        staged::StagedCount,
        verdict::DropReason,
    },
};
use std::collections::BTreeMap;

/// What a pod or namespace has of connections, and may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// What counts for it now.
    pub usage: QuotaUsage,
    /// What it may have.
    pub limits: ConnectionLimits,
}

/// Everything counted since the network was built. What never moved is left out; what is gone by now is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames that entered the pipeline.
    pub received: u64,
    /// Frames the network made itself: ICMP errors, resets, copies of multicast, ARP and ND requests; of a packet that
    /// was cut, one less than pieces.
    pub generated: u64,
    /// Frames that left.
    pub sent: u64,
    /// Fragments that wait now for the first of their packet.
    pub held: u64,
    /// Half-open TCP connections that were ended for newer ones.
    pub half_open_ended: u64,
    /// Drops by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// By port: "shop/web-0", "node/node-1", "uplink/leaf-a".
    pub ports: BTreeMap<String, PortCounters>,
    /// By segment, over the ports it has now: "shop-0".
    pub segments: BTreeMap<String, PortCounters>,
    /// By namespace, over all its pods: "shop".
    pub namespaces: BTreeMap<String, PortCounters>,
    /// Pods and namespaces that have limits: "shop/web-0", "namespace shop".
    pub quotas: BTreeMap<String, Quota>,
    /// By firewall rule: `shop/allow-web ingress[0]`.
    pub rules: BTreeMap<String, Traffic>,
    /// By virtual server: "shop/web:80/TCP".
    pub servers: BTreeMap<String, Traffic>,
}

impl Quota {
    /// Of pods and namespaces that have limits, by name.
    pub(crate) fn all(quotas: &Quotas, snapshot: &Snapshot) -> BTreeMap<String, Self> {
        let Snapshot { limits, names, .. } = snapshot;
        let pods = limits.ports.iter().zip(0..).filter_map(|(limits, id)| {
            let id = PortId(id);
            Some((names.ports.get(&id)?.clone(), Self { usage: quotas.pod(id), limits: *limits }))
        });
        let namespaces = limits.namespaces.iter().zip(0..).filter_map(|(limits, id)| {
            let id = NamespaceId(id);
            let name = format!("namespace {}", names.namespaces.get(&id)?);
            Some((name, Self { usage: quotas.namespace(id), limits: *limits }))
        });
        pods.chain(namespaces).filter(|(_, quota)| !quota.limits.is_none()).collect()
    }
}

/// What a firewall rule has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleStats {
    /// Its policy and which rule of it.
    pub name: RuleName,
    /// Connections that it let pass, packets and bytes of them, and packets that it denied.
    pub traffic: Traffic,
    /// Connections that live and that it decided on, also those that it denies now.
    pub sessions: u64,
    /// What it would have done otherwise, were staged policies enforced.
    pub staged: StagedCount,
}

impl RuleStats {
    /// Decisions: connections that were let pass, and packets that were denied.
    pub fn hits(&self) -> u64 {
        self.traffic.connections + self.traffic.denied
    }

    /// All rules there are, by policy and rule.
    pub(crate) fn all(
        names: &Names,
        counters: &Counters,
        sessions: &BTreeMap<RuleId, u64>,
        staged: &BTreeMap<RuleId, StagedCount>,
    ) -> Vec<Self> {
        let rule = |(id, name): (&RuleId, &RuleName)| Self {
            name: name.clone(),
            traffic: counters.rules.get(id).copied().unwrap_or_default(),
            sessions: sessions.get(id).copied().unwrap_or_default(),
            staged: staged.get(id).cloned().unwrap_or_default(),
        };
        let mut all: Vec<Self> = names.rules.iter().map(rule).collect();
        all.sort_by(|a, b| (&a.name.policy, place(&a.name.rule)).cmp(&(&b.name.policy, place(&b.name.rule))));
        all
    }
}

/// Where a rule stands among those of its policy: `ingress[10]` comes after `ingress[9]`.
fn place(rule: &str) -> (&str, u32) {
    let (kind, number) = rule.split_once('[').unwrap_or((rule, ""));
    (kind, number.split(']').next().and_then(|digits| digits.parse().ok()).unwrap_or_default())
}

impl Stats {
    /// Puts names to counters.
    pub(crate) fn of(counters: &Counters, quotas: &Quotas, interner: &Interner, snapshot: &Snapshot) -> Self {
        let mut stats = Self {
            received: counters.received,
            generated: counters.generated,
            sent: counters.sent,
            held: counters.held,
            half_open_ended: counters.half_open_ended,
            drops: counters.drops.clone(),
            ..Self::default()
        };
        for (id, name) in interner.ports() {
            let Some(count) = counters.ports.get(&id) else { continue };
            stats.ports.insert(name.to_owned(), *count);
            let owner = name.split('/').next().unwrap_or_default();
            if !matches!(owner, "node" | "uplink") {
                *stats.namespaces.entry(owner.to_owned()).or_default() += *count;
            }
            if let Some(PortRole::Endpoint(endpoint)) = snapshot.port(id).map(|p| &p.role)
                && let Some(segment) = snapshot.names.segments.get(&endpoint.segment)
            {
                *stats.segments.entry(segment.clone()).or_default() += *count;
            }
        }
        let rules =
            interner.rules().filter_map(|(id, name)| Some((name.to_string(), *counters.rules.get(&id)?)));
        stats.rules = rules.collect();
        let servers =
            interner.servers().filter_map(|(id, name)| Some((name.to_owned(), *counters.servers.get(&id)?)));
        stats.servers = servers.collect();
        stats.quotas = Quota::all(quotas, snapshot);
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn rules_stand_in_the_order_of_their_numbers() {
        let mut rules = ["isolation", "ingress[10]", "egress[0]", "ingress[9]", "ingress[0]"];
        rules.sort_by_key(|rule| place(rule));
        assert_eq!(rules, ["egress[0]", "ingress[0]", "ingress[9]", "ingress[10]", "isolation"]);
    }

    #[test]
    fn rules_with_names_of_their_own_stand_in_the_order_of_their_numbers() {
        // As rules of ClusterNetworkPolicies and AdminNetworkPolicies are called.
        let mut rules = ["ingress[10] monitoring", "ingress[9] dns", "ingress[0] all"];
        rules.sort_by_key(|rule| place(rule));
        assert_eq!(rules, ["ingress[0] all", "ingress[9] dns", "ingress[10] monitoring"]);
    }
}
