//! One good request for every route that changes something, in an order in which all of them work: what is to hold for
//! every change is tried on all.

use super::*;
use crate::http::route::{Access, ROUTES, Route};
use crate::model::attempt::DeadReason;
use crate::model::id::WebhookId;

/// A change that can be asked for.
pub(super) struct Change {
    pub(super) method: &'static str,
    /// The route's path.
    pub(super) route: &'static str,
    pub(super) path: String,
    pub(super) body: String,
    pub(super) status: u16,
    /// What it is called in the audit log; publishing is not on record.
    pub(super) action: Option<&'static str>,
    /// The tenant and the target it has there; `None`: one that is made by it.
    pub(super) about: (Option<&'static str>, Option<String>),
}

impl Change {
    /// Whose key it takes.
    pub(super) fn access(&self) -> Access {
        self.of_table().access
    }

    fn of_table(&self) -> &'static Route {
        ROUTES.iter().find(|route| route.method == self.method && route.path == self.route).unwrap()
    }
}

/// What the changes are made of.
struct Made {
    /// Two of acme's webhooks, and one to be deleted through each dialect.
    webhooks: Vec<String>,
    /// A webhook with a stream.
    stream: String,
    event: String,
    key: String,
    /// Jobs of acme's and of the operator's.
    jobs: [String; 2],
}

/// A world in which all of them can be asked for.
pub(super) async fn changing_world() -> World {
    let catalogue = catalogue(&[("account.deposit_received", Some("ACCOUNT_ACTIVITY"))]);
    World::with(Settings { catalogue, ..Settings::default() }).await
}

/// A world's changes; every route of the table that changes something is among them.
pub(super) async fn all_changes(world: &World) -> Vec<Change> {
    let mut webhooks = Vec::new();
    for _ in 0..6 {
        webhooks.push(world.webhook(&["a"]).await);
    }
    let event = world.publish("acme", "a").await;
    for webhook in &webhooks[..2] {
        world.attempted(&event, webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
    }
    let key = world.holder(json!({"role": "publisher"})).await.id;
    let job = async |path: &str, token: &str| {
        let headers = [("authorization", format!("Bearer {token}"))];
        let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let got = world.with_headers("POST", path, r#"{"type":"nobody.s"}"#, headers).await;
        got.json()["job"]["id"].as_str().unwrap().to_owned()
    };
    let jobs =
        [job("/v1/dead-letters/redrive", &world.acme).await, job("/admin/dead-letters/redrive", &world.admin).await];
    let stream = super::streams::stream(world, &world.acme, &json!({})).await.0;
    let made = Made { webhooks, stream, event, key, jobs };
    let changes: Vec<Change> = of_webhooks(&made).into_iter().chain(of_the_rest(&made)).chain(of_jobs(&made)).collect();
    for route in ROUTES.iter().filter(|route| route.method != http::Method::GET) {
        let here = |change: &&Change| change.method == route.method && change.route == route.path;
        assert_eq!(changes.iter().filter(here).count(), 1, "{} {}: one good request for it", route.method, route.path);
    }
    changes
}

fn of_webhooks(made: &Made) -> Vec<Change> {
    let [one, two, three, four, five, six] = [0, 1, 2, 3, 4, 5].map(|n| made.webhooks[n].clone());
    let omnia = |id: &str| WebhookId::parse(id).unwrap().dashed();
    let vibe = |id: &str| id.replace("wbh_", "webhook_");
    let change = |method, route: &'static str, id: &str, body: Value, status, action| Change {
        method,
        route,
        path: route.replace("{id}", id),
        body: if body.is_null() { String::new() } else { body.to_string() },
        status,
        action: Some(action),
        about: (Some("acme"), Some(id.replace("webhook_", "wbh_")).filter(|id| !id.is_empty())),
    };
    let new = json!({"url": URL, "events": ["b"]});
    let lemon = "/v1/webhooks/{id}";
    let channel = json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": {"url": URL}});
    let gone = |route, id: &str| {
        let mut gone = change("DELETE", route, &omnia(id), Value::Null, 204, "webhook.delete");
        gone.about.1 = Some(id.to_owned());
        gone
    };
    let mut test = change("POST", "/api/v1/webhooks/test", "", json!({"webhookId": vibe(&one)}), 200, "webhook.test");
    test.about.1 = Some(one.clone());
    vec![
        change("POST", "/v1/webhooks", "", new.clone(), 201, "webhook.create"),
        change("PATCH", lemon, &one, json!({"description": "d"}), 200, "webhook.change"),
        change("POST", "/v1/webhooks/{id}/rotate-secret", &one, Value::Null, 200, "webhook.rotate_secret"),
        change("POST", "/v1/webhooks/{id}/test", &one, Value::Null, 200, "webhook.test"),
        change("POST", "/v1/webhooks/{id}/pause", &one, Value::Null, 200, "webhook.pause"),
        change("POST", "/v1/webhooks/{id}/resume", &one, Value::Null, 200, "webhook.resume"),
        change("DELETE", lemon, &three, Value::Null, 204, "webhook.delete"),
        change("POST", "/api/v1/webhooks", "", new, 201, "webhook.create"),
        test,
        change("PUT", "/api/v1/webhooks/{id}", &vibe(&two), json!({"active": true}), 200, "webhook.change"),
        change("DELETE", "/api/v1/webhooks/{id}", &vibe(&four), Value::Null, 204, "webhook.delete"),
        change("POST", "/v3/webhooks", "", channel.clone(), 201, "webhook.create"),
        change("POST", "/api/v3/webhooks", "", channel, 201, "webhook.create"),
        gone("/v3/webhooks/{id}", &five),
        gone("/api/v3/webhooks/{id}", &six),
        change("POST", "/api/webhook/register", "", json!({"webhook_url": URL}), 200, "webhook.register"),
    ]
}

fn of_the_rest(made: &Made) -> Vec<Change> {
    let [one, two] = [0, 1].map(|n| format!("{}.{}", made.event, made.webhooks[n]));
    let acme = |target: &str| (Some("acme"), Some(target.to_owned()));
    let change = |method, route: &'static str, id: &str, body: &str, status, action, about| Change {
        method,
        route,
        path: route.replace("{id}", id),
        body: body.to_owned(),
        status,
        action,
        about,
    };
    let event = r#"{"type":"x","tenant":"beta"}"#;
    let resend = format!(r#"{{"webhook":"{}"}}"#, made.webhooks[1]);
    let (drop, redrive, put) = (Some("dead_letter.drop"), Some("dead_letter.redrive"), Some("tenant.put"));
    let answer = r#"{"delivery":"none","status":200}"#;
    let stream = format!(r#"{{"stream":"{}"}}"#, made.stream);
    vec![
        change("POST", "/v1/streams", "", &stream, 200, Some("stream.open"), acme(&made.stream)),
        change("POST", "/v1/streams/{id}/answers", &made.stream, answer, 200, None, acme(&made.stream)),
        change("POST", "/v1/events", "", event, 201, None, (None, None)),
        change("POST", "/v1/events/batch", "", &format!(r#"{{"events":[{event}]}}"#), 201, None, (None, None)),
        change("POST", "/v1/dead-letters/{id}/redrive", &one, "", 202, redrive, acme(&one)),
        change("DELETE", "/v1/dead-letters/{id}", &two, "", 204, drop, acme(&two)),
        change("POST", "/v1/events/{id}/resend", &made.event, &resend, 202, Some("event.resend"), acme(&made.event)),
        change("DELETE", "/v1/events/{id}/deliveries", &made.event, "", 200, Some("event.cancel"), acme(&made.event)),
        change(
            "POST",
            "/admin/pause",
            "",
            r#"{"tenant":"beta"}"#,
            200,
            Some("pause.put"),
            (None, Some("tenant beta".to_owned())),
        ),
        change(
            "POST",
            "/admin/resume",
            "",
            r#"{"tenant":"beta"}"#,
            200,
            Some("pause.lift"),
            (None, Some("tenant beta".to_owned())),
        ),
        change("PUT", "/admin/tenants/{id}", "new", "", 200, put, (Some("new"), Some("new".to_owned()))),
        change(
            "DELETE",
            "/admin/tenants/{id}",
            "nobody",
            "",
            204,
            Some("tenant.delete"),
            (Some("nobody"), Some("nobody".to_owned())),
        ),
        change("POST", "/admin/keys", "", r#"{"role":"admin"}"#, 201, Some("key.create"), (None, None)),
        change("DELETE", "/admin/keys/{id}", &made.key, "", 204, Some("key.revoke"), (None, Some(made.key.clone()))),
        change("POST", "/admin/reload", "", "", 200, Some("config.reload"), (None, None)),
        change("POST", "/admin/retention", "", "{}", 200, Some("retention.run"), (None, None)),
        change("POST", "/admin/backup", "", "", 200, Some("backup.make"), (None, None)),
        change("PUT", "/admin/log", "", r#"{"level":"debug"}"#, 200, Some("log.change"), (None, None)),
    ]
}

/// Jobs that find nothing to do, so that as many as there are can be asked for.
fn of_jobs(made: &Made) -> Vec<Change> {
    let change = |method, route: &'static str, id: &str, body: &str, status, action, about| Change {
        method,
        route,
        path: route.replace("{id}", id),
        body: body.to_owned(),
        status,
        action: Some(action),
        about,
    };
    let (none, webhook) = (r#"{"type":"nobody.s"}"#, &made.webhooks[0]);
    let never = r#"{"only":"missing","until":"2001-01-01T00:00:00Z"}"#;
    let of = |id: &String| Some(id.clone());
    let [own, any] = &made.jobs;
    vec![
        change("POST", "/v1/dead-letters/redrive", "", none, 202, "dead_letter.redrive_many", (Some("acme"), None)),
        change("POST", "/v1/dead-letters/purge", "", none, 202, "dead_letter.purge", (Some("acme"), None)),
        change(
            "POST",
            "/v1/webhooks/{id}/recover",
            webhook,
            never,
            202,
            "webhook.recover",
            (Some("acme"), of(webhook)),
        ),
        change("DELETE", "/v1/jobs/{id}", own, "", 200, "job.cancel", (Some("acme"), of(own))),
        change("POST", "/admin/dead-letters/redrive", "", none, 202, "dead_letter.redrive_many", (Some("*"), None)),
        change("POST", "/admin/dead-letters/purge", "", none, 202, "dead_letter.purge", (Some("*"), None)),
        change(
            "POST",
            "/admin/webhooks/{id}/recover",
            webhook,
            never,
            202,
            "webhook.recover",
            (Some("acme"), of(webhook)),
        ),
        change("DELETE", "/admin/jobs/{id}", any, "", 200, "job.cancel", (None, of(any))),
    ]
}
