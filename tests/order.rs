//! Order by key, cancelling and pausing, as a publisher, a receiver and an operator see them: the real binary, killed in the
//! middle.
//!
//!     KILLS=100 SEED=7 cargo test --release --test order each_key -- --nocapture

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Builder, Client, Daemon, Receiver, Reply, SOON, Stage, poll, text};

const KEYS: u64 = 6;
/// The receiver takes so long for an answer, so that something is under way at every kill.
const ANSWER: Duration = Duration::from_millis(3);
/// Attempts of the plan that these tests use.
const ATTEMPTS: usize = 4;
const PLAN: &str = "[plans.quick]\ndelays = [\"20ms\", \"40ms\", \"60ms\"]\njitter = 0.0\n[circuit]\nfailures = 0";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

fn quick() -> Builder {
    Daemon::builder().extra(PLAN)
}

/// What a receiver has seen of one key.
#[derive(Default)]
struct Line {
    /// The newest event that has come, and how often each came.
    newest: u64,
    times: HashMap<u64, usize>,
    ended: HashMap<u64, bool>,
    /// The ids that each event came with, or was accepted with: each has one idempotency key, so it is one.
    ids: HashMap<u64, HashSet<String>>,
    busy_until: Option<Instant>,
}

#[derive(Default)]
struct Books {
    lines: Mutex<HashMap<u64, Line>>,
    /// Accepts that were known already: the answer to the first asking was lost.
    replayed: AtomicUsize,
    /// What must not be.
    wrong: Mutex<Vec<String>>,
}

/// Some events fail at first, some for good.
fn fails(number: u64, times: usize) -> bool {
    number % 13 == 5 || (number.is_multiple_of(3) && times == 1) || (number.is_multiple_of(7) && times <= 2)
}

impl Books {
    fn receive(&self, request: &support::Request) -> Reply {
        let data = request.json()["data"].clone();
        let number = |name: &str| data[name].as_u64().unwrap_or_else(|| panic!("{name} in {data}"));
        let (key, number) = (number("key"), number("number"));
        let mut lines = lock(&self.lines);
        let line = lines.entry(key).or_default();
        let now = Instant::now();
        let mut wrong = Vec::new();
        if line.busy_until.is_some_and(|until| now < until) {
            wrong.push("comes while another is under way");
        }
        if number < line.newest {
            wrong.push("comes after a later one");
        }
        if number > line.newest + 1 {
            wrong.push("comes before an earlier one");
        }
        if number > line.newest && line.newest > 0 && line.ended.get(&line.newest) != Some(&true) {
            wrong.push("comes before the one before it has ended");
        }
        lock(&self.wrong).extend(wrong.iter().map(|what| format!("{number} of key {key} {what} ({})", line.newest)));
        line.newest = line.newest.max(number);
        line.busy_until = Some(now + ANSWER);
        let id = request.header("webhook-id").expect("an id").to_owned();
        line.ids.entry(number).or_default().insert(id);
        let times = line.times.entry(number).or_default();
        *times += 1;
        let fails = fails(number, *times);
        line.ended.insert(number, !fails || *times >= ATTEMPTS);
        Reply::status(if fails { 500 } else { 200 }).after(ANSWER)
    }

    fn accepted(&self, key: u64, number: u64, id: String) {
        lock(&self.lines).entry(key).or_default().ids.entry(number).or_default().insert(id);
    }

    fn newest(&self, key: u64) -> u64 {
        lock(&self.lines).get(&key).map_or(0, |line| line.newest)
    }

    fn ended(&self, key: u64, number: u64) -> bool {
        lock(&self.lines).get(&key).is_some_and(|line| line.ended.get(&number) == Some(&true))
    }
}

/// Publishes events of one key one after the other, each until it is accepted; gives how many.
fn publish(client: &Client, key: u64, books: &Books, stop: &AtomicBool) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        // Ahead of the receiver, so that others wait for the one under way, but not without end.
        if number > books.newest(key) + 30 {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        number += 1;
        let data = json!({"key": key, "number": number});
        let body = json!({"type": "line.event", "tenant": "acme", "ordering_key": format!("key-{key}"), "data": data})
            .to_string();
        let once = format!("{key}-{number}");
        let accepted = poll(SOON, || {
            let answer = client.try_send("POST", "/v1/events", &[("idempotency-key", &once)], body.clone());
            let accepted = answer.ok().filter(|answer| answer.status == 201);
            if accepted.is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            accepted
        });
        let accepted = accepted.unwrap_or_else(|| panic!("{number} of key {key} is never accepted"));
        books.accepted(key, number, text(&accepted.json(), "id"));
        if accepted.header("idempotent-replayed").is_some() {
            books.replayed.fetch_add(1, Ordering::SeqCst);
        }
    }
    number
}

#[test]
fn each_key_keeps_its_order_without_overlap_through_kill_nine() {
    let kills = from_environment("KILLS", 10);
    let mut seed = from_environment("SEED", 1).max(1);
    println!("SEED={seed} KILLS={kills}");
    let books = Arc::new(Books::default());
    let receiving = books.clone();
    let receiver = Receiver::forgetful(move |request| receiving.receive(request));
    let mut stage = Stage::start(quick());
    stage.register(&json!({"url": receiver.url("/"), "events": ["line.event"], "plan": "quick"}));
    let free = Arc::new(AtomicUsize::new(0));
    let counting = free.clone();
    let unordered = Receiver::forgetful(move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        Reply::ok()
    });
    stage.register(&json!({"url": unordered.url("/"), "events": ["*"], "plan": "quick"}));

    let stop = AtomicBool::new(false);
    let published: Vec<u64> = std::thread::scope(|scope| {
        let (publisher, books, stop) = (&stage.publisher, &*books, &stop);
        let lines: Vec<_> = (1..=KEYS).map(|key| scope.spawn(move || publish(publisher, key, books, stop))).collect();
        for _ in 0..kills {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            std::thread::sleep(Duration::from_millis(100 + seed % 400));
            stage.daemon.kill9();
            // What the dead process still had on the wire is answered before the next one begins.
            std::thread::sleep(Duration::from_millis(50));
            stage.daemon.start();
        }
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::SeqCst);
        lines.into_iter().map(|line| line.join().expect("a publisher")).collect()
    });
    let last = |key: u64| published[usize::try_from(key).expect("a key") - 1];
    let done = poll(Duration::from_secs(60), || (1..=KEYS).all(|key| books.ended(key, last(key))).then_some(()));
    assert_eq!(*lock(&books.wrong), Vec::<String>::new());
    assert!(
        done.is_some(),
        "published {published:?}, came to {:?}",
        (1..=KEYS).map(|k| books.newest(k)).collect::<Vec<_>>()
    );
    let lines = lock(&books.lines);
    for key in 1..=KEYS {
        let line = &lines[&key];
        assert_eq!(line.times.len() as u64, last(key), "every event of key {key} has come");
        let made_twice: Vec<_> = line.ids.iter().filter(|(_, ids)| ids.len() != 1).collect();
        assert!(made_twice.is_empty(), "one idempotency key, several events of key {key}: {made_twice:?}");
    }
    let (events, times): (u64, usize) =
        (published.iter().sum(), lines.values().flat_map(|line| line.times.values()).sum());
    let replayed = books.replayed.load(Ordering::SeqCst);
    println!(
        "{events} events of {KEYS} keys in {times} attempts, {} to the other receiver, {replayed} accepted before",
        free.load(Ordering::SeqCst)
    );
    assert!(events > kills * KEYS, "there was load");
    // A few kills may all miss the moment between a commit and its answer.
    assert!(kills < 100 || replayed > 0, "a kill took an answer");
}

#[test]
fn a_failing_event_holds_its_key_until_it_is_cancelled_and_nothing_else() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::with(|request| {
        let bad = request.json()["data"]["bad"] == true;
        Reply::status(if bad { 500 } else { 200 })
    });
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let publish = |key: Option<&str>, bad: bool| {
        let mut body = json!({"type": "order.created", "tenant": "acme", "data": {"bad": bad}});
        if let Some(key) = key {
            body["ordering_key"] = json!(key);
        }
        text(&stage.publish(&body), "id")
    };
    let first = publish(Some("a"), true);
    stage.explained(&first, |delivery| delivery["waiting_for"]["what"] == "backoff");
    let (second, third) = (publish(Some("a"), false), publish(Some("a"), false));
    let others = [publish(Some("b"), false), publish(None, false)];
    for other in others {
        stage.explained(&other, |delivery| delivery["state"] == "delivered");
    }
    for held in [&second, &third] {
        let held = stage.explained(held, |delivery| delivery["waiting_for"]["what"] == "order");
        assert_eq!(held["waiting_for"]["event"], first.as_str(), "{held}");
    }
    assert_eq!(receiver.count(), 3);
    let cancelled = stage.owner.delete(&format!("/v1/events/{first}/deliveries")).expect(200).json();
    assert_eq!(cancelled, json!({"cancelled": 1}));
    stage.explained(&third, |delivery| delivery["state"] == "delivered");
    assert_eq!(stage.explained(&first, |_| true)["state"], "cancelled");
    let came: Vec<String> = receiver.requests()[3..].iter().map(|request| text(&request.json(), "id")).collect();
    assert_eq!(came, [second, third]);
}

#[test]
fn a_cancelled_event_is_not_tried_again() {
    let stage = Stage::start(quick());
    let receiver = Receiver::with(|_| Reply::status(500).after(Duration::from_millis(300)));
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"], "plan": "quick", "max_in_flight": 1}));
    let event = |n: u64| text(&stage.publish(&json!({"type": "a", "tenant": "acme", "data": {"n": n}})), "id");
    let (under_way, waiting) = (event(1), event(2));
    receiver.wait_for(1, SOON);
    for id in [&under_way, &waiting] {
        let path = format!("/v1/events/{id}/deliveries");
        assert_eq!(stage.owner.delete(&path).expect(200).json(), json!({"cancelled": 1}));
        assert_eq!(stage.owner.delete(&path).expect(200).json(), json!({"cancelled": 0}));
    }
    let ended = stage.explained(&under_way, |delivery| delivery["attempts"].as_array().is_some_and(|a| a.len() == 1));
    assert_eq!((&ended["state"], &ended["attempts"][0]["next_attempt_at"]), (&json!("cancelled"), &Value::Null));
    receiver.stays_at(1, Duration::from_millis(500));
    assert_eq!(stage.explained(&waiting, |_| true)["state"], "cancelled");
}

#[test]
fn a_pause_outlives_kill_nine_and_loses_nothing() {
    const EVENTS: usize = 40;
    let mut stage = Stage::start(quick());
    let receiver = Receiver::ok();
    let webhook = text(&stage.register(&json!({"url": receiver.url("/"), "events": ["*"]})), "id");
    let paused = stage.daemon.admin().post("/admin/pause", &json!({"tenant": "acme"})).expect(200).json();
    assert_eq!((&paused["data"][0]["scope"], &paused["data"][0]["tenant"]), (&json!("tenant"), &json!("acme")));
    let publish = |stage: &Stage, n: usize| {
        let event = stage.publish(&json!({"type": "a", "tenant": "acme", "data": {"n": n}}));
        assert_eq!(event["deliveries"], 1);
        text(&event, "id")
    };
    let mut events: Vec<String> = (0..EVENTS).map(|n| publish(&stage, n)).collect();
    stage.daemon.kill9();
    stage.daemon.start();
    assert_eq!(stage.daemon.admin().get("/admin/pause").expect(200).json(), paused);
    events.push(publish(&stage, EVENTS));
    let waits = stage.explained(&events[0], |delivery| delivery["state"] == "pending");
    assert_eq!(waits["waiting_for"]["what"], "paused");
    let path = format!("/v1/webhooks/{webhook}");
    assert_eq!(stage.owner.get(&path).expect(200).json()["paused"], true);
    receiver.stays_at(0, Duration::from_millis(500));
    let test = stage.owner.post(&format!("{path}/test"), &json!({})).expect(200).json();
    assert_eq!(test["success"], true, "a test goes all the same");
    receiver.wait_for(1, SOON);
    let resumed = stage.daemon.admin().post("/admin/resume", &json!({"tenant": "acme"})).expect(200).json();
    assert_eq!(resumed, json!({"data": []}));
    receiver.wait_for(1 + events.len(), SOON);
    receiver.stays_at(1 + events.len(), Duration::from_millis(300));
    assert!(receiver.in_hand_most() <= 8, "no more at once than there are permits");
    let mut came: Vec<String> = receiver.requests()[1..].iter().map(|request| text(&request.json(), "id")).collect();
    came.sort();
    events.sort();
    assert_eq!(came, events, "each once");
}
