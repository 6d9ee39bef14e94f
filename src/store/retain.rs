//! The engine's op that removes what has been kept for long enough, one bounded step in one synced transaction.
//!
//! Invariant: what is pending, and a dead letter that is kept, loses nothing. Whole blocks go from the low end of both logs,
//! never at or above what start-up reads (`recover::newest_mark`, `meta::FLUSHED`); before a block goes, its records that
//! something pending or a dead letter needs are written to the kept ones, and that is decided here, inside the transaction.
//! What becomes of a delivery stands in `FATES` for as long as its event does. The rows that lead to what goes (lists,
//! fates) go in the same step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redb::{ReadableTable, WriteTransaction};

use super::StoreError;
use super::deaths::DeadLetter;
use super::engine::{Engine, Group, put_meta};
use super::flush;
use super::listing::{self, Fate, FateRow, Fates, Tells};
use super::log::{self, Log};
use super::lookup::{self, Order};
use super::op::{Done, Refusal, Retain, Retained};
use super::ordering;
use super::record::{self, Entry};
use super::recover;
use super::registry::Change;
use super::schema::{
    BY_TENANT, BY_WEBHOOK, DEAD, DEAD_OF, FATES, FATES_PER_ROW, IDEMPOTENCY, META, ORDERING, WEBHOOKS, meta,
};
use crate::model::event::Event;
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

type Decided = Result<Result<Done, Refusal>, StoreError>;

/// The posting lists of one kind.
type Lists = redb::TableDefinition<'static, (u32, u64), &'static [u8]>;

/// What is known of deliveries of old events: from the rows of `FATES`, read once each, and from what is newer.
#[derive(Default)]
struct Known {
    rows: HashMap<u64, Vec<FateRow>>,
    /// What no row has yet, of events up to the one that was asked for.
    tail: BTreeMap<(Seq, WebhookNo), Fate>,
}

impl Engine {
    pub(super) fn retain(&mut self, group: &mut Group<'_>, retain: &Retain) -> Decided {
        let (mut done, mut known) = (Retained::default(), Known::default());
        // A backup reads the logs from their low ends on, beside what it has read of the other tables.
        if self.shared.hold().is_held() {
            done.held = true;
            return Ok(Ok(Done::Retained(done)));
        }
        let txn = group.txn();
        self.remove_dead(group, &retain.dead, &mut done)?;
        let (events_to, journal_to) = self.reach(txn, retain, &mut done)?;
        let journal = log::take(txn, Log::Journal, journal_to, retain.max)?;
        let events = log::take(txn, Log::Events, events_to, retain.max)?;
        self.read_tail(group, retain, (&events, &journal), &mut known)?;
        self.let_journal_go(group, &journal, &mut known, &mut done)?;
        self.let_events_go(group, &events, &mut known, &mut done)?;
        self.let_kept_go(group, retain, &mut known, &mut done)?;
        self.let_webhooks_go(group, retain, &mut done)?;
        let mut records = txn.open_table(IDEMPOTENCY)?;
        for found in records.extract_from_if(..(retain.days_to, &[0; 16]), |_, _| true)?.take(retain.max) {
            found?;
            done.idempotency += 1;
        }
        drop(records);
        if let Some(room) = retain.room {
            put_meta(txn, meta::ROOM, &room.to_bytes())?;
        }
        Ok(Ok(Done::Retained(done)))
    }

    /// How far the logs may go at this moment. What start-up reads stays; when listings that are not written yet are what
    /// stands in the way, they begin to be.
    fn reach(
        &mut self,
        txn: &WriteTransaction,
        retain: &Retain,
        done: &mut Retained,
    ) -> Result<(Seq, JournalSeq), StoreError> {
        let events = log::end(Log::Events, &txn.open_table(Log::Events.table())?)?;
        let journal = log::end(Log::Journal, &txn.open_table(Log::Journal.table())?)?;
        let mark = recover::newest_mark((events, journal));
        let flushed = flush::flushed(txn.open_table(META)?.get(meta::FLUSHED)?.as_ref().map(redb::AccessGuard::value))?;
        let (wanted_events, wanted_journal) = (retain.events_to.min(mark.event), retain.journal_to.min(mark.journal));
        if wanted_events > flushed.0 || wanted_journal > flushed.1 {
            done.flushing = true;
            if self.flush.is_none() {
                self.begin_flush();
            }
        }
        Ok((wanted_events.min(flushed.0), wanted_journal.min(flushed.1)))
    }

    /// Notes what stands in no row yet about the events that are to be judged: earlier groups' and this one's.
    fn read_tail(
        &self,
        group: &Group<'_>,
        retain: &Retain,
        (events, journal): (&[log::Taken], &[log::Taken]),
        known: &mut Known,
    ) -> Result<(), StoreError> {
        let mut newest: Option<Seq> = retain.kept_events.iter().max().copied();
        for block in events {
            newest = newest.max(log::records(Log::Events, block)?.last().transpose()?.map(|(seq, _)| seq));
        }
        for block in journal {
            for record in log::records(Log::Journal, block)? {
                newest = newest.max(Some(record::read::<Entry>(record?.1)?.event()));
            }
        }
        for number in &retain.kept_journal {
            let event =
                log::find(&group.txn(), Log::Journal, *number, |bytes| Ok(record::read::<Entry>(bytes)?.event()))?;
            newest = newest.max(event);
        }
        let Some(newest) = newest else { return Ok(()) };
        let tails = self.shared.tails();
        let here = (self.next_journal..).zip(&group.entries);
        for (number, entry) in tails.entries().chain(here).filter(|(_, entry)| entry.event <= newest) {
            let newer = entry.fate(number);
            let place = known.tail.entry((entry.event, entry.webhook));
            place.and_modify(|fate| *fate = fate.then(newer)).or_insert(newer);
        }
        Ok(())
    }

    /// The fates of an event's deliveries.
    fn fates(&self, txn: &WriteTransaction, event: Seq, known: &mut Known) -> Result<Fates, StoreError> {
        let row = event / FATES_PER_ROW;
        if let std::collections::hash_map::Entry::Vacant(place) = known.rows.entry(row) {
            let table = txn.open_table(FATES)?;
            let found =
                lookup::get(&table, &FATES, &row)?.map(|value| listing::rows_of(row, value.value())).transpose()?;
            place.insert(found.unwrap_or_default());
        }
        let own = known.rows[&row].iter().filter(|(offset, ..)| u64::from(*offset) == event % FATES_PER_ROW);
        let mut fates: Fates = own.map(|(_, webhook, fate)| (*webhook, *fate)).collect();
        for ((_, webhook), newer) in known.tail.range((event, 0)..=(event, WebhookNo::MAX)) {
            listing::add_fate(&mut fates, *webhook, *newer);
        }
        Ok(fates)
    }

    /// Whether what is on record of a delivery is still needed.
    fn is_needed(
        &self,
        txn: &WriteTransaction,
        event: Seq,
        webhook: WebhookNo,
        fate: Option<&Fate>,
    ) -> Result<bool, StoreError> {
        let live = self.registry.webhook(webhook).is_some();
        match fate.map(|fate| fate.tells) {
            Some(Tells::Pending) if live => Ok(true),
            Some(Tells::Nothing | Tells::Delivered | Tells::Cancelled) | None if live => Ok(false),
            // Of a deleted webhook's an attempt may be newer that was under way when it died; its letter is there all the same.
            _ => Ok(lookup::get(&txn.open_table(DEAD_OF)?, &Order, &(webhook, event))?.is_some()),
        }
    }

    /// Whether anything that is to be delivered of an event, or may be redriven, is left.
    fn is_event_needed(&self, txn: &WriteTransaction, event: &Event, fates: &Fates) -> Result<bool, StoreError> {
        for (webhook, fate) in fates {
            if self.is_needed(txn, event.seq, *webhook, Some(fate))? {
                return Ok(true);
            }
        }
        // One that is still to be told of is told of by its name.
        let newest_death = |no: &WebhookNo| self.standings.get(*no).and_then(|standing| standing.newest_death);
        if self.untold.iter().filter_map(newest_death).any(|(untold, _)| untold == event.seq) {
            return Ok(true);
        }
        // One that its line holds has no record perhaps.
        let Some(order) = event.order() else { return Ok(false) };
        let lines = txn.open_table(ORDERING)?;
        for webhook in event.matched.iter().filter(|webhook| self.registry.webhook(**webhook).is_some()) {
            if ordering::get(&lines, *webhook, order, event.seq)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn let_journal_go(
        &mut self,
        group: &mut Group<'_>,
        blocks: &[log::Taken],
        known: &mut Known,
        done: &mut Retained,
    ) -> Result<(), StoreError> {
        let txn = group.txn();
        let mut webhooks = BTreeSet::new();
        for block in blocks {
            let aged_ms = log::block_at(Log::Journal, block.0, &block.1)?.mark().aged_ms;
            for record in log::records(Log::Journal, block)? {
                let (number, bytes) = record?;
                let entry: Entry = record::read(bytes)?;
                let (event, webhook) = (entry.event(), entry.webhook());
                webhooks.insert(webhook);
                let fate = self.fates(txn, event, known)?.remove(&webhook);
                if self.is_needed(txn, event, webhook, fate.as_ref())? {
                    let kept = log::to_keep(Log::Journal, number, aged_ms, bytes);
                    txn.open_table(Log::Journal.kept())?.insert(number, kept.as_slice())?;
                } else {
                    done.journal += 1;
                }
            }
            done.bytes += block.1.len() as u64;
        }
        let floor = log::floor(Log::Journal, &txn.open_table(Log::Journal.table())?)?.0;
        done.others += prune_lists(txn, BY_WEBHOOK, &webhooks, floor)?;
        Ok(())
    }

    fn let_events_go(
        &mut self,
        group: &mut Group<'_>,
        blocks: &[log::Taken],
        known: &mut Known,
        done: &mut Retained,
    ) -> Result<(), StoreError> {
        let txn = group.txn();
        let mut tenants: BTreeSet<TenantNo> = BTreeSet::new();
        let mut gone: Vec<Seq> = Vec::new();
        for block in blocks {
            let aged_ms = log::block_at(Log::Events, block.0, &block.1)?.mark().aged_ms;
            for record in log::records(Log::Events, block)? {
                let (seq, bytes) = record?;
                let event = record::read_event(seq, bytes)?;
                tenants.insert(event.tenant);
                let fates = self.fates(txn, seq, known)?;
                if self.is_event_needed(txn, &event, &fates)? {
                    txn.open_table(Log::Events.kept())?
                        .insert(seq, log::to_keep(Log::Events, seq, aged_ms, bytes).as_slice())?;
                } else {
                    gone.push(seq);
                }
            }
            done.bytes += block.1.len() as u64;
        }
        done.events += gone.len() as u64;
        self.forget(group, &gone, known)?;
        let floor = log::floor(Log::Events, &txn.open_table(Log::Events.table())?)?.0;
        done.others += prune_lists(txn, BY_TENANT, &tenants, floor)?;
        Ok(())
    }

    /// Removes what stands beside events that are gone. What start-up would look up in them is written: whether a success
    /// that has no row yet was a delivery's or a test's.
    fn forget(&self, group: &mut Group<'_>, gone: &[Seq], known: &mut Known) -> Result<(), StoreError> {
        for seq in gone {
            let told = known.tail.range((*seq, 0)..=(*seq, WebhookNo::MAX));
            group.dirty.extend(told.map(|((_, webhook), _)| *webhook));
        }
        remove_fates(group.txn(), gone, known)
    }

    /// Removes kept records that nothing needs any more.
    fn let_kept_go(
        &mut self,
        group: &mut Group<'_>,
        retain: &Retain,
        known: &mut Known,
        done: &mut Retained,
    ) -> Result<(), StoreError> {
        let txn = group.txn();
        for number in &retain.kept_journal {
            let found = txn.open_table(Log::Journal.kept())?.get(number)?.map(|value| {
                let entry: Entry = record::read(log::kept(Log::Journal, *number, value.value())?.1)?;
                Ok::<_, StoreError>((entry.event(), entry.webhook()))
            });
            let Some((event, webhook)) = found.transpose()? else { continue };
            let fate = self.fates(txn, event, known)?.remove(&webhook);
            if !self.is_needed(txn, event, webhook, fate.as_ref())? {
                txn.open_table(Log::Journal.kept())?.remove(number)?;
                done.others += 1;
            }
        }
        let mut gone = Vec::new();
        for seq in &retain.kept_events {
            let found = txn
                .open_table(Log::Events.kept())?
                .get(seq)?
                .map(|value| record::read_event(*seq, log::kept(Log::Events, *seq, value.value())?.1));
            let Some(event) = found.transpose()? else { continue };
            let fates = self.fates(txn, *seq, known)?;
            if !self.is_event_needed(txn, &event, &fates)? {
                txn.open_table(Log::Events.kept())?.remove(seq)?;
                gone.push(*seq);
            }
        }
        done.events += gone.len() as u64;
        self.forget(group, &gone, known)
    }

    fn remove_dead(
        &mut self,
        group: &mut Group<'_>,
        dead: &[(TenantNo, DeadLetter)],
        done: &mut Retained,
    ) -> Result<(), StoreError> {
        let mut dead_of = group.txn().open_table(DEAD_OF)?;
        for (tenant, DeadLetter { webhook, event, death }) in dead {
            // Redriven since, and dead again perhaps: that is another death.
            if dead_of.get((*webhook, *event))?.is_none_or(|found| found.value() != *death) {
                continue;
            }
            dead_of.remove((*webhook, *event))?;
            group.txn().open_table(DEAD)?.remove((*tenant, *death))?;
            self.standings.change(*webhook, |standing| standing.dead = standing.dead.saturating_sub(1));
            group.dirty.insert(*webhook);
            done.dead_letters += 1;
        }
        Ok(())
    }

    /// Removes versions that were planned to go, and deleted webhooks of which nothing is left: one whose attempts are on record
    /// is known, so that they are erased with its tenant.
    fn let_webhooks_go(
        &mut self,
        group: &mut Group<'_>,
        retain: &Retain,
        done: &mut Retained,
    ) -> Result<(), StoreError> {
        let txn = group.txn();
        let mut table = txn.open_table(WEBHOOKS)?;
        for (no, since) in &retain.versions {
            // The newest one always stays.
            let newer = table.range((*no, since + 1)..=(*no, Seq::MAX))?.next().transpose()?.is_some();
            if newer && table.remove((*no, *since))?.is_some() {
                done.others += 1;
            }
        }
        drop(table);
        for no in retain.webhooks.iter().copied() {
            let standing = self.standings.get(no).unwrap_or_default();
            let untold = self.shared.tails().entries().any(|(_, entry)| entry.webhook == no)
                || group.entries.iter().any(|entry| entry.webhook == no);
            let is_spoken_of = untold || listing::is_listed(&txn.open_table(BY_WEBHOOK)?, no)?;
            if self.registry.webhook(no).is_some() || standing.pending() > 0 || standing.dead > 0 || is_spoken_of {
                continue;
            }
            self.standings.remove(no);
            group.dirty.remove(&no);
            self.registry.apply(&Change::WebhookGone(no));
            group.changes.push(Change::WebhookGone(no));
            done.others += 1;
        }
        Ok(())
    }
}

/// Removes what `FATES` says of events that are gone.
fn remove_fates(txn: &WriteTransaction, gone: &[Seq], known: &mut Known) -> Result<(), StoreError> {
    let mut offsets: BTreeMap<u64, BTreeSet<u8>> = BTreeMap::new();
    for seq in gone {
        let offset = u8::try_from(seq % FATES_PER_ROW).unwrap_or(u8::MAX);
        offsets.entry(seq / FATES_PER_ROW).or_default().insert(offset);
    }
    let mut table = txn.open_table(FATES)?;
    for (row, gone) in offsets {
        let Some(all) = known.rows.get_mut(&row) else { continue };
        let before = all.len();
        all.retain(|(offset, ..)| !gone.contains(offset));
        if all.len() < before {
            listing::write_fates(&mut table, row, all.clone())?;
        }
    }
    Ok(())
}

/// Removes these owners' lists that lead to nothing but what is below `floor`.
fn prune_lists(txn: &WriteTransaction, lists: Lists, owners: &BTreeSet<u32>, floor: u64) -> Result<u64, StoreError> {
    let mut removed = 0;
    let mut table = txn.open_table(lists)?;
    for owner in owners {
        loop {
            let first = {
                let mut rows = table.range((*owner, 0)..(*owner, floor))?;
                let Some(row) = rows.next() else { break };
                let (key, value) = row?;
                let gone = match rows.next().transpose()? {
                    Some(_) => true,
                    None => listing::unpack(lists, key.value(), value.value())?.last().is_none_or(|last| *last < floor),
                };
                if !gone {
                    break;
                }
                key.value()
            };
            table.remove(first)?;
            removed += 1;
        }
    }
    Ok(removed)
}
