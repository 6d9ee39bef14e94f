//! How a store file is made and found. Owns the rule that a damaged, empty or foreign file is refused and never replaced.
//!
//! Making a redb file is not crash-atomic, so a new one is made under a temporary name, synced, renamed, and the folder
//! synced. The key file comes first: a store without its key is worthless, a key without a store harmless.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageBackend};

use super::StoreError;
use super::direct::StoreFile;
use super::engine::{create_tables, put_meta};
use super::ids::Mask;
use super::schema::{FORMAT, META, TENANTS, meta};
use super::seal::{self, KeyFileError, Sealer};
use super::view::Shared;
use super::wal::{self, Position, WAL_FILE, Wal};
use super::{news, record, row, upgrade};
use crate::entropy::Entropy;
use crate::limits::WAL_BYTES;
use crate::model::id::OPERATOR_NO;

/// Name of the store file in the state folder.
pub const STORE_FILE: &str = "webhookd.redb";
/// Name of the key file in the state folder, unless configured elsewhere.
pub const KEY_FILE: &str = "webhookd.key";

/// The version of this program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What a compaction is writing; it counts once it has the store's name.
pub(super) const COMPACTED_FILE: &str = "webhookd.redb.compact";
/// What `meta.key_check` opens to.
pub(super) const KEY_CHECK: &[u8] = b"webhookd";

/// A store is made before its log: this one was lost, and a new one would say that there never were any events.
const GONE: &str = "it is missing, and accepted events may stand in its write-ahead log webhookd.wal, which is there: put the store back, \
                    or restore a backup; to begin with nothing, remove the log";

/// Where a store lives.
#[derive(Clone, Debug)]
pub struct Place {
    pub state_dir: PathBuf,
    /// `None`: `KEY_FILE` in the state folder.
    pub key_file: Option<PathBuf>,
    pub cache_bytes: usize,
}

/// Why a store was not opened, told apart by the exit code it leads to.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the state folder {path} can't be used: {source}; state_dir must name a folder that whoever runs this may make or write"
    )]
    Folder { path: PathBuf, source: io::Error },
    #[error("the store {0} is open in another process; stop that one first")]
    Locked(PathBuf),
    #[error("the store {path} is refused: {why}")]
    Refused { path: PathBuf, why: String },
    #[error("{0}")]
    Key(#[from] KeyFileError),
    /// The disk failed; trying again may help.
    #[error("the store {path} can't be opened: {why}")]
    Disk { path: PathBuf, why: String },
}

impl Place {
    #[must_use]
    pub fn store_file(&self) -> PathBuf {
        self.state_dir.join(STORE_FILE)
    }

    #[must_use]
    pub fn wal_file(&self) -> PathBuf {
        self.state_dir.join(WAL_FILE)
    }

    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.state_dir.join(KEY_FILE))
    }
}

/// Opens the store at `place`, making it where there never was one.
///
/// # Errors
/// See `OpenError`.
pub fn open(place: &Place, entropy: &Entropy) -> Result<(Arc<Database>, Arc<Shared>), OpenError> {
    let folder = |source| OpenError::Folder { path: place.state_dir.clone(), source };
    make_private_folder(&place.state_dir).map_err(folder)?;
    let path = place.store_file();
    if path.try_exists().map_err(folder)? {
        let key = seal::read_key_file(&place.key_file())?;
        return careful(&path, || {
            let db = open_file(&path, place.cache_bytes)?;
            let db = Arc::new(upgrade::bring_up(db, &path, place.cache_bytes, FORMAT, upgrade::STEPS)?);
            let shared = admit(&db, &path, Sealer::new(key, entropy.clone()))?;
            // What a compaction that was killed has left.
            remove_if_there(&place.state_dir.join(COMPACTED_FILE)).map_err(folder)?;
            Ok((db, shared))
        });
    }
    if place.wal_file().try_exists().map_err(folder)? {
        return Err(OpenError::Refused { path, why: GONE.to_owned() });
    }
    let key_file = place.key_file();
    let key = if key_file.try_exists().map_err(folder)? {
        seal::read_key_file(&key_file)?
    } else {
        seal::create_key_file(&key_file, entropy)?
    };
    sync_folder(&place.state_dir).map_err(folder)?;
    let sealer = Sealer::new(key, entropy.clone());
    create_file(place, &path, &sealer, entropy)?;
    let db = Arc::new(open_file(&path, place.cache_bytes)?);
    let shared = admit(&db, &path, sealer)?;
    Ok((db, shared))
}

/// Runs `read`, which reads a store that may be damaged: redb trusts a cleanly closed file and panics on pages that make no
/// sense, and that is a refusal here, not the end of the program.
///
/// # Errors
/// What `read` fails with, or `OpenError::Refused`.
pub fn careful<T>(path: &Path, read: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_else(|_| {
        let why = "it is damaged: a page in it makes no sense; restore it from a backup".to_owned();
        Err(OpenError::Refused { path: path.to_owned(), why })
    })
}

/// Opens an existing store file.
///
/// # Errors
/// See `OpenError`; an empty, damaged or newer file is `Refused`.
pub fn open_file(path: &Path, cache_bytes: usize) -> Result<Database, OpenError> {
    let refused = |why: String| OpenError::Refused { path: path.to_owned(), why };
    let disk = |error: io::Error| OpenError::Disk { path: path.to_owned(), why: error.to_string() };
    let file = StoreFile::open(path).map_err(disk)?;
    if file.len().map_err(disk)? == 0 {
        return Err(refused("the file is empty; restore it from a backup, or move it away to start anew".to_owned()));
    }
    match Builder::new().set_cache_size(cache_bytes).create_with_backend(file) {
        Ok(db) => Ok(db),
        Err(DatabaseError::DatabaseAlreadyOpen) => Err(OpenError::Locked(path.to_owned())),
        Err(DatabaseError::Storage(redb::StorageError::Io(error))) if error.kind() != io::ErrorKind::InvalidData => {
            // Reading past the end of a file that was cut short is damage, not a failing disk.
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return Err(refused(format!("the file is cut short ({error}); restore it from a backup")));
            }
            Err(disk(error))
        }
        Err(error) => Err(refused(format!("{error}; restore it from a backup"))),
    }
}

/// Opens the write-ahead log beside the store, making it where there is none.
///
/// # Errors
/// `OpenError::Disk`.
pub fn open_wal(path: &Path) -> Result<Wal, OpenError> {
    wal::open_file(path, WAL_BYTES).map_err(|error| OpenError::Disk { path: path.to_owned(), why: error.to_string() })
}

/// Checks that a database is ours, of a format this program reads, and that the key opens it.
///
/// # Errors
/// `OpenError::Refused` with what is wrong.
pub fn admit(db: &Database, path: &Path, sealer: Sealer) -> Result<Arc<Shared>, OpenError> {
    let refused = |why: String| OpenError::Refused { path: path.to_owned(), why };
    let read = |key: &str| read_meta(db, path, key)?.ok_or_else(|| refused(format!("it has no {key}")));
    match read_format(db, path)? {
        FORMAT => {}
        other => {
            let version = String::from_utf8_lossy(&read(meta::VERSION)?).into_owned();
            return Err(refused(format!(
                "it has format {other}, this is webhookd {VERSION}, which reads format {FORMAT}; run webhookd {version} or newer"
            )));
        }
    }
    let opened = sealer.open(meta::KEY_CHECK.as_bytes(), &read(meta::KEY_CHECK)?);
    if opened.ok().as_deref() != Some(KEY_CHECK) {
        return Err(refused(
            "its secrets were sealed with another key; put back the key file it was made with; if webhookd reseal was cut \
             off, run it again"
                .to_owned(),
        ));
    }
    let mask: [u8; 32] =
        read(meta::ID_MASK)?.try_into().map_err(|_| refused("its id mask does not read".to_owned()))?;
    Ok(Arc::new(Shared::new(sealer, Mask::new(&mask))))
}

/// The number of a store's format.
///
/// # Errors
/// `OpenError::Refused` when it has none.
pub(super) fn read_format(db: &Database, path: &Path) -> Result<u64, OpenError> {
    let refused = |why: &str| OpenError::Refused { path: path.to_owned(), why: why.to_owned() };
    let format = read_meta(db, path, meta::FORMAT)?.ok_or_else(|| refused("it has no format"))?;
    Ok(u64::from_le_bytes(format.try_into().map_err(|_| refused("its format number does not read"))?))
}

/// A single of a store that is not admitted yet.
///
/// # Errors
/// `OpenError::Refused` when it is no store of ours, or damaged.
pub(super) fn read_meta(db: &Database, path: &Path, key: &str) -> Result<Option<Vec<u8>>, OpenError> {
    let refused = |why: String| OpenError::Refused { path: path.to_owned(), why };
    let damaged = |error: StoreError| refused(error.to_string());
    let txn = db.begin_read().map_err(|error| damaged(error.into()))?;
    let table = txn.open_table(META).map_err(|_| refused("it is no webhookd store".to_owned()))?;
    let Some(value) = table.get(key).map_err(|error| damaged(error.into()))? else { return Ok(None) };
    row::open(META, &key, value.value()).map(|bytes| Some(bytes.to_vec())).map_err(damaged)
}

/// Writes what a new store begins with.
///
/// # Errors
/// When the store fails.
pub fn initialise(db: &Database, sealer: &Sealer, entropy: &Entropy) -> Result<(), StoreError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    create_tables(&txn)?;
    {
        let mask: [u8; 32] = entropy.bytes();
        let check = sealer.seal(meta::KEY_CHECK.as_bytes(), KEY_CHECK.to_vec());
        put_meta(&txn, meta::FORMAT, &FORMAT.to_le_bytes())?;
        put_meta(&txn, meta::VERSION, VERSION.as_bytes())?;
        put_meta(&txn, meta::ID_MASK, &mask)?;
        put_meta(&txn, meta::KEY_CHECK, &check)?;
        // Far from the end of all numbers: tags rise.
        let tag = u64::from(u32::from_le_bytes(entropy.bytes())) << 16;
        let position = Position { tag, next: 0, clean: true };
        put_meta(&txn, meta::WAL, &position.to_row((1, 1)))?;
        let row = row::seal(TENANTS, &OPERATOR_NO, record::write_tenant(&news::operator()));
        txn.open_table(TENANTS)?.insert(OPERATOR_NO, row.as_slice())?;
    }
    txn.commit()?;
    Ok(())
}

fn create_file(place: &Place, path: &Path, sealer: &Sealer, entropy: &Entropy) -> Result<(), OpenError> {
    let disk = |why: String| OpenError::Disk { path: path.to_owned(), why };
    let unfinished = path.with_extension("redb.new");
    remove_if_there(&unfinished).map_err(|error| disk(error.to_string()))?;
    let db = Builder::new()
        .set_cache_size(place.cache_bytes)
        .create(&unfinished)
        .map_err(|error| disk(error.to_string()))?;
    initialise(&db, sealer, entropy).map_err(|error| disk(error.to_string()))?;
    drop(db);
    let keep = || -> io::Result<()> {
        set_private(&unfinished)?;
        File::open(&unfinished)?.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        sync_folder(&place.state_dir)
    };
    keep().map_err(|error| disk(error.to_string()))
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn make_private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn set_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
