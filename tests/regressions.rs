//! Behaviour that was wrong once, or nearly was: each test is named after what must hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use supernet_dataplane::{
    buf::Frame,
    flow::Timeouts,
    id::{PortId, RuleId},
    pipeline::{Output, Pipeline},
    port::{
        Waker,
        memory::{SendError, memory},
    },
    snapshot::{GATEWAY_V6, ServerKind, Snapshot},
    state::Config,
    table::classifier::Action,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{Mac, Proto, arp, nd, tcp_flags::*},
    worker::{Dataplane, Worker},
};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC, at, ends, two_namespaces},
    packet::{Probe, sound},
    topology::{Topology, every, mac},
};

fn outside_mac() -> Mac {
    OUTSIDE_MAC.parse().unwrap()
}

/// [`two_namespaces`] and, at port 4, an uplink to the IPv6 world.
fn dual() -> Topology {
    two_namespaces().uplink("fd00:100::1/64", &[&format!("fd00:100::254 {OUTSIDE_MAC}")])
}

/// A packet of somebody beyond the uplink at `port`.
fn from_outside(port: u32, proto: Proto, src: &str, dst: &str) -> Probe {
    Probe { src_mac: outside_mac(), dst_mac: mac(port), ..Probe::new(port, proto, src, dst) }
}

/// A worker's pipeline on its own, so that two can be on different snapshots.
fn pipeline(dataplane: &Dataplane, snapshot: &Arc<Snapshot>) -> Pipeline {
    let mut p = Pipeline::new(dataplane.state().clone(), Arc::default(), dataplane.pool().clone());
    p.set_snapshot(snapshot.clone());
    p
}

fn run(p: &mut Pipeline, dataplane: &Dataplane, port: u32, frame: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut frames: Vec<Frame> = vec![dataplane.pool().copy(frame).unwrap()];
    let mut output = Output::default();
    p.process(&mut frames, &[PortId(port)], Instant::from_secs(1), &mut output);
    let mut out = Vec::new();
    output.drain(|port, frames| out.extend(frames.drain(..).map(|f| (port.0, f.bytes().to_vec()))));
    out
}

#[test]
fn a_worker_still_on_the_older_snapshot_does_not_undo_what_a_newer_one_decided() {
    let (dataplane, _workers) = Dataplane::new(Config { sessions: 64, frames: 64, ..Config::default() });
    dataplane.publish(two_namespaces().build());
    let before = dataplane.snapshot();
    let members = ["10.0.0.18:8080"];
    let with = || two_namespaces().server(ServerKind::Distributed, "10.96.0.20:80", Proto::TCP, &members);
    dataplane.publish(with().build());
    let (mut new, mut old) = (pipeline(&dataplane, &dataplane.snapshot()), pipeline(&dataplane, &before));

    let open = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.20:80");
    let out = run(&mut new, &dataplane, 0, &open.frame());
    assert_eq!(out[0].0, 2);
    // The older snapshot has no such server, yet the connection is not reset.
    let back = run(&mut old, &dataplane, 2, &Probe::answer(&out[0].1, SYN | ACK).frame());
    assert_eq!(back.len(), 1);
    let p = sound(&back[0].1);
    assert_eq!((back[0].0, ends(&p).0, p.tcp_flags & RST), (0, at("10.96.0.20:80"), 0));

    // And what the newer one cuts stays cut.
    dataplane.publish(with().edit(2, |e| e.ingress = Some(every(Action::Drop, 9))).build());
    let (mut newest, mut old) = (pipeline(&dataplane, &dataplane.snapshot()), new);
    let data = Probe { flags: ACK, ..open }.frame();
    assert!(run(&mut newest, &dataplane, 0, &data).is_empty());
    assert!(run(&mut old, &dataplane, 0, &data).is_empty());
}
