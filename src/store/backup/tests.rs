//! Backups of a real store, made while it changes, and stores made of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use redb::TableHandle as _;

use super::*;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::attempt::{Attempt, Class, DeadReason, Verdict};
use crate::model::audit::{Actor, Audit};
use crate::model::id::{AttemptNumber, JobId, KeyId, TenantId, WebhookId};
use crate::model::job::{Job, Letters, Task};
use crate::model::key::{Key, Role};
use crate::model::pause::Scope;
use crate::model::secret::Secret;
use crate::model::webhook::{Filter, SigningSecret, Webhook};
use crate::store::StoreError;
use crate::store::engine::Engine;
use crate::store::log::{self, Log};
use crate::store::op::{Accept, Draft, Guard, Idempotency, Mark, Op, Outcome, Quota, WebhookPatch};
use crate::store::open::{KEY_FILE, STORE_FILE};
use crate::store::schema::EVENTS;
use crate::store::seal::read_key_file;
use crate::store::tests::store_in;
use crate::store::view::Shared;

/// Keys and values of each table.
type ByTable = BTreeMap<String, Vec<(Vec<u8>, Vec<u8>)>>;

const START: u64 = 1_700_000_000_000;
const SECRET: &str = "a secret of a test";

/// A store with something in every table, and the engine that changes it.
pub(in crate::store) struct Filled {
    pub folder: tempfile::TempDir,
    pub shared: Arc<Shared>,
    pub engine: Engine,
    clock: Clock,
}

fn webhook(n: u8) -> Op {
    let secret = SigningSecret { secret: Secret::new(format!("{SECRET} {n}")), until: None };
    let draft = Webhook {
        id: WebhookId([n; 16]),
        headers: vec![("X-Own".to_owned(), Secret::new("hidden".to_owned()))],
        secrets: vec![secret],
        ..Webhook::sample(1, vec![Filter::All])
    };
    Op::CreateWebhook { draft: Box::new(draft), quota: Quota { of_tenant: 10, of_dialect: None } }
}

fn key() -> Op {
    Op::CreateKey(Box::new(Key {
        id: KeyId([9; 8]),
        role: Role::Tenant,
        tenant: Some(1),
        name: None,
        publish: true,
        token_hash: [3; 32],
        secret_key: Secret::new("signs requests".to_owned()),
        created_ms: 0,
        expires_ms: None,
        cidrs: Vec::new(),
        revoked_ms: None,
    }))
}

/// What fills every table that holds something sealed.
pub(in crate::store) fn sealed() -> Vec<Op> {
    let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
    vec![tenant, webhook(1), webhook(2), key()]
}

fn event(n: u8, ordering_key: Option<&str>, bytes: usize) -> Op {
    let draft = Draft {
        tenant: 1,
        kind: "order.created".to_owned(),
        ordering_key: ordering_key.map(str::to_owned),
        data: Some(vec![b'x'; bytes].into()),
        ..Draft::default()
    };
    let idempotency = Some(Idempotency { hash: [n; 16], body_hash: [n; 32] });
    Op::Accept(Accept { drafts: vec![draft], idempotency, pending_max: None })
}

fn outcome(event: u64, verdict: Verdict) -> Op {
    let delivered = verdict == Verdict::Delivered;
    let attempt = Attempt {
        event,
        webhook: 1,
        number: AttemptNumber::new(1).unwrap(),
        previous: 0,
        at_ms: START,
        duration_ms: 1,
        class: (!delivered).then_some(Class::Timeout),
        status: delivered.then_some(200),
        error: String::new(),
        remote: None,
        excerpt: String::new(),
        verdict,
    };
    let (row, order, deactivate) = (None, None, None);
    Op::Outcome(Box::new(Outcome { attempt, row, order, budget_from: 1, since_ms: START, deactivate, test: false }))
}

impl Filled {
    pub fn new() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
        let parts = store_in(folder.path(), &clock, &Arc::default());
        let mut filled = Self { folder, shared: parts.shared, engine: parts.recovered.engine, clock };
        // Everything that is derived goes to disk as it comes.
        filled.engine.set_flush_at(1);
        let guard = Guard {
            mark: Some(Mark { minute: 5, hash: [1; 16] }),
            audit: Some(Box::new(Audit::new(Actor::Socket, "tenant.put"))),
        };
        let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
        filled.apply([Op::Guarded { guard, op: Box::new(tenant) }]);
        filled.apply([webhook(1), webhook(2), key()]);
        let job = Job::new(JobId([4; 16]), 1, Task::Redrive(Letters::default()), 0);
        filled.apply([Op::StartJob { draft: Box::new(job), activate: false }]);
        filled.apply([Op::Pause { scope: Scope::Webhook(2), paused: true }]);
        for n in 0..4 {
            filled.apply([event(n, (n > 1).then_some("line"), 10)]);
        }
        filled.apply([outcome(1, Verdict::Dead(DeadReason::Exhausted))]);
        filled.apply([outcome(2, Verdict::RetryAt(START + 60_000))]);
        filled.apply([outcome(3, Verdict::Delivered)]);
        // As if retention had kept something of a block that it has removed.
        filled.shared.unseen.show().unwrap();
        let txn = filled.engine.db.begin_write().unwrap();
        for log in [Log::Events, Log::Journal] {
            txn.open_table(log.kept()).unwrap().insert(0, log::to_keep(log, 0, START, b"kept").as_slice()).unwrap();
        }
        txn.commit().unwrap();
        let patch = WebhookPatch { url: Some("https://example.com/2".to_owned()), ..WebhookPatch::default() };
        filled.apply([Op::UpdateWebhook { no: 1, patch: Box::new(patch) }]);
        filled
    }

    #[track_caller]
    fn apply(&mut self, ops: impl IntoIterator<Item = Op>) {
        self.clock.advance(std::time::Duration::from_millis(7));
        for answer in self.engine.apply(&ops.into_iter().collect::<Vec<_>>()).unwrap().answers {
            answer.unwrap();
        }
    }

    pub fn key(&self) -> [u8; 32] {
        read_key_file(&self.folder.path().join(KEY_FILE)).unwrap()
    }

    fn begin(&self) -> Copy {
        Copy::begin(&self.shared, self.folder.path(), self.clock.wall_ms()).unwrap()
    }

    fn backup(&self) -> (Vec<u8>, Summary) {
        rest(&mut self.begin(), &self.shared)
    }
}

fn rest(copy: &mut Copy, shared: &Shared) -> (Vec<u8>, Summary) {
    let mut all = Vec::new();
    while let Some(piece) = copy.next(shared).unwrap() {
        all.extend_from_slice(&piece);
    }
    (all, copy.summary().unwrap().clone())
}

/// The rows of a backup, by table.
fn rows(backup: &[u8]) -> ByTable {
    let (mut all, mut reader) = (ByTable::new(), Reader::default());
    // In pieces of an odd size, as a network might.
    for piece in backup.chunks(777) {
        let taken = reader.push::<Bad>(piece, |part| {
            if let format::Part::Rows { table, rows } = part {
                let owned = rows.map(|(key, value)| (key.to_vec(), value.to_vec()));
                all.entry(table.to_owned()).or_default().extend(owned);
            }
            Ok(())
        });
        taken.unwrap();
    }
    reader.finish().unwrap();
    all
}

fn restored(backup: &[u8], key: [u8; 32]) -> (tempfile::TempDir, Result<Summary, RestoreError>) {
    let folder = tempfile::tempdir().unwrap();
    let length = Some(backup.len() as u64);
    let made = restore(&mut &backup[..], length, folder.path(), key, &Entropy::seeded(5), &mut |_| ());
    (folder, made)
}

fn files(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    std::fs::read_dir(folder).unwrap().map(name).collect()
}

#[test]
fn a_backup_has_every_table_and_something_of_each_is_tried_here() {
    let filled = Filled::new();
    let (_, summary) = filled.backup();
    let db = filled.shared.view().unwrap();
    let mut tables: Vec<String> = db.txn.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    tables.sort();
    assert_eq!(summary.rows.keys().cloned().collect::<Vec<_>>(), tables);
    let empty: Vec<_> = summary.rows.iter().filter(|(_, rows)| **rows == 0).collect();
    assert!(empty.is_empty(), "{empty:?}");
    assert_eq!(files(filled.folder.path()).iter().filter(|name| name.contains("backup")).count(), 0);
}

#[test]
fn what_is_accepted_while_it_is_made_is_not_in_it_and_the_rest_is() {
    let mut filled = Filled::new();
    // Large enough that the logs take several pieces.
    for n in 10..60 {
        filled.apply([event(n, None, 60_000)]);
    }
    let before = rows(&filled.backup().0);
    let mut copy = filled.begin();
    let (mut all, mut pieces) = (Vec::new(), 0);
    while let Some(piece) = copy.next(&filled.shared).unwrap() {
        all.extend_from_slice(&piece);
        pieces += 1;
        filled.apply([event(100 + pieces, None, 60_000), outcome(u64::from(pieces) + 6, Verdict::Delivered)]);
    }
    assert!(pieces > 4, "{pieces}");
    assert_eq!(rows(&all), before, "the moment is that of its begin");

    let (folder, made) = restored(&all, filled.key());
    assert_eq!(made.unwrap(), *copy.summary().unwrap());
    assert_eq!(files(folder.path()), [STORE_FILE], "as one that was closed: no log, no spool");
    std::fs::copy(filled.folder.path().join(KEY_FILE), folder.path().join(KEY_FILE)).unwrap();
    let parts = store_in(folder.path(), &Clock::manual(START), &Arc::default());
    let again = Copy::begin(&parts.shared, folder.path(), START).unwrap();
    let (mut again, mut wanted) = (rows(&{ again }.all(&parts.shared)), before);
    let single = |rows: &mut ByTable| {
        rows.get_mut("meta")
            .unwrap()
            .retain(|(key, _)| !["wal", "last_backup"].contains(&str::from_utf8(key).unwrap()));
    };
    single(&mut again);
    single(&mut wanted);
    assert_eq!(again, wanted, "row for row");
    assert_eq!(parts.shared.view().unwrap().last_backup().unwrap(), Some(copy.summary().unwrap().head.made_ms));
    let hook = parts.shared.registry().webhook(1).unwrap().clone();
    assert_eq!(hook.secrets[0].secret.expose(), format!("{SECRET} 1"));
    // Delivered, dead, waiting: as they were. What was not tried yet is fresh again.
    assert_eq!(parts.recovered.fresh.iter().filter(|(no, event)| *no == 1 && event.seq <= 3).count(), 0);
    assert_eq!(parts.recovered.fresh.iter().filter(|(no, event)| *no == 1 && event.seq > 6).count(), 50);
}

impl Copy {
    fn all(mut self, shared: &Shared) -> Vec<u8> {
        rest(&mut self, shared).0
    }
}

#[test]
fn what_is_cut_or_changed_anywhere_is_refused() {
    let backup = Filled::new().backup().0;
    assert!(check(&mut &backup[..], &mut |_| ()).is_ok());
    let refused = |bytes: &[u8], what: &str, at: usize| {
        let told = check(&mut &bytes[..], &mut |_| ());
        assert!(matches!(told, Err(RestoreError::Bad(_))), "{what} at {at}: {told:?}");
    };
    for at in 0..backup.len() {
        refused(&backup[..at], "cut", at);
    }
    let mut changed = backup.clone();
    for at in 0..backup.len() {
        changed[at] ^= 1 << (at % 8);
        refused(&changed, "changed", at);
        changed[at] = backup[at];
    }
    changed.push(0);
    refused(&changed, "longer", backup.len());
    refused(b"", "nothing", 0);
}

#[test]
fn what_has_good_checksums_and_another_order_is_refused() {
    let backup = Filled::new().backup().0;
    // Frames begin where a reader stops after each byte that makes something whole.
    let mut starts = vec![16];
    while let Some(length) = backup.get(starts[starts.len() - 1] + 1..).and_then(|rest| rest.first_chunk::<4>()) {
        starts.push(starts[starts.len() - 1] + 9 + u32::from_le_bytes(*length) as usize);
    }
    assert_eq!(*starts.last().unwrap(), backup.len());
    assert!(starts.len() > 18, "one frame a table");
    let frames: Vec<&[u8]> = starts.windows(2).map(|range| &backup[range[0]..range[1]]).collect();
    let put = |order: &[usize]| {
        let mut bytes = backup[..16].to_vec();
        order.iter().for_each(|frame| bytes.extend_from_slice(frames[*frame]));
        check(&mut &bytes[..], &mut |_| ())
    };
    let whole: Vec<usize> = (0..frames.len()).collect();
    assert!(put(&whole).is_ok());
    for frame in 0..frames.len() {
        let mut order = whole.clone();
        order.remove(frame);
        assert!(put(&order).is_err(), "without {frame}");
        order.insert(frame, frame);
        order.insert(frame, frame);
        assert!(put(&order).is_err(), "{frame} twice");
        if frame > 0 {
            order.remove(frame);
            order.swap(frame - 1, frame);
            assert!(put(&order).is_err(), "{frame} before its place");
        }
    }
}

#[test]
fn a_refused_restore_leaves_nothing() {
    let filled = Filled::new();
    let backup = filled.backup().0;
    let (folder, made) = restored(&backup, [7; 32]);
    assert!(made.unwrap_err().to_string().contains("another key"));
    assert_eq!(files(folder.path()), Vec::<String>::new());
    for bytes in [&backup[..backup.len() - 1], b"something else that is no backup"] {
        let (folder, made) = restored(bytes, filled.key());
        assert!(matches!(made, Err(RestoreError::Bad(_))));
        assert_eq!(files(folder.path()), Vec::<String>::new());
    }
    for name in [STORE_FILE, "webhookd.wal", "webhookd.spool.0", "webhookd.spool.1"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), b"mine").unwrap();
        let made = restore(&mut &backup[..], None, folder.path(), filled.key(), &Entropy::seeded(5), &mut |_| ());
        assert!(matches!(made, Err(RestoreError::Occupied(_))), "{name}");
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), b"mine");
    }
    let folder = tempfile::tempdir().unwrap();
    let made = restore(&mut &backup[..], Some(u64::MAX), folder.path(), filled.key(), &Entropy::seeded(5), &mut |_| ());
    assert!(matches!(made, Err(RestoreError::NoRoom { .. })));
}

#[test]
fn a_log_that_loses_its_low_end_meanwhile_makes_no_backup() {
    let mut filled = Filled::new();
    for n in 10..60 {
        filled.apply([event(n, None, 60_000)]);
    }
    let mut copy = filled.begin();
    let mut read = 0;
    while read < 2_000_000 {
        read += copy.next(&filled.shared).unwrap().unwrap().len();
    }
    let (db, _) = filled.engine.into_files();
    let txn = db.begin_write().unwrap();
    txn.open_table(EVENTS).unwrap().retain(|first, _| first > 45).unwrap();
    txn.commit().unwrap();
    let failed = loop {
        match copy.next(&filled.shared) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a backup with a hole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, CopyError::Store(StoreError::Damaged(_))), "{failed}");
}

#[test]
fn a_backup_of_another_format_names_what_reads_it() {
    let filled = Filled::new();
    let mut out = Vec::new();
    let head = Head { format: 9, program: "9.9.9".to_owned(), ..filled.backup().1.head };
    let _ = format::Writer::begin(head, &mut out).finish(&mut out);
    let told = restored(&out, filled.key()).1.unwrap_err().to_string();
    assert!(told.contains("webhookd 9.9.9"), "{told}");
}

#[test]
fn rows_that_make_no_sense_are_refused_and_not_a_panic() {
    let filled = Filled::new();
    let head = filled.backup().1.head;
    for (table, key, value) in [
        ("meta", &b"\xff\xfe"[..], &b""[..]),
        ("dead", b"short", b"short"),
        ("events", b"8 bytes!", b"no block"),
        ("unknown", b"", b""),
    ] {
        let mut out = Vec::new();
        let mut writer = format::Writer::begin(head.clone(), &mut out);
        writer.table(table, &mut out);
        writer.row(key, value, &mut out);
        let _ = writer.finish(&mut out);
        assert!(check(&mut &out[..], &mut |_| ()).is_ok());
        let (folder, made) = restored(&out, filled.key());
        assert!(made.is_err(), "{table}");
        assert_eq!(files(folder.path()), Vec::<String>::new());
    }
}

#[test]
fn the_end_of_a_backup_is_in_the_store() {
    let mut filled = Filled::new();
    assert_eq!(filled.shared.view().unwrap().last_backup().unwrap(), None);
    filled.apply([Op::BackedUp { at_ms: 77 }]);
    assert_eq!(filled.shared.view().unwrap().last_backup().unwrap(), Some(77));
}
