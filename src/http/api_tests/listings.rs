//! Every listing of the table, whatever it lists: its limits, and whom and what a cursor is good for.

use super::told::{in_form, surface, told};
use super::*;
use crate::http::problem::Form;
use crate::http::route::{Access, ROUTES, Route};
use crate::model::attempt::DeadReason;

/// A listing that has more than one entry: its route, its path with a query, and a cursor behind the first entry.
struct Listing {
    route: &'static Route,
    path: String,
    cursor: String,
}

/// A tenant's two webhooks, two dead letters, and two pending deliveries; gives a webhook.
async fn furnish(world: &World, tenant: &str, token: &str) -> String {
    let body = json!({"url": URL, "events": ["*"]}).to_string();
    let mut webhooks = Vec::new();
    for _ in 0..2 {
        let made = world.call("POST", "/v1/webhooks", token, body.clone()).await.json();
        webhooks.push(made["id"].as_str().unwrap().to_owned());
    }
    for verdict in [Verdict::Dead(DeadReason::Exhausted), Verdict::RetryAt(START + 5_000)] {
        for _ in 0..2 {
            let event = world.publish(tenant, "a").await;
            world.attempted(&event, &webhooks[0], 1, verdict).await;
        }
    }
    webhooks.remove(0)
}

async fn get(world: &World, listing: &Listing, token: &str, query: &str) -> Got {
    let path = format!("{}{query}", listing.path);
    super::matrix::ask_as(world, surface(listing.route.on), "GET", &path, token, "").await
}

/// A tenant's listings, and the admin's when it is an admin who asks.
async fn listings(world: &World, token: &str, webhook: &str, query: &str) -> Vec<Listing> {
    let mut all = Vec::new();
    // What follows the attempts begins with those to come; `operate` has its cursors.
    let readable =
        |route: &&Route| (token == world.admin || route.access != Access::Admin) && route.path != "/admin/attempts";
    for route in ROUTES.iter().filter(|route| route.method == "GET" && route.access != Access::Open).filter(readable) {
        let path = format!("{}?state=pending{query}", route.path.replace("{id}", webhook));
        let mut listing = Listing { route, path, cursor: String::new() };
        let got = get(world, &listing, token, "&limit=1").await;
        let page: Value = serde_json::from_slice(&got.body).unwrap_or_default();
        if page.get("pagination").is_some() {
            assert_eq!(page["data"].as_array().unwrap().len(), 1, "{}", listing.path);
            listing.cursor = page["pagination"]["next_cursor"].as_str().unwrap().to_owned();
            all.push(listing);
        }
    }
    all
}

#[tokio::test]
async fn a_limit_is_1_to_100() {
    let world = World::new().await;
    let webhook = furnish(&world, "acme", &world.acme).await;
    let all = listings(&world, &world.admin, &webhook, "&tenant=acme").await;
    let names: Vec<&str> = all.iter().map(|listing| listing.route.path).collect();
    for known in ["/v1/events", "/v1/webhooks", "/v1/webhooks/{id}/attempts", "/v1/dead-letters", "/admin/audit"] {
        assert!(names.contains(&known), "{known} is not among {names:?}");
    }
    for listing in &all {
        let form = listing.route.form;
        for limit in ["0", "101", "-1", "x", "1.0", "", "1e1", "99999999999999999999", "1&limit=1"] {
            let got = get(&world, listing, &world.admin, &format!("&limit={limit}")).await;
            let told = told(form, &got);
            assert_eq!((told.status, told.code), in_form(form, 422, "invalid_field"), "{limit}");
            assert!(told.message.contains("limit"), "{}", told.message);
        }
        for limit in ["", "&limit=1", "&limit=100"] {
            assert_eq!(get(&world, listing, &world.admin, limit).await.status, 200, "{} {limit}", listing.path);
        }
    }
}

#[tokio::test]
async fn g14_a_cursor_is_good_for_its_own_listing_only() {
    let world = World::new().await;
    let own = furnish(&world, "acme", &world.acme).await;
    let theirs = furnish(&world, "beta", &world.beta).await;
    let mine = listings(&world, &world.acme, &own, "").await;
    let others = listings(&world, &world.beta, &theirs, "").await;
    assert!(mine.len() >= 5 && mine.len() == others.len());
    for (at, listing) in mine.iter().enumerate() {
        let form = listing.route.form;
        let refused = async |listing: &Listing, token: &str, query: &str| {
            let got = get(&world, listing, token, query).await;
            let told = told(form, &got);
            assert_eq!((told.status, told.code), in_form(form, 422, "invalid_field"), "{} {query}", listing.path);
            (got.headers, got.body)
        };
        let nonsense = refused(listing, &world.acme, "&cursor=nonsense").await;
        // Another tenant's, where it is from and where it is brought to.
        let foreign = format!("&cursor={}", listing.cursor);
        assert_eq!(refused(&others[at], &world.beta, &foreign).await, nonsense, "{}", listing.path);
        for (other, wrong) in mine.iter().enumerate().filter(|(other, _)| *other != at) {
            let cursor = format!("&cursor={}", wrong.cursor);
            assert_eq!(refused(listing, &world.acme, &cursor).await, nonsense, "{other}'s cursor at {at}");
        }
        for changed in tampered(&listing.cursor) {
            assert_eq!(refused(listing, &world.acme, &format!("&cursor={changed}")).await, nonsense, "{changed}");
        }
        let twice = format!("&cursor={0}&cursor={0}", listing.cursor);
        refused(listing, &world.acme, &twice).await;
        // None of it has used it up, and it is as good in an admin's hand who names the tenant.
        let got = get(&world, listing, &world.acme, &foreign).await;
        assert!(got.status == 200 && !got.json()["data"].as_array().unwrap().is_empty(), "{}", listing.path);
        let of_admin = get(&world, listing, &world.admin, &format!("{foreign}&tenant=acme")).await;
        assert_eq!(of_admin.json()["data"], got.json()["data"]);
        if !listing.route.path.contains("{id}") {
            let named = get(&world, listing, &world.admin, &format!("{foreign}&tenant=beta")).await;
            assert_eq!((named.headers, named.body), nonsense, "{}", listing.path);
        }
    }
}

#[tokio::test]
async fn a_webhook_s_cursor_is_not_another_one_s() {
    let world = World::new().await;
    let (one, two) = (furnish(&world, "acme", &world.acme).await, furnish(&world, "acme", &world.acme).await);
    let (of_one, of_two) =
        (listings(&world, &world.acme, &one, "").await, listings(&world, &world.acme, &two, "").await);
    let both = of_one.iter().zip(&of_two).filter(|(listing, _)| listing.route.path.contains("{id}"));
    for (listing, other) in both {
        assert_eq!(get(&world, listing, &world.acme, &format!("&cursor={}", listing.cursor)).await.status, 200);
        assert_eq!(get(&world, listing, &world.acme, &format!("&cursor={}", other.cursor)).await.status, 422);
    }
}

/// Positions in the logs count what all tenants do: nothing of them is to be read in what a tenant is given.
#[tokio::test]
async fn a_cursor_shows_nothing() {
    let world = World::new().await;
    let webhook = furnish(&world, "acme", &world.acme).await;
    for listing in listings(&world, &world.acme, &webhook, "").await {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&listing.cursor).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("after") && !text.contains("before") && !text.contains("Row"), "{text}");
        let again = get(&world, &listing, &world.acme, "&limit=1").await.json();
        assert_ne!(again["pagination"]["next_cursor"], listing.cursor, "two of one place don't show that they are");
    }
}

fn tampered(cursor: &str) -> Vec<String> {
    let flipped = |at: usize| {
        let other = if &cursor[at..=at] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &cursor[..at], &cursor[at + 1..])
    };
    let mut changed: Vec<String> = [0, 1, 10, 35, cursor.len() / 2, cursor.len() - 2].map(flipped).to_vec();
    changed.extend([String::new(), cursor[1..].to_owned(), cursor[..cursor.len() - 1].to_owned()]);
    changed.extend([format!("{cursor}A"), format!("{cursor}="), cursor.to_lowercase(), "x".repeat(4_000)]);
    changed
}

#[tokio::test]
async fn what_a_filter_may_say() {
    let world = World::new().await;
    let webhook = furnish(&world, "acme", &world.acme).await;
    for (path, query) in [
        ("/v1/events", "since=yesterday"),
        ("/v1/events", "until=2024-13-01T00:00:00Z"),
        ("/v1/events", "since=2024-01-01"),
        ("/v1/events", "sort=up"),
        ("/v1/events", "sort=asc&sort=desc"),
        ("/v1/events", "type=a&type=b"),
        ("/v1/dead-letters", "since=1700000000"),
        ("/v1/dead-letters", "until="),
        ("/v1/dead-letters", "type=a&type=a"),
        ("/v1/webhooks/{id}/deliveries", "state=dead"),
        ("/v1/webhooks/{id}/deliveries", ""),
    ] {
        let path = format!("{}?{query}", path.replace("{id}", &webhook));
        let got = told(Form::Lemon, &world.call("GET", &path, &world.acme, "").await);
        assert_eq!((got.status, got.code.as_str()), (422, "invalid_field"), "{path}");
        let name = query.split('=').next().filter(|name| !name.is_empty()).unwrap_or("state");
        assert!(got.message.contains(name), "{path}: {}", got.message);
    }
}
