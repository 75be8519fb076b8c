//! Two hosts and a policy, all in memory: denied at first, then allowed by a NetworkPolicy while packets run.
//!
//! Both pods are hosts with a real TCP/IP stack. The program polls everything itself and moves the clock by
//! hand, so it is done in no time, and every run is the same.
//!
//! Run it with `cargo run --example two_hosts`.

use std::{error::Error, net::SocketAddr, time::Duration};
use supernet::{
    DropReason, Handle, Instant, Supernet, Worker,
    host::{Host, HostConfig},
    model::{
        Change, Labels, Model, Name, NetworkPolicy, Peer, Pod, PolicyPort, PortMatch, Position, Protocol,
        Rule, Selector,
    },
    port,
};

fn main() -> Result<(), Box<dyn Error>> {
    // A Supervisor with its defaults, and two pods. As in a Supervisor Cluster, nothing reaches a pod unless a
    // policy says so.
    let mut model = Model::default();
    for name in ["web", "curl"] {
        let mut pod = Pod::new(Name::new("shop", name));
        pod.labels = Labels::from([("app".to_owned(), name.to_owned())]);
        model.insert(pod.into());
    }
    let net = Supernet::builder().sessions(1024).frames(256).seed(1).build(model)?;

    // A memory port for each pod, and a host at its other end.
    let mut world = World {
        web: host(&net, "shop/web")?,
        curl: host(&net, "shop/curl")?,
        now: Instant::from_secs(1),
        workers: Vec::new(),
    };
    world.web.serve(80, |client, _| format!("hello, {client}").into_bytes());
    let web = SocketAddr::new(address(&net, "shop/web")?, 80);
    let (net, workers) = net.into_parts();
    world.workers = workers;

    println!("curl connects to web at {web}: no policy allows it.");
    let socket = world.curl.connect(web).ok_or("no address to connect to")?;
    let open = world.run(Duration::from_secs(3), |world| world.curl.is_open(socket));
    let denied = net.counters().drops.get(&DropReason::IngressDenied).copied().unwrap_or(0);
    println!("  connected: {open}; {denied} SYNs were dropped by web's firewall.");
    assert!(!open, "the Supervisor denies what no policy allows");

    println!("\nA NetworkPolicy lets curl in. It is applied while curl still tries:");
    net.apply(Change::upsert(allow_curl()))?;
    let open = world.run(Duration::from_secs(10), |world| world.curl.is_open(socket));
    println!("  connected: {open}");
    assert!(open, "the next SYN passes");

    world.curl.send(socket, b"GET");
    let mut answer = Vec::new();
    world.run(Duration::from_secs(1), |world| {
        answer.extend(world.curl.receive(socket));
        !answer.is_empty()
    });
    println!("  web says: {}", String::from_utf8_lossy(&answer));
    for session in net.sessions() {
        println!("  session: {}, {}", session.original, session.state);
    }

    // The same question without a packet: what would happen, and why?
    println!("\n{}", net.trace(&"shop/curl -> shop/web TCP 80".parse()?)?);
    Ok(())
}

/// Pods labelled `app=web` take TCP 80 from pods labelled `app=curl`.
fn allow_curl() -> NetworkPolicy {
    let curl = Peer::Pods { namespaces: None, pods: Some(Selector::labels([("app", "curl")])) };
    let http = PolicyPort { protocol: Protocol::Tcp, port: PortMatch::number(80) };
    NetworkPolicy {
        name: Name::new("shop", "allow-curl"),
        pods: Selector::labels([("app", "web")]),
        ingress: Some(vec![Rule { peers: vec![curl], ports: vec![http] }]),
        egress: None,
        staged: false,
        at: Position::default(),
    }
}

/// All that has to be moved on: two hosts and the network's workers.
struct World {
    web: Host,
    curl: Host,
    workers: Vec<Worker>,
    now: Instant,
}

impl World {
    /// Lets time pass, a millisecond a turn, until `done` or for as long as `at_most`. Whether it was done.
    fn run(&mut self, at_most: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + at_most;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            self.curl.poll(self.now);
            self.web.poll(self.now);
            for worker in &mut self.workers {
                while worker.poll(self.now).frames > 0 {}
            }
            if done(self) {
                return true;
            }
        }
        false
    }
}

/// Attaches a memory port to a pod and puts a host at its end.
fn host(net: &Handle, pod: &str) -> Result<Host, Box<dyn Error>> {
    let guest = net.attach(pod, port::memory(64))?;
    let mac = net.port_called(pod).ok_or("no such port")?.mac;
    let plan = net.plan()?;
    let segment =
        plan.segments.iter().find(|s| s.namespace.as_deref() == Some("shop")).ok_or("no segment")?;
    let config = HostConfig {
        mac,
        addresses: vec![ipnet::IpNet::new(address(net, pod)?, 28)?],
        gateways: segment.gateways.clone(),
        mtu: 1500,
        seed: 1,
    };
    Ok(Host::new(guest, &config))
}

/// The address that the network gave a pod.
fn address(net: &Handle, pod: &str) -> Result<std::net::IpAddr, Box<dyn Error>> {
    let plan = net.plan()?;
    let pod = plan.pods.iter().find(|p| p.name == pod).ok_or("no such pod")?;
    Ok(*pod.ips.first().ok_or("the pod has no address")?)
}
