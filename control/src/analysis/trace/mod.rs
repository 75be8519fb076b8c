//! What happens to a packet, stage by stage, and why.
//!
//! The packet walks the real stages of the compiled snapshot with a commit that claims nothing; this module
//! puts names to what they did. The answer says what matched at every stage, addresses before and after, how
//! the reply comes back, and the verdict in one sentence.

mod probe;
mod words;

pub use super::explain::RuleRef;
pub use probe::{End, Probe, TraceError};

use super::{
    explain::{Explanation, Question},
    view::View,
};
use crate::{intern::Interner, ipam::Addressing, model::Model, place::Places};
use serde::Serialize;
use std::fmt;
use supernet_dataplane::{
    flow::Quotas,
    snapshot::Snapshot,
    stage::{Event, Judged, dfw},
    trace::Trace,
};

/// What happened to a traced packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceReport {
    /// Where it started: "shop/web-0", "outside".
    pub from: String,
    /// Where it was sent: "shop/svc/db".
    pub to: String,
    /// "TCP", "UDP", "SCTP", "ICMP" or "ICMPv6".
    pub protocol: String,
    /// Its destination port; `null` for ICMP.
    pub port: Option<u16>,
    /// The packet as it was sent: "10.244.0.2:49152 > 10.96.0.1:80 TCP".
    pub packet: String,
    /// Whether it reached its destination.
    pub delivered: bool,
    /// One sentence.
    pub verdict: String,
    /// Why it was dropped: the name of a drop reason, as in counters; `null` if it was not.
    pub drop_reason: Option<String>,
    /// The rule that denied it; `null` if no rule did.
    pub denied_by: Option<RuleRef>,
    /// Why each firewall that was asked decided as it did, and what would have to differ if it denied.
    pub explanations: Vec<Explanation>,
    /// If it went to a virtual server: how many members there are, and how many would be reached.
    pub members: Option<Members>,
    /// What it met, in order.
    pub steps: Vec<Step>,
    /// What the reply meets, in order; empty if the packet was not delivered.
    pub reply: Vec<Step>,
}

/// How the members of a virtual server fare. A connection is sent to one of them; the steps show which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// Members that take new connections.
    pub active: usize,
    /// Those of them that a connection like this one reaches.
    pub reached: usize,
}

/// What one stage did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The stage: "spoof-guard", "dlb", "dfw-egress", "router", "snat", "tier-0", "urpf", "vip", "dfw-ingress",
    /// "limits", "deliver", "session", "gateway".
    pub stage: String,
    /// Where: a port, a Tier-1, an uplink.
    pub at: String,
    /// What it did, in words.
    pub did: String,
    /// The firewall rule that matched, if one did.
    pub rule: Option<RuleRef>,
    /// The packet before, if the stage changed it.
    pub before: Option<String>,
    /// The packet after.
    pub after: String,
}

impl TraceReport {
    /// Traces a probe through a snapshot. `seed` is the dataplane's, so that the same members are picked. `quotas` are
    /// what pods and namespaces have now, where packets run: a connection that a limit would refuse is dropped.
    ///
    /// # Errors
    /// The probe names what is not there, or stands for no packet.
    pub fn of(
        probe: &Probe,
        model: &Model,
        addressing: &Addressing,
        snapshot: &Snapshot,
        interner: &mut Interner,
        seed: u64,
        quotas: Option<&Quotas>,
    ) -> Result<Self, TraceError> {
        let places = Places::of(model, addressing, interner)?;
        let context = probe::Context { model, addressing, snapshot, places: &places };
        Self::in_context(probe, &context, seed, quotas)
    }

    /// Traces a probe through a network of which everything is known.
    ///
    /// # Errors
    /// The probe names what is not there, or stands for no packet.
    pub(super) fn through(probe: &Probe, view: &View<'_>, seed: u64) -> Result<Self, TraceError> {
        let View { model, addressing, snapshot, ref places, .. } = *view;
        Self::in_context(probe, &probe::Context { model, addressing, snapshot, places }, seed, None)
    }

    fn in_context(
        probe: &Probe,
        context: &probe::Context<'_>,
        seed: u64,
        quotas: Option<&Quotas>,
    ) -> Result<Self, TraceError> {
        let resolved = context.resolve(probe, seed)?;
        let probe::Context { model, addressing, snapshot, .. } = *context;
        let trace = Trace::of(snapshot, resolved.first);
        let members = probe::members(snapshot, &trace);
        let explanations = explanations(model, addressing, snapshot, &trace);
        Ok(words::report(snapshot, resolved, &trace, members, explanations, quotas))
    }

    /// Whether the packet reached its destination.
    pub fn delivered(&self) -> bool {
        self.delivered
    }
}

/// What the firewalls said that were asked on the way.
fn explanations(
    model: &Model,
    addressing: &Addressing,
    snapshot: &Snapshot,
    trace: &Trace,
) -> Vec<Explanation> {
    let judged = trace.events.iter().filter_map(|(event, tuple)| match event {
        Event::Judged { egress, judged: Judged::Rule(_), .. } => {
            let (own, peer) = if *egress { (tuple.src, tuple.dst) } else { (tuple.dst, tuple.src) };
            let (proto, port) = dfw::service(tuple);
            Some(Question { egress: *egress, own, peer, proto, port })
        }
        _ => None,
    });
    judged.filter_map(|question| Explanation::of(model, addressing, snapshot, &question)).collect()
}

impl fmt::Display for TraceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, steps) in [("", &self.steps), ("reply", &self.reply)] {
            if !title.is_empty() && !steps.is_empty() {
                writeln!(f, "{title}")?;
            }
            for step in steps {
                writeln!(f, "  {:<12} {:<20} {}  [{}]", step.stage, step.at, step.did, step.after)?;
            }
        }
        f.write_str(&self.verdict)
    }
}

#[cfg(test)]
mod tests;
