//! What the black-box tests share: the real binary, a client, receivers that behave and misbehave, signatures computed
//! anew. Knows the wire contract and nothing of the daemon's insides. Everything here blocks: use it from a plain
//! `#[test]`, not from inside a runtime.
//!
//!     let stage = Stage::start(Daemon::builder());              // daemon, tenant `acme`, its key, a publisher key
//!     let receiver = Receiver::ok();
//!     let webhook = stage.register(&json!({"url": receiver.url("/hook"), "events": ["*"]}));
//!     let event = stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
//!     receiver.wait_for(1, SOON);

#![allow(dead_code, unused_imports, reason = "each test binary compiles this for itself and uses its own part of it")]

mod client;
mod daemon;
pub mod pages;
mod python;
mod receiver;
pub mod signature;
mod tls;

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

pub use client::{Answer, Client, Failed, Kept};
pub use daemon::{Builder, Daemon};
pub use python::{
    Script, description_tool, library_of_false_time, listening, node_receiver, path_to_proxies, python_client,
    python_receiver, virtual_environment,
};
pub use receiver::{Receiver, Reply, Request};
pub use tls::{Authority, Certificate};

/// Long enough for anything that is to happen at once, also on a loaded machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The runtime behind the blocking calls and the receivers.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// A key as it is shown once, at creation.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub token: String,
    pub secret_key: String,
}

/// Creates a tenant.
pub fn tenant(daemon: &Daemon, id: &str) {
    let answer = daemon.admin().put(&format!("/admin/tenants/{id}"), &json!({}));
    assert!(matches!(answer.status, 200 | 201 | 204), "creating tenant {id}: {answer:?}");
}

/// Creates a key; `body` as in `POST /admin/keys`.
pub fn key(daemon: &Daemon, body: &Value) -> Key {
    let made = daemon.admin().post("/admin/keys", body).expect(201).json();
    let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{name} in {made}")).to_owned();
    Key { id: text("id"), token: text("token"), secret_key: text("secret_key") }
}

pub fn tenant_key(daemon: &Daemon, tenant: &str) -> Key {
    key(daemon, &json!({"role": "tenant", "tenant": tenant}))
}

pub fn publisher_key(daemon: &Daemon) -> Key {
    key(daemon, &json!({"role": "publisher"}))
}

/// Registers a lemon-style webhook.
pub fn register(client: &Client, body: &Value) -> Value {
    client.post("/v1/webhooks", body).expect(201).json()
}

/// Publishes one event.
pub fn publish(client: &Client, body: &Value) -> Value {
    client.post("/v1/events", body).expect(201).json()
}

/// A daemon with one tenant, `acme`: what most tests start from.
pub struct Stage {
    pub daemon: Daemon,
    /// Speaks with the tenant's key.
    pub owner: Client,
    /// Speaks with a publisher's key.
    pub publisher: Client,
}

impl Stage {
    pub fn start(builder: Builder) -> Self {
        let daemon = builder.start();
        tenant(&daemon, "acme");
        let owner = daemon.client().bearer(&tenant_key(&daemon, "acme").token);
        let publisher = daemon.client().bearer(&publisher_key(&daemon).token);
        Self { daemon, owner, publisher }
    }

    pub fn register(&self, body: &Value) -> Value {
        register(&self.owner, body)
    }

    pub fn publish(&self, body: &Value) -> Value {
        publish(&self.publisher, body)
    }

    /// `GET /v1/events/{id}/explain`, asked until `wanted` holds for the delivery to the one webhook.
    pub fn explained(&self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/events/{event}/explain");
        let mut last = Value::Null;
        let found = poll(SOON, || {
            last = self.owner.get(&path).expect(200).json();
            last["deliveries"].as_array().and_then(|all| all.iter().find(|delivery| wanted(delivery))).cloned()
        });
        found.unwrap_or_else(|| panic!("explain of {event} stays at {last:#}"))
    }

    /// `GET /v1/webhooks/{id}/attempts`, asked until there are at least `count`; oldest first.
    pub fn attempts(&self, webhook: &str, count: usize) -> Vec<Value> {
        let path = format!("/v1/webhooks/{webhook}/attempts");
        let mut last = Value::Null;
        let found = poll(SOON, || {
            last = self.owner.get(&path).expect(200).json();
            last["data"].as_array().filter(|all| all.len() >= count).cloned()
        });
        let mut attempts = found.unwrap_or_else(|| panic!("attempts of {webhook} stay at {last:#}"));
        attempts.sort_by_key(|attempt| text(attempt, "at"));
        attempts
    }
}

/// The string member `name` of `value`.
pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned()
}

/// Asks until there is an answer, for at most `within`.
pub fn poll<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = ask() {
            return Some(found);
        }
        if started.elapsed() > within {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Stops the publishers also when the test fails, so that the scope ends.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A port of 127.0.0.1 that was free a moment ago. It lies below the range from which the kernel takes the ports of
/// outgoing connections: nobody takes it while a daemon is restarted.
pub fn free_port() -> u16 {
    const LOWEST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(LOWEST + offset).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Seconds since 1970, for signatures and their tolerance.
#[allow(clippy::disallowed_methods, reason = "the tests live in the machine's own time")]
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970").as_secs()
}
