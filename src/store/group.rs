//! A group as it stands in the write-ahead log. Owns which ops may stand there, and their encoding.
//!
//! Only what the hot path does is logged: events, outcomes, and what the daemon notes about them. Everything else, all that
//! holds a secret above all, takes a synced commit. What is logged is decided: refused ops are left out, so that applying a
//! group again depends on nothing but the group and the store as its predecessor left it.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::age::Age;
use super::erase;
use super::op::{Accept, Done, JobStep, Op, Outcome, Refusal};
use super::record;
use super::registry::Registry;
use crate::clock::{Clock, Millis};
use crate::limits::LOGGED_BYTES_MAX;
use crate::model::id::{JournalSeq, Seq, WebhookNo};

/// What a group was decided by, besides the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Schedule time.
    pub now: Millis,
    pub wall_ms: Millis,
    /// The clock of retention.
    pub aged_ms: Millis,
}

impl Moment {
    #[must_use]
    pub fn of(clock: &Clock, age: &Age) -> Self {
        let now = clock.now_ms();
        Self { now, wall_ms: clock.wall_ms(), aged_ms: age.at(now) }
    }
}

/// Where both logs stood before the group: (next event, next journal record). It fits nowhere else.
pub type Heads = (Seq, JournalSeq);

#[derive(Serialize)]
struct Written<'a> {
    moment: Moment,
    heads: Heads,
    ops: Vec<Logged<'a>>,
}

#[derive(Serialize)]
enum Logged<'a> {
    Accept(&'a Accept),
    Outcome(&'a Outcome),
    Spill { webhook: WebhookNo, events: &'a [Seq], due_ms: Millis },
    Forget { webhook: WebhookNo, events: &'a [Seq] },
    JobStep(&'a JobStep),
}

/// The same, read. The order of the variants is the format.
#[derive(Deserialize)]
struct Read {
    moment: Moment,
    heads: Heads,
    ops: Vec<Again>,
}

#[derive(Deserialize)]
enum Again {
    Accept(Accept),
    Outcome(Box<Outcome>),
    Spill { webhook: WebhookNo, events: Vec<Seq>, due_ms: Millis },
    Forget { webhook: WebhookNo, events: Vec<Seq> },
    JobStep(Box<JobStep>),
}

/// Whether a group of these may be logged. One that publishes much goes where it has to go anyway: in the log all of it would be
/// encoded, summed and written once more.
#[must_use]
pub fn may_log(ops: &[Op]) -> bool {
    let fits = |op: &Op| {
        matches!(op, Op::Accept(_) | Op::Outcome(_) | Op::Spill { .. } | Op::Forget { .. } | Op::JobStep(_) | Op::Ping)
    };
    ops.iter().all(fits) && ops.iter().map(|op| op.published().1).sum::<usize>() <= LOGGED_BYTES_MAX
}

/// A decided group as bytes: what was done of it.
pub fn write(
    out: &mut Vec<u8>,
    moment: Moment,
    heads: Heads,
    registry: &Registry,
    ops: &[Op],
    answers: &[Result<Done, Refusal>],
) {
    let blotted = erase::blotted(registry, ops);
    let ops = blotted.as_deref().unwrap_or(ops);
    let done = ops.iter().zip(answers).filter_map(|(op, answer)| match (op, answer) {
        (Op::Accept(accept), Ok(Done::Accepted(receipt))) if !receipt.replayed() => Some(Logged::Accept(accept)),
        (Op::Outcome(outcome), Ok(_)) => Some(Logged::Outcome(outcome)),
        (Op::Spill { webhook, events, due_ms }, Ok(_)) => {
            Some(Logged::Spill { webhook: *webhook, events, due_ms: *due_ms })
        }
        (Op::Forget { webhook, events }, Ok(_)) => Some(Logged::Forget { webhook: *webhook, events }),
        (Op::JobStep(step), Ok(_)) => Some(Logged::JobStep(step)),
        _ => None,
    });
    record::write(out, &Written { moment, heads, ops: done.collect() });
}

/// Reads what `write` wrote.
///
/// # Errors
/// `StoreError::Damaged`.
pub fn read(bytes: &[u8]) -> Result<(Moment, Heads, Vec<Op>), StoreError> {
    let Read { moment, heads, ops } = record::read(bytes)?;
    let op = |again| match again {
        Again::Accept(accept) => Op::Accept(accept),
        Again::Outcome(outcome) => Op::Outcome(outcome),
        Again::Spill { webhook, events, due_ms } => Op::Spill { webhook, events, due_ms },
        Again::Forget { webhook, events } => Op::Forget { webhook, events },
        Again::JobStep(step) => Op::JobStep(step),
    };
    Ok((moment, heads, ops.into_iter().map(op).collect()))
}
