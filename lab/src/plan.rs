//! `supernet plan`: the network of some manifests as tables, or as a picture.

use crate::{
    cli::{FoldArg, Format, PlanArgs, PlanFormat},
    input,
    output::{self, Listing, Style, list, or_dash},
    picture::{self, Drawing},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Display,
};
use supernet_control::analysis::{
    plan::{Plan, Section, VirtualServerKind, VirtualServerPlan},
    topology::{Fold, Topology, View},
};

/// Members of a virtual server, or names in a cell, that are shown before the rest is only counted.
const MOST: usize = 6;

pub(crate) fn run(args: &PlanArgs) -> Result<(), Box<dyn Error>> {
    let (mut network, warnings) = input::network(&args.files)?;
    let mut plan = network.plan()?;
    plan.warnings = warnings;
    let print = |format| Ok(output::print(&plan, format, tables)?);
    let drawing = match args.output {
        PlanFormat::Table => return print(Format::Table),
        PlanFormat::Json => return print(Format::Json),
        PlanFormat::Yaml => return print(Format::Yaml),
        PlanFormat::Svg => Drawing::Svg,
        PlanFormat::Dot => Drawing::Dot,
        PlanFormat::Mermaid => Drawing::Mermaid,
    };
    let fold = match args.fold {
        None | Some(FoldArg::Auto) => Fold::Auto,
        Some(FoldArg::Never) => Fold::Never,
        Some(FoldArg::Always) => Fold::Always,
    };
    let view = View { fold, namespaces: args.namespace.iter().cloned().collect() };
    let topology = Topology::of(&plan, &view)?;
    // A picture has no place for warnings.
    input::warn(&plan.warnings);
    picture::print(&topology, drawing)?;
    Ok(())
}

fn tables(plan: &Plan, style: Style) -> String {
    let tables = [
        segments(plan, style),
        snat(plan, style),
        virtual_servers(plan, style),
        tiered(plan, style, true),
        firewall(plan, style),
        tiered(plan, style, false),
        posture(plan, style),
        address_sets(plan, style),
        limits(plan, style),
        pods(plan, style),
        nodes(plan, style),
        uplinks(plan, style),
        routes(plan, style),
        advertised(plan, style),
    ];
    let mut text = tables.concat();
    for warning in &plan.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn all(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn segments(plan: &Plan, style: Style) -> String {
    let columns = ["NAME", "NAMESPACE", "TIER-1", "BLOCK", "GATEWAY", ">MTU", ">PORTS", ">FREE"];
    let mut table = Listing::new("Segments", &columns, style);
    for s in &plan.segments {
        table.row([
            s.name.clone(),
            or_dash(s.namespace.as_ref()),
            s.tier1.clone(),
            all(&s.cidrs),
            all(&s.gateways),
            s.mtu.to_string(),
            s.pods.to_string(),
            or_dash(s.free),
        ]);
    }
    table.render()
}

fn snat(plan: &Plan, style: Style) -> String {
    let mut table = Listing::new("Source NAT", &["NAMESPACE", "ADDRESS", "TIER-1"], style);
    for s in &plan.snat {
        table.row([s.namespace.clone(), s.address.to_string(), s.tier1.clone()]);
    }
    table.render()
}

fn virtual_servers(plan: &Plan, style: Style) -> String {
    let mut table = Listing::new("Virtual servers", &["NAME", "KIND", "LISTENS ON", "MEMBERS"], style);
    for server in &plan.virtual_servers {
        let name = match &server.namespace {
            Some(namespace) => format!("{namespace}/{}", server.name),
            None => server.name.clone(),
        };
        let kind = match server.kind {
            VirtualServerKind::ClusterIP => "ClusterIP",
            VirtualServerKind::LoadBalancer => "LoadBalancer",
            VirtualServerKind::KubeAPI => "KubeAPI",
            VirtualServerKind::CLITools => "CLI tools",
        };
        let address = std::net::SocketAddr::new(server.vip, server.port);
        let listens = format!("{address}/{}", server.protocol);
        table.row([name, kind.to_owned(), listens, members(server)]);
    }
    table.render()
}

fn members(server: &VirtualServerPlan) -> String {
    if server.members.is_empty() {
        return "none: connections are refused".to_owned();
    }
    let members = server.members.iter().map(|m| {
        let address = std::net::SocketAddr::new(m.address, m.port);
        let pod = m.pod.as_ref().map(|pod| format!(" {pod}")).unwrap_or_default();
        let state = match m.state {
            "active" => String::new(),
            other => format!(" ({other})"),
        };
        format!("{address}{pod}{state}")
    });
    output::lines(members, MOST)
}

/// What NetworkPolicies give.
fn firewall(plan: &Plan, style: Style) -> String {
    let tables =
        [("allow", "Firewall: what policies allow"), ("isolation", "Firewall: what policies isolate")];
    tables.map(|(category, title)| sections(plan, style, category, title)).concat()
}

/// What the Supervisor decides. It speaks only where pods are left to it.
fn posture(plan: &Plan, style: Style) -> String {
    sections(plan, style, "posture", "Firewall: pods that no policy isolates")
}

fn sections(plan: &Plan, style: Style, category: &str, title: &str) -> String {
    let columns = ["POLICY", "RULE", "DIRECTION", "ACTION", "APPLIED TO", "PEERS", "SERVICES"];
    let workloads = Workloads::of(plan);
    let mut table = Listing::new(title, &columns, style);
    let sections = plan.firewall.iter().filter(|section| section.category == category);
    for (Section { policy, .. }, rule) in sections.flat_map(|s| s.rules.iter().map(move |r| (s, r))) {
        if category == "posture" && rule.applied_to.is_empty() {
            continue;
        }
        table.row([
            policy.clone(),
            rule.name.clone(),
            rule.direction.to_owned(),
            rule.action.to_owned(),
            workloads.name(&rule.applied_to),
            rule.peers.clone(),
            rule.services.clone(),
        ]);
    }
    table.render()
}

/// Policies of administrators: those that are asked before NetworkPolicies, or those after them.
fn tiered(plan: &Plan, style: Style, before: bool) -> String {
    let columns = [
        "TIER",
        ">PRIORITY",
        "POLICY",
        "RULE",
        "DIRECTION",
        "ACTION",
        "APPLIED TO",
        "FROM",
        "TO",
        "SERVICES",
    ];
    let (title, tiers): (&str, &[&str]) = if before {
        (
            "Firewall: policies of administrators, asked before NetworkPolicies",
            &["Emergency", "Infrastructure", "Environment", "Admin"],
        )
    } else {
        (
            "Firewall: policies of administrators, for pods that no NetworkPolicy isolates",
            &["Application", "Baseline"],
        )
    };
    let workloads = Workloads::of(plan);
    let mut table = Listing::new(title, &columns, style);
    for section in plan.firewall.iter().filter(|section| tiers.contains(&section.category)) {
        for rule in &section.rules {
            table.row([
                section.category.to_owned(),
                section.priority.to_string(),
                section.policy.clone(),
                rule.name.clone(),
                rule.direction.to_owned(),
                rule.action.to_owned(),
                workloads.name(&rule.applied_to),
                or_dash(rule.sources.as_ref()),
                or_dash(rule.destinations.as_ref()),
                rule.services.clone(),
            ]);
        }
    }
    table.render()
}

fn address_sets(plan: &Plan, style: Style) -> String {
    let mut table = Listing::new("Address sets", &["NAME", "ADDRESSES"], style);
    for set in &plan.address_sets {
        let addresses = list(set.ranges.iter().map(ToString::to_string), MOST);
        table.row([set.name.clone(), if addresses.is_empty() { "none".to_owned() } else { addresses }]);
    }
    table.render()
}

/// Which pods belong together, to name many of them in few words.
struct Workloads<'a> {
    of_pod: BTreeMap<&'a str, String>,
    sizes: BTreeMap<String, usize>,
    namespaces: BTreeMap<&'a str, usize>,
}

impl<'a> Workloads<'a> {
    fn of(plan: &'a Plan) -> Self {
        let mut workloads =
            Self { of_pod: BTreeMap::new(), sizes: BTreeMap::new(), namespaces: BTreeMap::new() };
        for pod in plan.pods.iter().filter(|pod| !pod.host_network) {
            let (namespace, name) = pod.name.split_once('/').unwrap_or(("", &pod.name));
            let workload = match &pod.workload {
                Some(workload) => workload.rsplit('/').next().unwrap_or_default(),
                None => name,
            };
            let workload = format!("{namespace}/{workload}");
            *workloads.sizes.entry(workload.clone()).or_default() += 1;
            *workloads.namespaces.entry(namespace).or_default() += 1;
            workloads.of_pod.insert(&pod.name, workload);
        }
        workloads
    }

    /// "all pods in shop (4)", "shop/web (3), shop/db-0".
    fn name(&self, pods: &[String]) -> String {
        if pods.is_empty() {
            return "no pod".to_owned();
        }
        let mut by_namespace: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for pod in pods {
            by_namespace.entry(pod.split_once('/').map_or("", |(ns, _)| ns)).or_default().push(pod);
        }
        let mut parts = Vec::new();
        for (namespace, pods) in by_namespace {
            if pods.len() > 1 && self.namespaces.get(namespace) == Some(&pods.len()) {
                parts.push(format!("all pods in {namespace} ({})", pods.len()));
                continue;
            }
            let mut here: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
            for pod in pods {
                here.entry(self.of_pod.get(pod.as_str()).unwrap_or(pod)).or_default().insert(pod);
            }
            for (workload, pods) in here {
                if self.sizes.get(workload) == Some(&pods.len()) && pods.len() > 1 {
                    parts.push(format!("{workload} ({})", pods.len()));
                } else {
                    parts.extend(pods.into_iter().cloned());
                }
            }
        }
        list(parts.into_iter(), MOST)
    }
}

fn limits(plan: &Plan, style: Style) -> String {
    let columns = ["OF EACH", ">CONNECTIONS", ">HALF OPEN", ">NEW A SECOND"];
    let mut table = Listing::new("Limits of connections", &columns, style);
    let workloads = Workloads::of(plan);
    for limit in &plan.limits {
        let whom = if limit.kind == "pod" {
            workloads.name(&limit.applied_to)
        } else {
            let names = limit.applied_to.iter().map(|name| format!("namespace {name}"));
            list(names, MOST)
        };
        let numbers = [limit.connections, limit.half_open, limit.new_per_second].map(or_dash);
        table.row([whom].into_iter().chain(numbers));
    }
    table.render()
}

fn pods(plan: &Plan, style: Style) -> String {
    let mut table = Listing::new("Pods", &["NAME", "ADDRESS", "NODE", "SEGMENT", "MAC"], style);
    for pod in &plan.pods {
        let segment = if pod.host_network { "its node's network".to_owned() } else { pod.segment.clone() };
        table.row([pod.name.clone(), all(&pod.ips), or_dash(pod.node.as_ref()), segment, pod.mac.clone()]);
    }
    table.render()
}

fn nodes(plan: &Plan, style: Style) -> String {
    let mut table = Listing::new("Nodes", &["NAME", "ADDRESS", "MAC", ">PODS"], style);
    for node in &plan.nodes {
        table.row([node.name.clone(), all(&node.ips), node.mac.clone(), node.pods.to_string()]);
    }
    table.render()
}

fn uplinks(plan: &Plan, style: Style) -> String {
    let columns = ["NAME", "ADDRESS", "MAC", ">MTU", "INTERFACE"];
    // Most networks have no use for the last.
    let is_on_some = plan.uplinks.iter().any(|u| u.interface.is_some());
    let mut table = Listing::new("Uplinks", if is_on_some { &columns } else { &columns[..4] }, style);
    for uplink in &plan.uplinks {
        let on = uplink
            .interface
            .as_ref()
            .map_or_else(|| "-".to_owned(), |on| format!("{} ({})", on.name, on.driver));
        let cells =
            [uplink.name.clone(), all(&uplink.addresses), uplink.mac.clone(), uplink.mtu.to_string(), on];
        table.row(cells.into_iter().take(if is_on_some { 5 } else { 4 }));
    }
    table.render()
}

fn routes(plan: &Plan, style: Style) -> String {
    let mut table = Listing::new("Tier-0 routes", &["PREFIX", "KIND", "NEXT HOPS", "UPLINKS"], style);
    for route in &plan.routes {
        let hops = if route.next_hops.is_empty() { "-".to_owned() } else { all(&route.next_hops) };
        table.row([route.prefix.to_string(), route.kind.to_owned(), hops, all(&route.uplinks)]);
    }
    table.render()
}

fn advertised(plan: &Plan, style: Style) -> String {
    let mut table = Listing::new("Advertised routes", &["PREFIX", "KIND", "FROM", "OF"], style);
    for route in &plan.advertised_routes {
        table.row([
            route.prefix.to_string(),
            route.kind.to_owned(),
            route.tier1.clone(),
            route.owner.clone(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::shop;
    use supernet_control::analysis::plan::{AddressSetPlan, FirewallRule};

    fn plan() -> Plan {
        let mut s = shop();
        Plan::of(&s.model, &s.addressing, &s.snapshot, &mut s.interner).unwrap()
    }

    #[test]
    fn the_tables_tell_the_network() {
        let text = tables(&plan(), Style::PLAIN);
        for line in [
            "  shop-0  shop       tier1   10.244.0.16/28  10.244.0.17  1500      4     9",
            "  shop       192.168.90.2  tier1",
            "  shop/web   LoadBalancer  192.168.80.3:80/TCP    10.244.0.20:8080 shop/web-1",
            "  shop/web  ingress[0]  ingress    ALLOW   shop/web (3)  203.0.113.0/24 except 203.0.113.13/32  TCP 8080-8090",
            "  shop/db   isolation  ingress    DROP    shop/db-0     any    any",
            "  posture  egress  egress     ALLOW   blog/api, all pods in shop (4)  any    any",
            "  192.168.80.3/32  LB_VIP  tier1  shop/web",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nis missing in\n{text}");
        }
        assert!(!text.contains('\x1b'), "no colour away from a terminal");
    }

    #[test]
    fn policies_of_administrators_stand_around_network_policies() {
        let mut plan = plan();
        let rule = |sources: &str| FirewallRule {
            name: "scans".into(),
            direction: "ingress",
            action: "REJECT",
            applied_to: vec!["shop/db-0".into()],
            peers: sources.into(),
            sources: Some(sources.into()),
            destinations: Some("any".into()),
            services: "TCP 22".into(),
        };
        let section = |category, policy: &str| Section {
            policy: policy.into(),
            category,
            priority: 7,
            rules: vec![rule("address set scanners")],
        };
        plan.firewall.insert(0, section("Emergency", "SecurityPolicy first"));
        plan.firewall.push(section("Baseline", "ClusterNetworkPolicy last"));
        plan.address_sets =
            vec![AddressSetPlan { name: "scanners".into(), ranges: vec!["203.0.113.0/24".parse().unwrap()] }];
        let text = tables(&plan, Style::PLAIN);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}\nis missing in\n{text}"));
        let order = [
            at(
                "  Emergency         7  SecurityPolicy first  scans  ingress    REJECT  shop/db-0   address set scanners  any  TCP 22",
            ),
            at("Firewall: what policies isolate"),
            at("  Baseline         7  ClusterNetworkPolicy last  scans"),
            at("Firewall: pods that no policy isolates"),
            at("Address sets\n  NAME      ADDRESSES\n  scanners  203.0.113.0/24\n"),
        ];
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn warnings_come_last() {
        let mut plan = plan();
        plan.warnings.push("3 objects of kinds that are not needed were skipped".into());
        let text = tables(&plan, Style::PLAIN);
        assert!(text.ends_with("warning: 3 objects of kinds that are not needed were skipped\n"));
    }

    #[test]
    fn a_server_without_members_says_what_happens() {
        let mut plan = plan();
        plan.virtual_servers[0].members.clear();
        assert!(tables(&plan, Style::PLAIN).contains("none: connections are refused"));
    }
}
