//! Making a backup of a store that serves. Owns the two phases and that neither keeps a snapshot open for longer than it
//! takes to read: a snapshot that stays open keeps every page that is freed after it, 11.6 KB for each event accepted
//! meanwhile (measured).
//!
//! First, from one snapshot, every table that changes is written to a file without a name in the state folder: at the speed
//! of the disk, whatever the speed of the taker. Then the logs are read in pieces, each from a snapshot of its own, up to where they ended
//! in the first one: they only grow, as long as somebody holds their low ends (`hold`).
//!
//! What a snapshot shows is durable, by a synced commit or by the write-ahead log, so neither that log nor the spool is part
//! of a backup: it is what a crash at that moment would have left, brought up to date.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use bytes::Bytes;
use redb::{Key, ReadTransaction, ReadableTable as _, TableDefinition, TableHandle as _, Value};
use sha2::{Digest as _, Sha256};

use super::format::{Head, Summary, Writer};
use crate::clock::Millis;
use crate::limits::{BACKUP_FRAME_BYTES, BACKUP_READ_BYTES, BACKUP_SPARE_BYTES};
use crate::store::StoreError;
use crate::store::log::{self, Log, Run};
use crate::store::nameless::Nameless;
use crate::store::schema::{self, FORMAT, META, meta};
use crate::store::view::Shared;

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the disk has too little room for the temporary copy beside the store")]
    NoRoom,
    #[error("the temporary copy beside the store: {0}")]
    Disk(#[from] io::Error),
}

/// A backup that is being made: the piece that comes next is asked for until there is none.
pub struct Copy {
    writer: Option<Writer>,
    stage: Stage,
    /// Where the logs ended: events, journal.
    ends: [u64; 2],
    summary: Option<Summary>,
}

enum Stage {
    /// What the first snapshot showed, on its way out of the file.
    Tables(File),
    Log(Run),
    Done,
}

impl Copy {
    /// The first phase. `folder`: where the temporary copy may be.
    ///
    /// # Errors
    /// When the store can't be read, or the copy not be written.
    pub fn begin(shared: &Shared, folder: &Path, made_ms: Millis) -> Result<Self, CopyError> {
        // It never gets its name.
        let temporary = Nameless::create(&folder.join("webhookd.backup"))?;
        let mut file = temporary.file().try_clone()?;
        let view = shared.view()?;
        let [next_event, next_journal] = ends(&view.txn)?;
        let head = Head {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            made_ms,
            store: identity(&view.txn)?,
            next_event,
            next_journal,
        };
        let mut out = Vec::new();
        let writer = Writer::begin(head, &mut out);
        let mut tables = Tables { txn: &view.txn, writer, out, file: &file, folder };
        schema::visit(&mut tables)?;
        let Tables { mut writer, out: mut rest, .. } = tables;
        drop(view);
        writer.flush(&mut rest);
        file.write_all(&rest)?;
        file.rewind()?;
        Ok(Self { writer: Some(writer), stage: Stage::Tables(file), ends: [next_event, next_journal], summary: None })
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the store can't be read, or something of the logs is missing.
    pub fn next(&mut self, shared: &Shared) -> Result<Option<Bytes>, CopyError> {
        let mut out = Vec::new();
        while out.is_empty() {
            match &mut self.stage {
                Stage::Tables(file) => {
                    (&*file).take(BACKUP_FRAME_BYTES as u64).read_to_end(&mut out)?;
                    if out.is_empty() {
                        self.begin_log(Log::Events, &mut out);
                    }
                }
                Stage::Log(_) => self.next_of_log(shared, &mut out)?,
                Stage::Done => return Ok(None),
            }
        }
        Ok(Some(out.into()))
    }

    /// What was copied, once there is no next piece.
    #[must_use]
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    fn begin_log(&mut self, log: Log, out: &mut Vec<u8>) {
        self.stage = Stage::Log(Run::new(log));
        if let Some(writer) = &mut self.writer {
            writer.table(log.name(), out);
        }
    }

    fn next_of_log(&mut self, shared: &Shared, out: &mut Vec<u8>) -> Result<(), CopyError> {
        let (Stage::Log(run), Some(writer)) = (&mut self.stage, &mut self.writer) else { return Ok(()) };
        let log = run.log();
        let end = match log {
            Log::Events => self.ends[0],
            Log::Journal => self.ends[1],
        };
        let from = run.next().unwrap_or(0);
        if from < end {
            let view = shared.view()?;
            let table = view.txn.open_table(log.table()).map_err(StoreError::from)?;
            log::blocks(&table, from, end, BACKUP_READ_BYTES, |first, block| {
                run.take(first, block)?;
                writer.row(&first.to_le_bytes(), block, out);
                Ok(())
            })?;
            writer.flush(out);
        }
        if run.next().unwrap_or(0) != from {
            return Ok(());
        }
        // Nothing is left. A log that has never had a record ends where it begins.
        if from != end && end > 1 {
            return Err(StoreError::Damaged(log::MISSING).into());
        }
        match log {
            Log::Events => self.begin_log(Log::Journal, out),
            Log::Journal => {
                self.summary = self.writer.take().map(|writer| writer.finish(out));
                self.stage = Stage::Done;
            }
        }
        Ok(())
    }
}

fn ends(txn: &ReadTransaction) -> Result<[u64; 2], StoreError> {
    let end = |log: Log| Ok::<_, StoreError>(log::end(log, &txn.open_table(log.table())?)?.next);
    Ok([end(Log::Events)?, end(Log::Journal)?])
}

/// Eight bytes that only this store has.
fn identity(txn: &ReadTransaction) -> Result<[u8; 8], StoreError> {
    let table = txn.open_table(META)?;
    let mask = table.get(meta::ID_MASK)?.ok_or(StoreError::Damaged("its id mask is missing"))?;
    let hash: [u8; 32] = Sha256::digest(mask.value()).into();
    let mut identity = [0; 8];
    identity.copy_from_slice(&hash[..8]);
    Ok(identity)
}

/// Copies every table but the logs into a file.
struct Tables<'a> {
    txn: &'a ReadTransaction,
    writer: Writer,
    out: Vec<u8>,
    file: &'a File,
    folder: &'a Path,
}

impl schema::Visit for Tables<'_> {
    type Error = CopyError;

    fn table<K: Key, V: Value>(&mut self, definition: TableDefinition<'static, K, V>) -> Result<(), CopyError> {
        if [Log::Events, Log::Journal].iter().any(|log| log.name() == definition.name()) {
            return Ok(());
        }
        self.writer.table(definition.name(), &mut self.out);
        let table = self.txn.open_table(definition).map_err(StoreError::from)?;
        for row in table.iter().map_err(StoreError::from)? {
            let (key, value) = row.map_err(StoreError::from)?;
            let (key, value) = (key.value(), value.value());
            self.writer.row(K::as_bytes(&key).as_ref(), V::as_bytes(&value).as_ref(), &mut self.out);
            if self.out.len() >= BACKUP_READ_BYTES {
                self.write()?;
            }
        }
        Ok(())
    }
}

impl Tables<'_> {
    fn write(&mut self) -> Result<(), CopyError> {
        if free_bytes(self.folder)? < BACKUP_SPARE_BYTES + self.out.len() as u64 {
            return Err(CopyError::NoRoom);
        }
        (&*self.file).write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }
}

/// Room on the file system of a folder for who has no special right to it.
pub(in crate::store) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let seen = rustix::fs::statvfs(folder)?;
    Ok(seen.f_bavail.saturating_mul(seen.f_frsize))
}
