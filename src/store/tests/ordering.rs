//! Lines: who goes next when one ends, by whatever end; what start-up and a deletion make of them.

use std::sync::Arc;

use super::spool::{NOW, open, success, webhook};
use crate::model::attempt::DeadReason;
use crate::model::event::{Event, order_of};
use crate::model::id::{Seq, TenantId};
use crate::model::webhook::Filter;
use crate::store::engine::Engine;
use crate::store::op::{Accept, Draft, Op, RowKey};
use crate::store::ordering::Place;
use crate::store::spool::Spool;
use crate::store::view::Shared;
use crate::store::writer::Parts;

/// A store with webhook 1.
fn made() -> (tempfile::TempDir, Parts) {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = open(folder.path());
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    parts.recovered.engine.apply(&[tenant, webhook(1, Filter::All)]).unwrap();
    (folder, parts)
}

/// Accepts events of one key; gives those that may go.
fn publish(engine: &mut Engine, key: &str, count: usize) -> Vec<Arc<Event>> {
    let draft =
        Draft { tenant: 1, kind: "order.created".to_owned(), ordering_key: Some(key.to_owned()), ..Draft::default() };
    let accept = Accept { drafts: vec![draft; count], ..Accept::default() };
    let applied = engine.apply(&[Op::Accept(accept)]).unwrap();
    applied.effects.fresh.into_iter().map(|(_, event)| event).collect()
}

/// Who stands in webhook 1's line of `key`, and whether it is under way.
fn line(shared: &Shared, key: &str) -> Vec<(Seq, bool)> {
    let places = shared.view().unwrap().in_line(1, None, 999).unwrap().items;
    let mine = places.into_iter().filter(|(order, ..)| *order == order_of(key));
    mine.map(|(_, event, place)| (event, place == Place::UnderWay)).collect()
}

#[test]
fn one_goes_and_the_others_of_its_key_are_held_on_disk() {
    let (folder, mut parts) = made();
    let engine = &mut parts.recovered.engine;
    assert_eq!(publish(engine, "a", 3).iter().map(|event| event.seq).collect::<Vec<_>>(), [1]);
    assert_eq!(publish(engine, "b", 2).iter().map(|event| event.seq).collect::<Vec<_>>(), [4]);
    assert_eq!(line(&parts.shared, "a"), [(1, true), (2, false), (3, false)]);
    assert_eq!(parts.shared.view().unwrap().standing(1).unwrap().held, 3);
    drop(parts);
    let parts = open(folder.path());
    assert_eq!(parts.recovered.fresh.iter().map(|(_, event)| event.seq).collect::<Vec<_>>(), [1, 4]);
    let view = parts.shared.view().unwrap();
    assert_eq!(view.before_in_line(1, order_of("a"), 3, 9).unwrap(), (Some(1), Some(2)));
    let page = view.in_line(1, None, 2).unwrap();
    assert_eq!(page.items.len(), 2);
    assert_eq!(view.in_line(1, page.next, 9).unwrap().items.len(), 3);
}

#[test]
fn a_success_in_the_spool_lets_the_next_one_go_at_the_next_start() {
    let (folder, mut parts) = made();
    let event = publish(&mut parts.recovered.engine, "a", 3).remove(0);
    drop(parts);
    let (spool, _) = Spool::open(folder.path()).unwrap();
    spool.note([success(&event, 1)].iter()).unwrap();
    drop(spool);
    let parts = open(folder.path());
    assert_eq!((parts.recovered.fresh.len(), parts.recovered.queued), (0, vec![1]), "its lane is to be looked at");
    assert_eq!(line(&parts.shared, "a"), [(2, true), (3, false)]);
    // It is due since it waits.
    let key = RowKey { started: false, due_ms: NOW };
    assert!(parts.shared.view().unwrap().queue_row(1, 2, key).unwrap().is_some());
}

#[test]
fn a_whole_line_that_has_waited_out_its_policy_dies_at_once() {
    let (_folder, mut parts) = made();
    let engine = &mut parts.recovered.engine;
    publish(engine, "a", 5);
    let spill = Op::Spill { webhook: 1, events: vec![1], due_ms: NOW };
    let expire = |max| Op::Expire { webhook: 1, before_ms: NOW, max };
    let applied = engine.apply(&[spill, expire(3), expire(99)]).unwrap();
    let died: Vec<(Seq, DeadReason)> = applied.effects.died.iter().map(|(_, event, why)| (*event, *why)).collect();
    assert_eq!(died, [1, 2, 3, 4, 5].map(|event| (event, DeadReason::CircuitExpired)));
    assert_eq!(line(&parts.shared, "a"), []);
    let standing = parts.shared.view().unwrap().standing(1).unwrap();
    assert_eq!((standing.held, standing.waiting, standing.dead), (0, 0, 5));
}

#[test]
fn lines_of_a_deleted_webhook_are_swept_also_after_a_restart() {
    for restarts in [false, true] {
        let (folder, mut parts) = made();
        for key in 0..4 {
            publish(&mut parts.recovered.engine, &format!("key-{key}"), 300);
        }
        parts.recovered.engine.apply(&[Op::DeleteWebhook { no: 1 }]).unwrap();
        if restarts {
            drop(parts);
            parts = open(folder.path());
            assert_eq!(parts.recovered.fresh.len(), 0, "cancelled");
        }
        let mut commits = 0;
        while parts.recovered.engine.has_chores() {
            parts.recovered.engine.checkpoint(false).unwrap();
            commits += 1;
        }
        assert!((1..5).contains(&commits), "{commits}");
        let view = parts.shared.view().unwrap();
        assert_eq!(view.in_line(1, None, 9).unwrap().items, []);
        assert_eq!(view.standing(1).unwrap().held, 0);
    }
}
