//! A whole network in memory, driven frame by frame.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "it asserts")]

use crate::{
    packet::{Probe, sound},
    topology::Topology,
};
use std::net::SocketAddr;
use supernet_dataplane::{
    counters::Counters,
    id::PortId,
    port::memory::{MemoryGuest, memory},
    snapshot::{ServerKind, Snapshot},
    state::Config,
    time::Instant,
    verdict::DropReason,
    wire::{Packet, Proto},
    worker::{Dataplane, Worker},
};

/// The MAC of the next hop beyond the uplink.
pub const OUTSIDE_MAC: &str = "02:00:00:00:ee:01";

/// Two namespaces, three pods, an uplink, a ClusterIP and a VIP. Ports: pods 0, 1 (one segment), 2, uplink 3.
pub fn two_namespaces() -> Topology {
    Topology::new()
        .namespace(&["192.168.90.1"])
        .segment(&["10.0.0.1/28", "fd00:0:0:1::/64"], 0)
        .pod(&["10.0.0.2", "fd00:0:0:1::2"])
        .pod(&["10.0.0.3", "fd00:0:0:1::3"])
        .namespace(&["192.168.90.2"])
        .segment(&["10.0.0.17/28", "fd00:0:0:2::/64"], 0)
        .pod(&["10.0.0.18", "fd00:0:0:2::2"])
        .uplink("192.168.100.1/24", &[&format!("192.168.100.254 {OUTSIDE_MAC}")])
        .server(ServerKind::Distributed, "10.96.0.10:80", Proto::TCP, &["10.0.0.18:8080"])
        .server(ServerKind::Server, "192.168.80.10:80", Proto::TCP, &["10.0.0.3:8080", "10.0.0.18:8080"])
        .owned("10.96.0.0/16")
        .owned("192.168.80.0/24")
        .owned("192.168.90.0/24")
}

/// A network of one worker whose ports are all in memory, on a clock that the test moves.
#[derive(Debug)]
pub struct Net {
    /// The handle.
    pub dataplane: Dataplane,
    /// The worker, polled by [`Net::send`] and the like.
    pub worker: Worker,
    /// The guests' ends, by port.
    pub guests: Vec<MemoryGuest>,
    /// What time it is.
    pub now: Instant,
}

impl Net {
    /// A small network.
    pub fn new(topology: Topology) -> Self {
        Self::with(topology, Config { sessions: 64, frames: 256, ..Config::default() })
    }

    /// A network made like this.
    pub fn with(topology: Topology, config: Config) -> Self {
        let snapshot = topology.build();
        let ports = snapshot.ports.len() as u32;
        let (dataplane, mut workers) = Dataplane::new(config);
        let guests = (0..ports).map(|p| dataplane.attach(PortId(p), memory(64)).unwrap()).collect();
        dataplane.publish(snapshot);
        Self { dataplane, worker: workers.remove(0), guests, now: Instant::from_secs(1) }
    }

    /// Polls until no frame moves, and checks that none was lost.
    pub fn poll(&mut self) {
        while self.worker.poll(self.now).frames > 0 {}
        assert!(self.counters().conserved(), "{:?}", self.counters());
    }

    /// Sends a frame and returns what comes out, by port.
    pub fn send(&mut self, port: u32, frame: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.guests[port as usize].send(frame).unwrap();
        self.poll();
        let mut out = Vec::new();
        for (port, guest) in self.guests.iter().enumerate() {
            while let Some(frame) = guest.recv() {
                out.push((port as u32, frame.to_vec()));
            }
        }
        out
    }

    /// Sends a frame that must come out, whole and sound, at exactly one port.
    pub fn one(&mut self, port: u32, probe: &Probe) -> (u32, Vec<u8>, Packet) {
        let mut out = self.send(port, &probe.frame());
        assert_eq!(out.len(), 1, "{:?} {:?}", self.counters().drops, probe);
        let (port, frame) = out.remove(0);
        let packet = sound(&frame);
        (port, frame, packet)
    }

    /// Sends a frame that must be dropped for this reason.
    pub fn dropped(&mut self, port: u32, frame: &[u8], reason: DropReason) -> Vec<(u32, Vec<u8>)> {
        let before = self.counters();
        let out = self.send(port, frame);
        let after = self.counters();
        let count = |c: &Counters| c.drops.get(&reason).copied().unwrap_or(0);
        assert_eq!(count(&after), count(&before) + 1, "{:?}", after.drops);
        assert_eq!(after.dropped(), before.dropped() + 1, "one reason only");
        out
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.dataplane.counters()
    }

    /// Living sessions.
    pub fn sessions(&self) -> usize {
        let mut n = 0;
        self.dataplane.for_each_session(|_, _, _| n += 1);
        n
    }

    /// Publishes a snapshot.
    pub fn publish(&mut self, snapshot: Snapshot) {
        self.dataplane.publish(snapshot);
    }
}

/// Source and destination of a packet.
pub fn ends(p: &Packet) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(p.src, p.sport), SocketAddr::new(p.dst, p.dport))
}

/// An address and port, written down.
pub fn at(s: &str) -> SocketAddr {
    s.parse().unwrap()
}
