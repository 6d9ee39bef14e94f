//! lemon's webhooks, `/v1/webhooks`, with what we add to webhooks of every dialect (contract §4.1).

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{filter_texts, newest_secret, trial, webhook_id};
use crate::http::call::Call;
use crate::http::json::{self, Member, Pairs};
use crate::http::problem::Problem;
use crate::http::server::Reply;
use crate::http::show::{AttemptJson, PageJson, Pagination, PendingJson, TestJson};
use crate::http::{cursor, reply};
use crate::model::id::{JournalSeq, WebhookNo};
use crate::model::time::millis_z;
use crate::model::webhook::{Dialect, WebhookState};
use crate::service::inspect::PendingPlace;
use crate::service::subscribe::{Change, Seen};

/// A webhook as it is asked for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked<'a> {
    #[serde(borrow)]
    url: Member<'a>,
    #[serde(borrow)]
    events: Member<'a>,
    #[serde(borrow)]
    active: Member<'a>,
    #[serde(borrow)]
    headers: Member<'a>,
    #[serde(borrow)]
    secret: Member<'a>,
    #[serde(borrow)]
    plan: Member<'a>,
    #[serde(borrow)]
    timeout: Member<'a>,
    #[serde(borrow)]
    max_in_flight: Member<'a>,
    #[serde(borrow)]
    rate_limit: Member<'a>,
    #[serde(borrow)]
    description: Member<'a>,
}

impl Asked<'_> {
    fn read(&self) -> Result<Change, Problem> {
        let pairs = self.headers.settable::<Pairs>("headers", "an object of strings")?;
        Ok(Change {
            url: self.url.read("url", "a string")?,
            events: self.events.read("events", "an array of strings")?,
            active: self.active.read("active", "true or false")?,
            headers: pairs.map(|pairs| pairs.map(|pairs| pairs.0)),
            secret: self.secret.read("secret", "a string")?,
            plan: self.plan.settable("plan", "a string")?,
            timeout: self.timeout.settable("timeout", "a string such as \"10s\"")?,
            max_in_flight: self.max_in_flight.settable("max_in_flight", "a whole number of 1 to 1024")?,
            rate_limit: self.rate_limit.settable("rate_limit", "a number above 0")?,
            description: self.description.settable("description", "a string")?,
        })
    }
}

#[derive(Serialize)]
struct Created<'a> {
    events: Vec<String>,
    id: String,
    signature_secret: &'a str,
    url: &'a str,
}

/// A webhook as it is read; nothing secret in it, values of headers neither.
#[derive(Serialize)]
struct WebhookJson<'a> {
    id: String,
    url: &'a str,
    events: Vec<String>,
    dialect: &'static str,
    state: &'static str,
    inactive_reason: Option<&'static str>,
    paused: bool,
    failing_since: Option<String>,
    last_success_at: Option<String>,
    header_names: Vec<&'a str>,
    plan: Option<&'a str>,
    timeout: Option<String>,
    max_in_flight: Option<u32>,
    rate_limit: Option<f64>,
    description: Option<&'a str>,
    created_at: String,
    updated_at: String,
}

impl<'a> WebhookJson<'a> {
    fn new(seen: &'a Seen) -> Self {
        let webhook = &*seen.webhook;
        let (state, inactive_reason) = match webhook.state {
            WebhookState::Active => ("active", None),
            WebhookState::Inactive { reason, .. } => ("inactive", Some(reason.as_str())),
            WebhookState::Deleted { .. } => ("deleted", None),
        };
        Self {
            id: webhook.id.to_string(),
            url: &webhook.url,
            events: filter_texts(webhook),
            dialect: webhook.dialect.as_str(),
            state,
            inactive_reason,
            paused: seen.paused,
            failing_since: seen.standing.failing_since_ms.map(millis_z),
            last_success_at: seen.standing.last_success_ms.map(millis_z),
            header_names: webhook.headers.iter().map(|(name, _)| name.as_str()).collect(),
            plan: webhook.plan.as_deref(),
            timeout: webhook.timeout_ms.map(duration),
            max_in_flight: webhook.max_in_flight,
            rate_limit: webhook.rate_limit,
            description: webhook.description.as_deref(),
            created_at: millis_z(webhook.created_ms),
            updated_at: millis_z(webhook.updated_ms),
        }
    }
}

fn duration(ms: u32) -> String {
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

/// `POST /v1/webhooks`
pub async fn create(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let change = json::parse::<Asked<'_>>(call.body)?.read()?;
    let webhook = call.service.create(tenant, Dialect::Lemon, change, call.asker).await?;
    let created = Created {
        events: filter_texts(&webhook),
        id: webhook.id.to_string(),
        signature_secret: newest_secret(&webhook),
        url: &webhook.url,
    };
    Ok(reply::secret_json(StatusCode::CREATED, &created))
}

/// `GET /v1/webhooks`
pub async fn list(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let limit = call.query.limit()?;
    let after: WebhookNo = match call.query.one("cursor")? {
        Some(text) => cursor::read("webhooks", text)?,
        None => 0,
    };
    let (seen, next) = call.service.list(tenant, after, limit).await?;
    let next_cursor = next.map(|next| cursor::write("webhooks", &next));
    let data = seen.iter().map(WebhookJson::new).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}

/// `GET /v1/webhooks/{id}`
pub async fn see(call: &Call<'_>) -> Result<Reply, Problem> {
    let seen = call.service.see(call.tenant()?, webhook_id(call.id)?).await?;
    Ok(reply::json(StatusCode::OK, &WebhookJson::new(&seen)))
}

/// `PATCH /v1/webhooks/{id}`
pub async fn change(call: &Call<'_>) -> Result<Reply, Problem> {
    let (tenant, id) = (call.tenant()?, webhook_id(call.id)?);
    // Before the body is judged, so that a foreign webhook tells nothing.
    call.service.webhook_of(tenant, id)?;
    let change = json::parse::<Asked<'_>>(call.body)?.read()?;
    call.service.update(tenant, id, change, call.asker).await?;
    see(call).await
}

/// `DELETE /v1/webhooks/{id}`
pub async fn delete(call: &Call<'_>) -> Result<Reply, Problem> {
    call.service.delete(call.tenant()?, webhook_id(call.id)?, call.asker).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /v1/webhooks/{id}/pause` and `/resume`: answered with the webhook.
pub async fn pause(call: &Call<'_>, paused: bool) -> Result<Reply, Problem> {
    call.service.pause_own(call.tenant()?, webhook_id(call.id)?, paused, call.asker).await?;
    see(call).await
}

#[derive(Serialize)]
struct Rotated<'a> {
    signature_secret: &'a str,
}

/// `POST /v1/webhooks/{id}/rotate-secret`
pub async fn rotate(call: &Call<'_>) -> Result<Reply, Problem> {
    let webhook = call.service.rotate(call.tenant()?, webhook_id(call.id)?, call.asker).await?;
    Ok(reply::secret_json(StatusCode::OK, &Rotated { signature_secret: newest_secret(&webhook) }))
}

/// What a test may say of the event it sends.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TestBody<'a> {
    #[serde(borrow, rename = "type")]
    kind: Member<'a>,
    #[serde(borrow)]
    created_at: Member<'a>,
    #[serde(borrow)]
    data: Member<'a>,
}

/// `POST /v1/webhooks/{id}/test`
pub async fn test(call: &Call<'_>) -> Result<Reply, Problem> {
    let (tenant, id) = (call.tenant()?, webhook_id(call.id)?);
    call.service.webhook_of(tenant, id)?;
    let body: TestBody<'_> = json::parse_optional(call.body)?;
    let trial = trial(("type", body.kind), ("created_at", body.created_at), ("data", body.data))?;
    let tried = call.service.test(tenant, id, trial, call.asker).await?;
    Ok(reply::json(StatusCode::OK, &TestJson::new(&tried)))
}

/// `GET /v1/webhooks/{id}/attempts`
pub async fn attempts(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let id = webhook_id(call.id)?;
    let limit = call.query.limit()?;
    let before: Option<JournalSeq> =
        call.query.one("cursor")?.map(|text| cursor::read("attempts", text)).transpose()?;
    let page = call.service.attempts(tenant, id, before, limit).await?;
    let next_cursor = page.next.map(|next| cursor::write("attempts", &next));
    let data = page.items.iter().map(|(event, attempt)| AttemptJson::new(*event, page.webhook.id, attempt)).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}

/// `GET /v1/webhooks/{id}/deliveries`
pub async fn deliveries(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let webhook = call.service.webhook_of(tenant, webhook_id(call.id)?)?;
    if call.query.one("state")? != Some("pending") {
        return Err(Problem::invalid("state must be pending"));
    }
    let limit = call.query.limit()?;
    let place: Option<PendingPlace> =
        call.query.one("cursor")?.map(|text| cursor::read("pending", text)).transpose()?;
    let page = call.service.pending(webhook.no, place, limit).await?;
    let next_cursor = page.next.map(|next| cursor::write("pending", &next));
    let data = page.items.iter().map(|pending| PendingJson::new(webhook.id, pending)).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}
