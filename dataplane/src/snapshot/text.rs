//! A snapshot as text: names instead of numbers, sorted, so that equal networks print alike.

use super::{Names, PortRole, Snapshot};
use crate::{
    flow::ConnectionLimits,
    id::{NamespaceId, PortId, RuleId},
    table::{
        classifier::{Action, Decision, Effect, Peers},
        firewall::Firewall,
    },
};
use foldhash::HashMap;
use std::{collections::BTreeSet, fmt, hash::Hash, net::SocketAddr};

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "snapshot {:?}", self.generation)?;
        for section in [self.segment_lines(), self.namespace_lines(), self.port_lines()] {
            section.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        for section in [self.server_lines(), self.route_lines(), self.identity_lines(), self.limit_lines()] {
            section.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        if self.clamp_mss {
            writeln!(f, "clamps maximum segment sizes")?;
        }
        let owned: BTreeSet<String> = self.owned.iter().map(|(range, ())| format!("owned {range}")).collect();
        owned.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Snapshot {
    fn segment_lines(&self) -> BTreeSet<String> {
        let line = |s: &super::Segment| {
            let tier1 = called(&self.names.tier1s, &s.tier1);
            let v4 = s.gateway_v4.map_or_else(String::new, |n| format!(" {n}"));
            let v6 = s.prefix_v6.map_or_else(String::new, |n| format!(" {n}"));
            format!("segment {} on {tier1}{v4}{v6} mtu {}", called(&self.names.segments, &s.id), s.mtu)
        };
        self.segments.iter().flatten().map(|s| line(s)).collect()
    }

    fn namespace_lines(&self) -> BTreeSet<String> {
        let line = |n: &super::Namespace| {
            let v4 = n.egress_v4.map_or_else(String::new, |a| format!(" {a}"));
            let v6 = n.egress_v6.map_or_else(String::new, |a| format!(" {a}"));
            format!("namespace {} snat{v4}{v6}", called(&self.names.namespaces, &n.id))
        };
        self.namespaces.iter().flatten().map(|n| line(n)).collect()
    }

    fn port_lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for port in self.ports.iter().flatten() {
            let name = called(&self.names.ports, &port.id);
            match &port.role {
                PortRole::Endpoint(e) => {
                    let segment = called(&self.names.segments, &e.segment);
                    let addresses: Vec<String> = e.addresses.iter().map(ToString::to_string).collect();
                    let addresses = addresses.join(" ");
                    lines.insert(format!(
                        "port {name} {} in {segment} {addresses} mtu {}",
                        port.mac, port.mtu
                    ));
                    let staged = e.staged.as_deref();
                    for (direction, rules) in [
                        ("egress", e.egress.as_ref()),
                        ("ingress", e.ingress.as_ref()),
                        ("staged egress", staged.map(|s| &s.egress)),
                        ("staged ingress", staged.map(|s| &s.ingress)),
                    ] {
                        if let Some(rules) = rules {
                            lines
                                .insert(format!("port {name} {direction} {}", rule_line(&self.names, rules)));
                        }
                    }
                }
                PortRole::Uplink(u) => {
                    let addresses: Vec<String> = u.addresses.iter().map(ToString::to_string).collect();
                    let addresses = addresses.join(" ");
                    lines.insert(format!("port {name} {} uplink {addresses} mtu {}", port.mac, port.mtu));
                }
            }
        }
        lines
    }

    fn server_lines(&self) -> BTreeSet<String> {
        let line = |s: &super::VirtualServer| {
            let members = |m: &[SocketAddr]| m.iter().map(|m| format!(" {m}")).collect::<String>();
            let name = called(&self.names.servers, &s.id);
            let (active, draining) = (members(&s.active), members(&s.draining));
            let at = SocketAddr::new(s.address, s.port);
            format!("server {name} {:?} {at}/{} active{active} draining{draining}", s.kind, s.proto)
        };
        self.servers.listening.values().map(|s| line(s)).collect()
    }

    fn route_lines(&self) -> BTreeSet<String> {
        let uplink = |id: &PortId| called(&self.names.ports, id);
        let hop = |n: &super::Neighbor| {
            format!(
                " {} by {}{}",
                n.address,
                uplink(&n.port),
                n.mac.map_or_else(String::new, |m| format!(" at {m}"))
            )
        };
        let routes =
            self.tier0.routes.iter().map(|(prefix, hops)| {
                format!("route {prefix} to{}", hops.iter().map(hop).collect::<String>())
            });
        let connected = self.tier0.connected.iter();
        routes.chain(connected.map(|(p, port)| format!("route {p} connected to {}", uplink(port)))).collect()
    }

    fn limit_lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        let mut add = |what: &str, name: String, limits: &ConnectionLimits| {
            let said = [
                ("connections", limits.connections),
                ("half-open", limits.half_open),
                ("new a second", limits.new_per_second),
            ];
            lines.extend(
                said.iter()
                    .filter_map(|(kind, limit)| Some(format!("limit {what} {name} {kind} {}", (*limit)?))),
            );
        };
        for (limits, at) in self.limits.ports.iter().zip(0..) {
            add("port", called(&self.names.ports, &PortId(at)), limits);
        }
        for (limits, at) in self.limits.namespaces.iter().zip(0..) {
            add("namespace", called(&self.names.namespaces, &NamespaceId(at)), limits);
        }
        lines
    }

    fn identity_lines(&self) -> BTreeSet<String> {
        let exact = self.identities.exact.iter().map(|(a, id)| (a.to_string(), id));
        let ranges = self.identities.ranges.iter().map(|(range, id)| (range.to_string(), id));
        exact.chain(ranges).map(|(what, id)| format!("identity {what} {id:?}")).collect()
    }
}

fn called<K: Eq + Hash + fmt::Debug>(names: &HashMap<K, String>, id: &K) -> String {
    names.get(id).cloned().unwrap_or_else(|| format!("{id:?}"))
}

fn rule_line(names: &Names, firewall: &Firewall) -> String {
    let rule = |id: RuleId| names.rules.get(&id).map_or_else(|| format!("{id:?}"), ToString::to_string);
    let verb = |action| match action {
        Action::Allow => "allow",
        Action::Drop => "drop",
        Action::Reject => "reject",
    };
    let mut text = String::new();
    for r in firewall.layers().iter().flat_map(|layer| layer.rules()) {
        let clauses: BTreeSet<String> = r
            .clauses
            .iter()
            .map(|c| {
                let peers = match &c.peers {
                    Peers::Any => "any".to_owned(),
                    Peers::Identities(ids) => format!("{ids:?}"),
                    Peers::Except(ids) => format!("not {ids:?}"),
                };
                let services: Vec<String> =
                    c.services.iter().map(|s| format!("{} {:?}", s.proto, s.ports)).collect();
                format!("{peers} {}", services.join(","))
            })
            .collect();
        let effect = match r.effect {
            Effect::Decide(action) => verb(action),
            Effect::Pass => "pass",
        };
        text += &format!("[{effect} {}: {clauses:?}] ", rule(r.id));
    }
    let Decision { rule: id, action } = firewall.default_decision();
    text + &format!("[else {} {}]", verb(action), rule(id))
}
