//! A worker: drives the lanes of one runtime. Owns their wake-ups (the wheel) and the order in which news is taken in.
//!
//! Everything it does to a lane it does in one thread; attempts and reads of the durable queue run as tasks beside it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::attempt;
use super::dispatcher::{Dispatcher, LaneCell, Mail};
use super::lane::{Body, Load, Loaded, Next};
use crate::clock::Millis;
use crate::limits::{LOADS_MAX, READ_AHEAD_BYTES, WATERMARK_LAG_MAX};
use crate::model::id::{Seq, WebhookNo};
use crate::schedule::Wheel;
use crate::store::StoreError;
use crate::store::op::Op;
use crate::store::view::Shared;

/// Wake-ups a worker may hold: one a lane.
const WAKE_UPS_MAX: u32 = 4_000_000;
/// Between two looks for lanes that can be forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// A lane without work is forgotten after this long; its kept connections go with it.
const IDLE_FOR_MS: Millis = 60_000;
/// Events between two looks for deliveries that hold the watermark back.
const LAG_CHECK_EVERY: u64 = 8 * 1024;
/// Deaths by waiting that are written at once.
const EXPIRE_MAX: usize = 512;

pub struct Worker {
    index: usize,
    pub(super) dispatcher: Arc<Dispatcher>,
    wheel: Mutex<Wheel>,
    /// Wakes the worker's loop when a wake-up was armed that is earlier than what it sleeps for.
    rearmed: Notify,
    loads: Arc<Semaphore>,
    lag_checked_at: AtomicU64,
}

impl Worker {
    #[must_use]
    pub fn new(index: usize, dispatcher: Arc<Dispatcher>) -> Arc<Self> {
        let now = dispatcher.clock.now_ms();
        Arc::new(Self {
            index,
            wheel: Mutex::new(Wheel::new(now, WAKE_UPS_MAX)),
            rearmed: Notify::new(),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
            lag_checked_at: AtomicU64::new(0),
            dispatcher,
        })
    }

    /// Runs until `stop`. Attempts that are under way then go on as tasks; their outcomes are taken in until the end.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mailbox = self.dispatcher.mailbox(self.index);
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        loop {
            let sleep = self.sleep();
            tokio::select! {
                () = mailbox.arrived.notified() => {}
                () = self.rearmed.notified() => {}
                () = sleep => {}
                _ = tidy.tick() => self.dispatcher.tidy(self.index, IDLE_FOR_MS),
                () = stop.cancelled() => return,
            }
            self.take_in(mailbox.take());
            for no in self.due() {
                self.pump(no);
            }
        }
    }

    async fn sleep(&self) {
        let next = self.wheel().next_at();
        match next {
            Some(at) => {
                let wait = at.saturating_sub(self.dispatcher.clock.now_ms());
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            None => std::future::pending().await,
        }
    }

    fn due(&self) -> Vec<WebhookNo> {
        let mut due = Vec::new();
        self.wheel().advance(self.dispatcher.clock.now_ms(), &mut |no, _| due.push(no));
        due
    }

    fn take_in(self: &Arc<Self>, mail: Mail) {
        for (waiter, answer) in mail.answers {
            // Whoever waited may have hung up.
            drop(waiter.sender.send(answer));
        }
        let mut touched = mail.pokes;
        for (no, event) in mail.fresh {
            match self.dispatcher.cell_or_new(no) {
                Some(cell) => {
                    let seq = event.seq;
                    cell.lane().push_fresh(seq, Body::hold(event, &self.dispatcher.bodies));
                    touched.push(no);
                }
                None => self.dispatcher.store.note(Op::Forget { webhook: no, events: vec![event.seq] }, false),
            }
        }
        for (no, event) in mail.settled {
            self.dispatcher.attempt_settled();
            if let Some(cell) = self.dispatcher.cell(no) {
                cell.lane().settle(event);
                touched.push(no);
            }
        }
        for (no, key) in mail.queued {
            if let Some(cell) = self.dispatcher.cell_or_new(no) {
                cell.lane().note_queued(key);
                touched.push(no);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for no in touched {
            self.pump(no);
        }
        self.check_lag();
    }

    /// Does what a lane wants done, until it waits.
    pub(super) fn pump(self: &Arc<Self>, no: WebhookNo) {
        let Some(cell) = self.dispatcher.cell(no) else { return };
        let store = &self.dispatcher.store;
        while !self.dispatcher.is_draining() {
            let now = self.dispatcher.clock.now_ms();
            let next = cell.lane().next(&self.dispatcher.all, now);
            match next {
                Next::Start(work) => {
                    self.dispatcher.attempt_started();
                    tokio::spawn(attempt::run(self.clone(), cell.clone(), work));
                }
                Next::Load(load) => {
                    tokio::spawn(self.clone().load(no, cell.clone(), load));
                }
                Next::Spill(events) => store.note(Op::Spill { webhook: no, events, due_ms: now }, false),
                Next::Forget(events) => store.note(Op::Forget { webhook: no, events }, false),
                Next::Expire { before_ms } => {
                    store.note(Op::Expire { webhook: no, before_ms, max: EXPIRE_MAX }, false);
                }
                Next::Wait(at) => {
                    if let Some(at) = at {
                        self.arm(no, at);
                    }
                    return;
                }
            }
        }
    }

    fn arm(&self, no: WebhookNo, at: Millis) {
        let mut wheel = self.wheel();
        let before = wheel.next_at();
        if !wheel.arm_earliest(no, at) {
            tracing::error!(webhook = no, "no room for another wake-up; the lane waits for its next event");
        }
        if before.is_none_or(|before| at < before) {
            self.rearmed.notify_one();
        }
    }

    async fn load(self: Arc<Self>, no: WebhookNo, cell: Arc<LaneCell>, load: Load) {
        let Ok(_permit) = self.loads.acquire().await else { return };
        let now = self.dispatcher.clock.now_ms();
        let budget = self.dispatcher.bodies.clone();
        let wanted = load.clone();
        let read = self.dispatcher.store.read(move |shared| read_rows(shared, no, &wanted, now, &budget)).await;
        match read {
            Ok(loaded) => cell.lane().loaded(Some(loaded), &load),
            Err(error) => {
                tracing::error!(%error, webhook = no, "the durable queue can't be read; trying again");
                cell.lane().loaded(None, &load);
                self.arm(no, now + 1_000);
                return;
            }
        }
        self.pump(no);
    }

    /// Gives rows to what lags so far behind the head of the log that a restart would have to read it all.
    fn check_lag(&self) {
        let head = self.dispatcher.store.shared().next_event();
        let before = self.lag_checked_at.load(Ordering::Relaxed);
        if head.saturating_sub(before) < LAG_CHECK_EVERY {
            return;
        }
        self.lag_checked_at.store(head, Ordering::Relaxed);
        let floor: Seq = head.saturating_sub(WATERMARK_LAG_MAX / 2);
        let due_ms = self.dispatcher.clock.now_ms();
        for (no, cell) in self.dispatcher.lanes_of(self.index) {
            let events = cell.lane().laggards(floor, due_ms);
            if !events.is_empty() {
                self.dispatcher.store.note(Op::Spill { webhook: no, events, due_ms }, false);
            }
        }
    }

    fn wheel(&self) -> MutexGuard<'_, Wheel> {
        self.wheel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_rows(
    shared: &Shared,
    no: WebhookNo,
    load: &Load,
    now: Millis,
    budget: &Arc<std::sync::atomic::AtomicUsize>,
) -> Result<Loaded, StoreError> {
    let view = shared.view()?;
    let mut rows = Vec::new();
    let mut loaded = Loaded::default();
    // Both kinds share the number asked for, so that neither crowds the other out.
    let kinds = usize::from(load.started) + usize::from(load.waiting);
    for started in [true, false] {
        if !(if started { load.started } else { load.waiting }) {
            continue;
        }
        let max = load.max.div_ceil(kinds.max(1));
        let due = view.due(no, started, now, max, |event| load.held.contains(&event))?;
        let taken: std::collections::HashSet<Seq> = due.iter().map(|queued| queued.event).collect();
        let skip = |event: Seq| load.held.contains(&event) || taken.contains(&event);
        let next = view.next_due(no, started, skip)?;
        if started {
            loaded.next_started = next;
        } else {
            loaded.next_waiting = next;
        }
        rows.extend(due);
    }
    let mut read = 0;
    for queued in rows {
        let body = if read < READ_AHEAD_BYTES {
            let event = view.event(queued.event)?.map(Arc::new);
            read += event.as_ref().map_or(0, |event| event.weight());
            event.and_then(|event| Body::hold(event, budget))
        } else {
            None
        };
        loaded.rows.push((queued, body));
    }
    Ok(loaded)
}
