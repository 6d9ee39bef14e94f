//! `store check` and `store compact`: the store's file while no daemon has it open.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::check::refused;
use super::serve::store_code;
use super::{CANT_CREATE, ConfigFile, Failure, REFUSED, last_words, owner, print};
use crate::clock::{Clock, Millis};
use crate::entropy::Entropy;
use crate::store::check::{self, Finding, Report};
use crate::store::compact::{self, CompactError};
use crate::store::open::{OpenError, Place};

/// How long something takes before it says how far it is, and how often it says so.
const TOLD_EVERY_MS: Millis = 2_000;

#[derive(Subcommand)]
pub(super) enum Store {
    /// Look at every byte of the store that counts, and change nothing; stop the daemon before.
    Check(Check),
    /// Write the store's file anew without what is free in it; stop the daemon before.
    Compact(Compact),
}

#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    files: Files,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Compact {
    #[command(flatten)]
    files: Files,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which store.
#[derive(Args)]
struct Files {
    #[command(flatten)]
    file: ConfigFile,
    /// The state folder, instead of the configuration's.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    state_dir: Option<PathBuf>,
    /// The key file, instead of the configuration's or the one in the state folder.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl Store {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Check(command) => command.run(),
            Self::Compact(command) => command.run(),
        }
    }
}

impl Files {
    fn place(&self) -> Result<Place, Failure> {
        let mut config = match &self.state_dir {
            Some(_) => crate::config::Config::default(),
            None => self.file.load().map_err(refused)?.config,
        };
        if let Some(folder) = &self.state_dir {
            config.state_dir.clone_from(folder);
        }
        let key_file = self.key_file.clone().or(config.secrets.key_file);
        let cache_bytes = usize::try_from(config.store.cache).unwrap_or(usize::MAX);
        let place = Place { state_dir: config.state_dir, key_file, cache_bytes };
        last_words::prepare(place.store_file(), REFUSED, last_words::is_redbs);
        Ok(place)
    }
}

impl Check {
    fn run(&self) -> Result<(), Failure> {
        let place = self.files.place()?;
        let report = check::place(&place, &Entropy::system(), &mut progress()).map_err(unopened)?;
        if self.json {
            print::json(&as_json(&report))?;
        } else {
            tell(&place, &report)?;
        }
        if report.is_clean() { Ok(()) } else { Err(Failure::told(REFUSED)) }
    }
}

impl Compact {
    fn run(&self) -> Result<(), Failure> {
        let place = self.files.place()?;
        let done = compact::compact(&place, &Entropy::system(), &Clock::system(), &mut progress());
        let sizes = done.map_err(|error| match error {
            CompactError::Open(error) => unopened(error),
            CompactError::Damaged(report) => {
                report.findings.iter().for_each(|finding| eprintln!("{finding}"));
                Failure::new(REFUSED, format!("{}; {ADVICE}", CompactError::Damaged(report)))
            }
            error @ (CompactError::NoRoom { .. } | CompactError::Disk { .. }) => {
                Failure::new(CANT_CREATE, error.to_string())
            }
        })?;
        owner::hand_over(&place.state_dir)?;
        if self.json {
            return print::json(&json!({"bytes_before": sizes.before, "bytes_after": sizes.after}));
        }
        let [before, after] = [sizes.before, sizes.after].map(bytesize::ByteSize);
        print::line(&format!("{}: {before} before, {after} now", place.store_file().display()))
    }
}

const ADVICE: &str = "keep a copy of the state folder, and restore a backup";

fn unopened(error: OpenError) -> Failure {
    let advice = match error {
        OpenError::Locked(_) => " (systemctl stop webhookd)",
        _ => "",
    };
    Failure::new(store_code(&error), format!("{error}{advice}"))
}

fn tell(place: &Place, report: &Report) -> Result<(), Failure> {
    let path = place.store_file();
    let path = path.display();
    if report.is_clean() {
        let states = &report.deliveries;
        print::line(&format!("{path}: all is well"))?;
        return print::line(&format!(
            "{} events, {} journal records; deliveries: {} pending, {} delivered, {} dead, {} cancelled",
            report.events, report.records, states.pending, states.delivered, states.dead, states.cancelled
        ));
    }
    for finding in &report.findings {
        print::line(&finding.to_string())?;
    }
    let more = if report.more > 0 { format!(", {} more are not shown", report.more) } else { String::new() };
    print::line(&format!("{path} is damaged: {} findings{more}; {ADVICE}", report.findings.len()))
}

fn as_json(report: &Report) -> Value {
    let states = &report.deliveries;
    let finding = |finding: &Finding| json!({"table": finding.table, "place": finding.place, "what": finding.what});
    json!({
        "clean": report.is_clean(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "more": report.more,
        "events": report.events,
        "journal_records": report.records,
        "deliveries": {
            "pending": states.pending,
            "delivered": states.delivered,
            "dead": states.dead,
            "cancelled": states.cancelled,
        },
    })
}

/// Says on standard error how far something is, when it takes long.
fn progress() -> impl FnMut(&str, u64, u64) {
    let clock = Clock::system();
    let mut next_ms = clock.now_ms() + TOLD_EVERY_MS;
    move |what, done, of| {
        let now = clock.now_ms();
        if now >= next_ms {
            next_ms = now + TOLD_EVERY_MS;
            eprintln!("{what}: {done} of {of}");
        }
    }
}
