//! Which connections are tried, and what is predicted of each.
//!
//! Sources are pods and the outside; targets are pods, virtual servers and the outside. A pair is tried on every
//! port and in both families, so a sample is one of pairs. Left out are a pod and itself, and nodes as sources.

use super::{
    facts::{Facts, Host, Server, Transport},
    predict::{Prediction, Side, has_family, primary},
};
use crate::lab::spec::OUTSIDE;
use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
};

/// A connection to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lab) struct Probe {
    pub(in crate::lab) kind: Kind,
    /// Who opens it: a pod's name, or `outside`.
    pub(in crate::lab) from: String,
    /// The address to open it from; `None`: as the system has it.
    pub(in crate::lab) source: Option<IpAddr>,
    /// To whom: a pod's name, a Service's as `reach` has it, or `outside`.
    pub(in crate::lab) to: String,
    pub(in crate::lab) address: SocketAddr,
    pub(in crate::lab) transport: Transport,
    /// The lab's DNS is spoken to.
    pub(in crate::lab) dns: bool,
    pub(in crate::lab) expected: Expected,
}

/// What sort of connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::lab) enum Kind {
    PodToPod,
    PodToClusterIp,
    PodToVip,
    OutsideToPod,
    OutsideToVip,
    Egress,
}

impl Kind {
    /// In a table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PodToPod => "pod to pod",
            Self::PodToClusterIp => "pod to ClusterIP",
            Self::PodToVip => "pod to VIP",
            Self::OutsideToPod => "outside to pod",
            Self::OutsideToVip => "outside to VIP",
            Self::Egress => "pod to outside",
        }
    }
}

/// What is predicted of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lab) enum Expected {
    /// It is dropped.
    Denied,
    /// One of these answers.
    Open { by: Vec<String>, seen: Seen },
    /// Some members of the Service can be reached or answer, others not: one of these answers, or nobody.
    Partly { by: Vec<String>, seen: Seen },
}

/// Which address the connection seems to come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lab) enum Seen {
    /// That of who opens it.
    Own,
    /// One of these.
    Translated(Vec<IpAddr>),
}

/// All that could be tried: pairs, not made yet.
#[derive(Debug)]
pub(in crate::lab) struct Pairs<'a> {
    facts: &'a Facts,
    prediction: Prediction<'a>,
    sources: Vec<Source<'a>>,
    targets: Vec<Target<'a>>,
    /// Ports that are served outside.
    outside: BTreeSet<(Transport, u16)>,
}

#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Pod(&'a Host),
    Outside,
}

#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    Pod(&'a Host),
    Server(&'a Server),
    Outside,
}

impl<'a> Pairs<'a> {
    /// The pairs of a lab; `outside` are the ports that are served there.
    pub(in crate::lab) fn of(facts: &'a Facts, outside: BTreeSet<(Transport, u16)>) -> Self {
        let pods = || facts.hosts.iter().filter(|h| !h.is_node());
        let world = !facts.world.is_empty();
        let mut sources: Vec<Source<'_>> = pods().map(Source::Pod).collect();
        sources.extend(world.then_some(Source::Outside));
        let mut targets: Vec<Target<'_>> = pods().filter(|h| !h.ports.is_empty()).map(Target::Pod).collect();
        targets.extend(facts.servers.iter().map(Target::Server));
        targets.extend((world && !outside.is_empty()).then_some(Target::Outside));
        Self { facts, prediction: Prediction::of(facts), sources, targets, outside }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.sources.len() * self.targets.len()
    }

    /// The probes of all pairs.
    pub(in crate::lab) fn all(&self) -> Vec<Probe> {
        (0..self.count()).flat_map(|pair| self.probes(pair)).collect()
    }

    /// The probes of `most` pairs, picked by `seed`.
    pub(super) fn sample(&self, most: usize, seed: u64) -> Vec<Probe> {
        if most >= self.count() {
            return self.all();
        }
        // Floyd's: as many steps as pairs are picked, each with one number.
        let mut picked: HashSet<usize> = HashSet::new();
        let mut state = seed;
        for last in self.count() - most..self.count() {
            let any = (u128::from(next(&mut state)) * (last as u128 + 1)) >> 64;
            let any = usize::try_from(any).unwrap_or(last);
            if !picked.insert(any) {
                picked.insert(last);
            }
        }
        let picked: BTreeSet<usize> = picked.into_iter().collect();
        picked.into_iter().flat_map(|pair| self.probes(pair)).collect()
    }

    /// The probes of a pair: every port, both families.
    fn probes(&self, pair: usize) -> Vec<Probe> {
        let targets = self.targets.len();
        match (self.sources[pair / targets], self.targets[pair % targets]) {
            (Source::Pod(a), Target::Pod(b)) if a.name == b.name => Vec::new(),
            (source, Target::Pod(pod)) => self.to_pod(source, pod),
            (source, Target::Server(server)) => self.to_server(source, server).into_iter().collect(),
            (Source::Pod(pod), Target::Outside) => self.to_outside(pod),
            (Source::Outside, Target::Outside) => Vec::new(),
        }
    }

    fn to_pod(&self, source: Source<'_>, pod: &Host) -> Vec<Probe> {
        let mut probes = Vec::new();
        for address in primary(&pod.addresses) {
            let Some(from) = self.side(source, address.is_ipv6()) else { continue };
            for served in &pod.ports {
                let open = self.prediction.open(
                    from,
                    Side::Named(&pod.name),
                    address.is_ipv6(),
                    served.protocol,
                    served.port,
                );
                probes.push(Probe {
                    kind: match source {
                        Source::Pod(_) => Kind::PodToPod,
                        Source::Outside => Kind::OutsideToPod,
                    },
                    from: source.name().to_owned(),
                    source: None,
                    to: pod.name.clone(),
                    address: SocketAddr::new(address, served.port),
                    transport: served.protocol,
                    dns: served.dns,
                    expected: match open {
                        Some(_) => Expected::Open { by: vec![served.name.clone()], seen: Seen::Own },
                        None => Expected::Denied,
                    },
                });
            }
        }
        probes
    }

    fn to_server(&self, source: Source<'_>, server: &Server) -> Option<Probe> {
        let kind = match (source, server.cluster_ip) {
            (Source::Pod(_), true) => Kind::PodToClusterIp,
            (Source::Pod(_), false) => Kind::PodToVip,
            (Source::Outside, false) => Kind::OutsideToVip,
            // Nothing leads there.
            (Source::Outside, true) => return None,
        };
        Some(Probe {
            kind,
            from: source.name().to_owned(),
            source: None,
            to: server.name.clone(),
            address: server.address,
            transport: server.protocol,
            dns: server.members.iter().any(|m| m.dns),
            expected: self.expected_of(source, server)?,
        })
    }

    /// What a connection to a virtual server gives. A pod always reaches itself, also as a member.
    fn expected_of(&self, source: Source<'_>, server: &Server) -> Option<Expected> {
        let (six, port) = (server.address.is_ipv6(), server.address.port());
        let from = self.side(source, six)?;
        let row = self.prediction.open(from, Side::Named(&server.name), six, server.protocol, port);
        let itself = |host: &Option<String>| host.as_deref() == Some(source.name());
        let by_members = |only_itself: bool| -> Vec<String> {
            let members = server.members.iter().filter(|m| !only_itself || itself(&m.host));
            members.filter_map(|m| m.answers.clone()).collect()
        };
        let others = server.members.iter().filter(|m| !itself(&m.host)).count();
        let all_answer = server.members.iter().all(|m| m.answers.is_some());
        let seen = Seen::Own;
        Some(match row {
            Some(reached) if reached.unreached == 0 && all_answer => {
                Expected::Open { by: by_members(false), seen }
            }
            Some(_) => Expected::Partly { by: by_members(false), seen },
            None if others == server.members.len() => Expected::Denied,
            None if others == 0 && all_answer => Expected::Open { by: by_members(true), seen },
            None => Expected::Partly { by: by_members(true), seen },
        })
    }

    fn to_outside(&self, pod: &Host) -> Vec<Probe> {
        let namespace = pod.name.split('/').next().unwrap_or_default();
        let mut probes = Vec::new();
        for address in primary(&self.facts.world).filter(|a| has_family(pod, a.is_ipv6())) {
            let egress = self.facts.egress.get(namespace).into_iter().flatten();
            let egress: Vec<IpAddr> = egress.copied().filter(|a| a.is_ipv6() == address.is_ipv6()).collect();
            let seen = if egress.is_empty() { Seen::Own } else { Seen::Translated(egress) };
            for &(transport, port) in &self.outside {
                let from = Side::Named(&pod.name);
                let open =
                    self.prediction.open(from, Side::Outside(address), address.is_ipv6(), transport, port);
                probes.push(Probe {
                    kind: Kind::Egress,
                    from: pod.name.clone(),
                    source: None,
                    to: OUTSIDE.to_owned(),
                    address: SocketAddr::new(address, port),
                    transport,
                    dns: false,
                    expected: match open {
                        Some(_) => Expected::Open { by: vec![OUTSIDE.to_owned()], seen: seen.clone() },
                        None => Expected::Denied,
                    },
                });
            }
        }
        probes
    }

    /// Who opens a connection, if it has this family.
    fn side<'b>(&'b self, source: Source<'b>, ipv6: bool) -> Option<Side<'b>> {
        match source {
            Source::Pod(pod) => has_family(pod, ipv6).then_some(Side::Named(&pod.name)),
            Source::Outside => primary(&self.facts.world).find(|a| a.is_ipv6() == ipv6).map(Side::Outside),
        }
    }
}

impl<'a> Source<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Pod(pod) => &pod.name,
            Self::Outside => OUTSIDE,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{
        super::facts::{End, Member, Row, Served},
        *,
    };

    fn pod(n: u8) -> Host {
        let name = format!("shop/p{n}");
        let ports = vec![Served { protocol: Transport::Tcp, port: 80, name: name.clone(), dns: false }];
        Host { name, addresses: vec![IpAddr::from([10, 0, 0, n])], ports }
    }

    /// So many pods; `p1` reaches the Service, whose members are `p1` and `p2`, as to `p1` and one member.
    fn facts(pods: u8) -> Facts {
        let end = |name: &str| End { name: name.to_owned(), pods: vec![name.to_owned()] };
        let member = |n: u8| {
            let name = Some(format!("shop/p{n}"));
            Member { host: name.clone(), port: 80, answers: name, dns: false }
        };
        let open = vec![(Transport::Tcp, 80, 80)];
        Facts {
            hosts: (1..=pods).map(pod).collect(),
            servers: vec![Server {
                name: "shop/svc/p".to_owned(),
                cluster_ip: true,
                address: "10.96.0.1:80".parse().unwrap(),
                protocol: Transport::Tcp,
                members: vec![member(1), member(2)],
            }],
            ends: vec![end("shop/p1"), end("shop/p2"), end("shop/p3"), end("shop/svc/p")],
            rows: vec![
                Row { sources: vec![0], destinations: vec![1], ipv6: None, open: open.clone(), unreached: 0 },
                Row { sources: vec![2], destinations: vec![3], ipv6: None, open, unreached: 1 },
            ],
            ..Facts::default()
        }
    }

    #[test]
    fn a_pod_always_reaches_itself_as_a_member() {
        let facts = facts(4);
        let probes = Pairs::of(&facts, BTreeSet::new()).all();
        let expected = |from: &str, to: &str| {
            let found = probes.iter().find(|p| p.from == from && p.to == to);
            found.map(|p| p.expected.clone())
        };
        let partly = |by: &[&str]| {
            let by = by.iter().map(|b| (*b).to_owned()).collect();
            Some(Expected::Partly { by, seen: Seen::Own })
        };
        assert_eq!(expected("shop/p1", "shop/p1"), None);
        assert!(matches!(expected("shop/p1", "shop/p2"), Some(Expected::Open { .. })));
        assert_eq!(expected("shop/p2", "shop/p1"), Some(Expected::Denied));
        assert_eq!(expected("shop/p1", "shop/svc/p"), partly(&["shop/p1"]), "no row, and a member itself");
        assert_eq!(expected("shop/p3", "shop/svc/p"), partly(&["shop/p1", "shop/p2"]));
        assert_eq!(expected("shop/p4", "shop/svc/p"), Some(Expected::Denied));
        assert!(probes.iter().all(|p| p.from != OUTSIDE && p.to != OUTSIDE), "there is none");
    }

    #[test]
    fn a_sample_has_as_many_pairs_as_were_asked_for() {
        let facts = facts(40);
        let pairs = Pairs::of(&facts, BTreeSet::new());
        assert_eq!(pairs.count(), 40 * 41);
        for most in [1, 7, 100, 40 * 41, 1 << 20] {
            let (one, same) = (pairs.sample(most, 9), pairs.sample(most, 9));
            assert_eq!(one, same);
            // Every pair but that of a pod and itself has one probe.
            assert!(one.len() <= most && one.len() + 40 >= most.min(pairs.count()), "{most}: {}", one.len());
        }
        assert_ne!(pairs.sample(100, 9), pairs.sample(100, 10));
    }
}
