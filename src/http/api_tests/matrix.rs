//! Every route with every credential: who is let in, and that a foreign id answers as an unknown one, byte for byte.

use super::*;
use crate::http::problem::Form;
use crate::http::route::{Access, Body, ROUTES, Route, Table, Where};

async fn ask(world: &World, route: &Route, path: &str, token: &str) -> Got {
    let body = if route.body == Body::None { "" } else { "{}" };
    let mut request = Request::builder().method(route.method.clone()).uri(path).header("host", "d");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let surface = if matches!(route.on, Where::Api | Where::Everywhere) { Surface::Public } else { Surface::Admin };
    world.send(surface, peer(), request.body(Full::from(body)).unwrap()).await
}

#[test]
fn the_table_holds_together() {
    let _ = Table::new();
    for route in ROUTES {
        let form = match route.path {
            path if path.starts_with("/v1/") => Form::Lemon,
            path if path.starts_with("/v3/") || path.starts_with("/api/v3/") => Form::Omnia,
            path if path.starts_with("/api/v1/") => Form::Vibe,
            "/api/webhook/register" => Form::OneMetric,
            path if path.starts_with("/admin/") || path == "/metrics" => Form::Admin,
            _ => Form::Lemon,
        };
        assert_eq!(route.form, form, "{}", route.path);
        assert_eq!(route.path.starts_with("/admin/"), route.on == Where::Admin, "{}", route.path);
        let open = matches!(route.path, "/healthz" | "/readyz" | "/openapi.json");
        assert_eq!(route.access == Access::Open, open, "{}", route.path);
        assert!(route.path.matches('{').count() <= 1 && (!route.path.contains('{') || route.path.contains("{id}")));
    }
}

#[tokio::test]
async fn every_route_lets_in_whom_it_names_and_nobody_else() {
    let world = World::new().await;
    let revoked = world.key(json!({"role": "admin", "name": "gone"})).await;
    let keys = world.socket("GET", "/admin/keys", "").await.json();
    let id = keys["data"].as_array().unwrap().iter().find(|key| key["name"] == "gone").unwrap()["id"].clone();
    world.socket("DELETE", &format!("/admin/keys/{}", id.as_str().unwrap()), "").await;
    let expired = world.key(json!({"role": "admin", "expires_at": "2023-11-14T22:13:21Z"})).await;
    world.clock.advance(Duration::from_secs(2));
    for route in ROUTES.iter().filter(|route| route.access != Access::Open) {
        let path = route.path.replace("{id}", "x");
        let told = format!("{} {path}", route.method);
        let none = ask(&world, route, &path, "").await;
        assert_eq!(none.status, 401, "{told}");
        for token in ["whd_wrong", &revoked, &expired] {
            let got = ask(&world, route, &path, token).await;
            assert_eq!((got.status, &got.body), (none.status, &none.body), "{told}");
        }
        let key = match route.form {
            Form::Lemon | Form::OneMetric => "message",
            Form::Omnia => "description",
            Form::Vibe => "error",
            Form::Admin => "detail",
        };
        assert!(none.json()[key].is_string(), "{told}");
        for (name, token, allowed) in [
            ("publisher", &world.publisher, matches!(route.access, Access::Publish | Access::Any)),
            ("tenant", &world.acme, matches!(route.access, Access::Tenant | Access::Any)),
            ("publishing tenant", &world.beta, matches!(route.access, Access::Tenant | Access::Publish | Access::Any)),
            ("admin", &world.admin, true),
        ] {
            let status = ask(&world, route, &path, token).await.status;
            assert_eq!(status != 403, allowed, "{told} as {name}: {status}");
            assert_ne!(status, 401, "{told} as {name}");
            assert!(!status.is_server_error(), "{told} as {name}: {status}");
        }
    }
}

#[tokio::test]
async fn every_route_takes_each_form_of_credential_and_refuses_all_others_alike() {
    let world = World::new().await;
    let publisher = world.holder(json!({"role": "publisher"})).await;
    let tenant = world.holder(json!({"role": "tenant", "tenant": "acme"})).await;
    let admin = world.holder(json!({"role": "admin"})).await;
    let long = "x".repeat(300);
    for route in ROUTES.iter().filter(|route| route.access != Access::Open) {
        let holder = match route.access {
            Access::Publish => &publisher,
            Access::Tenant => &tenant,
            Access::Admin | Access::Any | Access::Open => &admin,
        };
        let (method, path) = (route.method.as_str(), route.path.replace("{id}", "x"));
        let body = if route.body == Body::None { "" } else { "{}" };
        let told = format!("{method} {path}");
        let bearer = format!("Bearer {}", holder.token);
        let by_bearer = world.with_headers(method, &path, body, [("authorization", bearer.as_str())]).await.status;
        let by_key = world.with_headers(method, &path, body, [("x-api-key", holder.token.as_str())]).await.status;
        let by_signature = world.signed(holder, method, &path, body).await.status;
        assert!(!matches!(by_bearer.as_u16(), 401 | 403) && !by_bearer.is_server_error(), "{told}: {by_bearer}");
        assert_eq!((by_key, by_signature), (by_bearer, by_bearer), "{told}");

        let none = world.with_headers(method, &path, body, []).await;
        assert_eq!((none.status.as_u16(), none.header("www-authenticate")), (401, Some("Bearer")), "{told}");
        let now = START / 1_000;
        let [id, time, signature] = holder.sign(method, &path, &format!("{body} "), now).map(|(_, value)| value);
        let stale = holder.sign(method, &path, body, now - 301).map(|(_, value)| value);
        let fresh = holder.sign(method, &path, body, now + 7).map(|(_, value)| value);
        let unknown = "key_0000000000000000";
        let refused: [&[(&str, &str)]; 9] = [
            &[("authorization", "Bearer whd_wrong")],
            &[("authorization", long.as_str())],
            &[("x-api-key", long.as_str())],
            &[("x-api-key", &id)],
            &[("authorization", &bearer), ("x-api-key", &holder.token)],
            &[("x-api-key", &id), ("x-timestamp", &time), ("x-signature", &signature)],
            &[("x-api-key", &stale[0]), ("x-timestamp", &stale[1]), ("x-signature", &stale[2])],
            &[("x-api-key", unknown), ("x-timestamp", &fresh[1]), ("x-signature", &fresh[2])],
            &[
                ("authorization", &bearer),
                ("x-api-key", &fresh[0]),
                ("x-timestamp", &fresh[1]),
                ("x-signature", &fresh[2]),
            ],
        ];
        for headers in refused {
            let got = world.with_headers(method, &path, body, headers.iter().copied()).await;
            assert_eq!(
                (got.status, &got.headers, &got.body),
                (none.status, &none.headers, &none.body),
                "{told} {headers:?}"
            );
        }
    }
}

#[tokio::test]
async fn g14_a_foreign_id_answers_as_an_unknown_one() {
    let world = World::new().await;
    let webhook = world.webhook(&["*"]).await;
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &webhook, 1, Verdict::Dead(crate::model::attempt::DeadReason::Exhausted)).await;
    let dead = format!("{event}.{webhook}");
    let unknown = |id: &str| {
        let hex = |digit: char| if digit == '0' { '1' } else { digit };
        let (prefix, digits) = id.split_at(4);
        format!("{prefix}{}", digits.chars().map(hex).collect::<String>())
    };
    let mut compared = 0;
    for route in ROUTES.iter().filter(|route| route.access == Access::Tenant && route.path.contains("{id}")) {
        let (own, other) = if route.path.contains("/events/") {
            (event.clone(), unknown(&event))
        } else if route.path.contains("/dead-letters/") {
            (dead.clone(), format!("{}.{}", unknown(&event), unknown(&webhook)))
        } else {
            (webhook.clone(), unknown(&webhook))
        };
        let mut answers = Vec::new();
        for id in [own.as_str(), other.as_str(), "nonsense", ""] {
            // An empty id is another path; nonsense stands in for it.
            let id = if id.is_empty() { "evt_0" } else { id };
            let path = format!("{}?state=pending", route.path.replace("{id}", id));
            let got = ask(&world, route, &path, &world.beta).await;
            assert_eq!(got.status, 404, "{} {path} {:?}", route.method, got.body);
            answers.push((got.headers, got.body));
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{} {}", route.method, route.path);
        compared += 1;
    }
    assert!(compared >= 14, "{compared}");
    let test = |id: &str| json!({"webhookId": id}).to_string();
    let own = world.call("POST", "/api/v1/webhooks/test", &world.beta, test(&webhook)).await;
    let other = world.call("POST", "/api/v1/webhooks/test", &world.beta, test(&unknown(&webhook))).await;
    assert_eq!((own.status.as_u16(), own.body), (404, other.body));
    for query in ["webhook", "type"] {
        let path = format!("/v1/dead-letters?{query}={webhook}");
        let own = world.call("GET", &path, &world.beta, "").await;
        let other = world.call("GET", &path.replace(&webhook, &unknown(&webhook)), &world.beta, "").await;
        assert_eq!((own.status, own.body), (other.status, other.body));
    }
    let seen = world.call("GET", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await;
    assert_eq!(seen.status, 200, "and its owner still has it");
}
