//! How full the store's file is. Owns the estimate of what of it is free inside.
//!
//! A redb file does not shrink when rows go; their pages are used again. How many are free redb tells only by reading every
//! page, so it is estimated: what the file has taken on the disk was in use when the store held most, and what it holds now
//! is known exactly for the logs (the marks of their blocks count bytes) and by the number of rows for the rest. So the
//! share that is in use is what is held now against what was held when the file was fullest. The estimate is exact while
//! nothing was ever removed, is right again whenever the store is as full as it ever was, and never goes beyond the file.

use redb::ReadableTableMetadata;

use super::StoreError;
use super::log::{self, Log};
use super::row;
use super::schema::{DEAD, DEAD_OF, IDEMPOTENCY, META, ORDERING, QUEUE, meta};
use super::view::{Shared, View};

/// Bytes that a row of the small tables and a kept record are counted with.
const ROW_BYTES: u64 = 64;
const KEPT_BYTES: u64 = 512;

/// What the file was like when it was fullest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that the file takes on the disk.
    pub taken: u64,
    /// Bytes that the store held when it was fullest.
    pub held: u64,
}

impl Room {
    /// With what is seen now. A file that became smaller was compacted or trimmed: its free pages are fewer.
    #[must_use]
    pub fn seen(self, taken: u64, held: u64) -> Self {
        let before = if taken < self.taken { share(self.held, taken, self.taken) } else { self.held };
        Self { taken, held: before.max(held) }
    }

    /// Bytes of the file that are in use while the store holds `held`.
    #[must_use]
    pub fn used(self, held: u64) -> u64 {
        if self.held == 0 { self.taken } else { share(self.taken, held.min(self.held), self.held) }
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.taken) | u128::from(self.held) << 64).to_le_bytes()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let both = u128::from_le_bytes(bytes.try_into().ok()?);
        Some(Self { taken: both as u64, held: (both >> 64) as u64 })
    }
}

fn share(of: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(part) / u128::from(whole)).unwrap_or(u64::MAX)
}

impl Shared {
    /// The room as it was written down last.
    ///
    /// # Errors
    /// When the store fails.
    pub fn room(&self) -> Result<Room, StoreError> {
        let view = self.view()?;
        let table = view.txn.open_table(META)?;
        let Some(value) = table.get(meta::ROOM)? else { return Ok(Room::default()) };
        Room::read(row::open(META, &meta::ROOM, value.value())?).ok_or(StoreError::Damaged("the room does not read"))
    }
}

impl View<'_> {
    /// Bytes of the blocks of a log.
    ///
    /// # Errors
    /// When the store fails.
    pub fn log_bytes(&self, log: Log) -> Result<u64, StoreError> {
        let table = self.txn.open_table(log.table())?;
        let before = log::floor(log, &table)?.1.map_or(0, |mark| mark.bytes);
        Ok(log::end(log, &table)?.bytes.saturating_sub(before))
    }

    /// Bytes that the store holds, as far as they are counted.
    ///
    /// # Errors
    /// When the store fails.
    pub fn held_bytes(&self) -> Result<u64, StoreError> {
        let txn = &self.txn;
        let small = [
            txn.open_table(QUEUE)?.len()?,
            txn.open_table(ORDERING)?.len()?,
            txn.open_table(DEAD)?.len()?,
            txn.open_table(DEAD_OF)?.len()?,
            txn.open_table(IDEMPOTENCY)?.len()?,
        ];
        let kept = txn.open_table(Log::Events.kept())?.len()? + txn.open_table(Log::Journal.kept())?.len()?;
        let logs = self.log_bytes(Log::Events)? + self.log_bytes(Log::Journal)?;
        Ok(logs + small.iter().sum::<u64>() * ROW_BYTES + kept * KEPT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_free_until_it_is_filled_again() {
        let room = Room::default().seen(1_000, 600);
        assert_eq!((room.used(600), room.used(300)), (1_000, 500));
        // Rows go and the file stays.
        let room = room.seen(1_000, 300);
        assert_eq!((room.used(300), room.used(600)), (1_000 / 2, 1_000));
        // A little growth while much is free does not make it full.
        let room = room.seen(1_010, 310);
        assert_eq!(room.used(310), 1_010 * 310 / 600);
        assert_eq!(room.seen(2_000, 1_300).used(1_300), 2_000);
        // Compacted: nearly all of what is left is in use.
        let compacted = room.seen(520, 310);
        assert_eq!(compacted.used(310), 520);
        assert_eq!(Room::read(&room.to_bytes()), Some(room));
        assert_eq!(Room::default().used(5), 0);
    }
}
