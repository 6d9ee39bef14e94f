//! What is somebody else's, on every route that can name it: answered as what does not exist, byte for byte, and left as it
//! was. Made from the route table; [`places`] names every action, so that a new route does not compile before it has said
//! where it can name what.
//!
//! In time the two don't differ either, by construction: an event's id that nobody has leads to a row all the same
//! (`Shared::seq_of`), and a webhook is looked for in memory in both cases (`Registry::webhook_of`).

use super::matrix::ask_as;
use super::told::{in_form, surface, told};
use super::*;
use crate::http::route::{Access, Action, Body, ROUTES, Route};
use crate::model::attempt::DeadReason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Webhook,
    Event,
    /// A dead letter: an event and a webhook.
    Letter,
    Job,
}

/// Where a request names what belongs to one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Path(Thing),
    /// A webhook, as this member of the body.
    Body(&'static str),
    /// A webhook, as this parameter.
    Query(&'static str),
}

/// Where requests of a route name what is a tenant's own. Whom an admin or a publisher may name is for the matrix.
fn places(action: Action) -> &'static [Place] {
    use self::Place::{Body, Path, Query};
    match action {
        Action::Health | Action::Ready | Action::OpenApi | Action::Metrics => &[],
        Action::EventTypes | Action::IpRanges => &[],
        Action::Publish | Action::PublishBatch | Action::Events => &[],
        Action::LemonCreate | Action::OmniaCreate | Action::VibeCreate | Action::OneMetricRegister => &[],
        Action::LemonList | Action::OmniaList | Action::VibeList => &[],
        Action::TenantPut | Action::TenantSee | Action::TenantList | Action::TenantDelete => &[],
        Action::KeyCreate | Action::KeyList | Action::KeyRevoke | Action::AuditList => &[],
        Action::Pause | Action::Resume | Action::PauseList => &[],
        Action::Overview | Action::AllWebhooks | Action::AllAttempts => &[],
        Action::Reload | Action::ConfigSee | Action::LogSet | Action::Backup | Action::Retention => &[],
        Action::AllRedrive | Action::AllPurge | Action::AnyRecover => &[],
        Action::AllJobs | Action::AnyJobSee | Action::AnyJobCancel => &[],
        Action::RedriveMany | Action::PurgeMany => &[Body("webhook")],
        Action::Recover => &[Path(Thing::Webhook)],
        Action::JobList => &[],
        Action::JobSee | Action::JobCancel => &[Path(Thing::Job)],
        Action::Cancel => &[Path(Thing::Event), Query("webhook")],
        Action::LemonPause | Action::LemonResume => &[Path(Thing::Webhook)],
        Action::Event | Action::Explain => &[Path(Thing::Event)],
        Action::Resend => &[Path(Thing::Event), Body("webhook")],
        Action::StreamOpen => &[Body("stream")],
        Action::StreamAnswer => &[Path(Thing::Webhook)],
        Action::DeadLetters => &[Query("webhook")],
        Action::Redrive | Action::DropDead => &[Path(Thing::Letter)],
        Action::VibeTest => &[Body("webhookId")],
        Action::LemonSee | Action::LemonChange | Action::LemonDelete => &[Path(Thing::Webhook)],
        Action::LemonRotate | Action::LemonTest => &[Path(Thing::Webhook)],
        Action::LemonAttempts | Action::LemonDeliveries | Action::Stats => &[Path(Thing::Webhook)],
        Action::OmniaSee | Action::OmniaDelete => &[Path(Thing::Webhook)],
        Action::VibeSee | Action::VibeChange | Action::VibeDelete => &[Path(Thing::Webhook)],
    }
}

/// Routes that can name what is a tenant's own.
fn naming() -> impl Iterator<Item = (&'static Route, &'static [Place])> {
    ROUTES.iter().map(|route| (route, places(route.action))).filter(|(_, places)| !places.is_empty())
}

/// What a request can name.
#[derive(Clone, Copy)]
struct Things {
    event: EventId,
    webhook: WebhookId,
    job: JobId,
}

impl Things {
    /// A tenant's webhook and its dead letter.
    async fn of(world: &World, tenant: &str, token: &str) -> Self {
        // One with a stream can be named wherever one with a URL can, and beside.
        let webhook = super::streams::stream(world, token, &json!({"events": ["mine"]})).await.0;
        let event = world.publish(tenant, "mine").await;
        world.attempted(&event, &webhook, 1, Verdict::Dead(DeadReason::Exhausted)).await;
        // With nothing to do it has ended at once.
        let body = json!({"type": "nobody.s"}).to_string();
        let job = world.call("POST", "/v1/dead-letters/redrive", token, body).await;
        assert_eq!(job.status, 202, "{:?}", job.body);
        Self {
            event: EventId::parse(&event).unwrap(),
            webhook: WebhookId::parse(&webhook).unwrap(),
            job: JobId::parse(job.json()["job"]["id"].as_str().unwrap()).unwrap(),
        }
    }

    /// Names of the same form that nothing has.
    fn unknown(mut self) -> Self {
        self.event.0[15] ^= 1;
        self.webhook.0[15] ^= 1;
        self.job.0[15] ^= 1;
        self
    }

    fn spellings(self) -> [String; 3] {
        [self.webhook.to_string(), self.webhook.vibe(), self.webhook.dashed()]
    }
}

/// A request on a route, without who asks.
#[derive(Clone, Debug)]
struct Ask {
    path: String,
    query: String,
    body: String,
}

/// A good value for the parameter that most listings don't know.
fn state_of(route: &Route) -> &'static str {
    if route.action == Action::JobList { "done" } else { "pending" }
}

/// What stands in a route's path for one of these.
fn id_of(places: &[Place], of: Things) -> String {
    if places.contains(&Place::Path(Thing::Event)) {
        of.event.to_string()
    } else if places.contains(&Place::Path(Thing::Letter)) {
        format!("{}.{}", of.event, of.webhook)
    } else if places.contains(&Place::Path(Thing::Job)) {
        of.job.to_string()
    } else {
        of.webhook.to_string()
    }
}

/// Every good request on a route that names something of `these` in one of its places; `own` is named where the route has
/// another place. The same requests in the same order, whatever `these` are.
fn asks(route: &Route, places: &[Place], these: Things, own: Things) -> Vec<Ask> {
    let body = match (route.body, route.action) {
        (Body::None, _) => "",
        (_, Action::StreamAnswer) => r#"{"delivery":"none","status":200}"#,
        _ => "{}",
    };
    let ask = |id: &str, more: &str, body: &str| Ask {
        path: route.path.replace("{id}", id),
        query: format!("?state={}{more}", state_of(route)),
        body: body.to_owned(),
    };
    let mut asks = Vec::new();
    for place in places {
        let named = |things: Things| match place {
            Place::Path(_) => Vec::new(),
            Place::Body(member) => {
                things.spellings().map(|id| (String::new(), json!({*member: id}).to_string())).to_vec()
            }
            Place::Query(name) => things.spellings().map(|id| (format!("&{name}={id}"), body.to_owned())).to_vec(),
        };
        match place {
            Place::Path(Thing::Webhook) => asks.extend(these.spellings().map(|id| ask(&id, "", body))),
            Place::Path(Thing::Event) => asks.push(ask(&these.event.to_string(), "", body)),
            Place::Path(Thing::Job) => asks.push(ask(&these.job.to_string(), "", body)),
            Place::Path(Thing::Letter) => {
                for (event, webhook) in [(these, these), (own, these), (these, own)] {
                    let ids = webhook.spellings().map(|webhook| format!("{}.{webhook}", event.event));
                    asks.extend(ids.map(|id| ask(&id, "", body)));
                }
            }
            Place::Body(_) | Place::Query(_) => {
                asks.extend(named(these).iter().map(|(query, body)| ask(&id_of(places, own), query, body)));
                if places.iter().any(|place| matches!(place, Place::Path(_))) {
                    let both = [named(these), named(own)].concat();
                    asks.extend(both.iter().map(|(query, body)| ask(&id_of(places, these), query, body)));
                }
            }
        }
    }
    asks
}

/// Bodies and queries that are judged before or after what is named; the first of each is good.
fn variants(ask: &Ask) -> Vec<Ask> {
    let mut bodies = vec![ask.body.clone()];
    if ask.body == "{}" {
        bodies.extend(
            ["", "{", "[]", r#"{"url":1,"url":2}"#, r#"{"active":"x","url":"http://127.0.0.1/"}"#].map(str::to_owned),
        );
    }
    let queries = ["", "&limit=0", "&cursor=x", "&since=x", "&state=x", "&tenant=acme", "&tenant=nobody", "&webhook=x"];
    let with = |body: &String| {
        queries.map(|more| Ask { query: format!("{}{more}", ask.query), body: body.clone(), ..ask.clone() })
    };
    bodies.iter().flat_map(with).collect()
}

async fn ask_of(world: &World, route: &Route, ask: &Ask, token: &str) -> Got {
    let path = format!("{}{}", ask.path, ask.query);
    ask_as(world, surface(route.on), route.method.as_str(), &path, token, &ask.body).await
}

/// All that a tenant can read of itself and of one of its things.
async fn read_all(world: &World, token: &str, of: Things) -> Vec<(String, Bytes)> {
    let mut all = Vec::new();
    for route in ROUTES.iter().filter(|route| route.method == "GET" && route.access == Access::Tenant) {
        let id = id_of(places(route.action), of);
        let ask = Ask {
            path: route.path.replace("{id}", &id),
            query: format!("?state={}", state_of(route)),
            body: String::new(),
        };
        let got = ask_of(world, route, &ask, token).await;
        assert_eq!(got.status, 200, "{ask:?} {:?}", got.body);
        all.push((ask.path, got.body));
    }
    all
}

#[test]
fn every_route_with_an_id_has_said_whose_it_is() {
    for route in ROUTES {
        let named = places(route.action);
        let in_path = named.iter().any(|place| matches!(place, Place::Path(_)));
        let own = route.access == Access::Tenant;
        assert_eq!(in_path, own && route.path.contains("{id}"), "{} {}", route.method, route.path);
        assert!(own || named.is_empty(), "{} {}: whose is it?", route.method, route.path);
    }
}

#[tokio::test]
async fn g14_a_foreign_id_answers_as_an_unknown_one() {
    let world = World::new().await;
    let (acme, beta) = (Things::of(&world, "acme", &world.acme).await, Things::of(&world, "beta", &world.beta).await);
    let deleted = Things::of(&world, "acme", &world.acme).await;
    assert_eq!(world.call("DELETE", &format!("/v1/webhooks/{}", deleted.webhook), &world.acme, "").await.status, 204);
    let before = (read_all(&world, &world.acme, acme).await, read_all(&world, &world.beta, beta).await);
    for foreign in [acme, deleted] {
        let shared = world.store.shared();
        assert!(shared.seq_of(foreign.unknown().event).is_some(), "an unknown id costs a look-up in the log too");
        for (route, places) in naming() {
            let pairs =
                asks(route, places, foreign, beta).into_iter().zip(asks(route, places, foreign.unknown(), beta));
            for (foreign, unknown) in pairs {
                for (nth, (foreign, unknown)) in variants(&foreign).iter().zip(variants(&unknown)).enumerate() {
                    let about = format!("{} {foreign:?} {unknown:?}", route.method);
                    let one = ask_of(&world, route, foreign, &world.beta).await;
                    let other = ask_of(&world, route, &unknown, &world.beta).await;
                    assert_eq!(
                        (one.status, &one.headers, &one.body),
                        (other.status, &other.headers, &other.body),
                        "{about}"
                    );
                    assert!(one.status.is_client_error(), "{about}: {}", one.status);
                    if nth == 0 {
                        let told = told(route.form, &one);
                        assert_eq!((told.status, told.code), in_form(route.form, 404, "not_found"), "{about}");
                    }
                }
            }
        }
    }
    let after = (read_all(&world, &world.acme, acme).await, read_all(&world, &world.beta, beta).await);
    assert_eq!(before, after, "and nothing of it did anything");
}

/// So that the answers above are not all refusals of something else.
#[tokio::test]
async fn what_was_asked_for_is_what_its_owner_gets() {
    let world = World::new().await;
    let nothing = Things { event: EventId([0; 16]), webhook: WebhookId([0; 16]), job: JobId([0; 16]) };
    for (route, places) in naming() {
        let count = asks(route, places, nothing, nothing).len();
        for nth in 0..count {
            let own = Things::of(&world, "acme", &world.acme).await;
            let ask = asks(route, places, own, own).remove(nth);
            let got = ask_of(&world, route, &ask, &world.acme).await;
            assert!(got.status.is_success(), "{} {ask:?}: {} {:?}", route.method, got.status, got.body);
            world.work().await;
            // There may be few streams at a time.
            world.call("DELETE", &format!("/v1/webhooks/{}", own.webhook), &world.acme, "").await;
        }
    }
}

#[tokio::test]
async fn what_is_no_id_answers_as_an_unknown_one() {
    let world = World::new().await;
    let own = Things::of(&world, "beta", &world.beta).await;
    let none = own.unknown();
    let shouted = none.webhook.to_string().to_uppercase();
    let short = &none.webhook.to_string()[..35];
    let two = format!("{}.{}.1", none.event, none.webhook);
    for (route, places) in naming().filter(|(route, _)| route.path.contains("{id}")) {
        let unknown = asks(route, places, none, own).remove(0);
        let wanted = ask_of(&world, route, &unknown, &world.beta).await;
        for id in ["nonsense", "evt_0", "a.b", "%20", "%C3%A4", "*", "0", "null", &shouted, short, &two] {
            let ask = Ask { path: route.path.replace("{id}", id), ..unknown.clone() };
            let got = ask_of(&world, route, &ask, &world.beta).await;
            assert_eq!(
                (got.status, &got.headers, &got.body),
                (wanted.status, &wanted.headers, &wanted.body),
                "{ask:?}"
            );
        }
        // Another kind of id is as unknown.
        for id in [own.event.to_string(), own.webhook.to_string(), format!("{}.{}", own.event, own.webhook)] {
            let good = asks(route, places, own, own).iter().any(|ask| ask.path == route.path.replace("{id}", &id));
            if !good {
                let ask = Ask { path: route.path.replace("{id}", &id), ..unknown.clone() };
                assert_eq!(ask_of(&world, route, &ask, &world.beta).await.body, wanted.body, "{ask:?}");
            }
        }
    }
}

#[tokio::test]
async fn g14_a_tenant_can_t_tell_another_tenant_from_none() {
    let world = World::new().await;
    let own = Things::of(&world, "beta", &world.beta).await;
    for route in ROUTES.iter().filter(|route| route.access == Access::Tenant) {
        let id = id_of(places(route.action), own);
        let body = if route.body == Body::None { "" } else { "{}" }.to_owned();
        let mut answers = Vec::new();
        for tenant in ["acme", "nobody", "No%20Body", "", "*", "operator"] {
            let ask =
                Ask { path: route.path.replace("{id}", &id), query: format!("?tenant={tenant}"), body: body.clone() };
            let got = ask_of(&world, route, &ask, &world.beta).await;
            // Which addresses we send from is the same for all.
            let status = if route.action == Action::IpRanges { 200 } else { 403 };
            assert_eq!(got.status, status, "{} {ask:?}", route.method);
            answers.push((got.headers, got.body));
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{} {}", route.method, route.path);
    }
    for around in [|event: Value| event, |event: Value| json!({"events": [event]})] {
        let mut answers = Vec::new();
        for tenant in ["acme", "nobody", "No Body", "*", "operator"] {
            let body = around(json!({"type": "a", "tenant": tenant}));
            let path = if body.get("events").is_some() { "/v1/events/batch" } else { "/v1/events" };
            let got = world.call("POST", path, &world.beta, body.to_string()).await;
            assert_eq!(got.told(), (403, "forbidden".to_owned()), "{body}");
            answers.push((got.headers, got.body));
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
