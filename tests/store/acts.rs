//! What happens in a world: owners change their webhooks, publishers publish and ask again, the dispatcher takes deliveries
//! in hand and says what came of them. Every step is one group of ops.

use std::time::Duration;

use webhookd::model::attempt::{DeadReason, Verdict};
use webhookd::model::id::{Seq, WebhookNo};
use webhookd::model::pause::Scope;
use webhookd::model::webhook::{Filter, InactiveReason};
use webhookd::store::op::{Op, WebhookPatch};

use crate::drafts::{self, FILTERS, Try};
use crate::model::Life;
use crate::world::{Flight, World};

const TENANTS: u64 = 3;
const IN_FLIGHT_MAX: usize = 12;

impl World {
    /// One group of whatever happens at this moment.
    pub fn step(&mut self) -> Result<(), String> {
        let pause = match self.chance.below(100) {
            0..=89 => self.chance.below(3_000),
            90..=97 => self.chance.below(3_600_000),
            _ => self.chance.below(50_000_000),
        };
        self.clock.advance(Duration::from_millis(pause));
        let mut ops = Vec::new();
        self.owners(&mut ops);
        self.publish(&mut ops);
        self.dispatch(&mut ops);
        if self.chance.percent(30) {
            self.chance.shuffle(&mut ops);
        }
        self.write(ops)
    }

    fn publish(&mut self, ops: &mut Vec<Op>) {
        for accept in std::mem::take(&mut self.unknown) {
            ops.push(Op::Accept(accept));
        }
        for _ in 0..self.chance.below(4) {
            let count = if self.chance.percent(10) { 1 + self.chance.below(8) } else { 1 };
            let drafts = (0..count).map(|_| drafts::random_draft(&mut self.chance, TENANTS)).collect();
            let key = self.chance.percent(40).then(|| self.chance.bytes());
            let accept = drafts::accept(drafts, key);
            if key.is_some() {
                self.keyed.push(accept.clone());
            }
            ops.push(Op::Accept(accept));
        }
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
        self.disk.set_quiet(true);
        let view = self.shared.as_ref().unwrap().view().unwrap();
        let due = view.due(webhook, started, self.clock.now_ms(), room, |event, _| flying(event)).unwrap();
        if self.model.live(webhook) {
            let from = (webhook, started, 0, 0)..=(webhook, started, self.clock.now_ms(), Seq::MAX);
            let wanted = self.model.queue.range(from).filter(|(place, _)| !flying(place.3)).take(room);
            let wanted: Vec<_> = wanted.map(|(place, row)| (place.3, *row)).collect();
            assert_eq!(due.iter().map(|queued| (queued.event, queued.row)).collect::<Vec<_>>(), wanted);
        }
        drop(view);
        self.disk.set_quiet(false);
        let taken =
            due.iter().map(|queued| Flight { event: queued.event, webhook, row: Some((queued.key, queued.row)) });
        self.desk.flights.extend(taken);
    }

    fn land(&mut self, flight: Flight) -> Op {
        let Flight { event, webhook, row } = flight;
        let now = self.clock.now_ms();
        let verdict = match self.chance.below(100) {
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
        if (self.model.tenants.len() as u64) < TENANTS {
            ops.push(drafts::put_tenant(&format!("tenant-{}", self.model.tenants.len())));
        }
        let live: Vec<WebhookNo> = self.model.hooks.keys().copied().filter(|no| self.model.live(*no)).collect();
        if !self.model.tenants.is_empty() && live.len() < 8 && self.chance.percent(35) {
            let tenant = u32::try_from(self.chance.index(self.model.tenants.len())).unwrap() + 1;
            let filter = *self.chance.pick(&FILTERS).unwrap();
            ops.push(drafts::create_webhook(tenant, self.chance.bytes(), &[filter]));
        }
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
            let event = 1 + self.chance.below(events);
            let mut webhooks = live;
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
            let verdict = Verdict::Single;
            let of = Try { event, webhook, number: 1, previous: 0, at_ms, row: None, verdict };
            let mut outcome = drafts::outcome(&of);
            outcome.test = true;
            ops.push(Op::Outcome(Box::new(outcome)));
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
            let event = if self.chance.percent(80) { events - young } else { 1 + self.chance.below(events) };
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
        let tests: Vec<Seq> = tests.filter(untold).collect();
        let live: Vec<WebhookNo> = self.model.hooks.keys().copied().filter(|no| self.model.live(*no)).collect();
        Some((*self.chance.pick(&live)?, *self.chance.pick(&tests)?))
    }
}
