//! Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets, Jobs and CronJobs: read here, made
//! into pods by `expand`.

use super::{
    declared::{Declared, Meta, Scope},
    expand, pod,
    reading::{Fields, Reading},
    schema::{self, Kind, Schema},
    selector, syntax,
    yaml::{Node, Value},
};
use crate::model::{Labels, Name, Pod, Position, Selector};

/// A workload that is to be expanded, unless what it made was declared too.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) kind: Kind,
    pub(super) name: Name,
    pub(super) count: Count,
    pub(super) template: Template,
    pub(super) at: Position,
}

/// How many pods, and how they are told apart.
#[derive(Debug)]
pub(super) enum Count {
    /// This many, all alike.
    Replicas(u32),
    /// This many, numbered from `start`.
    Ordinals { start: u32, replicas: u32 },
    /// One on every node that fits.
    EveryNode,
    /// Those of one run.
    Run { pods: u32, indexed: bool, uid: Option<String> },
}

/// What every pod of a workload looks like.
#[derive(Debug)]
pub(super) struct Template {
    /// The pod, with the workload's namespace and without a name.
    pub(super) pod: Pod,
    pub(super) node_selector: Labels,
    /// Depends on the template's content alone.
    pub(super) hash: u64,
}

pub(super) fn read(r: &mut Reading, kind: Kind, node: &Node, declared: &mut Declared) {
    let (object, spec, status) = schemas(kind);
    let fields = r.fields(node, object);
    let meta = Meta::read(r, &fields, Scope::Namespace, syntax::dns_subdomain);
    let status = r.sub(&fields, "status", status);
    let Some(spec) = r.required(&fields, "spec").map(|n| r.fields(n, spec)) else { return };
    let named = meta.as_ref().map_or_else(String::new, |m| format!("{} {}", kind.name(), m.name));
    let namespace = meta.as_ref().map_or("", |m| &m.name.namespace);
    let read = match kind {
        Kind::Job => job(r, &spec, &named, namespace),
        Kind::CronJob => cron_job(r, &spec, &named, namespace),
        _ => replicated(r, kind, &spec, &named, namespace),
    };
    let done = kind == Kind::Job && is_done(r, &status);
    let Some(meta) = meta else { return };
    let at = r.at(node.place);
    if !declared.claim(r, kind, &meta.name, &at) {
        return;
    }
    if let Some(owner) = &meta.owner {
        owned_by(declared, &meta.name.namespace, owner, &meta.labels);
    }
    let Some((mut count, mut template)) = read else { return };
    if let Count::Run { pods, uid, .. } = &mut count {
        *uid = meta.uid;
        if done {
            *pods = 0;
        }
    }
    let owner = format!("{}/{}", kind.name().to_lowercase(), meta.name.name);
    template.pod.owner = Some(owner);
    template.pod.at = at.clone();
    declared.workloads.push(Workload { kind, name: meta.name, count, template, at });
}

/// Notes that `owner` has made something with these labels, and so is not to be expanded.
pub(super) fn owned_by(declared: &mut Declared, namespace: &str, owner: &(String, String), labels: &Labels) {
    let (kind, name) = owner;
    let Some((kind, ..)) = Kind::ALL.iter().find(|(_, k, _)| k == kind) else { return };
    declared.owners.insert((*kind, Name::new(namespace, name)));
    // The link in between may not have been declared: pods and Deployments without their ReplicaSets, say.
    let grandparent = match kind {
        Kind::ReplicaSet => labels
            .get(expand::TEMPLATE_HASH)
            .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'))
            .map(|deployment| (Kind::Deployment, deployment)),
        Kind::Job => name
            .rsplit_once('-')
            .filter(|(_, time)| time.len() >= 8 && time.bytes().all(|b| b.is_ascii_digit()))
            .map(|(cron_job, _)| (Kind::CronJob, cron_job)),
        _ => None,
    };
    if let Some((kind, name)) = grandparent {
        declared.owners.insert((kind, Name::new(namespace, name)));
    }
}

fn schemas(kind: Kind) -> (&'static Schema, &'static Schema, &'static Schema) {
    match kind {
        Kind::ReplicaSet => (&schema::REPLICA_SET, &schema::REPLICA_SET_SPEC, &schema::REPLICA_SET_STATUS),
        // Its status has the fields of a ReplicaSet's.
        Kind::ReplicationController => (
            &schema::REPLICATION_CONTROLLER,
            &schema::REPLICATION_CONTROLLER_SPEC,
            &schema::REPLICA_SET_STATUS,
        ),
        Kind::StatefulSet => {
            (&schema::STATEFUL_SET, &schema::STATEFUL_SET_SPEC, &schema::STATEFUL_SET_STATUS)
        }
        Kind::DaemonSet => (&schema::DAEMON_SET, &schema::DAEMON_SET_SPEC, &schema::DAEMON_SET_STATUS),
        Kind::Job => (&schema::JOB, &schema::JOB_SPEC, &schema::JOB_STATUS),
        Kind::CronJob => (&schema::CRON_JOB, &schema::CRON_JOB_SPEC, &schema::CRON_JOB_STATUS),
        _ => (&schema::DEPLOYMENT, &schema::DEPLOYMENT_SPEC, &schema::DEPLOYMENT_STATUS),
    }
}

type Read = Option<(Count, Template)>;

fn replicated(r: &mut Reading, kind: Kind, spec: &Fields<'_>, named: &str, namespace: &str) -> Read {
    let replicas = r.count_of(spec, "replicas").unwrap_or(1);
    let ordinals = r.sub(spec, "ordinals", &schema::STATEFUL_SET_ORDINALS);
    let start = r.count_of(&ordinals, "start").unwrap_or(0);
    let (selector_node, selector) = if kind == Kind::ReplicationController {
        // Plain labels; left out, they are the template's.
        let node = spec.get("selector");
        (node, node.map(|n| Selector::labels(r.labels(n))))
    } else {
        let node = r.required(spec, "selector");
        (node, node.map(|n| selector::read(r, n)))
    };
    let mut template = template(r, spec, named, namespace)?;
    if kind == Kind::StatefulSet {
        let service = spec.filled("serviceName");
        template.pod.dns.subdomain = service.and_then(|n| r.text(n)).map(str::to_owned);
    }
    if let (Some(node), Some(selector)) = (selector_node, selector) {
        if selector.requirements.is_empty() {
            r.invalid(node.place, "an empty selector", "select the labels of spec.template");
        } else if !selector.matches(&template.pod.labels) {
            let what = "spec.selector does not match the labels of spec.template";
            r.invalid(node.place, what, "give the template the labels that the selector asks for");
        }
    }
    let count = match kind {
        Kind::StatefulSet => Count::Ordinals { start, replicas },
        Kind::DaemonSet => Count::EveryNode,
        _ => Count::Replicas(replicas),
    };
    Some((count, template))
}

fn job(r: &mut Reading, spec: &Fields<'_>, named: &str, namespace: &str) -> Read {
    let parallelism = r.count_of(spec, "parallelism").unwrap_or(1);
    let completions = r.count_of(spec, "completions");
    let modes = [("Indexed", true), ("NonIndexed", false)];
    let mode = spec.get("completionMode");
    let indexed = mode.and_then(|n| r.word(n, &modes)).unwrap_or(false);
    if let (true, None, Some(node)) = (indexed, completions, mode) {
        r.invalid(node.place, "an Indexed Job without completions", "add spec.completions");
    }
    let suspended = r.bool_of(spec, "suspend").unwrap_or(false);
    if let Some(node) = spec.get("selector") {
        selector::read(r, node);
    }
    let template = template(r, spec, named, namespace)?;
    // Pods that run at the same time.
    let pods = if suspended { 0 } else { parallelism.min(completions.unwrap_or(u32::MAX)) };
    Some((Count::Run { pods, indexed, uid: None }, template))
}

fn cron_job(r: &mut Reading, spec: &Fields<'_>, named: &str, namespace: &str) -> Read {
    let suspended = r.bool_of(spec, "suspend").unwrap_or(false);
    let job_template = r.required(spec, "jobTemplate")?;
    let fields = r.fields(job_template, &schema::JOB_TEMPLATE);
    Meta::read(r, &fields, Scope::Template, |_| Ok(()));
    let job_spec = r.required(&fields, "spec").map(|n| r.fields(n, &schema::JOB_SPEC))?;
    let (mut count, template) = job(r, &job_spec, named, namespace)?;
    if let (true, Count::Run { pods, .. }) = (suspended, &mut count) {
        *pods = 0;
    }
    Some((count, template))
}

fn template(r: &mut Reading, spec: &Fields<'_>, named: &str, namespace: &str) -> Option<Template> {
    let node = r.required(spec, "template")?;
    let fields = r.fields(node, &schema::POD_TEMPLATE);
    let mut meta = Meta::read(r, &fields, Scope::Template, |_| Ok(()))?;
    namespace.clone_into(&mut meta.name.namespace);
    let spec = pod::read_spec(r, &fields, named);
    let node_selector = spec.node_selector.clone();
    let pod = spec.into_pod(r, &meta);
    let mut hash = expand::Hash::new();
    hash_content(&mut hash, node);
    Some(Template { pod, node_selector, hash: hash.finish() })
}

/// Feeds a value to a hash, whatever the order of its fields and wherever it stands.
fn hash_content(hash: &mut expand::Hash, node: &Node) {
    match &node.value {
        Value::Null => hash.add(b"~"),
        Value::Bool(b) => hash.add(if *b { b"+" } else { b"-" }),
        Value::Number(text) => hash.add(b"#").add(text.as_bytes()),
        Value::String(text) => hash.add(b"\"").add(text.as_bytes()),
        Value::List(items) => {
            hash.add(b"[");
            for item in items {
                hash_content(hash, item);
            }
            hash.add(b"]")
        }
        Value::Map(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by(|a, b| a.0.text.cmp(&b.0.text));
            hash.add(b"{");
            for (key, value) in sorted {
                hash.add(key.text.as_bytes());
                hash_content(hash, value);
            }
            hash.add(b"}")
        }
    };
}

fn is_done(r: &mut Reading, status: &Fields<'_>) -> bool {
    let mut done = false;
    for node in r.list(status, "conditions") {
        let condition = r.fields(node, &schema::CONDITION);
        let (kind, value) = (r.text_of(&condition, "type"), r.text_of(&condition, "status"));
        done |= matches!(kind, Some("Complete" | "Failed")) && value == Some("True");
    }
    done
}
