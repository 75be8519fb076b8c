//! Differences of small networks, and of random ones against what becomes of every packet.

use super::{Cause, Diff, Direction, EndState, Row, Term};
use crate::{
    analysis::{
        brute::{self, Host, Kind, Random, delivered},
        reach::EndKind,
        view::View,
    },
    model::{IpFamily, Model, Name},
    network::Network,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use supernet_dataplane::wire::Proto;

fn view(network: &mut Network) -> View<'_> {
    network.view().unwrap()
}

/// An end, in one family, with the hosts that it stands for before and after.
struct Seat {
    name: String,
    kind: EndKind,
    namespace: Option<String>,
    sides: [Vec<(Host, IpAddr)>; 2],
}

impl Seat {
    fn there(&self, side: usize) -> bool {
        !self.sides[side].is_empty()
    }
}

/// What the packets of a pair of seats see on one side; `None` where the pair is not there or no rule decides. That
/// all pairs of hosts are treated alike is checked.
fn seen(networks: &[Network; 2], side: usize, from: &Seat, to: &Seat, kind: Kind) -> Option<bool> {
    let mut all = BTreeSet::new();
    for (_, src) in &from.sides[side] {
        for (_, dst) in &to.sides[side] {
            all.extend(delivered(networks[side].snapshot(), *src, *dst, kind));
        }
    }
    assert!(all.len() < 2, "{} > {} {kind:?}: hosts of one end are not treated alike", from.name, to.name);
    all.first().copied()
}

/// Whether a term of a row means a seat. `sides` are those that the row is about.
fn means(term: &Term, seat: &Seat, sides: &[usize], nodes: usize) -> bool {
    let pod = seat.kind == EndKind::Pods;
    let outside = seat.kind == EndKind::Outside;
    let address = || seat.sides.iter().flatten().next().unwrap().1;
    let universe = sides.iter().all(|side| seat.there(*side));
    let named = |name: &str| match name {
        "everyone" => universe,
        "everyone inside" => universe && !outside,
        "all pods" => universe && pod,
        "outside" => universe && outside,
        "nodes" if nodes > 1 => universe && seat.kind == EndKind::Nodes,
        _ => {
            let range = name.strip_prefix("outside ").unwrap_or(name);
            if let Ok(range) = range.parse::<IpNet>().or_else(|_| range.parse::<IpAddr>().map(IpNet::from)) {
                return outside && universe && range.contains(&address());
            }
            match name.strip_suffix("/*") {
                Some(namespace) => universe && seat.namespace.as_deref() == Some(namespace),
                None => seat.name == name,
            }
        }
    };
    named(&term.name) && !term.except.iter().any(|name| named(name))
}

fn has(row: &Row, (proto, port): Kind) -> bool {
    if proto == Proto::ICMP {
        return row.others;
    }
    row.ranges.iter().any(|r| r.protocol == proto.to_string() && (r.from..=r.to).contains(&port))
}

/// Every pair of ends, in every family, at every port: what rows say is what becomes of packets.
fn check(seed: u64, before: Model, after: Model) -> usize {
    let mut networks = [brute::network(before), brute::network(after)];
    let [a, b] = &mut networks;
    let diff = Diff::of(&view(a), &view(b));
    let addresses = brute::addresses();
    let hosts = networks.each_ref().map(|n| brute::hosts(n, &addresses));
    let mut told = 0;
    for family in [IpFamily::V4, IpFamily::V6] {
        let seats = seats(&diff, &hosts, family);
        let nodes = seats.iter().filter(|seat| seat.kind == EndKind::Nodes).flat_map(|s| &s.sides[1]).count();
        for from in &seats {
            for to in &seats {
                let there = [0, 1].map(|side| from.there(side) && to.there(side));
                let (cause, sides): (Cause, &[usize]) = match there {
                    [true, true] => (Cause::Rules, &[0, 1]),
                    [false, true] => (Cause::Appears, &[1]),
                    [true, false] => (Cause::Disappears, &[0]),
                    _ => continue,
                };
                let rows: Vec<&Row> = diff
                    .rows
                    .iter()
                    .filter(|row| row.family.is_none_or(|f| f == crate::analysis::reach::family_name(family)))
                    .filter(|row| row.cause == cause)
                    .filter(|row| {
                        row.from.iter().any(|t| means(t, from, sides, nodes))
                            && row.to.iter().any(|t| means(t, to, sides, nodes))
                    })
                    .collect();
                for kind in brute::kinds() {
                    // The spoof guard's, on both sides: rows speak of firewalls.
                    if kind == (Proto::UDP, 68) && [from, to].iter().all(|s| s.kind != EndKind::Outside) {
                        continue;
                    }
                    let was = seen(&networks, 0, from, to, kind);
                    let is = seen(&networks, 1, from, to, kind);
                    let undecided = |side: usize, seen: Option<bool>| there[side] && seen.is_none();
                    if undecided(0, was) || undecided(1, is) {
                        continue;
                    }
                    let expected = match (was.unwrap_or(false), is.unwrap_or(false)) {
                        (false, true) => vec![Direction::Allowed],
                        (true, false) => vec![Direction::Denied],
                        _ => vec![],
                    };
                    let said: Vec<Direction> =
                        rows.iter().filter(|row| has(row, kind)).map(|row| row.change).collect();
                    assert_eq!(
                        said,
                        expected,
                        "seed {seed}: {} > {} {family:?} {kind:?}, {was:?} then {is:?}\n{}",
                        from.name,
                        to.name,
                        serde_json::to_string_pretty(&diff).unwrap()
                    );
                    told += said.len();
                }
            }
        }
    }
    told
}

type Hosts = BTreeMap<Host, BTreeMap<IpFamily, IpAddr>>;

fn seats(diff: &Diff, hosts: &[Hosts; 2], family: IpFamily) -> Vec<Seat> {
    let address = |side: usize, host: &Host| Some((host.clone(), *hosts[side].get(host)?.get(&family)?));
    let mut seats = Vec::new();
    let pod = |text: &String| {
        let (namespace, name) = text.split_once('/').unwrap();
        Host::Pod(Name::new(namespace, name))
    };
    for end in &diff.ends {
        let sides: [Vec<Host>; 2] = match end.kind {
            EndKind::Pods => [&end.pods_before, &end.pods_after].map(|pods| pods.iter().map(pod).collect()),
            _ => [0, 1].map(|side| {
                let node = |host: &&Host| match host {
                    Host::Node(name) => end.name == "nodes" || end.name == format!("node/{name}"),
                    _ => false,
                };
                hosts[side].keys().filter(node).cloned().collect()
            }),
        };
        assert!(end.state != EndState::Stays || sides.iter().all(|s| !s.is_empty()), "{end:?}");
        seats.push(Seat {
            name: end.name.clone(),
            kind: end.kind,
            namespace: end
                .name
                .split_once('/')
                .map(|(n, _)| n.to_owned())
                .filter(|_| end.kind == EndKind::Pods),
            sides: [0, 1].map(|side| sides[side].iter().filter_map(|host| address(side, host)).collect()),
        });
    }
    let outside: BTreeSet<&Host> =
        hosts.iter().flat_map(|h| h.keys()).filter(|h| matches!(h, Host::Outside(_))).collect();
    for host in outside {
        let sides = [0, 1].map(|side| {
            // Where nobody inside has the family, there is nobody to speak of outside.
            let inside =
                hosts[side].iter().any(|(h, a)| !matches!(h, Host::Outside(_)) && a.contains_key(&family));
            address(side, host).into_iter().filter(|_| inside).collect()
        });
        seats.push(Seat { name: host.to_string(), kind: EndKind::Outside, namespace: None, sides });
    }
    // Everyone who is there and no end stands for is told of as one more, or one less, of a workload.
    let scaled: BTreeSet<String> =
        diff.scaled.iter().flat_map(|s| s.new.iter().chain(&s.gone)).cloned().collect();
    for side in [0, 1] {
        for host in hosts[side].keys() {
            let known = seats.iter().any(|s| s.sides[side].iter().any(|(h, _)| h == host));
            let in_family = address(side, host).is_some() && !matches!(host, Host::Outside(_));
            assert!(!in_family || known != scaled.contains(&host.to_string()), "{host}");
        }
    }
    seats
}

#[test]
fn rows_are_what_becomes_of_every_packet() {
    let mut told = 0;
    for seed in brute::seeds(60) {
        let mut r = Random(seed);
        let before = brute::model(&mut r);
        let after = if r.one_in(4) { brute::model(&mut r) } else { brute::changed(&before, &mut r) };
        told += check(seed, before, after);
    }
    assert!(told > 1000, "{told} changes of single packets were told of");
}
