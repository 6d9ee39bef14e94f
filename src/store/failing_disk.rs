//! A disk in memory that fails when told to, under a real store. For tests only.

use std::io;
use std::sync::{Arc, Mutex};

use redb::{Builder, Database, StorageBackend};

use super::open;
use super::recover;
use super::seal::Sealer;
use super::wal::Wal;
use super::writer::Parts;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::metrics::Metrics;

const DAY_MS: u64 = 86_400_000;
/// So little that most groups are checkpoints.
const WAL_BYTES: u64 = 160;

/// Which operation fails, counted from when it is armed, and whether it takes effect all the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    operation: usize,
    takes_effect: bool,
}

impl Fault {
    /// The first `count` operations, each in both ways.
    pub(crate) fn all(count: usize) -> impl Iterator<Item = Self> {
        let both = [true, false];
        (0..count).flat_map(move |operation| both.map(|takes_effect| Self { operation, takes_effect }))
    }
}

/// The disk with the store's file in it; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

/// One of its two files: the store, the log.
#[derive(Clone, Debug)]
struct Handle(Disk, usize);

#[derive(Debug, Default)]
struct State {
    files: [Vec<u8>; 2],
    fault: Option<Fault>,
    failed: bool,
}

impl Disk {
    pub(crate) fn arm(&self, fault: Fault) {
        self.0.lock().unwrap().fault = Some(fault);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.0.lock().unwrap().failed
    }

    /// A store on this disk, made anew.
    pub(crate) fn parts(&self, clock: &Clock) -> Parts {
        let entropy = Entropy::seeded(3);
        let sealer = Sealer::new([7; 32], entropy.clone());
        let db = Arc::new(Builder::new().create_with_backend(Handle(self.clone(), 0)).unwrap());
        open::initialise(&db, &sealer, &entropy).unwrap();
        let shared = open::admit(&db, "memory".as_ref(), sealer).unwrap();
        let recovered = recover::recover(db, shared.clone(), clock, self.wal().unwrap(), DAY_MS).unwrap();
        let disk = self.clone();
        Parts {
            spool: None,
            recovered,
            shared,
            reopen: Box::new(move || {
                let failed = |why: String| open::OpenError::Disk { path: "memory".into(), why };
                let db = Builder::new().create_with_backend(Handle(disk.clone(), 0));
                let db = db.map_err(|error| failed(error.to_string()))?;
                Ok((db, disk.wal().map_err(|error| failed(error.to_string()))?))
            }),
            clock: clock.clone(),
            metrics: Arc::new(Metrics::default()),
        }
    }

    /// The store on it, as the next process finds it.
    pub(crate) fn open(&self) -> Database {
        self.0.lock().unwrap().fault = None;
        Builder::new().create_with_backend(Handle(self.clone(), 0)).unwrap()
    }

    /// The write-ahead log on this disk.
    pub(crate) fn wal(&self) -> io::Result<Wal> {
        Wal::open(Box::new(Handle(self.clone(), 1)), WAL_BYTES)
    }
}

impl Handle {
    /// Does something that changes the disk, or fails.
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        let fails = match &mut state.fault {
            Some(fault) if fault.operation == 0 => state.fault.take(),
            Some(fault) => {
                fault.operation -= 1;
                None
            }
            None => None,
        };
        if fails.is_none_or(|fault| fault.takes_effect) {
            change(&mut state.files[self.1]);
        }
        state.failed |= fails.is_some();
        if fails.is_some() { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().unwrap().files[self.1].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let bytes = state.files[self.1].get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|bytes| bytes.resize(usize::try_from(len).unwrap(), 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|_| {})
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        self.change(|bytes| bytes[from..from + data.len()].copy_from_slice(data))
    }
}
