//! Streams: webhooks of receivers without a public address, which live as long as somebody listens and a little longer. Owns
//! how one begins, goes on and ends; what goes up and down it is `egress::stream`'s.

use std::net::SocketAddr;
use std::sync::Arc;

use super::error::Error;
use super::subscribe::{Change, judge};
use super::{Asker, Service};
use crate::egress::stream::{Answer, Held};
use crate::limits::STREAM_GRACE;
use crate::model::audit::Actor;
use crate::model::id::{KeyId, TenantNo, WebhookId};
use crate::model::webhook::{Dialect, STREAM_URL, Webhook};
use crate::store::op::{Op, Quota, WebhookPatch};

impl Service {
    /// Registers a webhook that has a stream; `change` has no URL. The returned version holds its secret.
    ///
    /// # Errors
    /// The rule that a member breaks, or the quota.
    pub async fn new_stream(
        &self,
        tenant: TenantNo,
        dialect: Dialect,
        change: Change,
        asker: &Asker,
    ) -> Result<Arc<Webhook>, Error> {
        let (patch, quota) = {
            let settings = self.settings();
            (judge(&settings, change)?, Quota { of_tenant: settings.webhooks_per_tenant, of_dialect: None })
        };
        let patch = WebhookPatch { url: Some(STREAM_URL.to_owned()), ..patch };
        let draft = Box::new(self.webhook_of_patch(tenant, dialect, patch)?);
        let webhook = self.webhook_from(Op::CreateWebhook { draft, quota }, asker).await?;
        self.streams.expect(webhook.no);
        Ok(webhook)
    }

    /// A webhook that has a stream.
    ///
    /// # Errors
    /// Not found; a conflict where it has a URL.
    pub fn stream_of(&self, tenant: TenantNo, id: WebhookId) -> Result<Arc<Webhook>, Error> {
        let webhook = self.webhook_of(tenant, id)?;
        let has_url = Error::Conflict { code: "not_a_stream", message: "the webhook has a URL and no stream" };
        if webhook.is_stream() { Ok(webhook) } else { Err(has_url) }
    }

    /// Gives hold of a webhook's stream; its deliveries go down it from now on.
    #[must_use]
    pub fn hold_stream(&self, webhook: &Webhook, remote: Option<SocketAddr>) -> Held {
        let held = self.streams.hold(webhook.no, remote);
        // Deleted since it was looked up: what nobody will end is ended here.
        if self.store.shared().registry().webhook(webhook.no).is_none() {
            self.streams.forget(webhook.no);
        }
        self.dispatch.look_again(webhook.no);
        held
    }

    /// Whether who was let in with this key would be let in now; `None`: without one.
    #[must_use]
    pub fn is_in_force(&self, key: Option<KeyId>) -> bool {
        let now = self.clock.wall_ms();
        let in_force = |id| self.key_by_id(id).is_some_and(|key| key.expires_ms.is_none_or(|expires| now < expires));
        key.is_none_or(in_force)
    }

    /// Takes an answer to a request that went down a webhook's stream. False: it comes too late, or nothing was asked.
    #[must_use]
    pub fn answer_stream(&self, webhook: &Webhook, delivery: &str, answer: Answer) -> bool {
        self.streams.answer(webhook.no, delivery, answer)
    }

    /// Takes note of streams that an earlier process has left: whoever held them has its time to come back.
    pub fn expect_streams(&self) {
        let shared = self.store.shared();
        let registry = shared.registry();
        registry.webhooks().filter(|webhook| webhook.is_stream()).for_each(|webhook| self.streams.expect(webhook.no));
    }

    /// Ends the streams that nobody has come back to.
    pub(super) async fn end_streams(&self) -> Result<(), Error> {
        for no in self.streams.overdue(STREAM_GRACE) {
            let Some(webhook) = self.store.shared().registry().webhook(no).cloned() else {
                self.streams.forget(no);
                continue;
            };
            let asker = Asker::of_actor(Actor::Daemon, "stream.end");
            asker.about(webhook.id);
            if let Some(tenant) = self.tenant_no(webhook.tenant) {
                asker.of_tenant(&tenant.id);
            }
            match self.submit(Op::DeleteWebhook { no }, &asker).await {
                Ok(_) | Err(Error::NotFound) => self.streams.forget(no),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
