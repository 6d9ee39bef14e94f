//! The lane, step by step: permits, turns, circuit, rate, rows on disk and gates; `order` what is cancelled, in line or
//! paused. `model` drives it by chance.

mod bench;
mod model;
mod order;
mod writer;

use super::*;
use crate::circuit::CircuitRules;
use crate::dispatch::settings::Settings;
use crate::egress::guard::Rules;
use crate::limits::LANE_REFILL_MIN;
use crate::model::webhook::{Filter, InactiveReason, Webhook, WebhookState};
use crate::retry::Policy;
use bench::{Bench, planned, queued, webhook};

const NOW: Millis = 1_700_000_000_000;
const NO: WebhookNo = 7;

#[test]
fn permits_are_held_until_the_outcome_is_durable() {
    let mut bench = Bench::new();
    bench.push(1..10);
    assert_eq!(bench.starts(), (vec![1, 2], None));
    let ended = bench.lane.ended(1, true, false, NOW);
    assert_eq!(ended, Ended { row: None, pressing: true, behind: false, closed: false });
    assert_eq!(bench.starts().0, [0; 0]);
    bench.lane.settle(1);
    bench.lane.settle(1);
    assert_eq!(bench.starts().0, [3]);
    bench.replan(|webhook| webhook.max_in_flight = Some(4));
    assert_eq!(bench.starts().0, [4, 5]);
    bench.replan(|webhook| webhook.max_in_flight = Some(1));
    (2..6).for_each(|event| bench.lane.settle(event));
    assert_eq!(bench.starts().0, [6]);
    (7..10).for_each(|event| {
        bench.lane.settle(event - 1);
        assert_eq!(bench.starts().0, [event]);
    });
    // With nothing waiting an outcome may wait for company.
    assert!(!bench.lane.ended(9, true, false, NOW).pressing);
}

#[test]
fn a_spooled_success_frees_its_permit_and_stays_known_until_it_is_committed() {
    let mut bench = Bench::new();
    bench.push(1..10);
    assert_eq!(bench.starts().0, [1, 2]);
    assert!(!bench.lane.ended(1, true, true, NOW).pressing);
    assert_eq!(bench.starts().0, [3]);
    bench.lane.settle(1);
    assert_eq!(bench.starts().0, [0; 0], "its permit was given back before");
    bench.lane.ended(2, false, false, NOW);
    assert_eq!(bench.starts().0, [0; 0], "a failure waits for its commit");
    bench.lane.settle(2);
    assert_eq!(bench.starts().0, [4]);
}

#[test]
fn a_quick_receiver_with_a_backlog_is_behind() {
    let mut bench = Bench::new();
    bench.push(1..100);
    let ended = |bench: &mut Bench, event| bench.lane.ended(event, true, true, bench.now).behind;
    let mut last = false;
    for _ in 0..10 {
        bench.now += 8;
        last = bench.starts().0.into_iter().fold(false, |_, event| ended(&mut bench, event));
    }
    assert!(last);
}

#[test]
fn fresh_and_queued_take_turns() {
    let mut bench = Bench::of(Webhook { max_in_flight: Some(6), ..webhook() });
    bench.push(10..20);
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW });
    bench.load((1..10).map(|event| queued(event, true, NOW - 10 + event)).collect());
    assert_eq!(bench.starts().0, [10, 1, 11, 2, 12, 3]);
}

#[test]
fn what_overflows_are_the_oldest() {
    let mut bench = Bench::new();
    bench.push(1..LANE_FRESH_MAX as u64 + 2);
    let Next::Spill(events) = bench.next() else { panic!("no spill") };
    assert_eq!((events.len(), events[0]), (LANE_FRESH_MAX / 2, 1));
    assert_eq!(bench.starts().0, [LANE_FRESH_MAX as u64 / 2 + 1, LANE_FRESH_MAX as u64 / 2 + 2]);
}

#[test]
fn room_for_a_burst_is_given_back() {
    let mut bench = Bench::new();
    bench.push(1..10_000);
    bench.replan(|webhook| webhook.state = WebhookState::Inactive { reason: InactiveReason::Owner, since: NOW });
    assert!(matches!(bench.next(), Next::Spill(events) if events.len() == 9_999));
    assert_eq!(bench.lane.fresh.capacity(), 0);
}

#[test]
fn five_failures_open_the_circuit_and_one_success_closes_it() {
    let mut bench = Bench::new();
    bench.open();
    bench.push(10..20);
    // Nothing goes out before the first probe, thirty seconds later.
    assert_eq!(bench.starts(), (vec![], Some(NOW + 30_000)));
    bench.now = NOW + 30_000;
    // They get rows, so that the oldest can be told; then that one is tried.
    let Next::Spill(events) = bench.next() else { panic!("no spill") };
    assert_eq!(events, (10..20).collect::<Vec<_>>());
    bench.lane.note_queued(RowKey { started: false, due_ms: bench.now });
    let probe = bench.now;
    bench.load(vec![queued(10, false, probe)]);
    bench.lane.note_queued(RowKey { started: false, due_ms: bench.now });
    assert_eq!(bench.starts(), (vec![10], None), "one at a time");
    assert!(bench.lane.ended(10, true, false, bench.now).closed);
    bench.lane.settle(10);
    let load = bench.wants_load();
    assert_eq!((load.started, load.waiting, load.max), (false, true, LANE_REFILL_MIN));
}

#[test]
fn probes_come_every_thirty_seconds_rising_to_five_minutes() {
    let mut bench = Bench::new();
    bench.open();
    let mut waits = Vec::new();
    for event in 10..18 {
        bench.push(event..event + 1);
        let (started, at) = bench.starts();
        assert!(started.is_empty());
        waits.push((at.unwrap() - bench.now) / 1_000);
        bench.now = at.unwrap();
        assert_eq!(bench.starts(), (vec![event], None));
        bench.finish(event, false);
    }
    assert_eq!(waits, [30, 60, 120, 240, 300, 300, 300, 300]);
}

#[test]
fn started_deliveries_keep_their_own_time_behind_an_open_circuit() {
    let mut bench = Bench::new();
    bench.open();
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW + 1_000 });
    assert_eq!(bench.starts(), (vec![], Some(NOW + 1_000)));
    bench.now = NOW + 1_000;
    let due = bench.now;
    bench.load(vec![queued(1, true, due)]);
    bench.lane.note_queued(RowKey { started: true, due_ms: due });
    assert_eq!(bench.starts(), (vec![1], None), "one at a time");
    bench.finish(1, false);
    let load = bench.wants_load();
    assert_eq!((load.started, load.waiting, load.max), (true, false, 1));
}

#[test]
fn fresh_ones_do_not_gather_behind_an_open_circuit() {
    let mut bench = Bench::new();
    bench.open();
    bench.push(100..100 + OPEN_CIRCUIT_FRESH_MAX as u64);
    assert!(matches!(bench.next(), Next::Spill(events) if events.len() == OPEN_CIRCUIT_FRESH_MAX));
    assert_eq!(bench.starts(), (vec![], Some(NOW + 30_000)));
}

#[test]
fn what_waited_out_its_policy_dies_step_by_step() {
    let mut bench = Bench::new();
    bench.open();
    let span = Policy::standard().span_ms();
    bench.now = NOW + span + 30_000;
    bench.lane.next_started = None;
    bench.lane.note_queued(RowKey { started: false, due_ms: NOW + 30_000 });
    bench.load(vec![queued(10, false, NOW + 30_000)]);
    let Next::Expire { before_ms } = bench.next() else { panic!("it does not die") };
    assert_eq!(before_ms, NOW + 30_000);
    // Until that is durable no waiting row is read: it could be one that dies.
    bench.lane.note_queued(RowKey { started: false, due_ms: NOW + 40_000 });
    assert_eq!(bench.starts(), (vec![], None));
    assert!(!bench.lane.is_idle(Millis::MAX, 0));
    bench.lane.expired();
    let probe = NOW + 40_000;
    bench.load(vec![queued(11, false, probe)]);
    assert_eq!(bench.starts().0, [11]);
}

#[test]
fn a_policy_without_retries_still_has_something_to_probe_with() {
    let host = Arc::new(Gate::new(64));
    let never = Policy { delays_ms: Vec::new(), jitter: 0.0 };
    let lane = Lane::new(planned(webhook(), never, &host), NOW);
    let mut bench = Bench { lane, all: Gate::new(64), host, paused: false, now: NOW };
    bench.open();
    bench.lane.next_started = None;
    bench.now = NOW + 30_000;
    bench.push(10..12);
    assert!(matches!(bench.next(), Next::Spill(_)));
    let due = bench.now;
    bench.lane.note_queued(RowKey { started: false, due_ms: due });
    bench.now += 5;
    bench.load(vec![queued(10, false, due)]);
    assert_eq!(bench.starts().0, [10]);
}

#[test]
fn an_inactive_webhook_gets_nothing_and_loses_nothing() {
    let mut bench = Bench::new();
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW });
    bench.load((1..9).map(|event| queued(event, true, NOW)).collect());
    bench.push(10..13);
    assert_eq!(bench.starts().0, [10, 1]);
    bench.replan(|webhook| webhook.state = WebhookState::Inactive { reason: InactiveReason::Gone, since: NOW });
    assert!(matches!(bench.next(), Next::Spill(events) if events == [11, 12]));
    bench.finish(10, true);
    bench.finish(1, true);
    assert_eq!(bench.starts(), (vec![], None));
    // Rows that were read ahead are on disk only again: the lane is what knows of them.
    assert!(!bench.lane.is_idle(Millis::MAX, 0));
    bench.replan(|webhook| webhook.state = WebhookState::Active);
    let load = bench.wants_load();
    assert!(load.started && load.waiting);
}

#[test]
fn a_deleted_webhook_is_forgotten() {
    let mut bench = Bench::new();
    bench.push(1..6);
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW + 1_000 });
    assert_eq!(bench.starts().0, [1, 2]);
    bench.replan(|webhook| webhook.state = WebhookState::Deleted { at: NOW });
    assert!(matches!(bench.next(), Next::Forget(events) if events == [3, 4, 5]));
    assert_eq!(bench.starts(), (vec![], None));
    assert!(!bench.lane.is_idle(Millis::MAX, 0), "attempts are under way");
    bench.lane.put_back(1);
    assert!(matches!(bench.next(), Next::Forget(events) if events == [1]));
    bench.finish(2, false);
    assert!(bench.lane.is_idle(Millis::MAX, 0), "its rows are swept, nobody will tell");
}

#[test]
fn the_rate_is_held_and_being_turned_away_uses_nothing_up() {
    let mut bench = Bench::of(Webhook { rate_limit: Some(1.0), max_in_flight: Some(9), ..webhook() });
    bench.all.set_max(0);
    bench.push(1..4);
    assert!((0..5).all(|_| bench.starts() == (vec![], None)));
    bench.all.set_max(9);
    assert_eq!(bench.starts(), (vec![1], Some(NOW + 1_000)));
    assert_eq!(bench.lane.glance(1, &bench.all, NOW).rate_limited_until, Some(NOW + 1_000));
    bench.now += 1_000;
    assert_eq!(bench.starts(), (vec![2], Some(NOW + 2_000)));
    // Forgetting the lane would forget the rate.
    let mut slow = Bench::of(Webhook { rate_limit: Some(0.001), ..webhook() });
    slow.push(1..2);
    slow.starts();
    slow.finish(1, true);
    assert!(!slow.lane.is_idle(NOW + 999_000, 60_000) && slow.lane.is_idle(NOW + 1_000_000, 60_000));
}

#[test]
fn laggards_get_rows_and_their_outcomes_carry_them() {
    let mut bench = Bench::of(Webhook { max_in_flight: Some(3), ..webhook() });
    bench.push(1..8);
    assert_eq!(bench.starts().0, [1, 2, 3]);
    bench.lane.ended(2, true, false, NOW);
    // The outcome of 2 is on its way: that is its record, and a row would be a second delivery.
    assert_eq!(bench.lane.laggards(6, NOW), [4, 5, 1, 3]);
    assert_eq!(bench.lane.laggards(6, NOW + 1), [0; 0]);
    let row = RowKey { started: false, due_ms: NOW };
    assert_eq!(bench.lane.ended(1, true, false, NOW).row, Some(row));
    // Never tried after all: it waits as a row now.
    bench.lane.put_back(3);
    assert_eq!(bench.lane.next_due(), Some(NOW));
    bench.lane.settle(1);
    bench.lane.settle(2);
    let load = bench.wants_load();
    assert!(load.waiting && !load.started && load.held.is_empty());
}

#[test]
fn a_row_announced_during_a_read_is_not_lost() {
    let mut bench = Bench::new();
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW });
    let load = bench.wants_load();
    // No wake-up while it is read: it would come at once, again and again.
    assert_eq!(bench.starts(), (vec![], None));
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW });
    assert_eq!(bench.starts(), (vec![], None));
    bench.lane.loaded(Some(Loaded { next_started: Some(NOW + 9_000), ..Loaded::default() }), &load);
    assert!(bench.wants_load().started);
    // Nor is what could not be read.
    let mut bench = Bench::new();
    bench.lane.note_queued(RowKey { started: false, due_ms: NOW });
    let load = bench.wants_load();
    bench.lane.loaded(None, &load);
    assert!(!bench.lane.is_idle(Millis::MAX, 0));
    assert!(bench.wants_load().waiting);
}

#[test]
fn what_is_held_or_was_settled_during_a_read_is_not_taken_twice() {
    let mut bench = Bench::of(Webhook { max_in_flight: Some(8), ..webhook() });
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW });
    bench.load(vec![queued(1, true, NOW)]);
    assert_eq!(bench.starts().0, [1]);
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW });
    let load = bench.wants_load();
    assert!(load.held.contains(&1));
    bench.push(2..4);
    assert_eq!(bench.starts().0, [2, 3]);
    assert_eq!(bench.lane.laggards(10, NOW), [2, 3]);
    bench.finish(2, true);
    // The snapshot still shows both rows: 3 is under way, 2 is delivered.
    let rows = [2, 3, 4].map(|event| (queued(event, false, NOW), None)).to_vec();
    bench.lane.loaded(Some(Loaded { rows, ..Loaded::default() }), &load);
    assert_eq!(bench.starts().0, [4]);
}

#[test]
fn rows_read_before_the_circuit_opened_go_back() {
    let mut bench = Bench::new();
    bench.push(1..6);
    bench.starts();
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW });
    bench.finish(1, false);
    let load = bench.wants_load();
    for event in 2..6 {
        bench.starts();
        bench.finish(event, false);
    }
    bench.lane.loaded(Some(Loaded { rows: vec![(queued(50, true, NOW), None)], ..Loaded::default() }), &load);
    let load = bench.wants_load();
    assert_eq!((load.started, load.max), (true, 1));
}

#[test]
fn a_lane_turned_away_at_a_gate_is_called() {
    for at_host in [true, false] {
        let mut bench = Bench::new();
        let full = if at_host { &*bench.host } else { &bench.all };
        full.set_max(1);
        assert!(Gate::enter([None, None], full, 99));
        bench.push(1..3);
        assert_eq!(bench.starts(), (vec![], None));
        assert!(bench.lane.glance(1, &bench.all, NOW).permits_taken);
        let full = if at_host { &*bench.host } else { &bench.all };
        assert_eq!(full.leave(), Some(NO));
        assert!(!Gate::enter([None, None], full, 99), "the place is promised");
        assert_eq!(bench.starts().0, [1]);
        let full = if at_host { &*bench.host } else { &bench.all };
        assert_eq!(full.looked(NO), None);
        assert_eq!(full.leave(), Some(99));
    }
}

#[test]
fn a_changed_circuit_rule_holds_at_once() {
    let mut bench = Bench::new();
    let settings = Settings { circuit: CircuitRules { failures: 1, ..CircuitRules::default() }, ..Settings::default() };
    let rules = Rules { require_https: false, allow: vec!["127.0.0.0/8".parse().unwrap()], ..Rules::default() };
    let host = bench.host.clone();
    let plan = Plan::new(Arc::new(webhook()), None, &Arc::new(settings), &rules, |_, _| host, NOW);
    bench.lane.replan(Arc::new(plan));
    bench.push(1..2);
    bench.starts();
    bench.finish(1, false);
    assert!(bench.lane.circuit.is_open() && !bench.lane.is_idle(Millis::MAX, 0));
}

#[test]
fn a_lane_is_done_when_a_new_one_would_do_the_same() {
    let mut bench = Bench::new();
    assert!(bench.lane.is_done(NOW));
    bench.push(1..2);
    assert!(!bench.lane.is_done(NOW), "a delivery waits");
    bench.starts();
    assert!(!bench.lane.is_done(NOW), "an attempt is under way");
    bench.finish(1, false);
    assert!(!bench.lane.is_done(NOW) && bench.lane.is_idle(NOW, 0), "a failure is remembered");
    bench.push(2..3);
    bench.starts();
    bench.finish(2, true);
    assert!(bench.lane.is_done(NOW));
    bench.lane.note_queued(RowKey { started: true, due_ms: NOW + 1 });
    assert!(!bench.lane.is_done(NOW), "a row is due");
    let limited = Bench::of(Webhook { rate_limit: Some(1.0), ..webhook() });
    assert!(!limited.lane.is_done(NOW), "a new one would begin with a full measure");
}
