//! The engine's ops on tenants, webhooks, keys and pauses.

use std::sync::Arc;

use super::engine::{Engine, Group};
use super::op::{Done, Quota, Refusal, SecretChange, WebhookPatch};
use super::record::Standing;
use super::registry::Change;
use crate::limits::STREAMS_PER_TENANT_MAX;
use crate::model::id::{KeyId, TenantId, WebhookNo};
use crate::model::key::{Key, Tenant};
use crate::model::pause::{Pause, Scope};
use crate::model::webhook::{InactiveReason, SigningSecret, Webhook, WebhookState};

type Decided = Result<Done, Refusal>;

impl Engine {
    pub(super) fn create_webhook(&mut self, group: &mut Group<'_>, draft: &Webhook, quota: Quota) -> Decided {
        if self.registry.tenant(draft.tenant).is_none() {
            return Err(Refusal::UnknownTenant);
        }
        let full = self.registry.count_of(draft.tenant, None) >= quota.of_tenant;
        let dialect_full = if draft.is_stream() {
            let streams = self.registry.webhooks_of(draft.tenant).filter(|webhook| webhook.is_stream());
            streams.count() >= STREAMS_PER_TENANT_MAX
        } else {
            quota.of_dialect.is_some_and(|max| self.registry.count_of(draft.tenant, Some(draft.dialect)) >= max)
        };
        if full || dialect_full {
            return Err(Refusal::QuotaExceeded);
        }
        let mut webhook = draft.clone();
        webhook.no = self.next_webhook;
        self.next_webhook += 1;
        webhook.created_ms = group.wall_ms;
        Ok(Done::Webhook(self.put(group, webhook)))
    }

    pub(super) fn register_sole(&mut self, group: &mut Group<'_>, draft: &Webhook, quota: Quota) -> Decided {
        let is_it = |webhook: &&Arc<Webhook>| webhook.dialect == draft.dialect && !webhook.is_stream();
        let present = self.registry.webhooks_of(draft.tenant).find(is_it).cloned();
        match present {
            None => self.create_webhook(group, draft, quota),
            Some(present) if present.url == draft.url && present.is_active() => Ok(Done::Webhook(present)),
            Some(present) => {
                let patch =
                    WebhookPatch { url: Some(draft.url.clone()), active: Some(true), ..WebhookPatch::default() };
                self.update_webhook(group, present.no, &patch)
            }
        }
    }

    pub(super) fn update_webhook(&mut self, group: &mut Group<'_>, no: WebhookNo, patch: &WebhookPatch) -> Decided {
        let Some(current) = self.registry.webhook(no) else { return Err(Refusal::NotFound) };
        let mut webhook = Webhook::clone(current);
        let patch = patch.clone();
        webhook.url = patch.url.unwrap_or(webhook.url);
        webhook.filters = patch.filters.unwrap_or(webhook.filters);
        webhook.headers = patch.headers.unwrap_or(webhook.headers);
        webhook.plan = patch.plan.unwrap_or(webhook.plan);
        webhook.timeout_ms = patch.timeout_ms.unwrap_or(webhook.timeout_ms);
        webhook.max_in_flight = patch.max_in_flight.unwrap_or(webhook.max_in_flight);
        webhook.rate_limit = patch.rate_limit.unwrap_or(webhook.rate_limit);
        webhook.description = patch.description.unwrap_or(webhook.description);
        match patch.active {
            Some(true) => webhook.state = WebhookState::Active,
            Some(false) if webhook.is_active() => {
                webhook.state = WebhookState::Inactive { reason: InactiveReason::Owner, since: group.wall_ms };
            }
            Some(false) | None => {}
        }
        match patch.secret {
            Some(SecretChange::Replace(secret)) => webhook.secrets = vec![SigningSecret { secret, until: None }],
            Some(SecretChange::Rotate { new, old_until }) => {
                let now = group.now;
                webhook.secrets.retain(|old| old.until.is_none_or(|until| now < until));
                for old in &mut webhook.secrets {
                    old.until = Some(old.until.map_or(old_until, |until| until.min(old_until)));
                }
                webhook.secrets.insert(0, SigningSecret { secret: new, until: None });
            }
            None => {}
        }
        Ok(Done::Webhook(self.put(group, webhook)))
    }

    pub(super) fn delete_webhook(&mut self, group: &mut Group<'_>, no: WebhookNo) -> Decided {
        if self.registry.webhook(no).is_none() {
            return Err(Refusal::NotFound);
        }
        self.set_state(group, no, WebhookState::Deleted { at: group.wall_ms });
        self.sweeps.push_back(no);
        for scope in [Scope::Webhook(no), Scope::Own(no)] {
            if self.registry.pauses().get(&scope).is_some() {
                self.change(group, Change::Pause(scope.clone(), None));
                group.effects.pauses.push(scope);
            }
        }
        Ok(Done::Nothing)
    }

    /// Gives a live webhook another state; nothing happens to one that is gone.
    pub(super) fn set_state(&mut self, group: &mut Group<'_>, no: WebhookNo, state: WebhookState) {
        if let Some(current) = self.registry.webhook(no) {
            let mut webhook = Webhook::clone(current);
            webhook.state = state;
            self.put(group, webhook);
        }
    }

    fn put(&mut self, group: &mut Group<'_>, mut webhook: Webhook) -> Arc<Webhook> {
        let was_inactive = self.registry.webhook(webhook.no).is_some_and(|before| !before.is_active());
        if was_inactive && webhook.is_active() {
            // Whatever led to that is over: its failures are counted anew.
            self.standings.change(webhook.no, Standing::forget_failures);
            group.dirty.insert(webhook.no);
        }
        webhook.since_seq = group.events.next();
        webhook.updated_ms = group.wall_ms;
        let webhook = Arc::new(webhook);
        self.change(group, Change::Webhook(webhook.clone()));
        group.effects.changed.push(webhook.clone());
        webhook
    }

    pub(super) fn put_tenant(
        &mut self,
        group: &mut Group<'_>,
        id: &TenantId,
        name: Option<&Option<String>>,
        plan: Option<&Option<String>>,
    ) -> Decided {
        let mut tenant = match self.registry.tenant_by_id(id) {
            Some(tenant) => Tenant::clone(tenant),
            None => {
                let no = self.next_tenant;
                self.next_tenant += 1;
                Tenant { no, id: id.clone(), name: None, plan: None, created_ms: group.wall_ms }
            }
        };
        tenant.name = name.cloned().unwrap_or(tenant.name);
        if let Some(plan) = plan.filter(|plan| **plan != tenant.plan) {
            tenant.plan.clone_from(plan);
            // Its webhooks are to be tried by the new one from now on.
            group.effects.changed.extend(self.registry.webhooks_of(tenant.no).cloned());
        }
        let tenant = Arc::new(tenant);
        self.change(group, Change::Tenant(tenant.clone()));
        Ok(Done::Tenant(tenant))
    }

    pub(super) fn create_key(&mut self, group: &mut Group<'_>, key: &Key) -> Decided {
        if key.tenant.is_some_and(|tenant| self.registry.tenant(tenant).is_none()) {
            return Err(Refusal::UnknownTenant);
        }
        let key = Arc::new(key.clone());
        self.change(group, Change::Key(key.clone()));
        Ok(Done::Key(key))
    }

    pub(super) fn revoke_key(&mut self, group: &mut Group<'_>, id: KeyId) -> Decided {
        let Some(key) = self.registry.key(id).filter(|key| key.revoked_ms.is_none()) else {
            return Err(Refusal::NotFound);
        };
        let mut key = Key::clone(key);
        key.revoked_ms = Some(group.wall_ms);
        let key = Arc::new(key);
        self.change(group, Change::Key(key.clone()));
        Ok(Done::Key(key))
    }

    /// Pauses or resumes; what is so already stays as it is.
    pub(super) fn pause(&mut self, group: &mut Group<'_>, scope: &Scope, paused: bool) -> Decided {
        match scope {
            Scope::Tenant(no) if self.registry.tenant(*no).is_none() => return Err(Refusal::UnknownTenant),
            Scope::Webhook(no) | Scope::Own(no) if self.registry.webhook(*no).is_none() => {
                return Err(Refusal::NotFound);
            }
            _ => {}
        }
        let before = self.registry.pauses().get(scope);
        let is_paused = before.is_some_and(|pause| pause.until_ms.is_none());
        if is_paused == paused {
            return Ok(Done::Nothing);
        }
        let now = group.wall_ms;
        let pause = match before.filter(|_| !paused) {
            Some(pause) => Pause { until_ms: Some(now), ..pause },
            None => Pause { since_ms: now, until_ms: None },
        };
        self.change(group, Change::Pause(scope.clone(), Some(pause)));
        group.effects.pauses.push(scope.clone());
        Ok(Done::Nothing)
    }

    pub(super) fn change(&mut self, group: &mut Group<'_>, change: Change) {
        self.registry.apply(&change);
        group.changes.push(change);
    }
}
