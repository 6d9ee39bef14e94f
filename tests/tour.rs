//! The sessions in the documents, line by line as they stand there, against `serve --dev`: what a stranger pastes has to work.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use support::pages::{self, Runner};
use support::{poll, signature, virtual_environment};
use tempfile::TempDir;

/// Two minutes for a session that takes ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// What surrounds a session: the daemon, started and ended.
const STAGE: &str = r#"
[ -z "$ALONE" ] || ip link set lo up
"$WEBHOOKD" serve --dev >"$TMPDIR/daemon.log" 2>&1 &
DAEMON=$!
for _ in $(seq 100); do [ -s "$TMPDIR/webhookd-dev/env" ] && break; sleep 0.1; done
bash --norc <"$TMPDIR/tour.sh" >"$TMPDIR/tour.out" 2>"$TMPDIR/tour.err"
kill $DAEMON
wait $DAEMON
echo "$?" >"$TMPDIR/code"
"#;

/// The sessions use fixed ports: where they can't have a network each, they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The lines of a page's session.
fn session(page: &str) -> String {
    let blocks = pages::run_by(Runner::Session);
    blocks.iter().filter(|block| block.page == page).map(|block| block.text.as_str()).collect()
}

/// A command in a network of its own if the system lets us, so that fixed ports are free.
fn shell() -> Command {
    for flags in [&["--net"][..], &["--net", "--map-root-user"]] {
        let mut probe = Command::new("unshare");
        probe.args(flags).args(["ip", "link", "set", "lo", "up"]).stdout(Stdio::null()).stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            let mut command = Command::new("unshare");
            command.args(flags).arg("bash").env("ALONE", "1");
            return command;
        }
    }
    let mut command = Command::new("bash");
    command.env("ALONE", "");
    command
}

/// A session that came to its end without a word on standard error.
struct Played {
    folder: TempDir,
    out: String,
    /// Everything that it wrote, for whoever looks into a failure.
    told: String,
}

impl Played {
    /// A file of the scratch folder.
    fn read(&self, name: &str) -> String {
        read(self.folder.path(), &format!("webhookd-dev/{name}"))
    }
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default()
}

fn play(lines: &str) -> Played {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path();
    std::fs::write(path.join("tour.sh"), lines).expect("writing the session");
    let mut command = shell();
    command.arg("-c").arg(STAGE).current_dir(env!("CARGO_MANIFEST_DIR")).env("TMPDIR", path).stdin(Stdio::null());
    command.env("WEBHOOKD", env!("CARGO_BIN_EXE_webhookd")).env_remove("WEBHOOKD_CONFIG");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a shell");
    let ended = poll(PATIENCE, || child.try_wait().expect("a child to look at"));
    let files = [
        "tour.out",
        "tour.err",
        "webhookd-dev/received",
        "webhookd-dev/receiver.log",
        "webhookd-dev/recorder.log",
        "daemon.log",
    ];
    let told: String = files.iter().map(|name| format!("--- {name}\n{}\n", read(path, name))).collect();
    if ended.is_none() {
        drop(child.kill());
        drop(child.wait());
        panic!("the session does not end:\n{told}");
    }
    assert_eq!(read(path, "code").trim(), "0", "the daemon's end:\n{told}");
    assert_eq!(read(path, "tour.err"), "", "{told}");
    Played { out: read(path, "tour.out"), folder, told }
}

#[test]
fn the_tour_of_the_readme_works_as_it_is_written() {
    virtual_environment();
    let lines = session("README.md");
    assert!(lines.matches("curl ").count() >= 4, "{lines}");
    let played = play(&lines);
    let told = &played.told;
    let received: Vec<Value> =
        played.read("received").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(received.len(), 1, "one event was verified:\n{told}");
    assert_eq!(received[0]["event"]["data"]["orderId"], "4711", "{told}");
    assert_eq!((&received[0]["lemon"], &received[0]["lemon_markets"]), (&Value::Bool(true), &Value::Bool(true)));

    let answers = serde_json::Deserializer::from_str(&played.out).into_iter::<Value>();
    let answers: Vec<Value> = answers.map(|answer| answer.unwrap_or_else(|error| panic!("{error}:\n{told}"))).collect();
    let explained: Vec<&Value> = answers.iter().filter(|answer| answer["deliveries"].is_array()).collect();
    assert_eq!(explained.len(), 2, "explain was asked twice:\n{told}");
    let [before, after] = [explained[0], explained[1]].map(|answer| &answer["deliveries"][0]);
    assert_eq!((&before["state"], &before["attempts"][0]["status"]), (&"delivered".into(), &200.into()), "{told}");
    assert_eq!((&after["state"], &after["attempts"][0]["class"]), (&"pending".into(), &"connect".into()), "{told}");
    assert!(after["waiting_for"].is_object() || after["waiting_for"].is_string(), "{told}");
}

/// A delivery as the recorder wrote it down.
struct Recorded<'a> {
    head: &'a str,
    body: &'a str,
}

impl Recorded<'_> {
    #[track_caller]
    fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.unwrap_or_else(|| panic!("{name} in {}", self.head))
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Fails unless `secret` signed it; the first of its signatures is the newest secret's.
    #[track_caller]
    fn is_signed(&self, secret: &str) {
        let (id, stamp) = (self.header("Webhook-Id"), self.header("Webhook-Timestamp"));
        let newest = self.header("Webhook-Signature").split(' ').next();
        assert_eq!(newest, Some(signature::standard(secret, id, stamp, self.body.as_bytes()).as_str()));
    }
}

/// What the recorder got at each path, in order.
#[track_caller]
fn recorded<'a>(out: &'a str, path: &str) -> Vec<Recorded<'a>> {
    let line = format!("POST {path}\n");
    let found = out.split(&line).skip(1);
    let read = |rest: &'a str| {
        let (head, rest) = rest.split_once("\n\n").expect("the end of the headers");
        Recorded { head, body: rest.lines().next().unwrap_or_default() }
    };
    found.map(read).collect()
}

/// The JSON of each line that is some.
fn answers(out: &str) -> Vec<Value> {
    // `curl` ends no line: answers stand behind one another, and before what follows them.
    let starts = out.match_indices("{\"").filter(|(at, _)| *at == 0 || matches!(&out[at - 1..*at], "\n" | "}"));
    let read = |(at, _)| serde_json::Deserializer::from_str(&out[at..]).into_iter::<Value>().next()?.ok();
    starts.filter_map(read).collect()
}

#[test]
fn the_sessions_of_the_dialects_work_as_they_are_written() {
    let played = play(&session("docs/DIALECTS.md"));
    let (out, told) = (played.out.as_str(), &played.told);
    let answers = answers(out);
    let secrets: Vec<&str> = answers.iter().filter_map(|answer| answer["signature_secret"].as_str()).collect();
    assert_eq!(secrets.len(), 3, "lemon's, Omnia's rotated one, OneMetric's:\n{told}");
    let one = |path: &str| {
        let mut found = recorded(out, path);
        assert_eq!(found.len(), 1, "{path}:\n{told}");
        found.remove(0)
    };

    let lemon = one("/lemon");
    lemon.is_signed(secrets[0]);
    let seconds = lemon.header("Webhook-Timestamp").parse().expect("seconds");
    let signed = signature::lemon(secrets[0], seconds, lemon.body.as_bytes());
    assert_eq!((lemon.header("Lmg-Signature"), lemon.header("Lemon-Markets-Signature")), (&*signed, &*signed));
    assert_eq!(lemon.json()["context"], json!({"account": "cusa_33531f7f801d4ce997747470ab7208fd"}));

    let omnia = one("/omnia");
    omnia.is_signed(secrets[1]);
    assert_eq!(omnia.header("Authorization"), "Bearer mine");
    assert_eq!(
        (&omnia.json()["eventType"], &omnia.json()["data"]["amount"]),
        (&json!("ACCOUNT_ACTIVITY"), &json!(1000.0))
    );

    let vibe = recorded(out, "/vibe");
    assert_eq!(vibe.len(), 2, "{told}");
    for request in &vibe {
        let signed = signature::vibe("your_webhook_secret", request.body.as_bytes());
        assert_eq!(request.header("X-Webhook-Signature"), signed);
    }
    assert_eq!((&vibe[0].json()["event"], &vibe[1].json()["event"]), (&json!("order.updated"), &json!("test")));
    let tried = answers.iter().find(|answer| answer["attemptId"].is_string());
    assert_eq!(tried.expect("the test tool's answer")["success"], true, "{told}");
    let switched_off = |answer: &&Value| answer["active"] == json!(false);
    assert!(answers.iter().any(|answer| switched_off(&answer)), "the signed PUT:\n{told}");

    let onemetric = one("/onemetric");
    assert_eq!(onemetric.header("X-Webhook-Token"), secrets[2]);
    assert_eq!(onemetric.json()["sub_type"], "LOGIN");
    let moved = one("/onemetric-new");
    assert_eq!((moved.header("X-Webhook-Token"), &moved.json()["sub_type"]), (secrets[2], &json!("REFUND")));

    for list in ["data", "webhooks"] {
        let listed: Vec<usize> = answers.iter().filter_map(|answer| answer[list].as_array().map(Vec::len)).collect();
        assert_eq!(listed, [1, 1], "each session lists its own webhook only:\n{told}");
    }
    assert_eq!(out.lines().filter(|line| line.ends_with("204")).count(), 4, "four were deleted:\n{told}");
}
