//! The access log of the real binary: one line a request, in one schema, with nothing in it that was sent; and the address of the
//! client that a proxy speaks for.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::support::{Daemon, SOON, Stage, poll, tenant_key};

/// The lines of the access log.
fn lines(daemon: &Daemon) -> Vec<Value> {
    let log = daemon.log();
    let read = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    read.filter(|line| line["target"] == "access" || line["message"] == "request").collect()
}

fn wait(daemon: &Daemon, count: usize) -> Vec<Value> {
    let found = poll(SOON, || Some(lines(daemon)).filter(|lines| lines.len() >= count));
    found.unwrap_or_else(|| panic!("{count} of {:#?}", lines(daemon)))
}

#[test]
fn a_request_leaves_one_line_of_one_schema_and_nothing_that_was_sent() {
    let quiet = Daemon::builder().set("log.access", "true").set_text("log.level", "error");
    let stage = Stage::start(quiet.set("server.trusted_proxies", "[\"127.0.0.1/32\"]"));
    let key = tenant_key(&stage.daemon, "acme");
    let before = wait(&stage.daemon, 4).len();
    let client = stage.daemon.client().bearer(&key.token);
    let from = [("x-forwarded-for", "192.0.2.9, 203.0.113.7"), ("x-request-id", "mine-1")];
    let answer = client.send("GET", "/v1/webhooks/canary-id?secret=canary-query&limit=1", &from, "");
    assert_eq!((answer.status, answer.header("x-request-id")), (404, Some("mine-1")));
    let made = client.send("POST", "/v1/webhooks", &[], r#"{"url":"https://canary.example/","events":["a"]}"#);
    let id = made.header("x-request-id").expect("an id").to_owned();
    stage.daemon.client().send("GET", "/canary-path", &[("authorization", "Bearer canary-token")], "");
    stage.daemon.admin().send("HEAD", "/healthz", &[], "");
    let all = wait(&stage.daemon, before + 4);
    let mut last = all[before..].to_vec();
    assert_eq!(last.len(), 4, "one line each: {last:#?}");
    let length = made.body.len();
    for line in &mut last {
        let text = line.to_string();
        assert!(!text.contains("canary") && !text.contains(&key.token), "{text}");
        let line = line.as_object_mut().expect("an object");
        assert!(line.remove("duration_us").is_some_and(|us| us.as_u64().is_some_and(|us| us < 20_000_000)), "{text}");
        assert!(line.remove("timestamp").is_some_and(|at| at.as_str().is_some_and(|at| at.ends_with('Z'))), "{text}");
        let more = ["level", "message"].map(|name| line.remove(name).expect(name));
        assert_eq!(more, ["INFO", "request"].map(Value::from));
        assert!(line.remove("peer").is_none_or(|peer| peer.as_str().is_some_and(|peer| peer.contains(':'))));
    }
    assert_eq!(last[0]["bytes"], answer.body.len());
    let own = |line: Value, more: Value| {
        let mut line = line;
        line.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        line
    };
    let known = json!({"tenant": "acme", "key": key.id});
    let wanted = [
        own(
            json!({"request": "mine-1", "method": "GET", "route": "/v1/webhooks/{id}", "status": 404,
            "bytes": answer.body.len()}),
            known.clone(),
        ),
        own(json!({"request": id, "method": "POST", "route": "/v1/webhooks", "status": 201, "bytes": length}), known),
        json!({"request": last[2]["request"], "method": "GET", "status": 404, "bytes": last[2]["bytes"]}),
        json!({"request": last[3]["request"], "method": "HEAD", "route": "/healthz", "status": 200, "bytes": 0}),
    ];
    assert_eq!(last, wanted);
    assert!(all[before]["peer"].as_str().is_some_and(|peer| peer.starts_with("203.0.113.7")), "{}", all[before]);
    assert!(all[before + 1]["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{}", all[before + 1]);
}

#[test]
fn it_is_off_until_a_reload_switches_it_on() {
    let stage = Stage::start(Daemon::builder());
    stage.owner.get("/v1/webhooks").expect(200);
    assert_eq!(lines(&stage.daemon), Vec::<Value>::new());
    let path = stage.daemon.config();
    let text = std::fs::read_to_string(&path).expect("the configuration");
    std::fs::write(&path, format!("log.access = true\n{text}")).expect("writing it");
    stage.daemon.signal(Signal::HUP);
    assert!(
        poll(SOON, || stage.daemon.log().contains("\"reloaded\"").then_some(())).is_some(),
        "{}",
        stage.daemon.log()
    );
    stage.owner.get("/v1/webhooks").expect(200);
    assert_eq!(wait(&stage.daemon, 1)[0]["route"], "/v1/webhooks");
}
