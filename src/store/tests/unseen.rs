//! The transaction that groups share: what is in it when, who has it committed, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableDatabase};

use super::store_in;
use crate::clock::Clock;
use crate::limits::UNSEEN_GROUPS_MAX;
use crate::metrics::Metrics;
use crate::model::id::{Seq, TenantId};
use crate::store::log::{self, Log};
use crate::store::op::{Accept, Draft, Op};
use crate::store::writer::Parts;

fn parts(folder: &std::path::Path) -> Parts {
    let mut parts = store_in(folder, &Clock::manual(1_700_000_000_000), &Arc::new(Metrics::default()));
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    parts.recovered.engine.apply(&[tenant]).unwrap();
    parts
}

/// Publishes one event, a group of its own.
fn publish(parts: &mut Parts) {
    let draft = Draft { tenant: 1, kind: "ping".to_owned(), ..Draft::default() };
    parts.recovered.engine.apply(&[Op::Accept(Accept { drafts: vec![draft], ..Accept::default() })]).unwrap();
}

/// Events that are committed, whoever has asked for that.
fn committed(db: &Database) -> Seq {
    let txn = db.begin_read().unwrap();
    log::end(Log::Events, &txn.open_table(Log::Events.table()).unwrap()).unwrap().next - 1
}

#[test]
fn groups_share_a_transaction_until_somebody_looks_or_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts(folder.path());
    let (db, shared) = (parts.recovered.engine.db.clone(), parts.shared.clone());
    for _ in 0..3 {
        publish(&mut parts);
    }
    assert_eq!((committed(&db), shared.next_event()), (0, 4));
    let view = shared.view().unwrap();
    assert!(view.event(3).unwrap().is_some(), "who looks sees what was answered");
    assert_eq!(committed(&db), 3);
    for number in 1..=UNSEEN_GROUPS_MAX as Seq {
        assert_eq!(committed(&db), 3, "before group {number}");
        publish(&mut parts);
    }
    assert_eq!(committed(&db), 3 + UNSEEN_GROUPS_MAX as Seq);
    assert!(view.event(4).unwrap().is_none(), "a snapshot stays as it is");
    // What is no work of every moment is committed as it is written.
    publish(&mut parts);
    parts.recovered.engine.apply(&[Op::BackedUp { at_ms: 1 }]).unwrap();
    assert_eq!(committed(&db), 4 + UNSEEN_GROUPS_MAX as Seq);
}

#[test]
fn who_waits_for_the_end_of_a_group_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts(folder.path());
    publish(&mut parts);
    let (db, shared) = (parts.recovered.engine.db.clone(), parts.shared.clone());
    let taken = shared.unseen.take().unwrap().unwrap();
    let (sender, seen) = std::sync::mpsc::channel();
    let looks = std::thread::spawn({
        let shared = shared.clone();
        move || sender.send(shared.view().unwrap().event(1).unwrap().is_some())
    });
    while !shared.unseen.is_asked() {
        std::thread::yield_now();
    }
    assert!(seen.try_recv().is_err(), "the group is not over");
    shared.unseen.give(taken).unwrap();
    // Not for the next commit, which may be far away.
    assert_eq!(seen.recv_timeout(Duration::from_secs(20)), Ok(true));
    looks.join().unwrap().unwrap();
    assert_eq!(committed(&db), 1);
}

#[test]
fn what_nobody_looked_at_is_read_back_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = parts(folder.path());
    for _ in 0..3 {
        publish(&mut made);
    }
    // As a process that is killed: nothing is committed any more.
    let Parts { recovered, shared, .. } = made;
    shared.set_db(None);
    let (db, _) = recovered.engine.into_files();
    assert_eq!(committed(&db), 0);
    drop((db, shared));
    let again = store_in(folder.path(), &Clock::manual(1_700_000_000_000), &Arc::new(Metrics::default()));
    assert_eq!(again.recovered.engine.heads().0, 4);
    assert!(again.shared.view().unwrap().event(3).unwrap().is_some());
}

#[test]
fn what_was_lost_is_not_gone_on_with_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts(folder.path());
    publish(&mut parts);
    let unseen = &parts.shared.unseen;
    let taken = unseen.take().unwrap();
    assert!(taken.is_some());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| parts.shared.view().is_err());
        while !unseen.is_asked() {
            std::thread::yield_now();
        }
        unseen.lose();
        assert!(waits.join().unwrap(), "a snapshot would not show what was answered");
    });
    drop(taken);
    assert!(parts.shared.view().is_err(), "nor would it now");
    assert!(parts.recovered.engine.apply(&[Op::Ping]).is_err());
    parts.shared.set_db(None);
    unseen.show().unwrap();
    assert!(parts.shared.view().is_err(), "it is being opened again");
}
