//! One attempt: body, signature, exchange, verdict, and the record of it.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::cell::LaneCell;
use super::dispatcher::Dispatcher;
use super::finish::{Finished, finish};
use super::lane::Work;
use super::places::{Departure, Places};
use super::settings::Plan;
use super::worker::Worker;
use crate::clock::Millis;
use crate::egress::Pool;
use crate::egress::stream::Signed;
use crate::limits::ERROR_BYTES_MAX;
use crate::model::attempt::{Attempt, Class, DeadReason, Exchange, Failure, Verdict};
use crate::model::event::{Event, OrderKey};
use crate::model::id::{AttemptNumber, Seq};
use crate::model::webhook::{InactiveReason, Webhook};
use crate::render;
use crate::retry;
use crate::store::StoreError;
use crate::store::op::RowKey;
use crate::store::record::QueueRow;

/// An event that can't be read because the store is away is asked for again after this.
const UNREADABLE_WAIT: Duration = Duration::from_secs(1);

/// Tries a delivery once and hands what came of it to `finish`, which gives its permit and its places back.
pub(super) async fn run(work: Work, mut places: Places) {
    let departure = &places.departure.clone();
    let Departure { worker, cell, .. } = &**departure;
    let dispatcher = &worker.dispatcher;
    let event = match &work.body {
        Some(body) => Ok(body.event().clone()),
        None => Box::pin(read_event(dispatcher, work.event)).await,
    };
    let order = match &event {
        Ok(event) => event.order(),
        // Boxed, as all that is rare: every attempt would be as large as the largest of its waits.
        Err(error) => Box::pin(line_of(dispatcher, cell, work.event, error)).await,
    };
    // Asked for after the last wait: a change that was answered meanwhile is in force.
    let newer = newer_plan(departure);
    let (plan, is_wary) = newer.as_ref().map_or((&departure.plan, false), |(plan, is_wary)| (plan, *is_wary));
    if !plan.webhook.is_active() || dispatcher.is_paused(&plan.webhook) {
        places.give_back();
        return put_back(worker, cell, &work);
    }
    if (is_wary || order.is_some()) && !cell.lane().may_go(work.event, order) {
        places.give_back();
        return not_made(worker, cell);
    }
    if let Err(error @ StoreError::Unavailable(_)) = &event {
        // The writer says when the store is away; this would say it once a second for every permit.
        tracing::debug!(%error, webhook = %plan.webhook.id, event = work.event, "the event can't be read; trying again");
        places.give_back();
        tokio::time::sleep(UNREADABLE_WAIT).await;
        return put_back(worker, cell, &work);
    }
    let (key, row) = work.row.unzip();
    if let Some(RowKey { due_ms, .. }) = key {
        // What was held in line became due when it was let go, which its row says.
        let due_ms = row.map_or(due_ms, |row| due_ms.max(row.since_ms));
        let late = Duration::from_millis(dispatcher.clock.now_ms().saturating_sub(due_ms));
        dispatcher.metrics.lateness_seconds.observe(late.as_secs_f64());
    }
    let accepted_ms = event.as_ref().map_or_else(|_| dispatcher.clock.now_ms(), |event| event.accepted_ms);
    let row = row.unwrap_or(QueueRow { since_ms: accepted_ms, ..QueueRow::default() });
    let number = AttemptNumber::MIN.saturating_add(row.attempts);
    let at_ms = dispatcher.clock.wall_ms();
    let started = Instant::now();
    let exchange = match &event {
        Ok(event) => {
            let pool = plan.connections.as_ref().map(|connections| connections.of(worker.index()));
            let exchange = pin!(exchange(dispatcher, pool, plan, event, number, at_ms));
            unpanicked(exchange).await
        }
        // It will not read any better next time: the policy decides when to give up.
        Err(damaged) => {
            tracing::error!(error = %damaged, webhook = %plan.webhook.id, event = work.event, "the event can't be read");
            failed(Class::Protocol, format!("the event can't be read: {damaged}"))
        }
    };
    let duration = started.elapsed();
    drop(work.body);

    let tries = number.get().saturating_sub(row.budget_from);
    let now = dispatcher.clock.now_ms();
    // A success waits for nothing: the operating system need not be asked for chance.
    let jitter = if exchange.failure.is_some() { dispatcher.entropy.unit() } else { 0.5 };
    let verdict = retry::decide(&plan.policy, tries, &exchange, now, jitter);
    dispatcher.metrics.attempt_seconds.observe(duration.as_secs_f64());
    let deactivate = (verdict == Verdict::Dead(DeadReason::Gone)).then_some(InactiveReason::Gone);
    let attempt = record(plan, work.event, number, row.previous, at_ms, duration, exchange, verdict);
    log(dispatcher, plan, event.as_deref().ok(), &attempt);
    let id = event.ok().map(|event| event.id);
    finish(Finished { places, id, attempt, order, row, deactivate, now });
}

impl Dispatcher {
    /// One signed attempt at once, whatever the lane is doing; nothing follows from it.
    pub async fn test(&self, webhook: Arc<Webhook>, event: Arc<Event>) -> Attempt {
        let plan = self.plan(webhook.clone());
        let number = AttemptNumber::MIN;
        let at_ms = self.clock.wall_ms();
        let started = Instant::now();
        // Its own connection: the kept ones belong to the workers.
        let exchange = unpanicked(pin!(exchange(self, None, &plan, &event, number, at_ms))).await;
        let verdict = if exchange.failure.is_none() { Verdict::Delivered } else { Verdict::Single };
        record(&plan, event.seq, number, 0, at_ms, started.elapsed(), exchange, verdict)
    }
}

/// The plan that is in force, where it may not be the one that the attempt was started by: it is worked out anew when a secret has
/// run out since. And whether the lane has to be asked once more.
fn newer_plan(departure: &Departure) -> Option<(Arc<Plan>, bool)> {
    let Departure { worker, cell, plan, changes } = departure;
    if plan.is_stale(&worker.dispatcher.clock) {
        worker.dispatcher.refresh(plan.webhook.no, cell);
    } else if cell.changes() == *changes {
        return None;
    }
    let lane = cell.lane();
    Some((lane.plan.clone(), lane.is_wary()))
}

/// A panic in an attempt is a failed attempt: nothing may take a permit, a place or a delivery away with it.
async fn unpanicked(mut exchange: Pin<&mut impl Future<Output = Exchange>>) -> Exchange {
    poll_fn(|context| {
        let poll = catch_unwind(AssertUnwindSafe(|| exchange.as_mut().poll(context)));
        poll.unwrap_or_else(|_| Poll::Ready(failed(Class::Protocol, "the attempt failed inside the sender".to_owned())))
    })
    .await
}

/// `pool`: where connections are kept; `None`: nowhere.
async fn exchange(
    dispatcher: &Dispatcher,
    pool: Option<&Pool>,
    plan: &Plan,
    event: &Event,
    number: AttemptNumber,
    at_ms: Millis,
) -> Exchange {
    let webhook = &plan.webhook;
    let target = match &plan.target {
        Ok(target) => Some(target),
        Err(_) if webhook.is_stream() => None,
        Err(error) => {
            let failure = error.failure();
            return failed(failure.class, failure.detail);
        }
    };
    let body = render::body(webhook.dialect, event, &webhook.id);
    let id = event.id.text();
    let id = std::str::from_utf8(&id).unwrap_or_default();
    let Some(headers) = plan.signed(id, at_ms / 1_000, &body, number.get()) else {
        return failed(Class::Protocol, "the webhook's secret can't stand in a header".to_owned());
    };
    match target {
        Some(target) => {
            let own = Pool::default();
            dispatcher.egress.exchange(pool.unwrap_or(&own), target, headers, body, plan.timeout).await
        }
        None => {
            let signed = Signed { event, number, headers: &headers, body: &body };
            Box::pin(dispatcher.streams.exchange(webhook.no, signed, plan.timeout)).await
        }
    }
}

async fn read_event(dispatcher: &Dispatcher, seq: u64) -> Result<Arc<Event>, StoreError> {
    let found = dispatcher.store.read(move |shared| shared.view()?.event(seq)).await?;
    // One that is erased under its delivery was cancelled a moment ago.
    let found = found.filter(|event| !event.is_erased());
    found.map(Arc::new).ok_or(StoreError::Damaged("a pending delivery's event is missing"))
}

/// The line that a delivery stands in whose event does not read: its end must let the next one go all the same.
async fn line_of(dispatcher: &Dispatcher, cell: &LaneCell, seq: Seq, error: &StoreError) -> Option<OrderKey> {
    if matches!(error, StoreError::Unavailable(_)) {
        return None;
    }
    let no = cell.lane().no();
    dispatcher.store.read(move |shared| shared.view()?.line_of(no, seq)).await.ok().flatten()
}

/// Nothing was tried: everything goes back to where it was.
fn put_back(worker: &Arc<Worker>, cell: &Arc<LaneCell>, work: &Work) {
    cell.lane().put_back(work.event);
    not_made(worker, cell);
}

/// Nothing was tried, and the lane knows.
fn not_made(worker: &Arc<Worker>, cell: &Arc<LaneCell>) {
    let no = cell.lane().no();
    worker.dispatcher.attempts_settled(1);
    worker.drive(no, cell);
}

fn failed(class: Class, detail: String) -> Exchange {
    let failure = Some(Failure { class, detail });
    Exchange { failure, status: None, retry_after_ms: None, remote: None, excerpt: String::new() }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one record")]
fn record(
    plan: &Plan,
    event: Seq,
    number: AttemptNumber,
    previous: u64,
    at_ms: u64,
    duration: Duration,
    exchange: Exchange,
    verdict: Verdict,
) -> Attempt {
    let (class, mut error) = exchange.failure.map_or((None, String::new()), |f| (Some(f.class), f.detail));
    if error.len() > ERROR_BYTES_MAX {
        error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
    }
    Attempt {
        event,
        webhook: plan.webhook.no,
        number,
        previous,
        at_ms,
        duration_ms: u32::try_from(duration.as_millis()).unwrap_or(u32::MAX),
        class,
        status: exchange.status,
        error,
        remote: exchange.remote,
        excerpt: exchange.excerpt,
        verdict,
    }
}

fn log(dispatcher: &Dispatcher, plan: &Plan, event: Option<&Event>, attempt: &Attempt) {
    if attempt.class.is_some() {
        let tenant = dispatcher.store.shared().registry().tenant(plan.webhook.tenant).cloned();
        tracing::info!(
            webhook = %plan.webhook.id,
            tenant = tenant.as_ref().map(|tenant| tenant.id.as_str()),
            event = event.map(|event| tracing::field::display(event.id)),
            attempt = attempt.number,
            class = attempt.class.map(Class::as_str),
            status = attempt.status,
            error = attempt.error,
            verdict = ?attempt.verdict,
            "an attempt failed"
        );
    }
}
