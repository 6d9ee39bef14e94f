//! Compaction: the room of what was removed comes back, and everything else stays; without room, nothing is begun.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use redb::ReadableTable as _;
use webhookd::clock::Clock;
use webhookd::entropy::Entropy;
use webhookd::store::check;
use webhookd::store::compact::compact;
use webhookd::store::op::Op;
use webhookd::store::open::{self, Place};
use webhookd::store::recover::recover;
use webhookd::store::schema::EVENTS;

use crate::drafts;
use crate::world::RETENTION_MS;

const GROUPS: u64 = 200;
/// Events of one group.
const TOGETHER: u64 = 5;

/// A store whose older nine tenths of events are gone, as retention leaves it.
fn make(folder: &Path) -> Place {
    let place = Place { state_dir: folder.to_owned(), key_file: None, cache_bytes: 1 << 20 };
    let (db, shared) = open::open(&place, &Entropy::seeded(5)).unwrap();
    let log = open::open_wal(&place.wal_file()).unwrap();
    let mut engine = recover(db, shared, &Clock::manual(1_700_000_000_000), log, RETENTION_MS).unwrap().engine;
    engine.apply(&[drafts::put_tenant("acme")]).unwrap();
    let data = Bytes::from(format!("{{\"pad\":\"{}\"}}", "x".repeat(4_000)));
    for _ in 0..GROUPS {
        let drafts = (0..TOGETHER).map(|_| drafts::draft(1, "ping", data.clone())).collect();
        engine.apply(&[Op::Accept(drafts::accept(drafts, None))]).unwrap();
    }
    engine.checkpoint(true).unwrap();
    let (db, _) = engine.into_files();
    let txn = db.begin_write().unwrap();
    {
        let mut events = txn.open_table(EVENTS).unwrap();
        let kept = GROUPS * TOGETHER / 10;
        events.retain(|first, _| first > GROUPS * TOGETHER - kept).unwrap();
        assert!(events.first().unwrap().is_some());
    }
    txn.commit().unwrap();
    place
}

#[test]
fn the_room_of_what_was_removed_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let place = make(folder.path());
    let look = || check::place(&place, &Entropy::seeded(6), &mut |_, _, _| {}).unwrap();
    let before = look();
    assert_eq!((&before.findings, before.events), (&Vec::new(), GROUPS * TOGETHER / 10));
    let mut told = 0;
    let sizes = compact(&place, &Entropy::seeded(7), &Clock::manual(1), &mut |_, _, _| told += 1).unwrap();
    assert_eq!(sizes.after, fs::metadata(place.store_file()).unwrap().len());
    assert!(sizes.after * 3 < sizes.before, "{sizes:?}");
    assert!(told > 18, "each table is told of");
    let after = look();
    assert_eq!((&after.findings, after.events), (&Vec::new(), before.events));
    let again = compact(&place, &Entropy::seeded(7), &Clock::manual(1), &mut |_, _, _| {}).unwrap();
    assert!(again.after <= sizes.after, "{again:?}");
}
