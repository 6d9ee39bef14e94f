//! How fast a key may publish. Owns one bucket a key: a second's worth, filled continuously.
//!
//! A batch is let in whenever the bucket is not empty and is charged as a whole, so that a batch larger than a second's
//! worth is delayed by what came before it and not refused for ever. Times are schedule time.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use crate::clock::Millis;
use crate::model::id::KeyId;

#[derive(Default)]
pub struct Rates {
    /// When each key's bucket is full again, in microseconds. At most one entry a key.
    full_at_us: Mutex<HashMap<KeyId, u64>>,
}

impl Rates {
    /// Charges `events` to a key.
    ///
    /// # Errors
    /// The seconds to wait, when the key's bucket is empty.
    pub fn take(&self, key: KeyId, per_second: NonZeroU32, events: usize, now_ms: Millis) -> Result<(), u64> {
        let each_us = 1_000_000 / u64::from(per_second.get());
        let now = now_ms.saturating_mul(1_000);
        let mut buckets = self.full_at_us.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.entry(key).or_insert(now);
        let begins = (*full_at).max(now);
        let missing = begins - now;
        if missing + each_us > 1_000_000_u64.max(each_us) {
            return Err(missing.div_ceil(1_000_000).max(1));
        }
        *full_at = begins.saturating_add(each_us.saturating_mul(events as u64));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_and_then_one_after_the_other() {
        let (rates, key, ten) = (Rates::default(), KeyId([1; 8]), NonZeroU32::new(10).unwrap());
        for n in 0..10 {
            assert_eq!(rates.take(key, ten, 1, 1_000), Ok(()), "{n}");
        }
        assert_eq!(rates.take(key, ten, 1, 1_000), Err(1));
        assert_eq!(rates.take(KeyId([2; 8]), ten, 1, 1_000), Ok(()));
        assert_eq!(rates.take(key, ten, 1, 1_100), Ok(()));
        assert_eq!(rates.take(key, ten, 1, 1_150), Err(1));
        assert_eq!(rates.take(key, ten, 1_000, 2_200), Ok(()));
        assert_eq!(rates.take(key, ten, 1, 2_201), Err(100));
        assert_eq!(rates.take(key, ten, 1, 200_000), Ok(()));
    }
}
