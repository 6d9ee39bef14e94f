//! The clock that retention counts by. Owns what a wrong clock can make the store believe about its age.
//!
//! It stands in the marks of the blocks and follows schedule time while the daemon runs. Over the time that it did not run it
//! goes on by what the clock says, but by `limits::AGE_GAP_MAX` at most: a machine that starts with a clock 400 days ahead
//! finds its store three days older and not 400, and removes what three days make too old. What is written from then on is
//! counted from there, also when the clock is right again. A daemon that was stopped for longer keeps its records longer.

use super::block::Mark;
use crate::clock::Millis;
use crate::limits::AGE_GAP_MAX_MS;

/// The clock, as found at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Age {
    /// Schedule time and age clock of the newest block.
    newest: (Millis, Millis),
    /// Schedule time of the start.
    started_ms: Millis,
}

impl Age {
    /// `newest`: the mark of the newest block, if there is one; `now`: schedule time.
    #[must_use]
    pub fn new(newest: Option<Mark>, now: Millis) -> Self {
        Self { newest: newest.map_or((now, now), |mark| (mark.at_ms, mark.aged_ms)), started_ms: now }
    }

    /// The clock at a moment of schedule time.
    #[must_use]
    pub fn at(&self, now: Millis) -> Millis {
        let (at_ms, aged_ms) = self.newest;
        let gap = now.min(self.started_ms).saturating_sub(at_ms).min(AGE_GAP_MAX_MS);
        aged_ms + gap + now.saturating_sub(self.started_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: Millis = 86_400_000;

    #[test]
    fn a_start_with_a_wrong_clock_makes_the_store_three_days_older_at_most() {
        let mark = |at_ms, aged_ms| Some(Mark { at_ms, aged_ms, ..Mark::default() });
        let new = Age::new(None, 20_000 * DAY_MS);
        assert_eq!(new.at(20_001 * DAY_MS), 20_001 * DAY_MS);
        let short = Age::new(mark(100 * DAY_MS, 50 * DAY_MS), 101 * DAY_MS);
        assert_eq!((short.at(101 * DAY_MS), short.at(111 * DAY_MS)), (51 * DAY_MS, 61 * DAY_MS));
        let ahead = Age::new(mark(100 * DAY_MS, 50 * DAY_MS), 500 * DAY_MS);
        assert_eq!((ahead.at(500 * DAY_MS), ahead.at(501 * DAY_MS)), (53 * DAY_MS, 54 * DAY_MS));
        // Right again: schedule time stays where it was lifted to, and this clock with it.
        let again = Age::new(mark(501 * DAY_MS, 54 * DAY_MS), 501 * DAY_MS);
        assert_eq!(again.at(502 * DAY_MS), 55 * DAY_MS);
        // What the write-ahead log holds was decided before the start.
        assert_eq!(short.at(100 * DAY_MS + 7), 50 * DAY_MS + 7);
    }
}
