//! Services and EndpointSlices.

use super::{
    declared::{Declared, DeclaredService, FamilyPolicy, Meta, Scope},
    reading::{Fields, Reading},
    schema::{self, Kind},
    syntax,
    yaml::{Node, Value},
};
use crate::model::{
    At, Endpoint, EndpointPort, EndpointSlice, IpFamily, Name, Service, ServiceKind, ServicePort, TargetPort,
};
use std::net::IpAddr;

/// The label that ties a slice to its Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

const FAMILIES: [(&str, IpFamily); 2] = [("IPv4", IpFamily::V4), ("IPv6", IpFamily::V6)];

pub(super) fn read_service(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::SERVICE);
    let status_addresses = status_addresses(r, &fields);
    let meta = Meta::read(r, &fields, Scope::Namespace, syntax::dns_label);
    let Some(spec) = r.required(&fields, "spec").map(|n| r.fields(n, &schema::SERVICE_SPEC)) else { return };
    let named = meta.as_ref().map_or_else(String::new, |m| m.name.to_string());
    let kinds = [
        ("ClusterIP", ServiceKind::ClusterIp),
        ("NodePort", ServiceKind::NodePort),
        ("LoadBalancer", ServiceKind::LoadBalancer),
        ("ExternalName", ServiceKind::ExternalName),
    ];
    let kind = spec.filled("type").map_or(Some(ServiceKind::ClusterIp), |n| r.word(n, &kinds));
    let (cluster_ips, headless) = cluster_ips(r, &spec);
    let kind = kind.map(|kind| checked_kind(r, &spec, kind, headless));
    let external_name = (kind == Some(ServiceKind::ExternalName)).then(|| external_name(r, &spec)).flatten();
    let ports = ports(r, &spec, kind, &named);
    let (families, policy) = families(r, &spec, &cluster_ips);
    let load_balancer_ip = load_balancer_ip(r, &spec, kind, &named);
    let selector = spec.get("selector").map(|n| r.labels(n));
    let affinities = [("ClientIP", true), ("None", false)];
    let client_affinity = spec.get("sessionAffinity").and_then(|n| r.word(n, &affinities)).unwrap_or(false);
    let publish_not_ready = r.bool_of(&spec, "publishNotReadyAddresses").unwrap_or(false);
    note_not_enforced(r, &spec, &named);
    let (Some(meta), Some(kind)) = (meta, kind) else { return };
    let at = r.at(node.place);
    if !declared.claim(r, Kind::Service, &meta.name, &at) {
        return;
    }
    let service = Service {
        name: meta.name,
        kind,
        selector,
        ports,
        cluster_ips,
        load_balancer_ip,
        families,
        prefer_dual_stack: policy == FamilyPolicy::Prefer,
        publish_not_ready,
        external_name,
        client_affinity,
        at,
    };
    declared.services.push(DeclaredService { service, policy, status_addresses });
}

fn checked_kind(r: &mut Reading, spec: &Fields<'_>, kind: ServiceKind, headless: bool) -> ServiceKind {
    let place = spec.get("clusterIP").map_or(spec.place, |n| n.place);
    match (kind, headless) {
        (ServiceKind::ClusterIp, true) => ServiceKind::Headless,
        (ServiceKind::NodePort | ServiceKind::LoadBalancer, true) => {
            r.invalid(place, "clusterIP None with a type that needs an address", "use type ClusterIP");
            kind
        }
        _ => kind,
    }
}

/// The name that an ExternalName Service stands for, without a dot at its end.
fn external_name(r: &mut Reading, spec: &Fields<'_>) -> Option<String> {
    let node = r.required(spec, "externalName")?;
    let is_name = |s: &str| syntax::dns_subdomain(s.strip_suffix('.').unwrap_or(s));
    let name = r.checked_text(node, "an externalName", is_name)?;
    Some(name.strip_suffix('.').unwrap_or(name).to_owned())
}

/// The addresses of `clusterIP` and `clusterIPs`, and whether they say `None`.
fn cluster_ips(r: &mut Reading, spec: &Fields<'_>) -> (Vec<At<IpAddr>>, bool) {
    let mut addresses: Vec<At<IpAddr>> = Vec::new();
    let mut headless = false;
    let (one, all) = (spec.filled("clusterIP"), r.short_list(spec, "clusterIPs", 2));
    for node in one.into_iter().chain(all) {
        match &node.value {
            Value::String(s) if s == "None" => headless = true,
            _ => {
                if let Some(address) = r.address(node)
                    && !addresses.contains(&address)
                {
                    addresses.push(address);
                }
            }
        }
    }
    if let (Some(one), Some(first)) = (one, all.first())
        && one.value != first.value
    {
        r.invalid(
            first.place,
            "clusterIPs does not begin with clusterIP",
            "make them the same, or leave one out",
        );
    } else if headless && !addresses.is_empty() {
        r.invalid(addresses_place(one, all, spec), "clusterIP None beside an address", "keep one of them");
    } else {
        r.one_a_family(&addresses, addresses_place(one, all, spec));
    }
    (addresses, headless)
}

fn addresses_place(one: Option<&Node>, all: &[Node], spec: &Fields<'_>) -> super::yaml::Place {
    all.last().or(one).map_or(spec.place, |n| n.place)
}

fn ports(r: &mut Reading, spec: &Fields<'_>, kind: Option<ServiceKind>, named: &str) -> Vec<ServicePort> {
    let items = r.short_list(spec, "ports", 1000);
    if !matches!(kind, None | Some(ServiceKind::Headless | ServiceKind::ExternalName))
        && let Some(n) = r.required(spec, "ports")
        && n.value == Value::List(Vec::new())
    {
        r.invalid(n.place, "a Service without ports", "list at least one");
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    for node in items {
        let fields = r.fields(node, &schema::SERVICE_PORT);
        let name = match fields.filled("name") {
            Some(n) => r.checked_text(n, "the name of a Service's port", syntax::dns_label),
            None => Some(""),
        };
        let protocol = r.protocol(&fields);
        let port = r.required(&fields, "port").and_then(|n| r.port(n));
        let target = target(r, &fields, port);
        if let Some(n) = fields.get("nodePort")
            && r.integer(n, 0..=65535).is_some_and(|p| p != 0)
        {
            r.not_enforced("nodePort", &format!("Service {named}"), n.place);
        }
        let (Some(name), Some(protocol), Some(port), Some(target)) = (name, protocol, port, target) else {
            continue;
        };
        if name.is_empty() && items.len() > 1 {
            r.invalid(node.place, "a port without a name beside others", "add `name` to each of them");
        }
        if !name.is_empty() && ports.iter().any(|p| p.name == name) {
            r.invalid(node.place, format!("two ports are named `{name}`"), "give each its own name");
        }
        if ports.iter().any(|p| (p.protocol, p.port) == (protocol, port)) {
            r.invalid(node.place, format!("port {port}/{protocol} is listed twice"), "remove one");
        }
        ports.push(ServicePort { name: name.to_owned(), protocol, port, target });
    }
    ports
}

fn target(r: &mut Reading, port: &Fields<'_>, number: Option<u16>) -> Option<TargetPort> {
    match port.filled("targetPort") {
        None => number.map(TargetPort::Number),
        Some(n) => match &n.value {
            Value::String(_) => {
                let name = r.checked_text(n, "the name of a port", syntax::port_name);
                name.map(|s| TargetPort::Name(s.to_owned()))
            }
            // Kubernetes takes 0 for a field that is left out.
            Value::Number(s) if s == "0" => number.map(TargetPort::Number),
            _ => r.port(n).map(TargetPort::Number),
        },
    }
}

fn families(r: &mut Reading, spec: &Fields<'_>, cluster_ips: &[At<IpAddr>]) -> (Vec<IpFamily>, FamilyPolicy) {
    let policies = [
        ("SingleStack", FamilyPolicy::Single),
        ("PreferDualStack", FamilyPolicy::Prefer),
        ("RequireDualStack", FamilyPolicy::Require),
    ];
    let mut families: Vec<IpFamily> = Vec::new();
    for node in r.short_list(spec, "ipFamilies", 2) {
        let Some(family) = r.word(node, &FAMILIES) else { continue };
        if families.contains(&family) {
            r.invalid(node.place, "the same family twice", "remove one");
        } else {
            families.push(family);
        }
    }
    let asked: Vec<IpFamily> = cluster_ips.iter().map(|a| IpFamily::of(a.value)).collect();
    for (i, (address, family)) in cluster_ips.iter().zip(&asked).enumerate() {
        if families.get(i).is_some_and(|f| f != family) {
            let what = format!("clusterIP {} is not of the family that ipFamilies gives it", address.value);
            let at = address.at.clone();
            let advice = "put both in the same order".to_owned();
            r.error(at, super::error::Problem::Invalid { what, advice });
        }
    }
    if families.len() < asked.len() {
        families = asked;
    }
    let dual = families.len() > 1;
    let policy = match spec.get("ipFamilyPolicy") {
        Some(n) => {
            let policy = r.word(n, &policies).unwrap_or(FamilyPolicy::Single);
            if policy == FamilyPolicy::Single && dual {
                r.invalid(
                    n.place,
                    "two families for a SingleStack Service",
                    "use PreferDualStack, or keep one",
                );
            }
            policy
        }
        None if dual => FamilyPolicy::Require,
        None => FamilyPolicy::Single,
    };
    (families, policy)
}

fn load_balancer_ip(
    r: &mut Reading,
    spec: &Fields<'_>,
    kind: Option<ServiceKind>,
    named: &str,
) -> Option<At<IpAddr>> {
    let node = spec.filled("loadBalancerIP")?;
    let address = r.address(node);
    if kind.is_some_and(|k| k != ServiceKind::LoadBalancer) {
        r.remark(
            node.place,
            format!("loadBalancerIP of Service {named} has no effect: it is no LoadBalancer"),
        );
        return None;
    }
    address
}

/// The addresses that the Service's load balancer had where the text comes from.
fn status_addresses(r: &mut Reading, service: &Fields<'_>) -> Vec<At<IpAddr>> {
    let status = r.sub(service, "status", &schema::SERVICE_STATUS);
    let balancer = r.sub(&status, "loadBalancer", &schema::LOAD_BALANCER_STATUS);
    let mut addresses: Vec<At<IpAddr>> = Vec::new();
    for node in r.short_list(&balancer, "ingress", 16) {
        let item = r.fields(node, &schema::LOAD_BALANCER_INGRESS);
        if let Some(address) = item.filled("ip").and_then(|n| r.address(n))
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

fn note_not_enforced(r: &mut Reading, spec: &Fields<'_>, named: &str) {
    let service = format!("Service {named}");
    if let Some(node) = spec.get("type")
        && node.value == Value::String("NodePort".to_owned())
    {
        r.not_enforced("type: NodePort", &service, node.place);
    }
    let values = [
        ("internalTrafficPolicy", "Local", "internalTrafficPolicy: Local"),
        ("externalTrafficPolicy", "Local", "externalTrafficPolicy: Local"),
    ];
    for (field, value, label) in values {
        if let Some(node) = spec.get(field)
            && r.text(node) == Some(value)
        {
            r.not_enforced(label, &service, node.place);
        }
    }
    for field in ["externalIPs", "loadBalancerSourceRanges", "trafficDistribution", "healthCheckNodePort"] {
        let Some(node) = spec.get(field) else { continue };
        let empty = match &node.value {
            Value::List(items) => items.is_empty(),
            Value::Number(n) => n == "0",
            _ => false,
        };
        if !empty {
            r.not_enforced(field, &service, node.place);
        }
    }
}

pub(super) fn read_slice(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::ENDPOINT_SLICE);
    let meta = Meta::read(r, &fields, Scope::Namespace, syntax::dns_subdomain);
    let types = [("IPv4", Some(IpFamily::V4)), ("IPv6", Some(IpFamily::V6)), ("FQDN", None)];
    let family = r.required(&fields, "addressType").and_then(|n| r.word(n, &types));
    let Some(meta) = meta else { return };
    let at = r.at(node.place);
    let fresh = declared.claim(r, Kind::EndpointSlice, &meta.name, &at);
    let family = match family {
        None => return,
        Some(None) => {
            r.remark(
                node.place,
                format!("EndpointSlice {} holds names, not addresses; it is skipped", meta.name),
            );
            return;
        }
        Some(Some(family)) => family,
    };
    let endpoints = r.list(&fields, "endpoints").iter().filter_map(|n| endpoint(r, n, family)).collect();
    let mut ports: Vec<EndpointPort> = Vec::new();
    for item in r.short_list(&fields, "ports", 1000) {
        let Some(port) = endpoint_port(r, item) else { continue };
        if ports.iter().any(|p| p.name == port.name) {
            r.invalid(item.place, format!("two ports are named `{}`", port.name), "give each its own name");
        }
        ports.push(port);
    }
    let Some(service) = meta.labels.get(SERVICE_NAME).filter(|s| !s.is_empty()) else {
        let what = format!("EndpointSlice {} does not say whose it is", meta.name);
        r.invalid(node.place, what, format!("add label {SERVICE_NAME} with the Service's name"));
        return;
    };
    if fresh {
        let service = service.clone();
        declared.slices.push(EndpointSlice { name: meta.name, service, family, endpoints, ports, at });
    }
}

/// Takes note of an object of kind Endpoints, the forerunner of EndpointSlice, which is not read.
pub(super) fn note_endpoints(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let metadata = node.field("metadata");
    let text = |field: &str| match &metadata?.field(field)?.value {
        Value::String(s) if !s.is_empty() => Some(s.as_str()),
        _ => None,
    };
    let name = Name::new(text("namespace").unwrap_or("default"), text("name").unwrap_or_default());
    declared.endpoints.push((name, r.at(node.place)));
}

fn endpoint(r: &mut Reading, node: &Node, family: IpFamily) -> Option<Endpoint> {
    let fields = r.fields(node, &schema::ENDPOINT);
    let mut addresses = Vec::new();
    let list = r.required(&fields, "addresses").map_or(&[][..], |n| r.items(n));
    for item in list {
        let Some(address) = r.address(item) else { continue };
        if IpFamily::of(address.value) == family {
            addresses.push(address);
        } else {
            let what = format!("{} is not of the slice's addressType", address.value);
            r.invalid(item.place, what, "put it into a slice of its own family");
        }
    }
    if list.is_empty() && fields.get("addresses").is_some() {
        r.invalid(node.place, "an endpoint without addresses", "give it one, or remove it");
    }
    let hostname = fields.filled("hostname");
    let hostname = hostname.and_then(|n| r.checked_text(n, "an endpoint's hostname", syntax::dns_label));
    let hostname = hostname.map(str::to_owned);
    let conditions = r.sub(&fields, "conditions", &schema::ENDPOINT_CONDITIONS);
    let ready = r.bool_of(&conditions, "ready").unwrap_or(true);
    let serving = r.bool_of(&conditions, "serving").unwrap_or(ready);
    let terminating = r.bool_of(&conditions, "terminating").unwrap_or(false);
    (!addresses.is_empty()).then_some(Endpoint { addresses, hostname, ready, serving, terminating })
}

fn endpoint_port(r: &mut Reading, node: &Node) -> Option<EndpointPort> {
    let fields = r.fields(node, &schema::ENDPOINT_PORT);
    let protocol = r.protocol(&fields);
    let name = match fields.filled("name") {
        Some(n) => r.checked_text(n, "the name of a port", syntax::dns_label),
        None => Some(""),
    };
    let port = match fields.get("port") {
        Some(n) => Some(r.port(n)?),
        None => None,
    };
    Some(EndpointPort { name: name?.to_owned(), protocol: protocol?, port })
}
