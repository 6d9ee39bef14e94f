//! What the service is told by the configuration: plain values, replaced as a whole on reload.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::clock::Millis;
use crate::egress::guard::Rules;
use crate::model::key::Tenant;
use crate::model::webhook::{Dialect, Webhook};
use crate::retry::Policy;

#[derive(Clone, Debug)]
pub struct Settings {
    pub webhooks_per_tenant: usize,
    /// Webhooks a tenant may have through Omnia's dialect.
    pub omnia_max: usize,
    /// Bytes of one published event's request body, or of its part of a batch.
    pub event_bytes: usize,
    pub batch_bytes: usize,
    /// Deliveries that one tenant may have pending.
    pub pending_per_tenant: Option<u64>,
    /// Events per second that one key may publish.
    pub publish_rate: Option<NonZeroU32>,
    /// Refuse types that the catalogue does not name.
    pub strict: bool,
    pub known_types: HashSet<String>,
    /// Retry plans by name.
    pub plans: BTreeMap<String, Policy>,
    /// The plan of what nothing more specific decides: its name, and what it says.
    pub default_plan: (String, Policy),
    /// How long a rotated secret signs along.
    pub rotation_overlap_ms: Millis,
    /// Ask for lemon's data privacy headers on its routes.
    pub require_data_privacy: bool,
    /// Where webhooks may point to.
    pub rules: Arc<Rules>,
}

impl Default for Settings {
    /// The contract's defaults (§4.2, §5, §9).
    fn default() -> Self {
        let plans = [("standard", Policy::standard()), ("vibe", Policy::vibe())];
        Self {
            webhooks_per_tenant: 1_000,
            omnia_max: 5,
            event_bytes: 256 * 1024,
            batch_bytes: 8 * 1024 * 1024,
            pending_per_tenant: None,
            publish_rate: None,
            strict: false,
            known_types: HashSet::new(),
            plans: plans.into_iter().map(|(name, policy)| (name.to_owned(), policy)).collect(),
            default_plan: ("standard".to_owned(), Policy::standard()),
            rotation_overlap_ms: 24 * 3_600_000,
            require_data_privacy: false,
            rules: Arc::new(Rules::default()),
        }
    }
}

impl Settings {
    /// The plan that decides about a webhook: its own, `vibe` for Vibe's, its tenant's, the default (contract §5). A name
    /// that the configuration no longer has decides nothing.
    #[must_use]
    pub fn plan_of(&self, webhook: &Webhook, tenant: Option<&Tenant>) -> (&str, &Policy) {
        let vibe = (webhook.dialect == Dialect::Vibe).then_some("vibe");
        let of_tenant = tenant.and_then(|tenant| tenant.plan.as_deref());
        [webhook.plan.as_deref(), vibe, of_tenant]
            .into_iter()
            .flatten()
            .find_map(|name| self.plans.get_key_value(name))
            .map_or((self.default_plan.0.as_str(), &self.default_plan.1), |(name, policy)| (name.as_str(), policy))
    }
}
