//! The checker: does the store hold exactly what the model says? Nothing lost, nothing unexpected, no count off by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use webhookd::clock::Millis;
use webhookd::model::attempt::{Attempt, Verdict};
use webhookd::model::event::Event;
use webhookd::model::id::{EventId, JournalSeq, OPERATOR_NO, Seq, WebhookNo};
use webhookd::model::webhook::{Webhook, WebhookState};
use webhookd::store::backlog::Backlog;
use webhookd::store::listing::{Fates, Tells};
use webhookd::store::ordering::Place;
use webhookd::store::page::EventQuery;
use webhookd::store::queue::Queued;
use webhookd::store::record::{Entry, QueueRow};
use webhookd::store::view::{Shared, View};

use crate::chance::Chance;
use crate::erase;
use crate::hooks::Settings;
use crate::jobs::jobs;
use crate::model::{Fact, Hook, Life, Model};
use crate::news::Health;

pub type Checked = Result<(), String>;

/// An error that names both sides when they differ.
fn same<T: PartialEq + std::fmt::Debug>(what: impl Fn() -> String, found: &T, wanted: &T) -> Checked {
    if found == wanted { Ok(()) } else { Err(format!("{}: found {found:?}, wanted {wanted:?}", what())) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Everything.
pub fn check(shared: &Shared, model: &Model, chance: &mut Chance) -> Checked {
    let view = shared.view().map_err(text)?;
    events(shared, &view, model)?;
    journal(&view, model)?;
    webhooks(shared, &view, model)?;
    dead_letters(&view, model)?;
    let fates = fates(&view, model)?;
    conservation(&view, model, &fates)?;
    guards(&view, model)?;
    jobs(shared, &view, model)?;
    lines(&view, model)?;
    let paused: BTreeMap<_, _> =
        shared.registry().pauses().iter().map(|(scope, pause)| (scope.clone(), pause)).collect();
    same(|| "pauses".to_owned(), &paused, &model.pauses)?;
    for tenant in tenants(model) {
        event_pages(shared, model, tenant, chance)?;
    }
    for webhook in model.hooks.keys() {
        attempt_pages(shared, model, *webhook, chance)?;
    }
    Ok(())
}

/// Every tenant's number.
fn tenants(model: &Model) -> impl Iterator<Item = u32> + '_ {
    let all = (1..=u32::try_from(model.tenants.len()).unwrap()).chain([OPERATOR_NO]);
    all.filter(|tenant| !model.gone.contains(tenant))
}

fn equals(event: &Event, fact: &Fact) -> bool {
    let draft = &fact.draft;
    event.tenant == draft.tenant
        && (&event.kind, &event.channel) == (&draft.kind, &draft.channel)
        && event.created_us == draft.created_us
        && event.ordering_key == draft.ordering_key
        && (&event.data, &event.context, &event.user) == (&draft.data, &draft.context, &draft.user)
        && event.matched == fact.matched
        && event.accepted_ms == fact.accepted_ms
        && fact.id.is_none_or(|id| id == event.id)
}

fn events(shared: &Shared, view: &View<'_>, model: &Model) -> Checked {
    let floor = view.floors().map_err(text)?.0;
    let mut found = Vec::new();
    view.scan_events(1, |event| {
        found.push(event);
        true
    })
    .map_err(text)?;
    let left = model.events.len() + 1 - floor as usize;
    same(|| format!("events from {floor} on"), &found.len(), &left)?;
    same(|| "next event".to_owned(), &shared.next_event(), &model.heads().0)?;
    for (seq, fact) in (1..floor).zip(&model.events) {
        match view.event(seq).map_err(text)? {
            Some(event) if equals(&event, fact) || erase::is_erased(&event, fact, model) => {}
            None if !model.must_have(seq, floor) => {
                let gone = fact.id.map_or(Ok(None), |id| view.event_by_id(id)).map_err(text)?;
                same(|| format!("the id of event {seq}, which is gone"), &gone, &None)?;
                let mut fates = view.fates(seq).map_err(text)?;
                fates.retain(|_, fate| fate.number < shared.unwritten_from().1);
                same(|| format!("written fates of {seq}, which is gone: {fates:?}"), &fates.len(), &0)?;
            }
            other => {
                let claims = model.claims_to(seq);
                return Err(format!("kept event {seq} is {other:?}, wanted for {claims:?}: {fact:?}"));
            }
        }
    }
    let mut before = (EventId([0; 16]), 0);
    for (event, fact) in found.iter().zip(&model.events[floor as usize - 1..]) {
        if !equals(event, fact) && !erase::is_erased(event, fact, model) {
            return Err(format!("event {} is {event:?}, wanted {fact:?}", event.seq));
        }
        if event.id <= before.0 || event.accepted_ms < before.1 {
            return Err(format!("event {} does not rise: {} at {}", event.seq, event.id, event.accepted_ms));
        }
        before = (event.id, event.accepted_ms);
        let by_id = view.event_by_id(event.id).map_err(text)?;
        let wanted = Some(event).filter(|event| !event.is_erased());
        same(|| format!("event by id {}", event.id), &by_id.as_ref(), &wanted)?;
        let mut other = event.id;
        other.0[15] ^= 1;
        same(|| "an id that is nobody's".to_owned(), &view.event_by_id(other).map_err(text)?, &None)?;
    }
    Ok(())
}

fn journal(view: &View<'_>, model: &Model) -> Checked {
    let floor = view.floors().map_err(text)?.1;
    for (number, wanted) in (1..).zip(&model.journal) {
        let found = view.entry(number).map_err(text)?;
        if found.is_none() && number < floor.min(model.needed_from(wanted.event(), wanted.webhook()).unwrap_or(floor)) {
            continue;
        }
        let wanted = &as_it_begins(found.as_ref(), wanted, model, floor);
        if !found.as_ref().is_some_and(|found| erase::is_blotted(found, wanted, model)) {
            same(|| format!("journal record {number}"), &found.as_ref(), &Some(wanted))?;
        }
    }
    same(|| "behind the journal".to_owned(), &view.entry(model.heads().1).map_err(text)?, &None)
}

/// The same, as an attempt that begins its chain, or a second end of it behind what it had begun with, where what came before it had been
/// removed when it was written, or its event, with what is known to have become of it: one that was cancelled in flight is no longer
/// needed.
fn as_it_begins(found: Option<&Entry>, wanted: &Entry, model: &Model, floor: JournalSeq) -> Entry {
    let (Some(Entry::Attempt(found)), Entry::Attempt(attempt)) = (found, wanted) else { return wanted.clone() };
    let is_lost = model.lost.contains(&attempt.event);
    let begins = found.previous == 0 && (attempt.previous < floor || is_lost);
    if begins || (is_lost && found.previous < attempt.previous) {
        return Entry::Attempt(Attempt { previous: found.previous, ..attempt.clone() });
    }
    wanted.clone()
}

fn rows(view: &View<'_>, webhook: WebhookNo, started: bool) -> Result<Vec<Queued>, String> {
    view.due(webhook, started, Millis::MAX, usize::MAX, |_, _| false).map_err(text)
}

fn webhooks(shared: &Shared, view: &View<'_>, model: &Model) -> Checked {
    let registry = shared.registry();
    let known: BTreeSet<u32> = registry.tenants().iter().map(|tenant| tenant.no).collect();
    same(|| "tenants".to_owned(), &known, &tenants(model).collect())?;
    let live = model.hooks.values().filter(|hook| hook.life != Life::Deleted).count();
    same(|| "live webhooks".to_owned(), &registry.webhooks().count(), &live)?;
    let first = view.floors().map_err(text)?.0;
    let first = (1..first).find(|seq| model.must_have(*seq, first)).unwrap_or(first);
    for (no, hook) in &model.hooks {
        if model.gone.contains(&hook.tenant) {
            same(|| format!("webhook {no}"), &registry.webhook(*no).is_some(), &false)?;
            continue;
        }
        // Of a deleted one, retention has removed what nothing speaks of any more, whether or not it was answered.
        if hook.life == Life::Deleted && model.asked.0 > 0 && view.webhook_newest(*no).map_err(text)?.is_none() {
            continue;
        }
        let standing = view.standing(*no).map_err(text)?;
        for (started, counted) in [(false, standing.waiting), (true, standing.started)] {
            let found = rows(view, *no, started)?;
            same(|| format!("count of rows of {no}"), &counted, &(found.len() as u64))?;
            if hook.life == Life::Deleted {
                continue;
            }
            let from = (*no, started, 0, 0)..=(*no, started, Millis::MAX, Seq::MAX);
            let wanted: Vec<_> =
                model.queue.range(from).map(|((_, _, due, event), row)| (*event, *due, *row)).collect();
            let shown: Vec<_> = found.iter().map(|queued| (queued.event, queued.key.due_ms, queued.row)).collect();
            same(|| format!("queue of {no}, started {started}"), &shown, &wanted)?;
            let next = view.next_due(*no, started, |_, _| false).map_err(text)?;
            same(|| format!("next due of {no}"), &next, &wanted.first().map(|(_, due, _)| *due))?;
        }
        let dead = model.dead.keys().filter(|(webhook, _)| webhook == no).count() as u64;
        if hook.life != Life::Deleted {
            let queued = model.queue.keys().filter(|place| place.0 == *no).map(|place| place.3);
            let fresh = model.fresh.iter().filter(|(_, webhook)| webhook == no).map(|(seq, _)| *seq);
            let held = model.lines.iter().filter(|((webhook, ..), row)| webhook == no && row.is_some());
            let free: Vec<Seq> = queued.chain(fresh).collect();
            let oldest_ms = free.iter().min().map(|seq| model.events[*seq as usize - 1].accepted_ms);
            let wanted = Backlog { pending: (free.len() + held.count()) as u64, oldest_ms, dead };
            same(|| format!("backlog of {no}"), &shared.backlog(*no).map_err(text)?, &wanted)?;
        }
        same(|| format!("count of dead letters of {no}"), &standing.dead, &dead)?;
        let shown = Health {
            failures: standing.failures,
            failing_since_ms: standing.failing_since_ms,
            failing_from_ms: standing.failing_from_ms,
            last_success_ms: standing.last_success_ms,
            warned: standing.warned,
            untold: standing.untold,
            newest_death: standing.newest_death,
            told_ms: standing.told_ms,
        };
        same(|| format!("health of {no}"), &shown, &hook.health)?;
        let here = registry.webhook(*no).map(|webhook| (life(&webhook.state), webhook.url.clone()));
        let wanted = (hook.life != Life::Deleted).then(|| (hook.life, hook.url.clone()));
        same(|| format!("webhook {no}"), &here, &wanted)?;
        settings(registry.webhook(*no), view, *no, hook)?;
        let bounds: BTreeSet<Seq> = hook.versions.keys().flat_map(|from| [from.saturating_sub(1), *from]).collect();
        for seq in bounds.into_iter().filter(|seq| *seq >= first) {
            let version = view.webhook_at(*no, seq).map_err(text)?.map(|w| (life(&w.state), w.url));
            let wanted = hook.versions.range(..=seq).next_back().map(|(_, version)| version.clone());
            same(|| format!("webhook {no} at {seq}"), &version, &wanted)?;
        }
    }
    Ok(())
}

/// A live webhook's filters, headers and secrets, in memory and as they are written.
fn settings(here: Option<&Arc<Webhook>>, view: &View<'_>, no: WebhookNo, hook: &Hook) -> Checked {
    if hook.life == Life::Deleted {
        return Ok(());
    }
    let here = here.map(|webhook| Settings::of(webhook));
    same(|| format!("settings of {no}"), &here.as_ref(), &Some(&hook.settings))?;
    let written = view.webhook_newest(no).map_err(text)?.map(|webhook| Settings::of(&webhook));
    same(|| format!("settings of {no} as written"), &written.as_ref(), &Some(&hook.settings))
}

fn life(state: &WebhookState) -> Life {
    match state {
        WebhookState::Active => Life::Active,
        WebhookState::Inactive { .. } => Life::Inactive,
        WebhookState::Deleted { .. } => Life::Deleted,
    }
}

fn dead_letters(view: &View<'_>, model: &Model) -> Checked {
    let mut found = BTreeMap::new();
    for tenant in tenants(model) {
        let mut before = JournalSeq::MAX;
        let mut rising = false;
        view.scan_dead(tenant, JournalSeq::MAX, |letter| {
            rising |= letter.death >= before || model.hooks[&letter.webhook].tenant != tenant;
            before = letter.death;
            found.insert((letter.webhook, letter.event), letter.death);
            Ok(true)
        })
        .map_err(text)?;
        same(|| format!("order of dead letters of tenant {tenant}"), &rising, &false)?;
    }
    same(|| "dead letters".to_owned(), &found, &model.dead)?;
    for ((webhook, event), death) in &model.dead {
        let found = view.death_of(*webhook, *event).map_err(text)?;
        same(|| format!("death of {event} for {webhook}"), &found, &Some(*death))?;
    }
    Ok(())
}

fn fates(view: &View<'_>, model: &Model) -> Result<BTreeMap<Seq, Fates>, String> {
    let mut all = BTreeMap::new();
    let mut chains: BTreeMap<Seq, BTreeMap<WebhookNo, Vec<JournalSeq>>> = BTreeMap::new();
    for (number, entry) in (1..).zip(&model.journal) {
        chains.entry(entry.event()).or_default().entry(entry.webhook()).or_default().push(number);
    }
    let floors = view.floors().map_err(text)?;
    for seq in 1..model.heads().0 {
        let fates = view.fates(seq).map_err(text)?;
        let found: BTreeMap<WebhookNo, JournalSeq> =
            fates.iter().map(|(webhook, fate)| (*webhook, fate.number)).collect();
        all.insert(seq, fates);
        if seq < floors.0 && view.event(seq).map_err(text)?.is_none() {
            continue;
        }
        let of_event = chains.remove(&seq).unwrap_or_default();
        let wanted: BTreeMap<_, _> = of_event.iter().map(|(no, list)| (*no, *list.last().unwrap())).collect();
        same(|| format!("fates of {seq}"), &found, &wanted)?;
        for (webhook, wanted) in of_event {
            let chain = view.chain(found[&webhook]).map_err(text)?;
            let numbers: Vec<JournalSeq> = chain.iter().map(|(number, _)| *number).collect();
            if !model.forked.contains(&(seq, webhook)) {
                let entries: Vec<&Entry> = wanted.iter().map(|number| &model.journal[*number as usize - 1]).collect();
                // Retention may have cut what is not needed.
                let from = model.needed_from(seq, webhook).unwrap_or(floors.1).min(floors.1);
                let least = wanted.iter().filter(|number| **number >= from).count();
                let whole = wanted.ends_with(&numbers) && numbers.len() >= least;
                same(
                    || format!("chain of {seq} for {webhook}, {entries:?}: {numbers:?} of {wanted:?}"),
                    &whole,
                    &true,
                )?;
            }
        }
    }
    Ok(all)
}

/// Who stands in line, who may go, and that in each line it is one.
fn lines(view: &View<'_>, model: &Model) -> Checked {
    for (webhook, _) in model.hooks.iter().filter(|(_, hook)| hook.life != Life::Deleted) {
        let mine = model.lines.range((*webhook, 0, 0)..=(*webhook, u64::MAX, Seq::MAX));
        let place = |row: &Option<QueueRow>| row.map_or(Place::UnderWay, Place::Held);
        let wanted: Vec<_> = mine.map(|((_, order, event), row)| (*order, *event, place(row))).collect();
        let found = view.in_line(*webhook, None, usize::MAX).map_err(text)?.items;
        same(|| format!("lines of {webhook}"), &found, &wanted)?;
        let held = found.iter().filter(|(_, _, place)| *place != Place::UnderWay).count() as u64;
        same(|| format!("count of those held by {webhook}"), &view.standing(*webhook).map_err(text)?.held, &held)?;
        let mut under_way: BTreeMap<u64, usize> = found.iter().map(|(order, ..)| (*order, 0)).collect();
        for (order, event, _) in found.iter().filter(|(_, _, place)| *place == Place::UnderWay) {
            *under_way.entry(*order).or_default() += 1;
            let rows = model.queue.keys().filter(|place| (place.0, place.3) == (*webhook, *event)).count();
            let pending = rows + usize::from(model.fresh.contains(&(*event, *webhook)));
            same(|| format!("line of {event}"), &view.line_of(*webhook, *event).map_err(text)?, &Some(*order))?;
            same(|| format!("places where {event} is pending for {webhook}"), &pending, &1)?;
        }
        same(|| format!("lines of {webhook} {under_way:?}"), &under_way.values().all(|count| *count == 1), &true)?;
    }
    Ok(())
}

/// Each delivery is in exactly one of pending, delivered, dead, cancelled.
fn conservation(view: &View<'_>, model: &Model, fates: &BTreeMap<Seq, Fates>) -> Checked {
    let floor = view.floors().map_err(text)?.0;
    let mut deliveries: BTreeSet<(Seq, WebhookNo)> = BTreeSet::new();
    for (seq, fact) in (1..).zip(&model.events) {
        deliveries.extend(fact.matched.iter().map(|webhook| (seq, *webhook)));
    }
    deliveries.extend(model.journal.iter().map(|entry| (entry.event(), entry.webhook())));
    let mut queued: BTreeMap<(Seq, WebhookNo), usize> = BTreeMap::new();
    for webhook in model.hooks.keys() {
        for row in [rows(view, *webhook, false)?, rows(view, *webhook, true)?].concat() {
            *queued.entry((row.event, *webhook)).or_default() += 1;
        }
    }
    deliveries.retain(|(event, _)| model.must_have(*event, floor));
    for (event, webhook) in deliveries {
        let fresh = model.fresh.contains(&(event, webhook));
        let rows = queued.get(&(event, webhook)).copied().unwrap_or(0);
        let dead = view.death_of(webhook, event).map_err(text)?.is_some();
        let fate = fates[&event].get(&webhook).copied();
        let mut newest = fate.map(|fate| view.entry(fate.number)).transpose().map_err(text)?.flatten();
        // A failure from which nothing followed says nothing about the delivery.
        while let Some(Entry::Attempt(Attempt { verdict: Verdict::Single, previous: previous @ 1.., .. })) = newest {
            newest = view.entry(previous).map_err(text)?;
        }
        let expired = model.expired.contains(&(event, webhook)) && !dead;
        let is_dead = fate.is_some_and(|fate| matches!(fate.tells, Tells::Dead(_)));
        let ended = match &newest {
            // What outlives the records tells.
            None if fate.is_some_and(|fate| matches!(fate.tells, Tells::Delivered | Tells::Cancelled)) => true,
            // A test's failure.
            None if fate.is_some_and(|fate| fate.tells == Tells::Nothing) => {
                model.events[event as usize - 1].draft.test
            }
            _ if expired && is_dead => true,
            Some(Entry::Attempt(Attempt { verdict: Verdict::Delivered | Verdict::Single, .. })) => true,
            Some(Entry::Dropped { .. }) => true,
            _ => !model.live(webhook) && !dead && rows == 0,
        };
        let raced = model.forked.contains(&(event, webhook));
        let place = model.order_of(event).map_or(Ok(None), |order| view.place_in_line(webhook, order, event));
        let held = usize::from(model.live(webhook) && matches!(place.map_err(text)?, Some(Place::Held(_))));
        let pending = usize::from(fresh && model.live(webhook)) + rows + held;
        let states = pending + usize::from(dead) + usize::from(ended && !dead && (pending == 0 || !raced));
        if states != 1 && !(raced && pending + usize::from(dead) <= 1) {
            return Err(format!(
                "delivery of {event} to {webhook} is in {states} states: fresh {fresh}, rows {rows}, dead {dead}, newest {newest:?}"
            ));
        }
    }
    Ok(())
}

/// Marks and audit records are those of the accepted ops, no more and no fewer.
fn guards(view: &View<'_>, model: &Model) -> Checked {
    for (mark, kept) in &model.marks {
        same(|| format!("{mark:?}"), &view.is_marked(mark).map_err(text)?, kept)?;
    }
    let mut found = Vec::new();
    view.scan_audit(u64::MAX, |number, record| {
        found.push((number, record));
        Ok(true)
    })
    .map_err(text)?;
    found.reverse();
    same(|| "audit records".to_owned(), &found, &model.audit.clone().into_iter().collect())?;
    let middle = found.get(found.len() / 2).map_or(1, |(number, _)| *number);
    let mut newest = None;
    view.scan_audit(middle, |number, _| {
        newest = Some(number);
        Ok(false)
    })
    .map_err(text)?;
    same(|| format!("audit records below {middle}"), &newest, &model.audit.range(..middle).next_back().map(|r| *r.0))
}

fn event_pages(shared: &Shared, model: &Model, tenant: u32, chance: &mut Chance) -> Checked {
    let floor = shared.view().map_err(text)?.floors().map_err(text)?.0;
    let facts: Vec<(Seq, &Fact)> = (1..).zip(&model.events).filter(|(seq, _)| *seq >= floor).collect();
    let its = |(seq, fact): &&(Seq, &Fact)| [tenant, 0].contains(&fact.draft.tenant) && !model.erased.contains(seq);
    let mine: Vec<&(Seq, &Fact)> = facts.iter().filter(its).collect();
    for ascending in [true, false] {
        let bound = |chance: &mut Chance| {
            let shift = chance.below(3);
            let (_, fact) = *chance.pick(&facts)?;
            chance.percent(50).then(|| (fact.accepted_ms + shift).saturating_sub(1))
        };
        let (since_ms, until_ms) = (bound(chance), bound(chance));
        let kind = chance.percent(30).then(|| "order.paid".to_owned());
        let mut wanted: Vec<Seq> = mine
            .iter()
            .filter(|(_, fact)| since_ms.is_none_or(|since| fact.accepted_ms >= since))
            .filter(|(_, fact)| until_ms.is_none_or(|until| fact.accepted_ms <= until))
            .filter(|(_, fact)| kind.as_ref().is_none_or(|kind| *kind == fact.draft.kind))
            .map(|(seq, _)| *seq)
            .collect();
        if !ascending {
            wanted.reverse();
        }
        let limit = 1 + chance.index(30);
        let mut query = EventQuery { tenant, ascending, limit, since_ms, until_ms, kind, ..EventQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = shared.events_page(&query).map_err(text)?;
            if page.items.len() > limit {
                return Err(format!("a page of {} where {limit} were asked for", page.items.len()));
            }
            found.extend(page.items.iter().map(|event| event.seq));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        same(|| format!("events of tenant {tenant}: {query:?}"), &found, &wanted)?;
    }
    Ok(())
}

fn attempt_pages(shared: &Shared, model: &Model, webhook: WebhookNo, chance: &mut Chance) -> Checked {
    let mine = |entry: &&Entry| matches!(entry, Entry::Attempt(attempt) if attempt.webhook == webhook);
    let floor = shared.view().map_err(text)?.floors().map_err(text)?.1;
    let left = (1..).zip(&model.journal).filter(|(number, entry)| *number >= floor && mine(entry));
    let mut wanted: Vec<JournalSeq> = left.map(|(number, _)| number).collect();
    wanted.reverse();
    let limit = 1 + chance.index(30);
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = shared.attempts_page(webhook, before, limit).map_err(text)?;
        found.extend(page.items.iter().map(|(number, _)| *number));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    same(|| format!("attempts of webhook {webhook}"), &found, &wanted)
}
