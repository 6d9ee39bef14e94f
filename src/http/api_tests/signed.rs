//! Vibe's signed form: what is signed, within which time, and that a signature opens a change once.

use super::changes::{all_changes, changing_world};
use super::*;
use crate::http::route::Access;
use crate::store::op::Tidy;

const HOOKS: &str = "/api/v1/webhooks";

async fn tenant(world: &World) -> Holder {
    world.holder(json!({"role": "tenant", "tenant": "acme", "publish": true})).await
}

fn new_webhook() -> String {
    json!({"url": URL, "events": ["a"]}).to_string()
}

/// Sends what was signed at another time, or for something else.
async fn send(world: &World, headers: &[(&str, String); 3], method: &str, path: &str, body: &str) -> u16 {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
    world.with_headers(method, path, body, headers).await.status.as_u16()
}

#[tokio::test]
async fn method_path_body_and_time_are_signed() {
    let world = World::new().await;
    let holder = tenant(&world).await;
    let now = START / 1_000;
    let (path, body) = ("/api/v1/webhooks?x=1", new_webhook());
    let good = holder.sign("POST", path, &body, now);
    assert_eq!(send(&world, &good, "POST", HOOKS, &body).await, 401, "another path");
    assert_eq!(send(&world, &good, "POST", path, &format!("{body} ")).await, 401, "another body");
    let mut later = good.clone();
    later[1].1 = (now + 1).to_string();
    assert_eq!(send(&world, &later, "POST", path, &body).await, 401, "another time");
    for bad in ["00", &"0".repeat(64), "", "zz"] {
        let mut wrong = good.clone();
        wrong[2].1 = bad.to_owned();
        assert_eq!(send(&world, &wrong, "POST", path, &body).await, 401, "{bad}");
    }
    for bad in ["", "+1700000000", "1.7e9", "-1", "99999999999999999999999"] {
        let mut wrong = holder.sign("POST", path, &body, now);
        wrong[1].1 = bad.to_owned();
        assert_eq!(send(&world, &wrong, "POST", path, &body).await, 401, "{bad}");
    }
    assert_eq!(send(&world, &good, "POST", path, &body).await, 201, "and none of this has used it up");
    for (at, status) in [(now - 300, 200), (now + 300, 200), (now - 301, 401), (now + 301, 401)] {
        let headers = holder.sign("GET", HOOKS, "", at);
        assert_eq!(send(&world, &headers, "GET", HOOKS, "").await, status, "{at}");
    }
}

#[tokio::test]
async fn a_body_is_signed_as_it_is_sent_but_for_get_and_delete() {
    let world = World::new().await;
    let holder = tenant(&world).await;
    let id = world.webhook(&["a"]).await;
    let (one, rotate) = (format!("/v1/webhooks/{id}"), format!("/v1/webhooks/{id}/rotate-secret"));
    let now = START / 1_000;
    for (method, path, sent, signed, status) in [
        ("POST", &rotate, "{}", "", 401),
        ("POST", &rotate, "{}", "{}", 200),
        ("POST", &rotate, "", "", 200),
        ("GET", &one, "{}", "", 200),
        ("DELETE", &one, "{}", "{}", 401),
        ("DELETE", &one, "{}", "", 204),
    ] {
        let headers = holder.sign(method, path, signed, now);
        assert_eq!(send(&world, &headers, method, path, sent).await, status, "{method} {path} {sent:?} {signed:?}");
    }
}

#[tokio::test]
async fn every_change_is_accepted_once() {
    let world = changing_world().await;
    let admin = world.holder(json!({"role": "admin"})).await;
    let (owner, publisher) = (tenant(&world).await, world.holder(json!({"role": "publisher"})).await);
    let refused = world.with_headers("GET", HOOKS, "", []).await;
    for change in all_changes(&world).await {
        let holder = match change.access() {
            Access::Publish => &publisher,
            Access::Tenant => &owner,
            Access::Admin | Access::Any | Access::Open => &admin,
        };
        let told = format!("{} {}", change.method, change.path);
        let headers = holder.sign(change.method, &change.path, &change.body, START / 1_000);
        let first = send(&world, &headers, change.method, &change.path, &change.body).await;
        assert_eq!(first, change.status, "{told}");
        let again = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let again = world.with_headers(change.method, &change.path, &change.body, again).await;
        let nobody = world.with_headers(change.method, &change.path, &change.body, []).await;
        assert_eq!((again.status, &again.body), (StatusCode::UNAUTHORIZED, &nobody.body), "{told} again");
        assert_eq!(again.header("www-authenticate"), refused.header("www-authenticate"));
    }
}

#[tokio::test]
async fn twins_that_meet_are_one() {
    let world = World::new().await;
    let holder = tenant(&world).await;
    let (body, id) = (new_webhook(), world.webhook(&["a"]).await);
    let delete = format!("{HOOKS}/webhook_{}", &id[4..]);
    for (method, path, body, status) in [("POST", HOOKS, body.as_str(), 201), ("DELETE", delete.as_str(), "", 204)] {
        let headers = holder.sign(method, path, body, START / 1_000);
        // So many that some are let in before the first is written and look for the webhook after.
        let told = all((0..800).map(|_| send(&world, &headers, method, path, body))).await;
        let count = |wanted| told.iter().filter(|told| **told == wanted).count();
        assert_eq!((count(status), count(401)), (1, 799), "{method} {path}");
    }
}

#[tokio::test]
async fn reading_may_repeat() {
    let world = World::new().await;
    let holder = tenant(&world).await;
    for path in [HOOKS, "/v1/webhooks?limit=5", "/v1/events"] {
        let headers = holder.sign("GET", path, "", START / 1_000);
        for _ in 0..3 {
            assert_eq!(send(&world, &headers, "GET", path, "").await, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn a_refused_request_has_not_used_up_its_signature() {
    let limits = Settings { webhooks_per_tenant: 1, publish_rate: std::num::NonZeroU32::new(1), ..Settings::default() };
    let world = World::with(limits).await;
    let holder = tenant(&world).await;
    let now = START / 1_000;
    // Its limit: there is one already. Once that is gone the same request is good.
    let (body, id) = (new_webhook(), world.webhook(&["a"]).await);
    let create = holder.sign("POST", HOOKS, &body, now);
    for _ in 0..2 {
        assert_eq!(send(&world, &create, "POST", HOOKS, &body).await, 409);
    }
    let path = format!("/v1/webhooks/{id}");
    let delete = holder.sign("DELETE", &path, "", now);
    assert_eq!(send(&world, &delete, "DELETE", &path, "").await, 204);
    assert_eq!(send(&world, &create, "POST", HOOKS, &body).await, 201);
    assert_eq!(send(&world, &create, "POST", HOOKS, &body).await, 401);
    // What is not there, and what breaks a rule, whenever it is asked.
    let unknown = format!("/v1/webhooks/wbh_{}", "0".repeat(32));
    let headers = holder.sign("DELETE", &unknown, "", now);
    let wrong = holder.sign("POST", HOOKS, "{}", now);
    for _ in 0..2 {
        assert_eq!(send(&world, &headers, "DELETE", &unknown, "").await, 404);
        assert_eq!(send(&world, &wrong, "POST", HOOKS, "{}").await, 422);
    }
    // Too fast: later it is good.
    let [one, two] = [r#"{"type":"a"}"#, r#"{"type":"b"}"#];
    assert_eq!(world.signed(&holder, "POST", "/v1/events", one).await.status, 201);
    let second = holder.sign("POST", "/v1/events", two, now);
    assert_eq!(send(&world, &second, "POST", "/v1/events", two).await, 429);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(send(&world, &second, "POST", "/v1/events", two).await, 201);
    assert_eq!(send(&world, &second, "POST", "/v1/events", two).await, 401);
}

#[tokio::test]
async fn a_repetition_uses_up_nothing_of_its_key() {
    let limits = Settings { publish_rate: std::num::NonZeroU32::new(2), ..Settings::default() };
    let world = World::with(limits).await;
    let holder = tenant(&world).await;
    let [one, two] = [r#"{"type":"a"}"#, r#"{"type":"b"}"#];
    let headers = holder.sign("POST", "/v1/events", one, START / 1_000);
    assert_eq!(send(&world, &headers, "POST", "/v1/events", one).await, 201);
    for _ in 0..5 {
        assert_eq!(send(&world, &headers, "POST", "/v1/events", one).await, 401);
    }
    assert_eq!(world.signed(&holder, "POST", "/v1/events", two).await.status, 201, "the rate of two is not used up");
}

#[tokio::test]
async fn an_idempotency_key_does_not_open_what_a_used_signature_closes() {
    let world = World::new().await;
    let holder = tenant(&world).await;
    let body = r#"{"type":"a"}"#;
    let publish = async |at: u64| {
        let signed = holder.sign("POST", "/v1/events", body, at);
        let headers = signed.iter().map(|(name, value)| (*name, value.as_str())).chain([("idempotency-key", "k")]);
        world.with_headers("POST", "/v1/events", body, headers).await
    };
    let now = START / 1_000;
    let first = publish(now).await;
    assert_eq!((first.status.as_u16(), publish(now).await.status.as_u16()), (201, 401));
    let again = publish(now + 1).await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(again.body, first.body);
    assert_eq!(publish(now + 1).await.status, 401, "a repetition of a repetition is one too");
}

#[tokio::test]
async fn a_mark_outlives_the_time_in_which_its_request_could_be_accepted() {
    let world = World::new().await;
    let holder = tenant(&world).await;
    let (body, ahead) = (new_webhook(), START / 1_000 + 300);
    let headers = holder.sign("POST", HOOKS, &body, ahead);
    assert_eq!(send(&world, &headers, "POST", HOOKS, &body).await, 201);
    let marks = |world: &World| {
        let tidy = Tidy { marks_before: u32::MAX, audit_before_ms: 0, pauses_before_ms: 0, max: 1 };
        world.store.shared().is_untidy(tidy).unwrap()
    };
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(10));
        world.service.tidy().await.unwrap();
        assert!(marks(&world), "the mark is kept");
        assert_eq!(send(&world, &headers, "POST", HOOKS, &body).await, 401);
    }
    // From here on its time is past. A clock that is set back opens it no more, for as long again.
    world.clock.step_wall_to(START);
    assert_eq!(send(&world, &headers, "POST", HOOKS, &body).await, 401);
    world.clock.advance(Duration::from_secs(3 * 300 + 120));
    world.service.tidy().await.unwrap();
    assert!(!marks(&world), "and then it goes");
    assert_eq!(send(&world, &headers, "POST", HOOKS, &body).await, 401);
}
