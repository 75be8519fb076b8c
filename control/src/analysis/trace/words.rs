//! What the stages did, in words.

use super::{Explanation, Members, RuleRef, Step, TraceReport, probe::Resolved};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
};
use supernet_dataplane::{
    flow::{ConnectionLimits, Quotas},
    id::{NamespaceId, PortId, RuleId, Tier1Id},
    rewrite::Tuple,
    snapshot::{PortRole, ServerKind, Snapshot},
    stage::{Event, Judged, Next, Path, Source, Stop, quota},
    table::classifier::Action,
    trace::Trace,
    verdict::DropReason,
    wire::Proto,
};

/// Puts names to a trace.
pub(super) fn report(
    snap: &Snapshot,
    resolved: Resolved,
    trace: &Trace,
    members: Option<Members>,
    explanations: Vec<Explanation>,
    quotas: Option<&Quotas>,
) -> TraceReport {
    let names = Names { snap, explanations: &explanations };
    let first = resolved.first.tuple;
    let mut before = first;
    let mut steps: Vec<Step> = Vec::new();
    let mut tier1 = String::new();
    let quota = trace.outcome.as_ref().ok().and_then(|path| Quota::of(snap, trace, path));
    for (n, (event, after)) in trace.events.iter().enumerate() {
        // Commit is the last of all, before the packet leaves.
        if let Some(quota) = quota.as_ref().filter(|_| n + 1 == trace.events.len()) {
            steps.push(names.plain("limits", &names.port(quota.port), quota.words(&names, quotas), after));
        }
        if let Event::Routed { tier1: id } = event {
            tier1 = names.tier1(*id);
        }
        steps.push(names.step(event, &before, after, trace.first.ingress, &tier1));
        before = *after;
    }
    let refused = quota.and_then(|quota| quota.refused_now(quotas?));
    let mut report = TraceReport {
        from: resolved.from,
        to: resolved.to,
        protocol: first.proto.to_string(),
        port: (!first.proto.is_icmp()).then_some(first.dport),
        packet: first.to_string(),
        delivered: false,
        verdict: String::new(),
        drop_reason: None,
        denied_by: None,
        explanations: Vec::new(),
        members,
        steps,
        reply: Vec::new(),
    };
    match &trace.outcome {
        Ok(_) if let Some(reason) = refused => {
            report.verdict = format!("{} is dropped now: {reason}.", subject(&report));
            report.drop_reason = Some(reason.name().to_owned());
            // It does not leave.
            report.steps.pop();
        }
        Ok(path) => {
            let delivered = trace.delivered_tuple().unwrap_or(first);
            report.delivered = true;
            report.reply = names.reply(path, trace, &delivered, &tier1);
            report.verdict = names.delivered(&report, path, &delivered);
        }
        Err(Stop::EchoReply) => {
            report.delivered = true;
            let did = "answers the echo request itself".to_owned();
            report.steps.push(names.plain("gateway", &before.dst.to_string(), did, &before.reversed()));
            report.verdict = format!("{}: {} answers it itself.", subject(&report), before.dst);
        }
        Err(stop) => {
            let rule = match stop {
                Stop::Drop(_, Some(rule)) | Stop::Reject(_, rule) => Some(names.rule(*rule)),
                _ => None,
            };
            let reason = stop.reason();
            if rule.is_none() {
                let (at, did) = (names.port(trace.first.ingress), names.stopped(stop));
                report.steps.push(names.plain(stage_of(stop), &at, did, &before));
            }
            report.verdict = names.dropped(&report, stop, rule.as_ref(), first.dst);
            report.drop_reason = reason.map(|r| r.name().to_owned());
            report.denied_by = rule;
        }
    }
    if let Some(Members { active, reached }) = members.filter(|m| m.reached > 0 && m.reached < m.active) {
        report.verdict += &format!(" Only {reached} of the {active} members can be reached.");
    }
    report.explanations = explanations;
    report
}

/// For whom a connection counts, where it meets a limit.
#[derive(Clone, Copy)]
struct Quota {
    port: PortId,
    namespace: NamespaceId,
    of_pod: ConnectionLimits,
    of_namespace: ConnectionLimits,
    opens_half: bool,
}

impl Quota {
    fn of(snap: &Snapshot, trace: &Trace, path: &Path) -> Option<Self> {
        let first = &trace.first;
        let out = match &path.out {
            Next::Port(port) => Some(*port),
            Next::Neighbor(_) => None,
        };
        let (_, port, namespace) = quota::payer(snap, (first.ingress, first.tuple.src), out)?;
        let (of_pod, of_namespace) = (snap.limits.of_port(port), snap.limits.of_namespace(namespace));
        let opens_half = first.tuple.proto == Proto::TCP;
        let is_limited = !of_pod.is_none() || !of_namespace.is_none();
        is_limited.then_some(Self { port, namespace, of_pod, of_namespace, opens_half })
    }

    fn refused_now(&self, quotas: &Quotas) -> Option<DropReason> {
        let limits = (&self.of_pod, &self.of_namespace);
        quotas.would_refuse((self.port, self.namespace), limits, self.opens_half)
    }

    /// "counts for shop/web (3 of 100 connections) and namespace shop (500 new a second)".
    fn words(&self, names: &Names<'_>, quotas: Option<&Quotas>) -> String {
        let namespace = names.snap.names.namespaces.get(&self.namespace);
        let namespace = format!("namespace {}", namespace.map_or("", |name| name));
        let both = [
            (names.port(self.port), &self.of_pod, quotas.map(|q| q.pod(self.port))),
            (namespace, &self.of_namespace, quotas.map(|q| q.namespace(self.namespace))),
        ];
        let said = both.into_iter().filter(|(_, limits, _)| !limits.is_none()).map(|(who, limits, usage)| {
            let number = |n: Option<u32>, limit: NonZeroU32| match n {
                Some(n) => format!("{n} of {limit}"),
                None => format!("at most {limit}"),
            };
            let connections =
                limits.connections.map(|l| number(usage.map(|u| u.connections), l) + " connections");
            let half_open = limits.half_open.filter(|_| self.opens_half);
            let half_open = half_open.map(|l| number(usage.map(|u| u.half_open), l) + " half open");
            let rate = limits.new_per_second.map(|l| format!("at most {l} new a second"));
            let parts: Vec<String> = [connections, half_open, rate].into_iter().flatten().collect();
            if parts.is_empty() { who } else { format!("{who} ({})", parts.join(", ")) }
        });
        format!("counts for {}", said.collect::<Vec<_>>().join(" and "))
    }
}

struct Names<'a> {
    snap: &'a Snapshot,
    explanations: &'a [Explanation],
}

impl Names<'_> {
    fn port(&self, id: PortId) -> String {
        self.snap.names.ports.get(&id).cloned().unwrap_or_else(|| format!("{id:?}"))
    }

    fn tier1(&self, id: Tier1Id) -> String {
        self.snap.names.tier1s.get(&id).cloned().unwrap_or_else(|| format!("{id:?}"))
    }

    fn rule(&self, id: RuleId) -> RuleRef {
        match self.snap.names.rules.get(&id) {
            Some(name) => RuleRef::from(name),
            None => RuleRef { tier: String::new(), policy: format!("{id:?}"), rule: String::new() },
        }
    }

    /// Whose address it is, with the address.
    fn owner(&self, address: IpAddr) -> Option<String> {
        self.snap.endpoints.get(&address).map(|port| self.port(*port))
    }

    fn plain(&self, stage: &str, at: &str, did: String, tuple: &Tuple) -> Step {
        Step {
            stage: stage.to_owned(),
            at: at.to_owned(),
            did,
            rule: None,
            before: None,
            after: tuple.to_string(),
        }
    }

    fn step(&self, event: &Event, before: &Tuple, after: &Tuple, ingress: PortId, tier1: &str) -> Step {
        let mut rule = None;
        let (stage, at, did) = match event {
            Event::Arrived(port) => {
                ("spoof-guard", self.port(*port), format!("{} belongs to the port", after.src))
            }
            Event::ReversePathChecked(port) => {
                ("urpf", self.port(*port), format!("{} is outside and routable", after.src))
            }
            Event::Balanced { server, member } => {
                let from_outside = self.is_uplink(ingress);
                let server = self.snap.names.servers.get(server).cloned().unwrap_or_default();
                let whose = self.owner(member.ip()).map_or_else(String::new, |pod| format!(" ({pod})"));
                let stage = if from_outside { "vip" } else { "dlb" };
                (stage, server, format!("picks member {member}{whose}"))
            }
            Event::Judged { egress, port, judged } => {
                let (did, by) = self.judged(*egress, judged);
                rule = by;
                (if *egress { "dfw-egress" } else { "dfw-ingress" }, self.port(*port), did)
            }
            Event::Routed { .. } => {
                let to = self.owner(after.dst);
                let did = match to {
                    Some(to) => format!("routes to {to}, TTL -1"),
                    None => "routes to the Tier-0, TTL -1".to_owned(),
                };
                ("router", tier1.to_owned(), did)
            }
            Event::SourceTranslated { to } => ("snat", tier1.to_owned(), {
                format!(
                    "translates {} to the namespace's egress address {to}, with a port of its own",
                    before.src
                )
            }),
            Event::Hairpinned => ("dlb", self.port(ingress), {
                "the member is the client itself: its source becomes the virtual server".to_owned()
            }),
            Event::Tier0 { neighbor: Some(n) } => {
                ("tier-0", self.port(n.port), format!("sends to next hop {}, TTL -1", n.address))
            }
            Event::Tier0 { neighbor: None } => {
                ("tier-0", "tier-0".to_owned(), "routes inside, TTL -1".to_owned())
            }
            Event::Delivered(port) => {
                ("deliver", self.port(*port), "hands the packet to the port".to_owned())
            }
        };
        Step {
            stage: stage.to_owned(),
            at,
            did,
            rule,
            before: (before != after).then(|| before.to_string()),
            after: after.to_string(),
        }
    }

    fn explanation(&self, egress: bool) -> Option<&Explanation> {
        let direction = if egress { "egress" } else { "ingress" };
        self.explanations.iter().find(|e| e.direction == direction)
    }

    fn judged(&self, egress: bool, judged: &Judged) -> (String, Option<RuleRef>) {
        match judged {
            Judged::Rule(d) => {
                let rule = self.rule(d.rule);
                let verb = match d.action {
                    Action::Allow => "allows",
                    Action::Drop => "drops",
                    Action::Reject => "rejects",
                };
                let passed = self.explanation(egress).map(|e| &e.passed[..]).unwrap_or_default();
                let passed: String = passed.iter().map(|rule| format!("{rule} passes it on; ")).collect();
                (format!("{passed}{rule} {verb} it"), Some(rule))
            }
            Judged::NoFirewall => ("stands outside policy".to_owned(), None),
            Judged::SamePod => ("a pod always reaches itself".to_owned(), None),
            Judged::OwnNode => ("the pod's own node always reaches it".to_owned(), None),
        }
    }

    /// The way of the reply: the session knows it, no policy is asked.
    fn reply(&self, path: &Path, trace: &Trace, delivered: &Tuple, tier1: &str) -> Vec<Step> {
        let mut tuple = delivered.reversed();
        let from = self.port(path.out.port());
        let did = "belongs to the session: no policy is asked".to_owned();
        let mut steps = vec![self.plain("session", &from, did, &tuple)];
        let original = trace.first.tuple;
        let mut change = |stage: &str, at: &str, did: String, next: Tuple| {
            let before = std::mem::replace(&mut tuple, next);
            steps.push(Step { before: Some(before.to_string()), ..self.plain(stage, at, did, &next) });
        };
        if let Source::Egress(address) = path.source {
            let next = Tuple { dst: original.src, dport: original.sport, ..delivered.reversed() };
            change("snat", tier1, format!("translates {address} back to {}", original.src), next);
        }
        if let Some(server) = path.server {
            let name = self.snap.names.servers.get(&server).cloned().unwrap_or_default();
            let stage = if self.is_uplink(trace.first.ingress) { "vip" } else { "dlb" };
            let did = format!("answers in the virtual server's name, {}", original.dst);
            change(stage, &name, did, original.reversed());
        }
        let back = match &path.back {
            Next::Port(port) => (self.port(*port), "hands the reply to the port".to_owned()),
            Next::Neighbor(n) => (self.port(n.port), format!("sends the reply to next hop {}", n.address)),
        };
        steps.push(self.plain("deliver", &back.0, back.1, &original.reversed()));
        steps
    }

    fn delivered(&self, report: &TraceReport, path: &Path, delivered: &Tuple) -> String {
        let mut text = format!("{} is delivered", subject(report));
        let end = |a: IpAddr, port: u16| {
            if delivered.proto.is_icmp() { a.to_string() } else { SocketAddr::new(a, port).to_string() }
        };
        match &path.out {
            Next::Port(port) => {
                text += &format!(" to {} at {}", self.port(*port), end(delivered.dst, delivered.dport));
            }
            Next::Neighbor(n) => {
                text += &format!(" to {} by {}", end(delivered.dst, delivered.dport), self.port(n.port));
            }
        }
        if let Source::Egress(address) = path.source {
            text += &format!(", seen there as {address}");
        }
        let rules: Vec<String> = [path.egress_rule, path.ingress_rule]
            .into_iter()
            .flatten()
            .map(|r| self.rule(r).to_string())
            .collect();
        match rules.len() {
            0 => text += "; no policy stands in its way",
            _ => text += &format!("; allowed by {}", rules.join(" and ")),
        }
        text + "."
    }

    fn dropped(&self, report: &TraceReport, stop: &Stop, rule: Option<&RuleRef>, dst: IpAddr) -> String {
        let subject = subject(report);
        let (Some(rule), Stop::Drop(reason, _) | Stop::Reject(reason, _)) = (rule, stop) else {
            let verb = if matches!(stop, Stop::Refuse(_)) { "refused" } else { "dropped" };
            let why = match stop.reason() {
                Some(DropReason::NoEndpoint) if self.is_cluster_ip(dst) => {
                    "a ClusterIP has no meaning outside"
                }
                reason => reason.map_or("", DropReason::text),
            };
            return format!("{subject} is {verb}: {why}.");
        };
        let is_egress = *reason == DropReason::EgressDenied;
        let place = match report.steps.last() {
            Some(step) if is_egress => format!("where it leaves {}", step.at),
            Some(step) => format!("in front of {}", step.at),
            None => String::new(),
        };
        let is_rejected = matches!(stop, Stop::Reject(..));
        let why = match (rule.policy.as_str(), rule.rule.as_str()) {
            _ if rule.is_tiered() => {
                format!("{} by {rule}", if is_rejected { "rejected" } else { "denied" })
            }
            (crate::policy::POSTURE, _) => {
                "no NetworkPolicy selects it, and the Supervisor lets nothing in that no policy allows"
                    .to_owned()
            }
            (policies, "isolation") => {
                let verb = if policies.contains(", ") { "isolate" } else { "isolates" };
                format!("{policies} {verb} it, and no rule allows this")
            }
            _ => format!("{rule} denies it"),
        };
        let answer = match (is_rejected, report.protocol.as_str()) {
            (false, _) => "",
            (true, "TCP") => "; its sender gets a reset",
            (true, _) => "; its sender is told that it is administratively prohibited (ICMP)",
        };
        let verb = if is_rejected { "rejected" } else { "dropped" };
        let advice = self.explanation(is_egress).and_then(|e| e.advice.as_ref());
        let advice = advice.map_or_else(String::new, |advice| format!(" {}.", capital(advice)));
        format!("{subject} is {verb} {place}: {why}{answer}.{advice}")
    }

    fn is_cluster_ip(&self, address: IpAddr) -> bool {
        self.snap.servers.addresses.get(&address) == Some(&ServerKind::Distributed)
    }

    fn stopped(&self, stop: &Stop) -> String {
        match stop {
            Stop::Refuse(reason) => format!("refuses it: {reason}"),
            Stop::NoRoute(_) => "there is no route to the destination".to_owned(),
            Stop::TimeExceeded(router) => format!("the TTL ends at {router}"),
            Stop::TooBig(router, mtu) => format!("{router} passes on at most {mtu} bytes"),
            Stop::Drop(reason, _) | Stop::Reject(reason, _) => format!("drops it: {reason}"),
            Stop::EchoReply => String::new(),
        }
    }

    fn is_uplink(&self, port: PortId) -> bool {
        matches!(self.snap.port(port).map(|p| &p.role), Some(PortRole::Uplink(_)))
    }
}

/// Sentences begin with a capital letter, names as they are written.
fn capital(sentence: &str) -> String {
    for (word, capital) in [("no ", "No "), ("that ", "That ")] {
        if let Some(rest) = sentence.strip_prefix(word) {
            return format!("{capital}{rest}");
        }
    }
    sentence.to_owned()
}

fn subject(report: &TraceReport) -> String {
    let port = report.port.map_or_else(String::new, |p| format!(" {p}"));
    format!("{}{port} from {} to {}", report.protocol, report.from, report.to)
}

fn stage_of(stop: &Stop) -> &'static str {
    match stop.reason() {
        Some(DropReason::SpoofedAddress | DropReason::SpoofedMac) => "spoof-guard",
        Some(DropReason::NoServer | DropReason::NoBackend) => "dlb",
        Some(DropReason::NoNatSession) => "snat",
        Some(DropReason::NoRoute | DropReason::Transit) => "tier-0",
        _ => "router",
    }
}
