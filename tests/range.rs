//! The SSRF range: the real binary in a network of its own, in which every address of the world leads to one listener that says
//! who was dialled, with a name server that answers as an attacker's would. What is counted is SYNs, on the wire.
//!
//! Needs root, or rather its right to namespaces. Where that is not to be had the test fails and says so, unless
//! `NO_NETWORK_NAMESPACE=1` says that this is known.

mod support;

#[path = "range/dns.rs"]
mod dns;
#[path = "range/inner.rs"]
mod inner;
#[path = "range/network.rs"]
mod network;

use std::time::Duration;

use serde_json::{Value, json};

use dns::{NameServer, Reply};
use inner::{NAMES, SPELLINGS};
use network::{Network, PUBLIC, PUBLIC_V6};
use rustix::process::Signal;
use support::{Daemon, SOON, Stage, poll, text};

/// Two attempts: a refusal is retried like any failure, and refused again.
const PLAN: &str = "[plans.quick]\ndelays = [\"50ms\"]\njitter = 0.0\n[circuit]\nfailures = 0";

struct Range {
    network: Network,
    stage: Stage,
}

impl Range {
    /// All that is allowed at first is what the checks take back.
    fn new() -> Self {
        let network = Network::set_up();
        let everything = "[\"0.0.0.0/0\", \"::/0\"]";
        let builder = Daemon::builder().set("egress.allow", everything).set("egress.max_in_flight_per_host", "1024");
        let stage = Stage::start(builder.extra(PLAN));
        network.ignore(stage.daemon.address());
        Self { network, stage }
    }

    fn register(&self, url: &str, event: &str) -> String {
        text(&self.stage.register(&json!({"url": url, "events": [event], "plan": "quick"})), "id")
    }

    fn publish(&self, event: &str) {
        self.stage.publish(&json!({"type": event, "tenant": "acme"}));
    }

    /// Takes all that was allowed back, and waits until that is in force.
    fn allow_nothing(&self) {
        let daemon = &self.stage.daemon;
        let config = std::fs::read_to_string(daemon.config()).expect("a configuration");
        let strict = config.replace("[\"0.0.0.0/0\", \"::/0\"]", "[]");
        assert_ne!(config, strict);
        std::fs::write(daemon.config(), strict).expect("writing the configuration");
        daemon.signal(Signal::HUP);
        let url = json!({"url": "http://10.9.9.9:8080/", "events": ["never"]});
        let refused = poll(SOON, || (self.stage.owner.post("/v1/webhooks", &url).status == 422).then_some(()));
        assert!(refused.is_some(), "what was allowed is not taken back; its log:\n{}", daemon.log());
    }

    /// Waits until that many of the webhook's attempts failed as `class`; each says all of this, and dialled nobody.
    #[track_caller]
    fn failed(&self, webhook: &str, count: usize, class: &str, says: &[&str]) {
        let path = format!("/v1/webhooks/{webhook}/attempts");
        let mut last = Value::Null;
        let of_class = poll(SOON, || {
            last = self.stage.owner.get(&path).expect(200).json();
            let all = last["data"].as_array().into_iter().flatten();
            let found: Vec<Value> = all.filter(|attempt| attempt["class"] == class).cloned().collect();
            (found.len() >= count).then_some(found)
        });
        for attempt in of_class.unwrap_or_else(|| panic!("{count} attempts of class {class}: {last:#}")) {
            let error = attempt["error"].as_str().unwrap_or_default();
            assert!(says.iter().all(|part| error.contains(part)), "{says:?} in {attempt:#}");
            assert_eq!(attempt["remote_addr"], Value::Null, "{attempt:#}");
            // The contract says 2 s, and this machine may be busy.
            assert!(attempt["duration_ms"].as_u64().is_some_and(|ms| ms < 4_000), "{attempt:#}");
        }
    }
}

#[test]
fn g13_no_inner_address_is_connected_to() {
    if !network::is_inside() {
        network::run_inside("g13_no_inner_address_is_connected_to");
        return;
    }
    let mut range = Range::new();
    let spelled = everything_is_reached(&mut range);
    let allowed = range.network.connects_in_all();
    range.allow_nothing();
    nothing_is_reached_any_more(&mut range, &spelled);
    nothing_inner_is_registered(&mut range);
    names_are_judged_by_all_their_addresses(&mut range);
    names_that_change_are_judged_each_time(&mut range);
    redirects_lead_nowhere(&mut range);
    let (spellings, names, connects) = (SPELLINGS.len(), NAMES.len(), range.network.connects_in_all() - allowed);
    println!(
        "{spellings} spellings reached {allowed} times while allowed; then, with {names} names: {connects} connects,"
    );
    println!("all of them to public addresses");
}

/// The range itself, tried: without rules every spelling gets to its address, or the later checks would prove nothing.
fn everything_is_reached(range: &mut Range) -> Vec<(String, &'static inner::Spelling)> {
    let mut spelled = Vec::new();
    for (number, spelling) in SPELLINGS.iter().enumerate() {
        let url = format!("http://{}:8080/spelled/{number}", spelling.host);
        spelled.push((range.register(&url, "spelled"), spelling));
    }
    range.publish("spelled");
    for (number, spelling) in SPELLINGS.iter().enumerate() {
        if !spelling.reached.is_empty() {
            let path = format!("/spelled/{number}");
            let dialled = range.network.request(&path).unwrap_or_else(|| panic!("{} is not reached", spelling.host));
            assert_eq!(Ok(dialled.ip()), spelling.reached.parse(), "{}", spelling.host);
        }
    }
    let reached: std::collections::BTreeSet<_> = range.network.connects().into_iter().map(|addr| addr.ip()).collect();
    assert!(reached.len() >= 30, "inner addresses that were connected to while all was allowed: {reached:?}");
    spelled
}

/// The same webhooks after the rules changed: kept connections carry nothing, new ones are not made.
fn nothing_is_reached_any_more(range: &mut Range, spelled: &[(String, &inner::Spelling)]) {
    // Attempts that were under way finish under the rules that they began with.
    std::thread::sleep(Duration::from_millis(200));
    range.network.forget();
    let before = range.network.requests();
    range.publish("spelled");
    for (webhook, spelling) in spelled {
        range.failed(webhook, 2, "forbidden", spelling.says);
        let tested = range.stage.owner.post(&format!("/v1/webhooks/{webhook}/test"), &json!({}));
        assert_eq!(tested.json()["success"], false, "{tested:?}");
    }
    assert_eq!(range.network.connects(), [], "connects to what is not allowed any more");
    assert_eq!(range.network.requests(), before, "requests over kept connections");
}

/// Registering and changing: the verdict comes at once, and names rule and address.
fn nothing_inner_is_registered(range: &mut Range) {
    let owner = &range.stage.owner;
    let public = range.register(&format!("http://{PUBLIC}:8080/"), "never");
    for spelling in SPELLINGS {
        for url in [format!("http://{}/", spelling.host), format!("https://{}:8443/a?b=c", spelling.host)] {
            let body = json!({"url": url, "events": ["never"]});
            for refused in [
                owner.post("/v1/webhooks", &body),
                owner.patch(&format!("/v1/webhooks/{public}"), &json!({"url": url})),
                owner.post("/api/v1/webhooks", &body),
            ] {
                let told = refused.text();
                assert_eq!(refused.status, 422, "{url}: {told}");
                assert!(told.contains("target_forbidden"), "{url}: {told}");
                assert!(spelling.says.iter().all(|part| told.contains(part)), "{:?} in {told}", spelling.says);
            }
            let omnia = json!({"eventTypes": ["ACCOUNT_ACTIVITY"], "target": {"url": url}});
            let told = owner.post("/v3/webhooks", &omnia).expect(400).text();
            assert!(told.contains("INVALID_TARGET"), "{url}: {told}");
        }
    }
    assert_eq!(range.network.connects(), [], "connects while registering");
}

fn names_are_judged_by_all_their_addresses(range: &mut Range) {
    let mut webhooks = Vec::new();
    for name in NAMES {
        for url in [format!("http://{}:8080/named/{}", name.name, name.name), format!("https://{}:8443/", name.name)] {
            webhooks.push((range.register(&url, "named"), name));
        }
    }
    range.publish("named");
    for (webhook, name) in &webhooks {
        range.failed(webhook, 2, name.class, name.says);
    }
    assert_eq!(range.network.connects(), [], "connects to names with a refused address");
    let good = range.register("http://public.range.test:8080/named/public", "public");
    let also = range.register("http://public6.range.test:8080/named/public6", "public");
    range.publish("public");
    assert_eq!(range.network.request("/named/public").expect("the public name").ip(), PUBLIC);
    assert_eq!(range.network.request("/named/public6").expect("the public name").ip(), PUBLIC_V6);
    for webhook in [good, also] {
        assert_eq!(range.stage.attempts(&webhook, 1)[0]["outcome"], "delivered");
    }
    range.network.only_public();
}

/// Rebinding: whatever a name was before, it is judged by what is dialled now.
fn names_that_change_are_judged_each_time(range: &mut Range) {
    // Public once, and then the metadata service; nothing is cached.
    let later = range.register("http://later.range.test:8080/close", "later");
    range.publish("later");
    assert_eq!(range.stage.attempts(&later, 1)[0]["outcome"], "delivered");
    range.publish("later");
    range.failed(&later, 2, "forbidden", &["169.254.169.254", "cloud metadata service"]);
    // Between two attempts of one delivery.
    let between = range.register("http://between.range.test:8080/fail", "between");
    range.publish("between");
    let attempts = range.stage.attempts(&between, 2);
    let classes: Vec<_> = attempts.iter().map(|attempt| attempt["class"].clone()).collect();
    assert_eq!(classes, ["status", "forbidden"], "{attempts:#?}");
    // With every answer: also if one look-up judged and another dialled, half of these would get through.
    let flip = range.register("http://flip.range.test:8080/close", "flip");
    for _ in 0..40 {
        range.publish("flip");
    }
    let attempts = range.stage.attempts(&flip, 40);
    range.network.only_public();
    let of = |outcome: &str| attempts.iter().filter(|attempt| attempt["outcome"] == outcome).count();
    assert!(of("delivered") >= 5 && of("failed") >= 5, "{} and {}", of("delivered"), of("failed"));
}

fn redirects_lead_nowhere(range: &mut Range) {
    let mut webhooks = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        for to in ["169.254.169.254", "127.0.0.1", "[fd00:ec2::254]", "inner.range.test", "public.range.test"] {
            let url = format!("http://public.range.test:8080/redirect/{status}/{to}");
            webhooks.push(range.register(&url, "redirected"));
        }
    }
    range.publish("redirected");
    for webhook in &webhooks {
        let attempts = range.stage.attempts(webhook, 2);
        assert!(attempts.iter().all(|attempt| attempt["class"] == "redirect"), "{attempts:#?}");
    }
    range.network.only_public();
    assert_eq!(range.network.request("/redirected"), None, "a redirect was followed");
}

/// The names and what the name server says of them. Registered in `inner`, those that are refused there.
fn script(server: &mut NameServer) {
    let metadata = "169.254.169.254";
    server
        .says("later.range.test", move |_, time| Reply::addresses(&[if time == 0 { "25.25.25.25" } else { metadata }]));
    server.says("between.range.test", move |_, time| {
        Reply::addresses(&[if time == 0 { "25.25.25.25" } else { metadata }])
    });
    server.says("flip.range.test", move |_, time| {
        Reply::addresses(&[if time.is_multiple_of(2) { "25.25.25.25" } else { metadata }])
    });
    server.says("public.range.test", |_, _| Reply::addresses(&["25.25.25.25"]));
    server.says("public6.range.test", |_, _| Reply::addresses(&["2a00::25"]));
    inner::script(server);
}
