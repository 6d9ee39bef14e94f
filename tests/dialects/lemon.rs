//! lemon.markets' guide: registering a webhook, and the event that it gets.

use serde_json::{Value, json};

use super::support::{Daemon, Receiver, SOON, Stage, signature, text};
use super::{envelope, header, is_signed, same_but};

/// The headers of the guide's requests, besides the key.
const PRIVACY: [(&str, &str); 2] =
    [("LMG-Data-Privacy-Access-Principal", "nobody"), ("LMG-Data-Privacy-Access-Justification", "webhook-test")];

fn examples() -> Value {
    serde_json::from_str(include_str!("lemon.json")).expect("JSON")
}

#[test]
fn a_webhook_is_registered_as_in_lemons_guide() {
    let (stage, examples) = (Stage::start(Daemon::builder()), examples());
    let mut headers = PRIVACY.to_vec();
    headers.push(("content-type", "application/json; charset=utf8"));
    let request = examples["request"].to_string();
    let made = stage.owner.send("POST", "/v1/webhooks", &headers, request).expect(201).json();
    same_but(&made, &examples["response"], &["/id", "/signature_secret"]);
    let path = format!("/v1/webhooks/{}", text(&made, "id"));
    let read = stage.owner.send("GET", &path, &PRIVACY, "").expect(200).json();
    assert_eq!((&read["url"], &read["events"]), (&examples["request"]["url"], &examples["request"]["events"]));
    stage.owner.send("DELETE", &path, &PRIVACY, "").expect(204);
    stage.owner.send("GET", &path, &PRIVACY, "").expect(404);
}

#[test]
fn a_receiver_gets_the_event_of_lemons_guide() {
    let (stage, examples) = (Stage::start(Daemon::builder()), examples());
    let example = &examples["event"];
    let receiver = Receiver::ok();
    let made = stage.register(&json!({"url": receiver.url("/hook"), "events": examples["request"]["events"]}));
    let secret = text(&made, "signature_secret");
    let context = example["context"].to_string();
    let body = envelope("account.created", &text(example, "created_at"), &[("context", Some(&context))]);
    let event = text(&stage.publisher.send("POST", "/v1/events", &[], body).expect(201).json(), "id");

    let request = receiver.wait_for(1, SOON).remove(0);
    same_but(&request.json(), example, &["/id"]);
    assert_eq!((request.json()["id"].as_str(), header(&request, "content-type")), (Some(&*event), "application/json"));
    is_signed(&request, &secret, &event);
    let seconds = header(&request, "webhook-timestamp").parse().expect("seconds");
    let signed = signature::lemon(&secret, seconds, &request.body);
    for name in ["lmg-signature", "lemon-markets-signature"] {
        assert_eq!(header(&request, name), signed);
    }
    // "This payload matches the format of events you'll find at /v1/events."
    let listed = stage.owner.get("/v1/events").expect(200).json();
    assert_eq!(listed["data"], json!([request.json()]));
    assert_eq!(stage.owner.get(&format!("/v1/events/{event}")).expect(200).text(), request.text());
}
