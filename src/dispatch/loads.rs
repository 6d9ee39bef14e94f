//! Reads of durable queues that wait for their turn: few run at once, however many lanes ask. Owns that order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cell::LaneCell;
use super::lane::Load;
use crate::limits::LOADS_MAX;
use crate::model::id::WebhookNo;

/// A read that a lane waits for.
pub(super) struct Wanted {
    pub no: WebhookNo,
    pub cell: Arc<LaneCell>,
    pub load: Load,
}

/// One entry a lane at most, because a lane asks again only after an answer.
#[derive(Default)]
pub(super) struct Loads(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Wanted>,
    running: usize,
}

impl Loads {
    /// Puts a read in. True: the caller is to start one more reader, which calls `next` until there is nothing.
    #[must_use]
    pub fn ask(&self, wanted: Wanted) -> bool {
        let mut state = self.lock();
        state.waiting.push_back(wanted);
        let more = state.running < LOADS_MAX;
        state.running += usize::from(more);
        more
    }

    /// The next read for a reader; `None` ends it.
    #[must_use]
    pub fn next(&self) -> Option<Wanted> {
        let mut state = self.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.running -= 1;
            state.waiting = VecDeque::new();
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
