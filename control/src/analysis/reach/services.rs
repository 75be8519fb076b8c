//! Services as destinations: what of a virtual server's ports leads to members that a source reaches.

use super::{Answers, End, EndKind, Row, family_name, ranges};
use crate::{
    analysis::{
        ends::{endpoint, server_name},
        fold::Fold,
        judge::Judge,
        open::Open,
    },
    compile::{Member, MemberState, ServerRole, ServerSpec},
    model::{IpFamily, Protocol},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
};
use supernet_dataplane::snapshot::Snapshot;

/// Virtual servers by the name of their Service, in the order in which they are given.
pub(super) fn by_name(servers: &[ServerSpec]) -> Vec<(String, Vec<&ServerSpec>)> {
    let mut services: Vec<(String, Vec<&ServerSpec>)> = Vec::new();
    let mut at: HashMap<String, usize> = HashMap::new();
    for server in servers {
        match at.entry(server_name(server)) {
            Entry::Occupied(at) => services[*at.get()].1.push(server),
            Entry::Vacant(free) => {
                services.push((free.key().clone(), vec![server]));
                free.insert(services.len() - 1);
            }
        }
    }
    services
}

/// A Service as destination: its ports that lead to a member this source reaches.
pub(super) fn answers<'a>(
    servers: &[&ServerSpec],
    ends: &[End<'a>],
    sources: &[Vec<usize>],
    around: impl Fn(usize) -> Option<usize>,
    snapshot: &'a Snapshot,
    judge: &mut Judge<'a>,
) -> Answers {
    let mut answers = Fold::default();
    for from in sources {
        let open = open_service(&ends[from[0]], servers, snapshot, judge);
        let range = around(from[0]);
        if let Some(wide) = range {
            let wide = open_service(&ends[wide], servers, snapshot, judge);
            if open.iter().all(|(family, ports)| wide.get(family) == Some(ports)) {
                continue;
            }
        }
        for row in rows(open, range.is_some()) {
            answers.add(row, from);
        }
    }
    answers
}

/// Open ports of a Service, by how many of their members stay out of reach.
type ByUnreached = BTreeMap<usize, Open>;

/// What a Service offers a source, in each family that both have.
fn open_service<'a>(
    source: &End<'a>,
    servers: &[&ServerSpec],
    snapshot: &'a Snapshot,
    judge: &mut Judge<'a>,
) -> BTreeMap<IpFamily, ByUnreached> {
    let outside = source.info.kind == EndKind::Outside;
    // A Service may have the same port at several addresses.
    let mut unreached: BTreeMap<IpFamily, BTreeMap<(Protocol, u16), BTreeSet<IpAddr>>> = BTreeMap::new();
    for server in servers.iter().filter(|s| !outside || s.role != ServerRole::ClusterIp) {
        let family = IpFamily::of(server.address.ip());
        let Some(&from) = source.standing.identities.get(&family) else { continue };
        let in_family = unreached.entry(family).or_default();
        let proto = server.protocol;
        let active = server.members.iter().filter(|m| m.state == MemberState::Active);
        let (reached, not): (Vec<&Member>, Vec<&Member>) = active.partition(|member| {
            let ip = member.address.ip();
            let ingress = endpoint(snapshot, &[ip]).and_then(|p| p.ingress.as_deref());
            judge
                .ask(family, source.standing.egress, ingress, from, snapshot.identities.of(ip))
                .has(proto, member.address.port())
        });
        if !reached.is_empty() {
            let port = in_family.entry((proto, server.address.port())).or_default();
            port.extend(not.iter().map(|m| m.address.ip()));
        }
    }
    let by_unreached = |ports: BTreeMap<(Protocol, u16), BTreeSet<IpAddr>>| {
        let mut all = ByUnreached::new();
        for ((protocol, port), members) in ports {
            let open = all.entry(members.len()).or_default();
            open.ranges.entry(protocol).or_default().push((port, port));
        }
        all
    };
    unreached.into_iter().map(|(family, ports)| (family, by_unreached(ports))).collect()
}

/// Rows still without names: one for all ports that as many members stay away from; `none` only if that has to be told.
fn rows(by_family: BTreeMap<IpFamily, ByUnreached>, tell_closed: bool) -> Vec<Row> {
    let mut different: Vec<(Option<IpFamily>, ByUnreached)> =
        by_family.into_iter().map(|(family, ports)| (Some(family), ports)).collect();
    different.dedup_by(|b, a| a.1 == b.1);
    if let [(family, _)] = &mut different[..] {
        *family = None;
    }
    let mut rows = Vec::new();
    for (family, mut ports) in different {
        if ports.is_empty() && tell_closed {
            ports.insert(0, Open::default());
        }
        rows.extend(ports.into_iter().map(|(unreached, open)| Row {
            sources: Vec::new(),
            destinations: Vec::new(),
            family: family.map(family_name),
            ports: open.to_string(),
            undeclared: None,
            everything: false,
            allowed: ranges(&open),
            unreached_members: Some(unreached).filter(|n| *n > 0),
        }));
    }
    rows
}
