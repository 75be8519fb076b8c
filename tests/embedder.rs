//! The crate as an embedder uses it: names, changes while packets run, own threads, hosts with a real stack.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant as Clock},
};
use supernet::{
    Assertions, AttachError, Instant, Supernet,
    host::{Host, HostConfig, Socket},
    manifests,
    model::{Change, Model, ModelError, Name, ObjectKind, Pod},
    port,
};

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec: {podCIDRs: [10.244.0.0/20, 'fd00:244::/48'], ingressPosture: allowNamespace}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: shop}
spec: {containers: [{name: c, image: c}]}
";

struct Rig {
    net: supernet::Running,
    web: Host,
    curl: Host,
    began: Clock,
}

fn host(net: &Supernet, pod: &str) -> Host {
    let guest = net.attach(pod, port::memory(64)).unwrap();
    let entry = net.port_called(pod).unwrap();
    let plan = net.plan().unwrap();
    let ips = &plan.pods.iter().find(|p| p.name == pod).unwrap().ips;
    let net_of = |a: &IpAddr| ipnet::IpNet::new(*a, if a.is_ipv4() { 28 } else { 64 }).unwrap();
    let config = HostConfig {
        mac: entry.mac,
        addresses: ips.iter().map(net_of).collect(),
        gateways: vec!["10.244.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        mtu: 1500,
        seed: 1,
    };
    Host::new(guest, &config)
}

impl Rig {
    fn new() -> Self {
        let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
        let net = Supernet::builder().workers(2).sessions(256).frames(512).build(model).unwrap();
        let (mut web, curl) = (host(&net, "shop/web"), host(&net, "shop/curl"));
        web.serve(80, |client, asked| format!("{client} {}", asked.len()).into_bytes());
        Self { net: net.spawn().unwrap(), web, curl, began: Clock::now() }
    }

    fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let until = Clock::now() + Duration::from_secs(5);
        while Clock::now() < until {
            let now = Instant::from_micros(self.began.elapsed().as_micros() as u64);
            let moved = self.web.poll(now) | self.curl.poll(now);
            if done(self) {
                return true;
            }
            if !moved {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        false
    }

    fn ask(&mut self, to: SocketAddr) -> Option<(Socket, String)> {
        let socket = self.curl.connect(to)?;
        if !self.wait(|rig| rig.curl.is_open(socket)) {
            return None;
        }
        self.curl.send(socket, b"hello");
        let mut answer = Vec::new();
        self.wait(|rig| {
            answer.extend(rig.curl.receive(socket));
            answer.ends_with(b" 5")
        });
        Some((socket, String::from_utf8(answer).unwrap()))
    }
}

fn web(v6: bool) -> SocketAddr {
    if v6 { "[fd00:244::3]:80".parse().unwrap() } else { "10.244.0.3:80".parse().unwrap() }
}

#[test]
fn two_hosts_talk_in_both_families_and_the_counters_have_names() {
    let mut rig = Rig::new();
    for v6 in [false, true] {
        let (_, answer) = rig.ask(web(v6)).expect("an answer");
        let client = if v6 { "[fd00:244::2]" } else { "10.244.0.2" };
        assert!(answer.starts_with(client), "{answer}");
    }
    let stats = rig.net.stats();
    assert!(stats.ports["shop/curl"].received > 0);
    assert_eq!(stats.namespaces["shop"].received, stats.segments["shop-0"].received);
    assert_eq!(stats.rules["posture allowNamespace"].connections, 2);
    let sessions = rig.net.sessions();
    assert_eq!(sessions.len(), 2);
    assert!(sessions.iter().all(|s| s.ingress == "shop/curl" && s.egress == "shop/web"));
}

#[test]
fn a_deleted_pod_is_gone_and_its_peer_is_told() {
    let mut rig = Rig::new();
    let (socket, _) = rig.ask(web(false)).unwrap();
    rig.net.apply(Change::delete(ObjectKind::Pod, Name::new("shop", "web"))).unwrap();
    assert!(rig.net.port_called("shop/web").is_none());
    rig.curl.send(socket, b"again");
    assert!(rig.wait(|rig| rig.curl.is_closed(socket)), "reset: {:?}", rig.net.stats().drops);
    assert!(rig.net.sessions().is_empty());
}

#[test]
fn a_change_is_applied_whole_or_not_at_all() {
    let rig = Rig::new();
    let mut wrong = Pod::new(Name::new("shop", "third"));
    wrong.addresses = vec!["10.244.0.3".parse::<IpAddr>().unwrap().into()];
    let change = Change::upsert(Pod::new(Name::new("shop", "fourth"))).and(Change::upsert(wrong));
    let error = rig.net.apply(change).unwrap_err().to_string();
    assert!(error.contains("shop/third") && error.contains("shop/web"), "{error}");
    assert!(rig.net.port_called("shop/fourth").is_none());
    let error = rig.net.apply(Change::delete(ObjectKind::Pod, Name::new("shop", "x"))).unwrap_err();
    assert!(matches!(error, supernet::ApplyError::Model(ModelError::Missing(_))), "{error}");
}

#[test]
fn ports_are_attached_once_by_names_that_exist() {
    let rig = Rig::new();
    assert!(matches!(rig.net.attach("shop/x", port::memory(1)), Err(AttachError::Unknown(_))));
    let error = rig.net.attach("shop/web", port::memory(1)).unwrap_err().to_string();
    assert_eq!(error, "cannot attach shop/web: the port is attached already");
    assert!(rig.net.detach("shop/web"));
    assert!(!rig.net.detach("shop/x"));
    rig.net.attach("shop/web", port::memory(1)).unwrap();
}

#[test]
fn own_threads_poll_the_workers() {
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let net = Supernet::builder().sessions(64).frames(64).build(model).unwrap();
    let (mut web, mut curl) = (host(&net, "shop/web"), host(&net, "shop/curl"));
    web.serve(80, |_, asked| asked.to_vec());
    let (handle, mut workers) = net.into_parts();
    let socket = curl.connect(web_address()).unwrap();
    let mut now = Instant::from_secs(5);
    for _ in 0..1000 {
        now = now + Duration::from_millis(1);
        curl.poll(now);
        web.poll(now);
        let polled = workers[0].poll(now);
        assert!(polled.next >= now);
        if curl.is_open(socket) {
            break;
        }
    }
    assert!(curl.is_open(socket));
    assert!(handle.counters().conserved());
}

fn web_address() -> SocketAddr {
    web(false)
}

#[test]
fn what_a_draft_would_change_is_known_before_and_statements_are_checked() {
    let net = Supernet::builder().sessions(1024).frames(512).build(Model::default()).unwrap();
    let mut model = net.model();
    model.insert(Pod::new(Name::new("shop", "web")).into());
    let draft = net.draft(model).unwrap();
    let diff = net.diff(&draft).unwrap();
    assert!(!diff.is_empty() && diff.ends.iter().any(|end| end.name == "shop/web"));
    let statements = Assertions::parse("rules.txt", "nothing reaches shop/web").unwrap();
    assert!(net.check(&statements).is_err(), "it is not there yet");
    net.commit(draft).unwrap();
    assert!(net.check(&statements).unwrap().holds());
    let same = net.draft(net.model()).unwrap();
    assert!(net.diff(&same).unwrap().is_empty());
}
