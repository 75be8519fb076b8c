//! What manifests are read as, and what is said of those that are wrong.

mod errors;
mod limits;
mod objects;
mod robust;
mod supervisor;
mod tiers;
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

#[test]
fn texts_are_those_of_files_and_folders_and_nothing_more_is_asked_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let a = file("a.yaml", b"kind: [\n");
    file("b.json", b"{}");
    file("c.txt", b"no manifest");
    let texts = crate::manifests::texts([&a, folder.path()]).unwrap();
    let names: Vec<&str> = texts.iter().map(|t| t.name.rsplit('/').next().unwrap()).collect();
    assert_eq!((names, &*texts[0].text), (vec!["a.yaml", "b.json"], "kind: [\n"));
    let bad = file("d.yaml", b"a: b\nc: \xff\n");
    let errors = crate::manifests::texts([bad, folder.path().join("none.yaml")]).unwrap_err().to_string();
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines[0].contains("d.yaml:2:4: ") && lines[1].contains("none.yaml: cannot be read"), "{errors}");
}
