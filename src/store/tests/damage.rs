//! The writer and damage: the group that met it is told, the others go on; where it stands in the way, the writer ends, and
//! nothing that was acknowledged is lost by that.

use std::sync::Arc;

use redb::ReadableTable as _;

use super::spool::webhook;
use super::store_in;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::model::event::order_of;
use crate::model::id::TenantId;
use crate::model::job::Erase;
use crate::model::webhook::Filter;
use crate::store::erase::EVENTS;
use crate::store::inbox::{Answer, SubmitError, Waiter};
use crate::store::log::Log;
use crate::store::op::{Accept, Draft, Effects, Idempotency, Op};
use crate::store::schema::{IDEMPOTENCY, ORDERING};
use crate::store::writer::{Downstream, Parts};

/// Hands answers on as a worker's loop does.
struct Workers;

impl Downstream for Workers {
    fn committed(&self, _: Effects, answers: Vec<(Waiter, Answer)>) {
        for (waiter, answer) in answers {
            drop(waiter.sender.send(answer));
        }
    }

    fn reopened(&self) {}
}

fn publish(key: Option<&str>, idempotency: Option<[u8; 16]>) -> Op {
    let draft =
        Draft { tenant: 1, kind: "order.created".to_owned(), ordering_key: key.map(str::to_owned), ..Draft::default() };
    let idempotency = idempotency.map(|hash| Idempotency { hash, body_hash: [0; 32] });
    Op::Accept(Accept { drafts: vec![draft], idempotency, ..Accept::default() })
}

fn open(folder: &std::path::Path, metrics: &Arc<Metrics>) -> Parts {
    store_in(folder, &Clock::manual(1_700_000_000_000), metrics)
}

/// A store with webhook 1 and these events.
fn made(folder: &std::path::Path, events: &[Op]) -> Parts {
    let mut parts = open(folder, &Arc::default());
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    parts.recovered.engine.apply(&[tenant, webhook(1, Filter::All)]).unwrap();
    parts.recovered.engine.apply(events).unwrap();
    parts.recovered.engine.checkpoint(false).unwrap();
    parts
}

#[tokio::test]
async fn g10_a_change_that_meets_damage_is_told_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let parts = made(folder.path(), &[publish(None, Some([5; 16]))]);
    let txn = parts.recovered.engine.db.begin_write().unwrap();
    let key = (u32::try_from(1_700_000_000_000_u64 / 86_400_000).unwrap(), &[5; 16]);
    txn.open_table(IDEMPOTENCY).unwrap().insert(key, &[1, 2, 3, 4, 5, 6][..]).unwrap();
    txn.commit().unwrap();
    let (store, metrics) = (parts.store(), parts.metrics.clone());
    let writer = store.start(parts, Arc::new(Workers)).unwrap();
    for _ in 0..2 {
        let answer = store.submit(publish(None, Some([5; 16])), None).await;
        assert!(matches!(answer, Err(SubmitError::Store(_))), "{answer:?}");
        while store.is_down() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        store.submit(publish(None, None), None).await.unwrap();
    }
    assert_eq!((metrics.store_damage.get(), store.is_damaged()), (2, false));
    store.close();
    writer.join().unwrap();
    assert_eq!(open(folder.path(), &metrics).recovered.engine.heads().0, 4);
}

#[tokio::test]
async fn g10_damage_in_the_way_ends_the_writer_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let parts = made(folder.path(), &[publish(Some("a"), None), publish(Some("a"), None)]);
    let key = (1, order_of("a"), 2);
    let txn = parts.recovered.engine.db.begin_write().unwrap();
    let whole = {
        let mut lines = txn.open_table(ORDERING).unwrap();
        let whole = lines.get(key).unwrap().unwrap().value().to_vec();
        let mut altered = whole.clone();
        altered[1] ^= 1;
        lines.insert(key, altered.as_slice()).unwrap();
        whole
    };
    txn.commit().unwrap();
    let db = parts.recovered.engine.db.clone();
    let (store, metrics) = (parts.store(), parts.metrics.clone());
    let writer = store.start(parts, Arc::new(Workers)).unwrap();
    store.submit(publish(None, None), None).await.unwrap();
    drop(db);
    let answer = store.submit(Op::Cancel { event: 2, webhooks: vec![1] }, None).await;
    assert!(matches!(answer, Err(SubmitError::Store(_))), "{answer:?}");
    writer.join().unwrap();
    assert!(store.is_damaged() && metrics.store_damage.get() > 1);
    assert!(matches!(store.submit(Op::Ping, None).await, Err(SubmitError::Store(_))), "callers are turned away");

    // Mended from outside, it is what it was.
    let db = redb::Database::open(folder.path().join("webhookd.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(ORDERING).unwrap().insert(key, whole.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(db);
    let recovered = open(folder.path(), &metrics).recovered;
    assert_eq!(recovered.engine.heads().0, 4);
    assert_eq!(recovered.fresh.iter().map(|(_, event)| event.seq).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn g10_an_erasure_passes_over_no_block_that_is_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = made(folder.path(), &[publish(None, None)]);
    for _ in 0..2 {
        parts.recovered.engine.apply(&[publish(None, None)]).unwrap();
    }
    let shared = parts.shared.clone();
    let id = TenantId::parse("acme").unwrap();
    let erase = Erase { tenant: 1, id, journal_below: u64::MAX, audit_below: u64::MAX };
    let step = || shared.erasable(&erase, u64::MAX, (EVENTS, 0), 100);
    assert_eq!(step().unwrap().items.len(), 3, "a block each");
    let txn = parts.recovered.engine.db.begin_write().unwrap();
    txn.open_table(Log::Events.table()).unwrap().remove(2).unwrap();
    txn.commit().unwrap();
    assert!(step().is_err_and(|error| error.is_damage()), "what is hidden would never be erased");
}
