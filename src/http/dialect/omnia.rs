//! Omnia's webhooks, `/v3/webhooks` and `/api/v3/webhooks` (contract §4.2).

use http::StatusCode;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::{filter_texts, webhook_id};
use crate::http::call::Call;
use crate::http::json::{self, Member, Pairs};
use crate::http::problem::Problem;
use crate::http::reply;
use crate::http::server::Reply;
use crate::model::key::Role;
use crate::model::secret::Secret;
use crate::model::webhook::{Dialect, Webhook};
use crate::service::subscribe::Change;

/// What our members are called here, for messages about them.
const NAMES: &[(&str, &str)] = &[("url", "target.url"), ("events", "eventTypes"), ("headers", "target.headers")];
/// What others than the tenant see of a header's value.
const HIDDEN: &str = "[hidden]";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked<'a> {
    #[serde(borrow)]
    event_types: Member<'a>,
    #[serde(borrow)]
    target: Member<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AskedTarget<'a> {
    #[serde(borrow)]
    url: Member<'a>,
    #[serde(borrow)]
    headers: Member<'a>,
}

impl Asked<'_> {
    fn read(&self) -> Result<Change, Problem> {
        let events = self.event_types.required("eventTypes", "an array of strings");
        let events = events.map_err(|problem| problem.coded("invalid_event_type"))?;
        let target = self.target().map_err(|problem| problem.naming(NAMES).coded("invalid_target"))?;
        let url = target.url.required("target.url", "a string");
        let headers = target.headers.settable::<Pairs>("target.headers", "an object of strings");
        let headers = headers.map_err(|problem| problem.coded("header_invalid"))?;
        Ok(Change {
            events: Some(events),
            url: Some(url.map_err(|problem| problem.coded("invalid_target"))?),
            headers: headers.map(|pairs| pairs.map(|pairs| pairs.0)),
            ..Change::default()
        })
    }

    fn target(&self) -> Result<AskedTarget<'_>, Problem> {
        let text = self.target.object("target")?.ok_or_else(|| Problem::invalid("target is required"))?;
        json::parse(text.as_bytes())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookJson<'a> {
    subscription_id: String,
    event_types: Vec<String>,
    target: TargetJson<'a>,
}

#[derive(Serialize)]
struct TargetJson<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "HeadersJson::is_empty")]
    headers: HeadersJson<'a>,
}

/// Custom headers as they were registered, in their order.
struct HeadersJson<'a> {
    headers: &'a [(String, Secret)],
    shown: bool,
}

impl HeadersJson<'_> {
    fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }
}

impl Serialize for HeadersJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.headers.len()))?;
        for (name, value) in self.headers {
            map.serialize_entry(name, if self.shown { value.expose() } else { HIDDEN })?;
        }
        map.end()
    }
}

impl<'a> WebhookJson<'a> {
    /// The vendor shows header values; that is for the tenant's own keys only.
    fn new(webhook: &'a Webhook, call: &Call<'_>) -> Self {
        let shown = call.caller.role() == Role::Tenant;
        Self {
            subscription_id: webhook.id.dashed(),
            event_types: filter_texts(webhook),
            target: TargetJson { url: &webhook.url, headers: HeadersJson { headers: &webhook.headers, shown } },
        }
    }
}

#[derive(Serialize)]
struct ListJson<'a> {
    webhooks: Vec<WebhookJson<'a>>,
}

/// `POST /v3/webhooks`
pub async fn create(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let change = json::parse::<Asked<'_>>(call.body)?.read()?;
    let webhook = call.service.create(tenant, Dialect::Omnia, change, call.asker).await;
    let webhook = webhook.map_err(|error| Problem::from(error).naming(NAMES))?;
    Ok(reply::secret_json(StatusCode::CREATED, &WebhookJson::new(&webhook, call)))
}

/// `GET /v3/webhooks`: all of the tenant's, as the vendor's form has no pages.
pub fn list(call: &Call<'_>) -> Result<Reply, Problem> {
    let found = call.service.webhooks(call.tenant()?);
    let webhooks = found.iter().map(|webhook| WebhookJson::new(webhook, call)).collect();
    Ok(reply::secret_json(StatusCode::OK, &ListJson { webhooks }))
}

/// `GET /v3/webhooks/{subscriptionId}`
pub fn see(call: &Call<'_>) -> Result<Reply, Problem> {
    let webhook = call.service.webhook_of(call.tenant()?, webhook_id(call.id)?)?;
    Ok(reply::secret_json(StatusCode::OK, &WebhookJson::new(&webhook, call)))
}

/// `DELETE /v3/webhooks/{subscriptionId}`
pub async fn delete(call: &Call<'_>) -> Result<Reply, Problem> {
    call.service.delete(call.tenant()?, webhook_id(call.id)?, call.asker).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
