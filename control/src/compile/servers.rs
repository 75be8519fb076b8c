//! Virtual servers: ClusterIPs, VIPs of LoadBalancer Services and the two default ones, with their members.

use super::{
    CompileError,
    segments::{SHARED_TIER1, tier1_name},
};
use crate::{
    intern::Interner,
    ipam::Addressing,
    model::{
        DefaultServer, EndpointSlice, IpFamily, Model, Name, Pod, Position, Protocol, Selector,
        ServerBackend, Service, ServiceKind, ServicePort, TargetPort,
    },
    place::Places,
    policy::select::LabelIndex,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use supernet_dataplane::{
    id::Generation,
    snapshot::{Names, ServerKind, Servers, VirtualServer},
    table::maglev::Maglev,
};

/// A virtual server before it is compiled: what people want to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// The Service; `None`: a default server.
    pub service: Option<Name>,
    /// "shop/web:80/TCP", with " VIP" and " IPv6" where that tells it from others.
    pub name: String,
    /// What it is for.
    pub role: ServerRole,
    /// The name of the Tier-1 it lives on.
    pub tier1: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// All connections of a client go to one of them.
    pub by_client: bool,
    /// Who serves it, ascending by address.
    pub members: Vec<Member>,
    /// Where it was written.
    pub at: Position,
}

/// What a virtual server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerRole {
    /// The cluster address of a Service.
    ClusterIp,
    /// The VIP of a LoadBalancer Service.
    LoadBalancer,
    /// The Kubernetes API.
    KubeApi,
    /// The command-line tools.
    CliTools,
}

impl ServerRole {
    /// Where it is served.
    pub fn kind(self) -> ServerKind {
        match self {
            Self::ClusterIp => ServerKind::Distributed,
            Self::LoadBalancer | Self::KubeApi | Self::CliTools => ServerKind::Server,
        }
    }
}

/// A member of a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its address and port.
    pub address: SocketAddr,
    /// What it takes.
    pub state: MemberState,
}

/// What a member takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    /// New connections.
    Active,
    /// Only the connections it has: it is being deleted.
    Draining,
    /// Only the connections it has: it is not ready.
    NotReady,
}

/// The KubeAPI server's name.
pub(crate) const KUBE_API: &str = "kube-api";
/// The CLI tools server's name.
pub(crate) const CLI_TOOLS: &str = "cli-tools";

/// Every virtual server of a model, in order of Service, port and address; the default ones last.
///
/// # Errors
/// A default server that names a pod that is not there.
pub fn server_specs(
    model: &Model,
    addressing: &Addressing,
    places: &Places<'_>,
) -> Result<Vec<ServerSpec>, CompileError> {
    let backends = Backends::of(model, places);
    let mut specs = Vec::new();
    for service in model.services.values() {
        if matches!(service.kind, ServiceKind::Headless | ServiceKind::ExternalName) {
            continue;
        }
        let none = Vec::new();
        let cluster_ips = addressing.cluster_ips.get(&service.name).unwrap_or(&none);
        let vips = match service.kind {
            ServiceKind::LoadBalancer => addressing.ingress.get(&service.name).unwrap_or(&none),
            _ => &none,
        };
        let listening = cluster_ips
            .iter()
            .map(|ip| (*ip, ServerRole::ClusterIp, ""))
            .chain(vips.iter().map(|ip| (*ip, ServerRole::LoadBalancer, " VIP")));
        for (ip, role, suffix) in listening {
            let family = if ip.is_ipv6() { " IPv6" } else { "" };
            for port in &service.ports {
                specs.push(ServerSpec {
                    service: Some(service.name.clone()),
                    name: format!("{}:{}/{}{suffix}{family}", service.name, port.port, port.protocol),
                    role,
                    tier1: tier1_name(model.supervisor.tier1, &service.name.namespace),
                    address: SocketAddr::new(ip, port.port),
                    protocol: port.protocol,
                    by_client: service.client_affinity,
                    members: backends.members(service, port, IpFamily::of(ip)),
                    at: service.at.clone(),
                });
            }
        }
    }
    let supervisor = &model.supervisor;
    let defaults = [
        (KUBE_API, ServerRole::KubeApi, &supervisor.kube_api, &addressing.kube_api),
        (CLI_TOOLS, ServerRole::CliTools, &supervisor.cli_tools, &addressing.cli_tools),
    ];
    for (name, role, server, addresses) in defaults {
        for &ip in addresses {
            let family = if ip.is_ipv6() { " IPv6" } else { "" };
            specs.push(ServerSpec {
                service: None,
                name: format!("{name}:{}/TCP{family}", server.port),
                role,
                tier1: SHARED_TIER1.to_owned(),
                address: SocketAddr::new(ip, server.port),
                protocol: Protocol::Tcp,
                by_client: false,
                members: default_members(name, server, IpFamily::of(ip), model, addressing, places)?,
                at: supervisor.at.clone(),
            });
        }
    }
    Ok(specs)
}

/// Compiles virtual servers.
pub(super) fn servers(
    model: &Model,
    addressing: &Addressing,
    specs: &[ServerSpec],
    interner: &mut Interner,
    names: &mut Names,
) -> Result<Servers, CompileError> {
    let mut servers = Servers::default();
    let cluster_ips = addressing.cluster_ips.iter().filter(|(name, _)| model.services.contains_key(name));
    for address in cluster_ips.flat_map(|(_, ips)| ips) {
        servers.addresses.insert(*address, ServerKind::Distributed);
    }
    let vips = addressing.ingress.iter().filter(|(name, _)| model.services.contains_key(name));
    let vips = vips.flat_map(|(_, ips)| ips).chain(&addressing.kube_api).chain(&addressing.cli_tools);
    for address in vips {
        servers.addresses.insert(*address, ServerKind::Server);
    }
    // A Service listens on several addresses and ports, mostly with the same members: one table does for all.
    let mut tables: HashMap<Vec<SocketAddr>, Option<Maglev>> = HashMap::new();
    for spec in specs {
        let id = interner.server(&spec.name);
        names.servers.insert(id, spec.name.clone());
        let tier1 = interner.tier1(&spec.tier1);
        names.tier1s.insert(tier1, spec.tier1.clone());
        let (active, draining): (Vec<&Member>, Vec<&Member>) =
            spec.members.iter().partition(|m| m.state == MemberState::Active);
        let active: Vec<SocketAddr> = active.into_iter().map(|m| m.address).collect();
        let maglev = match tables.get(&active) {
            Some(table) => table.clone(),
            None => tables.entry(active.clone()).or_insert_with(|| Maglev::new(&active)).clone(),
        };
        if maglev.is_none() && !active.is_empty() {
            let (server, count) = (spec.name.clone(), active.len());
            return Err(CompileError::TooManyMembers { server, count, at: spec.at.clone() });
        }
        let server = VirtualServer {
            id,
            kind: spec.role.kind(),
            tier1,
            address: spec.address.ip(),
            proto: spec.protocol.into(),
            port: spec.address.port(),
            active,
            draining: draining.into_iter().map(|m| m.address).collect(),
            maglev,
            by_client: spec.by_client,
            since: Generation::default(),
        };
        let key = (server.address, server.proto, server.port);
        if let Some(first) = servers.listening.insert(key, Arc::new(server)) {
            return Err(CompileError::ServerTaken {
                address: spec.address,
                first: names.servers.get(&first.id).cloned().unwrap_or_default(),
                second: spec.name.clone(),
                at: spec.at.clone(),
            });
        }
    }
    Ok(servers)
}

/// An endpoint of a Service, as Kubernetes sees it.
struct Candidate {
    address: SocketAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// Who may serve Services, by namespace.
struct Backends<'a> {
    places: &'a Places<'a>,
    pods: HashMap<&'a str, (LabelIndex<'a>, Vec<&'a Pod>)>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

impl<'a> Backends<'a> {
    fn of(model: &'a Model, places: &'a Places<'a>) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in model.pods.values() {
            by_namespace.entry(&pod.name.namespace).or_default().push(pod);
        }
        let pods = by_namespace
            .into_iter()
            .map(|(namespace, pods)| (namespace, (pods.iter().map(|p| &p.labels).collect(), pods)))
            .collect();
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in model.endpoint_slices.values() {
            slices.entry((&*slice.name.namespace, &*slice.service)).or_default().push(slice);
        }
        Self { places, pods, slices }
    }

    /// The members of a Service's port in one family: of its EndpointSlices if it has any, else of its selector.
    fn members(&self, service: &Service, port: &ServicePort, family: IpFamily) -> Vec<Member> {
        let key = (&*service.name.namespace, &*service.name.name);
        let candidates = match self.slices.get(&key) {
            Some(slices) => listed(slices, port, family),
            None => self.selected(service, port, family),
        };
        states(candidates)
    }

    fn selected(&self, service: &Service, port: &ServicePort, family: IpFamily) -> Vec<Candidate> {
        let labels = service.selector.as_ref().filter(|labels| !labels.is_empty());
        let pods = self.pods.get(&*service.name.namespace);
        let (Some(labels), Some((index, pods))) = (labels, pods) else { return Vec::new() };
        let selected = index.select(&Selector::labels(labels.clone())).into_iter().map(|at| pods[at]);
        selected
            .filter_map(|pod| {
                let place = self.places.pods.get(&pod.name)?;
                let ip = place.addresses.iter().find(|a| IpFamily::of(**a) == family)?;
                let running = pod.ready || service.publish_not_ready;
                Some(Candidate {
                    address: SocketAddr::new(*ip, target_port(pod, port)?),
                    ready: service.publish_not_ready || (pod.ready && !pod.terminating),
                    serving: running,
                    terminating: pod.terminating,
                })
            })
            .collect()
    }
}

/// The number at this pod; `None`: it has no port of that name and does not serve.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            pod.ports.iter().find(|p| p.name == *name && p.protocol == port.protocol).map(|p| p.port)
        }
    }
}

fn listed(slices: &[&EndpointSlice], port: &ServicePort, family: IpFamily) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for slice in slices.iter().filter(|s| s.family == family) {
        let same = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in same.map(|p| p.port.unwrap_or(port.port)) {
            candidates.extend(slice.endpoints.iter().filter_map(|e| {
                Some(Candidate {
                    address: SocketAddr::new(e.addresses.first()?.value, number),
                    ready: e.ready,
                    serving: e.serving,
                    terminating: e.terminating,
                })
            }));
        }
    }
    candidates
}

/// Kubernetes' rule: ready endpoints take new connections; if there are none, those that still serve while they
/// terminate do. An endpoint that is listed twice has its better state.
fn states(candidates: Vec<Candidate>) -> Vec<Member> {
    let any_ready = candidates.iter().any(|c| c.ready);
    let mut members: BTreeMap<SocketAddr, MemberState> = BTreeMap::new();
    for c in candidates {
        let state = if c.ready || (!any_ready && c.serving && c.terminating) {
            MemberState::Active
        } else if c.terminating {
            MemberState::Draining
        } else {
            MemberState::NotReady
        };
        let have = members.entry(c.address).or_insert(state);
        *have = state.min(*have);
    }
    members.into_iter().map(|(address, state)| Member { address, state }).collect()
}

/// The members of a default server: its backends, or every node on the server's own port.
fn default_members(
    name: &str,
    server: &DefaultServer,
    family: IpFamily,
    model: &Model,
    addressing: &Addressing,
    places: &Places<'_>,
) -> Result<Vec<Member>, CompileError> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let of_family = |ips: &[IpAddr]| ips.iter().copied().find(|ip| IpFamily::of(*ip) == family);
    if server.backends.is_empty() {
        let nodes = addressing.nodes.values().filter_map(|ips| of_family(ips));
        addresses.extend(nodes.map(|ip| SocketAddr::new(ip, server.port)));
    }
    for backend in &server.backends {
        match &backend.value {
            ServerBackend::Address(address) => {
                addresses.extend(Some(*address).filter(|a| IpFamily::of(a.ip()) == family));
            }
            ServerBackend::Pod(pod, port) => {
                let place = places.pods.get(pod).ok_or_else(|| CompileError::NoBackend {
                    server: name.to_owned(),
                    pod: pod.clone(),
                    at: match backend.at.file() {
                        Some(_) => backend.at.clone(),
                        None => model.supervisor.at.clone(),
                    },
                })?;
                addresses.extend(of_family(place.addresses).map(|ip| SocketAddr::new(ip, *port)));
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses.into_iter().map(|address| Member { address, state: MemberState::Active }).collect())
}
