//! What the writer does about a store that failed. Owns what is kept meanwhile, and the finding out of what became of the group
//! that met the failure.
//!
//! redb refuses every write after an error: the store is let go of and opened again, with backoff, until one group has gone
//! through. Damage that is met every time ends that.

use std::sync::Arc;
use std::time::Duration;

use super::{State, Writer, survive};
use crate::store::StoreError;
use crate::store::engine::Engine;
use crate::store::inbox::{SubmitError, Waiter};
use crate::store::op::{Effects, Op, RowKey};
use crate::store::open::OpenError;
use crate::store::recover::{self, Recovered};

/// Damage in a row, with the store opened again in between, after which there is no use in going on.
const DAMAGED_MAX: u32 = 3;
/// Waits between attempts to open the store again.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_MAX: Duration = Duration::from_secs(2);

/// What the writer has while it has no store.
pub(super) struct Broken {
    /// The daemon's own ops of the group: not to be lost.
    kept: Vec<Op>,
    /// Where the logs ended before the group.
    before: (u64, u64),
    /// Before the next try.
    pub(super) wait: Duration,
    /// Tries in a row that met damage.
    damaged: u32,
}

impl Writer {
    /// Lets go of a store that failed; what became of the group is not known yet.
    pub(super) fn fail(
        &self,
        engine: Engine,
        before: (u64, u64),
        ops: Vec<Op>,
        waiters: Vec<Option<Waiter>>,
        error: &StoreError,
    ) -> Broken {
        self.inbox.set_down(true);
        let why = error.to_string();
        let unknown = waiters
            .into_iter()
            .flatten()
            .map(|waiter| (waiter, Err(SubmitError::Store(StoreError::Unavailable(why.clone())))));
        self.downstream.committed(Effects::default(), unknown.collect());
        self.close_db(engine);
        Broken { kept: ops.into_iter().filter(is_own).collect(), before, wait: REOPEN_FIRST, damaged: 0 }
    }

    /// Tries once to open the store again, finds out what became of the group, and writes what was kept of it.
    pub(super) fn mend(&mut self, mut broken: Broken) -> State {
        broken.wait = (broken.wait * 2).min(REOPEN_MAX);
        let recovered = match self.open_again() {
            Ok(recovered) => recovered,
            Err(error) => {
                self.tell(&error, "the store can't be opened again yet");
                // It may have come half way, and would stand in the way of the next try: a store is opened once.
                self.let_go();
                return self.broken(broken, &error);
            }
        };
        let mut engine = recovered.engine;
        let landed = engine.heads() != broken.before;
        let new = recovered.fresh.into_iter().filter(|(_, event)| event.seq >= broken.before.0);
        // What the group announced was lost with it, so every queue is looked at, also those that no lane stands for.
        let rows = [true, false].map(|started| RowKey { started, due_ms: 0 });
        let queued = recovered.queued.iter().flat_map(|no| rows.map(|row| (*no, row))).collect();
        let mut effects = Effects { fresh: new.collect(), queued, ..Effects::default() };
        if landed {
            effects.settled = broken.kept.iter().filter_map(settled_by).collect();
            effects.expired = broken.kept.iter().filter_map(expired_by).collect();
            broken.kept.clear();
        }
        broken.before = engine.heads();
        self.downstream.reopened();
        self.downstream.committed(effects, Vec::new());
        // One group must go through before callers are let in again.
        broken.kept.push(Op::Ping);
        match survive(|| engine.apply(&broken.kept)) {
            Ok(applied) => {
                self.downstream.committed(applied.effects, Vec::new());
                self.inbox.set_down(false);
                tracing::info!("the store is open again");
                State::Written(engine)
            }
            Err(error) => {
                self.tell(&error, "the store failed again");
                broken.kept.retain(|op| !matches!(op, Op::Ping));
                self.close_db(engine);
                self.broken(broken, &error)
            }
        }
    }

    /// Still broken, or damaged for good.
    fn broken(&self, mut broken: Broken, error: &StoreError) -> State {
        broken.damaged = if error.is_damage() { broken.damaged + 1 } else { 0 };
        if broken.damaged < DAMAGED_MAX {
            return State::Broken(broken);
        }
        tracing::error!(
            "the store is damaged where it must be written; nothing acknowledged is lost; run: webhookd store check"
        );
        State::Damaged
    }

    /// Lets go of the database and waits until the last reader has.
    fn close_db(&self, engine: Engine) {
        self.let_go();
        let (mut db, _) = engine.into_files();
        let close = || {
            while let Err(still_read) = Arc::try_unwrap(db) {
                db = still_read;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        if let Err(error) = survive(close) {
            tracing::warn!(%error, "the store was not closed cleanly; nothing is lost, opening it repairs it");
        }
    }

    fn open_again(&mut self) -> Result<Recovered, StoreError> {
        survive(|| {
            let (db, wal) = (self.reopen)().map_err(|error| match error {
                OpenError::Refused { why, .. } => {
                    tracing::error!(why, "the store is refused");
                    StoreError::Damaged("its file does not open")
                }
                other => StoreError::Unavailable(other.to_string()),
            })?;
            recover::recover(Arc::new(db), self.shared.clone(), &self.clock, wal, self.shared.idempotency_ms())
        })
    }
}

/// Ops that nobody waits for and that must not be lost: what the daemon itself found out.
fn is_own(op: &Op) -> bool {
    matches!(op, Op::Outcome(_) | Op::Spill { .. } | Op::Forget { .. } | Op::Expire { .. })
}

fn settled_by(op: &Op) -> Option<(u32, u64)> {
    match op {
        Op::Outcome(outcome) => Some((outcome.attempt.webhook, outcome.attempt.event)),
        _ => None,
    }
}

fn expired_by(op: &Op) -> Option<u32> {
    match op {
        Op::Expire { webhook, .. } => Some(*webhook),
        _ => None,
    }
}
