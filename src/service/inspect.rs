//! Reading: events, attempts. Owns who sees what: a tenant its own events and those for everybody, its own webhooks'
//! attempts, and nothing of anybody else's, not even that it exists.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Service;
use super::error::Error;
use crate::clock::Millis;
use crate::model::attempt::Attempt;
use crate::model::event::{Event, OrderKey};
use crate::model::id::{BROADCAST, EventId, JournalSeq, Seq, TenantNo, WebhookId, WebhookNo};
use crate::model::webhook::Webhook;
use crate::store::StoreError;
use crate::store::op::RowKey;
use crate::store::ordering::Place;
use crate::store::page::{EventQuery, Page};
use crate::store::view::{Shared, View};

/// Events that one page of pending deliveries looks at before it comes back short.
const LOOKED_AT_MAX: usize = 2_000;

/// A webhook's attempts, with the ids of their events.
pub struct Attempts {
    pub webhook: Arc<Webhook>,
    pub items: Vec<(EventId, Attempt)>,
    /// Where the next page begins.
    pub next: Option<JournalSeq>,
}

/// A pending delivery of a webhook.
pub struct Pending {
    pub event: Event,
    pub attempts: u32,
    /// When its next attempt is due; `None` while it was never tried and waits in memory, or in line for its ordering key.
    pub due_ms: Option<Millis>,
}

/// Where a listing of pending deliveries goes on: behind a row of the queue, behind a place in line, or behind a fresh
/// delivery's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingPlace {
    Row(bool, Millis, Seq),
    Line(OrderKey, Seq),
    Fresh(Seq),
}

/// A page of pending deliveries.
pub struct PendingPage {
    pub items: Vec<Pending>,
    pub next: Option<PendingPlace>,
}

impl Service {
    /// A page of a webhook's pending deliveries: those in the queue, those held in line, then those that were never tried.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn pending(
        &self,
        webhook: WebhookNo,
        place: Option<PendingPlace>,
        limit: usize,
    ) -> Result<PendingPage, Error> {
        Ok(self.store.read(move |shared| pending(shared, webhook, place, limit)).await?)
    }

    /// An event, as its tenant sees it.
    ///
    /// # Errors
    /// Not found.
    pub async fn event(&self, tenant: TenantNo, id: EventId) -> Result<Event, Error> {
        let found = self.store.read(move |shared| visible(&shared.view()?, tenant, id)).await?;
        found.ok_or(Error::NotFound)
    }

    /// A page of events.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn events(&self, query: EventQuery) -> Result<Page<Event>, Error> {
        Ok(self.store.read(move |shared| shared.events_page(&query)).await?)
    }

    /// A page of a webhook's attempts, newest first.
    ///
    /// # Errors
    /// Not found.
    pub async fn attempts(
        &self,
        tenant: TenantNo,
        id: WebhookId,
        before: Option<JournalSeq>,
        limit: usize,
    ) -> Result<Attempts, Error> {
        let webhook = self.webhook_of(tenant, id)?;
        let no = webhook.no;
        let (items, next) = self
            .store
            .read(move |shared| {
                let page = shared.attempts_page(no, before, limit)?;
                let view = shared.view()?;
                let mut ids = EventIds::default();
                let mut items = Vec::with_capacity(page.items.len());
                for (_, attempt) in page.items {
                    // An event that retention took has no id left to name.
                    if let Some(id) = ids.of(&view, attempt.event)? {
                        items.push((id, attempt));
                    }
                }
                Ok((items, page.next))
            })
            .await?;
        Ok(Attempts { webhook, items, next })
    }
}

/// An event that a tenant may see.
pub(super) fn visible(view: &View<'_>, tenant: TenantNo, id: EventId) -> Result<Option<Event>, StoreError> {
    Ok(view.event_by_id(id)?.filter(|event| event.tenant == tenant || event.tenant == BROADCAST))
}

fn pending(
    shared: &Shared,
    webhook: WebhookNo,
    place: Option<PendingPlace>,
    limit: usize,
) -> Result<PendingPage, StoreError> {
    let view = shared.view()?;
    let mut items = Vec::new();
    let (rows_after, line_after, fresh_from) = match place {
        None => (Some(None), Some(None), 0),
        Some(PendingPlace::Row(started, due_ms, event)) => {
            (Some(Some((RowKey { started, due_ms }, event))), Some(None), 0)
        }
        Some(PendingPlace::Line(order, event)) => (None, Some(Some((order, event))), 0),
        Some(PendingPlace::Fresh(after)) => (None, None, after.saturating_add(1)),
    };
    if let Some(after) = rows_after {
        let rows = view.queued(webhook, after, limit)?;
        let last = rows.last().map(|row| PendingPlace::Row(row.key.started, row.key.due_ms, row.event));
        let full = rows.len() == limit;
        for row in rows {
            if let Some(event) = view.event(row.event)? {
                items.push(Pending { event, attempts: row.row.attempts, due_ms: Some(row.key.due_ms) });
            }
        }
        if full {
            return Ok(PendingPage { items, next: last });
        }
    }
    if let Some(after) = line_after {
        let places = view.in_line(webhook, after, limit - items.len())?;
        for (_, event, place) in places.items {
            if let Place::Held(row) = place
                && let Some(event) = view.event(event)?
            {
                items.push(Pending { event, attempts: row.attempts, due_ms: None });
            }
        }
        if let Some((order, event)) = places.next {
            return Ok(PendingPage { items, next: Some(PendingPlace::Line(order, event)) });
        }
    }
    let (fresh, next) = fresh(shared, &view, webhook, fresh_from, limit - items.len())?;
    items.extend(fresh);
    Ok(PendingPage { items, next })
}

/// Deliveries without a journal record from `from` on.
fn fresh(
    shared: &Shared,
    view: &View<'_>,
    webhook: WebhookNo,
    from: Seq,
    wanted: usize,
) -> Result<(Vec<Pending>, Option<PendingPlace>), StoreError> {
    let mut next = None;
    let mut looked_at = 0;
    let mut fresh = Vec::new();
    view.scan_events(from.max(shared.watermark()), |event| {
        if fresh.len() >= wanted || looked_at >= LOOKED_AT_MAX {
            next = Some(PendingPlace::Fresh(event.seq.saturating_sub(1)));
            return false;
        }
        looked_at += 1;
        if event.matched.contains(&webhook) {
            fresh.push(event);
        }
        true
    })?;
    let mut items = Vec::with_capacity(fresh.len());
    for event in fresh {
        let place = event.order().map_or(Ok(None), |order| view.place_in_line(webhook, order, event.seq))?;
        let is_held = matches!(place, Some(Place::Held(_)));
        // With its first journal record it is fresh no longer.
        if !is_held && !view.fates(event.seq)?.contains_key(&webhook) {
            items.push(Pending { event, attempts: 0, due_ms: None });
        }
    }
    Ok((items, next))
}

/// The public ids of events, read once each.
#[derive(Default)]
pub(super) struct EventIds(HashMap<Seq, Option<EventId>>);

impl EventIds {
    pub(super) fn of(&mut self, view: &View<'_>, seq: Seq) -> Result<Option<EventId>, StoreError> {
        if let Some(known) = self.0.get(&seq) {
            return Ok(*known);
        }
        let id = view.event(seq)?.map(|event| event.id);
        self.0.insert(seq, id);
        Ok(id)
    }
}
