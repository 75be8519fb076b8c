//! Pods, and the pod templates of workloads.

use super::{
    cluster::IP_ANNOTATION,
    declared::{Declared, DeclaredPod, Meta, Scope},
    limits,
    reading::{Fields, Reading},
    schema::{self, Kind},
    syntax, workload,
    yaml::Node,
};
use crate::model::{At, ContainerPort, DnsPolicy, Labels, Name, Pod, PodDns};
use std::net::IpAddr;

pub(super) fn read(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::POD);
    let meta = Meta::read(r, &fields, Scope::Namespace, syntax::dns_subdomain);
    let named = meta.as_ref().map_or_else(String::new, |m| format!("Pod {}", m.name));
    let spec = read_spec(r, &fields, &named);
    let status = r.sub(&fields, "status", &schema::POD_STATUS);
    let Some(meta) = meta else { return };
    let at = r.at(node.place);
    if !declared.claim(r, Kind::Pod, &meta.name, &at) {
        return;
    }
    if let Some(owner) = &meta.owner {
        workload::owned_by(declared, &meta.name.namespace, owner, &meta.labels);
    }
    if matches!(r.text_of(&status, "phase"), Some("Succeeded" | "Failed")) {
        r.notes.finished += 1;
        return;
    }
    let ready = is_ready(r, &status);
    let mut host_addresses = status_addresses(r, &status, "hostIP", "hostIPs");
    let mut addresses = status_addresses(r, &status, "podIP", "podIPs");
    if spec.host_network {
        // A host-networked pod's addresses are its node's.
        host_addresses.append(&mut addresses);
    }
    let mut pod = spec.into_pod(r, &meta);
    if pod.addresses.is_empty() {
        pod.addresses = addresses;
    }
    pod.ready = ready;
    pod.terminating = meta.terminating;
    pod.owner = meta.owner.map(|(kind, name)| format!("{}/{name}", kind.to_lowercase()));
    pod.at = at;
    declared.pods.push(DeclaredPod { pod, host_addresses });
}

fn is_ready(r: &mut Reading, status: &Fields<'_>) -> bool {
    let mut ready = true;
    for node in r.list(status, "conditions") {
        let condition = r.fields(node, &schema::CONDITION);
        let (kind, value) = (r.text_of(&condition, "type"), r.text_of(&condition, "status"));
        if kind == Some("Ready") {
            ready = value == Some("True");
        }
    }
    ready
}

/// The addresses of a status, whose plural field repeats the singular one.
fn status_addresses(r: &mut Reading, status: &Fields<'_>, one: &str, all: &str) -> Vec<At<IpAddr>> {
    let mut addresses = Vec::new();
    for node in r.list(status, all) {
        let item = r.fields(node, &schema::POD_IP);
        addresses.extend(item.get("ip").and_then(|n| r.address(n)));
    }
    if let Some(node) = status.filled(one) {
        if let Some(address) = r.address(node)
            && !addresses.contains(&address)
        {
            addresses.insert(0, address);
        }
        r.one_a_family(&addresses, node.place);
    }
    addresses
}

/// What matters of a pod's spec.
#[derive(Debug)]
pub(super) struct PodSpec {
    node: Option<At<String>>,
    pub(super) node_selector: Labels,
    host_network: bool,
    ports: Vec<ContainerPort>,
    dns: PodDns,
}

/// Reads the `spec` below a pod or template; `owner` names it for warnings.
pub(super) fn read_spec(r: &mut Reading, object: &Fields<'_>, owner: &str) -> PodSpec {
    let spec = match r.required(object, "spec") {
        Some(node) => r.fields(node, &schema::POD_SPEC),
        None => r.sub(object, "spec", &schema::POD_SPEC),
    };
    let node = spec.filled("nodeName").and_then(|n| Some(At::new(r.text(n)?.to_owned(), r.at(n.place))));
    let node_selector = r.labels_of(&spec, "nodeSelector");
    let host_network = r.bool_of(&spec, "hostNetwork").unwrap_or(false);
    let mut ports = Vec::new();
    for container in r.list(&spec, "containers") {
        let fields = r.fields(container, &schema::CONTAINER);
        read_ports(r, &fields, owner, host_network, &mut ports);
    }
    for container in r.list(&spec, "initContainers") {
        let fields = r.fields(container, &schema::CONTAINER);
        // An init container that restarts is a sidecar: it runs as long as the pod does.
        if r.text_of(&fields, "restartPolicy") == Some("Always") {
            read_ports(r, &fields, owner, host_network, &mut ports);
        }
    }
    let dns = read_dns(r, &spec);
    PodSpec { node, node_selector, host_network, ports, dns }
}

/// What a pod is called among names, and how it looks names up.
fn read_dns(r: &mut Reading, spec: &Fields<'_>) -> PodDns {
    let policies = [
        ("ClusterFirst", DnsPolicy::ClusterFirst),
        ("ClusterFirstWithHostNet", DnsPolicy::ClusterFirstWithHostNet),
        ("Default", DnsPolicy::Default),
        ("None", DnsPolicy::None),
    ];
    let mut label = |field, what| {
        let node = spec.filled(field)?;
        r.checked_text(node, what, syntax::dns_label).map(str::to_owned)
    };
    let (hostname, subdomain) =
        (label("hostname", "a pod's hostname"), label("subdomain", "a pod's subdomain"));
    let policy = spec.filled("dnsPolicy");
    let place = policy.map(|n| n.place);
    let policy = policy.and_then(|n| r.word(n, &policies)).unwrap_or_default();
    let config = r.sub(spec, "dnsConfig", &schema::DNS_CONFIG);
    let mut dns = PodDns { hostname, subdomain, policy, ..PodDns::default() };
    for node in r.short_list(&config, "nameservers", 3) {
        dns.nameservers.extend(r.address(node).map(|a| a.value));
    }
    for node in r.short_list(&config, "searches", 32) {
        let is_name = |s: &str| match s {
            // The root.
            "." => Ok(()),
            s => syntax::search_domain(s.strip_suffix('.').unwrap_or(s)),
        };
        dns.searches.extend(r.checked_text(node, "a search domain", is_name).map(str::to_owned));
    }
    for node in r.list(&config, "options") {
        let fields = r.fields(node, &schema::DNS_OPTION);
        let name = r.required(&fields, "name");
        let name = name.and_then(|n| r.checked_text(n, "an option of resolvers", syntax::word));
        let value = fields.filled("value");
        let value =
            value.and_then(|n| r.checked_text(n, "the value of an option of resolvers", syntax::word));
        dns.options.extend(name.map(|name| (name.to_owned(), value.map(str::to_owned))));
    }
    if let (DnsPolicy::None, true, Some(place)) = (dns.policy, dns.nameservers.is_empty(), place) {
        r.invalid(place, "dnsPolicy None without nameservers", "name at least one in dnsConfig.nameservers");
    }
    dns
}

fn read_ports(
    r: &mut Reading,
    container: &Fields<'_>,
    owner: &str,
    host_network: bool,
    ports: &mut Vec<ContainerPort>,
) {
    let first = ports.len();
    for node in r.short_list(container, "ports", 1000) {
        let fields = r.fields(node, &schema::CONTAINER_PORT);
        let port = r.required(&fields, "containerPort").and_then(|n| r.port(n));
        let protocol = r.protocol(&fields);
        let name = match fields.filled("name") {
            Some(n) => r.checked_text(n, "the name of a port", syntax::port_name),
            None => Some(""),
        };
        if let Some(n) = fields.get("hostPort")
            && r.port(n).is_some()
            && !host_network
        {
            r.not_enforced("hostPort", owner, n.place);
        }
        let (Some(port), Some(protocol), Some(name)) = (port, protocol, name) else { continue };
        let same = |p: &ContainerPort| p.name == name && p.protocol == protocol;
        if !name.is_empty() && ports[first..].iter().any(same) {
            let what = format!("two {protocol} ports of one container are named `{name}`");
            r.invalid(node.place, what, "give each its own name");
            continue;
        }
        ports.push(ContainerPort { name: name.to_owned(), protocol, port });
    }
}

impl PodSpec {
    /// The pod, without what its status says.
    pub(super) fn into_pod(self, r: &mut Reading, meta: &Meta<'_>) -> Pod {
        let mut pod = Pod::new(Name::new(&meta.name.namespace, &meta.name.name));
        pod.labels.clone_from(&meta.labels);
        pod.node = self.node;
        pod.host_network = self.host_network;
        pod.ports = self.ports;
        pod.dns = self.dns;
        if let Some(node) = meta.annotation(IP_ANNOTATION) {
            if self.host_network {
                let what =
                    format!("{IP_ANNOTATION} on a pod with hostNetwork, which has its node's addresses");
                r.invalid(node.place, what, "remove the annotation");
            } else {
                pod.addresses = r.addresses(node);
            }
        }
        pod.limits = limits::read_annotations(r, meta);
        if let Some((key, node)) = limits::annotated(meta).filter(|_| self.host_network) {
            let what = format!("{key} on a pod with hostNetwork, whose connections are its node's");
            r.invalid(node.place, what, "remove the annotation: nodes have no limits");
        }
        pod
    }
}
