//! The writer's inbox: what is asked of the store, gathered into groups. Owns the rule of when a group is closed.
//!
//! No timer stands in front of an idle store: what arrives is written at once, and what arrives during the sync is the next
//! group. Two waits make groups larger where that costs nobody anything: outcomes alone wait a little for company, unless a
//! lane has run out of permits; and after a larger group the next start keeps a distance, unless a lane waits.
//!
//! Publishing and delivering stay in step: while a quick receiver gets less than is published for it, a group takes in
//! hardly more new requests than outcomes. Otherwise accepting, which is cheaper than delivering, would pile up a backlog
//! that has to be spilled to disk. A slow receiver's backlog holds nobody back.
//!
//! Bounded: publishers are turned away above `BYTES_MAX` or `REQUESTS_MAX`; outcomes are bounded by permits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::StoreError;
use super::op::{Done, Op, Refusal};
use super::spool::Ticket;

/// Requests that may wait. Each holds an open HTTP request, so this is far above what a busy server has.
const REQUESTS_MAX: usize = 16 * 1024;
/// Published bytes that may wait.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long outcomes wait for a publish to share a commit with.
const OUTCOMES_WAIT: Duration = Duration::from_millis(5);
/// Distance between the starts of two commits for each op of the earlier one, and at most: larger groups for less CPU where
/// many ask, and hardly a wait where few do (measured: docs/PERFORMANCE.md).
const PACE_PER_OP: Duration = Duration::from_micros(16);
const PACE: Duration = Duration::from_millis(2);
/// Groups up to this many ops are followed by the next at once: what one publisher does in turn must not wait.
const PACE_ABOVE: usize = 8;
/// Requests that a group takes in even if no outcome makes room for them.
const ASKED_MIN: usize = 32;
/// How long one look at a lane that is behind counts.
const BEHIND_FOR: Duration = Duration::from_millis(20);
/// Outcomes that were written without as many requests beside them make room for later ones, up to here.
const CREDIT_MAX: usize = 256;

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
    /// Where the outcome stands in the spool until it is committed.
    pub ticket: Option<Ticket>,
}

#[derive(Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Wakes a writer that is a task: see `next_in_task`.
    arrived_in_task: Notify,
    /// How long the writer has been at work in all, in µs: who can wait steps back for it.
    worked_us: AtomicU64,
}

/// What the writer does next.
enum Turn {
    Write,
    /// Waits, for so long at most.
    Wait(Option<Duration>),
    End,
}

#[derive(Default)]
struct Queue {
    /// The daemon's own ops.
    own: Vec<Request>,
    /// What callers asked for, in the order they came.
    asked: VecDeque<Request>,
    bytes: usize,
    /// A lane waits for its own op to be durable.
    lane_waits: bool,
    /// When publishing was last ahead of delivering to a quick receiver.
    behind_at: Option<Instant>,
    /// Outcomes written less requests taken in.
    credit: usize,
    /// When the oldest of them came.
    since: Option<Instant>,
    down: bool,
    damaged: bool,
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
        if queue.asked.len() >= REQUESTS_MAX || queue.bytes + bytes > BYTES_MAX {
            return Err(StoreError::Overloaded);
        }
        queue.bytes += bytes;
        // The writer is woken when it has something new to decide.
        let wake = queue.asked.is_empty();
        queue.asked.push_back(request);
        self.arrive(queue, wake);
        Ok(())
    }

    /// A quick receiver gets less than is published for it: for a moment, groups take in hardly more requests than outcomes.
    pub fn keep_step(&self) {
        self.lock().behind_at = Some(now());
    }

    /// Puts the daemon's own op in; never refused. `pressing`: a lane waits for it to go on.
    pub fn note(&self, op: Op, pressing: bool) {
        self.note_all(std::iter::once((op, None)), pressing);
    }

    /// Puts several in, each with its place in the spool.
    pub fn note_all(&self, ops: impl Iterator<Item = (Op, Option<Ticket>)>, pressing: bool) {
        let mut queue = self.lock();
        let wake = queue.own.is_empty() || (pressing && !queue.lane_waits);
        queue.lane_waits |= pressing;
        queue.own.extend(ops.map(|(op, ticket)| Request { op, waiter: None, ticket }));
        self.arrive(queue, wake);
    }

    /// Whether callers are turned away because the store is being opened again.
    pub fn is_down(&self) -> bool {
        self.lock().down
    }

    /// Whether damage has ended the writer.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.lock().damaged
    }

    /// The writer ends: callers are turned away from now on, and so are those who wait.
    pub fn set_damaged(&self) {
        let mut queue = self.lock();
        (queue.down, queue.damaged) = (true, true);
        queue.asked.clear();
    }

    /// While down, callers are turned away at once; the daemon's own ops gather.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// No more is taken in; `next` gives what is left and then `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// How long the group that is gathering stays open; for ever when there is none.
    #[cfg(test)]
    pub(crate) fn ready_in(&self, now: Instant, last_start: Option<Instant>, last_size: usize) -> Duration {
        self.lock().ready_in(now, last_start, last_size)
    }

    /// Waits for the next group. An empty one when nothing came for `idle`; `None` when closed and empty.
    pub fn next(&self, last_start: Option<Instant>, last_size: usize, idle: Option<Duration>) -> Option<Vec<Request>> {
        let mut queue = self.lock();
        let idle_at = idle.map(|idle| now() + idle);
        loop {
            queue = match queue.turn(last_start, last_size, idle_at) {
                Turn::Write => return Some(queue.take()),
                Turn::End => return None,
                Turn::Wait(None) => self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Turn::Wait(Some(left)) => {
                    self.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// `next` for a writer that is a task of the runtime and not a thread: in a simulation, by the runtime's time.
    pub async fn next_in_task(
        &self,
        last_start: Option<Instant>,
        last_size: usize,
        idle: Option<Duration>,
    ) -> Option<Vec<Request>> {
        let idle_at = idle.map(|idle| now() + idle);
        loop {
            let turn = self.lock().turn(last_start, last_size, idle_at);
            match turn {
                Turn::Write => return Some(self.lock().take()),
                Turn::End => return None,
                Turn::Wait(None) => self.arrived_in_task.notified().await,
                // Whether something came or the time is over: the queue says.
                Turn::Wait(Some(left)) => drop(timeout(left, self.arrived_in_task.notified()).await),
            }
        }
    }

    /// A group has taken the writer so long.
    pub fn worked(&self, took: Duration) {
        self.worked_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the writer has been at work in all.
    pub fn worked_in_all(&self) -> Duration {
        Duration::from_micros(self.worked_us.load(Ordering::Relaxed))
    }

    fn wake(&self) {
        self.arrived.notify_one();
        self.arrived_in_task.notify_one();
    }

    fn arrive(&self, mut queue: MutexGuard<'_, Queue>, wake: bool) {
        queue.since = queue.since.or_else(|| Some(now()));
        drop(queue);
        if wake {
            self.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn turn(&self, last_start: Option<Instant>, last_size: usize, idle_at: Option<Instant>) -> Turn {
        let left = match (self.since, self.closed) {
            (None, true) => return Turn::End,
            (_, true) => return Turn::Write,
            (None, false) => idle_at.map(|at| at.saturating_duration_since(now())),
            (Some(_), false) => Some(self.ready_in(now(), last_start, last_size)),
        };
        if left == Some(Duration::ZERO) { Turn::Write } else { Turn::Wait(left) }
    }

    /// How long the group that is gathering stays open.
    fn ready_in(&self, now: Instant, last_start: Option<Instant>, last_size: usize) -> Duration {
        let Some(since) = self.since else { return Duration::MAX };
        let alone = self.asked.is_empty();
        let gather = if alone && !self.lane_waits { since + OUTCOMES_WAIT } else { since };
        let pace = (PACE_PER_OP * u32::try_from(last_size).unwrap_or(u32::MAX)).min(PACE);
        let paced = last_start.filter(|_| last_size > PACE_ABOVE && !self.lane_waits).map(|start| start + pace);
        paced.map_or(gather, |paced| paced.max(gather)).saturating_duration_since(now)
    }

    /// The next group: all own ops, and as many requests as fit beside them.
    fn take(&mut self) -> Vec<Request> {
        let mut group = std::mem::take(&mut self.own);
        self.credit = (self.credit + group.len()).min(CREDIT_MAX);
        self.lane_waits = false;
        let behind = self.behind_at.is_some_and(|at| at.elapsed() < BEHIND_FOR);
        let fit = if behind { self.credit.max(ASKED_MIN) } else { usize::MAX };
        let count = fit.min(self.asked.len());
        self.credit = self.credit.saturating_sub(count);
        for request in self.asked.drain(..count) {
            self.bytes -= weight(&request.op);
            group.push(request);
        }
        self.since = (!self.asked.is_empty()).then(now);
        group
    }
}

fn now() -> Instant {
    Instant::now()
}

fn weight(op: &Op) -> usize {
    let accept = match op {
        Op::Accept(accept) => accept,
        Op::Guarded { op, .. } => return weight(op),
        _ => return 0,
    };
    let part = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
    accept.drafts.iter().map(|d| 256 + part(&d.data) + part(&d.context) + part(&d.user)).sum()
}
