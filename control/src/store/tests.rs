//! What the file of leases does when all is well, and when it is not.

use super::{redb::RedbStore, *};
use crate::model::Name;
use std::{fs, path::Path};

fn sample() -> LeaseBatch {
    let lease = |i: u32| Lease::held(Owner::Pod(Name::new("shop", format!("web-{i}"))));
    let mut batch: LeaseBatch = (0..300)
        .map(|i| (format!("10.244.{}.{}/32", i / 250, i % 250).parse().unwrap(), Some(lease(i))))
        .collect();
    let resting = Lease { owner: Owner::segment("shop", 1), resting_until: Some(UnixSeconds(77)) };
    batch.insert("10.244.0.0/28".parse().unwrap(), Some(resting));
    batch.insert("fd00::/64".parse().unwrap(), Some(Lease::held(Owner::segment("shop", 0))));
    batch
}

fn open_and_load(path: &Path) -> Result<LeaseTable, StoreError> {
    RedbStore::open(path)?.load()
}

fn written(path: &Path) -> LeaseTable {
    let mut store = RedbStore::open(path).unwrap();
    store.apply(&sample()).unwrap();
    store.load().unwrap()
}

#[test]
fn batches_are_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases");
    assert!(open_and_load(&path).unwrap().is_empty());
    let table = written(&path);
    assert_eq!(table.len(), sample().len());
    assert_eq!(open_and_load(&path).unwrap(), table);
    let gone = "10.244.0.7/32".parse().unwrap();
    RedbStore::open(&path).unwrap().apply(&LeaseBatch::from([(gone, None)])).unwrap();
    let mut expected = table;
    expected.remove(&gone);
    assert_eq!(open_and_load(&path).unwrap(), expected);
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "nothing is left beside the file: {files:?}");
}

#[test]
fn a_file_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases");
    let first = RedbStore::open(&path).unwrap();
    let error = RedbStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    assert!(RedbStore::open(&path).is_ok());
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "apiVersion: v1\nkind: Pod\n").unwrap();
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let other = folder.path().join("other");
    let db = ::redb::Database::create(&other).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(::redb::TableDefinition::<u64, u64>::new("meta")).unwrap();
    write.commit().unwrap();
    drop(db);
    for path in [text, empty, other] {
        let before = fs::read(&path).unwrap();
        let error = RedbStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{path:?}: {error:?}");
        assert!(error.to_string().contains("not a file of Supernet leases"), "{error}");
        if !path.ends_with("other") {
            assert_eq!(fs::read(&path).unwrap(), before);
        }
    }
    let error = RedbStore::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "a folder: {error:?}");
    let error = RedbStore::open(folder.path().join("no/such/folder")).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}

#[test]
fn another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases");
    written(&path);
    let db = ::redb::Database::open(&path).unwrap();
    let write = db.begin_write().unwrap();
    let meta = ::redb::TableDefinition::<&str, u64>::new("meta");
    write.open_table(meta).unwrap().insert("supernet-leases", 9).unwrap();
    write.commit().unwrap();
    drop(db);
    let error = RedbStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 9, known: 1, .. }), "{error:?}");
}

#[test]
fn unreadable_leases_are_refused() {
    let leases = ::redb::TableDefinition::<&str, &str>::new("leases");
    for (key, value) in [
        ("10.0.0.300/32", r#"{"owner":"kubeApi"}"#),
        ("10.0.0.3/24", r#"{"owner":"kubeApi"}"#),
        ("10.0.0.3/32", r#"{"owner":"nobody"}"#),
        ("10.0.0.3/32", "{"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases");
        written(&path);
        let db = ::redb::Database::open(&path).unwrap();
        let write = db.begin_write().unwrap();
        write.open_table(leases).unwrap().insert(key, value).unwrap();
        write.commit().unwrap();
        drop(db);
        let error = open_and_load(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(key), "{error}");
    }
}

/// Bytes turned over or cut off anywhere: either the leases come back unharmed (the byte was not in use), or
/// there is an error. Never other leases, never a panic.
#[test]
fn damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases");
    let table = written(&path);
    let whole = fs::read(&path).unwrap();
    let mut seed = 7;
    let mut random = |below: usize| (random(&mut seed) % below as u64) as usize;
    let mut noticed = 0;
    for round in 0..120 {
        let mut bytes = whole.clone();
        match round % 4 {
            0 => bytes.truncate(random(whole.len())),
            1 => bytes[random(512)] ^= 1 << random(8),
            _ => {
                let start = random(whole.len());
                let end = whole.len().min(start + 1 + random(5000));
                bytes[start..end].iter_mut().for_each(|b| *b = !*b);
            }
        }
        let path = folder.path().join(format!("damaged-{round}"));
        fs::write(&path, bytes).unwrap();
        match open_and_load(&path) {
            Ok(found) => assert_eq!(found, table, "round {round}"),
            Err(StoreError::Damaged { .. } | StoreError::Foreign { .. }) => noticed += 1,
            Err(e) => panic!("round {round}: {e}"),
        }
        fs::remove_file(&path).unwrap();
    }
    assert!(noticed > 40, "only {noticed}");
}

/// SplitMix64: enough randomness for a test, from a seed that can be printed.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
