//! `serve`: the daemon from its start to its end, on signals and on what is asked of the process over the API.

use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc::Receiver;

use super::check::{judged, refused};
use super::{CANT_CREATE, ConfigFile, Failure, REFUSED, SYSTEM, TRY_AGAIN, last_words};
use crate::config::Loaded;
use crate::daemon::{self, Running, StartError};
use crate::http::certificates::Watched;
use crate::http::control::{Ask, Control};
use crate::limits::{CERTIFICATE_LOOK_EVERY, START_EXTENDED_MAX};
use crate::pulse::Pulse;
use crate::store::open::{OpenError, STORE_FILE};
use crate::store::seal::KeyFileError;
use crate::{dev, logs, reload, systemd};

#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// Try it out: scratch state, a certificate authority made on the spot, loopback receivers, a demo tenant with keys.
    /// Not for production.
    #[arg(long)]
    dev: bool,
}

impl Serve {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut loaded = self.file.load().map_err(refused)?;
        let scratch = self.dev.then(|| dev::Scratch::prepare(&mut loaded.config)).transpose();
        let scratch = scratch.map_err(|error| {
            let code = if matches!(error, dev::DevError::Running(_)) { TRY_AGAIN } else { CANT_CREATE };
            Failure::new(code, error.to_string())
        })?;
        let loaded = judged(loaded, Loaded::check_serve).map_err(refused)?;
        // Before there is a second thread.
        let handed = systemd::handed_over();
        let log = logs::start(&loaded.config.log);
        let signals = reload::hold_signals().map_err(|error| {
            tracing::error!(%error, "signals can't be taken");
            Failure::told(SYSTEM)
        })?;
        daemon::raise_descriptor_limit();
        let (control, asked) = Control::channel();
        let certificates = Watched::of(loaded.config.server.tls.pair());
        let starting = systemd::Starting::begin(START_EXTENDED_MAX);
        last_words::prepare(loaded.config.state_dir.join(STORE_FILE), REFUSED, last_words::is_redbs);
        let started = handed.map_err(StartError::from).and_then(|handed| {
            let bound = daemon::build(&loaded)?.bind(handed)?;
            announce(&bound);
            bound.run(control)
        });
        drop(starting);
        let running = started.map_err(|error| {
            tracing::error!(%error, "webhookd does not start");
            Failure::told(code(&error))
        })?;
        if let Some(scratch) = &scratch
            && let Err(error) = running.admin().block_on(scratch.introduce(&running))
        {
            tracing::error!(%error, "the demo tenant can't be set up");
            return Err(Failure::told(SYSTEM));
        }
        let reloader = reload::Reloader::new(self.file.config.clone(), loaded, scratch.is_some(), log, certificates);
        supervise(running, signals, asked, reloader)
    }
}

fn announce(bound: &daemon::Bound) {
    for (address, tls) in &bound.addresses {
        tracing::info!(%address, tls, "listening");
    }
    tracing::info!(socket = %bound.admin_socket.display(), "administration");
}

/// Waits for signals, and for what is asked over the API, and does it.
fn supervise(
    running: Running,
    signals: reload::Held,
    mut asked: Receiver<Ask>,
    mut reloader: reload::Reloader,
) -> Result<(), Failure> {
    let ended = running.admin().block_on(async {
        let mut signals = match signals.attend() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals can't be taken");
                return Err(SYSTEM);
            }
        };
        let pulse = Pulse::new(running.store().clone(), running.workers(), running.metrics.clone());
        let pulse = tokio::spawn(pulse.keep(systemd::watchdog()));
        systemd::ready();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        let mut watch = tokio::time::interval(Duration::from_secs(1));
        let mut certificates = tokio::time::interval(CERTIFICATE_LOOK_EVERY);
        let ended = loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    reload::Signal::Reload => reloader.obey_signal(&running).await,
                    reload::Signal::Stop => break Ok(()),
                },
                Some(ask) = asked.recv() => reloader.answer(&running, ask).await,
                _ = certificates.tick() => reloader.look_at_certificates(&running),
                _ = watch.tick() => {
                    if let Some(thread) = running.failed_thread() {
                        tracing::error!(thread, "a thread that must run has ended; stopping");
                        break Err(if running.store().is_damaged() { REFUSED } else { SYSTEM });
                    }
                }
            }
        };
        pulse.abort();
        ended
    });
    // Whoever still waits for an answer is told that there is none, and holds up no stop.
    drop(asked);
    systemd::stopping();
    tracing::info!("stopping: finishing what is under way");
    if running.drain() {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped; attempts that were cut off are tried again at the next start");
    }
    ended.map_err(Failure::told)
}

fn code(error: &StartError) -> u8 {
    match error {
        StartError::Store(error) => store_code(error),
        StartError::Tls(_)
        | StartError::Egress(_)
        | StartError::Catalogue(_)
        | StartError::Handover(_)
        | StartError::NoCertificate => REFUSED,
        StartError::Listen(_) | StartError::Thread(_) => SYSTEM,
    }
}

/// The exit code of a store that does not open.
pub(super) fn store_code(error: &OpenError) -> u8 {
    match error {
        OpenError::Folder { .. } | OpenError::Disk { .. } | OpenError::Key(KeyFileError::Write { .. }) => CANT_CREATE,
        OpenError::Locked(_) => TRY_AGAIN,
        OpenError::Refused { .. } | OpenError::Key(_) => REFUSED,
    }
}
