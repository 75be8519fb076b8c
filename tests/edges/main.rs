//! The edges of the network: what a gateway meets beside plain packets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod captured;
mod fragments;
mod hostile;
mod icmp_errors;
mod mtu;
mod offload;
mod tcp;

use supernet_dataplane::{snapshot::ServerKind, verdict::DropReason, wire::Proto};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC, two_namespaces},
    packet::Probe,
    topology::{Topology, mac},
};

/// The network of [`two_namespaces`], and a third namespace whose egress addresses are of either family.
pub(crate) fn topology() -> Topology {
    two_namespaces()
        .namespace(&["192.168.90.3", "2001:db8:90::3"])
        .segment(&["10.0.0.33/28", "fd00:0:0:3::/64"], 0)
        .pod(&["10.0.0.34", "fd00:0:0:3::2"])
        .uplink("2001:db8:100::1/64", &[&format!("2001:db8:100::fe {OUTSIDE_MAC}")])
        .server(ServerKind::Distributed, "10.96.0.11:53", Proto::UDP, &["203.0.113.9:5353"])
        .server(ServerKind::Server, "192.168.80.11:53", Proto::UDP, &["10.0.0.3:5353"])
        .server(ServerKind::Distributed, "[fd96::11]:53", Proto::UDP, &["[2001:db8:9::9]:5353"])
}

/// The pod of that.
pub(crate) const DUAL_POD: u32 = 4;

/// Packets that go every kind of way: the port they come in by, and a frame.
pub(crate) fn ways() -> Vec<(u32, Probe)> {
    let outside = |dst: &str, proto| Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(3),
        ..Probe::new(3, proto, "203.0.113.7:5000", dst)
    };
    let from = |port, proto, src: &str, dst: &str| (port, Probe::new(port, proto, src, dst));
    vec![
        from(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80"),
        from(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80"),
        from(0, Proto::SCTP, "10.0.0.2:4000", "10.0.0.18:80"),
        from(0, Proto::ICMP, "10.0.0.2:77", "10.0.0.18:0"),
        from(0, Proto::UDP, "10.0.0.2:4000", "203.0.113.7:53"),
        from(0, Proto::ICMP, "10.0.0.2:77", "203.0.113.7:0"),
        from(0, Proto::TCP, "10.0.0.2:4000", "10.96.0.10:80"),
        from(0, Proto::UDP, "10.0.0.2:4000", "10.96.0.11:53"),
        from(0, Proto::UDP, "[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80"),
        from(0, Proto::ICMPV6, "[fd00:0:0:1::2]:77", "[fd00:0:0:2::2]:0"),
        from(DUAL_POD, Proto::UDP, "[fd00:0:0:3::2]:4000", "[2001:db8:7::7]:53"),
        from(DUAL_POD, Proto::UDP, "[fd00:0:0:3::2]:4000", "[fd96::11]:53"),
        (3, outside("192.168.80.11:53", Proto::UDP)),
        (3, outside("10.0.0.18:7", Proto::UDP)),
    ]
}

/// Everything that comes out for frames that come in one after the other.
pub(crate) fn send_all(net: &mut Net, port: u32, frames: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
    frames.iter().flat_map(|frame| net.send(port, frame)).collect()
}

/// Drops for a reason.
pub(crate) fn count(net: &Net, reason: DropReason) -> u64 {
    net.counters().drops.get(&reason).copied().unwrap_or(0)
}
