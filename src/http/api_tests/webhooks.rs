//! Webhooks in lemon's and Vibe's shapes.

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
    let got = world.call("PATCH", &path, &world.acme, r#"{"max_in_flight":4.0}"#).await.json();
    assert_eq!(got["max_in_flight"], 4, "{got}");

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

#[tokio::test]
async fn a_tenant_has_so_many_tests_under_way_and_no_more() {
    let world = World::new().await;
    let path = format!("/v1/webhooks/{}/test", world.webhook(&["a"]).await);
    let most = crate::limits::TESTS_PER_TENANT_MAX;
    // Each waits for the store, so that all are under way when the last one comes.
    let mut got = all((0..=most).map(|_| world.call("POST", &path, &world.acme, ""))).await;
    assert_eq!(got.pop().unwrap().told(), (409, "too_many_tests".to_owned()));
    assert!(got.iter().all(|got| got.status == 200), "{:?}", got.iter().map(|got| got.status).collect::<Vec<_>>());
    assert_eq!(world.call("POST", &path, &world.acme, "").await.status, 200);
}
