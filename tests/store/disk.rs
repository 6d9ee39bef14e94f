//! A simulated disk under the store's two files, redb's and the write-ahead log. Owns what is synced, what is not, and the faults.
//!
//! A write is visible at once and durable after the next sync, as with a file in the page cache. When the power goes, each
//! write since then is kept, dropped or torn, in any order, and a changed length may be forgotten; when only the process
//! dies, everything written stays visible. Handles from before the end of a process fail from then on.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use crate::chance::Chance;

/// What redb asks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Length,
    Read,
    Write,
    SetLength,
    Sync,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// EIO.
    Broken,
    /// ENOSPC.
    Full,
    /// EIO, and what was to be synced never will be, although it still reads back: what Linux does after a failed fsync.
    Forgotten,
}

/// Calls of some kinds fail from the `nth` on (from 0), once or until lifted.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub calls: &'static [Call],
    pub nth: u64,
    pub trouble: Trouble,
    pub lasting: bool,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Content {
    /// What survives a power cut for certain.
    synced: Vec<u8>,
    /// What reads see.
    seen: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Debug, Default)]
struct State {
    files: [Content; 2],
    fault: Option<(Fault, u64)>,
    faults_met: u64,
    /// The checker looks: nothing goes wrong meanwhile.
    quiet: bool,
    /// After so many more changing calls the power is gone.
    fuse: Option<u64>,
    dark: bool,
    /// Changing calls so far.
    changes: u64,
    life: u64,
    /// Handles of this life on each file.
    open: [usize; 2],
}

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

/// The files on it.
const STORE: usize = 0;
const LOG: usize = 1;

/// One process's handle on one of the files.
#[derive(Debug)]
pub struct Handle {
    disk: Disk,
    file: usize,
    life: u64,
}

impl Disk {
    /// The store's file.
    pub fn handle(&self) -> Handle {
        self.open(STORE)
    }

    /// The write-ahead log's file.
    pub fn log(&self) -> Handle {
        self.open(LOG)
    }

    fn open(&self, file: usize) -> Handle {
        let mut state = self.lock();
        state.open[file] += 1;
        Handle { disk: self.clone(), file, life: state.life }
    }

    /// Whether somebody has the store open: a real file would be locked.
    pub fn is_in_use(&self) -> bool {
        self.lock().open.iter().any(|count| *count > 0)
    }

    /// A disk with these files, all of it synced.
    pub fn of(images: &[Vec<u8>; 2]) -> Self {
        let disk = Self::default();
        for (file, image) in disk.lock().files.iter_mut().zip(images) {
            file.synced.clone_from(image);
            file.seen.clone_from(image);
        }
        disk
    }

    /// What the files hold: the store's, the log's.
    pub fn images(&self) -> [Vec<u8>; 2] {
        self.lock().files.each_ref().map(|file| file.seen.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.lock().files[STORE].seen.is_empty()
    }

    /// Changing calls so far.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// The power goes at the changing call after `calls` more; `None`: it stays.
    pub fn set_fuse(&self, calls: Option<u64>) {
        self.lock().fuse = calls;
    }

    pub fn is_dark(&self) -> bool {
        self.lock().dark
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault.map(|fault| (fault, 0));
    }

    /// Holds faults back while `quiet`, and the power on.
    pub fn set_quiet(&self, quiet: bool) {
        self.lock().quiet = quiet;
    }

    /// How many calls a fault has failed.
    pub fn faults_met(&self) -> u64 {
        self.lock().faults_met
    }

    /// The process dies, the machine does not: what was written is there.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.open = [0; 2];
        state.dark = false;
        state.fuse = None;
        state.fault = None;
    }

    /// The power goes and comes back.
    pub fn power_cut(&self, chance: &mut Chance) {
        let mut state = self.lock();
        state.files.iter_mut().for_each(|file| file.power_cut(chance));
        drop(state);
        self.kill();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Content {
    fn power_cut(&mut self, chance: &mut Chance) {
        let since = std::mem::take(&mut self.since);
        let mut image = std::mem::take(&mut self.synced);
        let lengths = since.iter().filter_map(|change| match change {
            Change::Length(length) => Some(*length),
            Change::Write(..) => None,
        });
        let lengths: Vec<usize> = std::iter::once(image.len()).chain(lengths).collect();
        // The last one is the likeliest, as the others were short-lived.
        let last = *lengths.last().unwrap();
        let length = if chance.percent(60) { last } else { *chance.pick(&lengths).unwrap() };
        set_length(&mut image, length);
        let mut writes: Vec<(usize, Vec<u8>)> = since
            .into_iter()
            .filter_map(|change| match change {
                Change::Write(offset, bytes) => Some((offset, bytes)),
                Change::Length(_) => None,
            })
            .collect();
        if chance.percent(70) {
            chance.shuffle(&mut writes);
        }
        let kept_percent = [10, 50, 90][chance.index(3)];
        for (offset, bytes) in writes {
            for part in survivors(chance, offset, bytes.len(), kept_percent) {
                put(&mut image, offset + part.start, &bytes[part]);
            }
        }
        self.seen.clone_from(&image);
        self.synced = image;
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.since) {
            match change {
                Change::Write(offset, bytes) => put(&mut self.synced, offset, &bytes),
                Change::Length(length) => set_length(&mut self.synced, length),
            }
        }
    }
}

/// Which parts of a write reached the disk.
fn survivors(chance: &mut Chance, offset: usize, len: usize, kept_percent: u64) -> Vec<Range<usize>> {
    if !chance.percent(30) {
        let whole: Range<usize> = 0..len;
        return if chance.percent(kept_percent) { vec![whole] } else { Vec::new() };
    }
    let unit = [1, 512, 4096][chance.index(3)];
    // Cuts lie on the disk's own boundaries.
    let mut cuts = vec![0];
    cuts.extend((1..=len / unit + 1).map(|i| (offset / unit + i) * unit - offset).filter(|cut| *cut < len));
    cuts.push(len);
    if unit == 1 || chance.percent(50) {
        let cut = *chance.pick(&cuts).unwrap();
        let part = if chance.percent(50) { 0..cut } else { cut..len };
        return Vec::from([part]);
    }
    cuts.windows(2).map(|pair| pair[0]..pair[1]).filter(|_| chance.percent(50)).collect()
}

/// Writes as far as the image reaches: what lay behind a forgotten length is gone.
fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(room) = image.len().checked_sub(offset) {
        let len = room.min(bytes.len());
        image[offset..offset + len].copy_from_slice(&bytes[..len]);
    }
}

/// What is new is zeroes, all at once: byte by byte, as `resize` does it unoptimised, a new store's file takes a third of a run.
fn set_length(image: &mut Vec<u8>, length: usize) {
    image.truncate(length);
    image.extend_from_slice(&vec![0; length - image.len()]);
}

impl State {
    /// Whether this call goes wrong.
    fn meet(&mut self, life: u64, call: Call) -> Result<(), (Trouble, io::Error)> {
        if life != self.life || self.dark {
            return Err((Trouble::Broken, io::Error::other("the power is gone")));
        }
        if matches!(call, Call::Write | Call::SetLength | Call::Sync) {
            self.changes += 1;
            match &mut self.fuse {
                // Whoever looks on while it is quiet may commit what was open.
                Some(_) if self.quiet => {}
                Some(0) => {
                    self.dark = true;
                    return Err((Trouble::Broken, io::Error::other("the power goes")));
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        let Some((fault, met)) = &mut self.fault else { return Ok(()) };
        if self.quiet || !fault.calls.contains(&call) {
            return Ok(());
        }
        let number = *met;
        *met += 1;
        let fails = if fault.lasting { number >= fault.nth } else { number == fault.nth };
        if !fails {
            return Ok(());
        }
        self.faults_met += 1;
        let errno = if fault.trouble == Trouble::Full { 28 } else { 5 };
        Err((fault.trouble, io::Error::from_raw_os_error(errno)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A panic may have poisoned it.
        if let Ok(mut state) = self.disk.0.lock()
            && state.life == self.life
        {
            state.open[self.file] -= 1;
        }
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> Result<u64, io::Error> {
        let mut state = self.disk.lock();
        state.meet(self.life, Call::Length).map_err(|(_, error)| error)?;
        Ok(state.files[self.file].seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let mut state = self.disk.lock();
        state.meet(self.life, Call::Read).map_err(|(_, error)| error)?;
        let offset = usize::try_from(offset).unwrap();
        match state.files[self.file].seen.get(offset..offset + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut state = self.disk.lock();
        state.meet(self.life, Call::SetLength).map_err(|(_, error)| error)?;
        let len = usize::try_from(len).unwrap();
        set_length(&mut state.files[self.file].seen, len);
        state.files[self.file].since.push(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.disk.lock();
        match state.meet(self.life, Call::Sync) {
            Ok(()) => {
                state.files[self.file].sync();
                Ok(())
            }
            Err((trouble, error)) => {
                if trouble == Trouble::Forgotten {
                    // Lengths are the file system's own matter and survive.
                    state.files[self.file].since.retain(|change| matches!(change, Change::Length(_)));
                }
                Err(error)
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut state = self.disk.lock();
        let offset = usize::try_from(offset).unwrap();
        let alive = self.life == state.life && !state.dark;
        let met = state.meet(self.life, Call::Write);
        let bytes = match &met {
            Ok(()) => data,
            // A write that fails, and one during which the power goes, may have come half way.
            Err(_) if alive => &data[..data.len() / 2],
            Err(_) => &[],
        };
        if !bytes.is_empty() {
            assert!(
                offset + bytes.len() <= state.files[self.file].seen.len(),
                "redb writes behind the end of its file"
            );
            put(&mut state.files[self.file].seen, offset, bytes);
            state.files[self.file].since.push(Change::Write(offset, bytes.to_vec()));
        }
        met.map_err(|(_, error)| error)
    }
}
