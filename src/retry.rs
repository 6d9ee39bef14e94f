//! When to try again. Owns the retry policies and the one rule that turns an exchange into a verdict.
//!
//! Invariant: a retry is never earlier than its policy's jittered delay, and never earlier than a `Retry-After` that the
//! receiver was entitled to send (429 and 503), up to its cap. Time and chance come in as values; what the verdict does to the
//! delivery, the webhook (410 makes it inactive) and the circuit is left to the callers.

mod plans;

use crate::clock::Millis;
use crate::limits;
use crate::model::attempt::{DeadReason, Exchange, Verdict};

pub use plans::Plans;

/// How often, and after which waits, a delivery is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The wait before each retry, in milliseconds: the first attempt plus `delays_ms.len()` retries make the budget.
    pub delays_ms: Vec<Millis>,
    /// Every wait is spread evenly over `1 - jitter` to `1 + jitter` of itself; 0 to 1.
    pub jitter: f64,
}

/// The spread of the built-in policies (contract §5: ±20 %).
const JITTER: f64 = 0.2;
/// A computed wait is never longer than this (a year): it keeps `factor` from running off.
const DELAY_MAX_MS: f64 = 365.0 * 24.0 * 3_600_000.0;

impl Policy {
    /// The default: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h (contract §5, the schedule that Standard Webhooks
    /// recommends).
    #[must_use]
    pub fn standard() -> Self {
        const MINUTE: Millis = 60_000;
        const HOUR: Millis = 60 * MINUTE;
        let delays_ms =
            vec![5_000, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self { delays_ms, jitter: JITTER }
    }

    /// Vibe's five retries with exponential backoff (seed; contract §4.3 sets 30 s and ×4): 30 s, 2, 8, 32, 128 min.
    #[must_use]
    pub fn vibe() -> Self {
        Self::exponential(30_000, 4.0, Millis::MAX, 5, JITTER)
    }

    /// `retries` waits that start at `first_ms` and grow by `factor`, none longer than `max_ms` (nor than a year).
    #[must_use]
    pub fn exponential(first_ms: Millis, factor: f64, max_ms: Millis, retries: u32, jitter: f64) -> Self {
        let cap = (max_ms as f64).min(DELAY_MAX_MS);
        let delays_ms = std::iter::successors(Some(first_ms as f64), |delay| Some((delay * factor).min(cap)))
            .take(retries as usize)
            // Saturates at both ends; a `NaN` from a senseless factor becomes 0.
            .map(|delay| delay.min(cap) as Millis)
            .collect();
        Self { delays_ms, jitter }
    }

    /// The policy's span: all of its waits, without jitter. What has waited this long behind an open circuit dies.
    #[must_use]
    pub fn span_ms(&self) -> Millis {
        self.delays_ms.iter().fold(0, |sum, delay| sum.saturating_add(*delay))
    }

    /// The wait after attempt `tries_in_series` (from 1), spread by `unit` in `[0, 1)`; `None` when retries are used up.
    #[must_use]
    pub fn delay_ms(&self, tries_in_series: u32, unit: f64) -> Option<Millis> {
        let delay = *self.delays_ms.get(tries_in_series.saturating_sub(1) as usize)?;
        let spread = self.jitter.clamp(0.0, 1.0) * (2.0 * unit.clamp(0.0, 1.0) - 1.0);
        // The spread is applied to the wait instead of the wait being scaled: without jitter it stays exact at any size.
        let shift = (delay as f64 * spread.abs()) as Millis;
        Some(if spread < 0.0 { delay.saturating_sub(shift) } else { delay.saturating_add(shift) })
    }
}

/// What follows from an exchange: `tries_in_series` is this attempt's position in the current budget (from 1; a redrive
/// starts again at 1), `now` is schedule time, `unit` a random number in `[0, 1)`.
#[must_use]
pub fn decide(policy: &Policy, tries_in_series: u32, exchange: &Exchange, now: Millis, unit: f64) -> Verdict {
    if exchange.failure.is_none() {
        return Verdict::Delivered;
    }
    if exchange.status == Some(410) {
        return Verdict::Dead(DeadReason::Gone);
    }
    let Some(delay) = policy.delay_ms(tries_in_series, unit) else {
        return Verdict::Dead(DeadReason::Exhausted);
    };
    Verdict::RetryAt(now.saturating_add(delay.max(asked_for_ms(exchange))))
}

/// The wait that the receiver asked for, in milliseconds; 0 when it did not, or with a status that gives it no say.
fn asked_for_ms(exchange: &Exchange) -> Millis {
    let cap = Millis::try_from(limits::RETRY_AFTER_MAX.as_millis()).unwrap_or(Millis::MAX);
    match (exchange.status, exchange.retry_after_ms) {
        (Some(429 | 503), Some(asked)) => asked.min(cap),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;
    use crate::model::attempt::{Class, Failure};

    const NOW: Millis = 1_700_000_000_000;
    const DAY: Millis = 24 * 3_600_000;

    fn exchange(class: Option<Class>, status: Option<u16>, retry_after_ms: Option<Millis>) -> Exchange {
        let failure = class.map(|class| Failure { class, detail: String::new() });
        Exchange { failure, status, retry_after_ms, remote: None, excerpt: String::new() }
    }

    fn failed(status: u16, retry_after_ms: Option<Millis>) -> Exchange {
        exchange(Some(Class::Status), Some(status), retry_after_ms)
    }

    #[test]
    fn every_step_of_the_built_in_schedules_lies_in_its_band() {
        let seconds = |list: &[u64]| list.iter().map(|s| s * 1_000).collect::<Vec<_>>();
        let standard = seconds(&[5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]);
        let vibe = seconds(&[30, 120, 480, 1_920, 7_680]);
        assert_eq!(Policy::standard().span_ms(), 272_105_000);
        assert_eq!(Policy::vibe().span_ms(), 10_230_000);
        let entropy = Entropy::seeded(7);
        for (policy, delays) in [(Policy::standard(), standard), (Policy::vibe(), vibe)] {
            assert_eq!(policy.delays_ms, delays);
            for (step, delay) in delays.iter().enumerate() {
                let at = |unit| match decide(&policy, step as u32 + 1, &failed(500, None), NOW, unit) {
                    Verdict::RetryAt(at) => at - NOW,
                    other => panic!("{other:?} at step {step}"),
                };
                let (low, high) = (delay / 10 * 8, delay / 10 * 12);
                assert_eq!((at(0.0), at(0.5)), (low, *delay));
                assert!(at(1.0_f64.next_down()).abs_diff(high) <= 1);
                let (mut least, mut most) = (Millis::MAX, 0);
                for _ in 0..1_000 {
                    let wait = at(entropy.unit());
                    assert!((low..=high).contains(&wait), "{wait} at step {step}");
                    (least, most) = (least.min(wait), most.max(wait));
                }
                // A thousand draws reach into the outer twentieths of the band.
                assert!(least < low + (high - low) / 20 && most > high - (high - low) / 20);
            }
            for tries in [delays.len() as u32 + 1, delays.len() as u32 + 2, u32::MAX] {
                let verdict = decide(&policy, tries, &failed(500, None), NOW, 0.5);
                assert_eq!(verdict, Verdict::Dead(DeadReason::Exhausted));
            }
        }
    }

    #[test]
    fn success_and_gone_come_before_everything() {
        let none = Policy { delays_ms: Vec::new(), jitter: 0.0 };
        for policy in [Policy::standard(), none.clone()] {
            for tries in [1, 9, 10, u32::MAX] {
                let success = exchange(None, Some(204), Some(5_000));
                assert_eq!(decide(&policy, tries, &success, NOW, 0.5), Verdict::Delivered);
                let gone = failed(410, Some(5_000));
                assert_eq!(decide(&policy, tries, &gone, NOW, 0.5), Verdict::Dead(DeadReason::Gone));
            }
        }
        assert_eq!(decide(&none, 1, &failed(500, None), NOW, 0.5), Verdict::Dead(DeadReason::Exhausted));
        assert_eq!(none.span_ms(), 0);
    }

    #[test]
    fn every_class_of_failure_is_tried_again() {
        for class in Class::ALL {
            let verdict = decide(&Policy::standard(), 1, &exchange(Some(class), None, Some(9 * DAY)), NOW, 0.5);
            assert_eq!(verdict, Verdict::RetryAt(NOW + 5_000), "{class:?}");
        }
    }

    #[test]
    fn retry_after_is_heard_from_429_and_503_only_never_early_and_capped() {
        let policy = Policy { delays_ms: vec![10_000], jitter: 0.2 };
        let wait = |status, asked, unit| match decide(&policy, 1, &failed(status, asked), NOW, unit) {
            Verdict::RetryAt(at) => at - NOW,
            other => panic!("{other:?}"),
        };
        for status in [429, 503] {
            for (asked, expected) in [
                (None, 10_000),
                (Some(0), 10_000),
                (Some(9_999), 10_000),
                (Some(10_001), 10_001),
                (Some(DAY - 1), DAY - 1),
                (Some(DAY), DAY),
                (Some(DAY + 1), DAY),
                (Some(Millis::MAX), DAY),
            ] {
                assert_eq!(wait(status, asked, 0.5), expected, "{status} {asked:?}");
            }
            assert_eq!(wait(status, Some(8_500), 0.0), 8_500);
            assert_eq!(wait(status, Some(10_000), 0.9), 11_600);
        }
        for status in [301, 400, 404, 408, 425, 500, 502, 504, 599] {
            assert_eq!(wait(status, Some(DAY), 0.5), 10_000, "{status}");
        }
        assert_eq!(decide(&policy, 2, &failed(429, Some(1)), NOW, 0.5), Verdict::Dead(DeadReason::Exhausted));
        // A cap on what a receiver may ask for shortens no wait of the policy's own.
        let slow = Policy { delays_ms: vec![3 * DAY], jitter: 0.0 };
        assert_eq!(decide(&slow, 1, &failed(503, Some(5 * DAY)), NOW, 0.5), Verdict::RetryAt(NOW + 3 * DAY));
    }

    #[test]
    fn nothing_overflows() {
        for (delay, jitter, unit) in [
            (Millis::MAX, 0.0, 0.5),
            (Millis::MAX, 1.0, 0.999),
            (Millis::MAX, 1.0, 0.0),
            (1, f64::NAN, f64::NAN),
            (1_000, f64::INFINITY, 2.0),
            (1_000, -5.0, -1.0),
        ] {
            let policy = Policy { delays_ms: vec![delay, delay], jitter };
            for now in [0, NOW, Millis::MAX] {
                let verdict = decide(&policy, 1, &failed(500, None), now, unit);
                assert!(matches!(verdict, Verdict::RetryAt(at) if at >= now), "{delay} {jitter} {unit} {now}");
            }
            assert!(policy.span_ms() >= delay);
        }
        let exact = Policy { delays_ms: vec![(1 << 53) + 1], jitter: 0.0 };
        assert_eq!(exact.delay_ms(0, 0.9), Some((1 << 53) + 1));
    }

    #[test]
    fn exponential_policies_grow_up_to_their_cap() {
        let delays = |first, factor, max, retries| Policy::exponential(first, factor, max, retries, 0.0).delays_ms;
        assert_eq!(delays(1_000, 2.0, 5_000, 5), [1_000, 2_000, 4_000, 5_000, 5_000]);
        assert_eq!(delays(1_000, 1.5, 60_000, 3), [1_000, 1_500, 2_250]);
        assert_eq!(delays(9_000, 2.0, 5_000, 2), [5_000, 5_000]);
        assert_eq!(delays(1_000, 2.0, 5_000, 0), [] as [Millis; 0]);
        let year = 365 * DAY;
        assert_eq!(delays(1, f64::INFINITY, Millis::MAX, 3), [1, year, year]);
        assert!(delays(1_000, 10.0, Millis::MAX, 400).iter().all(|&delay| delay <= year));
    }
}
