//! Whether a store on disk is whole: what `webhookd store check` looks at. Owns the order of looking, and that nothing is changed.
//!
//! First redb's own pages, then every block and row by itself (`rows`), then, once the write-ahead log is applied, what the
//! tables say of each other (`relations`). All of it happens on copies of the files that exist in memory as far as something was
//! written to them (`overlay`). Memory is bounded by what a start of the daemon takes and one bit for each record of the
//! journal twice, whatever the size of the store.

mod bits;
mod deliveries;
mod overlay;
mod relations;
mod rows;

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, DatabaseError, ReadableDatabase as _, StorageBackend, StorageError};

use self::overlay::Overlay;
use super::StoreError;
use super::open::{self, OpenError, Place};
use super::recover;
use super::seal::{self, Sealer};
use super::wal::Wal;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::limits::WAL_BYTES;

/// Findings that are kept; the others are counted.
const FINDINGS_MAX: usize = 1_000;
/// Rows after which progress is told again.
const STEP: u64 = 4_096;

/// A store's two files, to be read.
#[derive(Clone, Debug)]
pub struct Files {
    pub store: Arc<dyn StorageBackend>,
    pub log: Arc<dyn StorageBackend>,
    /// Length that the write-ahead log has when it is whole.
    pub log_bytes: u64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub table: String,
    /// Key or number; empty: the table as a whole.
    pub place: String,
    pub what: String,
}

/// What came of a check.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Findings that there was no room for.
    pub more: u64,
    pub events: u64,
    pub records: u64,
    pub deliveries: Deliveries,
}

/// Deliveries by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    pub pending: u64,
    pub delivered: u64,
    pub dead: u64,
    pub cancelled: u64,
}

/// How far a check is: which table, how many of its rows were looked at, and of how many.
pub type Told<'a> = &'a mut dyn FnMut(&str, u64, u64);

struct Tell<'a>(Told<'a>);

impl Tell<'_> {
    fn step(&mut self, what: &str, done: u64, of: impl FnOnce() -> u64) {
        if done.is_multiple_of(STEP) {
            (self.0)(what, done, of());
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, place, what } = self;
        if place.is_empty() { write!(out, "{table}: {what}") } else { write!(out, "{table} at {place}: {what}") }
    }
}

impl Report {
    /// Whether all is well.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn found(&mut self, table: &str, place: impl ToString, what: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { table: table.to_owned(), place: place.to_string(), what: what.into() });
        } else {
            self.more += 1;
        }
    }
}

/// Looks at the store at `place`, which no daemon may have open meanwhile.
///
/// # Errors
/// When there is none, it is in use, it can't be read, or it is of another format or another key.
pub fn place(place: &Place, entropy: &Entropy, told: Told<'_>) -> Result<Report, OpenError> {
    let path = place.store_file();
    let disk = |error: io::Error| OpenError::Disk { path: path.clone(), why: error.to_string() };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Refused { path, why: "there is none".to_owned() });
        }
        file => file.map_err(disk)?,
    };
    // A daemon holds the whole of it.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path)),
        Err(TryLockError::Error(error)) => return Err(disk(error)),
        Ok(()) => {}
    }
    let key = seal::read_key_file(&place.key_file())?;
    let log: Arc<dyn StorageBackend> = match File::open(place.wal_file()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Arc::new(InMemoryBackend::new()),
        log => Arc::new(backend(log.map_err(disk)?).map_err(disk)?),
    };
    let files = Files { store: Arc::new(backend(file).map_err(disk)?), log, log_bytes: WAL_BYTES };
    check(&files, &path, &Sealer::new(key, entropy.clone()), place.cache_bytes, told)
}

fn backend(file: File) -> io::Result<FileBackend> {
    FileBackend::new(file).map_err(io::Error::other)
}

/// Looks at everything.
///
/// # Errors
/// When the files can't be read, or hold a store of another format or of another key.
pub fn check(
    files: &Files,
    path: &Path,
    sealer: &Sealer,
    cache_bytes: usize,
    told: Told<'_>,
) -> Result<Report, OpenError> {
    let (mut report, mut tell) = (Report::default(), Tell(told));
    // Letting go of a database looks at its pages, too.
    match careful(|| Ok(look(files, path, sealer, cache_bytes, &mut report, &mut tell))) {
        Ok(looked) => looked?,
        Err(error) => report.found("pages", "", error.to_string()),
    }
    Ok(report)
}

fn look(
    files: &Files,
    path: &Path,
    sealer: &Sealer,
    cache_bytes: usize,
    report: &mut Report,
    tell: &mut Tell<'_>,
) -> Result<(), OpenError> {
    let disk = |error: io::Error| OpenError::Disk { path: path.to_owned(), why: error.to_string() };
    (tell.0)("pages", 0, 0);
    // It repairs what it can, above the file, and says so.
    match careful(|| Ok(database(files, cache_bytes).and_then(|mut db| db.check_integrity()))) {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => report.found("pages", "", "redb's list of free pages does not fit its tables"),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error)))) if !is_cut_short(&error) => return Err(disk(error)),
        Ok(Err(error)) => report.found("pages", "", error.to_string()),
        Err(error) => report.found("pages", "", error.to_string()),
    }
    // What was in the way was said above.
    let Ok(Ok(db)) = careful(|| Ok(database(files, cache_bytes))) else { return Ok(()) };
    let db = Arc::new(db);
    match careful(|| Ok(db.begin_read()?)) {
        Ok(txn) => rows::check(&txn, report, tell),
        Err(error) => report.found("pages", "", error.to_string()),
    }
    if !report.is_clean() {
        // What damaged rows say of others is not worth asking.
        return Ok(());
    }
    let shared = open::careful(path, || open::admit(&db, path, sealer.clone()))?;
    let log = Wal::open(Box::new(Overlay::new(files.log.clone()).map_err(disk)?), files.log_bytes).map_err(disk)?;
    // Nothing expires while it is looked at.
    let recovered = careful(|| recover::recover(db, shared.clone(), &Clock::manual(0), log, u64::MAX));
    match recovered {
        Ok(recovered) => {
            let looked = careful(|| relations::check(&shared, &recovered, report, tell));
            if let Err(error) = looked {
                report.found("relations", "", error.to_string());
            }
        }
        Err(error) => report.found("write-ahead log", "", error.to_string()),
    }
    Ok(())
}

fn database(files: &Files, cache_bytes: usize) -> Result<Database, DatabaseError> {
    let io = |error| DatabaseError::Storage(StorageError::Io(error));
    if files.store.len().map_err(io)? == 0 {
        return Err(DatabaseError::Storage(StorageError::Corrupted("the file is empty".to_owned())));
    }
    let file = Overlay::new(files.store.clone()).map_err(io)?;
    Builder::new().set_cache_size(cache_bytes).create_with_backend(file)
}

fn is_cut_short(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// Does what may meet a damaged page, on which redb may panic.
fn careful<T>(look: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let panicked = StoreError::Damaged("a page of it makes no sense");
    catch_unwind(AssertUnwindSafe(look)).unwrap_or(Err(panicked))
}
