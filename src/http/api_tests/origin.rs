//! Who a request comes from where a proxy stands in front, what it is called, and `HEAD`.

use super::told::{paths, surface};
use super::*;
use crate::http::route::{Access, ROUTES};

const PROXY: &str = "198.51.100.9";

fn behind_a_proxy() -> Settings {
    Settings { trusted_proxies: vec![format!("{PROXY}/32").parse().unwrap()], ..Settings::default() }
}

#[tokio::test]
async fn a_key_s_networks_and_the_audit_log_see_the_client_behind_a_trusted_proxy() {
    let key = json!({"role": "admin", "cidrs": ["203.0.113.0/24"]});
    let trusting = World::with(behind_a_proxy()).await;
    let suspicious = World::new().await;
    for (world, chain, status) in [
        (&trusting, "203.0.113.7", 200),
        (&trusting, "192.0.2.1, 203.0.113.7", 200),
        (&trusting, "203.0.113.7, 192.0.2.1", 403),
        (&trusting, "203.0.113.7, nonsense", 403),
        (&trusting, "", 403),
        (&suspicious, "203.0.113.7", 403),
    ] {
        let token = world.key(key.clone()).await;
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", chain)];
        let got = world.with_headers("PUT", "/admin/tenants/one", "", headers).await;
        assert_eq!(got.status, status, "{chain}");
        if status == 200 {
            assert_eq!(world.audit("").await[0]["remote_addr"], "203.0.113.7", "no port that nobody told");
        }
    }
    // Whoever opens the socket is on this machine, whatever is said of it.
    let request = Request::builder().method("PUT").uri("/admin/tenants/two").header("x-forwarded-for", "203.0.113.7");
    let socket = Peer { addr: None, tls: false, unix: true };
    trusting.send(Surface::Admin, socket, request.header("host", "d").body(Full::default()).unwrap()).await;
    assert_eq!(trusting.audit("").await[0]["remote_addr"], Value::Null);
}

#[tokio::test]
async fn every_answer_has_its_request_s_id() {
    let world = World::new().await;
    let mut ids = std::collections::BTreeSet::new();
    for (path, _, _) in paths() {
        for method in ["GET", "BREW"] {
            let got = world.call(method, &path.replace("{id}", "x"), "", "").await;
            assert_eq!(got.id.len(), 16, "{method} {path}");
            assert!(ids.insert(got.id), "{method} {path}: another's id");
        }
    }
    for (given, kept) in [("my-id.1", true), ("two words", false), ("<script>", false)] {
        let got = world.call_with("GET", "/v1/webhooks", &world.acme, "", &[("x-request-id", given)]).await;
        assert_eq!(got.id == given, kept, "{given}");
        assert_eq!(got.status, 200);
    }
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let world = World::new().await;
    let routes = ROUTES.iter().filter(|route| route.method == "GET" && route.access != Access::Admin);
    for route in routes {
        let path = route.path.replace("{id}", "x");
        let ask =
            async |method: &str| super::matrix::ask_as(&world, surface(route.on), method, &path, &world.acme, "").await;
        let (head, get) = (ask("HEAD").await, ask("GET").await);
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty(), "{path}");
        let length = get.body.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()), "{path}");
        let rest = |got: &Got| {
            let mut headers = got.headers.clone();
            headers.remove("content-length");
            headers
        };
        assert_eq!(rest(&head), rest(&get), "{path}");
    }
}
