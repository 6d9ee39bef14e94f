//! Attempts that have ended, taken further together. Owns the order: spool, lane, writer, next.
//!
//! Attempts of one turn of the runtime end close to each other, and what follows costs a write, two locks and a look at the
//! lane. So an ended attempt is put on the worker's pile, and a task that runs behind the others of this turn takes the pile
//! further as one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::dispatcher::Dispatcher;
use super::lane::Ended;
use super::places::{Departure, Places};
use super::worker::Worker;
use crate::clock::Millis;
use crate::model::attempt::{Attempt, Verdict};
use crate::model::event::OrderKey;
use crate::model::id::{EventId, WebhookNo};
use crate::model::webhook::InactiveReason;
use crate::store::op::Outcome;
use crate::store::record::QueueRow;
use crate::store::spool::{Success, Ticket};
use crate::store::writer::Store;

/// An attempt that has ended.
pub(super) struct Finished {
    pub places: Places,
    /// `None`: the event could not be read.
    pub id: Option<EventId>,
    pub attempt: Attempt,
    pub order: Option<OrderKey>,
    /// As it was before.
    pub row: QueueRow,
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
    fn departure(&self) -> &Departure {
        &self.places.departure
    }

    fn is_of_lane_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.departure().cell, &other.departure().cell)
    }

    fn is_success(&self) -> bool {
        self.attempt.verdict == Verdict::Delivered
    }

    /// What the spool notes of it.
    fn success(&self) -> Option<Success> {
        let attempt = &self.attempt;
        Some(Success {
            event: attempt.event,
            id: self.id.filter(|_| self.is_success())?,
            webhook: attempt.webhook,
            number: attempt.number,
            at_ms: attempt.at_ms,
            duration_ms: attempt.duration_ms,
            status: attempt.status.unwrap_or_default(),
        })
    }
}

/// Takes an ended attempt further, with the others of this turn.
pub(super) fn finish(finished: Finished) {
    let worker = finished.departure().worker.clone();
    if worker.pile.put(finished) {
        tokio::spawn(async move { take_further(&worker, worker.pile.take()) });
    }
}

fn take_further(worker: &Arc<Worker>, mut pile: Vec<Finished>) {
    let dispatcher = &worker.dispatcher;
    count(dispatcher, &pile);
    Places::give_all_back(pile.iter_mut().map(|finished| &mut finished.places));
    let (successes, ticket) = spool(&dispatcher.store, &pile);
    let ended = end(&pile, &successes, ticket);
    let mut outcomes = Vec::with_capacity(pile.len());
    let mut waiting: BTreeMap<WebhookNo, Arc<Departure>> = BTreeMap::new();
    let (mut pressing, mut behind) = (false, false);
    for ((finished, ticket), ended) in
        pile.into_iter().zip(successes.iter().map(|success| success.and(ticket))).zip(ended)
    {
        let Finished { places, attempt, order, deactivate, .. } = finished;
        let QueueRow { budget_from, since_ms, .. } = finished.row;
        // What makes the webhook inactive stops other attempts once it is committed.
        pressing |= ended.pressing || deactivate.is_some();
        behind |= ended.behind;
        if ended.closed || ticket.is_some() {
            // Work was waiting for the circuit, or for the permit.
            waiting.entry(attempt.webhook).or_insert_with(|| places.departure.clone());
        }
        let row = ended.row;
        outcomes.push((Outcome { row, order, budget_from, since_ms, deactivate, test: false, attempt }, ticket));
    }
    dispatcher.store.note_outcomes(outcomes, pressing);
    if behind {
        dispatcher.store.keep_step();
    }
    for (no, departure) in waiting {
        worker.drive(no, &departure.cell);
    }
}

fn count(dispatcher: &Dispatcher, pile: &[Finished]) {
    let failed = pile.iter().filter_map(|finished| finished.attempt.class);
    let failures = failed.inspect(|class| dispatcher.count_failed(*class)).count();
    dispatcher.count_delivered(pile.len() - failures);
}

/// Notes in the spool what may be noted there.
fn spool(store: &Store, pile: &[Finished]) -> (Vec<Option<Success>>, Option<Ticket>) {
    let mut successes = Vec::with_capacity(pile.len());
    for of_lane in pile.chunk_by(Finished::is_of_lane_of) {
        let may = of_lane[0].departure().cell.lane().may_spool();
        successes.extend(of_lane.iter().map(|finished| finished.success().filter(|_| may)));
    }
    let ticket = store.spool(successes.iter().flatten());
    (successes, ticket)
}

/// Tells the lanes.
fn end(pile: &[Finished], successes: &[Option<Success>], ticket: Option<Ticket>) -> Vec<Ended> {
    let mut ended = Vec::with_capacity(pile.len());
    for of_lane in pile.chunk_by(Finished::is_of_lane_of) {
        let mut lane = of_lane[0].departure().cell.lane();
        for finished in of_lane {
            let spooled = successes[ended.len()].and(ticket).is_some();
            ended.push(lane.ended(finished.attempt.event, finished.is_success(), spooled, finished.now));
        }
    }
    ended
}
