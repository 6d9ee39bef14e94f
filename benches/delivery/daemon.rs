//! The daemon as a subject: starts the real binary on a fresh state folder, and makes tenant, keys and webhooks through
//! its own interface (admin socket, `POST /v1/webhooks`). Knows the contract and nothing of the daemon's insides.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::children::{self, Process};
use crate::tls;

/// The daemon that was built with this benchmark.
pub const OURS: &str = env!("CARGO_BIN_EXE_webhookd");
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long it idles before its memory is read.
const IDLE: Duration = Duration::from_millis(400);

pub struct Daemon {
    pub process: Process,
    /// Where it takes events; `plain` is the same without TLS.
    pub address: SocketAddr,
    plain: SocketAddr,
    socket: PathBuf,
    pub publisher_token: String,
    pub idle_rss_kib: u64,
}

impl Daemon {
    /// Starts it in `folder` with one webhook for each of `receivers`.
    pub fn start(folder: &Path, receivers: &[SocketAddr], permits: usize, with_tls: bool) -> Self {
        Self::start_by(Path::new(OURS), folder, receivers, permits, with_tls)
    }

    /// The same with the binary `program`.
    pub fn start_by(program: &Path, folder: &Path, receivers: &[SocketAddr], permits: usize, with_tls: bool) -> Self {
        let mut daemon = Self::open_by(program, folder, permits, with_tls, "");
        daemon.idle();
        daemon.publisher();
        let tenant = daemon.tenant("bench");
        let scheme = if with_tls { "https" } else { "http" };
        for receiver in receivers {
            daemon.subscribe(&tenant, "", &format!("{scheme}://{receiver}/hook"), "*");
        }
        daemon
    }

    /// Starts it in `folder`, on whatever store is there; `more` goes into its configuration.
    pub fn open(folder: &Path, permits: usize, with_tls: bool, more: &str) -> Self {
        Self::open_by(Path::new(OURS), folder, permits, with_tls, more)
    }

    fn open_by(program: &Path, folder: &Path, permits: usize, with_tls: bool, more: &str) -> Self {
        let (plain, secure) = (free_address(), with_tls.then(free_address));
        let config = folder.join("webhookd.toml");
        let text = settings(folder, plain, secure, permits) + more;
        std::fs::write(&config, text).expect("writing the configuration");
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(&config).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let mut process = Process::spawn(&mut command);
        wait_ready(&mut process, plain, folder);
        Self {
            process,
            address: secure.unwrap_or(plain),
            plain,
            socket: folder.join("admin.sock"),
            publisher_token: String::new(),
            idle_rss_kib: 0,
        }
    }

    /// Reads its memory after a while of doing nothing.
    pub fn idle(&mut self) {
        std::thread::sleep(IDLE);
        (self.idle_rss_kib, _) = children::memory_kib(self.process.pid());
    }

    /// Makes the key that events are published with.
    pub fn publisher(&mut self) {
        let key = self.admin("POST", "/admin/keys", &json!({"role": "publisher"}));
        token(&key).clone_into(&mut self.publisher_token);
    }

    /// Makes a tenant, if need be, and a key of its own.
    pub fn tenant(&self, id: &str) -> String {
        self.admin("PUT", &format!("/admin/tenants/{id}"), &json!({}));
        token(&self.admin("POST", "/admin/keys", &json!({"role": "tenant", "tenant": id}))).to_owned()
    }

    /// Makes a webhook; `query` names the tenant where the key does not.
    pub fn subscribe(&self, token: &str, query: &str, url: &str, events: &str) {
        let body = json!({"url": url, "events": [events]});
        let (status, answer) = self.ask("POST", &format!("/v1/webhooks{query}"), token, &body);
        assert_eq!(status, 201, "registering a webhook: {answer}");
    }

    /// One request to the administration.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let stream = UnixStream::connect(&self.socket).expect("the admin socket");
        let (status, answer) = exchange(stream, method, path, "", body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Has it count its figures; gives them as they are.
    pub fn scrape(&self) -> String {
        self.admin("GET", "/metrics", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// That share of its commits took no longer, in milliseconds, since it started: between two bounds of the histogram, of
    /// which each is twice the one before.
    pub fn commit_ms(&self, share: f64) -> f64 {
        let figures = self.scrape();
        let bucket = |line: &str| -> Option<(f64, f64)> {
            let rest = line.strip_prefix("webhookd_store_commit_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.parse().ok()?))
        };
        let buckets: Vec<(f64, f64)> = figures.lines().filter_map(bucket).collect();
        let wanted = share * buckets.last().map_or(0.0, |(_, all)| *all);
        let mut below = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= wanted {
                let part = (wanted - below.1) / (count - below.1).max(1.0);
                return (below.0 + (bound - below.0) * part) * 1e3;
            }
            below = (bound, count);
        }
        f64::NAN
    }

    /// One request to the API, over a connection of its own.
    pub fn ask(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
        exchange(TcpStream::connect(self.plain).expect("the daemon's port"), method, path, token, body)
    }
}

fn token(key: &Value) -> &str {
    key["token"].as_str().expect("a token in the answer")
}

/// `secure`: the address that speaks TLS, where there is one. Tenant and webhooks are made over the plain one.
fn settings(folder: &Path, address: SocketAddr, secure: Option<SocketAddr>, permits: usize) -> String {
    let state = folder.join("state");
    let socket = folder.join("admin.sock");
    let listen = secure.map_or_else(String::new, |address| format!("\"{address}\""));
    let mut text = format!(
        "state_dir = {state:?}\n\n[server]\nlisten = [{listen}]\nplaintext_listen = [\"{address}\"]\n\n[admin]\nsocket = {socket:?}\n\n\
         [egress]\nrequire_https = false\nallow = [\"127.0.0.0/8\"]\nmax_in_flight_per_webhook = {permits}\n"
    );
    if secure.is_some() {
        let [authority, certificate, key] = [tls::AUTHORITY, tls::CERTIFICATE, tls::KEY].map(|name| folder.join(name));
        writeln!(text, "ca_file = {authority:?}\n\n[server.tls]\ncert = {certificate:?}\nkey = {key:?}")
            .expect("writing to a string");
    }
    text
}

fn free_address() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("an address")
}

fn wait_ready(process: &mut Process, address: SocketAddr, folder: &Path) {
    let started = Instant::now();
    loop {
        if let Ok(stream) = TcpStream::connect(address)
            && exchange(stream, "GET", "/readyz", "", &Value::Null).0 == 200
        {
            return;
        }
        if process.ended() || started.elapsed() > READY_WITHIN {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("the daemon is not ready after {:?}; its log:\n{log}", started.elapsed());
        }
        // Between two looks at a child that starts; nothing is measured before it is ready.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One request over a connection of its own. Status 0 when there was no answer.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let authorization = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{authorization}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).is_err() || stream.read_to_end(&mut answer).is_err() {
        return (0, Value::Null);
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}
