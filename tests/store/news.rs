//! What the store should report of webhooks: the rules of operational events on the model's plain collections.

use webhookd::clock::Millis;
use webhookd::limits::{DEATHS_TOLD_AT_ONCE, FAILING_ATTEMPTS_MIN};
use webhookd::model::attempt::{DeadReason, Verdict};
use webhookd::model::id::{EventId, OPERATOR_NO, Seq, WebhookNo};
use webhookd::model::time::millis_z;
use webhookd::store::op::{Draft, Outcome};

use crate::model::{Expected, Fact, Hook, Life, Model};

pub const KINDS: [&str; 4] =
    ["webhookd.webhook.failing", "webhookd.webhook.disabled", "webhookd.webhook.recovered", "webhookd.delivery.dead"];

const HOUR_MS: Millis = 3_600_000;
const MINUTE_MS: Millis = 60_000;

/// How a webhook does, as reports see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    pub failures: u32,
    pub failing_since_ms: Option<Millis>,
    pub failing_from_ms: Option<Millis>,
    pub last_success_ms: Option<Millis>,
    pub warned: u8,
    pub untold: u64,
    pub newest_death: Option<(Seq, DeadReason)>,
    pub told_ms: Option<Millis>,
}

fn quoted(ms: Option<Millis>) -> String {
    ms.map_or_else(|| "null".to_owned(), |ms| format!("\"{}\"", millis_z(ms)))
}

impl Health {
    pub fn forget_failures(&mut self) {
        let Self { last_success_ms, untold, newest_death, told_ms, .. } = *self;
        *self = Self { last_success_ms, untold, newest_death, told_ms, ..Self::default() };
    }
}

impl Model {
    /// After an attempt was counted; `before` is how the webhook did until then.
    pub fn report(&mut self, outcome: &Outcome, before: &Health) {
        let (webhook, event) = (outcome.attempt.webhook, outcome.attempt.event);
        if !self.live(webhook) {
            return;
        }
        if outcome.attempt.verdict == Verdict::Delivered {
            if before.warned > 0 {
                let data = format!(
                    r#"{{"failing_since":{},"failures":{}}}"#,
                    quoted(before.failing_since_ms),
                    before.failures
                );
                self.raise(webhook, KINDS[2], data);
            }
            return;
        }
        let health = self.hooks[&webhook].health.clone();
        let at_ms = outcome.attempt.at_ms;
        let since_pause = self.paused_until(webhook, at_ms).map_or(Millis::MAX, |until| at_ms.saturating_sub(until));
        let failing_ms = (self.aged_ms - health.failing_from_ms.unwrap_or(self.aged_ms)).min(since_pause);
        let failing = health.failures >= FAILING_ATTEMPTS_MIN && failing_ms >= 120 * HOUR_MS;
        let reason = outcome.deactivate.map(|reason| reason.as_str()).or(failing.then_some("failing"));
        let quiet = self.is_operational(event);
        if self.hooks[&webhook].life == Life::Active {
            if let Some(reason) = reason {
                self.set_life(webhook, Life::Inactive);
                if !quiet {
                    let since = quoted(health.failing_since_ms);
                    let (failures, id) = (health.failures, self.id_of(event));
                    let data = format!(
                        r#"{{"reason":"{reason}","failing_since":{since},"failures":{failures},"event":"{id}"}}"#
                    );
                    self.raise(webhook, KINDS[1], data);
                }
            } else if !quiet {
                self.warn(webhook, failing_ms, &health);
            }
        }
        self.tell_deaths(webhook);
    }

    fn warn(&mut self, webhook: WebhookNo, failing_ms: Millis, health: &Health) {
        let percent = match failing_ms / HOUR_MS {
            0..60 => 0,
            60..90 => 50,
            _ => 75,
        };
        if percent > health.warned {
            self.health(webhook).warned = percent;
            let since = health.failing_since_ms.unwrap();
            let data = format!(
                r#"{{"percent":{percent},"failing_since":{},"failures":{},"disabled_at":{}}}"#,
                quoted(Some(since)),
                health.failures,
                quoted(Some(since + 120 * HOUR_MS))
            );
            self.raise(webhook, KINDS[0], data);
        }
    }

    pub fn note_death(&mut self, webhook: WebhookNo, event: Seq, reason: DeadReason) {
        if !self.is_operational(event) {
            self.health(webhook).untold += 1;
            self.health(webhook).newest_death = Some((event, reason));
        }
    }

    /// Says whether something was told.
    pub fn tell_deaths(&mut self, webhook: WebhookNo) -> bool {
        let health = self.hooks[&webhook].health.clone();
        let is_told = health.told_ms.is_some_and(|told| self.now < told + MINUTE_MS);
        let Some((event, reason)) = health.newest_death.filter(|_| self.live(webhook) && !is_told) else {
            return false;
        };
        let dead = self.dead.keys().filter(|(of, _)| *of == webhook).count();
        let kind = self.events[event as usize - 1].draft.kind.clone();
        let data = format!(
            r#"{{"count":{},"dead_letters":{dead},"event":"{}","event_type":"{kind}","reason":"{}"}}"#,
            health.untold,
            self.id_of(event),
            reason.as_str()
        );
        let now = self.now;
        let health = self.health(webhook);
        (health.untold, health.newest_death, health.told_ms) = (0, None, Some(now));
        self.raise(webhook, KINDS[3], data);
        true
    }

    pub fn tell(&mut self) -> Expected {
        let hooks: Vec<WebhookNo> = self.hooks.keys().copied().collect();
        let told = hooks.into_iter().filter(|no| self.tell_deaths(*no)).count();
        assert!(told < DEATHS_TOLD_AT_ONCE, "more than this model foretells");
        Expected::Count(told)
    }

    /// The tenant's own event, and the operator's.
    fn raise(&mut self, webhook: WebhookNo, kind: &str, data: String) {
        let Hook { tenant, id, .. } = self.hooks[&webhook].clone();
        let name = if tenant == OPERATOR_NO { "operator" } else { &self.tenants[tenant as usize - 1] };
        let context = format!(r#"{{"webhook":"{id}","tenant":"{name}"}}"#);
        let mut draft = Draft { tenant, kind: kind.to_owned(), created_us: self.wall_ms * 1_000, ..Draft::default() };
        (draft.data, draft.context) = (Some(data.into()), Some(context.into()));
        let operators = (tenant != OPERATOR_NO).then(|| Draft { tenant: OPERATOR_NO, ..draft.clone() });
        for draft in [Some(draft), operators].into_iter().flatten() {
            let seq = self.heads().0;
            let mut matched = self.matched(&draft);
            matched.retain(|no| *no != webhook);
            self.fresh.extend(matched.iter().map(|no| (seq, *no)));
            self.events.push(Fact { draft, accepted_ms: self.now, matched, id: None });
        }
    }

    fn health(&mut self, webhook: WebhookNo) -> &mut Health {
        &mut self.hooks.get_mut(&webhook).unwrap().health
    }

    fn is_operational(&self, event: Seq) -> bool {
        self.events[event as usize - 1].draft.kind.starts_with("webhookd.")
    }

    fn id_of(&self, event: Seq) -> EventId {
        self.events[event as usize - 1].id.unwrap()
    }
}
