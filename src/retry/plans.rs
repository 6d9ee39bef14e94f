//! Which plan decides about a webhook. Owns the order in which names are asked, for all who need to know.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Policy;
use crate::model::webhook::{Dialect, Webhook};

/// The built-in plans' names.
const STANDARD: &str = "standard";
const VIBE: &str = "vibe";

/// Every plan by its name, and who uses which.
#[derive(Clone, Debug)]
pub struct Plans {
    named: BTreeMap<String, Arc<Policy>>,
    /// Where nothing more specific names one: a name to tell, and what it says.
    default: (String, Arc<Policy>),
    of_dialect: Vec<(Dialect, String)>,
}

impl Default for Plans {
    /// The built-in ones (contract §5).
    fn default() -> Self {
        let standard = Arc::new(Policy::standard());
        let vibe = (VIBE.to_owned(), Arc::new(Policy::vibe()));
        let named = BTreeMap::from([(STANDARD.to_owned(), standard.clone()), vibe]);
        Self::new(named, (STANDARD.to_owned(), standard), Vec::new())
    }
}

impl Plans {
    /// `of_dialect` names the plan of webhooks whose tenant has none, for dialects that have one.
    #[must_use]
    pub fn new(
        named: BTreeMap<String, Arc<Policy>>,
        default: (String, Arc<Policy>),
        of_dialect: Vec<(Dialect, String)>,
    ) -> Self {
        Self { named, default, of_dialect }
    }

    /// The built-in plans, and this policy where nothing names one.
    #[must_use]
    pub fn with_default(policy: Policy) -> Self {
        Self { default: ("default".to_owned(), Arc::new(policy)), ..Self::default() }
    }

    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// The plan of a webhook: its own; `vibe` for Vibe's, whose guide promises its five retries to everybody; its tenant's;
    /// its dialect's; the default. A name that is no longer there decides nothing.
    #[must_use]
    pub fn of(&self, webhook: &Webhook, tenant_plan: Option<&str>) -> (&str, &Arc<Policy>) {
        let vibe = (webhook.dialect == Dialect::Vibe).then_some(VIBE);
        let dialect = self.of_dialect.iter().find(|(dialect, _)| *dialect == webhook.dialect);
        let names = [webhook.plan.as_deref(), vibe, tenant_plan, dialect.map(|(_, name)| name.as_str())];
        let found = names.into_iter().flatten().find_map(|name| self.named.get_key_value(name));
        let (name, policy) = found.unwrap_or((&self.default.0, &self.default.1));
        (name, policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::webhook::Filter;

    fn webhook(dialect: Dialect, plan: Option<&str>) -> Webhook {
        Webhook { no: 1, dialect, plan: plan.map(str::to_owned), ..Webhook::sample(1, vec![Filter::All]) }
    }

    #[test]
    fn the_most_specific_name_that_is_known_decides() {
        let names = ["standard", "vibe", "own", "tenants", "omnias"];
        let policy = |retries| Arc::new(Policy::exponential(1_000, 2.0, 1_000, retries, 0.0));
        let named = names.iter().zip(1..).map(|(name, retries)| ((*name).to_owned(), policy(retries))).collect();
        let of_dialect = vec![(Dialect::Omnia, "omnias".to_owned()), (Dialect::Lemon, "gone".to_owned())];
        let plans = Plans::new(named, ("inline".to_owned(), policy(9)), of_dialect);
        let cases = [
            (Dialect::Lemon, Some("own"), Some("tenants"), "own", 3),
            (Dialect::Lemon, None, Some("tenants"), "tenants", 4),
            (Dialect::Lemon, Some("gone"), Some("tenants"), "tenants", 4),
            (Dialect::Lemon, None, None, "inline", 9),
            (Dialect::Lemon, None, Some("gone"), "inline", 9),
            (Dialect::Vibe, None, Some("tenants"), "vibe", 2),
            (Dialect::Vibe, Some("own"), Some("tenants"), "own", 3),
            (Dialect::Omnia, None, Some("tenants"), "tenants", 4),
            (Dialect::Omnia, None, None, "omnias", 5),
            (Dialect::OneMetric, None, Some("tenants"), "tenants", 4),
            (Dialect::OneMetric, None, None, "inline", 9),
        ];
        for (dialect, own, tenant, name, retries) in cases {
            let webhook = webhook(dialect, own);
            let (found, policy) = plans.of(&webhook, tenant);
            assert_eq!((found, policy.delays_ms.len()), (name, retries), "{dialect:?} {own:?} {tenant:?}");
        }
        assert!(plans.knows("own") && !plans.knows("inline") && !plans.knows("gone"));
    }
}
