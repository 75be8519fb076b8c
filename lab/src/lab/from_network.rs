//! The lab of a network: who its hosts are, as the snapshot has them, and a world beyond its uplinks to match.
//!
//! The outside has the addresses that the Tier-0's static routes name as next hops, routes back to everything
//! the network owns but ClusterIPs (which are for the inside), and two addresses of its own, of the ranges that
//! are set aside for documentation.

use super::spec::{EndpointSpec, HostedPod, LabSpec, OutsideRoute, OutsideSpec, OutsideUplink, Via};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use supernet_control::{
    analysis::plan::PodPlan,
    model::{Model, Name, NextHop, Pod, Protocol, Supervisor, Uplink},
};
use supernet_dataplane::snapshot::{EndpointPort, GATEWAY_V6, PortEntry, PortRole, Segment, Snapshot};

/// Servers of the outside world (RFC 5737, RFC 3849).
pub(crate) const WORLD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10)),
];

/// The prefix that the names of nodes' ports have.
pub(crate) const NODE: &str = "node/";

impl LabSpec {
    /// The lab of a network: every pod and node of `snapshot`, which was compiled from `model`. `pods`, the
    /// plan's, tell which node a host-networked pod is on.
    pub(crate) fn of(model: &Model, snapshot: &Snapshot, pods: &[PodPlan]) -> Self {
        let mut hosted: BTreeMap<&str, Vec<HostedPod>> = BTreeMap::new();
        for plan in pods.iter().filter(|p| p.host_network) {
            if let (Some(node), Some(pod)) = (&plan.node, pod_named(model, &plan.name)) {
                let pod = HostedPod {
                    name: plan.name.clone(),
                    workload: workload(pod),
                    serve: ports_of(pod),
                    dns: Vec::new(),
                };
                hosted.entry(node).or_default().push(pod);
            }
        }
        let ports = snapshot.ports.iter().flatten();
        let mut endpoints: Vec<EndpointSpec> =
            ports.filter_map(|port| endpoint(model, snapshot, port, &mut hosted)).collect();
        endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        Self { endpoints, outside: outside(&model.supervisor), names: None }
    }
}

fn endpoint(
    model: &Model,
    snapshot: &Snapshot,
    port: &PortEntry,
    hosted: &mut BTreeMap<&str, Vec<HostedPod>>,
) -> Option<EndpointSpec> {
    let PortRole::Endpoint(endpoint) = &port.role else { return None };
    let name = snapshot.names.ports.get(&port.id)?;
    let segment = snapshot.segment(endpoint.segment)?;
    let node = name.strip_prefix(NODE).filter(|_| endpoint.namespace.is_none());
    let (workload, serve) = match node {
        Some(_) => (None, served_by_nodes(&model.supervisor)),
        None => {
            let pod = pod_named(model, name)?;
            (workload(pod), ports_of(pod))
        }
    };
    Some(EndpointSpec {
        name: name.clone(),
        workload,
        mac: port.mac,
        addresses: endpoint.addresses.iter().map(|&a| on_link(a, segment)).collect(),
        gateways: gateways(endpoint, segment),
        mtu: port.mtu,
        serve,
        dns: Vec::new(),
        hosted: node.and_then(|node| hosted.remove(node)).unwrap_or_default(),
    })
}

/// The pod of this full name, `NAMESPACE/POD`.
fn pod_named<'a>(model: &'a Model, name: &str) -> Option<&'a Pod> {
    let (namespace, pod) = name.split_once('/')?;
    model.pods.get(&Name::new(namespace, pod))
}

/// The workload that a pod belongs to, `NAMESPACE/NAME`.
fn workload(pod: &Pod) -> Option<String> {
    // The owner is written "deployment/web".
    let owner = pod.owner.as_deref().and_then(|o| o.rsplit('/').next())?;
    Some(format!("{}/{owner}", pod.name.namespace))
}

fn ports_of(pod: &Pod) -> Vec<(Protocol, u16)> {
    pod.ports.iter().map(|p| (p.protocol, p.port)).collect()
}

/// What every node itself answers on: the default virtual servers that have no other backends.
fn served_by_nodes(supervisor: &Supervisor) -> Vec<(Protocol, u16)> {
    let defaults = [&supervisor.kube_api, &supervisor.cli_tools];
    defaults.into_iter().filter(|s| s.backends.is_empty()).map(|s| (Protocol::Tcp, s.port)).collect()
}

/// An address with the length of its segment's prefix, or alone when it is outside.
fn on_link(address: IpAddr, segment: &Segment) -> IpNet {
    let prefixes = [segment.gateway_v4.map(IpNet::V4), segment.prefix_v6.map(IpNet::V6)];
    let prefix = prefixes.into_iter().flatten().find(|p| p.contains(&address));
    prefix.and_then(|p| IpNet::new(address, p.prefix_len()).ok()).unwrap_or(IpNet::from(address))
}

fn gateways(endpoint: &EndpointPort, segment: &Segment) -> Vec<IpAddr> {
    let has = |v4: bool| endpoint.addresses.iter().any(|a| a.is_ipv4() == v4);
    let v4 = segment.gateway_v4.filter(|_| has(true)).map(|g| IpAddr::V4(g.addr()));
    let v6 = has(false).then_some(IpAddr::V6(GATEWAY_V6));
    v4.into_iter().chain(v6).collect()
}

fn outside(supervisor: &Supervisor) -> OutsideSpec {
    // Beyond an interface of the machine, there is a world already.
    let uplinks: Vec<&Uplink> = supervisor.uplinks.iter().filter(|u| u.interface.is_none()).collect();
    let addresses = || uplinks.iter().flat_map(|u| &u.addresses).map(|a| a.value);
    let has = |v4: bool| addresses().any(|a| a.addr().is_ipv4() == v4);
    let owned =
        [&supervisor.pod_cidrs, &supervisor.node_cidrs, &supervisor.ingress_cidrs, &supervisor.egress_cidrs];
    let owned: BTreeSet<IpNet> = owned.into_iter().flatten().map(|c| c.value.trunc()).collect();
    let route = |prefix: IpNet| {
        let family = |a: &IpAddr| a.is_ipv4() == prefix.addr().is_ipv4();
        let own = uplinks
            .iter()
            .enumerate()
            .flat_map(|(uplink, u)| u.addresses.iter().map(move |a| Via { uplink, address: a.value.addr() }));
        OutsideRoute { prefix, via: own.filter(|v| family(&v.address)).collect() }
    };
    OutsideSpec {
        uplinks: uplinks.iter().map(|u| far_side(supervisor, u)).collect(),
        addresses: WORLD.into_iter().filter(|a| has(a.is_ipv4())).collect(),
        routes: owned.into_iter().map(route).filter(|r| !r.via.is_empty()).collect(),
        serve: Vec::new(),
    }
}

/// The router at the other end of an uplink: it has every next hop of the uplink's prefixes.
fn far_side(supervisor: &Supervisor, uplink: &Uplink) -> OutsideUplink {
    let hops: Vec<&NextHop> = supervisor.static_routes.iter().flat_map(|r| &r.next_hops).collect();
    let mut addresses = Vec::new();
    let mut mac = None;
    for own in uplink.addresses.iter().map(|a| a.value) {
        let near: Vec<&&NextHop> = hops.iter().filter(|h| own.contains(&h.address.value)).collect();
        // One interface has one MAC; of next hops with different ones the first is heard.
        mac = mac.or(near.iter().find_map(|h| h.mac));
        let found: BTreeSet<IpAddr> = near.iter().map(|h| h.address.value).collect();
        let spare = if found.is_empty() { neighbour(own) } else { None };
        addresses.extend(found.into_iter().chain(spare).filter_map(|a| IpNet::new(a, own.prefix_len()).ok()));
    }
    OutsideUplink { name: uplink.name.clone(), mac, addresses, mtu: uplink.mtu.unwrap_or(supervisor.mtu) }
}

/// Another address of a connected prefix: the last, as routers often have, or the first.
fn neighbour(own: IpNet) -> Option<IpAddr> {
    let candidates = match own {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [last.saturating_sub(1), first.saturating_add(1)].map(|a| IpAddr::V4(Ipv4Addr::from_bits(a)))
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [last.saturating_sub(1), first.saturating_add(1)].map(|a| IpAddr::V6(Ipv6Addr::from_bits(a)))
        }
    };
    candidates.into_iter().find(|a| own.contains(a) && *a != own.addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernet_control::{
        analysis::plan::Plan, compile::compile, intern::Interner, ipam, manifests, store::UnixSeconds,
    };

    fn spec(yaml: &str) -> LabSpec {
        let model = manifests::read_str("x.yaml", yaml).unwrap().model;
        let mut ipam = ipam::Ipam::new(ipam::Leases::memory());
        let proposal = ipam.plan(&model, UnixSeconds(0), &BTreeSet::new()).unwrap();
        let addressing = ipam.commit(proposal).unwrap();
        let mut interner = Interner::default();
        let snapshot = compile(&model, &addressing, &mut interner).unwrap();
        let plan = Plan::of(&model, &addressing, &snapshot, &mut interner).unwrap();
        LabSpec::of(&model, &snapshot, &plan.pods)
    }

    const SHOP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop, annotations: {supernet.dev/ip: 10.9.9.9}}
spec: {containers: [{name: far, image: far}]}
";

    #[test]
    fn the_default_network_gives_hosts_and_a_world_around_them() {
        let spec = spec(SHOP);
        let web = spec.endpoints.iter().find(|e| e.workload.as_deref() == Some("shop/web")).unwrap();
        assert_eq!(web.addresses.len(), 1);
        assert_eq!(web.addresses[0].prefix_len(), 28);
        assert_eq!(web.gateways, [web.addresses[0].trunc().hosts().next().unwrap()]);
        assert_eq!(web.serve, [(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
        let far = spec.endpoints.iter().find(|e| e.name == "shop/far").unwrap();
        assert_eq!(far.addresses, ["10.9.9.9/32".parse::<IpNet>().unwrap()], "outside its block");
        assert_eq!(far.gateways, web.gateways);
        let nodes: Vec<&EndpointSpec> = spec.endpoints.iter().filter(|e| e.name.starts_with(NODE)).collect();
        assert_eq!(nodes.len(), 3);
        assert_eq!(nodes[0].serve, [(Protocol::Tcp, 6443), (Protocol::Tcp, 443)]);

        let outside = &spec.outside;
        assert_eq!(outside.uplinks[0].addresses, ["192.168.100.254/24".parse::<IpNet>().unwrap()]);
        assert_eq!(outside.addresses, [WORLD[0]], "no IPv6 uplink");
        let routes: Vec<String> = outside.routes.iter().map(|r| r.prefix.to_string()).collect();
        assert_eq!(routes, ["10.244.0.0/16", "172.26.0.0/24", "192.168.80.0/24", "192.168.90.0/24"]);
        assert_eq!(outside.routes[0].via, [Via { uplink: 0, address: "192.168.100.1".parse().unwrap() }]);
    }

    #[test]
    fn a_host_networked_pod_is_served_on_the_node_it_is_planned_on() {
        let mut spec = spec(
            "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: sys}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {hostNetwork: true, containers: [{name: a, image: a, ports: [{containerPort: 9100}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: proxy, namespace: sys}
spec: {hostNetwork: true, containers: [{name: p, image: p, ports: [{containerPort: 8080}]}]}
",
        );
        assert_eq!(spec.endpoints.len(), 3, "only nodes have a namespace of their own");
        let hosted = |spec: &LabSpec, workload: Option<&str>| -> Vec<Vec<(Protocol, u16)>> {
            let pods = spec.endpoints.iter().flat_map(|e| &e.hosted);
            pods.filter(|p| p.workload.as_deref() == workload).map(|p| p.serve.clone()).collect()
        };
        for node in &spec.endpoints {
            assert!(node.hosted.iter().any(|p| p.serve == [(Protocol::Tcp, 9100)]), "{node:?}");
        }
        assert_eq!(hosted(&spec, Some("sys/agent")).len(), 3);
        assert_eq!(hosted(&spec, None), [[(Protocol::Tcp, 8080)]], "on one node, though it names none");
        spec.without_responder("l", "sys/proxy").unwrap();
        assert_eq!(hosted(&spec, None), [[]]);
        assert_eq!(spec.endpoints[0].serve, [(Protocol::Tcp, 6443), (Protocol::Tcp, 443)], "not the node's");
    }

    #[test]
    fn a_prefix_without_next_hop_has_another_address() {
        let other = |own: &str| neighbour(own.parse().unwrap()).map(|a| a.to_string());
        assert_eq!(other("10.0.0.1/24").as_deref(), Some("10.0.0.254"));
        assert_eq!(other("10.0.0.254/24").as_deref(), Some("10.0.0.1"));
        assert_eq!(other("10.0.0.1/31").as_deref(), Some("10.0.0.0"));
        assert_eq!(other("fd00::1/127").as_deref(), Some("fd00::"));
        assert_eq!(other("10.0.0.1/32"), None);
    }
}
