//! A webhook's figures, and the bounds on what a tenant may have pending.

use super::*;
use crate::model::attempt::DeadReason;

async fn stats(world: &World, webhook: &str, query: &str) -> Value {
    let got = world.call("GET", &format!("/v1/webhooks/{webhook}/stats{query}"), &world.acme, "").await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    got.json()
}

#[tokio::test]
async fn figures_of_a_webhook_come_from_its_own_attempts_and_deliveries() {
    let world = World::new().await;
    let (webhook, other) = (world.webhook(&["a"]).await, world.webhook(&["a", "b"]).await);
    let none = json!({"attempts": 0, "delivered": 0, "failed": 0, "success_rate": null,
        "duration_ms": {"p50": null, "p95": null, "p99": null}, "pending": 0, "oldest_pending_at": null, "dead": 0,
        "since": "2023-11-13T22:13:20.000Z", "from": "2023-11-13T22:13:20.000Z", "complete": true});
    assert_eq!(stats(&world, &webhook, "").await, none);

    let mut events = Vec::new();
    for _ in 0..5 {
        events.push(world.publish("acme", "a").await);
        world.clock.advance(Duration::from_secs(60));
    }
    let seen = stats(&world, &webhook, "").await;
    assert_eq!((&seen["pending"], &seen["oldest_pending_at"]), (&json!(5), &json!("2023-11-14T22:13:20.000Z")));
    world.attempted(&events[0], &webhook, 1, Verdict::Delivered).await;
    world.attempted(&events[1], &webhook, 1, Verdict::RetryAt(u64::MAX)).await;
    world.attempted(&events[2], &webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    world.attempted(&events[3], &webhook, 1, Verdict::Delivered).await;
    world.attempted(&events[0], &other, 1, Verdict::Delivered).await;
    let seen = stats(&world, &webhook, "").await;
    let told = json!({"attempts": 4, "delivered": 2, "failed": 2, "success_rate": 0.5,
        "duration_ms": {"p50": 12, "p95": 12, "p99": 12}, "pending": 2, "oldest_pending_at": "2023-11-14T22:14:20.000Z", "dead": 1,
        "since": "2023-11-13T22:18:20.000Z", "from": "2023-11-13T22:18:20.000Z", "complete": true});
    assert_eq!(seen, told);
    let seen = stats(&world, &other, "").await;
    assert_eq!((&seen["attempts"], &seen["pending"], &seen["dead"]), (&json!(1), &json!(4), &json!(0)));

    // Of a later period only the attempts are fewer.
    world.clock.advance(Duration::from_secs(600));
    world.attempted(&events[1], &webhook, 2, Verdict::Delivered).await;
    let seen = stats(&world, &webhook, "?since=2023-11-14T22:18:21Z").await;
    assert_eq!((&seen["attempts"], &seen["success_rate"], &seen["pending"]), (&json!(1), &json!(1.0), &json!(1)));
    assert_eq!(seen["oldest_pending_at"], "2023-11-14T22:17:20.000Z", "only the one that was never tried is left");
    assert_eq!(seen["since"], "2023-11-14T22:18:21.000Z");
    assert_eq!(stats(&world, &webhook, "?since=2023-11-14T22:18:20Z").await["attempts"], 5);
    assert_eq!(stats(&world, &webhook, "?since=2030-01-01T00:00:00Z").await["attempts"], 0);
    let got = world.call("GET", &format!("/v1/webhooks/{webhook}/stats?since=today"), &world.acme, "").await;
    assert_eq!(got.told(), (422, "invalid_field".to_owned()));
}

#[tokio::test]
async fn figures_are_told_of_webhooks_of_every_dialect_by_any_of_their_names() {
    let world = World::new().await;
    let body = json!({"url": URL, "events": ["a"]}).to_string();
    let vibe = world.call("POST", "/api/v1/webhooks", &world.acme, body).await.json()["id"].clone();
    let digits = vibe.as_str().unwrap().trim_start_matches("webhook_");
    world.publish("acme", "a").await;
    let dashed = crate::model::id::WebhookId::parse(vibe.as_str().unwrap()).unwrap().dashed();
    for id in [vibe.as_str().unwrap(), &format!("wbh_{digits}"), &dashed] {
        assert_eq!(stats(&world, id, "").await["pending"], 1, "{id}");
    }
}

#[tokio::test]
async fn a_full_backlog_takes_no_more_until_something_is_through() {
    let world = World::with(Settings { pending_per_tenant: Some(3), ..Settings::default() }).await;
    let (one, _) = (world.webhook(&["a"]).await, world.webhook(&["a", "c"]).await);
    let publish = async |tenant: &str, kind: &str| {
        let body = json!({"type": kind, "tenant": tenant}).to_string();
        world.call("POST", "/v1/events", &world.publisher, body).await
    };
    let first = publish("acme", "a").await.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(publish("acme", "a").await.status, 201, "two deliveries pending: there is room for one more event");
    let got = publish("acme", "a").await;
    assert_eq!((got.told(), got.header("retry-after")), ((429, "backlog_full".to_owned()), Some("5")));
    assert!(got.json()["message"].as_str().unwrap().contains("pending"));
    // What adds nothing to it, what is somebody else's, and what is for everybody.
    for (tenant, kind) in [("acme", "nobody.wants.it"), ("beta", "a"), ("*", "c")] {
        assert_eq!(publish(tenant, kind).await.status, 201, "{tenant} {kind}");
    }
    let batch = json!({"events": [{"type": "x", "tenant": "acme"}, {"type": "a", "tenant": "beta"}, {"type": "c", "tenant": "acme"}]});
    let before = world.store.shared().next_event();
    let got = world.call("POST", "/v1/events/batch", &world.publisher, batch.to_string()).await;
    assert_eq!(got.told(), (429, "backlog_full".to_owned()));
    assert_eq!(world.store.shared().next_event(), before, "a batch is refused whole");
    // A delivery that is tried again later is pending still; one that is through is not; nor is what nobody waits for.
    world.attempted(&first, &one, 1, Verdict::RetryAt(START + 5_000)).await;
    assert_eq!(publish("acme", "a").await.status, 429);
    world.attempted(&first, &one, 2, Verdict::Delivered).await;
    assert_eq!(publish("acme", "a").await.status, 429, "four are left");
    assert_eq!(world.call("DELETE", &format!("/v1/webhooks/{one}"), &world.acme, "").await.status, 204);
    assert_eq!(publish("acme", "a").await.status, 429, "three are left");
    world.service.reload(Settings { pending_per_tenant: Some(4), ..Settings::default() });
    assert_eq!(publish("acme", "a").await.status, 201);
    assert_eq!(publish("acme", "a").await.status, 429);
    world.service.reload(Settings::default());
    assert_eq!(publish("acme", "a").await.status, 201);
}

#[tokio::test]
async fn those_who_race_for_the_last_room_of_a_backlog_get_it_once() {
    let world = World::with(Settings { pending_per_tenant: Some(3), ..Settings::default() }).await;
    world.webhook(&["a"]).await;
    let body = r#"{"type":"a","tenant":"acme"}"#;
    let racing = (0..20).map(|_| world.call("POST", "/v1/events", &world.publisher, body));
    let statuses: Vec<u16> = all(racing).await.iter().map(|got| got.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 3, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 429].contains(status)));
}

#[tokio::test]
async fn a_refusal_for_a_full_backlog_is_not_remembered() {
    let world = World::with(Settings { pending_per_tenant: Some(1), ..Settings::default() }).await;
    let webhook = world.webhook(&["a"]).await;
    let first = world.publish("acme", "a").await;
    let publish = async || {
        let headers = [("idempotency-key", "k1")];
        world.call_with("POST", "/v1/events", &world.publisher, r#"{"type":"a","tenant":"acme"}"#, &headers).await
    };
    assert_eq!(publish().await.status, 429);
    world.attempted(&first, &webhook, 1, Verdict::Delivered).await;
    let accepted = publish().await;
    assert_eq!((accepted.status.as_u16(), accepted.header("idempotent-replayed")), (201, None));
    // The answer to the same once more is no news for the backlog.
    let again = publish().await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (201, Some("true")));
}
