//! What is pending for one webhook, counted from one snapshot: the rows of its queue, and its fresh deliveries.
//!
//! Rows are counted by the webhook's standing, exactly. Fresh deliveries have no row: they are the events from the watermark
//! on that matched the webhook and of which the journal says nothing for it. The watermark's lag bounds how many events
//! that looks at (`limits::WATERMARK_LAG_MAX`, a little more in bursts).

use std::collections::HashSet;

use super::StoreError;
use super::listing;
use super::log::{self, Log};
use super::lookup;
use super::numbers::ByWebhook;
use super::ordering::{self, Place};
use super::queue;
use super::record::{self, Entry, Standing};
use super::row;
use super::schema::{FATES, FATES_PER_ROW, ORDERING, QUEUE, STANDING};
use super::view::Shared;
use crate::clock::Millis;
use crate::model::id::{Seq, WebhookNo};

/// What is pending for a webhook, and what is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub pending: u64,
    /// When the oldest pending event was accepted; of a queue with more rows than are looked at, the oldest of those. One that
    /// is held by its line does not count: one that it waits for does.
    pub oldest_ms: Option<Millis>,
    pub dead: u64,
}

/// What is pending and dead, of all live webhooks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// In memory only, but for their events.
    pub fresh: u64,
    /// Rows of the durable queue, without and with an attempt.
    pub waiting: u64,
    pub started: u64,
    /// Waiting for another with their ordering key.
    pub held: u64,
    pub dead: u64,
}

impl Shared {
    /// What is pending and dead, of all live webhooks together.
    ///
    /// # Errors
    /// When the store fails.
    pub fn totals(&self) -> Result<Totals, StoreError> {
        let standings = self.view()?.standings()?;
        let mut totals = Totals { fresh: self.fresh(), ..Totals::default() };
        let registry = self.registry();
        // The rows of a deleted one are pending no more; they are swept little by little.
        for (_, standing) in standings.iter().filter(|(no, _)| registry.webhook(**no).is_some()) {
            totals.waiting += standing.waiting;
            totals.started += standing.started;
            totals.held += standing.held;
            totals.dead += standing.dead;
        }
        Ok(totals)
    }

    /// What is pending for a webhook at this moment.
    ///
    /// # Errors
    /// When the store fails.
    pub fn backlog(&self, webhook: WebhookNo) -> Result<Backlog, StoreError> {
        // The tail first: what leaves it from now on stands in the snapshot's rows, what comes to it in the snapshot's journal.
        let (mut settled, told_to) = {
            let tails = self.tails();
            (tails.events_told_of(webhook), tails.ends().1)
        };
        let watermark = self.watermark();
        let view = self.view()?;
        log::scan(Log::Journal, &view.txn.open_table(Log::Journal.table())?, told_to, |_, bytes| {
            let entry: Entry = record::read(bytes)?;
            if entry.webhook() == webhook {
                settled.insert(entry.event());
            }
            Ok(true)
        })?;
        let standing = view.standing(webhook)?;
        let fresh = view.fresh_of(webhook, watermark, settled)?;
        let queued = queue::oldest(&view.txn.open_table(QUEUE)?, webhook)?;
        let oldest = [fresh.first().copied(), queued].into_iter().flatten().min();
        let oldest_ms = match oldest {
            Some(seq) => view.event(seq)?.map(|event| event.accepted_ms),
            None => None,
        };
        let pending = standing.pending() + fresh.len() as u64;
        Ok(Backlog { pending, oldest_ms, dead: standing.dead })
    }
}

impl super::view::View<'_> {
    /// How all webhooks stand that anything is on record of but their newest success, in one pass: a look-up for each of 100,000
    /// takes many times as long. Others stand as at their creation.
    ///
    /// # Errors
    /// When the store fails.
    pub fn standings(&self) -> Result<ByWebhook<Standing>, StoreError> {
        let mut standings = ByWebhook::default();
        for row in lookup::whole(&self.txn.open_table(STANDING)?, &STANDING)? {
            let (no, value) = row?;
            standings.insert(no.value(), row::read(STANDING, &no.value(), value.value())?);
        }
        Ok(standings)
    }

    /// Events from `watermark` on that matched the webhook and of which nothing is on record for it, rising. `settled`: events
    /// that the unwritten part of the listings, or what is newer, says something of.
    fn fresh_of(&self, webhook: WebhookNo, watermark: Seq, mut settled: HashSet<Seq>) -> Result<Vec<Seq>, StoreError> {
        let (fates, lines) = (self.txn.open_table(FATES)?, self.txn.open_table(ORDERING)?);
        let (mut fresh, mut row_read) = (Vec::new(), None);
        log::scan(Log::Events, &self.txn.open_table(Log::Events.table())?, watermark, |seq, bytes| {
            if !record::is_matched(bytes, webhook)? {
                return Ok(true);
            }
            let row = seq / FATES_PER_ROW;
            if row_read != Some(row) {
                row_read = Some(row);
                if let Some(value) = lookup::get(&fates, &FATES, &row)? {
                    settled.extend(listing::events_in(value.value(), row, webhook)?);
                }
            }
            // What its line holds is counted there.
            let is_held = || -> Result<bool, StoreError> {
                let Some(order) = record::read_order(bytes)? else { return Ok(false) };
                Ok(matches!(ordering::get(&lines, webhook, order, seq)?, Some(Place::Held(_))))
            };
            if !settled.contains(&seq) && !is_held()? {
                fresh.push(seq);
            }
            Ok(true)
        })?;
        Ok(fresh)
    }
}
