//! Jobs: the same for many deliveries at once. Owns how they are counted, begun, taken further and looked at.
//!
//! A job is a row in the store and nothing else: whoever runs it looks for its next few deliveries in a snapshot, has the
//! writer move them together with the row, and rests three times as long as that took, or longer: jobs take a fourth of what
//! others leave of the writer's time. So a job goes on after any crash where
//! its row says, and what is published meanwhile finds the writer free. What jobs queue stands in the durable queue, and a
//! lane takes turns between that and what is fresh.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use super::error::{Error, unknown_tenant};
use super::{Asker, Service};
use crate::limits::{JOB_REST, JOB_REST_MAX, JOB_STEP_MAX, JOBS_KEPT_MS};
use crate::metrics::{JobDeliveryLabels, JobLabels};
use crate::model::event::OPERATOR;
use crate::model::id::{BROADCAST, JobId, TenantId, TenantNo};
use crate::model::job::{Job, JobFailure, JobState, Task};
use crate::model::pause::Scope;
use crate::store::StoreError;
use crate::store::inbox::SubmitError;
use crate::store::op::{Done, JobStep, Op, Refusal};
use crate::store::sift::{Sifted, Wanted};
use crate::store::view::Shared;

/// A job that may not go on now, because a backlog is full, a backup is made or the store fails, is looked at again after this.
const HELD_UP_FOR: Duration = Duration::from_millis(250);
/// Without a running job, it is looked for one so often: one may have begun although the answer said that nobody knows.
const IDLE_FOR: Duration = Duration::from_secs(1);
/// Jobs that one page looks at before it comes back short.
const LOOKED_AT_MAX: usize = 2_000;

/// What jobs need beside the store.
pub(super) struct Desk {
    /// A job has begun.
    begun: Notify,
    /// Counting reads a great deal, so one counts at a time.
    counting: Semaphore,
    /// When jobs made their last step, and how long the writer had been at work in all by then.
    stepped: Mutex<Option<(Instant, Duration)>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { begun: Notify::new(), counting: Semaphore::new(1), stepped: Mutex::default() }
    }
}

/// Which jobs, newest first.
pub struct JobQuery {
    /// `None`: everybody's, unless `erased` names somebody.
    pub tenant: Option<TenantNo>,
    /// The erasures of tenants that went by this name, too: they have no number any more that somebody could ask for.
    pub erased: Option<TenantId>,
    pub state: Option<String>,
    /// Go on with those before this one.
    pub before: JobId,
    pub limit: usize,
}

/// What a job was found to do next.
enum Turn {
    Step(Sifted),
    /// A tenant's backlog has to shrink first, or a backup to end.
    Held,
}

impl Service {
    /// How many deliveries a job would be about if it began now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count(&self, tenant: TenantNo, task: &Task) -> Result<u64, Error> {
        let _alone = self.desk.counting.acquire().await.map_err(|_| Error::Internal)?;
        let (mut count, mut from) = (0, Some(task.start(tenant)));
        let bound = self.store.shared().bound_of(task);
        while let Some(start) = from {
            let (begun, task) = (Instant::now(), task.clone());
            let sift = move |shared: &Shared| shared.sift(Wanted { tenant, task: &task, bound }, start, usize::MAX);
            let sifted = self.store.read(sift).await?;
            count += sifted.items.len() as u64;
            from = sifted.next;
            if from.is_some() {
                tokio::time::sleep(begun.elapsed()).await;
            }
        }
        Ok(count)
    }

    /// Begins a job, counted first. `activate`: the webhook that it is about is made active with it.
    ///
    /// # Errors
    /// Not found; 409 when too many run.
    pub async fn start_job(
        &self,
        tenant: TenantNo,
        task: Task,
        activate: bool,
        asker: &Asker,
    ) -> Result<Arc<Job>, Error> {
        let total = self.count(tenant, &task).await?;
        let id = uuid::Builder::from_unix_timestamp_millis(self.clock.wall_ms(), &self.entropy.bytes()).into_uuid();
        let draft = Box::new(Job::new(JobId(*id.as_bytes()), tenant, task, total));
        let job = job_from(self.submit(Op::StartJob { draft, activate }, asker).await?)?;
        tracing::info!(job = %job.id, kind = job.task.as_str(), total, "a job began");
        if job.state == JobState::Running {
            if !matches!(job.task, Task::Purge(_)) {
                self.dispatch.expect_well(&match (job.task.webhook(), tenant) {
                    (Some(webhook), _) => Scope::Webhook(webhook),
                    (None, BROADCAST) => Scope::Everything,
                    (None, tenant) => Scope::Tenant(tenant),
                });
            }
            self.desk.begun.notify_one();
        } else {
            self.tell_ended(&job);
        }
        Ok(job)
    }

    /// Deletes a tenant: it is gone at once, and a job erases what it has left. `None`: there is none of this name, and no job
    /// for one either.
    ///
    /// # Errors
    /// 422 for the tenant `operator`.
    pub async fn erase_tenant(&self, id: &TenantId, asker: &Asker) -> Result<Option<Arc<Job>>, Error> {
        if id.as_str() == OPERATOR {
            let message =
                "tenant operator is reserved: the daemon's own reports are its events, and it can't be deleted";
            return Err(Error::Invalid { code: "reserved", message: message.to_owned() });
        }
        asker.of_tenant(id);
        asker.about(id);
        let job = uuid::Builder::from_unix_timestamp_millis(self.clock.wall_ms(), &self.entropy.bytes()).into_uuid();
        let op = Op::EraseTenant { id: id.clone(), job: JobId(*job.as_bytes()) };
        match self.submit(op, asker).await {
            Ok(done) => {
                let job = job_from(done)?;
                tracing::info!(tenant = %id, job = %job.id, "a tenant was deleted; what it had is being erased");
                self.desk.begun.notify_one();
                Ok(Some(job))
            }
            Err(error) if error == unknown_tenant() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A job; `tenant` is whose it has to be.
    ///
    /// # Errors
    /// Not found.
    pub async fn job(&self, tenant: Option<TenantNo>, id: JobId) -> Result<Job, Error> {
        let found = self.store.read(move |shared| shared.view()?.job(id)).await?;
        let now = self.clock.wall_ms();
        let is_its = |job: &Job| tenant.is_none_or(|tenant| job.tenant == tenant);
        found.filter(|job| is_kept(job, now) && is_its(job)).ok_or(Error::NotFound)
    }

    /// A page of jobs.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn jobs(&self, query: JobQuery) -> Result<(Vec<Job>, Option<JobId>), Error> {
        let now = self.clock.wall_ms();
        Ok(self.store.read(move |shared| page(shared, &query, now)).await?)
    }

    /// Whether a tenant of this name was deleted, and its erasure is on record still.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_erased(&self, id: &TenantId) -> Result<bool, Error> {
        let (id, now) = (id.clone(), self.clock.wall_ms());
        let found = move |shared: &Shared| {
            let mut found = false;
            shared.view()?.scan_jobs(JobId([u8::MAX; 16]), |job| {
                found = is_kept(&job, now) && matches!(&job.task, Task::Erase(erase) if erase.id == id);
                !found
            })?;
            Ok(found)
        };
        Ok(self.store.read(found).await?)
    }

    /// Has a job go no further; what it has done stays. One that has ended stays as it is.
    ///
    /// # Errors
    /// Not found.
    pub async fn cancel_job(&self, tenant: Option<TenantNo>, id: JobId, asker: &Asker) -> Result<Arc<Job>, Error> {
        let job = self.job(tenant, id).await?;
        if job.state != JobState::Running {
            return Ok(Arc::new(job));
        }
        if job.task.is_final() {
            let message = "a tenant's erasure can't be cancelled: half of what it had would be left";
            return Err(Error::Conflict { code: "not_cancellable", message });
        }
        match self.submit(Op::EndJob { id, end: JobState::Cancelled }, asker).await {
            Ok(done) => {
                let job = job_from(done)?;
                self.tell_ended(&job);
                Ok(job)
            }
            // It ended meanwhile.
            Err(Error::NotFound) => self.job(tenant, id).await.map(Arc::new),
            Err(error) => Err(error),
        }
    }

    /// Takes every running job one step further; says how long to rest then, `None`: until one begins.
    pub async fn step_jobs(&self) -> Option<Duration> {
        let running: Vec<Arc<Job>> = self.store.shared().registry().jobs().cloned().collect();
        let (mut rest, mut moved) = (None, Duration::ZERO);
        let busy = self.busy_since_the_last_step();
        for job in running {
            let begun = Instant::now();
            match self.step_job(&job).await {
                Ok(true) => moved += begun.elapsed(),
                Ok(false) => rest = Some(HELD_UP_FOR),
                Err(error) => {
                    tracing::warn!(job = %job.id, %error, "a job goes on later");
                    rest = Some(HELD_UP_FOR);
                }
            }
        }
        let worked = self.store.worked();
        *self.desk.stepped.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), worked));
        if moved.is_zero() { rest } else { Some(rest_after(moved, busy)) }
    }

    /// The share of its time that the writer was at work for others while jobs rested, from 0 to 1.
    fn busy_since_the_last_step(&self) -> f64 {
        let before = *self.desk.stepped.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, worked)) = before else { return 0.0 };
        let worked = self.store.worked().saturating_sub(worked);
        worked.as_secs_f64() / at.elapsed().max(worked).max(Duration::from_micros(1)).as_secs_f64()
    }

    /// Rests as long as `step_jobs` said.
    pub async fn rest(&self, rest: Option<Duration>) {
        // Also with nothing to do it yields: a step that moved nothing comes back at once.
        let rest = tokio::time::sleep(rest.unwrap_or(IDLE_FOR));
        tokio::select! {
            () = rest => {}
            () = self.desk.begun.notified() => {}
        }
    }

    /// One step; false: it has to wait.
    async fn step_job(&self, job: &Arc<Job>) -> Result<bool, Error> {
        let pending_max = self.settings().pending_per_tenant.map(|max| max / 2);
        let looked_for = job.clone();
        let turn = self.store.read(move |shared| turn(shared, &looked_for, pending_max)).await;
        let op = match turn {
            Ok(Turn::Held) => return Ok(false),
            Ok(Turn::Step(sifted)) => {
                let step = Box::new(JobStep { id: job.id, from: job.cursor, to: sifted.next, items: sifted.items });
                if job.task.is_final() { Op::EraseStep(step) } else { Op::JobStep(step) }
            }
            Err(error) if error.is_damage() => {
                tracing::error!(job = %job.id, %error, "a job can't be finished");
                Op::EndJob { id: job.id, end: JobState::Failed(JobFailure::Damaged) }
            }
            Err(error) => return Err(error.into()),
        };
        match self.store.submit(op, None).await {
            Ok(done) => {
                let now = job_from(done)?;
                self.count_step(job, &now);
                Ok(true)
            }
            // It was cancelled, or a step that was not heard of was made.
            Err(SubmitError::Refused(Refusal::NotFound)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn count_step(&self, before: &Job, now: &Job) {
        let (kind, is_final) = (now.task.as_str(), now.task.is_final());
        // An erasure counts records, not deliveries.
        let moved = [
            ("done", before.done, now.done),
            ("skipped", before.skipped, now.skipped),
            ("failed", before.failed, now.failed),
        ];
        for (result, before, now) in moved.into_iter().filter(|_| !is_final) {
            let labels = JobDeliveryLabels { kind, result };
            self.metrics.job_deliveries.get_or_create(&labels).inc_by(now.saturating_sub(before));
        }
        if now.state != JobState::Running {
            self.tell_ended(now);
        }
    }

    fn tell_ended(&self, job: &Job) {
        let (kind, state) = (job.task.as_str(), job.state.as_str());
        self.metrics.jobs_ended.get_or_create(&JobLabels { kind, state }).inc();
        let Job { id, total, done, skipped, failed, .. } = job;
        let reason = job.state.reason();
        tracing::info!(job = %id, kind, state, reason, total, done, skipped, failed, "a job ended");
    }
}

/// How long jobs rest after a step, `busy` being the share of its time that the writer was at work for others.
fn rest_after(step: Duration, busy: f64) -> Duration {
    let turns = f64::from(JOB_REST + 1) / (1.0 - busy).max(f64::EPSILON) - 1.0;
    step.mul_f64(turns.clamp(f64::from(JOB_REST), f64::from(JOB_REST_MAX)))
}

fn job_from(done: Done) -> Result<Arc<Job>, Error> {
    match done {
        Done::Job(job) => Ok(job),
        _ => Err(Error::Internal),
    }
}

/// What a job does next. It leaves each tenant half of its room for what is published.
fn turn(shared: &Shared, job: &Job, pending_max: Option<u64>) -> Result<Turn, StoreError> {
    // The rows of a backup that is being made know the tenant still: the logs that follow them must, too.
    if job.task.is_final() && shared.hold().is_held() {
        return Ok(Turn::Held);
    }
    let wanted = Wanted { tenant: job.tenant, task: &job.task, bound: job.bound };
    let sifted = shared.sift(wanted, job.cursor, JOB_STEP_MAX)?;
    let adds = matches!(job.task, Task::Redrive(_) | Task::Recover(_));
    let Some(max) = pending_max.filter(|_| adds) else { return Ok(Turn::Step(sifted)) };
    match fitting(shared, &sifted, max)? {
        count if count == sifted.items.len() => Ok(Turn::Step(sifted)),
        0 => Ok(Turn::Held),
        count => Ok(Turn::Step(shared.sift(wanted, job.cursor, count)?)),
    }
}

/// How many of these, in their order, can be queued before a tenant has `max` deliveries pending.
fn fitting(shared: &Shared, sifted: &Sifted, max: u64) -> Result<usize, StoreError> {
    let (view, registry) = (shared.view()?, shared.registry());
    let mut pending: HashMap<TenantNo, u64> = HashMap::new();
    for (place, (webhook, _)) in sifted.items.iter().enumerate() {
        let Some(tenant) = registry.webhook(*webhook).map(|webhook| webhook.tenant) else { continue };
        let count = match pending.get_mut(&tenant) {
            Some(count) => count,
            None => {
                let mut of_rows = 0;
                for webhook in registry.webhooks_of(tenant) {
                    of_rows += view.standing(webhook.no)?.pending();
                }
                pending.entry(tenant).or_insert(of_rows)
            }
        };
        if *count >= max {
            return Ok(place);
        }
        *count += 1;
    }
    Ok(sifted.items.len())
}

fn is_kept(job: &Job, now: u64) -> bool {
    job.state == JobState::Running || now.saturating_sub(job.changed_ms) <= JOBS_KEPT_MS
}

impl JobQuery {
    fn is_of(&self, job: &Job) -> bool {
        let erases = |name: &TenantId| matches!(&job.task, Task::Erase(erase) if erase.id == *name);
        match (self.tenant, &self.erased) {
            (None, None) => true,
            (tenant, erased) => tenant == Some(job.tenant) || erased.as_ref().is_some_and(erases),
        }
    }
}

fn page(shared: &Shared, query: &JobQuery, now: u64) -> Result<(Vec<Job>, Option<JobId>), StoreError> {
    let (mut items, mut next, mut last, mut looked_at) = (Vec::new(), None, None, 0);
    shared.view()?.scan_jobs(query.before, |job| {
        if items.len() >= query.limit || looked_at >= LOOKED_AT_MAX {
            next = last;
            return false;
        }
        looked_at += 1;
        last = Some(job.id);
        let of_state = query.state.as_ref().is_none_or(|state| job.state.as_str() == state);
        if of_state && is_kept(&job, now) && query.is_of(&job) {
            items.push(job);
        }
        true
    })?;
    Ok((items, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_take_a_fourth_of_what_others_leave() {
        let step = Duration::from_millis(1);
        for (busy, ms) in [(0.0, 3), (0.5, 7), (0.75, 15), (0.9, 39), (0.99, 63), (1.0, 63)] {
            let rest = rest_after(step, busy);
            assert!(rest.abs_diff(Duration::from_millis(ms)) < Duration::from_micros(1), "{busy}: {rest:?}");
        }
    }
}
