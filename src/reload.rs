//! Signals, and reloading: SIGHUP reads configuration and certificates again and applies them, or keeps the old ones whole.

use std::path::PathBuf;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::clock::Clock;
use crate::config::{self, Config, Loaded, Problems};
use crate::daemon::Running;
use crate::http::certificates::Watched;
use crate::http::control::{Ask, Configured, NotDone, Reloaded, Setting};
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

/// Answers for the process: how it was started, what it runs with.
pub struct Reloader {
    file: Option<PathBuf>,
    /// What the last reload that was taken over has read, or the start.
    loaded: Loaded,
    /// What was read at the start: keys that take a restart stand as they did then.
    started: Config,
    dev: bool,
    log: LogHandle,
    certificates: Watched,
}

impl Reloader {
    /// `file`: as it was named at the start, if it was. `certificates`: as they were before they were read.
    #[must_use]
    pub fn new(file: Option<PathBuf>, loaded: Loaded, dev: bool, log: LogHandle, certificates: Watched) -> Self {
        let started = loaded.config.clone();
        Self { file, loaded, started, dev, log, certificates }
    }

    /// Reloads because of a signal.
    pub async fn obey_signal(&mut self, running: &Running) {
        let asker = Asker::of_actor(Actor::Signal, "config.reload");
        // It is in the log, and nobody waits for it.
        drop(self.reload_for(running, &asker).await);
    }

    /// Answers what was asked over the API.
    pub async fn answer(&mut self, running: &Running, ask: Ask) {
        // Whoever does not wait for the answer any more does without it.
        match ask {
            Ask::Reload(guard, answer) => {
                drop(answer.send(self.reload_for(running, &Asker::new(None, guard)).await));
            }
            Ask::Config(answer) => drop(answer.send(self.configured())),
            Ask::Log(level, guard, answer) => {
                drop(answer.send(self.log_at(running, &level, &Asker::new(None, guard)).await));
            }
        }
    }

    async fn log_at(&self, running: &Running, level: &str, asker: &Asker) -> Result<(), NotDone> {
        config::check_log_level(level).map_err(NotDone::Refused)?;
        self.log.set(level);
        tracing::info!(level, "what is logged was changed, until the next reload");
        put_on_record(running, asker).await
    }

    /// Reloads and puts that on record, whatever came of it.
    async fn reload_for(&mut self, running: &Running, asker: &Asker) -> Result<Reloaded, NotDone> {
        let outcome = self.reload(running);
        asker.came_to(if outcome.is_ok() { Audit::OK } else { Audit::REFUSED });
        put_on_record(running, asker).await?;
        outcome.map_err(NotDone::Refused)
    }

    fn configured(&self) -> Configured {
        let later = config::reload_scope(&self.started, &self.loaded.config);
        let started = Loaded::from(self.started.clone()).entries();
        let setting = |entry: config::Entry| {
            let origin = entry.origin.to_string();
            let old = started.iter().find(|old| old.key == entry.key && later.contains(&entry.key.as_str()));
            match old {
                Some(old) => {
                    Setting { key: entry.key, value: old.value.clone(), origin, after_restart: Some(entry.value) }
                }
                None => Setting { key: entry.key, value: entry.value, origin, after_restart: None },
            }
        };
        let file = self.loaded.file.as_ref().map(|file| file.display().to_string());
        Configured { file, settings: self.loaded.entries().into_iter().map(setting).collect() }
    }

    /// Reads everything again and applies it; on any problem all stays as it was.
    fn reload(&mut self, running: &Running) -> Result<Reloaded, String> {
        systemd::reloading();
        let outcome = self.try_reload(running);
        match &outcome {
            Ok(_) => {
                running.metrics.reload_success.set(1);
                tracing::info!("reloaded");
            }
            Err(why) => {
                running.metrics.reload_success.set(0);
                tracing::error!("not reloaded, the old configuration stays: {why}");
            }
        }
        systemd::ready();
        outcome
    }

    /// Takes over a certificate that has changed on disk; a pair that does not read leaves the old one in force.
    pub fn look_at_certificates(&mut self, running: &Running) {
        let config = running.config.load();
        let (Some(shared), Some(files)) = (&running.tls, config.server.tls.pair()) else { return };
        if !self.certificates.has_changed(files) {
            return;
        }
        self.certificates.note(files);
        let (cert, key) = (files.0.display(), files.1.display());
        match tls::reload(shared, files.0, files.1) {
            Ok(()) => {
                running.metrics.certificate_success.set(1);
                tracing::info!(%cert, %key, "the certificate has changed on disk and was taken over");
            }
            Err(error) => {
                running.metrics.certificate_success.set(0);
                tracing::error!(%error, %cert, %key, "the certificate has changed on disk and can't be used; the old one stays");
            }
        }
    }

    fn try_reload(&mut self, running: &Running) -> Result<Reloaded, String> {
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
        let new = loaded.config.clone();
        let restart_needed = config::reload_scope(&self.started, &new);
        // Everything that can fail comes before the first change. What is read from here on is news.
        let looked = Watched::of(new.server.tls.pair());
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
            self.certificates = looked;
            running.metrics.certificate_success.set(1);
        }
        if let Err(error) = running.resolver.reload() {
            tracing::warn!(error, "the resolver's configuration can't be read; the old one stays");
        }
        running.dispatcher.replace_settings(settings::dispatch(&new, plans.clone()));
        running.service.reload(settings::service(&new, catalogue, plans, running.egress.rules()));
        self.log.set(&new.log.level);
        for key in &restart_needed {
            tracing::warn!(key, "changed in the configuration, but takes a restart");
        }
        running.config.store(std::sync::Arc::new(new));
        self.loaded = loaded;
        Ok(Reloaded { restart_needed })
    }
}

async fn put_on_record(running: &Running, asker: &Asker) -> Result<(), NotDone> {
    running.service.sign_off(asker).await.map_err(|error| {
        tracing::error!(%error, "what was asked of the process can't be put on record");
        NotDone::Unrecorded(error)
    })
}
