//! A lane: one webhook's deliveries, and the decision what starts next. Owns ready work, permits, circuit and rate limit.
//!
//! Synchronous, takes `now`, does no I/O: `next` says what to do and its driver does it. What the lane holds in memory is
//! bounded: fresh deliveries as sequence numbers up to `LANE_FRESH_MAX` (then they get rows in the durable queue), rows
//! read ahead up to `LANE_REFILL`. A permit is taken by `next` and given back by `ended` for a success that the spool has, else
//! by `settle` once the outcome is durable: so the death of the process repeats at most as many attempts as there are permits.
//!
//! What it knows of rows that are on disk only is when the first of each kind is due. Invariant: a row that is not held in
//! memory is covered by that time, by a read under way, or by a row that is about to be announced (`note_queued`).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::body::Body;
use super::gate::Gate;
use super::glance::Glance;
use super::pace::Pace;
use super::rate::Rate;
use super::settings::Plan;
use crate::circuit::Circuit;
use crate::clock::Millis;
use crate::limits::{LANE_FRESH_MAX, LANE_REFILL, LANE_REFILL_MIN, LANE_SPOOLED_MAX, OPEN_CIRCUIT_FRESH_MAX};
use crate::model::id::{Seq, WebhookNo};
use crate::store::op::RowKey;
use crate::store::queue::Queued;
use crate::store::record::QueueRow;

/// A delivery to be tried now.
pub struct Work {
    pub event: Seq,
    /// Its row in the durable queue; a fresh one has none.
    pub row: Option<(RowKey, QueueRow)>,
    /// `None`: to be read from the log.
    pub body: Option<Body>,
    /// Where a place is taken, besides the daemon's gate: to be given back there, whatever the plan says by then.
    pub host: Option<Arc<Gate>>,
}

/// A delivery under way, or one whose outcome is not durable yet.
struct Flight {
    event: Seq,
    /// Its row; a fresh one may get one meanwhile.
    row: Option<RowKey>,
    /// The attempt is over: its outcome is on the way to the disk.
    ended: bool,
    /// Its success survives a crash of the process already: the permit is free.
    spooled: bool,
}

/// What follows from the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The row that the delivery has by now.
    pub row: Option<RowKey>,
    /// Permits have run out while work waits: the outcome is pressing.
    pub pressing: bool,
    /// The receiver is quick and yet more is published than delivered.
    pub behind: bool,
    /// The circuit was open until now.
    pub closed: bool,
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
    /// What waits without an attempt since before then dies; `expired` says when it has.
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
    in_flight: Vec<Flight>,
    /// Those of them whose permit is free already.
    spooled: usize,
    pace: Pace,
    circuit: Circuit,
    rate: Option<Rate>,
    rate_until: Option<Millis>,
    /// The earliest due time of rows that are on disk only, by kind, as far as is known.
    next_started: Option<Millis>,
    next_waiting: Option<Millis>,
    loading: bool,
    /// Settled while rows are being read: what the read says of these may be old.
    settled_meanwhile: Vec<Seq>,
    /// Deaths by waiting are on their way to the disk; until then nobody can tell which waiting rows are left.
    expiring: bool,
    /// Fresh and queued deliveries take turns, so that neither starves.
    fresh_turn: bool,
    /// When it last had something to do, for tidying up.
    touched_ms: Millis,
}

impl Lane {
    #[must_use]
    pub fn new(plan: Arc<Plan>, now: Millis) -> Self {
        let rate = Rate::new(plan.webhook.rate_limit);
        Self {
            plan,
            fresh: VecDeque::new(),
            loaded: VecDeque::new(),
            in_flight: Vec::new(),
            spooled: 0,
            pace: Pace::default(),
            circuit: Circuit::default(),
            rate,
            rate_until: None,
            next_started: None,
            next_waiting: None,
            loading: false,
            settled_meanwhile: Vec::new(),
            expiring: false,
            fresh_turn: true,
            touched_ms: now,
        }
    }

    /// Takes a newer version of its webhook, or other settings.
    pub fn replan(&mut self, plan: Arc<Plan>) {
        if plan.webhook.rate_limit != self.plan.webhook.rate_limit {
            self.rate = Rate::new(plan.webhook.rate_limit);
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

    /// A new delivery. Over the bound `next` hands the oldest back, to be given rows.
    pub fn push_fresh(&mut self, event: Seq, body: Option<Body>) {
        self.fresh.push_back((event, body));
    }

    /// A row appeared on disk.
    pub fn note_queued(&mut self, key: RowKey) {
        note(if key.started { &mut self.next_started } else { &mut self.next_waiting }, Some(key.due_ms));
    }

    /// What waited too long is dead now, as far as one step goes.
    pub fn expired(&mut self) {
        self.expiring = false;
        self.next_waiting = Some(0);
    }

    /// Rows that `Next::Load` asked for; `None` when they could not be read.
    pub fn loaded(&mut self, loaded: Option<Loaded>, load: &Load) {
        self.loading = false;
        let settled = std::mem::take(&mut self.settled_meanwhile);
        // Asked for before the circuit opened: now one at a time is enough.
        let loaded = loaded.filter(|_| load.max == 1 || !self.circuit.is_open());
        // What was announced during the read may be missing in it, so the earlier of both counts.
        let again = || Loaded { next_started: Some(0), next_waiting: Some(0), ..Loaded::default() };
        let Loaded { mut rows, next_started, next_waiting } = loaded.unwrap_or_else(again);
        if load.started {
            note(&mut self.next_started, next_started);
        }
        if load.waiting {
            note(&mut self.next_waiting, next_waiting);
        }
        // A delivery that was under way during the read had a row that is gone by now, or is announced anew.
        rows.retain(|(row, _)| !settled.contains(&row.event) && !self.is_in_flight(row.event));
        rows.sort_by_key(|(queued, _)| (queued.key.due_ms, queued.event));
        self.loaded.extend(rows);
    }

    /// An attempt ended. `spooled`: its success survives a crash of the process, so its permit is free at once.
    pub fn ended(&mut self, event: Seq, success: bool, spooled: bool, now: Millis) -> Ended {
        let mut closed = false;
        if success {
            closed = self.circuit.on_success();
        } else if self.circuit.on_failure(&self.plan.circuit, now) {
            tracing::warn!(webhook = %self.plan.webhook.id, "circuit opened: the receiver failed too often in a row");
            self.forget_loaded();
        }
        let permits = self.plan.max_in_flight as usize;
        let behind = self.pace.is_fast(now, permits) && self.fresh.len() > permits;
        let flight = self.in_flight.iter_mut().find(|flight| flight.event == event);
        let row = flight.and_then(|flight| {
            flight.ended = true;
            flight.spooled = spooled;
            flight.row
        });
        self.spooled += usize::from(spooled);
        let pressing = self.permits_out() && !(self.fresh.is_empty() && self.loaded.is_empty());
        Ended { row, pressing, behind, closed }
    }

    /// An outcome is durable: its permit is free, if it was not already.
    pub fn settle(&mut self, event: Seq) {
        self.land(event);
    }

    /// An attempt that was never made: its delivery waits again, where it waited before.
    pub fn put_back(&mut self, event: Seq) {
        match self.land(event) {
            Some(Flight { row: Some(key), .. }) => self.note_queued(key),
            Some(Flight { row: None, .. }) => self.fresh.push_front((event, None)),
            None => {}
        }
    }

    fn land(&mut self, event: Seq) -> Option<Flight> {
        let place = self.in_flight.iter().position(|flight| flight.event == event)?;
        if self.loading {
            self.settled_meanwhile.push(event);
        }
        let flight = self.in_flight.swap_remove(place);
        self.spooled -= usize::from(flight.spooled);
        Some(flight)
    }

    /// Fresh deliveries of events below `floor`: they hold the watermark back and get rows, those in flight too. One whose
    /// outcome is on its way gets none: that is its record.
    pub fn laggards(&mut self, floor: Seq, due_ms: Millis) -> Vec<Seq> {
        let late = self.fresh.iter().take_while(|(seq, _)| *seq < floor).count();
        let mut laggards = self.drain_fresh(late);
        for flight in &mut self.in_flight {
            if flight.event < floor && flight.row.is_none() && !flight.ended {
                flight.row = Some(RowKey { started: false, due_ms });
                laggards.push(flight.event);
            }
        }
        laggards
    }

    /// What to do next. Call again until it says `Wait`.
    pub fn next(&mut self, all: &Gate, now: Millis) -> Next {
        let webhook = &self.plan.webhook;
        if !webhook.is_active() {
            let deleted = webhook.is_deleted();
            if !self.loaded.is_empty() {
                self.forget_loaded();
            }
            return match (self.fresh.is_empty(), deleted) {
                (true, _) => Next::Wait(None),
                (false, true) => Next::Forget(self.drain_fresh(usize::MAX)),
                (false, false) => Next::Spill(self.drain_fresh(usize::MAX)),
            };
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
            && let Some(load) = self.load(now, true, true, self.refill())
        {
            return Next::Load(load);
        }
        if self.fresh.is_empty() && self.loaded.is_empty() {
            // A read under way wakes the lane when it is done.
            return Next::Wait(self.next_due().filter(|_| !self.loading));
        }
        let fresh_first = self.fresh_turn;
        let next = self.start(all, now, fresh_first);
        if matches!(next, Next::Start(_)) {
            self.fresh_turn = !fresh_first;
        }
        next
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
        if let Some(before_ms) = self.waited_out(now) {
            self.loaded.clear();
            self.expiring = true;
            return Next::Expire { before_ms };
        }
        if self.loaded.is_empty() {
            if let Some(load) = self.load(now, true, false, 1) {
                return Next::Load(load);
            }
            let probe_at = self.circuit.next_probe_at().unwrap_or(now);
            if now < probe_at {
                return Next::Wait(Some(self.next_started.map_or(probe_at, |due| due.min(probe_at))));
            }
            // With rows the oldest can be told, and how long each has waited.
            if self.fresh.len() > 1 || (self.next_waiting.is_some() && !self.fresh.is_empty()) {
                return Next::Spill(self.drain_fresh(usize::MAX));
            }
            if let Some(load) = self.load(now, false, true, 1) {
                return Next::Load(load);
            }
            if self.fresh.is_empty() {
                return Next::Wait(self.next_due());
            }
        }
        let next = self.start(all, now, false);
        if matches!(next, Next::Start(_)) {
            self.circuit.on_probe(&self.plan.circuit, now);
        }
        next
    }

    /// Takes what is at hand, if rate limit and gates let it go.
    fn start(&mut self, all: &Gate, now: Millis, fresh_first: bool) -> Next {
        self.rate_until = self.rate.as_ref().and_then(|rate| rate.blocked_until(now));
        if self.rate_until.is_some() {
            return Next::Wait(self.rate_until);
        }
        if !Gate::enter(self.plan.host.as_deref(), all, self.no()) {
            return Next::Wait(None);
        }
        if let Some(rate) = &mut self.rate {
            rate.take(now);
        }
        self.touched_ms = now;
        let work = if fresh_first {
            self.take_fresh().or_else(|| self.take_loaded())
        } else {
            self.take_loaded().or_else(|| self.take_fresh())
        };
        debug_assert!(work.is_some(), "a place was taken for nothing");
        work.map_or(Next::Wait(None), Next::Start)
    }

    /// Whether the waiting delivery at hand has waited for the whole span of its policy behind this circuit: since when others
    /// have, too. A time before the circuit opened is no wait behind it, and across a restart nobody can tell a clock that was
    /// put forward from a machine that was off. However short the span, the newest get as long as the first probe takes: so there is always something to probe with.
    fn waited_out(&self, now: Millis) -> Option<Millis> {
        let (queued, _) = self.loaded.front()?;
        let span_ms = self.plan.policy.span_ms().max(self.plan.circuit.probe_first_ms);
        let before_ms = now.checked_sub(span_ms).filter(|before| self.circuit.open_since() <= Some(*before))?;
        (!queued.key.started && queued.key.due_ms <= before_ms).then_some(before_ms)
    }

    /// What can be seen from outside.
    #[must_use]
    pub fn glance(&self, event: Seq, all: &Gate, now: Millis) -> Glance {
        Glance {
            in_flight: self.is_in_flight(event),
            circuit_probe_at: self.circuit.is_open().then(|| self.circuit.next_probe_at().unwrap_or(now)),
            permits_taken: self.permits_out()
                || all.is_full()
                || self.plan.host.as_ref().is_some_and(|host| host.is_full()),
            rate_limited_until: self.rate_until.filter(|until| *until > now),
        }
    }

    /// Whether it could be forgotten: nothing is held, nothing is due that the disk would not say again.
    #[must_use]
    pub fn is_idle(&self, now: Millis, for_ms: Millis) -> bool {
        let holds_nothing = self.fresh.is_empty() && self.loaded.is_empty() && self.in_flight.is_empty();
        let rows = self.next_started.is_some() || self.next_waiting.is_some() || self.expiring || self.loading;
        let remembers = self.circuit.is_open() || self.rate.as_ref().is_some_and(|r| r.blocked_until(now).is_some());
        let expects_nothing = self.plan.webhook.is_deleted() || !(rows || remembers);
        holds_nothing && expects_nothing && now.saturating_sub(self.touched_ms) >= for_ms
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn permits_out(&self) -> bool {
        self.in_flight.len() - self.spooled >= self.plan.max_in_flight as usize
    }

    /// Whether one more success may free its permit before it is committed.
    #[must_use]
    pub fn may_spool(&self) -> bool {
        self.spooled < LANE_SPOOLED_MAX
    }

    fn is_in_flight(&self, event: Seq) -> bool {
        self.in_flight.iter().any(|flight| flight.event == event)
    }

    /// When a row may be looked for.
    fn next_due(&self) -> Option<Millis> {
        let waiting = self.next_waiting.filter(|_| !self.expiring);
        [self.next_started, waiting].into_iter().flatten().min()
    }

    /// What was read ahead goes back to the disk, which has it all.
    fn forget_loaded(&mut self) {
        self.loaded = VecDeque::new();
        self.look_again();
    }

    /// How many rows to read: enough for a while, little enough for many lanes.
    fn refill(&self) -> usize {
        (self.plan.max_in_flight as usize).saturating_mul(4).clamp(LANE_REFILL_MIN, LANE_REFILL)
    }

    fn load(&mut self, now: Millis, started: bool, waiting: bool, max: usize) -> Option<Load> {
        let due = |next: Option<Millis>| next.is_some_and(|due| due <= now);
        let started = started && due(self.next_started);
        let waiting = waiting && due(self.next_waiting) && !self.expiring;
        if self.loading || !(started || waiting) {
            return None;
        }
        self.loading = true;
        // The read will tell; what is announced from now on counts besides.
        if started {
            self.next_started = None;
        }
        if waiting {
            self.next_waiting = None;
        }
        let flying = self.in_flight.iter().map(|flight| flight.event);
        let held = flying.chain(self.loaded.iter().map(|(queued, _)| queued.event)).collect();
        Some(Load { started, waiting, max, held })
    }

    fn take_fresh(&mut self) -> Option<Work> {
        let (event, body) = self.fresh.pop_front()?;
        self.shrink();
        self.in_flight.push(Flight { event, row: None, ended: false, spooled: false });
        Some(Work { event, row: None, body, host: self.plan.host.clone() })
    }

    fn take_loaded(&mut self) -> Option<Work> {
        let (queued, body) = self.loaded.pop_front()?;
        self.in_flight.push(Flight { event: queued.event, row: Some(queued.key), ended: false, spooled: false });
        Some(Work { event: queued.event, row: Some((queued.key, queued.row)), body, host: self.plan.host.clone() })
    }

    fn drain_fresh(&mut self, max: usize) -> Vec<Seq> {
        let count = max.min(self.fresh.len());
        let drained = self.fresh.drain(..count).map(|(seq, _)| seq).collect();
        self.shrink();
        drained
    }

    /// Room for a burst is given back when the burst is over.
    fn shrink(&mut self) {
        if self.fresh.is_empty() && self.fresh.capacity() > OPEN_CIRCUIT_FRESH_MAX {
            self.fresh = VecDeque::new();
        }
    }

    #[must_use]
    pub fn no(&self) -> WebhookNo {
        self.plan.webhook.no
    }
}

/// The earlier of two times counts.
fn note(next: &mut Option<Millis>, other: Option<Millis>) {
    *next = next.iter().chain(&other).min().copied();
}

#[cfg(test)]
mod tests;
