//! Pages: list rows on disk and the tail in memory are one list, in both directions, with bounds and cursors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redb::Builder;
use redb::backends::InMemoryBackend;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::limits::{LOGGED_BYTES_MAX, PAGE_BYTES_MAX};
use crate::model::attempt::{Attempt, Verdict};
use crate::model::id::{AttemptNumber, Seq, TenantId, TenantNo};
use crate::store::engine::Engine;
use crate::store::op::{Accept, Draft, Op, Outcome};
use crate::store::open;
use crate::store::page::EventQuery;
use crate::store::recover::recover;
use crate::store::seal::Sealer;
use crate::store::view::Shared;
use crate::store::wal::Wal;

const START_MS: u64 = 1_700_000_000_000;

struct Fixture {
    engine: Engine,
    shared: Arc<Shared>,
    clock: Clock,
}

/// Events 1 to 40, one every 10 ms, of tenants 1, 2 and everybody in turn; the first 24 or so are flushed.
fn fixture() -> Fixture {
    fixture_with(Wal::open(Box::new(InMemoryBackend::new()), 1 << 20).unwrap())
}

fn fixture_with(wal: Wal) -> Fixture {
    let entropy = Entropy::seeded(1);
    let sealer = Sealer::new([1; 32], entropy.clone());
    let db = Arc::new(Builder::new().create_with_backend(InMemoryBackend::new()).unwrap());
    open::initialise(&db, &sealer, &entropy).unwrap();
    let shared = open::admit(&db, std::path::Path::new("memory"), sealer).unwrap();
    let clock = Clock::manual(START_MS);
    let mut engine = recover(db, shared.clone(), &clock, wal, 1).unwrap().engine;
    for name in ["one", "two"] {
        let put = Op::PutTenant { id: TenantId::parse(name).unwrap(), name: None, plan: None };
        engine.apply(&[put]).unwrap();
    }
    engine.set_flush_at(12);
    let mut fixture = Fixture { engine, shared, clock };
    for number in 0..40_u32 {
        if number == 24 {
            fixture.engine.set_flush_at(usize::MAX);
        }
        fixture.accept([1, 2, 0][number as usize % 3], if number % 2 == 0 { "even" } else { "odd" });
    }
    fixture
}

impl Fixture {
    fn accept(&mut self, tenant: TenantNo, kind: &str) {
        self.accept_with(tenant, kind, None);
    }

    fn accept_with(&mut self, tenant: TenantNo, kind: &str, data: Option<Bytes>) {
        let draft = Draft {
            tenant,
            kind: kind.to_owned(),
            data,
            context: Some(Bytes::from_static(b"{\"a\":\"x\",\"n\":1}")),
            ..Draft::default()
        };
        self.engine.apply(&[Op::Accept(Accept { drafts: vec![draft], ..Accept::default() })]).unwrap();
        self.clock.advance(Duration::from_millis(10));
    }

    /// All pages of a query, one after the other.
    fn all(&self, query: &EventQuery) -> Vec<Seq> {
        let mut query = query.clone();
        let mut found = Vec::new();
        loop {
            let page = self.shared.events_page(&query).unwrap();
            found.extend(page.items.iter().map(|event| event.seq));
            query.after = page.next;
            if page.next.is_none() {
                return found;
            }
        }
    }
}

fn query(tenant: TenantNo, ascending: bool, limit: usize) -> EventQuery {
    EventQuery { tenant, ascending, limit, ..EventQuery::default() }
}

/// Events of a tenant and of everybody, as the fixture makes them.
fn wanted(tenant: u64) -> Vec<Seq> {
    (1..=40).filter(|seq| (seq - 1) % 3 == tenant - 1 || (seq - 1) % 3 == 2).collect()
}

#[test]
fn disk_and_tail_are_one_list_in_both_directions() {
    let fixture = fixture();
    let (base, _) = fixture.shared.tails().bases();
    assert!((13..=25).contains(&base), "something is flushed and something is not: {base}");
    for tenant in [1, 2] {
        let mut wanted = wanted(tenant);
        for limit in [1, 2, 3, 7, 26, 27, 28, 100] {
            assert_eq!(fixture.all(&query(tenant as TenantNo, true, limit)), wanted, "{limit} up");
        }
        wanted.reverse();
        for limit in [1, 2, 3, 7, 26, 27, 28, 100] {
            assert_eq!(fixture.all(&query(tenant as TenantNo, false, limit)), wanted, "{limit} down");
        }
    }
}

#[test]
fn a_cursor_goes_on_behind_its_event_wherever_that_is() {
    let fixture = fixture();
    let all = wanted(1);
    for after in (0..=41).chain([Seq::MAX]) {
        let up = EventQuery { after: Some(after), ..query(1, true, 100) };
        assert_eq!(fixture.all(&up), all.iter().copied().filter(|seq| *seq > after).collect::<Vec<_>>(), "{after} up");
        let down = EventQuery { after: Some(after), ..query(1, false, 100) };
        let below = all.iter().rev().copied().filter(|seq| *seq < after).collect::<Vec<_>>();
        assert_eq!(fixture.all(&down), below, "{after} down");
    }
}

#[test]
fn bounds_in_time_include_their_edges() {
    let fixture = fixture();
    let at = |seq: Seq| START_MS + (seq - 1) * 10;
    for (from, to) in [(1, 40), (4, 4), (12, 14), (20, 31), (31, 20)] {
        for (low, high) in [(0, 0), (1, 0), (0, 9)] {
            // A bound just behind an event leaves it out at the low end and keeps it at the high end.
            let (since, until) = (at(from) + low, at(to) + high);
            let inside = |seq: &Seq| at(*seq) >= since && at(*seq) <= until;
            for ascending in [true, false] {
                let bounded = EventQuery { since_ms: Some(since), until_ms: Some(until), ..query(2, ascending, 5) };
                let mut wanted: Vec<Seq> = wanted(2).into_iter().filter(inside).collect();
                if !ascending {
                    wanted.reverse();
                }
                assert_eq!(fixture.all(&bounded), wanted, "{from}+{low} to {to}+{high}");
            }
        }
    }
    let nothing = EventQuery { since_ms: Some(at(41)), ..query(2, true, 5) };
    assert_eq!(fixture.all(&nothing), [0_u64; 0]);
}

#[test]
fn filters_apply_and_an_unknown_tenant_sees_only_what_is_for_everybody() {
    let fixture = fixture();
    let odd = EventQuery { kind: Some("odd".to_owned()), ..query(1, true, 2) };
    assert_eq!(fixture.all(&odd), wanted(1).into_iter().filter(|seq| seq % 2 == 0).collect::<Vec<_>>());
    for (key, value, found) in
        [("a", "x", true), ("a", "y", false), ("n", "1", true), ("n", "2", false), ("b", "x", false)]
    {
        let filtered = EventQuery { context: vec![(key.to_owned(), value.to_owned())], ..query(1, false, 100) };
        assert_eq!(!fixture.all(&filtered).is_empty(), found, "{key} {value}");
    }
    assert_eq!(fixture.all(&query(9, true, 4)), (1..=40).filter(|seq| (seq - 1) % 3 == 2).collect::<Vec<_>>());
}

#[test]
fn a_page_of_large_events_is_short_and_leaves_none_out() {
    let mut fixture = fixture();
    let large = Bytes::from(format!("{{\"a\":\"{}\"}}", "x".repeat(PAGE_BYTES_MAX / 3)));
    for _ in 0..10 {
        fixture.accept_with(1, "large", Some(large.clone()));
    }
    for ascending in [true, false] {
        let query = EventQuery { kind: Some("large".to_owned()), ..query(1, ascending, 100) };
        let page = fixture.shared.events_page(&query).unwrap();
        assert_eq!((page.items.len(), page.next.is_some()), (3, true));
        let mut found = fixture.all(&query);
        found.sort_unstable();
        assert_eq!(found, (41..=50).collect::<Vec<Seq>>());
    }
}

#[test]
fn a_fate_that_leaves_the_tail_beside_a_view_is_still_seen() {
    let mut fixture = fixture();
    let attempt = Attempt {
        event: 3,
        webhook: 9,
        number: AttemptNumber::MIN,
        previous: 0,
        at_ms: START_MS,
        duration_ms: 1,
        class: None,
        status: Some(200),
        error: String::new(),
        remote: None,
        excerpt: String::new(),
        verdict: Verdict::Single,
    };
    let outcome =
        Outcome { attempt, row: None, order: None, budget_from: 0, since_ms: 0, deactivate: None, test: true };
    fixture.engine.apply(&[Op::Outcome(Box::new(outcome))]).unwrap();
    let view = fixture.shared.view().unwrap();
    let before = view.fates(3).unwrap();
    assert_eq!(before.len(), 1);
    fixture.engine.set_flush_at(1);
    fixture.engine.apply(&[Op::Ping]).unwrap();
    while fixture.engine.has_chores() {
        fixture.engine.apply(&[Op::Ping]).unwrap();
    }
    assert!(fixture.shared.tails().fates_of(3).is_empty(), "it has left the tail");
    assert_eq!(view.fates(3).unwrap(), before);
}

#[test]
fn what_publishes_much_is_written_once() {
    let wal = Wal::open(Box::new(InMemoryBackend::new()), 4 << 20).unwrap();
    let mut fixture = fixture_with(wal);
    fixture.engine.checkpoint(false).unwrap();
    let part = |bytes: usize| Some(Bytes::from(format!("{{\"x\":\"{}\"}}", "x".repeat(bytes))));
    fixture.accept_with(1, "large", part(LOGGED_BYTES_MAX));
    assert!(!fixture.engine.has_chores(), "nothing of it stands in the log");
    fixture.accept_with(1, "smaller", part(LOGGED_BYTES_MAX / 2));
    assert!(fixture.engine.has_chores(), "it is durable by the log");
    let view = fixture.shared.view().unwrap();
    let lengths = [41, 42].map(|seq| view.event(seq).unwrap().unwrap().data.unwrap().len());
    assert_eq!(lengths, [LOGGED_BYTES_MAX + 8, LOGGED_BYTES_MAX / 2 + 8]);
}
