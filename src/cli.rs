//! The command line: one struct a subcommand. Owns exit codes and what is printed; the work is the rooms'.
//!
//! Exit codes: 0; 64 usage; 73 the state folder can't be created or written; 75 the store is locked by another process; 78
//! configuration or store refused; 71 for what the system denied (a port, a thread).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::clock::{Clock, Millis};
use crate::config::{self, Loaded, Problem, Problems};
use crate::daemon::{self, Running, StartError};
use crate::limits::START_EXTENDED_MAX;
use crate::pulse::Pulse;
use crate::store::open::OpenError;
use crate::store::seal::KeyFileError;
use crate::{dev, logs, reload, systemd};

const USAGE: u8 = 64;
const SYSTEM: u8 = 71;
const CANT_CREATE: u8 = 73;
const LOCKED: u8 = 75;
const REFUSED: u8 = 78;

/// A webhook sender in one binary: durable accept, signed delivery, retries, dead letters, every attempt on record.
#[derive(Parser)]
#[command(name = "webhookd", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(Serve),
    /// Check the configuration as `serve` would read it, and tell everything that is wrong with it at once.
    Check(Check),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file. Otherwise $WEBHOOKD_CONFIG, ./webhookd.toml or /etc/webhookd/webhookd.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// Try it out: scratch state, a certificate authority made on the spot, loopback receivers, a demo tenant with keys.
    /// Not for production.
    #[arg(long)]
    dev: bool,
}

#[derive(Args)]
struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Say nothing when all is well.
    #[arg(long)]
    quiet: bool,
}

/// Runs the command line; gives the process's exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors. A closed pipe leaves nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Version => {
            println!("webhookd {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

impl ConfigFile {
    fn load(&self) -> Result<Loaded, Problems> {
        config::load(self.config.as_deref(), config::environment())
    }
}

impl Check {
    fn run(&self) -> ExitCode {
        match self.file.load().and_then(|loaded| judged(loaded, Loaded::check)) {
            Ok(loaded) => {
                if !self.quiet {
                    let file = loaded.file.map_or("built-in defaults".to_owned(), |file| file.display().to_string());
                    println!("{file}: all is well");
                }
                ExitCode::SUCCESS
            }
            Err(problems) => {
                eprintln!("{problems}");
                ExitCode::from(REFUSED)
            }
        }
    }
}

/// The configuration, or everything that is wrong with the files that it names.
fn judged(loaded: Loaded, check: fn(&Loaded, Millis) -> Vec<Problem>) -> Result<Loaded, Problems> {
    let problems = check(&loaded, Clock::system().wall_ms());
    if problems.is_empty() { Ok(loaded) } else { Err(Problems(problems)) }
}

impl Serve {
    fn run(&self) -> ExitCode {
        let mut loaded = match self.file.load() {
            Ok(loaded) => loaded,
            Err(problems) => {
                eprintln!("{problems}");
                return ExitCode::from(REFUSED);
            }
        };
        let scratch = match self.dev.then(|| dev::Scratch::prepare(&mut loaded.config)).transpose() {
            Ok(scratch) => scratch,
            Err(error) => {
                eprintln!("webhookd: {error}");
                return ExitCode::from(CANT_CREATE);
            }
        };
        let loaded = match judged(loaded, Loaded::check_serve) {
            Ok(loaded) => loaded,
            Err(problems) => {
                eprintln!("{problems}");
                return ExitCode::from(REFUSED);
            }
        };
        // Before there is a second thread.
        let handed = systemd::handed_over();
        let log = logs::start(&loaded.config.log);
        let signals = match reload::hold_signals() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals can't be taken");
                return ExitCode::from(SYSTEM);
            }
        };
        daemon::raise_descriptor_limit();
        let starting = systemd::Starting::begin(START_EXTENDED_MAX);
        let started = handed.map_err(StartError::from).and_then(|handed| {
            let bound = daemon::build(&loaded)?.bind(handed)?;
            announce(&bound);
            bound.run()
        });
        drop(starting);
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "webhookd does not start");
                return ExitCode::from(code(&error));
            }
        };
        if let Some(scratch) = &scratch
            && let Err(error) = running.admin().block_on(scratch.introduce(&running))
        {
            tracing::error!(%error, "the demo tenant can't be set up");
            return ExitCode::from(SYSTEM);
        }
        let reloader = reload::Reloader::new(self.file.config.clone(), scratch.is_some(), log);
        supervise(running, signals, &reloader)
    }
}

fn announce(bound: &daemon::Bound) {
    for (address, tls) in &bound.addresses {
        tracing::info!(%address, tls, "listening");
    }
    tracing::info!(socket = %bound.admin_socket.display(), "administration");
}

/// Waits for signals and does what they ask for.
fn supervise(running: Running, signals: reload::Held, reloader: &reload::Reloader) -> ExitCode {
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
        let ended = loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    reload::Signal::Reload => reloader.reload(&running).await,
                    reload::Signal::Stop => break Ok(()),
                },
                _ = watch.tick() => {
                    if let Some(thread) = running.failed_thread() {
                        tracing::error!(thread, "a thread that must run has ended; stopping");
                        break Err(SYSTEM);
                    }
                }
            }
        };
        pulse.abort();
        ended
    });
    systemd::stopping();
    tracing::info!("stopping: finishing what is under way");
    if running.drain() {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped; attempts that were cut off are tried again at the next start");
    }
    ended.map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
}

fn code(error: &StartError) -> u8 {
    match error {
        StartError::Store(
            OpenError::Folder { .. } | OpenError::Disk { .. } | OpenError::Key(KeyFileError::Write { .. }),
        ) => CANT_CREATE,
        StartError::Store(OpenError::Locked(_)) => LOCKED,
        StartError::Store(OpenError::Refused { .. } | OpenError::Key(_))
        | StartError::Tls(_)
        | StartError::Egress(_)
        | StartError::Catalogue(_)
        | StartError::Handover(_)
        | StartError::NoCertificate => REFUSED,
        StartError::Listen(_) | StartError::Thread(_) => SYSTEM,
    }
}
