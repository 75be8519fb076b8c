//! Kubernetes YAML and JSON to a [`Model`].
//!
//! ```text
//!   source ──▶ yaml ──▶ document ──▶ one reader a kind ──▶ declared ──▶ assemble ──▶ Model
//!   (files)    (tree)   (lists)      (schema, reading)                  (expand)
//! ```
//!
//! What is read: Namespace, Node, Pod, Service, EndpointSlice, NetworkPolicy, ClusterNetworkPolicy,
//! AdminNetworkPolicy, BaselineAdminNetworkPolicy, and `Supervisor`, `SecurityPolicy` and `AddressSet`
//! (`supernet.dev/v1alpha1`). Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, Job and
//! CronJob become pods, named and labelled as Kubernetes would; if what a workload made was declared too
//! (`kubectl get -o yaml`), that stands for the expansion. Other kinds are skipped, with one warning that counts
//! them.
//!
//! What always holds: nothing is read by halves. Either every object was understood, or the caller gets
//! [`Errors`], all of them, each with file, line and column. A field that Kubernetes does not have is an
//! error; one that it has and a network does not need is passed over; one that Supernet does not enforce yet is
//! a [`Warning`]. Rules are the API server's where they concern the network, and left alone elsewhere (a pod
//! without containers is a pod without ports).
//!
//! Annotations: `supernet.dev/ip` (addresses of a pod or node, one a family, separated by commas);
//! `supernet.dev/snat-ip` or `ncp/static_snat_ip`, and `supernet.dev/snat: "false"` or `ncp/no_snat: "true"`, on a
//! namespace.

mod admin_policy;
mod assemble;
mod cluster;
mod declared;
mod document;
mod error;
mod expand;
mod limits;
mod pod;
mod policy;
mod reading;
mod schema;
mod security_policy;
mod selector;
mod service;
mod source;
mod supervisor;
mod syntax;
#[cfg(test)]
mod tests;
mod workload;
mod yaml;

pub use error::{Errors, ManifestError, Problem, Warning};

use crate::model::{Model, Object, Pod, Position, Supervisor};
use declared::Declared;
use reading::Reading;
use std::{path::Path, sync::Arc};
use yaml::{Fault, FaultKind};

/// What manifests say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifests {
    /// The whole desired state.
    pub model: Model,
    /// What should be known, though it stops nothing.
    pub warnings: Vec<Warning>,
    /// Whether a Supervisor was among them; if not, the model holds the default one.
    pub supervisor_given: bool,
}

/// What manifests add to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// The objects, in an order in which they can be inserted.
    pub objects: Vec<Object>,
    /// The workloads that were declared, whose pods are among the objects.
    pub workloads: Vec<WorkloadId>,
    /// What should be known, though it stops nothing.
    pub warnings: Vec<Warning>,
}

/// Names a workload as its pods do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId {
    /// Its namespace.
    pub namespace: String,
    /// Its kind and name as in [`Pod::owner`]: "deployment/web".
    pub owner: String,
}

impl WorkloadId {
    /// Whether `pod` is one of its pods.
    pub fn owns(&self, pod: &Pod) -> bool {
        pod.name.namespace == self.namespace && pod.owner.as_deref() == Some(&*self.owner)
    }
}

/// A text, and what positions call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The file's name as it was given.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Reads files and folders as [`read`] does, and does no more: for those who have them understood elsewhere.
///
/// # Errors
/// What cannot be read, or is no text.
pub fn texts(paths: impl IntoIterator<Item: AsRef<Path>>) -> Result<Vec<Text>, Errors> {
    let mut reader = Reader::new();
    let mut texts = Vec::new();
    for path in paths {
        for source in source::open(path.as_ref(), &mut reader.seen) {
            match source.text.map(String::from_utf8) {
                Ok(Ok(text)) => texts.push(Text { name: source.name, text }),
                // The reader has the words for it.
                Ok(Err(e)) => reader.bytes(&source.name, e.as_bytes()),
                Err(problem) => reader.unreadable(source.name, problem),
            }
        }
    }
    if reader.reading.errors.is_empty() { Ok(texts) } else { Err(Errors(reader.reading.errors)) }
}

/// Reads files and folders (recursively: `*.yaml`, `*.yml`, `*.json`, sorted); `-` is standard input.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("shop.yaml");
/// std::fs::write(&file, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {
///   replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {}}}}")?;
/// let manifests = supernet_control::manifests::read([&file])?;
/// assert_eq!(manifests.model.pods.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Everything that is wrong, in the order of the text.
pub fn read(paths: impl IntoIterator<Item: AsRef<Path>>) -> Result<Manifests, Errors> {
    let mut reader = Reader::new();
    for path in paths {
        reader.path(path);
    }
    reader.finish()
}

/// Reads one text; `file` is what positions call it.
///
/// # Errors
/// Everything that is wrong, in the order of the text.
pub fn read_str(file: &str, text: &str) -> Result<Manifests, Errors> {
    let mut reader = Reader::new();
    reader.text(file, text);
    reader.finish()
}

/// Reads one text as an addition to `base`: references may lead into it, DaemonSets run on its nodes. Pods that
/// an earlier version of a workload was expanded to are not removed.
///
/// # Errors
/// Everything that is wrong, in the order of the text.
pub fn read_objects(file: &str, text: &str, base: &Model) -> Result<Objects, Errors> {
    let mut reader = Reader::new();
    reader.text(file, text);
    reader.finish_change(base)
}

/// Reads several sources as one: an object may refer to another source's, and must not occur twice.
#[derive(Debug)]
pub struct Reader {
    reading: Reading,
    declared: Declared,
    files: Vec<Arc<str>>,
    seen: source::Seen,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader that has read nothing yet.
    pub fn new() -> Self {
        Self {
            reading: Reading::new(),
            declared: Declared::default(),
            files: Vec::new(),
            seen: source::Seen::default(),
        }
    }

    /// Reads a file, a folder, or with `-` standard input. A file that was read already is passed over.
    pub fn path(&mut self, path: impl AsRef<Path>) -> &mut Self {
        for source in source::open(path.as_ref(), &mut self.seen) {
            match source.text {
                Ok(bytes) => self.bytes(&source.name, &bytes),
                Err(problem) => self.unreadable(source.name, problem),
            }
        }
        self
    }

    /// Reads a text; `file` is what positions call it.
    pub fn text(&mut self, file: &str, text: &str) -> &mut Self {
        self.begin(file);
        let (reading, declared) = (&mut self.reading, &mut self.declared);
        yaml::parse(text, |document| match document {
            Ok(node) => document::read(reading, &node, declared),
            Err(_) if reading.is_full() => {}
            Err(fault) => {
                let at = reading.at(fault.place);
                let problem = problem(reading, fault, text);
                reading.error(at, problem);
            }
        });
        self
    }

    /// The model of all that was read.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text.
    pub fn finish(self) -> Result<Manifests, Errors> {
        self.finish_under(&Supervisor::default())
    }

    /// The model of all that was read, with this Supervisor where none was declared.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text.
    pub fn finish_under(self, supervisor: &Supervisor) -> Result<Manifests, Errors> {
        let supervisor_given = self.declared.supervisor.is_some();
        let Objects { objects, warnings, .. } = self.assemble(None, supervisor)?;
        let mut model = Model { supervisor: supervisor.clone(), ..Model::default() };
        for object in objects {
            model.insert(object);
        }
        Ok(Manifests { model, warnings, supervisor_given })
    }

    /// What was read, as an addition to `base`; see [`read_objects`].
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text.
    pub fn finish_change(self, base: &Model) -> Result<Objects, Errors> {
        self.assemble(Some(base), &base.supervisor)
    }

    fn assemble(mut self, base: Option<&Model>, supervisor: &Supervisor) -> Result<Objects, Errors> {
        let nothing = self.declared.is_empty();
        let workload = |w: &workload::Workload| WorkloadId {
            namespace: w.name.namespace.clone(),
            owner: w.template.pod.owner.clone().unwrap_or_default(),
        };
        let workloads = self.declared.workloads.iter().map(workload).collect();
        let objects = assemble::assemble(&mut self.reading, self.declared, base, supervisor);
        let mut errors = self.reading.errors;
        if errors.is_empty() {
            let mut warnings = self.reading.notes.into_warnings();
            if nothing {
                warnings.insert(0, Warning::Nothing);
            }
            return Ok(Objects { objects, workloads, warnings });
        }
        let place = |at: &Position| {
            let file = self.files.iter().position(|f| Some(&**f) == at.file()).unwrap_or(usize::MAX);
            (file, at.line(), at.column())
        };
        errors.sort_by_cached_key(|e| place(&e.at));
        Err(Errors(errors))
    }

    fn unreadable(&mut self, file: String, problem: Problem) {
        self.begin(&file);
        self.reading.error(Position::new(file, 1, 1), problem);
    }

    fn begin(&mut self, file: &str) {
        let file: Arc<str> = Arc::from(file);
        self.files.push(Arc::clone(&file));
        self.reading.file = file;
    }

    fn bytes(&mut self, file: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => drop(self.text(file, text)),
            Err(e) => {
                self.begin(file);
                let before = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
                let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                let at = Position::new(file, narrow(line), narrow(column));
                let problem = Problem::Syntax {
                    message: "this byte is not UTF-8".to_owned(),
                    advice: "save the file as UTF-8",
                };
                self.reading.error(at, problem);
            }
        }
    }
}

fn problem(reading: &Reading, fault: Fault, text: &str) -> Problem {
    let syntax = |message: &str| {
        let above = usize::try_from(fault.place.line).unwrap_or(usize::MAX).saturating_sub(2);
        let advice = if text.lines().skip(above).take(2).any(|l| l.contains("{{")) {
            "it looks like a template: render it first, with `helm template` say"
        } else {
            "check indentation, colons and quotes here and just above"
        };
        Problem::Syntax { message: message.to_owned(), advice }
    };
    match fault.kind {
        FaultKind::Syntax(message) => syntax(&message),
        FaultKind::KeyIsNotText => syntax("a key must be text, not a map or a list"),
        FaultKind::BadMerge => syntax("only maps can be merged with `<<`"),
        FaultKind::SelfAlias => syntax("an alias stands inside what it refers to"),
        FaultKind::DuplicateKey { key, first } => Problem::DuplicateKey { key, first: reading.at(first) },
        FaultKind::TooManyValues => Problem::TooComplex("too many values in one document"),
        FaultKind::TooManyAliases => Problem::TooComplex("aliases unfold to too many values"),
    }
}
