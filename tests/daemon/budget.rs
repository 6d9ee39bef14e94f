//! The disk budget on the real binary: what is refused when it is used up, what goes on, and that retention brings publishing
//! back without a restart.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Answer, Daemon, Receiver, Reply, SOON, Stage, poll, publisher_key, text};

const MIB: u64 = 1 << 20;

/// Fifty events of 100 kB that no webhook is for.
fn batch(stage: &Stage, token: &str) -> Answer {
    let event = json!({"type": "bulk.load", "tenant": "acme", "data": {"x": "y".repeat(100_000)}});
    stage.daemon.client().bearer(token).post("/v1/events/batch", &json!({"events": vec![event; 50]}))
}

fn store(stage: &Stage) -> Value {
    stage.daemon.admin().get("/admin/stats").expect(200).json()["store"].clone()
}

fn metric(stage: &Stage, line: &str) -> bool {
    stage.daemon.admin().get("/metrics").expect(200).text().lines().any(|other| other == line)
}

#[test]
fn g09_a_used_up_budget_refuses_publishing_until_retention_has_made_room() {
    let plan = format!("[plans.quick]\ndelays = [{}]\njitter = 0.0", vec!["\"300ms\""; 90].join(", "));
    let builder = Daemon::builder().set_text("store.disk_budget", "40 MiB").set_text("retention.idempotency", "1s");
    let stage = Stage::start(builder.extra(&plan));
    let receiver = Receiver::with(|_| Reply::status(500));
    stage.register(&json!({"url": receiver.url("/"), "events": ["order.*"], "plan": "quick"}));
    let event = text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id");
    let key = publisher_key(&stage.daemon);

    let refused = poll(Duration::from_secs(60), || Some(batch(&stage, &key.token)).filter(|got| got.status != 201));
    let refused = refused.expect("the budget is used up").expect(503);
    assert_eq!(refused.json()["code"], "disk_budget", "{}", refused.text());
    assert!(refused.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok()));
    let full = store(&stage);
    assert_eq!((&full["full"], &full["disk_budget_bytes"]), (&json!("budget"), &json!(40 * MIB)), "{full}");
    assert!(metric(&stage, "webhookd_publishing_refused 1"));

    // What was accepted is delivered all the same, by attempts that are put on record.
    let before = receiver.count();
    receiver.wait_for(before + 2, SOON);
    receiver.set(|_| Reply::ok());
    stage.explained(&event, |delivery| delivery["state"] == "delivered");
    batch(&stage, &key.token).expect(503);

    let run = json!({"max_bytes": 10 * MIB});
    let complete = poll(SOON, || {
        let ran = stage.daemon.admin().post("/admin/retention", &run);
        (ran.status == 200 && ran.json()["complete"] == true).then_some(())
    });
    assert!(complete.is_some(), "retention does not end:\n{}", stage.daemon.log());
    let accepted = poll(SOON, || (batch(&stage, &key.token).status == 201).then_some(()));
    assert!(accepted.is_some(), "no room was made: {}\n{}", store(&stage), stage.daemon.log());
    assert_eq!(store(&stage)["full"], Value::Null);
    assert!(metric(&stage, "webhookd_publishing_refused 0"));
}

#[test]
fn a_store_that_exceeds_its_bytes_does_not_wait_for_the_minute_in_which_retention_rests() {
    let builder = Daemon::builder().set_text("retention.max_bytes", "12 MiB").set_text("retention.idempotency", "1s");
    let stage = Stage::start(builder);
    let key = publisher_key(&stage.daemon);
    // A batch is 5 MB, and what is younger than a second stays.
    let runs = || {
        let figures = stage.daemon.admin().get("/metrics").expect(200).text();
        let line =
            figures.lines().find_map(|line| line.strip_prefix("webhookd_retention_runs_total ").map(str::to_owned));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default()
    };
    let kept = poll(Duration::from_secs(40), || {
        batch(&stage, &key.token).expect(201);
        std::thread::sleep(Duration::from_millis(600));
        let used = store(&stage)["used_bytes"].as_u64().unwrap_or(u64::MAX);
        (runs() >= 4 && used < 30 * MIB).then_some(())
    });
    assert!(kept.is_some(), "{} runs, {}\n{}", runs(), store(&stage), stage.daemon.log());
}
