//! Services before and after: what listens, and to whom it leads. Whether a client gets there is what rows say of the
//! client and the pods behind.

use super::{EndState, ServiceChange};
use crate::{
    analysis::{ends::server_name, view::View},
    compile::{MemberState, ServerRole},
    model::IpFamily,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Services that are new, gone, or lead elsewhere.
pub(super) fn compare(sides: [&View<'_>; 2]) -> Vec<ServiceChange> {
    let [before, after] = sides.map(listening);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let sides = [before.get(name), after.get(name)];
        let state = match sides {
            [None, _] => EndState::New,
            [_, None] => EndState::Gone,
            [was, is] if was == is => continue,
            _ => EndState::Stays,
        };
        let [before, after] =
            sides.map(|lines| lines.map(|l| l.iter().cloned().collect()).unwrap_or_default());
        changes.push(ServiceChange { name: name.clone(), state, before, after });
    }
    changes
}

/// By Service, its ports with whom they lead to: "TCP 80 to shop/web 8080".
fn listening(view: &View<'_>) -> BTreeMap<String, BTreeSet<String>> {
    let mut having: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (name, place) in view.places.pods.iter().filter(|(_, p)| p.segment.is_some()) {
        let owner = place.pod.owner.as_deref().and_then(|o| o.rsplit('/').next()).unwrap_or(&name.name);
        having.extend(place.addresses.iter().map(|a| (*a, format!("{}/{owner}", name.namespace))));
    }
    for (name, addresses) in &view.addressing.nodes {
        having.extend(addresses.iter().map(|a| (*a, format!("node/{name}"))));
    }
    let mut services: BTreeMap<String, BTreeMap<String, BTreeSet<IpFamily>>> = BTreeMap::new();
    for server in &view.servers {
        let members: BTreeSet<String> = server
            .members
            .iter()
            .filter(|m| m.state == MemberState::Active)
            .map(|m| {
                let who = having.get(&m.address.ip()).cloned().unwrap_or_else(|| m.address.ip().to_string());
                format!("{who} {}", m.address.port())
            })
            .collect();
        let to = if members.is_empty() {
            "nobody".to_owned()
        } else {
            crate::analysis::text::join(members.iter(), ", ")
        };
        let at = if server.role == ServerRole::ClusterIp { "" } else { " from outside too" };
        let line = format!("{} {}{at} to {to}", server.protocol, server.address.port());
        let family = IpFamily::of(server.address.ip());
        services.entry(server_name(server)).or_default().entry(line).or_default().insert(family);
    }
    let words = |lines: BTreeMap<String, BTreeSet<IpFamily>>| {
        let families: BTreeSet<IpFamily> = lines.values().flatten().copied().collect();
        let line = |(line, of): (String, BTreeSet<IpFamily>)| match of.first() {
            Some(IpFamily::V4) if of != families => format!("{line} (only IPv4)"),
            Some(IpFamily::V6) if of != families => format!("{line} (only IPv6)"),
            _ => line,
        };
        lines.into_iter().map(line).collect()
    };
    services.into_iter().map(|(name, lines)| (name, words(lines))).collect()
}
