//! What can go wrong when a lab is changed.

use super::refusal::Refusal;
use crate::lab::error::LabError;
use std::io;
use supernet::control::{
    compile::CompileError,
    manifests::Errors,
    model::{ModelError, ObjectId},
    network::NetworkError,
};

/// Why a lab was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Manifests(#[from] Errors),
    #[error("{}", not_found(.0))]
    NotFound(Vec<String>),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(
        "{} of the lab's own DNS, which stays as long as the lab does: nothing was deleted (`lab up --no-dns` makes a \
         lab without one; what manifests declare of the same name takes its place)",
        own(.0)
    )]
    OwnDns(Vec<ObjectId>),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}; the lab is as it was")]
    Hosts(LabError),
    #[error("cannot attach {name}: {source}; the lab is as it was")]
    Attach { name: String, source: io::Error },
}

fn not_found(names: &[String]) -> String {
    format!(
        "not there, so it can't be deleted: {}; nothing was deleted (--ignore-not-found passes over what is not there)",
        names.join(", ")
    )
}

fn own(ids: &[ObjectId]) -> String {
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{} {} part", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}
