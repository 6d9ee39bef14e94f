//! What anybody outside the daemon knows: what was asked and answered, and every request that a receiver saw. Owns the
//! promises that are checked at each request; a breach is noted, and the world stops at it.
//!
//! A webhook is known by the label in its URL, an event by the tag in its body: both are known before the store answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use webhookd::clock::Millis;
use webhookd::model::id::{EventId, Seq, TenantNo, WebhookNo};
use webhookd::retry::Policy;
use webhookd::store::view::Shared;

use crate::chance::Chance;

pub type Label = u32;
pub type Tag = u64;

/// Between the answer to a change and a request that may still have started before it.
const TOLERANCE_MS: Millis = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Good,
    /// 500, at once and always.
    Broken,
    Failing,
    Flaky,
    Silent,
}

#[derive(Debug)]
pub struct Hook {
    /// `None` while nobody has said that it exists.
    pub no: Option<WebhookNo>,
    pub tenant: TenantNo,
    pub host: u8,
    pub mood: Mood,
    /// The moment when its registration was answered.
    pub since: u64,
    /// The newest version of its URL that was answered, and when.
    pub version: (u32, Millis),
    pub versions: u32,
    pub deleted_at: Option<Millis>,
    /// Somebody asked for something that may have made it inactive or gone.
    pub touched: bool,
    /// Paused since, as answered, by webhook, tenant or all.
    pub paused_since: Option<Millis>,
    in_flight: u32,
    /// Of what was under way when each life ended.
    repeats: BTreeMap<u64, u32>,
}

#[derive(Debug)]
pub struct Fact {
    pub tenant: TenantNo,
    pub key: Option<u8>,
    /// The moment when it was first asked for.
    pub asked_at: u64,
    /// Known once it was acknowledged, or found.
    pub accepted: Option<(EventId, Seq)>,
    pub acknowledged: bool,
    /// Whoever asks again gets the same event.
    pub once: bool,
    pub cancelled: bool,
}

/// The last request of a delivery.
#[derive(Clone, Copy, Debug)]
struct Last {
    number: u32,
    life: u64,
    /// A whole 200 was read in time.
    delivered: bool,
    /// A failure was seen then: the next attempt is not before this.
    not_before: Millis,
}

/// How many repeats a life may show of what an earlier one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    None,
    Permits,
    Any,
}

#[derive(Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub acknowledged: u64,
    pub repeats: u64,
    pub crashes: u64,
    pub faults: u64,
    pub jumps: u64,
    pub ordered: u64,
    pub retries: u64,
}

pub struct Book {
    pub chance: Chance,
    pub hooks: BTreeMap<Label, Hook>,
    pub facts: BTreeMap<Tag, Fact>,
    pub revived: BTreeSet<(Label, Tag)>,
    pub life: u64,
    moments: u64,
    /// What each life's end leaves to be repeated.
    ends: BTreeMap<u64, Repeats>,
    pub permits: u32,
    pub permits_of_host: u32,
    pub permits_of_tenant: u32,
    pub permits_of_all: u32,
    pub policy: Policy,
    /// Wires are made at once, and receivers do what their mood says.
    pub is_calm: bool,
    /// What receivers saw and when they failed it, where somebody wants to know.
    pub seen: Vec<(Request, Option<Millis>)>,
    pub shared: Option<Arc<Shared>>,
    pub trace: Vec<String>,
    pub breaches: Vec<String>,
    pub tally: Tally,
    pub delivered: BTreeSet<(Label, Tag)>,
    pub failed: BTreeSet<(Label, Tag)>,
    last: BTreeMap<(Label, EventId), Last>,
}

/// Clones are the same one.
#[derive(Clone)]
pub struct Ledger(Arc<Mutex<Book>>);

/// A request as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub label: Label,
    pub version: u32,
    pub tag: Tag,
    pub id: EventId,
    pub number: u32,
    /// When its exchange began.
    pub start: Millis,
    pub now: Millis,
}

/// A request that is being answered: it holds a permit.
pub struct Held {
    ledger: Ledger,
    label: Label,
    life: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut book = self.ledger.lock();
        if book.life == self.life
            && let Some(hook) = book.hooks.get_mut(&self.label)
        {
            hook.in_flight -= 1;
        }
    }
}

impl Ledger {
    pub fn new(seed: u64, policy: Policy) -> Self {
        Self(Arc::new(Mutex::new(Book {
            chance: Chance::new(seed ^ 0xabcd_ef01),
            hooks: BTreeMap::new(),
            facts: BTreeMap::new(),
            revived: BTreeSet::new(),
            life: 0,
            moments: 0,
            ends: BTreeMap::new(),
            permits: 3,
            permits_of_host: 5,
            permits_of_tenant: 6,
            permits_of_all: 9,
            policy,
            is_calm: false,
            seen: Vec::new(),
            shared: None,
            trace: Vec::new(),
            breaches: Vec::new(),
            tally: Tally::default(),
            delivered: BTreeSet::new(),
            failed: BTreeSet::new(),
            last: BTreeMap::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    /// Takes a request in and checks every promise that it could break.
    pub fn arrive(&self, request: &Request) -> Held {
        let mut book = self.lock();
        book.tally.requests += 1;
        if book.is_calm {
            book.seen.push((*request, None));
        } else {
            book.trace.push(format!("{request:?}"));
        }
        book.permits(request.label);
        book.version_and_state(request);
        book.schedule(request);
        book.order(request);
        let life = book.life;
        Held { ledger: self.clone(), label: request.label, life }
    }

    /// A whole 200 went out, in time.
    pub fn delivered(&self, request: &Request) {
        let mut book = self.lock();
        book.delivered.insert((request.label, request.tag));
        if let Some(last) = book.last.get_mut(&(request.label, request.id)) {
            last.delivered = true;
        }
    }

    /// The attempt failed at `now`, with what the receiver asked for.
    pub fn failed(&self, request: &Request, now: Millis, retry_after_ms: Millis) {
        let mut book = self.lock();
        book.failed.insert((request.label, request.tag));
        if let Some((_, failed)) =
            book.seen.iter_mut().rev().find(|(seen, _)| (seen.label, seen.id) == (request.label, request.id))
        {
            *failed = Some(now);
        }
        let delays = &book.policy.delays_ms;
        // A revived delivery begins its series anew.
        let revived = book.revived.contains(&(request.label, request.tag));
        let delay = if revived { delays.iter().min() } else { delays.get(request.number as usize - 1) };
        let least = delay.map_or(0, |delay| (*delay as f64 * (1.0 - book.policy.jitter)) as Millis);
        let not_before = now + least.max(retry_after_ms);
        book.note(format!("failed at {now}, not before {not_before}: {request:?}"));
        if let Some(last) = book.last.get_mut(&(request.label, request.id)) {
            last.not_before = not_before;
        }
    }
}

impl Book {
    /// How many deliveries receivers have seen something of.
    pub fn deliveries(&self) -> usize {
        self.last.len()
    }

    pub fn breach(&mut self, what: impl Into<String>) {
        self.breaches.push(what.into());
    }

    /// A new process: nothing is in flight, and so much may come again.
    pub fn begin(&mut self, repeats: Repeats) {
        self.ends.insert(self.life, repeats);
        self.life += 1;
        self.trace.push(format!("life {}, {repeats:?}", self.life));
        for hook in self.hooks.values_mut() {
            hook.in_flight = 0;
        }
    }

    /// What the new process goes by: failures that the crash took were never learnt of.
    pub fn adopt(&mut self, shared: Arc<Shared>) {
        let mut known = BTreeMap::new();
        for ((label, id), last) in &mut self.last {
            let newest = known.entry(*id).or_insert_with(|| {
                shared.seq_of(*id).map_or_else(BTreeMap::new, |seq| crate::audit::newest_attempts(&shared, seq))
            });
            let on_record = self.hooks[label].no.and_then(|no| newest.get(&no));
            if on_record != Some(&last.number) {
                last.not_before = 0;
            }
        }
        self.shared = Some(shared);
    }

    /// What comes later has a higher number, whatever clocks say.
    pub fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// An event is asked for, perhaps not for the first time.
    pub fn publish(&mut self, tag: Tag, tenant: TenantNo, key: Option<u8>, once: bool) {
        let asked_at = self.moment();
        let fact = Fact { tenant, key, asked_at, accepted: None, acknowledged: false, once, cancelled: false };
        self.facts.entry(tag).or_insert(fact);
    }

    pub fn hook(&mut self, tenant: TenantNo, host: u8) -> Label {
        let label = u32::try_from(self.hooks.len()).unwrap();
        let mood = match self.chance.below(100) {
            0..=49 => Mood::Good,
            50..=79 => Mood::Flaky,
            80..=92 => Mood::Failing,
            _ => Mood::Silent,
        };
        let hook = Hook {
            no: None,
            tenant,
            host,
            mood,
            since: u64::MAX,
            version: (0, 0),
            versions: 0,
            deleted_at: None,
            touched: false,
            paused_since: None,
            in_flight: 0,
            repeats: BTreeMap::new(),
        };
        self.hooks.insert(label, hook);
        label
    }

    pub fn note(&mut self, line: String) {
        if !self.is_calm {
            self.trace.push(line);
        }
    }

    /// Permits never exceeded: of the webhook, of its host, of its tenant, of the daemon.
    fn permits(&mut self, label: Label) {
        let Some(hook) = self.hooks.get_mut(&label) else { return self.breach(format!("nobody registered {label}")) };
        hook.in_flight += 1;
        let (own, host, tenant) = (hook.in_flight, hook.host, hook.tenant);
        let (mut of_host, mut of_tenant, mut of_all) = (0, 0, 0);
        for hook in self.hooks.values().filter(|hook| hook.in_flight > 0) {
            of_all += hook.in_flight;
            of_host += if hook.host == host { hook.in_flight } else { 0 };
            of_tenant += if hook.tenant == tenant { hook.in_flight } else { 0 };
        }
        let is_over = own > self.permits || of_host > self.permits_of_host;
        if is_over || of_tenant > self.permits_of_tenant || of_all > self.permits_of_all {
            self.breach(format!(
                "{own} in flight at {label}, {of_host} at its host, {of_tenant} of its tenant, {of_all} in all"
            ));
        }
    }

    /// No attempt after a deletion, under a pause, or to an old URL.
    fn version_and_state(&mut self, request: &Request) {
        let Some(hook) = self.hooks.get(&request.label) else { return };
        let after = |at: Option<Millis>| at.is_some_and(|at| request.start > at + TOLERANCE_MS);
        let gone = after(hook.deleted_at);
        let paused = after(hook.paused_since);
        let old = request.version < hook.version.0 && after(Some(hook.version.1));
        if gone || paused || old {
            self.breach(format!("deleted {gone}, paused {paused}, old URL {old}: {request:?}"));
        }
        if !self.facts.contains_key(&request.tag) {
            self.breach(format!("never published: {request:?}"));
        }
    }

    /// No attempt early, none twice in a life, and no more repeats than may be.
    fn schedule(&mut self, request: &Request) {
        let delivery = (request.label, request.id);
        let revived = self.revived.contains(&(request.label, request.tag));
        let last = self.last.get(&delivery).copied();
        let new = Last { number: request.number, life: self.life, delivered: false, not_before: 0 };
        self.last.insert(delivery, new);
        let Some(last) = last else { return };
        // A repeated attempt need not have reached the receiver.
        let is_repeat = request.number <= last.number || (last.delivered && last.life < self.life);
        if !is_repeat || revived {
            self.tally.retries += 1;
            if last.delivered && !revived {
                self.breach(format!("delivered before: {request:?}, {last:?}"));
            }
            if request.number == last.number + 1 && request.now < last.not_before && !revived {
                self.breach(format!("early: {request:?}, {last:?}"));
            }
            return;
        }
        if last.life == self.life {
            return self.breach(format!("twice without a crash: {request:?}"));
        }
        self.tally.repeats += 1;
        let Some(hook) = self.hooks.get_mut(&request.label) else { return };
        let repeats = hook.repeats.entry(last.life).or_default();
        *repeats += 1;
        let (repeats, allowed) = (*repeats, self.ends[&last.life]);
        let most = match allowed {
            Repeats::None => 0,
            Repeats::Permits => self.permits,
            Repeats::Any => u32::MAX,
        };
        if repeats > most {
            self.breach(format!("{repeats} repeats, {allowed:?}: {request:?}, {last:?}"));
        }
    }

    /// Of one key, the next starts when all before it have ended.
    fn order(&mut self, request: &Request) {
        let Some(Fact { key: Some(key), tenant, accepted: Some((id, seq)), .. }) = self.facts.get(&request.tag) else {
            return;
        };
        // Published once more after its idempotency key had run out, a tag is another event: this request is of the one before.
        if *id != request.id {
            return;
        }
        let Some(no) = self.hooks.get(&request.label).and_then(|hook| hook.no) else { return };
        let Some(shared) = self.shared.clone() else { return };
        let before = self.facts.iter().filter_map(|(tag, fact)| {
            let earlier = fact.accepted.filter(|(_, other)| other < seq)?.1;
            (fact.key == Some(*key) && fact.tenant == *tenant).then_some((*tag, earlier))
        });
        let before: Vec<(Tag, Seq)> = before.collect();
        for (tag, earlier) in before {
            if self.revived.contains(&(request.label, tag)) || self.revived.contains(&(request.label, request.tag)) {
                continue;
            }
            let Ok(state) = crate::audit::state_of(&shared, no, earlier) else { return };
            self.tally.ordered += 1;
            if state == crate::audit::State::Pending {
                self.breach(format!("before its turn, {tag} is pending: {request:?}"));
            }
        }
    }
}
