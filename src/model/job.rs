//! A job: something asked for many deliveries at once, done in small steps. Owns what it is about and how far it has come.
//!
//! Invariant: what it is about is bounded by what existed when it began (`bound`), and its cursor only moves on, so that it
//! ends whatever happens meanwhile.

use serde::{Deserialize, Serialize};

use super::id::{JobId, JournalSeq, Seq, TenantId, TenantNo, WebhookNo};
use crate::clock::Millis;

/// Where a job goes on: a tenant and a death, a webhook and an event, or the stage of an erasure and a place in it.
/// Everything before it was looked at.
pub type Cursor = (u32, u64);

/// What is to be done, and for which deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Dead letters are tried again.
    Redrive(Letters),
    /// Dead letters are thrown away.
    Purge(Letters),
    /// What a webhook has missed is queued for it.
    Recover(Recover),
    /// What a tenant that was deleted has left is erased.
    Erase(Erase),
}

/// Some of the dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letters {
    pub webhook: Option<WebhookNo>,
    /// The type of their events.
    pub kind: Option<String>,
    /// By time of death, both included.
    pub since_ms: Option<Millis>,
    pub until_ms: Option<Millis>,
}

/// Events of a webhook, by when they were accepted, both bounds included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recover {
    pub webhook: WebhookNo,
    pub only: Only,
    pub since_ms: Option<Millis>,
    pub until_ms: Option<Millis>,
}

/// A tenant that is there no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erase {
    pub tenant: TenantNo,
    /// What it was called: what the operator was told of it, and its audit records, name it by this.
    pub id: TenantId,
    /// Below these numbers stands what is on record of it; events have the job's bound.
    pub journal_below: JournalSeq,
    pub audit_below: u64,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Only {
    /// The dead letters.
    Failed,
    /// Those that its filter matched and that were not queued, because it was inactive.
    Missing,
    /// Both: what has not arrived.
    Unarrived,
    /// Also those that were delivered, once more.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    Running,
    Done,
    Cancelled,
    Failed(JobFailure),
}

/// Why a job can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobFailure {
    /// The webhook that it is about was deleted.
    WebhookGone,
    /// What it has to read in the store is damaged.
    Damaged,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    /// Whose deliveries; 0: those of all tenants, as the operator asked.
    pub tenant: TenantNo,
    pub task: Task,
    /// It is about deaths below this number of the journal, or events below this number of the log.
    pub bound: Seq,
    pub cursor: Cursor,
    /// How many deliveries were counted when it began; records of both logs, of which `done` were looked at, for an erasure.
    pub total: u64,
    pub done: u64,
    /// Found, but not in the state for it any more when their turn came.
    pub skipped: u64,
    /// Not to be read.
    pub failed: u64,
    pub state: JobState,
    /// Wall time.
    pub created_ms: Millis,
    pub changed_ms: Millis,
}

impl Task {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Redrive(_) => "redrive",
            Self::Purge(_) => "purge",
            Self::Recover(_) => "recover",
            Self::Erase(_) => "erase",
        }
    }

    /// The one webhook that it is about, if it is one.
    #[must_use]
    pub fn webhook(&self) -> Option<WebhookNo> {
        match self {
            Self::Redrive(letters) | Self::Purge(letters) => letters.webhook,
            Self::Recover(recover) => Some(recover.webhook),
            Self::Erase(_) => None,
        }
    }

    /// Where it begins.
    #[must_use]
    pub fn start(&self, tenant: TenantNo) -> Cursor {
        match self {
            Self::Erase(_) => (0, 0),
            _ => (self.webhook().unwrap_or(tenant), 0),
        }
    }

    /// Whether it ends only when it is done.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Erase(_))
    }
}

impl Only {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::Unarrived => "unarrived",
            Self::All => "all",
        }
    }
}

impl JobState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it failed.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Failed(JobFailure::WebhookGone) => Some("webhook_deleted"),
            Self::Failed(JobFailure::Damaged) => Some("store_damaged"),
            _ => None,
        }
    }
}

impl Job {
    /// A job that begins now; where its bound lies the store says.
    #[must_use]
    pub fn new(id: JobId, tenant: TenantNo, task: Task, total: u64) -> Self {
        let cursor = task.start(tenant);
        Self {
            id,
            tenant,
            task,
            bound: 0,
            cursor,
            total,
            done: 0,
            skipped: 0,
            failed: 0,
            state: JobState::Running,
            created_ms: 0,
            changed_ms: 0,
        }
    }
}
