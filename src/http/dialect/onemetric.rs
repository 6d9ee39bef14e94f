//! OneMetric's registration, `/api/webhook/register` (contract §4.4): one webhook a tenant, for all event types.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::newest_secret;
use crate::http::call::Call;
use crate::http::json::{self, Member};
use crate::http::problem::Problem;
use crate::http::reply;
use crate::http::server::Reply;
use crate::model::webhook::Dialect;
use crate::service::subscribe::{Change, Registered};

const NAMES: &[(&str, &str)] = &[("url", "webhook_url")];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked<'a> {
    #[serde(borrow)]
    webhook_url: Member<'a>,
}

#[derive(Serialize)]
struct RegisteredJson<'a> {
    status: &'static str,
    message: &'static str,
    /// In the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature_secret: Option<&'a str>,
}

/// `POST /api/webhook/register`
pub async fn register(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let asked: Asked<'_> = json::parse(call.body)?;
    let url = asked.webhook_url.required("webhook_url", "a string")?;
    let change = Change { url: Some(url), events: Some(vec!["*".to_owned()]), ..Change::default() };
    let registered = call.service.register_sole(tenant, Dialect::OneMetric, change, call.asker).await;
    let Registered { webhook, first } = registered.map_err(|error| Problem::from(error).naming(NAMES))?;
    let message = if first {
        "the webhook URL is registered; verify deliveries with signature_secret, which is shown this once"
    } else {
        "the webhook URL is registered; it takes the place of the one before"
    };
    let signature_secret = first.then(|| newest_secret(&webhook));
    Ok(reply::secret_json(StatusCode::OK, &RegisteredJson { status: "success", message, signature_secret }))
}
