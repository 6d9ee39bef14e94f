//! A lane on a bench: with gates and a clock of its own, and hands that do what it wants done.

use super::*;
use crate::retry::Plans;

pub(super) fn webhook() -> Webhook {
    Webhook {
        no: NO,
        since_seq: 1,
        url: "http://127.0.0.1:8080/".to_owned(),
        max_in_flight: Some(2),
        created_ms: NOW,
        updated_ms: NOW,
        ..Webhook::sample(1, vec![Filter::All])
    }
}

pub(super) fn planned(webhook: Webhook, policy: Policy, host: &Arc<Gate>) -> Arc<Plan> {
    let settings = Arc::new(Settings { plans: Arc::new(Plans::with_default(policy)), ..Settings::default() });
    let rules = Rules { require_https: false, allow: vec!["127.0.0.0/8".parse().unwrap()], ..Rules::default() };
    Arc::new(Plan::new(Arc::new(webhook), None, &settings, &rules, |_, _| host.clone(), NOW))
}

/// A lane on a bench, with gates and a clock of its own.
pub(super) struct Bench {
    pub lane: Lane,
    pub all: Gate,
    pub host: Arc<Gate>,
    pub paused: bool,
    pub now: Millis,
}

impl Bench {
    pub fn new() -> Self {
        Self::of(webhook())
    }

    pub fn of(webhook: Webhook) -> Self {
        let host = Arc::new(Gate::new(64));
        let lane = Lane::new(planned(webhook, Policy::standard(), &host), NOW);
        Self { lane, all: Gate::new(64), host, paused: false, now: NOW }
    }

    pub fn replan(&mut self, change: impl FnOnce(&mut Webhook)) {
        let mut webhook = Webhook::clone(&self.lane.plan.webhook);
        change(&mut webhook);
        self.lane.replan(planned(webhook, Policy::standard(), &self.host));
    }

    pub fn next(&mut self) -> Next {
        let plan = self.lane.plan.clone();
        self.lane.next(&mut plan.doors(&self.all), self.paused, self.now)
    }

    /// Starts what it wants to start; gives those, and until when it waits then.
    pub fn starts(&mut self) -> (Vec<Seq>, Option<Millis>) {
        let mut started = Vec::new();
        loop {
            match self.next() {
                Next::Start(work) => started.push(work.event),
                Next::Wait(at) => return (started, at),
                other => panic!("{}", name(&other)),
            }
            assert!(started.len() < 100_000, "it starts without end");
        }
    }

    pub fn push(&mut self, events: std::ops::Range<Seq>) {
        events.for_each(|event| self.lane.push_fresh(event, None));
    }

    /// Lets an attempt end and its outcome become durable.
    pub fn finish(&mut self, event: Seq, success: bool) {
        assert_eq!(self.all.leave(), None);
        assert_eq!(self.host.leave(), None);
        self.lane.ended(event, success, false, self.now);
        self.lane.settle(event);
    }

    /// Fails five deliveries; their retries are due a minute later.
    pub fn open(&mut self) {
        self.push(1..6);
        for event in 1..6 {
            self.starts();
            self.finish(event, false);
        }
        assert!(self.lane.circuit.is_open());
        // Opening it made the lane look at the disk again: there is nothing yet.
        let load = self.wants_load();
        assert_eq!((load.started, load.waiting, load.max), (true, false, 1));
        self.lane.loaded(Some(Loaded::default()), &load);
        (1..6).for_each(|_| self.lane.note_queued(RowKey { started: true, due_ms: NOW + 3_600_000 }));
        self.lane.next_waiting = None;
    }

    pub fn wants_load(&mut self) -> Load {
        match self.next() {
            Next::Load(load) => load,
            other => panic!("{}", name(&other)),
        }
    }

    pub fn load(&mut self, rows: Vec<Queued>) {
        let load = self.wants_load();
        let rows = rows.into_iter().map(|row| (row, None)).collect();
        self.lane.loaded(Some(Loaded { rows, ..Loaded::default() }), &load);
    }
}

pub(super) fn name(next: &Next) -> String {
    match next {
        Next::Start(work) => format!("Start({})", work.event),
        Next::Load(load) => format!("{load:?}"),
        Next::Spill(events) => format!("Spill({events:?})"),
        Next::Forget(events) => format!("Forget({events:?})"),
        Next::Expire { before_ms } => format!("Expire({before_ms})"),
        Next::Wait(at) => format!("Wait({at:?})"),
    }
}

pub(super) fn queued(event: Seq, started: bool, due_ms: Millis) -> Queued {
    Queued { event, key: RowKey { started, due_ms }, row: QueueRow::default() }
}
