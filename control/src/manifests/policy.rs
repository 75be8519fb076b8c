//! NetworkPolicy v1, by the API server's rules, with its defaults filled in.

use super::{
    declared::{Declared, Meta, Scope},
    error::Problem,
    reading::{Fields, Reading},
    schema::{self, Kind, Schema},
    selector, syntax,
    yaml::{Node, Value},
};
use crate::model::{NetworkPolicy, Peer, PolicyPort, PortMatch, Rule, Selector};

/// "true": the policy is judged without being enforced.
pub(super) const STAGED_ANNOTATION: &str = "supernet.dev/staged";

pub(super) fn read(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::NETWORK_POLICY);
    r.sub(&fields, "status", &schema::NETWORK_POLICY_STATUS);
    let meta = Meta::read(r, &fields, Scope::Namespace, syntax::dns_subdomain);
    // A policy without a spec would isolate everything: nobody means that.
    let Some(spec) = r.required(&fields, "spec") else { return };
    let spec = r.fields(spec, &schema::NETWORK_POLICY_SPEC);
    let pods = spec.get("podSelector").map_or(Selector::ALL, |n| selector::read(r, n));
    let ingress = rules(r, &spec, "ingress", &schema::INGRESS_RULE, "from");
    let egress = rules(r, &spec, "egress", &schema::EGRESS_RULE, "to");
    let types = types(r, &spec).unwrap_or((true, !egress.is_empty()));
    for (listed, name, rules) in [(types.0, "ingress", &ingress), (types.1, "egress", &egress)] {
        if let (false, false, Some(n)) = (listed, rules.is_empty(), spec.get(name)) {
            r.remark(n.place, format!("policyTypes does not list {name}, so these rules have no effect"));
        }
    }
    let Some(meta) = meta else { return };
    let staged = meta.flag(r, STAGED_ANNOTATION).unwrap_or(false);
    let at = r.at(node.place);
    if declared.claim(r, Kind::NetworkPolicy, &meta.name, &at) {
        declared.policies.push(NetworkPolicy {
            name: meta.name,
            pods,
            ingress: types.0.then_some(ingress),
            egress: types.1.then_some(egress),
            staged,
            at,
        });
    }
}

/// Whether ingress and egress are listed; `None` if nothing is.
fn types(r: &mut Reading, spec: &Fields<'_>) -> Option<(bool, bool)> {
    let mut types = None;
    for node in r.list(spec, "policyTypes") {
        let listed = types.get_or_insert((false, false));
        match r.word(node, &[("Ingress", true), ("Egress", false)]) {
            Some(true) => listed.0 = true,
            Some(false) => listed.1 = true,
            None => {}
        }
    }
    types
}

fn rules(r: &mut Reading, spec: &Fields<'_>, field: &str, schema: &Schema, peers: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    for node in r.list(spec, field) {
        let fields = r.fields(node, schema);
        let peers = r.list(&fields, peers).iter().filter_map(|n| peer(r, n)).collect();
        let ports = r.list(&fields, "ports").iter().filter_map(|n| port(r, n)).collect();
        rules.push(Rule { peers, ports });
    }
    rules
}

fn peer(r: &mut Reading, node: &Node) -> Option<Peer> {
    let fields = r.fields(node, &schema::PEER);
    let namespaces = fields.get("namespaceSelector").map(|n| selector::read(r, n));
    let pods = fields.get("podSelector").map(|n| selector::read(r, n));
    let block = fields.get("ipBlock");
    match (block, namespaces, pods) {
        (Some(block), None, None) => ip_block(r, block),
        (Some(block), ..) => {
            let advice = "write two items, one with ipBlock and one with the selectors";
            r.invalid(block.place, "ipBlock beside a selector in one peer", advice);
            None
        }
        (None, None, None) => {
            let advice = "write ipBlock, podSelector or namespaceSelector; `podSelector: {}` is every pod of the \
                          namespace, leaving the list out is everyone";
            // With an unknown field in it, that error says enough.
            if matches!(&node.value, Value::Null) || matches!(&node.value, Value::Map(m) if all_known(m)) {
                r.invalid(node.place, "an empty peer", advice);
            }
            None
        }
        (None, namespaces, pods) => Some(Peer::Pods { namespaces, pods }),
    }
}

fn all_known(entries: &[(super::yaml::Key, Node)]) -> bool {
    entries.iter().all(|(k, _)| schema::PEER.fields.contains(&k.text.as_str()))
}

fn ip_block(r: &mut Reading, node: &Node) -> Option<Peer> {
    let fields = r.fields(node, &schema::IP_BLOCK);
    let cidr = r.required(&fields, "cidr").and_then(|n| r.cidr(n)).map(|c| c.trunc());
    let mut except = Vec::new();
    for item in r.list(&fields, "except") {
        let Some(hole) = r.cidr(item).map(|c| c.trunc()) else { continue };
        if let Some(cidr) = cidr
            && (!cidr.contains(&hole) || cidr == hole)
        {
            let what = format!("except {hole} is not strictly inside {cidr}");
            r.invalid(item.place, what, "write a smaller range of the same family, inside cidr");
        }
        except.push(hole);
    }
    Some(Peer::Block { cidr: cidr?, except })
}

fn port(r: &mut Reading, node: &Node) -> Option<PolicyPort> {
    let fields = r.fields(node, &schema::POLICY_PORT);
    let protocol = r.protocol(&fields);
    let end_node = fields.get("endPort");
    let end = end_node.and_then(|n| r.port(n));
    let port = match fields.get("port") {
        None => Some(PortMatch::All),
        Some(n) => match &n.value {
            Value::String(_) => r
                .checked_text(n, "the name of a port", syntax::port_name)
                .map(|s| PortMatch::Named(s.to_owned())),
            _ => r.port(n).map(PortMatch::number),
        },
    };
    let port = match (port?, end_node, end) {
        (PortMatch::Numbers { from, .. }, _, Some(to)) if to >= from => PortMatch::Numbers { from, to },
        (PortMatch::Numbers { from, .. }, Some(n), Some(to)) => {
            r.invalid(n.place, format!("endPort {to} is below port {from}"), "swap them");
            return None;
        }
        (PortMatch::Named(_) | PortMatch::All, Some(n), _) => {
            let at = r.at(n.place);
            let what = "endPort without a numeric port".to_owned();
            r.error(
                at,
                Problem::Invalid { what, advice: "write port as the range's first number".to_owned() },
            );
            return None;
        }
        (port, ..) => port,
    };
    Some(PolicyPort { protocol: protocol?, port })
}
