//! `send`, `tail` and `webhooks`: an event published from the shell, and its attempts watched.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::support::{
    Authority, Certificate, Daemon, Receiver, Reply, SOON, Stage, free_port, poll, publisher_key, tenant, tenant_key,
    text,
};
use super::{of, says, webhookd};

#[test]
fn send_publishes_what_it_is_given_byte_for_byte() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let send = |args: &[&str]| of(&stage.daemon, &[&["send", "order.created", "--tenant", "acme"], args].concat());
    let data = r#"{ "price": 0.10,  "n": 12345678901234567890 }"#;
    let sent = send(&["--data", data]).run().ends(0).out;
    assert!(sent.starts_with("evt_") && sent.ends_with(", 1 delivery\n"), "{sent}");
    says(&receiver.wait_for(1, SOON)[0].text(), &[data]);

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data.json");
    fs::write(&file, format!("{data}\n")).expect("a file");
    let from_file = format!("@{}", file.display());
    let twice = ["--data", &from_file, "--idempotency-key", "k1", "--json"];
    let [first, second] = [(); 2].map(|()| text(&send(&twice).run().ends(0).json(), "id"));
    assert_eq!(first, second, "one key, one event");
    let more = ["--data", "@-", "--context", r#"{"a":"b"}"#, "--created-at", "2024-01-15T10:30:01Z", "--json"];
    let event = send(&more).input(data).run().ends(0).json();
    let wanted = json!("2024-01-15T10:30:01.000000+00:00");
    assert_eq!((&event["context"], &event["created_at"]), (&json!({"a": "b"}), &wanted));
    assert_eq!(event["data"]["price"].to_string(), "0.1", "as far as this test's own reader keeps it");

    let own = tenant_key(&stage.daemon, "acme");
    let as_tenant = webhookd(&["send", "order.created"]);
    let url = stage.daemon.base_url();
    let refused = as_tenant.env("WEBHOOKD_URL", &url).env("WEBHOOKD_TOKEN", &own.token).run().ends(1);
    says(&refused.err, &["the daemon refuses"]);
    says(&of(&stage.daemon, &["send", "a", "--tenant", "nobody"]).run().ends(1).err, &["tenant is unknown"]);
    says(&of(&stage.daemon, &["send", "a b", "--tenant", "acme"]).run().ends(1).err, &["type"]);
    says(&send(&["--data", "@gone.json"]).run().ends(71).err, &["gone.json"]);
}

#[test]
fn send_speaks_tls_and_trusts_only_whom_it_is_told_to() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let [cert, key, ca] = ["cert.pem", "key.pem", "ca.pem"].map(|name| folder.path().join(name));
    let (chain, private) = authority.issue(Certificate::Good);
    fs::write(&cert, chain).expect("a file");
    fs::write(&key, private).expect("a file");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
    authority.write(&ca);
    let address = format!("127.0.0.1:{}", free_port());
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    let builder = Daemon::builder().set("server.listen", format!("[\"{address}\"]"));
    let daemon = builder.set_text("server.tls.cert", path(&cert)).set_text("server.tls.key", path(&key)).start();
    tenant(&daemon, "acme");
    let token = publisher_key(&daemon).token;
    let send = |url: &str, ca: &Path| {
        let shell = webhookd(&["send", "order.created", "--tenant", "acme"]);
        let shell = shell.env("WEBHOOKD_URL", url).env("WEBHOOKD_TOKEN", &token);
        shell.env("SSL_CERT_FILE", &path(ca)).env("SSL_CERT_DIR", "").run()
    };
    let url = format!("https://{address}");
    assert!(send(&url, &ca).ends(0).out.starts_with("evt_"));
    assert!(send(&url.replace("127.0.0.1", "localhost"), &ca).ends(0).out.starts_with("evt_"));
    let other = folder.path().join("other.pem");
    Authority::new().write(&other);
    says(&send(&url, &other).ends(69).err, &["can't be reached", "SSL_CERT_FILE"]);
}

#[test]
fn tail_shows_attempts_as_they_are_made() {
    let stage = Stage::start(
        Daemon::builder().set("circuit.failures", "0").extra("[plans.quick]\ndelays = [\"10min\"]\njitter = 0.0"),
    );
    let (good, bad) = (Receiver::ok(), Receiver::with(|_| Reply::status(500)));
    let publish = || stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    let register = |receiver: &Receiver| {
        text(&stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"})), "id")
    };
    let (well, ill) = (register(&good), register(&bad));
    publish();
    stage.attempts(&well, 1);
    stage.attempts(&ill, 1);

    let mut all = of(&stage.daemon, &["tail", "--count", "2"]);
    let mut failed = of(&stage.daemon, &["tail", "--failed", "--json", "--count", "1", "--tenant", "acme"]);
    let mut none = of(&stage.daemon, &["tail", "--webhook", &ill, "--count", "1"]);
    let mut children = [all.spawn(), failed.spawn(), none.spawn()];
    // They begin with what comes after their first question, so there has to be something new until they have seen it.
    let ended = poll(SOON, || {
        publish();
        std::thread::sleep(std::time::Duration::from_millis(200));
        children.iter_mut().all(|child| child.try_wait().expect("a child").is_some()).then_some(())
    });
    for child in &mut children {
        drop(child.kill());
        drop(child.wait());
    }
    assert!(ended.is_some(), "{}{}", all.written("out"), failed.written("out"));
    let lines = all.written("out");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    says(&lines, &["acme", "order.created", "evt_", " ms "]);
    let line: Value = serde_json::from_str(&failed.written("out")).expect("one object");
    assert_eq!((&line["outcome"], &line["webhook"]), (&json!("failed"), &json!(ill)));
    says(&none.written("out"), &[&ill, "failed", "status: ", "again at 2"]);
}

#[test]
fn tail_stops_quietly_when_nobody_reads_on() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_webhookd"));
    command.args(["tail", "--config"]).arg(stage.daemon.config());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the binary");
    drop(child.stdout.take());
    let ended = poll(SOON, || {
        stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
        child.try_wait().expect("a child")
    });
    if ended.is_none() {
        drop(child.kill());
    }
    let done = child.wait_with_output().expect("its end");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn webhooks_of_all_tenants_are_listed() {
    let stage = Stage::start(Daemon::builder());
    says(&of(&stage.daemon, &["webhooks"]).run().ends(0).out, &["no webhooks"]);
    let receiver = Receiver::ok();
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(text(&stage.register(&json!({"url": receiver.url("/"), "events": ["*"]})), "id"));
    }
    stage.owner.patch(&format!("/v1/webhooks/{}", made[2]), &json!({"active": false})).expect(200);
    let shown = of(&stage.daemon, &["webhooks"]).run().ends(0).out;
    says(&shown, &["WEBHOOK", "acme", &made[0], &made[1], "inactive (owner)"]);
    let inactive = of(&stage.daemon, &["webhooks", "--state", "inactive", "--json"]).run().ends(0).json();
    assert_eq!((inactive.as_array().map(Vec::len), &inactive[0]["id"]), (Some(1), &json!(made[2])));
    let nobody = of(&stage.daemon, &["webhooks", "--tenant", "nobody"]).run().ends(1);
    says(&nobody.err, &["tenant is unknown"]);
}
