//! The writer's inbox: what is asked of the store, gathered into groups. Owns the rule of when a group is closed.
//!
//! No timer stands in front of an idle store: what arrives is written at once, and what arrives during the sync is the next
//! group. Two waits make groups larger where that costs nobody anything: outcomes alone wait a little for company, unless a
//! lane has run out of permits; and after a larger group the next start keeps a distance, unless a lane waits, or half of those
//! who publish wait already: while these are written, the others come.
//!
//! Publishing and delivering stay in step: while a quick receiver gets less than is published for it, a group takes in
//! requests for hardly more new deliveries than it has outcomes. Otherwise accepting, which is cheaper than delivering, would
//! pile up a backlog that has to be spilled to disk. A slow receiver's backlog holds nobody back.
//!
//! The writer is woken only when what came ends its wait: a wake-up that changes nothing costs more than the op it is for.
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
/// Distance between the starts of two commits at most: larger groups for less CPU where many ask (measured:
/// docs/PERFORMANCE.md).
const PACE: Duration = Duration::from_millis(2);
/// The share of those who publish that a group waits for, as a divisor.
const SHARE: usize = 2;
/// How many groups are remembered to tell how many publish.
const REMEMBERED: usize = 16;
/// Groups up to this many ops are followed by the next at once: what one publisher does in turn must not wait.
const PACE_ABOVE: usize = 8;
/// New deliveries that every group has room for, whatever became of those before: a receiver that is quick with few permits and
/// gets too much must not hold everybody up.
const BEGUN_MIN: usize = 32;
/// How long one look at a lane that is behind counts.
const BEHIND_FOR: Duration = Duration::from_millis(5);
/// Outcomes that were written without as many new deliveries beside them make room for later ones, up to here or to what one
/// request begins; and the other way round.
const CREDIT_MAX: i64 = 256;
/// In which the deliveries that a request begins are counted.
const SIXTEENTHS: i64 = 16;

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

/// The writer's last group, as far as the next one depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Last {
    pub start: Option<Instant>,
    pub ops: usize,
    /// Requests of callers in it, and the deliveries that they began.
    pub asked: usize,
    pub begun: usize,
}

/// A writer that waits.
struct Asleep {
    last: Last,
    /// `None`: until it is woken.
    until: Option<Instant>,
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
    /// Outcomes written less deliveries begun.
    credit: i64,
    /// Deliveries that a request begins, of late, in sixteenths.
    fan_out: i64,
    /// Callers that waited at once, in the last groups and behind them.
    crowds: [usize; REMEMBERED],
    groups: usize,
    asleep: Option<Asleep>,
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
        queue.asked.push_back(request);
        self.arrive(queue);
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
        queue.lane_waits |= pressing;
        queue.own.extend(ops.map(|(op, ticket)| Request { op, waiter: None, ticket }));
        self.arrive(queue);
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
    pub(crate) fn ready_in(&self, now: Instant, last: &Last) -> Duration {
        self.lock().ready_in(now, last)
    }

    /// Waits for the next group. An empty one when nothing came for `idle`; `None` when closed and empty.
    pub fn next(&self, last: Last, idle: Option<Duration>) -> Option<Vec<Request>> {
        let mut queue = self.lock();
        queue.learn(last);
        let idle_at = idle.map(|idle| now() + idle);
        loop {
            queue = match queue.turn(last, idle_at) {
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
    pub async fn next_in_task(&self, last: Last, idle: Option<Duration>) -> Option<Vec<Request>> {
        self.lock().learn(last);
        let idle_at = idle.map(|idle| now() + idle);
        loop {
            let turn = self.lock().turn(last, idle_at);
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

    /// Behind what was put in: wakes a writer that would sleep past the time at which the group is to be closed by now.
    fn arrive(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.since = queue.since.or_else(|| Some(now()));
        let wake = queue.ends_sleep();
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
    /// What the last group tells about those that follow.
    fn learn(&mut self, last: Last) {
        self.crowds[self.groups % REMEMBERED] = last.asked + self.asked.len();
        self.groups += 1;
        if last.asked > 0 {
            let fan_out = signed(last.begun) * SIXTEENTHS / signed(last.asked);
            self.fan_out = (3 * self.fan_out + fan_out) / 4;
        }
        let most = CREDIT_MAX.max(self.fan_out / SIXTEENTHS);
        self.credit = (self.credit - signed(last.begun)).clamp(-CREDIT_MAX, most);
    }

    fn turn(&mut self, last: Last, idle_at: Option<Instant>) -> Turn {
        self.asleep = None;
        let now = now();
        let left = match (self.since, self.closed) {
            (None, true) => return Turn::End,
            (_, true) => return Turn::Write,
            (None, false) => idle_at.map(|at| at.saturating_duration_since(now)),
            (Some(_), false) => Some(self.ready_in(now, &last)),
        };
        if left == Some(Duration::ZERO) {
            return Turn::Write;
        }
        self.asleep = Some(Asleep { last, until: left.map(|left| now + left) });
        Turn::Wait(left)
    }

    /// Whether the writer sleeps too long for what is there now. It is woken once.
    fn ends_sleep(&mut self) -> bool {
        let Some(Asleep { last, until }) = &self.asleep else { return false };
        let now = now();
        let ends = until.is_none_or(|until| now + self.ready_in(now, last) < until);
        if ends {
            self.asleep = None;
        }
        ends
    }

    /// How long the group that is gathering stays open.
    fn ready_in(&self, now: Instant, last: &Last) -> Duration {
        let Some(since) = self.since else { return Duration::MAX };
        let alone = self.asked.is_empty();
        let gather = if alone && !self.lane_waits { since + OUTCOMES_WAIT } else { since };
        let keeps_distance = last.ops > PACE_ABOVE && !self.lane_waits && (alone || !self.is_crowd(now));
        let paced = last.start.filter(|_| keeps_distance).map(|start| start + PACE);
        paced.map_or(gather, |paced| paced.max(gather)).saturating_duration_since(now)
    }

    /// Whether so many of those who publish wait that it is no use to wait for the others. Where outcomes have to make room for
    /// them it is.
    fn is_crowd(&self, now: Instant) -> bool {
        let most = self.crowds.iter().max().copied().unwrap_or_default();
        !self.is_behind(now) && self.asked.len() * SHARE >= most
    }

    fn is_behind(&self, now: Instant) -> bool {
        self.behind_at.is_some_and(|at| now.saturating_duration_since(at) < BEHIND_FOR)
    }

    /// The next group: all own ops, and as many requests as fit beside them.
    fn take(&mut self) -> Vec<Request> {
        let now = now();
        let mut group = std::mem::take(&mut self.own);
        self.lane_waits = false;
        self.credit += signed(group.len().max(BEGUN_MIN));
        let room = self.credit * SIXTEENTHS / self.fan_out.max(SIXTEENTHS);
        // A group of nothing would be a checkpoint.
        let room = usize::try_from(room).unwrap_or(0).max(usize::from(group.is_empty()));
        let count = if self.is_behind(now) { room } else { usize::MAX }.min(self.asked.len());
        for request in self.asked.drain(..count) {
            self.bytes -= weight(&request.op);
            group.push(request);
        }
        self.since = (!self.asked.is_empty()).then_some(now);
        group
    }
}

/// Far below its bound, so that it may be multiplied.
fn signed(count: usize) -> i64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

fn now() -> Instant {
    Instant::now()
}

/// What it costs in memory, in bytes, near enough.
fn weight(op: &Op) -> usize {
    let (events, bytes) = op.published();
    256 * events + bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_woken_once_by_what_ends_its_sleep() {
        let ping = || Request { op: Op::Ping, waiter: None, ticket: None };
        let mut queue = Queue { since: Some(now()), asked: [ping()].into(), ..Queue::default() };
        assert!(!queue.ends_sleep(), "it is not asleep");
        queue.learn(Last { asked: 4, ..Last::default() });
        let last = Last { start: Some(now() + Duration::from_secs(9)), ops: 9, ..Last::default() };
        assert!(matches!(queue.turn(last, None), Turn::Wait(Some(_))));
        assert!(!queue.ends_sleep(), "it would go to sleep again");
        queue.asked.push_back(ping());
        queue.asked.push_back(ping());
        assert!(queue.ends_sleep(), "half of the five are there");
        assert!(!queue.ends_sleep(), "it is on its way");
    }
}
