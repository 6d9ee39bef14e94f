//! One attempt: body, signature, exchange, verdict, and the record of it.

use std::sync::Arc;
use std::time::Instant;

use super::dispatcher::{Dispatcher, LaneCell};
use super::lane::Work;
use super::settings::Plan;
use super::worker::Worker;
use crate::limits::ERROR_BYTES_MAX;
use crate::model::attempt::{Attempt, Class, DeadReason, Exchange, Failure, Verdict};
use crate::model::event::Event;
use crate::model::id::AttemptNumber;
use crate::model::webhook::{InactiveReason, Webhook};
use crate::render;
use crate::retry;
use crate::store::StoreError;
use crate::store::op::{Op, Outcome};
use crate::store::record::QueueRow;

/// Tries a delivery once and hands the outcome to the writer. The lane's permit comes back when that is durable.
pub(super) async fn run(worker: Arc<Worker>, cell: Arc<LaneCell>, mut work: Work) {
    let dispatcher = &worker.dispatcher;
    let plan = current_plan(dispatcher, &cell);
    let no = plan.webhook.no;
    let held = work.body.take();
    let event = match &held {
        Some(body) => body.event.clone(),
        None => match read_event(dispatcher, work.event).await {
            Ok(event) => event,
            Err(error) => return give_back(&worker, &cell, &plan, &work, &error).await,
        },
    };
    let row = work.row.map_or_else(|| QueueRow { since_ms: event.accepted_ms, ..QueueRow::default() }, |(_, row)| row);
    let number = AttemptNumber::MIN.saturating_add(row.attempts);
    if let Some((key, _)) = work.row {
        let late = dispatcher.clock.now_ms().saturating_sub(key.due_ms);
        dispatcher.metrics.lateness_seconds.observe(std::time::Duration::from_millis(late).as_secs_f64());
    }
    let at_ms = dispatcher.clock.wall_ms();
    let started = Instant::now();
    let exchange = exchange(dispatcher, &cell, &plan, &event, number).await;
    let duration = started.elapsed();
    drop(held);
    if let Some(host) = &plan.host {
        dispatcher.poke(host.leave());
    }
    dispatcher.poke(dispatcher.all.leave());

    let tries = number.get() - row.budget_from;
    let now = dispatcher.clock.now_ms();
    let verdict = retry::decide(&plan.policy, tries, &exchange, now, dispatcher.entropy.unit());
    let success = verdict == Verdict::Delivered;
    dispatcher.count(result(&exchange), duration.as_secs_f64());
    let pressing = cell.lane().ended(success, at_ms, now);
    let outcome = Outcome {
        row: work.row.map(|(key, _)| key).or_else(|| cell.lane().row_of(work.event)),
        budget_from: row.budget_from,
        since_ms: row.since_ms,
        deactivate: (verdict == Verdict::Dead(DeadReason::Gone)).then_some(InactiveReason::Gone),
        test: false,
        attempt: record(&plan, &event, number, row.previous, at_ms, duration, exchange, verdict),
    };
    log(&plan, &event, &outcome.attempt);
    dispatcher.store.note(Op::Outcome(Box::new(outcome)), pressing);
    if success {
        // A circuit that has just closed has work that was waiting for it.
        worker.pump(no);
    }
}

impl Dispatcher {
    /// One signed attempt at once, whatever the lane is doing; nothing follows from it.
    pub async fn test(&self, webhook: Arc<Webhook>, event: Arc<Event>) -> Attempt {
        let plan = self.plan(webhook.clone());
        let number = AttemptNumber::MIN;
        let at_ms = self.clock.wall_ms();
        let started = Instant::now();
        let exchange = match self.cell_or_new(webhook.no) {
            Some(cell) => exchange(self, &cell, &plan, &event, number).await,
            None => failed(Class::Connect, "the webhook was deleted".to_owned()),
        };
        let verdict = if exchange.failure.is_none() { Verdict::Delivered } else { Verdict::Single };
        record(&plan, &event, number, 0, at_ms, started.elapsed(), exchange, verdict)
    }
}

/// The lane's plan; worked out anew when a secret has run out since.
fn current_plan(dispatcher: &Dispatcher, cell: &LaneCell) -> Arc<Plan> {
    let plan = cell.lane().plan.clone();
    if !plan.is_stale(dispatcher.clock.now_ms()) {
        return plan;
    }
    let plan = dispatcher.plan(plan.webhook.clone());
    cell.lane().replan(plan.clone());
    plan
}

async fn exchange(
    dispatcher: &Dispatcher,
    cell: &LaneCell,
    plan: &Plan,
    event: &Event,
    number: AttemptNumber,
) -> Exchange {
    let target = match &plan.target {
        Ok(target) => target,
        Err(error) => {
            let failure = error.failure();
            return failed(failure.class, failure.detail);
        }
    };
    let webhook = &plan.webhook;
    let body = render::body(webhook.dialect, event, &webhook.id, plan.channel(&event.kind));
    let timestamp_s = dispatcher.clock.wall_ms() / 1_000;
    let Some(headers) = plan.signed(&event.id.to_string(), timestamp_s, &body, number.get()) else {
        return failed(Class::Protocol, "the webhook's secret can't stand in a header".to_owned());
    };
    dispatcher.egress.exchange(&cell.pool, target, headers, body, plan.timeout).await
}

async fn read_event(dispatcher: &Dispatcher, seq: u64) -> Result<Arc<Event>, StoreError> {
    let found = dispatcher.store.read(move |shared| shared.view()?.event(seq)).await?;
    found.map(Arc::new).ok_or(StoreError::Damaged("a pending delivery's event is missing"))
}

/// The event could not be read, so nothing was tried: everything goes back to where it was, for a while later.
async fn give_back(worker: &Arc<Worker>, cell: &LaneCell, plan: &Plan, work: &Work, error: &StoreError) {
    let dispatcher = &worker.dispatcher;
    tracing::error!(%error, webhook = %plan.webhook.id, event = work.event, "the event can't be read; trying again");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    if let Some(host) = &plan.host {
        dispatcher.poke(host.leave());
    }
    dispatcher.poke(dispatcher.all.leave());
    {
        let mut lane = cell.lane();
        let row = work.row.map(|(key, _)| key).or_else(|| lane.row_of(work.event));
        lane.settle(work.event);
        match row {
            Some(key) => lane.note_queued(key),
            None => lane.push_fresh(work.event, None),
        }
    }
    dispatcher.attempt_settled();
    worker.pump(plan.webhook.no);
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
    event: &Event,
    number: AttemptNumber,
    previous: u64,
    at_ms: u64,
    duration: std::time::Duration,
    exchange: Exchange,
    verdict: Verdict,
) -> Attempt {
    let (class, mut error) = exchange.failure.map_or((None, String::new()), |f| (Some(f.class), f.detail));
    if error.len() > ERROR_BYTES_MAX {
        error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
    }
    Attempt {
        event: event.seq,
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

fn log(plan: &Plan, event: &Event, attempt: &Attempt) {
    if attempt.class.is_some() {
        tracing::info!(
            webhook = %plan.webhook.id,
            event = %event.id,
            attempt = attempt.number,
            class = attempt.class.map(Class::as_str),
            status = attempt.status,
            error = attempt.error,
            verdict = ?attempt.verdict,
            "an attempt failed"
        );
    }
}
