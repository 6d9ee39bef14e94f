//! Which deliveries a job is about, found in a snapshot a bounded stretch at a time: to be counted, or to be done by the
//! writer, which judges each again. Owns what `failed`, `missing` and a filter of dead letters mean.
//!
//! An event is missing for a webhook when the version of the webhook that decided about it wanted it and was inactive, and
//! nothing of it was sent there since. Tests and what is reported of the webhook itself never are.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::StoreError;
use super::deaths::Deaths;
use super::listing::{self, Fate, Tells};
use super::log::{self, Log};
use super::lookup;
use super::news;
use super::record::{self, Brief};
use super::row;
use super::schema::{FATES, FATES_PER_ROW, JOBS, WEBHOOKS};
use super::view::{Shared, View};
use crate::limits::JOB_LOOKED_AT_MAX;
use crate::model::id::{BROADCAST, JobId, JournalSeq, Seq, TenantNo, WebhookNo};
use crate::model::job::{Cursor, Job, Letters, Only, Recover, Task};
use crate::model::webhook::Webhook;

/// A stretch that was looked through.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sifted {
    pub items: Vec<(WebhookNo, Seq)>,
    /// Where the next stretch begins; `None`: that was all.
    pub next: Option<Cursor>,
}

/// What is looked for: whose, what, below which bound.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub tenant: TenantNo,
    pub task: &'a Task,
    pub bound: u64,
}

impl Wanted<'_> {
    fn is_of(&self, webhook: &Webhook) -> bool {
        self.tenant == BROADCAST || self.tenant == webhook.tenant
    }
}

impl Shared {
    /// At most `max` deliveries that a job is about, from `from` on.
    ///
    /// # Errors
    /// When the store fails, or what decides does not read.
    pub fn sift(&self, wanted: Wanted<'_>, from: Cursor, max: usize) -> Result<Sifted, StoreError> {
        match wanted.task {
            Task::Redrive(letters) | Task::Purge(letters) => match letters.webhook {
                Some(webhook) => self.letters_of(wanted, letters, webhook, from, max),
                None => self.letters(wanted, letters, from, max),
            },
            Task::Recover(recover) if recover.only == Only::Failed => self.failed(wanted, recover, from, max),
            Task::Recover(recover) => self.missed(wanted, recover, from, max),
            Task::Erase(erase) => self.erasable(erase, wanted.bound, from, max),
        }
    }

    /// Where a job's bound would lie if it began now.
    #[must_use]
    pub fn bound_of(&self, task: &Task) -> u64 {
        match task {
            Task::Redrive(_) | Task::Purge(_) => self.next_journal(),
            Task::Recover(_) | Task::Erase(_) => self.next_event(),
        }
    }

    /// Dead letters in the order of dying, tenant by tenant.
    fn letters(&self, wanted: Wanted<'_>, letters: &Letters, from: Cursor, max: usize) -> Result<Sifted, StoreError> {
        let view = self.view()?;
        let deaths = Deaths::of(&view.txn, self)?;
        let last = if wanted.tenant == BROADCAST { TenantNo::MAX } else { wanted.tenant };
        let (mut sifted, mut looked_at, mut from) = (Sifted::default(), 0, Some(from));
        while let Some(start) = from.take() {
            let high = (last, JournalSeq::MAX);
            for row in lookup::rising(&deaths.dead, &deaths, Bound::Included(&start), Bound::Included(&high))? {
                let (key, value) = row?;
                let ((tenant, death), (webhook, event)) = (key.value(), value.value());
                if death >= wanted.bound {
                    // The rest of this tenant's is newer than the job.
                    from = tenant.checked_add(1).map(|next| (next, 0)).filter(|next| next.0 <= last);
                    break;
                }
                if looked_at >= JOB_LOOKED_AT_MAX || sifted.items.len() >= max {
                    sifted.next = Some((tenant, death));
                    return Ok(sifted);
                }
                looked_at += 1;
                if self.is_live(wanted, webhook) && is_among(&view, letters, event, death)? {
                    sifted.items.push((webhook, event));
                }
            }
        }
        Ok(sifted)
    }

    /// Dead letters of one webhook, in the order of their events.
    fn letters_of(
        &self,
        wanted: Wanted<'_>,
        letters: &Letters,
        webhook: WebhookNo,
        from: Cursor,
        max: usize,
    ) -> Result<Sifted, StoreError> {
        let view = self.view()?;
        let is_live = self.is_live(wanted, webhook);
        buried(&view, webhook, from.1..Seq::MAX, max, |event, death| {
            Ok(is_live && death < wanted.bound && is_among(&view, letters, event, death)?)
        })
    }

    fn failed(&self, wanted: Wanted<'_>, recover: &Recover, from: Cursor, max: usize) -> Result<Sifted, StoreError> {
        let view = self.view()?;
        let is_live = self.is_live(wanted, recover.webhook);
        let range = range_of(&view, recover, wanted.bound, from.1)?;
        buried(&view, recover.webhook, range, max, |_, _| Ok(is_live))
    }

    /// Events that have not arrived at a webhook, or also those that have.
    fn missed(&self, wanted: Wanted<'_>, recover: &Recover, from: Cursor, max: usize) -> Result<Sifted, StoreError> {
        let no = recover.webhook;
        let live = self.registry().webhook(no).filter(|webhook| wanted.is_of(webhook)).cloned();
        let Some(webhook) = live else { return Ok(Sifted::default()) };
        // The tail first: what leaves it from now on stands in the snapshot's rows.
        let tail = self.tails().fates_to(no);
        let view = self.view()?;
        let range = range_of(&view, recover, wanted.bound, from.1)?;
        let (fates, deaths) = (view.txn.open_table(FATES)?, Deaths::of(&view.txn, self)?);
        let mut versions = Versions { view: &view, no, known: None };
        let mut row_read: Option<(u64, BTreeMap<Seq, Fate>)> = None;
        let (mut sifted, mut looked_at) = (Sifted::default(), 0);
        log::scan_all(&view.txn, Log::Events, range.start, |seq, bytes| {
            if seq >= range.end {
                return Ok(false);
            }
            if looked_at >= JOB_LOOKED_AT_MAX || sifted.items.len() >= max {
                sifted.next = Some((no, seq));
                return Ok(false);
            }
            looked_at += 1;
            let event = record::read_brief(bytes)?;
            if event.test || event.kind.is_empty() || (event.tenant != webhook.tenant && event.tenant != BROADCAST) {
                return Ok(true);
            }
            let row = seq / FATES_PER_ROW;
            if row_read.as_ref().is_none_or(|(read, _)| *read != row) {
                let found = lookup::get(&fates, &FATES, &row)?
                    .map(|value| listing::fates_to_in(value.value(), row, no))
                    .transpose()?;
                row_read = Some((row, found.unwrap_or_default()));
            }
            let on_disk = row_read.as_ref().and_then(|(_, fates)| fates.get(&seq));
            let fate = listing::joined(on_disk.copied(), tail.get(&seq).copied());
            let take = match fate {
                None => !event.matched.contains(&no) && versions.at(seq)?.is_some_and(|then| has_missed(then, &event)),
                Some(_) if recover.only == Only::Missing => false,
                Some(_) if deaths.of_delivery(no, seq)?.is_some() => true,
                Some(fate) => recover.only == Only::All && fate.tells == Tells::Delivered,
            };
            if take {
                sifted.items.push((no, seq));
            }
            Ok(true)
        })?;
        Ok(sifted)
    }

    fn is_live(&self, wanted: Wanted<'_>, webhook: WebhookNo) -> bool {
        self.registry().webhook(webhook).is_some_and(|webhook| wanted.is_of(webhook))
    }
}

/// A webhook's dead letters of these events.
fn buried(
    view: &View<'_>,
    webhook: WebhookNo,
    range: std::ops::Range<Seq>,
    max: usize,
    mut take: impl FnMut(Seq, JournalSeq) -> Result<bool, StoreError>,
) -> Result<Sifted, StoreError> {
    let mut sifted = Sifted::default();
    if range.is_empty() {
        return Ok(sifted);
    }
    let deaths = Deaths::of(&view.txn, view.shared)?;
    let (low, high) = ((webhook, range.start), (webhook, range.end));
    let rows = lookup::rising(&deaths.dead_of, &deaths, Bound::Included(&low), Bound::Excluded(&high))?;
    for (looked_at, row) in rows.enumerate() {
        let (key, death) = row?;
        let (_, event) = key.value();
        if looked_at >= JOB_LOOKED_AT_MAX || sifted.items.len() >= max {
            sifted.next = Some((webhook, event));
            break;
        }
        if take(event, death.value())? {
            sifted.items.push((webhook, event));
        }
    }
    Ok(sifted)
}

/// The events that a recovery is about, from `from` on.
fn range_of(view: &View<'_>, recover: &Recover, bound: Seq, from: Seq) -> Result<std::ops::Range<Seq>, StoreError> {
    let low = recover.since_ms.map_or(Ok(0), |since| view.first_event_at(since))?;
    let high = recover.until_ms.map_or(Ok(Seq::MAX), |until| view.first_event_at(until.saturating_add(1)))?;
    Ok(low.max(from)..high.min(bound))
}

fn is_among(view: &View<'_>, letters: &Letters, event: Seq, death: JournalSeq) -> Result<bool, StoreError> {
    if letters.since_ms.is_some() || letters.until_ms.is_some() {
        let Some(dead_ms) = view.entry(death)?.and_then(|entry| entry.died_ms()) else { return Ok(false) };
        if letters.since_ms.is_some_and(|since| dead_ms < since)
            || letters.until_ms.is_some_and(|until| dead_ms > until)
        {
            return Ok(false);
        }
    }
    let Some(kind) = &letters.kind else { return Ok(true) };
    Ok(log::find(&view.txn, Log::Events, event, |bytes| Ok(record::read_brief(bytes)?.kind == kind))?.unwrap_or(false))
}

/// Whether a webhook, as it was then, would have got an event had it been active.
fn has_missed(then: &Webhook, event: &Brief<'_>) -> bool {
    !then.is_active()
        && !then.is_deleted()
        && then.wants(event.kind, event.channel)
        && !news::is_about(event.kind, event.context, then.id)
}

/// A webhook's versions along the log, each read once.
struct Versions<'a> {
    view: &'a View<'a>,
    no: WebhookNo,
    /// The one that holds for these events; `None` in it: there was none yet.
    known: Option<(std::ops::Range<Seq>, Option<Webhook>)>,
}

impl Versions<'_> {
    fn at(&mut self, seq: Seq) -> Result<Option<&Webhook>, StoreError> {
        if self.known.as_ref().is_none_or(|(range, _)| !range.contains(&seq)) {
            let then = self.view.webhook_at(self.no, seq)?;
            let (low, high) = ((self.no, seq.saturating_add(1)), (self.no, Seq::MAX));
            let table = self.view.txn.open_table(WEBHOOKS)?;
            let mut later = lookup::rising(&table, &WEBHOOKS, Bound::Included(&low), Bound::Included(&high))?;
            let next = later.next().transpose()?;
            let end = next.map_or(Seq::MAX, |(key, _)| key.value().1);
            self.known = Some((seq..end, then));
        }
        Ok(self.known.as_ref().and_then(|(_, then)| then.as_ref()))
    }
}

impl View<'_> {
    /// A job, whether it runs or has ended.
    ///
    /// # Errors
    /// When the store fails.
    pub fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        lookup::get(&self.txn.open_table(JOBS)?, &JOBS, &&id.0)?
            .map(|value| row::read(JOBS, &&id.0, value.value()))
            .transpose()
    }

    /// Jobs before `before`, newest first, while `each` wants more.
    ///
    /// # Errors
    /// When the store fails.
    pub fn scan_jobs(&self, before: JobId, mut each: impl FnMut(Job) -> bool) -> Result<(), StoreError> {
        let table = self.txn.open_table(JOBS)?;
        for row in lookup::falling(&table, &JOBS, Bound::Unbounded, Bound::Excluded(&&before.0))? {
            let (id, value) = row?;
            if !each(row::read(JOBS, &id.value(), value.value())?) {
                break;
            }
        }
        Ok(())
    }
}
