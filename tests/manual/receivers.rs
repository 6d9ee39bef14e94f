//! The code in docs/RECEIVERS.md, run as it stands there: what we send verifies in every language, and nothing else does; receivers
//! written in those that serve HTTP by themselves get deliveries. Go and PHP are asked over HTTP, the others as one runs a script.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::support::signature::standard;
use super::support::{
    Client, Daemon, Receiver, Request, SOON, Script, Stage, free_port, listening, text, unix_seconds,
};
use super::{blocks, verify};

fn snippet(language: &str, nth: usize) -> String {
    blocks(&["docs/RECEIVERS.md"], language).remove(nth)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
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

/// Receivers around the snippets: 204 and a line in `$OUT` for what verifies, 401 for anything else.
const GO: &str = r#"package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	out, _ := os.Create(os.Getenv("OUT"))
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !verify(os.Getenv("SECRET"), r.Header, body) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		out.Write(append(body, '\n'))
		w.WriteHeader(http.StatusNoContent)
	}
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(handler)))
}
"#;
const PHP: &str = r#"
$header = fn($name) => $_SERVER["HTTP_WEBHOOK_$name"] ?? '';
$body = file_get_contents('php://input');
if (verify(getenv('SECRET'), $header('ID'), $header('TIMESTAMP'), $header('SIGNATURE'), $body)) {
    file_put_contents(getenv('OUT'), "$body\n", FILE_APPEND);
    http_response_code(204);
} else {
    http_response_code(401);
}
"#;

/// The folder with the receiver in Go, built once.
static BUILT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("main.go", GO);
    write("verify.go", &format!("package main\n\n{}", snippet("go", 0)));
    let mut command = Command::new("go");
    command.args(["build", "-o", "receiver", "main.go", "verify.go"]).current_dir(folder.path());
    // Nothing but what is there: no module, no other version of Go.
    command.env("GOFLAGS", "").env("GOPROXY", "off").env("GOTOOLCHAIN", "local").env("GO111MODULE", "off");
    command.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache")).env("CGO_ENABLED", "0");
    let done = command.output().expect("go");
    assert!(done.status.success(), "go build: {}", String::from_utf8_lossy(&done.stderr));
    folder
});

fn go(secret: &str, port: &str) -> Script {
    listening(Command::new(BUILT.path().join("receiver")), &[("SECRET", secret), ("PORT", port)])
}

fn php(secret: &str, port: &str) -> (Script, tempfile::TempDir) {
    let folder = folder();
    std::fs::write(folder.path().join("receiver.php"), format!("<?php\n{}{PHP}", snippet("php", 0))).expect("a file");
    let mut command = Command::new("php");
    // A notice is an answer that is no verdict.
    command.args(["-d", "error_reporting=-1", "-d", "display_errors=1", "-S", &format!("127.0.0.1:{port}")]);
    command.arg(folder.path().join("receiver.php"));
    (listening(command, &[("SECRET", secret), ("PORT", port)]), folder)
}

/// What a receiver that listens says of a request.
fn asked(receiver: &Script, headers: &Value, body: &[u8]) -> String {
    let headers = headers.as_object().expect("headers");
    let given: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str().expect("text"))).collect();
    let answer = Client::tcp(receiver.address()).send("POST", "/hook", &given, body.to_vec());
    assert!(answer.body.is_empty(), "{answer:?}");
    match answer.status {
        204 => "true".to_owned(),
        401 => "false".to_owned(),
        _ => panic!("{answer:?}; its log:\n{}", receiver.log()),
    }
}

fn in_rust(secret: &str, headers: &Value, body: &[u8]) -> String {
    let [id, stamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| headers[name].as_str().unwrap_or_default().to_owned());
    let now = i64::try_from(unix_seconds()).expect("seconds");
    verify::verify(secret, &id, &stamp, &signatures, body, now).to_string()
}

/// What each snippet says of a request, but for the shell's, which is for secrets that were generated.
fn of_programs(secret: &str, headers: &Value, body: &[u8]) -> Vec<String> {
    let (folder, text) = (folder(), headers.to_string());
    let python = format!("{}{PYTHON}", snippet("python", 0));
    let node = format!("{}{NODE}", snippet("js", 0));
    let port = || free_port().to_string();
    vec![
        run("python3", "-c", &python, &[secret, &text], body, folder.path()).to_lowercase(),
        run("node", "-e", &node, &["--", secret, &text], body, folder.path()),
        asked(&go(secret, &port()), headers, body),
        in_rust(secret, headers, body),
        asked(&php(secret, &port()).0, headers, body),
    ]
}

/// What all six say.
fn verdicts(secret: &str, headers: &Value, body: &[u8]) -> Vec<String> {
    let (mut all, folder) = (of_programs(secret, headers, body), folder());
    let shell = format!("{}{SHELL}", snippet("sh", 0));
    let [id, stamp, signatures] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| headers[name].as_str().unwrap_or_default());
    all.push(run("bash", "-c", &shell, &["bash", secret, id, stamp, signatures], body, folder.path()));
    all
}

#[test]
fn the_snippet_in_rust_is_the_one_that_is_run() {
    assert!(include_str!("../receivers/verify.rs").ends_with(&format!("\n\n{}", snippet("rust", 0))));
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
    let (secret, good) = (text(&hook, "signature_secret"), headers(&request));
    assert_eq!(verdicts(&secret, &good, &request.body), ["true"; 6]);

    let changed = |name: &str, value: String| {
        let mut changed = good.clone();
        changed[name] = json!(value);
        changed
    };
    let during_rotation = changed("webhook-signature", format!("v1,AAAA {}", text(&good, "webhook-signature")));
    assert_eq!(verdicts(&secret, &during_rotation, &request.body), ["true"; 6]);
    assert_eq!(verdicts(&"0".repeat(64), &good, &request.body), ["false"; 6]);
    assert_eq!(verdicts(&secret, &good, &[&request.body[..], b" "].concat()), ["false"; 6]);
    assert_eq!(verdicts(&secret, &changed("webhook-id", "evt_another".to_owned()), &request.body), ["false"; 6]);
    assert_eq!(verdicts(&secret, &changed("webhook-signature", String::new()), &request.body), ["false"; 6]);
    // An old request, sent again with its good signature.
    let old = (unix_seconds() - 301).to_string();
    let signature = standard(&secret, request.header("webhook-id").expect("an id"), &old, &request.body);
    let mut replayed = changed("webhook-timestamp", old);
    replayed["webhook-signature"] = json!(signature);
    assert_eq!(verdicts(&secret, &replayed, &request.body), ["false"; 6]);
}

#[test]
fn a_secret_that_was_chosen_and_not_generated_verifies_too() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    // The second would be, but is too short to be a generated one.
    for (nth, secret) in ["my own secret, chosen", "abcdefghijkl"].into_iter().enumerate() {
        let kind = format!("order.{nth}");
        stage.register(&json!({"url": receiver.url("/"), "events": [kind], "secret": secret}));
        stage.publish(&json!({"type": kind, "tenant": "acme"}));
        let request = receiver.wait_for(nth + 1, SOON).remove(nth);
        assert_eq!(of_programs(secret, &headers(&request), &request.body), ["true"; 5]);
    }
}

#[test]
fn receivers_in_go_and_php_get_deliveries_and_refuse_those_of_others() {
    let stage = Stage::start(Daemon::builder());
    let secret = "f00d".repeat(16);
    let [in_go, in_php, elsewhere] = [(); 3].map(|()| free_port().to_string());
    let (php, _folder) = php(&secret, &in_php);
    let receivers = [go(&secret, &in_go), php];
    let stranger = go(&"0".repeat(64), &elsewhere);
    for receiver in receivers.iter().chain([&stranger]) {
        stage.register(&json!({"url": receiver.url("/hook"), "events": ["*"], "secret": secret}));
    }
    let event = stage.publish(&json!({"type": "order.created", "tenant": "acme", "data": {"price": 0.1}}));
    for receiver in &receivers {
        let got = receiver.wait_for(1, SOON).remove(0);
        assert_eq!((&got["id"], &got["data"]), (&event["id"], &json!({"price": 0.1})));
    }
    let refused = stage.explained(&text(&event, "id"), |part| part["attempts"][0]["status"] == 401);
    assert_eq!(refused["state"], "pending");
    assert!(stranger.accepted().is_empty());
}

#[test]
fn the_snippet_for_idempotency_acts_once() {
    let folder = folder();
    let calls = "\ndef fail(db):\n    raise RuntimeError\ntry:\n    once('evt_1', fail)\nexcept RuntimeError:\n    pass\n\
                 for name in ['evt_1', 'evt_1', 'evt_2', 'evt_1']:\n    once(name, lambda db: print(name))";
    let code = format!("{}{calls}", snippet("python", 1));
    assert_eq!(run("python3", "-c", &code, &[], b"", folder.path()), "evt_1\nevt_2");
}
