//! kill -9 amid a folder's first start, while its key, its store and its logs are made: whatever is there by then, the next
//! start serves it.
//!
//!     KILLS=500 SEED=7 cargo test --release --test crash g01_a_kill_amid -- --nocapture

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Client, Daemon, SOON, StopOnDrop, poll, publish, publisher_key, tenant, tenant_key, text};
use super::{Pauses, from_environment};

/// What a start makes, in this order. A kill follows one of them by at most so many sixteenths of the time that a start takes
/// here: the store's file is under its first name for a moment only.
const LANDMARKS: [(&str, u32); 6] =
    [("", 16), ("state", 4), ("webhookd.key", 2), ("webhookd.redb.new", 1), ("webhookd.redb", 2), ("webhookd.wal", 24)];
/// The name that a store has until it is whole.
const UNFINISHED: &str = "webhookd.redb.new";
/// A kill's delay is drawn in so many steps.
const STEPS: u32 = 1_000;

fn state(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("state")
}

/// Waits until a start has come to a landmark, or past it. Spins: what it waits for lasts for a moment.
fn wait_for(daemon: &Daemon, landmark: &str) {
    let (folder, started) = (state(daemon), Instant::now());
    let place = match landmark {
        "" => return,
        "state" => folder.clone(),
        name => folder.join(name),
    };
    while !place.exists() && !folder.join("webhookd.wal").exists() {
        assert!(started.elapsed() < SOON, "{landmark} never comes; its log:\n{}", daemon.log());
        std::hint::spin_loop();
    }
}

/// Publishes one event as soon as there is somebody to take it, for a tenant of its own. Gives its id, if it was acknowledged.
fn publish_at_once(admin: &Client, public: &Client, over: &AtomicBool) -> Option<String> {
    let asked = |client: &Client, method: &str, path: &str, body: serde_json::Value| {
        while !over.load(Ordering::SeqCst) {
            match client.try_send(method, path, &[], body.to_string()) {
                Ok(answer) if matches!(answer.status, 200 | 201) => return Some(answer.json()),
                // Nobody is there yet. A start takes some tens of ms, so what rests longer comes after most kills.
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        None
    };
    asked(admin, "PUT", "/admin/tenants/early", json!({}))?;
    let key = asked(admin, "POST", "/admin/keys", json!({"role": "publisher"}))?;
    let publisher = public.bearer(&text(&key, "token"));
    let event = asked(&publisher, "POST", "/v1/events", json!({"type": "order.created", "tenant": "early"}))?;
    Some(text(&event, "id"))
}

/// Starts it as anybody would, and holds it to all that a daemon does: it serves what was acknowledged, takes in more, stops
/// cleanly and leaves a store that is whole.
fn serves(daemon: &mut Daemon, acknowledged: Option<&str>) {
    daemon.start();
    assert!(!state(daemon).join(UNFINISHED).exists(), "a start leaves nothing unfinished");
    tenant(daemon, "acme");
    let publisher = daemon.client().bearer(&publisher_key(daemon).token);
    let event = text(&publish(&publisher, &json!({"type": "order.created", "tenant": "acme"})), "id");
    let owns = [("acme", Some(event.as_str())), ("early", acknowledged)];
    for (owner, event) in owns.into_iter().filter_map(|(owner, event)| Some((owner, event?))) {
        let owner = daemon.client().bearer(&tenant_key(daemon, owner).token);
        owner.get(&format!("/v1/events/{event}")).expect(200);
    }
    let status = daemon.term();
    assert_eq!(status.code(), Some(0), "{status}; its log:\n{}", daemon.log());
    let mut check = Command::new(env!("CARGO_BIN_EXE_webhookd"));
    let done = check.args(["store", "check", "--state-dir"]).arg(state(daemon)).output().expect("the binary");
    let told = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(done.status.success() && told.contains("all is well"), "{}:\n{told}", done.status);
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// How long a first start takes until its last landmark, undisturbed: kills are spread over that, however quick the machine is.
fn time_of_a_start() -> Duration {
    let mut daemon = Daemon::builder().prepare();
    let started = Instant::now();
    daemon.spawn();
    wait_for(&daemon, "webhookd.wal");
    let took = started.elapsed();
    daemon.kill9();
    took
}

#[test]
fn g01_a_kill_amid_the_first_start_leaves_a_folder_that_serves() {
    let kills = usize::try_from(from_environment("KILLS", 24)).expect("a number of kills");
    let seed = from_environment("SEED", 18).max(1);
    println!("SEED={seed} KILLS={kills}");
    let (mut pauses, mut early, start) = (Pauses(seed), 0, time_of_a_start());
    for kill in 0..kills {
        let mut daemon = Daemon::builder().prepare();
        let (admin, public, over) = (daemon.admin(), daemon.client(), AtomicBool::new(false));
        let (landmark, sixteenths) = LANDMARKS[kill % LANDMARKS.len()];
        let step = u32::try_from(pauses.next_ms(u64::from(STEPS)).as_millis()).expect("a step");
        let after = start * sixteenths * step / (16 * STEPS);
        let last = kill + 1 == kills;
        let acknowledged = std::thread::scope(|scope| {
            let stopping = StopOnDrop(&over);
            let publishing = scope.spawn(|| publish_at_once(&admin, &public, &over));
            daemon.spawn();
            wait_for(&daemon, landmark);
            if last {
                // One at least is killed with something to lose.
                poll(SOON, || publishing.is_finished().then_some(()));
            } else {
                std::thread::sleep(after);
            }
            daemon.kill9();
            drop(stopping);
            publishing.join().expect("a publisher")
        });
        println!("{after:?} after {landmark:?}: {:?}, acknowledged: {acknowledged:?}", names(&state(&daemon)));
        early += usize::from(acknowledged.is_some());
        serves(&mut daemon, acknowledged.as_deref());
    }
    assert!(early > 0, "SEED={seed}: nothing was acknowledged before any kill");
}

#[test]
fn g01_a_start_outlives_a_store_that_was_left_half_written() {
    let mut daemon = Daemon::builder().prepare();
    serves(&mut daemon, None);
    let whole = fs::read(state(&daemon).join("webhookd.redb")).expect("a store");
    let cut = |parts: usize| whole[..whole.len() / parts].to_vec();
    let mut zeroed = whole.clone();
    zeroed[whole.len() / 2..].fill(0);
    for left in [Vec::new(), vec![0; 4096], cut(64), cut(2), zeroed, b"no store at all".repeat(999), whole.clone()] {
        for with_key in [false, true] {
            let mut other = Daemon::builder().prepare();
            fs::create_dir(state(&other)).expect("a folder");
            fs::write(state(&other).join(UNFINISHED), &left).expect("a file");
            if with_key {
                fs::copy(state(&daemon).join("webhookd.key"), state(&other).join("webhookd.key"))
                    .expect("the key file");
            }
            serves(&mut other, None);
        }
    }
}
