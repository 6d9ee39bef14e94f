//! What is known about an event's fate, for every webhook of a tenant. Owns how the journal of a delivery is read as a
//! state, and what a pending one waits for.
//!
//! Judged by the webhook as it was when the event was accepted; webhooks deleted since are among the answers, those that
//! were deleted before are not.

use std::collections::BTreeMap;

use super::error::Error;
use super::retention::Retention;
use super::{Service, Settings, inspect};
use crate::clock::Millis;
use crate::dispatch::glance::Glance;
use crate::limits::LINE_LOOKED_AT_MAX;
use crate::model::attempt::{Attempt, DeadReason, Verdict};
use crate::model::event::{Event, OrderKey, RESERVED_PREFIX};
use crate::model::id::{EventId, JournalSeq, Seq, TenantNo, WebhookNo};
use crate::model::key::Tenant;
use crate::model::pause::Scope;
use crate::model::webhook::{Dialect, Filter, Webhook, WebhookState};
use crate::store::listing::{Fate, Tells};
use crate::store::op::RowKey;
use crate::store::ordering::Place;
use crate::store::record::{Entry, QueueRow};
use crate::store::view::View;
use crate::store::{StoreError, news};

/// Filters that a reason names.
const FILTERS_SHOWN: usize = 8;

/// An event and what became of it.
pub struct Explained {
    pub event: Event,
    pub deliveries: Vec<Explanation>,
    /// The whole in one sentence: also where there is no webhook to say anything about.
    pub summary: String,
}

/// One webhook's part in it.
pub struct Explanation {
    /// As it is now, or was last.
    pub webhook: Webhook,
    pub matched: bool,
    /// Why it did not match, and the same for people.
    pub reason: Option<(Reason, String)>,
    /// `None`: there is no delivery.
    pub state: Option<State>,
    /// Why it is dead or cancelled, for people.
    pub ended: Option<String>,
    pub attempts: Vec<Attempt>,
    /// What retention has removed of it, for people.
    pub removed: Option<String>,
    pub waiting_for: Option<Waiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Type,
    Inactive,
    CreatedLater,
}

impl Reason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Inactive => "inactive",
            Self::CreatedLater => "created_later",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Delivered,
    Dead,
    Cancelled,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a pending delivery waits for, until when if that is known, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub what: &'static str,
    pub until: Option<Millis>,
    /// The event that has to end first.
    pub event: Option<EventId>,
    pub rule: String,
}

/// What the store knows of one webhook's part.
struct Facts {
    /// As it was when the event was accepted; `None`: not yet there.
    then: Option<Webhook>,
    now: Webhook,
    chain: Vec<(JournalSeq, Entry)>,
    /// What outlives the records of the chain.
    fate: Option<Fate>,
    /// Whether it is among the dead letters.
    is_letter: bool,
    /// When a queued delivery is due, and its row.
    due_ms: Option<Millis>,
    row: Option<QueueRow>,
    before: Option<Before>,
}

/// Whom a delivery waits for that is held in line: the event of its key that is under way, and the one right before it.
struct Before {
    under_way: Option<EventId>,
    last: Option<EventId>,
}

impl Service {
    /// Everything that is known about an event's fate.
    ///
    /// # Errors
    /// Not found.
    pub async fn explain(&self, tenant: TenantNo, id: EventId) -> Result<Explained, Error> {
        let read = move |shared: &crate::store::view::Shared| {
            // Copied before the snapshot: a webhook that appears in between was created later anyhow.
            let numbers = shared.registry().webhooks_ever_of(tenant);
            let Some(seq) = shared.seq_of(id) else { return Ok(None) };
            let (view, fates) = shared.view_with_fates(seq)?;
            let Some(event) = inspect::visible(&view, tenant, id)? else { return Ok(None) };
            let (mut all, ever) = (Vec::new(), numbers.len());
            for no in numbers {
                all.extend(facts(&view, no, &event, fates.get(&no).copied())?);
            }
            let gone = ever - all.len();
            Ok(Some((event, all, gone)))
        };
        let (event, all, gone) = self.store.read(read).await?.ok_or(Error::NotFound)?;
        let settings = self.settings();
        let owner = self.tenant_no(tenant);
        let explain = |facts| self.explained(&settings, owner.as_deref(), &event, facts);
        let deliveries: Vec<_> = all.into_iter().map(explain).collect();
        let summary = summary(&deliveries, gone);
        Ok(Explained { event, deliveries, summary })
    }

    fn explained(&self, settings: &Settings, tenant: Option<&Tenant>, event: &Event, facts: Facts) -> Explanation {
        let matched = event.matched.contains(&facts.now.no);
        let state = state_of(&facts.chain, facts.fate.as_ref(), matched, facts.now.is_deleted());
        let waiting_for = (state == Some(State::Pending)).then(|| {
            let glance = self.dispatch.glance(facts.now.no, event.seq);
            let pauses = self.store.shared().registry().pauses().clone();
            let pause = match pauses.of(&facts.now) {
                Some(scope) => Some(pause_rule(scope, tenant)),
                None => self.streams.is_away(&facts.now).then(|| AWAY_RULE.to_owned()),
            };
            waiting(settings, tenant, &facts, pause, glance, self.clock.now_ms())
        });
        let ended = state.and_then(|state| ended(state, &facts));
        let removed = removed(settings, state, &facts);
        let reason = (!matched).then(|| unmatched(facts.then.as_ref(), &facts.now, event));
        let attempts = facts.chain.into_iter().filter_map(|(_, entry)| match entry {
            Entry::Attempt(attempt) => Some(attempt),
            _ => None,
        });
        Explanation {
            attempts: attempts.collect(),
            webhook: facts.now,
            matched,
            reason,
            state,
            ended,
            removed,
            waiting_for,
        }
    }
}

fn facts(view: &View<'_>, no: WebhookNo, event: &Event, fate: Option<Fate>) -> Result<Option<Facts>, StoreError> {
    let then = view.webhook_at(no, event.seq)?;
    if fate.is_none() && then.as_ref().is_some_and(Webhook::is_deleted) {
        return Ok(None);
    }
    let Some(now) = view.webhook_newest(no)? else { return Ok(None) };
    let chain = fate.map_or(Ok(Vec::new()), |fate| view.chain(fate.number))?;
    let is_letter = view.death_of(no, event.seq)?.is_some();
    let queued = chain.last().and_then(|(_, entry)| entry.queued());
    let row = match queued {
        Some((started, due_ms)) => view.queue_row(no, event.seq, RowKey { started, due_ms })?,
        None => None,
    };
    let before = event.order().map_or(Ok(None), |order| before(view, no, order, event.seq))?;
    Ok(Some(Facts { then, now, chain, fate, is_letter, due_ms: queued.map(|(_, due_ms)| due_ms), row, before }))
}

fn before(view: &View<'_>, no: WebhookNo, order: OrderKey, event: Seq) -> Result<Option<Before>, StoreError> {
    if !matches!(view.place_in_line(no, order, event)?, Some(Place::Held(_))) {
        return Ok(None);
    }
    let (under_way, last) = view.before_in_line(no, order, event, LINE_LOOKED_AT_MAX)?;
    let id = |seq: Option<Seq>| seq.map_or(Ok(None), |seq| Ok(view.event(seq)?.map(|event| event.id)));
    let (under_way, last): (Result<_, StoreError>, Result<_, StoreError>) = (id(under_way), id(last));
    Ok(Some(Before { under_way: under_way?, last: last? }))
}

/// The state that a delivery's journal tells; `None` when there is no delivery, only tests at most. Failures from which
/// nothing followed tell nothing: tests, and attempts that ended after their delivery. Where retention has removed the
/// records, the delivery's fate tells.
#[must_use]
pub fn state_of(chain: &[(JournalSeq, Entry)], fate: Option<&Fate>, matched: bool, deleted: bool) -> Option<State> {
    let is_idle = |entry: &Entry| matches!(entry, Entry::Attempt(Attempt { verdict: Verdict::Single, .. }));
    let newest = chain.iter().rev().map(|(_, entry)| entry).find(|entry| !is_idle(entry));
    let state = match newest {
        None => match fate.map(|fate| fate.tells) {
            Some(Tells::Delivered) => State::Delivered,
            Some(Tells::Dead(_)) => State::Dead,
            Some(Tells::Cancelled) => State::Cancelled,
            Some(Tells::Pending) => State::Pending,
            Some(Tells::Nothing) | None if matched => State::Pending,
            Some(Tells::Nothing) | None => return None,
        },
        Some(Entry::Attempt(attempt)) => match attempt.verdict {
            Verdict::Delivered => State::Delivered,
            Verdict::Dead(_) => State::Dead,
            Verdict::RetryAt(_) | Verdict::Single => State::Pending,
        },
        Some(Entry::Queued { .. } | Entry::Revived { .. }) => State::Pending,
        Some(Entry::Died { .. }) => State::Dead,
        Some(Entry::Dropped { .. }) => State::Cancelled,
    };
    Some(if state == State::Pending && deleted { State::Cancelled } else { state })
}

/// Why a delivery came to an end without success.
fn ended(state: State, facts: &Facts) -> Option<String> {
    let dead = |entry: &Entry| match entry {
        Entry::Attempt(Attempt { verdict: Verdict::Dead(reason), .. }) | Entry::Died { reason, .. } => Some(*reason),
        _ => None,
    };
    match (state, facts.now.state) {
        (State::Dead, _) => {
            let told = || match facts.fate?.tells {
                Tells::Dead(reason) => Some(reason),
                _ => None,
            };
            let reason = facts.chain.iter().rev().find_map(|(_, entry)| dead(entry)).or_else(told)?;
            Some(format!("{}: {}", reason.as_str(), rule_of(reason)))
        }
        (State::Cancelled, WebhookState::Deleted { at }) if !was_dropped(facts) => {
            let at = crate::model::time::millis_z(at);
            Some(format!("the webhook was deleted at {at}, and what was pending for it cancelled"))
        }
        (State::Cancelled, _) => Some("it was cancelled by request".to_owned()),
        _ => None,
    }
}

/// What retention has removed of a delivery, and by which key.
fn removed(settings: &Settings, state: Option<State>, facts: &Facts) -> Option<String> {
    let Retention { attempts_ms, dead_letters_ms, max_bytes, .. } = settings.retention;
    let mut parts = Vec::new();
    // The oldest record that is left names one before it, or none is left.
    let first = facts.chain.first().map(|(_, entry)| entry.previous());
    if let Some(fate) = facts.fate.filter(|_| first.is_none_or(|before| before != 0)) {
        let bytes = max_bytes.map_or("", |_| " or retention.max_bytes");
        parts.push(format!(
            "{} attempts were made; retention.attempts ({}){bytes} has removed what was on record before {}",
            fate.attempts,
            span(attempts_ms),
            if facts.chain.is_empty() { "now" } else { "these" },
        ));
    }
    if state == Some(State::Dead) && !facts.is_letter {
        parts.push(format!("retention.dead_letters ({}) has removed its dead letter", span(dead_letters_ms)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn rule_of(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Exhausted => "every attempt that its plan allows has failed",
        DeadReason::Gone => "the receiver answered 410",
        DeadReason::CircuitExpired => "it waited behind the open circuit for the whole span of its plan",
    }
}

/// Whether somebody asked for it to go no further.
fn was_dropped(facts: &Facts) -> bool {
    state_of(&facts.chain, facts.fate.as_ref(), false, false) == Some(State::Cancelled)
}

/// Such as `2 of 3 webhooks matched; 1 delivered, 1 pending; did not match: 1 type`.
fn summary(deliveries: &[Explanation], gone: usize) -> String {
    let gone = match gone {
        0 => String::new(),
        gone => format!("; {gone} had been deleted before the event was accepted"),
    };
    if deliveries.is_empty() {
        return format!("the tenant has no webhook that this could go to{gone}");
    }
    let matched = deliveries.iter().filter(|part| part.matched).count();
    let mut parts = vec![format!("{matched} of {} webhooks matched", deliveries.len())];
    let states = deliveries.iter().filter_map(|part| part.state).map(State::as_str);
    parts.extend(counted(states));
    let reasons = deliveries.iter().filter_map(|part| part.reason.as_ref()).map(|(reason, _)| reason.as_str());
    parts.extend(counted(reasons).map(|reasons| format!("did not match: {reasons}")));
    parts.join("; ") + &gone
}

/// Such as `1 delivered, 2 pending`.
fn counted(words: impl Iterator<Item = &'static str>) -> Option<String> {
    let mut counts = BTreeMap::new();
    words.for_each(|word| *counts.entry(word).or_insert(0_usize) += 1);
    let counts: Vec<_> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    (!counts.is_empty()).then(|| counts.join(", "))
}

fn unmatched(then: Option<&Webhook>, now: &Webhook, event: &Event) -> (Reason, String) {
    let Some(then) = then else {
        let created = crate::model::time::millis_z(now.created_ms);
        return (Reason::CreatedLater, format!("the webhook was created at {created}, after the event was accepted"));
    };
    let kind = event.kind.as_str();
    if !then.wants(kind, event.channel.as_deref()) {
        let filters: Vec<_> = then.filters.iter().take(FILTERS_SHOWN).map(Filter::text).collect();
        let more = match then.filters.len() - filters.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        // Who subscribed to channels has to know which one a type is announced on.
        let channel = match (then.dialect, event.channel.as_deref()) {
            (Dialect::Omnia, Some(channel)) => format!(" and is announced on {channel}"),
            (Dialect::Omnia, None) => " and is announced on no channel".to_owned(),
            _ => String::new(),
        };
        let is_kept_out = kind.starts_with(RESERVED_PREFIX) && then.filters.contains(&Filter::All);
        let all = if is_kept_out { "; * leaves webhookd.* out" } else { "" };
        return (Reason::Type, format!("{kind} is not among {}{more}{channel}{all}", filters.join(", ")));
    }
    match then.state {
        WebhookState::Inactive { reason, since } => {
            let since = crate::model::time::millis_z(since);
            (Reason::Inactive, format!("the webhook was inactive ({}) since {since}", reason.as_str()))
        }
        WebhookState::Deleted { .. } => (Reason::Inactive, "the webhook was deleted".to_owned()),
        WebhookState::Active if news::is_about(kind, event.context.as_deref(), now.id) => {
            (Reason::Type, "what is reported of a webhook never goes through that webhook".to_owned())
        }
        WebhookState::Active => {
            (Reason::Type, "a test goes to the webhook that it was asked for, to no other".to_owned())
        }
    }
}

fn waiting(
    settings: &Settings,
    tenant: Option<&Tenant>,
    facts: &Facts,
    pause: Option<String>,
    glance: Glance,
    now: Millis,
) -> Waiting {
    let waiting = |what, until, rule: String| Waiting { what, until, event: None, rule };
    if let WebhookState::Inactive { reason, .. } = facts.now.state {
        let rule = format!("the webhook is inactive ({}); it goes on when it is made active", reason.as_str());
        return waiting("webhook_inactive", None, rule);
    }
    if glance.in_flight {
        return waiting("in_flight", None, "an attempt is under way".to_owned());
    }
    if let Some(rule) = pause {
        return waiting("paused", None, rule);
    }
    if let Some(before) = &facts.before {
        let event = before.under_way.or(before.last);
        return Waiting { event, ..waiting("order", None, order_rule(before)) };
    }
    if let Some(due) = facts.due_ms.filter(|due| *due > now) {
        return waiting("backoff", Some(due), backoff_rule(settings, tenant, facts));
    }
    if let Some(probe) = glance.circuit_probe_at {
        let rule = "the circuit is open after failures in a row; the next probe decides".to_owned();
        return waiting("circuit", Some(probe), rule);
    }
    if let Some(until) = glance.rate_limited_until {
        let rate = facts.now.rate_limit.unwrap_or_default();
        return waiting("rate_limit", Some(until), format!("at most {rate} deliveries a second"));
    }
    let rule = if glance.permits_taken { "as many attempts as may are under way" } else { "it is about to start" };
    waiting("permit", None, rule.to_owned())
}

const AWAY_RULE: &str = "nobody holds the webhook's stream; it goes on when webhookd listen is there again";

fn pause_rule(scope: &Scope, tenant: Option<&Tenant>) -> String {
    match scope {
        Scope::Everything => "the operator has paused everything".to_owned(),
        Scope::Tenant(_) => {
            format!("the operator has paused the tenant {}", tenant.map_or("", |tenant| tenant.id.as_str()))
        }
        Scope::Host(host) => format!("the operator has paused the host {host}"),
        Scope::Webhook(_) => "the operator has paused the webhook".to_owned(),
        Scope::Own(_) => "the webhook is paused; it goes on when it is resumed".to_owned(),
    }
}

fn order_rule(before: &Before) -> String {
    let mut rule = "one event of an ordering_key at a time".to_owned();
    if let Some(id) = before.under_way {
        rule.push_str(&format!("; {id} is under way"));
    }
    if let Some(id) = before.last.filter(|last| before.under_way != Some(*last)) {
        rule.push_str(&format!("; {id} comes before this one"));
    }
    rule
}

/// Such as `retry 3 of 9 of plan standard, 30 min ± 20 %`.
fn backoff_rule(settings: &Settings, tenant: Option<&Tenant>, facts: &Facts) -> String {
    let (name, policy) = settings.plans.of(&facts.now, tenant.and_then(|tenant| tenant.plan.as_deref()));
    let row = facts.row.unwrap_or_default();
    let retry = row.attempts.saturating_sub(row.budget_from).max(1);
    let of = policy.delays_ms.len();
    let spread = (policy.jitter * 100.0).round();
    match policy.delays_ms.get(retry as usize - 1) {
        Some(delay) => format!("retry {retry} of {of} of plan {name}, {} ± {spread} %", span(*delay)),
        None => format!("retry {retry}; plan {name} has changed since"),
    }
}

fn span(ms: Millis) -> String {
    match ms {
        _ if ms >= 172_800_000 && ms.is_multiple_of(86_400_000) => format!("{} d", ms / 86_400_000),
        _ if ms >= 3_600_000 && ms.is_multiple_of(3_600_000) => format!("{} h", ms / 3_600_000),
        _ if ms >= 60_000 && ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{} s", ms / 1_000),
        _ => format!("{ms} ms"),
    }
}
