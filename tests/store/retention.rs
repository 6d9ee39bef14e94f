//! What should be true of retention: what is pending and what a dead letter needs is there for good, what is left of the logs
//! is whole, and how far it went is no further than it was asked. Owns the model's and the world's part of it.

use webhookd::model::attempt::Verdict;
use webhookd::model::id::{JournalSeq, Seq, WebhookNo};
use webhookd::store::op::{Accept, Op, Retain};
use webhookd::store::record::Entry;
use webhookd::store::retention::{Limits, Sweep};

use crate::model::{Expected, Model};
use crate::world::{RETENTION_MS, World};

const DAY_MS: u64 = 86_400_000;

impl Model {
    pub fn retain(&mut self, retain: &Retain) -> Expected {
        let before = self.dead.len() + self.left.len();
        for (_, letter) in &retain.dead {
            if self.left.get(&(letter.webhook, letter.event)) == Some(&letter.death) {
                self.left.remove(&(letter.webhook, letter.event));
            }
            if self.dead.get(&(letter.webhook, letter.event)) == Some(&letter.death) {
                self.dead.remove(&(letter.webhook, letter.event));
                self.expired.insert((letter.event, letter.webhook));
            }
        }
        self.asked.0 = self.asked.0.max(retain.events_to);
        self.asked.1 = self.asked.1.max(retain.journal_to);
        let is_over = |no: &&WebhookNo| {
            let pending =
                self.lines.keys().any(|place| place.0 == **no) || self.queue.keys().any(|place| place.0 == **no);
            !self.live(**no) && !pending && !self.dead.keys().any(|(webhook, _)| webhook == *no)
        };
        let gone: Vec<WebhookNo> = retain.webhooks.iter().filter(is_over).copied().collect();
        self.removed.extend(gone);
        Expected::Retained((before - self.dead.len() - self.left.len()) as u64)
    }

    /// The oldest record of a delivery that is still to be made, or may be redriven: what was on record when it had ended
    /// before may be gone.
    pub fn needed_from(&self, event: Seq, webhook: WebhookNo) -> Option<JournalSeq> {
        let pending = self.fresh.contains(&(event, webhook))
            || self.queue.keys().any(|place| (place.0, place.3) == (webhook, event))
            || self.lines.keys().any(|place| (place.0, place.2) == (webhook, event));
        if !(self.dead.contains_key(&(webhook, event)) || pending && self.live(webhook)) {
            return None;
        }
        let of_it = |entry: &Entry| entry.event() == event && entry.webhook() == webhook;
        let numbered = || (1..).zip(&self.journal).filter(|(_, entry)| of_it(entry));
        // The end, and what a request that was under way then, or that somebody asked for once more, was answered after it.
        let (mut over, mut ended) = (false, None);
        for (number, entry) in numbered() {
            over = match entry {
                Entry::Attempt(attempt) => {
                    over && attempt.verdict == Verdict::Single || attempt.verdict == Verdict::Delivered
                }
                Entry::Dropped { .. } => true,
                _ => false,
            };
            ended = if over { Some(number + 1) } else { ended };
        }
        let expired = self.expired.contains(&(event, webhook));
        let revived = numbered().filter(|(_, entry)| expired && matches!(entry, Entry::Revived { .. }));
        Some(ended.max(revived.map(|(number, _)| number).last()).unwrap_or(1))
    }

    /// Whether an event must be there.
    pub fn must_have(&self, event: Seq, floor: Seq) -> bool {
        event >= floor || !self.claims_to(event).is_empty()
    }

    /// Webhooks that an event is still to be delivered to, or has a dead letter of, and which of these.
    pub fn claims_to(&self, event: Seq) -> Vec<(WebhookNo, &'static str)> {
        let pending = self.queue.keys().map(|place| (place.3, place.0));
        let lines = self.lines.keys().map(|place| (place.2, place.0));
        let fresh = self.fresh.iter().copied();
        let queued = pending.map(|claim| (claim, "queued")).chain(lines.map(|claim| (claim, "in line")));
        let claims = queued.chain(fresh.map(|claim| (claim, "fresh")));
        let claims = claims.filter(|((_, webhook), _)| self.live(*webhook));
        let dead = self.dead.keys().map(|(webhook, event)| ((*event, *webhook), "dead"));
        let of_it = claims.chain(dead).filter(|((claimed, _), _)| *claimed == event);
        of_it.map(|((_, webhook), how)| (webhook, how)).collect()
    }
}

impl World {
    /// How far retention went.
    pub fn learn_floor(&mut self) {
        self.disk.set_quiet(true);
        let shared = self.shared.clone().unwrap();
        let view = shared.view().unwrap();
        let (events, journal) = view.floors().unwrap();
        let (asked, heads) = (self.model.asked, self.model.heads());
        assert!(events <= asked.0.max(1) && journal <= asked.1.max(1), "{events} {journal} of {asked:?}");
        assert!(events < heads.0 || heads.0 == 1, "no event is left");
        assert!(events >= self.model.floor, "what was removed is there again");
        let left: Vec<Seq> = (1..events).filter(|seq| !self.model.lost.contains(seq)).collect();
        for seq in left {
            if view.event(seq).unwrap().is_none() {
                self.model.lost.insert(seq);
            }
        }
        drop(view);
        self.disk.set_quiet(false);
        self.model.floor = events;
    }

    /// A step of retention with some limits, alone in its group.
    pub fn retain(&mut self) -> Result<(), String> {
        let days = |world: &mut Self| world.chance.below(8) * 43_200_000;
        let limits = Limits {
            events_ms: days(self),
            attempts_ms: days(self),
            dead_letters_ms: days(self),
            idempotency_ms: RETENTION_MS,
            free_bytes: if self.chance.percent(20) { self.chance.below(20_000) } else { 0 },
        };
        let mut sweep = Sweep::default();
        self.disk.set_quiet(true);
        let shared = self.shared.clone().unwrap();
        let plan = shared.plan_retention(&limits, self.clock.now_ms(), &mut sweep);
        self.disk.set_quiet(false);
        let Some(mut plan) = plan.map_err(|error| error.to_string())? else { return Ok(()) };
        if self.chance.percent(30) {
            plan.max = 1 + self.chance.index(20);
        }
        let (events, journal): (Seq, JournalSeq) = (self.model.floor, self.model.asked.1);
        // Asked for is asked for, also when no answer comes. Which keys were removed shows once the clock falls back behind them.
        let remembered = &self.model.remembered;
        let is_kept = |accept: &Accept| {
            let before = accept.idempotency.and_then(|key| remembered.get(&key.hash));
            before.is_none_or(|before| before.at_ms / DAY_MS >= u64::from(plan.days_to))
        };
        self.keyed.retain(is_kept);
        self.unknown.retain(is_kept);
        self.model.asked = (self.model.asked.0.max(plan.events_to), self.model.asked.1.max(plan.journal_to));
        self.write(vec![Op::Retain(Box::new(plan))])?;
        self.tally.retained += u64::from(self.model.floor > events || self.model.asked.1 > journal);
        Ok(())
    }
}
