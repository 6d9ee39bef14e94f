//! The `R` rows of the table of bad input: what may not be registered. One table of rows, one list of the doors that something
//! is registered through; each row is tried at each door that knows its member, told in that door's form, by its names.

mod rows;

use super::told::{echoes_little, in_form, told};
use super::*;
use crate::http::problem::Form;
use crate::http::route::{Access, Body, ROUTES};

const CHANNEL: &str = "ACCOUNT_ACTIVITY";

/// A member of a webhook, as `/v1/webhooks` calls it, and the JSON text of its value.
type Part<'a> = (&'a str, &'a str);

/// A route that webhooks are registered or changed through.
struct Door {
    method: &'static str,
    path: &'static str,
    form: Form,
    /// What it knows of a webhook: our name, and its own (`outer.inner` for one inside another).
    members: &'static [(&'static str, &'static str)],
    /// What a registration can't do without.
    base: &'static [Part<'static>],
}

const LEMON: &[(&str, &str)] = &[
    ("url", "url"),
    ("events", "events"),
    ("active", "active"),
    ("headers", "headers"),
    ("secret", "secret"),
    ("plan", "plan"),
    ("timeout", "timeout"),
    ("max_in_flight", "max_in_flight"),
    ("rate_limit", "rate_limit"),
    ("description", "description"),
];
const OMNIA: &[(&str, &str)] = &[("url", "target.url"), ("events", "eventTypes"), ("headers", "target.headers")];
const VIBE: &[(&str, &str)] = &[("url", "url"), ("events", "events"), ("active", "active"), ("secret", "secret")];
const ONEMETRIC: &[(&str, &str)] = &[("url", "webhook_url")];

const BASE: &[Part<'_>] = &[("url", "\"https://a.example/in\""), ("events", "[\"ACCOUNT_ACTIVITY\"]")];
const BASE_ONEMETRIC: &[Part<'_>] = &[("url", "\"https://a.example/in\"")];

const DOORS: &[Door] = &[
    Door { method: "POST", path: "/v1/webhooks", form: Form::Lemon, members: LEMON, base: BASE },
    Door { method: "PATCH", path: "/v1/webhooks/{id}", form: Form::Lemon, members: LEMON, base: &[] },
    Door { method: "POST", path: "/v3/webhooks", form: Form::Omnia, members: OMNIA, base: BASE },
    Door { method: "POST", path: "/api/v3/webhooks", form: Form::Omnia, members: OMNIA, base: BASE },
    Door { method: "POST", path: "/api/v1/webhooks", form: Form::Vibe, members: VIBE, base: BASE },
    Door { method: "PUT", path: "/api/v1/webhooks/{id}", form: Form::Vibe, members: VIBE, base: &[] },
    Door {
        method: "POST",
        path: "/api/webhook/register",
        form: Form::OneMetric,
        members: ONEMETRIC,
        base: BASE_ONEMETRIC,
    },
];

impl Door {
    fn registers(&self) -> bool {
        self.method == "POST"
    }

    fn name_of(&self, member: &str) -> Option<&'static str> {
        self.members.iter().find(|(ours, _)| *ours == member).map(|(_, theirs)| *theirs)
    }

    /// A body with these members, in this order; those that the door does not know under our names.
    fn body(&self, parts: &[Part<'_>]) -> String {
        let (mut outer, mut inner, mut around) = (Vec::new(), Vec::new(), "");
        for (member, value) in parts {
            match self.name_of(member).unwrap_or(member).split_once('.') {
                Some((name, nested)) => {
                    around = name;
                    inner.push(format!("\"{nested}\":{value}"));
                }
                None => outer.push(format!("\"{}\":{value}", self.name_of(member).unwrap_or(member))),
            }
        }
        if !inner.is_empty() {
            outer.push(format!("\"{around}\":{{{}}}", inner.join(",")));
        }
        format!("{{{}}}", outer.join(","))
    }

    /// Its base with one member replaced or added.
    fn with(&self, member: &str, value: &str) -> String {
        let mut parts: Vec<Part<'_>> = self.base.iter().copied().filter(|(name, _)| *name != member).collect();
        parts.push((member, value));
        self.body(&parts)
    }

    /// Its base without one member.
    fn without(&self, member: &str) -> String {
        let parts: Vec<Part<'_>> = self.base.iter().copied().filter(|(name, _)| *name != member).collect();
        self.body(&parts)
    }

    /// What a refused member is called, and with which status and code; `code` as lemon has it.
    fn refusal(&self, member: &str, code: &str) -> (u16, String) {
        match (self.form, member) {
            (Form::Omnia, "url") => (400, "INVALID_TARGET".to_owned()),
            (Form::Omnia, "events") => (400, "INVALID_EVENT_TYPE".to_owned()),
            (Form::Omnia, "headers") => (400, "INVALID_HEADERS".to_owned()),
            (form, _) => in_form(form, 422, code),
        }
    }

    async fn knock(&self, world: &World, id: &str, body: &str) -> Got {
        world.call(self.method, &self.path.replace("{id}", id), &world.acme, body.to_owned()).await
    }
}

/// What is not taken.
struct Row {
    member: &'static str,
    value: String,
    code: &'static str,
    /// What the message names besides the member: a rule, an address.
    says: &'static str,
}

fn row(member: &'static str, value: impl ToString, code: &'static str, says: &'static str) -> Row {
    Row { member, value: value.to_string(), code, says }
}

#[test]
fn every_route_that_takes_a_webhook_is_a_door() {
    // What takes a body and is none.
    let others =
        ["/v1/events/{id}/resend", "/v1/dead-letters/redrive", "/v1/dead-letters/purge", "/v1/webhooks/{id}/recover"];
    let small = ROUTES.iter().filter(|route| route.access == Access::Tenant && route.body == Body::Small);
    for route in small.filter(|route| !others.contains(&route.path)) {
        let door = DOORS.iter().find(|door| door.method == route.method && door.path == route.path);
        assert_eq!(door.map(|door| door.form), Some(route.form), "{} {}", route.method, route.path);
    }
}

fn start_of(body: &str) -> &str {
    &body[..body.floor_char_boundary(300)]
}

/// A world that lets Omnia's door in more often than five times, and a webhook in it.
async fn doors() -> (World, String) {
    let catalogue = catalogue(&[("account.deposit_received", Some(CHANNEL))]);
    let world = World::with(Settings { catalogue, omnia_max: 1_000, ..Settings::default() }).await;
    let id = world.webhook(&["a"]).await;
    (world, id)
}

/// Tries every row at every door, and holds that nothing has come of it.
async fn refuse_all(rows: &[Row]) {
    let (world, id) = doors().await;
    let read = async || (world.call("GET", "/v1/webhooks", &world.acme, "").await.body, world.audit("").await.len());
    let before = read().await;
    for Row { member, value, code, says } in rows {
        let mut tried = 0;
        for door in DOORS {
            let Some(name) = door.name_of(member) else { continue };
            let body = door.with(member, value);
            let got = door.knock(&world, &id, &body).await;
            let about = format!("{} {} {}", door.method, door.path, start_of(&body));
            assert!(got.status.is_client_error(), "{about}: {} {:?}", got.status, got.body);
            let told = told(door.form, &got);
            assert_eq!((told.status, told.code), door.refusal(member, code), "{about}: {}", told.message);
            assert!(told.message.contains(name) && told.message.contains(says), "{about}: {}", told.message);
            assert!(!told.message.contains("canary"), "{about}: {}", told.message);
            echoes_little(value, &told.message);
            tried += 1;
        }
        assert!(tried >= 2, "{member}: no door knows it");
    }
    assert_eq!(read().await, before, "nothing is registered, changed or on record");
}

#[tokio::test]
async fn r_members_that_are_missing_or_doubled() {
    let (world, id) = doors().await;
    for door in DOORS {
        for (member, value) in BASE.iter().filter(|(member, _)| door.name_of(member).is_some()) {
            let name = door.name_of(member).unwrap();
            let outer = name.split('.').next().unwrap();
            let others = door.base.iter().copied().filter(|(other, _)| other != member);
            let twice: Vec<Part<'_>> = others.chain([(*member, *value), (*member, *value)]).collect();
            let twice = door.body(&twice);
            let mut tries = vec![(twice, "twice")];
            if door.registers() {
                tries.push((door.without(member), "is required"));
                tries.push((door.with(member, "null"), "is required"));
            }
            for (body, says) in tries {
                let got = told(door.form, &door.knock(&world, &id, &body).await);
                let about = format!("{} {} {body}: {}", door.method, door.path, got.message);
                // A doubled member of the body is nobody's value yet.
                let whole = says == "twice" && outer == name;
                let wanted = if whole {
                    in_form(door.form, 422, "invalid_field")
                } else {
                    door.refusal(member, "invalid_field")
                };
                assert_eq!((got.status, got.code), wanted, "{about}");
                assert!(got.message.contains(says), "{about}");
                assert!(got.message.contains(name) || got.message.starts_with(outer), "{about}");
            }
        }
        for (body, status, code) in [
            ("", 400, "invalid_json"),
            ("{", 400, "invalid_json"),
            ("nonsense", 400, "invalid_json"),
            ("{\"url\":\"\u{1}\"}", 400, "invalid_json"),
            ("{} {}", 400, "invalid_json"),
            ("[]", 422, "invalid_field"),
            ("\"https://a.example/\"", 422, "invalid_field"),
            ("null", 422, "invalid_field"),
        ] {
            let got = told(door.form, &door.knock(&world, &id, body).await);
            let about = format!("{} {} {body}: {}", door.method, door.path, got.message);
            assert_eq!((got.status, got.code), in_form(door.form, status, code), "{about}");
            assert!(got.message.contains("body"), "{about}");
        }
        let deep = format!("{{\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let got = door.knock(&world, &id, &deep).await;
        assert!(!got.status.is_server_error(), "what is ignored may be as deep as it likes: {}", got.status);
    }
    assert_eq!(world.call("GET", "/v1/webhooks", &world.acme, "").await.json()["data"].as_array().unwrap().len(), 1);
}

/// Refusals say little about rules that are too strict: here is what has to be let in.
#[tokio::test]
async fn r_what_is_just_within_the_rules_is_taken() {
    use base64::Engine as _;
    let whsec =
        |bytes: usize| json!(format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(vec![7; bytes])));
    let (world, id) = doors().await;
    let many: serde_json::Map<_, _> = (0..32).map(|n| (format!("x-{n}"), json!("v"))).collect();
    let mut rows = vec![
        ("url", json!(format!("https://a.example/{}", "x".repeat(2_083 - 18)))),
        ("url", json!("https://a.example:65535/ü?q=%20")),
        ("url", json!("https://8.8.8.8/")),
        ("headers", Value::Object(many)),
        ("headers", json!({"a": "x".repeat(4_096)})),
        ("headers", json!({"Content-Type": "text/plain", "Authorization": "Bearer x", "X-Webhook": ""})),
    ];
    for secret in [whsec(24), whsec(64), json!("x".repeat(8)), json!("é".repeat(256)), json!("whsec ordinary")] {
        rows.push(("secret", secret));
    }
    for value in [json!(0.001), json!(1), json!(1e6), json!(null)] {
        rows.push(("rate_limit", value));
    }
    for value in [json!("1s"), json!("1500ms"), json!("60s"), json!("1m"), json!(null)] {
        rows.push(("timeout", value));
    }
    for value in [json!(1), json!(1_024), json!(null)] {
        rows.push(("max_in_flight", value));
    }
    for (member, value) in rows.iter().map(|(member, value)| (*member, value.to_string())) {
        for door in DOORS.iter().filter(|door| door.name_of(member).is_some()) {
            let body = door.with(member, &value);
            let got = door.knock(&world, &id, &body).await;
            assert!(got.status.is_success(), "{} {} {body}: {:?}", door.method, door.path, got.body);
        }
    }
    // Omnia's types are channels; the others' are free.
    let types: Vec<String> = (0..255).map(|n| format!("t{n}")).chain(["x".repeat(128)]).collect();
    for door in DOORS.iter().filter(|door| door.name_of("events").is_some() && door.form != Form::Omnia) {
        let got = door.knock(&world, &id, &door.with("events", &json!(types).to_string())).await;
        assert!(got.status.is_success(), "{} {}: {:?}", door.method, door.path, got.body);
    }
}

#[tokio::test]
async fn r_members_that_a_dialect_does_not_have_are_ignored() {
    let (world, id) = doors().await;
    let bad = [
        ("headers", r#"{"Host":"x"}"#),
        ("secret", "1"),
        ("rate_limit", "-1"),
        ("active", "\"x\""),
        ("whatever", "[{}]"),
    ];
    for door in DOORS {
        for (member, value) in bad.into_iter().filter(|(member, _)| door.name_of(member).is_none()) {
            let body = door.with(member, value);
            let got = door.knock(&world, &id, &body).await;
            assert!(got.status.is_success(), "{} {} {body}: {:?}", door.method, door.path, got.body);
        }
    }
}

#[tokio::test]
async fn r_one_over_the_quota() {
    for door in DOORS.iter().filter(|door| door.registers()) {
        let catalogue = catalogue(&[("account.deposit_received", Some(CHANNEL))]);
        let world = World::with(Settings { catalogue, webhooks_per_tenant: 1, ..Settings::default() }).await;
        let id = world.webhook(&["a"]).await;
        let got = told(door.form, &door.knock(&world, "", &door.body(door.base)).await);
        assert_eq!((got.status, got.code), in_form(door.form, 409, "quota_exceeded"), "{}", door.path);
        assert!(got.message.contains("webhooks"), "{}", got.message);
        assert_eq!(world.call("DELETE", &format!("/v1/webhooks/{id}"), &world.acme, "").await.status, 204);
        let got = door.knock(&world, "", &door.body(door.base)).await;
        assert!(got.status.is_success(), "{}: there is room again: {:?}", door.path, got.body);
    }
}

#[tokio::test]
async fn r_the_last_place_goes_to_one_of_those_who_race_for_it_at_any_door() {
    let catalogue = catalogue(&[("account.deposit_received", Some(CHANNEL))]);
    let world = World::with(Settings { catalogue, webhooks_per_tenant: 3, ..Settings::default() }).await;
    world.webhook(&["a"]).await;
    world.webhook(&["a"]).await;
    let racing: Vec<&Door> = DOORS.iter().filter(|door| door.registers()).cycle().take(40).collect();
    let bodies: Vec<String> = racing.iter().map(|door| door.body(door.base)).collect();
    let got = all(racing.iter().zip(&bodies).map(|(door, body)| door.knock(&world, "", body))).await;
    let mut forms = std::collections::BTreeSet::new();
    let mut made = 0;
    for (door, got) in racing.iter().zip(&got) {
        if got.status.is_success() {
            made += 1;
            forms.insert(door.path);
        } else {
            let told = told(door.form, got);
            assert_eq!((told.status, told.code), in_form(door.form, 409, "quota_exceeded"), "{}", door.path);
        }
    }
    // OneMetric's registration, once made, is made again as often as anybody asks.
    assert!(forms.len() == 1 && (made == 1 || forms.contains("/api/webhook/register")), "{made} through {forms:?}");
    assert_eq!(world.call("GET", "/v1/webhooks", &world.acme, "").await.json()["data"].as_array().unwrap().len(), 3);
}
