//! Differences of small networks, and of random ones against what becomes of every packet.

use super::{Cause, Diff, Direction, EndState, Row, Term};
use crate::{
    analysis::{
        brute::{self, Host, Kind, Random, delivered},
        reach::EndKind,
        view::View,
    },
    model::{
        IngressPosture, IpFamily, Model, Name, NetworkPolicy, Pod, Position, Protocol, Selector, Service,
        ServiceKind, ServicePort, TargetPort,
    },
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
fn means(term: &Term, seat: &Seat, sides: &[usize]) -> bool {
    let pod = seat.kind == EndKind::Pods;
    let outside = seat.kind == EndKind::Outside;
    let address = || seat.sides.iter().flatten().next().unwrap().1;
    let universe = sides.iter().all(|side| seat.there(*side));
    let named = |name: &str| match name {
        "everyone" => universe,
        "everyone inside" => universe && !outside,
        "all pods" => universe && pod,
        "outside" => universe && outside,
        "nodes" => universe && seat.kind == EndKind::Nodes,
        _ => {
            let range = name.strip_prefix("outside ").unwrap_or(name);
            if let Ok(range) = range.parse::<IpNet>().or_else(|_| range.parse::<IpAddr>().map(IpNet::from)) {
                return outside && universe && range.contains(&address());
            }
            match name.strip_suffix("/*") {
                Some(namespace) => universe && seat.namespace.as_deref() == Some(namespace),
                None if name.starts_with("*/") => {
                    universe
                        && pod
                        && seat.name.split_once('/').is_some_and(|(_, workload)| workload == &name[2..])
                }
                None => seat.name == name,
            }
        }
    };
    let excepted = |text: &String| match text.split_once(" but ") {
        Some((name, but)) => named(name) && !but.split(" and ").any(named),
        None => named(text),
    };
    named(&term.name) && !term.except.iter().any(excepted)
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
                        row.from.iter().any(|t| means(t, from, sides))
                            && row.to.iter().any(|t| means(t, to, sides))
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

fn pod(model: &mut Model, name: &str, owner: &str) {
    let (namespace, name) = name.split_once('/').unwrap();
    let mut pod = Pod::new(Name::new(namespace, name));
    pod.labels.insert("app".into(), owner.into());
    pod.owner = Some(format!("deployment/{owner}"));
    model.insert(pod.into());
}

fn model(pods: &[&str]) -> Model {
    let mut model = Model::default();
    model.supervisor.ingress_posture = IngressPosture::Allow;
    for name in pods {
        let owner = name.split_once('/').unwrap().1.split('-').next().unwrap();
        pod(&mut model, name, owner);
    }
    model
}

fn isolate(model: &mut Model, policy: &str, app: &str) {
    let (namespace, name) = policy.split_once('/').unwrap();
    let pods = Selector::labels([("app", app)]);
    let name = Name::new(namespace, name);
    let policy = NetworkPolicy {
        name,
        pods,
        ingress: Some(vec![]),
        egress: None,
        staged: false,
        at: Position::default(),
    };
    model.insert(policy.into());
}

fn diff(before: Model, after: Model) -> Diff {
    let [mut before, mut after] = [before, after].map(brute::network);
    Diff::of(&view(&mut before), &view(&mut after))
}

/// "allowed rules: web > db all" of each row.
fn said(diff: &Diff) -> Vec<String> {
    let names = |ends: &[Term]| ends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ");
    let row =
        |r: &Row| format!("{:?} {:?}: {} > {} {}", r.change, r.cause, names(&r.from), names(&r.to), r.ports);
    diff.rows.iter().map(row).collect()
}

#[test]
fn pods_that_are_called_otherwise_are_matched_in_their_workload() {
    let before = model(&["shop/web-aaa-1", "shop/web-aaa-2", "shop/db-1"]);
    let mut after = model(&["a/first-1", "shop/web-bbb-1", "shop/web-bbb-2", "shop/db-1"]);
    after.pods.remove(&Name::new("a", "first-1"));
    let same = diff(before.clone(), after.clone());
    assert!(same.is_empty() && same.ends.iter().all(|end| end.state == EndState::Stays), "{same:?}");
    isolate(&mut after, "shop/web", "web");
    let diff = diff(before, after);
    let web = diff.ends.iter().find(|end| end.name == "shop/web").unwrap();
    assert_eq!((&*web.pods_before[0], &*web.pods_after[0]), ("shop/web-aaa-1", "shop/web-bbb-1"));
    assert_eq!(said(&diff), ["Denied Rules: everyone > shop/web all"]);
}

#[test]
fn more_pods_of_the_same_kind_are_counted_and_others_are_new() {
    let before = model(&["shop/web-1", "shop/db-1"]);
    let mut after = model(&["shop/web-1", "shop/web-2", "shop/db-1"]);
    let more = diff(before.clone(), after.clone());
    assert_eq!(
        (more.rows.len(), &*more.scaled[0].name, &more.scaled[0].new[..]),
        (0, "shop/web", &["shop/web-2".to_owned()][..])
    );
    assert!(!more.is_empty());
    let fewer = diff(after.clone(), before.clone());
    assert_eq!((fewer.rows.len(), &fewer.scaled[0].gone[..]), (0, &["shop/web-2".to_owned()][..]));
    // One that is treated otherwise is one of its own.
    after.pods.get_mut(&Name::new("shop", "web-2")).unwrap().labels.insert("app".into(), "canary".into());
    isolate(&mut after, "shop/canary", "canary");
    let other = diff(before, after);
    assert!(other.scaled.is_empty());
    assert_eq!(said(&other), ["Allowed Appears: shop/web-2 > everyone all"]);
}

#[test]
fn what_is_called_alike_in_many_namespaces_is_one_term() {
    let names = ["a", "b", "c", "d"];
    let pods: Vec<String> =
        names.iter().flat_map(|n| ["web", "db"].map(|pod| format!("{n}/{pod}-1"))).collect();
    let before = model(&pods.iter().map(String::as_str).collect::<Vec<_>>());
    let mut after = before.clone();
    for namespace in &names[..3] {
        isolate(&mut after, &format!("{namespace}/db"), "db");
    }
    assert_eq!(
        said(&diff(before.clone(), after.clone())),
        ["Denied Rules: everyone > */db (except d/db) all"]
    );
    isolate(&mut after, "d/db", "db");
    assert_eq!(said(&diff(before, after)), ["Denied Rules: everyone > */db all"]);
}

#[test]
fn a_namespace_has_exceptions_where_they_are_few() {
    let before = model(&["shop/a-1", "shop/b-1", "shop/c-1", "shop/d-1", "ops/e-1", "ops/f-1"]);
    let mut after = before.clone();
    for app in ["a", "b", "c"] {
        isolate(&mut after, &format!("shop/{app}"), app);
    }
    assert_eq!(said(&diff(before, after)), ["Denied Rules: everyone > shop/* (except shop/d) all"]);
}

#[test]
fn services_are_told_where_they_lead_elsewhere() {
    let mut before = model(&["shop/web-1", "shop/db-1"]);
    let service = |target| Service {
        name: Name::new("shop", "web"),
        kind: ServiceKind::LoadBalancer,
        selector: Some([("app".to_owned(), "web".to_owned())].into()),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            target: TargetPort::Number(target),
        }],
        cluster_ips: Vec::new(),
        load_balancer_ip: None,
        families: Vec::new(),
        prefer_dual_stack: false,
        publish_not_ready: false,
        external_name: None,
        client_affinity: false,
        at: Position::default(),
    };
    let none = before.clone();
    before.insert(service(8080).into());
    let mut after = before.clone();
    after.insert(service(9090).into());
    let changed = diff(before.clone(), after);
    assert_eq!((changed.rows.len(), changed.services.len(), changed.is_empty()), (0, 1, false));
    assert_eq!(
        changed.services[0].before,
        ["TCP 80 from outside too to shop/web 8080", "TCP 80 to shop/web 8080"]
    );
    assert_eq!(
        changed.services[0].after,
        ["TCP 80 from outside too to shop/web 9090", "TCP 80 to shop/web 9090"]
    );
    let gone = diff(before, none);
    assert_eq!((gone.services[0].state, gone.services[0].after.len()), (EndState::Gone, 0));
}
