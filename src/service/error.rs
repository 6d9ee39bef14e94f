//! Why something that was asked did not happen, told apart by what the caller does next. Messages name the member and the
//! rule and never echo more than 64 bytes of what was sent.

use super::room::Full;
use crate::limits::ECHO_BYTES_MAX;
use crate::store::StoreError;
use crate::store::inbox::SubmitError;
use crate::store::op::Refusal;

/// When it may be worth asking again whether a tenant's backlog has room.
const BACKLOG_RETRY_AFTER_S: u64 = 5;

/// When it may be worth asking again whether there is room: retention looks every minute, and at once when there is none.
const ROOM_RETRY_AFTER_S: u64 = 10;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Understood, and against a rule: change the request.
    #[error("{message}")]
    Invalid { code: &'static str, message: String },
    /// Not to be read at all.
    #[error("{0}")]
    Malformed(&'static str),
    /// More than is taken at a time.
    #[error("an event may have {max} bytes")]
    TooLarge { max: usize },
    #[error("{0}")]
    Forbidden(&'static str),
    /// Not there, or somebody else's.
    #[error("not found")]
    NotFound,
    /// A signed request that was accepted before: its signature opens nothing any more.
    #[error("the signed request was accepted before")]
    Replayed,
    /// Against the present state of things.
    #[error("{message}")]
    Conflict { code: &'static str, message: &'static str },
    #[error("too many events in this time; slow down")]
    RateLimited { retry_after_s: u64 },
    #[error("the tenant has as many deliveries pending as it may have; try again when some are through")]
    BacklogFull { retry_after_s: u64 },
    /// Ask again later. What was under way may have happened.
    #[error("the store can't take this now; try again")]
    Unavailable { retry_after_s: u64 },
    /// There is no room for more; what is accepted already goes on.
    #[error("{message}")]
    Full { code: &'static str, message: &'static str, retry_after_s: u64 },
    /// What this needs of the store is not as it was written; the log says where.
    #[error("a part of the store that this needs is damaged; the operator finds in the log where")]
    Damaged,
    /// Nothing that the caller can mend; the log says what.
    #[error("internal error")]
    Internal,
}

impl From<Full> for Error {
    fn from(full: Full) -> Self {
        let (code, message) = match full {
            Full::Budget => ("disk_budget", "the store has used up its disk budget; nothing was accepted"),
            Full::Disk => ("disk_full", "the store's disk is nearly full; nothing was accepted"),
        };
        Self::Full { code, message, retry_after_s: ROOM_RETRY_AFTER_S }
    }
}

/// A request that breaks the rule of one member.
pub fn invalid_field(message: impl Into<String>) -> Error {
    Error::Invalid { code: "invalid_field", message: message.into() }
}

/// At most `ECHO_BYTES_MAX` of what was sent, for a message.
#[must_use]
pub fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(ECHO_BYTES_MAX)]
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Overloaded => Self::Unavailable { retry_after_s: 1 },
            // The store says where it met damage.
            StoreError::Damaged(_) | StoreError::DamagedAt { .. } => Self::Damaged,
            StoreError::WrongKey => {
                tracing::error!(%error, "a read failed");
                Self::Internal
            }
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NotFound,
            Refusal::UnknownTenant => unknown_tenant(),
            Refusal::IdempotencyConflict => Self::Invalid {
                code: "idempotency_conflict",
                message: "Idempotency-Key was used with another body".to_owned(),
            },
            Refusal::QuotaExceeded => {
                Self::Conflict { code: "quota_exceeded", message: "the tenant has as many webhooks as it may have" }
            }
            Refusal::Replayed => Self::Replayed,
            Refusal::BacklogFull => Self::BacklogFull { retry_after_s: BACKLOG_RETRY_AFTER_S },
            Refusal::TooManyJobs => Self::Conflict {
                code: "too_many_jobs",
                message: "as many jobs run as may; wait until one has ended, or cancel one",
            },
            Refusal::Pending => Self::Conflict { code: "pending", message: "a delivery of this event is pending" },
        }
    }
}

impl From<SubmitError> for Error {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => refusal.into(),
            SubmitError::Store(error) => error.into(),
        }
    }
}

/// A tenant that is not there, or whose name none could have.
#[must_use]
pub fn unknown_tenant() -> Error {
    Error::Invalid { code: "unknown_tenant", message: "tenant is unknown".to_owned() }
}
