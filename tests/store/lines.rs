//! The model's part about ordering keys, cancelling and pauses: who stands in line, who goes next, what is taken away.

use webhookd::clock::Millis;
use webhookd::model::attempt::{Attempt, Verdict};
use webhookd::model::event::{OrderKey, order_of};
use webhookd::model::id::{JournalSeq, Seq, WebhookNo};
use webhookd::model::pause::{Pause, Scope};
use webhookd::store::op::Refusal;
use webhookd::store::record::{Entry, QueueRow};

use crate::model::{Expected, Model};

impl Model {
    /// The line of an event.
    pub fn order_of(&self, event: Seq) -> Option<OrderKey> {
        self.events[event as usize - 1].draft.ordering_key.as_deref().map(order_of)
    }

    /// A delivery gets in line, if its event has a key; true: it may go.
    pub fn get_in_line(&mut self, webhook: WebhookNo, event: Seq, row: QueueRow) -> bool {
        let Some(order) = self.order_of(event) else { return true };
        let free = self.lines.range((webhook, order, 0)..=(webhook, order, Seq::MAX)).next().is_none();
        self.lines.insert((webhook, order, event), (!free).then_some(row));
        free
    }

    /// A record that follows upon another than the newest: an attempt that was under way when the delivery was asked for again
    /// has ended meanwhile.
    pub fn follow(&mut self, event: Seq, webhook: WebhookNo, previous: JournalSeq) {
        if self.newest(event, webhook).unwrap_or(0) != previous {
            self.forked.insert((event, webhook));
        }
    }

    /// A delivery has ended: the next one of its line goes, if it was the one under way.
    pub fn leave_line(&mut self, webhook: WebhookNo, event: Seq) {
        let Some(order) = self.order_of(event) else { return };
        let left = self.lines.remove(&(webhook, order, event));
        if left != Some(None) || !self.live(webhook) {
            return;
        }
        let next = self.lines.range((webhook, order, 0)..=(webhook, order, Seq::MAX)).next();
        let Some((place, Some(row))) = next.map(|(place, row)| (*place, *row)) else { return };
        let (event, due_ms) = (place.2, row.since_ms);
        self.lines.insert(place, None);
        self.follow(event, webhook, row.previous);
        let number = self.note(Entry::Queued { event, webhook, previous: row.previous, due_ms });
        let row = QueueRow { since_ms: self.now, previous: number, ..row };
        self.queue.insert((webhook, false, due_ms, event), row);
    }

    /// Takes a delivery away from wherever it is pending; false: it is not.
    pub fn withdraw(&mut self, webhook: WebhookNo, event: Seq) -> bool {
        let row = self.queue.keys().find(|place| (place.0, place.3) == (webhook, event)).copied();
        let queued = row.is_some_and(|row| self.queue.remove(&row).is_some());
        let held = self.order_of(event).and_then(|order| self.lines.get(&(webhook, order, event)));
        let pending = queued || held.is_some_and(Option::is_some) || self.fresh.remove(&(event, webhook));
        if pending {
            self.leave_line(webhook, event);
        }
        pending
    }

    pub fn cancel(&mut self, event: Seq, webhooks: &[WebhookNo]) -> Result<Expected, Refusal> {
        if event as usize > self.group_events || self.erased.contains(&event) {
            return Err(Refusal::NotFound);
        }
        let mut cancelled = 0;
        for webhook in webhooks.iter().copied() {
            let previous = self.newest(event, webhook).unwrap_or(0);
            if !self.live(webhook) || !self.withdraw(webhook, event) {
                continue;
            }
            let at_ms = self.wall_ms;
            self.note(Entry::Dropped { event, webhook, previous, at_ms });
            cancelled += 1;
        }
        Ok(Expected::Count(cancelled))
    }

    /// The newest journal record of a delivery that says how it stands.
    pub fn told(&self, event: Seq, webhook: WebhookNo) -> Option<&Entry> {
        let mut entry = &self.journal[self.newest(event, webhook)? as usize - 1];
        while let Entry::Attempt(Attempt { verdict: Verdict::Single, previous: previous @ 1.., .. }) = entry {
            entry = &self.journal[*previous as usize - 1];
        }
        Some(entry)
    }

    /// When the last pause over a webhook ended, or ends.
    pub fn paused_until(&self, webhook: WebhookNo, at_ms: Millis) -> Option<Millis> {
        let hook = &self.hooks[&webhook];
        let covers = |scope: &Scope| match scope {
            Scope::Everything => true,
            Scope::Tenant(no) => *no == hook.tenant,
            Scope::Host(host) => hook.url.contains(&format!("//{host}/")),
            Scope::Webhook(no) | Scope::Own(no) => *no == webhook,
        };
        let covering = self.pauses.iter().filter(|(scope, _)| covers(scope));
        covering.map(|(_, pause)| pause.until_ms.unwrap_or(at_ms)).max()
    }

    pub fn pause(&mut self, scope: &Scope, paused: bool) -> Result<Expected, Refusal> {
        match scope {
            Scope::Tenant(no) if !self.knows(*no) => return Err(Refusal::UnknownTenant),
            Scope::Webhook(no) | Scope::Own(no) if !self.live(*no) => return Err(Refusal::NotFound),
            _ => {}
        }
        let before = self.pauses.get(scope).copied();
        if before.is_some_and(|pause| pause.until_ms.is_none()) != paused {
            let now = self.wall_ms;
            let pause = match before {
                Some(pause) if !paused => Pause { until_ms: Some(now), ..pause },
                _ => Pause { since_ms: now, until_ms: None },
            };
            self.pauses.insert(scope.clone(), pause);
        }
        Ok(Expected::Nothing)
    }
}
