//! An attempt: one HTTP request made for a delivery, with what came of it and what follows from it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::id::{AttemptNumber, JournalSeq, Seq, WebhookNo};
use crate::clock::Millis;

/// How an attempt failed, told apart by where in the exchange it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// The name could not be resolved.
    Resolve,
    /// The address guard refused the target.
    Forbidden,
    /// No connection could be made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The exchange did not end in time.
    Timeout,
    /// What came back was not HTTP, or the connection broke in the middle.
    Protocol,
    /// A 3xx, which is never followed.
    Redirect,
    /// Any other status that is not 2xx.
    Status,
}

impl Class {
    pub const ALL: [Self; 8] = [
        Self::Resolve,
        Self::Forbidden,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Protocol,
        Self::Redirect,
        Self::Status,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Forbidden => "forbidden",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Redirect => "redirect",
            Self::Status => "status",
        }
    }
}

/// A failed exchange: its class decides, its detail is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: Class,
    pub detail: String,
}

/// What one exchange with a receiver came to, before any rule is applied to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// `None`: the receiver answered 2xx.
    pub failure: Option<Failure>,
    /// The status, when one was read.
    pub status: Option<u16>,
    /// `Retry-After` as sent, already read: milliseconds from the answer.
    pub retry_after_ms: Option<Millis>,
    /// The address that was dialled.
    pub remote: Option<SocketAddr>,
    /// The first bytes of the answer's body, at most `limits::EXCERPT_BYTES`, made printable.
    pub excerpt: String,
}

/// What follows from an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Delivered,
    /// Tried again when schedule time reaches this.
    RetryAt(Millis),
    Dead(DeadReason),
    /// A failure from which nothing follows: a test's, or of a delivery about which something else was decided meanwhile.
    Single,
}

/// Why a delivery waits in the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeadReason {
    /// Every retry of the policy was used.
    Exhausted,
    /// The receiver answered 410.
    Gone,
    /// It waited behind an open circuit for the whole span of its policy.
    CircuitExpired,
}

impl DeadReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "retries_exhausted",
            Self::Gone => "gone",
            Self::CircuitExpired => "circuit_expired",
        }
    }
}

/// An attempt as it stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub event: Seq,
    pub webhook: WebhookNo,
    pub number: AttemptNumber,
    /// The journal record of this delivery's attempt before this one; 0 when there was none.
    pub previous: JournalSeq,
    /// Wall time at which it started.
    pub at_ms: Millis,
    pub duration_ms: u32,
    /// `None`: success.
    pub class: Option<Class>,
    pub status: Option<u16>,
    pub error: String,
    pub remote: Option<SocketAddr>,
    pub excerpt: String,
    pub verdict: Verdict,
}

impl Attempt {
    /// The same without what the receiver answered, and from where: its place, its time, and what followed from it.
    #[must_use]
    pub fn erased(&self) -> Self {
        let (error, excerpt) = (String::new(), String::new());
        Self { class: None, status: None, error, remote: None, excerpt, ..*self }
    }

    /// Whether nothing of that is left.
    #[must_use]
    pub fn is_erased(&self) -> bool {
        self.class.is_none()
            && self.status.is_none()
            && self.remote.is_none()
            && self.error.is_empty()
            && self.excerpt.is_empty()
    }
}
