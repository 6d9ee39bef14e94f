//! Listings: which events a tenant has, which attempts a webhook has, what became of an event's deliveries. Owns the
//! posting lists on disk and their unwritten tails in memory.
//!
//! Everything here is derived from the event log and the journal and can be made again from them, but for the fates of
//! deliveries whose attempts retention has removed: they say how each ended for as long as its event is there. A list row per event
//! would cost four times the event (it touches a scattered leaf page each), so new entries stand in memory (`Tails`),
//! readable at once, and go to disk in small steps beside other commits once enough have gathered (`flush`). A crash loses
//! the tails and start-up reads them back from the logs; rows of a flush that was cut short are written again under the
//! same keys with at least the same content.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use redb::{ReadableTable, Table};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::record::Entry;
use super::row::{self, Rows};
use super::schema::{FATES, FATES_PER_ROW, PostingKey};
use crate::model::attempt::{DeadReason, Verdict};
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

/// What a journal record says of how its delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tells {
    /// Nothing: a test's failure, or an attempt from which nothing followed.
    Nothing,
    Pending,
    Delivered,
    Dead(DeadReason),
    Cancelled,
}

/// What became of a delivery, as far as its newest records tell: this outlives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// The newest journal record.
    pub number: JournalSeq,
    pub tells: Tells,
    /// Attempts made in all.
    pub attempts: u16,
}

impl Fate {
    /// With what a newer record says.
    #[must_use]
    pub fn then(self, newer: Self) -> Self {
        let tells = if newer.tells == Tells::Nothing { self.tells } else { newer.tells };
        Self { number: newer.number, tells, attempts: self.attempts.max(newer.attempts) }
    }
}

/// The fate of each of an event's deliveries that the journal says something of.
pub type Fates = BTreeMap<WebhookNo, Fate>;

/// Takes a newer fate in.
pub fn add_fate(fates: &mut Fates, webhook: WebhookNo, newer: Fate) {
    fates.entry(webhook).and_modify(|fate| *fate = fate.then(newer)).or_insert(newer);
}

/// What two sources say of one delivery, `newer` what has not left the tail or only just has.
#[must_use]
pub fn joined(older: Option<Fate>, newer: Option<Fate>) -> Option<Fate> {
    match (older, newer) {
        (Some(older), Some(newer)) if older.number < newer.number => Some(older.then(newer)),
        (Some(older), _) => Some(older),
        (None, newer) => newer,
    }
}

/// What a journal record adds to the listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailEntry {
    pub event: Seq,
    pub webhook: WebhookNo,
    /// Attempts made with this one; 0: it says nothing of them.
    pub attempts: u16,
    pub attempt: bool,
    pub tells: Tells,
}

impl TailEntry {
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        let (tells, attempts) = match entry {
            Entry::Attempt(attempt) => (
                match attempt.verdict {
                    Verdict::Delivered => Tells::Delivered,
                    Verdict::RetryAt(_) => Tells::Pending,
                    Verdict::Dead(reason) => Tells::Dead(reason),
                    Verdict::Single => Tells::Nothing,
                },
                attempt.number.get(),
            ),
            Entry::Queued { .. } => (Tells::Pending, 0),
            Entry::Revived { attempts, .. } => (Tells::Pending, *attempts),
            Entry::Died { reason, .. } => (Tells::Dead(*reason), 0),
            Entry::Dropped { .. } => (Tells::Cancelled, 0),
        };
        Self {
            event: entry.event(),
            webhook: entry.webhook(),
            attempts: u16::try_from(attempts).unwrap_or(u16::MAX),
            attempt: matches!(entry, Entry::Attempt(_)),
            tells,
        }
    }

    /// What it says of its delivery, as record `number`.
    #[must_use]
    pub fn fate(&self, number: JournalSeq) -> Fate {
        Fate { number, tells: self.tells, attempts: self.attempts }
    }
}

/// The newest entries of all lists: those at or above the bases, not yet (all) on disk.
#[derive(Debug, Default)]
pub struct Tails {
    events_base: Seq,
    events: VecDeque<TenantNo>,
    journal_base: JournalSeq,
    journal: VecDeque<TailEntry>,
}

impl Tails {
    #[must_use]
    pub fn new(events_base: Seq, journal_base: JournalSeq) -> Self {
        Self { events_base, journal_base, ..Self::default() }
    }

    pub fn push_event(&mut self, tenant: TenantNo) {
        self.events.push_back(tenant);
    }

    pub fn push_entry(&mut self, entry: TailEntry) {
        self.journal.push_back(entry);
    }

    #[must_use]
    pub fn bases(&self) -> (Seq, JournalSeq) {
        (self.events_base, self.journal_base)
    }

    /// The numbers that the next entries will get.
    #[must_use]
    pub fn ends(&self) -> (Seq, JournalSeq) {
        (self.events_base + self.events.len() as u64, self.journal_base + self.journal.len() as u64)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len() + self.journal.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The unwritten events of `tenant` and of everybody, rising.
    #[must_use]
    pub fn events_of(&self, tenants: [TenantNo; 2]) -> Vec<Seq> {
        self.events().filter(|(_, tenant)| tenants.contains(tenant)).map(|(seq, _)| seq).collect()
    }

    /// Every unwritten event with its tenant, rising.
    pub(super) fn events(&self) -> impl Iterator<Item = (Seq, TenantNo)> {
        (self.events_base..).zip(self.events.iter().copied())
    }

    /// The unwritten attempts of `webhook`, rising.
    #[must_use]
    pub fn attempts_of(&self, webhook: WebhookNo) -> Vec<JournalSeq> {
        let numbered = (self.journal_base..).zip(&self.journal);
        numbered.filter(|(_, entry)| entry.attempt && entry.webhook == webhook).map(|(number, _)| number).collect()
    }

    /// The events that the unwritten journal records of `webhook` are about.
    #[must_use]
    pub fn events_told_of(&self, webhook: WebhookNo) -> HashSet<Seq> {
        self.journal.iter().filter(|entry| entry.webhook == webhook).map(|entry| entry.event).collect()
    }

    /// What the unwritten journal records say of each event's delivery to `webhook`.
    #[must_use]
    pub fn fates_to(&self, webhook: WebhookNo) -> HashMap<Seq, Fate> {
        let mut fates: HashMap<Seq, Fate> = HashMap::new();
        for (number, entry) in self.entries().filter(|(_, entry)| entry.webhook == webhook) {
            let newer = entry.fate(number);
            fates.entry(entry.event).and_modify(|fate| *fate = fate.then(newer)).or_insert(newer);
        }
        fates
    }

    /// What the unwritten journal records say of an event's deliveries.
    #[must_use]
    pub fn fates_of(&self, event: Seq) -> Fates {
        let mut fates = Fates::new();
        for (number, entry) in self.entries().filter(|(_, entry)| entry.event == event) {
            add_fate(&mut fates, entry.webhook, entry.fate(number));
        }
        fates
    }

    /// The unwritten journal records with their numbers.
    pub fn entries(&self) -> impl Iterator<Item = (JournalSeq, &TailEntry)> {
        (self.journal_base..).zip(&self.journal)
    }

    /// As `fates_of`, for many events with one look at the tail.
    #[must_use]
    pub fn fates_of_each(&self, events: &HashSet<Seq>) -> HashMap<Seq, Fates> {
        let mut fates: HashMap<Seq, Fates> = HashMap::new();
        for (number, entry) in self.entries().filter(|(_, entry)| events.contains(&entry.event)) {
            add_fate(fates.entry(entry.event).or_default(), entry.webhook, entry.fate(number));
        }
        fates
    }

    pub(super) fn drop_below(&mut self, event: Seq, journal: JournalSeq) {
        let events = usize::try_from(event.saturating_sub(self.events_base)).unwrap_or(usize::MAX);
        self.events.drain(..events.min(self.events.len()));
        self.events_base = event;
        let entries = usize::try_from(journal.saturating_sub(self.journal_base)).unwrap_or(usize::MAX);
        self.journal.drain(..entries.min(self.journal.len()));
        self.journal_base = journal;
    }
}

/// (event's offset in its row, webhook, its fate)
pub type FateRow = (u8, WebhookNo, Fate);

/// A rising list as its first number and the distances.
pub(super) fn pack(table: Rows<PostingKey>, key: PostingKey, list: &[u64]) -> Vec<u8> {
    let mut before = 0;
    let distances: Vec<u64> = list
        .iter()
        .map(|number| {
            let distance = number - before;
            before = *number;
            distance
        })
        .collect();
    row::write(table, &key, &distances)
}

/// Reads a posting list.
///
/// # Errors
/// When it does not read.
pub fn unpack(table: Rows<PostingKey>, key: PostingKey, bytes: &[u8]) -> Result<Vec<u64>, StoreError> {
    let mut list: Vec<u64> = row::read(table, &key, bytes)?;
    let mut sum = 0_u64;
    for number in &mut list {
        sum = sum.checked_add(*number).ok_or(StoreError::Damaged("a posting list does not read"))?;
        *number = sum;
    }
    Ok(list)
}

/// Reads a row of `FATES` for one event.
///
/// # Errors
/// When it does not read.
pub fn fates_in(bytes: &[u8], event: Seq) -> Result<Fates, StoreError> {
    let wanted = |offset: u8| u64::from(offset) == event % FATES_PER_ROW;
    let own = rows_of(event / FATES_PER_ROW, bytes)?.into_iter().filter(|(offset, ..)| wanted(*offset));
    Ok(own.map(|(_, webhook, fate)| (webhook, fate)).collect())
}

/// Whether a list of this owner's is left.
pub(super) fn is_listed(lists: &impl ReadableTable<(u32, u64), &'static [u8]>, owner: u32) -> Result<bool, StoreError> {
    Ok(lists.range((owner, 0)..=(owner, u64::MAX))?.next().transpose()?.is_some())
}

/// Reads a row of `FATES`.
pub(super) fn rows_of(number: u64, bytes: &[u8]) -> Result<Vec<FateRow>, StoreError> {
    row::read(FATES, &number, bytes)
}

/// Writes a row of `FATES`, which is not there when it says nothing.
pub(super) fn write_fates(
    table: &mut Table<'_, u64, &'static [u8]>,
    number: u64,
    all: Vec<FateRow>,
) -> Result<(), StoreError> {
    if all.is_empty() {
        table.remove(number)?;
    } else {
        table.insert(number, row::write(FATES, &number, &all).as_slice())?;
    }
    Ok(())
}

/// The events of row number `row` of `FATES` that it says something of for one webhook.
///
/// # Errors
/// When it does not read.
pub fn events_in(bytes: &[u8], row: u64, webhook: WebhookNo) -> Result<Vec<Seq>, StoreError> {
    Ok(fates_to_in(bytes, row, webhook)?.into_keys().collect())
}

/// The same, with what became of each one's delivery.
///
/// # Errors
/// When it does not read.
pub fn fates_to_in(bytes: &[u8], row: u64, webhook: WebhookNo) -> Result<BTreeMap<Seq, Fate>, StoreError> {
    let own = rows_of(row, bytes)?.into_iter().filter(|(_, of, _)| *of == webhook);
    Ok(own.map(|(offset, _, fate)| (row * FATES_PER_ROW + u64::from(offset), fate)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::flush::Flush;
    use crate::store::schema::BY_TENANT;

    #[test]
    fn lists_pack_and_unpack() {
        for list in [vec![1], vec![5, 6, 900, 1 << 40], vec![]] {
            let key = (3, 9);
            assert_eq!(unpack(BY_TENANT, key, &pack(BY_TENANT, key, &list)).unwrap(), list);
        }
    }

    #[test]
    fn tails_answer_by_owner_and_shrink() {
        let mut tails = Tails::new(10, 100);
        for tenant in [1, 2, 0, 1] {
            tails.push_event(tenant);
        }
        let entry = |webhook, attempts, tells| TailEntry { event: 10, webhook, attempts, attempt: attempts > 0, tells };
        tails.push_entry(entry(5, 1, Tells::Delivered));
        tails.push_entry(entry(6, 0, Tells::Pending));
        tails.push_entry(entry(5, 2, Tells::Nothing));
        assert_eq!(tails.events_of([1, 0]), [10, 12, 13]);
        assert_eq!(tails.attempts_of(5), [100, 102]);
        let fate = |number, tells, attempts| Fate { number, tells, attempts };
        let wanted = [(5, fate(102, Tells::Delivered, 2)), (6, fate(101, Tells::Pending, 0))];
        assert_eq!(tails.fates_of(10), Fates::from(wanted));
        let flush = Flush::plan(&tails, []);
        tails.push_event(2);
        flush.settle(&mut tails);
        assert_eq!((tails.bases(), tails.len()), ((14, 103), 1));
        assert_eq!(tails.events_of([2, 0]), [14]);
    }
}
