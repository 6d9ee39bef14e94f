//! How many tests of webhooks a tenant may have under way. Owns the count of each.
//!
//! A test holds its request, body and all, for as long as the receiver takes, and passes by the permits of lanes and hosts.
//! Without a bound one tenant whose receiver hangs could hold all the room there is for the bodies of requests.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Error;
use crate::limits::TESTS_PER_TENANT_MAX;
use crate::model::id::TenantNo;

/// Tests under way, by tenant; who has none is not there.
#[derive(Default)]
pub struct Trials(Mutex<HashMap<TenantNo, usize>>);

/// A test under way; over on drop.
pub struct UnderWay<'a> {
    trials: &'a Trials,
    tenant: TenantNo,
}

impl Trials {
    /// Begins a test.
    ///
    /// # Errors
    /// When the tenant has as many under way as it may.
    pub fn begin(&self, tenant: TenantNo) -> Result<UnderWay<'_>, Error> {
        let mut counts = self.lock();
        let count = counts.entry(tenant).or_default();
        if *count >= TESTS_PER_TENANT_MAX {
            let message = "as many tests are under way as may; wait until one has ended";
            return Err(Error::Conflict { code: "too_many_tests", message });
        }
        *count += 1;
        Ok(UnderWay { trials: self, tenant })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantNo, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut counts = self.trials.lock();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_so_many_and_who_has_none_is_forgotten() {
        let trials = Trials::default();
        let mut held: Vec<_> = (0..TESTS_PER_TENANT_MAX).map(|_| trials.begin(1).expect("room")).collect();
        assert!(matches!(trials.begin(1), Err(Error::Conflict { code: "too_many_tests", .. })));
        assert!(trials.begin(2).is_ok(), "another tenant's are its own");
        held.pop();
        held.push(trials.begin(1).expect("one has ended"));
        drop(held);
        assert!(trials.lock().is_empty());
    }
}
