//! The difference that would let a connection pass: of all rules that allow, and all ways to match each, the one
//! that asks for least.

use super::{
    Difference, Nearest,
    walk::{self, Connection, End, SeenPod, Source, Walk},
};
use crate::model::{
    IpFamily, Labels, NetworkPolicy, Operator, Peer, PolicyPort, PolicyService, Requirement, Selector,
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};
use supernet_dataplane::wire::Proto;

/// How much a difference asks for. A pod's label is changed easily, a namespace's concerns all its pods, and what
/// has to move moves reluctantly.
fn cost(difference: &Difference, asked: Proto) -> u32 {
    match difference {
        Difference::PodLabel { .. } => 4,
        Difference::Service { protocol, .. } if *protocol == asked.to_string() => 5,
        Difference::Service { protocol, .. } if asked.is_icmp() || protocol.starts_with("ICMP") => 12,
        Difference::Service { .. } => 8,
        Difference::NamespaceLabel { .. } => 6,
        Difference::Address { .. } => 7,
        Difference::Namespace { .. } => 9,
    }
}

/// What asks for more is not near: it would be another connection altogether.
const FARTHEST: u32 = 16;

/// A connection that differs, and how.
#[derive(Clone)]
struct Variant<'a> {
    connection: Connection<'a>,
    differences: Vec<Difference>,
}

/// The nearest rule that would allow the connection that was asked about.
pub(super) fn of(walk: &Walk<'_>) -> Option<Nearest> {
    let mut best: Option<(u32, Nearest)> = None;
    for (id, source) in walk.allowing() {
        for variant in variants(walk, source) {
            let changes: u32 = variant.differences.iter().map(|d| cost(d, walk.asked.proto)).sum();
            let is_nearer = changes <= FARTHEST && best.as_ref().is_none_or(|(least, _)| changes < *least);
            // Nothing that differs would be no difference: a rule before it decides.
            if !is_nearer || variant.differences.is_empty() {
                continue;
            }
            if walk.decide(&variant.connection, None).rule == id {
                let nearest = Nearest { rule: walk.rule(id), differences: variant.differences };
                best = Some((changes, nearest));
            }
        }
    }
    best.map(|(_, nearest)| nearest)
}

/// All near connections that a rule's peers and services match, as far as the rule itself is concerned.
fn variants<'a>(walk: &Walk<'a>, source: Source<'a>) -> Vec<Variant<'a>> {
    let here = Variant { connection: walk.asked.clone(), differences: Vec::new() };
    let by_peer: Vec<Variant<'a>> = match source {
        Source::Network(policy, rule) if !rule.peers.is_empty() => {
            rule.peers.iter().flat_map(|peer| peers(walk, Some(policy), peer, &here)).collect()
        }
        Source::Network(..) => vec![here],
        Source::Tiered(rule) => {
            let (_, ends) = walk.sides(rule);
            if !walk.speaks_of_pod(rule) {
                Vec::new()
            } else if ends.is_everyone() || ends.excluded {
                // Of everyone but some: the walk says whether the other end is one of those.
                vec![here]
            } else {
                ends.peers.iter().flat_map(|peer| peers(walk, None, peer, &here)).collect()
            }
        }
    };
    by_peer.into_iter().flat_map(|variant| services(walk, source, variant)).collect()
}

/// The other ends that a peer means and that are near.
fn peers<'a>(
    walk: &Walk<'a>,
    policy: Option<&NetworkPolicy>,
    peer: &Peer,
    here: &Variant<'a>,
) -> Vec<Variant<'a>> {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let Some(pod) = &here.connection.peer.pod else { return Vec::new() };
            let moved = match (namespaces, policy) {
                (None, Some(policy)) => into_namespace(walk, pod, &policy.name.namespace),
                (None, None) => return Vec::new(),
                (Some(selector), _) => namespace_with(walk, pod, selector),
            };
            let Some((mut pod, mut differences)) = moved else { return Vec::new() };
            for (key, value, any) in unlike(pods.as_ref(), &pod.labels) {
                set(&mut pod.labels, &key, value.as_deref());
                let pod = pod.pod.name.to_string();
                differences.push(Difference::PodLabel { pod, key, value, any });
            }
            let mut variant = here.clone();
            variant.connection.peer.pod = Some(pod);
            variant.differences.extend(differences);
            vec![variant]
        }
        Peer::Block { cidr, except } => addresses(walk, &[*cidr], except, here),
        Peer::Set(name) => {
            let ranges = walk.model.address_sets.get(name).map(|set| &set.ranges[..]);
            addresses(walk, ranges.unwrap_or_default(), &[], here)
        }
        // Where a node's labels decide it may match as it is.
        Peer::Nodes(_) => vec![here.clone()],
        Peer::Domains(_) => Vec::new(),
    }
}

type Moved<'a> = Option<(SeenPod<'a>, Vec<Difference>)>;

/// The pod, in this namespace.
fn into_namespace<'a>(walk: &Walk<'a>, pod: &SeenPod<'a>, namespace: &str) -> Moved<'a> {
    if pod.namespace == namespace {
        return Some((pod.clone(), Vec::new()));
    }
    let labels = &walk.model.namespaces.get(namespace)?.labels;
    let pod = SeenPod { namespace: namespace.to_owned(), namespace_labels: labels.clone(), ..pod.clone() };
    let (name, namespace) = (pod.pod.name.to_string(), namespace.to_owned());
    Some((pod, vec![Difference::Namespace { pod: name, namespace }]))
}

/// The pod, in its namespace with labels that are selected.
fn namespace_with<'a>(walk: &Walk<'a>, pod: &SeenPod<'a>, selector: &Selector) -> Moved<'a> {
    let mut pod = pod.clone();
    let changes = unlike(Some(selector), &pod.namespace_labels);
    // The pod whose firewall it is lies in the same namespace: other rules might be its own then.
    if !changes.is_empty() && pod.namespace == walk.pod.name.namespace {
        return None;
    }
    let mut differences = Vec::new();
    for (key, value, any) in changes {
        // Kubernetes sets it itself, and no one can change it.
        if key == NAME_LABEL {
            return None;
        }
        set(&mut pod.namespace_labels, &key, value.as_deref());
        differences.push(Difference::NamespaceLabel { namespace: pod.namespace.clone(), key, value, any });
    }
    Some((pod, differences))
}

/// The label that every namespace has, with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn set(labels: &mut Labels, key: &str, value: Option<&str>) {
    match value {
        Some(value) => drop(labels.insert(key.to_owned(), value.to_owned())),
        None => drop(labels.remove(key)),
    }
}

/// The labels that would have to differ for a selector to match: key, value, and whether any other would do.
fn unlike(selector: Option<&Selector>, labels: &Labels) -> Vec<(String, Option<String>, bool)> {
    let requirements = selector.map(|s| &s.requirements[..]).unwrap_or_default();
    let keys: BTreeSet<&str> = requirements.iter().map(|r| r.key.as_str()).collect();
    let mut changes = Vec::new();
    for key in keys {
        let of_key: Vec<&Requirement> = requirements.iter().filter(|r| r.key == key).collect();
        let holds = |value: Option<&str>| of_key.iter().all(|r| satisfies(&r.operator, value));
        if holds(labels.get(key).map(String::as_str)) {
            continue;
        }
        let named = of_key.iter().find_map(|r| match &r.operator {
            Operator::In(values) => Some(values),
            _ => None,
        });
        let change = match named {
            Some(values) => values.iter().find(|v| holds(Some(v))).map(|v| (Some(v.clone()), false)),
            None if holds(None) => Some((None, false)),
            None => {
                ["true", "yes", "any"].iter().find(|v| holds(Some(v))).map(|v| (Some((*v).to_owned()), true))
            }
        };
        // What contradicts itself never matches; the walk finds out.
        if let Some((value, any)) = change {
            changes.push((key.to_owned(), value, any));
        }
    }
    changes
}

fn satisfies(operator: &Operator, value: Option<&str>) -> bool {
    match operator {
        Operator::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
        Operator::NotIn(values) => value.is_none_or(|v| !values.iter().any(|x| x == v)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

/// The end as it is, if it is in the ranges; else, of one that is no pod and no node, addresses in them.
fn addresses<'a>(
    walk: &Walk<'a>,
    ranges: &[IpNet],
    except: &[IpNet],
    here: &Variant<'a>,
) -> Vec<Variant<'a>> {
    let End { address, pod, node } = &here.connection.peer;
    let family = IpFamily::of(*address);
    let excluded = |a: &IpAddr| except.iter().any(|hole| hole.contains(a));
    if ranges.iter().any(|range| range.contains(address)) && !excluded(address) {
        return vec![here.clone()];
    }
    if pod.is_some() || node.is_some() {
        return Vec::new();
    }
    let known = &walk.snapshot.identities.exact;
    let mut variants = Vec::new();
    for range in ranges.iter().filter(|range| IpFamily::of(range.addr()) == family) {
        // Past the holes, where the first address lies in one.
        let after = except.iter().filter_map(|hole| next(hole.broadcast()));
        let first = [Some(range.network()), next(range.network()), Some(range.broadcast())];
        let near = first.into_iter().flatten().chain(after);
        let usable = near.filter(|a| range.contains(a) && !excluded(a) && known.get(a).is_none());
        variants.extend(usable.map(|address| {
            let mut variant = here.clone();
            variant.connection.peer.address = address;
            let except: Vec<IpNet> = except.iter().copied().filter(|hole| range.contains(hole)).collect();
            variant.differences.push(Difference::Address { address, within: *range, except });
            variant
        }));
    }
    variants
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// The connection if the rule's services match it, or with those of the rule that are near.
fn services<'a>(walk: &Walk<'a>, source: Source<'a>, variant: Variant<'a>) -> Vec<Variant<'a>> {
    let connection = &variant.connection;
    let (matches, others): (bool, Vec<Numbers>) = match source {
        Source::Network(_, rule) => (
            rule.ports.is_empty() || rule.ports.iter().any(|p| walk.port_matches(p, connection)),
            rule.ports.iter().flat_map(|p| numbers(walk, p, connection)).collect(),
        ),
        Source::Tiered(rule) => (
            rule.services.is_empty() || rule.services.iter().any(|s| walk.service_matches(s, connection)),
            rule.services
                .iter()
                .flat_map(|service| match service {
                    PolicyService::Ports(port) => numbers(walk, port, connection),
                    PolicyService::Icmp { .. } => walk::icmp(service).into_iter().collect(),
                })
                .collect(),
        ),
    };
    if matches {
        return vec![variant];
    }
    let is_v4 = connection.peer.address.is_ipv4();
    let usable = others.into_iter().filter(|(proto, _)| !proto.is_icmp() || (*proto == Proto::ICMP) == is_v4);
    let mut others: Vec<Numbers> = usable.collect();
    // Another port of the same protocol is nearer than another protocol.
    others.sort_by_key(|(proto, (from, _))| (*proto != connection.proto, from.abs_diff(connection.port)));
    let changed = others.into_iter().map(|(proto, ports)| {
        let mut variant = variant.clone();
        variant.connection.proto = proto;
        variant.connection.port = ports.0;
        variant.differences.push(Difference::Service { protocol: proto.to_string(), ports });
        variant
    });
    changed.collect()
}

/// A protocol, with the first and the last of its ports.
type Numbers = (Proto, (u16, u16));

fn numbers(walk: &Walk<'_>, port: &PolicyPort, connection: &Connection<'_>) -> Vec<Numbers> {
    let ranges = walk.numbers(port, connection).into_iter();
    ranges.map(|range| (walk::proto_of(port.protocol), range)).collect()
}
