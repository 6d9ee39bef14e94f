//! What attempts that a lane starts together have in common, and the places that each of them takes up at the gates: given back
//! exactly where they were taken, however the attempt ends.
//!
//! Workers run on cores of their own, and counting the holders of one thing from two of them costs more than most of what an
//! attempt does. So what a lane gives is held once for all that it starts at a time, and each attempt holds that.

use std::sync::Arc;

use super::cell::LaneCell;
use super::settings::Plan;
use super::worker::Worker;

/// Attempts that were started together.
pub(super) struct Departure {
    pub worker: Arc<Worker>,
    pub cell: Arc<LaneCell>,
    /// What they were started by: where they have their places, whatever plan is in force by now.
    pub plan: Arc<Plan>,
    /// How often the lane had been changed.
    pub changes: u64,
}

/// Held by an attempt while it is under way.
pub(super) struct Places {
    pub departure: Arc<Departure>,
    given_back: bool,
}

impl Departure {
    /// Gives the places of so many of its attempts back.
    fn give_back(&self, attempts: u32) {
        let dispatcher = &self.worker.dispatcher;
        for gate in self.plan.gates.iter().flatten() {
            dispatcher.leave(gate, attempts);
        }
        dispatcher.leave(&dispatcher.all, attempts);
    }
}

impl Places {
    /// Stands for the places of one attempt that the lane has taken.
    pub fn taken(departure: Arc<Departure>) -> Self {
        Self { departure, given_back: false }
    }

    pub fn give_back(&mut self) {
        if !std::mem::replace(&mut self.given_back, true) {
            self.departure.give_back(1);
        }
    }

    /// Gives those of several attempts back, of as many at a time as have the same.
    pub fn give_all_back<'a>(all: impl Iterator<Item = &'a mut Self>) {
        let mut last: Option<(&Departure, u32)> = None;
        for places in all.filter(|places| !places.given_back) {
            places.given_back = true;
            let departure = &*places.departure;
            match &mut last {
                Some((before, count)) if Arc::ptr_eq(&before.plan, &departure.plan) => *count += 1,
                _ => {
                    let before = last.replace((departure, 1));
                    before.into_iter().for_each(|(before, count)| before.give_back(count));
                }
            }
        }
        last.into_iter().for_each(|(before, count)| before.give_back(count));
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.give_back();
    }
}
