//! What waits is bounded, counted and not guessed from the process's memory: bodies that are held, and what a start would read.

use super::*;
use crate::limits::{BODIES_BYTES_MAX, WATERMARK_LAG_BYTES_MAX, WATERMARK_LAG_MAX};

/// Publishes events with a body of so many bytes to a tenant's receiver that hangs.
async fn publish_large(daemon: &Daemon, tenant: u32, count: usize, bytes: usize) {
    let data = Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(bytes)));
    let drafts = vec![Draft { data: Some(data), ..draft(tenant) }; count];
    let Done::Accepted(_) = daemon.ask(Op::Accept(Accept { drafts, ..Accept::default() })).await else {
        panic!("not accepted")
    };
}

fn held(daemon: &Daemon) -> usize {
    daemon.dispatcher.bodies.load(Ordering::SeqCst)
}

#[tokio::test]
async fn g08_bodies_that_wait_and_what_a_start_reads_are_bounded_in_bytes() {
    const BYTES: usize = 250_000;
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(0).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let webhooks = [daemon.webhook("acme", &receiver).await, daemon.webhook("other", &receiver).await];
    let count = 3 * usize::try_from(WATERMARK_LAG_BYTES_MAX).unwrap() / BYTES;
    let mut most = 0;
    for number in 0..count / 4 {
        publish_large(&daemon, webhooks[number % 2], 4, BYTES).await;
        most = most.max(held(&daemon));
        assert!(held(&daemon) <= BODIES_BYTES_MAX, "{} bytes are held", held(&daemon));
    }
    assert!(most > BODIES_BYTES_MAX / 2, "few were held: {most}");
    // Neither too many for their number.
    let shared = daemon.store.shared().clone();
    let lag = || (shared.next_event() - shared.watermark()) * BYTES as u64;
    eventually("what lags has rows", || lag() < WATERMARK_LAG_BYTES_MAX * 3 / 4).await;
    assert!(lag() > 0, "they are fresh");
    let waiting: u64 = webhooks.iter().map(|no| daemon.rows(*no)).sum();
    assert!(waiting > 0 && waiting < count as u64, "{waiting} of {count} have rows");
    daemon.stop().await;
}

#[tokio::test]
async fn g18_a_start_reads_a_bounded_number_of_events_back() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(0).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let mut webhooks = Vec::new();
    for tenant in ["a", "b", "c", "d", "e", "f"] {
        webhooks.push(daemon.webhook(tenant, &receiver).await);
    }
    // No lane has so many that it would write rows for them by itself.
    for number in 0..90 {
        daemon.publish(webhooks[number % webhooks.len()], 1_000).await;
    }
    let shared = daemon.store.shared().clone();
    let lag = || shared.next_event() - shared.watermark();
    eventually("what lags has rows", || lag() <= WATERMARK_LAG_MAX * 3 / 4).await;
    assert!(lag() > 0, "they are fresh");
    daemon.stop().await;
}
