//! The tenant `operator`, and what is reported of webhooks: who reads it, who gets it, and what it says.

use super::*;
use crate::limits::{DEATHS_TOLD_EVERY_MS, FAILING_FOR_MS};
use crate::model::attempt::DeadReason;
use crate::model::webhook::InactiveReason;

const DEAD: Verdict = Verdict::Dead(DeadReason::Exhausted);

impl World {
    /// Registers a webhook for the tenant whose token it is; gives its id.
    async fn subscribe(&self, query: &str, token: &str, events: &[&str]) -> String {
        let body = json!({"url": URL, "events": events}).to_string();
        let got = self.call("POST", &format!("/v1/webhooks{query}"), token, body).await;
        assert_eq!(got.status, 201, "{:?}", got.body);
        got.json()["id"].as_str().unwrap().to_owned()
    }

    /// A tenant's operational events, oldest first.
    async fn reported(&self, tenant: &str) -> Vec<Value> {
        let path = format!("/v1/events?sort=asc&tenant={tenant}");
        let all = self.call("GET", &path, &self.admin, "").await.json()["data"].as_array().unwrap().clone();
        all.into_iter().filter(|event| event["type"].as_str().unwrap().starts_with("webhookd.")).collect()
    }

    /// The webhooks that an event is for, as its tenant is told.
    async fn receivers(&self, tenant: &str, event: &Value) -> Vec<String> {
        let path = format!("/v1/events/{}/explain?tenant={tenant}", event["id"].as_str().unwrap());
        let got = self.call("GET", &path, &self.admin, "").await.json();
        let parts = got["deliveries"].as_array().unwrap().iter().filter(|part| part["matched"] == true);
        parts.map(|part| part["webhook"].as_str().unwrap().to_owned()).collect()
    }

    async fn see(&self, webhook: &str) -> Value {
        self.call("GET", &format!("/v1/webhooks/{webhook}"), &self.acme, "").await.json()
    }
}

#[tokio::test]
async fn the_operator_is_a_tenant_that_nobody_makes_or_changes() {
    let world = World::new().await;
    let seen = world.socket("GET", "/admin/tenants/operator", "").await;
    let operator = json!({"id": "operator", "name": null, "plan": null, "created_at": null});
    assert_eq!((seen.status.as_u16(), seen.json()), (200, operator.clone()));
    let listed = world.socket("GET", "/admin/tenants", "").await.json();
    assert!(listed["data"].as_array().unwrap().contains(&operator), "{listed}");
    for body in ["", r#"{"plan":"vibe"}"#] {
        let got = world.socket("PUT", "/admin/tenants/operator", body).await;
        assert_eq!(got.told(), (422, "reserved".to_owned()));
    }
    let publishing = json!({"role": "tenant", "tenant": "operator", "publish": true}).to_string();
    assert_eq!(world.socket("POST", "/admin/keys", &publishing).await.told(), (422, "reserved".to_owned()));
    let body = r#"{"type":"a","tenant":"operator"}"#;
    assert_eq!(world.call("POST", "/v1/events", &world.publisher, body).await.told(), (422, "reserved".to_owned()));
    let token = world.key(json!({"role": "tenant", "tenant": "operator"})).await;
    let own = world.subscribe("", &token, &["webhookd.*"]).await;
    let named = world.subscribe("?tenant=operator", &world.admin, &["*"]).await;
    let listed = world.call("GET", "/v1/webhooks", &token, "").await.json();
    let ids: Vec<_> = listed["data"].as_array().unwrap().iter().map(|webhook| webhook["id"].clone()).collect();
    assert_eq!(ids, [json!(own), json!(named)]);
    assert_eq!(world.call("GET", &format!("/v1/webhooks/{own}"), &world.acme, "").await.status, 404);
}

#[tokio::test]
async fn a_death_is_told_to_its_tenant_and_to_the_operator() {
    let world = World::new().await;
    let failing = world.webhook(&["*", "webhookd.*"]).await;
    let (plain, alerts) = (world.webhook(&["b.*", "*"]).await, world.webhook(&["webhookd.delivery.dead"]).await);
    let foreign = world.subscribe("", &world.beta, &["webhookd.*"]).await;
    let operators = world.subscribe("?tenant=operator", &world.admin, &["webhookd.*"]).await;
    world.subscribe("?tenant=operator", &world.admin, &["webhookd.webhook.*"]).await;
    let event = world.publish("acme", "order.paid").await;
    world.attempted(&event, &failing, 1, DEAD).await;

    let (own, theirs) = (world.reported("acme").await, world.reported("operator").await);
    assert_eq!((own.len(), theirs.len(), world.reported("beta").await.len()), (1, 1, 0));
    assert_eq!(own[0]["type"], "webhookd.delivery.dead");
    assert_eq!(own[0]["context"], json!({"webhook": failing, "tenant": "acme"}));
    let data = json!({"count": 1, "dead_letters": 1, "event": event, "event_type": "order.paid", "reason": "retries_exhausted"});
    assert_eq!(own[0]["data"], data);
    for member in ["type", "context", "data", "created_at"] {
        assert_eq!(own[0][member], theirs[0][member]);
    }
    assert_ne!(own[0]["id"], theirs[0]["id"]);
    let path = "/v1/events?type=webhookd.delivery.dead";
    assert_eq!(world.call("GET", path, &world.acme, "").await.json()["data"], json!(own));
    assert_eq!(world.receivers("acme", &own[0]).await, std::slice::from_ref(&alerts), "not {plain} or {foreign}");
    assert_eq!(world.receivers("operator", &theirs[0]).await, [operators]);
    let path = format!("/v1/events/{}/explain", own[0]["id"].as_str().unwrap());
    let explained = world.call("GET", &path, &world.acme, "").await.json();
    let part = |id: &str| {
        explained["deliveries"].as_array().unwrap().iter().find(|part| part["webhook"] == id).unwrap().clone()
    };
    assert!(part(&failing)["detail"].as_str().unwrap().contains("never goes through that webhook"), "{explained}");
    assert!(part(&plain)["detail"].as_str().unwrap().contains("is not among"), "{explained}");

    // That the report itself could not be delivered is reported to nobody.
    world.clock.advance(Duration::from_millis(2 * DEATHS_TOLD_EVERY_MS));
    world.attempted(own[0]["id"].as_str().unwrap(), &alerts, 1, DEAD).await;
    assert_eq!((world.reported("acme").await.len(), world.reported("operator").await.len()), (1, 1));
    let letters = world.call("GET", "/v1/dead-letters", &world.acme, "").await.json();
    assert_eq!(letters["data"].as_array().unwrap().len(), 2, "but it is a dead letter");
}

#[tokio::test]
async fn many_deaths_are_one_event_a_minute_with_their_count() {
    let world = World::new().await;
    let (one, two) = (world.webhook(&["a"]).await, world.webhook(&["b"]).await);
    let mut last = String::new();
    for _ in 0..5 {
        last = world.publish("acme", "a").await;
        world.attempted(&last, &one, 1, DEAD).await;
        world.clock.advance(Duration::from_secs(1));
    }
    let other = world.publish("acme", "b").await;
    world.attempted(&other, &two, 1, DEAD).await;
    let counts = async || {
        let reported = world.reported("acme").await;
        reported.iter().map(|event| event["data"]["count"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(counts().await, [1, 1], "each webhook has a minute of its own");
    world.store.submit(Op::Tell, None).await.unwrap();
    assert_eq!(counts().await, [1, 1], "the minute is not over");
    world.clock.advance(Duration::from_millis(DEATHS_TOLD_EVERY_MS));
    assert_eq!(world.store.submit(Op::Tell, None).await.unwrap().count(), 1);
    assert_eq!(counts().await, [1, 1, 4]);
    let newest = world.reported("acme").await.pop().unwrap();
    assert_eq!((&newest["data"]["event"], &newest["data"]["dead_letters"]), (&json!(last), &json!(5)));
    assert_eq!(world.store.submit(Op::Tell, None).await.unwrap().count(), 0);
    assert_eq!(world.reported("operator").await.len(), 3);
}

#[tokio::test]
async fn health_is_true_through_failing_gone_and_owner() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let told = async || {
        let seen = world.see(&webhook).await;
        let text = |member: &str| seen[member].as_str().unwrap_or("-").to_owned();
        ["state", "inactive_reason", "failing_since", "last_success_at"].map(text).join(" ")
    };
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &webhook, 1, Verdict::RetryAt(START + 5_000)).await;
    assert_eq!(told().await, "active - 2023-11-14T22:13:20.000Z -");
    world.clock.advance(Duration::from_secs(5));
    world.attempted(&event, &webhook, 2, Verdict::Delivered).await;
    assert_eq!(told().await, "active - - 2023-11-14T22:13:25.000Z");
    world.clock.advance(Duration::from_secs(5));
    let event = world.publish("acme", "a").await;
    world.deactivating(Some(InactiveReason::Gone));
    world.attempted(&event, &webhook, 1, Verdict::Dead(DeadReason::Gone)).await;
    let gone = "inactive gone 2023-11-14T22:13:30.000Z 2023-11-14T22:13:25.000Z";
    assert_eq!(told().await, gone);
    // One that was under way when the first 410 came changes nothing and is not told of twice.
    let late = world.publish("acme", "b").await;
    world.attempted(&late, &webhook, 1, Verdict::Dead(DeadReason::Gone)).await;
    assert_eq!(told().await, gone);
    let kinds: Vec<_> = world.reported("acme").await.iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["webhookd.webhook.disabled", "webhookd.delivery.dead"]);
    let disabled = world.reported("operator").await.remove(0);
    let since = "2023-11-14T22:13:30.000Z";
    let data = json!({"reason": "gone", "failing_since": since, "failures": 1, "event": event});
    assert_eq!((&disabled["data"], &disabled["context"]["webhook"]), (&data, &json!(webhook)));
    world.deactivating(None);

    // Its owner's word: nothing to report, and nothing is held against it any more.
    let patch = async |body: &str| {
        let path = format!("/v1/webhooks/{webhook}");
        assert_eq!(world.call("PATCH", &path, &world.acme, body.to_owned()).await.status, 200);
    };
    patch(r#"{"active":true}"#).await;
    assert_eq!(told().await, "active - - 2023-11-14T22:13:25.000Z");
    patch(r#"{"active":false}"#).await;
    assert_eq!(told().await, "inactive owner - 2023-11-14T22:13:25.000Z");
    assert_eq!(world.reported("acme").await.len(), 2);
    // A test is no delivery: it says nothing about the webhook's health.
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(world.call("POST", &format!("/v1/webhooks/{webhook}/test"), &world.acme, "").await.status, 200);
    assert_eq!(told().await, "inactive owner - 2023-11-14T22:13:25.000Z");
}

#[tokio::test]
async fn a_webhook_without_success_is_warned_of_twice_and_then_made_inactive() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let fail = async |number: u32| {
        let event = world.publish("acme", "a").await;
        world.attempted(&event, &webhook, number, Verdict::RetryAt(u64::MAX)).await;
    };
    let kinds = async || {
        let reported = world.reported("operator").await;
        let short = |event: &Value| {
            let kind = event["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
            format!(
                "{kind} {}",
                event["data"]["percent"].as_u64().map_or_else(String::new, |percent| percent.to_string())
            )
        };
        reported.iter().map(short).collect::<Vec<_>>().join(", ")
    };
    let step = Duration::from_millis(FAILING_FOR_MS / 20);
    let mut told = Vec::new();
    for number in 1..=20 {
        fail(1).await;
        world.clock.advance(step);
        let all = kinds().await;
        if told.last() != Some(&(number, all.clone())) {
            told.push((number, all));
        }
    }
    let at = |wanted: &str| told.iter().find(|(_, all)| all == wanted).map(|(number, _)| *number);
    assert_eq!((at("failing 50"), at("failing 50, failing 75")), (Some(11), Some(16)), "{told:?}");
    let warning = world.reported("acme").await.remove(0);
    let data = json!({"percent": 50, "failing_since": "2023-11-14T22:13:20.000Z", "failures": 11, "disabled_at": "2023-11-19T22:13:20.000Z"});
    assert_eq!(warning["data"], data);

    // Saved at the last moment.
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &webhook, 1, Verdict::Delivered).await;
    assert_eq!(kinds().await, "failing 50, failing 75, recovered ");
    let recovered = world.reported("acme").await.pop().unwrap();
    assert_eq!(recovered["data"], json!({"failing_since": "2023-11-14T22:13:20.000Z", "failures": 20}));

    // From the beginning, and to the end. Nine failures are too few, however long it takes.
    for _ in 0..9 {
        fail(1).await;
        world.clock.advance(Duration::from_millis(FAILING_FOR_MS));
    }
    assert_eq!(world.see(&webhook).await["state"], "active");
    fail(1).await;
    let seen = world.see(&webhook).await;
    assert_eq!((&seen["state"], &seen["inactive_reason"]), (&json!("inactive"), &json!("failing")));
    assert_eq!(kinds().await, "failing 50, failing 75, recovered , failing 75, disabled ");
    // Made active again it has all its time again.
    let path = format!("/v1/webhooks/{webhook}");
    world.call("PATCH", &path, &world.acme, r#"{"active":true}"#).await;
    assert_eq!(world.see(&webhook).await["failing_since"], json!(null));
    fail(1).await;
    // A step of the wall clock is no time in which it failed.
    world.clock.step_wall_to(START + 400 * 86_400_000);
    for _ in 0..20 {
        fail(1).await;
    }
    assert_eq!(world.see(&webhook).await["state"], "active");
    assert_eq!(kinds().await, "failing 50, failing 75, recovered , failing 75, disabled ");
}
