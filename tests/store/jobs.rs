//! Jobs: what should be true of them, and how a world begins, takes further and cancels them. The model finds for itself
//! which deliveries a job is about, and holds the store's search to it.

use std::collections::BTreeMap;

use webhookd::clock::Millis;
use webhookd::limits::{JOBS_KEPT_MS, JOBS_RUNNING_MAX};
use webhookd::model::attempt::{Attempt, Verdict};
use webhookd::model::id::{BROADCAST, JobId, OPERATOR_NO, Seq, TenantNo, WebhookNo};
use webhookd::model::job::{Cursor, Job, JobFailure, JobState, Letters, Only, Recover, Task};
use webhookd::store::op::{JobStep, Op, Refusal, WebhookPatch};
use webhookd::store::record::Entry;
use webhookd::store::sift::Wanted;
use webhookd::store::view::{Shared, View};

use crate::check::Checked;
use crate::drafts::KINDS;
use crate::erase;
use crate::model::{Expected, Life, Model};
use crate::world::World;

/// Deliveries that one step of a world's job moves at most.
const STEP_MAX: usize = 5;
/// Steps that were looked for and not asked for yet.
const STEPS_KEPT: usize = 4;

impl Model {
    pub fn start_job(&mut self, draft: &Job, activate: bool) -> Result<Expected, Refusal> {
        if draft.task.webhook().is_some_and(|webhook| !self.live(webhook)) {
            return Err(Refusal::NotFound);
        }
        if draft.tenant != BROADCAST && !self.knows(draft.tenant) {
            return Err(Refusal::UnknownTenant);
        }
        let running = |job: &&Job| job.state == JobState::Running && job.tenant == draft.tenant;
        if self.jobs.values().filter(running).count() >= JOBS_RUNNING_MAX {
            return Err(Refusal::TooManyJobs);
        }
        let now = self.wall_ms;
        self.jobs.retain(|_, job| job.state == JobState::Running || now.saturating_sub(job.changed_ms) <= JOBS_KEPT_MS);
        let mut job = Job { created_ms: now, changed_ms: now, ..draft.clone() };
        if let Task::Recover(recover) = &job.task
            && activate
            && self.hooks[&recover.webhook].life == Life::Inactive
        {
            self.update(recover.webhook, &WebhookPatch { active: Some(true), ..WebhookPatch::default() })?;
        }
        let (event, journal) = self.heads();
        job.bound = if matches!(job.task, Task::Recover(_)) { event } else { journal };
        if job.total == 0 {
            job.state = JobState::Done;
        }
        let tenant = job.tenant;
        self.jobs.insert(job.id, job);
        Ok(Expected::Job(tenant))
    }

    pub fn job_step(&mut self, step: &JobStep) -> Result<Expected, Refusal> {
        let is_next = |job: &&Job| job.state == JobState::Running && job.cursor == step.from && !job.task.is_final();
        let there = self.jobs.get(&step.id).filter(is_next);
        let mut job = there.cloned().ok_or(Refusal::NotFound)?;
        for (webhook, event) in &step.items {
            if self.take_turn(&job, *webhook, *event) { job.done += 1 } else { job.skipped += 1 }
        }
        match step.to {
            Some(to) => job.cursor = to,
            None => job.state = JobState::Done,
        }
        if job.task.webhook().is_some_and(|webhook| !self.live(webhook)) {
            job.state = JobState::Failed(JobFailure::WebhookGone);
        }
        job.total = job.total.max(job.done + job.skipped);
        job.changed_ms = self.wall_ms;
        let tenant = job.tenant;
        self.jobs.insert(job.id, job);
        Ok(Expected::Job(tenant))
    }

    pub fn end_job(&mut self, id: JobId, end: JobState) -> Result<Expected, Refusal> {
        let wall_ms = self.wall_ms;
        let may_end =
            |job: &&mut Job| job.state == JobState::Running && !(job.task.is_final() && end == JobState::Cancelled);
        let job = self.jobs.get_mut(&id).filter(may_end).ok_or(Refusal::NotFound)?;
        (job.state, job.changed_ms) = (end, wall_ms);
        Ok(Expected::Job(job.tenant))
    }

    fn take_turn(&mut self, job: &Job, webhook: WebhookNo, event: Seq) -> bool {
        if !self.live(webhook) || ![BROADCAST, self.hooks[&webhook].tenant].contains(&job.tenant) {
            return false;
        }
        let death = self.dead.get(&(webhook, event)).copied();
        let only = match &job.task {
            Task::Redrive(_) | Task::Purge(_) => {
                if death.is_none_or(|death| death >= job.bound) {
                    return false;
                }
                Only::Failed
            }
            Task::Recover(recover) => recover.only,
            Task::Erase(_) => unreachable!("erasures have steps of their own"),
        };
        if death.is_some() {
            let Some(death) = (only != Only::Missing).then(|| self.exhume(webhook, event).ok()).flatten() else {
                return false;
            };
            if matches!(job.task, Task::Purge(_)) {
                let at_ms = self.wall_ms;
                self.note(Entry::Dropped { event, webhook, previous: death, at_ms });
            } else {
                self.revive(webhook, event, death);
            }
            return true;
        }
        let of_this_group = |entry: &Entry| (entry.event(), entry.webhook()) == (event, webhook);
        let is_told = self.journal[self.group_journal..].iter().any(of_this_group);
        let fact = &self.events[event as usize - 1];
        let wanted = match self.told(event, webhook) {
            None => !fact.matched.contains(&webhook),
            Some(Entry::Attempt(Attempt { verdict: Verdict::Delivered, .. })) => only == Only::All,
            Some(_) => false,
        };
        let is_unreadable = self.erased.contains(&event) || self.lost.contains(&event);
        if only == Only::Failed || is_told || !wanted || is_unreadable {
            return false;
        }
        let previous = self.newest(event, webhook).unwrap_or(0);
        self.revive(webhook, event, previous);
        true
    }

    /// What a job is about from its cursor on, in its order, each with its place.
    fn wanted(&self, job: &Job) -> Vec<(Cursor, (WebhookNo, Seq))> {
        let mut all = Vec::new();
        match &job.task {
            Task::Redrive(letters) | Task::Purge(letters) => {
                for ((webhook, event), death) in &self.dead {
                    let tenant = self.hooks[webhook].tenant;
                    let place = if letters.webhook.is_some() { (*webhook, *event) } else { (tenant, *death) };
                    if [BROADCAST, tenant].contains(&job.tenant)
                        && *death < job.bound
                        && self.is_among(letters, *webhook, *event, *death)
                    {
                        all.push((place, (*webhook, *event)));
                    }
                }
            }
            Task::Erase(_) => {}
            Task::Recover(recover) => {
                for event in 1..self.heads().0.min(job.bound) {
                    if self.is_recovered(recover, event) {
                        all.push(((recover.webhook, event), (recover.webhook, event)));
                    }
                }
            }
        }
        all.retain(|(place, (webhook, _))| *place >= job.cursor && self.live(*webhook));
        all.sort_unstable();
        all
    }

    fn is_among(&self, letters: &Letters, webhook: WebhookNo, event: Seq, death: u64) -> bool {
        let dead_ms = self.journal[death as usize - 1].died_ms().unwrap();
        letters.webhook.is_none_or(|wanted| wanted == webhook)
            && letters.kind.as_ref().is_none_or(|kind| *kind == self.events[event as usize - 1].draft.kind)
            && letters.since_ms.is_none_or(|since| dead_ms >= since)
            && letters.until_ms.is_none_or(|until| dead_ms <= until)
    }

    fn is_recovered(&self, recover: &Recover, event: Seq) -> bool {
        if self.lost.contains(&event) {
            return false;
        }
        let (webhook, fact) = (recover.webhook, &self.events[event as usize - 1]);
        let hook = &self.hooks[&webhook];
        let at = fact.accepted_ms;
        if recover.since_ms.is_some_and(|since| at < since) || recover.until_ms.is_some_and(|until| at > until) {
            return false;
        }
        if recover.only == Only::Failed {
            return self.dead.contains_key(&(webhook, event));
        }
        if ![BROADCAST, hook.tenant].contains(&fact.draft.tenant) || self.erased.contains(&event) {
            return false;
        }
        let Some(told) = self.told(event, webhook) else {
            let then = hook.versions.range(..=event).next_back();
            let was_inactive = then.is_some_and(|(_, (life, _))| *life == Life::Inactive);
            let filters = hook.filters_at.range(..=event).next_back().map_or(&[][..], |(_, filters)| filters);
            let wants = filters.iter().any(|f| f.matches(&fact.draft.kind, fact.draft.channel.as_deref()));
            let id = hook.id.to_string();
            let text = fact.draft.context.as_deref().map_or("", |text| std::str::from_utf8(text).unwrap());
            let is_about = fact.draft.kind.starts_with("webhookd.") && text.contains(&id);
            return was_inactive && wants && !fact.draft.test && !is_about && !fact.matched.contains(&webhook);
        };
        let delivered = matches!(told, Entry::Attempt(Attempt { verdict: Verdict::Delivered, .. }));
        match recover.only {
            Only::Missing => false,
            _ if self.dead.contains_key(&(webhook, event)) => true,
            only => only == Only::All && delivered && !fact.draft.test,
        }
    }
}

impl World {
    /// What is asked of jobs in one group.
    pub fn jobs(&mut self, ops: &mut Vec<Op>) {
        if self.chance.percent(12) {
            self.begin_job(ops);
        }
        let steps = |job: &&Job| job.state == JobState::Running && !job.task.is_final();
        let running = self.model.jobs.values().filter(steps);
        let running: Vec<Job> = running.cloned().collect();
        let Some(job) = self.chance.pick(&running).cloned() else { return };
        if self.chance.percent(60) {
            let step = self.look_for(&job);
            self.steps.push(step);
        }
        if self.chance.percent(60)
            && let Some(step) = self.chance.pick(&self.steps).cloned()
        {
            // Perhaps an old one, or one that was asked for before.
            ops.push(Op::JobStep(Box::new(step)));
        }
        if self.steps.len() > STEPS_KEPT {
            self.steps.remove(0);
        }
        if self.chance.percent(4) {
            ops.push(Op::EndJob { id: job.id, end: JobState::Cancelled });
        }
    }

    fn begin_job(&mut self, ops: &mut Vec<Op>) {
        let live: Vec<WebhookNo> = self.model.hooks.keys().copied().filter(|no| self.model.live(*no)).collect();
        let moment = |world: &mut Self| -> Option<Millis> {
            let at = world.chance.pick(&world.model.events)?.accepted_ms;
            world.chance.percent(30).then_some(at + world.chance.below(3))
        };
        let (since_ms, until_ms) = (moment(self), moment(self));
        let some = self.chance.pick(&live).copied();
        let task = if self.chance.percent(50) {
            let Some(webhook) = some else { return };
            let only = [Only::Failed, Only::Missing, Only::Unarrived, Only::All][self.chance.index(4)];
            Task::Recover(Recover { webhook, only, since_ms, until_ms })
        } else {
            let webhook = some.filter(|_| self.chance.percent(40));
            let kind = self.chance.percent(20).then(|| (*self.chance.pick(&KINDS).unwrap()).to_owned());
            let letters = Letters { webhook, kind, since_ms, until_ms };
            if self.chance.percent(70) { Task::Redrive(letters) } else { Task::Purge(letters) }
        };
        let tenants: Vec<TenantNo> =
            (0..=u32::try_from(self.model.tenants.len()).unwrap()).chain([OPERATOR_NO]).collect();
        let own = task.webhook().map(|webhook| self.model.hooks[&webhook].tenant);
        let tenant = own.or_else(|| self.chance.pick(&tenants).copied()).unwrap_or(BROADCAST);
        let total = self.chance.below(6);
        let draft = Box::new(Job::new(JobId(self.chance.bytes()), tenant, task, total));
        ops.push(Op::StartJob { draft, activate: self.chance.percent(50) });
    }

    /// The next step of a job, as the store finds it and as the model does.
    fn look_for(&mut self, job: &Job) -> JobStep {
        let max = 1 + self.chance.index(STEP_MAX);
        self.disk.set_quiet(true);
        let wanted = Wanted { tenant: job.tenant, task: &job.task, bound: job.bound };
        let sifted = self.shared.as_ref().unwrap().sift(wanted, job.cursor, max).unwrap();
        self.disk.set_quiet(false);
        let all = self.model.wanted(job);
        let items: Vec<_> = all.iter().take(max).map(|(_, item)| *item).collect();
        assert_eq!(sifted.items, items, "what {job:?} is about");
        let behind = all.get(items.len()).map(|(place, _)| *place);
        assert!(sifted.next.is_some() || behind.is_none(), "{job:?} ends before {behind:?}");
        assert!(sifted.next.zip(behind).is_none_or(|(next, behind)| next <= behind), "{job:?} passes {behind:?} by");
        JobStep { id: job.id, from: job.cursor, to: sifted.next, items: sifted.items }
    }
}

/// The jobs are those of the model, and those that run are known.
pub fn jobs(shared: &Shared, view: &View<'_>, model: &Model) -> Checked {
    let mut found = BTreeMap::new();
    view.scan_jobs(JobId([u8::MAX; 16]), |job| {
        found.insert(job.id, job);
        true
    })
    .map_err(|error| error.to_string())?;
    let running: Vec<JobId> = shared.registry().jobs().map(|job| job.id).collect();
    let wanted = model.jobs.values().filter(|job| job.state == JobState::Running).map(|job| job.id);
    found.values_mut().for_each(erase::without_counts);
    let mut foretold = model.jobs.clone();
    foretold.values_mut().for_each(erase::without_counts);
    if found != foretold || !running.iter().copied().eq(wanted) {
        return Err(format!("jobs: found {found:?}, {running:?} run, wanted {foretold:?}"));
    }
    Ok(())
}
