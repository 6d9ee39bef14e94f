//! One key and body, one event.

use super::told::{echoes_little, told};
use super::*;
use crate::http::problem::Form;

const BODY: &str = r#"{"type":"a","tenant":"acme","data":{"n":1}}"#;

async fn publish(world: &World, token: &str, key: &str, body: &str) -> Got {
    world.call_with("POST", "/v1/events", token, body.to_owned(), &[("idempotency-key", key)]).await
}

#[tokio::test]
async fn p_a_repetition_gets_the_same_answer_and_another_body_none() {
    let world = World::new().await;
    world.webhook(&["a"]).await;
    let first = publish(&world, &world.publisher, "k1", BODY).await;
    assert_eq!((first.status.as_u16(), first.header("idempotent-replayed")), (201, None));
    world.clock.advance(Duration::from_secs(3_600));
    world.webhook(&["a"]).await;
    let second = publish(&world, &world.publisher, "k1", BODY).await;
    assert_eq!((second.status.as_u16(), second.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!((&first.body, first.header("location")), (&second.body, second.header("location")));
    // White space makes it another body.
    let other = publish(&world, &world.publisher, "k1", &format!("{BODY} ")).await;
    assert_eq!(other.told(), (422, "idempotency_conflict".to_owned()));
    assert!(other.json()["message"].as_str().unwrap().contains("Idempotency-Key"));
    assert_eq!(world.store.shared().next_event(), 2);
    world.clock.advance(Duration::from_secs(24 * 3_600));
    let later = publish(&world, &world.publisher, "k1", &format!("{BODY} ")).await;
    assert_eq!(later.status, 201, "kept for a day");
}

#[tokio::test]
async fn publishers_share_a_scope_and_tenants_have_their_own() {
    let world = World::new().await;
    let second = world.key(json!({"role": "publisher"})).await;
    let first = publish(&world, &world.publisher, "k", BODY).await;
    assert_eq!(publish(&world, &second, "k", BODY).await.body, first.body);
    let own = publish(&world, &world.beta, "k", r#"{"type":"a"}"#).await;
    assert_eq!((own.status.as_u16(), own.header("idempotent-replayed")), (201, None));
}

#[tokio::test]
async fn p_idempotency_keys_that_are_none() {
    let world = World::new().await;
    let (fits, long) = ("k".repeat(255), "k".repeat(256));
    assert_eq!(publish(&world, &world.publisher, &fits, BODY).await.status, 201);
    let batch = format!(r#"{{"events":[{BODY}]}}"#);
    let much = "k".repeat(10_000);
    for (path, body) in [("/v1/events", BODY), ("/v1/events/batch", &batch)] {
        for bad in [long.as_str(), &much, "", "a b", "a\tb", "é"] {
            let headers = [("idempotency-key", bad)];
            let got = world.call_with("POST", path, &world.publisher, body.to_owned(), &headers).await;
            let got = told(Form::Lemon, &got);
            assert_eq!((got.status, got.code.as_str()), (422, "invalid_field"), "{path} {bad}");
            assert!(got.message.starts_with("Idempotency-Key must be 1 to 255 visible"), "{got:?}");
            echoes_little(bad, &got.message);
        }
        let twice = [("idempotency-key", "x"), ("idempotency-key", "x")];
        let got = told(Form::Lemon, &world.call_with("POST", path, &world.publisher, body.to_owned(), &twice).await);
        assert!(got.status == 422 && got.message.starts_with("Idempotency-Key stands there twice"), "{got:?}");
    }
    assert_eq!(world.store.shared().next_event(), 2);
}

#[tokio::test]
async fn twins_make_one_event() {
    let world = World::new().await;
    let twins = (0..20).map(|_| publish(&world, &world.publisher, "twin", BODY));
    let got = all(twins).await;
    assert!(got.iter().all(|one| one.status == 201 && one.body == got[0].body));
    assert_eq!(got.iter().filter(|got| got.header("idempotent-replayed").is_none()).count(), 1);
    assert_eq!(world.store.shared().next_event(), 2);
}

#[tokio::test]
async fn a_refusal_is_not_remembered_and_batches_are() {
    let world = World::new().await;
    assert_eq!(publish(&world, &world.publisher, "r", r#"{"type":"a","tenant":"later"}"#).await.status, 422);
    world.socket("PUT", "/admin/tenants/later", "").await;
    assert_eq!(publish(&world, &world.publisher, "r", r#"{"type":"a","tenant":"later"}"#).await.status, 201);
    let both = r#"{"type":"a","tenant":"acme","events":[{"type":"b","tenant":"acme"},{"type":"c","tenant":"acme"}]}"#;
    let headers = [("idempotency-key", "b")];
    let first = world.call_with("POST", "/v1/events/batch", &world.publisher, both, &headers).await;
    let second = world.call_with("POST", "/v1/events/batch", &world.publisher, both, &headers).await;
    assert_eq!((first.status.as_u16(), &first.body), (201, &second.body));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    let elsewhere = publish(&world, &world.publisher, "b", both).await;
    assert_eq!(elsewhere.told(), (422, "idempotency_conflict".to_owned()), "the other route is another request");
}
