//! The command line: one struct a subcommand. Owns exit codes and what is printed; the work is the rooms'.
//!
//! Exit codes: 0; 1 no (a signature that does not fit, a request that the daemon refuses, something for `doctor` to name);
//! 64 usage; 69 the daemon can't be reached; 71 what the system denied (a port, a file); 73 the state folder can't be
//! created or written; 75 try again (the store is locked by another process, the daemon has too much to do); 78
//! configuration or store refused.

mod access;
mod backup;
mod check;
mod client;
mod doctor;
mod inspect;
mod jobs;
mod last_words;
mod listen;
mod owner;
mod pages;
mod pause;
mod print;
mod reload;
mod reseal;
mod restore;
mod retention;
mod send;
mod serve;
mod signing;
mod status;
mod store;
mod tail;
mod webhooks;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Loaded, Problems};

const NO: u8 = 1;
const USAGE: u8 = 64;
const UNREACHABLE: u8 = 69;
const SYSTEM: u8 = 71;
const CANT_CREATE: u8 = 73;
const TRY_AGAIN: u8 = 75;
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
    Serve(serve::Serve),
    /// Check the configuration as `serve` would read it, and tell everything that is wrong with it at once.
    Check(check::Check),
    /// Show the configuration.
    #[command(subcommand)]
    Config(check::Config),
    /// Have the daemon read its configuration and certificates again; it takes over all of it, or nothing and says why.
    Reload(reload::Reload),
    /// Show how the daemon stands.
    Status(status::Status),
    /// Look for trouble, and name the command that mends it.
    Doctor(doctor::Doctor),
    /// Tenants: list, show, make or change.
    #[command(subcommand)]
    Tenants(access::Tenants),
    /// Access keys: list, create, revoke.
    #[command(subcommand)]
    Keys(access::Keys),
    /// List the webhooks of all tenants; of one: what is pending, how it did, a test, what it has missed.
    Webhooks(webhooks::Webhooks),
    /// Tell everything that is known of an event's fate, for every webhook of its tenant.
    Explain(inspect::Explain),
    /// Cancel what is pending of an event.
    Cancel(inspect::Cancel),
    /// Hold up deliveries: all, a tenant's, those to a host, a webhook's. What is accepted meanwhile waits.
    Pause(pause::Pause),
    /// Let go what was paused.
    Resume(pause::Pause),
    /// List what is paused.
    Pauses(pause::Pauses),
    /// Dead letters: list a tenant's; many at once: try them again, throw them away.
    #[command(subcommand)]
    DeadLetters(jobs::DeadLetters),
    /// Jobs, which do something for many deliveries at once: list, show, cancel.
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// What is kept, and for how long: remove now what has served its time.
    #[command(subcommand)]
    Retention(retention::Retention),
    /// The store's file: check it, compact it; while no daemon has it open.
    #[command(subcommand)]
    Store(store::Store),
    /// List who changed what, the newest first.
    Audit(inspect::Audit),
    /// Publish an event.
    Send(send::Send),
    /// Show attempts as they are made.
    Tail(tail::Tail),
    /// Receive on a machine without a public address: deliveries come down a stream and go on to a local URL.
    Listen(listen::Listen),
    /// Copy the store while the daemon serves.
    Backup(backup::Backup),
    /// Make a store from a backup, in a state folder that has none.
    Restore(restore::Restore),
    /// Seal the secrets in the store of a stopped daemon with a new key.
    Reseal(reseal::Reseal),
    /// Compute the signature headers of a body.
    Sign(signing::Sign),
    /// Verify the signature of a body.
    Verify(signing::Verify),
    /// Print a script that completes this command line in a shell.
    Completions(pages::Completions),
    /// Print the manual page, or write the pages of all commands into a folder.
    Man(pages::Man),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file. Otherwise $WEBHOOKD_CONFIG, ./webhookd.toml or /etc/webhookd/webhookd.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Loaded, Problems> {
        config::load(self.config.as_deref(), config::environment())
    }
}

/// Why a command did not do what was asked, with the exit code that says so.
#[derive(Debug)]
struct Failure {
    code: u8,
    /// What is wrong and what to do about it; empty when it has been said, or nobody listens.
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// What the command has printed already.
    fn told(code: u8) -> Self {
        Self::new(code, "")
    }
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
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                eprintln!("webhookd: {message}");
            }
            ExitCode::from(code)
        }
    }
}

impl Command {
    fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Serve(command) => command.run(),
            Self::Check(command) => command.run(),
            Self::Config(command) => command.run(),
            Self::Reload(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::Doctor(command) => command.run(),
            Self::Tenants(command) => command.run(),
            Self::Keys(command) => command.run(),
            Self::Webhooks(command) => command.run(),
            Self::Explain(command) => command.run(),
            Self::Cancel(command) => command.run(),
            Self::Pause(command) => command.run("/admin/pause"),
            Self::Resume(command) => command.run("/admin/resume"),
            Self::Pauses(command) => command.run(),
            Self::DeadLetters(command) => command.run(),
            Self::Jobs(command) => command.run(),
            Self::Retention(command) => command.run(),
            Self::Store(command) => command.run(),
            Self::Audit(command) => command.run(),
            Self::Send(command) => command.run(),
            Self::Tail(command) => command.run(),
            Self::Listen(command) => command.run(),
            Self::Backup(command) => command.run(),
            Self::Restore(command) => command.run(),
            Self::Reseal(command) => command.run(),
            Self::Sign(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
            Self::Version => print::line(&format!("webhookd {}", env!("CARGO_PKG_VERSION"))),
        }
    }
}
