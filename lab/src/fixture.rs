//! A small shop for the tests of what is printed.

use std::net::IpAddr;
use supernet_control::{
    compile::compile,
    intern::Interner,
    ipam::{Addressing, PodAddresses, SegmentBlock},
    model::{
        ContainerPort, IpFamily, Model, Name, NetworkPolicy, Peer, Pod, PolicyPort, PortMatch, Position,
        Protocol, Rule, Selector, Service, ServiceKind, ServicePort, TargetPort,
    },
};
use supernet_dataplane::snapshot::Snapshot;

pub(crate) struct Shop {
    pub(crate) model: Model,
    pub(crate) addressing: Addressing,
    pub(crate) snapshot: Snapshot,
    pub(crate) interner: Interner,
}

/// Three web pods behind a VIP, open to 203.0.113.0/24 but for one neighbour; a database for the web pods only; a
/// pod of another namespace that nothing is open to.
pub(crate) fn shop() -> Shop {
    let mut model = Model::default();
    let mut addressing = Addressing::default();
    let pods = [
        ("blog", "api", "api", 80, None),
        ("shop", "db-0", "db", 5432, Some("statefulset/db")),
        ("shop", "web-1", "web", 8080, Some("deployment/web")),
        ("shop", "web-2", "web", 8080, Some("deployment/web")),
        ("shop", "web-3", "web", 8080, Some("deployment/web")),
    ];
    for (n, (namespace, name, app, port, owner)) in (2u8..).zip(pods) {
        let mut pod = Pod::new(Name::new(namespace, name));
        pod.labels.insert("app".into(), app.into());
        pod.ports = vec![ContainerPort { name: String::new(), protocol: Protocol::Tcp, port }];
        pod.owner = owner.map(str::to_owned);
        let block = u8::from(namespace == "shop") * 16;
        let place = PodAddresses {
            segment: format!("{namespace}-0"),
            addresses: vec![IpAddr::from([10, 244, 0, block + n])],
        };
        addressing.pods.insert(pod.name.clone(), place);
        model.insert(pod.into());
    }
    for (namespace, block) in [("blog", 0), ("shop", 16)] {
        addressing.segments.push(SegmentBlock {
            name: format!("{namespace}-0"),
            namespace: namespace.into(),
            v4: Some(ipnet_v4(block)),
            v6: None,
        });
    }
    let apps = |app: &str| Selector::labels([("app", app)]);
    let tcp = |port| PolicyPort { protocol: Protocol::Tcp, port: PortMatch::number(port) };
    let policy = |name: &str, app: &str, rule| NetworkPolicy {
        name: Name::new("shop", name),
        pods: apps(app),
        ingress: Some(vec![rule]),
        egress: None,
        staged: false,
        at: Position::default(),
    };
    let web = Peer::Pods { namespaces: None, pods: Some(apps("web")) };
    model.insert(policy("db", "db", Rule { peers: vec![web], ports: vec![tcp(5432)] }).into());
    let outside = Peer::Block {
        cidr: "203.0.113.0/24".parse().unwrap(),
        except: vec!["203.0.113.13/32".parse().unwrap()],
    };
    let range = PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Numbers { from: 8080, to: 8090 } };
    model.insert(policy("web", "web", Rule { peers: vec![outside], ports: vec![range] }).into());
    let service = Service {
        name: Name::new("shop", "web"),
        kind: ServiceKind::LoadBalancer,
        selector: Some([("app".to_owned(), "web".to_owned())].into()),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            target: TargetPort::Number(8080),
        }],
        cluster_ips: Vec::new(),
        load_balancer_ip: None,
        families: vec![IpFamily::V4],
        prefer_dual_stack: false,
        publish_not_ready: false,
        external_name: None,
        client_affinity: false,
        at: Position::default(),
    };
    addressing.cluster_ips.insert(service.name.clone(), vec![IpAddr::from([10, 96, 0, 1])]);
    addressing.ingress.insert(service.name.clone(), vec![IpAddr::from([192, 168, 80, 3])]);
    model.insert(service.into());
    addressing.egress.insert("blog".into(), vec![IpAddr::from([192, 168, 90, 1])]);
    addressing.egress.insert("shop".into(), vec![IpAddr::from([192, 168, 90, 2])]);
    addressing.kube_api = vec![IpAddr::from([192, 168, 80, 1])];
    addressing.cli_tools = vec![IpAddr::from([192, 168, 80, 2])];
    for n in 1..=3u8 {
        addressing.nodes.insert(format!("node-{n}"), vec![IpAddr::from([172, 26, 0, n + 1])]);
    }
    let mut interner = Interner::default();
    let snapshot = compile(&model, &addressing, &mut interner).unwrap();
    Shop { model, addressing, snapshot, interner }
}

fn ipnet_v4(last: u8) -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new([10, 244, 0, last].into(), 28).unwrap()
}
