//! Erasing a tenant: what goes at once, and the job that removes what it has left, in small steps. Owns what erased means.
//!
//! At once, in one transaction: the tenant, its keys, its pauses and its jobs are there no more, its webhooks are deleted, and
//! nothing is accepted for it. Then, stage by stage: its dead letters; what it published and what the daemon reported of it, in
//! the event log; what its receivers answered, in the journal; its idempotency records; who did what for it and why, in the
//! audit log; its webhooks with their secrets, once their queues are swept; and what the write-ahead log still holds of all this.
//! The two logs are shared with others, so records are replaced in their blocks: numbers keep their places, and what follows
//! from numbers alone (the derived tables, `store check`) stays as true as it was.
//!
//! Invariant: a tenant's number is never used again and its webhooks are known as `forgotten` from the first moment on, so
//! whatever comes late, an attempt that was under way above all, is noted without content. A step does nothing that it would not
//! do again, and none is taken while a backup is made: its rows and its logs are of one mind.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use redb::ReadableTable;
use serde::Deserialize;

use super::StoreError;
use super::block;
use super::cancel::Told;
use super::engine::{Engine, Group};
use super::guard;
use super::log::{self, Log};
use super::op::{Done, JobStep, Op, Outcome, Refusal};
use super::queue;
use super::record::{self, Brief, Entry, Remembered};
use super::registry::{Change, Registry};
use super::row;
use super::schema::{AUDIT, DEAD, DEAD_OF, IDEMPOTENCY, JOBS};
use crate::model::audit::{Actor, Audit};
use crate::model::event::RESERVED_PREFIX;
use crate::model::id::{JobId, JournalSeq, OPERATOR_NO, Seq, TenantId, WebhookNo};
use crate::model::job::{Cursor, Erase, Job, JobFailure, JobState, Task};
use crate::model::key::Role;
use crate::model::pause::Scope;

type Decided = Result<Result<Done, Refusal>, StoreError>;

/// Stages of an erasure: the first half of its cursor. The second is a death, the first number of a block, the number of a
/// record that retention has kept, a day with the beginning of a hash, the number of an audit record, or a webhook.
pub(super) const DEAD_LETTERS: u32 = 0;
pub(super) const EVENTS: u32 = 1;
/// Behind `EVENTS`, as retention may keep one of those meanwhile; so with the attempts.
pub(super) const KEPT_EVENTS: u32 = 2;
pub(super) const ATTEMPTS: u32 = 3;
pub(super) const KEPT_ATTEMPTS: u32 = 4;
pub(super) const REMEMBERED: u32 = 5;
pub(super) const RECORDS: u32 = 6;
pub(super) const WEBHOOKS: u32 = 7;
/// With this step's commit the write-ahead log is overwritten.
const TRACES: u32 = 8;
/// When this is taken, it has been.
pub(super) const LAST: u32 = 9;

/// What an item of the logs' stages begins with: a block or a kept record follows, or an event that tells the operator of the
/// tenant.
pub(super) const BLOCK: u32 = 0;
pub(super) const TOLD: u32 = 1;

/// Bits of a cursor among the idempotency records that hold the beginning of the hash; the day stands above.
pub(super) const HASH_BITS: u32 = 48;

impl Engine {
    pub(super) fn erase_tenant(&mut self, group: &mut Group<'_>, id: &TenantId, job: JobId) -> Decided {
        let Some(tenant) = self.registry.tenant_by_id(id).filter(|tenant| tenant.no != OPERATOR_NO).cloned() else {
            // Asked for again: the newest that goes by this name.
            let is_its = |job: &&Arc<Job>| matches!(&job.task, Task::Erase(erase) if erase.id == *id);
            let running = self.registry.jobs().filter(is_its).last();
            return Ok(running.map(|job| Done::Job(job.clone())).ok_or(Refusal::UnknownTenant));
        };
        let own: Vec<WebhookNo> = self.registry.webhooks_of(tenant.no).map(|webhook| webhook.no).collect();
        for no in own {
            if let Err(refusal) = self.delete_webhook(group, no) {
                return Ok(Err(refusal));
            }
        }
        let paused = Scope::Tenant(tenant.no);
        if self.registry.pauses().get(&paused).is_some() {
            self.change(group, Change::Pause(paused.clone(), None));
            group.effects.pauses.push(paused);
        }
        let mut gone: Vec<Change> = Vec::new();
        gone.extend(
            self.registry.keys().iter().filter(|key| key.tenant == Some(tenant.no)).map(|key| Change::KeyGone(key.id)),
        );
        for row in group.txn().open_table(JOBS)?.iter()? {
            let (id, value) = row?;
            let job: Job = row::read(JOBS, &id.value(), value.value())?;
            gone.extend((job.tenant == tenant.no).then_some(Change::JobGone(job.id)));
        }
        // Those that began in this very group have no row yet.
        gone.extend(group.changes.iter().filter_map(|change| match change {
            Change::Job(job) if job.tenant == tenant.no => Some(Change::JobGone(job.id)),
            _ => None,
        }));
        gone.push(Change::TenantGone(tenant.no));
        gone.into_iter().for_each(|change| self.change(group, change));
        let journal_below = self.next_journal + group.entries.len() as JournalSeq;
        let audit_below = guard::next_audit(group.txn())?;
        let erase = Erase { tenant: tenant.no, id: tenant.id.clone(), journal_below, audit_below };
        let bound = group.events.next();
        let total = total(&erase, bound);
        let (created_ms, changed_ms) = (group.wall_ms, group.wall_ms);
        let job = Job { bound, created_ms, changed_ms, ..Job::new(job, tenant.no, Task::Erase(erase), total) };
        Ok(Ok(self.put_job(group, job)))
    }

    pub(super) fn erase_step(&mut self, group: &mut Group<'_>, step: &JobStep) -> Decided {
        let Some(job) = self.registry.job(step.id).filter(|job| job.cursor == step.from) else {
            return Ok(Err(Refusal::NotFound));
        };
        let mut job = Job::clone(job);
        let Task::Erase(mut erase) = job.task.clone() else { return Ok(Err(Refusal::NotFound)) };
        let (stage, _) = step.from;
        for item in &step.items {
            match self.erase_item(group, &erase, job.bound, stage, *item) {
                Err(error) if error.is_damage() => job.failed += 1,
                done => done?,
            }
        }
        match step.to {
            Some(to) => {
                if stage != ATTEMPTS && to.0 == ATTEMPTS {
                    // What came since then has no content; what came until then may.
                    erase.journal_below = self.next_journal + group.entries.len() as JournalSeq;
                }
                self.wipe |= stage == TRACES;
                job.cursor = to;
            }
            None if job.failed > 0 => job.state = JobState::Failed(JobFailure::Damaged),
            None => job.state = JobState::Done,
        }
        job.total = total(&erase, job.bound);
        job.done = looked_at(&erase, job.bound, job.cursor);
        job.changed_ms = group.wall_ms;
        job.task = Task::Erase(erase);
        Ok(Ok(self.put_job(group, job)))
    }

    fn erase_item(
        &mut self,
        group: &mut Group<'_>,
        erase: &Erase,
        bound: Seq,
        stage: u32,
        (number, place): (u32, u64),
    ) -> Result<(), StoreError> {
        match stage {
            DEAD_LETTERS => self.forget_death(group, erase, number, place),
            EVENTS | KEPT_EVENTS if number == TOLD => self.withdraw_told(group, place),
            EVENTS => rewrite(group, Log::Events, place, |seq, bytes| event_erased(erase, bound, seq, bytes)),
            KEPT_EVENTS => rewrite_kept(group, Log::Events, place, |seq, bytes| event_erased(erase, bound, seq, bytes)),
            ATTEMPTS => rewrite(group, Log::Journal, place, |_, bytes| {
                attempt_erased(|webhook| self.registry.is_forgotten(webhook), bytes)
            }),
            KEPT_ATTEMPTS => rewrite_kept(group, Log::Journal, place, |_, bytes| {
                attempt_erased(|webhook| self.registry.is_forgotten(webhook), bytes)
            }),
            REMEMBERED => forget_remembered(group, number, place),
            RECORDS => {
                let mut table = group.txn().open_table(AUDIT)?;
                let Some(value) = table.get(place)? else { return Ok(()) };
                let audit: Audit = row::read(AUDIT, &place, value.value())?;
                drop(value);
                if let Some(audit) = record_erased(erase, &audit) {
                    table.insert(place, row::write(AUDIT, &place, &audit).as_slice())?;
                }
                Ok(())
            }
            WEBHOOKS => {
                self.standings.remove(number);
                self.sweeps.retain(|no| *no != number);
                self.change(group, Change::WebhookGone(number));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn forget_death(
        &mut self,
        group: &mut Group<'_>,
        erase: &Erase,
        webhook: WebhookNo,
        event: Seq,
    ) -> Result<(), StoreError> {
        let death = group.txn().open_table(DEAD_OF)?.remove((webhook, event))?.map(|death| death.value());
        let Some(death) = death else { return Ok(()) };
        group.txn().open_table(DEAD)?.remove((erase.tenant, death))?;
        self.standings.change(webhook, |standing| standing.dead = standing.dead.saturating_sub(1));
        group.dirty.insert(webhook);
        Ok(())
    }

    /// What the operator was told of the tenant is not to be delivered any more, nor a dead letter.
    fn withdraw_told(&mut self, group: &mut Group<'_>, event: Seq) -> Result<(), StoreError> {
        let Some(found) = self.logged(group, event)? else { return Ok(()) };
        let told: Told = self.told(group, event)?;
        // Also to whom it was sent again in this very group.
        let here = group.entries.iter().filter(|entry| entry.event == event).map(|entry| entry.webhook);
        let webhooks: BTreeSet<WebhookNo> = found.matched.into_iter().chain(told.into_keys()).chain(here).collect();
        for webhook in webhooks {
            drop(self.cancel(group, event, &[webhook])?);
            drop(self.drop_dead(group, webhook, event)?);
        }
        Ok(())
    }

    /// An attempt that was under way when its tenant was deleted: it has its place in the journal, and says no more.
    pub(super) fn forgotten_outcome(&mut self, group: &mut Group<'_>, outcome: &Outcome) -> Decided {
        let (webhook, event) = (outcome.attempt.webhook, outcome.attempt.event);
        match outcome.row {
            _ if outcome.test => {}
            // Its webhook's rows are swept, or will be.
            Some(key) => {
                let mut standing = self.standings.get(webhook).unwrap_or_default();
                if queue::remove(group.queue()?, &mut standing, webhook, event, key)? {
                    self.standings.insert(webhook, standing);
                    group.dirty.insert(webhook);
                }
            }
            None => drop(self.fresh.resolve(event, webhook)),
        }
        group.note(&Entry::Attempt(outcome.attempt.erased()));
        if !outcome.test {
            group.effects.settled.push((webhook, event));
        }
        Ok(Ok(Done::Nothing))
    }

    /// Takes out of an audit record what may not be kept of a tenant that was deleted while its request was under way.
    pub(super) fn blot(&self, audit: &mut Audit) {
        let gone = |id: &String| TenantId::parse(id).is_some_and(|id| self.registry.tenant_by_id(&id).is_none());
        if is_tenants(audit) && audit.tenant.as_ref().is_some_and(gone) {
            (audit.principal, audit.justification, audit.remote) = (None, None, None);
        }
    }
}

/// The ops of a group as they may stand in the write-ahead log; `None`: as they are.
pub(super) fn blotted(registry: &Registry, ops: &[Op]) -> Option<Vec<Op>> {
    let forgotten = |op: &Op| matches!(op, Op::Outcome(outcome) if registry.is_forgotten(outcome.attempt.webhook));
    if !ops.iter().any(forgotten) {
        return None;
    }
    let blot = |op: &Op| match op {
        Op::Outcome(outcome) if forgotten(op) => {
            let attempt = outcome.attempt.erased();
            Op::Outcome(Box::new(Outcome { attempt, ..Outcome::clone(outcome) }))
        }
        op => op.clone(),
    };
    Some(ops.iter().map(blot).collect())
}

/// Records of both logs that an erasure looks at.
fn total(erase: &Erase, bound: Seq) -> u64 {
    (bound + erase.journal_below).saturating_sub(2)
}

fn looked_at(erase: &Erase, bound: Seq, (stage, place): Cursor) -> u64 {
    match stage {
        DEAD_LETTERS => 0,
        EVENTS => place.min(bound).saturating_sub(1),
        KEPT_EVENTS => bound.saturating_sub(1),
        ATTEMPTS => (bound + place.min(erase.journal_below)).saturating_sub(if place == 0 { 1 } else { 2 }),
        _ => total(erase, bound),
    }
}

/// Whether an event is the tenant's, or what the operator was told of it, and not erased yet.
pub(super) fn is_its(erase: &Erase, bound: Seq, seq: Seq, event: &Brief<'_>) -> bool {
    #[derive(Deserialize)]
    struct About<'a> {
        #[serde(borrow)]
        tenant: Cow<'a, str>,
    }
    let tells_of_it = || {
        let about = event.context.and_then(|text| serde_json::from_slice::<About<'_>>(text).ok());
        event.kind.starts_with(RESERVED_PREFIX) && about.is_some_and(|about| about.tenant == erase.id.as_str())
    };
    seq < bound
        && !event.kind.is_empty()
        && (event.tenant == erase.tenant || (event.tenant == OPERATOR_NO && tells_of_it()))
}

/// The record of an event that is to be erased, erased.
fn event_erased(erase: &Erase, bound: Seq, seq: Seq, bytes: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    if !is_its(erase, bound, seq, &record::read_brief(bytes)?) {
        return Ok(None);
    }
    let mut out = Vec::new();
    record::write_event(&mut out, &record::read_event(seq, bytes)?.erased());
    Ok(Some(out))
}

/// The record of a forgotten webhook's attempt, erased; `None`: it is another's, or says nothing any more.
pub(super) fn attempt_erased(
    is_forgotten: impl Fn(WebhookNo) -> bool,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let Entry::Attempt(attempt) = record::read(bytes)? else { return Ok(None) };
    let its = !attempt.is_erased() && is_forgotten(attempt.webhook);
    Ok(its.then(|| record::to_bytes(&Entry::Attempt(attempt.erased()))))
}

fn is_tenants(audit: &Audit) -> bool {
    matches!(audit.actor, Actor::Key { role: Role::Tenant, .. })
}

/// An audit record that names the tenant, without what may not stay: on whose behalf and why, and from where the tenant itself
/// asked. What was asked for, when and about which id stays.
pub(super) fn record_erased(erase: &Erase, audit: &Audit) -> Option<Audit> {
    let remote = audit.remote.filter(|_| !is_tenants(audit));
    let erased = Audit { principal: None, justification: None, remote, ..audit.clone() };
    (audit.tenant.as_deref() == Some(erase.id.as_str()) && erased != *audit).then_some(erased)
}

/// Replaces records of the block under `first`: those that `erased` gives another for.
fn rewrite(
    group: &Group<'_>,
    log: Log,
    first: u64,
    mut erased: impl FnMut(u64, &[u8]) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<(), StoreError> {
    let mut table = group.txn().open_table(log.table())?;
    let Some(bytes) = table.get(first)? else { return Ok(()) };
    let (mut records, mut changed) = (Vec::new(), false);
    let mark = log::block_at(log, first, bytes.value())?.mark();
    for record in log::records_at(log, first, bytes.value())? {
        let (number, record) = record?;
        let other = erased(number, record)?;
        changed |= other.is_some();
        records.push(other.unwrap_or_else(|| record.to_vec()));
    }
    let block = block::rewritten(log, first, mark, &records);
    drop(bytes);
    if changed {
        table.insert(first, block.as_slice())?;
    }
    Ok(())
}

/// Replaces a record that retention has kept, if `erased` gives another.
fn rewrite_kept(
    group: &Group<'_>,
    log: Log,
    number: u64,
    erased: impl FnOnce(u64, &[u8]) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<(), StoreError> {
    let mut table = group.txn().open_table(log.kept())?;
    let Some(value) = table.get(number)? else { return Ok(()) };
    let (aged_ms, record) = log::kept(log, number, value.value())?;
    let other = erased(number, record)?.map(|other| log::to_keep(log, number, aged_ms, &other));
    drop(value);
    if let Some(other) = other {
        table.insert(number, other.as_slice())?;
    }
    Ok(())
}

/// Removes a day's idempotency records with this beginning of their hash whose events are all erased.
fn forget_remembered(group: &Group<'_>, day: u32, beginning: u64) -> Result<(), StoreError> {
    let mut low = [0; 16];
    low[..8].copy_from_slice(&beginning.to_be_bytes());
    let mut high = [u8::MAX; 16];
    high[..8].copy_from_slice(&beginning.to_be_bytes());
    let mut gone = Vec::new();
    let mut table = group.txn().open_table(IDEMPOTENCY)?;
    for row in table.range((day, &low)..=(day, &high))? {
        let (key, value) = row?;
        let remembered: Remembered = row::read(IDEMPOTENCY, &key.value(), value.value())?;
        if are_erased(&group.txn().open_table(Log::Events.table())?, &remembered)? {
            gone.push(*key.value().1);
        }
    }
    for hash in gone {
        table.remove((day, &hash))?;
    }
    Ok(())
}

/// Whether all events that an idempotency record is of were erased. Those that retention has removed were not: it keeps them for
/// as long as the record counts, and removes the record by its day.
pub(super) fn are_erased(events: &impl ReadableTable<u64, &'static [u8]>, of: &Remembered) -> Result<bool, StoreError> {
    let (mut erased, wanted) = (0, of.first..of.first + u64::from(of.count));
    log::scan(Log::Events, events, of.first, |seq, bytes| {
        let is_erased = wanted.contains(&seq) && record::read_brief(bytes)?.kind.is_empty();
        erased += u64::from(is_erased);
        Ok(is_erased && seq + 1 < wanted.end)
    })?;
    Ok(erased > 0 && erased == u64::from(of.count))
}
