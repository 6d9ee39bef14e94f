//! `doctor`: looks for trouble and names the command that mends it. Owns what counts as trouble and the form in which it is
//! told; `files` looks at this machine, `daemon` asks the one that runs.
//!
//! Looks only: nothing is changed, and nothing that a daemon would not do anyhow is read.

mod daemon;
mod files;

pub(super) use daemon::key_file;

use clap::Args;
use serde_json::{Value, json};

use super::client::Target;
use super::{Failure, NO, print};

#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was looked at, and what was found.
#[derive(Default)]
struct Findings {
    looked_at: Vec<&'static str>,
    found: Vec<Finding>,
}

/// Something to know.
struct Finding {
    about: &'static str,
    /// A problem costs deliveries or will; a note is for you to judge.
    is_problem: bool,
    what: String,
    /// The command, or what else to do.
    mend: String,
}

impl Findings {
    fn look_at(&mut self, about: &'static str) {
        if !self.looked_at.contains(&about) {
            self.looked_at.push(about);
        }
    }

    fn problem(&mut self, about: &'static str, what: impl Into<String>, mend: impl Into<String>) {
        self.look_at(about);
        self.found.push(Finding { about, is_problem: true, what: what.into(), mend: mend.into() });
    }

    fn note(&mut self, about: &'static str, what: impl Into<String>, mend: impl Into<String>) {
        self.look_at(about);
        self.found.push(Finding { about, is_problem: false, what: what.into(), mend: mend.into() });
    }

    fn problems(&self) -> usize {
        self.found.iter().filter(|finding| finding.is_problem).count()
    }
}

impl Doctor {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut findings = Findings::default();
        // The files of another machine are not here.
        let loaded = if client.is_local() {
            files::look(self.target.config(), daemon::key_file(&client).as_deref(), &mut findings)
        } else {
            None
        };
        daemon::look(&client, loaded.as_ref(), &mut findings);
        if self.json {
            as_json(&findings)?
        } else {
            tell(&findings)?
        }
        if findings.problems() == 0 { Ok(()) } else { Err(Failure::told(NO)) }
    }
}

fn as_json(findings: &Findings) -> Result<(), Failure> {
    let found = findings.found.iter().map(|finding| {
        let level = if finding.is_problem { "problem" } else { "note" };
        json!({"level": level, "about": finding.about, "what": finding.what, "mend": finding.mend})
    });
    print::json(&json!({"looked_at": findings.looked_at, "found": found.collect::<Vec<Value>>()}))
}

fn tell(findings: &Findings) -> Result<(), Failure> {
    // Problems first.
    for wanted in [true, false] {
        for finding in findings.found.iter().filter(|finding| finding.is_problem == wanted) {
            let level = if wanted { "problem" } else { "note" };
            print::line(&format!("{level}: {}: {}", finding.about, print::plain(&finding.what)))?;
            print::line(&format!("    {}", print::plain(&finding.mend)))?;
        }
    }
    print::line(&format!("looked at: {}", findings.looked_at.join(", ")))?;
    let (problems, notes) = (findings.problems(), findings.found.len() - findings.problems());
    print::line(&match (problems, notes) {
        (0, 0) => "all is well".to_owned(),
        (0, _) => format!("no problems; {}", counted(notes, "note")),
        (_, 0) => counted(problems, "problem"),
        _ => format!("{}, {}", counted(problems, "problem"), counted(notes, "note")),
    })
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
