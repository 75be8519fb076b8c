//! How a plan becomes a picture: its rows by namespace, then boxes with ids, then links between them.

use super::{
    Area, Counts, End, Fold, Folded, Group, Id, Lead, LeadTo, Link, Listen, Open, Outside, READABLE, Segment,
    Server, Tier0, Tier1, Topology, TopologyError, Uplink, View,
};
use crate::{
    analysis::plan::{MemberPlan, Plan, PodPlan, SegmentPlan, VirtualServerKind, VirtualServerPlan},
    compile::SHARED_TIER1,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

pub(super) fn topology(plan: &Plan, view: &View) -> Result<Topology, TopologyError> {
    let parts = parts(plan);
    let namespaces: Vec<&str> = parts.keys().flatten().copied().collect();
    if let Some(name) = view.namespaces.iter().find(|n| !parts.contains_key(&Some(n.as_str()))) {
        let known = namespaces.iter().map(|n| (*n).to_owned()).collect();
        return Err(TopologyError::UnknownNamespace { name: name.clone(), known });
    }
    let nodes = plan.nodes.iter().flat_map(|n| n.ips.iter().map(|ip| (*ip, n.name.as_str())));
    let mut maker = Maker { plan, nodes: nodes.collect(), next: 0, at: HashMap::new() };
    let outside = Outside { id: maker.id(), learns: plan.advertised_routes.clone() };
    let uplinks = maker.uplinks();
    let routes = plan.routes.iter().filter(|r| r.kind == "static").cloned().collect();
    let tier0 = Tier0 { id: maker.id(), routes };
    let tier1s = maker.tier1s(&parts, view);
    let links = links(&tier1s, &maker.at, outside.id);
    let mut totals = Counts::default();
    parts.values().for_each(|part| totals += part.counts());
    let areas = tier1s.iter().flat_map(|t| &t.areas);
    let open = areas.filter(|a| matches!(a, Area::Open(Open { namespace: Some(_), .. }))).count();
    let namespaces = (namespaces.len(), namespaces.len() - open);
    Ok(Topology { outside, uplinks, tier0, tier1s, links, totals, namespaces })
}

/// All that a plan says about one namespace, or about the nodes.
#[derive(Default)]
struct Part<'a> {
    tier1: Option<&'a str>,
    segments: Vec<&'a SegmentPlan>,
    snat: Vec<IpAddr>,
    servers: Vec<&'a VirtualServerPlan>,
    pods: Vec<&'a PodPlan>,
    policies: BTreeSet<&'a str>,
    nodes: usize,
}

impl Part<'_> {
    fn counts(&self) -> Counts {
        let services: BTreeSet<&str> =
            self.servers.iter().filter(|s| s.namespace.is_some()).map(|s| s.name.as_str()).collect();
        Counts {
            pods: self.pods.len(),
            services: services.len(),
            policies: self.policies.len(),
            nodes: self.nodes,
        }
    }
}

/// By namespace; `None` is the nodes.
fn parts(plan: &Plan) -> BTreeMap<Option<&str>, Part<'_>> {
    let mut parts: BTreeMap<Option<&str>, Part<'_>> = BTreeMap::new();
    for segment in &plan.segments {
        let part = parts.entry(segment.namespace.as_deref()).or_default();
        part.tier1 = Some(&segment.tier1);
        part.segments.push(segment);
    }
    for snat in &plan.snat {
        let part = parts.entry(Some(&snat.namespace)).or_default();
        part.tier1 = Some(&snat.tier1);
        part.snat.push(snat.address);
    }
    for server in &plan.virtual_servers {
        parts.entry(server.namespace.as_deref()).or_default().servers.push(server);
    }
    for pod in &plan.pods {
        parts.entry(Some(namespace_of(&pod.name))).or_default().pods.push(pod);
    }
    // What is no NetworkPolicy lies in no namespace.
    for section in plan.firewall.iter().filter(|s| matches!(s.category, "allow" | "isolation")) {
        parts.entry(Some(namespace_of(&section.policy))).or_default().policies.insert(&section.policy);
    }
    // A Service without pods has no segment, but its VIP is announced by someone.
    for route in &plan.advertised_routes {
        if let Some(part) = parts.get_mut(&Some(namespace_of(&route.owner))) {
            part.tier1.get_or_insert(&route.tier1);
        }
    }
    if let Some(nodes) = parts.get_mut(&None) {
        nodes.nodes = plan.nodes.len();
    }
    parts
}

fn namespace_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(namespace, _)| namespace)
}

/// Makes boxes, each with an id of its own.
struct Maker<'a> {
    plan: &'a Plan,
    /// Nodes' names by address.
    nodes: HashMap<IpAddr, &'a str>,
    next: u32,
    /// The group or the folded namespace of every address.
    at: HashMap<IpAddr, Id>,
}

impl<'a> Maker<'a> {
    fn id(&mut self) -> Id {
        self.next += 1;
        Id(self.next)
    }

    fn uplinks(&mut self) -> Vec<Uplink> {
        let uplinks = self.plan.uplinks.iter().map(|u| Uplink {
            id: self.id(),
            name: u.name.clone(),
            addresses: u.addresses.clone(),
            mac: u.mac.clone(),
        });
        uplinks.collect()
    }

    fn tier1s(&mut self, parts: &BTreeMap<Option<&'a str>, Part<'a>>, view: &View) -> Vec<Tier1> {
        let shared = parts.get(&None).and_then(|nodes| nodes.tier1).unwrap_or(SHARED_TIER1);
        let pods: usize = parts.values().map(|p| p.pods.len()).sum();
        let open = |namespace: Option<&str>, part: &Part<'_>| match (namespace, view.fold) {
            (None, fold) => fold == Fold::Never || part.nodes <= READABLE,
            (Some(name), _) if !view.namespaces.is_empty() => view.namespaces.contains(name),
            (_, Fold::Auto) => pods <= READABLE,
            (_, fold) => fold == Fold::Never,
        };
        let mut by_tier1: BTreeMap<&str, Vec<Area>> = BTreeMap::new();
        let mut rest: BTreeMap<&str, Vec<(&str, &Part<'_>)>> = BTreeMap::new();
        // The nodes come last, as they do in the plan.
        let (nodes, namespaces): (Vec<_>, Vec<_>) = parts.iter().partition(|(name, _)| name.is_none());
        for (&name, part) in namespaces.into_iter().chain(nodes) {
            let tier1 = part.tier1.unwrap_or(shared);
            let area = match name {
                _ if open(name, part) => Area::Open(self.open(name, part)),
                Some(name) if !view.namespaces.is_empty() => {
                    rest.entry(tier1).or_default().push((name, part));
                    continue;
                }
                name => Area::Folded(self.folded(name.map(|n| (n, part)).as_slice(), part)),
            };
            by_tier1.entry(tier1).or_default().push(area);
        }
        self.rest(rest, &mut by_tier1)
    }

    /// Adds the namespaces that were not asked for: one box behind a Tier-1 that is drawn anyway, and one for all
    /// that have a Tier-1 of their own.
    fn rest(
        &mut self,
        rest: BTreeMap<&str, Vec<(&str, &Part<'_>)>>,
        drawn: &mut BTreeMap<&str, Vec<Area>>,
    ) -> Vec<Tier1> {
        let nothing = Part::default();
        let (mut names, mut others) = (Vec::new(), Vec::new());
        for (tier1, namespaces) in rest {
            match drawn.get_mut(tier1) {
                Some(areas) => areas.push(Area::Folded(self.folded(&namespaces, &nothing))),
                None => {
                    names.push(tier1.to_owned());
                    others.extend(namespaces);
                }
            }
        }
        let mut tier1s = Vec::new();
        for (name, areas) in std::mem::take(drawn) {
            tier1s.push(Tier1 { id: self.id(), names: vec![name.to_owned()], areas });
        }
        if !others.is_empty() {
            let areas = vec![Area::Folded(self.folded(&others, &nothing))];
            tier1s.push(Tier1 { id: self.id(), names, areas });
        }
        tier1s
    }

    fn open(&mut self, namespace: Option<&str>, part: &Part<'a>) -> Open {
        let id = self.id();
        let servers = self.servers(part);
        let mut leading: HashMap<IpAddr, BTreeSet<usize>> = HashMap::new();
        for (at, server) in servers.iter().enumerate() {
            for member in &server.members {
                leading.entry(member.address).or_default().insert(at);
            }
        }
        let segments = part.segments.iter().map(|s| {
            let id = self.id();
            let ends = match namespace {
                Some(_) => self.pods(part, &s.name),
                None => self.nodes(),
            };
            Segment {
                id,
                name: s.name.clone(),
                blocks: s.cidrs.clone(),
                gateways: s.gateways.clone(),
                free: s.free,
                groups: self.groups(ends, &leading),
            }
        });
        Open {
            id,
            namespace: namespace.map(str::to_owned),
            counts: part.counts(),
            policies: part.policies.iter().map(|p| (*p).to_owned()).collect(),
            snat: part.snat.clone(),
            segments: segments.collect(),
            servers,
        }
    }

    /// `alone` is the part of the nodes, which no namespace has.
    fn folded(&mut self, namespaces: &[(&str, &Part<'_>)], alone: &Part<'_>) -> Folded {
        let id = self.id();
        let parts: Vec<&Part<'_>> = match namespaces {
            [] => vec![alone],
            some => some.iter().map(|(_, part)| *part).collect(),
        };
        let mut counts = Counts::default();
        parts.iter().for_each(|part| counts += part.counts());
        for pod in parts.iter().flat_map(|p| &p.pods).filter(|p| !p.host_network) {
            self.at.extend(pod.ips.iter().map(|ip| (*ip, id)));
        }
        if namespaces.is_empty() {
            let nodes = self.plan.nodes.iter().flat_map(|n| &n.ips);
            self.at.extend(nodes.map(|ip| (*ip, id)));
        }
        let servers = parts.iter().flat_map(|p| &p.servers);
        let vips: BTreeSet<IpAddr> =
            servers.filter(|s| s.kind != VirtualServerKind::ClusterIP).map(|s| s.vip).collect();
        Folded {
            id,
            namespaces: namespaces.iter().map(|(name, _)| (*name).to_owned()).collect(),
            counts,
            blocks: parts.iter().flat_map(|p| &p.segments).flat_map(|s| s.cidrs.clone()).collect(),
            snat: parts.iter().flat_map(|p| p.snat.clone()).collect(),
            vips: vips.into_iter().collect(),
        }
    }

    /// One box a Service: it has a virtual server for every address, port and protocol.
    fn servers(&mut self, part: &Part<'_>) -> Vec<Server> {
        let mut servers: Vec<Server> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for plan in &part.servers {
            let at = *places.entry(&plan.name).or_insert(servers.len());
            if at == servers.len() {
                let (listens, leads, members) = (Vec::new(), Vec::new(), Vec::new());
                servers.push(Server { id: self.id(), name: plan.name.clone(), listens, leads, members });
            }
            let server = &mut servers[at];
            server.listens.push(Listen {
                kind: plan.kind,
                address: plan.vip,
                port: plan.port,
                protocol: plan.protocol.clone(),
            });
            server.members.extend(plan.members.iter().cloned());
        }
        for server in &mut servers {
            server.members.sort_by(|a, b| (a.address, a.port, a.state).cmp(&(b.address, b.port, b.state)));
            server.members.dedup();
            server.leads = leads(&server.members, &self.nodes);
        }
        servers
    }

    fn pods(&mut self, part: &Part<'_>, segment: &str) -> Vec<End> {
        let pods = part.pods.iter().filter(|p| !p.host_network && p.segment == segment);
        let pods = pods.map(|p| End {
            id: self.id(),
            name: p.name.split_once('/').map_or(&*p.name, |(_, name)| name).to_owned(),
            addresses: p.ips.clone(),
            mac: p.mac.clone(),
            node: p.node.clone(),
            workload: p.workload.clone(),
            guests: Vec::new(),
        });
        pods.collect()
    }

    fn nodes(&mut self) -> Vec<End> {
        let mut guests: HashMap<&str, Vec<String>> = HashMap::new();
        for pod in self.plan.pods.iter().filter(|p| p.host_network) {
            guests.entry(pod.node.as_deref().unwrap_or_default()).or_default().push(pod.name.clone());
        }
        let nodes = self.plan.nodes.iter().map(|n| End {
            id: self.id(),
            name: n.name.clone(),
            addresses: n.ips.clone(),
            mac: n.mac.clone(),
            node: None,
            workload: None,
            guests: guests.remove(&*n.name).unwrap_or_default(),
        });
        nodes.collect()
    }

    fn groups(&mut self, ends: Vec<End>, leading: &HashMap<IpAddr, BTreeSet<usize>>) -> Vec<Group> {
        let mut groups: BTreeMap<(bool, Vec<usize>), Vec<End>> = BTreeMap::new();
        for end in ends {
            let servers: BTreeSet<usize> =
                end.addresses.iter().filter_map(|a| leading.get(a)).flatten().copied().collect();
            groups.entry((servers.is_empty(), servers.into_iter().collect())).or_default().push(end);
        }
        let groups = groups.into_iter().map(|((_, servers), ends)| {
            let id = self.id();
            self.at.extend(ends.iter().flat_map(|e| &e.addresses).map(|a| (*a, id)));
            Group { id, servers, ends }
        });
        groups.collect()
    }
}

fn leads(members: &[MemberPlan], nodes: &HashMap<IpAddr, &str>) -> Vec<Lead> {
    let mut leads: BTreeMap<LeadTo, (BTreeMap<String, bool>, BTreeSet<u16>)> = BTreeMap::new();
    for member in members {
        let (to, name) = match (&member.pod, nodes.get(&member.address)) {
            (Some(pod), _) => (LeadTo::Pods, pod.clone()),
            (None, Some(node)) => (LeadTo::Nodes, (*node).to_owned()),
            (None, None) => (LeadTo::Outside, member.address.to_string()),
        };
        let (names, ports) = leads.entry(to).or_default();
        *names.entry(name).or_default() |= member.state == "active";
        ports.insert(member.port);
    }
    let leads = leads.into_iter().map(|(to, (names, ports))| Lead {
        to,
        idle: names.values().filter(|active| !**active).count(),
        names: names.into_keys().collect(),
        ports,
    });
    leads.collect()
}

fn links(tier1s: &[Tier1], at: &HashMap<IpAddr, Id>, outside: Id) -> Vec<Link> {
    let areas = tier1s.iter().flat_map(|t| &t.areas);
    let servers = areas.flat_map(|area| match area {
        Area::Open(open) => open.servers.as_slice(),
        Area::Folded(_) => &[],
    });
    let links = servers.flat_map(|server| {
        let to = server.members.iter().map(|m| at.get(&m.address).copied().unwrap_or(outside));
        to.map(|to| Link { from: server.id, to })
    });
    links.collect::<BTreeSet<Link>>().into_iter().collect()
}
