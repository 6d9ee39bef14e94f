//! The writer and its store as a lane sees them: what became of each delivery, rows, lines, and what a commit tells. On plain
//! collections, for `model`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pending,
    Delivered,
    Dead,
    Cancelled,
}

#[derive(Debug)]
pub(super) enum Op {
    Spill(Vec<Seq>, Millis),
    Forget(Vec<Seq>),
    Expire(Millis),
    Outcome { event: Seq, row: Option<RowKey>, attempts: u32, success: bool, at: Millis },
    Cancel(Seq),
    Resend(Seq),
}

/// What a commit tells the dispatcher.
#[derive(Default)]
pub(super) struct Told {
    pub cancelled: Vec<Seq>,
    pub settled: Vec<Seq>,
    pub queued: Vec<RowKey>,
    pub expired: usize,
}

#[derive(Default)]
pub(super) struct Writer {
    pub fates: BTreeMap<Seq, Fate>,
    pub orders: BTreeMap<Seq, OrderKey>,
    /// Pending and without a record.
    pub fresh: BTreeSet<Seq>,
    /// The durable queue: (started, due, event) → attempts made.
    pub rows: BTreeMap<(bool, Millis, Seq), u32>,
    /// Deliveries in line, and whether they are held.
    pub lines: BTreeMap<(OrderKey, Seq), bool>,
    pub deleted: bool,
    pub inbox: Vec<Op>,
    pub expiries: usize,
}

impl Writer {
    /// Accepts an event; true: its delivery goes to the lane.
    pub fn accept(&mut self, event: Seq, order: Option<OrderKey>) -> bool {
        self.fates.insert(event, Fate::Pending);
        self.orders.extend(order.map(|order| (event, order)));
        let free = self.get_in_line(event);
        if free {
            self.fresh.insert(event);
        }
        free
    }

    fn get_in_line(&mut self, event: Seq) -> bool {
        let Some(order) = self.orders.get(&event).copied() else { return true };
        let free = self.lines.range((order, 0)..=(order, Seq::MAX)).next().is_none();
        self.lines.insert((order, event), !free);
        free
    }

    fn leave_line(&mut self, event: Seq, told: &mut Told) {
        let Some(order) = self.orders.get(&event).copied() else { return };
        if self.lines.remove(&(order, event)) != Some(false) || self.deleted {
            return;
        }
        let next = self.lines.range((order, 0)..=(order, Seq::MAX)).next().map(|((_, event), _)| *event);
        if let Some(event) = next {
            self.lines.insert((order, event), false);
            // It waits since long ago.
            self.rows.insert((false, NOW, event), 0);
            told.queued.push(RowKey { started: false, due_ms: NOW });
        }
    }

    /// Takes a pending delivery away, wherever it is.
    fn withdraw(&mut self, event: Seq, told: &mut Told) -> bool {
        let row = self.rows.keys().find(|(_, _, other)| *other == event).copied();
        let order = self.orders.get(&event).copied();
        let held = order.is_some_and(|order| self.lines.get(&(order, event)) == Some(&true));
        let there = row.is_some_and(|row| self.rows.remove(&row).is_some()) || held || self.fresh.remove(&event);
        if there {
            self.leave_line(event, told);
        }
        there
    }

    /// Writes the first ops of the inbox as one group. `lane` and `now`: what is under way, and when.
    pub fn commit(&mut self, count: usize, lane: &Lane, now: Millis) -> Told {
        let mut told = Told::default();
        let ops: Vec<Op> = self.inbox.drain(..count.min(self.inbox.len())).collect();
        for op in ops {
            match op {
                Op::Spill(events, due_ms) if !self.deleted => {
                    for event in events {
                        if self.fresh.remove(&event) {
                            self.rows.insert((false, due_ms, event), 0);
                        }
                    }
                    told.queued.push(RowKey { started: false, due_ms });
                }
                Op::Spill(events, _) | Op::Forget(events) => {
                    assert!(self.deleted, "forgotten while there is a webhook");
                    self.fates.extend(events.into_iter().map(|event| (event, Fate::Cancelled)));
                }
                Op::Expire(before) => self.expire(before, lane, &mut told),
                Op::Outcome { event, row, attempts, success, at } => {
                    self.record(event, row, (attempts, success, at), &lane.plan.policy, &mut told);
                    told.settled.push(event);
                }
                Op::Cancel(event) => {
                    if self.withdraw(event, &mut told) {
                        self.fates.insert(event, Fate::Cancelled);
                    }
                    told.cancelled.push(event);
                }
                Op::Resend(event) => {
                    if self.fates[&event] != Fate::Pending && !self.deleted {
                        self.fates.insert(event, Fate::Pending);
                        if self.get_in_line(event) {
                            self.rows.insert((false, now, event), 0);
                            told.queued.push(RowKey { started: false, due_ms: now });
                        }
                    }
                }
            }
        }
        told
    }

    fn expire(&mut self, before: Millis, lane: &Lane, told: &mut Told) {
        told.expired += 1;
        let old = self.rows.range((false, 0, 0)..=(false, before, Seq::MAX)).take(20);
        for (started, due_ms, event) in old.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.expiries += 1;
            let flying = lane.flights.get(event).is_some_and(|flight| flight.row == Some(RowKey { started, due_ms }));
            assert!(!flying, "{event} dies under way");
            self.rows.remove(&(started, due_ms, event));
            self.fates.insert(event, Fate::Dead);
            self.leave_line(event, told);
        }
    }

    fn record(
        &mut self,
        event: Seq,
        row: Option<RowKey>,
        (attempts, success, at): (u32, bool, Millis),
        policy: &Policy,
        told: &mut Told,
    ) {
        let pending = match row {
            Some(key) => self.rows.remove(&(key.started, key.due_ms, event)).is_some(),
            None => self.fresh.remove(&event),
        };
        if !pending && !self.deleted {
            // It was cancelled meanwhile, and perhaps asked for again.
            if success {
                self.withdraw(event, told);
                self.fates.insert(event, Fate::Delivered);
            }
            return;
        }
        match policy.delay_ms(attempts, 0.5).filter(|_| !self.deleted && !success) {
            Some(delay) => {
                self.rows.insert((true, at + delay, event), attempts);
                told.queued.push(RowKey { started: true, due_ms: at + delay });
            }
            None => {
                self.fates.insert(event, if success { Fate::Delivered } else { Fate::Dead });
                self.leave_line(event, told);
            }
        }
    }

    /// The webhook goes, and its rows.
    pub fn delete(&mut self) {
        self.deleted = true;
        for (_, _, event) in std::mem::take(&mut self.rows).into_keys() {
            self.fates.insert(event, Fate::Cancelled);
        }
        for ((_, event), held) in std::mem::take(&mut self.lines) {
            if held {
                self.fates.insert(event, Fate::Cancelled);
            }
        }
    }

    /// A snapshot of the queue, as a worker reads it.
    pub fn read(&self, load: &Load, now: Millis) -> Loaded {
        let mut loaded = Loaded::default();
        let kinds = usize::from(load.started) + usize::from(load.waiting);
        for started in [true, false] {
            if !(if started { load.started } else { load.waiting }) {
                continue;
            }
            let (mut left, mut next) = (load.max.div_ceil(kinds), None);
            for ((_, due_ms, event), attempts) in self.rows.range((started, 0, 0)..=(started, Millis::MAX, Seq::MAX)) {
                let key = RowKey { started, due_ms: *due_ms };
                if load.held.contains(event) {
                    loaded.skipped.push((*event, key));
                } else if left > 0 && *due_ms <= now {
                    left -= 1;
                    let row = QueueRow { attempts: *attempts, ..QueueRow::default() };
                    loaded.rows.push((Queued { event: *event, key, row }, None));
                } else {
                    next = Some(*due_ms);
                    break;
                }
            }
            *(if started { &mut loaded.next_started } else { &mut loaded.next_waiting }) = next;
        }
        loaded
    }
}
