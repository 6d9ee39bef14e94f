//! Making a store from a backup. Owns the rule that there is a store at the end only if every byte of the backup was there
//! and right, the key opens it, and the store opens: until then it has no name.
//!
//! The new store is as one that was closed: nothing stands in a write-ahead log or a spool.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, Durability, Key, TableDefinition, TableHandle as _, Value, WriteTransaction};

use super::copy::free_bytes;
use super::format::{Bad, Head, Part, Reader, Rows, Summary};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::limits::{RESTORE_COMMIT_BYTES, WAL_BYTES};
use crate::store::engine::{create_tables, put_meta};
use crate::store::log::{Log, Run};
use crate::store::nameless::{Nameless, folder_of};
use crate::store::open::{self, OpenError, STORE_FILE};
use crate::store::recover;
use crate::store::schema::{self, FORMAT, meta};
use crate::store::seal::Sealer;
use crate::store::wal::{Position, WAL_FILE, Wal};
use crate::store::{StoreError, spool};

/// What is read at a time.
const PIECE_BYTES: usize = 256 * 1024;
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the backup is refused: {0}")]
    Bad(#[from] Bad),
    #[error("the backup can't be read: {0}")]
    Read(io::Error),
    #[error(
        "the backup is of a store of format {format}, this program reads format {FORMAT}; restore it with webhookd {program}, \
         which made it"
    )]
    Format { format: u64, program: String },
    #[error("{0} is there already, and nothing is replaced; restore into an empty folder, or move the old one away")]
    Occupied(PathBuf),
    #[error("{path} has {free} bytes free, and the store may need {needed}")]
    NoRoom { path: PathBuf, free: u64, needed: u64 },
    #[error("the store can't be written: {0}")]
    Disk(String),
    /// What the backup holds makes no store.
    #[error("the backup makes no store: {0}")]
    Store(StoreError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Disk(why),
            other => Self::Store(other),
        }
    }
}

/// Reads a backup to its end and looks whether it is whole. `progress` is told how many bytes were read.
///
/// # Errors
/// When it is not, or can't be read.
pub fn check(source: &mut impl Read, progress: &mut dyn FnMut(u64)) -> Result<Summary, RestoreError> {
    read(source, progress, |_| Ok(()))
}

fn read(
    source: &mut impl Read,
    progress: &mut dyn FnMut(u64),
    mut each: impl FnMut(Part<'_>) -> Result<(), RestoreError>,
) -> Result<Summary, RestoreError> {
    let (mut reader, mut piece, mut bytes) = (Reader::default(), vec![0; PIECE_BYTES], 0);
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(reader.finish()?),
            Ok(length) => {
                reader.push(&piece[..length], &mut each)?;
                bytes += length as u64;
                progress(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RestoreError::Read(error)),
        }
    }
}

/// Makes a store in `folder`, which has none, from a backup. `length`: of the backup, where it is known.
///
/// # Errors
/// See `RestoreError`; then the folder is as it was, but that it exists.
pub fn restore(
    source: &mut impl Read,
    length: Option<u64>,
    folder: &Path,
    key: [u8; 32],
    entropy: &Entropy,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary, RestoreError> {
    let failed = |source| OpenError::Folder { path: folder.to_owned(), source };
    open::make_private_folder(folder).map_err(failed)?;
    let path = folder.join(STORE_FILE);
    let taken = [STORE_FILE, WAL_FILE].iter().copied().chain(spool::NAMES);
    for name in taken {
        if folder.join(name).try_exists().map_err(failed)? {
            return Err(RestoreError::Occupied(folder.join(name)));
        }
    }
    // Pages are not as full as frames.
    let (free, needed) = (free_bytes(folder_of(&path)).map_err(failed)?, length.unwrap_or(0).saturating_mul(2));
    if free < needed {
        return Err(RestoreError::NoRoom { path: folder.to_owned(), free, needed });
    }
    let nameless = Nameless::create(&path).map_err(failed)?;
    let sealer = Sealer::new(key, entropy.clone());
    let mut made = None;
    // redb panics on keys that make no sense, which is a backup to refuse.
    let built = open::careful(&path, || {
        made = Some(build(source, &nameless, &path, sealer, progress));
        Ok(())
    });
    let Some(summary) = made.filter(|_| built.is_ok()) else {
        return Err(StoreError::Damaged("a row in it makes no sense").into());
    };
    let summary = summary?;
    nameless.keep().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => RestoreError::Occupied(path),
        _ => RestoreError::Open(failed(error)),
    })?;
    Ok(summary)
}

fn build(
    source: &mut impl Read,
    nameless: &Nameless,
    path: &Path,
    sealer: Sealer,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary, RestoreError> {
    let disk = |why: String| OpenError::Disk { path: path.to_owned(), why };
    let file = nameless.file().try_clone().map_err(|error| disk(error.to_string()))?;
    let backend = FileBackend::new(file).map_err(|error| disk(error.to_string()))?;
    let db = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend);
    let db = db.map_err(|error| disk(error.to_string()))?;
    let mut rows = Filling::begin(&db)?;
    let summary = read(source, progress, |part| match part {
        Part::Head(head) if head.format != FORMAT => {
            Err(RestoreError::Format { format: head.format, program: head.program.clone() })
        }
        Part::Head(_) => Ok(()),
        Part::Rows { table, rows: these } => Ok(rows.take(table, these)?),
    })?;
    rows.finish(&summary.head, sealer.entropy())?;
    let db = Arc::new(db);
    let shared = open::admit(&db, path, sealer)?;
    // Whether it opens is found out by opening it.
    let wal = Wal::open(Box::new(InMemoryBackend::new()), WAL_BYTES).map_err(|error| disk(error.to_string()))?;
    let recovered = recover::recover(db, shared.clone(), &Clock::system(), wal, 0)?;
    let mut engine = recovered.engine;
    let heads = engine.heads();
    engine.checkpoint(true)?;
    shared.set_db(None);
    drop(engine);
    if heads != (summary.head.next_event, summary.head.next_journal) {
        return Err(StoreError::Damaged("its logs do not end where it says").into());
    }
    Ok(summary)
}

/// A store that is being filled.
struct Filling<'db> {
    db: &'db Database,
    txn: Option<WriteTransaction>,
    /// Bytes in the present transaction.
    bytes: usize,
    logs: [Run; 2],
}

impl<'db> Filling<'db> {
    fn begin(db: &'db Database) -> Result<Self, StoreError> {
        let txn = db.begin_write()?;
        create_tables(&txn)?;
        let logs = [Log::Events, Log::Journal].map(Run::new);
        Ok(Self { db, txn: Some(txn), bytes: 0, logs })
    }

    fn take(&mut self, table: &str, rows: Rows<'_>) -> Result<(), StoreError> {
        if let Some(run) = self.logs.iter_mut().find(|run| run.log().name() == table) {
            for (key, block) in rows.clone() {
                let first = key.try_into().map(u64::from_le_bytes);
                run.take(first.map_err(|_| StoreError::Damaged("a block of a log has no number"))?, block)?;
            }
        }
        let txn = self.txn.as_ref().ok_or(StoreError::Damaged("a transaction is missing"))?;
        let mut insert = Insert { txn, name: table, rows, bytes: None };
        schema::visit(&mut insert)?;
        self.bytes += insert.bytes.ok_or(StoreError::Damaged("it has a table that this program does not know"))?;
        if self.bytes >= RESTORE_COMMIT_BYTES {
            self.bytes = 0;
            // One transaction at a time: the full one ends before the next begins.
            if let Some(full) = self.txn.take() {
                full.commit()?;
            }
            self.txn = Some(self.db.begin_write()?);
        }
        Ok(())
    }

    /// Writes what a store that was closed has, and commits.
    fn finish(self, head: &Head, entropy: &Entropy) -> Result<(), StoreError> {
        let mut txn = self.txn.map_or_else(|| self.db.begin_write(), Ok)?;
        // As in a new store: tags rise.
        let tag = u64::from(u32::from_le_bytes(entropy.bytes())) << 16;
        let ends = (head.next_event, head.next_journal);
        put_meta(&txn, meta::WAL, &Position { tag, next: 0, clean: true }.to_row(ends))?;
        put_meta(&txn, meta::LAST_BACKUP, &head.made_ms.to_le_bytes())?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(true);
        txn.commit()?;
        Ok(())
    }
}

/// Puts rows into the table of this name.
struct Insert<'a> {
    txn: &'a WriteTransaction,
    name: &'a str,
    rows: Rows<'a>,
    /// How much that was; `None` while the table was not found.
    bytes: Option<usize>,
}

impl schema::Visit for Insert<'_> {
    type Error = StoreError;

    fn table<K: Key, V: Value>(&mut self, definition: TableDefinition<'static, K, V>) -> Result<(), StoreError> {
        if definition.name() != self.name {
            return Ok(());
        }
        let mut bytes = 0;
        let mut table = self.txn.open_table(definition)?;
        for (key, value) in self.rows.clone() {
            let fits = |width: Option<usize>, part: &[u8]| width.is_none_or(|width| width == part.len());
            if !fits(K::fixed_width(), key) || !fits(V::fixed_width(), value) {
                return Err(StoreError::Damaged("a row in it has the wrong size"));
            }
            if table.insert(K::from_bytes(key), V::from_bytes(value))?.is_some() {
                return Err(StoreError::Damaged("a row stands in it twice"));
            }
            bytes += key.len() + value.len();
        }
        self.bytes = Some(bytes);
        Ok(())
    }
}
