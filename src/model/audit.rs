//! The audit log's words: who changed what, when and from where. Owns what a record may hold: names and ids, never a
//! secret, a URL or a body.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::id::KeyId;
use super::key::Role;
use crate::clock::Millis;

/// Who asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// Whoever may open the administration socket.
    Socket,
    Key {
        id: KeyId,
        role: Role,
    },
    /// Whoever may send the process a signal.
    Signal,
    /// The daemon by itself.
    Daemon,
}

/// A request that is on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Wall time; the store sets it.
    pub at_ms: Millis,
    /// Schedule time, from which its keeping counts: it rises with the records whatever the wall clock does. The store
    /// sets it.
    pub since_ms: Millis,
    pub actor: Actor,
    pub remote: Option<SocketAddr>,
    /// What was asked for, such as `webhook.create`.
    pub action: String,
    pub method: Option<String>,
    /// The route's path, its parameter as `{id}`.
    pub path: Option<String>,
    /// The tenant's id, `*` for all of them.
    pub tenant: Option<String>,
    /// The public id of what it is about.
    pub target: Option<String>,
    /// `ok`, or the code of what was answered instead.
    pub outcome: String,
    /// lemon's data privacy headers, as sent.
    pub principal: Option<String>,
    pub justification: Option<String>,
}

impl Audit {
    /// The outcome of what was done as asked.
    pub const OK: &'static str = "ok";
    /// The outcome of a reload that was not taken over.
    pub const REFUSED: &'static str = "refused";

    /// A record of something done by `actor`; the rest is the maker's to fill in.
    #[must_use]
    pub fn new(actor: Actor, action: &str) -> Self {
        Self {
            at_ms: 0,
            since_ms: 0,
            actor,
            remote: None,
            action: action.to_owned(),
            method: None,
            path: None,
            tenant: None,
            target: None,
            outcome: Self::OK.to_owned(),
            principal: None,
            justification: None,
        }
    }
}
