//! The real binary at its limits: a full disk, a backlog in memory and across a restart, neighbours that misbehave. Figures
//! are held as ratios within one run, or with room for a loaded machine; a release binary gives those in
//! docs/GUARANTEES.md:
//!
//!     PENDING=5000000 cargo test --release --test scale g08 -- --nocapture
//!     G09_EXT4=1 cargo test --release --test scale g09 -- --nocapture

mod support;

#[path = "scale/backlog.rs"]
mod backlog;
#[path = "scale/full_disk.rs"]
mod full_disk;
#[path = "scale/neighbours.rs"]
mod neighbours;

use serde_json::{Value, json};
use support::{Kept, text};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// Publishes `count` events of a tenant in one batch, with `bytes` of data each; gives their ids.
fn batch(connection: &mut Kept, tenant: &str, count: u64, bytes: usize) -> Vec<String> {
    let data = |n| json!({"n": n, "filler": "x".repeat(bytes)});
    let events: Vec<Value> =
        (0..count).map(|n| json!({"type": "order.created", "tenant": tenant, "data": data(n)})).collect();
    let body = json!({ "events": events }).to_string();
    let answer = connection.send("POST", "/v1/events/batch", &[], body).expect("an answer").expect(201).json();
    answer["events"].as_array().expect("events").iter().map(|event| text(event, "id")).collect()
}
