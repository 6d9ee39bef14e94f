//! The dispatcher: the lanes of all webhooks, and the way from the writer to the workers that drive them.
//!
//! Every worker can drive every lane: a mutex, held for the length of a decision, stands around it. News of an event goes to
//! the worker that the event's number names, so that one busy webhook is served by all cores; a lane's own wake-ups and
//! reads belong to its home worker. A lane is forgotten only while nobody else holds it. The writer never waits here: it
//! puts a group's consequences into each worker's mailbox and wakes it once. New versions of webhooks, pauses and
//! cancellations are in force before the answer to the change leaves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::cell::LaneCell;
use super::gate::Gate;
use super::glance::Glance;
use super::kept::Kept;
use super::lag::Lag;
use super::lane::Lane;
use super::mail::{Mail, Mailbox};
use super::settings::{Plan, Settings};
use crate::clock::{Clock, Millis};
use crate::egress::Egress;
use crate::egress::stream::Streams;
use crate::entropy::Entropy;
use crate::metrics::{AttemptLabels, DeliveryLabels, Metrics, NewsLabels, Outcome};
use crate::model::attempt::{Class, DeadReason};
use crate::model::event::Event;
use crate::model::id::{Seq, TenantNo, WebhookNo};
use crate::model::pause::{Pauses, Scope};
use crate::model::webhook::{Webhook, WebhookState};
use crate::store::inbox::{Answer, Waiter};
use crate::store::news::RECOVERED;
use crate::store::numbers::ByWebhook;
use crate::store::op::{Effects, News, Op, RowKey};
use crate::store::writer::{Downstream, Store};
use arc_swap::ArcSwap;

pub struct Dispatcher {
    lanes: RwLock<ByWebhook<Arc<LaneCell>>>,
    mailboxes: Vec<Mailbox>,
    hosts: Mutex<HashMap<String, Arc<Gate>>>,
    tenants: Mutex<HashMap<TenantNo, Arc<Gate>>>,
    kept: Kept,
    pub(super) all: Arc<Gate>,
    settings: ArcSwap<Settings>,
    /// What nothing is delivered to at present, as committed.
    pauses: ArcSwap<Pauses>,
    pub(super) egress: Egress,
    pub(super) streams: Arc<Streams>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) metrics: Arc<Metrics>,
    pub(super) bodies: Arc<AtomicUsize>,
    draining: AtomicBool,
    pub(super) lag: Lag,
    /// The store has deaths that it has not told of yet.
    untold: AtomicBool,
}

/// Lanes that are forgotten under one lock.
const FORGOTTEN_AT_ONCE: usize = 1_024;

/// What a dispatcher is made of.
pub struct Components {
    pub workers: usize,
    pub settings: Settings,
    pub egress: Egress,
    pub streams: Arc<Streams>,
    pub store: Store,
    pub clock: Clock,
    pub entropy: Entropy,
    pub metrics: Arc<Metrics>,
}

impl Dispatcher {
    #[must_use]
    pub fn new(components: Components) -> Arc<Self> {
        let pauses = components.store.shared().registry().pauses().clone();
        Arc::new(Self {
            lanes: RwLock::default(),
            mailboxes: (0..components.workers.max(1)).map(|_| Mailbox::default()).collect(),
            hosts: Mutex::default(),
            tenants: Mutex::default(),
            kept: Kept::new(components.workers),
            all: Arc::new(Gate::new(components.settings.max_in_flight)),
            settings: ArcSwap::from_pointee(components.settings),
            pauses: ArcSwap::new(pauses),
            egress: components.egress,
            streams: components.streams,
            store: components.store,
            clock: components.clock,
            entropy: components.entropy,
            metrics: components.metrics,
            bodies: Arc::default(),
            draining: AtomicBool::new(false),
            lag: Lag::default(),
            // Perhaps: an earlier process may have left some.
            untold: AtomicBool::new(true),
        })
    }

    /// Takes up what start-up found: fresh deliveries, and webhooks whose durable queue has rows.
    pub fn resume(&self, fresh: Vec<(WebhookNo, Arc<Event>)>, queued: &[WebhookNo]) {
        let rows = [true, false].map(|started| RowKey { started, due_ms: 0 });
        let queued = queued.iter().flat_map(|no| rows.map(|row| (*no, row))).collect();
        self.committed(Effects { fresh, queued, ..Effects::default() }, Vec::new());
    }

    /// Takes over new settings; every lane is worked out anew.
    pub fn replace_settings(&self, settings: Settings) {
        self.all.set_max(settings.max_in_flight);
        self.settings.store(Arc::new(settings));
        self.lock_hosts().clear();
        self.lock_tenants().clear();
        self.replan_all();
    }

    /// No stream is held any more; what was under way on one has failed.
    pub fn end_streams(&self) {
        self.streams.close();
    }

    /// No attempt starts any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether deliveries to a webhook are paused, or wait for somebody to hold its stream.
    pub(super) fn is_paused(&self, webhook: &Webhook) -> bool {
        self.pauses.load().of(webhook).is_some() || self.streams.is_away(webhook)
    }

    /// Has a webhook's lane looked at: what its deliveries waited for is there.
    pub fn look_again(&self, webhook: WebhookNo) {
        self.mailbox(self.worker_of(webhook)).put(Mail { pokes: [webhook].into(), ..Mail::default() });
    }

    /// Somebody expects receivers to be well: open circuits are not waited for.
    pub fn expect_well(&self, scope: &Scope) {
        for no in self.concerned(scope) {
            if self.cell(no).is_some_and(|cell| cell.lane().expect_well()) {
                self.look_again(no);
            }
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Attempts that are under way or whose outcome is not durable yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.metrics.in_flight.get()).unwrap_or(0)
    }

    /// What a delivery waits for, as far as memory knows.
    #[must_use]
    pub fn glance(&self, webhook: WebhookNo, event: Seq) -> Glance {
        let cell = self.cell(webhook);
        cell.map_or_else(Glance::default, |cell| cell.lane().glance(event, &self.all, self.clock.now_ms()))
    }

    /// Lanes in memory.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn mailbox(&self, worker: usize) -> &Mailbox {
        &self.mailboxes[worker % self.mailboxes.len()]
    }

    pub(super) fn is_of(&self, webhook: WebhookNo, worker: usize) -> bool {
        self.worker_of(webhook) == worker
    }

    pub(super) fn cell(&self, webhook: WebhookNo) -> Option<Arc<LaneCell>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner).get(&webhook).cloned()
    }

    /// The lane of a webhook, made if need be; `None` when there is no such webhook any more.
    pub(super) fn cell_or_new(&self, webhook: WebhookNo) -> Option<Arc<LaneCell>> {
        if let Some(cell) = self.cell(webhook) {
            return Some(cell);
        }
        let version = self.store.shared().registry().webhook(webhook).cloned()?;
        let lane = Lane::new(self.plan(version.clone()), self.clock.now_ms());
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        let cell = lanes.entry(webhook).or_insert_with(|| LaneCell::new(lane)).clone();
        self.metrics.lanes.set(i64::try_from(lanes.len()).unwrap_or(i64::MAX));
        drop(lanes);
        // A version that was committed before the lane could be found has passed it by.
        let newest = self.store.shared().registry().webhook(webhook).cloned();
        if !newest.is_some_and(|newest| Arc::ptr_eq(&newest, &version)) {
            self.refresh(webhook, &cell);
        }
        Some(cell)
    }

    /// Forgets the lanes of one worker that have had nothing to do for a while: few at a time, because nobody finds a lane
    /// meanwhile.
    pub(super) fn tidy(&self, worker: usize, for_ms: Millis) {
        let now = self.clock.now_ms();
        let idle: Vec<WebhookNo> = {
            let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
            let own = lanes.iter().filter(|(no, cell)| self.is_of(**no, worker) && cell.lane().is_idle(now, for_ms));
            own.map(|(no, _)| *no).collect()
        };
        idle.chunks(FORGOTTEN_AT_ONCE).for_each(|part| self.forget(part, |lane| lane.is_idle(now, for_ms)));
        self.lock_hosts().retain(|_, gate| Arc::strong_count(gate) > 1);
        self.lock_tenants().retain(|_, gate| Arc::strong_count(gate) > 1);
        self.kept.tidy();
    }

    /// Forgets those of these lanes that have nothing left to do, when there are more than are kept for their next delivery.
    pub(super) fn let_go(&self, touched: Vec<(WebhookNo, Arc<LaneCell>)>) {
        if self.lanes() <= self.settings.load().lanes_kept {
            return;
        }
        let now = self.clock.now_ms();
        let done =
            touched.into_iter().filter(|(_, cell)| cell.lane().is_done(now)).map(|(no, _)| no).collect::<Vec<_>>();
        self.forget(&done, |lane| lane.is_done(now));
    }

    /// Forgets lanes that nobody else holds and of which this is true.
    fn forget(&self, which: &[WebhookNo], may_go: impl Fn(&Lane) -> bool) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        for no in which {
            // Whoever else holds the cell may be about to put something into it; new holders wait for this lock.
            if lanes.get(no).is_some_and(|cell| Arc::strong_count(cell) == 1 && may_go(&cell.lane())) {
                lanes.remove(no);
            }
        }
        self.metrics.lanes.set(i64::try_from(lanes.len()).unwrap_or(i64::MAX));
    }

    /// Has the store tell of the deaths whose minute is over.
    pub(super) fn tell_deaths(&self) {
        if self.untold.swap(false, Ordering::AcqRel) {
            self.store.note(Op::Tell, false);
        }
    }

    /// The lanes of one worker.
    pub(super) fn lanes_of(&self, worker: usize) -> Vec<(WebhookNo, Arc<LaneCell>)> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().filter(|(no, _)| self.is_of(**no, worker)).map(|(no, cell)| (*no, cell.clone())).collect()
    }

    pub(super) fn plan(&self, webhook: Arc<Webhook>) -> Arc<Plan> {
        let settings = self.settings.load();
        let tenant_plan = {
            let registry = self.store.shared().registry();
            registry.tenant(webhook.tenant).and_then(|tenant| tenant.plan.clone())
        };
        let host = |name: &str, cap: u32| {
            let mut hosts = self.lock_hosts();
            if let Some(gate) = hosts.get(name) {
                return gate.clone();
            }
            hosts.entry(name.to_owned()).or_insert_with(|| Arc::new(Gate::new(cap))).clone()
        };
        let tenant = {
            let gate = || Arc::new(Gate::new(settings.max_in_flight_per_tenant));
            self.lock_tenants().entry(webhook.tenant).or_insert_with(gate).clone()
        };
        let rules = self.egress.rules();
        let plan = Plan::new(webhook, tenant_plan.as_deref(), &settings, &rules, host, self.clock.now_ms());
        let target = plan.target.as_ref().ok().filter(|_| plan.webhook.is_active());
        let connections = target.map(|target| self.kept.to(target.endpoint()));
        Arc::new(plan.sharing(tenant, connections))
    }

    /// Gives places back, and wakes the lanes that they are promised to.
    pub(super) fn leave(&self, gate: &Arc<Gate>, places: u32) {
        for webhook in gate.give_back(places) {
            self.wake(Some(webhook), gate);
        }
    }

    /// Wakes a lane that a place is promised to.
    pub(super) fn wake(&self, webhook: Option<WebhookNo>, gate: &Arc<Gate>) {
        if let Some(webhook) = webhook {
            let mail = Mail { wakes: vec![(webhook, gate.clone())], ..Mail::default() };
            self.mailbox(self.worker_of(webhook)).put(mail);
        }
    }

    pub(super) fn attempts_started(&self, count: usize) {
        self.metrics.in_flight.inc_by(i64::try_from(count).unwrap_or(0));
    }

    pub(super) fn attempts_settled(&self, count: usize) {
        self.metrics.in_flight.dec_by(i64::try_from(count).unwrap_or(0));
    }

    /// Counts attempts that delivered.
    pub(super) fn count_delivered(&self, count: usize) {
        self.metrics.delivered_attempts.inc_by(count as u64);
        self.metrics.delivered.inc_by(count as u64);
    }

    /// Counts an attempt that failed.
    pub(super) fn count_failed(&self, class: Class) {
        self.metrics.attempts.get_or_create(&AttemptLabels { result: class.as_str() }).inc();
    }

    /// The worker that hears of an event's deliveries.
    fn worker_at(&self, event: Seq) -> usize {
        usize::try_from(event).unwrap_or(0) % self.mailboxes.len()
    }

    /// A lane's home.
    fn worker_of(&self, webhook: WebhookNo) -> usize {
        webhook as usize % self.mailboxes.len()
    }

    fn lock_hosts(&self) -> MutexGuard<'_, HashMap<String, Arc<Gate>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_tenants(&self) -> MutexGuard<'_, HashMap<TenantNo, Arc<Gate>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works a lane's plan out anew, from what is committed and configured now. Under the lane's lock, so that of two who
    /// do it at once the later one has seen the newest version.
    pub(super) fn refresh(&self, webhook: WebhookNo, cell: &LaneCell) {
        cell.change(|lane| {
            let version = self.store.shared().registry().webhook(webhook).cloned();
            let version = version.unwrap_or_else(|| {
                let mut gone = Webhook::clone(&lane.plan.webhook);
                gone.state = WebhookState::Deleted { at: self.clock.wall_ms() };
                Arc::new(gone)
            });
            lane.replan(self.plan(version));
        });
    }

    /// Webhooks whose lanes this is about: no more than need be, as an owner may pause and resume often.
    fn concerned(&self, scope: &Scope) -> Vec<WebhookNo> {
        match scope {
            Scope::Webhook(no) | Scope::Own(no) => vec![*no],
            Scope::Tenant(tenant) => {
                self.store.shared().registry().webhooks_of(*tenant).map(|webhook| webhook.no).collect()
            }
            Scope::Everything | Scope::Host(_) => {
                self.lanes.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
            }
        }
    }

    fn take_pauses(&self) {
        self.pauses.store(self.store.shared().registry().pauses().clone());
    }

    fn replan_all(&self) {
        for worker in 0..self.mailboxes.len() {
            let lanes = self.lanes_of(worker);
            let pokes = lanes.iter().map(|(no, _)| *no).collect();
            for (no, cell) in lanes {
                self.refresh(no, &cell);
            }
            self.mailbox(worker).put(Mail { pokes, ..Mail::default() });
        }
    }

    fn count_dead(&self, died: &[(WebhookNo, Seq, DeadReason)]) {
        for (webhook, event, reason) in died {
            // One line a minute and webhook comes with the news; these can be a million.
            tracing::debug!(webhook, event, reason = reason.as_str(), "a delivery went to the dead letters");
            self.metrics.deliveries.get_or_create(&DeliveryLabels { outcome: Outcome::dead }).inc();
        }
    }

    /// What the store reports, as a line of the journal.
    fn tell_journal(&self, news: &News) {
        let News { kind, webhook, event, reason, count } = news;
        self.metrics.operational_events.get_or_create(&NewsLabels { kind }).inc();
        let event = event.map(tracing::field::display);
        let tenant = {
            let registry = self.store.shared().registry();
            registry.webhook_by_id(*webhook).and_then(|webhook| registry.tenant(webhook.tenant)).cloned()
        };
        let tenant = tenant.as_ref().map(|tenant| tenant.id.as_str());
        if *kind == RECOVERED {
            tracing::info!(kind, %webhook, tenant, event, reason, count, "a webhook works again");
        } else {
            tracing::warn!(kind, %webhook, tenant, event, reason, count, "a webhook needs attention");
        }
    }

    /// Has the workers look for deliveries that hold the watermark back, now and then.
    fn tell_lag(&self) {
        let shared = self.store.shared();
        if self.lag.is_due(shared.next_event(), shared.watermark()) {
            for mailbox in &self.mailboxes {
                mailbox.put(Mail { check_lag: true, ..Mail::default() });
            }
        }
    }
}

impl Downstream for Dispatcher {
    fn committed(&self, effects: Effects, answers: Vec<(Waiter, Answer)>) {
        for webhook in &effects.changed {
            if webhook.is_stream() && webhook.is_deleted() {
                self.streams.forget(webhook.no);
            }
            if let Some(cell) = self.cell(webhook.no) {
                self.refresh(webhook.no, &cell);
            }
        }
        if !effects.pauses.is_empty() {
            self.take_pauses();
        }
        for (webhook, event) in &effects.cancelled {
            // Made if need be: a fresh delivery may still be on its way to it.
            if let Some(cell) = self.cell_or_new(*webhook) {
                cell.change(|lane| lane.cancel(*event));
            }
        }
        let cancelled = effects.cancelled.len() as u64 + effects.dropped;
        if cancelled > 0 {
            let labels = DeliveryLabels { outcome: Outcome::cancelled };
            self.metrics.deliveries.get_or_create(&labels).inc_by(cancelled);
        }
        self.count_dead(&effects.died);
        for news in &effects.news {
            self.tell_journal(news);
        }
        if effects.untold {
            self.untold.store(true, Ordering::Release);
        }
        let records = effects.settled.len() + effects.queued.len();
        self.lag.grow(effects.fresh.iter().map(|(_, event)| &**event), records);
        let mut mails: Vec<Mail> = self.mailboxes.iter().map(|_| Mail::default()).collect();
        for (waiter, answer) in answers {
            match waiter.worker {
                Some(worker) => mails[worker % self.mailboxes.len()].answers.push((waiter, answer)),
                // Whoever waits may have given up; then nobody is left to tell.
                None => drop(waiter.sender.send(answer)),
            }
        }
        for fresh in effects.fresh {
            mails[self.worker_at(fresh.1.seq)].fresh.push_back(fresh);
        }
        for settled in effects.settled {
            mails[self.worker_at(settled.1)].settled.push(settled);
        }
        for queued in effects.queued {
            mails[self.worker_of(queued.0)].queued.push_back(queued);
        }
        for cancelled in effects.cancelled {
            mails[self.worker_at(cancelled.1)].cancelled.push(cancelled);
        }
        for webhook in effects.expired {
            mails[self.worker_of(webhook)].expired.push(webhook);
        }
        for webhook in &effects.changed {
            mails[self.worker_of(webhook.no)].pokes.push_back(webhook.no);
        }
        for no in effects.pauses.iter().flat_map(|scope| self.concerned(scope)) {
            mails[self.worker_of(no)].pokes.push_back(no);
        }
        for (mailbox, mail) in self.mailboxes.iter().zip(mails) {
            if !mail.is_empty() {
                mailbox.put(mail);
            }
        }
        self.tell_lag();
    }

    fn reopened(&self) {
        self.take_pauses();
        self.replan_all();
    }
}
