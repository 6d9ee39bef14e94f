//! Reading: events, attempts. Owns who sees what: a tenant its own events and those for everybody, its own webhooks'
//! attempts, and nothing of anybody else's, not even that it exists.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Service;
use super::error::Error;
use crate::clock::Millis;
use crate::model::attempt::Attempt;
use crate::model::event::Event;
use crate::model::id::{BROADCAST, EventId, JournalSeq, Seq, TenantNo, WebhookId, WebhookNo};
use crate::model::webhook::Webhook;
use crate::store::StoreError;
use crate::store::op::RowKey;
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
    /// When its next attempt is due; `None` while it was never tried and waits in memory.
    pub due_ms: Option<Millis>,
}

/// Where a listing of pending deliveries goes on: behind a row of the queue, or behind a fresh delivery's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingPlace {
    Row(bool, Millis, Seq),
    Fresh(Seq),
}

/// A page of pending deliveries.
pub struct PendingPage {
    pub items: Vec<Pending>,
    pub next: Option<PendingPlace>,
}

impl Service {
    /// A page of a webhook's pending deliveries: those in the queue, then those that were never tried.
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
    let fresh_from = match place {
        Some(PendingPlace::Fresh(after)) => after.saturating_add(1),
        place => {
            let after = match place {
                Some(PendingPlace::Row(started, due_ms, event)) => Some((RowKey { started, due_ms }, event)),
                _ => None,
            };
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
            0
        }
    };
    let mut next = None;
    let mut looked_at = 0;
    let mut fresh = Vec::new();
    let wanted = limit - items.len();
    view.scan_events(fresh_from.max(shared.watermark()), |event| {
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
    for event in fresh {
        // With its first journal record it is fresh no longer.
        if !view.fates(event.seq)?.contains_key(&webhook) {
            items.push(Pending { event, attempts: 0, due_ms: None });
        }
    }
    Ok(PendingPage { items, next })
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
