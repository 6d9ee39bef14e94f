//! Dead letters redriven by the many: killed in the middle of it, and beside fresh traffic.
//!
//!     LETTERS=100000 KILLS=20 cargo test --release --test crash g02_kill_nine_amid -- --nocapture
//!     LETTERS=1000000 cargo test --release --test crash redriving_leaves -- --ignored --nocapture

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Daemon, Receiver, Reply, Stage, StopOnDrop, poll, text};
use super::{ANSWER, Books, PERMITS, Pauses, QUIET, STALL, from_environment, lock};

const BATCH: u64 = 1_000;
/// Letters are made with more permits than what is proven is about.
const MAKING_PERMITS: u64 = 256;

/// Makes dead letters: `letters` events for a receiver that fails, by a plan that gives up at once. Gives its webhook.
fn make_letters(stage: &Stage, receiver: &Receiver, books: &Books, letters: u64) -> String {
    receiver.set(|_| Reply::status(500));
    let body = json!({"url": receiver.url("/"), "events": ["dead.*"], "plan": "once", "max_in_flight": MAKING_PERMITS});
    let webhook = text(&stage.register(&body), "id");
    let mut connection = stage.publisher.open().expect("a connection");
    for first in (0..letters).step_by(usize::try_from(BATCH).expect("a size")) {
        let numbers = first..letters.min(first + BATCH);
        let event = |number: u64| json!({"type": "dead.event", "tenant": "acme", "data": {"number": number}});
        let body = json!({"events": numbers.clone().map(event).collect::<Vec<_>>()}).to_string();
        let answer = connection.send("POST", "/v1/events/batch", &[], body).expect("an answer").expect(201).json();
        let ids = answer["events"].as_array().expect("events").iter().map(|event| text(event, "id"));
        lock(&books.attempted).extend(numbers.clone());
        lock(&books.acknowledged).extend(ids.zip(numbers));
    }
    let mut dead = 0;
    while dead < letters {
        let more = || Some(figure(stage, "dead")).filter(|now| *now > dead);
        dead = poll(STALL, more).unwrap_or_else(|| panic!("{dead} of {letters} deliveries are dead"));
    }
    webhook
}

fn figure(stage: &Stage, name: &str) -> u64 {
    stage.daemon.admin().get("/admin/stats").expect(200).json()["deliveries"][name].as_u64().expect("a number")
}

fn builder() -> super::support::Builder {
    Daemon::builder().set("circuit.failures", "0").extra("[plans.once]\ndelays = []")
}

fn redrive(stage: &Stage, body: &Value) -> Value {
    stage.owner.post("/v1/dead-letters/redrive", body).expect(202).json()["job"].clone()
}

fn job(stage: &Stage, id: &str) -> Value {
    stage.owner.get(&format!("/v1/jobs/{id}")).expect(200).json()["job"].clone()
}

fn done(job: &Value) -> u64 {
    job["done"].as_u64().expect("a number")
}

#[test]
fn g02_kill_nine_amid_a_redrive_delivers_each() {
    let letters = from_environment("LETTERS", 3_000);
    let kills = from_environment("KILLS", 4);
    let seed = from_environment("SEED", 1).max(1);
    println!("SEED={seed} KILLS={kills} LETTERS={letters}");
    let (books, mut pauses) = (Arc::new(Books::default()), Pauses(seed));
    let receiver = Receiver::forgetful(|_| Reply::ok());
    let mut stage = Stage::start(builder());
    let webhook = make_letters(&stage, &receiver, &books, letters);
    let permits = json!({"max_in_flight": PERMITS});
    stage.owner.patch(&format!("/v1/webhooks/{webhook}"), &permits).expect(200);
    let receiving = books.clone();
    receiver.set(move |request| {
        receiving.receive(request);
        Reply::ok().after(ANSWER)
    });

    let started = Instant::now();
    let begun = redrive(&stage, &json!({"webhook": webhook}));
    let (id, mut seen, mut amid) = (text(&begun, "id"), 0, 0);
    assert_eq!(begun["total"], letters);
    for kill in 0..kills {
        let target = letters * kill / kills;
        let is_there = || Some(job(&stage, &id)).filter(|job| done(job) > target || job["state"] != "running");
        let before = poll(STALL, is_there).expect("a job that goes on");
        std::thread::sleep(pauses.next_ms(4));
        stage.daemon.kill9();
        receiver.hangs_up(STALL);
        books.epoch.fetch_add(1, Ordering::SeqCst);
        stage.daemon.start();
        let after = job(&stage, &id);
        assert!(done(&after) >= done(&before) && done(&before) >= seen, "SEED={seed}: {before} became {after}");
        amid += u64::from(after["state"] == "running");
        seen = done(&after);
    }
    let ended = poll(STALL * 10, || Some(job(&stage, &id)).filter(|job| job["state"] != "running")).expect("an end");
    let moved = started.elapsed();
    books.drain();
    std::thread::sleep(QUIET);
    let (lost, unexpected, repeats) = (books.lost(), books.unexpected(), books.repeats());
    println!(
        "{letters} letters redriven in {moved:?}, arrived in {:?}; {kills} kills, {amid} amid the job, {} repeats, {} lost",
        started.elapsed(),
        repeats.values().sum::<usize>(),
        lost.len()
    );
    let counts = ["state", "total", "done", "skipped", "failed"].map(|name| ended[name].clone());
    assert_eq!(counts, [json!("done"), json!(letters), json!(letters), json!(0), json!(0)], "SEED={seed}");
    assert!(lost.is_empty(), "SEED={seed}: redriven and lost: {} such as {:?}", lost.len(), lost.first());
    assert!(unexpected.is_empty(), "SEED={seed}: unexpected: {unexpected:?}");
    let beyond: Vec<_> = repeats.iter().filter(|(_, count)| **count > PERMITS).collect();
    assert!(beyond.is_empty(), "SEED={seed}: more than {PERMITS} repeats (kill, repeats): {beyond:?}");
    assert!(!repeats.contains_key(&usize::try_from(kills).expect("a number")), "SEED={seed}: {repeats:?}");
    assert!(amid > 0, "SEED={seed}: no kill came while the job ran");
    assert_eq!((figure(&stage, "dead"), figure(&stage, "queued")), (0, 0));
}

/// How fresh events fared for a while: how many a second, and how long a 201 and a delivery took, in ms.
struct Fared {
    rate: f64,
    answered: [f64; 2],
    arrived: [f64; 2],
}

/// Median and 99th percentile.
fn percentiles(mut all: Vec<Duration>) -> [f64; 2] {
    all.sort_unstable();
    [50, 99].map(|percent| {
        let place = (all.len() * percent / 100).min(all.len().saturating_sub(1));
        all.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
    })
}

/// Publishes fresh events from four connections, a pause between two of each, while `until` says so.
fn publish_fresh(stage: &Stage, fresh: &Receiver, pause: Duration, until: impl Fn() -> bool) -> Fared {
    let (stop, started) = (AtomicBool::new(false), Instant::now());
    let arrived = Arc::new(std::sync::Mutex::new(Vec::new()));
    let arriving = arrived.clone();
    fresh.set(move |request| {
        let sent = request.json()["data"]["us"].as_u64().expect("a time");
        let now = u64::try_from(started.elapsed().as_micros()).expect("a time");
        lock(&arriving).push(Duration::from_micros(now.saturating_sub(sent)));
        Reply::ok()
    });
    let answered = std::sync::Mutex::new(Vec::new());
    let count = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        for _ in 0..super::PUBLISHERS {
            scope.spawn(|| {
                let mut connection = stage.publisher.open().expect("a connection");
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let us = u64::try_from((begun - started).as_micros()).expect("a time");
                    let body = json!({"type": "fresh.event", "tenant": "acme", "data": {"us": us}}).to_string();
                    connection.send("POST", "/v1/events", &[], body).expect("an answer").expect(201);
                    lock(&answered).push(begun.elapsed());
                    count.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(pause);
                }
            });
        }
        while until() {
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(stopping);
    });
    let rate = count.load(Ordering::SeqCst) as f64 / started.elapsed().as_secs_f64();
    poll(STALL, || (lock(&arrived).len() as u64 >= count.load(Ordering::SeqCst)).then_some(())).expect("all of them");
    let answered = answered.into_inner().expect("a list");
    let arrived = std::mem::take(&mut *lock(&arrived));
    Fared { rate, answered: percentiles(answered), arrived: percentiles(arrived) }
}

#[test]
#[ignore = "measures for minutes; the release build, on a machine of its own"]
fn redriving_leaves_fresh_traffic_alone() {
    let letters = from_environment("LETTERS", 200_000);
    let window = Duration::from_secs(from_environment("SECONDS", 15));
    let books = Books::default();
    let (dead, fresh) = (Receiver::forgetful(|_| Reply::ok()), Receiver::forgetful(|_| Reply::ok()));
    let stage = Stage::start(builder());
    let webhook = make_letters(&stage, &dead, &books, letters);
    stage.register(&json!({"url": fresh.url("/"), "events": ["fresh.*"]}));
    let permits = json!({"max_in_flight": PERMITS});
    stage.owner.patch(&format!("/v1/webhooks/{webhook}"), &permits).expect(200);
    dead.set(|_| Reply::ok());
    println!("{letters} dead letters; per second, then p50/p99 in ms of the 201 and of the arrival");
    for (name, pause) in [("paced", Duration::from_millis(8)), ("as fast as it goes", Duration::ZERO)] {
        let tell = |when: &str, fared: &Fared| {
            let Fared { rate, answered: [a50, a99], arrived: [d50, d99] } = fared;
            println!("{name:20} {when:10} {rate:8.0}/s  201 {a50:6.1} {a99:6.1}  arrived {d50:6.1} {d99:6.1}");
        };
        let for_a_while = || {
            let end = Instant::now() + window;
            move || Instant::now() < end
        };
        tell("without", &publish_fresh(&stage, &fresh, pause, for_a_while()));
        let count = stage.owner.post("/v1/dead-letters/redrive", &json!({"dry_run": true})).expect(200).json();
        let begun = Instant::now();
        let id = text(&redrive(&stage, &json!({})), "id");
        println!("{name:20} counted and begun in {:?}: {}", begun.elapsed(), count["count"]);
        tell("redriving", &publish_fresh(&stage, &fresh, pause, for_a_while()));
        let state = job(&stage, &id);
        println!("{name:20} {} of {} redriven in {:?}", done(&state), state["total"], begun.elapsed());
        stage.owner.delete(&format!("/v1/jobs/{id}")).expect(200);
        // The next round begins without what is still to be delivered of this one.
        stage.owner.post(&format!("/v1/webhooks/{webhook}/pause"), &json!({})).expect(200);
        tell("without", &publish_fresh(&stage, &fresh, pause, for_a_while()));
        stage.owner.post(&format!("/v1/webhooks/{webhook}/resume"), &json!({})).expect(200);
    }
    let begun = Instant::now();
    let id = text(&redrive(&stage, &json!({})), "id");
    let ended = || Some(job(&stage, &id)).filter(|job| job["state"] != "running");
    let last = poll(Duration::from_secs(3_600), ended).expect("an end");
    println!("the other {} with nothing beside them in {:?}", done(&last), begun.elapsed());
    assert_eq!(last["state"], "done");
}
