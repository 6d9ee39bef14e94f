//! A webhook: one registered receiver. Versions of it append; the newest is in force.

use serde::{Deserialize, Serialize};

use super::event::is_event_type;
use super::id::{Seq, TenantNo, WebhookId, WebhookNo};
use super::secret::Secret;
use crate::clock::Millis;

/// The vendor shape that a webhook was registered in: decides the body it gets, its signature header, its time-out and plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dialect {
    Lemon,
    Omnia,
    Vibe,
    OneMetric,
}

impl Dialect {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lemon => "lemon",
            Self::Omnia => "omnia",
            Self::Vibe => "vibe",
            Self::OneMetric => "onemetric",
        }
    }
}

/// What stands in place of a URL where deliveries go down a stream that the receiver holds open. No URL that can be registered
/// reads so.
pub const STREAM_URL: &str = "stream:";

/// Which event types a webhook wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// `*`
    All,
    /// `order.*`: every type that starts with `order.` (the dot is kept here).
    Prefix(String),
    /// One exact type, or every type that the catalogue announces on the Omnia channel of this name.
    Exact(String),
}

impl Filter {
    /// Reads `*`, `prefix.*` or an exact type.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Some(stem) = text.strip_suffix(".*") {
            return is_event_type(stem).then(|| Self::Prefix(format!("{stem}.")));
        }
        is_event_type(text).then(|| Self::Exact(text.to_owned()))
    }

    /// Whether an event of this type, announced on this Omnia channel, is wanted.
    #[must_use]
    pub fn matches(&self, kind: &str, channel: Option<&str>) -> bool {
        match self {
            // Operational events reach only those who name them: a plain `*` means the platform's own events.
            Self::All => !kind.starts_with(super::event::RESERVED_PREFIX),
            Self::Prefix(prefix) => kind.starts_with(prefix.as_str()),
            Self::Exact(exact) => kind == exact || channel == Some(exact.as_str()),
        }
    }

    /// As it was registered.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::All => "*".to_owned(),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::Exact(exact) => exact.clone(),
        }
    }
}

/// A secret that signs, and until when: the newest has no end, an older one signs along while receivers change over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningSecret {
    pub secret: Secret,
    pub until: Option<Millis>,
}

/// Why a webhook gets nothing at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InactiveReason {
    /// Its owner switched it off.
    Owner,
    /// It answered 410.
    Gone,
    /// No success for days.
    Failing,
}

impl InactiveReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WebhookState {
    Active,
    Inactive { reason: InactiveReason, since: Millis },
    Deleted { at: Millis },
}

/// One version of a webhook. With its counts it fills 256 bytes, which is what the allocator would take for a few less.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub no: WebhookNo,
    pub id: WebhookId,
    pub tenant: TenantNo,
    /// The first event sequence number that this version decides about.
    pub since_seq: Seq,
    pub dialect: Dialect,
    pub url: String,
    pub filters: Vec<Filter>,
    pub state: WebhookState,
    /// Sent with every delivery, names as registered.
    pub headers: Vec<(String, Secret)>,
    /// Newest first, never empty.
    pub secrets: Vec<SigningSecret>,
    pub plan: Option<String>,
    pub timeout_ms: Option<u32>,
    pub max_in_flight: Option<u32>,
    /// Deliveries per second.
    pub rate_limit: Option<f64>,
    pub description: Option<Box<str>>,
    pub created_ms: Millis,
    pub updated_ms: Millis,
}

const _: () = assert!(size_of::<Webhook>() + 2 * size_of::<usize>() <= 256);

impl Webhook {
    /// One with nothing but what it must have: active, of the first dialect. The store gives its number and when it begins.
    #[must_use]
    pub fn new(tenant: TenantNo, id: WebhookId, url: String, filters: Vec<Filter>, secret: Secret) -> Self {
        Self {
            no: 0,
            id,
            tenant,
            since_seq: 0,
            dialect: Dialect::Lemon,
            url,
            filters,
            state: WebhookState::Active,
            headers: Vec::new(),
            secrets: vec![SigningSecret { secret, until: None }],
            plan: None,
            timeout_ms: None,
            max_in_flight: None,
            rate_limit: None,
            description: None,
            created_ms: 0,
            updated_ms: 0,
        }
    }

    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == WebhookState::Active
    }

    #[must_use]
    pub fn is_deleted(&self) -> bool {
        matches!(self.state, WebhookState::Deleted { .. })
    }

    /// Whether deliveries go down a stream, and not to a URL; it lives as long as somebody holds that, and a little longer.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.url == STREAM_URL
    }

    #[must_use]
    pub fn wants(&self, kind: &str, channel: Option<&str>) -> bool {
        self.filters.iter().any(|filter| filter.matches(kind, channel))
    }

    /// The secrets that sign at `now`, newest first.
    pub fn secrets_at(&self, now: Millis) -> impl Iterator<Item = &Secret> {
        self.secrets.iter().filter(move |s| s.until.is_none_or(|until| now < until)).map(|s| &s.secret)
    }
}

#[cfg(test)]
impl Webhook {
    /// One that tests may change as they need it.
    pub fn sample(tenant: TenantNo, filters: Vec<Filter>) -> Self {
        let secret = Secret::new("a secret of a test".to_owned());
        Self::new(tenant, WebhookId([7; 16]), "https://example.com/".to_owned(), filters, secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let order = Filter::parse("order.*").unwrap();
        let matches = |filter: &str, kind| Filter::parse(filter).unwrap().matches(kind, Some("ORDERS"));
        assert!(matches("order.*", "order.updated") && !matches("order.*", "order") && !matches("order.*", "orders.x"));
        assert!(matches("*", "anything") && !matches("*", "webhookd.delivery.dead"));
        assert!(matches("webhookd.*", "webhookd.delivery.dead"));
        assert!(matches("ORDERS", "order.updated") && !matches("ORDER", "order.updated"));
        assert!(Filter::parse("ORDERS").unwrap().matches("ORDERS", None));
        assert!(!Filter::parse("ORDERS").unwrap().matches("order.updated", None));
        for bad in ["", "a b", "order.**", "*.created", ".*", &"x".repeat(129)] {
            assert_eq!(Filter::parse(bad), None, "{bad}");
        }
        assert_eq!(order.text(), "order.*");
    }
}
