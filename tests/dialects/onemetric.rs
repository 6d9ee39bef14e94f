//! OneMetric's guide: registering a URL, every example payload, every event type, the shared token, retries.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::support::{Daemon, Receiver, Reply, Request, SOON, Stage, poll, text};
use super::{envelope, header, is_signed, text_of};

const REGISTER: &str = "/api/webhook/register";

#[derive(Deserialize)]
struct Examples<'a> {
    registration: Value,
    types: Vec<(String, String)>,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

fn examples() -> Examples<'static> {
    serde_json::from_str(include_str!("onemetric.json")).expect("JSON")
}

fn register(stage: &Stage, url: &str) -> Value {
    stage.owner.post(REGISTER, &json!({"webhook_url": url})).expect(200).json()
}

#[test]
fn a_url_is_registered_as_in_onemetrics_guide() {
    let (stage, examples) = (Stage::start(Daemon::builder()), examples());
    let made = stage.owner.post(REGISTER, &examples.registration).expect(200).json();
    assert_eq!(made["status"], "success");
    assert!(made["message"].as_str().is_some_and(|message| message.contains("registered")), "{made}");
    for body in
        ["{}", r#"{"webhook_url":"https://169.254.169.254/"}"#, r#"{"webhook_url":"ftp://yourdomain.com/"}"#, "x"]
    {
        let refused = stage.owner.send("POST", REGISTER, &[], body);
        assert!((400..500).contains(&refused.status), "{refused:?}");
        let refused = refused.json();
        assert_eq!((&refused["status"], refused["message"].is_string()), (&json!("error"), true), "{refused}");
    }
    stage.daemon.client().post(REGISTER, &examples.registration).expect(401);
}

#[test]
fn a_receiver_gets_every_example_and_every_type_of_onemetrics_guide() {
    let (stage, examples) = (Stage::start(Daemon::builder().set("catalogue.strict", "true")), examples());
    let receiver = Receiver::ok();
    let secret = text(&register(&stage, &receiver.url("/webhook-endpoint")), "signature_secret");
    let check = |request: &Request, event: &str| {
        assert_eq!((request.path.as_str(), header(request, "x-webhook-token")), ("/webhook-endpoint", secret.as_str()));
        is_signed(request, &secret, event);
    };
    let publish = |body: String| text(&stage.publisher.send("POST", "/v1/events", &[], body).expect(201).json(), "id");
    assert_eq!((examples.events.len(), examples.types.len()), (4, 9));
    for (number, example) in examples.events.iter().enumerate() {
        let wanted: Value = serde_json::from_str(example.get()).expect("JSON");
        let kind = format!("{}.{}", text(&wanted, "event_type"), text(&wanted, "sub_type"));
        let at = format!("{}Z", text(&wanted, "time_stamp").replace(' ', "T"));
        let parts = [("data", text_of(example, "details")), ("user", text_of(example, "user"))];
        let event = publish(envelope(&kind, &at, &parts));
        let request = receiver.wait_for(number + 1, SOON).remove(number);
        assert_eq!(request.json(), wanted);
        for (_, part) in parts {
            assert!(request.text().contains(part.unwrap_or_default()), "byte for byte: {part:?}");
        }
        check(&request, &event);
    }
    for (number, (kind, sub)) in (examples.events.len()..).zip(&examples.types) {
        let event = publish(envelope(&format!("{kind}.{sub}"), "2024-10-01T10:20:00Z", &[]));
        let request = receiver.wait_for(number + 1, SOON).remove(number);
        let wanted = json!({"event_type": kind, "sub_type": sub, "time_stamp": "2024-10-01 10:20:00"});
        assert_eq!(request.json(), wanted, "absent parts are left out");
        check(&request, &event);
    }
}

#[test]
fn a_new_url_takes_the_place_of_the_old_and_gets_what_is_pending() {
    let plan = "[plans.patient]\ndelays = [\"1s\", \"1s\", \"1s\"]\njitter = 0.0";
    let stage = Stage::start(Daemon::builder().extra(plan));
    stage.daemon.admin().put("/admin/tenants/acme", &json!({"plan": "patient"})).expect(200);
    let (old, new) = (Receiver::with(|_| Reply::status(500)), Receiver::ok());
    let secret = text(&register(&stage, &old.url("/")), "signature_secret");
    let event = text(&stage.publish(&json!({"type": "USER_ACTIVITY.LOGIN", "tenant": "acme"})), "id");
    old.wait_for(1, SOON);
    let again = register(&stage, &new.url("/"));
    assert_eq!(again.get("signature_secret"), None, "the secret stays");
    let request = new.wait_for(1, SOON).remove(0);
    assert_eq!((header(&request, "webhook-id"), header(&request, "webhook-attempt")), (event.as_str(), "2"));
    assert_eq!(header(&request, "x-webhook-token"), secret);
    let listed = stage.owner.get("/v1/webhooks").expect(200).json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");

    // A receiver that said that it is gone is taken back by registering it again.
    new.set(|_| Reply::status(410));
    stage.publish(&json!({"type": "USER_ACTIVITY.LOGOUT", "tenant": "acme"}));
    let path = format!("/v1/webhooks/{}", text(&listed["data"][0], "id"));
    let state = |wanted: &str| {
        let found = poll(SOON, || {
            let read = stage.owner.get(&path).expect(200).json();
            (read["state"] == wanted).then_some(())
        });
        assert!(found.is_some(), "never {wanted}");
    };
    state("inactive");
    register(&stage, &new.url("/"));
    state("active");
    old.stays_at(1, Duration::from_millis(200));
}

#[test]
fn retries_depend_on_the_subscription_level() {
    let plans = "[plans.silver]\ndelays = [\"50ms\"]\njitter = 0.0\n[plans.gold]\ndelays = [\"50ms\", \"50ms\", \"50ms\"]\njitter = 0.0";
    let stage = Stage::start(Daemon::builder().extra(plans).set_text("dialects.onemetric.plan", "silver"));
    let receiver = Receiver::with(|_| Reply::status(500));
    register(&stage, &receiver.url("/"));
    let attempts = || {
        let before = receiver.count();
        let event = text(&stage.publish(&json!({"type": "TRANSACTION.REFUND", "tenant": "acme"})), "id");
        stage.explained(&event, |delivery| delivery["state"] == "dead");
        receiver.count() - before
    };
    assert_eq!(attempts(), 2, "the dialect's plan: one retry");
    stage.daemon.admin().put("/admin/tenants/acme", &json!({"plan": "gold"})).expect(200);
    assert_eq!(attempts(), 4, "the tenant's plan: three retries");
}
