//! How a webhook did lately: attempts, success, durations, and what is pending for it. Owns the bound on how much is read for
//! that, and how what was read is summed up.

use super::Service;
use super::error::Error;
use crate::clock::Millis;
use crate::model::attempt::Attempt;
use crate::model::id::{TenantNo, WebhookId};
use crate::store::backlog::Backlog;

/// Attempts that one answer looks at, newest first.
pub const ATTEMPTS_MAX: usize = 10_000;
/// The period that is asked for when none is named.
const PERIOD_MS: Millis = 24 * 3_600_000;
/// Attempts stand in the order of their ends: one that began before the period may stand behind one that began in it, but not
/// further than the longest attempt takes, and a while for its commit.
const OVERLAP_MS: Millis = 2 * 60_000;

/// A webhook's figures. Its tests are attempts, too.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// The period asked for begins here, in wall time.
    pub since_ms: Millis,
    /// The period that the figures are of begins here: later, when there were more attempts than are looked at.
    pub from_ms: Millis,
    pub is_complete: bool,
    pub attempts: usize,
    pub delivered: usize,
    /// Milliseconds: half, 95 % and 99 % of all attempts took no longer. `None` without attempts.
    pub durations: Option<[u32; 3]>,
    pub backlog: Backlog,
}

impl Stats {
    /// Delivered of all attempts, 0 to 1; `None` without attempts.
    #[must_use]
    pub fn success_rate(&self) -> Option<f64> {
        (self.attempts > 0).then(|| self.delivered as f64 / self.attempts as f64)
    }
}

/// Sums attempts up, newest first.
struct Sum {
    since_ms: Millis,
    max: usize,
    looked_at: usize,
    is_complete: bool,
    oldest_ms: Option<Millis>,
    delivered: usize,
    durations: Vec<u32>,
}

impl Sum {
    fn new(since_ms: Millis, max: usize) -> Self {
        let durations = Vec::new();
        Self { since_ms, max, looked_at: 0, is_complete: true, oldest_ms: None, delivered: 0, durations }
    }

    /// Takes the next attempt; says whether another one is wanted.
    fn add(&mut self, attempt: &Attempt) -> bool {
        if attempt.at_ms.saturating_add(OVERLAP_MS) < self.since_ms {
            return false;
        }
        if self.looked_at == self.max {
            self.is_complete = false;
            return false;
        }
        self.looked_at += 1;
        if attempt.at_ms >= self.since_ms {
            self.oldest_ms = Some(self.oldest_ms.map_or(attempt.at_ms, |oldest| oldest.min(attempt.at_ms)));
            self.delivered += usize::from(attempt.class.is_none());
            self.durations.push(attempt.duration_ms);
        }
        true
    }

    fn finish(mut self, backlog: Backlog) -> Stats {
        self.durations.sort_unstable();
        let attempts = self.durations.len();
        // The smallest that so many in a hundred don't exceed.
        let share = |percent: usize| self.durations.get((attempts * percent).div_ceil(100).max(1) - 1).copied();
        let durations = match (share(50), share(95), share(99)) {
            (Some(p50), Some(p95), Some(p99)) => Some([p50, p95, p99]),
            _ => None,
        };
        let cut_at = self.oldest_ms.filter(|_| !self.is_complete);
        Stats {
            since_ms: self.since_ms,
            from_ms: cut_at.unwrap_or(self.since_ms),
            is_complete: self.is_complete,
            attempts,
            delivered: self.delivered,
            durations,
            backlog,
        }
    }
}

impl Service {
    /// A webhook's figures since then; of the last 24 hours when no time is named.
    ///
    /// # Errors
    /// Not found.
    pub async fn stats(&self, tenant: TenantNo, id: WebhookId, since_ms: Option<Millis>) -> Result<Stats, Error> {
        let no = self.webhook_of(tenant, id)?.no;
        let since_ms = since_ms.unwrap_or_else(|| self.clock.wall_ms().saturating_sub(PERIOD_MS));
        let read = move |shared: &crate::store::view::Shared| {
            let mut sum = Sum::new(since_ms, ATTEMPTS_MAX);
            shared.scan_attempts(no, |attempt| sum.add(attempt))?;
            Ok(sum.finish(shared.backlog(no)?))
        };
        Ok(self.store.read(read).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attempt::{Class, Verdict};
    use crate::model::id::AttemptNumber;

    const SINCE: Millis = 1_700_000_000_000;

    fn attempt(at_ms: Millis, duration_ms: u32, class: Option<Class>) -> Attempt {
        Attempt {
            event: 1,
            webhook: 1,
            number: AttemptNumber::MIN,
            previous: 0,
            at_ms,
            duration_ms,
            class,
            status: None,
            error: String::new(),
            remote: None,
            excerpt: String::new(),
            verdict: Verdict::Single,
        }
    }

    fn sum(max: usize, newest_first: &[Attempt]) -> (Stats, usize) {
        let mut sum = Sum::new(SINCE, max);
        let taken = newest_first.iter().take_while(|attempt| sum.add(attempt)).count();
        (sum.finish(Backlog::default()), taken)
    }

    #[test]
    fn durations_are_those_that_so_many_do_not_exceed() {
        for (count, expected) in [(1, [1, 1, 1]), (2, [1, 2, 2]), (20, [10, 19, 20]), (200, [100, 190, 198])] {
            let all: Vec<_> = (1..=count).rev().map(|ms| attempt(SINCE + 1, ms, None)).collect();
            let (stats, _) = sum(1_000, &all);
            assert_eq!((stats.durations, stats.success_rate()), (Some(expected), Some(1.0)), "{count}");
        }
        let (none, _) = sum(1_000, &[]);
        assert_eq!((none.durations, none.success_rate(), none.is_complete), (None, None, true));
    }

    #[test]
    fn the_period_is_by_the_start_of_an_attempt_wherever_it_stands() {
        let failed = Some(Class::Timeout);
        let all = [
            attempt(SINCE + 5, 1, None),
            // Began before the period and ended behind one that began in it.
            attempt(SINCE - 60_000, 60_007, failed),
            attempt(SINCE, 3, failed),
            attempt(SINCE - 1, 3, None),
            attempt(SINCE - OVERLAP_MS - 1, 3, None),
            attempt(SINCE + 9, 3, None),
        ];
        let (stats, taken) = sum(1_000, &all);
        assert_eq!((stats.attempts, stats.delivered, taken), (2, 1, 4), "nothing behind the period is read");
        assert_eq!((stats.is_complete, stats.from_ms), (true, SINCE));
    }

    #[test]
    fn more_than_is_looked_at_is_said_to_be_cut() {
        let all: Vec<_> = (0..10).rev().map(|n| attempt(SINCE + n, 1, None)).collect();
        let (whole, _) = sum(10, &all);
        assert_eq!((whole.attempts, whole.is_complete, whole.from_ms), (10, true, SINCE));
        let (cut, _) = sum(9, &all);
        assert_eq!((cut.attempts, cut.is_complete, cut.from_ms), (9, false, SINCE + 1));
    }
}
