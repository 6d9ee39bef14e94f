//! `/v1/events`: published, listed, read, explained, sent once more. Parses and renders; the rules are the service's.
//!
//! Publishing is the hot path: the body is read once, borrowed, and the answer is one buffer.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use http::header::{HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::call::Call;
use super::cursor::Listing;
use super::hygiene;
use super::json::{self, Member};
use super::problem::Problem;
use super::reply;
use super::server::Reply;
use super::show::AttemptJson;
use crate::limits::BATCH_EVENTS_MAX;
use crate::model::event::Event;
use crate::model::id::{EventId, Seq, WebhookId};
use crate::model::time::millis_z;
use crate::render::{event_json, write_event, write_number};
use crate::service::Error;
use crate::service::explain::{Explanation, Waiting};
use crate::service::publish::{Publish, Request};
use crate::store::op::Receipt;
use crate::store::page::EventQuery;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// An event as it is published.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Member<'a>,
    #[serde(borrow)]
    tenant: Member<'a>,
    #[serde(borrow)]
    data: Member<'a>,
    #[serde(borrow)]
    context: Member<'a>,
    #[serde(borrow)]
    user: Member<'a>,
    #[serde(borrow)]
    created_at: Member<'a>,
    #[serde(borrow)]
    ordering_key: Member<'a>,
}

impl<'a> Envelope<'a> {
    /// From its first member to its last, where they stand in `body`.
    fn place(&self, body: &[u8]) -> Option<Range<usize>> {
        let members = [self.kind, self.tenant, self.data, self.context, self.user, self.created_at, self.ordering_key];
        members.iter().filter_map(|member| member.place(body)).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
    }

    fn read(&self) -> Result<Publish<'a>, Problem> {
        Ok(Publish {
            kind: self.kind.text("type")?.ok_or_else(|| Problem::invalid("type is required"))?,
            tenant: self.tenant.text("tenant")?,
            created_us: self.created_at.moment("created_at")?,
            ordering_key: self.ordering_key.text("ordering_key")?,
            data: self.data.object("data")?,
            context: self.context.object("context")?,
            user: self.user.object("user")?,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Batch<'a> {
    #[serde(borrow)]
    events: Member<'a>,
}

/// An event of a batch that is read in one pass with it. A derived struct would take an array too.
struct Item<'a>(Envelope<'a>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    Type,
    Tenant,
    Data,
    Context,
    User,
    CreatedAt,
    OrderingKey,
    #[serde(other)]
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
            type Value = Item<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'a>, A::Error> {
                let mut envelope = Envelope::default();
                while let Some(name) = map.next_key()? {
                    let member = match name {
                        Name::Type => &mut envelope.kind,
                        Name::Tenant => &mut envelope.tenant,
                        Name::Data => &mut envelope.data,
                        Name::Context => &mut envelope.context,
                        Name::User => &mut envelope.user,
                        Name::CreatedAt => &mut envelope.created_at,
                        Name::OrderingKey => &mut envelope.ordering_key,
                        Name::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if member.is_there() {
                        return Err(A::Error::custom("it stands there twice"));
                    }
                    *member = map.next_value()?;
                }
                Ok(Item(envelope))
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// The events of a batch as they were asked for, in one pass; `None` where there is something to say against one, or none can be
/// sure that each is small enough.
fn skim_batch(body: &[u8], event_bytes: usize) -> Option<Vec<Publish<'_>>> {
    #[derive(Deserialize)]
    struct Plain<'a> {
        #[serde(borrow)]
        events: Vec<Item<'a>>,
    }
    // Looked at once, and not for each member.
    let text = std::str::from_utf8(body).ok().filter(|text| text.trim_ascii_start().starts_with('{'))?;
    let Plain { events } = serde_json::from_str(text).ok()?;
    // An event begins behind the last member of the one before it and ends before the first of the next.
    let mut ends = [0; 2];
    for Item(event) in &events {
        let place = event.place(body)?;
        if place.start.checked_sub(ends[0])? > event_bytes {
            return None;
        }
        ends = [ends[1], place.end];
    }
    if events.len() > BATCH_EVENTS_MAX || body.len().checked_sub(ends[0])? > event_bytes {
        return None;
    }
    events.iter().map(|Item(event)| event.read().ok()).collect()
}

/// The same by the parser, and what there is to say.
fn parse_batch(body: &[u8], event_bytes: usize) -> Result<Vec<Publish<'_>>, Problem> {
    let batch: Batch<'_> = json::parse(body)?;
    let events: Option<Vec<&RawValue>> = batch.events.read("events", "an array")?;
    let events = events.ok_or_else(|| Problem::invalid("events is required"))?;
    if events.len() > BATCH_EVENTS_MAX {
        return Err(Problem::invalid("events must hold 1 to 1000 events"));
    }
    events.into_iter().enumerate().map(|(i, raw)| item(i, raw, event_bytes)).collect()
}

/// `POST /v1/events`
pub async fn publish(call: &Call<'_>) -> Result<Reply, Problem> {
    let event = json::parse::<Envelope<'_>>(call.body)?.read()?;
    let receipt = submit(call, vec![event], false).await?;
    let event = receipt.events().first().ok_or(Error::Internal)?;
    let mut body = Vec::with_capacity(event.weight() + 256);
    write_accepted(&mut body, event);
    let mut reply = reply::json_text(StatusCode::CREATED, body);
    if let Ok(location) = HeaderValue::try_from([&b"/v1/events/"[..], &event.id.text()].concat()) {
        reply.headers_mut().insert(LOCATION, location);
    }
    Ok(marked(reply, &receipt))
}

/// `POST /v1/events/batch`
pub async fn publish_batch(call: &Call<'_>) -> Result<Reply, Problem> {
    let max = call.service.settings().event_bytes;
    let events = match skim_batch(call.body, max) {
        Some(events) => events,
        None => parse_batch(call.body, max)?,
    };
    let receipt = submit(call, events, true).await?;
    let mut body = Vec::with_capacity(receipt.events().iter().map(|event| event.weight() + 256).sum());
    body.extend_from_slice(b"{\"events\":[");
    for (i, event) in receipt.events().iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        write_accepted(&mut body, event);
    }
    body.extend_from_slice(b"]}");
    Ok(marked(reply::json_text(StatusCode::CREATED, body), &receipt))
}

/// One event of a batch.
fn item(index: usize, raw: &RawValue, max: usize) -> Result<Publish<'_>, Problem> {
    if raw.get().len() > max {
        return Err(within(index, Error::TooLarge { max }.into()));
    }
    let envelope = json::parse::<Envelope<'_>>(raw.get().as_bytes());
    envelope.and_then(|envelope| envelope.read()).map_err(|problem| within(index, problem))
}

async fn submit(call: &Call<'_>, events: Vec<Publish<'_>>, batch: bool) -> Result<Receipt, Problem> {
    let request = Request {
        by: call.caller.publisher()?,
        key: call.caller.key(),
        idempotency_key: idempotency_key(call.headers)?,
        body: call.body,
        batch,
        events,
        asker: call.asker,
    };
    Ok(call.service.publish(request).await?)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut keys = hygiene::values(headers, IDEMPOTENCY_KEY);
    let first = keys.next().map(HeaderValue::as_bytes);
    if keys.next().is_some() {
        return Err(Problem::invalid("Idempotency-Key stands there twice"));
    }
    Ok(first)
}

/// The event with the number of its deliveries.
fn write_accepted(out: &mut Vec<u8>, event: &Event) {
    write_event(out, event);
    // Behind the last member, before the brace that `write_event` closed with.
    out.pop();
    out.extend_from_slice(b",\"deliveries\":");
    write_number(out, event.matched.len() as u64);
    out.push(b'}');
}

fn marked(mut reply: Reply, receipt: &Receipt) -> Reply {
    if receipt.replayed() {
        reply.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    reply
}

fn within(index: usize, problem: Problem) -> Problem {
    Problem { message: format!("events[{index}]: {}", problem.message).into(), ..problem }
}

/// Where a listing of events goes on, and what it leaves out.
#[derive(Default, Serialize, Deserialize)]
struct Place {
    after: Option<Seq>,
    ascending: bool,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    kind: Option<String>,
    context: Vec<(String, String)>,
}

impl Place {
    fn of(call: &Call<'_>, listing: Listing) -> Result<Self, Problem> {
        let query = &call.query;
        if let Some(text) = query.one("cursor")? {
            return listing.place(call.service, text);
        }
        let ascending = match query.one("sort")? {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(Problem::invalid("sort must be asc or desc")),
        };
        let context = query.under("context.").map(|(key, value)| (key.to_owned(), value.to_owned()));
        Ok(Self {
            after: None,
            ascending,
            since_ms: query.moment("since")?,
            until_ms: query.moment("until")?,
            kind: query.one("type")?.map(str::to_owned),
            context: context.collect(),
        })
    }
}

/// `GET /v1/events`
pub async fn list(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let limit = call.query.limit()?;
    let listing = Listing { name: "events", owner: tenant };
    let place = Place::of(call, listing)?;
    let query = EventQuery {
        tenant,
        ascending: place.ascending,
        after: place.after,
        limit,
        since_ms: place.since_ms,
        until_ms: place.until_ms,
        kind: place.kind.clone(),
        context: place.context.clone(),
    };
    let page = call.service.events(query).await?;
    let next = page.next.map(|after| listing.cursor(call.service, &Place { after: Some(after), ..place }));
    let mut body = b"{\"data\":[".to_vec();
    for (i, event) in page.items.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        write_event(&mut body, event);
    }
    body.extend_from_slice(b"],\"pagination\":{\"next_cursor\":");
    serde_json::to_writer(&mut body, &next).map_err(|_| Error::Internal)?;
    body.extend_from_slice(b"}}");
    Ok(reply::json_text(StatusCode::OK, body))
}

/// `GET /v1/events/{id}`
pub async fn see(call: &Call<'_>) -> Result<Reply, Problem> {
    let event = call.service.event(call.tenant()?, event_id(call)?).await?;
    Ok(reply::whole(StatusCode::OK, "application/json", event_json(&event)))
}

#[derive(Serialize)]
struct ExplainedJson<'a> {
    event: Box<RawValue>,
    summary: &'a str,
    deliveries: Vec<ExplanationJson<'a>>,
}

#[derive(Serialize)]
struct ExplanationJson<'a> {
    webhook: String,
    dialect: &'static str,
    matched: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<WaitingJson<'a>>,
}

#[derive(Serialize)]
struct WaitingJson<'a> {
    what: &'static str,
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    rule: &'a str,
}

impl<'a> WaitingJson<'a> {
    fn new(waiting: &'a Waiting) -> Self {
        Self {
            what: waiting.what,
            until: waiting.until.map(millis_z),
            event: waiting.event.map(|id| id.to_string()),
            rule: &waiting.rule,
        }
    }
}

impl<'a> ExplanationJson<'a> {
    fn new(event: EventId, part: &'a Explanation) -> Self {
        let webhook = part.webhook.id;
        let attempts = || part.attempts.iter().map(|attempt| AttemptJson::new(event, webhook, attempt)).collect();
        let why_not = part.reason.as_ref().map(|(_, detail)| detail.as_str());
        let details: Vec<&str> =
            why_not.into_iter().chain(part.ended.as_deref()).chain(part.removed.as_deref()).collect();
        Self {
            webhook: webhook.to_string(),
            dialect: part.webhook.dialect.as_str(),
            matched: part.matched,
            reason: part.reason.as_ref().map(|(reason, _)| reason.as_str()),
            detail: (!details.is_empty()).then(|| details.join("; ")),
            state: part.state.map(crate::service::explain::State::as_str),
            attempts: (part.state.is_some() || !part.attempts.is_empty()).then(attempts),
            waiting_for: part.waiting_for.as_ref().map(WaitingJson::new),
        }
    }
}

/// `GET /v1/events/{id}/explain`
pub async fn explain(call: &Call<'_>) -> Result<Reply, Problem> {
    let explained = call.service.explain(call.tenant()?, event_id(call)?).await?;
    let id = explained.event.id;
    let event = String::from_utf8(event_json(&explained.event).into()).map_err(|_| Error::Internal)?;
    let body = ExplainedJson {
        event: RawValue::from_string(event).map_err(|_| Error::Internal)?,
        summary: &explained.summary,
        deliveries: explained.deliveries.iter().map(|part| ExplanationJson::new(id, part)).collect(),
    };
    Ok(reply::json(StatusCode::OK, &body))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResendBody<'a> {
    #[serde(borrow)]
    webhook: Member<'a>,
}

#[derive(Serialize)]
struct Resent {
    event: String,
    deliveries: usize,
}

/// `POST /v1/events/{id}/resend`
pub async fn resend(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let id = event_id(call)?;
    let body: ResendBody<'_> = json::parse_optional(call.body)?;
    let webhook = match body.webhook.text("webhook")? {
        Some(text) => Some(WebhookId::parse(&text).ok_or_else(Problem::not_found)?),
        None => None,
    };
    let deliveries = call.service.resend(tenant, id, webhook, call.asker).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &Resent { event: id.to_string(), deliveries }))
}

#[derive(Serialize)]
struct Cancelled {
    cancelled: usize,
}

/// `DELETE /v1/events/{id}/deliveries`
pub async fn cancel(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let id = event_id(call)?;
    let webhook = match call.query.one("webhook")? {
        Some(text) => Some(WebhookId::parse(text).ok_or_else(Problem::not_found)?),
        None => None,
    };
    let cancelled = call.service.cancel(tenant, id, webhook, call.asker).await?;
    Ok(reply::json(StatusCode::OK, &Cancelled { cancelled }))
}

fn event_id(call: &Call<'_>) -> Result<EventId, Problem> {
    EventId::parse(call.id).ok_or_else(Problem::not_found)
}

#[cfg(test)]
mod tests;
