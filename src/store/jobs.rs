//! The engine's ops on jobs: one begins, takes a step, ends. Owns the table `jobs`.
//!
//! Invariant: a step moves the job's cursor in the transaction in which it does what lies before that, and is refused unless
//! the job stands where the step begins. So a crash repeats nothing, and a step that is asked for twice is made once. Whoever
//! asks for a step has looked for its deliveries in a snapshot (`sift`); here each is judged again by what is so now. All of a
//! delivery is read before anything of it is written: one that does not read is counted and left as it was.

use std::collections::HashMap;
use std::sync::Arc;

use redb::ReadableTable;

use super::StoreError;
use super::cancel::Told;
use super::engine::{Engine, Group};
use super::listing::{self, Fate, Tells};
use super::lookup::{self, Order};
use super::op::{Done, JobStep, Refusal, WebhookPatch};
use super::record::Entry;
use super::registry::Change;
use super::row;
use super::schema::{DEAD_OF, FATES, FATES_PER_ROW, JOBS};
use crate::limits::{JOBS_KEPT_MAX, JOBS_KEPT_MS, JOBS_KEPT_OF_ALL_MAX, JOBS_RUNNING_MAX, JOBS_RUNNING_OF_ALL_MAX};
use crate::model::event::OrderKey;
use crate::model::id::{BROADCAST, JobId, JournalSeq, Seq, TenantNo, WebhookNo};
use crate::model::job::{Job, JobFailure, JobState, Only, Task};

type Decided = Result<Result<Done, Refusal>, StoreError>;

/// What a job's turn came to for one delivery.
enum Did {
    It,
    Nothing,
}

/// A delivery that is to be queued once more, read.
struct Reviving {
    tenant: TenantNo,
    /// Its newest journal record.
    previous: JournalSeq,
    attempts: u32,
    order: Option<OrderKey>,
}

impl Engine {
    pub(super) fn start_job(&mut self, group: &mut Group<'_>, draft: &Job, activate: bool) -> Decided {
        if let Some(webhook) = draft.task.webhook()
            && self.registry.webhook(webhook).is_none()
        {
            return Ok(Err(Refusal::NotFound));
        }
        if draft.tenant != BROADCAST && self.registry.tenant(draft.tenant).is_none() {
            return Ok(Err(Refusal::UnknownTenant));
        }
        let running = self.registry.jobs().filter(|job| job.tenant == draft.tenant).count();
        if running >= JOBS_RUNNING_MAX || self.registry.jobs().count() >= JOBS_RUNNING_OF_ALL_MAX {
            return Ok(Err(Refusal::TooManyJobs));
        }
        self.forget_jobs(group, draft.tenant)?;
        let mut job = draft.clone();
        (job.created_ms, job.changed_ms) = (group.wall_ms, group.wall_ms);
        job.bound = match &job.task {
            Task::Redrive(_) | Task::Purge(_) => self.next_journal + group.entries.len() as JournalSeq,
            Task::Erase(_) => return Ok(Err(Refusal::NotFound)),
            Task::Recover(recover) => {
                if activate && self.registry.webhook(recover.webhook).is_some_and(|webhook| !webhook.is_active()) {
                    let patch = WebhookPatch { active: Some(true), ..WebhookPatch::default() };
                    if let Err(refusal) = self.update_webhook(group, recover.webhook, &patch) {
                        return Ok(Err(refusal));
                    }
                }
                group.events.next()
            }
        };
        if job.total == 0 {
            job.state = JobState::Done;
        }
        Ok(Ok(self.put_job(group, job)))
    }

    /// Makes room for one more: what has been kept long enough, or is too much, goes, the oldest first.
    fn forget_jobs(&self, group: &Group<'_>, tenant: TenantNo) -> Result<(), StoreError> {
        let mut table = group.txn().open_table(JOBS)?;
        let mut ended: Vec<Job> = Vec::new();
        for row in table.iter()? {
            let (id, value) = row?;
            let job: Job = row::read(JOBS, &id.value(), value.value())?;
            if job.state != JobState::Running {
                ended.push(job);
            }
        }
        let (mut all, mut own) = (ended.len(), ended.iter().filter(|job| job.tenant == tenant).count());
        for job in ended {
            let is_own = job.tenant == tenant;
            let old = group.wall_ms.saturating_sub(job.changed_ms) > JOBS_KEPT_MS;
            if old || all >= JOBS_KEPT_OF_ALL_MAX || (is_own && own >= JOBS_KEPT_MAX) {
                table.remove(&job.id.0)?;
                all -= 1;
                own -= usize::from(is_own);
            }
        }
        Ok(())
    }

    pub(super) fn job_step(&mut self, group: &mut Group<'_>, step: &JobStep) -> Decided {
        let is_next = |job: &&Arc<Job>| job.cursor == step.from && !job.task.is_final();
        let Some(job) = self.registry.job(step.id).filter(is_next) else {
            return Ok(Err(Refusal::NotFound));
        };
        let mut job = Job::clone(job);
        // One look at the tail of the journal for all deliveries of a webhook; `recover` is about one.
        let tail = match &job.task {
            Task::Recover(recover) => self.shared.tails().fates_to(recover.webhook),
            _ => HashMap::new(),
        };
        for (webhook, event) in &step.items {
            let count = match self.take_turn(group, &job, &tail, *webhook, *event) {
                Ok(Did::It) => &mut job.done,
                Ok(Did::Nothing) => &mut job.skipped,
                Err(error) if error.is_damage() => &mut job.failed,
                Err(error) => return Err(error),
            };
            *count += 1;
        }
        self.moved += step.items.len();
        match step.to {
            Some(to) => job.cursor = to,
            None => job.state = JobState::Done,
        }
        if job.task.webhook().is_some_and(|webhook| self.registry.webhook(webhook).is_none()) {
            job.state = JobState::Failed(JobFailure::WebhookGone);
        }
        // Counted at its beginning; some may have come since.
        job.total = job.total.max(job.done + job.skipped + job.failed);
        job.changed_ms = group.wall_ms;
        Ok(Ok(self.put_job(group, job)))
    }

    pub(super) fn end_job(&mut self, group: &mut Group<'_>, id: JobId, end: JobState) -> Result<Done, Refusal> {
        let may_end = |job: &&Arc<Job>| !(job.task.is_final() && end == JobState::Cancelled);
        let Some(job) = self.registry.job(id).filter(may_end) else { return Err(Refusal::NotFound) };
        let job = Job { state: end, changed_ms: group.wall_ms, ..Job::clone(job) };
        Ok(self.put_job(group, job))
    }

    pub(super) fn put_job(&mut self, group: &mut Group<'_>, job: Job) -> Done {
        let job = Arc::new(job);
        self.change(group, Change::Job(job.clone()));
        Done::Job(job)
    }

    /// Does for one delivery what the job is there for, if the delivery is still as it has to be.
    fn take_turn(
        &mut self,
        group: &mut Group<'_>,
        job: &Job,
        tail: &HashMap<Seq, Fate>,
        webhook: WebhookNo,
        event: Seq,
    ) -> Result<Did, StoreError> {
        let Some(tenant) = self.registry.webhook(webhook).map(|webhook| webhook.tenant) else {
            return Ok(Did::Nothing);
        };
        if job.tenant != BROADCAST && job.tenant != tenant {
            return Ok(Did::Nothing);
        }
        let dead_of = group.txn().open_table(DEAD_OF)?;
        let death = lookup::get(&dead_of, &Order, &(webhook, event))?.map(|number| number.value());
        drop(dead_of);
        let reviving = match (&job.task, death) {
            (Task::Redrive(_) | Task::Purge(_), Some(death)) if death >= job.bound => return Ok(Did::Nothing),
            (Task::Purge(_), Some(_)) => {
                let Some(previous) = self.exhume(group, tenant, webhook, event)? else { return Ok(Did::Nothing) };
                group.note(&Entry::Dropped { event, webhook, previous, at_ms: group.wall_ms });
                return Ok(Did::It);
            }
            // Missing are only those that nothing is on record of.
            (Task::Recover(recover), Some(_)) if recover.only == Only::Missing => return Ok(Did::Nothing),
            // A death of this very group can't be read yet; it is not what was counted either.
            (_, Some(death)) if death >= self.next_journal => return Ok(Did::Nothing),
            (_, Some(previous)) => Reviving {
                tenant,
                previous,
                // Retention leaves a dead letter its history.
                attempts: self.attempts_made(group, previous)?.unwrap_or(0),
                order: self.order_of(group, webhook, event)?,
            },
            (Task::Recover(recover), None) if recover.only != Only::Failed => {
                match self.unqueued(group, recover.only, tail, (webhook, event), tenant)? {
                    Some(reviving) => reviving,
                    None => return Ok(Did::Nothing),
                }
            }
            (_, None) => return Ok(Did::Nothing),
        };
        let Reviving { tenant, previous, attempts, order } = reviving;
        self.exhume(group, tenant, webhook, event)?;
        self.requeue(group, (webhook, event), previous, attempts, order)?;
        Ok(Did::It)
    }

    /// A delivery that is not a dead letter, if it is missing, or delivered and wanted once more.
    fn unqueued(
        &self,
        group: &Group<'_>,
        only: Only,
        tail: &HashMap<Seq, Fate>,
        (webhook, event): (WebhookNo, Seq),
        tenant: TenantNo,
    ) -> Result<Option<Reviving>, StoreError> {
        let Some(found) = self.logged(group, event)? else { return Ok(None) };
        // Who asks can't have seen what this very group has written.
        if group.entries.iter().any(|entry| entry.event == event && entry.webhook == webhook) {
            return Ok(None);
        }
        let on_disk = match lookup::get(&group.txn().open_table(FATES)?, &FATES, &(event / FATES_PER_ROW))? {
            Some(row) => listing::fates_in(row.value(), event)?,
            None => Told::new(),
        };
        let fate = listing::joined(on_disk.get(&webhook).copied(), tail.get(&event).copied());
        // Retention may have taken the records: the fate says as much.
        let (previous, attempts) = match fate {
            // Without a record it is pending if it matched.
            None if found.matched.contains(&webhook) => return Ok(None),
            None => (0, 0),
            Some(Fate { number, tells: Tells::Delivered, attempts }) if only == Only::All => {
                (number, self.attempts_made(group, number)?.unwrap_or(u32::from(attempts)))
            }
            Some(_) => return Ok(None),
        };
        Ok(Some(Reviving { tenant, previous, attempts, order: found.order() }))
    }
}
