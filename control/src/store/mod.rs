//! State that outlives the process.
//!
//! [`LeaseStore`] is all that IPAM asks of a store: read everything once, then apply batches, each of them
//! wholly or not at all. [`RedbStore`] keeps leases in a file of this host; a store shared by a cluster
//! implements the same trait. Only [`crate::ipam`] writes here, and it is the only reader.

mod lease;
#[cfg(feature = "redb")]
mod redb;

pub use lease::{Lease, LeaseBatch, LeaseTable, Owner, UnixSeconds};
#[cfg(feature = "redb")]
pub use redb::RedbStore;

#[cfg(test)]
#[cfg(feature = "redb")]
mod tests;

use std::{fmt, io, path::PathBuf};

/// Where leases are kept.
///
/// One writer at a time: an implementation refuses a second one, either when it is opened or in `apply`.
pub trait LeaseStore: fmt::Debug + Send {
    /// Everything that is stored.
    ///
    /// # Errors
    /// The store cannot be read, or what it holds is damaged.
    fn load(&mut self) -> Result<LeaseTable, StoreError>;

    /// Stores all changes of `batch`. They are durable when this returns: a crash at any moment leaves either
    /// all of them or none.
    ///
    /// # Errors
    /// The store cannot be written. Whether the batch was stored is then known only after the next `load`.
    fn apply(&mut self, batch: &LeaseBatch) -> Result<(), StoreError>;
}

/// Forgets everything when the process ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStore;

impl LeaseStore for MemoryStore {
    fn load(&mut self) -> Result<LeaseTable, StoreError> {
        Ok(LeaseTable::new())
    }

    fn apply(&mut self, _: &LeaseBatch) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Why leases could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system said no.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process, or another part of this one, has it open.
    #[error("{path}: the leases are in use by another process; stop that one, or name another file", path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A file of something else.
    #[error("{path}: this is not a file of Supernet leases ({why}); name another file", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        why: String,
    },
    /// A file of another version of the format.
    #[error("{path}: the leases have format version {found}, this program reads version {known}; use the program that wrote them", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it states.
        found: u64,
        /// The version that is read and written here.
        known: u64,
    },
    /// A file of leases whose content is broken.
    #[error("{path}: the leases are damaged ({why}); restore a copy, or remove the file to assign every address anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is broken.
        why: String,
    },
    /// The batch could not be stored.
    #[error("the leases could not be stored: {why}; nothing of this change is in effect")]
    Write {
        /// What the store said.
        why: String,
    },
    /// An earlier batch could not be stored, so memory and store may differ.
    #[error("an earlier change of the leases could not be stored; open them again")]
    Broken,
    /// The leases changed after the proposal was made.
    #[error("the leases changed since this was planned; plan again")]
    Stale,
}
