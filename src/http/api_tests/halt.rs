//! What is stopped by decision: cancelled, in line for its ordering key, paused.

use super::*;
use crate::model::attempt::DeadReason;

impl World {
    async fn publish_in_line(&self, key: &str) -> String {
        let body = json!({"type": "a", "tenant": "acme", "ordering_key": key}).to_string();
        let got = self.call("POST", "/v1/events", &self.publisher, body).await;
        assert_eq!(got.status, 201, "{:?}", got.body);
        got.json()["id"].as_str().unwrap().to_owned()
    }

    async fn fate(&self, event: &str) -> Value {
        let got = self.call("GET", &format!("/v1/events/{event}/explain"), &self.acme, "").await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        got.json()["deliveries"][0].clone()
    }

    async fn cancel(&self, event: &str, query: &str) -> Got {
        self.call("DELETE", &format!("/v1/events/{event}/deliveries{query}"), &self.acme, "").await
    }

    async fn pause(&self, verb: &str, body: Value) -> Got {
        self.socket("POST", &format!("/admin/{verb}"), &body.to_string()).await
    }
}

#[tokio::test]
async fn cancelling_takes_back_what_is_pending_once() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let second = world.webhook(&["*"]).await;
    let fresh = world.publish("acme", "a").await;
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &webhook, 1, Verdict::RetryAt(START + 5_000)).await;
    world.attempted(&event, &second, 1, Verdict::Delivered).await;
    assert_eq!(world.cancel(&event, "").await.json(), json!({"cancelled": 1}), "what is delivered stays so");
    assert_eq!(world.cancel(&event, "").await.json(), json!({"cancelled": 0}));
    let named = world.cancel(&fresh, &format!("?webhook={second}")).await;
    assert_eq!((named.status.as_u16(), named.json()), (200, json!({"cancelled": 1})));
    let told = world.call("GET", &format!("/v1/events/{fresh}/explain"), &world.acme, "").await.json();
    let states: Vec<_> = told["deliveries"].as_array().unwrap().iter().map(|part| &part["state"]).collect();
    assert_eq!(states, ["pending", "cancelled"]);
    let cancelled = world.fate(&event).await;
    assert_eq!((&cancelled["state"], &cancelled["attempts"][0]["attempt"]), (&json!("cancelled"), &json!(1)));
    assert!(cancelled.get("waiting_for").is_none());
    assert_eq!(world.cancel(&fresh, "").await.json(), json!({"cancelled": 1}));
    let pending = world.call("GET", &format!("/v1/webhooks/{webhook}/deliveries?state=pending"), &world.acme, "").await;
    assert_eq!(pending.json()["data"], json!([]));
    // An attempt that was under way: its failure changes nothing, its success counts.
    world.attempted(&event, &webhook, 2, Verdict::RetryAt(START + 9_000)).await;
    assert_eq!(world.fate(&event).await["state"], "cancelled");
    world.attempted(&event, &webhook, 3, Verdict::Delivered).await;
    let delivered = world.fate(&event).await;
    assert_eq!((&delivered["state"], delivered["attempts"].as_array().unwrap().len()), (&json!("delivered"), 3));
}

#[tokio::test]
async fn a_tenant_cancels_its_own_part_of_a_broadcast_and_nothing_foreign() {
    let world = World::new().await;
    let webhook = world.webhook(&["*"]).await;
    let beta = json!({"url": URL, "events": ["*"]}).to_string();
    let beta = world.call("POST", "/v1/webhooks", &world.beta, beta).await.json();
    let event = world.publish("*", "system.maintenance").await;
    let foreign = world.publish("beta", "a").await;
    assert_eq!(world.cancel(&event, "").await.json(), json!({"cancelled": 1}));
    let got = world.call("GET", &format!("/v1/events/{event}/explain"), &world.beta, "").await.json();
    assert_eq!(got["deliveries"][0]["state"], "pending");
    let not_found = (404, "not_found".to_owned());
    assert_eq!(world.cancel(&foreign, "").await.told(), not_found);
    assert_eq!(world.cancel("evt_0190c0a8000070008000000000000000", "").await.told(), not_found);
    let beta = beta["id"].as_str().unwrap();
    for webhook in [beta, "wbh_00000000000000000000000000000000", "x"] {
        assert_eq!(world.cancel(&event, &format!("?webhook={webhook}")).await.told(), not_found);
    }
    let path = format!("/v1/events/{event}/deliveries");
    assert_eq!(world.call("DELETE", &path, &world.admin, "").await.status, 422, "an admin names the tenant");
    let by_admin = world.call("DELETE", &format!("{path}?tenant=beta"), &world.admin, "").await;
    assert_eq!(by_admin.json(), json!({"cancelled": 1}));
    assert_eq!(world.call("DELETE", &path, &world.publisher, "").await.status, 403);
    // Sent to a webhook that it did not match, it is cancelled there too.
    let other = world.webhook(&["b"]).await;
    let body = json!({"webhook": other}).to_string();
    let resent = world.call("POST", &format!("/v1/events/{event}/resend"), &world.acme, body).await;
    assert_eq!(resent.status, 202, "{:?}", resent.body);
    assert_eq!(world.cancel(&event, "").await.json(), json!({"cancelled": 1}));
    world.call("DELETE", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await;
    assert_eq!(world.cancel(&event, "").await.json(), json!({"cancelled": 0}));
}

#[tokio::test]
async fn what_is_cancelled_can_be_sent_again_once_its_last_attempt_has_ended() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let event = world.publish("acme", "a").await;
    let resend = async || {
        let got = world.call("POST", &format!("/v1/events/{event}/resend"), &world.acme, "").await;
        got.status.as_u16()
    };
    assert_eq!(resend().await, 409);
    world.cancel(&event, "").await;
    *world.fake.glance.lock().unwrap() = Glance { in_flight: true, is_ending: true, ..Glance::default() };
    assert_eq!(resend().await, 409);
    *world.fake.glance.lock().unwrap() = Glance::default();
    assert_eq!((resend().await, resend().await), (202, 409));
    world.attempted(&event, &webhook, 1, Verdict::Delivered).await;
    assert_eq!(world.fate(&event).await["state"], "delivered");
}

#[tokio::test]
async fn the_next_event_of_a_key_waits_and_says_for_whom() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let [first, second, third] =
        [world.publish_in_line("k").await, world.publish_in_line("k").await, world.publish_in_line("k").await];
    let other = world.publish_in_line("j").await;
    assert_eq!(world.fate(&first).await["waiting_for"]["what"], "permit");
    assert_eq!(world.fate(&other).await["waiting_for"]["what"], "permit", "another key flows on");
    let waits = world.fate(&second).await["waiting_for"].clone();
    assert_eq!((&waits["what"], &waits["event"]), (&json!("order"), &json!(first)));
    assert_eq!(waits["rule"], json!(format!("one event of an ordering_key at a time; {first} is under way")));
    let waits = world.fate(&third).await["waiting_for"].clone();
    assert_eq!(waits["event"], json!(first));
    assert!(waits["rule"].as_str().unwrap().ends_with(&format!("; {second} comes before this one")), "{waits}");
    // Pending, the one in the queue first, then the held, then the fresh, in pages.
    world.attempted(&first, &webhook, 1, Verdict::RetryAt(START + 5_000)).await;
    let mut seen = Vec::new();
    let mut path = format!("/v1/webhooks/{webhook}/deliveries?state=pending&limit=1");
    loop {
        let page = world.call("GET", &path, &world.acme, "").await.json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|one| one["event"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["pagination"]["next_cursor"].as_str() else { break };
        path = format!("/v1/webhooks/{webhook}/deliveries?state=pending&limit=1&cursor={cursor}");
    }
    assert_eq!(seen, [&first, &second, &third, &other].map(String::as_str));
    // Its end lets the next one go, whatever the end is.
    world.attempted(&first, &webhook, 2, Verdict::Dead(DeadReason::Exhausted)).await;
    assert_eq!(world.fate(&second).await["waiting_for"]["what"], "permit");
    assert_eq!(world.fate(&third).await["waiting_for"]["event"], json!(second));
    // Asked for again it goes when the one under way has ended, before newer ones.
    let redriven = world.call("POST", &format!("/v1/dead-letters/{first}.{webhook}/redrive"), &world.acme, "").await;
    assert_eq!(redriven.status, 202, "{:?}", redriven.body);
    assert_eq!(world.fate(&first).await["waiting_for"]["event"], json!(second));
    world.cancel(&second, "").await;
    assert_eq!(world.fate(&first).await["waiting_for"]["what"], "permit");
    let waits = world.fate(&third).await["waiting_for"].clone();
    assert_eq!((&waits["what"], &waits["event"]), (&json!("order"), &json!(first)));
    // One that is held is cancelled without the others noticing.
    let fourth = world.publish_in_line("k").await;
    assert_eq!(world.cancel(&third, "").await.json(), json!({"cancelled": 1}));
    world.attempted(&first, &webhook, 3, Verdict::Delivered).await;
    assert_eq!(world.fate(&fourth).await["waiting_for"]["what"], "permit");
}

#[tokio::test]
async fn an_owner_pauses_its_webhook_and_reads_say_so() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let event = world.publish("acme", "a").await;
    let path = format!("/v1/webhooks/{webhook}");
    assert_eq!(world.call("GET", &path, &world.acme, "").await.json()["paused"], false);
    for _ in 0..2 {
        let paused = world.call("POST", &format!("{path}/pause"), &world.acme, "").await;
        assert_eq!((paused.status.as_u16(), &paused.json()["paused"]), (200, &json!(true)));
    }
    assert_eq!(world.call("GET", "/v1/webhooks", &world.acme, "").await.json()["data"][0]["paused"], true);
    let waits = world.fate(&event).await["waiting_for"].clone();
    assert_eq!((&waits["what"], &waits["until"]), (&json!("paused"), &json!(null)));
    assert_eq!(waits["rule"], "the webhook is paused; it goes on when it is resumed");
    let listed = world.socket("GET", "/admin/pause", "").await.json();
    let since = "2023-11-14T22:13:20.000Z";
    let own = json!({"scope": "webhook", "tenant": "acme", "webhook": webhook, "by": "tenant", "since": since});
    assert_eq!(listed, json!({"data": [own]}));
    // What is accepted meanwhile is queued for it, and it may be tested.
    let body = json!({"type": "a", "tenant": "acme"}).to_string();
    assert_eq!(world.call("POST", "/v1/events", &world.publisher, body).await.json()["deliveries"], 1);
    assert_eq!(world.call("POST", &format!("{path}/test"), &world.acme, "").await.json()["success"], true);
    // The operator's pause is not the owner's to lift.
    assert_eq!(world.pause("pause", json!({"webhook": webhook})).await.status, 200);
    let resumed = world.call("POST", &format!("{path}/resume"), &world.acme, "").await;
    assert_eq!((resumed.status.as_u16(), &resumed.json()["paused"]), (200, &json!(true)));
    assert_eq!(world.fate(&event).await["waiting_for"]["rule"], "the operator has paused the webhook");
    assert_eq!(world.pause("resume", json!({"webhook": webhook})).await.json(), json!({"data": []}));
    assert_eq!(world.call("GET", &path, &world.acme, "").await.json()["paused"], false);
    assert_eq!(world.fate(&event).await["waiting_for"]["what"], "permit");
    // Deleted with its pauses.
    world.call("POST", &format!("{path}/pause"), &world.acme, "").await;
    world.call("DELETE", &path, &world.acme, "").await;
    assert_eq!(world.socket("GET", "/admin/pause", "").await.json(), json!({"data": []}));
}

#[tokio::test]
async fn the_operator_pauses_a_tenant_a_host_or_everything() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let event = world.publish("acme", "a").await;
    let since = "2023-11-14T22:13:20.000Z";
    for (named, shown, rule) in [
        (
            json!({}),
            json!({"scope": "everything", "by": "operator", "since": since}),
            "the operator has paused everything",
        ),
        (
            json!({"tenant": "acme"}),
            json!({"scope": "tenant", "tenant": "acme", "by": "operator", "since": since}),
            "the operator has paused the tenant acme",
        ),
        (
            json!({"host": "HOOKS.example.com"}),
            json!({"scope": "host", "host": "hooks.example.com", "by": "operator", "since": since}),
            "the operator has paused the host hooks.example.com",
        ),
    ] {
        let paused = world.pause("pause", named.clone()).await;
        assert_eq!((paused.status.as_u16(), paused.json()), (200, json!({"data": [shown]})));
        assert_eq!(world.fate(&event).await["waiting_for"]["rule"], json!(rule));
        let read = world.call("GET", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await.json();
        assert_eq!(read["paused"], true, "{named}");
        let resumed = world.pause("resume", named).await;
        assert_eq!((resumed.status.as_u16(), resumed.json()), (200, json!({"data": []})));
        assert_eq!(world.fate(&event).await["waiting_for"]["what"], "permit");
    }
    assert_eq!(world.socket("POST", "/admin/pause", "").await.status, 200);
    assert_eq!(world.pause("resume", json!({})).await.json(), json!({"data": []}));
    let unknown = "wbh_00000000000000000000000000000000";
    for (body, status) in [
        (json!({"tenant": "nobody"}), 422),
        (json!({"host": "a/b"}), 422),
        (json!({"webhook": unknown}), 404),
        (json!({"webhook": "x"}), 404),
        (json!({"tenant": "acme", "host": "a.example"}), 422),
        (json!({"tenant": null}), 422),
        (json!({"tenant": 7}), 422),
        (json!({"tenants": "acme"}), 422),
    ] {
        for verb in ["pause", "resume"] {
            assert_eq!(world.pause(verb, body.clone()).await.status, status, "{verb} {body}");
        }
    }
    assert_eq!(world.socket("GET", "/admin/pause", "").await.json(), json!({"data": []}));
}
