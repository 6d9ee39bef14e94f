//! The engine: turns a group of ops into one synced transaction and tells what follows from it. Owns the writer's state.
//!
//! Synchronous and single-threaded: in production a thread drives it (`writer`), in simulation a loop does. A group goes
//! through `apply` whole: each op is decided (a refusal comes before its first write), everything is written and made durable,
//! then the readers' copies are brought up to date, and only then do answers and effects leave. A group of the hot path is
//! durable by the write-ahead log, and its transaction stays open for the next one until somebody looks (`unseen`); any other
//! group, and one that the log has no room for, is a checkpoint: a synced commit of everything so far. After an error nothing
//! in memory is trusted any more: the engine is made again from disk (`recover`).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use redb::{Database, Durability, Key, TableDefinition, Value, WriteTransaction};

use super::StoreError;
use super::age::Age;
use super::block::{Mark, Packer};
use super::flush::{Flush, FlushAt};
use super::fresh::Fresh;
use super::group::{self, Moment};
use super::ids::Minter;
use super::listing::TailEntry;
use super::log::{self, Log};
use super::op::{Done, Effects, Op, Refusal};
use super::ordering;
use super::queue;
use super::record::{self, Entry};
use super::registry::{Change, Registry};
use super::row;
use super::schema::{self, JOBS, KEYS, META, ORDERING, PAUSES, QUEUE, STANDING, TENANTS, Visit, WEBHOOKS, meta};
use super::standings::Standings;
use super::unseen::Pending;
use super::view::Shared;
use super::wal::{Position, Wal};
use crate::clock::{Clock, Millis};
use crate::limits::JOB_MOVED_PER_CHECKPOINT;
use crate::model::event::Event;
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

/// Rows of a deleted webhook's queue and lines that are removed beside one commit.
const SWEEP_PER_COMMIT: usize = 512;

/// The writer's state: what is on disk, as far as deciding the next op needs it.
pub struct Engine {
    pub(super) db: Arc<Database>,
    pub(super) wal: Wal,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) registry: Registry,
    pub(super) standings: Standings,
    pub(super) minter: Minter,
    pub(super) fresh: Fresh,
    pub(super) next_event: Seq,
    pub(super) next_journal: JournalSeq,
    pub(super) next_webhook: WebhookNo,
    pub(super) next_tenant: TenantNo,
    pub(super) flush: Option<Flush>,
    /// When a flush begins.
    pub(super) flush_at: FlushAt,
    /// Webhooks whose last success is newer in memory than on disk.
    pub(super) succeeded: BTreeSet<WebhookNo>,
    /// Deleted webhooks whose queue or lines may still have rows.
    pub(super) sweeps: VecDeque<WebhookNo>,
    /// Webhooks with deaths that no event has told of yet.
    pub(super) untold: BTreeSet<WebhookNo>,
    pub(super) age: Age,
    /// Bytes of both logs since the store was made.
    pub(super) bytes: (u64, u64),
    /// The present group as the log gets it.
    pub(super) content: Vec<u8>,
    /// Deliveries that jobs have moved since the last checkpoint: they are hardly to be seen in the log, and each dirties pages.
    pub(super) moved: usize,
    /// With the next checkpoint the log's old content is overwritten: it may hold what was erased.
    pub(super) wipe: bool,
}

/// What a committed group came to: an answer for each op, and what dispatch should know.
pub struct Applied {
    pub answers: Vec<Result<Done, Refusal>>,
    pub effects: Effects,
}

/// A group being put together. Tables open when first needed, because opening one costs a look-up in the table tree.
pub(super) struct Group<'txn> {
    pub now: Millis,
    pub wall_ms: Millis,
    pub aged_ms: Millis,
    /// It was decided before and stands in the log: what it asks for is done, not judged.
    pub decided: bool,
    txn: &'txn WriteTransaction,
    queue: Option<queue::Rows<'txn>>,
    pub events: Packer,
    pub journal: Packer,
    /// What the journal packer holds, for the tails and for look-ups within the group.
    pub entries: Vec<TailEntry>,
    pub tenants: Vec<TenantNo>,
    pub changes: Vec<Change>,
    pub dirty: BTreeSet<WebhookNo>,
    pub effects: Effects,
    /// Idempotency records of this group, so that twins in one group are seen: hash → index of the first event.
    pub remembered: HashMap<[u8; 16], record::Remembered>,
    pub accepted: Vec<Arc<Event>>,
    /// Wall times of successes, in the order of the journal.
    pub successes: Vec<(WebhookNo, Millis)>,
}

/// What a finished group leaves behind.
struct Written {
    events: Packer,
    journal: Packer,
    entries: Vec<TailEntry>,
    tenants: Vec<TenantNo>,
    changes: Vec<Change>,
    dirty: BTreeSet<WebhookNo>,
    effects: Effects,
    successes: Vec<(WebhookNo, Millis)>,
}

/// How a group becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By the log, where it has room; else as the next.
    Logged,
    /// By a synced commit, which takes in what the log holds.
    Synced { clean: bool },
    /// It stands in the log already, in so many bytes.
    Again { bytes: usize },
}

impl<'txn> Group<'txn> {
    fn new(txn: &'txn WriteTransaction, moment: Moment, decided: bool, events: Packer, journal: Packer) -> Self {
        Self {
            now: moment.now,
            wall_ms: moment.wall_ms,
            aged_ms: moment.aged_ms,
            decided,
            txn,
            queue: None,
            events,
            journal,
            entries: Vec::new(),
            tenants: Vec::new(),
            changes: Vec::new(),
            dirty: BTreeSet::new(),
            effects: Effects::default(),
            remembered: HashMap::new(),
            accepted: Vec::new(),
            successes: Vec::new(),
        }
    }

    /// Lets go of the transaction.
    fn finish(self) -> Written {
        let Self { events, journal, entries, tenants, changes, dirty, effects, successes, .. } = self;
        Written { events, journal, entries, tenants, changes, dirty, effects, successes }
    }

    pub(super) fn txn(&self) -> &'txn WriteTransaction {
        self.txn
    }

    /// The queue's table.
    pub(super) fn queue(&mut self) -> Result<&mut queue::Rows<'txn>, StoreError> {
        if self.queue.is_none() {
            self.queue = Some(self.txn.open_table(QUEUE)?);
        }
        self.queue.as_mut().ok_or(StoreError::Damaged("the queue's table is missing"))
    }

    /// Appends to the journal; gives the record's number.
    pub(super) fn note(&mut self, entry: &Entry) -> JournalSeq {
        self.entries.push(TailEntry::of(entry));
        self.journal.push(0, |out| record::write(out, entry))
    }
}

impl Engine {
    /// Where both logs end: (next event, next journal record).
    #[must_use]
    pub fn heads(&self) -> (Seq, JournalSeq) {
        (self.next_event, self.next_journal)
    }

    /// Gives database and log back, so that they can be closed or read again. What only the log has is not in the database.
    #[must_use]
    pub fn into_files(self) -> (Arc<Database>, Wal) {
        self.shared.unseen.reset();
        (self.db, self.wal)
    }

    /// Flushes the listings whenever this many entries have gathered, instead of `flush::FLUSH_AT`.
    pub fn set_flush_at(&mut self, entries: usize) {
        self.flush_at.entries = entries;
    }

    /// Whether there is work that no op asked for: a flush or a sweep under way, or a log that a checkpoint would empty.
    #[must_use]
    pub fn has_chores(&self) -> bool {
        self.flush.is_some() || !self.sweeps.is_empty() || !self.wal.is_empty()
    }

    /// Makes a group durable.
    ///
    /// # Errors
    /// When the store fails. Then nothing in memory is to be trusted: drop the engine and recover from disk. The group may
    /// or may not be on disk.
    pub fn apply(&mut self, ops: &[Op]) -> Result<Applied, StoreError> {
        let how = if group::may_log(ops) { How::Logged } else { How::Synced { clean: false } };
        self.write(ops, Moment::of(&self.clock, &self.age), how)
    }

    /// Does a group again that stands in the log.
    ///
    /// # Errors
    /// As `apply`; `StoreError::Damaged` when it does not fit the store.
    pub(super) fn apply_again(&mut self, content: &[u8]) -> Result<(), StoreError> {
        let (moment, heads, ops) = group::read(content)?;
        if heads != self.heads() {
            return Err(StoreError::Damaged("its write-ahead log does not fit it; restore a backup"));
        }
        self.write(&ops, moment, How::Again { bytes: content.len() }).map(drop)
    }

    /// Takes everything that the log holds into a synced commit, with a step of what else is to be done. `clean`: nothing
    /// follows before the store is opened again.
    ///
    /// # Errors
    /// As `apply`.
    pub fn checkpoint(&mut self, clean: bool) -> Result<Applied, StoreError> {
        self.write(&[], Moment::of(&self.clock, &self.age), How::Synced { clean })
    }

    fn write(&mut self, ops: &[Op], moment: Moment, how: How) -> Result<Applied, StoreError> {
        let written = self.write_group(ops, moment, how);
        if written.is_err() {
            self.shared.unseen.lose();
        }
        written
    }

    fn write_group(&mut self, ops: &[Op], moment: Moment, how: How) -> Result<Applied, StoreError> {
        let pending = self.begin(how)?;
        let txn = &pending.txn;
        self.fresh.point(self.next_event, self.next_journal);
        let heads = self.heads();
        let mark = Mark { aged_ms: moment.aged_ms, ..self.fresh.mark(moment.now) };
        let packer = |log, first, bytes, left| Packer::new(log, first, Mark { bytes, ..mark }, left);
        let events = packer(Log::Events, heads.0, self.bytes.0, record::bytes_of(ops));
        let journal = packer(Log::Journal, heads.1, self.bytes.1, 0);
        let mut group = Group::new(txn, moment, matches!(how, How::Again { .. }), events, journal);
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(self.decide(&mut group, op)?);
        }
        self.sweep(&mut group)?;
        let Written { events, journal, entries, tenants, changes, dirty, mut effects, successes } = group.finish();
        effects.untold = !self.untold.is_empty();
        self.next_event = events.next();
        self.next_journal = journal.next();
        self.bytes = (events.bytes(), journal.bytes());
        log::append(txn, Log::Events, events)?;
        log::append(txn, Log::Journal, journal)?;
        self.write_standings(txn, &dirty)?;
        self.write_changes(txn, &changes)?;
        let flushed = self.step_flush(txn)?;
        if how == How::Logged {
            self.content.clear();
            group::write(&mut self.content, moment, heads, &self.registry, ops, &answers);
        }
        self.commit(pending, how)?;
        self.shared.add_successes(&successes);
        self.publish(&changes, &tenants, &entries, flushed);
        Ok(Applied { answers, effects })
    }

    /// The transaction for a group: the one that is open, or one of its own where a synced commit is to come or is near, because
    /// readers wait for the end of a group in an open one.
    fn begin(&self, how: How) -> Result<Box<Pending>, StoreError> {
        let unseen = &self.shared.unseen;
        let mut open = unseen.take()?;
        if (matches!(how, How::Synced { .. }) || self.wal.is_nearly_full())
            && let Some(before) = open.take()
        {
            unseen.commit(before)?;
        }
        open.map_or_else(|| Pending::begin(&self.db).map(Box::new), Ok)
    }

    /// Makes a group durable: by what stands in the log, behind which the transaction stays open, or by a synced commit.
    fn commit(&mut self, mut pending: Box<Pending>, how: How) -> Result<(), StoreError> {
        let here = self.wal.position();
        let appended = match how {
            How::Again { bytes } => {
                self.wal.pass();
                Some(bytes)
            }
            How::Logged if self.wal.has_room(self.content.len()) && self.moved < JOB_MOVED_PER_CHECKPOINT => {
                self.wal.append(&self.content).map_err(|error| StoreError::Unavailable(error.to_string()))?;
                Some(self.content.len())
            }
            How::Logged | How::Synced { .. } => None,
        };
        if let Some(bytes) = appended {
            pending.add(Position { next: here.next + 1, ..here }.to_row(self.heads()), bytes);
            return self.shared.unseen.give(pending);
        }
        let step = u16::from_le_bytes(self.shared.sealer.entropy().bytes());
        let tag = here.tag.saturating_add(1 + u64::from(step));
        let after = Position { tag, next: 0, clean: how == How::Synced { clean: true } };
        let mut txn = pending.txn;
        put_meta(&txn, meta::WAL, &after.to_row(self.heads()))?;
        txn.set_durability(Durability::Immediate)?;
        // Without it a crash costs seconds per gigabyte at the next start.
        txn.set_quick_repair(true);
        txn.commit()?;
        self.shared.unseen.settle();
        self.moved = 0;
        let wipe = std::mem::take(&mut self.wipe);
        let begun = self.wal.begin(after.tag).and_then(|()| if wipe { self.wal.wipe() } else { Ok(()) });
        begun.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    pub(super) fn decide(&mut self, group: &mut Group<'_>, op: &Op) -> Result<Result<Done, Refusal>, StoreError> {
        match op {
            Op::Accept(accept) => self.accept(group, accept),
            Op::Outcome(outcome) if self.registry.is_forgotten(outcome.attempt.webhook) => {
                self.forgotten_outcome(group, outcome)
            }
            Op::Outcome(outcome) => self.outcome(group, outcome),
            Op::Spill { webhook, events, due_ms } => self.spill(group, *webhook, events, *due_ms),
            Op::Forget { webhook, events } => {
                for event in events {
                    self.fresh.resolve(*event, *webhook);
                }
                group.effects.dropped += events.len() as u64;
                Ok(Ok(Done::Nothing))
            }
            Op::Expire { webhook, before_ms, max } => self.expire(group, *webhook, *before_ms, *max),
            Op::CreateWebhook { draft, quota } => Ok(self.create_webhook(group, draft, *quota)),
            Op::RegisterSole { draft, quota } => Ok(self.register_sole(group, draft, *quota)),
            Op::UpdateWebhook { no, patch } => Ok(self.update_webhook(group, *no, patch)),
            Op::DeleteWebhook { no } => Ok(self.delete_webhook(group, *no)),
            Op::PutTenant { id, name, plan } => Ok(self.put_tenant(group, id, name.as_ref(), plan.as_ref())),
            Op::CreateKey(key) => Ok(self.create_key(group, key)),
            Op::RevokeKey(id) => Ok(self.revoke_key(group, *id)),
            Op::Redrive { webhook, event } => self.redrive(group, *webhook, *event),
            Op::DropDead { webhook, event } => self.drop_dead(group, *webhook, *event),
            Op::Resend { event, webhooks } => self.resend(group, *event, webhooks),
            Op::Guarded { guard, op } => self.guarded(group, guard, op),
            Op::Tidy(tidy) => self.tidy(group, *tidy),
            Op::Retain(retain) => self.retain(group, retain),
            Op::Tell => self.tell(group),
            Op::Cancel { event, webhooks } => self.cancel(group, *event, webhooks),
            Op::Pause { scope, paused } => Ok(self.pause(group, scope, *paused)),
            Op::StartJob { draft, activate } => self.start_job(group, draft, *activate),
            Op::JobStep(step) => self.job_step(group, step),
            Op::EraseTenant { id, job } => self.erase_tenant(group, id, *job),
            Op::EraseStep(step) => self.erase_step(group, step),
            Op::EndJob { id, end } => Ok(self.end_job(group, *id, *end)),
            Op::BackedUp { at_ms } => {
                put_meta(group.txn(), meta::LAST_BACKUP, &at_ms.to_le_bytes())?;
                Ok(Ok(Done::Nothing))
            }
            Op::Ping => Ok(Ok(Done::Nothing)),
        }
    }

    /// Removes some rows of deleted webhooks' queues and lines.
    fn sweep(&mut self, group: &mut Group<'_>) -> Result<(), StoreError> {
        let Some(webhook) = self.sweeps.front().copied() else { return Ok(()) };
        let mut standing = self.standings.get(webhook).unwrap_or_default();
        let mut removed = queue::sweep(group.queue()?, &mut standing, webhook, SWEEP_PER_COMMIT)?;
        let mut lines = group.txn().open_table(ORDERING)?;
        removed += ordering::sweep(&mut lines, &mut standing, webhook, SWEEP_PER_COMMIT - removed)?;
        self.standings.insert(webhook, standing);
        group.effects.dropped += removed as u64;
        group.dirty.insert(webhook);
        if removed < SWEEP_PER_COMMIT {
            self.sweeps.pop_front();
        }
        Ok(())
    }

    pub(super) fn write_standings(
        &mut self,
        txn: &WriteTransaction,
        dirty: &BTreeSet<WebhookNo>,
    ) -> Result<(), StoreError> {
        if dirty.is_empty() {
            return Ok(());
        }
        let mut table = txn.open_table(STANDING)?;
        for webhook in dirty {
            if let Some(standing) = self.standings.get(*webhook) {
                table.insert(*webhook, row::write(STANDING, webhook, &standing).as_slice())?;
                self.succeeded.remove(webhook);
            }
        }
        Ok(())
    }

    fn write_changes(&self, txn: &WriteTransaction, changes: &[Change]) -> Result<(), StoreError> {
        let sealer = &self.shared.sealer;
        for change in changes {
            match change {
                Change::Tenant(tenant) => {
                    let row = row::seal(TENANTS, &tenant.no, record::write_tenant(tenant));
                    txn.open_table(TENANTS)?.insert(tenant.no, row.as_slice())?;
                    put_meta(txn, meta::NEXT_TENANT, &self.next_tenant.to_le_bytes())?;
                }
                Change::TenantGone(no) => {
                    txn.open_table(TENANTS)?.remove(no)?;
                }
                Change::Webhook(webhook) => {
                    let key = (webhook.no, webhook.since_seq);
                    let row = row::seal(WEBHOOKS, &key, record::write_webhook(webhook, sealer));
                    txn.open_table(WEBHOOKS)?.insert(key, row.as_slice())?;
                    put_meta(txn, meta::NEXT_WEBHOOK, &self.next_webhook.to_le_bytes())?;
                }
                Change::WebhookGone(no) => {
                    txn.open_table(WEBHOOKS)?.retain_in((*no, 0)..=(*no, Seq::MAX), |_, _| false)?;
                    txn.open_table(STANDING)?.remove(no)?;
                }
                Change::Key(key) => {
                    let row = row::seal(KEYS, &&key.id.0, record::write_key(key, sealer));
                    txn.open_table(KEYS)?.insert(&key.id.0, row.as_slice())?;
                }
                Change::Job(job) => {
                    txn.open_table(JOBS)?.insert(&job.id.0, row::write(JOBS, &&job.id.0, &**job).as_slice())?;
                }
                Change::Pause(scope, pause) => {
                    let (key, mut table) = (record::to_bytes(scope), txn.open_table(PAUSES)?);
                    match pause {
                        Some(pause) => {
                            table.insert(key.as_slice(), row::write(PAUSES, &key.as_slice(), pause).as_slice())?
                        }
                        None => table.remove(key.as_slice())?,
                    };
                }
                Change::KeyGone(id) => drop(txn.open_table(KEYS)?.remove(&id.0)?),
                Change::JobGone(id) => drop(txn.open_table(JOBS)?.remove(&id.0)?),
            }
        }
        Ok(())
    }

    /// Brings the readers' copies up to date; what was committed is visible before any answer leaves.
    fn publish(&mut self, changes: &[Change], tenants: &[TenantNo], entries: &[TailEntry], flushed: bool) {
        if !changes.is_empty() {
            let mut registry = self.shared.registry_mut();
            for change in changes {
                registry.apply(change);
            }
        }
        let mut tails = self.shared.tails_mut();
        for tenant in tenants {
            tails.push_event(*tenant);
        }
        for entry in entries {
            tails.push_entry(*entry);
        }
        if flushed && let Some(flush) = self.flush.take() {
            flush.settle(&mut tails);
        }
        drop(tails);
        self.shared.set_heads(self.next_event, self.next_journal, self.fresh.mark(0).event);
        self.shared.set_fresh(self.fresh.len());
    }
}

/// Writes one of the singles.
///
/// # Errors
/// When the store fails.
pub(super) fn put_meta(txn: &WriteTransaction, name: &str, value: &[u8]) -> Result<(), StoreError> {
    txn.open_table(META)?.insert(name, row::seal(META, &name, value.to_vec()).as_slice())?;
    Ok(())
}

/// Makes sure that every table exists, so that readers never meet a missing one.
///
/// # Errors
/// When the store fails.
pub fn create_tables(txn: &WriteTransaction) -> Result<(), StoreError> {
    struct Create<'a>(&'a WriteTransaction);
    impl Visit for Create<'_> {
        type Error = StoreError;

        fn table<K: Key, V: Value>(&mut self, definition: TableDefinition<'static, K, V>) -> Result<(), StoreError> {
            self.0.open_table(definition)?;
            Ok(())
        }
    }
    schema::visit(&mut Create(txn))
}
