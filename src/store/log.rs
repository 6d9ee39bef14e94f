//! The two append-only logs, events and journal: appending blocks, finding a record by its number, reading ranges, letting
//! the oldest blocks go.
//!
//! Where a record stands is answered here and nowhere else: in the block whose key is the largest one up to its number, or,
//! when retention has removed that block, among the kept ones; a range begins with the oldest block that is left. Whatever
//! holds blocks besides the two tables is put in here. Invariant: the last block of a log always stays, so that numbers
//! rise for ever.

use std::ops::Bound;

use redb::{AccessGuard, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::StoreError;
use super::block::{self, Block, Mark, Packer};
use super::lookup;
use super::row;
use super::schema::{EVENTS, JOURNAL, KEPT_EVENTS, KEPT_JOURNAL};
use crate::clock::Millis;

pub(super) const MISSING: &str = "a block of the log is missing";

/// Which of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Events,
    Journal,
}

impl Log {
    #[must_use]
    pub fn table(self) -> TableDefinition<'static, u64, &'static [u8]> {
        match self {
            Self::Events => EVENTS,
            Self::Journal => JOURNAL,
        }
    }

    /// Its table's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Journal => "journal",
        }
    }

    /// Records whose blocks are gone.
    #[must_use]
    pub fn kept(self) -> TableDefinition<'static, u64, &'static [u8]> {
        match self {
            Self::Events => KEPT_EVENTS,
            Self::Journal => KEPT_JOURNAL,
        }
    }
}

/// A transaction that a log is read in.
pub trait Source {
    type Rows: ReadableTable<u64, &'static [u8]>;

    /// # Errors
    /// When the store fails.
    fn rows(&self, table: TableDefinition<'static, u64, &'static [u8]>) -> Result<Self::Rows, StoreError>;
}

impl Source for ReadTransaction {
    type Rows = redb::ReadOnlyTable<u64, &'static [u8]>;

    fn rows(&self, table: TableDefinition<'static, u64, &'static [u8]>) -> Result<Self::Rows, StoreError> {
        Ok(self.open_table(table)?)
    }
}

impl<'txn> Source for &'txn WriteTransaction {
    type Rows = Table<'txn, u64, &'static [u8]>;

    fn rows(&self, table: TableDefinition<'static, u64, &'static [u8]>) -> Result<Self::Rows, StoreError> {
        Ok(self.open_table(table)?)
    }
}

/// Appends what was packed.
///
/// # Errors
/// When the store fails.
pub fn append(txn: &WriteTransaction, log: Log, packer: Packer) -> Result<(), StoreError> {
    let blocks = packer.finish();
    if blocks.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(log.table())?;
    for (first, block) in blocks {
        table.insert(first, block.as_slice())?;
    }
    Ok(())
}

/// Reads record `number`, wherever it stands.
///
/// # Errors
/// When the store fails or the block is damaged.
pub fn find<T>(
    source: &impl Source,
    log: Log,
    number: u64,
    read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut read = Some(read);
    let mut once = |record: &[u8]| read.take().map(|read| read(record)).transpose();
    if let Some(found) = get(log, &source.rows(log.table())?, number, &mut once)? {
        return Ok(found);
    }
    match lookup::get(&source.rows(log.kept())?, &log.kept(), &number)? {
        Some(value) => once(kept(log, number, value.value())?.1),
        None => Ok(None),
    }
}

/// Reads record `number` of a log where it stands in its block.
///
/// # Errors
/// When the store fails, or the block is damaged or missing between others.
pub fn get<T>(
    log: Log,
    table: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
    read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let Some(found) = table.range(..=number)?.next_back() else {
        // Before the oldest block there is nothing. One that stands before `number` and is not found has damage above it, and
        // one that does not read may have been there under another number.
        return match table.first()? {
            Some((first, _)) if first.value() <= number => Err(StoreError::Damaged(MISSING)),
            Some((first, block)) => block_at(log, first.value(), block.value()).map(|_| None),
            None => Ok(None),
        };
    };
    let (first, block) = found?;
    let first = first.value();
    // A block behind the one that was looked for: damage has led to it.
    let place = number.checked_sub(first).ok_or(StoreError::Damaged(MISSING))?;
    let place = usize::try_from(place).unwrap_or(usize::MAX);
    match block_at(log, first, block.value())?.records().nth(place) {
        Some(record) => read(record.map_err(|_| damaged(log, first))?).map(Some),
        // Behind the end of the log there is nothing; before it there is no gap.
        None if table.range(number..)?.next().is_none() => Ok(None),
        None => Err(StoreError::Damaged(MISSING)),
    }
}

/// Finds records of one snapshot that stand near each other: the block of the last one is at hand. redb reads a large block anew for
/// each of its records once its cache is full, because it keeps nothing that is larger than a part of the cache.
pub struct Seeker<'txn> {
    txn: &'txn ReadTransaction,
    log: Log,
    table: redb::ReadOnlyTable<u64, &'static [u8]>,
    /// The first number of the last block, and its bytes.
    last: Option<(u64, AccessGuard<'static, &'static [u8]>)>,
}

impl<'txn> Seeker<'txn> {
    /// # Errors
    /// When the store fails.
    pub fn new(txn: &'txn ReadTransaction, log: Log) -> Result<Self, StoreError> {
        Ok(Self { txn, log, table: txn.rows(log.table())?, last: None })
    }

    /// As the function of that name.
    ///
    /// # Errors
    /// When the store fails or the block is damaged.
    pub fn find<T>(
        &mut self,
        number: u64,
        read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if let Some(record) = self.at(number)? {
            return read(record).map(Some);
        }
        let found = self.table.range(..=number)?.next_back().transpose()?;
        self.last = found.map(|(first, block)| (first.value(), block));
        match self.at(number)? {
            Some(record) => read(record).map(Some),
            None => find(self.txn, self.log, number, read),
        }
    }

    /// The record of that number, if it stands in the last block.
    fn at(&self, number: u64) -> Result<Option<&[u8]>, StoreError> {
        let Some((first, block)) = &self.last else { return Ok(None) };
        let Some(place) = number.checked_sub(*first).and_then(|place| usize::try_from(place).ok()) else {
            return Ok(None);
        };
        let record = block_at(self.log, *first, block.value())?.records().nth(place).transpose();
        record.map_err(|_| damaged(self.log, *first))
    }
}

/// Calls `each` with the records of a log from `from` on, in order, until it says stop (false).
///
/// # Errors
/// When the store fails, a block is damaged or missing, or `each` fails.
pub fn scan(
    log: Log,
    table: &impl ReadableTable<u64, &'static [u8]>,
    from: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let before = table.range(..=from)?.next_back().transpose()?.map(|(first, _)| first.value());
    if before.is_some_and(|first| first > from) {
        return Err(StoreError::Damaged(MISSING));
    }
    let start = before.unwrap_or(from);
    let mut expected = before;
    for found in table.range(start..)? {
        let (first, block) = found?;
        let mut next = first.value();
        if expected.is_some_and(|expected| expected != next) {
            return Err(StoreError::Damaged(MISSING));
        }
        for (number, record) in (next..).zip(block_at(log, next, block.value())?.records()) {
            if number >= from && !each(number, record.map_err(|_| damaged(log, first.value()))?)? {
                return Ok(());
            }
            next = number + 1;
        }
        expected = Some(next);
    }
    Ok(())
}

/// The same, those before the oldest block among them that are kept.
///
/// # Errors
/// As `scan`.
pub fn scan_all(
    source: &impl Source,
    log: Log,
    from: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let kept_rows = source.rows(log.kept())?;
    for found in lookup::rising(&kept_rows, &log.kept(), Bound::Included(&from), Bound::Unbounded)? {
        let (number, value) = found?;
        if !each(number.value(), kept(log, number.value(), value.value())?.1)? {
            return Ok(());
        }
    }
    scan(log, &source.rows(log.table())?, from, each)
}

/// Calls `each` with whole blocks as they stand, in order: those whose first record is at or above `from` and below `below`,
/// until they have `bytes_max` bytes together.
///
/// # Errors
/// When the store or `each` fails.
pub fn blocks(
    table: &impl ReadableTable<u64, &'static [u8]>,
    from: u64,
    below: u64,
    bytes_max: usize,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut bytes = 0;
    for found in table.range(from..below)? {
        let (first, block) = found?;
        each(first.value(), block.value())?;
        bytes += block.value().len();
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(())
}

/// Follows blocks that are handed on one by one, so that none is missing between them.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    log: Log,
    next: Option<u64>,
}

impl Run {
    #[must_use]
    pub fn new(log: Log) -> Self {
        Self { log, next: None }
    }

    /// Of which log.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log
    }

    /// Takes the next block.
    ///
    /// # Errors
    /// `StoreError::Damaged` when it does not follow the one before it, or does not read.
    pub fn take(&mut self, first: u64, block: &[u8]) -> Result<(), StoreError> {
        if self.next.is_some_and(|next| next != first) {
            return Err(StoreError::Damaged(MISSING));
        }
        let mut next = first;
        for record in block_at(self.log, first, block)?.records() {
            record.map_err(|_| damaged(self.log, first))?;
            next += 1;
        }
        self.next = Some(next);
        Ok(())
    }

    /// The number that the next record has; `None` before the first block.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.next
    }
}

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The number its next record gets.
    pub next: u64,
    /// Of its last block.
    pub mark: Option<Mark>,
    /// What the next block's mark says of the bytes before it.
    pub bytes: u64,
}

/// The end of a log.
///
/// # Errors
/// When the store fails or the block is damaged.
pub fn end(log: Log, table: &impl ReadableTable<u64, &'static [u8]>) -> Result<End, StoreError> {
    let Some((first, bytes)) = table.last()? else { return Ok(End { next: 1, mark: None, bytes: 0 }) };
    let first = first.value();
    let block = block_at(log, first, bytes.value())?;
    let mark = block.mark();
    let next = first + count(log, first, &block)?;
    Ok(End { next, mark: Some(mark), bytes: mark.bytes + bytes.value().len() as u64 })
}

/// The number of the oldest record that is left in a log, and the mark of its block.
///
/// # Errors
/// When the store fails or the block is damaged.
pub fn floor(log: Log, table: &impl ReadableTable<u64, &'static [u8]>) -> Result<(u64, Option<Mark>), StoreError> {
    match table.first()? {
        Some((first, bytes)) => Ok((first.value(), Some(block_at(log, first.value(), bytes.value())?.mark()))),
        None => Ok((1, None)),
    }
}

/// The block that would hold record `number`: its key and mark.
///
/// # Errors
/// When the store fails or the block is damaged.
pub fn mark_at(
    log: Log,
    table: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
) -> Result<Option<(u64, Mark)>, StoreError> {
    match table.range(..=number)?.next_back() {
        Some(found) => {
            let (first, bytes) = found?;
            if first.value() > number {
                return Err(StoreError::Damaged(MISSING));
            }
            Ok(Some((first.value(), block_at(log, first.value(), bytes.value())?.mark())))
        }
        None => Ok(None),
    }
}

/// A block that was taken out of its log, with the number of its first record.
pub type Taken = (u64, Vec<u8>);

/// Takes whole blocks off the low end, until `max` records or more are taken: those that end at `to` or below, and never the
/// last one.
///
/// # Errors
/// When the store fails or a block is damaged.
pub fn take(txn: &WriteTransaction, log: Log, to: u64, max: usize) -> Result<Vec<Taken>, StoreError> {
    let mut table = txn.open_table(log.table())?;
    let (mut taken, mut records) = (Vec::new(), 0);
    let Some(last) = table.last()?.map(|(first, _)| first.value()) else { return Ok(taken) };
    while records < max as u64 {
        let Some((first, count)) = first_block(log, &table)? else { break };
        if first == last || first + count > to {
            break;
        }
        records += count;
        taken.extend(table.pop_first()?.map(|(first, block)| (first.value(), block.value().to_vec())));
    }
    Ok(taken)
}

/// The oldest block's first number, and how many records it holds.
fn first_block(log: Log, table: &impl ReadableTable<u64, &'static [u8]>) -> Result<Option<(u64, u64)>, StoreError> {
    let Some((first, bytes)) = table.first()? else { return Ok(None) };
    let first = first.value();
    Ok(Some((first, count(log, first, &block_at(log, first, bytes.value())?)?)))
}

fn count(log: Log, first: u64, block: &Block<'_>) -> Result<u64, StoreError> {
    let mut count = 0;
    for record in block.records() {
        record.map_err(|_| damaged(log, first))?;
        count += 1;
    }
    Ok(count)
}

/// A record as it is kept when its block goes.
#[must_use]
pub fn to_keep(log: Log, number: u64, aged_ms: Millis, record: &[u8]) -> Vec<u8> {
    row::seal(log.kept(), &number, [&aged_ms.to_le_bytes(), record].concat())
}

/// Reads what `to_keep` made: the age of its block, and the record.
///
/// # Errors
/// When it is not what was written there.
pub fn kept(log: Log, number: u64, value: &[u8]) -> Result<(Millis, &[u8]), StoreError> {
    let bytes = row::open(log.kept(), &number, value)?;
    let (age, record) = bytes.split_first_chunk::<8>().ok_or(StoreError::Damaged("a kept record does not read"))?;
    Ok((u64::from_le_bytes(*age), record))
}

/// The records of a block that was taken.
///
/// # Errors
/// `StoreError::DamagedAt`.
pub fn records(
    log: Log,
    (first, bytes): &Taken,
) -> Result<impl Iterator<Item = Result<(u64, &[u8]), StoreError>>, StoreError> {
    records_at(log, *first, bytes)
}

/// The records of the block that stands under `first`, with their numbers.
///
/// # Errors
/// `StoreError::DamagedAt`.
pub fn records_at(
    log: Log,
    first: u64,
    bytes: &[u8],
) -> Result<impl Iterator<Item = Result<(u64, &[u8]), StoreError>>, StoreError> {
    let numbered = (first..).zip(block_at(log, first, bytes)?.records());
    Ok(numbered.map(move |(number, record)| Ok((number, record.map_err(|_| damaged(log, number))?))))
}

/// Reads the block that stands under `first`.
///
/// # Errors
/// `StoreError::DamagedAt`.
pub fn block_at(log: Log, first: u64, bytes: &[u8]) -> Result<Block<'_>, StoreError> {
    block::read(log, first, bytes).map_err(|_| damaged(log, first))
}

fn damaged(log: Log, first: u64) -> StoreError {
    StoreError::DamagedAt { table: log.name().to_owned(), place: first.to_string() }
}
