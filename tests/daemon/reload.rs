//! SIGHUP: a good configuration is taken over whole, a bad one not at all, and which of the two it was can be seen.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Authority, Certificate, Client, Daemon, Receiver, Reply, SOON, Stage, free_port, poll, text};

/// Waits until the metric says how the last reload went.
#[track_caller]
fn wait_for_reload(daemon: &Daemon, success: bool) {
    let wanted = format!("webhookd_reload_success {}", u8::from(success));
    let seen = poll(SOON, || {
        let metrics = daemon.admin().get("/metrics").expect(200).text();
        metrics.lines().any(|line| line == wanted).then_some(())
    });
    assert!(seen.is_some(), "the metrics never say {wanted}");
}

fn replace(daemon: &Daemon, old: &str, new: &str) {
    let before = fs::read_to_string(daemon.config()).expect("a configuration");
    assert!(before.contains(old), "{old} is missing in:\n{before}");
    fs::write(daemon.config(), before.replace(old, new)).expect("writing the configuration");
}

#[test]
fn f_a_bad_configuration_changes_nothing_and_a_good_one_everything() {
    let plans = "[plans.quick]\ndelays = [\"10min\"]\njitter = 0.0";
    let stage = Stage::start(Daemon::builder().set("egress.allow", "[]").extra(plans));
    let receiver = Receiver::with(|_| Reply::status(500));
    let wanted = json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"});
    let register = || stage.owner.post("/v1/webhooks", &wanted);
    assert_eq!(register().status, 422, "loopback is not allowed");
    wait_for_reload(&stage.daemon, true);

    replace(&stage.daemon, "egress.allow = []", "egress.allow = [\"127.0.0.0/8\"]\negress.timeot = \"1s\"");
    stage.daemon.signal(Signal::HUP);
    wait_for_reload(&stage.daemon, false);
    let log = stage.daemon.log();
    let told = log.lines().find(|line| line.contains("ERROR") && line.contains("not reloaded"));
    let told = told.unwrap_or_else(|| panic!("no error in:\n{log}"));
    assert!(told.contains("egress.timeot") && told.contains("did you mean egress.timeout?"), "{told}");
    assert_eq!(register().status, 422, "the good part of a bad configuration is not taken over either");

    replace(&stage.daemon, "egress.timeot", "egress.timeout");
    replace(&stage.daemon, "10min", "100ms");
    stage.daemon.signal(Signal::HUP);
    wait_for_reload(&stage.daemon, true);
    let webhook = text(&register().expect(201).json(), "id");
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    let attempts = stage.attempts(&webhook, 2);
    assert_eq!(attempts.len(), 2, "the changed plan: {attempts:#?}");
    let on_record = poll(SOON, || {
        let audit = stage.daemon.admin().get("/admin/audit?action=config.reload").expect(200).json();
        audit["data"].as_array().filter(|all| all.len() == 2).cloned()
    });
    let told = |record: &Value| (record["actor"].clone(), record["outcome"].clone());
    let wanted = ["ok", "refused"].map(|outcome| (json!("signal"), json!(outcome)));
    assert_eq!(on_record.expect("both on record").iter().map(told).collect::<Vec<_>>(), wanted);

    replace(&stage.daemon, "egress.allow = [\"127.0.0.0/8\"]", "egress.allow = []");
    stage.daemon.signal(Signal::HUP);
    let refused = poll(SOON, || (register().status == 422).then_some(()));
    assert!(refused.is_some(), "what was allowed is taken back");
    let event = text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id");
    let delivery = stage.explained(&event, |delivery| delivery["attempts"][0]["class"] != Value::Null);
    assert_eq!(delivery["attempts"][0]["class"], "forbidden", "webhooks that are there are held to it too");
    receiver.stays_at(2, Duration::ZERO);
}

#[test]
fn signals_that_come_while_the_daemon_starts_are_kept_until_it_runs() {
    for signal in [Signal::HUP, Signal::TERM] {
        let mut daemon = Daemon::builder().prepare();
        let state = daemon.folder().join("state");
        daemon.spawn();
        // The folder is the first thing it makes; a store in it takes several syncs.
        while !state.exists() {
            std::hint::spin_loop();
        }
        daemon.signal(signal);
        if signal == Signal::HUP {
            daemon.wait_ready(SOON);
            wait_for_reload(&daemon, true);
            let reloaded = poll(SOON, || daemon.log().contains("reloaded").then_some(()));
            assert!(reloaded.is_some(), "its log:\n{}", daemon.log());
        } else {
            let status = daemon.wait_end();
            assert_eq!(status.code(), Some(0), "{status}; its log:\n{}", daemon.log());
            assert!(daemon.log().contains("stopped"), "it drained");
        }
    }
}

/// A daemon with a TLS listener, and the files of its certificate.
struct Secure {
    daemon: Daemon,
    address: SocketAddr,
    folder: TempDir,
}

impl Secure {
    fn start(authority: &Authority) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (chain, key) = authority.issue(Certificate::Good);
        write_pair(folder.path(), &chain, &key);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let builder = Daemon::builder().set("server.listen", format!("[\"{address}\"]"));
        let builder = builder.set_text("server.tls.cert", path("cert.pem")).set_text("server.tls.key", path("key.pem"));
        Self { daemon: builder.start(), address, folder }
    }

    fn trusts(&self, authority: &Authority) -> bool {
        let answer = Client::tls(self.address, "localhost", authority).try_send("GET", "/healthz", &[], "");
        answer.is_ok_and(|answer| answer.status == 200)
    }
}

fn write_pair(folder: &Path, chain: &str, key: &str) {
    fs::write(folder.join("cert.pem"), chain).expect("writing the certificate");
    fs::write(folder.join("key.pem"), key).expect("writing the key");
    fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o600)).expect("a mode");
}

#[test]
fn f_a_certificate_is_swapped_while_connections_last_and_a_bad_pair_is_not_taken() {
    let (old, new) = (Authority::new(), Authority::new());
    let secure = Secure::start(&old);
    let mut kept = Client::tls(secure.address, "localhost", &old).open().expect("a connection");
    kept.send("GET", "/healthz", &[], "").expect("an answer").expect(200);
    assert!(secure.trusts(&old) && !secure.trusts(&new));
    let plain = Client::tcp(secure.address).try_send("GET", "/healthz", &[], "");
    assert!(plain.is_err(), "plain HTTP on the TLS port: {plain:?}");

    let (chain, _) = new.issue(Certificate::Good);
    let (expired, expired_key) = new.issue(Certificate::Expired);
    let (_, foreign_key) = old.issue(Certificate::Good);
    for (chain, key, why) in [
        (chain.as_str(), foreign_key.as_str(), "does not belong"),
        (expired.as_str(), expired_key.as_str(), "expired at"),
        ("no certificate\n", foreign_key.as_str(), "no CERTIFICATE block"),
    ] {
        let before = secure.daemon.log().len();
        write_pair(secure.folder.path(), chain, key);
        secure.daemon.signal(Signal::HUP);
        let log = poll(SOON, || Some(secure.daemon.log().split_off(before)).filter(|log| log.contains("not reloaded")));
        let log = log.unwrap_or_else(|| panic!("{why}: nothing is told"));
        assert!(log.contains(why), "{why} is missing in {log}");
        wait_for_reload(&secure.daemon, false);
        assert!(secure.trusts(&old), "{why}: the old certificate stays");
    }

    let (chain, key) = new.issue(Certificate::Good);
    write_pair(secure.folder.path(), &chain, &key);
    secure.daemon.signal(Signal::HUP);
    wait_for_reload(&secure.daemon, true);
    assert!(secure.trusts(&new) && !secure.trusts(&old));
    kept.send("GET", "/healthz", &[], "").expect("the connection goes on").expect(200);
}
