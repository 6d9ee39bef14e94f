//! The four vendors' documents, example by example, against the real binary: what goes in, what is answered, what a receiver
//! gets. The examples stand beside these tests as the documents print them.

mod support;

use serde_json::Value;
use serde_json::value::RawValue;
use support::Request;

#[path = "dialects/cross.rs"]
mod cross;
#[path = "dialects/lemon.rs"]
mod lemon;
#[path = "dialects/omnia.rs"]
mod omnia;
#[path = "dialects/onemetric.rs"]
mod onemetric;
#[path = "dialects/vibe.rs"]
mod vibe;

/// Fails the test unless `actual` has the members of `example`, no more and no fewer, with the same values; those at `made`
/// (JSON pointers) are made anew each time and only look alike: hexadecimal digits where those are.
#[track_caller]
fn same_but(actual: &Value, example: &Value, made: &[&str]) {
    let looks = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_digit() || ('a'..='f').contains(&c) { '0' } else { c }).collect()
    };
    let mut expected = example.clone();
    for pointer in made {
        let [new, old] = [actual, example].map(|value| value.pointer(pointer).and_then(Value::as_str));
        let (Some(new), Some(old)) = (new, old) else { panic!("no text at {pointer} in {actual:#} or {example:#}") };
        assert_eq!(looks(new), looks(old), "{pointer}");
        *expected.pointer_mut(pointer).expect("it was there") = Value::from(new);
    }
    assert_eq!(actual, &expected);
}

/// A member of the examples as the text that it stands there in.
fn text_of<'a>(example: &'a RawValue, name: &str) -> Option<&'a str> {
    let members: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_str(example.get()).expect("an object");
    members.get(name).map(|raw| raw.get())
}

/// The body of `POST /v1/events`, with parts given as JSON text.
fn envelope(kind: &str, created_at: &str, parts: &[(&str, Option<&str>)]) -> String {
    let mut body = format!(r#"{{"tenant":"acme","type":"{kind}","created_at":"{created_at}""#);
    for (name, text) in parts {
        if let Some(text) = text {
            body.push_str(&format!(r#","{name}":{text}"#));
        }
    }
    body + "}"
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request.header(name).unwrap_or_else(|| panic!("{name} in {request:?}"))
}

/// Fails the test unless the delivery carries what every delivery carries, signed with `secret`.
#[track_caller]
fn is_signed(request: &Request, secret: &str, event: &str) {
    assert_eq!((request.method.as_str(), header(request, "webhook-id")), ("POST", event));
    assert!(header(request, "user-agent").starts_with("webhookd/"), "{request:?}");
    let stamp = header(request, "webhook-timestamp");
    let expected = support::signature::standard(secret, event, stamp, &request.body);
    assert_eq!(header(request, "webhook-signature"), expected);
    let seconds: u64 = stamp.parse().expect("seconds");
    assert!(support::unix_seconds().abs_diff(seconds) <= 60, "a fresh time: {stamp}");
}
