//! `backup`: a copy of the store of a daemon that serves, taken over its API into a file or to standard output. Owns that the
//! file has its name only when the copy is whole and synced, and that nothing is replaced.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use http::Method;

use super::client::{Client, Target};
use super::doctor::key_file;
use super::print::Progress;
use super::{CANT_CREATE, Failure, SYSTEM, UNREACHABLE};
use crate::clock::Clock;
use crate::model::time::millis_z;
use crate::store::backup::{Bad, Reader, Summary};
use crate::store::nameless::Nameless;
use crate::store::open::KEY_FILE;

/// The daemon first copies the tables that change: that takes as long as its disk does.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Args)]
pub(super) struct Backup {
    /// The file to make, which must not be there yet; `-` writes to standard output. Otherwise webhookd-TIME.backup, here.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Backup {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let client = self.target.client()?.patient(PATIENCE);
        let path = self.to.clone().unwrap_or_else(name);
        let (summary, place) = if path == Path::new("-") {
            let summary = take(&client, |piece| {
                let mut out = std::io::stdout().lock();
                let written = out.write_all(piece).and_then(|()| out.flush());
                written.map_err(|error| Failure::new(SYSTEM, format!("standard output can't be written: {error}")))
            })?;
            (summary, "standard output".to_owned())
        } else {
            (to_file(&client, &path)?, path.display().to_string())
        };
        tell(&place, &summary, key_file(&client).as_deref());
        Ok(())
    }
}

fn name() -> PathBuf {
    let time = millis_z(Clock::system().wall_ms());
    let digits: String = time.chars().take_while(|char| *char != '.').filter(|char| !"-:".contains(*char)).collect();
    format!("webhookd-{digits}Z.backup").into()
}

fn to_file(client: &Client, path: &Path) -> Result<Summary, Failure> {
    let failed =
        |error: &std::io::Error| Failure::new(CANT_CREATE, format!("{} can't be made: {error}", path.display()));
    if path.exists() {
        return Err(Failure::new(
            CANT_CREATE,
            format!("{} is there already, and nothing is replaced; choose another name", path.display()),
        ));
    }
    let made = Nameless::create(path).map_err(|error| failed(&error))?;
    let summary = take(client, |piece| made.file().write_all(piece).map_err(|error| failed(&error)))?;
    made.keep().map_err(|error| failed(&error))?;
    Ok(summary)
}

/// Takes a backup, and looks at all of it on the way.
fn take(client: &Client, mut write: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<Summary, Failure> {
    let (mut reader, mut progress, mut bytes) = (Reader::default(), Progress::new("copied"), 0);
    client.stream(Method::POST, "/admin/backup", |piece| {
        write(piece)?;
        bytes += piece.len() as u64;
        progress.at(bytes);
        reader.push(piece, |_| Ok(())).map_err(|bad| broken(&bad))
    })?;
    reader.finish().map_err(|bad| broken(&bad))
}

fn broken(bad: &Bad) -> Failure {
    Failure::new(UNREACHABLE, format!("what came is no whole backup, and is thrown away: {bad}; try again"))
}

fn tell(place: &str, summary: &Summary, key: Option<&Path>) {
    let head = &summary.head;
    let key = key.map_or_else(|| KEY_FILE.to_owned(), |key| key.display().to_string());
    eprintln!(
        "{place}: whole, {}; the store as of {}, with the events up to number {}",
        ByteSize(summary.bytes),
        millis_z(head.made_ms),
        head.next_event - 1
    );
    eprintln!(
        "The other half is the key file {key}, which is not part of it: without it no store can be made from this backup. Keep \
         a copy of it, in another place."
    );
}
