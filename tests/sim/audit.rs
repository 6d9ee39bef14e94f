//! The count at the end, from the store itself: each delivery is in exactly one state, and it is the one that the receivers
//! would tell.

use std::collections::BTreeMap;

use webhookd::model::attempt::Verdict;
use webhookd::model::id::{JournalSeq, Seq, WebhookNo};
use webhookd::model::webhook::{InactiveReason, WebhookState};
use webhookd::store::StoreError;
use webhookd::store::record::Entry;
use webhookd::store::view::Shared;

use crate::ledger::{Ledger, Tag};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    NotMatched,
    Pending,
    Delivered,
    Dead,
    /// Cancelled, or its dead letter thrown away.
    Dropped,
}

pub fn state_of(shared: &Shared, webhook: WebhookNo, seq: Seq) -> Result<State, StoreError> {
    let (view, fates) = shared.view_with_fates(seq)?;
    let Some(newest) = fates.get(&webhook) else {
        let event = view.event(seq)?.ok_or(StoreError::Damaged("an accepted event is missing"))?;
        return Ok(if event.matched.contains(&webhook) { State::Pending } else { State::NotMatched });
    };
    let entry = view.entry(newest.number)?.ok_or(StoreError::Damaged("a record that is pointed to is missing"))?;
    Ok(match &entry {
        Entry::Dropped { .. } => State::Dropped,
        Entry::Died { .. } => State::Dead,
        Entry::Queued { .. } | Entry::Revived { .. } => State::Pending,
        Entry::Attempt(attempt) => match attempt.verdict {
            Verdict::Delivered => State::Delivered,
            Verdict::RetryAt(_) => State::Pending,
            Verdict::Dead(_) => State::Dead,
            // Something else was decided meanwhile; what, the record before it tells.
            Verdict::Single => State::Dropped,
        },
    })
}

/// Whether the webhook was inactive then because it had failed for days, as time that leaps makes it.
fn has_failed(shared: &Shared, webhook: WebhookNo, seq: Seq) -> bool {
    let version = shared.view().unwrap().webhook_at(webhook, seq).unwrap();
    version
        .is_some_and(|version| matches!(version.state, WebhookState::Inactive { reason: InactiveReason::Failing, .. }))
}

/// The newest attempts at an event that are on record, and their numbers: a crash may have taken what receivers saw.
pub fn newest_attempts(shared: &Shared, seq: Seq) -> BTreeMap<WebhookNo, u32> {
    let (view, fates) = shared.view_with_fates(seq).unwrap();
    let number = |fate: JournalSeq| match view.entry(fate).unwrap() {
        Some(Entry::Attempt(attempt)) => Some(attempt.number.get()),
        _ => None,
    };
    fates.iter().filter_map(|(no, fate)| Some((*no, number(fate.number)?))).collect()
}

/// Holds what the store says of every acknowledged event against what was seen outside.
pub fn audit(ledger: &Ledger, shared: &Shared) {
    let mut book = ledger.lock();
    let book = &mut *book;
    let facts: Vec<(Tag, Seq)> = book
        .facts
        .iter()
        .filter_map(|(tag, fact)| Some((*tag, fact.accepted.filter(|_| fact.acknowledged)?.1)))
        .collect();
    for (tag, seq) in facts {
        let fact = &book.facts[&tag];
        let (cancelled, tenant, asked_at) = (fact.cancelled, fact.tenant, fact.asked_at);
        let hooks: Vec<_> = book
            .hooks
            .iter()
            .filter(|(_, hook)| hook.tenant == tenant)
            .filter_map(|(label, hook)| {
                let no = hook.no?;
                // A deletion that was not answered may have happened; one that nobody asked for may not.
                let deleted = hook.touched && shared.registry().webhook(no).is_none();
                Some((*label, no, hook.since, hook.touched, deleted))
            })
            .collect();
        for (label, no, since, touched, deleted) in hooks {
            let state = state_of(shared, no, seq).unwrap();
            let seen = book.delivered.contains(&(label, tag));
            let failed = book.failed.contains(&(label, tag));
            let right = match state {
                State::NotMatched => touched || deleted || since >= asked_at || has_failed(shared, no, seq),
                State::Pending => deleted,
                State::Delivered => seen,
                // Receivers that can't be reached have seen nothing.
                State::Dead => failed || !seen || book.revived.contains(&(label, tag)),
                State::Dropped => cancelled || deleted,
            };
            if !right {
                book.breach(format!("event {tag} is {state:?} at {label}; seen {seen}, cancelled {cancelled}"));
            }
        }
    }
}
