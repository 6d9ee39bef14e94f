//! One attempt: body, signature, exchange, verdict, and the record of it.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::dispatcher::{Dispatcher, LaneCell};
use super::finish::{Finished, finish};
use super::lane::Work;
use super::places::Places;
use super::settings::Plan;
use super::worker::Worker;
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

/// Tries a delivery once and hands what came of it to `finish`, which gives the lane's permit back.
pub(super) async fn run(worker: Arc<Worker>, cell: Arc<LaneCell>, work: Work, places: Places) {
    let dispatcher = &worker.dispatcher;
    let event = match &work.body {
        Some(body) => Ok(body.event().clone()),
        None => read_event(dispatcher, work.event).await,
    };
    let order = line_of(dispatcher, &cell, work.event, &event).await;
    // Asked for after the last wait: a change that was answered meanwhile is in force.
    let (plan, is_wary) = current_plan(dispatcher, &cell);
    if !plan.webhook.is_active() || dispatcher.is_paused(&plan.webhook) {
        drop(places);
        return put_back(&worker, &cell, &work);
    }
    if (is_wary || order.is_some()) && !cell.lane().may_go(work.event, order) {
        drop(places);
        return not_made(&worker, &cell);
    }
    if let Err(error @ StoreError::Unavailable(_)) = &event {
        // The writer says when the store is away; this would say it once a second for every permit.
        tracing::debug!(%error, webhook = %plan.webhook.id, event = work.event, "the event can't be read; trying again");
        drop(places);
        tokio::time::sleep(UNREADABLE_WAIT).await;
        return put_back(&worker, &cell, &work);
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
            unpanicked(exchange(dispatcher, pool, &plan, event, number)).await
        }
        // It will not read any better next time: the policy decides when to give up.
        Err(damaged) => {
            tracing::error!(error = %damaged, webhook = %plan.webhook.id, event = work.event, "the event can't be read");
            failed(Class::Protocol, format!("the event can't be read: {damaged}"))
        }
    };
    let duration = started.elapsed();
    drop((work.body, places));

    let tries = number.get().saturating_sub(row.budget_from);
    let now = dispatcher.clock.now_ms();
    // A success waits for nothing: the operating system need not be asked for chance.
    let jitter = if exchange.failure.is_some() { dispatcher.entropy.unit() } else { 0.5 };
    let verdict = retry::decide(&plan.policy, tries, &exchange, now, jitter);
    dispatcher.count(result(&exchange), duration.as_secs_f64());
    let deactivate = (verdict == Verdict::Dead(DeadReason::Gone)).then_some(InactiveReason::Gone);
    let attempt = record(&plan, work.event, number, row.previous, at_ms, duration, exchange, verdict);
    log(dispatcher, &plan, event.as_deref().ok(), &attempt);
    let id = event.ok().map(|event| event.id);
    let (budget_from, since_ms) = (row.budget_from, row.since_ms);
    finish(&worker, Finished { cell, id, attempt, order, budget_from, since_ms, deactivate, now });
}

impl Dispatcher {
    /// One signed attempt at once, whatever the lane is doing; nothing follows from it.
    pub async fn test(&self, webhook: Arc<Webhook>, event: Arc<Event>) -> Attempt {
        let plan = self.plan(webhook.clone());
        let number = AttemptNumber::MIN;
        let at_ms = self.clock.wall_ms();
        let started = Instant::now();
        // Its own connection: the kept ones belong to the workers.
        let exchange = unpanicked(exchange(self, None, &plan, &event, number)).await;
        let verdict = if exchange.failure.is_none() { Verdict::Delivered } else { Verdict::Single };
        record(&plan, event.seq, number, 0, at_ms, started.elapsed(), exchange, verdict)
    }
}

/// The lane's plan, worked out anew when a secret has run out since; and whether the lane has to be asked once more.
fn current_plan(dispatcher: &Dispatcher, cell: &LaneCell) -> (Arc<Plan>, bool) {
    let look = || {
        let lane = cell.lane();
        (lane.plan.clone(), lane.is_wary())
    };
    let (plan, is_wary) = look();
    if !plan.is_stale(dispatcher.clock.now_ms()) {
        return (plan, is_wary);
    }
    dispatcher.refresh(plan.webhook.no, cell);
    look()
}

/// A panic in an attempt is a failed attempt: nothing may take a permit, a place or a delivery away with it.
async fn unpanicked(exchange: impl Future<Output = Exchange>) -> Exchange {
    let mut exchange = pin!(exchange);
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
    let timestamp_s = dispatcher.clock.wall_ms() / 1_000;
    let Some(headers) = plan.signed(&event.id.to_string(), timestamp_s, &body, number.get()) else {
        return failed(Class::Protocol, "the webhook's secret can't stand in a header".to_owned());
    };
    match target {
        Some(target) => {
            let own = Pool::default();
            dispatcher.egress.exchange(pool.unwrap_or(&own), target, headers, body, plan.timeout).await
        }
        None => {
            let signed = Signed { event, number, headers: &headers, body: &body };
            dispatcher.streams.exchange(webhook.no, signed, plan.timeout).await
        }
    }
}

async fn read_event(dispatcher: &Dispatcher, seq: u64) -> Result<Arc<Event>, StoreError> {
    let found = dispatcher.store.read(move |shared| shared.view()?.event(seq)).await?;
    // One that is erased under its delivery was cancelled a moment ago.
    let found = found.filter(|event| !event.is_erased());
    found.map(Arc::new).ok_or(StoreError::Damaged("a pending delivery's event is missing"))
}

/// The line that a delivery stands in: the end of a delivery must let the next one go, also when its event does not read.
async fn line_of(
    dispatcher: &Dispatcher,
    cell: &LaneCell,
    seq: Seq,
    event: &Result<Arc<Event>, StoreError>,
) -> Option<OrderKey> {
    match event {
        Ok(event) => event.order(),
        Err(StoreError::Unavailable(_)) => None,
        Err(_) => {
            let no = cell.lane().no();
            dispatcher.store.read(move |shared| shared.view()?.line_of(no, seq)).await.ok().flatten()
        }
    }
}

/// Nothing was tried: everything goes back to where it was.
fn put_back(worker: &Arc<Worker>, cell: &Arc<LaneCell>, work: &Work) {
    cell.lane().put_back(work.event);
    not_made(worker, cell);
}

/// Nothing was tried, and the lane knows.
fn not_made(worker: &Arc<Worker>, cell: &Arc<LaneCell>) {
    let no = cell.lane().no();
    worker.dispatcher.attempt_settled();
    worker.drive(no, cell);
}

fn failed(class: Class, detail: String) -> Exchange {
    let failure = Some(Failure { class, detail });
    Exchange { failure, status: None, retry_after_ms: None, remote: None, excerpt: String::new() }
}

fn result(exchange: &Exchange) -> &'static str {
    exchange.failure.as_ref().map_or("delivered", |failure| failure.class.as_str())
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
