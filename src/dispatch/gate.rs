//! A cap that several lanes share: attempts to one host, attempts in all. Owns who waits for a free place.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::id::WebhookNo;

pub struct Gate(Mutex<State>);

struct State {
    max: u32,
    used: u32,
    /// Lanes that were turned away, each once, in the order they came.
    waiting: VecDeque<WebhookNo>,
}

impl Gate {
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self(Mutex::new(State { max, used: 0, waiting: VecDeque::new() }))
    }

    pub fn set_max(&self, max: u32) {
        self.lock().max = max;
    }

    /// Takes a place, or notes that `lane` waits for one.
    #[must_use]
    pub fn enter(&self, lane: WebhookNo) -> bool {
        let mut state = self.lock();
        if state.used < state.max {
            state.used += 1;
            return true;
        }
        if !state.waiting.contains(&lane) {
            state.waiting.push_back(lane);
        }
        false
    }

    /// Gives a place back; names the lane that should try next.
    #[must_use]
    pub fn leave(&self) -> Option<WebhookNo> {
        let mut state = self.lock();
        state.used = state.used.saturating_sub(1);
        state.waiting.pop_front()
    }

    /// Whether every place is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let state = self.lock();
        state.used >= state.max
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_is_called_when_a_place_frees() {
        let gate = Gate::new(1);
        assert!(gate.enter(1));
        assert!(!gate.enter(2));
        assert!(!gate.enter(2));
        assert!(!gate.enter(3));
        assert_eq!(gate.leave(), Some(2));
        assert!(gate.enter(2));
        assert_eq!(gate.leave(), Some(3));
        assert_eq!(gate.leave(), None);
    }
}
