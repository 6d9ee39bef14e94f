//! What a lane knows of its rows in the durable queue, and how it reads them. Owns the invariant that a row which is not
//! held in memory is covered: by the time of the first of its kind, by a read under way, by a row about to be announced, or
//! by a flight that has to land first.

use std::collections::{HashSet, VecDeque};

use super::{Lane, note};
use crate::clock::Millis;
use crate::dispatch::body::Body;
use crate::limits::{LANE_REFILL, LANE_REFILL_MIN};
use crate::model::id::Seq;
use crate::store::op::RowKey;
use crate::store::queue::Queued;

/// Which rows to read.
#[derive(Clone, Debug)]
pub struct Load {
    pub started: bool,
    pub waiting: bool,
    pub max: usize,
    /// Rows that are in memory already.
    pub held: HashSet<Seq>,
}

/// Rows that were read, with what bodies came along.
#[derive(Default)]
pub struct Loaded {
    pub rows: Vec<(Queued, Option<Body>)>,
    /// Rows that were left out because their delivery was held.
    pub skipped: Vec<(Seq, RowKey)>,
    /// When the first row that was not read is due.
    pub next_started: Option<Millis>,
    pub next_waiting: Option<Millis>,
}

impl Lane {
    /// Looks at the durable queue again, whatever was known of it.
    pub fn look_again(&mut self) {
        self.next_started = Some(0);
        self.next_waiting = Some(0);
    }

    /// A row appeared on disk.
    pub fn note_queued(&mut self, key: RowKey) {
        note(if key.started { &mut self.next_started } else { &mut self.next_waiting }, Some(key.due_ms));
    }

    /// What waited too long is dead now, as far as one step goes.
    pub fn expired(&mut self) {
        self.expiring = false;
        self.next_waiting = Some(0);
    }

    /// Rows that `Next::Load` asked for; `None` when they could not be read.
    pub fn loaded(&mut self, loaded: Option<Loaded>, load: &Load) {
        self.loading = false;
        let settled = std::mem::take(&mut self.settled_meanwhile);
        // Asked for before the circuit opened: now one at a time is enough.
        let loaded = loaded.filter(|_| load.max == 1 || !self.circuit.is_open());
        // What was announced during the read may be missing in it, so the earlier of both counts.
        let again = || Loaded { next_started: Some(0), next_waiting: Some(0), ..Loaded::default() };
        let Loaded { rows, skipped, next_started, next_waiting } = loaded.unwrap_or_else(again);
        if load.started {
            note(&mut self.next_started, next_started);
        }
        if load.waiting {
            note(&mut self.next_waiting, next_waiting);
        }
        let is_old = |event| self.is_in_flight(event) || settled.iter().any(|(seq, _)| *seq == event);
        let (old, mut rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(row, _)| is_old(row.event));
        rows.sort_by_key(|(queued, _)| (queued.key.due_ms, queued.event));
        self.loaded.extend(rows);
        for (event, key) in old.into_iter().map(|(row, _)| (row.event, row.key)).chain(skipped) {
            self.passed(event, key, &settled);
        }
    }

    /// A row was passed by because its delivery is or was under way. The one that belongs to the flight is gone when that has
    /// landed, or announced anew; any other means that the delivery was asked for again.
    fn passed(&mut self, event: Seq, key: RowKey, settled: &[(Seq, Option<RowKey>)]) {
        if let Some(flight) = self.flights.find(event) {
            if flight.row != Some(key) {
                flight.after().note(key);
            }
        } else if settled.iter().any(|(seq, row)| *seq == event && *row != Some(key)) {
            self.note_queued(key);
        }
    }

    /// When a row may be looked for.
    pub(super) fn next_due(&self) -> Option<Millis> {
        let waiting = self.next_waiting.filter(|_| !self.expiring);
        [self.next_started, waiting].into_iter().flatten().min()
    }

    /// What was read ahead goes back to the disk, which has it all.
    pub(super) fn forget_loaded(&mut self) {
        self.loaded = VecDeque::new();
        self.look_again();
    }

    /// How many rows to read: enough for a while, little enough for many lanes.
    pub(super) fn refill(&self) -> usize {
        (self.plan.max_in_flight as usize).saturating_mul(4).clamp(LANE_REFILL_MIN, LANE_REFILL)
    }

    pub(super) fn load(&mut self, now: Millis, started: bool, waiting: bool, max: usize) -> Option<Load> {
        let due = |next: Option<Millis>| next.is_some_and(|due| due <= now);
        let started = started && due(self.next_started);
        let waiting = waiting && due(self.next_waiting) && !self.expiring;
        if self.loading || !(started || waiting) {
            return None;
        }
        self.loading = true;
        // The read will tell; what is announced from now on counts besides.
        if started {
            self.next_started = None;
        }
        if waiting {
            self.next_waiting = None;
        }
        let held = self.flights.events().chain(self.loaded.iter().map(|(queued, _)| queued.event)).collect();
        Some(Load { started, waiting, max, held })
    }
}
