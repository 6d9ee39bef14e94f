//! Blocks: several log records as one value. Owns the framing; what a record means is `record`'s.
//!
//! A block is: format byte, checksum, header (five u64: watermark event, watermark journal number, time ms, age clock ms, bytes
//! of the log before it; all little endian), then each record as a u32 length and its bytes. Its key is the number of its
//! first record, so the record with number `n` is in the last block whose key is at most `n`, at position `n - key`. Values
//! above a page take power-of-two page runs in redb, so blocks are cut just below one (`limits::BLOCK_BYTES_TARGET`). Large
//! records share larger blocks: each in a block of its own would leave up to half of its pages empty.
//!
//! Invariant: no record leaves a block whose checksum does not hold. It goes over the log's name and the key too, so that a
//! block which a damaged page leads to in another's place is no less damaged than one with an altered byte.

use super::log::Log;
use crate::clock::Millis;
use crate::limits::{BLOCK_BYTES_TARGET, LARGE_BLOCK_BYTES_TARGET};
use crate::model::id::{JournalSeq, Seq};

const FORMAT: u8 = 1;
/// Where the checksummed bytes begin: behind the format byte and the checksum.
const SUMMED_FROM: usize = 1 + 4;
const HEADER_BYTES: usize = SUMMED_FROM + 5 * 8;

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
    /// Up to where the open block is filled: by the size of its first record.
    target: usize,
    full: Vec<(u64, Vec<u8>)>,
}

impl Packer {
    /// A packer for a log, whose first record gets the number `first`.
    #[must_use]
    pub fn new(log: Log, first: u64, mark: Mark) -> Self {
        Self { log, first, next: first, mark, open: Vec::new(), target: BLOCK_BYTES_TARGET, full: Vec::new() }
    }

    /// Adds a record; gives its number. `bytes`: how large it will be, as far as that is known, so that it is written where it stays.
    pub fn push(&mut self, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.open.len() > HEADER_BYTES && self.open.len() + 4 + bytes > self.target {
            self.close();
        }
        if self.open.is_empty() {
            self.begin(bytes);
        }
        let start = self.open.len();
        self.open.extend_from_slice(&[0; 4]);
        write(&mut self.open);
        let length = u32::try_from(self.open.len() - start - 4).unwrap_or(u32::MAX);
        self.open[start..start + 4].copy_from_slice(&length.to_le_bytes());
        let mut is_first = start == HEADER_BYTES;
        if self.open.len() > self.target && !is_first {
            // This record starts the next block: a block that is just over a power of two wastes half its pages.
            let moved = self.open.split_off(start);
            self.close();
            self.begin(moved.len());
            self.open.extend_from_slice(&moved);
            is_first = true;
        }
        if is_first && self.open.len() > BLOCK_BYTES_TARGET {
            self.target = LARGE_BLOCK_BYTES_TARGET;
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
        Records(block.get(HEADER_BYTES..)?).nth(place)?.ok().map(read)
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
        self.target = BLOCK_BYTES_TARGET;
        // What will be filled gets its memory at once: growing would copy it.
        self.open.reserve(match bytes {
            _ if bytes > BLOCK_BYTES_TARGET => LARGE_BLOCK_BYTES_TARGET.max(bytes) + 512,
            _ if self.full.is_empty() => 1024,
            _ => BLOCK_BYTES_TARGET + 512,
        });
        self.open.push(FORMAT);
        self.open.extend_from_slice(&[0; 4]);
        let Mark { event, journal, at_ms, aged_ms, bytes } = self.mark;
        for word in [event, journal, at_ms, aged_ms, bytes] {
            self.open.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn close(&mut self) {
        let sum = checksum(self.log, self.first, &self.open[SUMMED_FROM..]);
        self.open[1..SUMMED_FROM].copy_from_slice(&sum.to_le_bytes());
        self.mark.bytes += self.open.len() as u64;
        self.full.push((self.first, std::mem::take(&mut self.open)));
    }
}

/// The block that stands under `first`, with records in the place of those that are there: as many, in their order.
#[must_use]
pub fn rewritten(log: Log, first: u64, mark: Mark, records: &[Vec<u8>]) -> Vec<u8> {
    let mut packer = Packer::new(log, first, mark);
    packer.begin(0);
    for record in records {
        packer.open.extend_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_le_bytes());
        packer.open.extend_from_slice(record);
    }
    packer.close();
    packer.full.pop().map_or_else(Vec::new, |(_, block)| block)
}

/// A block that does not read.
#[derive(Debug, thiserror::Error)]
#[error("a block of the log is damaged")]
pub struct Damaged;

/// A block whose checksum holds.
pub struct Block<'a> {
    mark: Mark,
    records: &'a [u8],
}

/// Reads the block that stands under `first` in a log.
///
/// # Errors
/// When it is cut short, of an unknown format, or not what was written there.
pub fn read(log: Log, first: u64, bytes: &[u8]) -> Result<Block<'_>, Damaged> {
    let (&[format, a, b, c, d], summed) = bytes.split_first_chunk::<SUMMED_FROM>().ok_or(Damaged)?;
    if format != FORMAT || u32::from_le_bytes([a, b, c, d]) != checksum(log, first, summed) {
        return Err(Damaged);
    }
    let word = |at: usize| -> Result<u64, Damaged> {
        let bytes = summed.get(at..at + 8).ok_or(Damaged)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| Damaged)?))
    };
    let mark = Mark { event: word(0)?, journal: word(8)?, at_ms: word(16)?, aged_ms: word(24)?, bytes: word(32)? };
    Ok(Block { mark, records: bytes.get(HEADER_BYTES..).ok_or(Damaged)? })
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
        Records(self.records)
    }
}

fn checksum(log: Log, first: u64, summed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(log.name().as_bytes());
    hasher.update(&first.to_le_bytes());
    hasher.update(summed);
    hasher.finalize()
}

/// The records of a block, in order.
pub struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let cut = || -> Option<(&'a [u8], &'a [u8])> {
            let (length, rest) = self.0.split_first_chunk::<4>()?;
            rest.split_at_checked(u32::from_le_bytes(*length) as usize)
        };
        match cut() {
            Some((record, rest)) => {
                self.0 = rest;
                Some(Ok(record))
            }
            None => {
                self.0 = &[];
                Some(Err(Damaged))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_with_rising_keys() {
        let mark_in = Mark { event: 3, journal: 9, at_ms: 77, aged_ms: 70, bytes: 1_000 };
        let mut packer = Packer::new(Log::Events, 10, mark_in);
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
    fn large_records_share_blocks_and_small_ones_stay_in_small_ones() {
        const LARGE: usize = 66_000;
        let mut packer = Packer::new(Log::Events, 1, Mark::default());
        for size in [LARGE; 8].into_iter().chain([600; 300]) {
            packer.push(size, |out| out.extend(std::iter::repeat_n(7, size)));
        }
        let blocks = packer.finish();
        let (large, small): (Vec<_>, Vec<_>) = blocks.iter().partition(|(_, block)| block.len() > BLOCK_BYTES_TARGET);
        assert!(blocks.iter().all(|(_, block)| block.len() <= LARGE_BLOCK_BYTES_TARGET));
        assert_eq!(large.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [1, 4, 7]);
        assert!(small.len() > 1, "{}", small.len());
    }

    #[test]
    fn whatever_was_altered_reads_as_damage() {
        let mut packer = Packer::new(Log::Journal, 1, Mark::default());
        packer.push(0, |out| out.extend_from_slice(b"hello"));
        let (_, block) = packer.finish().remove(0);
        assert!(read(Log::Journal, 1, &block).is_ok());
        for cut in 0..block.len() {
            assert!(read(Log::Journal, 1, &block[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..block.len() * 8 {
            let mut altered = block.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(read(Log::Journal, 1, &altered).is_err(), "bit {bit}");
        }
        assert!(read(Log::Events, 1, &block).is_err(), "of the other log");
        assert!(read(Log::Journal, 2, &block).is_err(), "in another's place");
    }
}
