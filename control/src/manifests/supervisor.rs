//! Kind `Supervisor` of `supernet.dev/v1alpha1`, the one kind that is Supernet's own.
//!
//! A field that is left out has the default of [`Supervisor::default`], in the families that the pod CIDRs
//! have: where they hold IPv6, the pools and the uplink get IPv6 ranges too (all but egress: pods with IPv6
//! addresses are routed, not translated, unless an IPv6 egress pool is given).

use super::{
    declared::{Declared, Meta, Scope},
    error::Problem,
    limits,
    reading::{Fields, Reading},
    schema::{self, Kind},
    syntax,
    yaml::{Node, Value},
};
use crate::model::{
    At, DefaultServer, IngressPosture, InterfaceDriver, Mac, Name, NextHop, OnInterface, Position,
    ServerBackend, StaticRoute, Supervisor, Tier1Layout, Uplink,
};
use ipnet::{IpNet, Ipv6Net};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

/// From what IPv6 asks of every link (RFC 8200, section 5) to what jumbo frames carry.
pub(super) const MTUS: RangeInclusive<u16> = 1280..=9000;

pub(super) fn read(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::SUPERVISOR);
    let spec = r.sub(&fields, "spec", &schema::SUPERVISOR_SPEC);
    let before = r.errors.len();
    let mut supervisor = Supervisor { at: r.at(node.place), ..Supervisor::default() };
    if fields.get("metadata").is_some()
        && let Some(meta) = Meta::read(r, &fields, Scope::Cluster, syntax::dns_subdomain)
    {
        supervisor.name = meta.name.name;
    }
    read_pools(r, &spec, &mut supervisor);
    read_uplinks(r, &spec, &mut supervisor);
    read_scalars(r, &spec, &mut supervisor);
    supervisor.limits = limits::read_defaults(r, &spec);
    read_server(r, &spec, "kubeAPI", &mut supervisor.kube_api);
    read_server(r, &spec, "cliTools", &mut supervisor.cli_tools);
    // Ranges that were not understood would only give rise to more errors.
    if r.errors.len() == before {
        check_overlaps(r, &supervisor);
        check_namespace_prefix(r, &spec, &supervisor);
        check_next_hops(r, &spec, &mut supervisor);
    }
    let at = supervisor.at.clone();
    if let Some(first) = &declared.supervisor {
        let object = format!("Supervisor {} (there can only be one)", supervisor.name);
        let first = first.at.clone();
        r.error(at, Problem::DuplicateObject { object, first });
        return;
    }
    declared.claim(r, Kind::Supervisor, &Name::new("", &supervisor.name), &at);
    declared.supervisor = Some(supervisor);
}

fn read_pools(r: &mut Reading, spec: &Fields<'_>, s: &mut Supervisor) {
    if let Some(pods) = pool(r, spec, "podCIDRs") {
        if let Some(node) = spec.get("podCIDRs").filter(|n| n.value == Value::List(Vec::new())) {
            r.invalid(node.place, "no pod CIDR", "give at least one, or leave podCIDRs out");
        }
        s.pod_cidrs = pods;
    }
    let has = |v4: bool| s.pod_cidrs.iter().any(|c| c.value.addr().is_ipv4() == v4);
    let (v4, v6) = (has(true), has(false));
    let v6_default = |group: u16, len: u8| v6.then(|| At::from(v6_net(group, len)));
    let suit = |pool: &mut Vec<At<IpNet>>, more: Option<At<IpNet>>| {
        if !v4 {
            pool.clear();
        }
        pool.extend(more);
    };
    suit(&mut s.service_cidrs, v6_default(1, 112));
    suit(&mut s.ingress_cidrs, v6_default(2, 112));
    suit(&mut s.egress_cidrs, None);
    suit(&mut s.node_cidrs, v6_default(3, 64));
    for (field, target) in [
        ("serviceCIDRs", &mut s.service_cidrs),
        ("ingressCIDRs", &mut s.ingress_cidrs),
        ("egressCIDRs", &mut s.egress_cidrs),
        ("nodeCIDRs", &mut s.node_cidrs),
    ] {
        if let Some(given) = pool(r, spec, field) {
            *target = given;
        }
    }
    if spec.get("uplinks").is_none() {
        for uplink in &mut s.uplinks {
            suit(&mut uplink.addresses, v6_default(4, 64).map(|net| At::from(host(net.value, 1))));
        }
    }
    if v6 && !v4 {
        s.static_routes.clear();
    }
    if v6 {
        let gateway = host(v6_net(4, 64), 0xfe).addr();
        let next_hop = NextHop { address: At::from(gateway), mac: None };
        let prefix = At::from(IpNet::V6(Ipv6Net::default()));
        s.static_routes.push(StaticRoute { prefix, next_hops: vec![next_hop] });
    }
}

/// `fd00:cafe:<group>::/<len>`, of which the IPv6 defaults are made.
fn v6_net(group: u16, len: u8) -> IpNet {
    let address = Ipv6Addr::new(0xfd00, 0xcafe, group, 0, 0, 0, 0, 0);
    Ipv6Net::new(address, len).map_or_else(|_| IpNet::V6(Ipv6Net::default()), IpNet::V6)
}

/// The address `number` of a range, with the range's length.
fn host(net: IpNet, number: u128) -> IpNet {
    match net.network() {
        IpAddr::V6(a) => {
            IpNet::new(IpAddr::V6(Ipv6Addr::from(u128::from(a) | number)), net.prefix_len()).unwrap_or(net)
        }
        IpAddr::V4(_) => net,
    }
}

fn pool(r: &mut Reading, spec: &Fields<'_>, field: &str) -> Option<Vec<At<IpNet>>> {
    spec.get(field)?;
    let mut pool = Vec::new();
    for node in r.short_list(spec, field, 256) {
        if let Some(net) = prefix(r, node) {
            if let Some(why) = unusable(net) {
                r.invalid(
                    node.place,
                    format!("{net} cannot be a pool: {why}"),
                    "use a range of unicast addresses",
                );
            }
            pool.push(At::new(net, r.at(node.place)));
        }
    }
    Some(pool)
}

/// Why a range cannot be dealt out to hosts, if it cannot.
fn unusable(net: IpNet) -> Option<String> {
    let v4 = |a, b, len| IpNet::new(IpAddr::from([a, b, 0, 0]), len);
    let v6 = |first, sixth, last, len| IpNet::new(IpAddr::from([first, 0, 0, 0, 0, sixth, 0, last]), len);
    let special = [
        (v4(0, 0, 8), "for no host"),
        (v4(127, 0, 8), "for loopback"),
        (v4(169, 254, 16), "for single links"),
        (v4(224, 0, 4), "for multicast"),
        (v4(240, 0, 4), "reserved"),
        (v6(0, 0, 0, 128), "for no host"),
        (v6(0, 0, 1, 128), "for loopback"),
        (v6(0, 0xffff, 0, 96), "for IPv4 in the form of IPv6"),
        (v6(0xfe80, 0, 0, 10), "for single links"),
        (v6(0xff00, 0, 0, 8), "for multicast"),
    ];
    special.into_iter().find_map(|(range, what)| {
        let range = range.ok()?;
        if range.contains(&net) {
            Some(format!("{range} is {what}"))
        } else {
            net.contains(&range).then(|| format!("it holds {range}, which is {what}"))
        }
    })
}

/// A CIDR without host bits.
fn prefix(r: &mut Reading, node: &Node) -> Option<IpNet> {
    let net = r.cidr(node)?;
    if net != net.trunc() {
        let what = format!("{net} has bits beyond its prefix length");
        r.invalid(node.place, what, format!("write {}", net.trunc()));
        return None;
    }
    Some(net)
}

fn read_uplinks(r: &mut Reading, spec: &Fields<'_>, s: &mut Supervisor) {
    if spec.get("uplinks").is_some() {
        s.uplinks.clear();
        for node in r.short_list(spec, "uplinks", 64) {
            let fields = r.fields(node, &schema::UPLINK);
            let name =
                r.required(&fields, "name").and_then(|n| r.checked_text(n, "a name", syntax::dns_label));
            let addresses = uplink_addresses(r, &fields);
            let (mac, mtu, interface) = (mac(r, &fields), mtu(r, &fields), on_interface(r, &fields));
            let Some(name) = name else { continue };
            if s.uplinks.iter().any(|u| u.name == name) {
                r.invalid(node.place, format!("two uplinks are named `{name}`"), "give each its own name");
            }
            let on = |u: &Uplink| u.interface.as_ref().map(|i| i.name.value.clone());
            if let Some(interface) = &interface
                && let Some(other) = s.uplinks.iter().find(|u| on(u).as_ref() == Some(&interface.name.value))
            {
                let what = format!("uplink {} is on interface {} already", other.name, interface.name.value);
                let advice = "give each its own; one uplink has an address of each family".to_owned();
                r.error(interface.name.at.clone(), Problem::Invalid { what, advice });
            }
            for address in &addresses {
                let has_it = |u: &&Uplink| u.addresses.iter().any(|a| a.value.addr() == address.value.addr());
                if let Some(other) = s.uplinks.iter().find(has_it) {
                    let what =
                        format!("uplink {} already has the address {}", other.name, address.value.addr());
                    let problem = Problem::Invalid { what, advice: "give each its own".to_owned() };
                    r.error(address.at.clone(), problem);
                }
            }
            s.uplinks.push(Uplink { name: name.to_owned(), addresses, mac, mtu, interface });
        }
    }
    if spec.get("staticRoutes").is_some() {
        s.static_routes.clear();
        for node in r.list(spec, "staticRoutes") {
            let fields = r.fields(node, &schema::STATIC_ROUTE);
            let prefix_node = r.required(&fields, "prefix");
            let prefix = prefix_node.and_then(|n| prefix(r, n).map(|net| At::new(net, r.at(n.place))));
            let hops = r.required(&fields, "nextHops").map_or(&[][..], |n| r.items(n));
            if hops.is_empty() && fields.get("nextHops").is_some() {
                r.invalid(node.place, "a route without next hops", "give at least one");
            }
            let next_hops = hops.iter().filter_map(|n| next_hop(r, n)).collect();
            s.static_routes.extend(prefix.map(|prefix| StaticRoute { prefix, next_hops }));
        }
    }
}

fn on_interface(r: &mut Reading, uplink: &Fields<'_>) -> Option<OnInterface> {
    let drivers = [("packet", InterfaceDriver::Packet), ("xdp", InterfaceDriver::Xdp)];
    let driver = uplink.get("driver").and_then(|n| r.word(n, &drivers));
    let Some(node) = uplink.get("interface") else {
        if let Some(node) = uplink.get("driver") {
            let what = "the driver of an interface, but no interface";
            r.invalid(node.place, what, "name the interface: `interface: eth1`");
        }
        return None;
    };
    let name = r.checked_text(node, "an interface's name", syntax::interface)?;
    Some(OnInterface { name: At::new(name.to_owned(), r.at(node.place)), driver: driver.unwrap_or_default() })
}

fn uplink_addresses(r: &mut Reading, uplink: &Fields<'_>) -> Vec<At<IpNet>> {
    let mut addresses: Vec<At<IpNet>> = Vec::new();
    let list = r.required(uplink, "addresses").map_or(&[][..], |n| r.items(n));
    if list.is_empty() && uplink.get("addresses").is_some() {
        r.invalid(uplink.place, "an uplink without addresses", "give it one, with the length of its prefix");
    }
    for node in list {
        let Some(net) = r.cidr(node) else { continue };
        let longest = net.max_prefix_len();
        if net.prefix_len() < longest - 1 && net.addr() == net.network() {
            let what = format!("{net} is a range, not the address of the uplink");
            r.invalid(node.place, what, format!("write its address, {}/{} say", next(net), net.prefix_len()));
        } else if is_for_all(&net, net.addr()) {
            let what = format!("{} is the broadcast address of {}", net.addr(), net.trunc());
            r.invalid(node.place, what, format!("write its address, {}/{} say", next(net), net.prefix_len()));
        } else if addresses.iter().any(|a| a.value.addr().is_ipv4() == net.addr().is_ipv4()) {
            r.invalid(node.place, "two addresses of one family", "give an uplink at most one a family");
        } else {
            addresses.push(At::new(net, r.at(node.place)));
        }
    }
    addresses
}

/// Whether an address is that of a link itself, or of all on it.
fn is_for_all(net: &IpNet, address: IpAddr) -> bool {
    let is_link = net.addr().is_ipv4() && net.prefix_len() < 31;
    is_link && (address == net.network() || address == net.broadcast())
}

fn next(net: IpNet) -> IpAddr {
    net.hosts().next().unwrap_or_else(|| net.addr())
}

fn next_hop(r: &mut Reading, node: &Node) -> Option<NextHop> {
    match &node.value {
        Value::Map(_) => {
            let fields = r.fields(node, &schema::NEXT_HOP);
            let address = r.required(&fields, "address").and_then(|n| r.address(n));
            let mac = mac(r, &fields);
            Some(NextHop { address: address?, mac })
        }
        _ => r.address(node).map(|address| NextHop { address, mac: None }),
    }
}

fn mac(r: &mut Reading, fields: &Fields<'_>) -> Option<Mac> {
    let node = fields.get("mac")?;
    let text = r.text(node)?;
    let mac = text.parse::<Mac>().ok().filter(|m| m.0[0] & 1 == 0 && m.0 != [0; 6]);
    if mac.is_none() {
        let advice = "write one like 02:00:00:00:00:01";
        r.invalid(node.place, format!("`{text}` is not the MAC address of one interface"), advice);
    }
    mac
}

fn mtu(r: &mut Reading, fields: &Fields<'_>) -> Option<u16> {
    let n = r.integer(fields.get("mtu")?, i64::from(*MTUS.start())..=i64::from(*MTUS.end()))?;
    u16::try_from(n).ok()
}

fn read_scalars(r: &mut Reading, spec: &Fields<'_>, s: &mut Supervisor) {
    if let Some(n) = spec.get("namespacePrefixLength").and_then(|n| r.integer(n, 1..=30)) {
        s.namespace_prefix = u8::try_from(n).unwrap_or(s.namespace_prefix);
    }
    if let Some(n) = spec.get("nodes").and_then(|n| r.integer(n, 1..=10_000)) {
        s.node_count = u32::try_from(n).unwrap_or(s.node_count);
    }
    s.mtu = mtu(r, spec).unwrap_or(s.mtu);
    s.mss_clamping = r.bool_of(spec, "mssClamping").unwrap_or(s.mss_clamping);
    s.strict_tcp = r.bool_of(spec, "strictTCP").unwrap_or(s.strict_tcp);
    let layouts = [("shared", Tier1Layout::Shared), ("perNamespace", Tier1Layout::PerNamespace)];
    s.tier1 = spec.get("tier1").and_then(|n| r.word(n, &layouts)).unwrap_or(s.tier1);
    let postures = [
        ("deny", IngressPosture::Deny),
        ("allowNamespace", IngressPosture::AllowNamespace),
        ("allowCluster", IngressPosture::AllowCluster),
        ("allow", IngressPosture::Allow),
    ];
    let posture = spec.get("ingressPosture").and_then(|n| r.word(n, &postures));
    s.ingress_posture = posture.unwrap_or(s.ingress_posture);
}

fn read_server(r: &mut Reading, spec: &Fields<'_>, field: &str, server: &mut DefaultServer) {
    let fields = r.sub(spec, field, &schema::DEFAULT_SERVER);
    server.port = fields.get("port").and_then(|n| r.port(n)).unwrap_or(server.port);
    server.address = fields.get("address").and_then(|n| r.address(n));
    for node in r.short_list(&fields, "backends", 256) {
        if let Some(backend) = backend(r, node) {
            server.backends.push(At::new(backend, r.at(node.place)));
        }
    }
}

fn backend(r: &mut Reading, node: &Node) -> Option<ServerBackend> {
    if let Value::Map(_) = node.value {
        let fields = r.fields(node, &schema::POD_BACKEND);
        let port = r.required(&fields, "port").and_then(|n| r.port(n));
        let pod_node = r.required(&fields, "pod")?;
        let text = r.text(pod_node)?;
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if syntax::dns_label(namespace).is_err() || syntax::dns_subdomain(name).is_err() {
            let what = format!("`{text}` is not the name of a pod");
            r.invalid(pod_node.place, what, "write NAMESPACE/NAME");
            return None;
        }
        return Some(ServerBackend::Pod(Name::new(namespace, name), port?));
    }
    let text = r.text(node)?;
    let parsed = text.parse::<SocketAddr>().ok().filter(|a| a.port() != 0);
    if parsed.is_none() {
        let advice = "write 10.0.0.1:6443, [fd00::1]:6443 or {pod: NAMESPACE/NAME, port: 6443}";
        r.invalid(node.place, format!("`{text}` is not an address with a port"), advice);
    }
    parsed.map(ServerBackend::Address)
}

fn check_overlaps(r: &mut Reading, s: &Supervisor) {
    let pools = [
        ("podCIDRs", &s.pod_cidrs),
        ("serviceCIDRs", &s.service_cidrs),
        ("ingressCIDRs", &s.ingress_cidrs),
        ("egressCIDRs", &s.egress_cidrs),
        ("nodeCIDRs", &s.node_cidrs),
    ];
    let mut ranges: Vec<(String, IpNet, &Position)> = Vec::new();
    for (name, pool) in pools {
        ranges.extend(pool.iter().map(|net| (format!("{name} {}", net.value), net.value, &net.at)));
    }
    let first_uplink = ranges.len();
    for uplink in &s.uplinks {
        let of = |net: &IpNet| format!("the prefix {} of uplink {}", net.trunc(), uplink.name);
        ranges.extend(uplink.addresses.iter().map(|net| (of(&net.value), net.value.trunc(), &net.at)));
    }
    for (i, (name, net, at)) in ranges.iter().enumerate() {
        for (j, (other_name, other, other_at)) in ranges[..i].iter().enumerate() {
            // Uplinks may share a network, as edges behind one pair of routers do.
            let one_network = j >= first_uplink && net == other;
            if one_network || !net.contains(other) && !other.contains(net) {
                continue;
            }
            // The error stands where something was written; a default is never wrong on its own.
            let ((this, at), (other, other_at)) = if at.file().is_some() {
                ((name, at), (other_name, other_at))
            } else {
                ((other_name, other_at), (name, at))
            };
            let other_place =
                if other_at.file().is_some() { other_at.to_string() } else { "the default".to_owned() };
            let problem = Problem::Overlap { this: this.clone(), other: other.clone(), other_place };
            r.error((*at).clone(), problem);
        }
    }
}

fn check_namespace_prefix(r: &mut Reading, spec: &Fields<'_>, s: &Supervisor) {
    for net in &s.pod_cidrs {
        let (longest, what) = match net.value {
            IpNet::V4(_) => (s.namespace_prefix, "a namespace's block"),
            IpNet::V6(_) => (64, "a segment's IPv6 prefix"),
        };
        if net.value.prefix_len() > longest {
            let at = if net.at.file().is_some() {
                net.at.clone()
            } else {
                r.at(spec.get("namespacePrefixLength").map_or(spec.place, |n| n.place))
            };
            let what = format!("pod CIDR {} is smaller than {what}, /{longest}", net.value);
            r.error(at, Problem::Invalid { what, advice: "use a larger range".to_owned() });
        }
    }
}

/// Next hops lie in the prefix of an uplink. Default routes that do not fit the uplinks are dropped.
fn check_next_hops(r: &mut Reading, spec: &Fields<'_>, s: &mut Supervisor) {
    let connected: Vec<IpNet> = s.uplinks.iter().flat_map(|u| &u.addresses).map(|a| a.value).collect();
    let reached = |hop: &NextHop| connected.iter().any(|net| net.contains(&hop.address.value));
    if spec.get("staticRoutes").is_none() {
        s.static_routes.retain(|route| route.next_hops.iter().all(reached));
        if s.static_routes.is_empty()
            && let Some(node) = spec.get("uplinks")
        {
            let text = if s.uplinks.is_empty() {
                "no uplinks: nothing leaves the network, and nothing enters it"
            } else {
                "uplinks without staticRoutes: only their own prefixes can be reached; add a default route"
            };
            r.remark(node.place, text);
        }
        return;
    }
    for route in &s.static_routes {
        for hop in &route.next_hops {
            let address = hop.address.value;
            let problem = if address.is_ipv4() != route.prefix.value.addr().is_ipv4() {
                Some((
                    format!("next hop {address} is not of the family of {}", route.prefix.value),
                    "use one that is",
                ))
            } else if !reached(hop) {
                let what = format!("next hop {address} lies in no uplink's prefix");
                Some((what, "use a neighbour of an uplink, or give that uplink an address in its prefix"))
            } else if connected.iter().any(|net| net.addr() == address) {
                Some((format!("next hop {address} is an uplink's own address"), "use that of the neighbour"))
            } else if connected.iter().any(|net| is_for_all(net, address)) {
                Some((
                    format!("next hop {address} is a network or broadcast address"),
                    "use that of a neighbour",
                ))
            } else {
                None
            };
            if let Some((what, advice)) = problem {
                r.error(hop.address.at.clone(), Problem::Invalid { what, advice: advice.to_owned() });
            }
        }
    }
}
