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
use crate::model::webhook::{Dialect, Filter, Webhook};

#[derive(Clone, Default)]
pub struct Registry {
    tenants: ByTenant<Arc<Tenant>>,
    tenant_ids: HashMap<TenantId, TenantNo>,
    webhooks: ByWebhook<Arc<Webhook>>,
    webhook_ids: HashMap<WebhookId, WebhookNo>,
    /// Live ones in the order of creation.
    of_tenant: ByTenant<Vec<Live>>,
    /// Deleted ones, by number only: explain still speaks of them.
    deleted_of: ByTenant<Vec<WebhookNo>>,
    keys: HashMap<KeyId, Arc<Key>>,
    key_hashes: HashMap<[u8; 32], Arc<Key>>,
    pauses: Arc<Pauses>,
    /// Those that run, the oldest first.
    jobs: BTreeMap<JobId, Arc<Job>>,
}

/// A live webhook in its tenant's list, with what shows at a glance that it does not want an event: every event is held against all
/// of its tenant's webhooks, and looking into each would cost several reads of memory that is not cached.
#[derive(Clone)]
struct Live {
    webhook: Arc<Webhook>,
    /// Where it wants one text only: the checksum of that.
    only: Option<u32>,
}

impl Live {
    fn new(webhook: &Arc<Webhook>) -> Self {
        let only = match webhook.filters.as_slice() {
            [Filter::Exact(text)] => Some(crc32fast::hash(text.as_bytes())),
            _ => None,
        };
        Self { webhook: webhook.clone(), only }
    }
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
            live.retain(|live| live.webhook.no != webhook.no);
            self.webhooks.remove(&webhook.no);
            self.webhook_ids.remove(&webhook.id);
            let deleted = self.deleted_of.entry(webhook.tenant).or_default();
            if !deleted.contains(&webhook.no) {
                deleted.push(webhook.no);
            }
            return;
        }
        match self.webhooks.insert(webhook.no, webhook.clone()) {
            None => live.push(Live::new(webhook)),
            Some(_) => {
                let own = live.iter_mut().filter(|live| live.webhook.no == webhook.no);
                own.for_each(|live| *live = Live::new(webhook));
            }
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

    /// The same by what may be an id or not.
    #[must_use]
    pub fn tenant_named(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(self.tenant_ids.get(name)?)
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
        self.of_tenant.get(&tenant).into_iter().flatten().map(|live| &live.webhook)
    }

    /// Every live webhook.
    pub fn webhooks(&self) -> impl Iterator<Item = &Arc<Webhook>> {
        self.webhooks.values()
    }

    /// Numbers of all webhooks a tenant ever had, rising.
    #[must_use]
    pub fn webhooks_ever_of(&self, tenant: TenantNo) -> Vec<WebhookNo> {
        let live = self.webhooks_of(tenant).map(|webhook| webhook.no);
        let mut all: Vec<_> = live.chain(self.deleted_of.get(&tenant).into_iter().flatten().copied()).collect();
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
        let own = self.of_tenant.get(&tenant);
        if tenant != BROADCAST && own.is_none() {
            return Vec::new();
        }
        let sums = [Some(kind), channel].map(|text| text.map(|text| crc32fast::hash(text.as_bytes())));
        let takes = |live: &&Live| {
            live.only.is_none_or(|only| sums.contains(&Some(only)))
                && live.webhook.is_active()
                && live.webhook.wants(kind, channel)
        };
        let number = |live: &Live| live.webhook.no;
        if tenant == BROADCAST {
            let mut matched: Vec<WebhookNo> = self.of_tenant.values().flatten().filter(takes).map(number).collect();
            matched.sort_unstable();
            matched
        } else {
            own.into_iter().flatten().filter(takes).map(number).collect()
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::webhook::{InactiveReason, WebhookState};

    fn webhook(no: WebhookNo, tenant: TenantNo, filters: &[&str]) -> Webhook {
        let filters = filters.iter().map(|text| Filter::parse(text).unwrap()).collect();
        Webhook { no, id: WebhookId(u128::from(no).to_be_bytes()), ..Webhook::sample(tenant, filters) }
    }

    #[test]
    fn an_event_finds_all_who_want_it_whatever_shows_of_them_at_a_glance() {
        let mut registry = Registry::default();
        let mut put = |webhook: &Webhook| registry.apply(&Change::Webhook(Arc::new(webhook.clone())));
        let order = webhook(1, 7, &["order.created"]);
        let all = [
            order.clone(),
            webhook(2, 7, &["*"]),
            webhook(3, 7, &["order.*"]),
            webhook(4, 7, &["ORDERS"]),
            webhook(5, 7, &["user.gone", "order.created"]),
            webhook(6, 8, &["order.created"]),
            webhook(9, 7, &["order.created"]),
        ];
        all.iter().for_each(&mut put);
        put(&Webhook { filters: vec![Filter::Exact("user.gone".to_owned())], ..order });
        put(&Webhook { state: WebhookState::Inactive { reason: InactiveReason::Owner, since: 1 }, ..all[6].clone() });
        assert_eq!(registry.matching(7, "order.created", Some("ORDERS")), [2, 3, 4, 5]);
        assert_eq!(registry.matching(7, "order.created", None), [2, 3, 5]);
        assert_eq!(registry.matching(7, "user.gone", None), [1, 2, 5]);
        assert_eq!(registry.matching(BROADCAST, "order.created", None), [2, 3, 5, 6]);
        assert_eq!(registry.matching(9, "order.created", None), [0; 0]);
        registry
            .apply(&Change::Webhook(Arc::new(Webhook { state: WebhookState::Deleted { at: 2 }, ..all[1].clone() })));
        assert_eq!(registry.matching(7, "user.gone", None), [1, 5]);
        assert_eq!(registry.webhooks_ever_of(7), [1, 2, 3, 4, 5, 9]);
    }
}
