//! Several workers on threads of their own, and connections whose packets meet more than one of them.
//!
//! Ports are dealt out to the workers in turn, so both directions of most connections are handled by different
//! workers. Frames wait in the ports before the workers begin: those that open a connection from both sides, or
//! by two uplinks at once, are then raced for. Every frame says which connection, direction and port it is of
//! and its number there, so that loss, doubling, confusion and disorder all show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant as Clock,
};
use supernet_dataplane::{
    buf::Pool,
    id::PortId,
    pipeline::{Output, Pipeline},
    port::memory::{MemoryGuest, memory},
    snapshot::{GATEWAY_MAC, PortRole, ServerKind, Snapshot},
    state::{Config, State},
    table::classifier::Action,
    time::{Duration, Instant},
    wire::{Mac, Proto},
    worker::{BATCH, Dataplane, Worker},
};
use supernet_testkit::{
    packet::{Probe, sound},
    topology::{Topology, every, mac},
};

const WORKERS: usize = 3;
const CONNECTIONS: u16 = 240;
/// Frames a direction and port of a connection.
const FRAMES: u16 = 4;
const PODS: [[&str; 2]; 4] = [
    ["10.0.0.2", "[fd00:0:0:1::2]"],
    ["10.0.0.3", "[fd00:0:0:1::3]"],
    ["10.0.0.18", "[fd00:0:0:2::2]"],
    ["10.0.0.19", "[fd00:0:0:2::3]"],
];
/// Uplinks' ports; the first two belong to different workers.
const UPLINKS: [u32; 3] = [4, 6, 5];
const OUTSIDE: [&str; 2] = ["203.0.113.7", "[2001:db8::7]"];
const EGRESS: [[&str; 2]; 2] = [["192.168.90.1", "fd00:90::1"], ["192.168.90.2", "fd00:90::2"]];
const CLUSTER_IP: [&str; 2] = ["10.96.0.10", "[fd00:96::10]"];
const VIP: [&str; 2] = ["192.168.80.10", "[fd00:80::10]"];

fn network() -> Snapshot {
    let mut topology = Topology::new()
        .namespace(&EGRESS[0])
        .segment(&["10.0.0.1/28", "fd00:0:0:1::/64"], 0)
        .pod(&PODS[0].map(bare))
        .pod(&PODS[1].map(bare))
        .namespace(&EGRESS[1])
        .segment(&["10.0.0.17/28", "fd00:0:0:2::/64"], 1)
        .pod(&PODS[2].map(bare))
        .pod(&PODS[3].map(bare))
        .uplink("192.168.100.1/24", &["192.168.100.254 02:00:00:00:ee:01"])
        .uplink("fd00:100::1/64", &["fd00:100::fe 02:00:00:00:ee:02"])
        .uplink("192.168.101.1/24", &["192.168.101.254 02:00:00:00:ee:03"]);
    for family in 0..2 {
        let members: Vec<String> = (1..4).map(|pod| format!("{}:8080", PODS[pod][family])).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        for (kind, address) in [(ServerKind::Distributed, CLUSTER_IP), (ServerKind::Server, VIP)] {
            topology = topology.server(kind, &format!("{}:80", address[family]), Proto::UDP, &members);
        }
    }
    ["10.96.0.0/16", "fd00:96::/64", "192.168.80.0/24", "fd00:80::/64", "192.168.90.0/24", "fd00:90::/64"]
        .into_iter()
        .fold(topology, Topology::owned)
        .build()
}

fn bare(address: &'static str) -> &'static str {
    address.trim_matches(['[', ']'])
}

fn at(address: &str, port: u16) -> SocketAddr {
    format!("{address}:{port}").parse().unwrap()
}

/// What a frame carries: its connection, whether it is an answer, the port it was sent by, its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    connection: u16,
    answer: bool,
    port: u8,
    number: u16,
}

impl Label {
    fn bytes(&self) -> [u8; 6] {
        let ([a, b], [c, d]) = (self.connection.to_be_bytes(), self.number.to_be_bytes());
        [a, b, u8::from(self.answer), self.port, c, d]
    }

    fn read(bytes: &[u8]) -> Self {
        let word = |n: usize| u16::from_be_bytes([bytes[n], bytes[n + 1]]);
        Self { connection: word(0), answer: bytes[2] == 1, port: bytes[3], number: word(4) }
    }
}

/// One connection, as who opens it sees it.
struct Connection {
    kind: Kind,
    client: SocketAddr,
    server: SocketAddr,
    /// Ports that its first packets come in by.
    ingress: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Two pods that begin to talk to each other at the same time.
    BothWays,
    /// A client outside, whose packets come in by two uplinks.
    Vip,
    /// A pod and a ClusterIP.
    ClusterIp,
    /// A pod and the world.
    Outward,
}

impl Connection {
    fn random(n: u16, random: &mut Random) -> Self {
        let (family, port) = (random.below(2), 10_000 + n);
        let pod = random.below(PODS.len());
        let pod_at = |pod: usize, port| at(PODS[pod][family], port);
        match random.below(4) {
            0 => {
                let other = (pod + 1 + random.below(PODS.len() - 1)) % PODS.len();
                Self {
                    kind: Kind::BothWays,
                    client: pod_at(pod, port),
                    server: pod_at(other, port),
                    ingress: vec![pod as u32],
                }
            }
            1 => Self {
                kind: Kind::Vip,
                client: at(OUTSIDE[family], port),
                server: at(VIP[family], 80),
                ingress: UPLINKS[..2].to_vec(),
            },
            2 => Self {
                kind: Kind::ClusterIp,
                client: pod_at(0, port),
                server: at(CLUSTER_IP[family], 80),
                ingress: vec![0],
            },
            _ => Self {
                kind: Kind::Outward,
                client: pod_at(pod, port),
                server: at(OUTSIDE[family], 443),
                ingress: vec![pod as u32],
            },
        }
    }

    /// Whether answers wait for no question.
    fn answers_at_once(&self) -> bool {
        self.kind == Kind::BothWays
    }

    fn frame(&self, label: Label) -> Vec<u8> {
        let port = u32::from(label.port);
        let (src_mac, dst_mac) = macs(port);
        let (src, dst) = if label.answer { (self.server, self.client) } else { (self.client, self.server) };
        let probe = Probe { src_mac, dst_mac, src, dst, proto: Proto::UDP, flags: 0, ttl: 64, payload: 0 };
        probe.frame_with(&label.bytes())
    }
}

/// The MACs of what is sent by a port.
fn macs(port: u32) -> (Mac, Mac) {
    if UPLINKS.contains(&port) { (Mac([2, 0, 0, 0, 0xee, 9]), mac(port)) } else { (mac(port), GATEWAY_MAC) }
}

/// xorshift64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % n
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        (1..all.len()).rev().for_each(|n| all.swap(n, self.below(n + 1)));
    }
}

/// What has arrived so far.
#[derive(Default)]
struct Arrived {
    labels: BTreeSet<Label>,
    /// The last number of each connection, direction and port.
    last: BTreeMap<(u16, bool, u8), u16>,
    /// Both ends of each connection as its server's side sees them.
    inside: BTreeMap<u16, (SocketAddr, SocketAddr)>,
}

impl Arrived {
    /// Checks a frame that came out at `port` against everything that is known of its connection.
    fn check(&mut self, connections: &[Connection], port: u32, frame: &[u8]) -> Label {
        let p = sound(frame);
        let label = Label::read(&frame[p.l4() + 8..]);
        let c = &connections[usize::from(label.connection)];
        let what = format!("{label:?} {:?} at port {port}: {p:?}", c.kind);
        assert!(self.labels.insert(label), "twice: {what}");
        let last = self.last.insert((label.connection, label.answer, label.port), label.number);
        assert!(last.is_none_or(|last| last < label.number), "overtaken: {what}");
        let (src, dst) = (SocketAddr::new(p.src, p.sport), SocketAddr::new(p.dst, p.dport));
        if label.answer {
            assert_eq!((src, dst), (c.server, c.client), "{what}");
            return label;
        }
        assert_eq!(*self.inside.entry(label.connection).or_insert((src, dst)), (src, dst), "moved: {what}");
        match c.kind {
            Kind::BothWays => assert_eq!((src, dst), (c.client, c.server), "{what}"),
            Kind::Vip | Kind::ClusterIp => {
                assert_eq!((src, dst.port()), (c.client, 8080), "{what}");
                assert!(
                    (1..4).any(|pod| PODS[pod].map(|a| at(a, 8080)).contains(&dst) && pod == port as usize)
                );
            }
            Kind::Outward => {
                let namespace = usize::from(c.ingress[0] >= 2);
                assert!(EGRESS[namespace].contains(&&*src.ip().to_string()), "{what}");
                assert_eq!(dst, c.server, "{what}");
            }
        }
        label
    }
}

/// Polls a worker until it is told to stop.
fn run(mut worker: Worker, clock: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if worker.poll(Instant::from_micros(clock.load(Ordering::Relaxed))).frames == 0 {
            std::thread::yield_now();
        }
    }
}

/// Waits for something that the workers are about to do.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Clock::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::yield_now();
    }
}

fn sessions(dataplane: &Dataplane) -> usize {
    let mut count = 0;
    dataplane.for_each_session(|_, _, _| count += 1);
    count
}

fn play(seed: u64) {
    let mut random = Random(seed);
    let connections: Vec<_> = (0..CONNECTIONS).map(|n| Connection::random(n, &mut random)).collect();
    let config = Config { workers: WORKERS, sessions: 1024, frames: 8192, seed, ..Config::default() };
    let (dataplane, workers) = Dataplane::new(config);
    let guests: Vec<MemoryGuest> =
        (0..7).map(|p| dataplane.attach(PortId(p), memory(4096)).unwrap()).collect();
    dataplane.publish(network());

    // Connections in the same random order everywhere, so that those who race for one are about level.
    let mut order: Vec<u16> = (0..CONNECTIONS).collect();
    random.shuffle(&mut order);
    let mut expected = 0;
    let send = |label: Label| {
        let frame = connections[usize::from(label.connection)].frame(label);
        guests[usize::from(label.port)].send(&frame).unwrap();
    };
    for n in order {
        let c = &connections[usize::from(n)];
        let pod_of =
            |end: SocketAddr| (0..4).find(|pod| PODS[*pod].map(|a| at(a, end.port())).contains(&end));
        let other = pod_of(c.server).filter(|_| c.answers_at_once()).map(|pod| (true, pod as u8));
        for (answer, port) in c.ingress.iter().map(|port| (false, *port as u8)).chain(other) {
            for number in 0..FRAMES {
                send(Label { connection: n, answer, port, number });
                // A question is answered when it arrives.
                expected += if answer || c.answers_at_once() { 1 } else { 2 };
            }
        }
    }

    let (clock, stop) = (AtomicU64::new(1_000_000), AtomicBool::new(false));
    let mut arrived = Arrived::default();
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(|| run(worker, &clock, &stop));
        }
        // Workers are stopped also when a check fails.
        let _stopper = Stopper(&stop);
        let mut answered = BTreeMap::<(u16, u8), u16>::new();
        let mut published = 0;
        wait_for("every frame", || {
            for (port, guest) in (0..).zip(&guests) {
                while let Some(frame) = guest.recv() {
                    let label = arrived.check(&connections, port, &frame);
                    let c = &connections[usize::from(label.connection)];
                    if label.answer || c.answers_at_once() {
                        continue;
                    }
                    let by = if c.kind == Kind::Outward { UPLINKS[random.below(3)] } else { port };
                    let number = answered.entry((label.connection, by as u8)).or_default();
                    guests[by as usize].send(&answer(&frame, by, label.connection, *number)).unwrap();
                    *number += 1;
                }
            }
            // Every living session is judged again now and then, to the same end.
            if arrived.labels.len() / 300 > published {
                published += 1;
                dataplane.publish(network());
            }
            arrived.labels.len() >= expected || dataplane.counters().dropped() > 0
        });
        let counters = dataplane.counters();
        assert_eq!((counters.dropped(), arrived.labels.len()), (0, expected), "{:?}", counters.drops);
        assert_eq!(sessions(&dataplane), usize::from(CONNECTIONS), "one session a connection");
        assert!(counters.hits > 0);

        let translated: Vec<_> = (0..)
            .zip(&connections)
            .filter(|(_, c)| c.kind == Kind::Outward)
            .map(|(n, _)| arrived.inside[&n].0)
            .collect();
        assert_eq!(translated.iter().collect::<BTreeSet<_>>().len(), translated.len(), "a NAT port twice");

        clock.fetch_add(1_000_000_000, Ordering::Relaxed);
        wait_for("sessions to end", || sessions(&dataplane) == 0);
        wait_for("NAT ports", || dataplane.state().nat.busy().is_empty());
    });
    assert!(dataplane.counters().conserved(), "{:?}", dataplane.counters());
    let state = dataplane.state();
    assert_eq!((state.v4.live(), state.v6.live()), (0, 0), "no entry is left");
    assert_eq!(dataplane.pool().available(), dataplane.pool().capacity(), "every buffer is back");
}

/// The answer to a frame that was delivered, sent by another port perhaps.
fn answer(delivered: &[u8], by: u32, connection: u16, number: u16) -> Vec<u8> {
    let (src_mac, dst_mac) = macs(by);
    let label = Label { connection, answer: true, port: by as u8, number };
    Probe { src_mac, dst_mac, ..Probe::answer(delivered, 0) }.frame_with(&label.bytes())
}

/// Two workers take the first packets of the same connections, in the same order and at the same moment.
fn race(seed: u64) {
    let config = Config { workers: 2, sessions: 1024, frames: 1024, seed, ..Config::default() };
    let (dataplane, workers) = Dataplane::new(config);
    let guests: Vec<MemoryGuest> =
        (0..7).map(|p| dataplane.attach(PortId(p), memory(2 * BATCH)).unwrap()).collect();
    dataplane.publish(network());
    // Ports 0 and 1, and uplinks 4 and 5, belong to one worker each.
    let connection = |n: u16| match n % 2 {
        0 => Connection {
            kind: Kind::BothWays,
            client: at(PODS[0][0], 10_000 + n),
            server: at(PODS[1][0], 10_000 + n),
            ingress: vec![0],
        },
        _ => Connection {
            kind: Kind::Vip,
            client: at(OUTSIDE[0], 10_000 + n),
            server: at(VIP[0], 80),
            ingress: vec![4, 5],
        },
    };
    let connections: Vec<_> = (0..BATCH as u16).map(connection).collect();
    for (n, c) in (0..).zip(&connections) {
        let frames = if c.answers_at_once() { [(false, 0), (true, 1)] } else { [(false, 4), (false, 5)] };
        for (answer, port) in frames {
            let frame = c.frame(Label { connection: n, answer, port, number: 0 });
            guests[usize::from(port)].send(&frame).unwrap();
        }
    }
    let ready = AtomicUsize::new(0);
    let take_part = |mut worker: Worker| {
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::SeqCst) < 2 {
            std::hint::spin_loop();
        }
        while worker.poll(Instant::from_secs(1)).frames > 0 {}
        worker
    };
    // Workers are kept: ports of one that is gone are gone, too.
    let _workers: Vec<Worker> = std::thread::scope(|scope| {
        let threads: Vec<_> = workers.into_iter().map(|w| scope.spawn(|| take_part(w))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut arrived = Arrived::default();
    for (port, guest) in (0..).zip(&guests) {
        while let Some(frame) = guest.recv() {
            arrived.check(&connections, port, &frame);
        }
    }
    let counters = dataplane.counters();
    assert!(counters.conserved() && counters.dropped() == 0, "{counters:?}");
    assert_eq!(arrived.labels.len(), 2 * BATCH);
    assert_eq!(sessions(&dataplane), BATCH, "one session a connection");
    let opened: u64 = counters.servers.values().map(|s| s.connections).sum();
    assert_eq!(opened, BATCH as u64 / 2, "those who lose a race count no connection");
}

/// A worker's pipeline over shared state, with a snapshot of its own.
fn pipeline(state: &Arc<State>, pool: &Pool, snapshot: &Arc<Snapshot>) -> Pipeline {
    let mut pipeline = Pipeline::new(state.clone(), Arc::default(), pool.clone());
    pipeline.set_snapshot(snapshot.clone());
    pipeline
}

#[test]
fn a_worker_behind_the_newest_snapshot_goes_by_newer_judgements() {
    let old = Arc::new(network().succeed(&Snapshot::default()));
    let mut denying = network();
    if let PortRole::Endpoint(pod) = &mut Arc::make_mut(denying.ports[1].as_mut().unwrap()).role {
        pod.ingress = Some(every(Action::Drop, 1));
    }
    let new = Arc::new(denying.succeed(&old));
    let (state, pool) = (Arc::new(State::new(Config { workers: 2, ..Config::default() })), Pool::new(8));
    let (mut ahead, mut behind) = (pipeline(&state, &pool, &new), pipeline(&state, &pool, &old));
    let (client, server) = (at(PODS[0][0], 9000), at(PODS[1][0], 80));
    let connection = Connection { kind: Kind::BothWays, client, server, ingress: vec![0] };
    let pass = |worker: &mut Pipeline, number| {
        let frame = connection.frame(Label { connection: 0, answer: false, port: 0, number });
        let (mut frames, mut output) = (vec![pool.copy(&frame).unwrap()], Output::default());
        worker.process(&mut frames, &[PortId(0)], Instant::from_secs(1), &mut output);
        let mut passed = false;
        output.drain(|_, frames| passed = !frames.is_empty());
        passed
    };
    assert!(pass(&mut behind, 0), "allowed when it began");
    assert!(!pass(&mut ahead, 1), "denied by now");
    behind.sweep(8, Instant::from_secs(1));
    assert!(!pass(&mut behind, 2), "and nobody allows it again");
    assert_eq!(state.v4.live(), 2, "the session is kept");
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_frame_arrives_once_in_order_by_one_session_a_connection() {
    for seed in 1..=12 {
        println!("seed {seed}");
        play(seed);
    }
}

#[test]
fn those_who_race_for_a_connection_share_one_session() {
    for seed in 1..=60 {
        println!("seed {seed}");
        race(seed);
    }
}
