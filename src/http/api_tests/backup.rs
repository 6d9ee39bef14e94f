//! `POST /admin/backup`: one at a time, on record with its end, and known by who looks at figures.

use http_body_util::BodyExt as _;

use super::*;
use crate::store::backup::check;

/// The answer to a request for a backup, its body not read yet.
async fn asked(world: &World) -> http::Response<ReplyBody> {
    let request = Request::builder().method("POST").uri("/admin/backup").header("host", "d");
    let peer = Peer { addr: None, tls: false, unix: true };
    world.api.handle(None, Surface::Admin, peer, request.body(Full::<Bytes>::default()).unwrap()).await
}

async fn last(world: &World) -> (Value, String) {
    let stats = world.socket("GET", "/admin/stats", "").await.json();
    let figures = String::from_utf8(world.socket("GET", "/metrics", "").await.body.to_vec()).unwrap();
    let line = figures.lines().find_map(|line| line.strip_prefix("webhookd_backup_last_success_timestamp_seconds "));
    (stats["store"]["last_backup_at"].clone(), line.unwrap().to_owned())
}

#[tokio::test]
async fn a_backup_that_was_handed_over_is_on_record_and_among_the_figures() {
    let world = World::new().await;
    world.publish("acme", "a").await;
    assert_eq!(last(&world).await, (Value::Null, "0.0".to_owned()));
    let got = world.socket("POST", "/admin/backup", "").await;
    assert_eq!((got.status.as_u16(), got.header("content-type")), (200, Some("application/octet-stream")));
    let summary = check(&mut &got.body[..], &mut |_| ()).unwrap();
    assert_eq!((summary.head.next_event, summary.head.made_ms, summary.rows["tenants"]), (2, START, 3));
    assert_eq!(last(&world).await, (json!("2023-11-14T22:13:20.000Z"), "1700000000.0".to_owned()));
    let told = &world.audit("?action=backup.*").await;
    assert_eq!((told.len(), &told[0]["outcome"]), (1, &json!("ok")));
}

#[tokio::test]
async fn one_at_a_time_and_one_that_is_cut_off_is_none() {
    let world = World::new().await;
    for _ in 0..40 {
        let body = json!({"type": "a", "tenant": "acme", "data": {"text": "x".repeat(100_000)}}).to_string();
        assert_eq!(world.call("POST", "/v1/events", &world.publisher, body).await.status, 201);
    }
    let ReplyBody::Stream(mut body) = asked(&world).await.into_body() else { panic!("no stream") };
    assert!(body.frame().await.unwrap().unwrap().data_ref().unwrap().starts_with(b"webhookd-backup"));
    assert!(world.store.shared().hold().is_held());
    let second = world.socket("POST", "/admin/backup", "").await;
    assert_eq!(second.told(), (409, "backup_running".to_owned()));
    drop(body);
    // Its end is noticed by whoever hands it over.
    let over = async {
        while world.store.shared().hold().is_held() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over).await.unwrap();
    assert_eq!(last(&world).await.0, Value::Null);
    let told = world.audit("?action=backup.*").await;
    assert_eq!(told.iter().map(|record| record["outcome"].as_str().unwrap()).collect::<Vec<_>>(), ["cut_off"]);
    assert_eq!(world.socket("POST", "/admin/backup", "").await.status, 200);
}

#[tokio::test]
async fn a_signed_request_for_a_backup_is_used_up_with_it() {
    let world = World::new().await;
    let admin = world.holder(json!({"role": "admin"})).await;
    assert_eq!(world.signed(&admin, "POST", "/admin/backup", "").await.status, 200);
    assert_eq!(world.signed(&admin, "POST", "/admin/backup", "").await.status, 401);
}
