//! The durable queue: deliveries that did not go through at once. Owns its rows and the counts that go with them.
//!
//! Keyed (webhook, started, due, event): a dead receiver's million rows are one range that nobody else walks past, and a
//! lane reads on from its own. Invariant: `Standing::waiting` and `started` count a webhook's rows exactly, because both
//! change in the same transaction.

use std::ops::Bound;

use redb::{ReadableTable, Table};

use super::StoreError;
use super::lookup;
use super::op::RowKey;
use super::record::{QueueRow, Standing};
use super::row;
use super::schema::{QUEUE, QueueKey};
use crate::clock::Millis;
use crate::model::id::{Seq, WebhookNo};

/// The queue's table inside a write transaction.
pub type Rows<'txn> = Table<'txn, QueueKey, &'static [u8]>;

/// Rows of each kind that are looked at for the oldest one.
const OLDEST_LOOKED_AT: usize = 10_000;

/// A delivery as its row describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    pub event: Seq,
    pub key: RowKey,
    pub row: QueueRow,
}

/// Adds a row.
///
/// # Errors
/// When the store fails.
pub fn insert(
    rows: &mut Rows<'_>,
    standing: &mut Standing,
    webhook: WebhookNo,
    event: Seq,
    key: RowKey,
    row: &QueueRow,
) -> Result<(), StoreError> {
    let place = place(webhook, key, event);
    let before = rows.insert(place, row::write(QUEUE, &place, row).as_slice())?.is_some();
    if !before {
        *count(standing, key.started) += 1;
    }
    Ok(())
}

/// Removes a row; says whether it was there.
///
/// # Errors
/// When the store fails.
pub fn remove(
    rows: &mut Rows<'_>,
    standing: &mut Standing,
    webhook: WebhookNo,
    event: Seq,
    key: RowKey,
) -> Result<bool, StoreError> {
    let there = rows.remove(place(webhook, key, event))?.is_some();
    if there {
        let count = count(standing, key.started);
        *count = count.saturating_sub(1);
    }
    Ok(there)
}

/// Removes up to `max` rows of a webhook, whatever they are; says how many. None where damage is met: an altered key may have made
/// somebody else's row one of this webhook, and hides where its rows end.
///
/// # Errors
/// When the store fails.
pub fn sweep(
    rows: &mut Rows<'_>,
    standing: &mut Standing,
    webhook: WebhookNo,
    max: usize,
) -> Result<usize, StoreError> {
    let found = match listed(rows, webhook, None, max) {
        Err(error) if error.is_damage() => return Ok(0),
        found => found?,
    };
    for queued in &found {
        remove(rows, standing, webhook, queued.event, queued.key)?;
    }
    Ok(found.len())
}

/// Rows of one kind that are due by `now`, oldest first, at most `max`, leaving out those of which `skip` says so.
///
/// # Errors
/// When the store fails or a row does not read.
pub fn due(
    rows: &impl ReadableTable<QueueKey, &'static [u8]>,
    webhook: WebhookNo,
    started: bool,
    now: Millis,
    max: usize,
    mut skip: impl FnMut(Seq, RowKey) -> bool,
) -> Result<Vec<Queued>, StoreError> {
    let kind = u8::from(started);
    let mut found = Vec::new();
    let (low, high) = ((webhook, kind, 0, 0), (webhook, kind, now, u64::MAX));
    for row in lookup::rising(rows, &QUEUE, Bound::Included(&low), Bound::Included(&high))? {
        if found.len() >= max {
            break;
        }
        let (place, value) = row?;
        let (_, _, due_ms, event) = place.value();
        let key = RowKey { started, due_ms };
        if !skip(event, key) {
            found.push(Queued { event, key, row: row::read(QUEUE, &place.value(), value.value())? });
        }
    }
    Ok(found)
}

/// Rows of any kind behind `after`, those without an attempt first, oldest first in each kind, at most `max`.
///
/// # Errors
/// When the store fails or a row does not read.
pub fn listed(
    rows: &impl ReadableTable<QueueKey, &'static [u8]>,
    webhook: WebhookNo,
    after: Option<(RowKey, Seq)>,
    max: usize,
) -> Result<Vec<Queued>, StoreError> {
    let low =
        after.map_or(Bound::Included((webhook, 0, 0, 0)), |(key, event)| Bound::Excluded(place(webhook, key, event)));
    let high = (webhook, u8::MAX, u64::MAX, u64::MAX);
    let mut found = Vec::new();
    for row in lookup::rising(rows, &QUEUE, low.as_ref(), Bound::Included(&high))?.take(max) {
        let (place, value) = row?;
        let (_, started, due_ms, event) = place.value();
        let key = RowKey { started: started == 1, due_ms };
        found.push(Queued { event, key, row: row::read(QUEUE, &place.value(), value.value())? });
    }
    Ok(found)
}

/// When the next row of one kind is due, leaving out those of which `skip` says so.
///
/// # Errors
/// When the store fails.
pub fn next_due(
    rows: &impl ReadableTable<QueueKey, &'static [u8]>,
    webhook: WebhookNo,
    started: bool,
    mut skip: impl FnMut(Seq, RowKey) -> bool,
) -> Result<Option<Millis>, StoreError> {
    let kind = u8::from(started);
    let (low, high) = ends(webhook, kind);
    for row in lookup::rising(rows, &QUEUE, Bound::Included(&low), Bound::Included(&high))? {
        let (_, _, due_ms, event) = row?.0.value();
        if !skip(event, RowKey { started, due_ms }) {
            return Ok(Some(due_ms));
        }
    }
    Ok(None)
}

/// The oldest event among a webhook's rows. Rows stand by due time: those never tried in the order they came, those that were
/// tried longest ago mostly last. Of a longer queue the oldest of `OLDEST_LOOKED_AT` rows of each kind.
///
/// # Errors
/// When the store fails.
pub fn oldest(
    rows: &impl ReadableTable<QueueKey, &'static [u8]>,
    webhook: WebhookNo,
) -> Result<Option<Seq>, StoreError> {
    let mut oldest = None;
    let mut see = |row: Result<lookup::Pair<'_, QueueKey, &'static [u8]>, StoreError>| -> Result<(), StoreError> {
        let event = row?.0.value().3;
        oldest = Some(oldest.map_or(event, |before: Seq| before.min(event)));
        Ok(())
    };
    let (low, high) = ends(webhook, 0);
    let untried = lookup::rising(rows, &QUEUE, Bound::Included(&low), Bound::Included(&high))?;
    untried.take(OLDEST_LOOKED_AT).try_for_each(&mut see)?;
    let (low, high) = ends(webhook, 1);
    let tried = lookup::falling(rows, &QUEUE, Bound::Included(&low), Bound::Included(&high))?;
    tried.take(OLDEST_LOOKED_AT).try_for_each(&mut see)?;
    Ok(oldest)
}

/// A row by its place.
///
/// # Errors
/// When the store fails or the row does not read.
pub fn get(
    rows: &impl ReadableTable<QueueKey, &'static [u8]>,
    webhook: WebhookNo,
    event: Seq,
    key: RowKey,
) -> Result<Option<QueueRow>, StoreError> {
    let place = place(webhook, key, event);
    lookup::get(rows, &QUEUE, &place)?.map(|value| row::read(QUEUE, &place, value.value())).transpose()
}

/// The least and the greatest place of one kind.
fn ends(webhook: WebhookNo, kind: u8) -> (QueueKey, QueueKey) {
    ((webhook, kind, 0, 0), (webhook, kind, u64::MAX, u64::MAX))
}

fn place(webhook: WebhookNo, key: RowKey, event: Seq) -> QueueKey {
    (webhook, u8::from(key.started), key.due_ms, event)
}

fn count(standing: &mut Standing, started: bool) -> &mut u64 {
    if started { &mut standing.started } else { &mut standing.waiting }
}
