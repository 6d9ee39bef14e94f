//! A host: what the webhooks that deliver to one place share. Owns its cap and its kept connections.
//!
//! Connections belong to the host and not to a webhook: a hundred thousand webhooks of a few hosts would otherwise make a
//! connection for every delivery, because so many can't be kept. What a connection may be used for is `egress`'s to judge:
//! scheme, name and port, under the rules it was made under; nothing of a webhook is in it.

use std::sync::Arc;

use super::gate::Gate;
use crate::egress::Pool;

pub struct Host {
    pub gate: Arc<Gate>,
    /// One pool a worker: a connection is driven by the runtime that made it.
    pools: Box<[Pool]>,
}

impl Host {
    #[must_use]
    pub fn new(gate: Arc<Gate>, workers: usize) -> Self {
        Self { gate, pools: (0..workers.max(1)).map(|_| Pool::default()).collect() }
    }

    /// The connections of one worker.
    #[must_use]
    pub fn pool(&self, worker: usize) -> &Pool {
        &self.pools[worker % self.pools.len()]
    }

    /// Lets go of every idle connection.
    pub fn close(&self) {
        self.pools.iter().for_each(Pool::close);
    }

    /// Whether a lane or an attempt still needs it.
    pub(super) fn is_wanted(host: &Arc<Self>) -> bool {
        Arc::strong_count(host) > 1 || Arc::strong_count(&host.gate) > 1
    }
}
