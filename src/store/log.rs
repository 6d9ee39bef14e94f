//! The two append-only logs, events and journal: appending blocks, finding a record by its number, reading ranges.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::StoreError;
use super::block::{self, Block, Mark, Packer};
use super::schema::{EVENTS, JOURNAL};

const MISSING: &str = "a block of the log is missing";

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

/// Reads record `number` of a log where it stands.
///
/// # Errors
/// When the store fails, or the block is damaged or missing between others.
pub fn get<T>(
    log: Log,
    table: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
    read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let Some(found) = table.range(..=number)?.next_back() else { return Ok(None) };
    let (first, block) = found?;
    let place = usize::try_from(number - first.value()).unwrap_or(usize::MAX);
    let first = first.value();
    match block_at(log, first, block.value())?.records().nth(place) {
        Some(record) => read(record.map_err(|_| damaged(log, first))?).map(Some),
        // Behind the end of the log there is nothing; before it there is no gap.
        None if table.range(number..)?.next().is_none() => Ok(None),
        None => Err(StoreError::Damaged(MISSING)),
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
    let start = match table.range(..=from)?.next_back() {
        Some(found) => found?.0.value(),
        None => from,
    };
    let mut expected = None;
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

/// The end of a log: the number its next record gets, and the mark of its last block.
///
/// # Errors
/// When the store fails or the block is damaged.
pub fn end(log: Log, table: &impl ReadableTable<u64, &'static [u8]>) -> Result<(u64, Option<Mark>), StoreError> {
    let Some((first, bytes)) = table.last()? else { return Ok((1, None)) };
    let first = first.value();
    let block = block_at(log, first, bytes.value())?;
    let mut next = first;
    for record in block.records() {
        record.map_err(|_| damaged(log, first))?;
        next += 1;
    }
    Ok((next, Some(block.mark())))
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
