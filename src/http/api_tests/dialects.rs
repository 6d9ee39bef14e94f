//! Omnia's and OneMetric's routes, and webhooks seen through another dialect's.

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
    assert_eq!(told["detail"], "order.created is not among ACCOUNT_ACTIVITY and is announced on no channel");

    // A catalogue that no longer has the channel changes nothing about what was accepted.
    world.service.reload(Settings::default());
    let later = world.publish("acme", "account.deposit_received").await;
    assert_eq!((world.names(&later, id).0.matched, world.names(&deposit, id).0.matched), (vec![], vec![no]));
    let explained = world.call("GET", &format!("/v1/events/{deposit}/explain"), &world.acme, "").await.json();
    assert_eq!(explained["deliveries"][0]["matched"], true);
}

#[tokio::test]
async fn an_omnia_target_without_headers_shows_none() {
    let world = World::with(with_channel()).await;
    let without = json!({"eventTypes": [CHANNEL], "target": {"url": URL}}).to_string();
    let got = world.call("POST", "/v3/webhooks", &world.acme, without).await;
    assert_eq!((got.status.as_u16(), &got.json()["target"]), (201, &json!({"url": URL})));
}

#[tokio::test]
async fn r_two_who_race_for_omnia_s_fifth_webhook_get_one() {
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
