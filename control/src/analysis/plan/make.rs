//! How a model and its snapshot become a plan: each list by a function of its own, in the order of [`Plan`]'s fields.

use super::{
    AdvertisedRoute, FirewallRule, InterfacePlan, MemberPlan, NodePlan, Plan, PodPlan, RoutePlan, Section,
    SegmentPlan, SnatPlan, UplinkPlan, VirtualServerKind, VirtualServerPlan, limits,
};
use crate::{
    analysis::{sections, text},
    compile::{CLI_TOOLS, CompileError, KUBE_API, MemberState, NODES_SEGMENT, ServerRole, server_specs},
    intern::Interner,
    ipam::Addressing,
    model::{IngressPosture, Model, Name, Snat},
    place::Places,
    policy::{Direction, POSTURE, Selection, exempt_pods},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};
use supernet_dataplane::snapshot::{PortEntry, PortRole, Segment, Snapshot};

/// Evaluated first: what policies allow (NSX Container Plugin's priority of such sections).
const ALLOW_PRIORITY: u32 = 2010;
/// Evaluated after all that is allowed.
const ISOLATION_PRIORITY: u32 = 2090;
/// Evaluated last, for pods that no policy isolates.
const POSTURE_PRIORITY: u32 = 2100;

/// The plan of a model and the snapshot that was compiled from it.
pub(super) fn plan(
    model: &Model,
    addressing: &Addressing,
    snapshot: &Snapshot,
    interner: &mut Interner,
) -> Result<Plan, CompileError> {
    let places = Places::of(model, addressing, interner)?;
    let ports = Ports { snapshot, interner };
    Ok(Plan {
        segments: segments(addressing, snapshot),
        snat: snat(model, addressing, snapshot),
        virtual_servers: virtual_servers(model, addressing, &places)?,
        firewall: firewall(model),
        address_sets: sections::address_sets(model),
        limits: limits::limits(snapshot),
        pods: pods(&places, &ports),
        nodes: nodes(addressing, &places, &ports),
        uplinks: uplinks(model, &ports),
        routes: routes(snapshot),
        advertised_routes: advertised(model, addressing, &places),
        warnings: Vec::new(),
    })
}

/// Finds compiled ports by name.
struct Ports<'a> {
    snapshot: &'a Snapshot,
    interner: &'a Interner,
}

impl Ports<'_> {
    fn mac(&self, name: &str) -> String {
        let id = self.interner.known_port(name);
        let entry = id.and_then(|id| self.snapshot.ports.get(id.index())?.as_ref());
        entry.map(|p| p.mac).unwrap_or_default().to_string()
    }
}

fn segments(addressing: &Addressing, snapshot: &Snapshot) -> Vec<SegmentPlan> {
    let namespaces: HashMap<&str, &str> =
        addressing.segments.iter().map(|s| (&*s.name, &*s.namespace)).collect();
    let mut plans: Vec<SegmentPlan> = snapshot
        .segments
        .iter()
        .flatten()
        .filter_map(|segment| {
            let name = snapshot.names.segments.get(&segment.id)?;
            let v4 = segment.gateway_v4.map(|net| (IpNet::V4(net.trunc()), IpAddr::V4(net.addr())));
            let v6 = segment
                .prefix_v6
                .map(|net| (IpNet::V6(net), IpAddr::V6(supernet_dataplane::snapshot::GATEWAY_V6)));
            let (cidrs, gateways) = v4.into_iter().chain(v6).unzip();
            Some(SegmentPlan {
                name: name.clone(),
                namespace: namespaces.get(name.as_str()).map(|n| (*n).to_owned()),
                tier1: snapshot.names.tier1s.get(&segment.tier1).cloned().unwrap_or_default(),
                cidrs,
                gateways,
                mtu: segment.mtu,
                pods: segment.ports.len(),
                free: free(segment, snapshot),
            })
        })
        .collect();
    plans.sort_by(|a, b| (a.namespace.is_none(), &a.name).cmp(&(b.namespace.is_none(), &b.name)));
    plans
}

/// Addresses of the block without the network's, the broadcast, the gateway's and the ports' own.
fn free(segment: &Segment, snapshot: &Snapshot) -> Option<usize> {
    let block = segment.gateway_v4?;
    let hosts = 2usize.pow(32 - u32::from(block.prefix_len())).saturating_sub(3);
    let ports = segment.ports.iter().filter_map(|id| snapshot.ports.get(id.index())?.as_deref());
    let used = ports.flat_map(addresses).filter(|addr| IpNet::V4(block).contains(*addr)).count();
    Some(hosts.saturating_sub(used))
}

fn addresses(port: &PortEntry) -> &[IpAddr] {
    match &port.role {
        PortRole::Endpoint(endpoint) => &endpoint.addresses,
        PortRole::Uplink(_) => &[],
    }
}

fn snat(model: &Model, addressing: &Addressing, snapshot: &Snapshot) -> Vec<SnatPlan> {
    let mut rows = Vec::new();
    for namespace in snapshot.namespaces.iter().flatten() {
        let Some(name) = snapshot.names.namespaces.get(&namespace.id) else { continue };
        let addresses = addressing.egress.get(name).into_iter().flatten();
        for &address in addresses.filter(|a| namespace.egress(**a) == Some(**a)) {
            let tier1 = crate::compile::tier1_name(model.supervisor.tier1, name);
            rows.push(SnatPlan { namespace: name.clone(), address, tier1 });
        }
    }
    rows.sort_by(|a, b| (&a.namespace, a.address).cmp(&(&b.namespace, b.address)));
    rows
}

fn virtual_servers(
    model: &Model,
    addressing: &Addressing,
    places: &Places<'_>,
) -> Result<Vec<VirtualServerPlan>, CompileError> {
    let owners: HashMap<IpAddr, &Name> = places
        .pods
        .iter()
        .filter(|(_, p)| p.segment.is_some())
        .flat_map(|(name, p)| p.addresses.iter().map(|a| (*a, *name)))
        .collect();
    let specs = server_specs(model, addressing, places)?;
    let plans = specs.into_iter().map(|spec| {
        let members = spec.members.iter().map(|member| MemberPlan {
            address: member.address.ip(),
            port: member.address.port(),
            pod: owners.get(&member.address.ip()).map(|name| name.to_string()),
            state: match member.state {
                MemberState::Active => "active",
                MemberState::Draining => "draining",
                MemberState::NotReady => "notReady",
            },
        });
        let (default_name, kind) = match spec.role {
            ServerRole::ClusterIp => ("", VirtualServerKind::ClusterIP),
            ServerRole::LoadBalancer => ("", VirtualServerKind::LoadBalancer),
            ServerRole::KubeApi => (KUBE_API, VirtualServerKind::KubeAPI),
            ServerRole::CliTools => (CLI_TOOLS, VirtualServerKind::CLITools),
        };
        let members = members.collect();
        let (namespace, name) = match spec.service {
            Some(service) => (Some(service.namespace), service.name),
            None => (None, default_name.to_owned()),
        };
        VirtualServerPlan {
            namespace,
            name,
            kind,
            vip: spec.address.ip(),
            port: spec.address.port(),
            protocol: spec.protocol.to_string(),
            members,
        }
    });
    Ok(plans.collect())
}

fn firewall(model: &Model) -> Vec<Section> {
    let selection = Selection::of(model);
    let mut allow = Vec::new();
    let mut isolation = Vec::new();
    let mut isolated: BTreeSet<(Direction, &Name)> = BTreeSet::new();
    for (policy, pods) in &selection.pods {
        let applied_to: Vec<String> = pods.iter().map(|name| name.to_string()).collect();
        let rule = |name, direction: Direction, action, peers, services| FirewallRule {
            name,
            direction: direction.as_str(),
            action,
            applied_to: applied_to.clone(),
            peers,
            sources: None,
            destinations: None,
            services,
        };
        let mut allow_rules = Vec::new();
        let mut drop_rules = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            let Some(rules) = direction.rules_of(policy) else { continue };
            isolated.extend(pods.iter().map(|name| (direction, *name)));
            for (n, r) in rules.iter().enumerate() {
                let name = format!("{}[{n}]", direction.as_str());
                let peers = text::peers(&policy.name.namespace, &r.peers);
                allow_rules.push(rule(name, direction, "ALLOW", peers, text::policy_ports(&r.ports)));
            }
            let any = || "any".to_owned();
            drop_rules.push(rule("isolation".to_owned(), direction, "DROP", any(), any()));
        }
        let section = |category, priority, rules| Section {
            policy: policy.name.to_string(),
            category,
            priority,
            rules,
        };
        if !allow_rules.is_empty() {
            allow.push(section("allow", ALLOW_PRIORITY, allow_rules));
        }
        isolation.push(section("isolation", ISOLATION_PRIORITY, drop_rules));
    }
    let mut all = sections::tiered(model, true);
    all.append(&mut allow);
    all.append(&mut isolation);
    all.extend(sections::tiered(model, false));
    all.push(posture(model, &isolated));
    all
}

fn posture(model: &Model, isolated: &BTreeSet<(Direction, &Name)>) -> Section {
    let supervisor = &model.supervisor;
    let exempt = exempt_pods(model);
    let open = |direction| {
        let pods = model.pods.values().filter(|p| !p.host_network).map(|p| &p.name);
        pods.filter(move |name| !isolated.contains(&(direction, *name)))
    };
    let (backends, others): (Vec<&Name>, Vec<&Name>) =
        open(Direction::Ingress).partition(|name| exempt.contains(name));
    let rule = |name: &str, direction: Direction, action, pods: &[&Name], peers: &str| FirewallRule {
        name: name.to_owned(),
        direction: direction.as_str(),
        action,
        applied_to: pods.iter().map(|name| name.to_string()).collect(),
        peers: peers.to_owned(),
        sources: None,
        destinations: None,
        services: "any".to_owned(),
    };
    let mut rules = Vec::new();
    let ingress = Direction::Ingress;
    if !backends.is_empty() {
        rules.push(rule("default servers", ingress, "ALLOW", &backends, "any"));
    }
    match supervisor.ingress_posture {
        IngressPosture::Deny => {}
        IngressPosture::AllowNamespace => {
            rules.push(rule("allowNamespace", ingress, "ALLOW", &others, "all pods of the same namespace"));
        }
        IngressPosture::AllowCluster => {
            rules.push(rule("allowCluster", ingress, "ALLOW", &others, "all pods and nodes"));
        }
        IngressPosture::Allow => rules.push(rule("allow", ingress, "ALLOW", &others, "any")),
    }
    if supervisor.ingress_posture != IngressPosture::Allow {
        rules.push(rule("deny", ingress, "DROP", &others, "any"));
    }
    let egress: Vec<&Name> = open(Direction::Egress).collect();
    rules.push(rule("egress", Direction::Egress, "ALLOW", &egress, "any"));
    Section { policy: POSTURE.to_owned(), category: "posture", priority: POSTURE_PRIORITY, rules }
}

fn pods(places: &Places<'_>, ports: &Ports<'_>) -> Vec<PodPlan> {
    let pods = places.pods.iter().map(|(name, place)| {
        let port = match (place.segment, place.node) {
            (None, Some(node)) => format!("node/{node}"),
            _ => name.to_string(),
        };
        PodPlan {
            name: name.to_string(),
            ip: place.addresses.first().copied(),
            ips: place.addresses.to_vec(),
            node: place.node.map(str::to_owned),
            segment: place.segment.unwrap_or(NODES_SEGMENT).to_owned(),
            mac: ports.mac(&port),
            host_network: place.pod.host_network,
            workload: place.pod.owner.clone(),
        }
    });
    pods.collect()
}

fn nodes(addressing: &Addressing, places: &Places<'_>, ports: &Ports<'_>) -> Vec<NodePlan> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in places.pods.values().filter_map(|p| p.node) {
        *counts.entry(node).or_default() += 1;
    }
    let nodes = addressing.nodes.iter().map(|(name, ips)| NodePlan {
        name: name.clone(),
        ip: ips.first().copied(),
        ips: ips.clone(),
        mac: ports.mac(&format!("node/{name}")),
        pods: counts.get(name.as_str()).copied().unwrap_or_default(),
    });
    nodes.collect()
}

fn uplinks(model: &Model, ports: &Ports<'_>) -> Vec<UplinkPlan> {
    let uplinks = model.supervisor.uplinks.iter().map(|uplink| UplinkPlan {
        name: uplink.name.clone(),
        addresses: uplink.addresses.iter().map(|a| a.value).collect(),
        mac: ports.mac(&format!("uplink/{}", uplink.name)),
        mtu: uplink.mtu.unwrap_or(model.supervisor.mtu),
        interface: uplink
            .interface
            .as_ref()
            .map(|on| InterfacePlan { name: on.name.value.clone(), driver: on.driver.name() }),
    });
    uplinks.collect()
}

fn routes(snapshot: &Snapshot) -> Vec<RoutePlan> {
    let name = |port| {
        let name = snapshot.names.ports.get(&port).cloned().unwrap_or_default();
        name.strip_prefix("uplink/").map(str::to_owned).unwrap_or(name)
    };
    let connected = snapshot.tier0.connected.iter().map(|(prefix, port)| RoutePlan {
        prefix,
        kind: "connected",
        next_hops: Vec::new(),
        uplinks: vec![name(*port)],
    });
    let fixed = snapshot.tier0.routes.iter().map(|(prefix, hops)| {
        let mut uplinks: Vec<String> = hops.iter().map(|h| name(h.port)).collect();
        uplinks.sort();
        uplinks.dedup();
        // Uplinks in one prefix share a next hop.
        let mut next_hops: Vec<IpAddr> = hops.iter().map(|h| h.address).collect();
        next_hops.dedup();
        RoutePlan { prefix, kind: "static", next_hops, uplinks }
    });
    let mut routes: Vec<RoutePlan> = connected.chain(fixed).collect();
    routes.sort_by_key(|r| (r.prefix, r.kind));
    routes
}

/// VIPs and egress addresses as host routes; pods only where they keep their addresses, since nobody outside has
/// a use for an address that is translated.
fn advertised(model: &Model, addressing: &Addressing, places: &Places<'_>) -> Vec<AdvertisedRoute> {
    let tier1_of = |namespace: &str| crate::compile::tier1_name(model.supervisor.tier1, namespace);
    let host =
        |prefix: IpAddr, kind, tier1, owner| AdvertisedRoute { prefix: prefix.into(), kind, tier1, owner };
    let mut routes = Vec::new();
    for (service, addresses) in
        addressing.ingress.iter().filter(|(name, _)| model.services.contains_key(name))
    {
        let vips = addresses.iter();
        routes.extend(vips.map(|a| host(*a, "LB_VIP", tier1_of(&service.namespace), service.to_string())));
    }
    for (name, addresses) in [(KUBE_API, &addressing.kube_api), (CLI_TOOLS, &addressing.cli_tools)] {
        let tier1 = || crate::compile::SHARED_TIER1.to_owned();
        routes.extend(addresses.iter().map(|a| host(*a, "LB_VIP", tier1(), name.to_owned())));
    }
    for namespace in model.namespaces.values() {
        let name = &namespace.name;
        let egress = addressing.egress.get(name).filter(|_| namespace.snat != Snat::None);
        let translated: &[IpAddr] = egress.map_or(&[], Vec::as_slice);
        routes.extend(translated.iter().map(|a| host(*a, "NAT", tier1_of(name), name.clone())));
        // Each family for itself: without an egress pool of its own its pods keep their addresses.
        let kept = |addr: IpAddr| !translated.iter().any(|a| a.is_ipv4() == addr.is_ipv4());
        let blocks: Vec<IpNet> = addressing
            .segments
            .iter()
            .filter(|s| s.namespace == *name)
            .flat_map(|s| s.v4.map(IpNet::V4).into_iter().chain(s.v6.map(IpNet::V6)))
            .collect();
        let pods = places.pods.values().filter(|p| p.pod.name.namespace == *name && p.segment.is_some());
        let elsewhere = pods
            .flat_map(|p| p.addresses)
            .filter(|addr| !blocks.iter().any(|b| b.contains(*addr)))
            .map(|addr| IpNet::from(*addr));
        let prefixes = blocks.iter().copied().chain(elsewhere).filter(|net| kept(net.addr()));
        routes.extend(prefixes.map(|prefix| AdvertisedRoute {
            prefix,
            kind: "CONNECTED",
            tier1: tier1_of(name),
            owner: name.clone(),
        }));
    }
    routes.sort();
    routes
}
