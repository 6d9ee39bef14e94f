//! What is told of an event's fate.

use super::*;
use crate::model::attempt::DeadReason;

async fn explain(world: &World, event: &str) -> Value {
    let got = world.call("GET", &format!("/v1/events/{event}/explain"), &world.acme, "").await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    got.json()
}

async fn patch(world: &World, webhook: &str, body: &str) {
    let got = world.call("PATCH", &format!("/v1/webhooks/{webhook}"), &world.acme, body.to_owned()).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
}

#[tokio::test]
async fn why_a_webhook_did_not_match() {
    let world = World::new().await;
    let before = world.webhook(&["a"]).await;
    world.call("DELETE", &format!("/v1/webhooks/{before}"), &world.acme, "").await;
    let matched = world.webhook(&["a"]).await;
    let other = world.webhook(&["b.*", "c"]).await;
    let inactive = world.webhook(&["a"]).await;
    patch(&world, &inactive, r#"{"active":false}"#).await;
    let event = world.publish("acme", "a").await;
    let later = world.webhook(&["a"]).await;
    // What has changed since does not count.
    patch(&world, &inactive, r#"{"active":true}"#).await;
    patch(&world, &other, r#"{"events":["a"]}"#).await;
    world.call("DELETE", &format!("/v1/webhooks/{later}"), &world.acme, "").await;
    let told = explain(&world, &event).await;
    let read = world.call("GET", &format!("/v1/events/{event}"), &world.acme, "").await;
    assert_eq!(told["event"], read.json());
    let deliveries = told["deliveries"].as_array().unwrap();
    let part = |id: &str| deliveries.iter().find(|part| part["webhook"] == id).unwrap();
    assert_eq!(deliveries.len(), 4, "the one deleted before is not told of");
    assert_eq!((&part(&matched)["matched"], &part(&matched)["state"]), (&json!(true), &json!("pending")));
    for (id, reason, detail) in [
        (&other, "type", "a is not among b.*, c"),
        (&inactive, "inactive", "owner"),
        (&later, "created_later", "created at"),
    ] {
        assert_eq!((&part(id)["matched"], &part(id)["reason"]), (&json!(false), &json!(reason)));
        assert!(part(id)["detail"].as_str().unwrap().contains(detail), "{}", part(id));
        assert!(part(id).get("state").is_none() && part(id).get("waiting_for").is_none());
    }
}

#[tokio::test]
async fn what_a_pending_delivery_waits_for() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let event = world.publish("acme", "a").await;
    let waits = async || explain(&world, &event).await["deliveries"][0]["waiting_for"].clone();
    let glance = |glance: Glance| *world.fake.glance.lock().unwrap() = glance;
    assert_eq!(waits().await["what"], "permit");
    glance(Glance { in_flight: true, ..Glance::default() });
    assert_eq!(waits().await["what"], "in_flight");
    glance(Glance { circuit_probe_at: Some(START + 30_000), ..Glance::default() });
    let circuit = waits().await;
    assert_eq!((&circuit["what"], &circuit["until"]), (&json!("circuit"), &json!("2023-11-14T22:13:50.000Z")));
    glance(Glance { rate_limited_until: Some(START + 1_000), ..Glance::default() });
    assert_eq!(waits().await["what"], "rate_limit");
    glance(Glance::default());
    patch(&world, &webhook, r#"{"active":false}"#).await;
    assert_eq!(waits().await["what"], "webhook_inactive");
    patch(&world, &webhook, r#"{"active":true}"#).await;
    world.attempted(&event, &webhook, 1, Verdict::RetryAt(START + 5_000)).await;
    let rule = "retry 1 of 9 of plan standard, 5 s ± 20 %";
    let backoff = json!({"what": "backoff", "until": "2023-11-14T22:13:25.000Z", "rule": rule});
    assert_eq!(waits().await, backoff);
    world.attempted(&event, &webhook, 2, Verdict::RetryAt(START + 300_000)).await;
    assert!(waits().await["rule"].as_str().unwrap().starts_with("retry 2 of 9 of plan standard, 5 min"));
    world.clock.advance(Duration::from_secs(300));
    assert_eq!(waits().await["what"], "permit");
}

#[tokio::test]
async fn every_state_and_every_attempt() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let state = async |event: &str| explain(&world, event).await["deliveries"][0].clone();
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &webhook, 1, Verdict::RetryAt(START + 5_000)).await;
    let pending = state(&event).await;
    assert_eq!((&pending["state"], &pending["dialect"]), (&json!("pending"), &json!("lemon")));
    assert_eq!(
        pending["attempts"],
        json!([{"id": format!("{event}.{webhook}.1"), "event": event, "webhook": webhook, "attempt": 1,
            "at": "2023-11-14T22:13:20.000Z", "duration_ms": 12, "outcome": "failed", "class": "status", "status": 500,
            "error": "status 500", "remote_addr": "203.0.113.7:443", "response_excerpt": "oops",
            "next_attempt_at": "2023-11-14T22:13:25.000Z"}])
    );
    world.attempted(&event, &webhook, 2, Verdict::Delivered).await;
    let delivered = state(&event).await;
    assert_eq!((&delivered["state"], &delivered["attempts"][1]["class"]), (&json!("delivered"), &json!(null)));
    assert_eq!(delivered["attempts"][1]["next_attempt_at"], json!(null));
    assert!(delivered.get("waiting_for").is_none());
    let listed = world.call("GET", &format!("/v1/webhooks/{webhook}/attempts?limit=1"), &world.acme, "").await.json();
    assert_eq!(listed["data"][0], delivered["attempts"][1]);
    let cursor = listed["pagination"]["next_cursor"].as_str().unwrap();
    let path = format!("/v1/webhooks/{webhook}/attempts?limit=1&cursor={cursor}");
    assert_eq!(world.call("GET", &path, &world.acme, "").await.json()["data"][0], delivered["attempts"][0]);

    let dead = world.publish("acme", "a").await;
    world.attempted(&dead, &webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    assert_eq!(state(&dead).await["state"], "dead");
    let (fresh, queued) = (world.publish("acme", "a").await, world.publish("acme", "a").await);
    world.attempted(&queued, &webhook, 1, Verdict::RetryAt(START + 5_000)).await;
    world.call("DELETE", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await;
    for (event, expected) in [(&fresh, "cancelled"), (&queued, "cancelled"), (&dead, "dead")] {
        assert_eq!(state(event).await["state"], expected);
    }
}

#[tokio::test]
async fn of_a_broadcast_everybody_sees_their_own_part() {
    let world = World::new().await;
    let webhook = world.webhook(&["*"]).await;
    let beta = json!({"url": URL, "events": ["*"]}).to_string();
    let beta = world.call("POST", "/v1/webhooks", &world.beta, beta).await.json()["id"].clone();
    let event = world.publish("*", "system.maintenance").await;
    for (token, id) in [(&world.acme, json!(webhook)), (&world.beta, beta)] {
        let got = world.call("GET", &format!("/v1/events/{event}/explain"), token, "").await.json();
        assert_eq!(got["deliveries"].as_array().unwrap().len(), 1);
        assert_eq!(got["deliveries"][0]["webhook"], id);
    }
}

#[tokio::test]
async fn pending_deliveries_are_listed_queued_ones_first() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let mut events = Vec::new();
    for n in 0..6 {
        let event = world.publish("acme", "a").await;
        world.publish("beta", "a").await;
        if n % 2 == 0 {
            world.attempted(&event, &webhook, 1, Verdict::RetryAt(START + 5_000 + n)).await;
        }
        events.push(event);
    }
    world.attempted(&events[5], &webhook, 1, Verdict::Delivered).await;
    let mut seen = Vec::new();
    let mut path = format!("/v1/webhooks/{webhook}/deliveries?state=pending&limit=2");
    loop {
        let got = world.call("GET", &path, &world.acme, "").await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        let page = got.json();
        seen.extend(page["data"].as_array().unwrap().clone());
        let Some(cursor) = page["pagination"]["next_cursor"].as_str() else { break };
        path = format!("/v1/webhooks/{webhook}/deliveries?state=pending&limit=2&cursor={cursor}");
    }
    let ids: Vec<_> = seen.iter().map(|one| one["event"].as_str().unwrap()).collect();
    assert_eq!(ids, [0, 2, 4, 1, 3].map(|n: usize| events[n].as_str()));
    assert_eq!((&seen[0]["attempts"], &seen[3]["attempts"]), (&json!(1), &json!(0)));
    let path = format!("/v1/webhooks/{webhook}/deliveries");
    assert_eq!(world.call("GET", &path, &world.acme, "").await.status, 422);
}
