//! What is stopped by decision: deliveries of an event that are cancelled, webhooks that are paused and resumed. Owns who may
//! stop what: a tenant its own deliveries and webhooks, the operator everything; an owner can't lift the operator's pause.

use std::fmt;

use super::error::{Error, invalid_field, shown};
use super::{Asker, Service, inspect};
use crate::clock::Millis;
use crate::limits::PAUSED_HOSTS_MAX;
use crate::model::id::{EventId, Seq, TenantId, TenantNo, WebhookId, WebhookNo};
use crate::model::pause::Scope;
use crate::store::StoreError;
use crate::store::op::Op;
use crate::store::view::Shared;

/// What the operator names to pause or resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Everything,
    Tenant(String),
    Host(String),
    Webhook(WebhookId),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::Tenant(id) => write!(f, "tenant {}", shown(id)),
            Self::Host(host) => write!(f, "host {}", shown(host)),
            Self::Webhook(id) => id.fmt(f),
        }
    }
}

/// A pause, with the public names of what it covers.
pub struct Paused {
    pub scope: Scope,
    pub tenant: Option<TenantId>,
    pub webhook: Option<WebhookId>,
    pub since_ms: Millis,
}

impl Service {
    /// Cancels what is pending of an event for the tenant's webhooks, or for the named one; gives how many. No attempt of
    /// them starts after this returns; one that is under way may end.
    ///
    /// # Errors
    /// Not found.
    pub async fn cancel(
        &self,
        tenant: TenantNo,
        id: EventId,
        webhook: Option<WebhookId>,
        asker: &Asker,
    ) -> Result<usize, Error> {
        let named = webhook.map(|webhook| self.webhook_of(tenant, webhook)).transpose()?.map(|webhook| webhook.no);
        let found = self.store.read(move |shared| concerned(shared, tenant, id, named)).await?;
        let (event, webhooks) = found.ok_or(Error::NotFound)?;
        if webhooks.is_empty() {
            return Ok(0);
        }
        Ok(self.submit(Op::Cancel { event, webhooks }, asker).await?.count())
    }

    /// Pauses or resumes a webhook as its owner. No attempt starts after this returns, but for tests.
    ///
    /// # Errors
    /// Not found.
    pub async fn pause_own(&self, tenant: TenantNo, id: WebhookId, paused: bool, asker: &Asker) -> Result<(), Error> {
        let scope = Scope::Own(self.webhook_of(tenant, id)?.no);
        self.submit(Op::Pause { scope, paused }, asker).await?;
        Ok(())
    }

    /// Pauses or resumes as the operator. To resume a webhook lifts its owner's pause, too.
    ///
    /// # Errors
    /// Not found; a host that is none, or one too many.
    pub async fn pause(&self, named: Named, paused: bool, asker: &Asker) -> Result<(), Error> {
        asker.about(&named);
        let scopes = match named {
            Named::Everything => vec![Scope::Everything],
            Named::Tenant(id) => vec![Scope::Tenant(self.tenant(&id)?.no)],
            Named::Host(text) => {
                let scope = Scope::host(&text).ok_or_else(|| {
                    invalid_field("host must be a host name or address, with or without a port, as in a webhook's url")
                })?;
                if paused && self.store.shared().registry().pauses().hosts() >= PAUSED_HOSTS_MAX {
                    return Err(invalid_field("host is one too many: 4096 hosts may be paused"));
                }
                vec![scope]
            }
            Named::Webhook(id) => {
                let no = self.store.shared().registry().webhook_by_id(id).map(|webhook| webhook.no);
                let no = no.ok_or(Error::NotFound)?;
                if paused { vec![Scope::Webhook(no)] } else { vec![Scope::Webhook(no), Scope::Own(no)] }
            }
        };
        for scope in scopes {
            self.submit(Op::Pause { scope, paused }, asker).await?;
        }
        Ok(())
    }

    /// What is paused now, the widest first.
    #[must_use]
    pub fn paused(&self) -> Vec<Paused> {
        let registry = self.store.shared().registry();
        let tenant_id = |no| registry.tenant(no).map(|tenant| tenant.id.clone());
        let named = |scope: &Scope| match scope {
            Scope::Everything | Scope::Host(_) => (None, None),
            Scope::Tenant(no) => (tenant_id(*no), None),
            Scope::Webhook(no) | Scope::Own(no) => {
                let webhook = registry.webhook(*no);
                (webhook.and_then(|webhook| tenant_id(webhook.tenant)), webhook.map(|webhook| webhook.id))
            }
        };
        let paused = registry.pauses().now().map(|(scope, pause)| {
            let (tenant, webhook) = named(scope);
            Paused { scope: scope.clone(), tenant, webhook, since_ms: pause.since_ms }
        });
        paused.collect()
    }
}

/// An event and the webhooks of a tenant that something of it may be pending for.
fn concerned(
    shared: &Shared,
    tenant: TenantNo,
    id: EventId,
    named: Option<WebhookNo>,
) -> Result<Option<(Seq, Vec<WebhookNo>)>, StoreError> {
    let Some(seq) = shared.seq_of(id) else { return Ok(None) };
    let (view, fates) = shared.view_with_fates(seq)?;
    let Some(event) = inspect::visible(&view, tenant, id)? else { return Ok(None) };
    if let Some(no) = named {
        return Ok(Some((seq, vec![no])));
    }
    // Those it matched, and those it was sent to by name.
    let mut webhooks: Vec<WebhookNo> = event.matched.iter().chain(fates.keys()).copied().collect();
    webhooks.sort_unstable();
    webhooks.dedup();
    let registry = shared.registry();
    webhooks.retain(|no| registry.webhook(*no).is_some_and(|webhook| webhook.tenant == tenant));
    Ok(Some((seq, webhooks)))
}
