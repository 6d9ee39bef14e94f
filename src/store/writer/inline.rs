//! The writer as a task. Owns its loop for simulations, where threads of its own would make every run another one.
//!
//! The same groups are closed by the same rules, by the runtime's time; reads are made where they are asked for.

use std::sync::Arc;

use super::{Downstream, Parts, State, Store, idle_after};

impl Parts {
    /// The handle that a writer in a task will serve.
    #[must_use]
    pub fn inline_store(&self) -> Store {
        Store { inline: true, ..self.store() }
    }
}

impl Store {
    /// Runs the writer until the store is closed.
    pub async fn run_inline(&self, parts: Parts, downstream: Arc<dyn Downstream>) {
        let (mut writer, mut engine) = self.writer(parts, downstream);
        let inbox = self.inbox.clone();
        while let Some(requests) = inbox.next_in_task(writer.last, idle_after(&engine)).await {
            let mut turn = writer.turn(engine, requests);
            engine = loop {
                turn.state = match turn.state {
                    State::Written(engine) => break engine,
                    State::Broken(broken) => {
                        tokio::time::sleep(broken.wait).await;
                        writer.mend(broken)
                    }
                    State::Damaged => return writer.end(None),
                };
            };
            writer.account(turn.start, turn.tickets);
        }
        writer.end(Some(engine));
    }
}
