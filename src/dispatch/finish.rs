//! Attempts that have ended, taken further together. Owns the order: spool, lane, writer, next.
//!
//! Attempts of one turn of the runtime end close to each other, and what follows costs a write, two locks and a look at the
//! lane. So an ended attempt is put on the worker's pile, and a task that runs behind the others of this turn takes the pile
//! further as one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::dispatcher::LaneCell;
use super::worker::Worker;
use crate::clock::Millis;
use crate::model::attempt::{Attempt, Verdict};
use crate::model::event::OrderKey;
use crate::model::id::{EventId, WebhookNo};
use crate::model::webhook::InactiveReason;
use crate::store::op::Outcome;
use crate::store::spool::Success;

/// An attempt that has ended.
pub(super) struct Finished {
    pub cell: Arc<LaneCell>,
    /// `None`: the event could not be read.
    pub id: Option<EventId>,
    pub attempt: Attempt,
    pub order: Option<OrderKey>,
    pub budget_from: u32,
    pub since_ms: Millis,
    pub deactivate: Option<InactiveReason>,
    /// Schedule time of its end.
    pub now: Millis,
}

/// The pile of one worker.
#[derive(Default)]
pub(super) struct Pile(Mutex<Vec<Finished>>);

impl Pile {
    /// Puts one on; says whether it is the first.
    fn put(&self, finished: Finished) -> bool {
        let mut pile = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pile.push(finished);
        pile.len() == 1
    }

    fn take(&self) -> Vec<Finished> {
        let mut pile = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The next one will be about as high.
        let next = Vec::with_capacity(pile.len());
        std::mem::replace(&mut *pile, next)
    }
}

impl Finished {
    fn is_success(&self) -> bool {
        self.attempt.verdict == Verdict::Delivered
    }

    /// What the spool notes of it, where it may.
    fn success(&self) -> Option<Success> {
        let attempt = &self.attempt;
        let may = self.is_success() && self.cell.lane().may_spool();
        Some(Success {
            event: attempt.event,
            id: self.id.filter(|_| may)?,
            webhook: attempt.webhook,
            number: attempt.number,
            at_ms: attempt.at_ms,
            duration_ms: attempt.duration_ms,
            status: attempt.status.unwrap_or_default(),
        })
    }
}

/// Takes an ended attempt further, with the others of this turn.
pub(super) fn finish(worker: &Arc<Worker>, finished: Finished) {
    if worker.pile.put(finished) {
        let worker = worker.clone();
        tokio::spawn(async move { take_further(&worker, worker.pile.take()) });
    }
}

fn take_further(worker: &Arc<Worker>, pile: Vec<Finished>) {
    let store = &worker.dispatcher.store;
    let successes: Vec<Option<Success>> = pile.iter().map(Finished::success).collect();
    let ticket = store.spool(successes.iter().flatten());
    let mut outcomes = Vec::with_capacity(pile.len());
    let mut waiting: BTreeMap<WebhookNo, Arc<LaneCell>> = BTreeMap::new();
    let (mut pressing, mut behind) = (false, false);
    for (finished, success) in pile.into_iter().zip(successes) {
        let ticket = success.and(ticket);
        let spooled = ticket.is_some();
        let is_success = finished.is_success();
        let Finished { cell, attempt, order, budget_from, since_ms, deactivate, now, .. } = finished;
        let ended = cell.lane().ended(attempt.event, is_success, spooled, now);
        // What makes the webhook inactive stops other attempts once it is committed.
        pressing |= ended.pressing || deactivate.is_some();
        behind |= ended.behind;
        if ended.closed || spooled {
            // Work was waiting for the circuit, or for the permit.
            waiting.insert(attempt.webhook, cell);
        }
        outcomes
            .push((Outcome { row: ended.row, order, budget_from, since_ms, deactivate, test: false, attempt }, ticket));
    }
    store.note_outcomes(outcomes, pressing);
    if behind {
        store.keep_step();
    }
    for (no, cell) in waiting {
        worker.drive(no, &cell);
    }
}
