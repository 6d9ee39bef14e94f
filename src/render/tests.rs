//! The seeds' example payloads, published text passing through untouched, and the depth scan.

use serde_json::{Value, json};

use super::*;
use crate::model::id::EventId;

const WEBHOOK: &str = "9d701848-a6c2-4b4a-baac-9704f144bd02";

/// An event with the parts given as JSON text; "" stands for none.
fn event(kind: &str, at: &str, data: &str, context: &str, user: &str) -> Event {
    let part = |text: &str| (!text.is_empty()).then(|| Bytes::copy_from_slice(text.as_bytes()));
    Event {
        seq: 1,
        id: EventId::parse("evt_a8b11a37eccc49ecacb372e3a92a184d").unwrap(),
        tenant: 1,
        kind: kind.to_owned(),
        channel: None,
        accepted_ms: 0,
        created_us: time::parse_rfc3339(at).unwrap(),
        ordering_key: Some("never shown".to_owned()),
        data: part(data),
        context: part(context),
        user: part(user),
        matched: vec![1, 2],
        test: false,
    }
}

fn text(dialect: Dialect, event: &Event, channel: Option<&str>) -> String {
    let event = &Event { channel: channel.map(str::to_owned), ..event.clone() };
    let body = body(dialect, event, &WebhookId::parse(WEBHOOK).unwrap());
    assert!(body.len() <= size_hint(event), "{} bytes, hint {}", body.len(), size_hint(event));
    String::from_utf8(body.to_vec()).unwrap()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn lemon_as_in_the_seed() {
    let context = r#"{"account":"cusa_33531f7f801d4ce997747470ab7208fd"}"#;
    let event = event("account.created", "2023-06-29T14:40:30.523373+00:00", "", context, "");
    let seed = r#"{
        "id": "evt_a8b11a37eccc49ecacb372e3a92a184d",
        "type": "account.created",
        "created_at": "2023-06-29T14:40:30.523373+00:00",
        "context": {
        "account": "cusa_33531f7f801d4ce997747470ab7208fd"
        }
        }"#;
    let body = text(Dialect::Lemon, &event, None);
    assert_eq!(value(&body), value(seed));
    assert_eq!(event_json(&event), body.as_bytes());
    assert_eq!(
        body,
        format!(
            "{}{context}}}",
            r#"{"id":"evt_a8b11a37eccc49ecacb372e3a92a184d","type":"account.created","created_at":"2023-06-29T14:40:30.523373+00:00","context":"#
        )
    );
}

#[test]
fn lemon_always_has_a_context_and_data_and_user_as_published() {
    let rest = |event: &Event| {
        let body = text(Dialect::Lemon, event, Some("IGNORED"));
        body.split_once(r#""created_at":"2024-01-15T10:30:01.000000+00:00","#).unwrap().1.to_owned()
    };
    let at = "2024-01-15T10:30:01Z";
    assert_eq!(rest(&event("a.b", at, "", "", "")), r#""context":{}}"#);
    assert_eq!(
        rest(&event("a.b", at, r#"{"d":1}"#, r#"{"c":2}"#, r#"{"u":3}"#)),
        r#""context":{"c":2},"data":{"d":1},"user":{"u":3}}"#
    );
    assert_eq!(rest(&event("a.b", at, "", "", "{}")), r#""context":{},"user":{}}"#);
}

#[test]
fn omnia_names_subscription_channel_and_event() {
    let at = "2024-01-15T09:00:00.999999Z";
    let deposit = event("account.deposit_received", at, r#"{"amount":1000.0}"#, r#"{"c":1}"#, r#"{"u":1}"#);
    assert_eq!(
        text(Dialect::Omnia, &deposit, Some("ACCOUNT_ACTIVITY")),
        concat!(
            r#"{"type":"account.deposit_received","subscriptionId":"9d701848-a6c2-4b4a-baac-9704f144bd02","#,
            r#""eventType":"ACCOUNT_ACTIVITY","eventId":"evt_a8b11a37eccc49ecacb372e3a92a184d","#,
            r#""timestamp":"2024-01-15T09:00:00Z","data":{"amount":1000.0}}"#
        )
    );
    let other = value(&text(Dialect::Omnia, &event("order.updated", at, "", "", ""), None));
    assert_eq!((&other["eventType"], &other["data"]), (&json!("order.updated"), &json!({})));
    // A channel is configuration: whatever it holds, the body stays JSON.
    let odd = value(&text(Dialect::Omnia, &deposit, Some("say \"hi\"\\\n\u{7}ü")));
    assert_eq!(odd["eventType"], json!("say \"hi\"\\\n\u{7}ü"));
}

#[test]
fn vibe_as_in_the_seed() {
    let seed = r#"{
      "event": "order.updated",
      "timestamp": "2024-01-15T10:30:01Z",
      "data": {
        "orderId": "12345678-1234-1234-1234-123456789012",
        "status": "filled",
        "filledQuantity": 0.1,
        "averagePrice": 49850.25,
        "updatedAt": "2024-01-15T10:30:01Z"
      }
    }"#;
    let data = value(seed)["data"].to_string();
    let body = text(Dialect::Vibe, &event("order.updated", "2024-01-15T10:30:01.9999Z", &data, "", "{}"), None);
    assert_eq!(value(&body), value(seed));
    assert!(body.starts_with(r#"{"event":"order.updated","timestamp":"2024-01-15T10:30:01Z","data":{"#), "{body}");
    let none = text(Dialect::Vibe, &event("test", "2024-01-15T12:00:00Z", "", "", ""), None);
    assert_eq!(none, r#"{"event":"test","timestamp":"2024-01-15T12:00:00Z","data":{}}"#);
}

#[test]
fn onemetric_as_in_the_seed() {
    let alert = r#"{
      "event_type": "MARKET_GENERATED_ALERT",
      "sub_type": "PRICE_ALERT",
      "time_stamp": "2024-10-01 10:20:00",
      "details": {
        "ltp": 30,
        "close": 20,
        "symbol": "XYZ",
        "alert_threshold": 25,
        "price_change_percentage": 5.0
      },
      "user": {
        "id": "user_123456",
        "name": "John Doe",
        "email": "johndoe@example.com"
      }
    }"#;
    let login = r#"{
      "event_type": "USER_ACTIVITY",
      "sub_type": "LOGIN",
      "time_stamp": "2024-10-01 11:45:00",
      "user": {
        "id": "user_789012",
        "name": "Jane Smith",
        "email": "janesmith@example.com"
      }
    }"#;
    for (kind, at, seed) in [
        ("MARKET_GENERATED_ALERT.PRICE_ALERT", "2024-10-01T10:20:00Z", alert),
        ("USER_ACTIVITY.LOGIN", "2024-10-01T13:45:00.5+02:00", login),
    ] {
        let seed = value(seed);
        let part = |name: &str| seed.get(name).map(Value::to_string).unwrap_or_default();
        let body = text(Dialect::OneMetric, &event(kind, at, &part("details"), "{}", &part("user")), None);
        assert_eq!(value(&body), seed);
    }
    let start = |kind| text(Dialect::OneMetric, &event(kind, "2024-10-01T12:00:00Z", "", "", ""), None);
    assert_eq!(start("PING"), r#"{"event_type":"PING","time_stamp":"2024-10-01 12:00:00"}"#);
    assert_eq!(start("A.B.C"), r#"{"event_type":"A","sub_type":"B.C","time_stamp":"2024-10-01 12:00:00"}"#);
    let full = event("A.B", "2024-10-01T12:00:00Z", r#"{"d":1}"#, "", r#"{"u":1}"#);
    assert!(text(Dialect::OneMetric, &full, None).ends_with(r#"12:00:00","details":{"d":1},"user":{"u":1}}"#));
}

#[test]
fn what_was_published_passes_through_byte_for_byte() {
    let raw = "{ \"price\" : 0.10,\t\"big\":12345678901234567890, \"e\":1E+02,\r\n \"z\":1,\"a\":2,\"z\":3, \
               \"s\":\"\\u00e9 \\/ \\\"{\\\" é 🦀 \\ud83e\\udd80\", \"n\":-0.0,\"l\":[ 1 ,2 ]\n}";
    assert!(serde_json::from_str::<Value>(raw).is_ok());
    let event = event("a.b", "2024-01-15T10:30:01Z", raw, raw, raw);
    for (dialect, names) in [
        (Dialect::Lemon, ["data", "context", "user"].as_slice()),
        (Dialect::Omnia, &["data"]),
        (Dialect::Vibe, &["data"]),
        (Dialect::OneMetric, &["details", "user"]),
    ] {
        let body = text(dialect, &event, None);
        assert!(serde_json::from_str::<Value>(&body).is_ok(), "{body}");
        for name in names {
            assert!(body.contains(&format!("\"{name}\":{raw}")), "{name} in {body}");
        }
        assert_eq!(body.matches(raw).count(), names.len());
        assert!(!body.contains("never shown"));
    }
}

#[test]
fn the_longest_type_and_an_absurd_time_still_fit() {
    let mut event = event(&"x".repeat(128), "9999-12-30T00:00:00.999999Z", "", "", "");
    for dialect in [Dialect::Lemon, Dialect::Omnia, Dialect::Vibe, Dialect::OneMetric] {
        assert!(value(&text(dialect, &event, None)).is_object());
    }
    event.created_us = u64::MAX;
    assert!(value(&text(Dialect::Lemon, &event, None)).is_object());
}

#[test]
fn depth_counts_containers_and_nothing_in_strings() {
    for (json, depth) in [
        ("", 0),
        ("12.5e3", 0),
        (r#""[[[{{{""#, 0),
        ("{}", 1),
        ("[1,2,[],[3]]", 2),
        (r#"{"a":{"b":{}},"c":[[[]]]}"#, 4),
        (r#"{"[[[":"]]]","x\"[[":"\\","y":"\\\"[[[","z":"\u005b[["}"#, 1),
        (r#"["\\",[]]"#, 2),
        (r#"{"é":"🦀[","b":[]}"#, 2),
    ] {
        assert!(depth_ok(json.as_bytes(), depth), "{json}");
        assert!(depth == 0 || !depth_ok(json.as_bytes(), depth - 1), "{json}");
    }
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let max = crate::limits::JSON_DEPTH_MAX;
    assert!(depth_ok(nested(max).as_bytes(), max) && !depth_ok(nested(max + 1).as_bytes(), max));
    assert!(depth_ok("[]".repeat(100_000).as_bytes(), 1));
    assert!(!depth_ok("[".repeat(1_000_000).as_bytes(), max));
    // No JSON at all: it answers, and does not wrap or run off the end.
    for torn in ["\"", "\"\\", "]]]]", "}{", "{\"a\\"] {
        assert!(depth_ok(torn.as_bytes(), 1), "{torn}");
    }
}
