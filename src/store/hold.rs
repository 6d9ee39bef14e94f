//! Holding the logs: while a backup is made, nothing is removed from their low ends. Owns the one flag for that, which is also
//! why two backups never run at once.
//!
//! Whoever removes what is old asks [`Hold::is_held`] in the transaction that removes. Whoever holds sends an op through the writer before
//! it reads: then what was decided before is committed, and what is decided later sees the flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The flag; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Hold(Arc<AtomicBool>);

/// Held as long as this lives.
#[derive(Debug)]
pub struct Held(Arc<AtomicBool>);

impl Hold {
    /// Holds, unless somebody does already.
    #[must_use]
    pub fn take(&self) -> Option<Held> {
        let free = self.0.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire);
        free.is_ok().then(|| Held(self.0.clone()))
    }

    /// Whether somebody holds: then the low ends stay as they are.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_at_a_time() {
        let hold = Hold::default();
        let held = hold.take();
        assert!(held.is_some() && hold.is_held() && hold.clone().take().is_none());
        drop(held);
        assert!(!hold.is_held() && hold.take().is_some());
    }
}
