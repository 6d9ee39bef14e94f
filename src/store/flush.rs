//! The way of the listings' tails to disk. Owns when it begins, how large its steps are, and the point up to which all is there.
//!
//! A step is rows of a flush beside some commit. A crash between two steps loses nothing: the point is set with the last one, and what
//! lies behind it is read back from the logs.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use redb::{ReadableTable, Table, WriteTransaction};

use super::StoreError;
use super::engine::{Engine, put_meta};
use super::listing::{Fate, Tails, pack, rows_of, write_fates};
use super::log::{self, Log};
use super::row::{self, Rows};
use super::schema::{BY_TENANT, BY_WEBHOOK, FATES, FATES_PER_ROW, META, PostingKey, meta};
use crate::limits::FLUSH_BYTES;
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

/// Entries that gather before a flush starts: at 4 bytes an event and 24 an attempt this bounds the tails' memory to some MiB, and
/// what start-up reads of the logs again.
pub const FLUSH_AT: usize = 64 * 1024;
/// When a flush begins: at so many entries, or once the logs have grown by `FLUSH_BYTES`.
pub struct FlushAt {
    pub entries: usize,
    bytes: u64,
}

impl FlushAt {
    /// `bytes`: of both logs, as they stand.
    #[must_use]
    pub fn new(entries: usize, bytes: u64) -> Self {
        Self { entries, bytes: bytes + FLUSH_BYTES }
    }

    /// True: the flush begins now, and the next by bytes is as far away again.
    pub fn is_reached(&mut self, entries: usize, bytes: u64) -> bool {
        let reached = entries >= self.entries || (bytes >= self.bytes && entries > 0);
        if reached {
            self.bytes = bytes + FLUSH_BYTES;
        }
        reached
    }
}

/// List rows written beside one commit: more would show in the time of that commit. They are more when entries come faster than
/// they are written, as they do where each of the newest events is another webhook's: so many for each time that what begins a
/// flush has gathered once more.
const ROWS_PER_STEP: usize = 48;
const ROWS_PER_EXCESS: usize = 256;
const ROWS_PER_STEP_MAX: usize = 512;

/// What is still to be written of one kind of list, by owner and rising.
type Unwritten<T> = Peekable<std::vec::IntoIter<T>>;

/// A flush under way: what is still to be written, and the bases to set when all is.
pub struct Flush {
    tenants: Unwritten<(TenantNo, Seq)>,
    webhooks: Unwritten<(WebhookNo, JournalSeq)>,
    fates: Unwritten<(Seq, WebhookNo, Fate)>,
    /// Webhooks whose newest success is to be written with it.
    standings: Unwritten<WebhookNo>,
    upto: (Seq, JournalSeq),
}

impl Flush {
    /// Plans the flush of everything that is in the tails now, and of how these webhooks stand.
    #[must_use]
    pub fn plan(tails: &Tails, succeeded: impl IntoIterator<Item = WebhookNo>) -> Self {
        let attempts = tails.entries().filter(|(_, entry)| entry.attempt);
        let fates = tails.entries().map(|(number, entry)| (entry.event, entry.webhook, entry.fate(number)));
        Self {
            tenants: sorted(tails.events().map(|(seq, tenant)| (tenant, seq)), |of| *of),
            webhooks: sorted(attempts.map(|(number, entry)| (entry.webhook, number)), |of| *of),
            fates: sorted(fates, |(event, webhook, fate)| (*event, *webhook, fate.number)),
            standings: sorted(succeeded.into_iter(), |webhook| *webhook),
            upto: tails.ends(),
        }
    }

    /// Writes up to so many rows; true when that was all and the new bases are set (to be followed by `settle` once committed).
    /// Gives the webhooks, too, of which how they stand is to be written with them.
    ///
    /// # Errors
    /// When the store fails.
    pub fn step(&mut self, txn: &WriteTransaction, rows: usize) -> Result<(bool, BTreeSet<WebhookNo>), StoreError> {
        let mut left = rows.max(1);
        let mut by_tenant = txn.open_table(BY_TENANT)?;
        left -= write_lists(&mut by_tenant, BY_TENANT, &mut self.tenants, left)?;
        let mut by_webhook = txn.open_table(BY_WEBHOOK)?;
        left -= write_lists(&mut by_webhook, BY_WEBHOOK, &mut self.webhooks, left)?;
        left -= self.write_fates(txn, left)?;
        let standings: BTreeSet<WebhookNo> = self.standings.by_ref().take(left).collect();
        let last = standings.len() < left;
        if last {
            let mut value = [0; 16];
            value[..8].copy_from_slice(&self.upto.0.to_le_bytes());
            value[8..].copy_from_slice(&self.upto.1.to_le_bytes());
            put_meta(txn, meta::FLUSHED, &value)?;
        }
        Ok((last, standings))
    }

    /// Rows of one step when so many entries have gathered, of those with which a flush begins.
    #[must_use]
    pub fn rows(gathered: usize, flush_at: usize) -> usize {
        let excess = ROWS_PER_EXCESS.saturating_mul(gathered.saturating_sub(flush_at)) / flush_at.max(1);
        (ROWS_PER_STEP + excess).min(ROWS_PER_STEP_MAX)
    }

    /// Brings up to so many rows of `FATES` to disk; says how many.
    fn write_fates(&mut self, txn: &WriteTransaction, max: usize) -> Result<usize, StoreError> {
        let mut table = txn.open_table(FATES)?;
        let floor = log::floor(Log::Events, &txn.open_table(Log::Events.table())?)?.0;
        for written in 0..max {
            let Some(number) = self.fates.peek().map(|(event, ..)| event / FATES_PER_ROW) else { return Ok(written) };
            let before = table.get(number)?.map(|old| rows_of(number, old.value())).transpose();
            let before = match before {
                // It stays damaged, which whoever reads it is told: half a row would pass for a whole one.
                Err(error) if error.is_damage() => None,
                before => Some(before?.unwrap_or_default()),
            };
            let is_whole = before.is_some();
            let before = before.unwrap_or_default().into_iter();
            let mut all: BTreeMap<(u8, WebhookNo), Fate> = before.map(|(o, w, fate)| ((o, w), fate)).collect();
            while let Some((event, webhook, newer)) = self.fates.next_if(|(event, ..)| event / FATES_PER_ROW == number)
            {
                // Of an event that retention has removed nothing is to be left.
                if event >= floor || txn.open_table(Log::Events.kept())?.get(event)?.is_some() {
                    let offset = u8::try_from(event % FATES_PER_ROW).unwrap_or(u8::MAX);
                    let fate = all.entry((offset, webhook)).or_insert(newer);
                    *fate = fate.then(newer);
                }
            }
            if is_whole {
                write_fates(&mut table, number, all.into_iter().map(|((o, w), fate)| (o, w, fate)).collect())?;
            }
        }
        Ok(max)
    }

    /// Drops from the tails what is now on disk.
    pub fn settle(&self, tails: &mut Tails) {
        tails.drop_below(self.upto.0, self.upto.1);
    }
}

impl Engine {
    /// Begins or goes on with bringing the listings to disk; true when the last step of a flush is in this transaction.
    pub(super) fn step_flush(&mut self, txn: &WriteTransaction) -> Result<bool, StoreError> {
        let gathered = self.shared.tails().len();
        if self.flush.is_none() {
            if !self.flush_at.is_reached(gathered, self.bytes.0 + self.bytes.1) {
                return Ok(false);
            }
            self.begin_flush();
        }
        let Some(flush) = &mut self.flush else { return Ok(false) };
        let (last, succeeded) = flush.step(txn, Flush::rows(gathered, self.flush_at.entries))?;
        self.write_standings(txn, &succeeded)?;
        Ok(last)
    }

    pub(super) fn begin_flush(&mut self) {
        self.flush = Some(Flush::plan(&self.shared.tails(), self.succeeded.iter().copied()));
    }
}

fn sorted<T, K: Ord>(of: impl Iterator<Item = T>, key: impl FnMut(&T) -> K) -> Unwritten<T> {
    let mut all: Vec<T> = of.collect();
    all.sort_unstable_by_key(key);
    all.into_iter().peekable()
}

/// Brings up to so many lists to disk; says how many.
fn write_lists(
    table: &mut Table<'_, PostingKey, &'static [u8]>,
    rows: Rows<PostingKey>,
    of: &mut Unwritten<(u32, u64)>,
    max: usize,
) -> Result<usize, StoreError> {
    let mut list = Vec::new();
    for written in 0..max {
        let Some((owner, first)) = of.next() else { return Ok(written) };
        list.clear();
        list.push(first);
        list.extend(std::iter::from_fn(|| of.next_if(|(other, _)| *other == owner)).map(|(_, number)| number));
        table.insert((owner, first), pack(rows, (owner, first), &list).as_slice())?;
    }
    Ok(max)
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
