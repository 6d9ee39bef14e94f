//! What `doctor` sees on this machine: configuration, certificate, state folder, key file, disk.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Findings;
use crate::cli::check::{EXPIRY_NEAR_MS, judged};
use crate::cli::print;
use crate::clock::Clock;
use crate::config::{self, Config, Loaded, Problem, certificate_expiry};
use crate::model::time::millis_z;
use crate::store::open::STORE_FILE;

/// With less than this free the disk is nearly full: bytes, and one part in so many.
const FREE_BYTES_MIN: u64 = 512 * 1024 * 1024;
const FREE_PART_MIN: u64 = 20;

/// Looks at the files that the configuration names; gives it when it could be read. `running_key`: the key file of the daemon
/// that runs, if one does.
pub(super) fn look(file: Option<&Path>, running_key: Option<&Path>, findings: &mut Findings) -> Option<Loaded> {
    findings.look_at("configuration");
    let loaded = match config::load(file, config::environment()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            problems.0.iter().for_each(|problem| report(problem, findings));
            return None;
        }
    };
    if let Err(problems) = judged(loaded.clone(), Loaded::check) {
        problems.0.iter().for_each(|problem| report(problem, findings));
    }
    certificate(&loaded.config, findings);
    state(&loaded.config, running_key, findings);
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

fn state(config: &Config, running_key: Option<&Path>, findings: &mut Findings) {
    findings.look_at("state folder");
    let folder = &config.state_dir;
    if !is_private("state folder", folder, findings) {
        return;
    }
    key(config, running_key, findings);
}

fn key(config: &Config, running_key: Option<&Path>, findings: &mut Findings) {
    findings.look_at("key file");
    let named = config.key_file();
    // systemd hands a credential to the service alone: this shell's variables do not name it.
    let elsewhere = running_key.is_some_and(|running| running != named);
    let key = running_key.unwrap_or(&named);
    match key.try_exists() {
        Ok(false) if config.state_dir.join(STORE_FILE).exists() && !elsewhere => {
            let what = format!("{} is gone, and the store {STORE_FILE} is of no use without it", key.display());
            let mend = "put it back from where it is kept apart from the store; a credential of systemd's \
                        (LoadCredential=) is seen only while the daemon runs";
            findings.problem("key file", what, mend);
        }
        Ok(false) => {}
        _ => drop(is_private("key file", key, findings)),
    }
}

/// Looks whether it is closed to all but its owner, and its group for reading; false when it is not there or can't be looked at.
fn is_private(about: &'static str, path: &Path, findings: &mut Findings) -> bool {
    match std::fs::metadata(path) {
        Ok(seen) => {
            let mode = seen.permissions().mode() & 0o7777;
            if mode & 0o027 != 0 {
                let what = format!("{} is open to others than its owner (mode {mode:04o})", path.display());
                findings.problem(about, what, format!("chmod g-w,o= {}", path.display()));
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
