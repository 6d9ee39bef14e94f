//! Lines: deliveries of events with one `ordering_key`, of which one at a time may go to a webhook. Owns their table, who
//! may go and who comes next.
//!
//! Every pending delivery of an event with a key has a row here, keyed (webhook, line, event). At most one of a line is
//! under way: it stands where any delivery stands, in memory as a fresh one or in the durable queue. The others are held:
//! their row here is all there is of them, so that they cost no memory, hold no watermark back and are met by no lane. When
//! the one under way is delivered, dead or cancelled, the oldest that is held gets its row in the queue, in the same
//! transaction. Invariant: a line with rows has exactly one under way.
//!
//! A delivery that is asked for again (redriven, resent) gets in line at its event's place: it goes when the one under way
//! has ended, before newer ones.

use std::ops::Bound;

use redb::{ReadableTable, Table};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::engine::{Engine, Group};
use super::log::{self, Log};
use super::lookup;
use super::op::RowKey;
use super::queue;
use super::record::{self, Entry, QueueRow, Standing};
use super::row;
use super::schema::{ORDERING, OrderingKey};
use crate::model::event::{Event, OrderKey};
use crate::model::id::{Seq, WebhookNo};

/// The lines' table inside a write transaction.
pub type Lines<'txn> = Table<'txn, OrderingKey, &'static [u8]>;

/// How a delivery stands in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    UnderWay,
    /// Waits for others; with what its row in the queue will say. `since_ms`: since when it waits.
    Held(QueueRow),
}

/// Some of the deliveries that stand in a webhook's lines, and where to go on.
#[derive(Debug, Default)]
pub struct Places {
    pub items: Vec<(OrderKey, Seq, Place)>,
    pub next: Option<(OrderKey, Seq)>,
}

/// A delivery's place in its line, if it stands in it.
///
/// # Errors
/// When the store fails or the row does not read.
pub fn get(
    lines: &impl ReadableTable<OrderingKey, &'static [u8]>,
    webhook: WebhookNo,
    order: OrderKey,
    event: Seq,
) -> Result<Option<Place>, StoreError> {
    let key = (webhook, order, event);
    lookup::get(lines, &ORDERING, &key)?.map(|value| row::read(ORDERING, &key, value.value())).transpose()
}

/// Whether anybody stands in any of a webhook's lines.
///
/// # Errors
/// When the store fails.
pub fn any(lines: &impl ReadableTable<OrderingKey, &'static [u8]>, webhook: WebhookNo) -> Result<bool, StoreError> {
    let (low, high) = ends(webhook);
    let mut rows = lookup::rising(lines, &ORDERING, Bound::Included(&low), Bound::Included(&high))?;
    Ok(rows.next().transpose()?.is_some())
}

/// The line that a delivery stands in, for one whose event does not read: looks at every row of the webhook.
///
/// # Errors
/// When the store fails.
pub fn line_of(
    lines: &impl ReadableTable<OrderingKey, &'static [u8]>,
    webhook: WebhookNo,
    event: Seq,
) -> Result<Option<OrderKey>, StoreError> {
    let (low, high) = ends(webhook);
    for row in lookup::rising(lines, &ORDERING, Bound::Included(&low), Bound::Included(&high))? {
        let (_, order, found) = row?.0.value();
        if found == event {
            return Ok(Some(order));
        }
    }
    Ok(None)
}

/// The webhooks that have lines, rising: one look for each.
///
/// # Errors
/// When the store fails.
pub fn owners(lines: &impl ReadableTable<OrderingKey, &'static [u8]>) -> Result<Vec<WebhookNo>, StoreError> {
    let mut owners = Vec::new();
    let mut from = Some(0);
    while let Some(low) = from {
        let first =
            lookup::rising(lines, &ORDERING, Bound::Included(&(low, 0, 0)), Bound::Unbounded)?.next().transpose()?;
        let owner = first.map(|(key, _)| key.value().0);
        owners.extend(owner);
        from = owner.and_then(|owner| owner.checked_add(1));
    }
    Ok(owners)
}

/// Who stands in a webhook's lines behind `after`, line by line, at most `max`.
///
/// # Errors
/// When the store fails or a row does not read.
pub fn listed(
    lines: &impl ReadableTable<OrderingKey, &'static [u8]>,
    webhook: WebhookNo,
    after: Option<(OrderKey, Seq)>,
    max: usize,
) -> Result<Places, StoreError> {
    let low = after.map_or(Bound::Included((webhook, 0, 0)), |(order, event)| Bound::Excluded((webhook, order, event)));
    let high = ends(webhook).1;
    let mut places = Places::default();
    for row in lookup::rising(lines, &ORDERING, low.as_ref(), Bound::Included(&high))? {
        if places.items.len() >= max {
            places.next = places.items.last().map(|(order, event, _)| (*order, *event));
            break;
        }
        let (key, value) = row?;
        let (_, order, event) = key.value();
        places.items.push((order, event, row::read(ORDERING, &key.value(), value.value())?));
    }
    Ok(places)
}

/// Whom a held delivery waits for: the one of its line that is under way, and the one right before it. Looks at `max` rows
/// for the first; it is the oldest unless deliveries were asked for again.
///
/// # Errors
/// When the store fails or a row does not read.
pub fn before(
    lines: &impl ReadableTable<OrderingKey, &'static [u8]>,
    webhook: WebhookNo,
    order: OrderKey,
    event: Seq,
    max: usize,
) -> Result<(Option<Seq>, Option<Seq>), StoreError> {
    let mut under_way = None;
    let (low, high) = ((webhook, order, 0), (webhook, order, Seq::MAX));
    for row in lookup::rising(lines, &ORDERING, Bound::Included(&low), Bound::Included(&high))?.take(max) {
        let (key, value) = row?;
        if row::read::<_, Place>(ORDERING, &key.value(), value.value())? == Place::UnderWay {
            under_way = Some(key.value().2);
            break;
        }
    }
    let own = (webhook, order, event);
    let before = lookup::falling(lines, &ORDERING, Bound::Included(&low), Bound::Excluded(&own))?.next().transpose()?;
    Ok((under_way, before.map(|(key, _)| key.value().2)))
}

/// Removes up to `max` rows of a webhook, whatever they are; says how many. None where damage is met: an altered key may have made
/// somebody else's row one of this webhook, and hides where its rows end.
///
/// # Errors
/// When the store fails.
pub fn sweep(
    lines: &mut Lines<'_>,
    standing: &mut Standing,
    webhook: WebhookNo,
    max: usize,
) -> Result<usize, StoreError> {
    let found = match listed(lines, webhook, None, max) {
        Err(error) if error.is_damage() => return Ok(0),
        found => found?.items,
    };
    for (order, event, place) in &found {
        lines.remove((webhook, *order, *event))?;
        count_out(standing, *place);
    }
    Ok(found.len())
}

/// The least and the greatest place in a webhook's lines.
fn ends(webhook: WebhookNo) -> (OrderingKey, OrderingKey) {
    ((webhook, 0, 0), (webhook, OrderKey::MAX, Seq::MAX))
}

fn count_out(standing: &mut Standing, place: Place) {
    if matches!(place, Place::Held(_)) {
        standing.held = standing.held.saturating_sub(1);
    }
}

impl Engine {
    /// An event's deliveries get in line at their webhooks; gives those that are held there, rising.
    pub(super) fn line_up(
        &mut self,
        group: &mut Group<'_>,
        event: &Event,
        order: OrderKey,
    ) -> Result<Vec<WebhookNo>, StoreError> {
        let row = QueueRow { since_ms: group.now, ..QueueRow::default() };
        let mut held = Vec::new();
        for webhook in &event.matched {
            if !self.get_in_line(group, *webhook, order, event.seq, &row)? {
                held.push(*webhook);
            }
        }
        Ok(held)
    }

    /// The line that a delivery's event stands in.
    pub(super) fn order_of(
        &self,
        group: &Group<'_>,
        webhook: WebhookNo,
        event: Seq,
    ) -> Result<Option<OrderKey>, StoreError> {
        match log::find(&group.txn(), Log::Events, event, record::read_order) {
            Err(error) if error.is_damage() => line_of(&group.txn().open_table(ORDERING)?, webhook, event),
            order => Ok(order?.flatten()),
        }
    }

    /// A delivery gets in line. True: nobody was there, it may go; false: it is held, and `row` kept for it.
    pub(super) fn get_in_line(
        &mut self,
        group: &mut Group<'_>,
        webhook: WebhookNo,
        order: OrderKey,
        event: Seq,
        row: &QueueRow,
    ) -> Result<bool, StoreError> {
        let mut lines = group.txn().open_table(ORDERING)?;
        let line = (webhook, order, 0)..=(webhook, order, Seq::MAX);
        let free = lines.range(line)?.next().transpose()?.is_none();
        let place = if free { Place::UnderWay } else { Place::Held(*row) };
        let key = (webhook, order, event);
        lines.insert(key, row::write(ORDERING, &key, &place).as_slice())?;
        if !free {
            self.standings.change(webhook, |standing| standing.held += 1);
            group.dirty.insert(webhook);
        }
        Ok(free)
    }

    /// A delivery has come to its end and leaves its line; when it was under way the next one goes. `standing` is its
    /// webhook's, to be written by the caller.
    pub(super) fn leave_line(
        &mut self,
        group: &mut Group<'_>,
        standing: &mut Standing,
        webhook: WebhookNo,
        order: OrderKey,
        event: Seq,
    ) -> Result<(), StoreError> {
        let mut lines = group.txn().open_table(ORDERING)?;
        let key = (webhook, order, event);
        let Some(left) = lines.remove(key)? else { return Ok(()) };
        let place: Place = row::read(ORDERING, &key, left.value())?;
        drop(left);
        count_out(standing, place);
        // What is left of a deleted webhook's lines is swept.
        if place != Place::UnderWay || self.registry.webhook(webhook).is_none() {
            return Ok(());
        }
        let next = match lines.range((webhook, order, 0)..=(webhook, order, Seq::MAX))?.next().transpose()? {
            Some((key, value)) => (key.value().2, row::read(ORDERING, &key.value(), value.value())?),
            None => return Ok(()),
        };
        let (event, Place::Held(row)) = next else { return Ok(()) };
        let key = (webhook, order, event);
        lines.insert(key, row::write(ORDERING, &key, &Place::UnderWay).as_slice())?;
        drop(lines);
        standing.held = standing.held.saturating_sub(1);
        // Due since it waits: it comes before what was accepted later, and behind an open circuit it has waited as long.
        let key = RowKey { started: false, due_ms: row.since_ms };
        let previous = group.note(&Entry::Queued { event, webhook, previous: row.previous, due_ms: key.due_ms });
        let row = QueueRow { since_ms: group.now, previous, ..row };
        queue::insert(group.queue()?, standing, webhook, event, key, &row)?;
        group.effects.queued.push((webhook, key));
        Ok(())
    }
}
