//! Vibe Trading's guide: its webhooks' life, all twelve payloads, the testing tool.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::support::{Daemon, Receiver, SOON, Stage, signature, text};
use super::{envelope, header, is_signed, text_of};

#[derive(Deserialize)]
struct Examples<'a> {
    registration: Value,
    update: Value,
    test: Value,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

fn examples() -> Examples<'static> {
    serde_json::from_str(include_str!("vibe.json")).expect("JSON")
}

#[test]
fn webhooks_are_managed_as_in_vibes_guide() {
    let (stage, examples) = (Stage::start(Daemon::builder()), examples());
    let asked = &examples.registration;
    let made = stage.owner.post("/api/v1/webhooks", asked).expect(201).json();
    let id = text(&made, "id");
    assert!(id.starts_with("webhook_"), "{id}");
    let whole = |value: &Value, name: &str| {
        let time = text(value, name);
        assert!(time.len() == 20 && time.ends_with('Z'), "whole seconds: {time}");
        time
    };
    let shape = |value: &Value, active: bool| {
        json!({"id": id, "url": asked["url"], "events": asked["events"], "active": active,
            "createdAt": whole(value, "createdAt"), "updatedAt": whole(value, "updatedAt")})
    };
    assert_eq!(made, shape(&made, true), "and the secret is not echoed");
    assert_eq!(stage.owner.get("/api/v1/webhooks").expect(200).json(), json!({"webhooks": [made]}));
    let path = format!("/api/v1/webhooks/{id}");
    let updated = stage.owner.put(&path, &examples.update).expect(200).json();
    assert_eq!(updated, shape(&updated, false));
    assert_eq!(stage.owner.get(&path).expect(200).json(), updated);
    stage.owner.delete(&path).expect(204);
    let gone = stage.owner.get(&path).expect(404).json();
    assert_eq!(gone, json!({"error": "not found", "code": "not_found"}));
}

#[test]
fn a_receiver_gets_each_of_the_twelve_payloads_of_vibes_guide() {
    let (stage, examples) = (Stage::start(Daemon::builder().set("catalogue.strict", "true")), examples());
    assert_eq!(examples.events.len(), 12);
    let receiver = Receiver::ok();
    let types: Vec<String> = examples.events.iter().map(|example| text(&value(example), "event")).collect();
    let body =
        json!({"url": receiver.url("/webhook"), "events": types, "secret": "your_webhook_secret", "active": true});
    stage.owner.post("/api/v1/webhooks", &body).expect(201);
    for (number, example) in examples.events.iter().enumerate() {
        let (wanted, data) = (value(example), text_of(example, "data").expect("data"));
        let body = envelope(&text(&wanted, "event"), &text(&wanted, "timestamp"), &[("data", Some(data))]);
        let event = text(&stage.publisher.send("POST", "/v1/events", &[], body).expect(201).json(), "id");
        let request = receiver.wait_for(number + 1, SOON).remove(number);
        assert_eq!(request.json(), wanted);
        assert!(request.text().contains(data), "byte for byte: {data}\nin {}", request.text());
        let signed = signature::vibe("your_webhook_secret", &request.body);
        assert_eq!(header(&request, "x-webhook-signature"), signed);
        assert_eq!(header(&request, "content-type"), "application/json");
        is_signed(&request, "your_webhook_secret", &event);
    }
}

#[test]
fn the_testing_tool_sends_the_event_of_vibes_guide() {
    let (stage, examples) = (Stage::start(Daemon::builder()), examples());
    let receiver = Receiver::ok();
    let body = json!({"url": receiver.url("/webhook"), "events": ["order.updated"], "secret": "your_webhook_secret"});
    let made = stage.owner.post("/api/v1/webhooks", &body).expect(201).json();
    let mut body = examples.test.clone();
    body["webhookId"] = made["id"].clone();
    // curl's content type for -d, as in the guide's line.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let told = stage.owner.send("POST", "/api/v1/webhooks/test", &form, body.to_string()).expect(200).json();
    assert_eq!((&told["success"], &told["statusCode"], &told["error"]), (&json!(true), &json!(200), &Value::Null));
    let request = receiver.wait_for(1, SOON).remove(0);
    assert_eq!(request.json(), examples.test["testEvent"]);
    let signed = signature::vibe("your_webhook_secret", &request.body);
    assert_eq!(header(&request, "x-webhook-signature"), signed);
}

fn value(example: &RawValue) -> Value {
    serde_json::from_str(example.get()).expect("JSON")
}
