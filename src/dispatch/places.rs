//! The places that an attempt takes up at the gates: given back exactly where they were taken, however the attempt ends.

use std::sync::Arc;

use super::dispatcher::Dispatcher;
use super::gate::Gate;

/// Held by an attempt while it is under way.
pub(super) struct Places {
    dispatcher: Arc<Dispatcher>,
    host: Option<Arc<Gate>>,
}

impl Places {
    /// Stands for places that were taken at `host` and at the daemon's gate.
    pub fn taken(dispatcher: Arc<Dispatcher>, host: Option<Arc<Gate>>) -> Self {
        Self { dispatcher, host }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if let Some(host) = &self.host {
            self.dispatcher.leave(host);
        }
        self.dispatcher.leave(&self.dispatcher.all);
    }
}
