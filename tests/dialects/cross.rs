//! One core under four dialects: one event for all of them, libraries that verify any of them, addresses and catalogue.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use super::support::{self, Client, Daemon, Receiver, SOON, Stage, free_port, node_receiver, signature, tenant, text};
use super::{header, is_signed};

/// A receiver of one dialect, with the secret that its webhook signs with.
struct Subscriber {
    receiver: Receiver,
    secret: String,
}

/// A webhook of each dialect for one tenant: lemon, Omnia, Vibe, OneMetric.
fn subscribe(owner: &Client) -> [Subscriber; 4] {
    let receivers = [(); 4].map(|()| Receiver::ok());
    let url = |place: usize| receivers[place].url("/in");
    let lemon = support::register(owner, &json!({"url": url(0), "events": ["account.*"]}));
    let target = json!({"url": url(1), "headers": {"X-Own": "yes"}});
    let omnia = owner.post("/v3/webhooks", &json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": target}));
    let omnia = text(&omnia.expect(201).json(), "subscriptionId");
    let vibe = json!({"url": url(2), "events": ["account.deposit_received"]});
    let vibe = owner.post("/api/v1/webhooks", &vibe).expect(201).json();
    let onemetric = owner.post("/api/webhook/register", &json!({"webhook_url": url(3)})).expect(200).json();
    let given = format!("whsec_{}", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    owner.patch(&format!("/v1/webhooks/{omnia}"), &json!({"secret": given})).expect(200);
    let secrets =
        [text(&lemon, "signature_secret"), given, text(&vibe, "secret"), text(&onemetric, "signature_secret")];
    let mut secrets = secrets.into_iter();
    receivers.map(|receiver| Subscriber { receiver, secret: secrets.next().expect("four") })
}

/// Fails the test unless each got its own body and signature of this event, as its `number`-th request.
#[track_caller]
fn each_got(subscribers: &[Subscriber; 4], number: usize, event: &str, data: &Value) {
    let got = |place: usize| {
        let Subscriber { receiver, secret } = &subscribers[place];
        let request = receiver.wait_for(number, SOON).remove(number - 1);
        is_signed(&request, secret, event);
        (request, secret.as_str())
    };
    let (lemon, secret) = got(0);
    let expected = json!({"id": event, "type": "account.deposit_received", "created_at": "2024-01-15T09:00:00.500000+00:00",
        "context": {"account": "cusa_1"}, "data": data, "user": {"id": "u1"}});
    assert_eq!(lemon.json(), expected);
    let seconds = header(&lemon, "webhook-timestamp").parse().expect("seconds");
    assert_eq!(header(&lemon, "lmg-signature"), signature::lemon(secret, seconds, &lemon.body));
    let (omnia, _) = got(1);
    assert_eq!((&omnia.json()["eventType"], &omnia.json()["eventId"]), (&json!("ACCOUNT_ACTIVITY"), &json!(event)));
    assert_eq!((&omnia.json()["data"], header(&omnia, "x-own")), (data, "yes"));
    let (vibe, secret) = got(2);
    let expected = json!({"event": "account.deposit_received", "timestamp": "2024-01-15T09:00:00Z", "data": data});
    assert_eq!(vibe.json(), expected);
    assert_eq!(header(&vibe, "x-webhook-signature"), signature::vibe(secret, &vibe.body));
    let (onemetric, secret) = got(3);
    let expected = json!({"event_type": "account", "sub_type": "deposit_received", "time_stamp": "2024-01-15 09:00:00",
        "details": data, "user": {"id": "u1"}});
    assert_eq!((onemetric.json(), header(&onemetric, "x-webhook-token")), (expected, secret));
    for (request, foreign) in [
        (&lemon, &["x-webhook-signature", "x-webhook-token", "x-own"][..]),
        (&omnia, &["lmg-signature", "lemon-markets-signature", "x-webhook-signature", "x-webhook-token"]),
        (&vibe, &["lmg-signature", "lemon-markets-signature", "x-webhook-token", "x-own"]),
        (&onemetric, &["lmg-signature", "lemon-markets-signature", "x-webhook-signature", "x-own"]),
    ] {
        for name in foreign {
            assert_eq!(request.header(name), None, "{request:?}");
        }
    }
}

/// A deposit for `to`.
fn deposit(to: &str, data: &Value) -> Value {
    json!({"type": "account.deposit_received", "tenant": to, "created_at": "2024-01-15T09:00:00.5Z", "data": data,
        "context": {"account": "cusa_1"}, "user": {"id": "u1"}})
}

#[test]
fn one_event_reaches_all_four_dialects_each_in_its_own_form() {
    let stage = Stage::start(Daemon::builder());
    tenant(&stage.daemon, "beta");
    let beta = stage.daemon.client().bearer(&support::tenant_key(&stage.daemon, "beta").token);
    let (subscribers, subscribers_of_beta) = (subscribe(&stage.owner), subscribe(&beta));

    let data = json!({"amount": 1000.0, "asset": "USD"});
    let event = stage.publish(&deposit("acme", &data));
    assert_eq!(event["deliveries"], 4);
    each_got(&subscribers, 1, &text(&event, "id"), &data);

    let data = json!({"for": "everybody"});
    let event = stage.publish(&deposit("*", &data));
    assert_eq!(event["deliveries"], 8, "a broadcast reaches all tenants");
    each_got(&subscribers, 2, &text(&event, "id"), &data);
    each_got(&subscribers_of_beta, 1, &text(&event, "id"), &data);

    // What the dialects registered is one list, whatever the route.
    for (path, list) in [("/v1/webhooks", "data"), ("/v3/webhooks", "webhooks"), ("/api/v1/webhooks", "webhooks")] {
        let listed = stage.owner.get(path).expect(200).json();
        let ids = listed[list].as_array().expect("a list").iter();
        let ids: Vec<String> =
            ids.map(|one| text(one, if path == "/v3/webhooks" { "subscriptionId" } else { "id" })).collect();
        assert_eq!(ids.len(), 4, "{path}");
        for id in ids {
            stage.owner.get(&format!("{path}/{id}")).expect(200);
        }
    }
    let listed = stage.owner.get("/v3/webhooks").expect(200).json();
    for one in listed["webhooks"].as_array().expect("a list") {
        stage.owner.delete(&format!("/api/v3/webhooks/{}", text(one, "subscriptionId"))).expect(204);
    }
    assert_eq!(stage.publish(&deposit("acme", &data))["deliveries"], 0);
}

#[test]
fn g16_standard_webhooks_for_node_verifies_every_dialect() {
    let stage = Stage::start(Daemon::builder());
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}/");
    let target = json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": {"url": url}});
    let given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for (path, body) in [
        ("/v1/webhooks", json!({"url": url, "events": ["*"]})),
        ("/v3/webhooks", target),
        ("/api/v1/webhooks", json!({"url": url, "events": ["account.*"], "secret": given})),
        ("/api/webhook/register", json!({"webhook_url": url})),
    ] {
        let made = stage.owner.post(path, &body).json();
        let id = text(&stage.owner.get("/v1/webhooks").expect(200).json()["data"][0], "id");
        let secret = match path {
            "/api/v1/webhooks" => given.to_owned(),
            // No secret stands in the vendor's answer: this is how a tenant gets one.
            "/v3/webhooks" => {
                let rotated = stage.owner.post(&format!("/v1/webhooks/{id}/rotate-secret"), &json!({})).expect(200);
                text(&rotated.json(), "signature_secret")
            }
            _ => text(&made, "signature_secret"),
        };
        let node = node_receiver("standard_webhooks.js", &[("PORT", &port), ("SECRET", &secret)]);
        let event = stage.publish(&deposit("acme", &json!({"ü": "€"})));
        let accepted = node.wait_for(1, SOON).remove(0);
        assert_eq!(accepted["id"], event["id"], "{path}");
        let shown = accepted["event"].get("data").or(accepted["event"].get("details"));
        assert_eq!(shown, Some(&json!({"ü": "€"})), "{path}");
        stage.explained(&text(&event, "id"), |delivery| delivery["state"] == "delivered");
        stage.owner.delete(&format!("/v1/webhooks/{id}")).expect(204);
    }
}

#[test]
fn deliveries_come_from_the_configured_addresses_which_tenants_can_look_up() {
    let stage = Stage::start(Daemon::builder().set("egress.source_addresses", "[\"127.0.0.7\", \"::1\"]"));
    let told = stage.owner.get("/v1/ip-ranges").expect(200).json();
    assert_eq!(told["data"], json!(["127.0.0.7/32", "::1/128"]));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    stage.register(&json!({"url": url, "events": ["*"]}));
    stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    let (mut stream, from) = listener.accept().expect("a delivery");
    assert_eq!(from.ip().to_string(), "127.0.0.7");
    let mut head = [0; 4];
    stream.read_exact(&mut head).expect("a request");
    assert_eq!(&head, b"POST");
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("a sender that reads");
}

#[test]
fn the_built_in_catalogue_holds_the_types_of_all_four_vendors() {
    let stage = Stage::start(Daemon::builder());
    let listed = stage.publisher.get("/v1/event-types").expect(200).json();
    let types = listed["data"].as_array().expect("a list");
    assert_eq!(types.len(), 1 + 12 + 9);
    for known in types {
        assert!(!text(known, "description").is_empty(), "{known}");
    }
    let named = |name: &str| types.iter().find(|known| known["name"] == name).unwrap_or_else(|| panic!("{name}"));
    for name in ["account.created", "order.updated", "system.maintenance", "USER_PROFILE.DETAILS_UPDATED"] {
        assert_eq!(named(name).get("omnia_channel"), None);
    }
    for name in ["account.deposit_received", "account.withdrawal_processed"] {
        assert_eq!(named(name)["omnia_channel"], "ACCOUNT_ACTIVITY");
    }
}
