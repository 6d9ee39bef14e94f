//! When a group is closed: at once for a caller, a little later for outcomes alone, and with a distance under load.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::StoreError;
use crate::store::inbox::{Inbox, Last, Request};
use crate::store::op::{Accept, Draft, Op};

fn forget() -> Op {
    Op::Forget { webhook: 1, events: vec![1] }
}

fn ping() -> Request {
    Request { op: Op::Ping, waiter: None, ticket: None }
}

fn start() -> Instant {
    Instant::now()
}

/// A group of so many ops that was begun then, none of them a caller's.
fn after(start: Instant, ops: usize) -> Last {
    Last { start: Some(start), ops, ..Last::default() }
}

/// Takes a group; gives its size.
fn take(inbox: &Inbox, last: Last) -> usize {
    inbox.next(last, None).unwrap().len()
}

#[test]
fn outcomes_wait_for_company_and_a_caller_ends_the_wait() {
    let inbox = Inbox::default();
    assert_eq!(inbox.ready_in(start(), &Last::default()), Duration::MAX);
    let before = start();
    inbox.note(forget(), false);
    let left = inbox.ready_in(before, &Last::default());
    assert!(left >= Duration::from_millis(5), "{left:?}");
    inbox.submit(ping()).unwrap();
    assert_eq!(inbox.ready_in(start(), &Last::default()), Duration::ZERO);
    assert_eq!(take(&inbox, Last::default()), 2);

    inbox.note(forget(), false);
    inbox.note(forget(), true);
    assert_eq!(inbox.ready_in(start(), &Last::default()), Duration::ZERO, "a lane waits");
    assert_eq!(take(&inbox, Last::default()), 2);
}

/// What the next group is told of one whose requests began one delivery each.
fn asked(count: usize) -> Last {
    Last { asked: count, begun: count, ..Last::default() }
}

#[tokio::test(start_paused = true)]
async fn publishing_keeps_step_with_a_quick_receiver_that_is_behind() {
    let inbox = Inbox::default();
    (0..300).for_each(|_| inbox.submit(ping()).unwrap());
    inbox.keep_step();
    // Nothing was delivered yet: a floor, so that nobody is held up for good.
    assert_eq!(take(&inbox, Last::default()), 32);
    (0..100).for_each(|_| inbox.note(forget(), false));
    assert_eq!(take(&inbox, asked(32)), 200, "as many requests as outcomes");
    // Nobody is behind any more once that was a while ago; what was too much then counts when somebody is again.
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(take(&inbox, asked(100)), 168);
    (0..300).for_each(|_| inbox.submit(ping()).unwrap());
    (0..200).for_each(|_| inbox.note(forget(), false));
    inbox.keep_step();
    assert_eq!(take(&inbox, asked(168)), 200 + 64, "136 more than the floor were begun");
}

#[tokio::test(start_paused = true)]
async fn outcomes_make_room_for_as_many_deliveries_and_not_requests() {
    let inbox = Inbox::default();
    let ten_each = |asked: usize| Last { asked, begun: 10 * asked, ..Last::default() };
    for _ in 0..32 {
        inbox.note(Op::Ping, true);
        take(&inbox, ten_each(10));
    }
    inbox.keep_step();
    (0..300).for_each(|_| inbox.submit(ping()).unwrap());
    (0..500).for_each(|_| inbox.note(forget(), false));
    // 256 deliveries too many are remembered at most.
    assert_eq!(take(&inbox, ten_each(10)), 500 + 24);
    (0..200).for_each(|_| inbox.note(forget(), false));
    assert_eq!(take(&inbox, ten_each(24)), 200 + 20);
    assert_eq!(take(&inbox, ten_each(20)), 3, "the floor");
    assert_eq!(take(&inbox, ten_each(3)), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_begins_more_than_a_group_ends_is_taken_in_when_there_is_room() {
    let inbox = Inbox::default();
    let thousand = |asked: usize| Last { asked, begun: 1000 * asked, ..Last::default() };
    for _ in 0..64 {
        inbox.note(Op::Ping, true);
        take(&inbox, thousand(1));
    }
    (0..9).for_each(|_| inbox.submit(ping()).unwrap());
    let mut last = thousand(1);
    let mut taken = Vec::new();
    for _ in 0..25 {
        inbox.keep_step();
        (0..100).for_each(|_| inbox.note(forget(), true));
        let count = take(&inbox, last) - 100;
        last = thousand(count);
        taken.push(count);
    }
    assert_eq!(taken.iter().sum::<usize>(), 2, "{taken:?}");
    assert_eq!(take(&inbox, last), 1, "never a group of nothing");
}

#[test]
fn a_sleeping_writer_is_woken_by_the_first_request() {
    let inbox = Arc::new(Inbox::default());
    let writer = inbox.clone();
    let thread = std::thread::spawn(move || take(&writer, Last::default()));
    std::thread::sleep(Duration::from_millis(20));
    inbox.submit(ping()).unwrap();
    assert_eq!(thread.join().unwrap(), 1);
}

#[test]
fn groups_keep_their_distance_only_after_a_larger_one() {
    let inbox = Inbox::default();
    inbox.submit(ping()).unwrap();
    // There are forty who publish, and one waits.
    assert_eq!(take(&inbox, Last { asked: 40, ..Last::default() }), 1);
    inbox.submit(ping()).unwrap();
    let last = start();
    assert_eq!(inbox.ready_in(last, &after(last, 8)), Duration::ZERO);
    assert_eq!(inbox.ready_in(last, &after(last, 9)), Duration::from_millis(2));
    inbox.note(forget(), true);
    assert_eq!(inbox.ready_in(start(), &after(last, 9)), Duration::ZERO, "a lane waits");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_others_when_half_of_those_who_publish_wait() {
    let inbox = Inbox::default();
    (0..20).for_each(|_| inbox.submit(ping()).unwrap());
    assert_eq!(take(&inbox, Last { asked: 20, ..Last::default() }), 20);
    let last = start();
    (0..19).for_each(|_| inbox.submit(ping()).unwrap());
    assert_eq!(inbox.ready_in(last, &after(last, 40)), Duration::from_millis(2), "19 of 40");
    inbox.submit(ping()).unwrap();
    assert_eq!(inbox.ready_in(last, &after(last, 40)), Duration::ZERO, "20 of 40");
    inbox.keep_step();
    assert_eq!(inbox.ready_in(last, &after(last, 40)), Duration::from_millis(2), "outcomes have to make room first");
    // Who has gone is not waited for much longer.
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(take(&inbox, Last { asked: 20, ..Last::default() }), 20);
    for _ in 0..16 {
        inbox.note(forget(), true);
        take(&inbox, Last { asked: 2, ..Last::default() });
    }
    let last = start();
    inbox.submit(ping()).unwrap();
    assert_eq!(inbox.ready_in(last, &after(last, 9)), Duration::ZERO);
}

#[test]
fn down_turns_callers_away_and_keeps_what_the_daemon_notes() {
    let inbox = Inbox::default();
    inbox.set_down(true);
    assert!(matches!(inbox.submit(ping()), Err(StoreError::Unavailable(_))));
    inbox.note(forget(), true);
    inbox.set_down(false);
    inbox.submit(ping()).unwrap();
    assert_eq!(take(&inbox, Last::default()), 2);
}

#[test]
fn closed_gives_what_is_left_and_then_nothing() {
    let inbox = Inbox::default();
    inbox.note(forget(), false);
    inbox.close();
    assert!(inbox.submit(ping()).is_err());
    assert_eq!(take(&inbox, Last::default()), 1);
    assert!(inbox.next(Last::default(), None).is_none());
}

#[test]
fn too_many_bytes_are_turned_away_until_a_group_is_taken() {
    let inbox = Inbox::default();
    let big = || {
        let draft = Draft {
            tenant: 1,
            kind: "ping".to_owned(),
            data: Some(bytes::Bytes::from(vec![0; 30 << 20])),
            ..Draft::default()
        };
        Request { op: Op::Accept(Accept { drafts: vec![draft], ..Accept::default() }), waiter: None, ticket: None }
    };
    inbox.submit(big()).unwrap();
    inbox.submit(big()).unwrap();
    assert!(matches!(inbox.submit(big()), Err(StoreError::Overloaded)));
    inbox.note(forget(), false);
    assert_eq!(take(&inbox, Last::default()), 3);
    inbox.submit(big()).unwrap();
}
