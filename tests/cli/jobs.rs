//! `dead-letters`, `webhooks recover` and `jobs`: counted, begun, waited for, listed, cancelled.

use serde_json::json;

use super::support::{Daemon, Receiver, Reply, SOON, Stage, poll, text};
use super::{of, says};

/// A tenant whose receiver fails until it is mended, with a plan that gives up at once.
struct Failing {
    stage: Stage,
    webhook: String,
    receiver: Receiver,
}

fn failing() -> Failing {
    let receiver = Receiver::with(|_| Reply::status(500));
    let stage = Stage::start(Daemon::builder().set("circuit.failures", "0").extra("[plans.once]\ndelays = []"));
    let webhook = stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "once"}));
    Failing { webhook: text(&webhook, "id"), stage, receiver }
}

impl Failing {
    fn publish(&self, kind: &str) {
        self.stage.publisher.post("/v1/events", &json!({"type": kind, "tenant": "acme"})).expect(201);
    }

    fn dead(&self) -> usize {
        let page = self.stage.owner.get("/v1/dead-letters").expect(200).json();
        page["data"].as_array().expect("a list").len()
    }
}

#[test]
fn dead_letters_are_redriven_and_purged_from_the_command_line() {
    let failing = failing();
    let daemon = &failing.stage.daemon;
    for kind in ["a", "a", "b", "c"] {
        failing.publish(kind);
    }
    poll(SOON, || (failing.dead() == 4).then_some(())).expect("dead letters");
    says(&of(daemon, &["dead-letters", "redrive", "--dry-run"]).run().ends(0).out, &["4 deliveries"]);
    let counted = of(daemon, &["dead-letters", "redrive", "--type", "a", "--dry-run", "--json"]).run().ends(0).json();
    assert_eq!(counted, json!({"count": 2}));
    says(&of(daemon, &["dead-letters", "purge"]).run().ends(1).err, &["all must be true"]);
    says(&of(daemon, &["dead-letters", "redrive", "--tenant", "nobody"]).run().ends(1).err, &["tenant is unknown"]);
    let purged = of(daemon, &["dead-letters", "purge", "--type", "c", "--wait", "--json"]).run().ends(0).json();
    assert_eq!((&purged["state"], &purged["done"], &purged["tenant"]), (&json!("done"), &json!(1), &json!("*")));
    failing.receiver.set(|_| Reply::ok());
    let before = failing.receiver.count();
    let shown = of(daemon, &["dead-letters", "redrive", "--tenant", "acme", "--wait"]).run().ends(0).out;
    says(&shown, &["JOB", "redrive", "acme", "done"]);
    poll(SOON, || (failing.receiver.count() == before + 3).then_some(())).expect("three deliveries");
    assert_eq!(failing.dead(), 0);
    let all = of(daemon, &["jobs", "list", "--json"]).run().ends(0).json();
    let id = all[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(all.as_array().expect("a list").len(), 2);
    says(&of(daemon, &["jobs", "list", "--state", "running"]).run().ends(0).out, &["no jobs"]);
    says(&of(daemon, &["jobs", "show", &id]).run().ends(0).out, &[&id, "done"]);
    says(&of(daemon, &["jobs", "show", &id, "--wait"]).run().ends(0).out, &[&id, "done"]);
    says(&of(daemon, &["jobs", "cancel", &id]).run().ends(0).out, &[&id, "done"]);
    says(&of(daemon, &["jobs", "show", "job_0"]).run().ends(1).err, &["not found"]);
    let figures = daemon.admin().get("/metrics").expect(200).text();
    for line in [
        "webhookd_jobs_running 0",
        "webhookd_jobs_ended_total{kind=\"redrive\",state=\"done\"} 1",
        "webhookd_job_deliveries_total{kind=\"redrive\",result=\"done\"} 3",
        "webhookd_job_deliveries_total{kind=\"purge\",result=\"done\"} 1",
    ] {
        says(&figures, &[line]);
    }
}

#[test]
fn a_webhook_is_made_active_with_all_that_it_missed() {
    let failing = failing();
    let daemon = &failing.stage.daemon;
    failing.publish("a");
    poll(SOON, || (failing.dead() == 1).then_some(())).expect("a dead letter");
    let path = format!("/v1/webhooks/{}", failing.webhook);
    failing.stage.owner.patch(&path, &json!({"active": false})).expect(200);
    failing.publish("b");
    failing.receiver.set(|_| Reply::ok());
    let recover = ["webhooks", "recover", &failing.webhook];
    says(&of(daemon, &[&recover[..], &["--dry-run"]].concat()).run().ends(0).out, &["2 deliveries"]);
    let only = of(daemon, &[&recover[..], &["--only", "missing", "--dry-run", "--json"]].concat()).run().ends(0).json();
    assert_eq!(only, json!({"count": 1}));
    let before = failing.receiver.count();
    let job = of(daemon, &[&recover[..], &["--activate", "--wait", "--json"]].concat()).run().ends(0).json();
    assert_eq!((&job["kind"], &job["done"], &job["only"]), (&json!("recover"), &json!(2), &json!("unarrived")));
    poll(SOON, || (failing.receiver.count() == before + 2).then_some(())).expect("two deliveries");
    assert_eq!(failing.stage.owner.get(&path).expect(200).json()["state"], "active");
    let unknown = "wbh_0123456789abcdef0123456789abcdef";
    says(&of(daemon, &["webhooks", "recover", unknown]).run().ends(1).err, &["not found"]);
}
