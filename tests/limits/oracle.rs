//! Whatever happens, what is counted is what lives: a slow count of all sessions is compared after every step.

use crate::{PODS, UPLINK, from_outside, from_pod, limit};
use proptest::prelude::*;
use std::collections::BTreeMap;
use supernet_dataplane::{
    flow::{ConnectionLimits, HalfOpenLimits, QuotaUsage},
    id::{NamespaceId, PortId},
    port::memory::memory,
    snapshot::{Limits, ServerKind, Snapshot},
    state::Config,
    table::classifier::Action,
    time::Duration,
    verdict::DropReason,
    wire::{Proto, tcp_flags::*},
};
use supernet_testkit::{
    net::{Net, two_namespaces},
    packet::Probe,
    topology::every,
};

/// The namespace of each pod.
const NAMESPACES: [u32; 3] = [0, 0, 1];
const TARGETS: [&str; 6] =
    ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.18:80", "10.96.0.10:80", "203.0.113.7:80", "192.168.80.10:80"];
const PROTOS: [Proto; 3] = [Proto::TCP, Proto::UDP, Proto::ICMP];
const FLAGS: [u8; 6] = [SYN, ACK, SYN | ACK, RST | ACK, FIN | ACK, RST];

#[derive(Debug, Clone)]
enum Step {
    /// A first packet, or one more of a connection: who sends it, where to, what, from which port, flags.
    Send(usize, usize, usize, u32, usize),
    /// An answer to something that was delivered.
    Answer(usize, usize),
    /// This many milliseconds pass.
    Wait(u64),
    /// Other limits of pods and namespaces, of which none is met by 0.
    Limits([[u32; 3]; 5]),
    /// A pod's firewall denies all, or nothing.
    Firewall(usize, bool),
    /// A pod is gone, or there again.
    There(usize, bool),
    /// The virtual server at the ClusterIP is there, or not.
    Server(bool),
    /// A pod's port is detached and attached again.
    Detach(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let few = || prop_oneof![3 => Just(0u32), 2 => 1u32..4, 1 => 4u32..12];
    let limits = || [few(), few(), few()];
    prop_oneof![
        20 => (0..4usize, 0..TARGETS.len(), 0..3usize, 1u32..9, prop_oneof![3 => Just(0), 1 => 0..FLAGS.len()])
            .prop_map(|(from, to, proto, sport, flags)| Step::Send(from, to, proto, sport, flags)),
        10 => (any::<prop::sample::Index>(), 0..FLAGS.len())
            .prop_map(|(n, flags)| Step::Answer(n.index(1 << 16), flags)),
        4 => prop_oneof![4 => 1u64..1500, 2 => 1500u64..40_000, 1 => 40_000u64..50_000_000].prop_map(Step::Wait),
        3 => [limits(), limits(), limits(), limits(), limits()].prop_map(Step::Limits),
        1 => Just(Step::Limits(Default::default())),
        1 => (0..3usize, any::<bool>()).prop_map(|(pod, on)| Step::Firewall(pod, on)),
        1 => (0..3usize, any::<bool>()).prop_map(|(pod, on)| Step::There(pod, on)),
        1 => any::<bool>().prop_map(Step::Server),
        1 => (0..3usize).prop_map(Step::Detach),
    ]
}

/// What the network is to be.
#[derive(Debug, Clone)]
struct Wanted {
    limits: [[u32; 3]; 5],
    denies: [bool; 3],
    there: [bool; 3],
    has_server: bool,
}

impl Wanted {
    fn of_pod(&self, pod: usize) -> ConnectionLimits {
        self.of(pod)
    }

    fn of_namespace(&self, namespace: u32) -> ConnectionLimits {
        self.of(3 + namespace as usize)
    }

    fn of(&self, at: usize) -> ConnectionLimits {
        let [connections, half_open, rate] = self.limits[at];
        limit(connections, half_open, rate)
    }

    fn counts(&self) -> bool {
        self.limits.iter().flatten().any(|limit| *limit > 0)
    }

    fn snapshot(&self) -> Snapshot {
        let mut topology =
            two_namespaces().server(ServerKind::Distributed, "10.96.0.10:80", Proto::UDP, &["10.0.0.18:53"]);
        for pod in 0..3 {
            let egress = self.denies[pod].then(|| every(Action::Drop, pod as u32));
            topology = topology.edit(pod as u32, |e| e.egress = egress);
        }
        topology
            .with(|s| {
                for pod in (0..3).filter(|pod| !self.there[*pod]) {
                    s.ports[pod] = None;
                    s.endpoints.retain(|_, port| port.index() != pod);
                }
                if !self.has_server {
                    s.servers = Default::default();
                }
                let mut limits = Limits::default();
                (0..3).for_each(|pod| limits.set_port(PortId(pod as u32), self.of_pod(pod)));
                (0..2).for_each(|n| limits.set_namespace(NamespaceId(n), self.of_namespace(n)));
                s.limits = limits;
            })
            .build()
    }
}

/// Connections and half-open ones of each pod.
type Pods = [(u32, u32); 3];

/// The same, by looking at every session.
fn living(net: &Net) -> Pods {
    let mut all = [(0, 0); 3];
    net.dataplane.for_each_session(|_, session, _| {
        // The pod that called pays; from outside, the pod that was called.
        let payer = if session.ingress.0 == UPLINK { session.judgement.out } else { session.ingress };
        if let Some((connections, half_open)) = all.get_mut(payer.index()) {
            *connections += 1;
            *half_open += u32::from(session.original.proto == Proto::TCP && session.track.is_half_open());
        }
    });
    all
}

/// What is counted of pods, and of namespaces.
fn counted(net: &Net) -> (Pods, [(u32, u32); 2]) {
    let of = |usage: QuotaUsage| (usage.connections, usage.half_open);
    let quotas = &net.dataplane.state().quotas;
    (
        [0, 1, 2].map(|pod| of(quotas.pod(PortId(pod)))),
        [0, 1].map(|namespace| of(quotas.namespace(NamespaceId(namespace)))),
    )
}

fn by_namespace(pods: &Pods) -> [(u32, u32); 2] {
    let mut sums = [(0, 0); 2];
    for (pod, namespace) in pods.iter().zip(NAMESPACES) {
        let sum = &mut sums[namespace as usize];
        *sum = (sum.0 + pod.0, sum.1 + pod.1);
    }
    sums
}

/// Whether what there was explains that a limit refused a connection of `pod`.
fn explains(reason: DropReason, wanted: &Wanted, before: &Pods, pod: usize) -> bool {
    let met = |n: u32, limit: Option<std::num::NonZeroU32>| limit.is_some_and(|limit| n >= limit.get());
    let (of_pod, namespace) = (wanted.of_pod(pod), NAMESPACES[pod]);
    let of_namespace = wanted.of_namespace(namespace);
    let sum = by_namespace(before)[namespace as usize];
    match reason {
        DropReason::PodConnections => met(before[pod].0, of_pod.connections),
        DropReason::PodHalfOpen => met(before[pod].1, of_pod.half_open),
        DropReason::PodConnectionRate => of_pod.new_per_second.is_some(),
        DropReason::NamespaceConnections => met(sum.0, of_namespace.connections),
        DropReason::NamespaceHalfOpen => met(sum.1, of_namespace.half_open),
        DropReason::NamespaceConnectionRate => of_namespace.new_per_second.is_some(),
        _ => true,
    }
}

/// Whether nobody has more than before and more than a limit.
fn within(n: u32, before: u32, limit: Option<std::num::NonZeroU32>) -> bool {
    n <= before || limit.is_none_or(|limit| n <= limit.get())
}

fn play(steps: Vec<Step>, config: Config) -> Result<BTreeMap<&'static str, u64>, TestCaseError> {
    let mut wanted =
        Wanted { limits: Default::default(), denies: [false; 3], there: [true; 3], has_server: true };
    let mut net = Net::with(two_namespaces(), config);
    net.publish(wanted.snapshot());
    let mut delivered: Vec<(u32, Vec<u8>)> = Vec::new();
    for step in steps {
        let before = living(&net);
        let drops = net.counters().drops;
        let is_packet = matches!(step, Step::Send(..) | Step::Answer(..));
        match &step {
            Step::Send(from, to, proto, sport, flags) => {
                let proto = PROTOS[*proto];
                let probe = match from {
                    3 => from_outside(proto, *sport, TARGETS[*to]),
                    pod => from_pod(*pod as u32, proto, *sport, TARGETS[*to]),
                };
                // Flags of an echo request would make it a reply.
                let flags = if proto == Proto::TCP { FLAGS[*flags] } else { SYN };
                delivered.extend(net.send(*from as u32, &Probe { flags, ..probe }.frame()));
            }
            Step::Answer(n, flags) => {
                if let Some((port, frame)) = n.checked_rem(delivered.len()).map(|n| delivered[n].clone()) {
                    delivered.extend(net.send(port, &Probe::answer(&frame, FLAGS[*flags]).frame()));
                }
            }
            Step::Wait(ms) => {
                net.now = net.now + Duration::from_millis(*ms);
                net.poll();
            }
            // Where limits begin while a pod is gone, what it had left counts for nobody.
            Step::Limits(_) if !wanted.counts() && wanted.there.contains(&false) => {}
            Step::Limits(limits) => wanted.limits = *limits,
            Step::Firewall(pod, on) => wanted.denies[*pod] = *on,
            Step::There(pod, on) => wanted.there[*pod] = *on,
            Step::Server(on) => wanted.has_server = *on,
            Step::Detach(pod) => {
                let id = PortId(*pod as u32);
                net.dataplane.detach(id);
                net.poll();
                net.guests[*pod] = net.dataplane.attach(id, memory(64)).unwrap();
                net.poll();
            }
        }
        if !is_packet {
            net.publish(wanted.snapshot());
        }
        let (living, (pods, namespaces)) = (living(&net), counted(&net));
        if wanted.counts() {
            prop_assert_eq!(pods, living, "{:?}", step);
            prop_assert_eq!(namespaces, by_namespace(&living), "{:?}", step);
        }
        for pod in 0..3 {
            let (limits, sums) = (wanted.of_pod(pod), (by_namespace(&living), by_namespace(&before)));
            let namespace = NAMESPACES[pod] as usize;
            let of_namespace = wanted.of_namespace(namespace as u32);
            prop_assert!(within(living[pod].0, before[pod].0, limits.connections), "{:?}", step);
            prop_assert!(within(living[pod].1, before[pod].1, limits.half_open), "{:?}", step);
            let (is, was) = (sums.0[namespace], sums.1[namespace]);
            prop_assert!(within(is.0, was.0, of_namespace.connections), "{:?}", step);
            prop_assert!(within(is.1, was.1, of_namespace.half_open), "{:?}", step);
        }
        for (reason, n) in net.counters().drops {
            let is_new = n > drops.get(&reason).copied().unwrap_or(0);
            if is_new && reason.is_limit() {
                prop_assert!(is_packet, "{:?}", step);
                // Whoever it is that pays, it explains the refusal.
                let explained = (0..PODS.len()).any(|pod| explains(reason, &wanted, &before, pod));
                prop_assert!(explained, "{:?} {:?}", reason, step);
            }
        }
    }
    // When all is over nothing is left, of whatever was counted when.
    for _ in 0..2 {
        net.now = net.now + Duration::from_secs(14 * 3600);
        net.poll();
    }
    net.now = net.now + Duration::from_secs(3);
    net.poll();
    prop_assert_eq!(living(&net), [(0, 0); 3]);
    prop_assert_eq!(net.sessions(), 0);
    prop_assert_eq!(counted(&net), ([(0, 0); 3], [(0, 0); 2]));
    prop_assert_eq!(net.dataplane.state().nat.busy(), Vec::<std::net::IpAddr>::new());
    Ok(net.counters().drops.into_iter().map(|(reason, n)| (reason.name(), n)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_counted_is_what_lives(
        steps in proptest::collection::vec(step(), 1..160),
        (sessions, cache, strict_tcp) in (prop_oneof![Just(6usize), Just(20), Just(200)], any::<bool>(), any::<bool>()),
    ) {
        let config = Config {
            sessions,
            frames: 128,
            cache,
            strict_tcp,
            nat_ports: 2000..=2001,
            half_open: HalfOpenLimits { per_port: 6, total: Some(8) },
            ..Config::default()
        };
        play(steps, config)?;
    }
}

/// The steps do meet each limit, and what else runs out: a test of nothing would pass as well.
#[test]
fn the_steps_meet_every_limit() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut met: BTreeMap<&str, u64> = BTreeMap::new();
    for n in 0..60 {
        let steps = proptest::collection::vec(step(), 100..160).new_tree(&mut runner).unwrap().current();
        let sessions = [6, 20, 200][n % 3];
        let config = Config {
            sessions,
            frames: 128,
            nat_ports: 2000..=2001,
            half_open: HalfOpenLimits { per_port: 6, total: Some(8) },
            ..Config::default()
        };
        for (reason, n) in play(steps, config).unwrap() {
            *met.entry(reason).or_default() += n;
        }
    }
    let limits = DropReason::ALL.iter().filter(|reason| reason.is_limit()).map(|reason| reason.name());
    for reason in limits.chain(["SessionTableFull", "NatPortsExhausted", "BindingGone", "EgressDenied"]) {
        assert!(met.contains_key(reason), "{reason} in {met:?}");
    }
}
