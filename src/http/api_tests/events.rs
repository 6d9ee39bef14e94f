//! Publishing and reading events.

use super::*;

#[tokio::test]
async fn what_is_published_passes_through_byte_for_byte() {
    let world = World::new().await;
    world.webhook(&["order.*"]).await;
    let data =
        r#"{ "amount" : 0.10, "big":12345678901234567890123, "z":1,"a":"\u00e9\ud83d\ude00", "dup":1, "dup":2 }"#;
    let body = format!(
        r#" {{"type":"order.updated","tenant":"acme","data":{data},"context":{{"k": "v"}},"user":{{"id":  1}},
            "created_at":"2024-01-15T12:30:01+02:00","unknown":[1,2],"ordering_key":"k"}}"#
    );
    let got = world.call("POST", "/v1/events", &world.publisher, body).await;
    assert_eq!(got.status, 201, "{:?}", got.body);
    let text = std::str::from_utf8(&got.body).unwrap();
    let id = got.json()["id"].as_str().unwrap().to_owned();
    let event = format!(
        r#"{{"id":"{id}","type":"order.updated","created_at":"2024-01-15T10:30:01.000000+00:00","context":{{"k": "v"}},"data":{data},"user":{{"id":  1}}"#
    );
    assert_eq!(text, format!(r#"{event},"deliveries":1}}"#));
    assert_eq!(got.header("location"), Some(format!("/v1/events/{id}").as_str()));
    assert_eq!(got.header("content-type"), Some("application/json"));
    let read = world.call("GET", &format!("/v1/events/{id}"), &world.acme, "").await;
    assert_eq!((read.status.as_u16(), &read.body[..]), (200, format!("{event}}}").as_bytes()));
    let listed = world.call("GET", "/v1/events", &world.acme, "").await;
    assert_eq!(listed.body, format!(r#"{{"data":[{event}}}],"pagination":{{"next_cursor":null}}}}"#));
}

#[tokio::test]
async fn members_that_are_left_out_have_defaults() {
    let world = World::new().await;
    for body in [r#"{"type":"a","tenant":"acme"}"#, r#"{"type":"a","tenant":"acme","data":null,"created_at":null}"#] {
        let got = world.call("POST", "/v1/events", &world.publisher, body).await.json();
        assert_eq!(got["context"], json!({}));
        assert_eq!(got["created_at"], "2023-11-14T22:13:20.000000+00:00");
        assert_eq!(got["deliveries"], 0);
        assert!(got.get("data").is_none() && got.get("user").is_none());
    }
    let own = world.call("POST", "/v1/events", &world.beta, r#"{"type":"a"}"#).await;
    assert_eq!(own.status, 201);
    let own = world.call("POST", "/v1/events", &world.beta, r#"{"type":"a","tenant":"beta"}"#).await;
    assert_eq!(own.status, 201);
}

#[tokio::test]
async fn who_may_publish_for_whom() {
    let world = World::new().await;
    for (token, body, status) in [
        (&world.acme, r#"{"type":"a"}"#, 403),
        (&world.beta, r#"{"type":"a","tenant":"acme"}"#, 403),
        (&world.beta, r#"{"type":"a","tenant":"nobody"}"#, 403),
        (&world.beta, r#"{"type":"a","tenant":"*"}"#, 403),
        (&world.publisher, r#"{"type":"a","tenant":"*"}"#, 201),
        (&world.admin, r#"{"type":"a","tenant":"beta"}"#, 201),
    ] {
        let got = world.call("POST", "/v1/events", token, body).await;
        assert_eq!(got.status, status, "{body}");
    }
    let kinds = |got: Got| got.json()["data"].as_array().unwrap().len();
    assert_eq!(kinds(world.call("GET", "/v1/events", &world.acme, "").await), 1, "the broadcast");
    assert_eq!(kinds(world.call("GET", "/v1/events", &world.beta, "").await), 2);
}

/// `\ud83d` alone is no character, but JSON may hold it, and so may we.
#[tokio::test]
async fn escapes_that_are_no_characters_pass_too() {
    let world = World::new().await;
    let data = r#"{"a":"\ud83d","b":"\u0000"}"#;
    let body = format!(r#"{{"type":"a","tenant":"acme","data":{data}}}"#);
    let got = world.call("POST", "/v1/events", &world.publisher, body).await;
    assert_eq!(got.status, 201);
    let location = got.header("location").unwrap().to_owned();
    for path in ["/v1/events", &location, &format!("{location}/explain")] {
        let got = world.call("GET", path, &world.acme, "").await;
        assert_eq!(got.status, 200, "{path}");
        assert!(std::str::from_utf8(&got.body).unwrap().contains(data), "{path}");
    }
}

#[tokio::test]
async fn batches_are_whole_and_their_ids_rise() {
    let world = World::new().await;
    let event = |n: usize| json!({"type": "a", "tenant": "acme", "data": {"n": n}});
    let events: Vec<_> = (0..1_000).map(event).collect();
    let got = world.call("POST", "/v1/events/batch", &world.publisher, json!({"events": events}).to_string()).await;
    assert_eq!(got.status, 201, "{:?}", got.body);
    let accepted = got.json()["events"].as_array().unwrap().clone();
    let ids: Vec<_> = accepted.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1_000);
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert!(accepted.iter().enumerate().all(|(n, event)| event["data"]["n"] == n));
}

#[tokio::test]
async fn listings_page_through_everything_once() {
    let world = World::new().await;
    let events: Vec<_> = (0..250)
        .map(|n| json!({"type": if n % 2 == 0 { "even" } else { "odd" }, "tenant": "acme", "context": {"n": n % 5, "s": format!("v{}", n % 3)}}))
        .collect();
    world.call("POST", "/v1/events/batch", &world.publisher, json!({"events": events}).to_string()).await;
    for (query, expected) in [
        ("?", 250),
        ("?sort=asc", 250),
        ("?sort=asc&limit=7", 250),
        ("?type=even&limit=30", 125),
        ("?context.s=v1", 83),
        ("?context.n=3&limit=9", 50),
        ("?context.n=3&context.s=v0", 17),
        ("?context.none=3", 0),
    ] {
        let mut seen = Vec::new();
        let mut page = world.call("GET", &format!("/v1/events{query}"), &world.acme, "").await.json();
        loop {
            let data = page["data"].as_array().unwrap();
            seen.extend(data.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
            let Some(cursor) = page["pagination"]["next_cursor"].as_str() else { break };
            let limit = query.split('&').find(|part| part.starts_with("limit")).unwrap_or_default();
            let next = format!("/v1/events?cursor={cursor}&{limit}");
            page = world.call("GET", &next, &world.acme, "").await.json();
        }
        assert_eq!(seen.len(), expected, "{query}");
        let rising = query.contains("asc");
        assert!(seen.is_sorted_by(|a, b| if rising { a < b } else { a > b }), "{query}");
    }
}

#[tokio::test]
async fn a_context_filter_compares_values_and_rounds_none() {
    let world = World::new().await;
    let contexts = [
        r#"{"a":"x","odd":"\ud83d"}"#,
        r#"{"a":1}"#,
        r#"{"a":"1"}"#,
        r#"{"a":1.50}"#,
        r#"{"a":12345678901234567890123}"#,
        r#"{"a":true,"b":"x"}"#,
        r#"{"a":null}"#,
        r#"{"a": { "c" : [1, 2] }}"#,
        r#"{"a":"é \"q\" &=+"}"#,
        r#"{"b":"x","":"empty"}"#,
    ];
    for context in contexts {
        let body = format!(r#"{{"type":"t","tenant":"acme","context":{context}}}"#);
        assert_eq!(world.call("POST", "/v1/events", &world.publisher, body).await.status, 201, "{context}");
    }
    world.publish("acme", "t").await;
    for (query, found) in [
        ("context.a=x", &[0][..]),
        ("context.a=X", &[]),
        ("context.a=1", &[1, 2]),
        ("context.a=1.0", &[]),
        ("context.a=1.5", &[3]),
        ("context.a=1.50", &[3]),
        ("context.a=12345678901234567890123", &[4]),
        ("context.a=12345678901234567890124", &[]),
        ("context.a=1.2345678901234567890123e22", &[]),
        ("context.a=true", &[5]),
        ("context.a=null", &[6]),
        ("context.a=", &[]),
        ("context.a=%7B%22c%22:%5B1,2%5D%7D", &[7]),
        ("context.a=%C3%A9+%22q%22+%26%3D%2B", &[8]),
        ("context.b=x", &[5, 9]),
        ("context.a=true&context.b=x", &[5]),
        ("context.a=1&context.a=x", &[]),
        ("context.=empty", &[9]),
        ("context.a.c=1", &[]),
        ("context.__proto__=x", &[]),
    ] {
        let got = world.call("GET", &format!("/v1/events?sort=asc&{query}"), &world.acme, "").await;
        assert_eq!(got.status, 200, "{query}");
        let text = std::str::from_utf8(&got.body).unwrap();
        let seen: Vec<usize> = (0..contexts.len()).filter(|n| text.contains(contexts[*n])).collect();
        assert_eq!((seen.as_slice(), text.matches("\"id\":\"evt_").count()), (found, found.len()), "{query}");
    }
}

#[tokio::test]
async fn listings_are_bounded_by_acceptance() {
    let world = World::new().await;
    for n in 0..5 {
        world.publish("acme", &format!("t{n}")).await;
        world.clock.advance(Duration::from_secs(60));
    }
    let kinds = async |query: &str| {
        let page = world.call("GET", &format!("/v1/events?sort=asc&{query}"), &world.acme, "").await.json();
        let kinds = page["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned());
        kinds.collect::<Vec<_>>().join(" ")
    };
    // START is 22:13:20.
    assert_eq!(kinds("since=2023-11-14T22:14:20Z").await, "t1 t2 t3 t4");
    assert_eq!(kinds("until=2023-11-14T22:14:20Z").await, "t0 t1");
    assert_eq!(kinds("since=2023-11-14T22:14:21Z&until=2023-11-14T22:16:20%2B00:00").await, "t2 t3");
    assert_eq!(kinds("since=2023-11-14T22:14:20+00:00").await, "t1 t2 t3 t4");
}
