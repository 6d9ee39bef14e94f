//! Maps keyed by the store's own numbers. Owns their hash: one multiplication, because the numbers are given out by us and
//! nobody can choose them to collide. Every outcome looks several of these maps up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::model::id::{TenantNo, WebhookNo};

/// Something for each of some webhooks.
pub type ByWebhook<T> = HashMap<WebhookNo, T, BuildHasherDefault<NumberHasher>>;

/// Something for each of some tenants.
pub type ByTenant<T> = HashMap<TenantNo, T, BuildHasherDefault<NumberHasher>>;

#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The golden ratio spreads numbers that follow each other over all bits; the map uses high and low ones.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn numbers_that_follow_each_other_spread_over_all_bits() {
        let hasher = BuildHasherDefault::<NumberHasher>::default();
        let hashes: Vec<u64> = (1..=4_096_u32).map(|number| hasher.hash_one(number)).collect();
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), 4_096);
        for shift in [0, 20, 40, 57] {
            let mut counts = [0_u32; 128];
            hashes.iter().for_each(|hash| counts[(hash >> shift & 127) as usize] += 1);
            assert!(counts.iter().all(|count| (8..=80).contains(count)), "bits from {shift} on: {counts:?}");
        }
    }
}
