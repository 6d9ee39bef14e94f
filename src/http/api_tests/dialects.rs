//! Omnia's and OneMetric's routes, and webhooks seen through another dialect's.

use super::webhooks::urls_refused;
use super::*;

const CHANNEL: &str = "ACCOUNT_ACTIVITY";

fn with_channel() -> Settings {
    let catalogue = catalogue(&[("account.deposit_received", Some(CHANNEL)), ("order.created", None)]);
    Settings { catalogue, ..Settings::default() }
}

fn subscription() -> Value {
    let headers = json!({"Authorization": "Bearer canary", "Content-Type": "application/json"});
    json!({"eventTypes": [CHANNEL], "target": {"url": URL, "headers": headers}})
}

/// The subscription with one member (`a` or `a.b`) replaced.
fn with(member: &str, value: Value) -> String {
    let mut body = subscription();
    match member.split_once('.') {
        Some((outer, inner)) => body[outer][inner] = value,
        None => body[member] = value,
    }
    body.to_string()
}

#[tokio::test]
async fn omnia_s_webhooks_from_birth_to_end() {
    let world = World::with(with_channel()).await;
    for base in ["/v3/webhooks", "/api/v3/webhooks"] {
        let got = world.call("POST", base, &world.acme, subscription().to_string()).await;
        assert_eq!((got.status.as_u16(), got.header("cache-control")), (201, Some("no-store")));
        let made = got.json();
        let id = made["subscriptionId"].as_str().unwrap().to_owned();
        assert_eq!((id.len(), id.matches('-').count()), (36, 4));
        let mut shape = subscription();
        shape["subscriptionId"] = json!(id);
        assert_eq!(made, shape);
        let text = String::from_utf8(got.body.to_vec()).unwrap();
        assert!(text.find("Authorization") < text.find("Content-Type"), "headers stay in their order: {text}");

        let path = format!("{base}/{id}");
        let seen = world.call("GET", &path, &world.acme, "").await;
        assert_eq!((seen.json(), seen.header("cache-control")), (shape.clone(), Some("no-store")));
        assert_eq!(world.call("GET", base, &world.acme, "").await.json(), json!({"webhooks": [shape]}));
        let admin = world.call("GET", &format!("{path}?tenant=acme"), &world.admin, "").await.json();
        assert_eq!(admin["target"]["headers"]["Authorization"], "[hidden]", "values are the tenant's own");
        assert_eq!(world.call("DELETE", &path, &world.acme, "").await.status, 204);
        for method in ["GET", "DELETE"] {
            let gone = world.call(method, &path, &world.acme, "").await;
            assert_eq!(gone.status, 404);
            assert_eq!(gone.body, r#"{"code":"NOT_FOUND","description":"Not Found"}"#);
        }
        let stranger = world.call("GET", base, "", "").await;
        assert_eq!((stranger.status.as_u16(), stranger.header("www-authenticate")), (401, Some("Bearer")));
        assert_eq!(stranger.body, r#"{"code":"INVALID_NONCE","description":"Invalid nonce"}"#);
    }
}

#[tokio::test]
async fn a_channel_fires_on_its_types_and_is_told_in_tests() {
    let world = World::with(with_channel()).await;
    let made = world.call("POST", "/v3/webhooks", &world.acme, subscription().to_string()).await.json();
    let id = made["subscriptionId"].as_str().unwrap();
    let deposit = world.publish("acme", "account.deposit_received").await;
    let order = world.publish("acme", "order.created").await;
    let (event, no) = world.names(&deposit, id);
    assert_eq!((event.channel.as_deref(), &event.matched), (Some(CHANNEL), &vec![no]));
    assert!(world.names(&order, id).0.matched.is_empty());
    let explained = world.call("GET", &format!("/v1/events/{order}/explain"), &world.acme, "").await.json();
    let told = &explained["deliveries"][0];
    assert_eq!((&told["dialect"], &told["reason"]), (&json!("omnia"), &json!("type")));
    assert_eq!(told["detail"], "order.created is not among ACCOUNT_ACTIVITY");

    // A catalogue that no longer has the channel changes nothing about what was accepted.
    world.service.reload(Settings::default());
    let later = world.publish("acme", "account.deposit_received").await;
    assert_eq!((world.names(&later, id).0.matched, world.names(&deposit, id).0.matched), (vec![], vec![no]));
    let explained = world.call("GET", &format!("/v1/events/{deposit}/explain"), &world.acme, "").await.json();
    assert_eq!(explained["deliveries"][0]["matched"], true);
}

/// What is wrong with a body, the code that says so, and what the description names.
fn omnia_s_refusals() -> Vec<(String, &'static str, &'static str)> {
    let mut table = Vec::new();
    for types in [json!([]), json!(CHANNEL), json!([1]), json!(null), json!(["order.created"]), json!(["*"])] {
        table.push((with("eventTypes", types), "INVALID_EVENT_TYPE", "eventTypes"));
    }
    table.push((with("eventTypes", json!([CHANNEL, CHANNEL])), "INVALID_EVENT_TYPE", "eventTypes"));
    table.push((with("eventTypes", json!(["x".repeat(10_000)])), "INVALID_EVENT_TYPE", "eventTypes"));
    for target in [json!(null), json!("x"), json!([]), json!({})] {
        table.push((with("target", target), "INVALID_TARGET", "target"));
    }
    table.push((with("target.url", json!(1)), "INVALID_TARGET", "target.url"));
    for name in
        ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Upgrade", "webhook-id"]
    {
        table.push((with("target.headers", json!({name: "x"})), "INVALID_HEADERS", "target.headers"));
    }
    for name in ["LMG-Signature", "Lemon-Markets-Signature", "X-Webhook-Signature", "X-Webhook-Token"] {
        table.push((with("target.headers", json!({name: "x"})), "INVALID_HEADERS", "target.headers"));
    }
    let many: serde_json::Map<_, _> = (0..33).map(|n| (format!("x-{n}"), json!("v"))).collect();
    let values =
        [json!({"a": "x\r\ny"}), json!({"a\r\n": "x"}), json!({"a": "x".repeat(4_097)}), json!({"a": 1}), json!([])];
    for headers in values.into_iter().chain([Value::Object(many)]) {
        table.push((with("target.headers", headers), "INVALID_HEADERS", "target.headers"));
    }
    let twice = r#"{"url":"https://a.example/","headers":{"A":"1","a":"2"}}"#;
    table.push((format!(r#"{{"eventTypes":["{CHANNEL}"],"target":{twice}}}"#), "INVALID_HEADERS", "target.headers"));
    let doubled = r#"{"eventTypes":["ACCOUNT_ACTIVITY"],"eventTypes":[]}"#;
    table.push((doubled.to_owned(), "INVALID_REQUEST", "eventTypes"));
    for nonsense in ["", "{", "[]", "nonsense", r#"{"a":"#] {
        table.push((nonsense.to_owned(), "INVALID_REQUEST", "body"));
    }
    table
}

#[tokio::test]
async fn what_omnia_s_route_refuses_is_400_with_a_code_that_says_what() {
    let world = World::with(with_channel()).await;
    let urls = urls_refused().into_iter().map(|(body, _, _)| {
        let url = serde_json::from_str::<Value>(&body).unwrap()["url"].clone();
        (with("target.url", url), "INVALID_TARGET", "target.url")
    });
    for (body, code, names) in urls.chain(omnia_s_refusals()) {
        let got = world.call("POST", "/v3/webhooks", &world.acme, body.clone()).await;
        let about = format!("{} {:?}", &body[..body.len().min(200)], got.body);
        assert_eq!(got.told(), (400, code.to_owned()), "{about}");
        let told = got.json();
        let description = told["description"].as_str().unwrap();
        assert_eq!(told.as_object().unwrap().len(), 2, "{about}");
        assert!(description.contains(names) && description.len() < 300 && !description.contains("canary"), "{about}");
    }
    for (headers, body, status, code) in [
        (&[("content-type", "text/plain")][..], "{}".to_owned(), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (&[("content-encoding", "gzip")], "{}".to_owned(), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (&[], " ".repeat(300_000), 413, "PAYLOAD_TOO_LARGE"),
    ] {
        let got = world.call_with("POST", "/v3/webhooks", &world.acme, body, headers).await;
        assert_eq!(got.told(), (status, code.to_owned()));
    }
    let got = world.call("PATCH", "/v3/webhooks", &world.acme, "").await;
    assert_eq!((got.told(), got.header("allow")), ((405, "METHOD_NOT_ALLOWED".to_owned()), Some("POST, GET")));
    assert_eq!(world.call("GET", "/v3/webhooks", &world.publisher, "").await.told(), (403, "FORBIDDEN".to_owned()));
    assert_eq!(world.call("GET", "/v3/webhooks", &world.acme, "").await.json(), json!({"webhooks": []}));
    let without = with("target", json!({"url": URL}));
    let got = world.call("POST", "/v3/webhooks", &world.acme, without).await;
    assert_eq!((got.status.as_u16(), &got.json()["target"]), (201, &json!({"url": URL})));
}

#[tokio::test]
async fn two_who_race_for_omnia_s_fifth_webhook_get_one() {
    let world = World::with(with_channel()).await;
    for _ in 0..4 {
        let got = world.call("POST", "/v3/webhooks", &world.acme, subscription().to_string()).await;
        assert_eq!(got.status, 201);
    }
    world.webhook(&["*"]).await;
    let racing = ["/v3/webhooks", "/api/v3/webhooks"];
    let got = all(racing.iter().map(|path| world.call("POST", path, &world.acme, subscription().to_string()))).await;
    let (made, refused): (Vec<_>, Vec<_>) = got.into_iter().partition(|got| got.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 1));
    assert_eq!(refused[0].told(), (400, "WEBHOOK_LIMIT_EXCEEDED".to_owned()));
    let other = world.call("POST", "/v3/webhooks", &world.beta, subscription().to_string()).await;
    assert_eq!(other.status, 201, "each tenant has its own");
    let listed = world.call("GET", "/v3/webhooks", &world.acme, "").await.json();
    assert_eq!(listed["webhooks"].as_array().unwrap().len(), 6, "lemon's is listed, but does not count");
    world
        .call(
            "DELETE",
            &format!("/v3/webhooks/{}", made[0].json()["subscriptionId"].as_str().unwrap()),
            &world.acme,
            "",
        )
        .await;
    world.service.reload(Settings { omnia_max: 6, ..with_channel() });
    for status in [201, 201, 400] {
        let got = world.call("POST", "/v3/webhooks", &world.acme, subscription().to_string()).await;
        assert_eq!(got.status, status);
    }
}

async fn register(world: &World, token: &str, url: &str) -> Got {
    world.call("POST", "/api/webhook/register", token, json!({"webhook_url": url}).to_string()).await
}

/// The one OneMetric webhook, as lemon's route lists it.
async fn the_one(world: &World) -> Value {
    let listed = world.call("GET", "/v1/webhooks", &world.acme, "").await.json();
    let mut all = listed["data"].as_array().unwrap().clone();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[tokio::test]
async fn onemetric_registers_once_and_replaces_after_that() {
    let world = World::new().await;
    let got = register(&world, &world.acme, URL).await;
    assert_eq!((got.status.as_u16(), got.header("cache-control")), (200, Some("no-store")));
    let made = got.json();
    assert_eq!((&made["status"], made["message"].is_string()), (&json!("success"), true));
    assert_eq!(made["signature_secret"].as_str().unwrap().len(), 64);
    let first = the_one(&world).await;
    assert_eq!((&first["dialect"], &first["events"], &first["url"]), (&json!("onemetric"), &json!(["*"]), &json!(URL)));
    let waiting = world.publish("acme", "USER_ACTIVITY.LOGIN").await;

    let path = format!("/v1/webhooks/{}", first["id"].as_str().unwrap());
    let patch = r#"{"active":false,"description":"kept"}"#;
    assert_eq!(world.call("PATCH", &path, &world.acme, patch).await.status, 200);
    world.clock.advance(Duration::from_secs(5));
    let again = register(&world, &world.acme, "https://new.example.com/in").await;
    assert_eq!(again.status, 200);
    let members: Vec<String> = again.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!((members.len(), &again.json()["status"]), (2, &json!("success")), "no secret: {members:?}");
    let second = the_one(&world).await;
    assert_eq!((&second["id"], &second["url"]), (&first["id"], &json!("https://new.example.com/in")));
    assert_eq!((&second["state"], &second["description"]), (&json!("active"), &json!("kept")));
    assert_ne!(second["updated_at"], first["updated_at"]);
    let (event, no) = world.names(&waiting, first["id"].as_str().unwrap());
    let stored = world.store.shared().registry().webhook(no).unwrap().clone();
    assert_eq!(stored.secrets[0].secret.expose(), made["signature_secret"].as_str().unwrap(), "the secret stays");
    let pending = world.call("GET", &format!("{path}/deliveries?state=pending"), &world.acme, "").await.json();
    assert_eq!(pending["data"][0]["event"], event.id.to_string(), "what is pending goes to the new URL");

    register(&world, &world.acme, "https://new.example.com/in").await;
    assert_eq!(the_one(&world).await, second, "the same once more changes nothing");
    assert_eq!(register(&world, &world.beta, URL).await.json()["signature_secret"].as_str().unwrap().len(), 64);
    assert_eq!(world.call("DELETE", &path, &world.acme, "").await.status, 204);
    let anew = register(&world, &world.acme, URL).await.json();
    assert!(anew["signature_secret"].is_string() && anew["signature_secret"] != made["signature_secret"]);
}

#[tokio::test]
async fn racing_first_registrations_make_one_webhook() {
    let world = World::new().await;
    let urls: Vec<String> = (0..8).map(|n| format!("https://hooks.example.com/{n}")).collect();
    let got = all(urls.iter().map(|url| register(&world, &world.acme, url))).await;
    assert!(got.iter().all(|got| got.status == 200));
    assert_eq!(got.iter().filter(|got| got.json().get("signature_secret").is_some()).count(), 1);
    let one = the_one(&world).await;
    assert!(urls.contains(&one["url"].as_str().unwrap().to_owned()));
}

#[tokio::test]
async fn a_re_registration_needs_no_place_and_a_first_one_does() {
    let world = World::with(Settings { webhooks_per_tenant: 1, ..Settings::default() }).await;
    assert_eq!(register(&world, &world.acme, URL).await.status, 200);
    assert_eq!(register(&world, &world.acme, "https://new.example.com/").await.status, 200);
    let body = json!({"url": URL, "events": ["a"]}).to_string();
    assert_eq!(world.call("POST", "/v1/webhooks", &world.beta, body).await.status, 201);
    let full = register(&world, &world.beta, URL).await;
    assert_eq!((full.status.as_u16(), &full.json()["status"]), (409, &json!("error")));
}

#[tokio::test]
async fn what_onemetric_s_route_refuses_is_told_in_its_form() {
    let world = World::new().await;
    let urls = urls_refused().into_iter().map(|(body, _, _)| {
        let url = serde_json::from_str::<Value>(&body).unwrap()["url"].clone();
        json!({"webhook_url": url}).to_string()
    });
    let bodies = [r#"{"webhook_url":1}"#, "{}", r#"{"webhook_url":null}"#, r#"{"webhook_url":"a","webhook_url":"b"}"#];
    for body in urls.chain(bodies.map(str::to_owned)) {
        let got = world.call("POST", "/api/webhook/register", &world.acme, body.clone()).await;
        let told = got.json();
        assert_eq!((got.status.as_u16(), told.as_object().unwrap().len()), (400, 2), "{body} {told}");
        assert_eq!(told["status"], "error");
        let message = told["message"].as_str().unwrap();
        assert!(message.contains("webhook_url") && message.len() < 300, "{message}");
    }
    for (token, headers, body, status) in [
        (world.acme.as_str(), &[][..], "{".to_owned(), 400),
        (&world.acme, &[], "[]".to_owned(), 400),
        ("", &[], "{}".to_owned(), 401),
        (&world.publisher, &[], "{}".to_owned(), 403),
        (&world.acme, &[], " ".repeat(300_000), 413),
        (&world.acme, &[("content-type", "text/plain")], "{}".to_owned(), 415),
    ] {
        let got = world.call_with("POST", "/api/webhook/register", token, body, headers).await;
        assert_eq!((got.status.as_u16(), &got.json()["status"]), (status, &json!("error")));
        assert!(got.json()["message"].is_string());
    }
    let got = world.call("GET", "/api/webhook/register", &world.acme, "").await;
    assert_eq!((got.status.as_u16(), &got.json()["status"]), (405, &json!("error")));
    assert_eq!(world.call("GET", "/v1/webhooks", &world.acme, "").await.json()["data"], json!([]));
    let key = [("x-api-key", world.acme.as_str())];
    let body = json!({"webhook_url": URL}).to_string();
    assert_eq!(world.call_with("POST", "/api/webhook/register", "", body, &key).await.status, 200);
}

/// A webhook of each dialect, all of acme: its `wbh_…` id, and its dialect.
async fn one_of_each(world: &World) -> Vec<(String, &'static str)> {
    world.webhook(&["order.*"]).await;
    world.call("POST", "/v3/webhooks", &world.acme, subscription().to_string()).await;
    let vibe = json!({"url": URL, "events": ["order.created"], "active": false}).to_string();
    world.call("POST", "/api/v1/webhooks", &world.acme, vibe).await;
    register(world, &world.acme, URL).await;
    let listed = world.call("GET", "/v1/webhooks", &world.acme, "").await.json();
    let ids = listed["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
    let dialects = ["lemon", "omnia", "vibe", "onemetric"];
    let all: Vec<_> = ids.zip(dialects).collect();
    let shown: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|one| one["dialect"].as_str().unwrap()).collect();
    assert_eq!((all.len(), shown.as_slice()), (4, &dialects[..]));
    all
}

#[tokio::test]
async fn every_webhook_is_listed_read_and_deleted_through_every_dialect() {
    let world = World::with(with_channel()).await;
    let dashed = |digits: &str| {
        let part = |range: std::ops::Range<usize>| &digits[range];
        [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
    };
    for (base, id_of, list, id_member, types_of) in [
        ("/v1/webhooks", &(|d: &str| format!("wbh_{d}")) as &dyn Fn(&str) -> String, "data", "id", "/events"),
        ("/v3/webhooks", &dashed, "webhooks", "subscriptionId", "/eventTypes"),
        ("/api/v3/webhooks", &dashed, "webhooks", "subscriptionId", "/eventTypes"),
        ("/api/v1/webhooks", &|d: &str| format!("webhook_{d}"), "webhooks", "id", "/events"),
    ] {
        let made = one_of_each(&world).await;
        let listed = world.call("GET", base, &world.acme, "").await.json();
        for ((wbh, dialect), entry) in made.iter().zip(listed[list].as_array().unwrap()) {
            let digits = wbh.strip_prefix("wbh_").unwrap();
            assert_eq!(entry[id_member], id_of(digits), "{base} {dialect}");
            let filters = match *dialect {
                "lemon" => "order.*",
                "omnia" => CHANNEL,
                "vibe" => "order.created",
                _ => "*",
            };
            assert_eq!(entry.pointer(types_of).unwrap(), &json!([filters]), "{base} {dialect}");
            for id in [wbh.clone(), dashed(digits), format!("webhook_{digits}")] {
                let read = world.call("GET", &format!("{base}/{id}"), &world.acme, "").await;
                assert_eq!((read.status.as_u16(), &read.json()), (200, entry), "{base}/{id}");
                assert_eq!(world.call("GET", &format!("{base}/{id}"), &world.beta, "").await.status, 404);
            }
            assert_eq!(world.call("DELETE", &format!("{base}/{}", id_of(digits)), &world.acme, "").await.status, 204);
        }
        assert_eq!(world.call("GET", base, &world.acme, "").await.json()[list], json!([]), "{base}");
    }
}
