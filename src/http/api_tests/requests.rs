//! What any request meets before its route: paths, methods, credentials, content types, sizes.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::told::{echoes_little, in_form, surface, told};
use super::*;
use crate::http::problem::Form;
use crate::http::route::{self, ROUTES, Route};

const EVENT: &str = r#"{"type":"a","tenant":"acme"}"#;

#[tokio::test]
async fn a_paths_that_are_none_are_404_in_the_form_of_their_neighbours() {
    let world = World::new().await;
    let near = [
        ("", Form::Lemon),
        ("/v1", Form::Lemon),
        ("/v1/webhooks", Form::Lemon),
        ("/v3/webhooks", Form::Omnia),
        ("/api/v3/webhooks", Form::Omnia),
        ("/api/v1/webhooks", Form::Vibe),
        ("/api/webhook", Form::OneMetric),
        ("/api/webhook/register", Form::OneMetric),
    ];
    let beyond = [
        "/x/y/z",
        "/../admin/keys",
        "/%2e%2e/admin/keys",
        "/.%2E/x",
        "//x",
        "/%00",
        "/%2f",
        "/%5c",
        "/a%0d%0ab",
        "/./",
    ];
    for (path, form) in near {
        for more in beyond {
            let path = format!("{path}{more}");
            let got = told(form, &world.call("GET", &path, &world.admin, "").await);
            assert_eq!((got.status, got.code), in_form(form, 404, "not_found"), "{path}");
        }
    }
    for path in
        ["/", "/v1", "//v1/events", "/v1/events/", "/V1/events", "/admin/keys", "/admin", "/metrics", "/v1/nothing"]
    {
        let got = told(Form::Lemon, &world.call("GET", path, &world.admin, "").await);
        assert_eq!((got.status, got.code.as_str()), (404, "not_found"), "{path}");
    }
    // An administrator's form is shown where administrators come in, and to nobody else.
    for path in ["/admin", "/admin/nothing", "/admin/keys/x/y", "/admin/%2e%2e/v1/events"] {
        let got = told(Form::Admin, &world.socket("GET", path, "").await);
        assert_eq!((got.status, got.code.as_str()), (404, "not_found"), "{path}");
    }
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

/// The routes that take a body, and a path of each.
fn with_body() -> impl Iterator<Item = (&'static Route, String)> {
    let routes = ROUTES.iter().filter(|route| route.body != route::Body::None);
    routes.map(|route| (route, format!("{}?tenant=acme", route.path.replace("{id}", "x"))))
}

/// A request of the admin's with these headers.
async fn send<B>(world: &World, route: &Route, path: &str, headers: &[(&str, &str)], body: B) -> Got
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut request = Request::builder().method(route.method.clone()).uri(path).header("host", "d");
    let bearer = format!("Bearer {}", world.admin);
    for (name, value) in headers.iter().chain(&[("authorization", bearer.as_str())]) {
        request = request.header(*name, *value);
    }
    read(world.api.handle(None, surface(route.on), peer(), request.body(body).unwrap()).await).await
}

#[tokio::test]
async fn p_bodies_are_json_whatever_plain_clients_call_them() {
    let world = World::new().await;
    let (kind, encoding) = ("content-type", "content-encoding");
    let long = format!("text/{}", "x".repeat(5_000));
    for (headers, fits) in [
        (&[][..], true),
        (&[(kind, "application/json")], true),
        (&[(kind, "Application/JSON; charset=utf-8")], true),
        (&[(kind, "application/cloudevents+json")], true),
        (&[(kind, "application/x-www-form-urlencoded")], true),
        (&[(encoding, "identity")], true),
        (&[(kind, "text/plain")], false),
        (&[(kind, "text/json; application/json")], false),
        (&[(kind, "multipart/form-data")], false),
        (&[(kind, "json")], false),
        (&[(kind, "+json")], false),
        (&[(kind, "")], false),
        (&[(kind, &long)], false),
        (&[(kind, "application/json"), (kind, "application/json")], false),
        (&[(encoding, "gzip")], false),
        (&[(encoding, "identity, gzip")], false),
        (&[(encoding, "identity"), (encoding, "br")], false),
    ] {
        for (route, path) in with_body() {
            let got = send(&world, route, &path, headers, Full::from("{}")).await;
            if fits {
                assert_ne!(got.status, 415, "{path} {headers:?}");
                continue;
            }
            let told = told(route.form, &got);
            assert_eq!(
                (told.status, told.code),
                in_form(route.form, 415, "unsupported_media_type"),
                "{path} {headers:?}"
            );
            let name = if headers[0].0 == kind { "Content-Type" } else { "Content-Encoding" };
            assert!(told.message.contains(name), "{}", told.message);
            echoes_little(headers[0].1, &told.message);
        }
    }
    let form = [(kind, "application/x-www-form-urlencoded")];
    assert_eq!(world.call_with("POST", "/v1/events", &world.publisher, EVENT, &form).await.status, 201);
}

/// A body without an end, in frames of this many bytes; counts what is taken of it.
struct Flood(Arc<AtomicUsize>);

const FRAME_BYTES: usize = 64 * 1024;

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from(vec![b' '; FRAME_BYTES])))))
    }
}

#[tokio::test]
async fn p_a_body_over_the_limit_is_413_and_not_read_on() {
    let world = World::new().await;
    let settings = Settings::default();
    for (route, path) in with_body() {
        let limit = match route.body {
            route::Body::Batch => settings.batch_bytes,
            route::Body::Event => settings.event_bytes + 1_024,
            route::Body::Small | route::Body::None => 256 * 1024,
        };
        let refused = |got: &Got| {
            let told = told(route.form, got);
            assert_eq!((told.status, told.code), in_form(route.form, 413, "payload_too_large"), "{path}");
            assert!(told.message.contains("larger than"), "{}", told.message);
            assert_eq!(got.header("connection"), Some("close"), "what is still on its way is not waited for");
        };
        let taken = Arc::new(AtomicUsize::new(0));
        let announced = (limit + 1).to_string();
        refused(&send(&world, route, &path, &[("content-length", &announced)], Flood(taken.clone())).await);
        assert_eq!(taken.load(Ordering::Relaxed), 0, "{path}: refused by its length alone");
        refused(&send(&world, route, &path, &[("transfer-encoding", "chunked")], Flood(taken.clone())).await);
        assert!(taken.load(Ordering::Relaxed) <= limit / FRAME_BYTES + 1, "{path}: {taken:?} frames");
        let fits = (limit - 1_024).to_string();
        let body = Full::from(format!("{{}}{}", " ".repeat(limit - 1_026)));
        assert_ne!(send(&world, route, &path, &[("content-length", &fits)], body).await.status, 413, "{path}");
    }
}

#[tokio::test]
async fn g17_without_room_for_its_body_a_request_is_503_and_not_read() {
    let world = World::new().await;
    let held = &world.service.metrics().request_bodies.held;
    let room = i64::try_from(crate::limits::REQUEST_BODIES_BYTES_MAX).unwrap();
    for (route, path) in with_body() {
        held.set(room);
        let taken = Arc::new(AtomicUsize::new(0));
        let got = send(&world, route, &path, &[("content-length", "100")], Flood(taken.clone())).await;
        let told = told(route.form, &got);
        if surface(route.on) == Surface::Admin {
            assert_ne!(got.status, 503, "{path}: the operator has room of its own");
            continue;
        }
        assert_eq!((told.status, told.code), in_form(route.form, 503, "overloaded"), "{path}");
        assert_eq!((got.header("retry-after"), got.header("connection")), (Some("1"), Some("close")), "{path}");
        assert_eq!(taken.load(Ordering::Relaxed), 0, "{path}");
        assert_eq!(held.get(), room, "{path}: nothing of it is held");
        held.set(0);
        let got = send(&world, route, &path, &[], Full::from("{}")).await;
        assert_ne!(got.status, 503, "{path}");
        assert_eq!(held.get(), 0, "{path}: given back");
    }
    assert_eq!(world.call("GET", "/v1/events?tenant=acme", &world.admin, "").await.status, 200);
}

#[tokio::test]
async fn g17_a_body_is_counted_until_its_request_is_answered() {
    let world = World::new().await;
    let held = &world.service.metrics().request_bodies.held;
    let mut publishing = Box::pin(world.call("POST", "/v1/events", &world.publisher, EVENT));
    // The store's sync takes longer than asking for it.
    assert!(
        std::future::poll_fn(|context| std::task::Poll::Ready(publishing.as_mut().poll(context).is_pending())).await
    );
    assert_eq!(held.get(), i64::try_from(EVENT.len()).unwrap());
    assert_eq!(publishing.await.status, 201);
    assert_eq!(held.get(), 0);
}

#[tokio::test]
async fn p_events_have_a_limit_alone_and_in_a_batch() {
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
    let catalogue = catalogue(&[("account.deposit_received", Some("ACCOUNT_ACTIVITY"))]);
    world.service.reload(Settings { catalogue, ..Settings::default() });
    world.store.close();
    let webhook = r#"{"url":"https://a.example/","events":["a"]}"#;
    let omnia = r#"{"eventTypes":["ACCOUNT_ACTIVITY"],"target":{"url":"https://a.example/"}}"#;
    for (path, token, body, form) in [
        ("/v1/events", &world.publisher, EVENT, Form::Lemon),
        ("/v1/webhooks", &world.acme, webhook, Form::Lemon),
        ("/v3/webhooks", &world.acme, omnia, Form::Omnia),
        ("/api/v1/webhooks", &world.acme, webhook, Form::Vibe),
        ("/api/webhook/register", &world.acme, r#"{"webhook_url":"https://a.example/"}"#, Form::OneMetric),
    ] {
        let got = world.call("POST", path, token, body).await;
        let told = told(form, &got);
        assert_eq!((told.status, told.code), in_form(form, 503, "unavailable"), "{path}");
        assert_eq!(got.header("retry-after"), Some("1"), "{path}");
    }
}
