//! Starts that are refused: with which exit code, in which words, and with nothing on disk changed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::support::{Authority, Certificate, Daemon, Receiver, SOON, Stage, poll};
use super::{refused, says, webhookd};

fn store_of(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("state/webhookd.redb")
}

fn key_of(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("state/webhookd.key")
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

/// A stopped daemon whose store holds a webhook and a delivered event.
fn used() -> Daemon {
    let mut stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    receiver.wait_for(1, SOON);
    assert!(stage.daemon.term().success());
    stage.daemon
}

#[test]
fn usage_is_64_and_help_is_0() {
    for args in [&["serfe"][..], &["serve", "--confg", "x"], &[], &["check", "surplus"]] {
        let (code, told) = webhookd(args);
        assert_eq!(code, 64, "{args:?}: {told}");
        says(&told, &["Usage: webhookd"]);
    }
    for args in [&["--help"][..], &["serve", "--help"], &["--version"], &["version"]] {
        assert_eq!(webhookd(args).0, 0, "{args:?}");
    }
}

#[test]
fn a_good_configuration_is_checked_with_0() {
    let daemon = Daemon::builder().prepare();
    let config = daemon.config();
    let (code, told) = webhookd(&["check", "--config", shown(&config)]);
    assert_eq!(code, 0, "{told}");
    says(&told, &[shown(&config), "all is well"]);
    let (code, told) = webhookd(&["check", "--quiet", "--config", shown(&config)]);
    assert_eq!((code, told.as_str()), (0, ""));
    assert!(!daemon.folder().join("state").exists(), "a check makes nothing");
}

#[test]
fn f_every_mistake_is_told_at_once_with_its_line_and_what_was_meant() {
    let mut daemon = Daemon::builder().prepare();
    let config = daemon.config();
    let mut text = fs::read_to_string(&config).expect("a configuration");
    let first = text.lines().count() + 1;
    text.push_str(
        "[retension]\nevents = \"30d\"\n\n[limits]\nwebhooks_per_tenant = \"many\"\n\n[circuit]\nprobe_first = \"30\"\n\
         failurs = 5\n",
    );
    fs::write(&config, text).expect("writing the configuration");
    let (code, told) = webhookd(&["check", "--config", shown(&config)]);
    assert_eq!(code, 78, "{told}");
    let at = |line: usize| format!("{}:{line}:", config.display());
    let lines: Vec<&str> = told.lines().collect();
    let problems = [
        (0, "retension", "did you mean retention?"),
        (4, "limits.webhooks_per_tenant", "\"many\""),
        (7, "circuit.probe_first", "\"30\""),
        (8, "circuit.failurs", "did you mean circuit.failures?"),
    ];
    for (number, (line, key, advice)) in problems.into_iter().enumerate() {
        says(lines[number], &[&at(first + line), key, advice]);
    }
    assert_eq!(lines[4..], ["4 problems in the configuration"]);
    assert_eq!(refused(&mut daemon, 78), told, "serve says the same");
    assert!(!daemon.folder().join("state").exists(), "nothing is made");
}

#[test]
fn a_tls_listener_without_certificate_is_refused_with_advice() {
    let mut daemon = Daemon::builder().set("server.listen", "[\"127.0.0.1:0\"]").prepare();
    let told = refused(&mut daemon, 78);
    says(&told, &["server.listen", "server.tls.cert", "server.tls.key", "plaintext_listen", "serve --dev"]);
    let (code, checked) = webhookd(&["check", "--config", shown(&daemon.config())]);
    assert_eq!((code, checked), (78, told));
}

/// `serve --dev` with its scratch folder below `folder`, on ports of its own.
fn dev(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_webhookd"));
    let any = "[\"127.0.0.1:0\"]";
    command.args(["serve", "--dev"]).env("TMPDIR", folder).current_dir(folder).stdout(Stdio::null());
    command.env("WEBHOOKD_SERVER__LISTEN", any).env("WEBHOOKD_SERVER__PLAINTEXT_LISTEN", any);
    command
}

#[test]
fn a_second_development_mode_leaves_the_first_as_it_is() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let env = folder.path().join("webhookd-dev/env");
    let mut first = dev(folder.path()).stderr(Stdio::null()).spawn().expect("the binary");
    let made = poll(SOON, || fs::read_to_string(&env).ok().filter(|text| text.contains("DEMO_FOLDER")));
    let mut second = dev(folder.path()).stderr(Stdio::piped()).spawn().expect("the binary");
    let ended = poll(SOON, || second.try_wait().expect("a child"));
    drop(second.kill());
    let told = second.wait_with_output().expect("its end").stderr;
    let (told, left) = (String::from_utf8_lossy(&told), fs::read_to_string(&env).ok());
    first.kill().expect("its end");
    first.wait().expect("its end");
    assert!(made.is_some() && left == made, "{left:?}");
    assert_eq!(ended.and_then(|status| status.code()), Some(75), "{told}");
    says(&told, &["runs already", "webhookd-dev", "stop it first"]);
    // A lock ends with its process, however that ended.
    let mut third = dev(folder.path()).stderr(Stdio::null()).spawn().expect("the binary");
    let anew = poll(SOON, || fs::read_to_string(&env).ok().filter(|text| Some(text) != made.as_ref()));
    third.kill().expect("its end");
    third.wait().expect("its end");
    assert!(anew.is_some_and(|text| !text.is_empty()), "the folder of one that is gone is used again");
}

#[test]
fn f_a_world_readable_private_key_is_refused() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let (chain, private) = Authority::new().issue(Certificate::Good);
    fs::write(&cert, chain).expect("writing the certificate");
    fs::write(&key, private).expect("writing the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    let builder = Daemon::builder().set("server.listen", "[\"127.0.0.1:0\"]");
    let mut daemon =
        builder.set_text("server.tls.cert", shown(&cert)).set_text("server.tls.key", shown(&key)).prepare();
    says(&refused(&mut daemon, 78), &["server.tls.key", shown(&key), "chmod o="]);
}

#[test]
fn f_a_second_process_on_the_same_store_ends_with_75() {
    let stage = Stage::start(Daemon::builder());
    let state = stage.daemon.folder().join("state");
    let mut second = Daemon::builder().set_text("state_dir", shown(&state)).prepare();
    says(&refused(&mut second, 75), &[shown(&store_of(&stage.daemon)), "open in another process"]);

    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    receiver.wait_for(1, SOON);
}

#[test]
fn f_a_damaged_store_is_refused_and_left_as_it_is() {
    let mut daemon = used();
    let store = store_of(&daemon);
    let good = fs::read(&store).expect("a store");
    let (length, key) = (good.len(), fs::read(key_of(&daemon)).expect("a key"));
    let garbage: Vec<u8> =
        (0..length).map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect();
    let damages = [
        ("empty", Vec::new()),
        ("cut to half", good[..length / 2].to_vec()),
        ("cut to 100 bytes", good[..100].to_vec()),
        ("garbage", garbage.clone()),
        ("its beginning garbage", [&garbage[..4096], &good[4096..]].concat()),
        ("all but its beginning garbage", [&good[..4096], &garbage[4096..]].concat()),
        ("text", b"something else\n".repeat(1_000)),
    ];
    for (damage, bytes) in damages {
        fs::write(&store, &bytes).expect("damaging the store");
        let told = refused(&mut daemon, 78);
        says(&told, &[shown(&store), "refused"]);
        assert!(fs::read(&store).expect("a store") == bytes, "{damage}: the file was changed");
    }
    fs::remove_file(&store).expect("removing the store");
    says(&refused(&mut daemon, 78), &[shown(&store), "refused", "it is missing", "webhookd.wal", "restore a backup"]);
    assert!(!store.exists(), "a new store was made");
    fs::write(&store, &good).expect("restoring the store");
    let files = fs::read_dir(store.parent().expect("a folder")).expect("a folder");
    let names: BTreeSet<_> = files.map(|file| file.expect("a file").file_name()).collect();
    let wanted = ["webhookd.key", "webhookd.redb", "webhookd.spool.0", "webhookd.spool.1", "webhookd.wal"];
    assert_eq!(names, wanted.iter().map(Into::into).collect(), "nothing new beside the store");
    assert_eq!(fs::read(key_of(&daemon)).expect("a key"), key);
    daemon.start();
    assert_eq!(daemon.admin().get("/admin/keys").expect(200).json()["data"].as_array().map(Vec::len), Some(2));
}

#[test]
fn f_a_store_without_its_key_is_refused() {
    let mut daemon = used();
    let (store, key) = (store_of(&daemon), key_of(&daemon));
    let good = fs::read(&key).expect("a key");

    fs::remove_file(&key).expect("removing the key");
    says(&refused(&mut daemon, 78), &[shown(&key), "can't be read"]);
    assert!(!key.exists(), "no other key is made");

    fs::write(&key, "f".repeat(64)).expect("another key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    says(&refused(&mut daemon, 78), &[shown(&store), "another key"]);

    fs::write(&key, &good).expect("the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    says(&refused(&mut daemon, 78), &[shown(&key), "chmod 600"]);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    daemon.start();
    assert_eq!(daemon.admin().get("/admin/tenants").expect(200).json()["data"][0]["id"], "acme");
}

#[test]
fn a_state_folder_that_cant_be_made_or_written_is_73() {
    let mut below_a_file = Daemon::builder().set("state_dir", "\"/dev/null/state\"").prepare();
    says(&refused(&mut below_a_file, 73), &["/dev/null/state"]);
    // Nobody can make a file there, not even root.
    let mut unwritable = Daemon::builder().set("state_dir", "\"/proc\"").prepare();
    says(&refused(&mut unwritable, 73), &["/proc/webhookd.key"]);
}

#[test]
fn a_taken_address_is_71_and_named() {
    let first = Daemon::builder().start();
    let address = first.address().to_string();
    let mut second = Daemon::builder().set("server.plaintext_listen", format!("[\"{address}\"]")).prepare();
    says(&refused(&mut second, 71), &[&address, "in use"]);
    first.client().get("/readyz").expect(200);
}
