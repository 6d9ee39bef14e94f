//! What goes wrong: webhooks that go away, receivers that are gone, a store that fails under way.

use super::*;
use crate::model::attempt::DeadReason;
use crate::model::webhook::InactiveReason;
use crate::store::failing_disk::{Disk, Fault};

#[tokio::test]
async fn a_webhook_deleted_during_an_attempt_gets_no_other() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let (receiver, other) = (Receiver::start(0).await, Receiver::start(200).await);
    let daemon = Daemon::open(folder.path(), &clock, quick());
    let no = daemon.webhook("acme", &receiver).await;
    let fence = daemon.webhook("fence", &other).await;
    daemon.publish(no, 30).await;
    eventually("permits are in use", || receiver.count() == 8).await;
    daemon.ask(Op::DeleteWebhook { no }).await;
    receiver.set(500);
    daemon.settled().await;
    daemon.publish(fence, 1).await;
    eventually("another gets its own", || other.count() == 1).await;
    daemon.settled().await;
    assert_eq!((receiver.count(), daemon.rows(no)), (8, 0));
    let shared = daemon.store.shared();
    assert_eq!(shared.watermark(), shared.next_event(), "what nobody waits for holds the watermark back");
    daemon.dispatcher.tidy(0, 0);
    daemon.dispatcher.tidy(1, 0);
    assert_eq!(daemon.dispatcher.lanes(), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn gone_makes_inactive_and_the_rest_waits_for_the_owner() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(0).await;
    let daemon = Daemon::open(folder.path(), &clock, quick());
    let no = daemon.webhook("acme", &receiver).await;
    daemon.patch(no, WebhookPatch { max_in_flight: Some(Some(1)), ..WebhookPatch::default() }).await;
    let events = daemon.publish(no, 20).await;
    eventually("the first is under way", || receiver.count() == 1).await;
    receiver.set(410);
    eventually("the rest is queued", || daemon.standing(no).waiting == 19).await;
    daemon.settled().await;
    let state = daemon.store.shared().registry().webhook(no).unwrap().state;
    assert!(matches!(state, WebhookState::Inactive { reason: InactiveReason::Gone, .. }), "{state:?}");
    let view = daemon.store.shared().view().unwrap();
    let dead = events.iter().filter(|event| view.death_of(no, event.seq).unwrap().is_some()).count();
    drop(view);
    assert_eq!(dead, 1);
    assert_eq!((DeadReason::Gone.as_str(), receiver.count()), ("gone", 1));
    receiver.set(200);
    daemon.dispatcher.tidy(0, 0);
    daemon.dispatcher.tidy(1, 0);
    daemon.patch(no, WebhookPatch { active: Some(true), ..WebhookPatch::default() }).await;
    eventually("the rest is delivered", || receiver.count() == 20).await;
    daemon.settled().await;
    assert!(receiver.times().values().all(|times| *times == 1));
    assert_eq!(daemon.rows(no), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_tenants_new_plan_is_in_force_when_it_is_answered() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
    let receiver = Receiver::start(500).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    daemon.publish(no, 1).await;
    eventually("it has failed", || daemon.standing(no).started == 1).await;
    let due = |daemon: &Daemon| daemon.store.shared().view().unwrap().next_due(no, true, |_, _| false).unwrap();
    assert_eq!(due(&daemon), Some(NOW + 3_600_000));
    let plan = Some(Some("standard".to_owned()));
    daemon.ask(Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan }).await;
    daemon.publish(no, 1).await;
    eventually("it has failed", || daemon.standing(no).started == 2).await;
    assert!(due(&daemon).unwrap() <= NOW + 6_000);
    daemon.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_under_an_outcome_loses_and_repeats_nothing() {
    // Every operation of the commit that records the first attempt fails once, before or after it took effect.
    let mut failures = 0;
    for fault in Fault::all(40) {
        let disk = Disk::default();
        let armed = disk.clone();
        let receiver = Receiver::with(500, move |seen| {
            if seen.attempt == 1 {
                armed.arm(fault);
            }
        })
        .await;
        let clock = Clock::system();
        let policy = Policy { delays_ms: vec![1; 1_000], jitter: 0.0 };
        let daemon = Daemon::start(disk.parts(&clock), policy);
        let no = daemon.webhook("acme", &receiver).await;
        let event = daemon.publish(no, 1).await.remove(0);
        eventually("it has failed twice", || receiver.count() >= 2).await;
        receiver.set(200);
        let delivered = || daemon.rows_if_open(no) == Some(0) && daemon.dispatcher.in_flight() == 0;
        eventually("it is delivered", delivered).await;
        let attempts: Vec<u32> = receiver.seen().iter().map(|seen| seen.attempt).collect();
        let rising: Vec<u32> = (1..=attempts.len() as u32).collect();
        assert_eq!(attempts, rising, "{fault:?}: {event:?}");
        failures += usize::from(disk.has_failed());
        daemon.stop().await;
    }
    assert!(failures > 30, "only {failures} faults took effect");
}

impl Daemon {
    fn rows_if_open(&self, no: WebhookNo) -> Option<u64> {
        let standing = self.store.shared().view().ok()?.standing(no).ok()?;
        Some(standing.waiting + standing.started)
    }
}
