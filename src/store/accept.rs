//! The engine's op that accepts events: appends them, finds whom they are for, and answers a repeated idempotency key with what
//! was accepted under it. Owns what an idempotency key remembers.

use std::sync::Arc;

use super::StoreError;
use super::engine::{Engine, Group};
use super::log::{self, Log};
use super::lookup;
use super::op::{Accept, Done, Draft, Idempotency, Receipt, Refusal};
use super::record::{self, Remembered};
use super::row;
use super::schema::IDEMPOTENCY;
use crate::clock::Millis;
use crate::model::event::Event;
use crate::model::id::{BROADCAST, TenantNo, WebhookNo};

const DAY_MS: Millis = 86_400_000;

type Decided = Result<Result<Done, Refusal>, StoreError>;

impl Engine {
    pub(super) fn accept(&mut self, group: &mut Group<'_>, accept: &Accept) -> Decided {
        if !group.decided {
            if let Some(idempotency) = &accept.idempotency
                && let Some(before) = self.remembered(group, idempotency)?
            {
                if before.body_hash != idempotency.body_hash {
                    return Ok(Err(Refusal::IdempotencyConflict));
                }
                if let Some(events) = self.accepted_before(group, &before)? {
                    return Ok(Ok(Done::Accepted(Receipt::new(events, true))));
                }
            }
            if accept.drafts.iter().any(|d| d.tenant != BROADCAST && self.registry.tenant(d.tenant).is_none()) {
                return Ok(Err(Refusal::UnknownTenant));
            }
            if accept.pending_max.is_some_and(|max| self.has_full_backlog(&accept.drafts, max)) {
                return Ok(Err(Refusal::BacklogFull));
            }
        }
        let appended: Result<Vec<_>, StoreError> =
            accept.drafts.iter().map(|draft| self.append(group, draft, None)).collect();
        let events = appended?;
        if let Some(idempotency) = &accept.idempotency
            && let Some(first) = events.first()
        {
            let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
            let remembered = Remembered { body_hash: idempotency.body_hash, first: first.seq, count, at_ms: group.now };
            let day = u32::try_from(group.now / DAY_MS).unwrap_or(u32::MAX);
            let mut table = group.txn().open_table(IDEMPOTENCY)?;
            let key = (day, &idempotency.hash);
            table.insert(key, row::write(IDEMPOTENCY, &key, &remembered).as_slice())?;
            group.remembered.insert(idempotency.hash, remembered);
        }
        Ok(Ok(Done::Accepted(Receipt::new(events, false))))
    }

    /// Whether a tenant that one of these would be queued for has as many deliveries pending as it may have. What is for
    /// everybody is not held back by one tenant's backlog.
    fn has_full_backlog(&self, drafts: &[Draft], max: u64) -> bool {
        let mut tenants: Vec<TenantNo> = drafts.iter().filter(|d| !d.test).map(|d| d.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let full = |tenant: &TenantNo| *tenant != BROADCAST && self.pending_of(*tenant) >= max;
        let queues = |tenant: TenantNo| {
            let mut own = drafts.iter().filter(|draft| draft.tenant == tenant && !draft.test);
            own.any(|draft| !self.registry.matching(tenant, &draft.kind, draft.channel.as_deref()).is_empty())
        };
        tenants.into_iter().filter(full).any(queues)
    }

    /// Deliveries pending for a tenant's webhooks.
    fn pending_of(&self, tenant: TenantNo) -> u64 {
        let of = |no: WebhookNo| {
            let standing = self.standings.get(no);
            standing.map_or(0, |standing| standing.pending()) + self.fresh.count_of(no)
        };
        self.registry.webhooks_of(tenant).map(|webhook| of(webhook.no)).sum()
    }

    /// Appends an event; `about` names the webhook that it never goes through.
    pub(super) fn append(
        &mut self,
        group: &mut Group<'_>,
        draft: &Draft,
        about: Option<WebhookNo>,
    ) -> Result<Arc<Event>, StoreError> {
        let channel = draft.channel.as_deref();
        let mut matched =
            if draft.test { Vec::new() } else { self.registry.matching(draft.tenant, &draft.kind, channel) };
        matched.retain(|webhook| Some(*webhook) != about);
        let [data, context, user] = draft.parts(!matched.is_empty());
        let seq = group.events.next();
        let event = Arc::new(Event {
            seq,
            id: self.minter.mint(seq, group.now),
            tenant: draft.tenant,
            kind: draft.kind.clone(),
            channel: draft.channel.clone(),
            accepted_ms: group.now,
            created_us: draft.created_us,
            ordering_key: draft.ordering_key.clone(),
            data,
            context,
            user,
            matched,
            test: draft.test,
        });
        group.events.push(record::event_bytes(&event), |out| record::write_event(out, &event));
        // Those that another of their key is before are held, on disk only.
        let held = match event.order() {
            Some(order) => self.line_up(group, &event, order)?,
            None => Vec::new(),
        };
        let free: Vec<WebhookNo> = event.matched.iter().copied().filter(|no| held.binary_search(no).is_err()).collect();
        self.fresh.push(free.iter().copied());
        group.tenants.push(event.tenant);
        group.effects.fresh.extend(free.into_iter().map(|webhook| (webhook, event.clone())));
        group.accepted.push(event.clone());
        Ok(event)
    }

    /// What was accepted under this key within its time, unless retention has taken it early: then the key is unknown.
    fn remembered(&self, group: &Group<'_>, wanted: &Idempotency) -> Result<Option<Remembered>, StoreError> {
        if let Some(found) = group.remembered.get(&wanted.hash) {
            return Ok(Some(*found));
        }
        let table = group.txn().open_table(IDEMPOTENCY)?;
        let today = u32::try_from(group.now / DAY_MS).unwrap_or(u32::MAX);
        let days = u32::try_from(self.shared.idempotency_ms().div_ceil(DAY_MS)).unwrap_or(1);
        for day in today.saturating_sub(days)..=today {
            let key = (day, &wanted.hash);
            let Some(value) = lookup::get(&table, &IDEMPOTENCY, &key)? else { continue };
            let found: Remembered = row::read(IDEMPOTENCY, &key, value.value())?;
            let young = group.now.saturating_sub(found.at_ms) < self.shared.idempotency_ms();
            if young && found.first >= log::floor(Log::Events, &group.txn().open_table(Log::Events.table())?)?.0 {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// `None`: what was erased with its tenant was not accepted from whoever has that name now.
    fn accepted_before(&self, group: &Group<'_>, before: &Remembered) -> Result<Option<Vec<Arc<Event>>>, StoreError> {
        let wanted = before.first..before.first + u64::from(before.count);
        let is_wanted = |event: &&Arc<Event>| wanted.contains(&event.seq);
        let mut events: Vec<Arc<Event>> = group.accepted.iter().filter(is_wanted).cloned().collect();
        if events.is_empty() {
            log::scan(Log::Events, &group.txn().open_table(Log::Events.table())?, before.first, |seq, bytes| {
                if wanted.contains(&seq) {
                    events.push(Arc::new(record::read_event(seq, bytes)?));
                }
                Ok(seq + 1 < wanted.end)
            })?;
        }
        Ok(Some(events).filter(|events| events.is_empty() || events.iter().any(|event| !event.is_erased())))
    }
}
