//! Shapes that more than one dialect answers with: attempts, dead letters, tests, pages. Order of members is theirs.

use serde::Serialize;

use crate::model::attempt::{Attempt, Verdict};
use crate::model::id::{EventId, WebhookId};
use crate::model::time::millis_z;
use crate::service::deadletter::Dead;
use crate::service::inspect::Pending;
use crate::service::subscribe::Tried;

/// A page of a listing.
#[derive(Serialize)]
pub struct PageJson<T> {
    pub data: Vec<T>,
    pub pagination: Pagination,
}

#[derive(Serialize)]
pub struct Pagination {
    pub next_cursor: Option<String>,
}

/// An attempt (contract §3).
#[derive(Serialize)]
pub struct AttemptJson<'a> {
    id: String,
    event: String,
    webhook: String,
    attempt: u32,
    at: String,
    duration_ms: u32,
    outcome: &'static str,
    class: Option<&'static str>,
    status: Option<u16>,
    error: Option<&'a str>,
    remote_addr: Option<String>,
    response_excerpt: Option<&'a str>,
    next_attempt_at: Option<String>,
}

impl<'a> AttemptJson<'a> {
    pub fn new(event: EventId, webhook: WebhookId, attempt: &'a Attempt) -> Self {
        let next = match attempt.verdict {
            Verdict::RetryAt(due) => Some(millis_z(due)),
            _ => None,
        };
        Self {
            id: attempt_id(event, webhook, attempt),
            event: event.to_string(),
            webhook: webhook.to_string(),
            attempt: attempt.number.get(),
            at: millis_z(attempt.at_ms),
            duration_ms: attempt.duration_ms,
            outcome: if attempt.class.is_none() { "delivered" } else { "failed" },
            class: attempt.class.map(crate::model::attempt::Class::as_str),
            status: attempt.status,
            error: Some(attempt.error.as_str()).filter(|error| !error.is_empty()),
            remote_addr: attempt.remote.map(|addr| addr.to_string()),
            response_excerpt: Some(attempt.excerpt.as_str()).filter(|excerpt| !excerpt.is_empty()),
            next_attempt_at: next,
        }
    }
}

/// An attempt's public name: its delivery's, and its number.
pub fn attempt_id(event: EventId, webhook: WebhookId, attempt: &Attempt) -> String {
    format!("{event}.{webhook}.{}", attempt.number)
}

/// A delivery's public name, which is a dead letter's too.
pub fn delivery_id(event: EventId, webhook: WebhookId) -> String {
    format!("{event}.{webhook}")
}

/// Reads `delivery_id`, with any of a webhook's spellings.
pub fn parse_delivery_id(text: &str) -> Option<(EventId, WebhookId)> {
    let (event, webhook) = text.split_once('.')?;
    Some((EventId::parse(event)?, WebhookId::parse(webhook)?))
}

/// A dead letter (contract §6).
#[derive(Serialize)]
pub struct DeadJson<'a> {
    id: String,
    event: String,
    webhook: String,
    r#type: &'a str,
    dead_at: String,
    reason: &'static str,
    attempts: u32,
    last_attempt: Option<AttemptJson<'a>>,
}

impl<'a> DeadJson<'a> {
    pub fn new(dead: &'a Dead) -> Self {
        let (event, webhook) = (dead.event.id, dead.webhook.id);
        Self {
            id: delivery_id(event, webhook),
            event: event.to_string(),
            webhook: webhook.to_string(),
            r#type: &dead.event.kind,
            dead_at: millis_z(dead.dead_ms),
            reason: dead.reason.as_str(),
            attempts: dead.attempts,
            last_attempt: dead.last_attempt.as_ref().map(|attempt| AttemptJson::new(event, webhook, attempt)),
        }
    }
}

/// What a test came to (contract §4.3).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestJson<'a> {
    success: bool,
    status_code: Option<u16>,
    duration_ms: u32,
    attempt_id: String,
    error: Option<&'a str>,
}

impl<'a> TestJson<'a> {
    pub fn new(tried: &'a Tried) -> Self {
        let attempt = &tried.attempt;
        Self {
            success: attempt.class.is_none(),
            status_code: attempt.status,
            duration_ms: attempt.duration_ms,
            attempt_id: attempt_id(tried.event.id, tried.webhook.id, attempt),
            error: Some(attempt.error.as_str()).filter(|error| !error.is_empty()),
        }
    }
}

/// A pending delivery.
#[derive(Serialize)]
pub struct PendingJson<'a> {
    id: String,
    event: String,
    webhook: String,
    r#type: &'a str,
    state: &'static str,
    attempts: u32,
    next_attempt_at: Option<String>,
}

impl<'a> PendingJson<'a> {
    pub fn new(webhook: WebhookId, pending: &'a Pending) -> Self {
        let event = pending.event.id;
        Self {
            id: delivery_id(event, webhook),
            event: event.to_string(),
            webhook: webhook.to_string(),
            r#type: &pending.event.kind,
            state: "pending",
            attempts: pending.attempts,
            next_attempt_at: pending.due_ms.map(millis_z),
        }
    }
}
