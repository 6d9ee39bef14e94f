//! What an operator asks and does in an incident, one command each: what is paused, what became of an event, what waits for a webhook
//! and how it did, what is dead, who did what.

use serde_json::{Value, json};

use super::support::{Daemon, Receiver, Reply, SOON, Stage, poll, tenant_key, text};
use super::{of, says, webhookd};

const ONCE: &str = "[plans.once]\ndelays = []";

fn order(stage: &Stage) -> String {
    text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id")
}

/// What `explain` says, once it says this.
#[track_caller]
fn explained(stage: &Stage, event: &str, part: &str) -> String {
    let mut last = String::new();
    let found = poll(SOON, || {
        last = of(&stage.daemon, &["explain", event, "--tenant", "acme"]).run().ends(0).out;
        last.contains(part).then(|| last.clone())
    });
    found.unwrap_or_else(|| panic!("explain does not say {part}:\n{last}"))
}

#[test]
fn what_is_paused_waits_until_it_is_resumed_by_the_same_name() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let hook = text(&stage.register(&json!({"url": receiver.url("/"), "events": ["*"]})), "id");
    let host = receiver.address().to_string();
    let daemon = &stage.daemon;
    let scopes = [
        (vec!["--everything"], "everything".to_owned()),
        (vec!["--tenant", "acme"], "tenant acme".to_owned()),
        (vec!["--host", &host], format!("host {host}")),
        (vec!["--webhook", &hook], format!("webhook {hook}")),
    ];
    for (nth, (option, named)) in scopes.iter().enumerate() {
        let paused = of(daemon, &[&["pause"], &option[..]].concat()).run().ends(0).out;
        says(&paused, &["PAUSED", named, "operator"]);
        assert_eq!(of(daemon, &["pauses"]).run().ends(0).out, paused);
        let event = order(&stage);
        says(&explained(&stage, &event, "waits for paused"), &[&hook, "pending"]);
        assert_eq!(receiver.count(), nth, "{named}");
        says(&of(daemon, &["status"]).run().ends(0).out, &[&format!("paused        {named}\n")]);
        let doctor = of(daemon, &["doctor"]).run().out;
        says(&doctor, &[&format!(": {named}\n"), &format!("webhookd resume {}\n", option.join(" "))]);
        let resumed = of(daemon, &[&["resume"], &option[..]].concat()).run().ends(0).out;
        assert_eq!(resumed, "nothing is paused\n");
        receiver.wait_for(nth + 1, SOON);
    }
    says(&of(daemon, &["status"]).run().ends(0).out, &["paused        nothing\n"]);

    // What an owner paused is listed, and no trouble.
    stage.owner.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).expect(200);
    let listed = of(daemon, &["pauses", "--json"]).run().ends(0).json();
    assert_eq!((&listed[0]["webhook"], &listed[0]["by"], listed[1].is_null()), (&json!(hook), &json!("tenant"), true));
    assert!(!of(daemon, &["doctor"]).run().out.contains("paused since"));

    // Nothing is stopped that was not named.
    for wrong in [&["pause"][..], &["resume"], &["pause", "--everything", "--tenant", "acme"], &["pause", "acme"]] {
        webhookd(wrong).run().ends(64);
    }
    says(&of(daemon, &["pause", "--tenant", "nobody"]).run().ends(1).err, &["tenant"]);
    assert_eq!(of(daemon, &["pauses", "--json"]).run().ends(0).json(), listed);
}

#[test]
fn an_event_is_explained_and_taken_back() {
    let stage = Stage::start(Daemon::builder().extra(ONCE));
    let (good, bad) = (Receiver::ok(), Receiver::with(|_| Reply::status(500).body("no\u{1b}[2J")));
    let taken = text(&stage.register(&json!({"url": good.url("/"), "events": ["order.*"]})), "id");
    let failed = text(&stage.register(&json!({"url": bad.url("/"), "events": ["order.*"]})), "id");
    let other = text(&stage.register(&json!({"url": good.url("/"), "events": ["position.*"]})), "id");
    let event = order(&stage);
    let told = explained(&stage, &event, "waits for backoff until 2");
    says(&told, &[&event, "order.created", "not matched (type)", "#1", "ms 200", "status: status 500"]);
    for webhook in [&taken, &failed, &other] {
        says(&told, &[webhook]);
    }
    let as_json = of(&stage.daemon, &["explain", &event, "--tenant", "acme", "--json"]).run().ends(0).json();
    assert_eq!(as_json["deliveries"].as_array().map(Vec::len), Some(3));

    // With a key of the tenant's nobody has to say whose it is.
    let key = tenant_key(&stage.daemon, "acme");
    let own = |args: &[&str]| {
        webhookd(args).env("WEBHOOKD_URL", &stage.daemon.base_url()).env("WEBHOOKD_TOKEN", &key.token).run()
    };
    says(&own(&["explain", &event]).ends(0).out, &[&event, &failed]);
    let pending = own(&["webhooks", "pending", &failed]).ends(0).out;
    says(&pending, &["EVENT", &event, "order.created", " 1 "]);
    assert_eq!(own(&["webhooks", "pending", &taken]).ends(0).out, "nothing is pending\n");
    let second = order(&stage);
    explained(&stage, &second, "waits for backoff");
    // Jitter says which is due first.
    let both = own(&["webhooks", "pending", &failed, "--json"]).ends(0).json();
    let due = |i: usize| text(&both[i], "next_attempt_at");
    assert!(due(0) <= due(1), "what is due first comes first: {both}");
    let (first, later) = (text(&both[0], "event"), text(&both[1], "event"));
    assert!([&first, &later].into_iter().all(|one| [&event, &second].contains(&one)) && first != later, "{both}");
    let cut = own(&["webhooks", "pending", &failed, "--limit", "1"]).ends(0).out;
    says(&cut, &[&first, "there is more: --limit"]);
    assert!(!cut.contains(&later), "{cut}");

    let elsewhere = ["cancel", &second, "--tenant", "acme", "--webhook", &taken];
    assert_eq!(of(&stage.daemon, &elsewhere).run().ends(0).out, "cancelled: 0\n");
    let all = ["cancel", &event, "--tenant", "acme", "--json"];
    assert_eq!(of(&stage.daemon, &all).run().ends(0).json(), json!({"cancelled": 1}));
    says(&explained(&stage, &event, "cancelled"), &[&failed]);
    let left = own(&["webhooks", "pending", &failed, "--json"]).ends(0).json();
    assert_eq!((&left[0]["event"], left[1].is_null()), (&json!(second), true));
    says(&own(&["explain", "evt_00000000000000000000000000000000"]).ends(1).err, &["not found: ", "--tenant"]);
    says(&of(&stage.daemon, &["explain", &event]).run().ends(1).err, &["tenant"]);
}

#[test]
fn a_webhook_is_summed_up_and_tried() {
    let stage = Stage::start(Daemon::builder().extra(ONCE));
    let receiver = Receiver::with(|request| Reply::status(if request.number < 2 { 500 } else { 200 }));
    let hook = json!({"url": receiver.url("/"), "events": ["*"], "plan": "once"});
    let hook = text(&stage.register(&hook), "id");
    let events = [order(&stage), order(&stage)];
    for event in &events {
        explained(&stage, event, " dead");
    }
    let of_acme = |args: &[&str]| of(&stage.daemon, &[args, &["--tenant", "acme"]].concat()).run();
    let letters = of_acme(&["dead-letters", "list"]).ends(0).out;
    says(&letters, &["EVENT", &events[0], &events[1], &hook, "status: status 500"]);
    let newest = of_acme(&["dead-letters", "list", "--limit", "1", "--webhook", &hook]).ends(0).out;
    says(&newest, &["order.created", "there is more: --limit"]);
    let none = of_acme(&["dead-letters", "list", "--type", "position.opened"]).ends(0).out;
    assert_eq!(none, "no dead letters\n");
    let as_json = of_acme(&["dead-letters", "list", "--since", "2020-01-01T00:00:00Z", "--json"]).ends(0).json();
    assert_eq!(as_json.as_array().map(Vec::len), Some(2));

    says(&of_acme(&["webhooks", "test", &hook]).ends(0).out, &["delivered: 200, ", " ms"]);
    receiver.set(|_| Reply::status(503));
    says(&of_acme(&["webhooks", "test", &hook]).ends(1).out, &["failed: ", "503"]);
    let tried = of_acme(&["webhooks", "test", &hook, "--json"]).ends(1).json();
    assert_eq!((&tried["success"], &tried["statusCode"]), (&json!(false), &json!(503)));
    let stats = of_acme(&["webhooks", "stats", &hook]).ends(0).out;
    says(
        &stats,
        &["attempts      5\n", "delivered     1, 20.00 % of them\n", "failed        4\n", "dead letters  2\n"],
    );
    says(&stats, &["took          p50 ", "pending       0\n"]);
    let later = of_acme(&["webhooks", "stats", &hook, "--since", "2100-01-01T00:00:00Z", "--json"]).ends(0).json();
    assert_eq!((&later["attempts"], &later["success_rate"]), (&json!(0), &Value::Null));
    says(&of_acme(&["webhooks", "stats", "wbh_00000000000000000000000000000000"]).ends(1).err, &["not found"]);
}

#[test]
fn who_changed_what_is_listed() {
    let stage = Stage::start(Daemon::builder());
    of(&stage.daemon, &["pause", "--everything"]).run().ends(0);
    let listed = of(&stage.daemon, &["audit"]).run().ends(0).out;
    says(&listed, &["AT", "WHO", "socket", "tenant.put", "key.create", "pause.put", "acme", "ok"]);
    let newest = of(&stage.daemon, &["audit", "--limit", "1"]).run().ends(0).out;
    says(&newest, &["pause.put", "there is more: --limit"]);
    let keys = ["audit", "--action", "key.*", "--tenant", "acme", "--json"];
    let keys = of(&stage.daemon, &keys).run().ends(0).json();
    let actions: Vec<&Value> = keys.as_array().expect("a list").iter().map(|one| &one["action"]).collect();
    assert_eq!(actions, ["key.create"]);
    let none = of(&stage.daemon, &["audit", "--since", "2100-01-01T00:00:00Z"]).run().ends(0).out;
    assert_eq!(none, "nothing is on record\n");
}
