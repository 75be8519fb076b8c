//! The policies of `policy.networking.k8s.io`: ClusterNetworkPolicy (v1alpha2), AdminNetworkPolicy and
//! BaselineAdminNetworkPolicy (v1alpha1), by their API's rules.

use super::{
    declared::{Declared, Meta, Scope},
    policy::STAGED_ANNOTATION,
    reading::{Fields, Reading},
    schema::{self, Kind, Schema},
    selector, syntax,
    yaml::Node,
};
use crate::model::{
    Directions, Ends, ObjectId, ObjectKind, Peer, PolicyPort, PolicyService, PortMatch, Protocol, Tier,
    TieredPolicy, TieredRule, Verdict,
};

/// The only name that a BaselineAdminNetworkPolicy may have.
const BASELINE_NAME: &str = "default";

/// The highest priority number.
const MAX_PRIORITY: i64 = 1000;

/// Rules' names are for people.
const MAX_NAME: usize = 100;

pub(super) fn read(r: &mut Reading, kind: Kind, node: &Node, declared: &mut Declared) {
    let (top, spec_schema, id_kind) = match kind {
        Kind::AdminNetworkPolicy => {
            (&schema::ADMIN_POLICY, &schema::ADMIN_POLICY_SPEC, ObjectKind::AdminNetworkPolicy)
        }
        Kind::BaselineAdminNetworkPolicy => {
            (&schema::BASELINE_POLICY, &schema::BASELINE_POLICY_SPEC, ObjectKind::BaselineAdminNetworkPolicy)
        }
        _ => (&schema::CLUSTER_POLICY, &schema::CLUSTER_POLICY_SPEC, ObjectKind::ClusterNetworkPolicy),
    };
    let fields = r.fields(node, top);
    let meta = Meta::read(r, &fields, Scope::Cluster, syntax::dns_subdomain);
    let Some(spec) = r.required(&fields, "spec") else { return };
    let spec = r.fields(spec, spec_schema);
    let tier = match kind {
        Kind::AdminNetworkPolicy => Some(Tier::Admin),
        Kind::BaselineAdminNetworkPolicy => Some(Tier::Baseline),
        _ => {
            let words = [("Admin", Tier::Admin), ("Baseline", Tier::Baseline)];
            r.required(&spec, "tier").and_then(|n| r.word(n, &words))
        }
    };
    let priority = match kind {
        Kind::BaselineAdminNetworkPolicy => Some(0),
        _ => r.required(&spec, "priority").and_then(|n| r.integer(n, 0..=MAX_PRIORITY)),
    };
    let applied_to = r.required(&spec, "subject").and_then(|n| subject(r, n));
    let mut rules = Vec::new();
    for (direction, list) in [(Directions::In, "ingress"), (Directions::Out, "egress")] {
        for (at, node) in r.list(&spec, list).iter().enumerate() {
            rules.extend(rule(r, kind, node, (direction, list, at)));
        }
    }
    let Some(meta) = meta else { return };
    if kind == Kind::BaselineAdminNetworkPolicy && meta.name.name != BASELINE_NAME {
        let what = format!("a BaselineAdminNetworkPolicy named `{}`", meta.name.name);
        r.invalid(node.place, what, format!("there is one, and its name is `{BASELINE_NAME}`"));
    }
    let staged = meta.flag(r, STAGED_ANNOTATION).unwrap_or(false);
    let at = r.at(node.place);
    let (Some(tier), Some(priority), Some(applied_to)) = (tier, priority, applied_to) else { return };
    if declared.claim(r, kind, &meta.name, &at) {
        let id = ObjectId { kind: id_kind, name: meta.name };
        let priority = u32::try_from(priority).unwrap_or_default();
        let applied_to = vec![applied_to];
        declared.tiered_policies.push(TieredPolicy { id, tier, priority, applied_to, rules, staged, at });
    }
}

/// One of two ways to name pods of all namespaces.
fn subject(r: &mut Reading, node: &Node) -> Option<Peer> {
    let fields = r.fields(node, &schema::SUBJECT);
    pods(r, &fields, "a subject", node)
}

fn pods(r: &mut Reading, fields: &Fields<'_>, what: &str, node: &Node) -> Option<Peer> {
    match (fields.get("namespaces"), fields.get("pods")) {
        (Some(namespaces), None) => {
            Some(Peer::Pods { namespaces: Some(selector::read(r, namespaces)), pods: None })
        }
        (None, Some(both)) => {
            let fields = r.fields(both, &schema::NAMESPACED_PODS);
            let namespaces = r.required(&fields, "namespaceSelector").map(|n| selector::read(r, n));
            let pods = r.required(&fields, "podSelector").map(|n| selector::read(r, n));
            Some(Peer::Pods { namespaces: Some(namespaces?), pods: Some(pods?) })
        }
        (Some(_), Some(_)) => {
            r.invalid(node.place, format!("namespaces and pods in {what}"), "write one of them");
            None
        }
        (None, None) => {
            let advice = "write namespaces, or pods with namespaceSelector and podSelector; `namespaces: {}` is \
                          every pod";
            r.invalid(node.place, format!("{what} that names nobody"), advice);
            None
        }
    }
}

fn rule(
    r: &mut Reading,
    kind: Kind,
    node: &Node,
    (direction, list, at): (Directions, &str, usize),
) -> Option<TieredRule> {
    let is_cluster = kind == Kind::ClusterNetworkPolicy;
    let is_in = direction == Directions::In;
    let rule_schema: &Schema = match (is_cluster, is_in) {
        (true, true) => &schema::CLUSTER_INGRESS_RULE,
        (true, false) => &schema::CLUSTER_EGRESS_RULE,
        (false, true) => &schema::ADMIN_INGRESS_RULE,
        (false, false) => &schema::ADMIN_EGRESS_RULE,
    };
    let fields = r.fields(node, rule_schema);
    let verdict = verdict(r, kind, &fields);
    let own_name = fields.get("name").and_then(|n| r.text(n).map(|text| (n, text)));
    if let Some((n, text)) = own_name.filter(|(_, text)| text.chars().count() > MAX_NAME) {
        r.invalid(n.place, format!("`{text}` is too long for a rule's name"), "use at most 100 characters");
    }
    let peers_field = if is_in { "from" } else { "to" };
    let mut peers = Vec::new();
    if let Some(n) = r.required(&fields, peers_field) {
        let items = r.items(n);
        if items.is_empty() {
            let every = if is_in { "" } else { ", `networks: [0.0.0.0/0]` every IPv4 address" };
            let advice = format!("list whom it is about; `namespaces: {{}}` is every pod{every}");
            r.invalid(n.place, format!("`{peers_field}` without items"), advice);
        }
        for item in items {
            peers.extend(peer(r, item, is_in));
        }
    }
    let services = if is_cluster { protocols(r, &fields) } else { ports(r, &fields) };
    let name = match own_name {
        Some((_, text)) if !text.is_empty() => format!("{list}[{at}] {text}"),
        _ => format!("{list}[{at}]"),
    };
    let ends = Ends::any_of(peers);
    let (sources, destinations) = if is_in { (ends, Ends::ALL) } else { (Ends::ALL, ends) };
    Some(TieredRule {
        name,
        verdict: verdict?,
        directions: direction,
        sources,
        destinations,
        services,
        applied_to: None,
        log_label: None,
    })
}

fn verdict(r: &mut Reading, kind: Kind, fields: &Fields<'_>) -> Option<Verdict> {
    let node = r.required(fields, "action")?;
    match kind {
        Kind::ClusterNetworkPolicy => {
            let words = [("Accept", Verdict::Allow), ("Deny", Verdict::Drop), ("Pass", Verdict::Pass)];
            r.word(node, &words)
        }
        Kind::AdminNetworkPolicy => {
            let words = [("Allow", Verdict::Allow), ("Deny", Verdict::Drop), ("Pass", Verdict::Pass)];
            r.word(node, &words)
        }
        _ => r.word(node, &[("Allow", Verdict::Allow), ("Deny", Verdict::Drop)]),
    }
}

/// The peers of an item, which names one kind of them.
fn peer(r: &mut Reading, node: &Node, is_in: bool) -> Vec<Peer> {
    let fields = r.fields(node, if is_in { &schema::ADMIN_INGRESS_PEER } else { &schema::ADMIN_EGRESS_PEER });
    let given: Vec<&str> = ["namespaces", "pods", "nodes", "networks", "domainNames"]
        .into_iter()
        .filter(|field| fields.get(field).is_some())
        .collect();
    match given[..] {
        ["namespaces" | "pods"] => pods(r, &fields, "a peer", node).into_iter().collect(),
        ["nodes"] => fields.get("nodes").map(|n| Peer::Nodes(selector::read(r, n))).into_iter().collect(),
        ["networks"] => {
            let networks = non_empty_peer(r, &fields, "networks");
            let cidrs = networks.iter().filter_map(|n| r.cidr(n));
            cidrs.map(|cidr| Peer::Block { cidr: cidr.trunc(), except: Vec::new() }).collect()
        }
        ["domainNames"] => {
            r.not_enforced("domainNames", "a peer", node.place);
            let names =
                non_empty_peer(r, &fields, "domainNames").iter().filter_map(|n| r.text(n).map(str::to_owned));
            vec![Peer::Domains(names.collect())]
        }
        [first, second, ..] => {
            r.invalid(node.place, format!("{first} and {second} in one peer"), "write two items");
            Vec::new()
        }
        // Says what is missing.
        _ => pods(r, &fields, "a peer", node).into_iter().collect(),
    }
}

const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

/// `protocols` of a ClusterNetworkPolicy.
fn protocols(r: &mut Reading, fields: &Fields<'_>) -> Vec<PolicyService> {
    let mut services = Vec::new();
    for item in non_empty(r, fields, "protocols") {
        let fields = r.fields(item, &schema::CLUSTER_PROTOCOL);
        let named = fields.get("destinationNamedPort").map(|n| named(r, n));
        let mut given = named.into_iter().flatten().collect::<Vec<_>>();
        let mut kinds = usize::from(fields.get("destinationNamedPort").is_some());
        for (field, protocol) in PROTOCOLS {
            let Some(node) = fields.get(field) else { continue };
            kinds += 1;
            let below = r.fields(node, &schema::CLUSTER_TRANSPORT);
            let port = match below.get("destinationPort") {
                None => Some(PortMatch::All),
                Some(n) => {
                    let port = r.fields(n, &schema::CLUSTER_PORT);
                    match (port.get("number"), port.get("range")) {
                        (Some(n), None) => r.port(n).map(PortMatch::number),
                        (None, Some(n)) => {
                            let fields = r.fields(n, &schema::PORT_RANGE);
                            range(r, &fields)
                        }
                        (number, _) => {
                            let kinds = if number.is_some() { "two kinds" } else { "no kind" };
                            let what = format!("a destinationPort of {kinds}");
                            r.invalid(n.place, what, "write number or range, one of them");
                            None
                        }
                    }
                }
            };
            given.extend(port.map(|port| PolicyService::Ports(PolicyPort { protocol, port })));
        }
        if kinds != 1 {
            let what = if kinds == 0 { "of no kind" } else { "of several kinds" };
            let advice = "write tcp, udp, sctp or destinationNamedPort, one an item";
            r.invalid(item.place, format!("an item of protocols {what}"), advice);
        }
        services.extend(given);
    }
    services
}

/// `ports` of an AdminNetworkPolicy or BaselineAdminNetworkPolicy.
fn ports(r: &mut Reading, fields: &Fields<'_>) -> Vec<PolicyService> {
    let mut services = Vec::new();
    for item in non_empty(r, fields, "ports") {
        let fields = r.fields(item, &schema::ADMIN_PORT);
        match (fields.get("portNumber"), fields.get("portRange"), fields.get("namedPort")) {
            (Some(n), None, None) => {
                let fields = r.fields(n, &schema::PORT_NUMBER);
                let protocol = r.protocol(&fields);
                let port = r.required(&fields, "port").and_then(|n| r.port(n)).map(PortMatch::number);
                services.extend(both(protocol, port));
            }
            (None, Some(n), None) => {
                let fields = r.fields(n, &schema::PROTOCOL_PORT_RANGE);
                let protocol = r.protocol(&fields);
                let port = range(r, &fields);
                services.extend(both(protocol, port));
            }
            (None, None, Some(n)) => services.extend(named(r, n)),
            _ => {
                let advice = "write portNumber, portRange or namedPort, one an item";
                r.invalid(item.place, "an item of ports of no kind", advice);
            }
        }
    }
    services
}

/// The items of a peer's list. Without any the peer would be nobody, and a rule with no other peer everybody's.
fn non_empty_peer<'n>(r: &mut Reading, fields: &Fields<'n>, field: &str) -> &'n [Node] {
    let items = r.list(fields, field);
    if let (Some(n), true) = (fields.get(field), items.is_empty()) {
        r.invalid(n.place, format!("`{field}` without items"), "list whom the peer is, or remove the peer");
    }
    items
}

/// A list that, if it is there, has items.
fn non_empty<'n>(r: &mut Reading, fields: &Fields<'n>, field: &str) -> &'n [Node] {
    let items = r.list(fields, field);
    if let (Some(n), true) = (fields.get(field), items.is_empty()) {
        r.invalid(n.place, format!("`{field}` without items"), "remove it to mean everything");
    }
    items
}

fn both(protocol: Option<Protocol>, port: Option<PortMatch>) -> Option<PolicyService> {
    Some(PolicyService::Ports(PolicyPort { protocol: protocol?, port: port? }))
}

/// A named port carries no protocol: that of the container's port counts.
fn named(r: &mut Reading, node: &Node) -> Vec<PolicyService> {
    let Some(name) = r.checked_text(node, "the name of a port", syntax::port_name) else { return Vec::new() };
    let of = |(_, protocol)| {
        PolicyService::Ports(PolicyPort { protocol, port: PortMatch::Named(name.to_owned()) })
    };
    PROTOCOLS.map(of).into()
}

fn range(r: &mut Reading, fields: &Fields<'_>) -> Option<PortMatch> {
    let from = r.required(fields, "start").and_then(|n| r.port(n));
    let end = r.required(fields, "end");
    let to = end.and_then(|n| r.port(n));
    let (from, to) = (from?, to?);
    if to < from {
        r.invalid(end?.place, format!("end {to} is below start {from}"), "swap them");
        return None;
    }
    Some(PortMatch::Numbers { from, to })
}
