//! The fast path against the stages: two dataplanes with one seed see the same frames, snapshots and time. One
//! keeps verdict and rewrite of a session between packets, the other computes them again for every packet.
//! Nobody outside may be able to tell which is which.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use proptest::{collection::vec, prelude::*, sample::select};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use supernet_dataplane::{
    counters::Counters,
    id::{IdentityId, PortId, RuleId},
    port::memory::{MemoryGuest, memory},
    rewrite::Tuple,
    snapshot::{GATEWAY_MAC, ServerKind, Snapshot},
    stage::commit,
    state::Config,
    table::classifier::{Action, Clause, Decision, Peers, Rule, RuleSet, Service},
    time::{Duration, Instant},
    wire::{self, Mac, Proto, arp, tcp_flags::*},
    worker::{Dataplane, Worker},
};
use supernet_testkit::{
    packet::Probe,
    topology::{Topology, mac},
};

/// Fewer than the flows that are tried, so that the table is full at times.
const SESSIONS: usize = 12;
const FRAMES: usize = 96;
/// Fewer than the frames of a burst, so that ports are full at times.
const DEPTH: usize = 3;

/// Ports: pods 0 and 1 in one segment, 2 in another; then uplinks, one a family each.
const PODS: [[&str; 2]; 3] =
    [["10.0.0.2", "fd00:0:0:1::2"], ["10.0.0.3", "fd00:0:0:1::3"], ["10.0.0.18", "fd00:0:0:2::2"]];
const UPLINKS: [u32; 4] = [3, 4, 5, 6];
const CLIENTS: [[&str; 2]; 2] = [["203.0.113.7", "2001:db8::7"], ["198.51.100.9", "2001:db8:1::9"]];

/// What packets are sent to: pods, virtual servers, the world, and what nobody has.
const TARGETS: [[&str; 2]; 12] = [
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
struct World {
    /// Both segments hang on one Tier-1.
    one_tier1: bool,
    /// Whether a namespace is translated.
    snat: [bool; 2],
    /// Pods that are there.
    present: [bool; 3],
    /// Pods whose labels changed, so that rules see another identity.
    relabelled: [bool; 3],
    /// Rules of each pod for what it sends and receives.
    rules: [[Option<Rules>; 2]; 3],
    /// Which candidates are members of the virtual servers, one bit each.
    members: u8,
    /// Which uplinks have next hops, and how many.
    hops: [usize; 4],
}

/// Rules, and the action when none matches.
#[derive(Debug, Clone)]
struct Rules(Vec<(bool, Vec<u32>, Option<u8>)>, bool);

#[derive(Debug, Clone)]
enum Event {
    Burst(Vec<Packet>),
    Rules(usize, usize, Option<Rules>),
    Pod(usize),
    Relabel(usize),
    Members(u8),
    Hops([usize; 4]),
    Snat(usize),
    Republish,
    Advance(u64),
    NeighborAnswers(usize),
}

#[derive(Debug, Clone)]
enum Packet {
    /// From a port to a target.
    New { from: usize, to: usize, v6: bool, proto: Proto, sport: u16, shape: Shape },
    /// The answer to a frame that was delivered.
    Answer { to: usize, shape: Shape },
    /// A frame that was sent before, with other flags.
    Again { of: usize, shape: Shape },
}

/// How a packet looks, apart from whom it is to.
#[derive(Debug, Clone)]
struct Shape {
    flags: u8,
    ttl: u8,
    payload: usize,
    spoil: Spoil,
}

#[derive(Debug, Clone, Copy)]
enum Spoil {
    Nothing,
    SourceAddress,
    SourceMac,
    /// Straight to the pod with this number instead of the gateway.
    StraightTo(u32),
    /// To everybody in the segment.
    Broadcast,
    CutShort,
    Fragment,
    NoUdpChecksum,
}

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

    fn snapshot(&self) -> Snapshot {
        let with_identities = |s: &mut Snapshot| {
            for (n, pod) in PODS.iter().enumerate() {
                let identity = IdentityId(if self.relabelled[n] { 5 } else { n as u32 + 1 });
                s.identities.exact.extend(pod.map(|a| (address(a), identity)));
            }
            s.identities.ranges.insert("203.0.113.0/24".parse().unwrap(), IdentityId(4));
            s.identities.ranges.insert("2001:db8::/48".parse().unwrap(), IdentityId(4));
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

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A dataplane with one worker, and the other ends of its ports.
struct Side {
    dataplane: Dataplane,
    worker: Worker,
    guests: Vec<MemoryGuest>,
}

/// What can be seen of a session.
type Seen = (Tuple, Tuple, Option<String>, &'static str, [(u64, u64); 2]);

impl Side {
    fn new(snapshot: Snapshot, cache: bool) -> Self {
        let config = Config { sessions: SESSIONS, frames: FRAMES, seed: 7, cache, ..Config::default() };
        let ports = snapshot.ports.len() as u32;
        let (dataplane, mut workers) = Dataplane::new(config);
        let guests = (0..ports).map(|p| dataplane.attach(PortId(p), memory(DEPTH)).unwrap()).collect();
        dataplane.publish(snapshot);
        Self { dataplane, worker: workers.remove(0), guests }
    }

    /// Sends frames, runs the worker, and returns what came out, by port.
    fn run(&mut self, frames: &[(u32, Vec<u8>)], now: Instant) -> Vec<(u32, Vec<u8>)> {
        for (port, frame) in frames {
            // A port takes no more than it has room for; the same on both sides.
            let _ = self.guests[*port as usize].send(frame);
        }
        while self.worker.poll(now).frames > 0 {}
        let mut out = Vec::new();
        for (port, guest) in self.guests.iter().enumerate() {
            out.extend(std::iter::from_fn(|| guest.recv()).map(|frame| (port as u32, frame.to_vec())));
        }
        out
    }

    /// Everything that was counted, but for which way frames went inside.
    fn counters(&self) -> Counters {
        Counters { hits: 0, ..self.dataplane.counters() }
    }

    fn sessions(&self) -> Vec<Seen> {
        let mut all = Vec::new();
        self.dataplane.for_each_session(|_, s, usage| {
            let carried = [(usage.0.packets, usage.0.bytes), (usage.1.packets, usage.1.bytes)];
            let denied = s.judgement.denied.map(|d| format!("{d:?}"));
            all.push((
                s.original,
                s.reply,
                denied,
                commit::condition(s.track, s.original.proto, usage).name(),
                carried,
            ));
        });
        all.sort_by_key(|s| format!("{s:?}"));
        all
    }
}

/// Both sides, and what was sent and delivered so far.
struct Pair {
    cached: Side,
    plain: Side,
    world: World,
    now: Instant,
    sent: Vec<(u32, Probe)>,
    delivered: Vec<(u32, Vec<u8>)>,
}

impl Pair {
    fn new(world: World) -> Self {
        let (cached, plain) = (Side::new(world.snapshot(), true), Side::new(world.snapshot(), false));
        let now = Instant::from_secs(10);
        Self { cached, plain, world, now, sent: Vec::new(), delivered: Vec::new() }
    }

    fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let mut frames = Vec::new();
        match event {
            Event::Burst(packets) => frames.extend(packets.iter().filter_map(|p| self.build(p))),
            Event::Rules(pod, direction, rules) => self.world.rules[*pod][*direction] = rules.clone(),
            Event::Pod(pod) => self.world.present[*pod] ^= true,
            Event::Relabel(pod) => self.world.relabelled[*pod] ^= true,
            Event::Members(members) => self.world.members = *members,
            Event::Hops(hops) => self.world.hops = *hops,
            Event::Snat(namespace) => self.world.snat[*namespace] ^= true,
            Event::Republish => {}
            Event::Advance(seconds) => self.now = self.now + Duration::from_secs(*seconds),
            Event::NeighborAnswers(hop) => frames.push(neighbor_answer(*hop)),
        }
        if !matches!(event, Event::Burst(_) | Event::Advance(_) | Event::NeighborAnswers(_)) {
            self.cached.dataplane.publish(self.world.snapshot());
            self.plain.dataplane.publish(self.world.snapshot());
        }
        let out = self.compare(&frames)?;
        self.delivered.extend(out);
        Ok(())
    }

    fn compare(&mut self, frames: &[(u32, Vec<u8>)]) -> Result<Vec<(u32, Vec<u8>)>, TestCaseError> {
        let out = self.cached.run(frames, self.now);
        prop_assert_eq!(&out, &self.plain.run(frames, self.now), "frames");
        let counters = self.cached.counters();
        prop_assert!(counters.conserved(), "{:?}", counters);
        prop_assert_eq!(&counters, &self.plain.counters(), "counters");
        prop_assert_eq!(self.cached.sessions(), self.plain.sessions(), "sessions");
        for side in [&self.cached, &self.plain] {
            let pool = side.dataplane.pool();
            prop_assert_eq!(pool.available(), pool.capacity(), "every buffer is back");
        }
        Ok(out)
    }

    fn build(&mut self, packet: &Packet) -> Option<(u32, Vec<u8>)> {
        let (port, mut probe, shape) = match packet {
            Packet::New { from, to, v6, proto, sport, shape } => {
                let (port, src, src_mac, dst_mac) = sender(*from, *v6);
                let proto = if *v6 && *proto == Proto::ICMP { Proto::ICMPV6 } else { *proto };
                let dst = address(TARGETS[*to][usize::from(*v6)]);
                let (src, dst) = (SocketAddr::new(src, *sport), SocketAddr::new(dst, 80));
                (port, Probe { src_mac, dst_mac, src, dst, proto, flags: 0, ttl: 0, payload: 0 }, shape)
            }
            Packet::Answer { to, shape } => {
                let (port, frame) = recent(&self.delivered, *to)?;
                // The network's own answers, and ARP, are not answered.
                let p = wire::parse(frame).ok()?;
                let carried = matches!(p.proto, Proto::TCP | Proto::UDP | Proto::SCTP);
                if !carried && !p.is_echo_request() && !p.is_echo_reply() {
                    return None;
                }
                (*port, Probe::answer(frame, 0), shape)
            }
            Packet::Again { of, shape } => {
                let (port, probe) = recent(&self.sent, *of)?;
                (*port, *probe, shape)
            }
        };
        probe = Probe { flags: shape.flags, ttl: shape.ttl, payload: shape.payload, ..probe };
        self.sent.push((port, probe));
        match shape.spoil {
            Spoil::SourceAddress => probe.src.set_ip(address(PODS[1][usize::from(probe.src.is_ipv6())])),
            Spoil::SourceMac => probe.src_mac = Mac([2, 0, 0, 0, 0xbb, 1]),
            Spoil::StraightTo(pod) => probe.dst_mac = mac(pod),
            Spoil::Broadcast => probe.dst_mac = Mac::BROADCAST,
            Spoil::Nothing | Spoil::CutShort | Spoil::Fragment | Spoil::NoUdpChecksum => {}
        }
        let mut frame = probe.frame();
        match shape.spoil {
            Spoil::CutShort => frame.truncate(40),
            Spoil::Fragment if probe.src.is_ipv4() => {
                // "Don't fragment" becomes "more fragments".
                let new = wire::checksum::Delta::default().and16(0x4000, 0x2000);
                let sum = new.apply(u16::from_be_bytes([frame[24], frame[25]]));
                frame[20] = 0x20;
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            Spoil::NoUdpChecksum if probe.proto == Proto::UDP && probe.src.is_ipv4() => {
                frame[40..42].fill(0);
            }
            _ => {}
        }
        Some((port, frame))
    }
}

/// One of the last few.
fn recent<T>(all: &[T], n: usize) -> Option<&T> {
    let last = &all[all.len().saturating_sub(16)..];
    last.get(n % last.len().max(1))
}

/// Port, address and MACs of who sends: a pod, or a client beyond an uplink.
fn sender(from: usize, v6: bool) -> (u32, IpAddr, Mac, Mac) {
    match PODS.get(from) {
        Some(pod) => (from as u32, address(pod[usize::from(v6)]), mac(from as u32), GATEWAY_MAC),
        None => {
            let port = UPLINKS[from - PODS.len()];
            let client = CLIENTS[from % CLIENTS.len()][usize::from(v6)];
            (port, address(client), Mac([2, 0, 0, 0, 0xee, 1]), mac(port))
        }
    }
}

/// The ARP reply of a next hop whose MAC is not configured.
fn neighbor_answer(hop: usize) -> (u32, Vec<u8>) {
    let (port, hop, own) = [
        (UPLINKS[0], [192, 168, 100, 253], [192, 168, 100, 1]),
        (UPLINKS[2], [192, 168, 101, 253], [192, 168, 101, 1]),
    ][hop];
    let mut frame = vec![0; arp::FRAME];
    arp::request(&mut frame, (mac(port), own.into()), hop.into());
    let request = arp::Arp::read(&frame, wire::ETHERNET);
    arp::reply_in_place(&mut frame, &request, Mac([2, 0, 0, 0, 0xee, 9]));
    (port, frame)
}

fn rules() -> impl Strategy<Value = Option<Rules>> {
    let peers = vec(0u32..6, 0..3);
    let rule = (any::<bool>(), peers, prop::option::of(select(vec![6u8, 17, 1])));
    prop::option::of(
        (vec(rule, 0..3), prop::bool::weighted(0.7)).prop_map(|(rules, allow)| Rules(rules, allow)),
    )
}

fn world() -> impl Strategy<Value = World> {
    let mostly_open = || prop_oneof![2 => Just(None), 1 => rules()];
    let rules = prop::array::uniform3([mostly_open(), mostly_open()]);
    let hops = prop::array::uniform4(0..3usize);
    (any::<bool>(), any::<[bool; 2]>(), rules, 1..8u8, hops).prop_map(
        |(one_tier1, snat, rules, members, hops)| World {
            one_tier1,
            snat,
            present: [true; 3],
            relabelled: [false; 3],
            rules,
            members,
            hops: [hops[0].max(1), hops[1].max(1), hops[2], hops[3]],
        },
    )
}

/// The shape of a packet with mostly these flags.
fn shape(usual: u8) -> impl Strategy<Value = Shape> {
    let others = select(vec![SYN, ACK, SYN | ACK, FIN | ACK, RST]);
    let flags = prop_oneof![5 => Just(usual), 1 => others];
    let ttl = prop_oneof![12 => Just(64u8), 1 => 0..5u8];
    let payload = prop_oneof![20 => 0..60usize, 1 => 1400..1500usize];
    let spoil = prop_oneof![
        30 => Just(Spoil::Nothing),
        1 => Just(Spoil::SourceAddress),
        1 => Just(Spoil::SourceMac),
        3 => (0..3u32).prop_map(Spoil::StraightTo),
        1 => Just(Spoil::Broadcast),
        1 => Just(Spoil::CutShort),
        1 => Just(Spoil::Fragment),
        2 => Just(Spoil::NoUdpChecksum),
    ];
    (flags, ttl, payload, spoil).prop_map(|(flags, ttl, payload, spoil)| Shape { flags, ttl, payload, spoil })
}

fn packet() -> impl Strategy<Value = Packet> {
    let proto = || select(vec![Proto::TCP, Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP]);
    let new = |from: std::ops::Range<usize>, to: std::ops::Range<usize>| {
        (from, to, any::<bool>(), proto(), 4000..4003u16, shape(SYN))
            .prop_map(|(from, to, v6, proto, sport, shape)| Packet::New { from, to, v6, proto, sport, shape })
    };
    let (pods, uplinks) = (0..PODS.len(), PODS.len()..PODS.len() + UPLINKS.len());
    prop_oneof![
        4 => new(pods.clone(), 0..8),
        1 => new(pods, 0..TARGETS.len()),
        2 => new(uplinks.clone(), 0..6),
        1 => new(uplinks, 0..TARGETS.len()),
        12 => (any::<usize>(), shape(ACK)).prop_map(|(to, shape)| Packet::Answer { to, shape }),
        8 => (any::<usize>(), shape(ACK)).prop_map(|(of, shape)| Packet::Again { of, shape }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => vec(packet(), 1..7).prop_map(Event::Burst),
        2 => (0..3usize, 0..2usize, rules()).prop_map(|(pod, direction, r)| Event::Rules(pod, direction, r)),
        1 => (0..3usize).prop_map(Event::Pod),
        1 => (0..3usize).prop_map(Event::Relabel),
        1 => (0..8u8).prop_map(Event::Members),
        1 => prop::array::uniform4(0..3usize).prop_map(Event::Hops),
        1 => (0..2usize).prop_map(Event::Snat),
        1 => Just(Event::Republish),
        2 => select(vec![0, 1, 25, 40, 70, 130, 50_000]).prop_map(Event::Advance),
        1 => (0..2usize).prop_map(Event::NeighborAnswers),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_path_equals_the_stages(world in world(), events in vec(event(), 1..80)) {
        let mut pair = Pair::new(world);
        for event in &events {
            pair.happen(event)?;
        }
        // Silence ends every session, and gives back what they held.
        for _ in 0..4 {
            pair.now = pair.now + Duration::from_secs(50_000);
            pair.compare(&[])?;
        }
        for side in [&pair.cached, &pair.plain] {
            prop_assert_eq!(side.sessions(), []);
            prop_assert_eq!(side.dataplane.state().nat.busy(), Vec::<IpAddr>::new());
        }
    }
}
