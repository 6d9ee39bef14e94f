//! What is for whoever runs the daemon: figures, webhooks and attempts of all tenants, and what is asked of the process.

use super::*;
use crate::http::control::{Ask, Configured, Control, NotDone, Reloaded, Setting};
use crate::service::Asker;
use crate::store::op::Guard;

/// A process that reloads what it is asked to, and refuses one log level. It puts on record what it is to.
pub(super) fn answering(service: Arc<Service>) -> Control {
    let (control, mut asked) = Control::channel();
    tokio::spawn(async move {
        while let Some(ask) = asked.recv().await {
            match ask {
                Ask::Reload(guard, answer) => {
                    let reloaded = Reloaded { restart_needed: vec!["state_dir"] };
                    drop(answer.send(record(&service, guard).await.map(|()| reloaded)));
                }
                Ask::Log(level, _, answer) if level == "loud" => {
                    drop(answer.send(Err(NotDone::Refused("\"loud\" is not a level".to_owned()))));
                }
                Ask::Log(_, guard, answer) => {
                    drop(answer.send(record(&service, guard).await));
                }
                Ask::Config(answer) => {
                    let setting = |key: &str, after_restart: Option<&str>| Setting {
                        key: key.to_owned(),
                        value: "\"a\"".to_owned(),
                        origin: "webhookd.toml:3".to_owned(),
                        after_restart: after_restart.map(str::to_owned),
                    };
                    let settings = vec![setting("state_dir", Some("\"b\"")), setting("log.level", None)];
                    drop(answer.send(Configured { file: Some("webhookd.toml".to_owned()), settings }));
                }
            }
        }
    });
    control
}

async fn record(service: &Service, guard: Guard) -> Result<(), NotDone> {
    service.sign_off(&Asker::new(None, guard)).await.map_err(NotDone::Unrecorded)
}

async fn seen(world: &World, path: &str) -> Value {
    let got = world.socket("GET", path, "").await;
    assert_eq!(got.status, 200, "{path} {:?}", got.body);
    got.json()
}

#[tokio::test]
async fn figures_count_what_is_there() {
    let world = World::new().await;
    let before = seen(&world, "/admin/stats").await;
    assert_eq!(before["webhooks"], json!({"active": 0, "inactive": 0, "failing": 0}));
    assert_eq!((&before["deliveries"]["oldest_due_at"], &before["last_reload"]), (&Value::Null, &json!("ok")));
    let [one, two] = [world.webhook(&["a"]).await, world.webhook(&["a"]).await];
    let third = world.webhook(&["b"]).await;
    world.call("PATCH", &format!("/v1/webhooks/{third}"), &world.acme, r#"{"active":false}"#).await;
    let event = world.publish("acme", "a").await;
    let due = world.clock.now_ms() + 1_000;
    world.attempted(&event, &one, 1, Verdict::RetryAt(due)).await;
    world.attempted(&event, &two, 1, Verdict::Dead(crate::model::attempt::DeadReason::Exhausted)).await;
    world.clock.advance(Duration::from_secs(61));
    world.clock.step_wall_to(world.clock.wall_ms() + 7_000);
    let after = seen(&world, "/admin/stats").await;
    assert_eq!(after["webhooks"], json!({"active": 2, "inactive": 1, "failing": 2}));
    let due_at = crate::model::time::millis_z(due);
    let wanted = json!({"queued": 1, "in_flight": 0, "dead": 1, "oldest_due_at": due_at, "overdue_seconds": 60});
    assert_eq!(after["deliveries"], wanted);
    assert_eq!((&after["uptime_seconds"], &after["clock_moved_seconds"]), (&json!(61), &json!(7)));
    assert_eq!(
        (&after["tenants"], &after["events"]["accepted"]),
        (&json!(3), &json!(3)),
        "the operator and what it was told of are among them"
    );
    assert!(after["store"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(after["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn webhooks_of_all_tenants_by_state_and_page() {
    let world = World::new().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(world.webhook(&["a"]).await);
    }
    let body = json!({"url": URL, "events": ["*"], "secret": "a secret of beta's"}).to_string();
    let of_beta = world.call("POST", "/v1/webhooks", &world.beta, body).await.json()["id"].clone();
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &made[1], 1, Verdict::RetryAt(world.clock.now_ms() + 1_000)).await;
    world.call("PATCH", &format!("/v1/webhooks/{}", made[2]), &world.acme, r#"{"active":false}"#).await;
    let ids = |page: &Value| -> Vec<Value> {
        page["data"].as_array().unwrap().iter().map(|webhook| webhook["id"].clone()).collect()
    };
    let all = seen(&world, "/admin/webhooks").await;
    assert_eq!(ids(&all), [json!(made[0]), json!(made[1]), json!(made[2]), of_beta.clone()]);
    assert!(!all.to_string().contains("a secret of beta's"));
    assert_eq!(ids(&seen(&world, "/admin/webhooks?tenant=beta").await), std::slice::from_ref(&of_beta));
    assert_eq!(ids(&seen(&world, "/admin/webhooks?state=inactive").await), [json!(made[2])]);
    let failing = seen(&world, "/admin/webhooks?state=failing").await;
    assert_eq!(ids(&failing), [json!(made[1])]);
    let told = &failing["data"][0];
    assert_eq!((&told["tenant"], &told["failures"], &told["queued"]), (&json!("acme"), &json!(1), &json!(1)));
    let first = seen(&world, "/admin/webhooks?state=active&limit=2").await;
    let cursor = first["pagination"]["next_cursor"].as_str().unwrap().to_owned();
    let second = seen(&world, &format!("/admin/webhooks?limit=2&cursor={cursor}")).await;
    assert_eq!((ids(&first), ids(&second)), (vec![json!(made[0]), json!(made[1])], vec![of_beta]));
    assert_eq!(second["pagination"]["next_cursor"], Value::Null);
    for (query, code) in
        [("state=x", "invalid_field"), ("tenant=nobody", "unknown_tenant"), ("cursor=x", "invalid_field")]
    {
        assert_eq!(world.socket("GET", &format!("/admin/webhooks?{query}"), "").await.told(), (422, code.to_owned()));
    }
}

#[tokio::test]
async fn attempts_are_followed_from_where_one_left_off() {
    let world = World::new().await;
    let [one, two] = [world.webhook(&["a"]).await, world.webhook(&["a"]).await];
    let event = world.publish("acme", "a").await;
    world.attempted(&event, &one, 1, Verdict::RetryAt(world.clock.now_ms() + 1_000)).await;
    let start = seen(&world, "/admin/attempts").await;
    assert_eq!(start["data"], json!([]), "what was before is not shown");
    let cursor = |page: &Value| page["pagination"]["next_cursor"].as_str().unwrap().to_owned();
    world.attempted(&event, &one, 2, Verdict::Delivered).await;
    world.attempted(&event, &two, 1, Verdict::RetryAt(world.clock.now_ms() + 1_000)).await;
    let follow = |query: String| {
        let path = format!("/admin/attempts?cursor={}{query}", cursor(&start));
        let world = &world;
        async move { seen(world, &path).await }
    };
    let numbers = |page: &Value| -> Vec<(Value, Value)> {
        let all = page["data"].as_array().unwrap().iter();
        all.map(|attempt| (attempt["webhook"].clone(), attempt["attempt"].clone())).collect()
    };
    let (first, second) = ((json!(one), json!(2)), (json!(two), json!(1)));
    let both = follow(String::new()).await;
    assert_eq!(numbers(&both), [first.clone(), second.clone()]);
    let shown = &both["data"][0];
    assert_eq!(
        (&shown["tenant"], &shown["type"], &shown["outcome"]),
        (&json!("acme"), &json!("a"), &json!("delivered"))
    );
    assert_eq!(numbers(&follow("&outcome=failed".to_owned()).await), std::slice::from_ref(&second));
    assert_eq!(numbers(&follow(format!("&webhook={one}")).await), std::slice::from_ref(&first));
    assert_eq!(numbers(&follow("&tenant=beta".to_owned()).await), []);
    let page = follow("&limit=1".to_owned()).await;
    let rest = seen(&world, &format!("/admin/attempts?cursor={}", cursor(&page))).await;
    assert_eq!((numbers(&page), numbers(&rest)), (vec![first], vec![second]));
    let end = seen(&world, &format!("/admin/attempts?cursor={}", cursor(&rest))).await;
    assert_eq!(end["data"], json!([]));
    for query in ["outcome=delivered", "webhook=x", "cursor=x"] {
        assert_eq!(world.socket("GET", &format!("/admin/attempts?{query}"), "").await.status, 422, "{query}");
    }
}

#[tokio::test]
async fn the_process_answers_for_itself() {
    let world = World::new().await;
    let reloaded = world.socket("POST", "/admin/reload", "").await;
    let wanted = json!({"reloaded": true, "restart_needed": ["state_dir"]});
    assert_eq!((reloaded.status.as_u16(), reloaded.json()), (200, wanted));
    let config = seen(&world, "/admin/config").await;
    assert_eq!(config["file"], "webhookd.toml");
    let setting = json!({"key": "state_dir", "value": "\"a\"", "origin": "webhookd.toml:3", "after_restart": "\"b\""});
    assert_eq!((&config["data"][0], &config["data"][1]["after_restart"]), (&setting, &Value::Null));
    let before = world.audit("?action=log.*").await.len();
    let set = world.socket("PUT", "/admin/log", r#"{"level":"debug"}"#).await;
    assert_eq!(world.audit("?action=log.*").await.len(), before + 1);
    assert_eq!((set.status.as_u16(), set.json()), (200, json!({"level": "debug"})));
    for (body, names) in [(r#"{"level":"loud"}"#, "loud"), ("{}", "level"), (r#"{"levle":"x"}"#, "levle")] {
        let refused = world.socket("PUT", "/admin/log", body).await;
        assert_eq!(refused.status, 422, "{body}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(names), "{body}: {:?}", refused.body);
    }
    assert_eq!(world.audit("?action=log.*").await.len(), before + 1, "what was refused is not on record");
}

#[tokio::test]
async fn a_change_of_the_process_is_on_record_also_when_its_client_has_gone() {
    let world = World::new().await;
    let before = world.audit("?action=config.*").await.len();
    {
        let mut asking = Box::pin(world.socket("POST", "/admin/reload", ""));
        // Until it has asked; then the client goes away.
        let pending =
            std::future::poll_fn(|context| std::task::Poll::Ready(asking.as_mut().poll(context).is_pending()));
        assert!(pending.await);
    }
    let mut after = before;
    for _ in 0..1_000 {
        after = world.audit("?action=config.*").await.len();
        if after > before {
            break;
        }
    }
    assert_eq!(after, before + 1);
}
