//! Dead letters: reviewed, tried again, thrown away; and events sent once more. Owns which deliveries that may be asked of.
//!
//! Dead letters of a deleted webhook can't be tried again and are not listed; `explain` still tells of them.

use std::sync::Arc;

use super::error::Error;
use super::explain::{State, state_of};
use super::{Asker, Service, inspect};
use crate::clock::Millis;
use crate::model::attempt::{Attempt, DeadReason, Verdict};
use crate::model::event::Event;
use crate::model::id::{EventId, JournalSeq, Seq, TenantNo, WebhookId, WebhookNo};
use crate::model::pause::Scope;
use crate::model::webhook::Webhook;
use crate::store::StoreError;
use crate::store::deaths::DeadLetter;
use crate::store::op::Op;
use crate::store::page::Page;
use crate::store::record::Entry;
use crate::store::view::{Shared, View};

/// Dead letters that one page looks at before it comes back short.
const LOOKED_AT_MAX: usize = 2_000;

/// Which dead letters, newest first.
pub struct DeadQuery {
    pub webhook: Option<WebhookNo>,
    pub kind: Option<String>,
    /// By time of death, both included.
    pub since_ms: Option<Millis>,
    pub until_ms: Option<Millis>,
    /// Go on below this one.
    pub before: JournalSeq,
    pub limit: usize,
}

/// A dead letter, read.
pub struct Dead {
    pub event: Event,
    pub webhook: Arc<Webhook>,
    pub dead_ms: Millis,
    pub reason: DeadReason,
    /// Attempts made in all.
    pub attempts: u32,
    pub last_attempt: Option<Attempt>,
}

impl Service {
    /// A page of a tenant's dead letters.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dead_letters(&self, tenant: TenantNo, query: DeadQuery) -> Result<Page<Dead>, Error> {
        Ok(self.store.read(move |shared| page(shared, tenant, &query)).await?)
    }

    /// Tries a dead letter again, with a new budget.
    ///
    /// # Errors
    /// Not found, or dead no longer.
    pub async fn redrive(
        &self,
        tenant: TenantNo,
        event: EventId,
        webhook: WebhookId,
        asker: &Asker,
    ) -> Result<(), Error> {
        let (webhook, event) = self.letter(tenant, event, webhook).await?;
        self.submit(Op::Redrive { webhook, event }, asker).await?;
        self.dispatch.expect_well(&Scope::Webhook(webhook));
        Ok(())
    }

    /// Throws a dead letter away.
    ///
    /// # Errors
    /// Not found, or dead no longer.
    pub async fn drop_dead(
        &self,
        tenant: TenantNo,
        event: EventId,
        webhook: WebhookId,
        asker: &Asker,
    ) -> Result<(), Error> {
        let (webhook, event) = self.letter(tenant, event, webhook).await?;
        self.submit(Op::DropDead { webhook, event }, asker).await?;
        Ok(())
    }

    /// Sends an event once more: to the named webhook, or to all that it matched and where nothing of it is pending.
    ///
    /// # Errors
    /// Not found; 409 when it is pending.
    pub async fn resend(
        &self,
        tenant: TenantNo,
        id: EventId,
        webhook: Option<WebhookId>,
        asker: &Asker,
    ) -> Result<usize, Error> {
        let named = webhook.map(|webhook| self.webhook_of(tenant, webhook)).transpose()?.map(|webhook| webhook.no);
        let found = self.store.read(move |shared| resendable(shared, tenant, id, named)).await?;
        let (event, webhooks, pending) = found.ok_or(Error::NotFound)?;
        // Of what was cancelled during its last attempt that attempt has to end first.
        if webhooks.iter().any(|no| self.dispatch.glance(*no, event).is_ending) {
            return Err(crate::store::op::Refusal::Pending.into());
        }
        if webhooks.is_empty() {
            return if pending { Err(crate::store::op::Refusal::Pending.into()) } else { Ok(0) };
        }
        let count = self.submit(Op::Resend { event, webhooks: webhooks.clone() }, asker).await?.count();
        webhooks.into_iter().for_each(|webhook| self.dispatch.expect_well(&Scope::Webhook(webhook)));
        Ok(count)
    }

    /// The store's names of a delivery.
    async fn letter(&self, tenant: TenantNo, event: EventId, webhook: WebhookId) -> Result<(WebhookNo, Seq), Error> {
        let webhook = self.webhook_of(tenant, webhook)?.no;
        Ok((webhook, self.event(tenant, event).await?.seq))
    }
}

fn page(shared: &Shared, tenant: TenantNo, query: &DeadQuery) -> Result<Page<Dead>, StoreError> {
    let view = shared.view()?;
    let (mut items, mut next, mut last, mut looked_at) = (Vec::new(), None, None, 0);
    view.scan_dead(tenant, query.before, |letter| {
        if items.len() >= query.limit || looked_at >= LOOKED_AT_MAX {
            next = last;
            return Ok(false);
        }
        looked_at += 1;
        last = Some(letter.death);
        items.extend(read(shared, &view, letter, query)?);
        Ok(true)
    })?;
    Ok(Page { items, next })
}

/// A dead letter, if it is among those that are asked for.
fn read(shared: &Shared, view: &View<'_>, letter: DeadLetter, query: &DeadQuery) -> Result<Option<Dead>, StoreError> {
    if query.webhook.is_some_and(|webhook| webhook != letter.webhook) {
        return Ok(None);
    }
    let Some(webhook) = shared.registry().webhook(letter.webhook).cloned() else { return Ok(None) };
    let Some(entry) = view.entry(letter.death)? else { return Ok(None) };
    let Some(dead_ms) = entry.died_ms() else { return Ok(None) };
    let (reason, last_attempt) = match entry {
        Entry::Attempt(attempt) => {
            let Verdict::Dead(reason) = attempt.verdict else { return Ok(None) };
            (reason, Some(attempt))
        }
        Entry::Died { reason, previous, .. } => {
            let last = view.chain(previous)?.into_iter().rev().find_map(|(_, entry)| match entry {
                Entry::Attempt(attempt) => Some(attempt),
                _ => None,
            });
            (reason, last)
        }
        _ => return Ok(None),
    };
    let outside = query.since_ms.is_some_and(|since| dead_ms < since) || query.until_ms.is_some_and(|u| dead_ms > u);
    let Some(event) = view.event(letter.event)?.filter(|_| !outside) else { return Ok(None) };
    if query.kind.as_ref().is_some_and(|kind| *kind != event.kind) {
        return Ok(None);
    }
    let attempts = last_attempt.as_ref().map_or(0, |attempt| attempt.number.get());
    Ok(Some(Dead { event, webhook, dead_ms, reason, attempts, last_attempt }))
}

/// The event, the webhooks that it can be sent to once more, and whether it is pending for others.
type Resendable = Option<(Seq, Vec<WebhookNo>, bool)>;

fn resendable(
    shared: &Shared,
    tenant: TenantNo,
    id: EventId,
    named: Option<WebhookNo>,
) -> Result<Resendable, StoreError> {
    let Some(seq) = shared.seq_of(id) else { return Ok(None) };
    let (view, fates) = shared.view_with_fates(seq)?;
    let Some(event) = inspect::visible(&view, tenant, id)? else { return Ok(None) };
    let wanted: Vec<WebhookNo> = match named {
        Some(no) => vec![no],
        None => {
            let registry = shared.registry();
            let own = |no: &&WebhookNo| registry.webhook(**no).is_some_and(|webhook| webhook.tenant == tenant);
            event.matched.iter().filter(own).copied().collect()
        }
    };
    let (mut free, mut pending) = (Vec::new(), false);
    for no in wanted {
        let fate = fates.get(&no);
        let chain = fate.map_or(Ok(Vec::new()), |fate| view.chain(fate.number))?;
        if state_of(&chain, fate, event.matched.contains(&no), false) == Some(State::Pending) {
            pending = true;
        } else {
            free.push(no);
        }
    }
    Ok(Some((event.seq, free, pending)))
}
