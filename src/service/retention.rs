//! Retention: removes what has been kept for long enough, or is too much, in small steps that never stand in front of a
//! publisher for long. Owns the pace and the account of it; what may go is the store's to know.
//!
//! One run at a time. Between two steps it waits as long as the last one took, so that the writer is at most half the time
//! at it, and everything that has come meanwhile is written first.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Service;
use super::error::Error;
use super::room::Seen;
use crate::clock::Millis;
use crate::limits::RETAIN_OVERSHOOT_PART;
use crate::store::op::{Done, Op, Retained};
use crate::store::retention::{Counted, Limits};

const DAY_MS: Millis = 86_400_000;
/// The shortest wait between two steps.
const STEP_PAUSE_MIN: Duration = Duration::from_millis(2);
/// Whoever asks for a run gets its account after this long; the rest is left to the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long things are kept, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub events_ms: Millis,
    pub attempts_ms: Millis,
    pub dead_letters_ms: Millis,
    pub idempotency_ms: Millis,
    /// Bytes of the store that may be in use; above that the oldest go early.
    pub max_bytes: Option<u64>,
}

impl Default for Retention {
    /// The contract's defaults (§9).
    fn default() -> Self {
        Self {
            events_ms: 30 * DAY_MS,
            attempts_ms: 14 * DAY_MS,
            dead_letters_ms: 90 * DAY_MS,
            idempotency_ms: DAY_MS,
            max_bytes: None,
        }
    }
}

impl Retention {
    fn limits(&self, free_bytes: u64) -> Limits {
        Limits {
            events_ms: self.events_ms,
            attempts_ms: self.attempts_ms,
            dead_letters_ms: self.dead_letters_ms,
            idempotency_ms: self.idempotency_ms,
            free_bytes,
        }
    }
}

/// What a run has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub removed: Retained,
    pub steps: u64,
    /// Whether there was time for all of it.
    pub complete: bool,
}

impl Service {
    /// Removes what is to go by the settings in force, as far as it takes.
    ///
    /// # Errors
    /// When the store fails; the rest is left for the next time.
    pub async fn keep_retention(&self) -> Result<Run, Error> {
        let retention = self.settings().retention;
        self.retain(retention, None).await
    }

    /// Waits until a run should not wait any longer: the limits are others now, there is no room, or too much has come in.
    pub async fn retention_wanted(&self) {
        self.wanted.notified().await;
    }

    /// Has a run begin when the store exceeds its bytes by a part of them, so that it does so by no more however much comes in a
    /// minute. What the last run had to leave does not count.
    pub fn watch_volume(&self, seen: &Seen) {
        let Some(max) = self.settings().retention.max_bytes else { return };
        let expected = max.max(self.swept_to.load(Ordering::Relaxed));
        if seen.used > expected.saturating_add(max / RETAIN_OVERSHOOT_PART) {
            self.wanted.notify_one();
        }
    }

    /// The same at once and with other limits, as long as whoever asks can wait.
    ///
    /// # Errors
    /// 409 while another run is under way; when the store fails.
    pub async fn run_retention(&self, retention: Retention) -> Result<Run, Error> {
        self.retain(retention, Some(Instant::now() + ANSWER_WITHIN)).await
    }

    /// What a run with these limits would remove at most.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count_retention(&self, retention: Retention) -> Result<Counted, Error> {
        let limits = retention.limits(self.too_much(&retention).await?);
        let now = self.clock.now_ms();
        Ok(self.store.read(move |shared| shared.count_retention(&limits, now)).await?)
    }

    async fn retain(&self, retention: Retention, deadline: Option<Instant>) -> Result<Run, Error> {
        let Ok(mut sweep) = self.sweep.try_lock() else {
            let message = "a run of retention is under way";
            return Err(Error::Conflict { code: "retention_runs", message });
        };
        let (mut run, mut free) = (Run::default(), self.too_much(&retention).await?);
        *sweep = sweep.again();
        let started = Instant::now();
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let (limits, now, mut place) = (retention.limits(free), self.clock.now_ms(), *sweep);
            let plan = move |shared: &crate::store::view::Shared| {
                let plan = shared.plan_retention(&limits, now, &mut place)?;
                Ok((plan, place))
            };
            let (plan, place) = self.store.read(plan).await?;
            *sweep = place;
            let Some(mut plan) = plan else {
                run.complete = true;
                break;
            };
            let looked = !(plan.kept_events.is_empty() && plan.kept_journal.is_empty());
            plan.room = Some(self.room.room());
            let step = Instant::now();
            let Done::Retained(removed) = self.store.submit(Op::Retain(Box::new(plan)), None).await? else {
                return Err(Error::Internal);
            };
            run.steps += 1;
            run.add(removed);
            self.meter(removed);
            if removed.held {
                // Who makes a backup is not waited for: the next run goes on.
                break;
            }
            free = free.saturating_sub(removed.bytes);
            if removed == Retained::default() && !looked {
                // What is left is still needed for a start.
                run.complete = true;
                break;
            }
            tokio::time::sleep(step.elapsed().max(STEP_PAUSE_MIN)).await;
        }
        if retention.max_bytes.is_some() {
            self.swept_to.store(self.measure_room().await?.used, Ordering::Relaxed);
        }
        self.tell(run, started.elapsed()).await?;
        Ok(run)
    }

    /// Bytes of the logs that are to go so that the store takes no more than it may.
    async fn too_much(&self, retention: &Retention) -> Result<u64, Error> {
        let Some(max) = retention.max_bytes else { return Ok(0) };
        let seen = self.measure_room().await?;
        // What is held against what it takes: pages are larger than what stands in them.
        let over = seen.used.saturating_sub(max);
        let bytes = u128::from(over) * u128::from(seen.held) / u128::from(seen.used.max(1));
        Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    fn meter(&self, removed: Retained) {
        let metrics = &self.metrics;
        metrics.room.retention_events.inc_by(removed.events);
        metrics.room.retention_attempts.inc_by(removed.journal);
        metrics.room.retention_dead_letters.inc_by(removed.dead_letters);
        metrics.room.retention_bytes.inc_by(removed.bytes);
    }

    async fn tell(&self, run: Run, took: Duration) -> Result<(), Error> {
        self.metrics.room.retention_runs.inc();
        if run.removed == Retained::default() {
            return Ok(());
        }
        let Retained { events, journal, dead_letters, idempotency, others, bytes, .. } = run.removed;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            events,
            attempts = journal,
            dead_letters,
            idempotency_keys = idempotency,
            others,
            bytes,
            steps = run.steps,
            took_ms,
            complete = run.complete,
            "retention has removed what was kept for long enough"
        );
        Ok(())
    }
}

impl Run {
    fn add(&mut self, step: Retained) {
        let sum = &mut self.removed;
        sum.events += step.events;
        sum.journal += step.journal;
        sum.dead_letters += step.dead_letters;
        sum.idempotency += step.idempotency;
        sum.others += step.others;
        sum.bytes += step.bytes;
    }
}
