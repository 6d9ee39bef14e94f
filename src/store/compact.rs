//! Compaction: the store's file written anew without its holes. Owns that nothing is lost by it, whenever it ends.
//!
//! Everything is copied into a file beside the store's, synced, and only then given its name; until then the store is what it was,
//! and what a compaction that was killed has left is removed by the next start. A damaged store is refused, and so is one for
//! whose copy there is no room.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Builder, Database, Durability, Key, ReadTransaction, ReadableDatabase as _, ReadableTable, ReadableTableMetadata,
    TableDefinition, TableHandle as _, Value,
};

use super::StoreError;
use super::check::{self, Report, Told};
use super::engine::create_tables;
use super::open::{self, COMPACTED_FILE, OpenError, Place};
use super::schema::{self, Visit};
use super::writer::Parts;
use crate::clock::Clock;
use crate::entropy::Entropy;

/// Bytes that are copied with one commit.
const COPIED_PER_COMMIT: usize = 8 * 1024 * 1024;
/// Room that is left beside the copy.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// Lengths of the store's file, in bytes; the same when there was nothing to gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub before: u64,
    pub after: u64,
}

/// Why a store was not compacted; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the store is damaged: {} findings; nothing was changed", .0.findings.len() as u64 + .0.more)]
    Damaged(Box<Report>),
    #[error("{path} has {free} bytes free, and the copy of the store may take {needed}; nothing was changed")]
    NoRoom { path: PathBuf, needed: u64, free: u64 },
    #[error("{path} can't be written: {why}; the store is as it was")]
    Disk { path: PathBuf, why: String },
}

/// Compacts the store at `place`, which no daemon may have open.
///
/// # Errors
/// See `CompactError`.
pub fn compact(place: &Place, entropy: &Entropy, clock: &Clock, told: Told<'_>) -> Result<Sizes, CompactError> {
    let report = check::place(place, entropy, told)?;
    if !report.is_clean() {
        return Err(CompactError::Damaged(Box::new(report)));
    }
    let (path, copy) = (place.store_file(), place.state_dir.join(COMPACTED_FILE));
    let failed = |why: String| CompactError::Disk { path: copy.clone(), why };
    // What the log and the spool hold is taken in first, and the log left empty: nothing of it counts afterwards.
    let mut parts = Parts::open(place, entropy, clock, &Arc::default(), 0)?;
    let unwritten = |error: StoreError| CompactError::Disk { path: path.clone(), why: error.to_string() };
    parts.recovered.engine.checkpoint(true).map_err(unwritten)?;
    let (db, _log) = parts.recovered.engine.into_files();
    let before = length(&path).map_err(|error| failed(error.to_string()))?;
    make_room(place, &db, &copy)?;
    let done = write(&db, &copy, place.cache_bytes, told).map_err(|error| error.to_string()).and_then(|()| {
        let keep = || -> io::Result<u64> {
            let after = length(&copy)?;
            if after > before {
                open::remove_if_there(&copy)?;
                return Ok(before);
            }
            open::set_private(&copy)?;
            File::open(&copy)?.sync_all()?;
            std::fs::rename(&copy, &path)?;
            open::sync_folder(&place.state_dir)?;
            Ok(after)
        };
        keep().map_err(|error| error.to_string())
    });
    match done {
        Ok(after) => Ok(Sizes { before, after }),
        Err(why) => {
            // It takes up room that whoever reads this may be short of.
            let _ = open::remove_if_there(&copy);
            Err(failed(why))
        }
    }
}

fn length(path: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

/// Looks whether the copy has room, whatever it comes to.
fn make_room(place: &Place, db: &Database, copy: &Path) -> Result<(), CompactError> {
    let failed = |why: String| CompactError::Disk { path: copy.to_owned(), why };
    open::remove_if_there(copy).map_err(|error| failed(error.to_string()))?;
    let used = || -> Result<u64, StoreError> {
        let txn = db.begin_write()?;
        let stats = txn.stats()?;
        txn.abort()?;
        Ok(stats.allocated_pages().saturating_mul(stats.page_size() as u64))
    };
    let needed = used().map_err(|error| failed(error.to_string()))?.saturating_add(RESERVE_BYTES);
    let seen = rustix::fs::statvfs(&place.state_dir).map_err(|error| failed(error.to_string()))?;
    let free = seen.f_bavail.saturating_mul(seen.f_frsize);
    if free < needed {
        return Err(CompactError::NoRoom { path: place.state_dir.clone(), needed, free });
    }
    Ok(())
}

/// Copies every table into a new file.
fn write(db: &Database, copy: &Path, cache_bytes: usize, told: Told<'_>) -> Result<(), StoreError> {
    let from = db.begin_read()?;
    let mut to = Builder::new()
        .set_cache_size(cache_bytes)
        .create(copy)
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let mut copying = Copy { from: &from, to: &to, told, tables: Vec::new() };
    schema::visit(&mut copying)?;
    let copied = copying.tables;
    if from.list_tables()?.any(|table| !copied.iter().any(|name| name == table.name())) {
        return Err(StoreError::Damaged("it has a table that this program does not know"));
    }
    let mut txn = to.begin_write()?;
    create_tables(&txn)?;
    txn.set_quick_repair(true);
    txn.commit()?;
    // The file grew by doubling: this cuts it to what is in it.
    to.compact().map_err(|error| StoreError::Unavailable(error.to_string()))?;
    to.close().map_err(|error| StoreError::Unavailable(error.to_string()))
}

struct Copy<'a> {
    from: &'a ReadTransaction,
    to: &'a Database,
    told: Told<'a>,
    tables: Vec<String>,
}

impl Visit for Copy<'_> {
    type Error = StoreError;

    fn table<K: Key, V: Value>(&mut self, definition: TableDefinition<'static, K, V>) -> Result<(), StoreError> {
        let name = definition.name().to_owned();
        let from = self.from.open_table(definition)?;
        let (mut rows, mut copied) = (from.iter()?, 0);
        let mut more = true;
        while more {
            let mut txn = self.to.begin_write()?;
            txn.set_durability(Durability::None)?;
            {
                let (mut to, mut bytes) = (txn.open_table(definition)?, 0);
                while bytes < COPIED_PER_COMMIT {
                    let Some(row) = rows.next() else {
                        more = false;
                        break;
                    };
                    let (key, value) = row?;
                    bytes += V::as_bytes(&value.value()).as_ref().len() + K::as_bytes(&key.value()).as_ref().len();
                    to.insert(key.value(), value.value())?;
                    copied += 1;
                }
            }
            txn.commit()?;
            (self.told)(&name, copied, from.len()?);
        }
        if copied != from.len()? {
            return Err(StoreError::Damaged("a table holds another number of rows than it says"));
        }
        self.tables.push(name);
        Ok(())
    }
}
