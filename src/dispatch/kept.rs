//! Where connections are kept: one set a scheme, name and port, for all webhooks that deliver there.
//!
//! They belong to the endpoint and not to a webhook: connections for each of a hundred thousand webhooks could not be kept, and
//! each delivery would make a new one. Nothing of a webhook is in a connection; what one may be used for is `egress`'s to judge.
//! A set lives as long as a plan of an active webhook or an attempt holds it; its idle connections end with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::egress::{Endpoint, Pool};

/// The connections to one endpoint.
pub struct Connections(Box<[Pool]>);

impl Connections {
    /// Those of one worker: a connection is driven by the runtime that made it.
    #[must_use]
    pub fn of(&self, worker: usize) -> &Pool {
        &self.0[worker % self.0.len()]
    }
}

/// The sets that are in use.
pub struct Kept {
    sets: Mutex<HashMap<Endpoint, Weak<Connections>>>,
    workers: usize,
}

impl Kept {
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { sets: Mutex::default(), workers: workers.max(1) }
    }

    /// The set of an endpoint, made if nobody holds one.
    #[must_use]
    pub fn to(&self, endpoint: &Endpoint) -> Arc<Connections> {
        let mut sets = self.lock();
        if let Some(set) = sets.get(endpoint).and_then(Weak::upgrade) {
            return set;
        }
        let set = Arc::new(Connections((0..self.workers).map(|_| Pool::default()).collect()));
        sets.insert(endpoint.clone(), Arc::downgrade(&set));
        set
    }

    /// Forgets the names of the sets that are gone.
    pub fn tidy(&self) {
        self.lock().retain(|_, set| set.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Endpoint, Weak<Connections>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
