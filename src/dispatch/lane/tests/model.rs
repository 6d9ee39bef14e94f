//! A lane driven by chance against a model of the writer and its queue. Owns the rules that no order of events may break:
//! nothing is lost, nothing is under way twice, nor two of one line, nothing starts that is cancelled or paused, permits bound
//! what is under way, and nothing that is due stays unasked for. A failure prints its seed; `SEED=` runs that one alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::writer::{Fate, Op, Told, Writer};
use super::*;
use crate::entropy::Entropy;

const RIVAL: WebhookNo = 99;
const STEPS: usize = 800;
const INACTIVE: WebhookState = WebhookState::Inactive { reason: InactiveReason::Owner, since: NOW };

/// What is on its way to the lane, in order.
enum News {
    Fresh(Seq),
    /// What came before about this one has arrived.
    Cancelled(Seq),
}

struct World {
    bench: Bench,
    chance: Entropy,
    writer: Writer,
    news: VecDeque<News>,
    /// Started, their event not read yet → attempts made before.
    boarding: BTreeMap<Seq, u32>,
    /// Under way → attempts made before this one.
    flying: BTreeMap<Seq, u32>,
    /// Ended, not yet durable.
    ended: BTreeSet<Seq>,
    load: Option<Load>,
    read: Option<Loaded>,
    wake: Option<Millis>,
    healthy: bool,
    next_event: Seq,
    rival: usize,
    /// Little is published, mostly with a key, and much of it cancelled.
    calm: bool,
    /// How often an attempt waited for another of its line, and how often one was not made because it was cancelled.
    behind: usize,
    withheld: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let policy = Policy { delays_ms: vec![1_000, 5_000, 20_000], jitter: 0.0 };
        let host = Arc::new(Gate::new(3));
        let lane = Lane::new(planned(webhook(), policy, &host), NOW);
        Self {
            bench: Bench { lane, all: Gate::new(3), host, paused: false, now: NOW },
            chance: Entropy::seeded(seed),
            writer: Writer::default(),
            news: VecDeque::new(),
            boarding: BTreeMap::new(),
            flying: BTreeMap::new(),
            ended: BTreeSet::new(),
            load: None,
            read: None,
            wake: None,
            healthy: true,
            next_event: 1,
            rival: 0,
            calm: seed % 2 == 1,
            behind: 0,
            withheld: 0,
        }
    }

    fn below(&self, n: usize) -> usize {
        (self.chance.unit() * n as f64) as usize
    }

    fn pump(&mut self) {
        for _ in 0..10_000 {
            match self.bench.next() {
                Next::Start(work) => {
                    let event = work.event;
                    let attempts = work.row.map_or(0, |(_, row)| row.attempts);
                    assert_eq!(self.boarding.insert(event, attempts), None, "{event} starts twice");
                    assert!(!self.flying.contains_key(&event), "{event} under way twice");
                    assert!(!self.ended.contains(&event), "{event} before its outcome is durable");
                    assert!(self.bench.lane.in_flight() <= self.bench.lane.plan.max_in_flight as usize);
                    assert!(self.bench.lane.plan.webhook.is_active() && !self.bench.paused);
                }
                Next::Load(load) => assert!(self.load.replace(load).is_none(), "two reads at once"),
                Next::Spill(events) => self.writer.inbox.push(Op::Spill(events, self.bench.now)),
                Next::Forget(events) => self.writer.inbox.push(Op::Forget(events)),
                Next::Expire { before_ms } => self.writer.inbox.push(Op::Expire(before_ms)),
                Next::Wait(at) => {
                    if let Some(at) = at {
                        assert!(at > self.bench.now, "it spins");
                        self.wake = Some(self.wake.map_or(at, |before| before.min(at)));
                    }
                    return;
                }
            }
        }
        panic!("it never waits");
    }

    /// The event of one that has started is read: the last look, and off it goes.
    fn board_one(&mut self) {
        let Some(event) = self.some(&self.boarding) else { return };
        let attempts = self.boarding[&event];
        self.boarding.remove(&event);
        let order = self.writer.orders.get(&event).copied();
        if !self.bench.lane.plan.webhook.is_active() || self.bench.paused {
            self.leave();
            self.bench.lane.put_back(event);
            return self.pump();
        }
        if (self.bench.lane.is_wary() || order.is_some()) && !self.bench.lane.may_go(event, order) {
            let pending = self.writer.fates[&event] == Fate::Pending;
            *(if pending { &mut self.behind } else { &mut self.withheld }) += 1;
            self.leave();
            return self.pump();
        }
        assert_eq!(self.writer.fates[&event], Fate::Pending, "{event} goes although it ended");
        let line = |other: &Seq| order.is_some() && self.writer.orders.get(other).copied() == order;
        assert!(!self.flying.keys().any(line), "{event} overtakes another of its line");
        self.flying.insert(event, attempts);
    }

    fn woken(&mut self, at_host: bool, lane: Option<WebhookNo>) {
        let mut lane = lane;
        while let Some(woken) = lane {
            if woken == NO {
                self.pump();
            }
            lane = if at_host { self.bench.host.looked(woken) } else { self.bench.all.looked(woken) };
        }
    }

    fn leave(&mut self) {
        let woken = self.bench.host.leave();
        self.woken(true, woken);
        let woken = self.bench.all.leave();
        self.woken(false, woken);
    }

    fn some(&self, of: &BTreeMap<Seq, u32>) -> Option<Seq> {
        of.keys().nth(self.below(of.len().max(1))).copied()
    }

    fn publish(&mut self, count: usize) {
        if !self.bench.lane.plan.webhook.is_active() {
            return;
        }
        for _ in 0..count {
            let order = (self.below(6) < if self.calm { 5 } else { 2 })
                .then(|| self.below(if self.calm { 1 } else { 3 }) as OrderKey);
            if self.writer.accept(self.next_event, order) {
                self.news.push_back(News::Fresh(self.next_event));
            }
            self.next_event += 1;
        }
    }

    /// Some of what is on its way arrives.
    fn arrive(&mut self, count: usize) {
        for news in self.news.drain(..count.min(self.news.len())) {
            match news {
                News::Fresh(event) => self.bench.lane.push_fresh(event, None),
                News::Cancelled(event) => self.bench.lane.forget_cancelled(event),
            }
        }
        self.pump();
    }

    /// One attempt ends, well or badly, or is never made.
    fn end_one(&mut self) {
        let Some(event) = self.some(&self.flying) else { return };
        let attempts = self.flying[&event] + 1;
        self.leave();
        self.flying.remove(&event);
        if self.below(10) == 0 || !self.bench.lane.plan.webhook.is_active() && self.below(2) == 0 {
            self.bench.lane.put_back(event);
            return self.pump();
        }
        let now = self.bench.now;
        let success = self.healthy && self.below(8) != 0;
        let ended = self.bench.lane.ended(event, success, false, now);
        self.ended.insert(event);
        self.writer.inbox.push(Op::Outcome { event, row: ended.row, attempts, success, at: now });
        if ended.closed {
            self.pump();
        }
    }

    /// Writes the first ops of the inbox as one group and tells the lane what follows, in the order in which a worker does.
    fn commit(&mut self, count: usize) {
        let Told { cancelled, settled, queued, expired } = self.writer.commit(count, &self.bench.lane, self.bench.now);
        for event in cancelled {
            self.bench.lane.cancel(event);
            self.news.push_back(News::Cancelled(event));
        }
        // What has a row is told by another worker than what has ended: either may be first.
        let rows_first = self.below(2) == 0;
        if rows_first {
            queued.iter().for_each(|key| self.bench.lane.note_queued(*key));
            self.pump();
        }
        for event in settled {
            self.ended.remove(&event);
            self.bench.lane.settle(event);
        }
        if !rows_first {
            queued.iter().for_each(|key| self.bench.lane.note_queued(*key));
        }
        (0..expired).for_each(|_| self.bench.lane.expired());
        self.pump();
    }

    /// A read of the queue goes one step: the snapshot is taken, or its rows reach the lane.
    fn step_load(&mut self) {
        let Some(load) = self.load.clone() else { return };
        if let Some(read) = self.read.take() {
            self.load = None;
            if self.below(10) == 0 {
                // It could not be read: the worker comes back a second later.
                self.bench.lane.loaded(None, &load);
                let at = self.bench.now + 1_000;
                self.wake = Some(self.wake.map_or(at, |before| before.min(at)));
                return;
            }
            self.bench.lane.loaded(Some(read), &load);
            return self.pump();
        }
        self.read = Some(self.writer.read(&load, self.bench.now));
    }

    fn advance(&mut self, to: Millis) {
        self.bench.now = to;
        if self.wake.is_some_and(|at| at <= to) {
            self.wake = None;
            self.pump();
        }
    }

    fn rival_comes_or_goes(&mut self) {
        if self.below(2) == 0 && Gate::enter([Some(&self.bench.host), None], &self.bench.all, RIVAL) {
            self.rival += 1;
        } else if self.rival > 0 {
            self.rival -= 1;
            self.leave();
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Webhook)) {
        let mut webhook = Webhook::clone(&self.bench.lane.plan.webhook);
        change(&mut webhook);
        let policy = Policy::clone(&self.bench.lane.plan.policy);
        self.bench.lane.replan(planned(webhook, policy, &self.bench.host));
        self.pump();
    }

    /// Somebody cancels a delivery, mostly one that is under way, or asks for it again.
    fn ask(&mut self) {
        let flying = self.some(if self.below(3) == 0 { &self.boarding } else { &self.flying });
        let any = self.writer.fates.keys().nth(self.below(self.writer.fates.len().max(1))).copied();
        let Some(event) = flying.filter(|_| self.below(3) > 0).or(any) else { return };
        let cancels = self.below(3) > 0;
        self.writer.inbox.push(if cancels { Op::Cancel(event) } else { Op::Resend(event) });
    }

    fn step(&mut self) {
        match self.below(150) {
            0..15 if self.calm => self.publish(self.below(2)),
            15 if self.calm => self.ask(),
            0..15 => self.publish(1 + self.below(4)),
            15 => self.publish(100),
            16..32 => self.end_one(),
            32..50 => self.commit(1 + self.below(6)),
            50..75 => self.step_load(),
            75..79 => self.rival_comes_or_goes(),
            79..85 => self.ask(),
            85..88 => {
                let floor = self.next_event.saturating_sub(self.below(20) as u64);
                let events = self.bench.lane.laggards(floor, self.bench.now);
                if !events.is_empty() {
                    self.writer.inbox.push(Op::Spill(events, self.bench.now));
                }
            }
            88 => {
                let max = 1 + self.below(4) as u32;
                self.change(|webhook| webhook.max_in_flight = Some(max));
            }
            89 => {
                let rate = [None, Some(0.5), Some(50.0)][self.below(3)];
                self.change(|webhook| webhook.rate_limit = rate);
            }
            90 => self.change(|webhook| webhook.state = WebhookState::Active),
            91 => self.change(|webhook| webhook.state = INACTIVE),
            92 => self.healthy = self.below(3) == 0,
            93 => self.advance(self.wake.map_or(self.bench.now, |at| at.max(self.bench.now))),
            94 | 95 => self.advance(self.bench.now + self.below(100_000) as u64),
            96..100 => self.advance(self.bench.now + self.below(5_000) as u64),
            100 => {
                self.bench.paused = self.below(3) == 0;
                self.pump();
            }
            101..115 => self.arrive(1 + self.below(6)),
            _ => self.board_one(),
        }
        if self.below(10) == 0 {
            self.check();
        }
    }

    /// Everything that is pending is somewhere.
    fn check(&mut self) {
        let lane = &mut self.bench.lane;
        let mut found: BTreeSet<Seq> = lane.fresh.iter().map(|(event, _)| *event).collect();
        let flying: Vec<Seq> = lane.flights.events().collect();
        for event in &flying {
            found.extend(lane.flights.find(*event).map(|flight| flight.after().fresh.clone()).unwrap_or_default());
        }
        found.extend(flying);
        let lane = &self.bench.lane;
        found.extend(self.writer.rows.keys().map(|(_, _, event)| *event));
        found.extend(self.writer.lines.iter().filter(|(_, held)| **held).map(|((_, event), _)| *event));
        found.extend(self.news.iter().filter_map(|news| match news {
            News::Fresh(event) => Some(*event),
            News::Cancelled(_) => None,
        }));
        for op in &self.writer.inbox {
            if let Op::Spill(events, _) | Op::Forget(events) = op {
                found.extend(events);
            }
        }
        for (event, fate) in &self.writer.fates {
            assert!(*fate != Fate::Pending || found.contains(event), "{event} is lost");
        }
        assert_eq!(lane.in_flight(), self.boarding.len() + self.flying.len() + self.ended.len());
        let told = self.writer.inbox.iter().any(|op| matches!(op, Op::Spill(..)));
        if lane.is_idle(Millis::MAX, 0) && !self.writer.deleted && !told {
            assert!(self.writer.rows.is_empty(), "idle with rows on disk");
        }
    }

    /// With a healthy receiver and only the wake-ups that it asked for, everything comes to its end.
    fn quiesce(&mut self) {
        self.healthy = true;
        while self.rival > 0 {
            self.rival -= 1;
            self.leave();
        }
        for _ in 0..100_000 {
            if !self.news.is_empty() {
                self.arrive(usize::MAX);
            } else if !self.boarding.is_empty() {
                self.board_one();
            } else if !self.flying.is_empty() {
                self.end_one();
            } else if !self.writer.inbox.is_empty() {
                self.commit(usize::MAX);
            } else if self.load.is_some() {
                self.step_load();
            } else if let Some(at) = self.wake {
                self.advance(at.max(self.bench.now));
            } else {
                break;
            }
        }
        self.check();
        let left: Vec<_> = self.writer.fates.iter().filter(|(_, fate)| **fate == Fate::Pending).collect();
        assert!(left.is_empty(), "stuck with {left:?}");
        assert!(self.writer.lines.is_empty() && self.bench.lane.cancelled.is_empty());
    }

    /// The webhook goes; what was under way ends, the rest is forgotten.
    fn delete(&mut self) {
        self.change(|webhook| webhook.state = WebhookState::Deleted { at: NOW });
        self.writer.delete();
        let is_done = |world: &Self| {
            let under_way = world.boarding.len() + world.flying.len() + world.news.len();
            under_way + world.writer.inbox.len() == 0 && world.load.is_none()
        };
        while !is_done(self) {
            self.arrive(usize::MAX);
            self.board_one();
            self.end_one();
            self.commit(usize::MAX);
            self.step_load();
        }
        assert!(self.bench.lane.is_idle(Millis::MAX, 0));
        assert!(self.writer.fates.values().all(|fate| *fate != Fate::Pending));
    }
}

#[test]
fn no_order_of_events_loses_doubles_or_stalls_a_delivery() {
    let alone: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let (mut expiries, mut behind, mut withheld) = (0, 0, 0);
    for seed in alone.map_or(0..300, |seed| seed..seed + 1) {
        let shown = Shown(seed);
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        if world.below(8) == 0 {
            world.delete();
        } else {
            world.bench.paused = false;
            world.change(|webhook| webhook.state = WebhookState::Active);
            world.quiesce();
        }
        expiries += world.writer.expiries;
        behind += world.behind;
        withheld += world.withheld;
        drop(shown);
    }
    assert!(alone.is_some() || expiries > 0, "no delivery ever waited its policy out");
    assert!(alone.is_some() || behind > 0, "no attempt ever waited for another of its line");
    assert!(alone.is_some() || withheld > 0, "no cancelled delivery had started already");
}

/// Prints the seed when its run panics.
struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEED={}", self.0);
        }
    }
}
