//! What the API asks of the process that it runs in: to read its configuration again, to show it, to log more or less. Owns
//! the questions; they are answered one after the other by whoever also attends to signals, so that no two reloads meet.
//!
//! A question that changes something takes along what is to be put on record with it: whoever makes the change writes that,
//! also when the client has gone away meanwhile.

use tokio::sync::{mpsc, oneshot};

use crate::limits::CONTROL_ASKED_MAX;
use crate::service::Error;
use crate::store::op::Guard;

/// A question, with where its answer goes.
pub enum Ask {
    /// Read configuration and certificates again.
    Reload(Guard, oneshot::Sender<Result<Reloaded, NotDone>>),
    /// Show the configuration in force.
    Config(oneshot::Sender<Configured>),
    /// Log at this level from now on.
    Log(String, Guard, oneshot::Sender<Result<(), NotDone>>),
}

/// Why something that was asked of the process is not answered with yes.
#[derive(Debug)]
pub enum NotDone {
    /// The rules that it breaks; everything is as it was.
    Refused(String),
    /// It can't be put on record.
    Unrecorded(Error),
}

/// A reload that was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that were changed and take a restart.
    pub restart_needed: Vec<&'static str>,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// The file that was read, if any.
    pub file: Option<String>,
    pub settings: Vec<Setting>,
}

/// One key of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Dotted.
    pub key: String,
    /// As TOML.
    pub value: String,
    /// A file and line, a variable, or `default`.
    pub origin: String,
    /// What it will be when the daemon is started again, for a key that was changed and takes a restart.
    pub after_restart: Option<String>,
}

/// Where questions are asked; cheap to clone.
#[derive(Clone)]
pub struct Control(mpsc::Sender<Ask>);

impl Control {
    /// With the end at which the questions come out.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(CONTROL_ASKED_MAX);
        (Self(sender), receiver)
    }

    /// Asks and waits for the answer; `None` when nobody answers any more, because the daemon stops.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.0.send(question(sender)).await.ok()?;
        answer.await.ok()
    }
}
