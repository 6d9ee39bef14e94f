//! Listings: which events a tenant has, which attempts a webhook has, what became of an event's deliveries. Owns the
//! posting lists on disk and their unwritten tails in memory.
//!
//! Everything here is derived from the event log and the journal and can be made again from them. A list row per event
//! would cost four times the event (it touches a scattered leaf page each), so new entries stand in memory (`Tails`),
//! readable at once, and go to disk in small steps beside other commits once enough have gathered (`Flush`). A crash loses
//! the tails and start-up reads them back from the logs; rows of a flush that was cut short are written again under the
//! same keys with at least the same content.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use redb::{ReadableTable, WriteTransaction};

use super::StoreError;
use super::engine::put_meta;
use super::row::{self, Rows};
use super::schema::{BY_TENANT, BY_WEBHOOK, FATES, FATES_PER_ROW, META, PostingKey, meta};
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

/// Entries that gather before a flush starts: at 16 bytes each this bounds the tails' memory to about 1 MiB, and start-up
/// reads at most this much of the logs again.
pub const FLUSH_AT: usize = 64 * 1024;
/// List rows written beside one commit. More would show in the time of that commit.
const ROWS_PER_STEP: usize = 48;

/// What a journal record adds to the listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailEntry {
    pub webhook: WebhookNo,
    pub attempt: bool,
    pub event: Seq,
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
        let numbered = (self.events_base..).zip(&self.events);
        numbered.filter(|(_, tenant)| tenants.contains(tenant)).map(|(seq, _)| seq).collect()
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

    /// The newest unwritten journal record about each event's delivery to `webhook`.
    #[must_use]
    pub fn newest_of(&self, webhook: WebhookNo) -> HashMap<Seq, JournalSeq> {
        let numbered = (self.journal_base..).zip(&self.journal);
        numbered.filter(|(_, entry)| entry.webhook == webhook).map(|(number, entry)| (entry.event, number)).collect()
    }

    /// The newest unwritten journal records of an event's deliveries.
    #[must_use]
    pub fn fates_of(&self, event: Seq) -> BTreeMap<WebhookNo, JournalSeq> {
        let numbered = (self.journal_base..).zip(&self.journal);
        numbered.filter(|(_, entry)| entry.event == event).map(|(number, entry)| (entry.webhook, number)).collect()
    }

    /// As `fates_of`, for many events with one look at the tail.
    #[must_use]
    pub fn fates_of_each(&self, events: &HashSet<Seq>) -> HashMap<Seq, BTreeMap<WebhookNo, JournalSeq>> {
        let mut fates: HashMap<Seq, BTreeMap<WebhookNo, JournalSeq>> = HashMap::new();
        let numbered = (self.journal_base..).zip(&self.journal);
        for (number, entry) in numbered.filter(|(_, entry)| events.contains(&entry.event)) {
            fates.entry(entry.event).or_default().insert(entry.webhook, number);
        }
        fates
    }

    fn drop_below(&mut self, event: Seq, journal: JournalSeq) {
        let events = usize::try_from(event.saturating_sub(self.events_base)).unwrap_or(usize::MAX);
        self.events.drain(..events.min(self.events.len()));
        self.events_base = event;
        let entries = usize::try_from(journal.saturating_sub(self.journal_base)).unwrap_or(usize::MAX);
        self.journal.drain(..entries.min(self.journal.len()));
        self.journal_base = journal;
    }
}

enum Row {
    Tenant(TenantNo, Vec<Seq>),
    Webhook(WebhookNo, Vec<JournalSeq>),
    Fates(u64, Vec<Fate>),
}

/// (event's offset in its row, webhook, newest journal record)
type Fate = (u8, WebhookNo, JournalSeq);

/// A flush under way: the rows still to be written, and the bases to set when all are.
pub struct Flush {
    rows: VecDeque<Row>,
    upto: (Seq, JournalSeq),
}

impl Flush {
    /// Plans the flush of everything that is in the tails now.
    #[must_use]
    pub fn plan(tails: &Tails) -> Self {
        let mut tenants: BTreeMap<TenantNo, Vec<Seq>> = BTreeMap::new();
        for (seq, tenant) in (tails.events_base..).zip(&tails.events) {
            tenants.entry(*tenant).or_default().push(seq);
        }
        let mut webhooks: BTreeMap<WebhookNo, Vec<JournalSeq>> = BTreeMap::new();
        let mut fates: BTreeMap<u64, BTreeMap<(u8, WebhookNo), JournalSeq>> = BTreeMap::new();
        for (number, entry) in (tails.journal_base..).zip(&tails.journal) {
            if entry.attempt {
                webhooks.entry(entry.webhook).or_default().push(number);
            }
            let offset = u8::try_from(entry.event % FATES_PER_ROW).unwrap_or(u8::MAX);
            fates.entry(entry.event / FATES_PER_ROW).or_default().insert((offset, entry.webhook), number);
        }
        let fates = fates.into_iter().map(|(row, of)| {
            Row::Fates(row, of.into_iter().map(|((offset, webhook), number)| (offset, webhook, number)).collect())
        });
        let rows = tenants
            .into_iter()
            .map(|(tenant, list)| Row::Tenant(tenant, list))
            .chain(webhooks.into_iter().map(|(webhook, list)| Row::Webhook(webhook, list)))
            .chain(fates)
            .collect();
        Self { rows, upto: tails.ends() }
    }

    /// Writes the next few rows; true when that was all and the new bases are set (to be followed by `settle` once
    /// committed).
    ///
    /// # Errors
    /// When the store fails.
    pub fn step(&mut self, txn: &WriteTransaction) -> Result<bool, StoreError> {
        let mut by_tenant = txn.open_table(BY_TENANT)?;
        let mut by_webhook = txn.open_table(BY_WEBHOOK)?;
        let mut fates = txn.open_table(FATES)?;
        for row in self.rows.drain(..ROWS_PER_STEP.min(self.rows.len())) {
            match row {
                Row::Tenant(tenant, list) => {
                    let key = (tenant, list[0]);
                    by_tenant.insert(key, pack(BY_TENANT, key, &list).as_slice())?;
                }
                Row::Webhook(webhook, list) => {
                    let key = (webhook, list[0]);
                    by_webhook.insert(key, pack(BY_WEBHOOK, key, &list).as_slice())?;
                }
                Row::Fates(number, new) => {
                    let before = fates.get(number)?.map(|old| row::read(FATES, &number, old.value())).transpose();
                    let mut all: Vec<Fate> = match before {
                        // It stays damaged, which whoever reads it is told: half a row would pass for a whole one.
                        Err(error) if error.is_damage() => continue,
                        before => before?.unwrap_or_default(),
                    };
                    all.retain(|(offset, webhook, _)| !new.iter().any(|(o, w, _)| o == offset && w == webhook));
                    all.extend(new);
                    all.sort_unstable();
                    fates.insert(number, row::write(FATES, &number, &all).as_slice())?;
                }
            }
        }
        if !self.rows.is_empty() {
            return Ok(false);
        }
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.upto.0.to_le_bytes());
        value[8..].copy_from_slice(&self.upto.1.to_le_bytes());
        put_meta(txn, meta::FLUSHED, &value)?;
        Ok(true)
    }

    /// Drops from the tails what is now on disk.
    pub fn settle(&self, tails: &mut Tails) {
        tails.drop_below(self.upto.0, self.upto.1);
    }
}

/// Reads `meta::FLUSHED`; nothing was ever flushed where it is missing.
///
/// # Errors
/// When it does not read.
pub fn flushed(value: Option<&[u8]>) -> Result<(Seq, JournalSeq), StoreError> {
    let Some(value) = value else { return Ok((1, 1)) };
    let words: Option<[u8; 16]> = row::open(META, &meta::FLUSHED, value)?.try_into().ok();
    let words = words.ok_or(StoreError::Damaged("the flushed point does not read"))?;
    let (event, journal) = (u128::from_le_bytes(words) as u64, (u128::from_le_bytes(words) >> 64) as u64);
    Ok((event, journal))
}

/// A rising list as its first number and the distances.
fn pack(table: Rows<PostingKey>, key: PostingKey, list: &[u64]) -> Vec<u8> {
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
pub fn fates_in(bytes: &[u8], event: Seq) -> Result<BTreeMap<WebhookNo, JournalSeq>, StoreError> {
    let all: Vec<Fate> = row::read(FATES, &(event / FATES_PER_ROW), bytes)?;
    let wanted = |offset: u8| u64::from(offset) == event % FATES_PER_ROW;
    Ok(all.into_iter().filter(|(offset, ..)| wanted(*offset)).map(|(_, webhook, number)| (webhook, number)).collect())
}

/// The events of row number `row` of `FATES` that it says something of for one webhook.
///
/// # Errors
/// When it does not read.
pub fn events_in(bytes: &[u8], row: u64, webhook: WebhookNo) -> Result<Vec<Seq>, StoreError> {
    Ok(newest_in(bytes, row, webhook)?.into_keys().collect())
}

/// The same, with the newest journal record of each.
///
/// # Errors
/// When it does not read.
pub fn newest_in(bytes: &[u8], row: u64, webhook: WebhookNo) -> Result<BTreeMap<Seq, JournalSeq>, StoreError> {
    let all: Vec<Fate> = row::read(FATES, &row, bytes)?;
    let own = all.into_iter().filter(|(_, of, _)| *of == webhook);
    Ok(own.map(|(offset, _, number)| (row * FATES_PER_ROW + u64::from(offset), number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        tails.push_entry(TailEntry { webhook: 5, attempt: true, event: 10 });
        tails.push_entry(TailEntry { webhook: 6, attempt: false, event: 10 });
        tails.push_entry(TailEntry { webhook: 5, attempt: true, event: 10 });
        assert_eq!(tails.events_of([1, 0]), [10, 12, 13]);
        assert_eq!(tails.attempts_of(5), [100, 102]);
        assert_eq!(tails.fates_of(10), BTreeMap::from([(5, 102), (6, 101)]));
        let flush = Flush::plan(&tails);
        tails.push_event(2);
        flush.settle(&mut tails);
        assert_eq!((tails.bases(), tails.len()), ((14, 103), 1));
        assert_eq!(tails.events_of([2, 0]), [14]);
    }
}
