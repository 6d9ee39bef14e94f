//! A worker: drives the lanes of one runtime. Owns their wake-ups (the wheel) and the order in which news is taken in.
//!
//! Any worker may drive any lane, under its mutex; attempts and reads of the durable queue run as tasks beside the loop.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::attempt;
use super::body::Body;
use super::cell::LaneCell;
use super::dispatcher::Dispatcher;
use super::finish::Pile;
use super::lane::{Load, Loaded, Next, Work};
use super::loads::{Loads, Wanted};
use super::mail::Mail;
use super::places::{Departure, Places};
use super::settings::Plan;
use crate::clock::Millis;
use crate::limits::READ_AHEAD_BYTES;
use crate::model::event::Event;
use crate::model::id::{Seq, WebhookNo};
use crate::schedule::Wheel;
use crate::store::StoreError;
use crate::store::op::Op;
use crate::store::view::Shared;

/// Wake-ups a worker may hold: one a lane.
const WAKE_UPS_MAX: u32 = 4_000_000;
/// Between two looks for lanes that can be forgotten, and for deaths that are to be told of.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// A lane without work is forgotten after this long; kept connections go with the last lane that used them.
const IDLE_FOR_MS: Millis = 60_000;
/// Lanes that are looked at in one go, before whatever else the runtime serves gets its turn.
const PART: usize = 256;
/// Deaths by waiting that are written at once.
const EXPIRE_MAX: usize = 512;

/// Attempts that a lane starts under one lock.
const STARTED_AT_ONCE: usize = 64;

/// What a lane wants.
struct Look {
    works: Vec<Work>,
    next: Next,
    /// Of the lane, and how often it had been changed: what the attempts are started by.
    plan: Arc<Plan>,
    changes: u64,
}

pub struct Worker {
    index: usize,
    pub(super) dispatcher: Arc<Dispatcher>,
    wheel: Mutex<Wheel>,
    /// Wakes the worker's loop when a wake-up was armed that is earlier than what it sleeps for.
    rearmed: Notify,
    loads: Loads,
    pub(super) pile: Pile,
}

impl Worker {
    #[must_use]
    pub fn new(index: usize, dispatcher: Arc<Dispatcher>) -> Arc<Self> {
        let now = dispatcher.clock.now_ms();
        Arc::new(Self {
            index,
            wheel: Mutex::new(Wheel::new(now, WAKE_UPS_MAX)),
            rearmed: Notify::new(),
            loads: Loads::default(),
            pile: Pile::default(),
            dispatcher,
        })
    }

    /// Which of the workers.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Runs until `stop`. Attempts that are under way then go on as tasks; their outcomes are taken in until the end.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mailbox = self.dispatcher.mailbox(self.index);
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        loop {
            let sleep = self.sleep();
            tokio::select! {
                // What is rare first, so that nothing starves it; and no chance in the order.
                biased;
                () = stop.cancelled() => return,
                _ = tidy.tick() => {
                    self.dispatcher.tidy(self.index, IDLE_FOR_MS);
                    if self.index == 0 {
                        self.dispatcher.tell_deaths();
                    }
                }
                () = mailbox.arrived.notified() => {}
                () = self.rearmed.notified() => {}
                () = sleep => {}
            }
            let mut mail = mailbox.take();
            while !mail.is_empty() {
                self.take_in(mail.part(PART));
                if !mail.is_empty() {
                    tokio::task::yield_now().await;
                }
            }
            for (count, no) in self.due().into_iter().enumerate() {
                if count % PART == PART - 1 {
                    tokio::task::yield_now().await;
                }
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
        let dispatcher = &self.dispatcher;
        let mut touched = self.take_fresh(mail.fresh);
        for (no, event) in mail.cancelled {
            if let Some(cell) = dispatcher.cell(no) {
                cell.lane().forget_cancelled(event);
                touched.push((no, cell));
            }
        }
        dispatcher.attempts_settled(mail.settled.len());
        for settled in mail.settled.chunk_by(|(no, _), (next, _)| no == next) {
            let no = settled[0].0;
            if let Some(cell) = dispatcher.cell(no) {
                let mut lane = cell.lane();
                settled.iter().for_each(|(_, event)| lane.settle(*event));
                drop(lane);
                touched.push((no, cell));
            }
        }
        for (no, key) in mail.queued {
            if let Some(cell) = dispatcher.cell_or_new(no) {
                cell.lane().note_queued(key);
                touched.push((no, cell));
            }
        }
        for no in mail.expired {
            if let Some(cell) = dispatcher.cell(no) {
                cell.lane().expired();
                touched.push((no, cell));
            }
        }
        let called = mail.pokes.into_iter().chain(mail.wakes.iter().map(|(no, _)| *no));
        touched.extend(called.filter_map(|no| Some((no, dispatcher.cell(no)?))));
        touched.sort_unstable_by_key(|(no, _)| *no);
        touched.dedup_by_key(|(no, _)| *no);
        for (no, cell) in &touched {
            self.drive(*no, cell);
        }
        dispatcher.let_go(touched);
        // Behind the attempts: those hold permits.
        for (waiter, answer) in mail.answers {
            // Whoever waited may have hung up.
            drop(waiter.sender.send(answer));
        }
        for (no, gate) in mail.wakes {
            dispatcher.wake(gate.looked(no), &gate);
        }
        if mail.check_lag {
            self.check_lag();
        }
    }

    /// Puts new deliveries into their lanes, each lane's in their order; gives the lanes.
    fn take_fresh(&self, fresh: VecDeque<(WebhookNo, Arc<Event>)>) -> Vec<(WebhookNo, Arc<LaneCell>)> {
        let dispatcher = &self.dispatcher;
        // Deliveries of one event share its body.
        let mut held: Option<(Seq, Option<Body>)> = None;
        let hold = |(no, event): (WebhookNo, Arc<Event>)| {
            let seq = event.seq;
            if held.as_ref().is_none_or(|(of, _)| *of != seq) {
                held = Some((seq, Body::hold(event, &dispatcher.bodies)));
            }
            (no, seq, held.as_ref().and_then(|(_, body)| body.clone()))
        };
        let mut fresh: Vec<(WebhookNo, Seq, Option<Body>)> = fresh.into_iter().map(hold).collect();
        fresh.sort_by_key(|(no, _, _)| *no);
        let mut touched = Vec::new();
        for of_lane in fresh.chunk_by_mut(|(no, _, _), (next, _, _)| no == next) {
            let no = of_lane[0].0;
            let Some(cell) = dispatcher.cell_or_new(no) else {
                let events = of_lane.iter().map(|(_, seq, _)| *seq).collect();
                dispatcher.store.note(Op::Forget { webhook: no, events }, false);
                continue;
            };
            let mut lane = cell.lane();
            of_lane.iter_mut().for_each(|(_, seq, body)| lane.push_fresh(*seq, body.take()));
            drop(lane);
            touched.push((no, cell));
        }
        touched
    }

    /// Does what a lane wants done, until it waits.
    pub(super) fn pump(self: &Arc<Self>, no: WebhookNo) {
        if let Some(cell) = self.dispatcher.cell(no) {
            self.drive(no, &cell);
        }
    }

    pub(super) fn drive(self: &Arc<Self>, no: WebhookNo, cell: &Arc<LaneCell>) {
        let store = &self.dispatcher.store;
        let mut waits = false;
        while !(waits || self.dispatcher.is_draining()) {
            let now = self.dispatcher.clock.now_ms();
            let Look { mut works, plan, changes, next } = self.look(cell, now);
            match next {
                // One more than are taken under one lock.
                Next::Start(work) => works.push(work),
                Next::Load(load) => {
                    if self.loads.ask(Wanted { no, cell: cell.clone(), load }) {
                        tokio::spawn(self.clone().read());
                    }
                }
                Next::Spill(events) => store.note(Op::Spill { webhook: no, events, due_ms: now }, false),
                Next::Forget(events) => store.note(Op::Forget { webhook: no, events }, false),
                Next::Expire { before_ms } => {
                    store.note(Op::Expire { webhook: no, before_ms, max: EXPIRE_MAX }, false);
                }
                Next::Wait(at) => {
                    at.into_iter().for_each(|at| self.arm(no, at));
                    waits = true;
                }
            }
            if !works.is_empty() {
                self.dispatcher.attempts_started(works.len());
                let departure = Departure { worker: self.clone(), cell: cell.clone(), plan, changes };
                let departure = Arc::new(departure);
                for work in works {
                    // Boxed: tokio moves what it spawns about several times.
                    tokio::spawn(Box::pin(attempt::run(work, Places::taken(departure.clone()))));
                }
            }
        }
    }

    /// Asks a lane what it wants: what it starts at once, and what comes then.
    fn look(&self, cell: &LaneCell, now: Millis) -> Look {
        let mut lane = cell.lane();
        let plan = lane.plan.clone();
        let paused = self.dispatcher.is_paused(&plan.webhook);
        let mut doors = plan.doors(&self.dispatcher.all);
        let mut works = Vec::new();
        let next = loop {
            match lane.next(&mut doors, paused, now) {
                Next::Start(work) if works.len() < STARTED_AT_ONCE => works.push(work),
                next => break next,
            }
        };
        drop(doors);
        Look { works, changes: cell.changes(), next, plan }
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

    /// Reads what lanes wait for, one after the other.
    async fn read(self: Arc<Self>) {
        while let Some(Wanted { no, cell, load }) = self.loads.next() {
            self.load(no, &cell, load).await;
        }
    }

    async fn load(self: &Arc<Self>, no: WebhookNo, cell: &Arc<LaneCell>, load: Load) {
        let now = self.dispatcher.clock.now_ms();
        let budget = self.dispatcher.bodies.clone();
        let wanted = load.clone();
        let read = self.dispatcher.store.read(move |shared| read_rows(shared, no, &wanted, now, &budget)).await;
        match read {
            Ok(loaded) => cell.lane().loaded(Some(loaded), &load),
            Err(error) => {
                // While the store is being opened again this is no news: the writer has said so.
                if !matches!(error, StoreError::Unavailable(_)) {
                    tracing::error!(%error, webhook = no, "the durable queue can't be read; trying again");
                }
                cell.lane().loaded(None, &load);
                self.arm(no, now + 1_000);
                return;
            }
        }
        self.drive(no, cell);
    }

    /// Gives rows to what lags so far behind the head of the log that a restart would have to read it all.
    fn check_lag(&self) {
        let floor = self.dispatcher.lag.floor(self.dispatcher.store.shared().next_event());
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
        let mut is_held = |event, key| {
            let held = load.held.contains(&event);
            if held {
                loaded.skipped.push((event, key));
            }
            held
        };
        let due = view.due(no, started, now, max, &mut is_held)?;
        let taken: std::collections::HashSet<Seq> = due.iter().map(|queued| queued.event).collect();
        let next = view.next_due(no, started, |event, key| taken.contains(&event) || is_held(event, key))?;
        if started {
            loaded.next_started = next;
        } else {
            loaded.next_waiting = next;
        }
        rows.extend(due);
    }
    let mut read = 0;
    let mut event_at = view.events()?;
    for queued in rows {
        let body = if read < READ_AHEAD_BYTES {
            let event = event_at(queued.event)?.map(Arc::new);
            read += event.as_ref().map_or(0, |event| event.weight());
            event.and_then(|event| Body::hold(event, budget))
        } else {
            None
        };
        loaded.rows.push((queued, body));
    }
    Ok(loaded)
}
