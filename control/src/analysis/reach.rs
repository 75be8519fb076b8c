//! Who reaches whom, on which ports.
//!
//! For every pair of ends the firewall of both sides is asked at each port where either answer can change, so the
//! result is exact, not a sample. Pods of one workload are one end as long as the network treats them alike.
//! Addresses outside are one end, plus one for each range of some ipBlock that is treated otherwise.
//!
//! Left out: a pod reaching itself, and nodes reaching the pods that run on them, both always allowed.

use super::open::{Open, ask};
use crate::{
    compile::{CLI_TOOLS, CompileError, KUBE_API, Member, MemberState, ServerRole, ServerSpec, server_specs},
    intern::Interner,
    ipam::Addressing,
    model::{IpFamily, Model, Protocol},
    place::Places,
};
use ipnet::IpNet;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    ptr,
    rc::Rc,
};
use supernet_dataplane::{
    id::IdentityId,
    snapshot::{EndpointPort, PortRole, Snapshot},
    table::classifier::RuleSet,
};

/// Who reaches whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Sources and destinations, in the order of the rows.
    pub ends: Vec<EndInfo>,
    /// Every pair of which the first reaches the second on some port; all others are denied. A range outside has
    /// a row only where it is treated otherwise than the range around it, so there "none" is told too.
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

/// One pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Who opens the connection.
    pub source: String,
    /// To whom.
    pub destination: String,
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
    /// Of a Service's members that take connections, how many this source does not reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreached_members: Option<usize>,
}

/// Open ports of a protocol, inclusive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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

        let mut judge = Judge::default();
        let ends: Vec<Judged<'_>> = ends.iter().map(|end| Judged { end, class: judge.class(end) }).collect();
        let mut rows = Vec::new();
        for (from, &source) in ends.iter().enumerate() {
            for (to, &destination) in ends.iter().enumerate() {
                let (source_info, destination_info) = (&source.end.info, &destination.end.info);
                let both_outside =
                    source_info.kind == EndKind::Outside && destination_info.kind == EndKind::Outside;
                let itself = from == to && source_info.pods.len() < 2;
                if both_outside || itself {
                    continue;
                }
                let (source_around, to_around) = (around(from), around(to));
                let range = source_around.or(to_around).is_some();
                let wide = (ends[source_around.unwrap_or(from)], ends[to_around.unwrap_or(to)]);
                if range && judge.same((source, destination), wide) {
                    continue;
                }
                rows.extend(judge.rows(source, destination, range));
            }
        }
        let mut infos: Vec<EndInfo> = ends.iter().map(|e| e.end.info.clone()).collect();
        let (service_infos, service_rows) = services(&servers, &ends, around, snapshot, &mut judge);
        infos.extend(service_infos);
        rows.extend(service_rows);
        let used: BTreeSet<&str> =
            rows.iter().flat_map(|r| [r.source.as_str(), r.destination.as_str()]).collect();
        // Ranges that never differ are not worth a mention.
        let infos = infos
            .iter()
            .filter(|e| !e.name.starts_with("outside ") || used.contains(e.name.as_str()))
            .cloned()
            .collect();
        Ok(Self { ends: infos, rows })
    }
}

/// One end, as the firewall sees it.
struct End<'a> {
    info: EndInfo,
    /// What the firewall calls it, in each family that it has.
    identities: BTreeMap<IpFamily, IdentityId>,
    egress: Option<&'a RuleSet>,
    ingress: Option<&'a RuleSet>,
    /// What its containers declare.
    declared: BTreeSet<(Protocol, u16)>,
}

/// What makes one end differ from another; ends of one class have the same rows but for their names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Class {
    kind: EndKind,
    identities: BTreeMap<IpFamily, IdentityId>,
    egress: usize,
    ingress: usize,
    declared: BTreeSet<(Protocol, u16)>,
}

impl End<'_> {
    fn class(&self) -> Class {
        Class {
            kind: self.info.kind,
            identities: self.identities.clone(),
            egress: place_of(self.egress),
            ingress: place_of(self.ingress),
            declared: self.declared.clone(),
        }
    }
}

/// Rule sets are shared, so where one lies tells which it is.
fn place_of(set: Option<&RuleSet>) -> usize {
    set.map_or(0, |set| ptr::from_ref(set).addr())
}

fn endpoint<'a>(snapshot: &'a Snapshot, addresses: &[IpAddr]) -> Option<&'a EndpointPort> {
    let id = addresses.iter().find_map(|a| snapshot.endpoints.get(a))?;
    match &snapshot.ports.get(id.index())?.as_ref()?.role {
        PortRole::Endpoint(endpoint) => Some(endpoint),
        PortRole::Uplink(_) => None,
    }
}

fn identities(snapshot: &Snapshot, addresses: &[IpAddr]) -> BTreeMap<IpFamily, IdentityId> {
    // The primary address of a family speaks for it.
    addresses.iter().rev().map(|a| (IpFamily::of(*a), snapshot.identities.of(*a))).collect()
}

/// Pods by workload; where its pods are not all alike, those that are.
fn pod_ends<'a>(places: &Places<'_>, snapshot: &'a Snapshot) -> Vec<End<'a>> {
    let mut workloads: BTreeMap<(&str, &str), Vec<End<'a>>> = BTreeMap::new();
    for (name, place) in places.pods.iter().filter(|(_, p)| p.segment.is_some()) {
        let port = endpoint(snapshot, place.addresses);
        let end = End {
            info: EndInfo { name: name.to_string(), kind: EndKind::Pods, pods: vec![name.to_string()] },
            identities: identities(snapshot, place.addresses),
            egress: port.and_then(|p| p.egress.as_deref()),
            ingress: port.and_then(|p| p.ingress.as_deref()),
            declared: place.pod.ports.iter().map(|p| (p.protocol, p.port)).collect(),
        };
        let owner = place.pod.owner.as_deref().unwrap_or(&name.name);
        workloads.entry((&name.namespace, owner)).or_default().push(end);
    }
    // "deployment/web" is called web unless another workload, or pod, is called so too.
    let short = |owner: &str| owner.rsplit('/').next().unwrap_or_default().to_owned();
    let mut called: HashMap<(&str, String), usize> = HashMap::new();
    for (namespace, owner) in workloads.keys() {
        *called.entry((namespace, short(owner))).or_default() += 1;
    }
    let mut ends = Vec::new();
    for ((namespace, owner), pods) in workloads {
        let unique = called.get(&(namespace, short(owner))) == Some(&1);
        let workload = if unique { short(owner) } else { owner.to_owned() };
        let count = pods.len();
        let mut alike: HashMap<Class, usize> = HashMap::new();
        let first = ends.len();
        for end in pods {
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
            match group.info.pods.len() {
                all if all == count => group.info.name = format!("{namespace}/{workload}"),
                1 => {}
                some => group.info.name.push_str(&format!(" and {} more of {workload}", some - 1)),
            }
        }
    }
    ends.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    ends
}

/// All nodes, as long as they are alike; else one by one.
fn node_ends<'a>(addressing: &Addressing, snapshot: &Snapshot) -> Vec<End<'a>> {
    let mut ends: Vec<End<'a>> = addressing
        .nodes
        .iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .map(|(name, addresses)| {
            let info = EndInfo { name: format!("node/{name}"), kind: EndKind::Nodes, pods: Vec::new() };
            let identities = identities(snapshot, addresses);
            End { info, identities, egress: None, ingress: None, declared: BTreeSet::new() }
        })
        .collect();
    if ends.len() > 1 && ends.iter().all(|e| e.class() == ends[0].class()) {
        ends.truncate(1);
        ends[0].info.name = "nodes".to_owned();
    }
    ends
}

/// The outside as a whole, then its ranges, shortest first, each with the position of the end around it.
fn outside_ends<'a>(snapshot: &Snapshot, inside: &[End<'_>]) -> (Vec<End<'a>>, Vec<usize>) {
    let mut families: BTreeSet<IpFamily> = inside.iter().flat_map(|e| e.identities.keys().copied()).collect();
    if families.is_empty() {
        families.insert(IpFamily::V4);
    }
    let end = |name: String, identities| End {
        info: EndInfo { name, kind: EndKind::Outside, pods: Vec::new() },
        identities,
        egress: None,
        ingress: None,
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
        if range.prefix_len() == 0 || ours || !families.contains(&family) {
            continue;
        }
        let around = listed.iter().rev().find(|(net, _)| net.contains(&range));
        parents.push(around.map_or(inside.len(), |(_, at)| *at));
        listed.push((range, inside.len() + ends.len()));
        ends.push(end(format!("outside {range}"), BTreeMap::from([(family, id)])));
    }
    (ends, parents)
}

/// Asks rule sets, each combination once.
#[derive(Default)]
struct Judge {
    classes: HashMap<Class, usize>,
    asked: HashMap<Asked, Rc<Open>>,
    by_family: HashMap<(usize, usize), Rc<ByFamily>>,
    rows: HashMap<(usize, usize, bool), Rc<[Row]>>,
}

/// What is open between two ends, in each family that both have.
type ByFamily = BTreeMap<IpFamily, Rc<Open>>;

/// Two rule sets, by where they lie, and the identities of both ends.
type Asked = (usize, usize, IdentityId, IdentityId);

impl Judge {
    /// The number of an end's class.
    fn class(&mut self, end: &End<'_>) -> usize {
        let next = self.classes.len();
        *self.classes.entry(end.class()).or_insert(next)
    }

    /// What is open from one end to another, by family; nothing for families that they do not share.
    fn open(&mut self, source: Judged<'_>, destination: Judged<'_>) -> Rc<ByFamily> {
        let key = (source.class, destination.class);
        if let Some(open) = self.by_family.get(&key) {
            return open.clone();
        }
        let (source, destination) = (source.end, destination.end);
        let shared = source.identities.iter().filter_map(|(family, from)| {
            let to = destination.identities.get(family)?;
            Some((*family, self.ask(source.egress, destination.ingress, *from, *to)))
        });
        let open = Rc::new(shared.collect());
        self.by_family.insert(key, Rc::clone(&open));
        open
    }

    fn ask(
        &mut self,
        egress: Option<&RuleSet>,
        ingress: Option<&RuleSet>,
        from: IdentityId,
        to: IdentityId,
    ) -> Rc<Open> {
        let key = (place_of(egress), place_of(ingress), from, to);
        self.asked.entry(key).or_insert_with(|| Rc::new(ask(egress, ingress, from, to))).clone()
    }

    /// Whether a pair is treated as a wider pair is, in the families that it has.
    fn same(&mut self, narrow: (Judged<'_>, Judged<'_>), wide: (Judged<'_>, Judged<'_>)) -> bool {
        let wide = self.open(wide.0, wide.1);
        self.open(narrow.0, narrow.1)
            .iter()
            .all(|(family, open)| wide.get(family).is_some_and(|wide| Rc::ptr_eq(wide, open) || wide == open))
    }

    /// The rows of one pair: two where the families differ; none where nothing is open, unless that has to be told.
    fn rows(&mut self, source: Judged<'_>, destination: Judged<'_>, tell_closed: bool) -> Vec<Row> {
        let key = (source.class, destination.class, tell_closed);
        let rows = match self.rows.get(&key) {
            Some(rows) => rows.clone(),
            None => {
                let rows: Rc<[Row]> =
                    rows(&self.open(source, destination), &destination.end.declared, tell_closed).into();
                self.rows.insert(key, rows.clone());
                rows
            }
        };
        let named = rows.iter().map(|row| Row {
            source: source.end.info.name.clone(),
            destination: destination.end.info.name.clone(),
            ..row.clone()
        });
        named.collect()
    }
}

/// An end and the number of its class.
#[derive(Clone, Copy)]
struct Judged<'a> {
    end: &'a End<'a>,
    class: usize,
}

/// Rows still without names.
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
            source: String::new(),
            destination: String::new(),
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

fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

fn ranges(open: &Open) -> Vec<PortRange> {
    let ranges = open.ranges.iter().flat_map(|(protocol, ranges)| {
        ranges.iter().map(|(from, to)| PortRange { protocol: protocol.to_string(), from: *from, to: *to })
    });
    ranges.collect()
}

/// Virtual servers as destinations: their ports that lead to a member this source reaches.
fn services(
    servers: &[ServerSpec],
    ends: &[Judged<'_>],
    around: impl Fn(usize) -> Option<usize>,
    snapshot: &Snapshot,
    judge: &mut Judge,
) -> (Vec<EndInfo>, Vec<Row>) {
    let mut names: Vec<String> = Vec::new();
    let mut by_name: BTreeMap<String, Vec<&ServerSpec>> = BTreeMap::new();
    for server in servers {
        let name = match (&server.service, server.role) {
            (Some(service), _) => format!("{}/svc/{}", service.namespace, service.name),
            (None, ServerRole::KubeApi) => KUBE_API.to_owned(),
            (None, _) => CLI_TOOLS.to_owned(),
        };
        if !by_name.contains_key(&name) {
            names.push(name.clone());
        }
        by_name.entry(name).or_default().push(server);
    }
    let mut rows = Vec::new();
    for name in &names {
        let mut of_class: HashMap<usize, Row> = HashMap::new();
        for source in ends {
            of_class
                .entry(source.class)
                .or_insert_with(|| service_row(source.end, name, &by_name[name], snapshot, judge));
        }
        let of_all: Vec<&Row> = ends.iter().map(|source| &of_class[&source.class]).collect();
        let worth_telling = of_all.iter().enumerate().filter(|(at, row)| match around(*at) {
            Some(wide) => {
                (&of_all[wide].allowed, of_all[wide].unreached_members)
                    != (&row.allowed, row.unreached_members)
            }
            None => !row.allowed.is_empty(),
        });
        rows.extend(
            worth_telling.map(|(at, row)| Row { source: ends[at].end.info.name.clone(), ..(*row).clone() }),
        );
    }
    let info = |name: String| EndInfo { name, kind: EndKind::Service, pods: Vec::new() };
    (names.into_iter().map(info).collect(), rows)
}

fn service_row(
    source: &End<'_>,
    name: &str,
    servers: &[&ServerSpec],
    snapshot: &Snapshot,
    judge: &mut Judge,
) -> Row {
    let outside = source.info.kind == EndKind::Outside;
    let mut open = Open::default();
    let mut unreached: BTreeSet<IpAddr> = BTreeSet::new();
    for server in servers.iter().filter(|s| !outside || s.role != ServerRole::ClusterIp) {
        let family = IpFamily::of(server.address.ip());
        let Some(&from) = source.identities.get(&family) else { continue };
        let proto = server.protocol;
        let active = server.members.iter().filter(|m| m.state == MemberState::Active);
        let (reached, not): (Vec<&Member>, Vec<&Member>) = active.partition(|member| {
            let ip = member.address.ip();
            let ingress = endpoint(snapshot, &[ip]).and_then(|p| p.ingress.as_deref());
            judge
                .ask(source.egress, ingress, from, snapshot.identities.of(ip))
                .has(proto, member.address.port())
        });
        if !reached.is_empty() {
            let port = server.address.port();
            let ports = open.ranges.entry(proto).or_default();
            ports.push((port, port));
            unreached.extend(not.iter().map(|m| m.address.ip()));
        }
    }
    for ports in open.ranges.values_mut() {
        ports.sort_unstable();
        ports.dedup();
    }
    Row {
        source: String::new(),
        destination: name.to_owned(),
        family: None,
        ports: open.to_string(),
        undeclared: None,
        everything: false,
        allowed: ranges(&open),
        unreached_members: Some(unreached.len()).filter(|n| *n > 0),
    }
}
