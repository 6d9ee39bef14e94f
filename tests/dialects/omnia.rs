//! Omnia's reference: create, list, read and delete, both paths; and what deposits and withdrawals send.

use serde_json::{Value, json};

use super::support::{Client, Daemon, Receiver, SOON, Stage, text};
use super::{header, is_signed, same_but};

/// The path of the reference, and the one of its `curl` lines.
const PATHS: [&str; 2] = ["/v3/webhooks", "/api/v3/webhooks"];

fn examples() -> Value {
    serde_json::from_str(include_str!("omnia.json")).expect("JSON")
}

#[test]
fn webhooks_are_managed_as_in_omnias_reference() {
    let (stage, examples) = (Stage::start(Daemon::builder()), examples());
    let stranger = stage.daemon.client().bearer("whd_no_such_token");
    for path in PATHS {
        let made = stage.owner.post(path, &examples["create"]["request"]).expect(201).json();
        same_but(&made, &examples["create"]["response"], &["/subscriptionId"]);
        let listed = stage.owner.get(path).expect(200).json();
        same_but(&listed, &examples["list"], &["/webhooks/0/subscriptionId"]);
        assert_eq!(listed["webhooks"], json!([made]));
        let one = format!("{path}/{}", text(&made, "subscriptionId"));
        assert_eq!(stage.owner.get(&one).expect(200).json(), made);
        let unauthorized = |answer: super::support::Answer| {
            assert_eq!(answer.expect(401).json(), examples["unauthorized"]);
        };
        unauthorized(stranger.get(path));
        unauthorized(stranger.post(path, &examples["create"]["request"]));
        unauthorized(stranger.get(&one));
        unauthorized(stranger.delete(&one));
        let answer = stage.owner.delete(&one).expect(204);
        assert_eq!(answer.text(), "");
        assert_eq!(stage.owner.get(&one).expect(404).json(), examples["not_found"]);
        assert_eq!(stage.owner.delete(&one).expect(404).json(), examples["not_found"]);
    }
    for (body, code) in [
        // As the reference's curl line has it: placeholders in quotes are not JSON.
        (
            r#"{"eventTypes": "<eventTypes>", "target": "{"url":"https://api.example.com/webhooks"}"}"#,
            "INVALID_REQUEST",
        ),
        (r#"{"eventTypes":["PRICES"],"target":{"url":"https://api.example.com/"}}"#, "INVALID_EVENT_TYPE"),
        (r#"{"eventTypes":["ACCOUNT_ACTIVITY"],"target":{"url":"https://169.254.169.254/"}}"#, "INVALID_TARGET"),
    ] {
        let refused = stage.owner.send("POST", "/v3/webhooks", &[], body).expect(400).json();
        assert_eq!((&refused["code"], refused["description"].is_string()), (&json!(code), true), "{refused}");
    }
}

#[test]
fn at_most_five_webhooks_a_user_also_when_two_ask_at_once() {
    let (stage, examples) = (Stage::start(Daemon::builder()), examples());
    let create = |client: &Client| client.post("/v3/webhooks", &examples["create"]["request"]);
    for _ in 0..4 {
        create(&stage.owner).expect(201);
    }
    let answers = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| create(&stage.owner))).collect();
        racers.into_iter().map(|racer| racer.join().expect("a racer")).collect::<Vec<_>>()
    });
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 7));
    for answer in refused {
        assert_eq!(answer.expect(400).json()["code"], "WEBHOOK_LIMIT_EXCEEDED");
    }
}

#[test]
fn account_activity_fires_on_deposits_and_withdrawals_and_on_nothing_else() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let headers = json!({"Authorization": "Bearer canary", "content-type": "application/vnd.acme+json", "X-Two": "2"});
    let target = json!({"url": receiver.url("/in"), "headers": headers});
    let body = json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": target});
    let made = stage.owner.post("/v3/webhooks", &body).expect(201).json();
    let subscription = text(&made, "subscriptionId");
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    stage.owner.patch(&format!("/v1/webhooks/{subscription}"), &json!({"secret": secret})).expect(200);
    let publish = |kind: &str, expected: u64| {
        let event = json!({"type": kind, "tenant": "acme", "created_at": "2024-01-15T09:00:00.75Z",
            "data": {"amount": 1000.0}, "context": {"a": 1}, "user": {"id": "u"}});
        let published = stage.publish(&event);
        assert_eq!(published["deliveries"], expected, "{kind}");
        text(&published, "id")
    };
    for kind in ["order.created", "account.balance_updated", "account.created"] {
        publish(kind, 0);
    }
    for (number, kind) in ["account.deposit_received", "account.withdrawal_processed"].into_iter().enumerate() {
        let event = publish(kind, 1);
        let request = receiver.wait_for(number + 1, SOON).remove(number);
        let expected = json!({
            "type": kind, "subscriptionId": subscription, "eventType": "ACCOUNT_ACTIVITY", "eventId": event,
            "timestamp": "2024-01-15T09:00:00Z", "data": {"amount": 1000.0},
        });
        assert_eq!(request.json(), expected);
        for (name, value) in [("authorization", "Bearer canary"), ("x-two", "2")] {
            assert_eq!(header(&request, name), value);
        }
        let types: Vec<_> =
            request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type")).collect();
        assert_eq!((types.len(), types[0].1.as_str()), (1, "application/vnd.acme+json"), "it replaces ours");
        is_signed(&request, secret, &event);
    }
    publish("ACCOUNT_ACTIVITY", 1);
    assert_eq!(receiver.wait_for(3, SOON)[2].json()["eventType"], "ACCOUNT_ACTIVITY");
}
