//! The tables of the store file, their keys, and the format number. Owns the shape on disk; `docs/FORMAT.md` tells it in prose.
//!
//! Invariant: numbers in keys rise with time wherever a table is on the hot path, so that a commit touches the last leaf
//! of a few trees and nothing else (the number of distinct leaf pages is the cost of a commit).

use redb::{Key, TableDefinition, Value};

/// The newest format this program writes, and the only one it reads so far.
pub const FORMAT: u64 = 1;

/// Singles: format, store id, id mask, counters, the point up to which listings are flushed.
pub const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The event log: first sequence number of a block → the block (see `block`).
pub const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

/// The journal, what became of deliveries: first journal number of a block → the block.
pub const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");

/// Records of blocks that retention has removed, which something pending or a dead letter still needs: number → age clock of
/// their block (u64, little endian) and the record.
pub const KEPT_EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("kept_events");
pub const KEPT_JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("kept_journal");

/// The durable queue: (webhook, started, due ms, event) → what the next attempt must know. `started` is 1 when an attempt
/// was made: behind an open circuit those keep their schedule while the others wait.
pub const QUEUE: TableDefinition<QueueKey, &[u8]> = TableDefinition::new("queue");
pub type QueueKey = (u32, u8, u64, u64);

/// Deliveries of events with an `ordering_key`, in line: (webhook, hash of the key, event) → whether it may go.
pub const ORDERING: TableDefinition<OrderingKey, &[u8]> = TableDefinition::new("ordering");
pub type OrderingKey = (u32, u64, u64);

/// How a webhook stands: depth of its queue, dead letters, failures in a row.
pub const STANDING: TableDefinition<u32, &[u8]> = TableDefinition::new("standing");

/// Dead letters in the order of dying: (tenant, journal number of the death) → (webhook, event).
pub const DEAD: TableDefinition<(u32, u64), (u32, u64)> = TableDefinition::new("dead");
/// Dead letters by delivery: (webhook, event) → journal number of the death.
pub const DEAD_OF: TableDefinition<(u32, u64), u64> = TableDefinition::new("dead_of");

/// Idempotency records: (day, hash of scope and key) → what was answered.
pub const IDEMPOTENCY: TableDefinition<(u32, &[u8; 16]), &[u8]> = TableDefinition::new("idempotency");

/// Webhook versions: (webhook, event sequence number from which it holds) → record.
pub const WEBHOOKS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("webhooks");
pub const TENANTS: TableDefinition<u32, &[u8]> = TableDefinition::new("tenants");
pub const KEYS: TableDefinition<&[u8; 8], &[u8]> = TableDefinition::new("keys");
/// What is paused, or was lately: scope → since when, until when.
pub const PAUSES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("pauses");

/// Jobs: id, which rises with time → what it is to do, how far it has come.
pub const JOBS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("jobs");

/// Signatures that were accepted: (minute of the signed timestamp, hash) → nothing but the row's checksum.
pub const MARKS: TableDefinition<(u32, &[u8; 16]), &[u8]> = TableDefinition::new("marks");
/// The audit log: number, rising → record.
pub const AUDIT: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");

/// Derived: (tenant, first event) → the tenant's events, as a posting list.
pub const BY_TENANT: TableDefinition<PostingKey, &[u8]> = TableDefinition::new("by_tenant");
pub type PostingKey = (u32, u64);
/// Derived: (webhook, first journal number) → the webhook's attempts, as a posting list.
pub const BY_WEBHOOK: TableDefinition<PostingKey, &[u8]> = TableDefinition::new("by_webhook");
/// Event / 64 → for these events, the newest journal record of each of their deliveries, how it stands, and attempts made:
/// derived while the journal has these records, and what is left of it when retention has removed them.
pub const FATES: TableDefinition<u64, &[u8]> = TableDefinition::new("fates");

/// Events that share one row of `FATES`.
pub const FATES_PER_ROW: u64 = 64;

/// Visits every table there is: the one list of them. What is not in it is neither made with a new store nor copied into a
/// backup or a compacted file; a test counts.
///
/// # Errors
/// The visitor's first.
pub fn visit<T: Visit>(visitor: &mut T) -> Result<(), T::Error> {
    visitor.table(META)?;
    visitor.table(EVENTS)?;
    visitor.table(JOURNAL)?;
    visitor.table(KEPT_EVENTS)?;
    visitor.table(KEPT_JOURNAL)?;
    visitor.table(QUEUE)?;
    visitor.table(ORDERING)?;
    visitor.table(STANDING)?;
    visitor.table(DEAD)?;
    visitor.table(DEAD_OF)?;
    visitor.table(IDEMPOTENCY)?;
    visitor.table(WEBHOOKS)?;
    visitor.table(TENANTS)?;
    visitor.table(KEYS)?;
    visitor.table(PAUSES)?;
    visitor.table(JOBS)?;
    visitor.table(MARKS)?;
    visitor.table(AUDIT)?;
    visitor.table(BY_TENANT)?;
    visitor.table(BY_WEBHOOK)?;
    visitor.table(FATES)
}

/// Something to be done with tables of all shapes.
pub trait Visit {
    type Error;

    /// # Errors
    /// As the visitor says.
    fn table<K: Key, V: Value>(&mut self, definition: TableDefinition<'static, K, V>) -> Result<(), Self::Error>;
}

/// Keys of `META`.
pub mod meta {
    pub const FORMAT: &str = "format";
    /// The version of the program that brought this format, as text: one that opens the store.
    pub const VERSION: &str = "version";
    /// 32 random bytes: masks sequence numbers inside public ids.
    pub const ID_MASK: &str = "id_mask";
    /// A sealed constant: opens only with the right key file.
    pub const KEY_CHECK: &str = "key_check";
    /// Events and journal numbers below these stand in the derived tables: two u64, little endian.
    pub const FLUSHED: &str = "flushed";
    /// Where the store stands in the write-ahead log.
    pub const WAL: &str = "wal";
    pub const NEXT_WEBHOOK: &str = "next_webhook";
    pub const NEXT_TENANT: &str = "next_tenant";
    /// What the store's file held when it was fullest: two u64, little endian (see `room`).
    pub const ROOM: &str = "room";
    /// u64, little endian; absent while there was no audit record.
    pub const NEXT_AUDIT: &str = "next_audit";
    /// Wall time in ms of the newest whole backup, u64, little endian; absent before the first.
    pub const LAST_BACKUP: &str = "last_backup";
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use redb::TableHandle as _;

    use super::*;

    #[derive(Default)]
    struct Names(Vec<String>);

    impl Visit for Names {
        type Error = Infallible;

        fn table<K: Key, V: Value>(&mut self, definition: TableDefinition<'static, K, V>) -> Result<(), Infallible> {
            self.0.push(definition.name().to_owned());
            Ok(())
        }
    }

    #[test]
    fn the_list_has_every_table() {
        let mut names = Names::default();
        visit(&mut names).unwrap();
        let source = include_str!("schema.rs").split("mod tests").next().unwrap();
        let mut defined: Vec<&str> =
            source.split("TableDefinition::new(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        names.0.sort();
        defined.sort_unstable();
        assert_eq!(names.0, defined);
        // And no other file makes one.
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store")).unwrap() {
            let path = file.unwrap().path();
            let other = path.is_file() && !path.ends_with("schema.rs");
            let text = if other { std::fs::read_to_string(&path).unwrap() } else { String::new() };
            assert!(!text.contains("TableDefinition::new("), "{}", path.display());
        }
    }
}
