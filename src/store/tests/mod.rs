//! Tests that need the store's insides: pages over list and tail, the watermark, lines, the queue's counts, how groups are closed,
//! what stands or falls with an op, what groups leave open.

mod damage;
mod fresh;
mod guard;
mod inbox;
mod listing;
mod ordering;
mod page;
mod queue;
mod retention;
mod spool;
mod unseen;

use std::path::Path;
use std::sync::Arc;

use super::open::Place;
use super::writer::Parts;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::metrics::Metrics;

/// The store of a folder, as a process opens it: its key file in the folder, chance from a seed, little cache, and idempotency keys
/// kept for a day.
pub(in crate::store) fn store_in(folder: &Path, clock: &Clock, metrics: &Arc<Metrics>) -> Parts {
    let place = Place { state_dir: folder.to_owned(), key_file: None, cache_bytes: 4 << 20 };
    Parts::open(&place, &Entropy::seeded(1), clock, metrics, 86_400_000).unwrap()
}
