//! The audit log: what is on record, what is not, how it is read, and when it ends.

use super::changes::{all_changes, changing_world};
use super::*;
use crate::http::route::Access;

const PRIVACY: [(&str, &str); 2] =
    [("lmg-data-privacy-access-principal", "nobody"), ("lmg-data-privacy-access-justification", "webhook-test")];

/// Method, path, token, body, status; then action, tenant, target and outcome on record.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str, u16, [&'a str; 4]);

fn names(list: &[Value], member: &str) -> Vec<String> {
    list.iter().map(|record| record[member].as_str().unwrap_or("-").to_owned()).collect()
}

#[tokio::test]
async fn every_change_is_on_record_once() {
    let world = changing_world().await;
    let admin = world.holder(json!({"role": "admin"})).await;
    let owner = world.holder(json!({"role": "tenant", "tenant": "acme"})).await;
    for change in all_changes(&world).await {
        let told = format!("{} {}", change.method, change.path);
        let before = world.audit("").await.len();
        let (holder, role) = match change.access() {
            Access::Publish => (&world.holder(json!({"role": "publisher"})).await, "publisher"),
            Access::Tenant => (&owner, "tenant"),
            Access::Admin | Access::Any | Access::Open => (&admin, "admin"),
        };
        let before = before + usize::from(role == "publisher");
        let bearer = format!("Bearer {}", holder.token);
        let headers = [("authorization", bearer.as_str())];
        let got = world.with_headers(change.method, &change.path, &change.body, headers).await;
        assert_eq!(got.status, change.status, "{told} {:?}", got.body);
        let after = world.audit("").await;
        let Some(action) = change.action else {
            assert_eq!(after.len(), before, "{told}: publishing is in the event log");
            continue;
        };
        assert_eq!(after.len(), before + 1, "{told}");
        let made = || {
            if change.action == Some("webhook.register") {
                // This vendor's answer names no id.
                return after[0]["target"].as_str().filter(|id| WebhookId::parse(id).is_some()).map(str::to_owned);
            }
            // A backup is no JSON, and names nothing.
            let body: Value = serde_json::from_slice(&got.body).ok()?;
            let id = body["id"].as_str().or(body["subscriptionId"].as_str()).or(body["job"]["id"].as_str())?;
            Some(WebhookId::parse(id).map_or(id.to_owned(), |webhook| webhook.to_string()))
        };
        let (tenant, target) = change.about;
        let wanted = json!({"id": after[0]["id"], "at": "2023-11-14T22:13:20.000Z", "actor": holder.id, "role": role,
            "remote_addr": "198.51.100.9:5555", "action": action, "method": change.method, "path": change.route,
            "tenant": tenant, "target": target.or_else(made), "outcome": "ok", "principal": null, "justification": null});
        assert_eq!(after[0], wanted, "{told}");
        let of_process = matches!(action, "config.reload" | "log.change" | "backup.make" | "retention.run");
        assert_eq!(after[0]["target"].is_string(), !of_process, "{told}");
    }
}

#[tokio::test]
async fn what_is_refused_or_only_read_is_not_on_record() {
    let world = World::new().await;
    let before = world.audit("").await.len();
    let unknown = format!("/v1/webhooks/wbh_{}", "0".repeat(32));
    for (method, path, body, status) in [
        ("GET", "/v1/webhooks", "", 200),
        ("POST", "/v1/webhooks", "{}", 422),
        ("DELETE", &unknown, "", 404),
        ("PUT", "/admin/tenants/acme", "", 404),
    ] {
        assert_eq!(world.call(method, path, &world.acme, body).await.status, status, "{method} {path}");
    }
    assert_eq!(world.call("POST", "/v1/webhooks", "whd_wrong", "{}").await.status, 401);
    assert_eq!(world.audit("").await.len(), before);
}

#[tokio::test]
async fn lemon_s_headers_put_a_request_on_record_whatever_it_does() {
    let world = World::new().await;
    let webhook = world.webhook(&["a"]).await;
    let event = world.publish("acme", "a").await;
    let start = world.audit("").await.len();
    let (one, seen) = (format!("/v1/webhooks/{webhook}"), format!("/v1/events/{event}"));
    let dead = format!("/v1/dead-letters/{event}.{webhook}");
    let new = r#"{"type":"a","tenant":"*","data":{"canary":"body"}}"#;
    let cases: [Case<'_>; 9] = [
        ("GET", "/v1/events?type=a", &world.acme, "", 200, ["event.list", "acme", "-", "ok"]),
        ("GET", &seen, &world.acme, "", 200, ["event.read", "acme", &event, "ok"]),
        ("GET", &one, &world.acme, "", 200, ["webhook.read", "acme", &webhook, "ok"]),
        ("GET", &one, &world.beta, "", 404, ["webhook.read", "beta", &webhook, "not_found"]),
        ("GET", "/v1/webhooks?tenant=acme", &world.admin, "", 200, ["webhook.list", "acme", "-", "ok"]),
        ("GET", "/v1/webhooks?limit=0", &world.acme, "", 422, ["webhook.list", "acme", "-", "invalid_field"]),
        ("DELETE", &dead, &world.acme, "", 404, ["dead_letter.drop", "acme", &dead[17..], "not_found"]),
        ("POST", "/v1/webhooks", &world.acme, "{}", 422, ["webhook.create", "acme", "-", "invalid_field"]),
        ("POST", "/v1/events", &world.publisher, new, 201, ["event.publish", "*", "made", "ok"]),
    ];
    for (n, (method, path, token, body, status, record)) in cases.into_iter().enumerate() {
        let got = world.call_with(method, path, token, body.to_owned(), &PRIVACY).await;
        assert_eq!(got.status, status, "{method} {path} {:?}", got.body);
        let audit = world.audit("").await;
        assert_eq!(audit.len(), start + n + 1, "{method} {path}");
        let last = &audit[0];
        let made = || got.json()["id"].as_str().unwrap().to_owned();
        let target = if record[2] == "made" { made() } else { record[2].to_owned() };
        let told = ["action", "tenant", "target", "outcome"].map(|member| last[member].as_str().unwrap_or("-"));
        assert_eq!(told, [record[0], record[1], &target, record[3]], "{method} {path}");
        assert_eq!((&last["principal"], &last["justification"]), (&json!("nobody"), &json!("webhook-test")));
        assert!(!last.to_string().contains("canary"));
    }
    // Other vendors' routes know no such headers; one of the two is enough where none is required.
    world.call_with("GET", "/api/v1/webhooks", &world.acme, "", &PRIVACY).await;
    assert_eq!(world.audit("").await.len(), start + 9);
    world.call_with("GET", "/v1/webhooks", &world.acme, "", &PRIVACY[..1]).await;
    let audit = world.audit("").await;
    assert_eq!((&audit[0]["principal"], &audit[0]["justification"]), (&json!("nobody"), &json!(null)));
}

#[tokio::test]
async fn what_is_turned_away_for_being_too_fast_writes_nothing() {
    let limits = Settings { publish_rate: std::num::NonZeroU32::new(1), ..Settings::default() };
    let world = World::with(limits).await;
    let start = world.audit("").await.len();
    for (n, status) in [(0, 201), (1, 429), (2, 429)] {
        let body = format!(r#"{{"type":"a","tenant":"acme","data":{{"n":{n}}}}}"#);
        let got = world.call_with("POST", "/v1/events", &world.publisher, body, &PRIVACY).await;
        assert_eq!(got.status, status);
    }
    assert_eq!(world.audit("").await.len(), start + 1);
}

#[tokio::test]
async fn a_header_that_can_t_be_recorded_is_refused_by_name() {
    let world = World::new().await;
    let name = PRIVACY[1].0;
    let (fits, long) = ("é".repeat(256), "é".repeat(257));
    for (value, status) in [(fits.as_str(), 200), ("Prüfung", 200), ("", 200), (&long, 422), ("a\tb", 422)] {
        let got = world.call_with("GET", "/v1/webhooks", &world.acme, "", &[(name, value)]).await;
        assert_eq!(got.status, status, "{value}");
        if status == 422 {
            let message = got.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("LMG-Data-Privacy-Access-Justification") && message.len() < 200, "{message}");
        }
    }
    let twice = [(name, "one"), (name, "two")];
    assert_eq!(world.call_with("GET", "/v1/webhooks", &world.acme, "", &twice).await.status, 422);
    let recorded = names(&world.audit("?action=webhook.list").await, "justification");
    assert_eq!(recorded, ["Prüfung".to_owned(), fits]);
}

#[tokio::test]
async fn nobody_reads_off_the_record() {
    let world = World::new().await;
    assert_eq!(world.call_with("GET", "/v1/webhooks", &world.acme, "", &PRIVACY).await.status, 200);
    world.store.close();
    let got = world.call_with("GET", "/v1/webhooks", &world.acme, "", &PRIVACY).await;
    assert_eq!((got.told(), got.header("retry-after")), ((503, "unavailable".to_owned()), Some("1")));
}

#[tokio::test]
async fn it_is_read_by_filter_and_page_newest_first() {
    let world = World::new().await;
    for n in 0..5 {
        world.clock.advance(Duration::from_secs(60));
        world.socket("PUT", &format!("/admin/tenants/t{n}"), "").await;
        world.webhook(&["a"]).await;
    }
    let all = world.audit("").await;
    let ids: Vec<u64> = all.iter().map(|record| record["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).rev().collect::<Vec<_>>());
    assert_eq!(
        (&all[1]["actor"], &all[1]["role"], &all[1]["remote_addr"]),
        (&json!("socket"), &json!("admin"), &json!(null))
    );
    for (query, count) in [
        ("?tenant=acme", 7),
        ("?tenant=t3", 1),
        ("?tenant=nobody", 0),
        ("?action=webhook.create", 5),
        ("?action=webhook.*", 5),
        ("?action=tenant.put&tenant=t1", 1),
        ("?since=2023-11-14T22:16:20Z", 6),
        ("?until=2023-11-14T22:14:20Z&action=tenant.*", 3),
        ("?since=2023-11-14T22:15:20Z&until=2023-11-14T22:16:20Z", 4),
    ] {
        assert_eq!(world.audit(query).await.len(), count, "{query}");
    }
    let mut seen = Vec::new();
    let mut path = "/admin/audit?limit=2&action=webhook.*".to_owned();
    loop {
        let page = world.socket("GET", &path, "").await.json();
        seen.extend(page["data"].as_array().unwrap().clone());
        let Some(cursor) = page["pagination"]["next_cursor"].as_str() else { break };
        path = format!("/admin/audit?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, world.audit("?action=webhook.*").await);
    for query in ["limit=0", "since=soon", "action=a%20b", "cursor=x", "tenant=a&tenant=b"] {
        assert_eq!(world.socket("GET", &format!("/admin/audit?{query}"), "").await.told().0, 422, "{query}");
    }
}

#[tokio::test]
async fn it_holds_no_secret_whatever_is_sent() {
    let world = World::new().await;
    let token = &world.acme;
    let made = world.call("POST", "/v1/webhooks", token, r#"{"url":"https://a.example/canary","events":["a"]}"#).await;
    let secret = made.json()["signature_secret"].as_str().unwrap().to_owned();
    let bad = r#"{"url":"https://canary:canary@a.example/","events":["a"],"secret":"canary"}"#;
    for (method, path, body) in [
        ("POST", "/v1/webhooks", bad),
        ("GET", &format!("/v1/webhooks/{token}"), ""),
        ("GET", &format!("/v1/webhooks?cursor={token}&tenant={token}"), ""),
        ("GET", "/v1/events?context.key=canary&type=canary", ""),
    ] {
        world.call_with(method, path, token, body, &PRIVACY).await;
    }
    let text = world.socket("GET", "/admin/audit", "").await.body;
    let text = std::str::from_utf8(&text).unwrap();
    assert!(text.contains("webhook.read"), "they are on record: {text}");
    for canary in [token.as_str(), &secret, "canary", "a.example"] {
        assert!(!text.contains(canary), "{canary} in {text}");
    }
}

#[tokio::test]
async fn it_is_kept_for_its_time_and_no_longer() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let world = World::new().await;
    let first = world.audit("").await.len();
    world.clock.advance(80 * DAY);
    world.webhook(&["a"]).await;
    world.service.tidy().await.unwrap();
    assert_eq!(world.audit("").await.len(), first + 1);
    world.clock.advance(11 * DAY);
    world.service.tidy().await.unwrap();
    assert_eq!(names(&world.audit("").await, "action"), ["webhook.create"]);
    let settings = Settings { audit_kept_ms: 3_600_000, ..Settings::default() };
    world.service.reload(settings);
    world.service.tidy().await.unwrap();
    assert_eq!(world.audit("").await, [] as [Value; 0]);
}
