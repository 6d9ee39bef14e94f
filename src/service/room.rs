//! The room that the store has: its budget and the file system. Owns when publishing is refused for it, and when it goes on.
//!
//! Measured once a second beside everything else; a publisher looks at one flag. Refusing begins before the budget or the
//! file system is full, so that deliveries, their records and retention still have room, and ends when there is twice that
//! margin: publishing does not flicker. Pages that are free inside the store's file count as free.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Service;
use super::error::Error;
use crate::limits::{BUDGET_MARGIN_MAX_BYTES, BUDGET_MARGIN_PART, DISK_RESERVE_BYTES, DISK_RESERVE_PART};
use crate::store::StoreError;
use crate::store::room::Room;
use crate::store::spool;
use crate::store::view::Shared;
use crate::store::wal::WAL_FILE;

/// Why nothing is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The store's files have used up `store.disk_budget`.
    Budget,
    /// The file system has hardly any room left.
    Disk,
}

impl Full {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Disk => "disk",
        }
    }
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes that the store's files take on the disk, free pages included.
    pub taken: u64,
    /// Bytes of them that are in use.
    pub used: u64,
    /// Bytes that the store holds in them.
    pub held: u64,
    /// Bytes that the file system has left for us, and all that it has.
    pub disk_free: u64,
    pub disk: u64,
    pub full: Option<Full>,
}

/// What was measured last, and what follows from it.
#[derive(Default)]
pub struct Gauge {
    /// 0: there is room; else 1 + `Full`.
    full: AtomicU8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None`: not read from the store yet.
    room: Option<Room>,
    seen: Seen,
}

impl Gauge {
    /// Why nothing is accepted at this moment, if it is not.
    #[must_use]
    pub fn full(&self) -> Option<Full> {
        match self.full.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Full::Budget),
            _ => Some(Full::Disk),
        }
    }

    /// What is to be written down with what retention removes.
    pub(super) fn room(&self) -> Room {
        self.lock().room.unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a measure in; gives it with what follows.
    fn take(&self, room: Room, seen: Seen, budget: Option<u64>) -> (Seen, Option<Full>) {
        let before = self.full();
        let full = judge(&seen, budget, before);
        let seen = Seen { full, ..seen };
        *self.lock() = State { room: Some(room), seen };
        let code = full.map_or(0, |full| if full == Full::Budget { 1 } else { 2 });
        self.full.store(code, Ordering::Relaxed);
        (seen, before)
    }
}

/// Whether there is too little room, or still too little.
fn judge(seen: &Seen, budget: Option<u64>, before: Option<Full>) -> Option<Full> {
    let times = |full: Full| if before == Some(full) { 2 } else { 1 };
    let over = budget.is_some_and(|budget| {
        let margin = (budget / BUDGET_MARGIN_PART).min(BUDGET_MARGIN_MAX_BYTES);
        seen.used >= budget.saturating_sub(margin * times(Full::Budget))
    });
    if over {
        return Some(Full::Budget);
    }
    let reserve = DISK_RESERVE_BYTES.min(seen.disk / DISK_RESERVE_PART);
    let free = seen.disk_free.saturating_add(seen.taken.saturating_sub(seen.used));
    (seen.disk > 0 && free < reserve * times(Full::Disk)).then_some(Full::Disk)
}

impl Service {
    /// Why nothing is accepted at this moment, if it is not.
    #[must_use]
    pub fn is_full(&self) -> Option<Full> {
        self.room.full()
    }

    /// What was measured last.
    #[must_use]
    pub fn room_seen(&self) -> Seen {
        self.room.lock().seen
    }

    /// Measures how full the store is, and refuses or accepts by it from now on.
    ///
    /// # Errors
    /// When the store can't be read: then all stays as it was.
    pub async fn measure_room(&self) -> Result<Seen, Error> {
        let (file, known) = (self.store_file.clone(), self.room.lock().room);
        let (room, seen) = self.store.read(move |shared| measure(shared, &file, known)).await?;
        let (seen, before) = self.room.take(room, seen, self.settings().disk_budget);
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.room.store_taken_bytes.set(gauge(seen.taken));
        self.metrics.room.store_used_bytes.set(gauge(seen.used));
        self.metrics.room.disk_free_bytes.set(gauge(seen.disk_free));
        self.metrics.room.publishing_refused.set(i64::from(seen.full.is_some()));
        match (before, seen.full) {
            (None, Some(full)) => {
                tracing::error!(
                    full = full.as_str(),
                    used = seen.used,
                    taken = seen.taken,
                    disk_free = seen.disk_free,
                    "there is too little room: publishing is answered with 503, deliveries go on; see store.disk_budget \
                     and retention.max_bytes"
                );
                self.wanted.notify_one();
            }
            (Some(_), None) => tracing::info!(used = seen.used, disk_free = seen.disk_free, "there is room again"),
            _ => {}
        }
        Ok(seen)
    }
}

fn measure(shared: &Shared, file: &Path, known: Option<Room>) -> Result<(Room, Seen), StoreError> {
    let on_disk = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.blocks() * 512);
    let held = shared.view()?.held_bytes()?;
    let known = known.map_or_else(|| shared.room(), Ok)?;
    let room = known.seen(on_disk(file), held);
    let folder = file.parent().unwrap_or(Path::new("."));
    let beside = [WAL_FILE].into_iter().chain(spool::NAMES).map(|name| on_disk(&folder.join(name))).sum::<u64>();
    let (disk_free, disk) = rustix::fs::statvfs(folder).map_or((0, 0), |seen| {
        (seen.f_bavail.saturating_mul(seen.f_frsize), seen.f_blocks.saturating_mul(seen.f_frsize))
    });
    let seen = Seen { taken: room.taken + beside, used: room.used(held) + beside, held, disk_free, disk, full: None };
    Ok((room, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn refusing_begins_before_the_budget_is_used_up_and_ends_with_room_to_spare() {
        let seen = |used| Seen { taken: 100 * MIB, used, disk: 1 << 40, disk_free: 1 << 39, ..Seen::default() };
        let budget = Some(100 * MIB);
        assert_eq!(judge(&seen(97 * MIB), budget, None), None);
        assert_eq!(judge(&seen(98 * MIB), budget, None), Some(Full::Budget));
        assert_eq!(judge(&seen(97 * MIB), budget, Some(Full::Budget)), Some(Full::Budget));
        assert_eq!(judge(&seen(95 * MIB), budget, Some(Full::Budget)), None);
        assert_eq!(judge(&seen(500 * MIB), None, None), None);
    }

    #[test]
    fn a_file_system_that_is_nearly_full_counts_what_is_free_inside_the_file() {
        let seen = |disk_free, used| Seen { taken: 800 * MIB, used, disk: 1 << 40, disk_free, ..Seen::default() };
        assert_eq!(judge(&seen(63 * MIB, 800 * MIB), None, None), Some(Full::Disk));
        assert_eq!(judge(&seen(63 * MIB, 700 * MIB), None, None), None);
        assert_eq!(judge(&seen(100 * MIB, 800 * MIB), None, Some(Full::Disk)), Some(Full::Disk));
        assert_eq!(judge(&seen(130 * MIB, 800 * MIB), None, Some(Full::Disk)), None);
        let small = Seen { disk: 16 * MIB, disk_free: 2 * MIB, ..Seen::default() };
        assert_eq!(judge(&small, None, None), None);
        // One that can't be asked is not full.
        assert_eq!(judge(&Seen::default(), None, None), None);
    }
}
