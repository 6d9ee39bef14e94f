//! How the model's words are written to disk: one format byte, then postcard. Owns encoding only.
//!
//! A record's format byte lets one table hold old and new records side by side; an unknown byte is an error that names it,
//! never a guess.

mod keys;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::StoreError;
use super::op::Op;
use crate::clock::Millis;
use crate::model::attempt::{Attempt, DeadReason, Verdict};
use crate::model::event::{Event, OrderKey, order_of};
use crate::model::id::{EventId, JournalSeq, Seq, TenantId, TenantNo, WebhookId, WebhookNo};
use crate::model::key::Tenant;
use crate::model::secret::Secret;
use crate::model::webhook::{Dialect, Filter, SigningSecret, Webhook, WebhookState};
use crate::store::seal::Sealer;

pub use keys::{read_key, reseal_key, write_key};

const FORMAT: u8 = 1;

/// Appends `value` with its format byte to `out`.
pub fn write<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    out.push(FORMAT);
    // Writing to a Vec can't fail, and none of our records holds a type that postcard refuses.
    if postcard::serialize_with_flavor(value, Append(out)).is_err() {
        debug_assert!(false, "a record that postcard refuses");
    }
}

/// Where postcard writes: behind what is there, whole slices at a time.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// `value` as bytes.
pub fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write(&mut out, value);
    out
}

/// Reads what `write` wrote.
///
/// # Errors
/// `StoreError::Damaged` when the bytes are of another format or cut short.
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| StoreError::Damaged("a record does not read")),
        _ => Err(StoreError::Damaged("a record of an unknown format")),
    }
}

/// Bytes that postcard copies in one go instead of one by one.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Raw)
    }
}

#[derive(Serialize, Deserialize)]
struct EventRecord<'a> {
    id: [u8; 16],
    tenant: TenantNo,
    kind: &'a str,
    channel: Option<&'a str>,
    accepted_ms: Millis,
    created_us: u64,
    ordering_key: Option<&'a str>,
    #[serde(borrow)]
    data: Option<Raw<'a>>,
    #[serde(borrow)]
    context: Option<Raw<'a>>,
    #[serde(borrow)]
    user: Option<Raw<'a>>,
    matched: Cow<'a, [WebhookNo]>,
    test: bool,
}

/// Appends an event; its sequence number is its place in the log.
pub fn write_event(out: &mut Vec<u8>, event: &Event) {
    write(
        out,
        &EventRecord {
            id: event.id.0,
            tenant: event.tenant,
            kind: &event.kind,
            channel: event.channel.as_deref(),
            accepted_ms: event.accepted_ms,
            created_us: event.created_us,
            ordering_key: event.ordering_key.as_deref(),
            data: event.data.as_deref().map(Raw),
            context: event.context.as_deref().map(Raw),
            user: event.user.as_deref().map(Raw),
            matched: Cow::Borrowed(&event.matched),
            test: event.test,
        },
    );
}

/// Bytes of an event's record besides its texts, near enough.
const EVENT_BYTES: usize = 96;

/// Bytes of the records of what is published, near enough to cut blocks by.
#[must_use]
pub fn bytes_of(ops: &[Op]) -> usize {
    ops.iter().map(Op::published).map(|(events, bytes)| EVENT_BYTES * events + bytes).sum()
}

/// Bytes of an event's record, near enough to give it its place.
#[must_use]
pub fn event_bytes(event: &Event) -> usize {
    let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    EVENT_BYTES + event.kind.len() + part(&event.data) + part(&event.context) + part(&event.user) + event.matched.len()
}

/// Reads the event that stands at `seq`.
///
/// # Errors
/// `StoreError::Damaged`.
pub fn read_event(seq: Seq, bytes: &[u8]) -> Result<Event, StoreError> {
    let record: EventRecord<'_> = read(bytes)?;
    let part = |part: Option<Raw<'_>>| part.map(|raw| Bytes::copy_from_slice(raw.0));
    Ok(Event {
        seq,
        id: EventId(record.id),
        tenant: record.tenant,
        kind: record.kind.to_owned(),
        channel: record.channel.map(str::to_owned),
        accepted_ms: record.accepted_ms,
        created_us: record.created_us,
        ordering_key: record.ordering_key.map(str::to_owned),
        data: part(record.data),
        context: part(record.context),
        user: part(record.user),
        matched: record.matched.into_owned(),
        test: record.test,
    })
}

/// Whether an event matched a webhook.
///
/// # Errors
/// `StoreError::Damaged`.
pub fn is_matched(bytes: &[u8], webhook: WebhookNo) -> Result<bool, StoreError> {
    let record: EventRecord<'_> = read(bytes)?;
    Ok(record.matched.contains(&webhook))
}

/// An event's public id and its type.
///
/// # Errors
/// `StoreError::Damaged`.
pub fn read_event_name(bytes: &[u8]) -> Result<(EventId, String), StoreError> {
    let record: EventRecord<'_> = read(bytes)?;
    Ok((EventId(record.id), record.kind.to_owned()))
}

/// What decides whether an event was for a webhook, without copying the rest of it.
pub struct Brief<'a> {
    pub tenant: TenantNo,
    pub kind: &'a str,
    pub channel: Option<&'a str>,
    pub context: Option<&'a [u8]>,
    pub matched: Vec<WebhookNo>,
    pub test: bool,
}

/// Reads what a job needs of an event.
///
/// # Errors
/// `StoreError::Damaged`.
pub fn read_brief(bytes: &[u8]) -> Result<Brief<'_>, StoreError> {
    let EventRecord { tenant, kind, channel, context, matched, test, .. } = read(bytes)?;
    Ok(Brief { tenant, kind, channel, context: context.map(|raw| raw.0), matched: matched.into_owned(), test })
}

/// The line that an event stands in, without copying the rest of it.
///
/// # Errors
/// `StoreError::Damaged`.
pub fn read_order(bytes: &[u8]) -> Result<Option<OrderKey>, StoreError> {
    Ok(read::<EventRecord<'_>>(bytes)?.ordering_key.map(order_of))
}

/// One line of the journal: something that became of a delivery. `previous` chains the records of one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    Attempt(Attempt),
    /// The delivery got a row in the durable queue without an attempt: its lane was full, behind or closed.
    Queued {
        event: Seq,
        webhook: WebhookNo,
        previous: JournalSeq,
        due_ms: Millis,
    },
    /// It died without an attempt.
    Died {
        event: Seq,
        webhook: WebhookNo,
        previous: JournalSeq,
        at_ms: Millis,
        reason: DeadReason,
    },
    /// Someone asked for it again: redriven from the dead letters or resent; a new budget begins.
    Revived {
        event: Seq,
        webhook: WebhookNo,
        previous: JournalSeq,
        at_ms: Millis,
        attempts: u32,
    },
    /// Its dead letter was deleted, or it was cancelled.
    Dropped {
        event: Seq,
        webhook: WebhookNo,
        previous: JournalSeq,
        at_ms: Millis,
    },
}

impl Entry {
    #[must_use]
    pub fn event(&self) -> Seq {
        match self {
            Self::Attempt(attempt) => attempt.event,
            Self::Queued { event, .. }
            | Self::Died { event, .. }
            | Self::Revived { event, .. }
            | Self::Dropped { event, .. } => *event,
        }
    }

    #[must_use]
    pub fn webhook(&self) -> WebhookNo {
        match self {
            Self::Attempt(attempt) => attempt.webhook,
            Self::Queued { webhook, .. }
            | Self::Died { webhook, .. }
            | Self::Revived { webhook, .. }
            | Self::Dropped { webhook, .. } => *webhook,
        }
    }

    #[must_use]
    pub fn previous(&self) -> JournalSeq {
        match self {
            Self::Attempt(attempt) => attempt.previous,
            Self::Queued { previous, .. }
            | Self::Died { previous, .. }
            | Self::Revived { previous, .. }
            | Self::Dropped { previous, .. } => *previous,
        }
    }

    /// When the delivery died with this, in wall time, if it did.
    #[must_use]
    pub fn died_ms(&self) -> Option<Millis> {
        match self {
            Self::Attempt(Attempt { verdict: Verdict::Dead(_), at_ms, duration_ms, .. }) => {
                Some(at_ms + u64::from(*duration_ms))
            }
            Self::Died { at_ms, .. } => Some(*at_ms),
            _ => None,
        }
    }

    /// When the delivery is due after this, if it is in the durable queue; with whether an attempt was made.
    #[must_use]
    pub fn queued(&self) -> Option<(bool, Millis)> {
        match self {
            Self::Attempt(Attempt { verdict: Verdict::RetryAt(due), .. }) => Some((true, *due)),
            Self::Queued { due_ms, .. } => Some((false, *due_ms)),
            Self::Revived { at_ms, .. } => Some((false, *at_ms)),
            _ => None,
        }
    }
}

/// What the durable queue keeps of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Attempts made in all.
    pub attempts: u32,
    /// Attempts that had been made when the present budget began.
    pub budget_from: u32,
    /// When the present budget began.
    pub since_ms: Millis,
    /// The delivery's newest journal record, 0 when it has none.
    pub previous: JournalSeq,
}

/// How a webhook stands. Counts are exact, written in the transaction that changes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Rows of the durable queue without and with an attempt.
    pub waiting: u64,
    pub started: u64,
    /// Deliveries that wait for another with their ordering key.
    pub held: u64,
    pub dead: u64,
    /// Failures in a row, over all deliveries.
    pub failures: u32,
    /// Wall time of the first of them, and when that was by the age clock, which no step of the clock moves, and none that is wrong at
    /// a start by more than three days.
    pub failing_since_ms: Option<Millis>,
    pub failing_from_ms: Option<Millis>,
    /// Wall time; written when something else is.
    pub last_success_ms: Option<Millis>,
    /// The newest warning of this row of failures: percent of the time until it is made inactive; 0: none yet.
    pub warned: u8,
    /// Deaths that no operational event has told of yet, and the newest of them.
    pub untold: u64,
    pub newest_death: Option<(Seq, DeadReason)>,
    /// Schedule time of the last event that told of deaths.
    pub told_ms: Option<Millis>,
}

impl Standing {
    /// Deliveries that are pending and not fresh.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.waiting + self.started + self.held
    }

    /// A success, or its owner's word: whatever failed before is over.
    pub fn forget_failures(&mut self) {
        (self.failures, self.warned) = (0, 0);
        (self.failing_since_ms, self.failing_from_ms) = (None, None);
    }
}

/// An idempotency record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub body_hash: [u8; 32],
    pub first: Seq,
    pub count: u32,
    pub at_ms: Millis,
}

#[derive(Serialize, Deserialize)]
struct WebhookRecord {
    id: [u8; 16],
    tenant: TenantNo,
    dialect: Dialect,
    url: String,
    filters: Vec<Filter>,
    state: WebhookState,
    /// Sealed `Hidden`.
    hidden: Vec<u8>,
    plan: Option<String>,
    timeout_ms: Option<u32>,
    max_in_flight: Option<u32>,
    rate_limit: Option<f64>,
    description: Option<String>,
    created_ms: Millis,
    updated_ms: Millis,
}

#[derive(Serialize, Deserialize)]
struct Hidden {
    headers: Vec<(String, Secret)>,
    secrets: Vec<SigningSecret>,
}

/// A webhook version as bytes, what is secret in it sealed.
pub fn write_webhook(webhook: &Webhook, sealer: &Sealer) -> Vec<u8> {
    let hidden = to_bytes(&Hidden { headers: webhook.headers.clone(), secrets: webhook.secrets.clone() });
    to_bytes(&WebhookRecord {
        id: webhook.id.0,
        tenant: webhook.tenant,
        dialect: webhook.dialect,
        url: webhook.url.clone(),
        filters: webhook.filters.clone(),
        state: webhook.state,
        hidden: sealer.seal(&webhook.id.0, hidden),
        plan: webhook.plan.clone(),
        timeout_ms: webhook.timeout_ms,
        max_in_flight: webhook.max_in_flight,
        rate_limit: webhook.rate_limit,
        description: webhook.description.as_deref().map(str::to_owned),
        created_ms: webhook.created_ms,
        updated_ms: webhook.updated_ms,
    })
}

/// Reads a webhook version.
///
/// # Errors
/// `StoreError::Damaged` when it does not read, or was sealed with another key.
pub fn read_webhook(no: WebhookNo, since_seq: Seq, bytes: &[u8], sealer: &Sealer) -> Result<Webhook, StoreError> {
    let record: WebhookRecord = read(bytes)?;
    let opened = sealer.open(&record.id, &record.hidden)?;
    let hidden: Hidden = read(&opened)?;
    Ok(Webhook {
        no,
        id: WebhookId(record.id),
        tenant: record.tenant,
        since_seq,
        dialect: record.dialect,
        url: record.url,
        filters: record.filters,
        state: record.state,
        headers: hidden.headers,
        secrets: hidden.secrets,
        plan: record.plan,
        timeout_ms: record.timeout_ms,
        max_in_flight: record.max_in_flight,
        rate_limit: record.rate_limit,
        description: record.description.map(String::into_boxed_str),
        created_ms: record.created_ms,
        updated_ms: record.updated_ms,
    })
}

/// The same webhook version, sealed with another key.
///
/// # Errors
/// As `read_webhook`.
pub fn reseal_webhook(bytes: &[u8], old: &Sealer, new: &Sealer) -> Result<Vec<u8>, StoreError> {
    let record: WebhookRecord = read(bytes)?;
    let hidden = new.seal(&record.id, old.open(&record.id, &record.hidden)?);
    Ok(to_bytes(&WebhookRecord { hidden, ..record }))
}

#[derive(Serialize, Deserialize)]
struct TenantRecord {
    id: String,
    name: Option<String>,
    plan: Option<String>,
    created_ms: Millis,
}

pub fn write_tenant(tenant: &Tenant) -> Vec<u8> {
    to_bytes(&TenantRecord {
        id: tenant.id.as_str().to_owned(),
        name: tenant.name.clone(),
        plan: tenant.plan.clone(),
        created_ms: tenant.created_ms,
    })
}

/// # Errors
/// `StoreError::Damaged`.
pub fn read_tenant(no: TenantNo, bytes: &[u8]) -> Result<Tenant, StoreError> {
    let record: TenantRecord = read(bytes)?;
    let id = TenantId::parse(&record.id).ok_or(StoreError::Damaged("a tenant's id does not read"))?;
    Ok(Tenant { no, id, name: record.name, plan: record.plan, created_ms: record.created_ms })
}
