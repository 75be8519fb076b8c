//! From a network to its names: Kubernetes' specification of names for Services and pods, version 1.1.0.
//!
//! ```text
//!   web.shop.svc.cluster.local                 A, AAAA    ClusterIPs; of a headless Service its ready endpoints
//!                                              CNAME      ExternalName
//!   _http._tcp.web.shop.svc.cluster.local      SRV        ports with names
//!   web-0.web.shop.svc.cluster.local           A, AAAA    endpoints of headless Services: by hostname, or 10-244-0-5
//!   10-244-0-5.shop.pod.cluster.local          A, AAAA    said by the name itself
//!   10.0.96.10.in-addr.arpa                    PTR        ClusterIPs and endpoints of headless Services
//! ```

use super::zone::{CLUSTER, Zone, dashed};
use std::{collections::BTreeMap, net::IpAddr};
use supernet_control::{
    analysis::plan::PodPlan,
    ipam::Addressing,
    model::{
        EndpointSlice, IpFamily, Model, Name, Pod, Protocol, Service, ServiceKind, ServicePort, TargetPort,
    },
};

/// The zone of a network. `pods` are the plan's; `server` is the Service that answers, `serial` counts the network's
/// states.
pub(super) fn zone(
    model: &Model,
    addressing: &Addressing,
    pods: &[PodPlan],
    server: &str,
    serial: u32,
) -> Zone {
    let mut zone = Zone::new(server, serial);
    for tree in ["svc", "pod"] {
        zone.add_name(&format!("{tree}.{CLUSTER}"));
        for namespace in model.namespaces.keys() {
            zone.add_name(&format!("{namespace}.{tree}.{CLUSTER}"));
        }
    }
    let network = Network {
        model,
        addresses: pods.iter().map(|pod| (&*pod.name, &pod.ips[..])).collect(),
        first: first_family(model),
    };
    for service in model.services.values() {
        let name = format!("{}.{}.svc.{CLUSTER}", service.name.name, service.name.namespace);
        match (service.kind, &service.external_name) {
            (ServiceKind::ExternalName, Some(target)) => zone.add_alias(&name, target),
            (ServiceKind::ExternalName, None) => {}
            (ServiceKind::Headless, _) => {
                for endpoint in network.endpoints(service) {
                    add_endpoint(&mut zone, &name, &endpoint);
                }
            }
            _ => {
                for &address in addressing.cluster_ips.get(&service.name).into_iter().flatten() {
                    zone.add_address(&name, address);
                    zone.add_pointer(address, &name);
                }
                for port in service.ports.iter().filter(|p| !p.name.is_empty()) {
                    zone.add_server(&port_name(&port.name, port.protocol, &name), port.port, &name);
                }
            }
        }
    }
    zone.finish()
}

fn add_endpoint(zone: &mut Zone, service: &str, endpoint: &Endpoint) {
    let own = match &endpoint.hostname {
        Some(hostname) => format!("{hostname}.{service}"),
        None => format!("{}.{service}", dashed(endpoint.address)),
    };
    zone.add_address(service, endpoint.address);
    zone.add_address(&own, endpoint.address);
    zone.add_pointer(endpoint.address, &own);
    for (port, protocol, number) in endpoint.ports.iter().filter(|(name, ..)| !name.is_empty()) {
        zone.add_server(&port_name(port, *protocol, service), *number, &own);
    }
}

fn port_name(port: &str, protocol: Protocol, service: &str) -> String {
    format!("_{port}._{}.{service}", protocol.to_string().to_lowercase())
}

/// The family of Services that name none.
fn first_family(model: &Model) -> IpFamily {
    let cidrs = model.supervisor.service_cidrs.iter().chain(&model.supervisor.pod_cidrs);
    cidrs.map(|cidr| IpFamily::of(cidr.value.addr())).next().unwrap_or(IpFamily::V4)
}

/// A ready endpoint of a headless Service.
struct Endpoint {
    address: IpAddr,
    hostname: Option<String>,
    /// Ports by name, with the numbers that the endpoint itself listens on.
    ports: Vec<(String, Protocol, u16)>,
}

struct Network<'a> {
    model: &'a Model,
    addresses: BTreeMap<&'a str, &'a [IpAddr]>,
    first: IpFamily,
}

impl Network<'_> {
    /// Ready endpoints: of the EndpointSlices if there are any, else of the selector.
    fn endpoints(&self, service: &Service) -> Vec<Endpoint> {
        let namespace = &service.name.namespace;
        let slices = self.model.endpoint_slices.range(Name::new(namespace, "")..).map(|(_, slice)| slice);
        let slices = slices.take_while(|slice| slice.name.namespace == *namespace);
        let slices: Vec<&EndpointSlice> = slices.filter(|s| s.service == service.name.name).collect();
        if slices.is_empty() { self.selected(service) } else { listed(service, &slices) }
    }

    fn selected(&self, service: &Service) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for pod in serving(self.model, service) {
            let addresses = self.addresses.get(&*pod.name.to_string()).copied().unwrap_or_default();
            let is_below = pod.dns.subdomain.as_deref() == Some(&service.name.name);
            let hostname = pod.dns.hostname.as_ref().filter(|_| is_below);
            let number =
                |port: &ServicePort| Some((port.name.clone(), port.protocol, target_port(pod, port)?));
            let ports: Vec<_> = service.ports.iter().filter_map(number).collect();
            if !(pod.ready && !pod.terminating || service.publish_not_ready) {
                continue;
            }
            // One of each family that the Service has.
            let first = [self.first];
            let families = if service.families.is_empty() { &first[..] } else { &service.families };
            endpoints.extend(families.iter().filter_map(|&family| {
                let address = *addresses.iter().find(|a| IpFamily::of(**a) == family)?;
                Some(Endpoint { address, hostname: hostname.cloned(), ports: ports.clone() })
            }));
        }
        endpoints
    }
}

/// The pods that a Service selects.
pub(super) fn serving<'a>(model: &'a Model, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
    let selector = service.selector.as_ref().filter(|labels| !labels.is_empty());
    // They are in order of namespaces.
    let namespace = &service.name.namespace;
    let pods = model.pods.range(Name::new(namespace, "")..).map(|(_, pod)| pod);
    pods.take_while(move |pod| pod.name.namespace == *namespace).filter(move |pod| {
        selector.is_some_and(|labels| labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
    })
}

/// The number of a Service's port at this pod; `None`: it has no port of that name.
pub(super) fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let named = pod.ports.iter().find(|p| p.name == *name && p.protocol == port.protocol);
            named.map(|p| p.port)
        }
    }
}

fn listed(service: &Service, slices: &[&EndpointSlice]) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for slice in slices {
        let number = |name: &str, protocol| {
            service.ports.iter().find(|p| p.name == name && p.protocol == protocol).map(|p| p.port)
        };
        let ports = slice.ports.iter().filter_map(|p| {
            Some((p.name.clone(), p.protocol, p.port.or_else(|| number(&p.name, p.protocol))?))
        });
        let ports: Vec<_> = ports.collect();
        let ready = slice.endpoints.iter().filter(|e| e.ready || service.publish_not_ready);
        all.extend(ready.filter_map(|e| {
            let address = e.addresses.first()?.value;
            Some(Endpoint { address, hostname: e.hostname.clone(), ports: ports.clone() })
        }));
    }
    all
}
