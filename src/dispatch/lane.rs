//! A lane: one webhook's deliveries, and the decision what starts next. Owns ready work, permits, circuit and rate limit.
//!
//! Synchronous, takes `now`, does no I/O: `next` says what to do and its driver does it. What the lane holds in memory is
//! bounded: fresh deliveries as sequence numbers up to `LANE_FRESH_MAX` (then they get rows in the durable queue), rows
//! read ahead up to `LANE_REFILL`. A permit is taken by `next` and given back by `ended` for a success that the spool has, else
//! by `settle` once the outcome is durable: so the death of the process repeats at most as many attempts as there are permits.
//!
//! Of deliveries that stand in line for their `ordering_key` it meets only the one that may go: the others have no rows.
//!
//! What it knows of rows that are on disk only is `reading`'s, what is under way `flights`'.

mod flights;
mod reading;

use std::collections::VecDeque;
use std::sync::Arc;

use self::flights::{Checked, Flight, Flights};
pub use self::reading::{Load, Loaded};
use super::body::Body;
use super::gate::{Doors, Gate};
use super::glance::Glance;
use super::pace::Pace;
use super::rate::Rate;
use super::settings::Plan;
use crate::circuit::Circuit;
use crate::clock::Millis;
use crate::limits::{LANE_FRESH_MAX, LANE_SPOOLED_MAX, OPEN_CIRCUIT_FRESH_MAX};
use crate::model::event::OrderKey;
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

pub struct Lane {
    pub plan: Arc<Plan>,
    fresh: VecDeque<(Seq, Option<Body>)>,
    loaded: VecDeque<(Queued, Option<Body>)>,
    flights: Flights,
    /// Cancelled before it was heard of: the news of them are on their way.
    cancelled: Vec<Seq>,
    pace: Pace,
    circuit: Circuit,
    rate: Option<Rate>,
    rate_until: Option<Millis>,
    /// The earliest due time of rows that are on disk only, by kind, as far as is known.
    next_started: Option<Millis>,
    next_waiting: Option<Millis>,
    loading: bool,
    /// Landed while rows are being read, with the row that they had: what the read says of these may be old.
    settled_meanwhile: Vec<(Seq, Option<RowKey>)>,
    /// Deaths by waiting are on their way to the disk; until then nobody can tell which waiting rows are left.
    expiring: bool,
    paused: bool,
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
            flights: Flights::default(),
            cancelled: Vec::new(),
            pace: Pace::default(),
            circuit: Circuit::default(),
            rate,
            rate_until: None,
            next_started: None,
            next_waiting: None,
            loading: false,
            settled_meanwhile: Vec::new(),
            expiring: false,
            paused: false,
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
        if woken || plan.webhook.url != self.plan.webhook.url {
            self.circuit.expect_well();
        }
        self.plan = plan;
        if woken {
            // What waited on disk while nobody asked for it.
            self.look_again();
        }
    }

    /// Somebody expects its receiver to be well. `true`: it has to be looked at for that.
    pub fn expect_well(&mut self) -> bool {
        self.circuit.expect_well()
    }

    /// A new delivery. Over the bound `next` hands the oldest back, to be given rows.
    pub fn push_fresh(&mut self, event: Seq, body: Option<Body>) {
        if self.cancelled.is_empty() || !self.cancelled.contains(&event) {
            self.fresh.push_back((event, body));
        }
    }

    /// A delivery is cancelled: no attempt of it starts any more. One that is under way may end.
    pub fn cancel(&mut self, event: Seq) {
        if self.loading {
            // The read may still bring its row.
            self.settled_meanwhile.push((event, None));
        }
        let fresh = self.fresh.iter().position(|(seq, _)| *seq == event);
        let loaded = self.loaded.iter().position(|(queued, _)| queued.event == event);
        fresh.map(|place| self.fresh.remove(place));
        loaded.map(|place| self.loaded.remove(place));
        let found = fresh.is_some() || loaded.is_some() || self.flights.cancel(event);
        if !found && !self.cancelled.contains(&event) {
            self.cancelled.push(event);
        }
    }

    /// What was sent to the lane about a cancelled delivery has arrived.
    pub fn forget_cancelled(&mut self, event: Seq) {
        self.cancelled.retain(|seq| *seq != event);
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
        let row = self.flights.end(event, spooled);
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
            Some(Flight { cancelled: false, row: Some(key), .. }) => self.note_queued(key),
            Some(Flight { cancelled: false, row: None, .. }) => self.fresh.push_front((event, None)),
            Some(Flight { cancelled: true, .. }) | None => {}
        }
    }

    /// The last look before an attempt, when its event is known. False: it is not to be made, because its delivery was
    /// cancelled, or because another of its line is under way; then it has landed, and comes again behind that one.
    pub fn may_go(&mut self, event: Seq, order: Option<OrderKey>) -> bool {
        match self.flights.check(event, order) {
            Checked::Go => return true,
            Checked::Cancelled => drop(self.land(event)),
            Checked::Behind(other) => {
                let row = self.land(event).and_then(|flight| flight.row);
                if let Some(other) = self.flights.find(other) {
                    match row {
                        Some(key) => other.after().note(key),
                        None => other.after().fresh.push(event),
                    }
                }
            }
        }
        false
    }

    /// Whether attempts have to ask `may_go` although their event stands in no line.
    #[must_use]
    pub fn is_wary(&self) -> bool {
        self.flights.any_cancelled()
    }

    fn land(&mut self, event: Seq) -> Option<Flight> {
        let mut flight = self.flights.remove(event)?;
        if self.loading {
            self.settled_meanwhile.push((event, flight.row));
        }
        if let Some(after) = flight.take_after() {
            note(&mut self.next_started, after.started);
            note(&mut self.next_waiting, after.waiting);
            after.fresh.into_iter().rev().for_each(|event| self.fresh.push_front((event, None)));
        }
        Some(flight)
    }

    /// Fresh deliveries of events below `floor`: they hold the watermark back and get rows, those in flight too.
    pub fn laggards(&mut self, floor: Seq, due_ms: Millis) -> Vec<Seq> {
        let late = self.fresh.iter().take_while(|(seq, _)| *seq < floor).count();
        let mut laggards = self.drain_fresh(late);
        laggards.extend(self.flights.laggards(floor, due_ms));
        laggards
    }

    /// What to do next. Call again until it says `Wait`. While `paused` nothing starts; what comes gets rows. `doors`: of its plan's
    /// gates.
    pub fn next(&mut self, doors: &mut Doors<'_>, paused: bool, now: Millis) -> Next {
        let webhook = &self.plan.webhook;
        if std::mem::replace(&mut self.paused, paused) && !paused {
            // What waits has not waited for the circuit meanwhile.
            self.circuit.wait_anew(now);
            self.circuit.expect_well();
        }
        if paused || !webhook.is_active() {
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
        if self.circuit.is_open() { self.next_open(doors, now) } else { self.next_closed(doors, now) }
    }

    fn next_closed(&mut self, doors: &mut Doors<'_>, now: Millis) -> Next {
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
        let next = self.start(doors, now, fresh_first);
        if matches!(next, Next::Start(_)) {
            self.fresh_turn = !fresh_first;
        }
        next
    }

    /// Behind an open circuit one attempt runs at a time: a started delivery at its own time, or the oldest waiting one
    /// when the probe is due.
    fn next_open(&mut self, doors: &mut Doors<'_>, now: Millis) -> Next {
        if self.fresh.len() >= OPEN_CIRCUIT_FRESH_MAX {
            return Next::Spill(self.drain_fresh(usize::MAX));
        }
        if self.loading || !self.flights.is_empty() {
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
        let next = self.start(doors, now, false);
        if matches!(next, Next::Start(_)) {
            self.circuit.on_probe(&self.plan.circuit, now);
        }
        next
    }

    /// Takes what is at hand, if rate limit and gates let it go.
    fn start(&mut self, doors: &mut Doors<'_>, now: Millis, fresh_first: bool) -> Next {
        self.rate_until = self.rate.as_ref().and_then(|rate| rate.blocked_until(now));
        if self.rate_until.is_some() {
            return Next::Wait(self.rate_until);
        }
        if !doors.enter(self.no()) {
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

    /// Whether the waiting delivery at hand has waited behind the circuit for the whole span of its policy: since when others
    /// have, too. Time before it opened, or under a pause, does not count: it was not the circuit that it waited for then.
    /// However short the span, the newest get as long as the first probe takes: so there is always something to probe with.
    fn waited_out(&self, now: Millis) -> Option<Millis> {
        let (queued, _) = self.loaded.front()?;
        let span_ms = self.plan.policy.span_ms().max(self.plan.circuit.probe_first_ms);
        let before_ms = now.checked_sub(span_ms)?;
        let was_open = self.circuit.open_since().is_some_and(|since| since <= before_ms);
        (was_open && !queued.key.started && queued.key.due_ms <= before_ms).then_some(before_ms)
    }

    /// What can be seen from outside.
    #[must_use]
    pub fn glance(&self, event: Seq, all: &Gate, now: Millis) -> Glance {
        let flight = self.flights.get(event);
        Glance {
            in_flight: flight.is_some(),
            is_ending: flight.is_some_and(|flight| flight.cancelled && !flight.ended),
            circuit_probe_at: self.circuit.is_open().then(|| self.circuit.next_probe_at().unwrap_or(now)),
            permits_taken: self.permits_out()
                || all.is_full()
                || self.plan.gates.iter().flatten().any(|gate| gate.is_full()),
            rate_limited_until: self.rate_until.filter(|until| *until > now),
        }
    }

    /// Whether it could be forgotten: nothing is held, nothing is due that the disk would not say again.
    #[must_use]
    pub fn is_idle(&self, now: Millis, for_ms: Millis) -> bool {
        let holds_nothing = self.fresh.is_empty() && self.loaded.is_empty() && self.flights.is_empty();
        let rows = self.next_started.is_some() || self.next_waiting.is_some() || self.expiring || self.loading;
        let remembers = self.circuit.is_open() || self.rate.as_ref().is_some_and(|r| r.blocked_until(now).is_some());
        let expects_nothing = self.plan.webhook.is_deleted() || !(rows || remembers);
        holds_nothing && self.cancelled.is_empty() && expects_nothing && now.saturating_sub(self.touched_ms) >= for_ms
    }

    /// Whether it could be forgotten at once: it is idle, and a new one in its place would do the same with the next delivery.
    #[must_use]
    pub fn is_done(&self, now: Millis) -> bool {
        self.rate.is_none() && self.circuit.failures_in_row() == 0 && self.is_idle(now, 0)
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    fn permits_out(&self) -> bool {
        self.flights.permits() >= self.plan.max_in_flight as usize
    }

    /// Whether one more success may free its permit before it is committed.
    #[must_use]
    pub fn may_spool(&self) -> bool {
        self.flights.spooled() < LANE_SPOOLED_MAX
    }

    fn is_in_flight(&self, event: Seq) -> bool {
        self.flights.get(event).is_some()
    }

    fn take_fresh(&mut self) -> Option<Work> {
        let (event, body) = self.fresh.pop_front()?;
        self.shrink();
        self.flights.push(event, None);
        Some(Work { event, row: None, body })
    }

    fn take_loaded(&mut self) -> Option<Work> {
        let (queued, body) = self.loaded.pop_front()?;
        self.flights.push(queued.event, Some(queued.key));
        Some(Work { event: queued.event, row: Some((queued.key, queued.row)), body })
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
