//! Answers, as whole bodies with their content type.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::Full;
use serde::Serialize;

use super::server::{Reply, ReplyBody};

/// A value as JSON.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => json_text(status, body),
        // None of our shapes can fail: no maps with keys that are no strings, no numbers out of range.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// What is JSON already.
pub fn json_text(status: StatusCode, body: Vec<u8>) -> Reply {
    whole(status, "application/json", body)
}

/// A value that holds a secret: nobody on the way may keep it.
pub fn secret_json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    let mut reply = json(status, value);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

pub fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(ReplyBody::Whole(Full::new(body.into())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// The same answer without its body, to `HEAD`.
pub fn headless(reply: Reply) -> Reply {
    let (mut parts, body) = reply.into_parts();
    if let ReplyBody::Whole(body) = &body
        && let Some(length) = body.size_hint().exact().filter(|_| parts.status != StatusCode::NO_CONTENT)
    {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(parts, ReplyBody::Whole(Full::default()))
}

pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(ReplyBody::Whole(Full::default()));
    *reply.status_mut() = status;
    reply
}
