//! The places that an attempt takes up at the gates: given back exactly where they were taken, however the attempt ends.

use std::sync::Arc;

use super::gate::Gates;
use super::worker::Worker;

/// Held by an attempt while it is under way.
pub(super) struct Places {
    /// Its own worker's, so that no two cores count the holders of one thing.
    worker: Arc<Worker>,
    gates: Gates,
}

impl Places {
    /// Stands for places that were taken at `gates` and at the daemon's gate.
    pub fn taken(worker: Arc<Worker>, gates: Gates) -> Self {
        Self { worker, gates }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let dispatcher = &self.worker.dispatcher;
        for gate in self.gates.iter().flatten() {
            dispatcher.leave(gate);
        }
        dispatcher.leave(&dispatcher.all);
    }
}
