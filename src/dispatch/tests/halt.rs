//! What is stopped by decision, and what waits for another of its key: with real lanes, attempts and restarts.

use super::*;
use crate::model::id::Seq;
use crate::model::pause::Scope;
use crate::store::record::Entry;

impl Daemon {
    /// Events of one key, in the order of acceptance.
    async fn publish_in_line(&self, tenant: u32, key: &str, count: usize) -> Vec<Arc<Event>> {
        let draft = Draft { ordering_key: Some(key.to_owned()), ..draft(tenant) };
        let accept = Accept { drafts: vec![draft; count], ..Accept::default() };
        let Done::Accepted(receipt) = self.ask(Op::Accept(accept)).await else { panic!("not accepted") };
        receipt.events().to_vec()
    }

    async fn cancel(&self, event: Seq, webhook: WebhookNo) -> usize {
        self.ask(Op::Cancel { event, webhooks: vec![webhook] }).await.count()
    }

    async fn pause(&self, scope: Scope, paused: bool) {
        self.ask(Op::Pause { scope, paused }).await;
    }

    fn newest(&self, event: Seq, webhook: WebhookNo) -> Entry {
        let view = self.store.shared().view().unwrap();
        view.entry(view.fates(event).unwrap()[&webhook].number).unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_cancelled_attempt_may_end_and_nothing_follows() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(0).await;
    let daemon = Daemon::open(folder.path(), &clock, quick());
    let no = daemon.webhook("acme", &receiver).await;
    // Fewer than open the circuit.
    daemon.patch(no, WebhookPatch { max_in_flight: Some(Some(4)), ..WebhookPatch::default() }).await;
    let events = daemon.publish(no, 30).await;
    eventually("permits are in use", || receiver.count() == 4).await;
    let flying: Vec<String> = receiver.seen().into_iter().map(|seen| seen.id).collect();
    for event in &events {
        assert_eq!(daemon.cancel(event.seq, no).await, 1);
        assert_eq!(daemon.cancel(event.seq, no).await, 0);
        assert_eq!(daemon.dispatcher.glance(no, event.seq).is_ending, flying.contains(&event.id.to_string()));
    }
    receiver.set(500);
    daemon.settled().await;
    assert_eq!((receiver.count(), daemon.rows(no)), (4, 0));
    let shared = daemon.store.shared();
    assert_eq!(shared.watermark(), shared.next_event());
    // Asked for once more it is a delivery like any other.
    receiver.set(200);
    let event = events.iter().find(|event| flying.contains(&event.id.to_string())).unwrap();
    daemon.ask(Op::Resend { event: event.seq, webhooks: vec![no] }).await;
    eventually("it is delivered", || receiver.count() == 5).await;
    daemon.settled().await;
    assert_eq!(receiver.seen()[4], Seen { id: event.id.to_string(), attempt: 2 });
    daemon.stop().await;
}

#[tokio::test]
async fn the_success_of_a_cancelled_attempt_is_on_record() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(0).await;
    let daemon = Daemon::open(folder.path(), &clock, quick());
    let no = daemon.webhook("acme", &receiver).await;
    let event = daemon.publish(no, 1).await.remove(0);
    eventually("it is under way", || receiver.count() == 1).await;
    daemon.cancel(event.seq, no).await;
    assert!(matches!(daemon.newest(event.seq, no), Entry::Dropped { .. }));
    receiver.set(200);
    daemon.settled().await;
    let Entry::Attempt(attempt) = daemon.newest(event.seq, no) else { panic!("no attempt on record") };
    assert_eq!(attempt.verdict, crate::model::attempt::Verdict::Delivered);
    daemon.stop().await;
}

#[tokio::test]
async fn no_attempt_starts_after_a_cancellation_is_answered() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(200).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    // A backlog, so that some wait in memory, some on their way to the lane, some are under way.
    let slowly = WebhookPatch { rate_limit: Some(Some(100.0)), ..WebhookPatch::default() };
    daemon.patch(no, slowly).await;
    let mut still = Vec::new();
    let mut rounds = 0;
    while still.len() <= 20 {
        rounds += 1;
        assert!(rounds < 2_000, "only {} were cancelled in time", still.len());
        let events = daemon.publish(no, 6).await;
        for event in events.iter().rev().take(3) {
            let cancelled = daemon.cancel(event.seq, no).await == 1;
            // One that was under way when it was cancelled may have ended since.
            let under_way = daemon.dispatcher.glance(no, event.seq).in_flight;
            if cancelled && !under_way && !receiver.times().contains_key(&event.id.to_string()) {
                still.push(event.id.to_string());
            }
        }
    }
    daemon.settled().await;
    eventually("nothing is left", || daemon.store.shared().watermark() == daemon.store.shared().next_event()).await;
    daemon.settled().await;
    let times = receiver.times();
    let gone: Vec<_> = still.iter().filter(|id| times.contains_key(*id)).collect();
    assert!(gone.is_empty(), "{} of {} were sent", gone.len(), still.len());
    daemon.stop().await;
}

#[tokio::test]
async fn a_failing_event_holds_its_own_key_and_nothing_else() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
    let receiver = Receiver::start(500).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let line = daemon.publish_in_line(no, "a", 3).await;
    eventually("the first has failed", || daemon.standing(no).started == 1).await;
    receiver.set(200);
    let others = [daemon.publish_in_line(no, "b", 2).await, daemon.publish(no, 2).await].concat();
    eventually("the others are delivered", || receiver.count() == 5).await;
    daemon.settled().await;
    assert_eq!((daemon.standing(no).held, daemon.rows(no)), (2, 1));
    // What is held holds no watermark back.
    let shared = daemon.store.shared();
    assert_eq!(shared.watermark(), shared.next_event());
    daemon.stop().await;

    // Over a restart, and later than the retry that they wait for.
    clock.advance(HOUR);
    let daemon = Daemon::open(folder.path(), &clock, slow());
    eventually("all are delivered", || receiver.count() == 8).await;
    daemon.settled().await;
    let ids: Vec<String> = receiver.seen()[5..].iter().map(|seen| seen.id.clone()).collect();
    assert_eq!(ids, line.iter().map(|event| event.id.to_string()).collect::<Vec<_>>());
    assert!(others.iter().all(|event| receiver.times()[&event.id.to_string()] == 1));
    assert_eq!((daemon.standing(no).held, daemon.rows(no)), (0, 0));
    daemon.stop().await;
}

#[tokio::test]
async fn a_cancelled_attempt_is_not_overtaken_by_the_next_of_its_key() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(0).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let line = daemon.publish_in_line(no, "a", 2).await;
    eventually("the first is under way", || receiver.count() == 1).await;
    daemon.cancel(line[0].seq, no).await;
    // The next ones may go as far as the store is concerned: one has a row, one is fresh.
    assert_eq!((daemon.standing(no).held, daemon.standing(no).waiting), (0, 1));
    let more = daemon.publish_in_line(no, "b", 1).await;
    eventually("another key flows on", || receiver.count() == 2).await;
    daemon.cancel(line[1].seq, no).await;
    let last = daemon.publish_in_line(no, "a", 1).await;
    assert_eq!(daemon.standing(no).held, 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(receiver.count(), 2, "it has been overtaken");
    receiver.set(200);
    eventually("the last is delivered", || receiver.count() == 3).await;
    daemon.settled().await;
    let ids: Vec<String> = receiver.seen().into_iter().map(|seen| seen.id).collect();
    let sent = [&line[0], &more[0], &last[0]];
    assert_eq!(ids, sent.map(|event| event.id.to_string()));
    daemon.stop().await;
}

#[tokio::test]
async fn while_paused_nothing_starts_and_afterwards_all_goes_in_order() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
    let receiver = Receiver::start(500).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let failed = daemon.publish(no, 1).await.remove(0);
    eventually("it has failed", || daemon.standing(no).started == 1).await;
    receiver.set(200);
    daemon.pause(Scope::Tenant(no), true).await;
    let mut events = vec![failed];
    for _ in 0..10 {
        events.extend(daemon.publish(no, 10).await);
    }
    let shared = daemon.store.shared().clone();
    eventually("they have rows", || daemon.standing(no).waiting == 100).await;
    eventually("the watermark moves", || shared.watermark() == shared.next_event()).await;
    // Due meanwhile, and over a restart.
    clock.advance(HOUR * 24 * 30);
    daemon.stop().await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    daemon.publish(no, 1).await;
    eventually("it has a row", || daemon.standing(no).waiting == 101).await;
    assert_eq!((receiver.count(), daemon.dispatcher.in_flight()), (1, 0));
    daemon.patch(no, WebhookPatch { max_in_flight: Some(Some(1)), ..WebhookPatch::default() }).await;
    daemon.pause(Scope::Tenant(no), false).await;
    eventually("all are delivered", || receiver.count() == 103).await;
    daemon.settled().await;
    let ids: Vec<String> = receiver.seen()[1..].iter().map(|seen| seen.id.clone()).collect();
    let waited: Vec<&String> = ids.iter().filter(|id| **id != events[0].id.to_string()).take(100).collect();
    assert_eq!(
        waited,
        events[1..].iter().map(|event| event.id.to_string()).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    assert_eq!((daemon.rows(no), daemon.standing(no).dead), (0, 0));
    daemon.stop().await;
}

#[tokio::test]
async fn a_pause_does_not_count_as_failing() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
    let receiver = Receiver::start(500).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    let active = || daemon.store.shared().registry().webhook(no).unwrap().is_active();
    let fail = async |count: u32| {
        for _ in 0..count {
            let before = receiver.count();
            daemon.publish(no, 1).await;
            // Past the next probe; what was tried meanwhile may have put it off once more.
            for _ in 0..200 {
                clock.advance(Duration::from_secs(400));
                tokio::time::sleep(Duration::from_millis(20)).await;
                if receiver.count() > before {
                    break;
                }
                daemon.publish(no, 1).await;
            }
            assert!(receiver.count() > before, "it is never tried");
            daemon.settled().await;
        }
    };
    fail(10).await;
    daemon.pause(Scope::Own(no), true).await;
    clock.advance(HOUR * 24 * 6);
    daemon.pause(Scope::Own(no), false).await;
    daemon.settled().await;
    fail(1).await;
    assert!(active(), "six days of failing, but for the pause");
    clock.advance(HOUR * 24 * 5);
    fail(1).await;
    assert!(!active());
    daemon.stop().await;
}
