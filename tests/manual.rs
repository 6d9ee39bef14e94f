//! What the documents for operators and receivers say, held against the daemon: the snippets run, the metrics are there, the
//! configurations are accepted.

mod support;

#[path = "manual/commands.rs"]
mod commands;
#[path = "receivers/verify.rs"]
mod verify;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Daemon, Receiver, Request, SOON, Stage, pages};

const OPERATIONS: &str = include_str!("../docs/OPERATIONS.md");
const ALERTS: &str = include_str!("../docs/monitoring/alerts.yaml");
const DASHBOARD: &str = include_str!("../docs/monitoring/grafana.json");

/// The code blocks of one language, page by page.
fn blocks(pages: &[&'static str], language: &str) -> Vec<String> {
    let all = pages.iter().flat_map(|page| pages::blocks(page));
    all.filter(|block| block.language == language).map(|block| block.text).collect()
}

fn snippet(language: &str, nth: usize) -> String {
    blocks(&["docs/RECEIVERS.md"], language).remove(nth)
}

/// A snippet with the lines that call it, run to its end; gives what it printed.
fn run(program: &str, flag: &str, code: &str, args: &[&str], input: &[u8], folder: &Path) -> String {
    let mut command = Command::new(program);
    command.arg(flag).arg(code).args(args).current_dir(folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect(program);
    // One that refuses before it reads has closed its end.
    drop(child.stdin.take().expect("its input").write_all(input));
    let done = child.wait_with_output().expect(program);
    assert!(done.stderr.is_empty(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

const PYTHON: &str = "\nimport json, sys\nprint(verify(sys.argv[1], json.loads(sys.argv[2]), sys.stdin.buffer.read()))";
const NODE: &str =
    "\nconsole.log(verify(process.argv[1], JSON.parse(process.argv[2]), require('fs').readFileSync(0)));";
const SHELL: &str = "\nif verify \"$1\" \"$2\" \"$3\" \"$4\"; then echo true; else echo false; fi";

/// What each snippet says of a request.
fn verdicts(secret: &str, headers: &Value, body: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [python, node, shell] = ["python", "js", "sh"].map(|language| snippet(language, 0));
    let text = headers.to_string();
    let run = |program, flag, code: String, args: &[&str]| run(program, flag, &code, args, body, folder.path());
    let header = |name: &str| headers[name].as_str().unwrap_or_default().to_owned();
    let [id, stamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(header);
    vec![
        run("python3", "-c", format!("{python}{PYTHON}"), &[secret, &text]).to_lowercase(),
        run("node", "-e", format!("{node}{NODE}"), &["--", secret, &text]),
        run("bash", "-c", format!("{shell}{SHELL}"), &["bash", secret, &id, &stamp, &signatures]),
        in_rust(secret, headers, body),
    ]
}

fn in_rust(secret: &str, headers: &Value, body: &[u8]) -> String {
    let [id, stamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| headers[name].as_str().unwrap_or_default().to_owned());
    let now = i64::try_from(support::unix_seconds()).expect("seconds");
    verify::verify(secret, &id, &stamp, &signatures, body, now).to_string()
}

#[test]
fn the_snippet_in_rust_is_the_one_that_is_run() {
    assert!(include_str!("receivers/verify.rs").ends_with(&snippet("rust", 0)));
}

fn headers(request: &Request) -> Value {
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    names.into_iter().map(|name| (name.to_owned(), json!(request.header(name).expect("the header")))).collect()
}

#[test]
fn the_snippets_for_receivers_verify_what_is_sent_and_nothing_else() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let hook = stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    stage.publish(&json!({"type": "order.created", "tenant": "acme", "data": {"price": 1}}));
    let request = receiver.wait_for(1, SOON).remove(0);
    let (secret, good) = (support::text(&hook, "signature_secret"), headers(&request));
    assert_eq!(verdicts(&secret, &good, &request.body), ["true"; 4]);

    let changed = |name: &str, value: String| {
        let mut changed = good.clone();
        changed[name] = json!(value);
        changed
    };
    let during_rotation =
        changed("webhook-signature", format!("v1,AAAA {}", support::text(&good, "webhook-signature")));
    assert_eq!(verdicts(&secret, &during_rotation, &request.body), ["true"; 4]);
    assert_eq!(verdicts(&"0".repeat(64), &good, &request.body), ["false"; 4]);
    assert_eq!(verdicts(&secret, &good, &[&request.body[..], b" "].concat()), ["false"; 4]);
    assert_eq!(verdicts(&secret, &changed("webhook-id", "evt_another".to_owned()), &request.body), ["false"; 4]);
    // An old request, sent again with its good signature.
    let old = (support::unix_seconds() - 301).to_string();
    let signature =
        support::signature::standard(&secret, request.header("webhook-id").expect("an id"), &old, &request.body);
    let mut replayed = changed("webhook-timestamp", old);
    replayed["webhook-signature"] = json!(signature);
    assert_eq!(verdicts(&secret, &replayed, &request.body), ["false"; 4]);
}

#[test]
fn a_secret_that_is_no_base64_verifies_too() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    let secret = "my own secret, chosen";
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "secret": secret}));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    let request = receiver.wait_for(1, SOON).remove(0);
    // The shell's is for secrets that were generated.
    let headers = headers(&request);
    assert_eq!(verdicts_of_two(secret, &headers, &request.body), ["true"; 2]);
    assert_eq!(in_rust(secret, &headers, &request.body), "true");
}

fn verdicts_of_two(secret: &str, headers: &Value, body: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let text = headers.to_string();
    let python = format!("{}{PYTHON}", snippet("python", 0));
    let node = format!("{}{NODE}", snippet("js", 0));
    vec![
        run("python3", "-c", &python, &[secret, &text], body, folder.path()).to_lowercase(),
        run("node", "-e", &node, &["--", secret, &text], body, folder.path()),
    ]
}

#[test]
fn the_snippet_for_idempotency_acts_once() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let calls = "\ndef fail(db):\n    raise RuntimeError\ntry:\n    once('evt_1', fail)\nexcept RuntimeError:\n    pass\n\
                 for name in ['evt_1', 'evt_1', 'evt_2', 'evt_1']:\n    once(name, lambda db: print(name))";
    let code = format!("{}{calls}", snippet("python", 1));
    assert_eq!(run("python3", "-c", &code, &[], b"", folder.path()), "evt_1\nevt_2");
}

/// The names of metrics in a text of queries.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("webhookd_")).map(str::to_owned).collect()
}

#[test]
fn every_metric_of_the_alerts_and_the_dashboard_exists() {
    let stage = Stage::start(Daemon::builder());
    let text = stage.daemon.admin().get("/metrics").expect(200).text();
    let mut exposed = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        exposed.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    // A family without a sample is left out of the exposition until its first.
    let later = ["deliveries", "attempts", "http_requests", "operational_events", "jobs_ended", "job_deliveries"];
    exposed.extend(later.map(|name| format!("webhookd_{name}_total")));
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() >= 12));
    for (what, text) in [("alerts.yaml", ALERTS), ("grafana.json", DASHBOARD)] {
        let named = named(text);
        assert!(named.len() >= 8, "{what}: {named:?}");
        let missing: Vec<&String> = named.difference(&exposed).collect();
        assert!(missing.is_empty(), "{what} names what is not exposed: {missing:?}");
    }
}

#[test]
fn every_alert_has_its_line_in_the_manual() {
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    for alert in &alerts {
        assert!(OPERATIONS.contains(&format!("\n| {alert} | ")), "{alert} is not in OPERATIONS.md");
    }
    let rows = OPERATIONS.lines().filter(|line| line.starts_with("| Webhookd")).count();
    assert_eq!(rows, alerts.len(), "OPERATIONS.md tells of an alert that there is not");
}

#[test]
fn the_configurations_in_the_manual_are_accepted() {
    let found = blocks(&pages::PAGES, "toml");
    assert!(found.len() >= 3);
    for block in found {
        let loaded = webhookd::config::load_text(Path::new("OPERATIONS.md"), &block, std::iter::empty());
        assert!(loaded.is_ok(), "{}:\n{block}", loaded.err().map(|problems| problems.to_string()).unwrap_or_default());
    }
}
