//! How quick a receiver is of late. Owns one question: is a backlog the receiver's fault or ours?

use crate::clock::Millis;

/// How fast attempts end: whether the receiver or we are what a backlog waits for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    since_ms: Millis,
    ended: usize,
    fast: bool,
}

/// A receiver that ends half as many attempts as there are permits in this time, in ms, is quick.
const QUICK_WITHIN_MS: Millis = 16;
impl Pace {
    /// Counts an attempt that ended; says whether the receiver was quick of late.
    pub fn is_fast(&mut self, now: Millis, permits: usize) -> bool {
        let elapsed = now.saturating_sub(self.since_ms);
        if elapsed >= QUICK_WITHIN_MS {
            let fast = self.ended as u64 * 2 * QUICK_WITHIN_MS >= permits as u64 * elapsed;
            *self = Self { since_ms: now, ended: 0, fast };
        }
        self.ended += 1;
        self.fast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_permits_used_in_16_ms_are_quick_and_in_40_ms_are_not() {
        let mut pace = Pace::default();
        let mut now = 1_000_000;
        let mut quick = Vec::new();
        for step in 0..20 {
            now += if step < 10 { 8 } else { 40 };
            quick.extend([pace.is_fast(now, 2), pace.is_fast(now, 2)]);
        }
        assert!(quick[4..20].iter().all(|quick| *quick));
        assert!(quick[24..].iter().all(|quick| !quick));
    }
}
