//! Errors as each dialect tells them (contract §4, §8), read strictly: another member, a missing one or another content type
//! fails the test. What a refusal may repeat of its request is held here too.

use super::*;
use crate::http::problem::Form;
use crate::http::route::{ROUTES, Where};
use crate::limits::ECHO_BYTES_MAX;

/// What an error says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) status: u16,
    /// Empty where the form has none.
    pub(super) code: String,
    pub(super) message: String,
}

/// Reads an error in its form.
#[track_caller]
pub(super) fn told(form: Form, got: &Got) -> Told {
    let (message, code, others, kind): (_, _, &[&str], _) = match form {
        Form::Lemon => ("message", "code", &[], "application/json"),
        Form::Omnia => ("description", "code", &[], "application/json"),
        Form::Vibe => ("error", "code", &[], "application/json"),
        Form::OneMetric => ("message", "", &["status"], "application/json"),
        Form::Admin => ("detail", "code", &["type", "title", "status"], "application/problem+json"),
    };
    let body = got.json();
    let mut members: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let mut wanted: Vec<&str> = [message, code].into_iter().chain(others.iter().copied()).collect();
    wanted.retain(|name| !name.is_empty());
    members.sort_unstable();
    wanted.sort_unstable();
    assert_eq!((members, got.header("content-type")), (wanted, Some(kind)), "{body}");
    match form {
        Form::OneMetric => assert_eq!(body["status"], "error"),
        Form::Admin => {
            assert_eq!((&body["type"], &body["status"]), (&json!("about:blank"), &json!(got.status.as_u16())))
        }
        Form::Lemon | Form::Omnia | Form::Vibe => {}
    }
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    assert!(!text(message).is_empty(), "{body}");
    Told { status: got.status.as_u16(), code: text(code), message: text(message) }
}

/// Status and code of a refusal that lemon's form tells with these, in a form.
pub(super) fn in_form(form: Form, status: u16, code: &str) -> (u16, String) {
    let plain = |status| if status == 422 { 400 } else { status };
    match form {
        Form::Lemon | Form::Vibe | Form::Admin => (status, code.to_owned()),
        Form::OneMetric => (plain(status), String::new()),
        Form::Omnia => match (status, code) {
            (401, _) => (401, "INVALID_NONCE".to_owned()),
            (409, "quota_exceeded") => (400, "WEBHOOK_LIMIT_EXCEEDED".to_owned()),
            (_, "invalid_json" | "invalid_field") => (400, "INVALID_REQUEST".to_owned()),
            (_, code) => (plain(status), code.to_ascii_uppercase()),
        },
    }
}

/// Fails the test if a message repeats more of what was sent than it may.
#[track_caller]
pub(super) fn echoes_little(sent: &str, message: &str) {
    // A quotation mark of ours on either side may be one of the sender's as well.
    let long = message.as_bytes().windows(ECHO_BYTES_MAX + 3);
    let echo = long.map(String::from_utf8_lossy).find(|part| sent.contains(part.as_ref()));
    assert!(echo.is_none(), "{echo:?} of what was sent in {message}");
    assert!(message.len() < 300, "{message}");
}

/// The listener that has a route.
pub(super) fn surface(on: Where) -> Surface {
    if matches!(on, Where::Api | Where::Everywhere) { Surface::Public } else { Surface::Admin }
}

/// Every path of the table, once, with its form and its listener.
pub(super) fn paths() -> Vec<(&'static str, Form, Surface)> {
    let mut paths: Vec<_> = ROUTES.iter().map(|route| (route.path, route.form, surface(route.on))).collect();
    let mut seen = std::collections::BTreeSet::new();
    paths.retain(|(path, ..)| seen.insert(*path));
    paths
}
