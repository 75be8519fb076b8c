//! Captures: each frame that comes in or leaves has a record, which says what became of it and why, as counters do.
//! (Played sequences are captured too, see `supernet_testkit::sequence`; super-packets in `tests/edges/`.)

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod filters;
mod threads;
mod verdicts;

use supernet_dataplane::{
    capture::{Capture, Filter, Limits, Record, Stage},
    id::PortId,
    table::classifier::Action,
    wire::Proto,
};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC, two_namespaces},
    packet::Probe,
    topology::{every, mac},
};

/// Everything that a network captures.
fn capture(net: &Net) -> Capture {
    net.dataplane.capture(Filter::default(), Limits::default())
}

fn records(capture: &Capture) -> Vec<Record> {
    std::iter::from_fn(|| capture.next()).collect()
}

fn ports(ids: &[u32]) -> Vec<PortId> {
    ids.iter().map(|id| PortId(*id)).collect()
}

fn stages(record: &Record) -> Vec<&'static str> {
    record.stages.iter().map(Stage::name).collect()
}

/// A call from outside to a VIP.
fn from_outside(sport: u16) -> Probe {
    Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        ..Probe::new(3, Proto::TCP, &format!("203.0.113.7:{sport}"), "192.168.80.10:80")
    }
}

/// Pod 2 lets nobody in, by rule 7.
fn closed() -> Net {
    Net::new(two_namespaces().edit(2, |e| e.ingress = Some(every(Action::Drop, 7))))
}
