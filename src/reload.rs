//! Signals, and reloading: SIGHUP reads configuration and certificates again and applies them, or keeps the old ones whole.

use std::path::PathBuf;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::clock::Clock;
use crate::config::{self, Problems};
use crate::daemon::Running;
use crate::http::tls;
use crate::logs::LogHandle;
use crate::model::audit::{Actor, Audit};
use crate::service::Asker;
use crate::{dev, settings, systemd};

/// What the process is asked to do.
pub enum Signal {
    Reload,
    Stop,
}

const SIGNALS: [i32; 3] = [SIGHUP, SIGTERM, SIGINT];

/// Signals from the start of the process on: kept until somebody attends to them. One that comes while the daemon starts
/// would otherwise end it on the spot.
pub struct Held(signal_hook::iterator::Signals);

/// The signals that the daemon takes, as they come.
pub struct Incoming {
    early: Vec<i32>,
    coming: Signals,
}

/// Begins to hold signals back.
///
/// # Errors
/// When the system refuses.
pub fn hold_signals() -> std::io::Result<Held> {
    signal_hook::iterator::Signals::new(SIGNALS).map(Held)
}

impl Held {
    /// Hands over what has come and what will come; called inside a runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn attend(mut self) -> std::io::Result<Incoming> {
        // One that comes between these two lines is told twice, which does no harm; none is lost.
        let coming = Signals::new(SIGNALS)?;
        Ok(Incoming { early: self.0.pending().collect(), coming })
    }
}

impl Incoming {
    pub async fn next(&mut self) -> Signal {
        let next = match self.early.pop() {
            Some(early) => Some(early),
            None => {
                let mut coming = std::pin::Pin::new(&mut self.coming);
                std::future::poll_fn(|context| futures_core::Stream::poll_next(coming.as_mut(), context)).await
            }
        };
        match next {
            Some(SIGHUP) => Signal::Reload,
            _ => Signal::Stop,
        }
    }
}

/// What reloading needs to know of how the daemon was started.
pub struct Reloader {
    file: Option<PathBuf>,
    dev: bool,
    log: LogHandle,
}

impl Reloader {
    #[must_use]
    pub fn new(file: Option<PathBuf>, dev: bool, log: LogHandle) -> Self {
        Self { file, dev, log }
    }

    /// Reads everything again and applies it; on any problem all stays as it was. Either is on record.
    pub async fn reload(&self, running: &Running) {
        systemd::reloading();
        let outcome = match self.try_reload(running) {
            Ok(()) => {
                running.metrics.reload_success.set(1);
                tracing::info!("reloaded");
                Audit::OK
            }
            Err(why) => {
                running.metrics.reload_success.set(0);
                tracing::error!("not reloaded, the old configuration stays: {why}");
                "refused"
            }
        };
        let asker = Asker::of_actor(Actor::Signal, "config.reload");
        asker.came_to(outcome);
        if let Err(error) = running.service.sign_off(&asker).await {
            tracing::error!(%error, "the reload can't be put on record");
        }
        systemd::ready();
    }

    fn try_reload(&self, running: &Running) -> Result<(), String> {
        let mut loaded =
            config::load(self.file.as_deref(), config::environment()).map_err(|problems| problems.to_string())?;
        let old = running.config.load_full();
        if self.dev {
            dev::keep(&old, &mut loaded.config);
        }
        let problems = loaded.check_serve(Clock::system().wall_ms());
        if !problems.is_empty() {
            return Err(Problems(problems).to_string());
        }
        let new = loaded.config;
        let later = config::reload_scope(&old, &new);
        // Everything that can fail comes before the first change.
        let certificates = match (&running.tls, new.server.tls.pair()) {
            (Some(shared), Some((cert, key))) => {
                Some((shared, tls::load(cert, key).map_err(|error| error.to_string())?))
            }
            _ => None,
        };
        let (catalogue, plans) = (settings::catalogue(&new)?, settings::plans(&new));
        running.egress.replace(settings::egress(&new)).map_err(|error| error.to_string())?;
        if let Some((shared, certificates)) = certificates {
            shared.store(std::sync::Arc::new(certificates));
        }
        if let Err(error) = running.resolver.reload() {
            tracing::warn!(error, "the resolver's configuration can't be read; the old one stays");
        }
        running.dispatcher.replace_settings(settings::dispatch(&new, plans.clone()));
        running.service.reload(settings::service(&new, catalogue, plans, running.egress.rules()));
        self.log.set(&new.log.level);
        for key in later {
            tracing::warn!(key, "changed in the configuration, but takes a restart");
        }
        running.config.store(std::sync::Arc::new(new));
        Ok(())
    }
}
