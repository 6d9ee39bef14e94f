//! `/v1/dead-letters`: listed, tried again, thrown away.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::cursor::Listing;
use super::problem::Problem;
use super::reply;
use super::server::Reply;
use super::show::{DeadJson, PageJson, Pagination, parse_delivery_id};
use crate::model::id::{EventId, JournalSeq, WebhookId, WebhookNo};
use crate::service::deadletter::DeadQuery;

#[derive(Serialize, Deserialize)]
struct Place {
    before: JournalSeq,
    webhook: Option<WebhookNo>,
    kind: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
}

/// `GET /v1/dead-letters`
pub async fn list(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let limit = call.query.limit()?;
    let listing = Listing { name: "dead letters", owner: tenant };
    let place = match call.query.one("cursor")? {
        Some(text) => listing.place(call.service, text)?,
        None => {
            let webhook = match call.query.one("webhook")? {
                Some(text) => {
                    let id = WebhookId::parse(text).ok_or_else(Problem::not_found)?;
                    Some(call.service.webhook_of(tenant, id)?.no)
                }
                None => None,
            };
            Place {
                before: JournalSeq::MAX,
                webhook,
                kind: call.query.one("type")?.map(str::to_owned),
                since_ms: call.query.moment("since")?,
                until_ms: call.query.moment("until")?,
            }
        }
    };
    let query = DeadQuery {
        webhook: place.webhook,
        kind: place.kind.clone(),
        since_ms: place.since_ms,
        until_ms: place.until_ms,
        before: place.before,
        limit,
    };
    let page = call.service.dead_letters(tenant, query).await?;
    let next_cursor = page.next.map(|before| listing.cursor(call.service, &Place { before, ..place }));
    let data = page.items.iter().map(DeadJson::new).collect();
    Ok(reply::json(StatusCode::OK, &PageJson { data, pagination: Pagination { next_cursor } }))
}

#[derive(Serialize)]
struct Redriven<'a> {
    id: &'a str,
    state: &'static str,
}

/// `POST /v1/dead-letters/{id}/redrive`
pub async fn redrive(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let (event, webhook) = letter(call)?;
    call.service.redrive(tenant, event, webhook, call.asker).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &Redriven { id: call.id, state: "pending" }))
}

/// `DELETE /v1/dead-letters/{id}`
pub async fn drop_dead(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let (event, webhook) = letter(call)?;
    call.service.drop_dead(tenant, event, webhook, call.asker).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn letter(call: &Call<'_>) -> Result<(EventId, WebhookId), Problem> {
    parse_delivery_id(call.id).ok_or_else(Problem::not_found)
}
