//! `store check` and `store compact`: what they say of a store that is whole, in use, damaged, killed; and that nothing of it
//! changes, or nothing that counts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Daemon, Receiver, Reply, SOON, Stage, poll, text};
use super::{Ran, says, webhookd};

/// Published in all.
const EVENTS: u64 = 400;

/// A daemon whose store has seen deliveries that went through, and some that wait to be tried again.
fn lived() -> (Stage, Receiver) {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let failing = Receiver::with(|_| Reply::status(500));
    let often = stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let rare = json!({"url": failing.url("/"), "events": ["rare"]});
    let failing_id = stage.register(&rare)["id"].as_str().expect("an id").to_owned();
    for from in (0..EVENTS).step_by(100) {
        let events: Vec<Value> = (from..from + 100)
            .map(|n| json!({"type": if n % 100 == 0 { "rare" } else { "often" }, "tenant": "acme", "data": {"n": n}}))
            .collect();
        stage.publisher.post("/v1/events/batch", &json!({"events": events})).expect(201);
    }
    receiver.wait_for(usize::try_from(EVENTS).expect("a count"), SOON);
    stage.attempts(&failing_id, usize::try_from(EVENTS / 100).expect("a count"));
    // What the spool alone knows is written by whoever opens the store next, and not seen by who only reads it.
    let stats = format!("/v1/webhooks/{}/stats", often["id"].as_str().expect("an id"));
    let settled = || (stage.owner.get(&stats).expect(200).json()["pending"] == 0).then_some(());
    poll(SOON, settled).expect("all that was received on record");
    (stage, receiver)
}

fn state(stage: &Stage) -> PathBuf {
    stage.daemon.folder().join("state")
}

fn store(command: &str, folder: &Path, more: &[&str]) -> Ran {
    let folder = folder.to_str().expect("a path");
    webhookd(&[&["store", command, "--state-dir", folder], more].concat()).run()
}

/// What the files of a state folder hold.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the state folder").map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| entry.file_type().expect("its type").is_file())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file")))
        .collect()
}

#[test]
fn check_reads_a_store_that_is_closed_or_was_killed_and_changes_nothing() {
    let (mut stage, _receiver) = lived();
    let folder = state(&stage);
    says(&store("check", &folder, &[]).ends(75).err, &["is open in another process", "systemctl stop webhookd"]);
    says(&store("compact", &folder, &[]).ends(75).err, &["is open in another process"]);
    stage.daemon.kill9();
    for killed in [true, false] {
        let before = files(&folder);
        let told = store("check", &folder, &[]).ends(0).out;
        says(&told, &["all is well", &format!("{EVENTS} events")]);
        let report = store("check", &folder, &["--json"]).ends(0).json();
        let deliveries = &report["deliveries"];
        let sum: u64 =
            ["pending", "delivered", "dead", "cancelled"].iter().filter_map(|state| deliveries[*state].as_u64()).sum();
        assert_eq!((&report["clean"], &report["events"], sum), (&json!(true), &json!(EVENTS), EVENTS + 4));
        assert_eq!(&report["findings"], &json!([]));
        assert!(files(&folder) == before, "a check changes nothing");
        if killed {
            stage.daemon.start();
            assert!(stage.daemon.term().success());
        }
    }
}

#[test]
fn a_damaged_store_is_named_and_refused_by_all_commands() {
    let (mut stage, _receiver) = lived();
    assert!(stage.daemon.term().success());
    let (folder, path) = (state(&stage), state(&stage).join("webhookd.redb"));
    let image = fs::read(&path).expect("the store");
    // Inside the text of an event.
    let at = image.windows(6).position(|part| part == b"{\"n\":7").expect("an event's data");
    let mut damaged = image.clone();
    damaged[at + 5] = b'8';
    fs::write(&path, &damaged).expect("writing it");
    let told = store("check", &folder, &[]).ends(78).out;
    says(&told, &["events at ", "the record is not as it was written", "is damaged", "restore a backup"]);
    let report = store("check", &folder, &["--json"]).ends(78).json();
    let found = report["findings"].as_array().expect("findings").iter().any(|finding| finding["table"] == "events");
    assert!(found && report["clean"] == false, "{report}");
    says(&store("compact", &folder, &[]).ends(78).err, &["events at ", "nothing was changed"]);
    assert!(fs::read(&path).expect("the store") == damaged, "a damaged store is left alone");

    // A start reads what is newest, which all of this small store is.
    stage.daemon.spawn();
    assert_eq!(stage.daemon.wait_end().code(), Some(78));
    says(&stage.daemon.log(), &["the store is damaged: events at ", "webhookd store check"]);

    fs::write(&path, &image[..image.len() / 2]).expect("writing it");
    says(&store("check", &folder, &[]).ends(78).out, &["pages: ", "is damaged"]);
    fs::write(&path, b"").expect("writing it");
    says(&store("check", &folder, &[]).ends(78).out, &["the file is empty"]);
    fs::remove_file(&path).expect("removing it");
    says(&store("check", &folder, &[]).ends(78).err, &["there is none"]);
    says(&store("compact", &folder, &[]).ends(78).err, &["there is none"]);
    assert!(!path.exists(), "nothing makes a store in its place");
}

#[test]
fn damage_under_a_running_daemon_costs_only_the_requests_that_need_it() {
    let stage = Stage::start(Daemon::builder().set_text("store.cache", "1MiB"));
    let pad = "x".repeat(20_000);
    let ids: Vec<String> = (0..300)
        .map(|n| text(&stage.publish(&json!({"type": "a", "tenant": "acme", "data": {"n": n, "pad": pad}})), "id"))
        .collect();
    let path = state(&stage).join("webhookd.redb");
    // Until a checkpoint has written it.
    let at = poll(SOON, || fs::read(&path).expect("the store").windows(7).position(|part| part == b"{\"n\":5,"));
    let file = fs::OpenOptions::new().write(true).open(&path).expect("the store");
    file.write_all_at(b"6", at.expect("an event's data") as u64 + 5).expect("writing it");
    let read = |id: &String| stage.owner.get(&format!("/v1/events/{id}"));
    let told = read(&ids[5]);
    assert_eq!((told.status, &told.json()["code"]), (500, &json!("store_damaged")), "{}", told.text());
    for (number, id) in ids.iter().enumerate().filter(|(number, _)| *number != 5) {
        let answer = read(id);
        // Its neighbours may share its block.
        let near = number.abs_diff(5) < 5 && answer.status == 500;
        assert!(near || answer.expect(200).json()["data"]["n"] == number, "event {number}");
    }
    stage.publish(&json!({"type": "a", "tenant": "acme", "data": {}}));
    says(&stage.daemon.log(), &["the store is damaged: events at ", "webhookd store check"]);
    let metrics = stage.daemon.admin().get("/metrics").expect(200).text();
    assert!(!metrics.contains("webhookd_store_damage_total 0"), "{metrics}");
}

#[test]
fn compacting_gives_room_back_and_keeps_everything() {
    let (mut stage, receiver) = lived();
    stage.daemon.kill9();
    let folder = state(&stage);
    let before = store("check", &folder, &["--json"]).ends(0).json();
    let length = || fs::metadata(folder.join("webhookd.redb")).expect("the store").len();
    let long = length();
    let sizes = store("compact", &folder, &["--json"]).ends(0).json();
    assert_eq!((&sizes["bytes_before"], &sizes["bytes_after"]), (&json!(long), &json!(length())));
    assert!(length() <= long, "{sizes}");
    assert_eq!(store("check", &folder, &["--json"]).ends(0).json(), before);
    says(&store("compact", &folder, &[]).ends(0).out, &["webhookd.redb", " before, ", " now"]);
    stage.daemon.start();
    let listed = stage.owner.get("/v1/events?limit=100").expect(200).json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(100));
    assert_eq!(receiver.requests().len() as u64, EVENTS, "nothing is delivered again");
}

#[test]
fn a_compaction_that_is_killed_leaves_the_store_as_it_was() {
    let (mut stage, _receiver) = lived();
    stage.daemon.kill9();
    let folder = state(&stage);
    let wanted = store("check", &folder, &["--json"]).ends(0).json();
    let whole = files(&folder);
    let path = folder.to_str().expect("a path").to_owned();
    let mut unfinished = 0;
    for wait_ms in (0..120).step_by(6) {
        for (name, content) in &whole {
            fs::write(folder.join(name), content).expect("a file");
        }
        let mut shell = webhookd(&["store", "compact", "--state-dir", &path]);
        let mut child = shell.spawn();
        std::thread::sleep(Duration::from_millis(wait_ms));
        drop(child.kill());
        let ended = poll(SOON, || child.try_wait().expect("a child to look at")).expect("its end");
        unfinished += usize::from(!ended.success());
        assert_eq!(store("check", &folder, &["--json"]).ends(0).json(), wanted, "killed after {wait_ms} ms");
    }
    assert!(unfinished > 3, "only {unfinished} were killed in time");
    fs::write(folder.join("webhookd.redb.compact"), b"half a copy").expect("a file");
    stage.daemon.start();
    assert!(!folder.join("webhookd.redb.compact").exists(), "what a killed compaction left is removed");
}
