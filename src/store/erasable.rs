//! What the next step of an erasure is about, found in a snapshot: the writer looks at each again. Owns how far one step reads,
//! and that damage which hides rows ends the erasure with an error: what is passed over would never be erased.

use std::ops::Bound;

use redb::ReadableTable;

use super::StoreError;
use super::deaths::Deaths;
use super::erase::{
    ATTEMPTS, BLOCK, DEAD_LETTERS, EVENTS, HASH_BITS, KEPT_ATTEMPTS, KEPT_EVENTS, LAST, RECORDS, REMEMBERED, TOLD,
    WEBHOOKS, are_erased, attempt_erased, is_its, record_erased,
};
use super::log::{self, Log, MISSING};
use super::lookup::{self, Order};
use super::ordering;
use super::record::{self, Remembered};
use super::row;
use super::schema::{AUDIT, IDEMPOTENCY, ORDERING, QUEUE};
use super::sift::Sifted;
use super::view::{Shared, View};
use crate::limits::{
    ERASE_BLOCKS_MAX, ERASE_EVENTS_LOOKED_AT_MAX, ERASE_KEPT_MAX, ERASE_READ_BYTES, JOB_LOOKED_AT_MAX,
};
use crate::model::audit::Audit;
use crate::model::id::{JournalSeq, OPERATOR_NO, Seq, WebhookNo};
use crate::model::job::{Cursor, Erase};

impl Shared {
    /// What the next step of an erasure is about.
    pub(super) fn erasable(&self, erase: &Erase, bound: Seq, from: Cursor, max: usize) -> Result<Sifted, StoreError> {
        let (stage, place) = from;
        let view = self.view()?;
        let attempts = |_, bytes: &[u8]| {
            let erased = attempt_erased(|webhook| self.registry().is_forgotten(webhook), bytes)?;
            Ok(erased.is_some())
        };
        let mut sifted = match stage {
            DEAD_LETTERS => deaths(&view, erase, place, max)?,
            EVENTS | KEPT_EVENTS => {
                let mut told = Vec::new();
                let wanted = |seq: Seq, bytes: &[u8]| -> Result<bool, StoreError> {
                    let event = record::read_brief(bytes)?;
                    let is_its = is_its(erase, bound, seq, &event);
                    told.extend((is_its && event.tenant == OPERATOR_NO).then_some((TOLD, seq)));
                    Ok(is_its)
                };
                let mut sifted = match stage {
                    EVENTS => blocks(&view, Log::Events, place, bound, wanted)?,
                    _ => kept(&view, Log::Events, place, bound, wanted)?,
                };
                // Before their blocks: what is erased can't be cancelled any more.
                sifted.items.splice(0..0, told);
                sifted
            }
            ATTEMPTS => blocks(&view, Log::Journal, place, erase.journal_below, attempts)?,
            KEPT_ATTEMPTS => kept(&view, Log::Journal, place, erase.journal_below, attempts)?,
            REMEMBERED => remembered(&view, place)?,
            RECORDS => records(&view, erase, place, max)?,
            WEBHOOKS => webhooks(&view, &self.registry().webhooks_ever_of(erase.tenant), place, max)?,
            _ => Sifted::default(),
        };
        let next = sifted.next.map(|(_, place)| (stage, place));
        sifted.next = next.or_else(|| (stage < LAST).then_some((stage + 1, 0)));
        Ok(sifted)
    }
}

fn deaths(view: &View<'_>, erase: &Erase, from: JournalSeq, max: usize) -> Result<Sifted, StoreError> {
    let mut sifted = Sifted::default();
    let deaths = Deaths::of(&view.txn, view.shared)?;
    let (low, high) = ((erase.tenant, from), (erase.tenant, JournalSeq::MAX));
    for row in lookup::rising(&deaths.dead, &deaths, Bound::Included(&low), Bound::Included(&high))? {
        let (key, value) = row?;
        if sifted.items.len() >= max {
            sifted.next = Some(key.value());
            break;
        }
        sifted.items.push(value.value());
    }
    Ok(sifted)
}

/// Blocks with a record that `wanted` takes, or that do not read: the writer counts those.
fn blocks(
    view: &View<'_>,
    log: Log,
    from: u64,
    below: u64,
    mut wanted: impl FnMut(u64, &[u8]) -> Result<bool, StoreError>,
) -> Result<Sifted, StoreError> {
    let mut expected = None;
    through(&view.txn.open_table(log.table())?, (from, below), ERASE_BLOCKS_MAX, |first, bytes| {
        if expected.is_some_and(|expected| expected != first) {
            return Err(StoreError::Damaged(MISSING));
        }
        let mut next = first;
        let mut look = || -> Result<bool, StoreError> {
            let mut take = false;
            for record in log::records_at(log, first, bytes)? {
                let (number, record) = record?;
                take |= wanted(number, record)?;
                next = number + 1;
            }
            Ok(take)
        };
        let found = look();
        expected = found.is_ok().then_some(next);
        unless_damaged(found)
    })
}

/// Records that retention has kept and that `wanted` takes, or that do not read.
fn kept(
    view: &View<'_>,
    log: Log,
    from: u64,
    below: u64,
    mut wanted: impl FnMut(u64, &[u8]) -> Result<bool, StoreError>,
) -> Result<Sifted, StoreError> {
    through(&view.txn.open_table(log.kept())?, (from, below), ERASE_KEPT_MAX, |number, value| {
        unless_damaged(log::kept(log, number, value).and_then(|(_, record)| wanted(number, record)))
    })
}

/// The rows from one number to below another that `take` takes, as far as one step goes.
fn through(
    rows: &impl ReadableTable<u64, &'static [u8]>,
    (from, below): (u64, u64),
    max: usize,
    mut take: impl FnMut(u64, &[u8]) -> Result<bool, StoreError>,
) -> Result<Sifted, StoreError> {
    let (mut sifted, mut read) = (Sifted::default(), 0);
    // A row of its neighbours that does not read is an item of its own and not in the way.
    for row in lookup::rising(rows, &Order, Bound::Included(&from), Bound::Excluded(&below.max(from)))? {
        let (number, value) = row?;
        let (number, value) = (number.value(), value.value());
        if sifted.items.len() >= max || read >= ERASE_READ_BYTES {
            sifted.next = Some((0, number));
            break;
        }
        read += value.len();
        sifted.items.extend(take(number, value)?.then_some((BLOCK, number)));
    }
    Ok(sifted)
}

fn unless_damaged(found: Result<bool, StoreError>) -> Result<bool, StoreError> {
    match found {
        Err(error) if error.is_damage() => Ok(true),
        found => found,
    }
}

fn remembered(view: &View<'_>, from: u64) -> Result<Sifted, StoreError> {
    let (mut sifted, mut looked_at) = (Sifted::default(), 0);
    let events = view.txn.open_table(Log::Events.table())?;
    let day = u32::try_from(from >> HASH_BITS).unwrap_or(u32::MAX);
    let mut low = [0; 16];
    low[..8].copy_from_slice(&(from << (u64::BITS - HASH_BITS)).to_be_bytes());
    let keys = view.txn.open_table(IDEMPOTENCY)?;
    for row in lookup::rising(&keys, &Order, Bound::Included(&(day, &low)), Bound::Unbounded)? {
        let (key, value) = row?;
        let (day, hash) = key.value();
        let beginning = u64::from_be_bytes(hash.first_chunk::<8>().copied().unwrap_or_default());
        let place = u64::from(day) << HASH_BITS | beginning >> (u64::BITS - HASH_BITS);
        // The place is not quite the whole key: never stop at the one that this began with.
        if looked_at >= ERASE_EVENTS_LOOKED_AT_MAX && place > from {
            sifted.next = Some((0, place));
            break;
        }
        looked_at += 1;
        // One that does not read says nothing of anybody.
        let Ok(of) = row::read::<_, Remembered>(IDEMPOTENCY, &key.value(), value.value()) else { continue };
        match are_erased(&events, &of) {
            Err(error) if error.is_damage() => {}
            erased => sifted.items.extend(erased?.then_some((day, beginning))),
        }
    }
    Ok(sifted)
}

fn records(view: &View<'_>, erase: &Erase, from: u64, max: usize) -> Result<Sifted, StoreError> {
    let mut sifted = Sifted::default();
    let (rows, below) = (view.txn.open_table(AUDIT)?, erase.audit_below.max(from));
    for (looked_at, row) in lookup::rising(&rows, &Order, Bound::Included(&from), Bound::Excluded(&below))?.enumerate()
    {
        let (number, value) = row?;
        let number = number.value();
        if sifted.items.len() >= max || looked_at >= JOB_LOOKED_AT_MAX {
            sifted.next = Some((0, number));
            break;
        }
        let Ok(audit) = row::read::<_, Audit>(AUDIT, &number, value.value()) else { continue };
        sifted.items.extend(record_erased(erase, &audit).map(|_| (0, number)));
    }
    Ok(sifted)
}

/// Webhooks of which nothing is queued any more, in their order, up to the first of which something is.
fn webhooks(view: &View<'_>, own: &[WebhookNo], from: u64, max: usize) -> Result<Sifted, StoreError> {
    let mut sifted = Sifted::default();
    let (queue, lines) = (view.txn.open_table(QUEUE)?, view.txn.open_table(ORDERING)?);
    for no in own.iter().copied().filter(|no| u64::from(*no) >= from) {
        let (low, high) = ((no, 0, 0, 0), (no, u8::MAX, u64::MAX, u64::MAX));
        let mut rows = lookup::rising(&queue, &QUEUE, Bound::Included(&low), Bound::Included(&high))?;
        let waits = rows.next().transpose()?.is_some() || ordering::any(&lines, no)?;
        if waits || sifted.items.len() >= max {
            sifted.next = Some((0, u64::from(no)));
            break;
        }
        sifted.items.push((no, 0));
    }
    Ok(sifted)
}
