//! Blocks: several log records as one value. Owns the framing; what a record means is `record`'s.
//!
//! A block is: format byte, checksum, header (a mark of five u64: watermark event, watermark journal number, time ms, age clock ms,
//! bytes of the log before it; then how many records there are and their bytes, u32 each; all little endian), then each record as
//! a u32 length, a u32 checksum and its bytes. Its key is the number of its first record, so the record with number `n` is in the last
//! block whose key is at most `n`, at position `n - key`. Values above a page take power-of-two page runs in redb, so blocks are cut
//! just below one, and the more is put in together the larger they are: a few large values cost redb and the disk less than many.
//!
//! Invariant: no record leaves a block whose checksum does not hold, and none is missing from one whose header's does. Each goes
//! over the log's name and a number too (the record's, the block's), so that what damage leads to in another's place is no less
//! damaged than what has an altered byte. A record is read without looking at those before it, but for their lengths.

use super::log::Log;
use crate::clock::Millis;
use crate::limits::{BLOCK_BYTES_TARGET, LARGE_BLOCK_BYTES_TARGET};
use crate::model::id::{JournalSeq, Seq};

const FORMAT: u8 = 1;
/// Where the checksummed bytes begin: behind the format byte and the checksum.
const SUMMED_FROM: usize = 1 + 4;
/// Where the count of the records stands.
const COUNT_AT: usize = SUMMED_FROM + 5 * 8;
const HEADER_BYTES: usize = COUNT_AT + 2 * 4;
/// What stands before a record.
const RECORD_HEAD_BYTES: usize = 2 * 4;
/// With no more than this to come, small records stay in small blocks.
const MUCH_BYTES: usize = 8 * BLOCK_BYTES_TARGET;
/// What a block leaves of its pages for what redb puts around it.
const SPARE_BYTES: usize = 512;
const _: () = assert!((BLOCK_BYTES_TARGET + SPARE_BYTES).is_power_of_two());
const _: () = assert!((LARGE_BLOCK_BYTES_TARGET + SPARE_BYTES).is_power_of_two());

/// What start-up needs to know, repeated in every block so that no row of its own is written for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Below this event every fresh delivery is finished or has a row in the durable queue.
    pub event: Seq,
    /// What the journal says about events from `event` on stands at or above this journal number.
    pub journal: JournalSeq,
    /// Schedule time at which the block was written.
    pub at_ms: Millis,
    /// The same by the clock that retention counts by (`age`).
    pub aged_ms: Millis,
    /// Bytes of this log's blocks before this one, those that are gone included: two marks tell what lies between them.
    pub bytes: u64,
}

/// Puts records together into blocks.
pub struct Packer {
    log: Log,
    first: u64,
    next: u64,
    /// Of the block that is open, or of the next one.
    mark: Mark,
    open: Vec<u8>,
    /// Up to where the open block is filled.
    target: usize,
    /// What is still to come, as far as that is known.
    left: usize,
    full: Vec<(u64, Vec<u8>)>,
}

impl Packer {
    /// A packer for a log, whose first record gets the number `first`. `bytes`: what all records will have together, as far as
    /// that is known.
    #[must_use]
    pub fn new(log: Log, first: u64, mark: Mark, bytes: usize) -> Self {
        Self { log, first, next: first, mark, open: Vec::new(), target: 0, left: bytes, full: Vec::new() }
    }

    /// Adds a record; gives its number. `bytes`: how large it will be, as far as that is known, so that it is written where it stays.
    pub fn push(&mut self, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.open.len() > HEADER_BYTES && self.open.len() + RECORD_HEAD_BYTES + bytes > self.target {
            self.close();
        }
        if self.open.is_empty() {
            self.begin(bytes);
        }
        let start = self.open.len();
        self.open.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
        write(&mut self.open);
        self.seal_record(start);
        self.left = self.left.saturating_sub(self.open.len() - start);
        if self.open.len() > self.target && start > HEADER_BYTES {
            // This record starts the next block: a block that is just over a power of two wastes half its pages.
            let moved = self.open.split_off(start);
            self.close();
            self.begin(moved.len());
            self.open.extend_from_slice(&moved);
        }
        let number = self.next;
        self.next += 1;
        number
    }

    /// A record that was added, read back.
    pub fn get<T>(&self, number: u64, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let open = (self.first, &self.open);
        let full = || self.full.iter().rev().map(|(first, block)| (*first, block));
        let begun = (!self.open.is_empty()).then_some(open);
        let (first, block) = begun.into_iter().chain(full()).find(|(first, _)| *first <= number)?;
        let place = usize::try_from(number - first).ok()?;
        let rest = block.get(HEADER_BYTES..)?;
        let mut records = Records { log: self.log, next: first, left: self.next - first, rest };
        records.nth(place)?.ok().map(read)
    }

    /// The number the next record will get.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of the log with everything that was packed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.mark.bytes + self.open.len() as u64
    }

    /// The finished blocks with their keys.
    #[must_use]
    pub fn finish(mut self) -> Vec<(u64, Vec<u8>)> {
        if !self.open.is_empty() {
            self.close();
        }
        self.full
    }

    /// Begins a block with a record of about `bytes`.
    fn begin(&mut self, bytes: usize) {
        self.first = self.next;
        self.target = target(self.left, bytes);
        // What will be filled gets its memory at once: growing would copy it.
        let room = self.target.min(self.left.max(1024)).max(bytes) + HEADER_BYTES + RECORD_HEAD_BYTES;
        self.open.reserve(room);
        self.open.push(FORMAT);
        self.open.extend_from_slice(&[0; 4]);
        let Mark { event, journal, at_ms, aged_ms, bytes } = self.mark;
        for word in [event, journal, at_ms, aged_ms, bytes] {
            self.open.extend_from_slice(&word.to_le_bytes());
        }
        self.open.extend_from_slice(&[0; HEADER_BYTES - COUNT_AT]);
    }

    /// Fills in what stands before the record that begins at `start` and ends here, the next one.
    fn seal_record(&mut self, start: usize) {
        let (length, sum) = self.open[start..].split_at_mut(4);
        let (sum, record) = sum.split_at_mut(4);
        length.copy_from_slice(&short(record.len()));
        sum.copy_from_slice(&checksum(self.log, self.next, record).to_le_bytes());
    }

    /// Ends the block with the record before the next one.
    fn close(&mut self) {
        let count = usize::try_from(self.next - self.first).unwrap_or(usize::MAX);
        self.open[COUNT_AT..COUNT_AT + 4].copy_from_slice(&short(count));
        let bytes = self.open.len() - HEADER_BYTES;
        self.open[COUNT_AT + 4..HEADER_BYTES].copy_from_slice(&short(bytes));
        let sum = checksum(self.log, self.first, &self.open[SUMMED_FROM..HEADER_BYTES]);
        self.open[1..SUMMED_FROM].copy_from_slice(&sum.to_le_bytes());
        self.mark.bytes += self.open.len() as u64;
        self.full.push((self.first, std::mem::take(&mut self.open)));
    }
}

/// Up to where a block is filled that begins with a record of `first` bytes, when `left` are still to come: where that is much, just
/// below a power of two that leaves no more than a quarter of it empty.
fn target(left: usize, first: usize) -> usize {
    if left.max(8 * first) <= MUCH_BYTES {
        return BLOCK_BYTES_TARGET;
    }
    let left = left.max(first);
    let above = left.next_power_of_two();
    let size = if left > above / 4 * 3 { above } else { above / 2 };
    size.clamp(BLOCK_BYTES_TARGET + SPARE_BYTES, LARGE_BLOCK_BYTES_TARGET + SPARE_BYTES) - SPARE_BYTES
}

/// The block that stands under `first`, with records in the place of those that are there: as many, in their order.
#[must_use]
pub fn rewritten(log: Log, first: u64, mark: Mark, records: &[Vec<u8>]) -> Vec<u8> {
    let mut packer = Packer::new(log, first, mark, 0);
    packer.begin(0);
    for record in records {
        let start = packer.open.len();
        packer.open.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
        packer.open.extend_from_slice(record);
        packer.seal_record(start);
        packer.next += 1;
    }
    packer.close();
    packer.full.pop().map_or_else(Vec::new, |(_, block)| block)
}

/// A block that does not read.
#[derive(Debug, thiserror::Error)]
#[error("a block of the log is damaged")]
pub struct Damaged;

/// A block whose header's checksum holds.
pub struct Block<'a> {
    mark: Mark,
    records: Records<'a>,
}

/// Reads the block that stands under `first` in a log.
///
/// # Errors
/// When it is cut short, of an unknown format, or not what was written there.
pub fn read(log: Log, first: u64, bytes: &[u8]) -> Result<Block<'_>, Damaged> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Damaged)?;
    let (&[format, a, b, c, d], summed) = header.split_first_chunk::<SUMMED_FROM>().ok_or(Damaged)?;
    if format != FORMAT || u32::from_le_bytes([a, b, c, d]) != checksum(log, first, summed) {
        return Err(Damaged);
    }
    let word = |at: usize| -> Result<u64, Damaged> {
        let bytes = summed.get(at..at + 8).ok_or(Damaged)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| Damaged)?))
    };
    let mark = Mark { event: word(0)?, journal: word(8)?, at_ms: word(16)?, aged_ms: word(24)?, bytes: word(32)? };
    let counts = word(40)?;
    if rest.len() as u64 != counts >> 32 {
        return Err(Damaged);
    }
    Ok(Block { mark, records: Records { log, next: first, left: counts & u64::from(u32::MAX), rest } })
}

impl<'a> Block<'a> {
    /// What start-up needs to know.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Its records, in order.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        self.records.clone()
    }
}

/// Of the name of the log, of the number under which it stands and of what is to be guarded.
fn checksum(log: Log, number: u64, summed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(log.name().as_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(summed);
    hasher.finalize()
}

/// A length, of which none is near that bound.
fn short(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// The records of a block, in order. One that is passed over (`nth`) is not verified.
#[derive(Clone)]
pub struct Records<'a> {
    log: Log,
    next: u64,
    left: u64,
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The next record and its checksum.
    fn cut(&mut self) -> Option<(&'a [u8], u32)> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rest = rest;
        Some((record, u32::from_le_bytes(*sum)))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        self.nth(0)
    }

    fn nth(&mut self, place: usize) -> Option<Self::Item> {
        for passed in 0..=place {
            let number = self.next;
            self.left = self.left.checked_sub(1)?;
            self.next += 1;
            let Some((record, sum)) = self.cut() else {
                (self.left, self.rest) = (0, &[]);
                return Some(Err(Damaged));
            };
            if passed == place {
                let holds = checksum(self.log, number, record) == sum;
                return Some(if holds { Ok(record) } else { Err(Damaged) });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_with_rising_keys() {
        let mark_in = Mark { event: 3, journal: 9, at_ms: 77, aged_ms: 70, bytes: 1_000 };
        let mut packer = Packer::new(Log::Events, 10, mark_in, 0);
        let sizes = [1_usize, 20_000, 20_000, 70_000, 0, 5];
        for (i, size) in sizes.iter().enumerate() {
            assert_eq!(packer.push(0, |out| out.extend(std::iter::repeat_n(i as u8, *size))), 10 + i as u64);
        }
        for (i, size) in sizes.iter().enumerate() {
            assert_eq!(packer.get(10 + i as u64, <[u8]>::to_vec), Some(vec![i as u8; *size]));
        }
        assert_eq!((packer.get(9, <[u8]>::len), packer.get(16, <[u8]>::len)), (None, None));
        let whole = packer.bytes();
        let blocks = packer.finish();
        assert!(blocks.len() > 2);
        let (mut number, mut bytes) = (10, 1_000);
        for (key, block) in &blocks {
            assert_eq!(*key, number);
            bytes += block.len() as u64;
            let before = bytes - block.len() as u64;
            let block = read(Log::Events, *key, block).unwrap();
            assert_eq!(block.mark(), Mark { bytes: before, ..mark_in });
            for record in block.records() {
                let i = (number - 10) as usize;
                assert_eq!(record.unwrap(), vec![i as u8; sizes[i]]);
                number += 1;
            }
        }
        assert_eq!((number, bytes), (16, whole));
    }

    #[test]
    fn the_more_is_put_in_together_the_larger_blocks_are_and_they_fill_their_pages() {
        // Size and count of the records; whether their sizes are known; blocks; how full their pages are, in percent.
        let rows = [
            (600, 10, true, 1, 0),
            (600, 300, true, 6, 90),
            (600, 3_000, true, 12, 96),
            (66_000, 1, true, 1, 50),
            (66_000, 3, true, 1, 75),
            (66_000, 4, true, 2, 67),
            (66_000, 32, true, 6, 84),
            (600, 300, false, 6, 90),
            (66_000, 3, false, 3, 50),
        ];
        for (size, count, is_known, wanted, filled) in rows {
            let known = |bytes: usize| if is_known { bytes } else { 0 };
            let mut packer = Packer::new(Log::Events, 1, Mark::default(), known(size * count));
            for _ in 0..count {
                packer.push(known(size), |out| out.extend(std::iter::repeat_n(7, size)));
            }
            let blocks = packer.finish();
            let pages: usize = blocks.iter().map(|(_, block)| (block.len() + SPARE_BYTES).next_power_of_two()).sum();
            let percent = 100 * size * count / pages;
            assert!(
                blocks.len() == wanted && percent >= filled,
                "{count} of {size}: {} blocks, {percent} %",
                blocks.len()
            );
            assert!(blocks.iter().all(|(_, block)| block.len() <= LARGE_BLOCK_BYTES_TARGET));
        }
    }

    #[test]
    fn whatever_was_altered_reads_as_damage() {
        let records: [&[u8]; 4] = [b"hello", b"", b"a longer record", b"x"];
        let mut packer = Packer::new(Log::Journal, 1, Mark::default(), 0);
        for record in records {
            packer.push(0, |out| out.extend_from_slice(record));
        }
        let (_, block) = packer.finish().remove(0);
        // Whether all of it reads; what does not may be anything but another record.
        let reads = |log, first, block: &[u8]| {
            let Ok(block) = read(log, first, block) else { return false };
            let whole = block.records().zip(records).all(|(read, written)| {
                read.as_ref().is_ok_and(|read| *read == written) || {
                    assert!(read.is_err());
                    false
                }
            });
            for (place, written) in records.into_iter().enumerate() {
                assert!(block.records().nth(place).unwrap().ok().is_none_or(|read| read == written));
            }
            whole
        };
        assert!(reads(Log::Journal, 1, &block));
        assert_eq!(read(Log::Journal, 1, &block).unwrap().records().count(), records.len());
        for cut in 0..block.len() {
            assert!(read(Log::Journal, 1, &block[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read(Log::Journal, 1, &[&block[..], b"\0"].concat()).is_err(), "with something behind it");
        for bit in 0..block.len() * 8 {
            let mut altered = block.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!reads(Log::Journal, 1, &altered), "bit {bit}");
        }
        assert!(read(Log::Events, 1, &block).is_err(), "of the other log");
        assert!(read(Log::Journal, 2, &block).is_err(), "in another's place");
        // A record that was put in another's place, under a header that holds.
        let swapped = rewritten(Log::Journal, 1, Mark::default(), &[b"x".to_vec(), b"y".to_vec()]);
        let size = RECORD_HEAD_BYTES + 1;
        let swapped =
            [&swapped[..HEADER_BYTES], &swapped[HEADER_BYTES + size..], &swapped[HEADER_BYTES..][..size]].concat();
        assert!(read(Log::Journal, 1, &swapped).unwrap().records().all(|record| record.is_err()));
    }
}
