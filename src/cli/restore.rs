//! `restore`: makes a store from a backup, or only looks whether the backup is whole. Talks to no daemon.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::Args;

use super::print::{self, Progress};
use super::serve::store_code;
use super::{CANT_CREATE, Failure, REFUSED, SYSTEM, owner};
use crate::entropy::Entropy;
use crate::model::time::millis_z;
use crate::store::backup::{RestoreError, Summary, check, restore};
use crate::store::open::KEY_FILE;
use crate::store::seal::read_key_file;

#[derive(Args)]
pub(super) struct Restore {
    /// The backup; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The state folder to make the store in. It must not hold one.
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    state_dir: Option<PathBuf>,
    /// The key file of the store that the backup is of. Otherwise webhookd.key in the state folder. It stays where it is.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    key_file: Option<PathBuf>,
    /// Only look whether the backup is whole; nothing is written.
    #[arg(long, conflicts_with = "state_dir")]
    check: bool,
}

impl Restore {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (mut source, length) = self.open()?;
        let Some(folder) = &self.state_dir else {
            let mut progress = Progress::new("read");
            let summary = check(&mut source, &mut |bytes| progress.at(bytes)).map_err(|error| failure(&error))?;
            return print::line(&format!("{}: {}", self.from.display(), told(&summary)));
        };
        let key_file = self.key_file.clone().unwrap_or_else(|| folder.join(KEY_FILE));
        let key = read_key_file(&key_file).map_err(|error| {
            let advice = "a backup is of use only with the key file of its store; --key-file names it";
            Failure::new(REFUSED, format!("{error}; {advice}"))
        })?;
        let mut progress = Progress::new("restored");
        let summary = restore(&mut source, length, folder, key, &Entropy::system(), &mut |bytes| progress.at(bytes));
        let summary = summary.map_err(|error| failure(&error))?;
        owner::hand_over(folder)?;
        print::line(&format!("{}: restored; {}", folder.display(), told(&summary)))?;
        for line in next_steps(folder, &key_file, &summary) {
            print::line(&line)?;
        }
        Ok(())
    }

    fn open(&self) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
        if self.from == Path::new("-") {
            return Ok((Box::new(std::io::stdin().lock()), None));
        }
        let failed =
            |error: std::io::Error| Failure::new(SYSTEM, format!("{} can't be read: {error}", self.from.display()));
        let file = File::open(&self.from).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Ok((Box::new(file), Some(length)))
    }
}

fn told(summary: &Summary) -> String {
    let (head, rows) = (&summary.head, summary.rows.values().sum::<u64>());
    let [size, made] = [ByteSize(summary.bytes).to_string(), millis_z(head.made_ms)];
    format!(
        "a whole backup, {size} in {rows} rows, of the store {} as of {made}, with the events up to number {}",
        hex::encode(head.store),
        head.next_event - 1
    )
}

fn next_steps(folder: &Path, key_file: &Path, summary: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    if key_file != folder.join(KEY_FILE) {
        lines.push(format!(
            "Next, let the daemon find the key file {}: as {}, with secrets.key_file, or as a credential. Then start it.",
            key_file.display(),
            folder.join(KEY_FILE).display()
        ));
    } else {
        lines.push("Next, start the daemon.".to_owned());
    }
    lines.push(format!(
        "What was accepted after {} is not in it; what was delivered after that goes out again, with the same webhook-id.",
        millis_z(summary.head.made_ms)
    ));
    lines
}

fn failure(error: &RestoreError) -> Failure {
    let code = match error {
        RestoreError::Bad(_) | RestoreError::Format { .. } | RestoreError::Store(_) => REFUSED,
        RestoreError::Read(_) => SYSTEM,
        RestoreError::Occupied(_) | RestoreError::NoRoom { .. } | RestoreError::Disk(_) => CANT_CREATE,
        RestoreError::Open(error) => store_code(error),
    };
    Failure::new(code, error.to_string())
}
