//! The network that is made twice, and Supernet's of the two.
//!
//! ```text
//!   pod 10.0.0.2 ─ 0 ─┐                                  ┌─ 2 ─ 192.168.100.254, the outside, 1400 bytes
//!                     ├─ Tier-1 ──────────────── Tier-0 ─┤
//!   member 10.0.0.18 ─ 1 ┘  egress 192.168.90.1          └─ 3 ─ 2001:db8:100::fe, the same in IPv6
//!     1300 bytes            VIP 192.168.80.10, ClusterIP 10.96.0.10: TCP 80 and UDP 53 of the member
//! ```

use supernet_dataplane::{snapshot::ServerKind, state::Config, wire::Proto};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC},
    topology::Topology,
};

/// The pod that calls.
pub(crate) const POD: u32 = 0;
/// The pod that serves.
pub(crate) const MEMBER: u32 = 1;
/// The uplink.
pub(crate) const OUTSIDE: u32 = 2;
/// The uplink of IPv6.
pub(crate) const OUTSIDE_V6: u32 = 3;

/// A network whose hosts all are in the hands of the test.
pub(crate) trait Network {
    /// Sends frames into a port and returns what comes out, by port.
    fn send(&mut self, port: u32, frames: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)>;
}

impl Network for Net {
    fn send(&mut self, port: u32, frames: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
        frames.iter().flat_map(|frame| Net::send(self, port, frame)).collect()
    }
}

/// The network as Supernet makes it.
pub(crate) fn supernet() -> Net {
    let mut topology = Topology::new()
        .namespace(&["192.168.90.1"])
        .segment(&["10.0.0.1/28", "fd00:0:0:1::/64"], 0)
        .pod(&["10.0.0.2", "fd00:0:0:1::2"])
        .segment(&["10.0.0.17/28", "fd00:0:0:2::/64"], 0)
        .pod(&["10.0.0.18", "fd00:0:0:2::2"])
        .uplink("192.168.100.1/24", &[&format!("192.168.100.254 {OUTSIDE_MAC}")])
        .uplink("2001:db8:100::1/64", &[&format!("2001:db8:100::fe {OUTSIDE_MAC}")])
        .owned("10.0.0.0/24")
        .owned("10.96.0.0/16")
        .owned("192.168.80.0/24")
        .owned("192.168.90.0/24");
    for (kind, address) in [(ServerKind::Distributed, "10.96.0.10"), (ServerKind::Server, "192.168.80.10")] {
        topology = topology.server(kind, &format!("{address}:80"), Proto::TCP, &["10.0.0.18:8080"]).server(
            kind,
            &format!("{address}:53"),
            Proto::UDP,
            &["10.0.0.18:5353"],
        );
    }
    let topology = topology.with(|snapshot| {
        for entry in snapshot.ports.iter_mut().flatten() {
            let mtu = match entry.id.0 {
                POD => 1500,
                MEMBER => 1300,
                _ => 1400,
            };
            std::sync::Arc::make_mut(entry).mtu = mtu;
        }
    });
    Net::with(topology, Config { sessions: 1024, frames: 1024, ..Config::default() })
}
