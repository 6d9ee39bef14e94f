//! What the operator sees, over all tenants: the daemon's figures, every webhook, attempts as they are made. Owns how much
//! one question looks at; who may ask is settled above.

use std::sync::Arc;

use super::error::Error;
use super::subscribe::Seen;
use super::{Service, room};
use crate::clock::Millis;
use crate::egress::stream::Streams;
use crate::limits::{TAIL_LOOKED_AT_MAX, WEBHOOKS_LOOKED_AT_MAX};
use crate::model::attempt::Attempt;
use crate::model::event::Event;
use crate::model::id::{EventId, JournalSeq, TenantId, TenantNo, WebhookId, WebhookNo};
use crate::model::webhook::Webhook;
use crate::store::StoreError;
use crate::store::view::Shared;

/// How the daemon stands.
pub struct Overview {
    /// Wall time.
    pub now_ms: Millis,
    pub started_ms: Millis,
    /// How far the wall clock was moved since the start, in ms.
    pub clock_moved_ms: i64,
    pub tenants: usize,
    pub webhooks: Webhooks,
    /// Deliveries in the durable queue.
    pub queued: u64,
    pub dead: u64,
    pub in_flight: i64,
    /// When the oldest delivery in the queue of an active webhook was or is due, in schedule time.
    pub oldest_due_ms: Option<Millis>,
    /// How long it has been due.
    pub overdue_ms: Millis,
    /// Events accepted since the store was made.
    pub accepted: u64,
    /// Newest events that may have a delivery which is neither finished nor in the queue.
    pub open_events: u64,
    /// Length of the store file, if it can be told.
    pub store_bytes: Option<u64>,
    /// How full it is, as measured last, and what it may take.
    pub room: room::Seen,
    pub disk_budget: Option<u64>,
    /// Age of the oldest events, as retention counts it.
    pub oldest_event_ms: Option<Millis>,
    /// Wall time of the newest whole backup.
    pub last_backup_ms: Option<Millis>,
    /// Whether the last reload was taken over.
    pub reload_ok: bool,
}

/// Live webhooks, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Webhooks {
    pub active: usize,
    pub inactive: usize,
    /// Active ones whose newest attempt failed.
    pub failing: usize,
}

/// Which of the webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    Active,
    Inactive,
    /// Active, and its newest attempt failed.
    Failing,
}

/// Which attempts, in the order in which they were put on record.
pub struct TailQuery {
    pub tenant: Option<TenantNo>,
    pub webhook: Option<WebhookId>,
    pub only_failed: bool,
    /// Go on behind this journal record; `None`: with what comes from now on.
    pub after: Option<JournalSeq>,
    pub limit: usize,
}

/// An attempt, with the names of what it was about.
pub struct Tailed {
    pub tenant: TenantId,
    pub event: EventId,
    pub kind: String,
    pub webhook: WebhookId,
    pub attempt: Attempt,
}

/// What was put on record since, and where to go on.
pub struct Tail {
    pub items: Vec<Tailed>,
    pub next: JournalSeq,
}

/// What is summed up over the durable queue.
#[derive(Default)]
pub(super) struct Sums {
    failing: usize,
    queued: u64,
    dead: u64,
    pub oldest_due_ms: Option<Millis>,
    store_bytes: Option<u64>,
    oldest_event_ms: Option<Millis>,
    last_backup_ms: Option<Millis>,
}

impl Service {
    /// How the daemon stands: counted when it is asked for.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn overview(&self) -> Result<Overview, Error> {
        let (tenants, webhooks): (usize, Vec<Arc<Webhook>>) = {
            let registry = self.store.shared().registry();
            (registry.tenants().len(), registry.webhooks().cloned().collect())
        };
        let active = webhooks.iter().filter(|webhook| webhook.is_active()).count();
        let inactive = webhooks.len() - active;
        let (file, now_ms) = (self.store_file.clone(), self.clock.now_ms());
        let streams = self.streams.clone();
        let sums = self.store.read(move |shared| {
            let store_bytes = std::fs::metadata(file).map(|file| file.len()).ok();
            let oldest_event_ms = shared.view()?.oldest_event_age_ms(shared.age().at(now_ms))?;
            Ok(Sums { store_bytes, oldest_event_ms, ..sum_up(shared, &webhooks, &streams)? })
        });
        let sums = sums.await?;
        let shared = self.store.shared();
        let (now_ms, schedule_ms) = (self.clock.wall_ms(), self.clock.now_ms());
        let signed = |ms: Millis| i64::try_from(ms).unwrap_or(i64::MAX);
        Ok(Overview {
            now_ms,
            started_ms: now_ms.saturating_sub(schedule_ms.saturating_sub(self.started_ms)),
            clock_moved_ms: signed(now_ms) - signed(schedule_ms) - self.clock_lead_ms,
            tenants,
            webhooks: Webhooks { active, inactive, failing: sums.failing },
            queued: sums.queued,
            dead: sums.dead,
            in_flight: self.metrics.in_flight.get(),
            oldest_due_ms: sums.oldest_due_ms,
            overdue_ms: sums.oldest_due_ms.map_or(0, |due| schedule_ms.saturating_sub(due)),
            accepted: shared.next_event() - 1,
            open_events: shared.next_event().saturating_sub(shared.watermark()),
            store_bytes: sums.store_bytes,
            room: self.room_seen(),
            disk_budget: self.settings().disk_budget,
            oldest_event_ms: sums.oldest_event_ms,
            last_backup_ms: sums.last_backup_ms,
            reload_ok: self.metrics.reload_success.get() == 1,
        })
    }

    /// Webhooks of one tenant or of all, behind `after`, in the order of creation, with the ids of their tenants, and where
    /// the next page begins. With a filter that hardly matches a page comes back short.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn webhooks_of_all(
        &self,
        tenant: Option<TenantNo>,
        which: Which,
        after: WebhookNo,
        limit: usize,
    ) -> Result<(Vec<(TenantId, Seen)>, Option<WebhookNo>), Error> {
        let mut found: Vec<Arc<Webhook>> = {
            let registry = self.store.shared().registry();
            let wanted = |webhook: &&Arc<Webhook>| {
                webhook.no > after && tenant.is_none_or(|no| webhook.tenant == no) && may_be(which, webhook)
            };
            registry.webhooks().filter(wanted).cloned().collect()
        };
        found.sort_unstable_by_key(|webhook| webhook.no);
        // Only whether one fails has to be looked up.
        let looked_at = if which == Which::Failing { WEBHOOKS_LOOKED_AT_MAX } else { limit };
        let more = found.len() > looked_at;
        found.truncate(looked_at);
        let mut next = found.last().filter(|_| more).map(|webhook| webhook.no);
        let seen = self.see_all(found).await?;
        let mut page: Vec<Seen> =
            seen.into_iter().filter(|seen| which != Which::Failing || seen.standing.failures > 0).collect();
        if page.len() > limit {
            page.truncate(limit);
            next = page.last().map(|seen| seen.webhook.no);
        }
        let named = |seen: Seen| Some((self.tenant_no(seen.webhook.tenant)?.id.clone(), seen));
        Ok((page.into_iter().filter_map(named).collect(), next))
    }

    /// Attempts of all tenants in the order in which they were put on record.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn tail(&self, query: TailQuery) -> Result<Tail, Error> {
        Ok(self.store.read(move |shared| tail(shared, &query)).await?)
    }
}

fn may_be(which: Which, webhook: &Webhook) -> bool {
    match which {
        Which::All => true,
        Which::Active | Which::Failing => webhook.is_active(),
        Which::Inactive => !webhook.is_active(),
    }
}

pub(super) fn sum_up(shared: &Shared, webhooks: &[Arc<Webhook>], streams: &Streams) -> Result<Sums, StoreError> {
    let pauses = shared.registry().pauses().clone();
    let view = shared.view()?;
    let mut sums = Sums { last_backup_ms: view.last_backup()?, ..Sums::default() };
    let standings = view.standings()?;
    for webhook in webhooks {
        let Some(standing) = standings.get(&webhook.no) else { continue };
        sums.queued += standing.pending();
        sums.dead += standing.dead;
        if !webhook.is_active() {
            continue;
        }
        sums.failing += usize::from(standing.failures > 0);
        if pauses.of(webhook).is_some() || streams.is_away(webhook) {
            continue;
        }
        for (started, rows) in [(false, standing.waiting), (true, standing.started)] {
            let due = if rows > 0 { view.next_due(webhook.no, started, |_, _| false)? } else { None };
            sums.oldest_due_ms = sums.oldest_due_ms.into_iter().chain(due).min();
        }
    }
    Ok(sums)
}

fn tail(shared: &Shared, query: &TailQuery) -> Result<Tail, StoreError> {
    let Some(after) = query.after else {
        return Ok(Tail { items: Vec::new(), next: shared.next_journal().saturating_sub(1) });
    };
    let view = shared.view()?;
    let (mut attempts, mut next, mut looked_at) = (Vec::new(), after, 0);
    view.scan_attempts(after.saturating_add(1), |number, attempt| {
        if attempts.len() >= query.limit || looked_at >= TAIL_LOOKED_AT_MAX {
            return false;
        }
        (next, looked_at) = (number, looked_at + 1);
        attempts.extend(attempt.filter(|attempt| !query.only_failed || attempt.class.is_some()));
        true
    })?;
    let mut items = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        // An event that retention took has no id left to name.
        let Some(event) = view.event(attempt.event)? else { continue };
        items.extend(named(shared, query, attempt, event));
    }
    Ok(Tail { items, next })
}

/// The attempt with its names, if it is wanted; a webhook that was deleted since has none.
fn named(shared: &Shared, query: &TailQuery, attempt: Attempt, event: Event) -> Option<Tailed> {
    let registry = shared.registry();
    let webhook = registry.webhook(attempt.webhook)?;
    let wanted = query.tenant.is_none_or(|no| webhook.tenant == no) && query.webhook.is_none_or(|id| webhook.id == id);
    let tenant = registry.tenant(webhook.tenant)?.id.clone();
    wanted.then(|| Tailed { tenant, event: event.id, kind: event.kind, webhook: webhook.id, attempt })
}
