//! How many life cycles a second one writer commits: an event accepted, its delivery recorded in the next group.
//!
//! Run `cargo bench --bench commit`; `EVENTS` sets how many per line. The file lies in `target/`, so on the disk of the
//! checkout; figures to compare with stand in `limits.md` §2.3 (600-byte payloads, one webhook an event).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use webhookd::clock::Clock;
use webhookd::entropy::Entropy;
use webhookd::model::attempt::{Attempt, Verdict};
use webhookd::model::event::Event;
use webhookd::model::id::{AttemptNumber, TenantId, WebhookId, WebhookNo};
use webhookd::model::secret::Secret;
use webhookd::model::webhook::{Filter, Webhook};
use webhookd::store::engine::Engine;
use webhookd::store::op::{Accept, Draft, Idempotency, Op, Outcome, Quota};
use webhookd::store::open::{self, Place};
use webhookd::store::recover::recover;

const TENANTS: u32 = 100;
const WEBHOOKS: u32 = 1_000;
const PAYLOAD_BYTES: usize = 600;

fn main() {
    // `cargo test --benches` runs this too: then it only shows that it works.
    let bench = std::env::args().any(|arg| arg == "--bench");
    let asked = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok());
    println!("| group | keys | cycles/s | CPU us/event | disk B/event | commit p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|---|");
    for keys in [false, true] {
        for group in [1, 16, 64, 256, 1_024] {
            let events = asked.unwrap_or(if bench { (group * 1_500).clamp(3_000, 300_000) } else { group });
            line(group, keys, events);
        }
    }
}

fn line(group: usize, keys: bool, events: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-commit");
    let _ = fs::remove_dir_all(&folder);
    let place = Place { state_dir: folder.clone(), key_file: None, cache_bytes: 64 << 20 };
    let mut engine = engine(&place);
    let payload = Bytes::from("x".repeat(PAYLOAD_BYTES));
    let before_bytes = used_bytes();
    let (start, cpu_start) = (Instant::now(), cpu_us());
    let mut latencies = Vec::new();
    let mut in_flight: Vec<(WebhookNo, Arc<Event>)> = Vec::new();
    let mut accepted = 0;
    while accepted < events || !in_flight.is_empty() {
        let mut ops: Vec<Op> = in_flight.drain(..).map(|(webhook, event)| delivered(webhook, &event)).collect();
        let new = group.min(events - accepted);
        ops.extend((accepted..accepted + new).map(|number| accept(number, &payload, keys)));
        accepted += new;
        let commit = Instant::now();
        let applied = engine.apply(&ops).unwrap_or_else(|error| panic!("{error}"));
        latencies.push(commit.elapsed());
        in_flight = applied.effects.fresh;
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cpu_us() - cpu_start);
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
    let disk = fs::metadata(place.store_file()).map_or(0, |data| data.len());
    let count = events as f64;
    println!(
        "| {group} | {} | {:.0} | {:.1} | {:.0} in the file, {:.0} written | {:.2} | {:.2} |",
        if keys { "yes" } else { "no" },
        count / elapsed,
        cpu / count,
        disk as f64 / count,
        (used_bytes() - before_bytes) / count,
        at(0.5),
        at(0.99)
    );
    drop(engine);
    let _ = fs::remove_dir_all(&folder);
}

fn engine(place: &Place) -> Engine {
    let (db, shared) = open::open(place, &Entropy::system()).unwrap_or_else(|error| panic!("{error}"));
    let wal = open::open_wal(&place.wal_file()).unwrap_or_else(|error| panic!("{error}"));
    let recovered = recover(db, shared, &Clock::system(), wal, 86_400_000);
    let mut engine = recovered.unwrap_or_else(|error| panic!("{error}")).engine;
    let tenant = |no: u32| {
        let id = TenantId::parse(&format!("tenant-{no}"));
        Op::PutTenant { id: id.unwrap_or_else(|| unreachable!()), name: None, plan: None }
    };
    let tenants: Vec<Op> = (0..TENANTS).map(tenant).collect();
    let webhooks: Vec<Op> = (0..WEBHOOKS).map(create_webhook).collect();
    for ops in [tenants, webhooks] {
        engine.apply(&ops).unwrap_or_else(|error| panic!("{error}"));
    }
    engine
}

/// Every webhook has an event type of its own, so that an event goes to one of them.
fn create_webhook(no: u32) -> Op {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&no.to_be_bytes());
    let draft = Webhook::new(
        no % TENANTS + 1,
        WebhookId(id),
        "https://receiver.example/".to_owned(),
        vec![Filter::Exact(format!("type-{}", no / TENANTS))],
        Secret::new("whsec_x".to_owned()),
    );
    Op::CreateWebhook { draft: Box::new(draft), quota: Quota { of_tenant: 100_000, of_dialect: None } }
}

fn accept(number: usize, payload: &Bytes, keys: bool) -> Op {
    let webhook = number.wrapping_mul(7_919) as u32 % WEBHOOKS;
    let draft = Draft {
        tenant: webhook % TENANTS + 1,
        kind: format!("type-{}", webhook / TENANTS),
        created_us: number as u64,
        data: Some(payload.clone()),
        ..Draft::default()
    };
    // As hashes are: scattered.
    let hash = (number as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
    let idempotency = keys.then_some(Idempotency { hash, body_hash: [7; 32] });
    Op::Accept(Accept { drafts: vec![draft], idempotency, pending_max: None })
}

fn delivered(webhook: WebhookNo, event: &Event) -> Op {
    Op::Outcome(Box::new(Outcome {
        attempt: Attempt {
            event: event.seq,
            webhook,
            number: AttemptNumber::MIN,
            previous: 0,
            at_ms: event.accepted_ms,
            duration_ms: 12,
            class: None,
            status: Some(200),
            error: String::new(),
            remote: "192.0.2.1:443".parse().ok(),
            excerpt: "{\"received\":true,\"id\":\"0123456789abcdef0123456789abcdef\",\"queue\":\"default\",\"ok\":1,\"pad\":\"xxxxx\"}".to_owned(),
            verdict: Verdict::Delivered,
        },
        row: None,
        order: None,
        budget_from: 0,
        since_ms: event.accepted_ms,
        deactivate: None,
        test: false,
    }))
}

/// User and system time of this process, in microseconds.
fn cpu_us() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: f64 = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .flat_map(str::parse::<f64>)
        .sum();
    // 100 ticks a second on every Linux that we know.
    ticks * 10_000.0
}

/// Bytes this process has written so far.
fn used_bytes() -> f64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|text| text.parse().ok()).unwrap_or(0.0)
}
