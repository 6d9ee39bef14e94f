//! The configuration as typed values, with the built-in defaults. Owns the shape that the rest of the daemon reads.
//!
//! Invariant: a `Config` that `load` returned has passed every rule of `schema` and `rules`, and holds nothing secret, so
//! it may be shown whole. Leaves reading it from files and variables to `source`, and the keys' bounds to `schema`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::plan::{self, Plan, PlanChoice};
use super::text;

/// Name of the key file, in the state folder and among systemd's credentials.
pub(super) const KEY_FILE: &str = "webhookd.key";
/// Names of the certificate chain and its private key among systemd's credentials.
pub(super) const CERT: &str = "cert.pem";
pub(super) const CERT_KEY: &str = "key.pem";

/// The effective configuration. Field names are the keys of `webhookd.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub state_dir: PathBuf,
    pub server: Server,
    pub admin: Admin,
    pub egress: Egress,
    pub retry: Retry,
    /// Every plan there is, the built-in ones too.
    pub plans: BTreeMap<String, Plan>,
    pub retention: Retention,
    pub metrics: Metrics,
    pub store: Store,
    pub circuit: Circuit,
    pub limits: Limits,
    pub dialects: Dialects,
    pub secrets: Secrets,
    pub log: Log,
    pub catalogue: Catalogue,
    /// The catalogue: what was configured, otherwise the built-in one.
    pub event_types: Vec<EventType>,
}

impl Config {
    /// The plan of that name.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name)
    }

    /// The plan for deliveries that nothing more specific decides.
    #[must_use]
    pub fn default_plan(&self) -> Option<&Plan> {
        match &self.retry.default {
            PlanChoice::Named(name) => self.plan(name),
            PlanChoice::Inline(plan) => Some(plan),
        }
    }

    /// Where the key file is: `secrets.key_file`, otherwise in the state folder.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.secrets.key_file.clone().unwrap_or_else(|| self.state_dir.join(KEY_FILE))
    }

    /// Where the store is.
    #[must_use]
    pub fn store_file(&self) -> PathBuf {
        self.state_dir.join("webhookd.redb")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/webhookd"),
            server: Server::default(),
            admin: Admin::default(),
            egress: Egress::default(),
            retry: Retry::default(),
            plans: plan::built_in(),
            retention: Retention::default(),
            metrics: Metrics::default(),
            store: Store::default(),
            circuit: Circuit::default(),
            limits: Limits::default(),
            dialects: Dialects::default(),
            secrets: Secrets::default(),
            log: Log::default(),
            catalogue: Catalogue::default(),
            event_types: super::catalogue::built_in(),
        }
    }
}

/// The public listeners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// TLS listeners.
    pub listen: Vec<SocketAddr>,
    pub plaintext_listen: Vec<SocketAddr>,
    pub danger_plaintext_anywhere: bool,
    pub tls: Tls,
    /// Worker threads; `None`: one a core.
    pub workers: Option<usize>,
    /// From the start of a request to the end of its headers.
    #[serde(with = "text::duration")]
    pub header_timeout: Duration,
    #[serde(with = "text::duration")]
    pub handshake_timeout: Duration,
    #[serde(with = "text::duration")]
    pub body_timeout: Duration,
    pub max_connections: usize,
    /// Proxies that are believed about their clients' addresses.
    pub trusted_proxies: Vec<IpNet>,
    pub client_address_header: AddressHeader,
}

/// Where trusted proxies name the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressHeader {
    XForwardedFor,
    Forwarded,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8443))],
            plaintext_listen: Vec::new(),
            danger_plaintext_anywhere: false,
            tls: Tls::default(),
            workers: None,
            header_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            max_connections: 4_096,
            trusted_proxies: Vec::new(),
            client_address_header: AddressHeader::XForwardedFor,
        }
    }
}

/// PEM files of the TLS listeners; both or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl Tls {
    /// Certificate and key, when both are named.
    #[must_use]
    pub fn pair(&self) -> Option<(&Path, &Path)> {
        self.cert.as_deref().zip(self.key.as_deref())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    pub socket: PathBuf,
    pub listen: Option<SocketAddr>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/webhookd/admin.sock"), listen: None }
    }
}

/// How receivers are reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    pub require_https: bool,
    /// Networks that are let through although they are not global.
    pub allow: Vec<IpNet>,
    /// PEM certificates trusted instead of the system's; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// The whole exchange, 1 s to 60 s; `None`: by dialect ([`Egress::timeout_or`]).
    #[serde(with = "text::duration_option")]
    pub timeout: Option<Duration>,
    pub max_in_flight_per_webhook: usize,
    pub max_in_flight_per_host: usize,
    pub max_in_flight_per_tenant: usize,
    pub max_in_flight: usize,
    pub source_addresses: Vec<IpAddr>,
    /// `None`: the guard's own list.
    pub denied_ports: Option<Vec<u16>>,
}

impl Egress {
    /// `egress.timeout`, or the dialect's own (lemon 10 s, the others 30 s) when none is configured.
    #[must_use]
    pub fn timeout_or(&self, dialect: Duration) -> Duration {
        self.timeout.unwrap_or(dialect)
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            require_https: true,
            allow: Vec::new(),
            ca_file: None,
            timeout: None,
            max_in_flight_per_webhook: 8,
            max_in_flight_per_host: 64,
            max_in_flight_per_tenant: 256,
            max_in_flight: 1_024,
            source_addresses: Vec::new(),
            denied_ports: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    pub default: PlanChoice,
}

impl Default for Retry {
    fn default() -> Self {
        Self { default: PlanChoice::Named(plan::STANDARD.to_owned()) }
    }
}

/// How long finished things are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    #[serde(with = "text::duration")]
    pub events: Duration,
    #[serde(with = "text::duration")]
    pub attempts: Duration,
    #[serde(with = "text::duration")]
    pub dead_letters: Duration,
    #[serde(with = "text::duration")]
    pub idempotency: Duration,
    /// What stands in the audit log.
    #[serde(with = "text::duration")]
    pub audit: Duration,
    /// Bytes of the store above which the oldest finished events go early.
    #[serde(with = "text::size_option")]
    pub max_bytes: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3_600);
        Self {
            events: 30 * DAY,
            attempts: 14 * DAY,
            dead_letters: 90 * DAY,
            idempotency: DAY,
            audit: 90 * DAY,
            max_bytes: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub listen: Option<SocketAddr>,
    /// Webhooks that have figures of their own.
    pub per_webhook: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Bytes of the store above which publishing is refused (503).
    #[serde(with = "text::size_option")]
    pub disk_budget: Option<u64>,
    /// Bytes.
    #[serde(with = "text::size")]
    pub cache: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { disk_budget: None, cache: 8 << 20 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Circuit {
    /// Failures in a row that open it; 0: no circuit.
    pub failures: u32,
    #[serde(with = "text::duration")]
    pub probe_first: Duration,
    #[serde(with = "text::duration")]
    pub probe_max: Duration,
}

impl Default for Circuit {
    fn default() -> Self {
        Self { failures: 5, probe_first: Duration::from_secs(30), probe_max: Duration::from_secs(300) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub webhooks_per_tenant: u32,
    pub pending_per_tenant: Option<u64>,
    /// Events per second and key.
    pub publish_rate: Option<u32>,
    /// Bytes of one published event.
    #[serde(with = "text::size")]
    pub event_bytes: u64,
    /// Bytes of one batch.
    #[serde(with = "text::size")]
    pub batch_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            webhooks_per_tenant: 1_000,
            pending_per_tenant: None,
            publish_rate: None,
            event_bytes: 256 << 10,
            batch_bytes: 8 << 20,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dialects {
    pub lemon: Lemon,
    pub omnia: Omnia,
    pub onemetric: OneMetric,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lemon {
    pub require_data_privacy_headers: bool,
    /// The plan of webhooks that have none of their own or their tenant's, by name; so for the other dialects.
    pub plan: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Omnia {
    pub max_webhooks: u32,
    pub plan: Option<String>,
}

impl Default for Omnia {
    fn default() -> Self {
        Self { max_webhooks: 5, plan: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OneMetric {
    pub plan: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// How long the old secret signs too after a rotation.
    #[serde(with = "text::duration")]
    pub rotation_overlap: Duration,
    /// `None`: `webhookd.key` in the state folder ([`Config::key_file`]); a credential of that name that systemd hands over
    /// stands here as if it had been configured.
    pub key_file: Option<PathBuf>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { rotation_overlap: Duration::from_secs(24 * 3_600), key_file: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives of tracing's EnvFilter.
    pub level: String,
    pub format: LogFormat,
    /// One line for each request.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto, access: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Fields to the journal, text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Catalogue {
    /// Whether types that are not in the catalogue are refused.
    pub strict: bool,
}

/// One entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventType {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// The Omnia channel that this type fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omnia_channel: Option<String>,
    /// A JSON Schema file for `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<PathBuf>,
}
