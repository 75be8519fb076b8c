//! Where manifests come from: files, folders, standard input.

use super::error::Problem;
use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The most text of one source.
const MAX_MIB: u64 = 64;
/// Folders in folders are searched to this depth.
const MAX_DEPTH: usize = 32;

/// One text and what people call it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: Result<Vec<u8>, Problem>,
}

/// Files that were read, by their canonical paths. A file may be named more than once, on its own and with its folder
/// say, and is read once.
#[derive(Debug, Default)]
pub(super) struct Seen(HashSet<PathBuf>);

impl Seen {
    /// Whether a file was not read yet. What has no canonical path, a pipe say, is always new.
    fn is_new(&mut self, path: &Path) -> bool {
        path.canonicalize().map_or(true, |path| self.0.insert(path))
    }
}

/// The texts behind a path that were not seen yet: one, or for a folder one a manifest in it, sorted by path. `-` is
/// standard input.
pub(super) fn open(path: &Path, seen: &mut Seen) -> Vec<Source> {
    if path.as_os_str() == "-" {
        return vec![Source { name: "-".to_owned(), text: bytes(&mut io::stdin().lock()) }];
    }
    if !path.is_dir() {
        return if seen.is_new(path) { vec![file(path)] } else { Vec::new() };
    }
    let mut sources = Vec::new();
    let mut files = Vec::new();
    walk(path, 0, &mut files, &mut sources);
    files.sort();
    if files.is_empty() && sources.is_empty() {
        sources.push(Source { name: name(path), text: Err(Problem::EmptyFolder) });
    }
    sources.extend(files.iter().filter(|p| seen.is_new(p)).map(|p| file(p)));
    sources
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, failed: &mut Vec<Source>) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return failed.push(unreadable(folder, &e)),
    };
    for entry in entries {
        match entry.and_then(|e| Ok((e.path(), e.file_type()?))) {
            // Links to folders are not followed: they may lead back here.
            Ok((path, kind)) if kind.is_dir() && depth < MAX_DEPTH => walk(&path, depth + 1, files, failed),
            Ok((path, _)) if is_manifest(&path) && path.is_file() => files.push(path),
            Ok(_) => {}
            Err(e) => failed.push(unreadable(folder, &e)),
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

fn file(path: &Path) -> Source {
    match File::open(path) {
        Ok(mut file) => Source { name: name(path), text: bytes(&mut file) },
        Err(e) => unreadable(path, &e),
    }
}

fn unreadable(path: &Path, e: &io::Error) -> Source {
    Source { name: name(path), text: Err(Problem::Unreadable(e.to_string())) }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn bytes(from: &mut impl Read) -> Result<Vec<u8>, Problem> {
    let limit = MAX_MIB << 20;
    let mut bytes = Vec::new();
    match from.take(limit + 1).read_to_end(&mut bytes) {
        Err(e) => Err(Problem::Unreadable(e.to_string())),
        Ok(n) if n as u64 > limit => Err(Problem::TooLarge { limit_mib: MAX_MIB }),
        Ok(_) => Ok(bytes),
    }
}
