//! The engine's op that cancels what is pending of an event; and how it tells what a delivery's journal says last.

use super::StoreError;
use super::engine::{Engine, Group};
use super::listing::{self, Fates};
use super::log::{self, Log};
use super::lookup;
use super::op::{Done, Refusal, RowKey};
use super::ordering::{self, Place};
use super::queue;
use super::record::{self, Entry, Standing};
use super::schema::{FATES, FATES_PER_ROW, ORDERING};
use crate::model::attempt::{Attempt, Verdict};
use crate::model::event::{Event, OrderKey};
use crate::model::id::{JournalSeq, Seq, WebhookNo};

/// What earlier groups have said of each of an event's deliveries.
pub(super) type Told = Fates;

/// What the journal says last about a delivery.
pub(super) struct Newest {
    /// Its newest record.
    pub number: JournalSeq,
    /// The newest that says how it stands: attempts from which nothing followed do not. `None`: retention has removed it,
    /// which it does when the delivery has ended.
    pub entry: Option<Entry>,
}

impl Engine {
    pub(super) fn cancel(
        &mut self,
        group: &mut Group<'_>,
        event: Seq,
        webhooks: &[WebhookNo],
    ) -> Result<Result<Done, Refusal>, StoreError> {
        let Some(found) = self.logged(group, event)? else { return Ok(Err(Refusal::NotFound)) };
        let (order, told) = (found.order(), self.told(group, event)?);
        let mut cancelled = 0;
        for webhook in webhooks.iter().copied() {
            if self.registry.webhook(webhook).is_none() {
                continue;
            }
            let newest = self.newest(group, event, webhook, &told)?;
            let mut standing = self.standings.get(webhook).unwrap_or_default();
            let matched = found.matched.contains(&webhook);
            let entry = newest.as_ref().and_then(|newest| newest.entry.as_ref());
            if self.withdraw(group, &mut standing, webhook, event, order, (entry, matched))? {
                let previous = newest.as_ref().map_or(0, |newest| newest.number);
                group.note(&Entry::Dropped { event, webhook, previous, at_ms: group.wall_ms });
                self.standings.insert(webhook, standing);
                group.dirty.insert(webhook);
                cancelled += 1;
            } else if !matches!(entry, Some(Entry::Dropped { .. })) {
                continue;
            }
            // Told again of one that was cancelled before: the store may have failed before its lane heard of it.
            group.effects.cancelled.push((webhook, event));
        }
        Ok(Ok(Done::Count(cancelled)))
    }

    /// Takes away what a pending delivery consists of: its being fresh, its row in the queue, or its place in line. False:
    /// it is not pending. `told`: what its journal says, and whether its event matched the webhook.
    pub(super) fn withdraw(
        &mut self,
        group: &mut Group<'_>,
        standing: &mut Standing,
        webhook: WebhookNo,
        event: Seq,
        order: Option<OrderKey>,
        told: (Option<&Entry>, bool),
    ) -> Result<bool, StoreError> {
        let place = match order {
            Some(order) => ordering::get(&group.txn().open_table(ORDERING)?, webhook, order, event)?,
            None => None,
        };
        let pending = match (place, told) {
            (Some(Place::Held(_)), _) => true,
            (_, (None, matched)) => matched && self.fresh.cancel(event, webhook),
            (_, (Some(entry), _)) => match entry.queued() {
                Some((started, due_ms)) => {
                    queue::remove(group.queue()?, standing, webhook, event, RowKey { started, due_ms })?
                }
                None => false,
            },
        };
        if let Some(order) = order.filter(|_| pending) {
            self.leave_line(group, standing, webhook, order, event)?;
        }
        Ok(pending)
    }

    /// An event that an earlier group accepted, unless it was erased.
    pub(super) fn logged(&self, group: &Group<'_>, event: Seq) -> Result<Option<Event>, StoreError> {
        let found = log::find(&group.txn(), Log::Events, event, |bytes| record::read_event(event, bytes))?;
        Ok(found.filter(|event| !event.is_erased()))
    }

    /// What the journal says last about a delivery, this group's records among them; `None`: nothing. `told`: the event's.
    pub(super) fn newest(
        &self,
        group: &Group<'_>,
        event: Seq,
        webhook: WebhookNo,
        told: &Told,
    ) -> Result<Option<Newest>, StoreError> {
        let here = group.entries.iter().rposition(|entry| entry.event == event && entry.webhook == webhook);
        let number = match here {
            Some(place) => Some(self.next_journal + place as JournalSeq),
            None => told.get(&webhook).map(|fate| fate.number),
        };
        let Some(number) = number else { return Ok(None) };
        let mut at = number;
        loop {
            let Some(entry) = self.entry(group, at)? else { return Ok(Some(Newest { number, entry: None })) };
            match entry {
                Entry::Attempt(Attempt { verdict: Verdict::Single, previous, .. }) if previous != 0 => {
                    if previous >= at {
                        return Err(StoreError::Damaged("a journal chain does not lead back"));
                    }
                    at = previous;
                }
                entry => return Ok(Some(Newest { number, entry: Some(entry) })),
            }
        }
    }

    /// What earlier groups have said of each of an event's deliveries: one look at the tail for all of them.
    pub(super) fn told(&self, group: &Group<'_>, event: Seq) -> Result<Told, StoreError> {
        let mut told = match lookup::get(&group.txn().open_table(FATES)?, &FATES, &(event / FATES_PER_ROW))? {
            Some(row) => listing::fates_in(row.value(), event)?,
            None => Told::new(),
        };
        for (webhook, newer) in self.shared.tails().fates_of(event) {
            listing::add_fate(&mut told, webhook, newer);
        }
        Ok(told)
    }

    /// A record of the journal, this group's among them.
    pub(super) fn entry(&self, group: &Group<'_>, number: JournalSeq) -> Result<Option<Entry>, StoreError> {
        // Records of this group are not in the table yet.
        if number >= self.next_journal {
            return group.journal.get(number, |bytes| record::read(bytes)).transpose();
        }
        log::find(&group.txn(), Log::Journal, number, |bytes| record::read(bytes))
    }
}
