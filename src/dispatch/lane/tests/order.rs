//! What is cancelled, what stands in line for its `ordering_key`, what is paused.

use super::*;

fn row(started: bool, due_ms: Millis) -> RowKey {
    RowKey { started, due_ms }
}

#[test]
fn what_is_cancelled_does_not_start_wherever_it_waits() {
    let mut bench = Bench::of(Webhook { max_in_flight: Some(9), ..webhook() });
    bench.push(1..4);
    bench.lane.cancel(2);
    assert_eq!(bench.starts().0, [1, 3]);
    // Read ahead, and brought by a read under way.
    bench.lane.note_queued(row(true, NOW));
    let load = bench.wants_load();
    bench.lane.cancel(11);
    let rows = [10, 11, 12].map(|event| (queued(event, true, NOW), None)).to_vec();
    bench.lane.loaded(Some(Loaded { rows, ..Loaded::default() }), &load);
    bench.lane.cancel(12);
    assert!(matches!(bench.next(), Next::Start(work) if work.event == 10));
    bench.load(Vec::new());
    // Not heard of yet.
    bench.lane.cancel(20);
    assert!(!bench.lane.is_idle(Millis::MAX, 0));
    bench.push(20..22);
    assert_eq!(bench.starts().0, [21]);
    for event in [2, 11, 12, 20] {
        bench.lane.forget_cancelled(event);
    }
    for event in [1, 3, 10, 21] {
        bench.finish(event, true);
    }
    assert_eq!(bench.starts(), (vec![], None));
    assert!(bench.lane.is_idle(Millis::MAX, 0));
}

#[test]
fn a_cancelled_attempt_may_end_and_one_that_was_not_made_is_gone() {
    let mut bench = Bench::new();
    bench.push(1..3);
    assert_eq!(bench.starts().0, [1, 2]);
    assert!(!bench.lane.is_wary());
    bench.lane.cancel(1);
    assert!(bench.lane.is_wary());
    let glance = bench.lane.glance(1, &bench.all, NOW);
    assert!(glance.in_flight && glance.is_ending);
    assert!(!bench.lane.may_go(1, None) && bench.lane.may_go(2, None));
    assert!(!bench.lane.is_wary(), "it has landed");
    bench.lane.cancel(2);
    bench.lane.put_back(2);
    assert_eq!(bench.starts(), (vec![], None));
    assert!(bench.lane.is_idle(Millis::MAX, 0));
    // An attempt that is over only waits for its commit.
    bench.push(3..4);
    bench.starts();
    bench.lane.ended(3, false, false, NOW);
    bench.lane.cancel(3);
    assert!(!bench.lane.glance(3, &bench.all, NOW).is_ending);
    assert_eq!(bench.lane.laggards(9, NOW), [0; 0]);
}

#[test]
fn two_of_one_line_are_never_under_way_together() {
    let mut bench = Bench::of(Webhook { max_in_flight: Some(9), ..webhook() });
    bench.push(1..6);
    assert_eq!(bench.starts().0, [1, 2, 3, 4, 5]);
    assert!(bench.lane.may_go(1, Some(70)));
    // The store let the next ones go, because the first was cancelled.
    bench.lane.cancel(1);
    assert!(!bench.lane.may_go(2, Some(70)));
    assert!(bench.lane.may_go(3, Some(71)) && bench.lane.may_go(4, None));
    bench.lane.note_queued(row(false, NOW));
    bench.load(vec![queued(9, false, NOW)]);
    assert_eq!(bench.starts().0, [9]);
    assert!(!bench.lane.may_go(9, Some(70)));
    // Nothing is asked again and again meanwhile.
    assert_eq!(bench.starts(), (vec![], None));
    bench.lane.settle(1);
    let load = bench.wants_load();
    assert!(load.waiting && !load.held.contains(&9));
    let rows = vec![(queued(9, false, NOW), None)];
    bench.lane.loaded(Some(Loaded { rows, ..Loaded::default() }), &load);
    assert_eq!(bench.starts().0, [2, 9]);
    // An attempt that is over stands in nobody's way: the store lets no other go before its outcome is durable.
    assert!(bench.lane.may_go(2, Some(70)));
    bench.lane.ended(2, true, true, NOW);
    assert!(bench.lane.may_go(9, Some(70)));
}

#[test]
fn a_fresh_one_behind_another_of_its_line_gets_a_row_or_is_cancelled_like_any() {
    let mut bench = Bench::of(Webhook { max_in_flight: Some(9), ..webhook() });
    bench.push(1..5);
    bench.starts();
    assert!(bench.lane.may_go(1, Some(7)));
    assert!((2..5).all(|event| !bench.lane.may_go(event, Some(7))));
    bench.lane.cancel(3);
    assert_eq!(bench.lane.laggards(3, NOW), [1, 2]);
    bench.lane.settle(1);
    let load = bench.wants_load();
    assert!(load.waiting);
    bench.lane.loaded(Some(Loaded::default()), &load);
    assert_eq!(bench.starts().0, [4]);
}

#[test]
fn what_is_asked_for_again_during_its_last_attempt_goes_when_that_has_landed() {
    let mut bench = Bench::new();
    bench.push(1..2);
    assert_eq!(bench.starts().0, [1]);
    bench.lane.cancel(1);
    bench.lane.note_queued(row(false, NOW));
    let load = bench.wants_load();
    let skipped = vec![(1, row(false, NOW))];
    bench.lane.loaded(Some(Loaded { skipped, ..Loaded::default() }), &load);
    assert_eq!(bench.starts(), (vec![], None), "not while the old attempt is under way");
    bench.finish(1, false);
    bench.load(vec![queued(1, false, NOW)]);
    assert_eq!(bench.starts().0, [1]);
    // Its own row is passed by for good reason: the outcome takes it away.
    bench.lane.note_queued(row(true, NOW));
    let load = bench.wants_load();
    bench.lane.loaded(Some(Loaded { skipped: vec![(1, row(false, NOW))], ..Loaded::default() }), &load);
    bench.finish(1, true);
    assert_eq!(bench.starts(), (vec![], None));
    assert!(bench.lane.is_idle(Millis::MAX, 0));
}

#[test]
fn a_retry_that_is_read_before_its_attempt_has_landed_is_not_lost() {
    let mut bench = Bench::new();
    bench.push(1..2);
    bench.starts();
    bench.lane.ended(1, false, false, NOW);
    bench.lane.note_queued(row(true, NOW));
    let load = bench.wants_load();
    // The outcome is settled while the rows are read.
    bench.lane.settle(1);
    bench.lane.loaded(Some(Loaded { skipped: vec![(1, row(true, NOW))], ..Loaded::default() }), &load);
    bench.load(vec![queued(1, true, NOW)]);
    assert_eq!(bench.starts().0, [1]);
}

#[test]
fn while_paused_nothing_starts_and_what_comes_gets_rows() {
    let mut bench = Bench::new();
    bench.lane.note_queued(row(true, NOW));
    bench.load((10..19).map(|event| queued(event, true, NOW)).collect());
    bench.push(1..4);
    assert_eq!(bench.starts().0, [1, 10]);
    bench.paused = true;
    assert!(matches!(bench.next(), Next::Spill(events) if events == [2, 3]));
    assert_eq!(bench.starts(), (vec![], None));
    bench.finish(1, true);
    bench.finish(10, false);
    bench.now += 86_400_000;
    bench.lane.note_queued(row(false, NOW));
    bench.push(20..21);
    assert!(matches!(bench.next(), Next::Spill(events) if events == [20]));
    assert_eq!(bench.starts(), (vec![], None), "nothing is even looked for");
    assert!(!bench.lane.is_idle(Millis::MAX, 0));
    bench.paused = false;
    let load = bench.wants_load();
    assert!(load.started && load.waiting);
    let rows = (11..19).map(|event| (queued(event, true, NOW), None)).collect();
    bench.lane.loaded(Some(Loaded { rows, ..Loaded::default() }), &load);
    assert_eq!(bench.starts().0, [11, 12], "no more than there are permits");
}

#[test]
fn time_under_a_pause_lets_nothing_die_behind_an_open_circuit() {
    let span = Policy::standard().span_ms();
    for pauses in [false, true] {
        let mut bench = Bench::new();
        bench.open();
        bench.lane.next_started = None;
        bench.lane.note_queued(row(false, NOW));
        bench.paused = pauses;
        assert_eq!(bench.starts(), (vec![], (!pauses).then_some(NOW + 30_000)));
        bench.now = NOW + span + 30_000;
        bench.paused = false;
        bench.load(vec![queued(10, false, NOW)]);
        assert_eq!(matches!(bench.next(), Next::Expire { .. }), !pauses);
    }
}

#[test]
fn what_waited_before_the_circuit_opened_has_not_waited_behind_it() {
    let span = Policy::standard().span_ms();
    let mut bench = Bench::new();
    bench.open();
    bench.lane.next_started = None;
    bench.now = NOW + span - 1;
    bench.lane.note_queued(row(false, NOW - span));
    bench.load(vec![queued(10, false, NOW - span)]);
    assert_eq!(bench.starts().0, [10], "it is tried");
    bench.finish(10, false);
    bench.now = NOW + span;
    bench.lane.circuit.on_probe(&CircuitRules { probe_first_ms: 0, ..CircuitRules::default() }, NOW);
    bench.lane.note_queued(row(false, NOW - span));
    bench.now = NOW + span + 300_000;
    bench.load(vec![queued(11, false, NOW - span)]);
    assert!(matches!(bench.next(), Next::Expire { .. }));
}
