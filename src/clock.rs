//! Time as a value. Owns the two notions of time that the daemon uses; nothing else asks the operating system.
//!
//! *Wall time* is what people and receivers read: `created_at`, `webhook-timestamp`, attempt times. *Schedule time* is what
//! due times are made of: it starts at the wall time of start-up and then follows the monotonic clock, so that a step of the
//! wall clock neither bursts nor stalls a schedule. Both are milliseconds since 1970-01-01 UTC.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC.
pub type Millis = u64;

/// A handle on time; cheap to clone. Tests make one that stands still until told otherwise.
#[derive(Clone)]
pub struct Clock(Arc<Source>);

enum Source {
    System { started: Instant, base_ms: AtomicU64 },
    Manual { wall_us: AtomicU64, schedule_ms: AtomicU64 },
    Runtime { started: tokio::time::Instant, base_ms: AtomicU64, wall_base_us: AtomicU64 },
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Source::System { started: Instant::now(), base_ms: AtomicU64::new(system_wall_us() / 1_000) }))
    }

    /// A clock that moves only when told to; both times start at `start_ms`.
    #[must_use]
    pub fn manual(start_ms: Millis) -> Self {
        Self(Arc::new(Source::Manual {
            wall_us: AtomicU64::new(start_ms * 1_000),
            schedule_ms: AtomicU64::new(start_ms),
        }))
    }

    /// A clock that follows the time of the tokio runtime that it is made on, which a simulation pauses; both times start at
    /// `start_ms`.
    #[must_use]
    pub fn of_runtime(start_ms: Millis) -> Self {
        Self(Arc::new(Source::Runtime {
            started: tokio::time::Instant::now(),
            base_ms: AtomicU64::new(start_ms),
            wall_base_us: AtomicU64::new(start_ms * 1_000),
        }))
    }

    /// Wall time in microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn wall_us(&self) -> u64 {
        match &*self.0 {
            Source::System { .. } => system_wall_us(),
            Source::Manual { wall_us, .. } => wall_us.load(Ordering::Relaxed),
            Source::Runtime { started, wall_base_us, .. } => {
                wall_base_us.load(Ordering::Relaxed) + micros(started.elapsed())
            }
        }
    }

    /// Wall time in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn wall_ms(&self) -> Millis {
        self.wall_us() / 1_000
    }

    /// Schedule time: never goes back, never jumps.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        match &*self.0 {
            Source::System { started, base_ms } => {
                let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                base_ms.load(Ordering::Relaxed).saturating_add(elapsed_ms)
            }
            Source::Manual { schedule_ms, .. } => schedule_ms.load(Ordering::Relaxed),
            Source::Runtime { started, base_ms, .. } => {
                base_ms.load(Ordering::Relaxed) + micros(started.elapsed()) / 1_000
            }
        }
    }

    /// Lifts schedule time to at least `floor_ms`: called once at start-up with the newest time found in the store, so
    /// that a machine whose clock fell back during a restart does not sleep through its schedule.
    pub fn lift_to(&self, floor_ms: Millis) {
        let lag = floor_ms.saturating_sub(self.now_ms());
        match &*self.0 {
            Source::System { base_ms, .. } | Source::Runtime { base_ms, .. } => {
                base_ms.fetch_add(lag, Ordering::Relaxed)
            }
            Source::Manual { schedule_ms, .. } => schedule_ms.fetch_add(lag, Ordering::Relaxed),
        };
    }

    /// Moves a manual clock forward; both times move. Does nothing to the machine's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { wall_us, schedule_ms } = &*self.0 {
            wall_us.fetch_add(micros(by), Ordering::Relaxed);
            schedule_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Steps the wall time of a clock that is not the machine's, as an operator or NTP would; schedule time stays.
    pub fn step_wall_to(&self, to_ms: Millis) {
        match &*self.0 {
            Source::System { .. } => {}
            Source::Manual { wall_us, .. } => wall_us.store(to_ms * 1_000, Ordering::Relaxed),
            Source::Runtime { started, wall_base_us, .. } => {
                wall_base_us.store((to_ms * 1_000).saturating_sub(micros(started.elapsed())), Ordering::Relaxed);
            }
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn system_wall_us() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_time_ignores_a_step_of_the_wall() {
        let clock = Clock::manual(1_000_000);
        clock.step_wall_to(5);
        assert_eq!(clock.wall_ms(), 5);
        assert_eq!(clock.now_ms(), 1_000_000);
        clock.advance(Duration::from_millis(7));
        assert_eq!((clock.wall_ms(), clock.now_ms()), (12, 1_000_007));
    }

    #[test]
    fn lift_never_lowers() {
        let clock = Clock::manual(1_000);
        clock.lift_to(900);
        assert_eq!(clock.now_ms(), 1_000);
        clock.lift_to(1_500);
        assert_eq!(clock.now_ms(), 1_500);
    }
}
