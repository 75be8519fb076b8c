//! Bad lines: TCP connections of hosts with a real stack, through ports that lose, double, damage, reorder and
//! delay frames. Whatever happens to the packets, every byte arrives, once and in its place.
//!
//! Everything is polled here and the clock is moved by hand, so a run depends on its seed alone. It is printed, and
//! `SUPERNET_FAULT_SEED` sets it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use supernet::{
    Handle, Instant, Supernet, Timeouts, Worker,
    control::analysis::plan::VirtualServerKind,
    dataplane::{
        id::PortId,
        state::Config,
        wire::{
            Proto,
            tcp_flags::{ACK, SYN},
        },
        worker::Dataplane,
    },
    host::{Host, HostConfig, Socket},
    manifests,
    port::{
        self,
        fault::{self, FaultCounters, Faults, Rates},
    },
};
use supernet_testkit::{
    net::{OUTSIDE_MAC, two_namespaces},
    packet::{Probe, bytes},
    topology::mac,
};

/// Bytes that each side of a connection sends.
const BYTES: usize = 2 << 20;

/// Time that passes while frames do.
const STEP: Duration = Duration::from_micros(100);

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec:
  podCIDRs: [10.244.0.0/20, 'fd00:244::/48']
  egressCIDRs: [192.168.90.0/24, 'fd00:90::/112']
  uplinks: [{name: leaf, addresses: [192.168.100.1/24, 'fd00:cafe:4::1/64']}]
  ingressPosture: allow
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: office}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: four, port: 80, targetPort: 8080}, {name: six, port: 81, targetPort: 8081}]
";

/// The physical router, and all the world, on the uplink.
const OUTSIDE: [&str; 2] = ["192.168.100.254", "fd00:cafe:4::fe"];
const UPLINK: [&str; 2] = ["192.168.100.1", "fd00:cafe:4::1"];

/// Which of the hosts.
const WEB: usize = 0;
const CURL: usize = 1;
const WORLD: usize = 2;

fn seed() -> u64 {
    let given = std::env::var("SUPERNET_FAULT_SEED").ok();
    let seed = given.map_or(1, |seed| seed.parse().expect("SUPERNET_FAULT_SEED is a number"));
    println!("SUPERNET_FAULT_SEED={seed}");
    seed
}

/// A bad line, both ways.
fn bad(seed: u64) -> Faults {
    let rates = Rates { loss: 0.05, duplication: 0.02, reordering: 0.1, delay: 0.02, ..Rates::default() };
    // Damage on the way in only, so that no frame is damaged twice: two flips can cancel out in a checksum.
    Faults { seed, receive: Rates { corruption: 0.01, ..rates }, transmit: rates }
}

/// Two pods, the world, and the network between them.
struct Rig {
    net: Handle,
    workers: Vec<Worker>,
    hosts: Vec<Host>,
    ports: Vec<FaultCounters>,
    now: Instant,
}

impl Rig {
    fn new(seed: u64, strict: bool) -> Self {
        let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
        // Who has lost several in a row waits for a minute before trying again, also to close.
        let patient = Duration::from_secs(600);
        let timeouts = Timeouts { tcp_closing: patient, tcp_fin_wait: patient, ..Timeouts::default() };
        let builder = Supernet::builder().workers(2).sessions(256).frames(1024).seed(seed);
        let net = builder.timeouts(timeouts).strict_tcp(strict).build(model).unwrap();
        let plan = net.plan().unwrap();
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for (n, name) in ["shop/web", "office/curl", "uplink/leaf"].into_iter().enumerate() {
            let port = fault::wrap(port::memory(64), bad(seed.wrapping_add(n as u64)));
            ports.push(port.counters());
            let (guest, mac, ips, gateways) = if n == WORLD {
                let guest = net.attach_uplink("leaf", port).unwrap();
                let ips: Vec<IpAddr> = OUTSIDE.iter().map(|a| a.parse().unwrap()).collect();
                let gateways: Vec<IpAddr> = UPLINK.iter().map(|a| a.parse().unwrap()).collect();
                (guest, supernet::Mac([2, 0, 0, 0, 0xee, 1]), ips, gateways)
            } else {
                let guest = net.attach(name, port).unwrap();
                let pod = plan.pods.iter().find(|p| p.name == name).unwrap();
                let segment = plan.segments.iter().find(|s| s.name == pod.segment).unwrap();
                (guest, net.port_called(name).unwrap().mac, pod.ips.clone(), segment.gateways.clone())
            };
            let bits = |a: &IpAddr| {
                if a.is_ipv6() {
                    64
                } else if n == WORLD {
                    24
                } else {
                    28
                }
            };
            let addresses = ips.iter().map(|a| ipnet::IpNet::new(*a, bits(a)).unwrap()).collect();
            let config = HostConfig { mac, addresses, gateways, mtu: 1500, seed: seed ^ n as u64 };
            hosts.push(Host::new(guest, &config));
        }
        let (net, workers) = net.into_parts();
        Self { net, workers, hosts, ports, now: Instant::from_secs(1) }
    }

    /// A pod's address.
    fn pod(&self, name: &str, v6: bool) -> IpAddr {
        let plan = self.net.plan().unwrap();
        let pod = plan.pods.iter().find(|p| p.name == name).unwrap();
        *pod.ips.iter().find(|a| a.is_ipv6() == v6).unwrap()
    }

    /// The Service's address inside, or outside.
    fn service(&self, outside: bool, v6: bool) -> IpAddr {
        let kind = if outside { VirtualServerKind::LoadBalancer } else { VirtualServerKind::ClusterIP };
        let plan = self.net.plan().unwrap();
        let mut ours = plan.virtual_servers.iter().filter(|s| s.namespace.as_deref() == Some("shop"));
        ours.find(|s| s.kind == kind && s.vip.is_ipv6() == v6).unwrap().vip
    }

    fn held(&self) -> u64 {
        self.ports.iter().map(|p| p.receive().held() + p.transmit().held()).sum()
    }

    /// Has everyone do what there is to do, and moves the clock to when there is more.
    fn turn(&mut self) {
        for host in &mut self.hosts {
            host.poll(self.now);
        }
        let mut moved = false;
        loop {
            let frames: usize = self.workers.iter_mut().map(|w| w.poll(self.now).frames).sum();
            moved |= frames > 0;
            if frames == 0 && self.held() == 0 {
                break;
            }
        }
        let soon = self.now + STEP;
        let next = self.hosts.iter_mut().filter_map(Host::poll_at).min();
        self.now = if moved { soon } else { next.unwrap_or(soon).max(soon) };
    }

    /// Checks that nothing was lost but on purpose.
    fn settle(mut self) {
        for _ in 0..4 {
            self.turn();
        }
        while self.hosts.iter_mut().any(|host| host.poll(self.now)) {}
        let counters = self.net.counters();
        assert!(counters.conserved(), "{counters:?}");
        let sum = |count: &dyn Fn(&FaultCounters) -> u64| self.ports.iter().map(count).sum::<u64>();
        assert_eq!(counters.received, sum(&|p| p.receive().passed));
        assert_eq!(counters.sent, sum(&|p| p.transmit().taken));
        for port in &self.ports {
            assert_eq!((port.receive().held(), port.transmit().held()), (0, 0));
        }
        let pool = self.net.dataplane().pool().clone();
        drop(self);
        assert_eq!(pool.available(), pool.capacity(), "every buffer is back");
    }
}

/// One side of a connection.
struct End {
    host: usize,
    socket: Socket,
    out: Vec<u8>,
    sent: usize,
    expected: Vec<u8>,
    received: usize,
}

impl End {
    fn new(host: usize, socket: Socket, out: Vec<u8>, expected: Vec<u8>) -> Self {
        Self { host, socket, out, sent: 0, expected, received: 0 }
    }

    fn done(&self) -> bool {
        self.sent == self.out.len() && self.received == self.expected.len()
    }

    /// Sends and receives what it can.
    fn work(&mut self, rig: &mut Rig) {
        let host = &mut rig.hosts[self.host];
        self.sent += host.send(self.socket, &self.out[self.sent..]);
        let data = host.receive(self.socket);
        let end = self.received + data.len();
        assert_eq!(self.expected.get(self.received..end), Some(&data[..]), "at byte {}", self.received);
        self.received = end;
    }
}

/// Has `client` connect to `to` in both families at a time, to a port of `asked` each, and both sides send.
/// `server` answers, on ports 8080 and 8081. Once as it is and once with strict TCP, for which late and doubled
/// segments are honest ones.
fn transfer(client: usize, server: usize, to: impl Fn(&Rig, bool) -> IpAddr, asked: u16) {
    let seed = seed();
    for strict in [false, true] {
        transfer_once(Rig::new(seed, strict), seed, (client, server), &to, asked);
    }
}

fn transfer_once(
    mut rig: Rig,
    seed: u64,
    (client, server): (usize, usize),
    to: &impl Fn(&Rig, bool) -> IpAddr,
    asked: u16,
) {
    let mut ends = Vec::new();
    for (n, v6) in [false, true].into_iter().enumerate() {
        let to = SocketAddr::new(to(&rig, v6), asked + n as u16);
        let served = rig.hosts[server].listen(8080 + n as u16);
        let asking = rig.hosts[client].connect(to).unwrap();
        let (question, answer) = (bytes(seed ^ n as u64, BYTES), bytes(!seed ^ n as u64, BYTES));
        ends.push(End::new(client, asking, question.clone(), answer.clone()));
        ends.push(End::new(server, served, answer, question));
    }
    let hour = rig.now + Duration::from_secs(3600);
    let mut closing = false;
    loop {
        rig.turn();
        ends.iter_mut().for_each(|end| end.work(&mut rig));
        if !closing && ends.iter().all(End::done) {
            closing = true;
            ends.iter().for_each(|end| rig.hosts[end.host].close(end.socket));
        }
        // One side of each connection knows that both have closed it. The other may never hear of it.
        let closed = |end: &End| rig.hosts[end.host].is_closed(end.socket);
        if closing && ends.chunks(2).all(|pair| pair.iter().any(closed)) {
            break;
        }
        let state: Vec<_> = ends.iter().map(|e| (e.sent, e.received)).collect();
        assert!(rig.now < hour, "sent and received: {state:?}, closing: {closing}\n{:?}", rig.net.stats());
    }
    rig.settle();
}

#[test]
fn pod_to_pod() {
    transfer(CURL, WEB, |rig, v6| rig.pod("shop/web", v6), 8080);
}

#[test]
fn pod_to_cluster_ip() {
    transfer(CURL, WEB, |rig, v6| rig.service(false, v6), 80);
}

#[test]
fn outside_to_vip() {
    transfer(WORLD, WEB, |rig, v6| rig.service(true, v6), 80);
}

#[test]
fn pod_to_outside_through_snat() {
    transfer(CURL, WORLD, |_, v6| OUTSIDE[usize::from(v6)].parse().unwrap(), 8080);
}

fn rates() -> impl Strategy<Value = Rates> {
    let rate = || prop_oneof![Just(0.0), 0.0..0.5, Just(1.0)];
    let parts = (rate(), rate(), rate(), rate(), rate(), 1..20_u32);
    parts.prop_map(|(loss, duplication, corruption, reordering, delay, visits)| Rates {
        loss,
        duplication,
        corruption,
        reordering,
        delay,
        visits,
        ..Rates::default()
    })
}

#[derive(Debug, Clone)]
enum Step {
    /// How many, of which probe, with which TCP flags.
    Send(usize, usize, u8),
    Poll,
    /// A guest takes what waits for it.
    Take(usize),
    /// A port is detached and attached again.
    Again(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..20_usize, 0..5_usize, prop_oneof![Just(SYN), Just(ACK)]).prop_map(|(n, p, f)| Step::Send(n, p, f)),
        6 => Just(Step::Poll),
        3 => (0..4_usize).prop_map(Step::Take),
        1 => (0..4_u32).prop_map(Step::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever goes wrong at the ports, workers and lines agree on every frame, and every buffer comes home; also
    /// when buffers run out, guests do not listen, and ports go while they hold something.
    #[test]
    fn frames_and_buffers_add_up(
        faults in (any::<u64>(), rates(), rates()),
        frames in 16..300_usize,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let config = Config { workers: 2, sessions: 64, frames, ..Config::default() };
        let (dataplane, mut workers) = Dataplane::new(config);
        let mut lines = Vec::new();
        let (seed, receive, transmit) = faults;
        let mut attach = |id| {
            let port = fault::wrap(port::memory(16), Faults { seed, receive, transmit });
            lines.push(port.counters());
            dataplane.attach(PortId(id), port).unwrap()
        };
        let mut guests: Vec<_> = (0..4).map(&mut attach).collect();
        dataplane.publish(two_namespaces().build());
        let outside = Probe {
            src_mac: OUTSIDE_MAC.parse().unwrap(),
            dst_mac: mac(3),
            ..Probe::new(3, Proto::TCP, "203.0.113.7:1", "192.168.80.10:80")
        };
        let probes = [
            Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80"),
            Probe { dst_mac: mac(1), ..Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.3:53") },
            Probe::new(1, Proto::TCP, "10.0.0.3:4000", "10.96.0.10:80"),
            Probe::new(2, Proto::UDP, "10.0.0.18:4000", "203.0.113.7:53"),
            outside,
        ];
        let mut now = Instant::from_secs(1);
        let mut poll = || {
            now = now + STEP;
            workers.iter_mut().map(|worker| worker.poll(now).frames).sum::<usize>()
        };
        for step in steps {
            match step {
                Step::Send(count, probe, flags) => {
                    let from = [0, 0, 1, 2, 3][probe];
                    let frame = Probe { flags, ..probes[probe] }.frame();
                    // A guest whose port is full, or that finds no buffer, goes without.
                    for _ in 0..count {
                        let _ = guests[from].send(&frame);
                    }
                }
                Step::Poll => {
                    poll();
                }
                Step::Take(guest) => while guests[guest].recv().is_some() {},
                Step::Again(id) => {
                    dataplane.detach(PortId(id));
                    guests[id as usize] = attach(id);
                }
            }
        }
        let held = || lines.iter().map(|l| l.receive().held() + l.transmit().held()).sum::<u64>();
        let mut rounds = 0;
        while poll() > 0 || held() > 0 || rounds < 4 {
            rounds += 1;
            prop_assert!(rounds < 1000, "it never ends: {lines:?}");
        }
        let counters = dataplane.counters();
        prop_assert!(counters.conserved(), "{counters:?}");
        let sum = |count: &dyn Fn(&FaultCounters) -> u64| lines.iter().map(count).sum::<u64>();
        prop_assert_eq!(counters.received, sum(&|l| l.receive().passed));
        prop_assert_eq!(counters.sent, sum(&|l| l.transmit().taken));
        drop(guests);
        (0..4).for_each(|id| dataplane.detach(PortId(id)));
        poll();
        prop_assert_eq!(dataplane.pool().available(), dataplane.pool().capacity(), "every buffer is back");
    }
}
