//! Promise 6 on the real binary: a black hole and a dripping receiver, with a backlog each, are not felt by their healthy
//! neighbours. Rounds with and without them take turns within one run; the ratio is of the calmest of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Daemon, Receiver, Reply, SOON, Stage, poll, tenant, tenant_key, text};
use super::{batch, from_environment};

const RATIO_MAX: f64 = 1.5;
/// Differences below this are the scheduler's.
const NOISE: Duration = Duration::from_millis(4);
const ROUNDS_MIN: usize = 4;
/// On a loaded machine the calmest rounds are longer in coming.
const ROUNDS_MAX: usize = 16;
const BACKLOG: u64 = 1_000;

type Arrivals = Arc<Mutex<HashMap<String, Vec<Instant>>>>;

/// Publishes one event after the other; the p99 of the time from asking to each arrival.
fn round(stage: &Stage, arrivals: &Arrivals, events: u64, webhooks: usize) -> Duration {
    let mut asked = Vec::new();
    for _ in 0..events {
        let at = Instant::now();
        let event = stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
        asked.push((text(&event, "id"), at));
        std::thread::sleep(Duration::from_millis(10));
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

#[test]
fn g06_bad_neighbours_are_not_felt() {
    let webhooks = usize::try_from(from_environment("HEALTHY", 20)).expect("a number");
    let events = from_environment("EVENTS", 40);
    let stage = Stage::start(Daemon::builder().set("limits.webhooks_per_tenant", "1000"));
    let arrivals = Arrivals::default();
    let receiving = arrivals.clone();
    let healthy = Receiver::forgetful(move |request| {
        let id = request.header("webhook-id").expect("an id").to_owned();
        receiving.lock().expect("a map").entry(id).or_default().push(request.at);
        Reply::ok()
    });
    for number in 0..webhooks {
        stage.register(&json!({"url": healthy.url(&format!("/{number}")), "events": ["*"]}));
    }
    tenant(&stage.daemon, "bad");
    let bad = stage.daemon.client().bearer(&tenant_key(&stage.daemon, "bad").token);
    let black_hole = Receiver::with(|_| Reply::Hang);
    let dripping = Receiver::with(|_| Reply::Drip { bytes: b"x".to_vec(), every: Duration::from_millis(20) });
    round(&stage, &arrivals, events, webhooks);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    while alone.len() < ROUNDS_MIN || (alone.len() < ROUNDS_MAX && !is_unfelt(&alone, &beside)) {
        alone.push(round(&stage, &arrivals, events, webhooks));
        let made: Vec<String> = [&black_hole, &dripping]
            .iter()
            .map(|receiver| {
                let body = json!({"url": receiver.url("/"), "events": ["*"]});
                text(&bad.post("/v1/webhooks", &body).expect(201).json(), "id")
            })
            .collect();
        batch(&mut stage.publisher.open().expect("a connection"), "bad", BACKLOG, 0);
        beside.push(round(&stage, &arrivals, events, webhooks));
        for id in made {
            bad.delete(&format!("/v1/webhooks/{id}")).expect(204);
        }
    }
    let unfelt = is_unfelt(&alone, &beside);
    let (alone, beside) = (alone.into_iter().min().expect("rounds"), beside.into_iter().min().expect("rounds"));
    println!("p99 of {webhooks} healthy ones: alone {alone:?}, beside a black hole and a dripping one {beside:?}");
    assert!(black_hole.count() > 0 && dripping.count() > 0, "they were there");
    assert!(unfelt, "alone {alone:?}, beside them {beside:?}");
}
