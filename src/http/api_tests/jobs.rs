//! Jobs: redrive and purge by filter, recover, how they go, and that they end.

use super::*;
use crate::limits::{JOB_STEP_MAX, JOBS_KEPT_MS, JOBS_RUNNING_MAX};
use crate::model::attempt::DeadReason;

const DEAD: Verdict = Verdict::Dead(DeadReason::Exhausted);
const REDRIVE: &str = "/v1/dead-letters/redrive";
const PURGE: &str = "/v1/dead-letters/purge";

impl World {
    /// A dead letter of acme's; gives its event.
    async fn letter(&self, webhook: &str, kind: &str) -> String {
        let event = self.publish("acme", kind).await;
        self.attempted(&event, webhook, 1, DEAD).await;
        event
    }

    async fn count(&self, path: &str, mut body: Value) -> u64 {
        body["dry_run"] = json!(true);
        let got = self.call("POST", path, &self.acme, body.to_string()).await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        got.json()["count"].as_u64().unwrap()
    }

    /// Starts a job; gives it as it was answered.
    async fn start(&self, path: &str, body: &Value) -> Value {
        let got = self.call("POST", path, &self.acme, body.to_string()).await;
        assert_eq!(got.status, 202, "{path} {body}: {:?}", got.body);
        got.json()["job"].clone()
    }

    async fn job(&self, id: &Value) -> Value {
        let got = self.call("GET", &format!("/v1/jobs/{}", id.as_str().unwrap()), &self.acme, "").await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        got.json()["job"].clone()
    }

    /// A job from its beginning to its end: how many it was about and what it came to.
    async fn through(&self, path: &str, body: Value) -> [u64; 3] {
        let counted = self.count(path, body.clone()).await;
        let job = self.start(path, &body).await;
        assert_eq!(job["total"], counted);
        self.work().await;
        let job = self.job(&job["id"]).await;
        assert_eq!((&job["state"], &job["failed"]), (&json!("done"), &json!(0)));
        ["total", "done", "skipped"].map(|name| job[name].as_u64().unwrap())
    }

    async fn dead(&self) -> usize {
        self.call("GET", "/v1/dead-letters", &self.acme, "").await.json()["data"].as_array().unwrap().len()
    }

    /// The state of an event's delivery to acme's first webhook.
    async fn state(&self, event: &str) -> String {
        let got = self.call("GET", &format!("/v1/events/{event}/explain"), &self.acme, "").await.json();
        got["deliveries"][0]["state"].as_str().unwrap_or("none").to_owned()
    }

    async fn set_active(&self, webhook: &str, active: bool) {
        let body = json!({"active": active}).to_string();
        assert_eq!(self.call("PATCH", &format!("/v1/webhooks/{webhook}"), &self.acme, body).await.status, 200);
    }
}

#[tokio::test]
async fn dead_letters_are_redriven_by_filter() {
    let world = World::new().await;
    let (one, two) = (world.webhook(&["a", "b"]).await, world.webhook(&["c"]).await);
    let mut times = Vec::new();
    for (webhook, kind) in [(&one, "a"), (&one, "b"), (&two, "c"), (&one, "a")] {
        world.letter(webhook, kind).await;
        times.push(crate::model::time::millis_z(world.clock.wall_ms() + 12));
        world.clock.advance(Duration::from_secs(60));
    }
    for (filter, count) in [
        (json!({}), 4),
        (json!({"webhook": one}), 3),
        (json!({"type": "a"}), 2),
        (json!({"webhook": two, "type": "a"}), 0),
        (json!({"since": times[1]}), 3),
        (json!({"until": times[1]}), 2),
        (json!({"since": times[1], "until": times[2]}), 2),
        (json!({"webhook": one, "since": times[1], "until": times[2]}), 1),
        (json!({"type": "a", "until": times[2]}), 1),
    ] {
        assert_eq!(world.count(REDRIVE, filter.clone()).await, count, "{filter}");
        assert_eq!(world.count(PURGE, if count == 4 { json!({"all": true}) } else { filter }).await, count);
    }
    assert_eq!(world.through(REDRIVE, json!({"type": "a", "webhook": one})).await, [2, 2, 0]);
    assert_eq!(world.dead().await, 2);
    assert_eq!(world.through(PURGE, json!({"webhook": one})).await, [1, 1, 0]);
    assert_eq!(world.through(REDRIVE, json!({})).await, [1, 1, 0]);
    assert_eq!((world.dead().await, world.through(REDRIVE, json!({})).await), (0, [0, 0, 0]));
}

#[tokio::test]
async fn a_job_shows_how_far_it_is_and_leaves_what_it_did_when_cancelled() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let count = JOB_STEP_MAX + 6;
    for _ in 0..count {
        world.letter(&webhook, "a").await;
    }
    let job = world.start(REDRIVE, &json!({"webhook": webhook})).await;
    let shown = |state: &str, done: usize| {
        let (state, done) = (json!(state), json!(done));
        move |job: &Value| assert_eq!((&job["state"], &job["done"]), (&state, &done), "{job}")
    };
    shown("running", 0)(&job);
    assert_eq!((&job["kind"], &job["total"], &job["webhook"]), (&json!("redrive"), &json!(count), &json!(webhook)));
    assert!(world.service.step_jobs().await.is_some());
    shown("running", JOB_STEP_MAX)(&world.job(&job["id"]).await);
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    for _ in 0..2 {
        let got = world.call("DELETE", &path, &world.acme, "").await;
        assert_eq!(got.status, 200);
        shown("cancelled", JOB_STEP_MAX)(&got.json()["job"]);
    }
    assert!(world.service.step_jobs().await.is_none(), "nothing runs any more");
    shown("cancelled", JOB_STEP_MAX)(&world.job(&job["id"]).await);
    assert_eq!(world.dead().await, 6);
    // What died again since a job began is not that job's.
    let job = world.start(REDRIVE, &json!({})).await;
    world.letter(&webhook, "a").await;
    world.work().await;
    shown("done", 6)(&world.job(&job["id"]).await);
    assert_eq!(world.dead().await, 1);
    // And what somebody else redrove first is skipped.
    let job = world.start(REDRIVE, &json!({})).await;
    let letter = world.call("GET", "/v1/dead-letters", &world.acme, "").await.json()["data"][0]["id"].clone();
    let one = format!("/v1/dead-letters/{}/redrive", letter.as_str().unwrap());
    assert_eq!(world.call("POST", &one, &world.acme, "").await.status, 202);
    world.work().await;
    let job = world.job(&job["id"]).await;
    assert_eq!((&job["state"], &job["done"], &job["total"]), (&json!("done"), &json!(0), &json!(1)), "{job}");
}

#[tokio::test]
async fn what_a_webhook_has_missed_is_recovered() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let recover = format!("/v1/webhooks/{webhook}/recover");
    let delivered = world.publish("acme", "a").await;
    world.attempted(&delivered, &webhook, 1, Verdict::Delivered).await;
    let failed = world.letter(&webhook, "a").await;
    let purged = world.letter(&webhook, "a").await;
    assert_eq!(
        world.call("DELETE", &format!("/v1/dead-letters/{purged}.{webhook}"), &world.acme, "").await.status,
        204
    );
    world.clock.advance(Duration::from_secs(60));
    let since = crate::model::time::millis_z(world.clock.now_ms());
    world.set_active(&webhook, false).await;
    let missing = world.publish("acme", "a").await;
    world.publish("acme", "b").await;
    world.publish("beta", "a").await;
    // A test is nobody's but the webhook's that it was asked for.
    let other = world.webhook(&["z"]).await;
    let body = json!({"type": "a"}).to_string();
    assert_eq!(world.call("POST", &format!("/v1/webhooks/{other}/test"), &world.acme, body).await.status, 200);
    let pending = {
        world.set_active(&webhook, true).await;
        let pending = world.publish("acme", "a").await;
        world.set_active(&webhook, false).await;
        pending
    };
    for (body, count) in [
        (json!({}), 2),
        (json!({"only": "failed"}), 1),
        (json!({"only": "missing"}), 1),
        (json!({"only": "all"}), 3),
        (json!({"only": "all", "since": since}), 1),
        // What was published at the bound itself is within it.
        (json!({"only": "all", "until": since}), 3),
        (json!({"only": "failed", "since": since}), 0),
    ] {
        assert_eq!(world.count(&recover, body.clone()).await, count, "{body}");
    }
    // Made active again, with all that has not arrived: one step.
    assert_eq!(world.through(&recover, json!({"activate": true})).await, [2, 2, 0]);
    let got = world.call("GET", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await.json();
    assert_eq!(got["state"], "active");
    let states = [(&delivered, "delivered"), (&failed, "pending"), (&missing, "pending"), (&pending, "pending")];
    for (event, state) in states {
        assert_eq!(world.state(event).await, state);
    }
    assert_eq!(world.state(&purged).await, "cancelled", "what was thrown away stays so");
    assert_eq!(world.through(&recover, json!({})).await, [0, 0, 0], "once");
    assert_eq!(world.through(&recover, json!({"only": "all"})).await, [1, 1, 0]);
    assert_eq!(world.state(&delivered).await, "pending", "once more");
}

#[tokio::test]
async fn the_operator_asks_for_all_tenants_at_once() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    world.letter(&webhook, "a").await;
    let body = json!({"url": URL, "events": ["a"]}).to_string();
    let theirs = world.call("POST", "/v1/webhooks", &world.beta, body).await.json()["id"].as_str().unwrap().to_owned();
    let event = world.publish("beta", "a").await;
    world.attempted(&event, &theirs, 1, DEAD).await;
    for (body, count) in
        [(json!({}), 2), (json!({"tenant": "beta"}), 1), (json!({"webhook": theirs}), 1), (json!({"type": "b"}), 0)]
    {
        let mut body = body;
        body["dry_run"] = json!(true);
        let got = world.socket("POST", "/admin/dead-letters/redrive", &body.to_string()).await;
        assert_eq!((got.status.as_u16(), &got.json()["count"]), (200, &json!(count)), "{body}");
    }
    let got = world.socket("POST", "/admin/dead-letters/redrive", "").await;
    let (status, job) = (got.status.as_u16(), got.json()["job"].clone());
    assert_eq!((status, &job["total"], &job["tenant"]), (202, &json!(2), &json!("*")));
    world.work().await;
    let path = format!("/admin/jobs/{}", job["id"].as_str().unwrap());
    assert_eq!(world.socket("GET", &path, "").await.json()["job"]["done"], 2);
    let path = path.replace("/admin", "/v1");
    assert_eq!(world.call("GET", &path, &world.acme, "").await.status, 404, "it is the operator's");
    world.clock.advance(Duration::from_millis(1));
    let got = world.socket("POST", &format!("/admin/webhooks/{theirs}/recover"), r#"{"only":"missing"}"#).await;
    assert_eq!((got.status.as_u16(), &got.json()["job"]["tenant"]), (202, &json!("beta")));
    let ids =
        |got: &Got| got.json()["data"].as_array().unwrap().iter().map(|job| job["tenant"].clone()).collect::<Vec<_>>();
    let listed = world.socket("GET", "/admin/jobs?state=done", "").await;
    assert_eq!(ids(&listed), [json!("beta"), json!("*")]);
    let listed = world.call("GET", "/v1/jobs", &world.beta, "").await.json();
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["data"][0]["tenant"]), (1, &Value::Null));
    assert_eq!(world.call("GET", "/v1/jobs", &world.acme, "").await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_misspelt_filter_is_no_filter_for_everything() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let recover = format!("/v1/webhooks/{webhook}/recover");
    for (path, body, status, says) in [
        (REDRIVE, r#"{"webook":"x"}"#, 422, "webook"),
        (REDRIVE, r#"{"webhook":"x"}"#, 404, "not found"),
        (REDRIVE, r#"{"tenant":"beta"}"#, 422, "tenant"),
        (REDRIVE, r#"{"type":"a b"}"#, 422, "type"),
        (REDRIVE, r#"{"dry_run":"yes"}"#, 422, "dry_run"),
        (REDRIVE, r#"{"since":"yesterday"}"#, 422, "since"),
        (PURGE, "{}", 422, "all"),
        (PURGE, "", 422, "all"),
        (&recover, r#"{"only":"some"}"#, 422, "only"),
        (&recover, r#"{"activate":1}"#, 422, "activate"),
        (&recover, r#"{"type":"a"}"#, 422, "type"),
        (&recover, "[", 400, "JSON"),
    ] {
        let got = world.call("POST", path, &world.acme, body.to_owned()).await;
        assert_eq!(got.status, status, "{path} {body}");
        let message = got.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{path} {body}: {message}");
    }
    let got = world.call("GET", "/v1/jobs?state=x", &world.acme, "").await;
    assert_eq!(got.told(), (422, "invalid_field".to_owned()));
}

#[tokio::test]
async fn few_jobs_run_at_once_and_old_ones_are_forgotten() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    world.letter(&webhook, "a").await;
    for _ in 0..JOBS_RUNNING_MAX {
        world.start(REDRIVE, &json!({})).await;
    }
    let got = world.call("POST", REDRIVE, &world.acme, "").await;
    assert_eq!(got.told(), (409, "too_many_jobs".to_owned()));
    let listed = async |query: &str| {
        let got = world.call("GET", &format!("/v1/jobs{query}"), &world.acme, "").await.json();
        (got["data"].as_array().unwrap().len(), got["pagination"]["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!((listed("?state=running").await.0, listed("?state=done").await.0), (JOBS_RUNNING_MAX, 0));
    world.work().await;
    let (count, cursor) = listed("?limit=3").await;
    assert_eq!((count, listed(&format!("?limit=3&cursor={}", cursor.unwrap())).await.0), (3, JOBS_RUNNING_MAX - 3));
    world.clock.advance(Duration::from_millis(JOBS_KEPT_MS + 1));
    assert_eq!(listed("").await.0, 0);
    world.start(REDRIVE, &json!({})).await;
    assert_eq!(listed("").await.0, 1, "the old ones are gone");
    let mut rows = 0;
    let view = world.store.shared().view().unwrap();
    view.scan_jobs(JobId([u8::MAX; 16]), |_| {
        rows += 1;
        true
    })
    .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_job_whose_webhook_is_deleted_fails_and_says_so() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    world.letter(&webhook, "a").await;
    let job = world.start(REDRIVE, &json!({"webhook": webhook})).await;
    assert_eq!(world.call("DELETE", &format!("/v1/webhooks/{webhook}"), &world.acme, "").await.status, 204);
    world.work().await;
    let job = world.job(&job["id"]).await;
    let told = (&job["state"], &job["reason"], &job["done"]);
    assert_eq!(told, (&json!("failed"), &json!("webhook_deleted"), &json!(0)));
}

#[tokio::test]
async fn a_tenant_keeps_half_of_its_room_for_what_is_published() {
    let world = World::with(Settings { pending_per_tenant: Some(8), ..Settings::default() }).await;
    let webhook = world.webhook(&["a"]).await;
    let mut letters = Vec::new();
    for _ in 0..10 {
        letters.push(world.letter(&webhook, "a").await);
    }
    let job = world.start(REDRIVE, &json!({"webhook": webhook})).await;
    world.service.step_jobs().await;
    assert_eq!(world.job(&job["id"]).await["done"], 4, "as many as fit");
    world.service.step_jobs().await;
    assert_eq!(world.job(&job["id"]).await["done"], 4, "it waits");
    for event in &letters[..4] {
        world.attempted(event, &webhook, 2, Verdict::Delivered).await;
    }
    world.service.step_jobs().await;
    assert_eq!(world.job(&job["id"]).await["done"], 8);
}
