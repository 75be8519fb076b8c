//! What manifests are read as, and what is said of those that are wrong.

mod errors;
mod objects;
mod robust;
mod supervisor;
mod workloads;

use super::{Manifests, Warning, read_str};
use crate::model::{Name, Pod};

/// Reads text that is right.
fn good(text: &str) -> Manifests {
    read_str("net.yaml", text).unwrap_or_else(|e| panic!("{e}"))
}

/// The errors of text that is wrong, one a line.
fn bad(text: &str) -> String {
    match read_str("net.yaml", text) {
        Ok(m) => panic!("was read: {m:?}"),
        Err(e) => e.to_string(),
    }
}

fn warnings(m: &Manifests) -> Vec<String> {
    m.warnings.iter().map(Warning::to_string).collect()
}

fn pod_names(m: &Manifests) -> Vec<String> {
    m.model.pods.keys().map(Name::to_string).collect()
}

fn pod<'m>(m: &'m Manifests, namespace: &str, name: &str) -> &'m Pod {
    let found = m.model.pods.get(&Name::new(namespace, name));
    found.unwrap_or_else(|| panic!("no {namespace}/{name} in {:?}", pod_names(m)))
}
