//! `reload`, `status`, `check` and `config show`: what runs, what would, and the way from one to the other.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::support::{Authority, Certificate, Daemon, Receiver, Reply, SOON, Stage, poll};
use super::{of, replace, says, webhookd};

#[test]
fn a_reload_is_taken_over_whole_or_refused_with_the_reasons() {
    let daemon = Daemon::builder().set_text("log.level", "info").start();
    says(&of(&daemon, &["reload"]).run().ends(0).out, &["reloaded"]);
    replace(&daemon.config(), "egress.allow = [\"127.0.0.0/8\"]", "egress.allow = []\nstore.cache = \"9 MiB\"");
    let done = of(&daemon, &["reload", "--wait", "30"]).run().ends(0).out;
    says(&done, &["reloaded", "store.cache", "takes a restart"]);
    let config = || daemon.admin().get("/admin/config").expect(200).json();
    let setting = |key: &str| -> Value {
        let all = config();
        all["data"].as_array().and_then(|all| all.iter().find(|one| one["key"] == key)).expect("the key").clone()
    };
    assert_eq!(setting("egress.allow")["value"], "[]");
    let cache = setting("store.cache");
    assert_eq!((&cache["value"], &cache["after_restart"]), (&json!("\"8 MiB\""), &json!("\"9 MiB\"")));
    // A second reload still knows that a restart is owed.
    says(&of(&daemon, &["reload"]).run().ends(0).out, &["store.cache"]);

    replace(&daemon.config(), "egress.allow", "egress.alow");
    let refused = of(&daemon, &["reload", "--wait"]).run().ends(78);
    says(&refused.err, &["webhookd.toml:", "egress.alow", "did you mean egress.allow?", "goes on with"]);
    says(&of(&daemon, &["status"]).run().ends(0).out, &["last reload", "refused"]);
    assert_eq!(setting("egress.allow")["value"], "[]");
    let audit = daemon.admin().get("/admin/audit?action=config.reload").expect(200).json();
    let outcomes: Vec<_> = audit["data"].as_array().expect("a list").iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["refused", "ok", "ok", "ok"]);
    assert_eq!(audit["data"][0]["actor"], "socket");
}

#[test]
fn the_log_level_is_changed_until_the_next_reload() {
    let daemon = Daemon::builder().set_text("log.level", "error").start();
    assert!(!daemon.log().contains("reloaded"));
    let level = |level: &str| daemon.admin().put("/admin/log", &json!({"level": level}));
    let refused = level("debgu").expect(422).json();
    says(refused["detail"].as_str().expect("text"), &["debgu", "did you mean debug?"]);
    level("info").expect(200);
    let told = poll(SOON, || daemon.log().contains("what is logged was changed").then_some(()));
    assert!(told.is_some(), "{}", daemon.log());
    of(&daemon, &["reload"]).run().ends(0);
    let length = daemon.log().len();
    of(&daemon, &["reload"]).run().ends(0);
    assert_eq!(daemon.log().len(), length, "back at error:\n{}", daemon.log());
}

#[test]
fn status_shows_what_runs() {
    let stage = Stage::start(Daemon::builder().extra("[plans.quick]\ndelays = []"));
    let receiver = Receiver::with(|_| Reply::status(500));
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick"}));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    let dead = poll(SOON, || {
        let status = of(&stage.daemon, &["status", "--json"]).run().ends(0).json();
        (status["deliveries"]["dead"] == 1).then_some(status)
    });
    let status = dead.expect("a dead letter");
    assert_eq!((&status["ready"], &status["version"]), (&json!(true), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(status["webhooks"], json!({"active": 1, "inactive": 0, "failing": 1}));
    assert!(status["store"]["bytes"].as_u64() > Some(0), "{status}");
    let shown = of(&stage.daemon, &["status"]).run().ends(0).out;
    says(&shown, &[", ready, since 2", "configuration", "webhookd.toml", "1 active (1 failing), 0 inactive"]);
    says(&shown, &["dead letters  1", "queued        0", "store         "]);
}

#[test]
fn a_broken_configuration_does_not_keep_status_from_its_daemon() {
    let daemon = Daemon::builder().start();
    replace(&daemon.config(), "egress.allow", "nonsense = = 1\negress.alow");
    of(&daemon, &["status"]).run().ends(0);
    of(&daemon, &["reload"]).run().ends(78);
}

#[test]
fn config_show_says_what_is_in_effect_and_from_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("webhookd.toml");
    fs::write(&file, "[egress]\ntimeout = \"5s\"\n").expect("a file");
    let show = |args: &[&str]| {
        let shell = webhookd(&[&["config", "show"], args].concat());
        shell.env("WEBHOOKD_CONFIG", file.to_str().expect("a path")).env("WEBHOOKD_LOG__LEVEL", "debug").run()
    };
    let plain = show(&[]).ends(0).out;
    says(&plain, &["egress.timeout = \"5s\"\n", "log.level = \"debug\"\n", "catalogue.strict = false\n"]);
    let origin = show(&["--origin"]).ends(0).out;
    says(&origin, &["webhookd.toml:2\n", "log.level = \"debug\"  # WEBHOOKD_LOG__LEVEL\n", "# default\n"]);
    let json = show(&["--json"]).ends(0).json();
    let level = json.as_array().and_then(|all| all.iter().find(|one| one["key"] == "log.level")).expect("the key");
    assert_eq!(*level, json!({"key": "log.level", "value": "\"debug\"", "origin": "WEBHOOKD_LOG__LEVEL"}));
    // What is shown is a configuration.
    fs::write(&file, plain).expect("a file");
    show(&[]).ends(0);
    fs::write(&file, "egres = 1").expect("a file");
    says(&show(&[]).ends(78).err, &["webhookd.toml:1:1", "did you mean egress?"]);
}

#[test]
fn check_tells_everything_at_once_and_when_the_certificate_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("webhookd.toml");
    let check = |args: &[&str]| {
        webhookd(&[&["check"], args].concat()).env("WEBHOOKD_CONFIG", file.to_str().expect("a path")).run()
    };
    fs::write(&file, "[egress]\ntimeot = \"5s\"\n[log]\nlevel = \"lod\"\n").expect("a file");
    let told = check(&[]).ends(78).err;
    says(&told, &["webhookd.toml:2:1: egress.timeot: unknown key; did you mean egress.timeout?", "webhookd.toml:4:"]);
    let json = check(&["--json"]).ends(78).json();
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
    assert_eq!(
        (&json[0]["key"], &json[0]["suggestion"]),
        (&json!("egress.timeot"), &json!("did you mean egress.timeout?"))
    );

    let (chain, private) = Authority::new().issue(Certificate::Good);
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&cert, chain).expect("a file");
    fs::write(&key, private).expect("a file");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
    fs::write(&file, format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n")).expect("a file");
    let well = check(&[]).ends(0).out;
    says(&well, &["webhookd.toml: all is well", "the certificate expires at "]);
    assert_eq!(check(&["--json"]).ends(0).json(), json!([]));
    assert_eq!(check(&["--quiet"]).ends(0).out, "");
}
