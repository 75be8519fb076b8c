//! The objects that make a cluster's DNS: what is missing of them is added to the network, and told from what the user
//! has declared.
//!
//! What always holds: the user's objects and their addresses are as they would be without; what the user declares of
//! the same name takes the place of ours; and what is missing then is added again.

use super::{
    Names,
    fill::{self, serving, target_port},
    resolv,
    zone::CLUSTER,
};
use crate::lab::spec::{EndpointSpec, LabSpec, OUTSIDE};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use supernet::{Handle, NetworkError};
use supernet_control::{
    analysis::plan::PodPlan,
    ipam::Addressing,
    model::{
        ContainerPort, IngressPosture, IpFamily, Labels, Model, Name, Namespace, NetworkPolicy, Object,
        ObjectId, ObjectKind, Peer, Pod, PolicyPort, PortMatch, Position, Protocol, Rule, Selector, Service,
        ServiceKind, ServicePort, Snat, TargetPort,
    },
};

/// Where a cluster has its DNS.
const NAMESPACE: &str = "kube-system";
/// Its Service, and our policy.
const SERVICE: &str = "kube-dns";
/// Our pod.
const POD: &str = "coredns";
/// The label of the pods that serve names.
const LABEL: (&str, &str) = ("k8s-app", "kube-dns");
/// The port of names.
const PORT: u16 = 53;
/// The number of the Service's address in its range, by custom.
const TENTH: u8 = 10;
const TRANSPORTS: [(&str, Protocol); 2] = [("dns", Protocol::Udp), ("dns-tcp", Protocol::Tcp)];

/// Why a lab comes up without names.
#[derive(Debug, thiserror::Error)]
pub(in crate::lab) enum NoDns {
    #[error(
        "there is no room for the lab's DNS, so names are not resolved (--no-dns leaves it out in silence): {0}"
    )]
    NoRoom(NetworkError),
    #[error(
        "the Supervisor has no serviceCIDRs, so there is no address for the lab's DNS, and names are not resolved"
    )]
    NoServices,
}

/// The DNS of a lab.
#[derive(Debug, Clone, Default)]
pub(in crate::lab) struct Dns {
    /// Objects that are ours.
    own: BTreeSet<ObjectId>,
    /// Addresses that our Service asks for.
    asked: Vec<IpAddr>,
    /// Counts states of the network.
    serial: u32,
}

impl Dns {
    /// Adds the DNS to a network that has just been built, without anybody else's address changing.
    pub(in crate::lab) fn join(net: &Handle) -> Result<Self, NoDns> {
        let model = net.model();
        if model.supervisor.service_cidrs.is_empty() {
            return Err(NoDns::NoServices);
        }
        let taken: BTreeSet<IpAddr> = net.addressing().cluster_ips.into_values().flatten().collect();
        let tenth = tenths(&model).filter(|a| !taken.contains(a)).collect();
        let attempt = |asked: Vec<IpAddr>| {
            let (next, dns) = Self { asked, ..Self::default() }.complete(model.clone());
            net.draft(next).and_then(|draft| net.commit(draft)).map(|()| dns)
        };
        attempt(tenth).or_else(|_| attempt(Vec::new())).map_err(NoDns::NoRoom)
    }

    /// Whether an object is ours.
    pub(in crate::lab) fn owns(&self, id: &ObjectId) -> bool {
        self.own.contains(id)
    }

    /// What the user declared of a network.
    pub(in crate::lab) fn without(&self, mut model: Model) -> Model {
        for ObjectId { kind, name } in &self.own {
            match kind {
                ObjectKind::Pod => drop(model.pods.remove(name)),
                ObjectKind::Service => drop(model.services.remove(name)),
                ObjectKind::NetworkPolicy => drop(model.policies.remove(name)),
                ObjectKind::Namespace => drop(model.namespaces.remove(&name.name)),
                _ => {}
            }
        }
        model
    }

    /// The addresses of others.
    pub(in crate::lab) fn without_own(&self, mut addressing: Addressing) -> Addressing {
        let is_own = |kind, name: &Name| self.owns(&ObjectId { kind, name: name.clone() });
        addressing.pods.retain(|name, _| !is_own(ObjectKind::Pod, name));
        addressing.cluster_ips.retain(|name, _| !is_own(ObjectKind::Service, name));
        addressing
    }

    /// What the user declared, with what is missing of a DNS. The DNS of that network.
    pub(in crate::lab) fn complete(&self, mut model: Model) -> (Model, Self) {
        let mut own = BTreeSet::new();
        let mut add = |model: &mut Model, object: Object| {
            own.insert(object.id());
            model.insert(object);
        };
        if !model.namespaces.contains_key(NAMESPACE) {
            // It needs no address of the egress pool: nobody there talks to the outside.
            let namespace =
                Namespace { snat: Snat::None, ..Namespace::named(NAMESPACE, Position::default()) };
            add(&mut model, namespace.into());
        }
        let name = Name::new(NAMESPACE, SERVICE);
        if !model.services.contains_key(&name) {
            let service = self.service(&model);
            add(&mut model, service.into());
        }
        if let Some(pod) = model.services.get(&name).and_then(|service| missing_pod(&model, service)) {
            add(&mut model, pod.into());
        }
        if let Some(policy) = model.services.get(&name).and_then(|service| missing_policy(&model, service)) {
            add(&mut model, policy.into());
        }
        (model, Self { own, asked: self.asked.clone(), serial: self.serial.wrapping_add(1) })
    }

    /// Says in a lab who serves names, which there are, and whom hosts ask. `pods` are the plan's.
    pub(in crate::lab) fn furnish(
        &self,
        spec: &mut LabSpec,
        model: &Model,
        addressing: &Addressing,
        pods: &[PodPlan],
    ) {
        let name = Name::new(NAMESPACE, SERVICE);
        let server = format!("{SERVICE}.{NAMESPACE}.svc.{CLUSTER}");
        let zone = Arc::new(fill::zone(model, addressing, pods, &server, self.serial));
        let served = model.services.get(&name).map(|s| served_ports(model, s)).unwrap_or_default();
        let mut servers = addressing.cluster_ips.get(&name).cloned().unwrap_or_default();
        if servers.is_empty() {
            // A headless one: its pods are asked.
            let ips = pods.iter().filter(|pod| served.contains_key(&pod.name)).flat_map(|pod| &pod.ips);
            servers.extend(ips.copied());
        }
        let mut resolv = BTreeMap::from([(OUTSIDE.to_owned(), resolv::NOBODY.to_owned())]);
        for endpoint in &mut spec.endpoints {
            let has = |a: &&IpAddr| endpoint.addresses.iter().any(|own| own.addr().is_ipv4() == a.is_ipv4());
            let reached: Vec<IpAddr> = servers.iter().filter(has).copied().collect();
            let text = |name: &str| match model.pods.get(&full_name(name)) {
                Some(pod) => resolv::of_pod(pod, &reached),
                None => resolv::NOBODY.to_owned(),
            };
            resolv.insert(endpoint.name.clone(), text(&endpoint.name));
            let EndpointSpec { name, serve, dns, hosted, .. } = endpoint;
            mark(served.get(name), serve, dns);
            for pod in hosted {
                resolv.insert(pod.name.clone(), text(&pod.name));
                mark(served.get(&pod.name), &mut pod.serve, &mut pod.dns);
            }
        }
        spec.names = Some(Names { zone, resolv });
    }

    /// Our Service, with an address of every family that Services have.
    fn service(&self, model: &Model) -> Service {
        let mut families: Vec<IpFamily> = Vec::new();
        for family in model.supervisor.service_cidrs.iter().map(|cidr| IpFamily::of(cidr.value.addr())) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        // The ranges may have been changed.
        let cidrs = &model.supervisor.service_cidrs;
        let is_there = |a: &&IpAddr| cidrs.iter().any(|cidr| cidr.value.contains(*a));
        let port = |(name, protocol): (&str, Protocol)| ServicePort {
            name: name.to_owned(),
            protocol,
            port: PORT,
            target: TargetPort::Number(PORT),
        };
        Service {
            name: Name::new(NAMESPACE, SERVICE),
            kind: ServiceKind::ClusterIp,
            selector: Some(Labels::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
            ports: TRANSPORTS.map(port).to_vec(),
            cluster_ips: self.asked.iter().filter(is_there).map(|a| (*a).into()).collect(),
            load_balancer_ip: None,
            families,
            prefer_dual_stack: true,
            publish_not_ready: false,
            external_name: None,
            client_affinity: false,
            at: Position::default(),
        }
    }
}

/// The tenth address of the first range of each family.
fn tenths(model: &Model) -> impl Iterator<Item = IpAddr> + '_ {
    let cidrs = || model.supervisor.service_cidrs.iter().map(|cidr| cidr.value);
    let first = |v4: bool| cidrs().find(move |cidr| cidr.addr().is_ipv4() == v4);
    [first(true), first(false)].into_iter().flatten().filter_map(|cidr| {
        let address = match cidr.network() {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits().checked_add(TENTH.into())?)),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits().checked_add(TENTH.into())?)),
        };
        cidr.contains(&address).then_some(address)
    })
}

/// A pod to serve names, if the Service selects none, and says nowhere else who serves it.
fn missing_pod(model: &Model, service: &Service) -> Option<Pod> {
    let selector = service.selector.clone().filter(|labels| !labels.is_empty())?;
    let listed = model
        .endpoint_slices
        .values()
        .any(|slice| slice.name.namespace == NAMESPACE && slice.service == SERVICE);
    if listed || service.kind == ServiceKind::ExternalName || serving(model, service).next().is_some() {
        return None;
    }
    let names = (0..).map(|n| if n == 0 { POD.to_owned() } else { format!("{POD}-{n}") });
    let mut names = names.map(|name| Name::new(NAMESPACE, name));
    let mut pod = Pod::new(names.find(|name| !model.pods.contains_key(name))?);
    pod.labels = selector;
    for port in service.ports.iter().filter(|port| is_dns(port)) {
        let (name, number) = match &port.target {
            TargetPort::Number(number) => (port.name.clone(), *number),
            TargetPort::Name(name) => (name.clone(), PORT),
        };
        pod.ports.push(ContainerPort { name, protocol: port.protocol, port: number });
    }
    Some(pod)
}

/// Where pods are not reached unless a policy says so, and none does for those of the DNS: one by which every pod and
/// node reaches them.
fn missing_policy(model: &Model, service: &Service) -> Option<NetworkPolicy> {
    let name = Name::new(NAMESPACE, SERVICE);
    let closed =
        matches!(model.supervisor.ingress_posture, IngressPosture::Deny | IngressPosture::AllowNamespace);
    let selector = service.selector.clone().filter(|labels| !labels.is_empty())?;
    let policies = model.policies.values().filter(|p| p.name.namespace == NAMESPACE && p.ingress.is_some());
    let mut policies =
        policies.filter(|p| p.name == name || serving(model, service).any(|pod| p.pods.matches(&pod.labels)));
    if !closed || policies.next().is_some() {
        return None;
    }
    let block = |cidr| Peer::Block { cidr, except: Vec::new() };
    let nodes = model.nodes.values().flat_map(|node| &node.addresses).map(|a| a.value.into());
    let nodes = model.supervisor.node_cidrs.iter().map(|cidr| cidr.value.trunc()).chain(nodes);
    let pods = Peer::Pods { namespaces: Some(Selector::ALL), pods: None };
    let port = |port: &ServicePort| PolicyPort {
        protocol: port.protocol,
        port: match &port.target {
            TargetPort::Number(number) => PortMatch::number(*number),
            TargetPort::Name(name) => PortMatch::Named(name.clone()),
        },
    };
    let ports: Vec<PolicyPort> = service.ports.iter().filter(|port| is_dns(port)).map(port).collect();
    if ports.is_empty() {
        return None;
    }
    let rule = Rule { peers: [pods].into_iter().chain(nodes.map(block)).collect(), ports };
    Some(NetworkPolicy {
        name,
        pods: Selector::labels(selector),
        ingress: Some(vec![rule]),
        egress: None,
        staged: false,
        at: Position::default(),
    })
}

fn is_dns(port: &ServicePort) -> bool {
    port.port == PORT && port.protocol != Protocol::Sctp
}

/// Ports of pods that are asked for names, by the pods' full names.
fn served_ports(model: &Model, service: &Service) -> BTreeMap<String, Vec<(Protocol, u16)>> {
    let ports = |pod: &Pod| {
        let ports = service.ports.iter().filter(|port| is_dns(port));
        ports.filter_map(|port| Some((port.protocol, target_port(pod, port)?))).collect()
    };
    serving(model, service).map(|pod| (pod.name.to_string(), ports(pod))).collect()
}

/// Has ports served, and names spoken there.
fn mark(
    ports: Option<&Vec<(Protocol, u16)>>,
    serve: &mut Vec<(Protocol, u16)>,
    dns: &mut Vec<(Protocol, u16)>,
) {
    for port in ports.into_iter().flatten() {
        if !serve.contains(port) {
            serve.push(*port);
        }
        dns.push(*port);
    }
}

/// From "NAMESPACE/POD"; of a node no pod's.
fn full_name(name: &str) -> Name {
    let (namespace, pod) = name.split_once('/').unwrap_or(("", name));
    Name::new(namespace, pod)
}
