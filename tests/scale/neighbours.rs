//! Promise 6 on the real binary: a black hole and a dripping receiver, with a backlog each, are not felt by their healthy
//! neighbours; nor is it when half of all receivers are dead. Rounds with and without them take turns within one run; the ratio
//! is of the calmest of each.
//!
//!     RECEIVERS=1000 cargo test --release --test scale g06_half -- --nocapture

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Daemon, Receiver, Reply, SOON, Stage, free_port, poll, tenant, tenant_key, text};
use super::{batch, from_environment};

const RATIO_MAX: f64 = 1.5;
/// Differences below this are the scheduler's.
const NOISE: Duration = Duration::from_millis(4);
const ROUNDS_MIN: usize = 4;
/// On a loaded machine the calmest rounds are longer in coming.
const ROUNDS_MAX: usize = 16;
const BACKLOG: u64 = 1_000;
/// Between two events: a debug binary makes some 4,000 deliveries a second or more, and a queue is not what is measured.
const PACE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 25 } else { 10 });

type Arrivals = Arc<Mutex<HashMap<String, Vec<Instant>>>>;

/// Publishes one event after the other, to each tenant in turn; the p99 of the time from asking to each arrival, of which there
/// are `webhooks` for each event.
fn round(stage: &Stage, tenants: &[String], arrivals: &Arrivals, events: u64, webhooks: usize) -> Duration {
    let mut asked = Vec::new();
    for tenant in (0..events).zip(tenants.iter().cycle()).map(|(_, tenant)| tenant) {
        let at = Instant::now();
        let event = stage.publish(&json!({"type": "order.created", "tenant": tenant}));
        asked.push((text(&event, "id"), at));
        std::thread::sleep(PACE);
    }
    let all = || {
        let arrivals = arrivals.lock().expect("a map");
        let of = |(id, at): &(String, Instant)| {
            let times = arrivals.get(id).filter(|times| times.len() == webhooks)?;
            Some(times.iter().map(|time| time.duration_since(*at)).collect::<Vec<_>>())
        };
        asked.iter().map(of).collect::<Option<Vec<_>>>()
    };
    let mut took: Vec<Duration> = poll(SOON, all).expect("all arrive").into_iter().flatten().collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// Whether the calmest round beside them is as good as the calmest without them.
fn is_unfelt(alone: &[Duration], beside: &[Duration]) -> bool {
    let calmest = |rounds: &[Duration]| rounds.iter().min().copied().unwrap_or(Duration::MAX);
    calmest(beside) <= calmest(alone).mul_f64(RATIO_MAX) + NOISE
}

/// Takes note of what arrives, and when.
fn healthy(arrivals: &Arrivals) -> Receiver {
    let receiving = arrivals.clone();
    Receiver::forgetful(move |request| {
        let id = request.header("webhook-id").expect("an id").to_owned();
        receiving.lock().expect("a map").entry(id).or_default().push(request.at);
        Reply::ok()
    })
}

/// Rounds alone and beside, in turns, until the calmest are comparable; `beside` tells of one round beside bad ones.
fn compare(mut alone: impl FnMut() -> Duration, mut beside: impl FnMut() -> Duration, who: &str) {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    while without.len() < ROUNDS_MIN || (without.len() < ROUNDS_MAX && !is_unfelt(&without, &with)) {
        without.push(alone());
        with.push(beside());
    }
    let unfelt = is_unfelt(&without, &with);
    let (without, with) = (without.into_iter().min().expect("rounds"), with.into_iter().min().expect("rounds"));
    println!("p99 of {who}: alone {without:?}, beside bad ones {with:?}");
    assert!(unfelt, "alone {without:?}, beside them {with:?}");
}

#[test]
fn g06_bad_neighbours_are_not_felt() {
    let webhooks = usize::try_from(from_environment("HEALTHY", 100)).expect("a number");
    let events = from_environment("EVENTS", 40);
    let stage = Stage::start(Daemon::builder().set("limits.webhooks_per_tenant", "1000"));
    let (arrivals, acme) = (Arrivals::default(), ["acme".to_owned()]);
    let healthy = healthy(&arrivals);
    for number in 0..webhooks {
        stage.register(&json!({"url": healthy.url(&format!("/{number}")), "events": ["*"]}));
    }
    tenant(&stage.daemon, "bad");
    let bad = stage.daemon.client().bearer(&tenant_key(&stage.daemon, "bad").token);
    let black_hole = Receiver::with(|_| Reply::Hang);
    let dripping = Receiver::with(|_| Reply::Drip { bytes: b"x".to_vec(), every: Duration::from_millis(20) });
    let alone = || round(&stage, &acme, &arrivals, events, webhooks);
    alone();
    let beside = || {
        let made: Vec<String> = [&black_hole, &dripping]
            .iter()
            .map(|receiver| {
                let body = json!({"url": receiver.url("/"), "events": ["*"]});
                text(&bad.post("/v1/webhooks", &body).expect(201).json(), "id")
            })
            .collect();
        batch(&mut stage.publisher.open().expect("a connection"), "bad", BACKLOG, 0);
        let took = alone();
        for id in made {
            bad.delete(&format!("/v1/webhooks/{id}")).expect(204);
        }
        took
    };
    compare(alone, beside, &format!("{webhooks} healthy ones"));
    assert!(black_hole.count() > 0 && dripping.count() > 0, "they were there");
}

/// Half of them dead.
const A_TENANTS_RECEIVERS: usize = 10;
/// What waits for each dead one, beside what is published to all.
const WAITING: usize = 20;

#[test]
fn g06_half_of_all_receivers_dead_are_not_felt() {
    let receivers = usize::try_from(from_environment("RECEIVERS", 100)).expect("a number");
    let stage = Stage::start(Daemon::builder());
    let tenants: Vec<String> = (0..receivers / A_TENANTS_RECEIVERS).map(|n| format!("tenant{n}")).collect();
    let arrivals = Arrivals::default();
    let healthy = healthy(&arrivals);
    let clients: Vec<_> = tenants
        .iter()
        .map(|id| {
            tenant(&stage.daemon, id);
            let client = stage.daemon.client().bearer(&tenant_key(&stage.daemon, id).token);
            for number in 0..A_TENANTS_RECEIVERS / 2 {
                let body = json!({"url": healthy.url(&format!("/{number}")), "events": ["order.*"]});
                client.post("/v1/webhooks", &body).expect(201);
            }
            client
        })
        .collect();
    let hanging = Receiver::with(|_| Reply::Hang);
    let dripping = Receiver::with(|_| Reply::Drip { bytes: b"x".to_vec(), every: Duration::from_millis(20) });
    let failing = Receiver::with(|_| Reply::status(500));
    let resetting = Receiver::with(|_| Reply::Reset);
    let gone = format!("http://127.0.0.1:{}/", free_port());
    let dead = [hanging.url("/"), dripping.url("/"), failing.url("/"), resetting.url("/"), gone];

    let alone = || round(&stage, &tenants, &arrivals, (receivers / 2) as u64, A_TENANTS_RECEIVERS / 2);
    alone();
    let beside = || {
        let mut made = Vec::new();
        for (client, tenant) in clients.iter().zip(&tenants) {
            for url in &dead {
                let body = json!({"url": url, "events": ["*"]});
                made.push((client, text(&client.post("/v1/webhooks", &body).expect(201).json(), "id")));
            }
            let events = vec![json!({"type": "for.the.dead", "tenant": tenant}); WAITING];
            stage.publisher.post("/v1/events/batch", &json!({ "events": events })).expect(201);
        }
        let took = alone();
        for (client, id) in made {
            client.delete(&format!("/v1/webhooks/{id}")).expect(204);
        }
        took
    };
    compare(alone, beside, &format!("{} healthy ones of {receivers}", receivers / 2));
    assert!([&hanging, &dripping, &failing, &resetting].iter().all(|receiver| receiver.count() > 0), "they were there");
}
