//! Erasing tenants: what should be true of it, and how a world deletes them and takes their erasures further. Which blocks the
//! logs are cut into the model does not know: it says of a record only whether it may still be there, and learns when it is not.

use std::collections::{BTreeMap, BTreeSet};

use webhookd::model::audit::{Actor, Audit};
use webhookd::model::event::Event;
use webhookd::model::id::{JobId, OPERATOR_NO, Seq, TenantId, WebhookNo};
use webhookd::model::job::{Erase, Job, JobFailure, JobState, Task};
use webhookd::model::key::Role;
use webhookd::model::pause::Scope;
use webhookd::store::op::{JobStep, Op, Refusal};
use webhookd::store::record::Entry;
use webhookd::store::sift::Wanted;

use crate::model::{Expected, Fact, Life, Model};
use crate::world::World;

/// Stages of an erasure, as far as they leave traces in the model.
const DEAD_LETTERS: u32 = 0;
const EVENTS: u32 = 1;
const KEPT_EVENTS: u32 = 2;
const RECORDS: u32 = 6;
/// In a step of one of the stages of events: an event that tells the operator of the tenant.
const TOLD: u32 = 1;

impl Model {
    pub fn erase_tenant(&mut self, id: &TenantId, job: JobId) -> Result<Expected, Refusal> {
        let Some(place) = self.tenants.iter().position(|name| name == id.as_str()) else {
            let is_its = |job: &&Job| matches!(&job.task, Task::Erase(erase) if erase.id == *id);
            let mut running = self.jobs.values().filter(|job| job.state == JobState::Running).filter(is_its);
            return running.next_back().map(|job| Expected::Job(job.tenant)).ok_or(Refusal::UnknownTenant);
        };
        let tenant = u32::try_from(place).unwrap() + 1;
        for no in self.webhooks_of(tenant) {
            if self.live(no) {
                self.op(&Op::DeleteWebhook { no })?;
            }
        }
        self.pauses.remove(&Scope::Tenant(tenant));
        self.jobs.retain(|_, job| job.tenant != tenant);
        let own = self.webhooks_of(tenant);
        let (left, dead) = std::mem::take(&mut self.dead).into_iter().partition(|((no, _), _)| own.contains(no));
        self.dead = dead;
        self.left.extend::<BTreeMap<_, _>>(left);
        self.gone.insert(tenant);
        self.tenants[place] = String::new();
        let named = format!("\"tenant\":\"{id}\"");
        for (seq, fact) in (1..).zip(&self.events) {
            let context = fact.draft.context.as_deref().unwrap_or_default();
            let tells = fact.draft.tenant == OPERATOR_NO && std::str::from_utf8(context).unwrap().contains(&named);
            if fact.draft.tenant == tenant || (tells && !self.doomed.contains_key(&seq)) {
                self.doomed.insert(seq, job);
            }
        }
        let (bound, journal_below) = self.heads();
        let erase = Erase { tenant, id: id.clone(), journal_below, audit_below: self.next_audit + 1 };
        let mut row = Job::new(job, tenant, Task::Erase(erase), 0);
        (row.bound, row.created_ms, row.changed_ms) = (bound, self.wall_ms, self.wall_ms);
        self.jobs.insert(job, row);
        Ok(Expected::Job(tenant))
    }

    pub fn erase_step(&mut self, step: &JobStep) -> Result<Expected, Refusal> {
        let is_next = |job: &&Job| job.state == JobState::Running && job.cursor == step.from && job.task.is_final();
        let mut job = self.jobs.get(&step.id).filter(is_next).cloned().ok_or(Refusal::NotFound)?;
        let Task::Erase(erase) = job.task.clone() else { return Err(Refusal::NotFound) };
        for (kind, place) in &step.items {
            match (step.from.0, *kind) {
                (DEAD_LETTERS, webhook) => {
                    self.left.remove(&(webhook, *place));
                }
                (EVENTS | KEPT_EVENTS, TOLD) => self.withdraw_told(*place),
                (RECORDS, _) => {
                    if let Some(record) = self.audit.get_mut(place)
                        && record.tenant.as_deref() == Some(erase.id.as_str())
                    {
                        (record.principal, record.justification) = (None, None);
                        record.remote = record.remote.filter(|_| !is_tenants(record));
                    }
                }
                _ => {}
            }
        }
        match step.to {
            Some(to) => job.cursor = to,
            None => job.state = JobState::Done,
        }
        job.changed_ms = self.wall_ms;
        let tenant = job.tenant;
        self.jobs.insert(job.id, job);
        Ok(Expected::Job(tenant))
    }

    fn withdraw_told(&mut self, event: Seq) {
        if self.erased.contains(&event) || self.lost.contains(&event) {
            return;
        }
        let on_record = self.journal.iter().filter(|entry| entry.event() == event).map(Entry::webhook);
        let matched = self.events[event as usize - 1].matched.iter().copied();
        let webhooks: BTreeSet<WebhookNo> = on_record.chain(matched).collect();
        for webhook in webhooks {
            let _ = self.cancel(event, &[webhook]);
            let _ = self.op(&Op::DropDead { webhook, event });
        }
    }

    /// What the tenant was called that an op deletes.
    pub fn deleted_name(&self, op: &Op) -> Option<String> {
        if let Op::EraseTenant { id, .. } = op { Some(id.to_string()) } else { None }
    }

    fn webhooks_of(&self, tenant: u32) -> Vec<WebhookNo> {
        self.hooks.iter().filter(|(_, hook)| hook.tenant == tenant).map(|(no, _)| *no).collect()
    }

    /// Whether an erasure has not come to its end.
    fn is_running(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| job.state == JobState::Running)
    }
}

pub fn is_tenants(audit: &Audit) -> bool {
    matches!(audit.actor, Actor::Key { role: Role::Tenant, .. })
}

/// Whether an event is what is left of one that is to be erased.
pub fn is_erased(event: &Event, fact: &Fact, model: &Model) -> bool {
    let draft = &fact.draft;
    let same = (event.tenant, event.accepted_ms, event.test) == (draft.tenant, fact.accepted_ms, draft.test);
    model.doomed.contains_key(&event.seq)
        && event.is_erased()
        && *event == event.erased()
        && same
        && event.matched == fact.matched
        && fact.id.is_none_or(|id| id == event.id)
}

/// Whether a record is what is left of an attempt for a tenant that is gone, or for a webhook that nothing was kept of.
pub fn is_blotted(found: &Entry, wanted: &Entry, model: &Model) -> bool {
    let Entry::Attempt(attempt) = wanted else { return false };
    let is_gone =
        model.gone.contains(&model.hooks[&attempt.webhook].tenant) || model.removed.contains(&attempt.webhook);
    is_gone && *found == Entry::Attempt(attempt.erased())
}

/// Takes out of a job what follows from how the logs are cut.
pub fn without_counts(job: &mut Job) {
    if let Task::Erase(erase) = &mut job.task {
        erase.journal_below = 0;
        (job.total, job.done) = (0, 0);
    }
}

impl World {
    /// Now and then a tenant is deleted, or asked for again.
    pub fn delete_tenant(&mut self, ops: &mut Vec<Op>) {
        if !self.chance.percent(3) {
            return;
        }
        let name = format!("tenant-{}", self.chance.below(4));
        let place = self.model.tenants.iter().position(|known| *known == name);
        let tenant = place.map(|place| u32::try_from(place).unwrap() + 1);
        // Whoever published for it does not ask again.
        for kept in [&mut self.keyed, &mut self.unknown] {
            kept.retain(|accept| !accept.drafts.iter().any(|draft| Some(draft.tenant) == tenant));
        }
        ops.push(Op::EraseTenant { id: TenantId::parse(&name).unwrap(), job: JobId(self.chance.bytes()) });
    }

    /// Takes an erasure further; behind all else, so that nobody meets what the model does not know yet.
    pub fn erase(&mut self, ops: &mut Vec<Op>) {
        let running = self.model.jobs.values().filter(|job| job.task.is_final() && job.state == JobState::Running);
        let running: Vec<Job> = running.cloned().collect();
        let Some(job) = self.chance.pick(&running).cloned() else { return };
        if self.chance.percent(70) {
            self.disk.set_quiet(true);
            let wanted = Wanted { tenant: job.tenant, task: &job.task, bound: job.bound };
            let max = 1 + self.chance.index(20);
            let sifted = self.shared.as_ref().unwrap().sift(wanted, job.cursor, max).unwrap();
            self.disk.set_quiet(false);
            self.erase_step = Some(JobStep { id: job.id, from: job.cursor, to: sifted.next, items: sifted.items });
        }
        if self.chance.percent(90)
            && let Some(step) = self.erase_step.clone()
        {
            // Perhaps one that was made before.
            ops.push(Op::EraseStep(Box::new(step)));
        }
        if self.chance.percent(5) {
            ops.push(Op::EndJob { id: job.id, end: JobState::Cancelled });
        }
    }

    /// Learns what is erased, and that nothing is left that an erasure which has ended was about.
    pub fn see_erased(&mut self) {
        let Some(shared) = self.shared.clone() else { return };
        if self.model.doomed.is_empty() {
            // What is erased all the same is another event to the checker.
            self.model.erased.clear();
            return;
        }
        self.disk.set_quiet(true);
        let (mut erased, mut left) = (BTreeSet::new(), None);
        let view = shared.view().unwrap();
        let model = &self.model;
        let is_due = |seq: &Seq| model.doomed.get(seq).is_some_and(|job| !model.is_running(*job));
        let mut see = |event: Event| {
            if event.is_erased() {
                erased.insert(event.seq);
            } else if is_due(&event.seq) {
                left = Some(event.seq);
            }
        };
        let kept = 1..view.floors().unwrap().0;
        kept.filter_map(|seq| view.event(seq).unwrap()).for_each(&mut see);
        view.scan_events(1, |event| {
            see(event);
            true
        })
        .unwrap();
        assert_eq!(left, None, "an event that should be erased");
        drop(view);
        self.disk.set_quiet(false);
        self.model.erased = erased;
    }

    /// Takes all erasures to their end.
    fn finish(&mut self) {
        for _ in 0..2_000 {
            let running = self.model.jobs.values().find(|job| job.task.is_final() && job.state == JobState::Running);
            let Some(job) = running.cloned() else { return };
            let wanted = Wanted { tenant: job.tenant, task: &job.task, bound: job.bound };
            let sifted = self.shared.as_ref().unwrap().sift(wanted, job.cursor, 64).unwrap();
            let step = JobStep { id: job.id, from: job.cursor, to: sifted.next, items: sifted.items };
            self.write(vec![Op::EraseStep(Box::new(step))]).unwrap();
        }
        panic!("an erasure does not end");
    }
}

#[test]
fn what_a_deleted_tenant_had_is_erased_and_nothing_else_is_touched() {
    let (mut erased, mut kept) = (0, 0);
    crate::chance::each_seed("erase", 20, |seed| {
        let mut world = World::new(seed.wrapping_add(77_000_000), false);
        (0..40).for_each(|_| world.step().unwrap());
        let names = world.model.tenants.clone();
        let name = names.iter().find(|name| !name.is_empty()).unwrap();
        let job = JobId(world.chance.bytes());
        world.write(vec![Op::EraseTenant { id: TenantId::parse(name).unwrap(), job }]).unwrap();
        world.finish();
        // The name is free again, and what it had does not come back.
        world.write(vec![crate::drafts::put_tenant(name)]).unwrap();
        world.check();
        world.check_files();
        world.disk.kill();
        world.open(false);
        (0..20).for_each(|_| world.step().unwrap());
        world.check();
        let gone = |webhook: WebhookNo| world.model.gone.contains(&world.model.hooks[&webhook].tenant);
        let rows = world.model.hooks.iter().filter(|(no, _)| gone(**no));
        let view = world.shared.as_ref().unwrap().view().unwrap();
        for (no, hook) in rows.filter(|(_, hook)| hook.life == Life::Deleted) {
            let running =
                world.model.jobs.values().any(|job| job.tenant == hook.tenant && job.state == JobState::Running);
            assert!(running || view.webhook_newest(*no).unwrap().is_none(), "webhook {no} is kept");
        }
        erased += world.model.erased.len();
        kept += world.model.events.len() - world.model.erased.len();
        let failed = |job: &Job| job.state == JobState::Failed(JobFailure::Damaged);
        assert!(!world.model.jobs.values().any(failed));
    });
    assert!(erased > 50 && kept > 50, "{erased} erased, {kept} kept");
}
