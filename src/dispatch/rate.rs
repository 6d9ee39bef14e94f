//! A webhook's rate limit: at most so many deliveries a second, spread evenly. Takes `now`, so that it runs in simulated
//! time; looking at it costs nothing, so that a delivery that is turned away elsewhere uses nothing up.

use crate::clock::Millis;

/// The generic cell rate algorithm: one number says when the next delivery is due at an even pace.
pub struct Rate {
    /// Between two deliveries, in milliseconds.
    period_ms: f64,
    /// How far ahead of the even pace deliveries may run: a tenth of a second's worth, at least one.
    ahead_ms: f64,
    /// When the even pace has room again, in milliseconds.
    next_ms: f64,
}

impl Rate {
    /// `None` for no limit, and for what is none.
    #[must_use]
    pub fn new(per_second: Option<f64>) -> Option<Self> {
        let rate = per_second.filter(|rate| rate.is_finite() && *rate > 0.0)?;
        let period_ms = 1_000.0 / rate;
        // A rate so low that the next delivery is beyond all time is held to a year.
        let period_ms = period_ms.min(365.0 * 86_400_000.0);
        let burst = (rate / 10.0).clamp(1.0, 10_000.0).floor();
        Some(Self { period_ms, ahead_ms: period_ms * (burst - 1.0), next_ms: 0.0 })
    }

    /// Until when nothing may go; `None`: one may go now.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times fit"
    )]
    pub fn blocked_until(&self, now: Millis) -> Option<Millis> {
        let from = self.next_ms - self.ahead_ms;
        (from > now as f64).then(|| (from.ceil() as Millis).max(now + 1))
    }

    /// One goes now.
    #[expect(clippy::cast_precision_loss, reason = "times fit")]
    pub fn take(&mut self, now: Millis) {
        self.next_ms = self.next_ms.max(now as f64) + self.period_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    /// How many go within `ms`, waking exactly when told.
    fn count(rate: &mut Rate, ms: Millis) -> usize {
        let (mut now, mut gone) = (NOW, 0);
        while now < NOW + ms {
            match rate.blocked_until(now) {
                Some(until) => now = until,
                None => {
                    rate.take(now);
                    gone += 1;
                }
            }
        }
        gone
    }

    #[test]
    fn the_rate_is_held_and_reached() {
        for (per_second, ms, least, most) in [
            (1.0, 60_000, 60, 60),
            (0.1, 60_000, 6, 6),
            (100.0, 10_000, 1_000, 1_010),
            (25_000.0, 1_000, 25_000, 27_500),
        ] {
            let gone = count(&mut Rate::new(Some(per_second)).unwrap(), ms);
            assert!((least..=most).contains(&gone), "{gone} at {per_second} a second");
        }
    }

    #[test]
    fn looking_uses_nothing_up_and_idling_saves_nothing() {
        let mut rate = Rate::new(Some(1.0)).unwrap();
        assert!((0..1_000).all(|_| rate.blocked_until(NOW).is_none()));
        rate.take(NOW);
        assert_eq!(rate.blocked_until(NOW), Some(NOW + 1_000));
        let later = NOW + 3_600_000;
        assert_eq!(rate.blocked_until(later), None);
        rate.take(later);
        assert_eq!(rate.blocked_until(later), Some(later + 1_000));
    }

    #[test]
    fn senseless_rates_are_none() {
        for rate in [None, Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert!(Rate::new(rate).is_none(), "{rate:?}");
        }
        let mut slow = Rate::new(Some(f64::MIN_POSITIVE)).unwrap();
        slow.take(NOW);
        assert!(slow.blocked_until(NOW).unwrap() > NOW);
    }
}
