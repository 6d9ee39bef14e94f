//! What a tenant and an operator are told of webhooks that fail, from end to end: the real binary, real sockets. And that what is
//! read of a webhook's health is true after the process was killed.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Daemon, Receiver, Reply, Request, SOON, Stage, poll, signature, text};

fn kinds(requests: &[Request]) -> Vec<String> {
    let mut kinds: Vec<String> = requests.iter().map(|request| text(&request.json(), "type")).collect();
    kinds.sort();
    kinds
}

/// The lines of the daemon's log that hold an operational event of this type.
fn logged(daemon: &Daemon, kind: &str) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["kind"] == kind).collect()
}

#[test]
fn a_receiver_that_is_gone_is_reported_to_its_tenant_to_the_operator_and_in_the_log() {
    let mut stage = Stage::start(Daemon::builder());
    let gone = Receiver::with(|_| Reply::status(410));
    let (tenants, operators) = (Receiver::ok(), Receiver::ok());
    let failing = text(&stage.register(&json!({"url": gone.url("/"), "events": ["*", "webhookd.*"]})), "id");
    let alerts = stage.register(&json!({"url": tenants.url("/"), "events": ["webhookd.webhook.disabled"]}));
    let body = json!({"url": operators.url("/"), "events": ["webhookd.*"]});
    stage.daemon.admin().post("/v1/webhooks?tenant=operator", &body).expect(201);
    let order = text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id");

    let own = tenants.wait_for(1, SOON).remove(0);
    let theirs = operators.wait_for(2, SOON);
    assert_eq!(kinds(&theirs), ["webhookd.delivery.dead", "webhookd.webhook.disabled"]);
    let told = own.json();
    assert_eq!(told["type"], "webhookd.webhook.disabled");
    assert_eq!(told["context"], json!({"webhook": failing, "tenant": "acme"}));
    assert_eq!((&told["data"]["reason"], &told["data"]["event"]), (&json!("gone"), &json!(order)));
    let same = theirs.iter().find(|request| request.json()["type"] == told["type"]).expect("the operator's").json();
    assert_eq!((&same["context"], &same["data"]), (&told["context"], &told["data"]));
    assert_ne!(same["id"], told["id"], "each has an event of their own");
    let header = |name: &str| own.header(name).unwrap_or_else(|| panic!("{name} in {own:?}"));
    let (secret, id) = (text(&alerts, "signature_secret"), text(&told, "id"));
    let signed = signature::standard(&secret, &id, header("webhook-timestamp"), &own.body);
    assert_eq!((header("webhook-id"), header("webhook-signature")), (id.as_str(), signed.as_str()));
    let lines = logged(&stage.daemon, "webhookd.webhook.disabled");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let told = (&lines[0]["webhook"], &lines[0]["event"], &lines[0]["reason"]);
    assert_eq!(told, (&json!(failing), &json!(order), &json!("gone")));
    assert_eq!(logged(&stage.daemon, "webhookd.delivery.dead").len(), 1);
    let listed = stage.owner.get("/v1/events?type=webhookd.webhook.disabled").expect(200).json();
    assert_eq!(listed["data"], json!([own.json()]), "and the tenant can read it again");
    gone.stays_at(1, Duration::from_millis(300));

    let path = format!("/v1/webhooks/{failing}");
    let health = stage.owner.get(&path).expect(200);
    let seen = health.json();
    assert_eq!((&seen["state"], &seen["inactive_reason"]), (&json!("inactive"), &json!("gone")));
    assert!(seen["failing_since"].is_string() && seen["last_success_at"].is_null(), "{seen}");
    stage.daemon.kill9();
    stage.daemon.start();
    assert_eq!(stage.owner.get(&path).expect(200).text(), health.text());
    for (receiver, count) in [(&tenants, 1), (&operators, 2)] {
        receiver.stays_at(count, Duration::from_millis(300));
    }
}

#[test]
fn health_and_figures_are_the_same_after_a_kill() {
    let mut stage = Stage::start(Daemon::builder().extra("[plans.hour]\ndelays = [\"1h\"]\njitter = 0.0"));
    let receiver = Receiver::ok();
    let body = json!({"url": receiver.url("/"), "events": ["*"], "plan": "hour"});
    let webhook = text(&stage.register(&body), "id");
    let path = format!("/v1/webhooks/{webhook}");
    for _ in 0..3 {
        stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    }
    stage.attempts(&webhook, 3);
    let healthy = stage.owner.get(&path).expect(200);
    assert!(healthy.json()["last_success_at"].is_string(), "{healthy:?}");
    stage.daemon.kill9();
    stage.daemon.start();
    // Nothing of the webhook was written since but its attempts.
    assert_eq!(stage.owner.get(&path).expect(200).text(), healthy.text());
    receiver.set(|_| Reply::status(500));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    stage.attempts(&webhook, 4);
    let failing = stage.owner.get(&path).expect(200);
    assert_eq!(failing.json()["last_success_at"], healthy.json()["last_success_at"]);
    assert!(failing.json()["failing_since"].is_string(), "{failing:?}");
    let figures = stage.owner.get(&format!("{path}/stats")).expect(200).json();
    for (member, expected) in [("attempts", json!(4)), ("delivered", json!(3)), ("success_rate", json!(0.75))] {
        assert_eq!(figures[member], expected, "{figures}");
    }
    assert_eq!((&figures["pending"], &figures["dead"]), (&json!(1), &json!(0)));
    stage.daemon.kill9();
    stage.daemon.start();
    assert_eq!(stage.owner.get(&path).expect(200).text(), failing.text());
    let again = stage.owner.get(&format!("{path}/stats")).expect(200).json();
    for member in
        ["attempts", "delivered", "failed", "success_rate", "duration_ms", "pending", "oldest_pending_at", "dead"]
    {
        assert_eq!(again[member], figures[member], "{member}");
    }
}

#[test]
fn a_full_backlog_answers_429_until_the_receiver_is_back() {
    let builder = Daemon::builder().set("limits.pending_per_tenant", "5");
    let mut stage =
        Stage::start(builder.extra("[plans.quick]\ndelays = [\"1s\", \"1s\", \"1s\", \"1h\"]\njitter = 0.0"));
    let receiver = Receiver::with(|_| Reply::status(500));
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick", "max_in_flight": 2}));
    let event = json!({"type": "order.created", "tenant": "acme"}).to_string();
    let publish = |stage: &Stage| stage.publisher.send("POST", "/v1/events", &[], event.clone());
    for _ in 0..5 {
        publish(&stage).expect(201);
    }
    let refused = publish(&stage).expect(429);
    assert_eq!((&refused.json()["code"], refused.header("retry-after")), (&json!("backlog_full"), Some("5")));
    // Recounted, not forgotten.
    stage.daemon.kill9();
    stage.daemon.start();
    publish(&stage).expect(429);
    receiver.set(|_| Reply::ok());
    let accepted = poll(SOON, || (publish(&stage).status == 201).then_some(()));
    assert!(accepted.is_some(), "the backlog never has room again");
}
