//! Statements about small networks, and about random ones against what becomes of every packet.

use super::{Assertions, Counterexample, Problem, Report};
use crate::{
    analysis::{
        brute::{self, Host, Kind, Random, delivered},
        trace::Probe,
    },
    compile::{MemberState, ServerRole, server_specs},
    model::{IpFamily, Model, Name, Pod, Protocol},
    network::Network,
    place::Places,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use supernet_dataplane::wire::Proto;

/// A host in a family, by its address there.
type Spot = (Host, IpAddr);

/// An end as it is written, and whom it means.
struct Party {
    text: String,
    spots: BTreeSet<Spot>,
    /// Nodes that are meant because of the pods on their network.
    shared: BTreeSet<Spot>,
    service: Option<Name>,
}

struct Cluster {
    network: Network,
    hosts: BTreeMap<Host, BTreeMap<IpFamily, IpAddr>>,
    /// The node of each pod that uses its network.
    hosted: BTreeMap<Name, Host>,
}

impl Cluster {
    fn of(model: Model) -> Self {
        let mut network = brute::network(model);
        let edges =
            ["172.16.0.0", "172.15.255.255", "172.31.255.255", "172.32.0.0", "100.63.255.255", "100.64.0.0"];
        let more = ["100.127.255.255", "100.128.0.0", "fbff::1", "fc00::", "fdff::1", "fe00::1"];
        let edges = edges.into_iter().chain(more).map(|a| a.parse::<IpAddr>().unwrap());
        let addresses: BTreeSet<IpAddr> = brute::addresses().into_iter().chain(edges).collect();
        let hosts = brute::hosts(&network, &addresses.into_iter().collect::<Vec<_>>());
        let view = network.view().unwrap();
        let on_nodes = view.places.pods.iter().filter(|(_, p)| p.segment.is_none());
        let hosted = on_nodes.map(|(n, p)| ((*n).clone(), Host::Node(p.node.unwrap().to_owned()))).collect();
        Self { network, hosts, hosted }
    }

    fn spots(&self, host: &Host) -> BTreeSet<Spot> {
        self.hosts.get(host).into_iter().flatten().map(|(_, a)| (host.clone(), *a)).collect()
    }

    fn everyone(&self) -> BTreeSet<Spot> {
        self.hosts.keys().flat_map(|host| self.spots(host)).collect()
    }

    fn model(&self) -> &Model {
        self.network.model()
    }

    fn pods(&self, text: String, meant: impl Fn(&Pod) -> bool) -> Party {
        let mut party = Party { text, spots: BTreeSet::new(), shared: BTreeSet::new(), service: None };
        for pod in self.model().pods.values().filter(|pod| meant(pod)) {
            match self.hosted.get(&pod.name) {
                Some(node) => party.shared.extend(self.spots(node)),
                None => party.spots.extend(self.spots(&Host::Pod(pod.name.clone()))),
            }
        }
        party
    }

    fn some(&self, text: &str, meant: impl Fn(&Spot) -> bool) -> Party {
        let spots = self.everyone().into_iter().filter(|spot| meant(spot)).collect();
        Party { text: text.to_owned(), spots, shared: BTreeSet::new(), service: None }
    }

    fn party(&self, r: &mut Random, services: bool) -> Party {
        let model = self.model();
        let pods: Vec<&Pod> = model.pods.values().collect();
        let pod = r.pick(&pods);
        let (namespace, workload) = (pod.name.namespace.clone(), pod.name.name.split('-').next().unwrap());
        let here = |other: &Pod| other.name.namespace == namespace;
        let is = |other: &Pod| other.name.name.starts_with(workload);
        let outside = |(host, _): &Spot| matches!(host, Host::Outside(_));
        let names: Vec<&Name> = model.services.keys().collect();
        if services && !names.is_empty() && r.one_in(4) {
            let name = r.pick(&names).clone();
            let text = format!("{}/svc/{}", name.namespace, name.name);
            return Party { text, spots: BTreeSet::new(), shared: BTreeSet::new(), service: Some(name) };
        }
        match r.below(13) {
            0 => self.pods(namespace.clone(), here),
            1 => self.pods(format!("{namespace}/*"), here),
            2 | 3 => self.pods(format!("{namespace}/{workload}"), |p| here(p) && is(p)),
            4 => self.pods(pod.name.to_string(), |p| p.name == pod.name),
            5 => self.pods(format!("*/{}*", &workload[..1]), |p| p.name.name.starts_with(&workload[..1])),
            6 => self.pods(format!("{namespace}/[app=a]"), |p| {
                here(p) && p.labels.get("app").is_some_and(|v| v == "a")
            }),
            7 => self.pods("*/[role,app!=b]".into(), |p| {
                p.labels.contains_key("role") && p.labels.get("app").is_none_or(|v| v != "b")
            }),
            8 => self.some("nodes", |(host, _)| matches!(host, Host::Node(_))),
            9 => self.some("node/node-1", |(host, _)| *host == Host::Node("node-1".into())),
            10 => self.some("outside", outside),
            11 => {
                let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
                let private = private.map(|net| net.parse::<IpNet>().unwrap());
                self.some("internet", |spot| {
                    outside(spot) && !private.iter().any(|net| net.contains(&spot.1))
                })
            }
            _ => {
                let range = r.pick(&[
                    "10.244.0.0/16",
                    "198.51.100.0/24",
                    "198.51.100.77/32",
                    "0.0.0.0/0",
                    "2001:db8::/32",
                ]);
                let net: IpNet = range.parse().unwrap();
                self.some(range, |(_, address)| net.contains(address))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Demand {
    All,
    Some,
    None,
}

/// What goes against a statement: who to whom, and what should have been.
struct Against(Vec<(IpAddr, IpAddr, Demand)>, usize);

impl Cluster {
    /// Asks about every packet.
    fn demand(
        &self,
        who: &BTreeSet<Spot>,
        whom: &[Party],
        demand: Demand,
        ports: &dyn Fn(Kind) -> bool,
        against: &mut Against,
    ) {
        let snapshot = self.network.snapshot();
        let decide = |src: &Spot, dst: &Spot, against: &mut Against| {
            if src.1.is_ipv4() != dst.1.is_ipv4()
                || delivered(snapshot, src.1, dst.1, (Proto::TCP, 80)).is_none()
            {
                return;
            }
            against.1 += 1;
            let dhcp = |kind: Kind| {
                kind == (Proto::UDP, 68)
                    && !matches!((&src.0, &dst.0), (Host::Outside(_), _) | (_, Host::Outside(_)))
            };
            let kinds = brute::kinds().into_iter().filter(|kind| ports(*kind));
            let mut open = kinds
                .filter(|kind| !dhcp(*kind))
                .map(|kind| delivered(snapshot, src.1, dst.1, kind).unwrap());
            let wrong = match demand {
                Demand::All => open.any(|open| !open),
                Demand::Some => !open.any(|open| open),
                Demand::None => open.any(|open| open),
            };
            if wrong {
                against.0.push((src.1, dst.1, demand));
            }
        };
        let direct: BTreeSet<&Spot> = whom.iter().flat_map(|p| p.spots.iter().chain(&p.shared)).collect();
        for src in who {
            for dst in &direct {
                decide(src, dst, against);
            }
        }
        for name in whom.iter().filter_map(|p| p.service.as_ref()) {
            self.service(who, name, demand, ports, against);
        }
    }

    fn service(
        &self,
        who: &BTreeSet<Spot>,
        name: &Name,
        demand: Demand,
        ports: &dyn Fn(Kind) -> bool,
        against: &mut Against,
    ) {
        let (model, addressing, snapshot) =
            (self.model(), self.network.addressing(), self.network.snapshot());
        let mut interner = self.network.interner().clone();
        let places = Places::of(model, addressing, &mut interner).unwrap();
        let servers = server_specs(model, addressing, &places).unwrap();
        for (host, src) in who {
            for server in servers.iter().filter(|s| s.service.as_ref() == Some(name)) {
                let asked = ports((server.protocol.into(), server.address.port()));
                if server.address.is_ipv4() != src.is_ipv4() || !asked {
                    continue;
                }
                against.1 += 1;
                let outside = matches!(host, Host::Outside(_));
                let vip = addressing.ingress.get(name).is_some_and(|a| !a.is_empty());
                if outside && server.role == ServerRole::ClusterIp {
                    if !vip && demand != Demand::None {
                        against.0.push((*src, server.address.ip(), demand));
                    }
                    continue;
                }
                let active: Vec<_> =
                    server.members.iter().filter(|m| m.state == MemberState::Active).collect();
                if active.is_empty() && demand != Demand::None {
                    against.0.push((*src, server.address.ip(), demand));
                }
                for member in active {
                    let kind = (server.protocol.into(), member.address.port());
                    let open = delivered(snapshot, *src, member.address.ip(), kind).unwrap_or(true);
                    if open == (demand == Demand::None) {
                        against.0.push((*src, member.address.ip(), demand));
                    }
                }
            }
        }
    }

    fn members(&self, whom: &[Party]) -> BTreeSet<IpAddr> {
        let names: BTreeSet<&Name> = whom.iter().filter_map(|p| p.service.as_ref()).collect();
        let (model, addressing) = (self.model(), self.network.addressing());
        let mut interner = self.network.interner().clone();
        let places = Places::of(model, addressing, &mut interner).unwrap();
        let servers = server_specs(model, addressing, &places).unwrap();
        let of = servers.iter().filter(|s| s.service.as_ref().is_some_and(|name| names.contains(name)));
        of.flat_map(|s| &s.members).map(|m| m.address.ip()).collect()
    }
}

fn outside_of(cluster: &Cluster, parties: &[Party]) -> BTreeSet<Spot> {
    let meant: BTreeSet<&Spot> = parties.iter().flat_map(|p| &p.spots).collect();
    cluster.everyone().into_iter().filter(|spot| !meant.contains(spot)).collect()
}

#[test]
fn statements_hold_as_every_packet_says() {
    let (mut held, mut failed, mut refused) = (0, 0, 0);
    for seed in brute::seeds(40) {
        let mut r = Random(seed ^ 0xa55e);
        let mut cluster = Cluster::of(brute::model(&mut r));
        for _ in 0..25 {
            match one(seed, &mut cluster, &mut r) {
                Some(true) => held += 1,
                Some(false) => failed += 1,
                None => refused += 1,
            }
        }
    }
    assert!(
        held > 100 && failed > 100 && refused > 10,
        "{held} held, {failed} failed, {refused} were refused"
    );
}

/// A random statement: whether it holds, `None` if it speaks of nobody. Checked.
fn one(seed: u64, cluster: &mut Cluster, r: &mut Random) -> Option<bool> {
    let list = |r: &mut Random, services| -> Vec<Party> {
        (0..1 + r.below(4) / 3).map(|_| cluster.party(r, services)).collect()
    };
    let (who, whom) = (list(r, false), list(r, true));
    let texts = |parties: &[Party]| parties.iter().map(|p| p.text.clone()).collect::<Vec<_>>().join(", ");
    let verb = r.below(6);
    let denies = matches!(verb, 3..=5);
    let service = whom.iter().find_map(|p| p.service.clone());
    // Which ports a Service has decides which may be named.
    let (protocol, port) = match service.map(|s| cluster.model().services[&s].ports[0].clone()) {
        Some(port) => (port.protocol, port.port),
        None => (r.pick(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]), r.pick(&[53, 80, 443])),
    };
    let several = whom.iter().filter(|p| p.service.is_some()).count() > 1;
    let (on, ports): (String, Box<dyn Fn(Kind) -> bool>) = match if several { 0 } else { r.below(4) } {
        0 | 1 => (String::new(), Box::new(|_| true)),
        2 if whom.iter().all(|p| p.service.is_none()) => (
            format!(" on {protocol}, ICMP"),
            Box::new(move |(p, _)| p == Proto::ICMP || p == protocol.into()),
        ),
        _ => (format!(" on {protocol} {port}"), Box::new(move |kind| kind == (protocol.into(), port))),
    };
    let named = !on.is_empty();
    let only = named && !denies && r.one_in(2);
    let tail = format!("{}{on}{}", texts(&whom), if only { " only" } else { "" });
    let text = match verb {
        0 => format!("{} reaches {tail}", texts(&who)),
        1 => format!("{} reaches only {tail}", texts(&who)),
        2 => format!("only {} reaches {tail}", texts(&who)),
        3 => format!("{} does not reach {tail}", texts(&who)),
        4 => format!("nothing outside {} reaches {tail}", texts(&who)),
        _ => format!("nothing reaches {tail}"),
    };
    let all = |parties: &[Party]| -> BTreeSet<Spot> {
        parties.iter().flat_map(|p| p.spots.iter().chain(&p.shared)).cloned().collect()
    };
    let nobody = |parties: &[Party]| {
        parties.iter().any(|p| p.service.is_none() && p.spots.is_empty() && p.shared.is_empty())
    };
    let mut against = Against(Vec::new(), 0);
    let beyond = |kind: Kind| !ports(kind);
    let open = if named { Demand::All } else { Demand::Some };
    let sources = if verb == 5 { cluster.everyone() } else { all(&who) };
    let not_who = outside_of(cluster, &who);
    match verb {
        0..=2 => {
            cluster.demand(&sources, &whom, open, &*ports, &mut against);
            if only || verb == 1 {
                cluster.demand(&sources, &whom, Demand::None, &beyond, &mut against);
            }
            if verb == 1 {
                let members = cluster.members(&whom);
                let spots =
                    outside_of(cluster, &whom).into_iter().filter(|(_, a)| !members.contains(a)).collect();
                let rest = Party { text: String::new(), spots, shared: BTreeSet::new(), service: None };
                cluster.demand(&sources, &[rest], Demand::None, &|_| true, &mut against);
            }
            if verb == 2 {
                cluster.demand(&not_who, &whom, Demand::None, &*ports, &mut against);
            }
        }
        4 => cluster.demand(&not_who, &whom, Demand::None, &*ports, &mut against),
        _ => cluster.demand(&sources, &whom, Demand::None, &*ports, &mut against),
    }
    let refused = (verb != 5 && nobody(&who)) || nobody(&whom) || against.1 == 0;
    let assertions = Assertions::parse("rules", &text).unwrap();
    let report = match assertions.check(&cluster.network.view().unwrap()) {
        Ok(report) => report,
        Err(e) => {
            assert!(refused, "seed {seed}: {text}: {e}");
            return None;
        }
    };
    let counterexample = report.statements[0].counterexample.as_ref();
    assert!(!refused, "seed {seed}: `{text}` speaks of nobody, and nobody says so");
    let expected = against.0.is_empty();
    assert_eq!(report.holds(), expected, "seed {seed}: {text}\n{:?}\n{counterexample:?}", against.0.first());
    if let Some(found) = counterexample {
        against_it(seed, &text, cluster, found, &against);
    }
    Some(expected)
}

/// A counter-example is among what goes against the statement, and what `trace` says of it.
fn against_it(seed: u64, text: &str, cluster: &mut Cluster, found: &Counterexample, against: &Against) {
    let (src, dst): (IpAddr, IpAddr) =
        (found.from_address.parse().unwrap(), found.to_address.parse().unwrap());
    let here = against.0.iter().find(|(a, b, _)| (*a, *b) == (src, dst));
    // An address outside stands for all that are treated as it is.
    let demand = match here {
        Some((_, _, demand)) => *demand,
        None => {
            let wanted = if found.delivered { Demand::None } else { Demand::All };
            assert!(
                [&found.from, &found.to].iter().any(|n| n.parse::<IpAddr>().is_ok())
                    && against.0.iter().any(|(_, _, d)| (*d == Demand::None) == (wanted == Demand::None)),
                "seed {seed}: {text}: {found:?}"
            );
            wanted
        }
    };
    assert_eq!(found.delivered, demand == Demand::None, "seed {seed}: {text}: {found:?}");
    let word = |name: &str| {
        let at = found.trace.iter().position(|word| word == name)?;
        found.trace.get(at + 1).cloned()
    };
    let proto = word("--proto").map_or(Proto::ICMP, |p| match &*p {
        "tcp" => Proto::TCP,
        "udp" => Proto::UDP,
        _ => Proto::SCTP,
    });
    let port = word("--port").map(|p| p.parse().unwrap());
    let (from, to) = (word("--from").unwrap().parse().unwrap(), word("--to").unwrap().parse().unwrap());
    let report = cluster.network.trace(&Probe { from, to, proto, port }, 0).unwrap();
    let sent = report.packet.contains(&src.to_string()) && report.packet.contains(&dst.to_string());
    assert!(report.delivered == found.delivered && sent, "seed {seed}: {text}: {found:?}\n{report}");
    if let Some(rule) = &report.denied_by {
        assert_eq!(found.rules, [rule.to_string()]);
    }
}

fn shop() -> Network {
    let mut model = Model::default();
    for (pod, app) in
        [("shop/web-0", "web"), ("shop/web-1", "web"), ("shop/db", "db"), ("ops/shell", "shell")]
    {
        let (namespace, name) = pod.split_once('/').unwrap();
        let mut pod = Pod::new(Name::new(namespace, name));
        pod.labels.insert("app".into(), app.into());
        pod.owner = (app == "web").then(|| "deployment/web".to_owned());
        model.insert(pod.into());
    }
    brute::network(model)
}

fn check(text: &str) -> Result<Report, super::Wrong> {
    Assertions::parse("rules.txt", text)?.check(&shop().view().unwrap())
}

#[test]
fn what_is_wrong_is_told_all_at_once_with_its_place_and_what_to_do() {
    let said = |text: &str| check(text).unwrap_err().to_string();
    let cases = [
        (
            "shop/wbe reaches shop/db",
            "rules.txt:1:1: there is no pod or workload shop/wbe; did you mean shop/web?",
        ),
        (
            "# a comment\n\n  shpo/* reaches shop/db",
            "rules.txt:3:3: there is no namespace shpo; did you mean shop?",
        ),
        ("shop/db reaches shop/svc/web", "rules.txt:1:17: there is no Service shop/svc/web"),
        ("shop/db reaches node/node-9", "rules.txt:1:17: there is no node node-9; did you mean node-1?"),
        ("shop/web shop/db", "rules.txt:1:10: expected `reaches` or `does not reach`, found `shop/db`"),
        ("shop/web reaches", "rules.txt:1:17: expected the name of an end, but the line ends here"),
        (
            "shop/web reaches shop/db on TCP 0",
            "rules.txt:1:33: expected a port: 443, 8000-8999, TCP 443, UDP, ICMP or everything, found `0`",
        ),
        (
            "shop/web reaches shop/db on 9-8",
            "rules.txt:1:29: `9-8` ends before it begins; write the smaller port first",
        ),
        ("shop/web does not reach shop/db on 9 only", "rules.txt:1:38: `only` says nothing here; remove it"),
        (
            "10.0.0.1/8 reaches shop/db",
            "rules.txt:1:1: `10.0.0.1/8` has bits set beyond its length; write 10.0.0.0/8, or the address alone",
        ),
        (
            "kube-api reaches shop/db",
            "rules.txt:1:1: a connection cannot begin at Service kube-api; name its pods",
        ),
        (
            "shop/web reaches kube-api on 80",
            "rules.txt:1:1: Service kube-api has no port TCP 80; it has TCP 6443",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(said(text), expected, "{text}");
    }
    let several = said("shop/web reach\nshop/db reaches shop/db\nshop// reaches x");
    assert_eq!(
        several.lines().count(),
        2,
        "what cannot be read is told before what cannot be found: {several}"
    );
}

#[test]
fn a_statement_about_nobody_is_no_pass() {
    let refused = |text: &str| check(text).unwrap_err().0.remove(0).problem;
    assert!(matches!(refused("shop/[tier=x] does not reach shop/db"), Problem::Nobody { .. }));
    assert!(matches!(refused("shop/x* does not reach shop/db"), Problem::Nobody { .. }));
    assert!(matches!(refused("2001:db8::/32 does not reach shop/db"), Problem::Nobody { .. }));
    assert_eq!(refused("shop/db does not reach shop/db"), Problem::Vacuous);
    assert_eq!(refused("shop/web does not reach shop/db over IPv6"), Problem::Vacuous);
    assert_eq!(refused("outside does not reach 198.51.100.0/24"), Problem::Vacuous);
}

#[test]
fn a_counterexample_names_packet_rule_and_command() {
    let report =
        check("nothing outside ops reaches shop # nobody\noutside reaches shop/web on 80, UDP 53\n").unwrap();
    assert!(report.statements[0].holds, "the posture denies");
    let found = report.statements[1].counterexample.as_ref().unwrap();
    assert_eq!(report.statements[1].statement, "outside reaches shop/web on 80, UDP 53");
    assert_eq!(
        (&*found.from, &*found.to, &*found.protocol, found.port),
        ("203.0.113.10", "shop/web-0", "TCP", Some(80))
    );
    assert_eq!((found.delivered, &found.rules[..]), (false, &["posture deny".to_owned()][..]));
    let command = ["--from", "203.0.113.10", "--to", "shop/web-0", "--proto", "tcp", "--port", "80"];
    assert_eq!(found.trace, command);
    assert_eq!((report.held, report.failed), (1, 1));
}

#[test]
fn sentences_mean_what_people_mean_by_them() {
    let mut network = shop();
    let mut holds =
        |text: &str| Assertions::parse("r", text).unwrap().check(&network.view().unwrap()).unwrap().holds();
    for (text, expected) in [
        ("nothing reaches shop", true),
        ("nothing outside reaches shop", true),
        ("nothing outside shop reaches shop", true),
        ("shop/web reaches internet", true),
        ("shop/web, shop/db reaches outside, nodes on everything", true),
        ("shop/web reaches internet on 443", true),
        ("shop/web reaches internet on 443 only", false),
        ("shop/web reaches only internet", false),
        ("shop/web reaches only outside, nodes", true),
        ("only shop reaches internet", false),
        ("only *, nodes reaches internet", true),
        ("* do not reach *", true),
        ("* reach kube-api", true),
        ("outside does not reach nodes on ICMP", false),
        ("10.244.0.0/16 does not reach 172.26.0.2", false),
        ("shop/web reaches internet on TCP 1-65535, UDP, SCTP, ICMP only", true),
    ] {
        assert_eq!(holds(text), expected, "{text}");
    }
}
