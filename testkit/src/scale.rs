//! Networks as large as clusters get: what compiling is measured with.

use std::net::{Ipv4Addr, Ipv6Addr};
use supernet_control::model::{
    At, ContainerPort, IngressPosture, Labels, Model, Name, Namespace, NetworkPolicy, Operator, Peer, Pod,
    PolicyPort, PortMatch, Position, Protocol, Requirement, Rule, Selector, Snat, Supervisor,
};

/// How many there are of what.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Namespaces.
    pub namespaces: usize,
    /// Pods, dealt out to the namespaces in turn.
    pub pods: usize,
    /// NetworkPolicies, likewise.
    pub policies: usize,
}

const APPS: [&str; 5] = ["web", "api", "db", "cache", "worker"];
const TEAMS: usize = 50;

/// A cluster of many teams: in each namespace everything is closed and then opened bit by bit, within the namespace, for
/// the team's other namespaces, for a gateway and monitoring in namespaces of their own, to DNS and to ranges
/// outside. Addresses come from pools that are large enough.
pub fn model(scale: Scale) -> Model {
    let mut model = Model { supervisor: supervisor(), ..Model::default() };
    let names: Vec<String> = (0..scale.namespaces).map(|n| format!("ns-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let mut namespace = Namespace::named(name, Position::default());
        namespace
            .labels
            .extend(labels(&[("team", &format!("team-{}", n % TEAMS)), ("env", ["prod", "test"][n % 2])]));
        namespace.snat = Snat::None;
        model.insert(namespace.into());
    }
    for n in 0..scale.pods {
        model.insert(pod(&names[n % scale.namespaces], n / scale.namespaces).into());
    }
    for n in 0..scale.policies {
        let at = n % scale.namespaces;
        model.insert(policy(&names[at], at, n / scale.namespaces).into());
    }
    model
}

/// The nth pod of a namespace.
pub fn pod(namespace: &str, n: usize) -> Pod {
    let mut pod = Pod::new(Name::new(namespace, format!("pod-{n}")));
    pod.labels = labels(&[("app", APPS[n % APPS.len()]), ("version", ["v1", "v2"][n / APPS.len() % 2])]);
    pod.ports = vec![
        ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 + (n % 2) as u16 },
        ContainerPort { name: "metrics".into(), protocol: Protocol::Tcp, port: 9090 },
    ];
    pod
}

/// The nth policy of a namespace, which is the `at`th.
pub fn policy(namespace: &str, at: usize, n: usize) -> NetworkPolicy {
    let app = |name: &str| Selector::labels([("app", name)]);
    let here = |name: &str| Peer::Pods { namespaces: None, pods: Some(app(name)) };
    let there = |key: &str, value: &str, pods| Peer::Pods {
        namespaces: Some(Selector::labels([(key, value)])),
        pods,
    };
    let tcp = |port| PolicyPort { protocol: Protocol::Tcp, port };
    let number = |n| tcp(PortMatch::number(n));
    let rule = |peers, ports| Some(vec![Rule { peers, ports }]);
    let team = format!("team-{}", at % TEAMS);
    let not_worker = Selector {
        requirements: vec![Requirement {
            key: "app".into(),
            operator: Operator::NotIn(vec!["worker".into()]),
        }],
    };
    let (pods, ingress, egress) = match n % 10 {
        0 => (Selector::ALL, Some(Vec::new()), Some(Vec::new())),
        1 => (app("api"), rule(vec![here("web")], vec![tcp(PortMatch::Named("http".into()))]), None),
        2 => (app("db"), rule(vec![here("api"), here("worker")], vec![number(5432)]), None),
        3 => (
            Selector::ALL,
            rule(vec![there("kubernetes.io/metadata.name", "ns-0", None)], vec![number(9090)]),
            None,
        ),
        4 => (
            app("web"),
            rule(vec![there("kubernetes.io/metadata.name", "ns-1", Some(app("web")))], vec![number(8080)]),
            None,
        ),
        5 => (
            not_worker,
            rule(vec![there("team", &team, Some(app("web")))], vec![number(8080), number(8081)]),
            None,
        ),
        6 => {
            let dns = [Protocol::Udp, Protocol::Tcp]
                .map(|protocol| PolicyPort { protocol, port: PortMatch::number(53) });
            (
                Selector::ALL,
                None,
                rule(vec![there("kubernetes.io/metadata.name", "ns-2", None)], dns.to_vec()),
            )
        }
        7 => (app("web"), None, rule(vec![here("api")], vec![tcp(PortMatch::Named("http".into()))])),
        8 => {
            let cidr =
                ipnet::Ipv4Net::new_assert(Ipv4Addr::new(203, (at >> 8) as u8, at as u8, 0), 24).into();
            let except = vec![
                ipnet::Ipv4Net::new_assert(Ipv4Addr::new(203, (at >> 8) as u8, at as u8, 64), 28).into(),
            ];
            (app("worker"), None, rule(vec![Peer::Block { cidr, except }], vec![number(443)]))
        }
        _ => (
            app("cache"),
            rule(vec![here("api"), there("team", &team, Some(app("api")))], vec![number(6379)]),
            None,
        ),
    };
    NetworkPolicy {
        name: Name::new(namespace, format!("policy-{n}")),
        pods,
        ingress,
        egress,
        staged: false,
        at: Position::default(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn supervisor() -> Supervisor {
    let nets = |v4: [u8; 4], v4_len, v6: u16, v6_len| -> Vec<At<ipnet::IpNet>> {
        let v6 = Ipv6Addr::new(0xfd00, v6, 0, 0, 0, 0, 0, 0);
        vec![
            At::from(ipnet::IpNet::from(ipnet::Ipv4Net::new_assert(v4.into(), v4_len))),
            At::from(ipnet::IpNet::from(ipnet::Ipv6Net::new_assert(v6, v6_len))),
        ]
    };
    Supervisor {
        pod_cidrs: nets([10, 0, 0, 0], 11, 0x10, 40),
        service_cidrs: nets([10, 96, 0, 0], 16, 0x96, 112),
        ingress_cidrs: nets([10, 97, 0, 0], 16, 0x97, 112),
        egress_cidrs: nets([10, 98, 0, 0], 16, 0x98, 112),
        node_cidrs: nets([10, 99, 0, 0], 24, 0x99, 112),
        ingress_posture: IngressPosture::Deny,
        ..Supervisor::default()
    }
}
