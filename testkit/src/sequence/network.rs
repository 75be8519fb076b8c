//! The network that packets run through, and everything of it that changes.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "what it parses stands below")]

use crate::topology::Topology;
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
};
use supernet_dataplane::{
    flow::ConnectionLimits,
    id::{IdentityId, NamespaceId, PortId, RuleId},
    snapshot::{ServerKind, Snapshot},
    table::{
        classifier::{Action, Clause, Decision, Effect, Peers, Rule, RuleSet, Service},
        firewall::Firewall,
    },
    wire::Proto,
};

/// Ports: pods 0 and 1 in one segment, 2 in another; then uplinks, one a family each.
pub const PODS: [[&str; 2]; 3] =
    [["10.0.0.2", "fd00:0:0:1::2"], ["10.0.0.3", "fd00:0:0:1::3"], ["10.0.0.18", "fd00:0:0:2::2"]];
/// How many there are.
pub const PORTS: usize = 7;
/// What a port takes that takes less than 1500 bytes.
pub const SMALL_MTU: u16 = 1400;
/// The ports of the uplinks.
pub const UPLINKS: [u32; 4] = [3, 4, 5, 6];
/// Who sends from beyond them.
pub const CLIENTS: [[&str; 2]; 2] = [["203.0.113.7", "2001:db8::7"], ["198.51.100.9", "2001:db8:1::9"]];

/// What packets are sent to: pods, virtual servers, the world, and what nobody has.
pub const TARGETS: [[&str; 2]; 12] = [
    PODS[0],
    PODS[1],
    PODS[2],
    ["10.96.0.10", "fd00:96::10"],
    ["10.96.0.11", "fd00:96::11"],
    ["192.168.80.10", "fd00:80::10"],
    CLIENTS[0],
    CLIENTS[1],
    ["10.0.0.1", "fe80::1"],
    ["10.0.0.9", "fd00:0:0:1::9"],
    ["192.168.90.1", "fd00:90::1"],
    ["192.168.100.1", "fd00:100::1"],
];

/// Everything of a network that changes.
#[derive(Debug, Clone)]
pub struct World {
    /// Both segments hang on one Tier-1.
    pub one_tier1: bool,
    /// Whether a namespace is translated.
    pub snat: [bool; 2],
    /// Pods that are there.
    pub present: [bool; 3],
    /// Pods whose labels changed, so that rules see another identity.
    pub relabelled: [bool; 3],
    /// Rules of each pod for what it sends and receives.
    pub rules: [[Option<Rules>; 2]; 3],
    /// Which pods are members of the virtual servers, one bit each; and from bit 3 on, which only keep the
    /// connections they have.
    pub members: u8,
    /// Which uplinks have next hops, and how many.
    pub hops: [usize; 4],
    /// Ports that take [`SMALL_MTU`] bytes only.
    pub small: [bool; PORTS],
    /// Limits of connections of the pods, and behind them of both namespaces.
    pub limits: [ConnectionLimits; 5],
}

/// Rules, and the action when none matches.
#[derive(Debug, Clone)]
pub struct Rules(pub Vec<(bool, Vec<u32>, Option<u8>)>, pub bool);

/// Something of the world that becomes different.
#[derive(Debug, Clone)]
pub enum Change {
    /// The rules of a pod for what it sends (0) or receives (1).
    Rules(usize, usize, Option<Rules>),
    /// A pod comes or goes.
    Pod(usize),
    /// A pod has other labels, or those from before.
    Relabel(usize),
    /// These are the members.
    Members(u8),
    /// These are the next hops.
    Hops([usize; 4]),
    /// A namespace is translated, or is no more.
    Snat(usize),
    /// A port takes less, or as much as before.
    Mtu(usize),
    /// A pod, or behind the pods a namespace, may have so many connections, half-open ones, and new ones a second.
    Limits(usize, [u8; 3]),
    /// Nothing.
    Republish,
}

impl World {
    /// Everything is open and there; both segments on one Tier-1, or on two.
    pub fn open(one_tier1: bool) -> Self {
        Self {
            one_tier1,
            snat: [true, false],
            present: [true; 3],
            relabelled: [false; 3],
            rules: Default::default(),
            members: 0b110,
            hops: [1; 4],
            small: [false; PORTS],
            limits: [ConnectionLimits::NONE; 5],
        }
    }

    /// Changes what the next snapshot is made from.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Rules(pod, direction, rules) => self.rules[*pod][*direction] = rules.clone(),
            Change::Pod(pod) => self.present[*pod] ^= true,
            Change::Relabel(pod) => self.relabelled[*pod] ^= true,
            Change::Members(members) => self.members = *members,
            Change::Hops(hops) => self.hops = *hops,
            Change::Snat(namespace) => self.snat[*namespace] ^= true,
            Change::Mtu(port) => self.small[*port] ^= true,
            Change::Limits(whose, most) => {
                let [connections, half_open, new_per_second] = most.map(|n| NonZeroU32::new(n.into()));
                self.limits[*whose] = ConnectionLimits { connections, half_open, new_per_second };
            }
            Change::Republish => {}
        }
    }

    fn topology(&self) -> Topology {
        let egress = |n: usize| -> &[&str] {
            match (self.snat[n], n) {
                (false, _) => &[],
                (true, 0) => &["192.168.90.1", "fd00:90::1"],
                (true, _) => &["192.168.90.2"],
            }
        };
        let mut t = Topology::new()
            .namespace(egress(0))
            .segment(&["10.0.0.1/28", "fd00:0:0:1::/64"], 0)
            .pod(&PODS[0])
            .pod(&PODS[1])
            .namespace(egress(1))
            .segment(&["10.0.0.17/28", "fd00:0:0:2::/64"], u32::from(!self.one_tier1))
            .pod(&PODS[2]);
        for (n, (network, hops)) in [
            ("192.168.100.1/24", ["192.168.100.254 02:00:00:00:ee:01", "192.168.100.253"]),
            ("fd00:100::1/64", ["fd00:100::fe 02:00:00:00:ee:02", "fd00:100::fd 02:00:00:00:ee:03"]),
            ("192.168.101.1/24", ["192.168.101.254 02:00:00:00:ee:04", "192.168.101.253"]),
            ("fd00:101::1/64", ["fd00:101::fe 02:00:00:00:ee:05", "fd00:101::fd 02:00:00:00:ee:06"]),
        ]
        .into_iter()
        .enumerate()
        {
            t = t.uplink(network, &hops[..self.hops[n]]);
        }
        let members =
            [(0, 8080), (1, 8080), (0, 80), (1, 80)].map(|(family, port)| self.members_of(family, port));
        let members = members.each_ref().map(|m| m.iter().map(String::as_str).collect::<Vec<_>>());
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            t = t
                .server(ServerKind::Distributed, "10.96.0.10:80", proto, &members[0])
                .server(ServerKind::Distributed, "[fd00:96::10]:80", proto, &members[1])
                .server(ServerKind::Distributed, "10.96.0.11:80", proto, &["203.0.113.7:53"])
                .server(ServerKind::Distributed, "[fd00:96::11]:80", proto, &["[2001:db8::7]:53"])
                .server(ServerKind::Server, "192.168.80.10:80", proto, &members[2])
                .server(ServerKind::Server, "[fd00:80::10]:80", proto, &members[3]);
        }
        for owned in ["10.96.0.0/16", "fd00:96::/64", "192.168.80.0/24", "fd00:80::/64", "192.168.90.0/24"] {
            t = t.owned(owned);
        }
        for (pod, [egress, ingress]) in self.rules.iter().enumerate() {
            let base = 100 * pod as u32;
            t = t.edit(pod as u32, |e| {
                e.egress = egress.as_ref().map(|r| r.compile(base));
                e.ingress = ingress.as_ref().map(|r| r.compile(base + 50));
            });
        }
        t
    }

    fn members_of(&self, family: usize, port: u16) -> Vec<String> {
        let member = |n: usize| SocketAddr::new(address(PODS[n][family]), port).to_string();
        (0..PODS.len()).filter(|n| self.members >> n & 1 == 1).map(member).collect()
    }

    /// Whether a pod that is no member of the virtual servers keeps its connections.
    fn is_draining(&self, pod: usize) -> bool {
        self.members >> pod & 1 == 0 && self.members >> (pod + 3) & 1 == 1
    }

    /// The network as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let with_identities = |s: &mut Snapshot| {
            for (n, pod) in PODS.iter().enumerate() {
                let identity = IdentityId(if self.relabelled[n] { 5 } else { n as u32 + 1 });
                s.identities.exact.extend(pod.map(|a| (address(a), identity)));
            }
            s.identities.ranges.insert("203.0.113.0/24".parse().unwrap(), IdentityId(4));
            s.identities.ranges.insert("2001:db8::/48".parse().unwrap(), IdentityId(4));
            let (pods, namespaces) = self.limits.split_at(PODS.len());
            (0..).zip(pods).for_each(|(n, limits)| s.limits.set_port(PortId(n), *limits));
            (0..).zip(namespaces).for_each(|(n, limits)| s.limits.set_namespace(NamespaceId(n), *limits));
            for (port, _) in s.ports.iter_mut().flatten().zip(self.small).filter(|(_, small)| *small) {
                Arc::make_mut(port).mtu = SMALL_MTU;
            }
            for server in s.servers.listening.values_mut() {
                let port = if server.kind == ServerKind::Distributed { 8080 } else { 80 };
                let family = usize::from(server.address.is_ipv6());
                let draining = (0..PODS.len()).filter(|n| self.is_draining(*n));
                let draining = draining.map(|n| SocketAddr::new(address(PODS[n][family]), port));
                Arc::make_mut(server).draining = draining.collect();
            }
            for n in (0..PODS.len()).filter(|n| !self.present[*n]) {
                let id = PortId(n as u32);
                s.ports[n] = None;
                s.endpoints.retain(|_, port| *port != id);
                for segment in s.segments.iter_mut().flatten() {
                    Arc::make_mut(segment).ports.retain(|port| *port != id);
                }
            }
        };
        self.topology().with(with_identities).build()
    }
}

impl Rules {
    /// In layers of two rules.
    fn compile(&self, base: u32) -> Arc<Firewall> {
        let action = |allow| if allow { Action::Allow } else { Action::Drop };
        let rule = |(n, (allow, peers, proto)): (usize, &(bool, Vec<u32>, Option<u8>))| {
            let peers = match peers.as_slice() {
                [] => Peers::Any,
                ids => Peers::of(ids.iter().map(|id| IdentityId(*id))),
            };
            let services = proto.iter().map(|p| Service { proto: Proto(*p), ports: 80..=8079 }).collect();
            let clauses = vec![Clause { peers, services }];
            let action = if n == 1 && !allow { Action::Reject } else { action(*allow) };
            Rule { id: RuleId(base + n as u32), effect: Effect::Decide(action), clauses }
        };
        let default = Decision { rule: RuleId(base + 49), action: action(self.1) };
        let rules: Vec<Rule> = self.0.iter().enumerate().map(rule).collect();
        let layers = rules.chunks(2).map(|rules| Arc::new(RuleSet::new(rules.to_vec())));
        Arc::new(Firewall::new(layers, default))
    }
}

/// An address, written down.
pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
