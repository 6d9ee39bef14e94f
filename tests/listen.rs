//! `webhookd listen` with the real binary at both ends: deliveries come down the stream to a receiver without a public address,
//! signed as ever, and what it answers is the attempt's outcome; through kills and restarts of either end.

mod support;

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{
    Daemon, Receiver, Reply, Request, SOON, Stage, free_port, poll, python_receiver, register, signature, tenant_key,
    text,
};

/// A client of a stream; killed with its handle.
struct Listener {
    child: Child,
    folder: tempfile::TempDir,
}

impl Listener {
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let file = |name: &str| File::create(folder.path().join(name)).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_webhookd"));
        command.arg("listen").args(args).envs(environment.iter().copied()).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self { child: command.spawn().expect("the binary"), folder }
    }

    /// With a tenant's key, over TCP.
    fn of(stage: &Stage, args: &[&str]) -> Self {
        let (url, key) = (stage.daemon.base_url(), tenant_key(&stage.daemon, "acme"));
        Self::start(args, &[("WEBHOOKD_URL", &url), ("WEBHOOKD_TOKEN", &key.token)])
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).expect("text")
    }

    /// What it prints, once there are this many lines.
    fn lines(&self, count: usize) -> Vec<String> {
        let lines = || self.read("out").lines().map(str::to_owned).collect::<Vec<_>>();
        let found = poll(SOON, || Some(lines()).filter(|lines| lines.len() >= count));
        found.unwrap_or_else(|| panic!("{count} lines in {:?}, {}", lines(), self.read("err")))
    }

    /// Webhook and secret, as they are told at the start.
    fn begun(&self) -> (String, String) {
        let lines = self.lines(2);
        let webhook = lines[0].strip_prefix("listening: ").and_then(|rest| rest.split(' ').next()).expect("a webhook");
        (webhook.to_owned(), lines[1].strip_prefix("secret: ").expect("a secret").to_owned())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a process to signal");
    }

    fn wait_end(&mut self) -> Option<i32> {
        poll(SOON, || self.child.try_wait().expect("a child to look at")).expect("an end").code()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Both signatures of lemon's dialect hold.
fn verified(request: &Request, secret: &str) {
    let header =
        |name: &str| request.header(name).unwrap_or_else(|| panic!("{name} in {:?}", request.headers)).to_owned();
    let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
    assert_eq!(header("webhook-signature"), signature::standard(secret, &id, &at, &request.body));
    let lemon = signature::lemon(secret, at.parse().expect("seconds"), &request.body);
    assert_eq!(header("lmg-signature"), lemon);
}

const QUICK: &str = "[plans.quick]\ndelays = [\"200ms\", \"200ms\", \"200ms\"]\njitter = 0.0";

fn order(n: u32) -> Value {
    json!({"type": "order.updated", "tenant": "acme", "data": {"n": n}})
}

#[test]
fn the_seed_s_flask_receiver_verifies_what_comes_down_the_stream() {
    let stage = Stage::start(Daemon::builder());
    let port = free_port().to_string();
    let to = format!("http://127.0.0.1:{port}/webhook");
    let listener =
        Listener::of(&stage, &["--forward-to", &to, "--dialect", "vibe", "--events", "order.updated,position.*"]);
    let (webhook, secret) = listener.begun();
    let flask = python_receiver("flask_seed.py", &[("WEBHOOK_SECRET", &secret), ("PORT", &port)]);
    let event = stage.publish(&order(1));
    stage.publish(&json!({"type": "signal.generated", "tenant": "acme"}));
    assert_eq!(flask.wait_for(1, SOON), [json!({"handled": "order.updated", "data": {"n": 1}})]);
    let told = stage.explained(&text(&event, "id"), |part| part["state"] == "delivered");
    assert_eq!((&told["webhook"], &told["dialect"]), (&json!(webhook), &json!("vibe")));
    let attempt = &stage.attempts(&webhook, 1)[0];
    assert_eq!((&attempt["status"], &attempt["class"]), (&json!(200), &Value::Null));
    assert!(text(attempt, "response_excerpt").contains("success"), "{attempt}");
    assert!(text(attempt, "remote_addr").starts_with("127.0.0.1:"), "{attempt}");
    let line = &listener.lines(3)[2];
    assert!(line.contains(" order.updated evt_") && line.contains(" #1 ") && line.ends_with(" ms 200"), "{line}");
    assert!(stage.attempts(&webhook, 1).len() == 1, "what it did not ask for stays away");
}

#[test]
fn a_local_receiver_that_fails_is_tried_again_as_any_other() {
    let stage = Stage::start(Daemon::builder().extra(QUICK).set_text("retry.default", "quick"));
    let receiver = Receiver::with(|request| match request.number {
        0 => Reply::status(503).header("retry-after", "1"),
        1 => Reply::status(500).body("not yet"),
        _ => Reply::status(204),
    });
    let listener = Listener::of(&stage, &["--forward-to", &receiver.url("/in?x=1"), "--json"]);
    let begun: Value = serde_json::from_str(&listener.lines(1)[0]).expect("JSON");
    let (webhook, secret) = (text(&begun["listening"], "id"), text(&begun["listening"], "signature_secret"));
    let event = text(&stage.publish(&order(1)), "id");
    let requests = receiver.wait_for(3, SOON);
    for (n, request) in requests.iter().enumerate() {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/in?x=1"));
        assert_eq!(request.header("webhook-attempt"), Some((n + 1).to_string().as_str()));
        assert_eq!(request.header("webhook-id"), Some(event.as_str()));
        verified(request, &secret);
    }
    let attempts = stage.attempts(&webhook, 3);
    let statuses: Vec<_> = attempts.iter().map(|attempt| attempt["status"].as_u64().expect("a status")).collect();
    assert_eq!(statuses, [503, 500, 204]);
    assert_eq!(text(&attempts[1], "response_excerpt"), "not yet");
    assert!(requests[1].at.duration_since(requests[0].at) >= Duration::from_millis(950), "Retry-After counts");
    let lines: Vec<Value> =
        listener.lines(4)[1..].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.iter().all(|line| line["recorded"] == true && line["event"] == event.as_str()), "{lines:?}");
}

#[test]
fn a_receiver_that_is_not_there_is_a_failed_connection() {
    let stage = Stage::start(Daemon::builder().extra(QUICK).set_text("retry.default", "quick"));
    let to = format!("http://127.0.0.1:{}/", free_port());
    let listener = Listener::of(&stage, &["--forward-to", &to]);
    let (webhook, _) = listener.begun();
    stage.publish(&order(1));
    let attempt = &stage.attempts(&webhook, 1)[0];
    assert_eq!((&attempt["class"], &attempt["status"]), (&json!("connect"), &Value::Null));
    assert!(text(attempt, "error").contains("refused"), "{attempt}");
    assert!(listener.lines(3)[2].contains("refused"));
}

#[test]
fn deliveries_wait_for_a_listener_that_was_killed_and_go_on_with_the_next() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let to = receiver.url("/");
    let mut first = Listener::of(&stage, &["--forward-to", &to]);
    let (webhook, secret) = first.begun();
    stage.publish(&order(1));
    receiver.wait_for(1, SOON);
    first.child.kill().expect("a process to kill");
    first.wait_end();
    let path = format!("/v1/webhooks/{webhook}");
    let event = text(&stage.publish(&order(2)), "id");
    // The end may have been noticed while this was on its way: then that attempt has failed, and its next one waits.
    let told =
        stage.explained(&event, |part| part["webhook"] == webhook.as_str() && part["waiting_for"]["what"] == "paused");
    assert!(text(&told["waiting_for"], "rule").contains("webhookd listen"), "{told}");
    receiver.stays_at(1, Duration::from_millis(300));
    let mut second = Listener::of(&stage, &["--forward-to", &to, "--resume", &webhook]);
    let requests = receiver.wait_for(2, SOON);
    assert_eq!(requests[1].header("webhook-id"), Some(event.as_str()));
    verified(&requests[1], &secret);
    assert_eq!(stage.owner.get(&path).expect(200).json()["url"], "stream:");
    // Who stops listening leaves nothing behind.
    second.signal(Signal::INT);
    assert_eq!(second.wait_end(), Some(0));
    stage.owner.get(&path).expect(404);
    let mut third = Listener::of(&stage, &["--forward-to", &to, "--resume", &webhook]);
    assert_eq!(third.wait_end(), Some(1));
    assert!(third.read("err").contains("Listen again"), "{}", third.read("err"));
}

#[test]
fn a_listener_outlives_the_daemon_s_restart() {
    let mut stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let listener = Listener::of(&stage, &["--forward-to", &receiver.url("/")]);
    let (webhook, _) = listener.begun();
    stage.publish(&order(1));
    receiver.wait_for(1, SOON);
    let started = std::time::Instant::now();
    stage.daemon.restart();
    assert!(started.elapsed() < Duration::from_secs(8), "a stream does not hold up a stop");
    let event = text(&stage.publish(&order(2)), "id");
    assert_eq!(receiver.wait_for(2, SOON)[1].header("webhook-id"), Some(event.as_str()));
    stage.explained(&event, |part| part["webhook"] == webhook.as_str() && part["state"] == "delivered");
    assert!(listener.read("err").contains("connecting again"));
    stage.daemon.kill9();
    stage.daemon.start();
    stage.publish(&order(3));
    receiver.wait_for(3, SOON);
}

#[test]
fn a_listener_works_over_the_admin_socket_and_beside_others() {
    let stage = Stage::start(Daemon::builder());
    let (receiver, ordinary) = (Receiver::ok(), Receiver::ok());
    register(&stage.owner, &json!({"url": ordinary.url("/"), "events": ["*"]}));
    let config = stage.daemon.config();
    let to = receiver.url("/");
    let args = ["--forward-to", &to, "--tenant", "acme", "--config", config.to_str().expect("a path")];
    let listener = Listener::start(&args, &[]);
    let (webhook, _) = listener.begun();
    for n in 0..200 {
        stage.publish(&order(n));
    }
    let mut got: Vec<_> = receiver.wait_for(200, SOON).iter().map(|request| request.text()).collect();
    ordinary.wait_for(200, SOON);
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 200, "each once");
    assert_eq!(stage.attempts(&webhook, 100)[0]["remote_addr"], Value::Null);
    let mut refused = Listener::start(&["--forward-to", &to, "--config", config.to_str().expect("a path")], &[]);
    assert_eq!(refused.wait_end(), Some(1));
    assert!(refused.read("err").contains("tenant is required"), "{}", refused.read("err"));
}
