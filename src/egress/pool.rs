//! Kept connections. Owns who uses a connection, how long it lives and when it ends.
//!
//! A connection is used for the endpoint and under the rules that it was made for, never when it is older than
//! `limits::CONNECTION_AGE_MAX`, and over HTTP/1.1 by one exchange at a time. Its driver task ends it at that age and when
//! the rules change, at once when nobody uses it. An exchange that does not end cleanly takes its connection with it.
//! Making connections is `connect`'s, using them `client`'s.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::guard::PublicAddr;
use super::meter::Meter;
use super::target::Endpoint;
use crate::limits::CONNECTION_AGE_MAX;

/// The idle connections of one worker to one endpoint: costs nothing while empty. The webhooks that deliver there share it.
#[derive(Default)]
pub struct Pool(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// HTTP/1.1: idle ones only, the latest used last.
    idle: Vec<Connection>,
    /// HTTP/2: one for all exchanges at once.
    shared: Option<Connection>,
}

impl Pool {
    /// A connection to `endpoint` that is ready for a request. Those that can't be used any more are dropped on the way.
    pub(super) async fn take(&self, endpoint: &Endpoint, generation: u64, now: Instant) -> Option<Lease> {
        loop {
            let mut lease = self.pick(endpoint, generation, now)?;
            if lease.ready().await {
                return Some(lease);
            }
        }
    }

    /// Takes a connection back after a clean exchange. With `keep` unset it is closed instead.
    pub(super) fn put(&self, mut lease: Lease, keep: bool) {
        let Some(connection) = lease.0.take() else { return };
        if connection.about.leave() {
            connection.driver.abort();
            return;
        }
        if !keep || connection.sender.is_closed() {
            return;
        }
        let mut kept = self.lock();
        match connection.sender {
            Sender::Http1(_) if kept.idle.len() < IDLE_MAX => kept.idle.push(connection),
            Sender::Http1(_) => {}
            Sender::Http2(_) => {
                // Exchanges that dialled at the same time brought one each: the first one back stays.
                let usable = |old: &Connection| old.usable_for(&connection.about.endpoint, connection.about.generation);
                if !kept.shared.as_ref().is_some_and(usable) {
                    kept.shared = Some(connection);
                }
            }
        }
    }

    fn pick(&self, endpoint: &Endpoint, generation: u64, now: Instant) -> Option<Lease> {
        let mut kept = self.lock();
        let fits = |connection: &Connection| {
            connection.usable_for(endpoint, generation)
                && now.saturating_duration_since(connection.about.made) < CONNECTION_AGE_MAX
        };
        if let Some(connection) = &kept.shared {
            if fits(connection) && connection.about.enter() {
                return Some(Lease(Some(connection.clone_shared()?)));
            }
            kept.shared = None;
        }
        while let Some(connection) = kept.idle.pop() {
            if fits(&connection) && connection.about.enter() {
                return Some(Lease(Some(connection)));
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        let kept = self.lock();
        kept.idle.len() + usize::from(kept.shared.is_some())
    }
}

/// A connection in use. Dropping it means that the exchange did not end cleanly: nobody uses the connection again, and it is
/// torn down as soon as nobody does.
pub(super) struct Lease(Option<Connection>);

impl Lease {
    pub(super) fn new(connection: Connection) -> Self {
        Self(Some(connection))
    }

    pub(super) fn addr(&self) -> Option<PublicAddr> {
        self.0.as_ref().map(|connection| connection.about.addr)
    }

    pub(super) fn http2(&self) -> bool {
        matches!(self.0, Some(Connection { sender: Sender::Http2(_), .. }))
    }

    /// Sends a request and waits for the response's headers. `None` never happens: a lease has its
    /// connection until it is given back.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Option<Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>> {
        let connection = self.0.as_mut()?;
        connection.about.meter.grant();
        match &mut connection.sender {
            Sender::Http1(sender) => Some(sender.try_send_request(request).await),
            Sender::Http2(sender) => Some(sender.try_send_request(request).await),
        }
    }

    /// The driver may be a moment behind the exchange that gave the connection back, or for ever: when the receiver
    /// answered without reading the request to its end.
    async fn ready(&mut self) -> bool {
        match self.0.as_mut().map(|connection| &mut connection.sender) {
            Some(Sender::Http1(sender)) => {
                sender.is_ready() || matches!(timeout(READY_WAIT, sender.ready()).await, Ok(Ok(())))
            }
            Some(Sender::Http2(sender)) => sender.is_ready(),
            None => false,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.about.retire();
            if connection.about.leave() {
                connection.driver.abort();
            }
        }
    }
}

/// A connection that is made and speaks HTTP.
pub(super) struct Connection {
    sender: Sender,
    about: Arc<About>,
    driver: AbortHandle,
}

pub(super) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Connection {
    /// Starts the task that moves the bytes of a connection; `drive` is hyper's half of it. The caller is its first user.
    pub(super) fn start<F>(
        sender: Sender,
        about: About,
        open: OpenGuard,
        drive: F,
        rules_changed: CancellationToken,
    ) -> Self
    where
        F: Future + Send + 'static,
    {
        let about = Arc::new(about);
        let task = run(drive, Arc::clone(&about), open, rules_changed);
        Self { sender, about, driver: tokio::spawn(task).abort_handle() }
    }

    fn usable_for(&self, endpoint: &Endpoint, generation: u64) -> bool {
        self.about.generation == generation && !self.sender.is_closed() && self.about.endpoint == *endpoint
    }

    fn clone_shared(&self) -> Option<Self> {
        let Sender::Http2(sender) = &self.sender else { return None };
        let sender = Sender::Http2(sender.clone());
        Some(Self { sender, about: Arc::clone(&self.about), driver: self.driver.clone() })
    }
}

/// The driver of one connection.
async fn run<F: Future>(drive: F, about: Arc<About>, _open: OpenGuard, rules_changed: CancellationToken) {
    let mut drive = pin!(drive);
    tokio::select! {
        biased;
        _ = &mut drive => return,
        _ = timeout_at(about.made + CONNECTION_AGE_MAX, rules_changed.cancelled()) => {}
    }
    if !about.retire() {
        // Those who use it end by their own deadlines; this is for what they leave behind.
        let _ = timeout(LINGER_MAX, drive).await;
    }
}

/// What is known about a connection, and how many use it.
pub(super) struct About {
    endpoint: Endpoint,
    addr: PublicAddr,
    generation: u64,
    made: Instant,
    users: AtomicUsize,
    meter: Arc<Meter>,
}

impl About {
    /// One user: whoever made it.
    pub(super) fn new(endpoint: Endpoint, addr: PublicAddr, generation: u64) -> Self {
        let (users, meter) = (AtomicUsize::new(1), Meter::new());
        Self { endpoint, addr, generation, made: Instant::now(), users, meter }
    }

    /// What the connection's bytes are counted by.
    pub(super) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Counts one more user, unless the connection is retired.
    fn enter(&self) -> bool {
        let add = |users: usize| (users & RETIRED == 0).then_some(users + 1);
        self.users.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    /// Counts one user less; true when it is retired and nobody uses it any more.
    fn leave(&self) -> bool {
        self.users.fetch_sub(1, Ordering::AcqRel) == RETIRED + 1
    }

    /// Lets nobody use it from now on; true when nobody does.
    fn retire(&self) -> bool {
        self.users.fetch_or(RETIRED, Ordering::AcqRel) & !RETIRED == 0
    }
}

/// Counts open connections, daemon-wide.
pub(super) struct OpenGuard(Arc<AtomicUsize>);

impl OpenGuard {
    pub(super) fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const RETIRED: usize = 1 << (usize::BITS - 1);
/// Idle HTTP/1.1 connections that one pool holds: four times as many as a host's attempts at a time, unless configured otherwise.
const IDLE_MAX: usize = 256;
/// How long a connection that is not ready for the next request is waited for before another one is tried.
const READY_WAIT: Duration = Duration::from_millis(10);
/// How long a retired connection may go on for those who use it: beyond the longest time-out (60 s).
const LINGER_MAX: Duration = Duration::from_secs(90);
