//! Leases in a file of this host.
//!
//! A [redb](https://docs.rs/redb) data base with two tables. `meta` says what the file is, and in which version;
//! `leases` maps a prefix to its lease, both as text (`10.244.0.2/32` -> `{"owner":{"pod":{...}}}`), so that
//! the file can be read years later with any tool.
//!
//! A batch is one transaction, durable when `apply` returns. A new file is built under another name and
//! appears under its own only when it is complete: there is no moment at which a crash leaves half a file.
//! Opening verifies the checksum of every page, so damage is found at once and not when a lease is missed.

use super::{Lease, LeaseBatch, LeaseStore, LeaseTable, StoreError};
use ::redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError,
};
use ipnet::IpNet;
use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const LEASES: TableDefinition<'_, &str, &str> = TableDefinition::new("leases");
/// The key of `meta` whose presence says that the file holds leases, and whose value is the version.
const FORMAT: &str = "supernet-leases";
const VERSION: u64 = 1;

/// Leases in a file, which is locked as long as this lives.
#[derive(Debug)]
pub struct RedbStore {
    db: Database,
    path: PathBuf,
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The file cannot be read or made, another process has it open, or it is damaged, of another version, or
    /// no file of leases at all.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let exists = path.try_exists().map_err(|e| io_error(&path, "look at the file", e))?;
        if !exists {
            create(&path)?;
        }
        let db = builder().open(&path).map_err(|e| open_error(&path, e))?;
        let store = Self { db, path };
        store.check_version()?;
        Ok(store)
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let foreign = |why: &str| StoreError::Foreign { path: self.path.clone(), why: why.to_owned() };
        let read = self.db.begin_read().map_err(|e| self.damaged(e))?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::Storage(e)) => return Err(self.damaged(e)),
            Err(_) => return Err(foreign("a redb data base without its marks")),
        };
        let found = meta.get(FORMAT).map_err(|e| self.damaged(e))?.map(|v| v.value());
        match found {
            Some(VERSION) => Ok(()),
            Some(found) => Err(StoreError::Version { path: self.path.clone(), found, known: VERSION }),
            None => Err(foreign("a redb data base without its marks")),
        }
    }

    fn write(&self, batch: &LeaseBatch) -> Result<(), ::redb::Error> {
        let write = self.db.begin_write()?;
        {
            let mut table = write.open_table(LEASES)?;
            for (prefix, lease) in batch {
                let key = prefix.to_string();
                match lease {
                    Some(lease) => table.insert(&*key, &*encode(lease)?)?,
                    None => table.remove(&*key)?,
                };
            }
        }
        // The default durability: on disk when this returns.
        write.commit()?;
        Ok(())
    }

    fn damaged(&self, why: impl ToString) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), why: why.to_string() }
    }
}

impl LeaseStore for RedbStore {
    fn load(&mut self) -> Result<LeaseTable, StoreError> {
        let read = self.db.begin_read().map_err(|e| self.damaged(e))?;
        let table = read.open_table(LEASES).map_err(|e| self.damaged(e))?;
        let mut leases = LeaseTable::new();
        for entry in table.iter().map_err(|e| self.damaged(e))? {
            let (key, value) = entry.map_err(|e| self.damaged(e))?;
            let key = key.value();
            let prefix: IpNet =
                key.parse().map_err(|_| self.damaged(format!("the lease of {key:?} names no prefix")))?;
            if prefix != prefix.trunc() {
                return Err(self.damaged(format!("the lease of {key} has host bits")));
            }
            let lease: Lease = serde_json::from_str(value.value())
                .map_err(|e| self.damaged(format!("the lease of {key} cannot be read: {e}")))?;
            leases.insert(prefix, lease);
        }
        Ok(leases)
    }

    fn apply(&mut self, batch: &LeaseBatch) -> Result<(), StoreError> {
        self.write(batch).map_err(|e| StoreError::Write { why: format!("{}: {e}", self.path.display()) })
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_check_integrity_on_open(true);
    builder
}

fn encode(lease: &Lease) -> Result<String, ::redb::Error> {
    serde_json::to_string(lease).map_err(|e| ::redb::Error::Io(e.into()))
}

/// Makes an empty file of leases at `path`, unless somebody else is faster.
fn create(path: &Path) -> Result<(), StoreError> {
    let mut name = OsString::from(path.as_os_str());
    name.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(name);
    // What an earlier process of this number left behind when it was killed here.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&new, "remove the file", e)),
        _ => {}
    }
    let made = fill(&new).and_then(|()| publish(&new, path));
    // After a hard link, the second name; after an error, a useless rest. Gone already after a rename.
    let _ = fs::remove_file(&new);
    made
}

fn fill(new: &Path) -> Result<(), StoreError> {
    let db = builder().create(new).map_err(|e| open_error(new, e))?;
    let mark = || -> Result<(), ::redb::Error> {
        let write = db.begin_write()?;
        write.open_table(META)?.insert(FORMAT, VERSION)?;
        write.open_table(LEASES)?;
        write.commit()?;
        Ok(())
    };
    mark().map_err(|e| StoreError::Write { why: format!("{}: {e}", new.display()) })
}

fn publish(new: &Path, path: &Path) -> Result<(), StoreError> {
    match fs::hard_link(new, path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        // A file system without hard links. A rename would replace a file made in this instant by another
        // process; there is nothing better to be had there.
        Err(_) => fs::rename(new, path).map_err(|e| io_error(path, "make the file", e))?,
    }
    // The name, too, has to survive a crash of the machine.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io_error(folder, "write the folder", e))
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), action, source }
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::Locked { path }
        }
        DatabaseError::UpgradeRequired(v) => {
            StoreError::Foreign { path, why: format!("a redb data base of the old format {v}") }
        }
        DatabaseError::Storage(StorageError::Io(e)) if e.kind() == io::ErrorKind::InvalidData => {
            StoreError::Foreign { path, why: e.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged { path, why: "it ends too early".to_owned() }
        }
        DatabaseError::Storage(StorageError::Io(source)) => {
            StoreError::Io { path, action: "open the leases", source }
        }
        e => StoreError::Damaged { path, why: e.to_string() },
    }
}
