//! What any request meets before its route: paths, methods, credentials, content types, sizes.

use std::sync::atomic::Ordering;

use super::*;

const EVENT: &str = r#"{"type":"a","tenant":"acme"}"#;

#[tokio::test]
async fn paths_that_are_none_and_methods_that_do_not_fit() {
    let world = World::new().await;
    let lemon = json!({"message": "not found", "code": "not_found"});
    for path in ["/", "/v1", "/v1/nothing", "/v1/events/", "/V1/events", "/admin/keys", "/metrics", "/v1/events/x/y/z"]
    {
        let got = world.call("GET", path, &world.admin, "").await;
        assert_eq!((got.status.as_u16(), got.json()), (404, lemon.clone()), "{path}");
    }
    for path in ["/v1/../admin/keys", "/v1/%2e%2e/admin/keys", "//v1/events", "/v1/%00"] {
        assert_eq!(world.call("GET", path, &world.admin, "").await.told(), (404, "not_found".to_owned()), "{path}");
    }
    for (method, path, allow) in [
        ("DELETE", "/v1/events", "POST, GET"),
        ("HEAD", "/v1/webhooks", "POST, GET"),
        ("OPTIONS", "/v1/webhooks/x", "GET, PATCH, DELETE"),
        ("POST", "/healthz", "GET"),
    ] {
        let got = world.call(method, path, "", "").await;
        assert_eq!((got.status.as_u16(), got.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    for path in ["/api/v1/webhooks/x/y", "/api/v1/nothing", "/api/v1/webhooks/%00"] {
        let got = world.call("GET", path, &world.admin, "").await.json();
        assert!(got["error"].is_string() && got["code"] == "not_found", "{path} in the form of its neighbours: {got}");
    }
    for path in ["/admin/nothing", "/admin/keys/x/y", "/admin/tenants/%00"] {
        let got = world.socket("GET", path, "").await;
        assert_eq!(
            (got.status.as_u16(), got.header("content-type")),
            (404, Some("application/problem+json")),
            "{path}"
        );
        let got = world.call("GET", path, &world.admin, "").await.json();
        assert!(got["message"].is_string(), "nothing of the admin's shows on the public listeners: {got}");
    }
    let got = world.call("PATCH", "/api/v1/webhooks", "", "").await;
    assert_eq!((got.status.as_u16(), got.json()["code"].clone()), (405, json!("method_not_allowed")));
    assert!(got.json().get("error").is_some(), "in the form of the path's dialect");
}

#[tokio::test]
async fn what_each_listener_shows() {
    let world = World::new().await;
    let request = |path: &str| Request::builder().uri(path).header("host", "d").body(Full::default()).unwrap();
    let tcp = peer();
    for (surface, path, status) in [
        (Surface::Public, "/healthz", 200),
        (Surface::Admin, "/healthz", 200),
        (Surface::Metrics, "/healthz", 200),
        (Surface::Metrics, "/readyz", 200),
        (Surface::Metrics, "/metrics", 200),
        (Surface::Public, "/openapi.json", 200),
        (Surface::Admin, "/openapi.json", 200),
        (Surface::Metrics, "/openapi.json", 404),
        (Surface::Metrics, "/v1/events", 404),
        (Surface::Metrics, "/admin/keys", 404),
        (Surface::Public, "/metrics", 404),
        (Surface::Admin, "/metrics", 401),
        (Surface::Admin, "/admin/keys", 401),
        (Surface::Public, "/admin/keys", 404),
    ] {
        let got = world.send(surface, tcp, request(path)).await;
        assert_eq!(got.status, status, "{surface:?} {path}");
    }
    for path in ["/metrics", "/admin/keys", "/v1/events?tenant=acme"] {
        assert_eq!(world.socket("GET", path, "").await.status, 200, "{path}");
    }
    let text = world.socket("GET", "/metrics", "").await;
    let text = std::str::from_utf8(&text.body).unwrap();
    assert!(text.contains("webhookd_http_requests_total{status=\"404\"}"), "{text}");
    world.ready.store(false, Ordering::Release);
    let got = world.call("GET", "/readyz", "", "").await;
    assert_eq!((got.status.as_u16(), got.header("retry-after")), (503, Some("1")));
    assert_eq!(world.call("GET", "/healthz", "", "").await.status, 200);
}

#[tokio::test]
async fn every_credential_that_does_not_open_gets_one_answer() {
    let world = World::new().await;
    let revoked = world.key(json!({"role": "tenant", "tenant": "acme", "name": "gone"})).await;
    let keys = world.socket("GET", "/admin/keys", "").await.json();
    let id = keys["data"].as_array().unwrap().iter().find(|key| key["name"] == "gone").unwrap()["id"].clone();
    world.socket("DELETE", &format!("/admin/keys/{}", id.as_str().unwrap()), "").await;
    let expired = world.key(json!({"role": "tenant", "tenant": "acme", "expires_at": "2023-11-14T22:13:21Z"})).await;
    world.clock.advance(Duration::from_secs(1));
    let long = "x".repeat(5_000);
    for path in ["/v1/webhooks", "/api/v1/webhooks"] {
        let first = world.call("GET", path, "", "").await;
        assert_eq!((first.status.as_u16(), first.header("www-authenticate")), (401, Some("Bearer")));
        for token in ["whd_wrong", &revoked, &expired, &long, "é"] {
            let got = world.call_with("GET", path, "", "", &[("authorization", &format!("Bearer {token}"))]).await;
            assert_eq!((got.status, &got.body), (first.status, &first.body), "{token}");
            assert_eq!(got.header("www-authenticate"), Some("Bearer"));
        }
    }
}

#[tokio::test]
async fn bodies_are_json_whatever_plain_clients_call_them() {
    let world = World::new().await;
    for (kind, status) in [
        ("application/json", 201),
        ("Application/JSON; charset=utf-8", 201),
        ("application/cloudevents+json", 201),
        ("application/x-www-form-urlencoded", 201),
        ("text/plain", 415),
        ("multipart/form-data", 415),
        ("json", 415),
        ("+json", 415),
        ("", 415),
    ] {
        let got = world.call_with("POST", "/v1/events", &world.publisher, EVENT, &[("content-type", kind)]).await;
        assert_eq!(got.status, status, "{kind}");
    }
    for (encoding, status) in [("identity", 201), ("gzip", 415), ("identity, gzip", 415)] {
        let headers = [("content-encoding", encoding)];
        let got = world.call_with("POST", "/v1/events", &world.publisher, EVENT, &headers).await;
        assert_eq!(got.status, status, "{encoding}");
    }
}

#[tokio::test]
async fn bodies_have_a_limit_by_route() {
    let world = World::with(Settings { event_bytes: 1_000, batch_bytes: 5_000, ..Settings::default() }).await;
    let event = |size: usize| {
        let around = r#"{"type":"a","tenant":"acme","data":{"x":""}}"#;
        around.replace(r#""x":"""#, &format!(r#""x":"{}""#, "y".repeat(size - around.len())))
    };
    for (path, body, status) in [
        ("/v1/events", event(1_000), 201),
        ("/v1/events", event(1_001), 413),
        ("/v1/events/batch", format!(r#"{{"events":[{},{}]}}"#, event(1_000), event(1_000)), 201),
        ("/v1/events/batch", format!(r#"{{"events":[{}]}}"#, event(1_001)), 413),
        ("/v1/events/batch", format!(r#"{{"events":[{}]}}"#, vec![event(900); 6].join(",")), 413),
    ] {
        assert_eq!(world.call("POST", path, &world.publisher, body).await.status, status, "{path}");
    }
    let announced = [("content-length", "1001")];
    let got = world.call_with("POST", "/v1/events", &world.publisher, EVENT, &announced).await;
    assert_eq!(got.told(), (413, "payload_too_large".to_owned()));
}

#[tokio::test]
async fn admins_name_the_tenant() {
    let world = World::new().await;
    let id = world.webhook(&["a"]).await;
    for (query, status) in [("", 422), ("?tenant=nobody", 422), ("?tenant=beta", 404), ("?tenant=acme", 200)] {
        let got = world.call("GET", &format!("/v1/webhooks/{id}{query}"), &world.admin, "").await;
        assert_eq!(got.status, status, "{query}");
    }
    for (token, query, status) in [(&world.acme, "?tenant=acme", 200), (&world.acme, "?tenant=beta", 403)] {
        assert_eq!(world.call("GET", &format!("/v1/webhooks{query}"), token, "").await.status, status);
    }
}

#[tokio::test]
async fn lemon_s_data_privacy_headers_can_be_asked_for() {
    let world = World::with(Settings { require_data_privacy: true, ..Settings::default() }).await;
    let got = world.call("GET", "/v1/webhooks", &world.acme, "").await;
    assert_eq!(got.told(), (400, "data_privacy_header_missing".to_owned()));
    let headers = [("lmg-data-privacy-access-principal", "me"), ("lmg-data-privacy-access-justification", "support")];
    assert_eq!(world.call_with("GET", "/v1/webhooks", &world.acme, "", &headers).await.status, 200);
    assert_eq!(world.call_with("GET", "/v1/webhooks", &world.acme, "", &headers[..1]).await.status, 400);
    assert_eq!(world.call("GET", "/api/v1/webhooks", &world.acme, "").await.status, 200);
}

#[tokio::test]
async fn a_store_that_takes_nothing_is_unavailable() {
    let world = World::new().await;
    world.store.close();
    for (method, path, token, body) in [
        ("POST", "/v1/events", &world.publisher, EVENT),
        ("POST", "/v1/webhooks", &world.acme, r#"{"url":"https://a.example/","events":["a"]}"#),
    ] {
        let got = world.call(method, path, token, body).await;
        assert_eq!((got.told(), got.header("retry-after")), ((503, "unavailable".to_owned()), Some("1")));
    }
}
