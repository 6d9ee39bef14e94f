//! How many connections may be open, over all workers of one kind of listener, and what gives way when that is reached.
//!
//! Invariant: a connection is open only while it holds a [`Pass`]. At the cap, the connection that has been without a request
//! the longest is asked to leave; when all are at work, accepting waits. The admin listeners have a gate of their own, so
//! that a flood on the public side can't lock the operator out. Counting is done here, deciding time limits in `server`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::Connections;

/// A connection that has been without a request for less than this isn't asked to leave: it may be in its handshake.
const SHED_AFTER: Duration = Duration::from_millis(500);
/// While full, another idle connection is looked for this often.
const FULL_RETRY: Duration = Duration::from_millis(50);

/// The cap, shared by the workers, and its counters.
pub struct ConnectionGate {
    max: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<BTreeMap<u64, Idle>>,
    tickets: AtomicU64,
    shown: Connections,
}

struct Idle {
    since: Instant,
    leave: Arc<Notify>,
}

/// The right to be open.
pub struct Pass {
    _permit: Option<OwnedSemaphorePermit>,
    shown: Connections,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shown.open.dec();
    }
}

/// A place in the list of connections that are without a request; left on drop.
pub struct IdleTicket {
    gate: Arc<ConnectionGate>,
    number: u64,
}

impl ConnectionGate {
    /// A gate that lets `max` connections be open at once (at least one).
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Self::counted(max, Connections::default())
    }

    /// `new`, with what happens shown by `shown`, which gates may share.
    #[must_use]
    pub fn counted(max: usize, shown: Connections) -> Arc<Self> {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            max,
            permits: Arc::new(Semaphore::new(max)),
            idle: Mutex::default(),
            tickets: AtomicU64::new(0),
            shown,
        })
    }

    /// A gate of its own with another cap, whose connections are shown with these.
    #[must_use]
    pub fn beside(&self, max: usize) -> Arc<Self> {
        Self::counted(max, self.shown.clone())
    }

    /// The most connections that may be open.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.max - self.permits.available_permits().min(self.max)
    }

    /// Connections let in since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shown.accepted.get()
    }

    /// Idle connections that were closed to make room.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shown.shed.get()
    }

    /// Times that accepting failed.
    #[must_use]
    pub fn accept_errors(&self) -> u64 {
        self.shown.accept_errors.get()
    }

    /// TLS handshakes that failed or took too long.
    #[must_use]
    pub fn handshake_errors(&self) -> u64 {
        self.shown.handshake_errors.get()
    }

    /// Waits until one more connection may be open, asking idle ones to leave meanwhile.
    pub async fn enter(&self) -> Pass {
        loop {
            let permit = match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    self.shed_one();
                    let permit = Arc::clone(&self.permits).acquire_owned();
                    tokio::time::timeout(FULL_RETRY, permit).await.ok().and_then(Result::ok)
                }
            };
            if permit.is_some() {
                self.shown.accepted.inc();
                self.shown.open.inc();
                return Pass { _permit: permit, shown: self.shown.clone() };
            }
        }
    }

    /// Asks the connection that has been idle the longest to leave. False when there is none.
    pub fn shed_one(&self) -> bool {
        let mut idle = self.idle();
        let Some(oldest) = idle.first_entry() else { return false };
        if oldest.get().since.elapsed() < SHED_AFTER {
            return false;
        }
        oldest.remove().leave.notify_one();
        self.shown.shed.inc();
        true
    }

    /// Puts a connection on the list of those without a request; `leave` is notified when it has to go.
    #[must_use]
    pub fn idles(self: &Arc<Self>, leave: &Arc<Notify>) -> IdleTicket {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        self.idle().insert(number, Idle { since: Instant::now(), leave: Arc::clone(leave) });
        IdleTicket { gate: Arc::clone(self), number }
    }

    pub(super) fn count_accept_error(&self) {
        self.shown.accept_errors.inc();
    }

    pub(super) fn count_handshake_error(&self) {
        self.shown.handshake_errors.inc();
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<u64, Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleTicket {
    fn drop(&mut self) {
        self.gate.idle().remove(&self.number);
    }
}

/// How many connections the descriptor limit bears: half of it, the rest is for the store, receivers and listeners.
#[must_use]
pub fn descriptor_cap() -> usize {
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    soft.map_or(usize::MAX, |soft| usize::try_from(soft / 2).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_idle_one_gives_way() {
        let gate = ConnectionGate::new(2);
        let (one, two) = (gate.enter().await, gate.enter().await);
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let _tickets = [gate.idles(&first), gate.idles(&second)];
        assert!(!gate.shed_one(), "both are fresh");
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await }
        });
        first.notified().await;
        assert_eq!((gate.open(), gate.shed()), (2, 1));
        drop(one);
        let three = waiting.await.unwrap();
        assert_eq!(gate.open(), 2);
        drop((two, three));
        assert_eq!(gate.open(), 0);
    }

    #[tokio::test]
    async fn a_busy_gate_waits() {
        let gate = ConnectionGate::new(1);
        let pass = gate.enter().await;
        let waiting = tokio::time::timeout(FULL_RETRY * 3, gate.enter()).await;
        assert!(waiting.is_err());
        drop(pass);
        gate.enter().await;
        assert_eq!(gate.accepted(), 2);
    }

    #[test]
    fn a_cap_comes_from_the_descriptor_limit() {
        assert!(descriptor_cap() >= 1);
    }
}
