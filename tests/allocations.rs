//! The hit path allocates nothing and frees nothing, counted by the allocator itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::IpAddr,
    sync::mpsc,
};
use supernet_dataplane::{
    flowlog::{self, Desks, FlowLog, Record, What},
    id::PortId,
    port::memory::{MemoryGuest, memory},
    rewrite::Tuple,
    snapshot::{GATEWAY_MAC, ServerKind, Snapshot},
    stage::{self, First, Next, Source},
    state::{Config, State},
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{Proto, tcp_flags::*},
    worker::{BATCH, Dataplane, Worker},
};
use supernet_testkit::{
    packet::{Probe, sound},
    topology::Topology,
};

thread_local! {
    /// Calls of this thread: allocations, and blocks given back. Tests run on threads of their own.
    static CALLS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// A global allocator cannot be written without `unsafe`. Every call goes to the system's as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, 1);
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, 1);
        unsafe { System.dealloc(at, layout) }
    }
}

fn count(allocated: u64, freed: u64) {
    // A thread that is going away counts no more.
    let _ = CALLS.try_with(|calls| calls.set((calls.get().0 + allocated, calls.get().1 + freed)));
}

fn calls_of(work: impl FnOnce()) -> (u64, u64) {
    let before = CALLS.get();
    work();
    let after = CALLS.get();
    (after.0 - before.0, after.1 - before.1)
}

/// Polls that are counted.
const ROUNDS: usize = 400;

/// A pod whose ClusterIPs are served by members outside: DLB, firewall, router, SNAT and Tier-0, both families.
/// Ports: the pod 0, an uplink of each family 1 and 2.
fn full_chain() -> Topology {
    let topology = Topology::new()
        .namespace(&["192.168.90.1", "fd00:90::1"])
        .segment(&["10.0.0.1/28", "fd00:0:0:1::/64"], 0)
        .pod(&["10.0.0.2", "fd00:0:0:1::2"])
        .uplink("192.168.100.1/24", &["192.168.100.254 02:00:00:00:ee:01"])
        .uplink("fd00:100::1/64", &["fd00:100::fe 02:00:00:00:ee:02"]);
    [Proto::TCP, Proto::UDP].into_iter().fold(topology, |t, proto| {
        t.server(ServerKind::Distributed, "10.96.0.10:80", proto, &["203.0.113.7:8080"]).server(
            ServerKind::Distributed,
            "[fd00:96::10]:80",
            proto,
            &["[2001:db8::7]:8080"],
        )
    })
}

struct Net {
    dataplane: Dataplane,
    worker: Worker,
    guests: Vec<MemoryGuest>,
    now: Instant,
}

impl Net {
    fn new() -> Self {
        let snapshot = full_chain().build();
        let config = Config { sessions: 64, frames: 4 * BATCH, ..Config::default() };
        let (dataplane, mut workers) = Dataplane::new(config);
        let ports = snapshot.ports.len() as u32;
        let guests = (0..ports).map(|p| dataplane.attach(PortId(p), memory(BATCH)).unwrap()).collect();
        dataplane.publish(snapshot);
        Self { dataplane, worker: workers.remove(0), guests, now: Instant::from_secs(1) }
    }

    /// Opens a connection of the pod and returns a plain frame of each direction, as its sender sends it.
    fn establish(&mut self, proto: Proto, src: &str, dst: &str) -> [(usize, Vec<u8>); 2] {
        let open = Probe::new(0, proto, src, dst);
        let (uplink, frame) = self.pass(0, &open.frame());
        assert_ne!(sound(&frame).src, open.src.ip(), "translated");
        assert_eq!(self.pass(uplink, &Probe::answer(&frame, SYN | ACK).frame()).0, 0);
        let data = Probe { flags: ACK, payload: 100, ..open };
        let (uplink, frame) = self.pass(0, &data.frame());
        [(0, data.frame()), (uplink, Probe::answer(&frame, ACK).frame())]
    }

    /// Sends one frame and returns where and how it comes out.
    fn pass(&mut self, port: usize, frame: &[u8]) -> (usize, Vec<u8>) {
        self.guests[port].send(frame).unwrap();
        self.worker.poll(self.now);
        let out = self.guests.iter().enumerate().find_map(|(n, guest)| Some((n, guest.recv()?.to_vec())));
        out.unwrap_or_else(|| panic!("{:?}", self.dataplane.counters()))
    }

    /// Fills one batch with these frames in turn, runs it, and takes what comes out.
    fn round(&mut self, frames: &[(usize, Vec<u8>)]) -> usize {
        for (port, frame) in frames.iter().cycle().take(BATCH) {
            self.guests[*port].send(frame).unwrap();
        }
        // House-keeping is part of it: the sweep and the look for next hops.
        self.now = self.now + Duration::from_millis(20);
        self.worker.poll(self.now);
        let drain = |guest: &MemoryGuest| std::iter::from_fn(|| guest.recv_frame()).count();
        self.guests.iter().map(drain).sum()
    }
}

#[test]
fn the_allocator_is_counted() {
    assert_eq!(calls_of(|| drop(Vec::<u8>::with_capacity(100))), (1, 1));
}

#[test]
fn a_hit_neither_allocates_nor_frees() {
    let mut net = Net::new();
    let mut frames = Vec::new();
    for proto in [Proto::TCP, Proto::UDP] {
        frames.extend(net.establish(proto, "10.0.0.2:4000", "10.96.0.10:80"));
        frames.extend(net.establish(proto, "[fd00:0:0:1::2]:4000", "[fd00:96::10]:80"));
    }
    // Queues and counters get the size they need.
    net.round(&frames);
    let hits = net.dataplane.counters().hits;
    let mut delivered = 0;
    let calls = calls_of(|| (0..ROUNDS).for_each(|_| delivered += net.round(&frames)));
    assert_eq!(delivered, ROUNDS * BATCH);
    assert_eq!(net.dataplane.counters().hits, hits + (ROUNDS * BATCH) as u64, "nothing but hits");
    assert_eq!(calls, (0, 0), "allocations and frees in {delivered} hits");
    assert!(net.dataplane.counters().conserved());
}

#[test]
fn a_hit_waits_for_no_session() {
    let mut net = Net::new();
    let mut frames = Vec::new();
    for (proto, port) in [(Proto::TCP, 4000), (Proto::UDP, 4001)] {
        frames.extend(net.establish(proto, &format!("10.0.0.2:{port}"), "10.96.0.10:80"));
        frames.extend(net.establish(proto, &format!("[fd00:0:0:1::2]:{port}"), "[fd00:96::10]:80"));
    }
    net.round(&frames);
    let dataplane = net.dataplane.clone();
    let sessions = &dataplane.state().sessions;
    let id = sessions.ids().next().unwrap();
    // So few sessions share one lock.
    let held = sessions.lock(id);
    let (done, finished) = mpsc::channel();
    let delivered = std::thread::scope(|scope| {
        scope.spawn(|| done.send(net.round(&frames)).unwrap());
        let delivered = finished.recv_timeout(std::time::Duration::from_secs(60));
        drop(held);
        delivered
    });
    assert_eq!(delivered, Ok(BATCH), "hits wait for a lock");
}

#[test]
fn deciding_on_a_connection_neither_allocates_nor_frees() {
    let vips = full_chain()
        .server(ServerKind::Server, "192.168.80.10:80", Proto::TCP, &["10.0.0.2:8080"])
        .server(ServerKind::Server, "[fd00:80::10]:80", Proto::TCP, &["[fd00:0:0:1::2]:8080"]);
    let snapshot = vips.build().succeed(&Snapshot::default());
    let state = State::new(Config { sessions: 64, ..Config::default() });
    let first = |ingress, src: &str, dst: &str| {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let tuple = Tuple { src, dst, proto: Proto::TCP, sport: 4000, dport: 80 };
        let (ttl, hash) = (64, tuple.flow_hash(1));
        First { ingress: PortId(ingress), tuple, ttl, dst_mac: GATEWAY_MAC, hash, echo: false }
    };
    let firsts = [
        first(0, "10.0.0.2", "10.96.0.10"),
        first(0, "fd00:0:0:1::2", "fd00:96::10"),
        first(1, "203.0.113.9", "192.168.80.10"),
        first(2, "2001:db8::9", "fd00:80::10"),
    ];
    let decide = || {
        for first in &firsts {
            let path = stage::walk(&snapshot, first, None, &mut ()).unwrap();
            if let Source::Egress(address) = path.source {
                drop(state.nat.pool(address, first.tuple.proto).claim(first.tuple.sport).unwrap());
            }
            if let Next::Neighbor(neighbor) = path.out {
                state.neighbors.intern(&neighbor).unwrap();
            }
        }
    };
    // Pools and next hops are made once.
    assert_ne!(calls_of(decide), (0, 0), "the pools");
    assert_eq!(calls_of(|| (0..ROUNDS).for_each(|_| decide())), (0, 0));
}

/// Also when nobody reads: what finds no room is counted.
#[test]
fn telling_a_log_neither_allocates_nor_frees() {
    let (desks, mut reader) = flowlog::begin(&FlowLog { records: 64, ..FlowLog::default() }, 1);
    let mut logs = Desks::default();
    desks.into_iter().for_each(|desk| logs.add(desk, Instant::ZERO));
    let tell = |n: u16| {
        let (src, dst) = (IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3]));
        let original = Tuple { src, dst, proto: Proto::TCP, sport: n, dport: 80 };
        let hash = original.flow_hash(1);
        let record = |now, what| Record::new(now, (hash, 1), what, PortId(0), original);
        logs.set_now(Instant::from_millis(u64::from(n)));
        logs.tell(|now| Some(record(now, What::Started)));
        let reason = DropReason::IngressDenied;
        logs.tell_denied(hash, (reason, None), |now| record(now, What::Denied { reason, lives: false }));
    };
    assert_eq!(calls_of(|| (0..1000).for_each(tell)), (0, 0));
    let mut records = Vec::new();
    reader.read(&mut records);
    let counts = reader.counts();
    assert_eq!((records.len(), counts.recorded), (64, 64));
    assert_eq!(counts.missed + counts.missed_denied, 2000 - 64);
}
