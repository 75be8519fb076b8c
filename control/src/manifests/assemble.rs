//! From what was declared to what is there: workloads become pods, references are looked up, families and
//! nodes are filled in.

use super::{
    cluster,
    declared::{Declared, DeclaredPod, DeclaredService},
    error::Problem,
    expand::{self, Place},
    reading::Reading,
    schema::Kind,
    security_policy, service, syntax,
};
use crate::model::{
    Endpoint, IpFamily, Labels, Model, Name, Node, Object, ObjectId, ObjectKind, Pod, Position, Selector,
    ServerBackend, Service, ServiceKind, Supervisor,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Pods that workloads may be expanded to: as many as Kubernetes supports in a cluster.
const MAX_EXPANDED: usize = 150_000;

/// The objects that `declared` adds to `base`. Without `base` the manifests are the whole cluster. `supervisor` is
/// what counts where none is declared.
pub(super) fn assemble(
    r: &mut Reading,
    mut declared: Declared,
    base: Option<&Model>,
    supervisor: &Supervisor,
) -> Vec<Object> {
    let given = declared.supervisor.take();
    let supervisor = given.as_ref().unwrap_or(supervisor);

    if base.is_none() && declared.nodes.is_empty() {
        declared.nodes = mentioned_nodes(r, &declared, supervisor);
    }
    let places = places(&declared, supervisor, base);
    check_nodes(r, &declared, &places);
    let pods = all_pods(r, &mut declared, &places);

    let first_family =
        supervisor.service_cidrs.first().map_or(IpFamily::V4, |c| IpFamily::of(c.value.addr()));
    let services = services(r, std::mem::take(&mut declared.services), supervisor, first_family);
    if let Some(supervisor) = &given {
        check_backends(r, supervisor, &pods, base);
    }
    let known = base.iter().flat_map(|b| b.address_sets.keys()).map(String::as_str).collect();
    security_policy::check_references(r, &declared, &known);
    check_slices(r, &declared, &services, base);
    note_endpoints(r, &declared, &services, base);
    if base.is_none() {
        note_idle_services(r, &declared, &services, &pods);
    }

    note_staged(r, &declared);

    let mut objects: Vec<Object> = Vec::new();
    objects.extend(given.map(Object::from));
    objects.extend(declared.namespaces.into_iter().map(Object::from));
    objects.extend(declared.nodes.into_iter().map(Object::from));
    objects.extend(pods.into_iter().map(Object::from));
    objects.extend(services.into_iter().map(Object::from));
    objects.extend(declared.slices.into_iter().map(Object::from));
    objects.extend(declared.policies.into_iter().map(Object::from));
    objects.extend(declared.address_sets.into_iter().map(Object::from));
    objects.extend(declared.tiered_policies.into_iter().map(Object::from));
    objects
}

/// Says which policies do nothing yet.
fn note_staged(r: &mut Reading, declared: &Declared) {
    let policies = declared.policies.iter().filter(|p| p.staged).map(|p| {
        let id = ObjectId { kind: ObjectKind::NetworkPolicy, name: p.name.clone() };
        (id.to_string(), &p.at)
    });
    let tiered = declared.tiered_policies.iter().filter(|p| p.staged).map(|p| (p.id.to_string(), &p.at));
    for (policy, at) in policies.chain(tiered) {
        r.notes.remarks.push((at.clone(), format!("{policy} is staged: it is judged and not enforced")));
    }
}

/// Services with their families, and with the external address of their status where they can keep it.
fn services(
    r: &mut Reading,
    declared: Vec<DeclaredService>,
    supervisor: &Supervisor,
    first_family: IpFamily,
) -> Vec<Service> {
    let of_servers =
        [&supervisor.kube_api, &supervisor.cli_tools].into_iter().filter_map(|s| s.address.as_ref());
    let of_services = declared.iter().filter_map(|d| d.service.load_balancer_ip.as_ref());
    let mut taken: BTreeSet<IpAddr> = of_servers.chain(of_services).map(|a| a.value).collect();
    let resolved = declared.into_iter().map(|mut declared| {
        let given = std::mem::take(&mut declared.status_addresses);
        let mut service = declared.resolve(first_family);
        if service.kind != ServiceKind::LoadBalancer || service.load_balancer_ip.is_some() {
            return service;
        }
        for address in given {
            let family = IpFamily::of(address.value);
            let families =
                if service.families.is_empty() { &[first_family][..] } else { &service.families[..] };
            let why = if !supervisor.ingress_cidrs.iter().any(|net| net.value.contains(&address.value)) {
                "it lies in no ingress pool"
            } else if !families.contains(&family) {
                "the Service is not of its family"
            } else if service.load_balancer_ip.is_some() {
                "a Service can only ask for one"
            } else if !taken.insert(address.value) {
                "another virtual server has it"
            } else {
                service.load_balancer_ip = Some(address);
                continue;
            };
            let text =
                format!("{} in the status of Service {} is not kept: {why}", address.value, service.name);
            r.notes.remarks.push((address.at, text));
        }
        service
    });
    resolved.collect()
}

/// The names that nodes have when none is declared.
fn default_node_names(supervisor: &Supervisor) -> impl Iterator<Item = String> {
    (1..=supervisor.node_count).map(|i| format!("node-{i}"))
}

/// Nodes that pods run on though nobody declared any node, as in `kubectl get pods -o yaml`. Empty if the
/// Supervisor's own nodes have all the names that occur.
fn mentioned_nodes(r: &mut Reading, declared: &Declared, supervisor: &Supervisor) -> Vec<Node> {
    let mut mentioned: BTreeMap<&str, Node> = BTreeMap::new();
    let pods = declared.pods.iter().map(|DeclaredPod { pod, host_addresses }| (pod, host_addresses));
    let none = Vec::new();
    let templates = declared.workloads.iter().map(|w| (&w.template.pod, &none));
    for (pod, host_addresses) in pods.chain(templates) {
        let Some(name) = &pod.node else { continue };
        let node = mentioned.entry(&name.value).or_insert_with(|| Node {
            name: name.value.clone(),
            labels: cluster::default_node_labels(&name.value),
            addresses: Vec::new(),
            at: name.at.clone(),
        });
        for address in host_addresses {
            if !node.addresses.contains(address) {
                node.addresses.push(address.clone());
            }
        }
    }
    let defaults: BTreeSet<String> = default_node_names(supervisor).collect();
    let strange = mentioned.values().find(|n| !defaults.contains(&n.name)).map(|n| n.at.clone());
    let Some(at) = strange else { return Vec::new() };
    let names: Vec<&str> = mentioned.keys().copied().collect();
    let shown = names[..names.len().min(5)].join(", ");
    let more = if names.len() > 5 { ", ..." } else { "" };
    let text = format!("no Node is declared; the nodes are those that pods name: {shown}{more}");
    r.notes.remarks.push((at, text));
    mentioned.into_values().collect()
}

/// The nodes that pods can be on.
fn places(declared: &Declared, supervisor: &Supervisor, base: Option<&Model>) -> Vec<Place> {
    let mut nodes: BTreeMap<&str, &Labels> = BTreeMap::new();
    let known = base.into_iter().flat_map(|b| b.nodes.values()).chain(&declared.nodes);
    nodes.extend(known.map(|n| (n.name.as_str(), &n.labels)));
    if nodes.is_empty() {
        let place = |node: String| Place { labels: cluster::default_node_labels(&node), node };
        return default_node_names(supervisor).map(place).collect();
    }
    nodes.into_iter().map(|(name, labels)| Place { node: name.to_owned(), labels: labels.clone() }).collect()
}

fn check_nodes(r: &mut Reading, declared: &Declared, places: &[Place]) {
    let known: BTreeSet<&str> = places.iter().map(|p| p.node.as_str()).collect();
    let pods = declared.pods.iter().map(|p| ("Pod", &p.pod.name, &p.pod));
    let templates = declared.workloads.iter().map(|w| (w.kind.name(), &w.name, &w.template.pod));
    for (kind, name, pod) in pods.chain(templates) {
        let Some(node) = pod.node.as_ref().filter(|n| !known.contains(n.value.as_str())) else { continue };
        let advice = meant(&node.value, known.iter().copied())
            .unwrap_or_else(|| "declare that Node, or remove nodeName".to_owned());
        let to = format!("node {}", node.value);
        r.error(node.at.clone(), Problem::Dangling { from: format!("{kind} {name}"), to, advice });
    }
}

fn meant<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    syntax::closest(word, known).map(|k| format!("did you mean {k}?"))
}

/// The declared pods, and those of workloads that have made none yet.
fn all_pods(r: &mut Reading, declared: &mut Declared, places: &[Place]) -> Vec<Pod> {
    let mut pods: Vec<Pod> = std::mem::take(&mut declared.pods).into_iter().map(|p| p.pod).collect();
    let mut taken: BTreeSet<Name> = pods.iter().map(|p| p.name.clone()).collect();
    let mut expanded = 0;
    for workload in std::mem::take(&mut declared.workloads) {
        if declared.owners.contains(&(workload.kind, workload.name.clone())) {
            continue;
        }
        let named = format!("{} {}", workload.kind.name(), workload.name);
        let count = expand::count(&workload, places);
        expanded += count;
        if expanded > MAX_EXPANDED {
            let what = format!("{named} makes more than {MAX_EXPANDED} pods in all");
            let advice = "lower the replicas".to_owned();
            r.error(workload.at.clone(), Problem::Invalid { what, advice });
            break;
        }
        if let ([first, ..], true) = (&workload.template.pod.addresses[..], count > 1) {
            let what = format!("{named} asks for one address for {count} pods");
            let advice = format!("remove {} from its template, or make it one pod", cluster::IP_ANNOTATION);
            r.error(first.at.clone(), Problem::Invalid { what, advice });
        }
        for pod in expand::expand(&workload, places, &mut taken) {
            // Names that were drawn are distinct; those of a StatefulSet are as they are.
            let numbered = workload.kind == Kind::StatefulSet;
            if numbered && !taken.insert(pod.name.clone()) {
                let first = place_of(&pods, &pod.name);
                let object = format!("Pod {} (of {named})", pod.name);
                r.error(workload.at.clone(), Problem::DuplicateObject { object, first });
                continue;
            }
            pods.push(pod);
        }
    }
    pods
}

fn place_of(pods: &[Pod], name: &Name) -> Position {
    pods.iter().find(|p| p.name == *name).map(|p| p.at.clone()).unwrap_or_default()
}

fn check_backends(r: &mut Reading, supervisor: &Supervisor, pods: &[Pod], base: Option<&Model>) {
    let mut known: BTreeSet<&Name> = pods.iter().map(|p| &p.name).collect();
    known.extend(base.into_iter().flat_map(|b| b.pods.keys()));
    for (field, server) in [("kubeAPI", &supervisor.kube_api), ("cliTools", &supervisor.cli_tools)] {
        for backend in &server.backends {
            let ServerBackend::Pod(name, _) = &backend.value else { continue };
            if known.contains(name) {
                continue;
            }
            let names: Vec<String> = known.iter().map(|n| n.to_string()).collect();
            let advice = meant(&name.to_string(), names.iter().map(String::as_str))
                .unwrap_or_else(|| "name a pod as NAMESPACE/NAME, or declare it".to_owned());
            let from = format!("a backend of {field}");
            r.error(backend.at.clone(), Problem::Dangling { from, to: format!("pod {name}"), advice });
        }
    }
}

fn check_slices(r: &mut Reading, declared: &Declared, services: &[Service], base: Option<&Model>) {
    for slice in &declared.slices {
        let name = Name::new(&slice.name.namespace, &slice.service);
        if declared.has(Kind::Service, &name) || base.is_some_and(|b| b.services.contains_key(&name)) {
            continue;
        }
        let same_namespace = services.iter().filter(|s| s.name.namespace == name.namespace);
        let advice = meant(&name.name, same_namespace.map(|s| s.name.name.as_str()))
            .unwrap_or_else(|| "declare that Service, or remove the slice".to_owned());
        let from = format!("EndpointSlice {}", slice.name);
        r.error(slice.at.clone(), Problem::Dangling { from, to: format!("Service {name}"), advice });
    }
}

/// Objects of kind Endpoints are not read. Mostly that is no loss: they repeat what a selector or an
/// EndpointSlice says. Where neither is there, they alone say who serves.
fn note_endpoints(r: &mut Reading, declared: &Declared, services: &[Service], base: Option<&Model>) {
    let known = services.iter().chain(base.into_iter().flat_map(|b| b.services.values()));
    let unselected: BTreeSet<&Name> = known
        .filter(|s| !matches!(s.kind, ServiceKind::Headless | ServiceKind::ExternalName))
        .filter(|s| s.selector.as_ref().is_none_or(Labels::is_empty))
        .map(|s| &s.name)
        .collect();
    let slices = declared.slices.iter().chain(base.into_iter().flat_map(|b| b.endpoint_slices.values()));
    let sliced: BTreeSet<(&str, &str)> =
        slices.map(|s| (s.name.namespace.as_str(), s.service.as_str())).collect();
    for (name, at) in &declared.endpoints {
        if !unselected.contains(name) || sliced.contains(&(&name.namespace, &name.name)) {
            *r.notes.skipped.entry("Endpoints".to_owned()).or_default() += 1;
            continue;
        }
        let text = format!(
            "Endpoints {name} are not enforced yet, so nobody serves Service {name}; use an EndpointSlice with \
             the label {}: {}",
            service::SERVICE_NAME,
            name.name
        );
        r.notes.remarks.push((at.clone(), text));
    }
}

/// Services with a virtual server that nobody serves: often a slip in the selector.
fn note_idle_services(r: &mut Reading, declared: &Declared, services: &[Service], pods: &[Pod]) {
    let mut by_namespace: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        by_namespace.entry(&pod.name.namespace).or_default().push(pod);
    }
    let has_endpoints = |endpoints: &[Endpoint]| !endpoints.is_empty();
    let sliced: BTreeSet<(&str, &str)> = declared
        .slices
        .iter()
        .filter(|s| has_endpoints(&s.endpoints))
        .map(|s| (s.name.namespace.as_str(), s.service.as_str()))
        .collect();
    for service in services {
        let (namespace, name) = (service.name.namespace.as_str(), service.name.name.as_str());
        let Some(labels) = service.selector.as_ref().filter(|s| !s.is_empty()) else { continue };
        if service.kind == ServiceKind::ExternalName || sliced.contains(&(namespace, name)) {
            continue;
        }
        let selector = Selector::labels(labels.clone());
        let mut candidates = by_namespace.get(namespace).into_iter().flatten();
        if !candidates.any(|p| selector.matches(&p.labels)) {
            r.notes.idle.push((service.name.to_string(), service.at.clone()));
        }
    }
}
