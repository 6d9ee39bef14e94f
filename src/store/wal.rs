//! The write-ahead log: groups that are acknowledged but not yet in a synced commit of the store. Owns one file beside the
//! store, and the rule of what counts as a record in it.
//!
//! A synced commit of the store costs two syncs and every page that it touched; an append here costs one sync of a file
//! whose blocks are allocated already. So a group is appended here, committed to the store without a sync, and answered;
//! now and then a synced commit (a checkpoint) takes in all of it and the log begins anew from its start. After a crash the
//! store is as its last checkpoint left it, and start-up applies what stands here on top.
//!
//! Each stretch between two checkpoints has a tag, which the checkpoint writes into the store: so nothing that an older
//! stretch left behind, or a log that belongs to another store, is ever taken for this one's. Tags rise, by steps of chance, and
//! the newest stands in front of the records: a store that is older than its log is found out, be it that a damaged header made
//! redb fall back to the commit before, or that an old copy was put beside it. Records of a stretch are numbered from 0
//! without gaps. Front, little endian: tag u64, CRC-32 of it u32. Record: tag u64, number u64, length u32, CRC-32 u32 of
//! these and the content, content.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::StoreError;

const OLDER: &str = "it is older than its write-ahead log webhookd.wal: its newest state was lost; restore a backup";

/// Name of the log in the state folder.
pub const WAL_FILE: &str = "webhookd.wal";
const HEADER_BYTES: usize = 24;
/// What stands in front of the records.
const FRONT_BYTES: usize = 12;
/// What the length is filled up with at a time.
const FILL_BYTES: usize = 64 * 1024;

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
}

pub struct Wal {
    file: LogFile,
    capacity: u64,
    length: u64,
    tag: u64,
    next: u64,
    offset: u64,
    record: Vec<u8>,
}

impl Wal {
    /// Takes a file as a log of `capacity` bytes.
    ///
    /// # Errors
    /// When its length can't be read.
    pub fn open(file: LogFile, capacity: u64) -> io::Result<Self> {
        let length = file.len()?;
        Ok(Self { file, capacity, length, tag: 0, next: 0, offset: FRONT_BYTES as u64, record: Vec::new() })
    }

    /// Fills in what is missing of its length, so that appending never waits for the file system to find room.
    ///
    /// # Errors
    /// When the file can't be filled.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.length >= self.capacity {
            return Ok(());
        }
        self.file.set_len(self.capacity)?;
        let zeros = vec![0; FILL_BYTES];
        let mut at = self.length;
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
        if newest_tag(front).is_some_and(|newest| newest > position.tag) {
            return Err(StoreError::Damaged(OLDER));
        }
        if position.clean {
            // What is read once would be held on to by the allocator for as long as the daemon is idle.
            return Ok(Vec::new());
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
        // Each record is synced before the next one is written: behind one that is torn by a crash there is none.
        let begun = |at: usize| {
            all.get(at..at + 16).is_some_and(|head| word(head, 0) == position.tag && word(head, 8) == number)
        };
        if begun(at) {
            tracing::warn!(
                record = number,
                "the newest record of the write-ahead log does not read and is left out: a crash tore it before anybody was \
                 told of it, or it is damaged"
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
                    "a record of its write-ahead log is damaged, and there are later ones; restore a backup",
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
        let tag = tag.to_le_bytes();
        let mut front = [0; FRONT_BYTES];
        front[..8].copy_from_slice(&tag);
        front[8..].copy_from_slice(&checksum(&tag, &[]).to_le_bytes());
        self.file.write(0, &front)
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
        self.file.sync_data()
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

    /// Appends a record and syncs it.
    ///
    /// # Errors
    /// When the file fails. Then the record may be there or not, and the log is to be read again before it is used.
    pub fn append(&mut self, content: &[u8]) -> io::Result<()> {
        let record = &mut self.record;
        record.clear();
        record.extend_from_slice(&self.tag.to_le_bytes());
        record.extend_from_slice(&self.next.to_le_bytes());
        record.extend_from_slice(&u32::try_from(content.len()).map_err(io::Error::other)?.to_le_bytes());
        record.extend_from_slice(&checksum(record, content).to_le_bytes());
        record.extend_from_slice(content);
        self.file.write(self.offset, record)?;
        self.file.sync_data()?;
        self.offset += record.len() as u64;
        self.next += 1;
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

/// The tag of the newest stretch that was begun, if that reads.
fn newest_tag(front: [u8; FRONT_BYTES]) -> Option<u64> {
    let sum = checksum(&front[..8], &[]).to_le_bytes();
    (front[8..] == sum).then(|| word(&front, 0))
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
mod tests {
    use std::sync::Arc;

    use redb::backends::InMemoryBackend;

    use super::*;

    const CAPACITY: u64 = 4_096;

    /// A file that outlives the log that was opened on it.
    #[derive(Clone, Debug)]
    struct Kept(Arc<InMemoryBackend>);

    impl StorageBackend for Kept {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    fn kept() -> Kept {
        Kept(Arc::new(InMemoryBackend::new()))
    }

    fn open(file: &Kept) -> Wal {
        let mut wal = Wal::open(Box::new(file.clone()), CAPACITY).unwrap();
        wal.fill().unwrap();
        wal
    }

    fn at(tag: u64, next: u64) -> Position {
        Position { tag, next, clean: false }
    }

    #[test]
    fn what_was_appended_is_read_from_where_the_store_stands() {
        let file = kept();
        assert!(!Wal::open(Box::new(file.clone()), CAPACITY).unwrap().is_whole());
        let mut wal = open(&file);
        wal.begin(7).unwrap();
        for content in ["one", "two", "three"] {
            wal.append(content.as_bytes()).unwrap();
        }
        let wal = open(&file);
        assert!(wal.is_whole());
        assert_eq!(wal.read(at(7, 0)).unwrap(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        assert_eq!(wal.read(at(7, 2)).unwrap(), [b"three".to_vec()]);
        assert_eq!(wal.read(at(7, 3)).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(wal.read(at(8, 0)).unwrap(), Vec::<Vec<u8>>::new());
        for clean in [false, true] {
            let older = wal.read(Position { clean, ..at(6, 0) });
            assert!(matches!(older, Err(StoreError::Damaged(OLDER))), "{older:?}");
        }
    }

    #[test]
    fn a_new_stretch_hides_what_an_older_one_left_behind() {
        let file = kept();
        let mut wal = open(&file);
        wal.begin(1).unwrap();
        for _ in 0..9 {
            wal.append(b"old").unwrap();
        }
        wal.begin(2).unwrap();
        wal.append(b"new").unwrap();
        assert_eq!(wal.read(at(2, 0)).unwrap(), [b"new".to_vec()]);
        assert_eq!(wal.position(), at(2, 1));
    }

    #[test]
    fn a_torn_record_at_the_end_is_none_and_one_before_others_is_damage() {
        for torn in 0..3_u64 {
            for byte in [0, 9, 17, 21, HEADER_BYTES as u64] {
                let file = kept();
                let mut wal = open(&file);
                wal.begin(3).unwrap();
                let mut starts = Vec::new();
                for content in ["one", "two", "six"] {
                    starts.push(wal.offset);
                    wal.append(content.as_bytes()).unwrap();
                }
                let place = starts[torn as usize] + byte;
                let mut was = [0];
                file.read(place, &mut was).unwrap();
                file.write(place, &[was[0] ^ 0x40]).unwrap();
                let read = wal.read(at(3, 0));
                match torn {
                    2 => assert_eq!(read.unwrap(), [b"one".to_vec(), b"two".to_vec()], "{byte}"),
                    _ => assert!(matches!(read, Err(StoreError::Damaged(_))), "{torn} {byte}"),
                }
            }
        }
    }

    #[test]
    fn it_says_when_it_is_full() {
        let mut wal = open(&kept());
        wal.begin(1).unwrap();
        assert!(wal.is_empty());
        while wal.has_room(100) {
            wal.append(&[1; 100]).unwrap();
        }
        assert_eq!(wal.next, (CAPACITY - FRONT_BYTES as u64) / (100 + HEADER_BYTES as u64));
        assert!(!wal.is_empty());
        assert_eq!(wal.read(at(1, 0)).unwrap().len() as u64, wal.next);
    }

    #[test]
    fn a_position_reads_as_it_was_written() {
        for position in [at(u64::MAX, 5), Position { clean: true, ..at(1, 0) }] {
            assert_eq!(Position::read(&position.to_bytes()).unwrap(), position);
        }
        assert!(Position::read(&[0; 16]).is_err());
    }
}
