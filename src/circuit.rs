//! The circuit of one webhook: a breaker that counts failures in a row. Owns whether first attempts may go out and when
//! the next probe is due.
//!
//! Invariant: the circuit is open from the failure that completes the row until the first success, and while it is open
//! there is always a next probe. Deliveries that have started keep their own schedule and are probes too; which delivery
//! is tried, one at a time, and what dies of waiting (`circuit_expired`) is left to the lane. Rules come in with every
//! call, so that a changed configuration holds at once.

use crate::clock::Millis;
use crate::limits::PROBE_AGAIN_MS;

/// When a circuit opens and how often it is probed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitRules {
    /// Failures in a row that open it; 0: it never opens.
    pub failures: u32,
    /// From opening to the first probe, in milliseconds.
    pub probe_first_ms: Millis,
    /// The wait between probes doubles up to this.
    pub probe_max_ms: Millis,
}

impl Default for CircuitRules {
    /// Contract §5: 5 failures, 30 s, rising to 5 min.
    fn default() -> Self {
        Self { failures: 5, probe_first_ms: 30_000, probe_max_ms: 300_000 }
    }
}

/// The state of one webhook's circuit. A new one is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    failures_in_row: u32,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    since: Millis,
    /// When the newest probe started, or it opened.
    probed_at: Millis,
    next_probe_at: Millis,
    /// What the wait before `next_probe_at` was.
    wait_ms: Millis,
}

impl Circuit {
    /// An attempt succeeded: whatever was, the circuit is closed. `true`: it was open until now.
    pub fn on_success(&mut self) -> bool {
        std::mem::take(self).is_open()
    }

    /// An attempt failed at `now` (schedule time). `true`: this opened the circuit. A failure while it is open changes
    /// nothing about the probes: those move when they start.
    pub fn on_failure(&mut self, rules: &CircuitRules, now: Millis) -> bool {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        if rules.failures == 0 {
            self.open = None;
            return false;
        }
        if self.is_open() || self.failures_in_row < rules.failures {
            return false;
        }
        // Zero would be a probe without end.
        let wait_ms = rules.probe_first_ms.max(1);
        self.open = Some(Open { since: now, probed_at: now, next_probe_at: now.saturating_add(wait_ms), wait_ms });
        true
    }

    /// A probe starts at `now`: the next one is due after twice the last wait, at most `probe_max_ms`.
    pub fn on_probe(&mut self, rules: &CircuitRules, now: Millis) {
        if let Some(open) = &mut self.open {
            open.wait_ms = open.wait_ms.saturating_mul(2).min(rules.probe_max_ms.max(rules.probe_first_ms)).max(1);
            open.probed_at = now;
            open.next_probe_at = now.saturating_add(open.wait_ms);
        }
    }

    /// Somebody expects the receiver to be well: the next probe is due, however soon they ask again not within
    /// `PROBE_AGAIN_MS` of the last one. `true`: there is something to probe for.
    pub fn expect_well(&mut self) -> bool {
        if let Some(open) = &mut self.open {
            open.next_probe_at = open.next_probe_at.min(open.probed_at.saturating_add(PROBE_AGAIN_MS));
        }
        self.is_open()
    }

    /// Whether first attempts have to wait.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What waits behind it begins to wait only now.
    pub fn wait_anew(&mut self, now: Millis) {
        if let Some(open) = &mut self.open {
            open.since = now;
        }
    }

    /// Since when it is open.
    #[must_use]
    pub fn open_since(&self) -> Option<Millis> {
        self.open.map(|open| open.since)
    }

    /// When the oldest waiting delivery is tried, unless one that has started is due before; `None` while closed.
    #[must_use]
    pub fn next_probe_at(&self) -> Option<Millis> {
        self.open.map(|open| open.next_probe_at)
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_wait_anew_moves_no_probe() {
        let mut circuit = opened(&CircuitRules::default());
        circuit.wait_anew(NOW + 9);
        assert_eq!((circuit.open_since(), circuit.next_probe_at()), (Some(NOW + 9), Some(NOW + 30_000)));
        let mut closed = Circuit::default();
        closed.wait_anew(NOW);
        assert!(!closed.is_open());
    }

    #[test]
    fn whoever_expects_it_to_be_well_gets_a_probe_at_once_and_no_more_than_one_a_second() {
        let rules = CircuitRules::default();
        let mut circuit = opened(&rules);
        assert!(circuit.expect_well());
        assert_eq!(circuit.next_probe_at(), Some(NOW + 1_000));
        circuit.on_probe(&rules, NOW + 10_000);
        assert_eq!(circuit.next_probe_at(), Some(NOW + 70_000), "the waits between probes go on rising");
        (0..2).for_each(|_| assert!(circuit.expect_well()));
        assert_eq!(circuit.next_probe_at(), Some(NOW + 11_000));
        assert!(circuit.on_success() && !circuit.expect_well());
        assert_eq!(circuit.next_probe_at(), None);
        let mut soon = opened(&CircuitRules { probe_first_ms: 100, ..rules });
        assert!(soon.expect_well());
        assert_eq!(soon.next_probe_at(), Some(NOW + 100), "never later than without");
    }

    const NOW: Millis = 1_700_000_000_000;

    fn opened(rules: &CircuitRules) -> Circuit {
        let mut circuit = Circuit::default();
        for row in 1..rules.failures {
            assert!(!circuit.on_failure(rules, NOW), "opened after {row}");
            assert!(!circuit.is_open() && circuit.next_probe_at().is_none());
        }
        assert!(circuit.on_failure(rules, NOW));
        circuit
    }

    #[test]
    fn five_in_a_row_open_it_and_one_success_closes_it() {
        let rules = CircuitRules::default();
        let mut circuit = opened(&rules);
        assert_eq!((circuit.open_since(), circuit.next_probe_at()), (Some(NOW), Some(NOW + 30_000)));
        assert!(circuit.on_success());
        assert_eq!(circuit, Circuit::default());
        assert!(!circuit.on_success());
        // The row starts again: four more failures are not five.
        assert!((0..4).all(|_| !circuit.on_failure(&rules, NOW)));
        assert!(circuit.on_failure(&rules, NOW));
    }

    #[test]
    fn a_success_in_between_breaks_the_row() {
        let rules = CircuitRules::default();
        let mut circuit = Circuit::default();
        for _ in 0..100 {
            assert!((0..4).all(|_| !circuit.on_failure(&rules, NOW)));
            assert!(!circuit.on_success());
        }
    }

    #[test]
    fn probes_double_from_thirty_seconds_to_five_minutes() {
        let rules = CircuitRules::default();
        let mut circuit = opened(&rules);
        let mut waits = vec![circuit.next_probe_at().unwrap() - NOW];
        for _ in 0..6 {
            let now = circuit.next_probe_at().unwrap();
            circuit.on_probe(&rules, now);
            assert!(!circuit.on_failure(&rules, now + 10_000), "opened twice");
            waits.push(circuit.next_probe_at().unwrap() - now);
        }
        assert_eq!(waits, [30_000, 60_000, 120_000, 240_000, 300_000, 300_000, 300_000]);
        assert_eq!((circuit.open_since(), circuit.failures_in_row()), (Some(NOW), 11));
        // The next time starts from thirty seconds again.
        circuit.on_success();
        assert_eq!(opened(&rules).next_probe_at(), Some(NOW + 30_000));
    }

    #[test]
    fn late_failures_of_what_was_in_flight_move_no_probe() {
        let rules = CircuitRules::default();
        let mut circuit = opened(&rules);
        for late in 1..8 {
            assert!(!circuit.on_failure(&rules, NOW + late * 1_000));
        }
        assert_eq!(circuit.next_probe_at(), Some(NOW + 30_000));
    }

    #[test]
    fn zero_means_no_circuit() {
        let off = CircuitRules { failures: 0, ..CircuitRules::default() };
        let mut circuit = Circuit::default();
        assert!((0..1_000).all(|_| !circuit.on_failure(&off, NOW)));
        circuit.on_probe(&off, NOW);
        assert!(!circuit.is_open());
        // Switched off while open: the next attempt's failure lets go.
        let mut circuit = opened(&CircuitRules::default());
        assert!(!circuit.on_failure(&off, NOW));
        assert!(!circuit.is_open());
    }

    #[test]
    fn odd_rules_keep_probes_apart_and_finite() {
        let zero = CircuitRules { failures: 1, probe_first_ms: 0, probe_max_ms: 0 };
        let mut circuit = opened(&zero);
        for now in [NOW, Millis::MAX] {
            circuit.on_probe(&zero, now);
            assert_eq!(circuit.next_probe_at(), Some(now.saturating_add(1)));
        }
        let upside_down = CircuitRules { failures: 1, probe_first_ms: 1_000, probe_max_ms: 10 };
        let mut circuit = opened(&upside_down);
        circuit.on_probe(&upside_down, NOW);
        assert_eq!(circuit.next_probe_at(), Some(NOW + 1_000));
        let vast = CircuitRules { failures: 1, probe_first_ms: Millis::MAX, probe_max_ms: Millis::MAX };
        let mut circuit = opened(&vast);
        circuit.on_probe(&vast, NOW);
        assert_eq!(circuit.next_probe_at(), Some(Millis::MAX));
    }
}
