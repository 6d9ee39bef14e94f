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

use super::support::{Client, Daemon, Receiver, Reply, SOON, Stage, poll, text};

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

/// Reloads in the middle of it: a good configuration, or one that can't be used.
fn reload(daemon: &Daemon, good: bool) {
    let config = std::fs::read_to_string(daemon.config()).expect("a configuration");
    let ends = |log: &str| log.matches("reload").count();
    let before = ends(&daemon.log());
    if !good {
        std::fs::write(daemon.config(), format!("{config}\nno_such_key = 1\n")).expect("a configuration");
    }
    daemon.signal(Signal::HUP);
    poll(SOON, || (ends(&daemon.log()) > before).then_some(())).expect("a word about the reload");
    std::fs::write(daemon.config(), config).expect("a configuration");
}

#[test]
fn g12_stops_and_reloads_under_load_lose_and_repeat_nothing() {
    let rounds: usize = std::env::var("TERMS").map_or(10, |rounds| rounds.parse().expect("a number"));
    let mut stage = Stage::start(Daemon::builder());
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
            for _ in 0..PUBLISHERS {
                scope.spawn(|| publish(&publisher, &acknowledged, &stopped));
            }
            receiver.wait_for(before + 8, SOON);
            reload(&stage.daemon, round % 2 == 0);
            receiver.wait_for(before + 24, SOON);
            let status = stage.daemon.term();
            stopped.store(true, Ordering::SeqCst);
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
