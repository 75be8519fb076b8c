//! Who reaches whom, on which ports.
//!
//! For every pair of ends the firewall of both sides is asked at each port where either answer can change, so the
//! result is exact, not a sample. Pods of one workload are one end as long as the network treats them alike.
//! Addresses outside are one end, plus one for each range of some ipBlock that is treated otherwise; what no route
//! leads to is none.
//!
//! Ends that are alike in their role are asked once, and pairs with the same answer share a row. Memory is that of
//! the different answers, not of all pairs.
//!
//! Left out: a pod reaching itself, and nodes reaching the pods that run on them, both always allowed.

mod services;

use super::{
    ends::{self, Callings, Standing},
    fold::Fold,
    judge::{ByFamily, Judge},
    open::Open,
};
use crate::{
    compile::{CompileError, server_specs},
    intern::Interner,
    ipam::Addressing,
    model::{IpFamily, Model, Protocol},
    place::Places,
};
use ipnet::IpNet;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    rc::Rc,
};
use supernet_dataplane::{id::IdentityId, snapshot::Snapshot};

/// Who reaches whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Sources and destinations: pods by name, nodes, the outside and its ranges, Services.
    pub ends: Vec<EndInfo>,
    /// Every pair of which the first reaches the second on some port; all others are denied. A range outside has
    /// a row only where it is treated otherwise than the range around it, so there "none" is told too. Sorted by
    /// the first destination, then by the first source.
    pub rows: Vec<Row>,
}

/// A source or destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndInfo {
    /// "shop/web", "nodes", "outside", "outside 203.0.113.0/24", "shop/svc/web".
    pub name: String,
    /// What it is.
    pub kind: EndKind,
    /// The pods it stands for.
    pub pods: Vec<String>,
}

/// What an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndKind {
    /// Pods.
    Pods,
    /// Nodes, and the pods that use their network.
    Nodes,
    /// Addresses beyond the uplinks.
    Outside,
    /// A virtual server.
    Service,
}

/// Pairs that have the same answer: each source with each destination. A pod's own name on both sides says
/// nothing: it always reaches itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Who opens the connection.
    pub sources: Vec<String>,
    /// To whom.
    pub destinations: Vec<String>,
    /// "IPv4" or "IPv6" where the two families differ; absent where they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<&'static str>,
    /// Open ports in words: "all", "TCP 80, 443; UDP 53", "none". Where the destination declares container ports, those
    /// of them that are open.
    pub ports: String,
    /// Ports that are open though no container of the destination declares them, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undeclared: Option<String>,
    /// Every protocol and port is open, ICMP too.
    pub everything: bool,
    /// Every open range.
    pub allowed: Vec<PortRange>,
    /// Of the members that take a Service's connections on these ports, how many this source does not reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreached_members: Option<usize>,
}

/// Open ports of a protocol, inclusive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRange {
    /// "TCP", "UDP" or "SCTP".
    pub protocol: String,
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
}

impl Reach {
    /// Asks the firewall of a compiled model.
    ///
    /// # Errors
    /// As [`crate::compile::compile`]; none if the snapshot is of this model.
    pub fn of(
        model: &Model,
        addressing: &Addressing,
        snapshot: &Snapshot,
        interner: &mut Interner,
    ) -> Result<Self, CompileError> {
        let places = Places::of(model, addressing, interner)?;
        let servers = server_specs(model, addressing, &places)?;
        let mut ends = pod_ends(&places, snapshot);
        ends.extend(node_ends(addressing, snapshot));
        let (outside, parents) = outside_ends(snapshot, &ends);
        let first_range = ends.len() + 1;
        ends.extend(outside);

        // A range outside is only worth a row where it differs from the range around it.
        let around = |end: usize| end.checked_sub(first_range).and_then(|n| parents.get(n).copied());

        let sources = groups(&ends, around, End::as_source);
        let destinations = groups(&ends, around, End::as_destination);
        let mut judge = Judge::default();
        let mut table = Fold::default();
        for to in &destinations {
            let mut answers = Fold::default();
            for from in &sources {
                let (source, destination) = (&ends[from[0]], &ends[to[0]]);
                if source.info.kind == EndKind::Outside && destination.info.kind == EndKind::Outside {
                    continue;
                }
                let (source_around, to_around) = (around(from[0]), around(to[0]));
                let range = source_around.or(to_around).is_some();
                let open = judge.open(&source.standing, &destination.standing);
                if range {
                    let wide = (source_around.unwrap_or(from[0]), to_around.unwrap_or(to[0]));
                    if as_in(&open, &judge.open(&ends[wide.0].standing, &ends[wide.1].standing)) {
                        continue;
                    }
                }
                for row in rows(&open, &destination.declared, range) {
                    answers.add(row, from);
                }
            }
            table.add_answers(answers, to);
        }
        let mut infos: Vec<EndInfo> = ends.iter().map(|e| e.info.clone()).collect();
        let mut service_table = Fold::default();
        for (name, server) in services::by_name(&servers) {
            let answers = services::answers(&server, &ends, &sources, around, snapshot, &mut judge);
            service_table.add_answers(answers, &[infos.len()]);
            infos.push(EndInfo { name, kind: EndKind::Service, pods: Vec::new() });
        }
        let mut rows = named(table, &infos);
        rows.extend(named(service_table, &infos));
        let used: BTreeSet<&str> =
            rows.iter().flat_map(|r| r.sources.iter().chain(&r.destinations)).map(String::as_str).collect();
        // Ranges that never differ are not worth a mention.
        let told = |end: &EndInfo| !end.name.starts_with("outside ") || used.contains(end.name.as_str());
        infos.retain(told);
        Ok(Self { ends: infos, rows })
    }
}

/// One end, as the firewall sees it.
struct End<'a> {
    info: EndInfo,
    standing: Standing<'a>,
    /// What its containers declare.
    declared: BTreeSet<(Protocol, u16)>,
}

/// What makes one end differ from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Class {
    kind: EndKind,
    standing: ends::Class,
    declared: BTreeSet<(Protocol, u16)>,
}

impl End<'_> {
    fn class(&self) -> Class {
        Class { kind: self.info.kind, standing: self.standing.class(), declared: self.declared.clone() }
    }

    /// What makes it differ as a source.
    fn as_source(&self) -> Class {
        let standing = ends::Class { ingress: 0, ..self.standing.class() };
        Class { standing, declared: BTreeSet::new(), ..self.class() }
    }

    /// What makes it differ as a destination.
    fn as_destination(&self) -> Class {
        let standing = ends::Class { egress: 0, ..self.standing.class() };
        Class { standing, ..self.class() }
    }
}

/// Ends that are alike in one role, as are the ends around them: all of a group have the same answers.
fn groups<'a>(
    ends: &[End<'a>],
    around: impl Fn(usize) -> Option<usize>,
    role: impl Fn(&End<'a>) -> Class,
) -> Vec<Vec<usize>> {
    let mut numbers: HashMap<Class, usize> = HashMap::new();
    let mut number = |end| {
        let next = numbers.len();
        *numbers.entry(role(end)).or_insert(next)
    };
    let classes: Vec<usize> = ends.iter().map(&mut number).collect();
    let mut groups: Fold<(usize, Option<usize>)> = Fold::default();
    for (end, class) in classes.iter().enumerate() {
        groups.add((*class, around(end).map(|wide| classes[wide])), &[end]);
    }
    groups.groups.into_iter().map(|(_, ends)| ends).collect()
}

/// Answers without names, and the sources that get them.
type Answers = Fold<Row>;

/// The same with the destinations that give them.
type Table = Fold<(Rc<Row>, Vec<usize>)>;

impl Table {
    fn add_answers(&mut self, answers: Answers, destinations: &[usize]) {
        for (row, mut sources) in answers.groups {
            sources.sort_unstable();
            self.add((row, sources), destinations);
        }
    }
}

/// The rows with the names of their ends, sorted. A single pod is not listed as its own only destination.
fn named(table: Table, infos: &[EndInfo]) -> Vec<Row> {
    let mut groups = table.groups;
    for (_, destinations) in &mut groups {
        destinations.sort_unstable();
    }
    groups.sort_by(|(a, to_a), (b, to_b)| (to_a, &a.1).cmp(&(to_b, &b.1)));
    let names = |ends: &mut dyn Iterator<Item = &usize>| ends.map(|end| infos[*end].name.clone()).collect();
    let rows = groups.iter().map(|(key, destinations)| {
        let (row, sources) = &**key;
        let alone = match destinations[..] {
            [only] if infos[only].pods.len() < 2 => Some(only),
            _ => None,
        };
        Row {
            sources: names(&mut sources.iter().filter(|source| Some(**source) != alone)),
            destinations: names(&mut destinations.iter()),
            ..Row::clone(row)
        }
    });
    rows.filter(|row| !row.sources.is_empty()).collect()
}

/// Pods by workload; where its pods are not all alike, those that are.
fn pod_ends<'a>(places: &Places<'_>, snapshot: &'a Snapshot) -> Vec<End<'a>> {
    let workloads = ends::workloads(places);
    let callings = Callings::of(workloads.keys().copied());
    let mut ends = Vec::new();
    for (workload, pods) in workloads {
        let count = pods.len();
        let mut alike: HashMap<Class, usize> = HashMap::new();
        let first = ends.len();
        for name in pods {
            let place = &places.pods[name];
            let end = End {
                info: EndInfo { name: name.to_string(), kind: EndKind::Pods, pods: vec![name.to_string()] },
                standing: Standing::of(snapshot, place.addresses),
                declared: place.pod.ports.iter().map(|p| (p.protocol, p.port)).collect(),
            };
            match alike.entry(end.class()) {
                Entry::Occupied(at) => {
                    let group: &mut End<'_> = &mut ends[*at.get()];
                    group.info.pods.extend(end.info.pods);
                }
                Entry::Vacant(at) => {
                    at.insert(ends.len());
                    ends.push(end);
                }
            }
        }
        for group in &mut ends[first..] {
            let some = group.info.pods.len();
            group.info.name =
                ends::call_some(workload.0, callings.call(workload), &group.info.pods[0], some, count);
        }
    }
    ends.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    ends
}

/// All nodes, as long as they are alike; else one by one.
fn node_ends<'a>(addressing: &Addressing, snapshot: &'a Snapshot) -> Vec<End<'a>> {
    let mut ends: Vec<End<'a>> = addressing
        .nodes
        .iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .map(|(name, addresses)| {
            let info = EndInfo { name: format!("node/{name}"), kind: EndKind::Nodes, pods: Vec::new() };
            End { info, standing: Standing::of(snapshot, addresses), declared: BTreeSet::new() }
        })
        .collect();
    if ends.len() > 1 && ends.iter().all(|e| e.class() == ends[0].class()) {
        ends.truncate(1);
        ends[0].info.name = "nodes".to_owned();
    }
    ends
}

/// The outside as a whole, then its ranges, shortest first, each with the position of the end around it. What no
/// route of the Tier-0 leads to is left out.
fn outside_ends<'a>(snapshot: &Snapshot, inside: &[End<'_>]) -> (Vec<End<'a>>, Vec<usize>) {
    let tier0 = &snapshot.tier0;
    let routed: Vec<IpNet> =
        tier0.routes.iter().map(|(net, _)| net).chain(tier0.connected.iter().map(|(net, _)| net)).collect();
    let inside_has = |family: &IpFamily| inside.iter().any(|e| e.standing.identities.contains_key(family));
    let families: BTreeSet<IpFamily> =
        routed.iter().map(|net| IpFamily::of(net.addr())).filter(inside_has).collect();
    if families.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let end = |name: String, identities| End {
        info: EndInfo { name, kind: EndKind::Outside, pods: Vec::new() },
        standing: Standing::outside(identities),
        declared: BTreeSet::new(),
    };
    let mut ranges: Vec<(IpNet, IdentityId)> =
        snapshot.identities.ranges.iter().map(|(range, id)| (range, *id)).collect();
    ranges.sort_by_key(|(range, _)| (range.prefix_len(), *range));
    let all = |family: &IpFamily| {
        let whole = ranges.iter().find(|(r, _)| r.prefix_len() == 0 && IpFamily::of(r.addr()) == *family);
        (*family, whole.map_or(IdentityId::UNKNOWN, |(_, id)| *id))
    };
    let mut ends = vec![end("outside".to_owned(), families.iter().map(all).collect())];
    let mut parents: Vec<usize> = Vec::new();
    let mut listed: Vec<(IpNet, usize)> = Vec::new();
    for (range, id) in ranges {
        let family = IpFamily::of(range.addr());
        let ours = snapshot.owned.iter().any(|(net, ())| net.contains(&range))
            || (IpNet::from(range.addr()) == range && snapshot.endpoints.contains_key(&range.addr()));
        let away = !routed.iter().any(|net| net.contains(&range) || range.contains(net));
        if range.prefix_len() == 0 || ours || away || !families.contains(&family) {
            continue;
        }
        let around = listed.iter().rev().find(|(net, _)| net.contains(&range));
        parents.push(around.map_or(inside.len(), |(_, at)| *at));
        listed.push((range, inside.len() + ends.len()));
        ends.push(end(format!("outside {range}"), BTreeMap::from([(family, id)])));
    }
    (ends, parents)
}

/// Whether a pair is treated as a wider pair is, in the families that it has.
fn as_in(narrow: &ByFamily, wide: &ByFamily) -> bool {
    narrow
        .iter()
        .all(|(family, open)| wide.get(family).is_some_and(|wide| Rc::ptr_eq(wide, open) || wide == open))
}

/// Rows still without names: two where the families differ; none where nothing is open, unless that has to be told.
fn rows(by_family: &ByFamily, declared: &BTreeSet<(Protocol, u16)>, tell_closed: bool) -> Vec<Row> {
    let mut different: Vec<(Option<IpFamily>, &Open)> =
        by_family.iter().map(|(family, open)| (Some(*family), &**open)).collect();
    different.dedup_by(|b, a| a.1 == b.1);
    if let [(family, _)] = &mut different[..] {
        *family = None;
    }
    let told = different.into_iter().filter(|(_, open)| tell_closed || !open.is_empty());
    told.map(|(family, open)| {
        let (known, unknown) = open.split(declared);
        let (ports, undeclared) = if open.everything() || known.is_empty() {
            (open.to_string(), None)
        } else {
            (known.to_string(), Some(unknown).filter(|u| !u.is_empty()).map(|u| u.to_string()))
        };
        Row {
            sources: Vec::new(),
            destinations: Vec::new(),
            family: family.map(family_name),
            ports,
            undeclared,
            everything: open.everything(),
            allowed: ranges(open),
            unreached_members: None,
        }
    })
    .collect()
}

pub(super) fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

pub(super) fn ranges(open: &Open) -> Vec<PortRange> {
    let ranges = open.ranges.iter().flat_map(|(protocol, ranges)| {
        ranges.iter().map(|(from, to)| PortRange { protocol: protocol.to_string(), from: *from, to: *to })
    });
    ranges.collect()
}
