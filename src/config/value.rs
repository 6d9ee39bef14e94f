//! One written value against what its key expects. Owns the wording of "expects …, found …".
//!
//! Invariant: what `check` lets through deserializes into `settings`. Leaves tables, lists and places to `walk`.

use std::net::{IpAddr, SocketAddr};

use figment::value::Value;
use ipnet::IpNet;
use toml::de::DeValue;

use super::problem::quoted;
use super::schema::{Leaf, nearest};
use super::text;
use crate::model::event;

/// The broken rule and the advice.
pub(super) type Fault = (String, Option<String>);

/// Bytes of a unix socket's path, without the closing zero (Linux: `sun_path` has 108).
const SOCKET_PATH_MAX: usize = 107;
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// The value in the form that `settings` reads, or what is wrong with it.
pub(super) fn check(leaf: Leaf, value: &DeValue<'_>) -> Result<Value, Fault> {
    match leaf {
        Leaf::Bool => value.as_bool().map(Value::from).ok_or_else(|| mistyped("true or false", value)),
        Leaf::Integer(min, max) => integer(min, max, value),
        Leaf::Number(min, max) => number(min, max, value),
        Leaf::Duration(..) => match value.as_integer() {
            Some(seconds) => {
                let (message, _) = mistyped("a duration in quotes, with its unit", value);
                Err((message, Some(format!("write \"{}s\" for seconds", seconds.as_str()))))
            }
            None => textual(leaf, text_of("a duration such as \"5s\" or \"24h\"", value)?),
        },
        Leaf::Size(..) => match value.as_integer() {
            Some(bytes) => textual(leaf, bytes.as_str()),
            None => textual(leaf, text_of("a size such as \"64 MiB\"", value)?),
        },
        _ => textual(leaf, text_of("text in quotes", value)?),
    }
}

/// Whether `text` may be `log.level`.
///
/// # Errors
/// The broken rule, with what was probably meant.
pub fn check_log_level(text: &str) -> Result<(), String> {
    let checked = textual(Leaf::LogLevel, text).map(drop);
    checked.map_err(|(rule, advice)| advice.map_or_else(|| rule.clone(), |advice| format!("{rule}; {advice}")))
}

/// Whether values of this kind are text, so that a variable's value is taken as it is.
pub(super) fn is_textual(leaf: Leaf) -> bool {
    !matches!(leaf, Leaf::Bool | Leaf::Integer(..) | Leaf::Number(..))
}

/// "expects A, found B".
pub(super) fn mistyped(expected: &str, found: &DeValue<'_>) -> Fault {
    let found = match found {
        DeValue::String(text) => format!("the text {}", quoted(text)),
        DeValue::Integer(number) => format!("the number {}", quoted(number.as_str()).trim_matches('"')),
        DeValue::Float(number) => format!("the number {}", quoted(number.as_str()).trim_matches('"')),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    (format!("expects {expected}, found {found}"), None)
}

fn text_of<'v>(expected: &str, value: &'v DeValue<'_>) -> Result<&'v str, Fault> {
    value.as_str().ok_or_else(|| mistyped(expected, value))
}

fn integer(min: u64, max: u64, value: &DeValue<'_>) -> Result<Value, Fault> {
    let number = value.as_integer().ok_or_else(|| mistyped("a whole number", value))?;
    let read = i128::from_str_radix(number.as_str(), number.radix()).ok().and_then(|read| u64::try_from(read).ok());
    match read {
        Some(read) if (min..=max).contains(&read) => Ok(Value::from(read)),
        _ => Err((format!("must be between {min} and {max}"), None)),
    }
}

fn number(min: f64, max: f64, value: &DeValue<'_>) -> Result<Value, Fault> {
    let written = value.as_float().map(|number| number.as_str());
    let written = written.or_else(|| value.as_integer().map(|number| number.as_str()));
    let written = written.ok_or_else(|| mistyped("a number", value))?;
    match written.parse::<f64>() {
        Ok(read) if (min..=max).contains(&read) => Ok(Value::from(read)),
        _ => Err((format!("must be between {min} and {max}"), None)),
    }
}

fn textual(leaf: Leaf, written: &str) -> Result<Value, Fault> {
    let refuse = |rule: &str| Err((format!("{} {rule}", quoted(written)), None));
    let advise = |rule: &str, advice: String| Err((format!("{} {rule}", quoted(written)), Some(advice)));
    match leaf {
        _ if written.contains('\0') => return refuse("has a zero byte"),
        Leaf::Text => {}
        _ if written.trim().is_empty() => return Err(("must not be empty".to_owned(), None)),
        Leaf::EventName if !event::is_event_type(written) => {
            return refuse("is not an event type: 1 to 128 of A–Z a–z 0–9 _ . -");
        }
        Leaf::EventName if written.starts_with(event::RESERVED_PREFIX) => {
            return refuse("is reserved: types of webhookd itself start with webhookd.");
        }
        Leaf::Channel if !is_channel(written) => return refuse("is not a channel: 1 to 64 of A–Z 0–9 _"),
        Leaf::PlanName if !is_plan_name(written) => return refuse("is not a plan's name: 1 to 64 of a–z 0–9 _ -"),
        Leaf::SocketPath if written.len() > SOCKET_PATH_MAX => {
            return refuse("is too long for a unix socket: at most 107 bytes");
        }
        Leaf::Address => return address(written),
        Leaf::Network if written.parse::<IpNet>().is_err() => {
            let advice = written.parse::<IpAddr>().ok().map(|ip| format!("did you mean \"{}\"?", IpNet::from(ip)));
            return Err((format!("{} is not a network such as \"10.0.0.0/8\"", quoted(written)), advice));
        }
        Leaf::Ip if written.parse::<IpAddr>().is_err() => return refuse("is not an IP address"),
        Leaf::Duration(min, max) => match text::parse_duration(written) {
            Ok(read) if (min..=max).contains(&read) => {}
            Ok(read) if read.is_zero() => return refuse("must be longer than zero"),
            Ok(_) => {
                let (min, max) = (text::format_duration(min), text::format_duration(max));
                return refuse(&format!("must be between {min} and {max}"));
            }
            Err(rule) => return refuse(&rule),
        },
        Leaf::Size(min, max) => match text::parse_size(written) {
            Ok(read) if (min..=max).contains(&read) => {}
            Ok(_) => {
                let (min, max) = (text::format_size(min), text::format_size(max));
                return refuse(&format!("must be between {min} and {max}"));
            }
            Err(rule) => return refuse(&rule),
        },
        Leaf::LogLevel => {
            if let Err((part, rule)) = check_level(written) {
                let near = nearest(part, LEVELS.iter().copied());
                return near.map_or_else(|| refuse(rule), |near| advise(rule, format!("did you mean {near}?")));
            }
        }
        Leaf::Choice(words) if !words.contains(&written) => {
            let rule = format!("is not one of {}", words.join(", "));
            let near = nearest(written, words.iter().copied());
            return near.map_or_else(|| refuse(&rule), |near| advise(&rule, format!("did you mean {near}?")));
        }
        _ => {}
    }
    Ok(Value::from(written))
}

fn address(written: &str) -> Result<Value, Fault> {
    if written.parse::<SocketAddr>().is_ok() {
        return Ok(Value::from(written));
    }
    let advice = match written.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => Some(format!("did you mean \"0.0.0.0:{port}\"?")),
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => Some(format!("did you mean \"127.0.0.1:{port}\"?")),
        _ => written.parse::<u16>().ok().map(|port| format!("did you mean \"127.0.0.1:{port}\"?")),
    };
    let rule = "is not an IP address with a port such as \"127.0.0.1:8443\" or \"[::1]:8443\"";
    Err((format!("{} {rule}", quoted(written)), advice))
}

/// A level, or directives such as `info,webhookd::egress=debug`; the error names the part that is neither.
fn check_level(written: &str) -> Result<(), (&str, &'static str)> {
    const RULE: &str =
        "is not a level (off, error, warn, info, debug, trace) or a list such as \"info,webhookd=debug\"";
    for part in written.split(',').map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.contains(&level.to_lowercase().as_str()) {
            return Err((level, RULE));
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(written) {
        Ok(_) => Ok(()),
        Err(_) => Err((written, RULE)),
    }
}

fn is_channel(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Whether `text` may name a plan; such names are bare keys in TOML and, but for `-`, parts of variables.
pub(super) fn is_plan_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}
