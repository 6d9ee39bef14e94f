//! What can be asked of the writer, and what it answers. Plain data, so that a batch can be replayed.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::deaths::DeadLetter;
use super::room::Room;
use crate::clock::Millis;
use crate::limits::SLICED_FROM;
use crate::model::attempt::{Attempt, DeadReason};
use crate::model::audit::Audit;
use crate::model::event::{Event, OrderKey};
use crate::model::id::{EventId, JobId, JournalSeq, KeyId, Seq, TenantId, TenantNo, WebhookId, WebhookNo};
use crate::model::job::{Cursor, Job, JobState};
use crate::model::key::{Key, Tenant};
use crate::model::pause::Scope;
use crate::model::secret::Secret;
use crate::model::webhook::{Filter, InactiveReason, Webhook};

/// One change to the store. Each is decided and written whole or refused whole; all ops of a group share one transaction.
#[derive(Clone, Debug)]
pub enum Op {
    Accept(Accept),
    Outcome(Box<Outcome>),
    /// Fresh deliveries that get a row in the durable queue, due then, without an attempt on record.
    Spill {
        webhook: WebhookNo,
        events: Vec<Seq>,
        due_ms: Millis,
    },
    /// Fresh deliveries of a deleted webhook: nothing is written, they are only no longer waited for.
    Forget {
        webhook: WebhookNo,
        events: Vec<Seq>,
    },
    /// Deliveries without an attempt that have waited behind an open circuit since before `before_ms` die.
    Expire {
        webhook: WebhookNo,
        before_ms: Millis,
        max: usize,
    },
    CreateWebhook {
        draft: Box<Webhook>,
        quota: Quota,
    },
    /// The one webhook of the draft's dialect that its tenant has: made, or made active with the draft's URL.
    RegisterSole {
        draft: Box<Webhook>,
        quota: Quota,
    },
    UpdateWebhook {
        no: WebhookNo,
        patch: Box<WebhookPatch>,
    },
    DeleteWebhook {
        no: WebhookNo,
    },
    PutTenant {
        id: TenantId,
        /// `None`: as it is; `Some(None)`: removed.
        name: Option<Option<String>>,
        plan: Option<Option<String>>,
    },
    CreateKey(Box<Key>),
    RevokeKey(KeyId),
    /// A dead letter is tried again with a new budget.
    Redrive {
        webhook: WebhookNo,
        event: Seq,
    },
    /// A dead letter is thrown away.
    DropDead {
        webhook: WebhookNo,
        event: Seq,
    },
    /// An event is sent once more to webhooks where nothing is pending of it.
    Resend {
        event: Seq,
        webhooks: Vec<WebhookNo>,
    },
    /// An op with what is written beside it when it is accepted. When it is refused, nothing is.
    Guarded {
        guard: Guard,
        op: Box<Op>,
    },
    /// Removes small things that have served their time.
    Tidy(Tidy),
    /// One step of retention.
    Retain(Box<Retain>),
    /// Tells of deaths that were not told yet because another was told of less than a minute before.
    Tell,
    /// What is pending of an event for these webhooks is cancelled. An attempt under way may still end.
    Cancel {
        event: Seq,
        webhooks: Vec<WebhookNo>,
    },
    /// Nothing of this is delivered any more, or it goes on.
    Pause {
        scope: Scope,
        paused: bool,
    },
    /// A job begins, unless too many run. `activate`: the webhook that it is about is made active with it, so that every event
    /// is either the job's or delivered by itself.
    StartJob {
        draft: Box<Job>,
        activate: bool,
    },
    JobStep(Box<JobStep>),
    /// A tenant is there no more: its keys and webhooks go at once, and a job erases what it leaves.
    EraseTenant {
        id: TenantId,
        job: JobId,
    },
    /// A `JobStep` of an erasure. It is never logged: what it removes must not stand in the log, nor what it does hang on it.
    EraseStep(Box<JobStep>),
    /// A job goes no further; what it has done stays. One that has ended stays as it is.
    EndJob {
        id: JobId,
        end: JobState,
    },
    /// A backup was handed over whole at this wall time.
    BackedUp {
        at_ms: Millis,
    },
    /// A round trip through the writer: answered when everything before it is committed.
    Ping,
}

impl Op {
    /// How many events are published with it, and the bytes of their parts.
    #[must_use]
    pub fn published(&self) -> (usize, usize) {
        match self {
            Self::Accept(accept) => (accept.drafts.len(), accept.drafts.iter().map(Draft::bytes).sum()),
            Self::Guarded { op, .. } => op.published(),
            _ => (0, 0),
        }
    }
}

/// What `Op::Tidy` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tidy {
    /// Marks of minutes before this one.
    pub marks_before: u32,
    /// Audit records that have been kept since before.
    pub audit_before_ms: Millis,
    /// Pauses that ended before: they make no difference any more. Wall time.
    pub pauses_before_ms: Millis,
    /// At most so many of each, the oldest first; of pauses as they come.
    pub max: usize,
}

/// What one step of retention is to remove. Nothing that is pending is touched, nor what a dead letter needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retain {
    /// Blocks of the logs that end here or below.
    pub events_to: Seq,
    pub journal_to: JournalSeq,
    /// Dead letters, with their tenants.
    pub dead: Vec<(TenantNo, DeadLetter)>,
    /// Records that were kept although their blocks are gone, if nothing needs them any more.
    pub kept_events: Vec<Seq>,
    pub kept_journal: Vec<JournalSeq>,
    /// Idempotency records of days before this one.
    pub days_to: u32,
    /// Versions of webhooks that no event is judged by any more.
    pub versions: Vec<(WebhookNo, Seq)>,
    /// Deleted webhooks that nothing speaks of any more.
    pub webhooks: Vec<WebhookNo>,
    /// The store's room as it was measured, if it is to be written down.
    pub room: Option<Room>,
    /// Records of each log, and rows of each table, that this step takes: a block more at most.
    pub max: usize,
}

/// What a step of retention has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    pub events: u64,
    /// Records of the journal.
    pub journal: u64,
    pub dead_letters: u64,
    pub idempotency: u64,
    /// Rows that went with what they belonged to, and records that were kept until now.
    pub others: u64,
    /// Bytes of blocks.
    pub bytes: u64,
    /// The listings are being written, which comes before their part of the logs may go.
    pub flushing: bool,
    /// Nothing was removed: a backup holds the logs.
    pub held: bool,
}

/// What stands or falls with an op.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The op is refused when this mark is there already, and leaves it there when it is accepted.
    pub mark: Option<Mark>,
    pub audit: Option<Box<Audit>>,
}

/// The mark that a signed request leaves, so that it is accepted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of the timestamp that was signed: a repetition looks here, and the whole minute is forgotten at once when no
    /// timestamp in it can be accepted any more.
    pub minute: u32,
    /// Hash of key and signature.
    pub hash: [u8; 16],
}

/// Events to accept, all or none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Accept {
    pub drafts: Vec<Draft>,
    pub idempotency: Option<Idempotency>,
    /// Refused when a tenant that it would be queued for has this many deliveries pending already.
    pub pending_max: Option<u64>,
}

/// An event as published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Draft {
    /// 0: everybody's.
    pub tenant: TenantNo,
    pub kind: String,
    /// The Omnia channel that the catalogue announces the type on.
    pub channel: Option<String>,
    pub created_us: u64,
    pub ordering_key: Option<String>,
    pub data: Option<Bytes>,
    pub context: Option<Bytes>,
    pub user: Option<Bytes>,
    /// A test: the event goes to nobody by itself, whatever filters say; its sender delivers it at once.
    pub test: bool,
}

impl Draft {
    /// Data, context and user as their event holds them. Where deliveries wait for it, small ones are by themselves: slices would keep
    /// the whole batch that they came with.
    pub(super) fn parts(&self, is_awaited: bool) -> [Option<Bytes>; 3] {
        let held = |text: &Bytes| {
            let has_to_go = is_awaited && text.len() < SLICED_FROM / 2 && !text.is_unique();
            if has_to_go { Bytes::copy_from_slice(text) } else { text.clone() }
        };
        [&self.data, &self.context, &self.user].map(|part| part.as_ref().map(held))
    }

    /// Bytes of what is published.
    fn bytes(&self) -> usize {
        let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        self.kind.len() + part(&self.data) + part(&self.context) + part(&self.user)
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Idempotency {
    /// Hash of scope and key.
    pub hash: [u8; 16],
    /// SHA-256 of the request's body as sent.
    pub body_hash: [u8; 32],
}

/// Proof that something is durable; made by the writer after its commit, nowhere else.
#[derive(Clone, Debug)]
pub struct Receipt {
    events: Vec<Arc<Event>>,
    replayed: bool,
}

impl Receipt {
    pub(super) fn new(events: Vec<Arc<Event>>, replayed: bool) -> Self {
        Self { events, replayed }
    }

    /// The accepted events, in the order given.
    #[must_use]
    pub fn events(&self) -> &[Arc<Event>] {
        &self.events
    }

    /// Whether the same key and body were accepted before; then these are the events of then.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.replayed
    }
}

/// A job's next few deliveries, with the place that it has come to then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStep {
    pub id: JobId,
    /// Refused unless the job stands here: a step is made once.
    pub from: Cursor,
    /// `None`: that was all.
    pub to: Option<Cursor>,
    pub items: Vec<(WebhookNo, Seq)>,
}

/// Where a delivery's row stands in the durable queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowKey {
    pub started: bool,
    pub due_ms: Millis,
}

/// An attempt to record, with what follows from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub attempt: Attempt,
    /// The delivery's row, where it has one.
    pub row: Option<RowKey>,
    /// The line that its event stands in.
    pub order: Option<OrderKey>,
    pub budget_from: u32,
    pub since_ms: Millis,
    /// The webhook is made inactive with it.
    pub deactivate: Option<InactiveReason>,
    /// A test's only attempt: on record, but the webhook's standing and its queue know nothing of it.
    pub test: bool,
}

/// Bound on the live webhooks of a tenant, checked where no race can pass it.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub of_tenant: usize,
    /// Bound on those of the draft's own dialect.
    pub of_dialect: Option<usize>,
}

/// A change to a webhook; `None` leaves a member as it is.
#[derive(Clone, Debug, Default)]
pub struct WebhookPatch {
    pub url: Option<String>,
    pub filters: Option<Vec<Filter>>,
    pub active: Option<bool>,
    pub headers: Option<Vec<(String, Secret)>>,
    pub secret: Option<SecretChange>,
    pub plan: Option<Option<String>>,
    pub timeout_ms: Option<Option<u32>>,
    pub max_in_flight: Option<Option<u32>>,
    pub rate_limit: Option<Option<f64>>,
    pub description: Option<Option<String>>,
}

#[derive(Clone, Debug)]
pub enum SecretChange {
    /// The new one signs alone.
    Replace(Secret),
    /// The old one signs along until then.
    Rotate { new: Secret, old_until: Millis },
}

/// What became of an op, once it is durable.
#[derive(Clone, Debug)]
pub enum Done {
    Accepted(Receipt),
    Webhook(Arc<Webhook>),
    Tenant(Arc<Tenant>),
    Key(Arc<Key>),
    Job(Arc<Job>),
    /// How many deliveries it concerned.
    Count(usize),
    Retained(Retained),
    Nothing,
}

/// Why an op was refused; decided before its first write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such object")]
    NotFound,
    #[error("the tenant is unknown")]
    UnknownTenant,
    #[error("the idempotency key was used with another body")]
    IdempotencyConflict,
    #[error("the tenant has as many webhooks as it may have")]
    QuotaExceeded,
    #[error("a delivery of it is pending")]
    Pending,
    #[error("the signed request was accepted before")]
    Replayed,
    #[error("the tenant has as many deliveries pending as it may have")]
    BacklogFull,
    #[error("as many jobs run as may")]
    TooManyJobs,
}

/// What dispatch needs to know of a committed group.
#[derive(Debug, Default)]
pub struct Effects {
    /// New fresh deliveries.
    pub fresh: Vec<(WebhookNo, Arc<Event>)>,
    /// Deliveries whose permit may be given back: (webhook, event).
    pub settled: Vec<(WebhookNo, Seq)>,
    /// Rows that are new in the durable queue.
    pub queued: Vec<(WebhookNo, RowKey)>,
    /// Deliveries that are cancelled: no attempt of them may start any more.
    pub cancelled: Vec<(WebhookNo, Seq)>,
    /// How many deliveries have been cancelled with their webhook.
    pub dropped: u64,
    /// Webhooks with deliveries that have died of waiting, as asked.
    pub expired: Vec<WebhookNo>,
    /// Webhooks in their newest version.
    pub changed: Vec<Arc<Webhook>>,
    /// What is paused now, or goes on.
    pub pauses: Vec<Scope>,
    /// What died and why, for the log.
    pub died: Vec<(WebhookNo, Seq, DeadReason)>,
    /// What the engine reports, for the log.
    pub news: Vec<News>,
    /// Deaths are still to be told: a `Tell` is wanted, a minute from now at most.
    pub untold: bool,
}

/// What the engine reports of a webhook: an operational event, told to the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub kind: &'static str,
    pub webhook: WebhookId,
    /// The event whose delivery led to it.
    pub event: Option<EventId>,
    pub reason: &'static str,
    /// How many deliveries it is about, or failures in a row.
    pub count: u64,
}

impl Effects {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty()
            && self.settled.is_empty()
            && self.queued.is_empty()
            && self.cancelled.is_empty()
            && self.dropped == 0
            && self.expired.is_empty()
            && self.changed.is_empty()
            && self.pauses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_holds_no_batch() {
        let body = Bytes::from(vec![b'x'; 4 * SLICED_FROM]);
        let own = Draft { data: Some(Bytes::copy_from_slice(b"own")), ..Draft::default() };
        let lent = Draft { user: Some(body.slice(7..9)), data: Some(body.slice(..SLICED_FROM)), ..Draft::default() };
        let is_same = |draft: &Draft, is_awaited| {
            let [data, context, user] = draft.parts(is_awaited);
            assert_eq!((&data, &context, &user), (&draft.data, &draft.context, &draft.user));
            let at = |part: &Option<Bytes>| part.as_ref().map(|text| text.as_ptr());
            [at(&data) == at(&draft.data), at(&user) == at(&draft.user)]
        };
        assert_eq!(is_same(&own, true), [true, true]);
        assert_eq!(is_same(&lent, false), [true, true]);
        assert_eq!(is_same(&lent, true), [true, false], "most of a large body is its own");
    }

    #[test]
    fn what_a_panic_may_show_of_an_op_and_its_answer_holds_no_secret() {
        let secret = || Secret::new("canary".to_owned());
        let headers = vec![("X-Authorization".to_owned(), secret())];
        let mut draft = Webhook::sample(1, vec![Filter::All]);
        draft.secrets[0].secret = secret();
        draft.headers.clone_from(&headers);
        let (quota, kept) = (Quota { of_tenant: 1, of_dialect: None }, Arc::new(draft.clone()));
        let changes = [SecretChange::Replace(secret()), SecretChange::Rotate { new: secret(), old_until: 1 }];
        let patches = changes.map(|change| {
            let headers = Some(headers.clone());
            Box::new(WebhookPatch { headers, secret: Some(change), ..WebhookPatch::default() })
        });
        let made = Op::CreateWebhook { draft: Box::new(draft.clone()), quota };
        let sole = Op::RegisterSole { draft: Box::new(draft), quota };
        let guarded = Op::Guarded { guard: Guard::default(), op: Box::new(made.clone()) };
        let ops = patches.map(|patch| Op::UpdateWebhook { no: 1, patch }).into_iter().chain([made, sole, guarded]);
        let answer = format!("{:?}", Done::Webhook(kept));
        for shown in ops.map(|op| format!("{op:?} {op:#?}")).chain([answer]) {
            assert!(shown.contains("X-Authorization") && !shown.contains("canary"), "{shown}");
        }
    }
}
