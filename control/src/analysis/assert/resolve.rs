//! Words of statements become ends of a network.

use super::{
    Problem, Refused, Wrong,
    grammar::{End, Meant, Pods, Statement},
};
use crate::{
    analysis::{
        ends::{Standing, server_name},
        outside,
        view::View,
    },
    closest::closest,
    compile::ServerSpec,
    model::{IpFamily, Name, Protocol, ServiceKind},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
};

/// One who can open a connection or be reached.
pub(super) struct Seat<'a> {
    pub(super) kind: SeatKind,
    pub(super) name: String,
    pub(super) standing: Standing<'a>,
    /// Its address in each family.
    pub(super) addresses: BTreeMap<IpFamily, IpAddr>,
    /// The family of its first address.
    pub(super) primary: Option<IpFamily>,
    /// What its containers declare.
    pub(super) declared: BTreeSet<(Protocol, u16)>,
    /// Of a pod, the addresses of its node.
    pub(super) node: &'a [IpAddr],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SeatKind {
    Pod,
    Node,
    Outside,
}

/// A seat, by position, in a family.
pub(super) type Spot = (IpFamily, usize);

/// Whom a list of ends means.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    pub(super) spots: BTreeSet<Spot>,
    /// Nodes that are meant only because pods use their network: beside these pods, others are there.
    pub(super) shared: BTreeSet<Spot>,
    /// Services, by what they are called.
    pub(super) services: BTreeSet<String>,
}

/// Everyone in a network, and what they are called.
pub(super) struct Room<'v, 'a> {
    pub(super) view: &'v View<'a>,
    pub(super) seats: Vec<Seat<'a>>,
    /// Positions of pods.
    pods: BTreeMap<&'a Name, usize>,
    /// Positions of nodes.
    nodes: BTreeMap<&'a str, usize>,
    /// Positions of pieces of the outside, with their ranges.
    outside: Vec<(usize, IpNet)>,
    /// Who has an address, of pods and nodes.
    having: HashMap<IpAddr, usize>,
    /// Virtual servers, by what their Service is called.
    pub(super) servers: BTreeMap<String, Vec<&'v ServerSpec>>,
}

impl<'v, 'a> Room<'v, 'a> {
    /// Everyone, with the outside cut where statements ask for ranges.
    pub(super) fn of(view: &'v View<'a>, statements: &[Statement]) -> Self {
        let mut room = Self {
            view,
            seats: Vec::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            outside: Vec::new(),
            having: HashMap::new(),
            servers: BTreeMap::new(),
        };
        for (&name, place) in view.places.pods.iter().filter(|(_, p)| p.segment.is_some()) {
            let node = place.node.and_then(|node| view.addressing.nodes.get(node)).map(Vec::as_slice);
            let declared = place.pod.ports.iter().map(|p| (p.protocol, p.port)).collect();
            let seat = seat(view, SeatKind::Pod, name.to_string(), place.addresses);
            room.pods.insert(name, room.seats.len());
            room.having.extend(place.addresses.iter().map(|a| (*a, room.seats.len())));
            room.seats.push(Seat { declared, node: node.unwrap_or_default(), ..seat });
        }
        for (name, addresses) in view.addressing.nodes.iter().filter(|(_, a)| !a.is_empty()) {
            room.nodes.insert(name, room.seats.len());
            room.having.extend(addresses.iter().map(|a| (*a, room.seats.len())));
            room.seats.push(seat(view, SeatKind::Node, format!("node/{name}"), addresses));
        }
        for place in view.places.pods.values().filter(|p| p.segment.is_none()) {
            if let Some(at) = place.node.and_then(|node| room.nodes.get(node)) {
                room.seats[*at].declared.extend(place.pod.ports.iter().map(|p| (p.protocol, p.port)));
            }
        }
        let asked =
            statements.iter().flat_map(|s| s.who.iter().chain(&s.whom)).filter_map(|end| match end.meant {
                Meant::Range(range) => Some(range),
                _ => None,
            });
        let cuts: BTreeSet<IpNet> =
            outside::cuts(view.snapshot).into_iter().chain(private()).chain(asked).collect();
        for piece in outside::pieces(cuts) {
            let Some(address) = piece.address.filter(|a| outside::is_outside(view.snapshot, *a)) else {
                continue;
            };
            let identities = [(IpFamily::of(address), view.snapshot.identities.of(address))].into();
            room.outside.push((room.seats.len(), piece.range));
            room.seats.push(Seat {
                standing: Standing::outside(identities),
                ..seat(view, SeatKind::Outside, address.to_string(), &[address])
            });
        }
        for server in &view.servers {
            room.servers.entry(server_name(server)).or_default().push(server);
        }
        room
    }

    /// Everyone.
    pub(super) fn everyone(&self) -> BTreeSet<Spot> {
        (0..self.seats.len()).flat_map(|at| self.spots(at)).collect()
    }

    /// The pod or node that has an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<usize> {
        self.having.get(&address).copied()
    }

    /// A seat in each family that it has.
    fn spots(&self, at: usize) -> impl Iterator<Item = Spot> {
        self.seats[at].addresses.keys().map(move |family| (*family, at))
    }

    fn outside(&self, wanted: impl Fn(&IpNet) -> bool) -> Vec<Spot> {
        let outside = self.outside.iter().filter(|(_, range)| wanted(range));
        outside.map(|(at, range)| (IpFamily::of(range.addr()), *at)).collect()
    }

    /// Whom ends mean together. Errors are added to `wrong`.
    pub(super) fn resolve(&self, ends: &[End], as_source: bool, wrong: &mut Wrong) -> Meaning {
        let mut meaning = Meaning::default();
        for end in ends {
            if let Err(problem) = self.add(end, as_source, &mut meaning) {
                wrong.0.push(Refused { at: end.at.clone(), problem });
            }
        }
        meaning
    }

    fn add(&self, end: &End, as_source: bool, meaning: &mut Meaning) -> Result<(), Problem> {
        let (found, why): (Vec<Spot>, &str) = match &end.meant {
            Meant::Everyone => (self.everyone().into_iter().collect(), "there is nobody"),
            Meant::Nodes => {
                (self.nodes.values().flat_map(|at| self.spots(*at)).collect(), "there is no node")
            }
            Meant::Node(name) => {
                let Some(at) = self.nodes.get(&**name) else {
                    let known: Vec<String> = self.nodes.keys().map(|n| (*n).to_owned()).collect();
                    return Err(unknown("node", name, &known));
                };
                (self.spots(*at).collect(), "it has no address")
            }
            Meant::Outside => (self.outside(|_| true), "no route leads beyond the uplinks"),
            Meant::Internet => {
                let private: Vec<IpNet> = private().collect();
                let wanted = |range: &IpNet| !private.iter().any(|net| net.contains(range));
                (self.outside(wanted), "no route leads to addresses that are not private")
            }
            Meant::Range(range) => {
                let mut spots = self.outside(|piece| range.contains(piece));
                for (at, seat) in self.seats.iter().enumerate().filter(|(_, s)| s.kind != SeatKind::Outside) {
                    let has = seat.addresses.iter().filter(|(_, address)| range.contains(*address));
                    spots.extend(has.map(|(family, _)| (*family, at)));
                }
                (spots, "no pod or node has such an address, and no route leads to any")
            }
            Meant::Pods(namespace, pods) => return self.add_pods(end, namespace.as_deref(), pods, meaning),
            Meant::DefaultServer(name) => return self.add_service(name.clone(), as_source, meaning),
            Meant::Service(name) => {
                let called = format!("{}/svc/{}", name.namespace, name.name);
                let Some(service) = self.view.model.services.get(name) else {
                    let here = self.view.model.services.keys().filter(|n| n.namespace == name.namespace);
                    let known: Vec<String> =
                        here.map(|n| format!("{}/svc/{}", n.namespace, n.name)).collect();
                    return Err(unknown("Service", &called, &known));
                };
                if matches!(service.kind, ServiceKind::Headless | ServiceKind::ExternalName) {
                    return Err(Problem::NoVirtualServer(called));
                }
                return self.add_service(called, as_source, meaning);
            }
        };
        if found.is_empty() {
            return Err(Problem::Nobody { name: end.text.clone(), why });
        }
        meaning.spots.extend(found);
        Ok(())
    }

    fn add_service(&self, called: String, as_source: bool, meaning: &mut Meaning) -> Result<(), Problem> {
        if as_source {
            return Err(Problem::FromService(called));
        }
        if !self.servers.contains_key(&called) {
            return Err(Problem::Nobody { name: called, why: "it has no address" });
        }
        meaning.services.insert(called);
        Ok(())
    }

    fn add_pods(
        &self,
        end: &End,
        namespace: Option<&str>,
        pods: &Pods,
        meaning: &mut Meaning,
    ) -> Result<(), Problem> {
        let model = self.view.model;
        if let Some(namespace) = namespace.filter(|n| !model.namespaces.contains_key(*n)) {
            let known: Vec<String> = model.namespaces.keys().cloned().collect();
            return Err(unknown("namespace", namespace, &known));
        }
        let here = || model.pods.values().filter(|pod| namespace.is_none_or(|n| pod.name.namespace == n));
        let mut found = false;
        for pod in here().filter(|pod| pods.matches(&pod.name.name, workload(pod), &pod.labels)) {
            found = true;
            if let Some(at) = self.pods.get(&pod.name) {
                meaning.spots.extend(self.spots(*at));
            } else if let Some(at) =
                self.view.places.pods.get(&pod.name).and_then(|p| p.node).and_then(|n| self.nodes.get(n))
            {
                meaning.shared.extend(self.spots(*at));
            }
        }
        if found {
            return Ok(());
        }
        let why = match pods {
            Pods::Named(name) => {
                let known: BTreeSet<String> =
                    here().map(|pod| format!("{}/{}", pod.name.namespace, workload(pod))).collect();
                let known: Vec<String> = known.into_iter().collect();
                let name = format!("{}/{name}", namespace.unwrap_or("*"));
                return Err(unknown("pod or workload", &name, &known));
            }
            Pods::All => "there is no pod",
            Pods::Begin(_) => "no pod's or workload's name begins so",
            Pods::Labelled(_) => "no pod has such labels",
        };
        Err(Problem::Nobody { name: end.text.clone(), why })
    }
}

fn seat<'a>(view: &View<'a>, kind: SeatKind, name: String, addresses: &[IpAddr]) -> Seat<'a> {
    Seat {
        kind,
        name,
        standing: Standing::of(view.snapshot, addresses),
        addresses: addresses.iter().rev().map(|a| (IpFamily::of(*a), *a)).collect(),
        primary: addresses.first().map(|a| IpFamily::of(*a)),
        declared: BTreeSet::new(),
        node: &[],
    }
}

fn workload(pod: &crate::model::Pod) -> &str {
    pod.owner.as_deref().and_then(|owner| owner.rsplit('/').next()).unwrap_or(&pod.name.name)
}

/// At most so many names are listed where none is near.
const MOST: usize = 12;

fn unknown(kind: &'static str, name: &str, known: &[String]) -> Problem {
    let near = match closest(name, known.iter().map(String::as_str)) {
        Some(near) => vec![near.to_owned()],
        // One name would read as a guess.
        None if known.len() > 1 => known.iter().take(MOST).cloned().collect(),
        None => Vec::new(),
    };
    Problem::Unknown { kind, name: name.to_owned(), near }
}

/// Ranges that are not of the internet: RFC 1918, RFC 6598, RFC 4193.
fn private() -> impl Iterator<Item = IpNet> {
    let v4 = [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16), ([100, 64, 0, 0], 10)];
    let v4 = v4.into_iter().map(|(net, len)| IpNet::V4(Ipv4Net::new_assert(net.into(), len)));
    v4.chain([IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7))])
}
