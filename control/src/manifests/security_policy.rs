//! `SecurityPolicy` and `AddressSet` (`supernet.dev/v1alpha1`): the distributed firewall as NSX has it.

use super::{
    declared::{Declared, Meta, Scope, display},
    error::Problem,
    policy::STAGED_ANNOTATION,
    reading::{Fields, Reading},
    schema::{self, Kind},
    selector, syntax,
    yaml::{Node, Value},
};
use crate::model::{
    AddressSet, Directions, Ends, ObjectId, ObjectKind, Peer, PolicyPort, PolicyService, PortMatch, Position,
    Protocol, Selector, Tier, TieredPolicy, TieredRule, Verdict,
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};

/// NSX's highest sequence number.
const MAX_PRIORITY: i64 = 999_999;

/// Labels in log records are short, as in NSX.
const MAX_LOG_LABEL: usize = 39;

pub(super) fn read(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::SECURITY_POLICY);
    let meta = Meta::read(r, &fields, Scope::Cluster, syntax::dns_subdomain);
    let Some(spec) = r.required(&fields, "spec") else { return };
    let spec = r.fields(spec, &schema::SECURITY_POLICY_SPEC);
    let words = [
        ("Emergency", Tier::Emergency),
        ("Infrastructure", Tier::Infrastructure),
        ("Environment", Tier::Environment),
        ("Application", Tier::Application),
    ];
    let tier = r.required(&spec, "category").and_then(|n| r.word(n, &words));
    let priority = match spec.get("priority") {
        Some(n) => r.integer(n, 0..=MAX_PRIORITY),
        None => Some(0),
    };
    let applied_to = applied_to(r, &spec);
    let mut sets = Vec::new();
    let mut rules = Vec::new();
    let mut names = BTreeSet::new();
    for (at, node) in r.list(&spec, "rules").iter().enumerate() {
        let Some((rule, is_disabled)) = rule(r, node, at, tier, &applied_to, &mut sets) else { continue };
        if !names.insert(rule.name.clone()) {
            r.invalid(node.place, format!("two rules named `{}`", rule.name), "give each its own name");
        }
        // What is disabled is read, and left out.
        rules.extend((!is_disabled).then_some(rule));
    }
    let Some(meta) = meta else { return };
    let staged = meta.flag(r, STAGED_ANNOTATION).unwrap_or(false);
    let at = r.at(node.place);
    let (Some(tier), Some(priority)) = (tier, priority) else { return };
    if declared.claim(r, Kind::SecurityPolicy, &meta.name, &at) {
        let from = format!("SecurityPolicy {}", display(&meta.name));
        declared.set_references.extend(sets.into_iter().map(|(set, at)| (from.clone(), set, at)));
        let id = ObjectId { kind: ObjectKind::SecurityPolicy, name: meta.name };
        let priority = u32::try_from(priority).unwrap_or_default();
        let applied_to = applied_to.unwrap_or_default();
        declared.tiered_policies.push(TieredPolicy { id, tier, priority, applied_to, rules, staged, at });
    }
}

/// A rule, and whether it is disabled.
fn rule(
    r: &mut Reading,
    node: &Node,
    at: usize,
    tier: Option<Tier>,
    of_policy: &Option<Vec<Peer>>,
    sets: &mut Vec<(String, Position)>,
) -> Option<(TieredRule, bool)> {
    let fields = r.fields(node, &schema::SECURITY_RULE);
    let name = match fields.filled("name") {
        Some(n) => r.text(n)?.to_owned(),
        None => format!("rules[{at}]"),
    };
    let words = [
        ("ALLOW", Verdict::Allow),
        ("DROP", Verdict::Drop),
        ("REJECT", Verdict::Reject),
        ("JUMP_TO_APPLICATION", Verdict::Pass),
    ];
    let action = r.required(&fields, "action");
    let verdict = action.and_then(|n| r.word(n, &words));
    if let (Some(n), Some(Verdict::Pass)) = (action, verdict)
        && tier.is_some_and(|tier| tier != Tier::Environment)
    {
        let what = "JUMP_TO_APPLICATION outside the category Environment";
        r.invalid(n.place, what, "use ALLOW, DROP or REJECT, or move the policy to Environment");
    }
    let words = [("IN", Directions::In), ("OUT", Directions::Out), ("IN_OUT", Directions::InOut)];
    let directions = match fields.get("direction") {
        Some(n) => r.word(n, &words),
        None => Some(Directions::InOut),
    };
    let sources = ends(r, &fields, ("sources", "sourcesExcluded"), sets);
    let destinations = ends(r, &fields, ("destinations", "destinationsExcluded"), sets);
    let mut services = Vec::new();
    let items = r.list(&fields, "services");
    if let (Some(n), true) = (fields.get("services"), items.is_empty()) {
        r.invalid(n.place, "`services` without items", "remove it to mean everything");
    }
    for item in items {
        service(r, item, &mut services);
    }
    let own = applied_to(r, &fields);
    if let (Some(n), Some(_)) = (fields.get("appliedTo"), of_policy) {
        let what = "appliedTo of a rule whose policy has one";
        r.invalid(n.place, what, "remove one of them: the policy's would override it, as in NSX");
    }
    let log_label = fields.filled("logLabel").and_then(|n| r.text(n).map(|text| (n, text)));
    if let Some((n, text)) = log_label.filter(|(_, text)| text.chars().count() > MAX_LOG_LABEL) {
        let advice = format!("use at most {MAX_LOG_LABEL} characters");
        r.invalid(n.place, format!("`{text}` is too long for a log label"), advice);
    }
    if r.bool_of(&fields, "stateful") == Some(false) {
        r.not_enforced("stateful: false", &name, node.place);
    }
    let is_disabled = r.bool_of(&fields, "disabled") == Some(true);
    let rule = TieredRule {
        name,
        verdict: verdict?,
        directions: directions?,
        sources: sources?,
        destinations: destinations?,
        services,
        applied_to: own,
        log_label: log_label.map(|(_, text)| text.to_owned()),
    };
    Some((rule, is_disabled))
}

/// The pods that have a policy's, or a rule's, rules; `None` if nothing is said.
fn applied_to(r: &mut Reading, fields: &Fields<'_>) -> Option<Vec<Peer>> {
    let node = fields.get("appliedTo")?;
    let items = r.items(node);
    if items.is_empty() {
        r.invalid(node.place, "`appliedTo` without items", "remove it to mean every pod");
    }
    let mut pods = Vec::new();
    for item in items {
        let fields = r.fields(item, &schema::APPLIED_TO);
        match selected(r, &fields) {
            Some(peer) => pods.push(peer),
            None => nobody(r, item),
        }
    }
    Some(pods)
}

fn nobody(r: &mut Reading, node: &Node) {
    let advice = "write podSelector, namespaceSelector, or both; `namespaceSelector: {}` is every pod";
    r.invalid(node.place, "an item that names nobody", advice);
}

/// Pods by labels, of all namespaces unless these are named too.
fn selected(r: &mut Reading, fields: &Fields<'_>) -> Option<Peer> {
    let namespaces = fields.get("namespaceSelector").map(|n| selector::read(r, n));
    let pods = fields.get("podSelector").map(|n| selector::read(r, n));
    if namespaces.is_none() && pods.is_none() {
        return None;
    }
    Some(Peer::Pods { namespaces: Some(namespaces.unwrap_or(Selector::ALL)), pods })
}

/// One side of a rule. `None`: it is left out of the rule because it is wrong, and the rule with it.
fn ends(
    r: &mut Reading,
    fields: &Fields<'_>,
    (list, excluded): (&str, &str),
    sets: &mut Vec<(String, Position)>,
) -> Option<Ends> {
    let is_excluded = r.bool_of(fields, excluded).unwrap_or(false);
    let mut ends = Ends { peers: Vec::new(), excluded: is_excluded };
    let mut usable = true;
    for item in r.list(fields, list) {
        match end(r, item, sets) {
            Some(peer) => ends.peers.push(peer),
            None => usable = false,
        }
    }
    let nothing = fields.get(list).filter(|n| r.items(n).is_empty());
    if let Some(n) = nothing {
        r.invalid(n.place, format!("`{list}` without items"), "remove it to mean everyone");
        usable = false;
    }
    if let (Some(n), true, None) = (fields.get(excluded), is_excluded, fields.get(list)) {
        r.invalid(n.place, format!("{excluded} without {list}"), format!("list whom it excludes in {list}"));
        usable = false;
    }
    usable.then_some(ends)
}

fn end(r: &mut Reading, node: &Node, sets: &mut Vec<(String, Position)>) -> Option<Peer> {
    let fields = r.fields(node, &schema::SECURITY_END);
    let ways = ["cidr", "addressSet", "nodeSelector"];
    let given: Vec<&str> = ways.into_iter().filter(|field| fields.get(field).is_some()).collect();
    let pods = selected(r, &fields);
    if given.len() + usize::from(pods.is_some()) > 1 {
        r.invalid(node.place, "several kinds of ends in one item", "write an item for each");
        return None;
    }
    if let (Some(n), true) = (fields.get("except"), given.first() != Some(&"cidr")) {
        r.invalid(n.place, "except without cidr", "write the range it is taken from as cidr");
        return None;
    }
    match given.first() {
        Some(&"cidr") => {
            let cidr = fields.get("cidr").and_then(|n| network(r, n));
            let mut except = Vec::new();
            for n in r.list(&fields, "except") {
                let Some(hole) = network(r, n) else { continue };
                if let Some(cidr) = cidr.filter(|cidr| !cidr.contains(&hole)) {
                    r.invalid(
                        n.place,
                        format!("except {hole} is not inside {cidr}"),
                        "write a smaller range",
                    );
                }
                except.push(hole);
            }
            Some(Peer::Block { cidr: cidr?, except })
        }
        Some(&"addressSet") => {
            let n = fields.get("addressSet")?;
            let name = r.checked_text(n, "the name of an AddressSet", syntax::dns_subdomain)?;
            let at = r.at(n.place);
            sets.push((name.to_owned(), at));
            Some(Peer::Set(name.to_owned()))
        }
        Some(_) => fields.get("nodeSelector").map(|n| Peer::Nodes(selector::read(r, n))),
        None => {
            if pods.is_none() {
                let advice = "write podSelector, namespaceSelector, nodeSelector, addressSet or cidr";
                r.invalid(node.place, "an item that names nobody", advice);
            }
            pods
        }
    }
}

/// A range, or one address.
fn network(r: &mut Reading, node: &Node) -> Option<IpNet> {
    let text = r.text(node)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.into());
    }
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => {
            let advice = "write one like 10.0.0.7, 10.0.0.0/8 or fd00::/64";
            r.invalid(node.place, format!("`{text}` is neither an address nor a CIDR"), advice);
            None
        }
    }
}

fn service(r: &mut Reading, node: &Node, services: &mut Vec<PolicyService>) {
    let fields = r.fields(node, &schema::SECURITY_SERVICE);
    let Some(protocol) = r.required(&fields, "protocol") else { return };
    let words = [
        ("TCP", Some(Protocol::Tcp)),
        ("UDP", Some(Protocol::Udp)),
        ("SCTP", Some(Protocol::Sctp)),
        ("ICMP", None),
        ("ICMPv6", None),
    ];
    let Some(transport) = r.word(protocol, &words) else { return };
    let misplaced = if transport.is_some() { &["icmpType", "icmpCode"][..] } else { &["ports"] };
    for field in misplaced {
        if let Some(n) = fields.get(field) {
            let of = if transport.is_some() { "ICMP and ICMPv6" } else { "TCP, UDP and SCTP" };
            r.invalid(n.place, format!("{field} of another protocol"), format!("only {of} have it"));
        }
    }
    let Some(protocol) = transport else {
        let v6 = r.text(protocol) == Some("ICMPv6");
        let kind = fields.get("icmpType").and_then(|n| r.integer(n, 0..=255));
        let code = fields.get("icmpCode").and_then(|n| r.integer(n, 0..=255));
        if let (Some(n), None) = (fields.get("icmpCode"), fields.get("icmpType")) {
            r.invalid(n.place, "icmpCode without icmpType", "write the type that it is a code of");
            return;
        }
        // A type that is wrong is an error already.
        let code = code.filter(|_| kind.is_some());
        let byte = |n: i64| u8::try_from(n).unwrap_or_default();
        services.push(PolicyService::Icmp { v6, kind: kind.map(byte), code: code.map(byte) });
        return;
    };
    match fields.get("ports") {
        None => services.push(PolicyService::Ports(PolicyPort { protocol, port: PortMatch::All })),
        Some(n) => {
            let items = r.items(n);
            if items.is_empty() {
                r.invalid(n.place, "`ports` without items", "remove it to mean every port");
            }
            for item in items {
                let port = port(r, item);
                services.extend(port.map(|port| PolicyService::Ports(PolicyPort { protocol, port })));
            }
        }
    }
}

/// A number, a range "8000-8999", or the name of a container's port.
fn port(r: &mut Reading, node: &Node) -> Option<PortMatch> {
    let Value::String(text) = &node.value else { return r.port(node).map(PortMatch::number) };
    let Some((from, to)) = text.split_once('-').filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
    else {
        let name = r.checked_text(node, "the name of a port", syntax::port_name)?;
        return Some(PortMatch::Named(name.to_owned()));
    };
    // A number's parser would take a sign.
    let number = |text: &str| {
        let digits = Some(text.trim()).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        digits?.parse::<u16>().ok().filter(|n| *n > 0)
    };
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Some(PortMatch::Numbers { from, to }),
        _ => {
            r.invalid(node.place, format!("`{text}` is no range of ports"), "write one like 8000-8999");
            None
        }
    }
}

pub(super) fn read_address_set(r: &mut Reading, node: &Node, declared: &mut Declared) {
    let fields = r.fields(node, &schema::ADDRESS_SET);
    let meta = Meta::read(r, &fields, Scope::Cluster, syntax::dns_subdomain);
    let Some(spec) = r.required(&fields, "spec") else { return };
    let spec = r.fields(spec, &schema::ADDRESS_SET_SPEC);
    let mut ranges = Vec::new();
    for item in r.list(&spec, "addresses") {
        ranges.extend(network(r, item));
    }
    ranges.sort_unstable();
    ranges.dedup();
    let Some(meta) = meta else { return };
    let at = r.at(node.place);
    if declared.claim(r, Kind::AddressSet, &meta.name, &at) {
        declared.address_sets.push(AddressSet { name: meta.name.name, ranges, at });
    }
}

/// Every AddressSet that a rule refers to is there.
pub(super) fn check_references(r: &mut Reading, declared: &Declared, known: &BTreeSet<&str>) {
    let own: BTreeSet<&str> = declared.address_sets.iter().map(|set| set.name.as_str()).collect();
    for (from, set, at) in &declared.set_references {
        if own.contains(set.as_str()) || known.contains(set.as_str()) {
            continue;
        }
        let all = own.iter().chain(known).copied();
        let advice = match syntax::closest(set, all) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "declare it, or write the addresses as cidr".to_owned(),
        };
        let to = format!("AddressSet {set}");
        r.error(at.clone(), Problem::Dangling { from: from.clone(), to, advice });
    }
}
