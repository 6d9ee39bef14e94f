//! Logs: what goes to standard error, and how. Owns the subscriber; what is logged is decided where it happens.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{Log, LogFormat};

/// Changes what is logged while running.
pub struct LogHandle(Handle<EnvFilter, Registry>);

/// Starts logging; called once.
#[must_use]
pub fn start(log: &Log) -> LogHandle {
    let (filter, handle) = reload::Layer::new(filter(&log.level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let terminal = std::io::stderr().is_terminal();
    let layer = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Auto if !terminal && !journal => lines.json().flatten_event(true).boxed(),
        // The journal has a clock of its own.
        LogFormat::Auto | LogFormat::Text if journal => lines.without_time().with_ansi(false).boxed(),
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

fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(level)
}
