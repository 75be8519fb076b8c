//! A small cluster for tests, with addresses dealt out in order: no pools, no leases.

use crate::{
    compile::{CompileError, compile},
    intern::Interner,
    ipam::{Addressing, PodAddresses, SegmentBlock},
    model::{
        ContainerPort, IpFamily, Labels, Model, Name, NetworkPolicy, Peer, Pod, PolicyPort, PortMatch,
        Position, Protocol, Rule, Selector, Service, ServiceKind, ServicePort, TargetPort,
    },
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_dataplane::snapshot::{EndpointPort, PortRole, Snapshot};

/// A model whose addresses are made up: pods 10.244.N.M and fd00:0:0:N::M in the Nth namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) model: Model,
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name::new(namespace, name)
}

pub(crate) fn http(port: u16) -> ContainerPort {
    ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port }
}

pub(crate) fn tcp(port: u16) -> PolicyPort {
    PolicyPort { protocol: Protocol::Tcp, port: PortMatch::number(port) }
}

pub(crate) fn pods_in_own_namespace(pairs: &[(&str, &str)]) -> Peer {
    Peer::Pods { namespaces: None, pods: Some(Selector::labels(pairs.iter().copied())) }
}

pub(crate) fn block(cidr: &str, except: &[&str]) -> Peer {
    let net = |text: &str| text.parse().unwrap();
    Peer::Block { cidr: net(cidr), except: except.iter().map(|e| net(e)).collect() }
}

impl Cluster {
    pub(crate) fn pod(&mut self, pod: &str, pairs: &[(&str, &str)]) -> &mut Pod {
        let mut new = Pod::new(name(pod));
        new.labels = labels(pairs);
        self.model.insert(new.into());
        self.model.pods.get_mut(&name(pod)).unwrap()
    }

    pub(crate) fn policy(
        &mut self,
        policy: &str,
        pods: &[(&str, &str)],
        ingress: Option<Vec<Rule>>,
        egress: Option<Vec<Rule>>,
    ) {
        let pods = Selector::labels(pods.iter().copied());
        let at = Position::default();
        self.model
            .insert(NetworkPolicy { name: name(policy), pods, ingress, egress, staged: false, at }.into());
    }

    pub(crate) fn service(
        &mut self,
        service: &str,
        kind: ServiceKind,
        selector: &[(&str, &str)],
        target: TargetPort,
    ) -> &mut Service {
        let new = Service {
            name: name(service),
            kind,
            selector: Some(labels(selector)).filter(|s| !s.is_empty()),
            ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, target }],
            cluster_ips: Vec::new(),
            load_balancer_ip: None,
            families: vec![IpFamily::V4],
            prefer_dual_stack: false,
            publish_not_ready: false,
            external_name: None,
            client_affinity: false,
            at: Position::new("svc.yaml", 7, 1),
        };
        self.model.insert(new.into());
        self.model.services.get_mut(&name(service)).unwrap()
    }

    pub(crate) fn addressing(&self) -> Addressing {
        let mut addressing = Addressing::default();
        for (n, namespace) in (0u8..).zip(self.model.namespaces.keys()) {
            let segment = format!("{namespace}-0");
            addressing.segments.push(SegmentBlock {
                name: segment.clone(),
                namespace: namespace.clone(),
                v4: Some(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 244, n, 0), 24)),
                v6: Some(ipnet::Ipv6Net::new_assert(v6(n, 0), 64)),
            });
            addressing.egress.insert(namespace.clone(), vec![IpAddr::from([192, 168, 90, n + 1])]);
            let pods = self.model.pods.values().filter(|p| p.name.namespace == *namespace && !p.host_network);
            for (m, pod) in (2u8..).zip(pods) {
                let addresses = vec![IpAddr::from([10, 244, n, m]), v6(n, m).into()];
                let segment = segment.clone();
                addressing.pods.insert(pod.name.clone(), PodAddresses { segment, addresses });
            }
        }
        for n in 1..=3u8 {
            let addresses = vec![IpAddr::from([172, 26, 0, n + 1]), v6(0xff, n).into()];
            addressing.nodes.insert(format!("node-{n}"), addresses);
        }
        for (n, service) in (1u8..).zip(self.model.services.values()) {
            if matches!(service.kind, ServiceKind::Headless | ServiceKind::ExternalName) {
                continue;
            }
            addressing.cluster_ips.insert(service.name.clone(), vec![IpAddr::from([10, 96, 0, n])]);
            if service.kind == ServiceKind::LoadBalancer {
                addressing.ingress.insert(service.name.clone(), vec![IpAddr::from([192, 168, 80, n + 2])]);
            }
        }
        addressing.kube_api = vec![IpAddr::from([192, 168, 80, 1])];
        addressing.cli_tools = vec![IpAddr::from([192, 168, 80, 2])];
        addressing
    }

    pub(crate) fn compile(&self) -> Result<Snapshot, CompileError> {
        compile(&self.model, &self.addressing(), &mut Interner::default())
    }
}

fn v6(n: u8, m: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, n.into(), 0, 0, 0, m.into())
}

/// The endpoint that has an address.
pub(crate) fn endpoint(snapshot: &Snapshot, addr: IpAddr) -> Option<&EndpointPort> {
    let id = snapshot.endpoints.get(&addr)?;
    match &snapshot.ports[id.index()].as_ref().unwrap().role {
        PortRole::Endpoint(endpoint) => Some(endpoint),
        PortRole::Uplink(_) => None,
    }
}

impl Cluster {
    /// The address of a pod or node, in one family.
    pub(crate) fn address(&self, pod: &Name, family: IpFamily) -> IpAddr {
        let addressing = self.addressing();
        let addresses = &addressing.pods[pod].addresses;
        *addresses.iter().find(|a| IpFamily::of(**a) == family).unwrap()
    }
}
