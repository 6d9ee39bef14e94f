//! What can be configured about dispatching, and what it comes to for one webhook.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};

use super::gate::{Doors, Gate, Gates};
use super::kept::Connections;
use crate::circuit::CircuitRules;
use crate::clock::{Clock, Millis};
use crate::egress::guard::Rules;
use crate::egress::target::{Target, TargetError};
use crate::limits::{LANES_KEPT, STREAM_IN_FLIGHT_MAX};
use crate::model::webhook::{Dialect, Webhook};
use crate::retry::{Plans, Policy};
use crate::sign::SigningKeys;

/// Receivers of lemon's shape get this long (contract §4.1).
const LEMON_TIMEOUT: Duration = Duration::from_secs(10);
/// Receivers of the other shapes get this long (contract §4.2 to §4.4).
const OTHER_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers that signing and the client add: id, timestamp, signatures, attempt, host, length.
const SIGNATURE_HEADERS: usize = 8;
const AGENT: &str = concat!("webhookd/", env!("CARGO_PKG_VERSION"));

#[derive(Clone)]
pub struct Settings {
    pub plans: Arc<Plans>,
    pub circuit: CircuitRules,
    /// `None`: by dialect.
    pub timeout: Option<Duration>,
    pub max_in_flight_per_webhook: u32,
    pub max_in_flight_per_host: u32,
    /// So that receivers that hang take up only their tenant's share of all permits.
    pub max_in_flight_per_tenant: u32,
    pub max_in_flight: u32,
    /// Lanes in memory up to which none is forgotten before it was idle for a while.
    pub lanes_kept: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            plans: Arc::default(),
            circuit: CircuitRules::default(),
            timeout: None,
            max_in_flight_per_webhook: 8,
            max_in_flight_per_host: 64,
            max_in_flight_per_tenant: 256,
            max_in_flight: 1_024,
            lanes_kept: LANES_KEPT,
        }
    }
}

/// One webhook's settings, worked out: what every attempt of it has in common.
pub struct Plan {
    pub webhook: Arc<Webhook>,
    /// An address that no rule lets through any more is an attempt that fails, not a webhook that is gone. Not asked for where
    /// the webhook has a stream.
    pub target: Result<Target, TargetError>,
    pub policy: Arc<Policy>,
    pub timeout: Duration,
    pub max_in_flight: u32,
    pub circuit: CircuitRules,
    pub gates: Gates,
    /// `None`: none are kept, since there is nowhere to connect to or nothing to be delivered.
    pub connections: Option<Arc<Connections>>,
    /// Everything but the signatures. A list, because a map of them costs kilobytes for each lane.
    headers: Box<[(HeaderName, HeaderValue)]>,
    keys: SigningKeys,
    /// When the set of valid secrets changes.
    keys_until: Option<Millis>,
}

impl Plan {
    #[must_use]
    pub fn new(
        webhook: Arc<Webhook>,
        tenant_plan: Option<&str>,
        settings: &Settings,
        rules: &Rules,
        host: impl FnOnce(&str, u32) -> Arc<Gate>,
        now: Millis,
    ) -> Self {
        let target = Target::parse(&webhook.url, rules);
        let by_dialect = if webhook.dialect == Dialect::Lemon { LEMON_TIMEOUT } else { OTHER_TIMEOUT };
        let own = webhook.timeout_ms.map(|ms| Duration::from_millis(u64::from(ms)));
        let bound = if webhook.is_stream() { STREAM_IN_FLIGHT_MAX } else { u32::MAX };
        let max_in_flight = webhook.max_in_flight.unwrap_or(settings.max_in_flight_per_webhook).clamp(1, bound);
        let host_cap = settings.max_in_flight_per_host.max(max_in_flight);
        let gate =
            target.as_ref().ok().and_then(|target| target.authority().to_str().ok().map(|name| host(name, host_cap)));
        Self {
            policy: settings.plans.of(&webhook, tenant_plan).1.clone(),
            timeout: own.or(settings.timeout).unwrap_or(by_dialect),
            max_in_flight,
            circuit: settings.circuit,
            gates: [gate, None],
            connections: None,
            headers: headers(&webhook),
            keys: SigningKeys::new(webhook.dialect, webhook.secrets_at(now)),
            keys_until: webhook.secrets.iter().filter_map(|secret| secret.until).filter(|until| *until > now).min(),
            target,
            webhook,
        }
    }

    /// With the gate of its tenant, and the connections to its target.
    #[must_use]
    pub fn sharing(self, tenant: Arc<Gate>, connections: Option<Arc<Connections>>) -> Self {
        let [host, _] = self.gates;
        Self { gates: [host, Some(tenant)], connections, ..self }
    }

    /// The way of its attempts to a place at each gate; `all`: the daemon's.
    #[must_use]
    pub fn doors<'a>(&'a self, all: &'a Gate) -> Doors<'a> {
        Doors::of(self.gates.each_ref().map(Option::as_deref), all)
    }

    /// Whether a secret has run out since this was worked out.
    #[must_use]
    pub fn is_stale(&self, clock: &Clock) -> bool {
        self.keys_until.is_some_and(|until| clock.now_ms() >= until)
    }

    /// The headers of one attempt, signed. `None` when a secret can't stand in a header.
    #[must_use]
    pub fn signed(&self, event_id: &str, timestamp_s: u64, body: &[u8], attempt: u32) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + SIGNATURE_HEADERS);
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        self.keys.write_headers(&mut headers, event_id, timestamp_s, body, attempt).ok()?;
        Some(headers)
    }
}

fn headers(webhook: &Webhook) -> Box<[(HeaderName, HeaderValue)]> {
    let mut headers = Vec::with_capacity(2 + webhook.headers.len());
    headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
    headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
    for (name, value) in &webhook.headers {
        let name = HeaderName::try_from(name.as_str());
        let value = HeaderValue::try_from(value.expose());
        // Both were checked at registration; what would break HTTP is left out rather than sent.
        if let (Ok(name), Ok(mut value)) = (name, value) {
            value.set_sensitive(true);
            headers.push((name, value));
        }
    }
    headers.into()
}
