//! What the tables say of each other: the derived ones of the logs, the counts of the rows, the rows of what they point at.
//!
//! Both logs are walked once. A bit for each record of the journal says whether a later one of its delivery names it; those that
//! none names must be what `fates` holds, so that each delivery is looked at exactly once, in the order of the events. A
//! delivery whose records have two ends (something was decided while an attempt was in flight) is known by that, and judged less
//! strictly.

use std::collections::{HashMap, HashSet};

use redb::{ReadOnlyTable, ReadableTable, ReadableTableMetadata};

use super::bits::Bits;
use super::deliveries::{Counts, Judge, is_death};
use super::{FINDINGS_MAX, Report, Tell};
use crate::model::event::Event;
use crate::model::id::{BROADCAST, JournalSeq, OPERATOR_NO, Seq, TenantNo, WebhookNo};
use crate::store::StoreError;
use crate::store::flush;
use crate::store::listing::{self, Fate, FateRow, Fates, TailEntry};
use crate::store::log::{self, Log};
use crate::store::numbers::ByWebhook;
use crate::store::ordering::Place;
use crate::store::record::{self, Entry, Remembered, Standing};
use crate::store::recover::Recovered;
use crate::store::row::{self, Rows};
use crate::store::schema::{
    AUDIT, BY_TENANT, BY_WEBHOOK, DEAD, DEAD_OF, FATES, FATES_PER_ROW, IDEMPOTENCY, KEYS, META, ORDERING, PostingKey,
    QUEUE, STANDING, TENANTS, WEBHOOKS, meta,
};
use crate::store::view::{Shared, View};

/// Numbers, whatever their order: how many, and a sum in which each has its own share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum(u64, u64);

impl Sum {
    fn add(&mut self, number: u64) {
        // splitmix64: sums of such shares differ where the numbers do.
        let mut share = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        share = (share ^ (share >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        share = (share ^ (share >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *self = Self(self.0 + 1, self.1.wrapping_add(share ^ (share >> 31)));
    }
}

struct Look<'a, 't> {
    view: &'a View<'a>,
    report: &'a mut Report,
    tell: &'a mut Tell<'t>,
    /// Up to here the derived tables are written.
    flushed: (Seq, JournalSeq),
    next: (Seq, JournalSeq),
    /// Records that a later one of their delivery names.
    named: Bits,
    /// Records that are some delivery's newest.
    newest: Bits,
    /// What the records behind `flushed` say, by event.
    tail: HashMap<Seq, Fates>,
}

/// Looks at all of it.
pub(super) fn check(
    shared: &Shared,
    recovered: &Recovered,
    report: &mut Report,
    tell: &mut Tell<'_>,
) -> Result<(), StoreError> {
    let view = shared.view()?;
    let registry = shared.registry();
    let flushed = flush::flushed(view.txn.open_table(META)?.get(meta::FLUSHED)?.as_ref().map(|value| value.value()))?;
    let next = recovered.engine.heads();
    let first = first_of(&view, Log::Journal)?;
    let (named, newest) = (Bits::new(first, next.1), Bits::new(first, next.1));
    let mut look = Look { view: &view, report, tell, flushed, next, named, newest, tail: HashMap::new() };
    look.owners(shared)?;
    let attempts = look.journal()?;
    look.postings(BY_WEBHOOK, Log::Journal, &attempts)?;
    let fresh = recovered.fresh.iter().map(|(webhook, event)| (event.seq, *webhook)).collect();
    let mut judge = Judge::new(&view.txn, &registry, fresh)?;
    let events = look.events(&mut judge)?;
    look.postings(BY_TENANT, Log::Events, &events)?;
    let forked = look.ends(&mut judge)?;
    for ((event, webhook), what) in &judge.wrong {
        if !forked.contains(&(*event, *webhook)) {
            look.report.found("deliveries", format!("event {event}, webhook {webhook}"), what);
        }
    }
    let there = look.rows()?;
    let lenient: HashSet<WebhookNo> = forked.iter().map(|(_, webhook)| *webhook).collect();
    for (webhook, counted) in &there {
        let judged = judge.counts.get(webhook).copied().unwrap_or_default();
        if registry.webhook(*webhook).is_some() && !lenient.contains(webhook) && judged != *counted {
            look.report.found(
                "deliveries",
                format!("webhook {webhook}"),
                format!("its rows are {counted:?}, and its deliveries come to {judged:?}"),
            );
        }
    }
    look.dead(&mut judge)?;
    look.others()?;
    report.deliveries = judge.states;
    Ok(())
}

/// The first number of a log, the next one where it is empty.
fn first_of(view: &View<'_>, log: Log) -> Result<u64, StoreError> {
    let table = view.txn.open_table(log.table())?;
    Ok(table.first()?.map_or(1, |(first, _)| first.value()))
}

impl Look<'_, '_> {
    /// Every webhook's versions, keys and tenants.
    fn owners(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let txn = &self.view.txn;
        let tenants = txn.open_table(TENANTS)?;
        // An erasure takes the webhooks last, because it needs their numbers.
        let known = |tenant: TenantNo| {
            let erased = shared.registry().erasure_of(tenant).is_some();
            Ok::<_, StoreError>(erased || tenants.get(tenant)?.is_some())
        };
        for row in txn.open_table(WEBHOOKS)?.iter()? {
            let (key, value) = row?;
            let (no, since) = key.value();
            let read = row::open(WEBHOOKS, &(no, since), value.value())
                .and_then(|record| record::read_webhook(no, since, record, shared.sealer()));
            match read {
                Ok(webhook) if known(webhook.tenant)? => {}
                Ok(webhook) => {
                    self.report.found("webhooks", no, format!("its tenant {} is not there", webhook.tenant));
                }
                Err(error) => self.report.found("webhooks", format!("({no}, {since})"), error.to_string()),
            }
        }
        for key in shared.registry().keys() {
            if let Some(tenant) = key.tenant
                && tenant != OPERATOR_NO
                && !known(tenant)?
            {
                self.report.found("keys", key.id, format!("its tenant {tenant} is not there"));
            }
        }
        for row in txn.open_table(KEYS)?.iter()? {
            let (id, value) = row?;
            let id = crate::model::id::KeyId(*id.value());
            let record = row::open(KEYS, &&id.0, value.value())?;
            if let Err(error) = record::read_key(id, record, shared.sealer()) {
                self.report.found("keys", id, error.to_string());
            }
        }
        Ok(())
    }

    /// Walks the journal; gives the attempts of each webhook that are flushed.
    fn journal(&mut self) -> Result<HashMap<u32, Sum>, StoreError> {
        let table = self.view.txn.open_table(Log::Journal.table())?;
        let mut attempts: HashMap<u32, Sum> = HashMap::new();
        let Self { view, report, tell, flushed, next, named, tail, .. } = self;
        let registry = view.shared.registry();
        let erasing = registry.jobs().any(|job| job.task.is_final());
        log::scan(Log::Journal, &table, 1, |number, bytes| {
            let entry: Entry = record::read(bytes)?;
            let (event, webhook, previous) = (entry.event(), entry.webhook(), entry.previous());
            if previous >= number || event == 0 || event >= next.0 {
                report.found("journal", number, format!("it names record {previous} and event {event}"));
            }
            if previous != 0 {
                named.set(previous);
            }
            if let Entry::Attempt(attempt) = &entry
                && !erasing
                && !attempt.is_erased()
                && registry.is_forgotten(webhook)
            {
                report.found("journal", number, "its webhook's tenant was deleted, and it was not erased");
            }
            if number >= flushed.1 {
                listing::add_fate(tail.entry(event).or_default(), webhook, TailEntry::of(&entry).fate(number));
            } else if matches!(entry, Entry::Attempt(_)) {
                attempts.entry(webhook).or_default().add(number);
            }
            report.records += 1;
            tell.step("journal", number, || next.1);
            Ok(true)
        })?;
        Ok(attempts)
    }

    /// Whether a tenant is there no more, and no job erases what it has left.
    fn is_left(&self, tenant: TenantNo) -> bool {
        let registry = self.view.shared.registry();
        registry.tenant(tenant).is_none() && registry.erasure_of(tenant).is_none()
    }

    /// Walks the events and judges each delivery; gives the events of each tenant that are flushed.
    fn events(&mut self, judge: &mut Judge<'_>) -> Result<HashMap<u32, Sum>, StoreError> {
        let table = self.view.txn.open_table(Log::Events.table())?;
        let fates = self.view.txn.open_table(FATES)?;
        let mut events: HashMap<u32, Sum> = HashMap::new();
        let (mut before, mut row) = (None, (u64::MAX, Vec::new()));
        for kept in self.view.txn.open_table(Log::Events.kept())?.iter()? {
            let (seq, value) = kept?;
            let seq = seq.value();
            let event = record::read_event(seq, log::kept(Log::Events, seq, value.value())?.1)?;
            if event.tenant != BROADCAST && !event.is_erased() && self.is_left(event.tenant) {
                self.report.found("kept_events", seq, "its tenant was deleted, and it was not erased");
            }
            self.deliveries(judge, &event, &row_of(&fates, seq / FATES_PER_ROW)?)?;
        }
        log::scan(Log::Events, &table, 1, |seq, bytes| {
            let event = record::read_event(seq, bytes)?;
            if before.is_some_and(|before| before >= event.id) || !is_rising(&event.matched) {
                self.report.found("events", seq, "its id or its webhooks do not rise");
            }
            before = Some(event.id);
            if event.tenant != BROADCAST && !event.is_erased() && self.is_left(event.tenant) {
                self.report.found("events", seq, "its tenant was deleted, and it was not erased");
            }
            if event.is_erased() && event != event.erased() {
                self.report.found("events", seq, "it was erased, and something of it is left");
            }
            if seq < self.flushed.0 {
                events.entry(event.tenant).or_default().add(seq);
            }
            if row.0 != seq / FATES_PER_ROW {
                row = (seq / FATES_PER_ROW, row_of(&fates, seq / FATES_PER_ROW)?);
            }
            self.deliveries(judge, &event, &row.1)?;
            self.report.events += 1;
            self.tell.step("events", seq, || self.next.0);
            Ok(true)
        })?;
        Ok(events)
    }

    fn deliveries(&mut self, judge: &mut Judge<'_>, event: &Event, row: &[FateRow]) -> Result<(), StoreError> {
        let mine = row.iter().filter(|(offset, ..)| u64::from(*offset) == event.seq % FATES_PER_ROW);
        let mut fates: Fates = mine.map(|(_, webhook, fate)| (*webhook, *fate)).collect();
        for (webhook, newer) in self.tail.get(&event.seq).into_iter().flatten() {
            listing::add_fate(&mut fates, *webhook, *newer);
        }
        let first = first_of(self.view, Log::Journal)?;
        for (webhook, Fate { number, .. }) in &fates {
            let owner = judge.journal.entry(*number)?.map(|entry| (entry.event(), entry.webhook()));
            // Retention may have removed it: the fate is what is left.
            let is_cut = owner.is_none() && *number < first;
            if (owner != Some((event.seq, *webhook)) && !is_cut) || self.named.has(*number) {
                self.report.found(
                    "fates",
                    format!("event {}, webhook {webhook}", event.seq),
                    format!("record {number} is not the newest of this delivery"),
                );
            }
            self.newest.set(*number);
        }
        let order = event.order();
        let untold =
            event.matched.iter().filter(|webhook| !fates.contains_key(webhook)).map(|webhook| (*webhook, None));
        let told = fates.iter().map(|(webhook, fate)| (*webhook, Some(*fate)));
        for (webhook, newest) in told.chain(untold) {
            judge.see(event.seq, order, webhook, newest)?;
        }
        Ok(())
    }

    /// Records that no later one names and that are no delivery's newest: ends of forked deliveries, or missed by `fates`.
    fn ends(&mut self, judge: &mut Judge<'_>) -> Result<HashSet<(Seq, WebhookNo)>, StoreError> {
        let mut forked = HashSet::new();
        let low = first_of(self.view, Log::Events)?;
        let fates = self.view.txn.open_table(FATES)?;
        for number in first_of(self.view, Log::Journal)?..self.next.1 {
            if self.named.has(number) || self.newest.has(number) {
                continue;
            }
            let Some(entry) = judge.journal.entry(number)? else { continue };
            let (event, webhook) = (entry.event(), entry.webhook());
            let row = row_of(&fates, event / FATES_PER_ROW)?;
            let mine = |fate: &&FateRow| fate.1 == webhook && u64::from(fate.0) == event % FATES_PER_ROW;
            let written = row.iter().find(mine).map(|(.., fate)| fate.number);
            let later = self.tail.get(&event).and_then(|tail| tail.get(&webhook)).map(|fate| fate.number);
            if written.max(later).is_some_and(|newest| newest > number) {
                if forked.len() < FINDINGS_MAX * FINDINGS_MAX {
                    forked.insert((event, webhook));
                }
            } else if event >= low {
                self.report.found(
                    "fates",
                    format!("event {event}, webhook {webhook}"),
                    format!("record {number} of the journal is newer"),
                );
            }
        }
        Ok(forked)
    }

    /// A posting table of a log holds, as far as it is written, for each owner exactly these numbers.
    fn postings(
        &mut self,
        definition: Rows<PostingKey>,
        log: Log,
        wanted: &HashMap<u32, Sum>,
    ) -> Result<(), StoreError> {
        let name = redb::TableHandle::name(&definition).to_owned();
        let end = if log == Log::Events { self.flushed.0 } else { self.flushed.1 };
        // What retention has removed from the log may still stand in a list.
        let low = first_of(self.view, log)?;
        let mut found: HashMap<u32, Sum> = HashMap::new();
        for row in self.view.txn.open_table(definition)?.iter()? {
            let (key, value) = row?;
            let list = listing::unpack(definition, key.value(), value.value())?;
            if list.first() != Some(&key.value().1) || !is_rising(&list) {
                self.report.found(&name, format!("{:?}", key.value()), "the list does not rise from its key on");
            }
            let sum = found.entry(key.value().0).or_default();
            list.into_iter().filter(|number| (low..end).contains(number)).for_each(|number| sum.add(number));
        }
        found.retain(|_, sum| *sum != Sum::default());
        let owners: HashSet<&u32> = found.keys().chain(wanted.keys()).collect();
        for owner in owners {
            let (here, there) =
                (found.get(owner).copied().unwrap_or_default(), wanted.get(owner).copied().unwrap_or_default());
            if here != there {
                let what = format!("the list holds {} numbers and the log {}, or others", here.0, there.0);
                self.report.found(&name, owner, what);
            }
        }
        Ok(())
    }

    /// Counts the rows of each webhook, and holds `standing` against them.
    fn rows(&mut self) -> Result<ByWebhook<Counts>, StoreError> {
        let txn = &self.view.txn;
        let mut there: ByWebhook<Counts> = ByWebhook::default();
        for row in txn.open_table(QUEUE)?.iter()? {
            let (webhook, started, ..) = row?.0.value();
            let counts = there.entry(webhook).or_default();
            *(if started == 1 { &mut counts.started } else { &mut counts.waiting }) += 1;
        }
        let (mut line, mut under_way) = (None, 0);
        for row in txn.open_table(ORDERING)?.iter()? {
            let (key, value) = row?;
            let (webhook, order, _) = key.value();
            if line != Some((webhook, order)) {
                self.one_under_way(line, under_way);
                (line, under_way) = (Some((webhook, order)), 0);
            }
            match row::read::<_, Place>(ORDERING, &key.value(), value.value())? {
                Place::UnderWay => under_way += 1,
                Place::Held(_) => there.entry(webhook).or_default().held += 1,
            }
        }
        self.one_under_way(line, under_way);
        for row in txn.open_table(DEAD_OF)?.iter()? {
            there.entry(row?.0.value().0).or_default().dead += 1;
        }
        let mut standings: ByWebhook<Standing> = ByWebhook::default();
        for row in txn.open_table(STANDING)?.iter()? {
            let (no, value) = row?;
            standings.insert(no.value(), row::read(STANDING, &no.value(), value.value())?);
            there.entry(no.value()).or_default();
        }
        for (webhook, counted) in &there {
            let Standing { waiting, started, held, dead, .. } = standings.get(webhook).copied().unwrap_or_default();
            let stands = Counts { waiting, started, held, dead };
            if stands != *counted {
                self.report.found("standing", webhook, format!("it says {stands:?}, and there are {counted:?}"));
            }
        }
        Ok(there)
    }

    fn one_under_way(&mut self, line: Option<(WebhookNo, u64)>, under_way: u64) {
        let Some((webhook, order)) = line else { return };
        let live = self.view.shared.registry().webhook(webhook).is_some();
        if live && under_way != 1 {
            let place = format!("webhook {webhook}, line {order:016x}");
            self.report.found("ordering", place, format!("{under_way} of its deliveries are under way"));
        }
    }

    /// Each dead letter stands in both tables, and its record is of its death.
    fn dead(&mut self, judge: &mut Judge<'_>) -> Result<(), StoreError> {
        let (dead, dead_of) = (self.view.txn.open_table(DEAD)?, self.view.txn.open_table(DEAD_OF)?);
        for row in dead.iter()? {
            let (key, value) = row?;
            let ((tenant, death), delivery) = (key.value(), value.value());
            let other = dead_of.get(delivery)?.map(|number| number.value());
            let record = judge.journal.entry(death)?;
            // Nobody is told of the letters of a webhook that is gone. If one's delivery came through all the same, by an attempt that
            // was under way when it died, nothing keeps the record of the death.
            let is_told = self.view.shared.registry().webhook(delivery.0).is_some();
            let is_its =
                record.map_or(!is_told, |entry| is_death(entry) && (entry.webhook(), entry.event()) == delivery);
            let owner = self.view.webhook_newest(delivery.0)?.map(|webhook| webhook.tenant);
            if other != Some(death) || !is_its || owner != Some(tenant) {
                let place = format!("tenant {tenant}, record {death}");
                self.report.found("dead", place, "the other tables say otherwise of this dead letter");
            }
        }
        if dead.len()? != dead_of.len()? {
            self.report.found("dead_of", "", format!("it has {} rows and dead has {}", dead_of.len()?, dead.len()?));
        }
        Ok(())
    }

    /// Idempotency records point at events that were accepted; audit records have numbers that were given.
    fn others(&mut self) -> Result<(), StoreError> {
        let txn = &self.view.txn;
        for row in txn.open_table(IDEMPOTENCY)?.iter()? {
            let (key, value) = row?;
            let remembered: Remembered = row::read(IDEMPOTENCY, &key.value(), value.value())?;
            if remembered.first == 0 || remembered.first + u64::from(remembered.count) > self.next.0 {
                let what = format!("it speaks of {} events from {} on", remembered.count, remembered.first);
                self.report.found("idempotency", format!("{:?}", key.value()), what);
            }
        }
        let next = match txn.open_table(META)?.get(meta::NEXT_AUDIT)? {
            Some(value) => row::open(META, &meta::NEXT_AUDIT, value.value())?.try_into().map_or(0, u64::from_le_bytes),
            None => 1,
        };
        if let Some((number, _)) = txn.open_table(AUDIT)?.last()?
            && number.value() >= next
        {
            self.report.found("audit", number.value(), format!("the next number to be given is {next}"));
        }
        Ok(())
    }
}

fn row_of(fates: &ReadOnlyTable<u64, &'static [u8]>, row: u64) -> Result<Vec<FateRow>, StoreError> {
    fates.get(row)?.map_or(Ok(Vec::new()), |value| listing::rows_of(row, value.value()))
}

fn is_rising<T: PartialOrd>(list: &[T]) -> bool {
    list.windows(2).all(|pair| pair[0] < pair[1])
}
