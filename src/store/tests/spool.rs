//! What start-up makes of the spool: a success that the store does not know is recorded, once, and nothing else is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::store_in;
use crate::clock::Clock;
use crate::model::attempt::{Attempt, Class, Verdict};
use crate::model::event::Event;
use crate::model::id::{AttemptNumber, EventId, TenantId, WebhookId};
use crate::model::webhook::{Filter, Webhook};
use crate::store::op::{Accept, Draft, Op, Outcome, Quota};
use crate::store::record::Entry;
use crate::store::spool::{NAMES, Spool, Success};
use crate::store::writer::Parts;

pub(super) const NOW: u64 = 1_700_000_000_000;

pub(super) fn open(folder: &Path) -> Parts {
    store_in(folder, &Clock::manual(NOW), &Arc::default())
}

pub(super) fn webhook(id: u8, filter: Filter) -> Op {
    let draft = Webhook { id: WebhookId([id; 16]), ..Webhook::sample(1, vec![filter]) };
    Op::CreateWebhook { draft: Box::new(draft), quota: Quota { of_tenant: 10, of_dialect: None } }
}

fn accept() -> Op {
    let draft = Draft { tenant: 1, kind: "order.created".to_owned(), ..Draft::default() };
    Op::Accept(Accept { drafts: vec![draft], ..Accept::default() })
}

fn failed(event: &Event) -> Op {
    let attempt = Attempt {
        event: event.seq,
        webhook: 1,
        number: AttemptNumber::MIN,
        previous: 0,
        at_ms: NOW,
        duration_ms: 1,
        class: Some(Class::Status),
        status: Some(500),
        error: String::new(),
        remote: None,
        excerpt: String::new(),
        verdict: Verdict::RetryAt(NOW + 5_000),
    };
    Op::Outcome(Box::new(Outcome {
        attempt,
        row: None,
        order: None,
        budget_from: 0,
        since_ms: NOW,
        deactivate: None,
        test: false,
    }))
}

pub(super) fn success(event: &Event, number: u32) -> Success {
    let number = AttemptNumber::new(number).unwrap();
    Success { event: event.seq, id: event.id, webhook: 1, number, at_ms: NOW, duration_ms: 3, status: 200 }
}

#[test]
fn a_test_s_success_is_not_the_webhook_s_newest_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = open(folder.path());
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    let mut tested = accept();
    if let Op::Accept(accept) = &mut tested {
        accept.drafts[0].test = true;
    }
    parts.recovered.engine.apply(&[tenant, webhook(1, Filter::All), tested]).unwrap();
    let event = parts.shared.view().unwrap().event(1).unwrap().unwrap();
    let mut outcome = failed(&event);
    if let Op::Outcome(outcome) = &mut outcome {
        outcome.test = true;
        outcome.attempt =
            Attempt { class: None, status: Some(200), verdict: Verdict::Delivered, ..outcome.attempt.clone() };
    }
    parts.recovered.engine.apply(&[outcome]).unwrap();
    let newest = |parts: &Parts| parts.shared.view().unwrap().standing(1).unwrap().last_success_ms;
    assert_eq!(newest(&parts), None);
    drop(parts);
    assert_eq!(newest(&open(folder.path())), None);
}

#[test]
fn a_success_that_was_not_committed_is_recorded_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = open(folder.path());
    let engine = &mut parts.recovered.engine;
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    engine.apply(&[tenant, webhook(1, Filter::All)]).unwrap();
    let accepted = engine.apply(&[accept(), accept(), accept(), accept()]).unwrap().effects.fresh;
    let events: Vec<Arc<Event>> = accepted.into_iter().map(|(_, event)| event).collect();
    // The second waits for its retry; the fourth is nobody's success.
    engine.apply(&[failed(&events[1])]).unwrap();
    drop(parts);

    let (spool, _) = Spool::open(folder.path()).unwrap();
    let foreign = Success { id: EventId([9; 16]), ..success(&events[3], 1) };
    let noted = [success(&events[0], 1), success(&events[1], 2), success(&events[1], 1), foreign];
    spool.note(noted.iter()).unwrap();
    spool.note([success(&events[0], 1)].iter()).unwrap();
    drop(spool);

    let parts = open(folder.path());
    let fresh: Vec<u64> = parts.recovered.fresh.iter().map(|(_, event)| event.seq).collect();
    assert_eq!(fresh, [events[2].seq, events[3].seq]);
    for event in &events[..2] {
        let (view, fates) = parts.shared.view_with_fates(event.seq).unwrap();
        let chain = view.chain(fates[&1].number).unwrap();
        let delivered =
            |(_, entry): &&(u64, Entry)| matches!(entry, Entry::Attempt(Attempt { verdict: Verdict::Delivered, .. }));
        assert_eq!(chain.iter().filter(delivered).count(), 1, "{chain:?}");
    }
    let standing = parts.shared.view().unwrap().standing(1).unwrap();
    assert_eq!((standing.waiting, standing.started, standing.failures), (0, 0, 0));
    assert_eq!(Spool::open(folder.path()).unwrap().1, [], "what was taken in is gone");
}

#[test]
fn g10_a_damaged_spool_repeats_what_it_knew_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = open(folder.path());
    let engine = &mut parts.recovered.engine;
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    engine.apply(&[tenant, webhook(1, Filter::All)]).unwrap();
    let accepted = engine.apply(&[accept(), accept(), accept()]).unwrap().effects.fresh;
    let events: Vec<Arc<Event>> = accepted.into_iter().map(|(_, event)| event).collect();
    drop(parts);
    let file = folder.path().join(NAMES[0]);
    let (spool, _) = Spool::open(folder.path()).unwrap();
    spool.note(events[..2].iter().map(|event| success(event, 1)).collect::<Vec<_>>().iter()).unwrap();
    drop(spool);
    let whole = std::fs::read(&file).unwrap();
    let known = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Spool::open(folder.path()).unwrap().1
    };
    let both = known(&whole);
    assert_eq!(both.len(), 2);
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let left = known(&flipped);
        assert!(left.len() == 1 && both.contains(&left[0]), "bit {bit}: {left:?}");
    }
    for length in 0..whole.len() {
        assert_eq!(known(&whole[..length]), both[..length / 56], "cut to {length}");
    }
    // And so the store has each event, and repeats those that the spool does not know of any more.
    let mut flipped = whole.clone();
    flipped[3] ^= 4;
    std::fs::write(&file, &flipped).unwrap();
    let parts = open(folder.path());
    let fresh: Vec<u64> = parts.recovered.fresh.iter().map(|(_, event)| event.seq).collect();
    assert_eq!(fresh, [events[0].seq, events[2].seq]);
    assert_eq!(parts.recovered.engine.heads().0, 4);
}

#[test]
fn what_is_reported_of_such_a_success_reaches_its_subscribers() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = open(folder.path());
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    let alerts = webhook(2, Filter::parse("webhookd.*").unwrap());
    let engine = &mut parts.recovered.engine;
    engine.apply(&[tenant, webhook(1, Filter::All), alerts]).unwrap();
    let accepted = engine.apply(&[accept(), accept(), accept()]).unwrap().effects.fresh;
    let events: Vec<Arc<Event>> = accepted.into_iter().map(|(_, event)| event).collect();
    engine.apply(&[failed(&events[0])]).unwrap();
    parts.clock.advance(Duration::from_secs(3 * 86_400));
    let warned = engine.apply(&[failed(&events[1])]).unwrap().effects;
    let told = |fresh: &[(u32, Arc<Event>)]| {
        fresh.iter().map(|(no, event)| format!("{no} {}", event.kind)).collect::<Vec<_>>().join(", ")
    };
    assert_eq!((told(&warned.fresh).as_str(), warned.news.len()), ("2 webhookd.webhook.failing", 1));
    drop(parts);

    let (spool, _) = Spool::open(folder.path()).unwrap();
    spool.note([success(&events[2], 1)].iter()).unwrap();
    drop(spool);
    let parts = open(folder.path());
    let fresh = parts.recovered.fresh;
    assert_eq!(told(&fresh), "2 webhookd.webhook.failing, 2 webhookd.webhook.recovered");
}
