//! Changing the key that seals what is secret. Owns that it is done in one transaction, so that a kill or power cut at any
//! point leaves a store that one of the two keys opens, whole, and that doing it again comes to its end.
//!
//! The store is not in use meanwhile: it is opened here, which no other process may have it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableTable as _};

use super::StoreError;
use super::engine::put_meta;
use super::open::{self, KEY_CHECK, KEY_FILE, OpenError, STORE_FILE, open_file, open_wal, sync_folder};
use super::record;
use super::recover;
use super::row;
use super::schema::{KEYS, WEBHOOKS, meta};
use super::seal::{self, KEY_BYTES, Sealer};
use super::wal::WAL_FILE;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::id::KeyId;

const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Which key follows which.
#[derive(Clone, Debug)]
pub enum Keys {
    /// The one in the state folder is followed by one that is made here, and is kept as `webhookd.key.old`: backups made
    /// before need it.
    Own,
    /// Both are there, and stay where they are.
    Given { old: PathBuf, new: PathBuf },
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// Sealed values; 0 when an earlier run had done them all.
    pub values: u64,
}

/// The new key, while it is not in force.
fn next_key(folder: &Path) -> PathBuf {
    folder.join("webhookd.key.new")
}

/// The key before, kept for the backups of its time.
fn old_key(folder: &Path) -> PathBuf {
    folder.join("webhookd.key.old")
}

/// Seals everything secret of the store in `folder` with a new key.
///
/// # Errors
/// `OpenError`; then one of the two keys opens the store, and another run goes on from there.
pub fn reseal(folder: &Path, keys: &Keys, entropy: &Entropy) -> Result<Resealed, OpenError> {
    let path = folder.join(STORE_FILE);
    let failed = |source| OpenError::Folder { path: folder.to_owned(), source };
    let refused = |why: &str| OpenError::Refused { path: path.clone(), why: why.to_owned() };
    if !path.try_exists().map_err(failed)? {
        return Err(refused("there is no store"));
    }
    let (old, new) = match keys {
        Keys::Given { old, new } => (old.clone(), new.clone()),
        Keys::Own => (folder.join(KEY_FILE), next_key(folder)),
    };
    let old_bytes = seal::read_key_file(&old)?;
    let db = open::careful(&path, || open_file(&path, CACHE_BYTES))?;
    if matches!(keys, Keys::Own) {
        check_old(folder, &old_bytes)?;
        if !new.try_exists().map_err(failed)? {
            seal::create_key_file(&new, entropy)?;
        }
        // It must be there before anything is sealed with it.
        sync_folder(folder).map_err(failed)?;
    }
    let new_bytes = seal::read_key_file(&new)?;
    if old_bytes == new_bytes {
        return Err(refused("both key files hold the same key"));
    }
    let done = change(db, folder, &path, old_bytes, new_bytes, entropy)?;
    if matches!(keys, Keys::Own) {
        put_in_force(folder).map_err(failed)?;
    }
    Ok(done)
}

/// Only the key that is in force may be kept as the old one already, by a run that was cut off.
fn check_old(folder: &Path, key: &[u8; KEY_BYTES]) -> Result<(), OpenError> {
    let kept = old_key(folder);
    if kept.exists() && seal::read_key_file(&kept)? != *key {
        let why = "it is the key of an earlier time; keep it with the backups of that time, and move it away from here";
        return Err(OpenError::Refused { path: kept, why: why.to_owned() });
    }
    Ok(())
}

fn put_in_force(folder: &Path) -> std::io::Result<()> {
    let (key, kept) = (folder.join(KEY_FILE), old_key(folder));
    if !kept.try_exists()? {
        std::fs::hard_link(&key, &kept)?;
        sync_folder(folder)?;
    }
    std::fs::rename(next_key(folder), &key)?;
    sync_folder(folder)
}

fn change(
    db: Database,
    folder: &Path,
    path: &Path,
    old: [u8; KEY_BYTES],
    new: [u8; KEY_BYTES],
    entropy: &Entropy,
) -> Result<Resealed, OpenError> {
    let [old, new] = [old, new].map(|key| Sealer::new(key, entropy.clone()));
    if open::admit(&db, path, new.clone()).is_ok() {
        return Ok(Resealed { values: 0 });
    }
    let shared = open::admit(&db, path, old.clone())?;
    let wal = open_wal(&folder.join(WAL_FILE))?;
    let failed = |error: StoreError| OpenError::Refused { path: path.to_owned(), why: error.to_string() };
    open::careful(path, || {
        // What a crash left in the log belongs to the store first.
        let mut engine =
            recover::recover(Arc::new(db), shared.clone(), &Clock::system(), wal, 0).map_err(failed)?.engine;
        engine.checkpoint(true).map_err(failed)?;
        shared.set_db(None);
        let (db, _) = engine.into_files();
        let values = write(&db, &old, &new).map_err(failed)?;
        Ok(Resealed { values })
    })
}

/// Everything that is sealed, in one transaction. What is sealed and not named here would be lost with the old key; a test
/// opens all of it.
fn write(db: &Database, old: &Sealer, new: &Sealer) -> Result<u64, StoreError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    let mut values = 1;
    put_meta(&txn, meta::KEY_CHECK, &new.seal(meta::KEY_CHECK.as_bytes(), KEY_CHECK.to_vec()))?;
    {
        let mut table = txn.open_table(WEBHOOKS)?;
        let mut from = Some((0, 0));
        while let Some(start) = from {
            let Some(row) = table.range(start..)?.next() else { break };
            let (key, sealed) = {
                let (key, value) = row?;
                let key = key.value();
                (key, record::reseal_webhook(row::open(WEBHOOKS, &key, value.value())?, old, new)?)
            };
            table.insert(key, row::seal(WEBHOOKS, &key, sealed).as_slice())?;
            values += 1;
            from = key.1.checked_add(1).map(|next| (key.0, next));
        }
        let mut table = txn.open_table(KEYS)?;
        let ids: Vec<[u8; 8]> = table.iter()?.map(|row| Ok(*row?.0.value())).collect::<Result<_, StoreError>>()?;
        for id in ids {
            let sealed = match table.get(&id)? {
                Some(value) => record::reseal_key(KeyId(id), row::open(KEYS, &&id, value.value())?, old, new)?,
                None => continue,
            };
            table.insert(&id, row::seal(KEYS, &&id, sealed).as_slice())?;
            values += 1;
        }
    }
    txn.commit()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use redb::ReadableDatabase as _;

    use super::*;
    use crate::store::backup::tests::{Filled, sealed};
    use crate::store::failing_disk::{Disk, Fault};
    use crate::store::schema::META;
    use crate::store::tests::store_in;

    /// A store that was left by a crash: its log counts.
    fn crashed() -> (tempfile::TempDir, [u8; KEY_BYTES]) {
        let filled = Filled::new();
        let key = filled.key();
        let Filled { folder, shared, engine, .. } = filled;
        shared.set_db(None);
        drop(engine);
        (folder, key)
    }

    fn key_of(path: &Path) -> [u8; KEY_BYTES] {
        seal::read_key_file(path).unwrap()
    }

    /// Opens every sealed value there is with the key; how many, unless one does not open.
    fn opened(db: &Database, key: [u8; KEY_BYTES]) -> Option<u64> {
        let sealer = Sealer::new(key, Entropy::seeded(4));
        let txn = db.begin_read().unwrap();
        let check = txn.open_table(META).unwrap().get(meta::KEY_CHECK).unwrap().unwrap();
        let check = row::open(META, &meta::KEY_CHECK, check.value()).unwrap();
        sealer.open(meta::KEY_CHECK.as_bytes(), check).ok()?;
        let mut values = 1;
        for row in txn.open_table(WEBHOOKS).unwrap().iter().unwrap() {
            let (key, value) = row.unwrap();
            let value = row::open(WEBHOOKS, &key.value(), value.value()).unwrap();
            record::read_webhook(key.value().0, key.value().1, value, &sealer).ok()?;
            values += 1;
        }
        for row in txn.open_table(KEYS).unwrap().iter().unwrap() {
            let (id, value) = row.unwrap();
            let value = row::open(KEYS, &id.value(), value.value()).unwrap();
            record::read_key(KeyId(*id.value()), value, &sealer).ok()?;
            values += 1;
        }
        Some(values)
    }

    fn opened_in(folder: &Path, key: [u8; KEY_BYTES]) -> Option<u64> {
        opened(&open_file(&folder.join(STORE_FILE), CACHE_BYTES).unwrap(), key)
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("key"))
            .collect()
    }

    #[test]
    fn everything_sealed_opens_with_the_new_key_and_nothing_with_the_old() {
        let (folder, old) = crashed();
        let all = opened_in(folder.path(), old).unwrap();
        assert!(all >= 5, "two webhooks, a second version, a key, the check: {all}");
        let done = reseal(folder.path(), &Keys::Own, &Entropy::seeded(6)).unwrap();
        let new = key_of(&folder.path().join(KEY_FILE));
        assert_eq!((done.values, opened_in(folder.path(), new), opened_in(folder.path(), old)), (all, Some(all), None));
        assert_eq!(key_of(&old_key(folder.path())), old, "for the backups of its time");
        assert_eq!(names(folder.path()), ["webhookd.key", "webhookd.key.old"].map(str::to_owned).into());
        // And it serves: what the crash left in the log is there.
        let parts = store_in(folder.path(), &Clock::manual(1_700_000_100_000), &Arc::default());
        assert_eq!(parts.shared.next_event(), 7, "four events, and the two that tell of a death");

        drop(parts);
        let told = reseal(folder.path(), &Keys::Own, &Entropy::seeded(7)).unwrap_err().to_string();
        assert!(told.contains("move it away"), "the first old key is not lost: {told}");
    }

    #[test]
    fn cut_off_anywhere_it_is_taken_further() {
        // What a run leaves when it is cut off: after the new key's file, after the store's commit, after the old key was kept.
        for cut in 0..3 {
            let (folder, old) = crashed();
            let path = folder.path();
            let new = seal::create_key_file(&next_key(path), &Entropy::seeded(8)).unwrap();
            if cut > 0 {
                let given = Keys::Given { old: path.join(KEY_FILE), new: next_key(path) };
                reseal(path, &given, &Entropy::seeded(9)).unwrap();
            }
            if cut > 1 {
                std::fs::hard_link(path.join(KEY_FILE), old_key(path)).unwrap();
            }
            assert_eq!(opened_in(path, old).is_some(), cut == 0);
            reseal(path, &Keys::Own, &Entropy::seeded(10)).unwrap();
            assert_eq!(key_of(&path.join(KEY_FILE)), new, "{cut}: not another one");
            assert!(opened_in(path, new).is_some() && opened_in(path, old).is_none(), "{cut}");
            assert_eq!(key_of(&old_key(path)), old, "{cut}");
        }
    }

    #[test]
    fn a_disk_that_fails_leaves_one_key_that_opens_all_of_it() {
        let (old, new) = ([7; KEY_BYTES], [8; KEY_BYTES]);
        let sealers = [old, new].map(|key| Sealer::new(key, Entropy::seeded(1)));
        let (mut before, mut after) = (0, 0);
        for fault in Fault::all(24) {
            let disk = Disk::default();
            let parts = disk.parts(&Clock::manual(1_700_000_000_000));
            let mut engine = parts.recovered.engine;
            engine.apply(&sealed()).unwrap();
            engine.checkpoint(true).unwrap();
            parts.shared.set_db(None);
            let (db, _) = engine.into_files();
            disk.arm(fault);
            let done = write(&db, &sealers[0], &sealers[1]);
            drop(db);
            let db = disk.open();
            match (opened(&db, old), opened(&db, new)) {
                (Some(_), None) => before += 1,
                (None, Some(_)) => after += 1,
                other => panic!("{fault:?}: {other:?}"),
            }
            assert!(done.is_err() || opened(&db, new).is_some(), "{fault:?}: done means done");
        }
        assert!(before > 0 && after > 0, "{before} {after}");
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let (folder, _) = crashed();
        let same = Keys::Given { old: folder.path().join(KEY_FILE), new: folder.path().join(KEY_FILE) };
        assert!(reseal(folder.path(), &same, &Entropy::seeded(1)).unwrap_err().to_string().contains("same key"));
        let [wrong, other] = ["wrong", "other"].map(|name| folder.path().join(name));
        for (n, path) in [(11, &wrong), (12, &other)] {
            seal::create_key_file(path, &Entropy::seeded(n)).unwrap();
        }
        let told = reseal(folder.path(), &Keys::Given { old: wrong, new: other }, &Entropy::seeded(1)).unwrap_err();
        assert!(told.to_string().contains("another key"), "{told}");
        let _in_use = store_in(folder.path(), &Clock::manual(1_700_000_100_000), &Arc::default());
        let told = reseal(folder.path(), &Keys::Own, &Entropy::seeded(1)).unwrap_err();
        assert!(matches!(told, OpenError::Locked(_)), "{told}");
        let empty = tempfile::tempdir().unwrap();
        assert!(reseal(empty.path(), &Keys::Own, &Entropy::seeded(1)).unwrap_err().to_string().contains("no store"));
        assert!(names(empty.path()).is_empty());
    }
}
