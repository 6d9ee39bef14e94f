//! Promise 12: SIGTERM under load ends with 0, loses nothing and repeats nothing; SIGHUP under load applies a
//! configuration or keeps the old one, whole.
//!
//!     TERMS=200 cargo test --release --test daemon g12 -- --nocapture

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::support::{Client, Daemon, Receiver, Reply, SOON, Stage, StopOnDrop, poll, text};

const PUBLISHERS: usize = 3;
/// Publishers rest at this many events a round, so that what is left for after the restart stays small.
const EVENTS: usize = 400;
/// While it is asked to stop the receiver is slow: something is in flight, and a backlog is left.
const SLOW: Duration = Duration::from_millis(100);

/// Publishes until told to stop, on whatever connection there is.
fn publish(publisher: &Client, acknowledged: &Mutex<HashSet<String>>, stopped: &AtomicBool) {
    let event = json!({"type": "order.created", "tenant": "acme"}).to_string();
    while !stopped.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(2));
        let Ok(mut kept) = publisher.open() else { continue };
        while acknowledged.lock().expect("a list").len() < EVENTS
            && let Ok(answer) = kept.send("POST", "/v1/events", &[], event.clone())
        {
            if answer.status == 201 {
                acknowledged.lock().expect("a list").insert(text(&answer.json(), "id"));
            } else {
                assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn times(receiver: &Receiver) -> HashMap<String, usize> {
    let mut times: HashMap<String, usize> = HashMap::new();
    for request in receiver.requests() {
        *times.entry(request.header("webhook-id").expect("an id").to_owned()).or_default() += 1;
    }
    times
}

/// What the configuration begins with, and what a reload is to make of it: one of these two.
const LIMITS: [&str; 2] = ["limits.event_bytes = \"256 KiB\"", "limits.event_bytes = \"64 KiB\""];
/// An event of this size fits the first of them only.
const PROBE_BYTES: usize = 128 << 10;

/// Which of the limits is in force; an event that fits is one of those that must arrive.
fn limit(publisher: &Client, acknowledged: &Mutex<HashSet<String>>) -> usize {
    let event = json!({"type": "order.created", "tenant": "acme", "data": {"text": "x".repeat(PROBE_BYTES)}});
    let ask = || Some(publisher.post("/v1/events", &event)).filter(|answer| !matches!(answer.status, 429 | 503));
    let answer = poll(SOON, ask);
    let answer = answer.expect("an answer of a daemon that is not too busy");
    if answer.status == 413 {
        return 1;
    }
    acknowledged.lock().expect("a list").insert(text(&answer.expect(201).json(), "id"));
    0
}

/// How often the log says that a reload was taken over, and how often that it was not.
fn told(daemon: &Daemon) -> (usize, usize) {
    let log = daemon.log();
    let refused = log.matches("not reloaded").count();
    (log.matches("reloaded").count() - refused, refused)
}

/// Reloads in the middle of it: the other limit, or the other limit in a configuration that can't be used. Holds the daemon
/// to what it says about it, and to the limit that then must be in force.
fn reload(stage: &Stage, acknowledged: &Mutex<HashSet<String>>, good: bool) {
    let daemon = &stage.daemon;
    let config = std::fs::read_to_string(daemon.config()).expect("a configuration");
    let now = LIMITS.iter().position(|limit| config.contains(limit)).expect("one of the limits");
    assert_eq!(limit(&stage.publisher, acknowledged), now, "before it");
    let other = config.replace(LIMITS[now], LIMITS[1 - now]);
    let unknown = if good { "" } else { "no_such_key = 1\n" };
    let (taken, refused) = told(daemon);
    let wanted = if good { (taken + 1, refused) } else { (taken, refused + 1) };
    std::fs::write(daemon.config(), format!("{unknown}{other}")).expect("a configuration");
    daemon.signal(Signal::HUP);
    let ended = poll(SOON, || Some(told(daemon)).filter(|told| *told != (taken, refused)));
    assert_eq!(ended, Some(wanted), "(reloaded, not reloaded), good: {good}; its log:\n{}", daemon.log());
    let metrics = daemon.admin().get("/metrics").expect(200).text();
    let success = format!("webhookd_reload_success {}", u8::from(good));
    assert!(metrics.lines().any(|line| line == success), "no {success} in:\n{metrics}");
    let then = if good { 1 - now } else { now };
    assert_eq!(limit(&stage.publisher, acknowledged), then, "the limit behind a reload, good: {good}");
    if !good {
        std::fs::write(daemon.config(), config).expect("a configuration");
    }
}

#[test]
fn g12_stops_and_reloads_under_load_lose_and_repeat_nothing() {
    let rounds: usize = std::env::var("TERMS").map_or(10, |rounds| rounds.parse().expect("a number"));
    let mut stage = Stage::start(Daemon::builder().set_text("limits.event_bytes", "256 KiB"));
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let mut all = 0;
    let mut left = 0;
    for round in 0..rounds {
        let (acknowledged, stopped) = (Mutex::new(HashSet::new()), AtomicBool::new(false));
        receiver.set(|_| Reply::ok().after(SLOW));
        let before = receiver.count();
        let publisher = stage.publisher.clone();
        let status = std::thread::scope(|scope| {
            let stopping = StopOnDrop(&stopped);
            for _ in 0..PUBLISHERS {
                scope.spawn(|| publish(&publisher, &acknowledged, &stopped));
            }
            receiver.wait_for(before + 8, SOON);
            reload(&stage, &acknowledged, round % 2 == 0);
            receiver.wait_for(before + 24, SOON);
            let status = stage.daemon.term();
            drop(stopping);
            status
        });
        assert_eq!(status.code(), Some(0), "round {round}; its log:\n{}", stage.daemon.log());
        let arrived = receiver.count() - before;
        receiver.set(|_| Reply::ok());
        stage.daemon.start();
        let acknowledged = acknowledged.into_inner().expect("a list");
        left += acknowledged.len().saturating_sub(arrived);
        all += acknowledged.len();
        let mut counts = HashMap::new();
        let came = poll(3 * SOON, || {
            counts = times(&receiver);
            acknowledged.iter().all(|id| counts.contains_key(id)).then_some(())
        });
        let missing = acknowledged.iter().filter(|id| !counts.contains_key(*id)).count();
        assert!(came.is_some(), "round {round}: {missing} of {} were lost", acknowledged.len());
    }
    std::thread::sleep(Duration::from_millis(300));
    let repeated: Vec<_> = times(&receiver).into_iter().filter(|(_, times)| *times > 1).collect();
    println!(
        "{rounds} stops and reloads: {all} accepted, {left} left for after a restart, {} repeated",
        repeated.len()
    );
    assert!(repeated.is_empty(), "repeated: {repeated:?}");
    assert!(left > 0, "nothing was left for after a restart");
}
