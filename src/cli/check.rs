//! `check` and `config show`: what is wrong with a configuration, and what it comes to. Neither talks to a daemon.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{ConfigFile, Failure, REFUSED, print};
use crate::clock::{Clock, Millis};
use crate::config::{Loaded, Problem, Problems, certificate_expiry};
use crate::model::time::millis_z;

/// A certificate that has less than this left, in ms, is worth a word.
pub(super) const EXPIRY_NEAR_MS: Millis = 21 * 86_400_000;

#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Say nothing when all is well.
    #[arg(long)]
    quiet: bool,
    /// Print what is wrong as JSON, `[]` when all is well.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

#[derive(Subcommand)]
pub(super) enum Config {
    /// Print every key with the value that is in effect, as TOML.
    Show(Show),
}

#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    file: ConfigFile,
    /// Say where each value comes from: a file and line, a variable, or the default.
    #[arg(long)]
    origin: bool,
    /// Print an array of JSON objects instead, `value` being TOML.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self.file.load().and_then(|loaded| judged(loaded, Loaded::check)) {
            Ok(_) if self.json => print::json(&json!([])),
            Ok(loaded) => self.say_well(&loaded),
            Err(problems) if self.json => {
                print::json(&problems.0.iter().map(as_json).collect())?;
                Err(Failure::told(REFUSED))
            }
            Err(problems) => Err(refused(problems)),
        }
    }

    fn say_well(&self, loaded: &Loaded) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        let file = loaded.file.as_ref().map_or("built-in defaults".to_owned(), |file| file.display().to_string());
        print::line(&format!("{file}: all is well"))?;
        let Some(expiry_ms) = certificate_expiry(&loaded.config) else { return Ok(()) };
        let left_ms = expiry_ms.saturating_sub(Clock::system().wall_ms());
        let advice = if left_ms < EXPIRY_NEAR_MS { "; renew it, then run webhookd reload" } else { "" };
        let left = print::span(left_ms / 1_000);
        print::line(&format!("the certificate expires at {}, in {left}{advice}", millis_z(expiry_ms)))
    }
}

/// The configuration, or everything that is wrong with it and the files that it names.
pub(super) fn judged(loaded: Loaded, check: fn(&Loaded, Millis) -> Vec<Problem>) -> Result<Loaded, Problems> {
    let problems = check(&loaded, Clock::system().wall_ms());
    if problems.is_empty() { Ok(loaded) } else { Err(Problems(problems)) }
}

/// Tells the problems one a line, each with its place.
pub(super) fn refused(problems: Problems) -> Failure {
    eprintln!("{problems}");
    Failure::told(REFUSED)
}

fn as_json(problem: &crate::config::Problem) -> Value {
    json!({
        "key": problem.path,
        "place": problem.place.as_ref().map(ToString::to_string),
        "message": problem.message,
        "suggestion": problem.suggestion,
    })
}

impl Config {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let Self::Show(show) = self;
        show.run()
    }
}

impl Show {
    fn run(&self) -> Result<(), Failure> {
        let entries = self.file.load().map_err(refused)?.entries();
        if self.json {
            let shown = |entry: &crate::config::Entry| json!({"key": entry.key, "value": entry.value, "origin": entry.origin.to_string()});
            return print::json(&entries.iter().map(shown).collect());
        }
        for entry in &entries {
            let origin = if self.origin { format!("  # {}", entry.origin) } else { String::new() };
            print::line(&format!("{entry}{origin}"))?;
        }
        Ok(())
    }
}
