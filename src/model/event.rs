//! An event: something that happened, accepted once, immutable.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::id::{EventId, Seq, TenantNo, WebhookNo};
use crate::clock::Millis;

/// An accepted event. `data`, `context` and `user` are JSON objects kept as the text they were published in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub seq: Seq,
    pub id: EventId,
    /// 0 for a broadcast.
    pub tenant: TenantNo,
    /// 1 to 128 of `[A-Za-z0-9_.-]`; empty when the event was erased.
    pub kind: String,
    /// The Omnia channel that announced its type when it was accepted; kept, so that every retry sends the same body.
    pub channel: Option<String>,
    /// When it was accepted, in schedule time; order and time bounds of listings follow the log, which rises with it.
    pub accepted_ms: Millis,
    /// When it happened, as the publisher says; microseconds since 1970.
    pub created_us: u64,
    pub ordering_key: Option<String>,
    pub data: Option<Bytes>,
    pub context: Option<Bytes>,
    pub user: Option<Bytes>,
    /// The webhooks it matched when it was accepted; rising.
    pub matched: Vec<WebhookNo>,
    /// A test: it goes to nobody by itself, whatever filters say.
    pub test: bool,
}

/// The line that events of one `ordering_key` stand in: the first 8 bytes of the key's SHA-256. Should two keys ever share
/// one, their events wait for each other.
pub type OrderKey = u64;

/// The line of an `ordering_key`.
#[must_use]
pub fn order_of(key: &str) -> OrderKey {
    let digest = Sha256::digest(key.as_bytes());
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

impl Event {
    /// How much was published: what of its texts is not bounded by a few hundred bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        [&self.data, &self.context, &self.user].into_iter().flatten().map(Bytes::len).sum()
    }

    /// The line that it stands in at each of its webhooks.
    #[must_use]
    pub fn order(&self) -> Option<OrderKey> {
        self.ordering_key.as_deref().map(order_of)
    }

    /// Whether it was erased with its tenant: it has its place in the log, and nobody sees it.
    #[must_use]
    pub fn is_erased(&self) -> bool {
        self.kind.is_empty()
    }

    /// The same without anything that was published: its place, its id, when it was accepted, and the numbers of whom it was for.
    #[must_use]
    pub fn erased(&self) -> Self {
        Self {
            seq: self.seq,
            id: self.id,
            tenant: self.tenant,
            kind: String::new(),
            channel: None,
            accepted_ms: self.accepted_ms,
            created_us: 0,
            ordering_key: None,
            data: None,
            context: None,
            user: None,
            matched: self.matched.clone(),
            test: self.test,
        }
    }

    /// What holding this event in memory costs, in bytes, near enough to budget with.
    #[must_use]
    pub fn weight(&self) -> usize {
        let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        size_of::<Self>()
            + self.kind.len()
            + self.channel.as_ref().map_or(0, String::len)
            + part(&self.data)
            + part(&self.context)
            + part(&self.user)
            + self.matched.len() * size_of::<WebhookNo>()
    }
}

/// Whether `kind` may name an event type.
#[must_use]
pub fn is_event_type(kind: &str) -> bool {
    (1..=128).contains(&kind.len())
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Types and the tenant that only the daemon itself publishes: operational news.
pub const RESERVED_PREFIX: &str = "webhookd.";
/// The tenant that operational events belong to.
pub const OPERATOR: &str = "operator";
