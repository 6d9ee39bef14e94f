//! The write-ahead log: groups that are acknowledged but not yet in a synced commit of the store. Owns one file beside the
//! store, and the rule of what counts as a record in it.
//!
//! A synced commit of the store costs two syncs and every page that it touched; an append here costs one sync of a file
//! whose blocks are allocated already. So a group is appended here and answered, and committed to the store without a sync when
//! somebody looks; now and then a synced commit (a checkpoint) takes in all of it and the log begins anew from its start. After a
//! crash the store is as its last checkpoint left it, and start-up applies what stands here on top.
//!
//! Each stretch between two checkpoints has a tag, which the checkpoint writes into the store: so nothing that an older
//! stretch left behind, or a log that belongs to another store, is ever taken for this one's. Tags rise, by steps of chance, and
//! the newest stands in front of the records: a store that is older than its log is found out, be it that a damaged header made
//! redb fall back to the commit before, or that an old copy was put beside it. Two places in front take turns, so that one
//! reads whatever a crash tears. Records of a stretch are numbered from 0 without gaps. Each place, little endian: tag u64, CRC-32
//! of it u32. Record: tag u64, number u64, length u32, CRC-32 u32 of these and the content, content.
//!
//! Behind the newest record stands a mark, written once the record is synced, and not synced itself: a record without content
//! with the number `SETTLED`. The next record takes its place. Where it stands and the record before it does not read, that was
//! damaged; where it does not, a power cut may have torn the record, of which nobody was told.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::StoreError;
use super::group::Heads;

const OLDER: &str = "it is older than its write-ahead log webhookd.wal: its newest state was lost; restore a backup";

const FRONTLESS: &str = "its write-ahead log webhookd.wal does not read, and accepted events may stand in it; put the right one \
                         back, or restore a backup";

/// Name of the log in the state folder.
pub const WAL_FILE: &str = "webhookd.wal";
const HEADER_BYTES: usize = 24;
/// One of the two places for the newest tag.
const PLACE_BYTES: usize = 12;
/// What stands in front of the records.
const FRONT_BYTES: usize = 2 * PLACE_BYTES;
/// The number of the mark behind the newest record: greater than any record's.
const SETTLED: u64 = u64::MAX;
/// What the length is filled up with at a time.
const FILL_BYTES: usize = 64 * 1024;

/// The part of it, as a divisor, that is left when it is nearly full.
const NEARLY: u64 = 16;

/// A file that holds a log: the real one, or a test's.
pub type LogFile = Box<dyn StorageBackend>;

/// Where a store stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Of the present stretch.
    pub tag: u64,
    /// The number of the first record that the store does not have.
    pub next: u64,
    /// The store was closed, and nothing was appended since: the log holds nothing that counts.
    pub clean: bool,
}

impl Position {
    const BYTES: usize = 17;

    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.tag.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.next.to_le_bytes());
        bytes[16] = u8::from(self.clean);
        bytes
    }

    /// # Errors
    /// `StoreError::Damaged`.
    pub fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let bytes: &[u8; Self::BYTES] =
            bytes.try_into().map_err(|_| StoreError::Damaged("its place in the write-ahead log does not read"))?;
        Ok(Self { tag: word(bytes, 0), next: word(bytes, 8), clean: bytes[16] == 1 })
    }

    /// `meta::WAL`: where the store stands in the log, and where its own two logs end.
    #[must_use]
    pub fn to_row(self, heads: Heads) -> Vec<u8> {
        let mut row = self.to_bytes().to_vec();
        row.extend_from_slice(&heads.0.to_le_bytes());
        row.extend_from_slice(&heads.1.to_le_bytes());
        row
    }

    /// Reads what `to_row` made.
    ///
    /// # Errors
    /// `StoreError::Damaged`.
    pub fn read_row(row: &[u8]) -> Result<(Self, Heads), StoreError> {
        let parts =
            row.split_last_chunk::<8>().and_then(|(rest, journal)| Some((rest.split_last_chunk::<8>()?, journal)));
        let ((position, event), journal) = parts.ok_or(StoreError::Damaged("where its logs end does not read"))?;
        Ok((Self::read(position)?, (u64::from_le_bytes(*event), u64::from_le_bytes(*journal))))
    }
}

pub struct Wal {
    file: LogFile,
    capacity: u64,
    length: u64,
    tag: u64,
    next: u64,
    offset: u64,
    record: Vec<u8>,
    /// Where the newest tag stands in front, and whether that is synced: the other one is.
    place: Option<u64>,
    synced: bool,
}

impl Wal {
    /// Takes a file as a log of `capacity` bytes.
    ///
    /// # Errors
    /// When its length can't be read.
    pub fn open(file: LogFile, capacity: u64) -> io::Result<Self> {
        let length = file.len()?;
        Ok(Self {
            file,
            capacity,
            length,
            tag: 0,
            next: 0,
            offset: FRONT_BYTES as u64,
            record: Vec::new(),
            place: None,
            synced: false,
        })
    }

    /// Fills in what is missing of its length, so that appending never waits for the file system to find room.
    ///
    /// # Errors
    /// When the file can't be filled.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.length >= self.capacity {
            return Ok(());
        }
        let mut front = [0; FRONT_BYTES];
        if self.length >= FRONT_BYTES as u64 {
            self.file.read(0, &mut front)?;
        }
        if tags(&front) == [None; 2] {
            front[..PLACE_BYTES].copy_from_slice(&in_front(0));
        }
        // Before it is as long as it has to be: a front that does not read at all is then one that was damaged.
        self.file.set_len(self.length.max(FRONT_BYTES as u64))?;
        self.file.write(0, &front)?;
        self.file.sync_data()?;
        self.file.set_len(self.capacity)?;
        let zeros = vec![0; FILL_BYTES];
        let mut at = self.length.max(FRONT_BYTES as u64);
        while at < self.capacity {
            let part = usize::try_from(self.capacity - at).unwrap_or(FILL_BYTES).min(FILL_BYTES);
            self.file.write(at, &zeros[..part])?;
            at += part as u64;
        }
        self.file.sync_data()?;
        self.length = self.capacity;
        Ok(())
    }

    /// Whether the file is there in its full length.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.length >= self.capacity
    }

    /// The contents of the records that a store at `position` does not have, in order.
    ///
    /// # Errors
    /// When the file can't be read; `StoreError::Damaged` when the store is older than the log, or a record is missing before
    /// one that is there.
    pub fn read(&self, position: Position) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut front = [0; FRONT_BYTES];
        self.file.read(0, &mut front).map_err(unavailable)?;
        let newest = tags(&front).into_iter().flatten().max();
        if newest.is_some_and(|newest| newest > position.tag) {
            return Err(StoreError::Damaged(OLDER));
        }
        if position.clean {
            // What is read once would be held on to by the allocator for as long as the daemon is idle.
            return Ok(Vec::new());
        }
        if newest.is_none() {
            return Err(StoreError::Damaged(FRONTLESS));
        }
        let mut all = vec![0; usize::try_from(self.capacity).unwrap_or(usize::MAX)];
        self.file.read(0, &mut all).map_err(unavailable)?;
        let (mut found, mut at, mut number) = (Vec::new(), FRONT_BYTES, 0);
        while let Some(content) = record_at(&all, at, position.tag, number) {
            at += HEADER_BYTES + content.len();
            if number >= position.next {
                found.push(content.to_vec());
            }
            number += 1;
        }
        // Each record is synced before the next one, or its mark, is written: behind one that is torn by a crash there is neither.
        let begun = |at: usize| {
            all.get(at..at + 16).is_some_and(|head| word(head, 0) == position.tag && word(head, 8) == number)
        };
        if begun(at) {
            tracing::warn!(
                record = number,
                "the newest record of the write-ahead log does not read and is left out: a power cut tore it before anybody \
                 was told of it, or it is damaged"
            );
        }
        let tag = position.tag.to_le_bytes();
        let rest = all.get(at + 1..).unwrap_or_default();
        let later = |window: &[u8]| window == tag;
        for place in rest.windows(tag.len()).enumerate().filter(|(_, window)| later(window)).map(|(place, _)| place) {
            let start = at + 1 + place;
            let claimed = all.get(start + 8..start + 16).map_or(0, |bytes| word(bytes, 0));
            if claimed > number && record_at(&all, start, position.tag, claimed).is_some() {
                return Err(StoreError::Damaged(
                    "a record of its write-ahead log webhookd.wal is damaged, and what was acknowledged stands in it; restore a \
                     backup",
                ));
            }
        }
        Ok(found)
    }

    /// Begins a stretch: everything before it is in the store, synced. That it began need not be synced: the next record will
    /// be, and without one there is nothing to lose.
    ///
    /// # Errors
    /// When the file fails.
    pub fn begin(&mut self, tag: u64) -> io::Result<()> {
        self.tag = tag;
        self.next = 0;
        self.offset = FRONT_BYTES as u64;
        let place = match self.place {
            Some(place) if self.synced => PLACE_BYTES as u64 - place,
            Some(place) => place,
            None => self.first_place()?,
        };
        (self.place, self.synced) = (Some(place), false);
        self.file.write(place, &in_front(tag))
    }

    /// Where the first tag goes after a start: over the one that does not read, or else over the newest, which may not be synced.
    fn first_place(&self) -> io::Result<u64> {
        let mut front = [0; FRONT_BYTES];
        self.file.read(0, &mut front)?;
        Ok(match tags(&front) {
            [None, _] => 0,
            [Some(first), Some(second)] if first > second => 0,
            _ => PLACE_BYTES as u64,
        })
    }

    /// Overwrites what older stretches have left behind. Nothing may have been appended to the present one.
    ///
    /// # Errors
    /// When the file fails.
    pub fn wipe(&mut self) -> io::Result<()> {
        let zeros = vec![0; FILL_BYTES];
        let mut at = self.offset;
        while at < self.capacity {
            let part = usize::try_from(self.capacity - at).unwrap_or(FILL_BYTES).min(FILL_BYTES);
            self.file.write(at, &zeros[..part])?;
            at += part as u64;
        }
        self.record.clear();
        self.file.sync_data()?;
        self.synced = true;
        Ok(())
    }

    /// Goes on where a store stands in it.
    pub fn resume(&mut self, position: Position) {
        (self.tag, self.next) = (position.tag, position.next);
    }

    /// The store has one record more, which stands here already.
    pub fn pass(&mut self) {
        self.next += 1;
    }

    /// Where a store stands that has all of it.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { tag: self.tag, next: self.next, clean: false }
    }

    /// Whether nothing was appended since the last checkpoint.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offset == FRONT_BYTES as u64
    }

    /// Whether a record of this size can be appended before the next checkpoint.
    #[must_use]
    pub fn has_room(&self, content_bytes: usize) -> bool {
        self.offset + (HEADER_BYTES + content_bytes) as u64 <= self.capacity
    }

    /// Whether so little is left of it that the next checkpoint is near.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.capacity.saturating_sub(self.offset) < self.capacity / NEARLY
    }

    /// Appends a record and syncs it.
    ///
    /// # Errors
    /// When the file fails. Then the record may be there or not, and the log is to be read again before it is used.
    pub fn append(&mut self, content: &[u8]) -> io::Result<()> {
        let record = &mut self.record;
        record.clear();
        record.extend_from_slice(&header(self.tag, self.next, content)?);
        record.extend_from_slice(content);
        self.file.write(self.offset, record)?;
        self.file.sync_data()?;
        self.synced = true;
        self.offset += record.len() as u64;
        self.next += 1;
        if self.has_room(0) {
            // Nothing is lost without it.
            drop(self.file.write(self.offset, &header(self.tag, SETTLED, &[])?));
        }
        Ok(())
    }
}

/// Opens the log in the state folder, making it where there is none.
///
/// # Errors
/// When it can't be read or made, or another process has it open.
pub fn open_file(path: &Path, capacity: u64) -> io::Result<Wal> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Wal::open(Box::new(FileBackend::new(file).map_err(io::Error::other)?), capacity)
}

/// A tag as it stands in front.
fn in_front(tag: u64) -> [u8; PLACE_BYTES] {
    let mut place = [0; PLACE_BYTES];
    place[..8].copy_from_slice(&tag.to_le_bytes());
    let sum = checksum(&place[..8], &[]);
    place[8..].copy_from_slice(&sum.to_le_bytes());
    place
}

/// The tags of the newest stretches that were begun, where they read.
fn tags(all: &[u8]) -> [Option<u64>; 2] {
    [0, PLACE_BYTES].map(|at| {
        let place = all.get(at..at + PLACE_BYTES)?;
        let tag = word(place, 0);
        (place == in_front(tag)).then_some(tag)
    })
}

/// What stands before the content of a record.
fn header(tag: u64, number: u64, content: &[u8]) -> io::Result<[u8; HEADER_BYTES]> {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&tag.to_le_bytes());
    header[8..16].copy_from_slice(&number.to_le_bytes());
    header[16..20].copy_from_slice(&u32::try_from(content.len()).map_err(io::Error::other)?.to_le_bytes());
    let sum = checksum(&header[..20], content);
    header[20..].copy_from_slice(&sum.to_le_bytes());
    Ok(header)
}

/// The content of record `number` of a stretch, if it stands whole at `at`.
fn record_at(all: &[u8], at: usize, tag: u64, number: u64) -> Option<&[u8]> {
    let header = all.get(at..at + HEADER_BYTES)?;
    if word(header, 0) != tag || word(header, 8) != number {
        return None;
    }
    let short = |from: usize| Some(u32::from_le_bytes(header.get(from..from + 4)?.try_into().ok()?));
    let length = usize::try_from(short(16)?).ok()?;
    let content = all.get(at + HEADER_BYTES..)?.get(..length)?;
    (checksum(&header[..20], content) == short(20)?).then_some(content)
}

fn checksum(header: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(content);
    hasher.finalize()
}

fn word(bytes: &[u8], from: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[from..from + 8]);
    u64::from_le_bytes(word)
}

fn unavailable(error: io::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
