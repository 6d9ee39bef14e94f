//! Events held in memory for deliveries to come, counted against one budget for the whole daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::BODIES_BYTES_MAX;
use crate::model::event::Event;

/// A hold on an event's body. All holds that were cloned from one share the event and are counted once.
#[derive(Clone)]
pub struct Body(Arc<Held>);

struct Held {
    event: Arc<Event>,
    weight: usize,
    budget: Arc<AtomicUsize>,
}

impl Body {
    /// Holds `event` if the budget allows.
    #[must_use]
    pub fn hold(event: Arc<Event>, budget: &Arc<AtomicUsize>) -> Option<Self> {
        let weight = event.weight();
        if budget.fetch_add(weight, Ordering::Relaxed) + weight > BODIES_BYTES_MAX {
            budget.fetch_sub(weight, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::new(Held { event, weight, budget: budget.clone() })))
    }

    #[must_use]
    pub fn event(&self) -> &Arc<Event> {
        &self.0.event
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.weight, Ordering::Relaxed);
    }
}
