//! Behind an open circuit whoever asks for what failed is not kept waiting: the receiver is probed at once, and what waits goes.

use serde_json::json;

use super::support::{Daemon, Receiver, Reply, SOON, Stage, poll, text};

/// No probe comes by itself while a test runs.
fn stage() -> Stage {
    let builder = Daemon::builder().set_text("circuit.probe_first", "1h").set_text("circuit.probe_max", "1h");
    Stage::start(builder.extra("[plans.once]\ndelays = []\njitter = 0.0"))
}

fn order(stage: &Stage) -> String {
    text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id")
}

/// Five events that die at a receiver, by which the circuit opens.
fn five_die(stage: &Stage, receiver: &Receiver) -> Vec<String> {
    receiver.set(|_| Reply::status(500));
    let events: Vec<String> = (0..5).map(|_| order(stage)).collect();
    for event in &events {
        stage.explained(event, |delivery| delivery["state"] == "dead");
    }
    receiver.set(|_| Reply::ok());
    events
}

#[track_caller]
fn arrive(stage: &Stage, events: &[String]) {
    for event in events {
        stage.explained(event, |delivery| delivery["state"] == "delivered");
    }
}

#[test]
fn what_is_redriven_or_sent_again_does_not_wait_for_the_circuit() {
    let stage = stage();
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "once"}));

    let dead = five_die(&stage, &receiver);
    let waiting = order(&stage);
    stage.explained(&waiting, |delivery| delivery["waiting_for"]["what"] == "circuit");
    let letters = stage.owner.get("/v1/dead-letters?limit=1").expect(200).json();
    let letter = text(&letters["data"][0], "id");
    stage.owner.post(&format!("/v1/dead-letters/{letter}/redrive"), &json!({})).expect(202);
    arrive(&stage, std::slice::from_ref(&waiting));
    let left = || stage.owner.get("/v1/dead-letters").expect(200).json()["data"].as_array().map(Vec::len);
    assert_eq!(left(), Some(4));

    let again = five_die(&stage, &receiver);
    stage.owner.post("/v1/dead-letters/redrive", &json!({})).expect(202);
    arrive(&stage, &[dead, again].concat());
    assert_eq!(left(), Some(0));

    five_die(&stage, &receiver);
    stage.daemon.admin().post("/admin/dead-letters/redrive", &json!({})).expect(202);
    assert!(poll(SOON, || (left() == Some(0)).then_some(())).is_some(), "{:?}", left());
    arrive(&stage, &[order(&stage)]);

    five_die(&stage, &receiver);
    stage.owner.post(&format!("/v1/events/{waiting}/resend"), &json!({})).expect(202);
    arrive(&stage, &[order(&stage)]);
}

#[test]
fn a_new_address_a_resumption_and_an_activation_are_tried_at_once() {
    let stage = stage();
    let (old, new) = (Receiver::ok(), Receiver::ok());
    let hook = stage.register(&json!({"url": old.url("/"), "events": ["*"], "plan": "once"}));
    let hook = format!("/v1/webhooks/{}", text(&hook, "id"));
    let held = |stage: &Stage| {
        let waiting = order(stage);
        stage.explained(&waiting, |delivery| delivery["waiting_for"]["what"] == "circuit");
        waiting
    };

    five_die(&stage, &old);
    let waiting = held(&stage);
    stage.owner.patch(&hook, &json!({"url": new.url("/")})).expect(200);
    arrive(&stage, &[waiting]);
    new.wait_for(1, SOON);

    five_die(&stage, &new);
    let waiting = held(&stage);
    stage.owner.post(&format!("{hook}/pause"), &json!({})).expect(200);
    stage.owner.post(&format!("{hook}/resume"), &json!({})).expect(200);
    arrive(&stage, &[waiting]);

    five_die(&stage, &new);
    let waiting = held(&stage);
    stage.owner.patch(&hook, &json!({"active": false})).expect(200);
    stage.owner.patch(&hook, &json!({"active": true})).expect(200);
    arrive(&stage, &[waiting]);
}
