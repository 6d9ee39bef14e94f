//! Every path of the table with every method and every credential: who is let in, and that whoever is not learns nothing.

use super::told::{in_form, paths, told};
use super::*;
use crate::http::problem::Form;
use crate::http::route::{Access, Body, ROUTES, Table, Where};

/// A request with a bearer token, if there is one.
pub(super) async fn ask_as(world: &World, surface: Surface, method: &str, path: &str, token: &str, body: &str) -> Got {
    let mut request = Request::builder().method(method).uri(path).header("host", "d");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    world.send(surface, peer(), request.body(Full::from(body.to_owned())).unwrap()).await
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

/// What is tried on every path; `BREW` stands for all that nobody has heard of.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"];

/// A credential, and what comes of it.
struct Credential {
    name: &'static str,
    token: String,
    /// The status that it is always refused with.
    refused: Option<u16>,
    opens: fn(Access) -> bool,
}

async fn credentials(world: &World) -> Vec<Credential> {
    let revoked = world.holder(json!({"role": "admin"})).await;
    assert_eq!(world.socket("DELETE", &format!("/admin/keys/{}", revoked.id), "").await.status, 204);
    let expired = world.key(json!({"role": "admin", "expires_at": "2023-11-14T22:13:21Z"})).await;
    world.clock.advance(Duration::from_secs(2));
    let elsewhere = world.key(json!({"role": "admin", "cidrs": ["10.0.0.0/8", "2001:db8::/32"]})).await;
    let refused = |name, token: &str, status| Credential {
        name,
        token: token.to_owned(),
        refused: Some(status),
        opens: |_| false,
    };
    let good = |name, token: &str, opens| Credential { name, token: token.to_owned(), refused: None, opens };
    vec![
        refused("nobody", "", 401),
        refused("a wrong token", "whd_wrong", 401),
        refused("an over-long token", &"x".repeat(5_000), 401),
        refused("a token of other letters", "whd_é", 401),
        refused("a revoked admin", &revoked.token, 401),
        refused("an expired admin", &expired, 401),
        refused("an admin from another network", &elsewhere, 403),
        good("a publisher", &world.publisher, |access| matches!(access, Access::Publish | Access::Any)),
        good("a tenant", &world.acme, |access| matches!(access, Access::Tenant | Access::Any)),
        good("a publishing tenant", &world.beta, |access| access != Access::Admin),
        good("an admin", &world.admin, |_| true),
    ]
}

#[tokio::test]
async fn g14_every_path_takes_its_methods_from_those_it_names_and_from_nobody_else() {
    let world = World::new().await;
    let credentials = credentials(&world).await;
    for (path, form, surface) in paths() {
        for method in METHODS {
            let read_as = if method == "HEAD" { "GET" } else { method };
            let route = ROUTES.iter().find(|route| route.path == path && route.method == read_as);
            let mut refusals = std::collections::BTreeMap::new();
            for Credential { name, token, refused, opens } in &credentials {
                let about = format!("{method} {path} as {name}");
                let body = if route.is_some_and(|route| route.body != Body::None) { "{}" } else { "" };
                let got = ask_as(&world, surface, method, &path.replace("{id}", "x"), token, body).await;
                let expected = match route {
                    None => 405,
                    Some(route) if route.access == Access::Open => 200,
                    Some(route) => refused.unwrap_or(if opens(route.access) { 0 } else { 403 }),
                };
                if expected == 0 {
                    let status = got.status.as_u16();
                    assert!(!matches!(status, 401 | 403 | 405) && status < 500, "{about}: {status}");
                    continue;
                }
                assert_eq!(got.status, expected, "{about}");
                if expected == 200 || (method == "HEAD" && got.body.is_empty()) {
                    continue;
                }
                let code = match expected {
                    401 => "unauthorized",
                    403 => "forbidden",
                    _ => "method_not_allowed",
                };
                let told = told(form, &got);
                assert_eq!((told.status, told.code), in_form(form, expected, code), "{about}");
                assert_eq!(got.header("www-authenticate"), (expected == 401).then_some("Bearer"), "{about}");
                let mut allowed: Vec<_> = got.header("allow").unwrap_or_default().split(", ").collect();
                allowed.retain(|method| !method.is_empty());
                let wanted = ROUTES.iter().filter(|route| route.path == path && expected == 405);
                let wanted = wanted.map(|route| route.method.as_str()).flat_map(|method| match method {
                    "GET" => vec!["GET", "HEAD"],
                    _ => vec![method],
                });
                assert!(allowed.iter().copied().eq(wanted), "{about}: {allowed:?}");
                // Which network a key is for is told to whoever holds it; all else tells nothing of why.
                let why = (expected, *name == "an admin from another network");
                let first = refusals.entry(why).or_insert_with(|| (got.headers.clone(), got.body.clone()));
                assert_eq!((&got.headers, &got.body), (&first.0, &first.1), "{about}");
            }
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
