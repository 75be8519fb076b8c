//! `supernet lab apply --watch FOLDER`: a lab that follows the files of a folder.
//!
//! The folder is looked at twice a second. Files count as written when they have looked the same twice, so that what
//! an editor or `git checkout` is in the middle of is not applied by halves. What is wrong with them is said once, and
//! they are tried again when they change; a lab that is not up is tried again until it is.

use super::{
    change::Changes,
    command,
    wire::{Ask, File},
};
use crate::{
    cli::Format,
    lab::{error::LabError, supervise::Signals},
    output::OutputError,
};
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use supernet::control::manifests;

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Folders in folders are searched to this depth, as manifests are.
const MAX_DEPTH: usize = 32;

/// Why a folder could not be followed any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("{} is no folder: --watch follows a folder; apply a file with -f", .0.display())]
    NoFolder(PathBuf),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Has lab `lab` follow `folder` until a signal comes; `request` asks it for what the files say. The exit status to
/// end with.
pub(super) fn run(
    lab: &str,
    folder: &Path,
    request: impl Fn(Vec<File>) -> Ask,
    format: Format,
) -> Result<u8, WatchError> {
    if !folder.is_dir() {
        return Err(WatchError::NoFolder(folder.to_owned()));
    }
    let signals = Signals::catch()?;
    if format == Format::Table {
        eprintln!("lab {lab} follows {}; Ctrl-C ends that", folder.display());
    }
    let mut follower = Follower::default();
    loop {
        let told = match follower.look(folder) {
            None => None,
            Some(Err(errors)) => Some(Told::error(errors.to_string())),
            Some(Ok(files)) => {
                match command::changes(lab, &request(files)) {
                    // The first pass over files that are there already, or an edit of a comment.
                    Ok(changes) => Some(Told { changes: Some(changes), ..Told::now() }),
                    Err(e) => {
                        if e.may_pass() {
                            follower.again();
                        }
                        Some(Told::error(e.to_string()))
                    }
                }
            }
        };
        if let Some(told) = told.filter(|told| follower.is_news(told))
            && !told.say(format).map_err(OutputError::from)?
        {
            return Ok(0);
        }
        if signals.come_within(PERIOD) {
            return Ok(0);
        }
    }
}

/// What a file looks like from outside.
type Look = (PathBuf, Option<SystemTime>, u64);

/// Knows what was seen of a folder.
#[derive(Debug, Default)]
struct Follower {
    /// As it looked the last time.
    seen: Option<Vec<Look>>,
    /// As it looked when it was read.
    read: Option<Vec<Look>>,
    /// What was applied, or found wrong.
    taken: Option<Result<Vec<File>, manifests::Errors>>,
    /// The error that was told last, unless something went well since.
    error: Option<String>,
}

impl Follower {
    /// The texts of the folder when they are new and at rest.
    fn look(&mut self, folder: &Path) -> Option<Result<Vec<File>, manifests::Errors>> {
        let mut looks = Vec::new();
        walk(folder, 0, &mut looks);
        looks.sort();
        let at_rest = self.seen.as_ref() == Some(&looks);
        self.seen = Some(looks);
        if !at_rest || self.read == self.seen {
            return None;
        }
        self.read = self.seen.clone();
        let texts = command::texts(&[folder.to_owned()]);
        // Touched is not changed.
        if self.taken.as_ref() == Some(&texts) {
            return None;
        }
        self.taken = Some(texts.clone());
        Some(texts)
    }

    /// Has the next look find everything new.
    fn again(&mut self) {
        self.read = None;
        self.taken = None;
    }

    /// Whether this is to be told: an error is once.
    fn is_news(&mut self, told: &Told) -> bool {
        let before = std::mem::replace(&mut self.error, told.error.clone());
        told.error.is_none() || told.error != before
    }
}

fn walk(folder: &Path, depth: usize, looks: &mut Vec<Look>) {
    // What can't be read is said by whoever reads it.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => walk(&path, depth + 1, looks),
            _ => {
                let meta = fs::metadata(&path).ok();
                let size = meta.as_ref().map_or(0, fs::Metadata::len);
                looks.push((path, meta.and_then(|m| m.modified().ok()), size));
            }
        }
    }
}

/// Something to be told.
#[derive(Debug, Serialize)]
struct Told {
    /// UTC, "19:42:07".
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Changes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Told {
    fn now() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() % 86_400);
        let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        Self { time, changes: None, error: None }
    }

    fn error(text: String) -> Self {
        Self { error: Some(text), ..Self::now() }
    }

    /// Prints it; `false` when nobody reads any more.
    fn say(&self, format: Format) -> io::Result<bool> {
        if format != Format::Table {
            return command::say(&(serde_json::to_string(self).map_err(io::Error::from)? + "\n"));
        }
        let mut text = String::new();
        if let Some(changes) = &self.changes {
            text.push_str(&format!("{}Z {}\n{}", self.time, changes.sentence(), command::lines(changes)));
            text.extend(changes.warnings.iter().map(|w| format!("  warning: {w}\n")));
        }
        if let Some(error) = &self.error {
            text.push_str(&format!("{}Z error: {}\n", self.time, error.replace('\n', "\n  ")));
        }
        command::say(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_once_they_are_at_rest_and_only_when_they_say_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "kind: one").unwrap();
        let mut follower = Follower::default();
        let mut look = || follower.look(folder.path()).map(|r| r.unwrap()[0].text.clone());
        assert_eq!(look(), None, "not at rest yet");
        assert_eq!(look().as_deref(), Some("kind: one"));
        assert_eq!(look(), None);
        fs::write(&file, "kind: three").unwrap();
        assert_eq!(look(), None, "not at rest yet");
        assert_eq!(look().as_deref(), Some("kind: three"));
        fs::File::open(&file).unwrap().set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
        assert_eq!((look(), look(), look()), (None, None, None), "touched is not changed");
        follower.again();
        let again = follower.look(folder.path()).map(|r| r.unwrap()[0].text.clone());
        assert_eq!(again.as_deref(), Some("kind: three"));
    }

    #[test]
    fn an_error_is_told_once() {
        let mut follower = Follower::default();
        let wrong = Told::error("no lab".to_owned());
        assert!(follower.is_news(&wrong));
        assert!(!follower.is_news(&wrong));
        assert!(follower.is_news(&Told::error("another".to_owned())));
        assert!(follower.is_news(&Told::now()));
        assert!(follower.is_news(&wrong));
    }
}
