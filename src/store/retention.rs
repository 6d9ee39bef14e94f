//! What retention would remove at this moment, read beside the writer. Owns how ages and bytes become places in the logs.
//!
//! The age of a record is that of its block, by the clock of `age`; blocks stand in the order of their writing, so an age is
//! a place, found by halving. A plan is a suggestion: what is needed is decided by the writer (`retain`). Two rules stand
//! above every limit: an event stays while the idempotency key that it came with is remembered, and the newest block of
//! each log stays.

use std::ops::Bound;

use redb::ReadableTable;

use super::StoreError;
use super::block::Mark;
use super::deaths::{DeadLetter, Deaths};
use super::listing::{self, Tells};
use super::log::{self, Log};
use super::lookup;
use super::op::Retain;
use super::record::{self, Entry};
use super::recover;
use super::schema::{BY_WEBHOOK, FATES, FATES_PER_ROW, IDEMPOTENCY, WEBHOOKS};
use super::view::{Shared, View};
use crate::clock::Millis;
use crate::limits::{RETAIN_DEAD_MAX, RETAIN_LOOKED_AT_MAX, RETAIN_RECORDS_MAX};
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

const DAY_MS: Millis = 86_400_000;

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub events_ms: Millis,
    pub attempts_ms: Millis,
    pub dead_letters_ms: Millis,
    pub idempotency_ms: Millis,
    /// Bytes of the logs' blocks that are to go, the oldest first, whatever their age.
    pub free_bytes: u64,
}

/// Where a look at what was kept, and at webhooks' versions, goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    events: Seq,
    journal: JournalSeq,
    webhook: WebhookNo,
    /// Rows that this run has looked at.
    looked_at: usize,
}

impl Sweep {
    /// The same place in a new run.
    #[must_use]
    pub fn again(self) -> Self {
        Self { looked_at: 0, ..self }
    }
}

/// What would go, counted; what turns out to be needed stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub events: u64,
    pub journal: u64,
    pub bytes: u64,
    pub dead_letters: u64,
    pub idempotency: u64,
}

/// Up to where both logs may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reach {
    events: Place,
    journal: Place,
}

/// A block's first record, and the bytes of the log before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    number: u64,
    bytes: u64,
}

impl Shared {
    /// The next step; `None`: nothing is to be removed.
    ///
    /// # Errors
    /// When the store fails.
    pub fn plan_retention(
        &self,
        limits: &Limits,
        now: Millis,
        sweep: &mut Sweep,
    ) -> Result<Option<Retain>, StoreError> {
        // Read before the snapshot: what is missing here was deleted in it.
        let live: std::collections::HashSet<WebhookNo> = self.registry().webhooks().map(|webhook| webhook.no).collect();
        let view = self.view()?;
        let aged = self.age().at(now);
        let reach = view.reach(limits, aged)?;
        let mut plan = Retain {
            events_to: reach.events.number,
            journal_to: reach.journal.number,
            dead: view.old_dead(aged.saturating_sub(limits.dead_letters_ms), RETAIN_DEAD_MAX)?,
            days_to: first_day(limits, now),
            max: RETAIN_RECORDS_MAX,
            ..Retain::default()
        };
        view.sweep(&mut plan, sweep, |no| live.contains(&no))?;
        let blocks = reach.events.number > view.floor(Log::Events)?.number
            || reach.journal.number > view.floor(Log::Journal)?.number;
        let keys = view.txn.open_table(IDEMPOTENCY)?.first()?.is_some_and(|(key, _)| key.value().0 < plan.days_to);
        let rows = [plan.dead.len(), plan.kept_events.len(), plan.kept_journal.len()];
        let webhooks = [plan.versions.len(), plan.webhooks.len()];
        let some = blocks || keys || rows.iter().chain(&webhooks).any(|count| *count > 0);
        Ok(some.then_some(plan))
    }

    /// How much would go.
    ///
    /// # Errors
    /// When the store fails.
    pub fn count_retention(&self, limits: &Limits, now: Millis) -> Result<Counted, StoreError> {
        let view = self.view()?;
        let aged = self.age().at(now);
        let reach = view.reach(limits, aged)?;
        let (events, journal) = (view.floor(Log::Events)?, view.floor(Log::Journal)?);
        let keys = view.txn.open_table(IDEMPOTENCY)?;
        let old = keys.range::<(u32, &[u8; 16])>(..(first_day(limits, now), &[0; 16]))?;
        Ok(Counted {
            events: reach.events.number - events.number,
            journal: reach.journal.number - journal.number,
            bytes: reach.events.bytes - events.bytes + reach.journal.bytes - journal.bytes,
            dead_letters: view.old_dead(aged.saturating_sub(limits.dead_letters_ms), usize::MAX)?.len() as u64,
            idempotency: old.count() as u64,
        })
    }
}

/// Idempotency records of earlier days are past their time.
fn first_day(limits: &Limits, now: Millis) -> u32 {
    let day = |ms: Millis| u32::try_from(ms / DAY_MS).unwrap_or(u32::MAX);
    day(now).saturating_sub(day(limits.idempotency_ms.next_multiple_of(DAY_MS)))
}

impl View<'_> {
    /// The oldest records that are left in the logs: (event, journal record).
    ///
    /// # Errors
    /// When the store fails.
    pub fn floors(&self) -> Result<(Seq, JournalSeq), StoreError> {
        Ok((self.floor(Log::Events)?.number, self.floor(Log::Journal)?.number))
    }

    /// The age of the oldest block of events by the clock `aged_ms` of retention, in ms.
    ///
    /// # Errors
    /// When the store fails.
    pub fn oldest_event_age_ms(&self, aged_ms: Millis) -> Result<Option<Millis>, StoreError> {
        let mark = log::floor(Log::Events, &self.txn.open_table(Log::Events.table())?)?.1;
        Ok(mark.map(|mark| aged_ms.saturating_sub(mark.aged_ms)))
    }

    fn floor(&self, log: Log) -> Result<Place, StoreError> {
        let (number, mark) = log::floor(log, &self.txn.open_table(log.table())?)?;
        Ok(Place { number, bytes: mark.map_or(0, |mark| mark.bytes) })
    }

    /// The first block that was written at `before` or later, by the clock of retention; the last one, if none was.
    fn older_than(&self, log: Log, before: Millis) -> Result<Place, StoreError> {
        let table = self.txn.open_table(log.table())?;
        let floor = self.floor(log)?;
        let Some(last) = table.last()?.map(|(first, _)| first.value()) else { return Ok(floor) };
        let (mut low, mut high) = (floor.number, last);
        while low < high {
            let middle = low + (high - low) / 2;
            if log::mark_at(log, &table, middle)?.is_none_or(|(_, mark)| mark.aged_ms < before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // In the midst of a block only where that is the last one.
        Ok(log::mark_at(log, &table, low)?.map_or(floor, |(number, mark)| Place { number, bytes: mark.bytes }))
    }

    /// Where a start would begin to read: nothing from there on goes.
    fn marked(&self) -> Result<Reach, StoreError> {
        let events = self.txn.open_table(Log::Events.table())?;
        let journal = self.txn.open_table(Log::Journal.table())?;
        let mark = recover::newest_mark((log::end(Log::Events, &events)?, log::end(Log::Journal, &journal)?));
        let place = |log, found: Option<(u64, Mark)>| {
            found.map_or_else(|| self.floor(log), |(number, mark)| Ok(Place { number, bytes: mark.bytes }))
        };
        Ok(Reach {
            events: place(Log::Events, log::mark_at(Log::Events, &events, mark.event)?)?,
            journal: place(Log::Journal, log::mark_at(Log::Journal, &journal, mark.journal)?)?,
        })
    }

    fn reach(&self, limits: &Limits, aged: Millis) -> Result<Reach, StoreError> {
        let (events, journal) = (self.floor(Log::Events)?, self.floor(Log::Journal)?);
        // What was accepted under a key that is remembered is answered with again.
        let youngest = aged.saturating_sub(limits.idempotency_ms);
        let marked = self.marked()?;
        let at = |events_before: Millis, journal_before: Millis| -> Result<Reach, StoreError> {
            Ok(Reach {
                events: self.older_than(Log::Events, events_before.min(youngest))?.min(marked.events),
                journal: self.older_than(Log::Journal, journal_before)?.min(marked.journal),
            })
        };
        let bytes = |reach: &Reach| reach.events.bytes - events.bytes + reach.journal.bytes - journal.bytes;
        let by_age = at(aged.saturating_sub(limits.events_ms), aged.saturating_sub(limits.attempts_ms))?;
        if bytes(&by_age) >= limits.free_bytes {
            return Ok(by_age);
        }
        // The smallest age limit that frees as much, in ms before now; the youngest go only if they must.
        let (mut low, mut high) = (0, youngest);
        while low < high {
            let middle = low + (high - low) / 2;
            if bytes(&at(middle, middle)?) < limits.free_bytes {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let by_bytes = at(low, low)?;
        Ok(Reach { events: by_age.events.max(by_bytes.events), journal: by_age.journal.max(by_bytes.journal) })
    }

    /// When a journal record was written, by the clock of retention.
    fn written_at(&self, number: JournalSeq) -> Result<Millis, StoreError> {
        if let Some((_, mark)) = log::mark_at(Log::Journal, &self.txn.open_table(Log::Journal.table())?, number)? {
            return Ok(mark.aged_ms);
        }
        let kept = self.txn.open_table(Log::Journal.kept())?;
        lookup::get(&kept, &Log::Journal.kept(), &number)?
            .map_or(Ok(0), |value| Ok(log::kept(Log::Journal, number, value.value())?.0))
    }

    /// Dead letters that died before, tenant by tenant.
    fn old_dead(&self, before: Millis, max: usize) -> Result<Vec<(TenantNo, DeadLetter)>, StoreError> {
        let deaths = Deaths::of(&self.txn, self.shared)?;
        let (mut old, mut from) = (Vec::new(), Some(0));
        while let Some(low) = from {
            from = None;
            for found in lookup::rising(&deaths.dead, &deaths, Bound::Included(&(low, 0)), Bound::Unbounded)? {
                let (key, value) = found?;
                let ((tenant, death), (webhook, event)) = (key.value(), value.value());
                if old.len() >= max {
                    break;
                }
                if self.written_at(death)? >= before {
                    // What died later in this tenant is younger still.
                    from = tenant.checked_add(1);
                    break;
                }
                old.push((tenant, DeadLetter { webhook, event, death }));
            }
        }
        Ok(old)
    }

    /// Goes on with the look at what was kept and at old versions.
    fn sweep(
        &self,
        plan: &mut Retain,
        sweep: &mut Sweep,
        is_live: impl Fn(WebhookNo) -> bool,
    ) -> Result<(), StoreError> {
        let is_full =
            |sweep: &Sweep, found: usize| sweep.looked_at >= RETAIN_LOOKED_AT_MAX || found >= RETAIN_RECORDS_MAX;
        let (mut events, mut journal) = (Vec::new(), Vec::new());
        for found in self.txn.open_table(Log::Events.kept())?.range(sweep.events..)? {
            if is_full(sweep, events.len()) {
                break;
            }
            let seq = found?.0.value();
            (sweep.events, sweep.looked_at) = (seq + 1, sweep.looked_at + 1);
            if !self.is_claimed(seq, None, &is_live)? {
                events.push(seq);
            }
        }
        for found in self.txn.open_table(Log::Journal.kept())?.range(sweep.journal..)? {
            if is_full(sweep, journal.len()) {
                break;
            }
            let (number, value) = found?;
            let entry: Entry = record::read(log::kept(Log::Journal, number.value(), value.value())?.1)?;
            (sweep.journal, sweep.looked_at) = (number.value() + 1, sweep.looked_at + 1);
            if !self.is_claimed(entry.event(), Some(entry.webhook()), &is_live)? {
                journal.push(number.value());
            }
        }
        (plan.kept_events, plan.kept_journal) = (events, journal);
        self.sweep_webhooks(plan, sweep, is_live)?;
        if sweep.looked_at < RETAIN_LOOKED_AT_MAX && plan.kept_events.is_empty() && plan.kept_journal.is_empty() {
            // All was seen: the next run begins anew, this one looks no further.
            *sweep = Sweep { looked_at: RETAIN_LOOKED_AT_MAX, ..Sweep::default() };
        }
        Ok(())
    }

    fn sweep_webhooks(
        &self,
        plan: &mut Retain,
        sweep: &mut Sweep,
        is_live: impl Fn(WebhookNo) -> bool,
    ) -> Result<(), StoreError> {
        let kept = self.txn.open_table(Log::Events.kept())?.first()?.map(|(seq, _)| seq.value());
        let low = self.floor(Log::Events)?.number.min(kept.unwrap_or(Seq::MAX));
        let (table, attempts) = (self.txn.open_table(WEBHOOKS)?, self.txn.open_table(BY_WEBHOOK)?);
        let mut before: Option<(WebhookNo, Seq)> = None;
        let judge = |plan: &mut Retain, version: Option<(WebhookNo, Seq)>, next: Option<(WebhookNo, Seq)>| {
            let Some((no, since)) = version else { return Ok::<_, StoreError>(()) };
            match next {
                Some((other, from)) if other == no && from <= low => plan.versions.push((no, since)),
                Some((other, _)) if other == no => {}
                _ if !is_live(no) && since <= low && !listing::is_listed(&attempts, no)? => plan.webhooks.push(no),
                _ => {}
            }
            Ok(())
        };
        for found in table.range((sweep.webhook, 0)..)? {
            let place = found?.0.value();
            judge(plan, before, Some(place))?;
            before = Some(place);
            let is_new = place.0 != sweep.webhook;
            sweep.looked_at += 1;
            if is_new {
                sweep.webhook = place.0;
                if sweep.looked_at >= RETAIN_LOOKED_AT_MAX || plan.versions.len() >= RETAIN_RECORDS_MAX {
                    return Ok(());
                }
            }
        }
        judge(plan, before, None)?;
        sweep.webhook = sweep.webhook.saturating_add(1);
        Ok(())
    }

    /// Whether a delivery of this event, to this webhook or to any, is pending or a dead letter as far as is written: what the
    /// listings do not have yet, the writer knows.
    fn is_claimed(
        &self,
        event: Seq,
        webhook: Option<WebhookNo>,
        is_live: &impl Fn(WebhookNo) -> bool,
    ) -> Result<bool, StoreError> {
        let fates = self.txn.open_table(FATES)?;
        let Some(row) = lookup::get(&fates, &FATES, &(event / FATES_PER_ROW))? else { return Ok(false) };
        let deaths = Deaths::of(&self.txn, self.shared)?;
        for (no, fate) in listing::fates_in(row.value(), event)? {
            let claims = match fate.tells {
                Tells::Pending => is_live(no),
                Tells::Dead(_) => deaths.of_delivery(no, event)?.is_some(),
                Tells::Nothing | Tells::Delivered | Tells::Cancelled => false,
            };
            if claims && webhook.is_none_or(|wanted| wanted == no) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
