//! A cap that several lanes share: attempts to one host, of one tenant, in all. Owns who waits for a free place.
//!
//! First come, first served: a place that frees while lanes wait is promised to the one that waits longest, and nobody else
//! can take it. Whoever wakes that lane says `looked` afterwards: a promise that it did not need goes on to the next. So no
//! place stays free while a lane waits for it, and no lane that comes late passes those that wait.
//!
//! An attempt needs a place at its host, one of its tenant and one of all. Were the one promised to this lane and the other to
//! that, both would look in vain and pass their promises to each other without end. So they have ranks, in that order: whoever
//! is promised a place takes any free one at the gates behind it, and the lane that this one was promised to is the next in
//! line.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::id::WebhookNo;

pub struct Gate(Mutex<State>);

/// The gates that attempts of one webhook go through before the daemon's: its host's, its tenant's.
pub type Gates = [Option<Arc<Gate>>; 2];

/// The gates on the way of one webhook's attempts, one behind the other. Asked once they stay locked until this is gone: so a lane
/// that starts several attempts at once asks for one lock each, and not for one each and attempt.
pub struct Doors<'a> {
    gates: [Option<&'a Gate>; 3],
    states: [Option<MutexGuard<'a, State>>; 3],
}

struct State {
    max: u32,
    used: u32,
    /// Lanes that were turned away, each once, in the order they came.
    waiting: VecDeque<WebhookNo>,
    queued: HashSet<WebhookNo>,
    /// Lanes that were called for a place each and have not looked yet.
    promised: HashSet<WebhookNo>,
}

impl Gate {
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self(Mutex::new(State {
            max,
            used: 0,
            waiting: VecDeque::new(),
            queued: HashSet::new(),
            promised: HashSet::new(),
        }))
    }

    /// Sets the cap. When it rises, lanes that wait are to be looked at by the caller.
    pub fn set_max(&self, max: u32) {
        self.lock().max = max;
    }

    /// Gives so many places back; names the lanes that they are promised to, which have to be woken.
    #[must_use]
    pub fn give_back(&self, places: u32) -> Vec<WebhookNo> {
        let mut state = self.lock();
        state.used = state.used.saturating_sub(places);
        (0..places).map_while(|_| state.promise()).collect()
    }

    /// A lane that was woken has taken what it wanted; names the next one to wake.
    #[must_use]
    pub fn looked(&self, lane: WebhookNo) -> Option<WebhookNo> {
        let mut state = self.lock();
        state.promised.remove(&lane);
        state.promise()
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

impl<'a> Doors<'a> {
    /// Those of `before` and `all`, none of them asked yet.
    #[must_use]
    pub fn of([host, tenant]: [Option<&'a Gate>; 2], all: &'a Gate) -> Self {
        Self { gates: [host, tenant, Some(all)], states: [None, None, None] }
    }

    /// Takes a place at each, or at none; then `lane` waits at the first that is full.
    #[must_use]
    pub fn enter(&mut self, lane: WebhookNo) -> bool {
        // All are held at once, always in this order: no place is ever taken just to be given back.
        for (state, gate) in self.states.iter_mut().zip(self.gates) {
            if state.is_none() {
                *state = gate.map(Gate::lock);
            }
        }
        let mut is_called = false;
        for state in self.states.iter_mut().flatten() {
            let may_pass = state.has_place(lane) || (is_called && state.used < state.max);
            if !may_pass {
                state.queue(lane);
                return false;
            }
            is_called |= state.promised.contains(&lane);
        }
        self.states.iter_mut().flatten().for_each(|state| state.take(lane));
        true
    }
}

impl State {
    fn has_place(&self, lane: WebhookNo) -> bool {
        let spoken_for = self.promised.len() - usize::from(self.promised.contains(&lane));
        self.used as usize + spoken_for < self.max as usize
    }

    fn take(&mut self, lane: WebhookNo) {
        self.used += 1;
        // Asked first: to remove something from an empty set it is hashed all the same.
        if !self.promised.is_empty() {
            self.promised.remove(&lane);
        }
    }

    fn queue(&mut self, lane: WebhookNo) {
        if !self.queued.insert(lane) {
            return;
        }
        if self.promised.contains(&lane) {
            // Somebody went before it.
            self.waiting.push_front(lane);
        } else {
            self.waiting.push_back(lane);
        }
    }

    fn promise(&mut self) -> Option<WebhookNo> {
        if self.used as usize + self.promised.len() >= self.max as usize {
            return None;
        }
        let lane = self.waiting.pop_front()?;
        self.queued.remove(&lane);
        self.promised.insert(lane);
        Some(lane)
    }
}

#[cfg(test)]
impl Gate {
    /// Takes a place at each of `before` and at `all`, or at none.
    pub fn enter(before: [Option<&Self>; 2], all: &Self, lane: WebhookNo) -> bool {
        Doors::of(before, all).enter(lane)
    }

    /// Gives one place back.
    pub fn leave(&self) -> Option<WebhookNo> {
        self.give_back(1).pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(gate: &Gate, lane: WebhookNo) -> bool {
        Gate::enter([None, None], gate, lane)
    }

    #[test]
    fn places_given_back_together_are_promised_each() {
        let gate = Gate::new(3);
        assert!((1..4).all(|lane| enter(&gate, lane)));
        assert!((4..9).all(|lane| !enter(&gate, lane)));
        assert_eq!(gate.give_back(2), [4, 5]);
        assert!(!enter(&gate, 1) && enter(&gate, 4) && enter(&gate, 5), "a promised place was taken by another");
        assert_eq!((gate.looked(4), gate.looked(5)), (None, None));
        assert_eq!(gate.give_back(3), [6, 7, 8]);
    }

    #[test]
    fn who_starts_several_is_let_in_until_it_is_full() {
        let (host, all) = (Gate::new(2), Gate::new(3));
        let mut doors = Doors::of([Some(&host), None], &all);
        assert!(doors.enter(1) && doors.enter(1) && !doors.enter(1));
        drop(doors);
        assert!(host.is_full() && !all.is_full());
        assert_eq!((all.give_back(2), host.give_back(2)), (vec![], vec![1]));
    }

    #[test]
    fn who_is_turned_away_is_called_when_a_place_frees() {
        let gate = Gate::new(1);
        assert!(enter(&gate, 1));
        assert!(!enter(&gate, 2));
        assert!(!enter(&gate, 2));
        assert!(!enter(&gate, 3));
        assert_eq!(gate.leave(), Some(2));
        assert!(enter(&gate, 2));
        assert_eq!(gate.looked(2), None);
        assert_eq!(gate.leave(), Some(3));
        assert!(enter(&gate, 3));
        assert_eq!(gate.looked(3), None);
        assert_eq!(gate.leave(), None);
    }

    #[test]
    fn a_promised_place_is_not_taken_by_who_comes_late() {
        let gate = Gate::new(1);
        assert!(enter(&gate, 1));
        assert!(!enter(&gate, 2));
        assert_eq!(gate.leave(), Some(2));
        assert!(!enter(&gate, 1), "it passed a lane that waited");
        assert!(enter(&gate, 2));
        assert_eq!(gate.looked(2), None);
        assert_eq!(gate.leave(), Some(1));
    }

    #[test]
    fn a_promise_that_is_not_needed_goes_on() {
        let gate = Gate::new(1);
        assert!(enter(&gate, 1));
        for lane in 2..6 {
            assert!(!enter(&gate, lane));
        }
        let mut woken = gate.leave();
        for lane in 2..5 {
            assert_eq!(woken, Some(lane));
            // Its deliveries went elsewhere meanwhile.
            woken = gate.looked(lane);
        }
        assert_eq!(woken, Some(5));
        assert!(enter(&gate, 5));
    }

    #[test]
    fn both_places_or_none() {
        let (host, all) = (Gate::new(1), Gate::new(1));
        assert!(Gate::enter([None, None], &all, 1));
        assert!(!Gate::enter([Some(&host), None], &all, 2));
        assert!(!host.is_full(), "a place was kept");
        assert_eq!(host.leave(), None);
        assert_eq!(all.leave(), Some(2));
        assert!(Gate::enter([Some(&host), None], &all, 2));
        assert!(!Gate::enter([Some(&host), None], &all, 3));
        // It waits for the host, not for the daemon.
        assert_eq!(all.looked(2), None);
        assert_eq!(all.leave(), None);
        assert_eq!(host.leave(), Some(3));
    }

    #[test]
    fn promises_that_cross_are_not_passed_on_for_ever() {
        let (host, all) = (Gate::new(2), Gate::new(2));
        assert!(Gate::enter([Some(&host), None], &all, 1) && Gate::enter([Some(&host), None], &all, 2));
        // One waits at the host, the other at all, as it is when the other host that it came from was full.
        assert!(!Gate::enter([Some(&host), None], &all, 3));
        assert!(!enter(&all, 4));
        assert_eq!((all.leave(), host.leave()), (Some(4), Some(3)));
        // The fourth needs a place at this host now, which is promised to the third.
        assert!(!Gate::enter([Some(&host), None], &all, 4));
        assert!(Gate::enter([Some(&host), None], &all, 3), "two lanes wait for each other");
        assert_eq!((host.looked(3), all.looked(4)), (None, None));
        assert!(all.is_full());
        assert_eq!((all.leave(), host.leave()), (None, Some(4)));
        assert!(Gate::enter([Some(&host), None], &all, 4));
    }

    #[test]
    fn a_promise_at_any_gate_goes_before_one_behind_it() {
        let (host, tenant, all) = (Gate::new(1), Gate::new(1), Gate::new(1));
        let gates = [Some(&host), Some(&tenant)];
        assert!(Gate::enter(gates, &all, 1));
        // Each gate has somebody else waiting first.
        assert!(!Gate::enter(gates, &all, 2) && !Gate::enter([None, gates[1]], &all, 3) && !enter(&all, 4));
        assert_eq!((all.leave(), tenant.leave(), host.leave()), (Some(4), Some(3), Some(2)));
        assert!(!enter(&tenant, 9) && !enter(&host, 9), "these are promised");
        assert!(Gate::enter(gates, &all, 2), "lanes wait for each other");
        assert_eq!((host.looked(2), tenant.looked(3), all.looked(4)), (None, None, None));
        assert_eq!((all.leave(), tenant.leave(), host.leave()), (None, Some(9), Some(9)));
        assert!(host.looked(9).is_none() && tenant.looked(9).is_none());
        assert!(Gate::enter([None, gates[1]], &all, 3));
        assert!(!enter(&all, 4), "none is left");
    }

    #[test]
    fn who_loses_a_promised_place_is_the_next() {
        let (host, all) = (Gate::new(1), Gate::new(1));
        assert!(Gate::enter([Some(&host), None], &all, 1));
        assert!(!Gate::enter([Some(&host), None], &all, 2));
        assert!(!enter(&all, 3) && !enter(&all, 4));
        assert_eq!((all.leave(), host.leave()), (Some(3), Some(2)));
        assert!(Gate::enter([Some(&host), None], &all, 2));
        assert!(!enter(&all, 3));
        assert_eq!((all.looked(3), host.looked(2)), (None, None));
        assert_eq!(all.leave(), Some(3));
    }

    #[test]
    fn a_lower_cap_holds_for_who_comes_next() {
        let gate = Gate::new(2);
        assert!(enter(&gate, 1) && enter(&gate, 2) && !enter(&gate, 3));
        gate.set_max(1);
        assert_eq!(gate.leave(), None);
        assert!(gate.is_full());
        assert_eq!(gate.leave(), Some(3));
        gate.set_max(0);
        assert!(!enter(&gate, 3));
        assert_eq!(gate.looked(3), None);
        gate.set_max(1);
        assert!(enter(&gate, 3));
    }
}
