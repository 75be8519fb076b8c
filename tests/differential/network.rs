//! The network that packets run through, and everything of it that changes.

use proptest::{collection::vec, prelude::*, sample::select};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use supernet_dataplane::{
    id::{IdentityId, PortId, RuleId},
    snapshot::{ServerKind, Snapshot},
    table::classifier::{Action, Clause, Decision, Peers, Rule, RuleSet, Service},
    wire::Proto,
};
use supernet_testkit::topology::Topology;

/// Ports: pods 0 and 1 in one segment, 2 in another; then uplinks, one a family each.
pub(crate) const PODS: [[&str; 2]; 3] =
    [["10.0.0.2", "fd00:0:0:1::2"], ["10.0.0.3", "fd00:0:0:1::3"], ["10.0.0.18", "fd00:0:0:2::2"]];
pub(crate) const PORTS: usize = 7;
/// Else 1500.
pub(crate) const SMALL_MTU: u16 = 1400;
pub(crate) const UPLINKS: [u32; 4] = [3, 4, 5, 6];
pub(crate) const CLIENTS: [[&str; 2]; 2] =
    [["203.0.113.7", "2001:db8::7"], ["198.51.100.9", "2001:db8:1::9"]];

/// What packets are sent to: pods, virtual servers, the world, and what nobody has.
pub(crate) const TARGETS: [[&str; 2]; 12] = [
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
pub(crate) struct World {
    /// Both segments hang on one Tier-1.
    pub(crate) one_tier1: bool,
    /// Whether a namespace is translated.
    pub(crate) snat: [bool; 2],
    /// Pods that are there.
    pub(crate) present: [bool; 3],
    /// Pods whose labels changed, so that rules see another identity.
    pub(crate) relabelled: [bool; 3],
    /// Rules of each pod for what it sends and receives.
    pub(crate) rules: [[Option<Rules>; 2]; 3],
    /// Which candidates are members of the virtual servers, one bit each.
    pub(crate) members: u8,
    /// Which uplinks have next hops, and how many.
    pub(crate) hops: [usize; 4],
    /// Ports that take [`SMALL_MTU`] bytes only.
    pub(crate) small: [bool; PORTS],
}

/// Rules, and the action when none matches.
#[derive(Debug, Clone)]
pub(crate) struct Rules(pub(crate) Vec<(bool, Vec<u32>, Option<u8>)>, pub(crate) bool);

impl World {
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

    pub(crate) fn snapshot(&self) -> Snapshot {
        let with_identities = |s: &mut Snapshot| {
            for (n, pod) in PODS.iter().enumerate() {
                let identity = IdentityId(if self.relabelled[n] { 5 } else { n as u32 + 1 });
                s.identities.exact.extend(pod.map(|a| (address(a), identity)));
            }
            s.identities.ranges.insert("203.0.113.0/24".parse().unwrap(), IdentityId(4));
            s.identities.ranges.insert("2001:db8::/48".parse().unwrap(), IdentityId(4));
            for (port, _) in s.ports.iter_mut().flatten().zip(self.small).filter(|(_, small)| *small) {
                Arc::make_mut(port).mtu = SMALL_MTU;
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
    fn compile(&self, base: u32) -> Arc<RuleSet> {
        let action = |allow| if allow { Action::Allow } else { Action::Drop };
        let rule = |(n, (allow, peers, proto)): (usize, &(bool, Vec<u32>, Option<u8>))| {
            let peers = match peers.as_slice() {
                [] => Peers::Any,
                ids => Peers::Identities(ids.iter().map(|id| IdentityId(*id)).collect::<BTreeSet<_>>()),
            };
            let services = proto.iter().map(|p| Service { proto: Proto(*p), ports: 80..=8079 }).collect();
            let clauses = vec![Clause { peers, services }];
            Rule { id: RuleId(base + n as u32), action: action(*allow), clauses }
        };
        let default = Decision { rule: RuleId(base + 49), action: action(self.1) };
        Arc::new(RuleSet::new(self.0.iter().enumerate().map(rule).collect(), default))
    }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn rules() -> impl Strategy<Value = Option<Rules>> {
    let peers = vec(0u32..6, 0..3);
    let rule = (any::<bool>(), peers, prop::option::of(select(vec![6u8, 17, 1])));
    prop::option::of(
        (vec(rule, 0..3), prop::bool::weighted(0.7)).prop_map(|(rules, allow)| Rules(rules, allow)),
    )
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let mostly_open = || prop_oneof![2 => Just(None), 1 => rules()];
    let rules = prop::array::uniform3([mostly_open(), mostly_open()]);
    let hops = prop::array::uniform4(0..3usize);
    (any::<bool>(), any::<[bool; 2]>(), rules, 1..8u8, hops, any::<[bool; PORTS]>()).prop_map(
        |(one_tier1, snat, rules, members, hops, small)| World {
            one_tier1,
            snat,
            present: [true; 3],
            relabelled: [false; 3],
            rules,
            members,
            hops: [hops[0].max(1), hops[1].max(1), hops[2], hops[3]],
            small,
        },
    )
}
