//! Fresh deliveries that are not finished yet, counted per event: what the watermark is made of.
//!
//! A fresh delivery has no row of its own on disk; it is found again after a crash because its event stands at or above
//! the watermark and the journal says nothing about it. It stops being fresh with its first journal record.

use std::collections::hash_map::Entry;
use std::collections::{HashSet, VecDeque};

use super::block::Mark;
use super::numbers::ByWebhook;
use crate::clock::Millis;
use crate::model::id::{JournalSeq, Seq, WebhookNo};

pub struct Fresh {
    /// Event of the first count: the watermark.
    base: Seq,
    open: VecDeque<u32>,
    /// (event, journal number): what the journal says about events from `event` on stands at or above that number.
    points: VecDeque<(Seq, JournalSeq)>,
    journal: JournalSeq,
    /// Deliveries that are not counted although the dispatcher may still hold them and will say that they are finished,
    /// perhaps more than once: those that were cancelled, and, when read back, those whose webhook is gone.
    left_out: HashSet<(Seq, WebhookNo)>,
    /// How many of each webhook; none is 0.
    of: ByWebhook<u64>,
    /// How many of all webhooks.
    len: u64,
}

impl Fresh {
    #[must_use]
    pub fn new(base: Seq, journal: JournalSeq) -> Self {
        Self {
            base,
            open: VecDeque::new(),
            points: VecDeque::new(),
            journal,
            left_out: HashSet::new(),
            of: ByWebhook::default(),
            len: 0,
        }
    }

    /// Notes, before a batch is written, where both logs stand.
    pub fn point(&mut self, next_event: Seq, next_journal: JournalSeq) {
        if self.points.back().is_none_or(|(event, _)| *event < next_event) {
            self.points.push_back((next_event, next_journal));
        }
        // Below the watermark nothing is counted any more.
        if !self.left_out.is_empty() {
            self.left_out.retain(|(event, _)| *event >= self.base);
        }
    }

    /// The next event of the log has fresh deliveries to these.
    pub fn push(&mut self, webhooks: impl IntoIterator<Item = WebhookNo>) {
        let mut count = 0_u32;
        for webhook in webhooks {
            *self.of.entry(webhook).or_default() += 1;
            count = count.saturating_add(1);
        }
        self.open.push_back(count);
        self.len += u64::from(count);
        self.advance();
    }

    /// A delivery of an event about to be pushed is not counted: its webhook is gone, or it was cancelled.
    pub fn leave_out(&mut self, event: Seq, webhook: WebhookNo) {
        self.left_out.insert((event, webhook));
    }

    /// The fresh delivery of `event` to `webhook` got its first journal record (or its webhook is gone). False: it is not
    /// fresh any more, it was cancelled.
    pub fn resolve(&mut self, event: Seq, webhook: WebhookNo) -> bool {
        if self.left_out.contains(&(event, webhook)) {
            return false;
        }
        let index = event.checked_sub(self.base).and_then(|i| usize::try_from(i).ok());
        let Some(open) = index.and_then(|index| self.open.get_mut(index)) else { return false };
        debug_assert!(*open > 0, "event {event} has no fresh delivery left");
        *open = open.saturating_sub(1);
        self.len = self.len.saturating_sub(1);
        if let Entry::Occupied(mut of) = self.of.entry(webhook) {
            *of.get_mut() -= 1;
            if *of.get() == 0 {
                of.remove();
            }
        }
        self.advance();
        true
    }

    /// A fresh delivery is cancelled: whoever holds it may still say that it is finished, and that means nothing then.
    /// False: it is not fresh.
    pub fn cancel(&mut self, event: Seq, webhook: WebhookNo) -> bool {
        let fresh = self.resolve(event, webhook);
        if fresh {
            self.left_out.insert((event, webhook));
        }
        fresh
    }

    /// Fresh deliveries, of all webhooks.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fresh deliveries of a webhook.
    #[must_use]
    pub fn count_of(&self, webhook: WebhookNo) -> u64 {
        self.of.get(&webhook).copied().unwrap_or(0)
    }

    /// Whether `event` has fresh deliveries.
    #[cfg(test)]
    pub(super) fn is_open(&self, event: Seq) -> bool {
        let index = event.checked_sub(self.base).and_then(|i| usize::try_from(i).ok());
        index.and_then(|i| self.open.get(i)).is_some_and(|open| *open > 0)
    }

    /// The mark to write into the next blocks, but for what their log and its age add.
    #[must_use]
    pub fn mark(&self, at_ms: Millis) -> Mark {
        Mark { event: self.base, journal: self.journal, at_ms, ..Mark::default() }
    }

    fn advance(&mut self) {
        while self.open.front() == Some(&0) {
            self.open.pop_front();
            self.base += 1;
        }
        while let Some((_, journal)) = self.points.front().filter(|(event, _)| *event <= self.base).copied() {
            self.journal = journal;
            self.points.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_follows_the_oldest_open_delivery() {
        let mut fresh = Fresh::new(1, 1);
        fresh.point(1, 1);
        fresh.push([1]);
        fresh.push([1, 2]);
        fresh.point(3, 1);
        fresh.push([]);
        fresh.push([1]);
        assert_eq!((fresh.count_of(1), fresh.count_of(2), fresh.count_of(3)), (3, 1, 0));
        assert_eq!(fresh.mark(0).event, 1);
        fresh.point(5, 7);
        fresh.resolve(2, 1);
        fresh.resolve(4, 1);
        assert_eq!(fresh.mark(0), Mark { event: 1, journal: 1, ..Mark::default() });
        fresh.resolve(1, 1);
        assert_eq!(fresh.mark(0).event, 2);
        fresh.resolve(2, 2);
        assert_eq!(fresh.mark(0), Mark { event: 5, journal: 7, ..Mark::default() });
        assert!(!fresh.is_open(2));
        assert!(fresh.of.is_empty());
    }

    #[test]
    fn a_delivery_that_was_left_out_takes_nobody_elses_place() {
        let mut fresh = Fresh::new(1, 1);
        fresh.leave_out(1, 7);
        fresh.push([8]);
        fresh.resolve(1, 7);
        assert!(fresh.is_open(1), "the delivery to the other webhook is still open");
        fresh.resolve(1, 8);
        assert_eq!(fresh.mark(0).event, 2);
    }

    #[test]
    fn what_is_cancelled_is_finished_once_and_says_so() {
        let mut fresh = Fresh::new(1, 1);
        fresh.push([7, 8]);
        fresh.push([7]);
        assert!(fresh.cancel(1, 7));
        assert!(!fresh.cancel(1, 7) && !fresh.resolve(1, 7));
        assert!(fresh.is_open(1), "the delivery to the other webhook is still open");
        assert!(fresh.resolve(1, 8));
        // Also when the watermark has passed it, and all that was noted about it is forgotten.
        fresh.point(9, 9);
        assert!(!fresh.resolve(1, 7) && !fresh.resolve(1, 8));
        assert_eq!(fresh.mark(0).event, 2);
    }
}
