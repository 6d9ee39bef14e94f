//! Streams at the API: made, held, gone on with, answered, ended; what a stranger learns of them stands in `foreign`.

use super::*;
use crate::egress::stream::Signed;
use crate::http::server::ReplyBody;
use crate::limits::{STREAM_GRACE, STREAMS_PER_TENANT_MAX};
use crate::model::attempt::Exchange;

/// Makes a stream and lets go of it; gives its webhook's id and secret.
pub(super) async fn stream(world: &World, token: &str, body: &Value) -> (String, String) {
    let got = world.call("POST", "/v1/streams", token, body.to_string()).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    let begun = data(&got.body, "stream");
    let text = |name: &str| begun[name].as_str().unwrap_or_default().to_owned();
    (text("id"), text("signature_secret"))
}

/// What an event of a stream carries.
fn data(frame: &[u8], kind: &str) -> Value {
    let text = std::str::from_utf8(frame).unwrap();
    let data = text.strip_prefix(&format!("event: {kind}\ndata: ")).and_then(|rest| rest.strip_suffix("\n\n"));
    serde_json::from_str(data.unwrap_or_else(|| panic!("{text}"))).unwrap()
}

/// A stream that is held.
struct Client(http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>);

impl Client {
    async fn open(world: &World, token: &str, body: Value) -> (Self, Value) {
        let request =
            Request::post("/v1/streams").header("host", "d").header("authorization", format!("Bearer {token}"));
        let request = request.body(Full::from(body.to_string())).unwrap();
        let reply = world.api.handle(None, Surface::Public, peer(), request).await;
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.headers()["content-type"], "text/event-stream");
        assert_eq!(reply.headers()["cache-control"], "no-store");
        let ReplyBody::Stream(body) = reply.into_body() else { panic!("no stream") };
        let mut client = Self(body);
        let begun = data(&client.next().await.unwrap(), "stream");
        (client, begun)
    }

    async fn next(&mut self) -> Option<Bytes> {
        Some(self.0.frame().await?.unwrap().into_data().unwrap())
    }
}

/// Sends an event down a webhook's stream, as an attempt would.
async fn deliver(world: &World, webhook: &str, timeout: Duration) -> Exchange {
    let event = world.publish("acme", "a").await;
    let (event, no) = world.names(&event, webhook);
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", http::HeaderValue::from_static("evt"));
    let signed = Signed { event: &event, number: AttemptNumber::MIN, headers: &headers, body: b"{\"n\":1}" };
    world.streams.exchange(no, signed, timeout).await
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_delivery_goes_down_and_its_answer_comes_back() {
    let world = World::new().await;
    let (mut client, begun) = Client::open(&world, &world.acme, json!({"dialect": "vibe", "events": ["a"]})).await;
    assert_eq!((&begun["dialect"], &begun["events"]), (&json!("vibe"), &json!(["a"])));
    let id = begun["id"].as_str().unwrap().to_owned();
    assert!(begun["signature_secret"].as_str().is_some_and(|secret| secret.len() > 20));
    let seen = world.call("GET", &format!("/v1/webhooks/{id}"), &world.acme, "").await.json();
    assert_eq!((&seen["url"], &seen["dialect"], &seen["state"]), (&json!("stream:"), &json!("vibe"), &json!("active")));
    for (answer, came_to) in [
        (json!({"status": 204, "body": "fine\n"}), (None, Some(204), None, "fine ")),
        (json!({"status": 503, "retry_after": "7"}), (Some((Class::Status, "status 503")), Some(503), Some(7_000), "")),
        (
            json!({"status": 302}),
            (Some((Class::Redirect, "status 302: redirects are not followed")), Some(302), None, ""),
        ),
        (
            json!({"error": "refused\u{1b}"}),
            (Some((Class::Connect, "behind the stream: refused\u{fffd}")), None, None, ""),
        ),
        (
            json!({"error": "slow", "class": "timeout"}),
            (Some((Class::Timeout, "behind the stream: slow")), None, None, ""),
        ),
    ] {
        let answered = async {
            let sent = data(&client.next().await.unwrap(), "delivery");
            assert_eq!((&sent["headers"], &sent["body"]), (&json!([["webhook-id", "evt"]]), &json!("{\"n\":1}")));
            assert_eq!((&sent["type"], &sent["attempt"], &sent["method"]), (&json!("a"), &json!(1), &json!("POST")));
            let mut body = answer.clone();
            body["delivery"] = sent["delivery"].clone();
            let path = format!("/v1/streams/{id}/answers");
            let foreign = world.call("POST", &path, &world.beta, body.to_string()).await;
            assert_eq!(foreign.status, 404, "an answer is its tenant's");
            let first = world.call("POST", &path, &world.acme, body.to_string()).await;
            assert_eq!((first.status.as_u16(), first.json()), (200, json!({"recorded": true})), "{body}");
            let again = world.call("POST", &path, &world.acme, body.to_string()).await;
            assert_eq!(again.json(), json!({"recorded": false}), "an answer counts once");
        };
        let (exchange, ()) = tokio::join!(deliver(&world, &id, SOON), answered);
        let failure = exchange.failure.as_ref().map(|failure| (failure.class, failure.detail.as_str()));
        assert_eq!((failure, exchange.status, exchange.retry_after_ms, exchange.excerpt.as_str()), came_to);
        assert_eq!(exchange.remote, peer().addr);
    }
}

#[tokio::test]
async fn answers_that_are_none_are_refused_by_member() {
    let world = World::new().await;
    let path = format!("/v1/streams/{}/answers", stream(&world, &world.acme, &json!({})).await.0);
    for (body, says) in [
        (json!({}), "delivery is required"),
        (json!({"delivery": "x"}), "status is required"),
        (json!({"delivery": 1, "status": 200}), "delivery must be"),
        (json!({"delivery": "x", "status": 199}), "status must be"),
        (json!({"delivery": "x", "status": 600}), "status must be"),
        (json!({"delivery": "x", "error": "e", "class": "status"}), "class must be"),
    ] {
        let got = world.call("POST", &path, &world.acme, body.to_string()).await;
        assert_eq!(got.told(), (422, "invalid_field".to_owned()), "{body}");
        assert!(got.json()["message"].as_str().unwrap().contains(says), "{body}: {:?}", got.body);
    }
    for (body, code) in [
        (json!({"dialect": "x"}), "invalid_field"),
        (json!({"events": []}), "invalid_field"),
        (json!({"stream": 1}), "invalid_field"),
        (json!({"secret": "short"}), "secret_invalid"),
    ] {
        let got = world.call("POST", "/v1/streams", &world.acme, body.to_string()).await;
        assert_eq!(got.told(), (422, code.to_owned()), "{body}");
    }
}

#[tokio::test]
async fn who_leaves_may_come_back_in_time_and_the_newest_holds_it() {
    let world = World::new().await;
    let (client, begun) = Client::open(&world, &world.acme, json!({})).await;
    let id = begun["id"].as_str().unwrap().to_owned();
    let failed = |exchange: Exchange| exchange.failure.map(|failure| (failure.class, failure.detail)).unwrap();
    let left = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(client);
    };
    let (exchange, ()) = tokio::join!(deliver(&world, &id, SOON), left);
    assert_eq!(failed(exchange), (Class::Connect, "the stream ended before an answer came up it".to_owned()));
    assert_eq!(failed(deliver(&world, &id, SOON).await), (Class::Connect, "nobody holds the stream".to_owned()));
    world.clock.advance(STREAM_GRACE / 2);
    world.service.tidy().await.unwrap();
    let (mut first, begun) = Client::open(&world, &world.acme, json!({"stream": id})).await;
    assert_eq!((&begun["id"], &begun["signature_secret"]), (&json!(id), &json!(null)), "a secret is shown once");
    world.clock.advance(STREAM_GRACE * 2);
    world.service.tidy().await.unwrap();
    let (second, _) = Client::open(&world, &world.acme, json!({"stream": id})).await;
    assert_eq!(first.next().await, None, "whoever held it before has it no more");
    drop(first);
    let exchange = deliver(&world, &id, Duration::from_millis(20)).await;
    assert_eq!(failed(exchange).0, Class::Timeout, "the newest still holds it");
    drop(second);
    world.service.tidy().await.unwrap();
    assert_eq!(world.call("GET", &format!("/v1/webhooks/{id}"), &world.acme, "").await.status, 200);
    world.clock.advance(STREAM_GRACE);
    world.service.tidy().await.unwrap();
    assert_eq!(world.call("GET", &format!("/v1/webhooks/{id}"), &world.acme, "").await.status, 404);
    let got = world.call("POST", "/v1/streams", &world.acme, json!({"stream": id}).to_string()).await;
    assert_eq!(got.told(), (404, "not_found".to_owned()));
    let record = &world.audit("?action=stream.end").await[0];
    assert_eq!(
        (&record["actor"], &record["target"], &record["tenant"]),
        (&json!("daemon"), &json!(id), &json!("acme"))
    );
}

#[tokio::test]
async fn a_stream_ends_with_its_key_or_its_webhook() {
    let world = World::new().await;
    let holder = world.holder(json!({"role": "tenant", "tenant": "acme"})).await;
    let (mut client, begun) = Client::open(&world, &holder.token, json!({})).await;
    let id = begun["id"].as_str().unwrap().to_owned();
    assert_eq!(world.socket("DELETE", &format!("/admin/keys/{}", holder.id), "").await.status, 204);
    let (exchange, last) = tokio::join!(deliver(&world, &id, SOON), client.next());
    assert_eq!(last, None, "nothing goes down to a key that is revoked");
    drop(client);
    assert!(exchange.failure.is_some());
    let (mut client, _) = Client::open(&world, &world.acme, json!({"stream": id})).await;
    assert_eq!(world.call("DELETE", &format!("/v1/webhooks/{id}"), &world.acme, "").await.status, 204);
    // The dispatcher, which there is none of here, passes it on.
    let no = world.store.shared().registry().webhooks_ever_of(1).pop().unwrap();
    world.streams.forget(no);
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_stream_is_no_place_for_a_url_and_takes_none_of_a_dialect_s() {
    let catalogue = catalogue(&[("account.deposit_received", Some("ACCOUNT_ACTIVITY"))]);
    let world = World::with(Settings { catalogue, omnia_max: 1, ..Settings::default() }).await;
    let (omnia, _) = stream(&world, &world.acme, &json!({"dialect": "omnia"})).await;
    let (sole, _) = stream(&world, &world.acme, &json!({"dialect": "onemetric", "secret": "a secret of mine"})).await;
    let target = json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": {"url": URL}}).to_string();
    assert_eq!(world.call("POST", "/v3/webhooks", &world.acme, target).await.status, 201, "the one place is free");
    let url = json!({"webhook_url": URL}).to_string();
    assert!(world.call("POST", "/api/webhook/register", &world.acme, url).await.json()["signature_secret"].is_string());
    for id in [&omnia, &sole] {
        let path = format!("/v1/webhooks/{id}");
        let got = world.call("PATCH", &path, &world.acme, json!({"url": URL}).to_string()).await;
        assert_eq!(got.told(), (422, "invalid_field".to_owned()));
        assert_eq!(world.call("GET", &path, &world.acme, "").await.json()["url"], "stream:");
    }
    let url = json!({"url": "stream:", "events": ["a"]}).to_string();
    assert_eq!(world.call("POST", "/v1/webhooks", &world.acme, url).await.told(), (422, "invalid_url".to_owned()));
    let other = world.webhook(&["a"]).await;
    let got = world.call("POST", "/v1/streams", &world.acme, json!({"stream": other}).to_string()).await;
    assert_eq!(got.told(), (409, "not_a_stream".to_owned()));
    for _ in 2..STREAMS_PER_TENANT_MAX {
        stream(&world, &world.acme, &json!({})).await;
    }
    let got = world.call("POST", "/v1/streams", &world.acme, "{}").await;
    assert_eq!(got.told(), (409, "quota_exceeded".to_owned()));
    stream(&world, &world.beta, &json!({})).await;
}

#[tokio::test]
async fn explain_says_that_a_delivery_waits_for_a_listener() {
    let world = World::new().await;
    let (client, begun) = Client::open(&world, &world.acme, json!({})).await;
    let event = world.publish("acme", "a").await;
    let waiting = async || {
        let got = world.call("GET", &format!("/v1/events/{event}/explain"), &world.acme, "").await.json();
        let part = got["deliveries"].as_array().unwrap().iter().find(|part| part["webhook"] == begun["id"]).cloned();
        part.unwrap()["waiting_for"].clone()
    };
    assert_eq!(waiting().await["what"], "permit");
    drop(client);
    let told = waiting().await;
    assert_eq!(told["what"], "paused");
    assert!(told["rule"].as_str().unwrap().contains("nobody holds the webhook's stream"), "{told}");
}
