//! What should be true of the store: the same ops on plain collections. Owns the meaning of every op, nothing of how.
//!
//! `lines` has the part about ordering keys, cancelling and pauses, `jobs` that about jobs, `hooks` that about what owners change, `guards` that about marks and the audit log. Journal records are numbered without gaps, so the model foretells each one exactly; the store must equal it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use webhookd::clock::Millis;
use webhookd::model::attempt::{DeadReason, Verdict};
use webhookd::model::audit::Audit;
use webhookd::model::event::OrderKey;
use webhookd::model::id::{BROADCAST, EventId, JobId, JournalSeq, OPERATOR_NO, Seq, TenantNo, WebhookId, WebhookNo};
use webhookd::model::job::Job;
use webhookd::model::pause::{Pause, Scope};
use webhookd::model::webhook::{Dialect, Filter};
use webhookd::store::op::{Accept, Draft, Mark, Op, Outcome, Refusal, WebhookPatch};
use webhookd::store::record::{Entry, QueueRow, Remembered};

use crate::hooks::Settings;
use crate::news::Health;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Active,
    Inactive,
    Deleted,
}

#[derive(Clone, Debug)]
pub struct Hook {
    pub tenant: TenantNo,
    pub dialect: Dialect,
    pub settings: Settings,
    pub life: Life,
    pub url: String,
    /// (from this event on, how it lived, url)
    pub versions: BTreeMap<Seq, (Life, String)>,
    pub id: WebhookId,
    /// Filters, from this event on.
    pub filters_at: BTreeMap<Seq, Vec<Filter>>,
    pub health: Health,
}

#[derive(Clone, Debug)]
pub struct Fact {
    pub draft: Draft,
    pub accepted_ms: Millis,
    pub matched: Vec<WebhookNo>,
    /// Known once the store has told it.
    pub id: Option<EventId>,
}

/// What the store should answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Accepted {
        events: Vec<Seq>,
        replayed: bool,
    },
    Webhook(WebhookNo),
    Tenant(TenantNo),
    Count(usize),
    /// How many dead letters it has removed.
    Retained(u64),
    /// Whose job.
    Job(TenantNo),
    Nothing,
}

pub type QueuePlace = (WebhookNo, bool, Millis, Seq);

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub tenants: Vec<String>,
    pub hooks: BTreeMap<WebhookNo, Hook>,
    /// Event 1 is at index 0; so with the journal.
    pub events: Vec<Fact>,
    pub journal: Vec<Entry>,
    pub fresh: BTreeSet<(Seq, WebhookNo)>,
    pub queue: BTreeMap<QueuePlace, QueueRow>,
    /// Deliveries in line for their key: (webhook, line, event); with the row that is kept for one that is held.
    pub lines: BTreeMap<(WebhookNo, OrderKey, Seq), Option<QueueRow>>,
    pub pauses: BTreeMap<Scope, Pause>,
    pub dead: BTreeMap<(WebhookNo, Seq), JournalSeq>,
    /// Dead letters that retention has removed: their deliveries stay dead.
    pub expired: BTreeSet<(Seq, WebhookNo)>,
    /// Up to where retention was asked to remove: (event, journal record). How far it went the store tells.
    pub asked: (Seq, JournalSeq),
    /// The oldest event that is left in the log, and which of those before it are not kept either.
    pub floor: Seq,
    pub lost: BTreeSet<Seq>,
    /// Webhooks that retention was asked to know nothing of any more.
    pub removed: BTreeSet<WebhookNo>,
    pub remembered: HashMap<[u8; 16], Remembered>,
    /// Marks of accepted signatures, and whether they are still kept.
    pub marks: Vec<(Mark, bool)>,
    /// What is still kept, with its numbers.
    pub audit: BTreeMap<u64, Audit>,
    pub next_audit: u64,
    /// Those that run, and those that have ended and are kept.
    pub jobs: BTreeMap<JobId, Job>,
    /// Tenants that were deleted.
    pub gone: BTreeSet<TenantNo>,
    /// Dead letters that they have left.
    pub left: BTreeMap<(WebhookNo, Seq), JournalSeq>,
    /// Events that are erased by a job, and those of them that were found to be erased.
    pub doomed: BTreeMap<Seq, JobId>,
    pub erased: BTreeSet<Seq>,
    /// Deliveries whose chain of records has two ends, because something was decided, or they were asked for again with the same row, while they were in flight.
    pub forked: BTreeSet<(Seq, WebhookNo)>,
    retention_ms: Millis,
    pub group_journal: usize,
    pub group_events: usize,
    pub now: Millis,
    pub wall_ms: Millis,
    pub aged_ms: Millis,
}

impl Model {
    pub fn new(retention_ms: Millis) -> Self {
        Self { retention_ms, ..Self::default() }
    }

    pub fn heads(&self) -> (Seq, JournalSeq) {
        (self.events.len() as Seq + 1, self.journal.len() as JournalSeq + 1)
    }

    pub fn live(&self, webhook: WebhookNo) -> bool {
        self.hooks.get(&webhook).is_some_and(|hook| hook.life != Life::Deleted)
    }

    /// A group of ops at one moment (schedule, wall, age); says what the store should answer.
    pub fn apply(&mut self, ops: &[Op], times: [Millis; 3]) -> Vec<Result<Expected, Refusal>> {
        (self.group_journal, self.group_events) = (self.journal.len(), self.events.len());
        [self.now, self.wall_ms, self.aged_ms] = times;
        ops.iter().map(|op| self.op(op)).collect()
    }

    pub fn op(&mut self, op: &Op) -> Result<Expected, Refusal> {
        match op {
            Op::Accept(accept) => self.accept(accept),
            Op::Outcome(outcome) => {
                self.outcome(outcome);
                Ok(Expected::Nothing)
            }
            Op::Spill { webhook, events, due_ms } => Ok(self.spill(*webhook, events, *due_ms)),
            Op::Forget { webhook, events } => {
                self.fresh.retain(|(event, of)| of != webhook || !events.contains(event));
                Ok(Expected::Nothing)
            }
            Op::Expire { webhook, before_ms, max } => Ok(self.expire(*webhook, *before_ms, *max)),
            Op::CreateWebhook { draft, .. } => self.create(draft),
            Op::RegisterSole { draft, .. } => {
                let sole = |hook: &Hook| {
                    (hook.tenant, hook.dialect) == (draft.tenant, draft.dialect) && hook.life != Life::Deleted
                };
                match self.hooks.iter().find(|(_, hook)| sole(hook)).map(|(no, hook)| (*no, hook)) {
                    None => self.create(draft),
                    Some((no, hook)) if hook.life == Life::Active && hook.url == draft.url => Ok(Expected::Webhook(no)),
                    Some((no, _)) => {
                        let (url, active) = (Some(draft.url.clone()), Some(true));
                        self.update(no, &WebhookPatch { url, active, ..WebhookPatch::default() })
                    }
                }
            }
            Op::UpdateWebhook { no, patch } => self.update(*no, patch),
            Op::DeleteWebhook { no } => {
                if !self.live(*no) {
                    return Err(Refusal::NotFound);
                }
                self.set_life(*no, Life::Deleted);
                self.queue.retain(|place, _| place.0 != *no);
                self.lines.retain(|place, _| place.0 != *no);
                self.pauses.retain(|scope, _| *scope != Scope::Webhook(*no) && *scope != Scope::Own(*no));
                Ok(Expected::Nothing)
            }
            Op::PutTenant { id, .. } => {
                if !self.tenants.iter().any(|known| known == id.as_str()) {
                    self.tenants.push(id.as_str().to_owned());
                }
                let place = self.tenants.iter().position(|known| known == id.as_str()).unwrap();
                Ok(Expected::Tenant(u32::try_from(place).unwrap() + 1))
            }
            Op::Redrive { webhook, event } => {
                let death = self.exhume(*webhook, *event)?;
                self.revive(*webhook, *event, death);
                Ok(Expected::Count(1))
            }
            Op::DropDead { webhook, event } => {
                let (previous, at_ms) = (self.exhume(*webhook, *event)?, self.wall_ms);
                self.note(Entry::Dropped { event: *event, webhook: *webhook, previous, at_ms });
                Ok(Expected::Count(1))
            }
            Op::Resend { event, webhooks } => self.resend(*event, webhooks),
            Op::Guarded { guard, op } => self.guarded(guard, op),
            Op::Tidy(tidy) => Ok(self.tidy(*tidy)),
            Op::Retain(retain) => Ok(self.retain(retain)),
            Op::Tell => Ok(self.tell()),
            Op::Cancel { event, webhooks } => self.cancel(*event, webhooks),
            Op::Pause { scope, paused } => self.pause(scope, *paused),
            Op::StartJob { draft, activate } => self.start_job(draft, *activate),
            Op::JobStep(step) => self.job_step(step),
            Op::EndJob { id, end } => self.end_job(*id, *end),
            Op::EraseTenant { id, job } => self.erase_tenant(id, *job),
            Op::EraseStep(step) => self.erase_step(step),
            Op::CreateKey(_) | Op::RevokeKey(_) | Op::BackedUp { .. } | Op::Ping => Ok(Expected::Nothing),
        }
    }

    fn accept(&mut self, accept: &Accept) -> Result<Expected, Refusal> {
        let key = accept.idempotency;
        if let Some(key) = key
            && let Some(before) = self.remembered.get(&key.hash).filter(|before| before.first >= self.floor)
            && self.now.saturating_sub(before.at_ms) < self.retention_ms
        {
            if before.body_hash != key.body_hash {
                return Err(Refusal::IdempotencyConflict);
            }
            let events = (before.first..before.first + u64::from(before.count)).collect();
            return Ok(Expected::Accepted { events, replayed: true });
        }
        if accept.drafts.iter().any(|draft| !self.knows(draft.tenant)) {
            return Err(Refusal::UnknownTenant);
        }
        let queues = |draft: &Draft| draft.tenant != BROADCAST && !draft.test && !self.matched(draft).is_empty();
        let full = |draft: &Draft| accept.pending_max.is_some_and(|max| self.pending(draft.tenant) >= max);
        if accept.drafts.iter().any(|draft| queues(draft) && full(draft)) {
            return Err(Refusal::BacklogFull);
        }
        let first = self.heads().0;
        for draft in &accept.drafts {
            let (seq, matched) = (self.heads().0, self.matched(draft));
            self.events.push(Fact { draft: draft.clone(), accepted_ms: self.now, matched: matched.clone(), id: None });
            let row = QueueRow { since_ms: self.now, ..QueueRow::default() };
            for no in matched {
                if self.get_in_line(no, seq, row) {
                    self.fresh.insert((seq, no));
                }
            }
        }
        let events: Vec<Seq> = (first..self.heads().0).collect();
        if let Some(key) = key
            && !events.is_empty()
        {
            let (count, at_ms) = (u32::try_from(events.len()).unwrap(), self.now);
            self.remembered.insert(key.hash, Remembered { body_hash: key.body_hash, first, count, at_ms });
        }
        Ok(Expected::Accepted { events, replayed: false })
    }

    pub fn knows(&self, tenant: TenantNo) -> bool {
        tenant == OPERATOR_NO || (tenant as usize <= self.tenants.len() && !self.gone.contains(&tenant))
    }

    /// The webhooks that get an event.
    pub fn matched(&self, draft: &Draft) -> Vec<WebhookNo> {
        let takes = |hook: &Hook| {
            !draft.test
                && hook.life == Life::Active
                && (draft.tenant == BROADCAST || hook.tenant == draft.tenant)
                && hook.settings.filters.iter().any(|filter| filter.matches(&draft.kind, draft.channel.as_deref()))
        };
        self.hooks.iter().filter(|(_, hook)| takes(hook)).map(|(no, _)| *no).collect()
    }

    /// Deliveries pending for a tenant's webhooks.
    pub fn pending(&self, tenant: TenantNo) -> u64 {
        let own = |webhook: WebhookNo| self.live(webhook) && self.hooks[&webhook].tenant == tenant;
        let fresh = self.fresh.iter().filter(|(_, webhook)| own(*webhook)).count();
        let held = self.lines.iter().filter(|((webhook, ..), row)| row.is_some() && own(*webhook)).count();
        (fresh + held + self.queue.keys().filter(|place| own(place.0)).count()) as u64
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let mut attempt = outcome.attempt.clone();
        let (webhook, event, verdict) = (attempt.webhook, attempt.event, attempt.verdict);
        if outcome.test {
            self.note(Entry::Attempt(attempt));
            return;
        }
        let pending = match outcome.row {
            Some(key) => self.queue.remove(&(webhook, key.started, key.due_ms, event)).is_some(),
            None => self.fresh.remove(&(event, webhook)),
        };
        let (live, newest) = (self.live(webhook), self.newest(event, webhook).unwrap_or(0));
        // Something was decided about the delivery while it was in flight: the attempt is on record, and a success counts.
        let late = live && !pending;
        if late {
            attempt.previous = newest;
            if verdict == Verdict::Delivered {
                self.dead.remove(&(webhook, event));
                self.withdraw(webhook, event);
            } else {
                attempt.verdict = Verdict::Single;
            }
        } else if attempt.previous != newest {
            self.forked.insert((event, webhook));
        }
        let (at_ms, tries, failed) = (attempt.at_ms, attempt.number.get(), attempt.class.is_some());
        let number = self.note(Entry::Attempt(attempt));
        match verdict {
            Verdict::RetryAt(due) if live && pending => {
                let (budget_from, since_ms) = (outcome.budget_from, outcome.since_ms);
                let row = QueueRow { attempts: tries, budget_from, since_ms, previous: number };
                self.queue.insert((webhook, true, due, event), row);
            }
            Verdict::Dead(reason) if live && pending => {
                self.dead.insert((webhook, event), number);
                self.note_death(webhook, event, reason);
            }
            _ => {}
        }
        if !late && (!live || !matches!(verdict, Verdict::RetryAt(_))) {
            self.leave_line(webhook, event);
        }
        if let Some(hook) = self.hooks.get_mut(&webhook) {
            let before = hook.health.clone();
            let health = &mut hook.health;
            if verdict == Verdict::Delivered {
                health.forget_failures();
                health.last_success_ms = Some(at_ms);
            }
            if failed {
                health.failures += 1;
                health.failing_since_ms = health.failing_since_ms.or(Some(at_ms));
                health.failing_from_ms = health.failing_from_ms.or(Some(self.aged_ms));
            }
            self.report(outcome, &before);
        }
    }

    fn spill(&mut self, webhook: WebhookNo, events: &[Seq], due_ms: Millis) -> Expected {
        for event in events {
            if self.fresh.remove(&(*event, webhook)) && self.live(webhook) {
                let number = self.note(Entry::Queued { event: *event, webhook, previous: 0, due_ms });
                let row = QueueRow { attempts: 0, budget_from: 0, since_ms: self.now, previous: number };
                self.queue.insert((webhook, false, due_ms, *event), row);
            }
        }
        Expected::Count(events.len())
    }

    fn expire(&mut self, webhook: WebhookNo, before_ms: Millis, max: usize) -> Expected {
        let mut count = 0;
        loop {
            let from = (webhook, false, 0, 0)..=(webhook, false, before_ms, Seq::MAX);
            let old: Vec<(QueuePlace, QueueRow)> =
                self.queue.range(from).take(max - count).map(|(place, row)| (*place, *row)).collect();
            for (place, row) in &old {
                self.queue.remove(place);
                let (event, at_ms, reason) = (place.3, self.wall_ms, DeadReason::CircuitExpired);
                self.follow(event, webhook, row.previous);
                let number = self.note(Entry::Died { event, webhook, previous: row.previous, at_ms, reason });
                if self.live(webhook) {
                    self.dead.insert((webhook, event), number);
                    self.note_death(webhook, event, reason);
                }
                self.leave_line(webhook, event);
            }
            count += old.len();
            if old.is_empty() {
                if self.hooks.contains_key(&webhook) {
                    self.tell_deaths(webhook);
                }
                return Expected::Count(count);
            }
        }
    }

    /// Takes a dead letter away; one that died in this very group is not there yet.
    pub fn exhume(&mut self, webhook: WebhookNo, event: Seq) -> Result<JournalSeq, Refusal> {
        let death = self.dead.get(&(webhook, event)).copied().filter(|_| self.live(webhook));
        let death = death.filter(|death| *death <= self.group_journal as JournalSeq).ok_or(Refusal::NotFound)?;
        self.dead.remove(&(webhook, event));
        if self.newest(event, webhook) != Some(death) {
            // An attempt ended after its death.
            self.forked.insert((event, webhook));
        }
        Ok(death)
    }

    pub fn revive(&mut self, webhook: WebhookNo, event: Seq, previous: JournalSeq) {
        let attempts = self.attempts_made(previous);
        let now = self.now;
        let number = self.note(Entry::Revived { event, webhook, previous, at_ms: now, attempts });
        let row = QueueRow { attempts, budget_from: attempts, since_ms: now, previous: number };
        if self.get_in_line(webhook, event, row) {
            self.queue.insert((webhook, false, now, event), row);
        }
    }

    fn attempts_made(&self, newest: JournalSeq) -> u32 {
        let mut number = newest;
        while let Some(entry) = number.checked_sub(1).and_then(|i| self.journal.get(i as usize)) {
            match entry {
                Entry::Attempt(attempt) => return attempt.number.get(),
                Entry::Revived { attempts, .. } => return *attempts,
                other => number = other.previous(),
            }
        }
        0
    }

    fn resend(&mut self, event: Seq, webhooks: &[WebhookNo]) -> Result<Expected, Refusal> {
        if self.erased.contains(&event) {
            return Err(Refusal::NotFound);
        }
        let mut plan = Vec::new();
        for webhook in webhooks {
            if !self.live(*webhook) {
                return Err(Refusal::NotFound);
            }
            let of_it = |entry: &Entry| entry.event() == event && entry.webhook() == *webhook;
            let newest = self.newest(event, *webhook);
            let pending = match self.told(event, *webhook) {
                Some(entry) => entry.queued().is_some(),
                None => self.events[event as usize - 1].matched.contains(webhook),
            };
            if pending || self.journal[self.group_journal..].iter().any(of_it) {
                return Err(Refusal::Pending);
            }
            plan.push((*webhook, newest.unwrap_or(0)));
        }
        for (webhook, previous) in &plan {
            self.dead.remove(&(*webhook, event));
            self.revive(*webhook, event, *previous);
        }
        Ok(Expected::Count(plan.len()))
    }

    /// The newest journal record of a delivery.
    pub fn newest(&self, event: Seq, webhook: WebhookNo) -> Option<JournalSeq> {
        let of_it = |entry: &Entry| entry.event() == event && entry.webhook() == webhook;
        self.journal.iter().rposition(of_it).map(|place| place as JournalSeq + 1)
    }

    pub(crate) fn note(&mut self, entry: Entry) -> JournalSeq {
        self.journal.push(entry);
        self.journal.len() as JournalSeq
    }

    /// What a new process does not know any more: deliveries to webhooks that are gone.
    pub fn restart(&mut self) {
        let hooks = &self.hooks;
        self.fresh.retain(|(_, webhook)| hooks.get(webhook).is_some_and(|hook| hook.life != Life::Deleted));
    }
}
