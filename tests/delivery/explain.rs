//! "Accepted, then nothing": what `explain` says of a delivery that something holds back, told by the daemon's own lanes.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Daemon, Receiver, Reply, SOON, Stage, text};

#[test]
fn what_holds_a_delivery_back_is_told_in_one_answer() {
    let config = "[plans.late]\ndelays = [\"10min\"]\njitter = 0.0\n[circuit]\nfailures = 2";
    let stage = Stage::start(Daemon::builder().extra(config));
    let failing = Receiver::with(|_| Reply::status(500));
    let (ok, hanging) = (Receiver::ok(), Receiver::with(|_| Reply::ok().after(Duration::from_secs(60))));
    let register = |receiver: &Receiver, kind: &str, more: Value| {
        let mut body = json!({"url": receiver.url("/"), "events": [kind], "plan": "late"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        text(&stage.register(&body), "id")
    };
    let publish = |kind: &str| text(&stage.publish(&json!({"type": kind, "tenant": "acme"})), "id");
    let waits = |webhook: &str, event: &str, what: &str| {
        let part = stage.explained(event, |part| part["webhook"] == webhook && part["waiting_for"]["what"] == what);
        part["waiting_for"].clone()
    };

    let webhook = register(&failing, "fails", json!({}));
    let first = publish("fails");
    let backoff = waits(&webhook, &first, "backoff");
    assert_eq!(backoff["rule"], "retry 1 of 1 of plan late, 10 min ± 0 %");
    publish("fails");
    failing.wait_for(2, SOON);
    stage.attempts(&webhook, 2);
    let circuit = waits(&webhook, &publish("fails"), "circuit");
    assert!(circuit["until"].is_string() && text(&circuit, "rule").contains("circuit is open"), "{circuit}");
    assert_eq!(failing.count(), 2, "it is held back");

    let webhook = register(&ok, "often", json!({"rate_limit": 0.01}));
    publish("often");
    ok.wait_for(1, SOON);
    let limited = waits(&webhook, &publish("often"), "rate_limit");
    assert!(limited["until"].is_string() && limited["rule"] == "at most 0.01 deliveries a second", "{limited}");

    let webhook = register(&hanging, "hangs", json!({"max_in_flight": 1, "timeout": "60s"}));
    let first = publish("hangs");
    hanging.wait_for(1, SOON);
    assert_eq!(waits(&webhook, &first, "in_flight")["rule"], "an attempt is under way");
    let permit = waits(&webhook, &publish("hangs"), "permit");
    assert_eq!(permit["rule"], "as many attempts as may are under way");

    let nobody = publish("nobody.wants.it");
    let told = stage.owner.get(&format!("/v1/events/{nobody}/explain")).expect(200).json();
    assert_eq!(told["summary"], "0 of 3 webhooks matched; did not match: 3 type");
    let details: Vec<String> =
        told["deliveries"].as_array().expect("a list").iter().map(|part| text(part, "detail")).collect();
    assert_eq!(details, ["fails", "often", "hangs"].map(|kind| format!("nobody.wants.it is not among {kind}")));
}
