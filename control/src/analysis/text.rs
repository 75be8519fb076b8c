//! Selectors, peers and ports in words.

use crate::model::{Ends, Operator, Peer, PolicyPort, PolicyService, PortMatch, Protocol, Selector};
use std::{collections::BTreeMap, fmt::Write};

/// Peers of a rule: "pods app=web in shop; 10.0.0.0/8 except 10.1.0.0/16"; "any" for everyone.
pub(super) fn peers(namespace: &str, peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "any".to_owned();
    }
    join(peers.iter().map(|p| peer(namespace, p)), "; ")
}

/// One side of a rule: as [`peers`]; "any but 10.0.0.0/8" for everyone else.
pub(super) fn ends(ends: &Ends) -> String {
    let words = peers("", &ends.peers);
    if ends.excluded { format!("any but {words}") } else { words }
}

/// One peer of a rule.
pub(super) fn peer(namespace: &str, peer: &Peer) -> String {
    match peer {
        Peer::Block { cidr, except } if except.is_empty() => cidr.to_string(),
        Peer::Block { cidr, except } => format!("{cidr} except {}", join(except.iter(), ", ")),
        Peer::Nodes(s) if s.requirements.is_empty() => "all nodes".to_owned(),
        Peer::Nodes(s) => format!("nodes {}", selector(s)),
        Peer::Domains(names) => format!("domains {}", names.join(", ")),
        Peer::Set(name) => format!("address set {name}"),
        Peer::Pods { namespaces, pods } => {
            let pods = match pods {
                None => "all pods".to_owned(),
                Some(s) if s.requirements.is_empty() => "all pods".to_owned(),
                Some(s) => format!("pods {}", selector(s)),
            };
            match namespaces {
                None => format!("{pods} in {namespace}"),
                Some(s) if s.requirements.is_empty() => format!("{pods} in all namespaces"),
                Some(s) => format!("{pods} in namespaces {}", selector(s)),
            }
        }
    }
}

/// A selector as kubectl writes it: "app=web,tier in (a,b),!legacy".
pub(super) fn selector(selector: &Selector) -> String {
    let terms = selector.requirements.iter().map(|r| match &r.operator {
        Operator::In(values) if values.len() == 1 => format!("{}={}", r.key, values[0]),
        Operator::In(values) => format!("{} in ({})", r.key, values.join(",")),
        Operator::NotIn(values) if values.len() == 1 => format!("{}!={}", r.key, values[0]),
        Operator::NotIn(values) => format!("{} notin ({})", r.key, values.join(",")),
        Operator::Exists => r.key.clone(),
        Operator::DoesNotExist => format!("!{}", r.key),
    });
    join(terms, ",")
}

/// Ports of a rule: "TCP 80, http, 8000-8999; UDP 53"; "any" for everything.
pub(super) fn policy_ports(ports: &[PolicyPort]) -> String {
    if ports.is_empty() {
        return "any".to_owned();
    }
    let mut by_protocol: BTreeMap<Protocol, Vec<String>> = BTreeMap::new();
    for port in ports {
        let text = match &port.port {
            PortMatch::All => "any".to_owned(),
            PortMatch::Numbers { from, to } => range(*from, *to),
            PortMatch::Named(name) => name.clone(),
        };
        by_protocol.entry(port.protocol).or_default().push(text);
    }
    join(by_protocol.into_iter().map(|(protocol, ports)| format!("{protocol} {}", ports.join(", "))), "; ")
}

/// Services of a rule: as [`policy_ports`], and "ICMP type 8 code 0; ICMPv6".
pub(super) fn services(services: &[PolicyService]) -> String {
    let ports: Vec<PolicyPort> = services
        .iter()
        .filter_map(|service| match service {
            PolicyService::Ports(port) => Some(port.clone()),
            PolicyService::Icmp { .. } => None,
        })
        .collect();
    let icmp = services.iter().filter_map(|service| match service {
        PolicyService::Icmp { v6, kind, code } => Some(icmp(*v6, *kind, *code)),
        PolicyService::Ports(_) => None,
    });
    let ports = (!ports.is_empty() || services.is_empty()).then(|| policy_ports(&ports));
    join(ports.into_iter().chain(icmp), "; ")
}

/// "ICMP type 8 code 0", "ICMPv6".
fn icmp(v6: bool, kind: Option<u8>, code: Option<u8>) -> String {
    let kind = kind.map_or_else(String::new, |kind| format!(" type {kind}"));
    let code = code.map_or_else(String::new, |code| format!(" code {code}"));
    format!("{}{kind}{code}", if v6 { "ICMPv6" } else { "ICMP" })
}

/// "80", or "8000-8999".
pub(super) fn range(from: u16, to: u16) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

/// All parts with something between them.
pub(super) fn join<T: std::fmt::Display>(parts: impl Iterator<Item = T>, between: &str) -> String {
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push_str(between);
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{part}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Requirement;

    #[test]
    fn peers_read_as_a_person_would_say_them() {
        let not_legacy = Requirement { key: "legacy".into(), operator: Operator::DoesNotExist };
        let mut web = Selector::labels([("app", "web")]);
        web.requirements.push(not_legacy);
        let block =
            Peer::Block { cidr: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] };
        let list = [
            Peer::Pods { namespaces: None, pods: Some(web) },
            Peer::Pods { namespaces: Some(Selector::labels([("team", "a")])), pods: None },
            Peer::Pods { namespaces: Some(Selector::ALL), pods: Some(Selector::ALL) },
            block,
        ];
        let text = peers("shop", &list);
        assert_eq!(
            text,
            "pods app=web,!legacy in shop; all pods in namespaces team=a; all pods in all namespaces; \
             10.0.0.0/8 except 10.1.0.0/16"
        );
        assert_eq!(peers("shop", &[]), "any");
    }

    #[test]
    fn ends_and_services_of_rules_in_tiers() {
        let block = || Peer::Block { cidr: "10.0.0.0/8".parse().unwrap(), except: Vec::new() };
        let excluded = Ends { peers: vec![block(), Peer::Set("scanners".into())], excluded: true };
        assert_eq!(ends(&excluded), "any but 10.0.0.0/8; address set scanners");
        assert_eq!(ends(&Ends::ALL), "any");
        let icmp = |v6, kind, code| PolicyService::Icmp { v6, kind, code };
        let tcp = PolicyService::Ports(PolicyPort { protocol: Protocol::Tcp, port: PortMatch::number(80) });
        let list = [icmp(false, Some(8), Some(0)), tcp, icmp(true, None, None), icmp(true, Some(1), None)];
        assert_eq!(services(&list), "TCP 80; ICMP type 8 code 0; ICMPv6; ICMPv6 type 1");
        assert_eq!(services(&list[2..3]), "ICMPv6");
        assert_eq!(services(&[]), "any");
    }

    #[test]
    fn ports_are_grouped_by_protocol() {
        let port = |protocol, port| PolicyPort { protocol, port };
        let list = [
            port(Protocol::Tcp, PortMatch::number(80)),
            port(Protocol::Udp, PortMatch::All),
            port(Protocol::Tcp, PortMatch::Numbers { from: 8000, to: 8999 }),
            port(Protocol::Tcp, PortMatch::Named("http".into())),
        ];
        assert_eq!(policy_ports(&list), "TCP 80, 8000-8999, http; UDP any");
        assert_eq!(policy_ports(&[]), "any");
    }
}
