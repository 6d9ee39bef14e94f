//! `GET /v1/webhooks/{id}/stats`: how a webhook of any dialect did lately. Parses and renders.

use http::StatusCode;
use serde::Serialize;

use super::call::Call;
use super::dialect::webhook_id;
use super::problem::Problem;
use super::reply;
use super::server::Reply;
use crate::model::time::millis_z;

#[derive(Serialize)]
struct StatsJson {
    attempts: usize,
    delivered: usize,
    failed: usize,
    success_rate: Option<f64>,
    duration_ms: DurationsJson,
    pending: u64,
    oldest_pending_at: Option<String>,
    dead: u64,
    since: String,
    /// Where the period of the attempts begins: `since`, unless it was cut.
    from: String,
    complete: bool,
}

#[derive(Serialize)]
struct DurationsJson {
    p50: Option<u32>,
    p95: Option<u32>,
    p99: Option<u32>,
}

/// `GET /v1/webhooks/{id}/stats`
pub async fn stats(call: &Call<'_>) -> Result<Reply, Problem> {
    let (tenant, id) = (call.tenant()?, webhook_id(call.id)?);
    call.service.webhook_of(tenant, id)?;
    let stats = call.service.stats(tenant, id, call.query.moment("since")?).await?;
    let share = |place: usize| stats.durations.map(|durations| durations[place]);
    let body = StatsJson {
        attempts: stats.attempts,
        delivered: stats.delivered,
        failed: stats.attempts - stats.delivered,
        success_rate: stats.success_rate(),
        duration_ms: DurationsJson { p50: share(0), p95: share(1), p99: share(2) },
        pending: stats.backlog.pending,
        oldest_pending_at: stats.backlog.oldest_ms.map(millis_z),
        dead: stats.backlog.dead,
        since: millis_z(stats.since_ms),
        from: millis_z(stats.from_ms),
        complete: stats.is_complete,
    };
    Ok(reply::json(StatusCode::OK, &body))
}
