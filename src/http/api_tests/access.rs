//! Tenants, keys, and the three ways to show who one is.

use super::*;

#[tokio::test]
async fn tenants_are_made_changed_and_read() {
    let world = World::new().await;
    let got = world.socket("PUT", "/admin/tenants/new", r#"{"name":"New & Co","plan":"vibe"}"#).await;
    assert_eq!(got.json()["plan"], "vibe");
    let got = world.socket("PUT", "/admin/tenants/new", r#"{"plan":null}"#).await.json();
    assert_eq!((&got["name"], &got["plan"]), (&json!("New & Co"), &json!(null)));
    assert_eq!(world.socket("GET", "/admin/tenants/new", "").await.json(), got);
    assert_eq!(world.socket("GET", "/admin/tenants", "").await.json()["data"].as_array().unwrap().len(), 4);
    for (path, body, status, code) in [
        ("/admin/tenants/operator", "", 422, "reserved"),
        ("/admin/tenants/Acme", "", 422, "invalid_field"),
        ("/admin/tenants/x", r#"{"plan":"nope"}"#, 422, "invalid_field"),
        ("/admin/tenants/x", r#"{"nmae":"x"}"#, 422, "invalid_field"),
        ("/admin/tenants/x", r#"{"name":5}"#, 422, "invalid_field"),
        ("/admin/tenants/x", "nonsense", 400, "invalid_json"),
    ] {
        let got = world.socket("PUT", path, body).await;
        assert_eq!(got.told(), (status, code.to_owned()), "{path} {body}");
        assert_eq!(got.header("content-type"), Some("application/problem+json"));
        let problem = got.json();
        assert_eq!((&problem["type"], &problem["status"]), (&json!("about:blank"), &json!(status)));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
    }
    assert_eq!(world.socket("GET", "/admin/tenants/x", "").await.status, 404);
}

#[tokio::test]
async fn keys_show_their_token_once() {
    let world = World::new().await;
    let body = json!({"role": "tenant", "tenant": "acme", "name": "ci", "publish": true, "expires_at": "2024-01-01T00:00:00Z",
        "cidrs": ["198.51.100.0/24"]});
    let got = world.socket("POST", "/admin/keys", &body.to_string()).await;
    assert_eq!((got.status.as_u16(), got.header("cache-control")), (201, Some("no-store")));
    let made = got.json();
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("whd_") && token.len() == 47 && made["secret_key"].as_str().unwrap().len() == 64);
    let listed = world.socket("GET", "/admin/keys", "").await;
    let text = String::from_utf8(listed.body.to_vec()).unwrap();
    assert!(!text.contains(token) && !text.contains(made["secret_key"].as_str().unwrap()));
    let last = listed.json()["data"].as_array().unwrap().iter().find(|key| key["name"] == "ci").unwrap().clone();
    assert_eq!((&last["tenant"], &last["cidrs"]), (&json!("acme"), &json!(["198.51.100.0/24"])));
    for (body, names) in [
        (json!({}), "role"),
        (json!({"role": "king"}), "role"),
        (json!({"role": "tenant"}), "tenant"),
        (json!({"role": "tenant", "tenant": "nobody"}), "tenant"),
        (json!({"role": "admin", "tenant": "acme"}), "tenant"),
        (json!({"role": "publisher", "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"role": "publisher", "cidrs": ["nowhere"]}), "cidrs"),
        (json!({"role": "publisher", "cidr": []}), "cidr"),
        (json!({"role": "publisher", "publish": "yes"}), "publish"),
    ] {
        let got = world.socket("POST", "/admin/keys", &body.to_string()).await;
        assert_eq!(got.status, 422, "{body}");
        assert!(got.json()["detail"].as_str().unwrap().contains(names), "{:?}", got.body);
    }
}

#[tokio::test]
async fn keys_end_by_time_place_and_word() {
    let world = World::new().await;
    let limited = json!({"role": "tenant", "tenant": "acme", "expires_at": "2023-11-14T22:14:20Z"});
    let token = world.key(limited).await;
    assert_eq!(world.call("GET", "/v1/events", &token, "").await.status, 200);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.call("GET", "/v1/events", &token, "").await.status, 401);
    let here = world.key(json!({"role": "tenant", "tenant": "acme", "cidrs": ["198.51.100.0/24"]})).await;
    assert_eq!(world.call("GET", "/v1/events", &here, "").await.status, 200);
    let elsewhere = world.key(json!({"role": "tenant", "tenant": "acme", "cidrs": ["10.0.0.0/8", "::/0"]})).await;
    assert_eq!(world.call("GET", "/v1/events", &elsewhere, "").await.told(), (403, "forbidden".to_owned()));
    let keys = world.socket("GET", "/admin/keys", "").await.json();
    let id = keys["data"].as_array().unwrap().iter().find(|key| key["cidrs"] == json!(["198.51.100.0/24"])).unwrap();
    let path = format!("/admin/keys/{}", id["id"].as_str().unwrap());
    assert_eq!(world.socket("DELETE", &path, "").await.status, 204);
    assert_eq!(world.call("GET", "/v1/events", &here, "").await.status, 401);
    assert_eq!(world.socket("DELETE", &path, "").await.status, 404);
    assert_eq!(world.socket("DELETE", "/admin/keys/nonsense", "").await.status, 404);
}

#[tokio::test]
async fn a_token_in_either_header_but_not_in_both() {
    let world = World::new().await;
    let token = world.acme.clone();
    for path in ["/v1/webhooks", "/api/v1/webhooks"] {
        assert_eq!(world.call_with("GET", path, "", "", &[("x-api-key", &token)]).await.status, 200);
        assert_eq!(world.call_with("GET", path, &token, "", &[("x-api-key", &token)]).await.status, 401);
        assert_eq!(
            world.call_with("GET", path, "", "", &[("authorization", &format!("bearer {token}"))]).await.status,
            200
        );
        for bad in ["Basic YTpi", "Bearer", "", "Bearer a b"] {
            assert_eq!(world.call_with("GET", path, "", "", &[("authorization", bad)]).await.status, 401, "{bad}");
        }
    }
}
