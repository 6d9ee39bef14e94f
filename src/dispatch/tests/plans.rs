//! What a webhook's settings come to: its dialect's time-out and plan, unless something nearer says otherwise.

use super::*;
use crate::dispatch::settings::Plan;
use crate::retry::{Plans, Policy};

fn webhook(dialect: Dialect) -> Webhook {
    Webhook {
        no: 1,
        dialect,
        // Refused, so that no host's gate is asked for.
        url: "https://127.0.0.1/".to_owned(),
        ..Webhook::sample(1, vec![Filter::All])
    }
}

fn plan(webhook: Webhook, tenant_plan: Option<&str>, settings: &Arc<Settings>) -> Plan {
    Plan::new(Arc::new(webhook), tenant_plan, settings, &Rules::default(), |_, _| unreachable!(), NOW)
}

#[test]
fn a_receiver_has_its_dialect_s_time_unless_something_nearer_says_otherwise() {
    let settings = Arc::new(Settings::default());
    let configured = Arc::new(Settings { timeout: Some(Duration::from_secs(7)), ..Settings::default() });
    for (dialect, seconds) in
        [(Dialect::Lemon, 10), (Dialect::Omnia, 30), (Dialect::Vibe, 30), (Dialect::OneMetric, 30)]
    {
        assert_eq!(plan(webhook(dialect), None, &settings).timeout, Duration::from_secs(seconds), "{dialect:?}");
        assert_eq!(plan(webhook(dialect), None, &configured).timeout, Duration::from_secs(7), "{dialect:?}");
        let own = Webhook { timeout_ms: Some(2_500), ..webhook(dialect) };
        assert_eq!(plan(own, None, &configured).timeout, Duration::from_millis(2_500), "{dialect:?}");
    }
}

#[test]
fn vibe_s_webhooks_have_vibe_s_plan_unless_they_name_another() {
    let gold = Policy { delays_ms: vec![1], jitter: 0.0 };
    let named = [("gold", gold.clone()), ("vibe", Policy::vibe())].map(|(name, p)| (name.to_owned(), Arc::new(p)));
    let default = ("standard".to_owned(), Arc::new(Policy::standard()));
    let plans = Arc::new(Plans::new(named.into(), default, Vec::new()));
    let settings = Arc::new(Settings { plans, ..Settings::default() });
    for tenant_plan in [None, Some("gold")] {
        assert_eq!(*plan(webhook(Dialect::Vibe), tenant_plan, &settings).policy, Policy::vibe());
    }
    assert_eq!(Policy::vibe().delays_ms, [30_000, 120_000, 480_000, 1_920_000, 7_680_000], "five retries, times four");
    let own = Webhook { plan: Some("gold".to_owned()), ..webhook(Dialect::Vibe) };
    assert_eq!(*plan(own, None, &settings).policy, gold);
    assert_eq!(*plan(webhook(Dialect::Lemon), Some("gold"), &settings).policy, gold);
    assert_eq!(*plan(webhook(Dialect::Lemon), None, &settings).policy, Policy::standard());
}
