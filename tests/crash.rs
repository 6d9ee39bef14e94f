//! kill -9 of the real binary under load, with receiver and publishers outside of it. The page cache survives a kill, so
//! this proves recovery and the bound on repeats, not the syncs: those need a simulated disk.
//!
//!     KILLS=1000 SEED=7 cargo test --release --test crash g02_kill_nine -- --nocapture

#[path = "crash/first.rs"]
mod first;
#[path = "crash/jobs.rs"]
mod jobs;
mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Client, Daemon, Failed, Kept, Receiver, Reply, Stage, StopOnDrop, poll, text};

/// Requests in flight to one webhook, the contract's default: what one crash may repeat.
const PERMITS: usize = 8;
const PUBLISHERS: u64 = 4;
/// The receiver takes so long for an answer: all permits are in use at every kill, so that the bound on repeats is tested.
const ANSWER: Duration = Duration::from_millis(4);
/// Publishers rest while more than this is acknowledged and has not arrived.
const BACKLOG: usize = 4_000;
/// After the last restart the delivery may pause at most so long until everything has arrived.
const STALL: Duration = Duration::from_secs(30);
/// How long a late repeat is watched for.
const QUIET: Duration = Duration::from_secs(2);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// The books of one run: what was published, what was acknowledged, what arrived and when.
#[derive(Default)]
struct Books {
    /// How many kills there have been.
    epoch: AtomicUsize,
    /// Numbers that were sent, whatever came of it.
    attempted: Mutex<HashSet<u64>>,
    /// Ids that were answered with 201, with their number.
    acknowledged: Mutex<HashMap<String, u64>>,
    arrived: Mutex<HashMap<String, Arrival>>,
    /// Publishes whose fate the publisher does not know.
    unknown: AtomicU64,
}

#[derive(Default)]
struct Arrival {
    numbers: HashSet<u64>,
    /// The epoch of each receipt.
    epochs: Vec<usize>,
}

impl Books {
    fn receive(&self, request: &support::Request) {
        let id = request.header("webhook-id").expect("an id").to_owned();
        let number = request.json()["data"]["number"].as_u64().expect("a number");
        let epoch = self.epoch.load(Ordering::SeqCst);
        let mut arrived = lock(&self.arrived);
        let arrival = arrived.entry(id).or_default();
        arrival.numbers.insert(number);
        arrival.epochs.push(epoch);
    }

    /// Acknowledged and not arrived.
    fn lost(&self) -> Vec<String> {
        let arrived = lock(&self.arrived);
        lock(&self.acknowledged).keys().filter(|id| !arrived.contains_key(*id)).cloned().collect()
    }

    /// Waits until nothing is lost, as long as something goes on arriving.
    fn drain(&self) {
        let mut left = usize::MAX;
        while left > 0 {
            let fewer = poll(STALL, || Some(self.lost().len()).filter(|now| *now < left));
            let Some(fewer) = fewer else { return };
            left = fewer;
        }
    }

    fn backlog(&self) -> usize {
        let arrived = lock(&self.arrived).len();
        lock(&self.acknowledged).len().saturating_sub(arrived)
    }

    /// Arrived and never sent, or with another's number, or one number under two ids.
    fn unexpected(&self) -> Vec<String> {
        let (attempted, acknowledged) = (lock(&self.attempted), lock(&self.acknowledged));
        let mut seen = HashSet::new();
        let arrived = lock(&self.arrived);
        let odd = arrived.iter().filter(|(id, arrival)| {
            let number = arrival.numbers.iter().next().copied().unwrap_or(u64::MAX);
            let known = acknowledged.get(*id).is_none_or(|acknowledged| *acknowledged == number);
            let first = seen.insert(number);
            arrival.numbers.len() != 1 || !attempted.contains(&number) || !known || !first
        });
        odd.map(|(id, _)| id.clone()).collect()
    }

    /// Repeats by the kill that caused them: the one that followed the receipt that was repeated.
    fn repeats(&self) -> HashMap<usize, usize> {
        let mut repeats = HashMap::new();
        for arrival in lock(&self.arrived).values() {
            for epoch in arrival.epochs.iter().rev().skip(1) {
                *repeats.entry(*epoch).or_default() += 1;
            }
        }
        repeats
    }

    /// Arrived although the publisher never got an answer.
    fn recovered(&self) -> usize {
        let acknowledged = lock(&self.acknowledged);
        lock(&self.arrived).keys().filter(|id| !acknowledged.contains_key(*id)).count()
    }
}

/// Publishes without a pause until told to stop; a connection that breaks leaves the fate of its event unknown.
fn publish(client: &Client, books: &Books, numbers: &AtomicU64, stop: &AtomicBool) {
    let mut kept: Option<Kept> = None;
    while !stop.load(Ordering::SeqCst) {
        let Some(connection) = kept.as_mut() else {
            kept = client.open().ok();
            if kept.is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            continue;
        };
        if books.backlog() > BACKLOG {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        lock(&books.attempted).insert(number);
        let body = json!({"type": "crash.event", "tenant": "acme", "data": {"number": number}}).to_string();
        match connection.send("POST", "/v1/events", &[], body) {
            Ok(answer) if answer.status == 201 => {
                lock(&books.acknowledged).insert(text(&answer.json(), "id"), number);
            }
            Ok(answer) => {
                assert!(matches!(answer.status, 429 | 503), "publishing: {answer:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Failed::NotConnected(_) | Failed::Unknown(_)) => {
                books.unknown.fetch_add(1, Ordering::SeqCst);
                kept = None;
            }
        }
    }
}

/// A small generator of pauses, replayable by its seed (xorshift).
struct Pauses(u64);

impl Pauses {
    fn next_ms(&mut self, below: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(self.0 % below)
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.next_ms(chances).is_zero()
    }
}

/// Kills and restarts; every fifth time or so it is killed again while it recovers.
fn kill_loop(daemon: &mut Daemon, receiver: &Receiver, books: &Books, kills: usize, pauses: &mut Pauses) {
    let mut killed = 0;
    while killed < kills {
        std::thread::sleep(Duration::from_millis(50) + pauses.next_ms(350));
        daemon.kill9();
        killed += 1;
        // What the dead process still had on the wire is read by the receiver before the next epoch begins.
        receiver.hangs_up(STALL);
        books.epoch.fetch_add(1, Ordering::SeqCst);
        while killed < kills && pauses.one_in(5) {
            daemon.spawn();
            std::thread::sleep(pauses.next_ms(60));
            daemon.kill9();
            killed += 1;
            receiver.hangs_up(STALL);
            books.epoch.fetch_add(1, Ordering::SeqCst);
        }
        daemon.start();
    }
}

#[test]
fn g02_kill_nine_loses_nothing() {
    let kills = usize::try_from(from_environment("KILLS", 20)).expect("a number of kills");
    let seed = from_environment("SEED", 1).max(1);
    println!("SEED={seed} KILLS={kills}");
    let books = Arc::new(Books::default());
    let receiving = books.clone();
    let receiver = Receiver::forgetful(move |request| {
        receiving.receive(request);
        Reply::ok().after(ANSWER)
    });
    let mut stage = Stage::start(Daemon::builder());
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));

    let (numbers, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        for _ in 0..PUBLISHERS {
            scope.spawn(|| publish(&stage.publisher, &books, &numbers, &stop));
        }
        kill_loop(&mut stage.daemon, &receiver, &books, kills, &mut Pauses(seed));
        std::thread::sleep(Duration::from_millis(200));
        drop(stopping);
    });
    books.drain();
    std::thread::sleep(QUIET);

    let (lost, unexpected, repeats) = (books.lost(), books.unexpected(), books.repeats());
    let recovered = books.recovered();
    let acknowledged = lock(&books.acknowledged).len();
    println!(
        "{kills} kills in {:?}: {acknowledged} acknowledged, {} unknown, {recovered} recovered, {} repeats, {} lost, \
         {} unexpected",
        started.elapsed(),
        books.unknown.load(Ordering::SeqCst),
        repeats.values().sum::<usize>(),
        lost.len(),
        unexpected.len(),
    );
    assert!(lost.is_empty(), "SEED={seed}: acknowledged and lost: {} such as {:?}", lost.len(), lost.first());
    assert!(unexpected.is_empty(), "SEED={seed}: unexpected: {unexpected:?}");
    let beyond: Vec<_> = repeats.iter().filter(|(_, count)| **count > PERMITS).collect();
    assert!(beyond.is_empty(), "SEED={seed}: more than {PERMITS} repeats (kill, repeats): {beyond:?}");
    assert!(!repeats.contains_key(&kills), "SEED={seed}: repeats without a kill: {repeats:?}");
    assert!(acknowledged > kills, "SEED={seed}: there was load");
}

#[test]
fn g02_without_a_crash_nothing_is_repeated() {
    const BATCH: u64 = 100;
    let events = from_environment("EVENTS", 20_000);
    let books = Arc::new(Books::default());
    let receiving = books.clone();
    let receiver = Receiver::forgetful(move |request| {
        receiving.receive(request);
        Reply::ok()
    });
    let stage = Stage::start(Daemon::builder());
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let mut connection = stage.publisher.open().expect("a connection");
    for first in (0..events).step_by(usize::try_from(BATCH).expect("a size")) {
        let numbers = first..events.min(first + BATCH);
        let batch: Vec<_> = numbers
            .clone()
            .map(|number| json!({"type": "clean.event", "tenant": "acme", "data": {"number": number}}))
            .collect();
        lock(&books.attempted).extend(numbers.clone());
        let body = json!({"events": batch}).to_string();
        let answer = connection.send("POST", "/v1/events/batch", &[], body).expect("an answer").expect(201).json();
        let made = answer["events"].as_array().cloned().unwrap_or_default();
        assert_eq!(made.len(), batch.len());
        lock(&books.acknowledged).extend(made.iter().map(|event| text(event, "id")).zip(numbers));
    }
    books.drain();
    std::thread::sleep(QUIET);
    assert_eq!(books.lost(), Vec::<String>::new(), "lost");
    assert_eq!(books.unexpected(), Vec::<String>::new(), "unexpected");
    assert_eq!(books.repeats(), HashMap::new(), "repeats");
    assert_eq!(receiver.count() as u64, events);
}
