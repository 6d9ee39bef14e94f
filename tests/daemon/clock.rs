//! Promise 11 on the real binary: the machine's clock jumps by up to 400 days, while the daemon works and between its lives.
//! libfaketime tells the daemon, and nobody else, the time.
//!
//!     JUMPS=3000 SEED=7 cargo test --release --test daemon g11_a_clock -- --nocapture

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::support::{Daemon, Receiver, Reply, Request, SOON, Stage, library_of_false_time, poll, text, unix_seconds};

const PLANS: &str = "[plans.later]\ndelays = [\"1s\"]\njitter = 0.0\n[plans.steps]\ndelays = [\"300ms\", \"400ms\", \"500ms\"]\njitter = 0.0\n[circuit]\nfailures = 0";
const DELAYS: [Duration; 3] = [Duration::from_millis(300), Duration::from_millis(400), Duration::from_millis(500)];
/// What the daemon's milliseconds and the receiver's may differ by.
const CLOCK_STEP: Duration = Duration::from_millis(2);
const DAYS_MOST: i64 = 400;
const DAY_S: i64 = 86_400;
/// By how many days the clock is wrong at each start. Every start may make the store three days older, by promise, and events are
/// kept for thirty.
const STARTS: [i64; 5] = [-DAYS_MOST, DAYS_MOST, 0, 2 * DAYS_MOST, -DAYS_MOST];
/// Requests in flight to one webhook, the contract's default: what one kill may repeat.
const PERMITS: usize = 8;

/// The daemon's clock.
struct Lie {
    file: PathBuf,
    chance: u64,
    days: i64,
}

impl Lie {
    /// By how many days the clock is wrong from now on.
    fn tell(&mut self, days: i64) {
        self.days = days;
        // At once in place: the daemon reads it whenever it looks at the clock.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{days:+}d")).expect("a file");
        std::fs::rename(new, &self.file).expect("a file in its place");
    }

    fn jump(&mut self) {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = i64::try_from(self.chance >> 33).expect("31 bits");
        self.tell(drawn % (2 * DAYS_MOST + 1) - DAYS_MOST);
    }

    /// Whether `at` is what the daemon's clock says. Were the library not in force, every jump would pass unseen.
    #[track_caller]
    fn is_believed(&self, at: &str) {
        let at: jiff::Timestamp = at.parse().expect("a time");
        let said = i64::try_from(unix_seconds()).expect("a time") + self.days * DAY_S;
        assert!((at.as_second() - said).abs() < 3_600, "{at} is not {} days from now", self.days);
    }
}

fn times(receiver: &Receiver) -> HashMap<String, Vec<Request>> {
    let mut times: HashMap<String, Vec<Request>> = HashMap::new();
    for request in receiver.requests() {
        times.entry(request.header("webhook-id").expect("an id").to_owned()).or_default().push(request);
    }
    times
}

/// Every attempt of the plan was made, none early.
fn keeps_its_plan(requests: &[Request]) {
    assert_eq!(requests.len(), 1 + DELAYS.len());
    for (pair, delay) in requests.windows(2).zip(DELAYS) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited + CLOCK_STEP >= delay, "early: {waited:?} of {delay:?}");
    }
}

/// A daemon that is lied to, with a receiver that takes everything of `order.*`, and one that takes nothing of `doomed`.
struct Town {
    stage: Stage,
    lie: Lie,
    good: Receiver,
    broken: Receiver,
    _folder: tempfile::TempDir,
}

impl Town {
    fn new() -> Self {
        let seed: u64 = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("a number"));
        println!("SEED={seed}");
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mut lie = Lie { file: folder.path().join("time"), chance: seed, days: 0 };
        lie.tell(0);
        let builder = Daemon::builder().extra(PLANS).env("LD_PRELOAD", &library_of_false_time().display().to_string());
        let builder = builder.env("FAKETIME_TIMESTAMP_FILE", &lie.file.display().to_string());
        let builder = builder.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let (good, broken) = (Receiver::ok(), Receiver::with(|_| Reply::status(500)));
        let town = Self { stage: Stage::start(builder), lie, good, broken, _folder: folder };
        town.webhook(&town.good, "order.*");
        town.webhook(&town.broken, "doomed");
        town
    }

    fn webhook(&self, receiver: &Receiver, events: &str) {
        self.stage.register(&json!({"url": receiver.url("/"), "events": [events], "plan": "steps"}));
    }

    fn publish(&self, kind: &str) -> String {
        text(&self.stage.publish(&json!({"type": kind, "tenant": "acme"})), "id")
    }

    /// Publishes with an idempotency key and waits until it has come; gives its id.
    fn delivered(&self, key: &str) -> String {
        let event = json!({"type": "order.created", "tenant": "acme"}).to_string();
        let publish = || {
            let headers = [("content-type", "application/json"), ("idempotency-key", key)];
            self.stage.publisher.send("POST", "/v1/events", &headers, event.clone()).expect(201).json()
        };
        let made = publish();
        let id = text(&made, "id");
        let read = self.stage.owner.get(&format!("/v1/events/{id}")).expect(200).json();
        self.lie.is_believed(&text(&read, "created_at"));
        let came = poll(SOON, || times(&self.good).contains_key(&id).then_some(()));
        assert!(
            came.is_some(),
            "{key} ({} days off) does not come; the log:\n{}",
            self.lie.days,
            self.stage.daemon.log()
        );
        assert_eq!(publish()["id"], made["id"], "the key {key} is forgotten");
        id
    }

    /// The events of the dead letters, once these are among them.
    fn dead(&self, wanted: &[String]) -> Vec<String> {
        let letters = || {
            let page = self.stage.owner.get("/v1/dead-letters?limit=100").expect(200).json();
            let letters = page["data"].as_array().expect("letters").iter().map(|letter| text(letter, "event"));
            let letters: Vec<String> = letters.collect();
            wanted.iter().all(|event| letters.contains(event)).then_some(letters)
        };
        poll(SOON, letters).unwrap_or_else(|| panic!("{wanted:?} do not die, {} days off", self.lie.days))
    }
}

#[test]
fn g11_a_clock_that_jumps_by_400_days_loses_bursts_and_stalls_nothing() {
    let jumps: usize = std::env::var("JUMPS").map_or(50, |jumps| jumps.parse().expect("a number"));
    let mut town = Town::new();
    let doomed: Vec<String> = (0..4).map(|_| town.publish("doomed")).collect();
    for jump in 0..jumps {
        town.lie.jump();
        town.delivered(&format!("{jump}"));
    }
    town.dead(&doomed);
    let attempts = times(&town.broken);
    doomed.iter().for_each(|event| keeps_its_plan(&attempts[event]));
    assert_eq!((attempts.len(), times(&town.good).len()), (doomed.len(), jumps), "nothing came that was not published");
    assert_eq!(town.good.count(), jumps, "nothing came twice");
}

#[test]
fn g11_a_start_with_a_wrong_clock_loses_and_stalls_nothing() {
    let mut town = Town::new();
    let first = |request: &Request| request.header("webhook-attempt") == Some("1");
    let late = Receiver::with(move |request| if first(request) { Reply::status(500) } else { Reply::ok() });
    let webhook = town.stage.register(&json!({"url": late.url("/"), "events": ["late"], "plan": "later"}));
    let (mut events, mut doomed) = (Vec::new(), Vec::new());
    for (start, days) in STARTS.into_iter().enumerate() {
        // What waits to be tried again is tried again, whatever the clock says then.
        let waiting = town.publish("late");
        town.stage.attempts(&text(&webhook, "id"), 2 * start + 1);
        town.stage.daemon.kill9();
        town.lie.tell(days);
        town.stage.daemon.start();
        let came = poll(SOON, || times(&late).get(&waiting).filter(|requests| requests.len() == 2).map(drop));
        assert!(came.is_some(), "{waiting} is not tried again, {days} days off");
        events.push(town.delivered(&format!("{start}")));
        // A receiver each: one that fails for five days is disabled, and two starts may pass for six.
        let kind = format!("doomed{start}");
        town.webhook(&town.broken, &kind);
        doomed.push(town.publish(&kind));
        town.dead(&doomed);
        keeps_its_plan(&times(&town.broken)[&doomed[start]]);
        for event in &events {
            town.stage.owner.get(&format!("/v1/events/{event}")).expect(200);
        }
    }
    let repeats = town.good.count() - times(&town.good).len();
    println!("{repeats} repeats in {} starts", STARTS.len());
    assert!(repeats <= STARTS.len() * PERMITS, "{repeats} repeats");
    assert_eq!(times(&town.good).len(), events.len(), "nothing came that was not published");
}
