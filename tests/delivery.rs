//! Delivery from end to end, as a client, a receiver and an operator see it: the real binary, real sockets, the wire
//! contract and nothing else.

mod support;

#[path = "delivery/circuit.rs"]
mod circuit;
#[path = "delivery/explain.rs"]
mod explain;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Authority, Builder, Certificate, Daemon, Receiver, Reply, Request, SOON, Stage, free_port, python_receiver,
    signature, text,
};

/// The event of lemon's guide, as it is published: its context is what the receiver gets.
const LEMON_EVENT: &str = r#"{"type":"account.created","tenant":"acme","created_at":"2023-06-29T14:40:30.523373Z",
    "context":{"account":"cusa_33531f7f801d4ce997747470ab7208fd"}}"#;
/// Three attempts in half a second.
const QUICK_PLAN: &str = "[plans.quick]\ndelays = [\"200ms\", \"300ms\"]\njitter = 0.0";
const QUICK_DELAYS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(300)];
/// Both sides count in milliseconds and cut them off.
const CLOCK_STEP: Duration = Duration::from_millis(1);
/// The contract: an attempt that is not held back starts at most so late.
const LATE: Duration = Duration::from_secs(1);

fn quick() -> Builder {
    Daemon::builder().extra(QUICK_PLAN)
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request.header(name).unwrap_or_else(|| panic!("{name} in {request:?}"))
}

fn is_in_state(state: &'static str) -> impl Fn(&Value) -> bool {
    move |delivery| delivery["state"] == state
}

#[test]
fn an_event_arrives_signed_and_its_fate_is_explained() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let webhook = stage.register(&json!({"url": receiver.url("/hook"), "events": ["account.created"]}));
    let secret = text(&webhook, "signature_secret");
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "64 hex digits: {secret}");

    let answer = stage.publisher.send("POST", "/v1/events", &[], LEMON_EVENT).expect(201);
    let event = text(&answer.json(), "id");
    assert_eq!(answer.json()["deliveries"], 1);
    assert_eq!(answer.header("location"), Some(format!("/v1/events/{event}").as_str()));

    let request = receiver.wait_for(1, SOON).remove(0);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook"));
    let expected = json!({
        "id": event, "type": "account.created", "created_at": "2023-06-29T14:40:30.523373+00:00",
        "context": {"account": "cusa_33531f7f801d4ce997747470ab7208fd"},
    });
    assert_eq!(request.json(), expected);
    assert_eq!(header(&request, "content-type"), "application/json");
    assert!(header(&request, "user-agent").starts_with("webhookd/"));
    assert_eq!(header(&request, "webhook-id"), event);
    assert_eq!(header(&request, "webhook-attempt"), "1");
    let sent = header(&request, "webhook-timestamp");
    let sent_seconds: u64 = sent.parse().expect("seconds");
    assert!(support::unix_seconds().abs_diff(sent_seconds) <= 60, "a fresh time: {sent}");
    assert_eq!(header(&request, "webhook-signature"), signature::standard(&secret, &event, sent, &request.body));
    let lemon = signature::lemon(&secret, sent_seconds, &request.body);
    assert_eq!(header(&request, "lmg-signature"), lemon);
    assert_eq!(header(&request, "lemon-markets-signature"), lemon);
    let cased = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("lmg-signature"));
    assert_eq!(cased.map(|(name, _)| name.as_str()), Some("Lmg-Signature"), "title case");

    let delivery = stage.explained(&event, is_in_state("delivered"));
    assert_eq!((&delivery["webhook"], &delivery["matched"]), (&webhook["id"], &json!(true)));
    assert_eq!(delivery["attempts"][0]["outcome"], "delivered");
    assert_eq!(delivery["attempts"][0]["status"], 200);
    assert_eq!(delivery["attempts"][0]["class"], Value::Null);
    receiver.stays_at(1, Duration::from_millis(300));
}

#[test]
fn g16_a_standard_webhooks_library_verifies_both_kinds_of_secret() {
    let stage = Stage::start(Daemon::builder());
    for given in [None, Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")] {
        let port = free_port().to_string();
        let mut body = json!({"url": format!("http://127.0.0.1:{port}/"), "events": ["*"]});
        if let Some(secret) = given {
            body["secret"] = json!(secret);
        }
        let webhook = stage.register(&body);
        let secret = given.map_or_else(|| text(&webhook, "signature_secret"), str::to_owned);
        let python = python_receiver("standard_webhooks.py", &[("PORT", &port), ("SECRET", &secret)]);
        // What happened long ago is signed with the time of the attempt: a library refuses what is older than minutes.
        let event = json!({
            "type": "order.created", "tenant": "acme", "data": {"ü": "€"}, "created_at": "2024-01-15T10:30:01Z",
        });
        let event = stage.publish(&event);
        let accepted = python.wait_for(1, SOON).remove(0);
        assert_eq!(accepted["id"], event["id"]);
        assert_eq!(accepted["event"]["data"], json!({"ü": "€"}));
        assert_eq!((&accepted["lemon"], &accepted["lemon_markets"]), (&json!(true), &json!(true)), "lemon's signature");
        stage.owner.delete(&format!("/v1/webhooks/{}", text(&webhook, "id"))).expect(204);
    }
}

#[test]
fn g16_the_standard_webhooks_library_for_rust_verifies_both_kinds_of_secret() {
    let stage = Stage::start(Daemon::builder());
    for given in [None, Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")] {
        let receiver = Receiver::ok();
        let mut body = json!({"url": receiver.url("/"), "events": ["*"]});
        if let Some(secret) = given {
            body["secret"] = json!(secret);
        }
        let webhook = stage.register(&body);
        let secret = given.map_or_else(|| text(&webhook, "signature_secret"), str::to_owned);
        let library = standardwebhooks::Webhook::new(&secret).expect("a secret");
        stage.publish(&json!({"type": "order.created", "tenant": "acme", "data": {"ü": "€"}}));
        let request = receiver.wait_for(1, SOON).remove(0);
        let mut headers = http::HeaderMap::new();
        for (name, value) in &request.headers {
            let name: http::HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        library.verify(&request.body, &headers).expect("a signature of the body");
        let other = request.text().replace('€', "$");
        library.verify(other.as_bytes(), &headers).expect_err("of another body it is none");
        stage.owner.delete(&format!("/v1/webhooks/{}", text(&webhook, "id"))).expect(204);
    }
}

#[test]
fn g16_the_flask_receiver_of_vibes_guide_verifies() {
    let stage = Stage::start(Daemon::builder());
    let (secret, events) = ("your_webhook_secret", ["order.updated", "position.updated"]);
    let python = python_receiver("flask_seed.py", &[("WEBHOOK_SECRET", secret)]);
    let body = json!({"url": python.url("/webhook"), "events": events, "secret": secret, "active": true});
    let webhook = stage.owner.post("/api/v1/webhooks", &body).expect(201).json();
    assert!(text(&webhook, "id").starts_with("webhook_"));
    assert_eq!(webhook.get("secret"), None, "a given secret is never echoed");
    for name in ["createdAt", "updatedAt"] {
        assert!(webhook[name].is_string(), "{name} in {webhook}");
    }

    let data = json!({
        "orderId": "12345678-1234-1234-1234-123456789012", "status": "filled", "filledQuantity": 0.1,
        "averagePrice": 49850.25, "updatedAt": "2024-01-15T10:30:01Z",
    });
    let published = stage.publish(&json!({"type": "order.updated", "tenant": "acme", "data": data}));
    let accepted = python.wait_for(1, SOON).remove(0);
    assert_eq!(accepted, json!({"handled": "order.updated", "data": data}));
    let delivery = stage.explained(&text(&published, "id"), is_in_state("delivered"));
    assert_eq!(delivery["dialect"], "vibe");
}

#[test]
fn a_webhook_is_managed_with_signed_requests_as_in_vibes_guide() {
    let stage = Stage::start(Daemon::builder());
    let key = support::tenant_key(&stage.daemon, "acme");
    let client = stage.daemon.client().header("x-api-key", &key.id);
    let send = |method: &str, path: &str, body: &str, signed_path: &str| {
        let now = support::unix_seconds();
        let signed = signature::vibe_request(&key.secret_key, method, signed_path, body, now);
        let time = now.to_string();
        client.send(method, path, &[("x-timestamp", &time), ("x-signature", &signed)], body.to_owned())
    };
    let all = "/api/v1/webhooks";
    let body = r#"{"url":"http://127.0.0.1:9009/webhook","events":["order.updated"],"secret":"your_webhook_secret"}"#;
    send("POST", all, body, "/api/v1/webhook").expect(401);
    let webhook = send("POST", all, body, all).expect(201).json();
    let listed = send("GET", all, "", all).expect(200).json();
    assert_eq!(listed["webhooks"].as_array().map(Vec::len), Some(1), "{listed}");
    let one = format!("{all}/{}", text(&webhook, "id"));
    let updated = send("PUT", &one, r#"{"active":false}"#, &one).expect(200).json();
    assert_eq!(updated["active"], false);
    send("DELETE", &one, "", &one).expect(204);
    send("GET", &one, "", &one).expect(404);
}

#[test]
fn a_vibe_body_and_its_signature_are_as_the_guide_prints_them() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let secret = "your_webhook_secret";
    let body = json!({"url": receiver.url("/"), "events": ["signal.generated"], "secret": secret, "active": true});
    stage.owner.post("/api/v1/webhooks", &body).expect(201);
    let event =
        r#"{"type":"signal.generated","tenant":"acme","created_at":"2024-01-15T10:30:00.999Z","data":{"a":0.10}}"#;
    stage.publisher.send("POST", "/v1/events", &[], event).expect(201);
    let request = receiver.wait_for(1, SOON).remove(0);
    let expected = r#"{"event":"signal.generated","timestamp":"2024-01-15T10:30:00Z","data":{"a":0.10}}"#;
    assert_eq!(request.text(), expected);
    assert_eq!(header(&request, "x-webhook-signature"), signature::vibe(secret, &request.body));
    assert!(request.headers.iter().any(|(name, _)| name == "X-Webhook-Signature"), "title case: {request:?}");
}

#[test]
fn g05_a_failing_receiver_is_tried_again_on_schedule() {
    let stage = Stage::start(quick());
    let receiver = Receiver::with(|request| if request.number < 2 { Reply::status(500) } else { Reply::ok() });
    let webhook = stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"}));
    let event = text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id");
    let requests = receiver.wait_for(3, SOON);
    for (number, request) in requests.iter().enumerate() {
        assert_eq!(header(request, "webhook-id"), event);
        assert_eq!(header(request, "webhook-attempt"), (number + 1).to_string());
    }
    for (pair, delay) in requests.windows(2).zip(QUICK_DELAYS) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited + CLOCK_STEP >= delay, "early: {waited:?} of {delay:?}");
        assert!(waited <= delay + LATE, "late: {waited:?} of {delay:?}");
    }
    let delivery = stage.explained(&event, is_in_state("delivered"));
    assert_eq!(delivery["attempts"].as_array().map(Vec::len), Some(3));
    let attempts = stage.attempts(&text(&webhook, "id"), 3);
    assert_eq!(attempts.len(), 3);
    for (number, attempt) in attempts.iter().enumerate() {
        assert_eq!((&attempt["attempt"], &attempt["event"]), (&json!(number + 1), &json!(event)));
        let (outcome, class) = if number < 2 { ("failed", json!("status")) } else { ("delivered", Value::Null) };
        assert_eq!((&attempt["outcome"], &attempt["class"]), (&json!(outcome), &class));
        assert_eq!(attempt["next_attempt_at"].is_string(), number < 2, "{attempt}");
    }
    receiver.stays_at(3, Duration::from_millis(500));
}

#[test]
fn a_dead_delivery_is_kept_and_can_be_redriven_or_removed() {
    let stage = Stage::start(quick());
    let receiver = Receiver::with(|_| Reply::status(500));
    let webhook = stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"}));
    let publish = || text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id");
    let letters = || {
        let page = stage.owner.get("/v1/dead-letters").expect(200).json();
        page["data"].as_array().cloned().unwrap_or_else(|| panic!("data in {page}"))
    };
    let dead = |event: &str| {
        let found = support::poll(SOON, || letters().into_iter().find(|letter| letter["event"] == event));
        found.unwrap_or_else(|| panic!("no dead letter of {event} in {:?}", letters()))
    };

    let event = publish();
    let letter = dead(&event);
    let id = format!("{event}.{}", text(&webhook, "id"));
    assert_eq!((&letter["id"], &letter["webhook"]), (&json!(id), &webhook["id"]));
    assert_eq!((&letter["type"], letter["attempts"].as_u64()), (&json!("order.created"), Some(3)));
    assert!(letter["dead_at"].is_string() && letter["reason"].is_string(), "{letter}");
    assert_eq!(letter["last_attempt"]["status"], 500);
    receiver.stays_at(3, Duration::from_millis(500));

    receiver.set(|_| Reply::ok());
    stage.owner.post(&format!("/v1/dead-letters/{id}/redrive"), &json!({})).expect(202);
    let request = receiver.wait_for(4, SOON).remove(3);
    assert_eq!((header(&request, "webhook-id"), header(&request, "webhook-attempt")), (event.as_str(), "4"));
    let delivery = stage.explained(&event, is_in_state("delivered"));
    assert_eq!(delivery["attempts"].as_array().map(Vec::len), Some(4), "history is kept: {delivery}");
    assert!(letters().is_empty(), "redriven and delivered: {:?}", letters());

    receiver.set(|_| Reply::status(500));
    let id = text(&dead(&publish()), "id");
    stage.owner.delete(&format!("/v1/dead-letters/{id}")).expect(204);
    assert!(letters().is_empty(), "removed: {:?}", letters());
    stage.owner.delete(&format!("/v1/dead-letters/{id}")).expect(404);
    receiver.stays_at(7, Duration::from_millis(300));
}

#[test]
fn tls_receivers_are_believed_only_with_a_good_certificate() {
    let authority = Authority::new();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let file = folder.path().join("authority.pem");
    authority.write(&file);
    let stage = Stage::start(quick().set_text("egress.ca_file", file.to_string_lossy()));

    let good = Receiver::tls(&authority, Certificate::Good);
    let webhook = stage.register(&json!({"url": good.url("/"), "events": ["good"]}));
    stage.publish(&json!({"type": "good", "tenant": "acme"}));
    good.wait_for(1, SOON);
    assert_eq!(stage.attempts(&text(&webhook, "id"), 1)[0]["outcome"], "delivered");

    let unknown = Authority::new();
    for (issuer, certificate) in
        [(&authority, Certificate::Expired), (&authority, Certificate::WrongName), (&unknown, Certificate::Good)]
    {
        let bad = Receiver::tls(issuer, certificate);
        let webhook = stage.register(&json!({"url": bad.url("/"), "events": ["bad"], "plan": "quick"}));
        stage.publish(&json!({"type": "bad", "tenant": "acme"}));
        let attempt = stage.attempts(&text(&webhook, "id"), 1).remove(0);
        assert_eq!((&attempt["outcome"], &attempt["class"]), (&json!("failed"), &json!("tls")), "{certificate:?}");
        assert!(attempt["error"].as_str().is_some_and(|reason| !reason.is_empty()), "a reason: {attempt}");
        assert_eq!(bad.count(), 0, "nothing was sent: {:?}", bad.requests());
        assert!(bad.connections() > 0, "it was connected to");
        stage.owner.delete(&format!("/v1/webhooks/{}", text(&webhook, "id"))).expect(204);
    }
}

#[test]
fn gone_makes_a_webhook_inactive() {
    let stage = Stage::start(quick());
    let receiver = Receiver::with(|_| Reply::status(410));
    let webhook = stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"}));
    let event = text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id");
    let delivery = stage.explained(&event, is_in_state("dead"));
    assert_eq!(delivery["attempts"].as_array().map(Vec::len), Some(1));
    let path = format!("/v1/webhooks/{}", text(&webhook, "id"));
    let read = stage.owner.get(&path).expect(200).json();
    assert_eq!((&read["state"], &read["inactive_reason"]), (&json!("inactive"), &json!("gone")));
    let second = stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    assert_eq!(second["deliveries"], 0, "nothing is queued for an inactive webhook");
    receiver.stays_at(1, Duration::from_millis(500));
}

#[test]
fn a_redirect_is_a_failure_and_is_not_followed() {
    let stage = Stage::start(quick());
    let elsewhere = Receiver::ok();
    for status in [301, 302, 307, 308] {
        let to = elsewhere.url("/");
        let receiver = Receiver::with(move |_| Reply::redirect(status, &to));
        let webhook = stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"}));
        stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
        let attempts = stage.attempts(&text(&webhook, "id"), 2);
        for attempt in attempts {
            assert_eq!((&attempt["outcome"], &attempt["class"]), (&json!("failed"), &json!("redirect")), "{status}");
            assert_eq!(attempt["status"], status);
        }
        stage.owner.delete(&format!("/v1/webhooks/{}", text(&webhook, "id"))).expect(204);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn published_objects_pass_through_byte_for_byte() {
    let stage = Stage::start(Daemon::builder());
    let (lemon, vibe) = (Receiver::ok(), Receiver::ok());
    stage.register(&json!({"url": lemon.url("/"), "events": ["*"]}));
    let body = json!({"url": vibe.url("/"), "events": ["order.created"], "secret": "your_webhook_secret"});
    stage.owner.post("/api/v1/webhooks", &body).expect(201);
    let data = r#"{"z":0.10 , "a" :12345678901234567890, "m":1E+2,"neg":-0.0,
        "big":123456789012345678901234567890.5, "u":"ü€😀", "e":"\u00fc\u20ac\ud83d\ude00\/","z2":[ ],"n":{"b":1,"a":2}}"#;
    let context = r#"{ "account" : "cusa_1", "b":1.0 }"#;
    let user = r#"{"id":  18446744073709551616}"#;
    let event =
        format!(r#"{{"user":{user}, "data" : {data} ,"context":{context},"tenant":"acme","type":"order.created"}}"#);
    let published = stage.publisher.send("POST", "/v1/events", &[], event).expect(201).json();
    let received = lemon.wait_for(1, SOON).remove(0).text();
    let read = stage.owner.get(&format!("/v1/events/{}", text(&published, "id"))).expect(200).text();
    for part in [data, context, user] {
        assert!(received.contains(part), "{part}\nis not in what the receiver got:\n{received}");
        assert!(read.contains(part), "{part}\nis not in what a read gives:\n{read}");
    }
    let vibe = vibe.wait_for(1, SOON).remove(0).text();
    assert!(vibe.contains(data), "{data}\nis not in:\n{vibe}");
}

#[test]
fn g04_one_idempotency_key_makes_one_event() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let key = [("idempotency-key", "order-4711")];
    let send = |body: &'static str| stage.publisher.send("POST", "/v1/events", &key, body);
    let first = send(r#"{"type":"order.created","tenant":"acme"}"#).expect(201);
    assert_eq!(first.header("idempotent-replayed"), None);
    let second = send(r#"{"type":"order.created","tenant":"acme"}"#).expect(201);
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(second.text(), first.text());
    let other = send(r#"{"type":"order.created", "tenant":"acme"}"#).expect(422);
    assert_eq!(other.json()["code"], "idempotency_conflict");

    let key = [("idempotency-key", "twins")];
    let twins = std::thread::scope(|scope| {
        let send = || stage.publisher.send("POST", "/v1/events", &key, LEMON_EVENT);
        let twins = (0..20).map(|_| scope.spawn(send)).collect::<Vec<_>>();
        twins.into_iter().map(|twin| twin.join().expect("a twin")).collect::<Vec<_>>()
    });
    let ids = twins.into_iter().map(|twin| text(&twin.expect(201).json(), "id"));
    let ids: std::collections::BTreeSet<String> = ids.collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    receiver.wait_for(2, SOON);
    receiver.stays_at(2, Duration::from_millis(300));
}

#[test]
fn large_bodies_arrive_whole_and_larger_ones_are_refused_unread() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    for (count, kib) in [(1, 64), (2, 255)] {
        let fill = "x".repeat(kib * 1024 - 100);
        stage.publish(&json!({"type": "large", "tenant": "acme", "data": {"fill": fill}}));
        let request = receiver.wait_for(count, SOON).remove(count - 1);
        assert!(request.json()["data"]["fill"] == fill.as_str(), "changed on its way");
    }

    let key = support::publisher_key(&stage.daemon);
    for (path, length) in [("/v1/events", 256 * 1024 + 1), ("/v1/events/batch", 8 * 1024 * 1024 + 1)] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n",
            key.token
        );
        let answer = stage.daemon.client().raw(head.as_bytes(), Duration::from_secs(2));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer}");
    }
}

#[test]
fn g06_a_hanging_receiver_does_not_slow_another() {
    const EVENTS: usize = 200;
    let stage = Stage::start(Daemon::builder());
    let (dead, healthy) = (Receiver::with(|_| Reply::Hang), Receiver::ok());
    stage.register(&json!({"url": dead.url("/"), "events": ["*"]}));
    stage.register(&json!({"url": healthy.url("/"), "events": ["*"]}));
    let started = Instant::now();
    for number in 0..EVENTS {
        let event = stage.publish(&json!({"type": "order.created", "tenant": "acme", "data": {"number": number}}));
        assert_eq!(event["deliveries"], 2);
    }
    let published = started.elapsed();
    healthy.wait_for(EVENTS, LATE);
    let ids: std::collections::BTreeSet<_> =
        healthy.requests().iter().map(|request| header(request, "webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), EVENTS, "each once");
    assert!(dead.in_hand_most() <= 8, "own permits: {}", dead.in_hand_most());
    assert!(dead.count() > 0, "it was tried; publishing took {published:?}");
}
