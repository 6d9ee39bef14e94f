//! `doctor`: each kind of trouble, made on purpose, is found and comes with what mends it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::support::{Authority, Certificate, Daemon, Receiver, Reply, SOON, Stage, poll, text};
use super::{of, replace, says, webhookd};

/// What was found about something: level, what and mend.
fn found(told: &Value, about: &str) -> Vec<[String; 3]> {
    let all = told["found"].as_array().expect("a list").iter().filter(|one| one["about"] == about);
    all.map(|one| ["level", "what", "mend"].map(|name| text(one, name))).collect()
}

#[test]
fn a_healthy_daemon_has_no_problems() {
    let daemon = Daemon::builder().start();
    let ran = of(&daemon, &["doctor"]).run();
    // The disk of the machine that runs this may be nearly full, which is trouble of another kind.
    let disk = ran.out.matches("problem: disk space").count();
    let out = ran.ends(i32::from(disk > 0)).out;
    says(&out, &["note: backup: nothing has ever been backed up", "webhookd backup --to FILE", "1 note"]);
    assert_eq!(out.matches("problem:").count(), disk, "{out}");
    let every = "looked at: configuration, state folder, key file, disk space, daemon, store, clock, room, dead letters, \
                 queue, pauses, webhooks, jobs, backup";
    says(&out, &[every]);
    let file = daemon.folder().join("a.backup");
    of(&daemon, &["backup", "--to", file.to_str().expect("a path")]).run().ends(0);
    let told = of(&daemon, &["doctor", "--json"]).run().json();
    assert!(found(&told, "backup").is_empty(), "{told}");
}

#[test]
fn files_that_are_no_good_are_found_without_a_daemon() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("a folder");
    fs::set_permissions(&state, Permissions::from_mode(0o755)).expect("permissions");
    for name in ["webhookd.redb", "webhookd.key"] {
        fs::write(state.join(name), "x").expect("a file");
    }
    fs::set_permissions(state.join("webhookd.key"), Permissions::from_mode(0o644)).expect("permissions");
    let config = folder.path().join("webhookd.toml");
    let socket = folder.path().join("none.sock");
    let write = |more: &str| {
        let text = format!("state_dir = {state:?}\nadmin.socket = {socket:?}\n{more}\n");
        fs::write(&config, text).expect("a file");
    };
    let doctor = || {
        let ran = webhookd(&["doctor", "--json", "--config", config.to_str().expect("a path")]).run();
        ran.ends(1).json()
    };
    let (cert, key) = authority.issue(Certificate::Good);
    let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&cert_file, cert).expect("a file");
    fs::write(&key_file, key).expect("a file");
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).expect("permissions");
    let pair = format!("server.tls.cert = {cert_file:?}\nserver.tls.key = {key_file:?}");
    write(&pair);
    let told = doctor();
    let mend = |about| found(&told, about).first().map(|one| one[2].clone()).unwrap_or_default();
    assert_eq!(mend("state folder"), format!("chmod g-w,o= {}", state.display()));
    assert_eq!(mend("key file"), format!("chmod g-w,o= {}", state.join("webhookd.key").display()));
    says(&mend("daemon"), &["systemctl status webhookd"]);
    says(&found(&told, "daemon")[0][1], &["none.sock", "can't be opened"]);
    assert_eq!(found(&told, "configuration"), Vec::<[String; 3]>::new());

    fs::remove_file(state.join("webhookd.key")).expect("a file");
    says(&found(&doctor(), "key file")[0][1], &["webhookd.key is gone"]);

    write(&format!("{pair}\negress.timeot = \"1s\""));
    let told = doctor();
    says(&found(&told, "configuration")[0][1], &["webhookd.toml:5:", "egress.timeot: unknown key"]);
    assert_eq!(found(&told, "configuration")[0][2], "did you mean egress.timeout?");

    write("");
    says(&found(&doctor(), "configuration")[0][2], &["webhookd serve --dev", "server.tls.cert"]);
}

#[test]
fn a_configuration_that_is_not_what_runs_is_found() {
    let daemon = Daemon::builder().start();
    replace(&daemon.config(), "egress.require_https = false", "egress.require_https = true\nstore.cache = \"9 MiB\"");
    let notes = |about| found(&of(&daemon, &["doctor", "--json"]).run().json(), about);
    let told = notes("configuration");
    assert_eq!(told.len(), 1, "{told:?}");
    says(&told[0][1], &["egress.require_https", "store.cache", "than what runs"]);
    says(&told[0][2], &["webhookd reload"]);
    of(&daemon, &["reload"]).run().ends(0);
    let told = notes("configuration");
    assert_eq!((told.len(), told[0][1].as_str()), (1, "store.cache changed and waits for a restart"));
    replace(&daemon.config(), "egress.require_https", "egress.require_http");
    of(&daemon, &["reload"]).run().ends(78);
    let told = notes("configuration");
    assert_eq!(told.iter().filter(|one| one[0] == "problem").count(), 2, "{told:?}");
    says(&told[1][1], &["the last reload was refused"]);
}

#[test]
fn a_key_that_only_the_service_is_handed_is_no_trouble() {
    let folder = tempfile::tempdir().expect("a folder");
    let handed = folder.path().join("webhookd.key");
    let mut daemon = Daemon::builder().start();
    let kept = daemon.folder().join("state/webhookd.key");
    fs::rename(&kept, &handed).expect("a key");
    let told = found(&of(&daemon, &["doctor", "--json"]).run().ends(1).json(), "key file");
    says(&told[0][1], &["state/webhookd.key is gone"]);
    daemon.term();
    fs::rename(&handed, &kept).expect("a key");

    let mut daemon = Daemon::builder().env("CREDENTIALS_DIRECTORY", folder.path().to_str().expect("a path")).prepare();
    fs::copy(&kept, &handed).expect("a key");
    daemon.start();
    let told = of(&daemon, &["doctor", "--json"]).run().json();
    assert_eq!(found(&told, "key file"), Vec::<[String; 3]>::new());
}

#[test]
fn webhooks_that_fail_and_dead_letters_are_found() {
    let plans = "[plans.quick]\ndelays = [\"10ms\", \"10ms\", \"10ms\", \"10ms\", \"10ms\"]\njitter = 0.0";
    let stage = Stage::start(Daemon::builder().set("circuit.failures", "0").extra(plans));
    let (failing, gone) = (Receiver::with(|_| Reply::status(500)), Receiver::with(|_| Reply::status(410)));
    let register = |receiver: &Receiver| {
        text(&stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"})), "id")
    };
    let (failing, gone) = (register(&failing), register(&gone));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    let told = poll(SOON, || {
        let told = of(&stage.daemon, &["doctor", "--json"]).run().json();
        let dead = found(&told, "dead letters");
        let two = dead.first().is_some_and(|one| one[1] == "2 deliveries are in the dead letters");
        (two && found(&told, "webhooks").len() == 2).then_some(told)
    });
    let told = told.expect("two dead letters, two webhooks");
    let webhooks = found(&told, "webhooks");
    says(&webhooks[0][1], &[&failing, "acme", "has failed 6 times in a row since 2"]);
    assert_eq!(webhooks[0][2], format!("webhookd tail --webhook {failing} --failed shows why"));
    says(&webhooks[1][1], &[&gone, "made inactive", "(gone)"]);
    says(&webhooks[1][2], &[&format!("webhookd webhooks recover {gone} --activate")]);
    let shown = of(&stage.daemon, &["doctor"]).run().ends(1).out;
    let disk = shown.matches("problem: disk space").count();
    says(&shown, &["problem: webhooks: ", "note: dead letters: ", &format!("{} problems", 2 + disk)]);
}
