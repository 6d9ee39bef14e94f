//! The form of a backup: 16 bytes of magic, frames, and nothing behind the last. Owns writing and reading it, and what makes
//! a copy that was cut short or changed known as such.
//!
//! A frame is: kind (u8), length of the content (u32), CRC-32 of kind, length and content (u32), content; little endian. The
//! first is the head, the last the trailer with the number of rows of each table and the SHA-256 of everything before it.
//! Those between are rows of one table each: length of its name (u8), name, then for each row the lengths of key and value
//! (two u32), key, value, as they stand in the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::Millis;
use crate::limits::{BACKUP_FRAME_BYTES, BACKUP_FRAME_BYTES_MAX};
use crate::model::id::{JournalSeq, Seq};
use crate::store::record;

/// What a backup begins with; its last digit is the number of the form.
const MAGIC: &[u8; 16] = b"webhookd-backup1";
const FRAME_HEAD: usize = 9;
const ROW_HEAD: usize = 8;

const HEAD: u8 = 1;
const ROWS: u8 = 2;
const TRAILER: u8 = 3;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Format of the store.
    pub format: u64,
    /// Version of the program that made it.
    pub program: String,
    /// Wall time.
    pub made_ms: Millis,
    /// Tells stores apart, and says nothing else of them.
    pub store: [u8; 8],
    /// Where both logs ended: the numbers that their next records get.
    pub next_event: Seq,
    pub next_journal: JournalSeq,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    rows: BTreeMap<String, u64>,
    sha256: [u8; 32],
}

/// A whole backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub head: Head,
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    pub bytes: u64,
}

/// Why something is no backup, or not a whole one.
#[derive(Debug, thiserror::Error)]
#[error("byte {at}: {why}")]
pub struct Bad {
    pub at: u64,
    pub why: &'static str,
}

/// Writes one. What it writes goes to the end of `out`, which its owner empties.
pub struct Writer {
    head: Head,
    rows: BTreeMap<String, u64>,
    hash: Sha256,
    /// Bytes hashed and counted so far.
    bytes: u64,
    /// The rows that make the next frame: their table, their number.
    table: String,
    open: Vec<u8>,
    open_rows: u64,
}

impl Writer {
    /// Begins.
    #[must_use]
    pub fn begin(head: Head, out: &mut Vec<u8>) -> Self {
        let content = record::to_bytes(&head);
        let (hash, table) = (Sha256::new(), String::new());
        let mut writer = Self { head, rows: BTreeMap::new(), hash, bytes: 0, table, open: Vec::new(), open_rows: 0 };
        writer.write(MAGIC, out);
        writer.frame(HEAD, &content, out);
        writer
    }

    /// The rows that follow are of this table.
    pub fn table(&mut self, name: &str, out: &mut Vec<u8>) {
        self.flush(out);
        name.clone_into(&mut self.table);
        self.rows.entry(name.to_owned()).or_default();
    }

    pub fn row(&mut self, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if self.open.is_empty() {
            self.open.push(u8::try_from(self.table.len()).unwrap_or(u8::MAX));
            self.open.extend_from_slice(self.table.as_bytes());
        }
        for part in [key, value] {
            self.open.extend_from_slice(&length(part));
        }
        self.open.extend_from_slice(key);
        self.open.extend_from_slice(value);
        self.open_rows += 1;
        if self.open.len() >= BACKUP_FRAME_BYTES {
            self.flush(out);
        }
    }

    /// Writes the rows that wait for more of their table.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if self.open_rows > 0 {
            if let Some(rows) = self.rows.get_mut(&self.table) {
                *rows += self.open_rows;
            }
            let content = std::mem::take(&mut self.open);
            self.frame(ROWS, &content, out);
            self.open = content;
            self.open.clear();
            self.open_rows = 0;
        }
    }

    /// Ends.
    #[must_use]
    pub fn finish(mut self, out: &mut Vec<u8>) -> Summary {
        self.flush(out);
        let sha256 = self.hash.clone().finalize().into();
        let trailer = Trailer { rows: std::mem::take(&mut self.rows), sha256 };
        self.frame(TRAILER, &record::to_bytes(&trailer), out);
        Summary { head: self.head, rows: trailer.rows, bytes: self.bytes }
    }

    fn frame(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        let mut head = [0; FRAME_HEAD];
        head[0] = kind;
        head[1..5].copy_from_slice(&length(content));
        let checksum = checksum(&head[..5], content);
        head[5..].copy_from_slice(&checksum.to_le_bytes());
        self.write(&head, out);
        self.write(content, out);
    }

    fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }
}

/// Of something that is never longer than `BACKUP_FRAME_BYTES_MAX`.
fn length(part: &[u8]) -> [u8; 4] {
    u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn checksum(head: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(content);
    hasher.finalize()
}

/// What a reader comes upon, in this order: the head once, then rows.
pub enum Part<'a> {
    Head(&'a Head),
    Rows { table: &'a str, rows: Rows<'a> },
}

/// The rows of a frame: keys and values.
#[derive(Clone)]
pub struct Rows<'a>(&'a [u8]);

impl<'a> Iterator for Rows<'a> {
    type Item = (&'a [u8], &'a [u8]);

    /// Lengths that don't fit end it; [`Rows::count_all`] has looked before.
    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<ROW_HEAD>()?;
        let (key, rest) = rest.split_at_checked(word(head, 0))?;
        let (value, rest) = rest.split_at_checked(word(head, 4))?;
        self.0 = rest;
        Some((key, value))
    }
}

impl Rows<'_> {
    /// How many there are; `None` when the last is cut short.
    fn count_all(&self) -> Option<u64> {
        let mut rows = self.clone();
        let count = rows.by_ref().count() as u64;
        rows.0.is_empty().then_some(count)
    }
}

fn word(bytes: &[u8], from: usize) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[from..from + 4]);
    u32::from_le_bytes(word) as usize
}

/// Reads a backup as it comes in, in pieces of any size, and holds one frame at most.
#[derive(Default)]
pub struct Reader {
    pending: Vec<u8>,
    /// Bytes that were read whole, the trailer's not among them.
    hash: Sha256,
    at: u64,
    begun: bool,
    head: Option<Head>,
    rows: BTreeMap<String, u64>,
    whole: bool,
}

impl Reader {
    /// Takes the next piece; `each` sees what is whole by then. Whatever it has seen counts only when `finish` says so.
    ///
    /// # Errors
    /// `Bad`, or what `each` fails with.
    pub fn push<E: From<Bad>>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(piece);
        let mut rest = pending.as_slice();
        while let Some(after) = self.step(rest, &mut each)? {
            rest = after;
        }
        let read = pending.len() - rest.len();
        pending.drain(..read);
        self.pending = pending;
        Ok(())
    }

    /// The end of it.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn finish(self) -> Result<Summary, Bad> {
        let cut = Bad { at: self.at + self.pending.len() as u64, why: "it is cut short; make another backup" };
        match self.head {
            Some(head) if self.whole => Ok(Summary { head, rows: self.rows, bytes: self.at }),
            _ => Err(cut),
        }
    }

    /// Reads the next part, if it is all there; gives what is behind it.
    fn step<'a, E: From<Bad>>(
        &mut self,
        bytes: &'a [u8],
        each: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<Option<&'a [u8]>, E> {
        if self.whole && !bytes.is_empty() {
            return Err(self.bad("something stands behind its end").into());
        }
        if !self.begun {
            let begins = bytes.len().min(MAGIC.len());
            if bytes[..begins] != MAGIC[..begins] {
                return Err(self.bad("it is no backup of this program's").into());
            }
            let Some((magic, rest)) = bytes.split_at_checked(MAGIC.len()) else { return Ok(None) };
            self.begun = true;
            self.pass(magic);
            return Ok(Some(rest));
        }
        let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD>() else { return Ok(None) };
        let length = word(head, 1);
        if length > BACKUP_FRAME_BYTES_MAX {
            return Err(self.bad("a length makes no sense").into());
        }
        let Some((content, after)) = rest.split_at_checked(length) else { return Ok(None) };
        if checksum(&head[..5], content) as usize != word(head, 5) {
            return Err(self.bad("a checksum does not fit").into());
        }
        self.frame(head[0], content, each)?;
        self.pass(&bytes[..FRAME_HEAD + length]);
        Ok(Some(after))
    }

    fn frame<E: From<Bad>>(
        &mut self,
        kind: u8,
        content: &[u8],
        each: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match (kind, &self.head) {
            (HEAD, None) => {
                let head: Head = record::read(content).map_err(|_| self.bad("its head does not read"))?;
                each(Part::Head(self.head.insert(head)))
            }
            (ROWS, Some(_)) => {
                let bad = self.bad("rows do not read");
                let Some((table, rows)) = split_rows(content) else { return Err(bad.into()) };
                let Some(count) = rows.count_all() else { return Err(bad.into()) };
                *self.rows.entry(table.to_owned()).or_default() += count;
                each(Part::Rows { table, rows })
            }
            (TRAILER, Some(_)) => {
                let trailer: Trailer = record::read(content).map_err(|_| self.bad("its trailer does not read"))?;
                let sha256: [u8; 32] = self.hash.clone().finalize().into();
                // A table without rows has no frame, and stands in the trailer all the same.
                let differs = trailer.rows.iter().any(|(table, rows)| self.rows.get(table).unwrap_or(&0) != rows);
                if differs || self.rows.keys().any(|table| !trailer.rows.contains_key(table)) {
                    return Err(self.bad("rows are missing, or there are too many").into());
                }
                if sha256 != trailer.sha256 {
                    return Err(self.bad("it was changed: its SHA-256 does not fit").into());
                }
                self.rows = trailer.rows;
                self.whole = true;
                Ok(())
            }
            _ => Err(self.bad("a frame stands where it can't").into()),
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
    }

    fn bad(&self, why: &'static str) -> Bad {
        Bad { at: self.at, why }
    }
}

fn split_rows(content: &[u8]) -> Option<(&str, Rows<'_>)> {
    let (length, rest) = content.split_first()?;
    let (name, rows) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(name).ok()?, Rows(rows)))
}
