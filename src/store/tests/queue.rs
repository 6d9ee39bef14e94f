//! The durable queue's rows and the counts that go with them.

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, WriteTransaction};

use crate::store::op::RowKey;
use crate::store::queue::{self, Rows};
use crate::store::record::{QueueRow, Standing};
use crate::store::schema::QUEUE;

fn database() -> Database {
    Builder::new().create_with_backend(InMemoryBackend::new()).unwrap()
}

fn rows(txn: &WriteTransaction) -> Rows<'_> {
    txn.open_table(QUEUE).unwrap()
}

fn key(started: bool, due_ms: u64) -> RowKey {
    RowKey { started, due_ms }
}

#[test]
fn counts_follow_the_rows() {
    let db = database();
    let txn = db.begin_write().unwrap();
    let mut rows = rows(&txn);
    let mut standing = Standing::default();
    let row = QueueRow::default();
    for (event, started) in [(1, false), (2, false), (3, true)] {
        queue::insert(&mut rows, &mut standing, 7, event, key(started, 10), &row).unwrap();
    }
    // The same place twice is one row.
    queue::insert(&mut rows, &mut standing, 7, 3, key(true, 10), &row).unwrap();
    assert_eq!((standing.waiting, standing.started), (2, 1));
    assert!(queue::remove(&mut rows, &mut standing, 7, 1, key(false, 10)).unwrap());
    assert!(!queue::remove(&mut rows, &mut standing, 7, 1, key(false, 10)).unwrap());
    assert!(!queue::remove(&mut rows, &mut standing, 7, 3, key(false, 10)).unwrap(), "started rows stand elsewhere");
    assert_eq!((standing.waiting, standing.started), (1, 1));
    assert_eq!(queue::get(&rows, 7, 2, key(false, 10)).unwrap(), Some(row));
    assert_eq!(queue::get(&rows, 7, 2, key(false, 11)).unwrap(), None);
}

#[test]
fn due_is_by_kind_oldest_first_up_to_now_and_max() {
    let db = database();
    let txn = db.begin_write().unwrap();
    let mut rows = rows(&txn);
    let mut standing = Standing::default();
    let row = QueueRow::default();
    for (webhook, event, started, due) in
        [(7, 1, true, 30), (7, 2, true, 20), (7, 3, true, 20), (7, 4, false, 5), (6, 5, true, 1), (8, 6, true, 1)]
    {
        queue::insert(&mut rows, &mut standing, webhook, event, key(started, due), &row).unwrap();
    }
    let due = |started, now, max, skipped: u64| -> Vec<u64> {
        let found = queue::due(&rows, 7, started, now, max, |event, _| event == skipped).unwrap();
        found.iter().map(|queued| queued.event).collect()
    };
    assert_eq!(due(true, 19, 9, 0), [0_u64; 0]);
    assert_eq!(due(true, 20, 9, 0), [2, 3]);
    assert_eq!(due(true, 30, 2, 2), [3, 1]);
    assert_eq!(due(true, u64::MAX, 9, 0), [2, 3, 1]);
    assert_eq!(due(false, 30, 9, 0), [4]);
    assert_eq!(due(false, 30, 0, 0), [0_u64; 0]);
    assert_eq!(queue::next_due(&rows, 7, true, |_, _| false).unwrap(), Some(20));
    assert_eq!(queue::next_due(&rows, 7, true, |event, _| event < 4 && event > 1).unwrap(), Some(30));
    assert_eq!(queue::next_due(&rows, 9, true, |_, _| false).unwrap(), None);
}

#[test]
fn a_sweep_takes_so_many_rows_of_one_webhook_and_no_more() {
    let db = database();
    let txn = db.begin_write().unwrap();
    let mut rows = rows(&txn);
    let (mut mine, mut other) = (Standing::default(), Standing::default());
    let row = QueueRow::default();
    for event in 0..10 {
        queue::insert(&mut rows, &mut mine, 7, event, key(event % 3 == 0, event), &row).unwrap();
        queue::insert(&mut rows, &mut other, 8, event, key(false, event), &row).unwrap();
    }
    assert_eq!(queue::sweep(&mut rows, &mut mine, 7, 4).unwrap(), 4);
    let left = |rows: &Rows<'_>, webhook, started| {
        queue::due(rows, webhook, started, u64::MAX, 99, |_, _| false).unwrap().len() as u64
    };
    assert_eq!(mine.waiting + mine.started, 6);
    assert_eq!((left(&rows, 7, false), left(&rows, 7, true)), (mine.waiting, mine.started));
    assert_eq!(queue::sweep(&mut rows, &mut mine, 7, 99).unwrap(), 6);
    assert_eq!((mine.waiting, mine.started), (0, 0));
    assert_eq!((left(&rows, 8, false), other.waiting), (10, 10));
}
