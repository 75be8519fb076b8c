//! Plans of networks that need not be possible ones: what draws them must not care.

use proptest::{collection::vec, prelude::*};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_control::analysis::{
    plan::{
        MemberPlan, NodePlan, Plan, PodPlan, RoutePlan, SegmentPlan, SnatPlan, UplinkPlan, VirtualServerKind,
        VirtualServerPlan,
    },
    topology::Fold,
};

#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) namespaces: Vec<Namespace>,
    pub(super) nodes: u16,
    pub(super) uplinks: u16,
    pub(super) routes: u16,
    pub(super) dual_stack: bool,
    pub(super) own_tier1s: bool,
    /// At the end of every name but those of namespaces.
    pub(super) suffix: String,
}

#[derive(Debug, Clone)]
pub(super) struct Namespace {
    pub(super) name: String,
    pub(super) segments: u16,
    pub(super) pods: u16,
    /// Every server's first member and how many there are; beyond the pods they are nodes, then outside.
    pub(super) servers: Vec<(u16, u16)>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            nodes: 3,
            uplinks: 1,
            routes: 1,
            dual_stack: false,
            own_tier1s: false,
            suffix: String::new(),
        }
    }
}

/// Namespaces of one size; servers share the pods in equal parts, and every fourth has all.
pub(super) fn namespaces(count: usize, pods: u16, servers: u16) -> Vec<Namespace> {
    let servers: Vec<(u16, u16)> = (0..servers)
        .map(|n| if n % 4 == 3 { (0, pods) } else { (n * pods / servers, pods / servers) })
        .collect();
    let namespace = |n| Namespace { name: format!("ns-{n}"), segments: 1, pods, servers: servers.clone() };
    (0..count).map(namespace).collect()
}

impl Network {
    fn addresses(&self, a: u8, b: u16, c: u16) -> Vec<IpAddr> {
        let [high, low] = b.to_be_bytes();
        let v4 = IpAddr::V4(Ipv4Addr::new(a, high, low, c.to_be_bytes()[1]));
        let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x1234, a.into(), b, 0xffff, 0xffff, 0xffff, c));
        if self.dual_stack { vec![v4, v6] } else { vec![v4] }
    }

    pub(super) fn plan(&self) -> Plan {
        let mut plan = Plan {
            segments: Vec::new(),
            snat: Vec::new(),
            virtual_servers: Vec::new(),
            firewall: Vec::new(),
            address_sets: Vec::new(),
            pods: Vec::new(),
            nodes: Vec::new(),
            uplinks: Vec::new(),
            routes: Vec::new(),
            limits: Vec::new(),
            advertised_routes: Vec::new(),
            warnings: Vec::new(),
        };
        let mac = || "02:50:56:80:00:00".to_owned();
        for n in 0..self.nodes {
            let ips = self.addresses(172, 0, n);
            let name = format!("node-{n}{}", self.suffix);
            plan.nodes.push(NodePlan { name, ip: ips.first().copied(), ips, mac: mac(), pods: 0 });
        }
        for n in 0..self.uplinks {
            let addresses = self.addresses(192, 168, n).into_iter().map(Into::into).collect();
            plan.uplinks.push(UplinkPlan {
                name: format!("up-{n}{}", self.suffix),
                addresses,
                mac: mac(),
                mtu: 1500,
                interface: None,
            });
        }
        for n in 0..self.routes {
            let prefix = self.addresses(10, n, 0)[0].into();
            let next_hops = self.addresses(192, 168, 254);
            plan.routes.push(RoutePlan { prefix, kind: "static", next_hops, uplinks: Vec::new() });
        }
        for (n, namespace) in (1u16..).zip(&self.namespaces) {
            self.add(namespace, n, &mut plan);
        }
        if self.nodes > 0 {
            plan.segments.push(self.segment("nodes", None, "tier1", (172, 0)));
            plan.virtual_servers.push(VirtualServerPlan {
                namespace: None,
                name: "kube-api".to_owned(),
                kind: VirtualServerKind::KubeAPI,
                vip: self.addresses(192, 80, 1)[0],
                port: 6443,
                protocol: "TCP".to_owned(),
                members: plan.nodes.iter().map(|n| member(n.ips[0], None)).collect(),
            });
        }
        plan
    }

    fn segment(&self, name: &str, namespace: Option<&str>, tier1: &str, block: (u8, u16)) -> SegmentPlan {
        let addresses = self.addresses(block.0, block.1, 0);
        SegmentPlan {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            tier1: tier1.to_owned(),
            cidrs: addresses.iter().map(|a| (*a).into()).collect(),
            gateways: addresses,
            mtu: 1500,
            pods: 0,
            free: Some(1),
        }
    }

    fn add(&self, namespace: &Namespace, n: u16, plan: &mut Plan) {
        let name = namespace.name.as_str();
        let tier1 = if self.own_tier1s { format!("tier1-{name}") } else { "tier1".to_owned() };
        for s in 0..namespace.segments {
            plan.segments.push(self.segment(&format!("{name}-{s}"), Some(name), &tier1, (11, n)));
        }
        if !n.is_multiple_of(3) {
            let snat = |address| SnatPlan { namespace: name.to_owned(), address, tier1: tier1.clone() };
            plan.snat.extend(self.addresses(192, 90, n).into_iter().map(snat));
        }
        let pods: Vec<PodPlan> = (0..namespace.pods)
            .map(|p| {
                let ips = self.addresses(10, n, p);
                let host_network = p % 11 == 10;
                PodPlan {
                    name: format!("{name}/pod-{p}{}", self.suffix),
                    ip: ips.first().copied(),
                    ips,
                    node: Some(format!("node-0{}", self.suffix)),
                    segment: if host_network {
                        "nodes".to_owned()
                    } else {
                        format!("{name}-{}", p % namespace.segments.max(1))
                    },
                    mac: "02:50:56:80:00:00".to_owned(),
                    host_network,
                    workload: Some(format!("deployment/{}", self.suffix)),
                }
            })
            .collect();
        for (s, (first, count)) in (0u16..).zip(&namespace.servers) {
            let of = |at: u16| match pods.get(usize::from(at)) {
                Some(pod) => member(pod.ips[0], Some(pod.name.clone())),
                None if at.is_multiple_of(2) => member(self.addresses(172, 0, 0)[0], None),
                None => member(self.addresses(203, 0, at)[0], None),
            };
            let members: Vec<MemberPlan> = (*first..first + count).map(of).collect();
            for vip in self.addresses(96, n, s) {
                for kind in [VirtualServerKind::ClusterIP, VirtualServerKind::LoadBalancer] {
                    plan.virtual_servers.push(VirtualServerPlan {
                        namespace: Some(name.to_owned()),
                        name: format!("svc-{s}{}", self.suffix),
                        kind,
                        vip,
                        port: 443,
                        protocol: "SCTP".to_owned(),
                        members: members.clone(),
                    });
                }
            }
        }
        plan.pods.extend(pods);
    }
}

fn member(address: IpAddr, pod: Option<String>) -> MemberPlan {
    MemberPlan { address, port: 65535, pod, state: "active" }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z][a-z0-9-]{0,12}",
        1 => "[a-zA-Z0-9.-]{0,70}",
        1 => "[ -~]{0,20}".prop_map(|s| s.replace('/', "|")),
        1 => "\\PC{0,20}".prop_map(|s| s.replace('/', "|")),
    ]
}

pub(super) fn any_fold() -> impl Strategy<Value = Fold> {
    prop_oneof![3 => Just(Fold::Never), 1 => Just(Fold::Auto), 1 => Just(Fold::Always)]
}

pub(super) fn any_network() -> impl Strategy<Value = Network> {
    let server = (0u16..24, 0u16..8);
    let namespace = (name(), 0u16..3, 0u16..20, vec(server, 0..18))
        .prop_map(|(name, segments, pods, servers)| Namespace { name, segments, pods, servers });
    let namespaces = vec(namespace, 0..7).prop_map(|mut all| {
        // Names are unique: the first of each stays.
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        all
    });
    let counts = (0u16..70, 0u16..20, 0u16..12);
    (namespaces, counts, any::<bool>(), any::<bool>(), name()).prop_map(
        |(namespaces, (nodes, uplinks, routes), dual_stack, own_tier1s, suffix)| Network {
            namespaces,
            nodes,
            uplinks,
            routes,
            dual_stack,
            own_tier1s,
            suffix,
        },
    )
}
