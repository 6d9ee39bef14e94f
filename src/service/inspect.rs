//! Reading: events, attempts. Owns who sees what: a tenant its own events and those for everybody, its own webhooks'
//! attempts, and nothing of anybody else's, not even that it exists.

use std::collections::HashMap;
use std::sync::Arc;

use super::Service;
use super::error::Error;
use crate::model::attempt::Attempt;
use crate::model::event::Event;
use crate::model::id::{BROADCAST, EventId, JournalSeq, Seq, TenantNo, WebhookId};
use crate::model::webhook::Webhook;
use crate::store::StoreError;
use crate::store::page::{EventQuery, Page};
use crate::store::view::View;

/// A webhook's attempts, with the ids of their events.
pub struct Attempts {
    pub webhook: Arc<Webhook>,
    pub items: Vec<(EventId, Attempt)>,
    /// Where the next page begins.
    pub next: Option<JournalSeq>,
}

impl Service {
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
