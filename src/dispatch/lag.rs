//! How far the oldest fresh delivery lies behind the head of the log, in events and in bytes that a start would have to read: from it
//! on events and journal are read back, and the events of fresh deliveries held in memory until their lanes have them. Owns when the
//! workers are to look for laggards, and up to where.
//!
//! Invariant: the newest point that lies at or below the watermark is kept, so that what lags is never counted too low.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{WATERMARK_LAG_BYTES_MAX, WATERMARK_LAG_MAX};
use crate::model::event::Event;
use crate::model::id::Seq;

/// Events, and bytes, between two looks.
const CHECK_EVERY: u64 = 8 * 1024;
const CHECK_EVERY_BYTES: u64 = WATERMARK_LAG_BYTES_MAX / 8;
/// Bytes between two points.
const STEP_BYTES: u64 = 1024 * 1024;
/// About what a journal record takes.
const RECORD_BYTES: u64 = 128;
const _: () = assert!(CHECK_EVERY * 4 <= WATERMARK_LAG_MAX && STEP_BYTES * 8 <= CHECK_EVERY_BYTES);

#[derive(Default)]
pub(super) struct Lag(Mutex<State>);

struct State {
    /// Of the events and journal records seen so far.
    bytes: u64,
    /// The newest event counted.
    newest: Seq,
    /// (event, how many bytes had been counted when all events below it were), both rising.
    points: VecDeque<(Seq, u64)>,
    /// The head, and the bytes, when the workers were last told to look.
    told_at: (Seq, u64),
}

impl Default for State {
    fn default() -> Self {
        Self { bytes: 0, newest: 0, points: [(0, 0)].into(), told_at: (0, 0) }
    }
}

impl Lag {
    /// Counts what a group has added.
    pub fn grow<'a>(&self, fresh: impl Iterator<Item = &'a Event>, records: usize) {
        let mut state = self.lock();
        for event in fresh {
            // Deliveries of one event follow each other.
            if event.seq > state.newest {
                state.newest = event.seq;
                state.bytes += event.weight() as u64;
                state.mark();
            }
        }
        state.bytes += records as u64 * RECORD_BYTES;
        state.mark();
    }

    /// Whether the workers are to look for laggards now, those too that nothing else happens to.
    pub fn is_due(&self, head: Seq, watermark: Seq) -> bool {
        let mut state = self.lock();
        let newer = (head.saturating_sub(state.told_at.0), state.bytes - state.told_at.1);
        if newer.0 < CHECK_EVERY && newer.1 < CHECK_EVERY_BYTES {
            return false;
        }
        state.told_at = (head, state.bytes);
        while state.points.get(1).is_some_and(|(seq, _)| *seq <= watermark) {
            state.points.pop_front();
        }
        if watermark >= head {
            let all = (head, state.bytes);
            state.points = [all].into();
        }
        // Otherwise nothing lags, and looking at 100,000 lanes for it would hold everybody up.
        let before = state.points.front().map_or(0, |(_, bytes)| *bytes);
        head.saturating_sub(watermark) >= WATERMARK_LAG_MAX / 2 || state.bytes - before >= WATERMARK_LAG_BYTES_MAX / 2
    }

    /// Below this event nothing may stay fresh.
    pub fn floor(&self, head: Seq) -> Seq {
        let state = self.lock();
        let least = state.bytes.saturating_sub(WATERMARK_LAG_BYTES_MAX / 4);
        let by_bytes = state.points.iter().rev().find(|(_, bytes)| *bytes <= least).map_or(0, |(seq, _)| *seq);
        by_bytes.max(head.saturating_sub(WATERMARK_LAG_MAX / 2))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mark(&mut self) {
        let next = self.newest + 1;
        // Of two points at one event the older counts: what came behind it was the journal's.
        if self.points.back().is_some_and(|(seq, bytes)| *seq < next && self.bytes - bytes >= STEP_BYTES) {
            self.points.push_back((next, self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::EventId;

    fn event(seq: Seq, bytes: usize) -> Event {
        Event {
            seq,
            id: EventId([0; 16]),
            tenant: 1,
            kind: "a".to_owned(),
            channel: None,
            accepted_ms: 0,
            created_us: 0,
            ordering_key: None,
            data: Some(vec![b' '; bytes].into()),
            context: None,
            user: None,
            matched: vec![1],
            test: false,
        }
    }

    /// Events of a MiB, with two deliveries each.
    fn push(lag: &Lag, events: std::ops::Range<Seq>) {
        for seq in events {
            let event = event(seq, 1 << 20);
            lag.grow([&event, &event].into_iter(), 0);
        }
    }

    #[test]
    fn what_is_large_lags_sooner_than_what_is_many() {
        let (lag, half) = (Lag::default(), WATERMARK_LAG_BYTES_MAX >> 21);
        push(&lag, 1..half);
        assert!(!lag.is_due(half, 1), "less than half of what may lag");
        push(&lag, half..half + 10);
        assert!(lag.is_due(half + 10, 1));
        let floor = lag.floor(half + 10);
        assert!((half / 2..=half / 2 + 10).contains(&floor), "{floor} of {half}");
        // They have rows now, and the watermark moves.
        push(&lag, half + 10..half + 20);
        assert!(!lag.is_due(half + 20, floor), "what is left is less than half");
    }

    #[test]
    fn nothing_lags_where_all_is_finished_and_counting_goes_on_from_there() {
        let (lag, half) = (Lag::default(), WATERMARK_LAG_BYTES_MAX >> 21);
        push(&lag, 1..2 * half);
        assert!(!lag.is_due(2 * half, 2 * half));
        push(&lag, 2 * half..2 * half + half / 2);
        assert!(!lag.is_due(2 * half + half / 2, 2 * half));
        push(&lag, 2 * half + half / 2..3 * half + 2);
        assert!(lag.is_due(3 * half + 2, 2 * half));
    }

    #[test]
    fn a_delivery_lags_behind_the_journal_too() {
        let lag = Lag::default();
        push(&lag, 1..2);
        let records = usize::try_from(WATERMARK_LAG_BYTES_MAX / RECORD_BYTES).unwrap() / 100;
        for _ in 0..60 {
            lag.grow([].into_iter(), records);
        }
        assert!(lag.is_due(2, 1));
        assert_eq!(lag.floor(2), 2, "the only one there is");
        assert!(lag.0.lock().unwrap().points.len() <= 2);
    }

    #[test]
    fn many_small_ones_lag_by_their_number() {
        let lag = Lag::default();
        assert!(!lag.is_due(WATERMARK_LAG_MAX / 2 - 1, 1));
        assert!(!lag.is_due(WATERMARK_LAG_MAX / 2 + 1, 1), "looked at a moment ago");
        let head = WATERMARK_LAG_MAX / 2 + CHECK_EVERY;
        assert!(lag.is_due(head, 1));
        assert_eq!(lag.floor(head), CHECK_EVERY);
    }
}
