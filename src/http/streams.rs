//! Streams, `/v1/streams`: for receivers without a public address, as `webhookd listen` is one. The answer to the one `POST` is a
//! stream of server-sent events: first `stream`, which tells the webhook, then a `delivery` each. What became of a delivery comes
//! back with a request of its own.
//!
//! Invariant: nothing goes down a stream whose key is not in force any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::call::Call;
use super::dialect::{filter_texts, newest_secret, webhook_id};
use super::json::{self, Member};
use super::problem::Problem;
use super::reply;
use super::server::{Reply, ReplyBody};
use crate::egress::stream::{Answer, Held};
use crate::limits::STREAM_SIGN_EVERY;
use crate::model::attempt::Class;
use crate::model::id::KeyId;
use crate::model::webhook::{Dialect, Webhook};
use crate::service::Service;
use crate::service::subscribe::Change;

/// What a stream without a list of types gets.
const ALL: &str = "*";
/// A comment: the event stream's way of saying nothing.
const SIGN: &[u8] = b":\n\n";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked<'a> {
    #[serde(borrow)]
    stream: Member<'a>,
    #[serde(borrow)]
    events: Member<'a>,
    #[serde(borrow)]
    dialect: Member<'a>,
    #[serde(borrow)]
    secret: Member<'a>,
}

#[derive(Serialize)]
struct Begun<'a> {
    id: String,
    dialect: &'static str,
    events: Vec<String>,
    /// When the stream is made, and not when it goes on.
    signature_secret: Option<&'a str>,
}

/// `POST /v1/streams`
pub async fn open(call: &Call<'_>) -> Result<Reply, Problem> {
    let tenant = call.tenant()?;
    let asked: Asked<'_> = json::parse_optional(call.body)?;
    let (webhook, is_new) = match asked.stream.text("stream")? {
        Some(id) => {
            let webhook = call.service.stream_of(tenant, webhook_id(&id)?)?;
            if [asked.events, asked.dialect, asked.secret].iter().any(|member| member.raw().is_some()) {
                return Err(Problem::invalid("stream goes on as it was made: no events, dialect or secret beside it"));
            }
            call.asker.about(webhook.id);
            (webhook, false)
        }
        None => {
            let change = Change {
                events: Some(
                    asked.events.read("events", "an array of strings")?.unwrap_or_else(|| vec![ALL.to_owned()]),
                ),
                secret: asked.secret.read("secret", "a string")?,
                ..Change::default()
            };
            (call.service.new_stream(tenant, dialect(asked.dialect)?, change, call.asker).await?, true)
        }
    };
    let begun = Begun {
        id: webhook.id.to_string(),
        dialect: webhook.dialect.as_str(),
        events: filter_texts(&webhook),
        signature_secret: is_new.then(|| newest_secret(&webhook)),
    };
    Ok(stream(call, &webhook, &begun))
}

fn dialect(member: Member<'_>) -> Result<Dialect, Problem> {
    let all = [Dialect::Lemon, Dialect::Omnia, Dialect::Vibe, Dialect::OneMetric];
    let Some(name) = member.text("dialect")? else { return Ok(Dialect::Lemon) };
    let named = all.into_iter().find(|dialect| dialect.as_str() == name);
    named.ok_or_else(|| Problem::invalid("dialect must be lemon, omnia, vibe or onemetric"))
}

fn stream(call: &Call<'_>, webhook: &Webhook, begun: &Begun<'_>) -> Reply {
    let first = serde_json::to_vec(begun).map(|data| event("stream", &data));
    let mut signs = interval_at(Instant::now() + STREAM_SIGN_EVERY, STREAM_SIGN_EVERY);
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        first: first.ok(),
        held: call.service.hold_stream(webhook, call.peer.addr),
        service: call.service.clone(),
        key: call.caller.key(),
        signs,
    };
    let mut reply = Response::new(ReplyBody::Stream(UnsyncBoxBody::new(events)));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather what they pass on would hold deliveries back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    reply
}

fn event(kind: &str, data: &[u8]) -> Bytes {
    // JSON holds no line breaks, so that its text is one line.
    [b"event: ", kind.as_bytes(), b"\ndata: ", data, b"\n\n"].concat().into()
}

/// The body of a stream's answer.
struct Events {
    first: Option<Bytes>,
    held: Held,
    service: Arc<Service>,
    /// Whose key opened it; `None`: whoever may open the admin socket.
    key: Option<KeyId>,
    signs: Interval,
}

impl Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let data = match this.first.take() {
            Some(first) => first,
            None => match this.held.poll_next(cx) {
                Poll::Ready(Some(request)) => event("delivery", &request),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    std::task::ready!(this.signs.poll_tick(cx));
                    Bytes::from_static(SIGN)
                }
            },
        };
        let in_force = this.service.is_in_force(this.key);
        Poll::Ready(in_force.then(|| Ok(Frame::data(data))))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answered<'a> {
    #[serde(borrow)]
    delivery: Member<'a>,
    #[serde(borrow)]
    status: Member<'a>,
    #[serde(borrow)]
    body: Member<'a>,
    #[serde(borrow)]
    retry_after: Member<'a>,
    #[serde(borrow)]
    class: Member<'a>,
    #[serde(borrow)]
    error: Member<'a>,
}

#[derive(Serialize)]
struct Recorded {
    /// False: the attempt had ended before.
    recorded: bool,
}

/// `POST /v1/streams/{id}/answers`
pub fn answer(call: &Call<'_>) -> Result<Reply, Problem> {
    let webhook = call.service.webhook_of(call.tenant()?, webhook_id(call.id)?)?;
    let answered: Answered<'_> = json::parse(call.body)?;
    let delivery: String = answered.delivery.required("delivery", "a string")?;
    let recorded = call.service.answer_stream(&webhook, &delivery, answered.read()?);
    Ok(reply::json(StatusCode::OK, &Recorded { recorded }))
}

impl Answered<'_> {
    fn read(self) -> Result<Answer, Problem> {
        if let Some(status) = self.status.read::<u16>("status", "a number of 200 to 599")? {
            let rule = || Problem::invalid("status must be a number of 200 to 599");
            let status = StatusCode::from_u16(status).ok().filter(|status| (200..600).contains(&status.as_u16()));
            let retry_after = self.retry_after.text("retry_after")?;
            let body = self.body.text("body")?.map_or(Vec::new(), |text| text.into_owned().into_bytes());
            return Ok(Answer::Status {
                status: status.ok_or_else(rule)?,
                body,
                retry_after: retry_after.and_then(|text| HeaderValue::from_str(&text).ok()),
            });
        }
        let detail: String = self
            .error
            .read("error", "a string")?
            .ok_or_else(|| Problem::invalid("status is required, or error where the local receiver gave no answer"))?;
        let name = self.class.text("class")?;
        let classes = [Class::Resolve, Class::Connect, Class::Tls, Class::Timeout, Class::Protocol];
        let class = match name {
            None => Class::Connect,
            Some(name) => classes
                .into_iter()
                .find(|class| class.as_str() == name)
                .ok_or_else(|| Problem::invalid("class must be resolve, connect, tls, timeout or protocol"))?,
        };
        Ok(Answer::Failed { class, detail })
    }
}
