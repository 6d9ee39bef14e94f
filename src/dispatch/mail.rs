//! What waits for a worker: news from the writer and from other workers' lanes. Owns the hand-over between their threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::gate::Gate;
use crate::model::event::Event;
use crate::model::id::{Seq, WebhookNo};
use crate::store::inbox::{Answer, Waiter};
use crate::store::op::RowKey;

/// News for one worker. Bounded by what is asked of the store, by permits, and by the number of lanes: every entry answers
/// one of them.
#[derive(Default)]
pub(super) struct Mail {
    pub answers: Vec<(Waiter, Answer)>,
    pub fresh: VecDeque<(WebhookNo, Arc<Event>)>,
    pub settled: Vec<(WebhookNo, Seq)>,
    pub queued: VecDeque<(WebhookNo, RowKey)>,
    /// Their lanes know already; it tells that what was sent before about these deliveries has arrived.
    pub cancelled: Vec<(WebhookNo, Seq)>,
    /// Lanes whose deaths by waiting are durable.
    pub expired: Vec<WebhookNo>,
    /// Lanes that a place at this gate is promised to.
    pub wakes: Vec<(WebhookNo, Arc<Gate>)>,
    /// Lanes to look at again.
    pub pokes: VecDeque<WebhookNo>,
    /// The log has grown: deliveries may hold the watermark back.
    pub check_lag: bool,
}

impl Mail {
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
            && self.fresh.is_empty()
            && self.settled.is_empty()
            && self.queued.is_empty()
            && self.cancelled.is_empty()
            && self.expired.is_empty()
            && self.wakes.is_empty()
            && self.pokes.is_empty()
            && !self.check_lag
    }

    /// Takes out what is to be taken in at once: everything that somebody waits for, and of the rest at most `max` each.
    /// Rows are announced after the outcomes that made them, as they came.
    pub fn part(&mut self, max: usize) -> Self {
        fn first<T>(all: &mut VecDeque<T>, max: usize) -> VecDeque<T> {
            if all.len() <= max { std::mem::take(all) } else { all.drain(..max).collect() }
        }
        let (fresh, queued) = (first(&mut self.fresh, max), first(&mut self.queued, max));
        let pokes = first(&mut self.pokes, max);
        // Not before the last of what came before them.
        let cancelled = if self.fresh.is_empty() { Vec::new() } else { std::mem::take(&mut self.cancelled) };
        let rest = Self {
            cancelled,
            fresh: std::mem::take(&mut self.fresh),
            queued: std::mem::take(&mut self.queued),
            pokes: std::mem::take(&mut self.pokes),
            ..Self::default()
        };
        let whole = std::mem::replace(self, rest);
        Self { fresh, queued, pokes, ..whole }
    }
}

#[derive(Default)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    pub arrived: Notify,
}

impl Mailbox {
    pub fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn put(&self, mut new: Mail) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.answers.append(&mut new.answers);
        mail.fresh.append(&mut new.fresh);
        mail.settled.append(&mut new.settled);
        mail.queued.append(&mut new.queued);
        mail.cancelled.append(&mut new.cancelled);
        mail.expired.append(&mut new.expired);
        mail.wakes.append(&mut new.wakes);
        mail.pokes.append(&mut new.pokes);
        mail.check_lag |= new.check_lag;
        drop(mail);
        self.arrived.notify_one();
    }
}
