//! A delivery's ordinary life: delivered, retried over a restart, isolated from others, reconfigured, drained.

use super::*;
use crate::model::attempt::Verdict;
use crate::store::record::Entry;

#[tokio::test]
async fn what_is_accepted_is_delivered_and_on_record() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(204).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let event = daemon.publish(no, 1).await.remove(0);
    eventually("it is delivered", || receiver.count() == 1).await;
    daemon.settled().await;
    assert_eq!(receiver.seen(), [Seen { id: event.id.to_string(), attempt: 1 }]);
    let view = daemon.store.shared().view().unwrap();
    let number = view.fates(event.seq).unwrap()[&no].number;
    let Some(Entry::Attempt(attempt)) = view.entry(number).unwrap() else { panic!("no attempt on record") };
    assert_eq!((attempt.event, attempt.webhook, attempt.status), (event.seq, no, Some(204)));
    assert_eq!((attempt.verdict, attempt.remote), (Verdict::Delivered, Some(receiver.addr)));
    drop(view);
    assert_eq!(daemon.store.shared().watermark(), event.seq + 1);
    assert_eq!(daemon.rows(no), 0);
    assert_eq!(daemon.dispatcher.bodies.load(Ordering::SeqCst), 0, "a body is still counted");
    daemon.stop().await;
}

#[tokio::test]
async fn a_retry_keeps_its_time_and_its_count_over_a_restart() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
    let receiver = Receiver::start(500).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let event = daemon.publish(no, 1).await.remove(0);
    eventually("it has failed", || daemon.standing(no).started == 1).await;
    daemon.stop().await;

    receiver.set(200);
    let daemon = Daemon::open(folder.path(), &clock, slow());
    daemon.publish(no, 1).await;
    eventually("the next one is delivered", || receiver.count() == 2).await;
    daemon.settled().await;
    assert_eq!(daemon.rows(no), 1, "a retry came early");
    daemon.stop().await;

    clock.advance(HOUR);
    let daemon = Daemon::open(folder.path(), &clock, slow());
    eventually("it is delivered", || receiver.count() == 3).await;
    daemon.settled().await;
    assert_eq!(receiver.seen()[2], Seen { id: event.id.to_string(), attempt: 2 });
    assert_eq!(daemon.rows(no), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn retries_come_by_themselves_and_end_among_the_dead() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(500).await;
    let policy = Policy { delays_ms: vec![5, 5], jitter: 0.0 };
    let daemon = Daemon::open(folder.path(), &clock, policy);
    let no = daemon.webhook("acme", &receiver).await;
    let event = daemon.publish(no, 1).await.remove(0);
    eventually("it is dead", || daemon.standing(no).dead == 1).await;
    let attempts: Vec<u32> = receiver.seen().iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(daemon.store.shared().view().unwrap().death_of(no, event.seq).unwrap().is_some());
    // Asked for again it counts on, with a new budget.
    receiver.set(200);
    daemon.ask(Op::Redrive { webhook: no, event: event.seq }).await;
    eventually("it is delivered", || receiver.count() == 4).await;
    daemon.settled().await;
    assert_eq!(receiver.seen()[3], Seen { id: event.id.to_string(), attempt: 4 });
    assert_eq!((daemon.rows(no), daemon.standing(no).dead), (0, 0));
    daemon.stop().await;
}

#[tokio::test]
async fn a_dead_receiver_with_thousands_pending_does_not_hold_up_another() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let (hangs, fails, healthy) = (Receiver::start(0).await, Receiver::start(500).await, Receiver::start(200).await);
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let first = daemon.webhook("hangs", &hangs).await;
    let second = daemon.webhook("fails", &fails).await;
    let third = daemon.webhook("healthy", &healthy).await;
    for _ in 0..3 {
        daemon.publish(first, 1_000).await;
        daemon.publish(second, 1_000).await;
    }
    let events = daemon.publish(third, 300).await;
    eventually("all are delivered", || healthy.count() == events.len()).await;
    assert!(healthy.times().values().all(|times| *times == 1));
    // The one that hangs has its permits in use and no more; the failing one's circuit is open.
    assert_eq!(hangs.count(), 8);
    assert!(fails.count() < 5 + 8, "{} attempts behind an open circuit", fails.count());
    let glance = daemon.dispatcher.glance(second, 1);
    assert!(glance.circuit_probe_at.is_some());
    assert!(daemon.dispatcher.glance(first, 1).permits_taken);
    daemon.stop().await;
}

#[tokio::test]
async fn a_change_is_in_force_when_it_is_answered() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receivers = [Receiver::start(200).await, Receiver::start(200).await];
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receivers[0]).await;
    let mut sent = [0, 0];
    for round in 0..40 {
        let receiver = &receivers[round % 2];
        daemon.patch(no, WebhookPatch { url: Some(receiver.url()), ..WebhookPatch::default() }).await;
        daemon.publish(no, 3).await;
        sent[round % 2] += 3;
        eventually("they are delivered", || receiver.count() == sent[round % 2]).await;
        assert_eq!([receivers[0].count(), receivers[1].count()], sent, "one went to where it was before");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_drain_ends_what_is_under_way_and_a_restart_repeats_nothing() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(0).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let events = daemon.publish(no, 30).await;
    eventually("permits are in use", || receiver.count() == 8).await;
    daemon.dispatcher.drain();
    assert_eq!(daemon.dispatcher.in_flight(), 8);
    receiver.set(200);
    daemon.settled().await;
    assert_eq!(receiver.count(), 8, "an attempt started during the drain");
    daemon.stop().await;

    let daemon = Daemon::open(folder.path(), &clock, slow());
    eventually("all are delivered", || receiver.times().len() == events.len()).await;
    daemon.settled().await;
    assert!(receiver.times().values().all(|times| *times == 1), "{:?}", receiver.times());
    assert_eq!(daemon.store.shared().watermark(), daemon.store.shared().next_event());
    daemon.stop().await;
}

#[tokio::test]
async fn a_restart_takes_up_thousands_of_queued_webhooks_in_parts() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
    let receiver = Receiver::start(500).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let mut webhooks = Vec::new();
    for count in 0..600 {
        webhooks.push(daemon.webhook(&format!("t{count}"), &receiver).await);
    }
    for no in &webhooks {
        daemon.publish(*no, 1).await;
    }
    eventually("all have failed", || webhooks.iter().all(|no| daemon.standing(*no).started == 1)).await;
    daemon.stop().await;
    receiver.set(200);
    clock.advance(HOUR);
    let daemon = Daemon::open(folder.path(), &clock, slow());
    eventually("all are delivered", || receiver.count() == 1_200).await;
    daemon.settled().await;
    assert!(receiver.times().values().all(|times| *times == 2));
    assert_eq!(daemon.dispatcher.lanes(), 600);
    daemon.stop().await;
}

#[tokio::test]
async fn a_clock_put_forward_during_a_restart_lets_nothing_expire() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
    let receiver = Receiver::start(500).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let events = daemon.publish(no, 100).await;
    let waiting = |daemon: &Daemon| daemon.standing(no).waiting;
    eventually("what is behind the open circuit has rows", || waiting(&daemon) >= 80).await;
    daemon.settled().await;
    daemon.stop().await;

    let clock = Clock::manual(NOW + 400 * DAY_MS);
    let daemon = Daemon::open(folder.path(), &clock, slow());
    eventually("the circuit is open again", || daemon.dispatcher.glance(no, 1).circuit_probe_at.is_some()).await;
    daemon.settled().await;
    let left = waiting(&daemon);
    for _ in 0..20 {
        // By the new time it has failed for 400 days, and is inactive for it; its owner knows better. Then the time of the
        // probe: those that were tried before, and then what waits longest is tried, and does not die of its age.
        let before = receiver.count();
        clock.advance(Duration::from_secs(300));
        daemon.patch(no, WebhookPatch { active: Some(true), ..WebhookPatch::default() }).await;
        eventually("it is probed", || receiver.count() > before).await;
        daemon.settled().await;
        if waiting(&daemon) <= left - 2 {
            break;
        }
    }
    assert_eq!((daemon.standing(no).dead, waiting(&daemon)), (0, left - 2));

    receiver.set(200);
    clock.advance(4 * HOUR);
    daemon.patch(no, WebhookPatch::default()).await;
    eventually("all are delivered", || daemon.rows(no) == 0).await;
    daemon.settled().await;
    assert_eq!((daemon.standing(no).dead, receiver.times().len()), (0, events.len()));
    daemon.stop().await;
}
