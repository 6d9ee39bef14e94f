//! What makes no backup and no store: takers that stall or are killed, files that are there, keys that don't fit.

use super::*;

/// A daemon with some MiB in its store.
fn laden() -> Stage {
    let stage = Stage::start(Daemon::builder().set_text("server.body_timeout", "1s"));
    let one = json!({"type": "a", "tenant": "acme", "data": {"text": "x".repeat(200_000)}});
    let body = json!({"events": vec![one; 20]});
    for _ in 0..3 {
        stage.publisher.post("/v1/events/batch", &body).expect(201);
    }
    stage
}

fn kill(mut child: Child) {
    child.kill().expect("a process to kill");
    child.wait().expect("its end");
}

#[test]
fn who_takes_nothing_of_a_backup_loses_it_and_holds_up_nobody() {
    use std::os::unix::net::UnixStream;
    let stage = laden();
    let mut stalled = UnixStream::connect(stage.daemon.folder().join("admin.sock")).expect("the socket");
    stalled.write_all(b"POST /admin/backup HTTP/1.1\r\nhost: d\r\ncontent-length: 0\r\n\r\n").expect("a request");
    let config = stage.daemon.config();
    let args = ["backup", "--config", utf8(&config), "--to", "-"];
    let (code, told) = poll(SOON, || Some(webhookd(&args)).filter(|(code, _)| *code == Some(1))).expect("a refusal");
    assert!(code == Some(1) && told.contains("one at a time"), "{told}");
    stage.publish(&json!({"type": "a", "tenant": "acme"}));
    let lost = poll(SOON, || stage.daemon.log().contains("the backup came to nothing").then_some(()));
    assert!(lost.is_some(), "told in the log: {}", stage.daemon.log());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    // It is free again when that is on record.
    let file = folder.path().join("b");
    let again = || webhookd(&["backup", "--config", utf8(&config), "--to", utf8(&file)]).0 == Some(0);
    assert!(poll(SOON, || again().then_some(())).is_some());
    let audit = stage.daemon.admin().get("/admin/audit?action=backup.*").expect(200).json();
    let outcomes: Vec<&Value> = audit["data"].as_array().expect("records").iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["ok", "cut_off"]);
}

#[test]
fn a_backup_or_restore_that_is_killed_leaves_nothing_and_no_file_is_replaced() {
    let stage = laden();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (file, config) = (folder.path().join("b"), stage.daemon.config());
    for wait in [0, 20, 60] {
        let child = command(&["backup", "--config", utf8(&config), "--to", utf8(&file)]).spawn().expect("the binary");
        std::thread::sleep(Duration::from_millis(wait));
        kill(child);
        if names(folder.path()) == ["b"] {
            // It was quick enough: then it is whole.
            succeeds(&["restore", "--check", "--from", utf8(&file)]);
            fs::remove_file(&file).expect("a file");
        }
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }
    let idle = || stage.daemon.admin().send("POST", "/admin/backup", &[], "").status == 200;
    assert!(poll(SOON, || idle().then_some(())).is_some());
    back_up(&stage.daemon, &file);
    let (code, told) = webhookd(&["backup", "--config", utf8(&config), "--to", utf8(&file)]);
    assert!(code == Some(73) && told.contains("nothing is replaced"), "{told}");
    let checked = succeeds(&["restore", "--check", "--from", utf8(&file)]);
    assert!(checked.contains("a whole backup"), "{checked}");

    // A restore that gets half of it and is killed, or sees its end.
    let bytes = fs::read(&file).expect("the backup");
    let (state, key) = (folder.path().join("state"), key_file(&stage.daemon));
    let args = ["restore", "--from", "-", "--state-dir", utf8(&state), "--key-file", utf8(&key)];
    for killed in [true, false] {
        let mut child = command(&args).stdin(Stdio::piped()).spawn().expect("the binary");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(&bytes[..bytes.len() / 2]).expect("a reader");
        if killed {
            assert!(poll(SOON, || state.exists().then_some(())).is_some());
            kill(child);
        } else {
            drop(input);
            assert_eq!(child.wait().expect("its end").code(), Some(78));
        }
        assert_eq!(names(&state), Vec::<String>::new());
    }
    let mut child = command(&args).stdin(Stdio::piped()).spawn().expect("the binary");
    child.stdin.take().expect("its input").write_all(&bytes).expect("a reader");
    assert!(child.wait().expect("its end").success());
    assert_eq!(names(&state), ["webhookd.redb"]);
    let (code, told) =
        webhookd(&["restore", "--from", utf8(&file), "--state-dir", utf8(&state), "--key-file", utf8(&key)]);
    assert!(code == Some(73) && told.contains("nothing is replaced"), "{told}");
}

#[test]
fn a_restore_asks_for_the_key_and_says_what_is_wrong() {
    let stage = Stage::start(Daemon::builder());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [file, state, wrong] = ["b", "state", "wrong.key"].map(|name| folder.path().join(name));
    back_up(&stage.daemon, &file);
    let restore =
        |more: &[&str]| webhookd(&[&["restore", "--from", utf8(&file), "--state-dir", utf8(&state)], more].concat());
    let (code, told) = restore(&[]);
    assert!(code == Some(78) && told.contains("--key-file names it"), "{told}");
    fs::copy(key_file(&stage.daemon), &wrong).expect("a key");
    let hex = fs::read_to_string(&wrong).expect("a key").chars().rev().collect::<String>();
    fs::write(&wrong, hex.trim()).expect("a key");
    let (code, told) = restore(&["--key-file", utf8(&wrong)]);
    assert!(code == Some(78) && told.contains("another key"), "{told}");
    let mut bytes = fs::read(&file).expect("the backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("the backup");
    let (code, told) = restore(&["--key-file", utf8(&key_file(&stage.daemon))]);
    assert!(code == Some(78) && told.contains("the backup is refused: byte "), "{told}");
    assert_eq!(names(&state), Vec::<String>::new());
    let (code, _) = webhookd(&["restore", "--from", utf8(&file)]);
    assert_eq!(code, Some(64));
    let (code, _) = webhookd(&["restore", "--from", "/nowhere", "--check"]);
    assert_eq!(code, Some(71));
}
