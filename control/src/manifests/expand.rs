//! Workloads become pods, with the names and labels that Kubernetes' controllers would give them.
//!
//! Where Kubernetes draws names at random, they come from a hash of the workload's name and the pod's number,
//! so that the same manifests give the same pods, and from the characters that Kubernetes uses (no vowels).

use super::{
    schema::Kind,
    workload::{Count, Workload},
};
use crate::model::{At, Labels, Name, Pod};
use std::collections::BTreeSet;

/// Label of a Deployment's pods.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// A node, as far as scheduling goes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) labels: Labels,
}

/// How many pods a workload has.
pub(super) fn count(workload: &Workload, nodes: &[Place]) -> usize {
    match &workload.count {
        Count::Replicas(n) | Count::Ordinals { replicas: n, .. } | Count::Run { pods: n, .. } => *n as usize,
        Count::EveryNode => fitting(workload, nodes).count(),
    }
}

/// The pods of a workload. Names in `taken` are avoided where Kubernetes would draw them; those drawn are added.
pub(super) fn expand(workload: &Workload, nodes: &[Place], taken: &mut BTreeSet<Name>) -> Vec<Pod> {
    let hash = encode(workload.template.hash, 10);
    let name = &workload.name.name;
    let mut pods: Vec<Pod> = Vec::new();
    match (&workload.count, workload.kind) {
        (Count::Replicas(replicas), kind) => {
            let mut labels = workload.template.pod.labels.clone();
            let mut set = name.clone();
            if kind == Kind::Deployment {
                labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
                set = format!("{name}-{hash}");
            }
            for i in 0..*replicas {
                let name = draw(workload, &set, i, taken);
                pods.push(pod(workload, name, labels.clone()));
            }
        }
        (Count::Ordinals { start, replicas }, _) => {
            for i in *start..start.saturating_add(*replicas) {
                let pod_name = format!("{name}-{i}");
                let mut labels = workload.template.pod.labels.clone();
                labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), pod_name.clone());
                labels.insert("apps.kubernetes.io/pod-index".to_owned(), i.to_string());
                labels.insert("controller-revision-hash".to_owned(), format!("{name}-{hash}"));
                let mut pod = pod(workload, pod_name.clone(), labels);
                pod.dns.hostname = Some(pod_name);
                pods.push(pod);
            }
        }
        (Count::EveryNode, _) => {
            let mut labels = workload.template.pod.labels.clone();
            labels.insert("controller-revision-hash".to_owned(), hash);
            labels.insert("pod-template-generation".to_owned(), "1".to_owned());
            for (i, place) in (0..).zip(fitting(workload, nodes)) {
                let mut pod = pod(workload, draw(workload, name, i, taken), labels.clone());
                pod.node = Some(At::new(place.node.clone(), workload.at.clone()));
                pods.push(pod);
            }
        }
        (Count::Run { pods: count, indexed, uid }, kind) => {
            let mut job = name.clone();
            if kind == Kind::CronJob {
                // Kubernetes appends the minute of the run.
                job = format!("{name}-{}", 20_000_000 + workload.template.hash % 10_000_000);
            }
            let uid = uid.clone().unwrap_or_else(|| made_up_uid(workload));
            let mut labels = workload.template.pod.labels.clone();
            for key in ["controller-uid", "batch.kubernetes.io/controller-uid"] {
                labels.insert(key.to_owned(), uid.clone());
            }
            for key in ["job-name", "batch.kubernetes.io/job-name"] {
                labels.insert(key.to_owned(), job.clone());
            }
            for i in 0..*count {
                let mut labels = labels.clone();
                let mut prefix = job.clone();
                if *indexed {
                    labels.insert("batch.kubernetes.io/job-completion-index".to_owned(), i.to_string());
                    prefix = format!("{job}-{i}");
                }
                let mut pod = pod(workload, draw(workload, &prefix, i, taken), labels);
                if *indexed {
                    pod.dns.hostname = Some(prefix);
                }
                pods.push(pod);
            }
        }
    }
    pods
}

fn pod(workload: &Workload, name: String, labels: Labels) -> Pod {
    let mut pod = workload.template.pod.clone();
    pod.name.name = name;
    pod.labels = labels;
    pod
}

/// The nodes that a DaemonSet runs on.
fn fitting<'a>(workload: &'a Workload, nodes: &'a [Place]) -> impl Iterator<Item = &'a Place> {
    let template = &workload.template;
    nodes.iter().filter(|place| {
        template.pod.node.as_ref().is_none_or(|n| n.value == place.node)
            && template.node_selector.iter().all(|(k, v)| place.labels.get(k) == Some(v))
    })
}

/// Kubernetes' `generateName`: the prefix, cut to 58 characters with its hyphen, and five more.
fn draw(workload: &Workload, prefix: &str, number: u32, taken: &mut BTreeSet<Name>) -> String {
    let base: String = format!("{prefix}-").chars().take(58).collect();
    for attempt in 0_u32.. {
        let mut hash = Hash::new();
        hash.add(workload.kind.name().as_bytes()).add(workload.name.name.as_bytes());
        hash.add(&workload.template.hash.to_le_bytes())
            .add(&number.to_le_bytes())
            .add(&attempt.to_le_bytes());
        let name = Name::new(&workload.name.namespace, format!("{base}{}", encode(hash.finish(), 5)));
        if taken.insert(name.clone()) {
            return name.name;
        }
    }
    base
}

fn made_up_uid(workload: &Workload) -> String {
    let half = |salt: u8| {
        let mut hash = Hash::new();
        hash.add(&[salt]).add(workload.name.namespace.as_bytes()).add(workload.name.name.as_bytes());
        hash.finish()
    };
    let (a, b) = (half(0), half(1));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

fn encode(mut hash: u64, length: usize) -> String {
    const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = String::with_capacity(length);
    for _ in 0..length {
        text.push(char::from(SAFE[usize::try_from(hash % 27).unwrap_or(0)]));
        hash /= 27;
    }
    text
}

/// FNV-1a with a final mix. Names depend on it, so it must never change, as std's hasher may.
#[derive(Debug)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a piece and an end mark, so that `ab`, `c` is not `a`, `bc`.
    pub(super) fn add(&mut self, bytes: &[u8]) -> &mut Self {
        for b in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    pub(super) fn finish(&self) -> u64 {
        let mut h = self.0;
        h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        h ^ (h >> 32)
    }
}
