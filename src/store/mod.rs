//! The store: the only room that names redb. Events and what became of them, subscriptions, keys, the durable queue.
//!
//! Everything is changed by one writer, in groups, each durable before it is answered (`engine`, `writer`, `wal`); everything is
//! read through snapshots (`view`), for which what groups have left open is committed (`unseen`). `log` and `block` are the two
//! append-only logs, `queue` what did not go through at once, `listing` the derived lists, `news` what the engine reports of itself,
//! `registry` what is small enough to stand in memory, `open` how a file is made and found, `backup` how it is copied while it serves
//! and made again from the copy.

mod accept;
pub mod age;
pub mod backlog;
pub mod backup;
pub mod block;
mod cancel;
mod changes;
pub mod check;
pub mod compact;
pub mod deaths;
mod deliveries;
mod direct;
pub mod engine;
mod erasable;
mod erase;
#[cfg(test)]
pub(crate) mod failing_disk;
pub mod flush;
pub mod fresh;
pub mod group;
pub mod guard;
mod health;
pub mod hold;
pub mod ids;
pub mod inbox;
mod jobs;
pub mod listing;
pub mod log;
pub mod lookup;
pub mod nameless;
pub mod news;
pub mod numbers;
pub mod op;
pub mod open;
pub mod ordering;
pub mod page;
pub mod queue;
pub mod record;
pub mod recover;
pub mod registry;
pub mod reseal;
mod retain;
pub mod retention;
pub mod room;
pub mod row;
pub mod schema;
pub mod seal;
pub mod sift;
pub mod spool;
mod standings;
#[cfg(test)]
mod tests;
pub mod unseen;
pub mod upgrade;
pub mod view;
pub mod wal;
pub mod writer;

/// Why the store could not do what was asked, told apart by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Try again later; a write that was under way may or may not have happened.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// More is waiting than fits; nothing was accepted.
    #[error("the store has more to write than it can take")]
    Overloaded,
    /// What is on disk does not read.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
    /// What stands at one place of a table is not what was written there.
    #[error("the store is damaged: {table} at {place} does not read")]
    DamagedAt { table: String, place: String },
    /// What is sealed in the store does not open with the key at hand.
    #[error("the store's secrets were sealed with another key")]
    WrongKey,
}

impl StoreError {
    /// Whether trying again is no use: what is on disk is not what was written.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::DamagedAt { .. })
    }
}

macro_rules! from_redb {
    ($($error:ty),+) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::from(redb::Error::from(error))
            }
        }
    )+};
}
from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::SetDurabilityError);

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Corrupted(_) => Self::Damaged("a page of it makes no sense"),
            // Where an altered page number leads to.
            redb::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Damaged("a page of it lies behind the end of its file")
            }
            // A store has all of them from its creation on, of these types.
            redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. } => Self::Damaged("one of its tables is not found"),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
