//! Dead letters, redrive and resend.

use super::*;
use crate::model::attempt::DeadReason;

const DEAD: Verdict = Verdict::Dead(DeadReason::Exhausted);

async fn listed(world: &World, query: &str) -> Vec<Value> {
    let got = world.call("GET", &format!("/v1/dead-letters{query}"), &world.acme, "").await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    got.json()["data"].as_array().unwrap().clone()
}

async fn state(world: &World, event: &str) -> String {
    let got = world.call("GET", &format!("/v1/events/{event}/explain"), &world.acme, "").await.json();
    got["deliveries"][0]["state"].as_str().unwrap_or("none").to_owned()
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_by_filter_and_page() {
    let world = World::new().await;
    let (one, two) = (world.webhook(&["a"]).await, world.webhook(&["b"]).await);
    let mut ids = Vec::new();
    for n in 0..6 {
        let (kind, webhook) = if n % 2 == 0 { ("a", &one) } else { ("b", &two) };
        let event = world.publish("acme", kind).await;
        world.attempted(&event, webhook, 1, DEAD).await;
        ids.insert(0, format!("{event}.{webhook}"));
        world.clock.advance(Duration::from_secs(60));
    }
    let all = listed(&world, "").await;
    let of = |list: &[Value]| list.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(of(&all), ids);
    let first = &all[0];
    assert_eq!(
        (&first["type"], &first["reason"], &first["attempts"]),
        (&json!("b"), &json!("retries_exhausted"), &json!(1))
    );
    assert_eq!((&first["webhook"], &first["last_attempt"]["status"]), (&json!(two), &json!(500)));
    assert_eq!(first["dead_at"], "2023-11-14T22:18:20.012Z");
    assert_eq!(listed(&world, "?type=a").await.len(), 3);
    assert_eq!(listed(&world, &format!("?webhook={two}")).await.len(), 3);
    assert_eq!(listed(&world, "?since=2023-11-14T22:15:00Z&until=2023-11-14T22:17:00Z").await.len(), 2);
    let mut seen = Vec::new();
    let mut path = "/v1/dead-letters?limit=2&type=b".to_owned();
    loop {
        let page = world.call("GET", &path, &world.acme, "").await.json();
        seen.extend(of(page["data"].as_array().unwrap()));
        let Some(cursor) = page["pagination"]["next_cursor"].as_str() else { break };
        path = format!("/v1/dead-letters?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, [ids[0].clone(), ids[2].clone(), ids[4].clone()]);
    assert_eq!(world.call("GET", "/v1/dead-letters", &world.beta, "").await.json()["data"], json!([]));
    assert_eq!(world.call("DELETE", &format!("/v1/webhooks/{one}"), &world.acme, "").await.status, 204);
    assert_eq!(listed(&world, "").await.len(), 3, "those of a deleted webhook are gone from the list");
}

#[tokio::test]
async fn a_dead_letter_is_tried_again_with_its_history() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &webhook, 1, DEAD).await;
    let path = format!("/v1/dead-letters/{event}.{webhook}");
    let got = world.call("POST", &format!("{path}/redrive"), &world.acme, "").await;
    assert_eq!((got.status.as_u16(), state(&world, &event).await.as_str()), (202, "pending"));
    assert!(listed(&world, "").await.is_empty());
    let got = world.call("POST", &format!("{path}/redrive"), &world.acme, "").await;
    assert_eq!(got.status, 404, "dead no longer");
    world.attempted(&event, &webhook, 2, DEAD).await;
    let again = listed(&world, "").await;
    assert_eq!((again.len(), &again[0]["attempts"]), (1, &json!(2)));
    assert_eq!(world.call("DELETE", &path, &world.acme, "").await.status, 204);
    assert_eq!(state(&world, &event).await, "cancelled");
    assert_eq!(world.call("DELETE", &path, &world.acme, "").await.status, 404);
}

#[tokio::test]
async fn an_event_is_sent_once_more_where_it_is_not_pending() {
    let world = World::new().await;
    let (one, two) = (world.webhook(&["a"]).await, world.webhook(&["a"]).await);
    let other = world.webhook(&["b"]).await;
    let event = world.publish("acme", "a").await;
    let path = format!("/v1/events/{event}/resend");
    let resend = async |body: &str| world.call("POST", &path, &world.acme, body.to_owned()).await;
    assert_eq!(resend("").await.told(), (409, "pending".to_owned()));
    world.attempted(&event, &one, 1, Verdict::Delivered).await;
    assert_eq!(resend(&json!({"webhook": two}).to_string()).await.told(), (409, "pending".to_owned()));
    let got = resend("{}").await;
    assert_eq!((got.status.as_u16(), got.json()), (202, json!({"event": event, "deliveries": 1})));
    assert_eq!(state(&world, &event).await, "pending");
    assert_eq!(resend(&json!({"webhook": other}).to_string()).await.status, 202, "unmatched, but named");
    let got = world.call("GET", &format!("/v1/events/{event}/explain"), &world.acme, "").await.json();
    let part = &got["deliveries"][2];
    assert_eq!((&part["matched"], &part["state"], &part["reason"]), (&json!(false), &json!("pending"), &json!("type")));
    for (body, status) in [(r#"{"webhook":"wbh_0"}"#, 404), (r#"{"webhook":5}"#, 422), ("[", 400)] {
        assert_eq!(resend(body).await.status, status, "{body}");
    }
    let lonely = world.publish("acme", "nobody.wants.it").await;
    let got = world.call("POST", &format!("/v1/events/{lonely}/resend"), &world.acme, "").await;
    assert_eq!((got.status.as_u16(), &got.json()["deliveries"]), (202, &json!(0)));
}
