//! Every key there is, with its kind and its bounds, as one table. Owns what may be written.
//!
//! Invariant: this table, `settings` and `webhookd.toml` name the same keys (a test holds them together). Leaves reading
//! values to `value` and rules between keys to `rules`.

use std::time::Duration;

use super::plan::RETRIES_MAX;
use crate::limits::METRICS_WEBHOOKS_MAX;

/// One key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
}

/// What may stand behind a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Table(&'static [Key]),
    Leaf(Leaf),
    List(Leaf),
    /// The word stands for "not set"; anything else is the kind.
    Optional(&'static str, &'static Kind),
    /// A plan's name or a plan.
    PlanChoice,
    /// Any name, each a plan.
    Plans,
    EventTypes,
}

/// A single value. Bounds are inclusive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leaf {
    Bool,
    Text,
    EventName,
    Channel,
    PlanName,
    Path,
    SocketPath,
    Address,
    Network,
    Ip,
    Integer(u64, u64),
    Number(f64, f64),
    Duration(Duration, Duration),
    Size(u64, u64),
    LogLevel,
    Choice(&'static [&'static str]),
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PIB: u64 = 1 << 50;

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

const fn leaf(name: &'static str, leaf: Leaf) -> Key {
    key(name, Kind::Leaf(leaf))
}

const fn optional(name: &'static str, word: &'static str, kind: &'static Kind) -> Key {
    key(name, Kind::Optional(word, kind))
}

const PATH: Kind = Kind::Leaf(Leaf::Path);
const ADDRESS: Kind = Kind::Leaf(Leaf::Address);
/// A time-out of our own listeners.
const WAIT: Leaf = Leaf::Duration(MILLISECOND, HOUR);
/// How long something is kept; a hundred years keeps sums far from overflow.
const KEPT: Leaf = Leaf::Duration(SECOND, Duration::from_secs(36_500 * 24 * 3_600));
/// A delay of a plan.
const DELAY: Leaf = Leaf::Duration(MILLISECOND, Duration::from_secs(30 * 24 * 3_600));
const JITTER: Leaf = Leaf::Number(0.0, 1.0);
const SIZE: Kind = Kind::Leaf(Leaf::Size(MIB, PIB));

/// The top of `webhookd.toml`.
pub(super) static ROOT: &[Key] = &[
    leaf("state_dir", Leaf::Path),
    key("server", Kind::Table(SERVER)),
    key("admin", Kind::Table(ADMIN)),
    key("egress", Kind::Table(EGRESS)),
    key("retry", Kind::Table(RETRY)),
    key("plans", Kind::Plans),
    key("retention", Kind::Table(RETENTION)),
    key("metrics", Kind::Table(METRICS)),
    key("store", Kind::Table(STORE)),
    key("circuit", Kind::Table(CIRCUIT)),
    key("limits", Kind::Table(LIMITS)),
    key("dialects", Kind::Table(DIALECTS)),
    key("secrets", Kind::Table(SECRETS)),
    key("log", Kind::Table(LOG)),
    key("catalogue", Kind::Table(CATALOGUE)),
    key("event_types", Kind::EventTypes),
];

const SERVER: &[Key] = &[
    key("listen", Kind::List(Leaf::Address)),
    key("plaintext_listen", Kind::List(Leaf::Address)),
    leaf("danger_plaintext_anywhere", Leaf::Bool),
    key("tls", Kind::Table(TLS)),
    optional("workers", "auto", &Kind::Leaf(Leaf::Integer(1, 1_024))),
    leaf("header_timeout", WAIT),
    leaf("handshake_timeout", WAIT),
    leaf("body_timeout", WAIT),
    leaf("max_connections", Leaf::Integer(1, 1_000_000)),
    key("trusted_proxies", Kind::List(Leaf::Network)),
    leaf("client_address_header", Leaf::Choice(&["x-forwarded-for", "forwarded"])),
];
const TLS: &[Key] = &[optional("cert", "none", &PATH), optional("key", "none", &PATH)];
const ADMIN: &[Key] = &[leaf("socket", Leaf::SocketPath), optional("listen", "off", &ADDRESS)];
const EGRESS: &[Key] = &[
    leaf("require_https", Leaf::Bool),
    key("allow", Kind::List(Leaf::Network)),
    optional("ca_file", "system", &PATH),
    optional("timeout", "auto", &Kind::Leaf(Leaf::Duration(SECOND, Duration::from_secs(60)))),
    leaf("max_in_flight_per_webhook", Leaf::Integer(1, 1_024)),
    leaf("max_in_flight_per_host", Leaf::Integer(1, 65_536)),
    leaf("max_in_flight_per_tenant", Leaf::Integer(1, 1_000_000)),
    leaf("max_in_flight", Leaf::Integer(1, 1_000_000)),
    key("source_addresses", Kind::List(Leaf::Ip)),
    optional("denied_ports", "standard", &Kind::List(Leaf::Integer(1, 65_535))),
];
const RETRY: &[Key] = &[key("default", Kind::PlanChoice)];
const RETENTION: &[Key] = &[
    leaf("events", KEPT),
    leaf("attempts", KEPT),
    leaf("dead_letters", KEPT),
    leaf("idempotency", KEPT),
    leaf("audit", KEPT),
    optional("max_bytes", "off", &SIZE),
];
const METRICS: &[Key] = &[
    optional("listen", "off", &ADDRESS),
    optional("per_webhook", "off", &Kind::Leaf(Leaf::Integer(1, METRICS_WEBHOOKS_MAX as u64))),
];
const STORE: &[Key] = &[optional("disk_budget", "off", &SIZE), leaf("cache", Leaf::Size(MIB, PIB))];
const CIRCUIT: &[Key] = &[
    leaf("failures", Leaf::Integer(0, 1_000_000)),
    leaf("probe_first", Leaf::Duration(MILLISECOND, DAY)),
    leaf("probe_max", Leaf::Duration(MILLISECOND, DAY)),
];
const LIMITS: &[Key] = &[
    leaf("webhooks_per_tenant", Leaf::Integer(1, 10_000_000)),
    optional("pending_per_tenant", "off", &Kind::Leaf(Leaf::Integer(1, u32::MAX as u64))),
    optional("publish_rate", "off", &Kind::Leaf(Leaf::Integer(1, 1_000_000_000))),
    leaf("event_bytes", Leaf::Size(KIB, 64 * MIB)),
    leaf("batch_bytes", Leaf::Size(KIB, 256 * MIB)),
];
const DIALECT_PLAN: Key = optional("plan", "none", &Kind::Leaf(Leaf::PlanName));
const DIALECTS: &[Key] = &[
    key("lemon", Kind::Table(&[leaf("require_data_privacy_headers", Leaf::Bool), DIALECT_PLAN])),
    key("omnia", Kind::Table(&[leaf("max_webhooks", Leaf::Integer(1, 10_000_000)), DIALECT_PLAN])),
    key("onemetric", Kind::Table(&[DIALECT_PLAN])),
];
const SECRETS: &[Key] = &[
    leaf("rotation_overlap", Leaf::Duration(MILLISECOND, Duration::from_secs(365 * 24 * 3_600))),
    optional("key_file", "auto", &PATH),
];
const LOG: &[Key] = &[
    leaf("level", Leaf::LogLevel),
    leaf("format", Leaf::Choice(&["auto", "text", "json"])),
    leaf("access", Leaf::Bool),
];
const CATALOGUE: &[Key] = &[leaf("strict", Leaf::Bool)];

/// The members of a plan.
pub(super) static PLAN: &[Key] = &[
    key("delays", Kind::List(DELAY)),
    leaf("first", DELAY),
    leaf("factor", Leaf::Number(1.0, 1_000.0)),
    leaf("max", DELAY),
    leaf("retries", Leaf::Integer(0, RETRIES_MAX as u64)),
    leaf("jitter", JITTER),
];

/// The members of an event type.
pub(super) static EVENT_TYPE: &[Key] = &[
    leaf("name", Leaf::EventName),
    leaf("description", Leaf::Text),
    leaf("omnia_channel", Leaf::Channel),
    leaf("schema", Leaf::Path),
];

/// Every key that is a value, dotted, with its kind; those of plans and event types are left out.
pub(super) fn leaves() -> Vec<(String, Kind)> {
    fn walk(prefix: &str, keys: &[Key], found: &mut Vec<(String, Kind)>) {
        for Key { name, kind } in keys {
            let path = join(prefix, name);
            match kind {
                Kind::Table(keys) => walk(&path, keys, found),
                _ => found.push((path, *kind)),
            }
        }
    }
    let mut found = Vec::new();
    walk("", ROOT, &mut found);
    found
}

/// The kind behind a dotted key.
pub(super) fn find(path: &str) -> Option<Kind> {
    let mut kind = Kind::Table(ROOT);
    for name in path.split('.') {
        kind = match kind {
            Kind::Table(keys) => keys.iter().find(|key| key.name == name)?.kind,
            Kind::Plans if super::value::is_plan_name(name) => Kind::Table(PLAN),
            Kind::PlanChoice => PLAN.iter().find(|key| key.name == name)?.kind,
            _ => return None,
        };
    }
    Some(kind)
}

/// `prefix.name`, or `name` at the top.
pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The variable that sets a dotted key.
pub(super) fn variable(path: &str) -> String {
    format!("WEBHOOKD_{}", path.replace('.', "__").to_uppercase())
}

/// The nearest of `known`, when it is near enough to be what was meant.
pub(super) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    let edits = |name: &&str| strsim::damerau_levenshtein(&written, &name.to_lowercase());
    let best = known.into_iter().min_by_key(edits)?;
    (edits(&best) <= (written.chars().count() / 3).clamp(1, 4)).then_some(best)
}

/// What was probably meant by `name` in the table at `prefix`: a key of that table, or one of that name elsewhere.
pub(super) fn did_you_mean(prefix: &str, name: &str, keys: &[Key]) -> Option<String> {
    if let Some(near) = nearest(name, keys.iter().map(|key| key.name)) {
        return Some(join(prefix, near));
    }
    let leaves = leaves();
    let mut namesakes = leaves.iter().filter(|(path, _)| path.rsplit('.').next() == Some(name));
    namesakes.next().filter(|_| namesakes.next().is_none()).map(|(path, _)| path.clone())
}
