//! Vibe Trading's webhooks, `/api/v1/webhooks` (contract §4.3).

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{filter_texts, newest_secret, trial, webhook_id};
use crate::http::call::Call;
use crate::http::json::{self, Member};
use crate::http::problem::Problem;
use crate::http::reply;
use crate::http::server::Reply;
use crate::http::show::TestJson;
use crate::model::time::seconds_z;
use crate::model::webhook::{Dialect, Webhook};
use crate::service::subscribe::Change;

/// What the members of a test's event are called in messages.
const NAMES: &[(&str, &str)] =
    &[("event", "testEvent.event"), ("timestamp", "testEvent.timestamp"), ("data", "testEvent.data")];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked<'a> {
    #[serde(borrow)]
    url: Member<'a>,
    #[serde(borrow)]
    events: Member<'a>,
    #[serde(borrow)]
    secret: Member<'a>,
    #[serde(borrow)]
    active: Member<'a>,
}

impl Asked<'_> {
    fn read(&self) -> Result<Change, Problem> {
        Ok(Change {
            url: self.url.read("url", "a string")?,
            events: self.events.read("events", "an array of strings")?,
            secret: self.secret.read("secret", "a string")?,
            active: self.active.read("active", "true or false")?,
            ..Change::default()
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookJson<'a> {
    id: String,
    url: &'a str,
    events: Vec<String>,
    active: bool,
    created_at: String,
    updated_at: String,
    /// A generated one, in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> WebhookJson<'a> {
    fn new(webhook: &'a Webhook) -> Self {
        Self {
            id: webhook.id.vibe(),
            url: &webhook.url,
            events: filter_texts(webhook),
            active: webhook.is_active(),
            created_at: seconds_z(webhook.created_ms.saturating_mul(1_000)),
            updated_at: seconds_z(webhook.updated_ms.saturating_mul(1_000)),
            secret: None,
        }
    }
}

#[derive(Serialize)]
struct ListJson<'a> {
    webhooks: Vec<WebhookJson<'a>>,
}

/// `POST /api/v1/webhooks`
pub async fn create(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let change = json::parse::<Asked<'_>>(call.body)?.read()?;
    let generated = change.secret.is_none();
    let webhook = call.service.create(tenant, Dialect::Vibe, change, call.asker).await?;
    let secret = generated.then(|| newest_secret(&webhook));
    Ok(reply::secret_json(StatusCode::CREATED, &WebhookJson { secret, ..WebhookJson::new(&webhook) }))
}

/// `GET /api/v1/webhooks`: all of the tenant's, as the vendor's form has no pages.
pub async fn list(call: &Call<'_>) -> Result<Reply, Problem> {
    let found = call.service.webhooks(call.tenant()?);
    let webhooks = found.iter().map(|webhook| WebhookJson::new(webhook)).collect();
    Ok(reply::json(StatusCode::OK, &ListJson { webhooks }))
}

/// `GET /api/v1/webhooks/{id}`
pub async fn see(call: &Call<'_>) -> Result<Reply, Problem> {
    let webhook = call.service.webhook_of(call.tenant()?, webhook_id(call.id)?)?;
    Ok(reply::json(StatusCode::OK, &WebhookJson::new(&webhook)))
}

/// `PUT /api/v1/webhooks/{id}`: members that are left out stay as they are.
pub async fn change(call: &Call<'_>) -> Result<Reply, Problem> {
    let (tenant, id) = (call.tenant()?, webhook_id(call.id)?);
    call.service.webhook_of(tenant, id)?;
    let change = json::parse::<Asked<'_>>(call.body)?.read()?;
    let webhook = call.service.update(tenant, id, change, call.asker).await?;
    Ok(reply::json(StatusCode::OK, &WebhookJson::new(&webhook)))
}

/// `DELETE /api/v1/webhooks/{id}`
pub async fn delete(call: &Call<'_>) -> Result<Reply, Problem> {
    call.service.delete(call.tenant()?, webhook_id(call.id)?, call.asker).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TestBody<'a> {
    #[serde(borrow)]
    webhook_id: Member<'a>,
    #[serde(borrow)]
    test_event: Member<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TestEvent<'a> {
    #[serde(borrow)]
    event: Member<'a>,
    #[serde(borrow)]
    timestamp: Member<'a>,
    #[serde(borrow)]
    data: Member<'a>,
}

/// `POST /api/v1/webhooks/test`
pub async fn test(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let body: TestBody<'_> = json::parse(call.body)?;
    let id = body.webhook_id.text("webhookId")?.ok_or_else(|| Problem::invalid("webhookId is required"))?;
    let id = webhook_id(&id)?;
    call.service.webhook_of(tenant, id)?;
    let event = body.test_event.object("testEvent")?.unwrap_or("{}");
    let event = json::parse::<TestEvent<'_>>(event.as_bytes()).map_err(|problem| problem.naming(NAMES))?;
    let trial = trial(
        ("testEvent.event", event.event),
        ("testEvent.timestamp", event.timestamp),
        ("testEvent.data", event.data),
    )?;
    let tried = call.service.test(tenant, id, trial, call.asker).await;
    let tried = tried.map_err(|error| Problem::from(error).naming(NAMES))?;
    Ok(reply::json(StatusCode::OK, &TestJson::new(&tried)))
}
