//! Retention over the real engine with a clock of the test's: what ages and bytes remove, what stays for whom, and what a
//! clock that is wrong at a start can do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, Millis};
use crate::model::attempt::{Attempt, Class, DeadReason, Verdict};
use crate::model::id::{AttemptNumber, EventId, Seq, TenantId, WebhookId};
use crate::model::webhook::{Filter, Webhook};
use crate::store::engine::Engine;
use crate::store::failing_disk::Disk;
use crate::store::listing::Tells;
use crate::store::op::{Accept, Done, Draft, Op, Outcome, Quota, Retained};
use crate::store::page::EventQuery;
use crate::store::recover::recover;
use crate::store::retention::{Counted, Limits, Sweep};
use crate::store::view::Shared;

const DAY_MS: Millis = 86_400_000;
const DEFAULTS: Limits = Limits {
    events_ms: 30 * DAY_MS,
    attempts_ms: 14 * DAY_MS,
    dead_letters_ms: 90 * DAY_MS,
    idempotency_ms: DAY_MS,
    free_bytes: 0,
};

struct Fixture {
    engine: Engine,
    shared: Arc<Shared>,
    clock: Clock,
    disk: Disk,
}

/// A store with one tenant and its webhook.
fn fixture() -> Fixture {
    let (clock, disk) = (Clock::manual(20_000 * DAY_MS), Disk::default());
    let parts = disk.parts(&clock);
    let (mut engine, shared) = (parts.recovered.engine, parts.shared);
    let draft = Webhook { id: WebhookId([7; 16]), ..Webhook::sample(1, vec![Filter::All]) };
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    let quota = Quota { of_tenant: 10, of_dialect: None };
    engine.apply(&[tenant, Op::CreateWebhook { draft: Box::new(draft), quota }]).unwrap();
    Fixture { engine, shared, clock, disk }
}

impl Fixture {
    fn days(&self, days: u64) {
        self.clock.advance(Duration::from_secs(days * 86_400));
    }

    /// An event of the tenant, and the one attempt that is made of it.
    fn event(&mut self, verdict: Verdict) -> (Seq, EventId) {
        let (event, id) = self.accept();
        self.attempt(event, verdict);
        (event, id)
    }

    fn accept(&mut self) -> (Seq, EventId) {
        let draft = Draft {
            tenant: 1,
            kind: "order.created".to_owned(),
            data: Some(Bytes::from("x".repeat(600))),
            ..Draft::default()
        };
        let accepted = self.engine.apply(&[Op::Accept(Accept { drafts: vec![draft], ..Accept::default() })]).unwrap();
        let Ok(Done::Accepted(receipt)) = &accepted.answers[0] else { panic!("not accepted") };
        (receipt.events()[0].seq, receipt.events()[0].id)
    }

    fn attempt(&mut self, event: Seq, verdict: Verdict) {
        let delivered = verdict == Verdict::Delivered;
        let attempt = Attempt {
            event,
            webhook: 1,
            number: AttemptNumber::MIN,
            previous: 0,
            at_ms: self.clock.wall_ms(),
            duration_ms: 3,
            class: (!delivered).then_some(Class::Status),
            status: Some(if delivered { 200 } else { 500 }),
            error: if delivered { String::new() } else { "it answered 500".to_owned() },
            remote: None,
            excerpt: String::new(),
            verdict,
        };
        let since_ms = self.clock.now_ms();
        let rest = Outcome { attempt, row: None, order: None, budget_from: 0, since_ms, deactivate: None, test: false };
        self.engine.apply(&[Op::Outcome(Box::new(rest))]).unwrap();
    }

    fn retain(&mut self, limits: &Limits) -> Retained {
        let (mut sum, mut sweep, mut limits) = (Retained::default(), Sweep::default(), *limits);
        while let Some(plan) = self.shared.plan_retention(&limits, self.clock.now_ms(), &mut sweep).unwrap() {
            let looked = plan.kept_events.len() + plan.kept_journal.len();
            let applied = self.engine.apply(&[Op::Retain(Box::new(plan))]).unwrap();
            let Ok(Done::Retained(step)) = &applied.answers[0] else { panic!("not retained") };
            sum.events += step.events;
            sum.journal += step.journal;
            sum.dead_letters += step.dead_letters;
            sum.bytes += step.bytes;
            limits.free_bytes = limits.free_bytes.saturating_sub(step.bytes);
            if *step == Retained::default() && looked == 0 {
                break;
            }
        }
        sum
    }

    fn listed(&self) -> Vec<Seq> {
        let query = EventQuery { tenant: 1, ascending: true, limit: 1_000, ..EventQuery::default() };
        self.shared.events_page(&query).unwrap().items.iter().map(|event| event.seq).collect()
    }

    /// The same store in a new process whose clock shows `now`.
    fn restart(self, now: Millis) -> Self {
        let Self { engine, shared, disk, .. } = self;
        let clock = Clock::manual(now);
        let (db, _) = engine.into_files();
        let engine = recover(db, shared.clone(), &clock, disk.wal().unwrap(), DAY_MS).unwrap().engine;
        Self { engine, shared, clock, disk }
    }
}

#[test]
fn what_is_kept_for_long_enough_goes_and_what_is_needed_stays() {
    let mut store = fixture();
    // The death is told of in two events more.
    let (pending, _) = store.event(Verdict::RetryAt(30_000 * DAY_MS));
    let (dead, dead_id) = store.event(Verdict::Dead(DeadReason::Exhausted));
    let (first, first_id) = store.event(Verdict::Delivered);
    for _ in 0..40 {
        store.days(1);
        store.event(Verdict::Delivered);
    }
    let counted = store.shared.count_retention(&DEFAULTS, store.clock.now_ms()).unwrap();
    assert_eq!((counted.events, counted.journal), (14, 28), "{counted:?}");
    let removed = store.retain(&DEFAULTS);
    assert_eq!((removed.events, removed.journal, removed.bytes), (12, 26, counted.bytes));
    let (floor, journal) = store.shared.view().unwrap().floors().unwrap();
    assert_eq!((floor, journal), (15, 29));
    assert_eq!(store.listed(), (15..=45).collect::<Vec<_>>());

    let view = store.shared.view().unwrap();
    assert_eq!(view.event(first).unwrap(), None);
    assert_eq!(view.event_by_id(first_id).unwrap(), None);
    assert_eq!(view.fates(first).unwrap().len(), 0);
    // Attempts go earlier than their events, whose fates tell on.
    let fate = view.fates(20).unwrap()[&1];
    assert_eq!((fate.tells, fate.attempts, view.chain(fate.number).unwrap().len()), (Tells::Delivered, 1, 0));
    for needed in [pending, dead] {
        let fate = view.fates(needed).unwrap()[&1];
        assert_eq!(view.event(needed).unwrap().unwrap().data.unwrap().len(), 600);
        assert_eq!(view.chain(fate.number).unwrap().len(), 1, "{needed}");
    }
    assert_eq!(view.event_by_id(dead_id).unwrap().unwrap().seq, dead);
    drop(view);

    // Nothing more is to be done, also after a restart.
    let now = store.clock.now_ms();
    let mut store = store.restart(now);
    assert_eq!(store.retain(&DEFAULTS), Retained::default());
    assert_eq!(store.listed(), (15..=45).collect::<Vec<_>>());

    // A dead letter's time ends too, and with it what was kept for it.
    store.days(51);
    assert_eq!(store.retain(&DEFAULTS).dead_letters, 1);
    // What was kept is looked through once a run.
    store.retain(&DEFAULTS);
    let view = store.shared.view().unwrap();
    assert_eq!((view.event(dead).unwrap(), view.death_of(1, dead).unwrap()), (None, None));
    assert_eq!(view.standing(1).unwrap().dead, 0);
    assert!(view.event(pending).unwrap().is_some(), "what is pending stays for ever");
    assert_eq!(view.standing(1).unwrap().started, 1);
    drop(view);
    let cancelled = store.engine.apply(&[Op::Cancel { event: pending, webhooks: vec![1] }]).unwrap();
    assert!(matches!(cancelled.answers[0], Ok(Done::Count(1))));
    // What is kept is given up once the listings on disk tell of its end.
    store.engine.set_flush_at(1);
    for _ in 0..8 {
        store.engine.apply(&[Op::Ping]).unwrap();
    }
    store.retain(&DEFAULTS);
    assert_eq!(store.shared.view().unwrap().event(pending).unwrap(), None);
}

#[test]
fn events_one_after_the_other_are_what_each_is_alone() {
    let mut store = fixture();
    // Kept beside the log, in blocks of one, many in one, and behind the log's end.
    store.event(Verdict::RetryAt(30_000 * DAY_MS));
    for _ in 0..100 {
        store.days(1);
        store.event(Verdict::Delivered);
    }
    store.retain(&DEFAULTS);
    let draft = |n: u32| Draft { tenant: 1, kind: format!("of.{n}"), ..Draft::default() };
    let drafts = (0..100).map(draft).collect();
    store.engine.apply(&[Op::Accept(Accept { drafts, ..Accept::default() })]).unwrap();
    let view = store.shared.view().unwrap();
    let alone: Vec<_> = (0..210).map(|seq| view.event(seq).unwrap()).collect();
    let found = |seq: &u64| alone[*seq as usize].is_some();
    assert!(found(&1) && !found(&2) && found(&201) && !found(&202), "kept, gone, newest, none");
    let orders: [Vec<u64>; 3] =
        [(0..210).collect(), (0..210).rev().collect(), (0..210).map(|n| n * 97 % 210).collect()];
    for order in orders {
        let mut event = view.events().unwrap();
        for seq in order {
            assert_eq!(event(seq).unwrap(), alone[seq as usize], "{seq}");
        }
    }
}

#[test]
fn bytes_take_the_oldest_first_and_spare_what_a_key_may_ask_for() {
    let mut store = fixture();
    for _ in 0..20 {
        store.event(Verdict::Delivered);
        store.days(1);
    }
    let held = store.shared.view().unwrap().held_bytes().unwrap();
    let limits = Limits { free_bytes: held / 2, ..DEFAULTS };
    let removed = store.retain(&limits);
    assert!(removed.bytes >= held / 2 && removed.bytes <= held / 2 + 2_000, "{removed:?} of {held}");
    let listed = store.listed();
    assert_eq!(*listed.last().unwrap(), 20);
    assert_eq!(listed.len() as u64, 20 - removed.events);
    // However much is asked for, what was accepted within the time of idempotency keys stays.
    store.days(1);
    store.event(Verdict::Delivered);
    store.retain(&Limits { free_bytes: u64::MAX, ..DEFAULTS });
    assert_eq!(store.listed(), [21]);
}

#[test]
fn g11_a_clock_that_is_wrong_at_a_start_does_not_empty_the_store() {
    let mut store = fixture();
    for _ in 0..28 {
        store.event(Verdict::Delivered);
        store.days(1);
    }
    let before = store.clock.now_ms();
    assert_eq!(store.retain(&DEFAULTS).events, 0);
    // 400 days ahead: three days at most are believed.
    let mut store = store.restart(before + 400 * DAY_MS);
    let removed = store.retain(&DEFAULTS).events;
    assert!(removed <= 2, "{removed} events went at once");
    store.event(Verdict::Delivered);
    // Right again, and again ahead: what was removed in all is what days that did pass account for.
    let now = store.clock.now_ms();
    let mut store = store.restart(before);
    assert_eq!(store.clock.now_ms(), now, "schedule time never falls");
    store.retain(&DEFAULTS);
    assert!(store.listed().len() >= 26, "{:?}", store.listed());
    // 400 days back loses nothing and stops nothing.
    let mut store = store.restart(before - 400 * DAY_MS);
    store.days(40);
    store.event(Verdict::Delivered);
    store.retain(&DEFAULTS);
    let listed = store.listed();
    assert_eq!(*listed.last().unwrap(), 30);
    assert!(listed.len() <= 2, "{listed:?} should have gone by now");
}

#[test]
fn g11_a_clock_that_is_ahead_at_a_start_disables_no_webhook() {
    let dead = Verdict::Dead(DeadReason::Exhausted);
    let is_active = |store: &Fixture| store.shared.registry().webhook(1).unwrap().is_active();
    let mut store = fixture();
    for _ in 0..12 {
        store.event(dead);
    }
    let before = store.clock.now_ms();
    let mut store = store.restart(before + 400 * DAY_MS);
    // Of 400 days three count, and with every day that passes one more.
    for day in 3..5 {
        store.event(dead);
        assert!(is_active(&store), "after {day} days");
        store.days(1);
    }
    store.event(dead);
    assert!(!is_active(&store), "after five");
}

#[test]
fn a_small_store_that_was_never_flushed_is_retained_too() {
    let mut store = fixture();
    store.event(Verdict::Delivered);
    store.days(31);
    store.event(Verdict::Delivered);
    assert_eq!(store.shared.unwritten_from(), (1, 1));
    assert_eq!(store.retain(&DEFAULTS).events, 1);
    assert_eq!(store.listed(), [2]);
    let nothing = Counted { bytes: 0, ..Counted::default() };
    assert_eq!(store.shared.count_retention(&DEFAULTS, store.clock.now_ms()).unwrap(), nothing);
}

#[test]
fn the_newest_success_is_known_after_a_restart_also_when_its_event_is_gone() {
    let mut store = fixture();
    let (event, _) = store.accept();
    store.accept();
    store.engine.set_flush_at(1);
    store.engine.apply(&[Op::Ping]).unwrap();
    assert_eq!(store.shared.unwritten_from(), (3, 1));
    store.engine.set_flush_at(usize::MAX);
    store.days(1);
    store.attempt(event, Verdict::Delivered);
    let at_ms = store.clock.wall_ms();
    store.accept();
    store.days(30);
    assert_eq!(store.retain(&Limits { attempts_ms: 90 * DAY_MS, ..DEFAULTS }).events, 1);
    let now = store.clock.now_ms();
    let store = store.restart(now);
    // Its record is what start-up reads, and it is looked up in vain.
    let view = store.shared.view().unwrap();
    assert_eq!((store.shared.unwritten_from().1, view.event(event).unwrap()), (1, None));
    assert_eq!(view.standing(1).unwrap().last_success_ms, Some(at_ms));
}

#[test]
fn what_a_start_reads_is_not_counted_as_going() {
    let mut store = fixture();
    for _ in 0..3 {
        store.event(Verdict::Delivered);
    }
    // Under way while another one ends: a start would look from here on.
    let (slow, _) = store.accept();
    for _ in 0..3 {
        store.event(Verdict::Delivered);
    }
    store.days(100);
    let counted = store.shared.count_retention(&DEFAULTS, store.clock.now_ms()).unwrap();
    assert_eq!(counted.events, slow - 1, "{counted:?}");
    let removed = store.retain(&DEFAULTS);
    assert_eq!((removed.events, removed.journal, removed.bytes), (counted.events, counted.journal, counted.bytes));
}

#[test]
fn nothing_is_removed_while_a_backup_holds_the_logs() {
    let mut store = fixture();
    for _ in 0..3 {
        store.event(Verdict::Delivered);
        store.days(31);
    }
    let held = store.shared.hold().take().unwrap();
    let plan = store.shared.plan_retention(&DEFAULTS, store.clock.now_ms(), &mut Sweep::default()).unwrap().unwrap();
    let applied = store.engine.apply(&[Op::Retain(Box::new(plan))]).unwrap();
    let nothing = Retained { held: true, ..Retained::default() };
    assert!(matches!(&applied.answers[0], Ok(Done::Retained(removed)) if *removed == nothing));
    assert_eq!(store.listed(), [1, 2, 3]);
    drop(held);
    assert_eq!(store.retain(&DEFAULTS).events, 2);
}
