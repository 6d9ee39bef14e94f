//! Backups as an operator makes them: the real binary, under load, taken, cut off, restored on a second state folder, and the
//! sealing key changed.
//!
//!     SECONDS=30 cargo test --release --test backup g01_ -- --nocapture      (the figures of a longer run)

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Daemon, Receiver, Reply, SOON, Stage, StopOnDrop, poll, signature, text};

#[path = "backup/refusals.rs"]
mod refusals;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_webhookd"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end: exit code, and what it wrote.
fn webhookd(args: &[&str]) -> (Option<i32>, String) {
    let done = command(args).output().expect("the binary");
    let told = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (done.status.code(), told)
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let (code, told) = webhookd(args);
    assert_eq!(code, Some(0), "{args:?}:\n{told}");
    told
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path")
}

#[track_caller]
fn back_up(daemon: &Daemon, to: &Path) -> String {
    succeeds(&["backup", "--config", utf8(&daemon.config()), "--to", utf8(to)])
}

fn key_file(daemon: &Daemon) -> std::path::PathBuf {
    daemon.folder().join("state/webhookd.key")
}

/// A second daemon, made from a backup of the first, and ready.
fn restored(backup: &Path, key: &Path) -> Daemon {
    let mut daemon = Daemon::builder().prepare();
    let state = daemon.folder().join("state");
    let told = succeeds(&["restore", "--from", utf8(backup), "--state-dir", utf8(&state), "--key-file", utf8(key)]);
    assert!(told.contains("let the daemon find the key file"), "{told}");
    fs::copy(key, state.join("webhookd.key")).expect("the key file");
    daemon.start();
    daemon
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// What publishers got acknowledged.
#[derive(Default)]
struct Acknowledged {
    ids: Mutex<Vec<String>>,
    count: AtomicUsize,
}

impl Acknowledged {
    fn all(&self) -> Vec<String> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, client: &Client, stop: &AtomicBool) {
        let mut connection = client.open().expect("a connection");
        while !stop.load(Ordering::SeqCst) {
            let one = json!({"type": "load.event", "tenant": "acme", "data": {"text": "x".repeat(300)}});
            let body = json!({"events": [one, one, one, one]}).to_string();
            let answer = connection.send("POST", "/v1/events/batch", &[], body).expect("an answer");
            if answer.status != 201 {
                assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let made = answer.json()["events"]
                .as_array()
                .expect("events")
                .iter()
                .map(|event| text(event, "id"))
                .collect::<Vec<_>>();
            self.count.fetch_add(made.len(), Ordering::SeqCst);
            self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(made);
        }
    }

    /// Events a second over a while in which `meanwhile` is done again and again.
    fn rate(&self, span: Duration, mut meanwhile: impl FnMut()) -> f64 {
        let (started, before) = (Instant::now(), self.count.load(Ordering::SeqCst));
        while started.elapsed() < span {
            meanwhile();
        }
        (self.count.load(Ordering::SeqCst) - before) as f64 / started.elapsed().as_secs_f64()
    }
}

/// Which deliveries a store knows as what: event → state.
fn states(client: &Client, webhook: &str, events: &[String]) -> BTreeMap<String, String> {
    let state = |event: &String| {
        let explained = client.get(&format!("/v1/events/{event}/explain")).expect(200).json();
        let all = explained["deliveries"].as_array().expect("deliveries").clone();
        let one = all.into_iter().find(|delivery| delivery["webhook"] == webhook).expect("the delivery");
        (event.clone(), text(&one, "state"))
    };
    events.iter().map(state).collect()
}

#[test]
fn g01_a_backup_under_load_has_all_that_was_acknowledged_before_it() {
    let plans = "[plans.once]\ndelays = []\n[plans.long]\ndelays = [\"1h\"]";
    let mut stage = Stage::start(Daemon::builder().set("circuit.failures", "0").extra(plans));
    let arrived = Arc::new(Mutex::new(Vec::<String>::new()));
    let book = arrived.clone();
    let receiver = Receiver::forgetful(move |request| {
        let id = request.header("webhook-id").expect("an id").to_owned();
        book.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        Reply::ok()
    });
    let failing = Receiver::forgetful(|_| Reply::status(500));
    let hook = stage.register(&json!({"url": receiver.url("/"), "events": ["load.*"]}));
    let [dead, waiting] = [("once", "first.dead"), ("long", "first.waiting")].map(|(plan, kind)| {
        stage.register(&json!({"url": failing.url("/"), "events": [kind], "plan": plan}));
        text(&stage.publish(&json!({"type": kind, "tenant": "acme"})), "id")
    });
    stage.explained(&dead, |delivery| delivery["state"] == "dead");
    stage.explained(&waiting, |delivery| delivery["waiting_for"]["what"] == "backoff");

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let backup = folder.path().join("under-load.backup");
    let (before, first) = backed_up_under_load(&stage, folder.path(), &backup);
    assert!(stage.daemon.term().success());

    arrived.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut second = restored(&backup, &key_file(&stage.daemon));
    let (owner, publisher) = (stage.owner.at(second.address()), stage.publisher.at(second.address()));
    let webhooks = owner.get("/v1/webhooks").expect(200).json();
    assert_eq!(webhooks["data"].as_array().map(Vec::len), Some(3), "the tenant's key opens what it opened");
    has_all(&second, &owner, &before);
    let hook_id = text(&hook, "id");
    assert!(states(&owner, &hook_id, &first).values().all(|state| state == "delivered"), "as it was before the backup");
    let letters = owner.get("/v1/dead-letters").expect(200).json();
    assert_eq!(letters["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(owner.get(&format!("/v1/events/{waiting}")).expect(200).json()["type"], "first.waiting");
    let again = sent_again(&publisher, &arrived);
    assert!(first.iter().all(|event| !again.contains(event)), "known as delivered");
    signed(&owner, &publisher, &text(&hook, "signature_secret"), &hook_id);
    assert!(second.term().success());
    succeeds(&["store", "check", "--state-dir", utf8(&second.folder().join("state"))]);
}

/// Publishes all the while, with and without backups, and makes one; gives what was acknowledged when it began, and some of that
/// which had been delivered by then. `SECONDS`: how long each rate is measured.
fn backed_up_under_load(stage: &Stage, folder: &Path, backup: &Path) -> (Vec<String>, Vec<String>) {
    let seconds = std::env::var("SECONDS").map_or(2, |text| text.parse().expect("a number"));
    let span = Duration::from_secs(seconds);
    let (acknowledged, stop) = (Acknowledged::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Also when something fails: otherwise nobody would learn of it.
        let stopping = StopOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| acknowledged.publish(&stage.publisher, &stop));
        }
        let pause = || std::thread::sleep(Duration::from_millis(20));
        let rates = [0, 1].map(|round| {
            let alone = acknowledged.rate(span, pause);
            let mut copies = 0;
            let beside = acknowledged.rate(span, || {
                copies += 1;
                back_up(&stage.daemon, &folder.join(format!("{round}-{copies}.backup")));
            });
            println!("{alone:.0} events a second, {beside:.0} beside {copies} backups: {:.2}", beside / alone);
            beside / alone
        });
        assert!(rates.iter().any(|rate| *rate > 0.5), "publishing goes on: {rates:?}");
        let first: Vec<String> = acknowledged.all().into_iter().take(20).collect();
        first.iter().for_each(|event| {
            stage.explained(event, |delivery| delivery["state"] == "delivered");
        });
        let before = acknowledged.all();
        let told = back_up(&stage.daemon, backup);
        assert!(told.contains(utf8(&key_file(&stage.daemon))), "it names the other half: {told}");
        drop(stopping);
        (before, first)
    })
}

/// What arrives until a new event does: what was delivered after the copy goes out again, what was delivered before does not.
fn sent_again(publisher: &Client, arrived: &Mutex<Vec<String>>) -> HashSet<String> {
    let made = publisher.post("/v1/events", &json!({"type": "load.after", "tenant": "acme"})).expect(201).json();
    let new = text(&made, "id");
    let seen = poll(SOON, || {
        let seen = arrived.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.contains(&new).then_some(seen)
    });
    seen.expect("the new event").into_iter().collect()
}

/// Every event of the list is there: some of them looked at, all of them counted.
fn has_all(daemon: &Daemon, owner: &Client, events: &[String]) {
    for event in events.iter().step_by(events.len().div_ceil(300)).chain(events.last()) {
        owner.get(&format!("/v1/events/{event}")).expect(200);
    }
    let stats = daemon.admin().get("/admin/stats").expect(200).json();
    let accepted = stats["events"]["accepted"].as_u64().expect("a count");
    assert!(accepted as usize >= events.len() + 2, "{accepted} of {}", events.len());
}

/// The webhook's requests are signed with `secret`.
fn signed(owner: &Client, publisher: &Client, secret: &str, webhook: &str) {
    let to = Receiver::ok();
    owner.patch(&format!("/v1/webhooks/{webhook}"), &json!({"url": to.url("/"), "events": ["signed.*"]})).expect(200);
    publisher.post("/v1/events", &json!({"type": "signed.one", "tenant": "acme"})).expect(201);
    let request = to.wait_for(1, SOON).remove(0);
    let header = |name: &str| request.header(name).expect("a header").to_owned();
    let wanted = signature::standard(secret, &header("webhook-id"), &header("webhook-timestamp"), &request.body);
    assert_eq!(header("webhook-signature"), wanted);
}

#[test]
fn a_new_sealing_key_loses_nothing_and_ends_the_old_one() {
    let mut stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let hook = stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    receiver.wait_for(1, SOON);
    let state = stage.daemon.folder().join("state");
    let (code, told) = webhookd(&["reseal", "--state-dir", utf8(&state)]);
    assert_eq!(code, Some(75), "while it runs: {told}");
    // Killed, so that the log of the store counts.
    stage.daemon.kill9();
    let old = fs::read_to_string(key_file(&stage.daemon)).expect("a key");
    let told = succeeds(&["reseal", "--state-dir", utf8(&state)]);
    assert!(told.contains("sealed with the new key") && told.contains("webhookd.key.old"), "{told}");
    assert_ne!(fs::read_to_string(key_file(&stage.daemon)).expect("a key"), old);
    stage.daemon.start();
    signed(&stage.owner, &stage.publisher, &text(&hook, "signature_secret"), &text(&hook, "id"));

    // Two files that were handed over, the way credentials are.
    assert!(stage.daemon.term().success());
    let [from, to] = ["from.key", "to.key"].map(|name| stage.daemon.folder().join(name));
    fs::rename(key_file(&stage.daemon), &from).expect("the key");
    fs::write(&to, "5a".repeat(32)).expect("a key");
    let given = ["--old-key-file", utf8(&from), "--new-key-file", utf8(&to)];
    let args = [&["reseal", "--state-dir", utf8(&state)][..], &given].concat();
    let (code, told) = webhookd(&args);
    assert!(code == Some(78) && told.contains("chmod 600"), "{told}");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("a mode");
    succeeds(&args);
    assert!(succeeds(&args).contains("already"), "again");
    fs::copy(&from, key_file(&stage.daemon)).expect("the old key");
    stage.daemon.spawn();
    assert_eq!(stage.daemon.wait_end().code(), Some(78), "the old key is of no use");
    fs::remove_file(key_file(&stage.daemon)).expect("the old key");
    fs::rename(&to, key_file(&stage.daemon)).expect("the new key");
    stage.daemon.start();
    signed(&stage.owner, &stage.publisher, &text(&hook, "signature_secret"), &text(&hook, "id"));
}
