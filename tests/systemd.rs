//! The shipped units under a real systemd: a machine made of namespaces (tests/systemd/box.sh), thrown away afterwards. What is
//! looked at is in tests/systemd/*.sh; every line there that says "ok" is something proven.
//!
//! Needs root, or rather its right to namespaces. Where that is not to be had, the tests fail and say so, unless
//! `NO_SYSTEMD_BOX=1` says that this is known. `LOWER=DIR` takes another system than this machine's, such as a newer one:
//!
//!     debootstrap --variant=minbase --include=systemd,dbus,curl,openssl,procps,iproute2,ca-certificates trixie DIR
//!     LOWER=DIR cargo test --test systemd g19

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::pages::{self, Runner};
use support::{Authority, Certificate};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The box's own way to say that the system does not allow it.
const NOT_ALLOWED: i32 = 77;

/// The manual's commands for a machine, by the heading that they stand below, and how they are called there.
const BY_HEADING: [(&str, &str); 6] = [
    ("The Debian package", "install-package.sh"),
    ("By hand", "by-hand.sh"),
    ("Backup", "backup.sh"),
    ("Restore", "restore.sh"),
    ("The sealing key", "reseal-own.sh"),
    ("The sealing key", "reseal.sh"),
];

/// What is laid over the machine's files, and the test that runs there.
struct Payload(TempDir);

impl Payload {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        // The service's user reads what is laid down there.
        open(folder.path(), 0o755);
        let made = Self(folder);
        for (from, to) in [("lib.sh", "lib.sh"), (script, "test.sh")] {
            made.copy(&Path::new(ROOT).join("tests/systemd").join(from), to);
        }
        let authority = Authority::new();
        let (chain, key) = authority.issue(Certificate::Good);
        made.write("ca.pem", authority.pem());
        made.write("files/etc/credstore/webhookd-cert.pem", &chain);
        made.write("files/etc/credstore/webhookd-key.pem", &key);
        made.write("files/etc/credstore/webhookd.key", &"5a".repeat(32));
        open(&made.path("files/etc/credstore/webhookd.key"), 0o600);
        open(&made.path("files/etc/credstore"), 0o700);
        for ((_, name), block) in BY_HEADING.iter().zip(pages::run_by(Runner::Machine)) {
            made.write(name, &block.text);
        }
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn parent(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        path
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.parent(name), text).expect("writing the payload");
    }

    fn copy(&self, from: &Path, to: &str) {
        fs::copy(from, self.parent(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    /// The certificate's chain and key under the names that the manual has for them.
    fn pair_beside(&self) {
        for (from, to) in [("webhookd-cert.pem", "fullchain.pem"), ("webhookd-key.pem", "privkey.pem")] {
            self.copy(&self.path("files/etc/credstore").join(from), &format!("tree/{to}"));
        }
    }

    /// The units and their examples.
    fn units(&self, folder: &str) {
        for (from, to) in [("systemd", folder), ("systemd/examples", "examples")] {
            for entry in fs::read_dir(Path::new(ROOT).join(from)).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
                    self.copy(&path, &format!("{to}/{name}"));
                }
            }
        }
    }

    /// Runs the test; gives what it said.
    fn run(&self, seconds: u32) -> Option<String> {
        if std::env::var_os("NO_SYSTEMD_BOX").is_some() {
            println!("NOT TESTED: NO_SYSTEMD_BOX says that this system allows no namespaces");
            return None;
        }
        let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mut command = Command::new("bash");
        command.arg(Path::new(ROOT).join("tests/systemd/box.sh")).arg(self.0.path()).arg(out.path());
        let done = command.arg(seconds.to_string()).stdin(Stdio::null()).output().expect("bash");
        assert!(
            done.status.code() != Some(NOT_ALLOWED),
            "this test boots a systemd in namespaces, which takes root's rights; set NO_SYSTEMD_BOX=1 to do without it"
        );
        let read = |name: &str| fs::read_to_string(out.path().join(name)).unwrap_or_default();
        let said = read("test.log");
        let more = || {
            let files = ["console.log", "webhookd.log"].map(|name| format!("--- {name}\n{}", read(name))).concat();
            format!("{said}\n{}\n{files}", String::from_utf8_lossy(&done.stderr))
        };
        assert!(done.status.success(), "{}:\n{}", done.status, more());
        Some(said)
    }
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn proven(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("ok ")?.split(':').next()).collect()
}

/// What the manual installs by hand, with the manual's own commands.
fn by_hand(script: &str) -> Payload {
    let payload = Payload::new(script);
    payload.units("tree/systemd");
    payload.copy(Path::new(env!("CARGO_BIN_EXE_webhookd")), "tree/webhookd");
    payload.copy(&Path::new(ROOT).join("webhookd.toml"), "tree/webhookd.toml");
    payload.pair_beside();
    for name in ["webhookd-cert.pem", "webhookd-key.pem"] {
        fs::remove_file(payload.path("files/etc/credstore").join(name)).expect("removing it");
    }
    payload
}

#[test]
fn every_command_of_the_manual_for_a_machine_is_run_in_one() {
    let blocks = pages::run_by(Runner::Machine);
    let headings: Vec<&str> = blocks.iter().map(|block| block.heading.as_str()).collect();
    assert_eq!(headings, BY_HEADING.map(|(heading, _)| heading));
    let scripts = ["service.sh", "package.sh"].map(|name| pages::page(&format!("tests/systemd/{name}"))).concat();
    for (heading, name) in BY_HEADING {
        assert!(scripts.contains(&format!("bash -e /payload/{name}")), "{heading}: nothing runs {name}");
    }
}

#[test]
fn the_journal_has_the_fields_of_every_line() {
    let Some(said) = by_hand("journal.sh").run(120) else { return };
    assert_eq!(proven(&said), ["fields", "requests", "restart"], "{said}");
}

#[test]
fn g19_the_shipped_units_hold_what_they_promise_under_a_real_systemd() {
    let payload = by_hand("service.sh");
    let Some(said) = payload.run(240) else { return };
    let wanted = [
        "by hand",
        "units",
        "refused",
        "start",
        "credentials",
        "publishing",
        "restart",
        "reload",
        "sockets",
        "watchdog",
        "backup",
        "sealing key",
        "own sealing key",
        "owner",
        "stop",
        "examples",
    ];
    assert_eq!(proven(&said), wanted, "{said}");
}

#[test]
fn the_package_is_installed_started_upgraded_removed_and_purged() {
    let payload = Payload::new("package.sh");
    if std::env::var_os("NO_SYSTEMD_BOX").is_none() {
        for (version, name) in [("0.1.0-1", "first.deb"), ("0.1.0-2", "second.deb")] {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
            let mut command = Command::new("bash");
            command.args([".ci/package", "--debug"]).arg(folder.path()).arg(version).current_dir(ROOT);
            let done = command.stdin(Stdio::null()).output().expect("bash");
            assert!(done.status.success(), "{}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
            payload.copy(&folder.path().join(format!("webhookd_{version}.deb")), name);
        }
        payload.pair_beside();
        payload.copy(&payload.path("first.deb"), "tree/webhookd_0.1.0-1_amd64.deb");
    }
    let Some(said) = payload.run(180) else { return };
    assert_eq!(proven(&said), ["install", "start", "upgrade", "remove", "again", "purge"], "{said}");
}
