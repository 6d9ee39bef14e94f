//! Secrets stand in no log, no store, no backup and no answer but the one that makes them: looked for byte by byte after a life
//! with every occasion to spill them. And the key that seals them comes from a file or from systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use serde_json::{Value, json};

use super::support::{Authority, Certificate, Client, Daemon, Receiver, Reply, SOON, Stage, free_port, key, text};
use super::{refused, says, webhookd};

#[test]
fn no_secret_stands_in_a_log_or_a_store() {
    const GIVEN: &str = "whsec_Q2FuYXJ5LWdpdmVuLXNlY3JldC0wMTIzNDU2Nzg5";
    const HEADER: &str = "canary-header-value-5d41402abc4b2a76";
    let plan = "[plans.quick]\ndelays = [\"50ms\"]\njitter = 0.0";
    let mut stage = Stage::start(Daemon::builder().set_text("log.level", "trace").extra(plan));
    let authority = Authority::new();
    let failing = Receiver::with(|request| match request.number % 4 {
        0 => Reply::status(500),
        1 => Reply::Reset,
        2 => Reply::Raw(b"nonsense\r\n\r\n".to_vec()),
        _ => Reply::redirect(302, "/elsewhere"),
    });
    let (ok, untrusted) = (Receiver::ok(), Receiver::tls(&authority, Certificate::Good));
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let mut secrets = vec![("a header", HEADER.to_owned()), ("a given secret", GIVEN.to_owned())];
    for url in [ok.url("/"), failing.url("/"), untrusted.url("/"), nobody] {
        let body = json!({"url": url, "events": ["*"], "plan": "quick", "headers": {"X-Canary": HEADER}});
        let made = stage.register(&body);
        secrets.push(("a made secret", text(&made, "signature_secret")));
        let rotate = format!("/v1/webhooks/{}/rotate-secret", text(&made, "id"));
        let rotated = stage.owner.post(&rotate, &json!({})).expect(200).json();
        secrets.push(("a rotated secret", text(&rotated, "signature_secret")));
    }
    stage.register(&json!({"url": failing.url("/given"), "events": ["*"], "secret": GIVEN, "plan": "quick"}));
    let canary = json!({"X-Canary": HEADER});
    let target =
        json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": {"url": failing.url("/omnia"), "headers": canary}});
    stage.owner.post("/v3/webhooks", &target).expect(201);
    let made = stage.owner.post("/api/webhook/register", &json!({"webhook_url": failing.url("/token")})).expect(200);
    secrets.push(("a made secret", text(&made.json(), "signature_secret")));
    for role in [json!({"role": "tenant", "tenant": "acme"}), json!({"role": "publisher"}), json!({"role": "admin"})] {
        let made = key(&stage.daemon, &role);
        stage.daemon.client().bearer(&made.token).get("/v1/webhooks");
        secrets.extend([("a token", made.token), ("a secret key", made.secret_key)]);
    }
    let wrong = "whd_canarycanarycanarycanarycanarycanarycanary1";
    stage.daemon.client().bearer(wrong).get("/v1/webhooks").expect(401);
    secrets.push(("a wrong token", wrong.to_owned()));
    let event = text(&stage.publish(&json!({"type": "account.deposit_received", "tenant": "acme"})), "id");
    for _ in 0..4 {
        stage.publish(&json!({"type": "order.created", "tenant": "acme", "data": {"public": "canary-payload"}}));
    }
    ok.wait_for(4, SOON);
    failing.wait_for(8, SOON);
    let arrived = ok.requests().remove(0);
    assert_eq!(arrived.header("x-canary"), Some(HEADER), "the secrets were in use");
    let audit = stage.daemon.admin().get("/admin/audit").expect(200);
    for action in ["webhook.create", "webhook.rotate_secret", "key.create"] {
        assert!(audit.text().contains(action), "{action} is on record: {audit:?}");
    }
    let mut places = shown(&stage, &event);
    assert!(stage.daemon.term().success());

    let state = stage.daemon.folder().join("state");
    let key_file = fs::read_to_string(state.join("webhookd.key")).expect("a key file");
    secrets.push(("the key file", key_file.trim().to_owned()));
    let log = stage.daemon.log();
    for class in ["status", "protocol", "redirect", "tls", "connect"] {
        assert!(log.contains(&format!("\"class\":\"{class}\"")), "no attempt failed with {class}:\n{log}");
    }
    let [store, ahead] =
        ["webhookd.redb", "webhookd.wal"].map(|name| fs::read(state.join(name)).expect("a file of the store"));
    for place in [&store, &ahead] {
        assert!(memmem::find(place, b"canary-payload").is_some(), "what is not secret is found this way");
    }
    let files = [("log", log.into_bytes()), ("store", store), ("write-ahead log", ahead)];
    places.extend(files.map(|(name, bytes)| (name.to_owned(), bytes)));
    search(&secrets, &places);
}

/// What can be had of a daemon that runs: what it answers its owner and its operator, what it writes beside its store, and a
/// backup made by the command line.
fn shown(stage: &Stage, event: &str) -> Vec<(String, Vec<u8>)> {
    let (daemon, owner, admin) = (&stage.daemon, &stage.owner, stage.daemon.admin());
    let mut places = Vec::new();
    let mut ask = |client: &Client, path: &str| {
        let answer = client.get(path).expect(200);
        places.push((path.to_owned(), answer.body.to_vec()));
        answer.text()
    };
    for path in ["webhooks", "attempts", "keys", "tenants", "audit", "config", "stats"] {
        ask(&admin, &format!("/admin/{path}"));
    }
    assert!(ask(&admin, "/metrics").contains("webhookd_events_accepted_total 5"), "they are this daemon's");
    // To its owner, and to nobody else, this form of a webhook shows what its headers say.
    let omnia = ask(&admin, "/v3/webhooks?tenant=acme");
    assert!(omnia.contains("[hidden]"), "the webhook with a header is listed: {omnia}");
    for path in ["/v1/events", "/v1/dead-letters", "/api/v1/webhooks"] {
        ask(owner, path);
    }
    let webhooks: Value = serde_json::from_str(&ask(owner, "/v1/webhooks")).expect("JSON");
    let webhooks = webhooks["data"].as_array().expect("a list");
    assert!(webhooks.len() >= 5, "{webhooks:?}");
    for webhook in webhooks {
        let path = format!("/v1/webhooks/{}", text(webhook, "id"));
        for part in ["", "/attempts", "/deliveries?state=pending", "/stats"] {
            ask(owner, &format!("{path}{part}"));
        }
    }
    ask(owner, &format!("/v1/events/{event}"));
    let explained = ask(owner, &format!("/v1/events/{event}/explain"));
    assert!(explained.contains(&text(&webhooks[0], "id")), "{explained}");

    let (config, backup) = (daemon.config(), daemon.folder().join("backup"));
    let [config, to] = [&config, &backup].map(|path| path.to_str().expect("a path of letters"));
    let (code, told) = webhookd(&["backup", "--config", config, "--to", to]);
    assert_eq!(code, 0, "{told}");
    places.push(("what the backup's maker is told".to_owned(), told.into_bytes()));
    let backup = fs::read(backup).expect("a backup");
    assert!(memmem::find(&backup, b"canary-payload").is_some(), "what is not secret is found this way");
    places.push(("backup".to_owned(), backup));
    let spool = ["0", "1"].map(|number| fs::read(daemon.folder().join(format!("state/webhookd.spool.{number}"))));
    let spool = spool.map(|bytes| bytes.expect("a file of the spool")).concat();
    assert!(!spool.is_empty(), "successes stand in it");
    places.push(("spool".to_owned(), spool));
    places
}

/// No secret stands in any of the places, neither as text nor as bytes.
fn search(secrets: &[(&str, String)], places: &[(String, Vec<u8>)]) {
    for (what, secret) in secrets {
        let raw = match secret.strip_prefix("whsec_") {
            Some(coded) => STANDARD.decode(coded).expect("base64"),
            None => hex::decode(secret).unwrap_or_else(|_| secret.clone().into_bytes()),
        };
        for (place, bytes) in places {
            for form in [secret.as_bytes(), &raw] {
                assert!(memmem::find(bytes, form).is_none(), "{what} stands in {place}: {secret}");
            }
        }
    }
}

#[test]
fn the_key_may_be_a_credential_that_systemd_hands_over() {
    let credentials = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let file = credentials.path().join("webhookd.key");
    // As systemd does it: to be read, by the service's user and through its group at most.
    fs::write(&file, "5f".repeat(32)).expect("a credential");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).expect("a mode");
    let folder = credentials.path().to_str().expect("a path of letters");
    let mut stage = Stage::start(Daemon::builder().env("CREDENTIALS_DIRECTORY", folder));
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let state_key = stage.daemon.folder().join("state/webhookd.key");
    assert!(!state_key.exists(), "no other key is made");
    stage.daemon.restart();
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    receiver.wait_for(1, SOON);

    // Without it, or with another one, the store is refused.
    assert!(stage.daemon.term().success());
    fs::rename(&file, credentials.path().join("moved")).expect("moving it away");
    says(&refused(&mut stage.daemon, 78), &[state_key.to_str().expect("letters"), "can't be read"]);
    fs::write(&file, "60".repeat(32)).expect("another credential");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("a mode");
    says(&refused(&mut stage.daemon, 78), &["another key"]);
    assert!(!state_key.exists(), "and still none is made");
}
