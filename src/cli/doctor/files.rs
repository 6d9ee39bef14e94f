//! What `doctor` sees on this machine: configuration, certificate, state folder, key file, disk.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Findings;
use crate::cli::check::{EXPIRY_NEAR_MS, checked};
use crate::cli::print;
use crate::clock::Clock;
use crate::config::{self, Config, Loaded, Problem, certificate_expiry};
use crate::model::time::millis_z;
use crate::store::open::{KEY_FILE, STORE_FILE};

/// With less than this free the disk is nearly full: bytes, and one part in so many.
const FREE_BYTES_MIN: u64 = 512 * 1024 * 1024;
const FREE_PART_MIN: u64 = 20;

/// Looks at the files that the configuration names; gives it when it could be read.
pub(super) fn look(file: Option<&Path>, findings: &mut Findings) -> Option<Loaded> {
    findings.look_at("configuration");
    let loaded = match config::load(file, config::environment()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            problems.0.iter().for_each(|problem| report(problem, findings));
            return None;
        }
    };
    if let Err(problems) = checked(loaded.clone()) {
        problems.0.iter().for_each(|problem| report(problem, findings));
    }
    certificate(&loaded.config, findings);
    state(&loaded.config, findings);
    disk(&loaded.config, findings);
    Some(loaded)
}

fn report(problem: &Problem, findings: &mut Findings) {
    let suggested = problem.suggestion.clone();
    let bare = Problem { suggestion: None, ..problem.clone() };
    let mend = suggested.unwrap_or_else(|| "change it there, see with webhookd check, then webhookd reload".to_owned());
    findings.problem("configuration", bare.to_string(), mend);
}

fn certificate(config: &Config, findings: &mut Findings) {
    let Some(expiry_ms) = certificate_expiry(config) else { return };
    findings.look_at("certificate");
    let left_ms = expiry_ms.saturating_sub(Clock::system().wall_ms());
    // One that is past it has been told of with the configuration.
    if (1..EXPIRY_NEAR_MS).contains(&left_ms) {
        let what = format!("expires at {}, in {}", millis_z(expiry_ms), print::span(left_ms / 1_000));
        findings.problem("certificate", what, "renew it, then run webhookd reload");
    }
}

fn state(config: &Config, findings: &mut Findings) {
    findings.look_at("state folder");
    let folder = &config.state_dir;
    if !is_private("state folder", folder, findings) {
        return;
    }
    let key = config.secrets.key_file.clone().unwrap_or_else(|| folder.join(KEY_FILE));
    findings.look_at("key file");
    let has_store = folder.join(STORE_FILE).exists();
    match key.try_exists() {
        Ok(false) if has_store => {
            let what = format!("{} is gone, and the store {} is of no use without it", key.display(), STORE_FILE);
            findings.problem("key file", what, "put it back from where it is kept apart from the store");
        }
        Ok(false) => {}
        _ => drop(is_private("key file", &key, findings)),
    }
}

/// Looks whether only its owner may open it; false when it is not there or can't be looked at.
fn is_private(about: &'static str, path: &Path, findings: &mut Findings) -> bool {
    match std::fs::metadata(path) {
        Ok(seen) => {
            let mode = seen.permissions().mode() & 0o7777;
            if mode & 0o077 != 0 {
                let what = format!("{} is open to others than its owner (mode {mode:04o})", path.display());
                findings.problem(about, what, format!("chmod go= {}", path.display()));
            }
            true
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = format!("{} is not there", path.display());
            findings.note(about, what, "it is made at the first start: webhookd serve");
            false
        }
        Err(error) => {
            let what = format!("{} can't be looked at: {error}", path.display());
            findings.note(about, what, "run webhookd doctor as root, or as the daemon's user");
            false
        }
    }
}

fn disk(config: &Config, findings: &mut Findings) {
    let Ok(seen) = rustix::fs::statvfs(&config.state_dir) else { return };
    findings.look_at("disk space");
    let (free, whole) = (seen.f_bavail.saturating_mul(seen.f_frsize), seen.f_blocks.saturating_mul(seen.f_frsize));
    if free < FREE_BYTES_MIN || free < whole / FREE_PART_MIN {
        let [free, whole] = [free, whole].map(bytesize::ByteSize);
        let what = format!("{free} of {whole} are free where {} is", config.state_dir.display());
        let mend = "make room, or set store.disk_budget below it; when it is full, publishing is answered with 503";
        findings.problem("disk space", what, mend);
    }
}
