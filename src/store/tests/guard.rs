//! What stands or falls with an op: marks and audit records, in whichever group they meet, and how they end.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::model::audit::{Actor, Audit};
use crate::model::id::{KeyId, TenantId};
use crate::model::key::{Key, Role};
use crate::model::pause::Scope;
use crate::model::secret::Secret;
use crate::store::engine::Engine;
use crate::store::failing_disk::Disk;
use crate::store::op::{Accept, Done, Draft, Guard, Mark, Op, Refusal, Tidy};
use crate::store::view::Shared;

const MINUTE: u32 = 28_333_333;

struct Fixture {
    engine: Engine,
    shared: Arc<Shared>,
    clock: Clock,
}

/// A store with one tenant.
fn fixture() -> Fixture {
    let clock = Clock::manual(u64::from(MINUTE) * 60_000);
    let parts = Disk::default().parts(&clock);
    let (mut engine, shared) = (parts.recovered.engine, parts.shared);
    engine.apply(&[put("acme")]).unwrap();
    Fixture { engine, shared, clock }
}

fn put(tenant: &str) -> Op {
    Op::PutTenant { id: TenantId::parse(tenant).unwrap(), name: None, plan: None }
}

fn mark(hash: u8) -> Mark {
    Mark { minute: MINUTE, hash: [hash; 16] }
}

fn signed(hash: u8, op: Op) -> Op {
    Op::Guarded { guard: Guard { mark: Some(mark(hash)), audit: None }, op: Box::new(op) }
}

fn recorded(action: &str, op: Op) -> Op {
    let audit = Some(Box::new(Audit::new(Actor::Socket, action)));
    Op::Guarded { guard: Guard { mark: None, audit }, op: Box::new(op) }
}

fn published(tenants: &[u32]) -> Op {
    let draft = |tenant: &u32| Draft { tenant: *tenant, kind: "ping".to_owned(), ..Draft::default() };
    Op::Accept(Accept { drafts: tenants.iter().map(draft).collect(), ..Accept::default() })
}

impl Fixture {
    /// Applies each op as a group of its own; whether each was accepted.
    fn each(&mut self, ops: Vec<Op>) -> Vec<Result<(), Refusal>> {
        let apply = |op| self.engine.apply(&[op]).unwrap().answers.remove(0).map(drop);
        ops.into_iter().map(apply).collect()
    }

    fn records(&self) -> Vec<(u64, Audit)> {
        let mut found = Vec::new();
        let view = self.shared.view().unwrap();
        view.scan_audit(u64::MAX, |number, audit| {
            found.push((number, audit));
            Ok(true)
        })
        .unwrap();
        found
    }
}

#[test]
fn a_mark_is_accepted_once_also_from_a_twin_in_one_group() {
    let mut fixture = fixture();
    let answers = fixture.engine.apply(&[signed(1, put("one")), signed(1, put("two")), signed(2, put("two"))]);
    let answers: Vec<_> = answers.unwrap().answers.into_iter().map(|answer| answer.map(drop)).collect();
    assert_eq!(answers, [Ok(()), Err(Refusal::Replayed), Ok(())]);
    assert_eq!(fixture.each(vec![signed(1, Op::Ping), signed(3, Op::Ping)]), [Err(Refusal::Replayed), Ok(())]);
    let view = fixture.shared.view().unwrap();
    assert!(view.is_marked(&mark(1)).unwrap() && !view.is_marked(&mark(4)).unwrap());
    let other_minute = Mark { minute: MINUTE + 1, ..mark(1) };
    assert!(!view.is_marked(&other_minute).unwrap());
}

#[test]
fn what_is_refused_leaves_nothing() {
    let mut fixture = fixture();
    let refused = Op::RevokeKey(KeyId([9; 8]));
    let both = Guard { mark: Some(mark(1)), audit: Some(Box::new(Audit::new(Actor::Socket, "key.revoke"))) };
    let guarded = Op::Guarded { guard: both, op: Box::new(refused) };
    assert_eq!(fixture.each(vec![guarded.clone(), guarded]), [Err(Refusal::NotFound); 2], "twice for the same reason");
    assert!(!fixture.shared.view().unwrap().is_marked(&mark(1)).unwrap());
    assert_eq!(fixture.records(), []);
    assert_eq!(fixture.each(vec![signed(1, Op::Ping)]), [Ok(())], "and its signature is good for another try");
}

#[test]
fn records_name_what_was_changed() {
    let mut fixture = fixture();
    let key = Key {
        id: KeyId([7; 8]),
        role: Role::Tenant,
        tenant: Some(1),
        name: None,
        publish: false,
        token_hash: [1; 32],
        secret_key: Secret::new("secret".to_owned()),
        created_ms: 0,
        expires_ms: None,
        cidrs: Vec::new(),
        revoked_ms: None,
    };
    let ops = vec![
        recorded("tenant.put", put("beta")),
        recorded("key.create", Op::CreateKey(Box::new(key))),
        recorded("event.publish", published(&[1])),
        recorded("event.publish", published(&[0, 1, 1])),
        recorded("nothing", Op::Ping),
    ];
    assert!(fixture.each(ops).iter().all(Result::is_ok));
    let mut ids = Vec::new();
    let view = fixture.shared.view().unwrap();
    view.scan_events(1, |event| {
        ids.push(event.id.to_string());
        true
    })
    .unwrap();
    let records = fixture.records();
    let told: Vec<_> = records.iter().rev().map(|(no, a)| (*no, a.tenant.as_deref(), a.target.as_deref())).collect();
    let range = format!("{}..{}", ids[1], ids[3]);
    let wanted = [
        (1, Some("beta"), Some("beta")),
        (2, Some("acme"), Some("key_0707070707070707")),
        (3, Some("acme"), Some(ids[0].as_str())),
        (4, Some("*"), Some(range.as_str())),
        (5, None, None),
    ];
    assert_eq!(told, wanted);
    assert_eq!((records[0].1.at_ms, records[0].1.since_ms), (fixture.clock.wall_ms(), fixture.clock.now_ms()));
}

#[test]
fn what_has_served_its_time_goes_in_small_steps() {
    let mut fixture = fixture();
    for hash in 0..5 {
        fixture.each(vec![signed(hash, Op::Ping), recorded("x", Op::Ping)]);
        fixture.clock.advance(Duration::from_secs(1));
    }
    // The wall clock is set back: what counts for keeping a record does not fall with it.
    fixture.clock.step_wall_to(1_000);
    fixture.each(vec![recorded("x", Op::Ping)]);
    let now = fixture.clock.now_ms();
    let mut tidy = |marks_before, audit_before_ms, max| {
        let tidy = Tidy { marks_before, audit_before_ms, pauses_before_ms: 0, max };
        (
            fixture.shared.is_untidy(tidy).unwrap(),
            fixture.engine.apply(&[Op::Tidy(tidy)]).unwrap().answers[0].as_ref().map(Done::count).unwrap(),
        )
    };
    assert_eq!(tidy(MINUTE, now - 5_000, 10), (false, 0));
    assert_eq!(tidy(MINUTE + 1, 0, 3), (true, 3));
    assert_eq!(tidy(MINUTE + 1, now - 3_000, 3), (true, 4), "two marks and two records");
    assert_eq!(tidy(MINUTE + 1, now - 3_000, 3), (false, 0));
    assert_eq!(fixture.records().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [6, 5, 4, 3]);
    let all = Tidy { marks_before: 0, audit_before_ms: u64::MAX, pauses_before_ms: 0, max: 100 };
    fixture.each(vec![Op::Tidy(all), recorded("x", Op::Ping)]);
    assert_eq!(fixture.records()[0].0, 7, "numbers rise for ever");
}

#[test]
fn pauses_that_are_long_over_are_forgotten() {
    let mut fixture = fixture();
    let scopes = ["a.example", "b.example", "c.example"].map(|host| Scope::host(host).unwrap());
    for scope in &scopes {
        fixture.each(vec![Op::Pause { scope: scope.clone(), paused: true }]);
    }
    let ended = fixture.clock.wall_ms();
    for scope in &scopes[..2] {
        fixture.each(vec![Op::Pause { scope: scope.clone(), paused: false }]);
    }
    let mut tidy = |pauses_before_ms, max| {
        let tidy = Tidy { marks_before: 0, audit_before_ms: 0, pauses_before_ms, max };
        let untidy = fixture.shared.is_untidy(tidy).unwrap();
        (untidy, fixture.engine.apply(&[Op::Tidy(tidy)]).unwrap().answers[0].as_ref().map(Done::count).unwrap())
    };
    assert_eq!(tidy(ended, 10), (false, 0), "they make a difference still");
    assert_eq!(tidy(ended + 1, 1), (true, 1));
    assert_eq!(tidy(ended + 1, 10), (true, 1));
    assert_eq!(tidy(u64::MAX, 10), (false, 0), "one in force stays whatever the clock says");
    let known: Vec<Scope> = fixture.shared.registry().pauses().iter().map(|(scope, _)| scope.clone()).collect();
    assert_eq!(known, scopes[2..]);
}
