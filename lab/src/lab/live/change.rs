//! What a change does to a lab, for those who ask.

use crate::output::{Listing, Style};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};
use supernet_control::{
    analysis::plan::PodPlan,
    ipam::Addressing,
    model::{Model, Name, ObjectId, ObjectKind, Step},
};

/// What a change did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Changes {
    /// The lab.
    pub(crate) lab: String,
    /// Nothing was changed: this is what would be.
    pub(crate) dry_run: bool,
    /// By kind and name.
    pub(crate) objects: Vec<ObjectChange>,
    /// What should be known, though it stopped nothing.
    pub(crate) warnings: Vec<String>,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ObjectChange {
    /// What.
    pub(crate) change: ChangeKind,
    /// "Pod".
    pub(crate) kind: String,
    /// Absent for kinds that lie in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// Its name in the namespace.
    pub(crate) name: String,
    /// Of a pod: the workload that it was made from, "deployment/web".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<String>,
    /// Of a pod or Service: the addresses it has or, if removed, had.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) addresses: Vec<IpAddr>,
    /// Of a pod or Service that has other addresses now: those before.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) addresses_before: Vec<IpAddr>,
}

/// What can become of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ChangeKind {
    Added,
    Changed,
    Removed,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

/// A network as far as changes of it are told.
pub(super) struct Seen<'a> {
    pub(super) model: &'a Model,
    pub(super) addressing: &'a Addressing,
    pub(super) pods: &'a [PodPlan],
}

/// What is different between two states of a network.
pub(super) fn between(was: &Seen<'_>, is: &Seen<'_>) -> Vec<ObjectChange> {
    let (before, after) = (was.addresses(), is.addresses());
    let mut steps = was.model.difference(is.model);
    let named: BTreeSet<ObjectId> = steps.iter().map(|(_, id)| id.clone()).collect();
    // What says the same as before may be given other addresses.
    let moved = after.iter().filter(|(id, now)| before.get(*id).is_some_and(|then| then != *now));
    steps.extend(moved.filter(|(id, _)| !named.contains(*id)).map(|(id, _)| (Step::Changed, id.clone())));
    steps.sort_by(|a, b| a.1.cmp(&b.1));
    let of = |addresses: &BTreeMap<ObjectId, Vec<IpAddr>>, id: &ObjectId| {
        addresses.get(id).cloned().unwrap_or_default()
    };
    let changes = steps.into_iter().map(|(step, id)| {
        let (then, now) = (of(&before, &id), of(&after, &id));
        let (change, addresses, addresses_before) = match step {
            Step::Added => (ChangeKind::Added, now, Vec::new()),
            Step::Removed => (ChangeKind::Removed, then, Vec::new()),
            Step::Changed if then == now => (ChangeKind::Changed, now, Vec::new()),
            Step::Changed => (ChangeKind::Changed, now, then),
        };
        let pods = if step == Step::Removed { &was.model.pods } else { &is.model.pods };
        let pod = pods.get(&id.name).filter(|_| id.kind == ObjectKind::Pod);
        ObjectChange {
            change,
            kind: id.kind.to_string(),
            namespace: Some(id.name.namespace).filter(|n| !n.is_empty()),
            name: id.name.name,
            workload: pod.and_then(|p| p.owner.clone()),
            addresses,
            addresses_before,
        }
    });
    changes.collect()
}

impl Seen<'_> {
    /// The addresses of pods and Services.
    fn addresses(&self) -> BTreeMap<ObjectId, Vec<IpAddr>> {
        let pods = self.pods.iter().filter_map(|p| {
            let (namespace, name) = p.name.split_once('/')?;
            Some((ObjectId { kind: ObjectKind::Pod, name: Name::new(namespace, name) }, p.ips.clone()))
        });
        let mut all: BTreeMap<ObjectId, Vec<IpAddr>> = pods.collect();
        for (name, addresses) in self.addressing.cluster_ips.iter().chain(&self.addressing.ingress) {
            let id = ObjectId { kind: ObjectKind::Service, name: name.clone() };
            all.entry(id).or_default().extend(addresses);
        }
        all
    }
}

impl Changes {
    /// For people.
    pub(super) fn tables(&self, style: Style) -> String {
        let mut table = Listing::new("Changes", &["CHANGE", "KIND", "NAME", "ADDRESSES"], style);
        let list =
            |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        for o in &self.objects {
            let name = match &o.namespace {
                Some(namespace) => format!("{namespace}/{}", o.name),
                None => o.name.clone(),
            };
            let addresses = match &o.addresses_before[..] {
                [] if o.addresses.is_empty() => "-".to_owned(),
                [] => list(&o.addresses),
                before => format!("{} (before: {})", list(&o.addresses), list(before)),
            };
            table.row([o.change.to_string(), o.kind.clone(), name, addresses]);
        }
        table.render() + &self.sentence() + "\n"
    }

    /// All of it in a sentence: "lab shop: 2 added, 1 removed".
    pub(super) fn sentence(&self) -> String {
        let count = |kind| self.objects.iter().filter(|o| o.change == kind).count();
        let counts = [ChangeKind::Added, ChangeKind::Changed, ChangeKind::Removed].map(|k| (k, count(k)));
        let said: Vec<String> =
            counts.iter().filter(|(_, n)| *n > 0).map(|(kind, n)| format!("{n} {kind}")).collect();
        let said = if said.is_empty() { "nothing to change".to_owned() } else { said.join(", ") };
        let dry = if self.dry_run { "; this is a dry run, nothing was changed" } else { "" };
        format!("lab {}: {said}{dry}", self.lab)
    }
}
