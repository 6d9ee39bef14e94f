//! The command line as an operator meets it: the real binary, every command, with a daemon, without one, and used wrongly.

mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use support::{Daemon, SOON, poll};

#[path = "cli/access.rs"]
mod access;
#[path = "cli/control.rs"]
mod control;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/erase.rs"]
mod erase;
#[path = "cli/events.rs"]
mod events;
#[path = "cli/inspect.rs"]
mod inspect;
#[path = "cli/jobs.rs"]
mod jobs;
#[path = "cli/offline.rs"]
mod offline;
#[path = "cli/retention.rs"]
mod retention;
#[path = "cli/store.rs"]
mod store;

/// What a command came to.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out:\n{}\nerr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}:\n{}", self.out))
    }
}

/// A command to be run in a folder of its own.
struct Shell {
    command: Command,
    folder: tempfile::TempDir,
    input: String,
}

/// `webhookd` with these arguments, and none of this process's own settings.
fn webhookd(args: &[&str]) -> Shell {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_webhookd"));
    command.args(args).current_dir(folder.path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEBHOOK") {
            command.env_remove(name);
        }
    }
    Shell { command, folder, input: String::new() }
}

/// The same, for this daemon.
fn of(daemon: &Daemon, args: &[&str]) -> Shell {
    let shell = webhookd(args);
    shell.env("WEBHOOKD_CONFIG", daemon.config().to_str().expect("a path"))
}

impl Shell {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn input(mut self, text: &str) -> Self {
        text.clone_into(&mut self.input);
        self
    }

    fn spawn(&mut self) -> Child {
        let file = |name: &str| fs::File::create(self.folder.path().join(name)).expect("a file");
        let (out, err) = (file("out"), file("err"));
        let mut child = self.command.stdin(Stdio::piped()).stdout(out).stderr(err).spawn().expect("the binary");
        let mut stdin = child.stdin.take().expect("a pipe");
        // One that reads nothing may be gone already.
        drop(stdin.write_all(self.input.as_bytes()));
        child
    }

    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).expect("text")
    }

    /// Runs it to its end.
    #[track_caller]
    fn run(mut self) -> Ran {
        let mut child = self.spawn();
        let ended = poll(SOON, || child.try_wait().expect("a child to look at"));
        if ended.is_none() {
            drop(child.kill());
            drop(child.wait());
        }
        let (out, err) = (self.written("out"), self.written("err"));
        let code = ended.and_then(|status| status.code());
        let code = code.unwrap_or_else(|| panic!("{:?} did not end:\n{out}{err}", self.command));
        Ran { code, out, err }
    }
}

/// Fails the test unless every part stands in `text`.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

/// Changes a file's text.
#[track_caller]
fn replace(path: &Path, old: &str, new: &str) {
    let before = fs::read_to_string(path).expect("a file");
    assert!(before.contains(old), "{old} is missing in:\n{before}");
    fs::write(path, before.replace(old, new)).expect("writing it");
}

/// Every command that needs a daemon, as it is used.
const NEED_A_DAEMON: &[&[&str]] = &[
    &["reload"],
    &["reload", "--wait"],
    &["status"],
    &["status", "--json"],
    &["tenants", "list"],
    &["tenants", "get", "acme"],
    &["tenants", "put", "acme"],
    &["keys", "list"],
    &["keys", "create", "--role", "publisher"],
    &["keys", "revoke", "key_0123456789abcdef"],
    &["webhooks"],
    &["webhooks", "recover", "wbh_0123456789abcdef0123456789abcdef"],
    &["webhooks", "pending", "wbh_0123456789abcdef0123456789abcdef", "--tenant", "acme"],
    &["webhooks", "stats", "wbh_0123456789abcdef0123456789abcdef", "--tenant", "acme"],
    &["webhooks", "test", "wbh_0123456789abcdef0123456789abcdef", "--tenant", "acme"],
    &["explain", "evt_0123456789abcdef0123456789abcdef", "--tenant", "acme"],
    &["cancel", "evt_0123456789abcdef0123456789abcdef", "--tenant", "acme"],
    &["pause", "--everything"],
    &["resume", "--everything"],
    &["pauses"],
    &["audit"],
    &["dead-letters", "list", "--tenant", "acme"],
    &["dead-letters", "redrive"],
    &["dead-letters", "purge", "--all"],
    &["retention", "run"],
    &["jobs", "list"],
    &["jobs", "show", "job_0123456789abcdef0123456789abcdef"],
    &["jobs", "cancel", "job_0123456789abcdef0123456789abcdef"],
    &["send", "order.created", "--tenant", "acme"],
    &["tail"],
    &["listen", "--forward-to", "http://127.0.0.1:1/", "--tenant", "acme"],
];

#[test]
fn without_a_daemon_every_command_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("none.sock");
    for args in NEED_A_DAEMON {
        let ran = webhookd(args).env("WEBHOOKD_ADMIN__SOCKET", socket.to_str().expect("a path")).run().ends(69);
        says(&ran.err, &["none.sock", "is it running?", "webhookd serve", "--config", "WEBHOOKD_URL"]);
        let ran = webhookd(args).env("WEBHOOKD_URL", "http://127.0.0.1:1").run().ends(69);
        says(&ran.err, &["http://127.0.0.1:1", "can't be reached", "refused"]);
    }
}

#[test]
fn what_is_no_command_is_told_with_the_usage() {
    for (args, parts) in [
        (&[][..], &["Usage: webhookd"][..]),
        (&["sttaus"], &["unrecognized subcommand 'sttaus'", "'status'"]),
        (&["keys", "create"], &["--role"]),
        (&["keys", "create", "--role", "king"], &["king", "admin, publisher, tenant"]),
        (&["keys", "revoke", "whd_a_token"], &["webhookd keys list"]),
        (&["send"], &["<TYPE>"]),
        (&["send", "a", "--data", "[1]"], &["--data must be a JSON object"]),
        (&["send", "a", "--context", "{"], &["--context must be a JSON object"]),
        (&["tail", "--count", "x"], &["--count"]),
        (&["listen"], &["--forward-to"]),
        (&["listen", "--forward-to", "http://a.example/"], &["--forward-to must be a URL", "https"]),
        (&["listen", "--forward-to", "https://a.example/", "--resume", "wbh_0", "--events", "a"], &["--resume"]),
        (&["completions", "tcsh"], &["tcsh", "bash"]),
        (&["sign"], &["--id is required"]),
    ] {
        let ran = webhookd(args).run().ends(64);
        says(&ran.err, parts);
        assert!(!ran.err.contains("whd_a_token"), "{}", ran.err);
    }
    for url in ["nonsense", "ftp://127.0.0.1", "http://a:b@127.0.0.1", "http://127.0.0.1/v1"] {
        let ran = webhookd(&["status"]).env("WEBHOOKD_URL", url).run().ends(64);
        says(&ran.err, &["WEBHOOKD_URL must be"]);
    }
    says(&webhookd(&["--help"]).run().ends(0).out, &["doctor", "completions", "Usage"]);
}
