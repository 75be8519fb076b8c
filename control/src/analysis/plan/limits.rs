//! Limits of connections, as a plan tells them.

use serde::Serialize;
use std::{collections::HashMap, num::NonZeroU32};
use supernet_dataplane::{
    flow::ConnectionLimits,
    id::{NamespaceId, PortId},
    snapshot::Snapshot,
};

/// How many connections each of some pods, or namespaces, may have. `null`: any number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitPlan {
    /// "namespace": of its pods together; or "pod".
    pub kind: &'static str,
    /// Whom it holds for, each for itself.
    pub applied_to: Vec<String>,
    /// Connections at one time.
    pub connections: Option<u32>,
    /// TCP connections at one time whose handshake is not complete.
    pub half_open: Option<u32>,
    /// New connections a second.
    pub new_per_second: Option<u32>,
}

/// Limits of namespaces, then of pods.
pub(super) fn limits(snapshot: &Snapshot) -> Vec<LimitPlan> {
    let names = &snapshot.names;
    let namespaces = snapshot.limits.namespaces.iter().zip(0..);
    let namespaces = namespaces.filter_map(|(l, id)| Some((l, names.namespaces.get(&NamespaceId(id))?)));
    let pods = snapshot.limits.ports.iter().zip(0..);
    let pods = pods.filter_map(|(l, id)| Some((l, names.ports.get(&PortId(id))?)));
    let mut rows = grouped("namespace", namespaces);
    rows.extend(grouped("pod", pods));
    rows
}

/// One row for all that have the same limits, in order of the first name of each.
fn grouped<'a>(
    kind: &'static str,
    all: impl Iterator<Item = (&'a ConnectionLimits, &'a String)>,
) -> Vec<LimitPlan> {
    let number = |limit: Option<NonZeroU32>| limit.map(NonZeroU32::get);
    let mut groups: HashMap<ConnectionLimits, Vec<String>> = HashMap::new();
    for (limits, name) in all.filter(|(limits, _)| !limits.is_none()) {
        groups.entry(*limits).or_default().push(name.clone());
    }
    let row = |(limits, mut applied_to): (ConnectionLimits, Vec<String>)| {
        applied_to.sort_unstable();
        LimitPlan {
            kind,
            applied_to,
            connections: number(limits.connections),
            half_open: number(limits.half_open),
            new_per_second: number(limits.new_per_second),
        }
    };
    let mut rows: Vec<LimitPlan> = groups.into_iter().map(row).collect();
    rows.sort_unstable_by(|a, b| a.applied_to.cmp(&b.applied_to));
    rows
}
