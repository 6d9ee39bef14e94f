//! `tenants delete`: what is asked for, what goes at once, and that nothing of the tenant is left on the disk in the end.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::support::{Client, Daemon, Receiver, Reply, SOON, Stage, poll, text};
use super::{of, says, webhookd};

/// Stands in all that the tenant had.
const CANARY: &str = "canary-4f1c";
const EVENTS: usize = 120;

fn canary(place: &str) -> String {
    format!("{CANARY}-{place}")
}

/// What is published for the two tenants by turns, so that they share blocks.
fn publish(stage: &Stage) {
    let mine = json!({"type": canary("type"), "tenant": "acme", "ordering_key": canary("order"),
        "data": {"of": canary("data")}, "context": {"of": canary("context")}, "user": {"id": canary("user")}});
    for n in 0..EVENTS {
        let other = json!({"type": "kept", "tenant": "other", "data": {"n": n}});
        stage.publisher.post("/v1/events/batch", &json!({"events": [mine, other]})).expect(201);
    }
}

/// The events of a tenant, all pages of them, as they are sent.
fn events(client: &Client) -> Vec<String> {
    let (mut pages, mut path) = (Vec::new(), "/v1/events?limit=100".to_owned());
    loop {
        let page = client.get(&path).expect(200);
        pages.push(page.json()["data"].to_string());
        match page.json()["pagination"]["next_cursor"].as_str() {
            Some(next) => path = format!("/v1/events?limit=100&cursor={next}"),
            None => return pages,
        }
    }
}

/// Files of the state folder that the canary stands in.
fn found(folder: &Path) -> Vec<String> {
    let holds =
        |path: &Path| fs::read(path).expect("a file").windows(CANARY.len()).any(|part| part == CANARY.as_bytes());
    let paths = fs::read_dir(folder).expect("the state folder").map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_file() && holds(path)).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_deleted_tenant_leaves_nothing_on_the_disk_and_nobody_elses_events_change() {
    let dying = Receiver::with(|_| Reply::status(410).body(canary("answer").as_str()));
    let failing = Receiver::with(|_| Reply::status(500).body(canary("answer").as_str()));
    let mut stage = Stage::start(Daemon::builder());
    let mut webhook = String::new();
    for receiver in [&failing, &dying] {
        let (header, secret) = (json!({"X-Canary": canary("header")}), canary("secret"));
        let made = stage
            .register(&json!({"url": receiver.url(&format!("/{CANARY}")), "events": ["*"], "headers": header,
            "secret": secret, "description": canary("description")}));
        webhook = text(&made, "id");
    }
    let admin = stage.daemon.admin();
    admin.put("/admin/tenants/other", &json!({})).expect(200);
    let key = admin.post("/admin/keys", &json!({"role": "tenant", "tenant": "other"})).expect(201).json();
    let other = stage.daemon.client().bearer(&text(&key, "token"));
    publish(&stage);
    dying.wait_for(1, SOON);
    failing.wait_for(1, SOON);
    let kept = events(&other);
    let attempts = format!("/v1/webhooks/{webhook}/attempts");
    let told = || stage.owner.get(&attempts).expect(200).text().contains(CANARY);
    poll(SOON, || told().then_some(())).expect("an answer on record");
    // What stands in the write-ahead log goes to the store, and both hold it then.
    stage.daemon.restart();
    assert!(!found(&stage.daemon.folder().join("state")).is_empty(), "there is something to erase");

    let daemon = &stage.daemon;
    says(&of(daemon, &["tenants", "delete", "acme"]).run().ends(64).err, &["--confirm"]);
    says(&of(daemon, &["tenants", "delete", "acme", "--confirm", "acne"]).run().ends(64).err, &["repeat"]);
    let reserved = of(daemon, &["tenants", "delete", "operator", "--confirm", "operator"]).run().ends(1);
    says(&reserved.err, &["operator is reserved"]);
    let begun = of(daemon, &["tenants", "delete", "acme", "--confirm", "acme", "--json"]).run().ends(0).json();
    stage.daemon.kill9();
    stage.daemon.start();
    let daemon = &stage.daemon;
    let [owner, publisher, other] = [&stage.owner, &stage.publisher, &other].map(|client| client.at(daemon.address()));
    let job = of(daemon, &["jobs", "show", &text(&begun, "id"), "--wait", "--json"]).run().ends(0).json();
    assert_eq!((&job["kind"], &job["state"], &job["tenant"]), (&json!("erase"), &json!("done"), &json!("acme")));
    assert_eq!((&job["done"], &job["failed"]), (&job["total"], &json!(0)));
    owner.get("/v1/events").expect(401);
    let refused = publisher.post("/v1/events", &json!({"type": "a", "tenant": "acme"})).expect(422);
    assert_eq!(refused.json()["code"], "unknown_tenant");
    let again = of(daemon, &["tenants", "delete", "acme", "--confirm", "acme", "--wait"]).run().ends(0);
    says(&again.out, &["there is no tenant"]);

    // The name is free again, and what was is not back.
    let admin = daemon.admin();
    admin.put("/admin/tenants/acme", &json!({})).expect(200);
    let key = admin.post("/admin/keys", &json!({"role": "tenant", "tenant": "acme"})).expect(201).json();
    assert_eq!(events(&daemon.client().bearer(&text(&key, "token"))), ["[]"]);
    let operator = admin.post("/admin/keys", &json!({"role": "tenant", "tenant": "operator"})).expect(201).json();
    let reports = events(&daemon.client().bearer(&text(&operator, "token")));
    assert!(!reports.concat().contains("acme"), "{reports:?}");
    assert_eq!(events(&other), kept);

    let state = stage.daemon.folder().join("state");
    assert!(stage.daemon.term().success());
    let folder = state.to_str().expect("a path").to_owned();
    says(&webhookd(&["store", "check", "--state-dir", &folder]).run().ends(0).out, &["all is well"]);
    webhookd(&["store", "compact", "--state-dir", &folder]).run().ends(0);
    assert_eq!(found(&state), Vec::<String>::new());
    stage.daemon.start();
    assert_eq!(events(&other.at(stage.daemon.address())), kept);
}
