//! On whose behalf the service changes something, and what is written beside the change: the mark of a signed request and
//! the audit record. Owns that it is written once, with the first change that is made for the asker, or by itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Service;
use super::error::Error;
use crate::model::audit::{Actor, Audit};
use crate::store::op::{Done, Guard, Mark, Op};

/// One request, as far as changing something needs to know it.
pub struct Asker {
    /// The worker whose task waits for the store, if it is one's.
    worker: Option<usize>,
    /// What is still to be written; `None`: nothing, or it is written.
    guard: Mutex<Option<Guard>>,
}

impl Asker {
    #[must_use]
    pub fn new(worker: Option<usize>, guard: Guard) -> Self {
        let empty = guard.mark.is_none() && guard.audit.is_none();
        Self { worker, guard: Mutex::new((!empty).then_some(guard)) }
    }

    /// Somebody other than a client, who is on record with what is done.
    #[must_use]
    pub fn of_actor(actor: Actor, action: &str) -> Self {
        Self::new(None, Guard { mark: None, audit: Some(Box::new(Audit::new(actor, action))) })
    }

    /// Names what the request is about, where its path does not.
    pub fn about(&self, target: impl ToString) {
        self.change(|audit| audit.target = Some(target.to_string()));
    }

    /// Names the tenant whose own that is, where nobody who asks has one.
    pub fn of_tenant(&self, tenant: impl ToString) {
        self.change(|audit| audit.tenant = Some(tenant.to_string()));
    }

    /// Says what it came to, where that is not what was asked for.
    pub fn came_to(&self, outcome: &str) {
        self.change(|audit| outcome.clone_into(&mut audit.outcome));
    }

    fn change(&self, change: impl FnOnce(&mut Audit)) {
        if let Some(audit) = self.lock().as_mut().and_then(|guard| guard.audit.as_mut()) {
            change(audit);
        }
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.lock().is_none()
    }

    /// What is not written yet.
    #[must_use]
    pub fn unwritten(&self) -> Option<Guard> {
        self.lock().clone()
    }

    /// Hands over what is not written yet: it is the taker's to write now.
    #[must_use]
    pub fn take(&self) -> Guard {
        self.lock().take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Guard>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Asks the store for a change, with what stands or falls with it.
    pub(super) async fn submit(&self, op: Op, asker: &Asker) -> Result<Done, Error> {
        let Some(guard) = asker.unwritten() else { return Ok(self.store.submit(op, asker.worker).await?) };
        let done = self.store.submit(Op::Guarded { guard, op: Box::new(op) }, asker.worker).await?;
        *asker.lock() = None;
        Ok(done)
    }

    /// Writes what no change has taken with it: a request that changed nothing, or that only reads, is on record too.
    ///
    /// # Errors
    /// When it can't be written, or the request's twin was first.
    pub async fn sign_off(&self, asker: &Asker) -> Result<(), Error> {
        if !asker.is_done() {
            self.submit(Op::Ping, asker).await?;
        }
        Ok(())
    }

    /// Whether a signature was accepted before.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_replay(&self, mark: Mark) -> Result<bool, Error> {
        Ok(self.store.read(move |shared| shared.view()?.is_marked(&mark)).await?)
    }
}
