//! Receivers and clients written in Python, in a virtual environment that is made once for the build folder.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{free_port, poll};

const START: Duration = Duration::from_secs(30);

/// A Python receiver that runs; killed with its handle. It appends one JSON line to `OUT` for each event it accepts.
pub struct Python {
    child: Child,
    folder: TempDir,
    port: u16,
}

/// Starts `tests/receivers/{script}` with `environment`, `PORT` and `OUT`; makes the virtual environment first. A secret
/// that is only known after registration is passed by reserving the port with `free_port` and `PORT` in `environment`.
pub fn python_receiver(script: &str, environment: &[(&str, &str)]) -> Python {
    let interpreter = virtual_environment().join("bin/python");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let given = environment.iter().find(|(name, _)| *name == "PORT");
    let port = given.map_or_else(free_port, |(_, value)| value.parse().expect("a port"));
    let log = File::create(folder.path().join("log")).expect("a log");
    let mut command = Command::new(interpreter);
    command.arg(receivers().join(script)).envs(environment.iter().copied());
    command.env("PORT", port.to_string()).env("OUT", folder.path().join("out"));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    let mut python = Python { child: command.spawn().expect("python"), folder, port };
    let listening = poll(START, || {
        let ended = python.child.try_wait().expect("a child to look at").is_some();
        (ended || TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(!ended)
    });
    assert!(listening == Some(true), "{script} does not listen:\n{}", python.log());
    python
}

/// Runs `tests/clients/{script}` with `environment` to its end; gives the JSON lines that it printed.
pub fn python_client(script: &str, environment: &[(&str, &str)]) -> Vec<Value> {
    let mut command = Command::new(virtual_environment().join("bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
    // Whatever proxy this machine has, the daemon stands behind none.
    command.envs(environment.iter().copied()).env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
    let done = command.output().expect("python");
    let (told, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{script}: {}\n{told}\n{errors}", done.status);
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    told.lines().map(line).collect()
}

impl Python {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The events that it has verified and accepted.
    pub fn accepted(&self) -> Vec<Value> {
        let lines = std::fs::read_to_string(self.folder.path().join("out")).unwrap_or_default();
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until it has accepted `count` events.
    pub fn wait_for(&self, count: usize, within: Duration) -> Vec<Value> {
        let accepted = poll(within, || Some(self.accepted()).filter(|accepted| accepted.len() >= count));
        accepted.unwrap_or_else(|| panic!("accepted {:?} of {count}; its log:\n{}", self.accepted(), self.log()))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn receivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/receivers")
}

/// Makes the virtual environment unless it is there; several test processes take turns.
pub fn virtual_environment() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the build folder");
    let lock = File::create(target.join("venv.lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let folder = target.join("venv");
    let made = Command::new("bash").arg(receivers().join("setup.sh")).arg(&folder).output().expect("bash");
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "tests/receivers/setup.sh: {}\n{told}", made.status);
    folder
}
