//! Whether statements hold, and a packet that shows it where one does not.
//!
//! A statement is one demand or several, each of sources, destinations and ports: that these are open between every
//! pair, that some port is, or that none of them is. Sources that the firewall cannot tell apart are asked about
//! once.

use super::{
    Counterexample, Outcome, Problem, Refused, Report, Wrong,
    grammar::{Statement, Verb},
    resolve::{Meaning, Room, Seat, SeatKind, Spot},
};
use crate::{
    analysis::{
        ends::Standing,
        judge::{Judge, place_of},
        open::{Open, PROTOCOLS},
        outside,
        trace::{End, Probe, TraceReport},
        view::View,
    },
    compile::{MemberState, ServerRole, ServerSpec},
    model::{IpFamily, Name, Protocol},
};
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};
use supernet_dataplane::wire::Proto;

/// What a statement demands of sources and destinations.
#[derive(Debug, Clone)]
enum Demand {
    /// All these ports are open.
    All(Open),
    /// Some port is.
    Some,
    /// None of these is.
    None(Open),
}

pub(super) fn check(statements: &[Statement], view: &View<'_>) -> Result<Report, Wrong> {
    let room = Room::of(view, statements);
    let mut wrong = Wrong(Vec::new());
    let mut resolved = Vec::new();
    for statement in statements {
        let who = room.resolve(&statement.who, true, &mut wrong);
        let whom = room.resolve(&statement.whom, false, &mut wrong);
        for service in &whom.services {
            if let Err(problem) = check_ports(&room, statement, service) {
                wrong.0.push(Refused { at: statement.at.clone(), problem });
            }
        }
        resolved.push((statement, who, whom));
    }
    if !wrong.0.is_empty() {
        return Err(wrong);
    }
    let mut court = Court { room: &room, judge: Judge::default() };
    let mut outcomes = Vec::new();
    for (statement, who, whom) in resolved {
        match court.outcome(statement, who, whom) {
            Ok(outcome) => outcomes.push(outcome),
            Err(problem) => wrong.0.push(Refused { at: statement.at.clone(), problem }),
        }
    }
    if !wrong.0.is_empty() {
        return Err(wrong);
    }
    let held = outcomes.iter().filter(|o| o.holds).count();
    Ok(Report { held, failed: outcomes.len() - held, statements: outcomes })
}

/// A packet that goes against a statement, by positions.
struct Against {
    from: usize,
    family: IpFamily,
    to: SocketAddr,
    /// Whose address that is.
    seat: Option<usize>,
    service: Option<String>,
    /// `None`: ICMP.
    protocol: Option<Protocol>,
}

struct Court<'r, 'v, 'a> {
    room: &'r Room<'v, 'a>,
    judge: Judge<'a>,
}

impl Court<'_, '_, '_> {
    fn outcome(&mut self, statement: &Statement, who: Meaning, whom: Meaning) -> Result<Outcome, Problem> {
        let in_family = |spots: BTreeSet<Spot>| -> BTreeSet<Spot> {
            spots.into_iter().filter(|(family, _)| statement.family.is_none_or(|f| f == *family)).collect()
        };
        let others = |meaning: &Meaning| -> BTreeSet<Spot> {
            self.room.everyone().difference(&meaning.spots).copied().collect()
        };
        let (not_who, not_whom) =
            (in_family(others(&who)), in_family(self.but_members(others(&whom), &whom)));
        let all = |meaning: Meaning| -> BTreeSet<Spot> { in_family(&meaning.spots | &meaning.shared) };
        let services: Vec<String> = whom.services.iter().cloned().collect();
        let (who, whom) = (all(who), all(whom));
        let open = match &statement.ports {
            None => Demand::Some,
            Some(ports) => Demand::All(ports.clone()),
        };
        let ports = statement.ports.clone().unwrap_or_else(Open::all);
        let beyond = Open::all().without(&ports);
        let (mut pairs, mut against) = (0, None);
        let mut demand =
            |sources: &BTreeSet<Spot>, to: &BTreeSet<Spot>, services: &[String], demand: Demand| {
                if against.is_some() {
                    return;
                }
                against = self.pods(sources, to, &demand, &mut pairs);
                for service in services {
                    if against.is_none() {
                        against = self.service(sources, service, &demand, &mut pairs);
                    }
                }
            };
        match statement.verb {
            Verb::Reaches => {
                demand(&who, &whom, &services, open);
                if statement.only_ports {
                    demand(&who, &whom, &services, Demand::None(beyond));
                }
            }
            Verb::ReachesOnly => {
                demand(&who, &whom, &services, open);
                demand(&who, &whom, &services, Demand::None(beyond));
                demand(&who, &not_whom, &[], Demand::None(Open::all()));
            }
            Verb::OnlyTheyReach => {
                demand(&who, &whom, &services, open);
                if statement.only_ports {
                    demand(&who, &whom, &services, Demand::None(beyond));
                }
                demand(&not_who, &whom, &services, Demand::None(ports));
            }
            Verb::DoesNotReach => demand(&who, &whom, &services, Demand::None(ports)),
            Verb::NothingOutsideReaches => demand(&not_who, &whom, &services, Demand::None(ports)),
        }
        if pairs == 0 {
            return Err(Problem::Vacuous);
        }
        let counterexample = against.map(|against| self.counterexample(&against));
        Ok(Outcome {
            statement: statement.text.clone(),
            file: statement.at.file().map(str::to_owned),
            line: statement.at.line().unwrap_or_default(),
            holds: counterexample.is_none(),
            pairs,
            counterexample,
        })
    }

    /// These without the members of Services that are meant: who may reach a Service may reach them.
    fn but_members(&self, mut spots: BTreeSet<Spot>, meaning: &Meaning) -> BTreeSet<Spot> {
        let members: BTreeSet<IpAddr> = meaning
            .services
            .iter()
            .flat_map(|service| &self.room.servers[service])
            .flat_map(|server| &server.members)
            .map(|member| member.address.ip())
            .collect();
        if !members.is_empty() {
            spots.retain(|(family, at)| !members.contains(&self.room.seats[*at].addresses[family]));
        }
        spots
    }

    /// Whether no rule decides between them: a pod and itself, a node and a pod on it, two addresses outside.
    fn undecided(&self, family: IpFamily, from: usize, to: usize) -> bool {
        let (source, destination) = (&self.room.seats[from], &self.room.seats[to]);
        from == to
            || (source.kind == SeatKind::Outside && destination.kind == SeatKind::Outside)
            || source.addresses.get(&family).is_some_and(|a| destination.node.contains(a))
    }

    /// Asks about every source and every destination that share a family.
    fn pods(
        &mut self,
        sources: &BTreeSet<Spot>,
        destinations: &BTreeSet<Spot>,
        demand: &Demand,
        pairs: &mut usize,
    ) -> Option<Against> {
        *pairs += self.count(sources, destinations);
        let (sources, destinations) =
            (self.alike(sources, |s| place_of(s.egress)), self.alike(destinations, |s| place_of(s.ingress)));
        for (family, from) in &sources {
            for (_, to) in destinations.iter().filter(|(other, _)| other == family) {
                let told_apart = from
                    .iter()
                    .flat_map(|from| to.iter().map(move |to| (*from, *to)))
                    .find(|(from, to)| !self.undecided(*family, *from, *to));
                let Some((from, to)) = told_apart else { continue };
                let (source, destination) = (&self.room.seats[from], &self.room.seats[to]);
                let ids =
                    (source.standing.identities.get(family), destination.standing.identities.get(family));
                let ((Some(from_id), Some(to_id)), Some(address)) = (ids, destination.addresses.get(family))
                else {
                    continue;
                };
                let (egress, ingress) = (source.standing.egress, destination.standing.ingress);
                let open = self.judge.ask(*family, egress, ingress, *from_id, *to_id);
                let inside = source.kind != SeatKind::Outside && destination.kind != SeatKind::Outside;
                if let Some(amiss) = demand.amiss(&open, inside) {
                    let (protocol, port) = amiss.pick(&destination.declared);
                    let to_address = SocketAddr::new(*address, port);
                    let (family, seat) = (*family, Some(to));
                    return Some(Against { from, family, to: to_address, seat, service: None, protocol });
                }
            }
        }
        None
    }

    /// How many pairs there are of which rules decide.
    fn count(&self, sources: &BTreeSet<Spot>, destinations: &BTreeSet<Spot>) -> usize {
        let seats = &self.room.seats;
        let mut pairs = 0;
        for family in [IpFamily::V4, IpFamily::V6] {
            let in_family = |spots: &BTreeSet<Spot>| -> Vec<usize> {
                spots.iter().filter(|(f, _)| *f == family).map(|(_, at)| *at).collect()
            };
            let (from, to) = (in_family(sources), in_family(destinations));
            let outside =
                |spots: &[usize]| spots.iter().filter(|at| seats[**at].kind == SeatKind::Outside).count();
            let both = from.iter().filter(|at| seats[**at].kind != SeatKind::Outside);
            let itself = both.filter(|at| destinations.contains(&(family, **at))).count();
            let nodes: BTreeSet<IpAddr> = from
                .iter()
                .filter(|at| seats[**at].kind == SeatKind::Node)
                .filter_map(|at| seats[*at].addresses.get(&family).copied())
                .collect();
            let on_node = to.iter().filter(|at| seats[**at].node.iter().any(|a| nodes.contains(a))).count();
            pairs += from.len() * to.len() - outside(&from) * outside(&to) - itself - on_node;
        }
        pairs
    }

    /// Positions by what the firewall knows of them.
    fn alike(
        &self,
        spots: &BTreeSet<Spot>,
        guard: impl Fn(&Standing<'_>) -> usize,
    ) -> Vec<(IpFamily, Vec<usize>)> {
        let mut at = HashMap::new();
        let mut groups: Vec<(IpFamily, Vec<usize>)> = Vec::new();
        for &(family, spot) in spots {
            let seat = &self.room.seats[spot];
            let identity = seat.standing.identities.get(&family);
            let next = groups.len();
            let key = (family, seat.kind == SeatKind::Outside, identity, guard(&seat.standing));
            let at = *at.entry(key).or_insert(next);
            if at == next {
                groups.push((family, Vec::new()));
            }
            groups[at].1.push(spot);
        }
        groups
    }

    /// Asks about a Service's ports: a connection to one of them may be sent to each of its members.
    fn service(
        &mut self,
        sources: &BTreeSet<Spot>,
        service: &str,
        demand: &Demand,
        pairs: &mut usize,
    ) -> Option<Against> {
        let room = self.room;
        for &(family, from) in sources {
            let outside = room.seats[from].kind == SeatKind::Outside;
            let asked = |s: &&ServerSpec| {
                IpFamily::of(s.address.ip()) == family && demand.asks(s.protocol, s.address.port())
            };
            let asked: Vec<&ServerSpec> = room.servers[service].iter().copied().filter(asked).collect();
            *pairs += usize::from(!asked.is_empty());
            let wanted = !matches!(demand, Demand::None(_));
            // A ClusterIP means nothing outside.
            let has_vip = asked.iter().any(|s| s.role != ServerRole::ClusterIp);
            for server in
                asked.into_iter().filter(|s| !outside || !has_vip || s.role != ServerRole::ClusterIp)
            {
                let served = !outside || has_vip;
                let active = server.members.iter().filter(|m| served && m.state == MemberState::Active);
                let active: Vec<SocketAddr> = active.map(|m| m.address).collect();
                let amiss = active
                    .iter()
                    .find(|member| self.reaches(family, from, **member, server.protocol) != wanted);
                let to = match amiss {
                    Some(member) => *member,
                    None if active.is_empty() && wanted => server.address,
                    None => continue,
                };
                let (service, protocol) = (Some(service.to_owned()), Some(server.protocol));
                return Some(Against { from, family, to, seat: room.at(to.ip()), service, protocol });
            }
        }
        None
    }

    /// Whether a member of a virtual server is reached.
    fn reaches(&mut self, family: IpFamily, from: usize, member: SocketAddr, protocol: Protocol) -> bool {
        let (source, ip) = (&self.room.seats[from], member.ip());
        let inside = source.kind != SeatKind::Outside;
        let Some(id) = source.standing.identities.get(&family) else { return false };
        let snapshot = self.room.view.snapshot;
        let to = Standing::of(snapshot, &[ip]);
        match self.room.at(ip) {
            Some(at) if self.undecided(family, from, at) => return true,
            None if !inside || !outside::is_outside(snapshot, ip) => return false,
            _ => {}
        }
        let open =
            self.judge.ask(family, source.standing.egress, to.ingress, *id, snapshot.identities.of(ip));
        // The spoof guard looks at the Service's port, not at the member's.
        real(&open, false).has(protocol, member.port())
    }

    fn counterexample(&self, against: &Against) -> Counterexample {
        let view = self.room.view;
        let source = &self.room.seats[against.from];
        let from_address = source.addresses.get(&against.family).copied().unwrap_or(against.to.ip());
        let destination = against.seat.map(|at| &self.room.seats[at]);
        let end = |seat: &Seat<'_>| match seat.name.split_once('/') {
            Some((namespace, name)) => End::Pod(Name::new(namespace, name)),
            None => End::Address(from_address),
        };
        let from = if source.kind == SeatKind::Outside { End::Address(from_address) } else { end(source) };
        // A name stands for the first address that the source has a family in common with.
        let first = |seat: &&Seat<'_>| source.addresses.len() == 1 || seat.primary == Some(against.family);
        let to = match destination.filter(first) {
            Some(seat) if seat.kind != SeatKind::Outside => end(seat),
            _ => End::Address(against.to.ip()),
        };
        let (proto, port) = match against.protocol {
            Some(protocol) => (Proto::from(protocol), Some(against.to.port())),
            None => (Proto::ICMP, None),
        };
        let mut trace = vec!["--from".to_owned(), from.to_string(), "--to".to_owned(), to.to_string()];
        match port {
            Some(port) => {
                let proto = proto.to_string().to_lowercase();
                trace.extend(["--proto".to_owned(), proto, "--port".to_owned(), port.to_string()]);
            }
            None => trace.push("--icmp".to_owned()),
        }
        let report = TraceReport::through(&Probe { from, to, proto, port }, view, 0);
        let (delivered, verdict, rules, protocol) = match report {
            Ok(report) => {
                let deciding = report.denied_by.iter().map(ToString::to_string);
                let letting = report.steps.iter().filter_map(|s| s.rule.as_ref()).map(ToString::to_string);
                let rules = if report.delivered { letting.collect() } else { deciding.collect() };
                (report.delivered, report.verdict, rules, report.protocol)
            }
            Err(e) => (false, e.to_string(), Vec::new(), proto.to_string()),
        };
        Counterexample {
            from: source.name.clone(),
            from_address: from_address.to_string(),
            to: destination.map_or_else(|| against.to.ip().to_string(), |seat| seat.name.clone()),
            to_address: against.to.ip().to_string(),
            service: against.service.clone(),
            protocol,
            port,
            delivered,
            rules,
            verdict,
            trace,
        }
    }
}

/// Whether a Service has the ports that a statement names.
fn check_ports(room: &Room<'_, '_>, statement: &Statement, service: &str) -> Result<(), Problem> {
    let Some(ports) = &statement.ports else { return Ok(()) };
    let has = room.servers[service]
        .iter()
        .fold(Open::default(), |open, s| open.or(s.protocol, (s.address.port(), s.address.port())));
    let denies = matches!(statement.verb, Verb::DoesNotReach | Verb::NothingOutsideReaches);
    let missing = ports.without(&has);
    if missing.is_empty() || (denies && !ports.and(&has).is_empty()) {
        return Ok(());
    }
    let (service, port, has) = (service.to_owned(), missing.to_string(), has.to_string());
    Err(Problem::NoServicePort { service, port, has })
}

/// What really is open: what the firewalls let pass, but port 0, which no packet is sent to, and, among workloads, the
/// ports of DHCP clients, which the spoof guard keeps.
fn real(open: &Open, inside: bool) -> Open {
    let mut closed = Open::default();
    for protocol in PROTOCOLS {
        closed = closed.or(protocol, (0, 0));
    }
    if inside {
        closed = closed.or(Protocol::Udp, (68, 68)).or(Protocol::Udp, (546, 546));
    }
    open.without(&closed)
}

impl Demand {
    /// Ports on which a pair between which this is open goes against the demand.
    fn amiss(&self, open: &Open, inside: bool) -> Option<Open> {
        let amiss = match self {
            Self::All(ports) if !ports.without(open).is_empty() => real(ports, inside).without(open),
            Self::All(_) => Open::default(),
            Self::Some if real(open, inside).is_empty() => real(&Open::all(), false),
            Self::Some => Open::default(),
            Self::None(ports) if ports.and(open).is_empty() => Open::default(),
            Self::None(ports) => real(&ports.and(open), inside),
        };
        Some(amiss).filter(|amiss| !amiss.is_empty())
    }

    /// Whether it is about a Service's port.
    fn asks(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::All(ports) | Self::None(ports) => ports.has(protocol, port),
            Self::Some => true,
        }
    }
}

/// Ports that people know, which stand for others.
const HANDSOME: [(Protocol, u16); 4] =
    [(Protocol::Tcp, 443), (Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Sctp, 80)];

impl Open {
    /// A port of these: one that a container declares, or that people know; ICMP if there is none.
    fn pick(&self, declared: &BTreeSet<(Protocol, u16)>) -> (Option<Protocol>, u16) {
        let known = declared.iter().copied().chain(HANDSOME);
        let first = self.ranges.iter().filter_map(|(protocol, ranges)| Some((*protocol, ranges.first()?.0)));
        let mut ports = known.filter(|(protocol, port)| self.has(*protocol, *port)).chain(first);
        ports.next().map_or((None, 0), |(protocol, port)| (Some(protocol), port))
    }
}
