//! Logs: where they go, and how: to the journal with fields, to standard error as text or JSON. Owns the subscriber; what is logged
//! is decided where it happens.

mod journal;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{Log, LogFormat};
use crate::http::access;

/// Changes what is logged while running.
pub struct LogHandle(Handle<EnvFilter, Registry>);

/// Starts logging; called once.
#[must_use]
pub fn start(log: &Log) -> LogHandle {
    let (filter, handle) = reload::Layer::new(filter(&log.level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let is_journal = journal::is_ours();
    let terminal = std::io::stderr().is_terminal();
    let journal = (is_journal && log.format == LogFormat::Auto).then(journal::Journal::connect);
    let layer = match log.format {
        LogFormat::Auto if let Some(Ok(journal)) = journal => journal.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Auto if !terminal && !is_journal => lines.json().flatten_event(true).boxed(),
        // The journal has a clock of its own.
        LogFormat::Auto | LogFormat::Text if is_journal => lines.without_time().with_ansi(false).boxed(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(terminal).boxed(),
    };
    // A second start (in tests) keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    LogHandle(handle)
}

impl LogHandle {
    /// Takes over another level, which has been checked.
    pub fn set(&self, level: &str) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::error!(%error, "the log level can't be changed");
        }
    }
}

/// The access log has a switch of its own, whatever the level is.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(format!("{level},{}=info", access::TARGET))
}
