//! A lane: one webhook's deliveries, and the decision what starts next. Owns ready work, permits, circuit and rate limit.
//!
//! Synchronous, takes `now`, does no I/O: `next` says what to do and its driver does it. What the lane holds in memory is
//! bounded: fresh deliveries as sequence numbers up to `LANE_FRESH_MAX` (then they get rows in the durable queue), rows
//! read ahead up to `LANE_REFILL`. A permit is taken by `next` and given back by `settle`, after the outcome is durable:
//! so a crash repeats at most as many attempts as there are permits.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::gate::Gate;
use super::glance::Glance;
use super::settings::Plan;
use crate::circuit::Circuit;
use crate::clock::Millis;
use crate::limits::{BODIES_BYTES_MAX, LANE_FRESH_MAX, OPEN_CIRCUIT_FRESH_MAX};
use crate::model::event::Event;
use crate::model::id::{Seq, WebhookNo};
use crate::store::op::RowKey;
use crate::store::queue::Queued;
use crate::store::record::QueueRow;

/// An event's body held in memory, counted against the daemon's budget for as long as it lives.
pub struct Body {
    pub event: Arc<Event>,
    weight: usize,
    budget: Arc<AtomicUsize>,
}

impl Body {
    /// Holds `event` if the budget allows.
    #[must_use]
    pub fn hold(event: Arc<Event>, budget: &Arc<AtomicUsize>) -> Option<Self> {
        let weight = event.weight();
        if budget.fetch_add(weight, Ordering::Relaxed) + weight > BODIES_BYTES_MAX {
            budget.fetch_sub(weight, Ordering::Relaxed);
            return None;
        }
        Some(Self { event, weight, budget: budget.clone() })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

/// A delivery to be tried now.
pub struct Work {
    pub event: Seq,
    /// Its row in the durable queue; a fresh one has none.
    pub row: Option<(RowKey, QueueRow)>,
    /// `None`: to be read from the log.
    pub body: Option<Body>,
}

/// What a lane wants done.
pub enum Next {
    Start(Work),
    /// Rows of the durable queue are to be read; `loaded` brings them.
    Load(Load),
    /// These fresh deliveries are to get rows.
    Spill(Vec<Seq>),
    /// These fresh deliveries are not waited for any more: their webhook is gone.
    Forget(Vec<Seq>),
    /// What waits without an attempt since before then dies.
    Expire {
        before_ms: Millis,
    },
    /// Nothing until then, or until something happens.
    Wait(Option<Millis>),
}

/// Which rows to read.
#[derive(Clone, Debug)]
pub struct Load {
    pub started: bool,
    pub waiting: bool,
    pub max: usize,
    /// Rows that are in memory already.
    pub held: HashSet<Seq>,
}

/// Rows that were read, with what bodies came along.
#[derive(Default)]
pub struct Loaded {
    pub rows: Vec<(Queued, Option<Body>)>,
    /// When the first row that was not read is due.
    pub next_started: Option<Millis>,
    pub next_waiting: Option<Millis>,
}

pub struct Lane {
    pub plan: Arc<Plan>,
    fresh: VecDeque<(Seq, Option<Body>)>,
    loaded: VecDeque<(Queued, Option<Body>)>,
    /// Deliveries under way or not yet settled: fresh ones with their row, if they got one meanwhile.
    in_flight: Vec<(Seq, Option<RowKey>)>,
    circuit: Circuit,
    rate: Option<DefaultDirectRateLimiter>,
    rate_until: Option<Millis>,
    /// The earliest due time of rows that are on disk only, by kind, as far as is known.
    next_started: Option<Millis>,
    next_waiting: Option<Millis>,
    loading: bool,
    /// Fresh and queued deliveries take turns, so that neither starves.
    fresh_turn: bool,
    last_success_ms: Option<Millis>,
    /// When it last had something to do, for tidying up.
    touched_ms: Millis,
}

impl Lane {
    #[must_use]
    pub fn new(plan: Arc<Plan>, now: Millis) -> Self {
        let rate = limiter(plan.webhook.rate_limit);
        Self {
            plan,
            fresh: VecDeque::new(),
            loaded: VecDeque::new(),
            in_flight: Vec::new(),
            circuit: Circuit::default(),
            rate,
            rate_until: None,
            next_started: None,
            next_waiting: None,
            loading: false,
            fresh_turn: true,
            last_success_ms: None,
            touched_ms: now,
        }
    }

    /// Takes a newer version of its webhook, or other settings.
    pub fn replan(&mut self, plan: Arc<Plan>) {
        if plan.webhook.rate_limit != self.plan.webhook.rate_limit {
            self.rate = limiter(plan.webhook.rate_limit);
            self.rate_until = None;
        }
        let woken = plan.webhook.is_active() && !self.plan.webhook.is_active();
        self.plan = plan;
        if woken {
            // What waited on disk while nobody asked for it.
            self.look_again();
        }
    }

    /// Looks at the durable queue again, whatever was known of it.
    pub fn look_again(&mut self) {
        self.next_started = Some(0);
        self.next_waiting = Some(0);
    }

    /// A new delivery. Over the bound the oldest come back, to be given rows.
    pub fn push_fresh(&mut self, event: Seq, body: Option<Body>) {
        self.fresh.push_back((event, body));
    }

    /// A row appeared on disk.
    pub fn note_queued(&mut self, key: RowKey) {
        let next = if key.started { &mut self.next_started } else { &mut self.next_waiting };
        *next = Some(next.map_or(key.due_ms, |before| before.min(key.due_ms)));
    }

    /// Rows that `Next::Load` asked for; `None` when they could not be read.
    pub fn loaded(&mut self, loaded: Option<Loaded>, load: &Load) {
        self.loading = false;
        let Some(loaded) = loaded else { return };
        if self.circuit.is_open() && load.max > 1 {
            // Asked for before it opened; now one at a time is enough.
            return;
        }
        if load.started {
            self.next_started = loaded.next_started;
        }
        if load.waiting {
            self.next_waiting = loaded.next_waiting;
        }
        let mut rows = loaded.rows;
        rows.sort_by_key(|(queued, _)| (queued.key.due_ms, queued.event));
        self.loaded.extend(rows);
    }

    /// An attempt ended. Says whether permits have run out while work waits: then its outcome is pressing.
    pub fn ended(&mut self, success: bool, wall_ms: Millis, now: Millis) -> bool {
        if success {
            self.last_success_ms = Some(wall_ms);
            self.circuit.on_success();
        } else if self.circuit.on_failure(&self.plan.circuit, now) {
            tracing::warn!(webhook = %self.plan.webhook.id, "circuit opened: the receiver failed too often in a row");
            // What was read ahead goes back to the disk, which has it all.
            self.loaded.clear();
            self.look_again();
        }
        self.permits_out() && !(self.fresh.is_empty() && self.loaded.is_empty())
    }

    /// An outcome is durable: its permit is free again.
    pub fn settle(&mut self, event: Seq) {
        if let Some(place) = self.in_flight.iter().position(|(seq, _)| *seq == event) {
            self.in_flight.swap_remove(place);
        }
    }

    /// The row that a delivery in flight has by now.
    #[must_use]
    pub fn row_of(&self, event: Seq) -> Option<RowKey> {
        self.in_flight.iter().find(|(seq, _)| *seq == event).and_then(|(_, row)| *row)
    }

    /// Fresh deliveries of events below `floor`: they hold the watermark back and get rows, those in flight too.
    pub fn laggards(&mut self, floor: Seq, due_ms: Millis) -> Vec<Seq> {
        let late = self.fresh.iter().take_while(|(seq, _)| *seq < floor).count();
        let mut laggards: Vec<Seq> = self.fresh.drain(..late).map(|(seq, _)| seq).collect();
        for (seq, row) in &mut self.in_flight {
            if *seq < floor && row.is_none() {
                *row = Some(RowKey { started: false, due_ms });
                laggards.push(*seq);
            }
        }
        laggards
    }

    /// What to do next. Call again until it says `Wait`.
    pub fn next(&mut self, all: &Gate, now: Millis) -> Next {
        let webhook = &self.plan.webhook;
        if webhook.is_deleted() {
            self.loaded.clear();
            return if self.fresh.is_empty() { Next::Wait(None) } else { Next::Forget(self.drain_fresh(usize::MAX)) };
        }
        if !webhook.is_active() {
            self.loaded.clear();
            return if self.fresh.is_empty() { Next::Wait(None) } else { Next::Spill(self.drain_fresh(usize::MAX)) };
        }
        if self.fresh.len() > LANE_FRESH_MAX {
            return Next::Spill(self.drain_fresh(LANE_FRESH_MAX / 2));
        }
        if self.circuit.is_open() { self.next_open(all, now) } else { self.next_closed(all, now) }
    }

    fn next_closed(&mut self, all: &Gate, now: Millis) -> Next {
        if self.permits_out() {
            return Next::Wait(None);
        }
        if self.loaded.is_empty()
            && let Some(load) = self.load(now, true, true, crate::limits::LANE_REFILL)
        {
            return Next::Load(load);
        }
        if self.fresh.is_empty() && self.loaded.is_empty() {
            return Next::Wait(self.next_due());
        }
        if let Some(until) = self.rate_limited(now) {
            return Next::Wait(Some(until));
        }
        if !self.enter(all) {
            return Next::Wait(None);
        }
        self.touched_ms = now;
        let fresh_first = self.fresh_turn;
        self.fresh_turn = !fresh_first;
        let work = if fresh_first {
            self.take_fresh().or_else(|| self.take_loaded())
        } else {
            self.take_loaded().or_else(|| self.take_fresh())
        };
        work.map_or(Next::Wait(None), Next::Start)
    }

    /// Behind an open circuit one attempt runs at a time: a started delivery at its own time, or the oldest waiting one
    /// when the probe is due.
    fn next_open(&mut self, all: &Gate, now: Millis) -> Next {
        if self.fresh.len() >= OPEN_CIRCUIT_FRESH_MAX {
            return Next::Spill(self.drain_fresh(usize::MAX));
        }
        if self.loading || !self.in_flight.is_empty() {
            return Next::Wait(None);
        }
        if let Some(before_ms) = self.expired(now) {
            self.loaded.clear();
            // Looked at again once they are gone.
            self.next_waiting = Some(now + 1_000);
            return Next::Expire { before_ms };
        }
        if self.loaded.is_empty()
            && let Some(load) = self.load(now, true, false, 1)
        {
            return Next::Load(load);
        }
        let probe_at = self.circuit.next_probe_at().unwrap_or(now);
        if self.loaded.is_empty() && now < probe_at {
            return Next::Wait(Some(self.next_started.map_or(probe_at, |due| due.min(probe_at))));
        }
        if self.loaded.is_empty()
            && let Some(load) = self.load(now, false, true, 1)
        {
            return Next::Load(load);
        }
        if self.loaded.is_empty() && self.fresh.is_empty() {
            return Next::Wait(self.next_due());
        }
        if !self.enter(all) {
            return Next::Wait(None);
        }
        self.touched_ms = now;
        self.circuit.on_probe(&self.plan.circuit, now);
        self.take_loaded().or_else(|| self.take_fresh()).map_or(Next::Wait(None), Next::Start)
    }

    /// Whether the waiting delivery at hand has waited for the whole span of its policy: since when others have, too.
    fn expired(&self, now: Millis) -> Option<Millis> {
        let (queued, _) = self.loaded.front()?;
        let before_ms = now.checked_sub(self.plan.policy.span_ms())?;
        (!queued.key.started && queued.key.due_ms <= before_ms).then_some(before_ms)
    }

    /// What can be seen from outside.
    #[must_use]
    pub fn glance(&self, event: Seq, all: &Gate, now: Millis) -> Glance {
        Glance {
            in_flight: self.in_flight.iter().any(|(seq, _)| *seq == event),
            circuit_probe_at: self.circuit.is_open().then(|| self.circuit.next_probe_at().unwrap_or(now)),
            permits_taken: self.permits_out()
                || all.is_full()
                || self.plan.host.as_ref().is_some_and(|host| host.is_full()),
            rate_limited_until: self.rate_until.filter(|until| *until > now),
            last_success_ms: self.last_success_ms,
        }
    }

    /// Whether it could be forgotten: nothing is held, nothing is due that the disk would not say again.
    #[must_use]
    pub fn is_idle(&self, now: Millis, for_ms: Millis) -> bool {
        self.fresh.is_empty()
            && self.loaded.is_empty()
            && self.in_flight.is_empty()
            && !self.loading
            && !self.circuit.is_open()
            && self.next_due().is_none()
            && now.saturating_sub(self.touched_ms) >= for_ms
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn permits_out(&self) -> bool {
        self.in_flight.len() >= self.plan.max_in_flight as usize
    }

    fn next_due(&self) -> Option<Millis> {
        [self.next_started, self.next_waiting].into_iter().flatten().min()
    }

    /// Takes a place at the host's gate and the daemon's.
    fn enter(&self, all: &Gate) -> bool {
        let no = self.plan.webhook.no;
        let host = self.plan.host.as_ref();
        if host.is_some_and(|host| !host.enter(no)) {
            return false;
        }
        if all.enter(no) {
            return true;
        }
        // The place is given straight back; whoever it would wake waits for the daemon's gate as well.
        if let Some(host) = host {
            let _ = host.leave();
        }
        false
    }

    fn rate_limited(&mut self, now: Millis) -> Option<Millis> {
        let rate = self.rate.as_ref()?;
        match rate.check() {
            Ok(()) => {
                self.rate_until = None;
                None
            }
            Err(not_yet) => {
                let wait = not_yet.wait_time_from(DefaultClock::default().now());
                let until = now + Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX).max(1);
                self.rate_until = Some(until);
                Some(until)
            }
        }
    }

    fn load(&mut self, now: Millis, started: bool, waiting: bool, max: usize) -> Option<Load> {
        let due = |next: Option<Millis>| next.is_some_and(|due| due <= now);
        let (started, waiting) = (started && due(self.next_started), waiting && due(self.next_waiting));
        if self.loading || !(started || waiting) {
            return None;
        }
        self.loading = true;
        let held = self.in_flight.iter().map(|(seq, _)| *seq).chain(self.loaded.iter().map(|(q, _)| q.event)).collect();
        Some(Load { started, waiting, max, held })
    }

    fn take_fresh(&mut self) -> Option<Work> {
        let (event, body) = self.fresh.pop_front()?;
        self.in_flight.push((event, None));
        Some(Work { event, row: None, body })
    }

    fn take_loaded(&mut self) -> Option<Work> {
        let (queued, body) = self.loaded.pop_front()?;
        self.in_flight.push((queued.event, Some(queued.key)));
        Some(Work { event: queued.event, row: Some((queued.key, queued.row)), body })
    }

    fn drain_fresh(&mut self, max: usize) -> Vec<Seq> {
        let count = max.min(self.fresh.len());
        self.fresh.drain(..count).map(|(seq, _)| seq).collect()
    }

    #[must_use]
    pub fn no(&self) -> WebhookNo {
        self.plan.webhook.no
    }
}

/// Deliveries per second, spread evenly: a tenth of a second's worth may go at once.
fn limiter(per_second: Option<f64>) -> Option<DefaultDirectRateLimiter> {
    let rate = per_second.filter(|rate| rate.is_finite() && *rate > 0.0)?;
    let period = std::time::Duration::try_from_secs_f64(1.0 / rate).ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped first")]
    let burst = (rate / 10.0).clamp(1.0, 10_000.0) as u32;
    let quota = Quota::with_period(period)?.allow_burst(std::num::NonZeroU32::new(burst)?);
    Some(RateLimiter::direct(quota))
}
