//! What the service is told by the configuration: plain values, replaced as a whole on reload.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;

use super::retention::Retention;
use crate::catalogue::Catalogue;
use crate::clock::Millis;
use crate::egress::guard::Rules;
use crate::retry::Plans;

/// In which header a trusted proxy names its client. One: a proxy passes on the other as it came from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientHeader {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub webhooks_per_tenant: usize,
    /// Webhooks a tenant may have through Omnia's dialect.
    pub omnia_max: usize,
    /// Bytes of one published event's request body, or of its part of a batch.
    pub event_bytes: usize,
    pub batch_bytes: usize,
    /// Deliveries that one tenant may have pending.
    pub pending_per_tenant: Option<u64>,
    /// Webhooks that have figures of their own at `/metrics`, the oldest first.
    pub metrics_webhooks: usize,
    /// Events per second that one key may publish.
    pub publish_rate: Option<NonZeroU32>,
    /// Refuse types that the catalogue does not name.
    pub strict: bool,
    pub catalogue: Arc<Catalogue>,
    pub plans: Arc<Plans>,
    /// How long a rotated secret signs along.
    pub rotation_overlap_ms: Millis,
    /// How long events, attempts, dead letters and idempotency keys are kept.
    pub retention: Retention,
    /// Bytes that the store's files may take; publishing is refused before they take more.
    pub disk_budget: Option<u64>,
    /// How long audit records are kept.
    pub audit_kept_ms: Millis,
    /// Ask for lemon's data privacy headers on its routes.
    pub require_data_privacy: bool,
    /// Proxies that are believed about whom they speak for, and where they say it.
    pub trusted_proxies: Vec<IpNet>,
    pub client_header: ClientHeader,
    /// Write a line of the access log for each request.
    pub access_log: bool,
    /// Where webhooks may point to.
    pub rules: Arc<Rules>,
    /// The addresses that we send from; the system's choice when empty.
    pub source_addresses: Vec<IpAddr>,
}

impl Default for Settings {
    /// The contract's defaults (§4.2, §5, §9).
    fn default() -> Self {
        Self {
            webhooks_per_tenant: 1_000,
            omnia_max: 5,
            event_bytes: 256 * 1024,
            batch_bytes: 8 * 1024 * 1024,
            pending_per_tenant: None,
            metrics_webhooks: 0,
            publish_rate: None,
            strict: false,
            catalogue: Arc::default(),
            plans: Arc::default(),
            rotation_overlap_ms: 24 * 3_600_000,
            retention: Retention::default(),
            disk_budget: None,
            audit_kept_ms: 90 * 24 * 3_600_000,
            require_data_privacy: false,
            trusted_proxies: Vec::new(),
            client_header: ClientHeader::default(),
            access_log: false,
            rules: Arc::new(Rules::default()),
            source_addresses: Vec::new(),
        }
    }
}
