//! The writer's inbox: what is asked of the store, gathered into groups. Owns the rule of when a group is closed.
//!
//! No timer stands in front of an idle store: what arrives is written at once, and what arrives during the sync is the next
//! group. Two waits make groups larger where that costs nobody anything: outcomes alone wait a little for company, unless a
//! lane has run out of permits; and after a group of more than one the next start keeps a distance.
//! Bounded: publishers are turned away above `BYTES_MAX` or `REQUESTS_MAX`; outcomes are bounded by permits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::StoreError;
use super::op::{Done, Op, Refusal};

/// Requests that may wait. Each holds an open HTTP request, so this is far above what a busy server has.
const REQUESTS_MAX: usize = 16 * 1024;
/// Published bytes that may wait.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long outcomes wait for a publish to share a commit with.
const OUTCOMES_WAIT: Duration = Duration::from_millis(5);
/// Distance between the starts of two commits under load: larger groups for less CPU (measured: -20 %).
const PACE: Duration = Duration::from_millis(1);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub type Answer = Result<Done, SubmitError>;

/// Who waits for an answer: a task of worker `worker`, or of any other thread.
pub struct Waiter {
    pub worker: Option<usize>,
    pub sender: oneshot::Sender<Answer>,
}

/// An op and who waits for it.
pub struct Request {
    pub op: Op,
    pub waiter: Option<Waiter>,
}

#[derive(Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    bytes: usize,
    /// Something in the queue is waited for by somebody other than a permit.
    pressing: bool,
    /// When the oldest of them came.
    since: Option<Instant>,
    down: bool,
    closed: bool,
}

impl Inbox {
    /// Puts a caller's request in.
    ///
    /// # Errors
    /// `Overloaded` when too much waits, `Unavailable` while the store is being opened again.
    pub fn submit(&self, request: Request) -> Result<(), StoreError> {
        let bytes = weight(&request.op);
        let mut queue = self.lock();
        if queue.down || queue.closed {
            return Err(StoreError::Unavailable("it is being opened again".to_owned()));
        }
        if queue.requests.len() >= REQUESTS_MAX || queue.bytes + bytes > BYTES_MAX {
            return Err(StoreError::Overloaded);
        }
        queue.bytes += bytes;
        self.push(queue, request, true);
        Ok(())
    }

    /// Puts the daemon's own op in; never refused. `pressing`: a lane waits for it to go on.
    pub fn note(&self, op: Op, pressing: bool) {
        let queue = self.lock();
        self.push(queue, Request { op, waiter: None }, pressing);
    }

    /// While down, callers are turned away at once; the daemon's own ops gather.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// No more is taken in; `next` gives what is left and then `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Waits for the next group. `None` when closed and empty.
    pub fn next(&self, last_start: Option<Instant>, last_size: usize) -> Option<Vec<Request>> {
        let mut queue = self.lock();
        loop {
            let wait = match (queue.since, queue.closed) {
                (None, true) => return None,
                (_, true) => break,
                (None, false) => None,
                (Some(since), false) => {
                    let gather = if queue.pressing { Duration::ZERO } else { OUTCOMES_WAIT };
                    let paced = last_start.filter(|_| last_size > 1).map(|start| start + PACE);
                    let at = paced.map_or(since + gather, |paced| paced.max(since + gather));
                    let left = at.saturating_duration_since(now());
                    if left.is_zero() {
                        break;
                    }
                    Some(left)
                }
            };
            queue = match wait {
                None => self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        queue.bytes = 0;
        queue.pressing = false;
        queue.since = None;
        Some(std::mem::take(&mut queue.requests))
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, request: Request, pressing: bool) {
        queue.requests.push(request);
        // The writer is woken when it has something new to decide: the first request, or the first pressing one.
        let wake = queue.since.is_none() || (pressing && !queue.pressing);
        queue.pressing |= pressing;
        queue.since = queue.since.or_else(|| Some(now()));
        drop(queue);
        if wake {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Instant {
    Instant::now()
}

fn weight(op: &Op) -> usize {
    let Op::Accept(accept) = op else { return 0 };
    let part = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
    accept.drafts.iter().map(|d| 256 + part(&d.data) + part(&d.context) + part(&d.user)).sum()
}
