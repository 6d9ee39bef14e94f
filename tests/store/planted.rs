//! `webhookd store check` finds what it is for: each thing that tables say of each other, broken once with every checksum in order.

use redb::{Key, ReadableDatabase as _, ReadableTable as _, TableDefinition, Value, WriteTransaction};
use webhookd::store::check as store_check;
use webhookd::store::ordering::Place;
use webhookd::store::record::{Remembered, Standing};
use webhookd::store::row;
use webhookd::store::schema::{
    BY_TENANT, BY_WEBHOOK, DEAD, DEAD_OF, EVENTS, FATES, IDEMPOTENCY, JOURNAL, ORDERING, QUEUE, STANDING,
};

use crate::disk::Disk;
use crate::drafts;
use crate::world::{World, files, open_on};

/// A store with something in every table, closed.
fn lived() -> (World, [Vec<u8>; 2]) {
    for seed in 9_000..9_100 {
        let mut world = World::new(seed, false);
        for _ in 0..120 {
            world.step().unwrap();
        }
        let mut engine = world.engine.take().unwrap();
        engine.checkpoint(true).unwrap();
        let (db, _) = engine.into_files();
        let txn = db.begin_read().unwrap();
        let is_full = |count: u64| count > 1;
        let queue = txn.open_table(QUEUE).unwrap().iter().unwrap().count() as u64;
        let dead = txn.open_table(DEAD).unwrap().iter().unwrap().count() as u64;
        let fates = txn.open_table(FATES).unwrap().iter().unwrap().count() as u64;
        let postings = txn.open_table(BY_WEBHOOK).unwrap().iter().unwrap().count() as u64;
        let held = txn.open_table(ORDERING).unwrap().iter().unwrap().any(|row| {
            let (key, value) = row.unwrap();
            let live = world.model.live(key.value().0);
            live && matches!(row::read(ORDERING, &key.value(), value.value()), Ok(Place::Held(_)))
        });
        drop(txn);
        drop(db);
        world.shared = None;
        if held && [queue, dead, fates, postings].into_iter().all(is_full) {
            let images = world.disk.images();
            return (world, images);
        }
    }
    panic!("no world has it all");
}

/// Takes away the first row for which `wanted` holds.
fn lose<K: Key, V: Value>(
    txn: &WriteTransaction,
    definition: TableDefinition<'static, K, V>,
    wanted: impl Fn(K::SelfType<'_>) -> bool,
) {
    let mut table = txn.open_table(definition).unwrap();
    let mut lost = false;
    table
        .retain(|key, _| {
            let loses = !lost && wanted(key);
            lost |= loses;
            !loses
        })
        .unwrap();
    assert!(lost, "nothing to lose");
}

#[test]
fn g03_store_check_finds_what_does_not_agree() {
    let (world, images) = lived();
    let findings = |change: &dyn Fn(&WriteTransaction)| {
        let disk = Disk::of(&images);
        let db = open_on(&disk, 1 << 20).unwrap();
        let txn = db.begin_write().unwrap();
        change(&txn);
        txn.commit().unwrap();
        drop(db);
        let sealer = drafts::sealer(&world.entropy);
        let report = store_check::check(&files(&disk), drafts::place(), &sealer, 1 << 20, &mut |_, _, _| {});
        report.unwrap().findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let finds = |part: &str, change: &dyn Fn(&WriteTransaction)| {
        let found = findings(change);
        assert!(found.iter().any(|finding| finding.contains(part)), "{part:?} is not among {found:#?}");
    };
    assert_eq!(findings(&|_| {}), Vec::<String>::new());
    let live = |webhook: u32| world.model.live(webhook);

    finds("has no row in the queue", &|txn| lose(txn, QUEUE, |key| live(key.0)));
    finds("standing at ", &|txn| lose(txn, QUEUE, |key| live(key.0)));
    finds("and its deliveries come to", &|txn| {
        let key = (world.model.queue.keys().find(|place| live(place.0)).unwrap().0, 1, 77, 1);
        let row = row::write(QUEUE, &key, &webhookd::store::record::QueueRow::default());
        txn.open_table(QUEUE).unwrap().insert(key, row.as_slice()).unwrap();
    });
    finds("standing at ", &|txn| lose(txn, DEAD_OF, |key| live(key.0)));
    finds("dead at ", &|txn| lose(txn, DEAD_OF, |_| true));
    finds("dead_of: ", &|txn| lose(txn, DEAD, |_| true));
    finds("the records up to", &|txn| {
        let second = txn.open_table(EVENTS).unwrap().iter().unwrap().nth(1).unwrap().unwrap().0.value();
        lose(txn, EVENTS, |first| first == second);
    });
    finds("its logs do not end where they did", &|txn| {
        let last = txn.open_table(JOURNAL).unwrap().last().unwrap().unwrap().0.value();
        lose(txn, JOURNAL, |first| first == last);
    });
    finds("of the journal is newer", &|txn| lose(txn, FATES, |_| true));
    finds("by_tenant at ", &|txn| lose(txn, BY_TENANT, |_| true));
    finds("by_webhook at ", &|txn| lose(txn, BY_WEBHOOK, |_| true));
    finds("of its deliveries are under way", &|txn| {
        let mut lines = txn.open_table(ORDERING).unwrap();
        let held = lines.iter().unwrap().map(Result::unwrap).find_map(|(key, value)| {
            let key = key.value();
            let place = row::read(ORDERING, &key, value.value()).unwrap();
            (live(key.0) && matches!(place, Place::Held(_))).then_some(key)
        });
        let key = held.unwrap();
        lines.insert(key, row::write(ORDERING, &key, &Place::UnderWay).as_slice()).unwrap();
    });
    finds("standing at ", &|txn| {
        let mut table = txn.open_table(STANDING).unwrap();
        let (no, standing) = {
            let (no, value) = table.first().unwrap().unwrap();
            (no.value(), row::read::<_, Standing>(STANDING, &no.value(), value.value()).unwrap())
        };
        let wrong = Standing { waiting: standing.waiting + 1, ..standing };
        table.insert(no, row::write(STANDING, &no, &wrong).as_slice()).unwrap();
    });
    finds("idempotency at ", &|txn| {
        let wrong = Remembered { body_hash: [0; 32], first: 1 << 40, count: 1, at_ms: 0 };
        let key = (1, &[7; 16]);
        let row = row::write(IDEMPOTENCY, &key, &wrong);
        txn.open_table(IDEMPOTENCY).unwrap().insert(key, row.as_slice()).unwrap();
    });
}
