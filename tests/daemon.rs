//! The daemon as its operator meets it: the real binary, started, refused, reloaded, stopped, and looked at from outside.

mod support;

use std::process::{Command, Stdio};

use support::{Daemon, SOON, poll};

#[path = "daemon/access.rs"]
mod access;
#[path = "daemon/bad_input.rs"]
mod bad_input;
#[path = "daemon/budget.rs"]
mod budget;
#[path = "daemon/certificates.rs"]
mod certificates;
#[path = "daemon/clock.rs"]
mod clock;
#[path = "daemon/jam.rs"]
mod jam;
#[path = "daemon/life.rs"]
mod life;
#[path = "daemon/reading.rs"]
mod reading;
#[path = "daemon/refusals.rs"]
mod refusals;
#[path = "daemon/reload.rs"]
mod reload;
#[path = "daemon/secrets.rs"]
mod secrets;
#[path = "daemon/stop.rs"]
mod stop;

/// Runs the binary to its end; its exit code and what it wrote to both outputs.
fn webhookd(args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let told = std::fs::File::create(folder.path().join("told")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_webhookd"));
    command.args(args).current_dir(folder.path()).stdin(Stdio::null());
    command.stdout(told.try_clone().expect("a file")).stderr(told);
    let mut child = command.spawn().expect("the daemon's binary");
    let status = poll(SOON, || child.try_wait().expect("a child to look at"));
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    let told = std::fs::read_to_string(folder.path().join("told")).expect("text");
    (status.and_then(|status| status.code()).unwrap_or_else(|| panic!("{args:?} did not end:\n{told}")), told)
}

/// Starts the daemon, which is to be refused with `code`; gives what it logged at this start.
#[track_caller]
fn refused(daemon: &mut Daemon, code: i32) -> String {
    let before = daemon.log().len();
    daemon.spawn();
    let status = daemon.wait_end();
    let log = daemon.log().split_off(before);
    assert_eq!(status.code(), Some(code), "{status}; its log:\n{log}");
    log
}

/// Fails the test unless every part stands in `text`.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}
