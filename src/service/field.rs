//! The rules on a webhook's members, one function a member. Pure; a refusal names the member and the rule.

use std::collections::BTreeSet;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use jiff::SignedDuration;

use super::Settings;
use super::error::{Error, invalid_field, shown};
use crate::catalogue::Catalogue;
use crate::egress::target::Target;
use crate::limits::{WEBHOOK_FILTERS_MAX, WEBHOOK_HEADER_VALUE_MAX, WEBHOOK_HEADERS_MAX};
use crate::model::secret::Secret;
use crate::model::webhook::Filter;
use crate::sign::secret_valid;

const DESCRIPTION_CHARS_MAX: usize = 1_024;
const RATE_MAX: f64 = 1_000_000.0;
const IN_FLIGHT_MAX: u64 = 1_024;
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Names that would break HTTP or forge what only we may say; every `webhook-*` besides.
const FORBIDDEN_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "http2-settings",
    "lmg-signature",
    "lemon-markets-signature",
    "x-webhook-signature",
    "x-webhook-token",
];

pub fn url(text: &str, settings: &Settings) -> Result<(), Error> {
    match Target::parse(text, &settings.rules) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Invalid { code: error.code(), message: error.to_string() }),
    }
}

pub fn filters(texts: &[String]) -> Result<Vec<Filter>, Error> {
    if !(1..=WEBHOOK_FILTERS_MAX).contains(&texts.len()) {
        return Err(invalid_field("events must name 1 to 256 types"));
    }
    let mut seen = BTreeSet::new();
    let read = |text: &String| {
        if !seen.insert(text.clone()) {
            return Err(invalid_field(format!("events names {} twice", shown(text))));
        }
        let rule = "is not a type, a prefix such as order.*, or *";
        Filter::parse(text).ok_or_else(|| invalid_field(format!("events: {:?} {rule}", shown(text))))
    };
    texts.iter().map(read).collect()
}

/// Event types as Omnia has them: channels that the catalogue announces something on.
pub fn channels(texts: &[String], catalogue: &Catalogue) -> Result<(), Error> {
    let refuse = |message| Err(Error::Invalid { code: "invalid_event_type", message });
    if let Err(rule) = filters(texts) {
        return refuse(rule.to_string());
    }
    let Some(unknown) = texts.iter().find(|text| !catalogue.is_channel(text)) else { return Ok(()) };
    let known: Vec<&str> = catalogue.channels().take(8).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    refuse(format!("events: {:?} is not among those that can be subscribed to: {known}", shown(unknown)))
}

pub fn headers(given: Vec<(String, String)>) -> Result<Vec<(String, Secret)>, Error> {
    let invalid = |message: String| Error::Invalid { code: "header_invalid", message };
    if given.len() > WEBHOOK_HEADERS_MAX {
        return Err(invalid("headers may have 32 members".to_owned()));
    }
    let mut seen = BTreeSet::new();
    let check = |(name, value): (String, String)| {
        let shown = shown(&name).escape_debug().to_string();
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            return Err(invalid(format!("headers: {shown} is no header name")));
        };
        if FORBIDDEN_HEADERS.contains(&parsed.as_str()) || parsed.as_str().starts_with("webhook-") {
            return Err(Error::Invalid {
                code: "header_forbidden",
                message: format!("headers: {shown} may not be set"),
            });
        }
        if !seen.insert(parsed.as_str().to_owned()) {
            return Err(invalid(format!("headers names {shown} twice")));
        }
        if value.len() > WEBHOOK_HEADER_VALUE_MAX {
            return Err(invalid(format!("headers: the value of {shown} is longer than 4096 bytes")));
        }
        if !value.is_ascii() || HeaderValue::from_str(&value).is_err() {
            return Err(invalid(format!("headers: the value of {shown} holds what no header may carry")));
        }
        Ok((name, Secret::new(value)))
    };
    given.into_iter().map(check).collect()
}

pub fn secret(text: String) -> Result<Secret, Error> {
    match secret_valid(&text) {
        Ok(()) => Ok(Secret::new(text)),
        Err(rule) => Err(Error::Invalid { code: "secret_invalid", message: format!("secret: {rule}") }),
    }
}

pub fn plan(name: String, settings: &Settings) -> Result<String, Error> {
    if settings.plans.knows(&name) {
        return Ok(name);
    }
    Err(invalid_field(format!("plan {:?} is unknown", shown(&name))))
}

/// `1s` to `60s`, in milliseconds.
pub fn timeout(text: &str) -> Result<u32, Error> {
    let rule = || invalid_field("timeout must be a duration of 1s to 60s, such as \"10s\"");
    let duration: SignedDuration = text.parse().map_err(|_| rule())?;
    let duration = Duration::try_from(duration).map_err(|_| rule())?;
    if !TIMEOUT.contains(&duration) {
        return Err(rule());
    }
    u32::try_from(duration.as_millis()).map_err(|_| rule())
}

pub fn max_in_flight(count: u64) -> Result<u32, Error> {
    let count = Some(count).filter(|count| (1..=IN_FLIGHT_MAX).contains(count)).and_then(|c| u32::try_from(c).ok());
    count.ok_or_else(|| invalid_field("max_in_flight must be 1 to 1024"))
}

/// Deliveries per second.
pub fn rate_limit(rate: f64) -> Result<f64, Error> {
    let fits = rate.is_finite() && rate > 0.0 && rate <= RATE_MAX;
    fits.then_some(rate).ok_or_else(|| invalid_field("rate_limit must be a number above 0, at most 1000000"))
}

pub fn description(text: String) -> Result<String, Error> {
    if text.chars().count() > DESCRIPTION_CHARS_MAX {
        return Err(invalid_field("description may have 1024 characters"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(timeout("1s").unwrap(), 1_000);
        assert_eq!(timeout("60s").unwrap(), 60_000);
        assert_eq!(timeout("1500ms").unwrap(), 1_500);
        assert_eq!(timeout("1m").unwrap(), 60_000);
        for bad in ["", "0s", "999ms", "61s", "-5s", "ten", "10", "1d", "1e9s"] {
            assert!(timeout(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn header_names_and_values() {
        let one = |name: &str, value: &str| match headers(vec![(name.to_owned(), value.to_owned())]) {
            Ok(_) => "",
            Err(Error::Invalid { code, .. }) => code,
            Err(other) => panic!("{other:?}"),
        };
        for name in ["X-Api-Key", "content-type", "Authorization", "x-webhook"] {
            assert_eq!(one(name, "v"), "", "{name}");
        }
        for name in ["Host", "content-length", "Transfer-Encoding", "CONNECTION", "te", "Upgrade", "webhook-id"] {
            assert_eq!(one(name, "v"), "header_forbidden", "{name}");
        }
        for name in ["Webhook-Anything", "LMG-Signature", "X-Webhook-Token", "Lemon-Markets-Signature"] {
            assert_eq!(one(name, "v"), "header_forbidden", "{name}");
        }
        for (name, value) in [("", "v"), ("a b", "v"), ("a\r\n", "v"), ("a", "x\r\ny"), ("a", "\0"), ("a", "ü")] {
            assert_eq!(one(name, value), "header_invalid", "{name:?} {value:?}");
        }
        assert_eq!(one("a", &"x".repeat(4_097)), "header_invalid");
        let many = |n: usize| (0..n).map(|i| (format!("x-{i}"), String::new())).collect();
        assert!(headers(many(32)).is_ok() && headers(many(33)).is_err());
        assert!(headers(vec![("a".into(), "1".into()), ("A".into(), "2".into())]).is_err());
    }

    #[test]
    fn rates() {
        for good in [0.001, 1.0, 50.5, 1e6] {
            assert!(rate_limit(good).is_ok(), "{good}");
        }
        for bad in [0.0, -1.0, f64::INFINITY, f64::NAN, 1e7] {
            assert!(rate_limit(bad).is_err(), "{bad}");
        }
    }
}
