//! The API's description held against the API: it is served where it should be, keeps the rules of OpenAPI, and is true, as
//! far as schemathesis can tell with all its checks on. That asks as a tenant, as a publisher and as an admin, the same
//! requests each time; other ones, and more of them:
//!
//!     SEED=7 EXAMPLES=200 cargo test --test openapi -- --nocapture schemathesis

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Client, Daemon, Key, Receiver, Reply, SOON, description_tool, free_port, key, poll, publisher_key, register,
    tenant, tenant_key, text,
};

const DOCUMENT: &str = include_str!("../docs/openapi.json");
/// Cases that are made for each operation and phase.
const EXAMPLES: &str = "10";
/// A run takes a quarter of a minute on a machine of its own.
const PATIENCE: Duration = Duration::from_secs(300);

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi").join(name)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn the_document_is_valid_and_its_examples_fit() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let (script, document) = (here("valid.py"), document.display().to_string());
    let arguments = [script.to_str().expect("a path"), &document];
    let (valid, printed) = description_tool("python", &arguments, &[], folder.path(), PATIENCE);
    assert!(valid && printed.is_empty(), "{printed}");
}

#[test]
fn the_document_is_served_where_the_api_is() {
    let [admin, metrics] = [(); 2].map(|()| local(free_port()));
    let listeners = Daemon::builder().set_text("admin.listen", admin.to_string());
    let daemon = listeners.set_text("metrics.listen", metrics.to_string()).start();
    for client in [daemon.client(), daemon.admin(), Client::tcp(admin)] {
        let got = client.get("/openapi.json").expect(200);
        assert_eq!((got.header("content-type"), got.text().as_str()), (Some("application/json"), DOCUMENT));
        let tag = got.header("etag").expect("a tag").to_owned();
        let again = client.header("if-none-match", &tag).get("/openapi.json").expect(304);
        assert!(again.body.is_empty() && again.header("etag") == Some(&tag));
    }
    Client::tcp(metrics).get("/openapi.json").expect(404);
}

#[test]
fn schemathesis_finds_nothing_as_a_tenant() {
    // The answer that is a stream has no end, which it waits for, and without one there is nothing to answer to.
    let ours = ["--exclude-path-regex", "^/(admin|metrics|v1/streams)"];
    Play::start().run("acme", &ours);
}

#[test]
fn schemathesis_finds_nothing_as_a_publisher() {
    let own = ["publish", "publishBatch", "listEventTypes"];
    let mut arguments: Vec<&str> = own.iter().flat_map(|name| ["--include-operation-id", name]).collect();
    // Nothing that a publisher may do goes on from the answer to something else.
    arguments.extend(["--phases", "examples,coverage,fuzzing"]);
    Play::start().run("publisher", &arguments);
}

#[test]
fn schemathesis_finds_nothing_as_an_admin() {
    Play::start().run("admin", &["--include-path-regex", "^/(admin|metrics|healthz|readyz|openapi)"]);
}

/// A daemon with something of everything, so that requests find what they ask for.
struct Play {
    daemon: Daemon,
    admin: SocketAddr,
    receiver: Receiver,
    keys: Vec<(&'static str, Key)>,
    webhook: String,
    event: String,
}

impl Play {
    fn start() -> Self {
        let admin = local(free_port());
        let daemon = builder(admin).start();
        let receiver = Receiver::forgetful(|request| match request.path.as_str() {
            "/failing" => Reply::status(500),
            _ => Reply::ok(),
        });
        tenant(&daemon, "acme");
        tenant(&daemon, "beta");
        let acme = key(&daemon, &json!({"role": "tenant", "tenant": "acme", "publish": true}));
        let owner = daemon.client().bearer(&acme.token);
        let keys = vec![
            ("acme", acme),
            ("beta", tenant_key(&daemon, "beta")),
            ("publisher", publisher_key(&daemon)),
            ("admin", key(&daemon, &json!({"role": "admin"}))),
        ];
        let webhook = register(&owner, &json!({"url": receiver.url("/"), "events": ["*"]}));
        // Everything that is published dies on its way to this one.
        register(&owner, &json!({"url": receiver.url("/failing"), "events": ["*"], "plan": "once"}));
        let event = owner.post("/v1/events", &json!({"type": "order.updated", "context": {"account": "1"}}));
        let event = text(&event.expect(201).json(), "id");
        let dead = || owner.get("/v1/dead-letters").expect(200).json()["data"][0]["id"].as_str().map(str::to_owned);
        poll(SOON, dead).expect("a dead letter");
        Self { daemon, admin, receiver, keys, webhook: text(&webhook, "id"), event }
    }

    /// Runs schemathesis with the key of that role, and fails with what it printed if it finds anything.
    fn run(&self, role: &str, arguments: &[&str]) {
        let folder = self.daemon.folder();
        let bearer = |(name, key): &(&str, Key)| json!({"name": name, "fixedHeaders": [{"name": "Authorization", "value": format!("Bearer {}", key.token)}]});
        let keyring = json!({"auth": self.keys.iter().map(bearer).collect::<Vec<Value>>()});
        std::fs::write(folder.join("keyring.json"), keyring.to_string()).expect("writing the keyring");
        let ids: Vec<&str> = self.keys.iter().map(|(_, key)| key.id.as_str()).collect();
        let (hooks, keyring, receiver) = (here("hooks.py"), folder.join("keyring.json"), self.receiver.url(""));
        let path = |path: &Path| path.to_str().expect("a path").to_owned();
        let environment = [
            ("SCHEMATHESIS_HOOKS", path(&hooks)),
            ("KEYRING", path(&keyring)),
            ("RECEIVER", receiver),
            ("ROLE", role.to_owned()),
            ("EVENT", self.event.clone()),
            ("WEBHOOK", self.webhook.clone()),
            ("KEYS", ids.join(" ")),
        ];
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let document =
            format!("http://{}/openapi.json", if role == "admin" { self.admin } else { self.daemon.address() });
        let config = path(&here("schemathesis.toml"));
        let chosen = |name: &str| std::env::var(name).ok();
        let (seed, examples) = (chosen("SEED"), chosen("EXAMPLES").unwrap_or_else(|| EXAMPLES.to_owned()));
        let mut all = vec!["--config-file", &config, "run", &document, "--checks", "all", "--no-color"];
        all.extend(["--max-examples", &examples]);
        match &seed {
            Some(seed) => all.extend(["--seed", seed]),
            None => all.push("--generation-deterministic"),
        }
        all.extend(arguments);
        let within = if seed.is_some() { PATIENCE * 10 } else { PATIENCE };
        let (clean, printed) = description_tool("schemathesis", &all, &environment, folder, within);
        println!("{printed}");
        assert!(clean, "schemathesis as {role}:\n{printed}");
    }
}

/// Limits out of the way, the fastest of plans, more channels than a list may have, and no way out of this machine.
fn builder(admin: SocketAddr) -> support::Builder {
    let channels = (0..300).map(|n| {
        let number = format!("name = \"announced.{n}\"\ndescription = \"\"\nomnia_channel = \"CHANNEL_{n}\"\n");
        format!("[[event_types]]\n{number}")
    });
    let omnia = "[[event_types]]\nname = \"account.deposit_received\"\nomnia_channel = \"ACCOUNT_ACTIVITY\"\n";
    Daemon::builder()
        .set_text("admin.listen", admin.to_string())
        .set("egress.source_addresses", "[\"127.0.0.1\"]")
        .set("limits.webhooks_per_tenant", "1000000")
        .set("dialects.omnia.max_webhooks", "1000000")
        .set("circuit.failures", "0")
        .extra("[plans.once]\ndelays = [\"1s\"]")
        .extra(&channels.chain([omnia.to_owned()]).collect::<String>())
}
