//! nginx and Caddy in front of a daemon, with the configurations of docs/OPERATIONS.md as they stand there. Changed are the places
//! that are this test's own: ports, the certificate's files, and for Caddy a certificate instead of an authority to ask for one.
//! Who asks sits at 127.0.0.2 or .3, so that the proxy, at 127.0.0.1, is told apart from its clients.
//!
//! Where the two are not to be had, the tests fail and say so, unless `NO_PROXIES=1` says that this is known.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::pages;
use super::support::signature::vibe_request;
use super::support::{
    Authority, Certificate, Daemon, Receiver, SOON, Script, Stage, free_port, key, listening, path_to_proxies, poll,
    tenant_key, text, unix_seconds,
};

const NAME: &str = "hooks.example.com";
/// Neither is a trusted proxy.
const CLIENT: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.3";

/// The block of that language in the manual's chapter on proxies.
fn chapter(language: &str) -> String {
    let all = pages::blocks("docs/OPERATIONS.md").into_iter();
    let mut found = all.filter(|block| block.heading == "Behind a reverse proxy" && block.language == language);
    let block = found.next().unwrap_or_else(|| panic!("the chapter has no {language}"));
    assert!(found.next().is_none(), "two of {language}");
    block.text
}

/// Replaces what has to be there once.
fn put(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old} in\n{text}");
    text.replace(old, new)
}

/// A daemon as the chapter configures it, and a proxy before it; both end with this.
struct Front {
    stage: Stage,
    folder: TempDir,
    port: u16,
    _proxy: Script,
}

impl Front {
    /// `make` writes the proxy's configuration for a port and gives the command that runs it.
    fn start(make: impl FnOnce(&TempDir, u16, &Daemon) -> Command) -> Self {
        let mut builder = Daemon::builder().set("log.access", "true");
        for line in chapter("toml").lines().filter(|line| !line.starts_with('[')) {
            let (name, value) = line.split_once(" = ").expect("a key and its value");
            if name == "plaintext_listen" {
                assert_eq!(value, "[\"127.0.0.1:8080\"]");
            } else {
                builder = builder.set(&format!("server.{name}"), value);
            }
        }
        let (stage, port) = (Stage::start(builder), free_port());
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let authority = Authority::new();
        let (chain, key) = authority.issue(Certificate::Good);
        for (name, text) in [("ca.pem", authority.pem()), ("cert.pem", &chain), ("key.pem", &key)] {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        let mut command = make(&folder, port, &stage.daemon);
        command.env("PATH", path_to_proxies()).env("HOME", folder.path()).current_dir(folder.path());
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_CONFIG_HOME");
        let proxy = listening(command, &[("PORT", &port.to_string())]);
        Self { stage, folder, port, _proxy: proxy }
    }

    fn curl(&self, from: &str, token: &str, path: &str, args: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert", "ca.pem", "--interface", from]);
        command.args(["--resolve", &format!("{NAME}:{}:127.0.0.1", self.port)]);
        if !token.is_empty() {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        command.args(args).arg(format!("https://{NAME}:{}{path}", self.port));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// What comes back through the proxy: the status and the body.
    #[track_caller]
    fn ask(&self, from: &str, token: &str, path: &str, args: &[&str]) -> (u16, Value) {
        let done = self.curl(from, token, path, &[&["--write-out", "\n%{http_code}"], args].concat()).output();
        let done = done.expect("curl");
        let out = String::from_utf8_lossy(&done.stdout);
        let (body, status) = out.rsplit_once('\n').expect("a status");
        assert!(done.status.success(), "{path}: {out}{}", String::from_utf8_lossy(&done.stderr));
        (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
    }

    /// Where the daemon's log says that the request of this id came from.
    #[track_caller]
    fn peer(&self, request: &str) -> String {
        let line = poll(SOON, || {
            let log = self.stage.daemon.log();
            let read = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            read.into_iter().find(|line| line["message"] == "request" && line["request"] == request)
        });
        let line = line.unwrap_or_else(|| panic!("no line of {request} in\n{}", self.stage.daemon.log()));
        let peer = text(&line, "peer");
        peer.rsplit_once(':').map_or(peer.clone(), |(address, _)| address.to_owned())
    }
}

/// What the chapter promises, whatever the proxy.
fn stands_in_front(front: &Front) {
    let (stage, receiver) = (&front.stage, Receiver::ok());
    let daemon = &stage.daemon;
    let owner = tenant_key(daemon, "acme");
    let publisher = key(daemon, &json!({"role": "publisher"})).token;

    // TLS ends at the proxy, and the client's address comes through: to the log and to the records.
    let hook = json!({"url": receiver.url("/"), "events": ["*"]}).to_string();
    let (status, hook) = front.ask(CLIENT, &owner.token, "/v1/webhooks", &["-d", &hook]);
    assert_eq!(status, 201, "{hook}");
    let audit = daemon.admin().get("/admin/audit?action=webhook.*").expect(200).json();
    assert_eq!(audit["data"][0]["remote_addr"], CLIENT, "{audit}");
    let event = json!({"type": "order.created", "tenant": "acme"}).to_string();
    let answered = front.folder.path().join("headers");
    let keep = ["-d", &event, "--dump-header", answered.to_str().expect("a path")];
    let (status, event) = front.ask(CLIENT, &publisher, "/v1/events", &keep);
    assert_eq!(status, 201, "{event}");
    let got = receiver.wait_for(1, SOON).remove(0);
    assert_eq!(got.header("webhook-id"), event["id"].as_str());
    let headers = fs::read_to_string(&answered).expect("headers").to_lowercase();
    let id = headers.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("a request id").trim();
    assert_eq!(front.peer(id), CLIENT);

    // What a client writes there itself is believed neither through the proxy nor beside it.
    let forged = format!("X-Forwarded-For: {CLIENT}");
    let (_, answer) = front.ask(OTHER, &owner.token, "/v1/webhooks", &["-H", &forged, "--dump-header", "headers"]);
    assert_eq!(answer["data"][0]["id"], hook["id"], "{answer}");
    let headers = fs::read_to_string(&answered).expect("headers").to_lowercase();
    let id = headers.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("a request id").trim();
    assert_eq!(front.peer(id), OTHER);
    let mut beside = Command::new("curl");
    beside.args(["--silent", "--noproxy", "*", "--interface", OTHER, "-H", &forged, "-H", "X-Request-Id: beside"]);
    beside.arg(format!("{}/healthz", daemon.base_url()));
    assert!(beside.output().expect("curl").status.success());
    assert_eq!(front.peer("beside"), OTHER);
    let bound = json!({"role": "tenant", "tenant": "acme", "cidrs": [format!("{CLIENT}/32")]});
    let bound = key(daemon, &bound).token;
    assert_eq!(front.ask(CLIENT, &bound, "/v1/webhooks", &[]).0, 200);
    assert_eq!(front.ask(OTHER, &bound, "/v1/webhooks", &["-H", &forged]).0, 403);

    // Paths arrive as they were sent.
    let path = "/v1/events?type=order.created&context.a=%2F%20b&limit=1";
    let stamp = unix_seconds();
    let headers = [
        format!("X-API-Key: {}", owner.id),
        format!("X-Timestamp: {stamp}"),
        format!("X-Signature: {}", vibe_request(&owner.secret_key, "GET", path, "", stamp)),
    ];
    let (status, listing) = front.ask(CLIENT, "", path, &["-H", &headers[0], "-H", &headers[1], "-H", &headers[2]]);
    assert_eq!((status, &listing["data"]), (200, &json!([])), "{listing}");
    for path in ["//v1/events", "/v1//events", "/v1/%65vents", "/v1/x/../events"] {
        assert_eq!(front.ask(CLIENT, &owner.token, path, &["--path-as-is"]).0, 404, "{path}");
    }

    // A batch as large as the daemon takes.
    let large = json!({"type": "order.created", "tenant": "acme", "data": {"text": "x".repeat(250_000)}});
    let batch = json!({"events": vec![large; 33]}).to_string();
    assert!(batch.len() > 8_200_000);
    fs::write(front.folder.path().join("batch"), batch).expect("a file");
    let (status, answer) = front.ask(CLIENT, &publisher, "/v1/events/batch", &["--data-binary", "@batch"]);
    assert_eq!(status, 201, "{answer}");

    streams(front, &owner.token);
}

/// What comes down a stream is not held back.
fn streams(front: &Front, token: &str) {
    struct Running(Child);
    impl Drop for Running {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
    let out = front.folder.path().join("stream");
    let mut command = front.curl(CLIENT, token, "/v1/streams", &["--no-buffer", "-d", r#"{"events":["signal.*"]}"#]);
    let child = command.stdout(fs::File::create(&out).expect("a file")).spawn().expect("curl");
    let _running = Running(child);
    let come = |part: &str| {
        let read = || fs::read_to_string(&out).expect("text");
        let found = poll(SOON, || read().contains(part).then_some(()));
        assert!(found.is_some(), "no {part} in {}", read());
    };
    come("event: stream\n");
    let event = front.stage.publish(&json!({"type": "signal.generated", "tenant": "acme"}));
    come("event: delivery\n");
    come(&text(&event, "id"));
}

fn is_left_out() -> bool {
    let is_left_out = std::env::var_os("NO_PROXIES").is_some();
    if is_left_out {
        println!("NOT TESTED: NO_PROXIES says that there is no nginx and no Caddy");
    }
    is_left_out
}

#[test]
fn nginx_stands_in_front_of_a_daemon_as_the_manual_configures_it() {
    if is_left_out() {
        return;
    }
    stands_in_front(&Front::start(|folder, port, daemon| {
        let server = put(&chapter("nginx"), "listen 443 ssl;", &format!("listen 127.0.0.1:{port} ssl;"));
        let server = put(&server, "http://127.0.0.1:8080", &daemon.base_url());
        let place = |name: &str| folder.path().join(name).display().to_string();
        let server = put(&server, &format!("/etc/ssl/certs/{NAME}.pem"), &place("cert.pem"));
        let server = put(&server, &format!("/etc/ssl/private/{NAME}.key"), &place("key.pem"));
        let kept: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", place(name)))
            .concat();
        let main = format!("daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\n", place("pid"));
        let text = format!("{main}http {{\naccess_log off;\n{kept}{server}}}\n");
        fs::write(folder.path().join("nginx.conf"), text).expect("a file");
        let mut command = Command::new("nginx");
        command.args(["-p", &place(""), "-e", "stderr", "-c", "nginx.conf"]);
        command
    }));
}

#[test]
fn caddy_stands_in_front_of_a_daemon_as_the_manual_configures_it() {
    if is_left_out() {
        return;
    }
    stands_in_front(&Front::start(|folder, port, daemon| {
        let site = put(&chapter("caddy"), NAME, &format!("{NAME}:{port}"));
        let site = put(&site, "127.0.0.1:8080", &daemon.address().to_string());
        let site = site.replacen("{\n", "{\n    tls cert.pem key.pem\n", 1);
        let ours = "{\n    admin off\n    auto_https disable_redirects\n    default_bind 127.0.0.1\n}\n";
        fs::write(folder.path().join("Caddyfile"), format!("{ours}{site}")).expect("a file");
        let mut command = Command::new("caddy");
        command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
        command
    }));
}
