//! Backups: a copy of everything that is committed, made while the store serves, and a store made again from it.
//!
//! `format` is the file: frames of rows with checksums, and a trailer that seals the whole. `copy` makes one in two phases:
//! all tables that change from one short snapshot, then the logs, which only grow, up to where they ended in it. `restore`
//! reads one, and makes a store that opens as one that was closed.
//!
//! Invariants: no snapshot stays open across a wait on whoever takes the copy; what is not whole to its last byte is never
//! taken for a backup; the key that opens what is sealed is not part of it.

mod copy;
mod format;
mod restore;
#[cfg(test)]
pub(in crate::store) mod tests;

pub(super) use copy::free_bytes;
pub use copy::{Copy, CopyError};
pub use format::{Bad, Head, Reader, Summary};
pub use restore::{RestoreError, check, restore};
