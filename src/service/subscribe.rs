//! Webhooks: registered, read, changed, rotated, tested, deleted. Owns how a change is judged as a whole; the rule of each
//! member is `field`'s, quotas and versions are the store's.

use std::sync::Arc;

use super::error::{Error, invalid_field};
use super::{Asker, Service, Settings, field};
use crate::limits::JSON_DEPTH_MAX;
use crate::model::attempt::Attempt;
use crate::model::event::Event;
use crate::model::id::{TenantNo, WebhookId, WebhookNo};
use crate::model::webhook::{Dialect, InactiveReason, Webhook, WebhookState};
use crate::render::depth_ok;
use crate::sign::generate_secret;
use crate::store::StoreError;
use crate::store::op::{Accept, Done, Draft, Op, Outcome, Quota, SecretChange, WebhookPatch};
use crate::store::record::Standing;
use crate::store::view::Shared;

/// What is asked of a webhook; `None` leaves a member as it is, `Some(None)` takes it back to its default.
#[derive(Default)]
pub struct Change {
    pub url: Option<String>,
    pub events: Option<Vec<String>>,
    pub active: Option<bool>,
    pub headers: Option<Option<Vec<(String, String)>>>,
    pub secret: Option<String>,
    pub plan: Option<Option<String>>,
    pub timeout: Option<Option<String>>,
    pub max_in_flight: Option<Option<u64>>,
    pub rate_limit: Option<Option<f64>>,
    pub description: Option<Option<String>>,
}

/// A webhook and how it does.
pub struct Seen {
    pub webhook: Arc<Webhook>,
    pub standing: Standing,
    /// By whomever and however widely.
    pub paused: bool,
}

/// A webhook of which its tenant has one.
pub struct Registered {
    /// Holds its secrets: they are for the answer to the first registration.
    pub webhook: Arc<Webhook>,
    pub first: bool,
}

/// What a test sends.
pub struct Trial {
    pub kind: String,
    pub created_us: Option<u64>,
    pub data: Option<bytes::Bytes>,
}

/// A test's event and the one attempt that was made of it.
pub struct Tried {
    pub event: Arc<Event>,
    pub webhook: Arc<Webhook>,
    pub attempt: Attempt,
}

impl Service {
    /// Registers a webhook. The returned version holds its secrets: a dialect shows the newest one this once.
    ///
    /// # Errors
    /// The rule that a member breaks, or the quota.
    pub async fn create(
        &self,
        tenant: TenantNo,
        dialect: Dialect,
        change: Change,
        asker: &Asker,
    ) -> Result<Arc<Webhook>, Error> {
        let (draft, quota) = self.draft(tenant, dialect, change)?;
        let op = Op::CreateWebhook { draft: Box::new(draft), quota };
        self.webhook_from(op, asker).await
    }

    /// Registers the one webhook of this dialect that a tenant may have; where there is one, it is made active and gets the
    /// new URL, and with it what is pending, and keeps everything else.
    ///
    /// # Errors
    /// The rule that a member breaks, or the quota.
    pub async fn register_sole(
        &self,
        tenant: TenantNo,
        dialect: Dialect,
        change: Change,
        asker: &Asker,
    ) -> Result<Registered, Error> {
        let (draft, quota) = self.draft(tenant, dialect, change)?;
        let id = draft.id;
        let webhook = self.webhook_from(Op::RegisterSole { draft: Box::new(draft), quota }, asker).await?;
        Ok(Registered { first: webhook.id == id, webhook })
    }

    fn draft(&self, tenant: TenantNo, dialect: Dialect, change: Change) -> Result<(Webhook, Quota), Error> {
        let settings = self.settings();
        let of_dialect = (dialect == Dialect::Omnia).then_some(settings.omnia_max);
        let quota = Quota { of_tenant: settings.webhooks_per_tenant, of_dialect };
        if dialect == Dialect::Omnia
            && let Some(events) = &change.events
        {
            field::channels(events, &settings.catalogue)?;
        }
        let patch = judge(&settings, change)?;
        Ok((self.webhook_of_patch(tenant, dialect, patch)?, quota))
    }

    /// The first version of a webhook, from members that were judged.
    pub(super) fn webhook_of_patch(
        &self,
        tenant: TenantNo,
        dialect: Dialect,
        patch: WebhookPatch,
    ) -> Result<Webhook, Error> {
        let now = self.clock.wall_ms();
        let inactive = WebhookState::Inactive { reason: InactiveReason::Owner, since: now };
        let secret = match patch.secret {
            Some(SecretChange::Replace(secret) | SecretChange::Rotate { new: secret, .. }) => secret,
            None => generate_secret(&self.entropy),
        };
        let id = uuid::Builder::from_unix_timestamp_millis(now, &self.entropy.bytes()).into_uuid();
        let url = patch.url.ok_or_else(|| invalid_field("url is required"))?;
        let filters = patch.filters.ok_or_else(|| invalid_field("events is required"))?;
        Ok(Webhook {
            dialect,
            state: if patch.active == Some(false) { inactive } else { WebhookState::Active },
            headers: patch.headers.unwrap_or_default(),
            plan: patch.plan.flatten(),
            timeout_ms: patch.timeout_ms.flatten(),
            max_in_flight: patch.max_in_flight.flatten(),
            rate_limit: patch.rate_limit.flatten(),
            description: patch.description.flatten().map(String::into_boxed_str),
            created_ms: now,
            updated_ms: now,
            ..Webhook::new(tenant, WebhookId(*id.as_bytes()), url, filters, secret)
        })
    }

    /// Changes a webhook; no attempt that starts after this returns uses what was before.
    ///
    /// # Errors
    /// The rule that a member breaks; not found.
    pub async fn update(
        &self,
        tenant: TenantNo,
        id: WebhookId,
        change: Change,
        asker: &Asker,
    ) -> Result<Arc<Webhook>, Error> {
        let webhook = self.webhook_of(tenant, id)?;
        let (no, patch) = (webhook.no, Box::new(judge(&self.settings(), change)?));
        if webhook.is_stream() && patch.url.is_some() {
            return Err(invalid_field("url can't be changed: the webhook has a stream"));
        }
        self.webhook_from(Op::UpdateWebhook { no, patch }, asker).await
    }

    /// Gives a webhook a new secret; the old one signs along for the configured time.
    ///
    /// # Errors
    /// Not found.
    pub async fn rotate(&self, tenant: TenantNo, id: WebhookId, asker: &Asker) -> Result<Arc<Webhook>, Error> {
        let no = self.webhook_of(tenant, id)?.no;
        let old_until = self.clock.now_ms().saturating_add(self.settings().rotation_overlap_ms);
        let secret = SecretChange::Rotate { new: generate_secret(&self.entropy), old_until };
        let patch = Box::new(WebhookPatch { secret: Some(secret), ..WebhookPatch::default() });
        self.webhook_from(Op::UpdateWebhook { no, patch }, asker).await
    }

    /// Deletes a webhook, which cancels what is pending for it.
    ///
    /// # Errors
    /// Not found.
    pub async fn delete(&self, tenant: TenantNo, id: WebhookId, asker: &Asker) -> Result<(), Error> {
        let no = self.webhook_of(tenant, id)?.no;
        self.submit(Op::DeleteWebhook { no }, asker).await?;
        Ok(())
    }

    /// Sends a test at once, once; inactive webhooks too.
    ///
    /// # Errors
    /// Not found, that the tenant has too many under way, or that the test could not be put on record. A receiver's failure is in
    /// the attempt.
    pub async fn test(&self, tenant: TenantNo, id: WebhookId, trial: Trial, asker: &Asker) -> Result<Tried, Error> {
        let webhook = self.webhook_of(tenant, id)?;
        asker.about(webhook.id);
        let _under_way = self.trials.begin(tenant)?;
        // As deep as the data of an event that is published: there its envelope is the first level.
        if trial.data.as_ref().is_some_and(|data| !depth_ok(data, JSON_DEPTH_MAX - 1)) {
            return Err(Error::Malformed("data is nested deeper than 127 levels"));
        }
        let channel = self.settings().catalogue.get(&trial.kind).and_then(|known| known.omnia_channel.clone());
        let draft = Draft {
            tenant,
            kind: trial.kind,
            channel,
            created_us: trial.created_us.unwrap_or_else(|| self.clock.wall_us()),
            ordering_key: None,
            data: trial.data,
            context: None,
            user: None,
            test: true,
        };
        let accept = Accept { drafts: vec![draft], ..Accept::default() };
        let event = match self.submit(Op::Accept(accept), asker).await? {
            Done::Accepted(receipt) => receipt.events().first().cloned().ok_or(Error::Internal)?,
            _ => return Err(Error::Internal),
        };
        let attempt = self.dispatch.test(webhook.clone(), event.clone()).await;
        let since_ms = self.clock.now_ms();
        let outcome = Outcome {
            attempt: attempt.clone(),
            row: None,
            order: None,
            budget_from: 0,
            since_ms,
            deactivate: None,
            test: true,
        };
        self.submit(Op::Outcome(Box::new(outcome)), asker).await?;
        Ok(Tried { event, webhook, attempt })
    }

    /// A live webhook of a tenant, inactive ones too.
    ///
    /// # Errors
    /// Not found, somebody else's too.
    pub fn webhook_of(&self, tenant: TenantNo, id: WebhookId) -> Result<Arc<Webhook>, Error> {
        self.store.shared().registry().webhook_of(tenant, id).cloned().ok_or(Error::NotFound)
    }

    /// A live webhook, whoever owns it.
    ///
    /// # Errors
    /// Not found.
    pub fn webhook_by_id(&self, id: WebhookId) -> Result<Arc<Webhook>, Error> {
        self.store.shared().registry().webhook_by_id(id).cloned().ok_or(Error::NotFound)
    }

    /// A live webhook by the store's number.
    #[must_use]
    pub fn webhook_no(&self, no: WebhookNo) -> Option<Arc<Webhook>> {
        self.store.shared().registry().webhook(no).cloned()
    }

    /// A webhook and how it does.
    ///
    /// # Errors
    /// Not found.
    pub async fn see(&self, tenant: TenantNo, id: WebhookId) -> Result<Seen, Error> {
        let webhook = self.webhook_of(tenant, id)?;
        self.see_all(vec![webhook]).await?.pop().ok_or(Error::Internal)
    }

    /// A tenant's live webhooks behind `after`, in the order of creation, and where the next page begins.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(
        &self,
        tenant: TenantNo,
        after: WebhookNo,
        limit: usize,
    ) -> Result<(Vec<Seen>, Option<WebhookNo>), Error> {
        let mut page: Vec<Arc<Webhook>> = {
            let registry = self.store.shared().registry();
            let rest = registry.webhooks_of(tenant).filter(|webhook| webhook.no > after);
            rest.take(limit.saturating_add(1)).cloned().collect()
        };
        let more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().filter(|_| more).map(|webhook| webhook.no);
        Ok((self.see_all(page).await?, next))
    }

    /// All live webhooks of a tenant, in the order of creation.
    #[must_use]
    pub fn webhooks(&self, tenant: TenantNo) -> Vec<Arc<Webhook>> {
        self.store.shared().registry().webhooks_of(tenant).cloned().collect()
    }

    pub(super) async fn see_all(&self, webhooks: Vec<Arc<Webhook>>) -> Result<Vec<Seen>, Error> {
        let pauses = self.store.shared().registry().pauses().clone();
        let read = move |shared: &Shared| {
            let view = shared.view()?;
            let see = |webhook: Arc<Webhook>| {
                let paused = pauses.of(&webhook).is_some();
                Ok(Seen { standing: view.standing(webhook.no)?, paused, webhook })
            };
            webhooks.into_iter().map(see).collect::<Result<Vec<_>, StoreError>>()
        };
        Ok(self.store.read(read).await?)
    }

    pub(super) async fn webhook_from(&self, op: Op, asker: &Asker) -> Result<Arc<Webhook>, Error> {
        match self.submit(op, asker).await? {
            Done::Webhook(webhook) => Ok(webhook),
            _ => Err(Error::Internal),
        }
    }
}

/// Judges every member that is given.
pub(super) fn judge(settings: &Settings, change: Change) -> Result<WebhookPatch, Error> {
    if let Some(url) = &change.url {
        field::url(url, settings)?;
    }
    Ok(WebhookPatch {
        filters: change.events.map(|events| field::filters(&events)).transpose()?,
        active: change.active,
        headers: change.headers.map(|headers| field::headers(headers.unwrap_or_default())).transpose()?,
        secret: change.secret.map(field::secret).transpose()?.map(SecretChange::Replace),
        plan: inner(change.plan, |name| field::plan(name, settings))?,
        timeout_ms: inner(change.timeout, |text| field::timeout(&text))?,
        max_in_flight: inner(change.max_in_flight, field::max_in_flight)?,
        rate_limit: inner(change.rate_limit, field::rate_limit)?,
        description: inner(change.description, field::description)?,
        url: change.url,
    })
}

/// Applies a rule to what is inside; what was left out or taken back stays so.
fn inner<T, U>(given: Option<Option<T>>, rule: impl FnOnce(T) -> Result<U, Error>) -> Result<Option<Option<U>>, Error> {
    match given {
        Some(Some(value)) => rule(value).map(|value| Some(Some(value))),
        Some(None) => Ok(Some(None)),
        None => Ok(None),
    }
}
