//! Webhooks in lemon's and Vibe's shapes.

use base64::Engine as _;

use super::*;

#[tokio::test]
async fn lemon_s_webhooks_from_birth_to_end() {
    let world = World::new().await;
    let body = json!({"url": URL, "events": ["order.*", "account.closed"], "headers": {"X-Key": "canary-header"}});
    let got = world.call("POST", "/v1/webhooks", &world.acme, body.to_string()).await;
    assert_eq!((got.status.as_u16(), got.header("cache-control")), (201, Some("no-store")));
    let made = got.json();
    assert_eq!(made.as_object().unwrap().len(), 4);
    let (id, secret) = (made["id"].as_str().unwrap(), made["signature_secret"].as_str().unwrap().to_owned());
    assert!(id.starts_with("wbh_") && secret.len() == 64);
    assert_eq!((&made["url"], &made["events"]), (&json!(URL), &json!(["order.*", "account.closed"])));

    let path = format!("/v1/webhooks/{id}");
    let seen = world.call("GET", &path, &world.acme, "").await.json();
    assert_eq!(
        (&seen["state"], &seen["dialect"], &seen["inactive_reason"]),
        (&json!("active"), &json!("lemon"), &json!(null))
    );
    for member in ["failing_since", "last_success_at"] {
        assert_eq!(seen[member], json!(null));
    }
    let patch = json!({"active": false, "timeout": "2500ms", "max_in_flight": 3, "rate_limit": 0.5, "plan": "vibe",
        "description": "d", "url": "https://other.example.com/"});
    let got = world.call("PATCH", &path, &world.acme, patch.to_string()).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    let seen = got.json();
    assert_eq!((&seen["state"], &seen["inactive_reason"]), (&json!("inactive"), &json!("owner")));
    assert_eq!((&seen["timeout"], &seen["max_in_flight"]), (&json!("2500ms"), &json!(3)));
    assert_eq!((&seen["rate_limit"], &seen["plan"], &seen["url"]), (&json!(0.5), &json!("vibe"), &patch["url"]));
    let got = world.call("PATCH", &path, &world.acme, r#"{"timeout":null,"plan":null,"active":true}"#).await.json();
    assert_eq!((&got["timeout"], &got["plan"], &got["state"]), (&json!(null), &json!(null), &json!("active")));
    assert_eq!(got["max_in_flight"], 3, "what is left out stays");

    let rotated = world.call("POST", &format!("{path}/rotate-secret"), &world.acme, "").await;
    let new = rotated.json()["signature_secret"].as_str().unwrap().to_owned();
    assert_eq!((rotated.status.as_u16(), new.len(), rotated.header("cache-control")), (200, 64, Some("no-store")));
    let webhook = world.names(&world.publish("acme", "x").await, id).1;
    let stored = world.store.shared().registry().webhook(webhook).unwrap().clone();
    assert_eq!(stored.secrets_at(START).count(), 2);
    assert_eq!(stored.secrets_at(START + 24 * 3_600_000).count(), 1);
    for path in ["/v1/webhooks", &path, "/api/v1/webhooks", &format!("/api{path}")] {
        let got = world.call("GET", path, &world.acme, "").await;
        let text = String::from_utf8(got.body.to_vec()).unwrap();
        assert_eq!(got.status, 200, "{path}");
        for canary in [&secret, &new, "canary-header"] {
            assert!(!text.contains(canary), "{path} shows {canary}");
        }
    }
    assert_eq!(world.call("DELETE", &path, &world.acme, "").await.status, 204);
    for method in ["GET", "DELETE"] {
        assert_eq!(world.call(method, &path, &world.acme, "").await.told(), (404, "not_found".to_owned()));
    }
}

#[tokio::test]
async fn vibe_s_webhooks_from_birth_to_end() {
    let world = World::new().await;
    let body = json!({"url": URL, "events": ["trade.executed"], "secret": "my own secret", "active": true});
    let got = world.call("POST", "/api/v1/webhooks", &world.acme, body.to_string()).await;
    assert_eq!(got.status, 201, "{:?}", got.body);
    let made = got.json();
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("webhook_") && made.get("secret").is_none());
    let at = "2023-11-14T22:13:20Z";
    let shape =
        json!({"id": id, "url": URL, "events": ["trade.executed"], "active": true, "createdAt": at, "updatedAt": at});
    assert_eq!(made, shape);
    let path = format!("/api/v1/webhooks/{id}");
    assert_eq!(world.call("GET", &path, &world.acme, "").await.json(), shape);
    assert_eq!(world.call("GET", "/api/v1/webhooks", &world.acme, "").await.json(), json!({"webhooks": [shape]}));
    world.clock.advance(Duration::from_millis(61_999));
    let got = world.call("PUT", &path, &world.acme, r#"{"active":false}"#).await.json();
    assert_eq!((&got["active"], &got["updatedAt"]), (&json!(false), &json!("2023-11-14T22:14:21Z")));
    assert_eq!(got["events"], json!(["trade.executed"]));
    let lemon = path.replace("/api/v1/webhooks/webhook_", "/v1/webhooks/wbh_");
    assert_eq!(world.call("GET", &lemon, &world.acme, "").await.json()["dialect"], "vibe");

    let test = json!({"webhookId": id, "testEvent": {"event": "trade.executed", "timestamp": at, "data": {"a": 1}}});
    let got = world.call("POST", "/api/v1/webhooks/test", &world.acme, test.to_string()).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    let (told, wbh) = (got.json(), lemon.trim_start_matches("/v1/webhooks/").to_owned());
    let attempt_id = told["attemptId"].as_str().unwrap().to_owned();
    assert!(attempt_id.starts_with("evt_") && attempt_id.ends_with(&format!(".{wbh}.1")), "{attempt_id}");
    assert_eq!((&told["success"], &told["statusCode"], &told["durationMs"]), (&json!(true), &json!(200), &json!(12)));
    *world.fake.status.lock().unwrap() = 500;
    let got = world.call("POST", &format!("{lemon}/test"), &world.acme, "").await.json();
    assert_eq!((&got["success"], &got["statusCode"]), (&json!(false), &json!(500)));
    let attempts = world.call("GET", &format!("{lemon}/attempts"), &world.acme, "").await.json();
    assert_eq!(attempts["data"][1]["id"], attempt_id);
    assert_eq!(attempts["data"][0]["outcome"], "failed");
    let explained = world.call("GET", &format!("/v1/events/{}/explain", &attempt_id[..36]), &world.acme, "").await;
    assert_eq!(explained.json()["deliveries"][0]["matched"], false);
    assert_eq!(explained.json()["deliveries"][0]["attempts"][0]["id"], attempt_id);
    assert_eq!(world.call("DELETE", &path, &world.acme, "").await.status, 204);
    let gone = world.call("GET", &path, &world.acme, "").await;
    assert_eq!((gone.status.as_u16(), gone.json()), (404, json!({"error": "not found", "code": "not_found"})));
    let generated = json!({"url": URL, "events": ["*"]}).to_string();
    let got = world.call("POST", "/api/v1/webhooks", &world.acme, generated).await.json();
    assert_eq!(got["secret"].as_str().unwrap().len(), 64);
}

/// A registration with one member replaced.
fn registration(member: &str, value: Value) -> String {
    let mut body = json!({"url": URL, "events": ["a"]});
    body[member] = value;
    body.to_string()
}

#[tokio::test]
async fn what_is_refused_when_registering() {
    let world = World::new().await;
    for (body, code, names) in urls_refused().into_iter().chain(members_refused()) {
        let got = world.call("POST", "/v1/webhooks", &world.acme, body.clone()).await;
        assert_eq!(got.told(), (422, code.to_owned()), "{body} {:?}", got.body);
        let message = got.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(names) && message.len() < 300, "{message}");
        if ["url", "events", "secret", "active"].contains(&names) {
            let vibe = world.call("POST", "/api/v1/webhooks", &world.acme, body.clone()).await;
            assert_eq!(vibe.json(), json!({"error": message, "code": code}), "{body}");
        }
    }
    assert_eq!(world.call("GET", "/v1/webhooks", &world.acme, "").await.json()["data"], json!([]));
    let ignored = json!({"url": URL, "events": ["a"], "whatever": {"x": [1]}}).to_string();
    assert_eq!(world.call("POST", "/v1/webhooks", &world.acme, ignored).await.status, 201);
}

pub(super) type Refused = Vec<(String, &'static str, &'static str)>;

pub(super) fn urls_refused() -> Refused {
    let inner = "127.0.0.1 2130706433 0x7f.1 0177.0.0.1 127.1 [::1] [::ffff:127.0.0.1] 169.254.169.254 100.64.0.1 198.18.0.1 \
        0.0.0.0 [64:ff9b::7f00:1] [2002:7f00:1::1] [fe80::1] [fd00:ec2::254] localhost LOCALHOST. a.localhost";
    let inner = inner.split_whitespace().map(|host| (format!("https://{host}/"), "target_forbidden"));
    let long = format!("https://a.example/{}", "x".repeat(2_084 - 18));
    let broken = [
        "https://u:p@a.example/",
        "ftp://a.example/",
        "https://a.example:0/",
        "https://a.example:65536/",
        "https://a.example/\tx",
        "https://a.example/\r\nx",
        "https:\\\\a.example/",
        "https://a.example/#f",
        "",
        "x",
        &long,
    ];
    let others = [("https://a.example:25/", "port_forbidden"), ("http://a.example/", "https_required")];
    inner
        .chain(broken.map(|url| (url.to_owned(), "invalid_url")))
        .chain(others.map(|(url, code)| (url.to_owned(), code)))
        .map(|(url, code)| (registration("url", json!(url)), code, "url"))
        .collect()
}

fn members_refused() -> Refused {
    let mut table = Vec::new();
    for name in ["Host", "Content-Length", "Transfer-Encoding", "Connection", "webhook-id"] {
        table.push((registration("headers", json!({name: "x"})), "header_forbidden", "headers"));
    }
    let many: serde_json::Map<_, _> = (0..33).map(|n| (format!("x-{n}"), json!("v"))).collect();
    for headers in [json!({"a": "x\r\ny"}), json!({"a": "x".repeat(4_097)}), Value::Object(many)] {
        table.push((registration("headers", headers), "header_invalid", "headers"));
    }
    let whsec = |bytes: usize| format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(vec![7; bytes]));
    for secret in [&whsec(23), &whsec(65), "whsec_", "sevench", &"x".repeat(257), "with\ncontrol"] {
        table.push((registration("secret", json!(secret)), "secret_invalid", "secret"));
    }
    let long = "x".repeat(129);
    for (member, values) in [
        ("rate_limit", vec![json!(0), json!(-1), json!("ten")]),
        ("events", vec![json!([]), json!(["a", "a"]), json!([long]), json!(["a b"]), json!("a"), json!([1])]),
        ("timeout", vec![json!("0s"), json!("61s"), json!("soon"), json!(10)]),
        ("max_in_flight", vec![json!(0), json!(1_025), json!(-1), json!(1.5)]),
        ("plan", vec![json!("nope"), json!(1)]),
        ("description", vec![json!("x".repeat(1_025)), json!(1)]),
        ("headers", vec![json!([]), json!({"a": 1})]),
        ("active", vec![json!("yes")]),
        ("url", vec![json!(1), json!(null)]),
    ] {
        table.extend(values.into_iter().map(|value| (registration(member, value), "invalid_field", member)));
    }
    let huge = registration("rate_limit", json!("HUGE")).replace("\"HUGE\"", "1e309");
    table.push((huge, "invalid_field", "rate_limit"));
    table.push((r#"{"events":["a"]}"#.to_owned(), "invalid_field", "url"));
    table.push((format!(r#"{{"url":"{URL}"}}"#), "invalid_field", "events"));
    table.push((format!(r#"{{"url":"{URL}","url":"{URL}","events":["a"]}}"#), "invalid_field", "url"));
    table
}

#[tokio::test]
async fn secrets_at_the_edges_of_what_may_be_are_taken() {
    let world = World::new().await;
    let whsec = |bytes: usize| format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(vec![7; bytes]));
    for secret in [whsec(24), whsec(64), "eight888".to_owned(), "x".repeat(256)] {
        let got = world.call("POST", "/v1/webhooks", &world.acme, registration("secret", json!(secret))).await;
        assert_eq!((got.status.as_u16(), &got.json()["signature_secret"]), (201, &json!(secret)));
    }
}

#[tokio::test]
async fn a_forbidden_target_is_told_with_the_address_and_the_rule() {
    let world = World::new().await;
    for (host, address, rule) in [
        ("2130706433", "127.0.0.1", "loopback"),
        ("0177.0.0.1", "127.0.0.1", "loopback"),
        ("[::ffff:127.0.0.1]", "127.0.0.1", "loopback"),
        ("[64:ff9b::7f00:1]", "127.0.0.1", "loopback"),
        ("169.254.169.254", "169.254.169.254", "metadata"),
        ("100.64.0.1", "100.64.0.1", "100.64.0.0/10"),
        ("localhost", "localhost", "127.0.0.0/8"),
    ] {
        let body = registration("url", json!(format!("https://{host}/")));
        let got = world.call("POST", "/v1/webhooks", &world.acme, body).await;
        let message = got.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(got.told(), (422, "target_forbidden".to_owned()));
        assert!(message.contains(address) && message.contains(rule), "{host}: {message}");
    }
}

#[tokio::test]
async fn a_patch_is_judged_like_a_registration_and_whole() {
    let world = World::new().await;
    let id = world.webhook(&["a"]).await;
    let path = format!("/v1/webhooks/{id}");
    let before = world.call("GET", &path, &world.acme, "").await.body;
    for body in [
        r#"{"description":"new","url":"https://127.0.0.1/"}"#,
        r#"{"description":"new","events":[]}"#,
        r#"{"description":"new","headers":{"Host":"x"}}"#,
        r#"{"description":"new","secret":"x"}"#,
    ] {
        assert_eq!(world.call("PATCH", &path, &world.acme, body).await.status, 422, "{body}");
    }
    assert_eq!(world.call("PATCH", &path, &world.acme, "[").await.told(), (400, "invalid_json".to_owned()));
    assert_eq!(world.call("GET", &path, &world.acme, "").await.body, before);
}

#[tokio::test]
async fn two_who_race_for_the_last_place_get_one_webhook() {
    let world = World::with(Settings { webhooks_per_tenant: 3, ..Settings::default() }).await;
    let body = json!({"url": URL, "events": ["a"]}).to_string();
    let racing = (0..8).map(|_| world.call("POST", "/v1/webhooks", &world.acme, body.clone()));
    let got = all(racing).await;
    assert_eq!(got.iter().filter(|got| got.status == 201).count(), 3);
    assert!(got.iter().filter(|got| got.status != 201).all(|got| got.told() == (409, "quota_exceeded".to_owned())));
}

#[tokio::test]
async fn webhooks_are_listed_in_pages() {
    let world = World::new().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(world.webhook(&["a"]).await);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/webhooks?limit=3".to_owned();
    loop {
        let page = world.call("GET", &path, &world.acme, "").await.json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["pagination"]["next_cursor"].as_str() else { break };
        path = format!("/v1/webhooks?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, made);
}
