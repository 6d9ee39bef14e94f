//! What happens in a world: owners change their webhooks, publishers publish and ask again, the dispatcher takes deliveries
//! in hand and says what came of them. Every step is one group of ops.

use std::time::Duration;

use webhookd::model::attempt::{DeadReason, Verdict};
use webhookd::model::id::{BROADCAST, OPERATOR_NO, Seq, WebhookNo};
use webhookd::model::pause::Scope;
use webhookd::model::webhook::{Filter, InactiveReason};
use webhookd::store::StoreError;
use webhookd::store::op::{Guard, Mark, Op, RowKey, Tidy, WebhookPatch};

use crate::drafts::{self, FILTERS, Try};
use crate::model::Life;
use crate::world::{Flight, World};

const TENANTS: u64 = 3;
const IN_FLIGHT_MAX: usize = 12;

impl World {
    /// One group of whatever happens at this moment.
    pub fn step(&mut self) -> Result<(), String> {
        if self.chance.percent(12) {
            self.retain()?;
        }
        let pause = match self.chance.below(100) {
            0..=89 => self.chance.below(3_000),
            90..=97 => self.chance.below(3_600_000),
            98 => self.chance.below(50_000_000),
            // Days, in which a webhook that fails comes nearer to its end.
            _ => self.chance.below(350_000_000),
        };
        self.clock.advance(Duration::from_millis(pause));
        let mut ops = Vec::new();
        self.owners(&mut ops);
        self.publish(&mut ops);
        self.dispatch(&mut ops);
        self.jobs(&mut ops);
        if self.chance.percent(15) {
            ops.push(Op::Tell);
        }
        if self.chance.percent(30) {
            self.chance.shuffle(&mut ops);
        }
        self.guard(&mut ops);
        self.erase(&mut ops);
        self.rotate(&mut ops);
        self.write(ops)?;
        if self.chance.percent(20) { self.look() } else { Ok(()) }
    }

    /// Somebody reads: what is open is committed for it, and may fail.
    fn look(&mut self) -> Result<(), String> {
        let looked = self.shared.as_ref().unwrap().view().map(drop);
        looked.map_err(|error| {
            assert!(matches!(error, StoreError::Unavailable(_)), "the store says {error}");
            let next = self.engine.take().unwrap().apply(&[Op::Ping]);
            assert!(next.is_err(), "a group goes on in what was lost");
            error.to_string()
        })
    }

    /// Some of what clients ask for is signed or on record, sometimes with a signature that was used before; and what has
    /// served its time is removed.
    fn guard(&mut self, ops: &mut Vec<Op>) {
        let minute = u32::try_from(self.clock.wall_ms() / 60_000).unwrap();
        if self.chance.percent(10) {
            ops.push(Op::Ping);
        }
        for op in ops.iter_mut() {
            let own = matches!(
                op,
                Op::Outcome(_) | Op::Spill { .. } | Op::Forget { .. } | Op::Expire { .. } | Op::JobStep(_)
            );
            if own || self.chance.percent(75) {
                continue;
            }
            let hash = [u8::try_from(self.chance.below(6)).unwrap(); 16];
            let mark = Mark { minute: minute - u32::try_from(self.chance.below(3)).unwrap(), hash };
            let audit = drafts::audit(&mut self.chance);
            let guard = match self.chance.below(3) {
                0 => Guard { mark: Some(mark), audit: None },
                1 => Guard { mark: None, audit: Some(audit) },
                _ => Guard { mark: Some(mark), audit: Some(audit) },
            };
            *op = Op::Guarded { guard, op: Box::new(op.clone()) };
        }
        let twin = ops.iter().find(|op| matches!(op, Op::Guarded { guard, .. } if guard.mark.is_some())).cloned();
        ops.extend(twin.filter(|_| self.chance.percent(20)));
        if self.chance.percent(10) {
            let marks_before = minute - u32::try_from(self.chance.below(4)).unwrap();
            let audit_before_ms = self.clock.now_ms().saturating_sub(self.chance.below(10_000_000));
            let pauses_before_ms = self.clock.wall_ms().saturating_sub(self.chance.below(10_000_000));
            ops.push(Op::Tidy(Tidy { marks_before, audit_before_ms, pauses_before_ms, max: 1 + self.chance.index(5) }));
        }
    }

    fn publish(&mut self, ops: &mut Vec<Op>) {
        for accept in std::mem::take(&mut self.unknown) {
            if !accept.drafts.iter().any(|draft| self.model.gone.contains(&draft.tenant)) {
                ops.push(Op::Accept(accept));
            }
        }
        let tenants = TENANTS.max(self.model.tenants.len() as u64);
        for _ in 0..self.chance.below(4) {
            let count = if self.chance.percent(10) { 1 + self.chance.below(8) } else { 1 };
            let drafts = (0..count).map(|_| drafts::random_draft(&mut self.chance, tenants)).collect();
            let key = self.chance.percent(40).then(|| self.chance.bytes());
            let mut accept = drafts::accept(drafts, key);
            accept.pending_max = self.chance.percent(10).then(|| self.chance.below(20));
            if key.is_some() {
                self.keyed.push(accept.clone());
            }
            ops.push(Op::Accept(accept));
        }
        let gone = &self.model.gone;
        self.keyed.retain(|accept| !accept.drafts.iter().any(|draft| gone.contains(&draft.tenant)));
        if self.chance.percent(15)
            && let Some(mut again) = self.chance.pick(&self.keyed).cloned()
        {
            if self.chance.percent(20) {
                again.idempotency.as_mut().unwrap().body_hash[0] ^= 1;
            }
            ops.push(Op::Accept(again));
        }
    }

    fn dispatch(&mut self, ops: &mut Vec<Op>) {
        self.take_off(ops);
        for flight in self.desk.flights.clone() {
            if self.chance.percent(60) {
                ops.push(self.land(flight));
            }
        }
    }

    /// Takes deliveries in hand: fresh ones, and due ones from the durable queue.
    fn take_off(&mut self, ops: &mut Vec<Op>) {
        for (event, webhook) in self.desk.fresh.clone() {
            let room = self.desk.flights.len() < IN_FLIGHT_MAX;
            if !self.model.live(webhook) && self.chance.percent(50) {
                ops.push(Op::Forget { webhook, events: vec![event] });
            } else if room && self.chance.percent(40) {
                self.desk.flights.push(Flight { event, webhook, row: None });
            } else if self.chance.percent(8) {
                ops.push(Op::Spill { webhook, events: vec![event], due_ms: self.clock.now_ms() });
            } else {
                continue;
            }
            self.desk.fresh.remove(&(event, webhook));
        }
        let hooks: Vec<WebhookNo> = self.model.hooks.keys().copied().collect();
        let Some(webhook) = self.chance.pick(&hooks).copied() else { return };
        let started = self.chance.percent(60);
        let room = IN_FLIGHT_MAX - self.desk.flights.len().min(IN_FLIGHT_MAX);
        let flights = &self.desk.flights;
        let flying = |event| flights.iter().any(|flight| flight.webhook == webhook && flight.event == event);
        let now = self.clock.now_ms();
        let from = (webhook, started, 0, 0)..=(webhook, started, now, Seq::MAX);
        let wanted = self.model.queue.range(from).filter(|(place, _)| !flying(place.3)).take(room);
        let wanted: Vec<_> =
            wanted.map(|((.., due_ms, event), row)| (*event, RowKey { started, due_ms: *due_ms }, *row)).collect();
        // A lane looks now and then: several groups go by before somebody sees what they wrote.
        let due = if !self.model.live(webhook) || self.chance.percent(30) {
            self.disk.set_quiet(true);
            let view = self.shared.as_ref().unwrap().view().unwrap();
            let due = view.due(webhook, started, now, room, |event, _| flying(event)).unwrap();
            self.disk.set_quiet(false);
            due.into_iter().map(|queued| (queued.event, queued.key, queued.row)).collect()
        } else {
            wanted.clone()
        };
        assert!(due == wanted || !self.model.live(webhook), "{due:?} are due, and not {wanted:?}");
        let taken = due.into_iter().map(|(event, key, row)| Flight { event, webhook, row: Some((key, row)) });
        self.desk.flights.extend(taken);
    }

    fn land(&mut self, flight: Flight) -> Op {
        let Flight { event, webhook, row } = flight;
        let now = self.clock.now_ms();
        // Some receivers hardly ever work.
        let luck = if webhook % 3 == 2 { 50 + self.chance.below(50) } else { self.chance.below(100) };
        let verdict = match luck {
            0..=54 => Verdict::Delivered,
            55..=84 => Verdict::RetryAt(now + self.chance.below(3_600_000)),
            85..=95 => Verdict::Dead(DeadReason::Exhausted),
            _ => Verdict::Dead(DeadReason::Gone),
        };
        let mut outcome = drafts::outcome(&Try {
            event,
            webhook,
            number: row.map_or(1, |(_, row)| row.attempts + 1),
            previous: row.map_or(0, |(_, row)| row.previous),
            at_ms: self.clock.wall_ms(),
            row: row.map(|(key, _)| key),
            verdict,
        });
        outcome.order = self.model.order_of(event);
        outcome.budget_from = row.map_or(0, |(_, row)| row.budget_from);
        outcome.deactivate = (verdict == Verdict::Dead(DeadReason::Gone)).then_some(InactiveReason::Gone);
        Op::Outcome(Box::new(outcome))
    }

    /// Owners and operators.
    fn owners(&mut self, ops: &mut Vec<Op>) {
        let names = (0..TENANTS).map(|n| format!("tenant-{n}"));
        let mut names = names.filter(|name| !self.model.tenants.contains(name));
        if let Some(free) = names.next() {
            ops.push(drafts::put_tenant(&free));
        }
        self.delete_tenant(ops);
        let live: Vec<WebhookNo> = self.model.hooks.keys().copied().filter(|no| self.model.live(*no)).collect();
        self.newcomers(live.len(), ops);
        if self.chance.percent(10)
            && let Some(no) = self.chance.pick(&live).copied()
        {
            let mut patch = WebhookPatch {
                url: Some(format!("https://{}.example/", self.chance.next())),
                ..WebhookPatch::default()
            };
            patch.active = self.chance.percent(40).then(|| self.chance.percent(60));
            patch.filters = self.chance.percent(20).then(|| vec![Filter::All]);
            ops.push(Op::UpdateWebhook { no, patch: Box::new(patch) });
        }
        if self.chance.percent(5)
            && let Some(no) = self.chance.pick(&live).copied()
        {
            ops.push(Op::DeleteWebhook { no });
        }
        if self.chance.percent(8)
            && let Some(webhook) = self.chance.pick(&live).copied()
        {
            let before_ms = self.clock.now_ms().saturating_sub(self.chance.below(10_000));
            ops.push(Op::Expire { webhook, before_ms, max: 1 + self.chance.index(3) });
        }
        let dead: Vec<(WebhookNo, Seq)> = self.model.dead.keys().copied().collect();
        if self.chance.percent(25)
            && let Some((webhook, event)) = self.chance.pick(&dead).copied()
        {
            ops.push(if self.chance.percent(60) {
                Op::Redrive { webhook, event }
            } else {
                Op::DropDead { webhook, event }
            });
        }
        self.hold_and_cancel(&live, ops);
        let events = self.model.events.len() as u64;
        if self.chance.percent(10) && events > 0 {
            let event = self.model.floor.max(1) + self.chance.below(events + 1 - self.model.floor.max(1));
            let owner = self.model.events[event as usize - 1].draft.tenant;
            let mut webhooks = live;
            webhooks.retain(|no| [BROADCAST, self.model.hooks[no].tenant].contains(&owner));
            if self.model.events[event as usize - 1].draft.test {
                webhooks.clear();
            }
            webhooks
                .retain(|no| !self.model.forked.contains(&(event, *no)) && self.model.hooks[no].life == Life::Active);
            webhooks.truncate(1 + self.chance.index(2));
            ops.push(Op::Resend { event, webhooks });
        }
        if self.chance.percent(5)
            && let Some((webhook, event)) = self.some_tested()
        {
            let at_ms = self.clock.wall_ms();
            let verdict = if self.chance.percent(50) { Verdict::Single } else { Verdict::Delivered };
            let of = Try { event, webhook, number: 1, previous: 0, at_ms, row: None, verdict };
            let mut outcome = drafts::outcome(&of);
            outcome.test = true;
            ops.push(Op::Outcome(Box::new(outcome)));
        }
    }

    /// New webhooks, some of the operator's.
    fn newcomers(&mut self, live: usize, ops: &mut Vec<Op>) {
        if !self.model.tenants.is_empty() && live < 8 && self.chance.percent(35) {
            let mut tenant = u32::try_from(self.chance.index(self.model.tenants.len())).unwrap() + 1;
            if self.chance.percent(25) {
                tenant = OPERATOR_NO;
            }
            let filter = *self.chance.pick(&FILTERS).unwrap();
            ops.push(drafts::create_webhook(tenant, self.chance.bytes(), &[filter]));
        }
        if !self.model.tenants.is_empty() && self.chance.percent(8) {
            let tenant = u32::try_from(self.chance.index(self.model.tenants.len())).unwrap() + 1;
            ops.push(drafts::register_sole(tenant, self.chance.bytes()));
        }
    }

    /// Pauses, and cancels what is pending of an event, also where nothing is.
    fn hold_and_cancel(&mut self, live: &[WebhookNo], ops: &mut Vec<Op>) {
        if self.chance.percent(6) {
            let no = 1 + u32::try_from(self.chance.below(10)).unwrap();
            let host = Scope::host("receiver.example").unwrap();
            let scopes = [Scope::Everything, Scope::Tenant(no), host, Scope::Webhook(no), Scope::Own(no)];
            let scope = self.chance.pick(&scopes).unwrap().clone();
            ops.push(Op::Pause { scope, paused: self.chance.percent(50) });
        }
        let events = self.model.events.len() as u64;
        if self.chance.percent(15) && events > 0 {
            // Mostly a young one: of those something is pending.
            let young = self.chance.below(events.min(8));
            let floor = self.model.floor.max(1);
            let event = if self.chance.percent(80) {
                (events - young).max(floor)
            } else {
                floor + self.chance.below(events + 1 - floor)
            };
            let mut webhooks = live.to_vec();
            self.chance.shuffle(&mut webhooks);
            webhooks.truncate(1 + self.chance.index(4));
            ops.push(Op::Cancel { event, webhooks });
        }
    }

    /// A test's event that no webhook has got yet.
    fn some_tested(&mut self) -> Option<(WebhookNo, Seq)> {
        let tests = (1..).zip(&self.model.events).filter(|(_, fact)| fact.draft.test).map(|(seq, _)| seq);
        let untold = |seq: &Seq| !self.model.journal.iter().any(|entry| entry.event() == *seq);
        let tests: Vec<Seq> = tests.filter(untold).filter(|seq| *seq >= self.model.floor).collect();
        let live: Vec<WebhookNo> = self.model.hooks.keys().copied().filter(|no| self.model.live(*no)).collect();
        Some((*self.chance.pick(&live)?, *self.chance.pick(&tests)?))
    }
}
