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
