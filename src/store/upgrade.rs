//! Bringing a store of an older format to the newest. Owns the order in which that happens: a copy first, then all steps in
//! one transaction, so that a kill leaves the old store or the new one.
//!
//! There has been one format so far: no step is known yet.

use std::io;
use std::path::Path;

use redb::{Database, WriteTransaction};

use super::StoreError;
use super::backup::free_bytes;
use super::engine::put_meta;
use super::nameless::{Nameless, folder_of};
use super::open::{OpenError, VERSION, open_file, read_format, read_meta};
use super::schema::meta;
use super::wal::Position;

/// From one format to the next.
pub struct Step {
    pub from: u64,
    pub apply: fn(&WriteTransaction) -> Result<(), StoreError>,
}

/// Every step there is, one for each format but the newest.
pub const STEPS: &[Step] = &[];

/// What must stay free beside the copy: the upgrade itself writes.
const SPARE_BYTES: u64 = 256 * 1024 * 1024;

/// Brings an open store to the format `newest`, if it is older; gives it back open. The copy of the old one is beside it,
/// with the number of its format in its name.
///
/// # Errors
/// `OpenError`; then it is as it was.
pub fn bring_up(
    db: Database,
    path: &Path,
    cache_bytes: usize,
    newest: u64,
    steps: &[Step],
) -> Result<Database, OpenError> {
    let format = read_format(&db, path)?;
    if format >= newest {
        return Ok(db);
    }
    let refused = |why: String| OpenError::Refused { path: path.to_owned(), why };
    let steps = (format..newest).map(|from| steps.iter().find(|step| step.from == from));
    let Some(steps) = steps.collect::<Option<Vec<&Step>>>() else {
        return Err(refused(format!("it has format {format}, which this program can't bring to format {newest}")));
    };
    let position = read_meta(&db, path, meta::WAL)?.and_then(|bytes| Position::read_row(&bytes).ok());
    if !position.is_some_and(|(position, _)| position.clean) {
        return Err(refused(format!(
            "it has format {format} and was not closed; start and stop it once more with the program that made it"
        )));
    }
    // What is copied is a closed file.
    drop(db);
    copy(path, format)?;
    let db = open_file(path, cache_bytes)?;
    let disk = |error: StoreError| OpenError::Disk { path: path.to_owned(), why: error.to_string() };
    rewrite(&db, newest, &steps).map_err(disk)?;
    tracing::info!(from = format, to = newest, "the store has a new format");
    Ok(db)
}

fn copy(path: &Path, format: u64) -> Result<(), OpenError> {
    let kept = path.with_extension(format!("redb.format-{format}"));
    let failed = |error: io::Error| OpenError::Disk { path: kept.clone(), why: error.to_string() };
    let mut from = std::fs::File::open(path).map_err(failed)?;
    let needed = from.metadata().map_err(failed)?.len() + SPARE_BYTES;
    let free = free_bytes(folder_of(path)).map_err(failed)?;
    if free < needed {
        let why =
            format!("the store is copied before its format is changed; that takes {needed} bytes, {free} are free");
        return Err(OpenError::Disk { path: kept, why });
    }
    tracing::info!(copy = %kept.display(), "copying the store before its format is changed");
    // One that is there is of a try that did not come to its end: the store is still the old one.
    match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let made = Nameless::create(&kept).map_err(failed)?;
    io::copy(&mut from, &mut made.file()).map_err(failed)?;
    made.keep().map_err(failed)
}

fn rewrite(db: &Database, newest: u64, steps: &[&Step]) -> Result<(), StoreError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    steps.iter().try_for_each(|step| (step.apply)(&txn))?;
    put_meta(&txn, meta::FORMAT, &newest.to_le_bytes())?;
    put_meta(&txn, meta::VERSION, VERSION.as_bytes())?;
    txn.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;
    use crate::store::open::{self, Place};
    use crate::store::schema::FORMAT;

    fn place() -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { state_dir: folder.path().to_owned(), key_file: None, cache_bytes: 1 << 20 };
        drop(open::open(&place, &Entropy::seeded(1)).unwrap());
        (folder, place)
    }

    fn set(db: &Database, key: &str, value: &[u8]) {
        let txn = db.begin_write().unwrap();
        put_meta(&txn, key, value).unwrap();
        txn.commit().unwrap();
    }

    const NEXT: u64 = FORMAT + 1;

    fn mark(txn: &WriteTransaction) -> Result<(), StoreError> {
        put_meta(txn, "made_up", b"done")
    }

    fn fail(txn: &WriteTransaction) -> Result<(), StoreError> {
        mark(txn)?;
        Err(StoreError::Damaged("a made-up reason"))
    }

    #[test]
    fn an_older_store_is_copied_then_changed() {
        let (_folder, place) = place();
        let path = place.store_file();
        let copy = path.with_extension(format!("redb.format-{FORMAT}"));
        let open = || open_file(&path, 1 << 20).unwrap();
        let steps = |apply| [Step { from: FORMAT, apply }];
        assert!(bring_up(open(), &path, 1 << 20, FORMAT, &[]).is_ok() && !copy.exists(), "it is the newest");

        // One that fails leaves the old one, and its copy for the next try to replace.
        assert!(bring_up(open(), &path, 1 << 20, NEXT, &steps(fail)).is_err());
        let old = open();
        assert_eq!(read_format(&old, &path).unwrap(), FORMAT);
        assert_eq!(read_meta(&old, &path, "made_up").unwrap(), None);
        drop(old);

        let new = bring_up(open(), &path, 1 << 20, NEXT, &steps(mark)).unwrap();
        assert_eq!(read_format(&new, &path).unwrap(), NEXT);
        assert_eq!(read_meta(&new, &path, "made_up").unwrap().unwrap(), b"done");
        let kept = open_file(&copy, 1 << 20).unwrap();
        assert_eq!(read_format(&kept, &copy).unwrap(), FORMAT);
        assert_eq!(read_meta(&kept, &copy, "made_up").unwrap(), None);
        set(&new, meta::VERSION, b"9.9.9");
        drop(new);

        // This program does not read it, and says which one does.
        let told = open::open(&place, &Entropy::seeded(1)).err().unwrap().to_string();
        assert!(told.contains("run webhookd 9.9.9 or newer"), "{told}");
    }

    #[test]
    fn what_it_knows_no_way_for_or_was_not_closed_is_left_alone() {
        let (_folder, place) = place();
        let path = place.store_file();
        let open = || open_file(&path, 1 << 20).unwrap();
        let before = std::fs::read(&path).unwrap();
        let told = bring_up(open(), &path, 1 << 20, NEXT, &[]).err().unwrap().to_string();
        assert!(told.contains("can't bring to format"), "{told}");
        let db = open();
        let dirty = Position { tag: 7, next: 0, clean: false };
        set(&db, meta::WAL, &dirty.to_row((1, 1)));
        let told = bring_up(db, &path, 1 << 20, NEXT, &[Step { from: FORMAT, apply: mark }]).err().unwrap();
        assert!(told.to_string().contains("was not closed"), "{told}");
        assert_eq!(std::fs::read_dir(&place.state_dir).unwrap().count(), 2, "store and key, no copy");
        assert!(!before.is_empty());
    }
}
