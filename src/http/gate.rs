//! How many connections may be open, over all workers of one kind of listener, and what gives way when that is reached.
//!
//! Invariant: a connection is open only while it holds a [`Pass`]. At the cap a connection without a request is asked to leave:
//! of the address that holds the most places, the one that has been so the longest; when all are at work, accepting waits. One
//! address never holds all: beyond its share it makes room itself, or is turned away. The admin listeners have a gate of their
//! own, so that a flood on the public side can't lock the operator out. Counting is done here, deciding time limits in `server`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::Connections;

/// A connection that has been without a request for less than this isn't asked to leave: it may be in its handshake.
const SHED_AFTER: Duration = Duration::from_millis(500);
/// From this cap on a quarter of the places is out of one address's reach. With fewer there is nothing to share out.
const SHARED_FROM: usize = 4;
/// While full, another idle connection is looked for this often.
const FULL_RETRY: Duration = Duration::from_millis(50);

/// The cap, shared by the workers, and its counters.
pub struct ConnectionGate {
    max: usize,
    /// The most that one address may hold.
    share: usize,
    permits: Arc<Semaphore>,
    held: Mutex<HashMap<Holder, Held>>,
    tickets: AtomicU64,
    shown: Connections,
}

/// Whom a place is counted for: an IPv4 address, the /64 of an IPv6 address, which is what one customer has at least, or
/// whoever may open the unix socket.
type Holder = Option<IpAddr>;

fn holder(from: Option<IpAddr>) -> Holder {
    from.map(|ip| match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    })
}

/// What one holder has.
#[derive(Default)]
struct Held {
    open: usize,
    /// Those without a request, the first of them for the longest time.
    idle: BTreeMap<u64, Idle>,
}

struct Idle {
    since: Instant,
    leave: Arc<Notify>,
}

/// The right to be open.
pub struct Pass {
    _permit: OwnedSemaphorePermit,
    gate: Arc<ConnectionGate>,
    holder: Holder,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.shown.open.dec();
        let mut held = self.gate.held();
        if let Some(own) = held.get_mut(&self.holder) {
            own.open -= 1;
            if own.open == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

/// A place in the list of connections that are without a request; left on drop.
pub struct IdleTicket {
    gate: Arc<ConnectionGate>,
    holder: Holder,
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
            share: if max < SHARED_FROM { max } else { max - max / 4 },
            permits: Arc::new(Semaphore::new(max)),
            held: Mutex::default(),
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

    /// Connections that were closed at once because their address held its share, all of it at work.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shown.refused.get()
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

    /// Waits until one more connection may be open, asking idle ones to leave meanwhile. `None` when its address has its share
    /// already: then the connection is to be closed, so that those of other addresses don't wait behind it.
    pub async fn enter(self: &Arc<Self>, from: Option<IpAddr>) -> Option<Pass> {
        let holder = holder(from);
        if holder.is_some() && self.share < self.max && !self.makes_room(holder) {
            self.shown.refused.inc();
            return None;
        }
        loop {
            let permit = match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    self.shed_one();
                    let permit = Arc::clone(&self.permits).acquire_owned();
                    tokio::time::timeout(FULL_RETRY, permit).await.ok().and_then(Result::ok)
                }
            };
            if let Some(permit) = permit {
                self.shown.accepted.inc();
                self.shown.open.inc();
                self.held().entry(holder).or_default().open += 1;
                return Some(Pass { _permit: permit, gate: Arc::clone(self), holder });
            }
        }
    }

    /// Whether an address may have one more place: it holds less than its share, or one of its own that is idle leaves, however
    /// short a time it has been so.
    fn makes_room(&self, holder: Holder) -> bool {
        let mut held = self.held();
        let Some(own) = held.get_mut(&holder) else { return true };
        own.open < self.share || self.send_off(own)
    }

    /// Asks an idle connection to leave: of those addresses that have one for long enough, the one that holds the most places
    /// loses the one that has been idle the longest. False when there is none.
    pub fn shed_one(&self) -> bool {
        let mut held = self.held();
        let longest = |own: &Held| own.idle.first_key_value().map(|(number, idle)| (*number, idle.since));
        let due = held.values_mut().filter_map(|own| {
            let (number, since) = longest(own)?;
            (since.elapsed() >= SHED_AFTER).then_some((own.open, Reverse(number), own))
        });
        let heaviest = due.max_by_key(|(open, number, _)| (*open, *number));
        heaviest.is_some_and(|(_, _, own)| self.send_off(own))
    }

    fn send_off(&self, own: &mut Held) -> bool {
        let Some((_, idle)) = own.idle.pop_first() else { return false };
        idle.leave.notify_one();
        self.shown.shed.inc();
        true
    }

    /// Puts the connection of a pass on the list of those without a request; `leave` is notified when it has to go.
    #[must_use]
    pub fn idles(self: &Arc<Self>, pass: &Pass, leave: &Arc<Notify>) -> IdleTicket {
        let (holder, number) = (pass.holder, self.tickets.fetch_add(1, Ordering::Relaxed));
        let idle = Idle { since: Instant::now(), leave: Arc::clone(leave) };
        self.held().entry(holder).or_default().idle.insert(number, idle);
        IdleTicket { gate: Arc::clone(self), holder, number }
    }

    pub(super) fn count_accept_error(&self) {
        self.shown.accept_errors.inc();
    }

    pub(super) fn count_handshake_error(&self) {
        self.shown.handshake_errors.inc();
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Holder, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleTicket {
    fn drop(&mut self) {
        if let Some(own) = self.gate.held().get_mut(&self.holder) {
            own.idle.remove(&self.number);
        }
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

    async fn enter(gate: &Arc<ConnectionGate>, from: &str) -> Option<Pass> {
        gate.enter(from.parse().ok()).await
    }

    #[tokio::test]
    async fn the_longest_idle_one_gives_way() {
        let gate = ConnectionGate::new(2);
        let (one, two) = (enter(&gate, "").await.unwrap(), enter(&gate, "").await.unwrap());
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let _tickets = [gate.idles(&one, &first), gate.idles(&two, &second)];
        assert!(!gate.shed_one(), "both are fresh");
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(None).await }
        });
        first.notified().await;
        assert_eq!((gate.open(), gate.shed()), (2, 1));
        drop(one);
        let three = waiting.await.unwrap().unwrap();
        assert_eq!(gate.open(), 2);
        drop((two, three));
        assert_eq!(gate.open(), 0);
    }

    #[tokio::test]
    async fn a_busy_gate_waits() {
        let gate = ConnectionGate::new(1);
        let pass = enter(&gate, "192.0.2.1").await;
        let waiting = tokio::time::timeout(FULL_RETRY * 3, enter(&gate, "192.0.2.1")).await;
        assert!(waiting.is_err());
        drop(pass);
        drop(enter(&gate, "192.0.2.1").await.unwrap());
        assert_eq!((gate.accepted(), gate.refused()), (2, 0));
    }

    #[tokio::test]
    async fn one_address_never_holds_all() {
        let gate = ConnectionGate::new(8);
        let mut busy = Vec::new();
        // One customer's network, whatever address of it is used.
        for last in 1..=6 {
            busy.push(enter(&gate, &format!("2001:db8:0:1::{last}")).await.expect("a place"));
        }
        assert!(enter(&gate, "2001:db8:0:1::ffff").await.is_none(), "its share is six of eight");
        assert!(enter(&gate, "2001:db8:0:2::1").await.is_some(), "its neighbour's is not");
        assert!(enter(&gate, "192.0.2.1").await.is_some());
        // One of its own that has nothing to do makes room, also when it is fresh.
        let leave = Arc::new(Notify::new());
        let ticket = gate.idles(&busy[3], &leave);
        let more = enter(&gate, "2001:db8:0:1::ffff").await.expect("a place");
        leave.notified().await;
        drop((ticket, busy.remove(3)));
        assert_eq!((gate.open(), gate.shed(), gate.refused()), (6, 1, 1));
        drop((busy, more));
        assert!(gate.held().is_empty(), "who holds nothing is forgotten");
    }

    #[tokio::test]
    async fn who_holds_the_most_loses_first() {
        let gate = ConnectionGate::new(4);
        let small = enter(&gate, "192.0.2.1").await.unwrap();
        let large = [enter(&gate, "192.0.2.2").await.unwrap(), enter(&gate, "192.0.2.2").await.unwrap()];
        let leave: Vec<Arc<Notify>> = (0..3).map(|_| Arc::new(Notify::new())).collect();
        let _tickets =
            [gate.idles(&small, &leave[0]), gate.idles(&large[0], &leave[1]), gate.idles(&large[1], &leave[2])];
        tokio::time::sleep(SHED_AFTER).await;
        for (expected, why) in [(1, "it holds two places"), (2, "it still holds two"), (0, "nobody else is left")] {
            assert!(gate.shed_one());
            let told = tokio::time::timeout(FULL_RETRY, leave[expected].notified()).await;
            assert!(told.is_ok(), "{why}");
        }
        assert!(!gate.shed_one());
    }

    #[test]
    fn a_cap_comes_from_the_descriptor_limit() {
        let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let below = soft.is_none_or(|soft| descriptor_cap() as u64 <= (soft / 2).max(1));
        assert!(descriptor_cap() >= 1 && below, "{} of {soft:?}", descriptor_cap());
    }
}
