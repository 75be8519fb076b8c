//! The networks under load, as an administrator would declare them, and the connections through them.
//!
//! Every namespace has four clients and four servers, three Services and five policies, so that both firewalls
//! of a connection have several rules to choose from; there is a namespace for each [`FLOWS_A_NAMESPACE`]
//! connections, since the egress address of one has 64,512 ports a protocol, and eight at least. More policies,
//! if asked for, select the same clients and servers and let through what nobody sends, so that every
//! connection is judged by all of its namespace's; for fewer than forty there are fewer namespaces.

use super::{LoadError, Spec, frames::Template};
use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use supernet::{
    HalfOpenLimits, Handle, Mac, Supernet, Timeouts, Worker,
    dataplane::{
        id::PortId,
        snapshot::{GATEWAY_MAC, PortRole, ServerKind, Snapshot},
        time::Duration,
        wire::{Proto, tcp_flags},
    },
    model::{
        At, Directions, Endpoint, EndpointPort, EndpointSlice, Ends, IngressPosture, IpFamily, Labels, Model,
        Name, NetworkPolicy, NextHop, ObjectId, ObjectKind, Peer, Pod, PolicyPort, PolicyService, PortMatch,
        Position, Protocol, Rule, Selector, Service, ServiceKind, ServicePort, StaticRoute, Supervisor,
        TargetPort, Tier, TieredPolicy, TieredRule, Uplink, Verdict,
    },
};

/// The way that connections take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// From a pod to a pod of another namespace.
    EastWest,
    /// From a pod to a ClusterIP whose members are pods of another namespace.
    ClusterIp,
    /// From a pod to an address outside: firewall, routing, SNAT.
    Snat,
    /// From outside to a VIP whose members are pods.
    Vip,
    /// From a pod to a ClusterIP whose members are outside: load balancer, firewall, routing, SNAT.
    FullChain,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Clients of a namespace, and servers of it.
const PODS: usize = 4;

/// Far from 64,512, so that a free port is found at once.
const FLOWS_A_NAMESPACE: usize = 32_768;

/// As many namespaces as the egress pools of the network under load have addresses for.
pub(super) const MAX_FLOWS: usize = FLOWS_A_NAMESPACE * 1000;

/// Clients outside; a connection's number beyond them moves its port on.
const OUTSIDE_CLIENTS: usize = 200;

const NEXT_HOP_MAC: Mac = Mac([0x02, 0, 0, 0, 0xee, 0x01]);

/// Where connections go: the Services, and the port that servers listen on.
const WEB: &str = "web";
const EDGE: &str = "edge";
const BANK: &str = "bank";
const FRONT_PORT: u16 = 80;
const SERVER_PORT: u16 = 8080;
const BANK_PORT: u16 = 443;

/// Addresses outside that serve the Service without selector.
const BANKS: usize = 4;

/// Policies that the connections of a namespace need.
const POLICIES: usize = 5;

/// Connections of a scenario by number.
pub(super) struct Plan {
    family: Family,
    scenario: Scenario,
    namespaces: Vec<Places>,
    uplink: (PortId, Mac),
}

/// What connections of a namespace need to know.
struct Places {
    clients: Vec<Place>,
    servers: Vec<Place>,
    web: IpAddr,
    edge: IpAddr,
    bank: IpAddr,
}

struct Place {
    port: PortId,
    mac: Mac,
    address: IpAddr,
}

/// How long a connection is remembered of which one packet was seen, whatever its protocol.
pub const UNANSWERED: Duration = Duration::from_secs(60);

/// Builds the network of a load; its workers are not polled by anyone yet.
pub(super) fn build(spec: &Spec) -> Result<(Handle, Vec<Worker>, Plan), LoadError> {
    let flows = spec.flows + spec.fresh;
    let needed = flows.div_ceil(FLOWS_A_NAMESPACE).max(2);
    let namespaces = match spec.policies {
        Some(policies) if policies < needed * POLICIES => {
            return Err(LoadError::TooFewPolicies { least: needed * POLICIES });
        }
        Some(policies) => needed.max(8.min(policies / POLICIES)),
        None => needed.max(8),
    };
    // Connections that were answered stay, however fast the time of a load passes.
    let day = Duration::from_secs(86_400);
    let timeouts = Timeouts {
        tcp_first: UNANSWERED,
        udp_first: UNANSWERED,
        tcp_opening: 4 * day,
        tcp_established: 4 * day,
        udp_multiple: 4 * day,
        ..Timeouts::default()
    };
    // Those of new connections stay half open.
    let half_open =
        HalfOpenLimits { per_port: flows.div_ceil(namespaces).max(64), total: Some(flows.max(64)) };
    let builder = Supernet::builder().workers(spec.workers).sessions(flows.max(1024)).frames(spec.frames);
    let mut model = model(namespaces, spec.policies.unwrap_or(namespaces * POLICIES), spec.idle_services);
    if spec.rules > 0 {
        model.insert(idle_rules(spec.rules).into());
    }
    let (net, workers) = builder.timeouts(timeouts).half_open(half_open).seed(1).build(model)?.into_parts();
    let plan = Plan::of(spec.scenario, spec.family, namespaces, &net.snapshot())?;
    Ok((net, workers, plan))
}

impl Plan {
    fn of(
        scenario: Scenario,
        family: Family,
        namespaces: usize,
        snapshot: &Snapshot,
    ) -> Result<Self, LoadError> {
        let is_ours = |a: &IpAddr| a.is_ipv4() == (family == Family::Ipv4);
        let ports: HashMap<&str, PortId> =
            snapshot.names.ports.iter().map(|(id, name)| (name.as_str(), *id)).collect();
        let missing = |what: &str| LoadError::Missing(what.to_owned());
        let entry = |name: &str| {
            ports.get(name).and_then(|id| snapshot.port(*id)).ok_or_else(|| missing(&format!("port {name}")))
        };
        let place = |name: &str| {
            let port = entry(name)?;
            let address = match &port.role {
                PortRole::Endpoint(e) => e.addresses.iter().copied().find(is_ours),
                PortRole::Uplink(_) => None,
            };
            let address = address.ok_or_else(|| missing(&format!("address of {name}")))?;
            Ok::<_, LoadError>(Place { port: port.id, mac: port.mac, address })
        };
        let servers: HashMap<(&str, ServerKind), IpAddr> = snapshot
            .servers
            .listening
            .values()
            .filter(|s| is_ours(&s.address))
            .filter_map(|s| {
                // "ns-0/web:80/TCP VIP"
                let name = snapshot.names.servers.get(&s.id)?;
                Some(((name.split(':').next()?, s.kind), s.address))
            })
            .collect();
        let server = |name: String, kind| {
            servers
                .get(&(name.as_str(), kind))
                .copied()
                .ok_or_else(|| missing(&format!("virtual server {name}")))
        };
        let places = |n: usize| {
            let ns = namespace(n);
            let pods = |role: &str| -> Result<Vec<Place>, LoadError> {
                (0..PODS).map(|p| place(&format!("{ns}/{role}-{p}"))).collect()
            };
            Ok::<_, LoadError>(Places {
                clients: pods("client")?,
                servers: pods("server")?,
                web: server(format!("{ns}/{WEB}"), ServerKind::Distributed)?,
                edge: server(format!("{ns}/{EDGE}"), ServerKind::Server)?,
                bank: server(format!("{ns}/{BANK}"), ServerKind::Distributed)?,
            })
        };
        let uplink = entry("uplink/uplink")?;
        Ok(Self {
            family,
            scenario,
            namespaces: (0..namespaces).map(places).collect::<Result<_, _>>()?,
            uplink: (uplink.id, uplink.mac),
        })
    }

    /// The packet that opens connection number `flow`. TCP and UDP take turns.
    pub(super) fn template(&self, flow: usize) -> Template {
        let count = self.namespaces.len();
        let (at, n) = (flow % count, flow / count);
        let (here, there) = (&self.namespaces[at], &self.namespaces[(at + 1) % count]);
        let proto = if n.is_multiple_of(2) { Proto::TCP } else { Proto::UDP };
        let flags = tcp_flags::SYN;
        // TCP and UDP each from every client.
        let n = n / 2;
        if self.scenario == Scenario::Vip {
            let client = n % OUTSIDE_CLIENTS;
            let src = SocketAddr::new(self.outside_client(client), port((at, client), n / OUTSIDE_CLIENTS));
            let dst = SocketAddr::new(here.edge, FRONT_PORT);
            let macs = (NEXT_HOP_MAC, self.uplink.1);
            return Template { port: self.uplink.0, macs, src, dst, proto, flags };
        }
        let client = &here.clients[n % PODS];
        let dst = match self.scenario {
            Scenario::EastWest => SocketAddr::new(there.servers[n / PODS % PODS].address, SERVER_PORT),
            Scenario::ClusterIp => SocketAddr::new(there.web, FRONT_PORT),
            Scenario::Snat => {
                SocketAddr::new(bank_address(self.family, (n / PODS % BANKS) as u8 + 1), BANK_PORT)
            }
            Scenario::FullChain | Scenario::Vip => SocketAddr::new(here.bank, BANK_PORT),
        };
        let src = SocketAddr::new(client.address, port((at, n % PODS), n / PODS));
        Template { port: client.port, macs: (client.mac, GATEWAY_MAC), src, dst, proto, flags }
    }

    fn outside_client(&self, n: usize) -> IpAddr {
        let n = n as u16 + 1;
        match self.family {
            Family::Ipv4 => Ipv4Addr::new(198, 51, 100, n as u8).into(),
            Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n).into(),
        }
    }
}

/// A client's port number `n`: one after the other, as Linux has them towards one server, from a port on that
/// differs from client to client (RFC 6056, 3.3.3). So clients that share an egress address meet now and then.
fn port(client: (usize, usize), n: usize) -> u16 {
    let first = BuildHasherDefault::<DefaultHasher>::default().hash_one(client) % 64_512;
    1024 + ((first as usize + n) % 64_512) as u16
}

fn namespace(n: usize) -> String {
    format!("ns-{n}")
}

fn model(namespaces: usize, all_policies: usize, idle_services: usize) -> Model {
    let mut model = Model { supervisor: supervisor(), ..Model::default() };
    for n in 0..idle_services {
        let name = Name::new(namespace(n % namespaces), format!("idle-{n}"));
        let selector = Some(labels("server"));
        model.insert(service(name, ServiceKind::ClusterIp, selector, FRONT_PORT, SERVER_PORT).into());
    }
    for n in 0..all_policies.saturating_sub(namespaces * POLICIES) {
        model.insert(another_policy(&namespace(n % namespaces), n / namespaces).into());
    }
    for n in 0..namespaces {
        let ns = namespace(n);
        for role in ["client", "server"] {
            for p in 0..PODS {
                let mut pod = Pod::new(Name::new(&ns, format!("{role}-{p}")));
                pod.labels = labels(role);
                model.insert(pod.into());
            }
        }
        let servers = Some(labels("server"));
        let service =
            |name, kind, selector, port, target| service(Name::new(&ns, name), kind, selector, port, target);
        model.insert(service(WEB, ServiceKind::ClusterIp, servers.clone(), FRONT_PORT, SERVER_PORT).into());
        model.insert(service(EDGE, ServiceKind::LoadBalancer, servers, FRONT_PORT, SERVER_PORT).into());
        model.insert(service(BANK, ServiceKind::ClusterIp, None, BANK_PORT, BANK_PORT).into());
        for family in [IpFamily::V4, IpFamily::V6] {
            model.insert(bank(&ns, family).into());
        }
        for policy in policies(&ns) {
            model.insert(policy.into());
        }
    }
    model
}

/// So many ordered rules, none of which decides.
fn idle_rules(count: usize) -> TieredPolicy {
    let rule = |n: usize| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + n as u32);
        let cidr = ipnet::Ipv4Net::new_assert(address, 32).into();
        let ends = Ends::any_of(vec![Peer::Block { cidr, except: Vec::new() }]);
        let from = 10_000 + (n % 4000 * 10) as u16;
        let port = PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Numbers { from, to: from + 9 } };
        let (directions, sources, destinations) = if n.is_multiple_of(2) {
            (Directions::In, ends, Ends::ALL)
        } else {
            (Directions::Out, Ends::ALL, ends)
        };
        TieredRule {
            name: format!("rules[{n}]"),
            verdict: Verdict::Drop,
            directions,
            sources,
            destinations,
            services: vec![PolicyService::Ports(port)],
            applied_to: None,
            log_label: None,
        }
    };
    TieredPolicy {
        id: ObjectId { kind: ObjectKind::SecurityPolicy, name: Name::new("", "idle") },
        tier: Tier::Infrastructure,
        priority: 0,
        applied_to: Vec::new(),
        rules: (0..count).map(rule).collect(),
        staged: false,
        at: Position::default(),
    }
}

fn supervisor() -> Supervisor {
    let nets = |v4: [u8; 4], len: u8, v6: [u16; 8], len_v6: u8| {
        vec![
            At::from(ipnet::IpNet::from(ipnet::Ipv4Net::new_assert(v4.into(), len))),
            At::from(ipnet::IpNet::from(ipnet::Ipv6Net::new_assert(v6.into(), len_v6))),
        ]
    };
    let route = |prefix: At<ipnet::IpNet>, via: IpAddr| StaticRoute {
        prefix,
        next_hops: vec![NextHop { address: At::from(via), mac: Some(NEXT_HOP_MAC) }],
    };
    let defaults = nets([0; 4], 0, [0; 8], 0);
    let via: [IpAddr; 2] = [
        Ipv4Addr::new(192, 168, 100, 254).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe).into(),
    ];
    Supervisor {
        name: "load".to_owned(),
        pod_cidrs: nets([10, 0, 0, 0], 12, [0xfd00, 0x10, 0, 0, 0, 0, 0, 0], 48),
        service_cidrs: nets([10, 96, 0, 0], 16, [0xfd00, 0x96, 0, 0, 0, 0, 0, 0], 112),
        ingress_cidrs: nets([10, 97, 0, 0], 16, [0xfd00, 0x97, 0, 0, 0, 0, 0, 0], 112),
        egress_cidrs: nets([10, 98, 0, 0], 16, [0xfd00, 0x98, 0, 0, 0, 0, 0, 0], 112),
        node_cidrs: nets([10, 99, 0, 0], 24, [0xfd00, 0x99, 0, 0, 0, 0, 0, 0], 112),
        uplinks: vec![Uplink {
            name: "uplink".to_owned(),
            addresses: nets([192, 168, 100, 1], 24, [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1], 64),
            mac: None,
            mtu: None,
            interface: None,
        }],
        static_routes: defaults.into_iter().zip(via).map(|(prefix, via)| route(prefix, via)).collect(),
        ingress_posture: IngressPosture::Deny,
        ..Supervisor::default()
    }
}

fn labels(role: &str) -> Labels {
    Labels::from([("role".to_owned(), role.to_owned())])
}

fn service(name: Name, kind: ServiceKind, selector: Option<Labels>, port: u16, target: u16) -> Service {
    let listen = |name: &str, protocol| ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        target: TargetPort::Number(target),
    };
    Service {
        name,
        kind,
        selector,
        ports: vec![listen("tcp", Protocol::Tcp), listen("udp", Protocol::Udp)],
        cluster_ips: Vec::new(),
        load_balancer_ip: None,
        families: vec![IpFamily::V4, IpFamily::V6],
        prefer_dual_stack: false,
        publish_not_ready: false,
        external_name: None,
        client_affinity: false,
        at: Position::default(),
    }
}

/// An address outside that serves the Service without selector.
fn bank_address(family: Family, n: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(203, 0, 113, n).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, n.into()).into(),
    }
}

/// All of these.
fn bank(ns: &str, family: IpFamily) -> EndpointSlice {
    let addresses = match family {
        IpFamily::V4 => Family::Ipv4,
        IpFamily::V6 => Family::Ipv6,
    };
    let endpoint = |n| Endpoint {
        addresses: vec![At::from(bank_address(addresses, n))],
        hostname: None,
        ready: true,
        serving: true,
        terminating: false,
    };
    let port = |name: &str, protocol| EndpointPort { name: name.to_owned(), protocol, port: Some(BANK_PORT) };
    EndpointSlice {
        name: Name::new(ns, format!("{BANK}-{family:?}").to_lowercase()),
        service: BANK.to_owned(),
        family,
        endpoints: (1..=BANKS as u8).map(endpoint).collect(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        at: Position::default(),
    }
}

/// Everything is denied but what the scenarios send.
fn policies(ns: &str) -> Vec<NetworkPolicy> {
    let pods =
        |role| Peer::Pods { namespaces: Some(Selector::ALL), pods: Some(Selector::labels([("role", role)])) };
    let outside = |v4: [u8; 4], v6: [u16; 8]| {
        vec![
            Peer::Block { cidr: ipnet::Ipv4Net::new_assert(v4.into(), 24).into(), except: Vec::new() },
            Peer::Block { cidr: ipnet::Ipv6Net::new_assert(v6.into(), 48).into(), except: Vec::new() },
        ]
    };
    let on = |port| {
        [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| PolicyPort { protocol, port: PortMatch::number(port) })
            .to_vec()
    };
    let rule = |peers, port| Some(vec![Rule { peers, ports: on(port) }]);
    let policy = |name: &str, pods, ingress, egress| NetworkPolicy {
        name: Name::new(ns, name),
        pods,
        ingress,
        egress,
        staged: false,
        at: Position::default(),
    };
    let role = |role| Selector::labels([("role", role)]);
    let clients_outside = outside([198, 51, 100, 0], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0]);
    let banks = outside([203, 0, 113, 0], [0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0]);
    vec![
        policy("deny-all", Selector::ALL, Some(Vec::new()), Some(Vec::new())),
        policy("serve-pods", role("server"), rule(vec![pods("client")], SERVER_PORT), None),
        policy("serve-outside", role("server"), rule(clients_outside, SERVER_PORT), None),
        policy("call-servers", role("client"), None, rule(vec![pods("server")], SERVER_PORT)),
        policy("call-bank", role("client"), None, rule(banks, BANK_PORT)),
    ]
}

/// A policy for the clients, or the servers, of a namespace that lets through what nobody sends: to or from a
/// range of its own, on ports of its own.
fn another_policy(ns: &str, n: usize) -> NetworkPolicy {
    let (high, low) = ((n >> 8) as u8, n as u8);
    let ranges = vec![
        Peer::Block {
            cidr: ipnet::Ipv4Net::new_assert(Ipv4Addr::new(100, 64 + (high & 63), low, 0), 24).into(),
            except: Vec::new(),
        },
        Peer::Block {
            cidr: ipnet::Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0xa, n as u16, 0, 0, 0, 0), 64)
                .into(),
            except: Vec::new(),
        },
    ];
    let from = 10_000 + (n % 4000 * 10) as u16;
    let port = PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Numbers { from, to: from + 9 } };
    let rules = Some(vec![Rule { peers: ranges, ports: vec![port] }]);
    let (role, ingress, egress) =
        if n.is_multiple_of(2) { ("client", None, rules) } else { ("server", rules, None) };
    NetworkPolicy {
        name: Name::new(ns, format!("another-{n}")),
        pods: Selector::labels([("role", role)]),
        ingress,
        egress,
        staged: false,
        at: Position::default(),
    }
}
