//! The engine's ops on deliveries: outcome, spill, expire, redrive, drop, resend.

use redb::ReadableTable;

use super::StoreError;
use super::engine::{Engine, Group};
use super::op::{Done, Outcome, Refusal, RowKey};
use super::ordering;
use super::queue::{self, Queued};
use super::record::{Entry, QueueRow, Standing};
use super::schema::{DEAD, DEAD_OF, ORDERING};
use crate::clock::Millis;
use crate::model::attempt::{DeadReason, Verdict};
use crate::model::event::OrderKey;
use crate::model::id::{JournalSeq, Seq, TenantNo, WebhookNo};

type Decided = Result<Result<Done, Refusal>, StoreError>;

impl Engine {
    /// Records an attempt and what follows from it: a row at its next time, a dead letter, or nothing more.
    pub(super) fn outcome(&mut self, group: &mut Group<'_>, outcome: &Outcome) -> Decided {
        let attempt = &outcome.attempt;
        let (webhook, event) = (attempt.webhook, attempt.event);
        if outcome.test {
            group.note(&Entry::Attempt(attempt.clone()));
            return Ok(Ok(Done::Nothing));
        }
        let mut standing = self.standings.get(webhook).unwrap_or_default();
        let before = standing;
        let pending = match outcome.row {
            Some(key) => queue::remove(group.queue()?, &mut standing, webhook, event, key)?,
            None => self.fresh.resolve(event, webhook),
        };
        let live = self.registry.webhook(webhook).is_some();
        if live && !pending {
            self.late_outcome(group, outcome, standing)?;
            return Ok(Ok(Done::Nothing));
        }
        let number = group.note(&Entry::Attempt(attempt.clone()));
        let ended = !live || !matches!(attempt.verdict, Verdict::RetryAt(_));
        match attempt.verdict {
            Verdict::Delivered => {}
            Verdict::RetryAt(due_ms) if live => {
                let row = QueueRow {
                    attempts: attempt.number.get(),
                    budget_from: outcome.budget_from,
                    since_ms: outcome.since_ms,
                    previous: number,
                };
                let key = RowKey { started: true, due_ms };
                queue::insert(group.queue()?, &mut standing, webhook, event, key, &row)?;
                group.effects.queued.push((webhook, key));
            }
            Verdict::RetryAt(_) | Verdict::Single => {}
            Verdict::Dead(reason) => {
                self.bury(group, &mut standing, webhook, event, number, reason)?;
            }
        }
        if let Some(order) = outcome.order.filter(|_| ended) {
            self.leave_line(group, &mut standing, webhook, order, event)?;
        }
        self.conclude(group, outcome, before, standing)?;
        Ok(Ok(Done::Nothing))
    }

    /// Records an attempt whose delivery was decided about while it was in flight: it was cancelled, or it expired. What was
    /// decided holds and nothing follows from a failure, but a success counts: it is delivered, whatever it was.
    fn late_outcome(
        &mut self,
        group: &mut Group<'_>,
        outcome: &Outcome,
        mut standing: Standing,
    ) -> Result<(), StoreError> {
        let before = standing;
        let mut attempt = outcome.attempt.clone();
        let (webhook, event) = (attempt.webhook, attempt.event);
        // An outcome must come through, whatever does not read.
        let told = self.told(group, event);
        let newest = match told.and_then(|told| self.newest(group, event, webhook, &told)) {
            Err(error) if error.is_damage() => None,
            newest => newest?,
        };
        attempt.previous = newest.as_ref().map_or(attempt.previous, |newest| newest.number);
        if attempt.verdict == Verdict::Delivered {
            let death = group.txn().open_table(DEAD_OF)?.remove((webhook, event))?.map(|number| number.value());
            if let Some(death) = death
                && let Some(live) = self.registry.webhook(webhook)
            {
                group.txn().open_table(DEAD)?.remove((live.tenant, death))?;
                standing.dead = standing.dead.saturating_sub(1);
            }
            // Where its event is gone a start could not tell it from the success of a test: it is written down now.
            group.dirty.extend(newest.is_none().then_some(webhook));
            // Asked for again meanwhile: it need not go once more.
            let entry = newest.as_ref().and_then(|newest| newest.entry.as_ref());
            self.withdraw(group, &mut standing, webhook, event, outcome.order, (entry, false))?;
        } else {
            attempt.verdict = Verdict::Single;
        }
        group.note(&Entry::Attempt(attempt));
        self.conclude(group, outcome, before, standing)
    }

    /// What every attempt means to its webhook.
    fn conclude(
        &mut self,
        group: &mut Group<'_>,
        outcome: &Outcome,
        before: Standing,
        mut standing: Standing,
    ) -> Result<(), StoreError> {
        let (attempt, webhook) = (&outcome.attempt, outcome.attempt.webhook);
        if attempt.verdict == Verdict::Delivered {
            standing.forget_failures();
            standing.last_success_ms = Some(attempt.at_ms);
            self.succeeded.insert(webhook);
            group.successes.push((webhook, attempt.at_ms));
        }
        if attempt.class.is_some() {
            standing.failures = standing.failures.saturating_add(1);
            standing.failing_since_ms = standing.failing_since_ms.or(Some(attempt.at_ms));
            standing.failing_from_ms = standing.failing_from_ms.or(Some(group.aged_ms));
        }
        self.report(group, outcome, before, &mut standing)?;
        // A success alone is not worth a row: it is written beside the next change, or with the next flush.
        self.standings.insert(webhook, standing);
        if (Standing { last_success_ms: before.last_success_ms, ..standing }) != before {
            group.dirty.insert(webhook);
        }
        group.effects.settled.push((webhook, attempt.event));
        Ok(())
    }

    /// Puts a delivery among the dead letters of its webhook's tenant, unless the webhook is gone.
    fn bury(
        &mut self,
        group: &mut Group<'_>,
        standing: &mut Standing,
        webhook: WebhookNo,
        event: Seq,
        number: JournalSeq,
        reason: DeadReason,
    ) -> Result<(), StoreError> {
        let Some(tenant) = self.registry.webhook(webhook).map(|webhook| webhook.tenant) else { return Ok(()) };
        group.txn().open_table(DEAD)?.insert((tenant, number), (webhook, event))?;
        group.txn().open_table(DEAD_OF)?.insert((webhook, event), number)?;
        group.effects.died.push((webhook, event, reason));
        standing.dead += 1;
        self.note_death(group, standing, event, reason)
    }

    pub(super) fn spill(
        &mut self,
        group: &mut Group<'_>,
        webhook: WebhookNo,
        events: &[Seq],
        due_ms: Millis,
    ) -> Decided {
        let live = self.registry.webhook(webhook).is_some();
        let mut standing = self.standings.get(webhook).unwrap_or_default();
        let key = RowKey { started: false, due_ms };
        let mut queued = false;
        for event in events {
            // What was cancelled meanwhile gets no row.
            if !self.fresh.resolve(*event, webhook) || !live {
                continue;
            }
            queued = true;
            let number = group.note(&Entry::Queued { event: *event, webhook, previous: 0, due_ms });
            let row = QueueRow { attempts: 0, budget_from: 0, since_ms: group.now, previous: number };
            queue::insert(group.queue()?, &mut standing, webhook, *event, key, &row)?;
        }
        if queued {
            group.effects.queued.push((webhook, key));
            self.standings.insert(webhook, standing);
            group.dirty.insert(webhook);
        }
        Ok(Ok(Done::Count(events.len())))
    }

    pub(super) fn expire(
        &mut self,
        group: &mut Group<'_>,
        webhook: WebhookNo,
        before_ms: Millis,
        max: usize,
    ) -> Decided {
        if self.registry.webhook(webhook).is_none() {
            // Its rows are being removed: they are cancelled, not dead.
            return Ok(Ok(Done::Count(0)));
        }
        let in_line = ordering::any(&group.txn().open_table(ORDERING)?, webhook)?;
        let mut standing = self.standings.get(webhook).unwrap_or_default();
        let mut count = 0;
        loop {
            let old = match queue::due(group.queue()?, webhook, false, before_ms, max - count, |_, _| false) {
                // What does not read stays as it is: it is found where it is read, and nobody need wait for it here.
                Err(error) if error.is_damage() => Vec::new(),
                old => old?,
            };
            for queued in &old {
                let order = if in_line { self.order_of(group, webhook, queued.event)? } else { None };
                self.expire_one(group, &mut standing, webhook, queued, order)?;
            }
            count += old.len();
            // Whom they were before has waited as long, perhaps.
            if old.is_empty() || !in_line || count >= max {
                break;
            }
        }
        self.tell_deaths(group, webhook, &mut standing)?;
        self.standings.insert(webhook, standing);
        group.dirty.insert(webhook);
        group.effects.expired.push(webhook);
        Ok(Ok(Done::Count(count)))
    }

    fn expire_one(
        &mut self,
        group: &mut Group<'_>,
        standing: &mut Standing,
        webhook: WebhookNo,
        queued: &Queued,
        order: Option<OrderKey>,
    ) -> Result<(), StoreError> {
        let event = queued.event;
        queue::remove(group.queue()?, standing, webhook, event, queued.key)?;
        let (reason, at_ms) = (DeadReason::CircuitExpired, group.wall_ms);
        let number = group.note(&Entry::Died { event, webhook, previous: queued.row.previous, at_ms, reason });
        self.bury(group, standing, webhook, event, number, reason)?;
        match order {
            Some(order) => self.leave_line(group, standing, webhook, order, event),
            None => Ok(()),
        }
    }

    pub(super) fn redrive(&mut self, group: &mut Group<'_>, webhook: WebhookNo, event: Seq) -> Decided {
        let Some(tenant) = self.registry.webhook(webhook).map(|webhook| webhook.tenant) else {
            return Ok(Err(Refusal::NotFound));
        };
        let Some(death) = self.exhume(group, tenant, webhook, event)? else { return Ok(Err(Refusal::NotFound)) };
        let order = self.order_of(group, webhook, event)?;
        self.revive(group, webhook, event, (death, 0), order)?;
        Ok(Ok(Done::Count(1)))
    }

    pub(super) fn drop_dead(&mut self, group: &mut Group<'_>, webhook: WebhookNo, event: Seq) -> Decided {
        let Some(tenant) = self.registry.webhook(webhook).map(|webhook| webhook.tenant) else {
            return Ok(Err(Refusal::NotFound));
        };
        let Some(death) = self.exhume(group, tenant, webhook, event)? else { return Ok(Err(Refusal::NotFound)) };
        group.note(&Entry::Dropped { event, webhook, previous: death, at_ms: group.wall_ms });
        Ok(Ok(Done::Count(1)))
    }

    /// Takes a dead letter's rows away; gives the journal record of its death.
    pub(super) fn exhume(
        &mut self,
        group: &mut Group<'_>,
        tenant: TenantNo,
        webhook: WebhookNo,
        event: Seq,
    ) -> Result<Option<JournalSeq>, StoreError> {
        let mut dead_of = group.txn().open_table(DEAD_OF)?;
        let death = dead_of.get((webhook, event))?.map(|number| number.value());
        // Who asks can't have seen a death of this very group, and its record can't be read before the group is written.
        let death = death.filter(|death| *death < self.next_journal);
        if let Some(death) = death {
            dead_of.remove((webhook, event))?;
            group.txn().open_table(DEAD)?.remove((tenant, death))?;
            self.standings.change(webhook, |standing| standing.dead = standing.dead.saturating_sub(1));
            group.dirty.insert(webhook);
        }
        Ok(death)
    }

    /// Queues a delivery anew with a new budget, unless its line holds it; its history goes on behind `previous`, which is its
    /// newest record and, where retention has removed that, how many attempts were made.
    fn revive(
        &mut self,
        group: &mut Group<'_>,
        webhook: WebhookNo,
        event: Seq,
        (previous, made): (JournalSeq, u32),
        order: Option<OrderKey>,
    ) -> Result<(), StoreError> {
        let attempts = self.attempts_made(group, previous)?.unwrap_or(made);
        self.requeue(group, (webhook, event), previous, attempts, order)
    }

    /// The same, for one whose history has been read.
    pub(super) fn requeue(
        &mut self,
        group: &mut Group<'_>,
        (webhook, event): (WebhookNo, Seq),
        previous: JournalSeq,
        attempts: u32,
        order: Option<OrderKey>,
    ) -> Result<(), StoreError> {
        let number = group.note(&Entry::Revived { event, webhook, previous, at_ms: group.now, attempts });
        let row = QueueRow { attempts, budget_from: attempts, since_ms: group.now, previous: number };
        if let Some(order) = order
            && !self.get_in_line(group, webhook, order, event, &row)?
        {
            return Ok(());
        }
        let key = RowKey { started: false, due_ms: group.now };
        let mut standing = self.standings.get(webhook).unwrap_or_default();
        queue::insert(group.queue()?, &mut standing, webhook, event, key, &row)?;
        self.standings.insert(webhook, standing);
        group.dirty.insert(webhook);
        group.effects.queued.push((webhook, key));
        Ok(())
    }

    /// How many attempts the chain that ends at `newest` holds; `None`: retention has cut it before it tells.
    pub(super) fn attempts_made(&self, group: &Group<'_>, newest: JournalSeq) -> Result<Option<u32>, StoreError> {
        let mut number = newest;
        while number != 0 {
            number = match self.entry(group, number)? {
                Some(Entry::Attempt(attempt)) => return Ok(Some(attempt.number.get())),
                Some(Entry::Revived { attempts, .. }) => return Ok(Some(attempts)),
                Some(other) => other.previous(),
                None => return Ok(None),
            };
        }
        Ok(Some(0))
    }

    pub(super) fn resend(&mut self, group: &mut Group<'_>, event: Seq, webhooks: &[WebhookNo]) -> Decided {
        let Some(found) = self.logged(group, event)? else { return Ok(Err(Refusal::NotFound)) };
        let told = self.told(group, event)?;
        let mut plan = Vec::with_capacity(webhooks.len());
        for webhook in webhooks {
            let Some(tenant) = self.registry.webhook(*webhook).map(|webhook| webhook.tenant) else {
                return Ok(Err(Refusal::NotFound));
            };
            // Who asks can't have seen what this very group has written.
            let untold = group.entries.iter().any(|entry| entry.event == event && entry.webhook == *webhook);
            let newest = self.newest(group, event, *webhook, &told)?;
            let pending = match &newest {
                Some(newest) => untold || newest.entry.as_ref().is_some_and(|entry| entry.queued().is_some()),
                None => found.matched.contains(webhook),
            };
            if pending {
                return Ok(Err(Refusal::Pending));
            }
            let made = told.get(webhook).map_or(0, |fate| u32::from(fate.attempts));
            plan.push((*webhook, tenant, newest.map_or(0, |newest| newest.number), made));
        }
        let order = found.order();
        for (webhook, tenant, previous, made) in &plan {
            self.exhume(group, *tenant, *webhook, event)?;
            self.revive(group, *webhook, event, (*previous, *made), order)?;
        }
        Ok(Ok(Done::Count(plan.len())))
    }
}
