//! Making an engine from what is on disk, at start-up and after an I/O error. Owns the rule by which fresh deliveries are
//! found again: their event stands at or above the watermark, the journal says nothing about them, no line holds them; and that
//! what the write-ahead log has beyond the store is applied first.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable};

use super::StoreError;
use super::age::Age;
use super::block::Mark;
use super::engine::Engine;
use super::flush;
use super::fresh::Fresh;
use super::group::Heads;
use super::health::Successes;
use super::ids::Minter;
use super::listing::{TailEntry, Tails};
use super::log::{self, End, Log};
use super::lookup;
use super::numbers::ByWebhook;
use super::ordering::{self, Place};
use super::record::{self, Entry, Standing};
use super::registry::{Change, Registry};
use super::row;
use super::schema::{JOBS, KEYS, META, ORDERING, PAUSES, STANDING, TENANTS, WEBHOOKS, meta};
use super::standings::Standings;
use super::view::Shared;
use super::wal::{Position, Wal};
use crate::clock::{Clock, Millis};
use crate::model::event::Event;
use crate::model::id::{JournalSeq, KeyId, Seq, WebhookNo};

/// What start-up finds besides the engine.
pub struct Recovered {
    pub engine: Engine,
    /// Deliveries that were accepted and of which nothing more is on record.
    pub fresh: Vec<(WebhookNo, Arc<Event>)>,
    /// Webhooks whose durable queue has rows.
    pub queued: Vec<WebhookNo>,
}

/// Reads the store, applies what its write-ahead log has beyond its last checkpoint, and makes its engine.
///
/// # Errors
/// When the store fails, is damaged, or was sealed with another key.
pub fn recover(
    db: Arc<Database>,
    shared: Arc<Shared>,
    clock: &Clock,
    mut wal: Wal,
    retention_idempotency_ms: Millis,
) -> Result<Recovered, StoreError> {
    let (position, heads) = place(&db)?;
    if !position.clean && !wal.is_whole() {
        return Err(StoreError::Damaged(
            "its write-ahead log webhookd.wal is missing or cut short, and accepted events may stand in it; put it back, or \
             restore a backup",
        ));
    }
    wal.fill().map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let groups = wal.read(position)?;
    wal.resume(position);
    let mut recovered = read_back(db, shared.clone(), clock, wal, retention_idempotency_ms, None)?;
    if recovered.engine.heads() != heads {
        return Err(StoreError::Damaged("its logs do not end where they did; restore a backup"));
    }
    if !groups.is_empty() {
        let engine = &mut recovered.engine;
        groups.iter().try_for_each(|group| engine.apply_again(group))?;
        engine.checkpoint(false)?;
        // What the groups left behind is found as it is at any start, but for the registry: it is what the engine has, and a
        // second one beside it would double the memory that a start takes.
        drop(recovered.fresh);
        let registry = std::mem::take(&mut recovered.engine.registry);
        let (db, wal) = recovered.engine.into_files();
        return read_back(db, shared, clock, wal, retention_idempotency_ms, Some(registry));
    }
    // From here on the log counts, and the disk takes a commit.
    recovered.engine.checkpoint(false)?;
    Ok(recovered)
}

/// Where the store stands in the write-ahead log, and where its own logs end.
fn place(db: &Database) -> Result<(Position, Heads), StoreError> {
    let table = db.begin_read()?.open_table(META)?;
    let value = table.get(meta::WAL)?.ok_or(StoreError::Damaged("its place in the write-ahead log is missing"))?;
    Position::read_row(row::open(META, &meta::WAL, value.value())?)
}

/// Some singles are not there in every store: one whose name was altered would be taken for one that never was.
fn check_singles(rows: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<(), StoreError> {
    for found in rows.iter()? {
        let (name, value) = found?;
        row::open(META, &name.value(), value.value())?;
    }
    Ok(())
}

/// `known`: the registry as it is on disk, where it has been read before.
fn read_back(
    db: Arc<Database>,
    shared: Arc<Shared>,
    clock: &Clock,
    wal: Wal,
    retention_idempotency_ms: Millis,
    known: Option<Registry>,
) -> Result<Recovered, StoreError> {
    let txn = db.begin_read()?;
    let meta_table = txn.open_table(META)?;
    check_singles(&meta_table)?;
    let counter = |key: &str| -> Result<u32, StoreError> {
        let Some(value) = meta_table.get(key)? else { return Ok(1) };
        let bytes = row::open(META, &key, value.value())?
            .try_into()
            .map_err(|_| StoreError::Damaged("a counter does not read"))?;
        Ok(u32::from_le_bytes(bytes))
    };
    let (next_webhook, next_tenant) = (counter(meta::NEXT_WEBHOOK)?, counter(meta::NEXT_TENANT)?);
    let flushed = flush::flushed(meta_table.get(meta::FLUSHED)?.as_ref().map(redb::AccessGuard::value))?;
    let registry = known.map_or_else(|| read_registry(&txn, &shared), Ok)?;
    let mut standings = read_standings(&txn)?;
    let in_line = ordering::owners(&txn.open_table(ORDERING)?)?;
    let logs = read_logs(&txn, &registry, flushed)?;
    for (no, at_ms) in &logs.successes {
        standings.change(*no, |standing| standing.last_success_ms = Some(*at_ms));
    }
    clock.lift_to(logs.newest.map_or(0, |mark| mark.at_ms));
    let age = Age::new(logs.newest, clock.now_ms());
    drop((meta_table, txn));

    *shared.registry_mut() = registry.clone();
    *shared.tails_mut() = logs.tails;
    shared.set_heads(logs.next_event, logs.next_journal, logs.open.mark(0).event);
    shared.set_fresh(logs.open.len());
    shared.set_age(age);
    shared.set_idempotency_ms(retention_idempotency_ms);
    let succeeded = logs.successes.keys().copied().collect();
    shared.set_successes(logs.successes);
    shared.set_db(Some(db.clone()));
    let (queued, sweeps) = with_rows(&standings, in_line, &registry);
    // It may have been cut off between its last step and the log's being overwritten.
    let wipe = registry.jobs().any(|job| job.task.is_final());
    let untold = standings.full().filter(|(_, standing)| standing.untold > 0).map(|(no, _)| no).collect();
    let engine = Engine {
        db,
        wal,
        minter: Minter::new(shared.mask.clone(), logs.newest_id),
        shared,
        clock: clock.clone(),
        registry,
        standings,
        fresh: logs.open,
        next_event: logs.next_event,
        next_journal: logs.next_journal,
        next_webhook,
        next_tenant,
        flush: None,
        flush_at: flush::FlushAt::new(flush::FLUSH_AT, logs.bytes.0 + logs.bytes.1),
        succeeded,
        sweeps,
        untold,
        age,
        bytes: logs.bytes,
        content: Vec::new(),
        moved: 0,
        wipe,
    };
    Ok(Recovered { engine, fresh: logs.fresh, queued })
}

/// Live webhooks with rows in the queue, and deleted ones of which something is left to be swept.
fn with_rows(
    standings: &Standings,
    in_line: impl IntoIterator<Item = WebhookNo>,
    registry: &Registry,
) -> (Vec<WebhookNo>, VecDeque<WebhookNo>) {
    let has_rows = |standing: &Standing| standing.waiting + standing.started > 0;
    let mut queued: Vec<WebhookNo> = standings.full().filter(|(_, s)| has_rows(s)).map(|(no, _)| no).collect();
    queued.sort_unstable();
    let owners: BTreeSet<WebhookNo> = queued.iter().copied().chain(in_line).collect();
    let sweeps: VecDeque<WebhookNo> = owners.into_iter().filter(|no| registry.webhook(*no).is_none()).collect();
    queued.retain(|no| registry.webhook(*no).is_some());
    (queued, sweeps)
}

fn read_registry(txn: &redb::ReadTransaction, shared: &Shared) -> Result<Registry, StoreError> {
    let mut registry = Registry::default();
    for row in lookup::whole(&txn.open_table(TENANTS)?, &TENANTS)? {
        let (no, value) = row?;
        registry.apply(&Change::Tenant(Arc::new(record::read_tenant(
            no.value(),
            row::open(TENANTS, &no.value(), value.value())?,
        )?)));
    }
    // Versions of one webhook stand in order: the last one wins.
    let table = txn.open_table(WEBHOOKS)?;
    let mut rows = lookup::whole(&table, &WEBHOOKS)?.peekable();
    while let Some(row) = rows.next() {
        let (key, value) = row?;
        let (no, since_seq) = key.value();
        let newer = matches!(rows.peek(), Some(Ok((next, _))) if next.value().0 == no);
        if !newer {
            let record = row::open(WEBHOOKS, &(no, since_seq), value.value())?;
            let webhook = record::read_webhook(no, since_seq, record, &shared.sealer)?;
            registry.apply(&Change::Webhook(Arc::new(webhook)));
        }
    }
    for row in lookup::whole(&txn.open_table(KEYS)?, &KEYS)? {
        let (id, value) = row?;
        let record = row::open(KEYS, &id.value(), value.value())?;
        let key = record::read_key(KeyId(*id.value()), record, &shared.sealer)?;
        registry.apply(&Change::Key(Arc::new(key)));
    }
    for row in lookup::whole(&txn.open_table(PAUSES)?, &PAUSES)? {
        let (scope, pause) = row?;
        let pause = row::read(PAUSES, &scope.value(), pause.value())?;
        registry.apply(&Change::Pause(record::read(scope.value())?, Some(pause)));
    }
    for row in lookup::whole(&txn.open_table(JOBS)?, &JOBS)? {
        let (id, job) = row?;
        registry.apply(&Change::Job(Arc::new(row::read(JOBS, &id.value(), job.value())?)));
    }
    Ok(registry)
}

fn read_standings(txn: &redb::ReadTransaction) -> Result<Standings, StoreError> {
    let mut standings = Standings::default();
    for row in lookup::whole(&txn.open_table(STANDING)?, &STANDING)? {
        let (no, value) = row?;
        standings.insert(no.value(), row::read(STANDING, &no.value(), value.value())?);
    }
    Ok(standings)
}

struct Logs {
    next_event: Seq,
    next_journal: JournalSeq,
    /// Of both logs.
    bytes: (u64, u64),
    newest_id: Option<crate::model::id::EventId>,
    /// The mark of the newest block.
    newest: Option<Mark>,
    tails: Tails,
    open: Fresh,
    fresh: Vec<(WebhookNo, Arc<Event>)>,
    /// Newest successes, as far as the journal was read.
    successes: ByWebhook<Millis>,
}

fn read_logs(txn: &redb::ReadTransaction, registry: &Registry, flushed: (Seq, JournalSeq)) -> Result<Logs, StoreError> {
    let events = txn.open_table(Log::Events.table())?;
    let journal = txn.open_table(Log::Journal.table())?;
    let ends = (log::end(Log::Events, &events)?, log::end(Log::Journal, &journal)?);
    let (next_event, next_journal) = (ends.0.next, ends.1.next);
    let mark = newest_mark(ends);
    let newest = ends.0.mark.into_iter().chain(ends.1.mark).max_by_key(|mark| mark.at_ms);

    let mut tails = Tails::new(flushed.0, flushed.1);
    let mut settled: HashSet<(Seq, WebhookNo)> = HashSet::new();
    let mut successes = Successes::default();
    let mut open = Fresh::new(mark.event, mark.journal);
    log::scan(Log::Journal, &journal, mark.journal.min(flushed.1), |number, bytes| {
        let entry: Entry = record::read(bytes)?;
        let (event, webhook) = (entry.event(), entry.webhook());
        if number >= flushed.1 {
            tails.push_entry(TailEntry::of(&entry));
            if let Entry::Attempt(attempt) = &entry {
                successes.see(attempt);
            }
        }
        if event >= mark.event {
            settled.insert((event, webhook));
            // Cancelled while it was fresh: after a reopen the dispatcher may still have it in flight.
            if matches!(entry, Entry::Dropped { previous: 0, .. }) {
                open.leave_out(event, webhook);
            }
        }
        Ok(true)
    })?;

    let lines = txn.open_table(ORDERING)?;
    open.point(mark.event, mark.journal);
    let mut fresh = Vec::new();
    let mut newest_id = None;
    let (from, mut matched) = (mark.event.min(flushed.0), HashSet::new());
    log::scan(Log::Events, &events, from, |seq, bytes| {
        let event = record::read_event(seq, bytes)?;
        newest_id = Some(event.id);
        matched.extend(event.matched.iter().filter(|no| successes.is_of(**no)).map(|no| (seq, *no)));
        if seq >= flushed.0 {
            tails.push_event(event.tenant);
        }
        if seq >= mark.event {
            let event = Arc::new(event);
            let (before, order) = (fresh.len(), event.order());
            for no in event.matched.iter().filter(|no| !settled.contains(&(seq, **no))) {
                let place = order.map_or(Ok(None), |order| ordering::get(&lines, *no, order, seq))?;
                if registry.webhook(*no).is_none() {
                    open.leave_out(seq, *no);
                } else if !matches!(place, Some(Place::Held(_))) {
                    fresh.push((*no, event.clone()));
                }
            }
            open.push(fresh[before..].iter().map(|(no, _)| *no));
        }
        Ok(true)
    })?;
    let newest_id = newest_id.map_or_else(|| last_id(&events, next_event), |id| Ok(Some(id)))?;
    let bytes = (ends.0.bytes, ends.1.bytes);
    let mut successes = successes.newest(txn, from, &matched)?;
    // Of a tenant that was deleted nothing is noted again.
    successes.retain(|no, _| !registry.is_forgotten(*no));
    Ok(Logs { next_event, next_journal, bytes, newest_id, newest, tails, open, fresh, successes })
}

/// The id of the newest event, where there is one.
fn last_id(
    events: &impl ReadableTable<u64, &'static [u8]>,
    next: Seq,
) -> Result<Option<crate::model::id::EventId>, StoreError> {
    let last = next - 1;
    log::get(Log::Events, events, last, |bytes| Ok(record::read_event(last, bytes)?.id))
}

/// From where on start-up reads the logs, by the marks of their last blocks: retention stays below it.
pub(super) fn newest_mark((events, journal): (End, End)) -> Mark {
    let start = Mark { event: 1, journal: 1, ..Mark::default() };
    let marks = events.mark.into_iter().chain(journal.mark);
    marks.max_by_key(|mark| (mark.event, mark.journal)).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{TenantId, WebhookId};
    use crate::model::webhook::{Filter, Webhook};
    use crate::store::failing_disk::Disk;
    use crate::store::op::{Accept, Draft, Op, Quota};

    fn draft(tenant: u32) -> Op {
        let draft = Webhook {
            id: WebhookId(crate::entropy::Entropy::system().bytes()),
            ..Webhook::sample(tenant, vec![Filter::All])
        };
        Op::CreateWebhook { draft: Box::new(draft), quota: Quota { of_tenant: 10, of_dialect: None } }
    }

    #[test]
    fn g10_a_single_whose_name_was_altered_is_not_taken_for_one_that_never_was() {
        let (disk, clock) = (Disk::default(), Clock::manual(1_700_000_000_000));
        let parts = disk.parts(&clock);
        let shared = parts.shared.clone();
        let mut engine = parts.recovered.engine;
        let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
        engine.apply(&[tenant, draft(1)]).unwrap();
        engine.checkpoint(true).unwrap();
        let (db, _) = engine.into_files();
        let renamed = |from: &str, to: &str| {
            let txn = db.begin_write().unwrap();
            let mut rows = txn.open_table(META).unwrap();
            let value = rows.remove(from).unwrap().map(|value| value.value().to_vec()).unwrap();
            rows.insert(to, value.as_slice()).unwrap();
            drop(rows);
            txn.commit().unwrap();
        };
        let recover = || recover(db.clone(), shared.clone(), &clock, disk.wal().unwrap(), 1).map(drop);
        for name in [meta::NEXT_TENANT, meta::NEXT_WEBHOOK] {
            let altered = name.replacen('n', "N", 1);
            renamed(name, &altered);
            let error = recover().unwrap_err();
            assert!(error.is_damage(), "{name}: {error}");
            renamed(&altered, name);
        }
        recover().unwrap();
    }

    #[test]
    fn what_a_deleted_webhook_still_gives_back_moves_no_watermark() {
        let (disk, clock) = (Disk::default(), Clock::manual(1_700_000_000_000));
        let parts = disk.parts(&clock);
        let shared = parts.shared.clone();
        let mut engine = parts.recovered.engine;
        let tenant = Op::PutTenant { id: TenantId::parse("acme").unwrap(), name: None, plan: None };
        engine.apply(&[tenant, draft(1), draft(1)]).unwrap();
        let event = Draft { tenant: 1, kind: "order.created".to_owned(), ..Draft::default() };
        let accepted = engine.apply(&[Op::Accept(Accept { drafts: vec![event], ..Accept::default() })]).unwrap();
        assert_eq!(accepted.effects.fresh.len(), 2);
        engine.apply(&[Op::DeleteWebhook { no: 1 }]).unwrap();

        // Opened again after an error: only the second one is counted, but the dispatcher still holds both.
        let (db, _) = engine.into_files();
        let recovered = recover(db, shared.clone(), &clock, disk.wal().unwrap(), 1).unwrap();
        assert_eq!(recovered.fresh.iter().map(|(no, _)| *no).collect::<Vec<_>>(), [2]);
        let mut engine = recovered.engine;
        engine.apply(&[Op::Forget { webhook: 1, events: vec![1] }]).unwrap();
        engine.apply(&[Op::Spill { webhook: 1, events: vec![1], due_ms: 5 }]).unwrap();
        engine.apply(&[Op::Ping]).unwrap();
        assert_eq!(shared.watermark(), 1, "a crash now would lose the other one");
        engine.apply(&[Op::Forget { webhook: 2, events: vec![1] }, Op::Ping]).unwrap();
        assert_eq!(shared.watermark(), 2);
    }
}
