//! What pictures say, in any format: labels, counts, and the details that a tooltip has.
//!
//! Everything that is returned went through [`clean`], and is still to be escaped.

use super::text::clean;
use std::{fmt::Display, net::SocketAddr};
use supernet_control::analysis::{
    plan::{RoutePlan, VirtualServerKind},
    topology::{
        Counts, End, Folded, Lead, LeadTo, Listen, Open, Outside, Segment, Server, Tier1, Topology, Uplink,
    },
};

/// Lines of a tooltip before the rest is only counted.
const MOST: usize = 24;

/// The picture's title.
pub(super) const TITLE: &str = "Network topology";

/// "1 pod", "3 policies", "2 addresses".
pub(super) fn number(n: usize, one: &str) -> String {
    match one.strip_suffix("cy") {
        _ if n == 1 => format!("1 {one}"),
        Some(stem) => format!("{n} {stem}cies"),
        None if one.ends_with(['s', 'x']) => format!("{n} {one}es"),
        None => format!("{n} {one}s"),
    }
}

/// "42 pods, 3 services, 7 policies".
pub(super) fn counts(c: Counts) -> String {
    let policies = (c.policies > 0).then(|| number(c.policies, "policy"));
    let services = (c.services > 0).then(|| number(c.services, "service"));
    [Some(number(c.pods, "pod")), services, policies].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Everything in one sentence, for those who cannot see the picture.
pub(super) fn description(t: &Topology) -> String {
    let (namespaces, folded) = t.namespaces;
    let gateways: usize = t.tier1s.iter().map(|t| t.names.len()).sum();
    let mut text = format!(
        "{}, {}, {}; {}, {}.",
        number(namespaces, "namespace"),
        counts(t.totals),
        number(t.totals.nodes, "node"),
        number(gateways, "Tier-1 gateway"),
        number(t.uplinks.len(), "uplink"),
    );
    match folded {
        0 => {}
        n if n == namespaces => text.push_str(" Namespaces are folded."),
        1 => text.push_str(" One namespace is folded."),
        n => text.push_str(&format!(" {n} namespaces are folded.")),
    }
    text
}

/// What the outside is told, in short.
pub(super) fn learns(outside: &Outside) -> String {
    let of = |kind: &str| outside.learns.iter().filter(|r| r.kind == kind).count();
    let kinds = [("LB_VIP", "VIP"), ("NAT", "SNAT address"), ("CONNECTED", "prefix")];
    let parts = kinds.iter().filter(|(kind, _)| of(kind) > 0).map(|(kind, one)| number(of(kind), one));
    match parts.collect::<Vec<_>>().join(", ") {
        parts if parts.is_empty() => "learns no routes".to_owned(),
        parts => format!("learns {parts}"),
    }
}

/// "0.0.0.0/0 via 192.168.100.254".
pub(super) fn route(route: &RoutePlan) -> String {
    match route.next_hops.as_slice() {
        [] => route.prefix.to_string(),
        hops => format!("{} via {}", route.prefix, all(hops)),
    }
}

/// "Tier-1 tier1", or how many there are.
pub(super) fn tier1(tier1: &Tier1) -> String {
    match tier1.names.as_slice() {
        [name] => clean(name),
        names => format!("{} more", names.len()),
    }
}

/// What an open area is called.
pub(super) fn area(open: &Open) -> String {
    open.namespace.as_deref().map_or_else(|| "Nodes".to_owned(), clean)
}

/// What an open area has.
pub(super) fn area_counts(open: &Open) -> String {
    match open.namespace {
        Some(_) => counts(open.counts),
        None => {
            format!("{}, {}", number(open.counts.nodes, "node"), number(open.servers.len(), "default server"))
        }
    }
}

/// "SNAT 192.168.90.1"; nothing where there are no pods.
pub(super) fn snat(open: &Open) -> String {
    match (&open.namespace, open.snat.as_slice()) {
        (None, _) => String::new(),
        (Some(_), []) if open.counts.pods == 0 => String::new(),
        (Some(_), []) => "no SNAT".to_owned(),
        (Some(_), some) => format!("SNAT {}", all(some)),
    }
}

/// What folded namespaces are called.
pub(super) fn folded(folded: &Folded) -> String {
    match folded.namespaces.as_slice() {
        [] => "Nodes".to_owned(),
        [name] => clean(name),
        names => format!("{} other namespaces", names.len()),
    }
}

/// What folded namespaces have, a line each.
pub(super) fn folded_lines(folded: &Folded) -> Vec<String> {
    let mut lines = vec![match folded.namespaces.as_slice() {
        [] => number(folded.counts.nodes, "node"),
        _ => counts(folded.counts),
    }];
    lines.extend(first("", &folded.blocks));
    lines.extend(first("SNAT ", &folded.snat));
    lines.extend(first("VIP ", &folded.vips));
    lines
}

fn first(what: &str, items: &[impl Display]) -> Option<String> {
    match items {
        [] => None,
        [one] => Some(format!("{what}{one}")),
        [one, rest @ ..] => Some(format!("{what}{one} and {} more", rest.len())),
    }
}

/// A segment's blocks with their gateways.
pub(super) fn blocks(segment: &Segment) -> Vec<String> {
    let pairs = segment.blocks.iter().zip(&segment.gateways);
    pairs.map(|(block, gateway)| format!("{block}, gateway {gateway}")).collect()
}

/// "ClusterIP" or "VIP".
pub(super) fn kind(listen: &Listen) -> &'static str {
    match listen.kind {
        VirtualServerKind::ClusterIP => "ClusterIP",
        VirtualServerKind::LoadBalancer | VirtualServerKind::KubeAPI | VirtualServerKind::CLITools => "VIP",
    }
}

/// "10.96.0.1:80/TCP".
pub(super) fn listen(listen: &Listen) -> String {
    format!("{}/{}", SocketAddr::new(listen.address, listen.port), listen.protocol)
}

/// "to 3 pods, port 8080", or that nobody serves.
pub(super) fn leads(server: &Server) -> Vec<String> {
    if server.leads.is_empty() {
        return vec!["to nobody: refused".to_owned()];
    }
    server.leads.iter().map(lead).collect()
}

fn lead(lead: &Lead) -> String {
    let whom = match lead.to {
        LeadTo::Pods => number(lead.names.len(), "pod"),
        LeadTo::Nodes => number(lead.names.len(), "node"),
        LeadTo::Outside => format!("{} outside", number(lead.names.len(), "address")),
    };
    let ports = lead.ports.iter().map(u16::to_string).collect::<Vec<_>>();
    let ports = match ports.as_slice() {
        [one] => format!("port {one}"),
        many if many.len() > 3 => format!("{} ports", many.len()),
        many => format!("ports {}", many.join(", ")),
    };
    let idle = if lead.idle == 0 { String::new() } else { format!(", {} not taking new ones", lead.idle) };
    format!("to {whom}, {ports}{idle}")
}

/// Details of the outside.
pub(super) fn outside_tip(outside: &Outside) -> Vec<String> {
    let routes = outside.learns.iter().map(|r| format!("{} {} {}", r.prefix, r.kind, clean(&r.owner)));
    tip("Outside".to_owned(), routes)
}

/// Details of an uplink.
pub(super) fn uplink_tip(uplink: &Uplink) -> Vec<String> {
    let addresses = uplink.addresses.iter().map(ToString::to_string);
    tip(clean(&uplink.name), addresses.chain([format!("MAC {}", clean(&uplink.mac))]))
}

/// Details of the Tier-0.
pub(super) fn tier0_tip(routes: &[RoutePlan]) -> Vec<String> {
    tip("Tier-0".to_owned(), routes.iter().map(route))
}

/// Details of a Tier-1.
pub(super) fn tier1_tip(tier1: &Tier1) -> Vec<String> {
    tip("Tier-1".to_owned(), tier1.names.iter().map(|n| clean(n)))
}

/// Details of a namespace, or of the nodes.
pub(super) fn area_tip(open: &Open) -> Vec<String> {
    let snat = Some(snat(open)).filter(|s| !s.is_empty());
    let policies = open.policies.iter().map(|p| format!("policy {}", clean(p)));
    tip(area(open), [area_counts(open)].into_iter().chain(snat).chain(policies))
}

/// Details of folded namespaces.
pub(super) fn folded_tip(it: &Folded) -> Vec<String> {
    let names = it.namespaces.iter().filter(|_| it.namespaces.len() > 1).map(|n| clean(n));
    let blocks = it.blocks.iter().map(ToString::to_string);
    let snat = it.snat.iter().map(|a| format!("SNAT {a}"));
    let vips = it.vips.iter().map(|a| format!("VIP {a}"));
    let counts = folded_lines(it).into_iter().take(1);
    tip(folded(it), counts.chain(names).chain(blocks).chain(snat).chain(vips))
}

/// Details of a segment.
pub(super) fn segment_tip(segment: &Segment) -> Vec<String> {
    let free = segment.free.map(|n| format!("{} free", number(n, "address")));
    tip(clean(&segment.name), blocks(segment).into_iter().chain(free))
}

/// Details of a virtual server.
pub(super) fn server_tip(server: &Server) -> Vec<String> {
    let listens = server.listens.iter().map(|l| format!("{} {}", kind(l), listen(l)));
    let members = server.members.iter().map(|m| {
        let address = SocketAddr::new(m.address, m.port);
        let pod = m.pod.as_deref().map(|p| format!(" {}", clean(p))).unwrap_or_default();
        let state = match m.state {
            "active" => String::new(),
            state => format!(" ({state})"),
        };
        format!("to {address}{pod}{state}")
    });
    tip(clean(&server.name), listens.chain(members))
}

/// Details of a pod or a node.
pub(super) fn end_tip(end: &End) -> Vec<String> {
    let workload = end.workload.iter().map(|w| clean(w));
    let node = end.node.iter().map(|n| format!("on {}", clean(n)));
    let addresses = end.addresses.iter().map(ToString::to_string);
    let guests = end.guests.iter().map(|p| format!("host network: {}", clean(p)));
    let mac = [format!("MAC {}", clean(&end.mac))];
    tip(clean(&end.name), workload.chain(node).chain(addresses).chain(mac).chain(guests))
}

fn tip(title: String, details: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines = vec![title];
    lines.extend(details);
    if lines.len() > MOST + 1 {
        let more = lines.len() - MOST;
        lines.truncate(MOST);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn all(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
