//! Which pods of a cluster a selector means.

use super::select::LabelIndex;
use crate::model::{Model, Name, Peer, Pod, Selector};
use std::collections::HashMap;

/// Namespaces and the pods in them that policy applies to, by their labels. Pods on their node's network are left
/// out.
pub(crate) struct ClusterIndex<'a> {
    names: Vec<&'a str>,
    labels: LabelIndex<'a>,
    pods: HashMap<&'a str, Members<'a>>,
}

#[derive(Default)]
struct Members<'a> {
    labels: LabelIndex<'a>,
    names: Vec<&'a Name>,
}

impl<'a> ClusterIndex<'a> {
    pub(crate) fn of(model: &'a Model) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in model.pods.values().filter(|p| !p.host_network) {
            by_namespace.entry(&pod.name.namespace).or_default().push(pod);
        }
        let members = |pods: Vec<&'a Pod>| Members {
            labels: pods.iter().map(|p| &p.labels).collect(),
            names: pods.iter().map(|p| &p.name).collect(),
        };
        Self {
            names: model.namespaces.keys().map(String::as_str).collect(),
            labels: model.namespaces.values().map(|n| &n.labels).collect(),
            pods: by_namespace.into_iter().map(|(namespace, pods)| (namespace, members(pods))).collect(),
        }
    }

    /// All pods.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &'a Name> {
        self.pods.values().flat_map(|members| &members.names).copied()
    }

    /// The pods of a namespace that are selected, ascending.
    pub(crate) fn select_in(&self, namespace: &str, pods: &Selector) -> Vec<&'a Name> {
        let Some(members) = self.pods.get(namespace) else { return Vec::new() };
        members.labels.select(pods).into_iter().map(|at| members.names[at]).collect()
    }

    /// The pods that a peer selects; none if it speaks of addresses, or of a policy's own namespace, which policies of
    /// administrators have not.
    pub(crate) fn select(&self, peer: &Peer) -> Vec<&'a Name> {
        let Peer::Pods { namespaces: Some(namespaces), pods } = peer else { return Vec::new() };
        let selected = self.labels.select(namespaces);
        let all = Selector::ALL;
        let pods = pods.as_ref().unwrap_or(&all);
        selected.into_iter().flat_map(|at| self.select_in(self.names[at], pods)).collect()
    }
}

/// Which pods policies of administrators are applied to.
pub(crate) struct Applied<'a>(ClusterIndex<'a>);

impl<'a> Applied<'a> {
    pub(crate) fn of(model: &'a Model) -> Self {
        Self(ClusterIndex::of(model))
    }

    /// The pods of a namespace that are selected.
    pub(crate) fn pods_in(&self, namespace: &str, pods: &crate::model::Selector) -> Vec<&'a Name> {
        self.0.select_in(namespace, pods)
    }

    /// The pods of an `appliedTo`; all of them if it is empty. Each once, in no order.
    pub(crate) fn pods(&self, to: &[Peer]) -> Vec<&'a Name> {
        if to.is_empty() {
            return self.0.pods().collect();
        }
        let mut pods: Vec<&Name> = to.iter().flat_map(|peer| self.0.select(peer)).collect();
        pods.sort_unstable();
        pods.dedup();
        pods
    }
}
