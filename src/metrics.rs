//! The daemon's own figures, in base units, in the form that Prometheus scrapes. Owns the registry and the names.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Whose a webhook's own figures are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OwnLabels {
    pub webhook: String,
    pub tenant: String,
}

/// How one webhook stands.
pub struct OfWebhook {
    pub labels: OwnLabels,
    pub pending: i64,
    pub dead: i64,
    pub failures: i64,
    /// Wall time; 0 before the first.
    pub last_success_seconds: f64,
}

/// The result of an attempt that succeeded.
pub const DELIVERED: &str = "delivered";

/// What came of an attempt: `delivered`, or the class of its failure.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    pub result: &'static str,
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeliveryLabels {
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
pub enum Outcome {
    delivered,
    dead,
    cancelled,
}

/// What was reported of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NewsLabels {
    pub kind: &'static str,
}

/// Webhooks by what they are: `active`, `inactive`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookLabels {
    pub state: &'static str,
}

/// Pending deliveries by where they stand: `fresh` (in memory), `waiting` (queued, never tried), `started` (queued, tried), `held` (another with their ordering key comes first).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PendingLabels {
    pub state: &'static str,
}

/// Jobs that ended, by what they did and how they ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabels {
    pub kind: &'static str,
    pub state: &'static str,
}

/// Deliveries that jobs were about, by what they did and what came of it: `done`, `skipped`, `failed`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobDeliveryLabels {
    pub kind: &'static str,
    pub result: &'static str,
}

/// Requests by status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    status: u16,
}

/// The status of what was published.
const CREATED: u16 = 201;

/// How full the store is, and what retention has done.
#[derive(Default)]
pub struct RoomFigures {
    /// What the store's files take on the disk, and what of that is in use.
    pub store_taken_bytes: Gauge,
    pub store_used_bytes: Gauge,
    pub disk_free_bytes: Gauge,
    /// 1 while nothing is accepted for want of room.
    pub publishing_refused: Gauge,
    pub retention_runs: Counter,
    pub retention_events: Counter,
    pub retention_attempts: Counter,
    pub retention_dead_letters: Counter,
    pub retention_bytes: Counter,
    /// By the clock of retention.
    pub oldest_event_seconds: Gauge<f64, AtomicU64>,
}

/// What happens at the doors, over all of them.
#[derive(Clone, Default)]
pub struct Connections {
    pub open: Gauge,
    pub accepted: Counter,
    /// Idle ones that were closed to make room.
    pub shed: Counter,
    /// Closed at once: their address held its share.
    pub refused: Counter,
    pub accept_errors: Counter,
    /// Failed, or took too long.
    pub handshake_errors: Counter,
}

/// The bodies of requests, over all public listeners.
#[derive(Clone, Default)]
pub struct RequestBodies {
    /// Bytes of those that are being read or held.
    pub held: Gauge,
    /// Turned away for want of room.
    pub refused: Counter,
}

pub struct Metrics {
    registry: Registry,
    pub events_accepted: Counter,
    pub deliveries: Family<DeliveryLabels, Counter>,
    pub attempts: Family<AttemptLabels, Counter>,
    /// Those of `deliveries`, `attempts` and `requests` that the hot path counts: looking one up costs more than counting.
    pub delivered: Counter,
    pub delivered_attempts: Counter,
    created: Counter,
    pub operational_events: Family<NewsLabels, Counter>,
    pub attempt_seconds: Histogram,
    /// Start of an attempt against its due time.
    pub lateness_seconds: Histogram,
    pub in_flight: Gauge,
    pub lanes: Gauge,
    pub commit_seconds: Histogram,
    pub group_size: Histogram,
    pub store_failures: Counter,
    pub store_damage: Counter,
    pub store_bytes: Gauge,
    pub room: RoomFigures,
    requests: Family<RequestLabels, Counter>,
    pub reload_success: Gauge,
    pub certificate_success: Gauge,
    pub connections: Connections,
    pub request_bodies: RequestBodies,
    pub tenants: Gauge,
    pub webhooks: Family<WebhookLabels, Gauge>,
    pub pending: Family<PendingLabels, Gauge>,
    pub dead_letters: Gauge,
    pub jobs_running: Gauge,
    pub jobs_ended: Family<JobLabels, Counter>,
    pub job_deliveries: Family<JobDeliveryLabels, Counter>,
    /// How long what is due has waited, of active webhooks that are not paused.
    pub oldest_due_seconds: Gauge<f64, AtomicU64>,
    pub uptime_seconds: Gauge<f64, AtomicU64>,
    /// Wall time of the newest whole backup; 0 before the first.
    pub last_backup_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("webhookd");
        let seconds = |first: f64| Histogram::new(exponential_buckets(first, 2.0, 18));
        let deliveries: Family<DeliveryLabels, Counter> = Family::default();
        let attempts: Family<AttemptLabels, Counter> = Family::default();
        let requests: Family<RequestLabels, Counter> = Family::default();
        let delivered = deliveries.get_or_create(&DeliveryLabels { outcome: Outcome::delivered }).clone();
        let delivered_attempts = attempts.get_or_create(&AttemptLabels { result: DELIVERED }).clone();
        let created = requests.get_or_create(&RequestLabels { status: CREATED }).clone();
        let metrics = Self {
            events_accepted: Counter::default(),
            deliveries,
            attempts,
            delivered,
            delivered_attempts,
            created,
            operational_events: Family::default(),
            attempt_seconds: seconds(0.000_25),
            lateness_seconds: seconds(0.001),
            in_flight: Gauge::default(),
            lanes: Gauge::default(),
            commit_seconds: seconds(0.000_1),
            group_size: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            store_failures: Counter::default(),
            store_damage: Counter::default(),
            store_bytes: Gauge::default(),
            room: RoomFigures::default(),
            requests,
            reload_success: Gauge::default(),
            certificate_success: Gauge::default(),
            connections: Connections::default(),
            request_bodies: RequestBodies::default(),
            tenants: Gauge::default(),
            webhooks: Family::default(),
            pending: Family::default(),
            dead_letters: Gauge::default(),
            jobs_running: Gauge::default(),
            jobs_ended: Family::default(),
            job_deliveries: Family::default(),
            oldest_due_seconds: Gauge::default(),
            uptime_seconds: Gauge::default(),
            last_backup_seconds: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("events_accepted", "Events accepted, durable", metrics.events_accepted.clone());
        registry.register("deliveries", "Deliveries that ended, by outcome", metrics.deliveries.clone());
        registry.register("attempts", "Attempts, by result", metrics.attempts.clone());
        registry.register(
            "operational_events",
            "What was reported of webhooks, by type",
            metrics.operational_events.clone(),
        );
        metrics.register_attempts(&mut registry);
        metrics.register_store(&mut registry);
        metrics.register_doors(&mut registry);
        metrics.register_standing(&mut registry);
        metrics.register_room(&mut registry);
        Self { registry, ..metrics }
    }
}

impl RequestBodies {
    /// Held apart from these, and turned away with them.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { held: Gauge::default(), refused: self.refused.clone() }
    }
}

impl Connections {
    fn register(&self, registry: &mut Registry) {
        registry.register("http_connections", "Open client connections", self.open.clone());
        registry.register("http_connections_accepted", "Connections let in", self.accepted.clone());
        registry.register("http_connections_shed", "Idle connections closed to make room", self.shed.clone());
        let refused = self.refused.clone();
        registry.register("http_connections_refused", "Connections beyond the share of their address", refused);
        registry.register("http_accept_errors", "Failures to accept a connection", self.accept_errors.clone());
        registry.register(
            "tls_handshake_errors",
            "TLS handshakes that failed or were late",
            self.handshake_errors.clone(),
        );
    }
}

impl Metrics {
    /// How long attempts take, and how late they are.
    fn register_attempts(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "attempt_duration",
            "Duration of an attempt",
            Unit::Seconds,
            self.attempt_seconds.clone(),
        );
        registry.register_with_unit(
            "attempt_lateness",
            "Start of a queued attempt after its due time",
            Unit::Seconds,
            self.lateness_seconds.clone(),
        );
    }

    /// What is written to the disk.
    fn register_store(&self, registry: &mut Registry) {
        registry.register_with_unit("store_commit", "Time of a commit", Unit::Seconds, self.commit_seconds.clone());
        registry.register("store_group_size", "Operations that shared a commit", self.group_size.clone());
        registry.register("store_failures", "Commits that failed", self.store_failures.clone());
        registry.register(
            "store_damage",
            "Reads and writes that met what is not as it was written",
            self.store_damage.clone(),
        );
        registry.register_with_unit("store_file", "Length of the store file", Unit::Bytes, self.store_bytes.clone());
    }

    /// What clients and operators meet.
    fn register_doors(&self, registry: &mut Registry) {
        registry.register("http_requests", "Requests answered, by status", self.requests.clone());
        registry.register(
            "reload_success",
            "1 when the last reload was taken over, 0 when the old configuration was kept",
            self.reload_success.clone(),
        );
        registry.register(
            "certificate_success",
            "1 while the certificate on disk is the one that is shown, 0 when it can't be used",
            self.certificate_success.clone(),
        );
        self.connections.register(registry);
        registry.register_with_unit(
            "http_request_bodies",
            "Bodies of requests that are being read or held",
            Unit::Bytes,
            self.request_bodies.held.clone(),
        );
        registry.register(
            "http_request_bodies_refused",
            "Requests turned away because the bodies of others left no room",
            self.request_bodies.refused.clone(),
        );
        self.reload_success.set(1);
        self.certificate_success.set(1);
    }

    /// What stands at the moment; most of it is counted when somebody asks.
    fn register_standing(&self, registry: &mut Registry) {
        registry.register("attempts_in_flight", "Attempts under way", self.in_flight.clone());
        registry.register("lanes", "Webhooks with something in memory", self.lanes.clone());
        registry.register("tenants", "Tenants, the operator among them", self.tenants.clone());
        registry.register("webhooks", "Webhooks, by state", self.webhooks.clone());
        registry.register(
            "pending_deliveries",
            "Deliveries that are pending, by where they stand",
            self.pending.clone(),
        );
        registry.register("jobs_running", "Jobs that run", self.jobs_running.clone());
        registry.register("jobs_ended", "Jobs that ended, by kind and state", self.jobs_ended.clone());
        registry.register(
            "job_deliveries",
            "Deliveries that jobs were about, by kind of job and result",
            self.job_deliveries.clone(),
        );
        registry.register_with_unit(
            "oldest_due_age",
            "How long the oldest delivery that is due has waited",
            Unit::Seconds,
            self.oldest_due_seconds.clone(),
        );
        registry.register("dead_letters", "Deliveries in the dead letters", self.dead_letters.clone());
        registry.register_with_unit(
            "backup_last_success_timestamp",
            "When the newest whole backup was made, 0 before the first",
            Unit::Seconds,
            self.last_backup_seconds.clone(),
        );
        registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, self.uptime_seconds.clone());
    }

    /// How full the store is, and what retention does about it.
    fn register_room(&self, registry: &mut Registry) {
        let bytes = [
            ("store_taken", "What the store's files take on the disk", &self.room.store_taken_bytes),
            ("store_used", "What of the store's files is in use, estimated", &self.room.store_used_bytes),
            ("disk_free", "What the store's file system has left", &self.room.disk_free_bytes),
        ];
        for (name, help, gauge) in bytes {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        let refused = "1 while publishing is answered with 503 for want of room";
        registry.register("publishing_refused", refused, self.room.publishing_refused.clone());
        let counters = [
            ("retention_runs", "Runs of retention", &self.room.retention_runs),
            ("retention_events", "Events that retention has removed", &self.room.retention_events),
            ("retention_attempts", "Records of attempts that retention has removed", &self.room.retention_attempts),
            ("retention_dead_letters", "Dead letters that retention has removed", &self.room.retention_dead_letters),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "What retention has removed of the logs";
        registry.register_with_unit("retention_removed", help, Unit::Bytes, self.room.retention_bytes.clone());
        let help = "Age of the oldest block of events, as retention counts it";
        registry.register_with_unit("oldest_event_age", help, Unit::Seconds, self.room.oldest_event_seconds.clone());
    }

    /// Counts a request that was answered with this status.
    pub fn count_request(&self, status: u16) {
        if status == CREATED {
            self.created.inc();
        } else {
            self.requests.get_or_create(&RequestLabels { status }).inc();
        }
    }

    /// Everything in the OpenMetrics text form, with the figures of these webhooks.
    #[must_use]
    pub fn text(&self, webhooks: &[OfWebhook]) -> String {
        let mut out = String::new();
        let written = encode_registry(&mut out, &self.registry)
            .and_then(|()| if webhooks.is_empty() { Ok(()) } else { encode_registry(&mut out, &own(webhooks)) })
            .and_then(|()| encode_eof(&mut out));
        // Writing to a String can't fail.
        if written.is_err() {
            debug_assert!(false, "metrics that do not encode");
        }
        out
    }
}

/// The figures of single webhooks: made for each scrape, so that none outlives its webhook.
fn own(webhooks: &[OfWebhook]) -> Registry {
    let mut registry = Registry::with_prefix("webhookd_webhook");
    let (pending, dead, failures) = (Family::default(), Family::default(), Family::default());
    let last_success = Family::<OwnLabels, Gauge<f64, AtomicU64>>::default();
    for of in webhooks {
        for (family, value) in [(&pending, of.pending), (&dead, of.dead), (&failures, of.failures)] {
            let family: &Family<OwnLabels, Gauge> = family;
            family.get_or_create(&of.labels).set(value);
        }
        last_success.get_or_create(&of.labels).set(of.last_success_seconds);
    }
    registry.register("pending_deliveries", "Deliveries of a webhook that are pending on disk", pending);
    registry.register("dead_letters", "Dead letters of a webhook", dead);
    registry.register("failures", "Failures of a webhook in a row", failures);
    let help = "When a webhook last had a success, 0 before the first";
    registry.register_with_unit("last_success_timestamp", help, Unit::Seconds, last_success);
    registry
}
