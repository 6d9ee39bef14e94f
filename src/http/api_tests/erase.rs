//! Deleting a tenant: what goes at once, what its job leaves, and what comes late.

use super::*;
use crate::model::attempt::DeadReason;

const TENANT: &str = "/admin/tenants/acme";

impl World {
    async fn delete(&self, path: &str) -> Got {
        self.socket("DELETE", path, "").await
    }
}

#[tokio::test]
async fn a_tenant_is_gone_with_the_answer_and_erased_by_its_job() {
    let world = World::new().await;
    let webhook = world.webhook(&["*"]).await;
    let [dead, waiting, late] =
        [world.publish("acme", "a").await, world.publish("acme", "b").await, world.publish("acme", "c").await];
    world.attempted(&dead, &webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    world.attempted(&waiting, &webhook, 1, Verdict::RetryAt(world.clock.now_ms() + 60_000)).await;
    let (late, no) = world.names(&late, &webhook);
    let foreign = world.publish("beta", "a").await;
    let before = world.call("GET", &format!("/v1/events/{foreign}"), &world.beta, "").await.body;
    assert_eq!(world.delete("/admin/tenants/operator").await.status, 422);
    assert_eq!(world.delete("/admin/tenants/Nope").await.status, 422);
    assert_eq!(world.delete("/admin/tenants/nobody").await.status, 204);

    let got = world.delete(TENANT).await;
    assert_eq!(got.status, 202, "{:?}", got.body);
    let job = got.json()["job"].clone();
    let path = format!("/admin/jobs/{}", job["id"].as_str().unwrap());
    assert_eq!((&job["kind"], &job["tenant"], &job["state"]), (&json!("erase"), &json!("acme"), &json!("running")));
    assert_eq!(world.delete(TENANT).await.json()["job"]["id"], job["id"], "asked for again: the same job");
    let refused = world.delete(&path).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (409, &json!("not_cancellable")));
    assert_eq!(world.call("GET", "/v1/events", &world.acme, "").await.status, 401);
    assert_eq!(world.socket("GET", TENANT, "").await.status, 404);

    // An attempt that was under way ends now: its answer is kept nowhere.
    let outcome = Outcome {
        attempt: attempt(&late, no, 1, world.clock.wall_ms()),
        row: None,
        order: None,
        budget_from: 0,
        since_ms: world.clock.now_ms(),
        deactivate: None,
        test: false,
    };
    world.store.submit(Op::Outcome(Box::new(outcome)), None).await.unwrap();
    // While a backup is made nothing is erased.
    let held = world.store.shared().hold().take().unwrap();
    world.service.step_jobs().await;
    let look = async || world.socket("GET", &path, "").await.json()["job"].clone();
    assert_eq!((&look().await["state"], &look().await["done"]), (&json!("running"), &json!(0)));
    drop(held);
    world.work().await;
    let ended = look().await;
    assert_eq!((&ended["state"], &ended["failed"], &ended["done"]), (&json!("done"), &json!(0), &ended["total"]));
    {
        let shared = world.store.shared();
        let view = shared.view().unwrap();
        let mut attempts = 0;
        view.scan_attempts(1, |_, attempt| {
            attempts += 1;
            assert!(attempt.is_none_or(|attempt| attempt.webhook != no || attempt.is_erased()));
            true
        })
        .unwrap();
        assert!(attempts >= 3, "{attempts}");
        view.scan_events(1, |event| {
            assert!(event.tenant != late.tenant || event.is_erased(), "{event:?}");
            true
        })
        .unwrap();
        assert!(view.webhook_newest(no).unwrap().is_none() && view.death_of(no, 1).unwrap().is_none());
    }
    assert_eq!(world.delete(TENANT).await.status, 204);
    assert_eq!(world.call("GET", &format!("/v1/events/{foreign}"), &world.beta, "").await.body, before);
    let audit = world.socket("GET", "/admin/audit?tenant=acme", "").await.json();
    let of = |action: &str| audit["data"].as_array().unwrap().iter().filter(|of| of["action"] == action).count();
    assert!(of("tenant.delete") >= 2 && of("webhook.create") == 1, "{audit}");
}

#[tokio::test]
async fn the_erasure_of_a_tenant_is_listed_by_its_name() {
    let world = World::new().await;
    let path = "/admin/jobs?tenant=acme";
    assert_eq!(world.socket("GET", path, "").await.json()["data"], json!([]));
    let job = world.delete(TENANT).await.json()["job"]["id"].clone();
    let listed = async |path: &str| {
        let got = world.socket("GET", path, "").await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        got.json()["data"].as_array().unwrap().iter().map(|job| job["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed(path).await, std::slice::from_ref(&job));
    world.work().await;
    assert_eq!(listed("/admin/jobs?tenant=acme&state=done").await, std::slice::from_ref(&job));
    assert_eq!(listed("/admin/jobs?tenant=acme&state=running").await, [Value::Null; 0]);
    assert_eq!(listed("/admin/jobs?tenant=beta").await, [Value::Null; 0], "nobody else's");
    world.clock.advance(Duration::from_millis(1));
    // Whoever gets the name next is listed with it, page by page.
    world.socket("PUT", TENANT, "").await;
    let newer = world.socket("POST", "/admin/dead-letters/redrive", r#"{"tenant":"acme"}"#).await;
    let newer = newer.json()["job"]["id"].clone();
    assert_eq!(listed(path).await, [newer.clone(), job.clone()]);
    let first = world.socket("GET", "/admin/jobs?tenant=acme&limit=1", "").await.json();
    assert_eq!(first["data"][0]["id"], newer);
    let next = format!("/admin/jobs?cursor={}", first["pagination"]["next_cursor"].as_str().unwrap());
    assert_eq!(listed(&next).await, [job]);
    for unknown in ["nobody", "No%20Body"] {
        let got = world.socket("GET", &format!("/admin/jobs?tenant={unknown}"), "").await;
        assert_eq!((got.status.as_u16(), &got.json()["code"]), (422, &json!("unknown_tenant")));
    }
}
