//! The `P` rows of the table of bad input: what may not be published. One table of rows, tried alone and as a part of a batch;
//! what can't be told from a row's text (keys, rates, sizes) stands below, and in `idempotency` and `requests`.

use super::told::{echoes_little, told};
use super::*;
use crate::http::problem::Form;
use crate::http::route::{Access, ROUTES};

const GOOD: &str = r#"{"type":"a","tenant":"acme"}"#;

/// A way to publish an event: alone, or behind a good one in a batch.
struct Door {
    path: &'static str,
    around: [&'static str; 2],
    /// What a message about the event begins with.
    prefix: &'static str,
}

const DOORS: [Door; 2] = [
    Door { path: "/v1/events", around: ["", ""], prefix: "" },
    Door {
        path: "/v1/events/batch",
        around: [r#"{"events":[{"type":"a","tenant":"acme"},"#, "]}"],
        prefix: "events[1]: ",
    },
];

#[test]
fn every_route_that_publishes_is_a_door() {
    let routes = ROUTES.iter().filter(|route| route.access == Access::Publish);
    assert!(routes.map(|route| route.path).eq(DOORS.iter().map(|door| door.path)));
}

/// Refused with this status and code; the message names what stands last.
type Row<'a> = (&'a str, u16, &'a str, &'a str);

/// Tries every row at every door, and holds that none has left anything.
async fn refuse_all(world: &World, rows: &[Row<'_>]) {
    for (event, status, code, names) in rows {
        for Door { path, around, prefix } in DOORS {
            let body = format!("{}{event}{}", around[0], around[1]);
            let got = told(Form::Lemon, &world.call("POST", path, &world.publisher, body).await);
            let about = format!("{path} {} {got:?}", &event[..event.floor_char_boundary(200)]);
            assert_eq!((got.status, got.code.as_str()), (*status, *code), "{about}");
            assert!(got.message.contains(names), "{about}");
            assert!(*status == 400 || got.message.starts_with(prefix), "{about}");
            echoes_little(event, &got.message);
        }
    }
    assert_eq!(world.store.shared().next_event(), 1, "a refusal leaves nothing behind");
}

#[tokio::test]
async fn p_what_is_no_json_or_too_deep() {
    let world = World::new().await;
    let deep = |depth: usize| {
        format!(r#"{{"type":"a","tenant":"acme","data":{{"x":{}{}}}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    let (deep, abyss) = (deep(200), deep(100_000));
    let rows: [Row<'_>; 11] = [
        ("", 400, "invalid_json", "body"),
        ("{", 400, "invalid_json", "body"),
        ("nonsense", 400, "invalid_json", "line 1, column"),
        (r#"{"type":"a","tenant":"acme""#, 400, "invalid_json", "body"),
        (r#"{"type":"a","tenant":"acme"} x"#, 400, "invalid_json", "line 1, column"),
        (r#"{"type":"a","tenant":"acme",}"#, 400, "invalid_json", "line 1, column"),
        (r#"{'type':'a'}"#, 400, "invalid_json", "line 1, column"),
        (r#"{"type":"a","data":{"x":NaN}}"#, 400, "invalid_json", "line 1, column"),
        ("{\"type\":\"a\",\"tenant\":\"acme\",\"data\":{\"x\":\"\u{1}\"}}", 400, "invalid_json", "line 1, column"),
        (&deep, 400, "invalid_json", "nested deeper than 128"),
        (&abyss, 400, "invalid_json", "nested deeper than 128"),
    ];
    refuse_all(&world, &rows).await;
    for body in [
        &b"\xef\xbb\xbf{}"[..],
        b"{\"type\":\"a\",\"tenant\":\"acme\",\"data\":{\"x\":\"\xff\"}}",
        b"\0",
        b"\xff\xfe{\0",
    ] {
        let got = world.call("POST", "/v1/events", &world.publisher, body).await;
        assert_eq!(got.told(), (400, "invalid_json".to_owned()), "what is no UTF-8 is no JSON: {body:?}");
    }
}

#[tokio::test]
async fn p_members_that_are_doubled_missing_or_of_another_type() {
    let world = World::new().await;
    let type_of = |length: usize| format!(r#"{{"type":"{}","tenant":"acme"}}"#, "x".repeat(length));
    let key_of = |length: usize| format!(r#"{{"type":"a","tenant":"acme","ordering_key":"{}"}}"#, "x".repeat(length));
    let (long, longer, key) = (type_of(129), type_of(10_000), key_of(256));
    let tenant = format!(r#"{{"type":"a","tenant":"{}"}}"#, "x".repeat(10_000));
    let time = format!(r#"{{"type":"a","tenant":"acme","created_at":"{}"}}"#, "1".repeat(10_000));
    let rows: [Row<'_>; 30] = [
        (r#"["order.updated","acme"]"#, 422, "invalid_field", "object"),
        ("\"a\"", 422, "invalid_field", "object"),
        ("5", 422, "invalid_field", "object"),
        ("null", 422, "invalid_field", "object"),
        (r#"{"type":"a","type":"b","tenant":"acme"}"#, 422, "invalid_field", "type stands there twice"),
        (r#"{"type":"a","tenant":"acme","tenant":"acme"}"#, 422, "invalid_field", "tenant stands there twice"),
        (r#"{"type":"a","tenant":"acme","data":{},"data":{}}"#, 422, "invalid_field", "data stands there twice"),
        (r#"{"tenant":"acme"}"#, 422, "invalid_field", "type is required"),
        (r#"{"type":null,"tenant":"acme"}"#, 422, "invalid_field", "type is required"),
        (r#"{"type":5,"tenant":"acme"}"#, 422, "invalid_field", "type must be a string"),
        (r#"{"type":"","tenant":"acme"}"#, 422, "invalid_field", "type must be 1 to 128"),
        (r#"{"type":"a b","tenant":"acme"}"#, 422, "invalid_field", "type must be 1 to 128"),
        (r#"{"type":"ä","tenant":"acme"}"#, 422, "invalid_field", "type must be 1 to 128"),
        (r#"{"type":"\ud83d","tenant":"acme"}"#, 422, "invalid_field", "type must be a string"),
        (&long, 422, "invalid_field", "type must be 1 to 128"),
        (&longer, 422, "invalid_field", "type must be 1 to 128"),
        (r#"{"type":"webhookd.x","tenant":"acme"}"#, 422, "reserved", "type"),
        (r#"{"type":"a","tenant":"operator"}"#, 422, "reserved", "tenant"),
        (r#"{"type":"a"}"#, 422, "invalid_field", "tenant is required"),
        (r#"{"type":"a","tenant":7}"#, 422, "invalid_field", "tenant must be a string"),
        (r#"{"type":"a","tenant":"nobody"}"#, 422, "unknown_tenant", "tenant is unknown"),
        (r#"{"type":"a","tenant":"No Body"}"#, 422, "unknown_tenant", "tenant is unknown"),
        (&tenant, 422, "unknown_tenant", "tenant is unknown"),
        (r#"{"type":"a","tenant":"acme","data":[1]}"#, 422, "invalid_field", "data must be an object"),
        (r#"{"type":"a","tenant":"acme","context":"x"}"#, 422, "invalid_field", "context must be an object"),
        (r#"{"type":"a","tenant":"acme","user":1}"#, 422, "invalid_field", "user must be an object"),
        (&time, 422, "invalid_field", "created_at must be an RFC 3339 time"),
        (r#"{"type":"a","tenant":"acme","created_at":17}"#, 422, "invalid_field", "created_at must be"),
        (r#"{"type":"a","tenant":"acme","ordering_key":""}"#, 422, "invalid_field", "ordering_key"),
        (&key, 422, "invalid_field", "ordering_key must have 1 to 255 bytes"),
    ];
    refuse_all(&world, &rows).await;
}

#[tokio::test]
async fn p_a_batch_that_is_none() {
    let world = World::with(Settings { event_bytes: 1_000, ..Settings::default() }).await;
    let large = format!(r#"{{"type":"a","tenant":"acme","data":{{"x":"{}"}}}}"#, "y".repeat(1_000));
    let (large, many) =
        (format!(r#"{{"events":[{GOOD},{large}]}}"#), format!(r#"{{"events":[{}]}}"#, vec![GOOD; 1_001].join(",")));
    for (body, status, code, names) in [
        ("{}", 422, "invalid_field", "events is required"),
        (r#"{"events":null}"#, 422, "invalid_field", "events is required"),
        (r#"{"events":[]}"#, 422, "invalid_field", "events must hold 1 to 1000"),
        (&many, 422, "invalid_field", "events must hold 1 to 1000"),
        (r#"{"events":{}}"#, 422, "invalid_field", "events must be an array"),
        (r#"{"events":"a"}"#, 422, "invalid_field", "events must be an array"),
        (r#"{"events":[],"events":[]}"#, 422, "invalid_field", "events stands there twice"),
        ("[]", 422, "invalid_field", "object"),
        (&large, 413, "payload_too_large", "events[1]: an event may have 1000 bytes"),
    ] {
        let got = told(Form::Lemon, &world.call("POST", "/v1/events/batch", &world.publisher, body.to_owned()).await);
        assert_eq!(
            (got.status, got.code.as_str()),
            (status, code),
            "{} {got:?}",
            &body[..body.floor_char_boundary(200)]
        );
        assert!(got.message.contains(names), "{got:?}");
    }
    assert_eq!(world.store.shared().next_event(), 1, "nothing of a refused batch is accepted");
}

#[tokio::test]
async fn p_a_strict_catalogue_names_the_type_it_does_not_know() {
    let catalogue = catalogue(&[("order.created", None)]);
    let world = World::with(Settings { strict: true, catalogue, ..Settings::default() }).await;
    let long = format!(r#"{{"type":"{}","tenant":"acme"}}"#, "x".repeat(128));
    let unknown = r#"{"type":"order.x","tenant":"acme"}"#;
    let rows: [Row<'_>; 2] = [(&long, 422, "unknown_type", "type xxx"), (unknown, 422, "unknown_type", "type order.x")];
    // What stands before it in the batch has to be known.
    for (event, status, code, names) in rows {
        let batch = format!(r#"{{"events":[{{"type":"order.created","tenant":"acme"}},{event}]}}"#);
        for (path, body, prefix) in [("/v1/events", event, ""), ("/v1/events/batch", &batch, "events[1]: ")] {
            let got = told(Form::Lemon, &world.call("POST", path, &world.publisher, body.to_owned()).await);
            assert_eq!((got.status, got.code.as_str()), (status, code), "{got:?}");
            assert!(got.message.starts_with(&format!("{prefix}{names}")), "{got:?}");
            echoes_little(event, &got.message);
        }
    }
    world.publish("acme", "order.created").await;
    world.service.reload(Settings::default());
    world.publish("acme", "order.x").await;
}

/// A test's event is published too, whoever's form it is asked for in.
#[tokio::test]
async fn p_what_the_test_tools_refuse() {
    let world = World::new().await;
    let id = world.webhook(&["a"]).await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let long = format!("\"{}\"", "x".repeat(10_000));
    for (member, value, status, code) in [
        ("type", "5", 422, "invalid_field"),
        ("type", "\"a b\"", 422, "invalid_field"),
        ("type", &long, 422, "invalid_field"),
        ("type", "\"webhookd.webhook.disabled\"", 422, "reserved"),
        ("created_at", "\"soon\"", 422, "invalid_field"),
        ("created_at", "1", 422, "invalid_field"),
        ("data", "[]", 422, "invalid_field"),
        ("data", "\"x\"", 422, "invalid_field"),
        ("data", &deep, 400, "invalid_json"),
    ] {
        let vibes = match member {
            "type" => "event",
            "created_at" => "timestamp",
            other => other,
        };
        let lemon =
            (format!("/v1/webhooks/{id}/test"), format!("{{\"{member}\":{value}}}"), Form::Lemon, member.to_owned());
        let vibe = format!("{{\"webhookId\":\"{id}\",\"testEvent\":{{\"{vibes}\":{value}}}}}");
        let vibe = ("/api/v1/webhooks/test".to_owned(), vibe, Form::Vibe, format!("testEvent.{vibes}"));
        for (path, body, form, name) in [lemon, vibe] {
            let got = told(form, &world.call("POST", &path, &world.acme, body).await);
            assert_eq!((got.status, got.code.as_str()), (status, code), "{path} {member} {got:?}");
            assert!(got.message.starts_with(&name), "{path} {got:?}");
            echoes_little(value, &got.message);
        }
    }
    for (body, status, names) in [
        ("", 400, "body"),
        ("{}", 422, "webhookId is required"),
        (r#"{"webhookId":5}"#, 422, "webhookId must be a string"),
        (r#"{"webhookId":"x","webhookId":"x"}"#, 422, "webhookId stands there twice"),
        (&format!(r#"{{"webhookId":"{id}","testEvent":[]}}"#), 422, "testEvent must be an object"),
        (
            &format!(r#"{{"webhookId":"{id}","testEvent":{{"data":{{}},"data":{{}}}}}}"#),
            422,
            "testEvent.data stands there twice",
        ),
    ] {
        let got = told(Form::Vibe, &world.call("POST", "/api/v1/webhooks/test", &world.acme, body.to_owned()).await);
        assert!(got.status == status && got.message.contains(names), "{body} {got:?}");
    }
    assert_eq!(world.store.shared().next_event(), 1, "nothing was sent");
}

#[tokio::test]
async fn p_as_deep_as_it_may_be() {
    let world = World::new().await;
    let id = world.webhook(&["a"]).await;
    let data = format!("{{\"x\":{}{}}}", "[".repeat(126), "]".repeat(126));
    let event = format!(r#"{{"type":"a","tenant":"acme","data":{data}}}"#);
    assert_eq!(world.call("POST", "/v1/events", &world.publisher, event).await.status, 201);
    let test =
        world.call("POST", &format!("/v1/webhooks/{id}/test"), &world.acme, format!("{{\"data\":{data}}}")).await;
    assert_eq!(test.status, 200);
    let test = format!("{{\"webhookId\":\"{id}\",\"testEvent\":{{\"data\":{data}}}}}");
    assert_eq!(world.call("POST", "/api/v1/webhooks/test", &world.acme, test).await.status, 200);
}

#[tokio::test]
async fn p_what_nothing_matches_is_accepted() {
    let world = World::new().await;
    world.webhook(&["b"]).await;
    let got = world.call("POST", "/v1/events", &world.publisher, GOOD).await;
    assert_eq!((got.status.as_u16(), &got.json()["deliveries"]), (201, &json!(0)));
    let got = world.call("POST", "/v1/events/batch", &world.publisher, format!(r#"{{"events":[{GOOD}]}}"#)).await;
    assert_eq!((got.status.as_u16(), &got.json()["events"][0]["deliveries"]), (201, &json!(0)));
}

#[tokio::test]
async fn p_depth_is_the_bodys_whatever_stands_beside_it() {
    let world = World::new().await;
    let nest = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
    let flat = r#"{"type":"a","tenant":"acme","data":{"x":"[{[{"}},"#.repeat(99);
    for (member, also) in [("data", ""), ("context", ""), ("unknown", ""), ("data", r#","ordering_key":"{""#)] {
        for (levels, status) in [(127, 201), (128, 400)] {
            let event = |levels| format!(r#"{{"type":"a","tenant":"acme","{member}":{}{also}}}"#, nest(levels));
            let batch = format!(r#"{{"events":[{flat}{}]}}"#, event(levels - 2));
            for (path, body) in [("/v1/events", event(levels)), ("/v1/events/batch", batch)] {
                let got = world.call("POST", path, &world.publisher, body).await;
                assert_eq!(got.status.as_u16(), status, "{path} {member}{also} {levels}");
            }
        }
    }
}

#[tokio::test]
async fn p_a_key_that_publishes_too_fast_is_told_when_to_come_back() {
    let world = World::with(Settings { publish_rate: std::num::NonZeroU32::new(2), ..Settings::default() }).await;
    let batch = format!(r#"{{"events":[{GOOD}]}}"#);
    let publish = async |door: &Door| {
        let body = if door.prefix.is_empty() { GOOD } else { &batch };
        world.call("POST", door.path, &world.publisher, body.to_owned()).await
    };
    assert_eq!(publish(&DOORS[0]).await.status, 201);
    assert_eq!(publish(&DOORS[1]).await.status, 201);
    for door in &DOORS {
        let got = publish(door).await;
        assert_eq!((got.told(), got.header("retry-after")), ((429, "rate_limited".to_owned()), Some("1")));
    }
    assert_eq!(world.call("POST", "/v1/events", &world.beta, r#"{"type":"a"}"#).await.status, 201);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(publish(&DOORS[0]).await.status, 201);
}
