//! A lane, for whoever drives it. Owns the lock around it, and the count of what changes attempts that have not begun.
//!
//! An attempt that has been started and finds the count as it was need not ask the lane again: what it was started by is in force.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lane::Lane;

pub struct LaneCell {
    lane: Mutex<Lane>,
    changes: AtomicU64,
}

impl LaneCell {
    #[must_use]
    pub fn new(lane: Lane) -> Arc<Self> {
        Arc::new(Self { lane: Mutex::new(lane), changes: AtomicU64::new(0) })
    }

    pub(super) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it was changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Changes what an attempt that has been started must not miss: version, settings, what is cancelled.
    pub(super) fn change(&self, change: impl FnOnce(&mut Lane)) {
        let mut lane = self.lane();
        change(&mut lane);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}
