//! Vibe Trading's guide against the real binary: its Python functions, its `curl` line for tests, its retries; and what the
//! contract adds, that a signed change is accepted once.

mod support;

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Daemon, Key, Receiver, Reply, SOON, Stage, poll, python_client, signature, tenant_key, text};

const HOOKS: &str = "/api/v1/webhooks";

/// A request as the guide signs it, with the time that is given.
fn signed(stage: &Stage, key: &Key, method: &str, path: &str, body: &str, at: u64) -> support::Answer {
    let signature = signature::vibe_request(&key.secret_key, method, path, body, at);
    let client = stage.daemon.client().header("x-api-key", &key.id);
    client.send(method, path, &[("x-timestamp", &at.to_string()), ("x-signature", &signature)], body.to_owned())
}

#[test]
fn the_guides_python_functions_work_as_printed() {
    let stage = Stage::start(Daemon::builder());
    let key = tenant_key(&stage.daemon, "acme");
    let receiver = Receiver::ok();
    let url = receiver.url("/webhook");
    let base = stage.daemon.base_url();
    let environment =
        [("BASE_URL", base.as_str()), ("API_KEY", &key.id), ("SECRET_KEY", &key.secret_key), ("WEBHOOK_URL", &url)];
    let told = python_client("vibe_seed.py", &environment);
    let gave: Vec<(String, Value)> = told.iter().map(|line| (text(line, "call"), line["gave"].clone())).collect();
    let calls: Vec<&str> = gave.iter().map(|(call, _)| call.as_str()).collect();
    assert_eq!(calls, ["create", "list", "update", "update", "list", "delete", "list"]);

    let created = &gave[0].1;
    let members: Vec<&String> = created.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["active", "createdAt", "events", "id", "updatedAt", "url"], "these and no secret: {created}");
    assert!(text(created, "id").starts_with("webhook_"));
    let events = json!(["order.updated", "position.updated", "signal.generated"]);
    assert_eq!((&created["url"], &created["events"], &created["active"]), (&json!(url), &events, &json!(true)));
    for name in ["createdAt", "updatedAt"] {
        let time = text(created, name);
        assert!(time.len() == 20 && time.ends_with('Z'), "whole seconds: {time}");
    }
    assert_eq!(gave[1].1, json!({"webhooks": [created]}));
    assert_eq!((&gave[2].1["active"], &gave[2].1["events"]), (&json!(false), &events), "what is left out stays");
    assert_eq!((&gave[3].1["active"], &gave[3].1["events"]), (&json!(true), &json!(["order.*"])));
    assert_eq!(gave[4].1, json!({"webhooks": [gave[3].1]}));
    assert_eq!((&gave[5].1, &gave[6].1), (&json!(true), &json!({"webhooks": []})));

    let audit = stage.daemon.admin().get("/admin/audit?action=webhook.*").expect(200).json();
    let on_record: Vec<(&Value, &Value)> =
        audit["data"].as_array().expect("data").iter().map(|record| (&record["action"], &record["actor"])).collect();
    let wanted = ["webhook.delete", "webhook.change", "webhook.change", "webhook.create"].map(Value::from);
    assert_eq!(on_record, wanted.iter().map(|action| (action, &audit["data"][0]["actor"])).collect::<Vec<_>>());
    assert_eq!(audit["data"][0]["actor"], key.id);
}

/// The guide's line, with what has to be filled in taken from the environment.
const TEST_TOOL: &str = r#"curl -s -X POST "$BASE_URL/api/v1/webhooks/test" \
  -H "X-API-Key: $API_KEY" \
  -H "X-Timestamp: $TIMESTAMP" \
  -H "X-Signature: $SIGNATURE" \
  -d "$BODY""#;
/// The body as it is printed, the id apart.
const TEST_BODY: &str = r#"{
    "webhookId": "webhook_123",
    "testEvent": {
      "event": "test",
      "timestamp": "2024-01-15T12:00:00Z",
      "data": {
        "message": "Webhook test successful"
      }
    }
  }"#;

#[test]
fn the_guides_test_tool_sends_one_signed_request_at_once() {
    let stage = Stage::start(Daemon::builder());
    let key = tenant_key(&stage.daemon, "acme");
    let receiver = Receiver::ok();
    let new = json!({"url": receiver.url("/"), "events": ["order.updated"], "secret": "your_webhook_secret"});
    let webhook = stage.owner.post(HOOKS, &new).expect(201).json();
    let body = TEST_BODY.replace("webhook_123", &text(&webhook, "id"));
    let test = |at: u64, signature: &str| {
        let mut curl = Command::new("bash");
        curl.arg("-c").arg(TEST_TOOL).env("BASE_URL", stage.daemon.base_url()).env("API_KEY", &key.id);
        curl.env("TIMESTAMP", at.to_string()).env("SIGNATURE", signature).env("BODY", &body);
        // Whatever proxy this machine has, the daemon stands behind none.
        curl.env("NO_PROXY", "127.0.0.1");
        let told = curl.output().expect("curl");
        let answer = String::from_utf8(told.stdout).expect("text");
        serde_json::from_str::<Value>(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    };
    let now = support::unix_seconds();
    let good = signature::vibe_request(&key.secret_key, "POST", "/api/v1/webhooks/test", &body, now);

    assert_eq!(test(now, "calculated_signature")["code"], "unauthorized");
    receiver.stays_at(0, Duration::from_millis(100));
    let told = test(now, &good);
    let attempt = text(&told, "attemptId");
    assert_eq!((&told["success"], &told["statusCode"], &told["error"]), (&json!(true), &json!(200), &Value::Null));
    assert!(told["durationMs"].is_u64() && told.as_object().map(serde_json::Map::len) == Some(5), "{told}");

    let request = receiver.wait_for(1, SOON).remove(0);
    let sent = r#"{"event":"test","timestamp":"2024-01-15T12:00:00Z","data":{
        "message": "Webhook test successful"
      }}"#;
    assert_eq!(request.text(), sent, "the data as it was given");
    let signature = signature::vibe("your_webhook_secret", &request.body);
    assert_eq!(request.header("x-webhook-signature"), Some(signature.as_str()));
    let wbh = text(&webhook, "id").replace("webhook_", "wbh_");
    assert_eq!(stage.attempts(&wbh, 1)[0]["id"], attempt, "it is on record");
    assert_eq!(test(now, &good)["code"], "unauthorized", "a test is a change: its signature is good once");
    receiver.stays_at(1, Duration::from_millis(100));
}

#[test]
fn a_failing_receiver_is_tried_five_times_more_and_then_the_event_is_a_dead_letter() {
    // The built-in plan has these steps in units of 30 seconds; a unit test holds it to them.
    let plan = "[plans.vibe]\nfirst = \"25ms\"\nfactor = 4\nretries = 5\njitter = 0";
    let stage = Stage::start(Daemon::builder().extra(plan).set("circuit.failures", "0"));
    let receiver = Receiver::with(|_| Reply::status(503));
    let new = json!({"url": receiver.url("/"), "events": ["order.updated"], "secret": "your_webhook_secret"});
    let webhook = stage.owner.post(HOOKS, &new).expect(201).json();
    let event = stage.publish(&json!({"type": "order.updated", "tenant": "acme", "data": {"status": "filled"}}));
    let requests = receiver.wait_for(6, SOON + Duration::from_secs(9));
    for (step, pair) in requests.windows(2).enumerate() {
        let delay = Duration::from_millis(25 * 4_u64.pow(u32::try_from(step).expect("small")));
        let waited = pair[1].at - pair[0].at;
        assert!(waited + Duration::from_millis(1) >= delay && waited <= delay + Duration::from_secs(1), "{waited:?}");
        assert_eq!(pair[0].body, pair[1].body, "every try sends the same");
    }
    let letters = poll(SOON, || {
        let page = stage.owner.get("/v1/dead-letters").expect(200).json();
        page["data"].as_array().filter(|all| !all.is_empty()).cloned()
    });
    let letter = letters.expect("a dead letter").remove(0);
    assert_eq!((&letter["event"], &letter["attempts"]), (&event["id"], &json!(6)));
    assert_eq!((&letter["type"], &letter["reason"]), (&json!("order.updated"), &json!("retries_exhausted")));
    assert_eq!(text(&letter, "webhook").replace("wbh_", "webhook_"), text(&webhook, "id"));
    receiver.stays_at(6, Duration::from_millis(300));
}

#[test]
fn a_signed_change_is_accepted_once_also_after_the_process_was_killed() {
    let mut stage = Stage::start(Daemon::builder());
    let key = tenant_key(&stage.daemon, "acme");
    let body = json!({"url": "http://127.0.0.1:9009/hook", "events": ["order.updated"]}).to_string();
    let now = support::unix_seconds();
    let webhook = signed(&stage, &key, "POST", HOOKS, &body, now).expect(201).json();
    let nobody = stage.daemon.client().send("POST", HOOKS, &[], body.clone()).expect(401);
    let again = signed(&stage, &key, "POST", HOOKS, &body, now).expect(401);
    assert_eq!((&again.body, again.header("www-authenticate")), (&nobody.body, Some("Bearer")));

    stage.daemon.kill9();
    stage.daemon.start();
    signed(&stage, &key, "POST", HOOKS, &body, now).expect(401);
    let one = format!("{HOOKS}/{}", text(&webhook, "id"));
    signed(&stage, &key, "DELETE", &one, "", now).expect(204);
    signed(&stage, &key, "DELETE", &one, "", now).expect(401);
    signed(&stage, &key, "DELETE", &one, "", now - 1).expect(404);
    signed(&stage, &key, "GET", HOOKS, "", now).expect(200);
    signed(&stage, &key, "POST", HOOKS, &body, now + 1).expect(201);
    let audit = stage.daemon.admin().get("/admin/audit?action=webhook.*").expect(200).json();
    let actions: Vec<&Value> = audit["data"].as_array().expect("data").iter().map(|record| &record["action"]).collect();
    assert_eq!(actions, ["webhook.create", "webhook.delete", "webhook.create"], "each change once, across the restart");
    assert_eq!(stage.owner.get(HOOKS).expect(200).json()["webhooks"].as_array().map(Vec::len), Some(1));
}
