//! The vendors' shapes: parse and render, nothing else. What a webhook may be is the service's to judge.
//!
//! A dialect is one file here, its rows in `route`, its way of telling errors in `problem`, its delivery body in `render` and
//! its signature in `sign`. What more than one dialect needs to read or to show stands in this file and in `show`.

pub mod lemon;
pub mod omnia;
pub mod onemetric;
pub mod vibe;

use bytes::Bytes;

use super::json::Member;
use super::problem::Problem;
use crate::model::event::{RESERVED_PREFIX, is_event_type};
use crate::model::id::WebhookId;
use crate::model::webhook::{Filter, Webhook};
use crate::service::subscribe::Trial;

/// The type of a test that names none.
const TEST_TYPE: &str = "webhookd.test";

/// The filters as they were registered.
pub(super) fn filter_texts(webhook: &Webhook) -> Vec<String> {
    webhook.filters.iter().map(Filter::text).collect()
}

/// The newest secret, for the answer that shows it this once.
pub(super) fn newest_secret(webhook: &Webhook) -> &str {
    webhook.secrets.first().map_or("", |newest| newest.secret.expose())
}

/// A webhook's id in any dialect's spelling.
pub(super) fn webhook_id(text: &str) -> Result<WebhookId, Problem> {
    WebhookId::parse(text).ok_or_else(Problem::not_found)
}

/// A test's event, from members with the names they have in their dialect.
fn trial(kind: (&str, Member<'_>), created: (&str, Member<'_>), data: (&str, Member<'_>)) -> Result<Trial, Problem> {
    let text = kind.1.text(kind.0)?.map_or_else(|| TEST_TYPE.to_owned(), std::borrow::Cow::into_owned);
    if !is_event_type(&text) {
        return Err(Problem::invalid(format!("{} must be an event type", kind.0)));
    }
    if text.starts_with(RESERVED_PREFIX) && text != TEST_TYPE {
        let problem = Problem::invalid(format!("{}: webhookd.* is reserved", kind.0));
        return Err(Problem { code: "reserved", ..problem });
    }
    Ok(Trial {
        kind: text,
        created_us: created.1.moment(created.0)?,
        data: data.1.object(data.0)?.map(|text| Bytes::copy_from_slice(text.as_bytes())),
    })
}
