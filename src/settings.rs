//! From the configuration to the settings of each room: the one place where both are named.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::catalogue::{Catalogue, EventType, Schema};
use crate::circuit::CircuitRules;
use crate::clock::Millis;
use crate::config::{AddressHeader, Config, PlanChoice};
use crate::egress::guard::Rules;
use crate::http::server::Limits;
use crate::limits::LANES_KEPT;
use crate::model::webhook::Dialect;
use crate::retry::{Plans, Policy};
use crate::service::retention::Retention;
use crate::service::settings::ClientHeader;
use crate::{dispatch, egress as way_out, service as desk};

/// Connections to the administration socket at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

/// A duration in whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[must_use]
pub fn egress(config: &Config) -> way_out::Settings {
    let built_in = Rules::default();
    way_out::Settings {
        rules: Rules {
            require_https: config.egress.require_https,
            allow: config.egress.allow.clone(),
            denied_ports: config.egress.denied_ports.clone().unwrap_or(built_in.denied_ports),
        },
        ca_file: config.egress.ca_file.clone(),
        source_addresses: config.egress.source_addresses.clone(),
    }
}

/// The catalogue, with the schemas that it names read from their files.
///
/// # Errors
/// When a schema can't be read or used; `check_serve` has said so before, unless the file has changed since.
pub fn catalogue(config: &Config) -> Result<Arc<Catalogue>, String> {
    let schema = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        text.and_then(|text| Schema::read(&text)).map_err(|why| format!("{} can't be used: {why}", path.display()))
    };
    let known = |listed: &crate::config::EventType| {
        Ok(EventType {
            name: listed.name.clone(),
            description: listed.description.clone(),
            omnia_channel: listed.omnia_channel.clone(),
            schema: listed.schema.as_ref().map(schema).transpose()?,
        })
    };
    let types: Result<Vec<EventType>, String> = config.event_types.iter().map(known).collect();
    Ok(Arc::new(Catalogue::new(types?)))
}

/// Every plan, and who uses which.
#[must_use]
pub fn plans(config: &Config) -> Arc<Plans> {
    let named = config.plans.iter().map(|(name, plan)| (name.clone(), Arc::new(policy(plan)))).collect();
    let default = match &config.retry.default {
        PlanChoice::Named(name) => (name.clone(), config.plan(name).map_or_else(Policy::standard, policy)),
        PlanChoice::Inline(plan) => ("default".to_owned(), policy(plan)),
    };
    let dialects = &config.dialects;
    let of_dialect = [
        (Dialect::Lemon, &dialects.lemon.plan),
        (Dialect::Omnia, &dialects.omnia.plan),
        (Dialect::OneMetric, &dialects.onemetric.plan),
    ];
    let of_dialect = of_dialect.into_iter().filter_map(|(dialect, name)| Some((dialect, name.clone()?))).collect();
    Arc::new(Plans::new(named, (default.0, Arc::new(default.1)), of_dialect))
}

#[must_use]
pub fn dispatch(config: &Config, plans: Arc<Plans>) -> dispatch::settings::Settings {
    dispatch::settings::Settings {
        plans,
        circuit: CircuitRules {
            failures: config.circuit.failures,
            probe_first_ms: millis(config.circuit.probe_first),
            probe_max_ms: millis(config.circuit.probe_max),
        },
        timeout: config.egress.timeout,
        max_in_flight_per_webhook: narrow(config.egress.max_in_flight_per_webhook),
        max_in_flight_per_host: narrow(config.egress.max_in_flight_per_host),
        max_in_flight_per_tenant: narrow(config.egress.max_in_flight_per_tenant),
        max_in_flight: narrow(config.egress.max_in_flight),
        lanes_kept: LANES_KEPT,
    }
}

#[must_use]
pub fn service(config: &Config, catalogue: Arc<Catalogue>, plans: Arc<Plans>, rules: Arc<Rules>) -> desk::Settings {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    desk::Settings {
        webhooks_per_tenant: config.limits.webhooks_per_tenant as usize,
        omnia_max: config.dialects.omnia.max_webhooks as usize,
        event_bytes: bytes(config.limits.event_bytes),
        batch_bytes: bytes(config.limits.batch_bytes),
        pending_per_tenant: config.limits.pending_per_tenant,
        metrics_webhooks: config.metrics.per_webhook.unwrap_or(0),
        publish_rate: config.limits.publish_rate.and_then(NonZeroU32::new),
        strict: config.catalogue.strict,
        catalogue,
        plans,
        rotation_overlap_ms: millis(config.secrets.rotation_overlap),
        retention: Retention {
            events_ms: millis(config.retention.events),
            attempts_ms: millis(config.retention.attempts),
            dead_letters_ms: millis(config.retention.dead_letters),
            idempotency_ms: millis(config.retention.idempotency),
            max_bytes: config.retention.max_bytes,
        },
        disk_budget: config.store.disk_budget,
        audit_kept_ms: millis(config.retention.audit),
        require_data_privacy: config.dialects.lemon.require_data_privacy_headers,
        trusted_proxies: config.server.trusted_proxies.clone(),
        client_header: match config.server.client_address_header {
            AddressHeader::XForwardedFor => ClientHeader::XForwardedFor,
            AddressHeader::Forwarded => ClientHeader::Forwarded,
        },
        access_log: config.log.access,
        rules,
        source_addresses: config.egress.source_addresses.clone(),
    }
}

#[must_use]
pub fn server_limits(config: &Config) -> Limits {
    let built_in = Limits::default();
    Limits {
        header_timeout: config.server.header_timeout,
        handshake_timeout: config.server.handshake_timeout,
        body_timeout: config.server.body_timeout,
        // Never above what the process may open: the default knows that bound.
        max_connections: config.server.max_connections.min(built_in.max_connections),
        keep_alive_idle: built_in.keep_alive_idle,
    }
}

fn policy(plan: &crate::config::Plan) -> Policy {
    Policy { delays_ms: plan.delays.iter().map(|delay| millis(*delay)).collect(), jitter: plan.jitter }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
