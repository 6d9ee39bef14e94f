//! What is the same for every caller.

use super::*;

#[tokio::test]
async fn the_catalogue_is_shown_to_every_key() {
    let catalogue = catalogue(&[("b.made", None), ("a.paid", Some("ACCOUNT_ACTIVITY"))]);
    let world = World::with(Settings { catalogue, ..Settings::default() }).await;
    let shown = json!({"data": [
        {"name": "b.made", "description": "b.made happened"},
        {"name": "a.paid", "description": "a.paid happened", "omnia_channel": "ACCOUNT_ACTIVITY"},
    ]});
    for token in [&world.admin, &world.publisher, &world.acme] {
        let got = world.call("GET", "/v1/event-types", token, "").await;
        assert_eq!((got.status.as_u16(), got.json()), (200, shown.clone()));
    }
    assert_eq!(world.call("GET", "/v1/event-types", "", "").await.status, 401);
    world.service.reload(Settings::default());
    assert_eq!(world.call("GET", "/v1/event-types", &world.acme, "").await.json(), json!({"data": []}));
}

#[tokio::test]
async fn the_addresses_we_send_from_are_told() {
    let world = World::new().await;
    let got = world.call("GET", "/v1/ip-ranges", &world.acme, "").await;
    assert_eq!((got.status.as_u16(), &got.json()["data"]), (200, &json!([])));
    assert_eq!(got.json()["determined_by"], "system");
    assert!(got.json()["description"].as_str().unwrap().contains("any address of this host"));
    let sources = ["2001:db8::7", "203.0.113.9", "203.0.113.7", "::ffff:203.0.113.7"];
    let source_addresses = sources.iter().map(|text| text.parse().unwrap()).collect();
    world.service.reload(Settings { source_addresses, ..Settings::default() });
    let got = world.call("GET", "/v1/ip-ranges", &world.admin, "").await.json();
    assert_eq!(got["data"], json!(["203.0.113.7/32", "203.0.113.9/32", "2001:db8::7/128"]));
    assert_eq!(got["determined_by"], "egress.source_addresses");
}

#[cfg(feature = "schema")]
#[tokio::test]
async fn data_that_does_not_fit_its_schema_is_refused() {
    use crate::catalogue::Schema;

    let text = r#"{"required":["price"],"properties":{"price":{"type":"number","minimum":0}}}"#;
    let known = EventType {
        name: "trade.made".to_owned(),
        description: String::new(),
        omnia_channel: None,
        schema: Some(Schema::read(text).unwrap()),
    };
    let catalogue = Arc::new(Catalogue::new(vec![known]));
    let world = World::with(Settings { catalogue, ..Settings::default() }).await;
    let listed = world.call("GET", "/v1/event-types", &world.acme, "").await.json();
    assert_eq!(listed["data"][0]["schema"], serde_json::from_str::<Value>(text).unwrap());
    let publish = async |path: &str, body: Value| world.call("POST", path, &world.publisher, body.to_string()).await;
    let event = |data: Value| json!({"type": "trade.made", "tenant": "acme", "data": data});
    assert_eq!(publish("/v1/events", event(json!({"price": 0.10}))).await.status, 201);
    let canary = "canary".repeat(20);
    for (data, path) in
        [(json!({}), "data/price"), (json!({"price": canary}), "data/price"), (json!({"price": -1}), "data/price")]
    {
        let got = publish("/v1/events", event(data)).await;
        assert_eq!(got.told(), (422, "schema_mismatch".to_owned()));
        let message = got.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(path) && !message.contains("canary"), "{message}");
    }
    let batch = json!({"events": [event(json!({"price": 1})), event(json!({"price": "x"}))]});
    let got = publish("/v1/events/batch", batch).await;
    assert_eq!(got.told(), (422, "schema_mismatch".to_owned()));
    assert!(got.json()["message"].as_str().unwrap().starts_with("events[1]: data/price "), "{:?}", got.body);
    assert_eq!(
        publish("/v1/events", json!({"type": "other", "tenant": "acme", "data": {"price": "x"}})).await.status,
        201
    );
    let all = world.call("GET", "/v1/events", &world.acme, "").await.json();
    assert_eq!(all["data"].as_array().unwrap().len(), 2, "what was refused left nothing");
}
