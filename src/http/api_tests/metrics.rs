//! `/metrics`: that what it shows is true, and that it keeps to the rules of Prometheus' naming.

use std::collections::BTreeMap;

use super::*;
use crate::metrics::{AttemptLabels, DeliveryLabels, NewsLabels, Outcome};
use crate::model::attempt::DeadReason;

/// Sample line → value, and family → (type, unit, help).
struct Scrape {
    samples: BTreeMap<String, f64>,
    families: BTreeMap<String, [String; 3]>,
}

async fn scrape(world: &World) -> Scrape {
    let got = world.socket("GET", "/metrics", "").await;
    assert_eq!(got.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = String::from_utf8(got.body.to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::<String, [String; 3]>::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(about) = line.strip_prefix("# ") {
            let mut words = about.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (what, name, text) = (word(), word(), word());
            let place = ["TYPE", "UNIT", "HELP"].iter().position(|known| *known == what).unwrap();
            let told = &mut families.entry(name).or_default()[place];
            assert_eq!(std::mem::replace(told, text), "", "told twice: {line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(samples.insert(name.to_owned(), value.parse().unwrap()), None, "twice: {line}");
        }
    }
    Scrape { samples, families }
}

impl Scrape {
    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{sample} is not among {:#?}", self.samples))
    }
}

#[tokio::test]
async fn every_family_is_named_typed_and_explained_as_prometheus_asks() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    world.publish("acme", "a").await;
    // Dispatch is a fake here; a family with labels is silent before its first value.
    let metrics = world.service.metrics();
    metrics.attempts.get_or_create(&AttemptLabels { result: "timeout" }).inc();
    metrics.deliveries.get_or_create(&DeliveryLabels { outcome: Outcome::dead }).inc();
    metrics.operational_events.get_or_create(&NewsLabels { kind: "webhookd.delivery.dead" }).inc();
    let Scrape { samples, families } = scrape(&world).await;
    let endings = |kind: &str| match kind {
        "counter" => &["_total"][..],
        "histogram" => &["_bucket", "_sum", "_count"],
        "info" => &["_info"],
        "gauge" => &[""],
        other => panic!("{other} is no type we use"),
    };
    let name_of = |sample: &str| sample.split('{').next().unwrap().to_owned();
    for (family, [kind, unit, help]) in &families {
        assert!(family.starts_with("webhookd_"), "{family}");
        assert!(help.len() > 5 && help.ends_with('.'), "{family}: {help:?}");
        // Base units, said in the name and as UNIT.
        for other in ["millis", "_ms", "micros", "minutes", "hours", "kib", "mib", "kilo", "mega", "percent"] {
            assert!(!family.contains(other), "{family}");
        }
        for base in ["seconds", "bytes"] {
            assert_eq!(family.ends_with(&format!("_{base}")), unit == base, "{family}: unit {unit:?}");
            assert!(family.matches(base).count() <= 1, "{family}");
        }
        assert!(unit.is_empty() || ["seconds", "bytes"].contains(&unit.as_str()), "{family}: {unit}");
        for reserved in ["_total", "_bucket", "_sum", "_count", "_info", "_created"] {
            assert!(!family.ends_with(reserved), "{family}: the ending is the sample's");
        }
        let own = |sample: &&String| endings(kind).iter().any(|end| name_of(sample) == format!("{family}{end}"));
        assert!(samples.keys().any(|sample| own(&sample)), "{family} shows nothing");
    }
    for sample in samples.keys() {
        let named = name_of(sample);
        let found = families
            .iter()
            .any(|(family, [kind, ..])| endings(kind).iter().any(|end| named == format!("{family}{end}")));
        assert!(found, "{sample} has no HELP and TYPE");
        assert!(!sample.contains(&webhook) && !sample.contains("acme"), "labels that grow with the tenants: {sample}");
    }
    assert!(families.len() >= 27, "{families:#?}");
}

#[tokio::test]
async fn what_stands_in_the_store_is_counted_when_it_is_asked_for() {
    let world = World::new().await;
    let (webhook, other) = (world.webhook(&["a"]).await, world.webhook(&["b"]).await);
    let before = scrape(&world).await;
    for sample in ["webhookd_dead_letters", "webhookd_pending_deliveries{state=\"fresh\"}", "webhookd_uptime_seconds"] {
        assert_eq!(before.value(sample), 0.0, "{sample}");
    }
    assert_eq!(before.value("webhookd_tenants"), 3.0, "two of ours and the operator");
    assert_eq!(before.value("webhookd_webhooks{state=\"active\"}"), 2.0);
    assert_eq!(before.value("webhookd_reload_success"), 1.0);
    let version = format!("webhookd_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(before.value(&version), 1.0);
    assert!(before.value("webhookd_store_file_bytes") > 10_000.0);

    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(world.publish("acme", "a").await);
    }
    world.publish("acme", "b").await;
    world.attempted(&events[0], &webhook, 1, Verdict::RetryAt(u64::MAX)).await;
    world.attempted(&events[1], &webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    let (_, no) = world.names(&events[2], &webhook);
    let seq = world.names(&events[2], &webhook).0.seq;
    world.store.submit(Op::Spill { webhook: no, events: vec![seq], due_ms: START }, None).await.unwrap();
    let path = format!("/v1/webhooks/{other}");
    world.call("PATCH", &path, &world.acme, r#"{"active":false}"#).await;
    world.clock.advance(Duration::from_millis(90_500));
    let now = scrape(&world).await;
    let pending =
        ["fresh", "waiting", "started"].map(|state| format!("webhookd_pending_deliveries{{state=\"{state}\"}}"));
    assert_eq!(pending.map(|sample| now.value(&sample)), [2.0, 1.0, 1.0]);
    assert_eq!(now.value("webhookd_dead_letters"), 1.0);
    assert_eq!(now.value("webhookd_oldest_due_age_seconds"), 90.5);
    assert_eq!(
        ["active", "inactive"].map(|state| now.value(&format!("webhookd_webhooks{{state=\"{state}\"}}"))),
        [1.0; 2]
    );
    assert_eq!(now.value("webhookd_uptime_seconds"), 90.5);
    assert_eq!(now.value("webhookd_events_accepted_total"), 5.0);
    assert!(now.value("webhookd_http_requests_total{status=\"201\"}") >= 5.0);
    // What a deleted webhook leaves behind is pending no more.
    world.call("DELETE", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await;
    let after = scrape(&world).await;
    assert_eq!(after.value("webhookd_pending_deliveries{state=\"started\"}"), 0.0);
    assert_eq!(after.value("webhookd_dead_letters"), 0.0);
    assert_eq!(after.value("webhookd_oldest_due_age_seconds"), 0.0);
    // While the store is away the rest is told all the same.
    world.store.close();
    assert_eq!(world.socket("GET", "/metrics", "").await.status, 200);
}

#[tokio::test]
async fn so_many_webhooks_have_figures_of_their_own_as_is_said() {
    let world = World::with(Settings { metrics_webhooks: 1, ..Settings::default() }).await;
    let (first, second) = (world.webhook(&["a"]).await, world.webhook(&["a"]).await);
    let [dead, waits] = [world.publish("acme", "a").await, world.publish("acme", "a").await];
    world.attempted(&dead, &first, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    world.attempted(&waits, &first, 1, Verdict::RetryAt(world.clock.now_ms() + 1_000)).await;
    let own = |what: &str, of: &str| format!("webhookd_webhook_{what}{{webhook=\"{of}\",tenant=\"acme\"}}");
    let now = scrape(&world).await;
    for (what, value) in [("pending_deliveries", 1.0), ("dead_letters", 1.0), ("last_success_timestamp_seconds", 0.0)] {
        assert_eq!(now.value(&own(what, &first)), value, "{what}");
        assert!(!now.samples.contains_key(&own(what, &second)), "{what} of one beyond the bound");
    }
    world.call("DELETE", &format!("/v1/webhooks/{first}"), &world.acme, "").await;
    let now = scrape(&world).await;
    assert!(!now.samples.contains_key(&own("dead_letters", &first)), "it is gone");
    assert_eq!(now.value(&own("dead_letters", &second)), 0.0);
}
