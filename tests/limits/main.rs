//! Limits of tenants: what counts for whom, that it is given back, and that a flood stays with who makes it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod counted;
mod floods;
mod oracle;
mod tenants;
mod threads;

use std::num::NonZeroU32;
use supernet_dataplane::{
    flow::ConnectionLimits,
    id::{NamespaceId, PortId},
    snapshot::Limits,
    verdict::DropReason,
    wire::Proto,
};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC, two_namespaces},
    packet::Probe,
    topology::{Topology, mac},
};

/// Pods 0 and 1 are in namespace 0, pod 2 in namespace 1; 3 is the uplink.
const UPLINK: u32 = 3;
const PODS: [&str; 3] = ["10.0.0.2", "10.0.0.3", "10.0.0.18"];

/// Of connections, half-open ones and new ones a second; 0: any number.
fn limit(connections: u32, half_open: u32, new_per_second: u32) -> ConnectionLimits {
    let [connections, half_open, new_per_second] =
        [connections, half_open, new_per_second].map(NonZeroU32::new);
    ConnectionLimits { connections, half_open, new_per_second }
}

/// The network of [`two_namespaces`] with limits of pods and of namespaces.
fn limited(pods: &[(u32, ConnectionLimits)], namespaces: &[(u32, ConnectionLimits)]) -> Topology {
    two_namespaces().with(|snapshot| {
        let mut limits = Limits::default();
        pods.iter().for_each(|(pod, l)| limits.set_port(PortId(*pod), *l));
        namespaces.iter().for_each(|(namespace, l)| limits.set_namespace(NamespaceId(*namespace), *l));
        snapshot.limits = limits;
    })
}

/// A first packet of a pod.
fn from_pod(pod: u32, proto: Proto, sport: u32, dst: &str) -> Probe {
    Probe::new(pod, proto, &format!("{}:{sport}", PODS[pod as usize]), dst)
}

/// A first packet from the outside.
fn from_outside(proto: Proto, sport: u32, dst: &str) -> Probe {
    Probe {
        src_mac: OUTSIDE_MAC.parse().unwrap(),
        dst_mac: mac(UPLINK),
        ..Probe::new(UPLINK, proto, &format!("203.0.113.7:{sport}"), dst)
    }
}

/// Connections and half-open ones that count for a pod, and for a namespace.
fn pod(net: &Net, pod: u32) -> (u32, u32) {
    let usage = net.dataplane.state().quotas.pod(PortId(pod));
    (usage.connections, usage.half_open)
}

fn namespace(net: &Net, namespace: u32) -> (u32, u32) {
    let usage = net.dataplane.state().quotas.namespace(NamespaceId(namespace));
    (usage.connections, usage.half_open)
}

/// Drops for a reason.
fn count(net: &Net, reason: DropReason) -> u64 {
    net.counters().drops.get(&reason).copied().unwrap_or(0)
}
