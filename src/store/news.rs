//! Operational events: what the engine itself reports of webhooks. Owns when something is told, to whom, and in what shape.
//!
//! Each is told twice: as an event of the webhook's tenant and as one of the tenant `operator`, with the same type, context
//! and data and ids of their own; of the operator's own webhooks there is one. They are written in the transaction of what
//! they tell of and find their subscribers as every event does. What is decided here follows from the op, the group's times
//! and what is on disk, nothing else.
//!
//! Invariant: no report feeds on itself. None goes through the webhook that it is about, and a failure to deliver one raises
//! none. Deaths raise at most one event a minute for each webhook, with their count: the first at once, the others later.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::engine::{Engine, Group};
use super::log::{self, Log};
use super::op::{Done, Draft, News, Outcome, Refusal};
use super::record::{self, Standing};
use crate::clock::Millis;
use crate::limits::{
    DEATHS_TOLD_AT_ONCE, DEATHS_TOLD_EVERY_MS, FAILING_ATTEMPTS_MIN, FAILING_FOR_MS, FAILING_WARNINGS_PERCENT,
};
use crate::model::attempt::{Attempt, DeadReason, Verdict};
use crate::model::event::RESERVED_PREFIX;
use crate::model::id::{EventId, OPERATOR_NO, Seq, TenantId, WebhookId, WebhookNo};
use crate::model::key::Tenant;
use crate::model::time::millis_z;
use crate::model::webhook::{InactiveReason, Webhook, WebhookState};

/// A webhook has had no success for half, or three quarters, of the time after which it is made inactive.
pub const FAILING: &str = "webhookd.webhook.failing";
/// A webhook was made inactive.
pub const DISABLED: &str = "webhookd.webhook.disabled";
/// A webhook that was warned of has had a success.
pub const RECOVERED: &str = "webhookd.webhook.recovered";
/// Deliveries went to the dead letters.
pub const DEAD: &str = "webhookd.delivery.dead";

/// The tenant that every store has.
pub(super) fn operator() -> Tenant {
    Tenant { no: OPERATOR_NO, id: TenantId::operator(), name: None, plan: None, created_ms: 0 }
}

/// Whether an event of this type and context reports of this webhook.
#[must_use]
pub fn is_about(kind: &str, context: Option<&[u8]>, webhook: WebhookId) -> bool {
    #[derive(Deserialize)]
    struct About<'a> {
        webhook: &'a str,
    }
    let about = || context.and_then(|text| serde_json::from_slice::<About<'_>>(text).ok());
    kind.starts_with(RESERVED_PREFIX) && about().is_some_and(|about| about.webhook == webhook.to_string())
}

/// The context of every operational event.
#[derive(Serialize)]
struct Context<'a> {
    webhook: String,
    tenant: &'a str,
}

#[derive(Serialize)]
struct Failing {
    percent: u8,
    failing_since: String,
    failures: u32,
    /// At the earliest.
    disabled_at: String,
}

#[derive(Serialize)]
struct Disabled {
    reason: &'static str,
    failing_since: Option<String>,
    failures: u32,
    event: Option<String>,
}

#[derive(Serialize)]
struct Recovered {
    failing_since: Option<String>,
    failures: u32,
}

#[derive(Serialize)]
struct Deaths {
    /// Since the last event that told of deaths.
    count: u64,
    /// In all, of this webhook.
    dead_letters: u64,
    /// The newest of them.
    event: Option<String>,
    event_type: Option<String>,
    reason: &'static str,
}

/// The event whose delivery something follows from.
struct Source {
    id: EventId,
    kind: String,
}

impl Source {
    fn is_operational(&self) -> bool {
        // What has been erased and was still under way to a webhook that is known was a report of a tenant that is gone.
        self.kind.is_empty() || self.kind.starts_with(RESERVED_PREFIX)
    }
}

impl Engine {
    /// What an attempt's end means to its webhook, and what is told of it: `before` is how it stood until then.
    pub(super) fn report(
        &mut self,
        group: &mut Group<'_>,
        outcome: &Outcome,
        before: Standing,
        standing: &mut Standing,
    ) -> Result<(), StoreError> {
        let attempt = &outcome.attempt;
        if attempt.verdict == Verdict::Delivered {
            return if before.warned > 0 { self.tell_recovered(group, outcome, before) } else { Ok(()) };
        }
        let failing_ms = self.failing_for_ms(group.aged_ms, attempt, standing);
        let failing = standing.failures >= FAILING_ATTEMPTS_MIN && failing_ms >= FAILING_FOR_MS;
        let active = self.registry.webhook(attempt.webhook).filter(|webhook| webhook.is_active()).cloned();
        if let Some(webhook) = active {
            match outcome.deactivate.or(failing.then_some(InactiveReason::Failing)) {
                Some(reason) => self.disable(group, &webhook, attempt.event, reason, standing)?,
                None => self.warn(group, &webhook, attempt.event, failing_ms, standing)?,
            }
        }
        self.tell_deaths(group, attempt.webhook, standing)
    }

    /// How long a webhook has been failing at this moment. Time before the end of its last pause does not count: nothing was
    /// tried then. Pauses are kept in wall time, failing by the age clock: a wall clock that steps can only make it less, and one
    /// that is wrong at a start makes it three days more at most.
    fn failing_for_ms(&self, aged_ms: Millis, attempt: &Attempt, standing: &Standing) -> Millis {
        let failing_ms = standing.failing_from_ms.map_or(0, |from| aged_ms.saturating_sub(from));
        let live = self.registry.webhook(attempt.webhook);
        let paused_until = live.and_then(|webhook| self.registry.pauses().last_until(webhook, attempt.at_ms));
        paused_until.map_or(failing_ms, |until| failing_ms.min(attempt.at_ms.saturating_sub(until)))
    }

    fn disable(
        &mut self,
        group: &mut Group<'_>,
        webhook: &Webhook,
        event: Seq,
        reason: InactiveReason,
        standing: &Standing,
    ) -> Result<(), StoreError> {
        self.set_state(group, webhook.no, WebhookState::Inactive { reason, since: group.wall_ms });
        let source = self.source(group, event)?;
        let id = source.as_ref().map(|source| source.id);
        let (reason, count) = (reason.as_str(), u64::from(standing.failures));
        group.effects.news.push(News { kind: DISABLED, webhook: webhook.id, event: id, reason, count });
        if source.is_some_and(|source| source.is_operational()) {
            return Ok(());
        }
        let data = Disabled {
            reason,
            failing_since: standing.failing_since_ms.map(millis_z),
            failures: standing.failures,
            event: id.map(|id| id.to_string()),
        };
        self.raise(group, webhook, DISABLED, &data)
    }

    /// Warns when the next share of the time is over.
    fn warn(
        &mut self,
        group: &mut Group<'_>,
        webhook: &Webhook,
        event: Seq,
        failing_ms: Millis,
        standing: &mut Standing,
    ) -> Result<(), StoreError> {
        let is_over = |percent: &&u8| failing_ms.saturating_mul(100) >= FAILING_FOR_MS * u64::from(**percent);
        let Some(percent) = FAILING_WARNINGS_PERCENT.iter().rev().find(is_over).copied() else { return Ok(()) };
        let Some(since) = standing.failing_since_ms.filter(|_| percent > standing.warned) else { return Ok(()) };
        let source = self.source(group, event)?;
        if source.as_ref().is_some_and(Source::is_operational) {
            return Ok(());
        }
        standing.warned = percent;
        let id = source.map(|source| source.id);
        let count = u64::from(standing.failures);
        group.effects.news.push(News { kind: FAILING, webhook: webhook.id, event: id, reason: "no_success", count });
        let data = Failing {
            percent,
            failing_since: millis_z(since),
            failures: standing.failures,
            disabled_at: millis_z(since.saturating_add(FAILING_FOR_MS)),
        };
        self.raise(group, webhook, FAILING, &data)
    }

    fn tell_recovered(&mut self, group: &mut Group<'_>, outcome: &Outcome, before: Standing) -> Result<(), StoreError> {
        let Some(webhook) = self.registry.webhook(outcome.attempt.webhook).cloned() else { return Ok(()) };
        let event = self.source(group, outcome.attempt.event)?.map(|source| source.id);
        let count = u64::from(before.failures);
        group.effects.news.push(News { kind: RECOVERED, webhook: webhook.id, event, reason: "success", count });
        let data = Recovered { failing_since: before.failing_since_ms.map(millis_z), failures: before.failures };
        self.raise(group, &webhook, RECOVERED, &data)
    }

    /// Counts a death as one to be told of, unless it is an operational event's.
    pub(super) fn note_death(
        &self,
        group: &Group<'_>,
        standing: &mut Standing,
        event: Seq,
        reason: DeadReason,
    ) -> Result<(), StoreError> {
        if !self.source(group, event)?.is_some_and(|source| source.is_operational()) {
            standing.untold += 1;
            standing.newest_death = Some((event, reason));
        }
        Ok(())
    }

    /// Tells of a webhook's deaths, if none was told of within the last minute; otherwise a `Tell` will.
    pub(super) fn tell_deaths(
        &mut self,
        group: &mut Group<'_>,
        webhook: WebhookNo,
        standing: &mut Standing,
    ) -> Result<(), StoreError> {
        let Some((event, reason)) = standing.newest_death.filter(|_| standing.untold > 0) else { return Ok(()) };
        let Some(webhook) = self.registry.webhook(webhook).cloned() else { return Ok(()) };
        if standing.told_ms.is_some_and(|told| group.now.saturating_sub(told) < DEATHS_TOLD_EVERY_MS) {
            self.untold.insert(webhook.no);
            return Ok(());
        }
        let source = self.source(group, event)?;
        let (id, kind) = source.map(|source| (source.id, source.kind)).unzip();
        let (reason, count) = (reason.as_str(), standing.untold);
        group.effects.news.push(News { kind: DEAD, webhook: webhook.id, event: id, reason, count });
        let data =
            Deaths { count, dead_letters: standing.dead, event: id.map(|id| id.to_string()), event_type: kind, reason };
        (standing.untold, standing.newest_death, standing.told_ms) = (0, None, Some(group.now));
        self.untold.remove(&webhook.no);
        self.raise(group, &webhook, DEAD, &data)
    }

    /// Tells of deaths whose minute is over.
    pub(super) fn tell(&mut self, group: &mut Group<'_>) -> Result<Result<Done, Refusal>, StoreError> {
        let mut told = 0;
        for no in self.untold.clone() {
            let Some(mut standing) = self.standings.get(no).filter(|_| self.registry.webhook(no).is_some()) else {
                self.untold.remove(&no);
                continue;
            };
            self.tell_deaths(group, no, &mut standing)?;
            if standing.untold == 0 {
                self.standings.insert(no, standing);
                group.dirty.insert(no);
                told += 1;
            }
            if told == DEATHS_TOLD_AT_ONCE {
                break;
            }
        }
        Ok(Ok(Done::Count(told)))
    }

    /// Appends an operational event about a webhook for its tenant, and one for the operator.
    fn raise(
        &mut self,
        group: &mut Group<'_>,
        webhook: &Webhook,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), StoreError> {
        let unwritable = |_| StoreError::Damaged("a report does not write");
        let tenant = self.registry.tenant(webhook.tenant).map_or("", |tenant| tenant.id.as_str());
        let context = Context { webhook: webhook.id.to_string(), tenant };
        let draft = Draft {
            tenant: webhook.tenant,
            kind: kind.to_owned(),
            created_us: group.wall_ms * 1_000,
            data: Some(serde_json::to_vec(data).map_err(unwritable)?.into()),
            context: Some(serde_json::to_vec(&context).map_err(unwritable)?.into()),
            ..Draft::default()
        };
        self.append(group, &draft, Some(webhook.no))?;
        if webhook.tenant != OPERATOR_NO {
            self.append(group, &Draft { tenant: OPERATOR_NO, ..draft }, Some(webhook.no))?;
        }
        Ok(())
    }

    fn source(&self, group: &Group<'_>, event: Seq) -> Result<Option<Source>, StoreError> {
        if let Some(here) = group.accepted.iter().find(|accepted| accepted.seq == event) {
            return Ok(Some(Source { id: here.id, kind: here.kind.clone() }));
        }
        let found = log::find(&group.txn(), Log::Events, event, record::read_event_name)?;
        Ok(found.map(|(id, kind)| Source { id, kind }))
    }
}
