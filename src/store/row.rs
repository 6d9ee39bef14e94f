//! Rows of the small tables: a record and the checksum that ties it to its place. Owns that checksum.
//!
//! Invariant: no record is read from a row whose checksum does not hold. redb verifies its pages only in a repair, and postcard
//! can't tell an altered byte, so each row carries a CRC-32 over the table's name, its key and the record: an altered byte is
//! found in either, and so is a row that a damaged page leads to in another's place.

use redb::{Key, TableDefinition, TableHandle as _};
use serde::{Deserialize, Serialize};

use super::{StoreError, record};

const SUM_BYTES: usize = 4;

/// A table whose values are rows.
pub type Rows<K> = TableDefinition<'static, K, &'static [u8]>;

/// `value` as the row that stands under `key`.
pub fn write<K: Key>(table: Rows<K>, key: &K::SelfType<'_>, value: &impl Serialize) -> Vec<u8> {
    seal(table, key, record::to_bytes(value))
}

/// Bytes as the row that stands under `key`.
#[must_use]
pub fn seal<K: Key>(table: Rows<K>, key: &K::SelfType<'_>, mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(table, key, &bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Reads what `write` wrote.
///
/// # Errors
/// `StoreError::DamagedAt` when it is not what was written there.
pub fn read<'a, K: Key, T: Deserialize<'a>>(
    table: Rows<K>,
    key: &K::SelfType<'_>,
    row: &'a [u8],
) -> Result<T, StoreError> {
    record::read(open(table, key, row)?)
}

/// Reads what `seal` sealed.
///
/// # Errors
/// `StoreError::DamagedAt` when it is not what was written there.
pub fn open<'a, K: Key>(table: Rows<K>, key: &K::SelfType<'_>, row: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match row.split_last_chunk::<SUM_BYTES>() {
        Some((bytes, sum)) if u32::from_le_bytes(*sum) == checksum(table, key, bytes) => Ok(bytes),
        _ => Err(StoreError::DamagedAt { table: table.name().to_owned(), place: format!("{key:?}") }),
    }
}

fn checksum<K: Key>(table: Rows<K>, key: &K::SelfType<'_>, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(table.name().as_bytes());
    hasher.update(K::as_bytes(key).as_ref());
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema::{ORDERING, QUEUE, STANDING};

    #[test]
    fn whatever_was_altered_reads_as_damage() {
        let key = (7, 1, 99, 3);
        let row = write(QUEUE, &key, &(5_u64, "five"));
        assert_eq!(read::<_, (u64, &str)>(QUEUE, &key, &row).unwrap(), (5, "five"));
        for bit in 0..row.len() * 8 {
            let mut altered = row.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(open(QUEUE, &key, &altered).is_err(), "bit {bit}");
        }
        for cut in 0..row.len() {
            assert!(open(QUEUE, &key, &row[..cut]).is_err(), "cut at {cut}");
        }
        let error = open(QUEUE, &(7, 1, 99, 4), &row).unwrap_err();
        assert!(error.to_string().contains("queue at (7, 1, 99, 4)"), "{error}");
        assert!(open(ORDERING, &(7, 1, 99), &row).is_err());
        assert!(open(STANDING, &7, &row).is_err());
    }
}
