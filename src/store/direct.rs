//! The store's file as redb gets it. Owns which way a write takes: large ones, the pages that hold blocks of large events, go around
//! the kernel's page cache.
//!
//! Such a page is written once and is in redb's own cache already, so what the page cache costs it (memory to be found for it, a
//! copy, writing it back) buys nothing: around it takes a fraction of that (docs/PERFORMANCE.md). The kernel wants memory
//! aligned for it, which redb's is not: one buffer of ours, used again and again, stands between.
//!
//! Invariant: which way a write took can't be told afterwards, neither by a read nor by what a sync makes durable: both are of one file,
//! and the kernel keeps them coherent. Where there is no way around, all goes through the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// Writes from this size on go around the page cache.
const DIRECT_FROM: usize = 128 * 1024;
/// What memory and places on the disk are aligned to: enough for any disk.
const ALIGNED_TO: usize = 4096;
/// Bytes that go through the buffer at a time.
const BUFFER_BYTES: usize = 512 * 1024;

/// A file with a store in it.
#[derive(Debug)]
pub struct StoreFile {
    file: FileBackend,
    direct: Option<Direct>,
}

/// The same file, opened for writes around the page cache.
#[derive(Debug)]
struct Direct {
    file: File,
    /// Made when it is first needed.
    buffer: Mutex<Vec<u8>>,
}

impl StoreFile {
    /// Opens a file that is there.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let file = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Self { file, direct: Direct::open(path) })
    }
}

impl Direct {
    /// `None`: the file system has no such way.
    fn open(path: &Path) -> Option<Self> {
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        Some(Self { file, buffer: Mutex::default() })
    }

    fn write(&self, mut offset: u64, data: &[u8]) -> io::Result<()> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.resize(BUFFER_BYTES + ALIGNED_TO, 0);
        let from = buffer.as_ptr().align_offset(ALIGNED_TO);
        for part in data.chunks(BUFFER_BYTES) {
            let place = buffer.get_mut(from..from + part.len()).ok_or(io::ErrorKind::InvalidInput)?;
            place.copy_from_slice(part);
            self.file.write_all_at(place, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }
}

/// Whether a write may go around the page cache.
fn is_large(offset: u64, data: &[u8]) -> bool {
    data.len() >= DIRECT_FROM && data.len().is_multiple_of(ALIGNED_TO) && offset.is_multiple_of(ALIGNED_TO as u64)
}

impl StorageBackend for StoreFile {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &self.direct {
            Some(direct) if is_large(offset, data) => match direct.write(offset, data) {
                // The file system opens files for it and does not do it, or not here.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.file.write(offset, data),
                written => written,
            },
            _ => self.file.write(offset, data),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_lead_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let length = 4 * BUFFER_BYTES;
        let mut expected = vec![0; length];
        File::create(&path).unwrap().set_len(length as u64).unwrap();
        let with = StoreFile::open(&path).unwrap();
        let without = StoreFile { direct: None, ..StoreFile::open(&path).unwrap() };
        // Small ones and large ones over each other, aligned and not, one larger than the buffer.
        let page = ALIGNED_TO;
        let writes = [
            (&with, 0, 3 * page),
            (&with, 0, DIRECT_FROM),
            (&with, page, page),
            (&without, 2 * page, DIRECT_FROM),
            (&with, DIRECT_FROM, 2 * DIRECT_FROM),
            (&with, 100, DIRECT_FROM),
            (&with, BUFFER_BYTES, 2 * BUFFER_BYTES + page),
            (&with, BUFFER_BYTES + 5, 17),
            (&with, length - DIRECT_FROM, DIRECT_FROM),
        ];
        for (number, (file, at, bytes)) in writes.into_iter().enumerate() {
            let data: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8 ^ (number as u8 + 1)).collect();
            file.write(at as u64, &data).unwrap();
            expected[at..at + bytes].copy_from_slice(&data);
            let mut read = vec![0; length];
            with.read(0, &mut read).unwrap();
            assert!(read == expected, "after write {number}");
        }
        with.sync_data().unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
        assert_eq!(with.len().unwrap(), length as u64);
    }

    #[test]
    fn a_large_write_that_the_disk_refuses_fails() {
        let full = Path::new("/dev/full");
        let file = FileBackend::new(OpenOptions::new().read(true).write(true).open(full).unwrap()).unwrap();
        let direct =
            Some(Direct { file: OpenOptions::new().write(true).open(full).unwrap(), buffer: Mutex::default() });
        let error = StoreFile { file, direct }.write(0, &vec![1; DIRECT_FROM]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn g01_a_sync_reaches_the_file() {
        // Which can't be synced, and says so.
        let null = Path::new("/dev/null");
        let file = FileBackend::new(OpenOptions::new().read(true).write(true).open(null).unwrap()).unwrap();
        let error = StoreFile { file, direct: None }.sync_data().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
