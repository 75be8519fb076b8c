//! What can be wrong with manifests, and what is worth a remark. Values for programs, sentences for people:
//! every one says where it is, what is the matter, and what to do.

use crate::model::Position;
use std::{collections::BTreeMap, fmt};

/// Everything that is wrong with the manifests (at most the first 1,000), in the order of the text. Prints one
/// error a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<ManifestError>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// Where.
    pub at: Position,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.problem, self.at.file()) {
            // Nothing was read, so a line and a column would only mislead.
            (Problem::Unreadable(_) | Problem::EmptyFolder | Problem::TooLarge { .. }, Some(file)) => {
                write!(f, "{file}: {}", self.problem)
            }
            _ => write!(f, "{}: {}", self.at, self.problem),
        }
    }
}

impl std::error::Error for ManifestError {}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A file or folder cannot be read.
    #[error("cannot be read: {0}; check the path and its permissions")]
    Unreadable(String),
    /// A folder without manifests.
    #[error("the folder holds no *.yaml, *.yml or *.json file; name another one")]
    EmptyFolder,
    /// More text than is read.
    #[error("has more than {limit_mib} MiB; split it, or leave out what is not needed")]
    TooLarge {
        /// The limit.
        limit_mib: u64,
    },
    /// More values than are read, or aliases that unfold without end.
    #[error("{0}; split the document or write the aliased parts out")]
    TooComplex(&'static str),
    /// Not YAML.
    #[error("not valid YAML: {message}; {advice}")]
    Syntax {
        /// The parser's words.
        message: String,
        /// What to do.
        advice: &'static str,
    },
    /// A key that occurs twice in one map.
    #[error("`{key}` is already given at {first}; remove one of them")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands first.
        first: Position,
    },
    /// A field that Kubernetes does not have there.
    #[error("unknown field `{field}` in {owner}; {advice}")]
    UnknownField {
        /// The field.
        field: String,
        /// What it stands in.
        owner: &'static str,
        /// What to do.
        advice: String,
    },
    /// A field that must be there.
    #[error("{owner} needs `{field}`; add it")]
    MissingField {
        /// The field.
        field: &'static str,
        /// What it is missing from.
        owner: &'static str,
    },
    /// A value of another type.
    #[error("expected {expected}, found {found}; {advice}")]
    Type {
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A value that breaks a rule of its own or in its object.
    #[error("{what}; {advice}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
    /// An API version that is not read.
    #[error(
        "{kind} is read as apiVersion {wanted}, not {found}; change apiVersion, and the fields that differ"
    )]
    ApiVersion {
        /// The kind.
        kind: String,
        /// Its version in the text.
        found: String,
        /// The version that is read.
        wanted: &'static str,
    },
    /// An object that is declared twice.
    #[error("{object} is already declared at {first}; remove or rename one of them")]
    DuplicateObject {
        /// Kind and name.
        object: String,
        /// Where it was declared first.
        first: Position,
    },
    /// A reference to what does not exist.
    #[error("{from} refers to {to}, which does not exist; {advice}")]
    Dangling {
        /// What refers.
        from: String,
        /// What is missing.
        to: String,
        /// What to do.
        advice: String,
    },
    /// Two address ranges that share addresses.
    #[error("{this} overlaps {other} ({other_place}); give them ranges that share no address")]
    Overlap {
        /// The range at the error's position.
        this: String,
        /// The other range.
        other: String,
        /// Where the other one was written, or that it is the default.
        other_place: String,
    },
}

/// What does not stop the manifests from being used, but should be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// There was no object, or none that a network needs.
    Nothing,
    /// Objects of kinds that say nothing about the network, counted by kind.
    Skipped(BTreeMap<String, usize>),
    /// Objects that ask for something Supernet does not enforce yet, counted by kind.
    KindsNotEnforced(BTreeMap<String, usize>),
    /// A field that Supernet does not enforce yet.
    FieldNotEnforced {
        /// The field, with its value where that matters.
        field: &'static str,
        /// The objects that set it, and where.
        objects: Vec<(String, Position)>,
    },
    /// Pods that ended (phase Succeeded or Failed) and so have no network.
    FinishedPods(usize),
    /// Services whose selector matches no pod, often by a slip, and where they are.
    IdleServices(Vec<(String, Position)>),
    /// Anything else.
    Remark {
        /// Where.
        at: Position,
        /// What, and what to do.
        text: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no object of a network was read: is this the right file?"),
            Self::Skipped(kinds) => {
                write!(f, "skipped, as the network does not need them: {}", Counts(kinds))
            }
            Self::KindsNotEnforced(kinds) => {
                write!(f, "not enforced yet, and left out of the network: {}", Counts(kinds))
            }
            Self::FieldNotEnforced { field, objects } => {
                write!(f, "not enforced yet: {field} of {}", Some3(objects))
            }
            Self::FinishedPods(1) => f.write_str("1 pod has ended and is left out: it has no network"),
            Self::FinishedPods(n) => write!(f, "{n} pods have ended and are left out: they have no network"),
            Self::IdleServices(services) => {
                write!(f, "no pod matches the selector, so nobody serves: Service {}", Some3(services))
            }
            Self::Remark { at, text } => write!(f, "{at}: {text}"),
        }
    }
}

/// The first three objects with their places, and how many more there are.
struct Some3<'a>(&'a [(String, Position)]);

impl fmt::Display for Some3<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (object, at)) in self.0.iter().take(3).enumerate() {
            write!(f, "{}{object} ({at})", if i > 0 { ", " } else { "" })?;
        }
        if self.0.len() > 3 { write!(f, " and {} more", self.0.len() - 3) } else { Ok(()) }
    }
}

struct Counts<'a>(&'a BTreeMap<String, usize>);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, count)) in self.0.iter().enumerate() {
            write!(f, "{}{count} {kind}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}
