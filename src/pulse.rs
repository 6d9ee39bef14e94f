//! The daemon's pulse: feeds systemd's watchdog and keeps the line that `systemctl status` shows. Owns what counts as alive.
//!
//! Invariant: a proof of life is given only after a round trip through the writer and the loop of every worker, so that a
//! thread that hangs, and not only a process that is gone, brings a restart.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::STATUS_EVERY;
use crate::metrics::Metrics;
use crate::store::StoreError;
use crate::store::inbox::SubmitError;
use crate::store::op::Op;
use crate::store::writer::Store;
use crate::systemd;

/// Proofs of life in the time that the watchdog waits for one.
const BEATS: u32 = 4;

/// What the pulse is taken of.
#[derive(Clone)]
pub struct Pulse {
    store: Store,
    workers: usize,
    metrics: Arc<Metrics>,
}

/// What a round trip came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Writer and workers answered.
    Alive,
    /// The writer says that its store has failed and is being opened again: a restart would do the same.
    StoreDown,
    /// So much waits for the writer that nothing more is let in; says nothing about whether it moves.
    Unknown,
}

impl Pulse {
    #[must_use]
    pub fn new(store: Store, workers: usize, metrics: Arc<Metrics>) -> Self {
        Self { store, workers, metrics }
    }

    /// Goes through the writer and back through the loop of each worker. Never comes back from one that hangs.
    pub async fn beat(&self) -> Beat {
        let mut found = Beat::Alive;
        // Asked one after another: each of them is committed, and a group in between costs next to nothing.
        for worker in 0..self.workers {
            match self.store.submit(Op::Ping, Some(worker)).await {
                Ok(_) | Err(SubmitError::Refused(_)) => {}
                Err(SubmitError::Store(StoreError::Overloaded)) => return Beat::Unknown,
                Err(SubmitError::Store(_)) => found = Beat::StoreDown,
            }
        }
        found
    }

    /// Keeps systemd informed; ends with the task it runs in. `watchdog` is how long systemd waits for a proof of life.
    pub async fn keep(self, watchdog: Option<Duration>) {
        let told = self.clone();
        tokio::join!(self.feed(watchdog), told.tell());
    }

    async fn feed(self, watchdog: Option<Duration>) {
        let Some(patience) = watchdog else { return };
        let mut beats = tokio::time::interval(patience / BEATS);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            let mut beat = std::pin::pin!(self.beat());
            let found = match tokio::time::timeout(patience / 2, &mut beat).await {
                Ok(found) => found,
                Err(_) => {
                    tracing::error!(
                        "writer or workers do not answer; systemd's watchdog restarts a daemon that stays so"
                    );
                    beat.await
                }
            };
            if found != Beat::Unknown {
                systemd::alive();
            }
        }
    }

    async fn tell(self) {
        let mut ticks = tokio::time::interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = String::new();
        loop {
            ticks.tick().await;
            let line = self.line();
            if line != last {
                systemd::status(&line);
                last = line;
            }
        }
    }

    /// What the daemon does, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        if self.store.is_down() {
            return "The store has failed and is being opened again; nothing is accepted meanwhile".to_owned();
        }
        let metrics = &self.metrics;
        format!(
            "Serving: {} connections, {} webhooks at work, {} attempts under way; {} events accepted since the start{}",
            metrics.connections.open.get(),
            metrics.lanes.get(),
            metrics.in_flight.get(),
            metrics.events_accepted.get(),
            if metrics.reload_success.get() == 0 { "; THE LAST RELOAD WAS REFUSED" } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::entropy::Entropy;
    use crate::store::inbox::{Answer, Waiter};
    use crate::store::op::Effects;
    use crate::store::open::Place;
    use crate::store::writer::{Downstream, Parts};

    /// Hands answers on as a worker's loop does.
    struct Workers;

    impl Downstream for Workers {
        fn committed(&self, _: Effects, answers: Vec<(Waiter, Answer)>) {
            for (waiter, answer) in answers {
                drop(waiter.sender.send(answer));
            }
        }

        fn reopened(&self) {}
    }

    #[tokio::test]
    async fn a_beat_takes_a_writer_that_writes() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { state_dir: folder.path().to_owned(), key_file: None, cache_bytes: 1 << 20 };
        let (clock, metrics) = (Clock::system(), Arc::new(Metrics::default()));
        let parts = Parts::open(&place, &Entropy::system(), &clock, &metrics, 0).unwrap();
        let store = parts.store();
        let pulse = Pulse::new(store.clone(), 2, metrics.clone());
        let mut beat = std::pin::pin!(pulse.beat());
        let early = tokio::time::timeout(Duration::from_millis(100), &mut beat).await;
        assert!(early.is_err(), "a writer that does not run is no sign of life");
        let writer = store.start(parts, Arc::new(Workers)).unwrap();
        assert_eq!(beat.await, Beat::Alive);
        assert!(pulse.line().starts_with("Serving: 0 connections"), "{}", pulse.line());
        metrics.reload_success.set(0);
        assert!(pulse.line().contains("THE LAST RELOAD WAS REFUSED"));
        store.close();
        writer.join().unwrap();
        assert_eq!(pulse.beat().await, Beat::StoreDown, "one that was told to stop says so");
    }
}
