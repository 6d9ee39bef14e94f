//! What is answered when a request comes to nothing: one value, rendered in the form of the route's dialect.
//!
//! Invariant: two problems with the same status, code and message look the same byte for byte, whatever led to them; a
//! refused credential and a foreign id tell nothing by their answer.

use std::borrow::Cow;

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde::Serialize;

use super::body::BodyError;
use super::hygiene::Refusal;
use super::reply;
use super::server::{Reply, ReplyBody};
use crate::service::Error;

/// What is said to whoever has no credentials, or others.
const CREDENTIALS: &str = "valid credentials are required: send Authorization: Bearer <token>; the operator makes one with: \
                           webhookd keys create";

/// Whose way of telling errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"message","code"}`
    Lemon,
    /// `{"code","description"}`, the vendor's own texts for 401 and 404, and 400 for whatever else is wrong with a request
    Omnia,
    /// `{"error","code"}`
    Vibe,
    /// `{"status","message"}`, 400 for what breaks a rule
    OneMetric,
    /// RFC 9457
    Admin,
}

#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: Cow<'static, str>,
    pub retry_after_s: Option<u64>,
    /// The methods of a path that was asked for with another one.
    pub allow: Option<String>,
    /// The connection can't be used further.
    pub close: bool,
}

#[derive(Serialize)]
struct Lemon<'a> {
    message: &'a str,
    code: &'a str,
}

#[derive(Serialize)]
struct Omnia<'a> {
    code: &'a str,
    description: &'a str,
}

#[derive(Serialize)]
struct OneMetric<'a> {
    status: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct Vibe<'a> {
    error: &'a str,
    code: &'a str,
}

#[derive(Serialize)]
struct Rfc9457<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), retry_after_s: None, allow: None, close: false }
    }

    /// A member that breaks its rule.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message)
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "not found")
    }

    /// The one answer to every credential that does not open.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", CREDENTIALS)
    }

    /// The answers that other clients ask for and don't take leave no room for this one.
    pub fn unread() -> Self {
        let message = "the answers that clients have not taken yet leave no room for this one now; try again";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
        Self { retry_after_s: Some(1), ..problem }
    }

    pub fn forbidden(message: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// The same problem under another code.
    #[must_use]
    pub fn coded(self, code: &'static str) -> Self {
        Self { code, ..self }
    }

    /// The same problem, with the member that its message begins with called as the dialect calls it.
    #[must_use]
    pub fn naming(self, names: &[(&str, &str)]) -> Self {
        let rest = |ours: &str| {
            let rest = self.message.strip_prefix(ours)?;
            (!rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')).then_some(rest)
        };
        let renamed = names.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", rest(ours)?)));
        match renamed {
            Some(message) => Self { message: message.into(), ..self },
            None => self,
        }
    }

    /// As Omnia tells it: status, code and description.
    fn for_omnia(&self) -> (StatusCode, Cow<'static, str>, &str) {
        let message = self.message.as_ref();
        let code = match (self.status, self.code) {
            (StatusCode::UNAUTHORIZED, _) => return (self.status, "INVALID_NONCE".into(), "Invalid nonce"),
            (StatusCode::NOT_FOUND, _) => return (self.status, "NOT_FOUND".into(), "Not Found"),
            (_, "invalid_url" | "https_required" | "port_forbidden" | "target_forbidden") => "INVALID_TARGET".into(),
            (_, "header_invalid" | "header_forbidden") => "INVALID_HEADERS".into(),
            (_, "quota_exceeded") => "WEBHOOK_LIMIT_EXCEEDED".into(),
            (_, "invalid_field" | "invalid_json") => "INVALID_REQUEST".into(),
            (_, code) => code.to_ascii_uppercase().into(),
        };
        let status = if self.status == StatusCode::CONFLICT { StatusCode::BAD_REQUEST } else { self.lenient() };
        (status, code, message)
    }

    /// The status where a dialect knows no 422.
    fn lenient(&self) -> StatusCode {
        if self.status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { self.status }
    }

    #[must_use]
    pub fn reply(&self, form: Form) -> Reply {
        let (message, code) = (self.message.as_ref(), self.code);
        let mut reply: Response<ReplyBody> = match form {
            Form::Lemon => reply::json(self.status, &Lemon { message, code }),
            Form::Omnia => {
                let (status, code, description) = self.for_omnia();
                reply::json(status, &Omnia { code: &code, description })
            }
            Form::OneMetric => reply::json(self.lenient(), &OneMetric { status: "error", message }),
            Form::Vibe => reply::json(self.status, &Vibe { error: message, code }),
            Form::Admin => {
                let title = self.status.canonical_reason().unwrap_or_default();
                let body =
                    Rfc9457 { r#type: "about:blank", title, status: self.status.as_u16(), detail: message, code };
                let mut reply = reply::json(self.status, &body);
                let kind = HeaderValue::from_static("application/problem+json");
                reply.headers_mut().insert(CONTENT_TYPE, kind);
                reply
            }
        };
        let headers = reply.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow.as_ref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid { code, message } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message),
            Error::Malformed(message) => Self::new(StatusCode::BAD_REQUEST, "invalid_json", message),
            Error::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message),
            Error::Forbidden(message) => Self::forbidden(message),
            Error::NotFound => Self::not_found(),
            Error::Replayed => Self::unauthorized(),
            Error::Conflict { code, message } => Self::new(StatusCode::CONFLICT, code, message),
            Error::RateLimited { retry_after_s } => {
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message);
                Self { retry_after_s: Some(retry_after_s), ..problem }
            }
            Error::BacklogFull { retry_after_s } => {
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "backlog_full", message);
                Self { retry_after_s: Some(retry_after_s), ..problem }
            }
            Error::Unavailable { retry_after_s } => {
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
                Self { retry_after_s: Some(retry_after_s), ..problem }
            }
            Error::Full { code, message, retry_after_s } => {
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
                Self { retry_after_s: Some(retry_after_s), ..problem }
            }
            Error::Damaged => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store_damaged", message),
            Error::Internal => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { close: refusal.close, ..Self::new(refusal.status, refusal.code, refusal.message) }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let problem = Self::new(error.status(), error.code(), error.to_string());
        Self { close: error.close(), retry_after_s: error.retry_after_s(), ..problem }
    }
}
