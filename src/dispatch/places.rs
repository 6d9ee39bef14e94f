//! The places that an attempt takes up at the gates: given back exactly where they were taken, however the attempt ends.

use std::sync::Arc;

use super::dispatcher::Dispatcher;
use super::gate::Gates;

/// Held by an attempt while it is under way.
pub(super) struct Places {
    dispatcher: Arc<Dispatcher>,
    gates: Gates,
}

impl Places {
    /// Stands for places that were taken at `gates` and at the daemon's gate.
    pub fn taken(dispatcher: Arc<Dispatcher>, gates: Gates) -> Self {
        Self { dispatcher, gates }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for gate in self.gates.iter().flatten() {
            self.dispatcher.leave(gate);
        }
        self.dispatcher.leave(&self.dispatcher.all);
    }
}
