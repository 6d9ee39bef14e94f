//! A file that is read and never written: what is written to it stays in memory, in front of it.
//!
//! Invariant: nothing but `len` and `read` of what is below is ever called. So a store can be opened, its write-ahead log applied
//! and its allocator looked after, and the file is as it was.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Unit in which what was written is kept.
const PAGE: u64 = 4_096;

#[derive(Debug)]
pub struct Overlay {
    below: Arc<dyn StorageBackend>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// So much of what is below still shows through.
    shows: u64,
    pages: HashMap<u64, Box<[u8]>>,
}

impl Overlay {
    /// # Errors
    /// When the length of what is below can't be read.
    pub fn new(below: Arc<dyn StorageBackend>) -> io::Result<Self> {
        let length = below.len()?;
        Ok(Self { below, state: Mutex::new(State { length, shows: length, pages: HashMap::new() }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is below at `offset`, zeros where nothing is.
    fn below(&self, below: &dyn StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = self.shows.saturating_sub(offset).min(out.len() as u64);
        let (file, rest) = out.split_at_mut(usize::try_from(there).unwrap_or(usize::MAX));
        rest.fill(0);
        if file.is_empty() { Ok(()) } else { below.read(offset, file) }
    }
}

/// The parts of `offset..offset + length`, page by page: page, where in the page, where in the whole.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let inside = usize::try_from(at % PAGE).unwrap_or(0);
        let end = length.min(done + (PAGE as usize - inside));
        let part = (done < length).then_some((at / PAGE, inside, done..end));
        done = end;
        part
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        if offset.saturating_add(out.len() as u64) > state.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.below(&*self.below, offset, out)?;
        for (page, inside, part) in parts(offset, out.len()) {
            if let Some(page) = state.pages.get(&page) {
                let length = part.len();
                out[part].copy_from_slice(&page[inside..inside + length]);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.shows = state.shows.min(length);
        state.length = length;
        state.pages.retain(|page, _| page * PAGE < length);
        if let Some(page) = state.pages.get_mut(&(length / PAGE)) {
            page[usize::try_from(length % PAGE).unwrap_or(0)..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        for (page, inside, part) in parts(offset, data.len()) {
            if !state.pages.contains_key(&page) {
                let mut content = vec![0; PAGE as usize];
                state.below(&*self.below, page * PAGE, &mut content)?;
                state.pages.insert(page, content.into());
            }
            if let Some(content) = state.pages.get_mut(&page) {
                content[inside..inside + part.len()].copy_from_slice(&data[part]);
            }
        }
        state.length = state.length.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_below_stays() {
        let below = Arc::new(InMemoryBackend::new());
        below.set_len(10_000).unwrap();
        below.write(0, &[7; 10_000]).unwrap();
        let above = Overlay::new(below.clone()).unwrap();
        let mut model = vec![7_u8; 10_000];
        let read = |above: &Overlay, model: &[u8]| {
            let mut out = vec![1; model.len()];
            above.read(0, &mut out).unwrap();
            assert!(out == model);
            assert!(above.read(1, &mut out).is_err(), "beyond its end");
        };
        read(&above, &model);
        for (offset, length) in [(0, 1), (4_095, 2), (5_000, 5_000), (8_191, 1), (1, 9_000)] {
            above.write(offset as u64, &vec![offset as u8; length]).unwrap();
            model[offset..offset + length].fill(offset as u8);
            read(&above, &model);
        }
        for length in [9_000, 4_096, 20_000, 3, 12_000] {
            above.set_len(length as u64).unwrap();
            model.resize(length, 0);
            read(&above, &model);
        }
        let mut out = [0; 10_000];
        below.read(0, &mut out).unwrap();
        assert!(out == [7; 10_000] && below.len().unwrap() == 10_000);
    }
}
