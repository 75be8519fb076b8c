//! Manifests to the network they give.

use crate::cli::Files;
use std::{error::Error, path::PathBuf};
use supernet::{
    Leases,
    control::{
        network::{Network, NetworkError},
        store::UnixSeconds,
    },
    manifests::{self, Manifests},
};

/// Says which Supervisor is used when none was declared.
const DEFAULT_SUPERVISOR: &str =
    "no Supervisor is declared: the default is used (see `supernet plan --help`)";

/// Reads manifests; all errors at once, one a line.
pub(crate) fn read(files: &[PathBuf]) -> Result<(Manifests, Vec<String>), Box<dyn Error>> {
    let manifests = manifests::read(files)?;
    let mut warnings: Vec<String> = manifests.warnings.iter().map(ToString::to_string).collect();
    if !manifests.supervisor_given {
        warnings.insert(0, DEFAULT_SUPERVISOR.to_owned());
    }
    Ok((manifests, warnings))
}

/// The network of manifests on leases of its own, and what should be known about it.
pub(crate) fn network(files: &Files) -> Result<(Network, Vec<String>), Box<dyn Error>> {
    let (manifests, warnings) = read(&files.files)?;
    Ok((network_of(manifests)?, warnings))
}

/// The network of manifests that were read.
pub(crate) fn network_of(manifests: Manifests) -> Result<Network, NetworkError> {
    Network::new(manifests.model, Leases::memory(), UnixSeconds(0))
}

/// Prints warnings to standard error.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}
