//! When a group is closed: at once for a caller, a little later for outcomes alone, and with a distance under load.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::StoreError;
use crate::store::inbox::{Inbox, Request};
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

#[test]
fn outcomes_wait_for_company_and_a_caller_ends_the_wait() {
    let inbox = Inbox::default();
    assert_eq!(inbox.ready_in(start(), None, 0), Duration::MAX);
    let before = start();
    inbox.note(forget(), false);
    let left = inbox.ready_in(before, None, 0);
    assert!(left >= Duration::from_millis(5), "{left:?}");
    inbox.submit(ping()).unwrap();
    assert_eq!(inbox.ready_in(start(), None, 0), Duration::ZERO);
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 2);

    inbox.note(forget(), false);
    inbox.note(forget(), true);
    assert_eq!(inbox.ready_in(start(), None, 0), Duration::ZERO, "a lane waits");
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 2);
}

#[test]
fn publishing_keeps_step_with_a_quick_receiver_that_is_behind() {
    let inbox = Inbox::default();
    (0..300).for_each(|_| inbox.submit(ping()).unwrap());
    inbox.keep_step();
    // Nothing was delivered yet: a floor, so that nobody is held up for good.
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 32);
    inbox.keep_step();
    (0..100).for_each(|_| inbox.note(forget(), false));
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 200, "as many requests as outcomes");
    // Nobody is behind any more once that was a while ago.
    std::thread::sleep(Duration::from_millis(25));
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 168);
}

#[test]
fn a_sleeping_writer_is_woken_by_the_first_request() {
    let inbox = Arc::new(Inbox::default());
    let writer = inbox.clone();
    let thread = std::thread::spawn(move || writer.next(None, 0, None).unwrap().len());
    std::thread::sleep(Duration::from_millis(20));
    inbox.submit(ping()).unwrap();
    assert_eq!(thread.join().unwrap(), 1);
}

#[test]
fn groups_keep_their_distance_only_after_a_larger_one() {
    let inbox = Inbox::default();
    inbox.submit(ping()).unwrap();
    let last = start();
    assert_eq!(inbox.ready_in(last, Some(last), 8), Duration::ZERO);
    assert_eq!(inbox.ready_in(last, Some(last), 9), Duration::from_micros(9 * 16));
    inbox.note(forget(), true);
    assert_eq!(inbox.ready_in(start(), Some(last), 9), Duration::ZERO, "a lane waits");
}

#[test]
fn down_turns_callers_away_and_keeps_what_the_daemon_notes() {
    let inbox = Inbox::default();
    inbox.set_down(true);
    assert!(matches!(inbox.submit(ping()), Err(StoreError::Unavailable(_))));
    inbox.note(forget(), true);
    inbox.set_down(false);
    inbox.submit(ping()).unwrap();
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 2);
}

#[test]
fn closed_gives_what_is_left_and_then_nothing() {
    let inbox = Inbox::default();
    inbox.note(forget(), false);
    inbox.close();
    assert!(inbox.submit(ping()).is_err());
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 1);
    assert!(inbox.next(None, 0, None).is_none());
}

#[test]
fn too_many_bytes_are_turned_away_until_a_group_is_taken() {
    let inbox = Inbox::default();
    let big = || {
        let draft = Draft {
            tenant: 1,
            kind: "ping".to_owned(),
            channel: None,
            created_us: 0,
            ordering_key: None,
            data: Some(bytes::Bytes::from(vec![0; 30 << 20])),
            context: None,
            user: None,
            test: false,
        };
        Request { op: Op::Accept(Accept { drafts: vec![draft], ..Accept::default() }), waiter: None, ticket: None }
    };
    inbox.submit(big()).unwrap();
    inbox.submit(big()).unwrap();
    assert!(matches!(inbox.submit(big()), Err(StoreError::Overloaded)));
    inbox.note(forget(), false);
    assert_eq!(inbox.next(None, 0, None).unwrap().len(), 3);
    inbox.submit(big()).unwrap();
}
