//! The registry: tenants, webhooks and keys as they stand, in memory. Owns the lookups by id, by tenant and by token.
//!
//! Two copies live: the writer's own, which is changed while a batch is put together, and the readers', which gets the same
//! changes once they are committed. So nobody reads what a crash could take back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::numbers::{ByTenant, ByWebhook};
use crate::model::id::{BROADCAST, JobId, KeyId, TenantId, TenantNo, WebhookId, WebhookNo};
use crate::model::job::{Job, JobState, Task};
use crate::model::key::{Key, Tenant};
use crate::model::pause::{Pause, Pauses, Scope};
use crate::model::webhook::{Dialect, Webhook};

#[derive(Clone, Default)]
pub struct Registry {
    tenants: ByTenant<Arc<Tenant>>,
    tenant_ids: HashMap<TenantId, TenantNo>,
    webhooks: ByWebhook<Arc<Webhook>>,
    webhook_ids: HashMap<WebhookId, WebhookNo>,
    /// Live ones in the order of creation.
    of_tenant: ByTenant<Vec<WebhookNo>>,
    /// Deleted ones, by number only: explain still speaks of them.
    deleted_of: ByTenant<Vec<WebhookNo>>,
    keys: HashMap<KeyId, Arc<Key>>,
    key_hashes: HashMap<[u8; 32], Arc<Key>>,
    pauses: Arc<Pauses>,
    /// Those that run, the oldest first.
    jobs: BTreeMap<JobId, Arc<Job>>,
}

/// One committed change.
#[derive(Clone, Debug)]
pub enum Change {
    Tenant(Arc<Tenant>),
    TenantGone(TenantNo),
    Webhook(Arc<Webhook>),
    /// A deleted one of which nothing is kept any more.
    WebhookGone(WebhookNo),
    Key(Arc<Key>),
    /// `None`: nothing is to be known of it any more.
    Pause(Scope, Option<Pause>),
    Job(Arc<Job>),
    KeyGone(KeyId),
    JobGone(JobId),
}

impl Registry {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Tenant(tenant) => {
                self.tenant_ids.insert(tenant.id.clone(), tenant.no);
                self.tenants.insert(tenant.no, tenant.clone());
            }
            Change::TenantGone(no) => {
                if let Some(tenant) = self.tenants.remove(no) {
                    self.tenant_ids.remove(&tenant.id);
                }
            }
            Change::Webhook(webhook) => self.apply_webhook(webhook),
            Change::Key(key) => {
                if key.revoked_ms.is_some() {
                    self.key_hashes.remove(&key.token_hash);
                } else {
                    self.key_hashes.insert(key.token_hash, key.clone());
                }
                self.keys.insert(key.id, key.clone());
            }
            Change::Job(job) if job.state == JobState::Running => drop(self.jobs.insert(job.id, job.clone())),
            Change::Job(job) => drop(self.jobs.remove(&job.id)),
            Change::Pause(scope, pause) => Arc::make_mut(&mut self.pauses).set(scope, *pause),
            Change::WebhookGone(no) => {
                self.deleted_of.retain(|_, deleted| {
                    deleted.retain(|of| of != no);
                    !deleted.is_empty()
                });
            }
            Change::KeyGone(id) => {
                if let Some(key) = self.keys.remove(id) {
                    self.key_hashes.remove(&key.token_hash);
                }
            }
            Change::JobGone(id) => drop(self.jobs.remove(id)),
        }
    }

    fn apply_webhook(&mut self, webhook: &Arc<Webhook>) {
        let live = self.of_tenant.entry(webhook.tenant).or_default();
        if webhook.is_deleted() {
            live.retain(|no| *no != webhook.no);
            self.webhooks.remove(&webhook.no);
            self.webhook_ids.remove(&webhook.id);
            let deleted = self.deleted_of.entry(webhook.tenant).or_default();
            if !deleted.contains(&webhook.no) {
                deleted.push(webhook.no);
            }
            return;
        }
        if self.webhooks.insert(webhook.no, webhook.clone()).is_none() {
            live.push(webhook.no);
        }
        self.webhook_ids.insert(webhook.id, webhook.no);
    }

    #[must_use]
    pub fn tenant(&self, no: TenantNo) -> Option<&Arc<Tenant>> {
        self.tenants.get(&no)
    }

    #[must_use]
    pub fn tenant_by_id(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(self.tenant_ids.get(id)?)
    }

    /// All tenants, in the order of creation.
    #[must_use]
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        let mut all: Vec<_> = self.tenants.values().cloned().collect();
        all.sort_unstable_by_key(|tenant| tenant.no);
        all
    }

    /// A live webhook.
    #[must_use]
    pub fn webhook(&self, no: WebhookNo) -> Option<&Arc<Webhook>> {
        self.webhooks.get(&no)
    }

    /// Whether a webhook's tenant was deleted, or no attempt of a deleted one is left: nothing about it may be kept any more.
    #[must_use]
    pub fn is_forgotten(&self, no: WebhookNo) -> bool {
        let kept = |(tenant, deleted): (&TenantNo, &Vec<WebhookNo>)| {
            self.tenants.contains_key(tenant) && deleted.contains(&no)
        };
        !self.webhooks.contains_key(&no) && !self.deleted_of.iter().any(kept)
    }

    /// The erasure that runs for a tenant.
    #[must_use]
    pub fn erasure_of(&self, tenant: TenantNo) -> Option<&Arc<Job>> {
        self.jobs.values().find(|job| matches!(&job.task, Task::Erase(erase) if erase.tenant == tenant))
    }

    /// A live webhook, but only for the tenant that owns it. Somebody else's costs one look-up in memory more than one that
    /// nobody has: less than any answer varies by.
    #[must_use]
    pub fn webhook_of(&self, tenant: TenantNo, id: WebhookId) -> Option<&Arc<Webhook>> {
        self.webhooks.get(self.webhook_ids.get(&id)?).filter(|webhook| webhook.tenant == tenant)
    }

    /// A live webhook, whoever owns it.
    #[must_use]
    pub fn webhook_by_id(&self, id: WebhookId) -> Option<&Arc<Webhook>> {
        self.webhooks.get(self.webhook_ids.get(&id)?)
    }

    /// The live webhooks of a tenant, in the order of creation.
    pub fn webhooks_of(&self, tenant: TenantNo) -> impl DoubleEndedIterator<Item = &Arc<Webhook>> {
        self.of_tenant.get(&tenant).into_iter().flatten().filter_map(|no| self.webhooks.get(no))
    }

    /// Every live webhook.
    pub fn webhooks(&self) -> impl Iterator<Item = &Arc<Webhook>> {
        self.webhooks.values()
    }

    /// Numbers of all webhooks a tenant ever had, rising.
    #[must_use]
    pub fn webhooks_ever_of(&self, tenant: TenantNo) -> Vec<WebhookNo> {
        let live = self.of_tenant.get(&tenant).into_iter().flatten();
        let mut all: Vec<_> = live.chain(self.deleted_of.get(&tenant).into_iter().flatten()).copied().collect();
        all.sort_unstable();
        all
    }

    /// How many live webhooks a tenant has, in all or of one dialect; those that are streams belong to none.
    #[must_use]
    pub fn count_of(&self, tenant: TenantNo, dialect: Option<Dialect>) -> usize {
        self.webhooks_of(tenant)
            .filter(|webhook| dialect.is_none_or(|wanted| webhook.dialect == wanted && !webhook.is_stream()))
            .count()
    }

    /// The webhooks that get an event of this tenant, type and channel, rising.
    #[must_use]
    pub fn matching(&self, tenant: TenantNo, kind: &str, channel: Option<&str>) -> Vec<WebhookNo> {
        let takes = |webhook: &&Arc<Webhook>| webhook.is_active() && webhook.wants(kind, channel);
        let mut matched: Vec<WebhookNo> = if tenant == BROADCAST {
            self.webhooks.values().filter(takes).map(|webhook| webhook.no).collect()
        } else {
            self.webhooks_of(tenant).filter(takes).map(|webhook| webhook.no).collect()
        };
        if tenant == BROADCAST {
            matched.sort_unstable();
        }
        matched
    }

    /// What is paused.
    #[must_use]
    pub fn pauses(&self) -> &Arc<Pauses> {
        &self.pauses
    }

    /// A job that runs.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// The jobs that run, the oldest first.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values()
    }

    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&Arc<Key>> {
        self.keys.get(&id)
    }

    /// A key that is not revoked, by the hash of its token.
    #[must_use]
    pub fn key_by_hash(&self, hash: &[u8; 32]) -> Option<&Arc<Key>> {
        self.key_hashes.get(hash)
    }

    /// All keys, newest last.
    #[must_use]
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut all: Vec<_> = self.keys.values().cloned().collect();
        all.sort_unstable_by_key(|key| (key.created_ms, key.id));
        all
    }
}
