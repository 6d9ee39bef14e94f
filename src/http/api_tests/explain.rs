//! What is told of an event's fate.

use super::*;
use crate::model::attempt::DeadReason;
use crate::model::webhook::InactiveReason;

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
    assert_eq!(deliveries.len(), 4, "the one deleted before is not told of by name");
    let summary = "1 of 4 webhooks matched; 1 pending; did not match: 1 created_later, 1 inactive, 1 type; 1 had been deleted \
        before the event was accepted";
    assert_eq!(told["summary"], summary);
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
async fn where_there_is_no_webhook_that_is_told() {
    let world = World::new().await;
    let event = world.publish("acme", "a").await;
    let told = explain(&world, &event).await;
    assert_eq!((&told["deliveries"], &told["event"]["id"]), (&json!([]), &json!(event)));
    assert_eq!(told["summary"], "the tenant has no webhook that this could go to");
    // What comes after it is not its webhook, and is named.
    let later = world.webhook(&["a"]).await;
    let told = explain(&world, &event).await;
    assert_eq!(
        (&told["deliveries"][0]["webhook"], &told["deliveries"][0]["reason"]),
        (&json!(later), &json!("created_later"))
    );
    assert_eq!(told["summary"], "0 of 1 webhooks matched; did not match: 1 created_later");
    world.call("DELETE", &format!("/v1/webhooks/{later}"), &world.acme, "").await;
    let event = world.publish("acme", "a").await;
    let told = explain(&world, &event).await;
    assert_eq!(told["deliveries"], json!([]));
    let summary = "the tenant has no webhook that this could go to; 1 had been deleted before the event was accepted";
    assert_eq!(told["summary"], summary);
}

#[tokio::test]
async fn of_a_type_that_nobody_wants_every_webhook_says_why() {
    let known = catalogue(&[("account.deposit_received", Some("ACCOUNT_ACTIVITY"))]);
    let world = World::with(Settings { catalogue: known, ..Settings::default() }).await;
    let types: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    let many = world.webhook(&types.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let everything = world.webhook(&["order.*", "*"]).await;
    let omnia = json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": {"url": URL}}).to_string();
    world.call("POST", "/v3/webhooks", &world.acme, omnia).await;
    let register = json!({"webhook_url": URL}).to_string();
    world.call("POST", "/api/webhook/register", &world.acme, register).await;
    let event = world.publish("acme", "account.deposit_recieved").await;
    let told = explain(&world, &event).await;
    let details: Vec<&str> =
        told["deliveries"].as_array().unwrap().iter().map(|part| part["detail"].as_str().unwrap_or("-")).collect();
    let wanted = [
        "account.deposit_recieved is not among t0, t1, t2, t3, t4, t5, t6, t7 and 4 more",
        "-",
        "account.deposit_recieved is not among ACCOUNT_ACTIVITY and is announced on no channel",
        "-",
    ];
    assert_eq!(details, wanted, "{many} {everything}");
    assert_eq!(told["summary"], "2 of 4 webhooks matched; 2 pending; did not match: 2 type");
}

#[tokio::test]
async fn what_the_daemon_reports_is_not_among_all() {
    let world = World::new().await;
    let webhook = world.webhook(&["*"]).await;
    let tested = world.call("POST", &format!("/v1/webhooks/{webhook}/test"), &world.acme, "").await.json();
    let event = &tested["attemptId"].as_str().unwrap()[..36];
    let told = explain(&world, event).await;
    assert_eq!(told["event"]["type"], "webhookd.test");
    assert_eq!(told["deliveries"][0]["detail"], "webhookd.test is not among *; * leaves webhookd.* out");
}

#[tokio::test]
async fn who_has_made_a_webhook_inactive() {
    for reason in [InactiveReason::Gone, InactiveReason::Failing] {
        let world = World::new().await;
        let webhook = world.webhook(&["a"]).await;
        let (waiting, event) = (world.publish("acme", "a").await, world.publish("acme", "a").await);
        world.deactivating(Some(reason));
        world.attempted(&event, &webhook, 1, Verdict::Dead(DeadReason::Gone)).await;
        let after = world.publish("acme", "a").await;
        let word = reason.as_str();
        let part = async |event: &str| explain(&world, event).await["deliveries"][0].clone();
        let rule = part(&waiting).await["waiting_for"]["rule"].as_str().unwrap().to_owned();
        assert_eq!(rule, format!("the webhook is inactive ({word}); it goes on when it is made active"));
        let after = part(&after).await;
        assert_eq!((&after["matched"], &after["reason"]), (&json!(false), &json!("inactive")));
        assert_eq!(after["detail"], format!("the webhook was inactive ({word}) since 2023-11-14T22:13:20.000Z"));
    }
}

#[tokio::test]
async fn how_a_delivery_ended_is_told_in_words() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let part = async |event: &str| explain(&world, event).await["deliveries"][0].clone();
    let told = async |event: &str| {
        let part = part(event).await;
        format!("{} {}", part["state"].as_str().unwrap(), part["detail"].as_str().unwrap_or("-"))
    };
    let (exhausted, gone) = (world.publish("acme", "a").await, world.publish("acme", "a").await);
    world.attempted(&exhausted, &webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    world.attempted(&gone, &webhook, 1, Verdict::Dead(DeadReason::Gone)).await;
    assert_eq!(told(&exhausted).await, "dead retries_exhausted: every attempt that its plan allows has failed");
    assert_eq!(told(&gone).await, "dead gone: the receiver answered 410");

    // It never came to an attempt: only these words say why.
    let expired = world.publish("acme", "a").await;
    let (event, no) = world.names(&expired, &webhook);
    let due_ms = world.clock.now_ms();
    world.store.submit(Op::Spill { webhook: no, events: vec![event.seq], due_ms }, None).await.unwrap();
    world.store.submit(Op::Expire { webhook: no, before_ms: due_ms, max: 9 }, None).await.unwrap();
    let rule = "circuit_expired: it waited behind the open circuit for the whole span of its plan";
    assert_eq!((told(&expired).await, &part(&expired).await["attempts"]), (format!("dead {rule}"), &json!([])));

    let letter = format!("/v1/dead-letters/{gone}.{webhook}");
    assert_eq!(world.call("DELETE", &letter, &world.acme, "").await.status, 204);
    assert_eq!(told(&gone).await, "cancelled it was cancelled by request");
    let delivered = world.publish("acme", "a").await;
    world.attempted(&delivered, &webhook, 1, Verdict::Delivered).await;
    let pending = world.publish("acme", "a").await;
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(world.call("DELETE", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await.status, 204);
    let deleted = "the webhook was deleted at 2023-11-14T22:13:25.000Z, and what was pending for it cancelled";
    assert_eq!(told(&pending).await, format!("cancelled {deleted}"));
    assert_eq!(told(&gone).await, "cancelled it was cancelled by request", "that was before");
    assert_eq!(told(&delivered).await, "delivered -");
    assert_eq!(told(&expired).await, format!("dead {rule}"));
    let summary = explain(&world, &pending).await["summary"].clone();
    assert_eq!(summary, "1 of 1 webhooks matched; 1 cancelled");
}

#[tokio::test]
async fn what_is_sent_to_a_webhook_that_did_not_match_says_both() {
    let world = World::new().await;
    let webhook = world.webhook(&["b"]).await;
    let event = world.publish("acme", "a").await;
    let resend = json!({"webhook": webhook}).to_string();
    assert_eq!(world.call("POST", &format!("/v1/events/{event}/resend"), &world.acme, resend).await.status, 202);
    world.attempted(&event, &webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    let told = explain(&world, &event).await;
    let part = &told["deliveries"][0];
    assert_eq!((&part["matched"], &part["reason"], &part["state"]), (&json!(false), &json!("type"), &json!("dead")));
    let detail = "a is not among b; retries_exhausted: every attempt that its plan allows has failed";
    assert_eq!(
        (part["detail"].as_str(), told["summary"].as_str()),
        (Some(detail), Some("0 of 1 webhooks matched; 1 dead; did not match: 1 type"))
    );
}

/// Several things may hold a delivery back at once: told is the one that has to give way first.
#[tokio::test]
async fn what_comes_first_of_what_a_delivery_waits_for() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let (fresh, tried) = (world.publish("acme", "a").await, world.publish("acme", "a").await);
    world.attempted(&tried, &webhook, 1, Verdict::RetryAt(START + 5_000)).await;
    let every = Glance {
        circuit_probe_at: Some(START + 30_000),
        permits_taken: true,
        rate_limited_until: Some(START + 1_000),
        ..Glance::default()
    };
    let waits = async |event: &str| {
        explain(&world, event).await["deliveries"][0]["waiting_for"]["what"].as_str().unwrap().to_owned()
    };
    let glance = |glance: Glance| *world.fake.glance.lock().unwrap() = glance;
    for (shown, of_fresh, of_tried) in [
        (every, "circuit", "backoff"),
        (Glance { circuit_probe_at: None, ..every }, "rate_limit", "backoff"),
        (Glance { circuit_probe_at: None, rate_limited_until: None, ..every }, "permit", "backoff"),
        (Glance { in_flight: true, ..every }, "in_flight", "in_flight"),
    ] {
        glance(shown);
        assert_eq!([waits(&fresh).await, waits(&tried).await], [of_fresh, of_tried], "{shown:?}");
    }
    glance(every);
    patch(&world, &webhook, r#"{"active":false}"#).await;
    assert_eq!([waits(&fresh).await, waits(&tried).await], ["webhook_inactive"; 2]);
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
        assert_eq!(got["summary"], "1 of 1 webhooks matched; 1 pending");
    }
    assert_eq!(world.socket("PUT", "/admin/tenants/alone", "").await.status, 200);
    let alone = world.key(json!({"role": "tenant", "tenant": "alone"})).await;
    let got = world.call("GET", &format!("/v1/events/{event}/explain"), &alone, "").await.json();
    assert_eq!((&got["event"]["id"], &got["deliveries"]), (&json!(event), &json!([])));
    assert_eq!(got["summary"], "the tenant has no webhook that this could go to", "and nothing of the others");
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
